//! What the pool is asked, and what it has done.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use tunic_proto::ids::RelayId;
use tunic_proto::message::DestroyReason;

use crate::core::isolation::Isolation;
use crate::core::path::{Need, PathError};

/// Names a circuit of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CircuitId(pub u64);

/// Names a want.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WantId(pub u64);

/// A stream that looks for a circuit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Whom it may share a circuit with.
    pub isolation: Isolation,
    /// What the circuit must be good for.
    pub need: Need,
    /// Exits that failed it already.
    pub not_exits: Vec<RelayId>,
    /// Only circuits begun from now on will do: one broke under it, and others may have the same relay.
    pub fresh: bool,
}

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Build a circuit, then tell [`built`](super::Pool::built) or [`failed`](super::Pool::failed).
    Build(Build),
    /// The want gets this circuit.
    Use(WantId, CircuitId),
    /// The want gets none.
    Refuse(WantId, BuildFailure),
    /// Nobody needs the circuit any more.
    Close(CircuitId),
}

/// What a circuit is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Its relays are being asked.
    Building,
    /// Built, and kept ready for whoever comes first.
    Spare,
    /// It belongs to an isolation and takes its streams.
    InUse,
    /// It takes no new streams, and ends with its last one.
    Leaving,
}

/// A circuit to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Its name from now on.
    pub circuit: CircuitId,
    /// What it shall be good for.
    pub need: Need,
    /// Relays that must not be its exit.
    pub not_exits: Vec<RelayId>,
    /// The want that asked for it; a spare has none.
    pub for_want: Option<WantId>,
    /// When it was decided.
    pub started: Instant,
}

/// Why there is no circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BuildFailure {
    /// No three relays fit.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The first relay could not be reached.
    #[error("the guard could not be reached")]
    Guard,
    /// A relay refused or failed; 0 is the guard.
    #[error("relay {} of the circuit: {reason}", hop + 1)]
    Hop {
        /// The position in the path.
        hop: usize,
        /// What was told.
        reason: DestroyReason,
    },
    /// It was given up after the learned timeout.
    #[error("the circuit was not built in time")]
    TooSlow,
    /// [`MAX_WANTS`](super::MAX_WANTS) are waiting already.
    #[error("too many streams are waiting for a circuit")]
    Busy,
}
