//! Bytes between an application and its stream, for as long as somebody is there who wants them.
//!
//! 1. A tunnel moves bytes in both directions, half-close included, until both have ended. A plain HTTP request goes up, its
//!    answer comes down, and that is all.
//! 2. Whoever has ended its half may still read, or be gone: TCP does not tell. Keepalive probes find out, a minute or so later,
//!    since the system of a program that is gone answers them with a reset. What it said before is still passed on.
//! 3. Once it has ended its half, it is looked from time to time whether the application is still there (`core::front::quiet`).
//! 4. What ends early ends as a reset, where there is such a thing, so that nobody takes it for the whole.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf, Ready,
    copy_bidirectional,
};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tunic_net::channel::{CircuitStream, reset_when_closed, splice_counted};
use tunic_proto::stream::StreamMeter;

use super::Application;
use crate::core::front::http::{Body, Passed};
use crate::core::front::quiet::{Limits, Quiet, Seen};

const READ_LEN: usize = 4 * 1024;
const BODY_READ_LEN: usize = 32 * 1024;
/// How often it is looked whether an application is still there.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Probes that may be lost.
const PROBES: u32 = 6;
/// On this machine probes cost nothing.
const PROBE_HERE: Probe = Probe { after: Duration::from_secs(20), every: Duration::from_secs(10) };
/// Others may sleep, and be away for some minutes.
const PROBE_ELSEWHERE: Probe = Probe { after: Duration::from_secs(300), every: Duration::from_secs(60) };

/// After how much silence a TCP connection is probed, and then how often.
struct Probe {
    after: Duration,
    every: Duration,
}

/// Has the system find out whether somebody is still at the other end.
pub(super) fn keep_alive(tcp: &TcpStream) -> io::Result<()> {
    set_probe(tcp, probe_for(tcp.peer_addr()?.ip()))
}

fn probe_for(peer: IpAddr) -> Probe {
    if peer.to_canonical().is_loopback() { PROBE_HERE } else { PROBE_ELSEWHERE }
}

fn set_probe(tcp: &TcpStream, probe: Probe) -> io::Result<()> {
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, probe.after)?;
    sockopt::set_tcp_keepintvl(tcp, probe.every)?;
    Ok(sockopt::set_tcp_keepcnt(tcp, PROBES)?)
}

/// Moves bytes in both directions until both have ended; what was read from the application before goes up first.
pub(super) async fn tunnel(
    application: &Application,
    mut stream: CircuitStream,
    early: Vec<u8>,
) -> io::Result<()> {
    let progress = Progress { stream: stream.meter(), ..Progress::default() };
    let moves = async {
        match application {
            Application::Tcp(tcp) => splice_counted(stream, tcp, early, &progress.moved).await,
            Application::Unix(_) => {
                let half = || Counted { application, progress: &progress };
                let mut ours = tokio::io::join(early.as_slice().chain(half()), half());
                copy_bidirectional(&mut stream, &mut ours).await.map(drop)
            }
        }
    };
    while_there(application, &progress, LOOK_EVERY, Limits::default(), moves).await
}

/// Passes on what was read of a request before, the rest of its body, and then the answer, which may come before the body has
/// ended; what comes behind the body is not the target's.
pub(super) async fn forward(
    application: &mut Application,
    stream: (impl AsyncRead + AsyncWrite, Option<StreamMeter>),
    early: Vec<u8>,
    body: Body,
) -> io::Result<()> {
    forward_both(application, stream, early, body).await?;
    application.close().await
}

async fn forward_both(
    application: &Application,
    (stream, meter): (impl AsyncRead + AsyncWrite, Option<StreamMeter>),
    early: Vec<u8>,
    body: Body,
) -> io::Result<()> {
    let progress = Progress { stream: meter, ..Progress::default() };
    let half = || Counted { application, progress: &progress };
    let (mut read, mut write) = (half(), half());
    let (mut from_target, mut to_target) = tokio::io::split(stream);
    let up = async {
        if to_target.write_all(&early).await.is_ok() {
            pass_body(&mut read, &mut to_target, body).await?;
        }
        // Whoever only has no more to say is not to be cut off. No half-close towards the target: some servers take it for
        // the end of the whole connection.
        tokio::io::copy(&mut read, &mut tokio::io::sink()).await?;
        std::future::pending().await
    };
    let down = async {
        pass_head(&mut from_target, &mut write).await?;
        tokio::io::copy(&mut from_target, &mut write).await.map(drop)
    };
    let moves = async {
        tokio::select! {
            result = up => result,
            result = down => result,
        }
    };
    while_there(application, &progress, LOOK_EVERY, Limits::default(), moves).await
}

/// Passes on a body up to its end, or until the target takes no more of it: the answer says why, or its end does.
async fn pass_body(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut body: Body,
) -> io::Result<()> {
    let mut buffer = vec![0; BODY_READ_LEN];
    while !body.is_complete() {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let taken =
            body.take(&buffer[..count]).map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))?;
        if to.write_all(&buffer[..taken]).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Passes on an answer up to the end of its head, or all of it.
