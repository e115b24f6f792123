//! When to fetch the consensus again.

use std::time::Duration;

use rand::{Rng, RngExt as _};
use tunic_proto::dir::Consensus;
use tunic_proto::time::UnixTime;

/// The pause after the first failure of a bootstrap.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// Each pause is so much longer than the one before. Not doubled: what is waited for when a network starts would be
/// noticed late by as much as it took to come.
const GROWTH: f64 = 1.5;

/// Pauses between attempts, growing from 100 ms to five minutes, each shortened by up to half so that clients that lost
/// the network together do not come back together.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after one more failure.
    pub fn failed<R: Rng + ?Sized>(&mut self, rng: &mut R) -> Duration {
        let growth = GROWTH.powi(self.failures.min(64) as i32);
        let pause = FIRST_PAUSE.mul_f64(growth).min(MAX_PAUSE);
        self.failures = self.failures.saturating_add(1);
        pause.mul_f64(rng.random_range(0.5..=1.0))
    }

    /// Starts over.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// When to replace a consensus: after it stopped being fresh and well before its life ends, at a time drawn evenly from
/// the first half of what is between.
pub fn refetch_at<R: Rng + ?Sized>(consensus: &Consensus, rng: &mut R) -> UnixTime {
    let spare = consensus.valid_until.since(consensus.fresh_until).as_secs();
    consensus.fresh_until.plus(Duration::from_secs(rng.random_range(0..=spare / 2)))
}

/// The shortest pause between attempts while this consensus is still valid: a sixtieth of what is left between its being
/// fresh and its end, so that a directory that is a little late is not asked dozens of times.
pub fn unhurried_pause(consensus: &Consensus) -> Duration {
    consensus.valid_until.since(consensus.fresh_until) / 60
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::{network, rng};

    #[test]
    fn pauses_grow_from_a_tenth_of_a_second_to_five_minutes() {
        let (mut backoff, mut rng) = (Backoff::default(), rng(1));
        for failure in 0..100 {
            let full = (0.1 * 1.5_f64.powi(failure)).min(300.0);
            let pause = backoff.failed(&mut rng).as_secs_f64();
            assert!((0.499 * full..=1.001 * full).contains(&pause), "failure {failure}: {pause} s");
        }
        backoff.succeeded();
        assert!(backoff.failed(&mut rng) <= FIRST_PAUSE);
    }

    #[test]
    fn with_a_valid_consensus_there_is_no_hurry() {
        assert_eq!(unhurried_pause(network(1).consensus()), Duration::from_secs(120));
    }

    #[test]
    fn a_consensus_is_replaced_in_the_first_half_of_its_spare_time() {
        let network = network(1);
        let consensus = network.consensus();
        let half = UnixTime(consensus.fresh_until.0 + 3_600);
        let mut times: Vec<_> = (0..1_000).map(|seed| refetch_at(consensus, &mut rng(seed))).collect();
        times.sort();
        assert!(times[0] >= consensus.fresh_until && times[999] <= half);
        assert!(times[500].0.abs_diff(consensus.fresh_until.0 + 1_800) < 200, "evenly: {}", times[500].0);
    }
}
