//! The circuits of one channel, and whose turn it is to send.

use std::collections::{HashMap, VecDeque};

use super::inbox::{CircKey, Slot};
use super::machines::Padder;
use super::mail::Link;
use super::stats::{Census, CircuitState};
use super::survey::Queued;
use crate::circuit::{Origin, Streams};
use crate::crypto::fragment::{Created, Extend};
use crate::crypto::handshake::REQUEST_LEN;
use crate::crypto::layer::{HopOpener, HopSealer};
use crate::flow::{RecvWindow, SendCredit};
use crate::ids::{CircId, HopNum};

/// Cells that a circuit sends before the next has its turn.
const QUANTUM_CELLS: usize = 32;
/// Capacity that the empty queue of a circuit keeps, in cells.
const KEPT_QUEUE: usize = 8;

/// What a circuit is on this channel.
pub(super) enum Kind {
    /// The peer asks for it: its handshake is being computed.
    Answering(HopNum),
    /// It ends here, at the relay's side.
    Endpoint(Box<Endpoint>),
    /// It ends here, at the client's side.
    Origin(Box<Origin>),
    /// It came from this channel and is being carried on over another, which has it in its table once `link` is there.
    /// `LOOP` that came before `link` are owed an answer.
    Extending { opener: HopOpener, link: Option<Link>, loops: u32 },
    /// It is to be carried on over this channel: `CREATE` is sent.
    Asked { created: Created, sealer: HopSealer, back: Link },
    /// The client is on this side: what arrives loses a layer.
    Outward { opener: HopOpener, link: Link },
    /// The client is on the other side: what arrives gains a layer.
    Inward { sealer: HopSealer, link: Link },
    /// It becomes something else or is taken apart.
    Gone,
}

/// The relay's end of a circuit that has not been extended.
pub(super) struct Endpoint {
    pub(super) opener: HopOpener,
    pub(super) sealer: HopSealer,
    pub(super) streams: Streams,
    /// Some while `EXTEND` arrives; `extending` once it is complete, for good.
    pub(super) extend: Option<Extend>,
    pub(super) extending: bool,
    /// What `EXTEND` brought, until the channel to extend over is there.
    pub(super) request: Option<Box<[u8; REQUEST_LEN]>>,
}

/// A circuit of the channel.
pub(super) struct Circuit {
    pub(super) id: CircId,
    pub(super) kind: Kind,
    pub(super) credit: SendCredit,
    pub(super) window: RecvWindow,
    /// Cells from the other side, to be sent.
    pub(super) queue: VecDeque<Queued>,
    /// Cells sent and not reported to the other side.
    pub(super) passed: u32,
    /// `DESTROY` follows when nothing is left to send.
    pub(super) ending: bool,
    /// The machines that run on it, if any do.
    pub(super) padder: Option<Box<Padder>>,
    /// Cover traffic, and questions for machines, that came without an agreement.
    pub(super) cover: u32,
    /// Cells that this relay added towards the client and that the other channel has not sent yet.
    pub(super) added: u32,
    /// The other side is told at once of what was passed on. It runs machines: the times at which it gives credit must not tell
    /// cells that pass from padding, which ends there.
    pub(super) is_prompt: bool,
    /// `RELAY` cells that came and went, without `DROP` that ended here.
    pub(super) relayed: u64,
    turn: Turn,
    /// Has a place in the line of those that take turns.
    is_in_line: bool,
    /// Cells that it may send before it has its turn there.
    left: usize,
    /// As what the table counts it.
    counted: Option<CircuitState>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// In neither list.
    None,
    /// Among those that go first.
    Quiet,
    /// In line, with something to send.
    Busy,
    /// In line, although its last turn left nothing to send.
    Rests,
}

impl Circuit {
    pub(super) fn new(id: CircId, kind: Kind, window: RecvWindow) -> Circuit {
        Circuit {
            id,
            kind,
            credit: SendCredit::new(),
            window,
            queue: VecDeque::new(),
            passed: 0,
            ending: false,
            padder: None,
            cover: 0,
            added: 0,
            is_prompt: false,
            relayed: 0,
            turn: Turn::None,
            is_in_line: false,
            left: 0,
            counted: None,
        }
    }

