//! The relays that an authority knows: their descriptors, and whether they answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tunic_proto::dir::{DESCRIPTOR_LIFETIME, MAX_RELAYS, RelayEntry, SignedDescriptor, VoteEntry};
use tunic_proto::ids::RelayId;

use super::flags::{Thresholds, credible};
use super::limits::network;
use super::{Moment, Refusal};

/// From one probe of a relay that answers to the next.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(600);
/// From the first failed probe to the next; doubled with each, up to [`PROBE_INTERVAL`].
pub const PROBE_RETRY: Duration = Duration::from_secs(1);
/// A probe without a result by then has failed.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(30);
/// Probes under way at a time; further ones wait.
pub const MAX_PROBES: usize = 64;
/// Relays that one IPv4 address or IPv6 /64 may have.
pub const MAX_RELAYS_PER_NETWORK: usize = 128;
/// Bytes of all descriptors together, so that a vote, which repeats them, stays within its 8 MiB.
pub const MAX_DESCRIPTOR_BYTES: usize = 6 << 20;

/// A relay that has uploaded a descriptor.
#[derive(Debug)]
struct Relay {
    descriptor: SignedDescriptor,
    /// Since when every probe was answered; `None` if the last was not.
    up_since: Option<Moment>,
    /// Failed probes in a row.
    failures: u32,
    probe: Probe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    Due(Moment),
    /// Under way; `again` if the relay has moved meanwhile, so that the result says nothing.
    Running {
        deadline: Moment,
        again: bool,
    },
}

/// All relays that an authority knows.
#[derive(Debug, Default)]
pub(super) struct RelayTable {
    relays: BTreeMap<RelayId, Relay>,
    /// Probes to start, in order of time.
    due: BTreeSet<(Moment, RelayId)>,
    /// Probes under way, in order of their deadlines.
    deadlines: BTreeSet<(Moment, RelayId)>,
    per_network: HashMap<IpAddr, usize>,
    /// Bytes of all descriptors.
    bytes: usize,
}

impl RelayTable {
    /// Takes a descriptor that was checked, and has the relay probed unless it is known to run there.
    ///
    /// # Errors
    /// [`Refusal`] for an older descriptor than the one that is there, and where a bound is reached.
    pub(super) fn insert(&mut self, descriptor: SignedDescriptor, now: Moment) -> Result<(), Refusal> {
        let id = descriptor.identity;
        if let Some(known) = self.relays.get(&id) {
            if known.descriptor.digest() == descriptor.digest() {
                return Ok(());
            }
            if descriptor.published <= known.descriptor.published {
                return Err(Refusal::Policy("a descriptor as new as this one is known already"));
            }
        }
        self.check_room(&descriptor)?;
        let mut relay = match self.remove(&id) {
            Some(known) => known,
            None => {
                Relay { descriptor: descriptor.clone(), up_since: None, failures: 0, probe: Probe::Due(now) }
            }
        };
        let moved = relay.descriptor.addresses != descriptor.addresses;
        relay.descriptor = descriptor;
        if moved {
            relay.up_since = None;
        }
        if relay.up_since.is_none() {
            relay.failures = 0;
            relay.probe = match relay.probe {
                Probe::Due(_) => Probe::Due(now),
                Probe::Running { deadline, again } => Probe::Running { deadline, again: again || moved },
            };
        }
        self.add(id, relay);
        Ok(())
    }

    /// Whether this relay runs where this descriptor says.
    pub(super) fn is_running_there(&self, descriptor: &SignedDescriptor) -> bool {
        let known = self.relays.get(&descriptor.identity);
        known.is_some_and(|r| r.up_since.is_some() && r.descriptor.addresses == descriptor.addresses)
    }

    fn check_room(&mut self, descriptor: &SignedDescriptor) -> Result<(), Refusal> {
        let old = self.relays.get(&descriptor.identity).map(|relay| &relay.descriptor);
        let is_new = old.is_none();
        let old_len = old.map_or(0, |old| old.bytes().len());
        if self.bytes - old_len + descriptor.bytes().len() > MAX_DESCRIPTOR_BYTES {
            return Err(Refusal::Busy);
        }
        let old_networks = old.map(|old| networks(&old.addresses)).unwrap_or_default();
        for network in networks(&descriptor.addresses).difference(&old_networks) {
            let crowded = self.per_network.get(network).is_some_and(|n| *n >= MAX_RELAYS_PER_NETWORK);
            if crowded && !self.evict(|relay| networks(&relay.descriptor.addresses).contains(network)) {
                return Err(Refusal::Policy("too many relays at this address"));
            }
        }
        let full = is_new && self.relays.len() >= MAX_RELAYS;
        if full && !self.evict(|_| true) { Err(Refusal::Busy) } else { Ok(()) }
    }

