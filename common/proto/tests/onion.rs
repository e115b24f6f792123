//! The onion against an independent few-line reference, and against relays that tamper (docs/protocol.md §5).

#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

mod support;

use aes_gcm::Aes256Gcm;
use chacha20poly1305::aead::{Aead as _, KeyInit as _};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use serde::{Deserialize, Serialize};
use tunic_proto::crypto::layer::{
    BackwardLayers, ForwardLayers, HopOpener, HopSealer, LAYER_LEN, LayerCipher, LayerError, LayerFault,
    PAYLOAD_LEN, Routing, inner_len, sealed_len,
};
use tunic_proto::ids::HopNum;

type Payload = [u8; PAYLOAD_LEN];

fn hop(depth: usize) -> HopNum {
    HopNum::new(depth as u8).unwrap()
}

fn fails(at: usize, fault: LayerFault) -> LayerError {
    LayerError { hop: hop(at), fault }
}

/// The reference: one layer with the RustCrypto implementations, straight from §5.1 and §5.2.
fn reference_layer(cipher: LayerCipher, key: &[u8; 32], counter: u64, inner: &[u8], routing: u8) -> Vec<u8> {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    let (key, nonce, text) = (Key::from(*key), Nonce::from(nonce), [inner, &[routing]].concat());
    match cipher {
        LayerCipher::ChaCha20Poly1305 => ChaCha20Poly1305::new(&key).encrypt(&nonce, &*text).unwrap(),
        LayerCipher::Aes256Gcm => Aes256Gcm::new(&key).encrypt(&nonce, &*text).unwrap(),
    }
}

/// The ciphers and keys of a circuit in one direction, and how many cells each hop has handled: the reference's whole
/// state.
struct Reference {
    ciphers: Vec<LayerCipher>,
    keys: Vec<[u8; 32]>,
    counters: Vec<u64>,
}

impl Reference {
    /// What the cell of a message to or from `end` looks like on each link, the one next to the client first.
    fn onion(&mut self, message: &[u8], end: usize) -> Vec<Payload> {
        assert_eq!(message.len(), 507 - 17 * (end + 1));
        let mut onion = message.to_vec();
        let mut links = Vec::new();
        for at in (0..=end).rev() {
            let (cipher, key, counter) = (self.ciphers[at], &self.keys[at], self.counters[at]);
            onion = reference_layer(cipher, key, counter, &onion, u8::from(at == end));
            self.counters[at] += 1;
            links.insert(0, padded(&onion));
        }
        links
    }
}

fn padded(bytes: &[u8]) -> Payload {
    let mut payload = [0; PAYLOAD_LEN];
    payload[..bytes.len()].copy_from_slice(bytes);
    payload
}

/// A circuit of so many hops, all of it: the client's layers, the relays', and the reference.
struct Circuit {
    client_forward: ForwardLayers,
    client_backward: BackwardLayers,
    openers: Vec<HopOpener>,
    sealers: Vec<HopSealer>,
    forward: Reference,
    backward: Reference,
    rng: ChaCha20Rng,
}

impl Circuit {
    /// The hop at depth d has AES-256-GCM where bit d of the seed is set.
    fn new(hops: usize, seed: u64) -> Circuit {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let ciphers: Vec<_> = (0..hops).map(|at| LayerCipher::ALL[(seed >> at) as usize & 1]).collect();
        let mut reference = || {
            let mut keys = vec![[0; 32]; hops];
            keys.iter_mut().for_each(|key| rng.fill_bytes(key));
            Reference { ciphers: ciphers.clone(), keys, counters: vec![0; hops] }
        };
        let (forward, backward) = (reference(), reference());
        let (mut client_forward, mut client_backward) = (ForwardLayers::new(), BackwardLayers::new());
        let (mut openers, mut sealers) = (Vec::new(), Vec::new());
        for (at, &cipher) in ciphers.iter().enumerate() {
            client_forward.push(HopSealer::new(cipher, &forward.keys[at], hop(at))).unwrap();
            client_backward.push(HopOpener::new(cipher, &backward.keys[at], hop(at))).unwrap();
            openers.push(HopOpener::new(cipher, &forward.keys[at], hop(at)));
            sealers.push(HopSealer::new(cipher, &backward.keys[at], hop(at)));
        }
        Circuit { client_forward, client_backward, openers, sealers, forward, backward, rng }
    }

