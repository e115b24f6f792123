//! The status page and the local API against a client that works: who may ask what, and what they are told.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]
#![expect(clippy::disallowed_methods, reason = "tests make their own keys")]

mod support;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
#[cfg(target_os = "linux")]
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
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
    let told = |name: &str| -> Vec<f64> { hops.iter().map(|hop| hop[name].as_f64().unwrap()).collect() };
    let (answers, added, shares) = (told("answer_ms"), told("added_ms"), told("share_percent"));
    assert!(answers.iter().all(|answer| *answer > 0.0), "{hops:?}");
    for hop in 0..3 {
        // What a hop adds to the one before it, and its part of all that was added; times are in tenths.
        let before = if hop == 0 { 0.0 } else { answers[hop - 1] };
        assert!((added[hop] - (answers[hop] - before).max(0.0)).abs() < 0.16, "{hops:?}");
        let all: f64 = added.iter().sum();
        assert!((100.0 * added[hop] / all - shares[hop]).abs() <= 1.0 + 20.0 / all, "{hops:?}");
    }
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
async fn throughput_is_told_second_by_second_while_bytes_move() {
    const BYTES: u64 = 2_000_000;
    let (_net, daemon, _) = with_page().await;
    let page = daemon.page.unwrap();
    let traffic = async || json(&ask(page, "GET /api/v1/status", "").await)["traffic"].take();
    let before = traffic().await;
    let (_, tcp) = daemon.ask(ECHO, 443, b"").await;
    let (mut read, mut write) = tcp.into_split();
    let sending = tokio::spawn(async move { write.write_all(&vec![7; BYTES as usize]).await.unwrap() });
    timeout(PATIENCE, read.read_exact(&mut vec![0; BYTES as usize])).await.expect("an echo").unwrap();
    sending.await.unwrap();
    // A second that has passed is in the history, and the last one of it is the rate.
    let seen = async {
        loop {
            let now = traffic().await;
            let history: Vec<(u64, u64)> = serde_json::from_value(now["history"].clone()).unwrap();
            let last = history.last().copied().unwrap_or_default();
            let rates = ["sent_bytes_per_s", "received_bytes_per_s"].map(|name| now[name].as_u64().unwrap());
            assert_eq!((rates[0], rates[1]), last);
            let of = |pick: fn(&(u64, u64)) -> u64| history.iter().map(pick).sum::<u64>();
            if of(|second| second.0) >= BYTES && of(|second| second.1) >= BYTES {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let after = timeout(PATIENCE, seen).await.expect("the seconds in which it moved");
    for way in ["sent_bytes", "received_bytes"] {
        let moved = after[way].as_u64().unwrap() - before[way].as_u64().unwrap();
        // Whole cells, layers and padding included: more than was moved, and not twice as much.
        assert!((BYTES..2 * BYTES).contains(&moved), "{way}: {moved}");
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
    let (net, daemon, control) = with_page().await;
    assert_eq!(control.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let file = control.with_extension("toml");
    std::fs::write(&file, format!("state_dir = {:?}", control.parent().unwrap())).unwrap();
    let (socket, file) = (["--socket", control.to_str().unwrap()], ["--config", file.to_str().unwrap()]);
    let (_, _tcp) = daemon.ask(ECHO, 443, b"").await;
    assert_eq!(daemon.ask("nowhere.test", 443, b"").await.0, 4);
    let say = async |words: &[&str], whom: &[&str]| told(command(words, whom).await);
    for whom in [&socket, &file] {
        assert!(say(&["status"], whom).await.starts_with("Ready: "));
    }
    let circuits = say(&["circuits"], &socket).await;
    assert!(circuits.contains("in use") && !circuits.contains(ECHO), "{circuits}");
    let told = say(&["circuits", "--destinations"], &file).await;
    assert!(told.contains(&format!("to {ECHO}:443, on circuit")), "{told}");
    let explained = say(&["explain"], &socket).await;
    assert!(explained.contains("name not found. (relay 3 of the circuit: relay"), "{explained}");
    assert!(!explained.contains("nowhere"), "not even then: {explained}");
    let newest = |report: &str| {
        let report: Value = serde_json::from_str(report).unwrap();
        assert_eq!(report["api"], 1);
        let circuits = report["circuits"]["shown"].as_array().unwrap();
        circuits.iter().map(|circuit| circuit["id"].as_u64().unwrap()).max()
    };
    let before = newest(&say(&["circuits", "--json"], &socket).await);
    assert!(say(&["new-identity"], &file).await.contains("circuits were ended"));
    assert_eq!(daemon.ask(ECHO, 443, b"").await.0, 0);
    assert!(newest(&say(&["status", "--json"], &socket).await) > before);
    let nobody = command(&["status"], &["--socket", "/nonexistent/control.sock"]).await;
    let error = String::from_utf8(nobody.stderr).unwrap();
    assert!(
        !nobody.status.success() && nobody.stdout.is_empty() && error.contains("is it running"),
        "{error}"
    );
    // Over TCP the page does not tell, unless its owner has allowed it.
    assert_eq!(status(&ask(daemon.page.unwrap(), "GET /api/v1/streams?destinations=1", "").await), 403);
    // No browser can reach the socket; what says that it comes from one is refused.
    let unix = UnixStream::connect(&control).await.unwrap();
    let answer = exchange(unix, "GET / HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\n\r\n").await;
    assert_eq!(status(&answer), 403);
    daemon.stop().await;
    drop(net);
}

/// What came of `tunic-client` with these words.
async fn command(words: &[&str], whom: &[&str]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_tunic-client"));
    program.args(words).args(whom);
    tokio::task::spawn_blocking(move || program.output().unwrap()).await.unwrap()
}

/// What a command printed that succeeded.
fn told(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
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
        let mut curl = Command::new("curl");
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
