//! Small pages over HTTP/1.1 for whoever looks: an exit's notice, metrics.
//!
//! One request a connection, `GET` or `HEAD`; bounded in connections, bytes and time; nothing is logged.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::daemon;

/// Connections at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// How long a request may take to arrive, and the answer to be taken.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest head of a request in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Pause after the system refused to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A page runs nothing, loads nothing and is shown in no frame.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

/// A page.
#[derive(Debug, Clone)]
pub struct Page {
    /// Its `Content-Type`.
    pub content_type: &'static str,
    /// What it holds.
    pub body: Bytes,
}

/// Who may look at pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Whoever reaches the listener.
    Everybody,
    /// Programs of this machine that mean it: requests that pages of other sites make browsers send are refused, by
    /// their `Origin` and by a `Host` that is a name (DNS rebinding).
    Local,
}

/// Listens at an address, which the setting of this name holds. To be called inside a tokio runtime.
///
/// # Errors
/// Why not, and what to do about it.
pub fn bind(at: SocketAddr, setting: &'static str) -> anyhow::Result<TcpListener> {
    let listener = daemon::bind(at, setting)?;
    listener.set_nonblocking(true).context("a listening socket cannot be used")?;
    TcpListener::from_std(listener).context("a listening socket cannot be used")
}

/// Answers requests until dropped; `page` gives the page at a path, if there is one.
pub async fn serve<P>(listener: TcpListener, audience: Audience, page: P)
where
    P: Fn(&str) -> Option<Page> + Send + Sync + 'static,
{
    let (page, places) = (Arc::new(page), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((tcp, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let page = Arc::clone(&page);
        tokio::spawn(async move {
            // How it ended is the business of who looked.
            let _ = timeout(CONNECTION_TIMEOUT, connection(tcp, audience, &*page)).await;
            drop(place);
        });
    }
}

fn connection<'a, P>(
    tcp: TcpStream,
    audience: Audience,
    page: &'a P,
) -> impl Future<Output = hyper::Result<()>> + 'a
where
    P: Fn(&str) -> Option<Page>,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&request, audience, page);
        async move { Ok::<_, Infallible>(answer) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(tcp), service)
}

fn answer<B>(
    request: &Request<B>,
    audience: Audience,
    page: impl Fn(&str) -> Option<Page>,
) -> Response<Full<Bytes>> {
    let (status, page) = if audience == Audience::Local && !is_local(request) {
        (StatusCode::FORBIDDEN, text("Only for programs on this machine, by its address.\n"))
    } else if ![Method::GET, Method::HEAD].contains(request.method()) {
        (StatusCode::METHOD_NOT_ALLOWED, text("There is nothing to send here.\n"))
    } else {
        match page(request.uri().path()) {
            Some(page) => (StatusCode::OK, page),
            None => (StatusCode::NOT_FOUND, text("There is no such page.\n")),
        }
    };
    let response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, page.content_type)
        .header(CONTENT_SECURITY_POLICY, POLICY)
        .header(X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(CACHE_CONTROL, "no-store")
        .body(Full::new(page.body.clone()));
    response.unwrap_or_else(|_| Response::new(Full::new(page.body)))
}

fn text(text: &'static str) -> Page {
    Page { content_type: "text/plain; charset=utf-8", body: Bytes::from_static(text.as_bytes()) }
}

fn is_local<B>(request: &Request<B>) -> bool {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let is_address = |host: &str| {
        let authority: Option<hyper::http::uri::Authority> = host.parse().ok();
        authority.is_some_and(|authority| {
            let host = authority.host().trim_start_matches('[').trim_end_matches(']');
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok()
        })
    };
    !request.headers().contains_key(ORIGIN) && host.is_none_or(is_address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn start(audience: Audience) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let page = |path: &str| (path == "/").then(|| text("hello"));
        tokio::spawn(serve(listener, audience, page));
        at
    }

    async fn ask(at: SocketAddr, request: &str) -> String {
        let mut tcp = TcpStream::connect(at).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn check(at: SocketAddr, request: &str, expect: &str) {
        let answer = ask(at, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expect}")), "{request:?}: {answer}");
    }

    #[tokio::test]
    async fn a_page_is_shown_to_everybody_and_nothing_is_taken() {
        let at = start(Audience::Everybody).await;
        let shown = ask(at, "GET / HTTP/1.1\r\nHost: exit.example\r\n\r\n").await;
        assert!(shown.starts_with("HTTP/1.1 200") && shown.ends_with("\r\n\r\nhello"), "{shown}");
        assert!(shown.contains("default-src 'none'"), "{shown}");
        let head = ask(at, "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
        check(at, "GET /other HTTP/1.1\r\nHost: x\r\n\r\n", "404").await;
        check(at, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", "405").await;
        check(at, "nonsense\r\n\r\n", "400").await;
        let long = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(MAX_HEAD));
        check(at, &long, "431").await;
    }

    #[tokio::test]
    async fn pages_of_other_sites_cannot_read_what_is_for_this_machine() {
        let at = start(Audience::Local).await;
        check(at, "GET / HTTP/1.1\r\nHost: 127.0.0.1:9100\r\n\r\n", "200").await;
        check(at, "GET / HTTP/1.1\r\nHost: [::1]:9100\r\n\r\n", "200").await;
        check(at, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "200").await;
        check(at, "GET / HTTP/1.1\r\nHost: rebound.example\r\n\r\n", "403").await;
        check(at, "GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://a.example\r\n\r\n", "403").await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_nothing_loses_the_place() {
        let at = start(Audience::Everybody).await;
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(TcpStream::connect(at).await.unwrap());
        }
        check(at, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "200").await;
    }
}
