//! A channel's state machine: what its owner does with the cells that arrive and what it sends.
//!
//! One owner has the [`Channel`] and with it the layer keys of everything that arrives there, so a cell is opened or
//! sealed without a lock. A circuit that passes through a relay has one half on each of two channels; cells go from
//! one to the other through the other's [`Inbox`], in batches:
//!
//! 1. [`Channel::handle_cells`] takes what one read brought: a layer is opened or sealed in place, whole cells go to
//!    other channels' inboxes, messages for this relay to the streams.
//! 2. [`Channel::handle_inbox`] takes what others left here.
//! 3. [`Channel::poll_output`] fills a buffer with whole cells, fairly between circuits, within their credit.
//! 4. [`Channel::poll_event`] says what the shell has to do: compute a handshake, find a relay, open a connection.
//!
//! After every call of 1 or 2, poll 3 and 4 until they are empty. Nothing here blocks or reads a clock.

mod closing;
mod control;
mod forward;
pub mod handshake;
mod inbox;
mod machines;
mod mail;
mod output;
mod padding;
mod requests;
mod stats;
mod survey;
mod table;
#[cfg(test)]
mod testing;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_core::CryptoRng;

pub use handshake::{PeerInfo, Role};
pub use inbox::{CircKey, Inbox};
pub(crate) use mail::Mail;
pub use stats::{Census, ChannelStats, CircuitState, Totals};
pub use survey::Held;

use crate::cell::{self, CELL_LEN, Cell, CellError, Command};
use crate::circuit::Violation;
use crate::counters::{Counters, Incident};
use crate::crypto::handshake::{HopKeys, REPLY_LEN, REQUEST_LEN};
use crate::flow::{Budget, CreditError, PathRtt, RecvWindow};
use crate::ids::{CircId, HopNum};
use crate::message::{Begin, DestroyReason};
use crate::padding::PaddingRole;
use crate::padding::link::LinkPadding;
use crate::stream::StreamIo;
use closing::Closing;
use machines::Machines;
use requests::Requests;
use table::{Circuit, Kind, Table};

/// Control cells that may wait for a peer that does not read, besides those of the channel's circuits; beyond, the channel ends.
const MAX_CONTROL_CELLS: usize = 8_192;
/// Control cells of one circuit: its `CREATE` or `CREATED`, and `DESTROY`.
const CONTROL_CELLS: usize = 4;
/// How long a peer may take to finish `CREATE` or to answer it.
pub const CREATE_TIMEOUT: Duration = Duration::from_secs(20);

/// What a channel may do.
pub struct ChannelConfig {
    /// Whether this side opened the channel.
    pub role: Role,
    /// What the handshake told.
    pub peer: PeerInfo,
    /// Whether circuits are accepted (relays and authorities).
    pub accepts_circuits: bool,
    /// Circuits at a time, in both directions together.
    pub max_circuits: usize,
    /// What queues may hold, shared by the process.
    pub budget: Budget,
    /// Where refusals are counted.
    pub counters: Arc<Counters>,
    /// For a relay, a moment that all relays agree on, from which windows let queues run out now and then ([`PathRtt::hop`]).
    pub dips_from: Option<Instant>,
    /// For the keys of circuits that begin here.
    pub rng: Box<dyn CryptoRng + Send>,
}

/// Why a channel has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The peer sent something that is no cell of this version.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// The peer sent more than it had credit for.
    #[error(transparent)]
    Credit(#[from] CreditError),
    /// The peer sent something that is not legal now.
    #[error("{0:?} is not legal in this state")]
    State(Command),
    /// The peer makes us answer and does not read.
    #[error("the peer does not read")]
    NotReading,
    /// The peer sends more padding than was agreed on.
    #[error("the peer pads more than was agreed on")]
    Padding,
}

impl ChannelError {
    /// How it is counted.
    pub fn incident(self) -> Incident {
        match self {
            ChannelError::Cell(_) | ChannelError::State(_) => Incident::BadCell,
            ChannelError::Credit(_) => Incident::Credit,
            ChannelError::NotReading => Incident::Resources,
            ChannelError::Padding => Incident::Padding,
        }
    }
}

/// What the shell has to do.
#[derive(Debug)]
pub enum Event {
    /// Compute the answer to a circuit handshake and give it to [`HandshakeJob::answer`].
    Handshake(HandshakeJob),
    /// Find and call the relay that the request names, and tell [`ExtendJob::answer`].
    Extend(ExtendJob),
    /// Serve a stream that was begun.
    Begin(Begin, StreamIo),
}

/// A circuit handshake to answer.
pub struct HandshakeJob {
    inbox: Arc<Inbox>,
    key: CircKey,
    /// The request of docs/protocol.md §4.1.
    pub request: Box<[u8; REQUEST_LEN]>,
}

