//! X25519 (RFC 7748). x25519-dalek makes and keeps the keys; aws-lc-rs agrees with them, which takes it half the time
//! (docs/performance.md), as it does for layers.

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use rand_core::CryptoRng;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// A secret of either side. Both libraries wipe it when it is dropped.
pub(crate) struct Secret {
    key: StaticSecret,
    agreeing: PrivateKey,
}

/// The other side's public key is of small order: the result would not depend on our secret (RFC 7748 §6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SmallOrder;

impl Secret {
    /// A new one.
    pub(crate) fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Secret {
        Secret::new(StaticSecret::random_from_rng(rng))
    }

    pub(crate) fn from_bytes(secret: [u8; 32]) -> Secret {
        Secret::new(StaticSecret::from(secret))
    }

    #[expect(clippy::expect_used, reason = "fails for a length alone, and the length is in the type")]
    fn new(key: StaticSecret) -> Secret {
        let agreeing = PrivateKey::from_private_key(&X25519, key.as_bytes()).expect("32 bytes");
        Secret { key, agreeing }
    }

    pub(crate) fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.key.to_bytes())
    }

    pub(crate) fn public(&self) -> [u8; 32] {
        PublicKey::from(&self.key).to_bytes()
    }

    /// What both sides have in common.
    pub(crate) fn agree(&self, public: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, SmallOrder> {
        agree(&self.agreeing, UnparsedPublicKey::new(&X25519, public), SmallOrder, |shared| {
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
        let secret = Secret::from_bytes([7; 32]);
        for point in points {
            let point: [u8; 32] = hex::decode(point).unwrap().try_into().unwrap();
            assert_eq!(secret.agree(&point), Err(SmallOrder), "{point:?}");
        }
    }
}
