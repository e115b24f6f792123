//! One side of a channel's padding: what was agreed, what it sends, and what the peer may send (docs/protocol.md §11).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_core::Rng;

use super::allowance::Allowance;
use super::limits::Reservation;
use super::mode::{LinkMode, Refusal};
use super::pace::Pace;
use super::quiet::{NORMAL_MS, Quiet, REDUCED_MS};
use super::steps::Steps;
use super::{Limits, MachineSpec, PaddingRole, PaddingStats};

/// `PADDING` cells that a peer may send at once beyond what its mode calls for, and the time for each later one: they
/// come bunched when a network stood still.
const SPARE_CELLS: u32 = 256;
const SPARE_INTERVAL: Duration = Duration::from_secs(1);
/// In constant mode, so much may come at once: after that long without an acknowledgement a connection is given up.
const CONSTANT_BURST: Duration = Duration::from_secs(60);
/// And so many ticks at the least. Moments that come at random, a tick apart on average, run ahead of a rate that is a tenth higher by
/// so many once in e^40 ticks (the exponent is that of Cramér and Lundberg: 0.18 for each tick).
const CONSTANT_BURST_TICKS: u32 = 240;
/// Agreements that a client may ask for at once, and the time for each later one.
const NEGOTIATIONS: u32 = 8;
const NEGOTIATION_INTERVAL: Duration = Duration::from_secs(10);
/// How often the delay of the queue is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How far a client and its guard are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agreement {
    None,
    Asked(LinkMode),
    Settled,
}

/// What this side sends.
#[derive(Debug)]
enum Sending {
    /// Nothing of its own accord.
    Nothing,
    /// `PADDING` after silence.
    Quiet(Quiet),
    /// At a fixed rate.
    Constant(Box<Pace>),
}

/// One side of a channel's padding.
#[derive(Debug)]
pub(crate) struct LinkPadding {
    role: PaddingRole,
    agreement: Agreement,
    sending: Sending,
    /// What the peer may send; `None` until padding was agreed on.
    allowance: Option<Allowance>,
    negotiations: Allowance,
    reservation: Option<Reservation>,
    /// Relay: where the client is counted, if it is.
    subnet: Option<IpAddr>,
    looked_at: Option<Instant>,
    /// Client in constant mode: where on the ladder of rates it is.
    steps: Option<Steps>,
}

/// The peer sent padding that was not agreed on, or more than was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Excess {
    NotAgreed,
    TooMuch,
}

impl LinkPadding {
    pub(crate) fn new(role: PaddingRole) -> LinkPadding {
        LinkPadding {
            role,
            agreement: Agreement::None,
            sending: Sending::Nothing,
            allowance: None,
            negotiations: Allowance::new(NEGOTIATION_INTERVAL, NEGOTIATIONS),
            reservation: None,
            subnet: None,
            looked_at: None,
            steps: None,
        }
    }

    /// Whether this channel is padded in either direction, and so counted.
    pub(crate) fn is_on(&self) -> bool {
        self.allowance.is_some()
    }

    /// Relay: what it gives.
    pub(crate) fn limits(&self) -> Option<&Arc<Limits>> {
        match &self.role {
            PaddingRole::Relay(limits, _) => Some(limits),
            _ => None,
        }
    }

    /// Relay: from now on the peer is counted under this subnet, as a client, or not at all.
    pub(crate) fn count_under(&mut self, subnet: Option<IpAddr>) {
        self.subnet = subnet;
    }

    /// Relay: where the peer is counted.
    pub(crate) fn subnet(&self) -> Option<IpAddr> {
        self.subnet
    }

    /// Machines of a circuit made so much padding, and gave so much up.
    pub(crate) fn machines_sent(&self, padding: usize, given_up: u64) {
        if let Some(stats) = self.stats().filter(|_| padding > 0 || given_up > 0) {
            stats.machines_sent(padding as u64, given_up);
        }
    }

    /// Client: a cell came back on a circuit.
    pub(crate) fn machines_received(&self, is_padding: bool) {
        if let Some(stats) = self.stats().filter(|_| is_padding) {
            stats.machines_received();
        }
    }

    /// Client: cover traffic was asked for, or given up.
    pub(crate) fn covered(&self, is_sent: bool) {
        if let Some(stats) = self.stats() {
            stats.covered(is_sent);
        }
    }

