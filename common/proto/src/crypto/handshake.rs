//! The circuit handshake: hybrid ntor, X25519 and ML-KEM-768 in one key schedule (docs/protocol.md §4.1).
//!
//! 1. The client, who knows the relay's id and onion key, sends fresh public keys ([`ClientHandshake::start`]).
//! 2. The relay refuses a request that it has seen ([`ReplayCache`]) or that is not for it, answers with a fresh key
//!    of its own, a KEM ciphertext and the cipher of its layers, and has the hop's keys ([`respond`]).
//! 3. The client checks that whoever answered has the onion key, and has the same keys ([`ClientHandshake::finish`]).

use std::fmt;

use hkdf::Hkdf;
use rand_core::CryptoRng;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

use crate::crypto::kem::{
    BadEncapsulationKey, CT_LEN, DecapsulationKey, EK_LEN, EncapsulationKey, SharedSecret,
};
use crate::crypto::layer::LayerCipher;
use crate::crypto::x25519::{Secret as X25519Secret, SmallOrder};
use crate::ids::RelayId;
use crate::keys::{OnionKey, OnionSecret};

pub use crate::crypto::replay::{Replay, ReplayCache};

/// Length of a circuit request in bytes: `type u8`, `ID [32]`, `B [32]`, `X [32]`, `ek [1184]`.
pub const REQUEST_LEN: usize = EK_AT + EK_LEN;
/// Length of the reply in bytes: `Y [32]`, `ct [1088]`, `cipher u8`, `AUTH [32]`.
pub const REPLY_LEN: usize = AUTH_AT + AUTH_LEN;

const TYPE: u8 = 1;
const ID_AT: usize = 1;
const ONION_KEY_AT: usize = ID_AT + 32;
const CLIENT_KEY_AT: usize = ONION_KEY_AT + 32;
const EK_AT: usize = CLIENT_KEY_AT + 32;
const CT_AT: usize = 32;
const CIPHER_AT: usize = CT_AT + CT_LEN;
const AUTH_AT: usize = CIPHER_AT + 1;
const AUTH_LEN: usize = 32;

const TRANSCRIPT_LABEL: &[u8] = b"tunic-hybrid-ntor-v1\0";
const AUTH_LABEL: &[u8] = b"tunic auth";
const KEYS_LABEL: &[u8] = b"tunic keys";

/// Why a circuit handshake failed. Nothing of it is usable then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The request is of a type that this version does not know.
    #[error("unknown handshake type")]
    UnknownType,
    /// The request is for another relay.
    #[error("meant for another relay")]
    WrongRelay,
    /// The request names an onion key that the relay does not have, or no longer.
    #[error("unknown onion key")]
    UnknownOnionKey,
    /// The encapsulation key has coefficients that are not reduced (FIPS 203 §7.2).
    #[error("malformed encapsulation key")]
    BadEncapsulationKey,
    /// An X25519 public key of small order: the result would not depend on our secret (RFC 7748 §6.1).
    #[error("X25519 key of small order")]
    SmallOrder,
    /// Whoever answered does not have the onion key, or a byte of the exchange was changed.
    #[error("the relay did not prove its onion key")]
    BadAuth,
    /// The relay chose a cipher for its layers that this version does not know.
    #[error("unknown cipher")]
    UnknownCipher,
}

/// The keys of one hop, by direction, and what they are for. Wiped when dropped.
#[derive(Clone, zeroize::Zeroize, ZeroizeOnDrop)]
pub struct HopKeys {
    /// The relay's choice.
    #[zeroize(skip)]
    pub cipher: LayerCipher,
    /// For cells away from the client.
    pub forward: [u8; 32],
    /// For cells towards the client.
    pub backward: [u8; 32],
}

impl HopKeys {
    fn new(cipher: LayerCipher, keys: &BothKeys) -> Self {
        HopKeys { cipher, forward: array(&**keys, 0), backward: array(&**keys, 32) }
    }
}

/// In constant time.
impl PartialEq for HopKeys {
    fn eq(&self, other: &Self) -> bool {
        let same = self.forward.ct_eq(&other.forward) & self.backward.ct_eq(&other.backward);
        self.cipher == other.cipher && same.into()
    }
}

impl Eq for HopKeys {}

impl fmt::Debug for HopKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HopKeys(…)")
    }
}

/// The relay that a request is for.
pub fn requested_id(request: &[u8; REQUEST_LEN]) -> RelayId {
    RelayId(array(request, ID_AT))
}

/// The client's side of a handshake that waits for its reply.
pub struct ClientHandshake {
    /// Has taken in the label and the request.
    transcript: Sha256,
    onion_key: OnionKey,
    secret: X25519Secret,
    decapsulation_key: DecapsulationKey,
}

