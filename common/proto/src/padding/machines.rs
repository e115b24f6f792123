//! The machines, made from their parameters: those of the `maybenot-machines` crate, and ours.
//!
//! Ours, `tunic`, shows an observer of the line the same box for every load: while something is loaded, cells come at one
//! rate and go at another, and how many came in all is one of few classes, each so much larger than the one below.
//!
//! 1. The relay's first cell of a load begins a block, through which the pace lets one cell at a time: a waiting one if
//!    there is one, padding otherwise.
//! 2. A second machine counts cells. When a class is full and nothing new came for a while, it ends the block; otherwise
//!    the next class begins.
//! 3. The client does the same at its rate, after a few cells at once so that the request is not held up, until nothing
//!    has come for as long.

use enum_map::enum_map;
use maybenot::action::Action;
use maybenot::constants::MAX_SAMPLED_BLOCK_DURATION;
use maybenot::counter::{Counter, Operation};
use maybenot::dist::{Dist, DistType};
use maybenot::event::Event;
use maybenot::state::{State, Trans};
use maybenot::{Error, Machine};
use maybenot_machines::{break_pad, front, interspace, regulator, tamaraw};

use super::spec::{MachineKind, MachineSpec};

/// Classes of sizes; the last one repeats.
const CLASSES: usize = 16;
/// States that approximate FRONT's distribution.
const FRONT_STATES: usize = 200;
/// Steps that approximate RegulaTor's decay.
const REGULATOR_STEPS: usize = 20;
const US_PER_S: f64 = 1e6;
const US_PER_MS: f64 = 1e3;

/// The client's machines.
pub(super) fn client(spec: &MachineSpec, rng: &mut dyn rand_core_09::RngCore) -> Result<Vec<Machine>, Error> {
    let value = |n: usize| f64::from(spec.parameters.get(n).copied().unwrap_or_default());
    let mut rng = rng;
    Ok(match spec.kind {
        MachineKind::Tunic => {
            vec![pace(US_PER_S / value(1), value(2))?, client_stop(value(5) * US_PER_MS)?]
        }
        MachineKind::Front => {
            let (from, to) = (value(2) * US_PER_MS, value(3) * US_PER_MS);
            front::front(value(0) as u32, from, to, FRONT_STATES, &mut rng)
        }
        MachineKind::Regulator => regulator::regulator_client(value(4) / 1e3, value(5) / 1e3),
        MachineKind::Tamaraw => tamaraw::tamaraw(value(0) / US_PER_S, value(2) * US_PER_MS),
        MachineKind::Interspace => interspace::interspace_client(&mut rng),
        MachineKind::BreakPad => break_pad::break_pad_client(),
    })
}

/// The relay's machines.
pub(super) fn relay(spec: &MachineSpec, rng: &mut dyn rand_core_09::RngCore) -> Result<Vec<Machine>, Error> {
    let value = |n: usize| f64::from(spec.parameters.get(n).copied().unwrap_or_default());
    let mut rng = rng;
    Ok(match spec.kind {
        MachineKind::Tunic => vec![
            pace(US_PER_S / value(0), 1.0)?,
            relay_stop(value(3), value(4) / 1e3, value(5) * US_PER_MS)?,
        ],
        MachineKind::Front => {
            let (from, to) = (value(2) * US_PER_MS, value(3) * US_PER_MS);
            front::front(value(1) as u32, from, to, FRONT_STATES, &mut rng)
        }
        MachineKind::Regulator => {
            let (rate, decay, surge) = (value(0), value(1) / 1e3, value(2) / 1e3);
            regulator::regulator_server(rate, decay, surge, value(3), REGULATOR_STEPS)
        }
        MachineKind::Tamaraw => tamaraw::tamaraw(value(1) / US_PER_S, value(2) * US_PER_MS),
        MachineKind::Interspace => interspace::interspace_server(&mut rng),
        MachineKind::BreakPad => break_pad::break_pad_server(),
    })
}

fn exactly(value: f64) -> Dist {
    Dist::new(DistType::Uniform { low: value, high: value }, 0.0, 0.0)
}

fn to(state: usize) -> Vec<Trans> {
    vec![Trans(state, 1.0)]
}

fn block(duration_us: f64) -> Option<Action> {
    let (timeout, duration) = (exactly(0.0), exactly(duration_us));
    Some(Action::BlockOutgoing { bypass: true, replace: true, timeout, duration, limit: None })
}

fn pad(after_us: f64, limit: Option<f64>) -> Option<Action> {
    let (timeout, limit) = (exactly(after_us), limit.map(exactly));
    Some(Action::SendPadding { bypass: true, replace: true, timeout, limit })
}

fn machine(states: Vec<State>) -> Result<Machine, Error> {
    Machine::new(u64::MAX, 0.0, u64::MAX, 0.0, states)
}

