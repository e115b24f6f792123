use std::cell::RefCell;
use std::collections::HashMap;

use tunic_proto::dir::ExitPolicy;
use tunic_proto::message::{DestroyReason, Target};

use super::*;
use crate::core::path::Hop;
use crate::core::testing::{id, open_policy, policy, relay, start};

/// A pool with a clock and circuits whose streams can be set.
struct Bench {
    pool: Pool,
    now: Instant,
    streams: RefCell<HashMap<CircuitId, usize>>,
}

impl Bench {
    fn new(spares: usize) -> Self {
        let mut bench =
            Bench { pool: Pool::new(spares, BUILD_RATE), now: start(), streams: RefCell::default() };
        bench.pool.network_changed();
        bench
    }

    fn settle(&mut self) -> Vec<Output> {
        let load = |id: CircuitId| self.streams.borrow().get(&id).copied().unwrap_or(0);
        self.pool.settle(self.now, &load);
        std::iter::from_fn(|| self.pool.poll_output()).collect()
    }

    fn want(&mut self, isolation: &str, target: &str, port: u16) -> WantId {
        let target = Target::Name(target.into(), port);
        self.pool.want(
            Want {
                isolation: Isolation::named(isolation),
                need: Need::Target(target),
                not_exits: Vec::new(),
                fresh: false,
            },
            self.now,
        )
    }

    fn built(&mut self, id: CircuitId, exit: u32) {
        self.pool.built(id, &path(exit, open_policy()));
    }

    /// Builds whatever the pool asks for until it asks for nothing, and returns the other outputs.
    fn build_all(&mut self) -> Vec<Output> {
        let mut rest = Vec::new();
        loop {
            let (builds, others): (Vec<_>, Vec<_>) =
                self.settle().into_iter().partition(|output| matches!(output, Output::Build(_)));
            rest.extend(others);
            if builds.is_empty() {
                return rest;
            }
            builds_of(&builds).into_iter().for_each(|build| self.built(build.circuit, 1));
        }
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    fn set_streams(&self, id: CircuitId, streams: usize) {
        self.streams.borrow_mut().insert(id, streams);
    }

    /// The circuit that a stream of this isolation gets; it must be ready.
    fn circuit_for(&mut self, isolation: &str) -> CircuitId {
        let want = self.want(isolation, "example.com", 443);
        let outputs = self.build_all();
        let mut used = outputs.iter().filter_map(|output| match output {
            Output::Use(id, circuit) if *id == want => Some(*circuit),
            _ => None,
        });
        used.next().unwrap_or_else(|| panic!("not served: {outputs:?}"))
    }
}

fn path(exit: u32, exit_policy: ExitPolicy) -> Path {
    Path { hops: [10, 11, exit].map(|number| Hop::from(&relay(number))).to_vec(), exit_policy }
}

fn builds_of(outputs: &[Output]) -> Vec<Build> {
    let builds = outputs.iter().filter_map(|output| match output {
        Output::Build(build) => Some(build.clone()),
        _ => None,
    });
    builds.collect()
}

#[test]
fn nothing_is_built_before_the_network_is_known() {
    let mut bench = Bench { pool: Pool::new(2, BUILD_RATE), now: start(), streams: RefCell::default() };
    bench.want("a", "example.com", 443);
    assert_eq!(bench.settle(), []);
    bench.pool.network_changed();
    assert_eq!(builds_of(&bench.settle()).len(), 3, "one for the want and two spares");
}

#[test]
fn nothing_is_built_with_an_expired_consensus() {
    let mut bench = Bench::new(1);
    bench.build_all();
    bench.pool.network_expired();
    let (served, waits) = (bench.want("a", "example.com", 443), bench.want("b", "example.com", 443));
    let outputs = bench.settle();
    assert!(matches!(outputs[..], [Output::Use(want, _)] if want == served), "{outputs:?}");
    bench.advance(WANT_TIMEOUT);
    assert_eq!(bench.settle(), [Output::Refuse(waits, PathError::NoConsensus.into())]);
}

#[test]
fn two_spares_for_the_web_are_built_ahead() {
    let mut bench = Bench::new(2);
    let builds = builds_of(&bench.settle());
    assert_eq!(builds.len(), 2);
    assert!(builds.iter().all(|build| build.need == Need::Port(443) && build.for_want.is_none()));
    builds.iter().for_each(|build| bench.built(build.circuit, 1));
    assert_eq!(bench.settle(), []);
}

#[test]
fn a_new_isolation_takes_a_spare_at_once_and_keeps_it() {
    let mut bench = Bench::new(2);
    bench.build_all();
    let want = bench.want("a", "example.com", 443);
    let outputs = bench.settle();
    assert!(matches!(outputs[0], Output::Use(used, _) if used == want));
    assert_eq!(builds_of(&outputs).len(), 2, "one to replace it, and one more as demand grew");
    let first = bench.circuit_for("a");
    let other = bench.circuit_for("b");
    assert_ne!(first, other);
    assert_eq!(bench.circuit_for("a"), first);
    assert_eq!(bench.circuit_for("b"), other);
}

#[test]
fn no_circuit_is_shared_between_isolations() {
    let mut bench = Bench::new(2);
    let names: Vec<String> = (0..40).map(|number| format!("isolation {number}")).collect();
    let mut circuits: Vec<_> = names.iter().map(|name| bench.circuit_for(name)).collect();
    circuits.sort();
    circuits.dedup();
    assert_eq!(circuits.len(), names.len());
}

#[test]
fn wants_of_one_isolation_wait_for_one_circuit() {
    let mut bench = Bench::new(0);
    let wants: Vec<_> = (0..50).map(|number| bench.want("a", &format!("host{number}"), 443)).collect();
    let builds = builds_of(&bench.settle());
    assert_eq!(builds.len(), 1);
    bench.built(builds[0].circuit, 1);
    let served = bench.settle();
    assert!(wants.iter().all(|want| served.contains(&Output::Use(*want, builds[0].circuit))));
}

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
    let (waiting, promised) = (bench.pool.waiting(), bench.pool.building().count());
    assert!(promised > 0);
    assert_eq!(bench.pool.held_back(), (waiting - promised) as u64);
}

