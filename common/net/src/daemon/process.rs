//! The process of a daemon, from its configuration file to its end.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::signals::{Shutdown, Signals};
use super::{RunOptions, Settings, socket};
use crate::{config, telemetry};

/// How long threads that are stuck in the system, such as in a slow name server's lookup, may hold up the end.
const BLOCKED_GRACE: Duration = Duration::from_millis(200);

/// Runs a daemon on this configuration file until a signal ends it: loads the file, starts the log, opens the listening
/// socket if none was given, and hands all three over.
///
/// # Errors
/// If the configuration is wrong, the address is taken, or whatever `daemon` fails of.
pub fn run_file<S: Settings, F: Future<Output = anyhow::Result<()>>>(
    path: &Path,
    mut options: RunOptions,
    daemon: impl FnOnce(S, RunOptions, Shutdown) -> F,
) -> anyhow::Result<()> {
    let settings: S = config::load(path, S::EXAMPLE)?;
    telemetry::init(settings.log());
    if options.listener.is_none() {
        settings.check_before_listening()?;
        let (address, setting) = settings.listen();
        options.listener = Some(Arc::new(socket::bind(address, setting)?));
    }
    let ended = run_to_end(async {
        let signals = Signals::catch();
        options.hurry = signals.hurry();
        daemon(settings, options, signals.shutdown()).await
    });
    ended.context("the runtime cannot be started")??;
    tracing::info!("ended in order");
    Ok(())
}

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
