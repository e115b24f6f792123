//! Whole networks of authorities in memory, on virtual time.

pub(crate) mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tunic_proto::dir::{
    AuthoritySet, Descriptor, Response, SignatureLine, SignedVote, UncheckedConsensus, UncheckedDescriptor,
    UncheckedVote, Vote,
};
use tunic_proto::time::UnixTime;

use super::{Authority, Moment, Output, Refusal, RoundFailure, Settings};
use support::{Message, NOW, Net, authority_seed, descriptor, settings, signer};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

fn all(n: usize) -> Vec<usize> {
    (0..n).collect()
}

fn with_relays(n: usize, seed: u64, relays: u64) -> Net {
    let mut net = Net::new(n, seed, &settings());
    (1..=relays).for_each(|relay| net.upload(descriptor(relay), &all(n)));
    net
}

/// The one consensus that all of these have published last.
#[track_caller]
fn agreed(net: &Net, among: &[usize]) -> Arc<tunic_proto::dir::SignedConsensus> {
    let last = |i: &usize| net.published[*i].last().expect("no consensus").clone();
    let first = last(&among[0]);
    assert!(among.iter().all(|i| last(i).digest() == first.digest()), "no agreement");
    first
}

#[test]
fn three_authorities_agree_within_two_seconds_whatever_the_order_of_messages() {
    for seed in 0..50 {
        let mut net = with_relays(3, seed, 5);
        net.run_for(SECOND * 3 / 2);
        let consensus = agreed(&net, &all(3));
        assert_eq!(consensus.relays.len(), 5);
        let set = AuthoritySet::new((0..3).map(|i| signer(authority_seed(i)).id()));
        let checked = UncheckedConsensus::parse(consensus.bytes()).unwrap();
        let now = net.now.unix();
        assert!(checked.check_time(now).unwrap().check_signatures(&set, now).is_ok());
    }
}

#[test]
fn one_authority_alone_runs_the_same_code() {
    let mut net = with_relays(1, 1, 3);
    net.run_for(SECOND * 3 / 2);
    assert_eq!(agreed(&net, &[0]).relays.len(), 3);
    net.run_for(HOUR);
    assert_eq!(net.published[0].len(), 2);
    assert!(net.failures[0].is_empty());
}

#[test]
fn after_bootstrap_rounds_come_every_interval() {
    let mut net = with_relays(3, 2, 3);
    net.run_for(HOUR * 5);
    let consensus = agreed(&net, &all(3));
    assert!(net.published.iter().all(|published| published.len() == 6));
    assert_eq!(consensus.valid_after.0 % 3_600, 0);
    assert_eq!(consensus.fresh_until, consensus.valid_after.plus(HOUR));
    assert_eq!(consensus.valid_until, consensus.valid_after.plus(HOUR * 3));
    assert!(net.failures.iter().all(Vec::is_empty));
}

#[test]
fn no_consensus_is_made_before_enough_relays_run() {
    let mut net = with_relays(3, 3, 2);
    net.run_for(SECOND * 3);
    assert!(net.published.iter().all(Vec::is_empty));
    assert_eq!(net.failures[0][0], RoundFailure::TooFewRelays { have: 2, need: 3 });
    net.upload(descriptor(3), &all(3));
    net.run_for(SECOND * 3 / 2);
    assert_eq!(agreed(&net, &all(3)).relays.len(), 3);
}

#[test]
fn only_relays_that_answer_are_listed() {
    let mut net = Net::new(3, 4, &settings());
    net.dead = vec![signer(2).id()];
    (1..=4).for_each(|relay| net.upload(descriptor(relay), &all(3)));
    net.run_for(SECOND * 2);
    let consensus = agreed(&net, &all(3));
    assert!(consensus.relays.len() == 3 && consensus.relay(&signer(2).id()).is_none());
}

#[test]
fn a_silent_authority_does_not_stop_the_others() {
    let mut net = with_relays(3, 5, 3);
    net.meddle = Box::new(|from, to, message| (from != 2 && to != 2).then_some(message));
    net.run_for(SECOND * 2);
    agreed(&net, &[0, 1]);
    assert!(net.published[2].is_empty());
    assert!(matches!(net.failures[2][0], RoundFailure::Votes(_)));
    net.run_for(HOUR + SECOND * 300);
    assert_eq!(net.published[0].len(), 2);
    agreed(&net, &[0, 1]);
    // When it can be heard again it catches up, first by asking.
    net.meddle = Box::new(|_, _, message| Some(message));
    net.run_for(SECOND * 3);
    agreed(&net, &all(3));
}

