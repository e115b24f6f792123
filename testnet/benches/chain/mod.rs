//! Channels without sockets, for benchmarks: real TLS sessions and real state machines, whose bytes the benchmark carries.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use rustls::Connection;
use tunic_net::channel::Tls;
use tunic_proto::buffers;
use tunic_proto::cell::{CELL_LEN, Netinfo};
use tunic_proto::channel::{Channel, ChannelConfig, PeerInfo, Role};
use tunic_proto::counters::Counters;
use tunic_proto::flow::Budget;
use tunic_proto::ids::RelayId;
use tunic_proto::stream::StreamIo;

/// Cells of one batch: what a relay reads and writes at once.
const BATCH: usize = 128;
const MEMORY: usize = 256 << 20;

/// One end of a channel: the state machine, its TLS session and what has been written and not delivered.
pub struct End {
    pub core: Channel,
    pub tls: Connection,
    pub wire: Vec<u8>,
    pub plain: Vec<u8>,
    out: Vec<u8>,
}

impl End {
    pub fn new(role: Role, peer: Option<RelayId>, tls: Connection, seed: u8) -> End {
        let netinfo = Netinfo { time: None, observed: None };
        let config = ChannelConfig {
            role,
            peer: PeerInfo { id: peer, netinfo },
            accepts_circuits: true,
            max_circuits: 1_000,
            budget: Budget::new(MEMORY),
            counters: Arc::new(Counters::default()),
            dips_from: None,
            rng: Box::new(ChaCha20Rng::from_seed([seed; 32])),
        };
        End { core: Channel::new(config), tls, wire: vec![], plain: vec![], out: vec![] }
    }

    /// Takes TLS records, as the driver does after a read.
    pub fn receive(&mut self, mut wire: &[u8]) {
        self.plain.clear();
        while !wire.is_empty() {
            self.tls.read_tls(&mut wire).unwrap();
            let mut left = self.tls.process_new_packets().unwrap().plaintext_bytes_to_read();
            let mut reader = self.tls.reader();
            while left > 0 {
                let chunk = reader.fill_buf().unwrap();
                let count = chunk.len();
                self.plain.extend_from_slice(chunk);
                reader.consume(count);
                left -= count;
            }
        }
        assert_eq!(self.plain.len() % CELL_LEN, 0);
        if !self.plain.is_empty() {
            self.core.handle_cells(Instant::now(), &mut self.plain).unwrap();
        }
    }

    /// Takes what the other channel left, and appends TLS records to `wire`, as the driver does before a write.
    pub fn send(&mut self) {
        self.core.handle_inbox(Instant::now());
        while self.core.has_output() {
            self.out.clear();
            self.core.poll_output(Instant::now(), &mut self.out, BATCH);
            self.tls.writer().write_all(&self.out).unwrap();
            while self.tls.wants_write() {
                self.tls.write_tls(&mut self.wire).unwrap();
            }
        }
    }
}

/// Reads what has come and forgets it.
pub fn drain(sink: &StreamIo) {
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(Ok(Some(bytes))) = sink.poll_take(&mut cx) {
        buffers::give(bytes);
    }
}

/// Two ends of a TLS session that has been opened.
pub fn sessions(tls: &Tls) -> (Connection, Connection) {
    let (mut client, mut server) = (tls.initiate().unwrap(), tls.respond().unwrap());
    for session in [&mut client, &mut server] {
        session.set_buffer_limit(None);
    }
    while client.is_handshaking() || server.is_handshaking() {
        carry(&mut client, &mut server);
        carry(&mut server, &mut client);
    }
    (client, server)
}

fn carry(from: &mut Connection, to: &mut Connection) {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut wire = &wire[..];
    while !wire.is_empty() {
        to.read_tls(&mut wire).unwrap();
        to.process_new_packets().unwrap();
    }
}
