//! What is at the ends of streams: services behind an exit, and what a client's user does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tunic_proto::message::{Begin, EndReason, Target};
use tunic_proto::stream::{StreamEnded, StreamIo};

/// Bytes that an application writes at once.
const WRITE_LEN: usize = 16 * 1024;

/// When an application wants to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// When a waker says so.
    Woken,
    /// At this time, or when woken.
    At(Duration),
    /// Never: it has ended.
    Done,
}

/// An application on virtual time.
pub trait App {
    /// Does what can be done now.
    fn poll(&mut self, cx: &mut Context<'_>, now: Duration) -> Next;
}

/// A target that the simulated exits serve: `echo`, `sink`, `stalled` (accepts, never reads), `mute` (never answers),
/// `refuse` (refuses by policy). See [`source`].
pub fn service(name: &str) -> Begin {
    Begin::Connect(Target::Name(name.to_owned(), 80))
}

/// A target that sends so many bytes.
pub fn source(bytes: u64) -> Begin {
    service(&format!("source-{bytes}"))
}

/// The byte at this place of what transfers carry: every place of a mebibyte can be told from its neighbours.
fn pattern(at: u64) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16)).wrapping_mul(167) as u8
}

/// The application behind an exit; without a target it is the directory, which echoes.
pub(super) fn serve(begin: Begin, stream: StreamIo) -> Option<Box<dyn App>> {
    let name = match &begin {
        Begin::Connect(Target::Name(name, _)) => name.as_str(),
        _ => "echo",
    };
    if let Some(bytes) = name.strip_prefix("source-").and_then(|bytes| bytes.parse().ok()) {
        stream.accept(None);
        return Some(Box::new(Source { stream, left: bytes, at: 0 }));
    }
    match name {
        "refuse" => stream.end(EndReason::Policy),
        "mute" => return Some(Box::new(Holding(stream))),
        "stalled" => {
            stream.accept(None);
            return Some(Box::new(Holding(stream)));
        }
        _ => {
            stream.accept(None);
            return Some(Box::new(Echo { stream, held: Vec::new(), at: 0, back: name != "sink" }));
        }
    }
    None
}

/// Keeps a stream until it ends.
struct Holding(StreamIo);

impl App for Holding {
    fn poll(&mut self, cx: &mut Context<'_>, _: Duration) -> Next {
        if self.0.poll_ended(cx).is_ready() { Next::Done } else { Next::Woken }
    }
}

struct Source {
    stream: StreamIo,
    left: u64,
    at: u64,
}

impl App for Source {
    fn poll(&mut self, cx: &mut Context<'_>, _: Duration) -> Next {
        while self.left > 0 {
            let length = self.left.min(WRITE_LEN as u64);
            let bytes: Vec<u8> = (self.at..self.at + length).map(pattern).collect();
            match self.stream.poll_write(cx, &bytes) {
                Poll::Ready(Ok(taken)) => {
                    self.left -= taken as u64;
                    self.at += taken as u64;
                }
                Poll::Ready(Err(_)) => return Next::Done,
                Poll::Pending => return Next::Woken,
            }
        }
        self.stream.finish();
        if self.stream.poll_ended(cx).is_ready() { Next::Done } else { Next::Woken }
    }
}

/// Sends back what it reads, or only reads; ends its direction after the peer's.
struct Echo {
    stream: StreamIo,
    held: Vec<u8>,
    at: usize,
    back: bool,
}

impl App for Echo {
    fn poll(&mut self, cx: &mut Context<'_>, _: Duration) -> Next {
        loop {
            while self.at < self.held.len() {
                match self.stream.poll_write(cx, &self.held[self.at..]) {
                    Poll::Ready(Ok(taken)) => self.at += taken,
                    Poll::Ready(Err(_)) => return Next::Done,
                    Poll::Pending => return Next::Woken,
                }
            }
            match self.stream.poll_take(cx) {
                Poll::Ready(Ok(Some(bytes))) => {
                    self.at = if self.back { 0 } else { bytes.len() };
                    self.held = bytes;
                }
                Poll::Ready(Ok(None)) => break,
                Poll::Ready(Err(_)) => return Next::Done,
                Poll::Pending => return Next::Woken,
            }
        }
        self.stream.finish();
        if self.stream.poll_ended(cx).is_ready() { Next::Done } else { Next::Woken }
    }
}

/// How a transfer stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Bytes handed over.
    pub sent: u64,
    /// Bytes read.
    pub received: u64,
    /// Whether a byte was read that is not the one of its place.
    pub damaged: bool,
    /// When the far end had accepted.
    pub connected_at: Option<Duration>,
    /// When the first byte was read.
    pub first_byte_at: Option<Duration>,
    /// When the last byte and the end of the stream were read.
    pub complete_at: Option<Duration>,
    /// Why it broke off.
    pub broken: Option<EndReason>,
    /// Whether the reader pauses.
    pub paused: bool,
}

/// A client's user: sends some bytes, ends its direction, and reads what comes until the other one ends.
pub struct Transfer {
    stream: StreamIo,
    left: u64,
    report: Arc<Mutex<Report>>,
}

impl Transfer {
    /// Sends so many bytes over the stream.
    pub fn new(stream: StreamIo, upload: u64) -> (Transfer, Arc<Mutex<Report>>) {
        let report = Arc::<Mutex<Report>>::default();
        (Transfer { stream, left: upload, report: report.clone() }, report)
    }

    fn write(&mut self, cx: &mut Context<'_>, report: &mut Report) -> Result<(), StreamEnded> {
        while self.left > 0 {
            let length = self.left.min(WRITE_LEN as u64);
            let bytes: Vec<u8> = (report.sent..report.sent + length).map(pattern).collect();
            let Poll::Ready(taken) = self.stream.poll_write(cx, &bytes)? else { return Ok(()) };
            self.left -= taken as u64;
            report.sent += taken as u64;
        }
        self.stream.finish();
        Ok(())
    }

    fn read(
        &mut self,
        cx: &mut Context<'_>,
        now: Duration,
        report: &mut Report,
    ) -> Poll<Result<(), StreamEnded>> {
        loop {
            match self.stream.poll_take(cx) {
                Poll::Ready(Ok(Some(bytes))) => {
                    report.first_byte_at.get_or_insert(now);
                    let places = report.received..;
                    report.damaged |= bytes.iter().zip(places).any(|(byte, at)| *byte != pattern(at));
                    report.received += bytes.len() as u64;
                }
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(ended)) => return Poll::Ready(Err(ended)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl App for Transfer {
    fn poll(&mut self, cx: &mut Context<'_>, now: Duration) -> Next {
        let shared = self.report.clone();
        let mut report = lock(&shared);
        if report.connected_at.is_none()
            && let Poll::Ready(Ok(_)) = self.stream.poll_connected(cx)
        {
            report.connected_at = Some(now);
        }
        let written = self.write(cx, &mut report);
        if report.paused {
            return Next::Woken;
        }
        match (self.read(cx, now, &mut report), written) {
            (Poll::Ready(Ok(())), Ok(())) if self.left == 0 => report.complete_at = Some(now),
            (Poll::Ready(Err(StreamEnded(reason))), _) | (_, Err(StreamEnded(reason))) => {
                report.broken = Some(reason);
            }
            _ => return Next::Woken,
        }
        Next::Done
    }
}

/// Locks a report.
pub(super) fn lock(report: &Mutex<Report>) -> MutexGuard<'_, Report> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}
