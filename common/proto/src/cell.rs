//! Cells and the messages that neighbours exchange in them (docs/protocol.md §2 and §3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::ids::CircId;
use crate::keys::{CERT_LEN, SIGNATURE_LEN, UncheckedCert};
use crate::time::UnixTime;

/// Length of a cell in bytes.
pub const CELL_LEN: usize = 512;
/// Bytes before the payload: `circ_id` u32, `command` u8.
pub const HEADER_LEN: usize = 5;
/// Length of a cell's payload in bytes.
pub const PAYLOAD_LEN: usize = CELL_LEN - HEADER_LEN;
/// Entries that fit into one `CREDIT` cell.
pub const CREDITS_PER_CELL: usize = 84;
/// Protocol versions that a `HELLO` may list.
const MAX_VERSIONS: usize = 16;
const MAGIC: &[u8; 5] = b"TUNIC";

/// The protocol version of this code.
pub const VERSION: u16 = 1;

/// One cell as bytes.
pub type Cell = [u8; CELL_LEN];

/// What a cell is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Command {
    /// Versions, first on every channel.
    Hello = 1,
    /// Who the sender is.
    Auth = 2,
    /// Clock and addresses.
    Netinfo = 3,
    /// Nothing.
    Padding = 4,
    /// More cells may be sent on these circuits.
    Credit = 5,
    /// Which padding the client wants on this channel.
    PaddingNegotiate = 6,
    /// Whether it gets it.
    PaddingNegotiated = 7,
    /// A third of a circuit handshake's request.
    Create = 16,
    /// A third of its reply.
    Created = 17,
    /// An onion layer.
    Relay = 18,
    /// The circuit has ended.
    Destroy = 19,
    /// An onion layer; its sender has no credit left and more to send.
    RelayBlocked = 20,
}

impl Command {
    /// All commands are below this.
    pub(crate) const COUNT: usize = 32;

    /// Every command.
    pub const ALL: [Command; 12] = [
        Command::Hello,
        Command::Auth,
        Command::Netinfo,
        Command::Padding,
        Command::Credit,
        Command::PaddingNegotiate,
        Command::PaddingNegotiated,
        Command::Create,
        Command::Created,
        Command::Relay,
        Command::Destroy,
        Command::RelayBlocked,
    ];

    fn from_byte(byte: u8) -> Option<Command> {
        const BY_BYTE: [Option<Command>; Command::COUNT] = {
            let mut commands = [None; Command::COUNT];
            let mut at = 0;
            while at < Command::ALL.len() {
                commands[Command::ALL[at] as usize] = Some(Command::ALL[at]);
                at += 1;
            }
            commands
        };
        BY_BYTE.get(usize::from(byte)).copied().flatten()
    }

    /// The command as it stands in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Command::Hello => "hello",
            Command::Auth => "auth",
            Command::Netinfo => "netinfo",
            Command::Padding => "padding",
            Command::Credit => "credit",
            Command::PaddingNegotiate => "padding_negotiate",
            Command::PaddingNegotiated => "padding_negotiated",
            Command::Create => "create",
            Command::Created => "created",
            Command::Relay => "relay",
            Command::Destroy => "destroy",
            Command::RelayBlocked => "relay_blocked",
        }
    }

    /// Whether cells of this kind belong to a circuit rather than to the channel.
    fn has_circuit(self) -> bool {
        matches!(
            self,
            Command::Create | Command::Created | Command::Relay | Command::Destroy | Command::RelayBlocked
        )
    }
}

/// A cell that is not one, or a message in it that is malformed. The channel ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CellError {
    /// A command that this version does not know.
    #[error("unknown command {0}")]
    UnknownCommand(u8),
    /// A circuit id where none belongs, or none where one does.
    #[error("circuit id does not fit the command")]
    BadCircuitId,
    /// The payload is not what its command says.
    #[error("malformed {0:?} cell")]
    Malformed(Command),
}

/// Reads circuit id and command and checks that they go together.
///
/// # Errors
/// [`CellError::UnknownCommand`] or [`CellError::BadCircuitId`].
pub fn parse_header(cell: &Cell) -> Result<(CircId, Command), CellError> {
    let circ = CircId(u32::from_be_bytes([cell[0], cell[1], cell[2], cell[3]]));
    let command = Command::from_byte(cell[4]).ok_or(CellError::UnknownCommand(cell[4]))?;
    if command.has_circuit() == (circ == CircId::CHANNEL) {
        return Err(CellError::BadCircuitId);
    }
    Ok((circ, command))
}

/// Writes circuit id and command.
pub fn write_header(cell: &mut Cell, circ: CircId, command: Command) {
    cell[..4].copy_from_slice(&circ.0.to_be_bytes());
    cell[4] = command as u8;
}

/// The payload of a cell.
pub fn payload(cell: &Cell) -> &[u8; PAYLOAD_LEN] {
    // A `Cell` is longer than its header by exactly PAYLOAD_LEN, so the chunk is always there.
    cell.last_chunk().unwrap_or(&[0; PAYLOAD_LEN])
}

