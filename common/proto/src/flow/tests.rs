#![expect(clippy::disallowed_methods, reason = "a test has to begin at some time")]

use std::collections::VecDeque;
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

/// Senders with much to send, a bottleneck whose queue they share in the order of arrival, and receivers that take everything
/// at once.
struct Bottleneck {
    flows: Vec<Flow>,
    /// On one channel or on several.
    paths: Vec<PathRtt>,
    now: Instant,
    /// Cells that the bottleneck lets through in a millisecond.
    rate: usize,
    queue: VecDeque<(usize, bool)>,
    longest: usize,
}

struct Flow {
    window: RecvWindow,
    /// Which path it takes.
    path: usize,
    one_way: Duration,
    credit: SendCredit,
    begins: Instant,
    forward: VecDeque<(Instant, bool)>,
    backward: VecDeque<(Instant, u32)>,
    arrived: usize,
}

impl Bottleneck {
    fn new(span: Span, one_way_ms: u64, rate: usize) -> Bottleneck {
        Bottleneck::shared(1, 1, span, one_way_ms, rate, 0)
    }

    fn shared(flows: u64, paths: u64, span: Span, one_way_ms: u64, rate: usize, apart_ms: u64) -> Bottleneck {
        let now = Instant::now();
        let flow = |n| Flow {
            window: RecvWindow::new(&Budget::new(1 << 26), &path_of(span, now)).unwrap(),
            path: (n % paths) as usize,
            one_way: Duration::from_millis(one_way_ms),
            credit: SendCredit::new(),
            begins: now + Duration::from_millis(n * apart_ms),
            forward: VecDeque::new(),
            backward: VecDeque::new(),
            arrived: 0,
        };
        Bottleneck {
            flows: (0..flows).map(flow).collect(),
            paths: (0..paths).map(|_| path_of(span, now)).collect(),
            now,
            rate,
            queue: VecDeque::new(),
            longest: 0,
        }
    }

    /// Runs for so long; returns the cells that arrived in it.
    fn run(&mut self, ms: u64) -> usize {
        self.run_each(ms).iter().sum()
    }

    /// The same of each flow.
    fn run_each(&mut self, ms: u64) -> Vec<usize> {
        let before: Vec<usize> = self.flows.iter().map(|flow| flow.arrived).collect();
        self.longest = 0;
        for _ in 0..ms {
            self.now += Duration::from_millis(1);
            self.step();
            self.longest = self.longest.max(self.queue.len());
        }
        self.flows.iter().zip(before).map(|(flow, before)| flow.arrived - before).collect()
    }

    fn step(&mut self) {
        let now = self.now;
        for (index, flow) in self.flows.iter_mut().enumerate() {
            while let Some((_, cells)) = flow.backward.pop_front_if(|(at, _)| *at <= now) {
                flow.credit.grant(cells).unwrap();
            }
            if flow.begins <= now {
                let sent = flow.credit.cells();
                flow.credit.spend(sent);
                self.queue.extend((1..=sent).map(|n| (index, n == sent)));
            }
        }
        let passed = self.queue.drain(..self.rate.min(self.queue.len()));
        for (index, held_up) in passed {
            let flow = &mut self.flows[index];
            flow.forward.push_back((now + flow.one_way, held_up));
        }
        for flow in &mut self.flows {
            flow.receive(now, &mut self.paths[flow.path]);
        }
    }
}

