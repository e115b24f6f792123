//! The streams of one end of a circuit (docs/protocol.md §6.3–6.6 and §7.2), the same at client and relay.
//!
//! 1. The client begins a stream; `DATA` may follow at once, up to the initial window.
//! 2. The relay answers `CONNECTED` or `END`.
//! 3. The direction that ends first does so with `EOF`, the other one with `END`; where both have said `EOF` the client sends `END`. Either
//!    side may send `END` earlier.
//! 4. The stream is gone when one `END` has gone each way.

mod sending;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{MAX_STREAMS, Violation};
use crate::buffers;
use crate::channel::CircKey;
use crate::flow::{Budget, PathRtt, RecvWindow, Reservation, SendCredit};
use crate::ids::StreamId;
use crate::message::{self, Begin, Code, ConnectedAddr, EndReason, StreamMessage};
use crate::stream::{INITIAL_SEND_CELLS, StreamShared};

/// Messages besides data that may wait. An honest peer cannot cause more than three for each stream.
const MAX_CONTROL: usize = 4 * MAX_STREAMS;

/// Which end of the circuit this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Relay,
}

/// A message that is not data.
type Control = (Code, StreamId, Vec<u8>);

struct Stream {
    io: Arc<StreamShared>,
    credit: SendCredit,
    window: RecvWindow,
    /// Bytes that arrived in this batch, handed over at its end.
    staged: Vec<u8>,
    staged_cells: u32,
    /// When the first of them arrived.
    staged_at: Option<Instant>,
    /// When the application was given something to take, or was done with some of it last.
    inward_since: Option<Instant>,
    /// When it had something to send, or some of it went last.
    outward_since: Option<Instant>,
    /// Cells granted and not told yet; a `WINDOW` is in the queue while this is not zero.
    granted: u32,
    connected: bool,
    sent_eof: bool,
    received_eof: bool,
    sent_end: bool,
    ready: bool,
}

/// What a stream may store: what arrives, and what its application hands over.
struct Memory {
    window: RecvWindow,
    send_buffer: Option<Reservation>,
}

/// The streams of one end.
pub(crate) struct Streams {
    side: Side,
    budget: Budget,
    /// To the other end of the circuit.
    rtt: PathRtt,
    streams: HashMap<StreamId, Stream>,
    next_id: u16,
    /// Messages that go before data, at most about [`MAX_CONTROL`].
    control: VecDeque<Control>,
    /// Streams with data and credit, in turn.
    ready: VecDeque<StreamId>,
    /// Streams with staged bytes.
    staged: Vec<StreamId>,
    gone: usize,
}

