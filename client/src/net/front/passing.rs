//! Bytes between an application and its stream, for as long as somebody is there who wants them.
//!
//! 1. A tunnel moves bytes in both directions, half-close included, until both have ended. A plain HTTP request goes up, its
//!    answer comes down, and that is all.
//! 2. Whoever has ended its half may still read, or be gone: TCP does not tell. Keepalive probes find out, a minute or so later,
//!    since the system of a program that is gone answers them with a reset.
//! 3. From time to time it is looked whether the application is still there (`core::front::quiet`).

use std::io;
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
use tunic_net::channel::{CircuitStream, splice_counted};

use super::Application;
use crate::core::front::http::{Body, Passed};
use crate::core::front::quiet::{Limits, Quiet, Seen};

const READ_LEN: usize = 4 * 1024;
const BODY_READ_LEN: usize = 32 * 1024;
/// How often it is looked whether an application is still there.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// After how much silence a TCP connection is probed, then how often, and how many probes may be lost.
const PROBE_AFTER: Duration = Duration::from_secs(20);
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBES: u32 = 6;

/// Has the system find out whether somebody is still at the other end.
pub(super) fn keep_alive(tcp: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(tcp, PROBE_EVERY)?;
    Ok(sockopt::set_tcp_keepcnt(tcp, PROBES)?)
}

/// Moves bytes in both directions until both have ended.
pub(super) async fn tunnel(application: &Application, mut stream: CircuitStream) -> io::Result<()> {
    let progress = Progress::default();
    let moves = async {
        match application {
            Application::Tcp(tcp) => splice_counted(stream, tcp, &progress.moved).await,
            Application::Unix(_) => {
                let mut ours = Counted { application, progress: &progress };
                copy_bidirectional(&mut stream, &mut ours).await.map(drop)
            }
        }
    };
    while_there(application, &progress, moves).await
}

/// Passes on the rest of a request's body and then the answer; what comes behind the body is not the target's.
pub(super) async fn forward(
    application: &Application,
    stream: impl AsyncRead + AsyncWrite,
    body: Body,
) -> io::Result<()> {
    let progress = Progress::default();
    let half = || Counted { application, progress: &progress };
    let (mut read, mut write) = (half(), half());
    let (mut from_target, mut to_target) = tokio::io::split(stream);
    let up = async {
        pass_body(&mut read, &mut to_target, body).await?;
        // Whoever only has no more to say is not to be cut off. No half-close towards the target: some servers take it for
        // the end of the whole connection.
        tokio::io::copy(&mut read, &mut tokio::io::sink()).await?;
        std::future::pending().await
    };
    let down = async {
        pass_head(&mut from_target, &mut write).await?;
        tokio::io::copy(&mut from_target, &mut write).await?;
        write.shutdown().await
    };
    let moves = async {
        tokio::select! {
            result = up => result,
            result = down => result,
        }
    };
    while_there(application, &progress, moves).await
}

/// Passes on a body up to its end.
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
        to.write_all(&buffer[..taken]).await?;
    }
    Ok(())
}

/// Passes on an answer up to the end of its head, or all of it.
async fn pass_head(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let (mut passed, mut buffer) = (Passed::default(), [0; READ_LEN]);
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
    moved: AtomicU64,
    /// Whether we have ended our half.
    ended: AtomicBool,
}

async fn while_there(
    application: &Application,
    progress: &Progress,
    moves: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    tokio::select! {
        result = moves => result,
        error = abandoned(application, progress, LOOK_EVERY, Limits::default()) => Err(error),
    }
}

/// Completes when the application is gone, or has ended its half and nothing has happened for long.
async fn abandoned(
    application: &Application,
    progress: &Progress,
    look_every: Duration,
    limits: Limits,
) -> io::Error {
    let mut quiet = Quiet::new(limits);
    loop {
        sleep(look_every).await;
        let seen = match look(application, progress.ended.load(Ordering::Relaxed)).await {
            Ok(seen) => seen,
            Err(error) => return error,
        };
        if quiet.is_over(seen, progress.moved.load(Ordering::Relaxed), look_every) {
            return io::ErrorKind::TimedOut.into();
        }
    }
}

/// Completes when the application has closed or reset its connection, as far as the system can tell.
pub(super) async fn gone(application: &Application) -> io::Error {
    loop {
        sleep(LOOK_EVERY).await;
        match look(application, false).await {
            Ok(Seen::Gone) => return io::ErrorKind::UnexpectedEof.into(),
            Ok(Seen::Open | Seen::HalfClosed) => {}
            Err(error) => return error,
        }
    }
}

/// What the system says of the other end; an error if the connection was reset.
async fn look(application: &Application, we_have_ended: bool) -> io::Result<Seen> {
    // Never waits for one whose other end has closed.
    let interest = Interest::READABLE | Interest::WRITABLE;
    let (ready, gone): (Ready, bool) = match application {
        Application::Tcp(tcp) => {
            let ready = tcp.ready(interest).await?;
            if let Some(error) = tcp.take_error()? {
                return Err(error);
            }
            (ready, false)
        }
        // Here the system tells a half that was ended from an end that was closed, as long as ours is open.
        Application::Unix(unix) => {
            let ready = unix.ready(interest).await?;
            (ready, ready.is_write_closed() && !we_have_ended)
        }
    };
    Ok(match (gone, ready.is_read_closed()) {
        (true, _) => Seen::Gone,
        (false, true) => Seen::HalfClosed,
        (false, false) => Seen::Open,
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
