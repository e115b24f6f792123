//! What a second core is worth to a relay: `cargo bench -p tunic-testnet --bench relay_cores`. The ratio is printed last.
//!
//! 1. Eight clients have eight circuits each through one relay to eight others, one circuit to each, and upload. Between them all are
//!    real TLS sessions and real channels, without sockets.
//! 2. Timed is the relay alone, which has sixteen channels: what has come is taken, one channel after the other, and then what they have
//!    is sent. What clients and the other relays do is not timed.
//! 3. By turns one thread does all of it, and two threads each take the next channel that has something to do, as tokio's workers do;
//!    cells of each thread go to channels of both.
//! 4. The other ends send and receive in both threads, half each and in both cases, so that one thread finds as much in its own core's
//!    cache as two, as far as the system leaves threads where they are: half of what came. One thread works while the other one waits awake.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod chain;

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Waker};
use std::thread::yield_now;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use tunic_net::channel::{Buffer, Tls};
use tunic_net::processor::layer_cipher;
use tunic_proto::cell::CELL_LEN;
use tunic_proto::channel::{Event, Role};
use tunic_proto::circuit::{CircuitHandle, CircuitStatus, HopSpec};
use tunic_proto::crypto::handshake::respond;
use tunic_proto::ids::RelayId;
use tunic_proto::keys::OnionSecret;
use tunic_proto::message::{DestroyReason, Target};
use tunic_proto::stream::StreamIo;

use chain::{End, drain, median, sessions};

/// Channels on each side of the relay; each of the clients has a circuit to each of the relays behind.
const SIDE: usize = 8;
/// Rounds of one thread and two by turns, and the cells of each.
const ROUNDS: usize = 51;
const ROUND_CELLS: u64 = 100_000;
/// How often a thread looks for the other one before it lets others run.
const LOOKS: u32 = 100_000;
/// Threads at the most: those that there are.
const THREADS: usize = 2;
const RELAY: RelayId = RelayId([1; 32]);

fn behind(number: usize) -> RelayId {
    RelayId([10 + number as u8; 32])
}

/// One end of a channel and what has come for it.
struct Place {
    end: End,
    come: Buffer,
}

impl Place {
    fn new(end: End) -> Mutex<Place> {
        Mutex::new(Place { end, come: Buffer::new() })
    }

    fn receive(&mut self) {
        self.end.receive(&self.come);
        self.come.clear();
    }
}

/// Gives each what the other has sent, and its empty buffer back.
fn exchange(one: &mut Place, other: &mut Place) {
    std::mem::swap(&mut one.end.wire, &mut other.come);
    std::mem::swap(&mut other.end.wire, &mut one.come);
}

/// Where both threads wait for each other, awake: to be woken takes longer than what is timed.
#[derive(Default)]
struct Gate(AtomicUsize);

impl Gate {
    fn pass(&self) {
        let all = (self.0.fetch_add(1, Ordering::AcqRel) / THREADS + 1) * THREADS;
        let mut looks = 0;
        while self.0.load(Ordering::Acquire) < all {
            looks += 1;
            // Who it waits for may need this core.
            if looks > LOOKS { yield_now() } else { spin_loop() }
        }
    }
}

struct Network {
    /// The relay's channels to clients, and then those to the relays behind.
    relay: Vec<Mutex<Place>>,
    /// Their other ends.
    others: Vec<Mutex<Place>>,
    gate: Gate,
    /// What was taken in hand of a turn's work, and when each thread began with it.
    done: AtomicUsize,
    began: [Mutex<Instant>; THREADS],
    over: AtomicBool,
    shell: Mutex<Shell>,
}

/// What the relays' shells have.
struct Shell {
    onion: OnionSecret,
    rng: ChaCha20Rng,
    sinks: Vec<StreamIo>,
}

fn at(place: &Mutex<Place>) -> MutexGuard<'_, Place> {
    place.lock().unwrap()
}

impl Network {
    fn new() -> Network {
        let tls = Tls::new().unwrap();
        let mut rng = ChaCha20Rng::from_seed([9; 32]);
        let onion = OnionSecret::generate(&mut rng);
        let (mut relay, mut others) = (vec![], vec![]);
        for number in 0..SIDE {
            let (client, near) = sessions(&tls);
            others.push(Place::new(End::new(Role::Initiator, Some(RELAY), client, number as u8)));
            relay.push(Place::new(End::new(Role::Responder, None, near, 50 + number as u8)));
        }
        for number in 0..SIDE {
            let (far, end) = sessions(&tls);
            relay.push(Place::new(End::new(Role::Initiator, Some(behind(number)), far, 100 + number as u8)));
            others.push(Place::new(End::new(Role::Responder, Some(RELAY), end, 150 + number as u8)));
        }
        let shell = Mutex::new(Shell { onion, rng, sinks: vec![] });
        Network {
            relay,
            others,
            gate: Gate::default(),
            done: AtomicUsize::new(0),
            began: std::array::from_fn(|_| Mutex::new(Instant::now())),
            over: AtomicBool::new(false),
            shell,
        }
    }

    /// A stream from each client over each of the relays behind.
    fn streams(&self) -> Vec<StreamIo> {
        let onion_key = self.shell.lock().unwrap().onion.public();
        let mut circuits = Vec::new();
        for client in &self.others[..SIDE] {
            for number in 0..SIDE {
                let hops = [RELAY, behind(number)].map(|id| HopSpec { id, onion_key });
                circuits.push(CircuitHandle::create(at(client).end.core.inbox(), hops.to_vec()));
            }
        }
        self.turns(1, |_, _| circuits.iter().any(|circuit| circuit.status() == CircuitStatus::Building));
        let target = || Target::Name("sink".to_owned(), 1).into();
        let streams: Vec<StreamIo> =
            circuits.iter().map(|circuit| circuit.begin(target()).unwrap()).collect();
        self.turns(1, |_, _| self.shell.lock().unwrap().sinks.len() < streams.len());
        // The circuits live as long as their handles.
        circuits.into_iter().for_each(std::mem::forget);
        streams
    }

