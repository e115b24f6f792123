//! Connecting one stream, over another circuit when the first one fails.
//!
//! 1. A circuit is asked for, the stream begun, and what the application has sent so far goes out with it: the exit hands
//!    it over as soon as it has connected, which saves a round trip.
//! 2. While the exit's answer is awaited, more from the application is sent as the stream's window allows.
//! 3. When the circuit or the exit fails before it has answered, all of it is sent again over another circuit, three
//!    times at most. What the target itself refuses is final.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tunic_net::channel::CircuitStream;
use tunic_proto::ids::RelayId;
use tunic_proto::message::{Begin, EndReason};

use super::front::Application;
use super::manager::{Lease, ManagerHandle};
use crate::core::front::socks5::ReplyCode;
use crate::core::isolation::Isolation;
use crate::core::path::{Need, Path, PathError};
use crate::core::pool::{BuildFailure, Want};

/// Circuits that are tried for one stream.
const MAX_TRIES: usize = 3;
/// Bytes of an application that are kept to be sent again; beyond it, it has to wait for the exit's answer.
const MAX_EARLY: usize = 64 * 1024;
const READ_LEN: usize = 4 * 1024;
/// How long the exit may take to answer. Longer than its own limit for connecting, so that its reason arrives.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No circuit: the network, or this machine's connection to it, is to blame.
    #[error("no circuit: {0}")]
    Circuit(#[from] BuildFailure),
    /// The exit, or the target, refused.
    #[error("the exit could not connect: {0}")]
    Stream(EndReason),
    /// The exit answered what is no answer.
    #[error("the exit's answer cannot be understood")]
    BadAnswer,
    /// The application went away while it was waiting.
    #[error("the application went away: {0}")]
    Application(io::Error),
    /// The client was shut down.
    #[error("the client is shutting down")]
    ShutDown,
}

impl ConnectError {
    /// What SOCKS calls it (RFC 1928 §6).
    pub fn reply_code(&self) -> ReplyCode {
        match self {
            ConnectError::Stream(reason) => (*reason).into(),
            ConnectError::Circuit(failure) => match failure {
                BuildFailure::Path(PathError::NoExit | PathError::NoExitForPort(_)) => ReplyCode::NotAllowed,
                BuildFailure::Path(PathError::NoConsensus) | BuildFailure::Guard => {
                    ReplyCode::NetworkUnreachable
                }
                BuildFailure::Path(PathError::NoGuard | PathError::NoMiddle) | BuildFailure::Busy => {
                    ReplyCode::GeneralFailure
                }
                BuildFailure::Hop { reason, .. } => (*reason).into(),
                BuildFailure::TooSlow => ReplyCode::TimedOut,
            },
            ConnectError::Application(_) | ConnectError::BadAnswer | ConnectError::ShutDown => {
                ReplyCode::GeneralFailure
            }
        }
    }
}

/// What the application sends before the exit has answered.
pub(super) struct Early<'a> {
    source: Option<&'a mut Application>,
    bytes: Vec<u8>,
    sent: usize,
}

impl<'a> Early<'a> {
    /// Nothing will come.
    pub(super) fn none() -> Self {
        Early::only(Vec::new())
    }

    /// These bytes, and no more until the stream is open.
    pub(super) fn only(bytes: Vec<u8>) -> Self {
        Early { source: None, bytes, sent: 0 }
    }

    /// Begins with these bytes and reads more.
    pub(super) fn new(source: &'a mut Application, bytes: Vec<u8>) -> Self {
        Early { source: Some(source), bytes, sent: 0 }
    }

    /// Reads more, once everything was sent; never completes when there is nothing to read for now. After the end of
    /// the application's data it is left to whoever reads on to see it again.
    async fn read_more(&mut self) -> io::Result<()> {
        let room = MAX_EARLY.saturating_sub(self.bytes.len()).min(READ_LEN);
        let Some(source) = self.source.as_mut().filter(|_| room > 0 && self.sent == self.bytes.len()) else {
            return std::future::pending().await;
        };
        let mut buffer = [0; READ_LEN];
        let count = source.read(&mut buffer[..room]).await?;
        if count == 0 {
            self.source = None;
        }
        self.bytes.extend_from_slice(&buffer[..count]);
        Ok(())
    }

    /// Gives the stream as much as its window takes now. What goes wrong, the stream's answer tells.
    async fn send_now(&mut self, stream: &mut CircuitStream) {
        while self.sent < self.bytes.len() {
            let unsent = &self.bytes[self.sent..];
            let taken = poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_write(cx, unsent))).await;
            match taken {
                Poll::Ready(Ok(count)) if count > 0 => self.sent += count,
                _ => return,
            }
        }
    }

    async fn send_rest(&mut self, stream: &mut CircuitStream) -> io::Result<()> {
        stream.write_all(&self.bytes[self.sent..]).await
    }
}

