//! Connecting one stream, over another circuit when the first one fails.
//!
//! 1. A circuit is asked for, the stream begun, and what the application has sent so far goes out with it: the exit hands
//!    it over as soon as it has connected, which saves a round trip.
//! 2. While the exit's answer is awaited, more from the application is sent as the stream's window allows; what is left is
//!    for whoever goes on with the stream. An application that leaves while it waits ends the attempt, and so does one that
//!    ends its half before it has said anything.
//! 3. When the exit says that it did not connect, all of it is sent again over another circuit, three times at most. When
//!    the circuit breaks, or turns out to be silent (`probe`), before the exit has answered, that is done only if nothing of
//!    it had been sent: the target may have got it. What the target itself refuses is final. Where there is no room for one
//!    more stream on this side, nobody else is to blame.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWrite};
use tokio::time::{sleep, timeout};
use tunic_net::channel::{CircuitStatus, CircuitStream};
use tunic_proto::ids::RelayId;
use tunic_proto::message::{Begin, DestroyReason, EndReason};

use super::connect_error::ConnectError;
use super::front::Application;
use super::manager::{Lease, ManagerHandle};
use super::monitor::Monitor;
use super::probe::{Health, SUSPICIOUS_AFTER};
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

/// The application, as long as it waits.
enum Source<'a> {
    /// Nobody who could leave.
    None,
    /// It may send more.
    Reads(&'a mut Application),
    /// What it sends from here on is not for the stream to take yet; only whether it leaves is of interest.
    Watches(&'a Application),
}

impl Source<'_> {
    /// Reads at most so much more; while there is nothing to read, or no room, completes only if the application leaves.
    ///
    /// # Errors
    /// The application has left. Whoever has sent something and then ends its half may still wait for the answer, and
    /// the end is left to whoever reads on to see it again; whoever has sent `nothing_yet` has left.
    async fn read(&mut self, room: usize, nothing_yet: bool) -> io::Result<Vec<u8>> {
        let source = match self {
            Source::Reads(source) if room > 0 => source,
            Source::Reads(application) => return Err(application.left().await),
            Source::Watches(application) => return Err(application.left().await),
            Source::None => return std::future::pending().await,
        };
        let mut buffer = vec![0; room.min(READ_LEN)];
        let count = source.read(&mut buffer).await?;
        if count == 0 {
            if nothing_yet {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Source::Reads(application) = std::mem::replace(self, Source::None) {
                *self = Source::Watches(application);
            }
        }
        buffer.truncate(count);
        Ok(buffer)
    }
}

/// What the application sends before the exit has answered, and whether it still waits.
pub(super) struct Early<'a> {
    source: Source<'a>,
    kept: Kept,
}

/// Kept until the exit has answered, and how much of it the stream has taken.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    sent: usize,
}

impl<'a> Early<'a> {
    /// Nothing will come.
    pub(super) fn none() -> Self {
        Early { source: Source::None, kept: Kept::default() }
    }

    /// These bytes, and no more until the stream is open.
    pub(super) fn only(application: &'a Application, bytes: Vec<u8>) -> Self {
        Early { source: Source::Watches(application), kept: Kept { bytes, sent: 0 } }
    }

    /// Begins with these bytes and reads more.
    pub(super) fn new(application: &'a mut Application, bytes: Vec<u8>) -> Self {
        Early { source: Source::Reads(application), kept: Kept { bytes, sent: 0 } }
    }

    /// What the stream has not taken yet.
    pub(super) fn into_unsent(self) -> Vec<u8> {
        let Kept { mut bytes, sent } = self.kept;
        bytes.drain(..sent);
        bytes
    }

    /// Completes only when the application has left; what it sends meanwhile is kept.
    async fn left(&mut self) -> io::Error {
        loop {
            match self.source.read(self.kept.room(), self.kept.bytes.is_empty()).await {
                Ok(more) => self.kept.bytes.extend(more),
                Err(error) => return error,
            }
        }
    }
}

impl Kept {
    fn room(&self) -> usize {
        MAX_EARLY.saturating_sub(self.bytes.len())
    }

