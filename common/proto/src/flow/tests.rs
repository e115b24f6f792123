#![expect(clippy::disallowed_methods, reason = "a test has to begin at some time")]

mod bottleneck;

use std::time::{Duration, Instant};

use super::*;

fn window(budget: &Budget) -> RecvWindow {
    RecvWindow::new(budget, &PathRtt::end_to_end()).unwrap()
}

fn path_of(span: Span, now: Instant) -> PathRtt {
    match span {
        Span::Hop => PathRtt::hop(Some(now)),
        Span::EndToEnd => PathRtt::end_to_end(),
    }
}

fn hop(budget: &Budget) -> Option<RecvWindow> {
    RecvWindow::new(budget, &PathRtt::hop(None))
}

/// One cell on a path of its own.
fn receive_one(window: &mut RecvWindow, now: Instant, held_up: bool) -> Result<(), CreditError> {
    window.received(now, held_up, &mut PathRtt::end_to_end())
}

fn receive(window: &mut RecvWindow, now: Instant, cells: u32, last_held_up: bool) {
    for n in 1..=cells {
        receive_one(window, now, last_held_up && n == cells).unwrap();
    }
}

#[test]
fn a_cell_beyond_the_window_is_refused() {
    let now = Instant::now();
    let mut window = window(&Budget::new(1 << 20));
    receive(&mut window, now, INITIAL_CELLS, true);
    assert_eq!(receive_one(&mut window, now, false), Err(CreditError));
}

#[test]
fn a_window_does_not_grow_while_cells_queue_or_nobody_waits() {
    let mut now = Instant::now();
    let (mut stalled, mut idle) = (window(&Budget::new(1 << 20)), window(&Budget::new(1 << 20)));
    receive(&mut stalled, now, 64, true);
    for _ in 0..20 {
        now += Duration::from_millis(1);
        stalled.consumed(16);
        let granted = stalled.poll_grant(now).unwrap();
        receive(&mut stalled, now, granted, true);

        receive(&mut idle, now, 32, false);
        idle.consumed(32);
        assert_eq!(idle.poll_grant(now), Some(32));
    }
    assert_eq!(stalled.window_cells(), 64);
    assert_eq!(idle.window_cells(), 64);
}

#[test]
fn a_stream_that_is_open_may_send_more_at_once() {
    let now = Instant::now();
    let budget = Budget::new(4 * OPEN_CELLS as usize * CELL_LEN);
    let mut first = window(&budget);
    assert_eq!(first.open(now), Some(OPEN_CELLS - INITIAL_CELLS));
    assert_eq!(first.open(now), None, "it has them");
    assert_eq!((first.window_cells(), budget.used_cells()), (OPEN_CELLS, OPEN_CELLS as usize));
    let mut second = window(&budget);
    assert_eq!(second.open(now), None, "a quarter of the budget is used");
    receive(&mut first, now, OPEN_CELLS, false);
    assert_eq!(receive_one(&mut first, now, false), Err(CreditError));
    drop((first, second));
    assert_eq!(budget.used_cells(), 0);
    assert_eq!(RecvWindow::unreserved(&budget, &PathRtt::end_to_end()).open(now), None);
    let mut given_back = window(&budget);
    given_back.give_back();
    assert_eq!(given_back.open(now), None);
}

/// The first round, whose sender waits for a grant; returns the grant.
fn grow(window: &mut RecvWindow) -> u32 {
    grow_at(window, Instant::now())
}

fn grow_at(window: &mut RecvWindow, now: Instant) -> u32 {
    receive(window, now, 64, true);
    window.consumed(64);
    window.poll_grant(now).unwrap()
}

#[test]
fn growth_leaves_half_of_the_budget() {
    assert_eq!(grow(&mut window(&Budget::new(4 * 64 * CELL_LEN))), 64 + 64);
    let budget = Budget::new(3 * 64 * CELL_LEN);
    let mut only = window(&budget);
    assert_eq!(grow(&mut only), 64);
    assert_eq!(budget.used_cells(), 64);
}

