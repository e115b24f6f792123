//! A buffer that is written over again and again.

use std::ops::{Deref, DerefMut};

/// Bytes, and behind their end what earlier ones left there, so that room for more is not cleared before it is written to.
#[derive(Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    len: usize,
}

impl Buffer {
    /// Without any.
    pub const fn new() -> Buffer {
        Buffer { bytes: Vec::new(), len: 0 }
    }

    /// Forgets all bytes and keeps the room.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Appends these.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.grow(bytes.len()).copy_from_slice(bytes);
    }

    /// Appends so many, to be written over: they are whatever was there before.
    pub(super) fn grow(&mut self, count: usize) -> &mut [u8] {
        let start = self.len;
        self.len += count;
        if self.bytes.len() < self.len {
            self.bytes.resize(self.len, 0);
        }
        &mut self.bytes[start..self.len]
    }

    /// Forgets those from `len` on.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_appended_is_told() {
        let mut buffer = Buffer::new();
        buffer.extend_from_slice(b"one");
        buffer.grow(2).copy_from_slice(b"-2");
        assert_eq!(&*buffer, b"one-2");
        buffer.truncate(9);
        buffer.truncate(3);
        assert_eq!(&*buffer, b"one");
        buffer.extend_from_slice(b"!");
        assert_eq!(&*buffer, b"one!");
        buffer.clear();
        assert!(buffer.is_empty());
    }
}
