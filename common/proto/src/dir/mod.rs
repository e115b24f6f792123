//! Network documents and the directory exchange (docs/protocol.md §8 and §9), without I/O.
//!
//! 1. A relay signs a [`Descriptor`] and uploads it.
//! 2. Authorities put what they believe into a [`Vote`] each and exchange the votes.
//! 3. Each computes the same [`Consensus`] from the same votes ([`compute`]) and signs it.
//! 4. Clients and relays fetch it, check shape, time and signatures, in this order, and keep it in a
//!    [`ConsensusStore`], which never goes back.
//!
//! What comes in has an unchecked type without readable fields; each check consumes it and gives the next type.

mod authorities;
mod compute;
mod consensus;
mod descriptor;
mod entry;
mod envelope;
mod exchange;
mod policy;
mod store;
#[cfg(test)]
mod testing;
mod vote;

pub use authorities::AuthoritySet;
pub use compute::{ComputeError, compute};
pub use consensus::{
    CLOCK_TOLERANCE, Consensus, ConsensusBody, SignedConsensus, TimelyConsensus, UncheckedConsensus,
};
pub use descriptor::{
    DESCRIPTOR_LIFETIME, Descriptor, MAX_CLOCK_AHEAD, SignedDescriptor, TimelyDescriptor, UncheckedDescriptor,
};
pub use entry::{
    Flag, MAX_ADDRESSES, MAX_FAMILY, MAX_NICKNAME_LEN, MAX_PARAMS, MAX_PROTOCOLS, MAX_RELAYS,
    MAX_VERSION_LEN, RelayEntry,
};
pub use envelope::{Digest, Kind, MAX_SIGNATURES, SignatureLine, digest};
pub use exchange::{MAX_REQUEST_BODY, MAX_RESPONSE_BODY, Request, RequestDecoder, Response, ResponseDecoder};
pub use policy::{BadPolicy, ExitPolicy, MAX_POLICY_RULES};
pub use store::{Accepted, ConsensusStore};
pub use vote::{RoundVote, SignedVote, UncheckedVote, Vote, VoteEntry};

use crate::keys::KeyError;

/// Why a document, a request or a response was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirError {
    /// The bytes are not what docs/protocol.md says.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// The body is not the JSON that this kind of document has. Holds the parser's words, shortened.
    #[error("malformed JSON: {0}")]
    Json(String),
    /// Longer than this kind of document may be.
    #[error("too long")]
    TooLong,
    /// Its time has not come, or this machine's clock is behind.
    #[error("not valid yet (is this machine's clock right?)")]
    NotYetValid,
    /// Its time is over, or this machine's clock is ahead.
    #[error("expired (is this machine's clock right?)")]
    Expired,
    /// A certificate or a signature does not hold.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// Signed by another identity than the document is about, or by no authority of the reader's.
    #[error("signed by somebody else")]
    WrongSigner,
    /// Not enough of the reader's authorities signed.
    #[error("{have} valid signatures where {need} are needed")]
    TooFewSignatures {
        /// Valid signatures by authorities that the reader is configured with.
        have: usize,
        /// The reader's threshold.
        need: usize,
    },
    /// Older than what the reader has seen.
    #[error("older than the one already seen")]
    RolledBack,
    /// Another document for the same time than the reader has.
    #[error("differs from the one already seen for the same time")]
    Conflict,
}

/// Parses a JSON body, trailing bytes being an error.
fn from_json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, DirError> {
    const SHOWN: usize = 160;
    serde_json::from_slice(body).map_err(|e| DirError::Json(e.to_string().chars().take(SHOWN).collect()))
}

/// The JSON body of a document of ours.
fn to_json<T: serde::Serialize>(document: &T) -> Result<Vec<u8>, DirError> {
    serde_json::to_vec(document).map_err(|e| DirError::Json(e.to_string()))
}

/// Shape: whether a condition that docs/protocol.md states holds.
fn ensure(condition: bool, otherwise: &'static str) -> Result<(), DirError> {
    if condition { Ok(()) } else { Err(DirError::Malformed(otherwise)) }
}
