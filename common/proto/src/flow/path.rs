//! The delay of a path, as all windows on it have seen it.

use std::time::{Duration, Instant};

use crate::ids::CircId;

/// How long a hop's shortest round trip is remembered at least, and about half of how long at most.
const MEMORY: Duration = Duration::from_secs(30);
/// How often windows let queues run out, and how late is too late for it.
const DIP_EVERY: Duration = Duration::from_secs(10);
const DIP_WITHIN: Duration = Duration::from_secs(1);
/// How long an answer is waited for that would show a round trip.
const ASKED: Duration = Duration::from_secs(1);

/// What a window bounds, which says how large it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// A circuit between two neighbours: what queues on the link between them delays everything that uses it, and what queues at
    /// the receiver everything else on the circuit.
    Hop,
    /// A stream between its ends: two more round trips than it needs, so that it is the hops that bound what is on the way.
    EndToEnd,
}

/// The last moment at which relays' windows let queues run out, by the clock of all.
pub fn last_dip(now: Instant, unix_ms: u64) -> Instant {
    let since = Duration::from_millis(unix_ms % DIP_EVERY.as_millis() as u64);
    now.checked_sub(since).unwrap_or(now + (DIP_EVERY - since))
}

/// The shortest round trip of a path: of a hop in the last 30 to 60 seconds, of one between ends ever.
///
/// Windows on the same path share it, because one that begins while others fill the queues there would take these for the path.
/// An honest peer sends no cell before it has the grant. One that guesses when a grant will come makes the round trip shorter, and with it
/// the windows of its own channel.
#[derive(Debug)]
pub struct PathRtt {
    span: Span,
    /// When the windows let queues run out together: then and every [`DIP_EVERY`].
    dips_from: Option<Instant>,
    since: Option<Instant>,
    now: Duration,
    before: Duration,
    /// What was sent that one circuit answers at once, and when.
    asked: Option<(CircId, Instant)>,
}

impl PathRtt {
    /// Of a hop. Whoever shares a queue has to let it run out at the same time, so `dips_from` is a moment that all relays agree on.
    /// `None` for a client, whose clock must not show: there each window does by itself, counted from its own first round.
    pub fn hop(dips_from: Option<Instant>) -> PathRtt {
        PathRtt { span: Span::Hop, dips_from, ..PathRtt::end_to_end() }
    }

    /// Of the path between the ends of streams.
    pub fn end_to_end() -> PathRtt {
        let never = Duration::MAX;
        PathRtt { span: Span::EndToEnd, dips_from: None, since: None, now: never, before: never, asked: None }
    }

    pub(super) fn span(&self) -> Span {
        self.span
    }

    /// `CREATE` or `CREATED` was sent; what comes next on this circuit is the answer.
    pub(crate) fn ask(&mut self, id: CircId, now: Instant) {
        if self.asked.is_none_or(|(_, at)| now.saturating_duration_since(at) > ASKED) {
            self.asked = Some((id, now));
        }
    }

    /// A cell came on this circuit.
    pub(crate) fn answered(&mut self, id: CircId, now: Instant) {
        if let Some((_, at)) = self.asked.take_if(|(asked, _)| *asked == id) {
            self.update(now, now.saturating_duration_since(at));
        }
    }

    /// Takes note of a round trip; returns the shortest.
    pub(super) fn update(&mut self, now: Instant, took: Duration) -> Duration {
        let since = *self.since.get_or_insert(now);
        let age = now.saturating_duration_since(since);
        if self.span == Span::Hop && age >= MEMORY {
            self.since = Some(now);
            let before = std::mem::replace(&mut self.now, Duration::MAX);
            self.before = if age < 2 * MEMORY { before } else { Duration::MAX };
        }
        self.now = self.now.min(took);
        self.now.min(self.before)
    }

    /// Which time it is that a window which began at `began` has to let queues run out; `None` except in the first moments of each.
    pub(super) fn dip(&self, began: Instant, now: Instant) -> Option<u64> {
        let since = now.saturating_duration_since(self.dips_from.unwrap_or(began)).as_millis() as u64;
        let every = DIP_EVERY.as_millis() as u64;
        let is_time = self.span == Span::Hop && since % every < DIP_WITHIN.as_millis() as u64;
        is_time.then_some(since / every).filter(|number| *number > 0)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test has to begin at some time")]
mod tests {
    use super::*;

    #[test]
    fn relays_let_queues_run_out_at_the_same_moments_and_clients_at_their_own() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        // Two relays, one of which opens its channel four seconds later; a window of each that began at some time.
        let (first, second) = (
            PathRtt::hop(Some(last_dip(at(7_000), 1_000_007_000))),
            PathRtt::hop(Some(last_dip(at(11_000), 1_000_011_000))),
        );
        for (ms, is_time) in [(9_999, false), (10_000, true), (10_999, true), (11_000, false), (20_500, true)]
        {
            assert_eq!(first.dip(at(7_500), at(ms)).is_some(), is_time, "{ms}");
            assert_eq!(second.dip(at(11_500), at(ms + 10_000)).is_some(), is_time, "{ms}");
        }
        let client = PathRtt::hop(None);
        assert_eq!(client.dip(at(300), at(10_000)), None);
        assert_eq!(client.dip(at(300), at(10_300)), Some(1));
        assert_eq!(client.dip(at(300), at(300)), None, "it has just begun");
        assert_eq!(PathRtt::end_to_end().dip(at(0), at(10_000)), None);
    }

    #[test]
    fn an_answer_shows_a_round_trip_and_a_hop_forgets_it() {
        let (now, id) = (Instant::now(), CircId(1));
        let at = |ms| now + Duration::from_millis(ms);
        let long = Duration::from_millis(900);
        for (mut path, forgets) in [(PathRtt::hop(None), true), (PathRtt::end_to_end(), false)] {
            path.ask(id, at(0));
            path.ask(CircId(2), at(10));
            path.answered(CircId(2), at(20));
            path.answered(id, at(50));
            path.answered(id, at(51));
            assert_eq!(
                path.update(at(60), long).as_millis(),
                50,
                "of the one that was asked first, and once"
            );
            path.ask(id, at(100));
            path.ask(CircId(2), at(1_200));
            path.answered(CircId(2), at(1_240));
            assert_eq!(path.update(at(1_300), long).as_millis(), 40, "the first was not answered");
            assert_eq!(path.update(at(40_000), long).as_millis(), 40);
            assert_eq!(path.update(at(75_000), long).as_millis(), if forgets { 900 } else { 40 });
        }
    }
}