    /// Forgets, of these relays, the one that failed the most probes in a row, if one did: whoever claims an address
    /// where it does not answer keeps nobody out.
    fn evict(&mut self, of: impl Fn(&Relay) -> bool) -> bool {
        let failing = self.relays.iter().filter(|(_, relay)| relay.failures > 0 && of(relay));
        let worst = failing.max_by_key(|(_, relay)| relay.failures).map(|(id, _)| *id);
        worst.is_some_and(|id| self.remove(&id).is_some())
    }

    fn add(&mut self, id: RelayId, relay: Relay) {
        self.bytes += relay.descriptor.bytes().len();
        for network in networks(&relay.descriptor.addresses) {
            *self.per_network.entry(network).or_default() += 1;
        }
        let probe = relay.probe;
        self.relays.insert(id, relay);
        self.set_probe(id, probe);
    }

    fn remove(&mut self, id: &RelayId) -> Option<Relay> {
        let relay = self.relays.remove(id)?;
        self.forget_timer(*id, relay.probe);
        self.bytes -= relay.descriptor.bytes().len();
        for network in networks(&relay.descriptor.addresses) {
            if let Some(count) = self.per_network.get_mut(&network) {
                *count -= 1;
                if *count == 0 {
                    self.per_network.remove(&network);
                }
            }
        }
        Some(relay)
    }

    fn set_probe(&mut self, id: RelayId, probe: Probe) {
        let Some(relay) = self.relays.get_mut(&id) else { return };
        let old = std::mem::replace(&mut relay.probe, probe);
        self.forget_timer(id, old);
        match probe {
            Probe::Due(at) => self.due.insert((at, id)),
            Probe::Running { deadline, .. } => self.deadlines.insert((deadline, id)),
        };
    }

    fn forget_timer(&mut self, id: RelayId, probe: Probe) {
        match probe {
            Probe::Due(at) => self.due.remove(&(at, id)),
            Probe::Running { deadline, .. } => self.deadlines.remove(&(deadline, id)),
        };
    }

    /// A probe of this relay has ended. What was not asked for is ignored.
    pub(super) fn handle_probe_result(&mut self, id: RelayId, ok: bool, now: Moment) {
        let Some(relay) = self.relays.get_mut(&id) else { return };
        let Probe::Running { again, .. } = relay.probe else { return };
        let next = if again {
            now
        } else if ok {
            relay.up_since.get_or_insert(now);
            relay.failures = 0;
            now.plus(PROBE_INTERVAL)
        } else {
            relay.up_since = None;
            let wait = PROBE_RETRY.saturating_mul(2_u32.saturating_pow(relay.failures));
            relay.failures = relay.failures.saturating_add(1);
            now.plus(wait.min(PROBE_INTERVAL))
        };
        self.set_probe(id, Probe::Due(next));
    }

