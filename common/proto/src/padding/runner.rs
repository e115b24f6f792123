//! Runs the machines of one end of a circuit: events in, padding and holds out, on the time that it is given.
//!
//! 1. The circuit tells what was queued, sent and received; [`Runner::trigger`] gives it to the machines, which set timers.
//! 2. When one expires ([`Runner::poll_timeout`]), [`Runner::handle_timeout`] does what it was set for: a padding cell
//!    ([`Runner::take_padding`]), a hold on the circuit's cells ([`Runner::may_send`]), or its end.
//!
//! A timer that is late counts as if it had been in time, so that a rate is kept on a busy computer. What a hold kept waiting goes when it
//! ends, also where the next hold begins at once or, the timer being late, before there was time to send it.

use std::time::{Duration, Instant};

use maybenot::{Error, Framework, Machine, MachineId, Timer, TriggerAction, TriggerEvent};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use super::budget::Meter;
use super::machines;
use super::spec::MachineSpec;

/// Timers that one call handles; those that are left come with the next.
const MAX_STEPS: usize = 512;
/// How far behind the clock a timer may count; further behind, time is lost.
const MAX_LAG: Duration = Duration::from_millis(100);
/// The longest that a hold keeps waiting cells without letting one through. Then it ends, whatever the machine says.
const MAX_HOLD: Duration = Duration::from_secs(2);
/// Padding cells that may wait to be sent, as many as one tick of any machine has; more are given up.
const MAX_WAITING: usize = 64;
/// Machines that have ended begin again with the first cell after so much silence; those without budget sleep so long at the least.
const RESTART_AFTER: Duration = Duration::from_secs(2);
/// Machines whose budget is used up sleep until there is room for so many cells again, as one tick of any machine has at most.
const WAKE_CELLS: u64 = 64;
/// Machines whose peer grants no credit stand still until it does: after so many decisions in vain, one after the other, that took
/// so long at the least, which is longer than credit takes to come back.
const VAIN_DECISIONS: u32 = 256;
const VAIN_TIME: Duration = Duration::from_secs(2);

/// The randomness of machines, in the form that they take it.
pub(super) struct Generator(pub(super) ChaCha20Rng);

impl rand_core_09::RngCore for Generator {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}

/// Which end of the circuit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Client,
    Relay,
}

/// What the circuit could send now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Room {
    /// Cells that wait, padding included.
    pub(crate) waiting: usize,
    /// Cells that there is credit for.
    pub(crate) credit: usize,
    /// Too many wait for padding to be added.
    pub(crate) is_full: bool,
}

#[derive(Clone, Copy)]
enum Planned {
    Pad { bypass: bool, replace: bool },
    Hold { bypass: bool, replace: bool, duration: Duration },
}

#[derive(Clone, Copy, Default)]
struct Timers {
    action: Option<(Instant, Planned)>,
    own: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Hold {
    until: Instant,
    bypass: bool,
    /// When a cell was let through last.
    moved: Instant,
}

#[derive(Clone, Copy)]
enum Due {
    Action(usize),
    Own(usize),
    HoldEnds,
    HoldIsTooLong,
}

/// The machines of one end, and what they want.
pub(crate) struct Runner {
    spec: MachineSpec,
    end: End,
    framework: Framework<Vec<Machine>, Generator, Instant>,
    timers: Vec<Timers>,
    hold: Option<Hold>,
    /// Cells that may pass the hold.
    passes: usize,
    /// Padding cells to make.
    padding: usize,
    meter: Meter,
    /// For machines that begin again.
    reserve: ChaCha20Rng,
    last_event: Instant,
    given_up: u64,
    /// Since when, and how many times, there was no credit for what the machines wanted.
    in_vain: Option<(Instant, u32)>,
    /// Since when the machines have been asleep for want of budget.
    asleep: Option<Instant>,
    /// Since when their clock has stood still for want of credit. What they hold stays held.
    stalled: Option<Instant>,
    /// There was no credit when they were looked after last.
    lacks_credit: bool,
}

impl Runner {
    /// # Errors
    /// If the machines cannot be made from these parameters.
    pub(crate) fn new(spec: MachineSpec, end: End, seed: [u8; 32], now: Instant) -> Result<Runner, Error> {
        let mut reserve = ChaCha20Rng::from_seed(seed);
        let generator = Generator(ChaCha20Rng::from_rng(&mut reserve));
        let budget = if end == End::Client { spec.forward } else { spec.backward };
        let framework = framework(&spec, end, generator, now)?;
        Ok(Runner {
            timers: vec![Timers::default(); framework.num_machines()],
            framework,
            spec,
            end,
            hold: None,
            passes: 0,
            padding: 0,
            meter: Meter::new(budget),
            reserve,
            last_event: now,
            given_up: 0,
            in_vain: None,
            asleep: None,
            stalled: None,
            lacks_credit: false,
        })
    }

