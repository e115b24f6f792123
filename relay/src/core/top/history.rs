//! The samples of the last minutes, as far as graphs and findings need them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use super::{Cost, Flow, Sample};

/// Samples that are kept: as many as the widest graph has columns.
const MAX_SAMPLES: usize = 300;
/// What counts as lately.
const LATELY_MS: u64 = 60_000;

/// By what channels are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Bytes each second.
    #[default]
    Traffic,
    /// Circuit handshakes each second.
    Work,
    /// Bytes that wait.
    Memory,
}

impl Order {
    const ALL: [Order; 3] = [Order::Traffic, Order::Work, Order::Memory];

    /// What it orders by, in a word.
    pub fn label(self) -> &'static str {
        match self {
            Order::Traffic => "traffic",
            Order::Work => "handshakes",
            Order::Memory => "queue",
        }
    }

    /// The next one, or the one before.
    #[must_use]
    pub fn turned(self, forward: bool) -> Order {
        let step = if forward { 1 } else { Self::ALL.len() - 1 };
        Self::ALL[(self as usize + step) % Self::ALL.len()]
    }

    /// The channels of a sample in this order.
    pub fn sorted(self, sample: &Sample) -> Vec<&Cost> {
        let measure = match self {
            Order::Traffic => Cost::traffic,
            Order::Work => Cost::work,
            Order::Memory => Cost::memory,
        };
        let mut costs: Vec<&Cost> = sample.costs.iter().collect();
        costs.sort_by_key(|cost| (Reverse(measure(cost)), Reverse(cost.circuits), cost.channel));
        costs
    }
}

struct Past {
    period_ms: u64,
    rate: Flow,
    refused: BTreeMap<String, u64>,
}

/// What samples told, the newest last.
#[derive(Default)]
pub struct History(VecDeque<Past>);

impl History {
    /// Takes a sample in. The first one of a relay tells of no period and counts for nothing.
    pub fn add(&mut self, sample: &Sample) {
        if sample.period_ms == 0 {
            return;
        }
        if self.0.len() >= MAX_SAMPLES {
            self.0.pop_front();
        }
        let rate = Flow {
            received: per_second(sample.bytes.received, sample.period_ms),
            sent: per_second(sample.bytes.sent, sample.period_ms),
        };
        let refused = sample.refused.clone();
        self.0.push_back(Past { period_ms: sample.period_ms, rate, refused });
    }

    /// Bytes each second of the last so many samples, the newest last; `pick` chooses the direction.
    pub fn rates(&self, count: usize, pick: impl Fn(Flow) -> u64) -> Vec<u64> {
        let skipped = self.0.len().saturating_sub(count);
        self.0.iter().skip(skipped).map(|past| pick(past.rate)).collect()
    }

    /// What was refused in the last minute.
    pub fn refused_lately(&self) -> BTreeMap<String, u64> {
        let (mut sum, mut age_ms) = (BTreeMap::new(), 0);
        for past in self.0.iter().rev() {
            for (reason, count) in &past.refused {
                let total: &mut u64 = sum.entry(reason.clone()).or_default();
                *total = total.saturating_add(*count);
            }
            age_ms += past.period_ms.min(LATELY_MS);
            if age_ms >= LATELY_MS {
                break;
            }
        }
        sum
    }
}

/// So many in a period of this length, for one second; none in no time.
pub fn per_second(count: u64, period_ms: u64) -> u64 {
    let each_second = u128::from(count) * 1_000 / u128::from(period_ms.max(1));
    if period_ms == 0 { 0 } else { u64::try_from(each_second).unwrap_or(u64::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(received: u64, period_ms: u64, refused: u64) -> Sample {
        let bytes = Flow { received, sent: 1 };
        let refused = BTreeMap::from([("replay".to_owned(), refused)]);
        Sample { bytes, period_ms, refused, ..Sample::default() }
    }

    #[test]
    fn rates_are_for_a_second_and_the_newest_comes_last() {
        let mut history = History::default();
        history.add(&sample(9, 0, 0));
        (1..=400).for_each(|n| history.add(&sample(n, 2_000, 0)));
        assert_eq!(history.rates(2, |flow| flow.received), [199, 200]);
        assert_eq!(history.rates(usize::MAX, |flow| flow.received).len(), MAX_SAMPLES);
        assert_eq!([per_second(7, 0), per_second(u64::MAX, 1)], [0, u64::MAX]);
    }

    #[test]
    fn what_was_refused_is_forgotten_after_a_minute() {
        let mut history = History::default();
        history.add(&sample(0, 1_000, 1_000));
        (0..60).for_each(|_| history.add(&sample(0, 1_000, 1)));
        assert_eq!(history.refused_lately(), BTreeMap::from([("replay".to_owned(), 60)]));
    }

    #[test]
    fn channels_are_ordered_by_what_they_cost() {
        let cost = |channel, received, handshakes, queued| Cost {
            channel,
            bytes: Flow { received, sent: 0 },
            handshakes,
            queued,
            ..Cost::default()
        };
        let costs = vec![cost(1, 5, 0, 1), cost(2, 1, 3, 0), cost(3, 0, 1, 9)];
        let sample = Sample { costs, ..Sample::default() };
        let order = |order: Order| order.sorted(&sample).iter().map(|cost| cost.channel).collect::<Vec<_>>();
        assert_eq!(order(Order::Traffic), [1, 2, 3]);
        assert_eq!(order(Order::Work), [2, 3, 1]);
        assert_eq!(order(Order::Memory), [3, 1, 2]);
        assert_eq!(Order::Traffic.turned(true).turned(true).turned(true), Order::Traffic);
        assert_eq!(Order::Traffic.turned(false), Order::Memory);
    }
}
