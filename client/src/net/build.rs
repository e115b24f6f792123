//! Building one circuit.

use std::sync::Arc;
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

pub(super) async fn build(
    node: Node,
    path: Arc<Path>,
    limit: Duration,
    monitor: Arc<Monitor>,
) -> Result<Built, BuildFailure> {
    let guard = path.hops.first().ok_or(BuildFailure::Guard)?;
    let channel = connect(&node, guard).await.ok_or(BuildFailure::Guard)?;
    monitor.guard_reached(channel.clock_ahead_s());
    let started = now();
    let circuit = create(&channel, path.hops.iter().map(spec).collect(), limit).await?;
    Ok(Built { circuit, took: now() - started })
}

/// A circuit of one hop, for the directory, or to learn whether the relay answers.
pub(super) async fn build_one_hop(
    node: &Node,
    hop: &Hop,
    limit: Duration,
    monitor: &Monitor,
) -> Result<Circuit, BuildFailure> {
    let channel = connect(node, hop).await.ok_or(BuildFailure::Guard)?;
    monitor.clock_seen(channel.clock_ahead_s());
    create(&channel, vec![spec(hop)], limit).await
}

async fn create(channel: &Channel, hops: Vec<HopSpec>, limit: Duration) -> Result<Circuit, BuildFailure> {
    match timeout(limit, channel.create_circuit(hops)).await {
        Ok(Ok(circuit)) => Ok(circuit),
        Ok(Err(BuildError { hop, reason })) => Err(BuildFailure::Hop { hop, reason }),
        Err(_) => Err(BuildFailure::TooSlow),
    }
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
