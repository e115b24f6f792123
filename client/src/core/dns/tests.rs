use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn query(name: &str, kind: u16) -> Vec<u8> {
    let question = [write_name(name).unwrap(), kind.to_be_bytes().into(), vec![0, 1]].concat();
    [&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &question].concat()
}

fn answer(records: Vec<Record>) -> Answer {
    Answer { ttl: Duration::from_secs(300), records }
}

#[track_caller]
fn check(name: &str, kind: u16, expect: Result<Query, Code>) {
    assert_eq!(Question::parse(&query(name, kind)).ok().unwrap().lookup(), expect, "{name}");
}

#[test]
fn addresses_and_names_are_looked_up_and_nothing_else() {
    check("example.com", TYPE_A, Ok(Query::Name("example.com".into())));
    check("_a.Example.com", TYPE_AAAA, Ok(Query::Name("_a.Example.com".into())));
    check("1.2.0.192.in-addr.arpa", TYPE_PTR, Ok(Query::Addr([192, 0, 2, 1].into())));
    let v6 = format!("1.{}8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(23));
    check(&v6, TYPE_PTR, Ok(Query::Addr("2001:db8::1".parse().unwrap())));
    check("256.2.0.192.in-addr.arpa", TYPE_PTR, Err(Code::NoSuchName));
    check("example.com", TYPE_PTR, Err(Code::NoSuchName));
    for kind in [2, 15, 16, 33, 65, 255] {
        check("example.com", kind, Err(Code::NotImplemented));
    }
}

#[test]
fn answers_hold_what_was_asked_for() {
    let question = Question::parse(&query("a.b", TYPE_A)).ok().unwrap();
    let v6 = Record::Addr("2001:db8::1".parse().unwrap());
    let bytes = question.answer(&answer(vec![v6, Record::Addr([192, 0, 2, 1].into())]), Transport::Udp);
    let expect = b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0\x01a\x01b\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04\xc0\0\x02\x01";
    assert_eq!(bytes, expect);
    let question = Question::parse(&query("1.2.0.192.in-addr.arpa", TYPE_PTR)).ok().unwrap();
    let bytes = question.answer(&answer(vec![Record::Name("a.example".into())]), Transport::Udp);
    assert!(bytes.ends_with(b"\0\x0b\x01a\x07example\0"));
    assert_eq!(question.empty(Code::NoSuchName)[3], 0x83);
}

#[test]
fn what_does_not_fit_is_cut_and_says_so() {
    let question = Question::parse(&query("example.com", TYPE_AAAA)).ok().unwrap();
    let records = (0..16).map(|last| Record::Addr(Ipv6Addr::from_bits(last).into())).collect();
    let all = answer(records);
    let whole = question.answer(&all, Transport::Tcp);
    assert!(whole[2] & 2 == 0 && whole[7] == 16);
    // 12 + 17 + 16 * 28 is less than 512, so a longer name is asked for.
    let long = format!("{}.example.com", "x".repeat(50));
    let question = Question::parse(&query(&long, TYPE_AAAA)).ok().unwrap();
    let cut = question.answer(&all, Transport::Udp);
    assert!(cut.len() <= MAX_UDP && cut[2] & 2 != 0 && cut[7] == 15);
}

/// An OPT record: version and room of the program.
fn opt(version: u8, payload: u16) -> Vec<u8> {
    [&[0, 0, 41][..], &payload.to_be_bytes(), &[0, version, 0, 0, 0, 0]].concat()
}

fn with_additional(name: &str, records: &[Vec<u8>]) -> Vec<u8> {
    let mut message = [query(name, TYPE_AAAA), records.concat()].concat();
    message[11] = records.len() as u8;
    message
}

#[test]
fn whoever_has_more_room_gets_more_and_no_more_than_passes_everywhere() {
    let name = format!("{}.example.com", "x".repeat(50));
    let records = (0..16).map(|last| Record::Addr(Ipv6Addr::from_bits(last).into())).collect();
    let all = answer(records);
    for (payload, count) in [(0, 15), (512, 15), (1_232, 16), (65_535, 16)] {
        let question = Question::parse(&with_additional(&name, &[opt(0, payload)])).ok().unwrap();
        let bytes = question.answer(&all, Transport::Udp);
        assert!(bytes.len() <= usize::from(payload.clamp(512, edns::MAX_PAYLOAD)));
        assert_eq!((bytes[7], bytes[11]), (count, 1), "{payload}");
        assert!(bytes.ends_with(&opt(0, edns::MAX_PAYLOAD)));
    }
}

#[test]
fn extensions_that_are_not_ours_are_told() {
    let question = Question::parse(&with_additional("a.b", &[opt(1, 1_232)])).ok().unwrap();
    assert_eq!(question.lookup(), Err(Code::BadVersion));
    let bytes = question.empty(Code::BadVersion);
    assert_eq!((bytes[3] & 15, bytes[bytes.len() - 6]), (0, 1), "the code is 16");
    let check = |records: &[Vec<u8>]| {
        Question::parse(&with_additional("a.b", records)).err().map(|answer| answer[3] & 15)
    };
    assert_eq!(check(&[opt(0, 512), opt(0, 512)]), Some(1), "two of them");
    assert_eq!(check(&[[&b"\x01a"[..], &opt(0, 512)].concat()]), Some(1), "a name");
    assert_eq!(check(&[opt(0, 512)[..10].to_vec()]), Some(1), "cut off");
    let mut too_long = opt(0, 512);
    too_long[10] = 9;
    assert_eq!(check(&[too_long]), Some(1), "options that are not there");
    let other = b"\x01a\0\0\x01\0\x01\0\0\0\0\0\x01x".to_vec();
    assert_eq!(check(&[other, opt(0, 512)]), None, "another record");
}

#[test]
fn a_query_cannot_say_that_its_answer_was_cut() {
    let mut message = query("a.b", TYPE_A);
    message[2] |= 2;
    let answer = Question::parse(&message).ok().unwrap().empty(Code::Ok);
    assert_eq!(answer[2] & 2, 0);
}

#[test]
fn what_is_no_query_is_refused_or_left_alone() {
    let good = query("a", TYPE_A);
    let change = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Question::parse(&bytes).err().map(|answer| answer.get(3).map(|flags| flags & 15))
    };
    assert_eq!(change(2, 0x80), Some(None), "a response");
    assert_eq!(change(2, 0x28), Some(Some(4)), "an update");
    assert_eq!(change(5, 2), Some(Some(1)), "two questions");
    assert_eq!(change(12, 0xc0), Some(Some(1)), "a pointer");
    assert_eq!(change(13, b' '), Some(Some(1)), "a space");
    assert_eq!(Question::parse(&good[..11]).err(), Some(Vec::new()));
    assert!(Question::parse(&good[..good.len() - 1]).is_err());
}

proptest! {
    #[test]
    fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), valid_header: bool) {
        let bytes = if valid_header { [&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &bytes].concat() } else { bytes };
        if let Ok(question) = Question::parse(&bytes) {
            let _ = question.lookup();
            prop_assert!(question.empty(Code::Failure).len() <= bytes.len());
        }
    }
}
