//! What one authority believes in one round (docs/protocol.md §9.3): parsed, then of this round, then signed.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::entry::{check_order, check_params};
use super::envelope::{Envelope, Kind, SignatureLine};
use super::{AuthoritySet, Digest, DirError, RelayEntry, digest, ensure, from_json, to_json};
use crate::ids::RelayId;
use crate::keys::Signer;
use crate::time::UnixTime;

/// What one authority believes in one round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// Whose vote it is.
    pub authority: RelayId,
    /// The start of the round, which names it.
    pub valid_after: UnixTime,
    /// As in the consensus that this authority wants.
    pub fresh_until: UnixTime,
    /// As in the consensus that this authority wants.
    pub valid_until: UnixTime,
    /// Network-wide settings that this authority wants.
    pub params: BTreeMap<String, i64>,
    /// Sorted by identity.
    pub relays: Vec<VoteEntry>,
}

/// A relay as one authority sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteEntry {
    /// When the descriptor was written that the entry is made from.
    pub published: UnixTime,
    /// The descriptor's fields, with the authority's flags and bandwidth.
    #[serde(flatten)]
    pub entry: RelayEntry,
}

impl VoteEntry {
    /// Names what the relay said of itself: equal in two votes if and only if everything but the authority's own
    /// judgement (flags and bandwidth) is.
    pub(super) fn descriptor_digest(&self) -> Result<Digest, DirError> {
        let entry = RelayEntry { flags: Vec::new(), bandwidth: 0, ..self.entry.clone() };
        Ok(digest(&to_json(&VoteEntry { published: self.published, entry })?))
    }
}

impl Vote {
    fn check_shape(&self) -> Result<(), DirError> {
        let ordered = self.valid_after < self.fresh_until && self.fresh_until <= self.valid_until;
        ensure(ordered, "order of times")?;
        check_params(&self.params)?;
        check_order(self.relays.iter().map(|relay| relay.entry.identity))?;
        self.relays.iter().try_for_each(|relay| relay.entry.check_shape())
    }

    /// Signs it with the key of the authority whose vote it is.
    ///
    /// # Errors
    /// [`DirError::WrongSigner`] for another key, [`DirError::Malformed`] or [`DirError::TooLong`] when a bound is not
    /// kept.
    pub fn sign(self, signer: &Signer) -> Result<SignedVote, DirError> {
        if self.authority != signer.id() {
            return Err(DirError::WrongSigner);
        }
        self.check_shape()?;
        let body = to_json(&self)?;
        let line = SignatureLine::sign(Kind::Vote, &body, signer);
        Envelope::assemble(Kind::Vote, &body, &[line]).map(|envelope| SignedVote::new(self, envelope))
    }
}

/// A vote of the right shape: neither its round nor its signature is checked.
#[derive(Debug, Clone)]
pub struct UncheckedVote {
    vote: Vote,
    envelope: Envelope,
}

impl UncheckedVote {
    /// Takes exactly one vote.
    ///
    /// # Errors
    /// [`DirError::TooLong`], [`DirError::Malformed`] or [`DirError::Json`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DirError> {
        let envelope = Envelope::parse(Kind::Vote, bytes)?;
        let vote: Vote = from_json(envelope.body())?;
        vote.check_shape()?;
        Ok(UncheckedVote { vote, envelope })
    }

    /// Whether it says that it is for the round that starts at `valid_after`.
    pub fn is_for(&self, valid_after: UnixTime) -> bool {
        self.vote.valid_after == valid_after
    }

    /// Checks that it is a vote for the round that starts at `valid_after`.
    ///
    /// # Errors
    /// [`DirError::Expired`] for an earlier round, [`DirError::NotYetValid`] for a later one.
    pub fn check_round(self, valid_after: UnixTime) -> Result<RoundVote, DirError> {
        match self.vote.valid_after.cmp(&valid_after) {
            std::cmp::Ordering::Less => Err(DirError::Expired),
            std::cmp::Ordering::Equal => Ok(RoundVote(self)),
            std::cmp::Ordering::Greater => Err(DirError::NotYetValid),
        }
    }
}

