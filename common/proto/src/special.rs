//! Addresses that are not the public internet.
//!
//! 1. [`embedded`] finds the IPv4 addresses that an IPv6 address stands for (mapped, NAT64, 6to4, Teredo).
//! 2. [`is_public`] says whether an address, and every address embedded in it, is public.
//!
//! Sources: the IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890, RFC 8190), the IANA IPv6 address
//! space (only 2000::/3 is global unicast, RFC 4291 §2.4), and what cloud providers document of their metadata services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Prefixes of IPv4 that are never a public host. Some smaller blocks inside them are reachable by the registry
/// (192.0.0.9/32, 192.0.0.10/32); nobody browses there, so they are refused with the rest.
const IPV4: &[(Ipv4Addr, u8)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),        // this network, RFC 791 §3.2
    (Ipv4Addr::new(10, 0, 0, 0), 8),       // private, RFC 1918
    (Ipv4Addr::new(100, 64, 0, 0), 10), // carrier-grade NAT, RFC 6598; Alibaba's metadata is 100.100.100.200
    (Ipv4Addr::new(127, 0, 0, 0), 8),   // loopback, RFC 1122 §3.2.1.3
    (Ipv4Addr::new(168, 63, 129, 16), 32), // Azure's metadata and platform service, in public space
    (Ipv4Addr::new(169, 254, 0, 0), 16), // link-local, RFC 3927; cloud metadata is 169.254.169.254
    (Ipv4Addr::new(172, 16, 0, 0), 12), // private, RFC 1918
    (Ipv4Addr::new(192, 0, 0, 0), 24), // IETF protocol assignments, RFC 6890; Oracle's metadata is 192.0.0.192
    (Ipv4Addr::new(192, 0, 2, 0), 24), // documentation, RFC 5737
    (Ipv4Addr::new(192, 88, 99, 0), 24), // 6to4 relay anycast, deprecated by RFC 7526
    (Ipv4Addr::new(192, 168, 0, 0), 16), // private, RFC 1918
    (Ipv4Addr::new(198, 18, 0, 0), 15), // benchmarking, RFC 2544
    (Ipv4Addr::new(198, 51, 100, 0), 24), // documentation, RFC 5737
    (Ipv4Addr::new(203, 0, 113, 0), 24), // documentation, RFC 5737
    (Ipv4Addr::new(224, 0, 0, 0), 4),  // multicast, RFC 5771
    (Ipv4Addr::new(240, 0, 0, 0), 4), // reserved, RFC 1112 §4; the last one is the broadcast address, RFC 919
];

const fn v6(a: u16, b: u16, c: u16, d: u16) -> Ipv6Addr {
    Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)
}

/// The only IPv6 space that is global unicast (RFC 4291 §2.4). Whatever lies outside is not public: unspecified,
/// loopback, IPv4-compatible, local NAT64 64:ff9b:1::/48, discard 100::/64, SRv6 5f00::/16, unique-local fc00::/7,
/// link-local fe80::/10, site-local fec0::/10, multicast ff00::/8, and what is not allocated.
const IPV6_GLOBAL: (Ipv6Addr, u8) = (v6(0x2000, 0, 0, 0), 3);
/// NAT64 (RFC 6052): as public as the IPv4 address that it stands for.
const NAT64: (Ipv6Addr, u8) = (v6(0x64, 0xff9b, 0, 0), 96);
const TEREDO: (Ipv6Addr, u8) = (v6(0x2001, 0, 0, 0), 32);
const SIX_TO_FOUR: (Ipv6Addr, u8) = (v6(0x2002, 0, 0, 0), 16);

/// Prefixes inside [`IPV6_GLOBAL`] that are never a public host.
const IPV6: &[(Ipv6Addr, u8)] = &[
    (v6(0x2001, 0x2, 0, 0), 48),   // benchmarking, RFC 5180
    (v6(0x2001, 0xdb8, 0, 0), 32), // documentation, RFC 3849
    (v6(0x3fff, 0, 0, 0), 20),     // documentation, RFC 9637
];
/// IETF protocol assignments (RFC 2928), refused as a whole but for [`TEREDO`].
const IPV6_PROTOCOLS: (Ipv6Addr, u8) = (v6(0x2001, 0, 0, 0), 23);

fn in_v4(address: Ipv4Addr, (prefix, length): (Ipv4Addr, u8)) -> bool {
    (address.to_bits() ^ prefix.to_bits()).leading_zeros() >= u32::from(length)
}

fn in_v6(address: Ipv6Addr, (prefix, length): (Ipv6Addr, u8)) -> bool {
    (address.to_bits() ^ prefix.to_bits()).leading_zeros() >= u32::from(length)
}

/// Four bytes of an IPv6 address, from this byte on, as an IPv4 address.
fn v4_at(address: Ipv6Addr, byte: usize) -> Ipv4Addr {
    let octets = address.octets();
    Ipv4Addr::new(octets[byte], octets[byte + 1], octets[byte + 2], octets[byte + 3])
}

/// The IPv4 addresses that a packet to this IPv6 address may end at: none for plain IPv6.
///
/// Source: RFC 4291 §2.5.5 (mapped and compatible), RFC 6052 §2.2 (NAT64), RFC 3056 §2 (6to4), RFC 4380 §4 (Teredo:
/// the server, and the client's address with its bits flipped).
pub fn embedded(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    const LAST: usize = 12;
    if address.to_ipv4().is_some() || in_v6(address, NAT64) {
        vec![v4_at(address, LAST)]
    } else if in_v6(address, SIX_TO_FOUR) {
        vec![v4_at(address, 2)]
    } else if in_v6(address, TEREDO) {
        vec![v4_at(address, 4), Ipv4Addr::from_bits(!v4_at(address, LAST).to_bits())]
    } else {
        Vec::new()
    }
}

