//! The DNS listener: the codec of `core::dns` over UDP and TCP, answered by an exit.
//!
//! Answers are not kept: whoever asks again is asked for again at the exit, and programs keep answers themselves.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tunic_proto::message::EndReason;

use super::client::Client;
use super::connect_error::ConnectError;
use crate::core::dns::{Code, MAX_QUERY, Question, Transport};
use crate::core::isolation::{IsolateBy, Isolation};

/// Queries over UDP at a time; more are dropped, as on any way that is too narrow.
const MAX_QUERIES: usize = 512;
/// TCP connections at a time, each with one query at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// How long a program may take over TCP to ask, to ask again, or to take an answer.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Programs ask again after five seconds and give up soon.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where programs ask.
pub(super) struct DnsServer {
    client: Client,
    listener: u16,
    isolate: IsolateBy,
    queries: Arc<Semaphore>,
}

impl DnsServer {
    pub(super) fn new(client: Client, listener: u16, isolate: IsolateBy) -> Arc<Self> {
        Arc::new(DnsServer { client, listener, isolate, queries: Arc::new(Semaphore::new(MAX_QUERIES)) })
    }

    /// Serves both for ever.
    pub(super) async fn serve(self: Arc<Self>, udp: UdpSocket, tcp: TcpListener) {
        tokio::join!(self.clone().serve_udp(Arc::new(udp)), self.serve_tcp(tcp));
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = [0; MAX_QUERY];
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            // Errors are those of answers sent before.
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
            let Ok(place) = self.queries.clone().try_acquire_owned() else { continue };
            let (server, socket, query) = (self.clone(), socket.clone(), buffer[..length].to_vec());
            tasks.spawn(async move {
                let answer = server.answer(&query, from.ip(), Transport::Udp).await;
                if !answer.is_empty() {
                    let _ = socket.send_to(&answer, from).await;
                }
                drop(place);
            });
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((tcp, from)) => {
                    let server = self.clone();
                    tasks.spawn(async move {
                        // Whoever is slow, or leaves, is not missed.
                        let _ = server.talk(tcp, from.ip()).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept DNS over TCP; is the limit of open files reached?");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Messages over TCP have their length before them (RFC 1035 §4.2.2).
    async fn talk(&self, mut tcp: TcpStream, from: IpAddr) -> io::Result<()> {
        loop {
            let query = timeout(TCP_IDLE, async {
                let length = usize::from(tcp.read_u16().await?);
                if length > MAX_QUERY {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                let mut query = vec![0; length];
                tcp.read_exact(&mut query).await?;
                io::Result::Ok(query)
            });
            let query = query.await??;
            let answer = self.answer(&query, from, Transport::Tcp).await;
            if answer.is_empty() {
                return Ok(());
            }
            let framed = [&(answer.len() as u16).to_be_bytes(), &answer[..]].concat();
            timeout(TCP_IDLE, tcp.write_all(&framed)).await??;
        }
    }

    async fn answer(&self, query: &[u8], from: IpAddr, transport: Transport) -> Vec<u8> {
        let question = match Question::parse(query) {
            Ok(question) => question,
            Err(answer) => return answer,
        };
        let lookup = match question.lookup() {
            Ok(lookup) => lookup,
            Err(code) => return question.empty(code),
        };
        let address = Some(from.to_canonical());
        let destination = self.isolate.destination.then(|| Isolation::looked_up(&lookup));
        let isolation = Isolation { listener: self.listener, address, destination, ..Isolation::default() };
        match timeout(ANSWER_TIMEOUT, self.client.resolve(lookup, isolation)).await {
            Ok(Ok(answer)) => question.answer(&answer, transport),
            Ok(Err(ConnectError::Stream(EndReason::NameNotFound))) => question.empty(Code::NoSuchName),
            Ok(Err(_)) | Err(_) => question.empty(Code::Failure),
        }
    }
}
