//! When rounds start and when they end. Every authority comes to the same times from the wall clock alone.

use std::collections::BTreeMap;
use std::time::Duration;

use tunic_proto::time::UnixTime;

/// Wall-clock time in milliseconds since the Unix epoch: rounds may be as short as a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// The start of a second.
    pub fn at(time: UnixTime) -> Self {
        Moment(time.0.saturating_mul(1_000))
    }

    /// The second that this lies in.
    pub fn unix(self) -> UnixTime {
        UnixTime(self.0 / 1_000)
    }

    /// This plus a duration, saturating.
    pub fn plus(self, duration: Duration) -> Self {
        Moment(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// What authorities of one network must have in common (params may differ: the median counts).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// From one round to the next while there is a valid consensus. Whole seconds.
    pub interval: Duration,
    /// How long votes are waited for.
    pub vote_delay: Duration,
    /// How long signatures are waited for after that.
    pub signature_delay: Duration,
    /// How long a consensus may be used. Whole seconds.
    pub lifetime: Duration,
    /// From one round to the next while there is no valid consensus. Whole seconds.
    pub bootstrap_interval: Duration,
    /// While there is no valid consensus, none is made with fewer relays than this.
    pub bootstrap_relays: usize,
    /// Whether relays at addresses that are not on the public internet are accepted.
    pub allow_private_addresses: bool,
    /// Network-wide settings that this authority votes for.
    pub params: BTreeMap<String, i64>,
}

impl Default for Settings {
    /// Hourly rounds, as docs/protocol.md §10 recommends.
    fn default() -> Self {
        Settings {
            interval: Duration::from_secs(3_600),
            vote_delay: Duration::from_secs(300),
            signature_delay: Duration::from_secs(300),
            lifetime: Duration::from_secs(3 * 3_600),
            bootstrap_interval: Duration::from_secs(10),
            bootstrap_relays: 3,
            allow_private_addresses: false,
            params: BTreeMap::new(),
        }
    }
}

/// Settings with which rounds cannot work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSettings {
    /// An interval is below a second.
    #[error("interval and bootstrap interval must be at least one second")]
    Interval,
    /// The round is not over when the next begins.
    #[error("vote delay and signature delay together must be shorter than the interval")]
    Delays,
    /// A consensus would expire before the next one is made.
    #[error("lifetime must be at least the interval and both delays together")]
    Lifetime,
    /// A network needs a relay.
    #[error("bootstrap relays must be at least 1")]
    Relays,
}

impl Settings {
    /// Whether rounds can work with them.
    ///
    /// # Errors
    /// [`BadSettings`] with the first that cannot.
    pub fn check(&self) -> Result<(), BadSettings> {
        let delays = self.vote_delay.saturating_add(self.signature_delay);
        let checks = [
            (self.interval.as_secs() >= 1 && self.bootstrap_interval.as_secs() >= 1, BadSettings::Interval),
            (!self.vote_delay.is_zero() && delays < self.interval, BadSettings::Delays),
            (self.lifetime >= self.interval.saturating_add(delays), BadSettings::Lifetime),
            (self.bootstrap_relays >= 1, BadSettings::Relays),
        ];
        checks.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, bad)| Err(bad))
    }

    /// When a round starts that lies after `last`: a multiple of the interval.
    pub(super) fn round_after(&self, last: UnixTime, bootstrap: bool) -> UnixTime {
        let step = self.step(bootstrap);
        UnixTime((last.0 / step).saturating_add(1).saturating_mul(step))
    }

    /// The newest round that has started at `now`.
    pub(super) fn round_at(&self, now: Moment, bootstrap: bool) -> UnixTime {
        let step = self.step(bootstrap);
        UnixTime(now.unix().0 / step * step)
    }

    fn step(&self, bootstrap: bool) -> u64 {
        let interval = if bootstrap { self.bootstrap_interval } else { self.interval };
        interval.as_secs().max(1)
    }

    pub(super) fn times(&self, start: UnixTime, bootstrap: bool) -> RoundTimes {
        let begin = Moment::at(start);
        let (votes, signatures) = match bootstrap {
            // A bootstrap round fills its interval, half of it for votes.
            true => (self.bootstrap_interval / 2, self.bootstrap_interval / 2),
            false => (self.vote_delay, self.signature_delay),
        };
        RoundTimes {
            ask: begin.plus(votes / 2),
            vote_deadline: begin.plus(votes),
            end: begin.plus(votes.saturating_add(signatures)),
            fresh_until: self.round_after(start, false),
            valid_until: start.plus(self.lifetime),
        }
    }
}

/// The times of one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RoundTimes {
    /// When votes that are missing are asked for.
    pub ask: Moment,
    /// When the consensus is computed from what is there.
    pub vote_deadline: Moment,
    /// When the round has failed.
    pub end: Moment,
    pub fresh_until: UnixTime,
    pub valid_until: UnixTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_start_at_multiples_of_the_interval() {
        let settings = Settings::default();
        assert_eq!(settings.round_after(UnixTime(3_599), false), UnixTime(3_600));
        assert_eq!(settings.round_after(UnixTime(3_600), false), UnixTime(7_200));
        assert_eq!(settings.round_after(UnixTime(3_600), true), UnixTime(3_610));
        assert_eq!(settings.round_at(Moment(3_609_999), true), UnixTime(3_600));
        assert_eq!(settings.round_after(UnixTime(u64::MAX), false), UnixTime(u64::MAX));
    }

    #[test]
    fn a_bootstrap_consensus_is_fresh_until_the_next_ordinary_round() {
        let settings = Settings::default();
        let times = settings.times(UnixTime(3_590), true);
        assert_eq!((times.fresh_until, times.valid_until), (UnixTime(3_600), UnixTime(3_590 + 10_800)));
        assert_eq!((times.vote_deadline, times.end), (Moment(3_595_000), Moment(3_600_000)));
        let times = settings.times(UnixTime(3_600), false);
        assert_eq!(times.fresh_until, UnixTime(7_200));
        assert_eq!((times.ask, times.vote_deadline), (Moment(3_750_000), Moment(3_900_000)));
    }

    #[test]
    fn settings_with_which_rounds_cannot_work_are_refused() {
        let check = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.check()
        };
        assert_eq!(check(|_| ()), Ok(()));
        assert_eq!(check(|s| s.bootstrap_interval = Duration::from_millis(999)), Err(BadSettings::Interval));
        assert_eq!(check(|s| s.vote_delay = Duration::ZERO), Err(BadSettings::Delays));
        assert_eq!(check(|s| s.interval = Duration::from_secs(600)), Err(BadSettings::Delays));
        assert_eq!(check(|s| s.lifetime = Duration::from_secs(4_199)), Err(BadSettings::Lifetime));
        assert_eq!(check(|s| s.bootstrap_relays = 0), Err(BadSettings::Relays));
    }
}
