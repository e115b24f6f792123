//! The onion: one authenticated layer for each hop and direction (docs/protocol.md §5).
//!
//! 1. Forward, the client seals for the last hop first ([`ForwardLayers::seal`]), so that the layer of the first hop
//!    is outermost.
//! 2. Each relay opens its own layer ([`HopOpener::open`]) and keeps the message or passes the cell on.
//! 3. Backward, the sender seals its message, and each relay on the way adds its layer ([`HopSealer::seal`]).
//! 4. The client opens layer after layer until one holds a message ([`BackwardLayers::open`]).
//!
//! A layer that has failed once is dead: it dropped its key, and every later call fails too.
//!
//! The relay chooses the cipher of its layers, both ways, in its reply to the handshake ([`LayerCipher`]).

use std::fmt;

use aws_lc_rs::aead::{
    AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};

use crate::ids::HopNum;

pub use crate::crypto::client_layers::{BackwardLayers, ForwardLayers};

/// Length of a cell's payload in bytes (docs/protocol.md §2.1).
pub const PAYLOAD_LEN: usize = 507;
/// What one layer adds, in bytes: the routing byte and the tag.
pub const LAYER_LEN: usize = 1 + TAG_LEN;
const TAG_LEN: usize = 16;
/// How many cells a key seals or opens at most: with 32 blocks each, AES-GCM stays within 2⁻⁵⁴ of a perfect cipher
/// (docs/protocol.md §5.1).
const MAX_CELLS: u64 = 1 << 32;

/// Bytes of the payload that the hop seals and opens: `S(d)` of docs/protocol.md §5.2. Those behind are zero.
pub fn sealed_len(hop: HopNum) -> usize {
    PAYLOAD_LEN - LAYER_LEN * hop.index()
}

/// Bytes inside the hop's layer: a relay message, or what the next hop seals and opens.
pub fn inner_len(hop: HopNum) -> usize {
    sealed_len(hop) - LAYER_LEN
}

/// What a hop's layers are sealed with, both ways: an AEAD with keys of 32 bytes, nonces of 12 and tags of 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum LayerCipher {
    /// RFC 8439, fast on any processor.
    ChaCha20Poly1305 = 1,
    /// NIST SP 800-38D, faster by far where the processor has instructions for it.
    Aes256Gcm = 2,
}

impl LayerCipher {
    /// Each of them.
    pub const ALL: [LayerCipher; 2] = [LayerCipher::ChaCha20Poly1305, LayerCipher::Aes256Gcm];

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&cipher| cipher as u8 == byte)
    }

    fn algorithm(self) -> &'static Algorithm {
        match self {
            LayerCipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            LayerCipher::Aes256Gcm => &AES_256_GCM,
        }
    }
}

impl fmt::Display for LayerCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LayerCipher::ChaCha20Poly1305 => "ChaCha20-Poly1305",
            LayerCipher::Aes256Gcm => "AES-256-GCM",
        })
    }
}

/// What a layer says about its inside (docs/protocol.md §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Routing {
    /// It is another layer: forward, that of the next hop; backward, that of the hop which it came from.
    PassOn = 0,
    /// It is a relay message: forward, to this hop; backward, from this hop.
    Here = 1,
}

/// Why a cell's payload was refused. Ends the circuit (docs/protocol.md §5.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("layer of hop {}: {fault}", hop.depth())]
pub struct LayerError {
    /// The hop whose layer it was.
    pub hop: HopNum,
    /// What was wrong.
    pub fault: LayerFault,
}

/// What was wrong with a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayerFault {
    /// The tag does not fit: forged, damaged, lost, repeated or reordered; or it is one cell more than the key may seal.
    #[error("does not open")]
    Tag,
    /// Bytes behind the sealed ones are not zero.
    #[error("filler is not zero")]
    Filler,
    /// The routing byte is neither 0 nor 1.
    #[error("unknown routing byte")]
    Routing,
    /// The last hop says that another one follows.
    #[error("passed on by the last hop")]
    NoNextHop,
    /// The key has sealed as many cells as it may.
    #[error("key used up")]
    Exhausted,
    /// The layer, or the onion that it belongs to, has failed before, or the library refused its key.
    #[error("failed before")]
    Dead,
    /// Our own mistake: a hop that the circuit does not have, or not the next one.
    #[error("no such hop")]
    NoSuchHop,
}

/// The key of one hop and direction with its counter of cells.
struct Layer {
    /// `None` once it has failed: the library wipes a key that is dropped.
    key: Option<LessSafeKey>,
    counter: u64,
    hop: HopNum,
}

