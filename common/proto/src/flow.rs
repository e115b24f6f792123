//! Credit: who may send how many cells (docs/protocol.md §7).
//!
//! The same two halves serve a circuit between neighbours (hop credit) and a stream between its ends (windows): the
//! sender holds a [`SendCredit`], the receiver a [`RecvWindow`], whose size is also what it can be made to store.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::cell::CELL_LEN;

/// Cells that may be sent before any credit came back.
pub const INITIAL_CELLS: u32 = 64;
/// The largest window that a receiver grants, in cells: 100 Mbit/s over a round trip of 600 ms.
pub const MAX_WINDOW_CELLS: u32 = 16_384;
/// The largest credit that a sender may hold, in cells.
pub const MAX_CREDIT_CELLS: u32 = 65_535;

/// What a process may hold in queues for others, shared by everything in it.
///
/// Units: cells of 512 bytes. A window reserves its whole size, so the budget bounds what peers can make the process
/// store, whatever they send.
#[derive(Debug, Clone)]
pub struct Budget(Arc<BudgetState>);

#[derive(Debug)]
struct BudgetState {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Budget {
        Budget(Arc::new(BudgetState { limit: bytes / CELL_LEN, used: AtomicUsize::new(0) }))
    }

    /// Cells reserved now.
    pub fn used_cells(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    fn reserve(&self, cells: u32) -> bool {
        let cells = cells as usize;
        let used = &self.0.used;
        used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(cells).filter(|sum| *sum <= self.0.limit)
        })
        .is_ok()
    }

    /// Reserves what is not needed but makes things faster: only while half of the budget is free, so that those who
    /// transfer much do not keep others from being served at all.
    fn reserve_spare(&self, cells: u32) -> bool {
        let spare = self.used_cells() + cells as usize <= self.0.limit / 2;
        spare && self.reserve(cells)
    }

    fn release(&self, cells: u32) {
        self.0.used.fetch_sub(cells as usize, Ordering::Relaxed);
    }
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    cells: u32,
    budget: Budget,
}

impl Reservation {
    /// So many cells; `None` if there is no room for them.
    pub(crate) fn new(budget: &Budget, cells: u32) -> Option<Reservation> {
        budget.reserve(cells).then(|| Reservation { cells, budget: budget.clone() })
    }

    /// Doubles it if there is room to spare.
    pub(crate) fn double(&mut self) -> bool {
        let more = self.budget.reserve_spare(self.cells);
        if more {
            self.cells *= 2;
        }
        more
    }

    /// Its size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.cells as usize * CELL_LEN
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.release(self.cells);
    }
}

/// More credit than [`MAX_CREDIT_CELLS`], or a cell beyond the credit: the peer broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("flow control violated")]
pub struct CreditError;

/// What its peer lets a sender send.
#[derive(Debug)]
pub struct SendCredit(u32);

impl SendCredit {
    /// The initial credit.
    pub fn new() -> SendCredit {
        SendCredit(INITIAL_CELLS)
    }

    /// Cells that may be sent now.
    pub fn cells(&self) -> usize {
        self.0 as usize
    }

    /// Takes note of so many cells sent; callers send at most [`SendCredit::cells`].
    pub fn spend(&mut self, cells: usize) {
        debug_assert!(cells <= self.cells());
        self.0 = self.0.saturating_sub(cells as u32);
    }

    /// Adds what the peer granted.
    ///
    /// # Errors
    /// [`CreditError`] above [`MAX_CREDIT_CELLS`].
    pub fn grant(&mut self, cells: u32) -> Result<(), CreditError> {
        let sum = self.0.checked_add(cells).filter(|sum| *sum <= MAX_CREDIT_CELLS).ok_or(CreditError)?;
        self.0 = sum;
        Ok(())
    }
}

