//! Machines between a client and a guard that are processes of their own.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tunic_client::{Class, Client, Config, Isolation, PaddingConfig};
use tunic_net::config;
use tunic_net::daemon::RunOptions;
use tunic_proto::message::Target;
use tunic_proto::padding::{PaddingTotals, Refusal};

use crate::network;
use crate::server::{Pattern, serve_web};

const LIMIT: Duration = Duration::from_secs(60);
const BYTES: u64 = 300_000;

/// A client of the shared network with this padding.
async fn client(name: &str, padding: PaddingConfig) -> Client {
    let network = network::shared();
    let config: Config =
        config::load(&network.up.dir.join("client.toml"), tunic_client::config::EXAMPLE).unwrap();
    let state_dir = Some(network.up.dir.join("state").join(name));
    Client::start(Config { state_dir, padding, ..config }, RunOptions::default()).await.unwrap()
}

/// Downloads through a client with this padding; what came has to be what was sent. What the client says of its padding.
async fn download(name: &str, padding: PaddingConfig) -> PaddingTotals {
    let client = client(name, padding).await;
    load(&client, name).await;
    let (_, totals) = client.padding();
    client.shutdown().await;
    totals
}

async fn load(client: &Client, isolation: &str) {
    let mut body = Vec::new();
    let fetch = async {
        let (mut stream, _) =
            client.connect(Target::Addr(serve_web()), Isolation::named(isolation)).await.unwrap();
        stream.write_all(format!("GET /bytes/{BYTES} HTTP/1.1\r\n\r\n").as_bytes()).await?;
        stream.flush().await?;
        stream.read_to_end(&mut body).await
    };
    tokio::time::timeout(LIMIT, fetch).await.expect("the download ends in time").unwrap();
    let mut expect = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(Pattern::default(), BYTES), &mut expect).unwrap();
    let head = body.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    assert!(body[head..] == expect, "{} bytes came that are not those", body.len() - head);
}

#[tokio::test]
async fn at_a_constant_rate_downloads_of_several_identities_go_over_one_guard() {
    let client = client("constant", PaddingConfig::of(Class::Constant)).await;
    for identity in ["one", "two", "three"] {
        load(&client, identity).await;
    }
    let (_, totals) = client.padding();
    assert_eq!(totals.refused, 0, "{totals:?}");
    assert!(totals.link_sent > 0 && totals.link_received > 0, "{totals:?}");
    let circuits = client.report(false).await.circuits.shown;
    let guards: BTreeSet<_> =
        circuits.iter().filter_map(|circuit| circuit.hops.first()).map(|hop| &hop.relay).collect();
    assert!(circuits.len() >= 3 && guards.len() == 1, "{circuits:?}");
    client.shutdown().await;
}

#[tokio::test]
async fn a_circuit_with_machines_carries_a_download_among_padding() {
    let totals = download("machines", PaddingConfig::of(Class::Adaptive)).await;
    assert_eq!(totals.refused, 0, "{totals:?}");
    assert!(totals.machine_sent > 0 && totals.machine_received > 0, "{totals:?}");
}

#[tokio::test]
async fn a_client_whose_machines_are_refused_goes_on_without() {
    let greedy = PaddingConfig { machine_percent: u16::MAX, ..PaddingConfig::of(Class::Adaptive) };
    let totals = download("refused", greedy).await;
    assert!(totals.refused > 0, "{totals:?}");
    assert_eq!(totals.last_refusal, Refusal::TooMuch as u64);
    assert_eq!((totals.machine_sent, totals.machine_received), (0, 0));
}
