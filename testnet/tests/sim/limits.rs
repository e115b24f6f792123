//! Strangers who ask for more than their share, and honest clients who are served meanwhile (docs/protocol.md §12).

use std::net::IpAddr;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use tunic_proto::cell::{Cell, Command, HEADER_LEN};
use tunic_proto::circuit::{BuildError, CircuitStatus};
use tunic_proto::counters::Incident;
use tunic_proto::ids::{CircId, HopNum};
use tunic_proto::limits::Params;
use tunic_proto::message::DestroyReason;
use tunic_testnet::sim::{EndId, LinkSpec, NodeId, RawCircuit, service};

use crate::support::{Network, complete};

const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(1);
/// What a handshake costs a relay's core.
const COST: Duration = Duration::from_micros(100);
const LINK: LinkSpec = LinkSpec { delay: Duration::from_millis(5), rate: None };

/// Three relays with limits, and a client that has a channel and uses it.
fn guarded(params: Params) -> Network {
    let mut net = Network::new(71, 3);
    for relay in net.relays.clone() {
        net.world.guard(relay, params, COST);
    }
    net
}

/// The honest client builds a circuit and uses it, each within a second; so does one that comes new.
fn honest_are_served(net: &mut Network) {
    let newcomer = net.world.client();
    let end = net.world.open(newcomer, net.relays[0], LINK);
    for end in [net.end, end] {
        let begun = net.world.now();
        let circuit = net.world.build(end, &net.relays);
        let echo = net.world.transfer(&circuit, service("echo"), 10_000).unwrap();
        complete(&mut net.world, &[echo]);
        let took = net.world.now() - begun;
        assert!(took < SECOND, "{took:?}");
    }
}

/// A client that the test plays, with so many channels, opened slowly enough.
fn flooder(net: &mut Network, ip: [u8; 4], channels: usize) -> Vec<EndId> {
    let node = net.world.raw_client();
    net.world.set_address(node, IpAddr::from(ip));
    let mut open = |_| {
        net.world.run_for(SECOND / 20);
        net.world.open(node, net.relays[0], LINK)
    };
    (0..channels).map(&mut open).collect()
}

/// The cells that ask for one circuit.
fn create(net: &Network, number: u32, rng: &mut ChaCha20Rng) -> Vec<Cell> {
    let id = CircId(CircId::INITIATOR_BIT | number);
    RawCircuit::create(id, &net.world.hop(net.relays[0]), HopNum::FIRST, rng).1
}

/// How many of what came back are (the last parts of) answers, and refusals.
fn answers(net: &mut Network, ends: &[EndId]) -> (usize, usize) {
    let (mut created, mut destroyed) = (0, 0);
    for end in ends {
        while let Some(cell) = net.world.receive_raw(*end) {
            match cell[HEADER_LEN - 1] {
                command if command == Command::Created as u8 => created += 1,
                command if command == Command::Destroy as u8 => {
                    assert_eq!(cell[HEADER_LEN], DestroyReason::Resources as u8);
                    destroyed += 1;
                }
                other => panic!("command {other}"),
            }
        }
    }
    (created / 3, destroyed)
}

fn count(net: &Network, incident: Incident) -> u64 {
    net.world.count(net.relays[0], incident)
}

#[test]
fn a_flood_of_channels_keeps_nobody_else_out() {
    let mut net = guarded(Params::default());
    let node = net.world.raw_client();
    net.world.set_address(node, IpAddr::from([192, 0, 2, 1]));
    let mut attempts: Vec<EndId> = (0..500).map(|_| net.world.connect(node, net.relays[0], LINK)).collect();
    net.world.run_for(SECOND);
    let open = |net: &Network, attempts: &[EndId]| {
        attempts.iter().filter(|end| net.world.is_open(end.peer())).count()
    };
    assert_eq!(open(&net, &attempts), 40, "the burst");
    assert_eq!(count(&net, Incident::ChannelRate), 460);
    honest_are_served(&mut net);
    for _ in 0..10 {
        net.world.run_for(SECOND);
        attempts.extend((0..50).map(|_| net.world.connect(node, net.relays[0], LINK)));
    }
    net.world.run_for(SECOND);
    assert_eq!(open(&net, &attempts), 100);
    assert!(count(&net, Incident::ChannelCount) > 0);
    honest_are_served(&mut net);
    attempts.into_iter().for_each(|end| net.world.cut(end));
    net.world.run_for(10 * SECOND);
    let again = net.world.open(node, net.relays[0], LINK);
    assert!(net.world.is_open(again), "who closes channels may open others");
}

