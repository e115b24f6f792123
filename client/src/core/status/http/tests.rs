use super::*;

const LOCAL: &str = "127.0.0.1:9152";

fn door() -> Door {
    let (local, token) = (Some(LOCAL.parse().unwrap()), Token::new([7; 32]));
    Door { local, password: None, token, destinations: false }
}

fn unix() -> Door {
    Door { local: None, ..door() }
}

fn token() -> String {
    "07".repeat(32)
}

/// A request with this first line and these headers.
fn request(line: &str, headers: &[&str], body: &str) -> Vec<u8> {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("{line} HTTP/1.1\r\n{headers}{length}\r\n{body}").into_bytes()
}

#[track_caller]
fn check(line: &str, headers: &[&str], expect: Result<Wanted, u16>) {
    let judged = judge(&request(line, &[&["Host: 127.0.0.1:9152"], headers].concat(), ""), &door());
    assert_eq!(judged.map(|asked| asked.unwrap().wanted).map_err(|refused| refused.status), expect);
}

#[test]
fn every_path_is_known() {
    check("GET /", &[], Ok(Wanted::Page));
    check("GET /live", &[], Ok(Wanted::Live));
    check("GET /style.css", &[], Ok(Wanted::Style));
    check("GET /page.js", &[], Ok(Wanted::Script));
    check("GET /icon.svg", &[], Ok(Wanted::Icon));
    check("GET /api/v1/status", &[], Ok(Wanted::Status { destinations: false }));
    check("GET /api/v1/circuits", &[], Ok(Wanted::Circuits));
    check("GET /api/v1/streams?other=1", &[], Ok(Wanted::Streams { destinations: false }));
    check("GET /api/v1/explain", &[], Ok(Wanted::Explain));
    check("GET /api/v2/status", &[], Err(404));
    check("GET /../etc/passwd", &[], Err(404));
    check("POST /", &[], Err(405));
    check("OPTIONS /api/v1/status", &[], Err(405));
    check("GET /api/v1/new-identity", &[], Err(405));
}

#[test]
fn a_name_that_was_pointed_here_is_refused() {
    for (host, expect) in [
        ("127.0.0.1:9152", None),
        ("localhost:9152", None),
        ("[::1]:9152", None),
        ("evil.example:9152", Some(421)),
        ("evil.example", Some(421)),
        ("127.0.0.1", Some(421)),
        ("127.0.0.1:9153", Some(421)),
        ("127.0.0.1.evil.example:9152", Some(421)),
        ("", Some(421)),
    ] {
        let judged = judge(&request("GET /", &[&format!("Host: {host}")], ""), &door());
        assert_eq!(judged.err().map(|refused| refused.status), expect, "{host}");
    }
    assert_eq!(judge(&request("GET /", &[], ""), &door()).unwrap_err().status, 421, "no Host at all");
    let twice = ["Host: 127.0.0.1:9152", "Host: evil.example"];
    assert_eq!(judge(&request("GET /", &twice, ""), &door()).unwrap_err().status, 400);
}

#[test]
fn pages_of_other_sites_are_refused() {
    for header in [
        "Origin: http://evil.example",
        "Origin: null",
        "Origin: https://127.0.0.1:9152",
        "Origin: http://127.0.0.1:9150",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
    ] {
        check("GET /api/v1/status", &[header], Err(403));
        check("GET /", &[header], Err(403));
    }
    check("GET /live", &["Origin: http://127.0.0.1:9152", "Sec-Fetch-Site: same-origin"], Ok(Wanted::Live));
    check("GET /", &["Sec-Fetch-Site: none"], Ok(Wanted::Page));
}

#[test]
fn actions_need_the_token() {
    let right = format!("Tunic-Token: {}", token());
    check("POST /api/v1/new-identity", &[&right], Ok(Wanted::NewIdentity));
    check("POST /api/v1/new-identity", &[], Err(403));
    check("POST /api/v1/new-identity", &["Tunic-Token: "], Err(403));
    check("POST /api/v1/new-identity", &[&right[..right.len() - 1]], Err(403));
    check(&format!("POST /api/v1/new-identity?token={}", token()), &[], Err(403));
    for site in ["cross-site", "same-site", "none"] {
        check("POST /api/v1/new-identity", &[&right, &format!("Sec-Fetch-Site: {site}")], Err(403));
    }
}

#[test]
fn the_form_has_the_token_in_its_body() {
    let judged = |body: &str| judge(&request("POST /new-identity", &["Host: localhost:9152"], body), &door());
    let body = format!("token={}", token());
    assert_eq!(judged(&body).unwrap().unwrap().wanted, Wanted::NewIdentityForm);
    assert_eq!(judged("token=").unwrap_err().status, 403);
    assert_eq!(judged(&format!("{body}&x=1")).unwrap_err().status, 403);
    let header = format!("Tunic-Token: {}", token());
    let in_header = request("POST /new-identity", &["Host: localhost:9152", &header], "");
    assert_eq!(judge(&in_header, &door()).unwrap_err().status, 403);
}

#[test]
fn the_unix_socket_is_its_owners() {
    let judged = |line: &str, headers: &[&str]| judge(&request(line, headers, ""), &unix());
    assert_eq!(
        judged("POST /api/v1/new-identity", &["Host: tunic"]).unwrap().unwrap().wanted,
        Wanted::NewIdentity
    );
    let asked = judged("GET /api/v1/streams?destinations=1", &[]).unwrap().unwrap();
    assert_eq!(asked.wanted, Wanted::Streams { destinations: true });
    assert_eq!(judged("GET /", &["Host: tunic", "Origin: http://tunic"]).unwrap_err().status, 403);
}

