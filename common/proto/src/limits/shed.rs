//! What goes first when memory runs out: the circuit whose queued data is the oldest, as in C Tor. Honest circuits move on
//! within moments; what stays queued is what nobody takes.
//!
//! What fills the memory may be something else, which no circuit's end gives back: [`would_help`].

use std::time::Duration;

/// Shedding helps if what may go holds one part of so many of what is too much.
const HELPING_PARTS: usize = 8;

/// Something that holds queued data.
pub trait Holding {
    /// How long its oldest data has been there.
    fn age(&self) -> Duration;
    /// Bytes that it holds.
    fn bytes(&self) -> usize;
}

/// Whether so many bytes become free, or a fair part of them, if all of these go.
pub fn would_help<H: Holding>(all: &[H], bytes: usize) -> bool {
    all.iter().map(Holding::bytes).sum::<usize>() >= bytes / HELPING_PARTS
}

/// As many of these as hold `bytes` together, those with the oldest data first, and of those of the same age the largest.
pub fn oldest_first<H: Holding>(mut all: Vec<H>, bytes: usize) -> Vec<H> {
    all.sort_by_key(|held| std::cmp::Reverse((held.age(), held.bytes())));
    let mut left = bytes;
    all.into_iter()
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
    fn what_something_else_holds_is_none_of_theirs() {
        let all = [Queue(5_000, 10); 3];
        assert!(would_help(&all, 247));
        assert!(!would_help(&all, 248));
    }
}