#[test]
fn a_flood_of_circuits_from_one_address_ends_for_an_hour_and_others_are_served() {
    let mut net = guarded(Params::default());
    let ends = flooder(&mut net, [192, 0, 2, 1], 4);
    let mut rng = net.world.fork_rng();
    for number in 1..=400_u32 {
        let cells = create(&net, number, &mut rng);
        net.world.send_raw(ends[number as usize % 4], &cells);
    }
    net.world.run_for(SECOND);
    assert_eq!(answers(&mut net, &ends), (90, 310));
    assert_eq!(count(&net, Incident::CircuitRate), 310);
    honest_are_served(&mut net);
    net.world.run_for(3_000 * SECOND);
    let cells = create(&net, 1_000, &mut rng);
    net.world.send_raw(ends[0], &cells);
    net.world.run_for(SECOND);
    assert_eq!(answers(&mut net, &ends), (0, 1));
    net.world.run_for(600 * SECOND);
    let cells = create(&net, 1_001, &mut rng);
    net.world.send_raw(ends[0], &cells);
    net.world.run_for(SECOND);
    assert_eq!(answers(&mut net, &ends), (1, 0));
}

#[test]
fn a_flood_of_handshakes_waits_behind_itself() {
    // Two channels: too few to be held to a rate, since many people may share an address.
    let mut net = guarded(Params { handshakes_waiting: 1_000, handshake_wait_ms: 50, ..Params::default() });
    net.world.set_max_circuits(net.relays[0], 10_000);
    let ends = flooder(&mut net, [192, 0, 2, 1], 2);
    let mut rng = net.world.fork_rng();
    for number in 1..=1_800_u32 {
        let cells = create(&net, number, &mut rng);
        net.world.send_raw(ends[number as usize % 2], &cells);
    }
    net.world.run_for(LINK.delay);
    assert_eq!(count(&net, Incident::HandshakeLoad), 800, "as many as there is no room for");
    honest_are_served(&mut net);
    net.world.run_for(SECOND);
    // One core answers 500 in the 50 ms that one may wait; the honest ones are among them.
    let (answered, refused) = answers(&mut net, &ends);
    assert_eq!(answered + refused, 1_800);
    assert!((480..=501).contains(&answered), "{answered}");
    assert_eq!(count(&net, Incident::HandshakeLoad), refused as u64);
}

#[test]
fn who_is_refused_for_load_is_told_so() {
    let mut net = guarded(Params::default());
    net.world.guard(net.relays[0], Params { handshakes_waiting: 16, ..Params::default() }, 10 * MOMENT);
    let ends = flooder(&mut net, [192, 0, 2, 1], 1);
    let mut rng = net.world.fork_rng();
    // From the honest client's own subnet.
    let flooder: NodeId = net.world.node_of(ends[0]);
    net.world.set_address(flooder, net.world.address(net.client));
    let circuit = net.world.circuit(net.end, &net.relays).unwrap();
    net.world.run_for(MOMENT);
    for number in 1..=100_u32 {
        let cells = create(&net, number, &mut rng);
        net.world.send_raw(ends[0], &cells);
    }
    net.world.run_for(SECOND);
    let told = BuildError { hop: 0, reason: DestroyReason::Resources };
    assert_eq!(circuit.status(), CircuitStatus::Failed(told));
}

#[test]
fn circuits_that_come_through_relays_are_not_held_to_what_one_address_may() {
    let mut net = guarded(Params::default());
    let circuits: Vec<_> = (0..40)
        .flat_map(|_| {
            let client = net.world.client();
            let end = net.world.open(client, net.relays[0], LINK);
            (0..5).map(|_| net.world.circuit(end, &net.relays).unwrap()).collect::<Vec<_>>()
        })
        .collect();
    net.world.run_for(10 * SECOND);
    assert!(circuits.iter().all(|circuit| circuit.status() == CircuitStatus::Open));
    assert!(net.relays.iter().all(|relay| net.world.counters(*relay).to_string() == "none"));
}

#[test]
fn the_longest_paths_cost_others_nothing() {
    let mut net = guarded(Params::default());
    let more = net.world.relays(5);
    more.iter().for_each(|relay| net.world.guard(*relay, Params::default(), COST));
    let longest = [&net.relays[..], &more[..]].concat();
    let long: Vec<_> = (0..50).map(|_| net.world.build(net.end, &longest)).collect();
    assert!(long.iter().all(|circuit| circuit.status() == CircuitStatus::Open));
    honest_are_served(&mut net);
}
