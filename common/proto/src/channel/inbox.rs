//! The one place of a channel that others may touch: cells to send and requests, behind one lock.
//!
//! The task that owns a channel takes everything at once; others add whole batches. Both hold the lock for copies
//! only, never for cryptography.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::mail::Mail;
use crate::cell::{CELL_LEN, Cell};
use crate::sync::lock;

/// Names a circuit in the table of its channel; stale after the circuit is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CircKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Where a cell of an [`Inbox`] is stored.
pub(crate) type Slot = u32;

const PAGE_CELLS: usize = 64;
/// Pages that stay allocated when nothing is queued: 128 KiB.
const KEPT_PAGES: usize = 4;

/// Storage for queued cells. Grows with what is queued (which credit bounds) and shrinks when it has drained.
#[derive(Default)]
struct Pool {
    pages: Vec<Box<[Cell; PAGE_CELLS]>>,
    free: Vec<Slot>,
}

impl Pool {
    fn store(&mut self, cell: &[u8]) -> Slot {
        if self.free.is_empty() {
            let first = self.pages.len() * PAGE_CELLS;
            self.pages.push(Box::new([[0; CELL_LEN]; PAGE_CELLS]));
            self.free.extend((first..first + PAGE_CELLS).rev().map(|slot| slot as Slot));
        }
        let slot = self.free.pop().unwrap_or_default();
        self.cell_mut(slot).copy_from_slice(cell);
        slot
    }

    fn cell_mut(&mut self, slot: Slot) -> &mut Cell {
        &mut self.pages[slot as usize / PAGE_CELLS][slot as usize % PAGE_CELLS]
    }

    fn release(&mut self, slot: Slot) {
        self.free.push(slot);
        if self.free.len() == self.pages.len() * PAGE_CELLS && self.pages.len() > KEPT_PAGES {
            self.pages.truncate(KEPT_PAGES);
            self.free = (0..KEPT_PAGES * PAGE_CELLS).rev().map(|slot| slot as Slot).collect();
        }
    }
}

#[derive(Default)]
struct State {
    closed: bool,
    /// Something came in since the owner looked.
    pending: bool,
    waker: Option<Waker>,
    pool: Pool,
    arrivals: Vec<(CircKey, Slot)>,
    mail: Vec<Mail>,
}

/// The shared part of a channel.
#[derive(Default)]
pub struct Inbox {
    state: Mutex<State>,
}

impl Inbox {
    pub(crate) fn new() -> Arc<Inbox> {
        Arc::default()
    }

    /// Adds cells to send, each for a circuit of this channel, header included.
    ///
    /// After the channel has closed they are dropped: its circuits are being told.
    pub(crate) fn push_cells<'a>(&self, cells: impl Iterator<Item = (CircKey, &'a [u8])>) {
        let waker = {
            let mut state = lock(&self.state);
            if state.closed {
                return;
            }
            for (key, cell) in cells {
                let slot = state.pool.store(cell);
                state.arrivals.push((key, slot));
            }
            state.rouse()
        };
        wake(waker);
    }

    /// Adds a request; gives it back if the channel has closed.
    pub(crate) fn post(&self, mail: Mail) -> Result<(), Mail> {
        let waker = {
            let mut state = lock(&self.state);
            if state.closed {
                return Err(mail);
            }
            state.mail.push(mail);
            state.rouse()
        };
        wake(waker);
        Ok(())
    }

    /// Swaps what came in for the caller's (empty) lists.
    pub(crate) fn take(&self, arrivals: &mut Vec<(CircKey, Slot)>, mail: &mut Vec<Mail>) {
        let mut state = lock(&self.state);
        state.pending = false;
        std::mem::swap(&mut state.arrivals, arrivals);
        std::mem::swap(&mut state.mail, mail);
    }

    /// Appends stored cells to `out` and frees their places.
    pub(crate) fn unload(&self, slots: impl Iterator<Item = Slot>, out: &mut Vec<u8>) {
        let mut state = lock(&self.state);
        for slot in slots {
            out.extend_from_slice(state.pool.cell_mut(slot));
            state.pool.release(slot);
        }
    }

    /// Frees the places of cells of circuits that are gone.
    pub(crate) fn free(&self, garbage: &mut Vec<Slot>) {
        if !garbage.is_empty() {
            let mut state = lock(&self.state);
            garbage.drain(..).for_each(|slot| state.pool.release(slot));
        }
    }

    /// Ready when something came in; otherwise the task is woken when it does.
    pub fn poll_pending(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.pending {
            return Poll::Ready(());
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Refuses everything from now on, and returns the requests that were not taken yet.
    pub(crate) fn close(&self) -> Vec<Mail> {
        let mut state = lock(&self.state);
        state.closed = true;
        state.pool = Pool::default();
        state.arrivals = Vec::new();
        std::mem::take(&mut state.mail)
    }

    /// Whether the channel has closed.
    pub fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    /// Bytes that queued cells occupy, free slots included.
    pub fn stored_bytes(&self) -> usize {
        lock(&self.state).pool.pages.len() * PAGE_CELLS * CELL_LEN
    }
}

impl State {
    fn rouse(&mut self) -> Option<Waker> {
        self.pending = true;
        self.waker.take()
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: CircKey = CircKey { index: 1, generation: 1 };

    #[test]
    fn storage_shrinks_when_it_has_drained() {
        let inbox = Inbox::default();
        let cell = [7; CELL_LEN];
        inbox.push_cells((0..10_000).map(|_| (KEY, &cell[..])));
        assert!(inbox.stored_bytes() >= 10_000 * CELL_LEN);
        let (mut arrivals, mut mail) = (vec![], vec![]);
        inbox.take(&mut arrivals, &mut mail);
        assert_eq!(arrivals.len(), 10_000);
        let mut out = Vec::new();
        let mut garbage: Vec<_> = arrivals.iter().skip(1).map(|(_, slot)| *slot).collect();
        inbox.unload(std::iter::once(arrivals[0].1), &mut out);
        inbox.free(&mut garbage);
        assert_eq!(out, cell);
        assert_eq!(inbox.stored_bytes(), KEPT_PAGES * PAGE_CELLS * CELL_LEN);
    }

    #[test]
    fn a_closed_inbox_takes_nothing() {
        let inbox = Inbox::default();
        inbox.close();
        inbox.push_cells(std::iter::once((KEY, &[0; CELL_LEN][..])));
        assert!(inbox.post(Mail::Destroy(KEY)).is_err());
        assert_eq!(inbox.stored_bytes(), 0);
    }
}
