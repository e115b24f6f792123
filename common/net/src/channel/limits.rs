//! How much a node takes from each neighbour: the rules are in [`tunic_proto::limits`], here they meet sockets and tasks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tunic_proto::channel::CircKey;
use tunic_proto::counters::Incident;
use tunic_proto::limits::{Door, Networks, Overrides, Params, Refusal, Source, StreamRates, Ticket};

use super::Caller;
use super::node::lock;
use crate::clock;

/// What neighbours may ask for; the consensus and the operator may change it while the node runs.
pub struct Limits {
    settings: Mutex<Settings>,
    door: Mutex<Door>,
    pub(super) incoming: Arc<Places>,
    pub(super) outgoing: Arc<Places>,
}

struct Settings {
    consensus: Params,
    overrides: Overrides,
}

impl Limits {
    pub(super) fn new(incoming: usize, outgoing: usize) -> Limits {
        let seed = rand::Rng::next_u64(&mut clock::rng());
        Limits {
            settings: Mutex::new(Settings { consensus: Params::default(), overrides: Overrides::default() }),
            door: Mutex::new(Door::new(Params::default(), seed)),
            incoming: Places::new(incoming),
            outgoing: Places::new(outgoing),
        }
    }

    /// What is in force.
    pub fn params(&self) -> Params {
        let settings = lock(&self.settings);
        settings.overrides.apply(settings.consensus)
    }

    /// There is a new consensus, with these parameters.
    pub fn set_consensus(&self, params: &BTreeMap<String, i64>) {
        lock(&self.settings).consensus = Params::from_consensus(params);
        self.apply();
    }

    /// What the operator sets in place of the consensus.
    pub fn set_overrides(&self, overrides: Overrides) {
        lock(&self.settings).overrides = overrides;
        self.apply();
    }

    /// How many channels there may be at a time that others open and that this node opens. Those that are open stay.
    pub fn set_channels(&self, incoming: usize, outgoing: usize) {
        self.incoming.set_limit(incoming);
        self.outgoing.set_limit(outgoing);
    }

    fn apply(&self) {
        lock(&self.door).set_params(self.params());
    }

    /// A connection from this address.
    pub(super) fn enter(self: &Arc<Self>, ip: IpAddr) -> Result<Visit, Refusal> {
        let ticket = lock(&self.door).enter(clock::now(), ip)?;
        Ok(Visit { limits: self.clone(), ticket })
    }
}

/// A channel that is counted at the door until this is dropped.
pub(super) struct Visit {
    limits: Arc<Limits>,
    ticket: Ticket,
}

impl Drop for Visit {
    fn drop(&mut self) {
        lock(&self.limits.door).leave(self.ticket);
    }
}

/// Whoever is at the other end of a channel, and what they have used.
pub(super) struct Guest {
    pub(super) caller: Caller,
    /// `None` for those that this node called, and for relays of the network.
    visit: Option<Visit>,
    begins: StreamRates,
    /// For streams that come over its channel.
    streams: Arc<Places>,
}

impl Guest {
    pub(super) fn new(caller: Caller, visit: Option<Visit>) -> Guest {
        Guest { caller, visit, begins: StreamRates::default(), streams: Places::new(0) }
    }

    /// Whether one more circuit may be asked for, of so many on this channel. `is_member` tells whether the caller is a relay of the network: the
    /// circuits of many people come from there, so it is not held to what one of them may.
    pub(super) fn admit_circuit(
        &mut self,
        is_member: bool,
        circuits: usize,
        params: &Params,
    ) -> Result<(), Refusal> {
        if is_member {
            self.visit = None;
        }
        let most = if self.visit.is_some() { params.circuits_per_client } else { params.circuits_per_relay };
        if circuits > most as usize {
            return Err(Refusal::Circuits);
        }
        let Some(visit) = &self.visit else { return Ok(()) };
        lock(&visit.limits.door).circuit(clock::now(), visit.ticket)
    }

    /// Where what it asks for is counted; `None` for those that are not.
    pub(super) fn subnet(&self) -> Option<IpAddr> {
        let address = self.caller.address.filter(|_| self.visit.is_some())?;
        Some(Networks::of(address.ip()).subnet)
    }

