//! How long to wait before trying again.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Each delay is this much longer than the one before. A wait then never exceeds about a quarter of the time already
/// spent, so that a network that is just starting is found soon.
const GROWTH_PERCENT: u32 = 125;
/// Delays are drawn from this range around the nominal one, so that relays do not call in step.
const JITTER_PERCENT: std::ops::RangeInclusive<u32> = 75..=125;

/// Delays that grow from a first one to a last one.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first` and never exceeds `last` (both give or take a quarter).
    pub fn new(first: Duration, last: Duration) -> Self {
        Backoff { first, last, next: first }
    }

    /// The next delay.
    pub fn next_delay<R: Rng>(&mut self, rng: &mut R) -> Duration {
        let delay = self.next;
        self.next = (delay * GROWTH_PERCENT / 100).min(self.last);
        delay * rng.random_range(JITTER_PERCENT) / 100
    }

    /// Starts again at the first delay.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn delays_grow_from_the_first_to_the_last() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let (first, last) = (Duration::from_millis(100), Duration::from_secs(60));
        let mut backoff = Backoff::new(first, last);
        let delays: Vec<_> = (0..50).map(|_| backoff.next_delay(&mut rng)).collect();
        assert!(delays[0] >= first * 75 / 100 && delays[0] <= first * 125 / 100, "{:?}", delays[0]);
        assert!(delays.iter().all(|&delay| delay <= last * 125 / 100));
        assert!(delays[40..].iter().all(|&delay| delay >= last * 75 / 100), "{delays:?}");
        backoff.reset();
        assert!(backoff.next_delay(&mut rng) <= first * 125 / 100);
    }
}
