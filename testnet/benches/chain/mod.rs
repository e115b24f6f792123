//! Channels without sockets, for benchmarks: real TLS sessions and real state machines, whose bytes the benchmark carries.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use tunic_net::channel::{Buffer, Records, Tls, TlsHandshake};
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

thread_local! {
    /// What holds nothing between calls, one for each thread, as the driver has it.
    static SCRATCH: RefCell<(Buffer, Vec<u8>)> = const { RefCell::new((Buffer::new(), Vec::new())) };
}

/// One end of a channel: the state machine, its TLS session and what has been written and not delivered.
pub struct End {
    pub core: Channel,
    pub tls: Records,
    pub wire: Buffer,
    /// Cells that came with the last records.
    pub came: usize,
}

impl End {
    pub fn new(role: Role, peer: Option<RelayId>, tls: Records, seed: u8) -> End {
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
        End { core: Channel::new(config), tls, wire: Buffer::new(), came: 0 }
    }

    /// Takes TLS records, as the driver does after a read.
    pub fn receive(&mut self, wire: &[u8]) {
        SCRATCH.with_borrow_mut(|(plain, _)| {
            plain.clear();
            assert_eq!(self.tls.open(wire, plain).unwrap(), wire.len());
            assert_eq!(plain.len() % CELL_LEN, 0);
            self.came = plain.len() / CELL_LEN;
            if !plain.is_empty() {
                self.core.handle_cells(Instant::now(), plain).unwrap();
            }
        });
    }

    /// Takes what the other channel left, and appends TLS records to `wire`, as the driver does before a write.
    pub fn send(&mut self) {
        self.core.handle_inbox(Instant::now());
        SCRATCH.with_borrow_mut(|(_, out)| {
            while self.core.has_output() {
                out.clear();
                self.core.poll_output(Instant::now(), out, BATCH);
                self.tls.seal(out, &mut self.wire).unwrap();
            }
        });
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
pub fn sessions(tls: &Tls) -> (Records, Records) {
    let (mut client, mut server) = (tls.initiate().unwrap(), tls.respond().unwrap());
    while !client.is_done() || !server.is_done() {
        carry(&mut client, &mut server);
        carry(&mut server, &mut client);
    }
    (client.finish().unwrap(), server.finish().unwrap())
}

fn carry(from: &mut TlsHandshake, to: &mut TlsHandshake) {
    let mut wire = Vec::new();
    from.send(&mut wire);
    assert_eq!(to.receive(&wire).unwrap(), wire.len());
}

/// The median of what the rounds of a benchmark show.
pub fn median<T>(rounds: &[T], value: impl Fn(&T) -> f64) -> f64 {
    let mut values: Vec<_> = rounds.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
