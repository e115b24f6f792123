use super::*;
use crate::core::testing::{id, network, network_of, relay, rng, start};
use tunic_proto::dir::Flag;

const NOW: UnixTime = UnixTime(1_800_000_000);

fn set_for(relays: u32) -> GuardSet {
    let mut set = GuardSet::default();
    assert!(set.update(&network(relays), NOW, &mut rng(1)));
    set
}

fn sampled(set: &GuardSet) -> Vec<RelayId> {
    set.sample.iter().map(|guard| guard.id).collect()
}

#[test]
fn the_sample_is_a_fifth_of_the_guards_within_its_bounds() {
    for (relays, expect) in [(1, 1), (2, 2), (3, 3), (10, 3), (20, 4), (50, 10), (100, 20), (1_000, 20)] {
        assert_eq!(set_for(relays).sample.len(), expect, "{relays} relays");
    }
}

#[test]
fn only_running_guards_are_sampled() {
    let mut relays: Vec<_> = (0..9).map(relay).collect();
    relays[0].flags = vec![Flag::Running, Flag::Valid];
    relays[1].flags = vec![Flag::Running, Flag::Guard];
    relays[2].flags = vec![Flag::Valid, Flag::Guard];
    let network = network_of(relays);
    for seed in 0..50 {
        let mut set = GuardSet::default();
        set.update(&network, NOW, &mut rng(seed));
        assert!(sampled(&set).iter().all(|guard| (3..9).any(|number| *guard == id(number))));
    }
}

#[test]
fn the_sample_stays_while_the_network_grows() {
    let mut set = set_for(15);
    let before = sampled(&set);
    assert!(!set.update(&network(19), NOW, &mut rng(2)), "nothing to store");
    assert_eq!(sampled(&set), before);
    set.update(&network(30), NOW, &mut rng(2));
    assert_eq!(sampled(&set)[..3], before, "new ones come last");
}

#[test]
fn the_first_primary_guard_in_reach_is_used() {
    let (mut set, now) = (set_for(100), start());
    let order = sampled(&set);
    assert_eq!(set.candidates(now), order);
    set.failed(order[0], now);
    assert_eq!(set.candidates(now)[0], order[1]);
    set.failed(order[1], now);
    set.failed(order[2], now);
    assert_eq!(set.candidates(now)[0], order[3], "the rest of the sample, when no primary is in reach");
    assert_eq!(set.candidates(now + FIRST_RETRY), order);
}

#[test]
fn a_confirmed_guard_comes_first() {
    let (mut set, now) = (set_for(100), start());
    let order = sampled(&set);
    assert!(set.succeeded(order[2], NOW, &mut rng(1)));
    assert!(!set.succeeded(order[2], NOW, &mut rng(1)), "nothing to store");
    assert_eq!(set.candidates(now)[..3], [order[2], order[0], order[1]]);
}

#[test]
fn a_client_that_shuns_exits_has_guards_that_are_none_first_until_it_has_used_one() {
    let mut relays: Vec<_> = (0..20).map(relay).collect();
    relays[10..].iter_mut().for_each(|relay| relay.exit = Default::default());
    let (network, now) = (network_of(relays), start());
    let is_exit = |id: &RelayId| network.relay(*id).unwrap().exit.is_exit();
    let mut mixed = 0;
    for seed in 0..50 {
        let mut set = GuardSet::default();
        set.shun_exits();
        set.update(&network, NOW, &mut rng(seed));
        let order = set.candidates(now);
        assert!(order.is_sorted_by_key(is_exit));
        let Some(exit) = order.iter().copied().find(is_exit).filter(|exit| *exit != order[0]) else {
            continue;
        };
        mixed += 1;
        set.succeeded(exit, NOW, &mut rng(1));
        assert_eq!(set.candidates(now)[0], exit, "a guard that was used is kept");
        set.succeeded(order[0], NOW, &mut rng(1));
        assert_eq!(set.candidates(now)[..2], [order[0], exit]);
    }
    assert!(mixed > 20, "{mixed}");
}

#[test]
fn a_guard_that_fails_again_is_left_alone_twice_as_long() {
    let (mut set, mut now) = (set_for(20), start());
    let guard = sampled(&set)[0];
    for wait in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600].map(Duration::from_secs) {
        set.failed(guard, now);
        set.failed(guard, now);
        assert!(!set.candidates(now + wait - Duration::from_millis(1)).contains(&guard), "{wait:?}");
        assert!(set.candidates(now + wait).contains(&guard), "{wait:?}");
        now += wait;
    }
    set.succeeded(guard, NOW, &mut rng(1));
    assert_eq!(set.candidates(now)[0], guard);
}

