//! Whether a circuit still carries anything, and leaving one that does not. A relay that stands still, or whose cable was
//! pulled, ends no connection: who waits for it waits for good.
//!
//! The question is a directory stream to the last relay (docs/protocol.md §8.1), whose answer, whatever it is, comes from
//! there and concerns nobody else. If none comes, the guard is asked for a circuit of one hop. If it answers, be it to refuse,
//! those behind it are suspected, otherwise the guard; a guard that mutes longer circuits on purpose is not found out this way
//! (docs/threat-model.md). Relays under suspicion are avoided for a while, and no circuit through them gets new streams.
//! Where there are no streams that could ask, a build that takes long has the guard asked. Builds take long for many reasons, so
//! it has more time to answer then, and a second chance. One that grants a circuit meanwhile does not stand still.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::{self, AbortHandle};
use tokio::time::timeout;
use tunic_net::channel::Circuit;
use tunic_proto::ids::RelayId;
use tunic_proto::message::DestroyReason;

use super::build::build_one_hop;
use super::manager::{Building, Event, Live, Manager};
use super::now;
use crate::core::path::Path;
use crate::core::pool::{BuildFailure, CircuitId, SLOW_BUILD};
use crate::core::status::journal::Mishap;

/// How long a stream may wait for its answer before its circuit is asked.
pub(super) const SUSPICIOUS_AFTER: Duration = Duration::from_secs(3);
/// How long the answers to either question of a stream may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// What became of the questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// The circuit's last relay answers, or the circuit has ended, which its streams notice.
    Answers,
    /// Nothing comes from the end of the circuit, but the guard answers.
    SilentCircuit,
    /// The guard does not answer either.
    SilentGuard,
}

/// A circuit that is being asked, and then perhaps its guard.
pub(super) struct Suspect {
    /// `None` once the circuit did not answer.
    task: Option<AbortHandle>,
    path: Arc<Path>,
    /// The streams that want to know; those of a circuit are limited.
    waiting: Vec<oneshot::Sender<Health>>,
}

/// A guard that is being asked, once for all that want to know.
pub(super) struct Doubt {
    task: AbortHandle,
    path: Arc<Path>,
    /// Whether it has granted a circuit since.
    granted: bool,
    /// Whether it is asked once more if it does not answer.
    again: bool,
}

impl Manager {
    pub(super) fn suspect(&mut self, id: CircuitId, answer: oneshot::Sender<Health>) {
        if let Some(suspect) = self.suspects.get_mut(&id) {
            return suspect.waiting.push(answer);
        }
        let Some(Live { circuit, path, .. }) = self.live.get(&id) else { return };
        let (circuit, path) = (circuit.clone(), path.clone());
        let task = self.tasks.spawn(async move { Event::Probed(id, answers(&circuit).await) });
        self.suspects.insert(id, Suspect { task: Some(task), path, waiting: vec![answer] });
    }

    /// A task ended without a result. If it was to ask somebody, nothing was learned, and the next stream that waits may have
    /// it done again.
    pub(super) fn probe_lost(&mut self, task: task::Id) {
        let is_lost = |asked: Option<&AbortHandle>| asked.is_some_and(|asked| asked.id() == task);
        let suspect = self.suspects.iter().find(|(_, suspect)| is_lost(suspect.task.as_ref()));
        if let Some(id) = suspect.map(|(id, _)| *id) {
            self.probed(id, true);
        }
        let guard = self.doubts.iter().find(|(_, doubt)| is_lost(Some(&doubt.task)));
        if let Some(id) = guard.map(|(id, _)| *id) {
            self.guard_asked(id, None);
        }
    }

    /// The circuit answered, or did not.
    pub(super) fn probed(&mut self, id: CircuitId, answered: bool) {
        if answered {
            return self.judge(id, Health::Answers);
        }
        if let Some(suspect) = self.suspects.get_mut(&id) {
            suspect.task = None;
            let path = suspect.path.clone();
            self.ask_guard(&path, ANSWER_LIMIT, false);
        }
    }

    /// Builds that take long may wait for a guard that stands still, and nobody has a stream over it who would ask.
    pub(super) fn doubt_slow_builds(&mut self) {
        let is_slow = |building: &&mut Building| {
            building.reached.load(Ordering::Relaxed) && now() >= building.since + SLOW_BUILD
        };
        let slow = self.building.values_mut().filter(|building| !building.doubted).filter(is_slow);
        let slow = slow.map(|building| {
            building.doubted = true;
            (building.path.clone(), building.since)
        });
        for (path, since) in slow.collect::<Vec<_>>() {
            self.doubt_guard(&path, since);
        }
    }