impl Layer {
    fn new(cipher: LayerCipher, key: &[u8; 32], hop: HopNum) -> Self {
        let key = UnboundKey::new(cipher.algorithm(), key).ok().map(LessSafeKey::new);
        Layer { key, counter: 0, hop }
    }

    fn error(&self, fault: LayerFault) -> LayerError {
        LayerError { hop: self.hop, fault }
    }

    /// Drops the key, and wipes the payload so that nothing unsealed or unauthenticated leaves.
    fn fail(&mut self, payload: &mut [u8; PAYLOAD_LEN], fault: LayerFault) -> LayerError {
        self.key = None;
        payload.fill(0);
        self.error(fault)
    }

    /// The key and the nonce of this cell.
    fn next(&mut self) -> Result<(&LessSafeKey, Nonce), LayerFault> {
        let key = self.key.as_ref().ok_or(LayerFault::Dead)?;
        if self.counter >= MAX_CELLS {
            return Err(LayerFault::Exhausted);
        }
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 8..].copy_from_slice(&self.counter.to_be_bytes());
        self.counter += 1;
        Ok((key, Nonce::assume_unique_for_key(nonce)))
    }

    fn seal(&mut self, payload: &mut [u8; PAYLOAD_LEN], routing: Routing) -> Result<(), LayerFault> {
        let inner = inner_len(self.hop);
        match routing {
            Routing::Here => payload[inner..].fill(0),
            Routing::PassOn => zeros(&payload[inner..])?,
        }
        payload[inner] = routing as u8;
        let (key, nonce) = self.next()?;
        let (text, behind) = payload.split_at_mut(inner + 1);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), text).map_err(|_| LayerFault::Dead)?;
        behind[..TAG_LEN].copy_from_slice(tag.as_ref());
        Ok(())
    }

    fn open(&mut self, payload: &mut [u8; PAYLOAD_LEN]) -> Result<Routing, LayerFault> {
        let (sealed, filler) = payload.split_at_mut(sealed_len(self.hop));
        zeros(filler)?;
        let inner = inner_len(self.hop);
        // Nobody who keeps to the protocol seals more.
        let next =
            self.next().map_err(|fault| if fault == LayerFault::Exhausted { LayerFault::Tag } else { fault });
        let (key, nonce) = next?;
        let (text, tag) = sealed.split_at_mut(inner + 1);
        key.open_in_place_separate_tag(nonce, Aad::empty(), tag, text).map_err(|_| LayerFault::Tag)?;
        let routing = match sealed[inner] {
            0 => Routing::PassOn,
            1 => Routing::Here,
            _ => return Err(LayerFault::Routing),
        };
        sealed[inner..].fill(0);
        Ok(routing)
    }
}

fn zeros(filler: &[u8]) -> Result<(), LayerFault> {
    // Folded, not `all`: without an early exit it is a few vector instructions.
    if filler.iter().fold(0, |any, byte| any | byte) == 0 { Ok(()) } else { Err(LayerFault::Filler) }
}

/// Adds one layer: the client's for a hop forward, a relay's own backward.
pub struct HopSealer(Layer);

impl HopSealer {
    /// The sealer of the hop at this depth, from its first cell on.
    pub fn new(cipher: LayerCipher, key: &[u8; 32], hop: HopNum) -> Self {
        HopSealer(Layer::new(cipher, key, hop))
    }

    /// The hop whose layer it is.
    pub fn hop(&self) -> HopNum {
        self.0.hop
    }

    /// As if it had sealed all cells that it may.
    #[cfg(test)]
    pub(crate) fn use_up(&mut self) {
        self.0.counter = MAX_CELLS;
    }

    /// Seals the first [`inner_len`] bytes in place, adding the routing byte and the tag behind them.
    ///
    /// With [`Routing::Here`] what was behind them is overwritten. With [`Routing::PassOn`] it came from the next hop
    /// and must be zero.
    ///
    /// # Errors
    /// [`LayerError`]; the payload is wiped, and the sealer fails from then on.
    pub fn seal(&mut self, payload: &mut [u8; PAYLOAD_LEN], routing: Routing) -> Result<(), LayerError> {
        self.0.seal(payload, routing).map_err(|fault| self.0.fail(payload, fault))
    }
}

/// Removes one layer: a relay's own forward, the client's of a hop backward.
pub struct HopOpener(Layer);

impl HopOpener {
    /// The opener of the hop at this depth, from its first cell on.
    pub fn new(cipher: LayerCipher, key: &[u8; 32], hop: HopNum) -> Self {
        HopOpener(Layer::new(cipher, key, hop))
    }

