//! Machines on circuits: at the client's end, and at a relay that a circuit passes (docs/protocol.md §11.6).
//!
//! At a relay they run where cells towards the client wait, on the client's side. Their padding is sealed on the other
//! channel, which has the backward layer, and waits in the same line as everything else, so nobody between can tell it.
//! Nothing here runs for a circuit without machines; of those, only cells are counted.

use std::collections::BTreeSet;
use std::time::Instant;

use maybenot::TriggerEvent;

use super::Channel;
use super::inbox::CircKey;
use super::mail::Mail;
use super::table::{Circuit, Kind};
use crate::circuit::{Asides, CircuitShared, SPARE_CELLS, Violation};
use crate::counters::Incident;
use crate::flow::Reservation;
use crate::ids::CircId;
use crate::message::Code;
use crate::padding::runner::{End, Room, Runner};
use crate::padding::{Account, Asker, Grant, MachineSpec, Meter, Refusal};

/// `DROP` and `LOOP` that a client may send to one relay of a circuit without a machine: more than one each second for as
/// long as circuits live.
const FREE_COVER: u32 = 16_384;
/// Cells that a relay adds to the queue of a circuit without machines, answers to its client; more are given up. Nothing is
/// reserved for them: they are as many as an idle circuit has reserved of its window.
pub(super) const FREE_ADDED: u32 = 16;
/// The same for `DROP`, on a circuit with machines, which has so much reserved in the budget of the process.
const MAX_ADDED: u32 = 160;
/// The data of `PADDED` that agrees.
const AGREED: [u8; 1] = [0];
/// What the states of machines take, in cells: FRONT has the most.
const STATES: u32 = 256;
/// A relay makes no padding while so many cells wait towards the client: what was added must never come near the bound above.
const MAX_QUEUED: usize = 64;

/// The machines of one end of a circuit, and what happened since they were told last.
pub(super) struct Padder {
    runner: Runner,
    /// Relay: what the client may send, and what the relay has set aside.
    received: Option<(Meter, Grant, Reservation)>,
    came: usize,
    came_padding: usize,
    queued: usize,
    went: usize,
    /// Relay: padding that was ever made.
    made: u64,
    /// Relay: padding that is being sealed. Client: cells that the machines were told of before they were written.
    ahead: usize,
    is_noted: bool,
    armed: Option<Instant>,
    /// Relay: what may go waits for padding that is being sealed, so that a tick is written in one piece. Written in two, the
    /// sizes of packets would tell how much of it is padding.
    gate: bool,
}

impl Padder {
    fn new(runner: Runner, received: Option<(Meter, Grant, Reservation)>) -> Box<Padder> {
        Box::new(Padder {
            runner,
            received,
            came: 0,
            came_padding: 0,
            queued: 0,
            went: 0,
            made: 0,
            ahead: 0,
            is_noted: false,
            armed: None,
            gate: false,
        })
    }

    /// How many of this many cells may go now.
    pub(super) fn may_send(&self, cells: usize) -> usize {
        if self.gate { 0 } else { self.runner.may_send(cells) }
    }

    /// So many cells of the circuit were written, some of them padding that the machines know of.
    pub(super) fn went(&mut self, now: Instant, cells: usize, padding: usize, is_origin: bool) {
        self.went += cells;
        self.runner.sent(cells, now);
        // At a relay all that is no padding was noted when it queued.
        if is_origin {
            let others = cells.saturating_sub(padding);
            self.queued += others.saturating_sub(self.ahead);
            self.ahead = self.ahead.saturating_sub(others);
        }
    }

    /// A cell came from the peer.
    pub(super) fn came(&mut self, is_padding: bool) {
        self.came += usize::from(!is_padding);
        self.came_padding += usize::from(is_padding);
    }

    /// Relay: a cell towards the client has queued.
    pub(super) fn queued(&mut self) {
        if self.ahead > 0 {
            self.no_longer_ahead(1);
        } else {
            self.queued += 1;
        }
    }

    fn no_longer_ahead(&mut self, cells: usize) {
        self.ahead = self.ahead.saturating_sub(cells);
        self.gate &= self.ahead > 0;
    }

    /// Relay: what is counted of a circuit of which so many cells came and went.
    fn account(&self, relayed: u64) -> Account {
        Account {
            others: relayed.saturating_sub(self.made),
            forward: self.received.as_ref().map_or(0, |(meter, ..)| meter.padding()),
            backward: self.made,
        }
    }

