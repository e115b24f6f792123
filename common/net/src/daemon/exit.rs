//! How a daemon ends, as whoever started it is told.

use std::process::{ExitCode, Termination};

use crate::sandbox::UserError;

/// How a daemon ended, as its exit code tells it (sysexits.h where there is one).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It was asked to end, or did what was asked.
    Success = 0,
    /// Something else failed; the last line on stderr says what.
    Failure = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// An address is taken, or nothing that is needed could be reached (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// A key file or state directory must not be used as it is (`EX_NOPERM`).
    KeyFile = 77,
    /// The configuration is wrong (`EX_CONFIG`).
    Config = 78,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

impl Exit {
    /// The code that fits an error, by looking for the known kinds in its chain of causes.
    pub fn of(error: &anyhow::Error) -> Exit {
        for cause in error.chain() {
            let is_no_user = matches!(
                cause.downcast_ref(),
                Some(UserError::Unknown(_) | UserError::Root(_) | UserError::NotRoot(_))
            );
            if cause.is::<crate::config::ConfigError>() || is_no_user {
                return Exit::Config;
            }
            if cause.is::<crate::keyfile::KeyFileError>() || cause.is::<crate::keys::KeysError>() {
                return Exit::KeyFile;
            }
            if cause.is::<super::ListenError>() {
                return Exit::Unavailable;
            }
            if let Some(io) = cause.downcast_ref::<std::io::Error>()
                && matches!(io.kind(), std::io::ErrorKind::AddrInUse | std::io::ErrorKind::AddrNotAvailable)
            {
                return Exit::Unavailable;
            }
        }
        Exit::Failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use tunic_proto::time::UnixTime;

    #[track_caller]
    fn check(error: impl Into<anyhow::Error>, expect: Exit) {
        assert_eq!(Exit::of(&error.into().context("while starting")), expect);
    }

    #[test]
    fn exit_codes_follow_the_cause() {
        check(crate::config::parse::<u8>("x", "").unwrap_err(), Exit::Config);
        check(UserError::Root("root".to_owned()), Exit::Config);
        let missing = std::path::Path::new("/nonexistent/key");
        check(crate::keyfile::read_private(missing).unwrap_err(), Exit::KeyFile);
        check(crate::keys::NodeKeys::load(missing, UnixTime(0)).unwrap_err(), Exit::KeyFile);
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let second = std::net::TcpListener::bind(taken.local_addr().unwrap()).context("SOCKS");
        check(second.unwrap_err(), Exit::Unavailable);
        check(anyhow::anyhow!("else"), Exit::Failure);
    }
}
