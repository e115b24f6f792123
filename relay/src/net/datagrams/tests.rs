//! Associations over a real circuit to a real exit, with a name server that says what the test wants, when it wants.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::rdata::{A, AAAA};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tunic_net::channel::{Circuit, HopSpec, IncomingStream, Node, NodeConfig, Peer, Responder};
use tunic_net::daemon::unix_now;
use tunic_proto::dir::{AuthoritySet, ExitPolicy};
use tunic_proto::ids::RelayId;
use tunic_proto::keys::{IdentityKey, OnionSecret};
use tunic_proto::message::Begin;

use super::*;
use crate::config::{ExitConfig, Ipv6};
use crate::core::directory_view::DirectoryView;
use crate::core::exit::ExitRules;
use crate::net::dns::Dns;
use crate::net::resolver::Resolver;
use crate::net::view::SharedView;

const PATIENCE: Duration = Duration::from_secs(30);
const MEMORY: usize = 64 << 20;
/// The exit's own address, as its settings have it.
const OWN: &str = "93.184.215.14:9001";

pub(super) fn now() -> Instant {
    super::now()
}

/// What an exit with a policy for everything may do.
pub(super) fn connector(allow_private: bool, nameservers: Vec<SocketAddr>) -> Arc<Connector> {
    connector_with(ExitPolicy::accept_all(), allow_private, nameservers)
}

fn connector_with(policy: ExitPolicy, allow_private: bool, nameservers: Vec<SocketAddr>) -> Arc<Connector> {
    let view = DirectoryView::new(RelayId([1; 32]), AuthoritySet::default(), allow_private);
    let view = Arc::new(SharedView::new(view, "/nonexistent".into()));
    let rules = ExitRules::new(policy, allow_private, &[OWN.parse().unwrap()]);
    let config = ExitConfig {
        allow_private,
        nameservers,
        ipv6: Ipv6::Prefer,
        dnssec: Some(false),
        ..ExitConfig::default()
    };
    let resolver = Resolver::new(Dns::new(&config).unwrap(), Arc::default());
    Arc::new(Connector::new(rules.preferring_ipv6(true), view, resolver))
}

/// An exit that does nothing but datagrams.
struct Exit {
    connector: Arc<Connector>,
    counters: Arc<Counters>,
    idle_timeout: Duration,
    onion: OnionSecret,
}

impl Responder for Exit {
    fn lookup(&self, _: RelayId) -> Option<Vec<SocketAddr>> {
        None
    }
    fn begin(&self, _: Target, stream: IncomingStream) {
        stream.reject(EndReason::Policy);
    }
    fn begin_dir(&self, stream: IncomingStream) {
        stream.reject(EndReason::NotDirectory);
    }
    fn begin_udp(&self, stream: IncomingStream) {
        let (connector, counters) = (Arc::clone(&self.connector), Arc::clone(&self.counters));
        let association = Association::new(connector, counters, stream.accept_datagrams());
        tokio::spawn(Association { idle_timeout: self.idle_timeout, ..association }.run());
    }
    fn onion_keys(&self) -> Vec<OnionSecret> {
        vec![self.onion.clone()]
    }
}

/// The client's end of an association, and what keeps the rest alive.
struct Client {
    datagrams: CircuitDatagrams,
    counters: Arc<Counters>,
    _circuit: Circuit,
    _serving: JoinHandle<()>,
}

impl Client {
    async fn start(connector: Arc<Connector>) -> Client {
        Client::with_idle_timeout(connector, IDLE_TIMEOUT).await
    }

