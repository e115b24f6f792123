//! When circuits end because memory runs out, and when the allocator gives back what that freed.
//!
//! 1. Once the process holds too much, as much is shed as is above nine tenths of that.
//! 2. What that freed counts as held until the allocator gives it back, which happens once a second at
//!    most. Until then only what comes to it is shed too; if nothing is old enough to be, it is tried again soon, as long as more comes.
//! 3. The less is left, the sooner it is looked again.

use std::time::{Duration, Instant};

/// Of what may be held, in percent: down to this much is shed, and below it things are as usual again.
const RELIEVED_PERCENT: u64 = 90;
/// The allocator stops whoever allocates while it gives memory back: that happens so often at most.
const GIVE_BACK_INTERVAL: Duration = Duration::from_secs(1);
/// How long circuits' ends may take to free their memory before it is given back.
const SETTLE: Duration = Duration::from_millis(100);
/// How long it is not tried again when there was nothing to shed: to ask is work for each channel.
const EMPTY_PAUSE: Duration = Duration::from_millis(100);
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
    /// Bytes held when circuits were last shed, or the fewest since.
    held: u64,
    /// When more may be shed.
    more: Instant,
}

/// Whether there is memory, and what to do and when where there is not.
#[derive(Debug)]
pub struct Relief {
    max: u64,
    is_high: bool,
    given_back: Option<Instant>,
    due: Option<Due>,
}

impl Relief {
    /// The process may hold so many bytes.
    pub fn new(max: u64) -> Relief {
        Relief { max, is_high: false, given_back: None, due: None }
    }

    /// It holds so many. Returns how many bytes have to be shed now; unless that is none, [`Relief::handle_shed`] has to follow.
    pub fn handle_resident(&mut self, bytes: u64, now: Instant) -> u64 {
        let relieved = self.max / 100 * RELIEVED_PERCENT;
        let is_over = bytes > self.max;
        self.is_high = is_over || self.is_high && bytes > relieved;
        let surplus = match &mut self.due {
            None => bytes.saturating_sub(relieved),
            Some(due) => {
                due.held = due.held.min(bytes);
                let risen = bytes - due.held;
                if risen < NOTICEABLE || now < due.more { 0 } else { risen }
            }
        };
        if is_over { surplus } else { 0 }
    }

    /// While it held `resident` bytes, circuits that held so many were shed.
    pub fn handle_shed(&mut self, bytes: u64, resident: u64, now: Instant) {
        let more = if bytes == 0 { now + EMPTY_PAUSE } else { now };
        match &mut self.due {
            Some(due) => {
                due.more = more;
                if bytes > 0 {
                    due.held = resident;
                }
            }
            None => {
                let next = self.given_back.map_or(now, |at| at + GIVE_BACK_INTERVAL);
                self.due = Some(Due { at: next.max(now + SETTLE), held: resident, more });
            }
        }
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
        let room = self.max.saturating_sub(bytes);
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

    /// At 1,100 of 1,000 MiB, it shed 200.
    fn shed_once(now: Instant) -> Relief {
        let mut relief = Relief::new(1_000 * MIB);
        assert_eq!(relief.handle_resident(1_100 * MIB, now), 200 * MIB);
        relief.handle_shed(200 * MIB, 1_100 * MIB, now);
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
        assert_eq!(relief.handle_resident(1_010 * MIB, again), 110 * MIB);
        relief.handle_shed(110 * MIB, 1_010 * MIB, again);
        assert!(!relief.poll_give_back(start + GIVE_BACK_INTERVAL));
        assert!(relief.poll_give_back(start + SETTLE + GIVE_BACK_INTERVAL));
    }

    #[test]
    fn before_it_is_given_back_only_what_came_since_is_shed() {
        let start = start();
        let mut relief = shed_once(start);
        assert_eq!(relief.handle_resident(1_100 * MIB, start), 0);
        assert_eq!(relief.handle_resident(1_150 * MIB, start), 50 * MIB);
        relief.handle_shed(50 * MIB, 1_150 * MIB, start);
        assert_eq!(relief.handle_resident(1_150 * MIB, start), 0);
        assert_eq!(relief.handle_resident(1_151 * MIB - 1, start), 0);
        assert!(relief.is_high());
        assert!(relief.poll_give_back(start + SETTLE));
        assert_eq!(relief.handle_resident(1_001 * MIB, start), 101 * MIB);
    }

    #[test]
    fn what_was_used_up_anew_before_it_is_given_back_is_shed_too() {
        let start = start();
        let mut relief = shed_once(start);
        assert_eq!(relief.handle_resident(900 * MIB, start), 0);
        assert_eq!(relief.handle_resident(950 * MIB, start), 0, "it is not too much");
        assert_eq!(relief.handle_resident(1_001 * MIB, start), 101 * MIB);
    }

    #[test]
    fn where_nothing_could_be_shed_it_is_tried_again_soon() {
        let start = start();
        let mut relief = shed_once(start);
        assert_eq!(relief.handle_resident(1_150 * MIB, start), 50 * MIB);
        relief.handle_shed(0, 1_150 * MIB, start);
        let soon = start + EMPTY_PAUSE;
        assert_eq!(relief.handle_resident(1_200 * MIB, soon - Duration::from_millis(1)), 0);
        assert_eq!(relief.handle_resident(1_200 * MIB, soon), 100 * MIB, "all of it");
        relief.handle_shed(MIB, 1_200 * MIB, soon);
        assert_eq!(relief.handle_resident(1_210 * MIB, soon), 10 * MIB);
    }

    #[test]
    fn new_ones_are_refused_until_a_tenth_is_free() {
        let (now, mut relief) = (start(), Relief::new(1_000));
        let mut held = |bytes| (relief.handle_resident(bytes, now), relief.is_high());
        assert_eq!(held(1_000), (0, false));
        assert_eq!(held(1_001), (101, true));
        assert_eq!(held(901), (0, true));
        assert_eq!(held(900), (0, false));
        assert_eq!(held(950), (0, false));
    }

    #[test]
    fn it_is_looked_the_sooner_the_less_is_left() {
        let relief = Relief::new(1_000_000_000);
        let ms = |bytes: u64| relief.interval(bytes).as_millis();
        assert_eq!((ms(0), ms(875_000_000)), (100, 100));
        assert_eq!(ms(937_500_000), 50);
        assert_eq!((ms(987_500_000), ms(1_000_000_000), ms(u64::MAX)), (10, 10, 10));
    }
}
