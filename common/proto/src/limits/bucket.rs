//! A rate of bytes with a burst, from which many take in turn.

use std::time::{Duration, Instant};

/// A burst may last so long at the most: more would be no limit, and moments must stay within reach of a clock.
const MAX_BURST: Duration = Duration::from_secs(3_600);
/// The least that is given at a time: so many parts of a second's worth, within [`LEAST`].
const PARTS: u64 = 500;
/// The least that is given at a time, in bytes. Fewer are not worth a system call; more would make others wait for long.
const LEAST: std::ops::RangeInclusive<u64> = 1_024..=65_536;

/// So many bytes each second in the long run, and so many at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throughput {
    rate: u64,
    burst: u64,
}

impl Throughput {
    /// In bytes per second and bytes. Zero counts as one; a burst is a byte at the least and an hour's worth at the most.
    pub fn new(rate: u64, burst: u64) -> Throughput {
        let rate = rate.max(1);
        Throughput { rate, burst: burst.clamp(1, rate.saturating_mul(MAX_BURST.as_secs())) }
    }

    /// Bytes per second.
    pub fn rate(self) -> u64 {
        self.rate
    }

    /// Bytes at once.
    pub fn burst(self) -> u64 {
        self.burst
    }

    /// How long so many bytes take at this rate, rounded up.
    fn time_of(self, bytes: u64) -> Duration {
        let rest = u128::from(bytes % self.rate) * 1_000_000_000;
        Duration::from_secs(bytes / self.rate)
            + Duration::from_nanos(rest.div_ceil(self.rate.into()).try_into().unwrap_or(u64::MAX))
    }

    /// How many bytes come in such a time, rounded down.
    fn bytes_in(self, time: Duration) -> u64 {
        (time.as_nanos() * u128::from(self.rate) / 1_000_000_000).try_into().unwrap_or(u64::MAX)
    }

    /// The least of `wanted` bytes that is worth giving.
    fn least(self, wanted: u64) -> u64 {
        (self.rate / PARTS).clamp(*LEAST.start(), *LEAST.end()).min(wanted).min(self.burst)
    }
}

/// How much of a [`Throughput`] is used: the moment at which all of the burst will be there again.
///
/// In any time *t*, what is taken and not given back is at most *burst + rate × t*, and the end of one datagram
/// ([`Bucket::take_over`]).
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    limit: Throughput,
    full_at: Option<Instant>,
}

impl Bucket {
    /// A full one.
    pub fn new(limit: Throughput) -> Bucket {
        Bucket { limit, full_at: None }
    }

    /// Another limit holds from now on. What was used stays used, as far as the new burst reaches.
    pub fn set_limit(&mut self, limit: Throughput, now: Instant) {
        let used = self.limit.burst.saturating_sub(self.available(now)).min(limit.burst);
        *self = Bucket { limit, full_at: Some(now + limit.time_of(used)) };
    }

    /// Bytes that could be taken now.
    pub fn available(&self, now: Instant) -> u64 {
        let until_full = self.full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let there = self.limit.bytes_in(self.limit.time_of(self.limit.burst).saturating_sub(until_full));
        // A burst takes a nanosecond at the least, which may be worth more.
        there.min(self.limit.burst)
    }

    /// Takes up to `wanted` bytes.
    ///
    /// # Errors
    /// When there will be enough to be worth it.
    pub fn take(&mut self, now: Instant, wanted: u64) -> Result<u64, Instant> {
        let (there, least) = (self.available(now), self.limit.least(wanted));
        if there < least {
            let wait = self.owed(now) + self.limit.time_of(least - there);
            return Err(now + wait.max(Duration::from_nanos(1)));
        }
        let taken = there.min(wanted);
        let from = self.full_at.map_or(now, |at| at.max(now));
        self.full_at = Some(from + self.limit.time_of(taken));
        Ok(taken)
    }

    /// How long it takes until what is owed has come in.
    fn owed(&self, now: Instant) -> Duration {
        let until_full = self.full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        until_full.saturating_sub(self.limit.time_of(self.limit.burst))
    }

    /// Takes so many bytes if there are any at all: what is missing is owed, and nothing is there until it has come in.
    pub fn take_over(&mut self, now: Instant, bytes: u64) -> bool {
        let has_room = self.available(now) > 0;
        if has_room {
            let from = self.full_at.map_or(now, |at| at.max(now));
            self.full_at = Some(from + self.limit.time_of(bytes));
        }
        has_room
    }

