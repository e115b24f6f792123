//! Byte buffers that go round: filled by a channel, emptied by an application, filled again.
//!
//! A busy stream moves a full buffer every few hundred microseconds, and fresh ones would be page faults; an idle stream
//! holds none. Each thread keeps a few.

use std::cell::RefCell;

/// Buffers that a thread keeps.
const KEPT: usize = 16;
/// Larger buffers are not kept, in bytes.
const MAX_CAPACITY: usize = 256 * 1024;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer, with capacity if one was kept.
pub fn take() -> Vec<u8> {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Gives back a buffer that is no longer needed; its bytes are forgotten.
pub fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > MAX_CAPACITY {
        return;
    }
    buffer.clear();
    POOL.with_borrow_mut(|pool| {
        if pool.len() < KEPT {
            pool.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_and_no_thread_keeps_many() {
        give(vec![7; 1_000]);
        let again = take();
        assert!(again.is_empty() && again.capacity() >= 1_000);
        give(vec![7; MAX_CAPACITY + 1]);
        assert_eq!(take().capacity(), 0);
        (0..100).for_each(|_| give(vec![7]));
        assert_eq!((0..100).filter(|_| take().capacity() > 0).count(), KEPT);
    }
}