impl ClientHandshake {
    /// Makes fresh keys and the request to the relay with this id and onion key.
    ///
    /// Takes from `rng`, in order, 32 bytes each: x, and the ML-KEM seeds d and z.
    pub fn start<R: CryptoRng + ?Sized>(
        id: RelayId,
        key: OnionKey,
        rng: &mut R,
    ) -> (ClientHandshake, Box<[u8; REQUEST_LEN]>) {
        let secret = X25519Secret::generate(rng);
        let (decapsulation_key, encapsulation_key) = DecapsulationKey::generate(rng);
        let mut request = Box::new([0; REQUEST_LEN]);
        request[0] = TYPE;
        request[ID_AT..ONION_KEY_AT].copy_from_slice(&id.0);
        request[ONION_KEY_AT..CLIENT_KEY_AT].copy_from_slice(&key.0);
        request[CLIENT_KEY_AT..EK_AT].copy_from_slice(&secret.public());
        request[EK_AT..].copy_from_slice(&encapsulation_key);
        let transcript = start_transcript(&request);
        (ClientHandshake { transcript, onion_key: key, secret, decapsulation_key }, request)
    }

    /// Checks the reply and derives the keys.
    ///
    /// # Errors
    /// [`HandshakeError::SmallOrder`], [`HandshakeError::BadAuth`] or [`HandshakeError::UnknownCipher`].
    pub fn finish(self, reply: &[u8; REPLY_LEN]) -> Result<HopKeys, HandshakeError> {
        let mut kem_secret = SharedSecret::default();
        self.decapsulation_key.decapsulate(&array(reply, CT_AT), &mut kem_secret);
        let secret =
            combine(self.secret.agree(&array(reply, 0)), self.secret.agree(&self.onion_key.0), &kem_secret)?;
        let (auth, keys) = derive(self.transcript, &reply[..AUTH_AT], &secret);
        if !bool::from(auth.ct_eq(&reply[AUTH_AT..])) {
            return Err(HandshakeError::BadAuth);
        }
        let cipher = LayerCipher::from_byte(reply[CIPHER_AT]).ok_or(HandshakeError::UnknownCipher)?;
        Ok(HopKeys::new(cipher, &keys))
    }
}

impl fmt::Debug for ClientHandshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientHandshake(…)")
    }
}

/// The relay's side: checks a request that [`ReplayCache`] has not refused, and answers it with one of `keys` and the
/// cipher that it wants for its layers.
///
/// Takes from `rng`, in order, 32 bytes each: y, and the message m of ML-KEM.
///
/// # Errors
/// Any [`HandshakeError`] but `BadAuth` and `UnknownCipher`; the cheap checks come first.
pub fn respond<R: CryptoRng + ?Sized>(
    request: &[u8; REQUEST_LEN],
    id: RelayId,
    keys: &[OnionSecret],
    cipher: LayerCipher,
    rng: &mut R,
) -> Result<(Box<[u8; REPLY_LEN]>, HopKeys), HandshakeError> {
    if request[0] != TYPE {
        return Err(HandshakeError::UnknownType);
    }
    if requested_id(request) != id {
        return Err(HandshakeError::WrongRelay);
    }
    let wanted = OnionKey(array(request, ONION_KEY_AT));
    let key = keys.iter().find(|key| key.public() == wanted).ok_or(HandshakeError::UnknownOnionKey)?;
    let client_key = array(request, CLIENT_KEY_AT);
    if client_key == [0; 32] {
        return Err(HandshakeError::SmallOrder);
    }
    let encapsulation_key = EncapsulationKey::new(&array(request, EK_AT))
        .map_err(|BadEncapsulationKey| HandshakeError::BadEncapsulationKey)?;

    let ephemeral = X25519Secret::generate(rng);
    let mut kem_secret = SharedSecret::default();
    let ciphertext = encapsulation_key.encapsulate(rng, &mut kem_secret);
    let secret = combine(ephemeral.agree(&client_key), key.secret.agree(&client_key), &kem_secret)?;

    let mut reply = Box::new([0; REPLY_LEN]);
    reply[..CT_AT].copy_from_slice(&ephemeral.public());
    reply[CT_AT..CIPHER_AT].copy_from_slice(&ciphertext);
    reply[CIPHER_AT] = cipher as u8;
    let (auth, keys) = derive(start_transcript(request), &reply[..AUTH_AT], &secret);
    reply[AUTH_AT..].copy_from_slice(&auth);
    Ok((reply, HopKeys::new(cipher, &keys)))
}

/// `X25519(x, Y) ‖ X25519(x, B) ‖ K`.
type Secret = Zeroizing<[u8; 96]>;
type Shared = Result<Zeroizing<[u8; 32]>, SmallOrder>;

/// Takes both results before either is judged, so that time tells no more than the outcome does.
fn combine(
    ephemeral: Shared,
    with_onion_key: Shared,
    kem_secret: &SharedSecret,
) -> Result<Secret, HandshakeError> {
    let (Ok(ephemeral), Ok(with_onion_key)) = (ephemeral, with_onion_key) else {
        return Err(HandshakeError::SmallOrder);
    };
    let mut secret = Zeroizing::new([0; 96]);
    secret[..32].copy_from_slice(&*ephemeral);
    secret[32..64].copy_from_slice(&*with_onion_key);
    secret[64..].copy_from_slice(&**kem_secret);
    Ok(secret)
}

