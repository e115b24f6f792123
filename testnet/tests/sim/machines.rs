//! Machines on circuits, and cover traffic for single hops (docs/protocol.md §11.6 and §11.7).

use std::time::Duration;

use tunic_proto::cell::{self, CELL_LEN, Cell, Command, HEADER_LEN};
use tunic_proto::circuit::{CircuitHandle, CircuitStatus, Cover};
use tunic_proto::counters::Incident;
use tunic_proto::ids::{CircId, HopNum};
use tunic_proto::message::{Code, DestroyReason};
use tunic_proto::padding::{
    Budget, ClientPadding, LimitsConfig, LinkMode, MachineKind, MachineSpec, Refusal,
};
use tunic_testnet::sim::{EndId, LinkSpec, NodeId, RawCircuit, RawHop, World, service, source};

use crate::support::{MIB, MINUTE, Network, complete};

const AMPLE: Budget = Budget { cells: 20_000, percent: 400 };
pub const MOMENT: Duration = Duration::from_millis(200);

const ALL: [MachineKind; 6] = [
    MachineKind::Tunic,
    MachineKind::Front,
    MachineKind::Regulator,
    MachineKind::Tamaraw,
    MachineKind::Interspace,
    MachineKind::BreakPad,
];

fn spec(kind: MachineKind) -> MachineSpec {
    MachineSpec::new(kind, &[], AMPLE, AMPLE).unwrap()
}

/// A client that counts what padding costs it, and a circuit on which a hop was asked for machines.
fn padded(seed: u64, spec: MachineSpec, hop: usize) -> (Network, CircuitHandle) {
    let mut world = World::new(seed);
    let client = world.client();
    world.pad(client, LinkMode::Off);
    let relays = world.relays(3);
    let end = world.open(client, relays[0], LinkSpec::delay_ms(5));
    let mut net = Network { world, client, relays, end };
    let circuit = net.build();
    circuit.pad(hop, spec);
    net.world.run_for(MOMENT);
    (net, circuit)
}

#[test]
fn every_machine_carries_what_is_to_be_carried_at_guard_and_middle() {
    for kind in ALL {
        for hop in [0, 1] {
            let (mut net, circuit) = padded(101, spec(kind), hop);
            let load = net.world.transfer(&circuit, source(MIB / 4), 0).unwrap();
            let echo = net.world.transfer(&circuit, service("echo"), 5_000).unwrap();
            complete(&mut net.world, &[load, echo]);
            let totals = net.world.padding(net.client);
            assert_eq!(totals.refused, 0, "{kind:?}");
            assert!(totals.machine_sent + totals.machine_received > 0, "{kind:?} at {hop}: {totals:?}");
            net.assert_clean(vec![circuit]);
        }
    }
}

#[test]
fn a_client_asks_the_guard_of_each_circuit_for_its_machine() {
    let mut world = World::new(113);
    let client = world.client();
    let machine = Some(spec(MachineKind::Tunic));
    world.pad(client, ClientPadding { machine, ..LinkMode::Off.into() });
    let relays = world.relays(3);
    let end = world.open(client, relays[0], LinkSpec::delay_ms(5));
    let (long, short) = (world.build(end, &relays), world.build(end, &relays[..1]));
    for (circuit, is_padded) in [(&short, false), (&long, true)] {
        let before = world.padding(client);
        let load = world.transfer(circuit, source(200_000), 0).unwrap();
        complete(&mut world, &[load]);
        let after = world.padding(client);
        assert_eq!(after.machine_received > before.machine_received, is_padded);
        assert_eq!(after.machine_sent > before.machine_sent, is_padded);
    }
    assert_eq!(world.violations(), []);
}

#[test]
fn machines_do_the_same_again_from_the_same_seed() {
    let trace = |seed| {
        let (mut net, circuit) = padded(seed, spec(MachineKind::Front), 1);
        let load = net.world.transfer(&circuit, source(50_000), 0).unwrap();
        complete(&mut net.world, &[load]);
        net.world.run_for(MINUTE);
        net.world.trace()
    };
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5), trace(6));
}

