//! Requests and responses on a directory stream (docs/protocol.md §8).
//!
//! 1. The requester writes [`Request::encode`] and half-closes.
//! 2. The responder feeds what it reads to a [`RequestDecoder`] until the end of the stream.
//! 3. It writes the head and the body of its [`Response`] and half-closes; the requester decodes likewise.

use std::sync::Arc;

use super::{Digest, DirError, Kind, SignatureLine, ensure};
use crate::time::UnixTime;

/// Bytes of the longest request body: a vote.
pub const MAX_REQUEST_BODY: usize = Kind::Vote.max_len();
/// Bytes of the longest response body: a consensus.
pub const MAX_RESPONSE_BODY: usize = Kind::Consensus.max_len();
/// Bytes of a `POST_SIGNATURE` body at most: time, digest and a signature line.
const MAX_SIGNATURE_BODY: usize = 512;
/// Bytes of the text that goes with a refusal at most.
const MAX_REFUSAL_TEXT: usize = 256;
const HEAD_LEN: usize = 5;

const GET_CONSENSUS: u8 = 1;
const POST_DESCRIPTOR: u8 = 2;
const POST_VOTE: u8 = 3;
const POST_SIGNATURE: u8 = 4;
const GET_VOTE: u8 = 5;

const OK: u8 = 0;
const NOT_MODIFIED: u8 = 1;
const NOT_FOUND: u8 = 2;
const MALFORMED: u8 = 3;
const REFUSED: u8 = 4;
const BUSY: u8 = 5;

/// What somebody wants of a directory. Documents in it are not parsed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The consensus, unless this is the newest.
    GetConsensus {
        /// `valid_after` of the one that the requester has, 0 for none.
        have: UnixTime,
    },
    /// A signed descriptor.
    PostDescriptor(Vec<u8>),
    /// A signed vote.
    PostVote(Vec<u8>),
    /// An authority's signature over a consensus.
    PostSignature {
        /// The round.
        valid_after: UnixTime,
        /// What is signed: the digest of the consensus body.
        digest: Digest,
        /// The signature.
        line: Box<SignatureLine>,
    },
    /// The responder's own vote.
    GetVote {
        /// The round.
        valid_after: UnixTime,
    },
}

impl Request {
    /// The bytes on the stream.
    pub fn encode(&self) -> Vec<u8> {
        let (op, body) = match self {
            Request::GetConsensus { have } => (GET_CONSENSUS, have.0.to_be_bytes().to_vec()),
            Request::PostDescriptor(document) => (POST_DESCRIPTOR, document.clone()),
            Request::PostVote(document) => (POST_VOTE, document.clone()),
            Request::PostSignature { valid_after, digest, line } => (
                POST_SIGNATURE,
                [&valid_after.0.to_be_bytes()[..], digest, line.encode().as_bytes()].concat(),
            ),
            Request::GetVote { valid_after } => (GET_VOTE, valid_after.0.to_be_bytes().to_vec()),
        };
        [&head(op, body.len())[..], &body].concat()
    }

    fn max_body(op: u8) -> Option<usize> {
        match op {
            GET_CONSENSUS | GET_VOTE => Some(8),
            POST_DESCRIPTOR => Some(Kind::Descriptor.max_len()),
            POST_VOTE => Some(Kind::Vote.max_len()),
            POST_SIGNATURE => Some(MAX_SIGNATURE_BODY),
            _ => None,
        }
    }

    fn from_parts(op: u8, body: Vec<u8>) -> Result<Self, DirError> {
        match op {
            GET_CONSENSUS => Ok(Request::GetConsensus { have: only_time(&body)? }),
            POST_DESCRIPTOR => Ok(Request::PostDescriptor(body)),
            POST_VOTE => Ok(Request::PostVote(body)),
            POST_SIGNATURE => {
                let (time, rest) = body.split_first_chunk::<8>().ok_or(BAD_BODY)?;
                let (digest, line) = rest.split_first_chunk::<32>().ok_or(BAD_BODY)?;
                Ok(Request::PostSignature {
                    valid_after: UnixTime(u64::from_be_bytes(*time)),
                    digest: *digest,
                    line: Box::new(SignatureLine::parse(line)?),
                })
            }
            GET_VOTE => Ok(Request::GetVote { valid_after: only_time(&body)? }),
            _ => Err(BAD_CODE),
        }
    }
}

/// What a directory answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// Done; the document that was asked for, or nothing.
    Ok(Arc<[u8]>),
    /// The requester has the newest.
    NotModified,
    /// There is none.
    NotFound,
    /// The request or the document in it is not what docs/protocol.md says.
    Malformed,
    /// Untrusted, expired or rate-limited; a text says why.
    Refused(String),
    /// Ask again later.
    Busy,
}