fn start_transcript(request: &[u8; REQUEST_LEN]) -> Sha256 {
    Sha256::new_with_prefix(TRANSCRIPT_LABEL).chain_update(request)
}

/// The keys of both directions, forward first.
type BothKeys = Zeroizing<[u8; 64]>;

/// `AUTH` and the keys, from the transcript of the request, the reply before `AUTH`, and the secret.
fn derive(transcript: Sha256, answer: &[u8], secret: &Secret) -> ([u8; AUTH_LEN], BothKeys) {
    let transcript = transcript.chain_update(answer).finalize();
    let (mut prk, hkdf) = Hkdf::<Sha256>::extract(Some(&transcript), &**secret);
    prk.as_mut_slice().zeroize();
    let auth = expand::<AUTH_LEN>(&hkdf, &[AUTH_LABEL, &transcript]);
    (*auth, expand(&hkdf, &[KEYS_LABEL, &transcript]))
}

fn expand<const N: usize>(hkdf: &Hkdf<Sha256>, info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    const { assert!(N <= 255 * 32, "more than HKDF-SHA256 can give (RFC 5869 §2.3)") };
    let mut out = Zeroizing::new([0; N]);
    #[expect(
        clippy::expect_used,
        reason = "fails for a length alone, which was checked when this was compiled"
    )]
    hkdf.expand_multi_info(info, &mut *out).expect("length");
    out
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng as _;

    const ID: RelayId = RelayId([3; 32]);
    const CIPHER: LayerCipher = LayerCipher::Aes256Gcm;

    struct Exchange {
        rng: ChaCha20Rng,
        keys: Vec<OnionSecret>,
        client: ClientHandshake,
        request: Box<[u8; REQUEST_LEN]>,
    }

    /// A request to the first of two onion keys.
    fn exchange(seed: u64) -> Exchange {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let keys: Vec<_> = (0..2).map(|_| OnionSecret::generate(&mut rng)).collect();
        let (client, request) = ClientHandshake::start(ID, keys[0].public(), &mut rng);
        Exchange { rng, keys, client, request }
    }

    #[test]
    fn both_sides_get_the_same_keys() {
        let Exchange { mut rng, keys, client, request } = exchange(1);
        assert_eq!(requested_id(&request), ID);
        let (reply, relay_keys) = respond(&request, ID, &keys, CIPHER, &mut rng).unwrap();
        let client_keys = client.finish(&reply).unwrap();
        assert_eq!(client_keys, relay_keys);
        assert_ne!(client_keys.forward, client_keys.backward);
    }

    #[test]
    fn the_previous_onion_key_still_answers() {
        let Exchange { mut rng, mut keys, client, request } = exchange(2);
        keys.reverse();
        let (reply, relay_keys) = respond(&request, ID, &keys, CIPHER, &mut rng).unwrap();
        assert_eq!(client.finish(&reply), Ok(relay_keys));
    }

    #[test]
    fn a_request_answered_twice_gives_different_keys() {
        let Exchange { mut rng, keys, request, .. } = exchange(3);
        let (first_reply, first) = respond(&request, ID, &keys, CIPHER, &mut rng).unwrap();
        let (second_reply, second) = respond(&request, ID, &keys, CIPHER, &mut rng).unwrap();
        assert_ne!(first, second);
        assert_ne!(first_reply, second_reply);
    }

    #[test]
    fn a_request_for_someone_else_is_refused() {
        let Exchange { mut rng, keys, request, .. } = exchange(4);
        let mut check = |request: &[u8; REQUEST_LEN], id, keys: &[OnionSecret]| {
            respond(request, id, keys, CIPHER, &mut rng).map(|_| ()).unwrap_err()
        };
        assert_eq!(check(&request, RelayId([4; 32]), &keys), HandshakeError::WrongRelay);
        assert_eq!(check(&request, ID, &keys[1..]), HandshakeError::UnknownOnionKey);
        assert_eq!(check(&request, ID, &[]), HandshakeError::UnknownOnionKey);
        let mut other_type = request.clone();
        other_type[0] = 2;
        assert_eq!(check(&other_type, ID, &keys), HandshakeError::UnknownType);
    }

    #[test]
    fn only_the_holder_of_the_onion_key_can_answer() {
        let Exchange { mut rng, keys, client, request } = exchange(5);
        // An impostor, who has another key, rewrites the request to name it.
        let mut rewritten = request.clone();
        rewritten[ONION_KEY_AT..CLIENT_KEY_AT].copy_from_slice(&keys[1].public().0);
        let (reply, _) = respond(&rewritten, ID, &keys[1..], CIPHER, &mut rng).unwrap();
        assert_eq!(client.finish(&reply).unwrap_err(), HandshakeError::BadAuth);
    }

    #[test]
    fn debug_output_holds_no_key() {
        let Exchange { mut rng, keys, client, request } = exchange(6);
        let (_, hop_keys) = respond(&request, ID, &keys, CIPHER, &mut rng).unwrap();
        assert_eq!(format!("{client:?} {hop_keys:?}"), "ClientHandshake(…) HopKeys(…)");
    }
}
