//! When circuits end because memory runs out, and when the allocator gives back what that freed.
//!
//! 1. Once the process holds more than nine tenths of what it may, circuits are shed that hold as much together as a tenth of that is free again.
//!    The less is left, the younger the data may be for which a circuit goes.
//! 2. What that freed counts as held until the allocator gives it back, which happens once a second at
//!    most. Meanwhile it is used again by what comes: only if the process holds more than before, that is used up, and as much
//!    is shed once more.
//! 3. The less is left, the sooner it is looked again.

use std::time::{Duration, Instant};

use tunic_proto::limits::MIN_AGE;

/// Of what may be held, in percent: from here on it is too much, for more arrives while circuits end.
const HIGH_PERCENT: u64 = 90;
/// Of that, in percent: down to this much is shed, and below it things are as usual again.
const RELIEVED_PERCENT: u64 = 90;
/// However little is left, who moves on stays.
const LEAST_AGE: Duration = Duration::from_millis(100);
/// The allocator stops whoever allocates while it gives memory back: that happens so often at most.
const GIVE_BACK_INTERVAL: Duration = Duration::from_secs(1);
/// How long circuits' ends may take to free their memory. So long none are asked for again, nor is it given back.
const SETTLE: Duration = Duration::from_millis(30);
/// Fewer bytes come and go by themselves.
const NOTICEABLE: u64 = 1 << 20;

/// How often it is looked at what the process holds.
const LEAST_INTERVAL: Duration = Duration::from_millis(10);
const MOST_INTERVAL: Duration = Duration::from_millis(100);
/// What may arrive meanwhile, bytes per second: a line of 10 Gbit/s.
const LINE_RATE: u64 = 1_250_000_000;

/// What was shed, and is not given back yet.
#[derive(Debug, Clone, Copy)]
struct Due {
    /// When it is given back.
    at: Instant,
    /// When it is free.
    settled: Instant,
    /// Bytes held until then, at the most.
    held: u64,
}

/// What has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surplus {
    /// So many bytes.
    pub bytes: u64,
    /// Only of circuits whose oldest data is as old.
    pub min_age: Duration,
}

/// Whether there is memory, and what to do and when where there is not.
#[derive(Debug)]
pub struct Relief {
    /// What may be held.
    max: u64,
    /// From where on it is too much.
    high: u64,
    is_high: bool,
    given_back: Option<Instant>,
    due: Option<Due>,
}

impl Relief {
    /// The process may hold so many bytes.
    pub fn new(max: u64) -> Relief {
        Relief { max, high: max / 100 * HIGH_PERCENT, is_high: false, given_back: None, due: None }
    }

    /// It holds so many. Returns what has to be shed now, if anything; then [`Relief::handle_shed`] has to follow.
    pub fn handle_resident(&mut self, bytes: u64, now: Instant) -> Option<Surplus> {
        let relieved = self.high / 100 * RELIEVED_PERCENT;
        let is_over = bytes > self.high;
        self.is_high = is_over || self.is_high && bytes > relieved;
        if let Some(due) = &mut self.due {
            if now < due.settled {
                due.held = due.held.max(bytes);
            }
            if bytes < due.held + NOTICEABLE {
                return None;
            }
        }
        is_over.then(|| Surplus { bytes: bytes - relieved, min_age: self.min_age(bytes) })
    }

    /// All of [`MIN_AGE`] where it begins to be too much, and less the less is left.
    fn min_age(&self, bytes: u64) -> Duration {
        let left = self.max.saturating_sub(bytes) as f64 / (self.max - self.high).max(1) as f64;
        MIN_AGE.mul_f64(left.min(1.0)).max(LEAST_AGE)
    }

    /// Circuits were shed while it held so many bytes, or there were none that may be.
    pub fn handle_shed(&mut self, resident: u64, any: bool, now: Instant) {
        let settled = if any { now + SETTLE } else { now };
        let next = self.given_back.map_or(now, |at| at + GIVE_BACK_INTERVAL);
        let at = self.due.map_or(next.max(now + SETTLE), |due| due.at);
        self.due = Some(Due { at, settled, held: resident });
    }

    /// Whether the allocator is to give memory back now; then it is taken to have done so.
    pub fn poll_give_back(&mut self, now: Instant) -> bool {
        let is_due = self.due.is_some_and(|due| due.at <= now);
        if is_due {
            (self.due, self.given_back) = (None, Some(now));
        }
        is_due
    }

    /// How long it may take until it is looked again, when it holds so many: before there can be too many, or not long after.
    pub fn interval(&self, bytes: u64) -> Duration {
        let room = self.high.saturating_sub(bytes);
        Duration::from_millis(room / (LINE_RATE / 1_000)).clamp(LEAST_INTERVAL, MOST_INTERVAL)
    }