    fn message(&mut self, end: usize) -> Vec<u8> {
        let mut message = vec![0; inner_len(hop(end))];
        self.rng.fill_bytes(&mut message);
        message
    }

    /// A cell to `end` as the client sends it, with rubbish behind the message that must not show.
    fn client_cell(&mut self, end: usize) -> (Vec<u8>, Payload) {
        let message = self.message(end);
        let mut payload = [0xee; PAYLOAD_LEN];
        payload[..message.len()].copy_from_slice(&message);
        self.client_forward.seal(&mut payload, hop(end)).unwrap();
        (message, payload)
    }

    /// A cell from `end` as it leaves that relay.
    fn relay_cell(&mut self, end: usize) -> (Vec<u8>, Payload) {
        let message = self.message(end);
        let mut payload = [0xee; PAYLOAD_LEN];
        payload[..message.len()].copy_from_slice(&message);
        self.sealers[end].seal(&mut payload, Routing::Here).unwrap();
        (message, payload)
    }

    /// Lets the relays before `link` open a cell that the client sent to somewhere behind them.
    fn forward_to(&mut self, link: usize, payload: &mut Payload) {
        for opener in &mut self.openers[..link] {
            assert_eq!(opener.open(payload), Ok(Routing::PassOn));
        }
    }

    /// Lets the relays before `link` add their layers to a cell that comes from there, the nearest first.
    fn backward_from(&mut self, link: usize, payload: &mut Payload) -> Result<(), LayerError> {
        self.sealers[..link].iter_mut().rev().try_for_each(|sealer| sealer.seal(payload, Routing::PassOn))
    }
}

fn forward_agrees(circuit: &mut Circuit, end: usize) {
    let (message, mut payload) = circuit.client_cell(end);
    for (at, link) in circuit.forward.onion(&message, end).iter().enumerate() {
        assert_eq!(&payload, link, "on the link to hop {at} of {end}");
        let expect = if at == end { Routing::Here } else { Routing::PassOn };
        assert_eq!(circuit.openers[at].open(&mut payload), Ok(expect));
    }
    assert_eq!(payload, padded(&message));
}

fn backward_agrees(circuit: &mut Circuit, end: usize) {
    let (message, mut payload) = circuit.relay_cell(end);
    let links = circuit.backward.onion(&message, end);
    for at in (0..=end).rev() {
        assert_eq!(payload, links[at], "on the link from hop {at} of {end}");
        if at > 0 {
            circuit.sealers[at - 1].seal(&mut payload, Routing::PassOn).unwrap();
        }
    }
    assert_eq!(circuit.client_backward.open(&mut payload), Ok(hop(end)));
    assert_eq!(payload, padded(&message));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_layer_is_the_references(
        hops in 1_usize..=8,
        seed: u64,
        cells in prop::collection::vec((any::<bool>(), 0_usize..8), 1..20),
    ) {
        let mut circuit = Circuit::new(hops, seed);
        for (forward, end) in cells {
            let agree = if forward { forward_agrees } else { backward_agrees };
            agree(&mut circuit, end % hops);
        }
    }

    #[test]
    fn a_flipped_bit_ends_the_circuit_at_any_depth(
        hops in 1_usize..=8,
        seed: u64,
        before in 0_usize..3,
        link in 0_usize..8,
        beyond in 0_usize..8,
        bit in 0..PAYLOAD_LEN * 8,
    ) {
        let link = link % hops;
        let end = link + beyond % (hops - link);
        let mut circuit = Circuit::new(hops, seed);
        for _ in 0..before {
            forward_agrees(&mut circuit, end);
            backward_agrees(&mut circuit, end);
        }
        forward_flip_is_noticed(&mut circuit, link, end, bit);
        backward_flip_is_noticed(&mut circuit, link, end, bit);
    }
}

