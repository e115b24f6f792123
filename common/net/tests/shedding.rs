//! What a relay lets go, and what it refuses, when memory or its bytes run out.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]
#![expect(clippy::disallowed_methods, reason = "waits with a limit")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use support::{Relay, client, echo, echo_server, relays};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::time::Instant;
use tunic_net::channel::{BuildError, Channel, Circuit, CircuitStream, Peer, Rest};
use tunic_proto::counters::Incident;
use tunic_proto::message::{DestroyReason, Target};

const CIRCUITS: usize = 25;
const AGE: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(60);

async fn until(what: &str, holds: impl Fn() -> bool) {
    let polls = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polls).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

/// Stands before a relay, holds little, and passes on what comes from there only while it may.
async fn valve(to: SocketAddr, mut may_read: watch::Receiver<bool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let far = socket.connect(to).await.unwrap();
        let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.into_split(), far.into_split());
        tokio::spawn(async move {
            let mut buffer = [0; 2_048];
            while may_read.wait_for(|may| *may).await.is_ok() {
                let count = far_in.read(&mut buffer).await.unwrap_or(0);
                if count == 0 || near_out.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        });
        let _ = copy(&mut near_in, &mut far_out).await;
    });
    at
}

/// Writes to everybody without end, and tells how many there are.
async fn flood() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, open) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = open.clone();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let counted = counted.clone();
            counted.fetch_add(1, Relaxed);
            tokio::spawn(async move {
                while tcp.write_all(&[7; 4_096]).await.is_ok() {}
                counted.fetch_sub(1, Relaxed);
            });
        }
    });
    (at, open)
}

/// A client that stops reading its channel.
struct Stalling {
    streams: Vec<CircuitStream>,
    flooded: Arc<AtomicUsize>,
    _circuits: Vec<Circuit>,
    _channel: Channel,
    _reads: watch::Sender<bool>,
}

impl Stalling {
    async fn start(relays: &[Relay]) -> Stalling {
        let (reads, may_read) = watch::channel(true);
        let at = valve(relays[0].peer.addresses[0], may_read).await;
        let channel = client().connect(&Peer { id: relays[0].hop.id, addresses: vec![at] }).await.unwrap();
        let mut circuits = Vec::new();
        for _ in 0..CIRCUITS {
            circuits.push(channel.create_circuit(hops(relays)).await.unwrap());
        }
        let (at, flooded) = flood().await;
        let before = relays[0].node.budget().used_cells();
        reads.send(false).unwrap();
        let streams = circuits.iter().map(|circuit| circuit.begin(Target::Addr(at)).unwrap()).collect();
        until("cells stand in the relay", || {
            // What its socket takes stands there; the rest of 64 for each waits, and all of a window is reserved then.
            relays[0].node.budget().used_cells() > before + CIRCUITS * 48 / 3
        })
        .await;
        Stalling { streams, flooded, _circuits: circuits, _channel: channel, _reads: reads }
    }

    fn flooded(&self) -> usize {
        self.flooded.load(Relaxed)
    }
}

fn hops(relays: &[Relay]) -> Vec<tunic_net::channel::HopSpec> {
    relays.iter().map(|relay| relay.hop.clone()).collect()
}

#[tokio::test]
async fn the_circuit_with_the_oldest_queued_data_goes_first_and_who_reads_goes_on() {
    let relays = relays(2).await;
    let honest = client().connect(&relays[0].peer).await.unwrap();
    let honest = honest.create_circuit(hops(&relays)).await.unwrap();
    let target = Target::Addr(echo_server().await);
    let first = Stalling::start(&relays).await;
    let second = Stalling::start(&relays).await;
    let (node, idle) = (&relays[0].node, relays[0].node.budget().used_cells());
    until("both are flooded", || first.flooded() == CIRCUITS && second.flooded() == CIRCUITS).await;

    let mut shed = node.shed(1, AGE).await;
    let begun = Instant::now();
    while shed.circuits == 0 && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(10)).await;
        shed = node.shed(1, AGE).await;
    }
    assert_eq!(shed.circuits, 1, "{shed:?}");
    until("the oldest has ended", || first.flooded() == CIRCUITS - 1).await;
    assert_eq!(second.flooded(), CIRCUITS);
    assert_eq!(node.shed(1 << 30, AGE).await.circuits, 0, "something else holds that");

    let mut ended = 1;
    while node.budget().used_cells() >= idle / 2 && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(10)).await;
        ended += node.shed(64 << 10, AGE).await.circuits;
    }
    assert!(node.budget().used_cells() < idle / 2, "their memory is not free: {ended} circuits ended");
    until("those that were shed have ended", || first.flooded() + second.flooded() == 2 * CIRCUITS - ended)
        .await;
    assert_eq!(node.counters().get(Incident::Shed), ended as u64);
    echo(honest.begin(target).unwrap()).await;
    drop((first.streams, second.streams));
}