    /// As what it counts; `None` if its other half, on another channel, does.
    fn state(&self) -> Option<CircuitState> {
        match &self.kind {
            Kind::Answering(_) => Some(CircuitState::Opening),
            Kind::Endpoint(_) => Some(CircuitState::EndsHere),
            Kind::Extending { .. } => Some(CircuitState::Extending),
            Kind::Outward { .. } => Some(CircuitState::Passing),
            Kind::Origin(_) => Some(CircuitState::BeginsHere),
            Kind::Asked { .. } | Kind::Inward { .. } | Kind::Gone => None,
        }
    }

    /// Whether a `RELAY` cell is waiting, credit or not.
    pub(super) fn has_output(&self) -> bool {
        !self.queue.is_empty()
            || match &self.kind {
                Kind::Endpoint(endpoint) => endpoint.streams.has_output(),
                Kind::Origin(origin) => origin.has_output(),
                _ => false,
            }
    }

    /// Cells that may go now: as many as there is credit for, unless machines hold them.
    pub(super) fn may_send(&self) -> usize {
        let credit = self.credit.cells();
        self.padder.as_ref().map_or(credit, |padder| padder.may_send(credit))
    }

    fn can_send(&self) -> bool {
        self.may_send() > 0 && self.has_output()
    }

    /// About how many cells wait.
    pub(super) fn waiting_cells(&self) -> usize {
        let unsealed = match &self.kind {
            Kind::Endpoint(endpoint) => endpoint.streams.waiting_cells(),
            Kind::Origin(origin) => origin.asides.len() + origin.streams.waiting_cells(),
            _ => 0,
        };
        self.queue.len() + unsealed
    }

    /// Takes up to `limit` queued cells.
    pub(super) fn pop(&mut self, limit: usize) -> impl Iterator<Item = Slot> {
        if self.queue.is_empty() {
            self.queue.shrink_to(KEPT_QUEUE);
        }
        let count = limit.min(self.queue.len());
        self.queue.drain(..count).map(|queued| queued.slot)
    }
}

#[derive(Default)]
struct Entry {
    generation: u32,
    circuit: Option<Circuit>,
}

