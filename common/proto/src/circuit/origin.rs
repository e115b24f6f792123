//! The client's end of a circuit.
//!
//! 1. `CREATE` asks the first hop, `CREATED` answers: one layer each way.
//! 2. For each further hop, `EXTEND` goes to the last hop so far, `EXTENDED` comes back from it: one layer more.
//! 3. With the last hop the circuit is open: streams begin at it.

use std::sync::Arc;
use std::time::Instant;

use rand_core::CryptoRng;

use super::{Asides, CircuitShared, CircuitStatus, HopSpec, Side, Streams, Violation};
use crate::cell::PAYLOAD_LEN;
use crate::circuit::BuildError;
use crate::crypto::fragment::{Create, Created, Extend, Extended, create_message};
use crate::crypto::handshake::{ClientHandshake, HopKeys, REPLY_LEN};
use crate::crypto::layer::{BackwardLayers, ForwardLayers, HopOpener, HopSealer, inner_len};
use crate::flow::Budget;
use crate::ids::{HopNum, StreamId};
use crate::message::{self, Backward, Code, DestroyReason, EndReason};
use crate::padding::MachineSpec;

pub(crate) struct Origin {
    pub(crate) shared: Arc<CircuitShared>,
    pub(crate) streams: Streams,
    pub(crate) asides: Asides,
    /// What the first hop shall run once the circuit is open.
    pub(crate) machine: Option<MachineSpec>,
    hops: Vec<HopSpec>,
    forward: ForwardLayers,
    backward: BackwardLayers,
    waiting: Option<Waiting>,
    /// Told by the hop that could not extend; the `DESTROY` that follows says nothing.
    failure: Option<DestroyReason>,
    /// The hop whose layer did not open.
    tampered: Option<HopNum>,
}

/// What a cell that came back was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// Padding of a machine.
    Padding,
    /// The answer to cover traffic.
    Loop,
    /// Anything else.
    Other,
}

enum Waiting {
    Created(ClientHandshake, Created),
    Extended(ClientHandshake, Extended),
}

impl Origin {
    /// Starts with the payloads of the `CREATE` cells; `None` if there is no hop or too many.
    pub(crate) fn start(
        shared: Arc<CircuitShared>,
        hops: Vec<HopSpec>,
        budget: Budget,
        rng: &mut dyn CryptoRng,
    ) -> Option<(Origin, Vec<[u8; PAYLOAD_LEN]>)> {
        let first = hops.first().filter(|_| hops.len() <= HopNum::MAX.index() + 1)?;
        let (handshake, request) = ClientHandshake::start(first.id, first.onion_key, rng);
        let cells = Create::split(&create_message(HopNum::FIRST, &request)).collect();
        let origin = Origin {
            shared,
            streams: Streams::new(Side::Client, budget),
            asides: Asides::new(),
            machine: None,
            hops,
            forward: ForwardLayers::new(),
            backward: BackwardLayers::new(),
            waiting: Some(Waiting::Created(handshake, Created::new())),
            failure: None,
            tampered: None,
        };
        Some((origin, cells))
    }

    /// Hops that it shall have.
    pub(crate) fn hop_count(&self) -> usize {
        self.hops.len()
    }

    /// Hops that have answered.
    fn built(&self) -> usize {
        self.forward.len()
    }

    /// The hop that messages go to.
    pub(crate) fn last_hop(&self) -> HopNum {
        HopNum::new(self.built().saturating_sub(1) as u8).unwrap_or(HopNum::FIRST)
    }

    /// The next payload of `CREATED`.
    pub(crate) fn handle_created(
        &mut self,
        now: Instant,
        fragment: &[u8; PAYLOAD_LEN],
        rng: &mut dyn CryptoRng,
    ) -> Result<(), Violation> {
        let Some(Waiting::Created(handshake, mut fragments)) = self.waiting.take() else {
            return Err(Violation::State);
        };
        match fragments.push(fragment)? {
            Some(reply) => self.add_hop(now, handshake, &reply, rng),
            None => {
                self.waiting = Some(Waiting::Created(handshake, fragments));
                Ok(())
            }
        }
    }

