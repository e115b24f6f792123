//! What a relay spends on one cell that passes through it, beside what its cryptography alone costs, in one process and
//! one run: `cargo bench -p tunic-testnet --bench relay_cell`. The ratios are printed last, and last of all that of the
//! cipher that a relay on this machine would choose for its layers.
//!
//! 1. A client uploads over two relays; between them all are real TLS sessions and real channels, without sockets. Round trips are so
//!    short here that each circuit has few cells on the way; seven together have as many as one large read. It is measured with
//!    one and with seven; the ratios are those with seven.
//! 2. Timed is the first relay alone: TLS records in, a layer opened, the header rewritten, the cells handed to the other
//!    channel, TLS records out; and the credit that comes back.
//! 3. Beside it, by turns: opening one layer of a cell, and a cell's share of decrypting and encrypting a full TLS record.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod chain;

use std::hint::black_box;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use criterion::{Criterion, Throughput};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use rustls::CipherSuite;
use tunic_net::channel::Tls;
use tunic_net::processor::layer_cipher;
use tunic_proto::cell::{CELL_LEN, PAYLOAD_LEN};
use tunic_proto::channel::{Event, Role};
use tunic_proto::circuit::{CircuitHandle, CircuitStatus, HopSpec};
use tunic_proto::crypto::handshake::respond;
use tunic_proto::crypto::layer::{LayerCipher, sealed_len};
use tunic_proto::ids::{HopNum, RelayId};
use tunic_proto::keys::OnionSecret;
use tunic_proto::message::{DestroyReason, Target};
use tunic_proto::stream::StreamIo;

use chain::{End, drain, median, sessions};

/// Plaintext of a full TLS record (RFC 8446 §5.1): 32 cells.
const RECORD_LEN: usize = 16 * 1024;
const CIRCUITS: usize = 7;
/// By turns: so many rounds of so many cells each.
const ROUNDS: usize = 51;
const ROUND_CELLS: u64 = 100_000;
const IDS: [RelayId; 2] = [RelayId([1; 32]), RelayId([2; 32])];

/// A client, a relay with two channels, and the relay where the circuit ends.
struct Chain {
    client: End,
    near: End,
    far: End,
    end: End,
    onion: [OnionSecret; 2],
    cipher: LayerCipher,
    rng: ChaCha20Rng,
    sinks: Vec<StreamIo>,
    passed: Passed,
}

/// What the relay has passed on away from the client, and in how many turns.
#[derive(Default)]
struct Passed {
    cells: u64,
    turns: u64,
}

impl Chain {
    fn new(cipher: LayerCipher) -> Chain {
        let tls = Tls::new().unwrap();
        let (client, near) = sessions(&tls);
        let (far, end) = sessions(&tls);
        let mut rng = ChaCha20Rng::from_seed([9; 32]);
        Chain {
            client: End::new(Role::Initiator, Some(IDS[0]), client, 1),
            near: End::new(Role::Responder, None, near, 2),
            far: End::new(Role::Initiator, Some(IDS[1]), far, 3),
            end: End::new(Role::Responder, Some(IDS[0]), end, 4),
            onion: [OnionSecret::generate(&mut rng), OnionSecret::generate(&mut rng)],
            cipher,
            rng,
            sinks: vec![],
            passed: Passed::default(),
        }
    }

    /// An open stream over both relays.
    fn stream(&mut self) -> StreamIo {
        let hop = |n: usize| HopSpec { id: IDS[n], onion_key: self.onion[n].public() };
        let circuit = CircuitHandle::create(self.client.core.inbox(), vec![hop(0), hop(1)]);
        while circuit.status() == CircuitStatus::Building {
            self.turn();
        }
        assert_eq!(circuit.status(), CircuitStatus::Open);
        let stream = circuit.begin(Target::Name("sink".to_owned(), 1).into()).unwrap();
        let open = self.sinks.len();
        while self.sinks.len() == open {
            self.turn();
        }
        // The circuit lives as long as its handle.
        std::mem::forget(circuit);
        stream
    }