/// Cells that came to the client while this much was loaded, and when.
fn loaded(bytes: u64) -> Vec<Duration> {
    line(bytes).0
}

/// The same, and those that it sent.
fn line(bytes: u64) -> (Vec<Duration>, Vec<Duration>) {
    let (mut net, circuit) = padded(102, spec(MachineKind::Tunic), 0);
    let ends = [net.end.peer(), net.end];
    ends.into_iter().for_each(|end| net.world.watch(end));
    let begin = net.world.now();
    let load = net.world.transfer(&circuit, source(bytes), 0).unwrap();
    complete(&mut net.world, &[load]);
    net.world.run_for(Duration::from_secs(10));
    let [came, went] = ends.map(|end| {
        let seen = net.world.watched(end).iter();
        seen.flat_map(|(at, size)| vec![*at - begin; size / CELL_LEN]).collect()
    });
    (came, went)
}

#[test]
fn loads_of_one_class_look_alike() {
    // The first class is 720 cells at 227 a second; these are of some 220, 440 and 900.
    let (small, large, larger) = (loaded(100_000), loaded(200_000), loaded(400_000));
    for cells in [&small, &large] {
        assert!((720..=760).contains(&cells.len()), "{}", cells.len());
    }
    assert!((1_152..=1_220).contains(&larger.len()), "{}", larger.len());
    // What the client sends does not depend on the load either: 25 a second, and credit for what came.
    let (_, sent) = line(100_000);
    assert!(sent.len() <= 200, "{}", sent.len());
    let span = |cells: &[Duration]| cells[590] - cells[10];
    for cells in [&large, &larger] {
        let apart = span(&small).abs_diff(span(cells));
        assert!(apart <= Duration::from_millis(60), "{:?} and {:?}", span(&small), span(cells));
    }
}

#[test]
fn a_tick_is_written_in_one_piece_whatever_is_in_it() {
    let (mut net, circuit) = padded(114, spec(MachineKind::Tunic), 0);
    net.world.watch(net.end.peer());
    // What comes back comes a few cells at a time, so that most ticks hold some of it and some padding.
    let load = net.world.transfer(&circuit, service("echo"), 30_000).unwrap();
    complete(&mut net.world, &[load]);
    net.world.run_for(Duration::from_secs(10));
    let written: Vec<_> = net.world.watched(net.end.peer()).iter().map(|(_, size)| size / CELL_LEN).collect();
    let ticks = written.iter().filter(|cells| **cells >= 5).count();
    // Credit goes by itself.
    let pieces = written.iter().filter(|cells| (2..5).contains(*cells)).count();
    assert!(ticks >= 115 && pieces <= 8, "{written:?}");
}

#[test]
fn what_is_large_is_not_held_up_for_long() {
    let took = |begin, upload| {
        let (mut net, circuit) = padded(111, spec(MachineKind::Tunic), 0);
        let before = net.world.now();
        let load = net.world.transfer(&circuit, begin, upload).unwrap();
        complete(&mut net.world, &[load]);
        net.world.now() - before
    };
    let (down, up) = (took(source(10 * MIB), 0), took(service("echo"), MIB));
    assert!(down < Duration::from_secs(20), "10 MiB took {down:?}");
    assert!(up < Duration::from_secs(18), "1 MiB there and back took {up:?}");
}

#[test]
fn one_client_cannot_have_all_the_machines_of_a_relay() {
    let mut world = World::new(112);
    let client = world.client();
    world.pad(client, LinkMode::Off);
    let relays = world.relays(3);
    let end = world.open(client, relays[0], LinkSpec::delay_ms(1));
    let circuits: Vec<_> = (0..130).map(|_| world.build(end, &relays)).collect();
    circuits.iter().for_each(|circuit| circuit.pad(0, spec(MachineKind::BreakPad)));
    world.run_for(MOMENT);
    assert_eq!(world.padding(client).refused, 2);
    assert_eq!(world.padding(client).last_refusal, Refusal::TooMuch as u64);
    assert_eq!(world.count(relays[0], Incident::MachinesRefused), 2);
    // What ends makes room.
    drop(circuits);
    world.run_for(MOMENT);
    let circuit = world.build(end, &relays);
    circuit.pad(0, spec(MachineKind::BreakPad));
    world.run_for(MOMENT);
    assert_eq!(world.padding(client).refused, 2);
}

