//! Neighbours that break the protocol: what ends, what is counted, and that nothing else ends
//! (docs/protocol.md, throughout).

use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use tunic_proto::cell::{self, CELL_LEN, Cell, Command, HEADER_LEN};
use tunic_proto::channel::ChannelError;
use tunic_proto::circuit::{BuildError, CircuitStatus};
use tunic_proto::counters::Incident;
use tunic_proto::crypto::layer::inner_len;
use tunic_proto::flow::CreditError;
use tunic_proto::ids::{CircId, HopNum};
use tunic_proto::message::{Code, DestroyReason, Target};
use tunic_testnet::sim::{Closed, EndId, LinkSpec, RawCircuit, Reach, service};

use crate::support::{MINUTE, Network, complete};

const MOMENT: Duration = Duration::from_millis(200);
const VICTIM: CircId = CircId(CircId::INITIATOR_BIT | 1);
const OTHER: CircId = CircId(CircId::INITIATOR_BIT | 2);

/// An honest network, and a client of its first relay that the test plays.
struct Hostile {
    net: Network,
    end: EndId,
    rng: ChaCha20Rng,
    circuit: RawCircuit,
    /// Cells that came on the circuit and were not part of a handshake.
    inbox: Vec<Cell>,
}

impl Hostile {
    /// With a circuit over so many relays (none: it is not even asked for).
    fn new(hops: usize) -> Hostile {
        let mut net = Network::new(31, hops.max(3));
        let node = net.world.raw_client();
        let end = net.world.open(node, net.relays[0], LinkSpec::delay_ms(1));
        let mut rng = net.world.fork_rng();
        let first = net.world.hop(net.relays[0]);
        let (circuit, cells) = RawCircuit::create(VICTIM, &first, HopNum::FIRST, &mut rng);
        let mut hostile = Hostile { net, end, rng, circuit, inbox: vec![] };
        if hops > 0 {
            hostile.send(cells);
        }
        for hop in 1..hops {
            hostile.extend(hop);
        }
        hostile
    }

    fn send(&mut self, cells: impl AsRef<[Cell]>) {
        self.net.world.send_raw(self.end, cells.as_ref());
        self.net.world.run_for(MOMENT);
        while let Some(cell) = self.net.world.receive_raw(self.end) {
            if !self.circuit.handle(&cell) {
                self.inbox.push(cell);
            }
        }
    }

    fn extend(&mut self, relay: usize) {
        let cells = self.extend_cells(relay);
        self.send(cells);
    }

    fn extend_cells(&mut self, relay: usize) -> Vec<Cell> {
        let hop = self.net.world.hop(self.net.relays[relay]);
        self.circuit.extend(&hop, &mut self.rng)
    }

    fn message(&mut self, code: Code, stream: u16, data: &[u8]) -> Cell {
        self.circuit.message(code, stream, data)
    }

    fn begin(&mut self, stream: u16, name: &str) -> Cell {
        let target = Target::Name(name.to_owned(), 80).encode().unwrap();
        self.message(Code::Begin, stream, &target)
    }

    /// How often a relay counted this.
    fn count(&self, relay: usize, incident: Incident) -> u64 {
        self.net.world.count(self.net.relays[relay], incident)
    }

    /// Others' circuits still work, through the same relays.
    fn others_go_on(&mut self) {
        let circuit = self.net.build();
        let echo = self.net.world.transfer(&circuit, service("echo"), 10_000).unwrap();
        complete(&mut self.net.world, &[echo]);
    }

    /// The hostile client's other circuit on the same channel.
    fn other_circuit_works(&mut self) {
        let first = self.net.world.hop(self.net.relays[0]);
        let (mut circuit, cells) = RawCircuit::create(OTHER, &first, HopNum::FIRST, &mut self.rng);
        self.net.world.send_raw(self.end, &cells);
        self.net.world.run_for(MOMENT);
        let mut opened = false;
        while let Some(cell) = self.net.world.receive_raw(self.end) {
            opened |= circuit.handle(&cell);
        }
        assert!(opened);
    }
}

/// After these cells on a circuit of so many hops: the circuit ends at this relay, which counts it; nothing else ends.
fn circuit_ends(
    hops: usize,
    relay: usize,
    incident: Incident,
    act: impl Fn(&mut Hostile) -> Vec<Cell>,
) -> Hostile {
    let mut hostile = Hostile::new(hops);
    let cells = act(&mut hostile);
    hostile.send(cells);
    let is_destroy = |cell: &&Cell| cell[HEADER_LEN - 1] == Command::Destroy as u8;
    let ends: Vec<_> = hostile.inbox.iter().filter(is_destroy).map(cell::parse_destroy).collect();
    let told = if relay == 0 { DestroyReason::Protocol } else { DestroyReason::None };
    assert_eq!(ends, [Ok(told)]);
    assert_eq!(hostile.count(relay, incident), 1);
    hostile.send([cell::build(VICTIM, Command::Destroy, &[0])]);
    assert_eq!(hostile.net.world.violations(), []);
    assert_eq!(hostile.net.world.circuit_count(hostile.net.relays[0]), 0);
    hostile.other_circuit_works();
    hostile.others_go_on();
    hostile
}

