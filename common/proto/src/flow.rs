//! Credit: who may send how many cells (docs/protocol.md §7).
//!
//! The same two halves serve a circuit between neighbours (hop credit) and a stream between its ends (windows): the
//! sender holds a [`SendCredit`], the receiver a [`RecvWindow`], whose size is also what it can be made to store.

mod path;
mod rounds;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use path::{PathRtt, Span, last_dip};
pub use window::RecvWindow;

use crate::cell::CELL_LEN;

/// Cells that may be sent before any credit came back.
pub const INITIAL_CELLS: u32 = 64;
/// What a client grants to a TCP stream when it begins it: the first round trips of the answer fit into it.
pub const OPEN_CELLS: u32 = 256;
/// How many cells a circuit's window reserves while no more of them are queued: most circuits are idle, and what all of them
/// could hold at once is more than any machine has.
pub const IDLE_CELLS: u32 = 16;
/// The largest window that a receiver grants, in cells: 100 Mbit/s over a round trip of 600 ms.
pub const MAX_WINDOW_CELLS: u32 = 16_384;
/// The largest credit that a sender may hold, in cells.
pub const MAX_CREDIT_CELLS: u32 = 65_535;

/// What a process may hold in queues for others, shared by everything in it.
///
/// Units: cells of 512 bytes. A window reserves its whole size while it is used. One that was not used for a while keeps a quarter
/// of it, a circuit's [`IDLE_CELLS`] at least, as one does that is new; when more of it is queued again it reserves twice as much each
/// time, even beyond the limit, because its sender holds the credit already; until less is reserved nobody gets more.
/// So the limit bounds what peers can make the process store, but loosely: when circuits that were idle fill what they were
/// granted all at once, more queues, up to four times as much; a relay's own answers to clients come on top, and
/// cells that are left alone in their pages of storage keep those. Whoever watches the memory of the process ends circuits before.
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

    /// Reserves what a sender was granted before: there is no way back.
    fn reserve_promised(&self, cells: u32) {
        self.0.used.fetch_add(cells as usize, Ordering::Relaxed);
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
        self.reserve_within(cells, self.0.limit / 2)
    }

    /// Reserves what is only convenient: while three quarters of the budget are free.
    fn reserve_plenty(&self, cells: u32) -> bool {
        self.reserve_within(cells, self.0.limit / 4)
    }

    fn reserve_within(&self, cells: u32, limit: usize) -> bool {
        self.used_cells() + cells as usize <= limit && self.reserve(cells)
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

    /// The same for what can be done without: only while half of the budget is free.
    pub(crate) fn spare(budget: &Budget, cells: u32) -> Option<Reservation> {
        budget.reserve_spare(cells).then(|| Reservation { cells, budget: budget.clone() })
    }

    /// Doubles it if there is room to spare.
    pub(crate) fn double(&mut self) -> bool {
        let more = self.budget.reserve_spare(self.cells);
        if more {
            self.cells *= 2;
        }
        more
    }

    /// Gives back what it has beyond so many cells.
    pub(crate) fn shrink_to(&mut self, cells: u32) {
        let unneeded = self.cells.saturating_sub(cells);
        self.cells -= unneeded;
        self.budget.release(unneeded);
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

#[cfg(test)]
mod tests;
