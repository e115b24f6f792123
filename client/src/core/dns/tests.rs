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
    let bytes = question.answer(&answer(vec![v6, Record::Addr([192, 0, 2, 1].into())]), MAX_UDP);
    let expect = b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0\x01a\x01b\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04\xc0\0\x02\x01";
    assert_eq!(bytes, expect);
    let question = Question::parse(&query("1.2.0.192.in-addr.arpa", TYPE_PTR)).ok().unwrap();
    let bytes = question.answer(&answer(vec![Record::Name("a.example".into())]), MAX_UDP);
    assert!(bytes.ends_with(b"\0\x0b\x01a\x07example\0"));
    assert_eq!(question.empty(Code::NoSuchName)[3], 0x83);
}

#[test]
fn what_does_not_fit_is_cut_and_says_so() {
    let question = Question::parse(&query("example.com", TYPE_AAAA)).ok().unwrap();
    let records = (0..16).map(|last| Record::Addr(Ipv6Addr::from_bits(last).into())).collect();
    let all = answer(records);
    let cut = question.answer(&all, 100);
    assert!(cut.len() <= 100 && cut[2] & 2 != 0 && cut[7] == 2);
    let whole = question.answer(&all, usize::from(u16::MAX));
    assert!(whole[2] & 2 == 0 && whole[7] == 16);
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
