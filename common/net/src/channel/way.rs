//! What a node remembers of each relay that it connects to.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Channel, ConnectError};

/// The way to one relay: the lock is held while a channel is being opened, so that it is opened once.
pub(super) type Slot = Arc<tokio::sync::Mutex<Way>>;

/// The channel to a relay, or what came of the last attempt.
#[derive(Default)]
pub(super) struct Way {
    pub(super) channel: Option<Channel>,
    pub(super) failure: Option<Failure>,
}

/// The last attempt, if it failed: it answers all who waited for it, lest each of them waits as long again.
pub(super) struct Failure {
    pub(super) at: Instant,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) error: ConnectError,
}

impl Way {
    pub(super) fn open_channel(&self) -> Option<&Channel> {
        self.channel.as_ref().filter(|channel| channel.is_open())
    }

    pub(super) fn failure_since(&self, asked: Instant, addresses: &[SocketAddr]) -> Option<ConnectError> {
        let failure = self.failure.as_ref()?;
        (failure.at >= asked && failure.addresses == addresses).then(|| failure.error.repeat())
    }
}
