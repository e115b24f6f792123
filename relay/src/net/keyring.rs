//! The keys of a running relay.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tunic_net::keys::{KeysError, NodeKeys, SIGNING_RENEWAL};
use tunic_proto::keys::{OnionKey, OnionSecret, Signer};
use tunic_proto::time::UnixTime;

/// Signs for the relay and rotates its onion keys.
pub struct KeyRing {
    dir: PathBuf,
    keys: Mutex<NodeKeys>,
}

impl KeyRing {
    /// Keeps these keys, which were loaded from `dir`.
    pub fn new(keys: NodeKeys, dir: PathBuf) -> Self {
        KeyRing { dir, keys: Mutex::new(keys) }
    }

    /// What the relay signs with.
    pub fn signer(&self) -> Arc<Signer> {
        Arc::clone(&self.lock().signer)
    }

    fn lock(&self) -> MutexGuard<'_, NodeKeys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The onion keys that handshakes are answered with: the current one, then the previous.
    pub fn onion(&self) -> Vec<OnionSecret> {
        self.lock().onion.clone()
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
        self.lock().rotate_onion(&self.dir, now)
    }

    /// Renews a signing certificate that is about to end. Gives the new signer if there is one.
    ///
    /// # Errors
    /// If the key files cannot be read or written; the old signer then stays in use.
    pub fn renew_signer(&self, now: UnixTime) -> Result<Option<Arc<Signer>>, KeysError> {
        if self.certificate_left(now) >= SIGNING_RENEWAL {
            return Ok(None);
        }
        self.read_signer(now)
    }

    /// Takes a signing key that was put in place. Gives the new signer if there is one.
    ///
    /// # Errors
    /// As [`KeyRing::renew_signer`].
    pub fn read_signer(&self, now: UnixTime) -> Result<Option<Arc<Signer>>, KeysError> {
        let mut keys = self.lock();
        let signer = NodeKeys::load(&self.dir, now)?.signer;
        // Without the identity's key, the files hold what we have.
        let renewed = signer.cert() != keys.signer.cert();
        keys.signer = signer;
        Ok(renewed.then(|| Arc::clone(&keys.signer)))
    }

    /// How long the signing certificate still holds.
    pub fn certificate_left(&self, now: UnixTime) -> Duration {
        self.signer().cert().expires().since(now)
    }
}
