//! Our machines. An observer of the line sees nearly the same box for every load: while something is loaded, cells come at
//! one rate and go at another, and how many came in all is one of few classes, each so much larger than the one below.
//!
//! 1. The first cell that the relay has for the client begins a block. Through it the relay's *pace* lets so many cells each
//!    tick: waiting ones if there are, padding for the rest. The rate follows from how many cells were let through, from
//!    nothing else: as the first classes go by it stays, then it grows like the classes.
//! 2. *Backlog* watches whether cells wait, and signals when none have for a while.
//! 3. *Stop* counts cells. When a class is full in such a silence, it ends the block; otherwise the next class begins.
//! 4. The client paces what goes, after two small bursts, so that neither the connection nor the first request is held up,
//!    and stops when nothing has come for a while. Ticks that all had something to send let its rate grow, and a *lull*
//!    lets it fall again: an upload shows as one.

use enum_map::enum_map;
use maybenot::action::{Action, Timer};
use maybenot::constants::{MAX_SAMPLED_BLOCK_DURATION, STATE_SIGNAL};
use maybenot::counter::{Counter, Operation};
use maybenot::dist::{Dist, DistType};
use maybenot::event::Event;
use maybenot::state::{State, Trans};
use maybenot::{Error, Machine};

/// Classes of sizes; the last one repeats.
const CLASSES: usize = 10;
/// Rates of the client, and how many times the one below each is.
const LEVELS: usize = 4;
const LEVEL_GROWTH: f64 = 4.0;
/// Ticks without a lull after which the client's rate grows: with the usual figures, more than the requests of a page are. That a
/// page grew it would tell which one it is.
const PATIENCE_TICKS: u32 = 32;
/// The same once it has grown: it shows already that this is an upload.
const SURE_TICKS: u32 = 8;
/// A lull, in ticks: somebody who has more to send always has it within one.
const LULL_TICKS: f64 = 1.2;
/// The most cells of one tick.
const MAX_TICK_CELLS: f64 = 64.0;
const US_PER_MS: f64 = 1e3;

/// The parameters, in the order of the specification.
pub(super) struct Tunic {
    tick_us: f64,
    cells: f64,
    forward_tick_us: f64,
    forward_cells: f64,
    first_cells: f64,
    class_cells: f64,
    growth: f64,
    steady_classes: usize,
    quiet_us: f64,
}

impl Tunic {
    /// Reads them; what is missing is 0.
    pub(super) fn new(parameters: &[u32]) -> Tunic {
        let value = |n: usize| f64::from(parameters.get(n).copied().unwrap_or_default());
        Tunic {
            tick_us: value(0) * US_PER_MS,
            cells: value(1),
            forward_tick_us: value(2) * US_PER_MS,
            forward_cells: value(3),
            first_cells: value(4),
            class_cells: value(5),
            growth: value(6) / 1e3,
            steady_classes: value(7) as usize,
            quiet_us: value(8) * US_PER_MS,
        }
    }

    /// The client's machines.
    pub(super) fn client(&self) -> Result<Vec<Machine>, Error> {
        Ok(vec![self.client_pace()?, client_stop(self.quiet_us)?, lull(LULL_TICKS * self.forward_tick_us)?])
    }

    /// The relay's machines.
    pub(super) fn relay(&self) -> Result<Vec<Machine>, Error> {
        Ok(vec![self.relay_pace()?, self.relay_stop()?, backlog(self.quiet_us)?])
    }

    /// Cells of each tick and ticks of a class.
    fn class(&self, class: usize) -> (f64, f64) {
        let size = match class {
            0 => self.class_cells,
            _ => self.class_cells * self.growth.powi(class as i32 - 1) * (self.growth - 1.0),
        };
        let faster = self.growth.powi((class + 1).saturating_sub(self.steady_classes) as i32);
        let cells = (self.cells * faster).round().clamp(1.0, MAX_TICK_CELLS);
        (cells, (size.round() / cells).ceil().max(1.0))
    }

    fn relay_pace(&self) -> Result<Machine, Error> {
        const IDLE: usize = 0;
        let [begin, rest, next] = [2, 3, 4];
        let of = |class: usize, state: usize| state + 3 * class.min(CLASSES - 1);
        let mut states = idle_and_block(of(0, begin));
        for class in 0..CLASSES {
            let (cells, ticks) = self.class(class);
            let steps = Steps { idle: IDLE, rest: of(class, rest), next: of(class, next) };
            let wait = if class == 0 { 0.0 } else { self.tick_us };
            let mut begins = steps.tick(cells, wait);
            begins.counter.0 = Some(Counter::new_dist(Operation::Set, exactly(ticks)));
            let mut nexts = steps.tick(cells, self.tick_us);
            nexts.counter.0 = Some(Counter::new(Operation::Decrement));
            let nexts = with(nexts, Event::CounterZero, of(class + 1, begin));
            states.extend([begins, steps.rest(cells), nexts]);
        }
        machine(states)
    }

