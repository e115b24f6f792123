//! What an authority wants done, what it refuses, and what it counts.

use std::net::SocketAddr;
use std::sync::Arc;

use tunic_proto::dir::{ComputeError, Digest, DirError, Response, SignatureLine, SignedConsensus};
use tunic_proto::ids::RelayId;
use tunic_proto::time::UnixTime;

#[cfg(doc)]
use super::Authority;
use super::Moment;

/// What the shell is to do.
#[derive(Debug, Clone)]
pub enum Output {
    /// Find out whether this relay answers as itself at one of these addresses, and call
    /// [`Authority::handle_probe_result`].
    Probe {
        /// Whom to expect.
        relay: RelayId,
        /// Where.
        addresses: Vec<SocketAddr>,
    },
    /// Post this vote to every peer, again while one is busy or out of reach.
    SendVote {
        /// The signed vote.
        bytes: Arc<[u8]>,
        /// When it is of no more use.
        until: Moment,
    },
    /// Post this signature to every peer, again while one is busy or out of reach.
    SendSignature {
        /// The round.
        valid_after: UnixTime,
        /// What is signed.
        digest: Digest,
        /// The signature.
        line: Box<SignatureLine>,
        /// When it is of no more use.
        until: Moment,
    },
    /// Ask this peer for its vote, and call [`Authority::handle_vote`].
    FetchVote {
        /// Whom to ask.
        from: RelayId,
        /// The round.
        valid_after: UnixTime,
    },
    /// Ask the peers for their consensus, and call [`Authority::handle_consensus`].
    FetchConsensus {
        /// `valid_after` of the one that is here, 0 for none.
        have: UnixTime,
    },
    /// A new consensus is in force: store it and serve it.
    Publish(Arc<SignedConsensus>),
    /// A round has ended without a consensus.
    RoundFailed {
        /// Why.
        failure: RoundFailure,
        /// Whether there is no valid consensus at all.
        bootstrap: bool,
    },
    /// This authority signed two different votes for one round.
    Equivocation(RelayId),
}

/// Why a round gave no consensus.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoundFailure {
    /// Too few votes by the deadline, or they could not be put together.
    #[error("{0}")]
    Votes(#[from] ComputeError),
    /// Not enough running relays to begin with.
    #[error("{have} running relays where {need} are needed")]
    TooFewRelays {
        /// Relays that a majority saw running.
        have: usize,
        /// The least number.
        need: usize,
    },
    /// Too few authorities signed the same consensus.
    #[error("{have} signatures where {need} are needed")]
    TooFewSignatures {
        /// Signatures of what was computed here.
        have: usize,
        /// The threshold.
        need: usize,
    },
    /// A document of our own could not be written.
    #[error("{0}")]
    Document(#[from] DirError),
}

/// Why something that was posted is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not what docs/protocol.md says, or does not hold.
    #[error("{0}")]
    Document(#[from] DirError),
    /// It is well-formed, but not wanted.
    #[error("{0}")]
    Policy(&'static str),
    /// It may be wanted later.
    #[error("busy")]
    Busy,
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Document(DirError::Malformed(_) | DirError::Json(_) | DirError::TooLong) => {
                Response::Malformed
            }
            Refusal::Document(error) => Response::Refused(error.to_string()),
            Refusal::Policy(text) => Response::Refused(text.into()),
            Refusal::Busy => Response::Busy,
        }
    }
}

pub(super) const NO_SUCH_ROUND: Refusal = Refusal::Policy("there is no such round now");

/// What has happened since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Descriptors that were taken.
    pub descriptors: u64,
    /// Descriptors, votes and signatures that were refused.
    pub refused: u64,
    /// Rounds that gave a consensus.
    pub rounds_ok: u64,
    /// Rounds that did not.
    pub rounds_failed: u64,
    /// Authorities caught with two votes for one round, each time.
    pub equivocations: u64,
    /// Signatures for other bytes than those that were computed here.
    pub disagreements: u64,
}
