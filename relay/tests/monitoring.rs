//! What a relay shows to Prometheus, and whether the dashboard, the alerts and the guide speak of just that.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail like tests")]

#[path = "support/relay.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use support::{Relay, soon, unreachable_authority};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tunic_net::daemon::Status;
use tunic_net::dirstream;
use tunic_net::metrics::MetricsConfig;
use tunic_proto::dir::{ExitPolicy, Request};
use tunic_proto::message::{Begin, Target};
use tunic_proto::time::UnixTime;
use tunic_relay::config::{Config, ExitConfig};

const DASHBOARD: &str = include_str!("../monitoring/dashboard.json");
const ALERTS: &str = include_str!("../monitoring/alerts.yml");
const GUIDE: &str = include_str!("../../docs/operator.md");
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// An exit of a private network that is not there, and its page.
async fn start(dir: &Path) -> (Relay, SocketAddr) {
    let at = free();
    let config = Config {
        accounting_max: Some(1 << 40),
        authorities: unreachable_authority(),
        exit: ExitConfig {
            policy: ExitPolicy::parse(&["reject *:25", "accept *:*"]).unwrap(),
            allow_private: true,
            ..ExitConfig::default()
        },
        metrics: MetricsConfig { listen: Some(at), interval_s: 10, ..MetricsConfig::default() },
        ..Config::default()
    };
    let mut relay = Relay::start(dir, config);
    relay.wait(Status::Listening(relay.at)).await;
    (relay, at)
}

async fn scrape(at: SocketAddr) -> std::io::Result<String> {
    let mut tcp = TcpStream::connect(at).await?;
    tcp.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await?;
    Ok(answer.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned()))
}

/// The names of families on a page.
fn shown(page: &str) -> BTreeSet<String> {
    let names = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    names.map(str::to_owned).collect()
}

/// The names of metrics in a text, without what is added to those of histograms.
fn spoken_of(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let names = words.filter(|word| word.starts_with("tunic_relay_") || word.starts_with("process_"));
    names.map(|name| name.trim_end_matches("_bucket").to_owned()).collect()
}

#[tokio::test]
async fn dashboard_and_alerts_ask_for_what_a_relay_shows_and_the_guide_explains_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (relay, at) = start(dir.path()).await;
    let shown = shown(&scrape(at).await.unwrap());
    assert!(shown.len() > 15, "{shown:?}");
    for (what, text) in [("dashboard", DASHBOARD), ("alerts", ALERTS)] {
        let asked = spoken_of(text);
        assert!(asked.len() > 5 && asked.is_subset(&shown), "{what}: {:?}", asked.difference(&shown));
    }
    let unexplained: Vec<_> = shown.difference(&spoken_of(GUIDE)).cloned().collect();
    assert!(unexplained.is_empty(), "docs/operator.md does not have {unexplained:?}");
    let unused: Vec<_> = shown.difference(&spoken_of(DASHBOARD)).cloned().collect();
    assert!(unused.is_empty(), "nobody sees {unused:?}");
    relay.end().await;
}

/// What people cause, and in which steps it is shown.
const STEPS: &[(&str, u64)] = &[
    ("tunic_relay_channels", 8),
    ("tunic_relay_circuits", 8),
    ("tunic_relay_handshakes_waiting", 8),
    ("tunic_relay_handshake_wait_seconds_bucket", 8),
    ("tunic_relay_handshake_wait_seconds_count", 8),
    ("tunic_relay_cells_total", 1_024),
    ("tunic_relay_bytes_total", 1 << 20),
    ("tunic_relay_wire_bytes_total", 1 << 20),
    ("tunic_relay_bandwidth_waits_total", 8),
    ("tunic_relay_accounting_used_bytes", 1 << 20),
    ("tunic_relay_credit_stalls_total", 8),
    ("tunic_relay_memory_bytes", 1 << 20),
    ("tunic_relay_refused_total", 8),
    ("tunic_relay_streams_total", 8),
    ("tunic_relay_dns_total", 8),
    ("tunic_relay_udp_associations_total", 8),
    ("tunic_relay_directory_requests_total", 8),
    ("process_resident_memory_bytes", 1 << 20),
    ("process_open_fds", 8),
];
/// Of these there is nothing to see: it takes more than one person.
const QUIET: [&str; 3] = [
    "tunic_relay_handshakes_waiting",
    "tunic_relay_bandwidth_waits_total",
    "tunic_relay_credit_stalls_total",
];

/// All samples of each name.
fn values(page: &str) -> BTreeMap<&str, Vec<u64>> {
    let mut values: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        // Times are the only fractions.
        if let Ok(value) = value.parse() {
            values.entry(name.split('{').next().unwrap()).or_default().push(value);
        }
    }
    values
}

#[tokio::test]
async fn what_one_person_causes_is_shown_in_steps_that_many_could_have_caused() {
    let dir = tempfile::tempdir().unwrap();
    let (relay, at) = start(dir.path()).await;
    // Refused, as it speaks another protocol.
    TcpStream::connect(relay.at).await.unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let channel = relay.channel().await.unwrap();
    let circuit = soon(channel.create_circuit(vec![relay.hop.clone()])).await.unwrap();
    for port in [25, free().port()] {
        let mut stream = circuit.begin(Target::Name("localhost".into(), port)).unwrap();
        soon(stream.connected()).await.unwrap_err();
    }
    let association = circuit.begin_any(Begin::Datagrams).unwrap().into_datagrams();
    soon(association.connected()).await.unwrap();
    soon(dirstream::request(&circuit, &Request::GetConsensus { have: UnixTime(0) })).await.unwrap();

    let caused = |page: &str| {
        let values = values(page);
        let mut loud = STEPS.iter().map(|(name, _)| *name).filter(|name| !QUIET.contains(name));
        loud.all(|name| values.get(name).is_some_and(|values| values.iter().any(|value| *value > 0)))
    };
    let mut page = scrape(at).await.unwrap();
    for _ in 0..600 {
        if caused(&page) {
            break;
        }
        sleep(LOOK).await;
        page = scrape(at).await.unwrap();
    }
    assert!(caused(&page), "{page}");
    let values = values(&page);
    for (name, step) in STEPS {
        let values = values.get(name).unwrap_or_else(|| panic!("no {name}"));
        assert!(values.iter().all(|value| value % step == 0), "{name}: {values:?}");
    }
    drop(association);
    relay.end().await;
}
