//! What an exit remembers of names, so that the time of an answer tells nothing about who asked before.
//!
//! Whoever can ask an exit for names could learn from quick answers what others asked for lately (Dahlberg and Pulls,
//! "Timeless Timing Attacks and Preload Defenses in Tor's DNS Cache", USENIX Security 2023). So:
//!
//! 1. [`Cache::find`] gives a remembered answer together with the time that it took when it was found: whoever asks waits
//!    that long. Times are rounded up to [`GRID`], so that small differences vanish.
//! 2. An answer lives [`MIN_TTL`] to [`MAX_TTL`], whatever the name server said, give or take [`FUZZ`]: how long it lives
//!    does not tell when it was asked for first.
//! 3. A name server remembers too. What took long once takes as long again for [`MEMORY`], also after the answer's life:
//!    the entry stays, without its answer.
//!
//! Nothing is kept about who asked. Entries are found by a keyed hash; no name is stored.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use tunic_proto::resolve::{MAX_TTL, MIN_TTL, Query};

/// Names that are remembered; with one more, the one that was asked for first is forgotten.
pub const MAX_ENTRIES: usize = 32_768;
/// Times of answers are rounded up to multiples of this.
pub const GRID: Duration = Duration::from_millis(20);
/// The longest that a remembered answer is held back.
pub const MAX_DELAY: Duration = Duration::from_secs(1);
/// The life of an answer is up to so much longer or shorter.
pub const FUZZ: Duration = Duration::from_secs(2 * 60);
/// How long it is remembered that a name took its time.
pub const MEMORY: Duration = Duration::from_secs(24 * 60 * 60);

/// Remembered answers of type `A`. `S` hashes names with a key that nobody else knows.
pub struct Cache<A, S> {
    hashers: [S; 2],
    entries: HashMap<u128, Entry<A>>,
    /// Every key once, the oldest first.
    order: VecDeque<u128>,
}

struct Entry<A> {
    since: Instant,
    /// The answer, and when it ends.
    answer: Option<(A, Instant)>,
    delay: Duration,
}

/// What to do for somebody who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<A> {
    /// Give this answer, so long after the question.
    Answer(A, Duration),
    /// Ask a name server, and give its answer no sooner than so long after the question.
    Ask(Duration),
}

/// How long after its question an answer is given that took so long to find.
pub fn delay(took: Duration) -> Duration {
    let steps = took.as_nanos().div_ceil(GRID.as_nanos()).max(1);
    GRID.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX))
}

/// How long an answer is kept that a name server gave this lifetime. `dice` is random, and evenly so.
pub fn lifetime(ttl: Duration, dice: u64) -> Duration {
    let fuzz = Duration::from_millis(dice % (2 * FUZZ.as_millis() as u64));
    (ttl.clamp(MIN_TTL, MAX_TTL) + fuzz).saturating_sub(FUZZ).clamp(MIN_TTL, MAX_TTL)
}

impl<A: Clone, S: BuildHasher> Cache<A, S> {
    /// Remembers nothing yet. The hashers must have different keys.
    pub fn new(hashers: [S; 2]) -> Self {
        Cache { hashers, entries: HashMap::new(), order: VecDeque::new() }
    }

    /// By what a question is found: equal questions, and with all likelihood no others, have the same.
    pub fn key(&self, query: &Query) -> u128 {
        let [high, low] = self.hashers.each_ref().map(|hasher| u128::from(hasher.hash_one(query)));
        high << 64 | low
    }

    /// What to do for somebody who asks.
    pub fn find(&mut self, key: u128, now: Instant) -> Found<A> {
        self.expire(now);
        let Some(entry) = self.entries.get_mut(&key) else { return Found::Ask(Duration::ZERO) };
        match &entry.answer {
            Some((answer, end)) if *end > now => Found::Answer(answer.clone(), entry.delay),
            _ => {
                entry.answer = None;
                Found::Ask(entry.delay)
            }
        }
    }

