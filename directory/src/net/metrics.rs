//! What an authority shows to Prometheus (docs/operator.md, "Metrics").

use std::sync::Arc;

use tokio::net::TcpListener;
use tunic_net::channel::Node;
use tunic_net::daemon::unix_now;
use tunic_net::metrics::{self, Kind, MetricsConfig, PEOPLE, Text, up};
use tunic_proto::dir::SignedConsensus;

use super::service::Service;
use crate::core::Counters;

/// What the page is put together from.
pub(super) struct Sources {
    pub(super) node: Node,
    pub(super) service: Arc<Service>,
    pub(super) memory_budget: usize,
    /// Unix time.
    pub(super) started: u64,
}

impl Sources {
    /// The page as it is now.
    pub(super) fn collect(&self) -> Text {
        let mut text = Text::default();
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        text.family("tunic_directory_info", "What runs here.", Kind::Gauge).sample(&version, 1);
        let (counters, running, consensus) = self.service.peek(|authority, _| {
            let consensus = authority.consensus(unix_now()).cloned();
            (authority.counters(), authority.running_relays(), consensus)
        });
        text.family("tunic_directory_running_relays", "Relays that answered as themselves.", Kind::Gauge)
            .sample(&[], running);
        published(&mut text, consensus.as_deref());
        counted(&mut text, &counters);
        metrics::node(&mut text, "tunic_directory", &self.node, self.memory_budget);
        metrics::process(&mut text, self.started);
        text
    }
}

/// Serves the page, if there is a listener for it, until dropped.
pub(super) async fn show(listener: Option<TcpListener>, config: &MetricsConfig, sources: Sources) {
    match listener {
        Some(listener) => metrics::serve(listener, config.clone(), move || sources.collect()).await,
        None => std::future::pending().await,
    }
}

/// About the consensus in force: zeros if there is none.
fn published(text: &mut Text, consensus: Option<&SignedConsensus>) {
    let relays = consensus.map_or(0, |consensus| consensus.relays.len());
    let since = consensus.map_or(0, |consensus| consensus.valid_after.0);
    let until = consensus.map_or(0, |consensus| consensus.valid_until.0);
    text.family("tunic_directory_consensus_relays", "Relays that the consensus in force lists.", Kind::Gauge)
        .sample(&[], relays);
    let help = "When the consensus in force began; its age is time() without this.";
    text.family("tunic_directory_consensus_start_timestamp_seconds", help, Kind::Gauge).sample(&[], since);
    let help = "When the consensus in force ends.";
    text.family("tunic_directory_consensus_expiry_timestamp_seconds", help, Kind::Gauge).sample(&[], until);
    text.family("tunic_directory_consensus_signatures", "Signatures under it.", Kind::Gauge)
        .sample(&[], consensus.map_or(0, |consensus| signatures(consensus.bytes())));
}

/// Lines of a signed document that are signatures (docs/protocol.md §9.1).
fn signatures(document: &[u8]) -> usize {
    document.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"signature ")).count()
}

fn counted(text: &mut Text, counters: &Counters) {
    text.family("tunic_directory_rounds_total", "Voting rounds, by outcome.", Kind::Counter)
        .sample(&[("outcome", "consensus")], counters.rounds_ok)
        .sample(&[("outcome", "failed")], counters.rounds_failed);
    text.family(
        "tunic_directory_documents_total",
        "Documents that were posted, in multiples of 8.",
        Kind::Counter,
    )
    .sample(&[("outcome", "taken")], up(counters.descriptors, PEOPLE))
    .sample(&[("outcome", "refused")], up(counters.refused, PEOPLE));
    text.family(
        "tunic_directory_equivocations_total",
        "Two votes of one authority for one round.",
        Kind::Counter,
    )
    .sample(&[], counters.equivocations);
    text.family("tunic_directory_disagreements_total", "Signatures under another consensus.", Kind::Counter)
        .sample(&[], counters.disagreements);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_counted() {
        assert_eq!(signatures(b"tunic-consensus 1 2\n{}\nsignature a b\nsignature c d\n"), 2);
        assert_eq!(signatures(b""), 0);
    }

    #[test]
    fn without_a_consensus_there_are_zeros() {
        let mut text = Text::default();
        published(&mut text, None);
        let text = text.into_string();
        assert!(
            text.lines().filter(|line| !line.starts_with('#')).all(|line| line.ends_with(" 0")),
            "{text}"
        );
    }
}
