//! When circuits are begun: at a rate, in turn, and again after failures.

use super::*;

#[test]
fn wants_of_many_isolations_start_a_bounded_number_of_builds() {
    let mut bench = Bench::new(2);
    let wants: Vec<_> = (0..50).map(|number| bench.want(&format!("{number}"), "example.com", 443)).collect();
    let builds = builds_of(&bench.settle());
    assert_eq!(builds.len(), MAX_BUILDS);
    builds.iter().for_each(|build| bench.built(build.circuit, 1));
    let served = bench.build_all();
    for want in wants {
        assert!(served.iter().any(|output| matches!(output, Output::Use(id, _) if *id == want)));
    }
}

#[test]
fn a_circuit_that_is_built_too_slowly_gets_a_rival() {
    let mut bench = Bench::new(0);
    let want = bench.want("a", "example.com", 443);
    let first = builds_of(&bench.settle());
    assert_eq!(first.len(), 1);
    bench.advance(SLOW_BUILD - Duration::from_secs(1));
    assert!(builds_of(&bench.settle()).is_empty());
    bench.now = bench.pool.poll_timeout().unwrap();
    let second = builds_of(&bench.settle());
    assert_eq!(second.len(), 1, "at once when it is slow");
    bench.built(second[0].circuit, 1);
    assert!(bench.settle().contains(&Output::Use(want, second[0].circuit)));
}

#[test]
fn fifty_new_isolations_are_served_at_once_and_a_flood_at_a_rate() {
    let mut bench = Bench::new(2);
    bench.build_all();
    let ask = |bench: &mut Bench, name: &str, count: usize| -> Vec<WantId> {
        (0..count).map(|number| bench.want(&format!("{name} {number}"), "example.com", 443)).collect()
    };
    let served = |outputs: &[Output], wants: &[WantId]| {
        let used = |want: &&WantId| outputs.iter().any(|it| matches!(it, Output::Use(id, _) if id == *want));
        wants.iter().filter(used).count()
    };
    let first = ask(&mut bench, "a person", 50);
    assert_eq!(served(&bench.build_all(), &first), 50);
    assert_eq!((bench.pool.held_back(), bench.pool.is_holding_back(bench.now)), (0, false));

    let flood = ask(&mut bench, "a page", 400);
    let at_once = served(&bench.build_all(), &flood);
    assert!(at_once <= BUILD_RATE.burst as usize - 50 + MAX_SPARES, "{at_once}");
    assert_eq!(bench.pool.held_back(), 400 - at_once as u64);
    assert!(bench.pool.is_holding_back(bench.now));
    for _ in 0..10 {
        bench.settle();
        bench.now = bench.pool.poll_timeout().unwrap();
        assert_eq!(served(&bench.build_all(), &flood), 1, "each time that the rate lets one more begin");
    }
    assert_eq!(bench.pool.held_back(), 400 - at_once as u64, "each counted once");
    assert_eq!(
        bench.circuit_for("a person 0"),
        bench.circuit_for("a person 0"),
        "who has one is not held back"
    );
    let end = bench.now + WANT_TIMEOUT;
    let mut over = Vec::new();
    while bench.now < end {
        bench.now = bench.pool.poll_timeout().unwrap();
        over.extend(bench.build_all());
    }
    assert!(over.contains(&Output::Refuse(flood[399], BuildFailure::Busy)));
    assert_eq!(bench.pool.waiting(), 0);
}

#[test]
fn builds_that_sent_nothing_leave_the_rate_to_others() {
    let mut bench = Bench::new(0);
    for number in 0..200 {
        bench.want(&format!("{number}"), "example.com", 25);
    }
    let failure = BuildFailure::Path(PathError::NoExitForPort(25));
    let mut refused = 0;
    while bench.pool.waiting() > 0 {
        let outputs = bench.settle();
        refused += outputs
            .iter()
            .filter(|output| matches!(output, Output::Refuse(_, why) if *why == failure))
            .count();
        let builds = builds_of(&outputs);
        assert!(!builds.is_empty() || bench.pool.waiting() == 0, "they wait for the rate");
        builds.iter().for_each(|build| bench.pool.failed(build.circuit, failure, bench.now));
    }
    refused += bench.settle().len();
    assert_eq!((refused, bench.pool.held_back()), (200, 0));
    for number in 0..50 {
        bench.circuit_for(&format!("{number}"));
    }
}

/// A want of this application for this host, where hosts share no circuits.
fn want_apart(bench: &mut Bench, application: &str, host: usize, port: u16) -> WantId {
    let host = format!("host{host}.example");
    let isolation = Isolation { destination: Some(host.clone()), ..Isolation::named(application) };
    let need = Need::Target(Target::Name(host, port));
    bench.pool.want(Want { isolation, need, not_exits: Vec::new(), fresh: false }, bench.now)
}

