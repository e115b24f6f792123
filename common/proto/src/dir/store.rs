//! Which consensus a reader uses: only forward, and never past its lifetime (docs/protocol.md §9.5).

use std::sync::Arc;

use super::{AuthoritySet, DirError, SignedConsensus, UncheckedConsensus};
use crate::time::UnixTime;

/// Keeps the newest consensus that a reader has checked.
#[derive(Debug, Clone, Default)]
pub struct ConsensusStore {
    authorities: AuthoritySet,
    newest: Option<Arc<SignedConsensus>>,
}

/// What became of a consensus that passed all checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is newer than what was there: store it, and use it from now on.
    Replaced,
    /// It is what was there already.
    Unchanged,
}

impl ConsensusStore {
    /// An empty store of a reader that trusts these authorities.
    pub fn new(authorities: AuthoritySet) -> Self {
        ConsensusStore { authorities, newest: None }
    }

    /// Checks a consensus that was fetched, or read from disk, and takes it if it is newer.
    ///
    /// # Errors
    /// What [`UncheckedConsensus`] and its successors refuse; [`DirError::RolledBack`] for an older one than was seen
    /// since the start; [`DirError::Conflict`] for another one of the same time.
    pub fn accept(&mut self, bytes: &[u8], now: UnixTime) -> Result<Accepted, DirError> {
        let timely = UncheckedConsensus::parse(bytes)?.check_time(now)?;
        let candidate = timely.check_signatures(&self.authorities, now)?;
        if let Some(newest) = &self.newest {
            if candidate.valid_after < newest.valid_after {
                return Err(DirError::RolledBack);
            }
            if candidate.valid_after == newest.valid_after {
                let same = candidate.digest() == newest.digest();
                return if same { Ok(Accepted::Unchanged) } else { Err(DirError::Conflict) };
            }
        }
        self.newest = Some(Arc::new(candidate));
        Ok(Accepted::Replaced)
    }

    /// The consensus to use now, unless there is none or its lifetime is over.
    pub fn current(&self, now: UnixTime) -> Option<&Arc<SignedConsensus>> {
        self.newest.as_ref().filter(|consensus| now <= consensus.valid_until)
    }

    /// For `GET_CONSENSUS`: `valid_after` of what is usable now, or 0.
    pub fn have(&self, now: UnixTime) -> UnixTime {
        self.current(now).map_or(UnixTime(0), |consensus| consensus.valid_after)
    }

    /// Whether a newer one can be expected.
    pub fn is_stale(&self, now: UnixTime) -> bool {
        self.current(now).is_none_or(|consensus| now >= consensus.fresh_until)
    }

    /// The authorities that the reader trusts.
    pub fn authorities(&self) -> &AuthoritySet {
        &self.authorities
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::testing::{NOW, consensus, sign_consensus, signer};

    fn store() -> ConsensusStore {
        ConsensusStore::new(AuthoritySet::new([signer(1).id(), signer(2).id(), signer(3).id()]))
    }

    #[test]
    fn a_consensus_is_replaced_by_newer_ones_only() {
        let mut store = store();
        let of = |offset| sign_consensus(&consensus(UnixTime(NOW.0 + offset)), &[1, 2]);
        assert_eq!(store.have(NOW), UnixTime(0));
        assert_eq!(store.accept(&of(10), NOW), Ok(Accepted::Replaced));
        assert_eq!(store.have(NOW), UnixTime(NOW.0 + 10));
        assert_eq!(store.accept(&of(9), NOW), Err(DirError::RolledBack));
        assert_eq!(store.accept(&of(11), NOW), Ok(Accepted::Replaced));
        assert_eq!(store.current(NOW).unwrap().valid_after, UnixTime(NOW.0 + 11));
    }

    #[test]
    fn more_signatures_are_no_change_and_other_contents_a_conflict() {
        let mut store = store();
        store.accept(&sign_consensus(&consensus(NOW), &[1, 2]), NOW).unwrap();
        assert_eq!(store.accept(&sign_consensus(&consensus(NOW), &[1, 2, 3]), NOW), Ok(Accepted::Unchanged));
        let mut other = consensus(NOW);
        other.relays.pop();
        assert_eq!(store.accept(&sign_consensus(&other, &[1, 2]), NOW), Err(DirError::Conflict));
    }

    #[test]
    fn a_consensus_past_its_lifetime_is_neither_used_nor_taken_nor_gone_behind() {
        let mut store = store();
        let bytes = sign_consensus(&consensus(NOW), &[1, 2]);
        store.accept(&bytes, NOW).unwrap();
        let end = consensus(NOW).valid_until;
        assert!(store.current(end).is_some());
        let after = UnixTime(end.0 + 1);
        assert!(store.current(after).is_none());
        assert!(store.is_stale(after));
        assert_eq!(store.have(after), UnixTime(0));
        assert_eq!(store.accept(&bytes, after), Err(DirError::Expired));
        let mut long = consensus(UnixTime(NOW.0 - 1));
        long.valid_until = UnixTime(after.0 + 9);
        assert_eq!(store.accept(&sign_consensus(&long, &[1, 2]), after), Err(DirError::RolledBack));
    }
}
