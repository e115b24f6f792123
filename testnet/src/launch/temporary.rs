//! Temporary folders of networks, and what becomes of those whose launcher was killed before it could remove them.
//!
//! A launcher holds a lock on a file in its folder for as long as it lives. The kernel gives the lock back however the
//! launcher ends, so a folder whose lock can be had belongs to nobody any more, and the next launcher removes it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

const PREFIX: &str = "tunic-testnet-";
const LOCK: &str = "lock";
/// The lock's name before it is held, so that nobody sees one that is not.
const UNLOCKED: &str = "lock.new";
/// Nobody else may look into it.
const MODE: u32 = 0o700;
/// Folders that one start looks at, which bounds its time in a crowded directory.
const MAX_SWEPT: usize = 1_000;

/// A folder that goes away when it is dropped, or when the next one is made after its process was killed.
#[derive(Debug)]
pub struct TemporaryFolder {
    dir: TempDir,
    _lock: File,
}

impl TemporaryFolder {
    /// Makes a folder in the system's place for them, and removes those that killed launchers left there.
    ///
    /// # Errors
    /// If it cannot be made. That an old one cannot be removed is no error.
    pub fn make() -> io::Result<TemporaryFolder> {
        TemporaryFolder::make_in(&std::env::temp_dir())
    }

    fn make_in(place: &Path) -> io::Result<TemporaryFolder> {
        left_behind(place).iter().for_each(|folder| _ = fs::remove_dir_all(folder));
        let private = fs::Permissions::from_mode(MODE);
        let dir = tempfile::Builder::new().prefix(PREFIX).permissions(private).tempdir_in(place)?;
        let (unlocked, lock) = (dir.path().join(UNLOCKED), dir.path().join(LOCK));
        let file = File::create_new(&unlocked)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        fs::rename(unlocked, lock)?;
        Ok(TemporaryFolder { dir, _lock: file })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Folders of ours whose launcher has gone.
fn left_behind(place: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(place) else { return Vec::new() };
    let named = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    named
        .take(MAX_SWEPT)
        .map(|entry| entry.path())
        .filter(|folder| is_ours(folder) && is_left(folder))
        .collect()
}

/// Nobody else can have put anything into such a folder, whatever they can do in the place where it lies.
fn is_ours(folder: &Path) -> bool {
    let user = rustix::process::geteuid().as_raw();
    let is_private = |meta: fs::Metadata| meta.is_dir() && meta.uid() == user && meta.mode() & 0o7777 == MODE;
    folder.symlink_metadata().is_ok_and(is_private)
}

fn is_left(folder: &Path) -> bool {
    let lock = File::open(folder.join(LOCK));
    lock.is_ok_and(|lock| flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A folder as a killed launcher leaves it.
    fn leave(place: &Path) -> PathBuf {
        let folder = TemporaryFolder::make_in(place).unwrap();
        fs::write(folder.path().join("relay1.toml"), "x").unwrap();
        folder.dir.keep()
    }

    #[test]
    fn what_a_killed_launcher_left_goes_when_the_next_one_starts() {
        let place = tempfile::tempdir().unwrap();
        let left = leave(place.path());
        let folder = TemporaryFolder::make_in(place.path()).unwrap();
        assert!(!left.exists() && folder.path().exists());
    }

    #[test]
    fn a_folder_in_use_stays() {
        let place = tempfile::tempdir().unwrap();
        let first = TemporaryFolder::make_in(place.path()).unwrap();
        let second = TemporaryFolder::make_in(place.path()).unwrap();
        assert!(first.path().exists() && second.path().exists());
        drop(first);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_may_be_somebody_elses_stays() {
        let place = tempfile::tempdir().unwrap();
        let make = |name: &str, mode: u32| {
            let folder = place.path().join(format!("{PREFIX}{name}"));
            fs::create_dir(&folder).unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
            folder
        };
        let unlocked = make("unlocked", 0o700);
        let open = make("open", 0o755);
        fs::write(open.join(LOCK), "").unwrap();
        let elsewhere = leave(tempfile::tempdir().unwrap().keep().as_path());
        symlink(&elsewhere, place.path().join(format!("{PREFIX}link"))).unwrap();
        let _folder = TemporaryFolder::make_in(place.path()).unwrap();
        assert!(unlocked.exists() && open.exists() && elsewhere.exists());
        fs::remove_dir_all(elsewhere.parent().unwrap()).unwrap();
    }
}
