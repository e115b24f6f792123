//! A web server, so that a network without internet has something to visit: a page, and `/bytes/N` for N bytes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tunic_net::daemon::shutdown_signal;

use crate::launch::ready::PAGE;

/// Visitors at a time; further ones wait.
const MAX_VISITORS: usize = 256;
const MAX_REQUEST_LEN: usize = 8 << 10;
/// How long a request may take to come.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// Bytes that `/bytes/N` gives at most.
const MAX_BYTES: u64 = 1 << 40;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What `/bytes/N` repeats. Its length is prime, so that blocks that are lost or swapped show.
const PIECE_LEN: usize = 65_521;

/// Serves until a signal ends it.
///
/// # Errors
/// If the address cannot be listened at.
pub(super) async fn run(address: SocketAddr) -> anyhow::Result<()> {
    let ended = shutdown_signal();
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen at {address}"))?;
    tokio::select! {
        () = serve(listener) => Ok(()),
        () = ended => Ok(()),
    }
}

/// Serves; never ends by itself.
pub(super) async fn serve(listener: TcpListener) {
    let free = Arc::new(Semaphore::new(MAX_VISITORS));
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        let Ok((visitor, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        tokio::spawn(async move {
            let _held = permit;
            // A visitor who breaks off is no reason to say anything.
            let _ = answer(visitor).await;
        });
    }
}

async fn answer(mut visitor: TcpStream) -> io::Result<()> {
    let request = timeout(REQUEST_LIMIT, request(&mut visitor)).await??;
    let path = request.strip_prefix("GET ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    let wanted = path.strip_prefix("/bytes/").and_then(|count| count.parse().ok());
    match (path, wanted) {
        ("/", _) => {
            visitor.write_all(head("200 OK", PAGE.len() as u64).as_bytes()).await?;
            visitor.write_all(PAGE.as_bytes()).await?;
        }
        (_, Some(count)) if count <= MAX_BYTES => {
            visitor.write_all(head("200 OK", count).as_bytes()).await?;
            send(&mut visitor, count).await?;
        }
        _ => visitor.write_all(head("404 Not Found", 0).as_bytes()).await?,
    }
    visitor.shutdown().await
}

async fn request(visitor: &mut TcpStream) -> io::Result<String> {
    let mut request = Vec::with_capacity(MAX_REQUEST_LEN);
    while !request.ends_with(b"\r\n\r\n") && request.len() < MAX_REQUEST_LEN {
        if visitor.read_buf(&mut request).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(String::from_utf8_lossy(&request).into_owned())
}

fn head(status: &str, length: u64) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )
}

async fn send(visitor: &mut TcpStream, count: u64) -> io::Result<()> {
    let piece: Vec<u8> = (0..PIECE_LEN).map(|number| (number % 251) as u8).collect();
    let mut left = count;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(PIECE_LEN).min(PIECE_LEN);
        visitor.write_all(&piece[..now]).await?;
        left -= now as u64;
    }
    Ok(())
}
