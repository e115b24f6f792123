//! The server's side of SOCKS4 and 4a, bytes in, events out.
//!
//! One message: `VN` 4, `CD`, `DSTPORT`, `DSTIP`, `USERID` NUL, and for 4a (`DSTIP` 0.0.0.x, x ≠ 0) a host name, NUL. The
//! user id isolates streams, as credentials of SOCKS5 do. There are no passwords, so where one is required SOCKS4 is
//! refused. Source: Ying-Da Lee, "SOCKS: A protocol for TCP proxy across firewalls", and his "SOCKS 4A" extension.

use std::net::{IpAddr, Ipv4Addr};

use tunic_proto::message::Target;
use tunic_proto::resolve::{Answer, Query, Record};

use super::{Command, Decoded, Dialect, Event, FrontError, MAX_BUFFERED, Request, addr, keep, parse_host};
use crate::core::isolation::Credentials;

const VERSION: u8 = 4;
const COMMAND_CONNECT: u8 = 1;
/// Tor's extension.
const COMMAND_RESOLVE: u8 = 0xf0;
const GRANTED: u8 = 0x5a;
const REJECTED: u8 = 0x5b;
/// Longest user id and longest host name.
const MAX_TEXT: usize = 255;
const HEADER_LEN: usize = 8;

/// One connection's handshake.
pub struct Server {
    buffer: Vec<u8>,
    password_required: bool,
    done: bool,
}

impl Server {
    /// Waits for the request.
    pub fn new(password_required: bool) -> Self {
        Server { buffer: Vec::new(), password_required, done: false }
    }

    /// Takes what the client sent, in pieces of any size. Call [`Server::poll_event`] until it has none.
    pub fn handle_input(&mut self, bytes: &[u8]) {
        keep(&mut self.buffer, bytes);
    }

    /// The next event; `None` when more input is needed, or after the last one.
    pub fn poll_event(&mut self) -> Option<Event> {
        if self.done {
            return None;
        }
        let decoded = match self.password_required {
            true => Err(FrontError::Password),
            false => decode(&self.buffer),
        };
        let event = match decoded {
            Ok(None) => return None,
            Ok(Some((request, length))) => {
                self.buffer.drain(..length);
                Event::Request(request)
            }
            Err(error) => {
                self.buffer.clear();
                Event::Close { answer: reply(false), error: Some(error) }
            }
        };
        self.done = true;
        Some(event)
    }

    /// What the client sent behind its request.
    pub fn into_early_data(self) -> Vec<u8> {
        self.buffer
    }
}

/// The answer to a request. The address in it is not ours to tell.
pub fn reply(granted: bool) -> Vec<u8> {
    vec![0, if granted { GRANTED } else { REJECTED }, 0, 0, 0, 0, 0, 0]
}

/// The answer to a lookup, for which there is room in IPv4 only.
pub(super) fn resolved(answer: &Answer) -> Vec<u8> {
    let v4 = answer.records.iter().find_map(|record| match record {
        Record::Addr(IpAddr::V4(ip)) => Some(ip.octets()),
        _ => None,
    });
    v4.map_or_else(|| reply(false), |ip| [&[0, GRANTED, 0, 0], &ip[..]].concat())
}

fn decode(bytes: &[u8]) -> Decoded<Request> {
    if bytes.len() > MAX_BUFFERED {
        return Err(FrontError::TooLong);
    }
    if bytes.first().is_some_and(|version| *version != VERSION) {
        return Err(FrontError::Unknown);
    }
    if bytes.get(1).is_some_and(|command| !matches!(*command, COMMAND_CONNECT | COMMAND_RESOLVE)) {
        return Err(FrontError::Command);
    }
    let [_, command, p0, p1, a, b, c, d, ..] = *bytes else { return Ok(None) };
    let (port, ip) = (u16::from_be_bytes([p0, p1]), Ipv4Addr::new(a, b, c, d));
    let resolves = command == COMMAND_RESOLVE;
    if port == 0 && !resolves {
        return Err(FrontError::Name);
    }
    let Some((user, end)) = text(bytes, HEADER_LEN)? else { return Ok(None) };
    let named = matches!(ip.octets(), [0, 0, 0, last] if last != 0);
    let (target, end) = if named {
        let Some((name, end)) = text(bytes, end)? else { return Ok(None) };
        (parse_host(name, port).ok_or(FrontError::Name)?, end)
    } else {
        (addr(ip, port), end)
    };
    let credentials = (!user.is_empty()).then(|| Credentials { user: user.to_vec(), password: Vec::new() });
    let command = match (resolves, target) {
        (false, target) => Command::Connect(target),
        (true, Target::Name(name, _)) => Command::Resolve(Query::Name(name)),
        // There is nothing to look up.
        (true, Target::Addr(_)) => return Err(FrontError::Name),
    };
    Ok(Some((Request { command, credentials, dialect: Dialect::Socks4, bare_address: !named }, end)))
}

