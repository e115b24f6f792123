//! Handshake messages cut into a fixed number of pieces (docs/protocol.md §4.3 and §6.2).
//!
//! Every piece is `index` u8 and the next bytes of the message; the last one is filled up with zeros. How many there
//! are follows from the lengths alone, so the number tells nothing.

use crate::crypto::handshake::{REPLY_LEN, REQUEST_LEN};
use crate::crypto::layer::PAYLOAD_LEN;
use crate::ids::HopNum;

/// Length of what `CREATE` carries in bytes: depth u8, the request.
pub const CREATE_LEN: usize = 1 + REQUEST_LEN;
/// Length of the data of an `EXTEND` or `EXTENDED` message: index u8, 365 bytes, which fit any depth.
pub const EXTEND_DATA_LEN: usize = 1 + 365;

/// The three payloads of `CREATE`. See [`create_message`].
pub type Create = Fragments<CREATE_LEN, PAYLOAD_LEN>;
/// The three payloads of `CREATED`.
pub type Created = Fragments<REPLY_LEN, PAYLOAD_LEN>;
/// The data of the four `EXTEND` messages.
pub type Extend = Fragments<REQUEST_LEN, EXTEND_DATA_LEN>;
/// The data of the four `EXTENDED` messages.
pub type Extended = Fragments<REPLY_LEN, EXTEND_DATA_LEN>;

/// What `CREATE` carries: the depth of the relay that is asked, and the request.
pub fn create_message(depth: HopNum, request: &[u8; REQUEST_LEN]) -> Box<[u8; CREATE_LEN]> {
    let mut message = Box::new([0; CREATE_LEN]);
    message[0] = depth.depth();
    message[1..].copy_from_slice(request);
    message
}

/// Takes apart what [`create_message`] put together; `None` if the depth is above [`HopNum::MAX`].
pub fn parse_create(message: &[u8; CREATE_LEN]) -> Option<(HopNum, Box<[u8; REQUEST_LEN]>)> {
    let mut request = Box::new([0; REQUEST_LEN]);
    request.copy_from_slice(&message[1..]);
    Some((HopNum::new(message[0])?, request))
}

/// A fragment that does not continue the message. Nothing more is accepted after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FragmentError {
    /// It is longer or shorter than fragments of this kind are.
    #[error("fragment of the wrong length")]
    Length,
    /// It is not the one that comes next, or none does.
    #[error("fragment out of order")]
    Index,
    /// Bytes behind the message are not zero.
    #[error("filler of the last fragment is not zero")]
    Filler,
}

/// Puts a message of `MESSAGE` bytes together from fragments of `FRAGMENT` bytes each, the index included.
pub struct Fragments<const MESSAGE: usize, const FRAGMENT: usize> {
    /// Taken out when it is complete, or when a fragment was wrong.
    message: Option<Box<[u8; MESSAGE]>>,
    next: u8,
}

impl<const MESSAGE: usize, const FRAGMENT: usize> Fragments<MESSAGE, FRAGMENT> {
    /// How many fragments a message has.
    pub const COUNT: u8 = {
        assert!(FRAGMENT > 1 && MESSAGE > 0 && MESSAGE.div_ceil(FRAGMENT - 1) <= u8::MAX as usize);
        MESSAGE.div_ceil(FRAGMENT - 1) as u8
    };

    /// Cuts a message into its [`COUNT`](Self::COUNT) fragments, in order.
    pub fn split(message: &[u8; MESSAGE]) -> impl ExactSizeIterator<Item = [u8; FRAGMENT]> {
        (0..Self::COUNT).zip(message.chunks(FRAGMENT - 1)).map(|(index, chunk)| {
            let mut fragment = [0; FRAGMENT];
            fragment[0] = index;
            fragment[1..=chunk.len()].copy_from_slice(chunk);
            fragment
        })
    }

    /// Waits for the first fragment.
    pub fn new() -> Self {
        Fragments { message: Some(Box::new([0; MESSAGE])), next: 0 }
    }

