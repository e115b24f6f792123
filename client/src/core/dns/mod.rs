//! As much of DNS as a stub resolver's server needs (RFC 1035 §4), bytes in, bytes out.
//!
//! 1. [`Question::parse`] reads a query; what cannot be one gets no answer or [`Code::FormatError`].
//! 2. [`Question::lookup`] says what to look up at an exit: A and AAAA ask for a name's addresses, PTR (RFC 1035 §3.5,
//!    RFC 3596 §2.5) for an address's name. Everything else is answered without asking anyone.
//! 3. [`Question::answer`] writes what was found, cut to what fits (the `TC` bit then sends the program to TCP). Over UDP
//!    512 bytes fit, or as many as the program says that it has room for ([`edns`]).

pub mod edns;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tunic_proto::resolve::{Answer, Query, Record};

use self::edns::Edns;

/// Longest message over UDP without EDNS, in bytes.
pub const MAX_UDP: usize = 512;
/// Longest query that is read: a name, and room for options.
pub const MAX_QUERY: usize = 1_232;

const HEADER_LEN: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_PTR: u16 = 12;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;
const FLAG_RESPONSE: u16 = 0x8000;
const FLAG_CUT: u16 = 0x0200;
const FLAG_RECURSION_WANTED: u16 = 0x0100;
const FLAG_RECURSION_AVAILABLE: u16 = 0x0080;
const OPCODE: u16 = 0x7800;

/// `RCODE` (RFC 1035 §4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Code {
    /// An answer, which may be empty.
    Ok = 0,
    /// The query makes no sense.
    FormatError = 1,
    /// No exit could be asked.
    Failure = 2,
    /// There is no such name.
    NoSuchName = 3,
    /// This is not implemented.
    NotImplemented = 4,
    /// The program speaks a version of EDNS that we do not (RFC 6891 §6.1.3).
    BadVersion = 16,
}

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Answers must fit in one datagram.
    Udp,
    /// Answers have room.
    Tcp,
}

/// A query with its one question.
#[derive(Clone, PartialEq, Eq)]
pub struct Question {
    id: u16,
    flags: u16,
    /// The question as it was sent: name, type, class.
    bytes: Vec<u8>,
    labels: Vec<String>,
    kind: u16,
    class: u16,
    edns: Option<Edns>,
}

impl Question {
    /// Reads a query.
    ///
    /// # Errors
    /// The answer to send, empty where there should be none (a response: answering it could make two servers talk to
    /// each other for ever).
    pub fn parse(message: &[u8]) -> Result<Question, Vec<u8>> {
        let Some(header) = message.first_chunk::<HEADER_LEN>() else { return Err(Vec::new()) };
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let (id, flags) = (word(0), word(2));
        if flags & FLAG_RESPONSE != 0 {
            return Err(Vec::new());
        }
        let flags = flags & (OPCODE | FLAG_RECURSION_WANTED);
        let refuse = |code| Err(write(id, flags, code, [0, 0], &[], None));
        if flags & OPCODE != 0 {
            return refuse(Code::NotImplemented);
        }
        if word(4) != 1 {
            return refuse(Code::FormatError);
        }
        let body = &message[HEADER_LEN..];
        let parsed = read_name(body).and_then(|(labels, end)| Some((labels, end, body.get(end..end + 4)?)));
        let Some((labels, end, [k0, k1, c0, c1])) = parsed else { return refuse(Code::FormatError) };
        let (kind, class) = (u16::from_be_bytes([*k0, *k1]), u16::from_be_bytes([*c0, *c1]));
        // Queries hold no records but additional ones.
        let (answers, additional) = (word(6) | word(8), &body[end + 4..]);
        let Some(edns) = Edns::find(additional, word(10)).ok().filter(|_| answers == 0) else {
            return refuse(Code::FormatError);
        };
        Ok(Question { id, flags, bytes: body[..end + 4].to_vec(), labels, kind, class, edns })
    }

    /// What to look up.
    ///
    /// # Errors
    /// The code to answer with where nothing is looked up.
    pub fn lookup(&self) -> Result<Query, Code> {
        if self.edns.is_some_and(|edns| edns.is_newer) {
            return Err(Code::BadVersion);
        }
        if self.class != CLASS_IN {
            return Err(Code::NotImplemented);
        }
        match self.kind {
            TYPE_A | TYPE_AAAA if self.labels.is_empty() => Err(Code::Ok),
            TYPE_A | TYPE_AAAA => Ok(Query::Name(self.labels.join("."))),
            TYPE_PTR => self.reverse().map(Query::Addr).ok_or(Code::NoSuchName),
            _ => Err(Code::NotImplemented),
        }
    }

