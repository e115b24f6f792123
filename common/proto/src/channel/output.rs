//! What a channel sends, in this order: control cells, credit, then circuits in turn.

use std::time::Instant;

use super::inbox::CircKey;
use super::mail::Mail;
use super::table::{Circuit, Kind};
use super::{Channel, Control};
use crate::cell::{self, CELL_LEN, CREDITS_PER_CELL, Command, HEADER_LEN, PAYLOAD_LEN};
use crate::circuit::Violation;
use crate::crypto::layer::{Routing, inner_len};
use crate::message::{self, DestroyReason};

/// Cells passed on that are worth telling the other channel, which grants credit for them.
const REPORT_CELLS: u32 = 16;

impl Channel {
    /// Whether [`Channel::poll_output`] has something.
    pub fn has_output(&self) -> bool {
        match self.padding.paced() {
            None => self.has_payload() || self.padding.is_due(),
            Some(due) => due > 0,
        }
    }

    pub(super) fn has_payload(&self) -> bool {
        !self.control.is_empty() || !self.grants.is_empty() || self.table.has_turns()
    }

    /// Appends whole cells to `out`, at most `limit` of them.
    pub fn poll_output(&mut self, now: Instant, out: &mut Vec<u8>, limit: usize) {
        let start = out.len();
        let limit = self.padding.paced().map_or(limit, |due| due.min(limit));
        self.put_payload(now, out, limit);
        self.put_padding(now, start, limit, out);
        self.totals.count_sent(&out[start..]);
        self.publish_stats();
    }

    fn put_payload(&mut self, now: Instant, out: &mut Vec<u8>, limit: usize) {
        let end = out.len() + limit * CELL_LEN;
        while out.len() < end
            && let Some(cell) = self.control.pop_front()
        {
            match cell {
                Control::Cell(cell) => out.extend_from_slice(&cell[..]),
                Control::Destroy(id, reason) => {
                    out.extend_from_slice(&cell::build(id, Command::Destroy, &[reason as u8]));
                }
            }
        }
        while out.len() < end && !self.grants.is_empty() {
            self.put_credit(out);
        }
        while out.len() < end
            && let Some((key, turn)) = self.table.next_turn()
        {
            let room = (end - out.len()) / CELL_LEN;
            let sent = self.take_turn(now, key, turn.min(room), out);
            self.table.end_turn(key, sent);
        }
        self.free_garbage();
        if self.control.capacity() > 4 * CREDITS_PER_CELL && self.control.is_empty() {
            self.control.shrink_to_fit();
        }
    }

    /// Sends up to `limit` cells of a circuit; returns how many.
    fn take_turn(&mut self, now: Instant, key: CircKey, limit: usize, out: &mut Vec<u8>) -> usize {
        let Some(circuit) = self.table.get_mut(key) else { return 0 };
        let start = out.len();
        let result = match &circuit.kind {
            Kind::Endpoint(_) => fill(now, circuit, limit, out).map(|()| 0),
            Kind::Origin(_) => fill_origin(now, circuit, limit, out),
            _ => {
                self.inbox.unload(circuit.pop(limit), out);
                Ok(0)
            }
        };
        let padding = match result {
            Ok(padding) => padding,
            Err(violation) => {
                out.truncate(start);
                self.violated(key, violation);
                return 0;
            }
        };
        let sent = (out.len() - start) / CELL_LEN;
        circuit.credit.spend(sent);
        circuit.relayed += sent as u64;
        let is_origin = matches!(circuit.kind, Kind::Origin(_));
        self.machines.note(key, &mut circuit.padder, |padder| padder.went(now, sent, padding, is_origin));
        if circuit.credit.cells() == 0 && circuit.has_output() && sent > 0 {
            let last = out.len() - CELL_LEN;
            out[last + HEADER_LEN - 1] = Command::RelayBlocked as u8;
        }
        match &mut circuit.kind {
            Kind::Origin(origin) => origin.report_gone(),
            Kind::Outward { link, .. }
            | Kind::Inward { link, .. }
            | Kind::Extending { link: Some(link), .. } => {
                circuit.passed += sent as u32;
                if circuit.passed >= if circuit.is_prompt { 1 } else { REPORT_CELLS } {
                    link.tell(Mail::Passed(link.key, std::mem::take(&mut circuit.passed)));
                }
            }
            _ => {}
        }
        if circuit.ending && !circuit.has_output() {
            // The DESTROY goes out with the next output, behind the cells of this one.
            self.end_circuit(key, DestroyReason::None);
        }
        sent
    }

    /// Appends a `CREDIT` cell, without the circuits that ended meanwhile: their ids may be free at the peer.
    fn put_credit(&mut self, out: &mut Vec<u8>) {
        let mut grants = Vec::with_capacity(CREDITS_PER_CELL);
        while grants.len() < CREDITS_PER_CELL
            && let Some((key, cells)) = self.grants.pop_front()
        {
            if let Some(circuit) = self.table.get(key) {
                grants.push((circuit.id, cells));
            }
        }
        if !grants.is_empty() {
            out.extend_from_slice(&cell::credit(&grants));
        }
    }
}

/// Writes and seals messages of a circuit that ends here.
fn fill(now: Instant, circuit: &mut Circuit, limit: usize, out: &mut Vec<u8>) -> Result<(), Violation> {
    let (id, start) = (circuit.id, out.len());
    let (streams, hop) = match &mut circuit.kind {
        Kind::Endpoint(endpoint) => (&mut endpoint.streams, endpoint.sealer.hop()),
        Kind::Origin(origin) => {
            let hop = origin.last_hop();
            (&mut origin.streams, hop)
        }
        _ => return Ok(()),
    };
    let room = inner_len(hop) - message::HEADER_LEN;
    streams.fill(now, limit, room, &mut |code, stream, data| {
        let at = out.len();
        out.extend_from_slice(&id.0.to_be_bytes());
        out.push(Command::Relay as u8);
        message::append(out, code, stream, data);
        out.resize(at + CELL_LEN, 0);
    });
    for cell in out[start..].as_chunks_mut::<CELL_LEN>().0 {
        let Some(payload) = cell[HEADER_LEN..].first_chunk_mut::<PAYLOAD_LEN>() else { continue };
        match &mut circuit.kind {
            Kind::Endpoint(endpoint) => endpoint.sealer.seal(payload, Routing::Here)?,
            Kind::Origin(origin) => origin.seal(payload)?,
            _ => {}
        }
    }
    Ok(())
}

/// The same for a circuit that begins here, messages to single hops first; returns how many cells were padding.
fn fill_origin(
    now: Instant,
    circuit: &mut Circuit,
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<usize, Violation> {
    let (id, mut written, mut padding) = (circuit.id, 0, 0);
    if let Kind::Origin(origin) = &mut circuit.kind {
        while written < limit {
            let mut payload = [0; PAYLOAD_LEN];
            let Some(is_padding) = origin.seal_aside(&mut payload)? else { break };
            out.extend_from_slice(&cell::build(id, Command::Relay, &payload));
            padding += usize::from(is_padding);
            written += 1;
        }
    }
    fill(now, circuit, limit - written, out)?;
    Ok(padding)
}
