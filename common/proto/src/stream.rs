//! The application's end of a stream: two bounded byte queues between it and the channel that carries the stream.
//!
//! Everything here is non-blocking and driven by [`std::task::Waker`]s, so the same type serves sockets, the library's
//! users and the simulator. This file has what both sides share and what the channel does with it; the application has a
//! [`StreamIo`].

use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use crate::buffers::{self, ByteQueue};
use crate::cell::CELL_LEN;
use crate::channel::{CircKey, Inbox, Mail};
use crate::flow::Reservation;
use crate::ids::StreamId;
use crate::message::{ConnectedAddr, EndReason};
use crate::sync::lock;

mod io;
mod meter;

pub use io::{StreamEnded, StreamIo};
pub use meter::{StreamMeter, StreamTotals};

/// Bytes that an application can hand over before it has to wait, once its channel has shown that it sends as fast.
pub const SEND_BUFFER_LEN: usize = 128 * 1024;
/// The same at first, in cells' worth of memory.
pub const INITIAL_SEND_CELLS: u32 = 16;
/// Smallest data room of any hop, by which received bytes are counted back into cells.
const LARGEST_MESSAGE: usize = 485;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    Open(ConnectedAddr),
    Ended(EndReason),
}

pub(crate) struct State {
    /// Where the channel keeps the stream; `None` before it knows it and after it forgot it.
    pub(crate) place: Option<(CircKey, StreamId)>,
    phase: Phase,
    accepted: bool,
    received: ByteQueue,
    received_cells: u32,
    /// Cells that [`StreamIo::poll_take`] gave out last: they count as stored until it is called again.
    taken_cells: u32,
    freed_cells: u32,
    received_eof: bool,
    /// Bytes since the beginning, each way.
    total: StreamTotals,
    outgoing: ByteQueue,
    /// The application said something since [`State::rest`] was called last.
    has_spoken: bool,
    /// The application found no room, and has said nothing and not got more since.
    held_back: bool,
    /// What `outgoing` may hold; `None` before the channel knows the stream.
    pub(crate) send_buffer: Option<Reservation>,
    finished: bool,
    ended: Option<EndReason>,
    refused_here: bool,
    notified: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// What both sides of a stream's end share.
pub(crate) struct StreamShared {
    inbox: Arc<Inbox>,
    state: Mutex<State>,
}

/// What the application did since the channel asked last.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wants {
    pub(crate) accepted: Option<ConnectedAddr>,
    pub(crate) freed_cells: u32,
    pub(crate) has_output: bool,
    pub(crate) ended: Option<EndReason>,
}

impl StreamShared {
    pub(crate) fn new(inbox: Arc<Inbox>) -> Arc<StreamShared> {
        let state = State {
            place: None,
            phase: Phase::Opening,
            accepted: false,
            received: ByteQueue::default(),
            received_cells: 0,
            taken_cells: 0,
            freed_cells: 0,
            received_eof: false,
            total: StreamTotals::default(),
            outgoing: ByteQueue::default(),
            has_spoken: false,
            held_back: false,
            send_buffer: None,
            finished: false,
            ended: None,
            refused_here: false,
            notified: false,
            reader: None,
            writer: None,
        };
        Arc::new(StreamShared { inbox, state: Mutex::new(state) })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Tells the channel, once until it has looked, that the application did something.
    fn notify(&self, mut state: MutexGuard<'_, State>) {
        if let (Some((key, id)), false) = (state.place, state.notified) {
            state.notified = true;
            drop(state);
            // A closed channel has ended the stream already or is about to.
            let _ = self.inbox.post(Mail::Stream(key, id));
        }
    }

    pub(crate) fn wants(&self) -> Wants {
        let mut state = self.lock();
        state.notified = false;
        Wants {
            accepted: match (std::mem::take(&mut state.accepted), state.phase) {
                (true, Phase::Open(address)) => Some(address),
                _ => None,
            },
            freed_cells: std::mem::take(&mut state.freed_cells),
            has_output: state.has_output(),
            ended: state.ended,
        }
    }

    /// Hands over what arrived; whether the application was done with all that came before.
    pub(crate) fn deliver(&self, bytes: Vec<u8>, cells: u32) -> bool {
        let mut state = self.lock();
        if state.ended.is_some() {
            state.freed_cells += cells;
            buffers::give(bytes);
            return true;
        }
        state.total.received += bytes.len() as u64;
        let was_done = state.received.is_empty() && state.taken_cells == 0;
        state.received.push_buffer(bytes);
        state.received_cells += cells;
        let waker = state.reader.take();
        drop(state);
        wake(waker);
        was_done
    }

    pub(crate) fn deliver_eof(&self) {
        let mut state = self.lock();
        state.received_eof = true;
        let waker = state.reader.take();
        drop(state);
        wake(waker);
    }

    pub(crate) fn deliver_connected(&self, address: ConnectedAddr) {
        let mut state = self.lock();
        state.phase = Phase::Open(address);
        let waker = state.reader.take();
        drop(state);
        wake(waker);
    }

    /// There is no room for the stream on this side; the other one never heard of it.
    pub(crate) fn refuse_here(&self, reason: EndReason) {
        self.lock().refused_here = true;
        self.deliver_end(reason);
    }

    /// The channel forgets the stream; what had arrived can still be read, unless nobody had accepted it.
    pub(crate) fn deliver_end(&self, reason: EndReason) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Opening) {
            // It may wait for its turn to be accepted, and its window is reserved no more.
            state.received = ByteQueue::default();
            state.received_eof = false;
        }
        if !matches!(state.phase, Phase::Ended(_)) {
            state.phase = Phase::Ended(reason);
        }
        state.place = None;
        state.send_buffer = None;
        state.outgoing = ByteQueue::default();
        let (reader, writer) = (state.reader.take(), state.writer.take());
        drop(state);
        wake(reader);
        wake(writer);
    }
}

