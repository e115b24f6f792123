//! A TCP port here that leads to another one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Connections through one port at a time; further ones wait.
const MAX_CONNECTIONS: usize = 1_024;
/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Pause after the system refused to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Carries each connection on to the host, whose name is looked up anew; never ends by itself, and with it end the
/// connections.
pub(super) async fn forward(listener: TcpListener, host: String, port: u16) {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        let Ok((connection, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let host = host.clone();
        connections.spawn(async move {
            let _held = permit;
            if let Err(error) = carry(connection, &host, port).await {
                tracing::debug!("a connection to {host} broke: {error}");
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(mut near: TcpStream, host: &str, port: u16) -> io::Result<()> {
    let mut far = timeout(CONNECT_LIMIT, TcpStream::connect((host, port))).await??;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    copy_bidirectional(&mut near, &mut far).await.map(|_| ())
}

/// A port of this loopback that leads to the host, and where it is.
///
/// # Errors
/// If no port can be had.
pub(super) async fn loopback_port() -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn bytes_and_ends_go_both_ways() {
        let (target, target_address) = loopback_port().await.unwrap();
        let (listener, address) = loopback_port().await.unwrap();
        let forwarder = tokio::spawn(forward(listener, "localhost".into(), target_address.port()));
        let mut near = TcpStream::connect(address).await.unwrap();
        let (mut far, _) = target.accept().await.unwrap();
        near.write_all(b"question").await.unwrap();
        near.shutdown().await.unwrap();
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        far.write_all(b"answer").await.unwrap();
        drop(far);
        near.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "questionanswer");
        forwarder.abort();
    }

    #[tokio::test]
    async fn where_nobody_listens_the_connection_ends_and_the_next_is_tried_again() {
        let (gone, gone_address) = loopback_port().await.unwrap();
        drop(gone);
        let (listener, address) = loopback_port().await.unwrap();
        let forwarder = tokio::spawn(forward(listener, "127.0.0.1".into(), gone_address.port()));
        for _ in 0..2 {
            let mut near = TcpStream::connect(address).await.unwrap();
            assert!(matches!(near.read(&mut [0; 1]).await, Ok(0) | Err(_)));
        }
        forwarder.abort();
    }
}