#[test]
fn two_silent_authorities_of_three_stop_the_network_and_a_minority_never_publishes() {
    let mut net = with_relays(3, 6, 3);
    net.meddle = Box::new(|_, _, _| None);
    net.run_for(SECOND * 10);
    assert!(net.published.iter().all(Vec::is_empty));
    assert!(matches!(net.failures[0][0], RoundFailure::Votes(_)));
}

#[test]
fn authorities_with_different_relays_agree_on_what_most_see() {
    let mut net = Net::new(3, 7, &settings());
    (1..=3).for_each(|relay| net.upload(descriptor(relay), &all(3)));
    net.upload(descriptor(4), &[0, 2]);
    net.upload(descriptor(5), &[1]);
    let newer = Descriptor { published: UnixTime(NOW.0 + 1), nickname: "renamed".into(), ..descriptor(1) };
    net.upload(newer, &[1, 2]);
    net.run_for(SECOND * 2);
    let consensus = agreed(&net, &all(3));
    assert_eq!(consensus.relays.len(), 4);
    assert!(consensus.relay(&signer(4).id()).is_some());
    assert_eq!(consensus.relay(&signer(1).id()).unwrap().nickname, "renamed");
}

fn unlike(vote: &[u8]) -> SignedVote {
    let json = vote.split(|byte| *byte == b'\n').nth(1).unwrap();
    let vote: Vote = serde_json::from_slice(json).unwrap();
    let params = BTreeMap::from([("odd".to_owned(), 1)]);
    let liar = (0..3).map(|i| signer(authority_seed(i))).find(|s| s.id() == vote.authority).unwrap();
    Vote { params, ..vote }.sign(&liar).unwrap()
}

#[test]
fn two_votes_by_one_authority_are_noticed_and_neither_counts() {
    let mut net = with_relays(3, 8, 3);
    // Authority 2 tells everyone one thing; a second, different vote of its own arrives as well.
    net.run_for(SECOND / 2);
    net.meddle = Box::new(|from, _, message| match message {
        Message::Vote(_) if from != 2 => None,
        other => Some(other),
    });
    net.run_for(Duration::from_millis(150));
    let vote = net.authorities[2].own_vote(UnixTime(NOW.0 + 1)).unwrap().clone();
    let second = Message::Vote(unlike(&vote).bytes().clone());
    net.send(2, 0, second.clone());
    net.send(2, 1, second);
    net.run_for(Duration::from_millis(50));
    assert_eq!(net.equivocations[..2], [[signer(authority_seed(2)).id()], [signer(authority_seed(2)).id()]]);
    // The votes of 0 and 1, which were lost, are asked for, and both agree without 2.
    net.meddle = Box::new(|from, to, message| (from != 2 && to != 2).then_some(message));
    net.run_for(SECOND);
    assert_eq!(agreed(&net, &[0, 1]).relays.len(), 3);
    assert_eq!(net.authorities[0].counters().equivocations, 1);
}

#[test]
fn an_authority_that_tells_each_peer_something_else_cannot_make_two_consensuses_of_honest_signatures() {
    for seed in 0..20 {
        let mut net = with_relays(3, seed, 3);
        net.meddle = Box::new(|from, to, message| match (from, to, message) {
            (2, 1, Message::Vote(bytes)) => Some(Message::Vote(unlike(&bytes).bytes().clone())),
            (_, _, message) => Some(message),
        });
        net.run_for(SECOND * 2);
        assert!(
            net.authorities[0].counters().disagreements + net.authorities[1].counters().disagreements > 0
        );
        net.meddle = Box::new(|_, _, message| Some(message));
        net.run_for(HOUR);
        agreed(&net, &all(3));
    }
}

#[test]
fn a_vote_that_was_lost_is_asked_for() {
    let mut net = with_relays(3, 9, 3);
    let mut lost = 0;
    net.meddle = Box::new(move |from, to, message| {
        let lose = matches!(message, Message::Vote(_)) && (from, to) == (0, 1) && lost == 0;
        lost += usize::from(lose);
        (!lose).then_some(message)
    });
    net.run_for(SECOND * 3 / 2);
    agreed(&net, &all(3));
    assert_eq!(net.published[1][0].valid_after, UnixTime(NOW.0 + 1));
    assert!(net.failures.iter().all(Vec::is_empty));
}