    fn client_pace(&self) -> Result<Machine, Error> {
        const IDLE: usize = 0;
        const FIRST: usize = 2;
        const OPEN: usize = 3;
        const SECOND: usize = 4;
        let [calm, begin, rest, next] = [5, 6, 7, 8];
        let of = |level: usize, state: usize| state + 4 * level.min(LEVELS - 1);
        let mut states = idle_and_block(FIRST);
        let burst = |then: usize, own: usize| {
            let mut burst = State::new(enum_map! {
                Event::PaddingSent => to(own),
                Event::LimitReached => to(then),
                Event::BlockingEnd => to(IDLE),
                _ => vec![],
            });
            burst.action = pad(0.0, Some(self.first_cells));
            burst
        };
        let open = State::new(enum_map! {
            Event::NormalSent => to(SECOND),
            Event::BlockingEnd => to(IDLE),
            _ => vec![],
        });
        states.extend([burst(OPEN, FIRST), open, burst(of(0, begin), SECOND)]);
        for level in 0..LEVELS {
            let cells = (self.forward_cells * LEVEL_GROWTH.powi(level as i32)).min(MAX_TICK_CELLS);
            let steps = Steps { idle: IDLE, rest: of(level, rest), next: of(level, next) };
            let lower = level.saturating_sub(1);
            let ticks = if level == 0 { PATIENCE_TICKS } else { SURE_TICKS };
            let patience = Some(Counter::new_dist(Operation::Set, exactly(f64::from(ticks))));
            let tick = || with(steps.tick(cells, self.forward_tick_us), Event::Signal, of(lower, calm));
            // Nothing waits any more: the level below counts anew, and the tick that is under way stays.
            let mut calms = tick();
            (calms.action, calms.counter.0) = (None, patience);
            let mut begins = tick();
            begins.counter.0 = patience;
            let rests = with(steps.rest(cells), Event::Signal, of(lower, calm));
            let mut nexts = tick();
            nexts.counter.0 = Some(Counter::new(Operation::Decrement));
            let nexts = with(nexts, Event::CounterZero, of(level + 1, begin));
            states.extend([calms, begins, rests, nexts]);
        }
        machine(states)
    }

    /// Counts the cells of one class after the other, and ends the block when one is full in a silence.
    fn relay_stop(&self) -> Result<Machine, Error> {
        const IDLE: usize = 0;
        const END: usize = 1;
        // Of each class: it begins; something came; a cell went; silence; a cell went in silence.
        let [begin, came, went, silent, trailing] = [2, 3, 4, 5, 6];
        let of = |class: usize, state: usize| state + 5 * class.min(CLASSES - 1);
        let mut end = State::new(enum_map! { Event::BlockingEnd => to(IDLE), _ => vec![] });
        end.action = block(0.0);
        let idle = State::new(enum_map! { Event::BlockingBegin => to(of(0, begin)), _ => vec![] });
        let mut states = vec![idle, end];
        for class in 0..CLASSES {
            let (cells, ticks) = self.class(class);
            let state = |sent: usize, full: Vec<Trans>| {
                State::new(enum_map! {
                    Event::TunnelSent => to(of(class, sent)),
                    Event::NormalSent => to(of(class, came)),
                    Event::Signal => to(of(class, silent)),
                    Event::CounterZero => full.clone(),
                    Event::BlockingEnd => to(IDLE),
                    _ => vec![],
                })
            };
            let mut begins = state(went, vec![]);
            begins.counter.0 = Some(Counter::new_dist(Operation::Set, exactly(cells * ticks)));
            let mut goes = state(went, to(of(class + 1, begin)));
            let mut trails = state(trailing, to(END));
            for counts in [&mut goes, &mut trails] {
                counts.counter.0 = Some(Counter::new(Operation::Decrement));
            }
            states.extend([begins, state(went, vec![]), goes, state(trailing, vec![]), trails]);
        }
        machine(states)
    }
}

/// The states of one rate: a tick's first cell, then the rest of them at once, then the next tick.
struct Steps {
    idle: usize,
    rest: usize,
    next: usize,
}

impl Steps {
    /// The first of so many cells, after this time.
    fn tick(&self, cells: f64, after_us: f64) -> State {
        let then = if cells > 1.0 { self.rest } else { self.next };
        let mut state = State::new(enum_map! {
            Event::PaddingSent => to(then),
            Event::BlockingEnd => to(self.idle),
            _ => vec![],
        });
        state.action = pad(after_us, None);
        state
    }

    /// The others.
    fn rest(&self, cells: f64) -> State {
        let mut state = State::new(enum_map! {
            Event::PaddingSent => to(self.rest),
            Event::LimitReached => to(self.next),
            Event::BlockingEnd => to(self.idle),
            _ => vec![],
        });
        state.action = pad(0.0, Some((cells - 1.0).max(1.0)));
        state
    }
}

