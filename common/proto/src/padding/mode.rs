//! What a client and its guard agree on for their channel, and how it is said (docs/protocol.md §11.2).

use std::time::Duration;

use crate::cell::{self, Cell, CellError, Command, PAYLOAD_LEN};
use crate::ids::CircId;

/// Padding of a channel, both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LinkMode {
    /// None.
    #[default]
    Off,
    /// Both sides pad a channel that was silent for 1.5 to 9.5 s.
    Normal,
    /// The client alone pads, after 9 to 14 s.
    Reduced,
    /// Both sides send at fixed rates, whatever there is to send.
    Constant(Rates),
}

/// The rates of [`LinkMode::Constant`]: so many cells each tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rates {
    /// The time between two ticks on average, in milliseconds: [`Rates::MIN_TICK_MS`] to [`Rates::MAX_TICK_MS`].
    pub tick_ms: u16,
    /// Cells that the client sends each tick: 1 to [`Rates::MAX_CELLS`].
    pub forward: u16,
    /// Cells that the guard sends each tick: 1 to [`Rates::MAX_CELLS`].
    pub backward: u16,
}

impl Rates {
    /// Below, timers of ordinary systems would not keep the time.
    pub const MIN_TICK_MS: u16 = 5;
    /// Above, cells would wait too long.
    pub const MAX_TICK_MS: u16 = 1_000;
    /// One write of a channel.
    pub const MAX_CELLS: u16 = 128;

    /// The time between two ticks, on average.
    pub fn tick(self) -> Duration {
        Duration::from_millis(self.tick_ms.into())
    }

    /// Cells per second towards the client, rounded up.
    pub fn backward_rate(self) -> u32 {
        (u32::from(self.backward) * 1_000).div_ceil(u32::from(self.tick_ms).max(1))
    }

    /// Whether the figures are within what the protocol allows.
    pub fn is_legal(self) -> bool {
        (Self::MIN_TICK_MS..=Self::MAX_TICK_MS).contains(&self.tick_ms)
            && (1..=Self::MAX_CELLS).contains(&self.forward)
            && (1..=Self::MAX_CELLS).contains(&self.backward)
    }
}

/// Why a relay does not do what a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum Refusal {
    /// It is switched off at this relay.
    #[error("the relay does not offer it")]
    NotOffered = 1,
    /// More cells than the relay gives one client.
    #[error("the relay does not pad so much for one client")]
    TooMuch = 2,
    /// More cells than the relay has left for all clients.
    #[error("the relay pads for too many clients already")]
    Exhausted = 3,
    /// Asked for too often.
    #[error("the relay was asked too often")]
    TooOften = 4,
    /// The relay does not know the machine.
    #[error("the relay does not know the machine")]
    UnknownMachine = 5,
    /// The machine's parameters cannot be.
    #[error("the machine cannot have these parameters")]
    BadParameters = 6,
}

impl Refusal {
    pub(crate) fn from_byte(byte: u8) -> Option<Refusal> {
        use Refusal::*;
        [NotOffered, TooMuch, Exhausted, TooOften, UnknownMachine, BadParameters]
            .into_iter()
            .find(|refusal| *refusal as u8 == byte)
    }
}

/// `PADDING_NEGOTIATE`.
pub fn negotiate(mode: LinkMode) -> Cell {
    let (code, rates) = match mode {
        LinkMode::Off => (0, None),
        LinkMode::Normal => (1, None),
        LinkMode::Reduced => (2, None),
        LinkMode::Constant(rates) => (3, Some(rates)),
    };
    let mut content = vec![code];
    for figure in rates.map(|rates| [rates.tick_ms, rates.forward, rates.backward]).into_iter().flatten() {
        content.extend(figure.to_be_bytes());
    }
    cell::build(CircId::CHANNEL, Command::PaddingNegotiate, &content)
}

