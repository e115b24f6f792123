//! Circuits come and go: `CREATE`, `CREATED`, `DESTROY`, extension, and what other channels and users ask for.

use std::sync::Arc;
use std::time::Instant;

use super::inbox::{CircKey, Inbox};
use super::machines::{FREE_ADDED, Padder};
use super::mail::{Link, Mail};
use super::survey::Queued;
use super::table::{Circuit, Endpoint, Kind};
use super::{CREATE_TIMEOUT, Channel, ChannelError, Control, Event, HandshakeJob};
use crate::cell::{self, Cell, Command, PAYLOAD_LEN};
use crate::circuit::{BuildError, CircuitShared, CircuitStatus, HopSpec, Origin, Side, Streams, Violation};
use crate::counters::Incident;
use crate::crypto::fragment::{Create, Created, Extended, create_message, parse_create};
use crate::crypto::handshake::{HopKeys, REPLY_LEN, REQUEST_LEN};
use crate::crypto::layer::{HopOpener, HopSealer, LayerError, Routing, inner_len};
use crate::ids::{CircId, HopNum, StreamId};
use crate::message::{self, Code, DestroyReason, EndReason};

/// Cells that a circuit which has ended on its other side may still send.
const LAST_CELLS: usize = 64;
/// Stale deadlines that are not worth looking for.
const SPARE_DEADLINES: usize = 64;

impl Channel {
    pub(super) fn handle_create(
        &mut self,
        now: Instant,
        id: CircId,
        cell: &Cell,
    ) -> Result<(), ChannelError> {
        let illegal = ChannelError::State(Command::Create);
        if !self.config.accepts_circuits || !self.is_peers_id(id) {
            return Err(illegal);
        }
        // One that took too long: the rest of it is on its way.
        if self.closing.contains(id) {
            return Ok(());
        }
        if self.table.contains_id(id) {
            return Err(illegal);
        }
        let Some(message) = self.requests.push(now, id, cell::payload(cell))? else { return Ok(()) };
        let asked = parse_create(&message).filter(|(hop, _)| self.may_ask(*hop));
        let (hop, request) = asked.ok_or(illegal)?;
        let Some(window) = self.new_window() else {
            self.refuse(id, Incident::Resources, DestroyReason::Resources);
            return Ok(());
        };
        let key = self.table.insert(Circuit::new(id, Kind::Answering(hop), window));
        self.events.push_back(Event::Handshake(HandshakeJob { inbox: self.inbox.clone(), key, request }));
        Ok(())
    }

    /// Refuses a circuit that the peer asked for and that is in no table.
    pub(super) fn refuse(&mut self, id: CircId, incident: Incident, reason: DestroyReason) {
        self.config.counters.count(incident);
        self.closing.insert(id, true);
        self.send_destroy(id, reason);
    }

    pub(super) fn handle_created(
        &mut self,
        now: Instant,
        id: CircId,
        cell: &Cell,
    ) -> Result<(), ChannelError> {
        let illegal = ChannelError::State(Command::Created);
        let Some(key) = self.find(id, Command::Created)? else { return Ok(()) };
        self.rtt.answered(id, now);
        let Some(circuit) = self.table.get_mut(key) else { return Err(illegal) };
        match &mut circuit.kind {
            Kind::Origin(origin) => {
                match origin.handle_created(now, cell::payload(cell), &mut self.config.rng) {
                    Ok(()) => self.table.activate(key),
                    Err(Violation::Fragment(_) | Violation::State) => return Err(illegal),
                    Err(violation) => self.violated(key, violation),
                }
            }
            Kind::Asked { created, .. } => match created.push(cell::payload(cell)) {
                Ok(None) => {}
                Ok(Some(reply)) => self.extended(key, &reply),
                Err(_) => return Err(illegal),
            },
            _ => return Err(illegal),
        }
        Ok(())
    }

