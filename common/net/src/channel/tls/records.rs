//! The records of an open TLS 1.3 session (RFC 8446 §5): where bytes lie, and with which key each record is sealed.
//!
//! `rustls` opens the session; then a channel seals records from the buffer that its cells are written to, and opens them from
//! the one that the socket was read into, without a copy in between. What remains of TLS is a counter for each direction, the
//! update of its key and the goodbye. docs/performance.md says what that saves; the tests compare it with `rustls`.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use rustls::crypto::tls13::OkmBlock;
use rustls::{CipherSuite, Tls13CipherSuite};
use zeroize::Zeroizing;

use super::Buffer;

/// Bytes that one record holds at most.
pub const RECORD_LEN: usize = 16 * 1024;
/// What a record adds to them: its header, its type and its tag.
pub const RECORD_OVERHEAD: usize = HEADER_LEN + TYPE_LEN + TAG_LEN;
const HEADER_LEN: usize = 5;
const TYPE_LEN: usize = 1;
const TAG_LEN: usize = 16;
/// No record is longer (RFC 8446 §5.2).
pub const MAX_RECORD_LEN: usize = HEADER_LEN + RECORD_LEN + 256;

/// How many records a key seals, whatever the suite (RFC 8446 §5.5 has 2^24.5 for AES-GCM, and `rustls` this).
const RECORDS_PER_KEY: u64 = 1 << 24;
/// A peer that updates its key has sent so many records at least: deriving keys costs more than the message that asks for it.
const LEAST_PER_KEY: u64 = 1 << 10;

/// Content types (RFC 8446 §5.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// What every record of an open session begins with: its outer type and the version that it pretends to have.
const PREFIX: [u8; 3] = [APPLICATION_DATA, 3, 3];

/// A goodbye: `close_notify` (RFC 8446 §6.1) and the level that we give it, which says nothing.
const CLOSE_NOTIFY: u8 = 0;
const WARNING: u8 = 1;
/// `KeyUpdate` (RFC 8446 §4.6.3), and with the wish that the peer updates its key too.
const UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const UPDATE_REQUESTED: [u8; 5] = [24, 0, 0, 1, 1];

/// Why a record was refused. The session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not the header of a record of an open session.
    #[error("no record of an open TLS session")]
    Header,
    /// Longer or shorter than a record may be, or empty.
    #[error("TLS record of a wrong length")]
    Length,
    /// Forged, damaged, lost, repeated or reordered.
    #[error("TLS record does not open")]
    Tag,
    /// Something else than data, a goodbye or the update of a key.
    #[error("unexpected TLS message")]
    Message,
    /// The peer updates its key too often.
    #[error("TLS key updated too soon")]
    Update,
    /// The peer does not update its key, or we have forgotten to.
    #[error("TLS key used up")]
    Exhausted,
    /// The peer says that this is what went wrong (RFC 8446 §6).
    #[error("TLS alert {0}")]
    Alert(u8),
    /// The library refuses the suite, a key or a length.
    #[error("TLS records cannot be sealed")]
    Library,
}

/// What one direction is protected with.
struct Key {
    suite: &'static Tls13CipherSuite,
    /// The traffic secret, from which the next one follows. In a box, so that whoever moves the key leaves no copy.
    secret: Box<OkmBlock>,
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    /// Records sealed or opened with it.
    count: u64,
}

impl Key {
    fn new(suite: &'static Tls13CipherSuite, secret: Box<OkmBlock>) -> Result<Key, RecordError> {
        let algorithm = algorithm(suite).ok_or(RecordError::Library)?;
        let mut key = Zeroizing::new(vec![0; algorithm.key_len()]);
        let mut iv = [0; NONCE_LEN];
        expand_label(suite, &secret, "key", &mut key)?;
        expand_label(suite, &secret, "iv", &mut iv)?;
        let key = UnboundKey::new(algorithm, &key).map_err(|_| RecordError::Library)?;
        Ok(Key { suite, secret, key: LessSafeKey::new(key), iv, count: 0 })
    }

