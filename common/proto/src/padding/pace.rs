//! Constant mode: so many cells each tick, no more and no fewer (docs/protocol.md §11.4).

use std::time::{Duration, Instant};

/// What may be caught up after the process or its connection stood still. What is beyond is lost, and counted.
const MAX_BACKLOG: Duration = Duration::from_secs(1);

/// One direction's clock.
#[derive(Debug)]
pub(crate) struct Pace {
    tick: Duration,
    cells: u32,
    next: Instant,
    due: u32,
}

impl Pace {
    pub(super) fn new(tick: Duration, cells: u16, now: Instant) -> Pace {
        let tick = tick.max(Duration::from_millis(1));
        Pace { tick, cells: cells.into(), next: now + tick, due: 0 }
    }

    /// Cells to write now.
    pub(super) fn due(&self) -> usize {
        self.due as usize
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// Lets the clock tick; returns cells that will never be sent, because too many are due already.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> u64 {
        let Some(late) = now.checked_duration_since(self.next) else { return 0 };
        let ticks = late.as_nanos() / self.tick.as_nanos() + 1;
        let most = (MAX_BACKLOG.as_nanos() / self.tick.as_nanos()).max(1) * u128::from(self.cells);
        let due = u128::from(self.due) + ticks * u128::from(self.cells);
        self.next += late - Duration::from_nanos((late.as_nanos() % self.tick.as_nanos()) as u64) + self.tick;
        self.due = due.min(most) as u32;
        due.saturating_sub(most).try_into().unwrap_or(u64::MAX)
    }

    /// So many cells were written.
    pub(super) fn sent(&mut self, cells: usize) {
        self.due = self.due.saturating_sub(cells as u32);
    }

    /// How long so many cells wait.
    pub(super) fn delay(&self, cells: usize) -> Duration {
        self.tick.mul_f64(cells as f64 / f64::from(self.cells.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "Instant has no other origin")]
    fn the_clock_does_not_drift_and_catches_up_for_a_second_at_most() {
        let ms = Duration::from_millis;
        let begin = Instant::now();
        let mut pace = Pace::new(ms(20), 3, begin);
        assert_eq!((pace.handle_timeout(begin + ms(19)), pace.due()), (0, 0));
        assert_eq!((pace.handle_timeout(begin + ms(27)), pace.due()), (0, 3));
        assert_eq!(pace.poll_timeout(), begin + ms(40), "late by 7 ms, yet the next is in time");
        pace.sent(3);
        assert_eq!((pace.handle_timeout(begin + ms(85)), pace.due()), (0, 9));
        pace.sent(9);
        assert_eq!((pace.handle_timeout(begin + ms(3_080)), pace.due()), (300, 150));
        assert_eq!(pace.poll_timeout(), begin + ms(3_100));
        assert_eq!(pace.delay(6), ms(40));
    }
}
