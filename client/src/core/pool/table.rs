//! The circuits that there are, with what finds those that matter without looking at all: programs with an identity for each task
//! have hundreds of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use tunic_proto::dir::ExitPolicy;
use tunic_proto::ids::RelayId;

use super::circuit::{Circuit, Usage, Waiting};
use super::{Build, CircuitId, IDLE_CHECK, Load, MAX_STREAMS, Standing};
use crate::core::isolation::Isolation;

#[derive(Default)]
pub(super) struct Table {
    building: BTreeMap<CircuitId, Build>,
    ready: BTreeMap<CircuitId, Circuit>,
    /// Of the ready ones those that are kept for whoever comes first.
    spares: BTreeSet<CircuitId>,
    /// Of the ready ones those that belong to an isolation.
    owned: HashMap<Isolation, Vec<CircuitId>>,
    /// No circuit has to be closed before; `None` if there is none.
    next_end: Option<Instant>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.building.len() + self.ready.len()
    }

    pub(super) fn begin(&mut self, build: Build) {
        self.building.insert(build.circuit, build);
    }

    /// Those being built, the oldest first.
    pub(super) fn building(&self) -> impl Iterator<Item = &Build> {
        self.building.values()
    }

    pub(super) fn build(&self, id: CircuitId) -> Option<&Build> {
        self.building.get(&id)
    }

    /// It is being built no more.
    pub(super) fn end_build(&mut self, id: CircuitId) -> Option<Build> {
        self.building.remove(&id)
    }

    /// A circuit to this exit, begun then, is built, and a spare from now on.
    pub(super) fn add(&mut self, id: CircuitId, exit: RelayId, policy: ExitPolicy, started: Instant) {
        let circuit = Circuit { exit, policy, started, usage: Usage::Spare };
        self.ends(circuit.ends(started));
        self.spares.insert(id);
        self.ready.insert(id, circuit);
    }

    /// The oldest first.
    pub(super) fn spares(&self) -> impl Iterator<Item = &Circuit> {
        self.spares.iter().filter_map(|id| self.ready.get(id))
    }

    pub(super) fn standing(&self, id: CircuitId, now: Instant) -> Option<Standing> {
        let building = self.building.get(&id).map(|_| Standing::Building);
        building.or_else(|| Some(self.ready.get(&id)?.standing(now)))
    }

    /// Of the want's own isolation the one with the fewest streams; else the oldest spare.
    pub(super) fn offer(&self, waiting: &Waiting, now: Instant, load: Load<'_>) -> Option<CircuitId> {
        let suits = |id: &CircuitId| self.ready.get(id).is_some_and(|circuit| circuit.suits(waiting, now));
        let own = self.owned.get(&waiting.want.isolation).into_iter().flatten();
        let own = own.filter(|id| suits(id)).map(|id| (load(*id), *id));
        let best = own.filter(|(streams, _)| *streams < MAX_STREAMS).min().map(|(_, id)| id);
        best.or_else(|| self.spares.iter().copied().find(suits))
    }

    /// The circuit belongs to this isolation from now on, if it was a spare.
    pub(super) fn assign(&mut self, id: CircuitId, isolation: &Isolation, now: Instant) -> bool {
        if !self.spares.remove(&id) {
            return false;
        }
        let Some(circuit) = self.ready.get_mut(&id) else { return false };
        circuit.usage = Usage::Assigned { isolation: isolation.clone(), first_used: now };
        let end = circuit.ends(now);
        self.ends(end);
        self.owned.entry(isolation.clone()).or_default().push(id);
        true
    }

    /// It gets no new streams.
    pub(super) fn retire(&mut self, id: CircuitId) {
        self.detach(id);
        if let Some(circuit) = self.ready.get_mut(&id) {
            circuit.usage = Usage::Retired;
            // At the next opportunity.
            self.next_end = Some(circuit.started);
        }
    }

    pub(super) fn remove(&mut self, id: CircuitId) {
        self.detach(id);
        self.ready.remove(&id);
        self.building.remove(&id);
    }

    fn detach(&mut self, id: CircuitId) {
        self.spares.remove(&id);
        let Some(Usage::Assigned { isolation, .. }) = self.ready.get(&id).map(|circuit| &circuit.usage)
        else {
            return;
        };
        if let Some(owned) = self.owned.get_mut(isolation) {
            owned.retain(|other| *other != id);
            if owned.is_empty() {
                self.owned.remove(isolation);
            }
        }
    }

    fn ends(&mut self, end: Instant) {
        self.next_end = Some(self.next_end.map_or(end, |next| next.min(end)));
    }

    /// Those whose time is over and that are idle, all of which are to be removed.
    pub(super) fn ended(&mut self, now: Instant, load: Load<'_>) -> Vec<CircuitId> {
        if self.next_end.is_none_or(|next| now < next) {
            return Vec::new();
        }
        let (mut idle, mut next_end) = (Vec::new(), None);
        for (id, circuit) in &self.ready {
            let end = circuit.ends(now);
            if end <= now && load(*id) == 0 {
                idle.push(*id);
            } else {
                let end = if end <= now { now + IDLE_CHECK } else { end };
                next_end = Some(next_end.map_or(end, |next: Instant| next.min(end)));
            }
        }
        self.next_end = next_end;
        idle
    }

    /// When to look for those whose time is over.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.next_end
    }

    /// Of the idle ones that are no spares the one whose time is over first.
    pub(super) fn least_needed(&self, now: Instant, load: Load<'_>) -> Option<CircuitId> {
        let used = self.ready.iter().filter(|(id, circuit)| !circuit.is_spare() && load(**id) == 0);
        used.map(|(id, circuit)| (circuit.ends(now), *id)).min().map(|(_, id)| id)
    }
}

#[cfg(test)]
impl Table {
    /// That what finds circuits finds the right ones, and all of them.
    pub(super) fn check(&self) {
        let spares = self.ready.iter().filter(|(_, circuit)| circuit.is_spare()).map(|(id, _)| *id);
        assert_eq!(spares.collect::<BTreeSet<_>>(), self.spares);
        let mut owned: HashMap<Isolation, BTreeSet<CircuitId>> = HashMap::new();
        for (id, circuit) in &self.ready {
            if let Usage::Assigned { isolation, .. } = &circuit.usage {
                owned.entry(isolation.clone()).or_default().insert(*id);
            }
        }
        assert_eq!(self.owned.len(), owned.len());
        for (isolation, ids) in &self.owned {
            assert_eq!(ids.iter().copied().collect::<BTreeSet<_>>(), owned[isolation]);
            assert_eq!(ids.len(), owned[isolation].len());
        }
        assert!(self.building.keys().all(|id| !self.ready.contains_key(id)));
        assert!(self.next_end.is_some() || self.ready.is_empty());
    }
}