    /// Remembers an answer that took so long to find, for `life`.
    pub fn remember(&mut self, key: u128, answer: A, took: Duration, life: Duration, now: Instant) {
        self.expire(now);
        let answer = Some((answer, now + life));
        let delay = delay(took).min(MAX_DELAY);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.delay = entry.delay.max(delay);
            entry.answer = answer;
            return;
        }
        if self.order.len() == MAX_ENTRIES {
            self.forget_oldest();
        }
        self.order.push_back(key);
        self.entries.insert(key, Entry { since: now, answer, delay });
    }

    /// How many names are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn expire(&mut self, now: Instant) {
        let is_old = |entry: &Entry<A>| now.saturating_duration_since(entry.since) >= MEMORY;
        while self.order.front().and_then(|key| self.entries.get(key)).is_some_and(is_old) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(key) = self.order.pop_front() {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::hash::RandomState;

    const MS: Duration = Duration::from_millis(1);

    fn cache() -> Cache<u32, RandomState> {
        Cache::new([RandomState::new(), RandomState::new()])
    }

    #[expect(clippy::disallowed_methods, reason = "some moment to start from")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_remembered_answer_takes_as_long_as_it_took_to_find() {
        let (mut cache, now) = (cache(), start());
        assert_eq!(cache.find(1, now), Found::Ask(Duration::ZERO));
        cache.remember(1, 7, 93 * MS, MIN_TTL, now);
        assert_eq!(cache.find(1, now), Found::Answer(7, 100 * MS));
        assert_eq!(cache.find(1, now + MIN_TTL - MS), Found::Answer(7, 100 * MS));
        assert_eq!(cache.find(2, now), Found::Ask(Duration::ZERO));
    }

    #[test]
    fn what_took_long_once_takes_long_again_after_its_answer_has_ended() {
        let (mut cache, now) = (cache(), start());
        cache.remember(1, 7, 93 * MS, MIN_TTL, now);
        let later = now + MIN_TTL;
        assert_eq!(cache.find(1, later), Found::Ask(100 * MS));
        // The name server had it ready this time.
        cache.remember(1, 8, 2 * MS, MIN_TTL, later);
        assert_eq!(cache.find(1, later), Found::Answer(8, 100 * MS));
        assert_eq!(cache.find(1, now + MEMORY), Found::Ask(Duration::ZERO));
    }

    #[test]
    fn a_slow_name_server_does_not_hold_answers_back_for_long() {
        let (mut cache, now) = (cache(), start());
        cache.remember(1, 7, Duration::from_secs(9), MIN_TTL, now);
        assert_eq!(cache.find(1, now), Found::Answer(7, MAX_DELAY));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut cache, now) = (cache(), start());
        for key in 0..2 * MAX_ENTRIES as u128 {
            cache.remember(key, 0, MS, MIN_TTL, now);
        }
        assert_eq!((cache.len(), cache.order.len()), (MAX_ENTRIES, MAX_ENTRIES));
        assert_eq!(cache.find(0, now), Found::Ask(Duration::ZERO));
        assert_eq!(cache.find(2 * MAX_ENTRIES as u128 - 1, now), Found::Answer(0, GRID));
        cache.find(0, now + MEMORY);
        assert!(cache.is_empty() && cache.order.is_empty());
    }

    #[test]
    fn questions_have_keys_of_their_own() {
        let cache = cache();
        let key = |name: &str| cache.key(&Query::Name(name.into()));
        assert_eq!(key("a."), key("a."));
        assert_ne!(key("a."), key("b."));
        assert_ne!(key("127.0.0.1"), cache.key(&Query::Addr([127, 0, 0, 1].into())));
    }

    proptest! {
        #[test]
        fn lives_stay_within_bounds_and_are_spread(ttl in 0u64..1 << 33, dice in any::<u64>()) {
            let life = lifetime(Duration::from_secs(ttl), dice);
            prop_assert!((MIN_TTL..=MAX_TTL).contains(&life));
            let wanted = Duration::from_secs(ttl).clamp(MIN_TTL, MAX_TTL);
            prop_assert!(life.abs_diff(wanted) <= FUZZ);
        }

        #[test]
        fn delays_are_on_the_grid(ms in 0u64..100_000) {
            let (took, delay) = (Duration::from_millis(ms), delay(Duration::from_millis(ms)));
            prop_assert!(delay >= took.max(GRID) && delay < took + GRID + MS);
            prop_assert_eq!(delay.as_nanos() % GRID.as_nanos(), 0);
        }
    }
}
