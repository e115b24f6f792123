//! What a relay shows to Prometheus, and whether the dashboard, the alerts and the guide speak of just that.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tunic_net::config::AuthorityConfig;
use tunic_net::daemon::RunOptions;
use tunic_net::metrics::MetricsConfig;
use tunic_proto::ids::RelayId;
use tunic_proto::keys::OnionKey;
use tunic_relay::config::Config;

const DASHBOARD: &str = include_str!("../monitoring/dashboard.json");
const ALERTS: &str = include_str!("../monitoring/alerts.yml");
const GUIDE: &str = include_str!("../../docs/operator.md");

fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The page of a relay that has just started, with no network around it.
async fn page() -> String {
    let (dir, at) = (tempfile::tempdir().unwrap(), free());
    let authority = AuthorityConfig {
        name: "nobody".into(),
        identity: RelayId([1; 32]),
        onion_key: OnionKey([2; 32]),
        addresses: vec![free()],
    };
    let config = Config {
        data_dir: dir.path().join("data"),
        allow_private_relays: true,
        authorities: vec![authority],
        metrics: MetricsConfig { listen: Some(at), ..MetricsConfig::default() },
        ..Config::default()
    };
    let listener = Arc::new(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let options = RunOptions { listener: Some(listener), ..RunOptions::default() };
    let relay = tokio::spawn(tunic_relay::run(config, options, std::future::pending()));
    let page = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let page = scrape(at).await.unwrap_or_default();
            if page.contains("tunic_relay_info") {
                return page;
            }
            tokio::task::yield_now().await;
        }
    });
    let page = page.await.unwrap();
    relay.abort();
    page
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
    let shown = shown(&page().await);
    assert!(shown.len() > 15, "{shown:?}");
    for (what, text) in [("dashboard", DASHBOARD), ("alerts", ALERTS)] {
        let asked = spoken_of(text);
        assert!(asked.len() > 5 && asked.is_subset(&shown), "{what}: {:?}", asked.difference(&shown));
    }
    let unexplained: Vec<_> = shown.difference(&spoken_of(GUIDE)).cloned().collect();
    assert!(unexplained.is_empty(), "docs/operator.md does not have {unexplained:?}");
    let unused: Vec<_> = shown.difference(&spoken_of(DASHBOARD)).cloned().collect();
    assert!(unused.is_empty(), "nobody sees {unused:?}");
}

#[tokio::test]
async fn what_people_cause_is_shown_in_steps() {
    let page = page().await;
    let steps = [
        ("tunic_relay_cells_total", 1_024),
        ("tunic_relay_bytes_total", 1 << 20),
        ("tunic_relay_memory_bytes", 1 << 20),
        ("tunic_relay_circuits", 8),
        ("tunic_relay_channels", 8),
        ("tunic_relay_credit_stalls_total", 8),
        ("tunic_relay_handshakes_waiting", 8),
        ("tunic_relay_handshake_wait_seconds_bucket", 8),
        ("tunic_relay_handshake_wait_seconds_count", 8),
        ("tunic_relay_refused_total", 8),
        ("tunic_relay_streams_total", 8),
        ("tunic_relay_dns_total", 8),
    ];
    for (name, step) in steps {
        let is_of =
            |line: &&str| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} "));
        let values: Vec<u64> = page
            .lines()
            .filter(is_of)
            .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        assert!(!values.is_empty() && values.iter().all(|value| value % step == 0), "{name}: {values:?}");
    }
}
