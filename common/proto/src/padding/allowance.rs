//! How much padding a peer may send.

use std::time::{Duration, Instant};

use crate::limits::Pace;

/// Some interval for each, and so much ahead of it at once.
#[derive(Debug, Clone)]
pub(crate) struct Allowance {
    interval: Duration,
    burst: Duration,
    pace: Pace,
}

impl Allowance {
    /// One each `interval`, and `burst` of them at once at most.
    pub(crate) fn new(interval: Duration, burst: u32) -> Allowance {
        Allowance { interval, burst: interval * burst, pace: Pace::default() }
    }

    /// Takes `count`; false if that is too many, and then nothing is taken.
    #[must_use]
    pub(crate) fn take(&mut self, now: Instant, count: u32) -> bool {
        self.pace.take_time(self.interval * count, self.burst, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "Instant has no other origin")]
    fn a_burst_passes_and_then_the_rate() {
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let mut allowance = Allowance::new(second, 10);
        assert!(allowance.take(begin, 8) && allowance.take(begin, 2));
        assert!(!allowance.take(begin, 1));
        assert!(allowance.take(begin + second, 1) && !allowance.take(begin + second, 1));
        assert!(allowance.take(begin + 100 * second, 10) && !allowance.take(begin + 100 * second, 1));
    }
}
