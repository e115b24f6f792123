//! What the circuits of a channel hold, asked for when memory runs out, and the end of those that have to go.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::inbox::{CircKey, Inbox, Slot};
use super::mail::Mail;
use super::table::{Circuit, Kind};
use super::{Channel, ChannelError};
use crate::cell::CELL_LEN;
use crate::counters::Incident;
use crate::limits::Holding;
use crate::message::DestroyReason;

/// A circuit that holds data.
pub struct Held {
    inbox: Arc<Inbox>,
    key: CircKey,
    age: Duration,
    bytes: usize,
}

impl Held {
    /// Ends the circuit.
    pub fn shed(&self) {
        let _ = self.inbox.post(Mail::Shed(self.key));
    }
}

impl Holding for Held {
    fn age(&self) -> Duration {
        self.age
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Where a channel's answer goes; dropped once it was given, or when there is nobody to give it.
pub type Answer = Box<dyn FnOnce(Vec<Held>) + Send>;

impl Inbox {
    /// Asks which circuits hold data that is as old. A channel that has closed holds none.
    pub fn survey(&self, min_age: Duration, answer: Answer) {
        let _ = self.post(Mail::Survey(min_age, answer));
    }
}

/// A cell in line, and when it came: milliseconds since the channel's beginning, which begin anew after 49 days.
#[derive(Clone, Copy)]
pub(super) struct Queued {
    pub(super) slot: Slot,
    pub(super) at_ms: u32,
}

/// Counts milliseconds from the first moment that it sees.
#[derive(Default)]
pub(super) struct Stopwatch(Option<Instant>);

impl Stopwatch {
    pub(super) fn at_ms(&mut self, now: Instant) -> u32 {
        // The lower half: only differences are used.
        now.saturating_duration_since(*self.0.get_or_insert(now)).as_millis() as u32
    }
}

/// What the queued cells of a channel keep of its storage. A cell that is left alone keeps a whole page, so circuits are held
/// to their share of the pages: with their cells alone, most of the memory would be nobody's.
#[derive(Clone, Copy)]
struct Storage {
    kept_bytes: usize,
    cell_bytes: usize,
}

impl Storage {
    fn of(inbox: &Inbox) -> Storage {
        let (kept_bytes, cell_bytes) = inbox.kept_bytes();
        Storage { kept_bytes, cell_bytes }
    }

    /// The share of so many bytes of cells.
    fn share(self, bytes: usize) -> usize {
        let share = bytes as u128 * self.kept_bytes as u128 / self.cell_bytes.max(1) as u128;
        usize::try_from(share).unwrap_or(usize::MAX)
    }
}

impl Circuit {
    /// How old the oldest data is that it holds on this channel, and how many bytes that takes of the channel's storage and of
    /// its streams'; `None` if there is none.
    fn held(&self, now: Instant, now_ms: u32, storage: Storage) -> Option<(Duration, usize)> {
        let cells = self.queue.front().map(|first| {
            let age_ms = now_ms.wrapping_sub(first.at_ms);
            (Duration::from_millis(age_ms.into()), storage.share(self.queue.len() * CELL_LEN))
        });
        let data = match &self.kind {
            Kind::Endpoint(endpoint) => endpoint.streams.held(now),
            _ => None,
        };
        match (cells, data) {
            (Some((one, cells)), Some((other, data))) => Some((one.max(other), cells + data)),
            (one, other) => one.or(other),
        }
    }
}

impl Channel {
    pub(super) fn answer_survey(&mut self, now: Instant, min_age: Duration, answer: Answer) {
        // Memory is short: what is empty goes before anybody's circuit.
        self.inbox.rest();
        let now_ms = self.stopwatch.at_ms(now);
        let storage = Storage::of(&self.inbox);
        let mut all = Vec::new();
        for key in self.table.keys() {
            let held = self.table.get(key).and_then(|circuit| circuit.held(now, now_ms, storage));
            if let Some((age, bytes)) = held.filter(|(age, _)| *age >= min_age) {
                all.push(Held { inbox: self.inbox.clone(), key, age, bytes });
            }
        }
        answer(all);
    }

    pub(super) fn shed(&mut self, key: CircKey) {
        if self.table.get(key).is_some() {
            self.config.counters.count(Incident::Shed);
            self.end_circuit(key, DestroyReason::Resources);
        }
    }

    /// To be called now and then, a minute apart: circuits that were not used meanwhile give back what they do not need,
    /// and the channel its storage.
    ///
    /// # Errors
    /// [`ChannelError::NotReading`] if the peer has left a `DESTROY` unanswered since the last time: the channel has to end. The
    /// error is counted.
    pub fn rest(&mut self) -> Result<(), ChannelError> {
        if self.closing.grow_old() {
            self.config.counters.count(ChannelError::NotReading.incident());
            return Err(ChannelError::NotReading);
        }
        for key in self.table.keys() {
            if let Some(circuit) = self.table.get_mut(key) {
                circuit.window.rest();
                match &mut circuit.kind {
                    Kind::Endpoint(endpoint) => endpoint.streams.rest(),
                    Kind::Origin(origin) => origin.streams.rest(),
                    _ => {}
                }
                if circuit.queue.is_empty() {
                    circuit.queue.shrink_to_fit();
                }
            }
        }
        self.inbox.rest();
        Ok(())
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({:?}, {} bytes)", self.age, self.bytes)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test has to begin at some time")]
mod tests {
    use super::super::testing::channel;
    use super::*;
    use crate::flow::RecvWindow;
    use crate::ids::{CircId, HopNum};

    const AGE: Duration = Duration::from_millis(300);

    /// What circuits hold whose data is as old.
    fn held(channel: &mut Channel, now: Instant) -> Vec<usize> {
        let (answer, answers) = std::sync::mpsc::channel();
        channel.answer_survey(now, AGE, Box::new(move |held| answer.send(held).unwrap()));
        answers.recv().unwrap().iter().map(Holding::bytes).collect()
    }

    fn circuit(channel: &mut Channel, id: u32) -> CircKey {
        let window = RecvWindow::unreserved(&channel.config.budget, &channel.rtt);
        channel.table.insert(Circuit::new(CircId(id), Kind::Answering(HopNum::FIRST), window))
    }

    #[test]
    fn a_cell_that_is_left_alone_counts_as_the_page_that_it_keeps() {
        let (mut channel, now) = (channel(10), Instant::now());
        let [stuck, gone] = [1, 2].map(|id| circuit(&mut channel, id));
        assert!(held(&mut channel, now).is_empty());
        let cells = (0..64 * 64).map(|n| (if n % 64 == 0 { stuck } else { gone }, &[0; CELL_LEN]));
        channel.inbox.push_cells(cells);
        channel.handle_inbox(now);
        let now = now + AGE;
        assert_eq!(held(&mut channel, now), [64 * CELL_LEN, 63 * 64 * CELL_LEN]);
        channel.end_circuit(gone, DestroyReason::None);
        channel.free_garbage();
        assert_eq!(held(&mut channel, now), [64 * 64 * CELL_LEN]);
    }

    #[test]
    fn who_moves_on_stays() {
        let (mut channel, now) = (channel(10), Instant::now());
        let [stuck, slow] = [1, 2].map(|id| circuit(&mut channel, id));
        let mut push = |key, at| {
            channel.inbox.push_cells(std::iter::once((key, &[0; CELL_LEN])));
            channel.handle_inbox(at);
        };
        push(stuck, now);
        push(slow, now + Duration::from_millis(1));
        assert!(held(&mut channel, now + AGE - Duration::from_millis(1)).is_empty());
        assert_eq!(held(&mut channel, now + AGE).len(), 1);
        assert_eq!(held(&mut channel, now + AGE + Duration::from_millis(1)).len(), 2);
    }
}
