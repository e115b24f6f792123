//! `RELAY` cells as they arrive: the hot path.

use super::inbox::{CircKey, Inbox};
use super::mail::Link;
use super::table::{Circuit, Endpoint, Kind};
use super::{Channel, ChannelError, Event, ExtendJob};
use crate::cell::{self, Cell, Command, HEADER_LEN, PAYLOAD_LEN};
use crate::circuit::{Arrived, Violation};
use crate::counters::Incident;
use crate::crypto::fragment::Extend;
use crate::crypto::handshake::requested_id;
use crate::crypto::layer::{HopOpener, Routing, inner_len};
use crate::ids::{CircId, StreamId};
use crate::message::{Begin, Forward};
use crate::padding::{MachineSpec, Refusal};
use crate::stream::{StreamIo, StreamShared};
use std::sync::Arc;
use std::time::Instant;

/// What became of a cell.
enum Outcome {
    /// It was for this end of the circuit.
    Consumed,
    /// It goes on over the other channel.
    Transit,
    /// It was cover traffic for this relay, to be answered or not.
    Cover { answer: bool },
    /// Machines are wanted here.
    Pad(Result<MachineSpec, Refusal>),
}

impl Channel {
    pub(super) fn handle_relay(
        &mut self,
        now: Instant,
        id: CircId,
        command: Command,
        cell: &mut Cell,
        at: usize,
    ) -> Result<(), ChannelError> {
        let Some(key) = self.find(id, command)? else { return Ok(()) };
        let Some(circuit) = self.table.get_mut(key) else { return Ok(()) };
        circuit.window.received(now, command == Command::RelayBlocked, &mut self.rtt)?;
        circuit.relayed += 1;
        self.rtt.answered(id, now);
        let Some(payload) = cell[HEADER_LEN..].first_chunk_mut::<PAYLOAD_LEN>() else { return Ok(()) };
        let outcome = match &mut circuit.kind {
            Kind::Outward { opener, link } => match open_outward(opener, payload) {
                Ok(Outcome::Transit) => {
                    cell::write_header(cell, link.circ, Command::Relay);
                    self.machines.note(key, &mut circuit.padder, |padder| padder.came(false));
                    Ok(Outcome::Transit)
                }
                other => other,
            },
            Kind::Inward { sealer, link } => match sealer.seal(payload, Routing::PassOn) {
                Ok(()) => {
                    cell::write_header(cell, link.circ, Command::Relay);
                    Ok(Outcome::Transit)
                }
                Err(error) => Err(error.into()),
            },
            Kind::Extending { opener, .. } => match open_outward(opener, payload) {
                Ok(Outcome::Transit | Outcome::Pad(_)) => Err(Violation::State),
                other => other,
            },
            Kind::Endpoint(_) => self.endpoint_cell(now, key, payload),
            Kind::Origin(origin) => {
                self.scratch.touched.push(key);
                let opened = origin.handle_relay(now, payload, &mut self.config.rng);
                if let Ok(arrived) = opened {
                    let is_padding = arrived == Arrived::Padding;
                    self.machines.note(key, &mut circuit.padder, |padder| padder.came(is_padding));
                    self.padding.machines_received(is_padding);
                    if arrived == Arrived::Loop {
                        self.padding.looped();
                    }
                }
                if origin.asides.has_answer() {
                    self.scratch.answered.push(key);
                }
                opened.map(|_| Outcome::Consumed)
            }
            Kind::Answering(_) | Kind::Asked { .. } | Kind::Gone => {
                return Err(ChannelError::State(command));
            }
        };
        match outcome {
            Ok(Outcome::Transit) => self.scratch.transit.push((key, at)),
            Ok(Outcome::Consumed) => self.consumed(now, key, 1),
            Ok(Outcome::Cover { answer }) => {
                let covered = self.covered(key, answer);
                self.consumed_unless(now, key, covered);
            }
            Ok(Outcome::Pad(spec)) => {
                let asked = self.asked_for_machines(now, key, spec);
                self.consumed_unless(now, key, asked);
            }
            Err(violation) => self.violated(key, violation),
        }
        Ok(())
    }

    fn consumed_unless(&mut self, now: Instant, key: CircKey, result: Result<(), Violation>) {
        match result {
            Ok(()) => self.consumed(now, key, 1),
            Err(violation) => self.violated(key, violation),
        }
    }

    /// Cells of a circuit left this channel's care; grants credit for them when it is time.
    pub(super) fn consumed(&mut self, now: Instant, key: CircKey, cells: u32) {
        let Some(circuit) = self.table.get_mut(key) else { return };
        circuit.window.consumed(cells);
        if let Some(grant) = circuit.window.poll_grant(now) {
            self.grants.push_back((key, grant.try_into().unwrap_or(u16::MAX)));
        }
    }

