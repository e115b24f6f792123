//! A connection from an application, over TCP or a Unix socket.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::RecvFlags;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf, copy_bidirectional,
};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tunic_net::channel::{CircuitStream, splice};

use crate::core::front::http::{Body, Passed};

const READ_LEN: usize = 4 * 1024;
const BODY_READ_LEN: usize = 32 * 1024;
/// Bytes that are read and thrown away, and for how long, so that a refusal arrives before the connection is reset.
const MAX_DRAINED: usize = 64 * 1024;
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

    /// Completes when the application has closed its end or is gone. Not once it has sent something that was not read:
    /// what follows that cannot be seen without taking it.
    pub(in crate::net) async fn left(&self) -> io::Error {
        loop {
            let readable = match self {
                Application::Tcp(tcp) => tcp.readable().await,
                Application::Unix(unix) => unix.readable().await,
            };
            let seen = readable.and_then(|()| match self {
                Application::Tcp(tcp) => tcp.try_io(Interest::READABLE, || peek(tcp)),
                Application::Unix(unix) => unix.try_io(Interest::READABLE, || peek(unix)),
            });
            match seen {
                Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
                Ok(_) => return std::future::pending().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return error,
            }
        }
    }

    /// Moves bytes in both directions until both have ended.
    pub(super) async fn splice(self, mut stream: CircuitStream) -> io::Result<()> {
        match self {
            Application::Tcp(tcp) => splice(stream, tcp).await,
            Application::Unix(mut unix) => copy_bidirectional(&mut stream, &mut unix).await.map(drop),
        }
    }

    /// Passes on the rest of a request's body and then the answer; what comes behind the body is not the target's.
    pub(super) async fn forward(mut self, stream: CircuitStream, body: Body) -> io::Result<()> {
        let (mut from_target, mut to_target) = tokio::io::split(stream);
        let (mut read, mut write) = tokio::io::split(&mut self);
        let up = async {
            pass_body(&mut read, &mut to_target, body).await?;
            // Whoever goes away altogether is noticed; whoever only has no more to say is not to be cut off. No half-close
            // towards the target: some servers take it for the end of the whole connection.
            tokio::io::copy(&mut read, &mut tokio::io::sink()).await?;
            std::future::pending().await
        };
        let down = async {
            pass_head(&mut from_target, &mut write).await?;
            tokio::io::copy(&mut from_target, &mut write).await?;
            write.shutdown().await
        };
        tokio::select! {
            result = up => result,
            result = down => result,
        }
    }

    /// Answers and closes. Closing with unread bytes would reset the connection, and the answer might not be seen.
    pub(in crate::net) async fn close_with(&mut self, answer: &[u8]) -> io::Result<()> {
        self.write_all(answer).await?;
        self.shutdown().await?;
        let mut buffer = [0; READ_LEN];
        let drain = async {
            let mut drained = 0;
            while drained < MAX_DRAINED {
                match self.read(&mut buffer).await? {
                    0 => break,
                    count => drained += count,
                }
            }
            io::Result::Ok(())
        };
        timeout(DRAIN_TIMEOUT, drain).await.unwrap_or(Ok(()))
    }
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

/// Bytes to read, one at most; 0 at the end.
fn peek(socket: &impl AsFd) -> io::Result<usize> {
    let (_, count) = rustix::net::recv(socket, &mut [0_u8; 1][..], RecvFlags::PEEK)?;
    Ok(count)
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