/// Hop `link` notices a bit that was flipped on the way to it, and stays dead.
fn forward_flip_is_noticed(circuit: &mut Circuit, link: usize, end: usize, bit: usize) {
    let (_, mut payload) = circuit.client_cell(end);
    circuit.forward_to(link, &mut payload);
    payload[bit / 8] ^= 1 << (bit % 8);
    let fault = if bit / 8 < sealed_len(hop(link)) { LayerFault::Tag } else { LayerFault::Filler };
    assert_eq!(circuit.openers[link].open(&mut payload), Err(fails(link, fault)), "link {link} bit {bit}");
    assert_eq!(payload, [0; PAYLOAD_LEN]);

    let (_, mut payload) = circuit.client_cell(end);
    circuit.forward_to(link, &mut payload);
    assert_eq!(circuit.openers[link].open(&mut payload), Err(fails(link, LayerFault::Dead)));
}

/// A bit that was flipped after hop `link` sent the cell: the relay before it sees the filler, the client the rest.
fn backward_flip_is_noticed(circuit: &mut Circuit, link: usize, end: usize, bit: usize) {
    let (_, mut payload) = circuit.relay_cell(end);
    for sealer in circuit.sealers[link..end].iter_mut().rev() {
        sealer.seal(&mut payload, Routing::PassOn).unwrap();
    }
    payload[bit / 8] ^= 1 << (bit % 8);
    let passed_on = circuit.backward_from(link, &mut payload);
    if bit / 8 >= sealed_len(hop(link)) {
        assert_eq!(passed_on, Err(fails(link - 1, LayerFault::Filler)), "link {link} bit {bit}");
        assert_eq!(payload, [0; PAYLOAD_LEN]);
        let again = circuit.sealers[link - 1].seal(&mut payload, Routing::Here);
        assert_eq!(again, Err(fails(link - 1, LayerFault::Dead)));
        return;
    }
    assert_eq!(passed_on, Ok(()));
    let opened = circuit.client_backward.open(&mut payload);
    assert_eq!(opened, Err(fails(link, LayerFault::Tag)), "link {link} bit {bit}");
    assert_eq!(payload, [0; PAYLOAD_LEN]);

    let (_, mut payload) = circuit.relay_cell(0);
    let dead = circuit.client_backward.open(&mut payload);
    assert_eq!(dead.unwrap_err().fault, LayerFault::Dead);
}

#[test]
fn any_flipped_bit_ends_a_circuit_of_three_hops() {
    for link in 0..3 {
        for bit in 0..PAYLOAD_LEN * 8 {
            forward_flip_is_noticed(&mut Circuit::new(3, 0b101), link, 2, bit);
            backward_flip_is_noticed(&mut Circuit::new(3, 0b010), link, 2, bit);
        }
    }
}

/// What a hostile relay does to the order of three cells that cross a link.
const ORDERS: [&[usize]; 6] = [&[1], &[0, 0], &[0, 2], &[1, 0], &[0, 1, 1], &[0, 1, 0]];

/// Every cell but the last of an order arrives as it should.
fn check_orders(mut deliver: impl FnMut(usize, &[usize]) -> Vec<Result<(), LayerError>>) {
    for link in 0..4 {
        for order in ORDERS {
            let results = deliver(link, order);
            let in_order = order.iter().enumerate().take_while(|&(at, &cell)| at == cell).count();
            assert_eq!(results[..in_order], vec![Ok(()); in_order], "link {link}, {order:?}");
            assert_eq!(results[in_order], Err(fails(link, LayerFault::Tag)), "link {link}, {order:?}");
        }
    }
}