impl Streams {
    pub(crate) fn new(side: Side, budget: Budget) -> Streams {
        Streams {
            side,
            budget,
            rtt: PathRtt::end_to_end(),
            streams: HashMap::new(),
            next_id: 1,
            control: VecDeque::new(),
            ready: VecDeque::new(),
            staged: Vec::new(),
            gone: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Streams that are gone since this was asked last.
    pub(crate) fn take_gone(&mut self) -> usize {
        std::mem::take(&mut self.gone)
    }

    fn reserve(&self) -> Option<Memory> {
        let send_buffer = Reservation::new(&self.budget, INITIAL_SEND_CELLS);
        Some(Memory { window: RecvWindow::new(&self.budget, &self.rtt)?, send_buffer: Some(send_buffer?) })
    }

    /// The id is free.
    fn insert(&mut self, id: StreamId, io: Arc<StreamShared>, place: CircKey, memory: Memory) -> &mut Stream {
        {
            let mut state = io.lock();
            state.place = Some((place, id));
            state.send_buffer = memory.send_buffer;
        }
        let stream = Stream {
            io,
            credit: SendCredit::new(),
            window: memory.window,
            staged: Vec::new(),
            staged_cells: 0,
            staged_at: None,
            inward_since: None,
            outward_since: None,
            granted: 0,
            connected: self.side == Side::Relay,
            sent_eof: false,
            received_eof: false,
            sent_end: false,
            ready: false,
        };
        self.streams.entry(id).insert_entry(stream).into_mut()
    }

    /// Client: begins a stream.
    pub(crate) fn begin(&mut self, now: Instant, io: Arc<StreamShared>, place: CircKey, begin: &Begin) {
        match self.prepare_begin(begin) {
            Ok((code, data, memory)) => {
                let id = self.free_id();
                self.insert(id, io, place, memory);
                self.control.push_back((code, id, data));
                if let (Begin::Connect(_), Some(stream)) = (begin, self.streams.get_mut(&id))
                    && let Some(cells) = stream.window.open(now)
                {
                    stream.grant(id, cells, &mut self.control);
                }
                self.notified(now, id);
            }
            Err(reason) => {
                self.gone += 1;
                io.refuse_here(reason);
            }
        }
    }

    fn prepare_begin(&self, begin: &Begin) -> Result<(Code, Vec<u8>, Memory), EndReason> {
        let (code, data) = begin.encode().ok_or(EndReason::NameNotFound)?;
        if self.streams.len() >= MAX_STREAMS {
            return Err(EndReason::Resources);
        }
        let memory = self.reserve().ok_or(EndReason::Resources)?;
        Ok((code, data, memory))
    }

    /// An id that no stream has. There is one: ids are many more than [`MAX_STREAMS`].
    fn free_id(&mut self) -> StreamId {
        loop {
            let id = StreamId(self.next_id);
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            if !self.streams.contains_key(&id) {
                return id;
            }
        }
    }

    /// Relay: a stream was begun. `Ok(false)` if it is refused at once for want of memory.
    pub(crate) fn begun(
        &mut self,
        id: StreamId,
        io: Arc<StreamShared>,
        place: CircKey,
    ) -> Result<bool, Violation> {
        if self.streams.contains_key(&id)
            || self.streams.len() >= MAX_STREAMS
            || self.control.len() >= MAX_CONTROL
        {
            return Err(Violation::State);
        }
        let memory = self.reserve();
        let has_room = memory.is_some();
        let none = || Memory { window: RecvWindow::unreserved(&self.budget, &self.rtt), send_buffer: None };
        let memory = memory.unwrap_or_else(none);
        self.insert(id, io, place, memory);
        if !has_room {
            self.send_end(id, EndReason::Resources);
        }
        Ok(has_room)
    }

    /// Client: the relay has accepted.
    pub(crate) fn connected(&mut self, id: StreamId, address: ConnectedAddr) -> Result<(), Violation> {
        let stream = self.streams.get_mut(&id).ok_or(Violation::State)?;
        if stream.connected {
            return Err(Violation::State);
        }
        stream.connected = true;
        if !stream.sent_end {
            stream.io.deliver_connected(address);
        }
        Ok(())
    }

    /// A message about a stream.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        id: StreamId,
        message: StreamMessage<'_>,
    ) -> Result<(), Violation> {
        let stream = self.streams.get_mut(&id).ok_or(Violation::State)?;
        if !stream.connected && !matches!(message, StreamMessage::End(_) | StreamMessage::Window(_)) {
            return Err(Violation::State);
        }
        match message {
            StreamMessage::Data(data, blocked) => {
                if stream.received_eof {
                    return Err(Violation::State);
                }
                stream.window.received(now, blocked, &mut self.rtt)?;
                if stream.sent_end {
                    return Ok(());
                }
                if stream.staged_cells == 0 {
                    stream.staged = buffers::take();
                    stream.staged_at = Some(now);
                    self.staged.push(id);
                }
                stream.staged.extend_from_slice(data);
                stream.staged_cells += 1;
            }
            StreamMessage::Eof => {
                if std::mem::replace(&mut stream.received_eof, true) {
                    return Err(Violation::State);
                }
                stream.flush();
                stream.io.deliver_eof();
                if stream.sent_eof && self.side == Side::Client {
                    self.send_end(id, EndReason::Done);
                }
            }
            StreamMessage::Window(cells) => {
                stream.credit.grant(cells)?;
                self.notified(now, id);
            }
            StreamMessage::End(reason) => self.ended(id, reason),
        }
        Ok(())
    }

    fn ended(&mut self, id: StreamId, reason: EndReason) {
        let Entry::Occupied(entry) = self.streams.entry(id) else { return };
        let mut stream = entry.remove();
        self.gone += 1;
        stream.flush();
        if stream.connected && stream.sent_eof && !stream.sent_end && reason == EndReason::Done {
            stream.io.deliver_eof();
        }
        stream.io.deliver_end(reason);
        if !stream.sent_end {
            self.control.push_back((Code::End, id, vec![EndReason::Done as u8]));
        }
    }

    /// Hands over what arrived since the last call.
    pub(crate) fn flush(&mut self) {
        for id in self.staged.drain(..) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.flush();
            }
        }
    }

    /// The application of a stream did something, or its credit grew.
    pub(crate) fn notified(&mut self, now: Instant, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let wants = stream.io.wants();
        if stream.sent_end {
            return;
        }
        if let Some(address) = wants.accepted {
            self.control.push_back((Code::Connected, id, message::encode_connected(address)));
        }
        if wants.freed_cells > 0 {
            stream.inward_since = Some(now);
        }
        if wants.has_output {
            stream.outward_since.get_or_insert(now);
        }
        stream.window.consumed(wants.freed_cells);
        if let Some(cells) = stream.window.poll_grant(now) {
            stream.grant(id, cells, &mut self.control);
        }
        if let Some(reason) = wants.ended {
            self.send_end(id, reason);
        } else if wants.has_output && !stream.ready && !stream.sent_eof {
            stream.ready = true;
            self.ready.push_back(id);
        }
    }

    fn send_end(&mut self, id: StreamId, reason: EndReason) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !std::mem::replace(&mut stream.sent_end, true)
        {
            stream.staged = Vec::new();
            stream.io.deliver_end(reason);
            self.control.push_back((Code::End, id, vec![reason as u8]));
        }
    }

    /// How long the oldest data has been here that an application does not take or that does not go out, and the bytes of all (outward those of its memory); `None`
    /// if there is none.
    pub(crate) fn held(&self, now: Instant) -> Option<(Duration, usize)> {
        let mut oldest: Option<(Instant, usize)> = None;
        for stream in self.streams.values() {
            let (inward, outward) = stream.io.lock().stored();
            for (bytes, since) in [(inward, stream.inward_since), (outward, stream.outward_since)] {
                if bytes > 0 {
                    let since = since.unwrap_or(now);
                    oldest = Some(oldest.map_or((since, bytes), |(at, sum)| (at.min(since), sum + bytes)));
                }
            }
        }
        oldest.map(|(since, bytes)| (now.saturating_duration_since(since), bytes))
    }

    /// To be called now and then: streams that were not used meanwhile give back what they do not need.
    pub(crate) fn rest(&mut self) {
        for stream in self.streams.values_mut() {
            stream.window.rest();
            stream.io.lock().rest();
        }
    }

    /// The circuit has ended, and all its streams with it.
    pub(crate) fn close(&mut self, reason: EndReason) {
        for (_, mut stream) in self.streams.drain() {
            self.gone += 1;
            stream.flush();
            stream.io.deliver_end(reason);
        }
        self.control.clear();
        self.ready.clear();
    }
}

impl Stream {
    /// Has its `WINDOW` say so many cells more.
    fn grant(&mut self, id: StreamId, cells: u32, control: &mut VecDeque<Control>) {
        if self.granted == 0 {
            control.push_back((Code::Window, id, Vec::new()));
        }
        self.granted += cells;
    }

    fn flush(&mut self) {
        if self.staged_cells > 0 {
            let (bytes, cells) = (std::mem::take(&mut self.staged), std::mem::take(&mut self.staged_cells));
            if self.io.deliver(bytes, cells) {
                self.inward_since = self.staged_at;
            }
        }
    }
}

#[cfg(test)]
mod tests;
