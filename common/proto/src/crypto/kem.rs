//! ML-KEM-768 (FIPS 203), by libcrux, whose portable and AVX2 code is verified. It takes the randomness that it is given, so that a
//! seed replays a handshake. It wipes nothing, which is done here. Tests compare it with two other libraries.

use libcrux_ml_kem::mlkem768::{self, MlKem768PrivateKey, MlKem768PublicKey};
use rand_core::CryptoRng;
use zeroize::{Zeroize as _, Zeroizing, zeroize_stack};

/// Length of an encapsulation key in bytes.
pub(crate) const EK_LEN: usize = 1184;
/// Length of a ciphertext in bytes.
pub(crate) const CT_LEN: usize = 1088;
const DK_LEN: usize = 2400;

/// More stack than a call into the library takes: 29 KiB of one frame, and some more beneath it.
const STACK_LEN: usize = 64 * 1024;

/// What both sides have in common. It is written where it stays: what a value leaves behind when it moves, nobody wipes.
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
        let mut key = DecapsulationKey(Box::default());
        let mut public = [0; EK_LEN];
        wiping_its_stack(|| {
            let pair = mlkem768::generate_key_pair(*seeds);
            key.0[0..DK_LEN].copy_from_slice(pair.sk());
            public.copy_from_slice(pair.pk());
        });
        (key, public)
    }

    /// What the other side has too; something that nobody else knows where the ciphertext does not fit (FIPS 203 §6.3).
    pub(crate) fn decapsulate(&self, ciphertext: &[u8; CT_LEN], secret: &mut SharedSecret) {
        let ciphertext = ciphertext.into();
        wiping_its_stack(|| **secret = mlkem768::decapsulate(&self.0, &ciphertext));
    }
}

/// A public key whose coefficients are reduced.
pub(crate) struct EncapsulationKey(MlKem768PublicKey);

impl EncapsulationKey {
    pub(crate) fn new(key: &[u8; EK_LEN]) -> Result<EncapsulationKey, BadEncapsulationKey> {
        let key = key.into();
        if mlkem768::validate_public_key(&key) { Ok(EncapsulationKey(key)) } else { Err(BadEncapsulationKey) }
    }

    /// A ciphertext for the owner of the key; what it hides goes to `secret`. Takes 32 bytes from `rng`: the message m.
    pub(crate) fn encapsulate<R: CryptoRng + ?Sized>(
        &self,
        rng: &mut R,
        secret: &mut SharedSecret,
    ) -> [u8; CT_LEN] {
        let mut message = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *message);
        let mut ciphertext = [0; CT_LEN];
        wiping_its_stack(|| {
            let (hidden_in, hidden) = mlkem768::encapsulate(&self.0, *message);
            ciphertext = hidden_in.into();
            **secret = hidden;
        });
        ciphertext
    }
}

/// As well as can be had without a say in what the compiler does.
fn wiping_its_stack(call: impl FnOnce()) {
    #[inline(never)]
    fn apart(call: impl FnOnce()) {
        call();
    }
    apart(call);
    zeroize_stack::<STACK_LEN>();
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::kem::{self, ML_KEM_768};
    use ml_kem::kem::Decapsulate as _;
    use ml_kem::{DecapsulationKey768, Seed};
    use rand_chacha::ChaCha20Rng;
    use rand_core::{Rng as _, SeedableRng as _};

    fn encapsulate(public: &[u8; EK_LEN], rng: &mut ChaCha20Rng) -> ([u8; CT_LEN], [u8; 32]) {
        let mut secret = SharedSecret::default();
        let ciphertext = EncapsulationKey::new(public).unwrap().encapsulate(rng, &mut secret);
        (ciphertext, *secret)
    }

    fn decapsulate(key: &DecapsulationKey, ciphertext: &[u8; CT_LEN]) -> [u8; 32] {
        let mut secret = SharedSecret::default();
        key.decapsulate(ciphertext, &mut secret);
        *secret
    }

    #[test]
    fn three_libraries_decapsulate_alike() {
        for seed in 0..32 {
            let mut rng = ChaCha20Rng::seed_from_u64(seed);
            let mut seeds = [0; 64];
            rng.clone().fill_bytes(&mut seeds);
            let (key, public) = DecapsulationKey::generate(&mut rng);
            let rust = DecapsulationKey768::from_seed(Seed::from(seeds));
            let aws = kem::DecapsulationKey::new(&ML_KEM_768, key.0.as_slice()).unwrap();

            let (mut ciphertext, secret) = encapsulate(&public, &mut rng);
            assert_eq!(decapsulate(&key, &ciphertext), secret);
            // What does not fit gives a secret too.
            for changed in [false, true] {
                ciphertext[0] ^= u8::from(changed);
                let ours = decapsulate(&key, &ciphertext);
                assert_eq!(ours == secret, !changed);
                assert_eq!(rust.decapsulate(&ciphertext.into())[..], ours[..]);
                assert_eq!(aws.decapsulate(ciphertext[..].into()).unwrap().as_ref(), &ours[..]);
            }
        }
    }

    #[test]
    fn three_libraries_encapsulate_alike() {
        for seed in 0..32 {
            let mut rng = ChaCha20Rng::seed_from_u64(seed);
            let (key, public) = DecapsulationKey::generate(&mut rng);
            let aws = kem::EncapsulationKey::new(&ML_KEM_768, &public).unwrap();
            let (ciphertext, secret) = aws.encapsulate().unwrap();
            assert_eq!(decapsulate(&key, ciphertext.as_ref().try_into().unwrap())[..], *secret.as_ref());

            let mut message = [0; 32];
            rng.clone().fill_bytes(&mut message);
            let rust = ml_kem::EncapsulationKey768::new(&public.into()).unwrap();
            let (their_ciphertext, their_secret) = rust.encapsulate_deterministic(&message.into());
            let (ciphertext, secret) = encapsulate(&public, &mut rng);
            assert_eq!((&ciphertext[..], &secret[..]), (&their_ciphertext[..], &their_secret[..]));
        }
    }

    /// What runs where there is neither AVX2 nor NEON.
    #[test]
    fn the_portable_code_does_the_same() {
        for seed in 0..32 {
            let mut rng = ChaCha20Rng::seed_from_u64(seed);
            let mut random = [0; 64 + 32];
            rng.clone().fill_bytes(&mut random);
            let (seeds, message) = (random[..64].try_into().unwrap(), random[64..].try_into().unwrap());
            let (key, public) = DecapsulationKey::generate(&mut rng);
            let portable = mlkem768::portable::generate_key_pair(seeds);
            assert_eq!((portable.sk(), portable.pk()), (key.0.as_slice(), &public));

            let (mut ciphertext, secret) = encapsulate(&public, &mut rng);
            let (theirs, their_secret) = mlkem768::portable::encapsulate(portable.public_key(), message);
            assert_eq!((theirs.as_slice(), &their_secret), (&ciphertext, &secret));
            for changed in [0, 1] {
                ciphertext[CT_LEN - 1] ^= changed;
                let theirs = mlkem768::portable::decapsulate(portable.private_key(), &(&ciphertext).into());
                assert_eq!(theirs, decapsulate(&key, &ciphertext));
            }
        }
    }
}