    async fn with_idle_timeout(connector: Arc<Connector>, idle_timeout: Duration) -> Client {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let (counters, onion) = (Arc::<Counters>::default(), OnionSecret::generate(&mut rng));
        let lifetime = unix_now().plus(Duration::from_secs(3_600));
        let signer = Arc::new(IdentityKey::generate(&mut rng).certify(lifetime, &mut rng));
        let hop = HopSpec { id: signer.id(), onion_key: onion.public() };
        let exit = Exit { connector, counters: Arc::clone(&counters), idle_timeout, onion };
        let config =
            NodeConfig { signer: Some(signer), responder: Some(Arc::new(exit)), memory_budget: MEMORY };
        let node = Node::new(config).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Peer { id: hop.id, addresses: vec![listener.local_addr().unwrap()] };
        let serving = tokio::spawn(async move { node.serve(listener).await });
        let config = NodeConfig { signer: None, responder: None, memory_budget: MEMORY };
        let channel = soon(Node::new(config).unwrap().connect(&peer)).await.unwrap();
        let circuit = soon(channel.create_circuit(vec![hop])).await.unwrap();
        let datagrams = circuit.begin_any(Begin::Datagrams).unwrap().into_datagrams();
        soon(datagrams.connected()).await.unwrap();
        Client { datagrams, counters, _circuit: circuit, _serving: serving }
    }

    /// Sends as soon as there is room.
    async fn send(&self, peer: Target, payload: &[u8]) {
        let datagram = Datagram { peer, payload: payload.to_vec() };
        soon(until(|| self.datagrams.try_send(&datagram).unwrap())).await;
    }

    async fn receive(&mut self) -> Vec<u8> {
        soon(self.datagrams.recv()).await.unwrap().payload
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("this takes too long")
}

async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

/// Sends every datagram back.
async fn echo() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            socket.send_to(&buffer[..length], from).await.unwrap();
        }
    });
    port
}

fn address(port: u16) -> Target {
    Target::Addr(([127, 0, 0, 1], port).into())
}

/// Every name has these addresses, once the test lets it say so.
async fn name_server(addresses: Vec<IpAddr>) -> (SocketAddr, watch::Sender<bool>) {
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let at = socket.local_addr().unwrap();
    let (may_answer, wait) = watch::channel(false);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let answer = answer(&buffer[..length], &addresses);
            let (socket, mut wait) = (Arc::clone(&socket), wait.clone());
            tokio::spawn(async move {
                if wait.wait_for(|may| *may).await.is_ok() {
                    socket.send_to(&answer, from).await.unwrap();
                }
            });
        }
    });
    (at, may_answer)
}

fn answer(question: &[u8], addresses: &[IpAddr]) -> Vec<u8> {
    let question = Message::from_vec(question).unwrap();
    let mut answer = question.clone().into_response();
    answer.metadata.recursion_available = true;
    let query = question.queries[0].clone();
    for ip in addresses {
        let (kind, data) = match ip {
            IpAddr::V4(v4) => (RecordType::A, RData::A(A(*v4))),
            IpAddr::V6(v6) => (RecordType::AAAA, RData::AAAA(AAAA(*v6))),
        };
        if query.query_type() == kind {
            answer.add_answer(Record::from_rdata(query.name().clone(), 600, data));
        }
    }
    answer.to_vec().unwrap()
}

#[tokio::test]
async fn a_name_that_is_looked_up_slowly_holds_nothing_else_up() {
    let (server, may_answer) = name_server(vec![[127, 0, 0, 1].into()]).await;
    let (mut client, port) = (Client::start(connector(true, vec![server])).await, echo().await);
    client.send(Target::Name("slow.example".into(), port), b"by name").await;
    client.send(address(port), b"by address").await;
    assert_eq!(client.receive().await, b"by address", "the name server has not answered yet");
    may_answer.send(true).unwrap();
    assert_eq!(client.receive().await, b"by name");
}

#[tokio::test]
async fn an_address_that_cannot_be_sent_to_gives_way_to_the_next() {
    // The system lets nobody send to everybody who has not asked for that (SO_BROADCAST).
    let addresses = vec![[255, 255, 255, 255].into(), [127, 0, 0, 1].into()];
    let (server, may_answer) = name_server(addresses).await;
    may_answer.send(true).unwrap();
    let (mut client, port) = (Client::start(connector(true, vec![server])).await, echo().await);
    client.send(Target::Name("two.example".into(), port), b"to the second").await;
    assert_eq!(client.receive().await, b"to the second");
}