/// Blocks when something is sent, and lets one cell through each interval, after so many at once.
fn pace(interval_us: f64, at_once: f64) -> Result<Machine, Error> {
    const IDLE: usize = 0;
    const BLOCK: usize = 1;
    const BURST: usize = 2;
    const PACE: usize = 3;
    let idle = State::new(enum_map! { Event::NormalSent => to(BLOCK), _ => vec![] });
    let mut start = State::new(enum_map! { Event::BlockingBegin => to(BURST), _ => vec![] });
    start.action = block(MAX_SAMPLED_BLOCK_DURATION);
    let mut burst = State::new(enum_map! {
        Event::PaddingSent => to(BURST),
        Event::LimitReached => to(PACE),
        Event::BlockingEnd => to(IDLE),
        _ => vec![],
    });
    burst.action = pad(0.0, Some(at_once));
    let mut paced = State::new(enum_map! {
        Event::PaddingSent => to(PACE),
        Event::BlockingEnd => to(IDLE),
        _ => vec![],
    });
    paced.action = pad(interval_us, None);
    machine(vec![idle, start, burst, paced])
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
    busy.action = Some(Action::UpdateTimer { replace: true, duration: exactly(quiet_us), limit: None });
    let mut end = State::new(enum_map! { Event::BlockingEnd => to(IDLE), _ => vec![] });
    end.action = block(0.0);
    machine(vec![idle, busy, end])
}

/// Counts the cells of one class after the other, and ends the block when one is full after a silence.
fn relay_stop(first: f64, growth: f64, quiet_us: f64) -> Result<Machine, Error> {
    const IDLE: usize = 0;
    const END: usize = 1;
    // Of each class: it begins; something came; a cell went while busy; silence; a cell went in silence.
    let [begin, came, busy, quiet, trailing] = [2, 3, 4, 5, 6];
    let of = |class: usize, state: usize| state + 5 * class.min(CLASSES - 1);
    let timer = Some(Action::UpdateTimer { replace: true, duration: exactly(quiet_us), limit: None });
    let mut end = State::new(enum_map! { Event::BlockingEnd => to(IDLE), _ => vec![] });
    end.action = block(0.0);
    let idle = State::new(enum_map! { Event::BlockingBegin => to(of(0, begin)), _ => vec![] });
    let mut states = vec![idle, end];
    for class in 0..CLASSES {
        let size = match class {
            0 => first,
            class => first * growth.powi(class as i32) - first * growth.powi(class as i32 - 1),
        };
        let at = |state| to(of(class, state));
        let while_busy = |full: Vec<Trans>| {
            State::new(enum_map! {
                Event::TunnelSent => at(busy),
                Event::NormalSent => at(came),
                Event::TimerEnd => at(quiet),
                Event::CounterZero => full.clone(),
                Event::BlockingEnd => to(IDLE),
                _ => vec![],
            })
        };
        let in_silence = |full: Vec<Trans>| {
            State::new(enum_map! {
                Event::TunnelSent => at(trailing),
                Event::NormalSent => at(came),
                Event::CounterZero => full.clone(),
                Event::BlockingEnd => to(IDLE),
                _ => vec![],
            })
        };
        let mut begins = while_busy(vec![]);
        begins.counter.0 = Some(Counter::new_dist(Operation::Set, exactly(size.round().max(1.0))));
        if class == 0 {
            begins.action = timer;
        }
        let mut comes = while_busy(vec![]);
        comes.action = timer;
        let mut goes = while_busy(to(of(class + 1, begin)));
        goes.counter.0 = Some(Counter::new(Operation::Decrement));
        let silent = in_silence(vec![]);
        let mut trails = in_silence(to(END));
        trails.counter.0 = Some(Counter::new(Operation::Decrement));
        states.extend([begins, comes, goes, silent, trails]);
    }
    machine(states)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::padding::{Budget, MachineSpec};
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn every_machine_can_be_made_at_the_ends_of_its_ranges() {
        let budget = Budget { cells: 1, percent: 1 };
        for kind in MachineKind::ALL {
            let parameters = kind.parameters();
            let ends = [
                parameters.iter().map(|(_, least, ..)| *least).collect::<Vec<_>>(),
                parameters.iter().map(|(_, _, usual, _)| *usual).collect(),
                parameters.iter().map(|(.., most)| *most).collect(),
            ];
            for values in ends {
                let spec = MachineSpec::new(kind, &values, budget, budget).unwrap();
                let mut rng = super::super::runner::Generator(ChaCha20Rng::seed_from_u64(1));
                assert!(client(&spec, &mut rng).is_ok(), "{spec:?}");
                assert!(relay(&spec, &mut rng).is_ok(), "{spec:?}");
            }
        }
    }
}