async fn pass_head(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let (mut passed, mut buffer) = (Passed::default(), vec![0; READ_LEN]);
    while !passed.is_done() {
        let out = match from.read(&mut buffer).await? {
            0 => passed.finish(),
            count => passed.take(&buffer[..count]),
        };
        to.write_all(&out).await?;
    }
    Ok(())
}

/// What has happened on an application's connection so far.
#[derive(Default)]
struct Progress {
    /// Bytes read from and written to it.
    moved: AtomicU64,
    /// The stream that has the bytes which the application has said already.
    stream: Option<StreamMeter>,
    /// Whether we have ended our half.
    ended: AtomicBool,
}

impl Progress {
    fn total(&self) -> u64 {
        let sent = self.stream.as_ref().and_then(StreamMeter::totals).map_or(0, |totals| totals.sent);
        self.moved.load(Ordering::Relaxed).wrapping_add(sent)
    }

    /// How one is that has closed: some of what it said may not have left yet.
    fn left(&self) -> Seen {
        let unsent = self.stream.as_ref().map_or(0, StreamMeter::unsent);
        if unsent > 0 { Seen::Leaving } else { Seen::Gone }
    }
}

async fn while_there(
    application: &Application,
    progress: &Progress,
    look_every: Duration,
    limits: Limits,
    moves: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let result = tokio::select! {
        result = moves => result,
        error = abandoned(application, progress, look_every, limits) => Err(error),
    };
    if let (Err(_), Some(tcp)) = (&result, application.as_tcp()) {
        reset_when_closed(tcp);
    }
    result
}

/// Completes when the application has closed or ended its half, and nothing has happened for long.
async fn abandoned(
    application: &Application,
    progress: &Progress,
    look_every: Duration,
    limits: Limits,
) -> io::Error {
    let mut quiet = Quiet::new(limits);
    loop {
        let seen = match look(application, progress.ended.load(Ordering::Relaxed)).await {
            Ok(Seen::Gone) => progress.left(),
            Ok(seen) => seen,
            Err(error) => return error,
        };
        if quiet.is_over(seen, progress.total(), look_every) {
            return reset(application).unwrap_or_else(|| io::ErrorKind::TimedOut.into());
        }
        sleep(look_every).await;
    }
}

/// Completes when the application has closed or reset its connection, as far as the system can tell.
pub(super) async fn gone(application: &Application) -> io::Error {
    loop {
        match look(application, false).await {
            Ok(Seen::Gone) => {
                return reset(application).unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
            }
            Ok(_) => sleep(LOOK_EVERY).await,
            Err(error) => return error,
        }
    }
}

/// Why the connection broke, if it did. Only for a connection that is given up: the system tells it once, and whoever reads
/// would then take the end for an orderly one.
fn reset(application: &Application) -> Option<io::Error> {
    application.as_tcp().and_then(|tcp| tcp.take_error().ok().flatten())
}

/// What the system says of the other end. Waits as long as nothing at all comes from it, so that a connection on which
/// nothing happens wakes nobody.
async fn look(application: &Application, we_have_ended: bool) -> io::Result<Seen> {
    let ready = match application {
        Application::Tcp(tcp) => tcp.ready(Interest::READABLE).await?,
        Application::Unix(unix) => unix.ready(Interest::READABLE).await?,
    };
    if !ready.is_read_closed() {
        return Ok(Seen::Open);
    }
    // Does not wait, now that the other half has ended.
    let interest = Interest::READABLE | Interest::WRITABLE | Interest::ERROR;
    let (ready, gone): (Ready, bool) = match application {
        Application::Tcp(tcp) => {
            let ready = tcp.ready(interest).await?;
            (ready, ready.is_error())
        }
        // Here the system tells a half that was ended from an end that was closed, as long as ours is open.
        Application::Unix(unix) => {
            let ready = unix.ready(interest).await?;
            (ready, ready.is_write_closed() && !we_have_ended)
        }
    };
    Ok(match (gone, ready.is_writable()) {
        (true, _) => Seen::Gone,
        (false, true) => Seen::HalfClosed,
        (false, false) => Seen::Behind,
    })
}

/// An application's connection, counted. One may read while another writes.
struct Counted<'a> {
    application: &'a Application,
    progress: &'a Progress,
}

impl Counted<'_> {
    fn count(&self, bytes: usize) {
        self.progress.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl AsyncRead for Counted<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.application.poll_read_ready(cx))?;
            match self.application.try_read(buf.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    let count = read?;
                    buf.advance(count);
                    self.count(count);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Counted<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.application.poll_write_ready(cx))?;
            match self.application.try_write(data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    self.count(*written.as_ref().unwrap_or(&0));
                    return Poll::Ready(written);
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.progress.ended.store(true, Ordering::Relaxed);
        Poll::Ready(self.application.end_half())
    }
}

#[cfg(test)]
#[path = "passing_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "broken_tests.rs"]
mod broken_tests;
