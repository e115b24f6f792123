//! The server's side of SOCKS5 (RFC 1928, RFC 1929), bytes in, events out.
//!
//! 1. The client greets and offers methods; we choose *user name/password* (0x02) whenever it is offered, else *none*
//!    (0x00). A client that offers credentials, as curl and browsers do only when they were given some, wants its streams
//!    isolated by them; choosing *none* would silently drop that wish.
//! 2. With 0x02 it sends them; any are accepted, unless a password is required.
//! 3. It asks for `CONNECT`; that, with the target, is the event the caller waits for. Whatever it sent behind the request
//!    is [`Server::into_early_data`].
//! 4. The caller connects and sends [`reply()`] with a [`ReplyCode`].
//!
//! Everything else is refused with the answer that explains it best to whoever speaks.

mod reply;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use reply::{ReplyCode, reply};
use subtle::ConstantTimeEq as _;
use tunic_proto::message::Target;

use super::isolation::Credentials;

const VERSION: u8 = 5;
const AUTH_VERSION: u8 = 1;
const METHOD_NONE: u8 = 0x00;
const METHOD_PASSWORD: u8 = 0x02;
const METHOD_UNACCEPTABLE: u8 = 0xff;
const COMMAND_CONNECT: u8 = 1;

/// Most bytes that are kept undecoded: the longest message is RFC 1929's, 513 bytes, and one read may follow it.
pub const MAX_BUFFERED: usize = 16 * 1024;

/// What came of the bytes so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Send these bytes and go on.
    Send(Vec<u8>),
    /// Connect to the target, then answer with [`reply()`]. The last event.
    Connect(Request),
    /// Send the answer, which may be empty, and close. The last event.
    Refuse {
        /// What to send before closing.
        answer: Vec<u8>,
        /// Why.
        error: SocksError,
    },
}

/// A `CONNECT` request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Where to.
    pub target: Target,
    /// What the client authenticated with, if it did.
    pub credentials: Option<Credentials>,
}

/// Why a client was refused. The client, or whoever configured it, is to blame for all of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SocksError {
    /// It spoke HTTP.
    #[error("spoke HTTP to a SOCKS5 port")]
    Http,
    /// It spoke SOCKS4, which would look names up on this machine.
    #[error("spoke SOCKS4 to a SOCKS5 port")]
    Socks4,
    /// It spoke something else.
    #[error("is not SOCKS5")]
    NotSocks,
    /// It offered no authentication method that we have.
    #[error("offered no usable authentication method")]
    NoMethod,
    /// Its authentication message is malformed.
    #[error("malformed authentication")]
    Auth,
    /// The password is wrong.
    #[error("wrong password")]
    Password,
    /// Its request is malformed.
    #[error("malformed request")]
    Malformed,
    /// It asked for `BIND`, `UDP ASSOCIATE` or an extension.
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Auth,
    Request,
    Connecting,
    Refused,
}

/// One connection's handshake.
pub struct Server {
    state: State,
    buffer: Vec<u8>,
    credentials: Option<Credentials>,
    required_password: Option<Vec<u8>>,
}

/// A message decoded from the start of the buffer and its length; `None`: more bytes are needed.
type Decoded<T> = Result<Option<(T, usize)>, SocksError>;

impl Server {
    /// Waits for a greeting. With `required_password`, only clients that authenticate with it (and any user name) pass.
    pub fn new(required_password: Option<Vec<u8>>) -> Self {
        Server { state: State::Greeting, buffer: Vec::new(), credentials: None, required_password }
    }