#[test]
fn a_flood_of_one_application_does_not_hold_up_another() {
    let mut bench = Bench::new(0);
    for host in 0..400 {
        want_apart(&mut bench, "a flood", host, 443);
    }
    bench.build_all();
    assert!(bench.pool.is_holding_back(bench.now));
    bench.advance(Duration::from_secs(1) / BUILD_RATE.per_second);
    let other = want_apart(&mut bench, "another", 0, 443);
    let outputs = bench.build_all();
    assert!(outputs.iter().any(|it| matches!(it, Output::Use(id, _) if *id == other)), "{outputs:?}");
}

#[test]
fn who_only_waits_for_a_circuit_that_is_being_built_is_not_held_back() {
    let mut bench = Bench::new(0);
    for host in 0..400 {
        want_apart(&mut bench, "a flood", host, 443);
    }
    let mut begun = Vec::new();
    while bench.pool.held_back() == 0 {
        begun.iter().for_each(|build: &Build| bench.built(build.circuit, 1));
        begun = builds_of(&bench.settle());
    }
    let (waiting, promised) = (bench.pool.waiting(), bench.pool.circuits.building().count());
    assert!(promised > 0);
    assert_eq!(bench.pool.held_back(), (waiting - promised) as u64);
}

#[test]
fn failed_builds_are_repeated_with_growing_pauses() {
    let mut bench = Bench::new(0);
    let want = bench.want("a", "example.com", 443);
    let failure = BuildFailure::Hop { hop: 1, reason: DestroyReason::ConnectFailed };
    let mut pauses = Vec::new();
    loop {
        let builds = builds_of(&bench.settle());
        if !bench.pool.wants.contains_key(&want) {
            break;
        }
        builds.iter().for_each(|build| bench.pool.failed(build.circuit, failure, bench.now));
        if let Some(until) = bench.pool.pause_until {
            assert_eq!(bench.settle(), [], "nothing is built during the pause");
            pauses.push(until - bench.now);
            bench.now = until;
        }
    }
    assert_eq!(pauses[0], FIRST_PAUSE);
    assert!(pauses.len() >= 8);
    assert!(pauses.windows(2).all(|pair| pair[1] == (pair[0] * 2).min(MAX_PAUSE)), "{pauses:?}");
}

#[test]
fn builds_that_fail_together_count_once() {
    let mut bench = Bench::new(0);
    for number in 0..8 {
        bench.want(&format!("{number}"), "example.com", 443);
    }
    for generation in 1..=FREE_FAILURES {
        let builds = builds_of(&bench.settle());
        assert_eq!(builds.len(), 8);
        for build in builds {
            bench.advance(Duration::from_millis(1));
            bench.pool.failed(build.circuit, BuildFailure::Guard, bench.now);
            assert_eq!(bench.pool.failures_in_a_row(), generation);
        }
    }
    assert!(bench.pool.pause_until.is_some());
}

#[test]
fn slow_builds_leave_room_for_others_up_to_a_bound() {
    let mut bench = Bench::new(0);
    for number in 0..2 * MAX_BUILDS_WITH_SLOW {
        bench.want(&format!("{number}"), "example.com", 443);
    }
    for _ in 0..MAX_BUILDS_WITH_SLOW / MAX_BUILDS {
        assert_eq!(builds_of(&bench.settle()).len(), MAX_BUILDS);
        bench.advance(SLOW_BUILD);
    }
    assert_eq!(builds_of(&bench.settle()), []);
}

#[test]
fn a_new_consensus_ends_the_pause() {
    let mut bench = Bench::new(1);
    for _ in 0..FREE_FAILURES {
        let build = builds_of(&bench.settle()).remove(0);
        bench.pool.failed(build.circuit, PathError::NoGuard.into(), bench.now);
    }
    assert_eq!(bench.settle(), []);
    bench.pool.network_changed();
    assert_eq!(builds_of(&bench.settle()).len(), 1);
}

#[test]
fn whoever_is_held_back_while_a_guard_stands_still_is_told_of_the_guard() {
    let mut bench = Bench::new(0);
    let wants: Vec<_> = (0..200).map(|number| bench.want(&format!("{number}"), "example.com", 443)).collect();
    loop {
        let given_up = builds_of(&bench.settle());
        if given_up.is_empty() {
            break;
        }
        given_up.iter().for_each(|build| bench.pool.closed(build.circuit));
        bench.pool.guard_fell_silent();
    }
    assert!(bench.pool.held_back() > 0);
    assert_eq!(bench.pool.failures_in_a_row(), 0);
    bench.advance(WANT_TIMEOUT);
    let silent = BuildFailure::Hop { hop: 0, reason: DestroyReason::Timeout };
    assert!(bench.settle().contains(&Output::Refuse(wants[199], silent)));
}
