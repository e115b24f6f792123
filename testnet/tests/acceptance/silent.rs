//! A relay stands still: its connections stay open, and nothing comes over them.

use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tunic_client::{CircuitPath, Client, ConnectError, Isolation};
use tunic_proto::message::Target;

use crate::killed::embedded_client;
use crate::network::TestNetwork;
use crate::processes;
use crate::server::serve_echo;

const LIMIT: Duration = Duration::from_secs(180);

/// The relay at this hop of the path, which stands still until this is dropped.
struct Paused(u32);

impl Paused {
    fn hop(network: &TestNetwork, path: &CircuitPath, hop: usize) -> Paused {
        let pid = network.relay_pid(&path.hops[hop].nickname);
        let paused = Paused(pid);
        processes::stop(pid);
        paused
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        processes::send(self.0, Signal::CONT);
    }
}

#[tokio::test]
async fn an_exit_or_a_guard_that_stands_still_is_passed_by() {
    let network = TestNetwork::start(&["--authorities", "1", "--relays", "6", "--exits", "3"]);
    let client = embedded_client(&network).await;
    for hop in [2, 0] {
        let path = in_time(ping(&client, "one")).await;
        let paused = Paused::hop(&network, &path, hop);
        let next = in_time(ping(&client, "one")).await;
        assert_ne!(next.hops[hop].id, path.hops[hop].id);
        drop(paused);
    }
    client.shutdown().await;
}

async fn in_time<T>(ping: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, ping).await.expect("a way, or another one, in time")
}

/// A stream of this isolation, and there and back over it. Its path. A program asks again when it is told that there was no
/// circuit within a minute, as may happen on a machine that runs every other test as well.
async fn ping(client: &Client, isolation: &str) -> std::sync::Arc<CircuitPath> {
    let target = serve_echo();
    let (mut stream, path) = loop {
        match client.connect(Target::Addr(target), Isolation::named(isolation)).await {
            Ok(connected) => break connected,
            Err(ConnectError::NotReplaced { .. } | ConnectError::Circuit(_)) => {}
            Err(error) => panic!("{error}"),
        }
    };
    stream.write_all(b"ping").await.unwrap();
    stream.flush().await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    path
}