/// Connects and waits for the exit's answer.
pub(super) async fn dial(
    manager: &ManagerHandle,
    begin: Begin,
    need: Need,
    isolation: Isolation,
    mut early: Early<'_>,
) -> Result<(CircuitStream, Arc<Path>), ConnectError> {
    let mut not_exits: Vec<RelayId> = Vec::new();
    let mut circuit_broke = false;
    let mut failure = None;
    for _ in 0..MAX_TRIES {
        let want = Want {
            isolation: isolation.clone(),
            need: need.clone(),
            not_exits: not_exits.clone(),
            fresh: circuit_broke,
        };
        let lease = match manager.want(want).await.ok_or(ConnectError::ShutDown)? {
            Ok(lease) => lease,
            // Another exit was wanted because of this failure; that there is none explains less.
            Err(refused) => return Err(failure.map_or(ConnectError::Circuit(refused), ConnectError::Stream)),
        };
        let reason = match attempt(&lease, &begin, &mut early).await? {
            Ok(stream) => return Ok((stream, lease.path)),
            Err(reason) => reason,
        };
        tracing::debug!(circuit = lease.id.0, %reason, "stream refused");
        match verdict(reason, lease.circuit.is_open()) {
            Verdict::Final => return Err(ConnectError::Stream(reason)),
            Verdict::OtherCircuit => {
                circuit_broke = true;
                manager.retire(lease.id).await;
            }
            Verdict::OtherExit => not_exits.extend(lease.path.exit()),
        }
        failure = Some(reason);
    }
    Err(ConnectError::Stream(failure.unwrap_or(EndReason::Internal)))
}

/// One stream over one circuit. The outer error is the application's.
async fn attempt(
    lease: &Lease,
    begin: &Begin,
    early: &mut Early<'_>,
) -> Result<Result<CircuitStream, EndReason>, ConnectError> {
    early.sent = 0;
    let mut stream = match lease.circuit.begin_any(begin.clone()) {
        Ok(stream) => stream,
        Err(reason) => return Ok(Err(reason)),
    };
    let answer = timeout(ANSWER_TIMEOUT, async {
        loop {
            early.send_now(&mut stream).await;
            tokio::select! {
                answer = stream.connected() => return Ok(answer),
                read = early.read_more() => read?,
            }
        }
    });
    let answer: io::Result<_> = answer.await.unwrap_or(Ok(Err(EndReason::Timeout)));
    match answer.map_err(ConnectError::Application)? {
        // A stream that breaks right after it was opened is the application's to see, as on any connection.
        Ok(_) => {
            let _ = early.send_rest(&mut stream).await;
            Ok(Ok(stream))
        }
        Err(reason) => Ok(Err(reason)),
    }
}

/// What to do about a stream that was refused.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The target is to blame, or nobody is.
    Final,
    /// The circuit is broken or full.
    OtherCircuit,
    /// The exit does not want to, or cannot.
    OtherExit,
}

fn verdict(reason: EndReason, circuit_is_open: bool) -> Verdict {
    match reason {
        _ if !circuit_is_open => Verdict::OtherCircuit,
        // Nothing can break at the target before it was connected to.
        EndReason::Reset => Verdict::OtherCircuit,
        EndReason::Policy | EndReason::Resources | EndReason::Internal => Verdict::OtherExit,
        EndReason::Done
        | EndReason::NameNotFound
        | EndReason::ConnectionRefused
        | EndReason::HostUnreachable
        | EndReason::NetworkUnreachable
        | EndReason::Timeout
        | EndReason::NotDirectory => Verdict::Final,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};
    use tunic_proto::message::DestroyReason;

    #[test]
    fn only_failures_of_relays_are_tried_again() {
        assert_eq!(verdict(EndReason::ConnectionRefused, true), Verdict::Final);
        assert_eq!(verdict(EndReason::NameNotFound, true), Verdict::Final);
        assert_eq!(verdict(EndReason::Policy, true), Verdict::OtherExit);
        assert_eq!(verdict(EndReason::Resources, true), Verdict::OtherExit);
        assert_eq!(verdict(EndReason::Reset, true), Verdict::OtherCircuit);
        assert_eq!(verdict(EndReason::HostUnreachable, false), Verdict::OtherCircuit);
    }

    #[test]
    fn every_error_has_a_reply_code() {
        let check = |error: ConnectError, code: u8| assert_eq!(error.reply_code() as u8, code, "{error}");
        let circuit = ConnectError::Circuit;
        check(circuit(PathError::NoExitForPort(25).into()), 2);
        check(circuit(PathError::NoExit.into()), 2);
        check(circuit(PathError::NoConsensus.into()), 3);
        check(circuit(PathError::NoGuard.into()), 1);
        check(circuit(PathError::NoMiddle.into()), 1);
        check(circuit(BuildFailure::Guard), 3);
        check(circuit(BuildFailure::TooSlow), 6);
        check(circuit(BuildFailure::Busy), 1);
        check(circuit(BuildFailure::Hop { hop: 1, reason: DestroyReason::Timeout }), 6);
        check(ConnectError::Stream(EndReason::ConnectionRefused), 5);
        check(ConnectError::ShutDown, 1);
        check(ConnectError::Application(io::ErrorKind::BrokenPipe.into()), 1);
    }

    #[tokio::test]
    async fn early_data_is_bounded_and_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut application = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut accepted = Application::Tcp(listener.accept().await.unwrap().0);
        let writer = tokio::spawn(async move {
            let _ = application.write_all(&[7; 3 * MAX_EARLY]).await;
            application
        });
        let mut early = Early::new(&mut accepted, b"first".to_vec());
        assert!(timeout(Duration::ZERO, early.read_more()).await.is_err(), "what it has was not sent yet");
        while early.bytes.len() < MAX_EARLY {
            early.sent = early.bytes.len();
            early.read_more().await.unwrap();
        }
        early.sent = early.bytes.len();
        assert!(timeout(Duration::from_millis(20), early.read_more()).await.is_err());
        assert_eq!(early.bytes.len(), MAX_EARLY);
        assert!(early.bytes.starts_with(b"first\x07"));
        writer.abort();
    }
}
