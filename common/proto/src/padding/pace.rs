//! Constant mode: cells at moments that depend on nothing (docs/protocol.md §11.4).
//!
//! The moments are a Poisson process: times between them are exponential, a tick on average. A timer that fires every tick to the
//! microsecond would be late by a little when its computer has more to do, and so tell that it has (Fu, Graham, Bettati and Zhao,
//! "On Effectiveness of Link Padding for Statistical Traffic Analysis Attacks", ICDCS 2003); among times that vary by whole
//! ticks, that is lost.

use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// What may be caught up after the process or its connection stood still. What is beyond is lost, and counted.
const MAX_BACKLOG: Duration = Duration::from_secs(1);

/// One direction's clock.
#[derive(Debug)]
pub(crate) struct Pace {
    tick: Duration,
    cells: u32,
    next: Instant,
    due: u32,
    /// Of its own, so that nothing else that draws numbers moves the moments.
    moments: ChaCha20Rng,
}

impl Pace {
    pub(super) fn new(tick: Duration, cells: u16, seed: [u8; 32], now: Instant) -> Pace {
        let tick = tick.max(Duration::from_millis(1));
        let moments = ChaCha20Rng::from_seed(seed);
        let mut pace = Pace { tick, cells: cells.into(), next: now, due: 0, moments };
        pace.draw_next();
        pace
    }

    /// Cells to write now.
    pub(super) fn due(&self) -> usize {
        self.due as usize
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// Lets the clock go on; returns cells that will never be sent, because too many are due already.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> u64 {
        let mut due = u128::from(self.due);
        let late = now.saturating_duration_since(self.next);
        if let Some(lost) = late.checked_sub(MAX_BACKLOG) {
            self.next += lost;
            due += lost.as_nanos() / self.tick.as_nanos() * u128::from(self.cells);
        }
        while self.next <= now {
            due += u128::from(self.cells);
            self.draw_next();
        }
        let most = (MAX_BACKLOG.as_nanos() / self.tick.as_nanos()).max(1) * u128::from(self.cells);
        self.due = due.min(most) as u32;
        due.saturating_sub(most).try_into().unwrap_or(u64::MAX)
    }

    /// So many cells were written.
    pub(super) fn sent(&mut self, cells: usize) {
        self.due = self.due.saturating_sub(cells as u32);
    }

    /// How long so many cells wait, on average.
    pub(super) fn delay(&self, cells: usize) -> Duration {
        self.tick.mul_f64(cells as f64 / f64::from(self.cells.max(1)))
    }

    /// The next moment comes a microsecond to 23 ticks later.
    fn draw_next(&mut self) {
        let uniform = (f64::from(self.moments.next_u32()) + 0.5) / f64::from(u32::MAX);
        self.next += self.tick.mul_f64(-uniform.min(1.0).ln()).max(Duration::from_micros(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(20);

    /// The moments of so long a time, by a clock that looks whenever it is asked to.
    fn moments(seed: u8, length: Duration) -> Vec<Duration> {
        let begin = start();
        let mut pace = Pace::new(TICK, 3, [seed; 32], begin);
        let mut moments = Vec::new();
        while pace.poll_timeout() < begin + length {
            let at = pace.poll_timeout();
            assert_eq!((pace.handle_timeout(at), pace.due()), (0, 3));
            pace.sent(3);
            moments.push(at - begin);
        }
        moments
    }

    #[expect(clippy::disallowed_methods, reason = "Instant has no other origin")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn times_between_moments_are_exponential_and_a_tick_on_average() {
        let moments = moments(1, TICK * 10_000);
        assert!((9_700..10_300).contains(&moments.len()), "{}", moments.len());
        let gaps: Vec<Duration> = moments.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (times, share) in [(1.0, 0.368), (2.0, 0.135), (4.0, 0.018)] {
            let longer = gaps.iter().filter(|gap| **gap > TICK.mul_f64(times)).count();
            let found = longer as f64 / gaps.len() as f64;
            assert!((found - share).abs() < 0.02, "{found} longer than {times} ticks");
        }
    }

    #[test]
    fn a_clock_that_is_late_keeps_the_moments() {
        let begin = start();
        let (mut punctual, mut late) =
            (Pace::new(TICK, 3, [2; 32], begin), Pace::new(TICK, 3, [2; 32], begin));
        let now = begin + Duration::from_millis(500);
        let mut cells = 0;
        while punctual.poll_timeout() <= now {
            punctual.handle_timeout(punctual.poll_timeout());
            cells += punctual.due();
            punctual.sent(3);
        }
        assert_eq!((late.handle_timeout(now), late.due()), (0, cells));
        assert_eq!(late.poll_timeout(), punctual.poll_timeout());
    }

    #[test]
    fn a_second_is_caught_up_at_most() {
        let begin = start();
        let mut pace = Pace::new(TICK, 3, [3; 32], begin);
        let now = begin + Duration::from_secs(61);
        let lost = pace.handle_timeout(now);
        assert!((8_950..9_200).contains(&lost) && (100..=150).contains(&pace.due()), "{lost} {}", pace.due());
        assert!(pace.poll_timeout() > now);
        assert_eq!(pace.delay(6), TICK * 2);
    }
}