#[test]
fn a_port_with_a_password_tells_nothing_without_it() {
    let door = Door { password: Some(b"secret".to_vec()), ..door() };
    let judged = |line: &str, headers: &[&str]| {
        let judged = judge(&request(line, &[&["Host: 127.0.0.1:9152"], headers].concat(), ""), &door);
        judged.map(|asked| asked.unwrap().wanted).map_err(|refused| refused.status)
    };
    // `any:wrong`, `any:`, `any:secret` in another scheme, `secret`, and nothing.
    let wrong =
        ["Basic YW55Ondyb25n", "Basic YW55Og==", "Bearer YW55OnNlY3JldA==", "Basic c2VjcmV0", "Basic"];
    let right = "Authorization: Basic YW55OnNlY3JldA==";
    let token = format!("Tunic-Token: {}", token());
    for line in [
        "GET /",
        "GET /live",
        "GET /style.css",
        "GET /api/v1/status",
        "GET /none",
        "POST /api/v1/new-identity",
    ] {
        assert_eq!(judged(line, &[&token]), Err(401), "{line}");
        for wrong in wrong {
            assert_eq!(
                judged(line, &[&token, &format!("Authorization: {wrong}")]),
                Err(401),
                "{line}: {wrong}"
            );
        }
    }
    assert_eq!(judged("GET /", &[right]), Ok(Wanted::Page));
    assert_eq!(judged("POST /api/v1/new-identity", &[right]), Err(403), "it does not replace the token");
    assert_eq!(judged("POST /api/v1/new-identity", &[right, &token]), Ok(Wanted::NewIdentity));
    // A page of another site is refused without a question: a browser would show that to the person.
    assert_eq!(judged("GET /", &["Origin: http://evil.example"]), Err(403));
    assert_eq!(judge(&request("GET /", &["Host: evil.example"], ""), &door).unwrap_err().status, 421);
    let unix = Door { local: None, ..door };
    assert_eq!(judge(&request("GET /", &[], ""), &unix).unwrap().unwrap().wanted, Wanted::Page);
    let answer = String::from_utf8(Refused { status: 401, why: "" }.answer()).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 401 ") && answer.contains("\r\nWWW-Authenticate: Basic "),
        "{answer}"
    );
}

#[test]
fn destinations_are_told_on_a_port_only_where_that_is_allowed() {
    check("GET /api/v1/streams?destinations=1", &[], Err(403));
    check("GET /api/v1/status?a=b&destinations=1", &[], Err(403));
    let door = Door { destinations: true, ..door() };
    let asked = judge(&request("GET /api/v1/status?destinations=1", &["Host: localhost:9152"], ""), &door);
    assert_eq!(asked.unwrap().unwrap().wanted, Wanted::Status { destinations: true });
}

#[test]
fn requests_are_bounded_and_may_come_in_pieces() {
    let body = format!("token={}", token());
    let whole = request("POST /new-identity", &["Host: localhost:9152"], &body);
    for length in 0..whole.len() {
        assert_eq!(judge(&whole[..length], &door()), Ok(None), "{length} bytes");
    }
    assert!(judge(&whole, &door()).unwrap().is_some());
    let long = format!("X: {}", "x".repeat(MAX_HEAD));
    let status = |bytes: &[u8]| judge(bytes, &door()).unwrap_err().status;
    assert_eq!(status(&request("GET /", &[&long], "")), 431);
    assert_eq!(status(&[b'x'; MAX_HEAD + 1]), 431);
    assert_eq!(
        status(&request("POST /new-identity", &["Host: localhost:9152"], &"x".repeat(MAX_BODY + 1))),
        413
    );
    let huge = "Content-Length: 99999999999999999999";
    assert_eq!(status(&request("POST /new-identity", &["Host: localhost:9152", huge], "")), 400);
    let chunked = ["Host: localhost:9152", "Transfer-Encoding: chunked"];
    assert_eq!(status(&request("POST /new-identity", &chunked, "")), 411);
    assert_eq!(status(b"\x16\x03\x01\x02\0\r\n\r\n"), 400);
    let many = "X: y\r\n".repeat(MAX_HEADERS + 1);
    assert_eq!(status(format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes()), 400);
}

#[test]
fn answers_are_safe_to_show() {
    let text = String::from_utf8(answer(Media::Html, "<p>", true)).unwrap();
    for header in [
        "default-src 'none'",
        "frame-ancestors 'none'",
        "nosniff",
        "no-store",
        "Referrer-Policy: same-origin",
    ] {
        assert!(text.contains(header), "{text}");
    }
    assert!(!text.contains("unsafe-inline") && !text.to_lowercase().contains("access-control"));
    assert!(text.ends_with("\r\n\r\n<p>") && text.contains("Content-Length: 3\r\n"));
    assert!(String::from_utf8(answer(Media::Html, "<p>", false)).unwrap().ends_with("\r\n\r\n"));
    let refused = Refused { status: 403, why: "Only `so`." }.answer();
    let body = refused.split(|byte| *byte == b'\n').next_back();
    assert_eq!(body, Some(&b""[..]));
    let text = String::from_utf8(refused).unwrap();
    let json: serde_json::Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(json["error"], "Only `so`.");
    assert!(!format!("{:?}", door().token).contains("0707"));
}
