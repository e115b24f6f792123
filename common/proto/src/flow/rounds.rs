//! How large a window has to be, from what one round of credit shows.
//!
//! 1. A grant opens a round, unless one is open.
//! 2. The cells before the first that needs this grant say whether their sender was held up. If none does, the window is not
//!    what limits the rate, and the round says nothing.
//! 3. The first cell that needed the grant closes the round: the time since the grant is the round trip, queues included, and
//!    what arrived since the last round closed is the rate.
//! 4. At the start the window doubles while next to nothing queues on the way.
//! 5. Then it goes to what this rate brings in during the shortest recent round trip *and a wait in queues
//!    that is the shorter, the higher the rate*. Whoever has more than others through the same queue finds it too long and
//!    gives way, whoever has less finds it short and takes more, until all have the same (as in FAST TCP and Swift).
//!    It loses a quarter in a round at most: a moment in which nothing came, such as one in which TCP probes, says little.
//! 6. Now and then that of a hop is made smaller for two rounds, so that its own cells leave the queue: a window that began while others
//!    filled the queue would otherwise take that for the path.
//!
//! That is how a hop keeps queues on its link short. A stream's window is there for what its application does not read, and is
//! so much larger that the hops decide. Where it does decide, its own cells always queue, so the shortest round trip that it ever
//! had counts.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{INITIAL_CELLS, MAX_WINDOW_CELLS};

const LEAST: u64 = INITIAL_CELLS as u64;
const MOST: u64 = MAX_WINDOW_CELLS as u64;

/// The part of the wait in queues that has nothing to do with the rate: what processes take to have their turn.
const TURN: Duration = Duration::from_millis(4);
/// The rest of it at [`RATE`]; it falls with the rate to the power of [`FALL`].
const WAIT: Duration = Duration::from_millis(20);
/// Cells per second: 100 Mbit/s of them.
const RATE: f64 = 22_000.0;
/// Steep enough that unequal flows become equal soon, and less than 1, so that many flows do not queue as much as one each.
const FALL: f64 = 0.75;
/// The longest wait, for the lowest rates.
const MAX_WAIT: Duration = Duration::from_millis(200);
/// Cells that may queue at the start, however long they take: TCP below begins with few segments, and is not to be taken for a
/// full queue.
const START_QUEUE: u64 = 128;
/// Rounds in which hardly anything queues, after which the window grows faster.
const HUNGRY_ROUNDS: u8 = 2;
/// Rounds after a dip in which nothing queues because of it.
const SETTLING_ROUNDS: u8 = 3;
/// Rounds between two dips, and rounds that one takes: its first round still has what was sent before.
const STEADY_ROUNDS: u8 = 40;
const DIP_ROUNDS: u8 = 2;
/// A grant of a hop need not be larger than this, or than so many cells if they are more: what it lets through comes in one burst.
const BURST: Duration = Duration::from_micros(4_500);
const BURST_CELLS: u64 = 64;
/// Grants whose round trips are measured at the same time.
const MAX_SAMPLES: usize = 16;
/// How long the shortest round trip is remembered at least, and half of how long at most.
const MEMORY: Duration = Duration::from_secs(30);