    /// The key that follows this one (RFC 8446 §7.2).
    fn update(&mut self) -> Result<(), RecordError> {
        let mut next = Zeroizing::new([0; OkmBlock::MAX_LEN]);
        let next = &mut next[..OkmBlock::as_ref(&self.secret).len()];
        expand_label(self.suite, &self.secret, "traffic upd", next)?;
        *self = Key::new(self.suite, Box::new(OkmBlock::new(next)))?;
        Ok(())
    }

    /// That of the next record (RFC 8446 §5.3).
    fn nonce(&mut self) -> Result<Nonce, RecordError> {
        if self.count >= RECORDS_PER_KEY {
            return Err(RecordError::Exhausted);
        }
        let mut nonce = self.iv;
        for (byte, counted) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.count.to_be_bytes()) {
            *byte ^= counted;
        }
        self.count += 1;
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    /// Appends one record of `plain`, which is no more than a record holds.
    fn seal(&mut self, kind: u8, plain: &[u8], wire: &mut Buffer) -> Result<(), RecordError> {
        let (start, sealed_len) = (wire.len(), plain.len() + TYPE_LEN + TAG_LEN);
        let (header, nonce) = (header(sealed_len)?, self.nonce()?);
        wire.extend_from_slice(&header);
        let (sealed, rest) = wire.grow(sealed_len).split_at_mut(plain.len());
        let done = self.key.seal_out_of_place_scatter(nonce, Aad::from(header), plain, sealed, &[kind], rest);
        done.map_err(|_| {
            wire.truncate(start);
            RecordError::Library
        })
    }

    /// Appends what the record holds, with its type behind it.
    fn open(
        &mut self,
        header: [u8; HEADER_LEN],
        sealed: &[u8],
        plain: &mut Buffer,
    ) -> Result<(), RecordError> {
        let (sealed, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(RecordError::Length)?;
        let nonce = self.nonce()?;
        self.key
            .open_separate_gather(nonce, Aad::from(header), sealed, tag, plain.grow(sealed.len()))
            .map_err(|_| RecordError::Tag)
    }
}

fn algorithm(suite: &Tls13CipherSuite) -> Option<&'static Algorithm> {
    match suite.common.suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => Some(&AES_128_GCM),
        CipherSuite::TLS13_AES_256_GCM_SHA384 => Some(&AES_256_GCM),
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Some(&CHACHA20_POLY1305),
        _ => None,
    }
}

/// `HKDF-Expand-Label` without a context (RFC 8446 §7.1).
fn expand_label(
    suite: &Tls13CipherSuite,
    secret: &OkmBlock,
    label: &str,
    out: &mut [u8],
) -> Result<(), RecordError> {
    const PREFIX: &[u8] = b"tls13 ";
    let len = u16::try_from(out.len()).map_err(|_| RecordError::Library)?.to_be_bytes();
    let label_len = u8::try_from(PREFIX.len() + label.len()).map_err(|_| RecordError::Library)?;
    let info: [&[u8]; 5] = [&len, &[label_len], PREFIX, label.as_bytes(), &[0]];
    let expander = suite.hkdf_provider.expander_for_okm(secret);
    expander.expand_slice(&info, out).map_err(|_| RecordError::Library)
}

/// How long the record is that begins like this, if so much of it is there that it can be told.
pub fn record_len(wire: &[u8]) -> Option<usize> {
    let &[_, _, _, high, low] = wire.first_chunk::<HEADER_LEN>()?;
    Some(HEADER_LEN + usize::from(u16::from_be_bytes([high, low])))
}

fn header(sealed_len: usize) -> Result<[u8; HEADER_LEN], RecordError> {
    let [high, low] = u16::try_from(sealed_len).map_err(|_| RecordError::Library)?.to_be_bytes();
    let [kind, major, minor] = PREFIX;
    Ok([kind, major, minor, high, low])
}

/// An open session: seals what is sent and opens what has arrived.
pub struct Records {
    sealer: Key,
    opener: Key,
    /// The peer wants our key updated before the next data.
    owes_update: bool,
    is_closed: bool,
}