    /// The next relay to probe now, if there is one; probes that took too long have failed.
    pub(super) fn poll_probe(&mut self, now: Moment) -> Option<(RelayId, Vec<SocketAddr>)> {
        while let Some((_, id)) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now) {
            self.handle_probe_result(id, false, now);
        }
        if self.deadlines.len() >= MAX_PROBES {
            return None;
        }
        let (_, id) = self.due.first().copied().filter(|(at, _)| *at <= now)?;
        let addresses = self.relays.get(&id)?.descriptor.addresses.clone();
        self.set_probe(id, Probe::Running { deadline: now.plus(PROBE_TIMEOUT), again: false });
        Some((id, addresses))
    }

    /// When [`RelayTable::poll_probe`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        let due = self.due.first().filter(|_| self.deadlines.len() < MAX_PROBES);
        [due, self.deadlines.first()].into_iter().flatten().map(|(at, _)| *at).min()
    }

    /// Forgets descriptors that are past their lifetime.
    pub(super) fn expire(&mut self, now: Moment) {
        let is_old = |relay: &Relay| now.unix() > relay.descriptor.published.plus(DESCRIPTOR_LIFETIME);
        let old = self.relays.iter().filter(|(_, relay)| is_old(relay)).map(|(id, _)| *id);
        for id in old.collect::<Vec<_>>() {
            self.remove(&id);
        }
    }

    /// How many relays answered their last probe.
    pub(super) fn running(&self) -> usize {
        self.relays.values().filter(|relay| relay.up_since.is_some()).count()
    }

    /// The bytes of each descriptor.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = &[u8]> {
        self.relays.values().map(|relay| relay.descriptor.bytes())
    }

    /// What a vote says of the running relays, sorted by identity.
    pub(super) fn vote_entries(&self, now: Moment) -> Vec<VoteEntry> {
        let running = |relay: &Relay| relay.up_since.map(|since| now.since(since));
        // Whoever states no bandwidth rests, and wants nobody to come.
        let offering = || self.relays.values().filter(|relay| relay.descriptor.bandwidth > 0);
        let up = offering().filter_map(|r| Some((credible(r.descriptor.bandwidth), running(r)?)));
        let thresholds = Thresholds::of(&up.collect::<Vec<_>>());
        let entry = |relay: &Relay| {
            let flags = thresholds.flags(&relay.descriptor, running(relay)?);
            let bandwidth = credible(relay.descriptor.bandwidth);
            let entry = RelayEntry { flags, bandwidth, ..relay.descriptor.entry() };
            Some(VoteEntry { published: relay.descriptor.published, entry })
        };
        offering().filter_map(entry).collect()
    }
}

