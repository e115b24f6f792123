//! A relay as others meet it: over real sockets, with an authority that the test plays.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail like tests")]

#[path = "support/relay.rs"]
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use support::{Relay, soon, unreachable_authority};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tunic_net::channel::{Circuit, IncomingStream, Node, NodeConfig, Responder};
use tunic_net::config::AuthorityConfig;
use tunic_net::daemon::{Status, unix_now};
use tunic_net::dirstream::{self, DirHandler};
use tunic_proto::datagram::Datagram;
use tunic_proto::dir::{Consensus, ConsensusBody, ExitPolicy, Request, Response, UncheckedDescriptor};
use tunic_proto::ids::RelayId;
use tunic_proto::keys::{IdentityKey, OnionSecret, Signer};
use tunic_proto::message::{Begin, EndReason, Target};
use tunic_proto::time::UnixTime;
use tunic_relay::config::{Config, ExitConfig};

const MEMORY: usize = 64 << 20;

fn start(dir: &Path, exit: ExitConfig, authorities: Vec<AuthorityConfig>) -> Relay {
    Relay::start(dir, Config { exit, authorities, ..Config::default() })
}

/// A circuit of this relay alone.
async fn circuit_over(relay: &Relay) -> Circuit {
    let channel = relay.channel().await.unwrap();
    soon(channel.create_circuit(vec![relay.hop.clone()])).await.unwrap()
}

fn exit(policy: &[&str], allow_private: bool) -> ExitConfig {
    ExitConfig { policy: ExitPolicy::parse(policy).unwrap(), allow_private, ..ExitConfig::default() }
}

/// An authority with these keys; nobody listens at the address.
fn authority(seed: u64, at: SocketAddr) -> (Signer, OnionSecret, AuthorityConfig) {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let lifetime = unix_now().plus(Duration::from_secs(3_600));
    let signer = IdentityKey::generate(&mut rng).certify(lifetime, &mut rng);
    let onion = OnionSecret::generate(&mut rng);
    let config = AuthorityConfig {
        name: format!("authority {seed}"),
        identity: signer.id(),
        onion_key: onion.public(),
        addresses: vec![at],
    };
    (signer, onion, config)
}

/// Answers each connection with what it received, once that has ended.
async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut received = Vec::new();
                tcp.read_to_end(&mut received).await.unwrap();
                tcp.write_all(&received).await.unwrap();
            });
        }
    });
    at
}

async fn echo(circuit: &Circuit, target: Target, bytes: &[u8]) -> Vec<u8> {
    let mut stream = circuit.begin(target).unwrap();
    // Sent without waiting for the exit's answer.
    soon(stream.write_all(bytes)).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    answer
}

async fn refusal(circuit: &Circuit, target: Target) -> EndReason {
    let mut stream = circuit.begin(target).unwrap();
    soon(stream.connected()).await.unwrap_err()
}

#[tokio::test]
async fn an_exit_carries_streams_and_their_half_closes() {
    let dir = tempfile::tempdir().unwrap();
    let relay = start(dir.path(), exit(&["accept *:*"], true), unreachable_authority());
    let (circuit, target) = (circuit_over(&relay).await, echo_server().await);
    let bytes: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
    assert_eq!(echo(&circuit, Target::Addr(target), &bytes).await, bytes);
    assert_eq!(echo(&circuit, Target::Name("localhost".into(), target.port()), b"name").await, b"name");
    let mut stream = circuit.begin(Target::Addr(target)).unwrap();
    assert_eq!(soon(stream.connected()).await, Ok(Some(target.ip())));
    relay.end().await;
}

#[tokio::test]
async fn an_exit_says_why_it_does_not_connect() {
    let dir = tempfile::tempdir().unwrap();
    let policy = exit(&["reject *:25", "accept *:*"], true);
    let relay = start(dir.path(), policy, unreachable_authority());
    let circuit = circuit_over(&relay).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(refusal(&circuit, Target::Addr(closed)).await, EndReason::ConnectionRefused);
    assert_eq!(refusal(&circuit, Target::Name("example.com".into(), 25)).await, EndReason::Policy);
    assert_eq!(refusal(&circuit, Target::Name("no name".into(), 80)).await, EndReason::NameNotFound);
    relay.end().await;
}

#[tokio::test]
async fn a_public_exit_does_not_reach_its_own_machine() {
    let dir = tempfile::tempdir().unwrap();
    let relay = start(dir.path(), exit(&["accept *:*"], false), unreachable_authority());
    let (circuit, target) = (circuit_over(&relay).await, echo_server().await);
    let mapped = format!("[::ffff:127.0.0.1]:{}", target.port()).parse().unwrap();
    for target in
        [Target::Addr(target), Target::Addr(mapped), Target::Name("127.0.0.1".into(), target.port())]
    {
        assert_eq!(refusal(&circuit, target).await, EndReason::Policy);
    }
    relay.end().await;
}

