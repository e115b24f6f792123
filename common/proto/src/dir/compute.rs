//! One consensus from a set of votes, whatever their order (docs/protocol.md §9.4).
//!
//! 1. A relay is listed if more than half of all authorities voted it running and valid.
//! 2. What it said of itself is taken from the descriptor that most votes list (the newest of equals).
//! 3. A flag is set if more than half of the votes that list the relay set it.
//! 4. Bandwidth, times and parameters are low medians.

use std::collections::BTreeMap;

use super::{Consensus, Digest, DirError, Flag, MAX_PARAMS, MAX_RELAYS, RelayEntry, Vote, VoteEntry};
use crate::ids::RelayId;
use crate::time::UnixTime;

/// Why votes give no consensus.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComputeError {
    /// Fewer votes than make a majority of the authorities.
    #[error("{have} votes where {need} are needed")]
    TooFewVotes {
        /// Votes that there are.
        have: usize,
        /// The threshold.
        need: usize,
    },
    /// The votes are for different rounds, or two are by one authority: a bug of the caller.
    #[error("the votes do not belong together")]
    Mixed,
    /// An entry could not be written down.
    #[error("{0}")]
    Document(#[from] DirError),
}

/// Computes the consensus of these votes, one per authority, where there are `authorities` in all.
///
/// # Errors
/// [`ComputeError`].
pub fn compute(votes: &[&Vote], authorities: usize) -> Result<Consensus, ComputeError> {
    let need = authorities / 2 + 1;
    let (Some(first), true) = (votes.first(), votes.len() >= need) else {
        return Err(ComputeError::TooFewVotes { have: votes.len(), need });
    };
    let mut voters: Vec<_> = votes.iter().map(|vote| vote.authority).collect();
    voters.sort_unstable();
    let one_each = voters.windows(2).all(|pair| pair[0] != pair[1]);
    if !one_each || votes.iter().any(|vote| vote.valid_after != first.valid_after) {
        return Err(ComputeError::Mixed);
    }
    // Differences, so that the medians of both keep the order that each vote has.
    let fresh_for = median(votes.iter().map(|vote| vote.fresh_until.0.saturating_sub(vote.valid_after.0)));
    let stale_for = median(votes.iter().map(|vote| vote.valid_until.0.saturating_sub(vote.fresh_until.0)));
    let fresh_until = UnixTime(first.valid_after.0.saturating_add(fresh_for.unwrap_or(1)));
    Ok(Consensus {
        valid_after: first.valid_after,
        fresh_until,
        valid_until: UnixTime(fresh_until.0.saturating_add(stale_for.unwrap_or(0))),
        params: agree_on_params(votes),
        relays: agree_on_relays(votes, need)?,
    })
}

/// The middle value; the lower of two.
fn median<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

fn agree_on_params(votes: &[&Vote]) -> BTreeMap<String, i64> {
    let mut set: BTreeMap<&String, Vec<i64>> = BTreeMap::new();
    for (name, value) in votes.iter().flat_map(|vote| &vote.params) {
        set.entry(name).or_default().push(*value);
    }
    let agreed = |(name, values): (&String, Vec<i64>)| Some((name.clone(), median(values.into_iter())?));
    set.into_iter().take(MAX_PARAMS).filter_map(agreed).collect()
}

fn agree_on_relays(votes: &[&Vote], need: usize) -> Result<Vec<RelayEntry>, DirError> {
    let mut listed: BTreeMap<RelayId, Vec<&VoteEntry>> = BTreeMap::new();
    for relay in votes.iter().flat_map(|vote| &vote.relays) {
        listed.entry(relay.entry.identity).or_default().push(relay);
    }
    let usable = |relay: &&&VoteEntry| relay.entry.has(Flag::Running) && relay.entry.has(Flag::Valid);
    let wanted = listed.values().filter(|entries| entries.iter().filter(usable).count() >= need);
    wanted.take(MAX_RELAYS).map(|entries| agree_on_relay(entries)).collect()
}

