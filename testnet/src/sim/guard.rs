//! A relay that holds its neighbours to limits, as the daemons' shell does: a door for channels and circuits, and one core
//! that takes its time for handshakes.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use tunic_proto::channel::HandshakeJob;
use tunic_proto::counters::Incident;
use tunic_proto::limits::{Door, Params, Refusal, Source, Ticket, TurnQueue};
use tunic_proto::message::DestroyReason;

use super::link::{Closed, EndId};
use super::node::NodeId;
use super::world::{Happening, World};

pub(super) struct Guard {
    params: Params,
    door: Door,
    queue: TurnQueue<HandshakeJob>,
    /// What one handshake costs.
    cost: Duration,
    working: bool,
}

impl Guard {
    pub(super) fn enter(&mut self, now: Instant, ip: IpAddr) -> Result<Ticket, Refusal> {
        self.door.enter(now, ip)
    }

    pub(super) fn leave(&mut self, ticket: Ticket) {
        self.door.leave(ticket);
    }
}

impl World {
    /// From now on a relay holds its neighbours to these limits, and computes one handshake after the other.
    pub fn guard(&mut self, node: NodeId, params: Params, handshake_cost: Duration) {
        self.nodes[node.0].guard = Some(Guard {
            params,
            door: Door::new(params, 0),
            queue: TurnQueue::default(),
            cost: handshake_cost,
            working: false,
        });
    }

    /// Where others see a node. At first each is in a subnet of its own.
    pub fn set_address(&mut self, node: NodeId, ip: IpAddr) {
        self.nodes[node.0].address = ip;
    }

    /// Where others see a node.
    pub fn address(&self, node: NodeId) -> IpAddr {
        self.nodes[node.0].address
    }

    /// Whose end this is.
    pub fn node_of(&self, end: EndId) -> NodeId {
        self.ends[end.0].node
    }

    /// A connection comes to a guarded relay; without a ticket, it is closed.
    pub(super) fn enter_guarded(&mut self, caller: NodeId, end: EndId) {
        let (now, ip) = (self.instant(), self.nodes[caller.0].address);
        let is_member = self.nodes[caller.0].signer.is_some();
        let node = &mut self.nodes[self.ends[end.0].node.0];
        let Some(guard) = node.guard.as_mut().filter(|_| !is_member) else { return };
        match guard.enter(now, ip) {
            Ok(ticket) => self.ends[end.0].ticket = Some(ticket),
            Err(refusal) => {
                node.counters.count(refusal.incident());
                self.close(end, Closed::Lost);
            }
        }
    }

    /// A circuit is asked for: at once without a guard, otherwise in its turn.
    pub(super) fn handshake_job(&mut self, end: EndId, job: HandshakeJob) {
        let (now, id) = (self.instant(), self.ends[end.0].node);
        let caller = &self.nodes[self.ends[end.peer().0].node.0];
        let source = match &caller.signer {
            Some(signer) => Source::Relay(signer.id()),
            None => Source::stranger(Some(caller.address)),
        };
        let ticket = self.ends[end.0].ticket;
        let node = &mut self.nodes[id.0];
        let Some(guard) = &mut node.guard else { return node.answer(job) };
        if let Some(Err(refusal)) = ticket.map(|ticket| guard.door.circuit(now, ticket)) {
            node.counters.count(refusal.incident());
            return job.answer(Err(DestroyReason::Resources));
        }
        let limit = guard.params.handshakes_waiting as usize;
        guard.queue.push(now, source, job);
        if let Some(given_up) = guard.queue.give_up_beyond(limit) {
            node.counters.count(Incident::HandshakeLoad);
            given_up.answer(Err(DestroyReason::Resources));
        }
        if !std::mem::replace(&mut guard.working, true) {
            let cost = guard.cost;
            self.schedule(cost, Happening::Computed(id));
        }
    }

    /// A handshake has been computed.
    pub(super) fn computed(&mut self, id: NodeId) {
        let now = self.instant();
        let Some(guard) = &mut self.nodes[id.0].guard else { return };
        let (next, cost) = (guard.queue.pop(now), guard.cost);
        let patience = Duration::from_millis(guard.params.handshake_wait_ms.into());
        guard.working = next.is_some();
        let Some((job, waited)) = next else { return };
        if waited > patience {
            self.nodes[id.0].counters.count(Incident::HandshakeLoad);
            job.answer(Err(DestroyReason::Resources));
            return self.computed(id);
        }
        self.nodes[id.0].answer(job);
        self.schedule(cost, Happening::Computed(id));
    }

    /// The channel at this end is no more.
    pub(super) fn leave_guarded(&mut self, end: EndId) {
        let (ticket, node) = (self.ends[end.0].ticket.take(), self.ends[end.0].node);
        if let (Some(ticket), Some(guard)) = (ticket, &mut self.nodes[node.0].guard) {
            guard.leave(ticket);
        }
    }
}
