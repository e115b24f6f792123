//! ML-KEM-768 (FIPS 203), by libcrux: verified, quick with AVX2 and NEON, and it takes the randomness that it is given, so that a
//! seed replays a handshake. Tests compare it with two other libraries.

use libcrux_ml_kem::mlkem768::{self, MlKem768PrivateKey, MlKem768PublicKey};
use rand_core::CryptoRng;
use zeroize::{Zeroize as _, Zeroizing};

/// Length of an encapsulation key in bytes.
pub(crate) const EK_LEN: usize = 1184;
/// Length of a ciphertext in bytes.
pub(crate) const CT_LEN: usize = 1088;
const DK_LEN: usize = 2400;

/// What both sides have in common.
pub(crate) type SharedSecret = Zeroizing<[u8; 32]>;

/// Who sent an encapsulation key has not reduced its coefficients (FIPS 203 §7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadEncapsulationKey;

/// A secret key. Wiped when dropped.
pub(crate) struct DecapsulationKey(Box<MlKem768PrivateKey>);

impl Drop for DecapsulationKey {
    fn drop(&mut self) {
        self.0[0..DK_LEN].zeroize();
    }
}

impl DecapsulationKey {
    /// A fresh key, and its public half. Takes 64 bytes from `rng`: the seeds d and z.
    pub(crate) fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> (DecapsulationKey, [u8; EK_LEN]) {
        let mut seeds = Zeroizing::new([0; 64]);
        rng.fill_bytes(&mut *seeds);
        let pair = mlkem768::generate_key_pair(*seeds);
        let key = DecapsulationKey(Box::new(MlKem768PrivateKey::from(pair.sk())));
        let (mut secret, public) = pair.into_parts();
        secret[0..DK_LEN].zeroize();
        (key, public.into())
    }

    /// What the other side has too; something that nobody else knows where the ciphertext does not fit (FIPS 203 §6.3).
    pub(crate) fn decapsulate(&self, ciphertext: &[u8; CT_LEN]) -> SharedSecret {
        Zeroizing::new(mlkem768::decapsulate(&self.0, &ciphertext.into()))
    }
}

/// A public key whose coefficients are reduced.
pub(crate) struct EncapsulationKey(MlKem768PublicKey);

impl EncapsulationKey {
    pub(crate) fn new(key: &[u8; EK_LEN]) -> Result<EncapsulationKey, BadEncapsulationKey> {
        let key = key.into();
        if mlkem768::validate_public_key(&key) { Ok(EncapsulationKey(key)) } else { Err(BadEncapsulationKey) }
    }

    /// A ciphertext for the owner of the key, and what it hides. Takes 32 bytes from `rng`: the message m.
    pub(crate) fn encapsulate<R: CryptoRng + ?Sized>(&self, rng: &mut R) -> ([u8; CT_LEN], SharedSecret) {
        let mut message = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *message);
        let (ciphertext, secret) = mlkem768::encapsulate(&self.0, *message);
        (ciphertext.into(), Zeroizing::new(secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::kem::{self, ML_KEM_768};
    use ml_kem::kem::Decapsulate as _;
    use ml_kem::{DecapsulationKey768, Seed};
    use rand_chacha::ChaCha20Rng;
    use rand_core::{Rng as _, SeedableRng as _};

    #[test]
    fn three_libraries_decapsulate_alike() {
        for seed in 0..32 {
            let mut rng = ChaCha20Rng::seed_from_u64(seed);
            let mut seeds = [0; 64];
            rng.clone().fill_bytes(&mut seeds);
            let (key, public) = DecapsulationKey::generate(&mut rng);
            let rust = DecapsulationKey768::from_seed(Seed::from(seeds));
            let aws = kem::DecapsulationKey::new(&ML_KEM_768, key.0.as_slice()).unwrap();

            let (mut ciphertext, secret) = EncapsulationKey::new(&public).unwrap().encapsulate(&mut rng);
            assert_eq!(key.decapsulate(&ciphertext), secret);
            // What does not fit gives a secret too.
            for changed in [false, true] {
                ciphertext[0] ^= u8::from(changed);
                let ours = key.decapsulate(&ciphertext);
                assert_eq!(ours == secret, !changed);
                assert_eq!(rust.decapsulate(&ciphertext.into())[..], ours[..]);
                assert_eq!(aws.decapsulate(ciphertext[..].into()).unwrap().as_ref(), &ours[..]);
            }
        }
    }

    #[test]
    fn three_libraries_encapsulate_alike() {
        let mut rng = ChaCha20Rng::seed_from_u64(32);
        let (key, public) = DecapsulationKey::generate(&mut rng);
        let (ciphertext, secret) =
            kem::EncapsulationKey::new(&ML_KEM_768, &public).unwrap().encapsulate().unwrap();
        assert_eq!(key.decapsulate(ciphertext.as_ref().try_into().unwrap())[..], *secret.as_ref());

        let rust = ml_kem::EncapsulationKey768::new(&public.into()).unwrap();
        let message = [7; 32];
        let (theirs, their_secret) = rust.encapsulate_deterministic(&message.into());
        let (ours, our_secret) = mlkem768::encapsulate(&(&public).into(), message);
        assert_eq!(theirs[..], ours.as_ref()[..]);
        assert_eq!(their_secret[..], our_secret[..]);
    }

    /// Each coefficient in turn as 3329, the modulus: FIPS 203 §7.2 has it refused.
    #[test]
    fn coefficients_that_are_not_reduced_are_refused() {
        let mut rng = ChaCha20Rng::seed_from_u64(33);
        let (_, public) = DecapsulationKey::generate(&mut rng);
        for at in 0..768 {
            let mut bad = public;
            let pair = &mut bad[at / 2 * 3..][..3];
            if at % 2 == 0 {
                pair[0] = 0x01;
                pair[1] = pair[1] & 0xf0 | 0x0d;
            } else {
                pair[1] = pair[1] & 0x0f | 0x10;
                pair[2] = 0xd0;
            }
            assert!(EncapsulationKey::new(&bad).is_err(), "{at}");
        }
        assert!(EncapsulationKey::new(&public).is_ok());
    }
}
