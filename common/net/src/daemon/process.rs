//! The process of a daemon, from its configuration file to its end.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use tokio::sync::watch;

use super::early::Early;
use super::signals::{Shutdown, Signals};
use super::{RunOptions, Settings, Switch, notify, reload, socket, unix};
use crate::sandbox::{self, Hold, Paths};
use crate::{config, keyfile, telemetry};

/// How long threads that are stuck in the system, such as in a slow name server's lookup, may hold up the end.
const BLOCKED_GRACE: Duration = Duration::from_millis(200);

/// Runs a daemon on this configuration file until a signal ends it: loads the file, starts the log, opens the listening
/// socket if none was given, gives up what the daemon does not need, and hands over the settings, which change when the
/// file is read again.
///
/// # Errors
/// If the configuration is wrong, the address is taken, or whatever `daemon` fails of.
pub fn run_file<S: Settings, F: Future<Output = anyhow::Result<()>> + Send + 'static>(
    path: &Path,
    mut options: RunOptions,
    daemon: impl FnOnce(watch::Receiver<S>, RunOptions, Shutdown) -> F,
) -> anyhow::Result<()> {
    let settings: S = config::load(path, S::EXAMPLE)?;
    telemetry::init(settings.log());
    if options.listener.is_none() {
        settings.check_before_listening()?;
        options.listener = Some(Arc::new(listener(&settings)?));
    }
    options.early = Arc::new(Early::open(&settings.other_ports())?);
    confine(path, &settings)?;
    notify::start(&mut options);
    let ended = run_to_end(async {
        let mut signals = Signals::catch();
        options.hurry = signals.hurry();
        let drain = settings.drain();
        let (running, settings) = watch::channel(settings);
        let ordered = signals.shutdown();
        let shutdown = Box::pin(async move {
            ordered.await;
            notify::stopping(drain);
        });
        // In a task of its own: this thread is none of those that wait for sockets, and each event would wake two.
        let daemon = tokio::spawn(daemon(settings, options, shutdown));
        tokio::select! {
            ended = daemon => ended?,
            never = attend(path, &mut signals, &running) => match never {},
        }
    });
    notify::flush();
    ended.context("the runtime cannot be started")??;
    tracing::info!("ended in order");
    Ok(())
}

fn listener<S: Settings>(settings: &S) -> anyhow::Result<TcpListener> {
    if let Some(listener) = socket::handed_over()? {
        return Ok(listener);
    }
    let (address, setting) = settings.listen();
    Ok(socket::bind(address, setting)?)
}

/// Gives up what the daemon does not need. Ports below 1024 are open already.
fn confine<S: Settings>(path: &Path, settings: &S) -> anyhow::Result<()> {
    let (state_dir, service) = (settings.state_dir()?, settings.service());
    if let Some(user) = &service.user {
        sandbox::become_user(user, Some(&state_dir))?;
    } else if rustix::process::geteuid().is_root() {
        tracing::warn!("this daemon runs as root and needs to be nobody: set `user` in [service]");
    }
    sandbox::no_core_dumps();
    keyfile::ensure_private_dir(&state_dir)?;
    if service.sandbox == Switch::Off {
        tracing::warn!("the sandbox is off: set sandbox = \"on\" in [service]");
        return Ok(());
    }
    let sockets = settings.sockets();
    for socket in &sockets {
        unix::prepare_unix(socket)?;
    }
    let confined = sandbox::enter(&Paths {
        // Also the directory, as editors replace files; and the file, as it may be a link to somewhere else.
        read: vec![sandbox::folder_of(path), path.to_path_buf()],
        write: vec![state_dir],
        sockets,
    });
    match (&confined.files, &confined.calls) {
        (Hold::None(_), _) | (_, Hold::None(_)) => tracing::warn!("sandbox: {confined}"),
        _ => tracing::info!("sandbox: {confined}"),
    }
    Ok(())
}

/// Does what goes on beside the daemon's own work; does not end.
async fn attend<S: Settings>(path: &Path, signals: &mut Signals, running: &watch::Sender<S>) -> Infallible {
    let reloads = async {
        loop {
            signals.hangups().next().await;
            reload::reload(path, running);
        }
    };
    tokio::select! {
        never = reloads => never,
        never = notify::watchdog() => never,
    }
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
