//! X25519 (RFC 7748) by aws-lc-rs, which takes half the time of x25519-dalek (docs/performance.md).

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::encoding::{AsBigEndian as _, Curve25519SeedBin};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

/// A secret of either side. The library wipes it when it is dropped.
pub(crate) struct Secret(PrivateKey);

/// The other side's public key is of small order: the result would not depend on our secret (RFC 7748 §6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SmallOrder;

impl Secret {
    /// A new one: 32 bytes of this randomness.
    pub(crate) fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Secret {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *bytes);
        Secret::from_bytes(&bytes)
    }

    #[expect(clippy::expect_used, reason = "fails for a length alone, and the length is in the type")]
    pub(crate) fn from_bytes(secret: &[u8; 32]) -> Secret {
        Secret(PrivateKey::from_private_key(&X25519, secret).expect("32 bytes"))
    }

    #[expect(clippy::expect_used, reason = "fails for keys of other algorithms alone")]
    pub(crate) fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        let seed: Curve25519SeedBin<'_> = self.0.as_be_bytes().expect("an X25519 key");
        let mut bytes = Zeroizing::new([0; 32]);
        bytes.copy_from_slice(seed.as_ref());
        bytes
    }

    #[expect(clippy::expect_used, reason = "fails for keys of other algorithms alone")]
    pub(crate) fn public(&self) -> [u8; 32] {
        let public = self.0.compute_public_key().expect("an X25519 key");
        let mut bytes = [0; 32];
        bytes.copy_from_slice(public.as_ref());
        bytes
    }

    /// What both sides have in common.
    pub(crate) fn agree(&self, public: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, SmallOrder> {
        agree(&self.0, UnparsedPublicKey::new(&X25519, public), SmallOrder, |shared| {
            let mut bytes = Zeroizing::new([0; 32]);
            bytes.copy_from_slice(shared);
            Ok(bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng as _;
    use x25519_dalek::{PublicKey, StaticSecret};

    #[test]
    fn it_agrees_with_another_implementation() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        for _ in 0..100 {
            let (ours, theirs) = (Secret::generate(&mut rng), Secret::generate(&mut rng));
            let reference = StaticSecret::from(*ours.to_bytes());
            assert_eq!(ours.public(), PublicKey::from(&reference).to_bytes());
            let expect = reference.diffie_hellman(&PublicKey::from(theirs.public())).to_bytes();
            assert_eq!(*ours.agree(&theirs.public()).unwrap(), expect);
            assert_eq!(*theirs.agree(&ours.public()).unwrap(), expect);
        }
    }

    #[test]
    fn points_of_small_order_are_refused() {
        // The canonical ones of curve and twist, and two that are not reduced (RFC 7748 §6.1, §7).
        let points = [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ];
        let secret = Secret::from_bytes(&[7; 32]);
        for point in points {
            let point: [u8; 32] = hex::decode(point).unwrap().try_into().unwrap();
            assert_eq!(secret.agree(&point), Err(SmallOrder), "{point:?}");
        }
    }
}