impl Flow {
    fn receive(&mut self, now: Instant, path: &mut PathRtt) {
        while let Some((_, held_up)) = self.forward.pop_front_if(|(at, _)| *at <= now) {
            self.window.received(now, held_up, path).unwrap();
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
    assert_eq!(receive_one(&mut window, now, false), Err(CreditError));
}

#[test]
fn a_window_reaches_the_rate_of_a_long_path_within_seconds() {
    // 100 Mbit/s of whole cells: 1,200 and 4,880 cells.
    for (span, one_way_ms) in [(Span::Hop, 25), (Span::EndToEnd, 100)] {
        let mut bottleneck = Bottleneck::new(span, one_way_ms, 24);
        bottleneck.run(2_000);
        let seconds = [bottleneck.run(1_000), bottleneck.run(1_000), bottleneck.run(1_000)];
        assert!(seconds[0] > 20_000 && seconds[1] > 23_000 && seconds[2] == 24_000, "{span:?}: {seconds:?}");
    }
}

#[test]
fn the_window_of_a_hop_lets_only_a_part_of_a_round_trip_stand_in_queues() {
    let mut bottleneck = Bottleneck::new(Span::Hop, 100, 24);
    bottleneck.run(8_000);
    assert_eq!(bottleneck.run(1_000), 24_000);
    assert!(bottleneck.queue.len() < 24 * 50, "{} cells queue", bottleneck.queue.len());
}

#[test]
fn the_window_of_a_stream_is_two_round_trips_larger_than_it_needs() {
    let mut bottleneck = Bottleneck::new(Span::EndToEnd, 50, 24);
    bottleneck.run(120_000);
    assert_eq!(bottleneck.run(1_000), 24_000);
    let needed = 24 * 100;
    assert!((2 * needed..5 * needed).contains(&bottleneck.flows[0].window.window_cells()));
}

#[test]
fn a_moment_in_which_nothing_comes_does_not_close_a_window() {
    let mut bottleneck = Bottleneck::new(Span::Hop, 25, 24);
    bottleneck.run(5_000);
    let before = bottleneck.flows[0].window.window_cells();
    bottleneck.rate = 0;
    bottleneck.run(250);
    bottleneck.rate = 24;
    bottleneck.run(150);
    assert!(bottleneck.flows[0].window.window_cells() * 2 > before);
    assert!(bottleneck.run(1_000) > 23_000);
}

#[test]
fn a_window_follows_the_rate_down_and_up_again() {
    let mut bottleneck = Bottleneck::new(Span::Hop, 25, 24);
    bottleneck.run(3_000);
    let large = bottleneck.flows[0].window.window_cells();
    bottleneck.rate = 3;
    bottleneck.run(20_000);
    let small = bottleneck.flows[0].window.window_cells();
    assert!(small * 4 < large, "{large}, then {small}");
    bottleneck.rate = 24;
    bottleneck.run(3_000);
    let arrived = bottleneck.run(4_000);
    assert!(arrived > 4_000 * 24 * 98 / 100, "{arrived}");
}

#[test]
fn a_longer_path_is_learned_in_a_minute() {
    let mut bottleneck = Bottleneck::new(Span::Hop, 10, 24);
    bottleneck.run(3_000);
    bottleneck.flows[0].one_way = Duration::from_millis(100);
    bottleneck.run(70_000);
    let arrived = bottleneck.run(4_000);
    assert!(arrived > 4_000 * 24 * 95 / 100, "{arrived}");
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

/// What the flow that got least, and the one that got most, got of the mean.
fn shares(got: &[usize]) -> (f64, f64) {
    let mean = got.iter().sum::<usize>() as f64 / got.len() as f64;
    let of_mean = |cells: Option<&usize>| *cells.unwrap() as f64 / mean;
    (of_mean(got.iter().min()), of_mean(got.iter().max()))
}

#[test]
fn windows_that_share_a_queue_become_equal() {
    for (flows, apart_ms) in [(2, 0), (2, 3_000), (8, 0), (8, 100)] {
        let mut bottleneck = Bottleneck::shared(flows, flows, Span::Hop, 100, 22, apart_ms);
        bottleneck.run(flows * apart_ms + 10_000);
        let got = bottleneck.run_each(6_000);
        let (least, most) = shares(&got);
        assert!(least > 0.85 && most < 1.2, "{flows} flows, {apart_ms} ms apart: {got:?}");
        assert!(got.iter().sum::<usize>() > 22 * 6_000 * 97 / 100, "{got:?}");
        assert!(bottleneck.longest < 22 * 150, "{} cells queue", bottleneck.longest);
    }
}

/// Flows that began a second apart on channels of their own, with such paths, which `CREATE` has shown; and their shares after a minute.
fn after_a_minute(one_way_ms: &[u64]) -> (Bottleneck, f64, f64) {
    let flows = one_way_ms.len() as u64;
    let mut bottleneck = Bottleneck::shared(flows, flows, Span::Hop, 0, 22, 1_000);
    let now = bottleneck.now;
    for ((ms, flow), path) in one_way_ms.iter().zip(&mut bottleneck.flows).zip(&mut bottleneck.paths) {
        flow.one_way = Duration::from_millis(*ms);
        path.update(now, 2 * flow.one_way);
    }
    bottleneck.run(60_000);
    let (least, most) = shares(&bottleneck.run_each(10_000));
    (bottleneck, least, most)
}

#[test]
fn windows_that_share_the_queue_of_short_paths_keep_it_short() {
    for (flows, longest_ms) in [(2, 20), (8, 50)] {
        let (bottleneck, least, most) = after_a_minute(&vec![5; flows]);
        assert!(least > 0.85 && most < 1.25, "{flows} flows: {least} {most}");
        assert!(bottleneck.longest < 22 * longest_ms, "{flows} flows: {} cells queue", bottleneck.longest);
    }
}

#[test]
fn a_shorter_path_has_less_of_a_queue_that_it_shares_but_not_little() {
    for one_way_ms in [[5, 10], [5, 25], [10, 30], [15, 25], [25, 100], [5, 100]] {
        let (_, least, most) = after_a_minute(&one_way_ms);
        assert!(least > 0.25, "{one_way_ms:?}: {least} {most}");
    }
}

#[test]
fn a_window_that_began_while_others_filled_the_queue_becomes_equal_on_their_channel() {
    let mut bottleneck = Bottleneck::shared(8, 1, Span::Hop, 100, 22, 1_000);
    bottleneck.run(8_000 + 10_000);
    let (least, most) = shares(&bottleneck.run_each(10_000));
    assert!(least > 0.85 && most < 1.2, "{least} {most}");
}

#[test]
fn windows_that_began_one_after_the_other_on_channels_of_their_own_become_equal() {
    let mut bottleneck = Bottleneck::shared(8, 8, Span::Hop, 100, 22, 1_000);
    bottleneck.run(8_000 + 30_000);
    let got = bottleneck.run_each(10_000);
    let (least, most) = shares(&got);
    assert!(least > 0.9 && most < 1.1, "{least} {most}");
    assert!(got.iter().sum::<usize>() > 22 * 10_000 * 97 / 100, "{got:?}");
    assert!(bottleneck.longest < 22 * 150, "{} cells queue", bottleneck.longest);
}

#[test]
fn a_window_that_was_idle_when_queues_ran_out_does_not_dip_later() {
    let mut bottleneck = Bottleneck::new(Span::Hop, 25, 24);
    bottleneck.run(9_000);
    let before = bottleneck.flows[0].window.window_cells();
    bottleneck.now += Duration::from_secs(4);
    bottleneck.run(200);
    assert!(bottleneck.flows[0].window.window_cells() >= before * 9 / 10);
}
