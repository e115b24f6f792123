//! How large a window has to be, from what one round of credit shows.
//!
//! 1. A grant opens a round, unless one is open.
//! 2. The cells before the first that needs this grant say whether their sender was held up. If none does, the window is not
//!    what limits the rate, and the round says nothing.
//! 3. The first cell that needed the grant closes the round: the time since the grant is the round trip, queues included, and
//!    what arrived since the last round closed is the rate.
//! 4. At the start the window doubles while next to nothing queues on the way, and while it is used.
//! 5. Then it goes to what this rate brings in during the shortest recent round trip *and a wait in queues
//!    that is the shorter, the higher the rate*. Whoever has more than others through the same queue finds it too long and
//!    gives way, whoever has less finds it short and takes more, until all over paths of this length have the same (as in FAST TCP and Swift).
//!    It loses a quarter in a round at most, and nothing while little queues on the way and at the receiver: a moment in which nothing
//!    came, such as one in which TCP probes, says little, and it is another hop then that limits the rate.
//! 6. Now and then a hop's window is made smaller for two rounds, at all relays at the same time, so that the queue runs
//!    out and the [path](PathRtt)'s own delay is seen.
//!
//! That is how a hop keeps queues on its link short. A stream's window is there for what its application does not read, and is
//! so much larger that the hops decide. Where it does decide, its own cells always queue, so the shortest round trip that there
//! ever was counts.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::path::{PathRtt, Span};
use super::{INITIAL_CELLS, MAX_WINDOW_CELLS};

const LEAST: u64 = INITIAL_CELLS as u64;
const MOST: u64 = MAX_WINDOW_CELLS as u64;

/// The part of the wait in queues that has nothing to do with the rate: what processes take to have their turn.
const TURN: Duration = Duration::from_millis(2);
/// Processes with hardly a path between them share cores, and wait longer for each other. There the path says nothing, and the rest is this part.
const NEAR: Duration = Duration::from_millis(2);
const NEAR_TURN: Duration = Duration::from_millis(10);
const NEAR_PART: f64 = 0.5;
/// The path of a stream consists of so many, from the client to the exit.
const HOPS: u32 = 3;
/// The rest of it at [`RATE`] on paths as long as [`LONG`]; it falls with the rate to the power of [`FALL`].
const WAIT: Duration = Duration::from_millis(20);
/// On shorter paths it falls with their root. There a BBR below holds itself back while a round trip and more queues, and starves
/// beside windows that let it. Not faster: windows over short and long paths that share a queue should not be all too unequal.
const LONG: Duration = Duration::from_millis(160);
/// Cells per second: 100 Mbit/s of them.
const RATE: f64 = 22_000.0;
/// Steep enough that unequal flows become equal soon, and less than 1, so that many flows do not queue as much as one each.
const FALL: f64 = 0.75;
/// The longest wait, for the lowest rates.
const MAX_WAIT: Duration = Duration::from_millis(200);
/// Cells that may queue at the start, however long they take: TCP below begins with few segments, and is not to be taken for a
/// full queue.
const START_QUEUE: u64 = 128;
/// The longest time for which they may queue, however low the rate still is.
const START_WAIT: Duration = Duration::from_millis(48);
/// At the start a window is at most so many times what arrives in a round trip: more would bound nothing.
const START_ROOM: u64 = 4;
/// Rounds in which hardly anything queues, after which a window that is used grows faster.
const HUNGRY_ROUNDS: u8 = 2;
/// Rounds after a dip in which nothing queues because of it.
const SETTLING_ROUNDS: u8 = 3;
/// Rounds that a dip takes: its first round still has what was sent before.
const DIP_ROUNDS: u8 = 2;
/// A grant is this part of the window at least: on short paths a larger one, because windows are many times the path there, and each
/// grant is a wake-up and two system calls for a few dozen cells.
const PARTS: u32 = 8;
const NEAR_PARTS: u32 = 4;
/// A grant of a hop need not be larger than this, or than so many cells if they are more: what it lets through comes in one burst.
const BURST: Duration = Duration::from_micros(4_500);
const BURST_CELLS: u64 = 64;
/// Grants whose round trips are measured at the same time.
const MAX_SAMPLES: usize = 16;

/// The rounds of one window.
#[derive(Debug)]
pub(super) struct Rounds {
    span: Span,
    /// Grants whose first cell has not come yet.
    samples: VecDeque<Sample>,
    /// When the round began, and the number of the cell that began it.
    round: Option<(Instant, u64)>,
    /// The round is over when this cell comes, the first of a grant that was made in it.
    last: u64,
    held_up: bool,
    /// The round trip of this round that waited least in queues: others have also waited for cells of their own burst, for a
    /// processor, or for TCP.
    quickest: Option<Trip>,
    /// Cells per second, by the last round that showed something.
    rate: u64,
    /// The shortest round trip of the path, by the last one that was measured.
    shortest: Duration,
    phase: Phase,
    /// When the first round in which its sender was held up was over.
    began: Option<Instant>,
    /// The number of the last dip.
    dip: u64,
}

