//! A rate with a burst, and who has used how much of it.

use std::time::{Duration, Instant};

/// So many each second, and so many at once after a pause. Zero per second: without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}

impl Rate {
    fn interval(self) -> Duration {
        Duration::from_secs(1) / self.per_second
    }

    /// The same for so many together.
    pub fn times(self, factor: u32) -> Rate {
        Rate { per_second: self.per_second.saturating_mul(factor), burst: self.burst.saturating_mul(factor) }
    }
}

/// How much of a [`Rate`] somebody has used: the moment at which all of the burst will be there again (the generic cell rate
/// algorithm, ITU-T I.371).
///
/// Once that moment has passed it says nothing any more, so it can be forgotten without anybody gaining by it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace(Option<Instant>);

impl Pace {
    /// Uses one, if there is one left.
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        rate.per_second == 0 || self.take_time(rate.interval(), rate.interval() * rate.burst, now)
    }

    /// Uses so much of a burst that is as long, in the time in which it comes back, if that much is left.
    #[must_use]
    pub(crate) fn take_time(&mut self, cost: Duration, burst: Duration, now: Instant) -> bool {
        let after = self.after(cost, now);
        let has_room = after.duration_since(now) <= burst;
        if has_room {
            self.0 = Some(after);
        }
        has_room
    }

    /// Gives one back that was taken for something that then was not done.
    pub fn give_back(&mut self, rate: Rate) {
        if rate.per_second > 0 {
            self.0 = self.0.and_then(|full_at| full_at.checked_sub(rate.interval()));
        }
    }

    /// Whether one is left.
    pub fn has_room(mut self, rate: Rate, now: Instant) -> bool {
        self.take(rate, now)
    }

    /// When one will be left again; `None`: one is.
    pub fn room_at(self, rate: Rate, now: Instant) -> Option<Instant> {
        if rate.per_second == 0 {
            return None;
        }
        let room_at = self.after(rate.interval(), now).checked_sub(rate.interval() * rate.burst)?;
        (room_at > now).then_some(room_at)
    }

    /// Whether nothing of the burst is used.
    pub fn is_full(self, now: Instant) -> bool {
        self.0.is_none_or(|full_at| full_at <= now)
    }

    fn after(self, cost: Duration, now: Instant) -> Instant {
        self.0.map_or(now, |full_at| full_at.max(now)) + cost
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "Instant has no other origin; only differences to it are used")]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 3, burst: 90 };

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert_eq!((0..200).filter(|_| pace.take(RATE, start)).count(), 90);
        assert!(!pace.has_room(RATE, start) && !pace.is_full(start));
        let later = start + Duration::from_secs(10);
        assert_eq!((0..200).filter(|_| pace.take(RATE, later)).count(), 30);
        assert!(pace.is_full(later + Duration::from_secs(30)));
        let room_at = pace.room_at(RATE, later + Duration::from_millis(100)).unwrap();
        assert!(!pace.has_room(RATE, room_at - Duration::from_nanos(1)) && pace.has_room(RATE, room_at));
        assert_eq!(pace.room_at(RATE, room_at), None);
        assert!(!pace.is_full(later + Duration::from_secs(29)));
    }

    #[test]
    fn what_was_given_back_can_be_taken_again() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert!((0..1_000).all(|_| {
            let taken = pace.take(RATE, now);
            pace.give_back(RATE);
            taken
        }));
        assert!(pace.is_full(now));
        assert_eq!((0..200).filter(|_| pace.take(RATE, now)).count(), 90, "and no more than there was");
        pace.give_back(RATE);
        assert_eq!((0..200).filter(|_| pace.take(RATE, now)).count(), 1);
    }

    #[test]
    fn zero_per_second_is_no_limit() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let none = Rate { per_second: 0, burst: 1 };
        assert!((0..1_000).all(|_| pace.take(none, now)));
    }
}