#[test]
fn one_channel_of_another_relay_gets_half_of_the_machines() {
    let mut net = Network::new(116, 3);
    net.world.limit_padding(net.relays[1], LimitsConfig { machines: 6, ..LimitsConfig::default() });
    let circuits: Vec<_> = (0..4).map(|_| net.build()).collect();
    circuits.iter().for_each(|circuit| circuit.pad(1, spec(MachineKind::BreakPad)));
    net.world.run_for(MOMENT);
    assert_eq!(net.world.count(net.relays[1], Incident::MachinesRefused), 1);
}

#[test]
fn both_ends_count_the_same_whatever_the_circuit_carried() {
    for hop in [0, 1] {
        let mut net = Network::new(115, 3);
        let circuit = net.build();
        let cover_all = |count: usize| {
            let all = (0..3).flat_map(|hop| [Cover::Drop, Cover::Loop].map(|cover| (hop, cover)));
            all.cycle().take(count).for_each(|(hop, cover)| circuit.cover(hop, cover));
        };
        // Before it is asked, while it is asked, and after.
        cover_all(10);
        circuit.pad(hop, spec(MachineKind::Tunic));
        cover_all(13);
        let load = net.world.transfer(&circuit, source(100_000), 0).unwrap();
        net.world.run_for(MOMENT);
        cover_all(15);
        let echo = net.world.transfer(&circuit, service("echo"), 20_000).unwrap();
        complete(&mut net.world, &[load, echo]);
        net.world.run_for(MINUTE);
        let relay = if hop == 0 {
            net.end.peer()
        } else {
            net.world.end_between(net.relays[1], net.relays[0]).unwrap()
        };
        let [client, relay] = [net.end, relay].map(|end| {
            let accounts = net.world.channel(end).unwrap().machine_accounts();
            assert_eq!(accounts.len(), 1);
            accounts[0].1
        });
        assert_eq!(client, relay, "at hop {hop}");
        assert!(client.others > 300 && client.forward > 10 && client.backward > 100, "{client:?}");
        net.assert_clean(vec![circuit]);
    }
}

#[test]
fn a_relay_refuses_what_costs_it_too_much() {
    let refusal = |limits: LimitsConfig, spec: MachineSpec| {
        let mut world = World::new(103);
        let client = world.client();
        world.pad(client, LinkMode::Off);
        let relays = world.relays(3);
        world.limit_padding(relays[0], limits);
        let end = world.open(client, relays[0], LinkSpec::delay_ms(5));
        let circuit = world.build(end, &relays);
        circuit.pad(0, spec);
        world.run_for(MOMENT);
        let echo = world.transfer(&circuit, service("echo"), 5_000).unwrap();
        complete(&mut world, &[echo]);
        world.padding(client).last_refusal
    };
    let usual = LimitsConfig::default();
    let of = |refusal: Refusal| refusal as u64;
    let greedy = Budget { cells: u32::MAX, ..AMPLE };
    let tunic = spec(MachineKind::Tunic);
    assert_eq!(refusal(usual, tunic.clone()), 0);
    assert_eq!(refusal(usual, MachineSpec { backward: greedy, ..tunic.clone() }), of(Refusal::TooMuch));
    assert_eq!(refusal(usual, MachineSpec { forward: greedy, ..tunic.clone() }), of(Refusal::TooMuch));
    let silent = MachineSpec { backward: Budget { cells: 0, percent: 0 }, ..tunic.clone() };
    assert_eq!(refusal(usual, silent), of(Refusal::BadParameters));
    assert_eq!(refusal(LimitsConfig { machines: 0, ..usual }, tunic.clone()), of(Refusal::NotOffered));
    assert_eq!(refusal(LimitsConfig { enabled: false, ..usual }, tunic), of(Refusal::NotOffered));
}