    /// A build that began then takes too long: its guard is asked, if it has granted no circuit since.
    pub(super) fn doubt_guard(&mut self, path: &Arc<Path>, since: Instant) {
        let has_granted =
            self.live.values().any(|live| live.since >= since && live.path.guard() == path.guard());
        if !has_granted {
            self.ask_guard(path, SLOW_BUILD, true);
        }
    }

    fn ask_guard(&mut self, path: &Arc<Path>, limit: Duration, again: bool) {
        let Some(guard) = path.hops.first().filter(|guard| !self.doubts.contains_key(&guard.id)) else {
            return;
        };
        let (node, monitor, hop) = (self.node.clone(), self.monitor.clone(), guard.clone());
        let task = self.tasks.spawn(async move {
            let asked = timeout(limit, build_one_hop(&node, &hop, &monitor)).await;
            let failure = asked.unwrap_or(Err(BuildFailure::TooSlow)).err();
            Event::GuardAsked(hop.id, Some(guard_answered(failure)))
        });
        self.doubts.insert(guard.id, Doubt { task, path: path.clone(), granted: false, again });
    }

    /// A circuit over this path was built: whoever asks its guard may be told too late.
    pub(super) fn granted(&mut self, path: &Path) {
        if let Some(doubt) = path.guard().and_then(|guard| self.doubts.get_mut(&guard)) {
            doubt.granted = true;
        }
    }

    /// The guard answered, or did not; `None`: nobody knows.
    pub(super) fn guard_asked(&mut self, guard: RelayId, answered: Option<bool>) {
        let Some(Doubt { path, granted, again, .. }) = self.doubts.remove(&guard) else { return };
        let answered = answered.filter(|answered| *answered || !granted);
        let waiting = self.silent_over(guard);
        if answered == Some(false) {
            if again && waiting.is_empty() {
                return self.ask_guard(&path, SLOW_BUILD, false);
            }
            self.leave_guard(&path);
        }
        let health = match answered {
            None => Health::Answers,
            Some(true) => Health::SilentCircuit,
            Some(false) => Health::SilentGuard,
        };
        for id in waiting {
            self.judge(id, health);
        }
    }

    /// Circuits over this guard that did not answer, whose streams wait for what it says.
    fn silent_over(&self, guard: RelayId) -> Vec<CircuitId> {
        let silent = self.suspects.iter().filter(|(_, suspect)| suspect.task.is_none());
        silent.filter(|(_, suspect)| suspect.path.guard() == Some(guard)).map(|(id, _)| *id).collect()
    }

    fn leave_guard(&mut self, path: &Path) {
        tracing::debug!("the guard stands still");
        self.planner.guard_fell_silent(path, now());
        self.monitor.note(Mishap::silent_guard(path));
        self.pool.guard_fell_silent();
        self.leave(path, 0..1);
    }

    fn judge(&mut self, id: CircuitId, health: Health) {
        let Some(Suspect { path, waiting, .. }) = self.suspects.remove(&id) else { return };
        if health == Health::SilentCircuit {
            let behind = 1..path.hops.len();
            for hop in behind.clone() {
                let failure = BuildFailure::Hop { hop, reason: DestroyReason::Timeout };
                self.planner.failed(&path, failure, now());
            }
            self.leave(&path, behind);
        }
        if health != Health::Answers {
            tracing::debug!(circuit = id.0, ?health, "nothing comes over a circuit any more");
        }
        for answer in waiting {
            let _ = answer.send(health);
        }
    }

    /// Whatever goes or is being built through one of these hops is given up, so that the next path has others.
    fn leave(&mut self, path: &Path, hops: Range<usize>) {
        let silent: Vec<RelayId> = path.hops[hops].iter().map(|hop| hop.id).collect();
        let through = |path: &Path| path.hops.iter().any(|hop| silent.contains(&hop.id));
        let live = self.live.iter().filter(|(_, live)| through(&live.path));
        live.for_each(|(id, _)| self.pool.retire(*id));
        let pool = &mut self.pool;
        self.building.retain(|id, building| {
            let leaves = through(&building.path);
            if leaves {
                building.task.abort();
                // Not a failure of the line: nobody knows what would have become of it.
                pool.closed(*id);
            }
            !leaves
        });
    }
}

/// Whether somebody is there who grants or refuses a circuit of one hop.
fn guard_answered(failure: Option<BuildFailure>) -> bool {
    match failure {
        None => true,
        Some(BuildFailure::Hop { reason, .. }) => !matches!(
            reason,
            DestroyReason::ChannelLost | DestroyReason::ConnectFailed | DestroyReason::Timeout
        ),
        Some(_) => false,
    }
}

async fn answers(circuit: &Circuit) -> bool {
    match circuit.begin_dir() {
        Ok(mut stream) => timeout(ANSWER_LIMIT, stream.connected()).await.is_ok(),
        Err(_) => true,
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