/// A round trip, and the cells that were under way, or could be, in it.
#[derive(Debug, Clone, Copy)]
struct Trip {
    took: Duration,
    window: u64,
}

impl Trip {
    /// `most` is the highest rate that is believed.
    fn shows(self, most: u64, shortest: Duration) -> Shown {
        let rate = self.window * 1_000_000 / self.took.as_micros().max(1) as u64;
        Shown { rate: rate.min(most), took: self.took, shortest }
    }
}

#[derive(Debug)]
enum Phase {
    Starting,
    Following {
        rounds: u8,
        hungry: u8,
    },
    /// After which the window is what it was before.
    Dipping {
        rounds: u8,
        before: u64,
    },
}

#[derive(Debug)]
struct Sample {
    began: Instant,
    /// The first cell that needs the grant, counted from the first ever.
    first: u64,
    /// Cells that were under way, or could be, when it was sent.
    window: u64,
}

/// What a round showed.
#[derive(Debug, Clone, Copy)]
struct Shown {
    /// Cells per second.
    rate: u64,
    took: Duration,
    shortest: Duration,
}

impl Shown {
    /// What queues on the way.
    fn queued(self) -> Duration {
        self.took.saturating_sub(self.shortest)
    }

    /// Cells that arrive at this rate in so long.
    fn cells_in(self, time: Duration) -> u64 {
        self.rate.saturating_mul(time.as_micros() as u64) / 1_000_000
    }
}

impl Rounds {
    pub(super) fn new(span: Span) -> Rounds {
        Rounds {
            span,
            samples: VecDeque::new(),
            round: None,
            last: 0,
            held_up: false,
            quickest: None,
            rate: 0,
            shortest: Duration::MAX,
            phase: Phase::Starting,
            began: None,
            dip: 0,
        }
    }

    /// Cells that are worth a grant of their own where the window is so large.
    pub(super) fn least_grant(&self, window: u32) -> u32 {
        let part = window / if self.is_near(self.shortest) { NEAR_PARTS } else { PARTS };
        match self.span {
            Span::Hop => {
                let burst = self.rate * BURST.as_micros() as u64 / 1_000_000;
                part.min(burst.clamp(BURST_CELLS, MOST) as u32)
            }
            Span::EndToEnd => part,
        }
    }

    /// Credit was granted: `first` is the number of the first cell that needs it.
    pub(super) fn granted(&mut self, now: Instant, first: u64, window: u32) {
        if self.samples.len() < MAX_SAMPLES {
            self.samples.push_back(Sample { began: now, first, window: window.into() });
        }
    }

    /// Cell number `number` arrived; returns what the window should be, in cells, if that showed something. `keeps_up` says that little
    /// queues at the receiver.
    pub(super) fn arrived(
        &mut self,
        now: Instant,
        number: u64,
        held_up: bool,
        window: u32,
        keeps_up: bool,
        path: &mut PathRtt,
    ) -> Option<u32> {
        if held_up && number < LEAST {
            // The first window was too small for its sender: that needs no round to know.
            return Some(window.max(2 * INITIAL_CELLS));
        }
        self.held_up |= held_up;
        let sample = self.samples.pop_front_if(|sample| sample.first <= number)?;
        let trip = Trip { took: now.saturating_duration_since(sample.began), window: sample.window };
        let shortest = path.update(now, trip.took);
        self.shortest = shortest;
        let quickest = self.quickest.filter(|quickest| quickest.took <= trip.took).unwrap_or(trip);
        self.quickest = Some(quickest);
        let (since, first) = *self.round.get_or_insert((sample.began, 0));
        let micros = now.saturating_duration_since(since).as_micros().max(1) as u64;
        let most = (number - first) * 1_100_000 / micros;
        let mut shown = trip.shows(most, shortest);
        if !(matches!(self.phase, Phase::Starting) && self.is_too_fast(shown)) {
            if number < self.last {
                return None;
            }
            shown = quickest.shows(most, shortest);
        }
        self.quickest = None;
        self.round = Some((now, number));
        self.last = self.samples.back().map_or(number, |sample| sample.first) + 1;
        if !std::mem::take(&mut self.held_up) {
            return None;
        }
        self.rate = shown.rate;
        let began = *self.began.get_or_insert(now);
        let size = self.size(shown, window.into(), path.dip(began, now), keeps_up);
        Some(size.clamp(LEAST, MOST) as u32)
    }

