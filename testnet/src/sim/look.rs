//! What a test sees of a world.

use std::hash::Hasher;
use std::sync::Arc;
use std::time::Duration;

use tunic_proto::channel::Channel;
use tunic_proto::circuit::HopSpec;
use tunic_proto::counters::{Counters, Incident};
use tunic_proto::keys::Signer;
use tunic_proto::padding::PaddingTotals;

use super::link::{Closed, End, EndId, State};
use super::node::{NodeId, Reach};
use super::world::World;

impl World {
    /// How circuits name a relay.
    pub fn hop(&self, node: NodeId) -> HopSpec {
        self.nodes[node.0].hop()
    }

    /// What a node counted.
    pub fn counters(&self, node: NodeId) -> &Counters {
        &self.nodes[node.0].counters
    }

    /// How often a node counted this.
    pub fn count(&self, node: NodeId, incident: Incident) -> u64 {
        self.counters(node).get(incident)
    }

    /// Cells that a node has reserved.
    pub fn used_cells(&self, node: NodeId) -> usize {
        self.nodes[node.0].budget.used_cells()
    }

    /// Virtual time since the beginning.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// A digest of everything that was delivered so far, and when.
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// Whether the channel handshake of this end is done.
    pub fn is_open(&self, end: EndId) -> bool {
        matches!(self.ends[end.0].state, State::Open(_) | State::Raw(_))
    }

    /// Why the connection is no more.
    pub fn closed(&self, end: EndId) -> Option<Closed> {
        match self.ends[end.0].state {
            State::Closed(why) => Some(why),
            _ => None,
        }
    }

    /// The ends of a node's connections, closed ones included.
    pub fn ends_of(&self, node: NodeId) -> Vec<EndId> {
        (0..self.ends.len()).map(EndId).filter(|end| self.ends[end.0].node == node).collect()
    }

    /// The node's end of its open connection to another node.
    pub fn end_between(&self, from: NodeId, to: NodeId) -> Option<EndId> {
        let leads = |end: &EndId| self.ends[end.peer().0].node == to && self.is_open(*end);
        self.ends_of(from).into_iter().find(leads)
    }

    /// The channel at an end.
    pub fn channel(&self, end: EndId) -> Option<&Channel> {
        self.ends[end.0].channel()
    }

    /// Bytes sent from this end.
    pub fn sent(&self, end: EndId) -> u64 {
        self.ends[end.0].sent
    }

    /// What an eavesdropper has seen leaving this end since [`World::watch`]: when, and how many bytes.
    pub fn watched(&self, end: EndId) -> &[(Duration, usize)] {
        self.ends[end.0].watched.as_deref().unwrap_or_default()
    }

    /// What padding has cost a node.
    pub fn padding(&self, node: NodeId) -> PaddingTotals {
        self.nodes[node.0].padding_stats.totals()
    }

    /// Circuits on all channels of a node.
    pub fn circuit_count(&self, node: NodeId) -> usize {
        self.channels(node).map(Channel::circuit_count).sum()
    }

    /// Bytes that queued cells occupy at a node.
    pub fn stored_bytes(&self, node: NodeId) -> usize {
        self.channels(node).map(|channel| channel.inbox().stored_bytes()).sum()
    }

    fn channels(&self, node: NodeId) -> impl Iterator<Item = &Channel> {
        self.ends.iter().filter(move |end| end.node == node).filter_map(End::channel)
    }

    /// What every end that was closed for a violation says about its peer.
    pub fn violations(&self) -> Vec<(EndId, Closed)> {
        let ends = (0..self.ends.len()).map(EndId);
        ends.filter_map(|end| Some((end, self.closed(end)?)))
            .filter(|(_, why)| *why != Closed::Lost)
            .collect()
    }

    /// Whether nobody can reach the node.
    pub fn is_dead(&self, node: NodeId) -> bool {
        self.nodes[node.0].reach == Reach::Unreachable
    }

    /// The signing key of a relay or an authority.
    pub fn signer(&self, node: NodeId) -> Option<Arc<Signer>> {
        self.nodes[node.0].signer.clone()
    }

    /// Applications that have not ended.
    pub fn app_count(&self) -> usize {
        self.apps.iter().flatten().count()
    }
}
