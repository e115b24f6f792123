//! What the client is told, and the code for every way to fail (RFC 1928 §6).

use std::net::{IpAddr, SocketAddr};

use tunic_proto::message::{DestroyReason, EndReason};
use tunic_proto::resolve::{Answer, Record};

use super::VERSION;
use crate::core::front::FrontError;

/// `REP` of RFC 1928 §6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReplyCode {
    /// The stream is open.
    Succeeded = 0,
    /// Anything that has no code of its own.
    GeneralFailure = 1,
    /// No exit may connect there.
    NotAllowed = 2,
    /// The exit has no route, or this machine does not reach the Tunic network.
    NetworkUnreachable = 3,
    /// The exit does not reach the host, or finds no such name.
    HostUnreachable = 4,
    /// The host refused.
    ConnectionRefused = 5,
    /// The RFC's "TTL expired": something did not answer in time.
    TimedOut = 6,
    /// `BIND` and what nobody knows.
    CommandNotSupported = 7,
    /// The address type is none of IPv4, IPv6 and name.
    AddressTypeNotSupported = 8,
}

impl From<EndReason> for ReplyCode {
    fn from(reason: EndReason) -> Self {
        match reason {
            EndReason::Policy => ReplyCode::NotAllowed,
            EndReason::NetworkUnreachable => ReplyCode::NetworkUnreachable,
            EndReason::NameNotFound | EndReason::HostUnreachable => ReplyCode::HostUnreachable,
            EndReason::ConnectionRefused | EndReason::Reset => ReplyCode::ConnectionRefused,
            EndReason::Timeout => ReplyCode::TimedOut,
            EndReason::Done | EndReason::Resources | EndReason::NotDirectory | EndReason::Internal => {
                ReplyCode::GeneralFailure
            }
        }
    }
}

/// The reason for which a circuit could not be built. That is never the target's doing, so no code says that it is.
impl From<DestroyReason> for ReplyCode {
    fn from(reason: DestroyReason) -> Self {
        match reason {
            DestroyReason::Timeout => ReplyCode::TimedOut,
            DestroyReason::ChannelLost | DestroyReason::ConnectFailed => ReplyCode::NetworkUnreachable,
            DestroyReason::None
            | DestroyReason::Protocol
            | DestroyReason::Internal
            | DestroyReason::Resources
            | DestroyReason::Finished
            | DestroyReason::Handshake
            | DestroyReason::UnknownRelay => ReplyCode::GeneralFailure,
        }
    }
}

impl From<FrontError> for ReplyCode {
    fn from(error: FrontError) -> Self {
        match error {
            FrontError::Command => ReplyCode::CommandNotSupported,
            FrontError::AddressType => ReplyCode::AddressTypeNotSupported,
            FrontError::Password | FrontError::Foreign => ReplyCode::NotAllowed,
            FrontError::Unknown
            | FrontError::NoMethod
            | FrontError::Auth
            | FrontError::Malformed
            | FrontError::Name
            | FrontError::TooLong => ReplyCode::GeneralFailure,
        }
    }
}

/// The answer that the association is open: where the application shall send its datagrams.
pub fn reply_with(bound: SocketAddr) -> Vec<u8> {
    let ip = encode_ip(bound.ip());
    [&[VERSION, 0, 0], &ip[..], &bound.port().to_be_bytes()].concat()
}

/// The answer to a lookup: its first record, IPv4 first.
pub fn resolved(answer: &Answer) -> Vec<u8> {
    let is_v4 = |record: &&Record| matches!(record, Record::Addr(ip) if ip.is_ipv4());
    let found = match answer.records.iter().find(is_v4).or(answer.records.first()) {
        Some(Record::Addr(ip)) => encode_ip(*ip),
        Some(Record::Name(name)) if name.len() <= 255 => [&[3, name.len() as u8], name.as_bytes()].concat(),
        _ => return reply(ReplyCode::GeneralFailure),
    };
    [&[VERSION, 0, 0], &found[..], &[0, 0]].concat()
}

/// `ATYP` and address (RFC 1928 §5).
pub(super) fn encode_ip(ip: IpAddr) -> Vec<u8> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => [&[1], &ip.octets()[..]].concat(),
        IpAddr::V6(ip) => [&[4], &ip.octets()[..]].concat(),
    }
}

/// The answer to a request. `BND.ADDR` and `BND.PORT` are always 0.0.0.0:0: the exit's socket is not ours to tell.
pub fn reply(code: ReplyCode) -> Vec<u8> {
    vec![VERSION, code as u8, 0, 1, 0, 0, 0, 0, 0, 0]
}