fn networks(addresses: &[SocketAddr]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|address| network(address.ip())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::tests::support::{NOW, descriptor, signer};
    use tunic_proto::dir::Descriptor;

    const START: Moment = Moment(NOW.0 * 1_000);

    fn signed(seed: u64, change: impl FnOnce(&mut Descriptor)) -> SignedDescriptor {
        let mut descriptor = descriptor(seed);
        change(&mut descriptor);
        descriptor.sign(&signer(seed)).unwrap()
    }

    fn probe_all(table: &mut RelayTable, now: Moment) -> Vec<RelayId> {
        std::iter::from_fn(|| table.poll_probe(now).map(|(id, _)| id)).collect()
    }

    #[test]
    fn a_relay_is_probed_at_once_then_periodically_and_soon_again_after_a_failure() {
        let mut table = RelayTable::default();
        let id = signer(1).id();
        table.insert(signed(1, |_| ()), START).unwrap();
        assert_eq!(probe_all(&mut table, START), [id]);
        assert_eq!(table.running(), 0);
        table.handle_probe_result(id, true, START);
        assert_eq!((table.running(), table.poll_timeout()), (1, Some(START.plus(PROBE_INTERVAL))));
        let mut now = START.plus(PROBE_INTERVAL);
        for wait in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600] {
            assert_eq!(probe_all(&mut table, now), [id]);
            table.handle_probe_result(id, false, now);
            assert_eq!(table.running(), 0);
            let next = now.plus(Duration::from_secs(wait));
            assert_eq!(table.poll_timeout(), Some(next));
            now = next;
        }
    }

    #[test]
    fn a_probe_without_a_result_has_failed() {
        let mut table = RelayTable::default();
        table.insert(signed(1, |_| ()), START).unwrap();
        probe_all(&mut table, START);
        let deadline = START.plus(PROBE_TIMEOUT);
        assert_eq!(table.poll_timeout(), Some(deadline));
        assert_eq!(probe_all(&mut table, deadline), []);
        assert_eq!(table.poll_timeout(), Some(deadline.plus(PROBE_RETRY)));
    }

    #[test]
    fn a_relay_that_moved_must_answer_again() {
        let mut table = RelayTable::default();
        let id = signer(1).id();
        table.insert(signed(1, |_| ()), START).unwrap();
        probe_all(&mut table, START);
        table.handle_probe_result(id, true, START);
        let same_place = signed(1, |d| d.published.0 += 1);
        table.insert(same_place, START).unwrap();
        assert_eq!((table.running(), probe_all(&mut table, START).len()), (1, 0));
        let moved = |port| {
            move |d: &mut Descriptor| {
                d.published.0 += u64::from(port);
                d.addresses[0].set_port(port);
            }
        };
        table.insert(signed(1, moved(2)), START).unwrap();
        assert_eq!(table.running(), 0);
        let (_, addresses) = table.poll_probe(START).unwrap();
        assert_eq!(addresses[0].port(), 2);
        // It moves once more while the probe is under way, whose result is worth nothing then.
        table.insert(signed(1, moved(3)), START).unwrap();
        table.handle_probe_result(id, true, START);
        assert_eq!(table.running(), 0);
        assert_eq!(table.poll_probe(START).unwrap().1[0].port(), 3);
    }

    #[test]
    fn older_descriptors_do_not_replace_newer_ones() {
        let mut table = RelayTable::default();
        let newer = signed(1, |d| d.published.0 += 1);
        table.insert(newer.clone(), START).unwrap();
        assert_eq!(table.insert(newer, START), Ok(()));
        assert!(matches!(table.insert(signed(1, |_| ()), START), Err(Refusal::Policy(_))));
        let same_time = signed(1, |d| {
            d.published.0 += 1;
            d.bandwidth += 1;
        });
        assert!(matches!(table.insert(same_time, START), Err(Refusal::Policy(_))));
    }

    #[test]
    fn only_so_many_probes_run_at_a_time() {
        let mut table = RelayTable::default();
        for seed in 0..MAX_PROBES as u64 + 5 {
            table.insert(signed(seed, |_| ()), START).unwrap();
        }
        let first = probe_all(&mut table, START);
        assert_eq!(first.len(), MAX_PROBES);
        assert_eq!(table.poll_timeout(), Some(START.plus(PROBE_TIMEOUT)));
        table.handle_probe_result(first[0], true, START);
        assert_eq!(probe_all(&mut table, START).len(), 1);
    }

    #[test]
    fn relays_that_do_not_answer_keep_nobody_out_of_their_network() {
        let mut table = RelayTable::default();
        let here = |d: &mut Descriptor| d.addresses = vec![([192, 0, 2, 1], 9001).into()];
        for seed in 0..MAX_RELAYS_PER_NETWORK as u64 {
            table.insert(signed(seed, here), START).unwrap();
        }
        let crowded = table.insert(signed(500, here), START);
        assert_eq!(crowded, Err(Refusal::Policy("too many relays at this address")));
        let silent = probe_all(&mut table, START)[0];
        table.handle_probe_result(silent, false, START);
        assert_eq!(table.insert(signed(500, here), START), Ok(()));
        assert!(!table.relays.contains_key(&silent));
        assert_eq!(table.relays.len(), MAX_RELAYS_PER_NETWORK);
    }

    #[test]
    fn descriptors_past_their_lifetime_are_forgotten_with_all_that_they_took() {
        let mut table = RelayTable::default();
        table.insert(signed(1, |_| ()), START).unwrap();
        table.expire(START.plus(DESCRIPTOR_LIFETIME));
        assert_eq!(table.relays.len(), 1);
        table.expire(START.plus(DESCRIPTOR_LIFETIME + Duration::from_secs(1)));
        assert!(table.relays.is_empty() && table.per_network.is_empty() && table.due.is_empty());
        assert_eq!(table.bytes, 0);
    }

    #[test]
    fn a_vote_lists_what_runs_with_credible_bandwidth() {
        let mut table = RelayTable::default();
        table.insert(signed(1, |d| d.bandwidth = u64::MAX), START).unwrap();
        table.insert(signed(2, |_| ()), START).unwrap();
        probe_all(&mut table, START);
        table.handle_probe_result(signer(1).id(), true, START);
        let entries = table.vote_entries(START);
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].entry.bandwidth, crate::core::MAX_CREDIBLE_BANDWIDTH);
    }

    #[test]
    fn a_relay_that_rests_is_not_listed_and_comes_back_when_it_says_so() {
        let mut table = RelayTable::default();
        table.insert(signed(1, |_| ()), START).unwrap();
        probe_all(&mut table, START);
        table.handle_probe_result(signer(1).id(), true, START);
        let mut state = |seconds, bandwidth| {
            let change = |d: &mut Descriptor| {
                d.published.0 += seconds;
                d.bandwidth = bandwidth;
            };
            table.insert(signed(1, change), START).unwrap();
            table.vote_entries(START).len()
        };
        assert_eq!([state(1, 0), state(2, 1_000_000)], [0, 1]);
    }
}