#[tokio::test]
async fn a_public_exit_sends_no_datagram_to_its_own_machine() {
    let dir = tempfile::tempdir().unwrap();
    let relay = start(dir.path(), exit(&["accept *:*"], false), unreachable_authority());
    let (circuit, socket) = (circuit_over(&relay).await, UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let port = socket.local_addr().unwrap().port();
    let association = circuit.begin_any(Begin::Datagrams).unwrap().into_datagrams();
    soon(association.connected()).await.unwrap();
    let mapped = format!("[::ffff:127.0.0.1]:{port}").parse().unwrap();
    for peer in [
        Target::Addr(([127, 0, 0, 1], port).into()),
        Target::Addr(mapped),
        Target::Name("127.0.0.1".into(), port),
        Target::Name("localhost".into(), port),
    ] {
        assert!(association.try_send(&Datagram { peer, payload: b"inside".to_vec() }).unwrap());
    }
    let received = tokio::time::timeout(Duration::from_millis(300), socket.recv(&mut [0; 64])).await;
    assert!(received.is_err(), "a datagram reached the exit's own machine");
    relay.end().await;
}

#[tokio::test]
async fn an_exit_tells_who_looks_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let exit = ExitConfig { notice: Some(free), ..exit(&["accept *:*"], false) };
    let relay = start(dir.path(), exit, unreachable_authority());
    let circuit = circuit_over(&relay).await;
    let mut tcp = TcpStream::connect(free).await.unwrap();
    tcp.write_all(b"GET /anything HTTP/1.1\r\nHost: 198.51.100.7\r\n\r\n").await.unwrap();
    let mut page = String::new();
    soon(tcp.read_to_string(&mut page)).await.unwrap();
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("This is a Tunic exit"), "{page}");
    // Its own port is no target for circuits either.
    assert_eq!(refusal(&circuit, Target::Addr(free)).await, EndReason::Policy);
    relay.end().await;
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_until_one_ends() {
    let dir = tempfile::tempdir().unwrap();
    let exit = ExitConfig { max_exit_streams: 1, ..exit(&["accept *:*"], true) };
    let relay = start(dir.path(), exit, unreachable_authority());
    let (circuit, target) = (circuit_over(&relay).await, echo_server().await);
    let mut first = circuit.begin(Target::Addr(target)).unwrap();
    soon(first.connected()).await.unwrap();
    assert_eq!(refusal(&circuit, Target::Addr(target)).await, EndReason::Resources);
    drop(first);
    soon(async {
        while let Err(reason) = circuit.begin(Target::Addr(target)).unwrap().connected().await {
            assert_eq!(reason, EndReason::Resources);
        }
    })
    .await;
    relay.end().await;
}

/// The authority that the test plays: keeps what was posted, and serves a consensus.
struct TestAuthority {
    onion: OnionSecret,
    consensus: Mutex<Option<Vec<u8>>>,
    posted: Mutex<Vec<Vec<u8>>>,
}

struct Shared(Arc<TestAuthority>);

impl Responder for Shared {
    fn lookup(&self, _: RelayId) -> Option<Vec<SocketAddr>> {
        None
    }
    fn begin(&self, _: Target, stream: IncomingStream) {
        stream.reject(EndReason::Policy);
    }
    fn begin_dir(&self, stream: IncomingStream) {
        dirstream::serve(stream, Arc::new(Shared(Arc::clone(&self.0))));
    }
    fn onion_keys(&self) -> Vec<OnionSecret> {
        vec![self.0.onion.clone()]
    }
}

impl DirHandler for Shared {
    fn handle(&self, request: Request) -> Response {
        match request {
            Request::PostDescriptor(bytes) => {
                self.0.posted.lock().unwrap().push(bytes);
                Response::done()
            }
            Request::GetConsensus { .. } => match self.0.consensus.lock().unwrap().clone() {
                Some(bytes) => Response::Ok(bytes.into()),
                None => Response::NotFound,
            },
            _ => Response::Malformed,
        }
    }
}

fn signed_consensus(descriptors: &[Vec<u8>], signer: &Signer, valid_after: UnixTime) -> Vec<u8> {
    let entry = |descriptor: &Vec<u8>| {
        let now = unix_now();
        let descriptor = UncheckedDescriptor::parse(descriptor).unwrap().check_time(now).unwrap();
        descriptor.check_signature(now).unwrap().entry()
    };
    let mut relays: Vec<_> = descriptors.iter().map(entry).collect();
    relays.sort_by_key(|relay| relay.identity);
    let body = ConsensusBody::new(Consensus {
        valid_after,
        fresh_until: valid_after.plus(Duration::from_secs(1_000)),
        valid_until: valid_after.plus(Duration::from_secs(3_000)),
        params: Default::default(),
        relays,
    })
    .unwrap();
    body.assemble(&[body.sign(signer)]).unwrap()
}

