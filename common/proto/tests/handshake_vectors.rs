//! The circuit handshake against a second implementation of docs/protocol.md §4.1, and against tampering.
//!
//! The second implementation has another library for everything but SHA-256: X25519 is x25519-dalek's, ML-KEM-768 aws-lc's
//! and, where a key comes from seeds, the crate ml-kem's, and HMAC and HKDF are written out below.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

mod support;

use aws_lc_rs::digest::{SHA3_256, SHA3_512, digest};
use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tunic_proto::crypto::handshake::{
    ClientHandshake, HandshakeError, HopKeys, REPLY_LEN, REQUEST_LEN, respond,
};
use tunic_proto::crypto::layer::LayerCipher;
use tunic_proto::ids::RelayId;
use tunic_proto::keys::{OnionKey, OnionSecret};
use x25519_dalek::{PublicKey, StaticSecret};

/// HMAC-SHA256 (RFC 2104) for keys of at most 64 bytes.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let inner = Sha256::new().chain_update(block.map(|b| b ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|b| b ^ 0x5c)).chain_update(inner).finalize().into()
}

/// HKDF-SHA256-Expand (RFC 5869 §2.3) to two blocks.
fn expand(prk: &[u8], info: &[u8]) -> [[u8; 32]; 2] {
    let first = hmac(prk, &[info, &[1]].concat());
    [first, hmac(prk, &[&first, info, &[2]].concat())]
}

fn x25519(secret: &[u8; 32], public: &[u8]) -> Vec<u8> {
    let public: [u8; 32] = public.try_into().unwrap();
    StaticSecret::from(*secret).diffie_hellman(&PublicKey::from(public)).to_bytes().to_vec()
}

fn x25519_public(secret: &[u8; 32]) -> Vec<u8> {
    PublicKey::from(&StaticSecret::from(*secret)).to_bytes().to_vec()
}

fn decapsulate(dk: &[u8], ct: &[u8]) -> Vec<u8> {
    let dk = DecapsulationKey::new(&ML_KEM_768, dk).unwrap();
    dk.decapsulate(Ciphertext::from(ct)).unwrap().as_ref().to_vec()
}

/// The decapsulation key in the form that aws-lc reads, 2,400 bytes: s ‖ ek ‖ H(ek) ‖ z (FIPS 203 algorithm 16).
#[expect(deprecated, reason = "the crate prefers seeds, which aws-lc does not take")]
fn expanded_key(d: [u8; 32], z: [u8; 32]) -> Vec<u8> {
    use ml_kem::ExpandedKeyEncoding as _;
    let seed: [u8; 64] = [d, z].concat().try_into().unwrap();
    ml_kem::DecapsulationKey768::from_seed(seed.into()).to_expanded_bytes().to_vec()
}

/// What both sides derive from the exchange.
struct Schedule {
    transcript: [u8; 32],
    prk: [u8; 32],
    auth: [u8; 32],
    keys: [[u8; 32]; 2],
}

/// `answer`: the reply before `AUTH`.
fn schedule(request: &[u8], answer: &[u8], secret: &[u8]) -> Schedule {
    let transcript: [u8; 32] = Sha256::digest([b"tunic-hybrid-ntor-v1\0", request, answer].concat()).into();
    let prk = hmac(&transcript, secret);
    let [auth, _] = expand(&prk, &[b"tunic auth", &transcript[..]].concat());
    let keys = expand(&prk, &[b"tunic keys", &transcript[..]].concat());
    Schedule { transcript, prk, auth, keys }
}

fn hop_keys(cipher: LayerCipher, [forward, backward]: [[u8; 32]; 2]) -> HopKeys {
    HopKeys { cipher, forward, backward }
}

/// `tests/vectors/handshake.json`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Vectors {
    provenance: String,
    exchanges: Vec<Vector>,
}

/// Everything in one exchange, named as in docs/protocol.md §4.1; bytes in hexadecimal digits.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[allow(non_snake_case)]
struct Vector {
    seed: u64,
    ID: String,
    b: String,
    x: String,
    /// The ML-KEM-768 key pair, as seeds (FIPS 203 §7.1) and as the decapsulation key itself, which ends in ek ‖ H(ek) ‖ z.
    d: String,
    z: String,
    dk: String,
    y: String,
    /// The randomness of the encapsulation (FIPS 203 §7.2).
    m: String,
    K: String,
    cipher: u8,
    request: String,
    t: String,
    secret: String,
    prk: String,
    reply: String,
    forward_key: String,
    backward_key: String,
}

