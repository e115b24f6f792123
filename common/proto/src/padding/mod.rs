//! Padding: cells that carry nothing, so that an observer learns less from when and how much is sent
//! (docs/protocol.md §11).
//!
//! 1. A client says once on each channel to a guard what it wants there ([`LinkMode`]); the relay agrees or refuses
//!    within its [`Limits`].
//! 2. From then on each side owns a `LinkPadding`, which decides when a `PADDING` cell is due and, in constant
//!    mode, how many cells go out at all.
//! 3. What was sent and received is counted in [`PaddingStats`].

mod allowance;
mod budget;
mod limits;
pub(crate) mod link;
mod machines;
mod mode;
mod pace;
mod quiet;
pub(crate) mod runner;
mod spec;
mod stats;
mod steps;
mod tunic;

use std::sync::Arc;

pub(crate) use budget::Meter;
pub use budget::{Account, Budget};
pub(crate) use limits::{Asker, Grant};
pub use limits::{Limits, LimitsConfig, Reservation};
pub use mode::{LinkMode, Rates, Refusal, negotiate, negotiated, parse_negotiate, parse_negotiated};
pub use spec::{MachineKind, MachineSpec};
pub use stats::{PaddingStats, PaddingTotals};

/// What a client asks its guard for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientPadding {
    /// For the channel.
    pub link: LinkMode,
    /// How often a constant rate may be doubled when it is used up; at most [`ClientPadding::MAX_STEPS`].
    pub steps: u8,
    /// For each circuit of more than one hop, once it is open.
    pub machine: Option<MachineSpec>,
}

impl ClientPadding {
    /// More doublings than a rate has room for.
    pub const MAX_STEPS: u8 = 7;
}

impl From<LinkMode> for ClientPadding {
    fn from(link: LinkMode) -> Self {
        ClientPadding { link, ..ClientPadding::default() }
    }
}

/// What a side of a channel does about padding.
#[derive(Debug, Clone, Default)]
pub enum PaddingRole {
    /// It neither asks for padding nor grants it.
    #[default]
    None,
    /// It asks for this on channels that carry circuits of more than one hop.
    Client(ClientPadding, Arc<PaddingStats>),
    /// It grants within these limits to clients.
    Relay(Arc<Limits>, Arc<PaddingStats>),
}
