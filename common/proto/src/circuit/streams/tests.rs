#![expect(clippy::disallowed_methods, reason = "a test has to begin at some time")]

use std::task::{Context, Poll, Waker};

use super::*;
use crate::cell::CELL_LEN;
use crate::channel::Inbox;
use crate::message::Target;
use crate::stream::{SEND_BUFFER_LEN, StreamIo};

const ID: StreamId = StreamId(1);
const KEY: CircKey = CircKey { index: 1, generation: 1 };
const SECOND: Duration = Duration::from_secs(1);
/// What one cell has at most.
const DATA: [u8; 485] = [7; 485];

/// A relay's end of a circuit with one stream, and its application, which has not accepted it.
fn begun(budget: &Budget) -> (Streams, StreamIo) {
    let mut streams = Streams::new(Side::Relay, budget.clone());
    let io = StreamShared::new(Inbox::new());
    assert!(streams.begun(ID, io.clone(), KEY).unwrap());
    (streams, StreamIo(io))
}

/// The same, accepted.
fn relay(budget: &Budget) -> (Streams, StreamIo) {
    let (mut streams, io) = begun(budget);
    io.accept(None);
    streams.notified(Instant::now(), ID);
    assert!(matches!(sent(&mut streams)[..], [(Code::Connected, _)]));
    (streams, io)
}

/// A client's end, with one stream that was accepted, and its application. The budget is enough for it.
fn client() -> (Streams, StreamIo) {
    let mut streams = Streams::new(Side::Client, Budget::new(1 << 20));
    let io = StreamShared::new(Inbox::new());
    streams.begin(Instant::now(), io.clone(), KEY, &Begin::Directory);
    assert_eq!(sent(&mut streams), [(Code::BeginDir, vec![])]);
    streams.connected(ID, None).unwrap();
    (streams, StreamIo(io))
}

/// What goes out now.
fn sent(streams: &mut Streams) -> Vec<(Code, Vec<u8>)> {
    let mut messages = Vec::new();
    streams.fill(Instant::now(), 100, DATA.len(), &mut |code, _, data| messages.push((code, data.to_vec())));
    messages
}

/// The application has no more to say; what goes out then.
fn finished(streams: &mut Streams, io: &StreamIo) -> Vec<(Code, Vec<u8>)> {
    io.finish();
    streams.notified(Instant::now(), ID);
    sent(streams)
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
    assert!(io.try_write_whole(&[7; 40_000], SEND_BUFFER_LEN).unwrap());
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

/// Whether the other direction ended as it should; `None`: not yet.
fn is_whole(io: &StreamIo) -> Option<bool> {
    match io.poll_take(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(taken)) => taken.is_none().then_some(true),
        Poll::Ready(Err(_)) => Some(false),
        Poll::Pending => None,
    }
}

fn done() -> Vec<(Code, Vec<u8>)> {
    vec![(Code::End, vec![EndReason::Done as u8])]
}

#[test]
fn whoever_ends_a_direction_last_ends_the_stream() {
    for (mut streams, io) in [client(), relay(&Budget::new(1 << 20))] {
        arrive(&mut streams, Instant::now(), 1);
        streams.handle(Instant::now(), ID, StreamMessage::Eof).unwrap();
        assert_eq!(finished(&mut streams, &io), done());
        streams.handle(Instant::now(), ID, StreamMessage::End(EndReason::Done)).unwrap();
        assert!(streams.is_empty() && sent(&mut streams).is_empty());
        assert_eq!(take(&io), Some(DATA.len()), "it was there before");
        assert_eq!(is_whole(&io), Some(true));
    }
}

#[test]
fn an_end_that_answers_an_end_of_data_is_one() {
    for (mut streams, io) in [client(), relay(&Budget::new(1 << 20))] {
        assert_eq!(finished(&mut streams, &io), [(Code::Eof, vec![])]);
        arrive(&mut streams, Instant::now(), 1);
        streams.handle(Instant::now(), ID, StreamMessage::End(EndReason::Done)).unwrap();
        assert_eq!(sent(&mut streams), done());
        assert!(streams.is_empty());
        assert_eq!(take(&io), Some(DATA.len()));
        assert_eq!(is_whole(&io), Some(true));
    }
}

#[test]
fn what_came_for_a_stream_that_nobody_accepted_goes_with_it() {
    let (mut streams, io) = begun(&Budget::new(1 << 20));
    arrive(&mut streams, Instant::now(), 40);
    streams.handle(Instant::now(), ID, StreamMessage::End(EndReason::Done)).unwrap();
    assert!(streams.is_empty() && io.0.lock().stored() == (0, 0));
    assert_eq!(io.end_reason(), Some(EndReason::Done));
}

