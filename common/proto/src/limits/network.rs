//! What counts as one party on the internet.

use std::net::{IpAddr, Ipv6Addr};

/// The two networks that an address is counted under.
///
/// An IPv6 host is a /64, of which even a phone has one to itself; its subnet is a /48, the most that one site gets (RFC
/// 6177). For IPv4 they are the address itself and its /24, the smallest network that is routed on its own. IPv4 inside IPv6
/// counts as IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Networks {
    /// An IPv4 address, or an IPv6 /64.
    pub host: IpAddr,
    /// An IPv4 /24, or an IPv6 /48.
    pub subnet: IpAddr,
}

impl Networks {
    /// Those of an address.
    pub fn of(ip: IpAddr) -> Networks {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Networks { host: ip.into(), subnet: IpAddr::V4((ip.to_bits() & !0xff).into()) },
            IpAddr::V6(ip) => Networks { host: prefix(ip, 64), subnet: prefix(ip, 48) },
        }
    }
}

fn prefix(ip: Ipv6Addr, bits: u32) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !(u128::MAX >> bits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ip: &str, host: &str, subnet: &str) {
        let expect = Networks { host: host.parse().unwrap(), subnet: subnet.parse().unwrap() };
        assert_eq!(Networks::of(ip.parse().unwrap()), expect);
    }

    #[test]
    fn addresses_are_counted_under_what_one_party_has() {
        check("192.0.2.77", "192.0.2.77", "192.0.2.0");
        check("::ffff:192.0.2.77", "192.0.2.77", "192.0.2.0");
        check("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::", "2001:db8:1::");
    }
}