    /// Under whom its handshakes and streams wait.
    pub(super) fn source(&self) -> Source {
        match self.caller.id {
            Some(id) if self.visit.is_none() => Source::Relay(id),
            _ => Source::stranger(self.caller.address.map(|address| address.ip())),
        }
    }

    /// A place for one more stream, of this circuit, until it is dropped.
    ///
    /// # Errors
    /// As what the refusal counts.
    pub(super) fn admit_stream(
        &mut self,
        circuit: Option<CircKey>,
        params: &Params,
    ) -> Result<Place, Incident> {
        if circuit.is_some_and(|circuit| !self.begins.take(circuit, params.streams(), clock::now())) {
            return Err(Incident::StreamRate);
        }
        self.streams.set_limit(params.streams_per_neighbour as usize);
        self.streams.take().ok_or(Incident::StreamCount)
    }
}

/// A number of places that can be changed while some are taken. Nobody loses one: where there are too many, those that become
/// free are not given out again.
#[derive(Debug)]
pub struct Places {
    limit: AtomicUsize,
    used: AtomicUsize,
}

impl Places {
    /// So many.
    pub fn new(limit: usize) -> Arc<Places> {
        Arc::new(Places { limit: AtomicUsize::new(limit), used: AtomicUsize::new(0) })
    }

    /// So many from now on.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
    }

    /// One of them, if there is one left, until it is dropped.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        let limit = self.limit.load(Relaxed);
        let taken = self.used.fetch_update(Relaxed, Relaxed, |used| (used < limit).then_some(used + 1));
        taken.ok().map(|_| Place(self.clone()))
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }
}

/// A place, free again when dropped.
#[derive(Debug)]
pub struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_and_given_back() {
        let places = Places::new(2);
        let (first, second) = (places.take(), places.take());
        assert!(first.is_some() && second.is_some() && places.take().is_none());
        drop(first);
        let third = places.take();
        assert!(third.is_some());
        places.set_limit(1);
        drop(third);
        assert!(places.take().is_none() && places.used() == 1, "fewer hold from the first that becomes free");
        drop(second);
        assert!(places.take().is_some());
    }

    #[test]
    fn a_relay_of_the_network_counts_no_more_once_it_is_known_to_be_one() {
        let limits = Arc::new(Limits::new(1, 1));
        limits.set_overrides(Overrides { channels_per_address: Some(1), ..Overrides::default() });
        let ip = IpAddr::from([192, 0, 2, 1]);
        let Ok(visit) = limits.enter(ip) else { panic!("the first is let in") };
        assert!(limits.enter(ip).is_err());
        let caller = Caller { id: Some(tunic_proto::ids::RelayId([1; 32])), address: Some((ip, 1).into()) };
        let mut guest = Guest::new(caller, Some(visit));
        assert!(matches!(guest.source(), Source::Subnet(_)));
        assert_eq!(guest.subnet(), Some(IpAddr::from([192, 0, 2, 0])));
        assert_eq!(guest.admit_circuit(true, 1, &limits.params()), Ok(()));
        assert!(matches!(guest.source(), Source::Relay(_)));
        assert_eq!(guest.subnet(), None);
        assert!(limits.enter(ip).is_ok());
    }

    #[test]
    fn a_neighbour_has_so_many_circuits_and_streams_at_a_time() {
        let params = Params {
            circuits_per_relay: 2_000,
            streams_per_neighbour: 2,
            streams_per_second: 0,
            ..Params::default()
        };
        let mut relay = Guest::new(Caller { id: None, address: None }, None);
        assert_eq!(relay.admit_circuit(true, 2_000, &params), Ok(()));
        assert_eq!(relay.admit_circuit(true, 2_001, &params), Err(Refusal::Circuits));
        let (first, second) = (relay.admit_stream(None, &params), relay.admit_stream(None, &params));
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(relay.admit_stream(None, &params).err(), Some(Incident::StreamCount));
        drop(first);
        assert!(relay.admit_stream(None, &params).is_ok());
    }

    #[test]
    fn the_operator_overrides_the_consensus() {
        let limits = Limits::new(1, 1);
        limits.set_overrides(Overrides { refusal_s: Some(1), ..Overrides::default() });
        limits.set_consensus(&BTreeMap::from([("dos_refusal_s".into(), 5), ("dos_channels".into(), 7)]));
        assert_eq!((limits.params().refusal_s, limits.params().channels_per_address), (1, 7));
    }
}
