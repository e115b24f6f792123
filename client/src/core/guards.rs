//! The guard set: the few relays that ever learn this client's address (Tor's guard-spec, made smaller).
//!
//! 1. A **sample** of relays is drawn by bandwidth and kept for months, so that a hostile relay which turns up later is
//!    not used just because it turned up.
//! 2. The first three that are listed are **primary**; those over which a circuit was built (*confirmed*) come first.
//!    The first one in reach is used.
//!    A client that keeps to one guard (`padding = "constant"`) prefers those that are no exits, before it has used any: what it cannot have as an exit beside
//!    its guard is then seldom missing.
//! 3. One that fails is left alone for a while that doubles. When no primary is in reach the rest of the sample may
//!    be used, and when nothing is, the primaries are tried anyway: then it is our own line, most likely.
//! 4. One that is unlisted for 20 days, or has been in the sample for 120 days (confirmed ones stay at least 60 days
//!    after that was found out), is dropped, and the sample is topped up.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use rand::{Rng, RngExt as _};
use serde::{Deserialize, Serialize};
use tunic_proto::dir::RelayEntry;
use tunic_proto::ids::RelayId;
use tunic_proto::time::UnixTime;

use super::network::Network;
use super::path::draw;

/// Most guards in the sample.
pub const MAX_SAMPLE: usize = 20;
/// Fewest, if the network has them.
pub const MIN_SAMPLE: usize = 3;
/// The sample is at most one in so many of the network's guards.
const SAMPLE_SHARE: usize = 5;
const PRIMARY: usize = 3;
const DAY: Duration = Duration::from_secs(86_400);
const SAMPLED_LIFETIME: Duration = DAY.saturating_mul(120);
const CONFIRMED_LIFETIME: Duration = DAY.saturating_mul(60);
const UNLISTED_LIFETIME: Duration = DAY.saturating_mul(20);
/// Dates in the file are set back by up to this, so that they do not tell when the client was first used.
const DATE_BLUR: Duration = DAY.saturating_mul(12);
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// For a guard whose channel stands and carries nothing: the next circuit over it would wait for its timeout.
const SILENT_RETRY: Duration = Duration::from_secs(60);
const MAX_RETRY: Duration = Duration::from_secs(600);

/// A file that is no guard set. The file is to blame.
#[derive(Debug, thiserror::Error)]
pub enum GuardsError {
    /// Not the JSON that [`GuardSet::to_json`] writes.
    #[error("not a guard set: {0}")]
    Json(#[from] serde_json::Error),
    /// More than [`MAX_SAMPLE`] guards, or one twice.
    #[error("not a guard set: too many guards, or one of them twice")]
    Shape,
}

/// The guards of this client. Reachability is remembered while the client runs, the rest is kept on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct GuardSet {
    sample: Vec<Guard>,
    #[serde(skip)]
    unreachable: HashMap<RelayId, Unreachable>,
    /// Whether guards that are no exits are preferred, and which are exits then.
    #[serde(skip)]
    shuns_exits: bool,
    #[serde(skip)]
    exits: HashSet<RelayId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Guard {
    id: RelayId,
    added: UnixTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confirmed: Option<UnixTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unlisted_since: Option<UnixTime>,
}

#[derive(Debug, Clone, Copy)]
struct Unreachable {
    wait: Duration,
    retry_at: Instant,
}

impl GuardSet {
    /// Reads what [`GuardSet::to_json`] wrote.
    ///
    /// # Errors
    /// [`GuardsError`] for anything else.
    pub fn from_json(bytes: &[u8]) -> Result<Self, GuardsError> {
        let set: GuardSet = serde_json::from_slice(bytes)?;
        let twice = |at: usize| set.sample[..at].iter().any(|guard| guard.id == set.sample[at].id);
        if set.sample.len() > MAX_SAMPLE || (0..set.sample.len()).any(twice) {
            return Err(GuardsError::Shape);
        }
        Ok(set)
    }

    /// The form for the disk, a few kilobytes at most.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// From the next consensus on, guards that are no exits come first among those that were used, and among the others.
    pub fn shun_exits(&mut self) {
        self.shuns_exits = true;
    }

    /// Adapts the set to a new consensus. Returns whether anything changed that belongs on disk.
    pub fn update<R: Rng + ?Sized>(&mut self, network: &Network, now: UnixTime, rng: &mut R) -> bool {
        let before = self.sample.clone();
        let guards: Vec<&RelayEntry> = network.guards().collect();
        for guard in &mut self.sample {
            let listed = guards.iter().any(|relay| relay.identity == guard.id);
            guard.unlisted_since = if listed { None } else { guard.unlisted_since.or(Some(now)) };
        }
        self.sample.retain(|guard| !guard.is_over(now));
        self.top_up(&guards, now, rng);
        let sample = &self.sample;
        let exits =
            sample.iter().filter_map(|guard| network.relay(guard.id)).filter(|relay| relay.exit.is_exit());
        self.exits = exits.map(|relay| relay.identity).filter(|_| self.shuns_exits).collect();
        self.unreachable.retain(|id, _| sample.iter().any(|guard| guard.id == *id));
        self.sample != before
    }

