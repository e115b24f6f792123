//! Whoever changes, drops, repeats or reorders cells ends that circuit and nothing else (docs/protocol.md §5.5).

use std::time::Duration;

use tunic_proto::cell::{self, Cell, Command, HEADER_LEN};
use tunic_proto::circuit::CircuitStatus;
use tunic_proto::counters::Incident;
use tunic_proto::message::DestroyReason;
use tunic_testnet::sim::{EndId, NodeId, service};

use crate::support::{MIB, MINUTE, Network, assert_empty, complete, read};

/// Which cell of the circuit is tampered with.
const TIME: usize = 100;
const BEFORE: usize = TIME - 1;

/// What is done to the cells of one circuit, after some have passed. Never are there more cells than before: beyond
/// the credit they would end the channel.
#[derive(Debug, Clone, Copy)]
enum Attack {
    Flip(usize),
    Drop,
    /// Send one twice, instead of the next.
    Duplicate,
    /// Send an old one instead.
    Replay,
    /// Swap two.
    Reorder,
    /// Send one that was made up instead.
    Inject,
}

/// Attacks the first circuit that has cells on the way.
fn attack(attack: Attack) -> impl FnMut(Cell) -> Vec<Cell> {
    let mut victim = None;
    let (mut seen, mut kept) = (0, None::<Cell>);
    move |mut cell| {
        let Ok((id, Command::Relay | Command::RelayBlocked)) = cell::parse_header(&cell) else {
            return vec![cell];
        };
        if *victim.get_or_insert(id) != id {
            return vec![cell];
        }
        seen += 1;
        match (attack, seen) {
            (Attack::Flip(bit), TIME) => cell[HEADER_LEN + bit / 8] ^= 1 << (bit % 8),
            (Attack::Drop, TIME) => return vec![],
            (Attack::Duplicate, BEFORE) | (Attack::Replay, 1) => kept = Some(cell),
            (Attack::Duplicate | Attack::Replay, TIME) => return kept.take().into_iter().collect(),
            (Attack::Reorder, BEFORE) => return kept.replace(cell).into_iter().collect(),
            (Attack::Reorder, TIME) => return [Some(cell), kept.take()].into_iter().flatten().collect(),
            (Attack::Inject, TIME) => {
                return vec![cell::build(id, Command::Relay, &[0x5a; cell::PAYLOAD_LEN])];
            }
            _ => {}
        }
        vec![cell]
    }
}

/// Attacks the way out or back of a three-hop circuit at one place; who of client (0) and relays counts it?
fn check(attacked: Attack, from: usize, to: usize) -> Vec<usize> {
    let forward = from < to;
    let mut net = Network::new(21, 3);
    let victim = net.build();
    let bystander = net.build();
    let end = link(&net, from, to);
    net.world.tamper(end, attack(attacked));
    let (up, down) = if forward { (MIB, service("sink")) } else { (0, service(&format!("source-{MIB}"))) };
    let broken = net.world.transfer(&victim, down, up).unwrap();
    net.world.run_for(Duration::from_millis(3));
    let going_on = net.world.transfer(&bystander, service("echo"), MIB / 4).unwrap();
    net.world.run_for(MINUTE);
    assert!(read(&broken).broken.is_some() && !read(&broken).damaged, "{:?}", read(&broken));
    let told = victim.status();
    complete(&mut net.world, &[going_on]);
    assert_eq!(bystander.status(), CircuitStatus::Open);
    assert_eq!(net.world.violations(), []);
    drop((victim, bystander));
    net.world.run_for(MINUTE);
    let nodes: Vec<NodeId> = [&[net.client], &net.relays[..]].concat();
    assert_empty(&net.world, &nodes);
    let tampered = |node: &NodeId| net.world.count(*node, Incident::Tampered);
    assert!(nodes.iter().map(tampered).sum::<u64>() <= 1);
    let noticed: Vec<_> = (0..nodes.len()).filter(|n| tampered(&nodes[*n]) > 0).collect();
    match (told, noticed.as_slice()) {
        // The client knows whose layer it was.
        (CircuitStatus::Tampered(hop), [0]) => assert_eq!(hop, to),
        // A relay gives the reason to whom it blames; it is not passed on.
        (CircuitStatus::Closed(DestroyReason::Protocol), [1]) => assert!(forward),
        (CircuitStatus::Closed(DestroyReason::None), _) => {}
        (told, noticed) => panic!("{told:?}, noticed by {noticed:?}"),
    }
    noticed
}

/// The link from one node to its neighbour: 0 is the client.
fn link(net: &Network, from: usize, to: usize) -> EndId {
    let nodes = [&[net.client], &net.relays[..]].concat();
    let called = net.world.end_between(nodes[from], nodes[to]);
    called.unwrap_or_else(|| net.world.end_between(nodes[to], nodes[from]).unwrap().peer())
}

fn attacks() -> impl Iterator<Item = Attack> {
    let flips = [0, 7, 8 * 100, 8 * 400, 8 * 472, 8 * 490, 8 * 507 - 1].into_iter().map(Attack::Flip);
    flips.chain([Attack::Drop, Attack::Duplicate, Attack::Replay, Attack::Reorder, Attack::Inject])
}

#[test]
fn the_next_hop_ends_a_circuit_that_was_tampered_with_on_the_way_out() {
    for hop in 0..3 {
        for attack in attacks() {
            assert_eq!(check(attack, hop, hop + 1), [hop + 1], "{attack:?} before hop {hop}");
        }
    }
}

#[test]
fn the_client_or_the_next_hop_ends_a_circuit_that_was_tampered_with_on_the_way_back() {
    for hop in 0..3 {
        for attack in attacks() {
            // Only the client has the keys of what comes back; a relay notices filler that is not zero.
            let filler = matches!(attack, Attack::Flip(bit) if bit / 8 >= 507 - 17 * hop)
                || (hop > 0 && matches!(attack, Attack::Inject));
            let noticed = if filler { hop } else { 0 };
            let by = check(attack, hop + 1, hop);
            assert_eq!(by, [noticed], "{attack:?} before hop {hop}");
        }
    }
}