    /// The next relay has answered: its reply goes to the client, and the circuit is open here.
    fn extended(&mut self, key: CircKey, reply: &[u8; REPLY_LEN]) {
        let Some(circuit) = self.table.get_mut(key) else { return };
        let Kind::Asked { sealer, back, .. } = &mut circuit.kind else { return };
        let cells: Result<Vec<Cell>, LayerError> = Extended::split(reply)
            .map(|fragment| sealed_message(sealer, back.circ, Code::Extended, &fragment))
            .collect();
        let cells = match cells {
            Ok(cells) => cells,
            Err(error) => return self.violated(key, error.into()),
        };
        let Kind::Asked { sealer, back, .. } = std::mem::replace(&mut circuit.kind, Kind::Gone) else {
            return;
        };
        // First: whoever sees a cell of the next relay may answer it, and then the way there must be open.
        back.tell(Mail::Joined(back.key));
        back.inbox.push_cells(cells.iter().map(|cell| (back.key, cell)));
        circuit.kind = Kind::Inward { sealer, link: back };
        self.table.note(key);
    }

    pub(super) fn handle_destroy(&mut self, id: CircId, cell: &Cell) -> Result<(), ChannelError> {
        let reason = cell::parse_destroy(cell)?;
        if self.closing.remove(id) {
            return Ok(());
        }
        if !self.requests.remove(id) {
            let key = self.table.find(id).ok_or(ChannelError::State(Command::Destroy))?;
            let Some(mut circuit) = self.remove(key) else { return Ok(()) };
            tell_other_side(&mut circuit.kind, reason);
        }
        self.send_destroy(id, DestroyReason::None);
        Ok(())
    }

    fn send_destroy(&mut self, id: CircId, reason: DestroyReason) {
        self.control.push_back(Control::Destroy(id, reason));
    }

    pub(super) fn send_cell(&mut self, cell: Cell) {
        self.control.push_back(Control::Cell(Box::new(cell)));
    }

    fn send_cells(
        &mut self,
        id: CircId,
        command: Command,
        payloads: impl Iterator<Item = [u8; PAYLOAD_LEN]>,
    ) {
        payloads.for_each(|payload| self.send_cell(cell::build(id, command, &payload)));
    }

    /// Takes a circuit out of the table, with all that it has there.
    fn remove(&mut self, key: CircKey) -> Option<Circuit> {
        let mut circuit = self.table.remove(key)?;
        self.machines.forget(key, &mut circuit);
        self.scratch.garbage.extend(circuit.queue.drain(..).map(|queued| queued.slot));
        Some(circuit)
    }

    /// Ends a circuit from this side: the peer and the circuit's other side are told.
    pub(super) fn end_circuit(&mut self, key: CircKey, reason: DestroyReason) {
        let Some(mut circuit) = self.remove(key) else { return };
        self.closing.insert(circuit.id, matches!(circuit.kind, Kind::Answering(_)));
        self.send_destroy(circuit.id, reason);
        tell_other_side(&mut circuit.kind, reason);
    }

    /// Ends every circuit, for an orderly end of the process.
    pub fn end_all(&mut self) {
        self.padding.stop();
        for key in self.table.keys() {
            self.end_circuit(key, DestroyReason::Finished);
        }
    }

    /// Takes what others left in the inbox.
    pub fn handle_inbox(&mut self, now: Instant) {
        let mut arrivals = std::mem::take(&mut self.scratch.arrivals);
        let mut mail = std::mem::take(&mut self.scratch.mail);
        self.inbox.take(&mut arrivals, &mut mail);
        let at_ms = self.stopwatch.at_ms(now);
        for (key, slot) in arrivals.drain(..) {
            match self.table.get_mut(key) {
                Some(circuit) => {
                    circuit.queue.push_back(Queued { slot, at_ms });
                    self.machines.note(key, &mut circuit.padder, Padder::queued);
                    self.table.activate(key);
                }
                None => self.scratch.garbage.push(slot),
            }
        }
        for mail in mail.drain(..) {
            self.handle_mail(now, mail);
        }
        self.scratch.arrivals = arrivals;
        self.scratch.mail = mail;
        self.settle_machines(now);
        self.free_garbage();
        self.publish_stats();
    }

