//! Channels and circuits as their users hold them.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tunic_proto::channel::Inbox;
use tunic_proto::circuit::{BuildError, CircuitHandle, CircuitStatus, Cover, HopSpec};
use tunic_proto::message::{Begin, EndReason, Target};

use super::CircuitStream;
use crate::clock;

/// An open channel to a peer. Cheap to clone.
#[derive(Clone)]
pub struct Channel {
    inbox: Arc<Inbox>,
    closed: watch::Receiver<()>,
    clock_ahead_s: Option<i64>,
}

impl Channel {
    pub(super) fn new(inbox: Arc<Inbox>, closed: watch::Receiver<()>, clock_ahead_s: Option<i64>) -> Channel {
        Channel { inbox, closed, clock_ahead_s }
    }

    pub(super) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Builds a circuit over these hops, of which the first is the relay at the end of this channel.
    ///
    /// # Errors
    /// [`BuildError`] with the hop that failed. Dropping the future gives the circuit up.
    pub async fn create_circuit(&self, hops: Vec<HopSpec>) -> Result<Circuit, BuildError> {
        let started = clock::now();
        let handle = CircuitHandle::create(&self.inbox, hops);
        match poll_fn(|cx| handle.poll_status(CircuitStatus::Building, cx)).await {
            CircuitStatus::Failed(error) => Err(error),
            _ => {
                let answered =
                    handle.answered().iter().map(|at| at.saturating_duration_since(started)).collect();
                Ok(Circuit(Arc::new(Built { handle, answered })))
            }
        }
    }

    /// How far the peer's clock was ahead of ours, in seconds, when the channel was opened; `None` if it did not tell.
    pub fn clock_ahead_s(&self) -> Option<i64> {
        self.clock_ahead_s
    }

    /// Whether the channel is open.
    pub fn is_open(&self) -> bool {
        !self.inbox.is_closed()
    }

    /// Completes when the channel has ended.
    pub async fn closed(&self) {
        // Nothing is ever sent: the error is that the sender, which the channel's task holds, is gone.
        let _ = self.closed.clone().changed().await;
    }
}

/// A built circuit. Cheap to clone; the last clone dropped ends it (its streams hold clones).
#[derive(Debug, Clone)]
pub struct Circuit(Arc<Built>);

#[derive(Debug)]
struct Built {
    handle: CircuitHandle,
    answered: Vec<Duration>,
}

impl Circuit {
    /// Starts a stream and returns at once: bytes may be written before the exit has answered.
    /// Await [`CircuitStream::connected`] for the answer.
    ///
    /// # Errors
    /// [`EndReason::Resources`] if the circuit has too many streams, [`EndReason::Reset`] if it has ended.
    pub fn begin(&self, target: Target) -> Result<CircuitStream, EndReason> {
        Ok(CircuitStream::new(self.0.handle.begin(Begin::Connect(target))?, Some(self.clone())))
    }

    /// Starts a stream to the directory of the last hop; as [`Circuit::begin`].
    ///
    /// # Errors
    /// As [`Circuit::begin`].
    pub fn begin_dir(&self) -> Result<CircuitStream, EndReason> {
        Ok(CircuitStream::new(self.0.handle.begin(Begin::Directory)?, Some(self.clone())))
    }

    /// Starts a stream of any kind; as [`Circuit::begin`].
    ///
    /// # Errors
    /// As [`Circuit::begin`].
    pub fn begin_any(&self, begin: Begin) -> Result<CircuitStream, EndReason> {
        Ok(CircuitStream::new(self.0.handle.begin(begin)?, Some(self.clone())))
    }

    /// Sends cover traffic to this hop, an index in the path. It is given up if too much of it waits.
    pub fn cover(&self, hop: usize, cover: Cover) {
        self.0.handle.cover(hop, cover);
    }

    /// Whether streams can be started.
    pub fn is_open(&self) -> bool {
        self.0.handle.status() == CircuitStatus::Open
    }

    /// When each hop had answered, counted from the start of the build: a round trip to that hop and its handshake for
    /// each, and the opening of a channel between two relays where there was none.
    pub fn answered_after(&self) -> &[Duration] {
        &self.0.answered
    }

    /// Ends the circuit now, with every stream on it.
    pub fn end(&self) {
        self.0.handle.end();
    }

    /// How the circuit is.
    pub fn status(&self) -> CircuitStatus {
        self.0.handle.status()
    }

    /// Streams that are not gone yet.
    pub fn stream_count(&self) -> usize {
        self.0.handle.stream_count()
    }

    /// Completes when the circuit has ended, with how: [`CircuitStatus::Closed`] or [`CircuitStatus::Tampered`].
    pub async fn closed(&self) -> CircuitStatus {
        poll_fn(|cx| self.0.handle.poll_status(CircuitStatus::Open, cx)).await
    }
}
