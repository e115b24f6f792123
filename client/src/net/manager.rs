//! The task that owns the circuits: it does what the pool decides, with paths from the planner, and tells both what
//! became of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tunic_net::channel::{Circuit, CircuitStatus, Node};
use tunic_net::daemon::{RunOptions, Status, unix_now};
use tunic_proto::ids::RelayId;
use tunic_proto::message::DestroyReason;

use super::build::{Built, build};
use super::monitor::Monitor;
use super::probe::{Doubt, Health, Suspect};
use super::state::Writer;
use super::view::View;
use super::{new_rng, now};
use crate::core::network::Network;
use crate::core::path::{Hop, Path};
use crate::core::planner::Planner;
use crate::core::pool::{Build, BuildFailure, CircuitId, Output, Pool, Want, WantId};
use crate::core::status::diagnose::{self, HopStreak};
use crate::core::status::journal::Mishap;

/// Requests that wait for the manager; whoever has one more waits for room.
const MAX_QUEUED: usize = 256;

/// A circuit for a stream, and its relays.
pub(super) struct Lease {
    pub(super) id: CircuitId,
    pub(super) circuit: Circuit,
    pub(super) path: Arc<Path>,
}

type Answer = oneshot::Sender<Result<Lease, BuildFailure>>;

enum Command {
    Want(Want, Answer),
    Retire(CircuitId),
    Suspect(CircuitId, oneshot::Sender<Health>),
    StartOver(oneshot::Sender<usize>),
    Look(oneshot::Sender<View>),
    Network(Arc<Network>),
    NetworkExpired,
    DirectoryCache(oneshot::Sender<Option<Hop>>),
}

/// Asks the manager. It is gone when the client was shut down.
#[derive(Clone)]
pub(super) struct ManagerHandle {
    queue: mpsc::Sender<Command>,
    /// How many identities there were before this one.
    identity: watch::Sender<u64>,
}

impl ManagerHandle {
    /// A circuit for this want; `None` if the client was shut down.
    pub(super) async fn want(&self, want: Want) -> Option<Result<Lease, BuildFailure>> {
        let (answer, receiver) = oneshot::channel();
        self.queue.send(Command::Want(want, answer)).await.ok()?;
        receiver.await.ok()
    }

    /// No new streams for this circuit.
    pub(super) async fn retire(&self, id: CircuitId) {
        let _ = self.queue.send(Command::Retire(id)).await;
    }

    /// A stream waits for its answer: whether anything still comes over its circuit. If not, the circuit gets no new streams,
    /// also if nobody waits for this answer any longer.
    pub(super) async fn health(&self, id: CircuitId) -> Health {
        let (answer, receiver) = oneshot::channel();
        let _ = self.queue.send(Command::Suspect(id, answer)).await;
        receiver.await.unwrap_or(Health::Answers)
    }

    /// Ends every circuit and begins anew; returns how many there were.
    pub(super) async fn start_over(&self) -> usize {
        self.identity.send_modify(|number| *number += 1);
        let (answer, receiver) = oneshot::channel();
        let _ = self.queue.send(Command::StartOver(answer)).await;
        receiver.await.unwrap_or(0)
    }

    /// Changes when a new identity begins: what was begun before it must not go on over its circuits.
    pub(super) fn identity(&self) -> watch::Receiver<u64> {
        self.identity.subscribe()
    }

    /// How the circuits are; `None` if the client was shut down.
    pub(super) async fn look(&self) -> Option<View> {
        let (answer, receiver) = oneshot::channel();
        self.queue.send(Command::Look(answer)).await.ok()?;
        receiver.await.ok()
    }

    pub(super) async fn set_network(&self, network: Arc<Network>) {
        let _ = self.queue.send(Command::Network(network)).await;
    }

    /// The consensus is past its lifetime.
    pub(super) async fn network_expired(&self) {
        let _ = self.queue.send(Command::NetworkExpired).await;
    }

