//! `PADDING` on a channel that was silent (docs/protocol.md §11.3).
//!
//! The rule: when no cell went either way for max(U, U'), both uniform over a range, one `PADDING` is sent, and the wait
//! begins anew. A cell may come every microsecond, so the wait is not drawn anew for each: until the lower end of the
//! range has passed in silence, only the time of the last cell is noted. The distribution is the same.

use std::time::{Duration, Instant};

use rand_core::Rng;

/// The range of `normal`, in milliseconds: below the 10 s after which flow records end.
pub(super) const NORMAL_MS: (u64, u64) = (1_500, 9_500);
/// The range of `reduced`, in milliseconds.
pub(super) const REDUCED_MS: (u64, u64) = (9_000, 14_000);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There were cells; look again then.
    Watching(Instant),
    /// Silent for the lower end of the range at least; padding is due then.
    Armed(Instant),
    /// Padding is to be written unless another cell is.
    Due,
}

/// One side's timer.
#[derive(Debug)]
pub(crate) struct Quiet {
    range_ms: (u64, u64),
    last: Instant,
    phase: Phase,
}

impl Quiet {
    pub(super) fn new(range_ms: (u64, u64), now: Instant) -> Quiet {
        let mut quiet = Quiet { range_ms, last: now, phase: Phase::Due };
        quiet.watch();
        quiet
    }

    fn watch(&mut self) {
        self.phase = Phase::Watching(self.last + Duration::from_millis(self.range_ms.0));
    }

    /// Cells went one way or the other.
    pub(super) fn active(&mut self, now: Instant) {
        self.last = now;
        if !matches!(self.phase, Phase::Watching(_)) {
            self.watch();
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Watching(at) | Phase::Armed(at) => Some(at),
            Phase::Due => None,
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, rng: &mut dyn Rng) {
        let earliest = self.last + Duration::from_millis(self.range_ms.0);
        if matches!(self.phase, Phase::Watching(at) if at <= now) {
            self.phase = match earliest <= now {
                true => Phase::Armed(self.last + sample(self.range_ms, rng)),
                false => Phase::Watching(earliest),
            };
        }
        if matches!(self.phase, Phase::Armed(at) if at <= now) {
            self.phase = Phase::Due;
        }
    }

    pub(super) fn is_due(&self) -> bool {
        self.phase == Phase::Due
    }
}

/// The larger of two uniform draws.
fn sample((low, high): (u64, u64), rng: &mut dyn Rng) -> Duration {
    let micros = (high - low) * 1_000;
    let mut draw = || rng.next_u64() % (micros + 1);
    Duration::from_micros(low * 1_000 + draw().max(draw()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[expect(clippy::disallowed_methods, reason = "Instant has no other origin")]
    fn start() -> Instant {
        Instant::now()
    }

    /// When padding becomes due if nothing happens after `last`.
    fn wait(quiet: &mut Quiet, last: Instant, rng: &mut ChaCha20Rng) -> Duration {
        let mut now = last;
        while let Some(at) = quiet.poll_timeout() {
            now = at;
            quiet.handle_timeout(now, rng);
        }
        now - last
    }

    #[test]
    fn waits_are_the_larger_of_two_uniform_draws() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut now = start();
        let mut waits = Vec::new();
        for _ in 0..4_000 {
            let mut quiet = Quiet::new(NORMAL_MS, now);
            waits.push(wait(&mut quiet, now, &mut rng).as_secs_f64());
            now += Duration::from_secs(1);
        }
        assert!(waits.iter().all(|wait| (1.5..=9.5).contains(wait)));
        let mean = waits.iter().sum::<f64>() / waits.len() as f64;
        assert!((mean - (1.5 + 8.0 * 2.0 / 3.0)).abs() < 0.15, "{mean}");
        let median_share = waits.iter().filter(|wait| **wait < 5.5).count() as f64 / waits.len() as f64;
        assert!((median_share - 0.25).abs() < 0.03, "{median_share}");
    }

    #[test]
    fn a_cell_at_any_moment_begins_the_wait_anew() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let begin = start();
        let mut quiet = Quiet::new(NORMAL_MS, begin);
        let mut now = begin;
        for n in 0..100 {
            // Between the ends of the range, where padding may have been armed already.
            now += Duration::from_millis(1_400 + n);
            while quiet.poll_timeout().is_some_and(|at| at <= now) {
                quiet.handle_timeout(now, &mut rng);
            }
            if quiet.is_due() {
                assert!(n > 100, "1.5 s of silence at least come first");
            }
            quiet.active(now);
        }
        assert!(wait(&mut quiet, now, &mut rng) >= Duration::from_millis(1_500));
    }

    #[test]
    fn a_cell_takes_the_place_of_padding_that_is_due() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let begin = start();
        let mut quiet = Quiet::new(REDUCED_MS, begin);
        let waited = wait(&mut quiet, begin, &mut rng);
        assert!(waited >= Duration::from_secs(9) && quiet.is_due());
        quiet.active(begin + waited);
        assert!(!quiet.is_due());
    }
}
