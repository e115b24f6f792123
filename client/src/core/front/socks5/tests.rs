use proptest::prelude::*;
use tunic_proto::message::{DestroyReason, EndReason};

use super::*;

const GREETING: &[u8] = &[5, 1, 0];

/// Feeds the pieces one by one and collects every event and what is left.
fn feed<'a>(password: Option<&str>, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, Vec<u8>) {
    let mut server = Server::new(password.map(|text| text.as_bytes().to_vec()));
    let mut events = Vec::new();
    for piece in pieces {
        server.handle_input(piece);
        while let Some(event) = server.poll_event() {
            events.push(event);
        }
    }
    (events, server.into_early_data())
}

/// Checks the events for these bytes, given at once and byte by byte.
fn check(bytes: &[u8], expect: &[Event]) {
    assert_eq!(feed(None, [bytes]).0, expect);
    assert_eq!(feed(None, bytes.chunks(1)).0, expect, "byte by byte");
}

fn sent(bytes: &[u8]) -> Event {
    Event::Send(bytes.to_vec())
}

fn connect(target: Target, bare_address: bool) -> Event {
    requested(target, None, bare_address)
}

fn requested(target: Target, credentials: Option<Credentials>, bare_address: bool) -> Event {
    Event::Request(Request {
        command: Command::Connect(target),
        credentials,
        dialect: Dialect::Socks5,
        bare_address,
    })
}

fn request(kind: u8, address: &[u8], port: u16) -> Vec<u8> {
    [GREETING, &[5, 1, 0, kind], address, &port.to_be_bytes()].concat()
}

fn named(name: &[u8], port: u16) -> Vec<u8> {
    request(3, &[&[name.len() as u8], name].concat(), port)
}

fn check_target(bytes: &[u8], target: Target) {
    check(bytes, &[sent(&[5, 0]), connect(target, bytes[6] != 3)]);
}

fn check_refused(request: &[u8], error: FrontError, code: u8) {
    let bytes = [GREETING, request].concat();
    let answer = vec![5, code, 0, 1, 0, 0, 0, 0, 0, 0];
    check(&bytes, &[sent(&[5, 0]), Event::Close { answer, error: Some(error) }]);
}

#[test]
fn each_kind_of_target_is_understood() {
    check_target(&request(1, &[192, 0, 2, 1], 443), Target::Addr("192.0.2.1:443".parse().unwrap()));
    let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    check_target(&request(4, &v6, 80), Target::Addr("[2001:db8::7]:80".parse().unwrap()));
    check_target(&named(b"example.com", 80), Target::Name("example.com".into(), 80));
    check_target(&named(&[b'a'; 255], 65_535), Target::Name("a".repeat(255), 65_535));
    check_target(
        &named(b"_srv.xn--bcher-kva.example.", 1),
        Target::Name("_srv.xn--bcher-kva.example.".into(), 1),
    );
}

#[test]
fn a_name_that_is_an_address_literal_becomes_an_address() {
    check_target(&named(b"192.0.2.1", 80), Target::Addr("192.0.2.1:80".parse().unwrap()));
    check_target(&named(b"2001:db8::7", 80), Target::Addr("[2001:db8::7]:80".parse().unwrap()));
    check_target(&named(b"[::1]", 80), Target::Addr("[::1]:80".parse().unwrap()));
}

#[test]
fn names_that_no_host_has_are_refused() {
    for name in
        [&b"a b"[..], b"a\0b", b"caf\xc3\xa9", b"a/b", b"user@host", b".", b"a:b", b"\xff", b"[a]", b"a\r\nb"]
    {
        check_refused(&named(name, 80)[3..], FrontError::Name, 1);
    }
    check_refused(&named(b"", 80)[3..8], FrontError::Name, 1);
    check_refused(&named(b"example.com", 0)[3..], FrontError::Name, 1);
    check_refused(&request(1, &[192, 0, 2, 1], 0)[3..], FrontError::Name, 1);
}

#[test]
fn commands_that_nobody_knows_and_bind_get_code_7() {
    for command in [0, 2, 4, 0xf2, 255] {
        check_refused(&[5, command], FrontError::Command, 7);
    }
}

