//! First relays that break the protocol towards a client: the circuit ends there, and no other
//! (docs/protocol.md §5.5 and §6).

use std::time::Duration;

use tunic_proto::cell::{self, Cell, Command};
use tunic_proto::circuit::{BuildError, CircuitHandle, CircuitStatus};
use tunic_proto::counters::Incident;
use tunic_proto::crypto::layer::Routing;
use tunic_proto::flow::OPEN_CELLS;
use tunic_proto::message::{Code, DestroyReason};
use tunic_testnet::sim::{EndId, LinkSpec, NodeId, RawHop, World, service};

const MOMENT: Duration = Duration::from_millis(100);

/// An honest client whose first relay the test plays.
pub struct Client {
    pub world: World,
    pub client: NodeId,
    pub relay: NodeId,
    pub end: EndId,
}

impl Client {
    pub fn new(seed: u64) -> Client {
        let mut world = World::new(seed);
        let (client, relay) = (world.client(), world.raw_relay());
        let end = world.open(client, relay, LinkSpec::delay_ms(1));
        Client { world, client, relay, end }
    }

    pub fn received(&mut self) -> Vec<Cell> {
        self.world.run_for(MOMENT);
        std::iter::from_fn(|| self.world.receive_raw(self.end.peer())).collect()
    }

    pub fn send(&mut self, cells: &[Cell]) {
        self.world.send_raw(self.end.peer(), cells);
        self.world.run_for(MOMENT);
    }

    /// A circuit whose first hop has answered.
    pub fn build(&mut self, path: &[NodeId]) -> (CircuitHandle, RawHop) {
        let circuit = self.world.circuit(self.end, path).unwrap();
        let create = self.received();
        let (hop, created) = RawHop::answer(&mut self.world, self.relay, &create).unwrap();
        self.send(&created);
        (circuit, hop)
    }
}

/// What the relay sends on a circuit with the stream 1, and how the client counts it.
fn circuit_ends(incident: Incident, act: impl FnOnce(&mut RawHop) -> Vec<Cell>) {
    let mut net = Client::new(41);
    let relay = net.relay;
    let (circuit, mut hop) = net.build(&[relay]);
    let (other, _) = net.build(&[relay]);
    let stream = circuit.begin(service("echo")).unwrap();
    net.received();
    net.send(&act(&mut hop));
    let ended = match incident {
        Incident::Tampered => CircuitStatus::Tampered(0),
        _ => CircuitStatus::Closed(DestroyReason::Protocol),
    };
    assert_eq!(circuit.status(), ended);
    assert!(stream.end_reason().is_some());
    assert_eq!(circuit.stream_count(), 0);
    assert_eq!(net.world.count(net.client, incident), 1);
    let told = cell::build(hop.id, Command::Destroy, &[DestroyReason::Protocol as u8]);
    assert_eq!(net.received().last(), Some(&told));
    assert_eq!((other.status(), net.world.violations()), (CircuitStatus::Open, vec![]));
}

#[test]
fn messages_that_a_relay_must_not_send_end_the_circuit() {
    let bad = |act: &dyn Fn(&mut RawHop) -> Vec<Cell>| circuit_ends(Incident::BadMessage, act);
    bad(&|hop| vec![hop.message(Code::Begin, 2, &[0, 80, 3, 1, b'a'])]);
    bad(&|hop| vec![hop.message(Code::BeginDir, 2, &[])]);
    bad(&|hop| vec![hop.message(Code::Extend, 0, &[0; 366])]);
    bad(&|hop| vec![hop.message(Code::Extended, 0, &[0; 366])]);
    bad(&|hop| vec![hop.message(Code::ExtendFailed, 0, &[0])]);
    bad(&|hop| vec![hop.message(Code::Connected, 2, &[0])]);
    bad(&|hop| vec![hop.message(Code::Connected, 1, &[4, 1])]);
    bad(&|hop| vec![hop.message(Code::Connected, 1, &[0]), hop.message(Code::Connected, 1, &[0])]);
    bad(&|hop| vec![hop.message(Code::Data, 1, b"before it is connected")]);
    bad(&|hop| vec![hop.message(Code::Eof, 1, &[])]);
    bad(&|hop| vec![hop.message(Code::Data, 2, b"nobody")]);
    bad(&|hop| vec![hop.message(Code::End, 1, &[1]), hop.message(Code::End, 1, &[1])]);
    circuit_ends(Incident::Credit, |hop| vec![hop.message(Code::Window, 1, &65_472_u32.to_be_bytes())]);
    circuit_ends(Incident::Credit, |hop| {
        let connected = hop.message(Code::Connected, 1, &[0]);
        let data = (0..=OPEN_CELLS).map(|_| hop.message(Code::Data, 1, b"x"));
        std::iter::once(connected).chain(data).collect()
    });
    circuit_ends(Incident::Tampered, |hop| vec![hop.sealed(&[4, 0, 0, 0, 0], Routing::PassOn)]);
}

#[test]
fn a_relay_that_extends_to_itself_alone_convinces_nobody() {
    let mut net = Client::new(42);
    let (relay, next) = (net.relay, net.world.relay());
    let (circuit, mut hop) = net.build(&[relay, next]);
    assert_eq!(circuit.status(), CircuitStatus::Building);
    let reply = (0..4).map(|index| {
        let mut fragment = [0; 366];
        fragment[0] = index;
        hop.message(Code::Extended, 0, &fragment)
    });
    let reply: Vec<_> = reply.collect();
    net.send(&reply);
    let expected = BuildError { hop: 1, reason: DestroyReason::Protocol };
    assert_eq!(circuit.status(), CircuitStatus::Failed(expected));
    assert_eq!(net.world.count(net.client, Incident::CircuitHandshake), 1);
}

#[test]
fn a_second_reason_or_one_after_the_circuit_is_open_is_refused() {
    let mut net = Client::new(43);
    let (relay, next) = (net.relay, net.world.relay());
    let (circuit, mut hop) = net.build(&[relay, next]);
    let failed = |hop: &mut RawHop| hop.message(Code::ExtendFailed, 0, &[7]);
    let cells = [failed(&mut hop), failed(&mut hop)];
    net.send(&cells);
    let expected = BuildError { hop: 1, reason: DestroyReason::UnknownRelay };
    assert_eq!(circuit.status(), CircuitStatus::Failed(expected));
    assert_eq!(net.world.count(net.client, Incident::BadMessage), 1);
}