    /// Client: cover traffic came back.
    pub(crate) fn looped(&self) {
        if let Some(stats) = self.stats() {
            stats.looped();
        }
    }

    /// Client: a relay refused machines.
    pub(crate) fn refused(&self, refusal: Refusal) {
        if let Some(stats) = self.stats() {
            stats.was_refused(refusal);
        }
    }

    fn stats(&self) -> Option<&Arc<PaddingStats>> {
        match &self.role {
            PaddingRole::None => None,
            PaddingRole::Client(_, stats) | PaddingRole::Relay(_, stats) => Some(stats),
        }
    }

    /// Client: what to ask for, the first time that the channel carries a circuit of so many hops.
    pub(crate) fn ask(&mut self, hops: usize) -> Option<LinkMode> {
        match (&self.role, self.agreement) {
            (PaddingRole::Client(padding, _), Agreement::None) if hops > 1 => {
                self.agreement = Agreement::Asked(padding.link);
                Some(padding.link)
            }
            _ => None,
        }
    }

    /// Client: the machine to ask a circuit's guard for.
    pub(crate) fn machine(&self, hops: usize) -> Option<&MachineSpec> {
        match &self.role {
            PaddingRole::Client(padding, _) if hops > 1 => padding.machine.as_ref(),
            _ => None,
        }
    }

    /// Client: the answer; what to ask for instead. `Err` if nothing was asked.
    pub(crate) fn answered(
        &mut self,
        answer: Result<(), Refusal>,
        now: Instant,
        rng: &mut dyn Rng,
    ) -> Result<Option<LinkMode>, Excess> {
        let Agreement::Asked(mode) = self.agreement else { return Err(Excess::NotAgreed) };
        self.agreement = Agreement::Settled;
        match answer {
            Ok(()) => {
                self.start(mode, now, rng, true);
                if let (LinkMode::Constant(rates), None, PaddingRole::Client(padding, _)) =
                    (mode, &self.steps, &self.role)
                {
                    self.steps = Some(Steps::new(rates, padding.steps));
                }
                Ok(None)
            }
            Err(refusal) => {
                if let Some(stats) = self.stats() {
                    stats.was_refused(refusal);
                }
                if let Some(steps) = &mut self.steps {
                    // The rate that was agreed on goes on.
                    steps.refused();
                    return Ok(None);
                }
                // A relay that refuses a rate may still pad as all others do.
                let instead = matches!(mode, LinkMode::Constant(_)).then_some(LinkMode::Normal);
                if let Some(mode) = instead {
                    self.agreement = Agreement::Asked(mode);
                }
                Ok(instead)
            }
        }
    }

    /// Relay: a client asks; what to answer. `None` if nobody may ask here.
    pub(crate) fn asked(
        &mut self,
        mode: LinkMode,
        now: Instant,
        rng: &mut dyn Rng,
    ) -> Option<Result<(), Refusal>> {
        let PaddingRole::Relay(limits, _) = &self.role else { return None };
        if !self.negotiations.take(now, 1) {
            return Some(Err(Refusal::TooOften));
        }
        let answer = limits.reserve(mode, self.subnet, &mut self.reservation);
        if answer.is_ok() {
            self.start(mode, now, rng, false);
        }
        Some(answer)
    }

    fn start(&mut self, mode: LinkMode, now: Instant, rng: &mut dyn Rng, is_client: bool) {
        self.sending = match mode {
            LinkMode::Off => Sending::Nothing,
            LinkMode::Normal => Sending::Quiet(Quiet::new(NORMAL_MS, now)),
            LinkMode::Reduced if is_client => Sending::Quiet(Quiet::new(REDUCED_MS, now)),
            LinkMode::Reduced => Sending::Nothing,
            LinkMode::Constant(rates) => {
                let cells = if is_client { rates.forward } else { rates.backward };
                let mut seed = [0; 32];
                rng.fill_bytes(&mut seed);
                Sending::Constant(Box::new(Pace::new(rates.tick(), cells, seed, now)))
            }
        };
        self.allowance = match mode {
            // What is still on its way from before stays legal: an allowance is never made smaller.
            LinkMode::Off => self.allowance.take(),
            LinkMode::Normal | LinkMode::Reduced => {
                Some(self.allowance.take().unwrap_or_else(|| Allowance::new(SPARE_INTERVAL, SPARE_CELLS)))
            }
            LinkMode::Constant(rates) => {
                let cells = if is_client { rates.backward } else { rates.forward };
                // A tenth more than agreed, for clocks that differ; at once, enough for what chance brings together.
                let interval = rates.tick() * 10 / 11 / u32::from(cells);
                let burst = CONSTANT_BURST.max(rates.tick() * CONSTANT_BURST_TICKS);
                let burst = burst.as_nanos() / interval.as_nanos().max(1);
                Some(Allowance::new(interval, burst.try_into().unwrap_or(u32::MAX)))
            }
        };
    }

