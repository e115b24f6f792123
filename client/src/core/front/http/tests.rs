use super::*;

fn server(password: Option<&str>) -> Server {
    Server::new(password.map(|text| text.into()), Some("127.0.0.1:9150".parse().unwrap()))
}

fn feed(mut server: Server, text: &str, size: usize) -> (Event, String) {
    let mut event = None;
    for piece in text.as_bytes().chunks(size) {
        server.handle_input(piece);
        event = event.or(server.poll_event());
    }
    (event.expect("an event"), String::from_utf8(server.into_early_data()).unwrap())
}

fn feed_whole(text: &str) -> (Event, String) {
    feed(server(None), text, text.len())
}

#[track_caller]
fn check_tunnel(text: &str, target: Target) {
    let text = text.replace('\n', "\r\n") + "early";
    let (event, early) = feed_whole(&text);
    let Event::Request(request) = event else { panic!("{event:?}") };
    assert_eq!((request.command, request.dialect), (Command::Connect(target), Dialect::HttpConnect));
    assert_eq!(early, "early");
}

#[track_caller]
fn check_status(text: &str, status: u16) {
    let text = text.replace('\n', "\r\n");
    for size in [1, text.len()] {
        let (event, _) = feed(server(None), &text, size);
        let Event::Close { answer, .. } = event else { panic!("{event:?}") };
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("\r\n\r\n"), "{answer}");
    }
}

fn name(name: &str, port: u16) -> Target {
    Target::Name(name.into(), port)
}

#[test]
fn tunnels_are_understood() {
    check_tunnel("CONNECT example.com:443 HTTP/1.1\nHost: example.com:443\n\n", name("example.com", 443));
    check_tunnel("CONNECT example.com:22 HTTP/1.0\n\n", name("example.com", 22));
    check_tunnel("CONNECT example.com:443 HTTP/1.1\nHost: EXAMPLE.com\n\n", name("example.com", 443));
    let v6 = Target::Addr("[2001:db8::7]:443".parse().unwrap());
    check_tunnel("CONNECT [2001:db8::7]:443 HTTP/1.1\nHost: [2001:db8::7]:443\n\n", v6);
}

#[test]
fn a_request_is_rewritten_for_its_target_and_ends_with_its_body() {
    let text = "POST http://example.com:8080/a?b=c HTTP/1.1\r\nHost: example.com:8080\r\nUser-Agent: x\r\n\
        Proxy-Authorization: Basic YWxpY2U6cHc=\r\nProxy-Connection: keep-alive\r\nConnection: X-Secret, close\r\n\
        X-Secret: 1\r\nContent-Length: 4\r\n\r\nbodyGET http://other.example/ HTTP/1.1\r\n\r\n";
    for size in [1, 7, text.len()] {
        // What follows the head may still be on its way.
        let (event, early) = feed(server(None), text, size);
        let Event::Request(request) = event else { panic!("{event:?}") };
        assert_eq!(request.command, Command::Connect(name("example.com", 8080)));
        let credentials = Credentials { user: b"alice".to_vec(), password: b"pw".to_vec() };
        assert_eq!(request.credentials, Some(credentials));
        if size == text.len() {
            assert_eq!(request.dialect, Dialect::HttpForward { body: Body::Length(0) });
            assert_eq!(
                early,
                "POST /a?b=c HTTP/1.1\r\nHost: example.com:8080\r\nUser-Agent: x\r\nContent-Length: 4\r\n\
                 Connection: close\r\n\r\nbody"
            );
        }
    }
    let (_, early) = feed_whole("GET http://example.com HTTP/1.0\r\n\r\n");
    assert_eq!(early, "GET / HTTP/1.0\r\nHost: example.com\r\nConnection: close\r\n\r\n");
    let (event, _) = feed_whole("PUT http://a.example/ HTTP/1.1\r\nContent-Length: 10\r\n\r\n123");
    let Event::Request(Request { dialect: Dialect::HttpForward { body: Body::Length(7) }, .. }) = event
    else {
        panic!("{event:?}")
    };
}