    /// Without records.
    pub fn empty(&self, code: Code) -> Vec<u8> {
        write(self.id, self.flags, code, [1, 0], &self.bytes, self.edns)
    }

    /// The records of the type that was asked for, as many as fit.
    pub fn answer(&self, answer: &Answer, transport: Transport) -> Vec<u8> {
        let limit = match transport {
            Transport::Udp => self.edns.map_or(MAX_UDP, Edns::max_udp),
            Transport::Tcp => usize::from(u16::MAX),
        };
        let fixed = HEADER_LEN + self.edns.map_or(0, |_| Edns::answer(0).len());
        let (mut body, mut count, mut flags) = (self.bytes.clone(), 0, self.flags);
        for record in &answer.records {
            let Some(data) = self.data(record) else { continue };
            // The name is a pointer to the question's (RFC 1035 §4.1.4).
            let mut bytes = vec![0xc0, HEADER_LEN as u8];
            bytes.extend(self.kind.to_be_bytes());
            bytes.extend(CLASS_IN.to_be_bytes());
            bytes.extend((answer.ttl.as_secs() as u32).to_be_bytes());
            bytes.extend((data.len() as u16).to_be_bytes());
            bytes.extend(data);
            if fixed + body.len() + bytes.len() > limit {
                flags |= FLAG_CUT;
                break;
            }
            body.extend(bytes);
            count += 1;
        }
        write(self.id, flags, Code::Ok, [1, count], &body, self.edns)
    }

    fn data(&self, record: &Record) -> Option<Vec<u8>> {
        match (self.kind, record) {
            (TYPE_A, Record::Addr(IpAddr::V4(ip))) => Some(ip.octets().to_vec()),
            (TYPE_AAAA, Record::Addr(IpAddr::V6(ip))) => Some(ip.octets().to_vec()),
            (TYPE_PTR, Record::Name(name)) => write_name(name),
            _ => None,
        }
    }

    /// The address that a name under `in-addr.arpa` or `ip6.arpa` stands for.
    fn reverse(&self) -> Option<IpAddr> {
        let lower: Vec<String> = self.labels.iter().map(|label| label.to_ascii_lowercase()).collect();
        match &lower[..] {
            [digits @ .., zone, arpa] if zone == "in-addr" && arpa == "arpa" && digits.len() == 4 => {
                let text: Vec<&str> = digits.iter().rev().map(String::as_str).collect();
                text.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4)
            }
            [digits @ .., zone, arpa] if zone == "ip6" && arpa == "arpa" && digits.len() == 32 => {
                let bits = digits.iter().rev().try_fold(0_u128, |bits, digit| {
                    let nibble = u128::from_str_radix(digit, 16).ok().filter(|_| digit.len() == 1)?;
                    Some(bits << 4 | nibble)
                });
                bits.map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
            }
            _ => None,
        }
    }
}

/// Whole messages: header, question and records, so many of each.
fn write(id: u16, flags: u16, code: Code, counts: [u16; 2], body: &[u8], edns: Option<Edns>) -> Vec<u8> {
    let code = code as u16;
    // The upper bits are EDNS's (RFC 6891 §6.1.3).
    let (upper, lower) = (code >> 4, code & 15);
    let flags = FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | flags | lower;
    let header = [id, flags, counts[0], counts[1], 0, edns.map_or(0, |_| 1)].map(u16::to_be_bytes);
    let extension = edns.map_or(Vec::new(), |_| Edns::answer(upper as u8));
    [header.as_flattened(), body, &extension].concat()
}

/// The labels of a name without compression, which queries do not need, and where it ends. Only what host names consist of.
fn read_name(bytes: &[u8]) -> Option<(Vec<String>, usize)> {
    let (mut labels, mut at) = (Vec::new(), 0);
    loop {
        let length = usize::from(*bytes.get(at)?);
        if length == 0 {
            return Some((labels, at + 1));
        }
        let label = bytes.get(at + 1..at + 1 + length)?;
        let legal = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        at += 1 + length;
        // RFC 1035 §2.3.4; a longer "length" is a pointer.
        if length > 63 || at > 254 || !label.iter().all(legal) {
            return None;
        }
        labels.push(String::from_utf8_lossy(label).into_owned());
    }
}

fn write_name(name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for label in name.trim_end_matches('.').split('.') {
        if !(1..=63).contains(&label.len()) {
            return None;
        }
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    (bytes.len() <= 255).then_some(bytes)
}

#[cfg(test)]
mod tests;
