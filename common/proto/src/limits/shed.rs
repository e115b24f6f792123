//! What goes first when memory runs out: the circuit whose queued data is the oldest, as in C Tor. Honest circuits move on
//! within moments; what stays queued is what nobody takes.
//!
//! What fills the memory may be something else, which no circuit's end gives back. So none ends unless those that may go hold
//! a fair part of what is too much, and whoever moves on stays.

use std::time::Duration;

/// A circuit whose oldest data is younger stays, while there is time: it moves on, and its end would free nothing that is not
/// free soon.
pub const MIN_AGE: Duration = Duration::from_secs(1);
/// At most so many circuits end at a time; then it is measured whether that was enough.
pub const MAX_SHED: usize = 1_024;
/// Shedding helps if what may go holds one part of so many of what is too much.
const HELPING_PARTS: usize = 8;

/// Something that holds queued data.
pub trait Holding {
    /// How long its oldest data has been there.
    fn age(&self) -> Duration;
    /// Bytes that it holds.
    fn bytes(&self) -> usize;
}

/// As many of these as hold `bytes` together, those with the oldest data first, and of those of the same age the largest;
/// [`MAX_SHED`] at the most, and none if that would not help: all that may go, these and others, holds `held` bytes.
pub fn oldest_first<H: Holding>(mut oldest: Vec<H>, held: usize, bytes: usize) -> Vec<H> {
    if held < bytes / HELPING_PARTS {
        return Vec::new();
    }
    oldest.sort_by_key(|held| std::cmp::Reverse((held.age(), held.bytes())));
    let mut left = bytes;
    oldest
        .into_iter()
        .take(MAX_SHED)
        .take_while(|held| {
            let goes = left > 0;
            left = left.saturating_sub(held.bytes());
            goes
        })
        .collect()
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
        assert_eq!(oldest_first(all, bytes, bytes), expect);
    }

    #[test]
    fn the_oldest_goes_first_whatever_its_size() {
        check(0, &[]);
        check(1, &[Queue(9_000, 10)]);
        check(10, &[Queue(9_000, 10)]);
        check(11, &[Queue(9_000, 10), Queue(1_040, 2_000)]);
        check(2_011, &[Queue(9_000, 10), Queue(1_040, 2_000), Queue(1_040, 1_000)]);
        assert_eq!(oldest_first(vec![Queue(1_000, 1); 3], 3, 20).len(), 3);
    }

    #[test]
    fn a_round_ends_only_so_many() {
        let all = vec![Queue(5_000, 1); MAX_SHED + 1];
        assert_eq!(oldest_first(all, MAX_SHED + 1, MAX_SHED + 1).len(), MAX_SHED);
    }

    #[test]
    fn nobody_ends_for_what_something_else_holds() {
        let ended = |held, bytes| oldest_first(vec![Queue(5_000, 10); 3], held, bytes).len();
        assert_eq!((ended(30, 240), ended(30, 248)), (3, 0));
        assert_eq!(ended(31, 248), 3, "others hold something too");
    }
}
