//! Whatever arrives, in whatever state a channel is: nothing panics, and others go on.

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::test_runner::Config;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;
use tunic_proto::cell::{self, CELL_LEN, Cell, HEADER_LEN};
use tunic_proto::channel::Channel;
use tunic_proto::circuit::CircuitStatus;
use tunic_proto::counters::Incident;
use tunic_proto::crypto::layer::{Routing, inner_len};
use tunic_proto::ids::{CircId, HopNum};
use tunic_testnet::sim::{LinkSpec, RawCircuit, service};

use crate::hostile_relay::Client;
use crate::support::{MINUTE, Network, complete};

/// Something to send next.
#[derive(Debug, Clone)]
enum Piece {
    /// Anything.
    Noise(u64),
    /// A command that may be known, on a circuit that may be in use.
    Cell { command: u8, circ: u8, content: Vec<u8> },
    /// A sealed message that may be known, about a stream that may be in use.
    Message { code: u8, stream: u8, data: Vec<u8>, pass_on: bool },
    /// What an honest peer might do next: open a circuit, extend it, begin a stream.
    Legal(u8),
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let known = prop_oneof![1_u8..6, 16_u8..21, 4_u8..5, any::<u8>()];
    let codes = prop_oneof![4 => 1_u8..5, 8 => 16_u8..24, 1 => any::<u8>()];
    let piece = prop_oneof![
        1 => any::<u64>().prop_map(Piece::Noise),
        2 => (known, 0_u8..4, vec(0_u8..4, 0..12))
            .prop_map(|(command, circ, content)| Piece::Cell { command, circ, content }),
        6 => (codes, 0_u8..4, vec(0_u8..8, 0..8), proptest::bool::weighted(0.1))
            .prop_map(|(code, stream, data, pass_on)| Piece::Message { code, stream, data, pass_on }),
        6 => (0_u8..4).prop_map(Piece::Legal),
    ];
    vec(piece, 1..24)
}

fn message(code: u8, stream: u8, data: &[u8], room: usize) -> Vec<u8> {
    let mut inner = vec![code, 0, stream, 0, data.len() as u8];
    inner.extend(data);
    inner.resize(room, 0);
    inner
}

fn noise(seed: u64) -> Cell {
    let mut cell = [0; CELL_LEN];
    ChaCha20Rng::seed_from_u64(seed).fill_bytes(&mut cell);
    cell
}

fn command(command: u8, circ: u8, first: u32, content: &[u8]) -> Cell {
    let mut cell = [0; CELL_LEN];
    let circ = if circ == 0 { 0 } else { first + u32::from(circ) - 1 };
    cell[..4].copy_from_slice(&circ.to_be_bytes());
    cell[HEADER_LEN - 1] = command;
    cell[HEADER_LEN..][..content.len()].copy_from_slice(content);
    cell
}

/// A client sends these pieces to an honest relay.
fn to_a_relay(pieces: &[Piece]) {
    let mut net = Network::new(51, 3);
    let hostile = net.world.raw_client();
    let end = net.world.open(hostile, net.relays[0], LinkSpec::delay_ms(1));
    let mut rng = net.world.fork_rng();
    let hops: Vec<_> = net.relays.iter().map(|relay| net.world.hop(*relay)).collect();
    let first = CircId::INITIATOR_BIT | 1;
    let (mut circuit, create) = RawCircuit::create(CircId(first), &hops[0], HopNum::FIRST, &mut rng);
    let mut create = Some(create);
    let mut built = 0;
    for piece in pieces {
        let cells = match piece {
            Piece::Noise(seed) => vec![noise(*seed)],
            Piece::Cell { command: code, circ, content } => vec![command(*code, *circ, first, content)],
            Piece::Legal(_) if create.is_some() => create.take().unwrap_or_default(),
            _ if built == 0 => vec![],
            Piece::Legal(0) if built < 3 => circuit.extend(&hops[built], &mut rng),
            Piece::Legal(stream) => {
                let hop = circuit.last_hop();
                vec![circuit.sealed(hop, &message(17, *stream, &[], inner_len(hop)))]
            }
            Piece::Message { pass_on: true, .. } => {
                let hop = circuit.last_hop();
                vec![circuit.passed_on(hop, &vec![1; inner_len(hop)])]
            }
            Piece::Message { code, stream, data, .. } => {
                let hop = circuit.last_hop();
                vec![circuit.sealed(hop, &message(*code, *stream, data, inner_len(hop)))]
            }
        };
        net.world.send_raw(end, &cells);
        net.world.run_for(std::time::Duration::from_millis(40));
        while let Some(cell) = net.world.receive_raw(end) {
            let own = cell::parse_header(&cell).is_ok_and(|(id, _)| id.0 == first);
            built += usize::from(own && circuit.handle(&cell));
        }
    }
    let honest = net.build();
    let echo = net.world.transfer(&honest, service("echo"), 1_000).unwrap();
    complete(&mut net.world, &[echo]);
    net.world.cut(end);
    net.world.run_for(MINUTE);
    assert_eq!(net.world.circuit_count(net.relays[0]), net.world.circuit_count(net.client) * 2);
    assert!(net.world.violations().iter().all(|(by, _)| *by == end.peer()));
}

/// A relay sends these pieces to an honest client that has circuits in several states.
fn to_a_client(pieces: &[Piece]) {
    let mut net = Client::new(52);
    let (relay, next) = (net.relay, net.world.relay());
    let (open, mut hop) = net.build(&[relay]);
    let (_building, _) = net.build(&[relay, next]);
    let _asking = net.world.circuit(net.end, &[relay]);
    let _streams: Vec<_> = (0..3).filter_map(|_| open.begin(service("echo")).ok()).collect();
    for piece in pieces {
        let cell = match piece {
            Piece::Noise(seed) => noise(*seed),
            Piece::Cell { command: code, circ, content } => {
                command(*code, *circ, CircId::INITIATOR_BIT | 1, content)
            }
            Piece::Legal(stream) => {
                hop.sealed(&message(18, *stream, &[0], inner_len(HopNum::FIRST)), Routing::Here)
            }
            Piece::Message { code, stream, data, pass_on } => {
                let routing = if *pass_on { Routing::PassOn } else { Routing::Here };
                hop.sealed(&message(*code, *stream, data, inner_len(HopNum::FIRST)), routing)
            }
        };
        net.send(&[cell]);
    }
    let ended = open.status() != CircuitStatus::Open;
    let counted = Incident::ALL.iter().any(|incident| net.world.count(net.client, *incident) > 0);
    assert!(ended || net.world.channel(net.end).is_some());
    assert!(counted || net.world.channel(net.end).is_some());
    drop(open);
    net.world.with_channel(net.end, Channel::close);
    assert_eq!(net.world.used_cells(net.client), 0);
}

proptest::proptest! {
    #![proptest_config(Config { cases: 200, failure_persistence: None, ..Config::default() })]

    #[test]
    fn no_cells_make_a_relay_panic_or_fail_others(pieces in pieces()) {
        to_a_relay(&pieces);
    }

    #[test]
    fn no_cells_make_a_client_panic_or_leak(pieces in pieces()) {
        to_a_client(&pieces);
    }
}
