//! What the authorities agreed on (docs/protocol.md §9.4, §9.5): parsed, then timely, then signed.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::entry::{check_order, check_params};
use super::envelope::{Envelope, Kind, SignatureLine};
use super::{AuthoritySet, Digest, DirError, RelayEntry, digest, ensure, from_json, to_json};
use crate::ids::RelayId;
use crate::keys::Signer;
use crate::time::UnixTime;

/// How far before `valid_after` a reader already believes a consensus, for clocks that are behind.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// The relays and parameters of the network for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consensus {
    /// When it came into force: the start of the voting round.
    pub valid_after: UnixTime,
    /// From when on a newer one can be expected.
    pub fresh_until: UnixTime,
    /// The last second at which it may be used.
    pub valid_until: UnixTime,
    /// Network-wide settings.
    pub params: BTreeMap<String, i64>,
    /// Sorted by identity.
    pub relays: Vec<RelayEntry>,
}

impl Consensus {
    /// The entry of this relay.
    pub fn relay(&self, id: &RelayId) -> Option<&RelayEntry> {
        let index = self.relays.binary_search_by(|relay| relay.identity.cmp(id)).ok()?;
        self.relays.get(index)
    }

    /// A parameter, or this default where the authorities set none.
    pub fn param(&self, name: &str, default: i64) -> i64 {
        self.params.get(name).copied().unwrap_or(default)
    }

    fn check_shape(&self) -> Result<(), DirError> {
        let ordered = self.valid_after < self.fresh_until && self.fresh_until <= self.valid_until;
        ensure(ordered, "order of times")?;
        check_params(&self.params)?;
        check_order(self.relays.iter().map(|relay| relay.identity))?;
        self.relays.iter().try_for_each(RelayEntry::check_shape)
    }
}

/// A consensus with the exact bytes that authorities sign, but no signatures.
#[derive(Debug, Clone)]
pub struct ConsensusBody {
    consensus: Consensus,
    bytes: Vec<u8>,
}

impl ConsensusBody {
    /// Writes a consensus down.
    ///
    /// # Errors
    /// [`DirError::Malformed`] when a bound is not kept.
    pub fn new(consensus: Consensus) -> Result<Self, DirError> {
        consensus.check_shape()?;
        let bytes = to_json(&consensus)?;
        Ok(ConsensusBody { consensus, bytes })
    }

    /// SHA-256 of the bytes: what authorities must agree on.
    pub fn digest(&self) -> Digest {
        digest(&self.bytes)
    }

    /// Signs the bytes.
    pub fn sign(&self, signer: &Signer) -> SignatureLine {
        SignatureLine::sign(Kind::Consensus, &self.bytes, signer)
    }

    /// Verifies a signature over the bytes, and tells who signed.
    ///
    /// # Errors
    /// [`DirError::Key`].
    pub fn check_line(&self, line: &SignatureLine, now: UnixTime) -> Result<RelayId, DirError> {
        line.check(Kind::Consensus, &self.bytes, now)
    }

    /// The document with these signatures.
    ///
    /// # Errors
    /// [`DirError::Malformed`] if one signed twice or nobody did, [`DirError::TooLong`].
    pub fn assemble(&self, signatures: &[SignatureLine]) -> Result<Vec<u8>, DirError> {
        Envelope::assemble(Kind::Consensus, &self.bytes, signatures).map(Envelope::into_bytes)
    }
}

impl Deref for ConsensusBody {
    type Target = Consensus;
    fn deref(&self) -> &Consensus {
        &self.consensus
    }
}

/// A consensus of the right shape: neither its time nor its signatures are checked.
#[derive(Debug, Clone)]
pub struct UncheckedConsensus {
    consensus: Consensus,
    envelope: Envelope,
}

impl UncheckedConsensus {
    /// Takes exactly one consensus.
    ///
    /// # Errors
    /// [`DirError::TooLong`], [`DirError::Malformed`] or [`DirError::Json`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DirError> {
        let envelope = Envelope::parse(Kind::Consensus, bytes)?;
        let consensus: Consensus = from_json(envelope.body())?;
        consensus.check_shape()?;
        Ok(UncheckedConsensus { consensus, envelope })
    }

    /// Checks `valid_after ≤ now ≤ valid_until`, with [`CLOCK_TOLERANCE`] before.
    ///
    /// # Errors
    /// [`DirError::NotYetValid`] or [`DirError::Expired`].
    pub fn check_time(self, now: UnixTime) -> Result<TimelyConsensus, DirError> {
        if self.consensus.valid_after > now.plus(CLOCK_TOLERANCE) {
            return Err(DirError::NotYetValid);
        }
        if now > self.consensus.valid_until {
            return Err(DirError::Expired);
        }
        Ok(TimelyConsensus(self))
    }
}

/// A consensus of the right shape and time: its signatures are not checked.
#[derive(Debug, Clone)]
pub struct TimelyConsensus(UncheckedConsensus);