    /// Everyone sends and receives once. Returns how long the relay in the middle took, and how many cells it passed on
    /// away from the client.
    fn turn(&mut self) -> (Duration, usize) {
        self.client.send();
        self.end.send();
        let (up, down) = (std::mem::take(&mut self.client.wire), std::mem::take(&mut self.end.wire));
        let started = Instant::now();
        self.near.receive(&up);
        let cells = self.near.came;
        self.far.receive(&down);
        self.near.send();
        self.far.send();
        let spent = started.elapsed();
        // Buffers are used again, so that memory for them is not part of what is measured.
        (self.client.wire, self.end.wire) = (up, down);
        self.client.wire.clear();
        self.end.wire.clear();
        self.client.receive(&self.near.wire);
        self.end.receive(&self.far.wire);
        self.near.wire.clear();
        self.far.wire.clear();
        self.answer();
        self.sinks.iter().for_each(drain);
        (spent, cells)
    }

    /// What the relays' shells do.
    fn answer(&mut self) {
        for (number, end) in [&mut self.near, &mut self.end].into_iter().enumerate() {
            while let Some(event) = end.core.poll_event() {
                match event {
                    Event::Handshake(job) => {
                        let onion = std::slice::from_ref(&self.onion[number]);
                        let answer =
                            respond(&job.request, IDS[number], onion, self.cipher, &mut self.rng).ok();
                        job.answer(answer.ok_or(DestroyReason::Handshake));
                    }
                    Event::Extend(job) => job.answer(Ok(self.far.core.inbox().clone())),
                    Event::Begin(_, stream) => {
                        stream.accept(None);
                        self.sinks.push(stream);
                    }
                }
            }
        }
    }

    /// The relay's time for this many cells.
    fn pass(&mut self, streams: &[StreamIo], cells: u64) -> Duration {
        let data = [7; 64 * 1024];
        let mut cx = Context::from_waker(Waker::noop());
        let (mut total, mut passed) = (Duration::ZERO, 0);
        while passed < cells {
            for stream in streams {
                let _ = stream.poll_write(&mut cx, &data);
            }
            let (spent, count) = self.turn();
            total += spent;
            passed += count as u64;
            self.passed.turns += 1;
        }
        self.passed.cells += passed;
        // What criterion divides by is what it asked for.
        total.mul_f64(cells as f64 / passed as f64)
    }
}

/// A cell's share of the cryptography: one layer, one record in, one record out. By the calls that a relay makes.
struct Primitives {
    layer: LessSafeKey,
    record: LessSafeKey,
    sealed_layer: Vec<u8>,
    sealed_record: Vec<u8>,
    plain: Vec<u8>,
    resealed: Vec<u8>,
}

const ONE_RECORD: usize = RECORD_LEN / CELL_LEN;
const TAG_LEN: usize = 16;

impl Primitives {
    fn new(suite: CipherSuite, cipher: LayerCipher) -> Primitives {
        let of_records = match suite {
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => &CHACHA20_POLY1305,
            _ => &AES_256_GCM,
        };
        let of_layers = match cipher {
            LayerCipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            LayerCipher::Aes256Gcm => &AES_256_GCM,
        };
        let layer = LessSafeKey::new(UnboundKey::new(of_layers, &[3; 32]).unwrap());
        let record = LessSafeKey::new(UnboundKey::new(of_records, &[4; 32]).unwrap());
        let inner = sealed_len(HopNum::FIRST).min(PAYLOAD_LEN) - TAG_LEN;
        let (sealed_layer, sealed_record) = (sealed(&layer, inner), sealed(&record, RECORD_LEN + 1));
        let (plain, resealed) = (vec![0; RECORD_LEN + 1], vec![0; RECORD_LEN + 1 + TAG_LEN]);
        Primitives { layer, record, sealed_layer, sealed_record, plain, resealed }
    }