/// Starts an authority; what it says is up to the test.
async fn running_authority() -> (Arc<TestAuthority>, Arc<Signer>, AuthorityConfig, Node) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (signer, onion, config) = authority(1, listener.local_addr().unwrap());
    let signer = Arc::new(signer);
    let shared = Arc::new(TestAuthority { onion, consensus: Mutex::default(), posted: Mutex::default() });
    let node = Node::new(NodeConfig {
        signer: Some(Arc::clone(&signer)),
        responder: Some(Arc::new(Shared(Arc::clone(&shared)))),
        memory_budget: MEMORY,
    })
    .unwrap();
    let served = node.clone();
    tokio::spawn(async move { served.serve(listener).await });
    (shared, signer, config, node)
}

#[tokio::test]
async fn a_check_tells_of_clock_and_listing_and_of_a_circuit_that_reaches_the_relay() {
    let (shared, signer, authority, _node) = running_authority().await;
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut relays = Vec::new();
    for dir in &dirs {
        let mut relay = start(dir.path(), ExitConfig::default(), vec![authority.clone()]);
        relay.wait(Status::Published).await;
        relays.push(relay);
    }
    let descriptors = shared.posted.lock().unwrap().clone();
    let config =
        Config { allow_private_relays: true, authorities: vec![authority.clone()], ..Config::default() };
    let own = relays[0].hop.id;
    let ask = async |consensus: Vec<u8>| {
        *shared.consensus.lock().unwrap() = Some(consensus);
        let found = tunic_relay::net::ask_network(&config, Some(own)).await;
        found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let later = unix_now().plus(Duration::from_secs(86_400));
    let said = ask(signed_consensus(&descriptors, &signer, later)).await;
    assert!(said.contains("ok: all 1 authorities") && said.contains("clock is slow"), "{said}");
    let others: Vec<_> = descriptors.iter().skip(2).cloned().collect();
    let said = ask(signed_consensus(&others, &signer, unix_now())).await;
    assert!(said.contains("warning: the consensus does not list this relay"), "{said}");

    let consensus = signed_consensus(&descriptors, &signer, unix_now());
    *shared.consensus.lock().unwrap() = Some(consensus.clone());
    // The other relay has to know of this one, to extend to it.
    for relay in &mut relays {
        relay.wait(Status::Consensus { relays: 2 }).await;
    }
    let said = ask(consensus.clone()).await;
    assert!(said.contains("a circuit through another relay reaches it"), "{said}");
    relays.remove(0).end().await;
    let said = ask(consensus).await;
    assert!(said.contains("problem: the consensus lists this relay, and no circuit"), "{said}");
    for relay in relays {
        relay.end().await;
    }
}

#[tokio::test]
async fn a_relay_publishes_itself_fetches_the_consensus_and_mirrors_it() {
    let dir = tempfile::tempdir().unwrap();
    let (shared, signer, config, node) = running_authority().await;
    let mut relay = start(dir.path(), exit(&["accept *:443"], false), vec![config.clone()]);
    relay.wait(Status::Published).await;
    let descriptor = shared.posted.lock().unwrap()[0].clone();
    let consensus = signed_consensus(std::slice::from_ref(&descriptor), &signer, unix_now());
    *shared.consensus.lock().unwrap() = Some(consensus.clone());
    relay.wait(Status::Consensus { relays: 1 }).await;

    let circuit = circuit_over(&relay).await;
    let get = |have| Request::GetConsensus { have };
    let answer = soon(dirstream::request(&circuit, &get(UnixTime(0)))).await.unwrap();
    assert_eq!(answer, Response::Ok(consensus.clone().into()));
    let answer = soon(dirstream::request(&circuit, &get(unix_now()))).await.unwrap();
    assert_eq!(answer, Response::NotModified);
    let answer = soon(dirstream::request(&circuit, &Request::PostDescriptor(descriptor))).await.unwrap();
    assert!(matches!(answer, Response::Refused(_)), "{answer:?}");
    relay.end().await;

    // The next run starts with what was stored, also when no authority is in reach.
    node.shutdown(Duration::ZERO).await;
    let mut relay = start(dir.path(), exit(&[], false), vec![config]);
    relay.wait(Status::Consensus { relays: 1 }).await;
    let circuit = circuit_over(&relay).await;
    let answer = soon(dirstream::request(&circuit, &get(UnixTime(0)))).await.unwrap();
    assert_eq!(answer, Response::Ok(consensus.into()));
    relay.end().await;
}

#[tokio::test]
async fn garbage_on_the_port_disturbs_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let relay = start(dir.path(), exit(&[], false), unreachable_authority());
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 255, 255], &[0; 4096]] {
        let mut tcp = TcpStream::connect(relay.at).await.unwrap();
        tcp.write_all(garbage).await.unwrap();
        tcp.shutdown().await.unwrap();
        let mut rest = Vec::new();
        // Closed, with or without a TLS alert.
        let _ = soon(tcp.read_to_end(&mut rest)).await;
    }
    assert!(circuit_over(&relay).await.is_open());
    relay.end().await;
}
