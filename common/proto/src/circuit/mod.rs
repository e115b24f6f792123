//! Circuits: what their two ends do.

mod cover;
mod handle;
mod origin;
mod streams;

pub use cover::Cover;
pub(crate) use cover::{Asides, SPARE_CELLS};
pub(crate) use handle::CircuitShared;
pub use handle::{BuildError, CircuitHandle, CircuitStatus, HopSpec};
pub(crate) use origin::{Arrived, Origin};
pub(crate) use streams::{Side, Streams};

/// Streams of one circuit that are not gone yet (docs/protocol.md §6.6).
pub const MAX_STREAMS: usize = 1_024;

/// The peer, or whoever speaks through it, broke the protocol; or a layer of our own cannot go on. The circuit ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error(transparent)]
    Message(#[from] crate::message::MessageError),
    #[error(transparent)]
    Credit(#[from] crate::flow::CreditError),
    #[error(transparent)]
    Layer(#[from] crate::crypto::layer::LayerError),
    #[error(transparent)]
    Fragment(#[from] crate::crypto::fragment::FragmentError),
    #[error(transparent)]
    Handshake(#[from] crate::crypto::handshake::HandshakeError),
    #[error("more padding than was agreed on")]
    Padding,
    #[error("not legal in this state")]
    State,
}

impl Violation {
    /// Whether no peer broke the protocol: a key of our own is used up or, by our own mistake, not there.
    pub(crate) fn is_our_own(self) -> bool {
        use crate::crypto::layer::LayerFault::{Dead, Exhausted, NoSuchHop};
        matches!(self, Violation::Layer(error) if matches!(error.fault, Exhausted | Dead | NoSuchHop))
    }

    pub(crate) fn incident(self) -> crate::counters::Incident {
        use crate::counters::Incident;
        match self {
            Violation::Layer(_) if self.is_our_own() => Incident::KeyUsedUp,
            Violation::Layer(_) => Incident::Tampered,
            Violation::Credit(_) => Incident::Credit,
            Violation::Padding => Incident::Padding,
            Violation::Handshake(_) => Incident::CircuitHandshake,
            Violation::Message(_) | Violation::Fragment(_) | Violation::State => Incident::BadMessage,
        }
    }
}
