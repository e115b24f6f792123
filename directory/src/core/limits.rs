//! How much one network may ask of an authority, and which networks may ask at all.

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

/// Whether an address is on the public internet (RFC 6890 and its successors).
pub fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let reserved = a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a, b, c) == (192, 0, 0)
                || (a == 198 && (b == 18 || b == 19));
            let special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast();
            !(reserved || special || v4.is_documentation())
        }
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            // 2000::/3 is what is given out; of it: documentation, benchmarks, ORCHID, Teredo, 6to4.
            let given_out = first & 0xe000 == 0x2000;
            let special = (first == 0x2001 && (second < 0x200 || second == 0xdb8))
                || first == 0x2002
                || (first == 0x3fff && second < 0x1000);
            given_out && !special
        }
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

    #[test]
    fn only_the_public_internet_is_public() {
        for public in ["1.1.1.1", "198.20.0.1", "100.128.0.1", "2606:4700::1", "2a00::1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for other in [
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "2001:db8::1",
            "2002::1",
            "::ffff:10.0.0.1",
            "64:ff9b::1",
        ] {
            assert!(!is_public(other.parse().unwrap()), "{other}");
        }
    }
}
