//! How many bytes the relay may move in a day, week or month, and when it rests because they are used up.
//!
//! 1. [`Start`] says when intervals begin, in UTC, which has no summer time.
//! 2. [`Accounting::handle_moved`] adds what was moved, and begins a new interval when its time has come.
//! 3. [`Accounting::phase`] says what follows: from [`SOFT_PERCENT`] of the limit on no new circuits, at the limit nothing.
//!    The relay wakes when the next interval begins.
//!
//! What was used is kept in a file ([`Accounting::record`]), so that a restart begins no new interval.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::{Date, Month, OffsetDateTime, Time};
use tunic_proto::time::UnixTime;

/// From this much of the limit on the relay takes no new circuits: the rest is for those that there are.
const SOFT_PERCENT: u128 = 95;
/// Every month has such a day.
const MAX_MONTH_DAY: u8 = 28;
const DAY_S: u64 = 24 * 60 * 60;
const WEEK_S: u64 = 7 * DAY_S;
/// 1970-01-01 was a Thursday, the first Monday after it the 5th.
const FIRST_MONDAY_S: u64 = 4 * DAY_S;
const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Which bytes count, by the names of C Tor's `AccountingRule`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// The direction in which more was moved.
    #[default]
    Max,
    /// Both together.
    Sum,
    /// What came in.
    In,
    /// What went out.
    Out,
}

/// When intervals begin: `"day 00:00"`, `"week mon 00:00"`, `"month 1 00:00"`, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Start {
    period: Period,
    hour: u8,
    minute: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Period {
    Day,
    /// Days after Monday.
    Week(u8),
    /// Which day of the month, from 1.
    Month(u8),
}

/// No moment at which intervals could begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an interval begins at \"day 00:00\", \"week mon 00:00\" or \"month 1 00:00\" (UTC; the 28th at the latest)"
)]
pub struct StartError;

impl Default for Start {
    fn default() -> Self {
        Start { period: Period::Month(1), hour: 0, minute: 0 }
    }
}

impl FromStr for Start {
    type Err = StartError;

    fn from_str(text: &str) -> Result<Start, StartError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (period, clock) = match words[..] {
            ["day", clock] => (Period::Day, clock),
            ["week", day, clock] => {
                let day = WEEKDAYS.iter().position(|name| *name == day).ok_or(StartError)?;
                (Period::Week(day as u8), clock)
            }
            ["month", day, clock] => (Period::Month(number(day, 1, MAX_MONTH_DAY)?), clock),
            _ => return Err(StartError),
        };
        let (hour, minute) = clock.split_once(':').ok_or(StartError)?;
        Ok(Start { period, hour: number(hour, 0, 23)?, minute: number(minute, 0, 59)? })
    }
}

fn number(text: &str, min: u8, max: u8) -> Result<u8, StartError> {
    let is_plain = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| is_plain && (min..=max).contains(number)).ok_or(StartError)
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.period {
            Period::Day => f.write_str("day")?,
            Period::Week(day) => write!(f, "week {}", WEEKDAYS[usize::from(day) % WEEKDAYS.len()])?,
            Period::Month(day) => write!(f, "month {day}")?,
        }
        write!(f, " {:02}:{:02}", self.hour, self.minute)
    }
}

impl TryFrom<String> for Start {
    type Error = StartError;

    fn try_from(text: String) -> Result<Start, StartError> {
        text.parse()
    }
}

impl From<Start> for String {
    fn from(start: Start) -> String {
        start.to_string()
    }
}

/// A stretch of time; its end is the start of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// Its first second.
    pub start: UnixTime,
    /// The first second after it.
    pub end: UnixTime,
}

impl Start {
    /// The interval in which this moment lies.
    pub fn interval(self, now: UnixTime) -> Interval {
        let offset = u64::from(self.hour) * 3600 + u64::from(self.minute) * 60;
        match self.period {
            Period::Day => regular(now, DAY_S, offset),
            Period::Week(day) => regular(now, WEEK_S, FIRST_MONDAY_S + u64::from(day) * DAY_S + offset),
            // Beyond the years that the calendar has, months are thirty days.
            Period::Month(day) => self.month(now, day).unwrap_or_else(|| regular(now, 30 * DAY_S, 0)),
        }
    }

