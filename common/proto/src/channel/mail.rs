//! What is asked of a channel by others: its node's shell, the users of circuits and streams, and the channels that
//! carry the other side of its circuits.

use std::sync::Arc;
use std::time::Duration;

use super::inbox::{CircKey, Inbox};
use super::survey::Answer;
use crate::circuit::{CircuitShared, Cover, HopSpec};
use crate::crypto::handshake::{HopKeys, REPLY_LEN, REQUEST_LEN};
use crate::crypto::layer::HopSealer;
use crate::ids::{CircId, HopNum, StreamId};
use crate::message::{Begin, Code, DestroyReason};
use crate::padding::MachineSpec;
use crate::stream::StreamShared;

/// The other channel's side of a circuit that passes through a relay.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) key: CircKey,
    /// The circuit's id on that channel.
    pub(crate) circ: CircId,
}

impl Link {
    /// Tells the other side; if its channel has closed, it knows already.
    pub(crate) fn tell(&self, mail: Mail) {
        let _ = self.inbox.post(mail);
    }
}

/// A request to a channel.
pub(crate) enum Mail {
    /// Build a circuit.
    Create(Arc<CircuitShared>, Vec<HopSpec>),
    /// The last user of a circuit is gone.
    Release(CircKey),
    /// Begin a stream.
    Begin(Arc<CircuitShared>, Arc<StreamShared>, Begin),
    /// Ask a hop of a circuit for machines.
    Pad(Arc<CircuitShared>, HopNum, MachineSpec),
    /// Send cover traffic to a hop of a circuit.
    Cover(Arc<CircuitShared>, HopNum, Cover),
    /// Send so many of this message to the client, from this relay.
    Add(CircKey, Code, Vec<u8>, usize),
    /// So many that [`Mail::Add`] asked for were given up.
    NotAdded(CircKey, Code, usize),
    /// A stream's application did something.
    Stream(CircKey, StreamId),
    /// A handshake that this channel handed out is computed, or refused.
    HandshakeDone(CircKey, Result<(Box<[u8; REPLY_LEN]>, HopKeys), DestroyReason>),
    /// The channel to extend over is there, or not.
    ExtendOver(CircKey, Result<Arc<Inbox>, DestroyReason>),
    /// Carry a circuit on: ask for it and pass on what comes back.
    CarryOn {
        /// The handshake of the relay at the end of this channel.
        request: Box<[u8; REQUEST_LEN]>,
        /// The position of that relay.
        hop: HopNum,
        /// The layer to add to what comes back.
        sealer: HopSealer,
        /// The side towards the client.
        back: Link,
    },
    /// The circuit that [`Mail::CarryOn`] asked for has an id.
    Linked(CircKey, Link),
    /// The relay at the end of the linked circuit has answered.
    Joined(CircKey),
    /// So many cells of the other side's circuit were passed on.
    Passed(CircKey, u32),
    /// The other side of the circuit has ended.
    Destroy(CircKey),
    /// Say which circuits hold data that is as old.
    Survey(Duration, Answer),
    /// Memory ran out, and this circuit has to go.
    Shed(CircKey),
    /// The other side has ended after what it sent last.
    DestroyWhenSent(CircKey),
}
