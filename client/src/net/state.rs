//! What the client keeps on disk: its guards and the last consensus.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tunic_net::keyfile::{KeyFileError, ensure_private_dir, read_private, read_state, write_private};
use tunic_proto::dir::Kind;

use crate::core::guards::{GuardSet, GuardsError};

const GUARDS_FILE: &str = "guards.json";
const CONSENSUS_FILE: &str = "consensus";
/// Files that wait to be written; beyond it they are not written.
const MAX_QUEUED: usize = 16;

/// The guards of the last run cannot be used. What a person can do about it is their choice.
#[derive(Debug, thiserror::Error)]
pub(super) enum GuardFileError {
    /// It is there, and the system or its mode is in the way.
    #[error("{0}. {NO_NEW_GUARDS}")]
    Unreadable(KeyFileError),
    /// It is no guard set.
    #[error(
        "{} is damaged ({cause}): put back a copy of it, if there is one. {NO_NEW_GUARDS}",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: GuardsError,
    },
}

const NO_NEW_GUARDS: &str = "It says over which relays this client enters the network, and new ones are not chosen \
    without need, since some may be hostile. If it is lost, move it away: then they are.";

/// The state directory, private to this user.
#[derive(Debug, Clone)]
pub(super) struct State {
    dir: PathBuf,
}

impl State {
    /// Creates the directory if need be.
    ///
    /// # Errors
    /// If others can access it, or it cannot be made.
    pub(super) fn open(dir: &Path) -> Result<Self, KeyFileError> {
        ensure_private_dir(dir)?;
        Ok(State { dir: dir.to_path_buf() })
    }

    /// The guards of the last run; none if there is no file. New guards are never chosen in place of a file that is there:
    /// whoever changes them without need meets a bad one sooner, and may have been made to.
    ///
    /// # Errors
    /// If others can access the file, or it cannot be read or understood.
    pub(super) fn load_guards(&self) -> Result<GuardSet, GuardFileError> {
        let path = self.dir.join(GUARDS_FILE);
        match read_private(&path) {
            Ok(bytes) => GuardSet::from_json(&bytes).map_err(|cause| GuardFileError::Damaged { path, cause }),
            Err(KeyFileError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                Ok(GuardSet::default())
            }
            Err(cause) => Err(GuardFileError::Unreadable(cause)),
        }
    }

    /// The consensus of the last run as it was stored: unchecked.
    ///
    /// # Errors
    /// If others can access the file, or it cannot be read.
    pub(super) fn load_consensus(&self) -> Result<Option<Vec<u8>>, KeyFileError> {
        read_state(&self.dir.join(CONSENSUS_FILE), Kind::Consensus.max_len() + 1)
    }

    /// Starts the task that writes. It ends once all its writers are gone and everything is written.
    pub(super) fn start_writer(&self) -> (Writer, JoinHandle<()>) {
        let (sender, mut queue) = mpsc::channel(MAX_QUEUED);
        let dir = self.dir.clone();
        let task = tokio::task::spawn_blocking(move || {
            while let Some((name, bytes)) = queue.blocking_recv() {
                store(&dir, name, bytes);
            }
        });
        (Writer(sender), task)
    }
}

/// Has files written one after the other, so that a newer one is never replaced by an older one.
#[derive(Clone)]
pub(super) struct Writer(mpsc::Sender<(&'static str, Bytes)>);

type Bytes = Arc<[u8]>;

impl Writer {
    pub(super) fn guards(&self, json: Vec<u8>) {
        self.queue(GUARDS_FILE, json.into());
    }

    pub(super) fn consensus(&self, bytes: Bytes) {
        self.queue(CONSENSUS_FILE, bytes);
    }

    #[cfg(test)]
    pub(super) fn to_nowhere() -> Writer {
        Writer(mpsc::channel(1).0)
    }

    fn queue(&self, name: &'static str, bytes: Bytes) {
        if self.0.try_send((name, bytes)).is_err() {
            tracing::warn!("cannot store {name}: the disk is too slow");
        }
    }
}

/// Failing to store does not stop the client: it works, and says that it will not remember.
fn store(dir: &Path, name: &str, bytes: Bytes) {
    if let Err(error) = write_private(&dir.join(name), &bytes) {
        tracing::warn!(%error, "cannot store {name}: the next start will be slower. Is the disk full?");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn state_is_private_and_survives() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("a/state");
        let state = State::open(&dir).unwrap();
        assert!(state.load_consensus().unwrap().is_none());
        let (writer, written) = state.start_writer();
        writer.consensus(b"older".as_slice().into());
        writer.consensus(b"document".as_slice().into());
        writer.guards(state.load_guards().unwrap().to_json());
        drop(writer);
        written.await.unwrap();
        assert_eq!(
            (mode(&dir), mode(&dir.join("guards.json")), mode(&dir.join("consensus"))),
            (0o700, 0o600, 0o600)
        );
        assert_eq!(State::open(&dir).unwrap().load_consensus().unwrap().unwrap(), b"document");
    }

    #[test]
    fn only_where_there_is_no_guard_file_are_guards_chosen_anew() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("state");
        let (state, file) = (State::open(&dir).unwrap(), dir.join("guards.json"));
        let refused = |state: &State| {
            let told = state.load_guards().unwrap_err().to_string();
            assert!(told.contains(&file.display().to_string()) && told.contains("move it away"), "{told}");
        };
        state.load_guards().unwrap();
        for damaged in [&b""[..], b"{", b"{\"sample\": 1}"] {
            write_private(&file, damaged).unwrap();
            refused(&state);
            assert_eq!(std::fs::read(&file).unwrap(), damaged, "somebody may want to mend it");
        }
        std::fs::remove_file(&file).unwrap();
        // It is there, though nothing can be read, and `exists` would say that it is not.
        std::os::unix::fs::symlink(dir.join("nowhere"), &file).unwrap();
        refused(&state);
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        refused(&state);
        std::fs::remove_dir(&file).unwrap();
        state.load_guards().unwrap();
    }

    #[test]
    fn state_that_others_can_access_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("state");
        let state = State::open(&dir).unwrap();
        write_private(&dir.join("guards.json"), b"{}").unwrap();
        std::fs::set_permissions(dir.join("guards.json"), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(state.load_guards().is_err());
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(State::open(&dir).is_err());
    }
}
