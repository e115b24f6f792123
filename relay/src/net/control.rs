//! The control socket: `control.sock` in the data directory, for the relay's own user and root (mode 0600).
//!
//! It takes nothing. Whoever connects is told how the relay is, a line of JSON ([`Sample`]) each second.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tunic_net::channel::ChannelFigures;
use tunic_net::daemon::{UnixLock, open_file_limit, open_unix, unix_now};
use tunic_net::{metrics, recent};
use tunic_proto::cell::{CELL_LEN, Command};
use tunic_proto::channel::CircuitState;
use tunic_proto::counters::Incident;
use tunic_proto::crypto::fragment::Create;

use super::clock;
use super::metrics::Sources;
use crate::core::memory::queue_budget;
use crate::core::top::{ChannelCount, Flow, Sample, Sampler, Share};

/// The socket in the data directory.
const SOCKET: &str = "control.sock";
/// Who may be told at a time; more are closed at once.
const MAX_WATCHERS: usize = 4;
/// Time from one sample to the next.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a sample may take to be read.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after the system refused to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the control socket of a relay with this data directory is.
pub fn control_path(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET)
}

/// Opens the socket and serves it in a task of this set. Where it cannot be opened the relay goes on without, and says so.
pub(super) fn start(sources: Sources, tasks: &mut JoinSet<()>) {
    let path = control_path(&sources.settings.borrow().data_dir);
    match open_unix(&path) {
        Ok((listener, lock)) => {
            tasks.spawn(serve(listener, lock, Arc::new(sources)));
        }
        Err(error) => tracing::warn!("`tunic-relay top` has nobody to ask: {error:#}"),
    }
}

async fn serve(listener: UnixListener, _lock: UnixLock, sources: Arc<Sources>) {
    let mut watchers = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        while watchers.try_join_next().is_some() {}
        if watchers.len() < MAX_WATCHERS {
            watchers.spawn(tell(stream, Arc::clone(&sources)));
        }
    }
}

/// Tells one watcher until it has gone, or does not read.
async fn tell(mut stream: UnixStream, sources: Arc<Sources>) {
    let mut sampler = Sampler::default();
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sample = sampler.sample(clock(), sources.counted(), sources.channels());
        let Ok(mut line) = serde_json::to_vec(&sample) else { return };
        line.push(b'\n');
        if !matches!(timeout(PATIENCE, stream.write_all(&line)).await, Ok(Ok(()))) {
            return;
        }
    }
}

impl Sources {
    /// How the relay is, with what is counted since its start where a sample has what happened since the one before.
    fn counted(&self) -> Sample {
        let now = unix_now();
        let totals = self.node.totals();
        let (received, sent) = totals.cells();
        let view = self.view.read();
        let consensus = view.current(now);
        let config = self.settings.borrow();
        Sample {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            nickname: config.nickname.clone(),
            is_exit: config.is_exit(),
            now: now.0,
            started: self.started.0,
            is_listed: view.lists_own(now),
            consensus_relays: consensus.map_or(0, |consensus| consensus.relays.len() as u64),
            consensus_until: consensus.map_or(0, |consensus| consensus.valid_until.0),
            certificate_until: now.0.saturating_add(self.keys.certificate_left(now).as_secs()),
            memory: Share {
                used: (self.node.budget().used_cells() * CELL_LEN) as u64,
                limit: queue_budget(config.memory_budget, self.memory_max) as u64,
            },
            resident_bytes: metrics::resident_bytes().unwrap_or(0),
            files: Share { used: metrics::open_files().unwrap_or(0), limit: open_file_limit().unwrap_or(0) },
            bytes: Flow { received: bytes(received), sent: bytes(sent) },
            channels: self.node.channel_count() as u64,
            circuits: CircuitState::ALL
                .iter()
                .map(|state| (state.label().to_owned(), totals.circuits[*state as usize]))
                .collect(),
            handshakes_waiting: self.node.handshakes_waiting() as u64,
            streams: self.counters.streams(),
            refused: self.refused(),
            log: recent::lines(),
            ..Sample::default()
        }
    }

    fn refused(&self) -> BTreeMap<String, u64> {
        let counters = self.node.counters();
        let counts = Incident::ALL.iter().map(|kind| (kind.label().to_owned(), counters.get(*kind)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    fn channels(&self) -> Vec<ChannelCount> {
        let count = |channel: ChannelFigures| {
            let (received, sent) = channel.totals.cells();
            ChannelCount {
                number: channel.number,
                is_relay: channel.is_relay,
                bytes: Flow { received: bytes(received), sent: bytes(sent) },
                handshakes: channel.totals.received(Command::Create) / u64::from(Create::COUNT),
                circuits: channel.totals.circuits.iter().sum(),
                queued: channel.queued_bytes as u64,
            }
        };
        self.node.channels().into_iter().map(count).collect()
    }
}

fn bytes(cells: u64) -> u64 {
    cells.saturating_mul(CELL_LEN as u64)
}