/// Whether this address is a host on the public internet, as far as the address tells. IPv4-mapped addresses are
/// judged as the IPv4 address that they are.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address) && embedded(address).into_iter().all(is_public_v4),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !IPV4.iter().any(|&prefix| in_v4(address, prefix))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if in_v6(address, NAT64) || in_v6(address, TEREDO) {
        return true;
    }
    in_v6(address, IPV6_GLOBAL)
        && !in_v6(address, IPV6_PROTOCOLS)
        && !IPV6.iter().any(|&prefix| in_v6(address, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(expect: bool, addresses: &[&str]) {
        for text in addresses {
            assert_eq!(is_public(text.parse().unwrap()), expect, "{text}");
        }
    }

    #[test]
    fn public_hosts_are_public() {
        check(true, &["1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0"]);
        check(true, &["128.0.0.1", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0"]);
        check(true, &["192.0.1.0", "192.0.3.0", "192.167.255.255", "192.169.0.0", "198.17.255.255"]);
        check(true, &["198.20.0.0", "203.0.112.255", "203.0.114.0", "223.255.255.255", "168.63.129.17"]);
        // AS112 and AMT: globally reachable by the registry.
        check(true, &["192.31.196.1", "192.52.193.1", "192.175.48.1", "2620:4f:8000::1"]);
        check(true, &["2001:200::1", "2001:4860:4860::8888", "2606:4700::1111", "2a00::1", "2000::1"]);
    }

    #[test]
    fn ipv4_special_purpose_registry() {
        check(false, &["0.0.0.0", "0.1.2.3", "0.255.255.255"]);
        check(false, &["10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.1"]);
        check(false, &["100.64.0.0", "100.127.255.255", "127.0.0.1", "127.255.255.255"]);
        check(false, &["169.254.0.0", "169.254.255.255", "192.0.0.0", "192.0.0.9", "192.0.0.170"]);
        check(false, &["192.0.2.1", "198.51.100.1", "203.0.113.255", "192.88.99.1"]);
        check(false, &["198.18.0.0", "198.19.255.255", "240.0.0.0", "255.255.255.254", "255.255.255.255"]);
        check(false, &["224.0.0.1", "239.255.255.255"]);
    }

    #[test]
    fn ipv6_special_purpose_registry() {
        check(false, &["::", "::1", "100::1", "100:0:0:1::1", "5f00::1", "4000::1", "1fff::1"]);
        check(false, &["2001:1::1", "2001:2::1", "2001:10::1", "2001:20::1", "2001:1ff:ffff::1"]);
        check(false, &["2001:db8::1", "3fff::1", "3fff:fff:ffff::1"]);
        check(false, &["fc00::1", "fd12:3456::1", "fe80::1", "febf::1", "fec0::1", "ff02::1", "ff0e::1"]);
    }

    #[test]
    fn cloud_metadata_services() {
        check(false, &["169.254.169.254", "169.254.170.2", "fd00:ec2::254"]); // AWS
        check(false, &["fd20:ce::254", "168.63.129.16", "100.100.100.200", "192.0.0.192"]); // Google, Azure, …
    }

    #[test]
    fn an_embedded_private_address_is_private() {
        check(false, &["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0.0.0.0"]);
        check(false, &["64:ff9b::127.0.0.1", "64:ff9b::10.1.2.3", "64:ff9b::a9fe:a9fe"]);
        check(false, &["2002:7f00:1::1", "2002:a00:1::", "2002:c0a8:101::1", "2002:a9fe:a9fe::1"]);
        // Teredo: a private server; a public server with the client 10.0.0.1 (its bits flipped).
        check(false, &["2001:0:a00:1::", "2001:0:101:101::f5ff:fffe"]);
        // IPv4-compatible addresses and local NAT64 are not global, whatever they hold.
        check(false, &["::127.0.0.1", "::8.8.8.8", "64:ff9b:1::8.8.8.8", "64:ff9b:1:a00:0:100::"]);
    }

    #[test]
    fn an_embedded_public_address_is_public() {
        check(true, &["::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"]);
        check(true, &["2001:0:808:808:0:0:f7f7:f7f7"]);
    }

    proptest! {
        #[test]
        fn a_mapped_form_is_judged_as_its_ipv4(bits in any::<u32>()) {
            let v4 = Ipv4Addr::from_bits(bits);
            prop_assert_eq!(is_public(IpAddr::V4(v4)), is_public(IpAddr::V6(v4.to_ipv6_mapped())));
        }

        #[test]
        fn no_transition_form_makes_a_private_address_public(
            (prefix, length) in proptest::sample::select(IPV4),
            host in any::<u32>(),
            rest in any::<u64>(),
        ) {
            let bits = prefix.to_bits() | (u64::from(host) & (u64::from(u32::MAX) >> length)) as u32;
            prop_assert!(!is_public(IpAddr::V4(Ipv4Addr::from_bits(bits))));
            let nat64 = NAT64.0.to_bits() | u128::from(bits);
            let six_to_four = SIX_TO_FOUR.0.to_bits() | u128::from(bits) << 80 | u128::from(rest);
            let teredo = TEREDO.0.to_bits() | u128::from(rest) << 32 | u128::from(!bits);
            for form in [nat64, six_to_four, teredo] {
                prop_assert!(!is_public(IpAddr::V6(Ipv6Addr::from_bits(form))));
            }
        }
    }
}