    /// Takes the next fragment; gives the message when it was the last one.
    ///
    /// # Errors
    /// [`FragmentError`], and for every fragment after one or after the last.
    pub fn push(&mut self, fragment: &[u8]) -> Result<Option<Box<[u8; MESSAGE]>>, FragmentError> {
        let mut message = self.message.take().ok_or(FragmentError::Index)?;
        if fragment.len() != FRAGMENT {
            return Err(FragmentError::Length);
        }
        if fragment[0] != self.next {
            return Err(FragmentError::Index);
        }
        let start = usize::from(self.next) * (FRAGMENT - 1);
        let end = MESSAGE.min(start + FRAGMENT - 1);
        let (chunk, filler) = fragment[1..].split_at(end - start);
        if filler.iter().any(|&byte| byte != 0) {
            return Err(FragmentError::Filler);
        }
        message[start..end].copy_from_slice(chunk);
        self.next += 1;
        if self.next == Self::COUNT {
            return Ok(Some(message));
        }
        self.message = Some(message);
        Ok(None)
    }
}

impl<const MESSAGE: usize, const FRAGMENT: usize> Default for Fragments<MESSAGE, FRAGMENT> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const MESSAGE: usize, const FRAGMENT: usize> std::fmt::Debug for Fragments<MESSAGE, FRAGMENT> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fragments({} of {})", self.next, Self::COUNT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<const N: usize>() -> [u8; N] {
        std::array::from_fn(|at| (at % 251) as u8 + 1)
    }

    fn check<const M: usize, const F: usize>(count: usize) {
        let message = message::<M>();
        let fragments: Vec<_> = Fragments::<M, F>::split(&message).collect();
        assert_eq!(fragments.len(), count);
        assert_eq!(usize::from(Fragments::<M, F>::COUNT), count);

        let mut assembler = Fragments::<M, F>::new();
        for fragment in &fragments[..count - 1] {
            assert_eq!(assembler.push(fragment), Ok(None));
        }
        assert_eq!(assembler.push(&fragments[count - 1]), Ok(Some(Box::new(message))));
        assert_eq!(assembler.push(&fragments[0]), Err(FragmentError::Index), "nothing after the last");
        assert_eq!(fragments.iter().flat_map(|fragment| &fragment[1..]).skip(M).max(), Some(&0));
    }

    #[test]
    fn messages_survive_being_cut() {
        check::<CREATE_LEN, PAYLOAD_LEN>(3);
        check::<REPLY_LEN, PAYLOAD_LEN>(3);
        check::<REQUEST_LEN, EXTEND_DATA_LEN>(4);
        check::<REPLY_LEN, EXTEND_DATA_LEN>(4);
    }

    #[test]
    fn a_message_that_fills_its_fragments_has_no_filler() {
        let message = message::<20>();
        let mut assembler = Fragments::<20, 11>::new();
        let results: Vec<_> = Fragments::split(&message).map(|f: [u8; 11]| assembler.push(&f)).collect();
        assert_eq!(results, [Ok(None), Ok(Some(Box::new(message)))]);
    }

    #[test]
    fn only_the_next_fragment_is_accepted() {
        let fragments: Vec<_> = Create::split(&message()).collect();
        for got in 0..3 {
            for wrong in (0..3).filter(|&wrong| wrong != got) {
                let mut assembler = Create::new();
                for fragment in &fragments[..got] {
                    assert_eq!(assembler.push(fragment), Ok(None));
                }
                assert_eq!(assembler.push(&fragments[wrong]), Err(FragmentError::Index));
                assert_eq!(assembler.push(&fragments[got]), Err(FragmentError::Index), "an error is final");
            }
        }
    }

    #[test]
    fn other_lengths_are_refused() {
        for length in [0, 1, 2, EXTEND_DATA_LEN - 1, EXTEND_DATA_LEN + 1, PAYLOAD_LEN] {
            assert_eq!(Extend::new().push(&vec![0; length]), Err(FragmentError::Length), "{length}");
        }
    }

    #[test]
    fn filler_is_zero() {
        let fragments: Vec<_> = Extended::split(&message()).collect();
        let filled = REPLY_LEN - 3 * (EXTEND_DATA_LEN - 1);
        for at in 1 + filled..EXTEND_DATA_LEN {
            let mut assembler = Extended::new();
            for fragment in &fragments[..3] {
                assert_eq!(assembler.push(fragment), Ok(None));
            }
            let mut last = fragments[3];
            last[at] = 0x80;
            assert_eq!(assembler.push(&last), Err(FragmentError::Filler), "byte {at}");
        }
    }

    #[test]
    fn create_holds_depth_and_request() {
        let request = message();
        for depth in 0..8 {
            let hop = HopNum::new(depth).unwrap();
            assert_eq!(parse_create(&create_message(hop, &request)), Some((hop, Box::new(request))));
        }
        let mut message = create_message(HopNum::MAX, &request);
        message[0] = 8;
        assert_eq!(parse_create(&message), None);
    }
}
