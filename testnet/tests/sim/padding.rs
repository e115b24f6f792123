//! Padding of the channel between client and guard, seen by whoever watches the line (docs/protocol.md §11.1–11.4).

use std::time::Duration;

use tunic_proto::cell::{self, CELL_LEN, Cell, Command, HEADER_LEN};
use tunic_proto::channel::ChannelError;
use tunic_proto::counters::Incident;
use tunic_proto::ids::CircId;
use tunic_proto::padding::{
    ClientPadding, LimitsConfig, LinkMode, PaddingTotals, Rates, Refusal, negotiate, negotiated,
};
use tunic_testnet::sim::{Closed, EndId, LinkSpec, NodeId, World, service, source};

use crate::support::{MIB, MINUTE, complete};

const RATES: Rates = Rates { tick_ms: 20, forward: 2, backward: 8 };
const PADDING: Cell = {
    let mut cell = [0; CELL_LEN];
    cell[HEADER_LEN - 1] = Command::Padding as u8;
    cell
};

/// A client that asks for this, its channel to the first of three relays, and a circuit.
struct Padded {
    world: World,
    client: NodeId,
    relays: Vec<NodeId>,
    end: EndId,
}

impl Padded {
    fn new(seed: u64, mode: LinkMode) -> Padded {
        Padded::with(World::new(seed), mode, LimitsConfig::default())
    }

    fn with(mut world: World, mode: LinkMode, limits: LimitsConfig) -> Padded {
        let client = world.client();
        let relays = world.relays(3);
        world.pad(client, mode);
        world.limit_padding(relays[0], limits);
        let end = world.open(client, relays[0], LinkSpec::delay_ms(5));
        Padded { world, client, relays, end }
    }

    /// When cells left the two ends from now on, while the world runs so long.
    fn watch(&mut self, duration: Duration) -> [Vec<Duration>; 2] {
        let ends = [self.end, self.end.peer()];
        ends.iter().for_each(|end| self.world.watch(*end));
        self.world.run_for(duration);
        ends.map(|end| self.world.watched(end).iter().map(|(at, _)| *at).collect())
    }
}

/// The silences between these moments, in milliseconds.
fn gaps(moments: &[Duration]) -> Vec<u128> {
    moments.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect()
}

#[test]
fn a_silent_channel_is_padded_from_both_sides() {
    let mut padded = Padded::new(71, LinkMode::Normal);
    let circuit = padded.world.build(padded.end, &padded.relays.clone());
    let [forward, backward] = padded.watch(60 * MINUTE);
    // The smaller of two waits, of which each is the larger of two draws: 5.77 s on average.
    let all = forward.len() + backward.len();
    assert!((580..=670).contains(&all), "{all}");
    for side in [&forward, &backward] {
        assert!(side.len() > all / 3, "both sides: {} and {}", forward.len(), backward.len());
    }
    let mut both = [forward, backward].concat();
    both.sort();
    assert!(gaps(&both).iter().all(|gap| *gap <= 9_500), "never silent for as long as a flow record lasts");
    let totals = padded.world.padding(padded.client);
    assert_eq!(totals.link_sent + totals.link_received, all as u64);
    assert!(totals.share() > 0.9);
    drop(circuit);
    padded.world.run_for(MINUTE);
    assert_eq!(padded.world.violations(), []);
}

#[test]
fn any_cell_begins_the_silence_anew() {
    let mut padded = Padded::new(72, LinkMode::Normal);
    let circuit = padded.world.build(padded.end, &padded.relays.clone());
    let before = padded.world.padding(padded.client);
    for _ in 0..200 {
        let echo = padded.world.transfer(&circuit, service("echo"), 100).unwrap();
        complete(&mut padded.world, &[echo]);
        padded.world.run_for(Duration::from_millis(1_300));
    }
    let after = padded.world.padding(padded.client);
    assert_eq!((before.link_sent, before.link_received), (after.link_sent, after.link_received));
}

