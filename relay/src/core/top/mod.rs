//! What `tunic-relay top` shows, without the terminal.
//!
//! 1. The relay counts; [`Sampler`] turns two counts into a [`Sample`]: what happened in between, and which channels cost
//!    most. It names no neighbour: channels are numbered.
//! 2. A sample is a line of JSON, once a second, to whoever asks at the relay's control socket.
//! 3. The other side keeps a [`History`] of samples, and says what is amiss ([`findings()`]).

mod findings;
mod history;
mod sampler;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use findings::{Finding, Weight, findings};
pub use history::{History, Order, per_second};
pub use sampler::{ChannelCount, Sampler};

/// Channels of a sample that cost most by each of the three measures.
pub const COSTLIEST: usize = 16;
/// The longest line that is read, in bytes: far more than a sample takes.
pub const MAX_SAMPLE_LEN: u64 = 256 * 1024;

/// How a relay is, and what it did since the sample before. Fields that are missing are zero, so that versions of both
/// sides may differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// The relay's version.
    pub version: String,
    /// Its nickname.
    pub nickname: String,
    /// Whether it is an exit.
    pub is_exit: bool,
    /// Its clock, Unix seconds.
    pub now: u64,
    /// Since when it runs, Unix seconds.
    pub started: u64,
    /// Time since the sample before in milliseconds; 0 in the first.
    pub period_ms: u64,
    /// Whether the consensus lists it.
    pub is_listed: bool,
    /// Relays in the consensus in force; 0 if there is none.
    pub consensus_relays: u64,
    /// When that ends, Unix seconds.
    pub consensus_until: u64,
    /// When the signing certificate ends, Unix seconds.
    pub certificate_until: u64,
    /// Bytes of memory that queues were granted, and may be.
    pub memory: Share,
    /// Bytes of memory that the process holds.
    pub resident_bytes: u64,
    /// Open files.
    pub files: Share,
    /// Bytes of cells that came in and went out in the period.
    pub bytes: Flow,
    /// Open channels.
    pub channels: u64,
    /// Circuits by what they are here.
    pub circuits: BTreeMap<String, u64>,
    /// Circuit handshakes that wait for a core.
    pub handshakes_waiting: u64,
    /// Streams to targets since the start, by outcome.
    pub streams: BTreeMap<String, u64>,
    /// What was refused in the period, by reason; only what there was.
    pub refused: BTreeMap<String, u64>,
    /// The channels that cost most, in no order.
    pub costs: Vec<Cost>,
    /// The last lines of the log.
    pub log: Vec<String>,
}

/// Something of which there is a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Share {
    /// What is used.
    pub used: u64,
    /// What may be; 0 if there is no limit.
    pub limit: u64,
}

impl Share {
    /// What is used of a hundred.
    pub fn percent(self) -> u64 {
        self.used.saturating_mul(100).checked_div(self.limit).unwrap_or(0)
    }
}

/// Two directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flow {
    /// Towards the relay.
    pub received: u64,
    /// From it.
    pub sent: u64,
}

/// What one channel costs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cost {
    /// Which channel since the relay's start.
    pub channel: u64,
    /// Whether the neighbour is a relay, as far as it proved an identity.
    pub is_relay: bool,
    /// Bytes of cells in the period.
    pub bytes: Flow,
    /// Circuit handshakes that it asked for in the period.
    pub handshakes: u64,
    /// Its circuits.
    pub circuits: u64,
    /// Bytes that its queue occupies.
    pub queued: u64,
}
