//! A guard that stands still: its connections stay open, and nothing comes over them.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]
#![expect(clippy::disallowed_methods, reason = "tests make their own keys")]

mod support;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use support::{ECHO, TestNet};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tunic_client::{CircuitPath, Client, ConnectError, Isolation};
use tunic_net::daemon::RunOptions;
use tunic_proto::ids::RelayId;
use tunic_proto::message::Target;

/// Far longer than it takes on a machine that runs other tests as well.
const LIMIT: Duration = Duration::from_secs(300);

/// An address that leads to this one until the wire is cut.
async fn wire(to: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, (sender, cut)) = (listener.local_addr().unwrap(), watch::channel(false));
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut cut = cut.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    // Both ends stay open.
                    Ok(()) = async { cut.wait_for(|cut| *cut).await.map(drop) } => std::future::pending().await,
                }
            });
        }
    });
    (address, sender)
}

/// The path of a stream, as soon as there is one.
async fn path(client: &Client) -> Arc<CircuitPath> {
    let connected = async {
        loop {
            match client.connect(Target::Name(ECHO.into(), 443), Isolation::named("one")).await {
                Ok((_, path)) => return path,
                Err(ConnectError::NotReplaced { .. } | ConnectError::Circuit(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    timeout(LIMIT, connected).await.expect("a way past the guard")
}

/// There are no streams left that could ask what became of their circuits, and a new identity ends those that there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_stands_still_is_left_after_a_new_identity() {
    let mut net = TestNet::start(5).await;
    let mut wires: HashMap<RelayId, watch::Sender<bool>> = HashMap::new();
    for relay in &mut net.relays {
        let (address, cut) = wire(relay.addresses[0]).await;
        relay.addresses = vec![address];
        wires.insert(relay.identity, cut);
    }
    net.serve(vec![net.consensus(0)]);
    let client = Client::start(net.config("a"), RunOptions::default()).await.unwrap();
    let before = path(&client).await;
    wires[&before.hops[0].id].send_replace(true);
    client.new_identity().await;
    let after = path(&client).await;
    assert_ne!(after.hops[0].id, before.hops[0].id);
    client.shutdown().await;
}
