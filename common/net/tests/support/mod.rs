//! Relays and clients in one process, on loopback.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::disallowed_methods, reason = "tests make their own keys")]
#![allow(clippy::unwrap_used, reason = "a failed setup is a failed test")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tunic_net::channel::{CircuitStream, HopSpec, IncomingStream, Node, NodeConfig, Peer, Responder, splice};
use tunic_net::daemon::unix_now;
use tunic_proto::ids::RelayId;
use tunic_proto::keys::{IdentityKey, OnionSecret};
use tunic_proto::message::{EndReason, Target};

const BUDGET: usize = 64 << 20;

type Directory = Arc<Mutex<HashMap<RelayId, SocketAddr>>>;

/// Streams that a relay has been handed and whose task has not run yet.
#[derive(Default)]
pub struct Backlog {
    pub now: AtomicUsize,
    pub most: AtomicUsize,
}

/// Connects wherever it is asked to.
struct Exit {
    directory: Directory,
    onion: OnionSecret,
    backlog: Arc<Backlog>,
}

impl Responder for Exit {
    fn lookup(&self, id: RelayId) -> Option<Vec<SocketAddr>> {
        Some(vec![*self.directory.lock().unwrap().get(&id)?])
    }

    fn begin(&self, target: Target, stream: IncomingStream) {
        let backlog = self.backlog.clone();
        backlog.most.fetch_max(backlog.now.fetch_add(1, Relaxed) + 1, Relaxed);
        tokio::spawn(async move {
            backlog.now.fetch_sub(1, Relaxed);
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

pub struct Relay {
    pub node: Node,
    pub hop: HopSpec,
    pub peer: Peer,
    pub backlog: Arc<Backlog>,
}

async fn relay(directory: &Directory) -> Relay {
    let mut rng = rand::rng();
    let identity = IdentityKey::generate(&mut rng);
    let signer = Arc::new(identity.certify(unix_now().plus(Duration::from_secs(3_600)), &mut rng));
    let onion = OnionSecret::generate(&mut rng);
    let hop = HopSpec { id: signer.id(), onion_key: onion.public() };
    let backlog = Arc::<Backlog>::default();
    let responder: Arc<dyn Responder> =
        Arc::new(Exit { directory: directory.clone(), onion, backlog: backlog.clone() });
    let config = NodeConfig { signer: Some(signer), responder: Some(responder), memory_budget: BUDGET };
    let node = Node::new(config).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    directory.lock().unwrap().insert(hop.id, address);
    let serving = node.clone();
    tokio::spawn(async move { serving.serve(listener).await });
    Relay { node, peer: Peer { id: hop.id, addresses: vec![address] }, hop, backlog }
}

pub async fn relays(count: usize) -> Vec<Relay> {
    let directory = Directory::default();
    let mut relays = Vec::new();
    for _ in 0..count {
        relays.push(relay(&directory).await);
    }
    relays
}

pub fn client() -> Node {
    Node::new(NodeConfig { signer: None, responder: None, memory_budget: BUDGET }).unwrap()
}

/// A TCP server that sends back what it gets, and ends when its client does.
pub async fn echo_server() -> SocketAddr {
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
pub async fn echo(stream: CircuitStream) {
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
