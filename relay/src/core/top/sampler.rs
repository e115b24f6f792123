//! From what was counted to what happened in between.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::{COSTLIEST, Cost, Flow, Sample};

/// What one channel has done so far.
#[derive(Debug, Clone, Default)]
pub struct ChannelCount {
    /// Which channel.
    pub number: u64,
    /// Whether the neighbour is a relay.
    pub is_relay: bool,
    /// Bytes of cells so far.
    pub bytes: Flow,
    /// Circuit handshakes that it asked for so far.
    pub handshakes: u64,
    /// Its circuits now.
    pub circuits: u64,
    /// Bytes that its queue occupies now.
    pub queued: u64,
}

/// Remembers what was counted at the sample before. Holds one entry for each channel of that time.
#[derive(Debug, Default)]
pub struct Sampler {
    at: Option<Instant>,
    bytes: Flow,
    refused: BTreeMap<String, u64>,
    channels: HashMap<u64, (Flow, u64)>,
}

impl Sampler {
    /// Makes a sample of figures that are as they are (`so_far`), but for these, which are counted since the start there: bytes,
    /// what was refused, and what the channels did. In the first sample nothing has happened.
    pub fn sample(&mut self, now: Instant, mut so_far: Sample, channels: Vec<ChannelCount>) -> Sample {
        let is_first = self.at.is_none();
        let period = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        so_far.period_ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        let bytes = std::mem::replace(&mut self.bytes, so_far.bytes);
        so_far.bytes = if is_first { Flow::default() } else { since(so_far.bytes, bytes) };
        let refused = std::mem::replace(&mut self.refused, so_far.refused.clone());
        so_far.refused.retain(|reason, count| {
            *count = count.saturating_sub(refused.get(reason).copied().unwrap_or(0));
            *count > 0 && !is_first
        });
        so_far.costs = self.costs(channels);
        self.at = Some(now);
        so_far
    }

    fn costs(&mut self, channels: Vec<ChannelCount>) -> Vec<Cost> {
        let counted = channels.iter().map(|channel| (channel.number, (channel.bytes, channel.handshakes)));
        let before = std::mem::replace(&mut self.channels, counted.collect());
        let cost = |channel: ChannelCount| {
            // What a channel did before it was first seen did not happen in this period, or nobody knows.
            let (bytes, handshakes) =
                before.get(&channel.number).copied().unwrap_or((channel.bytes, channel.handshakes));
            Cost {
                channel: channel.number,
                is_relay: channel.is_relay,
                bytes: since(channel.bytes, bytes),
                handshakes: channel.handshakes.saturating_sub(handshakes),
                circuits: channel.circuits,
                queued: channel.queued,
            }
        };
        costliest(channels.into_iter().map(cost).collect())
    }
}

/// Those that lead by at least one of the measures.
fn costliest(mut costs: Vec<Cost>) -> Vec<Cost> {
    if costs.len() <= COSTLIEST {
        return costs;
    }
    let mut leading = Vec::new();
    for measure in [Cost::traffic, Cost::work, Cost::memory] {
        costs.sort_by_key(|cost| Reverse(measure(cost)));
        leading.extend(costs.drain(..COSTLIEST.min(costs.len())));
    }
    leading
}

impl Cost {
    /// What it costs in bandwidth: bytes.
    pub fn traffic(&self) -> u64 {
        self.bytes.received.saturating_add(self.bytes.sent)
    }

    /// What it costs in handshakes, the dearest work that a neighbour can ask for.
    pub fn work(&self) -> u64 {
        self.handshakes
    }

    /// What it costs in memory: bytes.
    pub fn memory(&self) -> u64 {
        self.queued
    }
}

fn since(now: Flow, before: Flow) -> Flow {
    Flow {
        received: now.received.saturating_sub(before.received),
        sent: now.sent.saturating_sub(before.sent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant does")]
    fn start() -> Instant {
        Instant::now()
    }

    fn counted(received: u64, tampered: u64) -> Sample {
        Sample {
            bytes: Flow { received, sent: received.saturating_mul(2) },
            refused: BTreeMap::from([("tampered".to_owned(), tampered), ("replay".to_owned(), 5)]),
            ..Sample::default()
        }
    }

    fn channel(number: u64, received: u64, handshakes: u64, queued: u64) -> ChannelCount {
        let bytes = Flow { received, sent: 0 };
        ChannelCount { number, bytes, handshakes, queued, ..ChannelCount::default() }
    }

    #[test]
    fn a_sample_holds_what_happened_since_the_one_before() {
        let (mut sampler, start) = (Sampler::default(), start());
        let first = sampler.sample(start, counted(100, 7), vec![channel(1, 50, 3, 0)]);
        assert_eq!((first.period_ms, first.bytes, first.refused.len()), (0, Flow::default(), 0));
        assert_eq!((first.costs[0].traffic(), first.costs[0].work()), (0, 0));
        let later = start + Duration::from_millis(1_500);
        let second =
            sampler.sample(later, counted(160, 9), vec![channel(1, 90, 4, 512), channel(2, 7, 7, 0)]);
        assert_eq!((second.period_ms, second.bytes), (1_500, Flow { received: 60, sent: 120 }));
        assert_eq!(second.refused, BTreeMap::from([("tampered".to_owned(), 2)]));
        let costs: Vec<_> =
            second.costs.iter().map(|cost| (cost.traffic(), cost.work(), cost.memory())).collect();
        assert_eq!(costs, [(40, 1, 512), (0, 0, 0)]);
    }

    #[test]
    fn of_many_channels_those_that_lead_by_any_measure_are_shown() {
        let (mut sampler, start) = (Sampler::default(), start());
        sampler.sample(start, Sample::default(), (0..1_000).map(|n| channel(n, 0, 0, 0)).collect());
        let now = |n| match n {
            700 => channel(n, 0, 9, 0),
            800 => channel(n, 0, 0, 4_096),
            _ => channel(n, n, 0, 0),
        };
        let sample =
            sampler.sample(start + Duration::from_secs(1), Sample::default(), (0..1_000).map(now).collect());
        let shown: Vec<u64> = sample.costs.iter().map(|cost| cost.channel).collect();
        assert_eq!(shown.len(), 3 * COSTLIEST);
        assert!([999, 990, 700, 800].iter().all(|channel| shown.contains(channel)), "{shown:?}");
    }

    #[test]
    fn samples_fit_the_line_that_is_read_and_survive_it() {
        let (mut sampler, start) = (Sampler::default(), start());
        let log = vec!["\u{1F980}".repeat(tunic_net::recent::MAX_LINE_CHARS); tunic_net::recent::MAX_LINES];
        let so_far = Sample { log, ..counted(u64::MAX, u64::MAX) };
        let channels = (0..10_000).map(|n| channel(n, u64::MAX, u64::MAX, u64::MAX)).collect();
        let sample = sampler.sample(start, so_far, channels);
        let line = serde_json::to_string(&sample).unwrap();
        assert!((line.len() as u64) < super::super::MAX_SAMPLE_LEN, "{}", line.len());
        assert_eq!(serde_json::from_str::<Sample>(&line).unwrap(), sample);
        assert_eq!(serde_json::from_str::<Sample>("{\"new\":1}").unwrap(), Sample::default());
    }
}
