//! Whether the network works, measured: a byte is fetched through it from a page that the launcher itself serves.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::socks;

/// What the launcher's page says.
pub const PAGE: &str = "You see this page through three relays.\n";

const MAX_REQUEST_LEN: usize = 8 << 10;

/// A page, served until this is dropped.
pub struct Page {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Page {
    /// Serves [`PAGE`] at this socket.
    ///
    /// # Errors
    /// If the socket cannot be used.
    pub fn serve(listener: std::net::TcpListener) -> io::Result<Page> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                // A visitor who breaks off is no reason to stop serving.
                let _ = answer(connection).await;
            }
        });
        Ok(Page { address, task })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut connection: TcpStream) -> io::Result<()> {
    let mut request = Vec::with_capacity(MAX_REQUEST_LEN);
    while !request.ends_with(b"\r\n\r\n") && request.len() < MAX_REQUEST_LEN {
        if connection.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n";
    let response = format!("{head}Content-Length: {}\r\n\r\n{PAGE}", PAGE.len());
    connection.write_all(response.as_bytes()).await?;
    connection.shutdown().await
}

/// The request for [`PAGE`].
pub fn request(page: SocketAddr) -> String {
    format!("GET / HTTP/1.1\r\nHost: {page}\r\nConnection: close\r\n\r\n")
}

/// Fetches the first byte of the page through the SOCKS5 port (RFC 1928), over a fresh socket.
///
/// # Errors
/// If the port does not answer, refuses, or the page does not come.
pub async fn fetch_first_byte(socket: TcpSocket, socks: SocketAddr, page: SocketAddr) -> io::Result<()> {
    let connection = socket.connect(socks).await?;
    let mut connection = socks::connect(connection, &page.ip().to_string(), page.port()).await?;
    connection.write_all(request(page).as_bytes()).await?;
    connection.read_u8().await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_page_is_served_to_more_than_one_visitor() {
        let page = Page::serve(std::net::TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        for _ in 0..2 {
            let mut connection = TcpStream::connect(page.address()).await.unwrap();
            connection.write_all(request(page.address()).as_bytes()).await.unwrap();
            let mut response = String::new();
            connection.read_to_string(&mut response).await.unwrap();
            assert!(response.starts_with("HTTP/1.1 200") && response.ends_with(PAGE), "{response}");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_told_with_its_code() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socks = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = [0; 13];
            connection.write_all(&[5, 0]).await.unwrap();
            connection.read_exact(&mut request).await.unwrap();
            connection.write_all(&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
        });
        let error = fetch_first_byte(TcpSocket::new_v4().unwrap(), socks, "127.0.0.1:80".parse().unwrap())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("code 4"), "{error}");
        server.await.unwrap();
    }
}
