//! One voting round: first votes come together, then signatures.

use std::collections::BTreeMap;

use tunic_proto::dir::{AuthoritySet, ConsensusBody, Digest, DirError, SignatureLine, SignedVote, Vote};
use tunic_proto::ids::RelayId;
use tunic_proto::time::UnixTime;

use super::schedule::RoundTimes;

/// Signatures of one authority that are kept until the consensus is there that they can be checked against. Further
/// ones are answered with *busy*: anyone can make up signatures, but the real sender tries again.
const MAX_EARLY_SIGNATURES: usize = 4;

/// What is known of one authority's vote.
#[derive(Debug)]
enum Cast {
    Vote(SignedVote),
    /// It signed two different votes: neither counts.
    Equivocated,
}

/// What a vote did to a ballot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    New,
    Known,
    /// A second, different vote by the same authority; told once.
    Equivocation,
}

/// The votes for one round.
#[derive(Debug)]
pub(super) struct Ballot {
    /// The round.
    pub start: UnixTime,
    cast: BTreeMap<RelayId, Cast>,
}

impl Ballot {
    pub(super) fn new(start: UnixTime) -> Self {
        Ballot { start, cast: BTreeMap::new() }
    }

    /// Counts a vote that was checked to be for this round and by an authority.
    pub(super) fn insert(&mut self, vote: SignedVote) -> Counted {
        let authority = vote.authority;
        match self.cast.get(&authority) {
            None => {
                self.cast.insert(authority, Cast::Vote(vote));
                Counted::New
            }
            Some(Cast::Vote(known)) if known.digest() != vote.digest() => {
                self.cast.insert(authority, Cast::Equivocated);
                Counted::Equivocation
            }
            Some(_) => Counted::Known,
        }
    }

    pub(super) fn has(&self, authority: &RelayId) -> bool {
        self.cast.contains_key(authority)
    }

    /// The votes that count.
    pub(super) fn votes(&self) -> Vec<&Vote> {
        let mut votes = Vec::with_capacity(self.cast.len());
        for cast in self.cast.values() {
            if let Cast::Vote(vote) = cast {
                votes.push(&**vote);
            }
        }
        votes
    }

    /// Whose vote has not come.
    pub(super) fn missing(&self, authorities: &AuthoritySet) -> Vec<RelayId> {
        authorities.ids.iter().copied().filter(|id| !self.has(id)).collect()
    }
}

/// What a signature did to a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Signed {
    /// It counts, or did already.
    Taken,
    /// It will be looked at when the consensus is there.
    Kept,
    /// Too many wait already.
    Full,
    /// It is for other bytes than those that were computed here.
    Differs,
    /// It does not verify.
    Bad(DirError),
}

/// A round that has started.
#[derive(Debug)]
pub(super) struct Round {
    pub times: RoundTimes,
    /// Whether there was no valid consensus when it started.
    pub bootstrap: bool,
    pub ballot: Ballot,
    /// Whether missing votes have been asked for.
    pub asked: bool,
    /// What was computed from the votes, once it was.
    signing: Option<Signing>,
    early: BTreeMap<RelayId, Vec<(Digest, SignatureLine)>>,
}

#[derive(Debug)]
struct Signing {
    body: ConsensusBody,
    lines: BTreeMap<RelayId, SignatureLine>,
}

impl Round {
    pub(super) fn new(times: RoundTimes, bootstrap: bool, ballot: Ballot) -> Self {
        Round { times, bootstrap, ballot, asked: false, signing: None, early: BTreeMap::new() }
    }

    /// Whether votes still count.
    pub(super) fn is_voting(&self) -> bool {
        self.signing.is_none()
    }

    /// Ends the voting: from now on signatures of this consensus are collected, those that came early included.
    pub(super) fn start_signing(&mut self, body: ConsensusBody, now: UnixTime) {
        self.signing = Some(Signing { body, lines: BTreeMap::new() });
        for (digest, line) in std::mem::take(&mut self.early).into_values().flatten() {
            self.insert_signature(digest, line, now);
        }
    }

    /// Counts a signature that an authority is said to have made.
    pub(super) fn insert_signature(&mut self, digest: Digest, line: SignatureLine, now: UnixTime) -> Signed {
        let claimed = line.claimed_signer();
        let Some(signing) = &mut self.signing else {
            let kept = self.early.entry(claimed).or_default();
            if kept.len() >= MAX_EARLY_SIGNATURES {
                return Signed::Full;
            }
            kept.push((digest, line));
            return Signed::Kept;
        };
        if signing.body.digest() != digest {
            return Signed::Differs;
        }
        match signing.body.check_line(&line, now) {
            Ok(signer) => {
                signing.lines.entry(signer).or_insert(line);
                Signed::Taken
            }
            Err(error) => Signed::Bad(error),
        }
    }

    /// How many authorities have signed what was computed here.
    pub(super) fn signatures(&self) -> usize {
        self.signing.as_ref().map_or(0, |signing| signing.lines.len())
    }

    /// The consensus with the signatures that there are.
    pub(super) fn assemble(&self) -> Result<Vec<u8>, DirError> {
        let signing = self.signing.as_ref().ok_or(DirError::Malformed("no consensus"))?;
        let lines: Vec<_> = signing.lines.values().cloned().collect();
        signing.body.assemble(&lines)
    }
}