#[test]
fn a_body_of_unknown_length_goes_up_to_its_last_chunk() {
    let text =
        "POST http://a.example/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nGET /next";
    let (event, early) = feed_whole(text);
    let Event::Request(Request { dialect: Dialect::HttpForward { body }, .. }) = event else {
        panic!("{event:?}")
    };
    assert!(body.is_complete());
    assert!(
        early.ends_with("Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
        "{early}"
    );
}

#[test]
fn what_does_not_fit_together_is_refused() {
    check_status("CONNECT example.com:443 HTTP/1.1\nHost: other.example\n\n", 400);
    check_status("GET http://example.com/ HTTP/1.1\nHost: other.example\n\n", 400);
    check_status("GET http://example.com/ HTTP/1.1\nHost: a\nHost: b\n\n", 400);
    check_status("CONNECT example.com HTTP/1.1\n\n", 400);
    check_status("CONNECT example.com:0 HTTP/1.1\n\n", 400);
    check_status("CONNECT 2001:db8::7:443 HTTP/1.1\n\n", 400);
    check_status("CONNECT user@example.com:443 HTTP/1.1\n\n", 400);
    check_status("GET http://user@example.com/ HTTP/1.1\n\n", 400);
    check_status("GET https://example.com/ HTTP/1.1\n\n", 400);
    check_status("GET ftp://example.com/ HTTP/1.1\n\n", 400);
    check_status("OPTIONS * HTTP/1.1\n\n", 400);
    check_status("GARBAGE\n\n", 400);
    check_status("POST http://a.example/ HTTP/1.0\nTransfer-Encoding: chunked\n\n", 400);
    check_status("POST http://a.example/ HTTP/1.1\nTransfer-Encoding: gzip, chunked\n\n", 400);
    check_status("POST http://a.example/ HTTP/1.1\nTransfer-Encoding: chunked\nContent-Length: 1\n\n", 400);
    check_status(
        "POST http://a.example/ HTTP/1.1\nTransfer-Encoding: a\nTransfer-Encoding: chunked\n\n",
        400,
    );
    check_status("POST http://a.example/ HTTP/1.1\nContent-Length: 1\nContent-Length: 1\n\n", 400);
    check_status("POST http://a.example/ HTTP/1.1\nContent-Length: +1\n\n", 400);
    check_status("CONNECT example.com:443 HTTP/1.1\nProxy-Authorization: Digest x\n\n", 407);
}

#[test]
fn a_person_gets_a_page_and_a_browser_its_configuration() {
    for host in ["127.0.0.1:9150", "localhost:9150", "[::1]:9150"] {
        check_status(&format!("GET / HTTP/1.1\nHost: {host}\n\n"), 200);
        check_status(&format!("GET / HTTP/1.1\nHost: {host}\nOrigin: http://{host}\n\n"), 200);
    }
    let (event, _) = feed_whole("GET /proxy.pac HTTP/1.1\r\nHost: localhost:9150\r\n\r\n");
    let Event::Close { answer, error: None } = event else { panic!("{event:?}") };
    assert!(String::from_utf8(answer).unwrap().ends_with("return \"PROXY localhost:9150\";\n}\n"));
    check_status("GET /other HTTP/1.1\nHost: localhost:9150\n\n", 404);
    check_status("POST / HTTP/1.1\nHost: localhost:9150\n\n", 405);
}

#[test]
fn pages_of_other_sites_get_nothing() {
    check_status("GET / HTTP/1.1\nHost: evil.example:9150\n\n", 421);
    check_status("GET / HTTP/1.1\nHost: 127.0.0.1:80\n\n", 421);
    check_status("GET / HTTP/1.1\n\n", 421);
    check_status("GET /proxy.pac HTTP/1.1\nHost: 127.0.0.1:9150\nOrigin: https://evil.example\n\n", 403);
    check_status("GET / HTTP/1.1\nHost: 127.0.0.1:9150\nOrigin: null\n\n", 403);
    check_status("GET / HTTP/1.1\nHost: 127.0.0.1:9150\nSec-Fetch-Site: cross-site\n\n", 403);
    check_status("POST / HTTP/1.1\nHost: 127.0.0.1:9150\nOrigin: https://evil.example\n\n", 403);
    for header in
        ["Origin: https://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: none"]
    {
        check_status(&format!("CONNECT a.example:443 HTTP/1.1\n{header}\n\n"), 403);
    }
}

/// What follows a request that was refused is its body, whatever it looks like.
#[test]
fn a_page_cannot_hide_a_proxy_request_in_the_body_of_another() {
    let text = "POST / HTTP/1.1\r\nHost: 127.0.0.1:9150\r\nOrigin: https://evil.example\r\n\r\n\
        CONNECT a.example:443 HTTP/1.1\r\n\r\n";
    let mut server = server(None);
    server.handle_input(text.as_bytes());
    assert!(matches!(server.poll_event(), Some(Event::Close { error: Some(FrontError::Foreign), .. })));
    assert_eq!(server.poll_event(), None);
}

/// A browser that uses the port as its proxy sends along from which site a page asks another one (Fetch, "`Origin` header").
#[test]
fn pages_of_a_browser_that_uses_the_proxy_may_ask_other_sites() {
    let headers = "Host: a.example\r\nOrigin: http://b.example\r\nSec-Fetch-Site: cross-site\r\n";
    for method in ["GET", "POST", "OPTIONS"] {
        let (event, early) = feed_whole(&format!("{method} http://a.example/ HTTP/1.1\r\n{headers}\r\n"));
        let Event::Request(request) = event else { panic!("{event:?}") };
        assert_eq!(request.command, Command::Connect(name("a.example", 80)));
        assert_eq!(early, format!("{method} / HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"));
    }
}

#[test]
fn a_required_password_is_required() {
    let ask = |header: &str| {
        let text = format!("CONNECT a.example:443 HTTP/1.1\r\n{header}\r\n");
        feed(server(Some("secret")), &text, text.len()).0
    };
    for wrong in ["", "Proxy-Authorization: Basic YWxpY2U6cHc=\r\n", "Proxy-Authorization: Basic !\r\n"] {
        assert!(matches!(ask(wrong), Event::Close { error: Some(FrontError::Password), .. }), "{wrong}");
    }
    let right = format!("Proxy-Authorization: basic {}\r\n", STANDARD.encode("any:secret"));
    assert!(matches!(ask(&right), Event::Request(_)));
}

#[test]
fn a_head_without_end_is_given_up() {
    let mut server = server(None);
    server.handle_input(b"GET / HTTP/1.1\r\nCookie: ");
    for _ in 0..100 {
        server.handle_input(&[b'x'; 1_000]);
    }
    assert!(server.buffer.len() <= MAX_BUFFERED + 1);
    assert!(matches!(server.poll_event(), Some(Event::Close { error: Some(FrontError::TooLong), .. })));
    assert_eq!(server.poll_event(), None);
}