    fn handle_mail(&mut self, now: Instant, mail: Mail) {
        match mail {
            Mail::Create(shared, hops) => self.create(now, shared, hops),
            Mail::Release(key) => self.end_circuit(key, DestroyReason::Finished),
            Mail::Begin(circuit, stream, begin) => {
                let key = circuit.place();
                let found = key.and_then(|key| Some((key, self.table.get_mut(key)?)));
                match found {
                    Some((key, Circuit { kind: Kind::Origin(origin), .. })) => {
                        origin.streams.begin(now, stream, key, &begin);
                        self.scratch.touched.push(key);
                        self.flush_streams();
                    }
                    _ => bounce(Mail::Begin(circuit, stream, begin)),
                }
            }
            Mail::Stream(key, id) => {
                match self.table.get_mut(key).map(|circuit| &mut circuit.kind) {
                    Some(Kind::Origin(origin)) => origin.streams.notified(now, id),
                    Some(Kind::Endpoint(endpoint)) => endpoint.streams.notified(now, id),
                    _ => {}
                }
                self.table.activate(key);
            }
            Mail::HandshakeDone(key, answer) => self.handshake_done(now, key, answer),
            Mail::ExtendOver(key, channel) => self.extend_over(key, channel),
            Mail::CarryOn { request, hop, sealer, back } => self.carry_on(now, &request, hop, sealer, back),
            Mail::Linked(key, link) => self.linked(key, link),
            Mail::Joined(key) => self.joined(key),
            Mail::Pad(circuit, hop, spec) => {
                self.tell_asides(&circuit, |asides| asides.ask(hop, spec));
            }
            Mail::Cover(circuit, hop, cover) => {
                let is_sent = self.tell_asides(&circuit, |asides| asides.cover(hop, cover));
                if let Some(is_sent) = is_sent {
                    self.padding.covered(is_sent);
                }
            }
            Mail::Add(key, code, data, count) => self.add_cells(key, code, &data, count),
            Mail::NotAdded(key, code, cells) => self.not_added(key, code, cells),
            Mail::Passed(key, cells) => self.passed(now, key, cells),
            Mail::Destroy(key) => self.end_circuit(key, DestroyReason::None),
            Mail::DestroyWhenSent(key) => self.end_when_sent(key),
            Mail::Survey(min_age, answer) => self.answer_survey(now, min_age, answer),
            Mail::Shed(key) => self.shed(key),
        }
    }

    /// Notes when a handshake has to be done.
    fn set_deadline(&mut self, now: Instant, key: CircKey) {
        // Circuits that came and went leave stale entries, which a peer could make by the million.
        if self.deadlines.len() > 2 * self.table.len() + SPARE_DEADLINES {
            self.deadlines.retain(|(_, key)| self.table.get(*key).is_some());
        }
        self.deadlines.push_back((now + CREATE_TIMEOUT, key));
    }

    /// A user wants a circuit that begins here.
    fn create(&mut self, now: Instant, shared: Arc<CircuitShared>, hops: Vec<HopSpec>) {
        let Some(window) = self.new_window() else {
            return fail(&shared, DestroyReason::Resources);
        };
        let budget = self.config.budget.clone();
        let Some((mut origin, cells)) = Origin::start(shared.clone(), hops, budget, &mut self.config.rng)
        else {
            return fail(&shared, DestroyReason::Internal);
        };
        self.ask_for_padding(origin.hop_count());
        origin.machine = self.padding.machine(origin.hop_count()).cloned();
        let id = self.free_id();
        let key = self.table.insert(Circuit::new(id, Kind::Origin(Box::new(origin)), window));
        self.send_cells(id, Command::Create, cells.into_iter());
        self.rtt.ask(id, now);
        if !shared.set_place(key) {
            self.end_circuit(key, DestroyReason::Finished);
        }
    }

