//! How a circuit ends whose layer does not open, or cannot be sealed (docs/protocol.md §5.1 and §5.5).
#![expect(clippy::disallowed_methods, reason = "a test has to begin at some time")]

use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::mail::Link;
use super::table::Endpoint;
use super::testing::channel;
use super::*;
use crate::cell::PAYLOAD_LEN;
use crate::circuit::{CircuitHandle, CircuitStatus, Cover, HopSpec, Side, Streams};
use crate::crypto::fragment::{Create, Created, parse_create};
use crate::crypto::handshake::respond;
use crate::crypto::layer::{HopOpener, HopSealer, LayerCipher, Routing, inner_len};
use crate::ids::{RelayId, StreamId};
use crate::keys::OnionSecret;
use crate::message::{self, Code};

const CIPHER: LayerCipher = LayerCipher::Aes256Gcm;
const FORWARD: [u8; 32] = [1; 32];
const BACKWARD: [u8; 32] = [2; 32];

/// How a circuit ends that has used up a key: it is nobody's fault.
const USED_UP: (Incident, DestroyReason) = (Incident::KeyUsedUp, DestroyReason::Finished);

fn used_up_sealer() -> HopSealer {
    let mut sealer = HopSealer::new(CIPHER, &BACKWARD, HopNum::FIRST);
    sealer.use_up();
    sealer
}

fn arrive(channel: &mut Channel, id: CircId, command: Command, payloads: &[[u8; PAYLOAD_LEN]]) {
    let cells: Vec<Cell> = payloads.iter().map(|payload| cell::build(id, command, payload)).collect();
    channel.handle_cells(Instant::now(), &mut cells.concat()).unwrap();
}

fn output(channel: &mut Channel) -> Vec<Cell> {
    let mut out = Vec::new();
    while channel.has_output() {
        channel.poll_output(Instant::now(), &mut out, 128);
    }
    out.as_chunks().0.to_vec()
}

/// The one incident that was counted, and the reason of the `DESTROY` that is the only cell of the circuit.
fn end(channel: &mut Channel) -> (Incident, DestroyReason) {
    let is_credit = |cell: &Cell| matches!(cell::parse_header(cell), Ok((_, Command::Credit)));
    let cells: Vec<Cell> = output(channel).into_iter().filter(|cell| !is_credit(cell)).collect();
    let [destroy] = &cells[..] else { panic!("{} cells", cells.len()) };
    let counted = Incident::ALL.iter().copied().filter(|&what| channel.config.counters.get(what) > 0);
    let [incident] = counted.collect::<Vec<_>>()[..] else { panic!("not one incident") };
    (incident, cell::parse_destroy(destroy).unwrap())
}

/// How a relay's circuit of this kind ends when that happens.
fn end_of(kind: Kind, happen: impl FnOnce(&mut Channel, CircId, CircKey)) -> (Incident, DestroyReason) {
    let mut channel = channel(1);
    let (id, window) = (channel.free_id(), channel.new_window().unwrap());
    let key = channel.table.insert(Circuit::new(id, kind, window));
    happen(&mut channel, id, key);
    end(&mut channel)
}

/// The same where it ends at this relay and the client sends this.
fn end_at_endpoint(sealer: HopSealer, payload: [u8; PAYLOAD_LEN]) -> (Incident, DestroyReason) {
    let endpoint = Kind::Endpoint(Box::new(Endpoint {
        opener: HopOpener::new(CIPHER, &FORWARD, HopNum::FIRST),
        sealer,
        streams: Streams::new(Side::Relay, Budget::new(1 << 20)),
        extend: None,
        extending: false,
        request: None,
    }));
    end_of(endpoint, |channel, id, _| arrive(channel, id, Command::Relay, &[payload]))
}

/// What the client sends to be answered.
fn question() -> [u8; PAYLOAD_LEN] {
    let mut payload = [0; PAYLOAD_LEN];
    message::write(&mut payload[..inner_len(HopNum::FIRST)], Code::Loop, StreamId(0), &[]);
    HopSealer::new(CIPHER, &FORWARD, HopNum::FIRST).seal(&mut payload, Routing::Here).unwrap();
    payload
}

#[test]
fn a_layer_that_does_not_open_is_the_peers_fault() {
    let forged = end_at_endpoint(HopSealer::new(CIPHER, &BACKWARD, HopNum::FIRST), [0; PAYLOAD_LEN]);
    assert_eq!(forged, (Incident::Tampered, DestroyReason::Protocol));
}

#[test]
fn a_key_that_is_used_up_is_nobodys_fault_where_a_circuit_ends() {
    assert_eq!(end_at_endpoint(used_up_sealer(), question()), USED_UP);
}