#[test]
fn a_guard_that_stands_still_is_left_alone_for_a_minute_and_longer_each_time() {
    let (mut set, mut now) = (set_for(20), start());
    let guard = sampled(&set)[0];
    set.failed(guard, now);
    for wait in [60, 120, 240, 480, 600, 600].map(Duration::from_secs) {
        set.fell_silent(guard, now);
        set.fell_silent(guard, now);
        set.failed(guard, now);
        assert!(!set.candidates(now + wait - Duration::from_millis(1)).contains(&guard), "{wait:?}");
        assert!(set.candidates(now + wait).contains(&guard), "{wait:?}");
        now += wait;
    }
}

#[test]
fn when_nothing_is_in_reach_the_primaries_are_tried_soonest_first() {
    let (mut set, now) = (set_for(20), start());
    let order = sampled(&set);
    set.failed(order[0], now);
    set.failed(order[0], now + FIRST_RETRY);
    for guard in &order[1..] {
        set.failed(*guard, now + FIRST_RETRY);
    }
    assert_eq!(set.candidates(now + FIRST_RETRY), [order[1], order[2], order[0]]);
}

/// How long a guard stays, in whole days, when `each_day` happens to the set first.
fn days_kept(mut each_day: impl FnMut(&mut GuardSet, RelayId, UnixTime)) -> u64 {
    let mut set = set_for(100);
    let guard = sampled(&set)[0];
    for day in 1..400 {
        let now = NOW.plus(DAY * day);
        set.update(&network(100), now, &mut rng(u64::from(day)));
        if !sampled(&set).contains(&guard) {
            return u64::from(day);
        }
        each_day(&mut set, guard, now);
    }
    400
}

#[test]
fn guards_are_replaced_after_their_lifetime() {
    let unconfirmed = days_kept(|_, _, _| {});
    assert!((108..=120).contains(&unconfirmed), "{unconfirmed} days");
    let early = days_kept(|set, guard, now| {
        set.succeeded(guard, now, &mut rng(1));
    });
    assert!((108..=120).contains(&early), "{early} days: confirmed on the first");
    let late = days_kept(|set, guard, now| {
        if now >= NOW.plus(DAY * 100) {
            set.succeeded(guard, now, &mut rng(1));
        }
    });
    assert!((148..=160).contains(&late), "{late} days: confirmed on the hundredth");
}

#[test]
fn an_unlisted_guard_is_not_used_and_dropped_after_20_days() {
    let mut set = set_for(10);
    let guard = sampled(&set)[0];
    let without = network_of((0..10).map(relay).filter(|relay| relay.identity != guard).collect());
    assert!(set.update(&without, NOW, &mut rng(1)));
    assert!(sampled(&set).contains(&guard) && !set.candidates(start()).contains(&guard));
    assert_eq!(set.candidates(start()).len(), 3, "another one stands in");
    set.update(&network(10), NOW.plus(DAY), &mut rng(1));
    assert_eq!(set.candidates(start())[0], guard, "listed again");
    set.update(&without, NOW.plus(DAY * 2), &mut rng(1));
    set.update(&without, NOW.plus(DAY * 21), &mut rng(1));
    assert!(sampled(&set).contains(&guard));
    set.update(&without, NOW.plus(DAY * 22), &mut rng(1));
    assert!(!sampled(&set).contains(&guard));
}

#[test]
fn the_sample_is_bounded_when_everything_is_unlisted_again_and_again() {
    let mut set = set_for(100);
    for round in 1..20 {
        let others = network_of((100 * round..100 * (round + 1)).map(relay).collect());
        set.update(&others, NOW, &mut rng(1));
        assert!(set.sample.len() <= MAX_SAMPLE);
    }
}

#[test]
fn the_set_survives_the_disk() {
    let mut set = set_for(100);
    set.succeeded(sampled(&set)[1], NOW, &mut rng(1));
    let read = GuardSet::from_json(&set.to_json()).unwrap();
    assert_eq!(read.sample, set.sample);
}

#[test]
fn other_files_are_refused() {
    let twice = |set: &mut GuardSet| set.sample[0].id = set.sample[1].id;
    let too_many = |set: &mut GuardSet| {
        let more = (1_000..1_020).map(|number| Guard { id: id(number), ..set.sample[0].clone() });
        set.sample.extend(more.collect::<Vec<_>>());
    };
    for spoil in [&twice as &dyn Fn(&mut GuardSet), &too_many] {
        let mut set = set_for(10);
        spoil(&mut set);
        assert!(matches!(GuardSet::from_json(&set.to_json()), Err(GuardsError::Shape)));
    }
    for text in ["", "{}", "[]", "{\"sample\":[{}]}", "{\"sample\":[{\"id\":\"00\",\"added\":1}]}"] {
        assert!(matches!(GuardSet::from_json(text.as_bytes()), Err(GuardsError::Json(_))), "{text}");
    }
}
