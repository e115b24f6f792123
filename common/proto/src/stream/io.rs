//! What the application does with its end of a stream.

use std::fmt;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, Waker, ready};

use super::{Phase, State, StreamMeter, StreamShared, StreamTotals};
use crate::buffers::ByteQueue;
use crate::channel::CircKey;
use crate::flow::{INITIAL_CELLS, Reservation};
use crate::message::{ConnectedAddr, EndReason};

/// Cells that the application took which are worth telling the channel: a quarter of the smallest window.
const FREED_CELLS: u32 = INITIAL_CELLS / 4;

/// The stream ended before it was finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream ended: {0}")]
pub struct StreamEnded(pub EndReason);

/// One end of a stream. Dropping it before both directions have ended resets the stream.
pub struct StreamIo(pub(crate) Arc<StreamShared>);

impl StreamIo {
    /// The circuit that carries it, as its channel names it; `None` before the channel knows the stream and after.
    pub fn circuit(&self) -> Option<CircKey> {
        self.0.lock().place.map(|(circuit, _)| circuit)
    }

    /// Ready when the other end has accepted (with the address it reached) or refused.
    pub fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<Result<ConnectedAddr, StreamEnded>> {
        let mut state = self.0.lock();
        match state.phase {
            Phase::Open(address) => Poll::Ready(Ok(address)),
            Phase::Ended(reason) => Poll::Ready(Err(StreamEnded(reason))),
            Phase::Opening => park(&mut state.reader, cx),
        }
    }

    /// Whether it was refused on this side: the other one never heard of it.
    pub fn is_refused_here(&self) -> bool {
        self.0.lock().refused_here
    }

    /// What the stream has moved so far.
    pub fn totals(&self) -> StreamTotals {
        self.0.lock().total
    }

    /// Reads the same from elsewhere.
    pub fn meter(&self) -> StreamMeter {
        StreamMeter::new(&self.0)
    }

    /// Accepts a stream that the peer began.
    pub fn accept(&self, address: ConnectedAddr) {
        let mut state = self.0.lock();
        if state.phase == Phase::Opening {
            state.phase = Phase::Open(address);
            state.accepted = true;
            self.0.notify(state);
        }
    }

    /// Takes everything that arrived; `Ok(None)` is the end of the stream. Call it again when the bytes are used: only then
    /// their place is granted to the peer again. [`give`](crate::buffers::give) the buffer back.
    ///
    /// # Errors
    /// [`StreamEnded`] if the stream broke off before its end.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Vec<u8>>, StreamEnded>> {
        let mut state = self.0.lock();
        state.freed_cells += std::mem::take(&mut state.taken_cells);
        if state.received.is_empty() {
            let end = Self::poll_end(&mut state, cx).map_ok(|()| None);
            self.tell_freed(state);
            return end;
        }
        let taken = state.received.take();
        state.taken_cells = std::mem::take(&mut state.received_cells);
        self.tell_freed(state);
        Poll::Ready(Ok(Some(taken)))
    }

    /// Reads into `buffer`; `Ok(0)` is the end of the stream.
    ///
    /// # Errors
    /// [`StreamEnded`] if the stream broke off before its end.
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, StreamEnded>> {
        let mut state = self.0.lock();
        if state.received.is_empty() {
            return Self::poll_end(&mut state, cx).map_ok(|()| 0);
        }
        let unread = state.received.front();
        let length = buffer.len().min(unread.len());
        buffer[..length].copy_from_slice(&unread[..length]);
        state.received.skip(length);
        state.free_cells();
        self.tell_freed(state);
        Poll::Ready(Ok(length))
    }

    fn tell_freed(&self, state: MutexGuard<'_, State>) {
        if state.freed_cells >= FREED_CELLS {
            self.0.notify(state);
        }
    }

    fn poll_end(state: &mut State, cx: &mut Context<'_>) -> Poll<Result<(), StreamEnded>> {
        match (state.received_eof, state.phase) {
            (true, _) => Poll::Ready(Ok(())),
            (false, Phase::Ended(reason)) => Poll::Ready(Err(StreamEnded(reason))),
            (false, _) => park(&mut state.reader, cx),
        }
    }

    /// Ready with the number of bytes, at least one, that [`StreamIo::poll_write`] would take.
    ///
    /// # Errors
    /// As [`StreamIo::poll_write`].
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<Result<usize, StreamEnded>> {
        let mut state = self.0.lock();
        Self::room(&mut state, cx)
    }

    fn room(state: &mut State, cx: &mut Context<'_>) -> Poll<Result<usize, StreamEnded>> {
        state.check_open()?;
        match state.room() {
            0 => {
                state.held_back = true;
                park(&mut state.writer, cx)
            }
            room => Poll::Ready(Ok(room)),
        }
    }

    /// Takes bytes to send, as many as there is room for: it may have become less since [`StreamIo::poll_room`].
    ///
    /// # Errors
    /// [`StreamEnded`] once the stream has ended or [`StreamIo::finish`] was called.
    pub fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, StreamEnded>> {
        let mut state = self.0.lock();
        let room = ready!(Self::room(&mut state, cx))?.min(data.len());
        state.append(&data[..room]);
        self.0.notify(state);
        Poll::Ready(Ok(room))
    }

    /// Takes all of these bytes, or none if there is no room or more than `most` would wait then, and never waits. False: they were not
    /// taken. Gets more memory where that makes room.
    ///
    /// # Errors
    /// As [`StreamIo::poll_write`].
    pub fn try_write_whole(&self, data: &[u8], most: usize) -> Result<bool, StreamEnded> {
        let mut state = self.0.lock();
        state.check_open()?;
        if state.unsent() + data.len() > most {
            return Ok(false);
        }
        while state.room() < data.len() {
            if !state.send_buffer.as_mut().is_some_and(Reservation::double) {
                return Ok(false);
            }
        }
        state.append(data);
        self.0.notify(state);
        Ok(true)
    }

    /// Says that no more bytes will be written (half-close).
    pub fn finish(&self) {
        let mut state = self.0.lock();
        if !state.finished {
            state.finished = true;
            self.0.notify(state);
        }
    }

    /// Ends the stream in both directions at once.
    pub fn end(&self, reason: EndReason) {
        let mut state = self.0.lock();
        if state.ended.is_none() {
            state.ended = Some(reason);
            state.received = ByteQueue::default();
            state.outgoing = ByteQueue::default();
            state.freed_cells += std::mem::take(&mut state.received_cells);
            state.freed_cells += std::mem::take(&mut state.taken_cells);
            self.0.notify(state);
        }
    }

    /// Ready when the stream has ended in both directions, as far as this side is concerned, with the reason.
    pub fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<EndReason> {
        let mut state = self.0.lock();
        match state.phase {
            Phase::Ended(reason) => Poll::Ready(reason),
            _ => park(&mut state.reader, cx),
        }
    }

    /// Why the stream ended, once it has.
    pub fn end_reason(&self) -> Option<EndReason> {
        match self.0.lock().phase {
            Phase::Ended(reason) => Some(reason),
            _ => None,
        }
    }
}

fn park<T>(place: &mut Option<Waker>, cx: &Context<'_>) -> Poll<T> {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        none => *none = Some(cx.waker().clone()),
    }
    Poll::Pending
}

impl Drop for StreamIo {
    fn drop(&mut self) {
        let finished = {
            let state = self.0.lock();
            (state.finished && state.received_eof) || matches!(state.phase, Phase::Ended(_))
        };
        if !finished {
            self.end(EndReason::Reset);
        }
    }
}

impl fmt::Debug for StreamIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamIo")
    }
}
