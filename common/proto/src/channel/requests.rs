//! Circuits that the peer has begun to ask for: what there is of their `CREATE`.
//!
//! They are in no table and hold nothing of the budget: whoever sends first cells only gets no further than this list.

use std::collections::VecDeque;
use std::time::Instant;

use super::{CREATE_TIMEOUT, ChannelError};
use crate::cell::Command;
use crate::crypto::fragment::{CREATE_LEN, Create};
use crate::ids::CircId;

/// Circuits whose `CREATE` may be under way at a time; with more the channel ends. An honest peer writes one after the other.
const MAX_REQUESTS: usize = 64;

struct Request {
    until: Instant,
    id: CircId,
    fragments: Create,
}

/// The circuits of one channel that are being asked for, oldest first.
#[derive(Default)]
pub(super) struct Requests(VecDeque<Request>);

impl Requests {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes a cell of `CREATE`; gives the message when it was the last one, and forgets it.
    ///
    /// # Errors
    /// [`ChannelError::State`] for a cell that does not come next, [`ChannelError::NotReading`] with too many under way.
    pub(super) fn push(
        &mut self,
        now: Instant,
        id: CircId,
        payload: &[u8],
    ) -> Result<Option<Box<[u8; CREATE_LEN]>>, ChannelError> {
        let place = match self.place(id) {
            Some(place) => place,
            None if self.0.len() >= MAX_REQUESTS => return Err(ChannelError::NotReading),
            None => {
                self.0.push_back(Request { until: now + CREATE_TIMEOUT, id, fragments: Create::new() });
                self.0.len() - 1
            }
        };
        let illegal = ChannelError::State(Command::Create);
        let message = self.0[place].fragments.push(payload).map_err(|_| illegal)?;
        if message.is_some() {
            self.0.remove(place);
        }
        Ok(message)
    }

    /// Forgets a circuit; false if it is not being asked for.
    pub(super) fn remove(&mut self, id: CircId) -> bool {
        self.place(id).is_some_and(|place| self.0.remove(place).is_some())
    }

    /// When the oldest will have taken too long.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.0.front().map(|request| request.until)
    }

    /// One that has taken too long, taken out.
    pub(super) fn take_late(&mut self, now: Instant) -> Option<CircId> {
        self.0.pop_front_if(|request| request.until <= now).map(|request| request.id)
    }

    fn place(&self, id: CircId) -> Option<usize> {
        self.0.iter().position(|request| request.id == id)
    }
}