/// A vote of the right shape and round: its signature is not checked.
#[derive(Debug, Clone)]
pub struct RoundVote(UncheckedVote);

impl RoundVote {
    /// Checks that the authority whose vote it is has signed it, and is one of the reader's.
    ///
    /// # Errors
    /// [`DirError::WrongSigner`] or [`DirError::Key`].
    pub fn check_signature(self, authorities: &AuthoritySet, now: UnixTime) -> Result<SignedVote, DirError> {
        let UncheckedVote { vote, envelope } = self.0;
        if !authorities.contains(&vote.authority) {
            return Err(DirError::WrongSigner);
        }
        envelope.check_only_signer(Kind::Vote, vote.authority, now)?;
        Ok(SignedVote::new(vote, envelope))
    }
}

/// A checked vote with its exact bytes.
#[derive(Debug, Clone)]
pub struct SignedVote {
    vote: Vote,
    digest: Digest,
    bytes: Arc<[u8]>,
}

impl SignedVote {
    fn new(vote: Vote, envelope: Envelope) -> Self {
        let digest = digest(envelope.body());
        SignedVote { vote, digest, bytes: envelope.into_bytes().into() }
    }

    /// The document as it was signed.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// SHA-256 of the signed JSON bytes: two votes of one authority for one round differ if these do.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl Deref for SignedVote {
    type Target = Vote;
    fn deref(&self) -> &Vote {
        &self.vote
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::testing::{NOW, signer, vote};

    fn check(bytes: &[u8], round: UnixTime) -> Result<SignedVote, DirError> {
        let authorities = AuthoritySet::new([signer(1).id(), signer(2).id()]);
        UncheckedVote::parse(bytes)?.check_round(round)?.check_signature(&authorities, round)
    }

    #[test]
    fn an_authority_votes_for_one_round() {
        let signed = vote(1, &[11, 12]).sign(&signer(1)).unwrap();
        let checked = check(signed.bytes(), NOW).unwrap();
        assert_eq!(*checked, vote(1, &[11, 12]));
        assert_eq!(check(signed.bytes(), UnixTime(NOW.0 + 1)).err(), Some(DirError::Expired));
        assert_eq!(check(signed.bytes(), UnixTime(NOW.0 - 1)).err(), Some(DirError::NotYetValid));
    }

    #[test]
    fn a_vote_by_somebody_else_is_refused() {
        let stranger = vote(3, &[]).sign(&signer(3)).unwrap();
        assert_eq!(check(stranger.bytes(), NOW).err(), Some(DirError::WrongSigner));
        assert_eq!(vote(1, &[]).sign(&signer(2)).err(), Some(DirError::WrongSigner));
        let body = to_json(&vote(1, &[])).unwrap();
        let line = SignatureLine::sign(Kind::Vote, &body, &signer(2));
        let forged = Envelope::assemble(Kind::Vote, &body, &[line]).unwrap();
        assert_eq!(check(forged.bytes(), NOW).err(), Some(DirError::WrongSigner));
    }

    #[test]
    fn judgement_does_not_change_the_descriptor_digest_but_everything_else_does() {
        let base = vote(1, &[11]).relays.remove(0);
        let digest_of = |change: fn(&mut VoteEntry)| {
            let mut entry = base.clone();
            change(&mut entry);
            entry.descriptor_digest().unwrap()
        };
        let digest = digest_of(|_| ());
        assert_eq!(digest_of(|e| e.entry.bandwidth += 1), digest);
        assert_eq!(digest_of(|e| e.entry.flags.clear()), digest);
        assert_ne!(digest_of(|e| e.published.0 += 1), digest);
        assert_ne!(digest_of(|e| e.entry.nickname.push('x')), digest);
        assert_ne!(digest_of(|e| e.entry.onion_key.0[0] ^= 1), digest);
    }
}