impl Response {
    /// Done, nothing to tell.
    pub fn done() -> Self {
        Response::Ok(Arc::from([]))
    }

    /// The bytes on the stream before the body.
    pub fn head(&self) -> [u8; HEAD_LEN] {
        let status = match self {
            Response::Ok(_) => OK,
            Response::NotModified => NOT_MODIFIED,
            Response::NotFound => NOT_FOUND,
            Response::Malformed => MALFORMED,
            Response::Refused(_) => REFUSED,
            Response::Busy => BUSY,
        };
        head(status, self.body().len())
    }

    /// The bytes on the stream behind the head.
    pub fn body(&self) -> &[u8] {
        match self {
            Response::Ok(body) => body,
            Response::Refused(text) => shortened(text),
            Response::NotModified | Response::NotFound | Response::Malformed | Response::Busy => &[],
        }
    }

    fn max_body(status: u8) -> Option<usize> {
        match status {
            OK => Some(MAX_RESPONSE_BODY),
            REFUSED => Some(MAX_REFUSAL_TEXT),
            NOT_MODIFIED | NOT_FOUND | MALFORMED | BUSY => Some(0),
            _ => None,
        }
    }

    fn from_parts(status: u8, body: Vec<u8>) -> Result<Self, DirError> {
        match status {
            OK => Ok(Response::Ok(body.into())),
            NOT_MODIFIED => Ok(Response::NotModified),
            NOT_FOUND => Ok(Response::NotFound),
            MALFORMED => Ok(Response::Malformed),
            REFUSED => {
                let text = String::from_utf8(body).map_err(|_| BAD_BODY)?;
                ensure(!text.contains(char::is_control), "text of a refusal")?;
                Ok(Response::Refused(text))
            }
            BUSY => Ok(Response::Busy),
            _ => Err(BAD_CODE),
        }
    }
}

/// The text as far as it fits, ending between characters.
fn shortened(text: &str) -> &[u8] {
    let fits = |end: &usize| *end <= MAX_REFUSAL_TEXT;
    let ends = text.char_indices().map(|(at, character)| at + character.len_utf8());
    &text.as_bytes()[..ends.take_while(fits).last().unwrap_or(0)]
}

const BAD_BODY: DirError = DirError::Malformed("body of a request or response");
const BAD_CODE: DirError = DirError::Malformed("unknown request or status");

fn head(code: u8, len: usize) -> [u8; HEAD_LEN] {
    // No document of ours comes near 4 GiB; a longer one would be refused by its reader.
    let len = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    [code, len[0], len[1], len[2], len[3]]
}

fn only_time(body: &[u8]) -> Result<UnixTime, DirError> {
    body.try_into().map(|time| UnixTime(u64::from_be_bytes(time))).map_err(|_| BAD_BODY)
}

/// Collects a head and as many bytes as it announces, within the bound for its code.
#[derive(Debug, Default)]
struct FrameDecoder {
    head: Vec<u8>,
    body: Vec<u8>,
}

impl FrameDecoder {
    fn handle_bytes(&mut self, mut bytes: &[u8], max_body: fn(u8) -> Option<usize>) -> Result<(), DirError> {
        let missing = HEAD_LEN - self.head.len();
        let (head, rest) = bytes.split_at(missing.min(bytes.len()));
        self.head.extend_from_slice(head);
        bytes = rest;
        if let Some((code, len)) = self.announced() {
            if len > max_body(code).ok_or(BAD_CODE)? {
                return Err(DirError::TooLong);
            }
            ensure(self.body.len() + bytes.len() <= len, "bytes behind the end")?;
            self.body.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn announced(&self) -> Option<(u8, usize)> {
        let [code, len @ ..]: [u8; HEAD_LEN] = self.head.as_slice().try_into().ok()?;
        Some((code, u32::from_be_bytes(len) as usize))
    }

    fn finish(self) -> Result<(u8, Vec<u8>), DirError> {
        match self.announced() {
            Some((code, len)) if len == self.body.len() => Ok((code, self.body)),
            _ => Err(DirError::Malformed("ended early")),
        }
    }
}

/// Reads one request from the pieces in which it arrives. Holds at most what the kind of request allows.
#[derive(Debug, Default)]
pub struct RequestDecoder(FrameDecoder);

impl RequestDecoder {
    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// [`DirError::TooLong`] or [`DirError::Malformed`], as soon as it is clear; the decoder is of no more use then.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), DirError> {
        self.0.handle_bytes(bytes, Request::max_body)
    }

    /// Bytes of the body as its head announces them, once the head is complete.
    pub fn announced_len(&self) -> Option<usize> {
        self.0.announced().map(|(_, len)| len)
    }

    /// The request, when the stream has ended.
    ///
    /// # Errors
    /// [`DirError::Malformed`] if it is not complete or not well-formed.
    pub fn finish(self) -> Result<Request, DirError> {
        self.0.finish().and_then(|(op, body)| Request::from_parts(op, body))
    }
}

/// Reads one response from the pieces in which it arrives. Holds at most [`MAX_RESPONSE_BODY`] bytes.
#[derive(Debug, Default)]
pub struct ResponseDecoder(FrameDecoder);

impl ResponseDecoder {
    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// [`DirError::TooLong`] or [`DirError::Malformed`], as soon as it is clear; the decoder is of no more use then.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), DirError> {
        self.0.handle_bytes(bytes, Response::max_body)
    }

