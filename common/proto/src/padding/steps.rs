//! Constant mode with steps: the client doubles its rates when they are used up, and halves them when they are not needed
//! (docs/protocol.md §11.4). Seldom, and by whole steps only, because whoever watches sees each.

use std::time::{Duration, Instant};

use super::mode::Rates;

/// How long is counted before a step is thought of.
const INTERVAL: Duration = Duration::from_secs(5);
/// A direction with a smaller share of padding, in permille, is used up.
const USED_UP_PERMILLE: u64 = 50;
/// Both directions need a larger one to be called idle.
const IDLE_PERMILLE: u64 = 750;
/// Idle intervals in a row after which a step down is taken.
const IDLE_INTERVALS: u32 = 12;

/// The ladder of rates, and where on it the client is.
#[derive(Debug)]
pub(super) struct Steps {
    base: Rates,
    most: u8,
    step: u8,
    /// The step that was agreed on last.
    agreed: u8,
    since: Option<Instant>,
    idle: u32,
    sent: Count,
    received: Count,
    fullness_permille: u64,
}

#[derive(Debug, Default)]
struct Count {
    all: u64,
    padding: u64,
}

impl Count {
    fn add(&mut self, all: usize, padding: usize) {
        self.all += all as u64;
        self.padding += padding as u64;
    }

    fn padding_permille(&self) -> u64 {
        self.padding * 1_000 / self.all.max(1)
    }
}

impl Steps {
    /// From `base` on, at most so many doublings.
    pub(super) fn new(base: Rates, most: u8) -> Steps {
        let (sent, received) = (Count::default(), Count::default());
        Steps { base, most, step: 0, agreed: 0, since: None, idle: 0, sent, received, fullness_permille: 0 }
    }

    /// Doublings above the base.
    pub(super) fn step(&self) -> u8 {
        self.step
    }

    /// The part of what the guard sent in the last interval that was no padding: at 1,000 cells wait there.
    pub(super) fn fullness_permille(&self) -> u64 {
        self.fullness_permille
    }

    /// Cells sent, so many of them padding.
    pub(super) fn sent(&mut self, all: usize, padding: usize) {
        self.sent.add(all, padding);
    }

    /// Cells received, so many of them padding.
    pub(super) fn received(&mut self, all: usize, padding: usize) {
        self.received.add(all, padding);
    }

    /// The rates to ask for, if others than those in use. To be asked often.
    pub(super) fn decide(&mut self, now: Instant) -> Option<Rates> {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) < INTERVAL {
            return None;
        }
        self.since = Some(now);
        let counts = [std::mem::take(&mut self.sent), std::mem::take(&mut self.received)];
        let shares = counts.map(|count| count.padding_permille());
        self.fullness_permille = 1_000 - shares[1].min(1_000);
        let is_idle = shares.iter().all(|share| *share > IDLE_PERMILLE);
        self.idle = if is_idle { self.idle + 1 } else { 0 };
        let step = if shares.iter().any(|share| *share < USED_UP_PERMILLE) && self.step < self.most {
            self.step + 1
        } else if self.idle >= IDLE_INTERVALS && self.step > 0 {
            self.step - 1
        } else {
            return None;
        };
        (self.agreed, self.step, self.idle) = (self.step, step, 0);
        Some(self.rates())
    }

    /// The relay does not agree to the step, so the one before goes on. After a step up, nothing above it is asked for again.
    pub(super) fn refused(&mut self) {
        if self.step > self.agreed {
            self.most = self.agreed;
        }
        self.step = self.agreed;
    }

    fn rates(&self) -> Rates {
        let times = |cells: u16| (u32::from(cells) << self.step).min(Rates::MAX_CELLS.into()) as u16;
        Rates { forward: times(self.base.forward), backward: times(self.base.backward), ..self.base }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Rates = Rates { tick_ms: 20, forward: 2, backward: 80 };

    #[test]
    #[expect(clippy::disallowed_methods, reason = "Instant has no other origin")]
    fn the_rate_doubles_when_it_is_used_up_and_halves_after_a_minute_of_rest() {
        let (mut steps, mut now) = (Steps::new(BASE, 2), Instant::now());
        let mut pass = |steps: &mut Steps, padding| {
            steps.sent(100, 90);
            steps.received(100, padding);
            now += INTERVAL;
            steps.decide(now)
        };
        assert_eq!(pass(&mut steps, 0), None, "the first call begins to count");
        assert_eq!(pass(&mut steps, 0), Some(Rates { forward: 4, backward: 128, ..BASE }));
        assert_eq!(pass(&mut steps, 50), None);
        assert_eq!(pass(&mut steps, 4).map(|rates| rates.forward), Some(8));
        assert_eq!(pass(&mut steps, 0), None, "that was the last step");
        let rest: Vec<_> = (0..12).map(|_| pass(&mut steps, 80)).collect();
        assert_eq!(rest[..11], [None; 11]);
        assert_eq!(rest[11].map(|rates| rates.forward), Some(4));
        assert!(pass(&mut steps, 0).is_some());
        steps.refused();
        assert_eq!((pass(&mut steps, 0), steps.step()), (None, 1));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "Instant has no other origin")]
    fn a_refused_step_down_keeps_the_rate_and_the_ladder() {
        let (mut steps, mut now) = (Steps::new(BASE, 2), Instant::now());
        let mut pass = |steps: &mut Steps, padding| {
            steps.sent(100, 90);
            steps.received(100, padding);
            now += INTERVAL;
            steps.decide(now)
        };
        pass(&mut steps, 0);
        assert!(pass(&mut steps, 0).is_some());
        let down = (0..12).find_map(|_| pass(&mut steps, 80));
        assert_eq!((down, steps.step()), (Some(BASE), 0));
        steps.refused();
        assert_eq!(steps.step(), 1, "the rate that was agreed on goes on");
        assert_eq!((0..12).find_map(|_| pass(&mut steps, 80)), Some(BASE), "asked for again after a minute");
        steps.refused();
        assert_eq!(pass(&mut steps, 0).map(|rates| rates.forward), Some(8), "the way up is still open");
    }
}