#[test]
fn windows_never_exceed_the_budget_and_give_it_back() {
    let budget = Budget::new(100 * CELL_LEN);
    let mut only = window(&budget);
    assert!(RecvWindow::new(&budget, &PathRtt::end_to_end()).is_none());
    assert_eq!(grow(&mut only), 64, "no room to grow");
    drop(only);
    assert_eq!(budget.used_cells(), 0);
}

#[test]
fn credit_does_not_overflow() {
    let mut credit = SendCredit::new();
    assert_eq!(credit.grant(MAX_CREDIT_CELLS - INITIAL_CELLS), Ok(()));
    assert_eq!(credit.grant(1), Err(CreditError));
    assert_eq!(credit.grant(u32::MAX), Err(CreditError));
}

#[test]
fn an_idle_circuit_reserves_little_and_one_that_queues_all_of_its_window() {
    let (now, budget) = (Instant::now(), Budget::new(40 * CELL_LEN));
    let (mut first, second) = (hop(&budget).unwrap(), hop(&budget).unwrap());
    assert!(hop(&budget).is_none());
    receive(&mut first, now, IDLE_CELLS, false);
    assert_eq!(budget.used_cells(), 32);
    receive(&mut first, now, 1, false);
    assert_eq!(budget.used_cells(), 64 + 16, "its sender has the credit already");
    assert!(hop(&budget).is_none());
    // It keeps all of it until it was idle for a whole turn.
    first.consumed(17);
    first.rest();
    assert_eq!(first.reserved_cells(), 64);
    first.rest();
    first.rest();
    assert_eq!((first.reserved_cells(), budget.used_cells()), (IDLE_CELLS, 32));
    drop((first, second));
    assert_eq!(budget.used_cells(), 0);
}

#[test]
fn a_window_that_rests_keeps_a_quarter_or_what_an_idle_one_does() {
    let now = Instant::now();
    for (span, idle) in [(Span::Hop, 128 / 4), (Span::EndToEnd, INITIAL_CELLS)] {
        let budget = Budget::new(1 << 20);
        let mut window = RecvWindow::new(&budget, &path_of(span, now)).unwrap();
        assert_eq!(grow(&mut window), 128);
        window.rest();
        assert_eq!((window.window_cells(), window.reserved_cells()), (128, 128));
        window.rest();
        assert_eq!((window.window_cells(), window.reserved_cells()), (128, idle));
        assert_eq!(budget.used_cells(), idle as usize);
        // What queues is reserved, and not all that might: else a few cells on each of many would take all that there is.
        receive(&mut window, now, idle + 1, false);
        assert!((idle + 1..=128).contains(&window.reserved_cells()));
        window.rest();
        window.rest();
        assert_eq!(window.reserved_cells(), idle + 1, "what is queued stays");
    }
}

#[test]
fn windows_that_rest_leave_their_room_to_others() {
    let budget = Budget::new(660 * CELL_LEN);
    let (mut silent, mut busy) = (hop(&budget).unwrap(), hop(&budget).unwrap());
    let mut now = Instant::now();
    let mut many = |window: &mut RecvWindow| {
        for _ in 0..10 {
            now += Duration::from_millis(1);
            grow_at(window, now);
        }
    };
    many(&mut silent);
    many(&mut busy);
    assert_eq!((silent.window_cells(), busy.window_cells()), (256, 64), "there is room for one");
    silent.rest();
    silent.rest();
    many(&mut busy);
    assert_eq!(busy.window_cells(), 256);
    // It is used again, and others have its room: it shrinks to what it still has.
    many(&mut silent);
    assert_eq!((silent.window_cells(), silent.reserved_cells()), (64 + 48, 64));
    drop(busy);
    many(&mut silent);
    assert!(silent.window_cells() > 64 + 48 && silent.reserved_cells() == silent.window_cells() - 48);
}