/// A cell with this payload, zero-filled.
///
/// What does not fit into a payload is cut off; callers pass at most [`PAYLOAD_LEN`] bytes.
pub fn build(circ: CircId, command: Command, content: &[u8]) -> Cell {
    debug_assert!(content.len() <= PAYLOAD_LEN);
    let mut cell = [0; CELL_LEN];
    write_header(&mut cell, circ, command);
    for (to, from) in cell[HEADER_LEN..].iter_mut().zip(content) {
        *to = *from;
    }
    cell
}

/// Reads a payload from its start; what is left must be zero.
struct Reader<'a> {
    rest: &'a [u8],
    command: Command,
}

impl<'a> Reader<'a> {
    fn new(cell: &'a Cell, command: Command) -> Self {
        Reader { rest: payload(cell), command }
    }

    fn malformed(&self) -> CellError {
        CellError::Malformed(self.command)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], CellError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(self.malformed())?;
        self.rest = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, CellError> {
        self.bytes().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, CellError> {
        self.bytes().map(u16::from_be_bytes)
    }

    fn end(self) -> Result<(), CellError> {
        // Folded, not `all`: without an early exit it is a few vector instructions.
        match self.rest.iter().fold(0, |any, byte| any | byte) {
            0 => Ok(()),
            _ => Err(self.malformed()),
        }
    }
}

/// `HELLO`: the versions that a side speaks (docs/protocol.md §3.3).
pub fn hello() -> Cell {
    let mut content = MAGIC.to_vec();
    content.push(1);
    content.extend(VERSION.to_be_bytes());
    build(CircId::CHANNEL, Command::Hello, &content)
}

/// The versions in a `HELLO`.
///
/// # Errors
/// [`CellError::Malformed`] unless it starts with the magic and lists 1–16 versions.
pub fn parse_hello(cell: &Cell) -> Result<Vec<u16>, CellError> {
    let mut reader = Reader::new(cell, Command::Hello);
    let magic: [u8; 5] = reader.bytes()?;
    let count = usize::from(reader.u8()?);
    if &magic != MAGIC || !(1..=MAX_VERSIONS).contains(&count) {
        return Err(reader.malformed());
    }
    let versions = (0..count).map(|_| reader.u16()).collect::<Result<_, _>>()?;
    reader.end()?;
    Ok(versions)
}

/// `AUTH` as it came in (docs/protocol.md §3.4).
#[derive(Debug, Clone, Copy)]
#[expect(clippy::large_enum_variant, reason = "lives for one function call, once for each channel")]
pub enum Auth {
    /// The sender is a client.
    Client,
    /// The sender claims an identity.
    Relay {
        /// For the claimed identity; not checked.
        cert: UncheckedCert,
        /// Over role and exporter; not checked.
        signature: [u8; SIGNATURE_LEN],
    },
}

/// An `AUTH` cell that proves nothing.
pub fn auth_client() -> Cell {
    build(CircId::CHANNEL, Command::Auth, &[0])
}

/// An `AUTH` cell with a certificate and a proof.
pub fn auth_relay(cert: &[u8; CERT_LEN], signature: &[u8; SIGNATURE_LEN]) -> Cell {
    build(CircId::CHANNEL, Command::Auth, &[&[1], &cert[..], &signature[..]].concat())
}

/// Reads an `AUTH` cell.
///
/// # Errors
/// [`CellError::Malformed`].
pub fn parse_auth(cell: &Cell) -> Result<Auth, CellError> {
    let mut reader = Reader::new(cell, Command::Auth);
    let auth = match reader.u8()? {
        0 => Auth::Client,
        1 => {
            let cert: [u8; CERT_LEN] = reader.bytes()?;
            let signature = reader.bytes()?;
            let cert = UncheckedCert::from_bytes(&cert).map_err(|_| reader.malformed())?;
            Auth::Relay { cert, signature }
        }
        _ => return Err(reader.malformed()),
    };
    reader.end()?;
    Ok(auth)
}

/// `NETINFO` (docs/protocol.md §3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Netinfo {
    /// The sender's clock; `None` from a client.
    pub time: Option<UnixTime>,
    /// Where the sender sees the receiver.
    pub observed: Option<SocketAddr>,
}

impl Netinfo {
    /// The cell that says this.
    pub fn to_cell(self) -> Cell {
        let mut content = self.time.map_or(0, |time| time.0).to_be_bytes().to_vec();
        let (kind, mut address) = match self.observed.map(|addr| addr.ip()) {
            Some(IpAddr::V4(ip)) => (4, ip.octets().to_vec()),
            Some(IpAddr::V6(ip)) => (6, ip.octets().to_vec()),
            None => (0, vec![]),
        };
        address.resize(16, 0);
        content.push(kind);
        content.extend(address);
        content.extend(self.observed.map_or(0, |addr| addr.port()).to_be_bytes());
        build(CircId::CHANNEL, Command::Netinfo, &content)
    }