/// The table and the two lists of circuits that have something to send.
///
/// A circuit that was silent goes before those that send all the time, for one quantum (as flows do in FQ-CoDel, RFC
/// 8290 §4.2); the others take turns. Unlike there, what it did not use it may use later, until its turn comes: beside ten thousand
/// that send, somebody who says a little now and then does not wait for all of them.
#[derive(Default)]
pub(super) struct Table {
    entries: Vec<Entry>,
    free: Vec<u32>,
    by_id: HashMap<CircId, u32>,
    quiet: VecDeque<CircKey>,
    busy: VecDeque<CircKey>,
    last: Option<(CircId, u32)>,
    census: Census,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn insert(&mut self, circuit: Circuit) -> CircKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry::default());
            (self.entries.len() - 1) as u32
        });
        self.by_id.insert(circuit.id, index);
        let entry = &mut self.entries[index as usize];
        entry.circuit = Some(circuit);
        let key = CircKey { index, generation: entry.generation };
        self.note(key);
        key
    }

    /// Takes note of what a circuit has become.
    pub(super) fn note(&mut self, key: CircKey) {
        let Some(circuit) = self.get_mut(key) else { return };
        let state = circuit.state();
        let before = std::mem::replace(&mut circuit.counted, state);
        self.recount(before, state);
    }

    fn recount(&mut self, before: Option<CircuitState>, after: Option<CircuitState>) {
        if let Some(before) = before {
            self.census[before as usize] = self.census[before as usize].saturating_sub(1);
        }
        if let Some(after) = after {
            self.census[after as usize] += 1;
        }
    }

    /// How many circuits there are of each kind.
    pub(super) fn census(&self) -> Census {
        self.census
    }

    pub(super) fn remove(&mut self, key: CircKey) -> Option<Circuit> {
        let circuit =
            self.get_mut(key).is_some().then(|| self.entries[key.index as usize].circuit.take())??;
        self.entries[key.index as usize].generation = key.generation.wrapping_add(1);
        self.by_id.remove(&circuit.id);
        self.free.push(key.index);
        self.last = None;
        self.recount(circuit.counted, None);
        Some(circuit)
    }

    pub(super) fn contains_id(&self, id: CircId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// The circuit with this id; quick for runs of cells of the same one.
    pub(super) fn find(&mut self, id: CircId) -> Option<CircKey> {
        let index = match self.last {
            Some((last, index)) if last == id => index,
            _ => *self.by_id.get(&id)?,
        };
        self.last = Some((id, index));
        Some(CircKey { index, generation: self.entries[index as usize].generation })
    }

    pub(super) fn get_mut(&mut self, key: CircKey) -> Option<&mut Circuit> {
        let entry = self.entries.get_mut(key.index as usize)?;
        entry.circuit.as_mut().filter(|_| entry.generation == key.generation)
    }

    pub(super) fn get(&self, key: CircKey) -> Option<&Circuit> {
        let entry = self.entries.get(key.index as usize)?;
        entry.circuit.as_ref().filter(|_| entry.generation == key.generation)
    }

    /// Every circuit, taken out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Circuit> {
        std::mem::take(self).entries.into_iter().filter_map(|entry| entry.circuit)
    }

    /// Every key in use.
    pub(super) fn keys(&self) -> Vec<CircKey> {
        let used = self.entries.iter().enumerate().filter(|(_, entry)| entry.circuit.is_some());
        used.map(|(index, entry)| CircKey { index: index as u32, generation: entry.generation }).collect()
    }

    /// Puts a circuit into a list if it has something to send and credit for it.
    pub(super) fn activate(&mut self, key: CircKey) {
        let Some(circuit) = self.get_mut(key) else { return };
        match circuit.turn {
            Turn::None if circuit.can_send() => circuit.left = QUANTUM_CELLS,
            Turn::Rests if circuit.can_send() && circuit.left > 0 => {}
            _ => return,
        }
        circuit.turn = Turn::Quiet;
        self.quiet.push_back(key);
    }

    /// Whose turn it is, and how many cells it may send now.
    pub(super) fn next_turn(&mut self) -> Option<(CircKey, usize)> {
        loop {
            let quiet = self.quiet.pop_front();
            let key = quiet.or_else(|| self.busy.pop_front())?;
            let Some(circuit) = self.get_mut(key) else { continue };
            if quiet.is_none() {
                circuit.is_in_line = false;
                circuit.turn = Turn::Busy;
                if circuit.left == 0 {
                    circuit.left = QUANTUM_CELLS;
                }
            }
            if circuit.can_send() {
                return Some((key, circuit.left.min(circuit.may_send())));
            }
            circuit.turn = if circuit.is_in_line { Turn::Rests } else { Turn::None };
        }
    }

    /// Takes note of what was sent in a turn, and puts the circuit into a list again.
    pub(super) fn end_turn(&mut self, key: CircKey, sent: usize) {
        let Some(circuit) = self.get_mut(key) else { return };
        circuit.left = circuit.left.saturating_sub(sent);
        let more = circuit.can_send();
        circuit.turn = match circuit.turn {
            Turn::Quiet if more && circuit.left > 0 => return self.quiet.push_front(key),
            _ if more => Turn::Busy,
            // It waits in line once, lest it have another whole quantum at once.
            Turn::Quiet => Turn::Rests,
            _ => Turn::None,
        };
        if circuit.turn != Turn::None && !std::mem::replace(&mut circuit.is_in_line, true) {
            self.busy.push_back(key);
        }
    }

    /// Cells that wait for their turn, as far as they are in line: an estimate for people, not for decisions.
    pub(super) fn waiting_cells(&self) -> usize {
        let waiting = |keys: &VecDeque<CircKey>, is_quiet| -> usize {
            let circuits = keys.iter().filter_map(|key| self.get(*key));
            // One may be in both lists.
            circuits
                .filter(|circuit| (circuit.turn == Turn::Quiet) == is_quiet)
                .map(Circuit::waiting_cells)
                .sum()
        };
        waiting(&self.quiet, true) + waiting(&self.busy, false)
    }

    /// Whether some circuit is in line.
    pub(super) fn has_turns(&self) -> bool {
        !self.quiet.is_empty() || !self.busy.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Budget, PathRtt};

    const MANY: usize = 100;

    fn table() -> (Table, Vec<CircKey>) {
        let (mut table, budget) = (Table::default(), Budget::new(8 << 20));
        let keys = (0..=MANY as u32).map(|id| {
            let window = RecvWindow::new(&budget, &PathRtt::hop(None)).unwrap();
            table.insert(Circuit::new(CircId(id), Kind::Gone, window))
        });
        let keys = keys.collect();
        (table, keys)
    }

    /// It gets so many more cells to send, and credit for them.
    fn give(table: &mut Table, key: CircKey, cells: usize) {
        let circuit = table.get_mut(key).unwrap();
        circuit.queue.extend(std::iter::repeat_n(Queued { slot: 0, at_ms: 0 }, cells));
        circuit.credit.grant(cells as u32).unwrap();
        table.activate(key);
    }

    /// Who has the next turn, and the cells that it sends.
    fn turn(table: &mut Table) -> Option<(CircKey, usize)> {
        let (key, most) = table.next_turn()?;
        let circuit = table.get_mut(key).unwrap();
        let sent = circuit.pop(most).count();
        circuit.credit.spend(sent);
        table.end_turn(key, sent);
        Some((key, sent))
    }

    #[test]
    fn whoever_says_a_little_does_not_wait_for_all_who_send() {
        let (mut table, keys) = table();
        let (quiet, busy) = keys.split_last().unwrap();
        busy.iter().for_each(|key| give(&mut table, *key, 4 * QUANTUM_CELLS));
        busy.iter().for_each(|key| assert_eq!(turn(&mut table), Some((*key, QUANTUM_CELLS))));
        for asked in 1..=QUANTUM_CELLS {
            give(&mut table, *quiet, 1);
            assert_eq!(turn(&mut table), Some((*quiet, 1)), "{asked}");
            assert_eq!(turn(&mut table), Some((busy[asked - 1], QUANTUM_CELLS)));
        }
        // It has used what it may before its turn.
        give(&mut table, *quiet, 1);
        let others = std::iter::from_fn(|| turn(&mut table)).position(|(key, _)| key == *quiet);
        assert_eq!(others, Some(MANY - QUANTUM_CELLS));
    }

    #[test]
    fn all_who_send_get_the_same_whoever_was_quiet() {
        let (mut table, keys) = table();
        for key in &keys {
            give(&mut table, *key, 10 * QUANTUM_CELLS);
        }
        let mut sent = HashMap::<u32, usize>::new();
        for round in 1..=4 {
            for _ in &keys {
                let (key, count) = turn(&mut table).unwrap();
                *sent.entry(key.index).or_default() += count;
            }
            assert!(sent.len() == keys.len() && sent.values().all(|cells| *cells == round * QUANTUM_CELLS));
        }
        let rest: usize = std::iter::from_fn(|| turn(&mut table)).map(|(_, count)| count).sum();
        assert_eq!(rest, keys.len() * 6 * QUANTUM_CELLS);
        assert!(table.next_turn().is_none() && !table.has_turns() && table.waiting_cells() == 0);
    }

    #[test]
    fn one_that_is_in_both_lists_counts_once() {
        let (mut table, keys) = table();
        give(&mut table, keys[0], 1);
        assert_eq!(turn(&mut table), Some((keys[0], 1)));
        give(&mut table, keys[0], 2);
        assert_eq!((table.quiet.len(), table.busy.len(), table.waiting_cells()), (1, 1, 2));
        assert_eq!((turn(&mut table), turn(&mut table)), (Some((keys[0], 2)), None));
        assert!(!table.has_turns() && table.get(keys[0]).unwrap().turn == Turn::None);
    }
}