#[test]
fn spares_follow_demand_up_to_their_bound_and_back() {
    let mut bench = Bench::new(2);
    for number in 0..40 {
        bench.circuit_for(&format!("{number}"));
    }
    let spares = |bench: &Bench| bench.pool.circuits.values().filter(|circuit| circuit.is_spare()).count();
    assert_eq!(spares(&bench), MAX_SPARES);
    bench.advance(DEMAND_WINDOW);
    bench.build_all();
    assert_eq!(bench.pool.spare_target(), 2);
}

#[test]
fn spares_are_built_for_the_ports_that_are_wanted() {
    let mut bench = Bench::new(2);
    bench.want("a", "example.com", 22);
    bench.want("a", "example.com", 443);
    let outputs = bench.settle();
    let spares: Vec<_> = builds_of(&outputs).into_iter().filter(|build| build.for_want.is_none()).collect();
    assert_eq!(
        spares.iter().map(|build| build.need.clone()).collect::<Vec<_>>(),
        [Need::Port(443), Need::Port(22)]
    );
    bench.advance(PORT_MEMORY);
    bench.settle();
    assert!(bench.pool.ports.is_empty());
    for port in 1..100 {
        bench.want("a", "example.com", port);
    }
    assert_eq!(bench.pool.ports.len(), MAX_PORTS);
}

#[test]
fn a_circuit_whose_exit_does_not_let_the_target_through_is_not_used() {
    let mut bench = Bench::new(0);
    let web = bench.want("a", "example.com", 443);
    let build = builds_of(&bench.settle()).remove(0);
    bench.pool.built(build.circuit, &path(1, policy(&["accept *:443"])));
    assert_eq!(bench.settle()[0], Output::Use(web, build.circuit));
    bench.want("a", "example.com", 22);
    let builds = builds_of(&bench.settle());
    assert_eq!(builds.last().unwrap().need, Need::Target(Target::Name("example.com".into(), 22)));
}

