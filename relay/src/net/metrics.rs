//! What a relay shows to Prometheus (docs/operator.md, "Metrics").

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tunic_net::channel::Node;
use tunic_net::daemon::{unix_now, watch};
use tunic_net::metrics::{self, BYTES, Kind, PEOPLE, Text, up};
use tunic_proto::time::UnixTime;

use super::accountant::Accountant;
use super::counters::Counters;
use super::keyring::KeyRing;
use super::view::SharedView;
use crate::config::Config;
use crate::core::memory::queue_budget;

/// What the page is put together from.
pub(super) struct Sources {
    pub(super) settings: watch::Receiver<Config>,
    pub(super) keys: Arc<KeyRing>,
    pub(super) view: Arc<SharedView>,
    pub(super) counters: Arc<Counters>,
    pub(super) node: Node,
    pub(super) memory_max: u64,
    pub(super) accountant: Arc<Accountant>,
    pub(super) started: UnixTime,
}

impl Sources {
    /// The page as it is now.
    pub(super) fn collect(&self) -> Text {
        let budget = queue_budget(self.settings.borrow().memory_budget, self.memory_max);
        let mut text = Text::default();
        self.about(&mut text);
        metrics::node(&mut text, "tunic_relay", &self.node, budget);
        self.memory(&mut text);
        self.traffic(&mut text);
        self.accounts(&mut text);
        self.services(&mut text);
        self.names(&mut text);
        self.standing(&mut text);
        metrics::process(&mut text, self.started.0);
        text
    }

    fn about(&self, text: &mut Text) {
        let config = self.settings.borrow();
        let exit = if config.is_exit() { "yes" } else { "no" };
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("exit", exit)];
        text.family("tunic_relay_info", "What runs here.", Kind::Gauge).sample(&labels, 1);
        text.family("tunic_relay_bandwidth_bytes", "Bytes per second that the relay states.", Kind::Gauge)
            .sample(&[], config.stated_bandwidth());
    }

    fn memory(&self, text: &mut Text) {
        let help = "Bytes that the process may hold as its resident set.";
        text.family("tunic_relay_memory_max_bytes", help, Kind::Gauge).sample(&[], self.memory_max);
        let help = "Whether channels and circuits are refused because memory ran out.";
        text.family("tunic_relay_memory_short", help, Kind::Gauge)
            .sample(&[], u8::from(self.node.admission().memory_is_short()));
    }

    /// What may be moved in an interval.
    fn accounts(&self, text: &mut Text) {
        let standing = self.accountant.standing();
        let help =
            "Bytes of this interval that are used, as the rule counts them, in MiB steps; 0 without a limit.";
        text.family("tunic_relay_accounting_used_bytes", help, Kind::Gauge)
            .sample(&[], up(standing.map_or(0, |standing| standing.used), BYTES));
        let help = "Bytes that each interval has; 0 without a limit.";
        text.family("tunic_relay_accounting_limit_bytes", help, Kind::Gauge)
            .sample(&[], standing.map_or(0, |standing| standing.max));
        let help = "When the next interval begins; 0 without a limit.";
        text.family("tunic_relay_accounting_interval_end_timestamp_seconds", help, Kind::Gauge)
            .sample(&[], standing.map_or(0, |standing| standing.interval.end.0));
        let help =
            "0: awake, 1: takes no new circuits, 2: asleep, because the bytes of this interval are used.";
        text.family("tunic_relay_hibernating", help, Kind::Gauge)
            .sample(&[], self.node.admission().rest() as u8);
    }

    /// What goes over sockets, and how much may.
    fn traffic(&self, text: &mut Text) {
        let (moved, (read_waits, write_waits)) = (self.node.traffic().moved(), self.node.traffic().waits());
        let limit = self.settings.borrow().bandwidth_rate.unwrap_or(0);
        let help = "Bytes per second that sockets may move in each direction; 0 without a limit.";
        text.family("tunic_relay_bandwidth_limit_bytes", help, Kind::Gauge).sample(&[], limit);
        let help = "Bytes over sockets by direction, in MiB steps.";
        text.family("tunic_relay_wire_bytes_total", help, Kind::Counter)
            .sample(&[("direction", "in")], up(moved.read, BYTES))
            .sample(&[("direction", "out")], up(moved.written, BYTES));
        let help = "Times that a socket had to wait for the limit, in multiples of 8.";
        text.family("tunic_relay_bandwidth_waits_total", help, Kind::Counter)
            .sample(&[("direction", "in")], up(read_waits, PEOPLE))
            .sample(&[("direction", "out")], up(write_waits, PEOPLE));
    }

    fn services(&self, text: &mut Text) {
        let counters = &self.counters;
        let mut streams = text.family(
            "tunic_relay_streams_total",
            "Streams to targets, by outcome, in multiples of 8.",
            Kind::Counter,
        );
        for (outcome, count) in counters.streams() {
            streams.sample(&[("outcome", &outcome)], up(count, PEOPLE));
        }
        let help = "Associations of datagrams that were begun, in multiples of 8.";
        text.family("tunic_relay_udp_associations_total", help, Kind::Counter)
            .sample(&[], shown(&counters.associations));
        let help = "Directory requests that were answered, in multiples of 8.";
        text.family("tunic_relay_directory_requests_total", help, Kind::Counter)
            .sample(&[], shown(&counters.directory_requests));
    }

    fn names(&self, text: &mut Text) {
        let dns = &self.counters.dns;
        let mut lookups = text.family(
            "tunic_relay_dns_total",
            "Names looked up, by outcome, in multiples of 8.",
            Kind::Counter,
        );
        for (outcome, count) in [
            ("remembered", &dns.remembered),
            ("found", &dns.found),
            ("absent", &dns.absent),
            ("bogus", &dns.bogus),
            ("failed", &dns.failed),
        ] {
            lookups.sample(&[("outcome", outcome)], shown(count));
        }
    }

    /// How the relay stands in the network.
    fn standing(&self, text: &mut Text) {
        let now = unix_now();
        let ends = now.0.saturating_add(self.keys.certificate_left(now).as_secs());
        text.family(
            "tunic_relay_certificate_expiry_timestamp_seconds",
            "When the signing certificate ends.",
            Kind::Gauge,
        )
        .sample(&[], ends);
        let view = self.view.read();
        let consensus = view.current(now);
        let relays = consensus.map_or(0, |consensus| consensus.relays.len());
        let until = consensus.map_or(0, |consensus| consensus.valid_until.0);
        text.family(
            "tunic_relay_consensus_relays",
            "Relays in the consensus in force; 0 if there is none.",
            Kind::Gauge,
        )
        .sample(&[], relays);
        let help = "When the consensus in force ends; 0 if there is none.";
        text.family("tunic_relay_consensus_expiry_timestamp_seconds", help, Kind::Gauge).sample(&[], until);
        text.family("tunic_relay_listed", "Whether the consensus lists this relay.", Kind::Gauge)
            .sample(&[], u8::from(view.lists_own(now)));
    }
}

fn shown(counter: &AtomicU64) -> u64 {
    up(counter.load(Relaxed), PEOPLE)
}