#[test]
fn any_other_end_is_none() {
    let check = |(mut streams, io): (Streams, StreamIo), has_finished: bool, reason: EndReason| {
        if has_finished {
            finished(&mut streams, &io);
        }
        streams.handle(Instant::now(), ID, StreamMessage::End(reason)).unwrap();
        assert_eq!(is_whole(&io), Some(false), "{reason}");
    };
    check(client(), false, EndReason::Done);
    check(relay(&Budget::new(1 << 20)), false, EndReason::Done);
    check(client(), true, EndReason::Reset);
    check(relay(&Budget::new(1 << 20)), true, EndReason::Reset);
    // It has ended the stream itself, and this is the answer.
    let (mut streams, io) = client();
    finished(&mut streams, &io);
    io.end(EndReason::Reset);
    streams.notified(Instant::now(), ID);
    check((streams, io), false, EndReason::Done);
    // It was not accepted.
    let (mut streams, io) = client();
    streams.streams.get_mut(&ID).unwrap().connected = false;
    finished(&mut streams, &io);
    check((streams, io), false, EndReason::Done);
}

#[test]
fn what_was_thrown_away_was_not_sent() {
    let (mut streams, io) = relay(&Budget::new(1 << 20));
    streams.handle(Instant::now(), ID, StreamMessage::Eof).unwrap();
    assert!(io.try_write_whole(&[7; 40_000], SEND_BUFFER_LEN).unwrap());
    io.finish();
    streams.notified(Instant::now(), ID);
    assert_eq!(sent(&mut streams).len(), 64, "as much as there is credit for");
    // The channel has not heard of it yet when there is credit again.
    io.end(EndReason::Reset);
    streams.ready.push_back(ID);
    assert_eq!(sent(&mut streams), []);
    streams.notified(Instant::now(), ID);
    assert_eq!(sent(&mut streams), [(Code::End, vec![EndReason::Reset as u8])]);
}

#[test]
fn of_two_that_end_at_once_the_client_ends_the_stream() {
    for ((mut streams, io), last) in [(client(), done()), (relay(&Budget::new(1 << 20)), vec![])] {
        assert_eq!(finished(&mut streams, &io), [(Code::Eof, vec![])]);
        streams.handle(Instant::now(), ID, StreamMessage::Eof).unwrap();
        assert_eq!(sent(&mut streams), last);
        assert_eq!(is_whole(&io), Some(true));
    }
}

#[test]
fn what_an_answer_begins_with_may_come_at_once() {
    let begun = |bytes: usize, begin: &Begin| {
        let mut streams = Streams::new(Side::Client, Budget::new(bytes));
        streams.begin(Instant::now(), StreamShared::new(Inbox::new()), KEY, begin);
        sent(&mut streams).into_iter().map(|(code, _)| code).collect::<Vec<_>>()
    };
    let site = Begin::Connect(Target::Name("site".to_owned(), 443));
    assert_eq!(begun(64 << 20, &site), [Code::Begin, Code::Window]);
    assert_eq!(begun(64 << 20, &Begin::Directory), [Code::BeginDir]);
    assert_eq!(begun(128 << 10, &site), [Code::Begin], "little is left");
}

/// Fills all the room that the application has.
fn fill(io: &StreamIo) -> Option<usize> {
    match io.poll_write(&mut Context::from_waker(Waker::noop()), &[7; 2 * SEND_BUFFER_LEN]) {
        Poll::Ready(written) => Some(written.unwrap()),
        Poll::Pending => None,
    }
}

/// What goes out now, as often as there is credit for it.
fn all_sent(streams: &mut Streams) {
    streams.notified(Instant::now(), ID);
    while !sent(streams).is_empty() {
        streams.handle(Instant::now(), ID, StreamMessage::Window(100)).unwrap();
    }
}

#[test]
fn an_application_gets_more_room_once_everything_is_sent_before_it_is_back() {
    let (mut streams, io) = client();
    let first = INITIAL_SEND_CELLS as usize * CELL_LEN;
    for _ in 0..3 {
        assert_eq!(fill(&io), Some(first), "it never waited for room");
        all_sent(&mut streams);
    }
    let rooms = std::iter::repeat_with(|| {
        let room = fill(&io).unwrap();
        assert_eq!(fill(&io), None, "it waits");
        all_sent(&mut streams);
        room
    });
    let rooms: Vec<usize> = rooms.take(6).collect();
    assert_eq!(rooms, [1, 2, 4, 8, 16, 16].map(|times| times * first));
    assert_eq!(rooms[5], SEND_BUFFER_LEN);
}

#[test]
fn what_waits_to_be_sent_is_bounded_and_counts_as_held() {
    let (mut streams, io) = client();
    assert!(!io.try_write_whole(&[7; 10_001], 10_000).unwrap());
    assert!(io.try_write_whole(&[7; 9_000], 10_000).unwrap());
    assert!(!io.try_write_whole(&[7; 1_001], 10_000).unwrap());
    streams.notified(Instant::now(), ID);
    let held = streams.held(Instant::now()).unwrap().1;
    assert!((9_000..=36_000).contains(&held), "{held} bytes");
    all_sent(&mut streams);
    assert_eq!(streams.held(Instant::now()), None);
    assert!(io.try_write_whole(&[7; 1_001], 10_000).unwrap());
}
