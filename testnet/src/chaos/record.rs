//! What was downloaded when, and what can be said about a stretch of time from it. Times are counted from the beginning of
//! the record.

use std::time::Duration;

/// How finely bytes are counted.
const STEP: Duration = Duration::from_millis(100);
/// Steps that are kept: a day. What comes later is not counted.
const MAX_STEPS: usize = 864_000;

/// How a piece ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every byte of it came.
    Came,
    /// It broke off, or nothing of it came any more.
    Failed,
    /// A byte was another than the server's.
    Wrong,
}

/// A piece that was fetched over a stream of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// When it was asked for.
    pub begun: Duration,
    /// When it was there, or given up.
    pub ended: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// Everything that happened to the downloads.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pieces: Vec<Piece>,
    bytes: Vec<u64>,
    breaks: Vec<Duration>,
    wrong: usize,
}

impl Record {
    /// A piece has ended.
    pub fn piece(&mut self, piece: Piece) {
        self.wrong += usize::from(piece.outcome == Outcome::Wrong);
        self.pieces.push(piece);
    }

    /// So many bytes came.
    pub fn bytes(&mut self, at: Duration, count: usize) {
        let step = step(at);
        if step < MAX_STEPS {
            self.bytes.resize(self.bytes.len().max(step + 1), 0);
            self.bytes[step] += count as u64;
        }
    }

    /// The long download broke off, or brought a wrong byte.
    pub fn long_broke(&mut self, at: Duration, outcome: Outcome) {
        self.wrong += usize::from(outcome == Outcome::Wrong);
        self.breaks.push(at);
    }

    /// Downloads that brought a wrong byte, since the beginning.
    pub fn wrong(&self) -> usize {
        self.wrong
    }

    /// When the first piece that was asked for after this time was there.
    pub fn again_after(&self, time: Duration) -> Option<Duration> {
        let came = self.pieces.iter().filter(|piece| piece.outcome == Outcome::Came);
        came.filter(|piece| piece.begun >= time).map(|piece| piece.ended).min()
    }

    /// Pieces that came between the two times.
    pub fn came(&self, from: Duration, to: Duration) -> usize {
        self.ended_between(from, to).filter(|piece| piece.outcome == Outcome::Came).count()
    }

    /// Pieces that did not come between the two times.
    pub fn failed(&self, from: Duration, to: Duration) -> usize {
        self.ended_between(from, to).filter(|piece| piece.outcome != Outcome::Came).count()
    }

    /// How often the long download broke off between the two times.
    pub fn breaks(&self, from: Duration, to: Duration) -> usize {
        self.breaks.iter().filter(|at| (from..to).contains(*at)).count()
    }

    /// The longest time between the two times in which no piece came. What had not come when they begin counts from then.
    pub fn longest_gap(&self, from: Duration, to: Duration) -> Duration {
        let came = self.ended_between(from, to).filter(|piece| piece.outcome == Outcome::Came);
        let ends = came.map(|piece| piece.ended).chain([to]);
        let gaps = ends.scan(from, |last, at| Some(at.saturating_sub(std::mem::replace(last, at))));
        gaps.max().unwrap_or_default()
    }

    /// Bytes per second between the two times.
    pub fn rate(&self, from: Duration, to: Duration) -> f64 {
        let steps = self.bytes.iter().take(step(to)).skip(step(from));
        let seconds = to.saturating_sub(from).as_secs_f64();
        if seconds > 0.0 { steps.sum::<u64>() as f64 / seconds } else { 0.0 }
    }

    fn ended_between(&self, from: Duration, to: Duration) -> impl Iterator<Item = &Piece> {
        self.pieces.iter().filter(move |piece| (from..to).contains(&piece.ended))
    }
}

fn step(at: Duration) -> usize {
    usize::try_from(at.as_millis() / STEP.as_millis()).unwrap_or(MAX_STEPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(tenths: u64) -> Duration {
        Duration::from_millis(100 * tenths)
    }

    fn record() -> Record {
        let mut record = Record::default();
        for (begun, ended, outcome) in [
            (0, 9, Outcome::Came),
            (10, 30, Outcome::Failed),
            (31, 45, Outcome::Came),
            (46, 47, Outcome::Came),
        ] {
            record.piece(Piece { begun: s(begun), ended: s(ended), outcome });
        }
        record
    }

    #[test]
    fn a_gap_lasts_from_one_piece_to_the_next() {
        let record = record();
        assert_eq!(record.longest_gap(s(0), s(50)), s(36));
        assert_eq!(record.longest_gap(s(10), s(50)), s(35), "from when the fault begins");
        assert_eq!(record.longest_gap(s(46), s(80)), s(33), "and to the end");
    }

    #[test]
    fn downloads_are_back_when_one_that_began_later_is_there() {
        let record = record();
        assert_eq!(record.again_after(s(5)), Some(s(45)));
        assert_eq!(record.again_after(s(46)), Some(s(47)));
        assert_eq!(record.again_after(s(47)), None);
    }

    #[test]
    fn pieces_bytes_and_breaks_count_where_they_happened() {
        let mut record = record();
        assert_eq!((record.came(s(10), s(47)), record.failed(s(10), s(47))), (1, 1));
        record.bytes(s(9), 1_000);
        record.bytes(s(10), 500);
        record.bytes(s(19), 500);
        record.bytes(s(20), 9);
        assert_eq!(record.rate(s(10), s(20)), 1_000.0);
        assert_eq!(record.rate(s(10), s(10)), 0.0);
        record.long_broke(s(12), Outcome::Failed);
        record.long_broke(s(13), Outcome::Wrong);
        assert_eq!((record.breaks(s(10), s(13)), record.wrong()), (1, 1));
    }
}
