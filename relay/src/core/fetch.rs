//! When a relay fetches the consensus.
//!
//! Without one: at once, then with growing delays. With one: at a random time soon after it stops being fresh, which is
//! when the authorities have the next one, and then with growing delays until it comes.

use std::time::Duration;

use rand::{Rng, RngExt};
use tunic_proto::time::UnixTime;

use super::backoff::Backoff;

/// The first delay while there is no consensus to work with.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The longest delay while there is none.
const MAX_DELAY_WITHOUT: Duration = Duration::from_secs(60);
/// The longest delay while there is one.
const MAX_DELAY_WITH: Duration = Duration::from_secs(300);
/// The first fetch happens within this part of a round after `fresh_until`, …
const SPREAD_DIVISOR: u32 = 8;
/// … but not later than this: clients come after the relays.
const MAX_SPREAD: Duration = Duration::from_secs(300);

/// The times that a consensus states and that a schedule depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// From when it holds.
    pub valid_after: UnixTime,
    /// When the next one is there.
    pub fresh_until: UnixTime,
}

/// Says how long to wait before the next fetch.
#[derive(Debug)]
pub struct FetchSchedule {
    backoff: Backoff,
    /// The consensus whose successor is awaited, and for which the first fetch has been scheduled.
    awaited: Option<Lifetime>,
}

impl Default for FetchSchedule {
    fn default() -> Self {
        FetchSchedule { backoff: Backoff::new(FIRST_DELAY, MAX_DELAY_WITHOUT), awaited: None }
    }
}

impl FetchSchedule {
    /// How long to wait before the next fetch, given the consensus that one has. Called once before each fetch.
    pub fn next_delay<R: Rng>(&mut self, current: Option<Lifetime>, now: UnixTime, rng: &mut R) -> Duration {
        if current == self.awaited {
            return self.backoff.next_delay(rng);
        }
        self.awaited = current;
        match current {
            None => {
                self.backoff = Backoff::new(FIRST_DELAY, MAX_DELAY_WITHOUT);
                self.backoff.next_delay(rng)
            }
            Some(current) => {
                let spread = spread(current);
                self.backoff = Backoff::new(spread.max(FIRST_DELAY), MAX_DELAY_WITH);
                current.fresh_until.since(now) + spread * rng.random_range(0..=1000) / 1000
            }
        }
    }
}

fn spread(lifetime: Lifetime) -> Duration {
    (lifetime.fresh_until.since(lifetime.valid_after) / SPREAD_DIVISOR).min(MAX_SPREAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    const HOURLY: Lifetime = Lifetime { valid_after: UnixTime(36_000), fresh_until: UnixTime(39_600) };

    fn rng() -> ChaCha20Rng {
        ChaCha20Rng::seed_from_u64(7)
    }

    #[test]
    fn without_a_consensus_it_tries_soon_and_then_more_rarely() {
        let (mut schedule, mut rng) = (FetchSchedule::default(), rng());
        let delays: Vec<_> = (0..60).map(|_| schedule.next_delay(None, UnixTime(0), &mut rng)).collect();
        assert!(delays[0] <= Duration::from_millis(125));
        assert!(delays[..10].iter().sum::<Duration>() < Duration::from_secs(5), "{delays:?}");
        assert!(delays[59] >= Duration::from_secs(45) && delays[59] <= Duration::from_secs(75));
    }

    #[test]
    fn the_next_one_is_fetched_soon_after_the_last_stops_being_fresh() {
        let mut rng = rng();
        for now in [36_000, 38_000, 39_600] {
            let delay = FetchSchedule::default().next_delay(Some(HOURLY), UnixTime(now), &mut rng);
            let at = Duration::from_secs(now) + delay;
            assert!(at >= Duration::from_secs(39_600) && at <= Duration::from_secs(39_900), "{at:?}");
        }
    }

    #[test]
    fn while_the_next_one_is_late_it_is_awaited_with_growing_delays() {
        let (mut schedule, mut rng) = (FetchSchedule::default(), rng());
        schedule.next_delay(Some(HOURLY), UnixTime(36_000), &mut rng);
        for _ in 0..20 {
            let delay = schedule.next_delay(Some(HOURLY), UnixTime(39_700), &mut rng);
            assert!(delay >= Duration::from_secs(200) && delay <= Duration::from_secs(400), "{delay:?}");
        }
    }

    #[test]
    fn short_rounds_are_followed_closely() {
        let round = Lifetime { valid_after: UnixTime(100), fresh_until: UnixTime(120) };
        let (mut schedule, mut rng) = (FetchSchedule::default(), rng());
        let delay = schedule.next_delay(Some(round), UnixTime(100), &mut rng);
        assert!(delay >= Duration::from_secs(20) && delay < Duration::from_secs(23), "{delay:?}");
        assert!(schedule.next_delay(Some(round), UnixTime(122), &mut rng) < Duration::from_secs(4));
    }
}