    fn handle_extended(
        &mut self,
        now: Instant,
        fragment: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> Result<(), Violation> {
        let Some(Waiting::Extended(handshake, mut fragments)) = self.waiting.take() else {
            return Err(Violation::State);
        };
        match fragments.push(fragment)? {
            Some(reply) => self.add_hop(now, handshake, &reply, rng),
            None => {
                self.waiting = Some(Waiting::Extended(handshake, fragments));
                Ok(())
            }
        }
    }

    fn add_hop(
        &mut self,
        now: Instant,
        handshake: ClientHandshake,
        reply: &[u8; REPLY_LEN],
        rng: &mut dyn CryptoRng,
    ) -> Result<(), Violation> {
        let keys: HopKeys = handshake.finish(reply)?;
        let hop = HopNum::new(self.built() as u8).ok_or(Violation::State)?;
        self.forward.push(HopSealer::new(keys.cipher, &keys.forward, hop))?;
        self.backward.push(HopOpener::new(keys.cipher, &keys.backward, hop))?;
        self.shared.hop_answered(now);
        match self.hops.get(self.built()) {
            None => {
                if let Some(machine) = self.machine.take() {
                    self.asides.ask(HopNum::FIRST, machine);
                }
                self.shared.set_status(CircuitStatus::Open);
            }
            Some(next) => {
                let (handshake, request) = ClientHandshake::start(next.id, next.onion_key, rng);
                self.waiting = Some(Waiting::Extended(handshake, Extended::new()));
                for fragment in Extend::split(&request) {
                    self.streams.send_control(Code::Extend, fragment.to_vec());
                }
            }
        }
        Ok(())
    }

    /// Whether a cell waits.
    pub(crate) fn has_output(&self) -> bool {
        !self.asides.is_empty() || self.streams.has_output()
    }

    /// Seals the next message for a single hop into an empty payload; `None` if there is none. Says whether it is padding.
    pub(crate) fn seal_aside(&mut self, payload: &mut [u8; PAYLOAD_LEN]) -> Result<Option<bool>, Violation> {
        let Some((hop, code, data)) = self.asides.next() else { return Ok(None) };
        message::write(&mut payload[..inner_len(hop)], code, StreamId(0), &data);
        self.forward.seal(payload, hop)?;
        self.asides.relayed(hop, code == Code::Drop);
        Ok(Some(code == Code::Drop))
    }

    /// A cell that came back: opens it and does what it says.
    pub(crate) fn handle_relay(
        &mut self,
        now: Instant,
        payload: &mut [u8; PAYLOAD_LEN],
        rng: &mut dyn CryptoRng,
    ) -> Result<Arrived, Violation> {
        // No hop has answered that could have sealed it.
        if self.backward.is_empty() {
            return Err(Violation::State);
        }
        let hop = self.backward.open(payload).inspect_err(|error| self.tampered = Some(error.hop))?;
        let message = Backward::parse(&payload[..inner_len(hop)])?;
        let from_last = hop.index() + 1 == self.built();
        self.asides.relayed(hop, message == Backward::Drop);
        if message == Backward::Drop {
            return self.asides.dropped(hop).map(|()| Arrived::Padding);
        }
        if message == Backward::Looped {
            return self.asides.looped(hop).map(|()| Arrived::Loop);
        }
        match message {
            Backward::Padded(answer) => self.asides.answered(hop, answer),
            _ if !from_last => Err(Violation::State),
            Backward::Extended(fragment) => self.handle_extended(now, fragment, rng),
            Backward::ExtendFailed(reason) => match (&self.waiting, self.failure) {
                (Some(Waiting::Extended(..)), None) => {
                    self.failure = Some(reason);
                    Ok(())
                }
                _ => Err(Violation::State),
            },
            Backward::Connected(id, address) => self.streams.connected(id, address),
            Backward::Stream(id, message) => self.streams.handle(now, id, message),
            Backward::Drop | Backward::Looped => Err(Violation::State),
        }
        .map(|()| Arrived::Other)
    }

    /// Seals a message, written into the start of the payload, for the last hop.
    pub(crate) fn seal(&mut self, payload: &mut [u8; PAYLOAD_LEN]) -> Result<(), Violation> {
        let target = self.last_hop();
        self.asides.relayed(target, false);
        Ok(self.forward.seal(payload, target)?)
    }

    /// As if the next message had to be sealed with a key that has sealed all that it may.
    #[cfg(test)]
    pub(crate) fn use_up(&mut self) {
        self.forward.use_up();
    }

    /// Tells the handle how many streams are gone.
    pub(crate) fn report_gone(&mut self) {
        for _ in 0..self.streams.take_gone() {
            self.shared.stream_gone();
        }
    }

    /// The circuit has ended: tells everybody who waits for it. Whoever learns it by a stream finds the circuit's own state.
    pub(crate) fn close(&mut self, reason: DestroyReason) {
        // A failed layer has wiped the others: whether the circuit was open is in its status.
        let status = if self.shared.status() == CircuitStatus::Open {
            self.tampered.map_or(CircuitStatus::Closed(reason), |hop| CircuitStatus::Tampered(hop.index()))
        } else {
            CircuitStatus::Failed(BuildError { hop: self.built(), reason: self.failure.unwrap_or(reason) })
        };
        self.shared.set_status(status);
        self.streams.close(EndReason::Reset);
        self.report_gone();
    }
}
