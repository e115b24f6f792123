//! The circuit pool's decisions: which stream goes over which circuit, what to build ahead, what to close.
//!
//! 1. A **want** (isolation, target) takes a circuit of its isolation whose exit lets the target through; else a spare
//!    one, which then belongs to that isolation; else it waits for a circuit that is being built.
//! 2. **Spares** are kept ready: two, and one more for each that was taken in the last minute, for the ports that were
//!    wanted in the last hour.
//!    Where cells go at a constant rate, a spare that was taken is made up for some seconds later only: its handshakes would
//!    keep the first request of whoever took it waiting.
//! 3. Ten minutes after its first use a circuit is **dirty** and gets no new streams; without streams it is closed.
//! 4. Failed builds are repeated, after the third in a row with growing pauses, until the want's time is over.
//! 5. Builds begin at a rate, with a burst, whatever applications ask for: each circuit is one more chance for a hostile relay
//!    to be next to the guard. Wants beyond it wait, and are counted; a build for which nothing was sent does not count.
//! 6. Where there are too few circuits, the application that got the fewest in the last minute comes first.
//!
//! Call [`Pool::settle`] after every input, then [`Pool::poll_output`] until it has none, and again at
//! [`Pool::poll_timeout`].

mod circuit;
mod shares;
mod table;
mod types;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use tunic_proto::ids::RelayId;
use tunic_proto::limits::{Pace, Rate};
use tunic_proto::message::DestroyReason;

use self::circuit::Waiting;
use self::shares::Shares;
use self::table::Table;
pub use self::types::{Build, BuildFailure, CircuitId, Output, Standing, Want, WantId};
use super::path::{Need, Path, PathError};

/// Wants that wait at a time; more are refused.
pub const MAX_WANTS: usize = 4_096;
/// Circuits at a time, those being built included; beyond it an idle one is closed for each new one.
pub const MAX_CIRCUITS: usize = 1_024;
/// Circuits being built at a time, without those that are slow.
pub const MAX_BUILDS: usize = 8;
/// The slow ones included.
pub const MAX_BUILDS_WITH_SLOW: usize = 4 * MAX_BUILDS;
/// Circuits that are begun. The burst is for a page of many sites or a program with an identity for each of fifty tasks, and
/// the spares that are made up for. Below what a relay grants an address with several channels, lest it refuses all of them for
/// an hour (docs/protocol.md §12).
pub const BUILD_RATE: Rate = Rate { per_second: 2, burst: 80 };
/// A circuit that is being built for so long keeps nobody from having another one begun: perhaps one of its relays stands
/// still, and that blames none of them.
pub const SLOW_BUILD: Duration = Duration::from_secs(6);
/// Spare circuits at a time.
pub const MAX_SPARES: usize = 16;
/// New streams go to another circuit from this on; the protocol's limit is 1,024 (docs/protocol.md §6.6).
pub const MAX_STREAMS: usize = 1_000;
/// How long a want waits for a circuit.
pub const WANT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long after its first use a circuit takes new streams.
pub const DIRTY_AFTER: Duration = Duration::from_secs(600);
/// How long after a spare circuit was taken another one is begun, at a constant rate: until a page has come, as a rule.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// How long a spare circuit is kept.
pub const SPARE_LIFETIME: Duration = Duration::from_secs(3_600);
/// How often it is looked whether a circuit that gets no new streams is idle: so long may one stay after its last stream.
const IDLE_CHECK: Duration = Duration::from_secs(10);
const DEMAND_WINDOW: Duration = Duration::from_secs(60);
const PORT_MEMORY: Duration = Duration::from_secs(3_600);
const MAX_PORTS: usize = 8;
/// What is expected before anything was wanted: the web.
const FIRST_PORT: u16 = 443;
const FREE_FAILURES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The pool.
pub struct Pool {
    spares: usize,
    rate: Rate,
    patience: Duration,
    network_known: bool,
    circuits: Table,
    shares: Shares,
    wants: BTreeMap<WantId, Waiting>,
    outputs: VecDeque<Output>,
    /// When spares were taken, the last [`MAX_SPARES`].
    taken: VecDeque<Instant>,
    /// Ports and when they were last wanted, the last [`MAX_PORTS`].
    ports: VecDeque<(u16, Instant)>,
    failures_in_a_row: u32,
    /// When one was counted last: builds that had begun by then do not count again.
    failed_at: Option<Instant>,
    last_failure: BuildFailure,
    /// Whether builds were given up since one succeeded, because their guard does not answer.
    guard_silent: bool,
    pause_until: Option<Instant>,
    pace: Pace,
    /// Wants that waited because of the pace.
    held_back: u64,
    next_id: u64,
    next_timeout: Option<Instant>,
}

