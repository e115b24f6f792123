//! What relay messages say (docs/protocol.md §6).
//!
//! Each direction has its own enum, so that a message which is not legal there cannot be read at all.

mod reason;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::ids::StreamId;
use crate::padding::{MachineSpec, Refusal};
use crate::resolve::Query;
pub use reason::{DestroyReason, EndReason};

/// Bytes before the data: message u8, stream u16, length u16.
pub const HEADER_LEN: usize = 5;
/// Longest host name in bytes.
pub const MAX_NAME_LEN: usize = 255;

/// Codes of the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// A quarter of an extension's request.
    Extend = 1,
    /// A quarter of its reply.
    Extended = 2,
    /// The extension failed.
    ExtendFailed = 3,
    /// Cover traffic.
    Drop = 4,
    /// Machines are wanted on the circuit.
    Pad = 5,
    /// Whether they are agreed on.
    Padded = 6,
    /// Cover traffic that shall be answered.
    Loop = 7,
    /// The answer.
    Looped = 8,
    /// A connection is wanted.
    Begin = 16,
    /// The directory is wanted.
    BeginDir = 17,
    /// The connection is there.
    Connected = 18,
    /// Bytes of the application.
    Data = 19,
    /// No more bytes from the sender.
    Eof = 20,
    /// The stream has ended.
    End = 21,
    /// More cells may be sent on the stream.
    Window = 22,
    /// Bytes of the application; the sender's window is used up and it has more.
    DataBlocked = 23,
    /// A name or an address shall be looked up.
    Resolve = 24,
    /// Datagrams shall be sent.
    BeginUdp = 25,
}

impl Code {
    fn from_byte(byte: u8) -> Option<Code> {
        use Code::*;
        [
            Extend,
            Extended,
            ExtendFailed,
            Drop,
            Pad,
            Padded,
            Loop,
            Looped,
            Begin,
            BeginDir,
            Connected,
            Data,
            Eof,
            End,
            Window,
            DataBlocked,
            Resolve,
            BeginUdp,
        ]
        .into_iter()
        .find(|code| *code as u8 == byte)
    }
}

/// A relay message that is malformed or not legal in its direction. The circuit ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not a message of this version and direction.
    #[error("unexpected relay message {0}")]
    Unexpected(u8),
    /// The bytes are not what the message says.
    #[error("malformed {0:?} message")]
    Malformed(Code),
}

/// What both ends of a stream say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamMessage<'a> {
    /// Bytes, and whether the sender is held up by its window.
    Data(&'a [u8], bool),
    /// No more bytes.
    Eof,
    /// The stream has ended.
    End(EndReason),
    /// More cells may be sent.
    Window(u32),
}

