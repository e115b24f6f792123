//! Whom a reader trusts to sign.

use crate::ids::RelayId;

/// The authorities that a reader is configured with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuthoritySet {
    /// Their identities, each once.
    pub ids: Vec<RelayId>,
}

impl AuthoritySet {
    /// Takes each identity once, whatever the configuration repeats.
    pub fn new(ids: impl IntoIterator<Item = RelayId>) -> Self {
        let mut ids: Vec<_> = ids.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        AuthoritySet { ids }
    }

    /// How many signatures make a consensus: the smallest k > n/2.
    pub fn threshold(&self) -> usize {
        self.ids.len() / 2 + 1
    }

    /// Whether this identity is one of them.
    pub fn contains(&self, id: &RelayId) -> bool {
        self.ids.contains(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_half_must_sign() {
        let set = |n: u8| AuthoritySet::new((0..n).map(|i| RelayId([i; 32])));
        let thresholds: Vec<_> = (1..=5).map(|n| set(n).threshold()).collect();
        assert_eq!(thresholds, [1, 2, 2, 3, 3]);
    }

    #[test]
    fn an_authority_named_twice_counts_once() {
        let set = AuthoritySet::new([RelayId([1; 32]), RelayId([2; 32]), RelayId([1; 32])]);
        assert_eq!(set.ids, [RelayId([1; 32]), RelayId([2; 32])]);
    }
}
