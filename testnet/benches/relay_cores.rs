//! What a second core is worth to a relay: `cargo bench -p tunic-testnet --bench relay_cores`. The ratio is printed last.
//!
//! 1. Eight clients have eight circuits each through one relay to eight others, one circuit to each, and upload. Between them all are
//!    real TLS sessions and real channels, without sockets.
//! 2. Timed is the relay alone, which has sixteen channels: everything that has come is taken, then everything is sent. What clients and the
//!    other relays do is not timed.
//! 3. By turns one thread does all of it, and two threads do half of the channels each, as tokio's workers do; cells of each
//!    thread go to channels of both.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod chain;

use std::sync::Barrier;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use tunic_net::channel::Tls;
use tunic_net::processor::layer_cipher;
use tunic_proto::cell::CELL_LEN;
use tunic_proto::channel::{Event, Role};
use tunic_proto::circuit::{CircuitHandle, CircuitStatus, HopSpec};
use tunic_proto::crypto::handshake::respond;
use tunic_proto::ids::RelayId;
use tunic_proto::keys::OnionSecret;
use tunic_proto::message::{DestroyReason, Target};
use tunic_proto::stream::StreamIo;

use chain::{End, drain, sessions};

/// Channels on each side of the relay; each of the clients has a circuit to each of the relays behind.
const SIDE: usize = 8;
const RELAY: RelayId = RelayId([1; 32]);

fn behind(number: usize) -> RelayId {
    RelayId([10 + number as u8; 32])
}

struct Network {
    clients: Vec<End>,
    /// The relay's channels to clients, and then those to the relays behind.
    relay: Vec<End>,
    ends: Vec<End>,
    onion: OnionSecret,
    rng: ChaCha20Rng,
    sinks: Vec<StreamIo>,
}

impl Network {
    fn new() -> Network {
        let tls = Tls::new().unwrap();
        let mut rng = ChaCha20Rng::from_seed([9; 32]);
        let onion = OnionSecret::generate(&mut rng);
        let (mut clients, mut relay, mut ends) = (vec![], vec![], vec![]);
        for number in 0..SIDE {
            let (client, near) = sessions(&tls);
            clients.push(End::new(Role::Initiator, Some(RELAY), client, number as u8));
            relay.push(End::new(Role::Responder, None, near, 50 + number as u8));
        }
        for number in 0..SIDE {
            let (far, end) = sessions(&tls);
            relay.push(End::new(Role::Initiator, Some(behind(number)), far, 100 + number as u8));
            ends.push(End::new(Role::Responder, Some(RELAY), end, 150 + number as u8));
        }
        Network { clients, relay, ends, onion, rng, sinks: vec![] }
    }

    /// A stream from each client over each of the relays behind.
    fn streams(&mut self) -> Vec<StreamIo> {
        let onion_key = self.onion.public();
        let mut circuits = Vec::new();
        for client in &self.clients {
            for number in 0..SIDE {
                let hops = [RELAY, behind(number)].map(|id| HopSpec { id, onion_key });
                circuits.push(CircuitHandle::create(client.core.inbox(), hops.to_vec()));
            }
        }
        while circuits.iter().any(|circuit| circuit.status() == CircuitStatus::Building) {
            self.turn(1);
        }
        let target = || Target::Name("sink".to_owned(), 1).into();
        let streams: Vec<StreamIo> =
            circuits.iter().map(|circuit| circuit.begin(target()).unwrap()).collect();
        while self.sinks.len() < streams.len() {
            self.turn(1);
        }
        // The circuits live as long as their handles.
        circuits.into_iter().for_each(std::mem::forget);
        streams
    }

