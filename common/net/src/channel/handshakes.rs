//! The circuit handshakes that others ask this node for, computed beside the cell path.
//!
//! 1. A request that its address may make waits for its neighbour's turn and a worker.
//! 2. One that has waited too long, or for which there is no room, is refused for load: its client asks elsewhere.

use std::sync::Arc;
use std::time::Duration;

use tunic_proto::channel::HandshakeJob;
use tunic_proto::counters::Incident;
use tunic_proto::crypto::handshake::{HopKeys, REPLY_LEN, respond};
use tunic_proto::limits::Latency;
use tunic_proto::message::DestroyReason;

use super::limits::Guest;
use super::node::{NodeInner, lock};
use super::waiting::{Waiting, Worker};
use crate::{clock, processor};

pub(super) struct Handshakes {
    waiting: Waiting<HandshakeJob>,
    /// How long those that were answered had waited.
    pub(super) latency: Latency,
}

impl Handshakes {
    pub(super) fn new() -> Handshakes {
        Handshakes { waiting: Waiting::new(usize::MAX), latency: Latency::default() }
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

impl NodeInner {
    /// `circuits` is how many the channel has, this one included.
    pub(super) fn answer_handshake(self: &Arc<Self>, job: HandshakeJob, guest: &mut Guest, circuits: usize) {
        if !self.drain.takes_circuits() {
            self.counters.count(Incident::Resources);
            return job.answer(Err(DestroyReason::Resources));
        }
        if let Err(refusal) = self.admission.ask() {
            self.counters.count(refusal);
            return job.answer(Err(DestroyReason::Resources));
        }
        let is_member = guest.caller.id.is_some_and(|id| self.is_member(id));
        let params = self.limits.params();
        if let Err(refusal) = guest.admit_circuit(is_member, circuits, &params) {
            self.counters.count(refusal.incident());
            return job.answer(Err(DestroyReason::Resources));
        }
        let starts = self.handshakes.waiting.push(guest.source(), job);
        if let Some(job) = self.handshakes.waiting.give_up_beyond(params.handshakes_waiting as usize) {
            self.refuse_for_load(job);
        }
        if starts {
            tokio::spawn(self.clone().work());
        }
    }

    async fn work(self: Arc<Self>) {
        let mut worker = Worker::new(&self.handshakes.waiting);
        while let Some((job, waited)) = worker.next() {
            let limit = Duration::from_millis(self.limits.params().handshake_wait_ms.into());
            if waited > limit {
                self.refuse_for_load(job);
                continue;
            }
            self.handshakes.latency.record(waited);
            let answer = self.respond(&job);
            job.answer(answer);
            // Cells go first.
            tokio::task::yield_now().await;
        }
    }

    fn refuse_for_load(&self, job: HandshakeJob) {
        self.counters.count(Incident::HandshakeLoad);
        job.answer(Err(DestroyReason::Resources));
    }

    fn respond(&self, job: &HandshakeJob) -> Result<(Box<[u8; REPLY_LEN]>, HopKeys), DestroyReason> {
        if lock(&self.replays).check_and_insert(&job.request).is_err() {
            self.counters.count(Incident::Replay);
            return Err(DestroyReason::Handshake);
        }
        let keys = self.responder.as_ref().map(|responder| responder.onion_keys()).unwrap_or_default();
        let id = self.signer().ok_or(DestroyReason::Handshake)?.id();
        respond(&job.request, id, &keys, processor::layer_cipher(), &mut clock::rng()).map_err(|_| {
            self.counters.count(Incident::CircuitHandshake);
            DestroyReason::Handshake
        })
    }
}