#[tokio::test]
async fn strangers_do_not_keep_an_idle_association() {
    let idle = Duration::from_millis(300);
    let mut client = Client::with_idle_timeout(connector(true, Vec::new()), idle).await;
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.send(address(peer.local_addr().unwrap().port()), b"hello").await;
    let (_, exit) = soon(peer.recv_from(&mut [0; 64])).await.unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let knocking = tokio::spawn(async move {
        loop {
            // Refused once the exit's socket is closed.
            let _ = stranger.send_to(b"let me in", exit).await;
            tokio::time::sleep(idle / 20).await;
        }
    });
    soon(client.datagrams.recv()).await.unwrap_err();
    knocking.abort();
}

#[tokio::test]
async fn a_public_exit_sends_datagrams_to_no_address_that_is_not_public() {
    let (server, may_answer) =
        name_server(vec![[127, 0, 0, 1].into(), "fd00:ec2::254".parse().unwrap()]).await;
    may_answer.send(true).unwrap();
    let inside = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    inside.set_nonblocking(true).unwrap();
    let port = inside.local_addr().unwrap().port();
    let client = Client::start(connector(false, vec![server])).await;
    let addresses = [
        "127.0.0.1",
        "::ffff:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "2002:7f00:1::1",
        "::1",
        "0.0.0.0",
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "fd00:ec2::254",
        "168.63.129.16",
        "fe80::1",
        "224.0.0.1",
        "255.255.255.255",
        "93.184.215.14",
        "::ffff:93.184.215.14",
    ];
    let mut targets: Vec<Target> =
        addresses.iter().map(|ip| Target::Addr(SocketAddr::new(ip.parse().unwrap(), port))).collect();
    targets.extend(addresses.map(|ip| Target::Name(ip.into(), port)));
    targets.extend(
        ["localhost", "printer.local", "rebound.example"].map(|name| Target::Name(name.into(), port)),
    );
    for target in &targets {
        client.send(target.clone(), b"inside").await;
    }
    let refused = || client.counters.datagrams_refused.load(Relaxed);
    soon(until(|| refused() >= targets.len() as u64)).await;
    assert_eq!(refused(), targets.len() as u64);
    assert_eq!(client.counters.datagrams_dropped.load(Relaxed), 0);
    assert!(inside.recv(&mut [0; 64]).is_err(), "a datagram reached the exit's own machine");
}

#[tokio::test]
async fn the_policy_of_an_exit_holds_for_each_datagram() {
    let (server, may_answer) = name_server(vec![[127, 0, 0, 2].into()]).await;
    may_answer.send(true).unwrap();
    let (allowed, refused_port) = (echo().await, UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let refused_address = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let port_of = |socket: &UdpSocket| socket.local_addr().unwrap().port();
    let port = port_of(&refused_port);
    let policy =
        ExitPolicy::parse(&["reject 127.0.0.2:*", &format!("reject *:{port}"), "accept *:*"]).unwrap();
    let mut client = Client::start(connector_with(policy, true, vec![server])).await;
    client.send(address(port), b"to a port").await;
    // What the name stands for is known to the exit only.
    client.send(Target::Name("elsewhere.example".into(), port_of(&refused_address)), b"to an address").await;
    let refused = || client.counters.datagrams_refused.load(Relaxed);
    soon(until(|| refused() == 2)).await;
    // One association goes on to where the policy lets it.
    client.send(address(allowed), b"allowed").await;
    assert_eq!(client.receive().await, b"allowed");
    assert_eq!(client.counters.datagrams_refused.load(Relaxed), 2);
    for socket in [refused_port, refused_address] {
        assert!(socket.try_recv(&mut [0; 64]).is_err(), "a datagram reached what the policy refuses");
    }
}

#[tokio::test]
async fn datagrams_beyond_what_may_wait_are_dropped_and_counted() {
    let (server, may_answer) = name_server(vec![[127, 0, 0, 1].into()]).await;
    let (mut client, port) = (Client::start(connector(true, vec![server])).await, echo().await);
    let payload = vec![7; 50_000];
    for _ in 0..4 {
        client.send(Target::Name("slow.example".into(), port), &payload).await;
    }
    client.send(address(port), b"behind them").await;
    assert_eq!(client.receive().await, b"behind them");
    assert_eq!(client.counters.datagrams_dropped.load(Relaxed), 2);
    may_answer.send(true).unwrap();
    assert!(client.receive().await == payload, "what waited goes on");
}
