//! What really happened, as the load generator knows it. The classifiers are judged by it.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// All that was done in one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truth {
    /// The class or machine of the clients.
    pub class: String,
    /// What all randomness of the load came from.
    pub seed: u64,
    /// Whether this was too small for figures.
    pub smoke: bool,
    /// How many sites there are.
    pub sites: usize,
    /// Clients of a set.
    pub clients: usize,
    /// What is looked at of a visit, from its beginning on; figures for each.
    pub windows_ms: Vec<u64>,
    /// What is looked at of silence, and of a visit that is told from it.
    pub idle_ms: u64,
    /// The sets of clients by the name of their lines. Client `n` of set `s` has the trace's link `s * clients + n`.
    pub lines: Vec<String>,
    /// The machine's load average over a minute at the beginning and the end.
    pub load_average: [String; 2],
    /// Packets that the observer missed.
    pub missed_packets: u32,
    /// Rounds in order.
    pub rounds: Vec<Round>,
    /// Visits in no particular order.
    pub visits: Vec<Visit>,
}

/// When a round was, microseconds of the system clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// The beginning of silence.
    pub idle_us: u64,
    /// The beginning of the visits.
    pub start_us: u64,
}

/// One visit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visit {
    /// Index of its set of clients.
    pub set: usize,
    /// Who, within the set.
    pub client: usize,
    /// When.
    pub round: usize,
    /// Where.
    pub site: usize,
    /// Microseconds of the system clock when the program opened its first connection.
    pub start_us: u64,
    /// When the first byte of the page came; absent if none did.
    pub first_byte_us: Option<u64>,
    /// When the last byte came, or the visit failed.
    pub end_us: u64,
    /// Bytes that the visit sent and received, as the program sees them.
    pub payload: u64,
    /// What went wrong.
    pub error: Option<String>,
}

impl Truth {
    /// Writes it as JSON.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string(self)?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}