/// The string from `at` to a NUL, and what follows that.
fn text(bytes: &[u8], at: usize) -> Decoded<&[u8]> {
    let rest = bytes.get(at..).unwrap_or_default();
    match rest.iter().take(MAX_TEXT + 1).position(|byte| *byte == 0) {
        Some(length) => Ok(Some((&rest[..length], at + length + 1))),
        None if rest.len() > MAX_TEXT => Err(FrontError::TooLong),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(bytes: &[u8], size: usize) -> (Option<Event>, Vec<u8>) {
        let mut server = Server::new(false);
        let mut event = None;
        for piece in bytes.chunks(size) {
            server.handle_input(piece);
            event = event.or(server.poll_event());
        }
        (event, server.into_early_data())
    }

    #[track_caller]
    fn check(bytes: &[u8], target: Target, user: &str, bare_address: bool) {
        let credentials = (!user.is_empty()).then(|| Credentials { user: user.into(), password: Vec::new() });
        let command = Command::Connect(target);
        let request = Request { command, credentials, dialect: Dialect::Socks4, bare_address };
        let sent = [bytes, b"early"].concat();
        for size in [1, 3, sent.len()] {
            assert_eq!(feed(&sent, size), (Some(Event::Request(request.clone())), b"early".to_vec()));
        }
    }

    #[track_caller]
    fn check_refused(bytes: &[u8], error: FrontError) {
        let refused = Event::Close { answer: vec![0, 0x5b, 0, 0, 0, 0, 0, 0], error: Some(error) };
        assert_eq!(feed(bytes, 1).0, Some(refused));
    }

    #[test]
    fn addresses_and_names_are_understood() {
        check(
            b"\x04\x01\x00\x50\xc0\x00\x02\x01\0",
            "192.0.2.1:80".parse().map(Target::Addr).unwrap(),
            "",
            true,
        );
        let name = Target::Name("example.com".into(), 443);
        check(b"\x04\x01\x01\xbb\0\0\0\x01alice\0example.com\0", name, "alice", false);
        let literal = Target::Addr("192.0.2.1:443".parse().unwrap());
        check(b"\x04\x01\x01\xbb\0\0\0\x01\x00192.0.2.1\0", literal, "", false);
    }

    #[test]
    fn everything_else_is_rejected() {
        check_refused(b"\x04\x02", FrontError::Command);
        check_refused(b"\x04\x03", FrontError::Command);
        check_refused(b"\x04\x01\0\0\xc0\x00\x02\x01\0", FrontError::Name);
        check_refused(b"\x04\x01\0\x50\0\0\0\x01\0a b\0", FrontError::Name);
        check_refused(b"\x04\x01\0\x50\0\0\0\x01\0\0", FrontError::Name);
        check_refused(&[&b"\x04\x01\0\x50\0\0\0\x01"[..], &[b'u'; 256]].concat(), FrontError::TooLong);
        check_refused(&[&b"\x04\x01\0\x50\0\0\0\x01\0"[..], &[b'n'; 256]].concat(), FrontError::TooLong);
    }

    #[test]
    fn where_a_password_is_required_it_is_refused() {
        let mut server = Server::new(true);
        server.handle_input(&[4]);
        assert!(matches!(server.poll_event(), Some(Event::Close { error: Some(FrontError::Password), .. })));
        assert_eq!(server.poll_event(), None);
    }
}