impl HandshakeJob {
    /// Gives the answer, or why there is none.
    pub fn answer(self, answer: Result<(Box<[u8; REPLY_LEN]>, HopKeys), DestroyReason>) {
        let _ = self.inbox.post(Mail::HandshakeDone(self.key, answer));
    }
}

impl std::fmt::Debug for HandshakeJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HandshakeJob")
    }
}

/// A circuit to carry on.
pub struct ExtendJob {
    inbox: Arc<Inbox>,
    key: CircKey,
    /// The relay to extend to.
    pub id: crate::ids::RelayId,
}

impl ExtendJob {
    /// Gives the channel to that relay, or why there is none.
    pub fn answer(self, channel: Result<Arc<Inbox>, DestroyReason>) {
        let _ = self.inbox.post(Mail::ExtendOver(self.key, channel));
    }
}

impl std::fmt::Debug for ExtendJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ExtendJob({:?})", self.id)
    }
}

/// A cell that goes before all others.
enum Control {
    Cell(Box<Cell>),
    /// Not a cell yet: there may be as many as circuits that a peer has refused.
    Destroy(CircId, DestroyReason),
}

/// An open channel.
pub struct Channel {
    config: ChannelConfig,
    inbox: Arc<Inbox>,
    table: Table,
    rtt: PathRtt,
    requests: Requests,
    closing: Closing,
    next_id: u32,
    control: VecDeque<Control>,
    /// Credit to give, by circuit.
    grants: VecDeque<(CircKey, u16)>,
    events: VecDeque<Event>,
    /// Handshakes with next relays under way, oldest first.
    deadlines: VecDeque<(Instant, CircKey)>,
    padding: LinkPadding,
    machines: Machines,
    scratch: Scratch,
    totals: Totals,
    stats: Arc<ChannelStats>,
    stopwatch: survey::Stopwatch,
}

/// Lists that are empty between calls and keep their capacity.
#[derive(Default)]
struct Scratch {
    arrivals: Vec<(CircKey, inbox::Slot)>,
    mail: Vec<Mail>,
    garbage: Vec<inbox::Slot>,
    /// Cells of this batch that go to other channels: whose, and where they are.
    transit: Vec<(CircKey, usize)>,
    /// Circuits whose streams got something in this batch.
    touched: Vec<CircKey>,
    /// Circuits whose client was answered about machines.
    answered: Vec<CircKey>,
}

impl Channel {
    /// A channel whose handshake is done.
    pub fn new(config: ChannelConfig) -> Channel {
        Channel {
            rtt: PathRtt::hop(config.dips_from),
            config,
            inbox: Inbox::new(),
            table: Table::default(),
            requests: Requests::default(),
            closing: Closing::default(),
            next_id: 1,
            control: VecDeque::new(),
            grants: VecDeque::new(),
            events: VecDeque::new(),
            deadlines: VecDeque::new(),
            padding: LinkPadding::new(PaddingRole::None),
            machines: Machines::default(),
            scratch: Scratch::default(),
            totals: Totals::default(),
            stats: ChannelStats::new(),
            stopwatch: survey::Stopwatch::default(),
        }
    }

    /// The part that others use.
    pub fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// What the channel has done so far.
    pub fn stats(&self) -> &Arc<ChannelStats> {
        &self.stats
    }

    /// Shows others what was counted: once for each batch.
    fn publish_stats(&mut self) {
        self.totals.circuits = self.table.census();
        self.totals.circuits[CircuitState::Opening as usize] += self.requests.len() as u64;
        self.totals.circuits[CircuitState::Closing as usize] = self.closing.len() as u64;
        self.stats.publish(&self.totals);
    }

    /// Circuits on this channel, closing ones included.
    pub fn circuit_count(&self) -> usize {
        self.table.len() + self.requests.len() + self.closing.len()
    }

    /// What the shell has to do next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Channel::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadline = self.deadlines.front().map(|(at, _)| *at);
        [deadline, self.requests.poll_timeout(), self.padding.poll_timeout(), self.machines.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Ends circuits whose handshake takes too long, and pads.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.padding_timeout(now);
        self.machines_timeout(now);
        while let Some(id) = self.requests.take_late(now) {
            self.refuse(id, Incident::Timeout, DestroyReason::Timeout);
        }
        while let Some((_, key)) = self.deadlines.pop_front_if(|(at, _)| *at <= now) {
            let waits = |circuit: &Circuit| matches!(circuit.kind, Kind::Asked { .. });
            if self.table.get(key).is_some_and(waits) {
                self.config.counters.count(Incident::Timeout);
                self.end_circuit(key, DestroyReason::Timeout);
            }
        }
    }