impl Default for SendCredit {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether the window held its sender up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocked {
    No,
    /// It did, and nothing was granted since. Cells that still arrive were sent on earlier grants, so they say nothing.
    Ungranted,
    /// It did, and something was granted since; the next cell tells that the sender goes on.
    Granted,
}

/// What a receiver lets its peer send, and how much of it is where.
///
/// Invariant: `outstanding + queued + owed == window`, each cell being with the sender (or under way), queued here, or
/// passed on and not granted again yet.
#[derive(Debug)]
pub struct RecvWindow {
    window: u32,
    outstanding: u32,
    queued: u32,
    owed: u32,
    blocked: Blocked,
    reserved: u32,
    budget: Budget,
}

impl RecvWindow {
    /// The initial window without a reservation, for a stream that is being refused: what arrives is dropped.
    pub fn unreserved(budget: &Budget) -> RecvWindow {
        RecvWindow {
            window: INITIAL_CELLS,
            outstanding: INITIAL_CELLS,
            queued: 0,
            owed: 0,
            blocked: Blocked::No,
            reserved: 0,
            budget: budget.clone(),
        }
    }

    /// The initial window, reserved in the budget; `None` if it has no room.
    pub fn new(budget: &Budget) -> Option<RecvWindow> {
        budget.reserve(INITIAL_CELLS).then(|| {
            let mut window = RecvWindow::unreserved(budget);
            window.reserved = INITIAL_CELLS;
            window
        })
    }

    /// A cell arrived; `blocked` says that its sender has no credit left and more to send.
    ///
    /// # Errors
    /// [`CreditError`] if it had none to begin with.
    pub fn received(&mut self, blocked: bool) -> Result<(), CreditError> {
        self.outstanding = self.outstanding.checked_sub(1).ok_or(CreditError)?;
        self.queued += 1;
        self.blocked = match (blocked, self.blocked) {
            (true, _) => Blocked::Ungranted,
            (false, Blocked::Granted) => Blocked::No,
            (false, before) => before,
        };
        Ok(())
    }

    /// So many cells left the queue.
    pub fn consumed(&mut self, cells: u32) {
        let cells = cells.min(self.queued);
        self.queued -= cells;
        self.owed += cells;
    }

    /// What to grant now: nothing until a quarter of the window is owed, so that grants stay few.
    ///
    /// A window whose sender was held up by it while hardly anything queued here is smaller than rate × delay, so it
    /// doubles; where cells queue, the reader is the limit, and more window would only store more.
    pub fn poll_grant(&mut self) -> Option<u32> {
        if self.owed * 4 < self.window || self.owed == 0 {
            return None;
        }
        let keeps_up = self.queued * 4 <= self.window;
        let mut grant = std::mem::take(&mut self.owed);
        let held_up = self.blocked != Blocked::No;
        if held_up {
            self.blocked = Blocked::Granted;
        }
        if held_up && keeps_up && self.window < MAX_WINDOW_CELLS && self.budget.reserve_spare(self.window) {
            self.blocked = Blocked::No;
            grant += self.window;
            self.reserved += self.window;
            self.window *= 2;
        }
        self.outstanding += grant;
        Some(grant)
    }

    /// Gives the reservation back: from now on what arrives is dropped.
    pub fn give_back(&mut self) {
        self.budget.release(std::mem::take(&mut self.reserved));
    }

    /// The size of the window in cells.
    pub fn window_cells(&self) -> u32 {
        self.window
    }
}

impl Drop for RecvWindow {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(window: &mut RecvWindow, cells: u32, last_blocked: bool) {
        for n in 1..=cells {
            window.received(last_blocked && n == cells).unwrap();
        }
    }

    #[test]
    fn a_cell_beyond_the_window_is_refused() {
        let mut window = RecvWindow::new(&Budget::new(1 << 20)).unwrap();
        receive(&mut window, INITIAL_CELLS, true);
        assert_eq!(window.received(false), Err(CreditError));
    }

