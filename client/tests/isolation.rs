//! With whom a stream shares a circuit, as applications at the ports make it: only with those of the same listener,
//! credentials, client address and, if that is set, destination.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]
#![expect(clippy::disallowed_methods, reason = "tests make their own keys")]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use support::{Daemon, ECHO, PATIENCE, TestNet};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};
use tokio::time::timeout;
use tunic_client::ctl::{self, Question};
use tunic_client::{Config, Report};

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Another address of this machine, as if another one used the port.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A network, a client with two listeners, and the streams that are open, which keep their circuits.
struct Bench {
    _net: TestNet,
    daemon: Daemon,
    control: PathBuf,
    unix: PathBuf,
    open: Vec<Box<dyn Send>>,
}

impl Bench {
    async fn new(change: impl FnOnce(&mut Config)) -> Bench {
        let net = TestNet::start(5).await;
        let mut config = net.config("a");
        let dir = config.state_dir.clone().unwrap();
        let unix = dir.with_extension("sock");
        config.unix_socket = Some(unix.clone());
        change(&mut config);
        let daemon = Daemon::start(config).await;
        Bench { _net: net, daemon, control: dir.join("control.sock"), unix, open: Vec::new() }
    }

    /// The circuit of the stream that was begun last.
    async fn circuit(&self) -> u64 {
        let control = self.control.clone();
        let ask = move || ctl::ask(&control, Question::Status, true).unwrap();
        let report: Report = serde_json::from_str(&tokio::task::spawn_blocking(ask).await.unwrap()).unwrap();
        report.streams.shown.last().and_then(|stream| stream.circuit).expect("a circuit")
    }

    /// Sends a request, takes the answer, and tells which circuit the stream is on.
    async fn begin<C>(&mut self, mut connection: C, request: &[u8], answer: Answer) -> u64
    where
        C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        connection.write_all(request).await.unwrap();
        let mut said = vec![0; answer.length];
        timeout(PATIENCE, connection.read_exact(&mut said)).await.expect("an answer").unwrap();
        assert!(said.starts_with(answer.granted), "{said:?}");
        self.open.push(Box::new(connection));
        self.circuit().await
    }

    async fn tcp(&self, from: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        socket.connect(self.daemon.socks).await.unwrap()
    }

    async fn socks(&mut self, from: Ipv4Addr, credentials: Option<(&str, &str)>, to: (&str, u16)) -> u64 {
        let connection = self.tcp(from).await;
        let answer = if credentials.is_some() { SOCKS5_WITH_CREDENTIALS } else { SOCKS5 };
        self.begin(connection, &socks5(credentials, to), answer).await
    }

    async fn plain(&mut self, to: (&str, u16)) -> u64 {
        self.socks(HERE, None, to).await
    }

    /// A stream to an address in digits.
    async fn address(&mut self, ip: Ipv4Addr, port: u16) -> u64 {
        let connection = self.tcp(HERE).await;
        let request = [&[5, 1, 0, 5, 1, 0, 1][..], &ip.octets(), &port.to_be_bytes()].concat();
        self.begin(connection, &request, SOCKS5).await
    }
}

/// What says that the stream is open.
struct Answer {
    granted: &'static [u8],
    length: usize,
}

const SOCKS5: Answer = Answer { granted: &[5, 0, 5, 0], length: 12 };
const SOCKS5_WITH_CREDENTIALS: Answer = Answer { granted: &[5, 2, 1, 0, 5, 0], length: 14 };
const HTTP: Answer = Answer { granted: b"HTTP/1.1 200 ", length: 39 };

fn socks5(credentials: Option<(&str, &str)>, (host, port): (&str, u16)) -> Vec<u8> {
    let mut request = match credentials {
        None => vec![5, 1, 0],
        Some((user, password)) => {
            let lengths = [user.len() as u8, password.len() as u8];
            [&[5, 1, 2, 1, lengths[0]][..], user.as_bytes(), &lengths[1..], password.as_bytes()].concat()
        }
    };
    request.extend([5, 1, 0, 3, host.len() as u8]);
    request.extend([host.as_bytes(), &port.to_be_bytes()].concat());
    request
}

const TO: (&str, u16) = (ECHO, 443);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listener_credentials_and_client_address_keep_streams_apart() {
    let mut bench = Bench::new(|_| {}).await;
    let plain = bench.plain(TO).await;
    assert_eq!(bench.plain(TO).await, plain, "alike in everything");
    assert_eq!(bench.plain((ECHO, 80)).await, plain, "where they lead does not matter unless that is set");
    let http = bench.tcp(HERE).await;
    let connect = format!("CONNECT {ECHO}:443 HTTP/1.1\r\n\r\n");
    assert_eq!(bench.begin(http, connect.as_bytes(), HTTP).await, plain, "nor what the application speaks");

    let unix = UnixStream::connect(&bench.unix).await.unwrap();
    let other_listener = bench.begin(unix, &socks5(None, TO), SOCKS5).await;
    let elsewhere = bench.socks(ELSEWHERE, None, TO).await;
    let alice = bench.socks(HERE, Some(("alice", "a")), TO).await;
    let other_password = bench.socks(HERE, Some(("alice", "b")), TO).await;
    let bob = bench.socks(HERE, Some(("bob", "a")), TO).await;
    let alice_elsewhere = bench.socks(ELSEWHERE, Some(("alice", "a")), TO).await;
    let mut all = vec![plain, other_listener, elsewhere, alice, other_password, bob, alice_elsewhere];
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 7, "each has a circuit of its own: {all:?}");
    assert_eq!(bench.socks(HERE, Some(("alice", "a")), TO).await, alice, "and keeps it");
    assert_eq!(bench.socks(ELSEWHERE, None, TO).await, elsewhere);
    bench.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destinations_keep_streams_apart_where_that_is_set() {
    let mut bench = Bench::new(|config| config.isolate_destinations = true).await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = target.local_addr().unwrap().port();
    let first = bench.plain(TO).await;
    assert_eq!(bench.plain((ECHO, 80)).await, first, "one host, whatever the port");
    let second = bench.address(HERE, port).await;
    assert_ne!(second, first, "another host");
    assert_eq!(bench.address(HERE, port).await, second);
    bench.daemon.stop().await;
}