    /// Client: something waits to be written that the machines may not know of.
    fn announce(&mut self) {
        if self.ahead == 0 {
            self.ahead = 1;
            self.queued += 1;
        }
    }

    fn settle(&mut self, now: Instant, account: Account, room: Room) {
        use TriggerEvent::{NormalRecv, NormalSent, PaddingRecv, TunnelRecv, TunnelSent};
        let (came, padding) = (std::mem::take(&mut self.came), std::mem::take(&mut self.came_padding));
        let (queued, went) = (std::mem::take(&mut self.queued), std::mem::take(&mut self.went));
        self.is_noted = false;
        let is_relay = self.received.is_some();
        self.runner.account(account.others, if is_relay { account.backward } else { account.forward });
        for (event, count) in [
            (TunnelRecv, came + padding),
            (NormalRecv, came),
            (PaddingRecv, padding),
            (NormalSent, queued),
            (TunnelSent, went),
        ] {
            self.runner.trigger(&event, count, now);
        }
        self.runner.handle_timeout(now, room);
    }
}

/// Circuits with machines.
#[derive(Default)]
pub(super) struct Machines {
    timers: BTreeSet<(Instant, CircKey)>,
    /// To be told what happened.
    noted: Vec<CircKey>,
    /// Those that begin here.
    origins: Vec<CircKey>,
    /// How many there are.
    count: usize,
}

impl Machines {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Notes that something happened on a circuit, if it has machines.
    pub(super) fn note(
        &mut self,
        key: CircKey,
        padder: &mut Option<Box<Padder>>,
        what: impl FnOnce(&mut Padder),
    ) {
        let Some(padder) = padder else { return };
        what(padder);
        if !std::mem::replace(&mut padder.is_noted, true) {
            self.noted.push(key);
        }
    }

    /// The timers that have expired, taken out.
    fn take_due(&mut self, now: Instant) -> Vec<(Instant, CircKey)> {
        let due = self.timers.iter().take_while(|(at, _)| *at <= now).copied().collect::<Vec<_>>();
        due.iter().for_each(|timer| {
            self.timers.remove(timer);
        });
        due
    }

    /// The circuit has ended or changed.
    pub(super) fn forget(&mut self, key: CircKey, circuit: &mut Circuit) {
        let Some(padder) = circuit.padder.take() else { return };
        self.count -= 1;
        if let Some(at) = padder.armed {
            self.timers.remove(&(at, key));
        }
    }
}

impl Circuit {
    fn account(&self) -> Account {
        match (&self.kind, &self.padder) {
            (Kind::Origin(origin), _) => origin.asides.account(),
            (_, Some(padder)) => padder.account(self.relayed),
            _ => Account::default(),
        }
    }
}

impl Channel {
    /// What is counted of the circuits with machines.
    pub fn machine_accounts(&self) -> Vec<(CircId, Account)> {
        let circuits = self.table.keys().into_iter().filter_map(|key| self.table.get(key));
        circuits
            .filter(|circuit| circuit.padder.is_some())
            .map(|circuit| (circuit.id, circuit.account()))
            .collect()
    }

    /// Relay: the client of a circuit that passes here wants machines.
    pub(super) fn asked_for_machines(
        &mut self,
        now: Instant,
        key: CircKey,
        spec: Result<MachineSpec, Refusal>,
    ) -> Result<(), Violation> {
        let seed = self.new_seed();
        let Some(circuit) = self.table.get_mut(key) else { return Ok(()) };
        let (Kind::Outward { link, .. }, None) = (&circuit.kind, &circuit.padder) else {
            return Err(Violation::State);
        };
        // A client that was refused may ask again, but not for ever.
        circuit.cover += 1;
        if circuit.cover > FREE_COVER {
            return Err(Violation::Padding);
        }
        // Its other half is gone: nobody is left to seal what machines send. The client may not know that yet.
        if circuit.ending {
            return Ok(());
        }
        let subnet = self.padding.subnet();
        let asker = if self.config.peer.id.is_none() || subnet.is_some() {
            Asker::Client { count: self.machines.count, subnet }
        } else {
            Asker::Relayed
        };
        let made = spec.and_then(|spec| {
            let limits = self.padding.limits().ok_or(Refusal::NotOffered)?;
            let grant = limits.grant(&spec, asker)?;
            let memory =
                Reservation::spare(&self.config.budget, MAX_ADDED + STATES).ok_or(Refusal::Exhausted)?;
            let meter = Meter::with_spare(spec.forward, SPARE_CELLS);
            let runner = Runner::new(spec, End::Relay, seed, now).map_err(|_| Refusal::BadParameters)?;
            Ok(Padder::new(runner, Some((meter, grant, memory))))
        });
        let answer = made.as_ref().err().map_or(AGREED, |refusal| [*refusal as u8]);
        link.tell(Mail::Add(link.key, Code::Padded, answer.to_vec(), 1));
        match made {
            Ok(mut padder) => {
                // The answer is no traffic that machines should act on.
                padder.ahead = 1;
                circuit.padder = Some(padder);
                self.machines.count += 1;
            }
            Err(_) => self.config.counters.count(Incident::MachinesRefused),
        }
        Ok(())
    }

