//! What every daemon does the same way: signals, exit codes, telling its starter how far it is, the wall clock.

use std::io;
use std::net::SocketAddr;
use std::process::{ExitCode, Termination};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tunic_proto::time::UnixTime;

/// How far a daemon has come. Each may be told more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Connections are accepted at this address.
    Listening(SocketAddr),
    /// A relay: an authority took its descriptor.
    Published,
    /// An authority: so many relays answered as themselves.
    RelaysReachable(usize),
    /// A valid consensus is there.
    Consensus {
        /// How many relays it lists.
        relays: usize,
    },
    /// A client: a circuit of full length is built.
    CircuitReady,
}

/// Who is told how far a daemon has come. Must not block.
pub type StatusSink = Arc<dyn Fn(Status) + Send + Sync>;

/// What the one who starts a daemon may provide beside its configuration.
#[derive(Clone, Default)]
pub struct RunOptions {
    /// A socket that listens already, in place of the configured address.
    pub listener: Option<Arc<std::net::TcpListener>>,
    /// Who is told how far the daemon is.
    pub status: Option<StatusSink>,
}

impl RunOptions {
    /// Tells the starter, if one listens.
    pub fn tell(&self, status: Status) {
        if let Some(sink) = &self.status {
            sink(status);
        }
    }
}

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
            if cause.is::<crate::config::ConfigError>() {
                return Exit::Config;
            }
            if cause.is::<crate::keyfile::KeyFileError>() || cause.is::<crate::keys::KeysError>() {
                return Exit::KeyFile;
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

/// How long threads that are stuck in the system, such as in a slow name server's lookup, may hold up the end.
const BLOCKED_GRACE: Duration = Duration::from_millis(200);

/// Runs a daemon on all cores until it has ended, with as many open files as the system allows.
///
/// # Errors
/// If the runtime cannot be started.
pub fn run_to_end<T>(daemon: impl Future<Output = T>) -> io::Result<T> {
    open_file_limit();
    let runtime = tokio::runtime::Runtime::new()?;
    let ended = runtime.block_on(daemon);
    // Dropping it would wait for every lookup, however long a name server takes.
    runtime.shutdown_timeout(BLOCKED_GRACE);
    Ok(ended)
}

/// Raises the limit of open files as far as allowed, and tells it; `None` if there is no limit.
pub fn open_file_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Where this fails the old limit stays, and is told.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    getrlimit(Resource::Nofile).current
}

/// Completes at the first SIGINT or SIGTERM after the call (not after the first poll). Where signals cannot be caught,
/// never: then the system's own way of ending a process is in force. To be called inside a tokio runtime.
pub fn shutdown_signal() -> impl Future<Output = ()> + Send {
    let handlers = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = handlers else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

/// The wall clock, whole seconds. A clock before 1970 reads as 0.
#[expect(clippy::disallowed_methods, reason = "the one place where the shell reads the wall clock")]
pub fn unix_now() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_lookup_that_hangs_does_not_hold_up_the_end() {
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let daemon = async {
                let (starting, started) = tokio::sync::oneshot::channel();
                tokio::task::spawn_blocking(move || {
                    let _ = starting.send(());
                    let _ = hangs.recv();
                });
                started.await.unwrap();
            };
            done.send(run_to_end(daemon)).unwrap();
        });
        ended.recv_timeout(Duration::from_secs(30)).expect("it waits for the lookup").unwrap();
        drop(release);
    }

    #[test]
    fn as_many_files_may_be_open_as_the_system_allows() {
        open_file_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }

    #[track_caller]
    fn check(error: impl Into<anyhow::Error>, expect: Exit) {
        assert_eq!(Exit::of(&error.into().context("while starting")), expect);
    }

    #[test]
    fn exit_codes_follow_the_cause() {
        check(crate::config::parse::<u8>("x", "").unwrap_err(), Exit::Config);
        let missing = std::path::Path::new("/nonexistent/key");
        check(crate::keyfile::read_private(missing).unwrap_err(), Exit::KeyFile);
        check(crate::keys::NodeKeys::load(missing, UnixTime(0)).unwrap_err(), Exit::KeyFile);
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let second = std::net::TcpListener::bind(taken.local_addr().unwrap()).context("SOCKS");
        check(second.unwrap_err(), Exit::Unavailable);
        check(anyhow::anyhow!("else"), Exit::Failure);
    }

    #[tokio::test]
    async fn a_termination_signal_is_noticed() {
        let waiting = shutdown_signal();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
        waiting.await;
    }
}