/// Waits for something to be sent; blocks.
fn idle_and_block(then: usize) -> Vec<State> {
    const BLOCK: usize = 1;
    let idle = State::new(enum_map! { Event::NormalSent => to(BLOCK), _ => vec![] });
    let mut start = State::new(enum_map! { Event::BlockingBegin => to(then), _ => vec![] });
    start.action = block(MAX_SAMPLED_BLOCK_DURATION);
    vec![idle, start]
}

/// Ends the block when nothing came or went for so long.
fn client_stop(quiet_us: f64) -> Result<Machine, Error> {
    const IDLE: usize = 0;
    const BUSY: usize = 1;
    const END: usize = 2;
    let idle = State::new(enum_map! { Event::BlockingBegin => to(BUSY), _ => vec![] });
    let mut busy = State::new(enum_map! {
        Event::NormalSent | Event::TunnelRecv => to(BUSY),
        Event::TimerEnd => to(END),
        Event::BlockingEnd => to(IDLE),
        _ => vec![],
    });
    busy.action = timer(quiet_us);
    let mut end = State::new(enum_map! { Event::BlockingEnd => to(IDLE), _ => vec![] });
    end.action = block(0.0);
    machine(vec![idle, busy, end])
}

/// Signals when the client has had nothing of its own to send for so long, and again and again until it has.
fn lull(patience_us: f64) -> Result<Machine, Error> {
    const BUSY: usize = 1;
    const LULL: usize = 2;
    let idle = State::new(enum_map! { Event::NormalSent => to(BUSY), _ => vec![] });
    let mut busy = State::new(enum_map! {
        Event::NormalSent => to(BUSY),
        Event::TimerEnd => to(LULL),
        _ => vec![],
    });
    let mut lull = State::new(enum_map! {
        Event::NormalSent => to(BUSY),
        Event::TimerBegin => vec![Trans(STATE_SIGNAL, 1.0)],
        Event::TimerEnd => to(LULL),
        _ => vec![],
    });
    (busy.action, lull.action) = (timer(patience_us), timer(patience_us));
    machine(vec![idle, busy, lull])
}

/// Counts the cells that wait at the relay, and signals when there have been none for so long.
fn backlog(patience_us: f64) -> Result<Machine, Error> {
    const MORE: usize = 1;
    const LESS: usize = 2;
    const NONE: usize = 3;
    let idle = State::new(enum_map! { Event::NormalSent => to(MORE), _ => vec![] });
    let counts = |operation: Operation| {
        let mut state = State::new(enum_map! {
            Event::NormalSent => to(MORE),
            Event::TunnelSent => to(LESS),
            Event::CounterZero => to(NONE),
            _ => vec![],
        });
        // Padding that is on its way is counted too, so it is some cells early at most. The second counter: one event brings
        // each to zero only once, whichever machine it belongs to.
        state.counter.1 = Some(Counter::new(operation));
        state
    };
    let mut more = counts(Operation::Increment);
    more.action = Some(Action::Cancel { timer: Timer::Internal });
    let mut none = State::new(enum_map! {
        Event::NormalSent => to(MORE),
        Event::TimerEnd => vec![Trans(STATE_SIGNAL, 1.0)],
        _ => vec![],
    });
    none.action = timer(patience_us);
    machine(vec![idle, more, counts(Operation::Decrement), none])
}

fn exactly(value: f64) -> Dist {
    Dist::new(DistType::Uniform { low: value, high: value }, 0.0, 0.0)
}

fn to(state: usize) -> Vec<Trans> {
    vec![Trans(state, 1.0)]
}

/// The same state with one transition more.
fn with(state: State, event: Event, target: usize) -> State {
    let mut transitions = state.get_transitions();
    transitions[event] = to(target);
    let mut more = State::new(transitions);
    (more.action, more.counter) = (state.action, state.counter);
    more
}

fn block(duration_us: f64) -> Option<Action> {
    let (timeout, duration) = (exactly(0.0), exactly(duration_us));
    Some(Action::BlockOutgoing { bypass: true, replace: true, timeout, duration, limit: None })
}

fn pad(after_us: f64, limit: Option<f64>) -> Option<Action> {
    let (timeout, limit) = (exactly(after_us), limit.map(exactly));
    Some(Action::SendPadding { bypass: true, replace: true, timeout, limit })
}

fn timer(duration_us: f64) -> Option<Action> {
    Some(Action::UpdateTimer { replace: true, duration: exactly(duration_us), limit: None })
}

fn machine(states: Vec<State>) -> Result<Machine, Error> {
    Machine::new(u64::MAX, 0.0, u64::MAX, 0.0, states)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_grow_and_later_ones_are_faster() {
        let tunic = Tunic::new(&[20, 5, 60, 2, 2, 600, 1_600, 2, 300]);
        let classes: Vec<_> = (0..4).map(|class| tunic.class(class)).collect();
        assert_eq!(classes, [(5.0, 120.0), (5.0, 72.0), (8.0, 72.0), (13.0, 71.0)]);
        assert_eq!(tunic.class(CLASSES - 1).0, MAX_TICK_CELLS);
    }
}