impl Records {
    pub(super) fn new(
        suite: &'static Tls13CipherSuite,
        sealing: Box<OkmBlock>,
        opening: Box<OkmBlock>,
    ) -> Result<Records, RecordError> {
        Ok(Records {
            sealer: Key::new(suite, sealing)?,
            opener: Key::new(suite, opening)?,
            owes_update: false,
            is_closed: false,
        })
    }

    /// The cipher suite of the session.
    pub fn suite(&self) -> CipherSuite {
        self.sealer.suite.common.suite
    }

    /// Whether the peer has said its goodbye.
    pub(in crate::channel) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Appends the records of `plain`, 16 KiB in each.
    ///
    /// # Errors
    /// [`RecordError::Library`].
    pub fn seal(&mut self, plain: &[u8], wire: &mut Buffer) -> Result<(), RecordError> {
        for plain in plain.chunks(RECORD_LEN) {
            // One is left for the message that says so.
            if std::mem::take(&mut self.owes_update) || self.sealer.count >= RECORDS_PER_KEY - 1 {
                self.sealer.seal(HANDSHAKE, &UPDATE, wire)?;
                self.sealer.update()?;
            }
            self.sealer.seal(APPLICATION_DATA, plain, wire)?;
        }
        Ok(())
    }

    /// Appends the goodbye: nothing may be sealed behind it.
    ///
    /// # Errors
    /// As [`Records::seal`].
    pub(in crate::channel) fn seal_goodbye(&mut self, wire: &mut Buffer) -> Result<(), RecordError> {
        self.sealer.seal(ALERT, &[WARNING, CLOSE_NOTIFY], wire)
    }

    /// Appends to `plain` what the whole records at the beginning of `wire` hold. Returns how many bytes those were; the rest, less
    /// than one record, is to be given again with what follows. What comes behind a goodbye is taken and not looked at.
    ///
    /// # Errors
    /// [`RecordError`]; only what has been opened before is appended.
    pub fn open(&mut self, wire: &[u8], plain: &mut Buffer) -> Result<usize, RecordError> {
        let mut rest = wire;
        while !self.is_closed
            && let (Some(&header), Some(len)) = (rest.first_chunk::<HEADER_LEN>(), record_len(rest))
        {
            if !header.starts_with(&PREFIX) {
                return Err(RecordError::Header);
            }
            if len > MAX_RECORD_LEN {
                return Err(RecordError::Length);
            }
            let Some((record, behind)) = rest.split_at_checked(len) else { break };
            let start = plain.len();
            let opened = self
                .opener
                .open(header, &record[HEADER_LEN..], plain)
                .and_then(|()| self.data_len(&plain[start..]));
            plain.truncate(start + opened.as_ref().unwrap_or(&0));
            opened?;
            rest = behind;
        }
        Ok(if self.is_closed { wire.len() } else { wire.len() - rest.len() })
    }

    /// How much of a record's inside is data: all before its type, or nothing if it is a message to TLS, which is handled.
    fn data_len(&mut self, inside: &[u8]) -> Result<usize, RecordError> {
        // Behind the type there may be padding, all zeros.
        let end = inside.iter().rposition(|&byte| byte != 0).ok_or(RecordError::Message)?;
        let (content, kind) = (&inside[..end], inside[end]);
        if content.is_empty() || inside.len() > RECORD_LEN + TYPE_LEN {
            return Err(RecordError::Length);
        }
        match (kind, content) {
            (APPLICATION_DATA, _) => return Ok(content.len()),
            (ALERT, &[_, CLOSE_NOTIFY]) => self.is_closed = true,
            (ALERT, &[_, description]) => return Err(RecordError::Alert(description)),
            (HANDSHAKE, _) if content == UPDATE || content == UPDATE_REQUESTED => {
                if self.opener.count < LEAST_PER_KEY {
                    return Err(RecordError::Update);
                }
                self.opener.update()?;
                self.owes_update |= content == UPDATE_REQUESTED;
            }
            _ => return Err(RecordError::Message),
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests;
