//! Documents that the tests of this module share.

use std::collections::BTreeMap;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::{Consensus, ConsensusBody, Descriptor, ExitPolicy, Flag, RelayEntry, Vote, VoteEntry};
use crate::ids::RelayId;
use crate::keys::{IdentityKey, OnionKey, Signer};
use crate::time::UnixTime;

pub(super) const NOW: UnixTime = UnixTime(1_800_000_000);

pub(super) fn signer(seed: u64) -> Signer {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    IdentityKey::generate(&mut rng).certify(UnixTime(NOW.0 + 1_000_000), &mut rng)
}

pub(super) fn descriptor(seed: u64) -> Descriptor {
    Descriptor {
        nickname: format!("relay{seed}"),
        identity: signer(seed).id(),
        published: NOW,
        addresses: vec![([192, 0, 2, seed as u8], 9001).into()],
        onion_key: OnionKey([seed as u8; 32]),
        exit: ExitPolicy::parse(&["reject 10.0.0.0/8:*", "accept *:80-443"]).unwrap(),
        family: vec![RelayId([7; 32])],
        bandwidth: 1_000_000,
        version: "tunic 0.1.0".into(),
        protocols: vec![1],
    }
}

pub(super) fn entry(seed: u64) -> RelayEntry {
    RelayEntry { flags: vec![Flag::Running, Flag::Valid], ..descriptor(seed).entry() }
}

fn sorted_seeds(seeds: &[u64]) -> Vec<u64> {
    let mut seeds = seeds.to_vec();
    seeds.sort_by_key(|seed| signer(*seed).id());
    seeds
}

pub(super) fn consensus(valid_after: UnixTime) -> Consensus {
    Consensus {
        valid_after,
        fresh_until: UnixTime(valid_after.0 + 3_600),
        valid_until: UnixTime(valid_after.0 + 3 * 3_600),
        params: BTreeMap::from([("padding".into(), 1)]),
        relays: sorted_seeds(&[11, 12, 13]).into_iter().map(entry).collect(),
    }
}

pub(super) fn sign_consensus(consensus: &Consensus, signers: &[u64]) -> Vec<u8> {
    let body = ConsensusBody::new(consensus.clone()).unwrap();
    let lines: Vec<_> = signers.iter().map(|seed| body.sign(&signer(*seed))).collect();
    body.assemble(&lines).unwrap()
}

pub(super) fn vote(authority: u64, relays: &[u64]) -> Vote {
    let entry = |seed| VoteEntry { published: NOW, entry: entry(seed) };
    Vote {
        authority: signer(authority).id(),
        valid_after: NOW,
        fresh_until: UnixTime(NOW.0 + 3_600),
        valid_until: UnixTime(NOW.0 + 3 * 3_600),
        params: BTreeMap::new(),
        relays: sorted_seeds(relays).into_iter().map(entry).collect(),
    }
}
