//! What waits for a core beside the cell path, and who works on it.

use std::sync::Mutex;
use std::time::Duration;

use tunic_proto::limits::{Source, TurnQueue};

use super::node::lock;
use crate::clock;

/// A queue in which neighbours take turns, and so many workers, which end when it is empty.
pub(super) struct Waiting<T> {
    state: Mutex<State<T>>,
    max_workers: usize,
}

struct State<T> {
    queue: TurnQueue<T>,
    workers: usize,
}

impl<T> Waiting<T> {
    /// For as many workers as there are cores, and `most` at the most.
    pub(super) fn new(most: usize) -> Waiting<T> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let max_workers = cores.min(most);
        Waiting { state: Mutex::new(State { queue: TurnQueue::default(), workers: 0 }), max_workers }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        lock(&self.state).queue.len()
    }

    /// Adds one; whether the caller has to start a [`Worker`].
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
}

/// One of those that work, until it finds nothing or is dropped.
pub(super) struct Worker<'a, T> {
    waiting: &'a Waiting<T>,
    is_counted: bool,
}

impl<'a, T> Worker<'a, T> {
    /// The one that [`Waiting::push`] has counted.
    pub(super) fn new(waiting: &'a Waiting<T>) -> Worker<'a, T> {
        Worker { waiting, is_counted: true }
    }

    /// The next one, and how long it has waited; without one, the worker has to end.
    pub(super) fn next(&mut self) -> Option<(T, Duration)> {
        let mut state = lock(&self.waiting.state);
        let next = state.queue.pop(clock::now());
        // Before anybody can add one and count on it.
        if next.is_none() && std::mem::replace(&mut self.is_counted, false) {
            state.workers -= 1;
        }
        next
    }
}

impl<T> Drop for Worker<'_, T> {
    fn drop(&mut self) {
        if self.is_counted {
            lock(&self.waiting.state).workers -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_counts_until_it_finds_nothing_or_is_dropped() {
        let waiting = Waiting::new(1);
        assert!(waiting.push(Source::Unknown, 1));
        let mut worker = Worker::new(&waiting);
        assert!(!waiting.push(Source::Unknown, 2), "there is one");
        assert_eq!(worker.next().map(|(item, _)| item), Some(1));
        // As if it had panicked.
        drop(worker);
        assert!(waiting.push(Source::Unknown, 3));
        let mut worker = Worker::new(&waiting);
        let found: Vec<_> = std::iter::from_fn(|| worker.next()).map(|(item, _)| item).collect();
        assert_eq!(found, [2, 3]);
        assert!(waiting.push(Source::Unknown, 4), "it ends");
        drop(worker);
        assert_eq!((waiting.push(Source::Unknown, 5), waiting.len()), (false, 2));
    }
}
