//! Nodes over real sockets: what the shell adds to the state machines.
#![expect(clippy::disallowed_methods, reason = "tests make their own keys")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tunic_net::channel::{
    CircuitStream, ConnectError, HopSpec, IncomingStream, Node, NodeConfig, Peer, Responder, splice,
};
use tunic_net::daemon::unix_now;
use tunic_proto::counters::Incident;
use tunic_proto::ids::RelayId;
use tunic_proto::keys::{IdentityKey, OnionSecret};
use tunic_proto::message::{EndReason, Target};

const BUDGET: usize = 64 << 20;

type Directory = Arc<Mutex<HashMap<RelayId, SocketAddr>>>;

/// Connects wherever it is asked to.
struct Exit {
    directory: Directory,
    onion: OnionSecret,
}

impl Responder for Exit {
    fn lookup(&self, id: RelayId) -> Option<Vec<SocketAddr>> {
        Some(vec![*self.directory.lock().unwrap().get(&id)?])
    }

    fn begin(&self, target: Target, stream: IncomingStream) {
        tokio::spawn(async move {
            let Target::Addr(address) = target else { return stream.reject(EndReason::NameNotFound) };
            match TcpStream::connect(address).await {
                Ok(tcp) => splice(stream.accept(Some(address.ip())), tcp).await.unwrap_or_default(),
                Err(_) => stream.reject(EndReason::ConnectionRefused),
            }
        });
    }

    fn begin_dir(&self, stream: IncomingStream) {
        stream.reject(EndReason::NotDirectory);
    }

    fn onion_keys(&self) -> Vec<OnionSecret> {
        vec![self.onion.clone()]
    }
}

struct Relay {
    node: Node,
    hop: HopSpec,
    peer: Peer,
}

async fn relay(directory: &Directory) -> Relay {
    let mut rng = rand::rng();
    let identity = IdentityKey::generate(&mut rng);
    let signer = Arc::new(identity.certify(unix_now().plus(Duration::from_secs(3_600)), &mut rng));
    let onion = OnionSecret::generate(&mut rng);
    let hop = HopSpec { id: signer.id(), onion_key: onion.public() };
    let responder: Arc<dyn Responder> = Arc::new(Exit { directory: directory.clone(), onion });
    let config = NodeConfig { signer: Some(signer), responder: Some(responder), memory_budget: BUDGET };
    let node = Node::new(config).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    directory.lock().unwrap().insert(hop.id, address);
    let serving = node.clone();
    tokio::spawn(async move { serving.serve(listener).await });
    Relay { node, peer: Peer { id: hop.id, addresses: vec![address] }, hop }
}

async fn relays(count: usize) -> Vec<Relay> {
    let directory = Directory::default();
    let mut relays = Vec::new();
    for _ in 0..count {
        relays.push(relay(&directory).await);
    }
    relays
}

fn client() -> Node {
    Node::new(NodeConfig { signer: None, responder: None, memory_budget: BUDGET }).unwrap()
}

/// A TCP server that sends back what it gets, and ends when its client does.
async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = tcp.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// Sends a megabyte through and reads it back, half-close included.
async fn echo(stream: CircuitStream) {
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let expect = sent.clone();
    let (mut read, mut write) = tokio::io::split(stream);
    let writing = async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let reading = async move {
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.unwrap();
        got
    };
    let ((), got) = tokio::join!(writing, reading);
    assert!(got == expect, "{} bytes came back", got.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn circuits_of_one_to_eight_hops_carry_streams() {
    let (relays, target) = (relays(8).await, echo_server().await);
    let client = client();
    let channel = client.connect(&relays[0].peer).await.unwrap();
    for hops in 1..=8 {
        let path = relays[..hops].iter().map(|relay| relay.hop.clone()).collect();
        let circuit = channel.create_circuit(path).await.unwrap();
        let mut stream = circuit.begin(Target::Addr(target)).unwrap();
        assert_eq!(stream.connected().await, Ok(Some(target.ip())));
        echo(stream).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_not_who_it_should_be_is_refused() {
    let relays = relays(2).await;
    let wrong = Peer { id: relays[1].peer.id, addresses: relays[0].peer.addresses.clone() };
    let client = client();
    assert!(matches!(client.connect(&wrong).await, Err(ConnectError::WrongIdentity)));
    assert_eq!(client.counters().get(Incident::WrongIdentity), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_relay_port_is_counted_and_harms_nobody() {
    let (relays, target) = (relays(1).await, echo_server().await);
    for garbage in [&b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n"[..], &[0; 600], b"\x16\x03\x01\x00\x05hello"] {
        let mut tcp = TcpStream::connect(relays[0].peer.addresses[0]).await.unwrap();
        tcp.write_all(garbage).await.unwrap();
        tcp.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer).await;
    }
    let counters = relays[0].node.counters();
    while counters.get(Incident::BadConnection) < 3 {
        tokio::task::yield_now().await;
    }
    let client = client();
    let channel = client.connect(&relays[0].peer).await.unwrap();
    let circuit = channel.create_circuit(vec![relays[0].hop.clone()]).await.unwrap();
    echo(circuit.begin(Target::Addr(target)).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_say_what_failed() {
    let relays = relays(2).await;
    let client = client();
    let channel = client.connect(&relays[0].peer).await.unwrap();
    let mut unknown = relays[1].hop.clone();
    unknown.id = RelayId([7; 32]);
    let error = channel.create_circuit(vec![relays[0].hop.clone(), unknown]).await.unwrap_err();
    assert_eq!(error.hop, 1);
    assert_eq!(error.reason, tunic_proto::message::DestroyReason::UnknownRelay);

    let mut wrong_key = relays[1].hop.clone();
    wrong_key.onion_key = relays[0].hop.onion_key;
    let error = channel.create_circuit(vec![relays[0].hop.clone(), wrong_key]).await.unwrap_err();
    assert_eq!((error.hop, error.reason), (1, tunic_proto::message::DestroyReason::Handshake));

    let circuit = channel.create_circuit(vec![relays[0].hop.clone()]).await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut refused = circuit.begin(Target::Addr(closed)).unwrap();
    assert_eq!(refused.connected().await, Err(EndReason::ConnectionRefused));
    let mut directory = circuit.begin_dir().unwrap();
    assert_eq!(directory.connected().await, Err(EndReason::NotDirectory));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_ends_circuits_and_channels() {
    let relays = relays(3).await;
    let client = client();
    let channel = client.connect(&relays[0].peer).await.unwrap();
    let path = relays.iter().map(|relay| relay.hop.clone()).collect();
    let circuit = channel.create_circuit(path).await.unwrap();
    relays[1].node.shutdown(Duration::from_secs(5)).await;
    circuit.closed().await;
    assert!(channel.is_open());
    relays[0].node.shutdown(Duration::from_secs(5)).await;
    channel.closed().await;
    assert!(!channel.is_open());
}
