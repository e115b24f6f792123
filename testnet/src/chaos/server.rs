//! What is downloaded, and who serves it.
//!
//! A request is two big-endian `u64`: where to begin in an endless text that a seed makes, and how many bytes; the answer is
//! those bytes. Who asks for everything ([`ENDLESS`]) gets it at a moderate rate.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::wires::WEB_ADDRESS;

/// Asks for bytes without end.
pub const ENDLESS: u64 = u64::MAX;
/// A request's length.
const REQUEST_LEN: usize = 16;
/// What the text repeats. Its length is prime, so that blocks that are lost or swapped show.
const PERIOD: usize = 65_521;
/// Bytes written at once.
const WRITE_LEN: usize = 16 << 10;
/// Between two writes of an endless answer: 256 KiB/s.
const PAUSE: Duration = Duration::from_millis(62);
/// Connections at once; more are closed at once.
const MAX_CONNECTIONS: usize = 256;
const PORT: u16 = 80;

/// An endless text.
#[derive(Clone)]
pub struct Text(Arc<[u8]>);

impl Text {
    /// The text of this seed.
    pub fn new(seed: u64) -> Text {
        let mut period = vec![0; PERIOD];
        ChaCha20Rng::seed_from_u64(seed).fill_bytes(&mut period);
        Text(period.into())
    }

    /// The text from here on, up to `max` bytes of it, at least one.
    fn from(&self, place: u64, max: usize) -> &[u8] {
        let begin = usize::try_from(place % PERIOD as u64).unwrap_or_default();
        &self.0[begin..PERIOD.min(begin.saturating_add(max))]
    }

    /// Whether these bytes are what the text has here.
    pub fn has(&self, mut place: u64, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let expected = self.from(place, bytes.len());
            let (now, later) = bytes.split_at(expected.len());
            if now != expected {
                return false;
            }
            (place, bytes) = (place.wrapping_add(now.len() as u64), later);
        }
        true
    }
}

/// The bytes that ask for a part of the text.
pub fn request(place: u64, count: u64) -> [u8; REQUEST_LEN] {
    let mut request = [0; REQUEST_LEN];
    request[..8].copy_from_slice(&place.to_be_bytes());
    request[8..].copy_from_slice(&count.to_be_bytes());
    request
}

/// Who asked last.
pub type LastVisitor = Arc<Mutex<Option<IpAddr>>>;

/// The socket for [`serve`].
///
/// # Errors
/// If the address is not there, or the port taken.
pub fn bind() -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(SocketAddr::from((WEB_ADDRESS, PORT)))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves for good.
pub async fn serve(listener: TcpListener, text: Text, last: LastVisitor) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((connection, visitor)) if connections.len() < MAX_CONNECTIONS => {
                    *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(visitor.ip());
                    let text = text.clone();
                    // A visitor who breaks off is no reason to stop serving.
                    connections.spawn(async move { answer(connection, &text).await.ok() });
                }
                _ => {}
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(mut connection: TcpStream, text: &Text) -> io::Result<()> {
    let mut place = connection.read_u64().await?;
    let count = connection.read_u64().await?;
    let mut left = count;
    while left > 0 {
        let bytes = text.from(place, usize::try_from(left).unwrap_or(WRITE_LEN).min(WRITE_LEN));
        connection.write_all(bytes).await?;
        place = place.wrapping_add(bytes.len() as u64);
        if count == ENDLESS {
            sleep(PAUSE).await;
        } else {
            left -= bytes.len() as u64;
        }
    }
    connection.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_asked_for_comes_and_a_wrong_byte_shows() {
        let text = Text::new(7);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connection = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let last = LastVisitor::default();
        tokio::spawn(serve(listener, text.clone(), Arc::clone(&last)));
        let place = PERIOD as u64 * 3 - 5;
        connection.write_all(&request(place, 200_000)).await.unwrap();
        let mut bytes = Vec::new();
        connection.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes.len(), 200_000);
        assert!(text.has(place, &bytes) && !text.has(place + 1, &bytes) && !Text::new(8).has(place, &bytes));
        bytes[199_999] ^= 1;
        assert!(!text.has(place, &bytes));
        assert_eq!(last.lock().unwrap().unwrap().to_string(), "127.0.0.1");
    }
}
