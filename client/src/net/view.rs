//! What the manager tells of its circuits.

use std::time::Duration;

use super::manager::Manager;
use super::now;
use crate::core::path::Path;
use crate::core::pool::{BuildFailure, CircuitId, Standing};
use crate::core::status::report::{CircuitList, CircuitReport, HopReport, MAX_CIRCUITS_SHOWN, tenths};

/// The circuits at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    pub(super) circuits: CircuitList,
    /// Circuits that carry streams, or could.
    pub(super) open: usize,
    /// Streams that wait for a circuit.
    pub(super) waiting: usize,
    /// How many had to because circuits are begun at a rate only, and whether some do now.
    pub(super) held_back: u64,
    pub(super) holding_back: bool,
    pub(super) was_ready: bool,
    /// Builds that failed since one succeeded, and how the last one did.
    pub(super) failing: Option<(u32, BuildFailure)>,
    /// The hop at which all of them failed.
    pub(super) failing_hop: Option<usize>,
}

impl Manager {
    /// How the circuits are.
    pub(super) fn look(&self) -> View {
        let mut ids: Vec<CircuitId> = self.live.keys().chain(self.building.keys()).copied().collect();
        ids.sort_unstable();
        let standing = |id: &CircuitId| self.pool.standing(*id, now());
        let spare = ids.iter().filter(|id| standing(id) == Some(Standing::Spare)).count();
        let shown = ids.iter().take(MAX_CIRCUITS_SHOWN).filter_map(|id| self.circuit(*id)).collect();
        let failures = self.pool.failures_in_a_row();
        View {
            circuits: CircuitList { total: ids.len(), building: self.building.len(), spare, shown },
            open: self.live.len(),
            waiting: self.pool.waiting(),
            held_back: self.pool.held_back(),
            holding_back: self.pool.is_holding_back(now()),
            was_ready: self.was_ready,
            failing: (failures > 0).then(|| (failures, self.pool.last_failure())),
            failing_hop: self.streak.hop(),
        }
    }

    fn circuit(&self, id: CircuitId) -> Option<CircuitReport> {
        // A circuit that is about to be forgotten takes no new streams.
        let state = self.pool.standing(id, now()).unwrap_or(Standing::Leaving);
        let base = |path: &Path, since, answered: &[Duration]| {
            let relays: Vec<String> = path.hops.iter().map(|hop| hop.nickname.clone()).collect();
            let answered: Vec<f64> = answered.iter().map(|after| after.as_secs_f64() * 1_000.0).collect();
            CircuitReport {
                id: id.0,
                state,
                age_s: now().saturating_duration_since(since).as_secs(),
                streams: 0,
                build_ms: answered.last().copied().map(tenths),
                hops: HopReport::list(&relays, &answered),
            }
        };
        if let Some(live) = self.live.get(&id) {
            let streams = live.circuit.stream_count();
            return Some(CircuitReport {
                streams,
                ..base(&live.path, live.since, live.circuit.answered_after())
            });
        }
        self.building.get(&id).map(|building| base(&building.path, building.since, &[]))
    }
}
