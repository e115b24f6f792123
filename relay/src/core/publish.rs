//! When a relay hands its descriptor to which authority.
//!
//! Every authority gets it at the start, when it changed, and every 18 hours; one that did not take it gets it again
//! after a delay that grows.

use std::time::{Duration, Instant};

use rand::Rng;

use super::backoff::Backoff;

/// How long after an authority took the descriptor it gets the next one. Authorities forget a relay after a day.
pub const REPUBLISH: Duration = Duration::from_secs(18 * 60 * 60);
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The longest delay after a failure: an authority that is back is found within minutes.
const MAX_DELAY: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Authority {
    /// When to send; `None` while a copy is on its way.
    due: Option<Instant>,
    /// The descriptor changed while a copy was on its way.
    outdated: bool,
    accepted: bool,
    backoff: Backoff,
}

/// What each authority has of the current descriptor. Authorities are told apart by their index in the configuration.
#[derive(Debug)]
pub struct PublishSchedule {
    authorities: Vec<Authority>,
}

impl PublishSchedule {
    /// Everything is due now.
    pub fn new(authorities: usize, now: Instant) -> Self {
        let authority = || Authority {
            due: Some(now),
            outdated: false,
            accepted: false,
            backoff: Backoff::new(FIRST_DELAY, MAX_DELAY),
        };
        PublishSchedule { authorities: std::iter::repeat_with(authority).take(authorities).collect() }
    }

    /// The descriptor changed: nobody has it.
    pub fn handle_change(&mut self, now: Instant) {
        for authority in &mut self.authorities {
            authority.accepted = false;
            authority.backoff.reset();
            match &mut authority.due {
                Some(due) => *due = now,
                None => authority.outdated = true,
            }
        }
    }

    /// This authority took the descriptor.
    pub fn handle_accepted(&mut self, authority: usize, now: Instant) {
        if let Some(entry) = self.authorities.get_mut(authority) {
            entry.backoff.reset();
            entry.accepted = !entry.outdated;
            entry.due = Some(if entry.outdated { now } else { now + REPUBLISH });
            entry.outdated = false;
        }
    }

    /// This authority could not be reached or did not take it.
    pub fn handle_failure<R: Rng>(&mut self, authority: usize, now: Instant, rng: &mut R) {
        if let Some(entry) = self.authorities.get_mut(authority) {
            entry.due = Some(now + entry.backoff.next_delay(rng));
            entry.outdated = false;
        }
    }

    /// Whom to send it to now. Each stays out until [`Self::handle_accepted`] or [`Self::handle_failure`] is called for it.
    pub fn take_due(&mut self, now: Instant) -> Vec<usize> {
        let mut due = Vec::new();
        for (index, authority) in self.authorities.iter_mut().enumerate() {
            if authority.due.take_if(|due| *due <= now).is_some() {
                due.push(index);
            }
        }
        due
    }

    /// When something is due next; `None` if everything is on its way.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.authorities.iter().filter_map(|authority| authority.due).min()
    }

    /// How many authorities took the current descriptor.
    pub fn accepted(&self) -> usize {
        self.authorities.iter().filter(|authority| authority.accepted).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[expect(clippy::disallowed_methods, reason = "an Instant to count from; its value does not matter")]
    fn start() -> (PublishSchedule, Instant, ChaCha20Rng) {
        let now = Instant::now();
        (PublishSchedule::new(3, now), now, ChaCha20Rng::seed_from_u64(3))
    }

    #[test]
    fn everyone_gets_it_at_once_and_again_after_18_hours() {
        let (mut schedule, now, _) = start();
        assert_eq!(schedule.take_due(now), [0, 1, 2]);
        (0..3).for_each(|index| schedule.handle_accepted(index, now));
        assert_eq!(schedule.accepted(), 3);
        assert_eq!(schedule.poll_timeout(), Some(now + REPUBLISH));
        assert!(schedule.take_due(now + REPUBLISH - Duration::from_secs(1)).is_empty());
        assert_eq!(schedule.take_due(now + REPUBLISH), [0, 1, 2]);
    }

    #[test]
    fn what_is_on_its_way_is_not_sent_again() {
        let (mut schedule, now, _) = start();
        schedule.take_due(now);
        assert_eq!((schedule.poll_timeout(), schedule.take_due(now + REPUBLISH)), (None, vec![]));
    }

    #[test]
    fn only_the_one_that_failed_is_tried_again() {
        let (mut schedule, now, mut rng) = start();
        schedule.take_due(now);
        schedule.handle_accepted(0, now);
        schedule.handle_accepted(1, now);
        schedule.handle_failure(2, now, &mut rng);
        assert!(schedule.take_due(now).is_empty());
        let retry = schedule.poll_timeout().unwrap();
        assert!(retry > now && retry <= now + Duration::from_millis(125));
        assert_eq!(schedule.take_due(retry), [2]);
        schedule.handle_accepted(2, retry);
        assert_eq!((schedule.accepted(), schedule.take_due(retry)), (3, vec![]));
    }

    #[test]
    fn an_authority_that_stays_away_is_asked_every_few_minutes() {
        let (mut schedule, mut now, mut rng) = start();
        for _ in 0..60 {
            schedule.handle_failure(0, now, &mut rng);
            now = schedule.authorities[0].due.unwrap();
        }
        schedule.handle_failure(0, now, &mut rng);
        let delay = schedule.authorities[0].due.unwrap() - now;
        assert!(delay >= MAX_DELAY * 3 / 4 && delay <= MAX_DELAY * 5 / 4, "{delay:?}");
    }

    #[test]
    fn a_change_is_due_everywhere() {
        let (mut schedule, now, _) = start();
        schedule.take_due(now);
        (0..3).for_each(|index| schedule.handle_accepted(index, now));
        schedule.handle_change(now);
        assert_eq!((schedule.accepted(), schedule.take_due(now)), (0, vec![0, 1, 2]));
    }

    #[test]
    fn a_change_while_a_copy_is_on_its_way_is_sent_after_it() {
        let (mut schedule, now, _) = start();
        schedule.take_due(now);
        schedule.handle_change(now);
        assert!(schedule.take_due(now).is_empty());
        (0..3).for_each(|index| schedule.handle_accepted(index, now));
        assert_eq!((schedule.accepted(), schedule.take_due(now)), (0, vec![0, 1, 2]));
    }

    #[test]
    fn an_index_out_of_range_changes_nothing() {
        let (mut schedule, now, _) = start();
        schedule.handle_accepted(3, now);
        assert_eq!(schedule.accepted(), 0);
    }
}
