//! The relays of the current consensus, and which of them may share a circuit.

use std::net::IpAddr;

use tunic_proto::dir::{Consensus, Flag, RelayEntry};
use tunic_proto::ids::RelayId;

/// More than any relay has; an absurd claim counts as this, so that sums of bandwidths cannot overflow (2^40 bytes per
/// second, times the 10,000 relays that a consensus may list, is below 2^54).
const MAX_WEIGHT: u64 = 1 << 40;

/// The version of docs/protocol.md that a relay must speak to be used.
const PROTOCOL: u16 = 1;

/// A checked consensus as the source of relays.
#[derive(Debug)]
pub struct Network(Consensus);

/// What counts as two different networks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rules {
    /// Every loopback or private address counts as a network of its own. For private networks only.
    pub private_is_distinct: bool,
}

impl Network {
    /// Takes a checked consensus.
    pub fn new(consensus: Consensus) -> Self {
        Network(consensus)
    }

    /// The document.
    pub fn consensus(&self) -> &Consensus {
        &self.0
    }

    /// The relay with this identity, if it can be used.
    pub fn relay(&self, id: RelayId) -> Option<&RelayEntry> {
        self.0.relay(&id).filter(|relay| is_usable(relay))
    }

    /// The relays that can be used: running, valid, and of our protocol version.
    pub fn relays(&self) -> impl Iterator<Item = &RelayEntry> + Clone {
        self.0.relays.iter().filter(|relay| is_usable(relay))
    }

    /// The relays that may be guards.
    pub fn guards(&self) -> impl Iterator<Item = &RelayEntry> + Clone {
        self.relays().filter(|relay| relay.has(Flag::Guard))
    }
}

fn is_usable(relay: &RelayEntry) -> bool {
    relay.has(Flag::Running) && relay.has(Flag::Valid) && relay.protocols.contains(&PROTOCOL)
}

/// The bandwidth as the weight of a choice: positive, so that a new relay without a measurement is tried too.
pub fn weight(relay: &RelayEntry) -> u64 {
    relay.bandwidth.clamp(1, MAX_WEIGHT)
}

impl Rules {
    /// Whether two relays must not share a circuit: the same one, two of one family, or two in one IPv4 /16 or IPv6 /32.
    pub fn conflict(&self, a: &RelayEntry, b: &RelayEntry) -> bool {
        a.identity == b.identity || same_family(a, b) || self.same_network(a, b)
    }

    fn same_network(&self, a: &RelayEntry, b: &RelayEntry) -> bool {
        let networks = |relay: &RelayEntry| -> Vec<_> {
            relay.addresses.iter().filter_map(|address| self.network_of(address.ip())).collect()
        };
        let of_b = networks(b);
        networks(a).iter().any(|network| of_b.contains(network))
    }

    /// Shape: the address family, then the first two bytes (IPv4) or four (IPv6).
    fn network_of(&self, ip: IpAddr) -> Option<(u8, [u8; 4])> {
        let ip = ip.to_canonical();
        if self.private_is_distinct && is_private(ip) {
            return None;
        }
        Some(match ip {
            IpAddr::V4(ip) => (4, [ip.octets()[0], ip.octets()[1], 0, 0]),
            IpAddr::V6(ip) => (6, [ip.octets()[0], ip.octets()[1], ip.octets()[2], ip.octets()[3]]),
        })
    }
}

fn is_private(ip: IpAddr) -> bool {
    ip.is_loopback()
        || match ip {
            IpAddr::V4(ip) => ip.is_private(),
            IpAddr::V6(ip) => ip.is_unique_local(),
        }
}

/// Each must list the other. If one listing were enough, a hostile relay could list every honest one: whoever has it on a
/// circuit would then be steered to the relays that it left out, which are its accomplices.
fn same_family(a: &RelayEntry, b: &RelayEntry) -> bool {
    a.family.contains(&b.identity) && b.family.contains(&a.identity)
}
