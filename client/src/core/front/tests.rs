use proptest::prelude::*;

use super::*;

fn front() -> Front {
    Front::new(Settings { password: None, local: Some("127.0.0.1:9150".parse().unwrap()) })
}

fn feed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, Vec<u8>) {
    let mut front = front();
    let mut events = Vec::new();
    for piece in pieces {
        front.handle_input(piece);
        events.extend(std::iter::from_fn(|| front.poll_event()));
    }
    (events, front.into_early_data())
}

#[test]
fn the_first_byte_tells_the_dialects_apart() {
    let cases: [(&[u8], Dialect); 4] = [
        (b"\x05\x01\x00\x05\x01\x00\x03\x01a\x00\x50", Dialect::Socks5),
        (b"\x04\x01\x00\x50\x00\x00\x00\x01\x00a\x00", Dialect::Socks4),
        (b"CONNECT a:80 HTTP/1.1\r\n\r\n", Dialect::HttpConnect),
        (b"GET http://a/ HTTP/1.1\r\n\r\n", Dialect::HttpForward { body: http::Body::Length(0) }),
    ];
    for (bytes, dialect) in cases {
        for pieces in [vec![bytes], bytes.chunks(1).collect()] {
            let (events, _) = feed(pieces);
            let Some(Event::Request(request)) = events.last() else { panic!("{events:?}") };
            assert_eq!(request.dialect, dialect);
            assert_eq!(request.command, Command::Connect(Target::Name("a".into(), 80)));
        }
    }
}

#[test]
fn everything_else_is_closed_without_a_word() {
    for first in (0..=255_u8).filter(|byte| !matches!(byte, 4 | 5 | b'A'..=b'Z')) {
        let expect = Event::Close { answer: Vec::new(), error: Some(FrontError::Unknown) };
        assert_eq!(feed([&[first, 1, 2][..]]).0, [expect]);
    }
}

proptest! {
    #[test]
    fn nothing_that_is_sent_can_do_harm_and_cuts_make_no_difference(
        start in proptest::sample::select(vec![&b"\x05"[..], b"\x04\x01", b"GET ", b"GET http://a/", b"CONNECT a:1", b"\x05\x01\x00\x05", b""]),
        bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(3), Just(b'\r'), Just(b'\n'), Just(b':'), any::<u8>()], 0..200),
        cut in 1usize..9,
    ) {
        let bytes = [start, &bytes].concat();
        let (whole, _) = feed([&bytes[..]]);
        let (pieces, _) = feed(bytes.chunks(cut));
        let kinds = |events: &[Event]| events.iter().map(std::mem::discriminant).collect::<Vec<_>>();
        prop_assert_eq!(kinds(&whole), kinds(&pieces));
    }
}
