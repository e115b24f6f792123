//! What a channel has done so far, for whoever wants to know.
//!
//! The channel's owner counts in plain numbers and puts them here once for each batch, as the only one who writes; others
//! read whenever they like, and what they read is at most a batch old. No cell costs an atomic operation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::cell::{CELL_LEN, Command};

const COMMANDS: usize = Command::COUNT;
/// Where in a cell its command stands.
const COMMAND_AT: usize = 4;

/// What a circuit is at a node. A circuit that passes is on two channels and counted once, on its client's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CircuitState {
    /// Its handshake is under way.
    Opening,
    /// It ends here.
    EndsHere,
    /// It is being carried on to the next relay.
    Extending,
    /// It passes.
    Passing,
    /// It begins here.
    BeginsHere,
    /// It has ended, and the neighbour has not said so yet.
    Closing,
}

impl CircuitState {
    /// Every state, in the order of [`Totals::circuits`].
    pub const ALL: [CircuitState; 6] = [
        CircuitState::Opening,
        CircuitState::EndsHere,
        CircuitState::Extending,
        CircuitState::Passing,
        CircuitState::BeginsHere,
        CircuitState::Closing,
    ];

    /// The state as it stands in metrics.
    pub fn label(self) -> &'static str {
        match self {
            CircuitState::Opening => "opening",
            CircuitState::EndsHere => "ends_here",
            CircuitState::Extending => "extending",
            CircuitState::Passing => "passing",
            CircuitState::BeginsHere => "begins_here",
            CircuitState::Closing => "closing",
        }
    }
}

/// Circuits by [`CircuitState`].
pub type Census = [u64; CircuitState::ALL.len()];

/// What was counted, of one channel or many.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    received: [u64; COMMANDS],
    sent: [u64; COMMANDS],
    /// Circuits now.
    pub circuits: Census,
}

impl Totals {
    /// Cells of this command that came in.
    pub fn received(&self, command: Command) -> u64 {
        self.received[command as usize % COMMANDS]
    }

    /// Cells of this command that went out.
    pub fn sent(&self, command: Command) -> u64 {
        self.sent[command as usize % COMMANDS]
    }

    /// All cells that came in, and all that went out.
    pub fn cells(&self) -> (u64, u64) {
        (self.received.iter().sum(), self.sent.iter().sum())
    }

    /// Counts these too.
    pub fn add(&mut self, other: &Totals) {
        let mine = self.received.iter_mut().chain(&mut self.sent).chain(&mut self.circuits);
        let theirs = other.received.iter().chain(&other.sent).chain(&other.circuits);
        mine.zip(theirs).for_each(|(mine, theirs)| *mine = mine.saturating_add(*theirs));
    }

    pub(super) fn count_received(&mut self, cells: &[u8]) {
        count(&mut self.received, cells);
    }

    pub(super) fn count_sent(&mut self, cells: &[u8]) {
        count(&mut self.sent, cells);
    }
}

// Called for each array, as a loop over a chain of them is not unrolled.
fn show<const N: usize>(shown: &[AtomicU64; N], counted: &[u64; N]) {
    shown.iter().zip(counted).for_each(|(shown, counted)| shown.store(*counted, Relaxed));
}

fn count(counts: &mut [u64; COMMANDS], cells: &[u8]) {
    for cell in cells.as_chunks::<CELL_LEN>().0 {
        counts[usize::from(cell[COMMAND_AT]) % COMMANDS] += 1;
    }
}

/// One channel's counts, shared with those who read them.
#[derive(Debug, Default)]
pub struct ChannelStats {
    received: [AtomicU64; COMMANDS],
    sent: [AtomicU64; COMMANDS],
    circuits: [AtomicU64; CircuitState::ALL.len()],
}

impl ChannelStats {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Only the channel's owner may call this.
    pub(super) fn publish(&self, totals: &Totals) {
        show(&self.received, &totals.received);
        show(&self.sent, &totals.sent);
        show(&self.circuits, &totals.circuits);
    }

    /// The counts of the last batch.
    pub fn totals(&self) -> Totals {
        let read = |shown: &AtomicU64| shown.load(Relaxed);
        Totals {
            received: self.received.each_ref().map(read),
            sent: self.sent.each_ref().map(read),
            circuits: self.circuits.each_ref().map(read),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell;
    use crate::ids::CircId;

    #[test]
    fn cells_are_counted_by_command_and_direction() {
        let cells = [
            cell::build(CircId(1), Command::Relay, &[]),
            cell::build(CircId(2), Command::RelayBlocked, &[]),
            cell::build(CircId(1), Command::Relay, &[]),
        ]
        .concat();
        let mut totals = Totals::default();
        totals.count_received(&cells);
        totals.count_sent(&cells[..CELL_LEN]);
        assert_eq!((totals.received(Command::Relay), totals.received(Command::RelayBlocked)), (2, 1));
        assert_eq!((totals.sent(Command::Relay), totals.cells()), (1, (3, 1)));
    }

    #[test]
    fn what_is_published_is_what_is_read_and_adds_up() {
        let (stats, mut totals) = (ChannelStats::new(), Totals::default());
        totals.count_sent(&cell::build(CircId(1), Command::Destroy, &[]));
        totals.circuits[CircuitState::Passing as usize] = 3;
        stats.publish(&totals);
        assert_eq!(stats.totals(), totals);
        let mut sum = totals.clone();
        sum.add(&totals);
        assert_eq!((sum.sent(Command::Destroy), sum.circuits[CircuitState::Passing as usize]), (2, 6));
    }
}
