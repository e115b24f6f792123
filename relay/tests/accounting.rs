//! A relay whose bytes are counted: it tires, sleeps, remembers, and wakes with the next interval.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail like tests")]

#[path = "support/relay.rs"]
mod support;

use std::path::Path;

use support::{Relay, soon, unreachable_authority};
use tunic_net::channel::Rest;
use tunic_net::daemon::Status;
use tunic_relay::config::Config;

const MAX: u64 = 200_000;

fn counted(dir: &Path, max: u64) -> Relay {
    Relay::start(
        dir,
        Config { authorities: unreachable_authority(), accounting_max: Some(max), ..Config::default() },
    )
}

#[tokio::test]
async fn a_relay_sleeps_when_its_bytes_are_used_and_a_restart_does_not_wake_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut relay = counted(dir.path(), MAX);
    relay.wait(Status::Listening(relay.at)).await;
    let channel = relay.channel().await.expect("it is awake");
    // Circuits take bytes, built or refused.
    let asks = async {
        while channel.is_open() {
            let _ = channel.create_circuit(vec![relay.hop.clone()]).await;
        }
    };
    soon(asks).await;
    relay.wait(Status::Rest(Rest::NoChannels)).await;
    soon(channel.closed()).await;
    assert!(relay.channel().await.is_none());
    relay.end().await;

    let mut again = counted(dir.path(), MAX);
    again.wait(Status::Rest(Rest::NoChannels)).await;
    assert!(again.channel().await.is_none());
    again.end().await;

    // More is allowed; it is awake, and what was used counts.
    let mut more = counted(dir.path(), 1_000 * MAX);
    more.wait(Status::Listening(more.at)).await;
    assert!(more.channel().await.is_some());
    more.end().await;
    let kept = std::fs::read_to_string(dir.path().join("data/accounting")).unwrap();
    let kept: toml::Table = toml::from_str(&kept).unwrap();
    let used = kept["read"].as_integer().max(kept["written"].as_integer()).unwrap();
    assert!(used >= MAX.cast_signed(), "{kept}");
}