    /// Everyone sends and receives, and again as long as `more` says, which is told how long the relay took with so many
    /// threads, and how many cells it passed on away from the clients.
    fn turns(&self, threads: usize, mut more: impl FnMut(Duration, usize) -> bool) {
        self.over.store(false, Ordering::Release);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !self.over.load(Ordering::Acquire) {
                    self.turn(1, threads, |_| {});
                }
            });
            while !self.over.load(Ordering::Acquire) {
                self.turn(0, threads, |spent| {
                    let cells = self.relay[..SIDE].iter().map(|near| at(near).end.came).sum();
                    self.answer();
                    self.over.store(!more(spent, cells), Ordering::Release);
                });
            }
        });
    }

    /// Takes what has come at the relay's next channel, or else sends what the next one has to send.
    fn do_next(&self) -> bool {
        let next = self.done.fetch_add(1, Ordering::Relaxed);
        let channels = self.relay.len();
        match next / channels {
            0 => at(&self.relay[next]).receive(),
            1 => at(&self.relay[next - channels]).end.send(),
            _ => return false,
        }
        true
    }

    /// One thread's part of a turn; what is between turns is told how long the relay took.
    fn turn(&self, thread: usize, threads: usize, between: impl FnOnce(Duration)) {
        let pairs = || self.others.iter().zip(&self.relay).skip(thread).step_by(THREADS);
        for (other, relay) in pairs() {
            let mut other = at(other);
            other.end.send();
            exchange(&mut other, &mut at(relay));
        }
        self.gate.pass();
        *self.began[thread].lock().unwrap() = Instant::now();
        while thread < threads && self.do_next() {}
        self.gate.pass();
        // One of them may have had to wait for its core while the other one worked.
        let spent = self.began.iter().map(|began| began.lock().unwrap().elapsed()).max().unwrap();
        for (other, relay) in pairs() {
            let mut other = at(other);
            exchange(&mut other, &mut at(relay));
            other.receive();
        }
        self.gate.pass();
        self.done.store(0, Ordering::Relaxed);
        between(spent);
        self.gate.pass();
    }

    /// What the relays' shells do.
    fn answer(&self) {
        let shell = &mut *self.shell.lock().unwrap();
        let near = self.relay[..SIDE].iter().map(|place| (RELAY, place));
        let ends = self.others[SIDE..].iter().enumerate().map(|(number, place)| (behind(number), place));
        for (id, place) in near.chain(ends) {
            let mut place = at(place);
            while let Some(event) = place.end.core.poll_event() {
                match event {
                    Event::Handshake(job) => {
                        let onion = std::slice::from_ref(&shell.onion);
                        let answer = respond(&job.request, id, onion, layer_cipher(), &mut shell.rng).ok();
                        job.answer(answer.ok_or(DestroyReason::Handshake));
                    }
                    Event::Extend(job) => {
                        let far = SIDE + usize::from(job.id.0[0] - 10);
                        job.answer(Ok(at(&self.relay[far]).end.core.inbox().clone()));
                    }
                    Event::Begin(_, stream) => {
                        stream.accept(None);
                        shell.sinks.push(stream);
                    }
                }
            }
        }
        shell.sinks.iter().for_each(drain);
    }

    /// The relay's time for this many cells.
    fn pass(&self, streams: &[StreamIo], cells: u64, threads: usize) -> Duration {
        let data = [7; 64 * 1024];
        let mut cx = Context::from_waker(Waker::noop());
        let (mut total, mut passed) = (Duration::ZERO, 0);
        self.turns(threads, |spent, count| {
            total += spent;
            passed += count as u64;
            for stream in streams {
                let _ = stream.poll_write(&mut cx, &data);
            }
            passed < cells
        });
        // What criterion divides by is what it asked for.
        total.mul_f64(cells as f64 / passed as f64)
    }
}

fn main() {
    // Whoever panics would leave the other one waiting at the gate.
    std::panic::set_hook(Box::new(|why| {
        eprintln!("{why}");
        std::process::abort();
    }));
    let mut criterion = Criterion::default().configure_from_args().measurement_time(Duration::from_secs(5));
    let mut group = criterion.benchmark_group("64 circuits through a relay");
    group.throughput(Throughput::Bytes(CELL_LEN as u64));
    let network = Network::new();
    let streams = network.streams();
    for (threads, name) in [(1, "one thread"), (2, "two threads")] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|cells| network.pass(&streams, cells, threads));
        });
    }
    group.finish();
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    // By turns, since a machine is not equally fast all the time.
    let rounds: Vec<_> =
        (0..ROUNDS).map(|_| [1, 2].map(|threads| network.pass(&streams, ROUND_CELLS, threads))).collect();
    let rate = |spent: Duration| ROUND_CELLS as f64 / spent.as_secs_f64();
    let [one, two] = [0, 1].map(|threads| median(&rounds, |round| rate(round[threads])));
    println!("one thread {one:.0} cells/s, two {two:.0}");
    let times = median(&rounds, |[one, two]| one.as_secs_f64() / two.as_secs_f64());
    println!("two threads: {times:.2} times one, goal >= 1.8");
}