    fn month(self, now: UnixTime, day: u8) -> Option<Interval> {
        let date = OffsetDateTime::from_unix_timestamp(now.0.try_into().ok()?).ok()?;
        let this = self.begins(date.year(), date.month(), day)?;
        if now < this {
            let year = date.year() - i32::from(date.month() == Month::January);
            return Some(Interval { start: self.begins(year, date.month().previous(), day)?, end: this });
        }
        let year = date.year() + i32::from(date.month() == Month::December);
        Some(Interval { start: this, end: self.begins(year, date.month().next(), day)? })
    }

    fn begins(self, year: i32, month: Month, day: u8) -> Option<UnixTime> {
        let date = Date::from_calendar_date(year, month, day).ok()?;
        let at = date.with_time(Time::from_hms(self.hour, self.minute, 0).ok()?).assume_utc();
        at.unix_timestamp().try_into().ok().map(UnixTime)
    }
}

/// Intervals of the same length, one of which begins at `first`.
fn regular(now: UnixTime, length: u64, first: u64) -> Interval {
    let first = first % length;
    if now.0 < first {
        return Interval { start: UnixTime(0), end: UnixTime(first) };
    }
    let start = now.0 - (now.0 - first) % length;
    Interval { start: UnixTime(start), end: UnixTime(start.saturating_add(length)) }
}

/// What was moved in an interval, as it is kept in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Record {
    /// When the interval began, Unix time.
    pub interval_start: UnixTime,
    /// Bytes that came in.
    pub read: u64,
    /// Bytes that went out.
    pub written: u64,
}

/// What follows from what was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Everything is as usual.
    #[default]
    Awake,
    /// Nearly all is used: no new circuits, and no longer listed.
    Tired,
    /// All is used: no channels at all.
    Asleep,
}

/// What the operator allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Bytes in an interval.
    pub max: u64,
    /// Which of them count.
    pub rule: Rule,
    /// When intervals begin.
    pub start: Start,
}

/// The count of one relay.
#[derive(Debug, Clone)]
pub struct Accounting {
    allowance: Allowance,
    interval: Interval,
    record: Record,
}

impl Accounting {
    /// Goes on from what an earlier run kept.
    pub fn new(allowance: Allowance, kept: Option<Record>, now: UnixTime) -> Accounting {
        let interval = allowance.start.interval(now);
        let empty = Record { interval_start: interval.start, ..Record::default() };
        let mut accounting = Accounting { allowance, interval, record: kept.unwrap_or(empty) };
        accounting.turn_over(now);
        accounting
    }

    /// The operator allows something else: what was used in the interval that it is now stays used.
    pub fn set_allowance(&mut self, allowance: Allowance, now: UnixTime) {
        *self = Accounting::new(allowance, Some(self.record), now);
    }

    /// So many bytes more were moved.
    pub fn handle_moved(&mut self, read: u64, written: u64, now: UnixTime) {
        self.turn_over(now);
        self.record.read = self.record.read.saturating_add(read);
        self.record.written = self.record.written.saturating_add(written);
    }

    /// Begins a new interval if it is time. What comes from a later one, because a clock was wrong, counts in the one that
    /// it is now: nobody gets more by a clock that jumps.
    fn turn_over(&mut self, now: UnixTime) {
        self.interval = self.allowance.start.interval(now);
        if self.record.interval_start < self.interval.start {
            self.record = Record::default();
        }
        self.record.interval_start = self.interval.start;
    }

    /// What to keep.
    pub fn record(&self) -> Record {
        self.record
    }

    /// The interval that it is.
    pub fn interval(&self) -> Interval {
        self.interval
    }

    /// Bytes of it that are used, as the rule counts them.
    pub fn used(&self) -> u64 {
        let Record { read, written, .. } = self.record;
        match self.allowance.rule {
            Rule::Max => read.max(written),
            Rule::Sum => read.saturating_add(written),
            Rule::In => read,
            Rule::Out => written,
        }
    }

    /// Bytes that the interval has.
    pub fn max(&self) -> u64 {
        self.allowance.max
    }

