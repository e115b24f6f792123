//! What a test does in a world: adds nodes, connects them, asks for circuits, meddles.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;
use tunic_proto::cell::Cell;
use tunic_proto::channel::handshake::{Handshake, Local};
use tunic_proto::channel::{Channel, Role};
use tunic_proto::circuit::{CircuitHandle, CircuitStatus};
use tunic_proto::crypto::handshake::{HopKeys, REPLY_LEN, REQUEST_LEN};
use tunic_proto::dir::Request;
use tunic_proto::message::Begin;
use tunic_proto::padding::{ClientPadding, Limits, LimitsConfig, PaddingRole};
use tunic_proto::time::UnixTime;

use super::apps::{self, App, Report, Transfer};
use super::dirs::{Answer, Ask, DirService, Ticket};
use super::link::{Closed, End, EndId, LinkSpec, State, Tamper};
use super::node::{EPOCH, Node, NodeId, Reach};
use super::ready::Task;
use super::world::{Happening, World};

/// Bytes that a node's queues may hold unless the test says otherwise.
const BUDGET: usize = 64 << 20;

impl World {
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
        let id = self.nodes.len() - 1;
        self.nodes[id].address = IpAddr::V4(((10 << 24) | (id as u32) << 8 | 1).into());
        NodeId(id)
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
        self.enter_guarded(from, end.peer());
        end
    }

    /// Opens a connection and waits until both ends are open.
    pub fn open(&mut self, from: NodeId, to: NodeId, spec: LinkSpec) -> EndId {
        let end = self.connect(from, to, spec);
        self.run_until(Duration::from_secs(10), |world| world.is_open(end) && world.is_open(end.peer()));
        end
    }

    /// Changes from now on what leaves this end.
    pub fn tamper(&mut self, end: EndId, tamper: impl FnMut(Cell) -> Vec<Cell> + 'static) {
        self.ends[end.0].tamper = Some(Box::new(tamper) as Tamper);
    }

    /// Lets everything pass unchanged again.
    pub fn stop_tampering(&mut self, end: EndId) {
        self.ends[end.0].tamper = None;
    }

    /// Notes from now on when how many bytes leave this end.
    pub fn watch(&mut self, end: EndId) {
        self.ends[end.0].watched = Some(Vec::new());
    }

    /// What a client asks for on its later channels.
    pub fn pad(&mut self, client: NodeId, padding: impl Into<ClientPadding>) {
        let node = &mut self.nodes[client.0];
        node.padding = PaddingRole::Client(padding.into(), node.padding_stats.clone());
    }

    /// What a relay gives on its later channels.
    pub fn limit_padding(&mut self, relay: NodeId, limits: LimitsConfig) {
        let node = &mut self.nodes[relay.0];
        node.padding = PaddingRole::Relay(Limits::new(limits), node.padding_stats.clone());
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
        target: Begin,
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
        let stream = circuit.and_then(|circuit| circuit.begin(Begin::Directory).ok());
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
}