#[test]
fn lookups_and_associations_are_understood() {
    let ask = |command: u8, kind: u8, rest: &[u8]| [GREETING, &[5, command, 0, kind], rest].concat();
    let check = |bytes: &[u8], expect: Command| {
        let (events, _) = feed(None, bytes.chunks(1));
        let Some(Event::Request(request)) = events.last() else { panic!("{events:?}") };
        assert_eq!(request.command, expect);
    };
    check(&ask(0xf0, 3, b"\x01a\0\0"), Command::Resolve(Query::Name("a".into())));
    check(&ask(0xf1, 1, &[192, 0, 2, 1, 0, 0]), Command::Resolve(Query::Addr([192, 0, 2, 1].into())));
    check(&ask(3, 1, &[0, 0, 0, 0, 0, 0]), Command::Associate(0));
    check(&ask(3, 1, &[127, 0, 0, 1, 0x12, 0x34]), Command::Associate(0x1234));
    check_refused(&[5, 0xf1, 0, 3, 1, b'a', 0, 0], FrontError::AddressType, 8);
    check_refused(&[5, 0xf0, 0, 1, 192, 0, 2, 1, 0, 0], FrontError::AddressType, 8);
}

#[test]
fn a_lookups_answer_is_its_first_record() {
    use std::time::Duration;
    use tunic_proto::resolve::{Answer, Record};
    let answer = |records| Answer { ttl: Duration::from_secs(300), records };
    let v6 = Record::Addr("2001:db8::1".parse().unwrap());
    let both = answer(vec![v6, Record::Addr([192, 0, 2, 1].into())]);
    assert_eq!(resolved(&both), [5, 0, 0, 1, 192, 0, 2, 1, 0, 0]);
    assert_eq!(resolved(&answer(vec![Record::Name("a.b".into())])), b"\x05\0\0\x03\x03a.b\0\0");
    assert_eq!(reply_with("127.0.0.1:258".parse().unwrap()), [5, 0, 0, 1, 127, 0, 0, 1, 1, 2]);
}

#[test]
fn unknown_address_types_get_code_8() {
    for kind in [0, 2, 5, 255] {
        check_refused(&[5, 1, 0, kind], FrontError::AddressType, 8);
    }
}

#[test]
fn malformed_requests_get_code_1() {
    check_refused(&[4], FrontError::Malformed, 1);
    check_refused(&[5, 1, 1], FrontError::Malformed, 1);
}

#[test]
fn credentials_are_preferred_and_isolate() {
    let auth = [&[1, 5][..], b"alice", &[2], b"pw"].concat();
    let bytes = [&[5, 3, 0, 1, 2][..], &auth, &named(b"example.com", 80)[3..]].concat();
    let credentials = Some(Credentials { user: b"alice".to_vec(), password: b"pw".to_vec() });
    let target = Target::Name("example.com".into(), 80);
    let expect = [sent(&[5, 2]), sent(&[1, 0]), requested(target, credentials, false)];
    check(&bytes, &expect);
}

#[test]
fn the_longest_credentials_fit() {
    let long = [7; 255];
    let auth = [&[1, 255][..], &long, &[255], &long].concat();
    let bytes = [&[5, 1, 2][..], &auth, &named(b"a", 80)[3..]].concat();
    let (events, _) = feed(None, bytes.chunks(1));
    let Some(Event::Request(request)) = events.last() else { panic!("{events:?}") };
    let credentials = Some(Credentials { user: long.to_vec(), password: long.to_vec() });
    assert_eq!(request.credentials, credentials);
}

#[test]
fn a_required_password_is_required() {
    let auth = |password: &[u8]| [&[5, 2, 0, 2, 1, 0, password.len() as u8][..], password].concat();
    assert_eq!(feed(Some("secret"), [&auth(b"secret")[..]]).0, [sent(&[5, 2]), sent(&[1, 0])]);
    for wrong in [&b""[..], b"secreT", b"secret ", b"secre"] {
        let refused = Event::Close { answer: vec![1, 1], error: Some(FrontError::Password) };
        assert_eq!(feed(Some("secret"), [&auth(wrong)[..]]).0, [sent(&[5, 2]), refused]);
    }
    let refused = Event::Close { answer: vec![5, 255], error: Some(FrontError::NoMethod) };
    assert_eq!(feed(Some("secret"), [GREETING]).0, [refused]);
}

