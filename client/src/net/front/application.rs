//! A connection from an application, over TCP or a Unix socket.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::passing;

const READ_LEN: usize = 4 * 1024;
/// Bytes that are read and thrown away, and for how long, so that an answer arrives before the connection is reset.
const MAX_DRAINED: usize = 1024 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// One end of the connection.
pub(in crate::net) enum Application {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Application {
    /// Where it comes from; `None` for a Unix socket.
    pub(super) fn address(&self) -> Option<IpAddr> {
        match self {
            Application::Tcp(tcp) => tcp.peer_addr().ok().map(|address| address.ip().to_canonical()),
            Application::Unix(_) => None,
        }
    }

    pub(in crate::net) fn as_tcp(&self) -> Option<&TcpStream> {
        match self {
            Application::Tcp(tcp) => Some(tcp),
            Application::Unix(_) => None,
        }
    }

    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Application::Tcp(tcp) => tcp.poll_read_ready(cx),
            Application::Unix(unix) => unix.poll_read_ready(cx),
        }
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Application::Tcp(tcp) => tcp.poll_write_ready(cx),
            Application::Unix(unix) => unix.poll_write_ready(cx),
        }
    }

    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Application::Tcp(tcp) => tcp.try_read(buffer),
            Application::Unix(unix) => unix.try_read(buffer),
        }
    }

    pub(super) fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        match self {
            Application::Tcp(tcp) => tcp.try_write(data),
            Application::Unix(unix) => unix.try_write(data),
        }
    }

    /// Half-closes.
    pub(super) fn end_half(&self) -> io::Result<()> {
        let end = Shutdown::Write;
        let ended = match self {
            Application::Tcp(tcp) => rustix::net::shutdown(tcp, end),
            Application::Unix(unix) => rustix::net::shutdown(unix, end),
        };
        Ok(ended?)
    }

    /// Completes when the application is gone. Whoever has only ended its half may still wait for an answer.
    pub(in crate::net) async fn left(&self) -> io::Error {
        passing::gone(self).await
    }

    /// Has `take` see what comes, a piece of it; its length, 0 at the end. The buffer is on the stack, so that whoever says
    /// nothing takes no memory for it.
    pub(in crate::net) async fn read_to(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<usize> {
        poll_fn(|cx| {
            let mut space = [MaybeUninit::uninit(); READ_LEN];
            let mut buffer = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut *self).poll_read(cx, &mut buffer))?;
            take(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
        .await
    }

    /// Answers and closes.
    pub(in crate::net) async fn close_with(&mut self, answer: &[u8]) -> io::Result<()> {
        self.write_all(answer).await?;
        self.close().await
    }

    /// Closes. Doing that with unread bytes would reset the connection, and what was said last might not be seen.
    pub(super) async fn close(&mut self) -> io::Result<()> {
        self.shutdown().await?;
        let drain = async {
            let mut drained = 0;
            while drained < MAX_DRAINED {
                match self.read_to(|_| {}).await? {
                    0 => break,
                    count => drained += count,
                }
            }
            io::Result::Ok(())
        };
        timeout(DRAIN_TIMEOUT, drain).await.unwrap_or(Ok(()))
    }
}

impl AsyncRead for Application {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Application::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Application::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Application {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Application::Tcp(tcp) => Pin::new(tcp).poll_write(cx, data),
            Application::Unix(unix) => Pin::new(unix).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Application::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Application::Unix(unix) => Pin::new(unix).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Application::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Application::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
}
