//! What a peer may ask for without giving anything (docs/protocol.md §4.3 and §4.5).
#![expect(clippy::disallowed_methods, reason = "a test has to begin at some time")]

use super::testing::channel;
use super::*;
use crate::crypto::fragment::{Create, create_message};

const ILLEGAL: ChannelError = ChannelError::State(Command::Create);

fn id(number: u32) -> CircId {
    CircId(CircId::INITIATOR_BIT | number)
}

/// The three cells of a `CREATE`.
fn create(number: u32) -> Vec<Cell> {
    let message = create_message(HopNum::FIRST, &[7; REQUEST_LEN]);
    Create::split(&message).map(|payload| cell::build(id(number), Command::Create, &payload)).collect()
}

fn destroy(number: u32) -> Cell {
    cell::build(id(number), Command::Destroy, &[DestroyReason::None as u8])
}

fn arrive(channel: &mut Channel, cells: &[Cell]) -> Result<(), ChannelError> {
    channel.handle_cells(Instant::now(), &mut cells.concat())
}

/// The reasons of the `DESTROY` that it sends, and nothing else.
fn refusals(channel: &mut Channel) -> Vec<DestroyReason> {
    let mut out = Vec::new();
    while channel.has_output() {
        channel.poll_output(Instant::now(), &mut out, 128);
    }
    out.as_chunks::<CELL_LEN>().0.iter().map(|cell| cell::parse_destroy(cell).unwrap()).collect()
}

#[test]
fn first_cells_of_circuits_reserve_nothing_and_few_of_them_are_kept() {
    let mut channel = channel(100_000);
    for number in 1..=64 {
        assert_eq!(arrive(&mut channel, &create(number)[..1]), Ok(()));
    }
    assert_eq!((channel.config.budget.used_cells(), channel.circuit_count()), (0, 64));
    // A whole one makes room for another.
    assert_eq!(arrive(&mut channel, &create(1)[1..]), Ok(()));
    assert!(matches!(channel.poll_event(), Some(Event::Handshake(_))));
    assert!(channel.config.budget.used_cells() > 0);
    assert_eq!(arrive(&mut channel, &create(65)[..2]), Ok(()));
    assert_eq!(arrive(&mut channel, &create(66)[..1]), Err(ChannelError::NotReading));
}

#[test]
fn an_id_is_asked_for_once() {
    for again in [&create(1)[..1], &create(1)[2..]] {
        let mut channel = channel(10);
        assert_eq!(arrive(&mut channel, &create(1)), Ok(()));
        assert_eq!(arrive(&mut channel, again), Err(ILLEGAL));
    }
    let mut twice = channel(10);
    assert_eq!(arrive(&mut twice, &create(1)[..1]), Ok(()));
    assert_eq!(arrive(&mut twice, &create(1)[..1]), Err(ILLEGAL));
}

#[test]
fn a_circuit_whose_request_takes_too_long_is_refused_and_the_rest_of_it_dropped() {
    let mut channel = channel(10);
    assert_eq!(arrive(&mut channel, &create(1)[..2]), Ok(()));
    let until = channel.poll_timeout().unwrap();
    channel.handle_timeout(until - Duration::from_millis(1));
    assert!(!channel.has_output());
    channel.handle_timeout(until);
    assert_eq!(refusals(&mut channel), [DestroyReason::Timeout]);
    assert_eq!(channel.config.counters.get(Incident::Timeout), 1);
    assert_eq!(arrive(&mut channel, &create(1)[2..]), Ok(()));
    assert_eq!(channel.circuit_count(), 1, "its id is not free yet");
    assert_eq!(arrive(&mut channel, &[destroy(1)]), Ok(()));
    assert_eq!(channel.circuit_count(), 0);
    assert_eq!(arrive(&mut channel, &[destroy(1)]), Err(ChannelError::State(Command::Destroy)));
}

#[test]
fn a_circuit_that_is_taken_back_while_it_is_asked_for_is_gone() {
    let mut channel = channel(10);
    assert_eq!(arrive(&mut channel, &[create(1)[0], create(1)[1], destroy(1)]), Ok(()));
    assert_eq!((refusals(&mut channel), channel.circuit_count()), (vec![DestroyReason::None], 0));
    assert_eq!(arrive(&mut channel, &create(1)), Ok(()));
}

#[test]
fn refused_circuits_are_remembered_by_their_ids_and_so_many_at_a_time() {
    let mut channel = channel(0);
    for number in 1..=8_192 {
        assert_eq!(arrive(&mut channel, &create(number)), Ok(()));
    }
    assert_eq!((channel.config.budget.used_cells(), channel.table.len()), (0, 0));
    // Whoever answers may go on asking.
    assert_eq!(arrive(&mut channel, &[destroy(1)]), Ok(()));
    assert_eq!(arrive(&mut channel, &create(8_193)), Ok(()));
    assert_eq!(refusals(&mut channel), [DestroyReason::Resources; 8_193]);
    assert_eq!(arrive(&mut channel, &create(8_194)), Err(ChannelError::NotReading));
}

#[test]
fn circuits_that_a_node_refuses_count_as_refused_and_hold_nothing() {
    let mut channel = channel(100_000);
    for number in 1..=8_193 {
        assert_eq!(arrive(&mut channel, &create(number)), Ok(()));
        let Some(Event::Handshake(job)) = channel.poll_event() else { panic!("asked for") };
        job.answer(Err(DestroyReason::Resources));
        channel.handle_inbox(Instant::now());
        assert_eq!((channel.config.budget.used_cells(), channel.table.len()), (0, 0));
    }
    assert_eq!(arrive(&mut channel, &[]), Err(ChannelError::NotReading));
}

#[test]
fn a_peer_that_does_not_answer_destroy_loses_the_channel_after_a_while() {
    let mut channel = channel(0);
    assert_eq!(arrive(&mut channel, &create(1)), Ok(()));
    assert_eq!(channel.rest(), Ok(()));
    assert_eq!(arrive(&mut channel, &[destroy(1)]), Ok(()));
    assert_eq!(arrive(&mut channel, &create(2)), Ok(()));
    assert_eq!(channel.rest(), Ok(()), "the first was answered");
    assert_eq!(channel.rest(), Err(ChannelError::NotReading));
}
