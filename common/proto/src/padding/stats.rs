//! What padding costs, live.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::cell::CELL_LEN;

macro_rules! totals {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of the padded channels of a process.
        #[derive(Debug, Default)]
        pub struct PaddingStats { $($name: AtomicU64,)* }

        /// The counters at one moment. Units: cells of 512 bytes unless the name says otherwise.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
        pub struct PaddingTotals { $($(#[$doc])* pub $name: u64,)* }

        impl PaddingStats {
            /// The counters now.
            pub fn totals(&self) -> PaddingTotals {
                PaddingTotals { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

totals! {
    /// All cells sent on padded channels.
    sent,
    /// All cells received there.
    received,
    /// `PADDING` cells sent: between client and guard.
    link_sent,
    /// `PADDING` cells received.
    link_received,
    /// Padding cells that machines on circuits sent.
    machine_sent,
    /// Padding cells that came from machines at relays.
    machine_received,
    /// Padding cells that machines wanted and that were given up, for want of credit or budget.
    given_up,
    /// `DROP` and `LOOP` sent on dummy circuits.
    cover_sent,
    /// `LOOPED` that came back.
    loops_returned,
    /// Cells of constant mode that were never sent, because the connection or the computer was too slow.
    missed,
    /// Times that a relay refused what it was asked for.
    refused,
    /// The reason of the last refusal, as in `PADDING_NEGOTIATED`; 0 if there was none.
    last_refusal,
    /// How long a cell waits for its turn in constant mode, in microseconds, when it was last looked at.
    queue_delay_us,
    /// The longest that it waited, in microseconds.
    max_queue_delay_us,
    /// How often the constant rate is doubled now.
    step,
    /// The part of what the guard sent lately at a constant rate that was no padding, in permille. At 1,000 cells wait there too.
    guard_fullness_permille,
}

impl PaddingStats {
    pub(super) fn cells_sent(&self, all: usize, padding: usize) {
        self.sent.fetch_add(all as u64, Ordering::Relaxed);
        self.link_sent.fetch_add(padding as u64, Ordering::Relaxed);
    }

    pub(super) fn cells_received(&self, all: usize, padding: usize) {
        self.received.fetch_add(all as u64, Ordering::Relaxed);
        self.link_received.fetch_add(padding as u64, Ordering::Relaxed);
    }

    pub(super) fn machines_sent(&self, padding: u64, given_up: u64) {
        self.machine_sent.fetch_add(padding, Ordering::Relaxed);
        self.given_up.fetch_add(given_up, Ordering::Relaxed);
    }

    pub(super) fn machines_received(&self) {
        self.machine_received.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn covered(&self, is_sent: bool) {
        let counter = if is_sent { &self.cover_sent } else { &self.given_up };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn looped(&self) {
        self.loops_returned.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stepped(&self, step: u8, fullness_permille: u64) {
        self.step.store(step.into(), Ordering::Relaxed);
        self.guard_fullness_permille.store(fullness_permille, Ordering::Relaxed);
    }

    pub(super) fn cells_missed(&self, cells: u64) {
        self.missed.fetch_add(cells, Ordering::Relaxed);
    }

    pub(super) fn was_refused(&self, refusal: super::Refusal) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.last_refusal.store(refusal as u64, Ordering::Relaxed);
    }

    pub(super) fn queue_delay(&self, delay: Duration) {
        let delay = delay.as_micros() as u64;
        self.queue_delay_us.store(delay, Ordering::Relaxed);
        self.max_queue_delay_us.fetch_max(delay, Ordering::Relaxed);
    }
}

impl PaddingTotals {
    /// Cells sent that carried nothing.
    pub fn padding_sent(&self) -> u64 {
        self.link_sent + self.machine_sent + self.cover_sent
    }

    /// Cells received that carried nothing.
    pub fn padding_received(&self) -> u64 {
        self.link_received + self.machine_received + self.loops_returned
    }

    /// The part of all cells, both directions, that carried nothing: 0 to 1.
    pub fn share(&self) -> f64 {
        let all = (self.sent + self.received).max(1);
        (self.padding_sent() + self.padding_received()) as f64 / all as f64
    }

    /// Bytes sent that carried nothing, without what TLS and TCP add.
    pub fn padding_sent_bytes(&self) -> u64 {
        self.padding_sent() * CELL_LEN as u64
    }

    /// Bytes received that carried nothing.
    pub fn padding_received_bytes(&self) -> u64 {
        self.padding_received() * CELL_LEN as u64
    }
}
