use std::sync::atomic::AtomicBool;

use super::*;
use crate::core::isolation::Isolation;
use crate::core::path::{Hop, Need, PathError};
use crate::core::pool::{Output, Want};
use crate::core::testing::{id, open_policy, relay};

#[test]
fn a_guard_that_refuses_is_not_silent() {
    let refused = |reason| Some(BuildFailure::Hop { hop: 0, reason });
    assert!(guard_answered(None));
    for reason in [
        DestroyReason::None,
        DestroyReason::Protocol,
        DestroyReason::Internal,
        DestroyReason::Resources,
        DestroyReason::Handshake,
    ] {
        assert!(guard_answered(refused(reason)), "{reason}");
    }
    for reason in [DestroyReason::ChannelLost, DestroyReason::ConnectFailed, DestroyReason::Timeout] {
        assert!(!guard_answered(refused(reason)), "{reason}");
    }
    for failure in [BuildFailure::Guard, BuildFailure::TooSlow, PathError::NoGuard.into()] {
        assert!(!guard_answered(Some(failure)), "{failure}");
    }
}

fn path() -> Arc<Path> {
    let hops = [1, 2, 3].map(|number| Hop::from(&relay(number)));
    Arc::new(Path { hops: hops.to_vec(), exit_policy: open_policy() })
}

#[tokio::test]
async fn a_question_that_crashes_or_is_given_up_leaves_nothing() {
    for (crashes, of_guard) in [(true, false), (false, false), (true, true), (false, true)] {
        let mut manager = Manager::for_testing();
        let (answer, mut answered) = oneshot::channel();
        let task = manager.tasks.spawn(async move {
            assert!(!crashes, "a crash that is wanted");
            std::future::pending().await
        });
        if !crashes {
            task.abort();
        }
        let (circuits, guards) = if of_guard { (None, Some(task)) } else { (Some(task), None) };
        let suspect = Suspect { task: circuits, path: path(), waiting: vec![answer] };
        manager.suspects.insert(CircuitId(1), suspect);
        if let Some(task) = guards {
            manager.doubts.insert(id(1), Doubt { task, path: path(), granted: false, again: false });
        }
        let ended = manager.tasks.join_next().await.unwrap();
        manager.finish(ended);
        assert!(manager.suspects.is_empty(), "another stream may have it asked again");
        assert!(manager.doubts.is_empty(), "and its guard");
        assert_eq!(answered.try_recv(), Ok(Health::Answers));
    }
}

// Nothing below awaits, so that nobody is really asked.

#[tokio::test]
async fn circuits_that_do_not_answer_share_the_question_to_their_guard() {
    for (answered, health) in [(true, Health::SilentCircuit), (false, Health::SilentGuard)] {
        let mut manager = Manager::for_testing();
        let mut told = Vec::new();
        for number in 1..=200 {
            let (answer, receiver) = oneshot::channel();
            let task = Some(manager.tasks.spawn(std::future::pending()));
            let suspect = Suspect { task, path: path(), waiting: vec![answer] };
            manager.suspects.insert(CircuitId(number), suspect);
            told.push(receiver);
        }
        for number in 1..=199 {
            manager.probed(CircuitId(number), false);
        }
        assert_eq!(manager.tasks.len(), 201, "one more question");
        manager.guard_asked(id(1), Some(answered));
        for receiver in &mut told[..199] {
            assert_eq!(receiver.try_recv(), Ok(health));
        }
        assert!(told[199].try_recv().is_err(), "its circuit may still answer");
    }
}

/// A build that the pool wants, over the path, begun so long ago.
fn begin(manager: &mut Manager, ago: Duration) -> CircuitId {
    let began = now() - ago;
    let isolation = Isolation::named(&manager.building.len().to_string());
    let want = Want { isolation, need: Need::Any, not_exits: Vec::new(), fresh: true };
    manager.pool.network_changed();
    manager.pool.want(want, began);
    manager.pool.settle(began, &|_| 0);
    let Some(Output::Build(build)) = manager.pool.poll_output() else { panic!("nothing is built") };
    let task = manager.tasks.spawn(std::future::pending());
    let (since, limit) = (build.started, Duration::from_secs(60));
    let reached = Arc::new(AtomicBool::new(true));
    let building = Building { task, path: path(), since, limit, reached, doubted: false };
    manager.building.insert(build.circuit, building);
    build.circuit
}

#[tokio::test]
async fn builds_that_take_long_have_their_guard_asked_once() {
    let mut manager = Manager::for_testing();
    begin(&mut manager, Duration::ZERO);
    manager.doubt_slow_builds();
    assert!(manager.doubts.is_empty());
    begin(&mut manager, SLOW_BUILD);
    begin(&mut manager, SLOW_BUILD);
    manager.doubt_slow_builds();
    assert_eq!((manager.doubts.len(), manager.tasks.len()), (1, 4));
    manager.guard_asked(id(1), Some(true));
    manager.doubt_slow_builds();
    assert!(manager.doubts.is_empty(), "it has answered");
    assert_eq!(manager.building.len(), 3);
}

#[tokio::test]
async fn a_guard_that_does_not_answer_when_a_build_was_too_slow_is_left() {
    let mut manager = Manager::for_testing();
    let slow = begin(&mut manager, SLOW_BUILD / 2);
    begin(&mut manager, Duration::ZERO);
    manager.finish(Ok(Event::Built(slow, Err(BuildFailure::TooSlow))));
    assert!(manager.doubts.contains_key(&id(1)));
    let failures = manager.pool.failures_in_a_row();
    manager.guard_asked(id(1), Some(false));
    assert!(manager.doubts.contains_key(&id(1)), "it is asked once more");
    assert_eq!(manager.building.len(), 1);
    manager.guard_asked(id(1), Some(false));
    assert!(manager.building.is_empty(), "the other one would wait in vain");
    assert_eq!(manager.pool.failures_in_a_row(), failures, "we gave it up ourselves");
    manager.pool.settle(now(), &|_| 0);
    let begun = std::iter::from_fn(|| manager.pool.poll_output());
    assert!(begun.into_iter().any(|output| matches!(output, Output::Build(_))), "others are begun at once");
}

#[tokio::test]
async fn a_guard_that_grants_a_circuit_while_it_is_asked_is_kept() {
    let mut manager = Manager::for_testing();
    begin(&mut manager, SLOW_BUILD);
    manager.doubt_slow_builds();
    manager.granted(&path());
    manager.guard_asked(id(1), Some(false));
    assert!(manager.doubts.is_empty(), "that is answer enough");
    assert_eq!(manager.building.len(), 1);
}

#[tokio::test]
async fn streams_that_wait_for_a_guard_get_it_no_second_chance() {
    let mut manager = Manager::for_testing();
    begin(&mut manager, SLOW_BUILD);
    manager.doubt_slow_builds();
    let (answer, mut answered) = oneshot::channel();
    let suspect = Suspect { task: None, path: path(), waiting: vec![answer] };
    manager.suspects.insert(CircuitId(100), suspect);
    manager.guard_asked(id(1), Some(false));
    assert_eq!(answered.try_recv(), Ok(Health::SilentGuard));
    assert!(manager.doubts.is_empty() && manager.building.is_empty());
}
