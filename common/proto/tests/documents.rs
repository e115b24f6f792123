//! Documents as strangers send them: whatever it is, it is refused or taken, and nothing panics.
#![allow(clippy::unwrap_used, reason = "a failed setup is a failed test")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tunic_proto::dir::{
    AuthoritySet, Consensus, ConsensusBody, Descriptor, DirError, ExitPolicy, Flag, Kind, RelayEntry,
    SignatureLine, UncheckedConsensus, UncheckedDescriptor, UncheckedVote, Vote, VoteEntry,
};
use tunic_proto::keys::{IdentityKey, OnionKey, Signer};
use tunic_proto::time::UnixTime;

const NOW: UnixTime = UnixTime(1_800_000_000);

fn signer(seed: u64) -> Signer {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    IdentityKey::generate(&mut rng).certify(UnixTime(NOW.0 + 1_000_000), &mut rng)
}

fn descriptor() -> Descriptor {
    Descriptor {
        nickname: "relay".into(),
        identity: signer(1).id(),
        published: NOW,
        addresses: vec!["192.0.2.1:9001".parse().unwrap(), "[2001:db8::1]:9001".parse().unwrap()],
        onion_key: OnionKey([7; 32]),
        exit: ExitPolicy::parse(&["reject 10.0.0.0/8:*", "accept *:443"]).unwrap(),
        family: vec![signer(2).id()],
        bandwidth: 1,
        version: "tunic 0.1.0".into(),
        protocols: vec![1],
    }
}

fn entry() -> RelayEntry {
    RelayEntry { flags: vec![Flag::Running, Flag::Valid], ..descriptor().entry() }
}

fn vote() -> Vote {
    Vote {
        authority: signer(1).id(),
        valid_after: NOW,
        fresh_until: UnixTime(NOW.0 + 1),
        valid_until: UnixTime(NOW.0 + 2),
        params: BTreeMap::from([("x".into(), -1)]),
        relays: vec![VoteEntry { published: NOW, entry: entry() }],
    }
}

fn consensus() -> Consensus {
    let Vote { valid_after, fresh_until, valid_until, params, .. } = vote();
    Consensus { valid_after, fresh_until, valid_until, params, relays: vec![entry()] }
}

/// One good document of each kind.
fn good(kind: Kind) -> Vec<u8> {
    match kind {
        Kind::Descriptor => descriptor().sign(&signer(1)).unwrap().bytes().to_vec(),
        Kind::Vote => vote().sign(&signer(1)).unwrap().bytes().to_vec(),
        Kind::Consensus => {
            let body = ConsensusBody::new(consensus()).unwrap();
            body.assemble(&[body.sign(&signer(1))]).unwrap()
        }
    }
}

/// All checks that a reader makes.
fn check(kind: Kind, bytes: &[u8]) -> Result<(), DirError> {
    let trusted = AuthoritySet::new([signer(1).id()]);
    match kind {
        Kind::Descriptor => {
            UncheckedDescriptor::parse(bytes)?.check_time(NOW)?.check_signature(NOW).map(drop)
        }
        Kind::Vote => UncheckedVote::parse(bytes)?.check_round(NOW)?.check_signature(&trusted, NOW).map(drop),
        Kind::Consensus => {
            UncheckedConsensus::parse(bytes)?.check_time(NOW)?.check_signatures(&trusted, NOW).map(drop)
        }
    }
}

const KINDS: [Kind; 3] = [Kind::Descriptor, Kind::Vote, Kind::Consensus];

#[test]
fn good_documents_pass_as_their_own_kind_only() {
    for kind in KINDS {
        for read_as in KINDS {
            assert_eq!(check(read_as, &good(kind)).is_ok(), kind == read_as, "{kind:?} as {read_as:?}");
        }
    }
}

#[test]
fn a_document_cut_or_flipped_at_any_byte_is_refused() {
    for kind in KINDS {
        let good = good(kind);
        for at in 0..good.len() {
            assert!(check(kind, &good[..at]).is_err(), "{kind:?} cut at {at}");
            let mut flipped = good.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(check(kind, &flipped).is_err(), "{kind:?} flipped at {at}");
        }
    }
}

#[test]
fn a_document_longer_than_its_kind_may_be_is_refused_unread() {
    for kind in KINDS {
        let long = vec![b' '; kind.max_len() + 1];
        assert_eq!(check(kind, &long), Err(DirError::TooLong));
    }
}

/// A document of this kind with any body, signed as it should be.
fn signed(kind: Kind, body: &[u8]) -> Vec<u8> {
    let name = match kind {
        Kind::Descriptor => "descriptor",
        Kind::Vote => "vote",
        Kind::Consensus => "consensus",
    };
    let line = SignatureLine::sign(kind, body, &signer(1)).encode();
    [format!("tunic-{name} 1 {}\n", body.len()).as_bytes(), body, format!("\n{line}\n").as_bytes()].concat()
}

#[test]
fn deep_nesting_does_not_exhaust_the_stack() {
    for kind in KINDS {
        for opening in ["[", "{\"x\":", "{\"relays\":[{\"x\":["] {
            let body = opening.repeat(12_000 / opening.len());
            assert!(check(kind, &signed(kind, body.as_bytes())).is_err());
        }
    }
}

/// JSON values of any shape, with the words that documents use.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<u64>().prop_map(|n| n.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_filter("JSON has none", |n| n.is_finite()).prop_map(|n| n.to_string()),
        "[a-z0-9:.\\[\\]*/ -]{0,24}".prop_map(|text| format!("\"{text}\"")),
        Just(format!("\"{}\"", signer(1).id())),
        Just("\"accept *:1-2\"".to_owned()),
        Just("\"192.0.2.1:1\"".to_owned()),
    ];
    let key = prop::sample::select(vec![
        "nickname",
        "identity",
        "published",
        "addresses",
        "onion_key",
        "exit",
        "family",
        "bandwidth",
        "flags",
        "version",
        "protocols",
        "authority",
        "valid_after",
        "fresh_until",
        "valid_until",
        "params",
        "relays",
    ]);
    leaf.prop_recursive(4, 64, 16, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec((key.clone(), inner), 0..18).prop_map(|fields| {
                let fields: Vec<_> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..2_000), kind in prop::sample::select(KINDS.to_vec())) {
        prop_assert!(check(kind, &bytes).is_err());
    }

    #[test]
    fn no_signed_json_panics(body in json(), kind in prop::sample::select(KINDS.to_vec())) {
        let _ = check(kind, &signed(kind, body.as_bytes()));
    }

    /// One value of a good document is replaced by another, and signed again.
    #[test]
    fn no_replaced_value_panics(
        which in any::<prop::sample::Index>(),
        value in json(),
        kind in prop::sample::select(KINDS.to_vec()),
    ) {
        let document = good(kind);
        let body = document.split(|byte| *byte == b'\n').nth(1).unwrap();
        let body = std::str::from_utf8(body).unwrap();
        let starts: Vec<_> = body.match_indices("\":").map(|(at, _)| at + 2).collect();
        let start = starts[which.index(starts.len())];
        let mut rest = serde_json::Deserializer::from_str(&body[start..]).into_iter::<serde_json::Value>();
        rest.next().unwrap().unwrap();
        let replaced = format!("{}{value}{}", &body[..start], &body[start + rest.byte_offset()..]);
        let _ = check(kind, &signed(kind, replaced.as_bytes()));
    }
}
