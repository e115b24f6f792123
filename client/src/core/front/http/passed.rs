//! The answer of a target as the application gets it.
//!
//! One request travels on a connection. The target was told so, but need not say so in its answer; an application that does
//! not hear it would send its next request where nobody reads it.
//!
//! 1. Interim answers (1xx, RFC 9110 §15.2) are passed on.
//! 2. In the final one, `Connection: close` takes the place of what the target said about its connection to us.
//! 3. What comes behind that is passed on, and so is whatever is no answer of HTTP/1.

use httparse::{EMPTY_HEADER, Status};

use super::{MAX_HEADERS, end_of_head};
use crate::core::front::MAX_BUFFERED;

/// Headers between the target and us only (RFC 9110 §7.6.1).
const ITS_OWN: [&str; 4] = ["connection", "keep-alive", "proxy-connection", "upgrade"];

/// The answer, up to the end of the final head.
#[derive(Debug, Default)]
pub struct Passed {
    buffer: Vec<u8>,
    scanned: usize,
    done: bool,
}

impl Passed {
    /// Takes what the target sent, in pieces of any size; gives what the application gets now.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.buffer.extend_from_slice(bytes);
        let mut out = Vec::new();
        while !self.done {
            let from = self.scanned.saturating_sub(3);
            self.scanned = self.buffer.len();
            match end_of_head(&self.buffer[from..]).map(|end| from + end) {
                Some(end) if end <= MAX_BUFFERED => {
                    let head: Vec<u8> = self.buffer.drain(..end).collect();
                    self.scanned = 0;
                    self.done = !is_interim(&head);
                    out.extend(if self.done { closing(&head).unwrap_or(head) } else { head });
                }
                None if self.buffer.len() <= MAX_BUFFERED => return out,
                _ => self.done = true,
            }
        }
        out.append(&mut self.buffer);
        out
    }

    /// What is left when the target has no more to say.
    pub fn finish(&mut self) -> Vec<u8> {
        self.done = true;
        std::mem::take(&mut self.buffer)
    }

    /// Whether everything else can be passed on without looking at it.
    pub fn is_done(&self) -> bool {
        self.done
    }
}

fn is_interim(head: &[u8]) -> bool {
    // 101 is the last one of HTTP (RFC 9110 §15.2.2).
    matches!(head, [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', b'1', rest @ ..] if !rest.starts_with(b"01"))
}

/// The head with our own `Connection`; `None` if it is none of HTTP/1.
fn closing(head: &[u8]) -> Option<Vec<u8>> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    if !matches!(parsed.parse(head), Ok(Status::Complete(_))) {
        return None;
    }
    let status_line = head.iter().position(|byte| *byte == b'\n')?;
    let named = |name: &str| {
        let own = parsed.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("connection"));
        let options = own
            .filter_map(|header| std::str::from_utf8(header.value).ok())
            .flat_map(|value| value.split(','));
        options.map(str::trim).any(|option| option.eq_ignore_ascii_case(name))
    };
    let mut out = head[..=status_line].to_vec();
    for header in parsed.headers.iter() {
        if !ITS_OWN.iter().any(|own| header.name.eq_ignore_ascii_case(own)) && !named(header.name) {
            out.extend([header.name.as_bytes(), b": ", header.value, b"\r\n"].concat());
        }
    }
    out.extend_from_slice(b"Connection: close\r\n\r\n");
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Passes it on in pieces of this size.
    fn pass(answer: &[u8], size: usize) -> Vec<u8> {
        let (mut passed, mut out) = (Passed::default(), Vec::new());
        for piece in answer.chunks(size) {
            out.extend(passed.take(piece));
            assert!(passed.buffer.len() <= MAX_BUFFERED + size);
        }
        out.extend(passed.finish());
        assert!(passed.is_done());
        out
    }

    #[track_caller]
    fn check(answer: &str, expect: &str) {
        for size in [1, 3, 100_000] {
            assert_eq!(String::from_utf8_lossy(&pass(answer.as_bytes(), size)), expect, "by {size}");
        }
    }

    #[test]
    fn an_application_is_told_that_the_connection_closes() {
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        );
        check("HTTP/1.0 200\r\n\r\nbody", "HTTP/1.0 200\r\nConnection: close\r\n\r\nbody");
        check(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Its-Own\r\nKeep-Alive: timeout=5\r\nX-Its-Own: 1\r\nX-Ours: 2\r\n\r\n\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX-Ours: 2\r\nConnection: close\r\n\r\n\r\n\r\n",
        );
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Digest\r\nConnection: close\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Digest\r\nConnection: close\r\n\r\n0\r\n\r\n",
        );
    }

    #[test]
    fn interim_answers_are_passed_on() {
        check(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
        );
        check(
            "HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: close\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
        );
    }

    #[test]
    fn what_is_no_answer_is_passed_on_as_it_is() {
        for strange in
            ["", "H", "HTTP/1.1 200 OK\r\nNo end: ", "SSH-2.0-server\r\n", "echo\r\n\r\nX: y\r\n\r\n"]
        {
            check(strange, strange);
        }
        check(&"x".repeat(50_000), &"x".repeat(50_000));
        let long = format!("HTTP/1.1 200 OK\r\nSet-Cookie: {}\r\n\r\nbody", "c".repeat(MAX_BUFFERED));
        assert!(pass(long.as_bytes(), 1_000) == long.as_bytes());
    }

    proptest! {
        #[test]
        fn any_bytes_and_pieces_lead_to_the_same_end(bytes: Vec<u8>, size in 1_usize..9) {
            prop_assert_eq!(pass(&bytes, size), pass(&bytes, bytes.len().max(1)));
        }
    }
}
