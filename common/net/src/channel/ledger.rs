//! What all channels of a node have done together: those that are open, and those that have ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tunic_proto::channel::{Census, ChannelStats, Inbox, Totals};

/// The counts of a node's channels.
#[derive(Default)]
pub(super) struct Ledger(Mutex<Books>);

#[derive(Default)]
struct Books {
    open: Vec<(Arc<ChannelStats>, Arc<Inbox>)>,
    ended: Totals,
}

impl Ledger {
    /// Counts a channel from now on; when the entry is dropped, what it did stays counted.
    pub(super) fn enter(self: &Arc<Self>, stats: &Arc<ChannelStats>, inbox: &Arc<Inbox>) -> Entry {
        self.books().open.push((Arc::clone(stats), Arc::clone(inbox)));
        Entry { ledger: Arc::clone(self), stats: Arc::clone(stats) }
    }

    /// The sum over all channels.
    pub(super) fn totals(&self) -> Totals {
        let books = self.books();
        let mut sum = books.ended.clone();
        books.open.iter().for_each(|(stats, _)| sum.add(&stats.totals()));
        sum
    }

    /// Of every channel that is open.
    pub(super) fn inboxes(&self) -> Vec<Arc<Inbox>> {
        self.books().open.iter().map(|(_, inbox)| Arc::clone(inbox)).collect()
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
        let place = books.open.iter().position(|(stats, _)| Arc::ptr_eq(stats, &self.stats));
        if let Some(place) = place {
            books.open.swap_remove(place);
        }
        // Its circuits are gone; its cells were sent.
        let mut last = self.stats.totals();
        last.circuits = Census::default();
        books.ended.add(&last);
    }
}
