//! Whether a circuit still carries anything, and leaving one that does not. A relay that stands still, or whose cable was
//! pulled, ends no connection: who waits for it waits for good.
//!
//! The question is a directory stream to the last relay (docs/protocol.md §8.1), whose answer, whatever it is, comes from
//! there and concerns nobody else. If none comes, the guard is asked for a circuit of one hop. If it answers, be it to refuse,
//! those behind it are suspected, otherwise the guard; a guard that mutes circuits on purpose is not found out this way
//! (docs/threat-model.md). Relays under suspicion are avoided for a while, and no circuit through them gets new streams.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{self, AbortHandle};
use tokio::time::timeout;
use tunic_net::channel::{Circuit, Node};
use tunic_proto::ids::RelayId;
use tunic_proto::message::DestroyReason;

use super::build::build_one_hop;
use super::manager::{Event, Manager};
use super::monitor::Monitor;
use super::now;
use crate::core::path::{Hop, Path};
use crate::core::pool::{BuildFailure, CircuitId};

/// How long a stream may wait for its answer before its circuit is asked.
pub(super) const SUSPICIOUS_AFTER: Duration = Duration::from_secs(3);
/// How long the answers to either question may take.
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

/// A circuit that is being asked.
pub(super) struct Suspect {
    task: AbortHandle,
    /// The streams that want to know; those of a circuit are limited.
    waiting: Vec<oneshot::Sender<Health>>,
}

impl Manager {
    pub(super) fn suspect(&mut self, id: CircuitId, answer: oneshot::Sender<Health>) {
        if let Some(suspect) = self.suspects.get_mut(&id) {
            return suspect.waiting.push(answer);
        }
        let Some((live, guard)) = self.live.get(&id).and_then(|live| Some((live, live.path.hops.first()?)))
        else {
            return;
        };
        let asked = probe(self.node.clone(), self.monitor.clone(), live.circuit.clone(), guard.clone());
        let task = self.tasks.spawn(async move { Event::Probed(id, asked.await) });
        self.suspects.insert(id, Suspect { task, waiting: vec![answer] });
    }

    /// A task ended without a result. If it was to ask a circuit, nothing was learned, and the next stream that waits may have
    /// it asked again.
    pub(super) fn probe_lost(&mut self, task: task::Id) {
        let lost = self.suspects.iter().find(|(_, suspect)| suspect.task.id() == task).map(|(id, _)| *id);
        if let Some(id) = lost {
            self.probed(id, Health::Answers);
        }
    }

    pub(super) fn probed(&mut self, id: CircuitId, health: Health) {
        if let Some(path) = self.live.get(&id).map(|live| live.path.clone()) {
            match health {
                Health::Answers => {}
                Health::SilentGuard => {
                    self.planner.guard_fell_silent(&path, now());
                    self.leave(&path, 0..1);
                }
                Health::SilentCircuit => {
                    let reason = DestroyReason::Timeout;
                    let behind = 1..path.hops.len();
                    let failed = |hop| BuildFailure::Hop { hop, reason };
                    behind.clone().for_each(|hop| self.planner.failed(&path, failed(hop), now()));
                    self.leave(&path, behind);
                }
            }
        }
        if health != Health::Answers {
            tracing::debug!(circuit = id.0, ?health, "nothing comes over a circuit any more");
        }
        for answer in self.suspects.remove(&id).into_iter().flat_map(|suspect| suspect.waiting) {
            let _ = answer.send(health);
        }
    }

    /// Whatever goes or is being built through one of these hops is given up, so that the next path has others.
    fn leave(&mut self, path: &Path, hops: Range<usize>) {
        let silent: Vec<RelayId> = path.hops[hops].iter().map(|hop| hop.id).collect();
        let through = |path: &Path| path.hops.iter().any(|hop| silent.contains(&hop.id));
        let live = self.live.iter().filter(|(_, live)| through(&live.path));
        live.for_each(|(id, _)| self.pool.retire(*id));
        let begun = self.building.iter().filter(|(_, building)| through(&building.path));
        for id in begun.map(|(id, _)| *id).collect::<Vec<_>>() {
            if let Some(building) = self.building.remove(&id) {
                building.task.abort();
                self.failed(id, BuildFailure::TooSlow, Some(&building.path));
            }
        }
    }
}

async fn probe(node: Node, monitor: Arc<Monitor>, circuit: Circuit, guard: Hop) -> Health {
    if answers(&circuit).await {
        return Health::Answers;
    }
    let asked = timeout(ANSWER_LIMIT, build_one_hop(&node, &guard, ANSWER_LIMIT, &monitor)).await;
    if guard_answered(asked.unwrap_or(Err(BuildFailure::TooSlow)).err()) {
        Health::SilentCircuit
    } else {
        Health::SilentGuard
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
mod tests {
    use super::*;
    use crate::core::path::PathError;

    #[test]
    fn a_guard_that_refuses_is_not_silent() {
        let refused = |reason| Some(BuildFailure::Hop { hop: 0, reason });
        assert!(guard_answered(None));
        for reason in [
            DestroyReason::None,
            DestroyReason::Protocol,
            DestroyReason::Internal,
            DestroyReason::Resources,
            DestroyReason::Handshake,
        ] {
            assert!(guard_answered(refused(reason)), "{reason}");
        }
        for reason in [DestroyReason::ChannelLost, DestroyReason::ConnectFailed, DestroyReason::Timeout] {
            assert!(!guard_answered(refused(reason)), "{reason}");
        }
        for failure in [BuildFailure::Guard, BuildFailure::TooSlow, PathError::NoGuard.into()] {
            assert!(!guard_answered(Some(failure)), "{failure}");
        }
    }

    #[tokio::test]
    async fn a_question_that_crashes_or_is_given_up_leaves_nothing() {
        for crashes in [true, false] {
            let mut manager = Manager::for_testing();
            let (answer, mut answered) = oneshot::channel();
            let task = manager.tasks.spawn(async move {
                assert!(!crashes, "a crash that is wanted");
                std::future::pending().await
            });
            if !crashes {
                task.abort();
            }
            manager.suspects.insert(CircuitId(1), Suspect { task, waiting: vec![answer] });
            let ended = manager.tasks.join_next().await.unwrap();
            manager.finish(ended);
            assert!(manager.suspects.is_empty(), "another stream may have it asked again");
            assert_eq!(answered.try_recv(), Ok(Health::Answers));
        }
    }
}