#[test]
fn a_late_vote_does_not_count() {
    let mut net = with_relays(3, 10, 3);
    net.meddle = Box::new(|from, to, message| match message {
        Message::Vote(_) => (from != 2 && to != 2).then_some(message),
        Message::Signature(..) => None,
        other => Some(other),
    });
    net.run_for(Duration::from_millis(1_200));
    let start = UnixTime(NOW.0 + 1);
    net.run_for(Duration::from_millis(200));
    let late = UncheckedVote::parse(net.authorities[2].own_vote(start).unwrap()).unwrap();
    let now = net.now;
    let result = net.authorities[0].handle_vote(now, late);
    assert_eq!(result, Err(Refusal::Policy("the vote came too late")));
}

#[test]
fn votes_of_strangers_and_of_other_rounds_are_refused() {
    let mut net = with_relays(3, 11, 3);
    let start = UnixTime(NOW.0 + 1);
    let vote = |seed: u64, valid_after: UnixTime| {
        let signer = signer(seed);
        let vote = Vote {
            authority: signer.id(),
            valid_after,
            fresh_until: valid_after.plus(HOUR),
            valid_until: valid_after.plus(HOUR),
            params: BTreeMap::new(),
            relays: vec![],
        };
        UncheckedVote::parse(vote.sign(&signer).unwrap().bytes()).unwrap()
    };
    let now = net.now;
    let mut result = |seed, valid_after| net.authorities[0].handle_vote(now, vote(seed, valid_after));
    assert!(matches!(result(5, start), Err(Refusal::Document(_))));
    assert!(matches!(result(authority_seed(1), UnixTime(start.0 + 1)), Err(Refusal::Policy(_))));
    assert!(matches!(result(authority_seed(1), UnixTime(start.0 - 1)), Err(Refusal::Policy(_))));
    assert_eq!(result(authority_seed(1), start), Ok(()));
    assert_eq!(net.authorities[0].counters().refused, 3);
}

#[test]
fn made_up_signatures_neither_count_nor_keep_the_real_ones_out() {
    let mut net = with_relays(3, 12, 3);
    net.meddle = Box::new(|_, to, message| (to != 0).then_some(message));
    net.run_for(Duration::from_millis(650));
    let start = UnixTime(NOW.0 + 1);
    // A certificate is public: anyone can put it before a signature of something else.
    let line = SignatureLine::sign(tunic_proto::dir::Kind::Vote, b"else", &signer(authority_seed(1)));
    let now = net.now;
    let mut post = |digest| net.authorities[0].handle_signature(now, start, digest, line.clone());
    assert!((0..4).all(|i| post([i; 32]) == Ok(())));
    assert_eq!(post([4; 32]), Err(Refusal::Busy));
    let stranger = SignatureLine::sign(tunic_proto::dir::Kind::Consensus, b"", &signer(5));
    assert!(net.authorities[0].handle_signature(now, start, [0; 32], stranger).is_err());
    assert!(net.published[0].is_empty());
    // It asks for the votes, and the peers, told to try again later, send their signatures.
    net.meddle = Box::new(|_, _, message| Some(message));
    net.run_for(Duration::from_millis(400));
    let published = agreed(&net, &[1, 2]);
    let body = published.bytes().split(|byte| *byte == b'\n').collect::<Vec<_>>();
    let honest = SignatureLine::parse(body[2]).unwrap();
    let now = net.now;
    assert_eq!(net.authorities[0].handle_signature(now, start, published.digest(), honest), Ok(()));
    assert!(net.authorities[0].consensus(now.unix()).is_some());
}

#[test]
fn clocks_that_differ_a_little_do_no_harm_and_one_far_off_does_not_count() {
    for seed in 0..20 {
        let mut net = Net::new(3, seed, &settings());
        net.skew_ms = vec![-100, 0, 100];
        (1..=3).for_each(|relay| net.upload(descriptor(relay), &all(3)));
        net.run_for(SECOND * 3);
        agreed(&net, &all(3));
    }
    let mut net = Net::new(3, 1, &settings());
    net.skew_ms = vec![0, 0, -7_200_000];
    (1..=3).for_each(|relay| net.upload(descriptor(relay), &[0, 1]));
    net.run_for(SECOND * 2);
    agreed(&net, &[0, 1]);
    assert!(net.published[2].is_empty());
}

#[test]
fn a_consensus_never_goes_back() {
    let mut net = with_relays(3, 13, 3);
    net.run_for(SECOND * 3 / 2);
    let old = agreed(&net, &all(3));
    net.run_for(HOUR);
    let now = net.now;
    let result = net.authorities[0].handle_consensus(now, old.bytes());
    assert_eq!(result, Err(Refusal::Document(tunic_proto::dir::DirError::RolledBack)));
    assert!(net.authorities[0].consensus(now.unix()).unwrap().valid_after > old.valid_after);
}

