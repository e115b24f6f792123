//! How large a window has to be, from what one round of credit shows.
//!
//! 1. A grant opens a round, unless one is open.
//! 2. The cells before the first that needs this grant say whether their sender was held up. If none does, the window is not
//!    what limits the rate, and the round says nothing.
//! 3. The first cell that needed the grant closes the round: the time since the grant is the round trip, queues included, and
//!    what arrived since the last round closed is the rate.
//! 4. At the start the window doubles while nothing queues on the way, or while the rate rises with it.
//! 5. Then it is what the best recent rate brings in during the shortest recent round trip, and a margin: what is more would
//!    only stand in queues.
//! 6. Now and then it is made larger for a few rounds. If the rate rises, that goes on; where round trips vary for reasons that
//!    have nothing to do with the window, 5 alone would keep it too small for ever.

use std::time::{Duration, Instant};

use super::{INITIAL_CELLS, MAX_WINDOW_CELLS};

const LEAST: u64 = INITIAL_CELLS as u64;
const MOST: u64 = MAX_WINDOW_CELLS as u64;

/// Added to the shortest round trip: what processes on a busy machine take to have their turn.
const TURN: Duration = Duration::from_millis(10);
/// Rounds at the start that may take longer without a better rate, before that rate is taken for the path's; one that takes
/// twice as long is enough.
const START_STALLS: u8 = 3;
/// Rounds between two tries of a larger window, and rounds that a try takes: in the first it is not filled yet.
const STEADY_ROUNDS: u8 = 12;
const TRY_ROUNDS: u8 = 3;
/// How long the shortest round trip is remembered at least, and half of how long at most.
const MEMORY: Duration = Duration::from_secs(30);
/// The same for the best rate, in rounds.
const RATE_ROUNDS: u8 = 5;

/// What a window bounds, which says how much of it may stand in queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// A circuit between two neighbours: as much again as rate × delay may wait at the receiver, which shares its next
    /// channel out among circuits that wait.
    Hop,
    /// A stream between its ends: what queues on the way delays everything else on the circuit, so a quarter.
    EndToEnd,
}

impl Span {
    /// The window as a multiple of rate × delay, in quarters.
    fn quarters(self) -> u64 {
        match self {
            Span::Hop => 8,
            Span::EndToEnd => 5,
        }
    }
}

/// The rounds of one window.
#[derive(Debug)]
pub(super) struct Rounds {
    span: Span,
    open: Option<Round>,
    /// When the last round closed, and the number of the cell that closed it.
    closed: Option<(Instant, u64)>,
    shortest: Option<Shortest>,
    fastest: Fastest,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Starting {
        stalls: u8,
    },
    Steady {
        rounds: u8,
    },
    /// A larger window than 5 says, to see whether the rate rises from what it was.
    Trying {
        rounds: u8,
        from: u64,
    },
}

#[derive(Debug)]
struct Round {
    began: Instant,
    /// The first cell that needs the grant, counted from the first ever.
    first: u64,
    held_up: bool,
}

impl Rounds {
    pub(super) fn new(span: Span) -> Rounds {
        Rounds {
            span,
            open: None,
            closed: None,
            shortest: None,
            fastest: Fastest::default(),
            phase: Phase::Starting { stalls: 0 },
        }
    }

    /// Credit was granted: `first` is the number of the first cell that needs it.
    pub(super) fn granted(&mut self, now: Instant, first: u64, held_up: bool) {
        self.open.get_or_insert(Round { began: now, first, held_up });
    }

    /// Cell number `number` arrived; returns what the window should be, in cells, if that closed a round.
    pub(super) fn arrived(&mut self, now: Instant, number: u64, held_up: bool, window: u32) -> Option<u32> {
        let round = self.open.as_mut()?;
        if number < round.first {
            round.held_up |= held_up;
            return None;
        }
        let round = self.open.take().filter(|round| round.held_up)?;
        let took = now.saturating_duration_since(round.began);
        let shortest = self.shortest.get_or_insert(Shortest::new(now)).update(now, took);
        let (since, first) = self.closed.replace((now, number)).unwrap_or((round.began, 0));
        let micros = now.saturating_duration_since(since).as_micros().max(1) as u64;
        let before = self.fastest.get();
        self.fastest.update((number - first) * 1_000_000 / micros);
        Some(self.size(before, took, shortest + TURN, window.into()).clamp(LEAST, MOST) as u32)
    }

    /// What the window should be after a round, in cells.
    fn size(&mut self, before: u64, took: Duration, delay: Duration, window: u64) -> u64 {
        let best = self.fastest.get();
        let carried = best * delay.as_micros() as u64 / 1_000_000 * self.span.quarters() / 4;
        match &mut self.phase {
            Phase::Starting { .. } if took * 4 <= delay * 5 || best * 4 >= before * 5 => return window * 2,
            Phase::Starting { stalls } => {
                *stalls += if took > delay * 2 { START_STALLS } else { 1 };
                if *stalls < START_STALLS {
                    return window;
                }
                self.phase = Phase::Steady { rounds: 0 };
            }
            Phase::Steady { rounds } => {
                *rounds += 1;
                if *rounds == STEADY_ROUNDS {
                    self.phase = Phase::Trying { rounds: 0, from: best };
                    return carried.max(window) * 5 / 4;
                }
            }
            Phase::Trying { rounds, from } => {
                *rounds += 1;
                if *rounds < TRY_ROUNDS {
                    return window;
                }
                if best * 10 >= *from * 11 {
                    (*rounds, *from) = (0, best);
                    return window * 5 / 4;
                }
                self.phase = Phase::Steady { rounds: 0 };
            }
        }
        carried
    }
}

/// The shortest round trip of the last 30 to 60 seconds.
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

    fn update(&mut self, now: Instant, took: Duration) -> Duration {
        if now.saturating_duration_since(self.since) >= MEMORY {
            *self = Shortest { since: now, now: Duration::MAX, before: self.now };
        }
        self.now = self.now.min(took);
        self.now.min(self.before)
    }
}

/// The best rate of the last 5 to 10 rounds, in cells per second.
#[derive(Debug, Default)]
struct Fastest {
    rounds: u8,
    now: u64,
    before: u64,
}

impl Fastest {
    fn update(&mut self, rate: u64) {
        if self.rounds == RATE_ROUNDS {
            *self = Fastest { rounds: 0, now: 0, before: self.now };
        }
        self.rounds += 1;
        self.now = self.now.max(rate);
    }

    fn get(&self) -> u64 {
        self.now.max(self.before)
    }
}
