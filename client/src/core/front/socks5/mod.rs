//! The server's side of SOCKS5 (RFC 1928, RFC 1929), bytes in, events out.
//!
//! 1. The client greets and offers methods; we choose *user name/password* (0x02) whenever it is offered, else *none*
//!    (0x00). A client that offers credentials, as curl and browsers do only when they were given some, wants its streams
//!    isolated by them; choosing *none* would silently drop that wish.
//! 2. With 0x02 it sends them; any are accepted, unless a password is required.
//! 3. It asks for `CONNECT`, `UDP ASSOCIATE`, or one of Tor's lookups; that is the event the caller waits for. Whatever it sent behind the request
//!    is [`Server::into_early_data`].
//! 4. The caller connects and sends [`reply()`] with a [`ReplyCode`].
//!
//! Everything else is refused with the answer that explains it best to whoever speaks.

mod reply;
pub mod udp;

use std::net::{Ipv4Addr, Ipv6Addr};

pub use reply::{ReplyCode, reply, reply_with, resolved};
use subtle::ConstantTimeEq as _;
use tunic_proto::message::Target;
use tunic_proto::resolve::Query;

use super::{Command, Decoded, Dialect, Event, FrontError, MAX_BUFFERED, Request, addr, keep, parse_host};
use crate::core::isolation::Credentials;