    /// Cells arrived, so many of them `PADDING`.
    pub(crate) fn received(&mut self, now: Instant, all: usize, padding: usize) -> Result<(), Excess> {
        if let Sending::Quiet(quiet) = &mut self.sending {
            quiet.active(now);
        }
        let Some(allowance) = &mut self.allowance else {
            return if padding > 0 { Err(Excess::NotAgreed) } else { Ok(()) };
        };
        if padding > 0 && !allowance.take(now, padding as u32) {
            return Err(Excess::TooMuch);
        }
        if let Some(steps) = &mut self.steps {
            steps.received(all, padding);
        }
        if let Some(stats) = self.stats() {
            stats.cells_received(all, padding);
        }
        Ok(())
    }

    /// Client in constant mode: what to ask for when the rate is used up, or much too high.
    fn next_step(&mut self, now: Instant) -> Option<LinkMode> {
        let mode = LinkMode::Constant(self.steps.as_mut()?.decide(now)?);
        self.agreement = Agreement::Asked(mode);
        Some(mode)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match &self.sending {
            Sending::Nothing => None,
            Sending::Quiet(quiet) => quiet.poll_timeout(),
            Sending::Constant(pace) => Some(pace.poll_timeout()),
        }
    }

    /// Lets the clocks go on. `backlog` tells how many cells wait; it is asked now and then only. Client: what to ask the relay
    /// for.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        rng: &mut dyn Rng,
        backlog: impl FnOnce() -> usize,
    ) -> Option<LinkMode> {
        match &mut self.sending {
            Sending::Nothing => {}
            Sending::Quiet(quiet) => quiet.handle_timeout(now, rng),
            Sending::Constant(pace) => {
                let missed = pace.handle_timeout(now);
                let delay = self
                    .looked_at
                    .is_none_or(|at| now.saturating_duration_since(at) >= LOOK_INTERVAL)
                    .then(|| pace.delay(backlog()));
                if delay.is_some() {
                    self.looked_at = Some(now);
                }
                if let Some(stats) = self.stats() {
                    if missed > 0 {
                        stats.cells_missed(missed);
                    }
                    delay.into_iter().for_each(|delay| stats.queue_delay(delay));
                    if let Some(steps) = &self.steps {
                        stats.stepped(steps.step(), steps.fullness_permille());
                    }
                }
                // While a question is open, what is in use is not known.
                return if self.agreement == Agreement::Settled { self.next_step(now) } else { None };
            }
        }
        None
    }

    /// In constant mode, how many cells are to be written now, padding or not.
    pub(crate) fn paced(&self) -> Option<usize> {
        match &self.sending {
            Sending::Constant(pace) => Some(pace.due()),
            _ => None,
        }
    }

    /// Whether a `PADDING` cell is to be written unless another one is.
    pub(crate) fn is_due(&self) -> bool {
        matches!(&self.sending, Sending::Quiet(quiet) if quiet.is_due())
    }

    /// So many `PADDING` cells are to follow the `written` ones, where there is room for `room` more.
    pub(crate) fn fill(&mut self, now: Instant, written: usize, room: usize) -> usize {
        let padding = match &mut self.sending {
            Sending::Nothing => 0,
            Sending::Quiet(quiet) => {
                let padding = usize::from(written == 0 && room > 0 && quiet.is_due());
                if written + padding > 0 {
                    quiet.active(now);
                }
                padding
            }
            Sending::Constant(pace) => {
                let padding = pace.due().saturating_sub(written).min(room);
                pace.sent(written + padding);
                padding
            }
        };
        if let Some(stats) = self.stats().filter(|_| self.is_on() && written + padding > 0) {
            stats.cells_sent(written + padding, padding);
        }
        if let Some(steps) = &mut self.steps {
            steps.sent(written + padding, padding);
        }
        padding
    }

    /// No more padding and no pace: the channel is about to end.
    pub(crate) fn stop(&mut self) {
        self.sending = Sending::Nothing;
    }
}
