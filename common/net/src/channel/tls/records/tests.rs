use std::io::Write as _;

use rustls::{Connection, SupportedCipherSuite};

use super::*;
use crate::channel::tls::Tls;
use crate::channel::tls::tests::{all_suites, hear, rustls_peer, said};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().filter_map(|digit| Some(digit.to_digit(16)? as u8)).collect();
    digits.as_chunks().0.iter().map(|[high, low]| high << 4 | low).collect()
}

fn suite(wanted: CipherSuite) -> &'static Tls13CipherSuite {
    let suites = rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES.iter();
    suites.filter_map(SupportedCipherSuite::tls13).find(|suite| suite.common.suite == wanted).unwrap()
}

/// Two ends of one session, by themselves.
fn pair() -> (Records, Records) {
    let suite = suite(CipherSuite::TLS13_AES_256_GCM_SHA384);
    let secret = |byte| Box::new(OkmBlock::new(&[byte; 48]));
    let new = |ours, theirs| Records::new(suite, secret(ours), secret(theirs)).unwrap();
    (new(1, 2), new(2, 1))
}

/// A buffer in which other bytes were before.
fn used() -> Buffer {
    let mut buffer = Buffer::new();
    buffer.extend_from_slice(&[0xee; 3 * MAX_RECORD_LEN]);
    buffer.clear();
    buffer
}

fn sealed(records: &mut Records, plain: &[u8]) -> Vec<u8> {
    let mut wire = used();
    records.seal(plain, &mut wire).unwrap();
    wire.to_vec()
}

/// One record of this type, whatever it holds.
fn record(records: &mut Records, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut wire = used();
    records.sealer.seal(kind, content, &mut wire).unwrap();
    wire.to_vec()
}

fn opened(records: &mut Records, wire: &[u8]) -> Result<Vec<u8>, RecordError> {
    let mut plain = used();
    let taken = records.open(wire, &mut plain)?;
    assert_eq!(taken, wire.len());
    Ok(plain.to_vec())
}

fn goodbye(records: &mut Records) -> Result<Vec<u8>, RecordError> {
    let mut wire = used();
    let sealed = records.seal_goodbye(&mut wire);
    assert_eq!(sealed.is_err(), wire.is_empty());
    sealed.map(|()| wire.to_vec())
}

