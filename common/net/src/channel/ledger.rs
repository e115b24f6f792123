//! What all channels of a node have done together: those that are open, and those that have ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tunic_proto::channel::{Census, ChannelStats, Inbox, Totals};

/// The counts of a node's channels.
#[derive(Default)]
pub(super) struct Ledger(Mutex<Books>);

#[derive(Default)]
struct Books {
    open: Vec<Open>,
    ended: Totals,
    /// Channels so far.
    entered: u64,
}

struct Open {
    number: u64,
    is_relay: bool,
    stats: Arc<ChannelStats>,
    inbox: Arc<Inbox>,
}

/// One open channel, without a word on who is at its other end or where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelFigures {
    /// Which one since the start of the node.
    pub number: u64,
    /// Whether the neighbour proved an identity, as relays and authorities do and clients do not.
    pub is_relay: bool,
    /// What it did so far.
    pub totals: Totals,
    /// Bytes of the cells that wait to be sent, and of the room that is kept for them.
    pub queued_bytes: usize,
}

impl Ledger {
    /// Counts a channel from now on; when the entry is dropped, what it did stays counted.
    pub(super) fn enter(
        self: &Arc<Self>,
        stats: &Arc<ChannelStats>,
        inbox: &Arc<Inbox>,
        is_relay: bool,
    ) -> Entry {
        let mut books = self.books();
        books.entered += 1;
        let number = books.entered;
        books.open.push(Open { number, is_relay, stats: Arc::clone(stats), inbox: Arc::clone(inbox) });
        Entry { ledger: Arc::clone(self), stats: Arc::clone(stats) }
    }

    /// The open channels one by one, in no order.
    pub(super) fn channels(&self) -> Vec<ChannelFigures> {
        let figures = |open: &Open| ChannelFigures {
            number: open.number,
            is_relay: open.is_relay,
            totals: open.stats.totals(),
            queued_bytes: open.inbox.stored_bytes(),
        };
        self.books().open.iter().map(figures).collect()
    }

    /// The sum over all channels.
    pub(super) fn totals(&self) -> Totals {
        let books = self.books();
        let mut sum = books.ended.clone();
        books.open.iter().for_each(|open| sum.add(&open.stats.totals()));
        sum
    }

    /// Of every channel that is open.
    pub(super) fn inboxes(&self) -> Vec<Arc<Inbox>> {
        self.books().open.iter().map(|open| Arc::clone(&open.inbox)).collect()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one channel in the ledger.
pub(super) struct Entry {
    ledger: Arc<Ledger>,
    stats: Arc<ChannelStats>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut books = self.ledger.books();
        let place = books.open.iter().position(|open| Arc::ptr_eq(&open.stats, &self.stats));
        if let Some(place) = place {
            books.open.swap_remove(place);
        }
        // Its circuits are gone; its cells were sent.
        let mut last = self.stats.totals();
        last.circuits = Census::default();
        books.ended.add(&last);
    }
}