impl State {
    pub(crate) fn has_output(&self) -> bool {
        !self.outgoing.is_empty() || self.finished
    }

    /// Gives out the next bytes to send, at most `limit`, with whether more are waiting behind them.
    pub(crate) fn send_chunk(&mut self, limit: usize, emit: impl FnOnce(&[u8], bool)) {
        let waiting = self.outgoing.front();
        let count = waiting.len().min(limit);
        emit(&waiting[..count], count < waiting.len());
        self.outgoing.skip(count);
        self.total.sent += count as u64;
    }

    /// Bytes not sent yet.
    pub(crate) fn unsent(&self) -> usize {
        self.outgoing.len()
    }

    fn append(&mut self, data: &[u8]) {
        self.outgoing.push(data);
        self.has_spoken = true;
        self.held_back = false;
    }

    fn check_open(&self) -> Result<(), StreamEnded> {
        match (self.phase, self.ended) {
            (Phase::Ended(reason), _) | (_, Some(reason)) => Err(StreamEnded(reason)),
            _ if self.finished => Err(StreamEnded(EndReason::Done)),
            _ => Ok(()),
        }
    }

    /// Bytes that there is room for.
    fn room(&self) -> usize {
        self.send_limit().saturating_sub(self.unsent())
    }

    fn send_limit(&self) -> usize {
        self.send_buffer.as_ref().map_or(INITIAL_SEND_CELLS as usize * CELL_LEN, Reservation::bytes)
    }

    /// Bytes that the application has not taken or holds still (at most: those are counted in cells), and the memory of those that have
    /// not gone out, because the peer can leave a few of many there.
    pub(crate) fn stored(&self) -> (usize, usize) {
        let taken = self.taken_cells as usize * LARGEST_MESSAGE;
        (self.received.len() + taken, self.outgoing.capacity())
    }

    /// To be called now and then: few bytes that are left of many move to less memory, and where nothing was said since the last time, the
    /// room for it is what it was at first.
    pub(crate) fn rest(&mut self) {
        self.received.rest();
        self.outgoing.rest();
        let has_spoken = std::mem::take(&mut self.has_spoken);
        if !has_spoken
            && self.unsent() == 0
            && let Some(buffer) = &mut self.send_buffer
        {
            buffer.shrink_to(INITIAL_SEND_CELLS);
        }
    }

    /// Whether everything is sent and the application has no more to say; not where it has thrown away what was left.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished && self.ended.is_none() && self.unsent() == 0
    }

    /// After a run of [`State::send_chunk`]: returns the writer to wake.
    pub(crate) fn after_chunks(&mut self) -> Option<Waker> {
        // Everything is sent before the application, woken or not, is back: more room lets it keep up.
        if self.unsent() == 0
            && std::mem::take(&mut self.held_back)
            && !self.finished
            && self.send_limit() < SEND_BUFFER_LEN
            && let Some(buffer) = &mut self.send_buffer
        {
            buffer.double();
        }
        if self.unsent() < self.send_limit() / 2 { self.writer.take() } else { None }
    }

    /// Counts bytes that the application took back into cells.
    fn free_cells(&mut self) {
        let left = self.received.len().div_ceil(LARGEST_MESSAGE) as u32;
        let freed = self.received_cells.saturating_sub(left);
        self.received_cells -= freed;
        self.freed_cells += freed;
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
