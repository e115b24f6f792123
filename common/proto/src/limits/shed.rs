//! What goes first when memory runs out: the circuit whose queued data is the oldest, as in C Tor. Honest circuits move on
//! within moments; what stays queued is what nobody takes.
//!
//! What fills the memory may be something else, which no circuit's end gives back. So [`Pressure`] has more shed only while
//! that helps, and whoever moves on is never shed ([`MIN_AGE`]).

use std::time::{Duration, Instant};

/// Of the limit, in percent: down to this much is shed, and below it things are as usual again.
const RELIEVED_PERCENT: u64 = 90;
/// A circuit whose oldest data is younger stays: it moves on, and its end would free nothing that is not free soon.
pub const MIN_AGE: Duration = Duration::from_secs(1);
/// At most so many circuits end at a time; then it is measured whether that helped.
pub const MAX_SHED: usize = 1_024;
/// Shedding has helped if one part of so many of what was shed is no longer held,
const HELPED_PARTS: u64 = 8;
/// and so many bytes at the least: fewer come and go by themselves.
const NOTICEABLE: u64 = 1 << 20;
/// Nothing is shed for so long after it did not help.
const PAUSE: Duration = Duration::from_secs(10);

/// Something that holds queued data.
pub trait Holding {
    /// How long its oldest data has been there.
    fn age(&self) -> Duration;
    /// Bytes that it holds.
    fn bytes(&self) -> usize;
}

/// As many of these as hold `bytes` together, those with the oldest data first, and of those of the same age the largest;
/// none younger than [`MIN_AGE`], and [`MAX_SHED`] at the most.
pub fn oldest_first<H: Holding>(mut all: Vec<H>, bytes: usize) -> Vec<H> {
    all.retain(|held| held.age() >= MIN_AGE);
    all.sort_by_key(|held| std::cmp::Reverse((held.age(), held.bytes())));
    let mut left = bytes;
    all.into_iter()
        .take(MAX_SHED)
        .take_while(|held| {
            let goes = left > 0;
            left = left.saturating_sub(held.bytes());
            goes
        })
        .collect()
}

/// Whether there is memory, and what to do where there is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pressure {
    max: u64,
    is_high: bool,
    /// Bytes held when it was last said that some have to be shed.
    held: u64,
    /// How many fewer have to be held at the next measurement for that to have helped; `None` if nothing was shed.
    hoped: Option<u64>,
    /// When it is tried again.
    paused_until: Option<Instant>,
}

impl Pressure {
    /// The process may hold so many bytes.
    pub fn new(max: u64) -> Pressure {
        Pressure { max, is_high: false, held: 0, hoped: None, paused_until: None }
    }

    /// Bytes that the process may hold.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Down to so many is shed.
    pub fn relieved(&self) -> u64 {
        self.max / 100 * RELIEVED_PERCENT
    }

    /// It holds so many. Returns how many bytes have to be shed now: what is above nine tenths of the limit, once the limit is
    /// passed. Nothing for a while if what was shed did not help. Unless it is none, [`Pressure::handle_shed`] has to follow.
    pub fn handle_resident(&mut self, bytes: u64, now: Instant) -> u64 {
        let relieved = self.relieved();
        // Also where there is enough now: by the time that there is too much again, it may have grown.
        if self.hoped.take().is_some_and(|hoped| self.held.saturating_sub(bytes) < hoped) {
            self.paused_until = Some(now + PAUSE);
        }
        if bytes <= self.max {
            self.is_high &= bytes > relieved;
            if !self.is_high {
                self.paused_until = None;
            }
            return 0;
        }
        self.is_high = true;
        if self.paused_until.is_some_and(|until| now < until) {
            return 0;
        }
        self.held = bytes;
        bytes - relieved
    }

    /// Circuits that held so many bytes were shed. The next measurement tells whether that helped.
    pub fn handle_shed(&mut self, bytes: u64) {
        self.hoped = (bytes > 0).then(|| (bytes / HELPED_PARTS).max(NOTICEABLE));
    }

    /// Before that, more came, so that it holds so many, and that was shed too: it is no sign that shedding does not help.
    pub fn handle_more_shed(&mut self, held: u64) {
        self.held = self.held.max(held);
    }