/// A message away from the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Forward<'a> {
    /// A fragment of a request.
    Extend(&'a [u8]),
    /// Cover traffic.
    Drop,
    /// Cover traffic that shall be answered.
    Loop,
    /// Machines are wanted, or something that is refused.
    Pad(Result<MachineSpec, Refusal>),
    /// A stream is wanted.
    Begin(StreamId, Begin),
    /// About a stream that exists.
    Stream(StreamId, StreamMessage<'a>),
}

/// A message towards the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Backward<'a> {
    /// A fragment of a reply.
    Extended(&'a [u8]),
    /// The extension failed; the circuit ends.
    ExtendFailed(DestroyReason),
    /// Cover traffic.
    Drop,
    /// An answer to cover traffic.
    Looped,
    /// Whether machines are agreed on.
    Padded(Result<(), Refusal>),
    /// The connection is there.
    Connected(StreamId, ConnectedAddr),
    /// About a stream that exists.
    Stream(StreamId, StreamMessage<'a>),
}

/// Writes a message over all of `inner`, zero-filled.
///
/// `data` must fit: callers pass at most `inner.len() - HEADER_LEN` bytes.
pub fn write(inner: &mut [u8], code: Code, stream: StreamId, data: &[u8]) {
    inner[0] = code as u8;
    inner[1..3].copy_from_slice(&stream.0.to_be_bytes());
    inner[3..5].copy_from_slice(&(data.len() as u16).to_be_bytes());
    inner[HEADER_LEN..HEADER_LEN + data.len()].copy_from_slice(data);
    inner[HEADER_LEN + data.len()..].fill(0);
}

/// Appends a message without the zeros behind it.
pub(crate) fn append(out: &mut Vec<u8>, code: Code, stream: StreamId, data: &[u8]) {
    out.push(code as u8);
    out.extend_from_slice(&stream.0.to_be_bytes());
    out.extend_from_slice(&(data.len() as u16).to_be_bytes());
    out.extend_from_slice(data);
}

struct Raw<'a> {
    code: Code,
    stream: StreamId,
    data: &'a [u8],
}

impl<'a> Raw<'a> {
    fn parse(inner: &'a [u8]) -> Result<Raw<'a>, MessageError> {
        let [byte, s0, s1, l0, l1, rest @ ..] = inner else { return Err(MessageError::Unexpected(0)) };
        let code = Code::from_byte(*byte).ok_or(MessageError::Unexpected(*byte))?;
        let stream = StreamId(u16::from_be_bytes([*s0, *s1]));
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        let (data, filler) = rest.split_at_checked(length).ok_or(MessageError::Malformed(code))?;
        let has_stream = code as u8 >= Code::Begin as u8;
        if has_stream != (stream.0 != 0) || filler.iter().any(|byte| *byte != 0) {
            return Err(MessageError::Malformed(code));
        }
        Ok(Raw { code, stream, data })
    }

    fn malformed<T>(&self) -> Result<T, MessageError> {
        Err(MessageError::Malformed(self.code))
    }

    fn empty<T>(&self, message: T) -> Result<T, MessageError> {
        if self.data.is_empty() { Ok(message) } else { self.malformed() }
    }

    fn stream_message(&self) -> Result<StreamMessage<'a>, MessageError> {
        match (self.code, self.data) {
            (Code::Data | Code::DataBlocked, [_, ..]) => {
                Ok(StreamMessage::Data(self.data, self.code == Code::DataBlocked))
            }
            (Code::Eof, []) => Ok(StreamMessage::Eof),
            (Code::End, [reason]) => match EndReason::from_byte(*reason) {
                Some(reason) => Ok(StreamMessage::End(reason)),
                None => self.malformed(),
            },
            (Code::Window, [a, b, c, d]) => match u32::from_be_bytes([*a, *b, *c, *d]) {
                0 => self.malformed(),
                cells => Ok(StreamMessage::Window(cells)),
            },
            (Code::Data | Code::DataBlocked | Code::Eof | Code::End | Code::Window, _) => self.malformed(),
            (code, _) => Err(MessageError::Unexpected(code as u8)),
        }
    }
}

impl<'a> Forward<'a> {
    /// Reads a message from all of a layer's `inner`.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn parse(inner: &'a [u8]) -> Result<Forward<'a>, MessageError> {
        let raw = Raw::parse(inner)?;
        match raw.code {
            Code::Extend => Ok(Forward::Extend(raw.data)),
            Code::Drop => raw.empty(Forward::Drop),
            Code::Loop => raw.empty(Forward::Loop),
            Code::Pad => match MachineSpec::decode(raw.data) {
                Some(spec) => Ok(Forward::Pad(spec)),
                None => raw.malformed(),
            },
            Code::Begin => match Target::decode(raw.data) {
                Some(target) => Ok(Forward::Begin(raw.stream, Begin::Connect(target))),
                None => raw.malformed(),
            },
            Code::BeginDir => raw.empty(Forward::Begin(raw.stream, Begin::Directory)),
            Code::Resolve => match Query::decode(raw.data) {
                Some(query) => Ok(Forward::Begin(raw.stream, Begin::Resolve(query))),
                None => raw.malformed(),
            },
            Code::BeginUdp => raw.empty(Forward::Begin(raw.stream, Begin::Datagrams)),
            _ => Ok(Forward::Stream(raw.stream, raw.stream_message()?)),
        }
    }
}

