//! Long-lived keys: identities, signing keys with their certificates, onion keys (docs/protocol.md §1).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use rand_core::CryptoRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::crypto::x25519::Secret;
use crate::ids::{BadHexKey, RelayId, key_from_hex};
use crate::time::UnixTime;

/// Length of an Ed25519 signature in bytes.
pub const SIGNATURE_LEN: usize = 64;
/// Length of an encoded [`SigningCert`] in bytes.
pub const CERT_LEN: usize = 1 + 32 + 32 + 8 + SIGNATURE_LEN;
const CERT_SIGNED_LEN: usize = CERT_LEN - SIGNATURE_LEN;
const CERT_VERSION: u8 = 1;
const CERT_CONTEXT: &[u8] = b"tunic-signing-cert-v1\0";

/// Why a certificate or a signature was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The bytes are no key, certificate or signature of this version.
    #[error("malformed key or certificate")]
    Malformed,
    /// The signature does not fit key and message.
    #[error("bad signature")]
    BadSignature,
    /// The certificate's time is over.
    #[error("certificate expired")]
    Expired,
}

fn verify(
    key: &[u8; 32],
    context: &[u8],
    message: &[u8],
    signature: &[u8; SIGNATURE_LEN],
) -> Result<(), KeyError> {
    let key = VerifyingKey::from_bytes(key).map_err(|_| KeyError::Malformed)?;
    let signature = ed25519_dalek::Signature::from_bytes(signature);
    key.verify_strict(&[context, message].concat(), &signature).map_err(|_| KeyError::BadSignature)
}

/// The secret half of a [`RelayId`]. It only signs certificates, so it can stay offline.
pub struct IdentityKey(SigningKey);

impl IdentityKey {
    /// A new key from this source of randomness.
    pub fn generate<R: CryptoRng>(rng: &mut R) -> Self {
        let mut secret = zeroize::Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *secret);
        Self::from_bytes(&secret)
    }

    /// The key with this 32-byte secret seed (RFC 8032 §5.1.5).
    pub fn from_bytes(secret: &[u8; 32]) -> Self {
        IdentityKey(SigningKey::from_bytes(secret))
    }

    /// The 32-byte secret seed. For key files only.
    pub fn dangerously_to_bytes(&self) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn id(&self) -> RelayId {
        RelayId(self.0.verifying_key().to_bytes())
    }

    /// Makes a new signing key and certifies it until `expires`.
    pub fn certify<R: CryptoRng>(&self, expires: UnixTime, rng: &mut R) -> Signer {
        let mut secret = zeroize::Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *secret);
        let key = SigningKey::from_bytes(&secret);
        let mut bytes = [0; CERT_LEN];
        bytes[0] = CERT_VERSION;
        bytes[1..33].copy_from_slice(&self.id().0);
        bytes[33..65].copy_from_slice(key.verifying_key().as_bytes());
        bytes[65..73].copy_from_slice(&expires.0.to_be_bytes());
        let signature = self.0.sign(&[CERT_CONTEXT, &bytes[..CERT_SIGNED_LEN]].concat());
        bytes[CERT_SIGNED_LEN..].copy_from_slice(&signature.to_bytes());
        Signer { cert: SigningCert { bytes }, key }
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityKey({:?})", self.id())
    }
}

/// A certificate as it came in: of the right size, nothing checked.
#[derive(Debug, Clone, Copy)]
pub struct UncheckedCert([u8; CERT_LEN]);

impl UncheckedCert {
    /// Takes exactly [`CERT_LEN`] bytes.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] for any other length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        bytes.try_into().map(UncheckedCert).map_err(|_| KeyError::Malformed)
    }

    /// Checks version, lifetime and the identity's signature.
    ///
    /// # Errors
    /// Whichever of [`KeyError`] comes first in that order.
    pub fn check(self, now: UnixTime) -> Result<SigningCert, KeyError> {
        let cert = SigningCert { bytes: self.0 };
        if self.0[0] != CERT_VERSION {
            return Err(KeyError::Malformed);
        }
        if cert.expires() < now {
            return Err(KeyError::Expired);
        }
        let signature = cert.array(CERT_SIGNED_LEN);
        verify(&cert.identity().0, CERT_CONTEXT, &self.0[..CERT_SIGNED_LEN], &signature)?;
        Ok(cert)
    }
}

/// A checked certificate: *identity* lets *signing key* speak for it until *expires*.
///
/// Source: docs/protocol.md §1.2.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SigningCert {
    bytes: [u8; CERT_LEN],
}

impl SigningCert {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[at..at + N]);
        out
    }

    /// Who certified.
    pub fn identity(&self) -> RelayId {
        RelayId(self.array(1))
    }

    /// The last second at which the certificate holds.
    pub fn expires(&self) -> UnixTime {
        UnixTime(u64::from_be_bytes(self.array(65)))
    }

    /// The wire form.
    pub fn as_bytes(&self) -> &[u8; CERT_LEN] {
        &self.bytes
    }

    /// Verifies a signature by the certified signing key over `context ‖ identity ‖ message`.
    ///
    /// The identity is in it because anyone can certify anyone's signing key, which proves nothing about its owner.
    ///
    /// # Errors
    /// [`KeyError::BadSignature`], or `Malformed` if the certified key is no curve point.
    pub fn verify(
        &self,
        context: &[u8],
        message: &[u8],
        signature: &[u8; SIGNATURE_LEN],
    ) -> Result<(), KeyError> {
        verify(&self.array(33), context, &[&self.identity().0, message].concat(), signature)
    }
}

