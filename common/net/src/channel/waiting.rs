//! What waits for a core beside the cell path, and who works on it.

use std::sync::Mutex;
use std::time::Duration;

use tunic_proto::limits::{Source, TurnQueue};

use super::node::lock;
use crate::clock;

/// A queue in which neighbours take turns, and as many workers as there are cores, which end when it is empty.
pub(super) struct Waiting<T> {
    state: Mutex<State<T>>,
    max_workers: usize,
}

struct State<T> {
    queue: TurnQueue<T>,
    workers: usize,
}

impl<T> Waiting<T> {
    pub(super) fn new() -> Waiting<T> {
        let max_workers = std::thread::available_parallelism().map_or(1, Into::into);
        Waiting { state: Mutex::new(State { queue: TurnQueue::default(), workers: 0 }), max_workers }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        lock(&self.state).queue.len()
    }

    /// Adds one; whether the caller has to start a worker.
    pub(super) fn push(&self, source: Source, item: T) -> bool {
        let mut state = lock(&self.state);
        state.queue.push(clock::now(), source, item);
        let starts = state.workers < self.max_workers;
        state.workers += usize::from(starts);
        starts
    }

    /// The one that is given up where more than `limit` wait.
    pub(super) fn give_up_beyond(&self, limit: usize) -> Option<T> {
        lock(&self.state).queue.give_up_beyond(limit)
    }

    /// The next one, and how long it has waited; without one, the worker that asks has to end.
    pub(super) fn next(&self) -> Option<(T, Duration)> {
        let mut state = lock(&self.state);
        let next = state.queue.pop(clock::now());
        if next.is_none() {
            state.workers -= 1;
        }
        next
    }
}
