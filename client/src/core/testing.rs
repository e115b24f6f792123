//! Networks made up for the tests.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use tunic_proto::dir::{Consensus, ExitPolicy, Flag, RelayEntry};
use tunic_proto::ids::RelayId;
use tunic_proto::keys::OnionKey;
use tunic_proto::time::UnixTime;

use super::network::Network;

pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

#[expect(clippy::disallowed_methods, reason = "an arbitrary start: only differences matter")]
pub fn start() -> Instant {
    Instant::now()
}

pub fn id(number: u32) -> RelayId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    RelayId(bytes)
}

pub fn policy(rules: &[&str]) -> ExitPolicy {
    ExitPolicy::parse(rules).unwrap()
}

pub fn open_policy() -> ExitPolicy {
    ExitPolicy::accept_all()
}

/// A guard, middle or exit in a /16 of its own.
pub fn relay(number: u32) -> RelayEntry {
    let [_, _, high, low] = number.to_be_bytes();
    RelayEntry {
        nickname: format!("relay{number}"),
        identity: id(number),
        addresses: vec![SocketAddr::new(Ipv4Addr::new(high.wrapping_add(1), low, 0, 1).into(), 9001)],
        onion_key: OnionKey([number as u8; 32]),
        exit: open_policy(),
        family: Vec::new(),
        bandwidth: 1_000,
        flags: vec![Flag::Running, Flag::Valid, Flag::Guard],
        version: "0.1.0".into(),
        protocols: vec![1],
    }
}

pub fn network_of(relays: Vec<RelayEntry>) -> Network {
    Network::new(Consensus {
        valid_after: UnixTime(1_000_000),
        fresh_until: UnixTime(1_003_600),
        valid_until: UnixTime(1_010_800),
        params: Default::default(),
        relays,
    })
}

pub fn network(relays: u32) -> Network {
    network_of((0..relays).map(relay).collect())
}