#[test]
fn an_exit_that_failed_a_want_is_not_given_to_it_again() {
    let mut bench = Bench::new(0);
    let first = bench.circuit_for("a");
    let want = Want {
        isolation: Isolation::named("a"),
        need: Need::Target(Target::Name("example.com".into(), 443)),
        not_exits: vec![id(1)],
        fresh: false,
    };
    let again = bench.pool.want(want, bench.now);
    let builds = builds_of(&bench.settle());
    let build = builds.iter().find(|build| build.for_want == Some(again)).unwrap();
    assert_eq!(build.not_exits, [id(1)]);
    bench.built(build.circuit, 2);
    assert!(bench.settle().contains(&Output::Use(again, build.circuit)));
    assert_eq!(bench.circuit_for("a"), first, "others still may");
}

#[test]
fn a_stream_whose_circuit_broke_gets_one_that_was_begun_since() {
    let mut bench = Bench::new(2);
    let old = bench.circuit_for("a");
    bench.want("b", "example.com", 443);
    let begun_before = builds_of(&bench.settle()).remove(0);
    bench.advance(Duration::from_millis(1));
    let target = Target::Name("example.com".into(), 443);
    let want = Want {
        isolation: Isolation::named("a"),
        need: Need::Target(target),
        not_exits: Vec::new(),
        fresh: true,
    };
    let wants = [bench.pool.want(want.clone(), bench.now), bench.pool.want(want, bench.now)];
    let builds = builds_of(&bench.settle());
    assert_eq!(builds.len(), 1, "neither its own circuit nor a spare will do");
    bench.built(begun_before.circuit, 1);
    assert!(!bench.settle().iter().any(|output| matches!(output, Output::Use(..))));
    bench.built(builds[0].circuit, 1);
    let served = bench.settle();
    assert!(wants.iter().all(|want| served.contains(&Output::Use(*want, builds[0].circuit))));
    assert_eq!(bench.circuit_for("a"), old, "others still may");
}

#[test]
fn a_dirty_circuit_gets_no_new_streams_and_is_closed_when_idle() {
    let mut bench = Bench::new(0);
    let old = bench.circuit_for("a");
    bench.set_streams(old, 1);
    bench.advance(DIRTY_AFTER - Duration::from_secs(1));
    assert_eq!(bench.circuit_for("a"), old);
    bench.advance(Duration::from_secs(1));
    assert_ne!(bench.circuit_for("a"), old);
    assert!(!bench.settle().contains(&Output::Close(old)), "it still has a stream");
    bench.set_streams(old, 0);
    let check = bench.pool.poll_timeout().unwrap();
    assert!(check <= bench.now + IDLE_CHECK);
    bench.now = check;
    assert_eq!(bench.settle(), [Output::Close(old)]);
}

#[test]
fn a_spare_is_closed_when_it_is_old() {
    let mut bench = Bench::new(1);
    bench.build_all();
    let end = bench.now + SPARE_LIFETIME;
    assert_eq!(bench.pool.poll_timeout(), Some(end));
    bench.now = end;
    let outputs = bench.settle();
    assert!(matches!(outputs[..], [Output::Close(_), Output::Build(_)]), "{outputs:?}");
}

#[test]
fn a_retired_circuit_gets_no_new_streams() {
    let mut bench = Bench::new(0);
    let old = bench.circuit_for("a");
    bench.pool.retire(old);
    assert_eq!(bench.settle()[0], Output::Close(old));
    assert_ne!(bench.circuit_for("a"), old);
}

#[test]
fn a_closed_circuit_is_forgotten() {
    let mut bench = Bench::new(0);
    let old = bench.circuit_for("a");
    bench.pool.closed(old);
    assert_ne!(bench.circuit_for("a"), old);
}