    /// The hop whose layer it is.
    pub fn hop(&self) -> HopNum {
        self.0.hop
    }

    /// Opens the layer in place: [`inner_len`] bytes are left at the start, and zeros behind them.
    ///
    /// # Errors
    /// [`LayerError`]; the payload is wiped, and the opener fails from then on.
    pub fn open(&mut self, payload: &mut [u8; PAYLOAD_LEN]) -> Result<Routing, LayerError> {
        self.0.open(payload).map_err(|fault| self.0.fail(payload, fault))
    }
}

impl fmt::Debug for HopSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HopSealer(hop {}, cell {})", self.0.hop.depth(), self.0.counter)
    }
}

impl fmt::Debug for HopOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HopOpener(hop {}, cell {})", self.0.hop.depth(), self.0.counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [9; 32];

    fn hop(depth: u8) -> HopNum {
        HopNum::new(depth).unwrap()
    }

    #[test]
    fn lengths_are_those_of_the_protocol() {
        assert_eq!((sealed_len(hop(0)), inner_len(hop(0))), (507, 490));
        assert_eq!((sealed_len(hop(2)), inner_len(hop(2))), (473, 456));
        assert_eq!((sealed_len(hop(7)), inner_len(hop(7))), (388, 371));
    }

    #[test]
    fn a_layer_comes_off_as_it_went_on() {
        for (depth, cipher) in (0..8).flat_map(|depth| LayerCipher::ALL.map(|cipher| (depth, cipher))) {
            let mut sealer = HopSealer::new(cipher, &KEY, hop(depth));
            let mut opener = HopOpener::new(cipher, &KEY, hop(depth));
            for routing in [Routing::Here, Routing::PassOn] {
                let mut payload = [0; PAYLOAD_LEN];
                payload[..inner_len(hop(depth))].fill(0xa5);
                let before = payload;
                sealer.seal(&mut payload, routing).unwrap();
                assert_ne!(payload, before);
                assert_eq!(opener.open(&mut payload), Ok(routing));
                assert_eq!(payload, before);
            }
        }
    }

    #[test]
    fn a_key_is_used_for_so_many_cells_and_no_more() {
        let check = |result, fault| assert_eq!(result, Err(LayerError { hop: hop(0), fault }));
        for cipher in LayerCipher::ALL {
            let mut sealer = HopSealer::new(cipher, &KEY, hop(0));
            let mut opener = HopOpener::new(cipher, &KEY, hop(0));
            (sealer.0.counter, opener.0.counter) = (MAX_CELLS - 1, MAX_CELLS - 1);
            let mut payload = [0; PAYLOAD_LEN];
            assert_eq!(sealer.seal(&mut payload, Routing::Here), Ok(()));
            assert_eq!(opener.open(&mut payload), Ok(Routing::Here));
            check(opener.open(&mut payload).map(|_| ()), LayerFault::Tag);
            check(sealer.seal(&mut payload, Routing::Here), LayerFault::Exhausted);
            check(sealer.seal(&mut payload, Routing::Here), LayerFault::Dead);
        }
    }

    #[test]
    fn what_one_cipher_sealed_the_other_does_not_open() {
        let [one, other] = LayerCipher::ALL;
        for (sealed_by, opened_by) in [(one, other), (other, one)] {
            let mut payload = [0; PAYLOAD_LEN];
            HopSealer::new(sealed_by, &KEY, hop(0)).seal(&mut payload, Routing::Here).unwrap();
            let opened = HopOpener::new(opened_by, &KEY, hop(0)).open(&mut payload);
            assert_eq!(opened.unwrap_err().fault, LayerFault::Tag);
        }
    }

    #[test]
    fn ciphers_have_the_bytes_of_the_protocol() {
        let known: Vec<_> =
            (0..=u8::MAX).filter_map(|byte| Some((byte, LayerCipher::from_byte(byte)?))).collect();
        assert_eq!(known, [(1, LayerCipher::ChaCha20Poly1305), (2, LayerCipher::Aes256Gcm)]);
    }

    #[test]
    fn debug_output_holds_no_key() {
        let [one, other] = LayerCipher::ALL;
        let text =
            format!("{:?} {:?}", HopSealer::new(one, &KEY, hop(3)), HopOpener::new(other, &KEY, hop(4)));
        assert_eq!(text, "HopSealer(hop 3, cell 0) HopOpener(hop 4, cell 0)");
    }
}
