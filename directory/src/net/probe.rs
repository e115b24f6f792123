//! Finds out whether a relay answers as itself.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use tunic_net::channel::{ConnectError, Node, NodeConfig, Peer};
use tunic_proto::ids::RelayId;

/// How long connecting may take, to all addresses at once; below the core's own limit.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How long the channel may take to end.
const GRACE: Duration = Duration::from_secs(1);
/// A channel holds next to nothing when no circuit is built on it.
const MEMORY_BUDGET: usize = 1 << 20;

/// Whether the relay opens a channel at each of its addresses and proves its identity there.
///
/// At each: exits refuse to connect to the ports of listed relays, and relays connect to them, so a relay that could list
/// addresses that are not its own could cut the network off from a site, or send its relays there.
///
/// A node of its own, as a client has: a channel that the relay opened towards this authority proves nothing about its
/// addresses, and must not be reused.
///
/// # Errors
/// Why it does not.
pub(super) async fn probe(relay: RelayId, addresses: Vec<SocketAddr>) -> Result<(), ConnectError> {
    let mut probes = JoinSet::new();
    for address in addresses {
        probes.spawn(probe_at(relay, address));
    }
    while let Some(result) = probes.join_next().await {
        result.map_err(io::Error::other)??;
    }
    Ok(())
}

async fn probe_at(relay: RelayId, address: SocketAddr) -> Result<(), ConnectError> {
    let node = Node::new(NodeConfig { signer: None, responder: None, memory_budget: MEMORY_BUDGET })?;
    let peer = Peer { id: relay, addresses: vec![address] };
    let result = timeout(TIMEOUT, node.connect(&peer)).await.unwrap_or(Err(ConnectError::Timeout));
    node.shutdown(GRACE).await;
    result.map(drop)
}
