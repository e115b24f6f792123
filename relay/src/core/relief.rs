//! When circuits end because memory runs out, and when the allocator gives back what that freed.
//!
//! 1. Once the process holds more than nine tenths of what it may, circuits are shed that hold as much together as a tenth of that is free again.
//!    The less is left, the younger the data may be for which a circuit goes.
//! 2. What that freed counts as held until the allocator gives it back, which happens once a second at
//!    most. Meanwhile it is used again by what comes: only if the process holds noticeably more than before, that is used up, and as much
//!    is shed once more. What was too young to be shed is asked for again once it is older.
//! 3. The less is left, the sooner it is looked again.

use std::time::{Duration, Instant};

/// Of what may be held, in percent: from here on it is too much, for more arrives while circuits end.
const HIGH_PERCENT: u64 = 90;
/// Of that, in percent: down to this much is shed, and below it things are as usual again.
const RELIEVED_PERCENT: u64 = 90;
/// A circuit whose oldest data is younger stays: it moves on, and its end would free nothing that is not free soon. So it is
/// where it begins to be too much,
const MOST_AGE: Duration = Duration::from_secs(1);
/// and so where nothing is left.
const LEAST_AGE: Duration = Duration::from_millis(250);
/// The allocator stops whoever allocates while it gives memory back: that happens so often at most.
const GIVE_BACK_INTERVAL: Duration = Duration::from_secs(1);
/// How long circuits' ends may take to free their memory. So long none are asked for again, nor is it given back.
const SETTLE: Duration = Duration::from_millis(30);
/// Fewer bytes come and go by themselves,
const NOTICEABLE: u64 = 1 << 20;
/// and one part of so many of what is too much.
const NOTICEABLE_PARTS: u64 = 16;

/// How often it is looked at what the process holds.
const LEAST_INTERVAL: Duration = Duration::from_millis(10);
const MOST_INTERVAL: Duration = Duration::from_millis(100);
/// What may arrive meanwhile, bytes per second: a line of 10 Gbit/s.
const LINE_RATE: u64 = 1_250_000_000;

