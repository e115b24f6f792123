//! Circuits and streams end to end (docs/protocol.md §4–§6).

use std::time::Duration;

use tunic_proto::circuit::{CircuitStatus, MAX_STREAMS};
use tunic_proto::message::EndReason;
use tunic_testnet::sim::{LinkSpec, service, source};

use crate::support::{MIB, MINUTE, Network, complete, read};

#[test]
fn circuits_of_every_length_carry_a_mebibyte_both_ways() {
    for length in 1..=8 {
        let mut net = Network::new(length as u64, length);
        let circuit = net.build();
        let echo = net.world.transfer(&circuit, service("echo"), MIB).unwrap();
        complete(&mut net.world, std::slice::from_ref(&echo));
        assert_eq!((read(&echo).sent, read(&echo).received), (MIB, MIB));
        net.world.run_for(MINUTE);
        assert_eq!(circuit.stream_count(), 0);
        net.assert_clean(vec![circuit]);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = |seed| {
        let mut net = Network::new(seed, 3);
        let circuit = net.build();
        let echo = |_| net.world.transfer(&circuit, service("echo"), MIB / 16).unwrap();
        let echoes: Vec<_> = (0..10).map(echo).collect();
        complete(&mut net.world, &echoes);
        drop(circuit);
        net.world.run_for(MINUTE);
        net.world.trace()
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

#[test]
fn fifty_streams_share_a_circuit_fairly() {
    let mut net = Network::new(50, 3);
    net.world.set_link(net.end.peer(), LinkSpec { delay: Duration::from_millis(5), rate: Some(1_000_000) });
    let circuit = net.build();
    let download = |_| net.world.transfer(&circuit, source(100_000), 0).unwrap();
    let downloads: Vec<_> = (0..50).map(download).collect();
    net.world.run_for(Duration::from_millis(2_500));
    let halfway: Vec<_> = downloads.iter().map(|download| read(download).received).collect();
    let (least, most) = (halfway.iter().min().unwrap(), halfway.iter().max().unwrap());
    assert!(*least > 30_000 && *most < least + 20_000, "{halfway:?}");
    complete(&mut net.world, &downloads);
    net.assert_clean(vec![circuit]);
}

#[test]
fn each_direction_of_a_stream_ends_by_itself() {
    let mut net = Network::new(3, 3);
    let circuit = net.build();
    // `sink` ends its direction only after ours; `source` ends its own first.
    let up = net.world.transfer(&circuit, service("sink"), 300_000).unwrap();
    let down = net.world.transfer(&circuit, source(300_000), 0).unwrap();
    complete(&mut net.world, &[up.clone(), down.clone()]);
    assert_eq!((read(&up).sent, read(&up).received), (300_000, 0));
    assert_eq!(read(&down).received, 300_000);
    net.world.run_for(MINUTE);
    assert_eq!(circuit.stream_count(), 0);
    net.assert_clean(vec![circuit]);
}

#[test]
fn the_first_bytes_do_not_wait_for_connected() {
    let mut net = Network::new(4, 3);
    let circuit = net.build();
    let begun = net.world.now();
    let echo = net.world.transfer(&circuit, service("echo"), 10_000).unwrap();
    complete(&mut net.world, std::slice::from_ref(&echo));
    let round_trip = Duration::from_millis(30);
    assert_eq!(read(&echo).first_byte_at.unwrap() - begun, round_trip);
}

#[test]
fn a_refused_stream_says_why_and_leaves_nothing() {
    let mut net = Network::new(5, 3);
    let circuit = net.build();
    let refused = net.world.transfer(&circuit, service("refuse"), 100_000).unwrap();
    net.world.run_for(MINUTE);
    assert_eq!(read(&refused).broken, Some(EndReason::Policy));
    assert_eq!(circuit.stream_count(), 0);
    let echo = net.world.transfer(&circuit, service("echo"), 1_000).unwrap();
    complete(&mut net.world, &[echo]);
    net.assert_clean(vec![circuit]);
}

#[test]
fn a_circuit_carries_its_limit_of_streams_and_no_more() {
    let mut net = Network::new(6, 3);
    let circuit = net.build();
    let held: Vec<_> = (0..MAX_STREAMS).map(|_| circuit.begin(service("stalled")).unwrap()).collect();
    assert_eq!(circuit.begin(service("echo")).err(), Some(EndReason::Resources));
    net.world.run_for(MINUTE);
    assert_eq!(circuit.stream_count(), MAX_STREAMS);
    assert_eq!(circuit.begin(service("echo")).err(), Some(EndReason::Resources));
    drop(held);
    net.world.run_for(MINUTE);
    assert_eq!(circuit.stream_count(), 0);
    let echo = net.world.transfer(&circuit, service("echo"), 1_000).unwrap();
    complete(&mut net.world, &[echo]);
    net.assert_clean(vec![circuit]);
}

#[test]
fn stream_ids_are_used_again_for_ever() {
    let mut net = Network::new(7, 1);
    let circuit = net.build();
    for round in 0..66 {
        for _ in 0..1_000 {
            drop(circuit.begin(service("sink")).unwrap());
        }
        let empty = net.world.run_until(MINUTE, |_| circuit.stream_count() == 0);
        assert!(empty, "{} streams left in round {round}", circuit.stream_count());
    }
    assert_eq!(circuit.status(), CircuitStatus::Open);
    let echo = net.world.transfer(&circuit, service("echo"), 10_000).unwrap();
    complete(&mut net.world, &[echo]);
    net.assert_clean(vec![circuit]);
}

#[test]
fn a_directory_stream_needs_one_hop_only() {
    let mut net = Network::new(8, 1);
    let circuit = net.build();
    let answer = net.world.transfer(&circuit, tunic_proto::message::Begin::Directory, 5_000).unwrap();
    complete(&mut net.world, std::slice::from_ref(&answer));
    assert_eq!(read(&answer).received, 5_000);
    net.assert_clean(vec![circuit]);
}