#[test]
fn a_full_circuit_is_joined_by_another() {
    let mut bench = Bench::new(0);
    let first = bench.circuit_for("a");
    bench.set_streams(first, MAX_STREAMS);
    let second = bench.circuit_for("a");
    assert_ne!(first, second);
    bench.set_streams(first, 1);
    bench.set_streams(second, 2);
    assert_eq!(bench.circuit_for("a"), first, "the less loaded one");
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
    let builds = builds_of(&bench.settle());
    builds.iter().for_each(|build| bench.pool.failed(build.circuit, BuildFailure::Guard, bench.now));
    assert_eq!(bench.pool.pause_until, Some(bench.now + FIRST_PAUSE));
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
fn a_want_is_refused_with_the_last_failure_when_its_time_is_over() {
    let mut bench = Bench::new(0);
    let want = bench.want("a", "example.com", 443);
    let build = builds_of(&bench.settle()).remove(0);
    bench.pool.failed(build.circuit, BuildFailure::Guard, bench.now);
    assert_eq!(builds_of(&bench.settle()).len(), 1);
    assert_eq!(bench.pool.poll_timeout(), Some(bench.now + SLOW_BUILD));
    bench.advance(WANT_TIMEOUT);
    assert!(bench.settle().contains(&Output::Refuse(want, BuildFailure::Guard)));
}

#[test]
fn a_want_that_no_exit_lets_through_is_refused_at_once() {
    let mut bench = Bench::new(0);
    let want = bench.want("a", "example.com", 25);
    let build = builds_of(&bench.settle()).remove(0);
    let failure = BuildFailure::Path(PathError::NoExitForPort(25));
    bench.pool.failed(build.circuit, failure, bench.now);
    assert_eq!(bench.settle(), [Output::Refuse(want, failure)]);
    assert_eq!(bench.pool.failures_in_a_row, 0);
}

#[test]
fn waiting_wants_are_bounded() {
    let mut bench = Bench::new(0);
    let wants: Vec<_> = (0..=MAX_WANTS).map(|_| bench.want("a", "example.com", 443)).collect();
    assert_eq!(bench.settle()[0], Output::Refuse(wants[MAX_WANTS], BuildFailure::Busy));
    assert_eq!(bench.pool.wants.len(), MAX_WANTS);
}

#[test]
fn circuits_are_bounded_and_the_longest_idle_one_makes_room() {
    let mut bench = Bench::new(0);
    let circuits: Vec<_> = (0..MAX_CIRCUITS)
        .map(|number| {
            bench.advance(Duration::from_secs(1) / BUILD_RATE.per_second);
            bench.pool.taken.clear();
            bench.circuit_for(&format!("{number}"))
        })
        .collect();
    bench.set_streams(circuits[0], 1);
    bench.want("new", "example.com", 443);
    bench.pool.taken.clear();
    let outputs = bench.settle();
    assert!(outputs.iter().any(|output| matches!(output, Output::Close(id) if !circuits[..1].contains(id))));
    assert!(bench.pool.circuits.len() <= MAX_CIRCUITS);
}

#[test]
fn starting_over_forgets_every_circuit_and_serves_those_who_wait_with_new_ones() {
    let mut bench = Bench::new(2);
    let before = bench.circuit_for("a");
    let waits = bench.want("b", "example.com", 443);
    bench.pool.start_over();
    assert_eq!(bench.pool.standing(before, bench.now), None);
    let outputs = bench.build_all();
    let used = outputs.iter().find_map(|output| match output {
        Output::Use(id, circuit) if *id == waits => Some(*circuit),
        _ => None,
    });
    assert!(used.unwrap() > before, "{outputs:?}");
    assert!(bench.circuit_for("a") > before);
}

#[test]
fn a_want_that_nobody_waits_for_builds_nothing() {
    let mut bench = Bench::new(0);
    let want = bench.want("a", "example.com", 443);
    assert_eq!(bench.pool.waiting(), 1);
    bench.pool.forget(want);
    assert_eq!((bench.settle(), bench.pool.waiting()), (Vec::new(), 0));
}

#[test]
fn a_circuit_says_what_it_is_used_for() {
    let mut bench = Bench::new(1);
    let build = builds_of(&bench.settle())[0].circuit;
    let standing = |bench: &Bench| bench.pool.standing(build, bench.now).unwrap();
    assert_eq!(standing(&bench), Standing::Building);
    bench.built(build, 1);
    assert_eq!(standing(&bench), Standing::Spare);
    assert_eq!(bench.circuit_for("a"), build);
    bench.set_streams(build, 1);
    assert_eq!(standing(&bench), Standing::InUse);
    bench.advance(DIRTY_AFTER);
    assert_eq!(standing(&bench), Standing::Leaving);
}
