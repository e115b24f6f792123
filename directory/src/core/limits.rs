//! How much one network may ask of an authority.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::Moment;

/// Descriptors that one network may post at once.
const BURST: u32 = 128;
/// How long it takes until it may post one more.
const REFILL: Duration = Duration::from_secs(5);
/// Networks that are remembered. When so many are busy at once, further ones are refused.
const MAX_NETWORKS: usize = 10_000;

/// An IPv4 address, or the /64 that an IPv6 address belongs to: what one party easily has.
pub(super) fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

/// Counts what comes from each network.
#[derive(Debug, Default)]
pub(super) struct RateLimiter {
    /// When a network will have all of its allowance back.
    full_at: HashMap<IpAddr, Moment>,
}

impl RateLimiter {
    /// Whether the network of this address may post now; if so, it is counted.
    pub(super) fn allow(&mut self, ip: IpAddr, now: Moment) -> bool {
        let key = network(ip);
        if self.full_at.len() >= MAX_NETWORKS && !self.full_at.contains_key(&key) {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= MAX_NETWORKS {
                return false;
            }
        }
        let full_at = self.full_at.entry(key).or_insert(now);
        let after = (*full_at).max(now).plus(REFILL);
        let allowed = after.since(now) <= REFILL * BURST;
        if allowed {
            *full_at = after;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_posts_a_burst_and_then_at_the_rate() {
        let mut limiter = RateLimiter::default();
        let (ip, other): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let now = Moment(1_000_000);
        assert_eq!((0..200).filter(|_| limiter.allow(ip, now)).count(), BURST as usize);
        assert!(limiter.allow(other, now));
        assert!(!limiter.allow(ip, now.plus(REFILL - Duration::from_millis(1))));
        assert!(limiter.allow(ip, now.plus(REFILL)));
        assert!(!limiter.allow(ip, now.plus(REFILL)));
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_their_allowance() {
        let mut limiter = RateLimiter::default();
        let ip = |i: u128| IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) + i));
        assert_eq!((0..200).filter(|i| limiter.allow(ip(*i), Moment(0))).count(), BURST as usize);
    }

    #[test]
    fn memory_for_networks_is_bounded_and_freed() {
        let mut limiter = RateLimiter::default();
        let ip = |i: u32| IpAddr::V4(i.into());
        let allowed = (0..20_000).filter(|i| limiter.allow(ip(*i), Moment(0))).count();
        assert_eq!((allowed, limiter.full_at.len()), (MAX_NETWORKS, MAX_NETWORKS));
        assert!(limiter.allow(ip(30_000), Moment(0).plus(REFILL)));
        assert_eq!(limiter.full_at.len(), 1);
    }
}