const VERSION: u8 = 5;
const AUTH_VERSION: u8 = 1;
const METHOD_NONE: u8 = 0x00;
const METHOD_PASSWORD: u8 = 0x02;
const METHOD_UNACCEPTABLE: u8 = 0xff;
const COMMAND_CONNECT: u8 = 1;
const COMMAND_ASSOCIATE: u8 = 3;
/// Tor's extensions (torspec, socks-extensions).
const COMMAND_RESOLVE: u8 = 0xf0;
const COMMAND_RESOLVE_PTR: u8 = 0xf1;
const TYPE_IPV4: u8 = 1;
const TYPE_NAME: u8 = 3;
const TYPE_IPV6: u8 = 4;

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
        keep(&mut self.buffer, bytes);
    }

    /// The next event; `None` when more input is needed, or after the last one.
    pub fn poll_event(&mut self) -> Option<Event> {
        let step = match self.state {
            State::Greeting | State::Auth | State::Request if self.buffer.len() > MAX_BUFFERED => {
                Err(FrontError::TooLong)
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

    fn poll_greeting(&mut self) -> Result<Option<Event>, FrontError> {
        let Some((method, length)) = decode_greeting(&self.buffer, self.required_password.is_some())? else {
            return Ok(None);
        };
        self.buffer.drain(..length);
        self.state = if method == METHOD_PASSWORD { State::Auth } else { State::Request };
        Ok(Some(Event::Send(vec![VERSION, method])))
    }

    fn poll_auth(&mut self) -> Result<Option<Event>, FrontError> {
        let Some((credentials, length)) = decode_auth(&self.buffer)? else {
            return Ok(None);
        };
        if let Some(required) = &self.required_password
            && !bool::from(required.ct_eq(&credentials.password))
        {
            return Err(FrontError::Password);
        }
        self.buffer.drain(..length);
        self.credentials = Some(credentials);
        self.state = State::Request;
        Ok(Some(Event::Send(vec![AUTH_VERSION, 0])))
    }

    fn poll_request(&mut self) -> Result<Option<Event>, FrontError> {
        let Some((command, length)) = decode_request(&self.buffer)? else {
            return Ok(None);
        };
        let bare_address = self.buffer.get(3) != Some(&TYPE_NAME);
        self.buffer.drain(..length);
        self.state = State::Connecting;
        Ok(Some(Event::Request(Request {
            command,
            credentials: self.credentials.take(),
            dialect: Dialect::Socks5,
            bare_address,
        })))
    }

    fn refuse(&mut self, error: FrontError) -> Event {
        let answer = match (self.state, error) {
            (_, FrontError::NoMethod) => vec![VERSION, METHOD_UNACCEPTABLE],
            (State::Auth, _) => vec![AUTH_VERSION, 1],
            (State::Request, error) => reply(error.into()),
            _ => Vec::new(),
        };
        self.state = State::Refused;
        self.buffer.clear();
        Event::Close { answer, error: Some(error) }
    }
}

/// RFC 1928 §3: `VER NMETHODS METHODS`.
fn decode_greeting(bytes: &[u8], password_required: bool) -> Decoded<u8> {
    match bytes.first() {
        None => return Ok(None),
        Some(&VERSION) => {}
        Some(_) => return Err(FrontError::Unknown),
    }
    let Some(&count) = bytes.get(1) else { return Ok(None) };
    if count == 0 {
        return Err(FrontError::NoMethod);
    }
    let length = 2 + usize::from(count);
    let Some(methods) = bytes.get(2..length) else { return Ok(None) };
    if methods.contains(&METHOD_PASSWORD) {
        return Ok(Some((METHOD_PASSWORD, length)));
    }
    if methods.contains(&METHOD_NONE) && !password_required {
        return Ok(Some((METHOD_NONE, length)));
    }
    Err(FrontError::NoMethod)
}

/// RFC 1929 §2: `VER ULEN UNAME PLEN PASSWD`. Empty ones are taken too, because some clients send them.
fn decode_auth(bytes: &[u8]) -> Decoded<Credentials> {
    if bytes.first().is_some_and(|version| *version != AUTH_VERSION) {
        return Err(FrontError::Auth);
    }
    let Some((user, user_end)) = counted(bytes, 1) else { return Ok(None) };
    let Some((password, end)) = counted(bytes, user_end) else { return Ok(None) };
    Ok(Some((Credentials { user: user.to_vec(), password: password.to_vec() }, end)))
}

/// RFC 1928 §4: `VER CMD RSV ATYP DST.ADDR DST.PORT`. Each byte is judged as soon as it is there.
fn decode_request(bytes: &[u8]) -> Decoded<Command> {
    let wrong = |at: usize, expect: u8| bytes.get(at).is_some_and(|byte| *byte != expect);
    if wrong(0, VERSION) {
        return Err(FrontError::Malformed);
    }
    let Some(&command) = bytes.get(1) else { return Ok(None) };
    if !matches!(command, COMMAND_CONNECT | COMMAND_ASSOCIATE | COMMAND_RESOLVE | COMMAND_RESOLVE_PTR) {
        return Err(FrontError::Command);
    }
    if wrong(2, 0) {
        return Err(FrontError::Malformed);
    }
    decode_target(bytes)
        .and_then(|decoded| decoded.map(|(target, end)| Ok((understood(command, target)?, end))).transpose())
}

/// `ATYP`, address and port, from the fourth byte on: the same in requests and datagrams. Where it ends.
fn decode_target(bytes: &[u8]) -> Decoded<Target> {
    match bytes.get(3) {
        None => Ok(None),
        Some(&TYPE_IPV4) => {
            Ok(decode_address::<4>(bytes).map(|(ip, port, end)| (addr(Ipv4Addr::from(ip), port), end)))
        }
        Some(&TYPE_IPV6) => {
            Ok(decode_address::<16>(bytes).map(|(ip, port, end)| (addr(Ipv6Addr::from(ip), port), end)))
        }
        Some(&TYPE_NAME) => decode_name(bytes),
        Some(_) => Err(FrontError::AddressType),
    }
}

fn understood(command: u8, target: Target) -> Result<Command, FrontError> {
    match (command, target) {
        (COMMAND_ASSOCIATE, target) => Ok(Command::Associate(target.port())),
        (COMMAND_RESOLVE, Target::Name(name, _)) => Ok(Command::Resolve(Query::Name(name))),
        (COMMAND_RESOLVE_PTR, Target::Addr(address)) => Ok(Command::Resolve(Query::Addr(address.ip()))),
        (COMMAND_RESOLVE | COMMAND_RESOLVE_PTR, _) => Err(FrontError::AddressType),
        (_, target) if target.port() == 0 => Err(FrontError::Name),
        (_, target) => Ok(Command::Connect(target)),
    }
}

fn decode_address<const N: usize>(bytes: &[u8]) -> Option<([u8; N], u16, usize)> {
    let ip = bytes.get(4..4 + N)?.try_into().ok()?;
    Some((ip, port_at(bytes, 4 + N)?, 6 + N))
}

fn decode_name(bytes: &[u8]) -> Decoded<Target> {
    if bytes.get(4) == Some(&0) {
        return Err(FrontError::Name);
    }
    let Some((name, end)) = counted(bytes, 4) else { return Ok(None) };
    let Some(port) = port_at(bytes, end) else { return Ok(None) };
    let target = parse_host(name, port).ok_or(FrontError::Name)?;
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

#[cfg(test)]
mod tests;