#[test]
fn an_authority_that_is_restarted_takes_its_peers_consensus_and_votes_in_no_round_twice() {
    let mut net = with_relays(3, 14, 3);
    net.run_for(SECOND * 3 / 2);
    let set = AuthoritySet::new((0..3).map(|i| signer(authority_seed(i)).id()));
    let signer = Arc::new(signer(authority_seed(0)));
    net.authorities[0] = Authority::new(settings(), signer, set, net.now).unwrap();
    net.published[0].clear();
    net.run_for(SECOND);
    agreed(&net, &all(3));
    assert!(net.equivocations.iter().all(Vec::is_empty));
    assert!(net.authorities[0].own_vote(UnixTime(NOW.0 + 1)).is_none());
}

#[test]
fn when_the_consensus_runs_out_bootstrap_rounds_begin_again() {
    let mut net = with_relays(3, 15, 3);
    net.run_for(SECOND * 2);
    let first = agreed(&net, &all(3));
    net.meddle = Box::new(|_, _, _| None);
    net.run_for(HOUR * 4);
    let now = net.now.unix();
    assert!(now > first.valid_until);
    assert!(net.authorities.iter().all(|authority| authority.consensus(now).is_none()));
    net.meddle = Box::new(|_, _, message| Some(message));
    net.run_for(SECOND * 3);
    assert!(agreed(&net, &all(3)).valid_after > first.valid_until);
}

#[test]
fn a_machine_that_slept_through_the_vote_does_not_vote() {
    let mut net = with_relays(1, 16, 3);
    let late = Moment(NOW.0 * 1_000 + 1_700);
    net.authorities[0].handle_timeout(late);
    assert!(net.authorities[0].own_vote(UnixTime(NOW.0 + 1)).is_none());
    assert_eq!(net.authorities[0].poll_timeout(), Moment(NOW.0 * 1_000 + 2_000));
}

#[test]
fn private_addresses_are_refused_unless_allowed() {
    let signer_of = signer(1);
    let set = AuthoritySet::new([signer(authority_seed(0)).id()]);
    let private = Descriptor { addresses: vec![([10, 0, 0, 1], 9001).into()], ..descriptor(1) };
    let bytes = private.sign(&signer_of).unwrap().bytes().to_vec();
    let result = |allow_private_addresses| {
        let settings = Settings { allow_private_addresses, ..Settings::default() };
        let signer = Arc::new(signer(authority_seed(0)));
        let mut authority = Authority::new(settings, signer, set.clone(), Moment::at(NOW)).unwrap();
        let result =
            authority.handle_descriptor(Moment::at(NOW), UncheckedDescriptor::parse(&bytes).unwrap());
        let probes = matches!(authority.poll_output(), Some(Output::Probe { .. }));
        (result, probes)
    };
    let refusal = Refusal::Policy("an address is not on the public internet");
    assert_eq!(result(false), (Err(refusal), false));
    assert_eq!(result(true), (Ok(()), true));
}

#[test]
fn refusals_say_whose_fault_it_is() {
    use tunic_proto::dir::DirError;
    assert_eq!(Response::from(Refusal::from(DirError::TooLong)), Response::Malformed);
    assert_eq!(
        Response::from(Refusal::from(DirError::WrongSigner)),
        Response::Refused("signed by somebody else".into())
    );
    assert_eq!(Response::from(Refusal::Busy), Response::Busy);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Lossy, slow and meddling networks: whatever is published by two authorities for one round is the same.
    #[test]
    fn honest_authorities_never_publish_different_consensuses(seed in 0_u64..10_000, loss in 0_u64..6) {
        let mut net = with_relays(4, seed, 4);
        let mut state = seed;
        net.meddle = Box::new(move |_, _, message| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % 10 >= loss).then_some(message)
        });
        net.run_for(SECOND * 5);
        let mut by_round: BTreeMap<UnixTime, _> = BTreeMap::new();
        for consensus in net.published.iter().flatten() {
            let digest = *by_round.entry(consensus.valid_after).or_insert(consensus.digest());
            prop_assert_eq!(digest, consensus.digest());
        }
        net.meddle = Box::new(|_, _, message| Some(message));
        net.run_for(HOUR);
        agreed(&net, &all(4));
    }
}
