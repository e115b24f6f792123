//! Byte buffers that go round: filled by a channel, emptied by an application, filled again.
//!
//! A busy stream moves a full buffer every few hundred microseconds, and fresh ones would be page faults; an idle stream
//! holds none. Each thread keeps a few. Whoever may hold a buffer for long gets none that is much larger than what is in it, so that
//! bytes that nobody reads take no more memory than a few times what they are counted for.

use std::cell::RefCell;

mod queue;

pub(crate) use queue::ByteQueue;

/// Buffers that a thread keeps,
const KEPT: usize = 16;
/// and their bytes.
const KEPT_BYTES: usize = 2 * 1024 * 1024;
/// Smaller buffers are not kept, in bytes, for they would take the place of others;
const MIN_CAPACITY: usize = 4 * 1024;
/// and larger ones neither.
const MAX_CAPACITY: usize = 256 * 1024;
/// A buffer that is so many times as large as what is in it is much larger.
const SPACIOUS: usize = 4;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer of any capacity, for what comes at once. Then it goes into a [`ByteQueue`].
pub(crate) fn take() -> Vec<u8> {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// A buffer with these bytes.
fn filled(bytes: &[u8]) -> Vec<u8> {
    let fitting = bytes.len()..=SPACIOUS * bytes.len();
    let kept = POOL.with_borrow_mut(|pool| {
        let place = pool.iter().rposition(|kept| fitting.contains(&kept.capacity()))?;
        Some(pool.remove(place))
    });
    let mut buffer = kept.unwrap_or_default();
    buffer.extend_from_slice(bytes);
    buffer
}

/// The same bytes in a buffer that may be held.
fn fitted(buffer: Vec<u8>) -> Vec<u8> {
    if buffer.capacity() <= SPACIOUS * buffer.len() {
        return buffer;
    }
    let fitting = filled(&buffer);
    give(buffer);
    fitting
}

/// Gives back a buffer that is no longer needed; its bytes are forgotten.
pub fn give(mut buffer: Vec<u8>) {
    if !(MIN_CAPACITY..=MAX_CAPACITY).contains(&buffer.capacity()) {
        return;
    }
    buffer.clear();
    POOL.with_borrow_mut(|pool| {
        pool.push(buffer);
        // The oldest go: what came last is what is in use.
        while pool.len() > KEPT || pool.iter().map(Vec::capacity).sum::<usize>() > KEPT_BYTES {
            pool.remove(0);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_and_no_thread_keeps_many() {
        give(vec![7; MIN_CAPACITY]);
        let again = take();
        assert!(again.is_empty() && again.capacity() >= MIN_CAPACITY);
        give(vec![7; MAX_CAPACITY + 1]);
        give(vec![7; MIN_CAPACITY - 1]);
        assert_eq!(take().capacity(), 0);
        (0..100).for_each(|_| give(vec![7; MIN_CAPACITY]));
        assert_eq!((0..100).filter(|_| take().capacity() > 0).count(), KEPT);
        (0..100).for_each(|_| give(vec![7; MIN_CAPACITY]));
        (0..100).for_each(|_| give(Vec::with_capacity(MAX_CAPACITY)));
        assert_eq!((0..100).map(|_| take().capacity()).sum::<usize>(), KEPT_BYTES);
    }

    #[test]
    fn who_may_hold_a_buffer_gets_none_that_is_much_larger_than_what_is_in_it() {
        let large = || Vec::with_capacity(40_000);
        give(Vec::with_capacity(10_000));
        give(large());
        let filled_with = |len| filled(&vec![7; len]).capacity();
        assert!(filled_with(2_499) < 10_000, "both are much too large");
        assert_eq!(filled_with(2_500), 10_000);
        assert_eq!(take().capacity(), 40_000, "it was left for others");

        let mut buffer = large();
        buffer.resize(10_000, 7);
        assert_eq!(fitted(buffer).capacity(), 40_000);
        let mut buffer = large();
        buffer.resize(9_999, 7);
        let fitting = fitted(buffer);
        assert!(fitting == [7; 9_999] && fitting.capacity() < 40_000);
        assert_eq!(take().capacity(), 40_000, "it went back");
    }
}
