//! Channels, circuits and streams as the daemons use them. (Being written; the signatures stand.)
#![allow(missing_docs, unused_variables, clippy::todo)]

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tunic_proto::ids::RelayId;
use tunic_proto::keys::{OnionKey, OnionSecret, Signer};
use tunic_proto::message::{DestroyReason, EndReason, Target};

/// What a node answers to the circuits that reach it. Calls must not block: spawn what takes time.
pub trait Responder: Send + Sync + 'static {
    /// Where the relay to extend to listens; `None` if it is unknown or circuits may not be extended here.
    fn lookup(&self, id: RelayId) -> Option<Vec<SocketAddr>>;
    /// Somebody wants a connection.
    fn begin(&self, target: Target, stream: IncomingStream);
    /// Somebody wants the directory (see [`crate::dirstream::serve`]).
    fn begin_dir(&self, stream: IncomingStream);
    /// The keys with which circuit handshakes are answered: current, then previous (empty: no circuits are accepted).
    fn onion_keys(&self) -> Vec<OnionSecret>;
}

/// How a node takes part in the network.
pub struct NodeConfig {
    /// With what it proves who it is; `None` for a client.
    pub signer: Option<Arc<Signer>>,
    /// Who answers circuits; `None` for a client.
    pub responder: Option<Arc<dyn Responder>>,
    /// Bytes of queued cells and stream data that the process may hold.
    pub memory_budget: usize,
}

/// A running node: it opens channels, keeps them for reuse, and accepts them. Cheap to clone.
#[derive(Clone)]
pub struct Node {}

/// Whom to connect to.
#[derive(Debug, Clone)]
pub struct Peer {
    pub id: RelayId,
    pub addresses: Vec<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no address to connect to")]
    NoAddress,
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("TLS failed: {0}")]
    Tls(String),
    #[error("the relay is not who it should be")]
    WrongIdentity,
    #[error("protocol: {0}")]
    Protocol(String),
    #[error("timed out")]
    Timeout,
}

impl Node {
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(config: NodeConfig) -> io::Result<Node> {
        todo!()
    }
    /// The open channel to this peer, or a new one.
    pub async fn connect(&self, peer: &Peer) -> Result<Channel, ConnectError> {
        todo!()
    }
    /// Accepts channels until the node is shut down. An error of one connection ends only that one.
    pub async fn serve(&self, listener: TcpListener) {
        todo!()
    }
    /// Sends DESTROY for every circuit, closes every channel, and returns when that is done or after `grace`.
    pub async fn shutdown(&self, grace: Duration) {
        todo!()
    }
}

/// An open channel to a peer. Cheap to clone.
#[derive(Clone)]
pub struct Channel {}

/// One hop of a circuit to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HopSpec {
    pub id: RelayId,
    pub onion_key: OnionKey,
}

/// A circuit could not be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("hop {hop}: {reason}")]
pub struct BuildError {
    /// The index in the path of the hop that failed (0: the relay at the end of this channel).
    pub hop: usize,
    pub reason: DestroyReason,
}

impl Channel {
    /// Builds a circuit over these hops, of which the first is the relay at the end of this channel.
    pub async fn create_circuit(&self, hops: Vec<HopSpec>) -> Result<Circuit, BuildError> {
        todo!()
    }
    pub fn is_open(&self) -> bool {
        todo!()
    }
    /// Completes when the channel has ended.
    pub async fn closed(&self) {
        todo!()
    }
}

/// A built circuit. Cheap to clone; the last clone dropped ends it.
#[derive(Clone)]
pub struct Circuit {}

impl Circuit {
    /// Starts a stream and returns at once: bytes may be written before the exit has answered.
    /// Await [`CircuitStream::connected`] for the answer.
    pub fn begin(&self, target: Target) -> Result<CircuitStream, EndReason> {
        todo!()
    }
    /// Starts a stream to the directory of the last hop; as [`Circuit::begin`].
    pub fn begin_dir(&self) -> Result<CircuitStream, EndReason> {
        todo!()
    }
    pub fn is_open(&self) -> bool {
        todo!()
    }
    /// Streams that are not gone yet.
    pub fn stream_count(&self) -> usize {
        todo!()
    }
    /// Completes when the circuit has ended, with the reason.
    pub async fn closed(&self) -> DestroyReason {
        todo!()
    }
}

/// A stream that a peer wants. Dropping it refuses with [`EndReason::Internal`].
pub struct IncomingStream {}

impl IncomingStream {
    /// Says `CONNECTED`; what the peer sent meanwhile can be read from the stream.
    pub fn accept(self, address: Option<IpAddr>) -> CircuitStream {
        todo!()
    }
    /// Says `END`.
    pub fn reject(self, reason: EndReason) {
        todo!()
    }
    /// Completes when the peer gave the stream up.
    pub async fn closed(&self) {
        todo!()
    }
}

/// One end of a stream. `poll_shutdown` is a half-close (`EOF`); dropping it before both directions have ended resets
/// the stream. A read error of kind `ConnectionReset` means that the other side or the circuit ended it.
pub struct CircuitStream {}

impl CircuitStream {
    /// Waits for the exit's answer: the address that it reached, if it told one.
    ///
    /// # Errors
    /// Why the exit refused.
    pub async fn connected(&mut self) -> Result<Option<IpAddr>, EndReason> {
        todo!()
    }
    /// Ends the stream at once with this reason.
    pub fn reset(self, reason: EndReason) {
        todo!()
    }
    /// The reason with which the stream ended, once it has.
    pub fn end_reason(&self) -> Option<EndReason> {
        todo!()
    }
}

impl AsyncRead for CircuitStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        todo!()
    }
}

impl AsyncWrite for CircuitStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        todo!()
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        todo!()
    }
}

/// Moves bytes between a stream and a TCP connection in both directions, half-close included, until both have ended.
///
/// # Errors
/// The side that broke resets the other.
pub fn splice(
    stream: CircuitStream,
    tcp: tokio::net::TcpStream,
) -> impl Future<Output = io::Result<()>> + Send {
    async move { todo!() }
}