#[tokio::test]
async fn a_circuit_whose_target_does_not_read_is_let_go() {
    let relay = &relays(1).await[0];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = client().connect(&relay.peer).await.unwrap();
    let circuit = channel.create_circuit(vec![relay.hop.clone()]).await.unwrap();
    let mut stream = circuit.begin(Target::Addr(listener.local_addr().unwrap())).unwrap();
    let writes = tokio::spawn(async move { while stream.write_all(&[7; 4_096]).await.is_ok() {} });
    let (_target, _) = listener.accept().await.unwrap();
    let begun = Instant::now();
    while relay.node.shed(1, AGE).await.circuits == 0 && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until("whoever writes is told", || writes.is_finished()).await;
    assert_eq!(relay.node.counters().get(Incident::Shed), 1);
}

#[tokio::test]
async fn without_memory_nobody_new_is_taken_and_who_is_there_goes_on() {
    let relay = &relays(1).await[0];
    let channel = client().connect(&relay.peer).await.unwrap();
    let circuit = channel.create_circuit(vec![relay.hop.clone()]).await.unwrap();
    relay.node.admission().set_memory_short(true);
    assert!(client().connect(&relay.peer).await.is_err());
    let refused = channel.create_circuit(vec![relay.hop.clone()]).await.unwrap_err();
    assert_eq!(refused, BuildError { hop: 0, reason: DestroyReason::Resources });
    assert_eq!(relay.node.counters().get(Incident::Memory), 2);
    echo(circuit.begin(Target::Addr(echo_server().await)).unwrap()).await;
    relay.node.admission().set_memory_short(false);
    channel.create_circuit(vec![relay.hop.clone()]).await.unwrap();
}

#[tokio::test]
async fn a_node_that_sleeps_has_no_channels_and_wakes_again() {
    let relays = relays(2).await;
    let channel = client().connect(&relays[0].peer).await.unwrap();
    let circuit = channel.create_circuit(hops(&relays)).await.unwrap();
    relays[0].node.admission().set_rest(Rest::NoChannels);
    relays[0].node.close_channels();
    tokio::time::timeout(PATIENCE, circuit.closed()).await.expect("the circuit goes on");
    until("all channels are closed", || relays[0].node.channel_count() == 0).await;
    assert!(client().connect(&relays[0].peer).await.is_err());
    assert!(relays[0].node.connect(&relays[1].peer).await.is_err());
    relays[0].node.admission().set_rest(Rest::Awake);
    let channel = client().connect(&relays[0].peer).await.unwrap();
    channel.create_circuit(hops(&relays)).await.unwrap();
}

#[tokio::test]
async fn a_channel_that_is_being_opened_when_the_node_falls_asleep_is_closed() {
    let relay = &relays(1).await[0];
    let (reads, may_read) = watch::channel(false);
    let at = valve(relay.peer.addresses[0], may_read).await;
    let (client, peer) = (client(), Peer { id: relay.hop.id, addresses: vec![at] });
    let opening = tokio::spawn(async move { (client.connect(&peer).await, client) });
    until("it is being opened", || relay.node.channel_count() == 1).await;
    relay.node.admission().set_rest(Rest::NoChannels);
    relay.node.close_channels();
    reads.send(true).unwrap();
    let _opened = opening.await.unwrap();
    until("it is closed", || relay.node.channel_count() == 0).await;
}
