//! The SOCKS5 port: the codec of `core::socks` over TCP.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tunic_net::channel::splice;

use super::client::Client;
use super::dial::Early;
use crate::core::isolation::Isolation;
use crate::core::socks::{Event, ReplyCode, Request, Server, SocksError, reply};

/// Connections at a time; those beyond wait in the listener's queue.
const MAX_CONNECTIONS: usize = 4_096;
/// How long a client may take to say what it wants.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
const READ_LEN: usize = 4 * 1024;
/// Bytes that are read and thrown away, and for how long, so that a refusal arrives before the connection is reset.
const MAX_DRAINED: usize = 64 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause after a connection could not be accepted, most likely for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Tells streams of the port from those of an embedding program, which are 0 unless it says otherwise.
const LISTENER: u16 = 1;

/// What the port needs to know.
#[derive(Clone)]
pub(super) struct SocksServer {
    pub(super) client: Client,
    pub(super) password: Option<Vec<u8>>,
}

/// Accepts connections for ever.
pub(super) async fn serve(server: SocksServer, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((tcp, _)) => {
                let server = server.clone();
                connections.spawn(async move {
                    if let Err(error) = server.handle(tcp).await {
                        tracing::debug!(%error, "application connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept applications; is the limit of open files reached?");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl SocksServer {
    async fn handle(&self, mut tcp: TcpStream) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        let greeted = timeout(HANDSHAKE_TIMEOUT, handshake(&mut tcp, self.password.clone())).await;
        let Some((request, early)) = greeted.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? else {
            return Ok(());
        };
        // A required password keeps others out; it says nothing about whom to keep apart.
        let mut credentials = request.credentials;
        if let (Some(credentials), true) = (&mut credentials, self.password.is_some()) {
            credentials.password.clear();
        }
        let isolation = Isolation { listener: LISTENER, credentials };
        let early = Early::new(&mut tcp, early);
        match self.client.connect_early(request.target, isolation, early).await {
            Ok((stream, _)) => {
                tcp.write_all(&reply(ReplyCode::Succeeded)).await?;
                splice(stream, tcp).await
            }
            Err(error) => {
                tracing::debug!(%error, "application refused");
                refuse(&mut tcp, &reply(error.reply_code())).await
            }
        }
    }
}

/// Talks until the client has said what it wants, and what it sent behind that; `None` if it was refused.
async fn handshake(tcp: &mut TcpStream, password: Option<Vec<u8>>) -> io::Result<Option<(Request, Vec<u8>)>> {
    let mut server = Server::new(password);
    let mut buffer = [0; READ_LEN];
    loop {
        let count = tcp.read(&mut buffer).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        server.handle_input(&buffer[..count]);
        while let Some(event) = server.poll_event() {
            match event {
                Event::Send(bytes) => tcp.write_all(&bytes).await?,
                Event::Connect(request) => return Ok(Some((request, server.into_early_data()))),
                Event::Refuse { answer, error } => {
                    explain(error);
                    refuse(tcp, &answer).await?;
                    return Ok(None);
                }
            }
        }
    }
}

/// A wrongly set up application is something that a person wants to know about.
fn explain(error: SocksError) {
    match error {
        SocksError::Http | SocksError::Socks4 => tracing::warn!(
            "an application {error}. Set it up for a SOCKS5 proxy that resolves host names (socks5h)"
        ),
        error => tracing::debug!(%error, "application refused"),
    }
}

/// Says so and closes. Closing with unread bytes would reset the connection, and the client might not see the answer.
async fn refuse(tcp: &mut TcpStream, answer: &[u8]) -> io::Result<()> {
    tcp.write_all(answer).await?;
    tcp.shutdown().await?;
    let mut buffer = [0; READ_LEN];
    let drain = async {
        let mut drained = 0;
        while drained < MAX_DRAINED {
            match tcp.read(&mut buffer).await? {
                0 => break,
                count => drained += count,
            }
        }
        io::Result::Ok(())
    };
    timeout(DRAIN_TIMEOUT, drain).await.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tunic_proto::message::Target;

    /// A connected pair: the application's end and ours.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let application = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (application, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn what_is_sent_at_once_is_understood_in_order() {
        let (mut application, mut ours) = pair().await;
        let request =
            [&[5, 1, 0, 5, 1, 0, 3, 11][..], b"example.com", &443u16.to_be_bytes(), b"early"].concat();
        application.write_all(&request).await.unwrap();
        application.shutdown().await.unwrap();
        let (request, mut early) = handshake(&mut ours, None).await.unwrap().unwrap();
        assert_eq!(request.target, Target::Name("example.com".into(), 443));
        ours.read_to_end(&mut early).await.unwrap();
        assert_eq!(early, b"early");
    }

    #[tokio::test]
    async fn whoever_speaks_http_gets_a_whole_answer_though_much_of_the_request_was_not_read() {
        let (mut application, mut ours) = pair().await;
        let server = tokio::spawn(async move { handshake(&mut ours, None).await });
        let request = [b"GET / HTTP/1.1\r\nCookie: ", &[b'x'; 32 * 1024][..], b"\r\n\r\n"].concat();
        application.write_all(&request).await.unwrap();
        let mut answer = String::new();
        application.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.0 400 ") && answer.ends_with("https://example.com/\n"),
            "{answer}"
        );
        drop(application);
        assert!(server.await.unwrap().unwrap().is_none());
    }

    #[tokio::test]
    async fn an_application_that_goes_away_ends_the_handshake() {
        let (mut application, mut ours) = pair().await;
        application.write_all(&[5, 1]).await.unwrap();
        drop(application);
        let error = handshake(&mut ours, None).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
