use super::*;
use crate::padding::{Budget, MachineKind};

#[test]
#[expect(clippy::disallowed_methods, reason = "Instant has no other origin")]
fn what_a_hold_kept_waiting_goes_when_it_ends_although_the_next_one_has_begun() {
    // RegulaTor's client lets everything go after 1.77 s and holds again a microsecond later.
    let budget = Budget { cells: 1_000, percent: 100 };
    let spec = MachineSpec::new(MachineKind::Regulator, &[], budget, budget).unwrap();
    let begin = Instant::now();
    let mut runner = Runner::new(spec, End::Client, [7; 32], begin).unwrap();
    let room = Room { waiting: 3, credit: 100, is_full: false };
    runner.trigger(&TriggerEvent::NormalSent, 3, begin);
    runner.handle_timeout(begin, room);
    assert_eq!(runner.may_send(3), 0);
    let late = Duration::from_micros(700);
    let released = begin + Duration::from_millis(1_770) + late;
    runner.handle_timeout(released, room);
    assert_eq!(runner.may_send(100), 3, "those that waited");
    runner.sent(3, released);
    assert_eq!(runner.may_send(1), 0, "and not what comes then");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "Instant has no other origin")]
fn machines_sleep_while_their_budget_is_used_up() {
    for kind in [MachineKind::Tunic, MachineKind::Front, MachineKind::Tamaraw] {
        let budget = Budget { cells: 50, percent: 10 };
        let spec = MachineSpec::new(kind, &[], budget, budget).unwrap();
        let mut now = Instant::now();
        let mut runner = Runner::new(spec, End::Relay, [7; 32], now).unwrap();
        let (mut made, mut others) = (0, 100);
        let mut busy = |runner: &mut Runner, seconds: u64| {
            let (mut calls, end) = (0, now + Duration::from_secs(seconds));
            others += 100;
            runner.account(others, made);
            runner.trigger(&TriggerEvent::NormalSent, 100, now);
            runner.trigger(&TriggerEvent::TunnelSent, 100, now);
            while let Some(at) = runner.poll_timeout().filter(|at| *at <= end) {
                now = now.max(at);
                runner.account(others, made);
                runner.handle_timeout(now, Room { credit: 1_000, ..Room::default() });
                let padding = runner.take_padding();
                runner.sent(padding, now);
                runner.trigger(&TriggerEvent::TunnelSent, padding, now);
                made += padding as u64;
                calls += 1;
            }
            now = end;
            (calls, made)
        };
        let (calls, made) = busy(&mut runner, 30);
        assert!(calls < 100 && made == 70, "{kind:?}: {calls} for {made}");
        assert_eq!((runner.poll_timeout(), runner.may_send(9)), (None, 9), "{kind:?}");
        assert_eq!(busy(&mut runner, 10), (0, 70), "{kind:?}: another 10 cells are not worth waking for");
        let woken = (0..20).find(|_| busy(&mut runner, 10).0 > 0);
        assert!(woken.is_some_and(|times| times >= 4), "{kind:?}: {woken:?}");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "Instant has no other origin")]
fn machines_stand_still_while_their_peer_grants_no_credit() {
    let budget = Budget { cells: 1_000_000, percent: 100 };
    // A cell each third of a millisecond, for ten seconds after the last that is no padding.
    let spec = MachineSpec::new(MachineKind::Tamaraw, &[1_000, 320, 10_000], budget, budget).unwrap();
    let begin = Instant::now();
    let mut runner = Runner::new(spec, End::Relay, [7; 32], begin).unwrap();
    let run = |runner: &mut Runner, from: u64, seconds: u64, credit: usize| {
        let (mut now, mut calls) = (begin + Duration::from_secs(from), 0);
        let end = now + Duration::from_secs(seconds);
        runner.handle_timeout(now, Room { credit, ..Room::default() });
        runner.trigger(&TriggerEvent::NormalSent, 1, now);
        runner.trigger(&TriggerEvent::TunnelSent, 1, now);
        while let Some(at) = runner.poll_timeout().filter(|at| *at <= end) {
            now = now.max(at);
            runner.handle_timeout(now, Room { credit, ..Room::default() });
            let padding = runner.take_padding();
            runner.sent(padding, now);
            runner.trigger(&TriggerEvent::TunnelSent, padding, now);
            calls += 1;
        }
        calls
    };
    let awake = run(&mut runner, 0, 1, 1_000);
    assert!(awake > 0);
    let starved = run(&mut runner, 1, 100, 0);
    assert!(starved > 0 && starved <= 4 * awake, "{starved} decisions without credit, {awake} with");
    assert_eq!((runner.poll_timeout(), runner.may_send(9)), (None, 0));
    assert_eq!(run(&mut runner, 200, 100, 0), 0, "cells alone do not wake them");
    assert!(run(&mut runner, 400, 1, 1_000) > 0);
}

fn tamaraw(begin: Instant) -> Runner {
    let budget = Budget { cells: 1_000_000, percent: 100 };
    let spec = MachineSpec::new(MachineKind::Tamaraw, &[1_000, 320, 10_000], budget, budget).unwrap();
    let mut runner = Runner::new(spec, End::Relay, [7; 32], begin).unwrap();
    runner.trigger(&TriggerEvent::NormalSent, 3, begin);
    runner
}

#[test]
#[expect(clippy::disallowed_methods, reason = "Instant has no other origin")]
fn what_waited_for_credit_goes_at_the_machines_rate_when_there_is_some() {
    let begin = Instant::now();
    let mut runner = tamaraw(begin);
    let starved = Room { waiting: 9, ..Room::default() };
    runner.handle_timeout(begin, starved);
    while let Some(at) = runner.poll_timeout().filter(|at| *at < begin + Duration::from_secs(9)) {
        runner.handle_timeout(at, starved);
        assert_eq!(runner.may_send(9), 0);
    }
    let mut now = begin + Duration::from_secs(60);
    runner.trigger(&TriggerEvent::NormalSent, 1, now);
    assert_eq!((runner.poll_timeout(), runner.may_send(9)), (None, 0));
    for waiting in (1..=9).rev() {
        let room = Room { waiting, credit: 100, is_full: false };
        runner.handle_timeout(now, room);
        while runner.may_send(waiting) == 0 {
            now = runner.poll_timeout().expect("machines go on");
            runner.handle_timeout(now, room);
        }
        assert_eq!(runner.may_send(waiting), 1);
        runner.sent(1, now);
        runner.trigger(&TriggerEvent::TunnelSent, 1, now);
    }
    let took = now.duration_since(begin + Duration::from_secs(60));
    assert!(took > Duration::from_millis(2) && took < Duration::from_millis(20), "{took:?}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "Instant has no other origin")]
fn machines_go_on_while_too_much_waits_for_padding() {
    let begin = Instant::now();
    let mut runner = tamaraw(begin);
    let full = Room { credit: 1_000, is_full: true, ..Room::default() };
    runner.handle_timeout(begin, full);
    while let Some(at) = runner.poll_timeout().filter(|at| *at < begin + Duration::from_secs(9)) {
        runner.handle_timeout(at, full);
    }
    assert_eq!(runner.take_padding(), 0);
    assert!(runner.poll_timeout().is_some());
}
