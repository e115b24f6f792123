//! Identifiers, one newtype for each kind.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Length of a [`RelayId`] in bytes.
pub const RELAY_ID_LEN: usize = 32;

/// The Ed25519 public identity key of a relay or an authority.
///
/// Shape: 32 bytes; 64 lower-case hexadecimal digits in text. Source: docs/protocol.md §1.1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayId(pub [u8; RELAY_ID_LEN]);

impl fmt::Display for RelayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Shows the first four bytes only: enough to tell relays apart while debugging.
impl fmt::Debug for RelayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelayId({}…)", hex::encode(&self.0[..4]))
    }
}

/// Text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a key: 64 hexadecimal digits are expected")]
pub struct BadHexKey(pub String);

/// Reads 64 hexadecimal digits.
///
/// # Errors
/// [`BadHexKey`] with the text, shortened, if they are anything else.
pub(crate) fn key_from_hex(text: &str) -> Result<[u8; 32], BadHexKey> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| BadHexKey(text.chars().take(80).collect()))?;
    Ok(bytes)
}

impl FromStr for RelayId {
    type Err = BadHexKey;
    fn from_str(text: &str) -> Result<Self, BadHexKey> {
        key_from_hex(text).map(RelayId)
    }
}

impl Serialize for RelayId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RelayId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Names a circuit on one channel. Zero is the channel itself (docs/protocol.md §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CircId(pub u32);

impl CircId {
    /// The channel itself: cells that belong to no circuit.
    pub const CHANNEL: CircId = CircId(0);
    /// Set in the ids that the side which opened the channel chooses.
    pub const INITIATOR_BIT: u32 = 1 << 31;
}

/// Names a stream on one circuit. Zero is the circuit itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u16);

/// The position of a relay on a circuit, 0 next to the client; at most [`HopNum::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HopNum(u8);

impl HopNum {
    /// The deepest hop that the protocol allows (docs/protocol.md §4.4).
    pub const MAX: HopNum = HopNum(7);
    /// The hop next to the client.
    pub const FIRST: HopNum = HopNum(0);

    /// Accepts 0 to 7.
    pub fn new(depth: u8) -> Option<HopNum> {
        (depth <= Self::MAX.0).then_some(HopNum(depth))
    }

    /// The next hop away from the client, unless this is the last one allowed.
    pub fn next(self) -> Option<HopNum> {
        Self::new(self.0 + 1)
    }

    /// Relays between this hop and the client.
    pub fn depth(self) -> u8 {
        self.0
    }

    /// The depth as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}
