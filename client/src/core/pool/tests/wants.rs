//! Streams that wait, and those that get no circuit.

use super::*;

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
fn a_want_that_nobody_waits_for_builds_nothing() {
    let mut bench = Bench::new(0);
    let want = bench.want("a", "example.com", 443);
    assert_eq!(bench.pool.waiting(), 1);
    bench.pool.forget(want);
    assert_eq!((bench.settle(), bench.pool.waiting()), (Vec::new(), 0));
}