impl TimelyConsensus {
    /// Checks that enough of the reader's authorities have signed. Lines of others, and lines that do not verify, do
    /// not count; nobody but an authority can make one count.
    ///
    /// # Errors
    /// [`DirError::TooFewSignatures`].
    pub fn check_signatures(
        self,
        authorities: &AuthoritySet,
        now: UnixTime,
    ) -> Result<SignedConsensus, DirError> {
        let UncheckedConsensus { consensus, envelope } = self.0;
        let counts = |line: &&SignatureLine| {
            let ours = authorities.contains(&line.claimed_signer());
            ours && line.check(Kind::Consensus, envelope.body(), now).is_ok()
        };
        let (have, need) = (envelope.signatures().iter().filter(counts).count(), authorities.threshold());
        if have < need {
            return Err(DirError::TooFewSignatures { have, need });
        }
        let digest = digest(envelope.body());
        Ok(SignedConsensus { consensus, digest, bytes: envelope.into_bytes().into() })
    }
}

/// A checked consensus with its exact bytes, for storing and serving.
#[derive(Debug, Clone)]
pub struct SignedConsensus {
    consensus: Consensus,
    digest: Digest,
    bytes: Arc<[u8]>,
}

impl SignedConsensus {
    /// The document as it came in.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// SHA-256 of the signed JSON bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What it says, without its bytes.
    pub fn into_consensus(self) -> Consensus {
        self.consensus
    }
}

impl Deref for SignedConsensus {
    type Target = Consensus;
    fn deref(&self) -> &Consensus {
        &self.consensus
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::testing::{NOW, consensus, sign_consensus, signer};
    use crate::keys::IdentityKey;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn authorities() -> AuthoritySet {
        AuthoritySet::new((1..=3).map(|seed| signer(seed).id()))
    }

    fn check(bytes: &[u8], now: UnixTime) -> Result<SignedConsensus, DirError> {
        UncheckedConsensus::parse(bytes)?.check_time(now)?.check_signatures(&authorities(), now)
    }

    #[test]
    fn two_of_three_authorities_make_a_consensus() {
        let bytes = sign_consensus(&consensus(NOW), &[1, 3]);
        let checked = check(&bytes, NOW).unwrap();
        assert_eq!(*checked, consensus(NOW));
        assert_eq!(checked.bytes()[..], bytes[..]);
        assert_eq!(checked.relay(&signer(11).id()).unwrap().identity, signer(11).id());
        assert!(checked.relay(&signer(1).id()).is_none());
    }

    #[test]
    fn only_configured_authorities_count() {
        let result = |signers: &[u64]| check(&sign_consensus(&consensus(NOW), signers), NOW).err();
        let too_few = |have| Some(DirError::TooFewSignatures { have, need: 2 });
        assert_eq!(result(&[1]), too_few(1));
        assert_eq!(result(&[7, 8, 9]), too_few(0));
        assert_eq!(result(&[7, 1, 8, 9]), too_few(1));
        assert_eq!(result(&[7, 1, 8, 2]), None);
    }

    #[test]
    fn a_signature_of_other_bytes_does_not_count() {
        let body = ConsensusBody::new(consensus(NOW)).unwrap();
        let other = ConsensusBody::new(consensus(UnixTime(NOW.0 - 1))).unwrap();
        let bytes = body.assemble(&[body.sign(&signer(1)), other.sign(&signer(2))]).unwrap();
        assert_eq!(check(&bytes, NOW).err(), Some(DirError::TooFewSignatures { have: 1, need: 2 }));
    }

    #[test]
    fn a_signature_counts_as_long_as_its_certificate_lasts() {
        let mut rng = ChaCha20Rng::seed_from_u64(9);
        let short = IdentityKey::generate(&mut rng).certify(UnixTime(NOW.0 + 5), &mut rng);
        let body = ConsensusBody::new(consensus(NOW)).unwrap();
        let bytes = body.assemble(&[body.sign(&short)]).unwrap();
        let only = AuthoritySet::new([short.id()]);
        let check = |now| UncheckedConsensus::parse(&bytes)?.check_time(now)?.check_signatures(&only, now);
        assert!(check(UnixTime(NOW.0 + 5)).is_ok());
        assert!(check(UnixTime(NOW.0 + 6)).is_err());
    }

    #[test]
    fn a_consensus_is_believed_only_in_its_time() {
        let bytes = sign_consensus(&consensus(NOW), &[1, 2]);
        let result_at = |now| check(&bytes, UnixTime(now)).err();
        assert_eq!(result_at(NOW.0 - 60), None);
        assert_eq!(result_at(NOW.0 - 61), Some(DirError::NotYetValid));
        assert_eq!(result_at(consensus(NOW).valid_until.0), None);
        assert_eq!(result_at(consensus(NOW).valid_until.0 + 1), Some(DirError::Expired));
    }

    #[test]
    fn a_consensus_of_the_wrong_shape_is_refused_before_its_signatures_are_looked_at() {
        let refused = |change: fn(&mut Consensus)| {
            let mut consensus = consensus(NOW);
            change(&mut consensus);
            assert!(ConsensusBody::new(consensus).is_err());
        };
        refused(|c| c.fresh_until = c.valid_after);
        refused(|c| c.valid_until = UnixTime(c.fresh_until.0 - 1));
        refused(|c| c.relays.reverse());
        refused(|c| c.relays[1] = c.relays[0].clone());
        refused(|c| c.relays[0].nickname.clear());
        refused(|c| c.params = (0..65).map(|i| (format!("p{i}"), 0)).collect());
    }
}
