//! The event loop: nodes, connections and applications on one clock.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::Context;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;
use tunic_proto::cell::{CELL_LEN, Cell};
use tunic_proto::channel::handshake::{Handshake, Local, Step};
use tunic_proto::channel::{Channel, Event, ExtendJob, Role};
use tunic_proto::circuit::{CircuitHandle, CircuitStatus, HopSpec};
use tunic_proto::counters::{Counters, Incident};
use tunic_proto::crypto::handshake::{HopKeys, REPLY_LEN, REQUEST_LEN};
use tunic_proto::dir::Request;
use tunic_proto::keys::Signer;
use tunic_proto::message::{DestroyReason, Target};
use tunic_proto::time::UnixTime;

use super::apps::{self, App, Next, Report, Transfer};
use super::dirs::{Answer, Ask, DirService, Serve, Ticket};
use super::link::{Closed, End, EndId, LinkSpec, State, Tamper};
use super::node::{EPOCH, Node, NodeId, Reach};
use super::ready::{Ready, Task};

/// Steps without a moment passing, after which the world is thought to turn in circles.
const MAX_STEPS: usize = 10_000_000;
/// Bytes that a node's queues may hold unless the test says otherwise.
const BUDGET: usize = 64 << 20;

enum Happening {
    Deliver(EndId, Vec<u8>),
    Lost(EndId),
    Wake(Task),
    DialFailed(ExtendJob),
}