    fn endpoint_cell(
        &mut self,
        now: Instant,
        key: CircKey,
        payload: &mut [u8; PAYLOAD_LEN],
    ) -> Result<Outcome, Violation> {
        let Some(Circuit { kind: Kind::Endpoint(endpoint), .. }) = self.table.get_mut(key) else {
            return Err(Violation::State);
        };
        if endpoint.opener.open(payload)? == Routing::PassOn {
            return Err(Violation::State);
        }
        self.scratch.touched.push(key);
        match Forward::parse(&payload[..inner_len(endpoint.opener.hop())])? {
            Forward::Drop => return Ok(Outcome::Cover { answer: false }),
            Forward::Loop => return Ok(Outcome::Cover { answer: true }),
            // Machines run at relays that the circuit goes beyond.
            Forward::Pad(_) => return Err(Violation::State),
            Forward::Extend(fragment) => {
                if let Some(id) = endpoint.extend(fragment)? {
                    self.events.push_back(Event::Extend(ExtendJob { inbox: self.inbox.clone(), key, id }));
                }
            }
            _ if endpoint.extending || endpoint.extend.is_some() => return Err(Violation::State),
            Forward::Begin(id, begin) => {
                let event = endpoint.begin(&self.inbox, key, id, begin)?;
                self.begun(event);
            }
            Forward::Stream(id, message) => endpoint.streams.handle(now, id, message)?,
        }
        Ok(Outcome::Consumed)
    }

    fn begun(&mut self, event: Option<Event>) {
        match event {
            Some(event) => self.events.push_back(event),
            None => self.config.counters.count(Incident::Resources),
        }
    }

    /// Gives the cells of a batch to the channels that carry them on: one lock for each run of the same channel.
    pub(super) fn forward_batch(&mut self, cells: &[u8]) {
        let mut transit = std::mem::take(&mut self.scratch.transit);
        // A circuit that ended later in the batch has no link any more.
        let inbox = |key: CircKey| self.link(key).map(|link| Arc::as_ptr(&link.inbox));
        for run in transit.chunk_by(|(one, _), (next, _)| inbox(*one) == inbox(*next)) {
            let Some(link) = run.first().and_then(|(key, _)| self.link(*key)) else { continue };
            let keyed =
                |(key, at): &(CircKey, usize)| Some((self.link(*key)?.key, cells[*at..].first_chunk()?));
            link.inbox.push_cells(run.iter().filter_map(keyed));
        }
        transit.clear();
        self.scratch.transit = transit;
    }

    fn link(&self, key: CircKey) -> Option<&Link> {
        match &self.table.get(key)?.kind {
            Kind::Outward { link, .. } | Kind::Inward { link, .. } => Some(link),
            _ => None,
        }
    }

    /// Hands what arrived in this batch to the streams' users.
    pub(super) fn flush_streams(&mut self) {
        let mut touched = std::mem::take(&mut self.scratch.touched);
        touched.dedup();
        for key in touched.drain(..) {
            match self.table.get_mut(key).map(|circuit| &mut circuit.kind) {
                Some(Kind::Endpoint(endpoint)) => endpoint.streams.flush(),
                Some(Kind::Origin(origin)) => {
                    origin.streams.flush();
                    origin.report_gone();
                }
                _ => {}
            }
            self.table.activate(key);
        }
        self.scratch.touched = touched;
    }
}

/// A forward cell at a relay that the circuit goes beyond. For the relay itself only cover traffic is legal.
fn open_outward(opener: &mut HopOpener, payload: &mut [u8; PAYLOAD_LEN]) -> Result<Outcome, Violation> {
    if opener.open(payload)? == Routing::PassOn {
        return Ok(Outcome::Transit);
    }
    match Forward::parse(&payload[..inner_len(opener.hop())])? {
        Forward::Drop => Ok(Outcome::Cover { answer: false }),
        Forward::Loop => Ok(Outcome::Cover { answer: true }),
        Forward::Pad(spec) => Ok(Outcome::Pad(spec)),
        _ => Err(Violation::State),
    }
}

impl Endpoint {
    /// Takes a fragment of `EXTEND`; gives the relay to extend to when it is complete.
    fn extend(&mut self, fragment: &[u8]) -> Result<Option<crate::ids::RelayId>, Violation> {
        if self.extending || !self.streams.is_empty() || self.opener.hop().next().is_none() {
            return Err(Violation::State);
        }
        let Some(request) = self.extend.get_or_insert_with(Extend::new).push(fragment)? else {
            return Ok(None);
        };
        let id = requested_id(&request);
        self.extending = true;
        self.extend = None;
        self.request = Some(request);
        Ok(Some(id))
    }

    fn begin(
        &mut self,
        inbox: &Arc<Inbox>,
        key: CircKey,
        id: StreamId,
        begin: Begin,
    ) -> Result<Option<Event>, Violation> {
        let io = StreamShared::new(inbox.clone());
        let has_room = self.streams.begun(id, io.clone(), key)?;
        Ok(has_room.then(|| Event::Begin(begin, StreamIo(io))))
    }
}
