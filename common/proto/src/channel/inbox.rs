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
/// Empty pages that stay allocated for what comes next, until the channel rests: 256 KiB.
const KEPT_PAGES: usize = 8;

/// Places that are freed before others have their turn with the lock.
const FREED_AT_ONCE: usize = 4_096;

/// Storage for queued cells. Grows with what is queued (which credit bounds) and gives each page back when it is empty, so that
/// what stays queued keeps no more than its own pages.
#[derive(Default)]
struct Pool {
    pages: Vec<Page>,
    /// Pages with free places, and some that have none any more.
    open: Vec<u32>,
    /// Pages without storage.
    vacant: Vec<u32>,
    /// Pages with storage and nothing in it.
    empty: usize,
}

#[derive(Default)]
struct Page {
    /// With room for [`PAGE_CELLS`] or for none. Cells that were never used are not there: nothing is cleared before it is written to.
    cells: Vec<Cell>,
    /// One bit for each free place; none without storage.
    free: u64,
    /// It is in the list of pages with free places.
    listed: bool,
}

impl Page {
    fn has_storage(&self) -> bool {
        self.cells.capacity() > 0
    }
}

const ALL_FREE: u64 = u64::MAX;
const _: () = assert!(PAGE_CELLS == u64::BITS as usize);

impl Pool {
    fn store(&mut self, cell: &Cell) -> Slot {
        let index = self.page_with_room();
        let page = &mut self.pages[index as usize];
        let place = page.free.trailing_zeros();
        self.empty -= usize::from(page.free == ALL_FREE);
        page.free &= !(1 << place);
        // Of the free places the first is taken, so that those that are not there come in turn.
        match page.cells.get_mut(place as usize) {
            Some(old) => old.copy_from_slice(cell),
            None => page.cells.extend_from_slice(std::slice::from_ref(cell)),
        }
        index * PAGE_CELLS as u32 + place
    }

    fn page_with_room(&mut self) -> u32 {
        while let Some(&last) = self.open.last() {
            let page = &mut self.pages[last as usize];
            if page.free != 0 {
                return last;
            }
            page.listed = false;
            let is_vacant = !page.has_storage();
            self.open.pop();
            if is_vacant {
                self.vacant.push(last);
            }
        }
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.pages.push(Page::default());
            (self.pages.len() - 1) as u32
        });
        let cells = Vec::with_capacity(PAGE_CELLS);
        self.pages[index as usize] = Page { cells, free: ALL_FREE, listed: true };
        self.open.push(index);
        self.empty += 1;
        index
    }

    fn cell(&self, slot: Slot) -> Option<&Cell> {
        let page = self.pages.get(slot as usize / PAGE_CELLS)?;
        page.cells.get(slot as usize % PAGE_CELLS)
    }

    fn release(&mut self, slot: Slot) {
        let index = slot as usize / PAGE_CELLS;
        let Some(page) = self.pages.get_mut(index) else { return };
        page.free |= 1 << (slot as usize % PAGE_CELLS);
        let is_empty = page.free == ALL_FREE;
        if is_empty && self.empty >= KEPT_PAGES {
            // What is listed is skipped when its turn comes.
            *page = Page { listed: page.listed, ..Page::default() };
            if !page.listed {
                self.vacant.push(index as u32);
            }
            return;
        }
        self.empty += usize::from(is_empty);
        if !page.listed {
            page.listed = true;
            self.open.push(index as u32);
        }
    }

    fn is_empty(&self) -> bool {
        self.pages.iter().all(|page| !page.has_storage() || page.free == ALL_FREE)
    }

    /// Bytes of the pages that cells keep, and of these cells.
    fn kept(&self) -> (usize, usize) {
        let pages = self.pages.iter().filter(|page| page.has_storage() && page.free != ALL_FREE);
        let cells = |page: &Page| page.free.count_zeros() as usize;
        pages.fold((0, 0), |(bytes, used), page| {
            (bytes + PAGE_CELLS * CELL_LEN, used + cells(page) * CELL_LEN)
        })
    }

    fn bytes(&self) -> usize {
        self.pages.iter().filter(|page| page.has_storage()).count() * PAGE_CELLS * CELL_LEN
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
    pub(crate) fn push_cells<'a>(&self, cells: impl Iterator<Item = (CircKey, &'a Cell)>) {
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
            if let Some(cell) = state.pool.cell(slot) {
                out.extend_from_slice(cell);
            }
            state.pool.release(slot);
        }
    }

    /// Frees the places of cells of circuits that are gone.
    pub(crate) fn free(&self, garbage: &mut Vec<Slot>) {
        while !garbage.is_empty() {
            let rest = garbage.len().saturating_sub(FREED_AT_ONCE);
            let mut state = lock(&self.state);
            garbage.drain(rest..).for_each(|slot| state.pool.release(slot));
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

    /// To be called now and then: gives all storage back if nothing is in it.
    pub(crate) fn rest(&self) {
        let mut state = lock(&self.state);
        if state.pool.is_empty() {
            state.pool = Pool::default();
        }
    }

    /// Whether the channel has closed.
    pub fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    /// Bytes of the storage that queued cells keep from being given back, and of these cells.
    pub(super) fn kept_bytes(&self) -> (usize, usize) {
        lock(&self.state).pool.kept()
    }

    /// Bytes that queued cells occupy, free slots included.
    pub fn stored_bytes(&self) -> usize {
        lock(&self.state).pool.bytes()
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
        inbox.push_cells((0..10_000).map(|_| (KEY, &cell)));
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
    fn what_stays_queued_keeps_its_own_pages_only() {
        let mut pool = Pool::default();
        let numbered = |n: usize| {
            let mut cell = [0; CELL_LEN];
            cell[..8].copy_from_slice(&n.to_be_bytes());
            cell
        };
        let slots: Vec<Slot> = (0..64 * 64).map(|n| pool.store(&numbered(n))).collect();
        let kept = [5, 6, 1_000, 4_000];
        let rest = (0..slots.len()).filter(|n| !kept.contains(n));
        rest.for_each(|n| pool.release(slots[n]));
        assert_eq!(pool.bytes(), (3 + KEPT_PAGES) * PAGE_CELLS * CELL_LEN);
        let again: Vec<Slot> = (0..64 * 64).map(|n| pool.store(&numbered(n))).collect();
        for n in kept {
            assert_eq!(pool.cell(slots[n]), Some(&numbered(n)));
        }
        let all: std::collections::HashSet<Slot> =
            again.iter().copied().chain(kept.map(|n| slots[n])).collect();
        assert_eq!(all.len(), 64 * 64 + kept.len(), "a place is taken twice");
        all.iter().for_each(|slot| pool.release(*slot));
        assert_eq!(pool.bytes(), KEPT_PAGES * PAGE_CELLS * CELL_LEN);
        assert!(pool.pages.len() <= 64 + 4 && pool.open.len() <= pool.pages.len());
    }

    #[test]
    fn a_closed_inbox_takes_nothing() {
        let inbox = Inbox::default();
        inbox.close();
        inbox.push_cells(std::iter::once((KEY, &[0; CELL_LEN])));
        assert!(inbox.post(Mail::Destroy(KEY)).is_err());
        assert_eq!(inbox.stored_bytes(), 0);
    }
}