impl<'a> Backward<'a> {
    /// Reads a message from all of a layer's `inner`.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn parse(inner: &'a [u8]) -> Result<Backward<'a>, MessageError> {
        let raw = Raw::parse(inner)?;
        match (raw.code, raw.data) {
            (Code::Extended, data) => Ok(Backward::Extended(data)),
            (Code::ExtendFailed, [reason]) => match DestroyReason::from_byte(*reason) {
                Some(reason) => Ok(Backward::ExtendFailed(reason)),
                None => raw.malformed(),
            },
            (Code::ExtendFailed, _) => raw.malformed(),
            (Code::Drop, _) => raw.empty(Backward::Drop),
            (Code::Looped, _) => raw.empty(Backward::Looped),
            (Code::Padded, [0]) => Ok(Backward::Padded(Ok(()))),
            (Code::Padded, [code]) => match Refusal::from_byte(*code) {
                Some(refusal) => Ok(Backward::Padded(Err(refusal))),
                None => raw.malformed(),
            },
            (Code::Padded, _) => raw.malformed(),
            (Code::Connected, data) => match decode_connected(data) {
                Some(address) => Ok(Backward::Connected(raw.stream, address)),
                None => raw.malformed(),
            },
            _ => Ok(Backward::Stream(raw.stream, raw.stream_message()?)),
        }
    }
}

/// The data of `CONNECTED`.
pub fn encode_connected(address: ConnectedAddr) -> Vec<u8> {
    match address {
        None => vec![0],
        Some(IpAddr::V4(ip)) => [&[4], &ip.octets()[..]].concat(),
        Some(IpAddr::V6(ip)) => [&[6], &ip.octets()[..]].concat(),
    }
}

fn decode_connected(data: &[u8]) -> Option<ConnectedAddr> {
    match data {
        [0] => Some(None),
        [4, ip @ ..] => Some(Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?).into())),
        [6, ip @ ..] => Some(Some(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?).into())),
        _ => None,
    }
}

/// What a stream is begun for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// A TCP connection (`BEGIN`).
    Connect(Target),
    /// The directory of the last hop (`BEGIN_DIR`).
    Directory,
    /// A lookup, whose answer is what the stream carries (`RESOLVE`).
    Resolve(Query),
    /// Datagrams (`BEGIN_UDP`).
    Datagrams,
}

impl Begin {
    /// The message and its data; `None` if a name in it cannot be a host's.
    pub(crate) fn encode(&self) -> Option<(Code, Vec<u8>)> {
        Some(match self {
            Begin::Connect(target) => (Code::Begin, target.encode()?),
            Begin::Directory => (Code::BeginDir, Vec::new()),
            Begin::Resolve(query) => (Code::Resolve, query.encode()?),
            Begin::Datagrams => (Code::BeginUdp, Vec::new()),
        })
    }
}

impl From<Target> for Begin {
    fn from(target: Target) -> Self {
        Begin::Connect(target)
    }
}

/// Where a stream shall lead.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// An address and port.
    Addr(SocketAddr),
    /// A host name, 1–255 bytes of printable ASCII, and a port. The exit resolves it.
    Name(String, u16),
}

