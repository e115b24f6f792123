//! A page over HTTP, straight or through a SOCKS5 port: enough for a container that holds nothing but this program.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::launch::socks;

/// A response's head may have so many bytes.
const MAX_HEAD_LEN: usize = 16 << 10;
const PIECE_LEN: usize = 64 << 10;
/// How long connecting may take: where packets are dropped, no answer ever comes.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Where a page is: `http://HOST:PORT/PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    host: String,
    port: u16,
    path: String,
}

/// A URL that this program does not fetch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write http://HOST:PORT/PATH")]
pub(super) struct UrlError;

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let rest = text.strip_prefix("http://").ok_or(UrlError)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
        let port = port.parse().map_err(|_| UrlError)?;
        let is_sound = |text: &str| !text.contains(|c: char| c.is_ascii_control() || c.is_whitespace());
        if host.is_empty() || !is_sound(text) {
            return Err(UrlError);
        }
        Ok(Url { host: host.to_owned(), port, path: format!("/{path}") })
    }
}

/// Prints the page.
///
/// # Errors
/// If it does not come, or with another status than 200.
pub(super) async fn print(socks: Option<SocketAddr>, url: Url) -> anyhow::Result<()> {
    fetch(socks, &url, &mut io::stdout().lock()).await
}

/// Writes the page's body out as it comes.
///
/// # Errors
/// As [`print`].
pub(super) async fn fetch(socks: Option<SocketAddr>, url: &Url, out: &mut impl Write) -> anyhow::Result<()> {
    let mut connection = match socks {
        Some(socks) => {
            let connection = TcpStream::connect(socks).await.context("no SOCKS port")?;
            socks::connect(connection, &url.host, url.port).await?
        }
        None => {
            let connected = timeout(CONNECT_LIMIT, TcpStream::connect((url.host.as_str(), url.port))).await;
            connected.context("no connection in time")?.context("no connection")?
        }
    };
    let Url { host, port, path } = url;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut pieces = vec![0; PIECE_LEN];
    let mut head = Vec::new();
    let body = loop {
        let count = connection.read(&mut pieces).await?;
        ensure!(count > 0 && head.len() < MAX_HEAD_LEN, "the response has no head");
        head.extend_from_slice(&pieces[..count]);
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break head.split_off(end + 4);
        }
    };
    let status = String::from_utf8_lossy(head.split(|byte| *byte == b'\r').next().unwrap_or_default());
    ensure!(status.split(' ').nth(1) == Some("200"), "the server said: {status}");
    out.write_all(&body)?;
    loop {
        match connection.read(&mut pieces).await? {
            0 => return Ok(out.flush()?),
            count => out.write_all(&pieces[..count])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::web;
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn urls_are_taken_apart() {
        let check = |text: &str, expect: Option<(&str, u16, &str)>| {
            let expect = expect.map(|(host, port, path)| Url { host: host.into(), port, path: path.into() });
            assert_eq!(text.parse().ok(), expect, "{text}");
        };
        check("http://web:8080/bytes/7", Some(("web", 8080, "/bytes/7")));
        check("http://web", Some(("web", 80, "/")));
        check("https://web/", None);
        check("http://web:port/", None);
        check("http://web/a b", None);
        check("http:///", None);
    }

    #[tokio::test]
    async fn a_page_comes_whole_and_what_is_missing_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(web::serve(listener));
        let mut body = Vec::new();
        fetch(None, &format!("http://{address}/bytes/200000").parse().unwrap(), &mut body).await.unwrap();
        assert_eq!(body.len(), 200_000);
        let missing = format!("http://{address}/nothing").parse().unwrap();
        let error = fetch(None, &missing, &mut body).await.unwrap_err().to_string();
        assert!(error.contains("404"), "{error}");
        server.abort();
    }
}
