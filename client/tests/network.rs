//! The client against real nodes on loopback: bootstrap, SOCKS5, failures and what it does about them.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]
#![expect(clippy::disallowed_methods, reason = "tests make their own keys")]

mod support;

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::{Daemon, ECHO, PATIENCE, TestNet};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tunic_client::{Class, Client, Config, ConnectError, Isolation, PaddingConfig};
use tunic_net::channel::CircuitStream;
use tunic_net::daemon::{RunOptions, Status};
use tunic_proto::dir::Response;
use tunic_proto::message::{EndReason, Target};
use tunic_proto::padding::{Budget, LimitsConfig, Refusal};

async fn client(net: &TestNet, state: &str) -> Client {
    Client::start(net.config(state), RunOptions::default()).await.unwrap()
}

fn echo_target() -> Target {
    Target::Name(ECHO.into(), 443)
}

/// Sends these bytes, half-closes, and expects `expect` back.
async fn exchange(mut tcp: TcpStream, send: Vec<u8>, expect: &[u8]) {
    let (mut read, mut write) = tcp.split();
    let sending = async {
        write.write_all(&send).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (_, result) = tokio::join!(sending, tokio::time::timeout(PATIENCE, read.read_to_end(&mut got)));
    result.expect("an end").unwrap();
    assert!(got == expect, "{} bytes came back where {} were sent", got.len(), expect.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_megabyte_goes_through_three_relays_and_back_half_close_included() {
    let net = TestNet::start(5).await;
    let daemon = Daemon::start(net.config("a")).await;
    let (code, tcp) = daemon.ask(ECHO, 443, b"early ").await;
    assert_eq!(code, 0);
    let body: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
    exchange(tcp, body.clone(), &[b"early ", &body[..]].concat()).await;
    let told = daemon.told.lock().unwrap().clone();
    assert_eq!(told[1..], [Status::Consensus { relays: 5 }, Status::CircuitReady]);
    daemon.stop().await;
    let state = net.config("a").state_dir.unwrap();
    for (file, expect) in [("", 0o700), ("consensus", 0o600), ("guards.json", 0o600)] {
        assert_eq!(state.join(file).metadata().unwrap().permissions().mode() & 0o777, expect, "{file}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_failure_has_its_reply_code() {
    let net = TestNet::start(5).await;
    let daemon = Daemon::start(net.config("a")).await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(daemon.ask_address(&[1, 127, 0, 0, 1], closed.port(), b"").await.0, 5);
    assert_eq!(daemon.ask("nowhere.test", 443, b"").await.0, 4);
    assert_eq!(daemon.ask(ECHO, 25, b"").await.0, 2, "no exit lets port 25 through");
    let reasons = [
        (EndReason::HostUnreachable, 4),
        (EndReason::NetworkUnreachable, 3),
        (EndReason::Timeout, 6),
        (EndReason::Policy, 2),
        (EndReason::Internal, 1),
    ];
    for (reason, code) in reasons {
        net.refuse(move |_, _| Some(reason));
        assert_eq!(daemon.ask(ECHO, 443, b"early").await.0, code, "{reason}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_exit_cannot_do_another_one_does_with_the_early_bytes() {
    let net = TestNet::start(6).await;
    let daemon = Daemon::start(net.config("a")).await;
    let refused = Arc::new(Mutex::new(HashSet::new()));
    let seen = refused.clone();
    net.refuse(move |relay, _| {
        let mut seen = seen.lock().unwrap();
        (seen.len() < 2 && seen.insert(relay)).then_some(EndReason::Resources)
    });
    let (code, tcp) = daemon.ask(ECHO, 443, b"kept ").await;
    assert_eq!((code, refused.lock().unwrap().len()), (0, 2));
    exchange(tcp, b"and more".to_vec(), b"kept and more").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_tried_three_times_and_not_more() {
    let net = TestNet::start(6).await;
    let client = client(&net, "a").await;
    let tries = Arc::new(AtomicUsize::new(0));
    let count = tries.clone();
    net.refuse(move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        Some(EndReason::Resources)
    });
    let outcome = client.connect(echo_target(), Isolation::default()).await;
    assert!(matches!(outcome, Err(ConnectError::Stream(EndReason::Resources))));
    assert_eq!(tries.load(Ordering::SeqCst), 3);
    client.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_relay_breaks_its_streams_and_the_next_request_works() {
    for lost in 0..3 {
        let net = TestNet::start(6).await;
        let client = client(&net, "a").await;
        let (mut stream, path) = client.connect(echo_target(), Isolation::default()).await.unwrap();
        ping(&mut stream).await.unwrap();
        let relay = path.hops[lost].id;
        net.nodes[&relay].shutdown(Duration::ZERO).await;
        ping(&mut stream).await.unwrap_err();
        let (mut stream, path) = client.connect(echo_target(), Isolation::default()).await.unwrap();
        assert!(path.hops.iter().all(|hop| hop.id != relay));
        ping(&mut stream).await.unwrap();
        client.shutdown().await;
    }
}

async fn ping(stream: &mut CircuitStream) -> std::io::Result<()> {
    let mut pong = [0; 4];
    stream.write_all(b"ping").await?;
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut pong)).await.expect("an end")?;
    assert_eq!(&pong, b"ping");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolated_streams_use_other_circuits_over_the_same_guard() {
    let net = TestNet::start(8).await;
    let client = client(&net, "a").await;
    let connect = async |name: &str| client.connect(echo_target(), Isolation::named(name)).await.unwrap();
    let (_a, first) = connect("a").await;
    let (_b, second) = connect("a").await;
    let (_c, other) = connect("b").await;
    assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &other));
    for path in [&first, &other] {
        let ids: HashSet<_> = path.hops.iter().map(|hop| hop.id).collect();
        assert_eq!(ids.len(), 3);
        assert!(path.hops.iter().all(|hop| net.relays.iter().any(|relay| relay.nickname == hop.nickname)));
    }
    client.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_streams_at_once_of_ten_isolations() {
    let net = TestNet::start(5).await;
    let client = client(&net, "a").await;
    let streams = (0..50).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            let isolation = Isolation::named(&format!("{}", number % 10));
            let (mut stream, _) = client.connect(echo_target(), isolation).await.unwrap();
            let sent = vec![number as u8; 20_000];
            stream.write_all(&sent).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).await.unwrap();
            assert!(got == sent);
        })
    });
    for stream in streams.collect::<Vec<_>>() {
        tokio::time::timeout(PATIENCE, stream).await.expect("an end").unwrap();
    }
    client.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_is_still_starting_is_waited_for_and_forgeries_are_refused() {
    let net = TestNet::start(4).await;
    net.serve(vec![
        Response::NotFound,
        Response::Ok(b"garbage".as_slice().into()),
        net.forged_consensus(),
        net.consensus(3_601),
        Response::Busy,
        net.consensus(5),
    ]);
    let daemon = Daemon::start(net.config("a")).await;
    let (code, tcp) = daemon.ask(ECHO, 443, b"").await;
    assert_eq!(code, 0);
    exchange(tcp, b"hello".to_vec(), b"hello").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_needs_no_authority_and_keeps_its_guards() {
    let net = TestNet::start(12).await;
    let first = client(&net, "a").await;
    let (stream, _) = first.connect(echo_target(), Isolation::default()).await.unwrap();
    drop(stream);
    first.shutdown().await;
    net.authority().shutdown(Duration::ZERO).await;
    net.serve(vec![Response::NotFound]);
    let guards = sampled_guards(&net.config("a"));
    assert_eq!(guards.len(), 3);
    let second = client(&net, "a").await;
    for number in 0..5 {
        let isolation = Isolation::named(&format!("{number}"));
        let (_stream, path) = second.connect(echo_target(), isolation).await.unwrap();
        assert!(guards.contains(&path.hops[0].id.to_string()));
    }
    second.shutdown().await;
    assert_eq!(sampled_guards(&net.config("a")), guards);
}

fn sampled_guards(config: &Config) -> Vec<String> {
    let file = config.state_dir.as_ref().unwrap().join("guards.json");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let sample = json["sample"].as_array().unwrap();
    sample.iter().map(|guard| guard["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_shutdown_nothing_is_left() {
    let net = TestNet::start(4).await;
    let client = client(&net, "a").await;
    let (mut stream, _) = client.connect(echo_target(), Isolation::default()).await.unwrap();
    client.shutdown().await;
    assert!(stream.read(&mut [0; 1]).await.is_err());
    let outcome = client.connect(echo_target(), Isolation::default()).await;
    assert!(matches!(outcome, Err(ConnectError::ShutDown)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_port_is_not_opened() {
    let net = TestNet::start(0).await;
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let options = RunOptions { listener: Some(Arc::new(listener)), ..RunOptions::default() };
    let error = tunic_client::run(net.config("a"), options, std::future::pending()).await.unwrap_err();
    assert!(error.to_string().contains("allow_public_socks"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_without_a_budget_refuse_machines_and_the_client_goes_on() {
    let net = TestNet::start(5).await;
    let nothing = Budget { cells: 0, percent: 0 };
    net.limit_padding(LimitsConfig { machine_budget: nothing, ..LimitsConfig::default() });
    let padding = PaddingConfig::of(Class::Adaptive);
    let client = Client::start(Config { padding, ..net.config("a") }, RunOptions::default()).await.unwrap();
    let (mut stream, _) = client.connect(echo_target(), Isolation::named("a")).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = [0; 4];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("an answer").unwrap();
    let (class, totals) = client.padding();
    assert_eq!((class, &answer), (Class::Adaptive, b"ping"));
    assert!(totals.refused > 0, "{totals:?}");
    assert_eq!((totals.last_refusal, totals.machine_sent), (Refusal::TooMuch as u64, 0));
    client.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dummy_circuits_carry_cover_beside_streams() {
    let net = TestNet::start(5).await;
    let padding = PaddingConfig { cover_ms: 50, ..PaddingConfig::of(Class::Constant) };
    let client = Client::start(Config { padding, ..net.config("a") }, RunOptions::default()).await.unwrap();
    let covered = async {
        while client.padding().1.loops_returned < 3 || client.padding().1.cover_sent < 6 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, covered).await.expect("loops come back");
    let (mut stream, _) = client.connect(echo_target(), Isolation::named("a")).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    stream.flush().await.unwrap();
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut [0; 4])).await.expect("an answer").unwrap();
    assert_eq!(client.padding().1.refused, 0);
    client.shutdown().await;
}