    /// The response, when the stream has ended.
    ///
    /// # Errors
    /// [`DirError::Malformed`] if it is not complete or not well-formed.
    pub fn finish(self) -> Result<Response, DirError> {
        self.0.finish().and_then(|(status, body)| Response::from_parts(status, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::testing::signer;
    use proptest::prelude::*;

    fn requests() -> Vec<Request> {
        vec![
            Request::GetConsensus { have: UnixTime(7) },
            Request::PostDescriptor(b"descriptor".to_vec()),
            Request::PostVote(vec![b'v'; 100_000]),
            Request::PostSignature {
                valid_after: UnixTime(8),
                digest: [9; 32],
                line: Box::new(SignatureLine::sign(Kind::Consensus, b"{}", &signer(1))),
            },
            Request::GetVote { valid_after: UnixTime(10) },
        ]
    }

    fn responses() -> Vec<Response> {
        vec![
            Response::Ok(b"document".as_slice().into()),
            Response::done(),
            Response::NotModified,
            Response::NotFound,
            Response::Malformed,
            Response::Refused("too often".into()),
            Response::Busy,
        ]
    }

    fn decode_request(bytes: &[u8], piece: usize) -> Result<Request, DirError> {
        let mut decoder = RequestDecoder::default();
        bytes.chunks(piece).try_for_each(|chunk| decoder.handle_bytes(chunk))?;
        decoder.finish()
    }

    fn decode_response(bytes: &[u8]) -> Result<Response, DirError> {
        let mut decoder = ResponseDecoder::default();
        bytes.chunks(3).try_for_each(|chunk| decoder.handle_bytes(chunk))?;
        decoder.finish()
    }

    #[test]
    fn requests_and_responses_survive_the_stream_in_any_pieces() {
        for request in requests() {
            for piece in [1, 4, 5, 6, 451, usize::MAX] {
                assert_eq!(decode_request(&request.encode(), piece).as_ref(), Ok(&request));
            }
        }
        for response in responses() {
            let bytes = [&response.head()[..], response.body()].concat();
            assert_eq!(decode_response(&bytes), Ok(response));
        }
    }

    #[test]
    fn what_is_cut_short_or_goes_on_is_refused() {
        for request in requests() {
            let bytes = request.encode();
            assert!(decode_request(&bytes[..bytes.len() - 1], 100).is_err());
            assert!(decode_request(&[&bytes[..], b"x"].concat(), 100).is_err());
        }
        assert!(decode_request(&[], 1).is_err());
    }

    #[test]
    fn a_body_that_is_too_long_is_refused_by_its_head_alone() {
        let result = |op, len| RequestDecoder::default().handle_bytes(&head(op, len));
        assert_eq!(result(GET_CONSENSUS, 9), Err(DirError::TooLong));
        assert_eq!(result(POST_DESCRIPTOR, 16 * 1024 + 1), Err(DirError::TooLong));
        assert_eq!(result(POST_VOTE, MAX_REQUEST_BODY + 1), Err(DirError::TooLong));
        assert_eq!(result(POST_VOTE, MAX_REQUEST_BODY), Ok(()));
        assert_eq!(result(99, 0), Err(BAD_CODE));
        let result = |status, len| ResponseDecoder::default().handle_bytes(&head(status, len));
        assert_eq!(result(OK, MAX_RESPONSE_BODY + 1), Err(DirError::TooLong));
        assert_eq!(result(BUSY, 1), Err(DirError::TooLong));
        assert_eq!(result(REFUSED, 257), Err(DirError::TooLong));
    }

    #[test]
    fn the_text_of_a_refusal_is_short_and_printable() {
        let long = Response::Refused("ä".repeat(200));
        assert_eq!(long.body().len(), 256);
        assert!(decode_response(&[&head(REFUSED, 2)[..], b"\x1b["].concat()).is_err());
        assert!(decode_response(&[&head(REFUSED, 2)[..], b"\xff\xff"].concat()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), op in 0u8..7) {
            let _ = decode_request(&bytes, 7);
            let _ = decode_response(&bytes);
            let framed = [&head(op, bytes.len())[..], &bytes].concat();
            let _ = decode_request(&framed, 100);
            let _ = decode_response(&framed);
        }
    }
}
