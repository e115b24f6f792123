//! How long to wait for a circuit: learned, because networks differ by orders of magnitude.
//!
//! Build times follow a Pareto distribution well (Tor's path-spec §2.4): its scale is the most common build time, its
//! shape is estimated by maximum likelihood, and the timeout is the 80th percentile. A build that was given up counts as
//! "longer than that" (a right-censored observation), so that giving up early does not teach ever shorter timeouts.

use std::collections::VecDeque;
use std::time::Duration;

/// Observations that are kept.
const MAX_OBSERVATIONS: usize = 1_000;
/// Observations below which [`INITIAL_TIMEOUT`] holds.
const MIN_OBSERVATIONS: usize = 100;
/// Width of the bins in which the most common build time is looked for.
const BIN: Duration = Duration::from_millis(10);
/// The bins whose weighted mean is the scale: one alone jumps about.
const MODE_BINS: usize = 10;
/// The share of builds that shall finish in time.
const QUANTILE: f64 = 0.8;
/// Give-ups among the last [`RECENT`] builds that mean that the network has changed.
const MAX_RECENT_TIMEOUTS: usize = 18;
const RECENT: usize = 20;

/// The timeout until enough is known.
pub const INITIAL_TIMEOUT: Duration = Duration::from_secs(60);
/// Never shorter: what a person would not notice is not worth the load of building again.
pub const MIN_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Never longer.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy)]
enum Observation {
    Built(Duration),
    GivenUp(Duration),
}

/// What was learned about build times.
#[derive(Debug, Clone)]
pub struct BuildTimes {
    observations: VecDeque<Observation>,
    fallback: Duration,
}

impl Default for BuildTimes {
    fn default() -> Self {
        BuildTimes { observations: VecDeque::new(), fallback: INITIAL_TIMEOUT }
    }
}

impl BuildTimes {
    /// A circuit was built in this time.
    pub fn built(&mut self, took: Duration) {
        self.push(Observation::Built(took));
    }

    /// A circuit was given up after this time. When nearly all are, everything learned is forgotten and the timeout
    /// doubles: the network has changed.
    pub fn gave_up(&mut self, after: Duration) {
        self.push(Observation::GivenUp(after));
        let recent = self.observations.iter().rev().take(RECENT);
        if recent.filter(|seen| matches!(seen, Observation::GivenUp(_))).count() >= MAX_RECENT_TIMEOUTS {
            self.fallback = (self.timeout() * 2).clamp(INITIAL_TIMEOUT, MAX_TIMEOUT);
            self.observations.clear();
        }
    }

    /// How long to wait for a circuit now; between [`MIN_TIMEOUT`] and [`MAX_TIMEOUT`].
    pub fn timeout(&self) -> Duration {
        self.estimate().unwrap_or(self.fallback).clamp(MIN_TIMEOUT, MAX_TIMEOUT)
    }

    fn push(&mut self, observation: Observation) {
        if self.observations.len() == MAX_OBSERVATIONS {
            self.observations.pop_front();
        }
        self.observations.push_back(observation);
    }

    /// The quantile of the fitted distribution: `scale · (1 − q)^(−1/shape)`.
    fn estimate(&self) -> Option<Duration> {
        let built: Vec<f64> = self.observations.iter().filter_map(Observation::built_secs).collect();
        if built.len() < MIN_OBSERVATIONS {
            return None;
        }
        let scale = most_common(&built);
        let log_sum: f64 = self.observations.iter().map(|seen| (seen.secs().max(scale) / scale).ln()).sum();
        let inverse_shape = log_sum / built.len() as f64;
        let secs = scale * (1.0 - QUANTILE).powf(-inverse_shape);
        Some(Duration::try_from_secs_f64(secs).unwrap_or(MAX_TIMEOUT))
    }
}

impl Observation {
    fn secs(&self) -> f64 {
        let (Observation::Built(time) | Observation::GivenUp(time)) = self;
        time.as_secs_f64()
    }

