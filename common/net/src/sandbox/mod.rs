//! What a daemon gives up once it has its configuration and its listening socket, so that whoever takes it over gets
//! little:
//!
//! 1. [`no_core_dumps`]: keys in memory never reach the disk, and no other process of this user looks into it.
//! 2. [`become_user`]: a daemon that was started as root does not stay root.
//! 3. [`enter`]: files by Landlock (`files`), system calls by seccomp (`calls`). Both hold for all threads made
//!    afterwards, and are never lifted.

mod calls;
mod files;
mod user;

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

pub use user::{UserError, become_user};

/// The files that a confined daemon may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// Files, and directories with all that is in them, that it reads besides the system's. Links are followed now.
    pub read: Vec<PathBuf>,
    /// Directories in which it reads, writes, makes and removes files.
    pub write: Vec<PathBuf>,
    /// Sockets that it makes, after removing what an earlier run left: in their directories it reads and writes no file but
    /// their locks, which are there already ([`prepare_unix`](crate::daemon::prepare_unix)).
    pub sockets: Vec<PathBuf>,
}

/// The directory that holds this file; a bare name is in the current one.
pub fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// How far one of the two confinements holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// As intended.
    Full,
    /// As far as this older kernel goes.
    Partial,
    /// Not at all, for this reason.
    None(String),
}

/// What [`enter`] achieved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confined {
    /// Files, by Landlock.
    pub files: Hold,
    /// System calls, by seccomp.
    pub calls: Hold,
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hold::Full => f.write_str("confined"),
            Hold::Partial => f.write_str("confined as far as this kernel can"),
            Hold::None(why) => write!(f, "not confined ({why})"),
        }
    }
}

impl fmt::Display for Confined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "files {}, system calls {}", self.files, self.calls)
    }
}

/// Confines this thread, and all that it starts from now on, to these files and to the system calls that a daemon
/// needs. To be called before there are other threads. What the kernel does not know is left out and told.
pub fn enter(paths: &Paths) -> Confined {
    // In this order: the filter of system calls does not let Landlock be entered any more.
    let files = files::confine(paths).unwrap_or_else(|error| Hold::None(error.to_string()));
    let calls = calls::confine().map_or_else(|error| Hold::None(error.to_string()), |()| Hold::Full);
    Confined { files, calls }
}

/// Keeps this process's memory off the disk and out of the sight of this user's other processes.
pub fn no_core_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let refused = setrlimit(Resource::Core, none).is_err();
    if set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err() || refused {
        tracing::warn!("core dumps cannot be turned off: after a crash, keys may lie on the disk");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_lies_in_the_current_directory() {
        let folders = ["/run/tunic/client.sock", "client.sock", "/client.sock", "sub/client.sock"];
        let expect = ["/run/tunic", ".", "/", "sub"];
        assert_eq!(folders.map(|file| folder_of(Path::new(file))), expect.map(PathBuf::from));
    }
}