    /// A relay to fetch the consensus from.
    pub(super) async fn directory_cache(&self) -> Option<Hop> {
        let (answer, receiver) = oneshot::channel();
        self.queue.send(Command::DirectoryCache(answer)).await.ok()?;
        receiver.await.ok()?
    }
}

pub(super) enum Event {
    Built(CircuitId, Result<Built, BuildFailure>),
    Closed(CircuitId),
    /// Whether the circuit answered.
    Probed(CircuitId, bool),
    /// Whether the guard did, if that is known.
    GuardAsked(RelayId, Option<bool>),
}

pub(super) struct Building {
    pub(super) task: AbortHandle,
    pub(super) path: Arc<Path>,
    pub(super) since: Instant,
    /// How long it may take.
    pub(super) limit: Duration,
    /// Whether the channel to the guard is open.
    pub(super) reached: Arc<AtomicBool>,
    /// Whether the guard was asked because it takes long.
    pub(super) doubted: bool,
}

pub(super) struct Live {
    pub(super) circuit: Circuit,
    pub(super) path: Arc<Path>,
    watcher: AbortHandle,
    pub(super) since: Instant,
}

pub(super) struct Manager {
    pub(super) node: Node,
    writer: Writer,
    options: RunOptions,
    pub(super) monitor: Arc<Monitor>,
    pub(super) streak: HopStreak,
    rng: StdRng,
    pub(super) pool: Pool,
    pub(super) planner: Planner,
    network: Option<Arc<Network>>,
    queue: mpsc::Receiver<Command>,
    answers: HashMap<WantId, Answer>,
    pub(super) building: HashMap<CircuitId, Building>,
    pub(super) live: HashMap<CircuitId, Live>,
    /// Circuits that are being asked whether they answer.
    pub(super) suspects: HashMap<CircuitId, Suspect>,
    /// Guards that are; those of suspects and of builds.
    pub(super) doubts: HashMap<RelayId, Doubt>,
    pub(super) tasks: JoinSet<Event>,
    pub(super) was_ready: bool,
}

impl Manager {
    pub(super) fn new(
        node: Node,
        (writer, options, monitor): (Writer, RunOptions, Arc<Monitor>),
        planner: Planner,
        pool: Pool,
    ) -> (Self, ManagerHandle) {
        let (sender, queue) = mpsc::channel(MAX_QUEUED);
        let manager = Manager {
            node,
            writer,
            options,
            monitor,
            streak: HopStreak::default(),
            rng: new_rng(),
            pool,
            planner,
            network: None,
            queue,
            answers: HashMap::new(),
            building: HashMap::new(),
            live: HashMap::new(),
            suspects: HashMap::new(),
            doubts: HashMap::new(),
            tasks: JoinSet::new(),
            was_ready: false,
        };
        (manager, ManagerHandle { queue: sender, identity: watch::Sender::new(0) })
    }