impl fmt::Debug for SigningCert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningCert({:?}, until {})", self.identity(), self.expires().0)
    }
}

/// A certified signing key: what a relay or an authority signs with while it runs.
pub struct Signer {
    cert: SigningCert,
    key: SigningKey,
}

impl Signer {
    /// Puts a stored signing key and its certificate together again.
    ///
    /// # Errors
    /// [`KeyError::BadSignature`] if the certificate is for another key.
    pub fn from_parts(cert: SigningCert, secret: &[u8; 32]) -> Result<Self, KeyError> {
        let key = SigningKey::from_bytes(secret);
        if key.verifying_key().to_bytes() != cert.array(33) {
            return Err(KeyError::BadSignature);
        }
        Ok(Signer { cert, key })
    }

    /// The secret seed of the signing key. For key files only.
    pub fn dangerously_to_bytes(&self) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(self.key.to_bytes())
    }

    /// The certificate that goes with every signature.
    pub fn cert(&self) -> &SigningCert {
        &self.cert
    }

    /// The identity that this key speaks for.
    pub fn id(&self) -> RelayId {
        self.cert.identity()
    }

    /// Signs `context ‖ identity ‖ message`.
    pub fn sign(&self, context: &[u8], message: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.key.sign(&[context, &self.id().0, message].concat()).to_bytes()
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({:?})", self.id())
    }
}

/// The public X25519 key that circuit handshakes with a relay use (docs/protocol.md §1.3).
///
/// Shape: 32 bytes; 64 hexadecimal digits in text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OnionKey(pub [u8; 32]);

impl fmt::Display for OnionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for OnionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OnionKey({}…)", hex::encode(&self.0[..4]))
    }
}

impl FromStr for OnionKey {
    type Err = BadHexKey;
    fn from_str(text: &str) -> Result<Self, BadHexKey> {
        key_from_hex(text).map(OnionKey)
    }
}

impl Serialize for OnionKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OnionKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The secret half of an [`OnionKey`], with the public one computed once.
#[derive(Clone)]
pub struct OnionSecret {
    pub(crate) secret: Arc<Secret>,
    public: OnionKey,
}

impl OnionSecret {
    /// A new key from this source of randomness.
    pub fn generate<R: CryptoRng>(rng: &mut R) -> Self {
        Self::new(Secret::generate(rng))
    }

    /// The key with these secret bytes.
    pub fn from_bytes(secret: [u8; 32]) -> Self {
        Self::new(Secret::from_bytes(secret))
    }

    fn new(secret: Secret) -> Self {
        let public = OnionKey(secret.public());
        OnionSecret { secret: Arc::new(secret), public }
    }

    /// The secret bytes. For key files only.
    pub fn dangerously_to_bytes(&self) -> zeroize::Zeroizing<[u8; 32]> {
        self.secret.to_bytes()
    }

    /// The public half.
    pub fn public(&self) -> OnionKey {
        self.public
    }
}

impl fmt::Debug for OnionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OnionSecret({:?})", self.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn signer() -> (IdentityKey, Signer) {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let identity = IdentityKey::generate(&mut rng);
        let signer = identity.certify(UnixTime(1_000), &mut rng);
        (identity, signer)
    }

    #[test]
    fn a_certificate_speaks_for_its_identity_until_it_expires() {
        let (identity, signer) = signer();
        let unchecked = UncheckedCert::from_bytes(signer.cert().as_bytes()).unwrap();
        let cert = unchecked.check(UnixTime(1_000)).unwrap();
        assert_eq!(cert.identity(), identity.id());
        assert_eq!(unchecked.check(UnixTime(1_001)), Err(KeyError::Expired));
        let signature = signer.sign(b"context\0", b"message");
        assert_eq!(cert.verify(b"context\0", b"message", &signature), Ok(()));
        assert_eq!(cert.verify(b"other\0", b"message", &signature), Err(KeyError::BadSignature));
    }

    #[test]
    fn a_signature_counts_for_one_identity_only() {
        let signature = signer().1.sign(b"context\0", b"message");
        let thief = IdentityKey::from_bytes(&[7; 32]);
        // Draws what `signer` drew, so that the thief certifies the very same signing key.
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        IdentityKey::generate(&mut rng);
        let stolen = thief.certify(UnixTime(1_000), &mut rng);
        assert_eq!(stolen.dangerously_to_bytes(), signer().1.dangerously_to_bytes());
        let verified = stolen.cert().verify(b"context\0", b"message", &signature);
        assert_eq!(verified, Err(KeyError::BadSignature));
    }

    #[test]
    fn a_flipped_bit_in_a_certificate_is_refused() {
        let (_, signer) = signer();
        for bit in 0..CERT_LEN * 8 {
            let mut bytes = *signer.cert().as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(UncheckedCert(bytes).check(UnixTime(1_000)).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let (identity, signer) = signer();
        let secret = hex::encode(&identity.dangerously_to_bytes()[..4]);
        assert!(!format!("{identity:?}{signer:?}").contains(&secret));
    }
}