#[test]
fn a_reduced_channel_is_padded_by_the_client_alone_and_seldom() {
    let mut padded = Padded::new(73, LinkMode::Reduced);
    let _circuit = padded.world.build(padded.end, &padded.relays.clone());
    let [forward, backward] = padded.watch(60 * MINUTE);
    assert!(backward.is_empty());
    assert!(gaps(&forward).iter().all(|gap| (9_000..=14_000).contains(gap)));
    assert!((270..=330).contains(&forward.len()), "{}", forward.len());
}

#[test]
fn a_channel_without_padding_is_silent() {
    let mut padded = Padded::new(74, LinkMode::Off);
    let _circuit = padded.world.build(padded.end, &padded.relays.clone());
    assert!(padded.watch(10 * MINUTE).iter().all(Vec::is_empty));
}

#[test]
fn channels_for_the_directory_alone_are_not_padded() {
    let mut padded = Padded::new(75, LinkMode::Normal);
    let _circuit = padded.world.build(padded.end, &padded.relays[..1]);
    assert!(padded.watch(10 * MINUTE).iter().all(Vec::is_empty));
}

#[test]
fn relays_do_not_pad_between_themselves() {
    let mut padded = Padded::new(76, LinkMode::Normal);
    let _circuit = padded.world.build(padded.end, &padded.relays.clone());
    let between = padded.world.end_between(padded.relays[0], padded.relays[1]).unwrap();
    padded.world.watch(between);
    padded.world.run_for(10 * MINUTE);
    assert_eq!(padded.world.watched(between), []);
}

/// What an observer sees in constant mode, busy or idle: when, and how many bytes.
fn seen_at_constant_rate(busy: bool) -> [Vec<(Duration, usize)>; 2] {
    let mut padded = Padded::new(77, LinkMode::Constant(RATES));
    let circuit = padded.world.build(padded.end, &padded.relays.clone());
    let ends = [padded.end, padded.end.peer()];
    padded.world.run_for(Duration::from_secs(1));
    ends.iter().for_each(|end| padded.world.watch(*end));
    let begin = padded.world.now();
    let mut reports = Vec::new();
    if busy {
        for _ in 0..3 {
            reports.push(padded.world.transfer(&circuit, source(MIB / 4), 0).unwrap());
            reports.push(padded.world.transfer(&circuit, service("echo"), 30_000).unwrap());
            padded.world.run_for(Duration::from_secs(2));
        }
        complete(&mut padded.world, &reports);
    }
    let rest = Duration::from_secs(30).saturating_sub(padded.world.now() - begin);
    padded.world.run_for(rest);
    assert_eq!(padded.world.violations(), []);
    let totals = padded.world.padding(padded.client);
    assert_eq!((totals.missed, totals.refused), (0, 0));
    if busy {
        assert!(totals.max_queue_delay_us > 100_000, "uploads waited: {totals:?}");
        assert!(totals.share() < 0.9);
    }
    ends.map(|end| padded.world.watched(end).to_vec())
}

#[test]
fn at_a_constant_rate_busy_and_idle_look_the_same() {
    let (busy, idle) = (seen_at_constant_rate(true), seen_at_constant_rate(false));
    assert_eq!(busy, idle, "every write, to the nanosecond and the byte");
    for (side, cells) in idle.iter().zip([RATES.forward, RATES.backward]) {
        assert!(side.iter().all(|(_, bytes)| *bytes == usize::from(cells) * CELL_LEN));
        // 1,500 ticks in 30 s; the standard deviation is 39.
        assert!((1_300..1_700).contains(&side.len()), "{}", side.len());
        let long = side.windows(2).filter(|pair| pair[1].0 - pair[0].0 > RATES.tick() * 3).count();
        assert!(long > 30, "times vary by whole ticks: {long} of {} longer than three", side.len());
    }
}

