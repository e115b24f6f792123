//! Who got how many circuits lately, so that a flood of one application does not hold up the others.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::time::Instant;

use super::DEMAND_WINDOW;
use crate::core::isolation::Isolation;

/// An application, as far as can be told: a keyed hash of what tells it. Two that are the same here would share one turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Application(u64);

#[derive(Default)]
pub(super) struct Shares {
    hasher: RandomState,
    /// In the last minute, the oldest first: no more than were built, a few spares beside.
    given: VecDeque<(Instant, Application)>,
    counts: HashMap<Application, usize>,
}

impl Shares {
    pub(super) fn application(&self, isolation: &Isolation) -> Application {
        Application(self.hasher.hash_one(isolation.application()))
    }

    /// The application was given a circuit.
    pub(super) fn given(&mut self, application: Application, now: Instant) {
        self.given.push_back((now, application));
        *self.counts.entry(application).or_default() += 1;
    }

    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((_, application)) = self.given.pop_front_if(|(at, _)| *at + DEMAND_WINDOW <= now) {
            if let Some(count) = self.counts.get_mut(&application) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&application);
                }
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.given.clear();
        self.counts.clear();
    }

    /// What waits, in turn: the application that got the fewest comes first, and what waits itself counts as given.
    pub(super) fn in_turn<T: Ord>(&self, waiting: impl Iterator<Item = (T, Application)>) -> Vec<T> {
        let mut shares: HashMap<Application, usize> = HashMap::new();
        let turn = |(what, application)| {
            let lately = || self.counts.get(&application).copied().unwrap_or(0);
            let share = shares.entry(application).or_insert_with(lately);
            *share += 1;
            (*share, what)
        };
        let mut turns: Vec<(usize, T)> = waiting.map(turn).collect();
        turns.sort_unstable();
        turns.into_iter().map(|(_, what)| what).collect()
    }
}

#[cfg(test)]
impl Shares {
    pub(super) fn check(&self) {
        assert_eq!(self.counts.values().sum::<usize>(), self.given.len());
        assert!(self.counts.values().all(|count| *count > 0));
    }
}
