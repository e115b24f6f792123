//! What a stream has moved.

use std::sync::{Arc, Weak};

use super::StreamShared;

/// Bytes of an application that a stream has moved since it was begun.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamTotals {
    /// Put into cells. Whether these reached the other end is not known here.
    pub sent: u64,
    /// Arrived from the other end.
    pub received: u64,
}

/// Reads the totals of a stream that somebody else has.
#[derive(Clone)]
pub struct StreamMeter(Weak<StreamShared>);

impl StreamMeter {
    pub(super) fn new(stream: &Arc<StreamShared>) -> StreamMeter {
        StreamMeter(Arc::downgrade(stream))
    }

    /// The totals; `None` once the stream is gone.
    pub fn totals(&self) -> Option<StreamTotals> {
        Some(self.0.upgrade()?.lock().total)
    }

    /// Bytes that the application has said and that have not gone out; 0 once the stream is gone.
    pub fn unsent(&self) -> usize {
        self.0.upgrade().map_or(0, |shared| shared.lock().unsent())
    }
}
