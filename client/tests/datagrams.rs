//! `UDP ASSOCIATE` at the port, against real nodes on loopback whose exits send every datagram back.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]
#![expect(clippy::disallowed_methods, reason = "tests make their own keys")]

mod support;

use std::net::SocketAddr;

use support::{ECHO_ADDRESS, PATIENCE, TestNet};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tunic_client::core::front::leaks::Reaction;
use tunic_client::{Client, Config};
use tunic_net::daemon::RunOptions;

const TO_NAME: &[u8] = b"\x03\x09echo.test\x01\xbb";
const TO_ADDRESS: &[u8] = b"\x01\xc0\x00\x02\x07\x01\xbb";
const TO_LEAKY_PORT: &[u8] = b"\x03\x09echo.test\x00\x89";

/// A client with its port at this address, and an association there as an application has it.
struct Application {
    client: Client,
    serving: JoinHandle<()>,
    connection: TcpStream,
    udp: UdpSocket,
    relay: SocketAddr,
}

impl Application {
    async fn start(config: Config, listen: &str) -> Application {
        let client = Client::start(config, RunOptions::default()).await.unwrap();
        let listener = TcpListener::bind(listen).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(client.serve_applications(listener));
        let mut connection = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        connection.write_all(b"\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00").await.unwrap();
        let mut answer = [0; 12];
        timeout(PATIENCE, connection.read_exact(&mut answer)).await.expect("an answer").unwrap();
        assert_eq!(answer[2..6], [5, 0, 0, 1], "an IPv4 application is given an IPv4 address");
        let ip: [u8; 4] = answer[6..10].try_into().unwrap();
        let relay = SocketAddr::from((ip, u16::from_be_bytes([answer[10], answer[11]])));
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        Application { client, serving, connection, udp, relay }
    }

    async fn send(&self, target: &[u8], payload: &[u8]) {
        self.udp.send_to(&[&[0, 0, 0], target, payload].concat(), self.relay).await.unwrap();
    }

    async fn receive(&self) -> Vec<u8> {
        let mut buffer = [0; 2_048];
        let received = timeout(PATIENCE, self.udp.recv_from(&mut buffer)).await.expect("a datagram").unwrap();
        assert_eq!(received.1, self.relay);
        assert_eq!(buffer[..8], [&[0, 0, 0, 1][..], &ECHO_ADDRESS].concat());
        buffer[10..received.0].to_vec()
    }

    async fn stop(self) {
        self.serving.abort();
        self.client.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_for_ipv4_and_ipv6_carries_datagrams_of_ipv4_applications() {
    let net = TestNet::start(4).await;
    for listen in ["[::ffff:127.0.0.1]:0", "127.0.0.1:0"] {
        let application = Application::start(net.config(listen), listen).await;
        application.send(TO_NAME, b"by name").await;
        assert_eq!(application.receive().await, b"by name");
        application.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_to_bare_addresses_and_leaky_ports_are_refused_where_streams_are() {
    let net = TestNet::start(4).await;
    let config = Config { safe_socks: Reaction::Refuse, on_leaky_port: Reaction::Refuse, ..net.config("a") };
    let application = Application::start(config, "127.0.0.1:0").await;
    // The exits answer in order, so what comes first tells that nothing went before it.
    application.send(TO_ADDRESS, b"to an address").await;
    application.send(TO_LEAKY_PORT, b"to a leaky port").await;
    application.send(TO_NAME, b"to a name").await;
    assert_eq!(application.receive().await, b"to a name");
    application.stop().await;

    let application = Application::start(net.config("b"), "127.0.0.1:0").await;
    application.send(TO_ADDRESS, b"to an address").await;
    assert_eq!(application.receive().await, b"to an address");
    application.stop().await;
}

/// Datagrams that are not the application's: garbage of its own address, and what would do if it came from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stray_datagrams_do_not_take_an_association_from_its_application() {
    let net = TestNet::start(4).await;
    let application = Application::start(net.config("a"), "127.0.0.1:0").await;
    let fragment = [&[0, 0, 1], TO_NAME, b"a fragment"].concat();
    let no_port = b"\0\0\0\x03\x09echo.test\0\0no port";
    for stray in [&b""[..], b"garbage", b"\0\0\0", &fragment, no_port] {
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        stranger.send_to(stray, application.relay).await.unwrap();
    }
    let elsewhere = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    elsewhere.send_to(&[&[0, 0, 0], TO_NAME, b"stolen"].concat(), application.relay).await.unwrap();
    application.send(TO_NAME, b"mine").await;
    assert_eq!(application.receive().await, b"mine");
    application.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_identity_ends_associations() {
    let net = TestNet::start(6).await;
    let mut application = Application::start(net.config("a"), "127.0.0.1:0").await;
    application.send(TO_NAME, b"before").await;
    assert_eq!(application.receive().await, b"before");
    let carrying = application.client.report(false).await.streams;
    assert_eq!((carrying.total, carrying.shown[0].kind.as_str()), (1, "datagrams"));
    application.client.new_identity().await;
    // Its connection is closed, so that the application knows, and nothing is carried any more.
    let end = timeout(PATIENCE, application.connection.read(&mut [0])).await.expect("an end");
    assert_eq!(end.unwrap(), 0);
    let ended = async {
        while application.client.report(false).await.streams.total > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, ended).await.expect("it is no longer listed");
    // The socket is gone: a connected one learns that.
    application.udp.connect(application.relay).await.unwrap();
    let refused = async {
        while application.udp.send(&[&[0, 0, 0], TO_NAME, b"after"].concat()).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, refused).await.expect("nobody takes its datagrams");
    application.stop().await;
}
