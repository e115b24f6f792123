//! Where the body of a request ends, so that what comes behind it does not reach the wrong target.
//!
//! The framing of a body of unknown length (RFC 9112 §7.1) is followed and passed on as it is: a target that reads it in
//! another way than we do must not exist, so only the strict form is taken.
//!
//! 1. A line with the chunk's size in hexadecimal digits, perhaps an extension, CR LF.
//! 2. So many bytes, CR LF, and again 1.
//! 3. After the size 0: trailer lines, CR LF each, and an empty one.

/// Longest extension of one chunk, in bytes. No program in use sends any.
const MAX_EXTENSION: u16 = 256;
/// Longest trailer section, in bytes.
const MAX_TRAILERS: u16 = 8 * 1024;

/// What is still to come of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunked),
}

/// How far the chunks have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunked(State);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The digits so far.
    Size {
        size: u64,
        digits: u8,
    },
    Extension {
        size: u64,
        length: u16,
    },
    /// The LF behind a size.
    SizeEnd(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// Bytes of this line, and of all trailers.
    Trailer {
        line: u16,
        total: u16,
    },
    /// The LF behind a trailer; whether that was the empty one.
    TrailerLf {
        last: bool,
        total: u16,
    },
    End,
}

/// The application does not keep to the framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed chunks in the body of a request")]
pub struct BadChunks;

impl Body {
    /// A body in chunks, before its first byte.
    pub fn chunked() -> Body {
        Body::Chunked(Chunked(State::Size { size: 0, digits: 0 }))
    }

    /// How many of these bytes belong to the body. Fewer than all: it is complete.
    ///
    /// # Errors
    /// [`BadChunks`]: nobody can say where it ends.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, BadChunks> {
        match self {
            Body::Length(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                Ok(taken)
            }
            Body::Chunked(chunked) => chunked.take(bytes),
        }
    }

    /// Whether all of it was taken.
    pub fn is_complete(&self) -> bool {
        matches!(self, Body::Length(0) | Body::Chunked(Chunked(State::End)))
    }
}

impl Chunked {
    fn take(&mut self, bytes: &[u8]) -> Result<usize, BadChunks> {
        let mut at = 0;
        while at < bytes.len() && self.0 != State::End {
            if let State::Data(left) = self.0 {
                let taken = (bytes.len() - at).min(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - taken as u64;
                self.0 = if left == 0 { State::DataCr } else { State::Data(left) };
                at += taken;
            } else {
                self.0 = self.0.after(bytes[at]).ok_or(BadChunks)?;
                at += 1;
            }
        }
        Ok(at)
    }
}

impl State {
    /// The state after one byte that is no data; `None` if it does not belong there.
    fn after(self, byte: u8) -> Option<State> {
        match (self, byte) {
            (State::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                // One digit less than a u64 has room for.
                let digit = char::from(byte).to_digit(16)?;
                (digits < 15).then(|| State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 })
            }
            (State::Size { digits: 0, .. }, _) => None,
            (State::Size { size, .. } | State::Extension { size, .. }, b'\r') => Some(State::SizeEnd(size)),
            (State::Size { size, .. }, b';') => Some(State::Extension { size, length: 0 }),
            (State::Extension { size, length }, byte) => (length < MAX_EXTENSION && is_text(byte))
                .then_some(State::Extension { size, length: length + 1 }),
            (State::SizeEnd(0), b'\n') => Some(State::Trailer { line: 0, total: 0 }),
            (State::SizeEnd(size), b'\n') => Some(State::Data(size)),
            (State::DataCr, b'\r') => Some(State::DataLf),
            (State::DataLf, b'\n') => Some(State::Size { size: 0, digits: 0 }),
            (State::Trailer { line, total }, b'\r') => Some(State::TrailerLf { last: line == 0, total }),
            (State::Trailer { line, total }, byte) => (total < MAX_TRAILERS && is_text(byte))
                .then_some(State::Trailer { line: line + 1, total: total + 1 }),
            (State::TrailerLf { last: true, .. }, b'\n') => Some(State::End),
            (State::TrailerLf { last: false, total }, b'\n') => Some(State::Trailer { line: 0, total }),
            _ => None,
        }
    }
}

/// What a line may consist of (RFC 9110 §5.5): no control characters but the tab.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds the bytes in pieces of this size: how many were taken.
    fn feed(bytes: &[u8], size: usize) -> Result<(usize, bool), BadChunks> {
        let (mut body, mut taken) = (Body::chunked(), 0);
        for piece in bytes.chunks(size) {
            let count = body.take(piece)?;
            taken += count;
            if count < piece.len() {
                assert!(body.is_complete());
                break;
            }
        }
        Ok((taken, body.is_complete()))
    }

    #[track_caller]
    fn check(whole: &str) {
        let with_more = [whole.as_bytes(), b"GET /next"].concat();
        for size in [1, 3, with_more.len()] {
            assert_eq!(feed(&with_more, size), Ok((whole.len(), true)), "{whole:?} by {size}");
        }
        for end in 0..whole.len() {
            assert_eq!(feed(&whole.as_bytes()[..end], 2), Ok((end, false)), "{whole:?} up to {end}");
        }
    }

    #[test]
    fn a_body_ends_where_its_chunks_say() {
        check("0\r\n\r\n");
        check("5\r\nhello\r\n0\r\n\r\n");
        check("1A\r\nabcdefghijklmnopqrstuvwxyz\r\n003\r\n0\r\n\r\n0\r\n\r\n");
        check("2;name=\"value\"\r\nhi\r\n0\r\nDigest: x\r\nOther: y\r\n\r\n");
    }

    #[test]
    fn whoever_could_be_read_in_two_ways_is_refused() {
        for wrong in [
            "\r\n",
            ";x\r\n",
            "g\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\n",
            "1 \r\n",
            "1\n",
            "1\rx",
            "1\r\nab",
            "1\r\na\n",
            "0\r\nA\nB",
            "1;\0\r\n",
            "0\r\nA: \0",
            "1000000000000000\r\n",
            "fffffffffffffffff\r\n",
        ] {
            assert_eq!(feed(wrong.as_bytes(), 1), Err(BadChunks), "{wrong:?}");
        }
        assert_eq!(feed(format!("1;{}", "x".repeat(300)).as_bytes(), 7), Err(BadChunks));
        assert_eq!(feed(format!("0\r\n{}", "A: b\r\n".repeat(3_000)).as_bytes(), 7), Err(BadChunks));
    }

    #[test]
    fn a_length_is_counted_down() {
        let mut body = Body::Length(5);
        assert_eq!(body.take(b"abc"), Ok(3));
        assert!(!body.is_complete());
        assert_eq!(body.take(b"defg"), Ok(2));
        assert!(body.is_complete());
        assert_eq!(body.take(b"more"), Ok(0));
    }

    proptest! {
        #[test]
        fn any_bytes_and_pieces_lead_to_the_same_end(bytes: Vec<u8>, size in 1_usize..9) {
            prop_assert_eq!(feed(&bytes, size), feed(&bytes, bytes.len().max(1)));
        }
    }
}
