//! Streams as sockets, and their coupling with TCP.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf};
use tokio::net::TcpStream;
use tunic_proto::buffers;
use tunic_proto::message::EndReason;
use tunic_proto::resolve::Answer;
use tunic_proto::stream::{SEND_BUFFER_LEN, StreamEnded, StreamIo, StreamMeter, StreamTotals};

use super::limits::Place;
use super::traffic::{Traffic, Turn};
use super::{Caller, Circuit, CircuitDatagrams};

/// Rounds of copying before other tasks have their turn.
const ROUNDS: usize = 16;

/// A stream that a peer wants. Dropping it refuses with [`EndReason::Internal`].
pub struct IncomingStream {
    /// `None` once it is answered.
    io: Option<StreamIo>,
    caller: Caller,
    traffic: Arc<Traffic>,
    place: Option<Place>,
}

impl IncomingStream {
    pub(super) fn new(io: StreamIo, caller: Caller, traffic: Arc<Traffic>) -> IncomingStream {
        IncomingStream { io: Some(io), caller, traffic, place: None }
    }

    /// Takes this place for as long as the stream lasts.
    pub(super) fn hold(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// Who is at the other end of the channel that the stream came over: whoever wants it, or the relay before us.
    pub fn caller(&self) -> Caller {
        self.caller
    }

    /// Says `CONNECTED`; what the peer sent meanwhile can be read from the stream.
    pub fn accept(mut self, address: Option<IpAddr>) -> CircuitStream {
        let io = self.io.take();
        if let Some(io) = &io {
            io.accept(address);
        }
        CircuitStream { io, circuit: None, traffic: Some(self.traffic.clone()), _place: self.place.take() }
    }

    /// Accepts, says what was found and no more.
    pub async fn answer(self, answer: &Answer) -> io::Result<()> {
        let mut stream = self.accept(None);
        stream.write_all(&answer.encode()).await?;
        stream.shutdown().await?;
        // The client has nothing to say; whether it half-closes or ends, the answer was sent.
        let _ = stream.take(1).read(&mut [0]).await;
        Ok(())
    }

    /// Says `CONNECTED` to datagrams.
    pub fn accept_datagrams(mut self) -> CircuitDatagrams {
        let io = self.io.take();
        if let Some(io) = &io {
            io.accept(None);
        }
        CircuitDatagrams::new(io, None).counted(self.traffic.clone(), self.place.take())
    }

    /// Says `END`.
    pub fn reject(mut self, reason: EndReason) {
        if let Some(io) = self.io.take() {
            io.end(reason);
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.io.as_ref().is_none_or(|io| io.end_reason().is_some())
    }

    /// Completes when the peer gave the stream up.
    pub async fn closed(&self) {
        if let Some(io) = &self.io {
            poll_fn(|cx| io.poll_ended(cx)).await;
        }
    }
}

impl Drop for IncomingStream {
    fn drop(&mut self) {
        if let Some(io) = self.io.take() {
            io.end(EndReason::Internal);
        }
    }
}

/// One end of a stream. `poll_shutdown` is a half-close; dropping it before both directions have ended resets
/// the stream. A read error of kind `ConnectionReset` means that the other side or the circuit ended it.
pub struct CircuitStream {
    /// `None` only once [`CircuitStream::reset`] has taken it.
    io: Option<StreamIo>,
    circuit: Option<Circuit>,
    /// Of the node, where the stream was begun by others.
    traffic: Option<Arc<Traffic>>,
    _place: Option<Place>,
}

fn broken(error: StreamEnded) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl CircuitStream {
    pub(super) fn new(io: StreamIo, circuit: Option<Circuit>) -> CircuitStream {
        CircuitStream { io: Some(io), circuit, traffic: None, _place: None }
    }

    fn io(&self) -> io::Result<&StreamIo> {
        self.io.as_ref().ok_or_else(|| broken(StreamEnded(EndReason::Reset)))
    }

    /// Waits for the exit's answer: the address that it reached, if it told one.
    ///
    /// # Errors
    /// Why the exit refused.
    pub async fn connected(&mut self) -> Result<Option<IpAddr>, EndReason> {
        let Some(io) = &self.io else { return Err(EndReason::Reset) };
        poll_fn(|cx| io.poll_connected(cx)).await.map_err(|StreamEnded(reason)| reason)
    }

    /// Ends the stream at once with this reason.
    pub fn reset(mut self, reason: EndReason) {
        if let Some(io) = self.io.take() {
            io.end(reason);
        }
    }

    /// The stream as what it was begun for: datagrams.
    pub fn into_datagrams(mut self) -> CircuitDatagrams {
        CircuitDatagrams::new(self.io.take(), self.circuit.take())
    }

    /// The reason with which the stream ended, once it has.
    pub fn end_reason(&self) -> Option<EndReason> {
        self.io.as_ref().map_or(Some(EndReason::Reset), StreamIo::end_reason)
    }

    /// Whether it was refused on this side, for want of room: the exit never heard of it.
    pub fn is_refused_here(&self) -> bool {
        self.io.as_ref().is_some_and(StreamIo::is_refused_here)
    }

    /// What the stream has moved so far.
    pub fn totals(&self) -> StreamTotals {
        self.io.as_ref().map_or_else(StreamTotals::default, StreamIo::totals)
    }

    /// Reads the same from elsewhere; `None` once the stream has ended.
    pub fn meter(&self) -> Option<StreamMeter> {
        self.io.as_ref().map(StreamIo::meter)
    }

    /// The circuit under a stream that was begun here.
    pub fn circuit(&self) -> Option<&Circuit> {
        self.circuit.as_ref()
    }
}

impl AsyncRead for CircuitStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = ready!(self.io()?.poll_read(cx, buf.initialize_unfilled())).map_err(broken)?;
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CircuitStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.io()?.poll_write(cx, data).map_err(broken)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.finish();
        Poll::Ready(Ok(()))
    }
}