#[test]
fn a_window_that_was_given_back_reserves_nothing_again() {
    let budget = Budget::new(1 << 20);
    let mut window = hop(&budget).unwrap();
    assert_eq!(grow(&mut window), 128);
    window.give_back();
    receive(&mut window, Instant::now(), 100, false);
    assert_eq!((window.reserved_cells(), budget.used_cells()), (0, 0));
}

proptest::proptest! {
    /// What is queued is always reserved, and so is everything that was granted beyond the first cells, unless it rests.
    #[test]
    fn what_is_queued_is_reserved(
        steps in proptest::collection::vec((0_u32..80, 0_u32..80, proptest::bool::ANY, proptest::bool::ANY), 1..100),
    ) {
        let budget = Budget::new(1 << 24);
        let mut window = hop(&budget).unwrap();
        let (mut now, mut credit, mut queued, mut has_rested) = (Instant::now(), INITIAL_CELLS, 0, false);
        for (arrive, leave, held_up, rests) in steps {
            now += Duration::from_millis(20);
            let arrive = arrive.min(credit);
            receive(&mut window, now, arrive, held_up);
            (credit, queued) = (credit - arrive, queued + arrive);
            let leave = leave.min(queued);
            window.consumed(leave);
            queued -= leave;
            credit += window.poll_grant(now).unwrap_or(0);
            if rests {
                window.rest();
                has_rested = true;
            }
            let (reserved, size) = (window.reserved_cells(), window.window_cells());
            let grown = if has_rested { 0 } else { size - (INITIAL_CELLS - IDLE_CELLS) };
            proptest::prop_assert!(reserved >= queued.max(IDLE_CELLS).max(grown) && reserved <= size);
            proptest::prop_assert_eq!(budget.used_cells(), reserved as usize);
        }
    }
}

proptest::proptest! {
    #[test]
    fn cells_are_never_lost_or_made(
        steps in proptest::collection::vec((0_u32..80, 0_u32..80, 0_u64..100, proptest::bool::ANY), 1..100),
    ) {
        let budget = Budget::new(1 << 24);
        let mut window = window(&budget);
        let mut now = Instant::now();
        let (mut granted, mut arrived, mut queued) = (INITIAL_CELLS, 0, 0);
        for (arrive, leave, ms, held_up) in steps {
            now += Duration::from_millis(ms);
            let arrive = arrive.min(granted - arrived);
            receive(&mut window, now, arrive, held_up);
            (arrived, queued) = (arrived + arrive, queued + arrive);
            let leave = leave.min(queued);
            window.consumed(leave);
            queued -= leave;
            granted += window.poll_grant(now).unwrap_or(0);
            proptest::prop_assert!(granted - arrived + queued <= window.window_cells());
            proptest::prop_assert_eq!(budget.used_cells(), window.window_cells() as usize);
        }
        for _ in arrived..granted {
            receive_one(&mut window, now, false).unwrap();
        }
        proptest::prop_assert_eq!(receive_one(&mut window, now, false), Err(CreditError));
    }
}

#[test]
fn a_hop_grants_less_often_on_a_path_that_is_within_a_machine() {
    let least_grant = |round_trip: Duration| {
        let (budget, begin) = (Budget::new(1 << 20), Instant::now());
        let (mut window, mut path) = (hop(&budget).unwrap(), PathRtt::hop(None));
        let mut take = |now: Instant, cells: u32, held_up: bool| {
            (1..=cells).for_each(|n| window.received(now, held_up && n == cells, &mut path).unwrap());
            window.consumed(cells);
            (window.poll_grant(now), window.window_cells())
        };
        assert_eq!(take(begin, 64, true), (Some(128), 128));
        // The first of these cells needed the grant, and shows the round trip.
        (1..).find(|_| take(begin + round_trip, 1, false).0.is_some()).unwrap()
    };
    assert_eq!(least_grant(Duration::from_millis(2)), 16);
    assert_eq!(least_grant(Duration::from_millis(1)), 32);
}
