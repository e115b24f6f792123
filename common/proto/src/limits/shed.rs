//! What goes first when memory runs out: the circuit whose queued data is the oldest, as in C Tor. Honest circuits move on
//! within moments; what stays queued is what nobody takes.

use std::time::Duration;

/// Of the limit, in percent: down to this much is shed, and below it things are as usual again.
const RELIEVED_PERCENT: u64 = 90;

/// Something that holds queued data.
pub trait Holding {
    /// How long its oldest data has been there.
    fn age(&self) -> Duration;
    /// Bytes that it holds.
    fn bytes(&self) -> usize;
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

/// Whether there is memory, and what to do where there is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pressure {
    max: u64,
    is_high: bool,
}

impl Pressure {
    /// The process may hold so many bytes.
    pub fn new(max: u64) -> Pressure {
        Pressure { max, is_high: false }
    }

    /// Bytes that the process may hold.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// It holds so many. Returns how many bytes have to be shed now: what is above nine tenths of the limit, once the limit is
    /// passed.
    pub fn handle_resident(&mut self, bytes: u64) -> u64 {
        let relieved = self.max / 100 * RELIEVED_PERCENT;
        if bytes > self.max {
            self.is_high = true;
            return bytes - relieved;
        }
        self.is_high &= bytes > relieved;
        0
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
        let all = vec![Queue(5, 100), Queue(9_000, 10), Queue(40, 1_000), Queue(40, 2_000), Queue(0, 9_999)];
        assert_eq!(oldest_first(all, bytes), expect);
    }

    #[test]
    fn the_oldest_goes_first_whatever_its_size() {
        check(0, &[]);
        check(1, &[Queue(9_000, 10)]);
        check(10, &[Queue(9_000, 10)]);
        check(11, &[Queue(9_000, 10), Queue(40, 2_000)]);
        check(2_011, &[Queue(9_000, 10), Queue(40, 2_000), Queue(40, 1_000)]);
        assert_eq!(oldest_first(vec![Queue(1, 1); 3], usize::MAX).len(), 3);
    }

    #[test]
    fn above_the_limit_it_sheds_down_to_nine_tenths_and_refuses_until_there() {
        let mut pressure = Pressure::new(1_000);
        assert_eq!((pressure.handle_resident(1_000), pressure.is_high()), (0, false));
        assert_eq!((pressure.handle_resident(1_001), pressure.is_high()), (101, true));
        assert_eq!((pressure.handle_resident(950), pressure.is_high()), (0, true));
        assert_eq!((pressure.handle_resident(900), pressure.is_high()), (0, false));
        assert_eq!((pressure.handle_resident(950), pressure.is_high()), (0, false));
    }
}