    /// What follows from what was used.
    pub fn phase(&self) -> Phase {
        let (used, max) = (u128::from(self.used()), u128::from(self.allowance.max));
        if used >= max {
            Phase::Asleep
        } else if used * 100 >= max * SOFT_PERCENT {
            Phase::Tired
        } else {
            Phase::Awake
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::macros::datetime;

    fn unix(at: OffsetDateTime) -> UnixTime {
        UnixTime(at.unix_timestamp().try_into().unwrap())
    }

    #[track_caller]
    fn check(start: &str, now: OffsetDateTime, from: OffsetDateTime, to: OffsetDateTime) {
        let interval = start.parse::<Start>().unwrap().interval(unix(now));
        assert_eq!(interval, Interval { start: unix(from), end: unix(to) }, "{start} at {now:?}");
    }

    #[test]
    fn days_weeks_and_months_begin_when_they_should() {
        check(
            "day 00:00",
            datetime!(2026-11-21 18:00 UTC),
            datetime!(2026-11-21 00:00 UTC),
            datetime!(2026-11-22 00:00 UTC),
        );
        check(
            "day 22:30",
            datetime!(2026-11-21 18:00 UTC),
            datetime!(2026-11-20 22:30 UTC),
            datetime!(2026-11-21 22:30 UTC),
        );
        check(
            "day 00:00",
            datetime!(2026-11-21 00:00 UTC),
            datetime!(2026-11-21 00:00 UTC),
            datetime!(2026-11-22 00:00 UTC),
        );
        // A Saturday; and a Monday one second before and at the start.
        check(
            "week mon 00:00",
            datetime!(2026-11-21 18:00 UTC),
            datetime!(2026-11-16 00:00 UTC),
            datetime!(2026-11-23 00:00 UTC),
        );
        check(
            "week mon 06:00",
            datetime!(2026-11-23 05:59:59 UTC),
            datetime!(2026-11-16 06:00 UTC),
            datetime!(2026-11-23 06:00 UTC),
        );
        check(
            "week sun 06:00",
            datetime!(2026-11-22 06:00 UTC),
            datetime!(2026-11-22 06:00 UTC),
            datetime!(2026-11-29 06:00 UTC),
        );
        check(
            "month 1 00:00",
            datetime!(2026-11-21 18:00 UTC),
            datetime!(2026-11-01 00:00 UTC),
            datetime!(2026-12-01 00:00 UTC),
        );
        check(
            "month 28 12:00",
            datetime!(2027-01-03 00:00 UTC),
            datetime!(2026-12-28 12:00 UTC),
            datetime!(2027-01-28 12:00 UTC),
        );
        check(
            "month 1 00:00",
            datetime!(2026-12-31 23:59:59 UTC),
            datetime!(2026-12-01 00:00 UTC),
            datetime!(2027-01-01 00:00 UTC),
        );
    }

    #[test]
    fn leap_years_have_their_day_and_clocks_do_not_change_in_summer() {
        check(
            "month 28 00:00",
            datetime!(2028-02-29 00:00 UTC),
            datetime!(2028-02-28 00:00 UTC),
            datetime!(2028-03-28 00:00 UTC),
        );
        check(
            "month 1 00:00",
            datetime!(2028-02-29 23:59 UTC),
            datetime!(2028-02-01 00:00 UTC),
            datetime!(2028-03-01 00:00 UTC),
        );
        check(
            "month 1 00:00",
            datetime!(2100-02-28 23:59 UTC),
            datetime!(2100-02-01 00:00 UTC),
            datetime!(2100-03-01 00:00 UTC),
        );
        check(
            "day 02:30",
            datetime!(2026-03-29 03:00 UTC),
            datetime!(2026-03-29 02:30 UTC),
            datetime!(2026-03-30 02:30 UTC),
        );
        let days = |start: &str, now| {
            let interval = start.parse::<Start>().unwrap().interval(unix(now));
            interval.end.since(interval.start).as_secs() / DAY_S
        };
        assert_eq!(days("month 1 00:00", datetime!(2028-02-10 00:00 UTC)), 29);
        assert_eq!(days("month 1 00:00", datetime!(2027-02-10 00:00 UTC)), 28);
        assert_eq!(days("month 1 00:00", datetime!(2026-12-10 00:00 UTC)), 31);
    }

    #[test]
    fn what_is_no_start_is_refused_and_what_is_one_survives_being_written() {
        for text in ["day 00:00", "week sat 23:59", "month 28 07:05"] {
            assert_eq!(text.parse::<Start>().unwrap().to_string(), text);
        }
        let wrong = [
            "",
            "day",
            "day 24:00",
            "day 1:60",
            "week 00:00",
            "week mo 0:0",
            "month 0 0:0",
            "month 29 0:0",
            "year 0:0",
            "day +1:00",
        ];
        for text in wrong {
            assert!(text.parse::<Start>().is_err(), "{text}");
        }
    }

    proptest! {
        /// Every moment lies in its interval, and the next interval begins where it ends.
        #[test]
        fn intervals_follow_each_other(
            now in 0_u64..8_000_000_000,
            text in prop::sample::select(vec!["day 13:37", "week wed 04:00", "month 31 00:00", "month 28 23:59", "month 1 00:00"]),
        ) {
            let Ok(start) = text.parse::<Start>() else { return Ok(()) };
            let interval = start.interval(UnixTime(now));
            prop_assert!(interval.start.0 <= now && now < interval.end.0);
            prop_assert_eq!(start.interval(interval.start), interval);
            prop_assert_eq!(start.interval(UnixTime(interval.end.0 - 1)), interval);
            prop_assert_eq!(start.interval(interval.end).start, interval.end);
        }
    }

    #[test]
    fn absurd_moments_are_in_some_interval() {
        for text in ["day 13:37", "week wed 04:00", "month 5 00:00"] {
            for now in [0, 1, u64::MAX - 1, u64::MAX] {
                let interval = text.parse::<Start>().unwrap().interval(UnixTime(now));
                assert!(interval.start.0 <= now && now <= interval.end.0, "{text} {now}: {interval:?}");
            }
        }
    }

    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn allowance(max: u64, rule: Rule) -> Allowance {
        Allowance { max, rule, start: "day 00:00".parse().unwrap() }
    }

    #[test]
    fn the_relay_tires_and_falls_asleep_and_wakes_with_the_next_interval() {
        let mut accounting = Accounting::new(allowance(1_000, Rule::Max), None, NOW);
        accounting.handle_moved(949, 100, NOW);
        assert_eq!((accounting.phase(), accounting.used()), (Phase::Awake, 949));
        accounting.handle_moved(1, 0, NOW);
        assert_eq!(accounting.phase(), Phase::Tired);
        accounting.handle_moved(0, 900, NOW);
        assert_eq!((accounting.phase(), accounting.used()), (Phase::Asleep, 1_000));
        let end = accounting.interval().end;
        accounting.handle_moved(0, 0, UnixTime(end.0 - 1));
        assert_eq!(accounting.phase(), Phase::Asleep);
        accounting.handle_moved(5, 0, end);
        assert_eq!((accounting.phase(), accounting.used()), (Phase::Awake, 5));
    }

    #[test]
    fn rules_count_what_their_names_say() {
        let used = |rule| {
            let mut accounting = Accounting::new(allowance(1_000, rule), None, NOW);
            accounting.handle_moved(300, 200, NOW);
            accounting.used()
        };
        assert_eq!([Rule::Max, Rule::Sum, Rule::In, Rule::Out].map(used), [300, 500, 300, 200]);
    }

    #[test]
    fn a_restart_goes_on_and_a_new_interval_begins_anew() {
        let mut accounting = Accounting::new(allowance(1_000, Rule::Sum), None, NOW);
        accounting.handle_moved(500, 500, NOW);
        let kept = accounting.record();
        let again = Accounting::new(allowance(1_000, Rule::Sum), Some(kept), UnixTime(NOW.0 + 1));
        assert_eq!(again.phase(), Phase::Asleep);
        let later = Accounting::new(allowance(1_000, Rule::Sum), Some(kept), accounting.interval().end);
        assert_eq!((later.phase(), later.used()), (Phase::Awake, 0));
    }

    #[test]
    fn a_clock_that_jumps_wins_nothing() {
        let mut accounting = Accounting::new(allowance(1_000, Rule::Sum), None, NOW);
        accounting.handle_moved(500, 500, NOW);
        // Back by days: still asleep, and no longer than until the end of that day.
        accounting.handle_moved(0, 0, UnixTime(NOW.0 - 5 * DAY_S));
        assert_eq!(accounting.phase(), Phase::Asleep);
        assert_eq!(accounting.interval().end.0, accounting.interval().start.0 + DAY_S);
        assert!(accounting.interval().end < NOW);
    }

    #[test]
    fn another_allowance_counts_what_was_used_in_its_interval() {
        let mut accounting = Accounting::new(allowance(1_000, Rule::Sum), None, NOW);
        accounting.handle_moved(900, 100, NOW);
        accounting.set_allowance(allowance(2_000, Rule::Max), NOW);
        assert_eq!((accounting.phase(), accounting.used()), (Phase::Awake, 900));
    }
}