    #[test]
    fn a_window_doubles_only_when_the_sender_is_held_up_and_the_reader_is_not() {
        let budget = Budget::new(1 << 20);
        let mut fast = RecvWindow::new(&budget).unwrap();
        receive(&mut fast, 64, true);
        fast.consumed(64);
        assert_eq!(fast.poll_grant(), Some(128));
        assert_eq!(fast.window_cells(), 128);

        let mut stalled = RecvWindow::new(&budget).unwrap();
        receive(&mut stalled, 64, true);
        stalled.consumed(16);
        assert_eq!(stalled.poll_grant(), Some(16));
        assert_eq!(stalled.window_cells(), 64);

        let mut idle = RecvWindow::new(&budget).unwrap();
        receive(&mut idle, 32, false);
        idle.consumed(32);
        assert_eq!(idle.poll_grant(), Some(32));
        assert_eq!(idle.window_cells(), 64);
    }

    #[test]
    fn a_window_doubles_as_soon_as_the_queue_has_drained() {
        let mut window = RecvWindow::new(&Budget::new(1 << 20)).unwrap();
        receive(&mut window, 64, true);
        window.consumed(32);
        assert_eq!(window.poll_grant(), Some(32));
        window.consumed(32);
        assert_eq!(window.poll_grant(), Some(96), "the sender still waits for the first grant");

        let mut window = RecvWindow::new(&Budget::new(1 << 20)).unwrap();
        receive(&mut window, 64, true);
        window.consumed(32);
        assert_eq!(window.poll_grant(), Some(32));
        receive(&mut window, 1, false);
        window.consumed(33);
        assert_eq!(window.poll_grant(), Some(33), "the sender goes on and has enough");
    }

    #[test]
    fn a_window_doubles_however_marks_and_grants_interleave() {
        let mut window = RecvWindow::new(&Budget::new(1 << 20)).unwrap();
        receive(&mut window, 20, false);
        window.consumed(20);
        assert_eq!(window.poll_grant(), Some(20));
        receive(&mut window, 44, true);
        receive(&mut window, 1, false);
        window.consumed(45);
        assert_eq!(window.poll_grant(), Some(45 + 64), "the later cell went out on the first grant");
    }

    #[test]
    fn growth_leaves_half_of_the_budget() {
        let budget = Budget::new(3 * 64 * CELL_LEN);
        let mut window = RecvWindow::new(&budget).unwrap();
        receive(&mut window, 64, true);
        window.consumed(64);
        assert_eq!(window.poll_grant(), Some(64));
        assert!(RecvWindow::new(&budget).is_some());
    }

    #[test]
    fn windows_never_exceed_the_budget_and_give_it_back() {
        let budget = Budget::new(100 * CELL_LEN);
        let mut only = RecvWindow::new(&budget).unwrap();
        assert!(RecvWindow::new(&budget).is_none());
        receive(&mut only, 64, true);
        only.consumed(64);
        assert_eq!(only.poll_grant(), Some(64), "no room to double");
        drop(only);
        assert_eq!(budget.used_cells(), 0);
    }

    #[test]
    fn credit_does_not_overflow() {
        let mut credit = SendCredit::new();
        assert_eq!(credit.grant(MAX_CREDIT_CELLS - INITIAL_CELLS), Ok(()));
        assert_eq!(credit.grant(1), Err(CreditError));
        assert_eq!(credit.grant(u32::MAX), Err(CreditError));
    }

    proptest::proptest! {
        #[test]
        fn cells_are_never_lost_or_made(steps in proptest::collection::vec((0_u32..80, 0_u32..80, proptest::bool::ANY), 1..50)) {
            let mut window = RecvWindow::new(&Budget::new(1 << 24)).unwrap();
            for (arrive, leave, blocked) in steps {
                for _ in 0..arrive.min(window.outstanding) {
                    window.received(blocked).unwrap();
                }
                window.consumed(leave);
                window.poll_grant();
                proptest::prop_assert_eq!(window.outstanding + window.queued + window.owed, window.window);
            }
        }
    }
}
