//! However and whenever circuits end, nothing is left of them, and no honest neighbour is blamed
//! (docs/protocol.md §4.5).

use std::task::Context;
use std::time::Duration;

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use tunic_proto::cell::{self, Command};
use tunic_proto::channel::Channel;
use tunic_proto::circuit::{CircuitHandle, CircuitStatus};
use tunic_proto::stream::StreamIo;
use tunic_testnet::sim::{App, EndId, LinkSpec, Next, NodeId, World, service, source};

use crate::support::{MIB, MINUTE, Network, assert_empty, complete};

const MOMENTS: u64 = 60;

/// Nothing may be left anywhere once the client has let go, and nobody saw a violation.
fn assert_all_gone(world: &mut World, nodes: &[NodeId]) {
    world.run_for(2 * MINUTE);
    assert_eq!(world.violations(), []);
    assert_empty(world, nodes);
    assert_eq!(world.app_count(), 0);
}

/// Ends a circuit in one way at many moments of building it and of using it.
fn end_at_any_moment(end: impl Fn(&mut Network, &mut Option<CircuitHandle>)) {
    for moment in 0..MOMENTS {
        let mut net = Network::new(moment, 4);
        let mut circuit = net.world.circuit(net.end, &net.relays);
        net.world.run_for(Duration::from_millis(moment * 4));
        if let Some(circuit) = &circuit {
            for target in [service("echo"), service("sink"), service("mute"), service("stalled")] {
                let _ = net.world.transfer(circuit, target, MIB / 2);
            }
        }
        net.world.run_for(Duration::from_millis(moment % 20));
        end(&mut net, &mut circuit);
        net.world.run_for(Duration::from_millis(moment % 7));
        drop(circuit);
        let nodes = [&[net.client], &net.relays[..]].concat();
        assert_all_gone(&mut net.world, &nodes);
    }
}

#[test]
fn a_client_may_let_go_at_any_moment() {
    end_at_any_moment(|_, circuit| drop(circuit.take()));
}

#[test]
fn a_relay_may_die_at_any_moment() {
    for relay in 0..4 {
        end_at_any_moment(|net, _| net.world.kill(net.relays[relay]));
    }
}

#[test]
fn a_relay_may_end_its_circuits_at_any_moment() {
    for relay in 0..4 {
        end_at_any_moment(|net, _| {
            for end in net.world.ends_of(net.relays[relay]) {
                net.world.with_channel(end, Channel::end_all);
            }
        });
    }
}

#[test]
fn both_sides_may_end_a_circuit_at_once() {
    for relay in 0..4 {
        end_at_any_moment(|net, circuit| {
            drop(circuit.take());
            let ends = net.world.ends_of(net.relays[relay]);
            ends.into_iter().for_each(|end| net.world.with_channel(end, Channel::end_all));
        });
    }
}

#[test]
fn a_circuit_whose_client_grants_nothing_ends_all_the_same() {
    let mut net = Network::new(1, 3);
    let circuit = net.build();
    net.world.tamper(net.end, |cell| match cell::parse_header(&cell) {
        Ok((_, Command::Credit)) => vec![],
        _ => vec![cell],
    });
    net.world.transfer(&circuit, source(MIB), 0).unwrap();
    net.world.run_for(MINUTE);
    net.world.kill(net.relays[2]);
    let told = net.world.run_until(MINUTE, |_| circuit.status() != CircuitStatus::Open);
    assert!(told);
    let nodes = [&[net.client], &net.relays[..]].concat();
    drop(circuit);
    assert_all_gone(&mut net.world, &nodes);
}

/// Drops its stream at some time, whatever goes on.
struct Quitter(Option<StreamIo>, Duration);

impl App for Quitter {
    fn poll(&mut self, cx: &mut Context<'_>, now: Duration) -> Next {
        match &self.0 {
            Some(stream) if now < self.1 => {
                let _ = stream.poll_write(cx, &[7; 10_000]);
                let _ = stream.poll_read(cx, &mut [0; 3_000]);
                Next::At(self.1.min(now + Duration::from_millis(9)))
            }
            _ => {
                self.0 = None;
                Next::Done
            }
        }
    }
}

/// Clients, relays and circuits among which things happen at random.
struct Bustle<R> {
    rng: R,
    world: World,
    clients: Vec<(NodeId, EndId)>,
    relays: Vec<NodeId>,
    circuits: Vec<CircuitHandle>,
}

