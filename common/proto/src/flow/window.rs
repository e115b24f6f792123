//! What a receiver lets its peer send, and how much of it is where.

use std::time::Instant;

use super::path::{PathRtt, Span};
use super::rounds::Rounds;
use super::{Budget, CreditError, IDLE_CELLS, INITIAL_CELLS, OPEN_CELLS};

/// Fewer cells are not worth a grant.
const LEAST_GRANT: u32 = INITIAL_CELLS / 4;
/// Where grants are to be few, each is this part of the window at least.
const LARGE_PARTS: u32 = 2;
/// With more than this part of the window in its queue a receiver is the limit, and the window does not grow; with more than that, it
/// shrinks to what passes.
const MUCH_PARTS: u32 = 4;
const LITTLE_PARTS: u32 = 8;
/// A window that is not used keeps this part of it reserved at least.
const IDLE_PARTS: u32 = 4;

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
    /// Cells that arrived, ever.
    arrived: u64,
    /// What the window should be, by [`Rounds`].
    goal: u32,
    /// Grants are to be few.
    seldom: bool,
    rounds: Rounds,
    /// Of the budget. Zero: what arrives is dropped.
    reserved: u32,
    /// What it keeps of that while it is not used.
    idle: u32,
    /// A cell arrived since [`RecvWindow::rest`] was called last.
    is_used: bool,
    budget: Budget,
}

impl RecvWindow {
    /// The initial window without a reservation, for a stream that is being refused: what arrives is dropped.
    pub fn unreserved(budget: &Budget, path: &PathRtt) -> RecvWindow {
        RecvWindow {
            window: INITIAL_CELLS,
            outstanding: INITIAL_CELLS,
            queued: 0,
            owed: 0,
            arrived: 0,
            goal: INITIAL_CELLS,
            seldom: false,
            rounds: Rounds::new(path.span()),
            reserved: 0,
            idle: match path.span() {
                Span::Hop => IDLE_CELLS,
                Span::EndToEnd => INITIAL_CELLS,
            },
            is_used: false,
            budget: budget.clone(),
        }
    }

    /// The initial window, a circuit's in part and a stream's as a whole reserved in the budget; `None` if it has no room.
    pub fn new(budget: &Budget, path: &PathRtt) -> Option<RecvWindow> {
        let mut window = RecvWindow::unreserved(budget, path);
        window.reserved = window.idle;
        // Dropped, it would give back what it did not get.
        if !budget.reserve(window.idle) {
            window.reserved = 0;
            return None;
        }
        Some(window)
    }

    /// A cell arrived over `path`; `held_up` says that its sender has no credit left and more to send.
    ///
    /// # Errors
    /// [`CreditError`] if it had none to begin with.
    pub fn received(&mut self, now: Instant, held_up: bool, path: &mut PathRtt) -> Result<(), CreditError> {
        self.outstanding = self.outstanding.checked_sub(1).ok_or(CreditError)?;
        self.queued += 1;
        if self.queued > self.reserved {
            self.back();
        }
        self.is_used = true;
        let keeps_up = self.queued * LITTLE_PARTS <= self.window;
        if let Some(goal) = self.rounds.arrived(now, self.arrived, held_up, self.window, keeps_up, path) {
            self.goal = goal;
        }
        self.arrived += 1;
        Ok(())
    }

    /// More is queued than was kept for an idle window. Reserves twice as much, so that it follows what is queued, not what the
    /// sender was granted once.
    #[cold]
    fn back(&mut self) {
        if self.reserved > 0 {
            let more = self.reserved.max(self.spared()).min(self.window - self.reserved);
            self.budget.reserve_promised(more);
            self.reserved += more;
        }
    }

    /// To be called now and then: what was not used since the last time keeps no more reserved than is queued, than an idle
    /// one does, or than a quarter of what its sender was granted.
    pub fn rest(&mut self) {
        if !std::mem::take(&mut self.is_used) {
            self.release_beyond(self.idle.max(self.queued).max(self.window / IDLE_PARTS));
        }
    }