    /// Takes whole cells as they came from the peer; they are changed in place.
    ///
    /// # Errors
    /// [`ChannelError`]: the channel has to end. The error is counted.
    pub fn handle_cells(&mut self, now: Instant, cells: &mut [u8]) -> Result<(), ChannelError> {
        // First: what is passed on has its header changed.
        self.totals.count_received(cells);
        let result = self.handle_each(now, cells).and_then(|padding| self.count_padding(now, cells, padding));
        self.forward_batch(cells);
        self.flush_streams();
        self.settle_machines(now);
        self.free_garbage();
        self.publish_stats();
        if let Err(error) = result {
            self.config.counters.count(error.incident());
        }
        result
    }

    /// Returns how many cells were `PADDING`.
    fn handle_each(&mut self, now: Instant, cells: &mut [u8]) -> Result<usize, ChannelError> {
        let mut padding = 0;
        for at in (0..cells.len()).step_by(CELL_LEN) {
            let Some(cell) = cells[at..].first_chunk_mut::<CELL_LEN>() else { break };
            let (id, command) = cell::parse_header(cell)?;
            match command {
                Command::Relay | Command::RelayBlocked => self.handle_relay(now, id, command, cell, at)?,
                Command::Credit => self.handle_credit(cell)?,
                Command::Create => self.handle_create(now, id, cell)?,
                Command::Created => self.handle_created(now, id, cell)?,
                Command::Destroy => {
                    let cell = *cell;
                    // What came before it goes on before the circuit is gone.
                    self.forward_batch(cells);
                    self.handle_destroy(id, &cell)?;
                }
                Command::Padding => {
                    cell::parse_padding(cell)?;
                    padding += 1;
                }
                Command::PaddingNegotiate => self.handle_padding_negotiate(now, cell)?,
                Command::PaddingNegotiated => self.handle_padding_negotiated(now, cell)?,
                Command::Hello | Command::Auth | Command::Netinfo => {
                    return Err(ChannelError::State(command));
                }
            }
        }
        let most = MAX_CONTROL_CELLS + CONTROL_CELLS * self.circuit_count();
        if self.control.len() > most || self.closing.has_too_many_refused() {
            return Err(ChannelError::NotReading);
        }
        Ok(padding)
    }

    fn handle_credit(&mut self, cell: &Cell) -> Result<(), ChannelError> {
        for (id, cells) in cell::parse_credit(cell)? {
            let Some(key) = self.find(id, Command::Credit)? else { continue };
            if let Some(circuit) = self.table.get_mut(key) {
                circuit.credit.grant(cells.into())?;
                // Machines that stood still without it go on before anything is sent.
                self.machines.note(key, &mut circuit.padder, |_| {});
            }
            self.table.activate(key);
        }
        Ok(())
    }

    /// Ends the channel: every circuit on it and their other sides are told.
    pub fn close(&mut self) {
        let unread = self.inbox.close();
        for mut circuit in self.table.drain() {
            control::tell_other_side(&mut circuit.kind, DestroyReason::ChannelLost);
        }
        for mail in unread {
            control::bounce(mail);
        }
        self.events.clear();
        self.control.clear();
    }

    /// Frees the stored cells of circuits that are gone.
    fn free_garbage(&mut self) {
        self.inbox.free(&mut self.scratch.garbage);
    }

    /// A window for one more circuit; `None` if there is no room for it.
    fn new_window(&self) -> Option<RecvWindow> {
        let has_room = self.circuit_count() < self.config.max_circuits;
        has_room.then(|| RecvWindow::new(&self.config.budget, &self.rtt))?
    }

    /// The circuit with this id; `None` if it has ended here and the peer may not know.
    fn find(&mut self, id: CircId, command: Command) -> Result<Option<CircKey>, ChannelError> {
        match self.table.find(id) {
            None if !self.closing.contains(id) => Err(ChannelError::State(command)),
            found => Ok(found),
        }
    }

    /// An id for a circuit that this side asks for.
    fn free_id(&mut self) -> CircId {
        let bit = match self.config.role {
            Role::Initiator => CircId::INITIATOR_BIT,
            Role::Responder => 0,
        };
        loop {
            let id = CircId(self.next_id | bit);
            self.next_id = (self.next_id + 1) % CircId::INITIATOR_BIT;
            if id.0 & !bit != 0 && !self.table.contains_id(id) && !self.closing.contains(id) {
                return id;
            }
        }
    }

    /// Whether the peer may choose this id.
    fn is_peers_id(&self, id: CircId) -> bool {
        (id.0 & CircId::INITIATOR_BIT != 0) == (self.config.role == Role::Responder)
    }

    /// The deepest position that the peer may ask for: a client is always next to itself.
    fn may_ask(&self, hop: HopNum) -> bool {
        hop == HopNum::FIRST || self.config.peer.id.is_some()
    }

    fn violated(&mut self, key: CircKey, violation: Violation) {
        self.config.counters.count(violation.incident());
        let reason = if violation.is_our_own() { DestroyReason::Finished } else { DestroyReason::Protocol };
        self.end_circuit(key, reason);
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
#[path = "asked_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "layer_tests.rs"]
mod layer_tests;
