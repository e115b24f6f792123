//! Authorities and relays in one process, on loopback.
#![allow(clippy::disallowed_methods, reason = "tests make their own keys and measure time")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed setup is a failed test")]

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tunic_directory::config::{Config, RoundsConfig};
use tunic_net::channel::{Circuit, HopSpec, IncomingStream, Node, NodeConfig, Peer, Responder};
use tunic_net::config::AuthorityConfig;
use tunic_net::daemon::{RunOptions, Status, unix_now};
use tunic_net::keys::NodeKeys;
use tunic_net::{dirstream, keyfile};
use tunic_proto::dir::{AuthoritySet, Descriptor, ExitPolicy, Request, Response};
use tunic_proto::ids::RelayId;
use tunic_proto::keys::{IdentityKey, OnionSecret, Signer};
use tunic_proto::message::{EndReason, Target};

/// Longer than anything here takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running authority.
pub struct Authority {
    pub config: Config,
    pub status: mpsc::UnboundedReceiver<Status>,
    end: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
    listener: Arc<TcpListener>,
}

impl Authority {
    pub fn start(config: Config, listener: Arc<TcpListener>) -> Self {
        let (tell, status) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel::<()>();
        let options = RunOptions {
            listener: Some(listener.clone()),
            status: Some(Arc::new(move |status| {
                let _ = tell.send(status);
            })),
            ..RunOptions::default()
        };
        let run = tunic_directory::run(config.clone(), options, async {
            let _ = ended.await;
        });
        Authority { config, status, end, task: tokio::spawn(run), listener }
    }

    /// Ends it, and gives back what is needed to start it again.
    pub async fn stop(self) -> (Config, Arc<TcpListener>) {
        self.end.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
        (self.config, self.listener)
    }

    /// Waits until it tells this.
    pub async fn wait_for(&mut self, wanted: impl Fn(&Status) -> bool) -> Status {
        let next = async {
            loop {
                let status = self.status.recv().await.expect("the authority has ended");
                if wanted(&status) {
                    return status;
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("the authority never got so far")
    }
}

/// Authorities that know each other, as a testnet sets them up.
pub async fn authorities(count: usize, dir: &Path, bootstrap_relays: usize) -> Vec<Authority> {
    let mut listeners = Vec::new();
    let mut list = Vec::new();
    for i in 0..count {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let data_dir = dir.join(i.to_string());
        keyfile::ensure_private_dir(&data_dir).unwrap();
        let config = Config { data_dir, ..Config::default() };
        let keys = NodeKeys::create(&config.key_dir(), unix_now()).unwrap();
        list.push(AuthorityConfig {
            name: i.to_string(),
            identity: keys.signer.id(),
            onion_key: keys.onion[0].public(),
            addresses: vec![listener.local_addr().unwrap()],
        });
        listeners.push((config, Arc::new(listener)));
    }
    let rounds = RoundsConfig { bootstrap_interval_s: 1, bootstrap_relays, ..RoundsConfig::default() };
    let start = |(config, listener): (Config, _)| {
        let config = Config { rounds, authorities: list.clone(), allow_private_relays: true, ..config };
        Authority::start(config, listener)
    };
    listeners.into_iter().map(start).collect()
}

/// Answers channels, nothing else.
struct Silent(OnionSecret);

impl Responder for Silent {
    fn lookup(&self, _id: RelayId) -> Option<Vec<SocketAddr>> {
        None
    }

    fn begin(&self, _target: Target, stream: IncomingStream) {
        stream.reject(EndReason::Policy);
    }

    fn begin_dir(&self, stream: IncomingStream) {
        stream.reject(EndReason::NotDirectory);
    }

    fn onion_keys(&self) -> Vec<OnionSecret> {
        vec![self.0.clone()]
    }
}

/// A relay that listens.
pub struct Relay {
    pub node: Node,
    pub signer: Arc<Signer>,
    pub descriptor: Descriptor,
}

pub async fn relay(number: usize) -> Relay {
    let mut rng = rand::rng();
    let signer =
        IdentityKey::generate(&mut rng).certify(unix_now().plus(Duration::from_secs(3_600)), &mut rng);
    let signer = Arc::new(signer);
    let onion = OnionSecret::generate(&mut rng);
    let onion_key = onion.public();
    let responder: Arc<dyn Responder> = Arc::new(Silent(onion));
    let config =
        NodeConfig { signer: Some(signer.clone()), responder: Some(responder), memory_budget: 16 << 20 };
    let node = Node::new(config).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = node.clone();
    tokio::spawn(async move { serving.serve(listener).await });
    let descriptor = Descriptor {
        nickname: format!("relay{number}"),
        identity: signer.id(),
        published: unix_now(),
        addresses: vec![address],
        onion_key,
        exit: ExitPolicy::accept_all(),
        family: vec![],
        bandwidth: 1_000_000,
        version: "test".into(),
        protocols: vec![1],
    };
    Relay { node, signer, descriptor }
}

/// A circuit of one hop to this authority.
pub async fn circuit(node: &Node, authority: &AuthorityConfig) -> Circuit {
    let peer = Peer { id: authority.identity, addresses: authority.addresses.clone() };
    let channel = node.connect(&peer).await.unwrap();
    let hop = HopSpec { id: authority.identity, onion_key: authority.onion_key };
    channel.create_circuit(vec![hop]).await.unwrap()
}

pub async fn ask(node: &Node, authority: &AuthorityConfig, request: &Request) -> Response {
    dirstream::request(&circuit(node, authority).await, request).await.unwrap()
}

impl Relay {
    pub async fn upload(&self, authorities: &[AuthorityConfig]) {
        let signed = self.descriptor.clone().sign(&self.signer).unwrap();
        for authority in authorities {
            let request = Request::PostDescriptor(signed.bytes().to_vec());
            assert_eq!(ask(&self.node, authority, &request).await, Response::done());
        }
    }
}

pub fn set(authorities: &[AuthorityConfig]) -> AuthoritySet {
    AuthoritySet::new(authorities.iter().map(|authority| authority.identity))
}

/// A node that proves nothing about itself.
pub fn client() -> Node {
    Node::new(NodeConfig { signer: None, responder: None, memory_budget: 16 << 20 }).unwrap()
}