    /// Waits for the exit's answer, and gives the stream what its window takes meanwhile.
    async fn send_until_answered(&mut self, stream: &mut CircuitStream) -> Result<Option<IpAddr>, EndReason> {
        poll_fn(|cx| {
            self.poll_send(Pin::new(stream), cx);
            pin!(stream.connected()).poll(cx)
        })
        .await
    }

    /// What goes wrong, the stream's answer tells.
    fn poll_send(&mut self, mut stream: Pin<&mut impl AsyncWrite>, cx: &mut Context<'_>) {
        while self.sent < self.bytes.len() {
            match stream.as_mut().poll_write(cx, &self.bytes[self.sent..]) {
                Poll::Ready(Ok(count)) if count > 0 => self.sent += count,
                _ => return,
            }
        }
    }
}

/// Connects and waits for the exit's answer. Returns the circuit that the stream is on as well; what the stream has not taken
/// of `early` by then is left there.
pub(super) async fn dial(
    manager: &ManagerHandle,
    monitor: &Monitor,
    (begin, need): (Begin, Need),
    isolation: Isolation,
    early: &mut Early<'_>,
) -> Result<(CircuitStream, Lease), ConnectError> {
    let mut not_exits: Vec<RelayId> = Vec::new();
    let mut circuit_broke = false;
    let mut failed = None;
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
            Err(refused) => {
                monitor.note(Mishap::no_circuit(refused));
                return Err(no_circuit(failed, refused));
            }
        };
        let Refusal { reason, by, sent, hop } = match attempt(manager, &lease, &begin, early).await? {
            Ok(stream) => return Ok((stream, lease)),
            Err(refusal) => refusal,
        };
        tracing::debug!(circuit = lease.id.0, %reason, ?by, "stream refused");
        if identity.has_changed().unwrap_or(true) {
            return Err(ConnectError::NewIdentity);
        }
        let verdict = verdict(reason, by, lease.circuit.is_open());
        let hop = hop.or(broke_at(lease.circuit.status()));
        monitor.note(match reason {
            _ if verdict == Verdict::FullHere => Mishap::no_circuit(BuildFailure::Busy),
            EndReason::Reset => Mishap::broke(hop, sent > 0, &lease.path),
            reason => Mishap::refused(reason, &lease.path),
        });
        match verdict {
            Verdict::Final => return Err(ConnectError::Stream(reason)),
            Verdict::FullHere => failed = None,
            Verdict::OtherCircuit => {
                manager.retire(lease.id).await;
                // An exit that answers did not connect.
                if sent > 0 && by == By::Nobody {
                    return Err(ConnectError::Broken { hop, sent: true });
                }
                circuit_broke = true;
                failed = Some(Failed::Circuit { hop });
            }
            Verdict::OtherExit => {
                not_exits.extend(lease.path.exit());
                failed = Some(Failed::Exit(reason));
            }
        }
    }
    Err(match failed {
        Some(Failed::Exit(reason)) => ConnectError::Stream(reason),
        Some(Failed::Circuit { hop }) => ConnectError::Broken { hop, sent: false },
        None => ConnectError::Circuit(BuildFailure::Busy),
    })
}

/// Who was to blame for the last attempt.
#[derive(Debug, Clone, Copy)]
enum Failed {
    Exit(EndReason),
    Circuit { hop: Option<usize> },
}

/// What the application is told when there is no circuit for an attempt, after an earlier one or without.
fn no_circuit(before: Option<Failed>, refused: BuildFailure) -> ConnectError {
    match (before, refused) {
        // Another exit was wanted because of this; that there is none explains less.
        (Some(Failed::Exit(reason)), BuildFailure::Path(PathError::NoExit | PathError::NoExitForPort(_))) => {
            ConnectError::Stream(reason)
        }
        (Some(Failed::Circuit { hop }), failure) => ConnectError::NotReplaced { hop, failure },
        (_, failure) => ConnectError::Circuit(failure),
    }
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
    by: By,
    /// Bytes of the application that had left by then.
    sent: u64,
    /// The hop that fell silent, if that was found out.
    hop: Option<usize>,
}

