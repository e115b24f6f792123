//! Tests of [`super`].

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
    // To the year in which machines without a clock begin, with a restart there, and forward again: still used.
    accounting.handle_moved(0, 0, UnixTime(7));
    assert_eq!(accounting.phase(), Phase::Asleep);
    let kept = Some(accounting.record());
    let mut accounting = Accounting::new(allowance(1_000, Rule::Sum), kept, UnixTime(8));
    assert_eq!(accounting.phase(), Phase::Asleep);
    for now in [NOW.0 + 1, NOW.0 - DAY_S, NOW.0 + 2] {
        accounting.handle_moved(0, 0, UnixTime(now));
        assert_eq!((accounting.phase(), accounting.used()), (Phase::Asleep, 1_000), "{now}");
    }
    // The next day is the next day.
    let mut later = accounting.clone();
    later.handle_moved(0, 0, accounting.interval().end);
    assert_eq!((later.phase(), later.used()), (Phase::Awake, 0));
    // Back by days, as after a clock that ran ahead: asleep, and no longer than until the end of that day.
    accounting.handle_moved(0, 0, UnixTime(NOW.0 - 5 * DAY_S));
    assert_eq!(accounting.phase(), Phase::Asleep);
    let end = accounting.interval().end;
    assert!(end < NOW);
    accounting.handle_moved(0, 0, end);
    assert_eq!(accounting.phase(), Phase::Awake);
}

#[test]
fn another_allowance_counts_what_was_used_in_its_interval() {
    let mut accounting = Accounting::new(allowance(1_000, Rule::Sum), None, NOW);
    accounting.handle_moved(900, 100, NOW);
    accounting.set_allowance(allowance(2_000, Rule::Max), NOW);
    assert_eq!((accounting.phase(), accounting.used()), (Phase::Awake, 900));
    // Its interval began an hour ago, that of the one before earlier.
    let hour = |hour: u64| Start { period: Period::Day, hour: (hour % 24) as u8, minute: 0 };
    let now_hour = NOW.0 % DAY_S / 3_600;
    for start in [hour(now_hour), hour(now_hour + 1), Start::default()] {
        accounting.set_allowance(Allowance { start, ..allowance(2_000, Rule::Max) }, NOW);
        assert_eq!(accounting.used(), 900, "{start}");
    }
}
