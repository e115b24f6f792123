#![expect(
    clippy::disallowed_methods,
    reason = "Instant has no other origin; only differences to it are used"
)]

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

fn door() -> (Door, Instant) {
    (Door::new(Params::default(), 1), Instant::now())
}

/// Hosts of different subnets.
fn host(n: u32) -> IpAddr {
    IpAddr::V4((n << 8 | 1).into())
}

/// So many channels of one address, opened slowly enough.
fn enter(door: &mut Door, now: &mut Instant, ip: IpAddr, count: usize) -> Vec<Ticket> {
    let open = |_| {
        *now += SECOND / 20;
        door.enter(*now, ip).unwrap()
    };
    (0..count).map(open).collect()
}

#[test]
fn an_address_has_so_many_channels_at_a_time() {
    let (mut door, mut now) = door();
    let tickets = enter(&mut door, &mut now, host(1), 100);
    now += SECOND;
    assert_eq!(door.enter(now, host(1)), Err(Refusal::Channels));
    assert!(door.enter(now, host(2)).is_ok(), "others are served");
    door.leave(tickets[0]);
    assert!(door.enter(now, host(1)).is_ok());
}

#[test]
fn an_address_opens_channels_at_a_rate() {
    let (mut door, now) = door();
    let at_once = (0..60).filter_map(|_| door.enter(now, host(1)).ok()).collect::<Vec<_>>();
    assert_eq!(at_once.len(), 40);
    at_once.into_iter().for_each(|ticket| door.leave(ticket));
    assert_eq!(door.enter(now, host(1)), Err(Refusal::ChannelRate), "closing them again gains nothing");
    assert!(door.enter(now, host(2)).is_ok());
    let later = now + SECOND;
    assert_eq!((0..60).filter(|_| door.enter(later, host(1)).is_ok()).count(), 20);
}

#[test]
fn a_subnet_has_four_times_what_an_address_has() {
    let (mut door, now) = door();
    let all: Vec<IpAddr> = (1..=200).map(|n| [192, 0, 2, n].into()).collect();
    let entered = all.iter().filter(|ip| door.enter(now, **ip).is_ok()).count();
    assert_eq!(entered, 160);
    let slowly = (0..10).flat_map(|s| all.iter().map(move |ip| (now + SECOND * s, *ip)));
    let entered = entered + slowly.filter(|(now, ip)| door.enter(*now, *ip).is_ok()).count();
    assert_eq!(entered, 400);
    assert_eq!(door.enter(now + HOUR, all[0]), Err(Refusal::Channels));
}

#[test]
fn who_floods_with_circuits_is_refused_for_an_hour() {
    let (mut door, mut now) = door();
    let flood = enter(&mut door, &mut now, host(1), 3);
    let honest = enter(&mut door, &mut now, host(2), 3);
    assert_eq!((0..500).filter(|n| door.circuit(now, flood[n % 3]).is_ok()).count(), 90);
    assert!((0..90).all(|n| door.circuit(now, honest[n % 3]).is_ok()));
    flood.into_iter().for_each(|ticket| door.leave(ticket));
    now += HOUR - SECOND;
    let again = door.enter(now, host(1)).unwrap();
    assert_eq!(door.circuit(now, again), Err(Refusal::CircuitRate), "new channels change nothing");
    assert_eq!(door.circuit(now + SECOND, again), Ok(()));
}

#[test]
fn an_address_with_few_channels_may_be_many_people() {
    let (mut door, mut now) = door();
    let two = enter(&mut door, &mut now, host(1), 2);
    assert!((0..500).all(|n| door.circuit(now, two[n % 2]).is_ok()));
}

#[test]
fn a_subnet_that_floods_with_circuits_is_held_to_its_rate_without_a_penalty() {
    let (mut door, mut now) = door();
    let ips: Vec<IpAddr> = (1..=12).map(|n| [192, 0, 2, n].into()).collect();
    let tickets: Vec<_> = ips.iter().flat_map(|ip| enter(&mut door, &mut now, *ip, 1)).collect();
    assert_eq!((0..1_000).filter(|n| door.circuit(now, tickets[n % 12]).is_ok()).count(), 360);
    let later = now + SECOND;
    assert_eq!((0..1_000).filter(|n| door.circuit(later, tickets[n % 12]).is_ok()).count(), 12);
}

#[test]
fn nobody_is_forgotten_by_coming_from_many_addresses() {
    let now = Instant::now();
    let mut door = Door::with_capacity(Params::default(), 1, 1_000);
    let mut at = now;
    let flood = enter(&mut door, &mut at, host(0), 3);
    while door.circuit(at, flood[0]).is_ok() {}
    flood.iter().for_each(|ticket| door.leave(*ticket));
    for n in 1..50_000 {
        at += SECOND / 100;
        if let Ok(ticket) = door.enter(at, host(n)) {
            door.leave(ticket);
        }
        assert!(door.len() <= 2_000);
    }
    let again = door.enter(at, host(0)).unwrap();
    assert_eq!(door.circuit(at, again), Err(Refusal::CircuitRate));
}

#[test]
fn a_full_table_lets_newcomers_share_places_and_keeps_within_its_bounds() {
    let now = Instant::now();
    let mut door = Door::with_capacity(Params::default(), 1, 1_000);
    let held: Vec<_> = (0..1_000).map(|n| door.enter(now, host(n)).unwrap()).collect();
    let guests: Vec<_> = (0..20_000).filter_map(|n| door.enter(now, host(1_000 + n)).ok()).collect();
    assert_eq!(door.len(), 2_000);
    assert!(guests.len() > 15_000, "{} of 20,000 share 1,024 places", guests.len());
    // One address alone has no more there than elsewhere.
    let later = now + HOUR;
    assert!((0..1_000).filter(|_| door.enter(later, host(99_999)).is_ok()).count() <= 40);
    held.into_iter().chain(guests).for_each(|ticket| door.leave(ticket));
    let empty = later + HOUR;
    door.enter(empty, host(1)).unwrap();
    door.enter(empty, host(70_000)).unwrap();
    assert!(door.len() <= 4, "{}", door.len());
}

#[test]
fn addresses_of_one_ipv6_network_count_together() {
    let (mut door, now) = door();
    let ip = |n: u128| IpAddr::V6((0x2001_0db8_u128 << 96 | n).into());
    assert_eq!((0..200).filter(|n| door.enter(now, ip(*n)).is_ok()).count(), 40);
}

#[test]
fn parameters_change_at_once() {
    let (mut door, now) = door();
    door.set_params(Params { channels_per_address: 1, ..Params::default() });
    assert!(door.enter(now, host(1)).is_ok());
    assert_eq!(door.enter(now, host(1)), Err(Refusal::Channels));
    door.set_params(Params { channels_per_second: 0, channels_per_address: 1_000, ..Params::default() });
    assert_eq!((0..2_000).filter(|_| door.enter(now, host(1)).is_ok()).count(), 999);
}