#[test]
fn neither_side_sends_more_than_its_budget() {
    let little = Budget { cells: 10, percent: 20 };
    let spec = MachineSpec::new(MachineKind::Front, &[20_000, 20_000, 500, 600], little, little).unwrap();
    let (mut net, circuit) = padded(104, spec, 1);
    let before = net.world.sent(net.end) + net.world.sent(net.end.peer());
    let load = net.world.transfer(&circuit, source(50_000), 0).unwrap();
    complete(&mut net.world, &[load]);
    net.world.run_for(MINUTE);
    let cells = (net.world.sent(net.end) + net.world.sent(net.end.peer()) - before) / CELL_LEN as u64;
    let totals = net.world.padding(net.client);
    let others = cells - totals.machine_sent - totals.machine_received;
    for padding in [totals.machine_sent, totals.machine_received] {
        assert!((1..=10 + others / 5 + 1).contains(&padding), "{padding} beside {others}");
    }
    assert!((1..100).contains(&totals.given_up), "without a budget, nothing is decided: {totals:?}");
    net.assert_clean(vec![circuit]);
}

#[test]
fn padding_is_given_up_where_there_is_no_credit() {
    let (mut net, circuit) = padded(105, spec(MachineKind::Front), 1);
    // From now on the client hears nothing of credit, and gives none.
    let is_credit = |cell: &Cell| cell[HEADER_LEN - 1] == Command::Credit as u8;
    for end in [net.end, net.end.peer()] {
        net.world.tamper(end, move |cell| if is_credit(&cell) { vec![] } else { vec![cell] });
    }
    let echo = net.world.transfer(&circuit, service("echo"), 1_000).unwrap();
    complete(&mut net.world, &[echo]);
    net.world.run_for(5 * MINUTE);
    assert_eq!(net.world.violations(), [], "a cell beyond the credit would have ended the channel");
    assert_eq!(circuit.status(), CircuitStatus::Open);
    assert!(net.world.padding(net.client).given_up > 0);
}

#[test]
fn cover_traffic_ends_at_its_hop_and_loops_come_back() {
    let mut net = Network::new(106, 3);
    let circuit = net.build();
    for hop in 0..3 {
        let (forward, backward) = (net.world.sent(net.end), net.world.sent(net.end.peer()));
        circuit.cover(hop, Cover::Drop);
        net.world.run_for(MOMENT);
        assert_eq!(net.world.sent(net.end) - forward, CELL_LEN as u64);
        assert_eq!(net.world.sent(net.end.peer()), backward);
        circuit.cover(hop, Cover::Loop);
        net.world.run_for(MOMENT);
        assert_eq!(
            net.world.sent(net.end.peer()) - backward,
            CELL_LEN as u64,
            "one came back from hop {hop}"
        );
    }
    let echo = net.world.transfer(&circuit, service("echo"), 50_000).unwrap();
    complete(&mut net.world, &[echo]);
    net.assert_clean(vec![circuit]);
}

/// A client that the test plays, with a circuit over so many relays.
pub fn raw(hops: usize) -> (Network, RawCircuit, tunic_testnet::sim::EndId) {
    let mut net = Network::new(107, 3);
    let node = net.world.raw_client();
    let end = net.world.open(node, net.relays[0], LinkSpec::delay_ms(1));
    let mut rng = net.world.fork_rng();
    let first = net.world.hop(net.relays[0]);
    let id = CircId(CircId::INITIATOR_BIT | 1);
    let (mut circuit, cells) = RawCircuit::create(id, &first, HopNum::FIRST, &mut rng);
    net.world.send_raw(end, &cells);
    net.world.run_for(MOMENT);
    for hop in 0..hops {
        while let Some(cell) = net.world.receive_raw(end) {
            circuit.handle(&cell);
        }
        if hop + 1 < hops {
            let next = net.world.hop(net.relays[hop + 1]);
            let cells = circuit.extend(&next, &mut rng);
            net.world.send_raw(end, &cells);
            net.world.run_for(MOMENT);
        }
    }
    (net, circuit, end)
}

