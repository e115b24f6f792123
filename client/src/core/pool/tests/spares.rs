//! Circuits kept ready.

use super::*;

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
fn a_patient_pool_makes_up_for_a_spare_some_seconds_later() {
    let mut bench = Bench::new(2);
    bench.pool = Pool::new(2, BUILD_RATE).with_patience(PATIENCE);
    bench.pool.network_changed();
    bench.build_all();
    for (isolation, left) in [("a", 1), ("b", 0)] {
        bench.want(isolation, "example.com", 443);
        let outputs = bench.settle();
        assert!(matches!(outputs[..], [Output::Use(..)]), "{left} are left: {outputs:?}");
        bench.now += PATIENCE / 2;
    }
    let wanted = bench.want("c", "example.com", 443);
    let builds = builds_of(&bench.settle());
    assert!(
        builds.iter().any(|build| build.for_want == Some(wanted)),
        "who has to wait does not wait for that"
    );
    builds.iter().for_each(|build| bench.built(build.circuit, 1));
    bench.build_all();
    let next = bench.pool.poll_timeout().unwrap();
    assert!(next <= bench.now + PATIENCE / 2, "the pool wants to be asked again");
    bench.now += PATIENCE;
    bench.build_all();
    let ready = bench.pool.circuits.spares().count();
    assert_eq!(ready, 5, "two, and one for each that was taken in the last minute");
}

#[test]
fn spares_follow_demand_up_to_their_bound_and_back() {
    let mut bench = Bench::new(2);
    for number in 0..40 {
        bench.circuit_for(&format!("{number}"));
    }
    let spares = |bench: &Bench| bench.pool.circuits.spares().count();
    assert_eq!(spares(&bench), MAX_SPARES);
    bench.advance(DEMAND_WINDOW);
    bench.build_all();
    assert_eq!(bench.pool.spare_target(bench.now), 2);
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
fn a_spare_is_closed_when_it_is_old() {
    let mut bench = Bench::new(1);
    bench.build_all();
    let end = bench.now + SPARE_LIFETIME;
    assert_eq!(bench.pool.poll_timeout(), Some(end));
    bench.now = end;
    let outputs = bench.settle();
    assert!(matches!(outputs[..], [Output::Close(_), Output::Build(_)]), "{outputs:?}");
}
