//! Who can act now: wakers put tasks in line.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use super::link::EndId;

/// Something that acts when it is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    End(EndId),
    App(usize),
}

/// The line of tasks that can act, each at most once.
#[derive(Debug, Clone, Default)]
pub(super) struct Ready(Arc<Mutex<VecDeque<Task>>>);

impl Ready {
    pub(super) fn push(&self, task: Task) {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !line.contains(&task) {
            line.push_back(task);
        }
    }

    pub(super) fn pop(&self) -> Option<Task> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(super) fn waker(&self, task: Task) -> Waker {
        Waker::from(Arc::new(TaskWaker { ready: self.clone(), task }))
    }
}

struct TaskWaker {
    ready: Ready,
    task: Task,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.push(self.task);
    }
}
