//! Extension mechanisms (RFC 6891), as far as longer answers over UDP need them.

use super::read_name;

/// The longest answer over UDP, in bytes, however much a program has room for: what passes everywhere in one packet.
pub const MAX_PAYLOAD: u16 = 1_232;

const TYPE_OPT: u16 = 41;
/// Type, class, lifetime and length of a record.
const FIXED_LEN: usize = 10;
const VERSION: u8 = 0;

/// What the program said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edns {
    /// Bytes that it has room for.
    payload: u16,
    /// Whether it speaks a version that we do not.
    pub(super) is_newer: bool,
}

impl Edns {
    /// Looks through the additional records for the one that says so. Its options are none that we have.
    ///
    /// # Errors
    /// If the records are malformed, or there are two of it (§6.1.1).
    pub(super) fn find(mut records: &[u8], count: u16) -> Result<Option<Edns>, ()> {
        let mut found = None;
        for _ in 0..count {
            let (labels, end) = read_name(records).ok_or(())?;
            let fixed = records.get(end..end + FIXED_LEN).ok_or(())?;
            let word = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
            let edns = Edns { payload: word(2), is_newer: fixed[5] != VERSION };
            if word(0) == TYPE_OPT && (!labels.is_empty() || found.replace(edns).is_some()) {
                return Err(());
            }
            let length = FIXED_LEN + usize::from(word(8));
            records = records.get(end + length..).ok_or(())?;
        }
        Ok(found)
    }

    /// Bytes that an answer over UDP may have.
    pub(super) fn max_udp(self) -> usize {
        usize::from(self.payload.min(MAX_PAYLOAD)).max(super::MAX_UDP)
    }

    /// The record that answers it; `code`: the upper eight bits of the answer's code.
    pub(super) fn answer(code: u8) -> Vec<u8> {
        let head = [&[0][..], &TYPE_OPT.to_be_bytes(), &MAX_PAYLOAD.to_be_bytes()].concat();
        [&head[..], &[code, VERSION, 0, 0, 0, 0]].concat()
    }
}