    /// Relay: cover traffic for this hop. `LOOP` is answered.
    pub(super) fn covered(&mut self, key: CircKey, is_loop: bool) -> Result<(), Violation> {
        let Some(circuit) = self.table.get_mut(key) else { return Ok(()) };
        circuit.relayed -= u64::from(!is_loop);
        let relayed = circuit.relayed;
        let padder = circuit.padder.as_mut().filter(|_| !is_loop);
        let agreed = padder.is_some_and(|padder| {
            let others = padder.account(relayed).others;
            padder.received.as_mut().is_some_and(|(meter, ..)| {
                meter.set_others(others);
                meter.take()
            })
        });
        if !agreed {
            circuit.cover += 1;
            if circuit.cover > FREE_COVER {
                return Err(Violation::Padding);
            }
        }
        match &mut circuit.kind {
            Kind::Outward { link, .. } | Kind::Extending { link: Some(link), .. } if is_loop => {
                link.tell(Mail::Add(link.key, Code::Looped, Vec::new(), 1));
            }
            Kind::Extending { loops, .. } if is_loop => *loops = (*loops + 1).min(FREE_ADDED),
            Kind::Endpoint(endpoint) if is_loop => endpoint.streams.send_aside(Code::Looped),
            Kind::Outward { .. } => self.machines.note(key, &mut circuit.padder, |padder| padder.came(true)),
            _ => {}
        }
        if is_loop {
            self.table.activate(key);
        }
        Ok(())
    }

    /// The other half of a circuit wants cells for the client from this relay.
    pub(super) fn add_cells(&mut self, key: CircKey, code: Code, data: &[u8], count: usize) {
        let Some(circuit) = self.table.get_mut(key) else { return };
        let (Kind::Inward { sealer, link } | Kind::Asked { sealer, back: link, .. }) = &mut circuit.kind
        else {
            // Whoever asked is being told that the circuit ends, and its machines end with that.
            return;
        };
        // A client that is not told of machines that run would end the circuit at their first `DROP`. It is told once.
        let is_agreed = code == Code::Padded && data == AGREED;
        let most = match code {
            _ if is_agreed => u32::MAX,
            // Only circuits with machines get it.
            Code::Drop => MAX_ADDED,
            _ => FREE_ADDED,
        };
        let (mut cells, mut failed) = (Vec::with_capacity(count), None);
        for _ in 0..count {
            if circuit.added >= most {
                self.config.counters.count(Incident::Resources);
                break;
            }
            match super::control::sealed_message(sealer, link.circ, code, data) {
                Ok(cell) => cells.push(cell),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
            circuit.added += 1;
        }
        circuit.is_prompt |= is_agreed;
        link.inbox.push_cells(cells.iter().map(|cell| (link.key, cell)));
        if cells.len() < count {
            link.tell(Mail::NotAdded(link.key, code, count - cells.len()));
        }
        if let Some(error) = failed {
            self.violated(key, error.into());
        }
    }

    /// Cells that were to be added to this circuit were given up.
    pub(super) fn not_added(&mut self, key: CircKey, code: Code, cells: usize) {
        let padder = self.table.get_mut(key).and_then(|circuit| circuit.padder.as_mut());
        // `LOOPED` is nothing that machines wait for.
        if let Some(padder) = padder.filter(|_| code != Code::Looped) {
            padder.made -= if code == Code::Drop { cells as u64 } else { 0 };
            padder.no_longer_ahead(cells);
            self.table.activate(key);
        }
    }

    /// The other half of a circuit has sent cells of this one. Those that were added here have no credit to give back.
    pub(super) fn passed(&mut self, now: Instant, key: CircKey, cells: u32) {
        let Some(circuit) = self.table.get_mut(key) else { return };
        let added = circuit.added.min(cells);
        circuit.added -= added;
        if cells > added {
            self.consumed(now, key, cells - added);
        }
    }

    /// Client: something for single hops of a circuit.
    pub(super) fn tell_asides<T>(
        &mut self,
        circuit: &CircuitShared,
        tell: impl FnOnce(&mut Asides) -> T,
    ) -> Option<T> {
        let key = circuit.place()?;
        let Kind::Origin(origin) = &mut self.table.get_mut(key)?.kind else { return None };
        let told = tell(&mut origin.asides);
        self.table.activate(key);
        Some(told)
    }

    /// Client: hops have answered.
    fn start_machines(&mut self, now: Instant, key: CircKey) {
        let seed = self.new_seed();
        let Some(circuit) = self.table.get_mut(key) else { return };
        let Kind::Origin(origin) = &mut circuit.kind else { return };
        match origin.asides.take_answer() {
            None => {}
            Some(Err(refusal)) => self.padding.refused(refusal),
            Some(Ok(spec)) => match Runner::new(spec, End::Client, seed, now) {
                Ok(runner) => {
                    circuit.padder = Some(Padder::new(runner, None));
                    circuit.window.grant_seldom();
                    self.machines.count += 1;
                    self.machines.origins.push(key);
                }
                Err(_) => self.config.counters.count(Incident::Resources),
            },
        }
    }

    fn new_seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.config.rng.fill_bytes(&mut seed);
        seed
    }

