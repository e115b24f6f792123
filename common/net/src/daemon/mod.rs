//! What every daemon does the same way: its command line, signals, exit codes, telling its starter how far it is, the
//! wall clock.
//!
//! 1. [`command`] reads the command line; every daemon knows the same flags.
//! 2. [`run_file`] loads the configuration, starts the log, opens the listening socket, gives up what the daemon does not
//!    need ([`crate::sandbox`]), and runs it.
//! 3. Signals tell it when to end and when to read its configuration again; the service manager is told how it is.
//! 4. [`Exit`] says how it ended.

pub mod command;
mod early;
mod exit;
mod notify;
mod process;
mod reload;
mod service;
mod signals;
mod socket;
mod unix;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tunic_proto::time::UnixTime;

pub use early::{Early, Port};
pub use exit::Exit;
pub use process::{open_file_limit, run_file, run_to_end};
pub use service::{ServiceConfig, Switch};
pub use signals::{Hurry, Shutdown, shutdown_signal};
pub use socket::{ListenError, bind, listen};
pub use tokio::sync::watch;
pub(crate) use unix::lock_path;
pub use unix::{UnixLock, is_served, open_unix, prepare_unix};

use crate::channel::Rest;
use crate::config::ConfigError;
use crate::telemetry::LogFilter;

/// What is asked of a daemon's configuration whatever the daemon does.
pub trait Settings: Serialize + DeserializeOwned {
    /// The commented example that `--print-config` prints.
    const EXAMPLE: &'static str;
    /// Keys that a running daemon takes over at SIGHUP, with all that is below them. `log` always is.
    const RELOADABLE: &'static [&'static str] = &[];

    /// What gets logged.
    fn log(&self) -> &LogFilter;

    /// How the process behaves.
    fn service(&self) -> &ServiceConfig;

    /// Where it listens, and which setting says so.
    fn listen(&self) -> (SocketAddr, &'static str);

    /// Refuses what must not be listened with, before anybody can connect.
    ///
    /// # Errors
    /// What is wrong, and what to do about it.
    fn check_before_listening(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    /// The directory for keys and state.
    ///
    /// # Errors
    /// If nothing says where.
    fn state_dir(&self) -> Result<PathBuf, ConfigError>;

    /// Unix sockets that it opens outside of it.
    fn sockets(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Where else it listens.
    fn other_ports(&self) -> Vec<Port> {
        Vec::new()
    }

    /// How long circuits that are in use may go on after the order to end.
    fn drain(&self) -> Duration {
        Duration::ZERO
    }

    /// What is wrong with the settings, each with what to do about it.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }
}

/// How far a daemon has come. Each may be told more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Connections are accepted at this address.
    Listening(SocketAddr),
    /// A client: its status page is at this address.
    Page(SocketAddr),
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
    /// A relay: its bytes of this interval are used up, or nearly, or a new interval has begun.
    Rest(Rest),
}

/// Who is told how far a daemon has come. Must not block.
pub type StatusSink = Arc<dyn Fn(Status) + Send + Sync>;

/// What the one who starts a daemon may provide beside its configuration.
#[derive(Clone, Default)]
pub struct RunOptions {
    /// A socket that listens already, in place of the configured address.
    pub listener: Option<Arc<std::net::TcpListener>>,
    /// Sockets that need rights which the process no longer has.
    pub early: Arc<Early>,
    /// Who is told how far the daemon is.
    pub status: Option<StatusSink>,
    /// Tells when there is no time for an orderly end.
    pub hurry: Hurry,
}

impl RunOptions {
    /// Tells the starter, if one listens.
    pub fn tell(&self, status: Status) {
        if let Some(sink) = &self.status {
            sink(status);
        }
    }
}

/// How wrong the clock of this process is, in seconds: nothing but [`dangerously_shift_clock_for_testing_only`] sets it.
static CLOCK_OFFSET_S: AtomicI64 = AtomicI64::new(0);

/// The wall clock, whole seconds. A clock before 1970 reads as 0.
pub fn unix_now() -> UnixTime {
    UnixTime(unix_now_ms() / 1_000)
}

/// The wall clock in milliseconds. A clock before 1970 reads as 0.
#[expect(clippy::disallowed_methods, reason = "the one place where the shell reads the wall clock")]
pub fn unix_now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let offset_ms = CLOCK_OFFSET_S.load(Ordering::Relaxed).saturating_mul(1_000);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_add_signed(offset_ms)
}

/// Makes the clock of this process wrong by so many seconds: what a test network does to see what others make of it. No
/// daemon has a setting for it.
pub fn dangerously_shift_clock_for_testing_only(offset_s: i64) {
    CLOCK_OFFSET_S.store(offset_s, Ordering::Relaxed);
}
