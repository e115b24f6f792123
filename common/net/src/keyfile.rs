//! Files and directories that nobody else may read: keys and state.
//!
//! What is made here has mode 0600 (files) or 0700 (directories). What is found is refused when it belongs to someone
//! else or when group or others can access it: a key that others could read is no secret any more, and saying so is
//! kinder than repairing the mode in silence.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// The largest private file that is read, in bytes.
pub const MAX_FILE_LEN: usize = 64 << 10;

/// What a private file or directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Keys.
    Secret,
    /// What shows the doings of its owner.
    State,
    /// Either.
    Directory,
}

impl Kind {
    fn when_others_read_it(self) -> &'static str {
        match self {
            Kind::Secret => "its secrets must be taken as known.",
            Kind::State => "it shows what this daemon has been doing.",
            Kind::Directory => "what lies in it must be taken as known.",
        }
    }
}

const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
const GROUP_AND_OTHERS: u32 = 0o077;

/// A key file or state directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The system refused.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// "read", "write", …
        action: &'static str,
        /// What.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// Group or others have access.
    #[error(
        "{} can be accessed by other users (mode {mode:04o}): {} \
         If you trust all who could read it: chmod {should:o} {}",
        path.display(), kind.when_others_read_it(), path.display()
    )]
    TooOpen {
        /// What.
        path: PathBuf,
        /// The mode that it has.
        mode: u32,
        /// The mode that it should have.
        should: u32,
        /// What it holds.
        kind: Kind,
    },
    /// It belongs to someone else.
    #[error(
        "{} belongs to user {owner}, but this process runs as user {user}. \
         Run it as the owner, or: chown {user} {}",
        path.display(), path.display()
    )]
    WrongOwner {
        /// What.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// It is a symbolic link, a device, or a directory in place of a file or the other way round.
    #[error("{} is not {expected}; move it away", path.display())]
    WrongKind {
        /// What.
        path: PathBuf,
        /// "a plain file" or "a directory".
        expected: &'static str,
    },
    /// It is larger than [`MAX_FILE_LEN`].
    #[error("{} is larger than {MAX_FILE_LEN} bytes: this is no key file", path.display())]
    TooLarge {
        /// What.
        path: PathBuf,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> KeyFileError {
    move |cause| KeyFileError::Io { action, path: path.to_path_buf(), cause }
}

/// Makes a private directory (its parents with ordinary modes), or checks the one that is there.
///
/// A symbolic link counts as the directory that it leads to if the link is root's or ours, as systemd makes one for
/// `DynamicUser=`.
///
/// # Errors
/// If it cannot be made, is not ours, or others can access it.
pub fn ensure_private_dir(path: &Path) -> Result<(), KeyFileError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io_error("create the directory", parent))?;
    }
    match DirBuilder::new().mode(DIR_MODE).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io_error("create the directory", path)(error));
        }
        _ => {}
    }
    let link = fs::symlink_metadata(path).map_err(io_error("look at", path))?;
    if link.is_symlink() && link.uid() != 0 {
        check_owner(path, &link)?;
    }
    let metadata = fs::metadata(path).map_err(io_error("look at", path))?;
    if !metadata.is_dir() {
        return Err(KeyFileError::WrongKind { path: path.to_path_buf(), expected: "a directory" });
    }
    check_private(path, &metadata, DIR_MODE, Kind::Directory)
}

/// Reads a private file. The bytes are wiped when dropped.
///
/// # Errors
/// If it is not there, is a symbolic link or no plain file, is not ours, others can access it, or it is larger than
/// [`MAX_FILE_LEN`].
pub fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let file = open_private(path, Kind::Secret)?;
    // The whole capacity at once: growing would leave copies that nobody wipes.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE_LEN + 1));
    file.take(MAX_FILE_LEN as u64 + 1).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    if bytes.len() > MAX_FILE_LEN {
        return Err(KeyFileError::TooLarge { path: path.to_path_buf() });
    }
    Ok(bytes)
}

/// Reads stored state that is no secret but shows what its owner does, at most `limit` bytes of it; `None` if there is
/// none.
///
/// # Errors
/// As [`read_private`], but for the size.
pub fn read_state(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, KeyFileError> {
    let file = match open_private(path, Kind::State) {
        Err(KeyFileError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    file.take(limit as u64).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    Ok(Some(bytes))
}

fn open_private(path: &Path, kind: Kind) -> Result<File, KeyFileError> {
    // Non-blocking, so that a named pipe in this place is refused below and not waited for.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits();
    let opened = OpenOptions::new().read(true).custom_flags(flags as i32).open(path);
    let file = opened.map_err(|error| match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::LOOP) => {
            KeyFileError::WrongKind { path: path.to_path_buf(), expected: "a plain file" }
        }
        _ => io_error("read", path)(error),
    })?;
    let metadata = file.metadata().map_err(io_error("look at", path))?;
    if !metadata.is_file() {
        return Err(KeyFileError::WrongKind { path: path.to_path_buf(), expected: "a plain file" });
    }
    check_private(path, &metadata, FILE_MODE, kind)?;
    Ok(file)
}

/// Writes a private file: all of it or, after a crash, what was there before.
///
/// # Errors
/// If the system refuses.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), KeyFileError> {
    let temporary = temporary_name(path);
    let result = write_and_rename(&temporary, path, bytes);
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result.map_err(io_error("write", path))
}

