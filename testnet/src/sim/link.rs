//! Connections: two ends, each with a channel in some state, and a direction that leads away from it.

use std::collections::VecDeque;
use std::time::Duration;

use tunic_proto::cell::{CELL_LEN, Cell};
use tunic_proto::channel::handshake::{Handshake, HandshakeError};
use tunic_proto::channel::{Channel, ChannelError};
use tunic_proto::limits::Ticket;

use super::node::NodeId;

/// Most cells that one write holds, as in the daemons.
const WRITE_CELLS: usize = 128;
/// How much a rate-limited direction takes at once, in time.
const WRITE_TIME: Duration = Duration::from_millis(1);

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndId(pub(super) usize);

impl EndId {
    /// The other end of the same connection.
    pub fn peer(self) -> EndId {
        EndId(self.0 ^ 1)
    }
}

/// What one direction of a connection is like.
#[derive(Debug, Clone, Copy)]
pub struct LinkSpec {
    /// From the last byte sent to its arrival.
    pub delay: Duration,
    /// Bytes per second; `None` is without limit.
    pub rate: Option<u64>,
}

impl LinkSpec {
    /// Without a limit of its rate.
    pub fn delay_ms(delay_ms: u64) -> LinkSpec {
        LinkSpec { delay: Duration::from_millis(delay_ms), rate: None }
    }

    /// Cells to write at once.
    pub(super) fn write_cells(&self) -> usize {
        let cells = |rate: u64| rate as f64 * WRITE_TIME.as_secs_f64() / CELL_LEN as f64;
        self.rate.map_or(WRITE_CELLS, |rate| (cells(rate) as usize).clamp(1, WRITE_CELLS))
    }

    /// How long so many bytes keep the direction busy.
    pub(super) fn duration(&self, bytes: usize) -> Duration {
        self.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes as f64 / rate as f64))
    }
}

/// Changes what passes: each cell becomes any number of cells.
pub type Tamper = Box<dyn FnMut(Cell) -> Vec<Cell>>;

/// Why a connection is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The other side closed it, or died.
    Lost,
    /// The other side broke the protocol.
    Error(ChannelError),
    /// It never opened.
    Handshake(HandshakeError),
}

/// What stands at an end.
pub(super) enum State {
    Opening(Option<Handshake>),
    Open(Box<Channel>),
    /// The test itself reads and writes cells.
    Raw(VecDeque<Cell>),
    Closed(Closed),
}

pub(super) struct End {
    pub(super) node: NodeId,
    pub(super) state: State,
    pub(super) spec: LinkSpec,
    pub(super) tamper: Option<Tamper>,
    pub(super) busy_until: Duration,
    /// The timer that is set for the channel's next timeout.
    pub(super) timer: Option<Duration>,
    /// Bytes that were sent.
    pub(super) sent: u64,
    /// When how many bytes were sent, if somebody watches.
    pub(super) watched: Option<Vec<(Duration, usize)>>,
    /// Where a guarded relay counts the channel.
    pub(super) ticket: Option<Ticket>,
}

impl End {
    pub(super) fn new(node: NodeId, spec: LinkSpec, handshake: Handshake) -> End {
        let state = State::Opening(Some(handshake));
        End {
            node,
            state,
            spec,
            tamper: None,
            busy_until: Duration::ZERO,
            timer: None,
            sent: 0,
            watched: None,
            ticket: None,
        }
    }

    pub(super) fn channel(&self) -> Option<&Channel> {
        match &self.state {
            State::Open(channel) => Some(channel),
            _ => None,
        }
    }

    pub(super) fn channel_mut(&mut self) -> Option<&mut Channel> {
        match &mut self.state {
            State::Open(channel) => Some(channel),
            _ => None,
        }
    }

    /// What the other side will get instead of these cells.
    pub(super) fn tampered(&mut self, cells: Vec<u8>) -> Vec<u8> {
        let Some(tamper) = &mut self.tamper else { return cells };
        let (cells, _) = cells.as_chunks::<CELL_LEN>();
        cells.iter().flat_map(|cell| tamper(*cell)).flatten().collect()
    }
}
