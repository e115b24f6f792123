//! What the service manager is told (sd_notify(3)): that the daemon is ready, what it does, that it lives, that it ends.
//! Where there is no service manager, nothing is told.

use std::convert::Infallible;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sd_notify::NotifyState;

use super::{RunOptions, Status};
use crate::channel::Rest;

/// Messages that may wait for a service manager that does not read; beyond, they are dropped.
const MAX_WAITING: usize = 64;

/// How long what was said last may take to be told.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// To the thread that tells the service manager: a manager that does not read must not hold up the daemon.
static MESSAGES: OnceLock<SyncSender<Message>> = OnceLock::new();

enum Message {
    /// To be told.
    Text(String),
    /// Everything before has been told.
    Flushed(SyncSender<()>),
}

fn tell(states: &[NotifyState<'_>]) {
    if let Some(messages) = MESSAGES.get() {
        let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
        let _ = messages.try_send(Message::Text(lines.join("\n")));
    }
}

/// Begins to tell the service manager, if there is one, also what the daemon tells its starter. To be called once.
pub(super) fn start(options: &mut RunOptions) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let (messages, waiting) = sync_channel(MAX_WAITING);
    let work = move || {
        for message in waiting {
            match message {
                Message::Text(text) => {
                    if let Err(error) = sd_notify::notify(&[NotifyState::Custom(&text)]) {
                        tracing::debug!("the service manager cannot be told: {error}");
                    }
                }
                Message::Flushed(done) => {
                    let _ = done.try_send(());
                }
            }
        }
    };
    if std::thread::Builder::new().name("notify".to_owned()).spawn(work).is_ok() {
        let _ = MESSAGES.set(messages);
    }
    let starter = options.status.take();
    options.status = Some(Arc::new(move |status| {
        tell(&[NotifyState::Status(&in_words(status))]);
        if matches!(status, Status::Listening(_)) {
            tell(&[NotifyState::Ready]);
        }
        if let Some(starter) = &starter {
            starter(status);
        }
    }));
}

/// Nothing here may say more than the log does.
fn in_words(status: Status) -> String {
    match status {
        Status::Listening(_) => "listening".to_owned(),
        Status::Published => "listed by an authority".to_owned(),
        Status::RelaysReachable(relays) => format!("{relays} relays answer"),
        Status::Consensus { relays } => format!("consensus: {relays} relays"),
        Status::CircuitReady => "connected: a circuit is ready".to_owned(),
        Status::Page(_) => "the status page is there".to_owned(),
        Status::Rest(Rest::Awake) => "awake: the bytes of a new interval are there".to_owned(),
        Status::Rest(Rest::NoCircuits) => {
            "nearly all bytes of this interval are used: no new circuits".to_owned()
        }
        Status::Rest(Rest::NoChannels) => "hibernating: all bytes of this interval are used".to_owned(),
    }
}

/// The configuration is being read again; [`reloaded`] has to follow.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The daemon is at work again.
pub(super) fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// The daemon ends, after this long at most.
pub(super) fn stopping(drain: Duration) {
    let status = format!("ending; circuits in use have {} s", drain.as_secs());
    tell(&[NotifyState::Stopping, NotifyState::Status(&status)]);
}

/// Waits until what was said so far is told, but not for long.
pub(super) fn flush() {
    if let Some(messages) = MESSAGES.get() {
        let (done, told) = sync_channel(1);
        if messages.try_send(Message::Flushed(done)).is_ok() {
            let _ = told.recv_timeout(LAST_WORDS);
        }
    }
}

/// Tells the service manager's watchdog that this process lives, twice as often as it asks for, as long as the threads
/// that do the daemon's work take on something new. Does not end.
pub(super) async fn watchdog() -> Infallible {
    let asked = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero());
    let Some(interval) = asked else { return std::future::pending().await };
    loop {
        // A runtime whose threads are all stuck does not get this done.
        if tokio::spawn(std::future::ready(())).await.is_ok() {
            tell(&[NotifyState::Watchdog]);
        }
        tokio::time::sleep(interval / 2).await;
    }
}