    /// The cryptography of one record's worth of cells. Copies of layers come in, as sealed bytes can be opened but once.
    fn record_of_cells(&mut self) -> Duration {
        let mut layers = vec![self.sealed_layer.clone(); ONE_RECORD];
        let aad = || Aad::from([23; 5]);
        let started = Instant::now();
        let (text, tag) = self.sealed_record.split_last_chunk::<TAG_LEN>().unwrap();
        self.record.open_separate_gather(nonce(), aad(), text, tag, &mut self.plain).unwrap();
        let (text, rest) = self.resealed.split_at_mut(RECORD_LEN);
        let (data, kind) = self.plain.split_at(RECORD_LEN);
        self.record.seal_out_of_place_scatter(nonce(), aad(), data, text, kind, rest).unwrap();
        for layer in &mut layers {
            let (text, tag) = black_box(layer).split_last_chunk_mut::<TAG_LEN>().unwrap();
            self.layer.open_in_place_separate_tag(nonce(), Aad::empty(), tag, text).unwrap();
        }
        started.elapsed()
    }

    /// The cryptography of so many cells.
    fn cells(&mut self, cells: u64) -> Duration {
        let records = cells.div_ceil(ONE_RECORD as u64);
        let spent: Duration = (0..records).map(|_| self.record_of_cells()).sum();
        spent.mul_f64(cells as f64 / (records * ONE_RECORD as u64) as f64)
    }
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn sealed(key: &LessSafeKey, len: usize) -> Vec<u8> {
    let mut bytes = vec![5; len];
    let aad: &[u8] = if len > RECORD_LEN { &[23; 5] } else { &[] };
    key.seal_in_place_append_tag(nonce(), Aad::from(aad), &mut bytes).unwrap();
    bytes
}

/// A relay's work, and its cryptography, with one cipher.
struct Work {
    chain: Chain,
    streams: Vec<StreamIo>,
    alone: Primitives,
}

/// What a cell took in one round, in nanoseconds.
struct Round {
    relay: f64,
    alone: f64,
}

impl Work {
    fn new(cipher: LayerCipher) -> Work {
        let mut chain = Chain::new(cipher);
        let streams = (0..CIRCUITS).map(|_| chain.stream()).collect();
        let alone = Primitives::new(chain.near.tls.suite(), cipher);
        Work { chain, streams, alone }
    }

    fn by_criterion(&mut self, criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group(format!("one cell, {}", self.chain.cipher));
        group.throughput(Throughput::Bytes(CELL_LEN as u64));
        for circuits in [1, CIRCUITS] {
            group.bench_function(format!("through a relay, circuits: {circuits}"), |bencher| {
                bencher.iter_custom(|cells| self.chain.pass(&self.streams[..circuits], cells));
            });
        }
        group.bench_function("its cryptography", |bencher| {
            bencher.iter_custom(|cells| self.alone.cells(cells));
        });
    }

    /// Relay and cryptography by turns, since a machine is not equally fast all the time: the median of the rounds' ratios.
    fn by_turns(&mut self, circuits: usize) -> f64 {
        self.chain.passed = Passed::default();
        let ns = |spent: Duration| spent.as_secs_f64() * 1e9 / ROUND_CELLS as f64;
        let mut round = || Round {
            relay: ns(self.chain.pass(&self.streams[..circuits], ROUND_CELLS)),
            alone: ns(self.alone.cells(ROUND_CELLS)),
        };
        let rounds: Vec<_> = (0..ROUNDS).map(|_| round()).collect();
        let ratio = median(&rounds, |round| round.relay / round.alone);
        let Passed { cells, turns } = self.chain.passed;
        println!(
            "{}, {} cells at once: {:.0} ns a cell, its cryptography {:.0}, {ratio:.2} times",
            self.chain.cipher,
            cells / turns.max(1),
            median(&rounds, |round| round.relay),
            median(&rounds, |round| round.alone),
        );
        ratio
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args().measurement_time(Duration::from_secs(5));
    let mut ciphers = LayerCipher::ALL;
    ciphers.sort_by_key(|&cipher| cipher == layer_cipher());
    let mut works = ciphers.map(Work::new);
    for work in &mut works {
        work.by_criterion(&mut criterion);
    }
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    println!("records: {:?}", works[0].chain.near.tls.suite());
    let ratios = works.map(|mut work| {
        work.by_turns(1);
        (work.chain.cipher, work.by_turns(CIRCUITS))
    });
    for (cipher, ratio) in ratios {
        println!("a cell with {cipher}: {ratio:.2} times its cryptography, goal <= 1.6");
    }
}