#[test]
fn a_relay_refuses_a_rate_that_costs_it_too_much_and_pads_as_usual() {
    let limits = LimitsConfig { constant_rate: 399, ..Default::default() };
    let mut padded = Padded::with(World::new(78), LinkMode::Constant(RATES), limits);
    let _circuit = padded.world.build(padded.end, &padded.relays.clone());
    let totals = padded.world.padding(padded.client);
    assert_eq!((totals.refused, totals.last_refusal), (1, Refusal::TooMuch as u64));
    let [forward, backward] = padded.watch(10 * MINUTE);
    assert!((80..=130).contains(&(forward.len() + backward.len())));
    assert_eq!(padded.world.violations(), []);
}

#[test]
fn all_clients_together_get_no_more_than_the_relay_gives() {
    let limits = LimitsConfig { constant_total: 500, ..Default::default() };
    let mut padded = Padded::with(World::new(79), LinkMode::Constant(RATES), limits);
    let first = padded.world.build(padded.end, &padded.relays.clone());
    let second = padded.world.client();
    padded.world.pad(second, LinkMode::Constant(RATES));
    let end = padded.world.open(second, padded.relays[0], LinkSpec::delay_ms(5));
    let _circuit = padded.world.build(end, &padded.relays.clone());
    assert_eq!(padded.world.padding(second).last_refusal, Refusal::Exhausted as u64);
    // What the first had is free when its channel has ended.
    drop(first);
    padded.world.cut(padded.end);
    let third = padded.world.client();
    padded.world.pad(third, LinkMode::Constant(RATES));
    let end = padded.world.open(third, padded.relays[0], LinkSpec::delay_ms(5));
    let _circuit = padded.world.build(end, &padded.relays.clone());
    assert_eq!(padded.world.padding(third).refused, 0);
}

/// A client whose cells the test writes, at a relay.
fn raw() -> (World, NodeId, EndId) {
    let mut world = World::new(80);
    let client = world.raw_client();
    let relay = world.relay();
    let end = world.open(client, relay, LinkSpec::delay_ms(1));
    (world, relay, end)
}

/// After these cells the relay ends the channel and counts it.
fn channel_ends(why: ChannelError, cells: &[Cell]) {
    let (mut world, relay, end) = raw();
    world.send_raw(end, cells);
    world.run_for(Duration::from_millis(10));
    assert_eq!(world.violations(), [(end.peer(), Closed::Error(why))]);
    assert_eq!(world.count(relay, why.incident()), 1);
}

#[test]
fn padding_that_was_not_agreed_on_ends_the_channel() {
    channel_ends(ChannelError::State(Command::Padding), &[PADDING]);
    channel_ends(ChannelError::State(Command::Padding), &[negotiate(LinkMode::Off), PADDING]);
    channel_ends(ChannelError::State(Command::PaddingNegotiated), &[negotiated(Ok(()))]);
    let malformed = cell::CellError::Malformed(Command::PaddingNegotiate);
    let huge = Rates { backward: u16::MAX, ..RATES };
    channel_ends(malformed.into(), &[negotiate(LinkMode::Constant(huge))]);
}

#[test]
fn a_flood_of_padding_ends_the_channel() {
    let flood = [vec![negotiate(LinkMode::Normal)], vec![PADDING; 300]].concat();
    channel_ends(ChannelError::Padding, &flood);
    // A constant rate is no licence: what a minute would bring may come at once, not more.
    let flood = [vec![negotiate(LinkMode::Constant(RATES))], vec![PADDING; 7_000]].concat();
    channel_ends(ChannelError::Padding, &flood);
    assert_eq!(ChannelError::Padding.incident(), Incident::Padding);
}

