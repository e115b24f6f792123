//! What waits for a core beside the cell path: circuit handshakes, and streams that are to be connected.
//!
//! Each costs about a tenth of a millisecond, and asking for one costs next to nothing. So neighbours take turns, however
//! many each of them has waiting. Where there is no room, the oldest of whoever has the most is given up: it has waited
//! longest, and its client is the first to lose patience.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Networks;
use crate::ids::RelayId;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A relay of the network.
    Relay(RelayId),
    /// Anybody else, by subnet.
    Subnet(IpAddr),
    /// Somebody whose address is not known.
    Unknown,
}

impl Source {
    /// A stranger at this address.
    pub fn stranger(ip: Option<IpAddr>) -> Source {
        ip.map_or(Source::Unknown, |ip| Source::Subnet(Networks::of(ip).subnet))
    }
}

/// A queue in which sources take turns.
#[derive(Debug)]
pub struct TurnQueue<T> {
    waiting: HashMap<Source, VecDeque<(Instant, T)>>,
    /// Every source with something waiting, once.
    turns: VecDeque<Source>,
    len: usize,
}

impl<T> Default for TurnQueue<T> {
    fn default() -> Self {
        TurnQueue { waiting: HashMap::new(), turns: VecDeque::new(), len: 0 }
    }
}

impl<T> TurnQueue<T> {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds one.
    pub fn push(&mut self, now: Instant, source: Source, job: T) {
        let queue = self.waiting.entry(source).or_default();
        if queue.is_empty() {
            self.turns.push_back(source);
        }
        queue.push_back((now, job));
        self.len += 1;
    }

    /// The one that is given up where more than `limit` wait.
    pub fn give_up_beyond(&mut self, limit: usize) -> Option<T> {
        (self.len > limit).then(|| self.give_up()).flatten()
    }

    /// The next one, and how long it has waited.
    pub fn pop(&mut self, now: Instant) -> Option<(T, Duration)> {
        let source = self.turns.pop_front()?;
        let (since, job) = self.take_oldest(source)?;
        if self.waiting.contains_key(&source) {
            self.turns.push_back(source);
        }
        Some((job, now.saturating_duration_since(since)))
    }

    fn give_up(&mut self) -> Option<T> {
        let most = self.waiting.iter().max_by_key(|(_, queue)| queue.len());
        let source = *most?.0;
        let (_, job) = self.take_oldest(source)?;
        if !self.waiting.contains_key(&source) {
            self.turns.retain(|turn| *turn != source);
        }
        Some(job)
    }

    fn take_oldest(&mut self, source: Source) -> Option<(Instant, T)> {
        let queue = self.waiting.get_mut(&source)?;
        let oldest = queue.pop_front()?;
        self.len -= 1;
        if queue.is_empty() {
            self.waiting.remove(&source);
        }
        Some(oldest)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "Instant has no other origin; only differences to it are used")]
mod tests {
    use super::*;

    const FLOOD: Source = Source::Relay(RelayId([1; 32]));
    const HONEST: Source = Source::Relay(RelayId([2; 32]));

    #[test]
    fn a_flood_waits_behind_itself_and_not_before_others() {
        let (mut queue, now) = (TurnQueue::default(), Instant::now());
        (0..100).for_each(|n| queue.push(now, FLOOD, n));
        queue.push(now, HONEST, 1_000);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(now)).map(|(job, _)| job).collect();
        assert_eq!(order[..3], [0, 1_000, 1]);
        assert_eq!((order.len(), queue.len(), queue.is_empty()), (101, 0, true));
        assert!(queue.turns.is_empty() && queue.waiting.is_empty());
    }

    #[test]
    fn without_room_the_oldest_of_whoever_has_the_most_is_given_up() {
        let (mut queue, start) = (TurnQueue::default(), Instant::now());
        queue.push(start, HONEST, 1_000);
        let later = start + Duration::from_millis(300);
        let mut add = |n| {
            queue.push(later, FLOOD, n);
            queue.give_up_beyond(4)
        };
        let given_up: Vec<_> = (0..10).filter_map(&mut add).collect();
        assert_eq!(given_up, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(queue.len(), 4);
        let now = later + Duration::from_millis(200);
        assert_eq!(queue.pop(now), Some((1_000, Duration::from_millis(500))));
        assert_eq!(queue.pop(now), Some((7, Duration::from_millis(200))));
    }

    #[test]
    fn a_source_that_was_given_up_has_no_turn() {
        let (mut queue, now) = (TurnQueue::default(), Instant::now());
        queue.push(now, FLOOD, 1);
        assert_eq!(queue.give_up_beyond(0), Some(1));
        assert_eq!((queue.turns.len(), queue.pop(now)), (0, None));
    }
}