/// RFC 8448 §3: application data and goodbyes of the client and of the server, whose first record was a ticket.
#[test]
fn records_are_those_of_the_published_trace() {
    let secret = |hex| Box::new(OkmBlock::new(&bytes(hex)));
    let client = "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
    let server = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
    let suite = suite(CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut records = Records::new(suite, secret(client), secret(server)).unwrap();
    let data: Vec<u8> = (0..50).collect();
    let by_client = "17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9 14 aa 66 bc ab 3f
        2b 98 19 a8 a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee bb 21
        69 49 15 e4";
    assert_eq!(sealed(&mut records, &data), bytes(by_client));
    let by_server = "17 03 03 00 43 2e 93 7e 11 ef 4a c7 40 e5 38 ad 36 00 5f c4 a4 69 32 fc 32 25 d0 5f 82 aa 1b 36
        e3 0e fa f9 7d 90 e6 df fc 60 2d cb 50 1a 59 a8 fc c4 9c 4b f2 e5 f0 a2 1c 00 47 c2 ab f3 32 54 0d d0 32 e1
        67 c2 95 5d";
    records.opener.count = 1;
    assert_eq!(opened(&mut records, &bytes(by_server)).as_ref(), Ok(&data));
    let ours = bytes("17 03 03 00 13 c9 87 27 60 65 56 66 b7 4d 7f f1 15 3e fd 6d b6 d0 b0 e3");
    assert_eq!(goodbye(&mut records), Ok(ours));
    let theirs = bytes("17 03 03 00 13 b5 8f d6 71 66 eb f5 99 d2 47 20 cf be 7e fa 7a 88 64 a9");
    assert_eq!(opened(&mut records, &theirs), Ok(vec![]));
    assert!(records.is_closed());
}

/// An open session of ours with a peer that is nothing but rustls.
fn beside_rustls(tls: &Tls, is_client: bool) -> (Records, Connection) {
    let mut ours = if is_client { tls.initiate() } else { tls.respond() }.unwrap();
    let mut peer = rustls_peer(tls, !is_client);
    peer.set_buffer_limit(None);
    while !ours.is_done() || peer.is_handshaking() {
        let mut wire = Vec::new();
        ours.send(&mut wire);
        hear(&mut peer, &wire);
        ours.receive(&said(&mut peer)).unwrap();
    }
    let mut wire = Vec::new();
    ours.send(&mut wire);
    hear(&mut peer, &wire);
    (ours.finish().unwrap(), peer)
}

fn data(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

fn exchange(ours: &mut Records, peer: &mut Connection, len: usize, seed: u8) {
    let there = data(len, seed);
    assert_eq!(hear(peer, &sealed(ours, &there)), there);
    let back = data(len, seed ^ 0xff);
    peer.writer().write_all(&back).unwrap();
    assert_eq!(opened(ours, &said(peer)).unwrap(), back);
}

#[test]
fn rustls_reads_what_we_write_and_we_what_it_writes() {
    for tls in all_suites() {
        for is_client in [true, false] {
            let (mut ours, mut peer) = beside_rustls(&tls, is_client);
            for (seed, len) in [1, 511, 512, RECORD_LEN, RECORD_LEN + 1, 100_000].into_iter().enumerate() {
                exchange(&mut ours, &mut peer, len, seed as u8);
            }
            peer.read_tls(&mut &goodbye(&mut ours).unwrap()[..]).unwrap();
            assert!(peer.process_new_packets().unwrap().peer_has_closed());
            peer.send_close_notify();
            assert!(!ours.is_closed());
            assert_eq!(opened(&mut ours, &said(&mut peer)), Ok(vec![]));
            assert!(ours.is_closed());
        }
    }
}

#[test]
fn keys_are_updated_as_rustls_does() {
    for tls in all_suites() {
        for is_client in [true, false] {
            let (mut ours, mut peer) = beside_rustls(&tls, is_client);
            for _ in 0..3 {
                for seed in 0..LEAST_PER_KEY {
                    exchange(&mut ours, &mut peer, 1, seed as u8);
                }
                // It asks for ours too, which comes with our next data.
                peer.refresh_traffic_keys().unwrap();
                assert_eq!(opened(&mut ours, &said(&mut peer)), Ok(vec![]));
                assert_eq!((ours.opener.count, ours.owes_update), (0, true));
                exchange(&mut ours, &mut peer, 1_000, 7);
                assert_eq!((ours.sealer.count, ours.opener.count, ours.owes_update), (1, 1, false));
            }
        }
    }
}

#[test]
fn both_may_update_at_once() {
    for tls in all_suites() {
        let (mut ours, mut peer) = beside_rustls(&tls, true);
        for seed in 0..LEAST_PER_KEY {
            exchange(&mut ours, &mut peer, 1, seed as u8);
        }
        let before = sealed(&mut ours, b"before it is asked for");
        peer.refresh_traffic_keys().unwrap();
        assert_eq!(opened(&mut ours, &said(&mut peer)), Ok(vec![]));
        assert_eq!(hear(&mut peer, &before), b"before it is asked for");
        exchange(&mut ours, &mut peer, 1_000, 7);
        assert_eq!(ours.sealer.count, 1);
    }
}

#[test]
fn a_key_that_has_sealed_enough_is_updated() {
    let (mut one, mut other) = pair();
    one.sealer.count = RECORDS_PER_KEY - 3;
    other.opener.count = RECORDS_PER_KEY - 3;
    let plain = data(5 * RECORD_LEN, 1);
    let wire = sealed(&mut one, &plain);
    assert_eq!(opened(&mut other, &wire), Ok(plain));
    // Two with the old key and the message, three with the new one; and the other direction goes on as it was.
    assert_eq!((one.sealer.count, other.opener.count), (3, 3));
    assert_eq!(wire.len(), 5 * (RECORD_LEN + RECORD_OVERHEAD) + UPDATE.len() + RECORD_OVERHEAD);
    let back = sealed(&mut other, b"back");
    assert_eq!(opened(&mut one, &back), Ok(b"back".to_vec()));
    assert_eq!(other.sealer.count, 1, "nobody asked for that");
}

#[test]
fn a_key_that_is_used_up_seals_and_opens_nothing() {
    let (mut one, mut other) = pair();
    one.sealer.count = RECORDS_PER_KEY - 1;
    other.opener.count = RECORDS_PER_KEY - 1;
    // There is room for one, be it the update or the goodbye.
    assert_eq!(opened(&mut other, &goodbye(&mut one).unwrap()), Ok(vec![]));
    other.is_closed = false;
    assert_eq!(goodbye(&mut one), Err(RecordError::Exhausted));
    one.sealer.count = 0;
    assert_eq!(opened(&mut other, &sealed(&mut one, b"x")), Err(RecordError::Exhausted));
}

#[test]
fn a_key_is_not_updated_too_often() {
    for (before, expected) in [
        (0, Err(RecordError::Update)),
        (LEAST_PER_KEY - 2, Err(RecordError::Update)),
        (LEAST_PER_KEY - 1, Ok(vec![])),
    ] {
        let (mut one, mut other) = pair();
        for _ in 0..before {
            let wire = sealed(&mut one, b"x");
            opened(&mut other, &wire).unwrap();
        }
        let wire = record(&mut one, HANDSHAKE, &UPDATE_REQUESTED);
        assert_eq!(opened(&mut other, &wire), expected, "after {before}");
    }
}

#[test]
fn records_may_come_in_parts_of_any_size() {
    let plain = data(40_000, 3);
    for size in [1, 4, 5, 21, 22, 1_000, 16_406, 50_000] {
        let (mut one, mut other) = pair();
        let wire = sealed(&mut one, &plain);
        let (mut held, mut came) = (Vec::new(), Buffer::new());
        for part in wire.chunks(size) {
            held.extend_from_slice(part);
            let taken = other.open(&held, &mut came).unwrap();
            held.drain(..taken);
            assert!(held.len() < MAX_RECORD_LEN && record_len(&held).is_none_or(|len| held.len() < len));
        }
        assert!(held.is_empty() && *came == plain, "{size}");
    }
}

#[test]
fn a_record_that_is_not_what_was_sealed_does_not_open() {
    let plain = data(100, 9);
    let wire = sealed(&mut pair().0, &plain);
    for at in 0..wire.len() {
        for bit in 0..8 {
            let mut damaged = wire.clone();
            damaged[at] ^= 1 << bit;
            // Bytes behind, so that a longer record is there too.
            damaged.resize(wire.len() + MAX_RECORD_LEN, 0);
            let mut came = Buffer::new();
            came.extend_from_slice(b"before");
            let refused = pair().1.open(&damaged, &mut came).unwrap_err();
            let expected = match at {
                0..3 => &[RecordError::Header][..],
                3..5 => &[RecordError::Length, RecordError::Tag],
                _ => &[RecordError::Tag],
            };
            assert!(expected.contains(&refused), "byte {at}: {refused}");
            assert_eq!(&*came, b"before", "nothing of it is told");
        }
    }
}

#[test]
fn records_cannot_be_repeated_left_out_or_reordered() {
    let (mut one, mut other) = pair();
    let wires = [b"a", b"b"].map(|plain| sealed(&mut one, plain));
    assert_eq!(opened(&mut other, &wires[0]), Ok(b"a".to_vec()));
    assert_eq!(opened(&mut other, &wires[0]), Err(RecordError::Tag));
    assert_eq!(opened(&mut pair().1, &wires[1]), Err(RecordError::Tag));
    // Nor sent back to who sealed it.
    assert_eq!(opened(&mut one, &wires[0]), Err(RecordError::Tag));
}

#[test]
fn lengths_are_bounded() {
    let refused = |wire: &[u8]| pair().1.open(wire, &mut Buffer::new());
    let header = |len: usize| [&PREFIX[..], &(len as u16).to_be_bytes()].concat();
    assert_eq!(refused(&header(MAX_RECORD_LEN - HEADER_LEN)), Ok(0), "it may come yet");
    assert_eq!(refused(&header(MAX_RECORD_LEN - HEADER_LEN + 1)), Err(RecordError::Length));
    for len in 0..=TAG_LEN {
        let wire = [header(len), vec![0; len]].concat();
        let expected = if len < TAG_LEN { RecordError::Length } else { RecordError::Tag };
        assert_eq!(refused(&wire), Err(expected), "{len}");
    }
    let inside = |kind, content: &[u8]| {
        let (mut one, mut other) = pair();
        let wire = record(&mut one, kind, content);
        opened(&mut other, &wire)
    };
    assert_eq!(inside(APPLICATION_DATA, &[]), Err(RecordError::Length));
    assert_eq!(inside(APPLICATION_DATA, &[1; RECORD_LEN]), Ok(vec![1; RECORD_LEN]));
    assert_eq!(inside(APPLICATION_DATA, &[1; RECORD_LEN + 1]), Err(RecordError::Length));
    assert_eq!(inside(0, &[&[1, APPLICATION_DATA][..], &[0; RECORD_LEN - 2]].concat()), Ok(vec![1]));
    assert_eq!(
        inside(0, &[&[1, APPLICATION_DATA][..], &[0; RECORD_LEN - 1]].concat()),
        Err(RecordError::Length)
    );
    assert_eq!(inside(0, &[0; 100]), Err(RecordError::Message), "padding and nothing else");
    // The type is the last byte that is not zero: here the one of the content.
    assert_eq!(inside(0, &[5, 6, APPLICATION_DATA, 0, 0]), Ok(vec![5, 6]), "padding");
}

#[test]
fn only_data_goodbyes_and_updates_are_understood() {
    let refused = |kind, content: &[u8]| {
        let (mut one, mut other) = pair();
        one.sealer.count = LEAST_PER_KEY;
        other.opener.count = LEAST_PER_KEY;
        let wire = record(&mut one, kind, content);
        opened(&mut other, &wire).unwrap_err()
    };
    assert_eq!(refused(ALERT, &[2, 20]), RecordError::Alert(20));
    for (kind, content) in [
        (ALERT, &[2][..]),
        (ALERT, &[1, 0, 0]),
        // Tickets, another request to update, an update and more, and a part of one.
        (HANDSHAKE, &[4, 0, 0, 1, 0]),
        (HANDSHAKE, &[24, 0, 0, 1, 2]),
        (HANDSHAKE, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0]),
        (HANDSHAKE, &[24, 0, 0, 1]),
        // change_cipher_spec and what is unknown.
        (20, &[1]),
        (99, &[1]),
    ] {
        assert_eq!(refused(kind, content), RecordError::Message, "{kind} {content:?}");
    }
}

#[test]
fn what_comes_behind_a_goodbye_is_not_looked_at() {
    let (mut one, mut other) = pair();
    let last = [sealed(&mut one, b"last"), goodbye(&mut one).unwrap()];
    let wire = [&last.concat(), &b"whatever this is"[..]].concat();
    assert_eq!(opened(&mut other, &wire), Ok(b"last".to_vec()));
    assert!(other.is_closed());
    assert_eq!(opened(&mut other, b"and this"), Ok(vec![]));
}

#[test]
fn an_alert_of_rustls_is_told() {
    let (mut ours, mut peer) = beside_rustls(&Tls::new().unwrap(), true);
    let mut wire = sealed(&mut ours, b"x");
    wire[10] ^= 1;
    peer.read_tls(&mut &wire[..]).unwrap();
    assert!(peer.process_new_packets().is_err());
    // bad_record_mac
    assert_eq!(opened(&mut ours, &said(&mut peer)), Err(RecordError::Alert(20)));
}