#[test]
fn replayed_dropped_and_reordered_cells_end_the_circuit_forward() {
    check_orders(|link, order| {
        let mut circuit = Circuit::new(4, 3);
        let mut cell = || {
            let (_, mut payload) = circuit.client_cell(3);
            circuit.forward_to(link, &mut payload);
            payload
        };
        let cells = [cell(), cell(), cell()];
        let mut deliver = |&index: &usize| circuit.openers[link].open(&mut cells[index].clone()).map(|_| ());
        order.iter().map(&mut deliver).collect()
    });
}

#[test]
fn replayed_dropped_and_reordered_cells_end_the_circuit_backward() {
    check_orders(|link, order| {
        let mut circuit = Circuit::new(4, 4);
        let mut cell = || {
            let (_, mut payload) = circuit.relay_cell(3);
            for sealer in circuit.sealers[link..3].iter_mut().rev() {
                sealer.seal(&mut payload, Routing::PassOn).unwrap();
            }
            payload
        };
        let cells = [cell(), cell(), cell()];
        let deliver = |&index: &usize| {
            let mut payload = cells[index];
            circuit.backward_from(link, &mut payload).unwrap();
            circuit.client_backward.open(&mut payload).map(|_| ())
        };
        order.iter().map(deliver).collect()
    });
}

#[test]
fn cells_of_the_other_direction_or_another_hop_do_not_open() {
    let mut circuit = Circuit::new(2, 5);
    let (_, mut payload) = circuit.client_cell(0);
    assert_eq!(circuit.client_backward.open(&mut payload), Err(fails(0, LayerFault::Tag)));
    let (_, payload) = circuit.client_cell(1);
    let mut for_the_second = padded(&payload[..sealed_len(hop(1))]);
    assert_eq!(circuit.openers[1].open(&mut for_the_second), Err(fails(1, LayerFault::Tag)));
}

/// A relay whose depth the hop before it told wrongly cannot read what the client sealed for it.
#[test]
fn a_wrong_depth_does_not_open() {
    let depths = [(0, 1), (1, 0), (2, 1), (7, 6)];
    for ((told, actual), cipher) in
        depths.iter().flat_map(|depths| LayerCipher::ALL.map(|cipher| (*depths, cipher)))
    {
        let key = [1; 32];
        let mut payload = padded(&reference_layer(cipher, &key, 0, &vec![7; inner_len(hop(actual))], 1));
        let result = HopOpener::new(cipher, &key, hop(told)).open(&mut payload);
        assert!(matches!(result.unwrap_err().fault, LayerFault::Tag | LayerFault::Filler));
    }
}

#[test]
fn routing_is_pass_on_or_here() {
    let key = [1; 32];
    for (routing, cipher) in
        (0..=u8::MAX).flat_map(|routing| LayerCipher::ALL.map(|cipher| (routing, cipher)))
    {
        let mut payload = padded(&reference_layer(cipher, &key, 0, &vec![7; inner_len(hop(3))], routing));
        let expect = match routing {
            0 => Ok(Routing::PassOn),
            1 => Ok(Routing::Here),
            _ => Err(fails(3, LayerFault::Routing)),
        };
        assert_eq!(HopOpener::new(cipher, &key, hop(3)).open(&mut payload), expect);
    }
}

#[test]
fn the_last_hop_cannot_pass_on_and_no_hop_is_no_hop() {
    let mut circuit = Circuit::new(2, 6);
    let mut payload = [0; PAYLOAD_LEN];
    circuit.sealers[1].seal(&mut payload, Routing::PassOn).unwrap();
    circuit.sealers[0].seal(&mut payload, Routing::PassOn).unwrap();
    assert_eq!(circuit.client_backward.open(&mut payload), Err(fails(1, LayerFault::NoNextHop)));

    let mut payload = [7; PAYLOAD_LEN];
    assert_eq!(circuit.client_forward.seal(&mut payload, hop(2)), Err(fails(2, LayerFault::NoSuchHop)));
    assert_eq!(payload, [0; PAYLOAD_LEN], "nothing unsealed is left to send");
    assert_eq!(circuit.client_forward.seal(&mut payload, hop(0)), Err(fails(0, LayerFault::Dead)));
    assert!(circuit.client_forward.is_empty());
    let revived = circuit.client_forward.push(HopSealer::new(LayerCipher::ALL[0], &[0; 32], hop(0)));
    assert_eq!(revived, Err(fails(0, LayerFault::Dead)));
}