#[test]
fn asking_again_and_again_is_refused_and_costs_nothing() {
    let (mut world, _, end) = raw();
    let constant = LinkMode::Constant(RATES);
    let cells: Vec<Cell> = (0..50).map(|_| negotiate(constant)).collect();
    world.send_raw(end, &cells);
    world.run_for(Duration::from_secs(1));
    let mut answers = Vec::new();
    while let Some(cell) = world.receive_raw(end) {
        if cell[HEADER_LEN - 1] == Command::PaddingNegotiated as u8 {
            answers.push(cell);
        }
    }
    let refused = negotiated(Err(Refusal::TooOften));
    assert_eq!(answers.iter().filter(|answer| **answer == negotiated(Ok(()))).count(), 8);
    assert_eq!(answers.iter().filter(|answer| **answer == refused).count(), answers.len() - 8);
    world.watch(end.peer());
    world.run_for(Duration::from_secs(10));
    let bytes: usize = world.watched(end.peer()).iter().map(|(_, bytes)| bytes).sum();
    assert!(bytes <= 12 * 400 * CELL_LEN, "the rate that was agreed on, however often: {bytes}");
}

#[test]
fn a_client_ends_a_channel_whose_relay_pads_unasked() {
    for cell in [PADDING, negotiate(LinkMode::Normal), negotiated(Ok(()))] {
        let mut world = World::new(81);
        let client = world.client();
        let relay = world.raw_relay();
        let end = world.open(client, relay, LinkSpec::delay_ms(1));
        world.send_raw(end.peer(), &[cell]);
        world.run_for(Duration::from_millis(10));
        assert!(matches!(world.closed(end), Some(Closed::Error(ChannelError::State(_)))));
        assert_eq!(world.count(client, Incident::BadCell), 1);
    }
}

#[test]
fn padding_is_the_same_again_from_the_same_seed() {
    let trace = |seed| {
        let mut padded = Padded::new(seed, LinkMode::Normal);
        let _circuit = padded.world.build(padded.end, &padded.relays.clone());
        padded.world.run_for(10 * MINUTE);
        padded.world.trace()
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

#[test]
fn a_flood_on_a_circuit_id_of_the_channel_is_no_padding() {
    let mut cell = PADDING;
    cell::write_header(&mut cell, CircId(1), Command::Padding);
    channel_ends(cell::CellError::BadCircuitId.into(), &[cell]);
}

/// A client whose rate may be doubled twice, at a relay that gives so many cells per second; what it says after a load and after rest.
fn stepped(most: u32) -> [PaddingTotals; 2] {
    let mut world = World::new(82);
    let client = world.client();
    world.pad(client, ClientPadding { link: LinkMode::Constant(RATES), steps: 2, machine: None });
    let relays = world.relays(3);
    let usual = LimitsConfig::default();
    world.limit_padding(relays[0], LimitsConfig { constant_rate: most, constant_total: most, ..usual });
    let end = world.open(client, relays[0], LinkSpec::delay_ms(5));
    let circuit = world.build(end, &relays);
    let load = world.transfer(&circuit, source(4 * MIB), 0).unwrap();
    complete(&mut world, &[load]);
    let busy = world.padding(client);
    world.run_for(10 * MINUTE);
    assert_eq!(world.violations(), []);
    [busy, world.padding(client)]
}

#[test]
fn a_constant_rate_steps_up_when_it_is_used_up_and_down_when_it_is_not() {
    let [busy, idle] = stepped(2_000);
    assert_eq!((busy.step, busy.refused), (2, 0), "{busy:?}");
    assert_eq!(idle.step, 0, "{idle:?}");
    assert!(idle.guard_fullness_permille < 50, "{idle:?}");
}

#[test]
fn a_step_that_is_refused_leaves_the_rate_as_it_is() {
    let backward = u32::from(RATES.backward) * 1_000 / u32::from(RATES.tick_ms);
    let [busy, idle] = stepped(backward);
    assert_eq!((busy.step, busy.refused), (0, 1), "{busy:?}");
    assert_eq!(busy.last_refusal, Refusal::TooMuch as u64);
    let cells = idle.received - busy.received;
    // 30,000 ticks, with a standard deviation of 173.
    let ticks = cells / u64::from(RATES.backward);
    assert!(ticks.abs_diff(30_000) < 900, "{ticks} ticks in ten minutes");
}
