//! Names and addresses looked up at the exit (docs/protocol.md §6.7): what is asked and what is answered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::message::Target;

/// Most records of an answer.
pub const MAX_RECORDS: usize = 16;
/// How long an answer may be used, at least and at most. Shorter ones would tell the exit how often a page is looked at;
/// longer ones would keep a wrong answer.
pub const MIN_TTL: Duration = Duration::from_secs(5 * 60);
/// See [`MIN_TTL`].
pub const MAX_TTL: Duration = Duration::from_secs(60 * 60);
/// Longest encoded answer in bytes.
pub const MAX_ANSWER_LEN: usize = 4 + MAX_RECORDS * 257;

/// What to look up.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Query {
    /// The addresses of a name.
    Name(String),
    /// The name of an address.
    Addr(IpAddr),
}

/// Says the kind only: destinations stay out of logs.
impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Query::Name(_) => "Query(name)",
            Query::Addr(_) => "Query(address)",
        })
    }
}

impl Query {
    /// The data of `RESOLVE`: as `BEGIN`'s, with port 0. `None` if the name cannot be a host's.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        match self {
            Query::Name(name) => Target::Name(name.clone(), 0),
            Query::Addr(ip) => Target::Addr((*ip, 0).into()),
        }
        .encode()
    }

    pub(crate) fn decode(data: &[u8]) -> Option<Query> {
        match Target::decode(data)? {
            Target::Name(name, 0) => Some(Query::Name(name)),
            Target::Addr(address) if address.port() == 0 => Some(Query::Addr(address.ip())),
            _ => None,
        }
    }
}

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An address of the name.
    Addr(IpAddr),
    /// The name of the address.
    Name(String),
}

/// What was found: at least one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How long it may be used, within [`MIN_TTL`] and [`MAX_TTL`].
    pub ttl: Duration,
    /// The records, [`MAX_RECORDS`] at most.
    pub records: Vec<Record>,
}

impl Answer {
    /// The bytes of the answer: `ttl` u32 seconds, then for each record `type` u8 (4, 6, or 3 for a name) and `[4]`, `[16]`, or
    /// `n` u8 and `[n]`.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = (self.ttl.as_secs() as u32).to_be_bytes().to_vec();
        for record in self.records.iter().take(MAX_RECORDS) {
            match record {
                Record::Addr(IpAddr::V4(ip)) => bytes.extend([&[4], &ip.octets()[..]].concat()),
                Record::Addr(IpAddr::V6(ip)) => bytes.extend([&[6], &ip.octets()[..]].concat()),
                Record::Name(name) => {
                    let name = &name.as_bytes()[..name.len().min(255)];
                    bytes.extend([&[3, name.len() as u8], name].concat());
                }
            }
        }
        bytes
    }

    /// Reads an answer. The lifetime is brought within the limits, whatever the exit says.
    pub fn decode(bytes: &[u8]) -> Option<Answer> {
        let (ttl, mut rest) = bytes.split_first_chunk()?;
        let ttl = Duration::from_secs(u32::from_be_bytes(*ttl).into()).clamp(MIN_TTL, MAX_TTL);
        let mut records = Vec::new();
        while !rest.is_empty() {
            let (record, behind) = decode_record(rest)?;
            records.push(record);
            rest = behind;
        }
        (1..=MAX_RECORDS).contains(&records.len()).then_some(Answer { ttl, records })
    }
}

fn decode_record(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let (kind, rest) = bytes.split_first()?;
    match kind {
        4 => rest.split_first_chunk::<4>().map(|(ip, rest)| (Record::Addr(Ipv4Addr::from(*ip).into()), rest)),
        6 => {
            rest.split_first_chunk::<16>().map(|(ip, rest)| (Record::Addr(Ipv6Addr::from(*ip).into()), rest))
        }
        3 => {
            let (length, rest) = rest.split_first()?;
            let (name, rest) = rest.split_at_checked(usize::from(*length))?;
            let legal = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            let sound = !name.is_empty() && name.iter().all(legal);
            sound.then(|| (Record::Name(String::from_utf8_lossy(name).into_owned()), rest))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(last: u8) -> Record {
        Record::Addr([192, 0, 2, last].into())
    }

    #[test]
    fn answers_read_back_with_lifetimes_within_limits() {
        let records =
            vec![v4(1), Record::Addr("2001:db8::1".parse().unwrap()), Record::Name("a.example".into())];
        for (told, kept) in [(0, 300), (300, 300), (1_000, 1_000), (86_400, 3_600)] {
            let answer = Answer { ttl: Duration::from_secs(told), records: records.clone() };
            let read = Answer::decode(&answer.encode()).unwrap();
            assert_eq!((read.ttl.as_secs(), &read.records), (kept, &records));
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let too_many = Answer { ttl: MIN_TTL, records: vec![v4(1); MAX_RECORDS + 1] };
        assert_eq!(Answer::decode(&too_many.encode()).unwrap().records.len(), MAX_RECORDS);
        let more = [&too_many.encode()[..], &[4, 1, 2, 3, 4]].concat();
        for bytes in
            [&[][..], &[0, 0, 1], &[0, 0, 1, 0], &[0, 0, 1, 0, 4, 1], &[0, 0, 1, 0, 3, 1, b' '], &more]
        {
            assert_eq!(Answer::decode(bytes), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(answer) = Answer::decode(&bytes) {
                prop_assert_eq!(Answer::decode(&answer.encode()), Some(answer));
            }
        }
    }
}