    /// Whether new channels and circuits are refused: from when the limit was passed until nine tenths of it are reached.
    pub fn is_high(&self) -> bool {
        self.is_high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Queue(u64, usize);

    impl Holding for Queue {
        fn age(&self) -> Duration {
            Duration::from_millis(self.0)
        }

        fn bytes(&self) -> usize {
            self.1
        }
    }

    #[track_caller]
    fn check(bytes: usize, expect: &[Queue]) {
        let all = vec![
            Queue(1_005, 100),
            Queue(9_000, 10),
            Queue(1_040, 1_000),
            Queue(1_040, 2_000),
            Queue(1_000, 9_999),
        ];
        assert_eq!(oldest_first(all, bytes), expect);
    }

    #[test]
    fn the_oldest_goes_first_whatever_its_size() {
        check(0, &[]);
        check(1, &[Queue(9_000, 10)]);
        check(10, &[Queue(9_000, 10)]);
        check(11, &[Queue(9_000, 10), Queue(1_040, 2_000)]);
        check(2_011, &[Queue(9_000, 10), Queue(1_040, 2_000), Queue(1_040, 1_000)]);
        assert_eq!(oldest_first(vec![Queue(1_000, 1); 3], usize::MAX).len(), 3);
    }

    #[test]
    fn who_moves_on_stays_and_a_round_ends_only_so_many() {
        let all = vec![Queue(999, 1 << 30), Queue(0, 1 << 30), Queue(1_000, 1)];
        assert_eq!(oldest_first(all, usize::MAX), [Queue(1_000, 1)]);
        assert_eq!(oldest_first(vec![Queue(5_000, 1); MAX_SHED + 1], usize::MAX).len(), MAX_SHED);
    }

    const MIB: u64 = 1 << 20;

    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn above_the_limit_it_sheds_down_to_nine_tenths_and_refuses_until_there() {
        let (now, mut pressure) = (start(), Pressure::new(1_000));
        let mut held = |bytes| (pressure.handle_resident(bytes, now), pressure.is_high());
        assert_eq!(held(1_000), (0, false));
        assert_eq!(held(1_001), (101, true));
        assert_eq!(held(950), (0, true));
        assert_eq!(held(900), (0, false));
        assert_eq!(held(950), (0, false));
    }

    #[test]
    fn more_is_shed_only_while_that_helps() {
        let (start, mut pressure) = (start(), Pressure::new(1_000 * MIB));
        let mut held = |at: Duration, mib: u64, shed: u64| {
            let sheds = pressure.handle_resident(mib * MIB, start + at);
            if sheds > 0 {
                pressure.handle_shed(shed * MIB);
            }
            (sheds > 0, pressure.is_high())
        };
        let (sheds, waits) = ((true, true), (false, true));
        let moment = Duration::from_millis(1);
        assert_eq!(held(Duration::ZERO, 1_700, 80), sheds);
        // An eighth of what was shed is gone.
        assert_eq!(held(Duration::ZERO, 1_690, 80), sheds);
        // Next to nothing: it is something else that fills the memory.
        assert_eq!(held(Duration::ZERO, 1_685, 80), waits);
        assert_eq!(held(PAUSE - moment, 1_685, 80), waits);
        assert_eq!(held(PAUSE, 1_685, 80), sheds, "it is tried again");
        assert_eq!(held(PAUSE, 5_000, 80), waits, "it grew");
        // Once there was enough again, everything is as at first.
        assert_eq!(held(PAUSE, 900, 0), (false, false));
        assert_eq!(held(PAUSE, 1_001, 0), sheds);
        // There was nothing to shed: that says nothing about whether it helps.
        assert_eq!(held(PAUSE, 1_001, 1), sheds);
    }

    #[test]
    fn what_helped_may_be_used_up_again() {
        let check = |helped: u64, more: u64, expect: u64| {
            let (now, mut pressure) = (start(), Pressure::new(1_000 * MIB));
            assert_eq!(pressure.handle_resident(1_005 * MIB, now), 105 * MIB);
            pressure.handle_shed(80 * MIB);
            pressure.handle_more_shed((1_005 + more) * MIB);
            let left = 1_005 + more - helped;
            assert_eq!((pressure.handle_resident(left * MIB, now), pressure.is_high()), (0, true));
            assert_eq!(pressure.handle_resident(1_020 * MIB, now), expect * MIB);
        };
        check(10, 0, 120);
        check(9, 0, 0);
        check(55, 50, 120);
    }

    #[test]
    fn what_came_meanwhile_is_no_sign_that_it_does_not_help() {
        let (now, mut pressure) = (start(), Pressure::new(1_000 * MIB));
        pressure.handle_resident(1_100 * MIB, now);
        pressure.handle_shed(80 * MIB);
        pressure.handle_more_shed(1_200 * MIB);
        assert_eq!(pressure.handle_resident(1_190 * MIB, now), 290 * MIB);
        pressure.handle_shed(80 * MIB);
        pressure.handle_more_shed(1_200 * MIB);
        assert_eq!(pressure.handle_resident(1_190 * MIB + 1, now), 0);
    }
}