    /// Everyone sends and receives once. Returns how long the relay took with so many threads, and how many cells it passed on
    /// away from the clients.
    fn turn(&mut self, threads: usize) -> (Duration, usize) {
        for end in self.clients.iter_mut().chain(&mut self.ends) {
            end.send();
        }
        let wires: Vec<Vec<u8>> =
            self.clients.iter_mut().chain(&mut self.ends).map(|end| std::mem::take(&mut end.wire)).collect();
        let started = Instant::now();
        work(&mut self.relay, &wires, threads);
        let spent = started.elapsed();
        let cells = self.relay[..SIDE].iter().map(|near| near.plain.len() / CELL_LEN).sum();
        for (other, relay) in self.clients.iter_mut().chain(&mut self.ends).zip(&mut self.relay) {
            other.receive(&std::mem::take(&mut relay.wire));
        }
        self.answer();
        self.sinks.iter().for_each(drain);
        (spent, cells)
    }

    /// What the relays' shells do.
    fn answer(&mut self) {
        let inboxes: Vec<_> = self.relay[SIDE..].iter().map(|far| far.core.inbox().clone()).collect();
        let near = self.relay[..SIDE].iter_mut().map(|end| (RELAY, end));
        let ends = self.ends.iter_mut().enumerate().map(|(number, end)| (behind(number), end));
        for (id, end) in near.chain(ends) {
            while let Some(event) = end.core.poll_event() {
                match event {
                    Event::Handshake(job) => {
                        let onion = std::slice::from_ref(&self.onion);
                        let answer = respond(&job.request, id, onion, layer_cipher(), &mut self.rng).ok();
                        job.answer(answer.ok_or(DestroyReason::Handshake));
                    }
                    Event::Extend(job) => {
                        let number = usize::from(job.id.0[0] - 10);
                        job.answer(Ok(inboxes[number].clone()));
                    }
                    Event::Begin(_, stream) => {
                        stream.accept(None);
                        self.sinks.push(stream);
                    }
                }
            }
        }
    }

    /// The relay's time for this many cells.
    fn pass(&mut self, streams: &[StreamIo], cells: u64, threads: usize) -> Duration {
        let data = [7; 64 * 1024];
        let mut cx = Context::from_waker(Waker::noop());
        let (mut total, mut passed) = (Duration::ZERO, 0);
        while passed < cells {
            for stream in streams {
                let _ = stream.poll_write(&mut cx, &data);
            }
            let (spent, count) = self.turn(threads);
            total += spent;
            passed += count as u64;
        }
        // What criterion divides by is what it asked for.
        total.mul_f64(cells as f64 / passed as f64)
    }
}

/// The relay's work on what has come: all channels in one thread, or each second one in each of two.
fn work(channels: &mut [End], wires: &[Vec<u8>], threads: usize) {
    let mut parts: Vec<Vec<(&mut End, &Vec<u8>)>> = (0..threads).map(|_| Vec::new()).collect();
    for (number, pair) in channels.iter_mut().zip(wires).enumerate() {
        parts[number % threads].push(pair);
    }
    let all_received = Barrier::new(threads);
    let each = |part: Vec<(&mut End, &Vec<u8>)>| {
        let mut part = part;
        part.iter_mut().for_each(|(end, wire)| end.receive(wire));
        all_received.wait();
        part.iter_mut().for_each(|(end, _)| end.send());
    };
    std::thread::scope(|scope| {
        let mine = parts.pop();
        parts.into_iter().for_each(|part| {
            scope.spawn(|| each(part));
        });
        mine.into_iter().for_each(each);
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args().measurement_time(Duration::from_secs(5));
    let mut group = criterion.benchmark_group("64 circuits through a relay");
    group.throughput(Throughput::Bytes(CELL_LEN as u64));
    let mut network = Network::new();
    let streams = network.streams();
    let mut spent = [Duration::ZERO; 2];
    let mut passed = [0; 2];
    for (index, name) in ["one thread", "two threads"].into_iter().enumerate() {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|cells| {
                let time = network.pass(&streams, cells, index + 1);
                spent[index] += time;
                passed[index] += cells;
                time
            });
        });
    }
    group.finish();
    let rate = |index: usize| passed[index] as f64 / spent[index].as_secs_f64().max(f64::MIN_POSITIVE);
    println!("one thread {:.0} cells/s, two {:.0}", rate(0), rate(1));
    println!("ratio {:.2}", rate(1) / rate(0).max(1.0));
}