    /// Reads a `NETINFO` cell.
    ///
    /// # Errors
    /// [`CellError::Malformed`].
    pub fn parse(cell: &Cell) -> Result<Netinfo, CellError> {
        let mut reader = Reader::new(cell, Command::Netinfo);
        let time = u64::from_be_bytes(reader.bytes()?);
        let kind = reader.u8()?;
        let address: [u8; 16] = reader.bytes()?;
        let port = reader.u16()?;
        let ip = match kind {
            0 => None,
            4 => Some(IpAddr::V4(Ipv4Addr::new(address[0], address[1], address[2], address[3]))),
            6 => Some(IpAddr::V6(Ipv6Addr::from(address))),
            _ => return Err(reader.malformed()),
        };
        reader.end()?;
        Ok(Netinfo {
            time: (time != 0).then_some(UnixTime(time)),
            observed: ip.map(|ip| SocketAddr::new(ip, port)),
        })
    }
}

/// A `CREDIT` cell for at most [`CREDITS_PER_CELL`] circuits (docs/protocol.md §3.6).
pub fn credit(grants: &[(CircId, u16)]) -> Cell {
    debug_assert!((1..=CREDITS_PER_CELL).contains(&grants.len()));
    let mut content = vec![grants.len() as u8];
    for (circ, cells) in grants {
        content.extend(circ.0.to_be_bytes());
        content.extend(cells.to_be_bytes());
    }
    build(CircId::CHANNEL, Command::Credit, &content)
}

/// The grants in a `CREDIT` cell.
///
/// # Errors
/// [`CellError::Malformed`] for a bad count, a zero circuit id or a grant of nothing.
pub fn parse_credit(cell: &Cell) -> Result<Vec<(CircId, u16)>, CellError> {
    let mut reader = Reader::new(cell, Command::Credit);
    let count = usize::from(reader.u8()?);
    if !(1..=CREDITS_PER_CELL).contains(&count) {
        return Err(reader.malformed());
    }
    let mut grants = Vec::with_capacity(count);
    for _ in 0..count {
        let circ = CircId(u32::from_be_bytes(reader.bytes()?));
        let cells = reader.u16()?;
        if circ == CircId::CHANNEL || cells == 0 {
            return Err(reader.malformed());
        }
        grants.push((circ, cells));
    }
    reader.end()?;
    Ok(grants)
}

/// The reason in a `DESTROY` cell.
///
/// # Errors
/// [`CellError::Malformed`] for an unknown reason or further bytes.
pub fn parse_destroy(cell: &Cell) -> Result<crate::message::DestroyReason, CellError> {
    let mut reader = Reader::new(cell, Command::Destroy);
    let byte = reader.u8()?;
    let reason = crate::message::DestroyReason::from_byte(byte).ok_or(reader.malformed())?;
    reader.end()?;
    Ok(reason)
}

/// Whether a `PADDING` cell is empty, as it must be.
///
/// # Errors
/// [`CellError::Malformed`] if it is not.
pub fn parse_padding(cell: &Cell) -> Result<(), CellError> {
    Reader::new(cell, Command::Padding).end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_needs_a_known_command_and_a_fitting_circuit_id() {
        assert_eq!(parse_header(&hello()), Ok((CircId::CHANNEL, Command::Hello)));
        for byte in (0..=255).filter(|byte| Command::from_byte(*byte).is_none()) {
            let mut cell = hello();
            cell[4] = byte;
            assert_eq!(parse_header(&cell), Err(CellError::UnknownCommand(byte)));
        }
        let stray = build(CircId(1), Command::Credit, &[]);
        assert_eq!(parse_header(&stray), Err(CellError::BadCircuitId));
        let homeless = build(CircId::CHANNEL, Command::Relay, &[]);
        assert_eq!(parse_header(&homeless), Err(CellError::BadCircuitId));
    }

    #[test]
    fn channel_messages_read_back_as_they_were_written() {
        assert_eq!(parse_hello(&hello()), Ok(vec![VERSION]));
        for info in [
            Netinfo { time: None, observed: None },
            Netinfo { time: Some(UnixTime(7)), observed: Some(([192, 0, 2, 1], 9001).into()) },
            Netinfo { time: Some(UnixTime(7)), observed: "[2001:db8::1]:443".parse().ok() },
        ] {
            assert_eq!(Netinfo::parse(&info.to_cell()), Ok(info));
        }
        let grants: Vec<_> = (1..=84).map(|n| (CircId(n), n as u16)).collect();
        assert_eq!(parse_credit(&credit(&grants)), Ok(grants));
    }

    #[test]
    fn a_byte_behind_a_message_is_refused() {
        for mut cell in [hello(), auth_client(), credit(&[(CircId(1), 1)])] {
            let (_, command) = parse_header(&cell).unwrap();
            cell[CELL_LEN - 1] = 1;
            let error = match command {
                Command::Hello => parse_hello(&cell).err(),
                Command::Auth => parse_auth(&cell).err(),
                _ => parse_credit(&cell).err(),
            };
            assert_eq!(error, Some(CellError::Malformed(command)));
        }
    }
}