/// After these cells the relay ends the channel, and others go on.
fn channel_ends(hops: usize, why: ChannelError, act: impl Fn(&mut Hostile) -> Vec<Cell>) {
    let mut hostile = Hostile::new(hops);
    let cells = act(&mut hostile);
    hostile.send(cells);
    assert_eq!(hostile.net.world.violations(), [(hostile.end.peer(), Closed::Error(why))]);
    assert_eq!(hostile.count(0, why.incident()), 1);
    hostile.others_go_on();
    hostile.net.world.run_for(MINUTE);
    assert_eq!(hostile.net.world.circuit_count(hostile.net.relays[0]), 0);
}

#[test]
fn messages_that_are_not_legal_end_the_circuit() {
    let bad = |act: &dyn Fn(&mut Hostile) -> Vec<Cell>| {
        for hops in [1, 3] {
            circuit_ends(hops, hops - 1, Incident::BadMessage, act);
        }
    };
    bad(&|h| {
        let hop = h.circuit.last_hop();
        vec![h.circuit.sealed(hop, &[99, 0, 0, 0, 0])]
    });
    bad(&|h| vec![h.message(Code::Connected, 1, &[0])]);
    bad(&|h| vec![h.message(Code::Extended, 0, &[0; 366])]);
    bad(&|h| vec![h.message(Code::ExtendFailed, 0, &[0])]);
    bad(&|h| vec![h.message(Code::Drop, 0, &[0])]);
    bad(&|h| vec![h.message(Code::Data, 1, b"nobody")]);
    bad(&|h| vec![h.message(Code::Eof, 1, &[])]);
    bad(&|h| vec![h.message(Code::End, 1, &[1])]);
    bad(&|h| vec![h.message(Code::Window, 1, &[0, 0, 0, 1])]);
    bad(&|h| vec![h.message(Code::Begin, 0, &[0, 80, 3, 1, b'a'])]);
    bad(&|h| vec![h.message(Code::Begin, 1, &[0, 80, 3, 0])]);
    bad(&|h| vec![h.begin(1, "stalled"), h.begin(1, "stalled")]);
    bad(&|h| vec![h.begin(1, "stalled"), h.message(Code::Data, 1, &[])]);
    bad(&|h| vec![h.begin(1, "stalled"), h.message(Code::Window, 1, &[0; 4])]);
    bad(&|h| vec![h.begin(1, "stalled"), h.message(Code::End, 1, &[12])]);
    bad(&|h| vec![h.begin(1, "stalled"), h.message(Code::Eof, 1, &[]), h.message(Code::Eof, 1, &[])]);
    bad(&|h| vec![h.begin(1, "stalled"), h.message(Code::Eof, 1, &[]), h.message(Code::Data, 1, b"more")]);
    bad(&|h| vec![h.begin(1, "stalled"), h.message(Code::End, 1, &[1]), h.message(Code::End, 1, &[1])]);
}

#[test]
fn data_and_windows_beyond_the_limits_end_the_circuit() {
    circuit_ends(1, 0, Incident::Credit, |h| {
        vec![h.begin(1, "stalled"), h.message(Code::Window, 1, &65_472_u32.to_be_bytes())]
    });
    circuit_ends(1, 0, Incident::Credit, |h| {
        let begin = h.begin(1, "stalled");
        h.send([begin]);
        let data: Vec<_> = (0..60).map(|_| h.message(Code::Data, 1, b"x")).collect();
        h.send(data);
        (0..5).map(|_| h.message(Code::Data, 1, b"x")).collect()
    });
}

#[test]
fn a_circuit_cannot_begin_more_streams_than_the_limit() {
    circuit_ends(1, 0, Incident::BadMessage, |h| {
        for batch in 0..32 {
            let begins: Vec<_> = (1..=32).map(|n| h.begin(batch * 32 + n, "mute")).collect();
            h.send(begins);
        }
        vec![h.begin(1_025, "mute")]
    });
}