/// Reads a `PADDING_NEGOTIATE`.
///
/// # Errors
/// [`CellError::Malformed`] for an unknown mode, rates that are not legal, or further bytes.
pub fn parse_negotiate(cell: &Cell) -> Result<LinkMode, CellError> {
    let malformed = CellError::Malformed(Command::PaddingNegotiate);
    let [code, t0, t1, f0, f1, b0, b1, rest @ ..] = cell::payload(cell);
    let rates = Rates {
        tick_ms: u16::from_be_bytes([*t0, *t1]),
        forward: u16::from_be_bytes([*f0, *f1]),
        backward: u16::from_be_bytes([*b0, *b1]),
    };
    let none = Rates { tick_ms: 0, forward: 0, backward: 0 };
    let mode = match code {
        0 if rates == none => LinkMode::Off,
        1 if rates == none => LinkMode::Normal,
        2 if rates == none => LinkMode::Reduced,
        3 if rates.is_legal() => LinkMode::Constant(rates),
        _ => return Err(malformed),
    };
    if rest.iter().any(|byte| *byte != 0) { Err(malformed) } else { Ok(mode) }
}

/// `PADDING_NEGOTIATED`.
pub fn negotiated(answer: Result<(), Refusal>) -> Cell {
    let code = answer.err().map_or(0, |refusal| refusal as u8);
    cell::build(CircId::CHANNEL, Command::PaddingNegotiated, &[code])
}

/// Reads a `PADDING_NEGOTIATED`.
///
/// # Errors
/// [`CellError::Malformed`] for an unknown reason or further bytes.
pub fn parse_negotiated(cell: &Cell) -> Result<Result<(), Refusal>, CellError> {
    let malformed = CellError::Malformed(Command::PaddingNegotiated);
    let payload: &[u8; PAYLOAD_LEN] = cell::payload(cell);
    if payload[1..].iter().any(|byte| *byte != 0) {
        return Err(malformed);
    }
    match payload[0] {
        0 => Ok(Ok(())),
        code => Refusal::from_byte(code).map(Err).ok_or(malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates { tick_ms: 20, forward: 2, backward: 8 };

    #[test]
    fn what_is_said_reads_back() {
        for mode in [LinkMode::Off, LinkMode::Normal, LinkMode::Reduced, LinkMode::Constant(RATES)] {
            assert_eq!(parse_negotiate(&negotiate(mode)), Ok(mode));
        }
        for answer in [Ok(()), Err(Refusal::TooMuch), Err(Refusal::BadParameters)] {
            assert_eq!(parse_negotiated(&negotiated(answer)), Ok(answer));
        }
        assert_eq!(RATES.backward_rate(), 400);
    }

    #[test]
    fn anything_else_is_malformed() {
        let bad = |content: &[u8]| {
            let cell = cell::build(CircId::CHANNEL, Command::PaddingNegotiate, content);
            assert_eq!(parse_negotiate(&cell), Err(CellError::Malformed(Command::PaddingNegotiate)));
            let cell = cell::build(CircId::CHANNEL, Command::PaddingNegotiated, content);
            assert_eq!(parse_negotiated(&cell), Err(CellError::Malformed(Command::PaddingNegotiated)));
        };
        bad(&[9]);
        bad(&[1, 0, 20]);
        bad(&[3, 0, 20, 0, 2, 0, 8, 1]);
    }

    #[test]
    fn rates_have_bounds() {
        let bad = |rates: Rates| {
            assert!(parse_negotiate(&negotiate(LinkMode::Constant(rates))).is_err(), "{rates:?}");
        };
        bad(Rates { tick_ms: 4, ..RATES });
        bad(Rates { tick_ms: 1_001, ..RATES });
        bad(Rates { forward: 0, ..RATES });
        bad(Rates { forward: 129, ..RATES });
        bad(Rates { backward: 0, ..RATES });
        bad(Rates { backward: u16::MAX, ..RATES });
    }
}