    /// The guards to use now, the preferred first.
    pub fn candidates(&self, now: Instant) -> Vec<RelayId> {
        let listed = self.in_order();
        let (primary, rest) = listed.split_at(PRIMARY.min(listed.len()));
        let in_reach = |ids: &[RelayId]| -> Vec<RelayId> {
            ids.iter().copied().filter(|id| self.retry_at(*id).is_none_or(|at| at <= now)).collect()
        };
        let mut candidates = in_reach(primary);
        candidates.extend(in_reach(rest));
        if candidates.is_empty() {
            candidates = primary.to_vec();
            candidates.sort_by_key(|id| self.retry_at(*id));
        }
        candidates
    }

    /// A circuit over this guard was built. Returns whether anything changed that belongs on disk.
    pub fn succeeded<R: Rng + ?Sized>(&mut self, id: RelayId, now: UnixTime, rng: &mut R) -> bool {
        self.unreachable.remove(&id);
        let unconfirmed = self.sample.iter_mut().find(|guard| guard.id == id && guard.confirmed.is_none());
        let changed = unconfirmed.is_some();
        if let Some(guard) = unconfirmed {
            guard.confirmed = Some(blurred(now, rng));
        }
        changed
    }

    /// This guard could not be reached or did not answer. Failures while it is left alone anyway count as one.
    pub fn failed(&mut self, id: RelayId, now: Instant) {
        self.leave_alone(id, FIRST_RETRY, now);
    }

    /// This guard stands still: its channel is open, and nothing comes over it.
    pub fn fell_silent(&mut self, id: RelayId, now: Instant) {
        self.leave_alone(id, SILENT_RETRY, now);
    }

    /// For so long at least, and twice as long as the last time if it was left alone before.
    fn leave_alone(&mut self, id: RelayId, least: Duration, now: Instant) {
        if !self.sample.iter().any(|guard| guard.id == id) {
            return;
        }
        let wait = match self.unreachable.get(&id) {
            Some(before) if now < before.retry_at && least <= before.wait => return,
            Some(before) if now < before.retry_at => least,
            Some(before) => (before.wait * 2).clamp(least, MAX_RETRY),
            None => least,
        };
        self.unreachable.insert(id, Unreachable { wait, retry_at: now + wait });
    }

    /// Listed guards: the confirmed first, lest a guard is left because it becomes an exit, then the others; of either those that
    /// are not shunned first, in the order of the sample.
    fn in_order(&self) -> Vec<RelayId> {
        let mut listed: Vec<&Guard> =
            self.sample.iter().filter(|guard| guard.unlisted_since.is_none()).collect();
        listed.sort_by_key(|guard| (guard.confirmed.is_none(), self.exits.contains(&guard.id)));
        listed.into_iter().map(|guard| guard.id).collect()
    }

    fn retry_at(&self, id: RelayId) -> Option<Instant> {
        self.unreachable.get(&id).map(|unreachable| unreachable.retry_at)
    }

    fn top_up<R: Rng + ?Sized>(&mut self, guards: &[&RelayEntry], now: UnixTime, rng: &mut R) {
        let wanted = (guards.len() / SAMPLE_SHARE).clamp(MIN_SAMPLE, MAX_SAMPLE);
        let mut fresh = guards.to_vec();
        fresh.retain(|relay| self.sample.iter().all(|guard| guard.id != relay.identity));
        while self.listed() < wanted && self.sample.len() < MAX_SAMPLE {
            let Some(id) = draw(&fresh, rng).map(|relay| relay.identity) else { return };
            fresh.retain(|relay| relay.identity != id);
            let added = blurred(now, rng);
            self.sample.push(Guard { id, added, confirmed: None, unlisted_since: None });
        }
    }

    fn listed(&self) -> usize {
        self.sample.iter().filter(|guard| guard.unlisted_since.is_none()).count()
    }
}

impl Guard {
    fn is_over(&self, now: UnixTime) -> bool {
        let unlisted = self.unlisted_since.is_some_and(|since| now.since(since) >= UNLISTED_LIFETIME);
        let confirmed = self.confirmed.is_some_and(|since| now.since(since) < CONFIRMED_LIFETIME);
        unlisted || (now.since(self.added) >= SAMPLED_LIFETIME && !confirmed)
    }
}

fn blurred<R: Rng + ?Sized>(now: UnixTime, rng: &mut R) -> UnixTime {
    now.minus(Duration::from_secs(rng.random_range(0..DATE_BLUR.as_secs())))
}

#[cfg(test)]
#[path = "guards_tests.rs"]
mod tests;