#[test]
fn a_hop_added_later_starts_at_its_own_first_cell() {
    let mut circuit = Circuit::new(1, 7);
    for _ in 0..5 {
        forward_agrees(&mut circuit, 0);
        backward_agrees(&mut circuit, 0);
    }
    let (cipher, forward, backward) = (LayerCipher::ChaCha20Poly1305, [8; 32], [9; 32]);
    circuit.client_forward.push(HopSealer::new(cipher, &forward, hop(1))).unwrap();
    circuit.client_backward.push(HopOpener::new(cipher, &backward, hop(1))).unwrap();
    circuit.openers.push(HopOpener::new(cipher, &forward, hop(1)));
    circuit.sealers.push(HopSealer::new(cipher, &backward, hop(1)));
    for (reference, key) in [(&mut circuit.forward, forward), (&mut circuit.backward, backward)] {
        reference.ciphers.push(cipher);
        reference.keys.push(key);
        reference.counters.push(0);
    }
    for end in [1, 0, 1] {
        forward_agrees(&mut circuit, end);
        backward_agrees(&mut circuit, end);
    }
}

/// `tests/vectors/onion.json`: one circuit of eight hops, its cells in the order in which they are sealed.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Vectors {
    provenance: String,
    /// Of each hop.
    ciphers: Vec<String>,
    forward_keys: Vec<String>,
    backward_keys: Vec<String>,
    cells: Vec<Cell>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Cell {
    direction: String,
    /// The hop that the message is for, or from.
    hop: usize,
    /// What the innermost layer holds.
    inner: String,
    /// The payload between the client and the first hop.
    payload: String,
}

const PROVENANCE: &str = "Tunic's onion layers (docs/protocol.md section 5), made by the reference in \
    common/proto/tests/onion.rs with the crates chacha20poly1305 and aes-gcm; tunic_proto computes the same. Keys and \
    messages: rand_chacha 0.10 ChaCha20Rng::seed_from_u64(90), eight forward keys, eight backward keys, then each cell's inner. \
    Cells are in order; each hop and direction counts the cells that it seals or opens from 0.";

#[test]
fn vectors_agree() {
    let mut circuit = Circuit::new(8, 90);
    let mut cells = Vec::new();
    for end in [0, 1, 2, 7, 2, 0] {
        let (inner, payload) = circuit.client_cell(end);
        assert_eq!(circuit.forward.onion(&inner, end)[0], payload);
        cells.push(cell("forward", end, &inner, &payload));

        let (inner, mut payload) = circuit.relay_cell(end);
        circuit.backward_from(end, &mut payload).unwrap();
        assert_eq!(circuit.backward.onion(&inner, end)[0], payload);
        cells.push(cell("backward", end, &inner, &payload));
    }
    let vectors = Vectors {
        provenance: PROVENANCE.into(),
        ciphers: circuit.forward.ciphers.iter().map(ToString::to_string).collect(),
        forward_keys: circuit.forward.keys.iter().map(hex::encode).collect(),
        backward_keys: circuit.backward.keys.iter().map(hex::encode).collect(),
        cells,
    };
    support::check_vectors("onion.json", &vectors);
}

fn cell(direction: &str, end: usize, inner: &[u8], payload: &Payload) -> Cell {
    Cell { direction: direction.into(), hop: end, inner: hex::encode(inner), payload: hex::encode(payload) }
}

#[test]
fn layers_and_lengths_fit() {
    assert_eq!(LAYER_LEN, 17);
    for depth in 0..8 {
        assert_eq!(sealed_len(hop(depth)), 507 - 17 * depth);
        assert_eq!(inner_len(hop(depth)), 507 - 17 * depth - 17);
    }
}
