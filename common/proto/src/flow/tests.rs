#![expect(clippy::disallowed_methods, reason = "a test has to begin at some time")]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::*;

fn window(budget: &Budget) -> RecvWindow {
    RecvWindow::new(budget, Span::EndToEnd).unwrap()
}

fn receive(window: &mut RecvWindow, now: Instant, cells: u32, last_held_up: bool) {
    for n in 1..=cells {
        window.received(now, last_held_up && n == cells).unwrap();
    }
}

/// A sender with much to send, a bottleneck with a queue, and a receiver that takes everything at once.
struct Path {
    window: RecvWindow,
    credit: SendCredit,
    now: Instant,
    one_way: Duration,
    /// Cells that the bottleneck lets through in a millisecond.
    rate: usize,
    queue: VecDeque<bool>,
    forward: VecDeque<(Instant, bool)>,
    backward: VecDeque<(Instant, u32)>,
    arrived: usize,
}

impl Path {
    fn new(span: Span, one_way_ms: u64, rate: usize) -> Path {
        Path {
            window: RecvWindow::new(&Budget::new(1 << 26), span).unwrap(),
            credit: SendCredit::new(),
            now: Instant::now(),
            one_way: Duration::from_millis(one_way_ms),
            rate,
            queue: VecDeque::new(),
            forward: VecDeque::new(),
            backward: VecDeque::new(),
            arrived: 0,
        }
    }

    /// Runs for so long; returns the cells that arrived in it.
    fn run(&mut self, ms: u64) -> usize {
        let before = self.arrived;
        for _ in 0..ms {
            self.now += Duration::from_millis(1);
            self.step();
        }
        self.arrived - before
    }

    fn step(&mut self) {
        let now = self.now;
        while let Some((_, cells)) = self.backward.pop_front_if(|(at, _)| *at <= now) {
            self.credit.grant(cells).unwrap();
        }
        let sent = self.credit.cells();
        self.credit.spend(sent);
        self.queue.extend((1..=sent).map(|n| n == sent));
        let passed = self.queue.drain(..self.rate.min(self.queue.len()));
        self.forward.extend(passed.map(|held_up| (now + self.one_way, held_up)));
        while let Some((_, held_up)) = self.forward.pop_front_if(|(at, _)| *at <= now) {
            self.window.received(now, held_up).unwrap();
            self.window.consumed(1);
            self.arrived += 1;
            if let Some(cells) = self.window.poll_grant(now) {
                self.backward.push_back((now + self.one_way, cells));
            }
        }
    }
}

#[test]
fn a_cell_beyond_the_window_is_refused() {
    let now = Instant::now();
    let mut window = window(&Budget::new(1 << 20));
    receive(&mut window, now, INITIAL_CELLS, true);
    assert_eq!(window.received(now, false), Err(CreditError));
}

#[test]
fn a_window_reaches_the_rate_of_a_long_path_within_two_seconds() {
    // 100 Mbit/s of whole cells and 200 ms: 4,880 cells.
    let mut path = Path::new(Span::EndToEnd, 100, 24);
    path.run(2_000);
    assert_eq!(path.run(1_000), 24_000);
}

#[test]
fn a_window_lets_only_a_part_of_a_round_trip_stand_in_queues() {
    for (span, most_ms) in [(Span::EndToEnd, 80), (Span::Hop, 350)] {
        let mut path = Path::new(span, 100, 24);
        path.run(8_000);
        assert_eq!(path.run(1_000), 24_000, "{span:?}");
        assert!(path.queue.len() < 24 * most_ms, "{span:?}: {} cells queue", path.queue.len());
    }
}

#[test]
fn a_window_follows_the_rate_down_and_up_again() {
    let mut path = Path::new(Span::EndToEnd, 25, 24);
    path.run(3_000);
    let large = path.window.window_cells();
    path.rate = 3;
    path.run(20_000);
    let small = path.window.window_cells();
    assert!(small * 4 < large, "{large}, then {small}");
    path.rate = 24;
    path.run(3_000);
    assert_eq!(path.run(1_000), 24_000);
}

#[test]
fn a_longer_path_is_learned_in_a_minute() {
    let mut path = Path::new(Span::EndToEnd, 10, 24);
    path.run(3_000);
    path.one_way = Duration::from_millis(100);
    path.run(70_000);
    assert_eq!(path.run(1_000), 24_000);
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

/// Two rounds in which the sender waits for each grant; returns the second.
fn grow(window: &mut RecvWindow) -> u32 {
    let now = Instant::now();
    receive(window, now, 64, true);
    window.consumed(64);
    assert_eq!(window.poll_grant(now), Some(64));
    let later = now + Duration::from_millis(1);
    receive(window, later, 64, true);
    window.consumed(64);
    window.poll_grant(later).unwrap()
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
    assert!(RecvWindow::new(&budget, Span::Hop).is_none());
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
            window.received(now, false).unwrap();
        }
        proptest::prop_assert_eq!(window.received(now, false), Err(CreditError));
    }
}
