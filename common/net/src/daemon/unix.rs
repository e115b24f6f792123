//! Unix sockets that belong to one daemon at a time.
//!
//! A lock on a file beside the socket says whose it is, as long as that daemon runs: two that start at once cannot both take
//! what a third one left behind. The lock file stays, because removing it would let two daemons lock two files of one name.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use tokio::net::{UnixListener, UnixSocket};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1_024;

/// Held as long as the socket is ours.
pub struct UnixLock(#[expect(dead_code, reason = "held, not read")] File);

/// Opens a socket that only this user, and root, can connect to, for as long as the lock is held. One that an earlier run left
/// behind is replaced. To be called inside a tokio runtime.
///
/// # Errors
/// If another daemon has it, if anything else is in its place, or if the system refuses.
pub fn open_unix(path: &Path) -> anyhow::Result<(UnixListener, UnixLock)> {
    let context = || format!("cannot open the socket {}", path.display());
    let lock = lock(path).with_context(context)?;
    let is_socket = path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && is_abandoned(path) {
        std::fs::remove_file(path).with_context(context)?;
    }
    let socket = UnixSocket::new_stream().with_context(context)?;
    socket.bind(path).with_context(context)?;
    // Before it listens: nobody can have connected while the mode was another one.
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(context)?;
    Ok((socket.listen(BACKLOG).with_context(context)?, lock))
}

/// Makes what [`open_unix`] needs beside the socket and, inside the sandbox, could not make any more.
///
/// # Errors
/// If anything else is in its place, or if the system refuses.
pub fn prepare_unix(path: &Path) -> anyhow::Result<()> {
    lock_file(path).map(drop).with_context(|| format!("cannot open the socket {}", path.display()))
}

/// The file whose lock says whose this socket is.
pub(crate) fn lock_path(socket: &Path) -> PathBuf {
    let mut name = OsString::from(socket);
    name.push(".lock");
    PathBuf::from(name)
}

fn lock_file(socket: &Path) -> anyhow::Result<File> {
    let path = lock_path(socket);
    // Somebody else's pipe must not be waited for.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(flags.bits() as i32);
    let file = options.open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let is_file = file.metadata().is_ok_and(|meta| meta.is_file());
    anyhow::ensure!(is_file, "{} is not a file", path.display());
    Ok(file)
}

fn lock(socket: &Path) -> anyhow::Result<UnixLock> {
    let file = lock_file(socket)?;
    match file.try_lock() {
        Ok(()) => Ok(UnixLock(file)),
        Err(TryLockError::WouldBlock) => anyhow::bail!("another daemon that is running has it"),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", lock_path(socket).display()))
        }
    }
}

/// Whether a daemon listens at this socket. One that is too busy to answer does too: it is not waited for.
pub fn is_served(path: &Path) -> bool {
    matches!(connect(path), Ok(()) | Err(Errno::AGAIN))
}

/// Whether nobody listens there any more.
fn is_abandoned(path: &Path) -> bool {
    connect(path) == Err(Errno::CONNREFUSED)
}

fn connect(path: &Path) -> rustix::io::Result<()> {
    let address = SocketAddrUnix::new(path)?;
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    rustix::net::connect(&socket, &address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener as StdListener;

    fn why_not(path: &Path) -> String {
        format!("{:#}", open_unix(path).err().expect("a refusal"))
    }

    #[tokio::test]
    async fn a_socket_is_one_daemons_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = open_unix(&path).unwrap();
        let told = why_not(&path);
        assert!(told.contains("another daemon that is running") && told.contains("/s:"), "{told}");
        // Between its bind and its listen, the socket of one looks abandoned to the other: only the lock tells.
        let (listener, lock) = first;
        drop(listener);
        why_not(&path);
        drop(lock);
        open_unix(&path).unwrap();
    }

    #[tokio::test]
    async fn what_is_not_a_daemons_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _somebodys = StdListener::bind(&path).unwrap();
        why_not(&path);
        let file = dir.path().join("f");
        std::fs::write(&file, b"a file").unwrap();
        why_not(&file);
        assert_eq!(std::fs::read(&file).unwrap(), b"a file");
    }

    #[tokio::test]
    async fn a_lock_that_is_a_pipe_or_a_link_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, link) = (dir.path().join("p"), dir.path().join("l"));
        let made = std::process::Command::new("mkfifo").arg(lock_path(&pipe)).status().unwrap();
        assert!(made.success());
        why_not(&pipe);
        let mut reading = OpenOptions::new();
        reading.read(true).custom_flags(OFlags::NONBLOCK.bits() as i32);
        let _reader = reading.open(lock_path(&pipe)).unwrap();
        assert!(why_not(&pipe).contains("is not a file"));
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), lock_path(&link)).unwrap();
        why_not(&link);
        assert!(prepare_unix(&link).is_err() && !dir.path().join("elsewhere").exists());
    }

    #[tokio::test]
    async fn a_socket_that_is_too_busy_to_answer_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = UnixSocket::new_stream().unwrap();
        socket.bind(&path).unwrap();
        let _busy = socket.listen(1).unwrap();
        let mut waiting = Vec::new();
        // A blocking one would never come back from this.
        while let Ok(connected) = tokio::net::UnixStream::connect(&path).await {
            waiting.push(connected);
            assert!(waiting.len() < 1_000, "its queue never fills");
        }
        assert!(!is_abandoned(&path) && is_served(&path));
        why_not(&path);
    }
}
