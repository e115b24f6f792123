//! The keys of a running relay.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tunic_net::keys::{KeysError, NodeKeys};
use tunic_proto::keys::{OnionKey, OnionSecret, Signer};
use tunic_proto::time::UnixTime;

/// Signs for the relay and rotates its onion keys.
pub struct KeyRing {
    signer: Arc<Signer>,
    dir: PathBuf,
    keys: Mutex<NodeKeys>,
}

impl KeyRing {
    /// Keeps these keys, which were loaded from `dir`.
    pub fn new(keys: NodeKeys, dir: PathBuf) -> Self {
        KeyRing { signer: Arc::clone(&keys.signer), dir, keys: Mutex::new(keys) }
    }

    /// What the relay signs with.
    pub fn signer(&self) -> &Arc<Signer> {
        &self.signer
    }

    /// The onion keys that handshakes are answered with: the current one, then the previous.
    pub fn onion(&self) -> Vec<OnionSecret> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).onion.clone()
    }

    /// The onion key that the descriptor lists.
    pub fn listed_onion(&self) -> Option<OnionKey> {
        self.onion().first().map(OnionSecret::public)
    }

    /// Replaces the onion keys whose time has come. True if they changed.
    ///
    /// # Errors
    /// If the new keys could not be written; the old ones then stay in use.
    pub fn rotate(&self, now: UnixTime) -> Result<bool, KeysError> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).rotate_onion(&self.dir, now)
    }

    /// How long the signing certificate still holds.
    pub fn certificate_left(&self, now: UnixTime) -> Duration {
        self.signer.cert().expires().since(now)
    }
}
