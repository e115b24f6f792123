//! What the client sends to single hops of its circuit besides streams: cover traffic, and the question for machines
//! (docs/protocol.md §11.6 and §11.7).

use std::collections::VecDeque;

use super::Violation;
use crate::ids::HopNum;
use crate::message::Code;
use crate::padding::{Account, MachineSpec, Meter, Refusal};

/// Hops that a circuit can have.
const HOPS: usize = HopNum::MAX.index() + 1;
/// Messages that may wait; cover traffic beyond them is given up.
const MAX_WAITING: usize = 64;
/// Padding cells that a relay may be ahead of what was agreed on: it sees cells before the client does.
pub(crate) const SPARE_CELLS: u32 = 256;

/// Cover traffic of one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cover {
    /// It ends at the hop.
    Drop,
    /// The hop sends a cell back.
    Loop,
}

enum Agreement {
    None,
    Asked(HopNum, MachineSpec),
    Agreed(HopNum),
}

/// What the client says to single hops, and what these may send without a stream.
pub(crate) struct Asides {
    queue: VecDeque<(HopNum, Code, Vec<u8>)>,
    /// Loops that have not come back, by hop.
    loops: [u32; HOPS],
    agreement: Agreement,
    /// A machine that the hop has agreed to and nobody runs yet.
    agreed: Option<MachineSpec>,
    refused: Option<Refusal>,
    received: Option<Meter>,
    /// By hop: `RELAY` cells that were sealed for it or came from it, and `DROP` among them.
    relayed: [u64; HOPS],
    drops: [u64; HOPS],
    /// By hop: `DROP` that were ever queued for it.
    queued_drops: [u64; HOPS],
    /// How many of them were before the question for a machine.
    before_asked: u64,
}

impl Asides {
    pub(crate) fn new() -> Asides {
        Asides {
            queue: VecDeque::new(),
            loops: [0; HOPS],
            agreement: Agreement::None,
            agreed: None,
            refused: None,
            received: None,
            relayed: [0; HOPS],
            drops: [0; HOPS],
            queued_drops: [0; HOPS],
            before_asked: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Asks a hop for a machine; once for each circuit.
    pub(crate) fn ask(&mut self, hop: HopNum, spec: MachineSpec) {
        if matches!(self.agreement, Agreement::None) {
            self.queue.push_back((hop, Code::Pad, spec.encode()));
            self.before_asked = self.queued_drops[hop.index()];
            self.agreement = Agreement::Asked(hop, spec);
        }
    }

    /// Sends cover traffic; false if too much waits already.
    pub(crate) fn cover(&mut self, hop: HopNum, cover: Cover) -> bool {
        let has_room = self.queue.len() < MAX_WAITING;
        if has_room {
            let code = match cover {
                Cover::Drop => Code::Drop,
                Cover::Loop => Code::Loop,
            };
            self.loops[hop.index()] += u32::from(cover == Cover::Loop);
            self.queued_drops[hop.index()] += u64::from(cover == Cover::Drop);
            self.queue.push_back((hop, code, Vec::new()));
        }
        has_room
    }

    /// Padding for the hop that a machine runs with.
    pub(crate) fn pad(&mut self, cells: usize) -> usize {
        let Agreement::Agreed(hop) = self.agreement else { return 0 };
        (0..cells).take_while(|_| self.cover(hop, Cover::Drop)).count()
    }

    pub(crate) fn next(&mut self) -> Option<(HopNum, Code, Vec<u8>)> {
        self.queue.pop_front()
    }

    /// Whether [`Asides::take_answer`] has something.
    pub(crate) fn has_answer(&self) -> bool {
        self.agreed.is_some() || self.refused.is_some()
    }

    /// What a machine was agreed on for, or why not, once.
    pub(crate) fn take_answer(&mut self) -> Option<Result<MachineSpec, Refusal>> {
        self.agreed.take().map(Ok).or_else(|| self.refused.take().map(Err))
    }

    pub(crate) fn answered(&mut self, hop: HopNum, answer: Result<(), Refusal>) -> Result<(), Violation> {
        match std::mem::replace(&mut self.agreement, Agreement::None) {
            Agreement::Asked(asked, spec) if asked == hop => {
                match answer {
                    Ok(()) => {
                        self.agreement = Agreement::Agreed(hop);
                        self.received = Some(Meter::with_spare(spec.backward, SPARE_CELLS));
                        self.agreed = Some(spec);
                    }
                    Err(refusal) => self.refused = Some(refusal),
                }
                Ok(())
            }
            _ => Err(Violation::State),
        }
    }

    /// A `DROP` came back. Nobody may signal with them: they are legal from the hop that pads, within what was agreed on.
    pub(crate) fn dropped(&mut self, hop: HopNum) -> Result<(), Violation> {
        let others = self.others(hop);
        match (&self.agreement, &mut self.received) {
            (Agreement::Agreed(agreed), Some(meter)) if *agreed == hop => {
                meter.set_others(others);
                if meter.take() { Ok(()) } else { Err(Violation::Padding) }
            }
            _ => Err(Violation::State),
        }
    }

    /// A loop came back.
    pub(crate) fn looped(&mut self, hop: HopNum) -> Result<(), Violation> {
        let loops = &mut self.loops[hop.index()];
        *loops = loops.checked_sub(1).ok_or(Violation::State)?;
        Ok(())
    }

    /// A cell was sealed for this hop, or came from it.
    pub(crate) fn relayed(&mut self, hop: HopNum, is_drop: bool) {
        self.relayed[hop.index()] += 1;
        self.drops[hop.index()] += u64::from(is_drop);
    }

    /// Cells that this hop has seen, without `DROP` between it and the client.
    fn others(&self, hop: HopNum) -> u64 {
        self.relayed[hop.index()..].iter().sum::<u64>() - self.drops[hop.index()]
    }

    /// What the budgets of the machine that was agreed on are counted from.
    pub(crate) fn account(&self) -> Account {
        let Agreement::Agreed(hop) = self.agreement else { return Account::default() };
        Account {
            others: self.others(hop),
            forward: self.queued_drops[hop.index()] - self.before_asked,
            backward: self.received.as_ref().map_or(0, Meter::padding),
        }
    }
}
