//! What applications say to the client's port before bytes flow, told apart by the first byte.
//!
//! 1. 5 is SOCKS5 ([`socks5`]), 4 is SOCKS4 and 4a ([`socks4`]), a capital letter is HTTP ([`http`]): a proxy request, or a
//!    person who opened the port in a browser. Anything else is closed without a word.
//! 2. Each says what it wants: [`Request`], which ends the handshake, with what was sent behind it as early data.
//! 3. The caller does it and answers in the dialect in which it was asked: [`Dialect::opened`], [`Dialect::failed`].

pub mod http;
pub mod leaks;
pub mod quiet;
pub mod socks4;
pub mod socks5;

use std::net::{IpAddr, SocketAddr};

use tunic_proto::message::Target;
use tunic_proto::resolve::{Answer, Query};

use self::socks5::ReplyCode;
use super::isolation::Credentials;

/// Most bytes that are kept undecoded. The longest message is a request of HTTP.
pub const MAX_BUFFERED: usize = 16 * 1024;

/// What came of the bytes so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Send these bytes and go on.
    Send(Vec<u8>),
    /// Do it, then answer in its dialect. The last event.
    Request(Request),
    /// Send the answer, which may be empty, and close. The last event.
    Close {
        /// What to send before closing.
        answer: Vec<u8>,
        /// Why, unless that was the answer which was asked for.
        error: Option<FrontError>,
    },
}

/// What an application wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// What the application authenticated with, if it did.
    pub credentials: Option<Credentials>,
    /// How to answer.
    pub dialect: Dialect,
    /// The target came as a bare address: the application may have looked the name up itself, in the clear.
    pub bare_address: bool,
}

/// What to do for an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Connect there.
    Connect(Target),
    /// Look this up at an exit.
    Resolve(Query),
    /// Carry datagrams for the application, which sends them from this port if it is not 0.
    Associate(u16),
}

/// How an application speaks, and so how it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// RFC 1928.
    Socks5,
    /// SOCKS4 or 4a.
    Socks4,
    /// `CONNECT` of HTTP (RFC 9110 §9.3.6).
    HttpConnect,
    /// A request to be passed on to the target, which is among the early data.
    HttpForward {
        /// What the application has not sent yet of its body.
        body: http::Body,
    },
}

impl Dialect {
    /// The answer that the stream is open.
    pub fn opened(&self) -> Vec<u8> {
        match self {
            Dialect::Socks5 => socks5::reply(ReplyCode::Succeeded),
            Dialect::Socks4 => socks4::reply(true),
            Dialect::HttpConnect => b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec(),
            Dialect::HttpForward { .. } => Vec::new(),
        }
    }

    /// The answer to a lookup: the first record, since there is room for one. Nothing for dialects without lookups.
    pub fn resolved(&self, answer: &Answer) -> Vec<u8> {
        match self {
            Dialect::Socks5 => socks5::resolved(answer),
            Dialect::Socks4 => socks4::resolved(answer),
            Dialect::HttpConnect | Dialect::HttpForward { .. } => Vec::new(),
        }
    }

    /// The answer that it did not work; `why` is for the person, where there is room for it.
    pub fn failed(&self, code: ReplyCode, why: &str) -> Vec<u8> {
        match self {
            Dialect::Socks5 => socks5::reply(code),
            Dialect::Socks4 => socks4::reply(false),
            Dialect::HttpConnect | Dialect::HttpForward { .. } => http::failure(code, why),
        }
    }
}

/// Why an application was turned away. It, or whoever set it up, is to blame for all of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum FrontError {
    /// It spoke something else.
    #[error("speaks neither SOCKS nor HTTP")]
    Unknown,
    /// It offered no authentication method that we have.
    #[error("offered no usable authentication method")]
    NoMethod,
    /// Its authentication message is malformed.
    #[error("malformed authentication")]
    Auth,
    /// The password is missing or wrong.
    #[error("wrong password")]
    Password,
    /// Its request is malformed.
    #[error("malformed request")]
    Malformed,
    /// It asked for `BIND` or an extension that we do not have.
    #[error("command not supported")]
    Command,
    /// RFC 1928 has no such address type.
    #[error("address type not supported")]
    AddressType,
    /// The host name is empty or has characters that no host name has, or the port is zero.
    #[error("not a host name and port")]
    Name,
    /// More than [`MAX_BUFFERED`] bytes at once.
    #[error("sent too much before it was asked")]
    TooLong,
    /// A page of another site made a browser send this.
    #[error("was sent by a web page from elsewhere")]
    Foreign,
}

