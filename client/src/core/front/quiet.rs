//! How long a connection is kept on which nothing happens.
//!
//! As long as the application has not ended its half it may still speak, and its connection is its own. One that has can only
//! listen: to a target that is silent for so long that most likely nobody listens any more.

use std::time::Duration;

/// What is seen of an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It may still speak.
    Open,
    /// It has said everything, and may still listen.
    HalfClosed,
    /// The same, and it has not taken what came for it: nobody else is to blame that nothing happens.
    Behind,
    /// It has closed its connection, and some of what it said has not left yet.
    Leaving,
    /// It has closed its connection, or its system has.
    Gone,
}

/// How long nothing may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// After the application has ended its half: longer than a slow target thinks.
    pub half_closed: Duration,
    /// After it has closed, before all that it said has left: so long a target may pause.
    pub leaving: Duration,
    /// After that: so long a target may take to accept the last of it.
    pub gone: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            half_closed: Duration::from_secs(600),
            leaving: Duration::from_secs(60),
            gone: Duration::from_secs(10),
        }
    }
}

/// For how long nothing has happened on a connection.
#[derive(Debug, Clone, Copy)]
pub struct Quiet {
    limits: Limits,
    moved: u64,
    quiet_for: Duration,
}

impl Quiet {
    /// Nothing was seen yet.
    pub fn new(limits: Limits) -> Self {
        Quiet { limits, moved: 0, quiet_for: Duration::ZERO }
    }

    /// This is seen now, so long after the last time, and so many bytes were moved altogether. Whether the connection is to
    /// be given up.
    pub fn is_over(&mut self, seen: Seen, moved: u64, since_last: Duration) -> bool {
        if moved != self.moved || matches!(seen, Seen::Open | Seen::Behind) {
            self.moved = moved;
            self.quiet_for = Duration::ZERO;
            return false;
        }
        self.quiet_for = self.quiet_for.saturating_add(since_last);
        match seen {
            Seen::Open | Seen::Behind => false,
            Seen::HalfClosed => self.quiet_for >= self.limits.half_closed,
            Seen::Leaving => self.quiet_for >= self.limits.leaving,
            Seen::Gone => self.quiet_for >= self.limits.gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: Limits = Limits {
        half_closed: Duration::from_secs(60),
        leaving: Duration::from_secs(9),
        gone: Duration::from_secs(3),
    };

    /// How many seconds it is kept, when bytes move every so many seconds.
    fn kept(seen: Seen, moves_every_s: Option<u64>) -> Option<u64> {
        let mut quiet = Quiet::new(LIMITS);
        (1..1_000).find(|second| {
            let moved = moves_every_s.map_or(0, |every| second / every);
            quiet.is_over(seen, moved, SECOND)
        })
    }

    #[test]
    fn whoever_ended_its_half_is_served_while_anything_moves() {
        assert_eq!(kept(Seen::HalfClosed, None), Some(60));
        assert_eq!(kept(Seen::HalfClosed, Some(59)), None);
        assert_eq!(kept(Seen::HalfClosed, Some(100)), Some(60));
    }

    #[test]
    fn whoever_takes_its_time_to_read_is_not_given_up() {
        assert_eq!(kept(Seen::Behind, None), None);
    }

    #[test]
    fn whoever_is_gone_is_not_waited_for() {
        assert_eq!(kept(Seen::Gone, None), Some(3));
        assert_eq!(kept(Seen::Gone, Some(2)), None, "the target still takes what it was sent");
        assert_eq!(kept(Seen::Leaving, None), Some(9), "it may take more after a pause");
        assert_eq!(kept(Seen::Leaving, Some(8)), None);
    }

    #[test]
    fn whoever_may_still_speak_is_never_given_up() {
        assert_eq!(kept(Seen::Open, None), None);
        let mut quiet = Quiet::new(LIMITS);
        for _ in 0..50 {
            assert!(!quiet.is_over(Seen::HalfClosed, 0, SECOND));
        }
        assert!(!quiet.is_over(Seen::Open, 0, SECOND));
        assert!(!quiet.is_over(Seen::HalfClosed, 0, 59 * SECOND), "the time before does not count");
    }
}
