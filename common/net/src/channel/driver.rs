//! The one task of a channel: moves bytes between its socket, TLS and its state machine.
//!
//! Each round takes all that is there: one read of up to 64 KiB, one batch through the state machine, and writes of up
//! to 64 KiB of cells in large TLS records.

use std::cell::RefCell;
use std::io::{self, BufRead, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::Connection;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tunic_proto::cell::CELL_LEN;
use tunic_proto::channel::{Channel, ChannelError, Event};

use super::limits::Guest;
use super::node::NodeInner;
use super::open::NonBlocking;
use super::pacing::Pacing;
use super::renewal::Renewal;
use super::traffic::Turn;
use crate::{bbr, clock};

/// Bytes of one read, and cells of one write: 64 KiB.
const READ_LEN: usize = 64 * 1024;
const WRITE_CELLS: usize = 128;
/// What TLS adds to each record, and how much a record holds (RFC 8446 §5.2).
const RECORD_OVERHEAD: usize = 22;
const RECORD_LEN: usize = 16 * 1024;
/// Bytes on the wire of one write.
const WRITE_LEN: usize = wire_len(WRITE_CELLS * CELL_LEN);
/// Rounds before other tasks have their turn.
const ROUNDS: usize = 16;

/// Why a channel ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum DriverError {
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Protocol(#[from] ChannelError),
    #[error("closed by the peer")]
    Closed,
}

/// Buffers that hold nothing between polls, so one set serves all channels of a thread.
#[derive(Default)]
struct Buffers {
    wire: Vec<u8>,
    plain: Vec<u8>,
    out: Vec<u8>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

pub(super) struct Driver {
    tcp: TcpStream,
    tls: Connection,
    core: Channel,
    node: Arc<NodeInner>,
    guest: Guest,
    /// The beginning of a cell whose end has not arrived.
    partial: Vec<u8>,
    /// TLS may hold plaintext that came with the handshake.
    unread: bool,
    sleep: Pin<Box<Sleep>>,
    reads: Turn,
    writes: Turn,
    renewal: Renewal,
    pacing: Pacing,
}

impl Driver {
    pub(super) fn new(
        tcp: TcpStream,
        mut tls: Connection,
        mut core: Channel,
        node: Arc<NodeInner>,
        guest: Guest,
    ) -> Driver {
        tls.set_buffer_limit(None);
        core.count_under(guest.subnet());
        let sleep = Box::pin(tokio::time::sleep_until(Instant::from_std(clock::now())));
        let (reads, writes) = (Turn::new(Some(&node.traffic.reads)), Turn::new(Some(&node.traffic.writes)));
        let (is_bbr, now) = (bbr::is_chosen(&tcp), clock::now());
        let (renewal, pacing) = (Renewal::new(is_bbr, now), Pacing::new(is_bbr, now));
        Driver {
            tcp,
            tls,
            core,
            node,
            guest,
            partial: Vec::new(),
            unread: true,
            sleep,
            reads,
            writes,
            renewal,
            pacing,
        }
    }

    /// Runs until the channel ends.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<DriverError> {
        for _ in 0..ROUNDS {
            match self.round(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(error) => return Poll::Ready(error),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Circuits on this channel.
    pub(super) fn circuit_count(&self) -> usize {
        self.core.circuit_count()
    }

    /// Gives back what circuits and the channel have not used for a while. An error ends the channel.
    pub(super) fn rest(&mut self) -> Result<(), DriverError> {
        Ok(self.core.rest()?)
    }

    /// Ends every circuit, for an orderly shutdown; then [`Driver::poll_flushed`].
    pub(super) fn end_all(&mut self) {
        self.core.end_all();
        // Nothing is read any more.
        self.reads.forget();
    }

    /// Sends what is left, TLS's goodbye last.
    pub(super) fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.core.has_output() || self.tls.wants_write() {
            match BUFFERS.with_borrow_mut(|buffers| self.write(cx, buffers)) {
                Ok(_) if self.core.has_output() || self.tls.wants_write() => return Poll::Pending,
                Ok(_) => {}
                Err(DriverError::Io(error)) => return Poll::Ready(Err(error)),
                Err(other) => return Poll::Ready(Err(io::Error::other(other))),
            }
        }
        self.writes.forget();
        self.tls.send_close_notify();
        while self.tls.wants_write() {
            ready!(self.poll_write(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// One round of everything; false if nothing moved.
    fn round(&mut self, cx: &mut Context<'_>) -> Result<bool, DriverError> {
        let mut moved = false;
        if self.core.inbox().poll_pending(cx).is_ready() {
            self.core.handle_inbox(clock::now());
            moved = true;
        }
        moved |= self.expire(cx);
        moved |= BUFFERS.with_borrow_mut(|buffers| self.read(cx, buffers))?;
        while let Some(event) = self.core.poll_event() {
            self.dispatch(event);
            moved = true;
        }
        moved |= BUFFERS.with_borrow_mut(|buffers| self.write(cx, buffers))?;
        Ok(moved)
    }

    fn expire(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = self.core.poll_timeout() else { return false };
        let deadline = Instant::from_std(deadline);
        if self.sleep.deadline() != deadline {
            self.sleep.as_mut().reset(deadline);
        }
        if self.sleep.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.core.handle_timeout(clock::now());
        true
    }

    fn read(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> Result<bool, DriverError> {
        if std::mem::take(&mut self.unread) {
            let available = self.tls.process_new_packets()?.plaintext_bytes_to_read();
            buffers.plain.clear();
            take_plaintext(&mut self.tls, available, &mut buffers.plain)?;
            self.handle_plaintext(&mut buffers.plain)?;
            return Ok(true);
        }
        buffers.wire.resize(READ_LEN, 0);
        if self.tcp.poll_read_ready(cx)?.is_pending() {
            return Ok(false);
        }
        let Poll::Ready(room) = self.reads.poll_take(cx, READ_LEN) else { return Ok(false) };
        let mut taken = ReadBuf::new(&mut buffers.wire[..room]);
        // Unlike `try_read`, it knows that there is no more where the room was not filled, and spares the call that finds nothing.
        let read = Pin::new(&mut self.tcp).poll_read(cx, &mut taken);
        let count = taken.filled().len();
        self.reads.settle(room, count);
        let Poll::Ready(read) = read else { return Ok(false) };
        read?;
        if count == 0 {
            return Err(DriverError::Closed);
        }
        let Buffers { wire, plain, .. } = buffers;
        let mut wire = &wire[..count];
        plain.clear();
        plain.append(&mut self.partial);
        let mut closed = false;
        while !wire.is_empty() && !closed {
            self.tls.read_tls(&mut wire)?;
            let state = self.tls.process_new_packets()?;
            take_plaintext(&mut self.tls, state.plaintext_bytes_to_read(), plain)?;
            closed = state.peer_has_closed();
        }
        // Also what came with the goodbye, such as why circuits end.
        self.handle_plaintext(plain)?;
        if closed { Err(DriverError::Closed) } else { Ok(true) }
    }

    fn handle_plaintext(&mut self, plain: &mut [u8]) -> Result<(), DriverError> {
        let whole = plain.len() - plain.len() % CELL_LEN;
        let (cells, partial) = plain.split_at_mut(whole);
        self.partial.extend_from_slice(partial);
        if !cells.is_empty() {
            self.core.handle_cells(clock::now(), cells)?;
        }
        Ok(())
    }

    /// Writes until there is nothing left or the socket takes no more; whether anything moved.
    fn write(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> Result<bool, DriverError> {
        let mut moved = false;
        loop {
            while self.tls.wants_write() {
                match self.poll_write(cx)? {
                    Poll::Pending => return Ok(moved),
                    Poll::Ready(_) => moved = true,
                }
            }
            if !self.core.has_output() {
                self.writes.forget();
                return Ok(moved);
            }
            let Poll::Ready(room) = self.writes.poll_take(cx, WRITE_LEN) else { return Ok(moved) };
            buffers.out.clear();
            let now = clock::now();
            self.core.poll_output(now, &mut buffers.out, cells_within(room));
            self.pacing.written(now, &self.tcp);
            self.renewal.written(now, buffers.out.len(), self.pacing.shortest(), &self.tcp);
            self.writes.settle(room, wire_len(buffers.out.len()));
            self.tls.writer().write_all(&buffers.out)?;
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.tcp.poll_write_ready(cx))?;
            match self.tls.write_tls(&mut NonBlocking(&self.tcp)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.pacing.is_limited() {
                        self.renewal.refused();
                    }
                }
                result => return Poll::Ready(result),
            }
        }
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Handshake(job) => {
                self.node.answer_handshake(job, &mut self.guest, self.core.circuit_count());
                // It may have turned out to be a relay of the network.
                self.core.count_under(self.guest.subnet());
            }
            Event::Extend(job) => self.node.clone().extend(job, &self.guest.caller),
            Event::Begin(target, io) => self.node.begin(target, io, &mut self.guest),
        }
    }
}

/// What these bytes of cells are on the wire.
const fn wire_len(plain: usize) -> usize {
    plain + plain.div_ceil(RECORD_LEN) * RECORD_OVERHEAD
}

/// How many whole cells so many bytes on the wire have room for; one at the least.
fn cells_within(wire: usize) -> usize {
    let overhead = wire.div_ceil(RECORD_LEN + RECORD_OVERHEAD) * RECORD_OVERHEAD;
    (wire.saturating_sub(overhead) / CELL_LEN).max(1)
}

/// Appends what TLS has decrypted: `available` bytes.
fn take_plaintext(tls: &mut Connection, available: usize, plain: &mut Vec<u8>) -> io::Result<()> {
    let mut left = available;
    while left > 0 {
        let mut reader = tls.reader();
        let chunk = reader.fill_buf()?;
        plain.extend_from_slice(chunk);
        let count = chunk.len();
        reader.consume(count);
        left = left.saturating_sub(count.max(1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_keeps_within_what_it_took() {
        assert_eq!(cells_within(WRITE_LEN), WRITE_CELLS);
        for wire in 534..WRITE_LEN {
            assert!(wire_len(cells_within(wire) * CELL_LEN) <= wire, "{wire}");
        }
    }
}