#[test]
fn a_key_that_is_used_up_is_nobodys_fault_where_a_circuit_passes() {
    let inward = |sealer, link| Kind::Inward { sealer, link };
    let asked = |sealer, back| Kind::Asked { created: Created::new(), sealer, back };
    let check = |kind: fn(HopSealer, Link) -> Kind, happen: fn(&mut Channel, CircId, CircKey)| {
        let back = Link { inbox: Inbox::new(), key: CircKey { index: 1, generation: 1 }, circ: CircId(1) };
        assert_eq!(end_of(kind(used_up_sealer(), back.clone()), happen), USED_UP);
        let (mut cells, mut mail) = (Vec::new(), Vec::new());
        back.inbox.take(&mut cells, &mut mail);
        assert!(cells.is_empty());
        assert!(matches!(mail.last(), Some(Mail::DestroyWhenSent(_))), "the client is told");
    };
    // A cell comes back, the next relay has answered, or this one adds a cell of its own.
    check(inward, |channel, id, _| arrive(channel, id, Command::Relay, &[[0; PAYLOAD_LEN]]));
    check(asked, |channel, id, _| {
        arrive(channel, id, Command::Created, &Created::split(&[0; REPLY_LEN]).collect::<Vec<_>>());
    });
    for kind in [inward, asked] {
        check(kind, |channel, _, key| channel.add_cells(key, Code::Looped, &[], 2));
    }
}

/// A client's channel and what it sends to ask this relay for a circuit of one hop.
fn asking(relay: RelayId, secret: &OnionSecret) -> (Channel, CircuitHandle, CircId, Vec<Cell>) {
    let mut channel = channel(1);
    let hop = HopSpec { id: relay, onion_key: secret.public() };
    let circuit = CircuitHandle::create(channel.inbox(), vec![hop]);
    channel.handle_inbox(Instant::now());
    let asked = output(&mut channel);
    let (id, _) = cell::parse_header(&asked[0]).unwrap();
    (channel, circuit, id, asked)
}

/// The same with the circuit open, and its key used up.
fn client() -> (Channel, CircuitHandle) {
    let (relay, secret) = (RelayId([7; 32]), OnionSecret::from_bytes([3; 32]));
    let (mut channel, circuit, id, asked) = asking(relay, &secret);
    let mut create = Create::new();
    let message = asked.iter().find_map(|cell| create.push(cell::payload(cell)).unwrap()).unwrap();
    let (_, request) = parse_create(&message).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let (reply, _) = respond(&request, relay, &[secret], CIPHER, &mut rng).unwrap();
    arrive(&mut channel, id, Command::Created, &Created::split(&reply).collect::<Vec<_>>());
    assert_eq!(circuit.status(), CircuitStatus::Open);
    let key = channel.table.find(id).unwrap();
    let Kind::Origin(origin) = &mut channel.table.get_mut(key).unwrap().kind else { panic!("begins here") };
    origin.use_up();
    (channel, circuit)
}

#[test]
fn a_key_that_is_used_up_is_nobodys_fault_where_a_circuit_begins() {
    let check = |say: fn(&CircuitHandle)| {
        let (mut channel, circuit) = client();
        say(&circuit);
        channel.handle_inbox(Instant::now());
        assert_eq!(end(&mut channel), USED_UP);
        assert_eq!(circuit.status(), CircuitStatus::Closed(DestroyReason::Finished));
    };
    check(|circuit| circuit.cover(0, Cover::Drop));
    check(|circuit| drop(circuit.begin(Begin::Directory).unwrap()));
}

#[test]
fn a_cell_before_any_hop_has_answered_is_the_peers_fault() {
    let (mut channel, _circuit, id, _) = asking(RelayId([7; 32]), &OnionSecret::from_bytes([3; 32]));
    arrive(&mut channel, id, Command::Relay, &[[0; PAYLOAD_LEN]]);
    assert_eq!(end(&mut channel), (Incident::BadMessage, DestroyReason::Protocol));
}

/// What a circuit's state is when its stream first wakes whoever waits for it.
struct Look(CircuitHandle, Mutex<Option<CircuitStatus>>);

impl Wake for Look {
    fn wake(self: Arc<Self>) {
        self.1.lock().unwrap().get_or_insert(self.0.status());
    }
}

#[test]
fn who_learns_of_the_end_by_a_stream_finds_it_in_the_circuits_state() {
    let at_wake = |is_begun: bool, end: fn(&mut Channel)| {
        let (mut channel, circuit) = client();
        let stream = circuit.begin(Begin::Directory).unwrap();
        if is_begun {
            channel.handle_inbox(Instant::now());
        }
        let look = Arc::new(Look(circuit, Mutex::default()));
        let waker = Waker::from(look.clone());
        assert!(stream.poll_connected(&mut Context::from_waker(&waker)).is_pending());
        end(&mut channel);
        look.1.lock().unwrap().unwrap()
    };
    // The channel is lost, with the wish for a stream read or unread; or the circuit ends.
    let lost = CircuitStatus::Closed(DestroyReason::ChannelLost);
    assert_eq!([true, false].map(|is_begun| at_wake(is_begun, Channel::close)), [lost, lost]);
    let finished = at_wake(true, |channel| drop(output(channel)));
    assert_eq!(finished, CircuitStatus::Closed(DestroyReason::Finished));
    // The channel is being lost: it takes no more wishes, and has not come to its circuits yet.
    let (channel, circuit) = client();
    channel.inbox().close();
    assert!(circuit.begin(Begin::Directory).is_err());
    assert_eq!(circuit.status(), lost);
}
