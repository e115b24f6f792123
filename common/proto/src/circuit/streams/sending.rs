//! What the streams of a circuit send: messages first that are not data, then the streams' data in turn, each within its credit.

use std::time::Instant;

use super::{MAX_CONTROL, Stream, Streams};
use crate::cell::PAYLOAD_LEN;
use crate::ids::StreamId;
use crate::message::{Code, EndReason};

/// Cells that one stream sends before the next has its turn.
const RUN_CELLS: usize = 16;

impl Streams {
    /// Sends a message that is about the circuit itself.
    pub(crate) fn send_control(&mut self, code: Code, data: Vec<u8>) {
        self.control.push_back((code, StreamId(0), data));
    }

    /// Sends a message that is about the circuit itself and may as well be lost.
    pub(crate) fn send_aside(&mut self, code: Code) {
        if self.control.len() < MAX_CONTROL {
            self.send_control(code, Vec::new());
        }
    }

    /// How many of these messages about the circuit wait.
    pub(crate) fn waiting_asides(&self, code: Code) -> usize {
        self.control.iter().filter(|(waiting, ..)| *waiting == code).count()
    }

    /// Whether there is something to send.
    pub(crate) fn has_output(&self) -> bool {
        !self.control.is_empty() || !self.ready.is_empty()
    }

    /// About how many cells wait, streams without credit apart.
    pub(crate) fn waiting_cells(&self) -> usize {
        let cells = |stream: &Stream| {
            let io = stream.io.lock();
            io.unsent().div_ceil(PAYLOAD_LEN) + usize::from(io.is_finished())
        };
        let data = self.ready.iter().filter_map(|id| self.streams.get(id)).map(cells).sum::<usize>();
        self.control.len() + data
    }

    /// Writes up to `limit` messages with at most `room` bytes of data each; returns how many.
    pub(crate) fn fill(
        &mut self,
        now: Instant,
        limit: usize,
        room: usize,
        emit: &mut dyn FnMut(Code, StreamId, &[u8]),
    ) -> usize {
        let mut count = 0;
        while count < limit {
            if let Some((code, id, data)) = self.control.pop_front() {
                count += self.emit_control(code, id, &data, emit);
            } else if let Some(id) = self.ready.pop_front() {
                count += self.fill_stream(now, id, RUN_CELLS.min(limit - count), room, emit);
            } else {
                break;
            }
        }
        count
    }

    fn emit_control(
        &mut self,
        code: Code,
        id: StreamId,
        data: &[u8],
        emit: &mut dyn FnMut(Code, StreamId, &[u8]),
    ) -> usize {
        if code != Code::Window {
            emit(code, id, data);
            return 1;
        }
        match self.streams.get_mut(&id) {
            Some(stream) if !stream.sent_end && stream.granted > 0 => {
                emit(code, id, &std::mem::take(&mut stream.granted).to_be_bytes());
                1
            }
            _ => 0,
        }
    }

    fn fill_stream(
        &mut self,
        now: Instant,
        id: StreamId,
        limit: usize,
        room: usize,
        emit: &mut dyn FnMut(Code, StreamId, &[u8]),
    ) -> usize {
        let Some(stream) = self.streams.get_mut(&id) else { return 0 };
        stream.ready = false;
        if stream.sent_end || stream.sent_eof {
            return 0;
        }
        let mut count = 0;
        let mut state = stream.io.lock();
        while count < limit && state.unsent() > 0 && stream.credit.cells() > 0 {
            let last = stream.credit.cells() == 1;
            state.send_chunk(room, |chunk, more| {
                emit(if last && more { Code::DataBlocked } else { Code::Data }, id, chunk);
            });
            stream.credit.spend(1);
            count += 1;
        }
        let finished = state.is_finished();
        let more = state.unsent() > 0;
        if count > 0 {
            stream.outward_since = more.then_some(now);
        }
        let writer = state.after_chunks();
        drop(state);
        if let Some(waker) = writer {
            waker.wake();
        }
        if finished && count < limit {
            stream.sent_eof = true;
            if stream.received_eof {
                self.send_end(id, EndReason::Done);
                return count;
            }
            emit(Code::Eof, id, &[]);
            return count + 1;
        }
        if finished || (more && stream.credit.cells() > 0) {
            stream.ready = true;
            self.ready.push_back(id);
        }
        count
    }
}