impl<R: Rng> Bustle<R> {
    fn link(&mut self) -> LinkSpec {
        let rate = [None, None, Some(200_000), Some(5_000_000)][self.rng.random_range(0..4)];
        LinkSpec { delay: Duration::from_micros(self.rng.random_range(0..30_000)), rate }
    }

    fn connect(&mut self, client: usize) {
        let (link, relay) = (self.link(), *self.relays.choose(&mut self.rng).unwrap());
        self.clients[client].1 = self.world.open(self.clients[client].0, relay, link);
    }

    fn build(&mut self, client: usize) {
        let (node, end) = self.clients[client];
        let first = self.relays.iter().find(|relay| self.world.end_between(node, **relay) == Some(end));
        let Some(first) = first.copied() else { return self.connect(client) };
        let hops = self.rng.random_range(0..6);
        let mut path = vec![first];
        path.extend((0..hops).map(|_| *self.relays.choose(&mut self.rng).unwrap()));
        self.circuits.extend(self.world.circuit(end, &path));
    }

    fn stream(&mut self, circuit: usize) {
        let names = ["echo", "sink", "mute", "stalled", "refuse", "source-100000"];
        let target = service(names.choose(&mut self.rng).unwrap());
        let circuit = &self.circuits[circuit];
        if self.rng.random_bool(0.3) {
            let until = self.world.now() + Duration::from_millis(self.rng.random_range(0..300));
            if let Ok(stream) = circuit.begin(target) {
                self.world.spawn(Box::new(Quitter(Some(stream), until)));
            }
        } else {
            let upload = self.rng.random_range(0..200_000);
            let _ = self.world.transfer(circuit, target, upload);
        }
    }

    fn step(&mut self) {
        let client = self.rng.random_range(0..self.clients.len());
        match self.rng.random_range(0..100) {
            0..35 => self.build(client),
            35..65 if !self.circuits.is_empty() => {
                let circuit = self.rng.random_range(0..self.circuits.len());
                self.stream(circuit);
            }
            65..80 if !self.circuits.is_empty() => {
                let circuit = self.rng.random_range(0..self.circuits.len());
                drop(self.circuits.swap_remove(circuit));
            }
            80..84 => self.world.cut(self.clients[client].1),
            84..87 => {
                let relay = *self.relays.choose(&mut self.rng).unwrap();
                if let Some(end) = self.world.ends_of(relay).choose(&mut self.rng) {
                    self.world.cut(*end);
                }
            }
            87..90 => {
                let relay = *self.relays.choose(&mut self.rng).unwrap();
                if let Some(end) = self.world.ends_of(relay).choose(&mut self.rng) {
                    self.world.with_channel(*end, Channel::end_all);
                }
            }
            _ => {}
        }
        let pause = self.rng.random_range(0..40_000);
        self.world.run_for(Duration::from_micros(pause));
    }
}

/// 150 random things in a small network; the result is the trace.
fn bustle(seed: u64) -> u64 {
    let mut world = World::new(seed);
    let relays = world.relays(4);
    let clients: Vec<_> = (0..3).map(|_| world.client()).collect();
    let first = relays[0];
    let clients =
        clients.into_iter().map(|node| (node, world.open(node, first, LinkSpec::delay_ms(3)))).collect();
    let rng = world.fork_rng();
    let mut bustle = Bustle { rng, world, clients, relays, circuits: vec![] };
    for _ in 0..150 {
        bustle.step();
    }
    let nodes: Vec<_> =
        bustle.clients.iter().map(|client| client.0).chain(bustle.relays.iter().copied()).collect();
    bustle.circuits.clear();
    assert_all_gone(&mut bustle.world, &nodes);
    for node in nodes {
        let counters = bustle.world.counters(node).to_string();
        assert_eq!(counters, "none");
    }
    bustle.world.trace()
}

#[test]
fn random_bustle_leaves_nothing_and_blames_nobody() {
    for seed in 0..30 {
        println!("seed {seed}");
        bustle(seed);
    }
}

#[test]
fn random_bustle_is_the_same_for_the_same_seed() {
    assert_eq!(bustle(7), bustle(7));
}

#[test]
fn circuits_are_built_again_and_again_over_the_same_channels() {
    let mut net = Network::new(2, 3);
    for _ in 0..300 {
        let circuit = net.build();
        let echo = net.world.transfer(&circuit, service("echo"), 1_000).unwrap();
        complete(&mut net.world, &[echo]);
    }
    net.assert_clean(vec![]);
}