/// Who told that an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// The exit, which then did not connect.
    Exit,
    /// This side, which then has sent nothing.
    Us,
    /// Nobody knows what the exit did: the circuit broke, or the answer did not come.
    Nobody,
}

/// One stream over one circuit. The outer error is the application's.
async fn attempt(
    manager: &ManagerHandle,
    lease: &Lease,
    begin: &Begin,
    early: &mut Early<'_>,
) -> Result<Result<CircuitStream, Refusal>, ConnectError> {
    let Early { source, kept } = early;
    kept.sent = 0;
    let mut stream = match lease.circuit.begin_any(begin.clone()) {
        Ok(stream) => stream,
        Err(reason) => return Ok(Err(Refusal { reason, by: By::Us, sent: 0, hop: None })),
    };
    let mut silence = pin!(silence(manager, lease.id));
    let (mut by, mut hop) = (By::Nobody, None);
    let answer = timeout(ANSWER_TIMEOUT, async {
        loop {
            let (room, nothing_yet) = (kept.room(), kept.bytes.is_empty());
            let more = tokio::select! {
                answer = kept.send_until_answered(&mut stream) => {
                    by = By::Exit;
                    return Ok(answer);
                }
                silent = &mut silence => {
                    hop = silent;
                    return Ok(Err(EndReason::Reset));
                }
                read = source.read(room, nothing_yet) => read?,
            };
            kept.bytes.extend(more);
        }
    });
    let answer: io::Result<_> = answer.await.unwrap_or(Ok(Err(EndReason::Timeout)));
    match answer.map_err(ConnectError::Application)? {
        Ok(_) => Ok(Ok(stream)),
        Err(reason) => {
            by = match reason {
                _ if stream.is_refused_here() => By::Us,
                EndReason::Reset => By::Nobody,
                _ => by,
            };
            Ok(Err(Refusal { reason, by, sent: stream.totals().sent, hop }))
        }
    }
}

/// Completes if it turns out that nothing comes over the circuit any more, with the hop that is silent if it is known.
async fn silence(manager: &ManagerHandle, circuit: CircuitId) -> Option<usize> {
    sleep(SUSPICIOUS_AFTER).await;
    match manager.health(circuit).await {
        Health::Answers => std::future::pending().await,
        Health::SilentCircuit => None,
        Health::SilentGuard => Some(0),
    }
}

/// What to do about a stream that was refused.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The target is to blame, or nobody is.
    Final,
    /// There is no room for one more stream on this side, at least not on this circuit.
    FullHere,
    /// The circuit is broken.
    OtherCircuit,
    /// The exit does not want to, or cannot.
    OtherExit,
}

