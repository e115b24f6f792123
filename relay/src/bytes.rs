//! Sizes in a configuration: a number of bytes, or text such as `"10 MiB"`. They are written back as numbers.

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, Serializer};

/// For `#[serde(with = "bytes")]`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(*bytes)
}

/// For `#[serde(with = "bytes")]`.
///
/// # Errors
/// If it is no size.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    ByteSize::deserialize(deserializer).map(|size| size.0)
}

/// The same where there may be none.
pub mod optional {
    use super::{ByteSize, Deserialize, Deserializer, Serializer};

    /// For `#[serde(with = "bytes::optional")]`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(bytes: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => serializer.serialize_some(bytes),
            None => serializer.serialize_none(),
        }
    }

    /// For `#[serde(with = "bytes::optional")]`.
    ///
    /// # Errors
    /// If it is no size.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        Ok(Option::<ByteSize>::deserialize(deserializer)?.map(|size| size.0))
    }
}

/// The same for what is held in memory.
pub mod length {
    use super::{Deserializer, Serializer};
    use serde::de::Error;

    /// For `#[serde(with = "bytes::length")]`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(bytes: &usize, serializer: S) -> Result<S::Ok, S::Error> {
        super::serialize(&(*bytes as u64), serializer)
    }

    /// For `#[serde(with = "bytes::length")]`.
    ///
    /// # Errors
    /// If it is no size, or more than this machine can address.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
        super::deserialize(deserializer)?.try_into().map_err(D::Error::custom)
    }
}
