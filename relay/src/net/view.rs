//! The view of the network that all tasks of a relay share, and its copy on disk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use tunic_net::daemon::unix_now;
use tunic_net::keyfile::{KeyFileError, read_state, write_private};
use tunic_proto::dir::{Accepted, DirError, MAX_RESPONSE_BODY};
use tunic_proto::time::UnixTime;

use crate::core::directory_view::DirectoryView;

/// A [`DirectoryView`] that many read and one task replaces.
pub struct SharedView {
    view: RwLock<Arc<DirectoryView>>,
    file: PathBuf,
}

impl SharedView {
    /// Shares this view; the consensus is kept in `file`.
    pub fn new(view: DirectoryView, file: PathBuf) -> Self {
        SharedView { view: RwLock::new(Arc::new(view)), file }
    }

    /// The view as it is now.
    pub fn read(&self) -> Arc<DirectoryView> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The parameters of the consensus; none without one.
    pub fn params(&self) -> BTreeMap<String, i64> {
        self.read().current(unix_now()).map(|consensus| consensus.params.clone()).unwrap_or_default()
    }

    /// Checks a consensus and takes it if it is newer. Takes a while for a large one, but holds no lock meanwhile: to be
    /// called by one task only.
    ///
    /// # Errors
    /// As [`DirectoryView::handle_consensus`].
    pub fn handle_consensus(&self, bytes: &[u8], now: UnixTime) -> Result<Accepted, DirError> {
        let mut view = DirectoryView::clone(&self.read());
        let accepted = view.handle_consensus(bytes, now)?;
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
        Ok(accepted)
    }

    /// Writes a consensus to disk for the next start.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn store(&self, bytes: &[u8]) -> Result<(), KeyFileError> {
        write_private(&self.file, bytes)
    }

    /// Takes the consensus that an earlier run stored, if there is one that is still usable.
    ///
    /// # Errors
    /// If others can access the file, or the system refuses.
    pub fn load(&self, now: UnixTime) -> Result<(), KeyFileError> {
        // One byte more than allowed: the parser then refuses it as too long.
        let Some(bytes) = read_state(&self.file, MAX_RESPONSE_BODY + 1)? else { return Ok(()) };
        if let Err(error) = self.handle_consensus(&bytes, now) {
            tracing::debug!("the stored consensus is not used: {error}");
        }
        Ok(())
    }
}
