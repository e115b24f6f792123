//! A relay inside the test's process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tunic_net::channel::{Channel, HopSpec, Node, NodeConfig, Peer};
use tunic_net::config::AuthorityConfig;
use tunic_net::daemon::{RunOptions, Status, unix_now};
use tunic_net::keys::NodeKeys;
use tunic_proto::ids::RelayId;
use tunic_proto::keys::OnionKey;
use tunic_relay::config::Config;

const PATIENCE: Duration = Duration::from_secs(60);
const MEMORY: usize = 64 << 20;

pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("this takes too long")
}

/// An authority at an address where nobody listens.
pub fn unreachable_authority() -> Vec<AuthorityConfig> {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    vec![AuthorityConfig {
        name: "nobody".into(),
        identity: RelayId([1; 32]),
        onion_key: OnionKey([2; 32]),
        addresses: vec![closed],
    }]
}

/// A relay of the test's: its files are made before it starts, so that its keys are known.
pub struct Relay {
    pub hop: HopSpec,
    pub at: SocketAddr,
    status: mpsc::UnboundedReceiver<Status>,
    end: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Relay {
    /// With this configuration, and its data in a folder of `dir`.
    pub fn start(dir: &Path, config: Config) -> Relay {
        let config = Config { data_dir: dir.join("data"), allow_private_relays: true, drain_s: 0, ..config };
        tunic_net::keyfile::ensure_private_dir(&config.data_dir).unwrap();
        let keys = NodeKeys::load_or_create(&config.key_dir(), unix_now()).unwrap();
        let hop = HopSpec { id: keys.signer.id(), onion_key: keys.onion[0].public() };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let (tell, status) = mpsc::unbounded_channel();
        let options = RunOptions {
            listener: Some(Arc::new(listener)),
            status: Some(Arc::new(move |status| tell.send(status).unwrap_or_default())),
            ..RunOptions::default()
        };
        let (end, ended) = oneshot::channel();
        let task = tokio::spawn(tunic_relay::run(config, options, async { drop(ended.await) }));
        Relay { hop, at, status, end, task }
    }

    pub async fn wait(&mut self, wanted: Status) {
        while soon(self.status.recv()).await.expect("the relay has ended") != wanted {}
    }

    /// A channel to it, unless it takes none.
    pub async fn channel(&self) -> Option<Channel> {
        let node = Node::new(NodeConfig { signer: None, responder: None, memory_budget: MEMORY }).unwrap();
        let peer = Peer { id: self.hop.id, addresses: vec![self.at] };
        soon(node.connect(&peer)).await.ok()
    }

    pub async fn end(self) {
        self.end.send(()).unwrap();
        soon(self.task).await.unwrap().unwrap();
    }
}