/// What was shed, or could not be, and is not given back yet.
#[derive(Debug, Clone, Copy)]
struct Due {
    /// When it is given back.
    at: Instant,
    /// When it is free.
    settled: Instant,
    /// Bytes held then.
    held: u64,
    /// What came before that was free, and is no more than it, uses it up.
    most: u64,
    /// Bytes that were too much and not shed, because nothing more was old enough,
    left: u64,
    /// and when it may be.
    older: Instant,
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
        self.is_high = bytes > self.high || self.is_high && bytes > relieved;
        let mut surplus = Surplus { bytes: bytes.saturating_sub(relieved), min_age: self.min_age(bytes) };
        if let Some(due) = &mut self.due {
            if now < due.settled {
                due.held = due.held.max(bytes).min(due.most);
                return None;
            }
            if bytes <= self.high {
                due.held = due.held.min(bytes);
            }
            if bytes.saturating_sub(due.held) < NOTICEABLE.max(surplus.bytes / NOTICEABLE_PARTS) {
                surplus.bytes = if now < due.older { 0 } else { surplus.bytes.min(due.left) };
            }
        }
        (bytes > self.high && surplus.bytes > 0).then_some(surplus)
    }

    fn min_age(&self, bytes: u64) -> Duration {
        let left = self.max.saturating_sub(bytes) as f64 / (self.max - self.high).max(1) as f64;
        MOST_AGE.mul_f64(left.min(1.0)).max(LEAST_AGE)
    }

    /// While it held `resident` bytes, of the `asked` ones circuits were shed that held so many.
    pub fn handle_shed(&mut self, asked: u64, bytes: u64, resident: u64, now: Instant) {
        let settled = if bytes > 0 { now + SETTLE } else { now };
        let next = self.given_back.map_or(now, |at| at + GIVE_BACK_INTERVAL);
        let at = self.due.map_or(next, |due| due.at).max(settled);
        let (most, left) = (resident.saturating_add(bytes), asked.saturating_sub(bytes));
        self.due = Some(Due { at, settled, held: resident, most, left, older: now + LEAST_AGE });
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

    const MOMENT: Duration = Duration::from_millis(1);

    /// Of 1,200 MiB, with 1,000 where it begins to be too much.
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
        relief.handle_shed(200 * MIB, 200 * MIB, 1_100 * MIB, now);
        relief
    }

    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn what_was_shed_is_given_back_when_it_is_free_and_once_a_second_at_most() {
        let start = start();
        let mut relief = shed_once(start);
        assert!(!relief.poll_give_back(start));
        assert!(relief.poll_give_back(start + SETTLE));
        assert!(!relief.poll_give_back(start + GIVE_BACK_INTERVAL), "nothing was shed since");
        let (again, next) = (start + SETTLE * 2, start + SETTLE + GIVE_BACK_INTERVAL);
        assert_eq!(sheds(&mut relief, 1_010, again), 110);
        relief.handle_shed(110 * MIB, 110 * MIB, 1_010 * MIB, again);
        assert!(!relief.poll_give_back(next - MOMENT));
        assert_eq!(sheds(&mut relief, 1_110, next - MOMENT), 210);
        relief.handle_shed(210 * MIB, 210 * MIB, 1_110 * MIB, next - MOMENT);
        assert!(!relief.poll_give_back(next), "it is not free yet");
        assert!(relief.poll_give_back(next - MOMENT + SETTLE));
    }

    #[test]
    fn until_it_is_given_back_more_is_shed_once_what_was_freed_is_used_up() {
        let start = start();
        let mut relief = shed_once(start);
        // Before anything is free, more may come.
        let settled = start + SETTLE;
        assert_eq!(sheds(&mut relief, 1_150, settled - MOMENT), 0);
        assert_eq!(sheds(&mut relief, 1_150, settled), 0);
        assert_eq!(sheds(&mut relief, 1_166, settled), 0, "a sixteenth comes and goes");
        assert_eq!(sheds(&mut relief, 1_167, settled), 267);
        relief.handle_shed(267 * MIB, 267 * MIB, 1_167 * MIB, settled);
        assert_eq!(sheds(&mut relief, 1_167, settled + SETTLE), 0);
        assert!(relief.poll_give_back(settled + SETTLE));
        assert_eq!(sheds(&mut relief, 1_001, settled + SETTLE), 101);
    }

    #[test]
    fn what_came_meanwhile_is_excused_as_far_as_something_was_freed() {
        let (start, mut relief) = (start(), relief());
        assert_eq!(sheds(&mut relief, 1_100, start), 200);
        relief.handle_shed(200 * MIB, 20 * MIB, 1_100 * MIB, start);
        assert_eq!(sheds(&mut relief, 1_150, start + SETTLE - MOMENT), 0);
        assert_eq!(sheds(&mut relief, 1_150, start + SETTLE), 250);
    }

    #[test]
    fn what_the_process_gave_back_by_itself_is_used_up_anew() {
        let start = start();
        let mut relief = shed_once(start);
        let settled = start + SETTLE;
        assert_eq!(sheds(&mut relief, 1_040, settled), 0);
        assert_eq!(sheds(&mut relief, 1_060, settled), 0, "what was freed may still serve");
        assert_eq!(sheds(&mut relief, 850, settled), 0);
        assert!(!relief.is_high());
        assert_eq!(sheds(&mut relief, 1_001, settled), 101);
    }

    #[test]
    fn where_nothing_could_be_shed_it_is_tried_again_when_more_has_come() {
        let (start, mut relief) = (start(), relief());
        assert_eq!(sheds(&mut relief, 1_100, start), 200);
        relief.handle_shed(200 * MIB, 0, 1_100 * MIB, start);
        assert_eq!(sheds(&mut relief, 1_113, start), 0);
        assert_eq!(sheds(&mut relief, 1_115, start), 215);
        assert!(relief.poll_give_back(start), "the allocator may hold some");
    }

    #[test]
    fn what_was_too_young_goes_when_it_is_older() {
        let (start, mut relief) = (start(), relief());
        assert_eq!(sheds(&mut relief, 1_100, start), 200);
        relief.handle_shed(200 * MIB, 50 * MIB, 1_100 * MIB, start);
        assert_eq!(sheds(&mut relief, 1_100, start + LEAST_AGE - MOMENT), 0);
        assert_eq!(sheds(&mut relief, 1_100, start + LEAST_AGE), 150);
        assert_eq!(sheds(&mut relief, 1_010, start + LEAST_AGE), 110, "no more than is too much");
        relief.handle_shed(150 * MIB, 150 * MIB, 1_100 * MIB, start + LEAST_AGE);
        assert_eq!(sheds(&mut relief, 1_100, start + LEAST_AGE * 2), 0);
    }

    #[test]
    fn a_little_comes_and_goes() {
        let now = start();
        let mut relief = Relief::new(20 * MIB);
        assert_eq!(sheds(&mut relief, 19, now), 2);
        relief.handle_shed(2 * MIB, 0, 19 * MIB, now);
        assert_eq!(relief.handle_resident(20 * MIB - 1, now), None);
        assert_eq!(sheds(&mut relief, 20, now), 3);
    }

    #[test]
    fn a_tenth_is_kept_for_what_arrives_meanwhile() {
        let mut relief = Relief::new(1_000 * MIB);
        assert_eq!(sheds(&mut relief, 900, start()), 0);
        assert_eq!(sheds(&mut relief, 901, start()), 91);
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
            [1_001, 1_050, 1_100, 1_150, 1_200, 9_999].map(min_age_ms),
            [995, 750, 500, 250, 250, 250]
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