#[test]
fn a_loop_comes_back_from_a_relay_that_is_still_extending() {
    let (mut net, mut circuit, end) = raw(1);
    while let Some(cell) = net.world.receive_raw(end) {
        circuit.handle(&cell);
    }
    // It takes the call and never answers.
    let silent = net.world.raw_relay();
    let (next, mut rng) = (net.world.hop(silent), net.world.fork_rng());
    let extend = circuit.extend(&next, &mut rng);
    let ask = |circuit: &mut RawCircuit| circuit.message_to(HopNum::FIRST, Code::Loop, 0, &[]);
    // Once while it calls that relay, and once while it waits for it.
    let early = ask(&mut circuit);
    net.world.send_raw(end, &extend);
    net.world.send_raw(end, &[early]);
    net.world.run_for(MOMENT);
    let late = ask(&mut circuit);
    net.world.send_raw(end, &[late]);
    net.world.run_for(MOMENT);
    let answers: Vec<_> = std::iter::from_fn(|| net.world.receive_raw(end))
        .filter(|cell| cell::parse_header(cell).is_ok_and(|(_, command)| command == Command::Relay))
        .map(|cell| circuit.open(&cell))
        .collect();
    let looped =
        |(hop, payload): &(HopNum, _)| *hop == HopNum::FIRST && first_byte(payload) == Code::Looped as u8;
    assert_eq!((answers.len(), answers.iter().all(looped)), (2, true));
    assert_eq!(net.world.violations(), []);
}

/// The code of a message.
fn first_byte(payload: &[u8; cell::PAYLOAD_LEN]) -> u8 {
    payload[0]
}

#[test]
fn a_flood_of_cover_traffic_ends_the_circuit() {
    for (hops, code) in [(1, Code::Drop), (2, Code::Drop), (1, Code::Loop), (2, Code::Loop)] {
        let (mut net, mut circuit, end) = raw(hops);
        for _ in 0..16_400 / 8 {
            let cells: Vec<_> = (0..8).map(|_| circuit.message_to(HopNum::FIRST, code, 0, &[])).collect();
            net.world.send_raw(end, &cells);
            net.world.run_for(Duration::from_millis(3));
        }
        assert_eq!(net.world.count(net.relays[0], Incident::Padding), 1, "{code:?} over {hops}");
        assert!(net.world.stored_bytes(net.relays[0]) < 1 << 20);
        assert_eq!(net.world.violations(), []);
    }
}

#[test]
fn machines_are_asked_for_once_and_only_where_a_circuit_goes_on() {
    let ends = |hops: usize, at: HopNum, times: usize| {
        let (mut net, mut circuit, end) = raw(hops);
        let data = asked(MachineKind::BreakPad);
        let cells: Vec<_> = (0..times).map(|_| circuit.message_to(at, Code::Pad, 0, &data)).collect();
        net.world.send_raw(end, &cells);
        net.world.run_for(MOMENT);
        net.relays.iter().map(|relay| net.world.count(*relay, Incident::BadMessage)).sum::<u64>()
    };
    assert_eq!(ends(1, HopNum::FIRST, 1), 1, "the last relay of a circuit");
    assert_eq!(ends(2, HopNum::FIRST, 1), 0);
    assert_eq!(ends(2, HopNum::FIRST, 2), 1);
}

/// The data of `PAD` for a machine without parameters.
pub fn asked(kind: MachineKind) -> Vec<u8> {
    let budget = [&[0, 0, 0, 100][..], &[0, 50]].concat();
    let name = kind.name().as_bytes();
    [&budget[..], &budget, &[name.len() as u8], name, &[0]].concat()
}

