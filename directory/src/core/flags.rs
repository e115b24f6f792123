//! Which flags an authority gives to a relay that runs.
//!
//! Thresholds are the smaller of a constant and the median of all running relays, so that a young network, or one whose
//! authorities have just been restarted, still has guards.

use std::time::Duration;

use tunic_proto::dir::{Descriptor, Flag};

/// Below this number of running relays each of them is fit to be a guard.
pub const SMALL_NETWORK_RELAYS: usize = 20;
/// Bytes per second that ordinary circuits need.
pub const FAST_MIN_BANDWIDTH: u64 = 100_000;
/// Bytes per second that are always enough for a guard.
pub const GUARD_MAX_BANDWIDTH: u64 = 2_000_000;
/// Uptime that is always enough for a guard.
pub const GUARD_MAX_UPTIME: Duration = Duration::from_secs(8 * 24 * 3_600);
/// Uptime that is always enough for long-lived streams.
pub const STABLE_MAX_UPTIME: Duration = Duration::from_secs(5 * 24 * 3_600);
/// Bytes per second that are believed without a measurement.
pub const MAX_CREDIBLE_BANDWIDTH: u64 = 1_250_000_000;

/// What the flags of one relay depend on in all the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Thresholds {
    small_network: bool,
    guard_bandwidth: u64,
    guard_uptime: Duration,
    stable_uptime: Duration,
}

impl Thresholds {
    /// From bandwidth and uptime of each running relay.
    pub(super) fn of(running: &[(u64, Duration)]) -> Self {
        let middle = running.len() / 2;
        let (mut bandwidths, mut uptimes): (Vec<_>, Vec<_>) = running.iter().copied().unzip();
        bandwidths.sort_unstable();
        uptimes.sort_unstable();
        let bandwidth = bandwidths.get(middle).copied().unwrap_or(0);
        let uptime = uptimes.get(middle).copied().unwrap_or_default();
        Thresholds {
            small_network: running.len() < SMALL_NETWORK_RELAYS,
            guard_bandwidth: bandwidth.min(GUARD_MAX_BANDWIDTH),
            guard_uptime: uptime.min(GUARD_MAX_UPTIME),
            stable_uptime: uptime.min(STABLE_MAX_UPTIME),
        }
    }

    /// The flags of a running relay, in document order.
    pub(super) fn flags(&self, relay: &Descriptor, uptime: Duration) -> Vec<Flag> {
        let bandwidth = credible(relay.bandwidth);
        let fast = bandwidth >= FAST_MIN_BANDWIDTH;
        let fit = fast && bandwidth >= self.guard_bandwidth && uptime >= self.guard_uptime;
        let has = |flag: &Flag| match flag {
            Flag::Running | Flag::Valid => true,
            Flag::Exit => relay.exit.is_exit(),
            Flag::Guard => self.small_network || fit,
            Flag::Fast => fast,
            Flag::Stable => uptime >= self.stable_uptime,
        };
        Flag::ALL.into_iter().filter(has).collect()
    }
}

/// What a relay says of its bandwidth, as far as it is believed.
pub(super) fn credible(bandwidth: u64) -> u64 {
    bandwidth.min(MAX_CREDIBLE_BANDWIDTH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::tests::support::descriptor;

    const DAY: Duration = Duration::from_secs(24 * 3_600);

    fn flags(running: &[(u64, Duration)], bandwidth: u64, uptime: Duration) -> Vec<Flag> {
        let relay = Descriptor { bandwidth, ..descriptor(1) };
        Thresholds::of(running).flags(&relay, uptime)
    }

    #[test]
    fn in_a_small_network_every_running_relay_is_a_guard() {
        let one = flags(&[(10, Duration::ZERO); 19], 10, Duration::ZERO);
        assert!(one.contains(&Flag::Guard) && !one.contains(&Flag::Fast));
        assert!(!flags(&[(10, Duration::ZERO); 20], 10, Duration::ZERO).contains(&Flag::Guard));
    }

    #[test]
    fn in_a_large_network_guards_are_fast_and_have_been_up_for_long() {
        let old = vec![(50_000_000, DAY * 30); 40];
        let is_guard = |bandwidth, uptime| flags(&old, bandwidth, uptime).contains(&Flag::Guard);
        assert!(is_guard(GUARD_MAX_BANDWIDTH, GUARD_MAX_UPTIME));
        assert!(!is_guard(GUARD_MAX_BANDWIDTH - 1, GUARD_MAX_UPTIME));
        assert!(!is_guard(GUARD_MAX_BANDWIDTH, GUARD_MAX_UPTIME - Duration::from_secs(1)));
        assert!(flags(&old, 0, STABLE_MAX_UPTIME).contains(&Flag::Stable));
        assert!(!flags(&old, 0, DAY).contains(&Flag::Stable));
    }

    #[test]
    fn a_young_network_has_guards_too() {
        let young: Vec<_> = (1..=30).map(|i| (i * 100_000, DAY / 30 * i as u32)).collect();
        assert!(flags(&young, 3_000_000, DAY).contains(&Flag::Guard));
        assert!(!flags(&young, 200_000, DAY / 15).contains(&Flag::Guard));
    }

    #[test]
    fn exits_are_those_whose_policy_allows_something() {
        let mut relay = descriptor(1);
        let thresholds = Thresholds::of(&[]);
        assert!(thresholds.flags(&relay, DAY).contains(&Flag::Exit));
        relay.exit = tunic_proto::dir::ExitPolicy::reject_all();
        assert!(!thresholds.flags(&relay, DAY).contains(&Flag::Exit));
    }
}
