//! Which relays failed lately, so that they are left alone for a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tunic_proto::ids::RelayId;

/// Relays that are remembered; beyond it, the one that may be used again soonest is forgotten.
const MAX_REMEMBERED: usize = 1_024;
/// How long a relay is avoided after its first failure; doubles with each that follows.
const FIRST_PENALTY: Duration = Duration::from_secs(60);
/// Never longer.
const MAX_PENALTY: Duration = Duration::from_secs(3_600);

/// Relays at which circuits failed.
#[derive(Debug, Default)]
pub struct RecentFailures {
    relays: HashMap<RelayId, Failure>,
}

#[derive(Debug, Clone, Copy)]
struct Failure {
    penalty: Duration,
    until: Instant,
    /// When it was used or failed last.
    tried: Instant,
}

impl RecentFailures {
    /// A circuit failed at this relay. Failures while it is avoided anyway (several circuits at once) count as one.
    pub fn failed(&mut self, id: RelayId, now: Instant) {
        self.tried(id, now);
        let penalty = match self.relays.get(&id) {
            Some(failure) if now < failure.until => return,
            Some(failure) if now < failure.until + failure.penalty => (failure.penalty * 2).min(MAX_PENALTY),
            _ => FIRST_PENALTY,
        };
        self.make_room();
        self.relays.insert(id, Failure { penalty, until: now + penalty, tried: now });
    }

    /// The relay is used, perhaps because there is no other.
    pub fn tried(&mut self, id: RelayId, now: Instant) {
        if let Some(failure) = self.relays.get_mut(&id) {
            failure.tried = now;
        }
    }

    /// A circuit over this relay was built.
    pub fn succeeded(&mut self, id: RelayId) {
        self.relays.remove(&id);
    }

    /// Whether the relay is better avoided now: when it was used or failed last, if it is.
    pub fn avoids(&self, id: RelayId, now: Instant) -> Option<Instant> {
        self.relays.get(&id).filter(|failure| now < failure.until).map(|failure| failure.tried)
    }

    fn make_room(&mut self) {
        if self.relays.len() < MAX_REMEMBERED {
            return;
        }
        let soonest = self.relays.iter().min_by_key(|(_, failure)| failure.until).map(|(id, _)| *id);
        soonest.map(|id| self.relays.remove(&id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::{id, start};

    #[test]
    fn a_relay_that_fails_again_is_avoided_twice_as_long() {
        let (mut failures, mut now) = (RecentFailures::default(), start());
        for penalty in [60, 120, 240, 480, 960, 1_920, 3_600, 3_600].map(Duration::from_secs) {
            failures.failed(id(1), now);
            failures.failed(id(1), now);
            assert!(failures.avoids(id(1), now + penalty - Duration::from_millis(1)).is_some());
            assert!(failures.avoids(id(1), now + penalty).is_none());
            now += penalty;
        }
        assert!(failures.avoids(id(2), start()).is_none());
    }

    #[test]
    fn success_and_time_forgive() {
        let (mut failures, now) = (RecentFailures::default(), start());
        failures.failed(id(1), now);
        failures.succeeded(id(1));
        assert!(failures.avoids(id(1), now).is_none());
        failures.failed(id(1), now);
        let later = now + 3 * FIRST_PENALTY;
        failures.failed(id(1), later);
        assert!(failures.avoids(id(1), later + FIRST_PENALTY).is_none(), "the first failure is long ago");
    }

    #[test]
    fn a_relay_that_is_used_although_it_is_avoided_goes_to_the_end_of_the_line() {
        let (mut failures, now) = (RecentFailures::default(), start());
        let second = Duration::from_secs(1);
        failures.failed(id(1), now);
        failures.failed(id(2), now + second);
        assert!(failures.avoids(id(1), now + second) < failures.avoids(id(2), now + second));
        failures.tried(id(1), now + 2 * second);
        assert!(failures.avoids(id(1), now + 2 * second) > failures.avoids(id(2), now + 2 * second));
        failures.failed(id(2), now + 3 * second);
        assert!(failures.avoids(id(1), now + 3 * second) < failures.avoids(id(2), now + 3 * second));
        failures.tried(id(3), now);
        assert!(failures.avoids(id(3), now).is_none(), "nothing is held against it");
    }

    #[test]
    fn memory_is_bounded() {
        let (mut failures, now) = (RecentFailures::default(), start());
        (0..5_000).for_each(|number| failures.failed(id(number), now));
        assert_eq!(failures.relays.len(), MAX_REMEMBERED);
        assert!(failures.avoids(id(4_999), now).is_some());
    }
}
