//! Whether a circuit still carries anything, and leaving one that does not. A relay that stands still, or whose cable was
//! pulled, ends no connection: who waits for it waits for good.
//!
//! The question is a directory stream to the last relay (docs/protocol.md §8.1), whose answer, whatever it is, comes from
//! there and concerns nobody else. If none comes, the guard is asked for a circuit of one hop. If it answers, those behind it
//! are suspected, otherwise the guard; a guard that mutes circuits on purpose is not found out this way
//! (docs/threat-model.md). Relays under suspicion are avoided for a while, and no circuit through them gets new streams.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
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

impl Manager {
    pub(super) fn suspect(&mut self, id: CircuitId, answer: oneshot::Sender<bool>) {
        let Some((live, guard)) = self.live.get(&id).and_then(|live| Some((live, live.path.hops.first()?)))
        else {
            return;
        };
        let waiting = self.suspects.entry(id).or_default();
        waiting.push(answer);
        if waiting.len() == 1 {
            let asked = probe(self.node.clone(), self.monitor.clone(), live.circuit.clone(), guard.clone());
            self.tasks.spawn(async move { Event::Probed(id, asked.await) });
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
        for answer in self.suspects.remove(&id).unwrap_or_default() {
            let _ = answer.send(health != Health::Answers);
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
    match timeout(ANSWER_LIMIT, build_one_hop(&node, &guard, ANSWER_LIMIT, &monitor)).await {
        Ok(Some(_)) => Health::SilentCircuit,
        _ => Health::SilentGuard,
    }
}

async fn answers(circuit: &Circuit) -> bool {
    match circuit.begin_dir() {
        Ok(mut stream) => timeout(ANSWER_LIMIT, stream.connected()).await.is_ok(),
        Err(_) => true,
    }
}
