//! Building one circuit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use tunic_net::channel::{BuildError, Channel, Circuit, HopSpec, Node, Peer};

use super::monitor::Monitor;
use super::now;
use crate::core::path::{Hop, Path};
use crate::core::pool::BuildFailure;

/// How long opening a channel to the guard may take. Not part of the learned time, which is that of the circuit.
const CHANNEL_TIMEOUT: Duration = Duration::from_secs(15);

/// A circuit, and how long it took to build once the channel was open.
pub(super) struct Built {
    pub(super) circuit: Circuit,
    pub(super) took: Duration,
}

/// Sets `reached` once the channel to the guard is open.
pub(super) async fn build(
    node: Node,
    path: Arc<Path>,
    limit: Duration,
    monitor: Arc<Monitor>,
    reached: Arc<AtomicBool>,
) -> Result<Built, BuildFailure> {
    let guard = path.hops.first().ok_or(BuildFailure::Guard)?;
    let channel = connect(&node, guard).await.ok_or(BuildFailure::Guard)?;
    reached.store(true, Ordering::Relaxed);
    monitor.guard_reached(channel.clock_ahead_s());
    let started = now();
    let create = create(&channel, path.hops.iter().map(spec).collect());
    let circuit = timeout(limit, create).await.unwrap_or(Err(BuildFailure::TooSlow))?;
    Ok(Built { circuit, took: now() - started })
}

/// A circuit of one hop, for the directory, or to learn whether the relay answers. The caller limits how long that may take.
pub(super) async fn build_one_hop(
    node: &Node,
    hop: &Hop,
    monitor: &Monitor,
) -> Result<Circuit, BuildFailure> {
    let channel = connect(node, hop).await.ok_or(BuildFailure::Guard)?;
    monitor.clock_seen(channel.clock_ahead_s());
    create(&channel, vec![spec(hop)]).await
}

async fn create(channel: &Channel, hops: Vec<HopSpec>) -> Result<Circuit, BuildFailure> {
    let created = channel.create_circuit(hops).await;
    created.map_err(|BuildError { hop, reason }| BuildFailure::Hop { hop, reason })
}

async fn connect(node: &Node, hop: &Hop) -> Option<Channel> {
    let peer = Peer { id: hop.id, addresses: hop.addresses.clone() };
    match timeout(CHANNEL_TIMEOUT, node.connect(&peer)).await {
        Ok(Ok(channel)) => Some(channel),
        Ok(Err(error)) => {
            tracing::debug!(relay = %hop.nickname, %error, "no channel");
            None
        }
        Err(_) => {
            tracing::debug!(relay = %hop.nickname, "no channel in time");
            None
        }
    }
}

fn spec(hop: &Hop) -> HopSpec {
    HopSpec { id: hop.id, onion_key: hop.onion_key }
}