    /// Takes what the client sent, in pieces of any size. Call [`Server::poll_event`] until it has none.
    pub fn handle_input(&mut self, bytes: &[u8]) {
        if self.state == State::Refused {
            return;
        }
        let room = (MAX_BUFFERED + 1).saturating_sub(self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// The next event; `None` when more input is needed, or after the last one.
    pub fn poll_event(&mut self) -> Option<Event> {
        let step = match self.state {
            State::Greeting | State::Auth | State::Request if self.buffer.len() > MAX_BUFFERED => {
                Err(SocksError::TooLong)
            }
            State::Greeting => self.poll_greeting(),
            State::Auth => self.poll_auth(),
            State::Request => self.poll_request(),
            State::Connecting | State::Refused => Ok(None),
        };
        step.unwrap_or_else(|error| Some(self.refuse(error)))
    }

    /// What the client sent behind its request.
    pub fn into_early_data(self) -> Vec<u8> {
        self.buffer
    }

    fn poll_greeting(&mut self) -> Result<Option<Event>, SocksError> {
        let Some((method, length)) = decode_greeting(&self.buffer, self.required_password.is_some())? else {
            return Ok(None);
        };
        self.buffer.drain(..length);
        self.state = if method == METHOD_PASSWORD { State::Auth } else { State::Request };
        Ok(Some(Event::Send(vec![VERSION, method])))
    }

    fn poll_auth(&mut self) -> Result<Option<Event>, SocksError> {
        let Some((credentials, length)) = decode_auth(&self.buffer)? else {
            return Ok(None);
        };
        if let Some(required) = &self.required_password
            && !bool::from(required.ct_eq(&credentials.password))
        {
            return Err(SocksError::Password);
        }
        self.buffer.drain(..length);
        self.credentials = Some(credentials);
        self.state = State::Request;
        Ok(Some(Event::Send(vec![AUTH_VERSION, 0])))
    }

    fn poll_request(&mut self) -> Result<Option<Event>, SocksError> {
        let Some((target, length)) = decode_request(&self.buffer)? else {
            return Ok(None);
        };
        self.buffer.drain(..length);
        self.state = State::Connecting;
        Ok(Some(Event::Connect(Request { target, credentials: self.credentials.take() })))
    }

    fn refuse(&mut self, error: SocksError) -> Event {
        let answer = match (self.state, error) {
            (_, SocksError::Http) => reply::HTTP_ANSWER.as_bytes().to_vec(),
            (_, SocksError::Socks4) => reply::SOCKS4_REJECTED.to_vec(),
            (_, SocksError::NoMethod) => vec![VERSION, METHOD_UNACCEPTABLE],
            (State::Auth, _) => vec![AUTH_VERSION, 1],
            (State::Request, error) => reply(error.into()),
            _ => Vec::new(),
        };
        self.state = State::Refused;
        self.buffer.clear();
        Event::Refuse { answer, error }
    }
}

/// RFC 1928 §3: `VER NMETHODS METHODS`.
fn decode_greeting(bytes: &[u8], password_required: bool) -> Decoded<u8> {
    match bytes.first() {
        None => return Ok(None),
        Some(&VERSION) => {}
        Some(4) => return Err(SocksError::Socks4),
        Some(b'A'..=b'Z') => return Err(SocksError::Http),
        Some(_) => return Err(SocksError::NotSocks),
    }
    let Some(&count) = bytes.get(1) else { return Ok(None) };
    if count == 0 {
        return Err(SocksError::NoMethod);
    }
    let length = 2 + usize::from(count);
    let Some(methods) = bytes.get(2..length) else { return Ok(None) };
    if methods.contains(&METHOD_PASSWORD) {
        return Ok(Some((METHOD_PASSWORD, length)));
    }
    if methods.contains(&METHOD_NONE) && !password_required {
        return Ok(Some((METHOD_NONE, length)));
    }
    Err(SocksError::NoMethod)
}

/// RFC 1929 §2: `VER ULEN UNAME PLEN PASSWD`. Empty ones are taken too, because some clients send them.
fn decode_auth(bytes: &[u8]) -> Decoded<Credentials> {
    if bytes.first().is_some_and(|version| *version != AUTH_VERSION) {
        return Err(SocksError::Auth);
    }
    let Some((user, user_end)) = counted(bytes, 1) else { return Ok(None) };
    let Some((password, end)) = counted(bytes, user_end) else { return Ok(None) };
    Ok(Some((Credentials { user: user.to_vec(), password: password.to_vec() }, end)))
}

/// RFC 1928 §4: `VER CMD RSV ATYP DST.ADDR DST.PORT`. Each byte is judged as soon as it is there.
fn decode_request(bytes: &[u8]) -> Decoded<Target> {
    let wrong = |at: usize, expect: u8| bytes.get(at).is_some_and(|byte| *byte != expect);
    if wrong(0, VERSION) {
        return Err(SocksError::Malformed);
    }
    if wrong(1, COMMAND_CONNECT) {
        return Err(SocksError::Command);
    }
    if wrong(2, 0) {
        return Err(SocksError::Malformed);
    }
    match bytes.get(3) {
        None => Ok(None),
        Some(1) => {
            Ok(decode_address::<4>(bytes).map(|(ip, port, end)| (addr(Ipv4Addr::from(ip), port), end)))
        }
        Some(4) => {
            Ok(decode_address::<16>(bytes).map(|(ip, port, end)| (addr(Ipv6Addr::from(ip), port), end)))
        }
        Some(3) => decode_name(bytes),
        Some(_) => Err(SocksError::AddressType),
    }
    .and_then(|decoded| match decoded {
        Some((target, _)) if target.port() == 0 => Err(SocksError::Name),
        decoded => Ok(decoded),
    })
}

fn addr(ip: impl Into<IpAddr>, port: u16) -> Target {
    Target::Addr(SocketAddr::new(ip.into(), port))
}

fn decode_address<const N: usize>(bytes: &[u8]) -> Option<([u8; N], u16, usize)> {
    let ip = bytes.get(4..4 + N)?.try_into().ok()?;
    Some((ip, port_at(bytes, 4 + N)?, 6 + N))
}

fn decode_name(bytes: &[u8]) -> Decoded<Target> {
    if bytes.get(4) == Some(&0) {
        return Err(SocksError::Name);
    }
    let Some((name, end)) = counted(bytes, 4) else { return Ok(None) };
    let Some(port) = port_at(bytes, end) else { return Ok(None) };
    let target = parse_host(name, port).ok_or(SocksError::Name)?;
    Ok(Some((target, end + 2)))
}

fn port_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The string whose length is the byte at `at`, and where it ends.
fn counted(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let end = at + 1 + usize::from(*bytes.get(at)?);
    Some((bytes.get(at + 1..end)?, end))
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

#[cfg(test)]
mod tests;