const PROVENANCE: &str = "Tunic's circuit handshake (docs/protocol.md section 4.1), made by the second implementation in \
    common/proto/tests/handshake_vectors.rs (X25519: x25519-dalek; ML-KEM-768 and SHA-3: aws-lc; HKDF: by hand); tunic_proto \
    computes the same. Secrets: rand_chacha 0.10 ChaCha20Rng::seed_from_u64(seed), 32 bytes each for ID, b, x, d, z, \
    y, m in this order. dk from d and z: the ml-kem crate, checked by aws-lc.";

/// One exchange by both implementations, compared in every byte.
fn exchange(seed: u64) -> Vector {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut draws = rng.clone();
    let mut draw = || {
        let mut bytes = [0; 32];
        draws.fill_bytes(&mut bytes);
        bytes
    };
    let [id, b, x, d, z, y, m] = std::array::from_fn(|_| draw());
    let cipher = LayerCipher::ALL[seed as usize % 2];

    // ek: aws-lc cannot start from d and z, but what it makes with ek it must be able to open with dk.
    let dk = expanded_key(d, z);
    let ek = &dk[1152..2336];
    let (ct, kem_secret) = EncapsulationKey::new(&ML_KEM_768, ek).unwrap().encapsulate().unwrap();
    assert_eq!(decapsulate(&dk, ct.as_ref()), kem_secret.as_ref());

    let (id_ours, b_ours) = (RelayId(take(&mut rng)), OnionSecret::from_bytes(take(&mut rng)));
    let (client, request) = ClientHandshake::start(id_ours, b_ours.public(), &mut rng);
    let expect = [&[1], &id[..], &x25519_public(&b), &x25519_public(&x), ek].concat();
    assert_eq!(request[..], expect);

    // ct: aws-lc cannot be told m either. But K depends on m (FIPS 203 algorithm 17), and it decapsulates ct to K only if
    // ct is what encryption of m gives (algorithm 18).
    let (reply, relay_keys) = respond(&request, id_ours, &[b_ours], cipher, &mut rng).unwrap();
    let (relay_public, ct) = (&reply[..32], &reply[32..1120]);
    assert_eq!(reply[1120], cipher as u8);
    assert_eq!(relay_public, x25519_public(&y));
    let hashed = digest(&SHA3_512, &[&m, digest(&SHA3_256, ek).as_ref()].concat());
    let kem_secret = &hashed.as_ref()[..32];
    assert_eq!(decapsulate(&dk, ct), kem_secret);

    let by_relay = [&x25519(&y, &request[65..97])[..], &x25519(&b, &request[65..97]), kem_secret].concat();
    let by_client = [&x25519(&x, relay_public)[..], &x25519(&x, &request[33..65]), kem_secret].concat();
    assert_eq!(by_relay, by_client);
    let Schedule { transcript, prk, auth, keys } = schedule(&expect, &reply[..1121], &by_client);
    assert_eq!(reply[1121..], auth);
    assert_eq!(relay_keys, hop_keys(cipher, keys));
    assert_eq!(client.finish(&reply), Ok(hop_keys(cipher, keys)));

    Vector {
        seed,
        ID: hex::encode(id),
        b: hex::encode(b),
        x: hex::encode(x),
        d: hex::encode(d),
        z: hex::encode(z),
        dk: hex::encode(dk),
        y: hex::encode(y),
        m: hex::encode(m),
        K: hex::encode(kem_secret),
        cipher: cipher as u8,
        request: hex::encode(expect),
        t: hex::encode(transcript),
        secret: hex::encode(by_client),
        prk: hex::encode(prk),
        reply: hex::encode([relay_public, ct, &[cipher as u8], &auth].concat()),
        forward_key: hex::encode(keys[0]),
        backward_key: hex::encode(keys[1]),
    }
}

fn take(rng: &mut ChaCha20Rng) -> [u8; 32] {
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    bytes
}

#[test]
fn vectors_agree() {
    let exchanges = (1..=3).map(exchange).collect();
    support::check_vectors("handshake.json", &Vectors { provenance: PROVENANCE.into(), exchanges });
}