    /// What the budget is counted from: cells that are no padding, and padding of this end.
    pub(crate) fn account(&mut self, others: u64, padding: u64) {
        self.meter.set_others(others);
        self.meter.set_padding(padding);
    }

    /// How many of this many cells may go now.
    pub(crate) fn may_send(&self, cells: usize) -> usize {
        if self.hold.is_some() { cells.min(self.passes) } else { cells }
    }

    /// So many cells went.
    pub(crate) fn sent(&mut self, cells: usize, now: Instant) {
        self.passes = self.passes.saturating_sub(cells);
        if let Some(hold) = &mut self.hold {
            hold.moved = now;
        }
    }

    /// Padding cells to make now.
    pub(crate) fn take_padding(&mut self) -> usize {
        std::mem::take(&mut self.padding)
    }

    /// Padding cells that were wanted and not sent, for want of credit or budget.
    pub(crate) fn take_given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up)
    }

    /// Tells the machines, once for each of `count`.
    pub(crate) fn trigger(&mut self, event: &TriggerEvent, count: usize, now: Instant) {
        let silent = now.saturating_duration_since(self.last_event);
        if count > 0 {
            self.last_event = self.last_event.max(now);
        }
        let now = self.stalled.unwrap_or(now);
        match self.asleep {
            Some(since) if count > 0 => {
                let rested = now.saturating_duration_since(since) >= RESTART_AFTER;
                if !rested || self.meter.left() < WAKE_CELLS {
                    return;
                }
                self.restart(now);
            }
            Some(_) => return,
            None if count > 0 && silent >= RESTART_AFTER && self.framework.all_machines_ended() => {
                self.restart(now)
            }
            None => {}
        }
        for _ in 0..count {
            self.trigger_one(event, now);
        }
    }

    fn restart(&mut self, now: Instant) {
        let generator = Generator(ChaCha20Rng::from_rng(&mut self.reserve));
        if let Ok(framework) = framework(&self.spec, self.end, generator, now) {
            self.framework = framework;
            self.timers = vec![Timers::default(); self.framework.num_machines()];
            self.asleep = None;
        }
    }

    /// The budget is used up: the machines decide nothing more, lest that cost time for nothing, and hold nothing.
    fn sleep(&mut self, now: Instant) {
        self.timers.fill(Timers::default());
        (self.hold, self.passes, self.in_vain) = (None, 0, None);
        self.asleep = Some(now);
    }

    /// With the first credit, machines that stood still go on where they were. False while there is none.
    fn go_on(&mut self, now: Instant, room: Room) -> bool {
        let Some(since) = self.stalled.take_if(|_| room.credit > 0) else { return self.stalled.is_none() };
        let stood = now.saturating_duration_since(since);
        for timers in &mut self.timers {
            timers.action = timers.action.map(|(at, planned)| (at + stood, planned));
            timers.own = timers.own.map(|at| at + stood);
        }
        self.hold = self.hold.map(|hold| Hold { until: hold.until + stood, ..hold });
        true
    }

    fn trigger_one(&mut self, event: &TriggerEvent, now: Instant) {
        let actions = self.framework.trigger_events(std::slice::from_ref(event), now);
        let mut begun = Vec::new();
        for action in actions {
            let index = |machine: &MachineId| machine.into_raw();
            match action {
                TriggerAction::Cancel { machine, timer } => {
                    let Some(timers) = self.timers.get_mut(index(machine)) else { continue };
                    if *timer != Timer::Internal {
                        timers.action = None;
                    }
                    if *timer != Timer::Action {
                        timers.own = None;
                    }
                }
                TriggerAction::SendPadding { timeout, bypass, replace, machine } => {
                    let Some(timers) = self.timers.get_mut(index(machine)) else { continue };
                    let planned = Planned::Pad { bypass: *bypass, replace: *replace };
                    timers.action = Some((now + *timeout, planned));
                }
                TriggerAction::BlockOutgoing { timeout, duration, bypass, replace, machine } => {
                    let Some(timers) = self.timers.get_mut(index(machine)) else { continue };
                    let planned = Planned::Hold { bypass: *bypass, replace: *replace, duration: *duration };
                    timers.action = Some((now + *timeout, planned));
                }
                TriggerAction::UpdateTimer { duration, replace, machine } => {
                    let Some(timers) = self.timers.get_mut(index(machine)) else { continue };
                    let at = now + *duration;
                    if *replace || timers.own.is_none_or(|own| own < at) {
                        timers.own = Some(at);
                        begun.push(*machine);
                    }
                }
            }
        }
        for machine in begun {
            self.trigger_one(&TriggerEvent::TimerBegin { machine }, now);
        }
    }

    fn next(&self, room: Option<Room>) -> Option<(Instant, Due)> {
        if self.stalled.is_some() {
            return None;
        }
        let timers = self.timers.iter().enumerate().flat_map(|(n, timers)| {
            let action = timers.action.map(|(at, _)| (at, Due::Action(n)));
            [action, timers.own.map(|at| (at, Due::Own(n)))]
        });
        let holds = self.hold.map(|hold| {
            // Whether cells wait is not known when it is asked how long to sleep.
            let keeps = room.is_none_or(|room| room.waiting > 0);
            let too_long = keeps.then_some((hold.moved + MAX_HOLD, Due::HoldIsTooLong));
            [Some((hold.until, Due::HoldEnds)), too_long]
        });
        timers.chain(holds.into_iter().flatten()).flatten().min_by_key(|(at, _)| *at)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next(None).map(|(at, _)| at)
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant, room: Room) {
        let lacked_credit = std::mem::replace(&mut self.lacks_credit, room.credit == 0);
        if !self.go_on(now, room) {
            return;
        }
        // What has no credit is not kept by the hold.
        if (room.waiting == 0 || self.lacks_credit || lacked_credit)
            && let Some(hold) = &mut self.hold
        {
            hold.moved = now;
        }
        // What waited for a hold that has ended here.
        let mut freed = 0;
        for _ in 0..MAX_STEPS {
            let Some((at, due)) = self.next(Some(room)).filter(|(at, _)| *at <= now) else { return };
            let at = at.max(now.checked_sub(MAX_LAG).unwrap_or(at));
            match due {
                Due::Own(n) => {
                    self.timers[n].own = None;
                    self.trigger_one(&TriggerEvent::TimerEnd { machine: MachineId::from_raw(n) }, at);
                }
                Due::Action(n) => {
                    let Some((_, planned)) = self.timers[n].action.take() else { continue };
                    let machine = MachineId::from_raw(n);
                    match planned {
                        Planned::Pad { bypass, replace } => self.pad(machine, bypass, replace, at, room),
                        Planned::Hold { bypass, replace, duration } => {
                            self.hold(machine, bypass, replace, duration, at);
                            self.passes += std::mem::take(&mut freed);
                        }
                    }
                }
                Due::HoldEnds | Due::HoldIsTooLong => {
                    self.hold = None;
                    self.passes = 0;
                    freed = room.waiting;
                    self.trigger_one(&TriggerEvent::BlockingEnd, at);
                }
            }
        }
    }

    fn pad(&mut self, machine: MachineId, bypass: bool, replace: bool, at: Instant, room: Room) {
        let passes = self.hold.is_none_or(|hold| bypass && hold.bypass);
        let on_its_way = self.passes.max(self.padding);
        let has_credit = room.credit > on_its_way;
        // What may pass without credit would all go at once when credit comes.
        if replace && has_credit && room.waiting > on_its_way {
            self.in_vain = None;
            // A cell that waits takes its place; without a hold it goes anyway.
            if self.hold.is_some() && passes {
                self.passes += 1;
            }
        } else if passes && has_credit && !room.is_full && self.padding < MAX_WAITING && self.meter.take() {
            self.in_vain = None;
            self.padding += 1;
            if self.hold.is_some() {
                self.passes += 1;
            }
        } else {
            self.given_up += 1;
            if self.meter.left() == 0 {
                return self.sleep(at);
            }
            if room.credit == 0 && self.is_in_vain(at) {
                (self.stalled, self.in_vain) = (Some(at), None);
            }
            self.trigger_one(&TriggerEvent::TunnelSent, at);
        }
        self.trigger_one(&TriggerEvent::PaddingSent { machine }, at);
    }

    /// Counts one more decision in vain; whether that is enough of them.
    fn is_in_vain(&mut self, at: Instant) -> bool {
        let (since, count) = self.in_vain.get_or_insert((at, 0));
        *count += 1;
        *count >= VAIN_DECISIONS && at.saturating_duration_since(*since) >= VAIN_TIME
    }

    fn hold(&mut self, machine: MachineId, bypass: bool, replace: bool, duration: Duration, at: Instant) {
        let until = at + duration;
        let before = self.hold.filter(|_| !replace);
        let moved = self.hold.map_or(at, |hold| hold.moved);
        self.hold = Some(match before {
            Some(hold) => Hold { until: hold.until.max(until), ..hold },
            None => Hold { until, bypass, moved },
        });
        self.trigger_one(&TriggerEvent::BlockingBegin { machine }, at);
    }
}

fn framework(
    spec: &MachineSpec,
    end: End,
    mut generator: Generator,
    now: Instant,
) -> Result<Framework<Vec<Machine>, Generator, Instant>, Error> {
    let machines = match end {
        End::Client => machines::client(spec, &mut generator)?,
        End::Relay => machines::relay(spec, &mut generator)?,
    };
    // The budget is ours to keep: a cell that takes padding's place is none.
    Framework::new(machines, 0.0, 0.0, now, generator)
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Runner({}, {:?})", self.spec.kind.name(), self.end)
    }
}

#[cfg(test)]
mod tests;
