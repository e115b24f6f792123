//! Real authorities and relays on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed setup is a failed test")]

mod support;

use std::time::Duration;

use support::{ask, authorities, client, relay, set};
use tunic_net::daemon::{Status, unix_now};
use tunic_proto::dir::{Accepted, ConsensusStore, Request, Response, SignatureLine};
use tunic_proto::time::UnixTime;

const NO_CONSENSUS: Request = Request::GetConsensus { have: UnixTime(0) };

#[tokio::test(flavor = "multi_thread")]
async fn three_authorities_list_three_relays_and_serve_what_they_signed() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = authorities(3, dir.path(), 3).await;
    let list = running[0].config.authorities.clone();
    for number in 0..3 {
        relay(number).await.upload(&list).await;
    }
    let client = client();
    for (authority, config) in running.iter_mut().zip(&list) {
        let reachable = authority.wait_for(|status| matches!(status, Status::RelaysReachable(3))).await;
        assert_eq!(reachable, Status::RelaysReachable(3));
        authority.wait_for(|status| matches!(status, Status::Consensus { relays: 3 })).await;
        let Response::Ok(bytes) = ask(&client, config, &NO_CONSENSUS).await else { panic!("no consensus") };
        let mut store = ConsensusStore::new(set(&list));
        assert_eq!(store.accept(&bytes, unix_now()), Ok(Accepted::Replaced));
        let have = store.have(unix_now());
        assert_eq!(ask(&client, config, &Request::GetConsensus { have }).await, Response::NotModified);
    }
    for authority in running {
        authority.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_claims_an_address_of_somebody_else_is_not_listed() {
    let dir = tempfile::tempdir().unwrap();
    let mut alone = authorities(1, dir.path(), 2).await.remove(0);
    let list = alone.config.authorities.clone();
    let (honest, mut greedy) = (relay(0).await, relay(1).await);
    // A site that exits shall no more connect to.
    greedy.descriptor.addresses.push(honest.descriptor.addresses[0]);
    greedy.upload(&list).await;
    honest.upload(&list).await;
    relay(2).await.upload(&list).await;
    alone.wait_for(|status| matches!(status, Status::Consensus { .. })).await;
    let Response::Ok(bytes) = ask(&client(), &list[0], &NO_CONSENSUS).await else { panic!("no consensus") };
    let mut store = ConsensusStore::new(set(&list));
    store.accept(&bytes, unix_now()).unwrap();
    let consensus = store.current(unix_now()).unwrap();
    assert!(consensus.relay(&honest.descriptor.identity).is_some());
    assert!(consensus.relay(&greedy.descriptor.identity).is_none());
    alone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_authority_alone_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut alone = authorities(1, dir.path(), 1).await.remove(0);
    let list = alone.config.authorities.clone();
    let relay = relay(0).await;
    relay.upload(&list).await;
    alone.wait_for(|status| matches!(status, Status::Consensus { .. })).await;
    let before = ask(&client(), &list[0], &NO_CONSENSUS).await;
    let (config, listener) = alone.stop().await;
    let file = config.consensus_file();
    let mut again = support::Authority::start(config, listener);
    again.wait_for(|status| matches!(status, Status::Consensus { relays: 1 })).await;
    assert_eq!(ask(&client(), &list[0], &NO_CONSENSUS).await, before);
    let (config, listener) = again.stop().await;

    // A file that was damaged is not believed.
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let mut again = support::Authority::start(config, listener);
    // The relay is still known, though it uploaded its descriptor to the first process only.
    again.wait_for(|status| matches!(status, Status::Consensus { relays: 1 })).await;
    assert_ne!(ask(&client(), &list[0], &NO_CONSENSUS).await, before);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_not_where_it_says_is_not_listed() {
    let dir = tempfile::tempdir().unwrap();
    let mut alone = authorities(1, dir.path(), 2).await.remove(0);
    let list = alone.config.authorities.clone();
    let (honest, other) = (relay(0).await, relay(1).await);
    // An address where somebody else answers, though this relay has a channel to the authority.
    let mut liar = relay(2).await;
    liar.descriptor.addresses = honest.descriptor.addresses.clone();
    for relay in [&honest, &liar, &other] {
        relay.upload(&list).await;
    }
    alone.wait_for(|status| matches!(status, Status::Consensus { .. })).await;
    let Response::Ok(bytes) = ask(&client(), &list[0], &NO_CONSENSUS).await else { panic!("no consensus") };
    let mut store = ConsensusStore::new(set(&list));
    store.accept(&bytes, unix_now()).unwrap();
    let consensus = store.current(unix_now()).unwrap();
    assert!(consensus.relay(&honest.signer.id()).is_some() && consensus.relay(&other.signer.id()).is_some());
    assert!(consensus.relay(&liar.signer.id()).is_none());
    alone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_should_send_is_refused_and_the_authority_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let alone = authorities(1, dir.path(), 1).await.remove(0);
    let list = alone.config.authorities.clone();
    let (client, relay) = (client(), relay(0).await);
    let good = relay.descriptor.clone().sign(&relay.signer).unwrap().bytes().to_vec();
    let cut = Request::PostDescriptor(good[..good.len() - 7].to_vec());
    assert_eq!(ask(&client, &list[0], &cut).await, Response::Malformed);
    assert_eq!(ask(&client, &list[0], &Request::PostVote(b"vote".to_vec())).await, Response::Malformed);
    let line = Box::new(SignatureLine::sign(tunic_proto::dir::Kind::Consensus, b"{}", &relay.signer));
    let forged = Request::PostSignature { valid_after: unix_now(), digest: [0; 32], line };
    assert!(matches!(ask(&client, &list[0], &forged).await, Response::Refused(_)));
    let vote = Request::GetVote { valid_after: UnixTime(1) };
    assert_eq!(ask(&client, &list[0], &vote).await, Response::NotFound);
    let mut old = relay.descriptor.clone();
    old.published = unix_now().minus(Duration::from_secs(25 * 3_600));
    let old = Request::PostDescriptor(old.sign(&relay.signer).unwrap().bytes().to_vec());
    assert!(matches!(ask(&client, &list[0], &old).await, Response::Refused(_)));
    assert_eq!(ask(&client, &list[0], &Request::PostDescriptor(good)).await, Response::done());
    alone.stop().await;
}