#[test]
fn a_client_made_of_aws_lc_is_answered() {
    let mut rng = ChaCha20Rng::seed_from_u64(10);
    let (id, onion, x) = (RelayId(take(&mut rng)), OnionSecret::generate(&mut rng), take(&mut rng));
    let dk = DecapsulationKey::generate(&ML_KEM_768).unwrap();
    let ek = dk.encapsulation_key().unwrap();
    let ek = ek.key_bytes().unwrap();
    let request = [&[1], &id.0[..], &onion.public().0, &x25519_public(&x), ek.as_ref()].concat();

    let (reply, relay_keys) =
        respond(request[..].try_into().unwrap(), id, std::slice::from_ref(&onion), CIPHER, &mut rng).unwrap();
    let (relay_public, ct, auth) = (&reply[..32], &reply[32..1120], &reply[1121..]);
    let kem_secret = dk.decapsulate(Ciphertext::from(ct)).unwrap();
    let secret =
        [x25519(&x, relay_public), x25519(&x, &onion.public().0), kem_secret.as_ref().to_vec()].concat();
    let expect = schedule(&request, &[relay_public, ct, &[CIPHER as u8]].concat(), &secret);
    assert_eq!(auth, expect.auth);
    assert_eq!(relay_keys, hop_keys(CIPHER, expect.keys));
}

/// A client's handshake, and how a relay made of aws-lc answers it that names a cipher by this code.
fn answered_by_aws_lc(code: u8) -> (ClientHandshake, Vec<u8>, [[u8; 32]; 2]) {
    let mut rng = ChaCha20Rng::seed_from_u64(11);
    let (id, b, y) = (RelayId(take(&mut rng)), take(&mut rng), take(&mut rng));
    let onion_key = OnionKey(x25519_public(&b).try_into().unwrap());
    let (client, request) = ClientHandshake::start(id, onion_key, &mut rng);

    let ek = EncapsulationKey::new(&ML_KEM_768, &request[97..]).unwrap();
    let (ct, kem_secret) = ek.encapsulate().unwrap();
    let client_public = &request[65..97];
    let secret =
        [x25519(&y, client_public), x25519(&b, client_public), kem_secret.as_ref().to_vec()].concat();
    let answer = [&x25519_public(&y), ct.as_ref(), &[code]].concat();
    let Schedule { auth, keys, .. } = schedule(&request[..], &answer, &secret);
    (client, [answer, auth.to_vec()].concat(), keys)
}

#[test]
fn a_relay_made_of_aws_lc_is_understood() {
    for cipher in LayerCipher::ALL {
        let (client, reply, keys) = answered_by_aws_lc(cipher as u8);
        assert_eq!(client.finish(reply[..].try_into().unwrap()), Ok(hop_keys(cipher, keys)));
    }
}

#[test]
fn a_relay_that_chooses_an_unknown_cipher_is_refused() {
    for code in [0, 3, 0x82, 0xff] {
        let (client, reply, _) = answered_by_aws_lc(code);
        let refused = client.finish(reply[..].try_into().unwrap());
        assert_eq!(refused, Err(HandshakeError::UnknownCipher), "{code}");
    }
}

const ID: RelayId = RelayId([5; 32]);
const CIPHER: LayerCipher = LayerCipher::ChaCha20Poly1305;

/// A relay and a way to ask it the same thing again and again.
struct Pair {
    onion: OnionSecret,
    named_key: OnionKey,
}

impl Pair {
    fn new() -> Pair {
        let onion = OnionSecret::from_bytes([6; 32]);
        Pair { named_key: onion.public(), onion }
    }

    fn start(&self) -> (ClientHandshake, Box<[u8; REQUEST_LEN]>) {
        ClientHandshake::start(ID, self.named_key, &mut ChaCha20Rng::seed_from_u64(20))
    }

    fn respond(
        &self,
        request: &[u8; REQUEST_LEN],
    ) -> Result<(Box<[u8; REPLY_LEN]>, HopKeys), HandshakeError> {
        let keys = std::slice::from_ref(&self.onion);
        respond(request, ID, keys, CIPHER, &mut ChaCha20Rng::seed_from_u64(21))
    }
}

#[test]
fn a_reply_changed_in_any_byte_is_refused() {
    let pair = Pair::new();
    let (client, request) = pair.start();
    let (reply, keys) = pair.respond(&request).unwrap();
    assert_eq!(client.finish(&reply), Ok(keys));
    for at in 0..REPLY_LEN {
        let mut mauled = reply.clone();
        mauled[at] ^= 1 << (at % 8);
        assert_eq!(pair.start().0.finish(&mauled), Err(HandshakeError::BadAuth), "byte {at}");
    }
    let mut other_cipher = reply.clone();
    other_cipher[1120] = LayerCipher::Aes256Gcm as u8;
    assert_eq!(pair.start().0.finish(&other_cipher), Err(HandshakeError::BadAuth));
}

