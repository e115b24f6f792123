//! Which circuit a stream gets, and when a circuit ends.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

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
fn those_that_get_a_circuit_together_share_its_room() {
    let mut bench = Bench::new(0);
    let first = bench.circuit_for("a");
    // How many of five that ask at once get the first circuit, and which other one the rest gets.
    let given = |bench: &mut Bench| {
        for number in 0..5 {
            bench.want("a", &format!("host{number}"), 443);
        }
        let outputs = bench.settle();
        let used = outputs.iter().filter_map(|output| match output {
            Output::Use(_, circuit) => Some(*circuit),
            _ => None,
        });
        let (of_first, mut others): (Vec<_>, Vec<_>) = used.partition(|circuit| *circuit == first);
        others.dedup();
        assert_eq!(others.len(), 1);
        (of_first.len(), others[0])
    };
    bench.set_streams(first, MAX_STREAMS - 2);
    let (fitted, second) = given(&mut bench);
    assert_eq!(fitted, 2, "the others get the spare");
    bench.set_streams(first, 1);
    assert_eq!(given(&mut bench), (2, second), "they are spread");
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
fn what_is_decided_for_one_want_does_not_look_at_the_circuits_of_all_others() {
    let mut bench = Bench::new(0);
    for number in 0..300 {
        bench.advance(Duration::from_secs(1) / BUILD_RATE.per_second);
        bench.circuit_for(&format!("{number}"));
    }
    let looked_at = RefCell::new(Vec::new());
    let load = |id: CircuitId| {
        looked_at.borrow_mut().push(id);
        1
    };
    let own = bench.circuit_for("7");
    bench.want("7", "example.com", 443);
    bench.want("none", "example.com", 443);
    bench.pool.settle(bench.now, &load);
    assert_eq!(looked_at.take(), [own]);
    // Those whose time is over are looked at together, and then not again for a while.
    bench.advance(DIRTY_AFTER);
    bench.pool.settle(bench.now, &load);
    assert!(looked_at.take().len() >= 300);
    bench.advance(IDLE_CHECK / 2);
    bench.pool.settle(bench.now, &load);
    assert_eq!(looked_at.take(), []);
    bench.advance(IDLE_CHECK / 2);
    assert!(bench.settle().iter().filter(|output| matches!(output, Output::Close(_))).count() >= 300);
}

#[test]
fn a_circuit_that_is_left_is_closed_soon_after_its_last_stream() {
    let mut bench = Bench::new(0);
    let left = bench.circuit_for("a");
    bench.set_streams(left, 1);
    bench.pool.retire(left);
    assert_eq!(bench.settle(), []);
    bench.set_streams(left, 0);
    bench.now = bench.pool.poll_timeout().unwrap();
    assert!(bench.settle().contains(&Output::Close(left)));
    assert_eq!(bench.pool.poll_timeout().filter(|at| *at <= bench.now + IDLE_CHECK), None);
}

/// Whatever happens, in whatever order.
#[test]
fn what_finds_circuits_agrees_with_what_there_is() {
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..20 {
        let mut bench = Bench::new(rng.random_range(0..4));
        let (mut wants, mut circuits) = (Vec::new(), Vec::new());
        for _ in 0..400 {
            let some = |of: &[CircuitId], rng: &mut StdRng| of.choose(rng).copied();
            match rng.random_range(0..100) {
                0..40 => {
                    let who = format!("{}", rng.random_range(0..20));
                    wants.push(bench.want(&who, "example.com", [80, 443][rng.random_range(0..2)]));
                }
                40..60 => {
                    if let Some(id) = some(&circuits, &mut rng) {
                        bench.built(id, rng.random_range(1..4));
                    }
                }
                60..65 => {
                    if let Some(id) = some(&circuits, &mut rng) {
                        bench.pool.failed(id, BuildFailure::TooSlow, bench.now);
                    }
                }
                65..70 => some(&circuits, &mut rng).into_iter().for_each(|id| bench.pool.closed(id)),
                70..75 => some(&circuits, &mut rng).into_iter().for_each(|id| bench.pool.retire(id)),
                75..80 => wants.choose(&mut rng).into_iter().for_each(|want| bench.pool.forget(*want)),
                80..90 => {
                    if let Some(id) = some(&circuits, &mut rng) {
                        bench.set_streams(id, rng.random_range(0..3));
                    }
                }
                90..99 => bench.advance(Duration::from_secs(rng.random_range(0..90))),
                _ => bench.pool.start_over(),
            }
            circuits.extend(builds_of(&bench.settle()).into_iter().map(|build| build.circuit));
            bench.pool.circuits.check();
            bench.pool.shares.check();
        }
    }
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
