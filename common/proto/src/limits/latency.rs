//! How long something took, counted by size.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counts of durations up to each of [`Latency::BOUNDS_MS`], and of those beyond.
#[derive(Debug, Default)]
pub struct Latency {
    counts: [AtomicU64; Latency::BOUNDS_MS.len() + 1],
    sum_us: AtomicU64,
}

impl Latency {
    /// Upper bounds of the classes, in milliseconds.
    pub const BOUNDS_MS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000];

    /// Counts one.
    pub fn record(&self, took: Duration) {
        let class = Self::BOUNDS_MS.partition_point(|bound| Duration::from_millis(*bound) < took);
        self.counts[class].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(took.as_micros().try_into().unwrap_or(u64::MAX), Relaxed);
    }

    /// How many there were in each class; the last is beyond all bounds.
    pub fn counts(&self) -> [u64; Self::BOUNDS_MS.len() + 1] {
        std::array::from_fn(|class| self.counts[class].load(Relaxed))
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_us.load(Relaxed))
    }

    /// The bound that so many of a thousand stay below, in milliseconds; `None` if nothing was counted or they do not.
    pub fn permille_ms(&self, permille: u64) -> Option<u64> {
        let counts = self.counts();
        let wanted = (counts.iter().sum::<u64>() * permille).div_ceil(1_000);
        let mut seen = 0;
        let class = counts.iter().position(|count| {
            seen += count;
            wanted > 0 && seen >= wanted
        })?;
        Self::BOUNDS_MS.get(class).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_by_class() {
        let latency = Latency::default();
        assert_eq!(latency.permille_ms(950), None);
        (0..95).for_each(|_| latency.record(Duration::from_millis(1)));
        (0..5).for_each(|_| latency.record(Duration::from_secs(60)));
        assert_eq!((latency.counts()[0], latency.counts()[12]), (95, 5));
        assert_eq!((latency.permille_ms(950), latency.permille_ms(960)), (Some(1), None));
        assert_eq!(latency.sum(), Duration::from_millis(300_095));
    }
}