    /// Tells machines what happened, and does what they want.
    pub(super) fn settle_machines(&mut self, now: Instant) {
        for key in std::mem::take(&mut self.scratch.answered) {
            self.start_machines(now, key);
        }
        if self.machines.noted.is_empty() && self.machines.origins.is_empty() {
            return;
        }
        let mut origins = std::mem::take(&mut self.machines.origins);
        origins.retain(|key| self.announce_output(*key));
        self.machines.origins = origins;
        let mut noted = std::mem::take(&mut self.machines.noted);
        noted.drain(..).for_each(|key| self.settle_one(now, key));
        self.machines.noted = noted;
    }

    pub(super) fn machines_timeout(&mut self, now: Instant) {
        // Each once: a machine that wants more at the same moment gets it with the next call.
        for (_, key) in self.machines.take_due(now) {
            if let Some(padder) = self.table.get_mut(key).and_then(|circuit| circuit.padder.as_mut()) {
                padder.armed = None;
            }
            self.settle_one(now, key);
        }
    }

    /// Client: tells the machines of a circuit that something waits. False if it has none any more.
    fn announce_output(&mut self, key: CircKey) -> bool {
        let Some(circuit) = self.table.get_mut(key) else { return false };
        let waits = matches!(&circuit.kind, Kind::Origin(origin) if origin.streams.has_output());
        if waits {
            self.machines.note(key, &mut circuit.padder, Padder::announce);
        }
        circuit.padder.is_some()
    }

    fn settle_one(&mut self, now: Instant, key: CircKey) {
        let Some(circuit) = self.table.get_mut(key) else { return };
        let (waiting, credit) = (circuit.waiting_cells(), circuit.credit.cells());
        let account = circuit.account();
        let Some(padder) = &mut circuit.padder else { return };
        let is_relay = padder.received.is_some();
        let is_full = is_relay && waiting + padder.ahead >= MAX_QUEUED;
        let room = Room { waiting, credit, is_full };
        padder.settle(now, account, room);
        let padding = padder.runner.take_padding();
        if padding > 0 {
            match &mut circuit.kind {
                Kind::Outward { link, .. } => {
                    padder.made += padding as u64;
                    padder.ahead += padding;
                    padder.gate = true;
                    link.tell(Mail::Add(link.key, Code::Drop, Vec::new(), padding));
                }
                Kind::Origin(origin) => {
                    origin.asides.pad(padding);
                }
                _ => {}
            }
        }
        self.padding.machines_sent(padding, padder.runner.take_given_up());
        let at = padder.runner.poll_timeout();
        if at != padder.armed {
            padder.armed.map(|before| self.machines.timers.remove(&(before, key)));
            at.map(|at| self.machines.timers.insert((at, key)));
            padder.armed = at;
        }
        self.table.activate(key);
    }
}
