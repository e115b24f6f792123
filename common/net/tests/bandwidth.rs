//! How much a node moves, and that it keeps to what it may.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]
#![expect(clippy::disallowed_methods, reason = "the limit allows so much in the time that it took")]

mod support;

use support::{Relay, client, echo, echo_server, relays};
use tokio::time::Instant;
use tunic_net::channel::Circuit;
use tunic_proto::limits::Throughput;
use tunic_proto::message::Target;

/// Slow enough that a slow machine without optimisations is held to it too.
const RATE: u64 = 300_000;
const BURST: u64 = 100_000;
/// What [`echo`] sends, and reads back.
const PAYLOAD: u64 = 1_000_000;

async fn circuit(relay: &Relay) -> Circuit {
    let channel = client().connect(&relay.peer).await.unwrap();
    channel.create_circuit(vec![relay.hop.clone()]).await.unwrap()
}

/// A slow machine takes longer, and may move more in that time: this holds on any. That the rate is reached is tested with the
/// limit itself, on virtual time.
#[tokio::test]
async fn a_relay_moves_no_faster_than_its_rate_in_each_direction() {
    let relay = &relays(1).await[0];
    let circuit = circuit(relay).await;
    let target = Target::Addr(echo_server().await);
    relay.node.traffic().set_limit(Some(Throughput::new(RATE, BURST)));
    let (before, begun) = (relay.node.traffic().moved(), Instant::now());
    echo(circuit.begin(target.clone()).unwrap()).await;
    let took = begun.elapsed();
    let after = relay.node.traffic().moved();
    let (read, written) = (after.read - before.read, after.written - before.written);
    // Once over the channel and once over the exit's connection, each way.
    assert!(read >= 2 * PAYLOAD && written >= 2 * PAYLOAD, "{read} in, {written} out");
    let most = BURST + RATE * took.as_millis() as u64 / 1_000 + RATE / 100;
    assert!(read <= most && written <= most, "{read} in and {written} out in {took:?}");
    let (reads, writes) = relay.node.traffic().waits();
    assert!(reads > 0 && writes > 0, "{reads} and {writes}");

    relay.node.traffic().set_limit(None);
    echo(circuit.begin(target).unwrap()).await;
    assert_eq!(relay.node.traffic().waits(), (reads, writes), "somebody waited without a limit");
}