    fn release_beyond(&mut self, cells: u32) {
        let unneeded = self.reserved.saturating_sub(cells);
        self.reserved -= unneeded;
        self.budget.release(unneeded);
    }

    /// So many cells left the queue.
    pub fn consumed(&mut self, cells: u32) {
        let cells = cells.min(self.queued);
        self.queued -= cells;
        self.owed += cells;
    }

    /// Fewer and larger grants from now on, for cells that come at a steady rate.
    pub fn grant_seldom(&mut self) {
        self.seldom = true;
    }

    /// For a stream whose answer may be long: grants what makes it [`OPEN_CELLS`] at once, so that the beginning of the answer need not
    /// wait for credit, while most of the budget is free.
    pub fn open(&mut self, now: Instant) -> Option<u32> {
        let more = OPEN_CELLS.saturating_sub(self.window);
        if more == 0 || self.reserved == 0 || !self.budget.reserve_plenty(more) {
            return None;
        }
        self.rounds.granted(now, self.arrived + u64::from(self.outstanding), self.window);
        self.goal = self.goal.max(OPEN_CELLS);
        self.reserved += more;
        self.window += more;
        self.outstanding += more;
        Some(more)
    }

    /// What to grant now: nothing until so much is owed that grants stay few: a part of the window, or on a hop's link a burst.
    ///
    /// Brings the window nearer to what it should be. It grows only where hardly anything queues: otherwise the reader is the
    /// limit, and more window would only store more. It shrinks by granting less, half as much at least,
    /// and grows by granting more, twice as much at most: cells come in no large bursts. One that gave back what it had is used
    /// again here: without room for all of it, it shrinks to what it has.
    pub fn poll_grant(&mut self, now: Instant) -> Option<u32> {
        if self.owed < self.least_grant() {
            return None;
        }
        let first = self.arrived + u64::from(self.outstanding);
        let keeps_up = self.queued * MUCH_PARTS <= self.window;
        let goal = if self.is_backed() { self.goal } else { self.reserved + self.spared() };
        if goal < self.window {
            self.shrink((self.window - goal).min(self.owed / 2));
        }
        let again = std::mem::take(&mut self.owed);
        self.rounds.granted(now, first, self.window);
        let more = goal.saturating_sub(self.window).min(again.max(INITIAL_CELLS));
        let grows = more > 0 && keeps_up && self.reserved > 0 && self.budget.reserve_spare(more);
        let more = if grows { more } else { 0 };
        self.reserved += more;
        self.window += more;
        self.outstanding += again + more;
        Some(again + more)
    }

    fn least_grant(&self) -> u32 {
        let cells =
            if self.seldom { self.window / LARGE_PARTS } else { self.rounds.least_grant(self.window) };
        cells.max(LEAST_GRANT)
    }

    fn shrink(&mut self, cells: u32) {
        self.owed -= cells;
        self.window -= cells;
        self.release_beyond(self.window);
    }

    /// Whether what it was granted beyond its first cells is reserved, or can be.
    fn is_backed(&mut self) -> bool {
        let lacks = (self.window - self.spared()).saturating_sub(self.reserved);
        if lacks == 0 || self.reserved == 0 {
            return true;
        }
        let has_room = self.budget.reserve_spare(lacks);
        self.reserved += if has_room { lacks } else { 0 };
        has_room
    }

    /// How many of its first cells need no reservation until they are queued.
    fn spared(&self) -> u32 {
        INITIAL_CELLS - self.idle
    }

    /// Gives the reservation back: from now on what arrives is dropped.
    pub fn give_back(&mut self) {
        self.budget.release(std::mem::take(&mut self.reserved));
    }

    /// Cells that are reserved for it.
    pub fn reserved_cells(&self) -> u32 {
        self.reserved
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