/// Moves bytes between a stream and a TCP connection in both directions, half-close included, until both have ended. For a
/// stream that others began, the connection counts as the node's traffic.
///
/// # Errors
/// The side that broke; the other one is reset.
pub async fn splice(stream: CircuitStream, tcp: TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let result = splice_counted(stream, &tcp, Vec::new(), &AtomicU64::new(0)).await;
    if result.is_err() {
        reset_when_closed(&tcp);
    }
    result
}

/// Has the connection end as a reset: a part must not look like the whole.
pub fn reset_when_closed(tcp: &TcpStream) {
    // Where this fails there is no connection any more.
    let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

/// As [`splice`], adding what was read from and written to `tcp` to `moved`, for whoever wants to see that it goes on.
/// `early` was read before and goes up first. Dropping the future resets the stream. The options of `tcp` and what becomes of it
/// are the caller's business ([`reset_when_closed`]).
///
/// # Errors
/// The side that broke.
pub async fn splice_counted(
    mut stream: CircuitStream,
    tcp: &TcpStream,
    early: Vec<u8>,
    moved: &AtomicU64,
) -> io::Result<()> {
    let Some(io) = stream.io.take() else { return Ok(()) };
    let turn =
        |gate: fn(&Traffic) -> &Arc<super::traffic::Gate>| Turn::new(stream.traffic.as_deref().map(gate));
    let (reads, writes) = (turn(|traffic| &traffic.reads), turn(|traffic| &traffic.writes));
    let (received, received_at) = (Vec::new(), 0);
    let mut splice =
        Splice { io, tcp, moved, early, reads, writes, received, received_at, down: true, up: true };
    let result = poll_fn(|cx| splice.poll(cx)).await;
    if result.is_err() {
        splice.io.end(EndReason::Reset);
    }
    result
}

/// Unlike `try_read`, and as tokio's `AsyncRead`, it takes it that there is no more where the room was not filled, and spares the call
/// that finds nothing.
fn read(tcp: &TcpStream, room: &mut [u8]) -> io::Result<usize> {
    let mut taken = 0;
    let read = tcp.try_io(Interest::READABLE, || {
        taken = recv(tcp, &mut *room, RecvFlags::empty())?.0;
        if (1..room.len()).contains(&taken) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    });
    if taken > 0 { Ok(taken) } else { read }
}

struct Splice<'a> {
    io: StreamIo,
    tcp: &'a TcpStream,
    /// Bytes read from and written to TCP.
    moved: &'a AtomicU64,
    /// Bytes that were read from TCP before, and that the stream has not taken yet.
    early: Vec<u8>,
    reads: Turn,
    writes: Turn,
    /// Bytes on their way from the stream to TCP.
    received: Vec<u8>,
    received_at: usize,
    /// Whether bytes still come from the stream, and from TCP.
    down: bool,
    up: bool,
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SEND_BUFFER_LEN]);
}

impl Splice<'_> {
    fn moved(&self, count: usize) {
        self.moved.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..ROUNDS {
            let mut moved = false;
            if self.down {
                moved |= self.poll_down(cx)?.is_ready();
            }
            if self.up {
                moved |= self.poll_up(cx)?.is_ready();
            }
            if !self.down && !self.up {
                return Poll::Ready(Ok(()));
            }
            if !moved {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.received_at < self.received.len() {
            ready!(self.tcp.poll_write_ready(cx))?;
            let room = ready!(self.writes.poll_take(cx, self.received.len() - self.received_at));
            let written = self.tcp.try_write(&self.received[self.received_at..][..room]);
            self.writes.settle(room, *written.as_ref().unwrap_or(&0));
            match written {
                Ok(count) => {
                    self.received_at += count;
                    self.moved(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        buffers::give(std::mem::take(&mut self.received));
        self.received_at = 0;
        match ready!(self.io.poll_take(cx)) {
            Ok(Some(bytes)) => {
                self.received = bytes;
                Poll::Ready(Ok(()))
            }
            Ok(None) => {
                self.down = false;
                // A connection that is gone already needs no half-close.
                let _ = SockRef::from(self.tcp).shutdown(std::net::Shutdown::Write);
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(broken(error))),
        }
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Poll::Ready(room) = self.io.poll_room(cx) else {
            self.reads.forget();
            return Poll::Pending;
        };
        let room = room.map_err(broken)?;
        if !self.early.is_empty() {
            let count = room.min(self.early.len());
            let written = ready!(self.io.poll_write(cx, &self.early[..count])).map_err(broken)?;
            self.early.drain(..written);
            return Poll::Ready(Ok(()));
        }
        ready!(self.tcp.poll_read_ready(cx))?;
        let room = ready!(self.reads.poll_take(cx, room.min(SEND_BUFFER_LEN)));
        BUFFER.with_borrow_mut(|buffer| {
            let read = read(self.tcp, &mut buffer[..room]);
            self.reads.settle(room, *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => {
                    self.io.finish();
                    self.up = false;
                    Poll::Ready(Ok(()))
                }
                Ok(count) => {
                    self.moved(count);
                    // The room may have become less meanwhile: what does not fit goes before all that is read then.
                    let written = match self.io.poll_write(cx, &buffer[..count]) {
                        Poll::Ready(written) => written.map_err(broken)?,
                        Poll::Pending => 0,
                    };
                    self.early.extend_from_slice(&buffer[written..count]);
                    Poll::Ready(Ok(()))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Ready(Ok(())),
                Err(error) => Poll::Ready(Err(error)),
            }
        })
    }
}