    fn handshake_done(
        &mut self,
        now: Instant,
        key: CircKey,
        answer: Result<(Box<[u8; REPLY_LEN]>, HopKeys), DestroyReason>,
    ) {
        let Some(circuit) = self.table.get_mut(key) else { return };
        let Kind::Answering(hop) = circuit.kind else { return };
        let (reply, keys) = match answer {
            Ok(answer) => answer,
            Err(reason) => return self.end_circuit(key, reason),
        };
        circuit.kind = Kind::Endpoint(Box::new(Endpoint {
            opener: HopOpener::new(keys.cipher, &keys.forward, hop),
            sealer: HopSealer::new(keys.cipher, &keys.backward, hop),
            streams: Streams::new(Side::Relay, self.config.budget.clone()),
            extend: None,
            extending: false,
            request: None,
        }));
        let id = circuit.id;
        self.table.note(key);
        self.send_cells(id, Command::Created, Created::split(&reply));
        self.rtt.ask(id, now);
    }

    /// The channel to carry a circuit on is there: the backward layer moves to it.
    fn extend_over(&mut self, key: CircKey, channel: Result<Arc<Inbox>, DestroyReason>) {
        let Some(circuit) = self.table.get_mut(key) else { return };
        let Kind::Endpoint(endpoint) = &mut circuit.kind else { return };
        let (Some(request), Some(hop)) = (endpoint.request.take(), endpoint.opener.hop().next()) else {
            return;
        };
        // The client called itself, or a relay called its caller: legal, and the channel handles both halves.
        let channel = match channel {
            Ok(channel) => channel,
            Err(reason) => {
                endpoint.streams.send_control(Code::ExtendFailed, vec![reason as u8]);
                return self.end_when_sent(key);
            }
        };
        let back = Link { inbox: self.inbox.clone(), key, circ: circuit.id };
        let Kind::Endpoint(endpoint) = std::mem::replace(&mut circuit.kind, Kind::Gone) else { return };
        let Endpoint { opener, sealer, streams, .. } = *endpoint;
        // Answers that could not go out yet are sealed with the layer that moves now.
        let loops = (streams.waiting_asides(Code::Looped) as u32).min(FREE_ADDED);
        circuit.kind = Kind::Extending { opener, link: None, loops };
        self.table.note(key);
        if let Err(mail) = channel.post(Mail::CarryOn { request, hop, sealer, back }) {
            bounce(mail);
        }
    }

    fn carry_on(
        &mut self,
        now: Instant,
        request: &[u8; REQUEST_LEN],
        hop: HopNum,
        sealer: HopSealer,
        back: Link,
    ) {
        let Some(window) = self.new_window() else {
            self.config.counters.count(Incident::Resources);
            return extend_failed(sealer, &back, DestroyReason::Resources);
        };
        let id = self.free_id();
        let kind = Kind::Asked { created: Created::new(), sealer, back: back.clone() };
        let key = self.table.insert(Circuit::new(id, kind, window));
        self.send_cells(id, Command::Create, Create::split(&create_message(hop, request)));
        self.rtt.ask(id, now);
        self.set_deadline(now, key);
        let link = Link { inbox: self.inbox.clone(), key, circ: id };
        back.tell(Mail::Linked(back.key, link));
    }

    fn linked(&mut self, key: CircKey, link: Link) {
        match self.table.get_mut(key).map(|circuit| &mut circuit.kind) {
            Some(Kind::Extending { link: place, loops, .. }) => {
                if *loops > 0 {
                    link.tell(Mail::Add(link.key, Code::Looped, Vec::new(), std::mem::take(loops) as usize));
                }
                *place = Some(link);
            }
            _ => link.tell(Mail::Destroy(link.key)),
        }
    }

    /// The next relay has answered: from now on it may get cells. Before, it would end the channel.
    fn joined(&mut self, key: CircKey) {
        let Some(circuit) = self.table.get_mut(key) else { return };
        circuit.kind = match std::mem::replace(&mut circuit.kind, Kind::Gone) {
            Kind::Extending { opener, link: Some(link), .. } => Kind::Outward { opener, link },
            other => other,
        };
        self.table.note(key);
    }