fn agree_on_relay(entries: &[&VoteEntry]) -> Result<RelayEntry, DirError> {
    let mut descriptors: BTreeMap<Digest, (usize, &VoteEntry)> = BTreeMap::new();
    for entry in entries {
        descriptors.entry(entry.descriptor_digest()?).or_insert((0, entry)).0 += 1;
    }
    let most = descriptors
        .into_iter()
        .max_by_key(|(digest, (count, entry))| (*count, entry.published, std::cmp::Reverse(*digest)));
    let (_, (_, chosen)) = most.ok_or(DirError::Malformed("a relay without entries"))?;
    let majority = |flag: &Flag| {
        let have = entries.iter().filter(|relay| relay.entry.has(*flag)).count();
        have * 2 > entries.len()
    };
    Ok(RelayEntry {
        bandwidth: median(entries.iter().map(|relay| relay.entry.bandwidth)).unwrap_or(0),
        flags: Flag::ALL.into_iter().filter(majority).collect(),
        ..chosen.entry.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::ConsensusBody;
    use crate::dir::testing::{entry, signer, vote};

    fn edit(mut vote: Vote, relay: u64, change: impl FnOnce(&mut VoteEntry)) -> Vote {
        let id = signer(relay).id();
        let at = vote.relays.iter().position(|e| e.entry.identity == id).unwrap();
        change(&mut vote.relays[at]);
        vote
    }

    fn relays(votes: &[&Vote], authorities: usize) -> Vec<RelayEntry> {
        compute(votes, authorities).unwrap().relays
    }

    fn has(relays: &[RelayEntry], seed: u64) -> bool {
        relays.iter().any(|relay| relay.identity == signer(seed).id())
    }

    #[test]
    fn the_order_of_votes_does_not_matter() {
        let a = edit(vote(1, &[11, 12, 13]), 11, |e| e.entry.bandwidth = 5);
        let b = edit(vote(2, &[11, 12]), 12, |e| e.entry.nickname = "other".into());
        let c = edit(vote(3, &[11, 12, 13, 14]), 12, |e| e.entry.nickname = "third".into());
        let body = |votes: [&Vote; 3]| ConsensusBody::new(compute(&votes, 3).unwrap()).unwrap().digest();
        let first = body([&a, &b, &c]);
        for order in [[&a, &c, &b], [&b, &a, &c], [&b, &c, &a], [&c, &a, &b], [&c, &b, &a]] {
            assert_eq!(body(order), first);
        }
    }

    #[test]
    fn a_relay_needs_a_majority_of_all_authorities() {
        let (a, b) = (vote(1, &[11, 12]), vote(2, &[11]));
        let listed = relays(&[&a, &b], 3);
        assert!(has(&listed, 11) && !has(&listed, 12));
        let down = edit(b, 11, |e| e.entry.flags = vec![Flag::Valid]);
        assert!(relays(&[&a, &down], 3).is_empty());
        assert!(has(&relays(&[&vote(1, &[11])], 1), 11));
    }

    #[test]
    fn too_few_or_mixed_votes_make_no_consensus() {
        let (a, b) = (vote(1, &[11]), vote(2, &[11]));
        assert_eq!(compute(&[&a], 3), Err(ComputeError::TooFewVotes { have: 1, need: 2 }));
        assert_eq!(compute(&[], 1), Err(ComputeError::TooFewVotes { have: 0, need: 1 }));
        assert_eq!(compute(&[&a, &a], 3), Err(ComputeError::Mixed));
        let later = Vote { valid_after: UnixTime(b.valid_after.0 + 1), ..b };
        assert_eq!(compute(&[&a, &later], 3), Err(ComputeError::Mixed));
    }

    #[test]
    fn the_descriptor_that_most_list_wins_then_the_newest() {
        let nickname = |votes: [&Vote; 3]| relays(&votes, 3)[0].nickname.clone();
        let base = vote(1, &[11]);
        let newer = |authority| {
            edit(vote(authority, &[11]), 11, |e| {
                e.published.0 += 1;
                e.entry.nickname = "newer".into();
            })
        };
        let newest = edit(vote(3, &[11]), 11, |e| {
            e.published.0 += 2;
            e.entry.nickname = "newest".into();
        });
        assert_eq!(nickname([&base, &newer(2), &newest]), "newest");
        assert_eq!(nickname([&newest, &vote(2, &[11]), &base]), "relay11");
        assert_eq!(nickname([&base, &newer(2), &newer(3)]), "newer");
    }

    #[test]
    fn bandwidth_is_the_low_median_and_flags_need_a_majority() {
        let of = |authority, bandwidth, flags: &[Flag]| {
            edit(vote(authority, &[11]), 11, |e| {
                e.entry.bandwidth = bandwidth;
                e.entry.flags.extend(flags);
            })
        };
        let (a, b) = (of(1, 10, &[Flag::Exit, Flag::Guard]), of(2, u64::MAX, &[Flag::Exit]));
        let two = &relays(&[&a, &b], 3)[0];
        assert_eq!((two.bandwidth, two.has(Flag::Exit), two.has(Flag::Guard)), (10, true, false));
        let c = of(3, 20, &[Flag::Guard]);
        let three = &relays(&[&a, &b, &c], 3)[0];
        assert_eq!((three.bandwidth, three.has(Flag::Exit), three.has(Flag::Guard)), (20, true, true));
        assert_eq!(
            RelayEntry { bandwidth: 0, flags: vec![], ..three.clone() },
            RelayEntry { bandwidth: 0, flags: vec![], ..entry(11) }
        );
    }

    #[test]
    fn parameters_are_the_low_median_of_those_who_set_them() {
        let with = |authority, params: &[(&str, i64)]| Vote {
            params: params.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
            ..vote(authority, &[])
        };
        let (a, b, c) =
            (with(1, &[("x", 1), ("y", -5)]), with(2, &[("x", 9)]), with(3, &[("x", 3), ("y", 7)]));
        let params = compute(&[&a, &b, &c], 3).unwrap().params;
        assert_eq!(params, BTreeMap::from([("x".to_owned(), 3), ("y".to_owned(), -5)]));
    }

    #[test]
    fn one_authority_cannot_stretch_the_lifetime() {
        let (a, b) = (vote(1, &[]), vote(2, &[]));
        let wild = Vote { valid_until: UnixTime(u64::MAX), fresh_until: UnixTime(u64::MAX), ..vote(3, &[]) };
        let consensus = compute(&[&a, &wild, &b], 3).unwrap();
        assert_eq!((consensus.fresh_until, consensus.valid_until), (a.fresh_until, a.valid_until));
    }
}