/// What the handshake depends on.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Only applications that authenticate with it (and any user name) pass.
    pub password: Option<Vec<u8>>,
    /// The address at which the application reached the port; `None` on a Unix socket.
    pub local: Option<SocketAddr>,
}

/// A message decoded from the start of the buffer and its length; `None`: more bytes are needed.
type Decoded<T> = Result<Option<(T, usize)>, FrontError>;

/// One connection's handshake.
pub struct Front {
    settings: Settings,
    dialect: Speaker,
}

enum Speaker {
    Unheard,
    Socks5(socks5::Server),
    Socks4(socks4::Server),
    Http(http::Server),
}

impl Front {
    /// Waits for the first byte.
    pub fn new(settings: Settings) -> Self {
        Front { settings, dialect: Speaker::Unheard }
    }

    /// Takes what the application sent, in pieces of any size. Call [`Front::poll_event`] until it has none.
    pub fn handle_input(&mut self, bytes: &[u8]) {
        if let (Speaker::Unheard, Some(first)) = (&self.dialect, bytes.first()) {
            let Settings { password, local } = self.settings.clone();
            self.dialect = match first {
                4 => Speaker::Socks4(socks4::Server::new(password.is_some())),
                b'A'..=b'Z' => Speaker::Http(http::Server::new(password, local)),
                // It refuses every other version.
                _ => Speaker::Socks5(socks5::Server::new(password)),
            };
        }
        match &mut self.dialect {
            Speaker::Socks5(server) => server.handle_input(bytes),
            Speaker::Socks4(server) => server.handle_input(bytes),
            Speaker::Http(server) => server.handle_input(bytes),
            Speaker::Unheard => {}
        }
    }

    /// The next event; `None` when more input is needed, or after the last one.
    pub fn poll_event(&mut self) -> Option<Event> {
        match &mut self.dialect {
            Speaker::Socks5(server) => server.poll_event(),
            Speaker::Socks4(server) => server.poll_event(),
            Speaker::Http(server) => server.poll_event(),
            Speaker::Unheard => None,
        }
    }

    /// What goes to the target first: what the application sent behind its request, and for [`Dialect::HttpForward`] the
    /// request itself before it.
    pub fn into_early_data(self) -> Vec<u8> {
        match self.dialect {
            Speaker::Socks5(server) => server.into_early_data(),
            Speaker::Socks4(server) => server.into_early_data(),
            Speaker::Http(server) => server.into_early_data(),
            Speaker::Unheard => Vec::new(),
        }
    }
}

fn addr(ip: impl Into<IpAddr>, port: u16) -> Target {
    Target::Addr(SocketAddr::new(ip.into(), port))
}

/// A host as applications write it: an address literal (IPv6 also in brackets) becomes an address, so that no exit is
/// asked to look it up; a name consists of letters, digits, `-`, `_` and `.` (other scripts arrive as Punycode).
fn parse_host(host: &[u8], port: u16) -> Option<Target> {
    let host = std::str::from_utf8(host).ok()?;
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Some(addr(ip, port));
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let has_label = host.bytes().any(|byte| byte != b'.');
    (has_label && host.len() <= 255 && host.bytes().all(legal)).then(|| Target::Name(host.to_owned(), port))
}

/// Keeps what arrives, one byte more than [`MAX_BUFFERED`] at most, so that too much is noticed.
fn keep(buffer: &mut Vec<u8>, bytes: &[u8]) {
    let room = (MAX_BUFFERED + 1).saturating_sub(buffer.len());
    buffer.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

#[cfg(test)]
mod tests;