/// A client whose first relay the test plays, with a circuit to it.
struct PlayedGuard {
    world: World,
    client: NodeId,
    end: EndId,
    hop: RawHop,
    circuit: CircuitHandle,
}

impl PlayedGuard {
    fn new(seed: u64) -> PlayedGuard {
        let mut world = World::new(seed);
        let client = world.client();
        let relay = world.raw_relay();
        let end = world.open(client, relay, LinkSpec::delay_ms(1)).peer();
        let circuit = world.circuit(end.peer(), &[relay]).unwrap();
        world.run_for(MOMENT);
        let create: Vec<_> = std::iter::from_fn(|| world.receive_raw(end)).collect();
        let (hop, cells) = RawHop::answer(&mut world, relay, &create).unwrap();
        world.send_raw(end, &cells);
        world.run_for(MOMENT);
        assert_eq!(circuit.status(), CircuitStatus::Open);
        PlayedGuard { world, client, end, hop, circuit }
    }

    /// Sends a message so often.
    fn send(&mut self, code: Code, data: &[u8], times: usize) {
        let cells: Vec<_> = (0..times).map(|_| self.hop.message(code, 0, data)).collect();
        self.world.send_raw(self.end, &cells);
        self.world.run_for(MOMENT);
    }

    /// The client has ended the circuit, and counts this against its relay once.
    #[track_caller]
    fn assert_ended(&self, incident: Incident) {
        assert_eq!(self.circuit.status(), CircuitStatus::Closed(DestroyReason::Protocol));
        assert_eq!(self.world.count(self.client, incident), 1);
    }
}

#[test]
fn a_relay_cannot_signal_with_padding_that_nobody_agreed_to() {
    for (code, data) in [(Code::Drop, &[][..]), (Code::Looped, &[]), (Code::Padded, &[0])] {
        let mut guard = PlayedGuard::new(108);
        guard.send(code, data, 1);
        guard.assert_ended(Incident::BadMessage);
    }
}

#[test]
fn a_relay_that_agreed_cannot_pad_beyond_the_budget() {
    let budget = Budget { cells: 20, percent: 0 };
    let mut guard = PlayedGuard::new(109);
    guard.circuit.pad(0, MachineSpec::new(MachineKind::BreakPad, &[], budget, budget).unwrap());
    guard.world.run_for(MOMENT);
    guard.send(Code::Padded, &[0], 1);
    // Credit returns as the client takes cells in.
    for times in [30, 30, 30, 30, 30, 30, 30, 30, 36] {
        guard.send(Code::Drop, &[], times);
    }
    assert_eq!(guard.circuit.status(), CircuitStatus::Open, "256 more than agreed on may be under way");
    guard.send(Code::Drop, &[], 1);
    guard.assert_ended(Incident::Padding);
}

#[test]
fn nobody_between_can_tell_padding_from_the_rest() {
    let (mut net, circuit) = padded(110, spec(MachineKind::Tamaraw), 1);
    let between = net.world.end_between(net.relays[1], net.relays[0]).unwrap();
    net.world.tamper(between, |cell| {
        let (_, command) = cell::parse_header(&cell).unwrap();
        let is_relay = matches!(command, Command::Relay | Command::RelayBlocked);
        assert!(is_relay || matches!(command, Command::Credit | Command::Destroy), "{command:?}");
        // Sealed bytes up to the end of what this depth seals.
        let zeros = cell[HEADER_LEN..CELL_LEN - 34].iter().filter(|byte| **byte == 0).count();
        assert!(!is_relay || zeros < 30, "{zeros} zeros");
        vec![cell]
    });
    let load = net.world.transfer(&circuit, source(20_000), 0).unwrap();
    complete(&mut net.world, &[load]);
    net.world.run_for(MINUTE);
    assert!(net.world.padding(net.client).machine_received > 0);
}
