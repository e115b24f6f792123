//! Counts what the relay moves in a day, week or month, keeps it in a file, and lets the relay rest when it is used up.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tunic_net::channel::{Moved, Node, Rest};
use tunic_net::daemon::{RunOptions, Status, unix_now};
use tunic_net::keyfile::{KeyFileError, read_state, write_private};
use tunic_proto::time::UnixTime;

use super::clock;
use crate::config::Config;
use crate::core::accounting::{Accounting, Interval, Phase, Record};

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(1);
/// A relay that is killed forgets what it moved in so long at the most.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// The longest file, in bytes.
const MAX_FILE_LEN: usize = 4_096;

/// What everybody may know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// Bytes of the interval that are used.
    pub(super) used: u64,
    /// Bytes that it has.
    pub(super) max: u64,
    /// Which it is.
    pub(super) interval: Interval,
}

/// Keeps the accounts of one relay.
pub(super) struct Accountant {
    file: PathBuf,
    node: Node,
    options: RunOptions,
    /// Notified when the authorities have to be told.
    changed: Arc<Notify>,
    state: Mutex<State>,
}

struct State {
    /// `None` while nothing is limited.
    accounting: Option<Accounting>,
    /// Of an earlier run, until it is of use.
    kept: Option<Record>,
    moved: Moved,
    saved: (Instant, Option<Record>),
    phase: Phase,
}

impl Accountant {
    /// Goes on from the file of an earlier run.
    ///
    /// # Errors
    /// If others can access the file, or the system refuses.
    pub(super) fn new(
        config: &Config,
        node: Node,
        options: RunOptions,
        changed: Arc<Notify>,
    ) -> Result<Accountant, KeyFileError> {
        let file = config.data_dir.join("accounting");
        let kept = read_state(&file, MAX_FILE_LEN)?.and_then(|bytes| {
            let record = std::str::from_utf8(&bytes).ok().and_then(|text| toml::from_str(text).ok());
            if record.is_none() {
                tracing::warn!(
                    "{} cannot be read: what was moved in this interval is forgotten",
                    file.display()
                );
            }
            record
        });
        let state = State {
            accounting: None,
            kept,
            moved: node.traffic().moved(),
            saved: (clock(), kept),
            phase: Phase::Awake,
        };
        let accountant = Accountant { file, node, options, changed, state: Mutex::new(state) };
        accountant.allow(config);
        accountant.look();
        Ok(accountant)
    }

    /// Looks after it until dropped.
    pub(super) async fn run(self: Arc<Self>, mut settings: watch::Receiver<Config>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                Ok(()) = settings.changed() => self.allow(&settings.borrow_and_update()),
            }
            self.look();
        }
    }

    /// Tells once more that the relay rests, if it does.
    pub(super) fn remind(&self) {
        let rest = self.node.admission().rest();
        if rest != Rest::Awake {
            self.options.tell(Status::Rest(rest));
        }
    }

    /// How it stands; `None` while nothing is limited.
    pub(super) fn standing(&self) -> Option<Standing> {
        let state = self.lock();
        state.accounting.as_ref().map(|accounting| Standing {
            used: accounting.used(),
            max: accounting.max(),
            interval: accounting.interval(),
        })
    }

    /// Counts what was moved last, and writes all of it down for the next start.
    pub(super) fn end(&self) {
        self.look();
        self.save();
    }

    fn save(&self) {
        let mut state = self.lock();
        let Some(record) = state.accounting.as_ref().map(Accounting::record) else { return };
        if state.saved.1 == Some(record) {
            return;
        }
        let written = toml::to_string(&record).map_err(|error| error.to_string());
        let kept = written
            .and_then(|text| write_private(&self.file, text.as_bytes()).map_err(|error| error.to_string()));
        let in_file = match kept {
            Ok(()) => Some(record),
            Err(error) => {
                tracing::error!("what was moved cannot be kept: {error}");
                state.saved.1
            }
        };
        // After a failure too: it is tried again in its time.
        state.saved = (clock(), in_file);
    }

    fn allow(&self, config: &Config) {
        let (now, mut state) = (unix_now(), self.lock());
        let Some(allowance) = config.allowance() else {
            state.kept = state.accounting.take().map(|accounting| accounting.record()).or(state.kept);
            return;
        };
        let kept = state.kept;
        match &mut state.accounting {
            Some(accounting) => accounting.set_allowance(allowance, now),
            none => *none = Some(Accounting::new(allowance, kept, now)),
        }
    }

    fn look(&self) {
        let (now, moved) = (unix_now(), self.node.traffic().moved());
        let (changed, is_due) = {
            let mut state = self.lock();
            let before = std::mem::replace(&mut state.moved, moved);
            if let Some(accounting) = &mut state.accounting {
                accounting.handle_moved(moved.read - before.read, moved.written - before.written, now);
            }
            let phase = state.accounting.as_ref().map_or(Phase::Awake, Accounting::phase);
            let changed = (std::mem::replace(&mut state.phase, phase) != phase).then_some(phase);
            (changed, clock().duration_since(state.saved.0) >= SAVE_INTERVAL)
        };
        if let Some(phase) = changed {
            self.enter(phase, now);
        }
        if changed.is_some() || is_due {
            self.save();
        }
    }

    fn enter(&self, phase: Phase, now: UnixTime) {
        let rest = match phase {
            Phase::Awake => Rest::Awake,
            Phase::Tired => Rest::NoCircuits,
            Phase::Asleep => Rest::NoChannels,
        };
        self.node.admission().set_rest(rest);
        if phase == Phase::Asleep {
            self.node.close_channels();
        }
        let left_h =
            self.standing().map_or(0, |standing| standing.interval.end.since(now).as_secs().div_ceil(3_600));
        match phase {
            Phase::Awake => tracing::info!("accounting: awake"),
            Phase::Tired => {
                tracing::warn!("accounting: nearly all bytes are used; no new circuits for {left_h} h");
            }
            Phase::Asleep => tracing::warn!("accounting: all bytes are used; asleep for {left_h} h"),
        }
        self.options.tell(Status::Rest(rest));
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
