//! What a relay answers to its client besides what it passes on: counted, kept where the circuit changes, and given up where
//! too much waits (docs/protocol.md §11.6 and §11.7).

use tunic_proto::cell::{self, Cell, Command};
use tunic_proto::counters::Incident;
use tunic_proto::flow::INITIAL_CELLS;
use tunic_proto::ids::HopNum;
use tunic_proto::message::{Code, DestroyReason};
use tunic_proto::padding::MachineKind;
use tunic_testnet::sim::{EndId, LinkSpec, NodeId, RawCircuit, RawHop};

use crate::machines::{MOMENT, asked, raw};
use crate::support::{MINUTE, Network};

/// A client that the test plays, with a circuit.
struct Line {
    net: Network,
    circuit: RawCircuit,
    end: EndId,
}

impl Line {
    fn new(hops: usize) -> Line {
        let (net, circuit, end) = raw(hops);
        Line { net, circuit, end }
    }

    /// So many messages for the first relay, in batches that its credit has room for.
    fn ask(&mut self, code: Code, data: &[u8], times: usize) {
        for _ in 0..times.div_ceil(8) {
            let cells: Vec<_> =
                (0..times.min(8)).map(|_| self.circuit.message_to(HopNum::FIRST, code, 0, data)).collect();
            self.net.world.send_raw(self.end, &cells);
            self.net.world.run_for(MOMENT);
        }
    }

    fn grant(&mut self, cells: u16) {
        let credit = cell::credit(&[(self.circuit.id, cells)]);
        self.net.world.send_raw(self.end, &[credit]);
        self.net.world.run_for(MOMENT);
    }

    /// The messages that came back, by their codes, and the commands of other cells.
    fn came(&mut self) -> (Vec<u8>, Vec<Command>) {
        let (mut answers, mut others) = (vec![], vec![]);
        while let Some(cell) = self.net.world.receive_raw(self.end) {
            match cell::parse_header(&cell).unwrap().1 {
                Command::Relay | Command::RelayBlocked => answers.push(self.circuit.open(&cell).1[0]),
                other => others.push(other),
            }
        }
        (answers, others)
    }

    fn answers(&mut self) -> Vec<u8> {
        self.came().0
    }

    /// Asks the first relay to extend to one that the test plays; returns that one's end and what it is asked.
    fn extend(&mut self) -> (NodeId, EndId, Vec<Cell>) {
        let next = self.net.world.raw_relay();
        let (hop, mut rng) = (self.net.world.hop(next), self.net.world.fork_rng());
        let cells = self.circuit.extend(&hop, &mut rng);
        self.net.world.send_raw(self.end, &cells);
        self.net.world.run_for(MOMENT);
        let end = self.net.world.end_between(self.net.relays[0], next).unwrap().peer();
        let create = std::iter::from_fn(|| self.net.world.receive_raw(end)).collect();
        (next, end, create)
    }

    /// That relay answers, and the circuit is a hop longer.
    fn join(&mut self, (next, end, create): (NodeId, EndId, Vec<Cell>)) -> (RawHop, EndId) {
        let (hop, created) = RawHop::answer(&mut self.net.world, next, &create).unwrap();
        self.net.world.send_raw(end, &created);
        self.net.world.run_for(MOMENT);
        let cells: Vec<_> = std::iter::from_fn(|| self.net.world.receive_raw(self.end)).collect();
        assert_eq!(cells.iter().filter(|cell| self.circuit.handle(cell)).count(), 1);
        (hop, end)
    }
}

const LOOPED: u8 = Code::Looped as u8;

#[test]
fn loops_while_a_circuit_is_extended_cost_it_no_credit() {
    let mut line = Line::new(1);
    line.grant(1_000);
    let extending = line.extend();
    line.ask(Code::Loop, &[], 48);
    assert_eq!(line.answers(), [LOOPED; 48]);
    let (mut hop, end) = line.join(extending);
    let window = INITIAL_CELLS as usize;
    let cells: Vec<_> = (0..window).map(|_| hop.message(Code::Drop, 0, &[])).collect();
    line.net.world.send_raw(end, &cells);
    line.net.world.run_for(MOMENT);
    let granted: u32 = std::iter::from_fn(|| line.net.world.receive_raw(end))
        .filter(|cell| cell::parse_header(cell).is_ok_and(|(_, command)| command == Command::Credit))
        .flat_map(|cell| cell::parse_credit(&cell).unwrap())
        .map(|(_, cells)| u32::from(cells))
        .sum();
    assert_eq!(granted, INITIAL_CELLS, "the window is whole");
    assert_eq!(line.net.world.violations(), []);
}

#[test]
fn a_loop_that_waits_for_credit_is_answered_after_the_circuit_went_on() {
    let mut line = Line::new(1);
    line.ask(Code::Loop, &[], INITIAL_CELLS as usize);
    assert_eq!(line.answers(), [LOOPED; INITIAL_CELLS as usize]);
    line.ask(Code::Loop, &[], 8);
    let extending = line.extend();
    assert!(line.answers().is_empty(), "there is no credit");
    line.grant(100);
    assert_eq!(line.answers(), [LOOPED; 8]);
    line.join(extending);
    assert_eq!(line.net.world.violations(), []);
}

#[test]
fn a_client_is_told_of_its_machines_however_many_answers_wait() {
    let mut line = Line::new(2);
    // All credit goes, and then as many answers wait as a relay keeps.
    line.ask(Code::Loop, &[], 104);
    assert!(line.net.world.count(line.net.relays[0], Incident::Resources) > 0);
    line.ask(Code::Pad, &asked(MachineKind::BreakPad), 1);
    assert_eq!(line.net.world.count(line.net.relays[0], Incident::MachinesRefused), 0);
    let before = line.answers();
    assert!(before.iter().all(|code| *code == LOOPED), "{before:?}");
    line.grant(100);
    let after = line.answers();
    let told = after.iter().position(|code| *code != LOOPED).unwrap();
    assert_eq!(after[told], Code::Padded as u8);
    assert!(told <= 16, "{told} answers waited");
}

#[test]
fn a_circuit_that_is_ending_gets_no_machines() {
    let mut line = Line::new(1);
    let extending = line.extend();
    let (mut hop, end) = line.join(extending);
    // A cell each tenth of a second, so that the circuit is still ending when the question comes.
    let slow = LinkSpec { rate: Some(5_120), ..LinkSpec::delay_ms(1) };
    line.net.world.set_link(line.end.peer(), slow);
    let cells: Vec<_> = (0..40).map(|_| hop.message(Code::Drop, 0, &[])).collect();
    line.net.world.send_raw(end, &cells);
    let destroy = cell::build(hop.id, Command::Destroy, &[DestroyReason::None as u8]);
    line.net.world.send_raw(end, &[destroy]);
    line.net.world.run_for(MOMENT);
    line.ask(Code::Pad, &asked(MachineKind::BreakPad), 1);
    let channel = line.net.world.channel(line.end.peer()).unwrap();
    assert_eq!(
        (channel.circuit_count(), channel.machine_accounts().len()),
        (1, 0),
        "still ending, without machines"
    );
    line.net.world.run_for(MINUTE);
    let (answers, others) = line.came();
    assert_eq!((answers.len(), others.contains(&Command::Destroy)), (40, true));
    let counters = line.net.world.counters(line.net.relays[0]);
    assert_eq!(counters.to_string(), "none");
    assert_eq!(line.net.world.violations(), []);
}
