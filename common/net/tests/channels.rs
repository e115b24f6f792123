//! Nodes over real sockets: what the shell adds to the state machines.

mod support;

use std::time::Duration;

use support::{client, echo, echo_server, relays};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, advance, pause};
use tunic_net::channel::{ConnectError, Node, Peer};
use tunic_net::metrics::{self, Text};
use tunic_proto::cell::Command;
use tunic_proto::channel::CircuitState;
use tunic_proto::counters::Incident;
use tunic_proto::ids::RelayId;
use tunic_proto::message::{DestroyReason, EndReason, Target};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn circuits_of_one_to_eight_hops_carry_streams() {
    let (relays, target) = (relays(8).await, echo_server().await);
    let client = client();
    let channel = client.connect(&relays[0].peer).await.unwrap();
    for hops in 1..=8 {
        let path = relays[..hops].iter().map(|relay| relay.hop.clone()).collect();
        let circuit = channel.create_circuit(path).await.unwrap();
        let mut stream = circuit.begin(Target::Addr(target)).unwrap();
        assert_eq!(stream.connected().await, Ok(Some(target.ip())));
        echo(stream).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_channels_did_is_counted_and_stays_counted() {
    let (relays, target) = (relays(2).await, echo_server().await);
    let client = client();
    let channel = client.connect(&relays[0].peer).await.unwrap();
    let path = relays.iter().map(|relay| relay.hop.clone()).collect();
    let circuit = channel.create_circuit(path).await.unwrap();
    echo(circuit.begin(Target::Addr(target)).unwrap()).await;
    let count = |node: &Node, state: CircuitState| node.totals().circuits[state as usize];
    assert_eq!(count(&client, CircuitState::BeginsHere), 1);
    assert_eq!(
        (count(&relays[0].node, CircuitState::Passing), count(&relays[1].node, CircuitState::EndsHere)),
        (1, 1)
    );
    let carried = relays[0].node.totals();
    assert_eq!((carried.received(Command::Create), carried.sent(Command::Create)), (3, 3));
    // A megabyte each way, on both channels.
    let relayed = carried.received(Command::Relay) + carried.received(Command::RelayBlocked);
    assert!((4_000..8_000).contains(&relayed), "{relayed}");
    let page = {
        let mut text = Text::default();
        metrics::node(&mut text, "tunic_relay", &relays[0].node, 1 << 20);
        text.into_string()
    };
    assert!(page.contains("tunic_relay_circuits{state=\"passing\"} 8\n"), "{page}");
    let samples = page.lines().filter(|line| line.contains("cells_total{"));
    let cells: Vec<u64> = samples.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(cells.iter().all(|cells| cells % metrics::CELLS == 0) && cells.iter().any(|cells| *cells > 0));
    drop((circuit, channel));
    client.shutdown(Duration::from_secs(5)).await;
    while relays[0].node.totals().circuits.iter().sum::<u64>() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(relays[0].node.totals().cells().0 >= carried.cells().0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_not_who_it_should_be_is_refused() {
    let relays = relays(2).await;
    let wrong = Peer { id: relays[1].peer.id, addresses: relays[0].peer.addresses.clone() };
    let client = client();
    assert!(matches!(client.connect(&wrong).await, Err(ConnectError::WrongIdentity)));
    assert_eq!(client.counters().get(Incident::WrongIdentity), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_relay_port_is_counted_and_harms_nobody() {
    let (relays, target) = (relays(1).await, echo_server().await);
    for garbage in [&b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n"[..], &[0; 600], b"\x16\x03\x01\x00\x05hello"] {
        let mut tcp = TcpStream::connect(relays[0].peer.addresses[0]).await.unwrap();
        tcp.write_all(garbage).await.unwrap();
        tcp.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer).await;
    }
    let counters = relays[0].node.counters();
    while counters.get(Incident::BadConnection) < 3 {
        tokio::task::yield_now().await;
    }
    let client = client();
    let channel = client.connect(&relays[0].peer).await.unwrap();
    let circuit = channel.create_circuit(vec![relays[0].hop.clone()]).await.unwrap();
    echo(circuit.begin(Target::Addr(target)).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_say_what_failed() {
    let relays = relays(2).await;
    let client = client();
    let channel = client.connect(&relays[0].peer).await.unwrap();
    let mut unknown = relays[1].hop.clone();
    unknown.id = RelayId([7; 32]);
    let error = channel.create_circuit(vec![relays[0].hop.clone(), unknown]).await.unwrap_err();
    assert_eq!(error.hop, 1);
    assert_eq!(error.reason, DestroyReason::UnknownRelay);

    let mut wrong_key = relays[1].hop.clone();
    wrong_key.onion_key = relays[0].hop.onion_key;
    let error = channel.create_circuit(vec![relays[0].hop.clone(), wrong_key]).await.unwrap_err();
    assert_eq!((error.hop, error.reason), (1, DestroyReason::Handshake));

    let circuit = channel.create_circuit(vec![relays[0].hop.clone()]).await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut refused = circuit.begin(Target::Addr(closed)).unwrap();
    assert_eq!(refused.connected().await, Err(EndReason::ConnectionRefused));
    let mut directory = circuit.begin_dir().unwrap();
    assert_eq!(directory.connected().await, Err(EndReason::NotDirectory));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_ends_circuits_and_channels() {
    let relays = relays(3).await;
    let client = client();
    let channel = client.connect(&relays[0].peer).await.unwrap();
    let path = relays.iter().map(|relay| relay.hop.clone()).collect();
    let circuit = channel.create_circuit(path).await.unwrap();
    relays[1].node.shutdown(Duration::from_secs(5)).await;
    circuit.closed().await;
    assert!(channel.is_open());
    relays[0].node.shutdown(Duration::from_secs(5)).await;
    channel.closed().await;
    assert!(!channel.is_open());
}

/// Somewhere that takes connections and says nothing.
#[expect(clippy::unwrap_used, reason = "a failed setup is a failed test")]
async fn silent_listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "measures virtual time")]
async fn all_who_wait_for_a_relay_that_does_not_answer_wait_once() {
    let silent = silent_listener().await;
    let peer = Peer { id: RelayId([7; 32]), addresses: vec![silent.local_addr().unwrap()] };
    let client = client();
    let started = Instant::now();
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let (client, peer) = (client.clone(), peer.clone());
            tokio::spawn(async move { client.connect(&peer).await.map(drop) })
        })
        .collect();
    for waiter in waiting {
        assert!(matches!(waiter.await.unwrap(), Err(ConnectError::Timeout)));
    }
    assert!(started.elapsed() < Duration::from_secs(31), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn only_so_many_wait_for_one_relay() {
    let silent = silent_listener().await;
    let peer = Peer { id: RelayId([7; 32]), addresses: vec![silent.local_addr().unwrap()] };
    let client = client();
    let waiting: Vec<_> = (0..1_000)
        .map(|_| {
            let (client, peer) = (client.clone(), peer.clone());
            tokio::spawn(async move { client.connect(&peer).await.map(drop) })
        })
        .collect();
    let mut refused = 0;
    for waiter in waiting {
        refused += usize::from(matches!(waiter.await.unwrap(), Err(ConnectError::Refused)));
    }
    assert!((800..1_000).contains(&refused), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_where_nothing_answers_leaves_time_for_the_next() {
    let (relays, silent) = (relays(1).await, silent_listener().await);
    let mut peer = relays[0].peer.clone();
    peer.addresses.insert(0, silent.local_addr().unwrap());
    peer.addresses.push(peer.addresses[1]);
    client().connect(&peer).await.unwrap();
}

#[tokio::test]
async fn a_channel_without_circuits_is_closed_and_one_with_a_circuit_is_not() {
    let relays = relays(2).await;
    let client = client();
    let idle = client.connect(&relays[0].peer).await.unwrap();
    let used = client.connect(&relays[1].peer).await.unwrap();
    let circuit = used.create_circuit(vec![relays[1].hop.clone()]).await.unwrap();
    pause();
    for _ in 0..4 {
        advance(Duration::from_secs(181)).await;
    }
    idle.closed().await;
    assert!(circuit.is_open());
    assert!(client.connect(&relays[0].peer).await.unwrap().is_open(), "a new one takes its place");
}