/// What a window bounds, which says how large it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// A circuit between two neighbours: what queues on the link between them delays everything that uses it, and what queues at
    /// the receiver everything else on the circuit.
    Hop,
    /// A stream between its ends: two more round trips than it needs, so that it is the hops that bound what is on the way.
    EndToEnd,
}

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
    shortest: Option<Shortest>,
    /// Cells per second, by the last round that showed something.
    rate: u64,
    phase: Phase,
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
            shortest: None,
            rate: 0,
            phase: Phase::Starting,
        }
    }

    /// Cells that are worth a grant of their own, however large the window is.
    pub(super) fn burst(&self) -> u32 {
        match self.span {
            Span::Hop => (self.rate * BURST.as_micros() as u64 / 1_000_000).clamp(BURST_CELLS, MOST) as u32,
            Span::EndToEnd => MAX_WINDOW_CELLS,
        }
    }

    /// Credit was granted: `first` is the number of the first cell that needs it.
    pub(super) fn granted(&mut self, now: Instant, first: u64, window: u32) {
        if self.samples.len() < MAX_SAMPLES {
            self.samples.push_back(Sample { began: now, first, window: window.into() });
        }
    }

    /// Cell number `number` arrived; returns what the window should be, in cells, if that showed something.
    pub(super) fn arrived(&mut self, now: Instant, number: u64, held_up: bool, window: u32) -> Option<u32> {
        if held_up && number < LEAST {
            // The first window was too small for its sender: that needs no round to know.
            return Some(window.max(2 * INITIAL_CELLS));
        }
        self.held_up |= held_up;
        let sample = self.samples.pop_front_if(|sample| sample.first <= number)?;
        let trip = Trip { took: now.saturating_duration_since(sample.began), window: sample.window };
        let shortest = self.shortest.get_or_insert(Shortest::new(now)).update(now, trip.took, self.span);
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
        let size = self.size(shown, window.into());
        Some(size.clamp(LEAST, MOST) as u32)
    }

    /// What the window should be after a round, in cells.
    fn size(&mut self, shown: Shown, window: u64) -> u64 {
        let (wait, too_fast) = (self.wait(shown), self.is_too_fast(shown));
        let fitting = shown.cells_in(shown.shortest + wait);
        match &mut self.phase {
            Phase::Starting if !too_fast => window * 2,
            Phase::Starting if self.span == Span::Hop => self.dip(shown, fitting),
            Phase::Starting => {
                self.phase = Phase::Following { rounds: 0, hungry: 0 };
                fitting.max(window)
            }
            Phase::Following { rounds, .. } if *rounds == STEADY_ROUNDS && self.span == Span::Hop => {
                self.dip(shown, window)
            }
            Phase::Following { rounds, hungry } => {
                *rounds = (*rounds + 1).min(STEADY_ROUNDS);
                let is_hungry = *rounds > SETTLING_ROUNDS && shown.queued() * 4 <= wait;
                *hungry = if is_hungry { (*hungry + 1).min(HUNGRY_ROUNDS) } else { 0 };
                let least = if *hungry < HUNGRY_ROUNDS { window * 3 / 4 } else { window * 4 / 3 };
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

    /// Lets what this window has in queues run out, and comes back to so much afterwards.
    fn dip(&mut self, shown: Shown, before: u64) -> u64 {
        self.phase = Phase::Dipping { rounds: 0, before };
        shown.cells_in(shown.shortest) * 3 / 4
    }

    /// Whether more queues than a window may bring about at the start.
    fn is_too_fast(&self, shown: Shown) -> bool {
        let wait = self.wait(shown).min(2 * (TURN + WAIT)).max(shown.shortest / 4);
        shown.queued() > wait && shown.cells_in(shown.queued()) > START_QUEUE
    }

    /// How long cells may wait in queues at this rate.
    fn wait(&self, shown: Shown) -> Duration {
        let wait = (TURN + WAIT.mul_f64((RATE / shown.rate.max(1) as f64).powf(FALL))).min(MAX_WAIT);
        match self.span {
            Span::Hop => wait,
            Span::EndToEnd => wait + 2 * shown.shortest,
        }
    }
}

/// The shortest round trip of a hop in the last 30 to 60 seconds, or of a stream ever.
#[derive(Debug)]
struct Shortest {
    since: Instant,
    now: Duration,
    before: Duration,
}

impl Shortest {
    fn new(since: Instant) -> Shortest {
        Shortest { since, now: Duration::MAX, before: Duration::MAX }
    }

    fn update(&mut self, now: Instant, took: Duration, span: Span) -> Duration {
        if span == Span::Hop && now.saturating_duration_since(self.since) >= MEMORY {
            *self = Shortest { since: now, now: Duration::MAX, before: self.now };
        }
        self.now = self.now.min(took);
        self.now.min(self.before)
    }
}
