#![expect(clippy::disallowed_methods, reason = "a test has to begin at some time")]

use std::task::{Context, Poll, Waker};

use super::*;
use crate::channel::Inbox;
use crate::stream::StreamIo;

const ID: StreamId = StreamId(1);
const KEY: CircKey = CircKey { index: 1, generation: 1 };
const SECOND: Duration = Duration::from_secs(1);
/// What one cell has at most.
const DATA: [u8; 485] = [7; 485];

/// A relay's end of a circuit with one stream, and its application.
fn relay(budget: &Budget) -> (Streams, StreamIo) {
    let mut streams = Streams::new(Side::Relay, budget.clone());
    let io = StreamShared::new(Inbox::new());
    assert!(streams.begun(ID, io.clone(), KEY).unwrap());
    (streams, StreamIo(io))
}

fn arrive(streams: &mut Streams, now: Instant, cells: usize) {
    for _ in 0..cells {
        streams.handle(now, ID, StreamMessage::Data(&DATA, false)).unwrap();
    }
    streams.flush();
}

fn take(io: &StreamIo) -> Option<usize> {
    match io.poll_take(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(taken) => Some(taken.unwrap().unwrap().len()),
        Poll::Pending => None,
    }
}

#[test]
fn what_an_application_took_and_still_holds_is_held_here() {
    let begin = Instant::now();
    let (mut streams, io) = relay(&Budget::new(1 << 20));
    arrive(&mut streams, begin, 40);
    // Its target takes nothing: it never asks for more.
    assert_eq!(take(&io), Some(40 * DATA.len()));
    assert_eq!(streams.held(begin + SECOND), Some((SECOND, 40 * DATA.len())));
    arrive(&mut streams, begin + 9 * SECOND, 24);
    assert_eq!(streams.held(begin + 10 * SECOND), Some((10 * SECOND, 64 * DATA.len())), "no younger");
    // It is done with the first, and has the others.
    assert_eq!(take(&io), Some(24 * DATA.len()));
    streams.notified(begin + 10 * SECOND, ID);
    assert_eq!(streams.held(begin + 12 * SECOND), Some((2 * SECOND, 24 * DATA.len())));
    assert_eq!(take(&io), None);
    assert_eq!(streams.held(begin + 12 * SECOND), None);
    arrive(&mut streams, begin + 20 * SECOND, 1);
    assert_eq!(streams.held(begin + 20 * SECOND), Some((Duration::ZERO, DATA.len())));
    assert_eq!(take(&io), Some(DATA.len()));
    io.end(EndReason::Reset);
    assert_eq!(streams.held(begin + 30 * SECOND), None);
}

#[test]
fn the_room_for_what_is_sent_is_given_back_when_nothing_is() {
    let budget = Budget::new(1 << 20);
    let (mut streams, io) = relay(&budget);
    let idle = budget.used_cells();
    assert!(io.try_write_whole(&[7; 40_000]).unwrap());
    assert!(budget.used_cells() > idle);
    streams.rest();
    assert!(budget.used_cells() > idle, "it is in use");
    streams.notified(Instant::now(), ID);
    let mut sent = 0;
    streams.fill(Instant::now(), 1_000, DATA.len(), &mut |_, _, data| sent += data.len());
    for _ in 0..2 {
        streams.handle(Instant::now(), ID, StreamMessage::Window(64)).unwrap();
        streams.fill(Instant::now(), 1_000, DATA.len(), &mut |_, _, data| sent += data.len());
    }
    assert_eq!(sent, 40_000);
    streams.rest();
    assert_eq!(budget.used_cells(), idle);
}
