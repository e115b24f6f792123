//! What a node takes from strangers on real sockets (docs/protocol.md §12).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "tests have deadlines of their own")]

mod support;

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use support::{Relay, client, echo, echo_server, relays};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tunic_net::channel::{Circuit, Node, NodeConfig};
use tunic_proto::counters::Incident;
use tunic_proto::limits::Overrides;
use tunic_proto::message::{DestroyReason, EndReason, Target};

/// From another address than everybody else here.
async fn stranger(to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.9.9.9:0".parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

/// Waits until the relay has closed all but so many of these connections, which say nothing.
async fn left_open(strangers: &mut Vec<TcpStream>, expect: usize) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while strangers.len() > expect && tokio::time::Instant::now() < deadline {
        let closed = tokio::time::timeout(Duration::from_millis(20), strangers[0].read(&mut [0])).await;
        if closed.is_ok() {
            strangers.swap_remove(0);
        } else {
            strangers.rotate_left(1);
        }
    }
    assert_eq!(strangers.len(), expect);
}

async fn is_served(client: &Node, relays: &[Relay], server: SocketAddr) {
    let channel = client.connect(&relays[0].peer).await.unwrap();
    let circuit =
        channel.create_circuit(relays.iter().map(|relay| relay.hop.clone()).collect()).await.unwrap();
    echo(circuit.begin(Target::Addr(server)).unwrap()).await;
}

#[tokio::test]
async fn connections_from_one_address_leave_room_for_others() {
    let (relays, server) = (relays(3).await, echo_server().await);
    let address = relays[0].peer.addresses[0];
    let mut strangers = Vec::new();
    for _ in 0..60 {
        strangers.push(stranger(address).await);
    }
    // The burst, and perhaps a few that came a little later.
    let refused = || relays[0].node.counters().get(Incident::ChannelRate) as usize;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while refused() + relays[0].node.channel_count() < 60 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(refused() > 0);
    left_open(&mut strangers, 60 - refused()).await;
    is_served(&client(), &relays, server).await;
}

#[tokio::test]
async fn strangers_who_take_every_incoming_channel_leave_the_outgoing_ones() {
    let (relays, server) = (relays(3).await, echo_server().await);
    relays[0].node.limits().set_channels(3, 4_096);
    let client = client();
    client.connect(&relays[0].peer).await.unwrap();
    let mut strangers = Vec::new();
    for _ in 0..5 {
        strangers.push(stranger(relays[0].peer.addresses[0]).await);
    }
    left_open(&mut strangers, 2).await;
    assert_eq!(relays[0].node.counters().get(Incident::Resources), 3);
    is_served(&client, &relays, server).await;
}

#[tokio::test]
async fn a_client_without_room_says_that_it_is_its_own() {
    let (relays, server) = (relays(1).await, echo_server().await);
    let config = NodeConfig { signer: None, responder: None, memory_budget: 512 * 1024 };
    let client = Node::new(config).unwrap();
    let channel = client.connect(&relays[0].peer).await.unwrap();
    let circuit = channel.create_circuit(vec![relays[0].hop.clone()]).await.unwrap();
    let mut streams = Vec::new();
    let refused = loop {
        let mut stream = circuit.begin(Target::Addr(server)).expect("the circuit has places left");
        match stream.connected().await {
            Ok(_) => streams.push(stream),
            Err(reason) => break (reason, stream),
        }
    };
    assert_eq!(refused.0, EndReason::Resources);
    assert!(refused.1.is_refused_here());
    assert!(!streams.is_empty());
}

#[tokio::test]
async fn a_client_has_so_many_circuits_and_a_circuit_so_many_new_streams() {
    let (relays, server) = (relays(1).await, echo_server().await);
    let limits = Overrides {
        circuits_per_client: Some(8),
        streams_per_second: Some(1),
        streams_burst: Some(5),
        ..Overrides::default()
    };
    relays[0].node.limits().set_overrides(limits);
    let client = client();
    let channel = client.connect(&relays[0].peer).await.unwrap();
    let mut circuits = Vec::new();
    for _ in 0..8 {
        circuits.push(channel.create_circuit(vec![relays[0].hop.clone()]).await.unwrap());
    }
    let refused = channel.create_circuit(vec![relays[0].hop.clone()]).await.unwrap_err();
    assert_eq!((refused.hop, refused.reason), (0, DestroyReason::Resources));
    assert_eq!(relays[0].node.counters().get(Incident::CircuitCount), 1);

    let begin = |circuit: usize| circuits[circuit].begin(Target::Addr(server)).unwrap();
    let mut streams: Vec<_> = (0..50).map(|_| begin(0)).collect();
    let mut refused = 0;
    for stream in &mut streams {
        if let Err(error) = stream.connected().await {
            assert_eq!(error, EndReason::Resources);
            assert!(!stream.is_refused_here(), "the relay refuses");
            refused += 1;
        }
    }
    assert!((40..=45).contains(&refused), "{refused} of 50 are refused");
    assert_eq!(relays[0].node.counters().get(Incident::StreamRate), refused);
    begin(1).connected().await.expect("other circuits have a rate of their own");
    assert!(relays[0].node.handshake_latency().counts().iter().sum::<u64>() >= 8);
}

#[tokio::test]
async fn streams_that_begin_at_once_are_started_a_few_at_a_time() {
    const CIRCUITS: usize = 8;
    const EACH: usize = 25;
    let (relays, server) = (relays(1).await, echo_server().await);
    let channel = client().connect(&relays[0].peer).await.unwrap();
    let mut circuits = Vec::new();
    for _ in 0..CIRCUITS {
        circuits.push(channel.create_circuit(vec![relays[0].hop.clone()]).await.unwrap());
    }
    let begin = |circuit: &Circuit| circuit.begin(Target::Addr(server)).unwrap();
    let mut streams: Vec<_> = circuits.iter().cycle().take(CIRCUITS * EACH).map(begin).collect();
    for stream in &mut streams {
        stream.connected().await.unwrap();
    }
    let most = relays[0].backlog.most.load(Relaxed);
    assert!((1..=8).contains(&most), "{most} streams stood between the channel and its next turn");
}