    /// Gives back what was taken and not used.
    pub fn give_back(&mut self, bytes: u64) {
        // Rounded down, so that nothing is won by taking and giving back.
        let time = self.limit.time_of(bytes).saturating_sub(Duration::from_nanos(1));
        self.full_at = self.full_at.and_then(|at| at.checked_sub(time));
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "Instant has no other origin; only differences to it are used")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (mut bucket, start) = (Bucket::new(Throughput::new(100_000, 300_000)), Instant::now());
        assert_eq!(bucket.take(start, 1_000_000), Ok(300_000));
        let at = bucket.take(start, 65_536).unwrap_err();
        assert_eq!(at, start + Duration::from_millis(10) + Duration::from_micros(240));
        assert_eq!(bucket.take(at, 65_536), Ok(1_024));
        assert_eq!(bucket.available(at + Duration::from_secs(1)), 100_000);
        assert_eq!(bucket.available(at + Duration::from_secs(60)), 300_000);
    }

    #[test]
    fn what_is_not_used_is_there_for_the_next() {
        let (mut bucket, now) = (Bucket::new(Throughput::new(1 << 20, 1 << 20)), Instant::now());
        assert_eq!(bucket.take(now, 65_536), Ok(65_536));
        bucket.give_back(65_000);
        assert!((1_048_030..=1_048_040).contains(&bucket.available(now)), "{}", bucket.available(now));
    }

    #[test]
    fn what_is_owed_comes_in_before_anything_is_given() {
        let (mut bucket, now) = (Bucket::new(Throughput::new(100_000, 100_000)), Instant::now());
        bucket.take(now, 99_999).unwrap();
        assert!(bucket.take_over(now, 50_001) && !bucket.take_over(now, 1));
        let at = bucket.take(now, 1_024).unwrap_err();
        assert_eq!(at, now + Duration::from_millis(500) + Duration::from_micros(10_240));
        assert_eq!(bucket.take(at, 65_536), Ok(1_024));
        // Another limit: what is owed beyond its burst is let off.
        assert!(bucket.take_over(at + Duration::from_secs(1), 1 << 20));
        bucket.set_limit(Throughput::new(1_000, 1_000), at + Duration::from_secs(1));
        assert_eq!(bucket.available(at + Duration::from_secs(2)), 1_000);
    }

    #[test]
    fn another_limit_takes_over_what_is_used() {
        let (mut bucket, now) = (Bucket::new(Throughput::new(1_000_000, 1_000_000)), Instant::now());
        bucket.take(now, 400_000).unwrap();
        bucket.set_limit(Throughput::new(10_000, 500_000), now);
        assert!(bucket.available(now) <= 100_000);
        bucket.set_limit(Throughput::new(10_000, 20_000), now);
        assert!(bucket.available(now) <= 20_000);
    }

    #[test]
    fn absurd_limits_are_limits() {
        let now = Instant::now();
        for (rate, burst) in [(0, 0), (1, u64::MAX), (u64::MAX, 1), (u64::MAX, u64::MAX)] {
            let mut bucket = Bucket::new(Throughput::new(rate, burst));
            let taken = bucket.take(now, u64::MAX).unwrap();
            assert!(taken <= bucket.limit.burst());
            bucket.give_back(u64::MAX);
            assert!(bucket.available(now) <= bucket.limit.burst());
        }
    }

    proptest! {
        /// Whatever is asked for and given back, and whenever: no stretch of time sees more than the burst and its share
        /// of the rate, and somebody who waits as long as told gets something.
        #[test]
        fn no_more_than_the_burst_and_the_rate(
            rate in 1_u64..1 << 34,
            burst in 1_u64..1 << 34,
            steps in prop::collection::vec((0_u64..2_000_000_000, 1_u64..200_000, 0_u64..=100), 1..100),
        ) {
            let (limit, start) = (Throughput::new(rate, burst), Instant::now());
            let (mut bucket, mut now, mut used) = (Bucket::new(limit), start, 0_u64);
            for (pause_ns, wanted, percent_unused) in steps {
                now += Duration::from_nanos(pause_ns);
                let taken = match bucket.take(now, wanted) {
                    Ok(taken) => taken,
                    Err(at) => {
                        prop_assert!(at > now);
                        now = at;
                        bucket.take(now, wanted).unwrap()
                    }
                };
                prop_assert!(taken >= 1 && taken <= wanted);
                let unused = taken * percent_unused / 100;
                bucket.give_back(unused);
                used += taken - unused;
                let most = limit.burst() + limit.bytes_in(now - start);
                // A nanosecond for each return.
                prop_assert!(used <= most + 100 * (rate / 1_000_000_000 + 1), "{used} of {most}");
            }
        }
    }
}
