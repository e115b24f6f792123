//! How fast each circuit of a channel begins streams.

use std::collections::HashMap;
use std::time::Instant;

use super::{Pace, Rate};
use crate::channel::CircKey;

/// Circuits that are remembered before those that say nothing any more are forgotten.
const SWEEP_LEN: usize = 1_024;

/// The circuits of one channel that began streams lately. Bounded by the circuits that the channel may have, twice.
#[derive(Debug, Default)]
pub struct StreamRates {
    paces: HashMap<CircKey, Pace>,
    sweep_at: usize,
}

impl StreamRates {
    /// Whether this circuit may begin one more stream; if so, it is counted.
    pub fn take(&mut self, circuit: CircKey, rate: Rate, now: Instant) -> bool {
        if self.paces.len() >= self.sweep_at.max(SWEEP_LEN) {
            self.paces.retain(|_, pace| !pace.is_full(now));
            self.sweep_at = 2 * self.paces.len();
        }
        self.paces.entry(circuit).or_default().take(rate, now)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "Instant has no other origin; only differences to it are used")]
mod tests {
    use super::*;
    use std::time::Duration;

    const RATE: Rate = Rate { per_second: 100, burst: 300 };

    #[test]
    fn each_circuit_has_a_rate_of_its_own_and_is_forgotten_when_quiet() {
        let (mut rates, mut now) = (StreamRates::default(), Instant::now());
        let key = |index| CircKey { index, generation: 0 };
        assert_eq!((0..1_000).filter(|_| rates.take(key(0), RATE, now)).count(), 300);
        assert!(rates.take(key(1), RATE, now));
        for index in 0..100_000 {
            now += Duration::from_millis(1);
            assert!(rates.take(key(index + 2), RATE, now));
        }
        assert!(rates.paces.len() <= SWEEP_LEN);
    }
}
