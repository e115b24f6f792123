//! The server of all sites. It knows none of them: a request says how much is asked for and how long to think.
//!
//! A request is three big-endian `u32`, its own length, that of the response and milliseconds to think, then zeros up to
//! its length. Requests follow each other on a connection until it is closed.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::sites::Object;

/// Where it listens, at every address of its namespace.
pub const PORT: u16 = 80;
/// The longest request and response that it takes part in.
const MAX_LEN: u32 = 1 << 20;
/// The longest that it thinks.
const MAX_THINKING_MS: u32 = 10_000;
/// Connections at once; more are closed at once.
const MAX_CONNECTIONS: usize = 1_024;
const HEAD_LEN: usize = 12;

/// The bytes that ask for an object.
pub fn request(object: &Object) -> Vec<u8> {
    let mut request = vec![0; (object.request_len as usize).max(HEAD_LEN)];
    let think_ms = u32::try_from(object.think.as_millis()).unwrap_or(MAX_THINKING_MS);
    let head = [object.request_len.max(HEAD_LEN as u32), object.response_len, think_ms];
    for (field, value) in request.chunks_exact_mut(4).zip(head) {
        field.copy_from_slice(&value.to_be_bytes());
    }
    request
}

/// Serves for good.
pub async fn serve(listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((connection, _)) if connections.len() < MAX_CONNECTIONS => {
                    // A visitor who breaks off is no reason to stop serving.
                    connections.spawn(async move { answer(connection).await.ok() });
                }
                _ => {}
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The socket for [`serve`].
///
/// # Errors
/// If the port is taken.
pub fn bind() -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], PORT)))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn answer(mut connection: TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut rest = Vec::new();
    loop {
        let asked = connection.read_u32().await?;
        let wanted = connection.read_u32().await?;
        let think_ms = connection.read_u32().await?;
        let fits = (HEAD_LEN as u32..=MAX_LEN).contains(&asked);
        if !fits || wanted > MAX_LEN || think_ms > MAX_THINKING_MS {
            return Err(io::ErrorKind::InvalidData.into());
        }
        rest.resize(asked as usize - HEAD_LEN, 0);
        connection.read_exact(&mut rest).await?;
        tokio::time::sleep(Duration::from_millis(think_ms.into())).await;
        connection.write_all(&vec![0; wanted as usize]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn connected() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tokio::spawn(serve(listener));
        connection
    }

    #[tokio::test]
    async fn objects_come_one_after_the_other_as_long_as_asked() {
        let mut connection = connected().await;
        for (request_len, response_len) in [(12, 1), (500, 70_000), (0, 3)] {
            let zero = Duration::ZERO;
            let object = Object { request_len, response_len, think: zero, offset: zero };
            connection.write_all(&request(&object)).await.unwrap();
            connection.read_exact(&mut vec![0; response_len as usize]).await.unwrap();
        }
    }

    #[tokio::test]
    async fn who_asks_for_too_much_is_cut_off() {
        for head in [[11_u32, 1, 0], [12, MAX_LEN + 1, 0], [12, 1, MAX_THINKING_MS + 1]] {
            let mut connection = connected().await;
            let bytes: Vec<u8> = head.into_iter().flat_map(u32::to_be_bytes).collect();
            connection.write_all(&bytes).await.unwrap();
            assert_eq!(connection.read_u8().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