    /// Whether new channels and circuits are refused: from when there was too much until a tenth is free again.
    pub fn is_high(&self) -> bool {
        self.is_high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Too much is more than 1,000 MiB of these.
    fn relief() -> Relief {
        Relief { high: 1_000 * MIB, ..Relief::new(1_200 * MIB) }
    }

    fn sheds(relief: &mut Relief, mib: u64, now: Instant) -> u64 {
        relief.handle_resident(mib * MIB, now).map_or(0, |surplus| surplus.bytes / MIB)
    }

    /// At 1,100 MiB, it shed 200.
    fn shed_once(now: Instant) -> Relief {
        let mut relief = relief();
        assert_eq!(sheds(&mut relief, 1_100, now), 200);
        relief.handle_shed(1_100 * MIB, true, now);
        relief
    }

    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn memory_is_given_back_once_a_second_at_most() {
        let start = start();
        let mut relief = shed_once(start);
        assert!(!relief.poll_give_back(start));
        assert!(relief.poll_give_back(start + SETTLE));
        assert!(!relief.poll_give_back(start + GIVE_BACK_INTERVAL), "nothing was shed since");
        let again = start + SETTLE * 2;
        assert_eq!(sheds(&mut relief, 1_010, again), 110);
        relief.handle_shed(1_010 * MIB, true, again);
        assert!(!relief.poll_give_back(start + GIVE_BACK_INTERVAL));
        let more = again + SETTLE;
        assert_eq!(sheds(&mut relief, 1_011, more), 111);
        relief.handle_shed(1_011 * MIB, true, more);
        assert!(relief.poll_give_back(start + SETTLE + GIVE_BACK_INTERVAL), "more does not put it off");
    }

    #[test]
    fn until_it_is_given_back_more_is_shed_once_what_was_freed_is_used_up() {
        let start = start();
        let mut relief = shed_once(start);
        // Before anything is free, more may come.
        assert_eq!(sheds(&mut relief, 1_150, start + SETTLE - Duration::from_millis(1)), 0);
        let settled = start + SETTLE;
        assert_eq!(sheds(&mut relief, 1_100, settled), 0);
        assert_eq!(sheds(&mut relief, 1_150, settled), 0);
        assert_eq!(sheds(&mut relief, 1_151, settled), 251);
        relief.handle_shed(1_151 * MIB, true, settled);
        assert_eq!(sheds(&mut relief, 1_151, settled + SETTLE), 0);
        assert!(relief.poll_give_back(settled + SETTLE));
        assert_eq!(sheds(&mut relief, 1_001, settled + SETTLE), 101);
    }

    #[test]
    fn where_nothing_could_be_shed_it_is_tried_again_when_more_has_come() {
        let (now, mut relief) = (start(), relief());
        assert_eq!(sheds(&mut relief, 1_100, now), 200);
        relief.handle_shed(1_100 * MIB, false, now);
        assert_eq!(sheds(&mut relief, 1_100, now), 0);
        assert_eq!(sheds(&mut relief, 1_101, now), 201);
        assert!(relief.poll_give_back(now + SETTLE), "the allocator may hold some");
    }

    #[test]
    fn new_ones_are_refused_until_a_tenth_is_free() {
        let (now, mut relief) = (start(), relief());
        let mut held = |mib| (sheds(&mut relief, mib, now), relief.is_high());
        assert_eq!(held(1_000), (0, false));
        assert_eq!(held(1_001), (101, true));
        assert_eq!(held(901), (0, true));
        assert_eq!(held(900), (0, false));
        assert_eq!(held(950), (0, false));
    }

    #[test]
    fn the_less_is_left_the_younger_the_data_of_who_goes() {
        let min_age_ms = |mib| relief().handle_resident(mib * MIB, start()).unwrap().min_age.as_millis();
        assert_eq!(
            [1_001, 1_050, 1_100, 1_170, 1_200, 9_999].map(min_age_ms),
            [995, 750, 500, 150, 100, 100]
        );
    }

    #[test]
    fn it_is_looked_the_sooner_the_less_is_left() {
        let relief = Relief { high: 1_000_000_000, ..relief() };
        let ms = |bytes: u64| relief.interval(bytes).as_millis();
        assert_eq!((ms(0), ms(875_000_000)), (100, 100));
        assert_eq!(ms(937_500_000), 50);
        assert_eq!((ms(987_500_000), ms(1_000_000_000), ms(u64::MAX)), (10, 10, 10));
    }
}