#[test]
fn illegal_extensions_end_the_circuit() {
    let bad = |act: &dyn Fn(&mut Hostile) -> Vec<Cell>| {
        circuit_ends(1, 0, Incident::BadMessage, act);
    };
    bad(&|h| vec![h.message(Code::Extend, 0, &[1; 366])]);
    bad(&|h| vec![h.message(Code::Extend, 0, &[0; 365])]);
    bad(&|h| {
        let begin = h.begin(1, "stalled");
        [vec![begin], h.extend_cells(1)[..1].to_vec()].concat()
    });
    bad(&|h| vec![h.message(Code::Extend, 0, &[0; 366]), h.begin(1, "stalled")]);
    bad(&|h| vec![h.message(Code::Extend, 0, &[0; 366]), h.message(Code::Extend, 0, &[0; 366])]);
}

#[test]
fn a_hop_extends_once_and_carries_streams_only_before() {
    // While it extends, and after.
    for wait in [false, true] {
        let start = |h: &mut Hostile| {
            let extend = h.extend_cells(1);
            if wait {
                h.send(extend);
                return vec![];
            }
            extend
        };
        circuit_ends(1, 0, Incident::BadMessage, |h| {
            let extend = start(h);
            let begin = h.circuit.message_to(HopNum::FIRST, Code::BeginDir, 1, &[]);
            [extend, vec![begin]].concat()
        });
        circuit_ends(1, 0, Incident::BadMessage, |h| {
            let extend = start(h);
            let again = h.circuit.message_to(HopNum::FIRST, Code::Extend, 0, &[0; 366]);
            [extend, vec![again]].concat()
        });
    }
}

#[test]
fn a_ninth_hop_is_impossible() {
    circuit_ends(8, 7, Incident::BadMessage, |h| {
        let hop = h.net.world.hop(h.net.relays[0]);
        h.circuit.extend(&hop, &mut h.rng)[..1].to_vec()
    });
}

/// A cell that the first relay shall pass on.
fn pass_on(h: &mut Hostile) -> Cell {
    h.circuit.passed_on(HopNum::FIRST, &vec![0x5a; inner_len(HopNum::FIRST)])
}

#[test]
fn a_cell_to_pass_on_before_there_is_a_next_relay_ends_the_circuit() {
    circuit_ends(1, 0, Incident::BadMessage, |h| vec![pass_on(h)]);
    for silence in [Duration::ZERO, MOMENT] {
        let mut hostile = circuit_ends(1, 0, Incident::BadMessage, |h| {
            h.net.world.set_reach(h.net.relays[1], Reach::Silent);
            let mut cells = h.extend_cells(1);
            if silence > Duration::ZERO {
                h.send(std::mem::take(&mut cells));
            }
            cells.push(pass_on(h));
            h.net.world.set_reach(h.net.relays[1], Reach::Normal);
            cells
        });
        let counters = hostile.net.world.counters(hostile.net.relays[1]).to_string();
        assert_eq!(counters, "none", "the next relay saw nothing of it");
        hostile.others_go_on();
    }
}

#[test]
fn a_layer_that_does_not_open_ends_the_circuit() {
    for hops in [1, 3] {
        circuit_ends(hops, 0, Incident::Tampered, |_| {
            vec![cell::build(VICTIM, Command::Relay, &[1; cell::PAYLOAD_LEN])]
        });
    }
    circuit_ends(2, 1, Incident::Tampered, |h| vec![pass_on(h)]);
}

#[test]
fn answers_that_nobody_takes_are_bounded() {
    let mut hostile = Hostile::new(1);
    let mut ended = false;
    // No credit is ever given: the answers stay with the relay.
    for _ in 0..200 {
        let cells: Vec<_> =
            (0..30).flat_map(|_| [hostile.begin(1, "refuse"), hostile.message(Code::End, 1, &[1])]).collect();
        hostile.send(cells);
        ended = hostile.inbox.iter().any(|cell| cell[4] == Command::Destroy as u8);
        if ended {
            break;
        }
    }
    assert!(ended);
    assert_eq!(hostile.count(0, Incident::BadMessage), 1);
    hostile.others_go_on();
}

