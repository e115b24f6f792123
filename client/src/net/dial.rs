//! Connecting one stream, over another circuit when the first one fails.
//!
//! 1. A circuit is asked for, the stream begun, and what the application has sent so far goes out with it: the exit hands
//!    it over as soon as it has connected, which saves a round trip.
//! 2. While the exit's answer is awaited, more from the application is sent as the stream's window allows. An application
//!    that leaves while it waits ends the attempt, and so does one that ends its half before it has said anything.
//! 3. When the exit says that it did not connect, all of it is sent again over another circuit, three times at most. When
//!    the circuit breaks, or turns out to be silent (`probe`), before the exit has answered, that is done only if nothing of it had been sent: the target may
//!    have got it. What the target itself refuses is final.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};
use tunic_net::channel::{CircuitStatus, CircuitStream};
use tunic_proto::ids::RelayId;
use tunic_proto::message::{Begin, DestroyReason, EndReason};

use super::front::Application;
use super::manager::{Lease, ManagerHandle};
use super::monitor::Monitor;
use super::probe::SUSPICIOUS_AFTER;
use crate::core::front::socks5::ReplyCode;
use crate::core::isolation::Isolation;
use crate::core::path::{Need, PathError};
use crate::core::pool::{BuildFailure, CircuitId, Want};
use crate::core::status::journal::Mishap;

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
    /// The circuit broke before the exit had answered, and so did others, or what the application had sent by then may have
    /// arrived and is not sent again.
    #[error("the circuit broke{} before the exit had answered; what was sent may have arrived", at_hop(*hop))]
    Broken {
        /// The position in the path of the relay that it broke at, where that is known; 0 is the guard.
        hop: Option<usize>,
    },
    /// The exit answered what is no answer.
    #[error("the exit's answer cannot be understood")]
    BadAnswer,
    /// The application went away while it was waiting.
    #[error("the application went away: {0}")]
    Application(io::Error),
    /// A new identity was begun meanwhile; what belongs to the one before is not asked for over its circuits.
    #[error("a new identity was begun before the exit had answered")]
    NewIdentity,
    /// The client was shut down.
    #[error("the client is shutting down")]
    ShutDown,
}

fn at_hop(hop: Option<usize>) -> String {
    hop.map_or_else(String::new, |hop| format!(" at relay {}", hop + 1))
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
            ConnectError::Broken { .. }
            | ConnectError::Application(_)
            | ConnectError::BadAnswer
            | ConnectError::NewIdentity
            | ConnectError::ShutDown => ReplyCode::GeneralFailure,
        }
    }
}

/// The application, as long as it waits.
enum Source<'a> {
    /// Nobody who could leave.
    None,
    /// It may send more.
    Reads(&'a mut Application),
    /// What it sends from here on is not for the stream to take yet; only whether it leaves is of interest.
    Watches(&'a Application),
}

/// What the application sends before the exit has answered, and whether it still waits.
pub(super) struct Early<'a> {
    source: Source<'a>,
    bytes: Vec<u8>,
    sent: usize,
}

impl<'a> Early<'a> {
    /// Nothing will come.
    pub(super) fn none() -> Self {
        Early { source: Source::None, bytes: Vec::new(), sent: 0 }
    }

    /// These bytes, and no more until the stream is open.
    pub(super) fn only(application: &'a Application, bytes: Vec<u8>) -> Self {
        Early { source: Source::Watches(application), bytes, sent: 0 }
    }

    /// Begins with these bytes and reads more.
    pub(super) fn new(application: &'a mut Application, bytes: Vec<u8>) -> Self {
        Early { source: Source::Reads(application), bytes, sent: 0 }
    }

