//! The one task of a channel: moves bytes between its socket, TLS and its state machine.
//!
//! Each round takes all that is there: one read of up to 64 KiB, one batch through the state machine, and writes of up
//! to 64 KiB of cells in large TLS records.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tunic_proto::cell::CELL_LEN;
use tunic_proto::channel::{Channel, ChannelError, Event};

use super::limits::Guest;
use super::node::NodeInner;
use super::open::Session;
use super::pacing::Pacing;
use super::renewal::Renewal;
use super::tls::{Buffer, MAX_RECORD_LEN, RECORD_LEN, RECORD_OVERHEAD, RecordError, Records, record_len};
use super::traffic::Turn;
use crate::{bbr, clock};

/// Bytes of one read, and cells of one write: 64 KiB.
const READ_LEN: usize = 64 * 1024;
const WRITE_CELLS: usize = 128;
/// Bytes on the wire of one write.
const WRITE_LEN: usize = wire_len(WRITE_CELLS * CELL_LEN);
/// Writes of one round: what comes is read in between, however much there is to send.
const WRITES: usize = 2;
/// Rounds before other tasks have their turn, a millisecond or so.
const ROUNDS: usize = 4;

/// Why a channel ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum DriverError {
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] RecordError),
    #[error(transparent)]
    Protocol(#[from] ChannelError),
    #[error("closed by the peer")]
    Closed,
}

/// Buffers that hold nothing between polls, so one set serves all channels of a thread.
struct Buffers {
    /// A record whose end had not arrived, and one read.
    arrived: Vec<u8>,
    plain: Buffer,
    out: Vec<u8>,
    sealed: Buffer,
}

impl Buffers {
    fn new() -> RefCell<Buffers> {
        let arrived = vec![0; MAX_RECORD_LEN + READ_LEN];
        RefCell::new(Buffers { arrived, plain: Buffer::new(), out: Vec::new(), sealed: Buffer::new() })
    }
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = Buffers::new();
}

pub(super) struct Driver {
    tcp: TcpStream,
    records: Records,
    core: Channel,
    node: Arc<NodeInner>,
    guest: Guest,
    /// The beginning of a record whose end has not arrived: less than [`MAX_RECORD_LEN`].
    arrived: Vec<u8>,
    /// The beginning of a cell whose end has not.
    partial: Vec<u8>,
    /// `partial` may have whole cells, which came with the handshake.
    is_new: bool,
    /// What was sealed and the socket has not taken, and how much of that it has.
    unsent: Vec<u8>,
    sent: usize,
    said_goodbye: bool,
    sleep: Pin<Box<Sleep>>,
    reads: Turn,
    writes: Turn,
    renewal: Renewal,
    pacing: Pacing,
}