struct Timed {
    at: Duration,
    order: u64,
    what: Happening,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A network in memory.
pub struct World {
    origin: Instant,
    now: Duration,
    rng: ChaCha20Rng,
    /// For connections that relays open by themselves.
    pub default_link: LinkSpec,
    nodes: Vec<Node>,
    /// Kept for directory requests.
    circuits: HashMap<(NodeId, NodeId), Rc<CircuitHandle>>,
    ends: Vec<End>,
    apps: Vec<Option<Box<dyn App>>>,
    ready: Ready,
    future: BinaryHeap<Reverse<Timed>>,
    order: u64,
    trace: DefaultHasher,
    buffer: Vec<u8>,
}

impl World {
    /// An empty world in which whatever is random follows from the seed.
    pub fn new(seed: u64) -> World {
        #[expect(
            clippy::disallowed_methods,
            reason = "Instant has no other origin; only differences to it are used"
        )]
        let origin = Instant::now();
        World {
            origin,
            now: Duration::ZERO,
            rng: ChaCha20Rng::seed_from_u64(seed),
            default_link: LinkSpec::delay_ms(5),
            nodes: Vec::new(),
            circuits: HashMap::new(),
            ends: Vec::new(),
            apps: Vec::new(),
            ready: Ready::default(),
            future: BinaryHeap::new(),
            order: 0,
            trace: DefaultHasher::new(),
            buffer: Vec::new(),
        }
    }

    /// Adds a relay.
    pub fn relay(&mut self) -> NodeId {
        self.relay_with_budget(BUDGET)
    }

    /// Adds a relay whose queues may hold so many bytes.
    pub fn relay_with_budget(&mut self, bytes: usize) -> NodeId {
        self.add(true, false, bytes)
    }

    /// Adds relays.
    pub fn relays(&mut self, count: usize) -> Vec<NodeId> {
        (0..count).map(|_| self.relay()).collect()
    }

    /// Adds a client.
    pub fn client(&mut self) -> NodeId {
        self.add(false, false, BUDGET)
    }

    /// Adds a client whose cells the test reads and writes itself once its channels are open.
    pub fn raw_client(&mut self) -> NodeId {
        self.add(false, true, BUDGET)
    }

    /// Adds a relay whose cells the test reads and writes itself once its channels are open.
    pub fn raw_relay(&mut self) -> NodeId {
        self.add(true, true, BUDGET)
    }

    fn add(&mut self, is_relay: bool, raw: bool, budget: usize) -> NodeId {
        let rng = ChaCha20Rng::from_rng(&mut self.rng);
        self.nodes.push(Node::new(is_relay, raw, budget, rng));
        NodeId(self.nodes.len() - 1)
    }

    /// How circuits name a relay.
    pub fn hop(&self, node: NodeId) -> HopSpec {
        self.nodes[node.0].hop()
    }

    /// What a node counted.
    pub fn counters(&self, node: NodeId) -> &Counters {
        &self.nodes[node.0].counters
    }

    /// How often a node counted this.
    pub fn count(&self, node: NodeId, incident: Incident) -> u64 {
        self.counters(node).get(incident)
    }

    /// Cells that a node has reserved.
    pub fn used_cells(&self, node: NodeId) -> usize {
        self.nodes[node.0].budget.used_cells()
    }

    /// Sets how a relay looks to those that want to extend to it.
    pub fn set_reach(&mut self, node: NodeId, reach: Reach) {
        self.nodes[node.0].reach = reach;
    }

    /// Sets how many circuits each later channel of a node may have.
    pub fn set_max_circuits(&mut self, node: NodeId, circuits: usize) {
        self.nodes[node.0].max_circuits = circuits;
    }

    /// A generator of its own for the test.
    pub fn fork_rng(&mut self) -> ChaCha20Rng {
        ChaCha20Rng::from_rng(&mut self.rng)
    }

    /// Virtual time since the beginning.
    pub fn now(&self) -> Duration {
        self.now
    }

    fn instant(&self) -> Instant {
        self.origin + self.now
    }

    /// A digest of everything that was delivered so far, and when.
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// Opens a connection; the result is the caller's end.
    pub fn connect(&mut self, from: NodeId, to: NodeId, spec: LinkSpec) -> EndId {
        let mut exporter = [0; 32];
        self.rng.fill_bytes(&mut exporter);
        let end = EndId(self.ends.len());
        let now = UnixTime(EPOCH.0 + self.now.as_secs());
        for (node, role) in [(from, Role::Initiator), (to, Role::Responder)] {
            let signer = self.nodes[node.0].signer.as_deref();
            let local = Local { role, signer, exporter: exporter.into(), now, peer_address: None };
            let expected = (role == Role::Initiator).then(|| self.hop(to).id);
            let (handshake, cells) = Handshake::start(&local, expected);
            self.ends.push(End::new(node, spec, handshake));
            let id = EndId(self.ends.len() - 1);
            self.schedule(spec.delay, Happening::Deliver(id.peer(), cells.concat()));
        }
        end
    }

    /// Opens a connection and waits until both ends are open.
    pub fn open(&mut self, from: NodeId, to: NodeId, spec: LinkSpec) -> EndId {
        let end = self.connect(from, to, spec);
        self.run_until(Duration::from_secs(10), |world| world.is_open(end) && world.is_open(end.peer()));
        end
    }

    /// Whether the channel handshake of this end is done.
    pub fn is_open(&self, end: EndId) -> bool {
        matches!(self.ends[end.0].state, State::Open(_) | State::Raw(_))
    }

    /// Why the connection is no more.
    pub fn closed(&self, end: EndId) -> Option<Closed> {
        match self.ends[end.0].state {
            State::Closed(why) => Some(why),
            _ => None,
        }
    }

    /// The ends of a node's connections, closed ones included.
    pub fn ends_of(&self, node: NodeId) -> Vec<EndId> {
        (0..self.ends.len()).map(EndId).filter(|end| self.ends[end.0].node == node).collect()
    }

    /// The node's end of its open connection to another node.
    pub fn end_between(&self, from: NodeId, to: NodeId) -> Option<EndId> {
        let leads = |end: &EndId| self.ends[end.peer().0].node == to && self.is_open(*end);
        self.ends_of(from).into_iter().find(leads)
    }

    /// The channel at an end.
    pub fn channel(&self, end: EndId) -> Option<&Channel> {
        self.ends[end.0].channel()
    }

    /// Bytes sent from this end.
    pub fn sent(&self, end: EndId) -> u64 {
        self.ends[end.0].sent
    }

    /// Circuits on all channels of a node.
    pub fn circuit_count(&self, node: NodeId) -> usize {
        self.channels(node).map(Channel::circuit_count).sum()
    }

    /// Bytes that queued cells occupy at a node.
    pub fn stored_bytes(&self, node: NodeId) -> usize {
        self.channels(node).map(|channel| channel.inbox().stored_bytes()).sum()
    }

    fn channels(&self, node: NodeId) -> impl Iterator<Item = &Channel> {
        self.ends.iter().filter(move |end| end.node == node).filter_map(End::channel)
    }

    /// What every end that was closed for a violation says about its peer.
    pub fn violations(&self) -> Vec<(EndId, Closed)> {
        let ends = (0..self.ends.len()).map(EndId);
        ends.filter_map(|end| Some((end, self.closed(end)?)))
            .filter(|(_, why)| *why != Closed::Lost)
            .collect()
    }

    /// Changes from now on what leaves this end.
    pub fn tamper(&mut self, end: EndId, tamper: impl FnMut(Cell) -> Vec<Cell> + 'static) {
        self.ends[end.0].tamper = Some(Box::new(tamper) as Tamper);
    }

    /// Lets everything pass unchanged again.
    pub fn stop_tampering(&mut self, end: EndId) {
        self.ends[end.0].tamper = None;
    }

    /// Changes delay and rate of what leaves this end.
    pub fn set_link(&mut self, end: EndId, spec: LinkSpec) {
        self.ends[end.0].spec = spec;
    }

    /// Asks a channel of a client for a circuit.
    pub fn circuit(&mut self, end: EndId, path: &[NodeId]) -> Option<CircuitHandle> {
        let hops = path.iter().map(|node| self.hop(*node)).collect();
        Some(CircuitHandle::create(self.channel(end)?.inbox(), hops))
    }

    /// Builds a circuit and waits for it.
    ///
    /// # Panics
    /// If it does not open: tests that expect a failure use [`World::circuit`].
    pub fn build(&mut self, end: EndId, path: &[NodeId]) -> CircuitHandle {
        let Some(circuit) = self.circuit(end, path) else { panic!("the channel is not open") };
        self.run_until(Duration::from_secs(60), |_| circuit.status() != CircuitStatus::Building);
        assert_eq!(circuit.status(), CircuitStatus::Open);
        circuit
    }

    /// Begins a stream that uploads so many bytes and reads until its end.
    ///
    /// # Errors
    /// Whatever [`CircuitHandle::begin`] says.
    pub fn transfer(
        &mut self,
        circuit: &CircuitHandle,
        target: Option<Target>,
        upload: u64,
    ) -> Result<Arc<Mutex<Report>>, tunic_proto::message::EndReason> {
        let (transfer, report) = Transfer::new(circuit.begin(target)?, upload);
        self.spawn(Box::new(transfer));
        Ok(report)
    }

    /// Answers a node's directory streams like this from now on.
    pub fn serve_directory(&mut self, node: NodeId, service: DirService) {
        self.nodes[node.0].directory = Some(service);
    }

    /// Sends a request to a directory, over a circuit of one hop that is kept.
    pub fn ask(&mut self, from: NodeId, to: NodeId, request: &Request) -> Ticket {
        let ticket = Ticket::default();
        let circuit = self.directory_circuit(from, to);
        let stream = circuit.and_then(|circuit| circuit.begin(None).ok());
        match stream {
            Some(stream) => self.spawn(Box::new(Ask::new(stream, request, ticket.clone()))),
            None => *ticket.borrow_mut() = Answer::Failed,
        }
        ticket
    }

    fn directory_circuit(&mut self, from: NodeId, to: NodeId) -> Option<Rc<CircuitHandle>> {
        let kept = self.circuits.get(&(from, to)).filter(|circuit| circuit.status() == CircuitStatus::Open);
        if let Some(circuit) = kept {
            return Some(circuit.clone());
        }
        if self.is_dead(from) || self.is_dead(to) {
            return None;
        }
        let end = self.open(from, to, self.default_link);
        let circuit = Rc::new(self.build(end, &[to]));
        self.circuits.insert((from, to), circuit.clone());
        Some(circuit)
    }

    /// Whether nobody can reach the node.
    pub fn is_dead(&self, node: NodeId) -> bool {
        self.nodes[node.0].reach == Reach::Unreachable
    }

    /// The signing key of a relay or an authority.
    pub fn signer(&self, node: NodeId) -> Option<Arc<Signer>> {
        self.nodes[node.0].signer.clone()
    }

    /// Lets a paused reader go on.
    pub fn resume(&mut self, report: &Mutex<Report>) {
        apps::lock(report).paused = false;
        (0..self.apps.len()).for_each(|app| self.ready.push(Task::App(app)));
    }

    /// Starts an application.
    pub fn spawn(&mut self, app: Box<dyn App>) {
        self.apps.push(Some(app));
        self.ready.push(Task::App(self.apps.len() - 1));
    }

    /// Applications that have not ended.
    pub fn app_count(&self) -> usize {
        self.apps.iter().flatten().count()
    }

    /// Does something with an open channel, as its owner might.
    pub fn with_channel(&mut self, end: EndId, act: impl FnOnce(&mut Channel)) {
        if let Some(channel) = self.ends[end.0].channel_mut() {
            act(channel);
        }
        self.ready.push(Task::End(end));
    }

    /// The answer of a relay to a circuit handshake, for a test that plays the relay.
    pub fn respond(
        &mut self,
        relay: NodeId,
        request: &[u8; REQUEST_LEN],
    ) -> Option<(Box<[u8; REPLY_LEN]>, HopKeys)> {
        self.nodes[relay.0].respond(request)
    }

    /// Sends cells from an end that the test plays.
    pub fn send_raw(&mut self, end: EndId, cells: &[Cell]) {
        self.transmit(end, cells.concat());
    }

    /// The next cell that came to an end which the test plays.
    pub fn receive_raw(&mut self, end: EndId) -> Option<Cell> {
        match &mut self.ends[end.0].state {
            State::Raw(cells) => cells.pop_front(),
            _ => None,
        }
    }

    /// Ends a connection; both ends notice.
    pub fn cut(&mut self, end: EndId) {
        self.close(end, Closed::Lost);
        self.close(end.peer(), Closed::Lost);
    }

    /// Ends all connections of a node.
    pub fn kill(&mut self, node: NodeId) {
        self.nodes[node.0].reach = Reach::Unreachable;
        self.ends_of(node).into_iter().for_each(|end| self.cut(end));
    }

    /// Runs for so long.
    pub fn run_for(&mut self, duration: Duration) {
        self.run_until(duration, |_| false);
    }

    /// Runs until this is so, or so long; says whether it is so.
    ///
    /// # Panics
    /// If the world turns in circles without time passing.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&World) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            self.settle();
            if done(self) {
                return true;
            }
            match self.future.pop() {
                Some(Reverse(timed)) if timed.at <= end => {
                    self.now = self.now.max(timed.at);
                    self.happen_together(timed.what);
                }
                later => {
                    self.future.extend(later);
                    self.now = end;
                    return false;
                }
            }
        }
    }

    fn settle(&mut self) {
        let mut steps = 0;
        while let Some(task) = self.ready.pop() {
            match task {
                Task::End(end) => self.serve_end(end),
                Task::App(app) => self.serve_app(app),
            }
            steps += 1;
            assert!(steps < MAX_STEPS, "{task:?} turns in circles at {:?}", self.now);
        }
    }

    fn schedule(&mut self, after: Duration, what: Happening) {
        self.order += 1;
        self.future.push(Reverse(Timed { at: self.now + after, order: self.order, what }));
    }

    /// Does what happens now. Cells that arrive at one moment arrive together, as one read brings them.
    fn happen_together(&mut self, first: Happening) {
        let mut all = vec![first];
        while self.future.peek().is_some_and(|next| next.0.at <= self.now)
            && let Some(Reverse(timed)) = self.future.pop()
        {
            match (timed.what, all.last_mut()) {
                (Happening::Deliver(end, more), Some(Happening::Deliver(last, bytes))) if end == *last => {
                    bytes.extend(more);
                }
                (what, _) => all.push(what),
            }
        }
        all.into_iter().for_each(|what| self.happen(what));
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Deliver(end, bytes) => self.deliver(end, bytes),
            Happening::Lost(end) => self.close(end, Closed::Lost),
            Happening::Wake(task) => self.ready.push(task),
            Happening::DialFailed(job) => job.answer(Err(DestroyReason::ConnectFailed)),
        }
    }

    fn deliver(&mut self, id: EndId, mut bytes: Vec<u8>) {
        (self.now, id, &bytes).hash(&mut self.trace);
        let now = self.instant();
        let mut result = Ok(());
        match &mut self.ends[id.0].state {
            State::Closed(_) => {}
            State::Raw(cells) => cells.extend(bytes.as_chunks::<CELL_LEN>().0),
            State::Open(channel) => result = channel.handle_cells(now, &mut bytes).map_err(Closed::Error),
            State::Opening(_) => return self.handshake(id, &bytes),
        }
        match result {
            Ok(()) => self.ready.push(Task::End(id)),
            Err(why) => self.close(id, why),
        }
    }

    fn handshake(&mut self, id: EndId, bytes: &[u8]) {
        let (cells, _) = bytes.as_chunks::<CELL_LEN>();
        for (n, cell) in cells.iter().enumerate() {
            let State::Opening(handshake) = &mut self.ends[id.0].state else { return };
            let Some(current) = handshake.take() else { return };
            match current.handle(cell) {
                Ok(Step::Wait(next)) => *handshake = Some(next),
                Ok(Step::Open(peer)) => {
                    let role = if id.0.is_multiple_of(2) { Role::Initiator } else { Role::Responder };
                    let node = &mut self.nodes[self.ends[id.0].node.0];
                    self.ends[id.0].state = match node.raw {
                        true => State::Raw(VecDeque::new()),
                        false => State::Open(Box::new(Channel::new(node.channel_config(role, peer)))),
                    };
                    self.opened(id);
                    return self.deliver(id, bytes[(n + 1) * CELL_LEN..].to_vec());
                }
                Err(error) => return self.close(id, Closed::Handshake(error)),
            }
        }
    }

    /// Hands a channel to the circuits that wait for it.
    fn opened(&mut self, id: EndId) {
        let peer = self.ends[id.peer().0].node;
        let jobs = self.nodes[self.ends[id.0].node.0].waiting.remove(&peer).unwrap_or_default();
        for job in jobs {
            match self.channel(id) {
                Some(channel) => job.answer(Ok(channel.inbox().clone())),
                None => job.answer(Err(DestroyReason::ConnectFailed)),
            }
        }
    }

    /// Closes an end, as its shell does; the other end notices after the delay.
    pub fn close(&mut self, id: EndId, why: Closed) {
        let end = &mut self.ends[id.0];
        if matches!(end.state, State::Closed(_)) {
            return;
        }
        if let State::Open(mut channel) = std::mem::replace(&mut end.state, State::Closed(why)) {
            channel.close();
        }
        self.opened(id);
        self.schedule(self.ends[id.0].spec.delay, Happening::Lost(id.peer()));
    }

    fn serve_end(&mut self, id: EndId) {
        let now = self.instant();
        let waker = self.ready.waker(Task::End(id));
        let Some(channel) = self.ends[id.0].channel_mut() else { return };
        let mut cx = Context::from_waker(&waker);
        if channel.poll_timeout().is_some_and(|at| at <= now) {
            channel.handle_timeout(now);
        }
        while channel.inbox().clone().poll_pending(&mut cx).is_ready() {
            channel.handle_inbox(now);
        }
        while let Some(event) = self.ends[id.0].channel_mut().and_then(Channel::poll_event) {
            self.handle_event(self.ends[id.0].node, event);
        }
        self.flush(id);
        self.set_timer(id);
    }

    fn handle_event(&mut self, node: NodeId, event: Event) {
        match event {
            Event::Handshake(job) => self.nodes[node.0].answer(job),
            Event::Extend(job) => self.extend(node, job),
            Event::Begin(target, stream) => match self.nodes[node.0].directory.clone() {
                Some(service) if target.is_none() => self.spawn(Box::new(Serve::new(stream, service))),
                _ => apps::serve(target, stream).into_iter().for_each(|app| self.spawn(app)),
            },
        }
    }

    fn extend(&mut self, node: NodeId, job: ExtendJob) {
        let target = (0..self.nodes.len()).map(NodeId).find(|to| self.hop(*to).id == job.id);
        let listed = target.filter(|to| self.nodes[to.0].reach != Reach::Unlisted);
        let Some(to) = listed else { return job.answer(Err(DestroyReason::UnknownRelay)) };
        if let Some(channel) = self.end_between(node, to).and_then(|end| self.channel(end)) {
            return job.answer(Ok(channel.inbox().clone()));
        }
        if self.nodes[to.0].reach == Reach::Unreachable {
            return self.schedule(self.default_link.delay, Happening::DialFailed(job));
        }
        let waiting = self.nodes[node.0].waiting.entry(to).or_default();
        waiting.push(job);
        if waiting.len() == 1 {
            self.connect(node, to, self.default_link);
        }
    }

    fn flush(&mut self, id: EndId) {
        loop {
            let end = &mut self.ends[id.0];
            let limit = end.spec.write_cells();
            let State::Open(channel) = &mut end.state else { return };
            if !channel.has_output() {
                return;
            }
            if end.busy_until > self.now {
                let after = end.busy_until - self.now;
                return self.schedule(after, Happening::Wake(Task::End(id)));
            }
            let mut bytes = std::mem::take(&mut self.buffer);
            channel.poll_output(&mut bytes, limit);
            if bytes.is_empty() {
                return;
            }
            self.transmit(id, bytes);
        }
    }

    fn transmit(&mut self, id: EndId, bytes: Vec<u8>) {
        let end = &mut self.ends[id.0];
        end.sent += bytes.len() as u64;
        end.busy_until = self.now.max(end.busy_until) + end.spec.duration(bytes.len());
        let after = end.busy_until + end.spec.delay - self.now;
        let bytes = end.tampered(bytes);
        self.schedule(after, Happening::Deliver(id.peer(), bytes));
    }

    fn set_timer(&mut self, id: EndId) {
        let end = &self.ends[id.0];
        let Some(at) = end.channel().and_then(Channel::poll_timeout) else { return };
        let at = at - self.origin;
        if end.timer.is_none_or(|set| set <= self.now || set > at) {
            self.ends[id.0].timer = Some(at);
            self.schedule(at.saturating_sub(self.now), Happening::Wake(Task::End(id)));
        }
    }

    fn serve_app(&mut self, index: usize) {
        let waker = self.ready.waker(Task::App(index));
        let Some(app) = &mut self.apps[index] else { return };
        match app.poll(&mut Context::from_waker(&waker), self.now) {
            Next::Woken => {}
            Next::At(at) => {
                let after = at.saturating_sub(self.now);
                self.schedule(after, Happening::Wake(Task::App(index)));
            }
            Next::Done => self.apps[index] = None,
        }
    }
}
