//! Becoming another user, for a daemon that was started as root.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, geteuid, getresuid, setgroups, setresgid, setresuid};

/// The user could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// There is no such user.
    #[error("`user` = {0:?}: this machine has no such user")]
    Unknown(String),
    /// The user is the one that a daemon must not be.
    #[error(
        "`user` = {0:?} is root: name a user that may do nothing else, such as one that `useradd --system` makes"
    )]
    Root(String),
    /// This process is another user, and not root.
    #[error(
        "`user` = {0:?}, but only root can become another user: start as root, or as {0:?}, or leave `user` out"
    )]
    NotRoot(String),
    /// The system refused.
    #[error("cannot become user {user:?}: {cause}")]
    Refused {
        /// The user.
        user: String,
        /// What the system said.
        cause: io::Error,
    },
    /// The directory for keys and state could not be made.
    #[error("cannot make {} for user {user:?}: {cause}", path.display())]
    Directory {
        /// The user.
        user: String,
        /// The directory.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// Becomes this user, with its own group and no others, for good. `data_dir`, if one is given and not there, is made for it. Does
/// nothing where this process is that user already. To be called before there are other threads.
///
/// # Errors
/// [`UserError`]. After [`UserError::Refused`] the process is in between two users and has to end.
pub fn become_user(name: &str, data_dir: Option<&Path>) -> Result<(), UserError> {
    let user = User::from_name(name).ok().flatten().ok_or_else(|| UserError::Unknown(name.to_owned()))?;
    if user.uid.is_root() {
        return Err(UserError::Root(name.to_owned()));
    }
    if geteuid() == user.uid {
        return Ok(());
    }
    if !geteuid().is_root() {
        return Err(UserError::NotRoot(name.to_owned()));
    }
    if let Some(path) = data_dir {
        make_for(&user, path).map_err(|cause| UserError::Directory {
            user: name.to_owned(),
            path: path.to_path_buf(),
            cause,
        })?;
    }
    change(user.uid, user.gid).map_err(|cause| UserError::Refused { user: name.to_owned(), cause })
}

fn make_for(user: &User, path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::DirBuilder::new().mode(0o700).create(path)?;
    chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
}

fn change(uid: Uid, gid: Gid) -> io::Result<()> {
    setgroups(&[gid])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    let now = getresuid()?;
    if (now.real, now.effective, now.saved) != (uid, uid, uid)
        || setresuid(Uid::from_raw(0), uid, uid).is_ok()
    {
        return Err(io::Error::other("root's rights were not given up"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_that_does_not_exist_is_named() {
        let error = become_user("nobody-by-this-name", None).unwrap_err();
        assert!(matches!(&error, UserError::Unknown(name) if name == "nobody-by-this-name"), "{error}");
    }

    #[test]
    fn root_is_not_whom_to_become() {
        let root = User::from_uid(Uid::from_raw(0)).unwrap().unwrap();
        let error = become_user(&root.name, None).unwrap_err();
        assert!(matches!(&error, UserError::Root(_)), "{error}");
    }

    #[test]
    fn whoever_is_that_user_already_stays_so() {
        let own = User::from_uid(geteuid()).unwrap().unwrap();
        let became = become_user(&own.name, None);
        assert!(matches!((own.uid.is_root(), became), (false, Ok(())) | (true, Err(UserError::Root(_)))));
    }
}
