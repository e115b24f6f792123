//! The other authorities, each asked over a circuit of one hop that is kept.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tunic_net::channel::{Circuit, HopSpec, Node, Peer};
use tunic_net::config::AuthorityConfig;
use tunic_net::dirstream;
use tunic_proto::dir::{Request, Response};
use tunic_proto::ids::RelayId;

/// How long connecting to a peer may take, all addresses together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// All authorities but this one.
pub(super) struct Peers {
    node: Node,
    list: Vec<Arc<PeerAuthority>>,
}

/// Another authority.
pub(super) struct PeerAuthority {
    config: AuthorityConfig,
    /// From 1, as the configuration lists them: what logs call it.
    pub number: usize,
    /// Locked while it is being built, so that it is built once.
    circuit: Mutex<Option<Circuit>>,
}

impl Peers {
    pub(super) fn new(node: Node, authorities: &[AuthorityConfig], own: RelayId) -> Self {
        let others = authorities.iter().enumerate().filter(|(_, authority)| authority.identity != own);
        let peer = |(i, config): (usize, &AuthorityConfig)| {
            Arc::new(PeerAuthority { config: config.clone(), number: i + 1, circuit: Mutex::default() })
        };
        Peers { node, list: others.map(peer).collect() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<PeerAuthority>> {
        self.list.iter()
    }

    pub(super) fn get(&self, id: RelayId) -> Option<&Arc<PeerAuthority>> {
        self.list.iter().find(|peer| peer.config.identity == id)
    }

    /// Asks a peer.
    ///
    /// # Errors
    /// If it cannot be reached, is not who it should be, or breaks the protocol. What it refuses is a response.
    pub(super) async fn ask(&self, peer: &PeerAuthority, request: &Request) -> anyhow::Result<Response> {
        let circuit = timeout(CONNECT_TIMEOUT, self.circuit(peer)).await.context("connecting")??;
        let result = dirstream::request(&circuit, request).await;
        if result.is_err() {
            // It may hang for good: the next attempt gets another.
            *peer.circuit.lock().await = None;
        }
        Ok(result?)
    }

    async fn circuit(&self, peer: &PeerAuthority) -> anyhow::Result<Circuit> {
        let mut kept = peer.circuit.lock().await;
        if let Some(circuit) = kept.as_ref().filter(|circuit| circuit.is_open()) {
            return Ok(circuit.clone());
        }
        let PeerAuthority { config, .. } = peer;
        let target = Peer { id: config.identity, addresses: config.addresses.clone() };
        let channel = self.node.connect(&target).await?;
        let hop = HopSpec { id: config.identity, onion_key: config.onion_key };
        let circuit = channel.create_circuit(vec![hop]).await?;
        *kept = Some(circuit.clone());
        Ok(circuit)
    }
}