/// Streams of a circuit right now.
pub type Load<'a> = &'a dyn Fn(CircuitId) -> usize;

impl Pool {
    /// An empty pool that keeps at least so many spare circuits, at most [`MAX_SPARES`], and begins circuits at this rate.
    pub fn new(spares: usize, rate: Rate) -> Self {
        Pool {
            spares: spares.min(MAX_SPARES),
            rate,
            patience: Duration::ZERO,
            network_known: false,
            circuits: Table::default(),
            shares: Shares::default(),
            wants: BTreeMap::new(),
            outputs: VecDeque::new(),
            taken: VecDeque::new(),
            ports: VecDeque::new(),
            failures_in_a_row: 0,
            failed_at: None,
            last_failure: PathError::NoConsensus.into(),
            guard_silent: false,
            pause_until: None,
            pace: Pace::default(),
            held_back: 0,
            next_id: 0,
            next_timeout: None,
        }
    }

    /// Makes up for spares so long after they were taken: [`PATIENCE`], as a rule.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Pool { patience, ..self }
    }

    /// The relays are known, or known anew: builds begin, without waiting for a pause to end.
    pub fn network_changed(&mut self) {
        self.network_known = true;
        self.last_failure = BuildFailure::TooSlow;
        self.pause_until = None;
    }

    /// The consensus is past its lifetime: nothing is built with it any more. Circuits that are there go on.
    pub fn network_expired(&mut self) {
        self.network_known = false;
        self.last_failure = PathError::NoConsensus.into();
    }

    /// A stream looks for a circuit. The answer is [`Output::Use`] or [`Output::Refuse`].
    pub fn want(&mut self, want: Want, now: Instant) -> WantId {
        let id = WantId(self.fresh_id());
        if let Some(port) = want.need.port() {
            self.remember_port(port, now);
        }
        if self.wants.len() >= MAX_WANTS {
            self.outputs.push_back(Output::Refuse(id, BuildFailure::Busy));
        } else {
            let application = self.shares.application(&want.isolation);
            let deadline = now + WANT_TIMEOUT;
            self.wants.insert(id, Waiting { want, application, since: now, deadline, held: false });
        }
        id
    }

    /// The circuit is built, over this path.
    pub fn built(&mut self, id: CircuitId, path: &Path) {
        self.failures_in_a_row = 0;
        self.guard_silent = false;
        self.pause_until = None;
        let Some(exit) = path.exit() else { return };
        if let Some(Build { started, .. }) = self.circuits.end_build(id) {
            self.circuits.add(id, exit, path.exit_policy.clone(), started);
        }
    }

    /// The circuit could not be built. A want that no exit lets through is refused at once; others go on waiting.
    pub fn failed(&mut self, id: CircuitId, failure: BuildFailure, now: Instant) {
        let Some(build) = self.circuits.end_build(id) else { return };
        if let BuildFailure::Path(_) = failure {
            // Nothing was sent.
            self.pace.give_back(self.rate);
        }
        if let BuildFailure::Path(PathError::NoExitForPort(_) | PathError::NoExit) = failure
            && let Some(want) = build.for_want
        {
            if self.wants.remove(&want).is_some() {
                self.outputs.push_back(Output::Refuse(want, failure));
            }
            return;
        }
        self.last_failure = failure;
        if self.failed_at.is_none_or(|counted| counted <= build.started) {
            self.pause(now);
        }
    }

    /// A guard stands still, and builds over it were given up. Others are begun without a pause, but whoever gets no circuit
    /// in time is told why.
    pub fn guard_fell_silent(&mut self) {
        self.last_failure = BuildFailure::Hop { hop: 0, reason: DestroyReason::Timeout };
        self.guard_silent = true;
    }

    /// The circuit has ended, or is being built no more.
    pub fn closed(&mut self, id: CircuitId) {
        self.circuits.remove(id);
    }

    /// The circuit gets no new streams, and is closed when it is idle.
    pub fn retire(&mut self, id: CircuitId) {
        self.circuits.retire(id);
    }

    /// Nobody waits for this want any more.
    pub fn forget(&mut self, want: WantId) {
        self.wants.remove(&want);
    }

    /// Forgets every circuit, spares and those being built included, and what was learned of demand. Wants that wait go on
    /// waiting, for circuits that are begun from now on. The caller ends what it has.
    pub fn start_over(&mut self) {
        self.circuits = Table::default();
        self.shares.clear();
        self.outputs.retain(|output| matches!(output, Output::Refuse(..)));
        self.taken.clear();
        self.ports.clear();
    }

    /// What the circuit is used for; `None` if there is no such circuit.
    pub fn standing(&self, id: CircuitId, now: Instant) -> Option<Standing> {
        self.circuits.standing(id, now)
    }

    /// Why the last build failed.
    pub fn last_failure(&self) -> BuildFailure {
        self.last_failure
    }

    /// Wants that wait for a circuit.
    pub fn waiting(&self) -> usize {
        self.wants.len()
    }

    /// Wants that have waited because circuits are begun at a rate only.
    pub fn held_back(&self) -> u64 {
        self.held_back
    }

    /// Whether such wants wait now.
    pub fn is_holding_back(&self, now: Instant) -> bool {
        self.wants.values().any(|waiting| waiting.held) && !self.pace.has_room(self.rate, now)
    }

    /// Builds that failed since one succeeded, those that failed together counted once.
    pub fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row
    }

    /// Draws the conclusions of all inputs so far and of the time.
    pub fn settle(&mut self, now: Instant, load: Load<'_>) {
        self.expire(now, load);
        let waiting = self.serve(now, load);
        if self.network_known && self.pause_until.is_none_or(|until| until <= now) {
            self.build_for_wants(waiting, now, load);
            self.build_spares(now, load);
        }
        self.next_timeout = self.earliest_timeout(now);
    }

    /// What to do next; `None`: nothing.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Pool::settle`] again if nothing happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_timeout
    }

    fn expire(&mut self, now: Instant, load: Load<'_>) {
        // Those that have waited the longest come first.
        while let Some(oldest) = self.wants.first_entry()
            && oldest.get().deadline <= now
        {
            let (id, Waiting { held, .. }) = oldest.remove_entry();
            // Where nothing has failed, others were before it.
            let has_failed = self.failures_in_a_row > 0 || self.guard_silent;
            let why = if held && !has_failed { BuildFailure::Busy } else { self.last_failure };
            self.outputs.push_back(Output::Refuse(id, why));
        }
        self.circuits.ended(now, load).into_iter().for_each(|id| self.close(id));
        self.shares.expire(now);
        while self.taken.front().is_some_and(|taken| *taken + DEMAND_WINDOW <= now) {
            self.taken.pop_front();
        }
        self.ports.retain(|(_, wanted)| now < *wanted + PORT_MEMORY);
    }

    /// Gives circuits to those for whom there are some. The others, in turn.
    fn serve(&mut self, now: Instant, load: Load<'_>) -> Vec<WantId> {
        // Streams that were given a circuit in this round do not show yet.
        let mut given: BTreeMap<CircuitId, usize> = BTreeMap::new();
        let mut unserved = Vec::new();
        let waiting = self.wants.iter().map(|(id, waiting)| (*id, waiting.application));
        for id in self.shares.in_turn(waiting) {
            let load = |circuit| load(circuit) + given.get(&circuit).copied().unwrap_or(0);
            let offered = self.wants.get(&id).and_then(|waiting| self.circuits.offer(waiting, now, &load));
            if let Some(circuit) = offered {
                *given.entry(circuit).or_default() += 1;
                self.hand_over(id, circuit, now);
            } else {
                unserved.push(id);
            }
        }
        unserved
    }

    fn hand_over(&mut self, id: WantId, circuit: CircuitId, now: Instant) {
        let Some(Waiting { want, application, .. }) = self.wants.remove(&id) else { return };
        if self.circuits.assign(circuit, &want.isolation, now) {
            self.shares.given(application, now);
            if self.taken.len() == MAX_SPARES {
                self.taken.pop_front();
            }
            self.taken.push_back(now);
        }
        self.outputs.push_back(Output::Use(id, circuit));
    }

    /// Starts a circuit for each of these wants, in this order, that none of the circuits being built will serve. A circuit
    /// being built serves all wants of one isolation and port; from [`SLOW_BUILD`] on nobody counts on it, though it still
    /// serves whom it can once it is built.
    fn build_for_wants(&mut self, waiting: Vec<WantId>, now: Instant, load: Load<'_>) {
        // With the last want that counts on it.
        let brisk = self.circuits.building().filter(|build| !is_slow(build, now));
        let mut builds: Vec<(CircuitId, Option<WantId>)> = brisk.map(|build| (build.circuit, None)).collect();
        let mut has_room = true;
        for id in waiting {
            let Some(waiting) = self.wants.get(&id) else { continue };
            let will_serve = |(circuit, promised): &&mut (CircuitId, Option<WantId>)| {
                let other = promised.and_then(|other| self.wants.get(&other));
                self.circuits.build(*circuit).is_some_and(|build| build.may_serve(waiting))
                    && other.is_none_or(|other| other.want.isolation == waiting.want.isolation)
            };
            if let Some((_, promised)) = builds.iter_mut().find(will_serve) {
                *promised = Some(id);
            } else if !self.pace.has_room(self.rate, now) {
                self.hold_back(id);
            } else if has_room {
                let Want { need, not_exits, .. } = waiting.want.clone();
                let started = self.start(need, not_exits, Some(id), now, load);
                has_room = started.is_some();
                builds.extend(started.map(|circuit| (circuit, Some(id))));
            }
        }
    }

    /// Each want is counted once.
    fn hold_back(&mut self, id: WantId) {
        if let Some(waiting) = self.wants.get_mut(&id) {
            self.held_back += u64::from(!waiting.held);
            waiting.held = true;
        }
    }

    fn build_spares(&mut self, now: Instant, load: Load<'_>) {
        let ready = self.circuits.spares().count();
        let mut missing = self.spare_target(now).saturating_sub(ready + self.spares_being_built());
        while missing > 0 {
            let need = Need::Port(self.least_covered_port());
            if self.start(need, Vec::new(), None, now, load).is_none() {
                return;
            }
            missing -= 1;
        }
    }

    fn spare_target(&self, now: Instant) -> usize {
        let lately = self.taken_lately(now).count();
        (self.spares + self.taken.len() - lately).min(MAX_SPARES).saturating_sub(lately)
    }

    /// When those spares were taken that are not made up for yet.
    fn taken_lately(&self, now: Instant) -> impl Iterator<Item = Instant> {
        self.taken.iter().copied().filter(move |taken| now < *taken + self.patience)
    }

    fn spares_being_built(&self) -> usize {
        self.circuits.building().filter(|build| build.for_want.is_none()).count()
    }

    /// Of the expected ports the one that the fewest spares are good for.
    fn least_covered_port(&self) -> u16 {
        let covered = |port: u16| {
            let need = Need::Port(port);
            let ready = self.circuits.spares().filter(|circuit| need.met_by(&circuit.policy)).count();
            let building = self.circuits.building();
            ready + building.filter(|build| build.for_want.is_none() && build.need == need).count()
        };
        let ports = self.ports.iter().rev().map(|(port, _)| *port);
        ports.min_by_key(|port| covered(*port)).unwrap_or(FIRST_PORT)
    }

    fn start(
        &mut self,
        need: Need,
        not_exits: Vec<RelayId>,
        for_want: Option<WantId>,
        now: Instant,
        load: Load<'_>,
    ) -> Option<CircuitId> {
        let brisk = self.circuits.building().filter(|build| !is_slow(build, now)).count();
        let has_place = brisk < MAX_BUILDS && self.circuits.building().count() < MAX_BUILDS_WITH_SLOW;
        if !has_place || !self.pace.has_room(self.rate, now) || !self.make_room(now, load) {
            return None;
        }
        self.pace.take(self.rate, now);
        let circuit = CircuitId(self.fresh_id());
        let build = Build { circuit, need, not_exits, for_want, started: now };
        self.circuits.begin(build.clone());
        self.outputs.push_back(Output::Build(build));
        Some(circuit)
    }

    /// Whether there is room for one more circuit, after closing the idle one that was used the longest ago if need be.
    fn make_room(&mut self, now: Instant, load: Load<'_>) -> bool {
        if self.circuits.len() < MAX_CIRCUITS {
            return true;
        }
        let least_needed = self.circuits.least_needed(now, load);
        least_needed.map(|id| self.close(id)).is_some()
    }

    fn close(&mut self, id: CircuitId) {
        self.circuits.remove(id);
        self.outputs.push_back(Output::Close(id));
    }

    /// After a few failures in a row, waits longer after each.
    fn pause(&mut self, now: Instant) {
        self.failed_at = Some(now);
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        if let Some(doublings) = self.failures_in_a_row.checked_sub(FREE_FAILURES) {
            let pause = FIRST_PAUSE.saturating_mul(1 << doublings.min(16)).min(MAX_PAUSE);
            self.pause_until = Some(now + pause);
        }
    }

    fn remember_port(&mut self, port: u16, now: Instant) {
        self.ports.retain(|(known, _)| *known != port);
        if self.ports.len() == MAX_PORTS {
            self.ports.pop_front();
        }
        self.ports.push_back((port, now));
    }

    fn earliest_timeout(&self, now: Instant) -> Option<Instant> {
        let want = self.wants.values().next().map(|waiting| waiting.deadline);
        let pause = self.pause_until.filter(|until| now < *until);
        let paced = self.pace.room_at(self.rate, now);
        let slow = self.circuits.building().filter(|build| !self.wants.is_empty() && !is_slow(build, now));
        let slow = slow.map(|build| build.started + SLOW_BUILD);
        let patient = self.taken_lately(now).map(|taken| taken + self.patience);
        let one = [want, self.circuits.next_end(), pause, paced];
        one.into_iter().flatten().chain(slow).chain(patient).min()
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

fn is_slow(build: &Build, now: Instant) -> bool {
    now >= build.started + SLOW_BUILD
}

#[cfg(test)]
mod tests;
