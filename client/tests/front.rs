//! The port for applications against real nodes on loopback: every dialect, and what misuses it.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]
#![expect(clippy::disallowed_methods, reason = "tests make their own keys")]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use support::{Daemon, ECHO, PATIENCE, TestNet};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixStream};
use tokio::time::timeout;
use tunic_client::Client;
use tunic_net::daemon::RunOptions;

/// Sends this, half-closes where it says so, and gives what comes back until the end.
async fn ask(daemon: &Daemon, request: &[u8], half_close: bool) -> String {
    let mut tcp = TcpStream::connect(daemon.socks).await.unwrap();
    tcp.write_all(request).await.unwrap();
    if half_close {
        tcp.shutdown().await.unwrap();
    }
    let mut answer = Vec::new();
    timeout(PATIENCE, tcp.read_to_end(&mut answer)).await.expect("an end").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_dialect_reaches_the_target_half_close_included() {
    let net = TestNet::start(4).await;
    let daemon = Daemon::start(net.config("a")).await;
    let connect = format!("CONNECT {ECHO}:443 HTTP/1.1\r\nHost: {ECHO}:443\r\n\r\nearly");
    let answer = ask(&daemon, connect.as_bytes(), true).await;
    assert_eq!(answer, "HTTP/1.1 200 Connection established\r\n\r\nearly");

    let socks4a = [&[4, 1, 1, 0xbb, 0, 0, 0, 1][..], b"me\0", ECHO.as_bytes(), b"\0early"].concat();
    assert_eq!(ask(&daemon, &socks4a, true).await, "\0Z\0\0\0\0\0\0early");

    let get = format!("POST http://{ECHO}:443/path HTTP/1.1\r\nContent-Length: 4\r\n\r\nbodyGET /next");
    let mut tcp = TcpStream::connect(daemon.socks).await.unwrap();
    tcp.write_all(get.as_bytes()).await.unwrap();
    let expect = format!(
        "POST /path HTTP/1.1\r\nHost: {ECHO}:443\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
    );
    let mut echoed = vec![0; expect.len()];
    timeout(PATIENCE, tcp.read_exact(&mut echoed)).await.expect("an answer").unwrap();
    assert_eq!(String::from_utf8(echoed).unwrap(), expect);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_told_in_every_dialect() {
    let net = TestNet::start(4).await;
    let daemon = Daemon::start(net.config("a")).await;
    let answer = ask(&daemon, b"CONNECT nowhere.test:443 HTTP/1.1\r\n\r\n", false).await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("name not found"), "{answer}");
    let answer = ask(&daemon, b"CONNECT nowhere.test:25 HTTP/1.1\r\n\r\n", false).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("port 25"), "{answer}");
    let answer = ask(&daemon, b"\x04\x01\x01\xbb\0\0\0\x01\0nowhere.test\0", false).await;
    assert_eq!(answer, "\0[\0\0\0\0\0\0");
    let answer = ask(&daemon, b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", false).await;
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
    let answer =
        ask(&daemon, format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", daemon.socks).as_bytes(), false).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("Tunic"), "{answer}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaks_are_refused_where_that_is_wanted() {
    let net = TestNet::start(4).await;
    let mut config = net.config("a");
    config.safe_socks = tunic_client::core::front::leaks::Reaction::Refuse;
    config.on_leaky_port = config.safe_socks;
    config.leaky_ports = vec![4_430];
    let daemon = Daemon::start(config).await;
    let answer = ask(&daemon, b"\x05\x01\x00\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb", false).await;
    assert_eq!(answer.as_bytes()[2..4], [5, 2]);
    assert_eq!(ask(&daemon, b"\x04\x01\x01\xbb\xc0\x00\x02\x01\0", false).await.as_bytes()[1], b'[');
    let connect = |port: u16| format!("CONNECT {ECHO}:{port} HTTP/1.1\r\n\r\nx");
    let answer = ask(&daemon, connect(4_430).as_bytes(), true).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("leaky_ports"), "{answer}");
    // Port 23 is in the list of the defaults, which this one replaces.
    for port in [443, 23] {
        let answer = ask(&daemon, connect(port).as_bytes(), true).await;
        assert!(answer.ends_with("\r\n\r\nx"), "{port}: {answer}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_unix_socket_is_for_its_owner_and_works() {
    let net = TestNet::start(4).await;
    let mut config = net.config("a");
    let path = config.state_dir.as_ref().unwrap().with_extension("sock");
    // Left behind by a client that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    config.unix_socket = Some(path.clone());
    let daemon = Daemon::start(config).await;
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let mut unix = UnixStream::connect(&path).await.unwrap();
    unix.write_all(format!("CONNECT {ECHO}:443 HTTP/1.1\r\n\r\necho").as_bytes()).await.unwrap();
    unix.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, unix.read_to_string(&mut answer)).await.expect("an end").unwrap();
    assert!(answer.ends_with("\r\n\r\necho"), "{answer}");
    // It has no address beside which datagrams could arrive (RFC 1928 §6: command not supported).
    let mut unix = UnixStream::connect(&path).await.unwrap();
    unix.write_all(b"\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00").await.unwrap();
    let mut refused = Vec::new();
    timeout(PATIENCE, unix.read_to_end(&mut refused)).await.expect("an end").unwrap();
    assert_eq!(refused, [5, 0, 5, 7, 0, 1, 0, 0, 0, 0, 0, 0]);
    daemon.stop().await;
}

/// A query for a name and a type, and what must come back: the code, and the end of the answer.
const QUERIES: [(&[u8], u8, u8, &[u8]); 5] = [
    (b"\x04echo\x04test\0", 1, 0, b"\0\x01\0\x01\0\0\x01\x2c\0\x04\xc0\0\x02\x07"),
    (b"\x04echo\x04test\0", 28, 0, b"\x04test\0\0\x1c\0\x01"),
    (b"\x017\x012\x010\x03192\x07in-addr\x04arpa\0", 12, 0, b"\0\x0b\x04echo\x04test\0"),
    (b"\x07nowhere\x04test\0", 1, 3, b"\x04test\0\0\x01\0\x01"),
    (b"\x04echo\x04test\0", 15, 4, b"\x04test\0\0\x0f\0\x01"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_is_answered_by_exits_over_udp_and_tcp() {
    let net = TestNet::start(4).await;
    let client = Client::start(net.config("a"), RunOptions::default()).await.unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).await.unwrap();
    let serving = tokio::spawn(client.serve_dns(udp, tcp));
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut tcp = TcpStream::connect(address).await.unwrap();
    for (name, kind, code, end) in QUERIES {
        let query = [b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0", name, &[0, kind, 0, 1]].concat();
        let mut answer = [0; 512];
        udp.send_to(&query, address).await.unwrap();
        let length = timeout(PATIENCE, udp.recv(&mut answer)).await.expect("an answer").unwrap();
        assert_eq!(answer[..2], query[..2]);
        assert_eq!(answer[3] & 15, code);
        assert!(answer[..length].ends_with(end), "{:?}", &answer[..length]);

        tcp.write_all(&[&(query.len() as u16).to_be_bytes(), &query[..]].concat()).await.unwrap();
        let over_tcp = timeout(PATIENCE, tcp.read_u16()).await.expect("an answer").unwrap();
        let mut same = vec![0; over_tcp.into()];
        tcp.read_exact(&mut same).await.unwrap();
        assert_eq!(same, answer[..length]);
    }
    serving.abort();
    client.shutdown().await;
}

/// A target that keeps its connections, and does not say that it will not.
async fn silent_about_closing() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = tcp.read(&mut [0; 4_096]).await;
                let _ = tcp
                    .write_all(b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nContent-Length: 2\r\n\r\nok")
                    .await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_is_told_that_one_request_travels_on_a_connection() {
    let net = TestNet::start(4).await;
    let (daemon, target) = (Daemon::start(net.config("a")).await, silent_about_closing().await);
    for half_close in [false, true] {
        let request = format!("GET http://{target}/ HTTP/1.1\r\n\r\n");
        let answer = ask(&daemon, request.as_bytes(), half_close).await;
        assert_eq!(answer, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exit_cannot_point_names_at_the_persons_own_network() {
    let net = TestNet::start(4).await;
    // Its exits answer with an address that is not public.
    let config = tunic_client::Config { allow_private_answers: false, ..net.config("a") };
    let client = Client::start(config, RunOptions::default()).await.unwrap();
    let query = tunic_proto::resolve::Query::Name(ECHO.into());
    let error = client.resolve(query, tunic_client::Isolation::default()).await.unwrap_err();
    assert!(matches!(error, tunic_client::ConnectError::BadAnswer), "{error}");
    client.shutdown().await;
}

/// More than the port keeps waiting, without using up the files of this process.
const SLOW: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_and_slow_handshakes_do_not_keep_others_out() {
    let net = TestNet::start(4).await;
    let daemon = Daemon::start(net.config("a")).await;
    let mut slow = Vec::new();
    for number in 0..SLOW {
        let mut tcp = TcpStream::connect(daemon.socks).await.unwrap();
        let start: &[u8] =
            [&b"\x05"[..], b"\x04\x01", b"GET / HTTP/1.1\r\n", b"\x05\x01\x00\x05\x01"][number % 4];
        tcp.write_all(start).await.unwrap();
        slow.push(tcp);
    }
    for round in 0..200_u32 {
        let mut tcp = TcpStream::connect(daemon.socks).await.unwrap();
        let garbage: Vec<u8> = (0..round % 97).map(|at| (round * 31 + at * 7) as u8).collect();
        // It may be closed while this is written.
        let _ = tcp.write_all(&garbage).await;
    }
    let connect = format!("CONNECT {ECHO}:443 HTTP/1.1\r\n\r\nstill here");
    let answer = timeout(Duration::from_secs(20), ask(&daemon, connect.as_bytes(), true)).await.unwrap();
    assert!(answer.ends_with("still here"), "{answer}");
    for mut tcp in slow {
        // None was forgotten: each can still go on or was told.
        let _ = tcp.write_all(b"\r\n").await;
    }
    daemon.stop().await;
}
