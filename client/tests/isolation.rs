//! With whom a stream shares a circuit, as applications at the ports make it: only with those of the same listener,
//! credentials, client address and, if that is set, destination.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]
#![expect(clippy::disallowed_methods, reason = "tests make their own keys")]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use support::{Daemon, ECHO, PATIENCE, TestNet};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket, UnixStream};
use tokio::time::timeout;
use tunic_client::core::pool::Standing;
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
    /// Where names are looked up.
    dns: SocketAddr,
    open: Vec<Box<dyn Send>>,
}

impl Bench {
    async fn new(change: impl FnOnce(&mut Config)) -> Bench {
        let net = TestNet::start(5).await;
        let mut config = net.config("a");
        let dir = config.state_dir.clone().unwrap();
        let unix = dir.with_extension("sock");
        config.unix_socket = Some(unix.clone());
        config.dns = Some((HERE, 0).into());
        change(&mut config);
        let daemon = Daemon::start(config).await;
        let control = dir.join("control.sock");
        let ports = report(&control).await.ports;
        let dns = ports.iter().find(|port| port.name == "dns").unwrap().address.parse().unwrap();
        Bench { _net: net, daemon, control, unix, dns, open: Vec::new() }
    }

    /// The circuit of the stream that was begun last.
    async fn circuit(&self) -> u64 {
        let streams = report(&self.control).await.streams.shown;
        streams.last().and_then(|stream| stream.circuit).expect("a circuit")
    }

    /// The circuits that belong to somebody: a lookup is over too soon to be seen on its own.
    async fn in_use(&self) -> Vec<u64> {
        let circuits = report(&self.control).await.circuits.shown;
        circuits.iter().filter(|circuit| circuit.state == Standing::InUse).map(|circuit| circuit.id).collect()
    }

    /// Has the name looked up at the port for DNS, over UDP or TCP.
    async fn dns(&self, from: Ipv4Addr, over_tcp: bool, name: &[u8]) {
        let query = [b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0", name, b"\0\x01\0\x01"].concat();
        let mut answer = [0; 512];
        let answered = async {
            if over_tcp {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind((from, 0).into()).unwrap();
                let mut tcp = socket.connect(self.dns).await.unwrap();
                tcp.write_all(&[&(query.len() as u16).to_be_bytes(), &query[..]].concat()).await.unwrap();
                let length: usize = tcp.read_u16().await.unwrap().into();
                tcp.read_exact(&mut answer[..length]).await.unwrap();
            } else {
                let udp = UdpSocket::bind((from, 0)).await.unwrap();
                udp.send_to(&query, self.dns).await.unwrap();
                udp.recv(&mut answer).await.unwrap();
            }
        };
        timeout(PATIENCE, answered).await.expect("an answer");
        assert_eq!(answer[..2], query[..2]);
    }

    /// Has the name looked up over SOCKS (`RESOLVE`).
    async fn resolve(&self, from: Ipv4Addr, name: &str) {
        let mut connection = self.tcp(from).await;
        let request = [&[5, 1, 0, 5, 0xf0, 0, 3, name.len() as u8][..], name.as_bytes(), &[0, 0]].concat();
        connection.write_all(&request).await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, connection.read_to_end(&mut answer)).await.expect("an answer").unwrap();
        assert_eq!(answer[..2], [5, 0]);
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

async fn report(control: &Path) -> Report {
    let control = control.to_owned();
    let ask = move || ctl::ask(&control, Question::Status, true).unwrap();
    serde_json::from_str(&tokio::task::spawn_blocking(ask).await.unwrap()).unwrap()
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

/// The name that exits know, and one that they do not, as DNS has them.
const ECHO_NAME: &[u8] = b"\x04echo\x04test\0";
const NOWHERE: &[u8] = b"\x07nowhere\x04test\0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_are_kept_apart_as_streams_are() {
    let mut bench = Bench::new(|_| {}).await;
    assert!(bench.in_use().await.is_empty());
    let plain = bench.plain(TO).await;
    bench.resolve(HERE, ECHO).await;
    assert_eq!(bench.in_use().await, [plain], "a lookup over SOCKS is one of that listener's streams");
    bench.dns(HERE, false, ECHO_NAME).await;
    let with_dns = bench.in_use().await;
    assert_eq!(with_dns.len(), 2, "the port for DNS is another listener");
    bench.dns(HERE, true, NOWHERE).await;
    assert_eq!(bench.in_use().await, with_dns, "over TCP too, and whatever the name");
    bench.dns(ELSEWHERE, false, ECHO_NAME).await;
    assert_eq!(bench.in_use().await.len(), 3, "another machine's lookups");
    bench.resolve(ELSEWHERE, ECHO).await;
    assert_eq!(bench.in_use().await.len(), 4, "and at the other listener");
    bench.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_belongs_to_its_destination_where_these_are_apart() {
    let mut bench = Bench::new(|config| config.isolate_destinations = true).await;
    let echo = bench.plain(TO).await;
    bench.resolve(HERE, &ECHO.to_uppercase()).await;
    assert_eq!(bench.in_use().await, [echo], "that of the connections to the name");
    bench.resolve(HERE, "nowhere.test").await;
    assert_eq!(bench.in_use().await.len(), 2);
    bench.dns(HERE, false, ECHO_NAME).await;
    bench.dns(HERE, false, ECHO_NAME).await;
    assert_eq!(bench.in_use().await.len(), 3);
    bench.dns(HERE, false, NOWHERE).await;
    assert_eq!(bench.in_use().await.len(), 4);
    bench.daemon.stop().await;
}