fn verdict(reason: EndReason, by: By, circuit_is_open: bool) -> Verdict {
    match reason {
        _ if !circuit_is_open => Verdict::OtherCircuit,
        EndReason::Resources if by == By::Us => Verdict::FullHere,
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
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tunic_proto::message::DestroyReason;

    #[test]
    fn only_failures_of_relays_are_tried_again() {
        assert_eq!(verdict(EndReason::ConnectionRefused, By::Exit, true), Verdict::Final);
        assert_eq!(verdict(EndReason::NameNotFound, By::Exit, true), Verdict::Final);
        assert_eq!(verdict(EndReason::Policy, By::Exit, true), Verdict::OtherExit);
        assert_eq!(verdict(EndReason::Resources, By::Exit, true), Verdict::OtherExit);
        assert_eq!(verdict(EndReason::Reset, By::Nobody, true), Verdict::OtherCircuit);
        assert_eq!(verdict(EndReason::HostUnreachable, By::Exit, false), Verdict::OtherCircuit);
    }

    #[test]
    fn what_is_full_here_is_not_blamed_on_the_exit() {
        assert_eq!(verdict(EndReason::Resources, By::Us, true), Verdict::FullHere);
        assert_eq!(verdict(EndReason::Resources, By::Us, false), Verdict::OtherCircuit);
        assert_eq!(verdict(EndReason::NameNotFound, By::Us, true), Verdict::Final, "it fits into no message");
    }

    /// Of what is offered it takes four bytes each time that somebody makes room, which it waits for.
    #[tokio::test]
    async fn what_has_no_room_yet_is_sent_when_there_is_some() {
        let (mut stream, mut exit) = tokio::io::duplex(4);
        let mut kept = Kept { bytes: b"more than fits".to_vec(), sent: 0 };
        let sending = poll_fn(|cx| {
            kept.poll_send(Pin::new(&mut stream), cx);
            if kept.sent < kept.bytes.len() { Poll::Pending } else { Poll::Ready(()) }
        });
        let mut taken = [0; 14];
        let both = async { tokio::join!(sending, exit.read_exact(&mut taken)) };
        timeout(Duration::from_secs(60), both).await.expect("it goes on").1.unwrap();
        assert_eq!(&taken, b"more than fits");
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
        while early.kept.room() > 0 {
            assert!(timeout(Duration::from_millis(20), early.left()).await.is_err());
        }
        assert!(timeout(Duration::from_millis(20), early.left()).await.is_err());
        early.kept.sent = 1;
        let unsent = early.into_unsent();
        assert_eq!(unsent.len(), MAX_EARLY - 1);
        assert!(unsent.starts_with(b"irst\x07"));
        writer.abort();
    }

    /// An application that has sent this and then ends its half, or goes away, is taken to have left or is not.
    async fn check_left(sends: &[u8], watched: bool, goes_away: bool, expect: bool) {
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
        if goes_away {
            // With a reset, as when something that came for it was not read.
            rustix::net::sockopt::set_socket_linger(&application, Some(Duration::ZERO)).unwrap();
            drop(application);
        }
        let limit = if expect { Duration::from_secs(60) } else { Duration::from_millis(200) };
        let left = timeout(limit, early.left()).await.is_ok();
        assert_eq!(left, expect, "{} bytes, watched: {watched}, goes away: {goes_away}", sends.len());
    }

    #[tokio::test]
    async fn an_application_that_leaves_while_it_waits_is_noticed() {
        check_left(b"", false, false, true).await;
        check_left(&[7; MAX_EARLY + 1], false, true, true).await;
        for sends in [&b""[..], b"a request"] {
            for watched in [false, true] {
                check_left(sends, watched, true, true).await;
            }
        }
    }

    #[tokio::test]
    async fn an_application_that_has_asked_and_ends_its_half_still_waits() {
        check_left(b"", true, false, false).await;
        check_left(b"the body of a request", true, false, false).await;
        check_left(b"a request that may still be answered", false, false, false).await;
    }

    #[test]
    fn whoever_gets_no_other_circuit_is_told_both_failures() {
        let slow = BuildFailure::Hop { hop: 1, reason: DestroyReason::Timeout };
        let check = |before: Option<Failed>, refused: BuildFailure, code: u8, told: &str| {
            let error = no_circuit(before, refused);
            assert_eq!((error.reply_code() as u8, error.to_string().as_str()), (code, told));
        };
        let guard_broke = Some(Failed::Circuit { hop: Some(0) });
        let broke = "the circuit broke at relay 1 before the exit had answered, and there is no other one:";
        check(guard_broke, slow, 6, &format!("{broke} relay 2 of the circuit: timed out"));
        check(guard_broke, BuildFailure::Guard, 3, &format!("{broke} the guard could not be reached"));
        let full = Some(Failed::Exit(EndReason::Resources));
        check(
            full,
            PathError::NoExit.into(),
            1,
            &format!("the exit could not connect: {}", EndReason::Resources),
        );
        check(full, BuildFailure::Guard, 3, "no circuit: the guard could not be reached");
        check(None, slow, 6, "no circuit: relay 2 of the circuit: timed out");
    }

    #[test]
    fn where_it_broke_is_known_of_the_guard_and_of_tampering() {
        assert_eq!(broke_at(CircuitStatus::Tampered(2)), Some(2));
        assert_eq!(broke_at(CircuitStatus::Closed(DestroyReason::ChannelLost)), Some(0));
        assert_eq!(broke_at(CircuitStatus::Closed(DestroyReason::None)), None);
    }
}