    /// Reads more; never completes when there is nothing to read for now, or no room.
    ///
    /// # Errors
    /// The application has left. Whoever has sent something and then ends its half may still wait for the answer, and
    /// the end is left to whoever reads on to see it again; whoever has nothing to send has left.
    async fn read_more(&mut self) -> io::Result<()> {
        let room = MAX_EARLY.saturating_sub(self.bytes.len()).min(READ_LEN);
        let source = match &mut self.source {
            Source::Reads(source) if room > 0 => source,
            Source::Watches(application) => return Err(application.left().await),
            _ => return std::future::pending().await,
        };
        let mut buffer = [0; READ_LEN];
        match source.read(&mut buffer[..room]).await? {
            0 if self.bytes.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            0 => {
                if let Source::Reads(application) = std::mem::replace(&mut self.source, Source::None) {
                    self.source = Source::Watches(application);
                }
            }
            count => self.bytes.extend_from_slice(&buffer[..count]),
        }
        Ok(())
    }

    /// Completes only when the application has left; what it sends meanwhile is kept.
    async fn left(&mut self) -> io::Error {
        loop {
            if let Err(error) = self.read_more().await {
                return error;
            }
        }
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

/// Connects and waits for the exit's answer. Returns the circuit that the stream is on as well.
pub(super) async fn dial(
    manager: &ManagerHandle,
    monitor: &Monitor,
    (begin, need): (Begin, Need),
    isolation: Isolation,
    mut early: Early<'_>,
) -> Result<(CircuitStream, Lease), ConnectError> {
    let mut not_exits: Vec<RelayId> = Vec::new();
    let mut circuit_broke = false;
    let mut failure = None;
    let mut broken = None;
    let mut identity = manager.identity();
    for _ in 0..MAX_TRIES {
        let want = Want {
            isolation: isolation.clone(),
            need: need.clone(),
            not_exits: not_exits.clone(),
            fresh: circuit_broke,
        };
        let answer = tokio::select! {
            answer = manager.want(want) => answer,
            gone = early.left() => return Err(ConnectError::Application(gone)),
            _ = identity.changed() => return Err(ConnectError::NewIdentity),
        };
        let lease = match answer.ok_or(ConnectError::ShutDown)? {
            Ok(lease) => lease,
            // Another exit was wanted because of this failure; that there is none explains less.
            Err(refused) => {
                monitor.note(Mishap::no_circuit(refused));
                return Err(failure.map_or(ConnectError::Circuit(refused), ConnectError::Stream));
            }
        };
        let Refusal { reason, sent } = match attempt(manager, &lease, &begin, &mut early).await? {
            Ok(stream) => return Ok((stream, lease)),
            Err(refusal) => refusal,
        };
        tracing::debug!(circuit = lease.id.0, %reason, "stream refused");
        if identity.has_changed().unwrap_or(true) {
            return Err(ConnectError::NewIdentity);
        }
        let hop = broke_at(lease.circuit.status());
        monitor.note(match reason {
            EndReason::Reset => Mishap::broke(hop, sent > 0, &lease.path),
            reason => Mishap::refused(reason, &lease.path),
        });
        match verdict(reason, lease.circuit.is_open()) {
            Verdict::Final => return Err(ConnectError::Stream(reason)),
            Verdict::OtherCircuit => {
                manager.retire(lease.id).await;
                // Any other reason came from the exit: it did not connect.
                if sent > 0 && reason == EndReason::Reset {
                    return Err(ConnectError::Broken { hop });
                }
                circuit_broke = true;
                broken = hop;
                continue;
            }
            Verdict::OtherExit => not_exits.extend(lease.path.exit()),
        }
        failure = Some(reason);
    }
    Err(failure.map_or(ConnectError::Broken { hop: broken }, ConnectError::Stream))
}

/// The hop that a circuit broke at: what a relay sends when it ends a circuit does not say why.
fn broke_at(status: CircuitStatus) -> Option<usize> {
    match status {
        CircuitStatus::Tampered(hop) => Some(hop),
        CircuitStatus::Closed(DestroyReason::ChannelLost) => Some(0),
        _ => None,
    }
}

/// An attempt that failed.
struct Refusal {
    reason: EndReason,
    /// Bytes of the application that had left by then.
    sent: u64,
}

/// One stream over one circuit. The outer error is the application's.
async fn attempt(
    manager: &ManagerHandle,
    lease: &Lease,
    begin: &Begin,
    early: &mut Early<'_>,
) -> Result<Result<CircuitStream, Refusal>, ConnectError> {
    early.sent = 0;
    let mut stream = match lease.circuit.begin_any(begin.clone()) {
        Ok(stream) => stream,
        Err(reason) => return Ok(Err(Refusal { reason, sent: 0 })),
    };
    let mut silence = pin!(silence(manager, lease.id));
    let answer = timeout(ANSWER_TIMEOUT, async {
        loop {
            early.send_now(&mut stream).await;
            tokio::select! {
                answer = stream.connected() => return Ok(answer),
                () = &mut silence => return Ok(Err(EndReason::Reset)),
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
        Err(reason) => Ok(Err(Refusal { reason, sent: stream.totals().sent })),
    }
}

/// Completes if it turns out that nothing comes over the circuit any more.
async fn silence(manager: &ManagerHandle, circuit: CircuitId) {
    sleep(SUSPICIOUS_AFTER).await;
    if !manager.is_silent(circuit).await {
        std::future::pending().await
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
        while early.bytes.len() < MAX_EARLY {
            early.read_more().await.unwrap();
        }
        assert!(timeout(Duration::from_millis(20), early.read_more()).await.is_err());
        assert_eq!(early.bytes.len(), MAX_EARLY);
        assert!(early.bytes.starts_with(b"first\x07"));
        writer.abort();
    }

    /// An application that has sent this and then ends its half, or goes away; whether it is taken to have left.
    async fn leaves(sends: &[u8], watched: bool, goes_away: bool) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut application = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut accepted = Application::Tcp(listener.accept().await.unwrap().0);
        application.write_all(sends).await.unwrap();
        let mut early = match watched {
            true => Early::only(&accepted, Vec::new()),
            false => Early::new(&mut accepted, Vec::new()),
        };
        assert!(timeout(Duration::from_millis(20), early.left()).await.is_err(), "it is still there");
        application.shutdown().await.unwrap();
        if !goes_away {
            return timeout(Duration::from_millis(200), early.left()).await.is_ok();
        }
        // With a reset, as when something that came for it was not read.
        rustix::net::sockopt::set_socket_linger(&application, Some(Duration::ZERO)).unwrap();
        drop(application);
        timeout(Duration::from_secs(60), early.left()).await.is_ok()
    }

    #[tokio::test]
    async fn an_application_that_leaves_while_it_waits_is_noticed() {
        assert!(leaves(b"", false, false).await);
        assert!(!leaves(b"", true, false).await, "it has asked, and may wait for the answer");
        assert!(!leaves(b"a request that may still be answered", false, false).await);
        assert!(!leaves(b"the body of a request", true, false).await);
        for sends in [&b""[..], b"a request"] {
            assert!(leaves(sends, false, true).await && leaves(sends, true, true).await, "{sends:?}");
        }
    }

    #[test]
    fn what_broke_is_named_where_it_is_known() {
        let message = |hop| ConnectError::Broken { hop }.to_string();
        assert!(message(Some(0)).starts_with("the circuit broke at relay 1 before"), "{}", message(Some(0)));
        assert!(message(None).starts_with("the circuit broke before"));
        let not_built = BuildFailure::Hop { hop: 1, reason: DestroyReason::Timeout };
        let told = ConnectError::Circuit(not_built).to_string();
        assert!(told.starts_with("no circuit: relay 2 of the circuit: ti"), "{told}");
        assert_eq!(broke_at(CircuitStatus::Tampered(2)), Some(2));
        assert_eq!(broke_at(CircuitStatus::Closed(DestroyReason::ChannelLost)), Some(0));
        assert_eq!(broke_at(CircuitStatus::Closed(DestroyReason::None)), None);
    }
}
