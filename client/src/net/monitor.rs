//! What the parts of the client note about themselves, for [`Client::report`](super::Client::report).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};
use tunic_net::channel::{CircuitStream, Node};
use tunic_net::daemon::unix_now;
use tunic_proto::cell::CELL_LEN;
use tunic_proto::message::Target;
use tunic_proto::padding::{PaddingStats, PaddingTotals};
use tunic_proto::stream::{StreamMeter, StreamTotals};
use tunic_proto::time::UnixTime;

use super::now;
use super::view::View;
use crate::core::front::leaks::Leak;
use crate::core::pool::CircuitId;
use crate::core::status::diagnose::{Facts, FetchTrouble, ListState, bootstrap, diagnose};
use crate::core::status::journal::{Journal, Mishap};
use crate::core::status::rates::{CellCount, Rates};
use crate::core::status::report::{
    API, MAX_STREAMS_SHOWN, NetworkReport, PortReport, Report, StreamList, StreamReport,
};
use crate::padding::Class;

/// How long what a relay said of its clock is of interest: this machine's clock may have been set since.
const CLOCK_FRESH: Duration = Duration::from_secs(600);
/// How often samples are taken.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// What is going on. Shared by all parts of a client.
pub(super) struct Monitor {
    started: Instant,
    memory_budget: usize,
    noted: Mutex<Noted>,
    streams: Mutex<BTreeMap<u64, Entry>>,
    next_stream: AtomicU64,
    /// Whoever takes the samples.
    sampler: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Noted {
    journal: Journal,
    rates: Rates,
    list: ListState,
    relays: usize,
    valid_until: Option<UnixTime>,
    fetch: Option<FetchTrouble>,
    guard_reached: bool,
    clock: Option<(i64, Instant)>,
    ports: Vec<PortReport>,
    /// No more than there are leaky ports in the configuration, and one.
    leaks: BTreeSet<Option<u16>>,
}

/// A stream of an application. There are no more of them than connections at the ports.
struct Entry {
    kind: StreamKind,
    since: Instant,
    destination: Option<Target>,
    on: Option<(CircuitId, Option<StreamMeter>)>,
}

/// What an application uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamKind {
    Stream,
    Lookup,
    Datagrams,
}

impl StreamKind {
    fn label(self) -> &'static str {
        match self {
            StreamKind::Stream => "stream",
            StreamKind::Lookup => "lookup",
            StreamKind::Datagrams => "datagrams",
        }
    }
}

/// A stream in the list, until this is dropped.
pub(super) struct Listed {
    monitor: Arc<Monitor>,
    id: u64,
}

impl Listed {
    /// It is on this circuit.
    pub(super) fn opened(&self, circuit: CircuitId, stream: &CircuitStream) {
        if let Some(entry) = lock(&self.monitor.streams).get_mut(&self.id) {
            entry.on = Some((circuit, stream.meter()));
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        lock(&self.monitor.streams).remove(&self.id);
    }
}

impl Monitor {
    pub(super) fn new(memory_budget: usize) -> Arc<Monitor> {
        Arc::new(Monitor {
            started: now(),
            memory_budget,
            noted: Mutex::default(),
            streams: Mutex::default(),
            next_stream: AtomicU64::new(1),
            sampler: tokio::sync::Mutex::default(),
        })
    }

    /// Lists a stream.
    pub(super) fn stream(self: &Arc<Self>, kind: StreamKind, destination: Option<Target>) -> Listed {
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
        lock(&self.streams).insert(id, Entry { kind, since: now(), destination, on: None });
        Listed { monitor: self.clone(), id }
    }

    /// Something failed.
    pub(super) fn note(&self, mishap: Mishap) {
        lock(&self.noted).journal.note(mishap, now());
    }

    /// A port is open, or is not for this reason.
    pub(super) fn port(&self, name: &str, address: String, problem: Option<String>) {
        lock(&self.noted).ports.push(PortReport { name: name.to_owned(), address, problem });
    }

    pub(super) fn leak(&self, leak: Leak) {
        lock(&self.noted).leaks.insert(match leak {
            Leak::BareAddress => None,
            Leak::Port(port) => Some(port),
        });
    }

    pub(super) fn guard_reached(&self, clock_ahead_s: Option<i64>) {
        lock(&self.noted).guard_reached = true;
        self.clock_seen(clock_ahead_s);
    }

    /// A relay that was called has told its clock.
    pub(super) fn clock_seen(&self, ahead_s: Option<i64>) {
        if let Some(ahead) = ahead_s {
            lock(&self.noted).clock = Some((ahead, now()));
        }
    }

