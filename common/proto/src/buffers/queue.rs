//! Bytes that wait, in the order in which they came.

use std::fmt;

use super::{MIN_CAPACITY, filled, fitted, give};

/// Once it rests, its memory is at most so many times what is in it.
const RESTING: usize = 8;

/// Holds no memory while it is empty, and while it is not, at most four times the most that was in it since then: what was taken
/// from its front stays until it is as much as what is left. Once it [rests](ByteQueue::rest), it holds at most 4 KiB or eight times what
/// is in it.
#[derive(Default)]
pub(crate) struct ByteQueue {
    bytes: Vec<u8>,
    /// How many of them were taken.
    at: usize,
}

impl ByteQueue {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(crate) fn push(&mut self, more: &[u8]) {
        if self.is_empty() {
            self.bytes = filled(more);
            return;
        }
        if self.at >= self.len() {
            self.bytes.drain(..std::mem::take(&mut self.at));
        }
        self.bytes.extend_from_slice(more);
    }

    /// The same, without a copy where it can be.
    pub(crate) fn push_buffer(&mut self, more: Vec<u8>) {
        if self.is_empty() {
            self.bytes = fitted(more);
        } else {
            self.push(&more);
            give(more);
        }
    }

    /// All that is there, from the front.
    pub(crate) fn front(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// Takes so many bytes from the front; there have to be as many.
    pub(crate) fn skip(&mut self, count: usize) {
        self.at += count;
        if self.is_empty() {
            give(self.take());
        }
    }

    /// To be called now and then: few bytes that are left of many move to less memory.
    pub(crate) fn rest(&mut self) {
        if self.capacity() > MIN_CAPACITY.max(RESTING * self.len()) {
            let left = filled(self.front());
            give(std::mem::replace(&mut self.bytes, left));
            self.at = 0;
        }
    }

    /// Takes everything.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.drain(..std::mem::take(&mut self.at));
        bytes
    }
}

impl fmt::Debug for ByteQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteQueue").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let mut queue = ByteQueue::default();
        queue.push_buffer(vec![1; 1_000]);
        queue.push(&[2; 1_000]);
        queue.push_buffer(vec![3; 1_000]);
        queue.skip(1_500);
        assert_eq!(queue.front(), [[2; 500].as_slice(), &[3; 1_000]].concat());
        queue.push(&[4; 10]);
        queue.skip(1_500);
        assert_eq!((queue.len(), queue.take()), (10, vec![4; 10]));
        assert!(queue.is_empty() && queue.capacity() == 0);
        queue.push(&[5; 10]);
        queue.skip(10);
        assert!(queue.is_empty() && queue.capacity() == 0);
    }

    #[test]
    fn one_that_is_never_empty_does_not_grow_with_what_passes_through_it() {
        let mut queue = ByteQueue::default();
        queue.push(&[7; 50_000]);
        for _ in 0..10_000 {
            queue.skip(700);
            queue.push(&[7; 700]);
        }
        assert_eq!(queue.len(), 50_000);
        assert!(queue.capacity() <= 200_000, "{} bytes", queue.capacity());
    }

    #[test]
    fn few_bytes_that_are_left_of_many_keep_little() {
        let mut queue = ByteQueue::default();
        queue.push(&[7; 100_000]);
        for left in [50_000, 20_000, 10_000, 3_000, 600, 1] {
            queue.skip(queue.len() - left);
            queue.rest();
            assert_eq!(queue.front(), vec![7; left]);
            assert!(queue.capacity() <= MIN_CAPACITY.max(8 * left), "{} bytes for {left}", queue.capacity());
        }
    }
}
