//! The memory of circuit requests that a relay has answered (docs/protocol.md §4.2).

use std::collections::HashSet;

use sha2::{Digest as _, Sha256};

use crate::crypto::handshake::REQUEST_LEN;

const ENTRY_LEN: usize = 16;

/// A circuit request that has been seen before, or a copy of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("circuit request was replayed")]
pub struct Replay;

/// The circuit requests that a relay has seen, in two generations: when the younger is full, the older is forgotten.
///
/// Replays gain their sender nothing but our work, since every answer has fresh keys of ours in it; so a memory that
/// someone can flush with requests of their own is good enough.
#[derive(Debug)]
pub struct ReplayCache {
    // The senders choose what is hashed, so the sets keep the standard library's keyed hash.
    young: HashSet<[u8; ENTRY_LEN]>,
    old: HashSet<[u8; ENTRY_LEN]>,
    generation: usize,
}

impl ReplayCache {
    /// Remembers at least `capacity / 2` requests and at most `capacity` (rounded up to an even number, 2 at least).
    /// Memory grows with use, to about 40 bytes for each.
    pub fn new(capacity: usize) -> Self {
        ReplayCache { young: HashSet::new(), old: HashSet::new(), generation: capacity.div_ceil(2).max(1) }
    }

    /// Remembers the request. Call it before [`respond`](crate::crypto::handshake::respond).
    ///
    /// # Errors
    /// [`Replay`] if it is remembered already.
    pub fn check_and_insert(&mut self, request: &[u8; REQUEST_LEN]) -> Result<(), Replay> {
        let mut entry = [0; ENTRY_LEN];
        entry.copy_from_slice(&Sha256::digest(request)[..ENTRY_LEN]);
        if self.old.contains(&entry) || !self.young.insert(entry) {
            return Err(Replay);
        }
        if self.young.len() >= self.generation {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(number: u32) -> [u8; REQUEST_LEN] {
        let mut request = [7; REQUEST_LEN];
        request[REQUEST_LEN - 4..].copy_from_slice(&number.to_be_bytes());
        request
    }

    #[test]
    fn a_request_is_accepted_once() {
        let mut cache = ReplayCache::new(100);
        assert_eq!(cache.check_and_insert(&request(1)), Ok(()));
        assert_eq!(cache.check_and_insert(&request(1)), Err(Replay));
        assert_eq!(cache.check_and_insert(&request(2)), Ok(()));
        assert_eq!(cache.check_and_insert(&request(1)), Err(Replay));
    }

    #[test]
    fn the_last_half_is_remembered_and_memory_is_bounded() {
        let mut cache = ReplayCache::new(20);
        for number in 0..1_000 {
            assert_eq!(cache.check_and_insert(&request(number)), Ok(()), "{number}");
            for recent in number.saturating_sub(9)..=number {
                assert_eq!(cache.check_and_insert(&request(recent)), Err(Replay), "{recent} of {number}");
            }
            assert!(cache.young.len() + cache.old.len() <= 20);
        }
        assert_eq!(cache.check_and_insert(&request(0)), Ok(()), "forgotten long ago");
    }

    #[test]
    fn the_smallest_cache_still_remembers_the_last_request() {
        let mut cache = ReplayCache::new(0);
        assert_eq!(cache.check_and_insert(&request(1)), Ok(()));
        assert_eq!(cache.check_and_insert(&request(1)), Err(Replay));
    }
}
