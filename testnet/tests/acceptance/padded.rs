//! Machines between a client and a guard that are processes of their own.

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

/// Downloads through a client with this padding; what came has to be what was sent. What the client says of its padding.
async fn download(name: &str, padding: PaddingConfig) -> PaddingTotals {
    let network = network::shared();
    let config: Config =
        config::load(&network.up.dir.join("client.toml"), tunic_client::config::EXAMPLE).unwrap();
    let state_dir = Some(network.up.dir.join("state").join(name));
    let client = Client::start(Config { state_dir, padding, ..config }, RunOptions::default()).await.unwrap();
    let mut body = Vec::new();
    let fetch = async {
        let (mut stream, _) =
            client.connect(Target::Addr(serve_web()), Isolation::named("download")).await.unwrap();
        stream.write_all(format!("GET /bytes/{BYTES} HTTP/1.1\r\n\r\n").as_bytes()).await?;
        stream.flush().await?;
        stream.read_to_end(&mut body).await
    };
    tokio::time::timeout(LIMIT, fetch).await.expect("the download ends in time").unwrap();
    let mut expect = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(Pattern::default(), BYTES), &mut expect).unwrap();
    let head = body.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    assert!(body[head..] == expect, "{} bytes came that are not those", body.len() - head);
    let (_, totals) = client.padding();
    client.shutdown().await;
    totals
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
