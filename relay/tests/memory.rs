//! A relay that holds more memory than it may. What the process holds counts, so this test has a process of its own.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail like tests")]

#[path = "support/relay.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use support::{Relay, soon, unreachable_authority};
use tokio::time::sleep;
use tunic_net::daemon::Status;
use tunic_net::metrics::resident_bytes;
use tunic_proto::message::DestroyReason;
use tunic_relay::config::Config;
use tunic_relay::net::control::control_path;

/// What there is for the relay, and what something else then takes.
const ROOM: usize = 128 << 20;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

fn start(dir: &Path) -> Relay {
    let memory_max = Some(resident_bytes().unwrap() + ROOM as u64);
    Relay::start(dir, Config { authorities: unreachable_authority(), memory_max, ..Config::default() })
}

/// What the relay tells its owner, a line each second.
struct Watcher(BufReader<UnixStream>);

impl Watcher {
    fn of(dir: &Path) -> Watcher {
        Watcher(BufReader::new(UnixStream::connect(control_path(&dir.join("data"))).unwrap()))
    }

    /// Waits for a line by which something was refused because memory ran out.
    fn sees_refusals(&mut self) {
        for _ in 0..60 {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            let sample: serde_json::Value = serde_json::from_str(&line).unwrap();
            if sample["refused"]["memory"].as_u64() > Some(0) {
                return;
            }
        }
        panic!("nothing is counted as refused for want of memory");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_taken_while_the_process_holds_too_much() {
    let dir = tempfile::tempdir().unwrap();
    let mut relay = start(dir.path());
    relay.wait(Status::Listening(relay.at)).await;
    let channel = relay.channel().await.expect("there is memory");
    soon(channel.create_circuit(vec![relay.hop.clone()])).await.unwrap();
    let mut watcher = Watcher::of(dir.path());

    let held = std::hint::black_box(vec![1_u8; ROOM]);
    soon(async {
        while relay.channel().await.is_some() {
            sleep(LOOK).await;
        }
    })
    .await;
    // The channel that is there stays, and takes no circuits.
    let refused = soon(channel.create_circuit(vec![relay.hop.clone()])).await.unwrap_err();
    assert_eq!(refused.reason, DestroyReason::Resources);
    watcher.sees_refusals();

    drop(held);
    soon(async {
        while channel.create_circuit(vec![relay.hop.clone()]).await.is_err() {
            sleep(LOOK).await;
        }
    })
    .await;
    assert!(relay.channel().await.is_some());
    relay.end().await;
}