#[test]
fn cells_that_are_not_legal_end_the_channel() {
    use Command::*;
    let state = |command| ChannelError::State(command);
    let send = |circ, command, content: &[u8]| {
        let cell = cell::build(circ, command, content);
        move |_: &mut Hostile| vec![cell]
    };
    channel_ends(0, state(Hello), |_| vec![cell::hello()]);
    channel_ends(0, state(Auth), |_| vec![cell::auth_client()]);
    channel_ends(0, state(Netinfo), send(CircId::CHANNEL, Netinfo, &[]));
    channel_ends(0, state(Relay), send(VICTIM, Relay, &[]));
    channel_ends(0, state(RelayBlocked), send(VICTIM, RelayBlocked, &[]));
    channel_ends(0, state(Destroy), send(VICTIM, Destroy, &[0]));
    channel_ends(0, state(Created), send(VICTIM, Created, &[0]));
    channel_ends(0, state(Credit), |_| vec![cell::credit(&[(VICTIM, 1)])]);
    channel_ends(0, state(Create), send(CircId(1), Create, &[0]));
    channel_ends(0, state(Create), send(VICTIM, Create, &[1]));
    channel_ends(0, state(Create), |h| {
        let first = h.net.world.hop(h.net.relays[0]);
        let (_, cells) = RawCircuit::create(VICTIM, &first, HopNum::FIRST, &mut h.rng);
        vec![cells[0], cells[1], cells[1]]
    });
    channel_ends(0, state(Relay), |h| {
        let first = h.net.world.hop(h.net.relays[0]);
        let (_, cells) = RawCircuit::create(VICTIM, &first, HopNum::FIRST, &mut h.rng);
        vec![cells[0], cell::build(VICTIM, Relay, &[])]
    });
    channel_ends(1, state(Create), send(VICTIM, Create, &[0]));
    channel_ends(1, state(Created), send(VICTIM, Created, &[0]));
    channel_ends(1, ChannelError::Credit(CreditError), |_| vec![cell::credit(&[(VICTIM, 65_535)])]);
    for command in [Padding, Destroy, Credit] {
        let id = if command == Destroy { VICTIM } else { CircId::CHANNEL };
        let malformed = ChannelError::Cell(cell::CellError::Malformed(command));
        channel_ends(1, malformed, send(id, command, &[200, 1]));
    }
    let unknown = ChannelError::Cell(cell::CellError::UnknownCommand(8));
    channel_ends(1, unknown, |_| {
        let mut cell = [0; CELL_LEN];
        cell[HEADER_LEN - 1] = 8;
        vec![cell]
    });
}

#[test]
fn cells_beyond_the_credit_end_the_channel() {
    channel_ends(2, ChannelError::Credit(CreditError), |h| {
        // The second relay takes what comes and never says so, so the first keeps what it cannot send.
        let next = h.net.world.end_between(h.net.relays[0], h.net.relays[1]).unwrap();
        h.net.world.tamper(next.peer(), |cell| match cell[4] == Command::Credit as u8 {
            true => vec![],
            false => vec![cell],
        });
        let cells: Vec<_> = (0..200).map(|_| h.message(Code::Drop, 0, &[])).collect();
        let next = next.peer();
        h.net.world.send_raw(h.end, &cells);
        h.net.world.run_for(MOMENT);
        h.net.world.stop_tampering(next);
        vec![]
    });
}

#[test]
fn a_client_accepts_no_circuits() {
    let mut net = Network::new(32, 1);
    let relay = net.world.raw_relay();
    let end = net.world.open(net.client, relay, LinkSpec::delay_ms(1));
    net.world.send_raw(end.peer(), &[cell::build(CircId(1), Command::Create, &[0])]);
    net.world.run_for(MOMENT);
    let illegal = Closed::Error(ChannelError::State(Command::Create));
    assert_eq!(net.world.closed(end), Some(illegal));
    drop(net.build());
}

#[test]
fn a_first_hop_that_answers_nonsense_fails_the_circuit_and_no_other() {
    let mut net = Network::new(33, 1);
    let relay = net.world.raw_relay();
    let end = net.world.open(net.client, relay, LinkSpec::delay_ms(1));
    let first = net.world.circuit(end, &[relay]).unwrap();
    let second = net.world.circuit(end, &[relay]).unwrap();
    net.world.run_for(MOMENT);
    let id = CircId(CircId::INITIATOR_BIT | 1);
    // The first gets a reply that nobody with the onion key made, the second is refused.
    let reply: Vec<_> = (0..3).map(|index| cell::build(id, Command::Created, &[index])).collect();
    net.world.send_raw(end.peer(), &reply);
    let refusal = cell::build(CircId(id.0 + 1), Command::Destroy, &[DestroyReason::Resources as u8]);
    net.world.send_raw(end.peer(), &[refusal]);
    net.world.run_for(MOMENT);
    let failed = |reason| CircuitStatus::Failed(BuildError { hop: 0, reason });
    assert_eq!(first.status(), failed(DestroyReason::Protocol));
    assert_eq!(second.status(), failed(DestroyReason::Resources));
    assert_eq!(net.world.count(net.client, Incident::CircuitHandshake), 1);
    assert_eq!(net.world.violations(), []);
}
