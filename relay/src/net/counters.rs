//! What a relay counts for its operator: totals since it started. Nothing here tells who or where.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::resolver::DnsCounters;

/// Totals since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Streams that reached their target.
    pub streams_connected: AtomicU64,
    /// Streams that the policy, or the rules that hold for every exit, refused.
    pub streams_refused: AtomicU64,
    /// Streams whose target could not be reached.
    pub streams_failed: AtomicU64,
    /// Streams for which there was no room.
    pub streams_without_room: AtomicU64,
    /// Names and addresses looked up.
    pub lookups: AtomicU64,
    /// Associations of datagrams that were begun.
    pub associations: AtomicU64,
    /// Datagrams that the policy, or the rules that hold for every exit, refused, or whose name there is not.
    pub datagrams_refused: AtomicU64,
    /// Datagrams for which there was no room, or no way.
    pub datagrams_dropped: AtomicU64,
    /// What name servers said.
    pub dns: Arc<DnsCounters>,
    /// Directory requests that were taken.
    pub directory_requests: AtomicU64,
}

/// Counts one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Counters {
    /// Streams to targets, by outcome.
    pub fn streams(&self) -> BTreeMap<String, u64> {
        let outcomes = [
            ("connected", &self.streams_connected),
            ("refused", &self.streams_refused),
            ("failed", &self.streams_failed),
            ("no_room", &self.streams_without_room),
        ];
        outcomes.map(|(outcome, count)| (outcome.to_owned(), count.load(Relaxed))).into()
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} streams connected, {} refused, {} failed, {} without room; {} lookups, {} UDP associations \
             ({} datagrams refused, {} dropped), {} directory requests",
            self.streams_connected.load(Relaxed),
            self.streams_refused.load(Relaxed),
            self.streams_failed.load(Relaxed),
            self.streams_without_room.load(Relaxed),
            self.lookups.load(Relaxed),
            self.associations.load(Relaxed),
            self.datagrams_refused.load(Relaxed),
            self.datagrams_dropped.load(Relaxed),
            self.directory_requests.load(Relaxed),
        )
    }
}
