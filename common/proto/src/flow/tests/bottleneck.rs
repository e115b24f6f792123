//! A model of senders that share one queue, and what their windows come to there.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::path_of;
use crate::flow::{Budget, PathRtt, RecvWindow, SendCredit, Span};

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
