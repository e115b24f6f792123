//! Throughput, second by second.

use std::collections::VecDeque;

use tunic_proto::cell::CELL_LEN;
use tunic_proto::padding::PaddingTotals;

use super::report::{CoverReport, TrafficReport};
use crate::padding::Class;

/// Seconds that are remembered.
pub const HISTORY: usize = 60;

/// Cells of all channels since the start, padding included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CellCount {
    /// Cells sent.
    pub sent: u64,
    /// Cells received.
    pub received: u64,
}

/// The last minute. Call [`Rates::sample`] once a second.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    last: CellCount,
    last_cover: (u64, u64),
    /// Bytes sent and received in each second, oldest first.
    seconds: VecDeque<(u64, u64)>,
    /// Those of padding in the last second.
    cover: (u64, u64),
}

impl Rates {
    /// A second has passed, and these are the counts now.
    pub fn sample(&mut self, now: CellCount, padding: &PaddingTotals) {
        if self.seconds.len() == HISTORY {
            self.seconds.pop_front();
        }
        let since = |now: u64, before: u64| bytes(now.saturating_sub(before));
        self.seconds.push_back((since(now.sent, self.last.sent), since(now.received, self.last.received)));
        self.last = now;
        let cover = (padding.padding_sent_bytes(), padding.padding_received_bytes());
        self.cover = (cover.0.saturating_sub(self.last_cover.0), cover.1.saturating_sub(self.last_cover.1));
        self.last_cover = cover;
    }

    /// What to tell, with the count now.
    pub fn report(&self, now: CellCount) -> TrafficReport {
        let (sent, received) = self.seconds.back().copied().unwrap_or_default();
        TrafficReport {
            sent_bytes: bytes(now.sent),
            received_bytes: bytes(now.received),
            sent_bytes_per_s: sent,
            received_bytes_per_s: received,
            history: self.seconds.iter().copied().collect(),
        }
    }

    /// What padding of this class costs, and has cost.
    pub fn cover(&self, class: Class, totals: &PaddingTotals) -> CoverReport {
        CoverReport {
            class: class.name().to_owned(),
            sent_bytes: totals.padding_sent_bytes(),
            received_bytes: totals.padding_received_bytes(),
            sent_bytes_per_s: self.cover.0,
            received_bytes_per_s: self.cover.1,
        }
    }
}

fn bytes(cells: u64) -> u64 {
    cells.saturating_mul(CELL_LEN as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(sent: u64, received: u64) -> CellCount {
        CellCount { sent, received }
    }

    #[test]
    fn rates_are_differences_between_seconds() {
        let mut rates = Rates::default();
        rates.sample(count(1, 2), &PaddingTotals::default());
        rates.sample(count(3, 2), &PaddingTotals::default());
        let report = rates.report(count(4, 2));
        assert_eq!((report.sent_bytes, report.received_bytes), (4 * 512, 2 * 512));
        assert_eq!((report.sent_bytes_per_s, report.received_bytes_per_s), (2 * 512, 0));
        assert_eq!(report.history, [(512, 1_024), (1_024, 0)]);
    }

    #[test]
    fn cover_has_a_rate_of_its_own() {
        let padding = |sent, received| PaddingTotals {
            link_sent: sent,
            link_received: received,
            ..PaddingTotals::default()
        };
        let mut rates = Rates::default();
        rates.sample(count(0, 0), &padding(1, 5));
        rates.sample(count(0, 0), &padding(4, 7));
        let report = rates.cover(Class::Normal, &padding(5, 8));
        assert_eq!((report.sent_bytes, report.received_bytes), (5 * 512, 8 * 512));
        assert_eq!((report.sent_bytes_per_s, report.received_bytes_per_s), (3 * 512, 2 * 512));
    }

    #[test]
    fn no_more_than_a_minute_is_remembered() {
        let mut rates = Rates::default();
        (0..200).for_each(|cells| rates.sample(count(cells, 0), &PaddingTotals::default()));
        assert_eq!(rates.report(count(200, 0)).history.len(), HISTORY);
    }
}
