//! Channels and circuits as their users hold them.

use std::future::poll_fn;
use std::sync::Arc;

use tokio::sync::watch;
use tunic_proto::channel::Inbox;
use tunic_proto::circuit::{BuildError, CircuitHandle, CircuitStatus, HopSpec};
use tunic_proto::message::{Begin, EndReason, Target};

use super::CircuitStream;

/// An open channel to a peer. Cheap to clone.
#[derive(Clone)]
pub struct Channel {
    inbox: Arc<Inbox>,
    closed: watch::Receiver<()>,
}

impl Channel {
    pub(super) fn new(inbox: Arc<Inbox>, closed: watch::Receiver<()>) -> Channel {
        Channel { inbox, closed }
    }

    pub(super) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Builds a circuit over these hops, of which the first is the relay at the end of this channel.
    ///
    /// # Errors
    /// [`BuildError`] with the hop that failed. Dropping the future gives the circuit up.
    pub async fn create_circuit(&self, hops: Vec<HopSpec>) -> Result<Circuit, BuildError> {
        let handle = CircuitHandle::create(&self.inbox, hops);
        match poll_fn(|cx| handle.poll_status(CircuitStatus::Building, cx)).await {
            CircuitStatus::Failed(error) => Err(error),
            _ => Ok(Circuit(Arc::new(handle))),
        }
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
pub struct Circuit(Arc<CircuitHandle>);

impl Circuit {
    /// Starts a stream and returns at once: bytes may be written before the exit has answered.
    /// Await [`CircuitStream::connected`] for the answer.
    ///
    /// # Errors
    /// [`EndReason::Resources`] if the circuit has too many streams, [`EndReason::Reset`] if it has ended.
    pub fn begin(&self, target: Target) -> Result<CircuitStream, EndReason> {
        Ok(CircuitStream::new(self.0.begin(Begin::Connect(target))?, Some(self.clone())))
    }

    /// Starts a stream to the directory of the last hop; as [`Circuit::begin`].
    ///
    /// # Errors
    /// As [`Circuit::begin`].
    pub fn begin_dir(&self) -> Result<CircuitStream, EndReason> {
        Ok(CircuitStream::new(self.0.begin(Begin::Directory)?, Some(self.clone())))
    }

    /// Starts a stream of any kind; as [`Circuit::begin`].
    ///
    /// # Errors
    /// As [`Circuit::begin`].
    pub fn begin_any(&self, begin: Begin) -> Result<CircuitStream, EndReason> {
        Ok(CircuitStream::new(self.0.begin(begin)?, Some(self.clone())))
    }

    /// Whether streams can be started.
    pub fn is_open(&self) -> bool {
        self.0.status() == CircuitStatus::Open
    }

    /// Streams that are not gone yet.
    pub fn stream_count(&self) -> usize {
        self.0.stream_count()
    }

    /// Completes when the circuit has ended, with how: [`CircuitStatus::Closed`] or [`CircuitStatus::Tampered`].
    pub async fn closed(&self) -> CircuitStatus {
        poll_fn(|cx| self.0.poll_status(CircuitStatus::Open, cx)).await
    }
}
