//! How many bytes the relay may move in a day, week or month, and when it rests because they are used up.
//!
//! 1. [`Start`] says when intervals begin, in UTC, which has no summer time.
//! 2. [`Accounting::handle_moved`] adds what was moved, and begins a new interval when its time has come.
//! 3. [`Accounting::phase`] says what follows: from `SOFT_PERCENT` of the limit on no new circuits, at the limit nothing.
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
/// 2026-01-01: a clock that says less was not set since the machine started.
const CLOCK_SET: UnixTime = UnixTime(1_767_225_600);
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

    /// The operator allows something else: what was used in the interval that it is now stays used, though intervals may
    /// begin at other times from now on.
    pub fn set_allowance(&mut self, allowance: Allowance, now: UnixTime) {
        let mut record = self.record;
        if now < self.interval.end {
            record.interval_start = record.interval_start.max(allowance.start.interval(now).start);
        }
        *self = Accounting::new(allowance, Some(record), now);
    }

    /// So many bytes more were moved.
    pub fn handle_moved(&mut self, read: u64, written: u64, now: UnixTime) {
        self.turn_over(now);
        self.record.read = self.record.read.saturating_add(read);
        self.record.written = self.record.written.saturating_add(written);
    }

    /// Begins a new interval if it is time. What comes from the next one, because a clock was set back, stays there, and so
    /// does everything while the clock is not set: nothing begins anew when it is right again. What comes from later still
    /// was counted by a clock that was wrong then, and counts in the interval that it is now.
    fn turn_over(&mut self, now: UnixTime) {
        self.interval = self.allowance.start.interval(now);
        let Interval { start, end } = self.interval;
        if self.record.interval_start < start {
            self.record = Record { interval_start: start, ..Record::default() };
        } else if self.record.interval_start > end && now >= CLOCK_SET {
            self.record.interval_start = start;
        }
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
#[path = "accounting_tests.rs"]
mod tests;
