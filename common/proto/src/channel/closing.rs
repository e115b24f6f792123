//! Circuits that have ended here and whose peer has not said so yet: nothing but their ids.

use std::collections::HashMap;

use crate::ids::CircId;

/// Refused circuits whose `DESTROY` the peer may leave unanswered; with more the channel ends. One that asked for too much has
/// as many under way as fit into a round trip. (Those that were there are within the limit of circuits.)
const MAX_REFUSED: usize = 8_192;

#[derive(Clone, Copy)]
struct Waiting {
    was_refused: bool,
    /// It waited already when [`Closing::grow_old`] was called last.
    is_old: bool,
}

/// The circuits of one channel whose `DESTROY` has gone out and is not answered.
#[derive(Default)]
pub(super) struct Closing {
    ids: HashMap<CircId, Waiting>,
    refused: usize,
}

impl Closing {
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn contains(&self, id: CircId) -> bool {
        self.ids.contains_key(&id)
    }

    pub(super) fn insert(&mut self, id: CircId, was_refused: bool) {
        self.ids.insert(id, Waiting { was_refused, is_old: false });
        self.refused += usize::from(was_refused);
    }

    /// The peer has answered; false if nothing was to be answered.
    pub(super) fn remove(&mut self, id: CircId) -> bool {
        let removed = self.ids.remove(&id);
        self.refused -= usize::from(removed.is_some_and(|waiting| waiting.was_refused));
        removed.is_some()
    }

    /// Whether the peer lets more circuits be refused than it answers.
    pub(super) fn has_too_many_refused(&self) -> bool {
        self.refused > MAX_REFUSED
    }

    /// To be called now and then; true if one has waited since the last time.
    pub(super) fn grow_old(&mut self) -> bool {
        let mut was_old = false;
        for waiting in self.ids.values_mut() {
            was_old |= std::mem::replace(&mut waiting.is_old, true);
        }
        self.ids.shrink_to_fit();
        was_old
    }
}