    pub(super) fn list_is_there(&self, relays: usize, valid_until: UnixTime) {
        let mut noted = lock(&self.noted);
        (noted.list, noted.relays, noted.valid_until) = (ListState::Valid, relays, Some(valid_until));
    }

    pub(super) fn list_expired(&self) {
        lock(&self.noted).list = ListState::Expired;
    }

    pub(super) fn fetched(&self) {
        lock(&self.noted).fetch = None;
    }

    pub(super) fn fetch_failed(&self, trouble: FetchTrouble) {
        let mut noted = lock(&self.noted);
        noted.journal.note(Mishap::no_list(&trouble.what, trouble.advice), now());
        noted.fetch = Some(trouble);
    }

    /// Takes a sample each second, for ever. Page and control socket both want that: the second one waits, and goes on when the
    /// first one has ended.
    pub(super) async fn sample(&self, node: &Node, padding: &PaddingStats) {
        let _alone = self.sampler.lock().await;
        let mut seconds = interval(SAMPLE_EVERY);
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            seconds.tick().await;
            lock(&self.noted).rates.sample(count(node), &padding.totals());
        }
    }

    /// Everything, with the streams' destinations if they are wanted.
    pub(super) fn report(
        &self,
        view: View,
        node: &Node,
        (class, padding): (Class, PaddingTotals),
        destinations: bool,
    ) -> Report {
        let StreamList { total, shown, .. } = self.streams(destinations);
        let streams = StreamList { total, waiting: view.waiting, held_back: view.held_back, shown };
        let count = count(node);
        let noted = lock(&self.noted);
        let held = node.budget().used_cells() * CELL_LEN;
        let facts = noted.facts(&view, (held, self.memory_budget), padding.refused);
        Report {
            api: API,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: now().saturating_duration_since(self.started).as_secs(),
            bootstrap: bootstrap(&facts),
            network: NetworkReport {
                list: facts.list.label().to_owned(),
                relays: noted.relays,
                valid_until: noted.valid_until.map(|time| time.0),
            },
            ports: noted.ports.clone(),
            traffic: noted.rates.report(count),
            cover: noted.rates.cover(class, &padding),
            circuits: view.circuits,
            streams,
            findings: diagnose(&facts),
            failures: noted.journal.report(now()),
        }
    }

    fn streams(&self, destinations: bool) -> StreamList {
        let streams = lock(&self.streams);
        let shown = streams.iter().take(MAX_STREAMS_SHOWN);
        let shown = shown.map(|(id, entry)| entry.report(*id, destinations)).collect();
        StreamList { total: streams.len(), shown, ..StreamList::default() }
    }
}

impl Noted {
    fn facts(&self, view: &View, memory: (usize, usize), cover_refused: u64) -> Facts {
        let fresh = |at: Instant| now().saturating_duration_since(at) < CLOCK_FRESH;
        let is_past = self.valid_until.is_some_and(|until| until <= unix_now());
        Facts {
            // The clock may have been set since the list was found valid.
            list: if self.list == ListState::Valid && is_past { ListState::Expired } else { self.list },
            fetch: self.fetch.clone(),
            clock_ahead_s: self.clock.filter(|(_, at)| fresh(*at)).map(|(ahead, _)| ahead),
            guard_reached: self.guard_reached,
            was_ready: view.was_ready,
            open_circuits: view.open,
            failing: view.failing,
            failing_hop: view.failing_hop,
            holding_back: view.holding_back,
            ports: self.ports.clone(),
            leaks: self.leaks.iter().map(|port| port.map_or(Leak::BareAddress, Leak::Port)).collect(),
            memory,
            cover_refused,
        }
    }
}

impl Entry {
    fn report(&self, id: u64, destinations: bool) -> StreamReport {
        let meter = self.on.as_ref().and_then(|(_, meter)| meter.as_ref());
        let StreamTotals { sent, received } = meter.and_then(StreamMeter::totals).unwrap_or_default();
        StreamReport {
            id,
            kind: self.kind.label().to_owned(),
            circuit: self.on.as_ref().map(|(circuit, _)| circuit.0),
            age_s: now().saturating_duration_since(self.since).as_secs(),
            sent_bytes: sent,
            received_bytes: received,
            destination: self.destination.as_ref().filter(|_| destinations).map(|target| match target {
                Target::Addr(address) => address.to_string(),
                Target::Name(name, port) => format!("{name}:{port}"),
            }),
        }
    }
}

fn count(node: &Node) -> CellCount {
    let (received, sent) = node.totals().cells();
    CellCount { sent, received }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