    /// Ends a circuit once its last cells have gone out: as many as there is credit for, since a peer that grants
    /// none must not keep them here.
    fn end_when_sent(&mut self, key: CircKey) {
        let Some(circuit) = self.table.get_mut(key) else { return };
        self.machines.forget(key, circuit);
        let last = circuit.queue.len().min(circuit.credit.cells()).min(LAST_CELLS);
        self.scratch.garbage.extend(circuit.queue.drain(last..).map(|queued| queued.slot));
        if circuit.has_output() && circuit.credit.cells() > 0 {
            circuit.ending = true;
            self.table.activate(key);
        } else {
            self.end_circuit(key, DestroyReason::None);
        }
    }
}

fn fail(shared: &CircuitShared, reason: DestroyReason) {
    shared.set_status(CircuitStatus::Failed(BuildError { hop: 0, reason }));
}

/// A cell with a message sealed at this hop.
pub(super) fn sealed_message(
    sealer: &mut HopSealer,
    circ: CircId,
    code: Code,
    data: &[u8],
) -> Result<Cell, LayerError> {
    let mut payload = [0; PAYLOAD_LEN];
    message::write(&mut payload[..inner_len(sealer.hop())], code, StreamId(0), data);
    sealer.seal(&mut payload, Routing::Here)?;
    Ok(cell::build(circ, Command::Relay, &payload))
}

/// Tells the client that its circuit could not be extended, and ends it.
fn extend_failed(mut sealer: HopSealer, back: &Link, reason: DestroyReason) {
    let cell = sealed_message(&mut sealer, back.circ, Code::ExtendFailed, &[reason as u8]);
    back.inbox.push_cells(cell.iter().map(|cell| (back.key, cell)));
    back.tell(Mail::DestroyWhenSent(back.key));
}

/// A circuit has ended on this channel: tells the other channel, or the users. Reasons do not travel on.
pub(super) fn tell_other_side(kind: &mut Kind, reason: DestroyReason) {
    match std::mem::replace(kind, Kind::Gone) {
        Kind::Endpoint(mut endpoint) => endpoint.streams.close(EndReason::Reset),
        Kind::Origin(mut origin) => origin.close(reason),
        Kind::Asked { sealer, back, .. } => {
            let reason = match reason {
                DestroyReason::ChannelLost => DestroyReason::ConnectFailed,
                other => other,
            };
            extend_failed(sealer, &back, reason);
        }
        Kind::Outward { link, .. } | Kind::Extending { link: Some(link), .. } => {
            link.tell(Mail::Destroy(link.key));
        }
        // What came from further away may say why: it still goes to the client.
        Kind::Inward { link, .. } => link.tell(Mail::DestroyWhenSent(link.key)),
        Kind::Answering(_) | Kind::Extending { link: None, .. } | Kind::Gone => {}
    }
}

/// A request that came too late for its channel: whoever asked is told.
pub(super) fn bounce(mail: Mail) {
    match mail {
        Mail::Create(shared, _) => fail(&shared, DestroyReason::ChannelLost),
        Mail::Begin(circuit, stream, _) => {
            circuit.stream_gone();
            stream.deliver_end(EndReason::Reset);
        }
        Mail::CarryOn { sealer, back, .. } => extend_failed(sealer, &back, DestroyReason::ConnectFailed),
        Mail::Linked(_, link) => link.tell(Mail::Destroy(link.key)),
        Mail::Release(_)
        | Mail::Stream(..)
        | Mail::HandshakeDone(..)
        | Mail::ExtendOver(..)
        | Mail::Joined(_)
        | Mail::Passed(..)
        | Mail::Pad(..)
        | Mail::Cover(..)
        | Mail::Add(..)
        | Mail::NotAdded(..)
        | Mail::Destroy(_)
        | Mail::DestroyWhenSent(_)
        | Mail::Survey(..)
        | Mail::Shed(_) => {}
    }
}