#[test]
fn a_request_changed_in_any_byte_never_gives_keys() {
    let pair = Pair::new();
    let (_, request) = pair.start();
    for at in 0..REQUEST_LEN {
        let mut mauled = request.clone();
        mauled[at] ^= 1 << (7 - at % 8);
        let Ok((reply, _)) = pair.respond(&mauled) else { continue };
        assert!(at >= 65, "type, id and onion key are checked by the relay: byte {at}");
        assert_eq!(pair.start().0.finish(&reply), Err(HandshakeError::BadAuth), "byte {at}");
    }
}

/// The same point in another encoding: X25519 ignores the top bit (RFC 7748 §5), the transcript does not.
#[test]
fn another_encoding_of_the_same_key_is_another_transcript() {
    let pair = Pair::new();
    let (client, mut request) = pair.start();
    request[96] ^= 0x80;
    let (mut reply, _) = pair.respond(&request).unwrap();
    assert_eq!(client.finish(&reply), Err(HandshakeError::BadAuth));

    let (client, request) = pair.start();
    (reply, _) = pair.respond(&request).unwrap();
    reply[31] ^= 0x80;
    assert_eq!(client.finish(&reply), Err(HandshakeError::BadAuth));
}

/// Everything of small order on Curve25519 and its twist, with the encodings that are not reduced modulo p.
fn small_order_points() -> Vec<[u8; 32]> {
    [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ]
    .iter()
    .flat_map(|point| {
        let mut bytes = [0; 32];
        hex::decode_to_slice(point, &mut bytes).unwrap();
        let mut with_top_bit = bytes;
        with_top_bit[31] |= 0x80;
        [bytes, with_top_bit]
    })
    .collect()
}

#[test]
fn points_of_small_order_are_refused_by_both_sides() {
    let pair = Pair::new();
    let (_, request) = pair.start();
    let (reply, _) = pair.respond(&request).unwrap();
    for point in small_order_points() {
        let mut bad_request = request.clone();
        bad_request[65..97].copy_from_slice(&point);
        assert_eq!(pair.respond(&bad_request).unwrap_err(), HandshakeError::SmallOrder, "X {point:?}");

        let mut bad_reply = reply.clone();
        bad_reply[..32].copy_from_slice(&point);
        assert_eq!(pair.start().0.finish(&bad_reply), Err(HandshakeError::SmallOrder), "Y {point:?}");

        let tricked = Pair { named_key: OnionKey(point), ..Pair::new() };
        assert_eq!(tricked.start().0.finish(&reply), Err(HandshakeError::SmallOrder), "B {point:?}");
    }
}

/// Sets a 12-bit coefficient of the encapsulation key in a request (FIPS 203 §4.2.1).
fn set_coefficient(request: &mut [u8; REQUEST_LEN], index: usize, value: u16) {
    let pair = &mut request[97 + index / 2 * 3..][..3];
    let old = u32::from_le_bytes([pair[0], pair[1], pair[2], 0]);
    let shift = 12 * (index % 2);
    let new = old & !(0xfff << shift) | u32::from(value) << shift;
    pair.copy_from_slice(&new.to_le_bytes()[..3]);
}

#[test]
fn an_encapsulation_key_that_is_not_reduced_is_refused() {
    let pair = Pair::new();
    let (_, request) = pair.start();
    for index in 0..768 {
        for value in [3329, 3330, 4095] {
            let mut bad = request.clone();
            set_coefficient(&mut bad, index, value);
            assert_eq!(
                pair.respond(&bad).unwrap_err(),
                HandshakeError::BadEncapsulationKey,
                "{index}: {value}"
            );
        }
    }
    let mut odd_but_legal = request.clone();
    set_coefficient(&mut odd_but_legal, 767, 3328);
    assert!(pair.respond(&odd_but_legal).is_ok());
}

#[test]
fn a_reply_to_another_request_is_refused() {
    let pair = Pair::new();
    let mut rng = ChaCha20Rng::seed_from_u64(22);
    let (_, other_request) = ClientHandshake::start(ID, pair.named_key, &mut rng);
    let (reply, _) = pair.respond(&other_request).unwrap();
    assert_eq!(pair.start().0.finish(&reply), Err(HandshakeError::BadAuth));
}