#[test]
fn greetings_without_a_usable_method_are_refused() {
    for greeting in [&[5, 0][..], &[5, 1, 1], &[5, 2, 3, 0x80]] {
        check(greeting, &[Event::Close { answer: vec![5, 255], error: Some(FrontError::NoMethod) }]);
    }
}

#[test]
fn a_malformed_authentication_is_refused() {
    let refused = Event::Close { answer: vec![1, 1], error: Some(FrontError::Auth) };
    check(&[5, 1, 2, 5], &[sent(&[5, 2]), refused]);
}

#[test]
fn other_protocols_are_refused() {
    for first in (0..=255).filter(|byte| *byte != 5) {
        check(&[first], &[Event::Close { answer: vec![], error: Some(FrontError::Unknown) }]);
    }
}

#[test]
fn what_follows_the_request_is_early_data() {
    let bytes = [&named(b"example.com", 80)[..], b"GET / HTTP/1.0\r\n\r\n"].concat();
    for pieces in [vec![&bytes[..]], bytes.chunks(1).collect()] {
        let (events, early) = feed(None, pieces);
        assert_eq!(events.len(), 2);
        assert_eq!(early, b"GET / HTTP/1.0\r\n\r\n");
    }
}

#[test]
fn every_prefix_waits_for_more() {
    let bytes = named(b"example.com", 80);
    for end in 0..bytes.len() {
        let (events, _) = feed(None, [&bytes[..end]]);
        assert_eq!(events.len(), usize::from(end >= GREETING.len()), "{end} bytes");
    }
}

#[test]
fn over_long_input_is_refused_and_not_kept() {
    let mut server = Server::new(None);
    for _ in 0..100 {
        server.handle_input(&[5; 1_000]);
    }
    assert!(server.buffer.len() <= MAX_BUFFERED + 1);
    assert_eq!(server.poll_event(), Some(Event::Close { answer: vec![], error: Some(FrontError::TooLong) }));
    assert_eq!(server.poll_event(), None);
}

#[test]
fn every_reason_has_its_code() {
    let ends = [
        (EndReason::Done, 1),
        (EndReason::Policy, 2),
        (EndReason::NameNotFound, 4),
        (EndReason::ConnectionRefused, 5),
        (EndReason::HostUnreachable, 4),
        (EndReason::NetworkUnreachable, 3),
        (EndReason::Timeout, 6),
        (EndReason::Reset, 5),
        (EndReason::Resources, 1),
        (EndReason::NotDirectory, 1),
        (EndReason::Internal, 1),
    ];
    for (reason, code) in ends {
        assert_eq!(reply(reason.into()), [5, code, 0, 1, 0, 0, 0, 0, 0, 0], "{reason}");
    }
    let builds = [
        (DestroyReason::None, 1),
        (DestroyReason::Protocol, 1),
        (DestroyReason::Internal, 1),
        (DestroyReason::Resources, 1),
        (DestroyReason::Finished, 1),
        (DestroyReason::ChannelLost, 3),
        (DestroyReason::Handshake, 1),
        (DestroyReason::UnknownRelay, 1),
        (DestroyReason::ConnectFailed, 3),
        (DestroyReason::Timeout, 6),
    ];
    for (reason, code) in builds {
        assert_eq!(reply(reason.into())[1], code, "{reason}");
    }
}

proptest! {
    #[test]
    fn how_the_bytes_are_cut_makes_no_difference(
        bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(2), Just(3), Just(5), any::<u8>()], 0..64),
        cut in 1usize..8,
    ) {
        let whole = feed(None, [&bytes[..]]);
        prop_assert_eq!(feed(None, bytes.chunks(cut)), whole);
    }
}
