//! The status page and the local API against a client that works: who may ask what, and what they are told.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]
#![expect(clippy::disallowed_methods, reason = "tests make their own keys")]

mod support;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
#[cfg(target_os = "linux")]
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use support::{Daemon, ECHO, PATIENCE, TestNet};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;
use tunic_client::Config;
use tunic_client::config::{Listen, Password};
use tunic_client::ctl::{self, Question};

/// A network and a client with a page.
async fn with_page() -> (TestNet, Daemon, PathBuf) {
    let net = TestNet::start(5).await;
    let config = Config { status: Listen::At(([127, 0, 0, 1], 0).into()), ..net.config("a") };
    let control = config.state_dir.as_ref().unwrap().join("control.sock");
    (net, Daemon::start(config).await, control)
}

async fn exchange(mut connection: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, connection.read_to_string(&mut answer)).await.expect("an end").unwrap();
    answer
}

/// One request at the page's port with these headers besides its own `Host`.
async fn ask(page: SocketAddr, line: &str, headers: &str) -> String {
    ask_as(page, line, &format!("Host: {page}\r\n{headers}")).await
}

async fn ask_as(page: SocketAddr, line: &str, headers: &str) -> String {
    exchange(TcpStream::connect(page).await.unwrap(), &format!("{line} HTTP/1.1\r\n{headers}\r\n")).await
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn json(answer: &str) -> Value {
    assert_eq!(status(answer), 200, "{answer}");
    assert!(answer.contains("Content-Type: application/json\r\n"), "{answer}");
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// The token that the page carries in its form.
fn token(page: &str) -> &str {
    page.split("name=\"token\" value=\"").nth(1).unwrap().split('"').next().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_and_the_report_tell_what_is_going_on() {
    let (_net, daemon, _) = with_page().await;
    let page = daemon.page.unwrap();
    let (code, mut tcp) = daemon.ask(ECHO, 443, b"0123456789").await;
    assert_eq!(code, 0);
    tcp.read_exact(&mut [0; 10]).await.unwrap();
    let report = json(&ask(page, "GET /api/v1/status", "").await);
    assert_eq!((report["api"].as_u64(), report["bootstrap"]["percent"].as_u64()), (Some(1), Some(100)));
    assert_eq!(
        (report["network"]["list"].as_str(), report["network"]["relays"].as_u64()),
        (Some("valid"), Some(5))
    );
    assert!(report["traffic"]["sent_bytes"].as_u64().unwrap() > 512, "{report}");
    let stream = &report["streams"]["shown"][0];
    assert_eq!((stream["sent_bytes"].as_u64(), stream["received_bytes"].as_u64()), (Some(10), Some(10)));
    assert_eq!(stream["destination"], Value::Null);
    let circuits = report["circuits"]["shown"].as_array().unwrap();
    let used = circuits.iter().find(|circuit| circuit["id"] == stream["circuit"]).expect("its circuit");
    assert_eq!((used["state"].as_str(), used["streams"].as_u64()), (Some("in-use"), Some(1)));
    let hops = used["hops"].as_array().unwrap();
    assert_eq!(hops.len(), 3);
    assert!(hops.iter().all(|hop| hop["relay"].as_str().unwrap().starts_with("relay")));
    assert!(hops.iter().all(|hop| hop["answer_ms"].as_f64().unwrap() > 0.0));
    assert_eq!(report["findings"], Value::Array(Vec::new()));
    let ports: Vec<&str> =
        report["ports"].as_array().unwrap().iter().map(|port| port["name"].as_str().unwrap()).collect();
    assert_eq!(ports, ["applications", "status", "control"]);

    let html = ask(page, "GET /", "").await;
    for part in ["Connected", "in use", hops[2]["relay"].as_str().unwrap(), "/page.js"] {
        assert!(html.contains(part), "{part}: {html}");
    }
    assert!(!html.contains(ECHO), "it does not tell where streams lead");
    for (path, kind) in [
        ("/style.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/icon.svg", "image/svg+xml"),
        ("/live", "text/html"),
    ] {
        let answer = ask(page, &format!("GET {path}"), "").await;
        assert!(status(&answer) == 200 && answer.contains(&format!("Content-Type: {kind}")), "{answer}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_site_gets_nothing() {
    let (_net, daemon, _) = with_page().await;
    let page = daemon.page.unwrap();
    let port = page.port();
    let html = ask(page, "GET /", "").await;
    let token = format!("Tunic-Token: {}\r\n", token(&html));
    let act = "POST /api/v1/new-identity";
    // A name that was pointed here (DNS rebinding), also with the token.
    for host in [
        format!("evil.example:{port}"),
        "127.0.0.1".into(),
        format!("127.0.0.1:{}", port ^ 1),
        "a@127.0.0.1".into(),
    ] {
        for line in ["GET /", "GET /api/v1/status", act] {
            assert_eq!(status(&ask_as(page, line, &format!("Host: {host}\r\n{token}")).await), 421, "{host}");
        }
    }
    // A request that a browser sends for somebody else.
    for header in ["Origin: http://evil.example\r\n", "Origin: null\r\n", "Sec-Fetch-Site: cross-site\r\n"] {
        for line in ["GET /", "GET /api/v1/status", act] {
            let answer = ask(page, line, &format!("{header}{token}")).await;
            assert_eq!(status(&answer), 403, "{header}");
            assert!(!answer.to_lowercase().contains("access-control"), "no CORS: {answer}");
        }
    }
    // Its preflight, and an action without the token.
    assert_eq!(
        status(&ask(page, "OPTIONS /api/v1/new-identity", "Access-Control-Request-Method: POST\r\n").await),
        405
    );
    assert_eq!(status(&ask(page, act, "").await), 403);
    assert_eq!(
        status(&ask(page, &format!("{act}?{}", token.trim().replace("Tunic-Token: ", "token=")), "").await),
        403
    );
    assert!(json(&ask(page, act, &token).await)["ended_circuits"].as_u64().unwrap() > 0);
    for header in
        ["default-src 'none'", "frame-ancestors 'none'", "X-Frame-Options: DENY", "nosniff", "no-store"]
    {
        assert!(html.contains(header), "{header}: {html}");
    }
    assert!(!html.split("\r\n\r\n").next().unwrap().contains("unsafe"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_form_of_the_page_begins_a_new_identity() {
    let (_net, daemon, _) = with_page().await;
    let page = daemon.page.unwrap();
    let (_, mut tcp) = daemon.ask(ECHO, 443, b"").await;
    let before = json(&ask(page, "GET /api/v1/streams", "").await)["streams"]["shown"][0]["circuit"].clone();
    let html = ask(page, "GET /", "").await;
    let body = format!("token={}", token(&html));
    let headers = format!(
        "Origin: http://{page}\r\nSec-Fetch-Site: same-origin\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = ask_as(page, "POST /new-identity", &format!("Host: {page}\r\n{headers}")).await;
    assert!(status(&answer) == 303 && answer.contains("\r\nLocation: /\r\n"), "{answer}");
    let end = timeout(PATIENCE, tcp.read(&mut [0])).await.expect("the stream ends");
    assert!(matches!(end, Ok(0) | Err(_)));
    let (code, _tcp) = daemon.ask(ECHO, 443, b"").await;
    assert_eq!(code, 0);
    let after = json(&ask(page, "GET /api/v1/streams", "").await)["streams"]["shown"][0]["circuit"].clone();
    assert!(after.as_u64() > before.as_u64(), "{before} and {after}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_with_a_password_shows_itself_and_its_token_to_those_who_have_it() {
    let net = TestNet::start(4).await;
    let (status_at, status_password) =
        (Listen::At(([127, 0, 0, 1], 0).into()), Some(Password("secret".into())));
    let config = Config { status: status_at, status_password, ..net.config("a") };
    let control = config.state_dir.as_ref().unwrap().join("control.sock");
    let daemon = Daemon::start(config).await;
    let page = daemon.page.unwrap();
    for line in ["GET /", "GET /live", "GET /api/v1/status", "POST /api/v1/new-identity"] {
        for wrong in ["", "Authorization: Basic YW55Ondyb25n\r\n"] {
            let answer = ask(page, line, wrong).await;
            assert_eq!(status(&answer), 401, "{answer}");
            assert!(!answer.contains("relay") && !answer.contains("token"), "{answer}");
        }
    }
    let right = "Authorization: Basic YW55OnNlY3JldA==\r\n";
    let html = ask(page, "GET /", right).await;
    let token = format!("Tunic-Token: {}\r\n{right}", token(&html));
    assert!(json(&ask(page, "POST /api/v1/new-identity", &token).await)["ended_circuits"].is_u64());
    // The owner's socket asks for none.
    let told = tokio::task::spawn_blocking(move || ctl::ask(&control, Question::Status, false).unwrap());
    assert!(!told.await.unwrap().is_empty());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_asks_over_a_socket_that_is_its_owners() {
    let (_net, daemon, control) = with_page().await;
    assert_eq!(control.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let (_, _tcp) = daemon.ask(ECHO, 443, b"").await;
    assert_eq!(daemon.ask("nowhere.test", 443, b"").await.0, 4);
    let ask = async |question: Question, json: bool| {
        let control = control.clone();
        tokio::task::spawn_blocking(move || ctl::ask(&control, question, json).unwrap()).await.unwrap()
    };
    assert!(ask(Question::Status, false).await.starts_with("Ready: "));
    let circuits = ask(Question::Circuits { destinations: false }, false).await;
    assert!(circuits.contains("in use") && !circuits.contains(ECHO), "{circuits}");
    let told = ask(Question::Circuits { destinations: true }, false).await;
    assert!(told.contains(&format!("to {ECHO}:443, on circuit")), "{told}");
    let explained = ask(Question::Explain, false).await;
    assert!(explained.contains("name not found. (relay 3 of the circuit: relay"), "{explained}");
    assert!(!explained.contains("nowhere"), "not even then: {explained}");
    assert!(ask(Question::NewIdentity, false).await.contains("circuits were ended"));
    let report: Value = serde_json::from_str(&ask(Question::Status, true).await).unwrap();
    assert_eq!(report["api"], 1);
    // Over TCP the page does not tell, unless its owner has allowed it.
    assert_eq!(status(&self::ask(daemon.page.unwrap(), "GET /api/v1/streams?destinations=1", "").await), 403);
    // No browser can reach the socket; what says that it comes from one is refused.
    let unix = UnixStream::connect(&control).await.unwrap();
    let answer = exchange(unix, "GET / HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\n\r\n").await;
    assert_eq!(status(&answer), 403);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg(target_os = "linux")]
async fn other_users_of_this_machine_learn_nothing() {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root, to be somebody else");
        return;
    }
    let (_net, daemon, _) = with_page().await;
    let url = format!("http://{}/", daemon.page.unwrap());
    let fetch = async |user: u32| {
        let mut curl = std::process::Command::new("curl");
        curl.args(["--silent", "--include", "--noproxy", "*", &url]).uid(user).current_dir("/");
        let done =
            tokio::task::spawn_blocking(move || curl.output().expect("curl is installed")).await.unwrap();
        String::from_utf8(done.stdout).unwrap()
    };
    let refused = fetch(NOBODY).await;
    assert!(status(&refused) == 403 && refused.contains("another user"), "{refused}");
    assert!(!refused.contains("token"), "{refused}");
    assert_eq!(status(&fetch(0).await), 200, "its own user");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_taken_is_told_and_keeps_nothing_else_from_working() {
    let net = TestNet::start(4).await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = Config { status: Listen::At(taken.local_addr().unwrap()), ..net.config("a") };
    let control = config.state_dir.as_ref().unwrap().join("control.sock");
    let daemon = Daemon::start(config).await;
    assert_eq!(daemon.page, None);
    let explained =
        tokio::task::spawn_blocking(move || ctl::ask(&control, Question::Explain, false).unwrap());
    let explained = explained.await.unwrap();
    assert!(explained.contains("The port for this page (127.0.0.1:"), "{explained}");
    assert_eq!(daemon.ask(ECHO, 443, b"").await.0, 0);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_many_connections_are_bounded_and_the_page_comes_back() {
    let (_net, daemon, _) = with_page().await;
    let page = daemon.page.unwrap();
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut tcp = TcpStream::connect(page).await.unwrap();
        tcp.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
        slow.push(tcp);
    }
    let mut closed_at_once = 0;
    let mut told = 0;
    for mut tcp in slow {
        let mut answer = Vec::new();
        // A connection that was closed with unread bytes is reset.
        let _ = timeout(Duration::from_secs(20), tcp.read_to_end(&mut answer))
            .await
            .expect("an end in bounded time");
        match answer.is_empty() {
            true => closed_at_once += 1,
            false => told += i32::from(answer.starts_with(b"HTTP/1.1 408 ")),
        }
    }
    assert_eq!((closed_at_once, told), (36, 64));
    assert_eq!(status(&ask(page, "GET /", "").await), 200);
    daemon.stop().await;
}