    /// Runs until nobody can ask any more.
    pub(super) async fn run(mut self) {
        loop {
            self.settle();
            let wake_at = self.pool.poll_timeout();
            let sleep = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = self.queue.recv() => match command {
                    Some(command) => self.handle_queued(command),
                    None => return,
                },
                Some(event) = self.tasks.join_next() => self.finish(event),
                () = sleep => {}
            }
        }
    }

    /// Lets the pool decide until it has nothing more to say.
    fn settle(&mut self) {
        let (answers, pool) = (&mut self.answers, &mut self.pool);
        answers.retain(|want, answer| {
            let gone = answer.is_closed();
            if gone {
                pool.forget(*want);
            }
            !gone
        });
        self.doubt_slow_builds();
        loop {
            let live = &self.live;
            let load = |id: CircuitId| live.get(&id).map_or(0, |live| live.circuit.stream_count());
            self.pool.settle(now(), &load);
            let outputs: Vec<Output> = std::iter::from_fn(|| self.pool.poll_output()).collect();
            if outputs.is_empty() {
                return;
            }
            outputs.into_iter().for_each(|output| self.perform(output));
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Build(build) => self.start(&build),
            Output::Use(want, id) => self.lease(want, id),
            Output::Refuse(want, failure) => self.answer(want, Err(failure)),
            Output::Close(id) => self.forget(id),
        }
    }

    /// All that wait at once: the pool then decides about them together, and fairly.
    fn handle_queued(&mut self, first: Command) {
        self.handle(first);
        for _ in 0..MAX_QUEUED {
            let Ok(command) = self.queue.try_recv() else { return };
            self.handle(command);
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Want(want, answer) => {
                let id = self.pool.want(want, now());
                self.answers.insert(id, answer);
            }
            Command::Retire(id) => self.pool.retire(id),
            Command::Suspect(id, answer) => self.suspect(id, answer),
            Command::StartOver(answer) => {
                let _ = answer.send(self.start_over());
            }
            Command::Look(answer) => {
                let _ = answer.send(self.look());
            }
            Command::Network(network) => self.set_network(network),
            Command::NetworkExpired => self.pool.network_expired(),
            Command::DirectoryCache(answer) => {
                let _ = answer.send(self.directory_cache());
            }
        }
    }

    fn start_over(&mut self) -> usize {
        self.pool.start_over();
        for (_, building) in self.building.drain() {
            building.task.abort();
        }
        let ended = self.live.len();
        for (_, live) in self.live.drain() {
            live.watcher.abort();
            live.circuit.end();
        }
        ended
    }

    fn set_network(&mut self, network: Arc<Network>) {
        if self.planner.set_network(network.clone(), unix_now(), &mut self.rng) {
            self.store_guards();
        }
        for (id, live) in &self.live {
            if live.path.hops.iter().any(|hop| network.relay(hop.id).is_none()) {
                self.pool.retire(*id);
            }
        }
        self.network = Some(network);
        self.pool.network_changed();
    }

    fn directory_cache(&self) -> Option<Hop> {
        let id = self.planner.directory_cache(now())?;
        self.network.as_ref()?.relay(id).map(Hop::from)
    }

    fn start(&mut self, wanted: &Build) {
        match self.planner.plan(wanted, now(), &mut self.rng) {
            Ok(path) => {
                self.planner.begun(&path, now());
                let path = Arc::new(path);
                let (limit, reached) = (self.planner.build_timeout(), Arc::<AtomicBool>::default());
                let (node, monitor) = (self.node.clone(), self.monitor.clone());
                let (id, work) = (wanted.circuit, build(node, path.clone(), limit, monitor, reached.clone()));
                let task = self.tasks.spawn(async move { Event::Built(id, work.await) });
                let building = Building { task, path, since: wanted.started, limit, reached, doubted: false };
                self.building.insert(id, building);
            }
            Err(error) => self.failed(wanted.circuit, error.into(), None),
        }
    }

    fn lease(&mut self, want: WantId, id: CircuitId) {
        let lost = BuildFailure::Hop { hop: 0, reason: DestroyReason::ChannelLost };
        let lease = self.live.get(&id).map(|live| Lease {
            id,
            circuit: live.circuit.clone(),
            path: live.path.clone(),
        });
        self.answer(want, lease.ok_or(lost));
    }

    fn answer(&mut self, want: WantId, result: Result<Lease, BuildFailure>) {
        if let Some(answer) = self.answers.remove(&want) {
            // Whoever asked may have gone away.
            let _ = answer.send(result);
        }
    }

    fn forget(&mut self, id: CircuitId) {
        if let Some(live) = self.live.remove(&id) {
            live.watcher.abort();
            // Somebody may have been given it in this moment, and would keep it where nobody sees it.
            live.circuit.end();
        }
    }

    pub(super) fn finish(&mut self, event: Result<Event, JoinError>) {
        match event {
            Ok(Event::Built(id, Ok(built))) => self.built(id, built),
            Ok(Event::Built(id, Err(failure))) => self.not_built(id, failure),
            Ok(Event::Closed(id)) => {
                self.pool.closed(id);
                self.live.remove(&id);
            }
            Ok(Event::Probed(id, answered)) => self.probed(id, answered),
            Ok(Event::GuardAsked(guard, answered)) => self.guard_asked(guard, answered),
            Err(error) => {
                if error.is_panic() {
                    self.crashed(&error);
                }
                self.probe_lost(error.id());
            }
        }
    }

    fn built(&mut self, id: CircuitId, Built { circuit, took }: Built) {
        let Some(Building { path, since, .. }) = self.building.remove(&id) else { return };
        self.streak.succeeded();
        if self.planner.built(&path, took, unix_now(), &mut self.rng) {
            self.store_guards();
        }
        self.pool.built(id, &path);
        self.granted(&path);
        let watched = circuit.clone();
        let watcher = self.tasks.spawn(async move {
            match watched.closed().await {
                CircuitStatus::Tampered(hop) => tracing::warn!(
                    circuit = id.0,
                    "somebody changed what came back through hop {} or from behind it; the circuit was ended",
                    hop + 1
                ),
                ended => tracing::debug!(circuit = id.0, ?ended, "circuit ended"),
            }
            Event::Closed(id)
        });
        self.live.insert(id, Live { circuit, path, watcher, since });
        tracing::debug!(circuit = id.0, ?took, "circuit built");
        if !self.was_ready {
            self.was_ready = true;
            tracing::info!("ready: the first circuit through three relays is built");
            self.options.tell(Status::CircuitReady);
        }
    }

    fn not_built(&mut self, id: CircuitId, failure: BuildFailure) {
        let Some(Building { path, since, limit, .. }) = self.building.remove(&id) else { return };
        if failure == BuildFailure::TooSlow {
            self.planner.gave_up(limit);
            self.doubt_guard(&path, since);
        } else {
            self.planner.failed(&path, failure, now());
        }
        self.failed(id, failure, Some(&path));
    }

    fn failed(&mut self, id: CircuitId, failure: BuildFailure, path: Option<&Path>) {
        tracing::debug!(circuit = id.0, %failure, "circuit not built");
        self.streak.failed(failure);
        self.monitor.note(Mishap::not_built(failure, path));
        self.pool.failed(id, failure, now());
        let failures = self.pool.failures_in_a_row();
        if failures >= 4 && failures.is_power_of_two() {
            tracing::warn!(failures, "no circuit could be built: {failure}. {}", diagnose::advice(failure));
        }
    }

    /// A task that crashed must not hold one of the places for builds for ever.
    fn crashed(&mut self, error: &JoinError) {
        tracing::error!("a circuit task crashed; please report this");
        let of_build = self.building.iter().find(|(_, building)| building.task.id() == error.id());
        if let Some(id) = of_build.map(|(id, _)| *id) {
            self.building.remove(&id);
            self.failed(id, BuildFailure::TooSlow, None);
        }
        let of_live = self.live.iter().find(|(_, live)| live.watcher.id() == error.id());
        if let Some(id) = of_live.map(|(id, _)| *id) {
            self.pool.closed(id);
            self.live.remove(&id);
        }
    }

    fn store_guards(&self) {
        self.writer.guards(self.planner.guards().to_json());
    }

    /// One that knows no network and stores nothing.
    #[cfg(test)]
    pub(super) fn for_testing() -> Manager {
        const BUDGET: usize = 64 << 20;
        let config = tunic_net::channel::NodeConfig { signer: None, responder: None, memory_budget: BUDGET };
        let parts = (Writer::to_nowhere(), RunOptions::default(), Monitor::new(BUDGET));
        let planner = Planner::new(Default::default(), Default::default());
        let pool = Pool::new(0, crate::core::pool::BUILD_RATE);
        Manager::new(Node::new(config).unwrap(), parts, planner, pool).0
    }
}