    fn built_secs(&self) -> Option<f64> {
        matches!(self, Observation::Built(_)).then(|| self.secs())
    }
}

/// The mean of the fullest bins, weighted by what is in them. Positive, because a bin counts as its middle.
fn most_common(secs: &[f64]) -> f64 {
    let width = BIN.as_secs_f64();
    let mut counts = std::collections::BTreeMap::<u64, u64>::new();
    for time in secs {
        *counts.entry((time / width) as u64).or_default() += 1;
    }
    let mut bins: Vec<(u64, u64)> = counts.into_iter().map(|(bin, count)| (count, bin)).collect();
    bins.sort_unstable_by_key(|(count, bin)| (std::cmp::Reverse(*count), *bin));
    bins.truncate(MODE_BINS);
    let total: u64 = bins.iter().map(|(count, _)| count).sum();
    let weighted: f64 = bins.iter().map(|(count, bin)| (*bin as f64 + 0.5) * width * *count as f64).sum();
    weighted / total as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    fn pareto(rng: &mut ChaCha8Rng, scale: f64, shape: f64) -> Duration {
        let uniform: f64 = rng.random_range(f64::EPSILON..1.0);
        Duration::from_secs_f64((scale * uniform.powf(-1.0 / shape)).min(1e6))
    }

    #[test]
    fn the_timeout_is_the_initial_one_until_enough_is_known() {
        let mut times = BuildTimes::default();
        for _ in 0..MIN_OBSERVATIONS - 1 {
            times.built(Duration::from_secs(2));
            assert_eq!(times.timeout(), INITIAL_TIMEOUT);
        }
        times.built(Duration::from_secs(2));
        assert!(times.timeout() < Duration::from_secs(3));
    }

    #[test]
    fn the_timeout_approaches_the_80th_percentile() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut times = BuildTimes::default();
        (0..MAX_OBSERVATIONS).for_each(|_| times.built(pareto(&mut rng, 2.0, 3.0)));
        let late = (0..10_000).filter(|_| pareto(&mut rng, 2.0, 3.0) > times.timeout()).count();
        assert!((1_500..2_500).contains(&late), "{late} of 10000 late, timeout {:?}", times.timeout());
    }

    #[test]
    fn giving_up_does_not_teach_ever_shorter_timeouts() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut times = BuildTimes::default();
        for _ in 0..20 * MAX_OBSERVATIONS {
            let (took, limit) = (pareto(&mut rng, 2.0, 3.0), times.timeout());
            if took <= limit { times.built(took) } else { times.gave_up(limit) }
        }
        let late = (0..10_000).filter(|_| pareto(&mut rng, 2.0, 3.0) > times.timeout()).count();
        assert!((1_200..2_800).contains(&late), "{late} of 10000 late, timeout {:?}", times.timeout());
    }

    #[test]
    fn a_changed_network_is_learned_anew() {
        let mut times = BuildTimes::default();
        (0..MIN_OBSERVATIONS).for_each(|_| times.built(Duration::from_secs(2)));
        let learned = times.timeout();
        (0..MAX_RECENT_TIMEOUTS).for_each(|_| times.gave_up(learned));
        assert_eq!(times.timeout(), INITIAL_TIMEOUT);
        (0..MAX_RECENT_TIMEOUTS).for_each(|_| times.gave_up(INITIAL_TIMEOUT));
        assert_eq!(times.timeout(), MAX_TIMEOUT);
    }

    #[test]
    fn the_timeout_is_bounded_whatever_is_observed() {
        for took in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            let mut times = BuildTimes::default();
            (0..3 * MAX_OBSERVATIONS).for_each(|_| times.built(took));
            assert!((MIN_TIMEOUT..=MAX_TIMEOUT).contains(&times.timeout()));
            assert_eq!(times.observations.len(), MAX_OBSERVATIONS);
        }
    }
}
