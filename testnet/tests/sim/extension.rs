//! Extensions that fail, and who is told what (docs/protocol.md §4.4, §4.6 and §6.2).

use std::time::Duration;

use tunic_proto::cell::Command;
use tunic_proto::channel::ChannelError;
use tunic_proto::circuit::{BuildError, CircuitStatus};
use tunic_proto::counters::Incident;
use tunic_proto::ids::{CircId, HopNum};
use tunic_proto::message::DestroyReason;
use tunic_testnet::sim::{Closed, LinkSpec, RawCircuit, Reach, service};

use crate::support::{MINUTE, Network, assert_empty, complete};

/// A path of so many relays, of which the one at `at` looks like this: who is said to have failed, and why?
fn failure(hops: usize, at: usize, reach: Reach) -> BuildError {
    let mut net = Network::new(hops as u64, hops);
    net.world.set_reach(net.relays[at], reach);
    let circuit = net.world.circuit(net.end, &net.relays).unwrap();
    net.world.run_until(MINUTE, |_| circuit.status() != CircuitStatus::Building);
    let CircuitStatus::Failed(error) = circuit.status() else { panic!("{:?}", circuit.status()) };
    drop(circuit);
    net.world.run_for(MINUTE);
    assert_eq!(net.world.violations(), []);
    assert_empty(&net.world, &[&[net.client], &net.relays[..]].concat());
    error
}

#[test]
fn the_client_learns_which_hop_failed_and_why() {
    for hop in 1..8 {
        let told = |reach| failure(8, hop, reach);
        let failed = |reason| BuildError { hop, reason };
        assert_eq!(told(Reach::Unlisted), failed(DestroyReason::UnknownRelay));
        assert_eq!(told(Reach::Unreachable), failed(DestroyReason::ConnectFailed));
        assert_eq!(told(Reach::Refuses), failed(DestroyReason::Handshake));
        assert_eq!(told(Reach::Silent), failed(DestroyReason::Timeout));
    }
    assert_eq!(failure(3, 0, Reach::Refuses), BuildError { hop: 0, reason: DestroyReason::Handshake });
}

#[test]
fn a_relay_that_dies_while_it_is_extended_to_is_named() {
    let mut net = Network::new(1, 3);
    let circuit = net.world.circuit(net.end, &net.relays).unwrap();
    let (middle, last) = (net.relays[1], net.relays[2]);
    let dialled = net.world.run_until(MINUTE, |world| world.end_between(middle, last).is_some());
    assert!(dialled);
    net.world.kill(last);
    net.world.run_for(MINUTE);
    let expected = BuildError { hop: 2, reason: DestroyReason::ConnectFailed };
    assert_eq!(circuit.status(), CircuitStatus::Failed(expected));
    drop(circuit);
    net.world.run_for(MINUTE);
    assert_empty(&net.world, &[&[net.client], &net.relays[..]].concat());
}

#[test]
fn a_full_relay_refuses_and_goes_on() {
    let mut net = Network::new(2, 2);
    net.world.set_max_circuits(net.relays[1], 2);
    let circuits = [net.build(), net.build()];
    let refused = net.world.circuit(net.end, &net.relays).unwrap();
    net.world.run_for(MINUTE);
    let expected = BuildError { hop: 1, reason: DestroyReason::Resources };
    assert_eq!(refused.status(), CircuitStatus::Failed(expected));
    assert_eq!(net.world.count(net.relays[1], Incident::Resources), 1);
    for circuit in &circuits {
        let echo = net.world.transfer(circuit, service("echo"), 10_000).unwrap();
        complete(&mut net.world, &[echo]);
    }
    drop(circuits);
    drop(refused);
    net.world.run_for(MINUTE);
    drop(net.build());
}

#[test]
fn nine_hops_are_impossible() {
    let mut net = Network::new(3, 9);
    let circuit = net.world.circuit(net.end, &net.relays).unwrap();
    net.world.run_for(MINUTE);
    let expected = BuildError { hop: 0, reason: DestroyReason::Internal };
    assert_eq!(circuit.status(), CircuitStatus::Failed(expected));
    assert_eq!(net.world.circuit_count(net.relays[0]), 0);
}

#[test]
fn a_client_cannot_state_a_depth() {
    for depth in 1..8 {
        let mut net = Network::new(4, 1);
        let hostile = net.world.raw_client();
        let end = net.world.open(hostile, net.relays[0], LinkSpec::delay_ms(1));
        let mut rng = net.world.fork_rng();
        let hop = net.world.hop(net.relays[0]);
        let id = CircId(CircId::INITIATOR_BIT | 1);
        let (_, cells) = RawCircuit::create(id, &hop, HopNum::new(depth).unwrap(), &mut rng);
        net.world.send_raw(end, &cells);
        net.world.run_for(Duration::from_secs(1));
        let illegal = Closed::Error(ChannelError::State(Command::Create));
        assert_eq!(net.world.closed(end.peer()), Some(illegal));
        assert_eq!(net.world.count(net.relays[0], Incident::BadCell), 1);
        drop(net.build());
    }
}