impl Target {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Target::Addr(addr) => addr.port(),
            Target::Name(_, port) => *port,
        }
    }

    /// The data of `BEGIN`; `None` if the name has no byte, too many, or one that is not printable ASCII.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut data = self.port().to_be_bytes().to_vec();
        match self {
            Target::Addr(SocketAddr::V4(addr)) => {
                data.push(4);
                data.extend(addr.ip().octets());
            }
            Target::Addr(SocketAddr::V6(addr)) => {
                data.push(6);
                data.extend(addr.ip().octets());
            }
            Target::Name(name, _) => {
                if !Self::is_name(name.as_bytes()) {
                    return None;
                }
                data.extend([3, name.len() as u8]);
                data.extend(name.as_bytes());
            }
        }
        Some(data)
    }

    pub(crate) fn decode(data: &[u8]) -> Option<Target> {
        let [p0, p1, kind, rest @ ..] = data else { return None };
        let port = u16::from_be_bytes([*p0, *p1]);
        match (kind, rest) {
            (4, ip) => Some(Target::Addr((<[u8; 4]>::try_from(ip).ok()?, port).into())),
            (6, ip) => Some(Target::Addr((<[u8; 16]>::try_from(ip).ok()?, port).into())),
            (3, [length, name @ ..]) if usize::from(*length) == name.len() && Self::is_name(name) => {
                Some(Target::Name(String::from_utf8(name.to_vec()).ok()?, port))
            }
            _ => None,
        }
    }

    /// Whether these bytes can be a host name: 1–255 bytes of printable ASCII without spaces.
    fn is_name(name: &[u8]) -> bool {
        (1..=MAX_NAME_LEN).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic)
    }
}

/// Says the kind of target only: destinations stay out of logs.
impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Addr(SocketAddr::V4(_)) => f.write_str("Target(IPv4)"),
            Target::Addr(SocketAddr::V6(_)) => f.write_str("Target(IPv6)"),
            Target::Name(..) => f.write_str("Target(name)"),
        }
    }
}

/// What `CONNECTED` tells: the address that the exit reached, if it is one.
pub type ConnectedAddr = Option<IpAddr>;

#[cfg(test)]
mod tests {
    use super::*;

    fn written(code: Code, stream: u16, data: &[u8]) -> Vec<u8> {
        let mut inner = vec![0xaa; 456];
        write(&mut inner, code, StreamId(stream), data);
        inner
    }

    #[test]
    fn targets_read_back_as_they_were_written() {
        for target in [
            Target::Addr("192.0.2.7:80".parse().unwrap()),
            Target::Addr("[2001:db8::7]:443".parse().unwrap()),
            Target::Name("example.com".into(), 443),
            Target::Name("x".repeat(255), 1),
        ] {
            let inner = written(Code::Begin, 9, &target.encode().unwrap());
            assert!(
                matches!(Forward::parse(&inner), Ok(Forward::Begin(StreamId(9), Begin::Connect(read))) if read == target)
            );
        }
        for bad in ["", "with space", "nul\0", &"x".repeat(256)] {
            assert_eq!(Target::Name(bad.into(), 1).encode(), None);
        }
    }

    #[test]
    fn a_message_in_the_wrong_direction_cannot_be_read() {
        let connected = written(Code::Connected, 1, &encode_connected(None));
        assert_eq!(Forward::parse(&connected), Err(MessageError::Unexpected(18)));
        assert_eq!(Backward::parse(&connected), Ok(Backward::Connected(StreamId(1), None)));
        let begin = written(Code::BeginDir, 1, &[]);
        assert_eq!(Backward::parse(&begin), Err(MessageError::Unexpected(17)));
    }

    #[test]
    fn lengths_streams_and_filler_are_checked() {
        let data = written(Code::Data, 1, b"hello");
        assert_eq!(
            Forward::parse(&data),
            Ok(Forward::Stream(StreamId(1), StreamMessage::Data(b"hello", false)))
        );
        let malformed = Err(MessageError::Malformed(Code::Data));
        let mut long = data.clone();
        long[3..5].copy_from_slice(&452_u16.to_be_bytes());
        assert_eq!(Forward::parse(&long), malformed);
        let mut tail = data.clone();
        tail[455] = 1;
        assert_eq!(Forward::parse(&tail), malformed);
        assert_eq!(Forward::parse(&written(Code::Data, 0, b"x")), malformed);
        assert_eq!(Forward::parse(&written(Code::Data, 1, b"")), malformed);
        assert_eq!(
            Forward::parse(&written(Code::Window, 1, &[0; 4])),
            Err(MessageError::Malformed(Code::Window))
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(inner in proptest::collection::vec(0_u8.., 0..500)) {
            let _ = Forward::parse(&inner);
            let _ = Backward::parse(&inner);
        }
    }
}