fn write_and_rename(temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// A name beside `path` that no other writer uses, in this process or another.
fn temporary_name(path: &Path) -> PathBuf {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let write = WRITES.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}-{write}.new", std::process::id()))
}

fn check_private(path: &Path, metadata: &Metadata, should: u32, kind: Kind) -> Result<(), KeyFileError> {
    check_owner(path, metadata)?;
    let mode = metadata.mode() & 0o7777;
    if mode & GROUP_AND_OTHERS != 0 {
        return Err(KeyFileError::TooOpen { path: path.to_path_buf(), mode, should, kind });
    }
    Ok(())
}

fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), KeyFileError> {
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() == user {
        return Ok(());
    }
    Err(KeyFileError::WrongOwner { path: path.to_path_buf(), owner: metadata.uid(), user })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_is_written_is_private_and_is_read_back() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/keys");
        ensure_private_dir(&dir).unwrap();
        assert_eq!(mode(&dir), 0o700);
        let file = dir.join("secret");
        write_private(&file, b"one").unwrap();
        write_private(&file, b"two").unwrap();
        assert_eq!(mode(&file), 0o600);
        assert_eq!(read_private(&file).unwrap().as_slice(), b"two");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "no temporary file is left");
        ensure_private_dir(&dir).unwrap();
    }

    #[test]
    fn what_others_can_access_is_refused_with_the_command_that_helps() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        write_private(&file, b"x").unwrap();
        for bits in [0o001, 0o002, 0o004, 0o010, 0o020, 0o040] {
            set_mode(&file, 0o600 | bits);
            let error = read_private(&file).unwrap_err().to_string();
            assert!(error.contains(&format!("chmod 600 {}", file.display())), "{error}");
        }
        set_mode(dir.path(), 0o750);
        let error = ensure_private_dir(dir.path()).unwrap_err().to_string();
        assert!(error.contains("mode 0750") && error.contains("chmod 700"), "{error}");
    }

    #[test]
    fn links_pipes_and_directories_are_no_key_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        write_private(&file, b"x").unwrap();
        let link = dir.path().join("link");
        symlink(&file, &link).unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        for path in [&link, &pipe, &dir.path().to_path_buf()] {
            let error = read_private(path).unwrap_err();
            assert!(matches!(error, KeyFileError::WrongKind { .. }), "{error}");
        }
    }

    #[test]
    fn a_link_of_ours_to_a_private_directory_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        ensure_private_dir(&real).unwrap();
        symlink(&real, &link).unwrap();
        ensure_private_dir(&link).unwrap();
        set_mode(&real, 0o755);
        assert!(matches!(ensure_private_dir(&link), Err(KeyFileError::TooOpen { .. })));
    }

    #[test]
    fn what_is_too_large_or_missing_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        write_private(&file, &vec![0; MAX_FILE_LEN]).unwrap();
        assert_eq!(read_private(&file).unwrap().len(), MAX_FILE_LEN);
        write_private(&file, &vec![0; MAX_FILE_LEN + 1]).unwrap();
        assert!(matches!(read_private(&file), Err(KeyFileError::TooLarge { .. })));
        let error = read_private(&dir.path().join("none")).unwrap_err();
        assert!(matches!(error, KeyFileError::Io { action: "read", .. }), "{error}");
    }

    #[test]
    fn what_belongs_to_someone_else_is_refused() {
        // Root's file as seen by another user, or another user's file as seen by root: made without privileges by
        // asking for the check with metadata of a file that is certainly not ours.
        let user = rustix::process::geteuid().as_raw();
        let Some(foreign) = ["/etc/passwd", "/proc/1/status"].iter().find_map(|path| {
            let metadata = fs::metadata(path).ok()?;
            (metadata.uid() != user).then_some((Path::new(*path), metadata))
        }) else {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("secret");
            write_private(&file, b"x").unwrap();
            std::os::unix::fs::chown(&file, Some(65_534), None).unwrap();
            assert!(matches!(read_private(&file), Err(KeyFileError::WrongOwner { owner: 65_534, .. })));
            return;
        };
        let error = check_private(foreign.0, &foreign.1, FILE_MODE, Kind::Secret).unwrap_err();
        assert!(matches!(error, KeyFileError::WrongOwner { .. }), "{error}");
    }

    #[test]
    fn stored_state_that_others_can_read_is_refused_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("consensus");
        assert!(read_state(&path, 9).unwrap().is_none());
        write_private(&path, b"0123456789").unwrap();
        assert_eq!(read_state(&path, 9).unwrap().unwrap(), b"012345678");
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        let error = read_state(&path, 9).unwrap_err().to_string();
        assert!(error.contains("chmod 600") && !error.contains("secret"), "{error}");
    }
}
