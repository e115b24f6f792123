//! What a daemon shows to Prometheus.
//!
//! Figures are for whoever runs the daemon, and often end up on pages that many read. So that they give no single person
//! away (docs/operator.md, "Metrics"):
//!
//! 1. The page is put together anew at fixed times, [`MetricsConfig::interval_s`] apart, and does not change in between.
//! 2. What people cause is rounded up to a multiple of [`PEOPLE`], [`CELLS`] or [`BYTES`]; nothing is shown for a single
//!    circuit, address, relay or target.
//!
//! What is about the daemon itself (limits, certificates, the consensus) is exact.

mod node;
mod process;
mod text;

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hyper::body::Bytes;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval};

pub use node::node;
pub use process::{open_files, process, resident_bytes};
pub use text::{Family, Kind, Text};

use crate::http::{self, Audience, Page};

/// Circuits, channels, streams, handshakes, refusals and what else one person causes few of are shown in multiples of this.
pub const PEOPLE: u64 = 8;
/// Cells are shown in multiples of this: half a MiB.
pub const CELLS: u64 = 1_024;
/// Bytes are shown in multiples of this.
pub const BYTES: u64 = 1 << 20;
/// The text format of Prometheus.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The shortest and the longest time between two pages.
const INTERVAL_S: std::ops::RangeInclusive<u64> = 10..=3_600;

/// The next multiple of `bin`.
pub fn up(value: u64, bin: u64) -> u64 {
    value.div_ceil(bin).saturating_mul(bin)
}

/// The `[metrics]` table of a daemon's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MetricsConfig {
    /// Where the page is served; nowhere by default.
    pub listen: Option<SocketAddr>,
    /// Time between two pages, in seconds.
    pub interval_s: u64,
    /// `listen` may be an address that other machines reach.
    pub other_machines: bool,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        MetricsConfig { listen: None, interval_s: 60, other_machines: false }
    }
}

impl MetricsConfig {
    /// What is wrong with the settings: whether it is, and what to do about it.
    pub fn checks(&self) -> [(bool, &'static str); 2] {
        let is_open = self.listen.is_some_and(|at| !at.ip().to_canonical().is_loopback());
        [
            (
                is_open && !self.other_machines,
                "`listen` under [metrics] is not a loopback address: use 127.0.0.1, or set other_machines = true if a \
                 firewall keeps strangers out",
            ),
            (
                !INTERVAL_S.contains(&self.interval_s),
                "`interval_s` under [metrics] must be 10 to 3600: a page that changes with every event would tell of single ones",
            ),
        ]
    }
}

/// Serves the page until dropped; `collect` puts it together.
pub async fn serve<C>(listener: TcpListener, config: MetricsConfig, collect: C)
where
    C: Fn() -> Text + Send + Sync + 'static,
{
    let put_together = || Bytes::from(collect().into_string());
    let shown = Arc::new(RwLock::new(put_together()));
    let update = async {
        let mut ticks = interval(Duration::from_secs(config.interval_s.max(*INTERVAL_S.start())));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        loop {
            ticks.tick().await;
            let page = put_together();
            *shown.write().unwrap_or_else(PoisonError::into_inner) = page;
        }
    };
    let audience = if config.other_machines { Audience::Everybody } else { Audience::Local };
    let read = Arc::clone(&shown);
    let page = move |path: &str| {
        let body = read.read().unwrap_or_else(PoisonError::into_inner).clone();
        (path == "/metrics").then_some(Page { content_type: CONTENT_TYPE, body })
    };
    tokio::select! {
        () = update => {}
        () = http::serve(listener, audience, page) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    #[test]
    fn figures_are_rounded_up() {
        assert_eq!([0, 1, 8, 9].map(|value| up(value, PEOPLE)), [0, 8, 8, 16]);
        assert_eq!(up(u64::MAX, CELLS), u64::MAX);
    }

    #[test]
    fn strangers_and_single_events_are_kept_out() {
        let count = |config: MetricsConfig| config.checks().iter().filter(|(wrong, _)| *wrong).count();
        let at = |text: &str| Some(text.parse().unwrap());
        assert_eq!(count(MetricsConfig::default()), 0);
        assert_eq!(count(MetricsConfig { listen: at("127.0.0.1:9101"), ..Default::default() }), 0);
        assert_eq!(count(MetricsConfig { listen: at("[::1]:9101"), ..Default::default() }), 0);
        assert_eq!(count(MetricsConfig { listen: at("0.0.0.0:9101"), ..Default::default() }), 1);
        let known = MetricsConfig { listen: at("0.0.0.0:9101"), other_machines: true, ..Default::default() };
        assert_eq!(count(known), 0);
        assert_eq!(count(MetricsConfig { interval_s: 1, ..Default::default() }), 1);
    }

    async fn scrape(at: SocketAddr) -> String {
        let mut tcp = TcpStream::connect(at).await.unwrap();
        tcp.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        answer.rsplit_once("\r\n").unwrap().1.to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn the_page_changes_at_fixed_times_only() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let events = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&events);
        let collect = move || {
            let mut text = Text::default();
            text.family("events_total", "Events.", Kind::Counter).sample(&[], counted.load(Relaxed));
            text
        };
        tokio::spawn(serve(listener, MetricsConfig::default(), collect));
        let first = scrape(at).await;
        assert!(first.contains("events_total 0\n"), "{first}");
        events.store(7, Relaxed);
        assert_eq!(scrape(at).await, first);
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert!(scrape(at).await.contains("events_total 7\n"));
    }
}
