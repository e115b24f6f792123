//! A relay as votes and consensuses list it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize};

use super::{DirError, ExitPolicy, ensure};
use crate::ids::RelayId;
use crate::keys::OnionKey;

/// Characters that a nickname may have.
pub const MAX_NICKNAME_LEN: usize = 19;
/// Addresses that a relay may state.
pub const MAX_ADDRESSES: usize = 8;
/// Members of its family that a relay may state.
pub const MAX_FAMILY: usize = 64;
/// Bytes of a version text.
pub const MAX_VERSION_LEN: usize = 64;
/// Protocol versions that a relay may state.
pub const MAX_PROTOCOLS: usize = 16;
/// Relays that a vote or a consensus may list.
pub const MAX_RELAYS: usize = 10_000;
/// Parameters that a vote or a consensus may set.
pub const MAX_PARAMS: usize = 64;
const MAX_PARAM_NAME_LEN: usize = 32;

/// What authorities say of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Flag {
    /// It answered as itself when it was last probed.
    Running,
    /// The authority has nothing against it.
    Valid,
    /// Its policy allows connections.
    Exit,
    /// Fit to be the first hop.
    Guard,
    /// Has the bandwidth for ordinary circuits.
    Fast,
    /// Has been up long enough for long-lived streams.
    Stable,
}

impl Flag {
    /// All flags, in the order in which documents list them.
    pub const ALL: [Flag; 6] =
        [Flag::Running, Flag::Valid, Flag::Exit, Flag::Guard, Flag::Fast, Flag::Stable];

    fn from_name(name: &str) -> Option<Flag> {
        Flag::ALL.into_iter().find(|flag| format!("{flag:?}") == name)
    }
}

/// A relay as votes and consensuses list it (docs/protocol.md §9.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayEntry {
    /// 1–19 ASCII letters and digits; not unique.
    pub nickname: String,
    /// Who it is.
    pub identity: RelayId,
    /// Where it listens, 1–8, none twice.
    pub addresses: Vec<SocketAddr>,
    /// With which key circuit handshakes reach it.
    pub onion_key: OnionKey,
    /// What it connects to as an exit.
    pub exit: ExitPolicy,
    /// Relays under the same control, as it says itself; at most 64.
    pub family: Vec<RelayId>,
    /// Bytes per second.
    pub bandwidth: u64,
    /// In the order of [`Flag::ALL`]. Names that this version does not know are left out.
    #[serde(deserialize_with = "known_flags")]
    pub flags: Vec<Flag>,
    /// The software that it runs.
    pub version: String,
    /// Versions of docs/protocol.md that it speaks.
    pub protocols: Vec<u16>,
}

impl RelayEntry {
    /// Whether the relay has this flag.
    pub fn has(&self, flag: Flag) -> bool {
        self.flags.contains(&flag)
    }

    /// Checks every bound that docs/protocol.md §9.2 states.
    pub(super) fn check_shape(&self) -> Result<(), DirError> {
        let nickname_len = (1..=MAX_NICKNAME_LEN).contains(&self.nickname.len());
        ensure(nickname_len && self.nickname.bytes().all(|c| c.is_ascii_alphanumeric()), "nickname")?;
        ensure((1..=MAX_ADDRESSES).contains(&self.addresses.len()), "number of addresses")?;
        ensure(self.addresses.iter().all(is_listenable), "address")?;
        ensure(all_differ(&self.addresses), "an address is stated twice")?;
        ensure(self.family.len() <= MAX_FAMILY, "family too large")?;
        ensure(all_differ(&self.family), "a family member is stated twice")?;
        let version_len = self.version.len() <= MAX_VERSION_LEN;
        ensure(version_len && self.version.bytes().all(|c| (b' '..=b'~').contains(&c)), "version")?;
        ensure((1..=MAX_PROTOCOLS).contains(&self.protocols.len()), "number of protocols")?;
        ensure(self.protocols.windows(2).all(|pair| pair[0] < pair[1]), "order of protocols")
    }
}

/// An address that somebody can connect to, in the only spelling that means it.
fn is_listenable(address: &SocketAddr) -> bool {
    let ip = address.ip();
    let plain = match address {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(v6) => v6.scope_id() == 0 && v6.ip().to_ipv4_mapped().is_none(),
    };
    address.port() != 0 && plain && !ip.is_unspecified() && !ip.is_multicast()
}

fn all_differ<T: PartialEq>(items: &[T]) -> bool {
    items.iter().enumerate().all(|(i, item)| !items[..i].contains(item))
}

