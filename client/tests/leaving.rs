//! What becomes of streams and circuits when somebody leaves: the application, a relay, the person for a new identity, or
//! the last owner of the client.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]
#![expect(clippy::disallowed_methods, reason = "tests make their own keys")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::sockopt;
use support::{Daemon, ECHO, PATIENCE, SILENT, TestNet};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tunic_client::{Client, ConnectError, Isolation};
use tunic_net::channel::CircuitStream;
use tunic_net::daemon::RunOptions;
use tunic_proto::message::Target;

/// A port for applications, until it is dropped.
struct Port {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Port {
    async fn open(client: &Client) -> Port {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Port { address, serving: tokio::spawn(client.serve_applications(listener)) }
    }

    /// A connection that has sent this.
    async fn send(&self, request: &[u8]) -> TcpStream {
        let mut tcp = TcpStream::connect(self.address).await.unwrap();
        tcp.write_all(request).await.unwrap();
        tcp
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Asks for the name over SOCKS5, with the greeting before it.
fn socks5(name: &str) -> Vec<u8> {
    [&[5, 1, 0, 5, 1, 0, 3, name.len() as u8][..], name.as_bytes(), &443_u16.to_be_bytes()].concat()
}

async fn client(net: &TestNet) -> Client {
    Client::start(net.config("a"), RunOptions::default()).await.unwrap()
}

fn target(name: &str) -> Target {
    Target::Name(name.into(), 443)
}

/// Waits for a condition that nothing tells of.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, met).await.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn ping(stream: &mut CircuitStream) -> std::io::Result<()> {
    stream.write_all(b"ping").await?;
    stream.read_exact(&mut [0; 4]).await.map(|_| ())
}

/// Asks for the silent name with these early bytes, and has the exit vanish once it was asked. Returns how often an exit
/// was asked until there was an answer or a second attempt, and the answer.
async fn exit_vanishes(early: &[u8]) -> (usize, u8) {
    let net = TestNet::start(6).await;
    let daemon = Daemon::start(net.config("a")).await;
    let mut tcp = TcpStream::connect(daemon.socks).await.unwrap();
    tcp.write_all(&[&socks5(SILENT)[..], early].concat()).await.unwrap();
    eventually("an exit was asked", || net.silent_count() == 1).await;
    net.break_silent_circuit().await;
    let mut answer = [0; 12];
    tokio::select! {
        read = tcp.read_exact(&mut answer) => { read.unwrap(); }
        () = eventually("another exit was asked", || net.silent_count() == 2) => {}
    }
    daemon.stop().await;
    (net.silent_count(), answer[3])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_data_that_may_have_arrived_is_not_sent_again() {
    assert_eq!(exit_vanishes(b"pay 10").await, (1, 1), "a general failure, and no second attempt");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circuit_that_breaks_before_anything_was_sent_is_replaced() {
    assert_eq!(exit_vanishes(b"").await.0, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_leaves_takes_its_stream_with_it() {
    let net = TestNet::start(4).await;
    let client = client(&net).await;
    let port = Port::open(&client).await;
    for request in [socks5(SILENT), b"GET http://silent.test:443/ HTTP/1.1\r\n\r\n".to_vec()] {
        let asked = net.silent_count();
        let tcp = port.send(&request).await;
        eventually("an exit was asked", || net.silent_count() == asked + 1).await;
        // With a reset: otherwise whoever has asked for all it wants may only have ended its half.
        sockopt::set_socket_linger(&tcp, Some(Duration::ZERO)).unwrap();
        drop(tcp);
        net.silent_stream_ends().await;
    }
    client.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_leaves_before_there_is_a_circuit_is_not_waited_for() {
    let net = TestNet::start(2).await;
    let client = client(&net).await;
    let port = Port::open(&client).await;
    let mut tcp = port.send(&socks5(ECHO)).await;
    tcp.read_exact(&mut [0; 2]).await.unwrap();
    let waiting = async |count: usize| {
        while client.report(false).await.streams.waiting != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting(1)).await.expect("it waits for a circuit");
    drop(tcp);
    tokio::time::timeout(Duration::from_secs(20), waiting(0)).await.expect("it is noticed that it left");
    client.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_identity_ends_every_circuit_and_keeps_the_guards() {
    let net = TestNet::start(8).await;
    let client = client(&net).await;
    let (mut stream, before) = client.connect(target(ECHO), Isolation::default()).await.unwrap();
    let (_other, _) = client.connect(target(ECHO), Isolation::named("other")).await.unwrap();
    ping(&mut stream).await.unwrap();
    assert!(client.new_identity().await >= 2);
    tokio::time::timeout(PATIENCE, ping(&mut stream)).await.expect("an end").unwrap_err();
    let (mut stream, after) = client.connect(target(ECHO), Isolation::default()).await.unwrap();
    ping(&mut stream).await.unwrap();
    assert!(!std::sync::Arc::ptr_eq(&before, &after), "a circuit of its own");
    client.shutdown().await;
    let guards = std::fs::read_to_string(net.config("a").state_dir.unwrap().join("guards.json")).unwrap();
    for path in [before, after] {
        assert!(guards.contains(&path.hops[0].id.to_string()), "of the same few");
    }
    assert_eq!(guards.matches("\"id\"").count(), 3, "{guards}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_identity_ends_streams_that_wait_for_an_exit() {
    let net = TestNet::start(6).await;
    let client = client(&net).await;
    let port = Port::open(&client).await;
    let lookup = client.clone();
    let waits =
        tokio::spawn(async move { lookup.connect(target(SILENT), Isolation::named("a")).await.err() });
    let mut tcp = port.send(&socks5(SILENT)).await;
    eventually("both exits were asked", || net.silent_count() == 2).await;
    client.new_identity().await;
    let error = tokio::time::timeout(PATIENCE, waits).await.expect("an end").unwrap();
    assert!(matches!(error, Some(ConnectError::NewIdentity)), "{error:?}");
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut answer)).await.expect("an end").unwrap();
    assert_eq!(answer[2..4], [5, 1], "a general failure");
    assert_eq!(net.silent_count(), 2, "no other exit is asked, over a circuit of the new identity");
    client.shutdown().await;
}

#[test]
fn after_the_last_owner_of_a_client_nothing_runs() {
    let relays = tokio::runtime::Runtime::new().unwrap();
    let net = relays.block_on(TestNet::start(4));
    let of_client = tokio::runtime::Runtime::new().unwrap();
    of_client.block_on(async {
        let client = client(&net).await;
        let copy = client.clone();
        let (mut stream, _) = client.connect(target(ECHO), Isolation::default()).await.unwrap();
        drop(client);
        ping(&mut stream).await.unwrap();
        drop(copy);
        tokio::time::timeout(PATIENCE, stream.read(&mut [0])).await.expect("an end").unwrap_err();
        let metrics = tokio::runtime::Handle::current().metrics();
        eventually("no task is left", || metrics.num_alive_tasks() == 0).await;
    });
}
