//! A relay whose bytes are counted: it tires, sleeps, remembers, and wakes with the next interval.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail like tests")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tunic_net::channel::{Channel, HopSpec, Node, NodeConfig, Peer, Rest};
use tunic_net::config::AuthorityConfig;
use tunic_net::daemon::{RunOptions, Status, unix_now};
use tunic_net::keys::NodeKeys;
use tunic_proto::ids::RelayId;
use tunic_proto::keys::OnionKey;
use tunic_relay::config::Config;

const PATIENCE: Duration = Duration::from_secs(60);
const MAX: u64 = 200_000;

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("this takes too long")
}

struct Relay {
    hop: HopSpec,
    at: SocketAddr,
    status: mpsc::UnboundedReceiver<Status>,
    end: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Relay {
    fn start(dir: &Path, max: u64) -> Relay {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let authority = AuthorityConfig {
            name: "nobody".into(),
            identity: RelayId([1; 32]),
            onion_key: OnionKey([2; 32]),
            addresses: vec![nobody],
        };
        let config = Config {
            data_dir: dir.join("data"),
            allow_private_relays: true,
            drain_s: 0,
            authorities: vec![authority],
            accounting_max: Some(max),
            ..Config::default()
        };
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

    async fn wait(&mut self, wanted: Status) {
        while soon(self.status.recv()).await.expect("the relay has ended") != wanted {}
    }

    async fn channel(&self) -> Option<Channel> {
        let node = Node::new(NodeConfig { signer: None, responder: None, memory_budget: 64 << 20 }).unwrap();
        let peer = Peer { id: self.hop.id, addresses: vec![self.at] };
        soon(node.connect(&peer)).await.ok()
    }

    async fn end(self) {
        self.end.send(()).unwrap();
        soon(self.task).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_relay_sleeps_when_its_bytes_are_used_and_a_restart_does_not_wake_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut relay = Relay::start(dir.path(), MAX);
    relay.wait(Status::Listening(relay.at)).await;
    let channel = relay.channel().await.expect("it is awake");
    // Circuits take bytes, built or refused.
    let asks = async {
        while channel.is_open() {
            let _ = channel.create_circuit(vec![relay.hop.clone()]).await;
        }
    };
    soon(asks).await;
    relay.wait(Status::Rest(Rest::NoChannels)).await;
    soon(channel.closed()).await;
    assert!(relay.channel().await.is_none());
    relay.end().await;

    let mut again = Relay::start(dir.path(), MAX);
    again.wait(Status::Rest(Rest::NoChannels)).await;
    assert!(again.channel().await.is_none());
    again.end().await;

    // More is allowed; it is awake, and what was used counts.
    let mut more = Relay::start(dir.path(), 1_000 * MAX);
    more.wait(Status::Listening(more.at)).await;
    assert!(more.channel().await.is_some());
    more.end().await;
    let kept = std::fs::read_to_string(dir.path().join("data/accounting")).unwrap();
    let kept: toml::Table = toml::from_str(&kept).unwrap();
    let used = kept["read"].as_integer().max(kept["written"].as_integer()).unwrap();
    assert!(used >= MAX.cast_signed(), "{kept}");
}