impl Driver {
    pub(super) fn new(
        tcp: TcpStream,
        session: Session,
        mut core: Channel,
        node: Arc<NodeInner>,
        guest: Guest,
    ) -> Driver {
        let Session { records, arrived, plain, unsent } = session;
        core.count_under(guest.subnet());
        let sleep = Box::pin(tokio::time::sleep_until(Instant::from_std(clock::now())));
        let (reads, writes) = (Turn::new(Some(&node.traffic.reads)), Turn::new(Some(&node.traffic.writes)));
        let (is_bbr, now) = (bbr::is_chosen(&tcp), clock::now());
        let (renewal, pacing) = (Renewal::new(is_bbr, now), Pacing::new(is_bbr, now));
        Driver {
            tcp,
            records,
            core,
            node,
            guest,
            arrived,
            partial: plain,
            is_new: true,
            unsent,
            sent: 0,
            said_goodbye: false,
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
        self.arrived.shrink_to_fit();
        self.partial.shrink_to_fit();
        Ok(self.core.rest()?)
    }

    /// Ends every circuit, for an orderly shutdown; then [`Driver::poll_flushed`].
    pub(super) fn end_all(&mut self) {
        self.core.end_all();
        // Nothing is read any more.
        self.reads.forget();
    }

    /// Sends what is left, TLS's goodbye last.
    pub(super) fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DriverError>> {
        if !self.said_goodbye {
            while BUFFERS.with_borrow_mut(|buffers| self.write(cx, buffers))? {}
            if self.core.has_output() || !self.unsent.is_empty() {
                return Poll::Pending;
            }
        }
        self.writes.forget();
        if !std::mem::replace(&mut self.said_goodbye, true) {
            let mut goodbye = Buffer::new();
            self.records.seal_goodbye(&mut goodbye)?;
            self.unsent.extend_from_slice(&goodbye);
        }
        self.poll_unsent(cx).map_err(Into::into)
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
        let Buffers { arrived, plain, .. } = buffers;
        let old = self.arrived.len();
        let mut new = 0;
        if !std::mem::take(&mut self.is_new) {
            if self.tcp.poll_read_ready(cx)?.is_pending() {
                return Ok(false);
            }
            let Poll::Ready(room) = self.reads.poll_take(cx, READ_LEN) else { return Ok(false) };
            let mut taken = ReadBuf::new(&mut arrived[old..old + room]);
            // Unlike `try_read`, it knows that there is no more where the room was not filled, and spares the call that finds nothing.
            let read = Pin::new(&mut self.tcp).poll_read(cx, &mut taken);
            new = taken.filled().len();
            self.reads.settle(room, new);
            let Poll::Ready(read) = read else { return Ok(false) };
            read?;
            if new == 0 {
                return Err(DriverError::Closed);
            }
            // The header of what is held has been checked; nothing opens before its end is there.
            if record_len(&self.arrived).is_some_and(|len| old + new < len) {
                self.arrived.extend_from_slice(&arrived[old..old + new]);
                return Ok(true);
            }
        }
        arrived[..old].copy_from_slice(&self.arrived);
        let arrived = &arrived[..old + new];
        plain.clear();
        plain.extend_from_slice(&self.partial);
        self.partial.clear();
        let opened = self.records.open(arrived, plain)?;
        let part = &arrived[opened..];
        self.arrived.clear();
        self.arrived.reserve_exact(record_len(part).unwrap_or(part.len()));
        self.arrived.extend_from_slice(part);
        // Also what came with the goodbye, such as why circuits end.
        self.handle_plaintext(plain)?;
        if self.records.is_closed() { Err(DriverError::Closed) } else { Ok(true) }
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

    /// Writes until there is nothing left, the socket takes no more, or others have to have their turn; whether anything moved.
    fn write(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> Result<bool, DriverError> {
        let Buffers { out, sealed, .. } = buffers;
        let mut moved = !self.unsent.is_empty();
        if self.poll_unsent(cx)?.is_pending() {
            return Ok(false);
        }
        for _ in 0..WRITES {
            if !self.core.has_output() {
                self.writes.forget();
                return Ok(moved);
            }
            let Poll::Ready(room) = self.writes.poll_take(cx, WRITE_LEN) else { return Ok(moved) };
            out.clear();
            let now = clock::now();
            self.core.poll_output(now, out, cells_within(room));
            self.pacing.written(now, &self.tcp);
            self.renewal.written(now, out.len(), self.pacing.shortest(), &self.tcp);
            self.writes.settle(room, wire_len(out.len()));
            sealed.clear();
            self.records.seal(out, sealed)?;
            moved = true;
            let mut sent = 0;
            if self.poll_write(cx, sealed, &mut sent)?.is_pending() {
                self.unsent.extend_from_slice(&sealed[sent..]);
                return Ok(moved);
            }
        }
        Ok(true)
    }

    /// Writes what the socket has not taken before.
    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (unsent, mut sent) = (std::mem::take(&mut self.unsent), std::mem::take(&mut self.sent));
        let done = self.poll_write(cx, &unsent, &mut sent)?;
        if done.is_pending() {
            (self.unsent, self.sent) = (unsent, sent);
        }
        done.map(Ok)
    }

    /// Writes `bytes` from `sent` on.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8], sent: &mut usize) -> Poll<io::Result<()>> {
        while *sent < bytes.len() {
            ready!(self.tcp.poll_write_ready(cx))?;
            match self.tcp.try_write(&bytes[*sent..]) {
                Ok(count) => *sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.pacing.is_limited() {
                        self.renewal.refused();
                    }
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
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