fn known_flags<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Flag>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let mut flags: Vec<_> = names.iter().filter_map(|name| Flag::from_name(name)).collect();
    flags.sort_unstable();
    if flags.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(serde::de::Error::custom("a flag is set twice"));
    }
    Ok(flags)
}

/// Relays are sorted by identity, none twice, and not too many.
pub(super) fn check_order(ids: impl ExactSizeIterator<Item = RelayId>) -> Result<(), DirError> {
    ensure(ids.len() <= MAX_RELAYS, "too many relays")?;
    let mut previous = None;
    for id in ids {
        ensure(previous < Some(id), "relays are not sorted, or one is listed twice")?;
        previous = Some(id);
    }
    Ok(())
}

/// Parameter names are 1–32 of `a-z0-9_-`, and there are not too many.
pub(super) fn check_params(params: &BTreeMap<String, i64>) -> Result<(), DirError> {
    ensure(params.len() <= MAX_PARAMS, "too many parameters")?;
    let fits = |name: &String| {
        let bytes = || name.bytes();
        (1..=MAX_PARAM_NAME_LEN).contains(&name.len())
            && bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_' || c == b'-')
    };
    ensure(params.keys().all(fits), "parameter name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::testing::entry;

    fn refused(change: impl FnOnce(&mut RelayEntry)) {
        let mut entry = entry(1);
        assert_eq!(entry.check_shape(), Ok(()));
        change(&mut entry);
        assert!(matches!(entry.check_shape(), Err(DirError::Malformed(_))), "{entry:?}");
    }

    #[test]
    fn every_bound_of_an_entry_is_kept() {
        refused(|e| e.nickname.clear());
        refused(|e| e.nickname = "x".repeat(20));
        refused(|e| e.nickname = "no space".into());
        refused(|e| e.nickname = "ünicode".into());
        refused(|e| e.addresses.clear());
        refused(|e| e.addresses = (1..=9).map(|port| SocketAddr::from(([192, 0, 2, 1], port))).collect());
        refused(|e| e.addresses[0].set_port(0));
        refused(|e| e.addresses[0] = "0.0.0.0:1".parse().unwrap());
        refused(|e| e.addresses[0] = "224.0.0.1:1".parse().unwrap());
        refused(|e| e.addresses[0] = "[::ffff:192.0.2.1]:1".parse().unwrap());
        refused(|e| e.addresses[0] = "[fe80::1%1]:1".parse().unwrap());
        refused(|e| e.addresses.push(e.addresses[0]));
        refused(|e| e.family = (0..65).map(|i| RelayId([i; 32])).collect());
        refused(|e| e.family = vec![RelayId([1; 32]); 2]);
        refused(|e| e.version = "x".repeat(65));
        refused(|e| e.version = "line\nfeed".into());
        refused(|e| e.protocols.clear());
        refused(|e| e.protocols = vec![2, 1]);
        refused(|e| e.protocols = (0..17).collect());
    }

    #[test]
    fn unknown_flags_and_fields_are_left_out_and_known_ones_may_not_repeat() {
        let json = serde_json::to_string(&entry(1)).unwrap();
        let with_flags = |flags: &str| {
            let json = json
                .replace("\"flags\":[\"Running\",\"Valid\"]", &format!("\"new\":[1],\"flags\":[{flags}]"));
            serde_json::from_str::<RelayEntry>(&json).map(|entry| entry.flags)
        };
        let flags = with_flags("\"Guard\",\"Sybil\",\"Running\"").unwrap();
        assert_eq!(flags, [Flag::Running, Flag::Guard]);
        assert!(with_flags("\"Guard\",\"Guard\"").is_err());
    }

    #[test]
    fn a_relay_listed_twice_is_refused() {
        let order = |ids: &[u8]| check_order(ids.iter().map(|id| RelayId([*id; 32])));
        assert_eq!(order(&[0, 1, 2]), Ok(()));
        assert!(order(&[0, 1, 1]).is_err());
        assert!(order(&[1, 0]).is_err());
    }

    #[test]
    fn parameter_names_are_plain() {
        let check = |name: &str| check_params(&BTreeMap::from([(name.to_owned(), 1)]));
        assert_eq!(check("padding_ms-2"), Ok(()));
        for name in ["", "Upper", "a b", "0123456789abcdef0123456789abcdef0"] {
            assert!(check(name).is_err(), "{name}");
        }
    }
}
