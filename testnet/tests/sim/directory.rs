//! Relays, authorities and readers over simulated circuits (docs/protocol.md §8 and §9).

use std::time::Duration;

use tunic_directory::core::Settings;
use tunic_proto::dir::{AuthoritySet, Response, UncheckedConsensus};
use tunic_proto::time::UnixTime;
use tunic_testnet::sim::{Answer, Authorities, NodeId};

use crate::support::MINUTE;

fn settings() -> Settings {
    Settings {
        bootstrap_interval: Duration::from_secs(2),
        allow_private_addresses: true,
        ..Settings::default()
    }
}

fn network(seed: u64) -> Authorities {
    let mut net = Authorities::new(seed, 3, 6, &settings()).unwrap();
    let uploads = net.publish_descriptors().unwrap();
    let taken = Answer::Got(Response::done());
    assert!(net.run_until(MINUTE, |_| uploads.iter().all(|upload| *upload.borrow() == taken)));
    net
}

/// The consensus as a client fetches it from an authority and checks it.
fn fetched(net: &mut Authorities, authority: NodeId) -> (Vec<u8>, usize) {
    let client = net.world.client();
    let ticket = net.fetch_consensus(client, authority);
    assert!(net.run_until(MINUTE, |_| *ticket.borrow() != Answer::Waiting));
    let Answer::Got(Response::Ok(bytes)) = ticket.borrow().clone() else { panic!("{ticket:?}") };
    let set = AuthoritySet::new(net.nodes.iter().map(|node| net.world.hop(*node).id));
    let now = UnixTime(1_700_000_000 + net.world.now().as_secs());
    let consensus = UncheckedConsensus::parse(&bytes).unwrap().check_time(now).unwrap();
    let consensus = consensus.check_signatures(&set, now).unwrap();
    (bytes.to_vec(), consensus.relays.len())
}

#[test]
fn relays_publish_authorities_agree_and_a_client_believes_them() {
    let mut net = network(61);
    assert!(net.run_until(MINUTE, |net| net.published.iter().all(|published| !published.is_empty())));
    let first: Vec<_> = net.published.iter().map(|published| published[0].digest()).collect();
    assert!(first.iter().all(|digest| *digest == first[0]));
    for authority in net.nodes.clone() {
        assert_eq!(fetched(&mut net, authority).1, 6);
    }
    assert_eq!(net.world.violations(), []);
}

#[test]
fn two_of_three_authorities_are_enough() {
    let mut net = network(62);
    net.world.kill(net.nodes[2]);
    assert!(net.run_until(MINUTE, |net| net.published[..2].iter().all(|published| !published.is_empty())));
    assert_eq!(net.published[0][0].digest(), net.published[1][0].digest());
    let authority = net.nodes[1];
    assert_eq!(fetched(&mut net, authority).1, 6);
}

#[test]
fn one_of_three_authorities_makes_no_consensus() {
    let mut net = network(63);
    net.world.kill(net.nodes[1]);
    net.world.kill(net.nodes[2]);
    net.run_until(2 * MINUTE, |_| false);
    assert!(net.published[0].is_empty());
    assert!(net.failures[0].len() > 10);
}