    /// What the window should be after a round, in cells. `dip`: see [`PathRtt::dip`].
    fn size(&mut self, shown: Shown, window: u64, dip: Option<u64>, keeps_up: bool) -> u64 {
        let (wait, too_fast) = (self.wait(shown), self.is_too_fast(shown));
        let fitting = shown.cells_in(shown.shortest + wait);
        match &mut self.phase {
            Phase::Starting if !too_fast => {
                (2 * window).min(START_ROOM * shown.cells_in(shown.took)).max(window)
            }
            Phase::Starting => {
                self.phase = Phase::Following { rounds: 0, hungry: 0 };
                if self.span == Span::Hop { fitting } else { fitting.max(window) }
            }
            Phase::Following { .. } if dip.is_some_and(|number| number != self.dip) => {
                self.dip = dip.unwrap_or(self.dip);
                self.phase = Phase::Dipping { rounds: 0, before: window };
                shown.cells_in(shown.shortest) * 3 / 4
            }
            Phase::Following { rounds, hungry } => {
                *rounds = (*rounds + 1).min(SETTLING_ROUNDS + 1);
                let is_hungry = *rounds > SETTLING_ROUNDS && shown.queued() * 4 <= wait;
                *hungry = if is_hungry { (*hungry + 1).min(HUNGRY_ROUNDS) } else { 0 };
                let is_used = shown.cells_in(shown.took) * 3 / 2 >= window;
                let least = if *hungry == HUNGRY_ROUNDS && is_used {
                    window * 4 / 3
                } else if keeps_up && shown.queued() <= wait {
                    // Its sender had less than it might have sent: something else limits the rate.
                    window
                } else {
                    window * 3 / 4
                };
                fitting.max(least)
            }
            Phase::Dipping { rounds, before } => {
                *rounds += 1;
                if *rounds < DIP_ROUNDS {
                    return window;
                }
                let before = *before;
                self.phase = Phase::Following { rounds: 0, hungry: 0 };
                before
            }
        }
    }

    /// Whether more queues than a window may bring about at the start.
    fn is_too_fast(&self, shown: Shown) -> bool {
        let wait = self.wait(shown).min(START_WAIT).max(shown.shortest / 4);
        shown.queued() > wait && shown.cells_in(shown.queued()) > START_QUEUE
    }

    /// Whether a path with this shortest round trip is likely to be within a machine.
    fn is_near(&self, shortest: Duration) -> bool {
        match self.span {
            Span::Hop => shortest < NEAR,
            Span::EndToEnd => shortest < NEAR * HOPS,
        }
    }

    /// How long cells may wait in queues at this rate.
    fn wait(&self, shown: Shown) -> Duration {
        let (turn, part) = if self.is_near(shown.shortest) {
            (NEAR_TURN, NEAR_PART)
        } else {
            (TURN, shown.shortest.div_duration_f64(LONG).min(1.0).sqrt())
        };
        let wait = (turn + WAIT.mul_f64(part * (RATE / shown.rate.max(1) as f64).powf(FALL))).min(MAX_WAIT);
        match self.span {
            Span::Hop => wait,
            Span::EndToEnd => wait + 2 * shown.shortest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_the_shorter_the_higher_the_rate_and_the_shorter_the_path() {
        let wait = |rate, ms| {
            let shown = Shown { rate, took: Duration::from_millis(200), shortest: Duration::from_millis(ms) };
            (
                Rounds::new(Span::Hop).wait(shown).as_millis(),
                Rounds::new(Span::EndToEnd).wait(shown).as_millis(),
            )
        };
        assert_eq!(wait(1, 160), (200, 520));
        assert_eq!(wait(2_200, 200), (114, 514));
        assert_eq!(wait(22_000, 160), (22, 342));
        assert_eq!(wait(22_000, 50), (13, 113));
        assert_eq!(wait(22_000, 10), (7, 27));
        assert_eq!(wait(2_200, 10), (30, 50));
        assert_eq!(wait(u64::MAX, 50), (2, 102));
        assert_eq!(wait(22_000, 6), (5, 17));
        assert_eq!(wait(22_000, 5), (5, 30));
        assert_eq!(wait(22_000, 2), (4, 24));
        assert_eq!(wait(22_000, 1), (20, 22));
        assert_eq!(wait(u64::MAX, 1), (10, 12));
    }

    #[test]
    fn a_grant_is_a_larger_part_of_the_window_on_a_short_path() {
        let grant = |span, ms, rate| {
            let shortest = Duration::from_millis(ms);
            Rounds { shortest, rate, ..Rounds::new(span) }.least_grant(1_600)
        };
        assert_eq!(
            (grant(Span::Hop, 2, u64::from(u32::MAX)), grant(Span::Hop, 1, u64::from(u32::MAX))),
            (200, 400)
        );
        assert_eq!(
            (grant(Span::Hop, 2, 20_000), grant(Span::Hop, 1, 20_000)),
            (90, 90),
            "4.5 ms of the rate"
        );
        assert_eq!((grant(Span::Hop, 2, 1_000), grant(Span::Hop, 1, 1_000)), (64, 64));
        assert_eq!((grant(Span::EndToEnd, 6, 1_000), grant(Span::EndToEnd, 5, 1_000)), (200, 400));
        assert_eq!(Rounds::new(Span::Hop).least_grant(64), 8, "before the path is known");
    }
}
