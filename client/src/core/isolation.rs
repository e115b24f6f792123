//! What keeps the streams of different purposes on different circuits.

use std::fmt;
use std::net::IpAddr;

use tunic_proto::message::Target;
use tunic_proto::resolve::Query;

/// Streams share a circuit only when their isolation is equal: an exit, or a site that watches two of them arrive from
/// one exit, shall not be able to link what the person keeps apart.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Isolation {
    /// Which listener the stream came through, or a number that the embedding program chose.
    pub listener: u16,
    /// What the application authenticated with, if it did.
    pub credentials: Option<Credentials>,
    /// Where the application connected from: whoever shares the port with others shares no circuit with them.
    pub address: Option<IpAddr>,
    /// The host that it connects to, where that separates too.
    pub destination: Option<String>,
    /// A number of its own for what shares with nothing else; 0 for the rest.
    pub alone: u64,
}

/// What separates streams beside listener, credentials and client address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IsolateBy {
    /// The host that they lead to.
    pub destination: bool,
}

impl Isolation {
    /// An isolation of its own for each name, for programs that embed the client.
    pub fn named(name: &str) -> Self {
        let credentials = Credentials { user: name.as_bytes().to_vec(), password: Vec::new() };
        Isolation { credentials: Some(credentials), ..Isolation::default() }
    }

    /// Those that are of one application, as far as can be told: they share what there is of circuits.
    pub fn application(&self) -> (u16, Option<&Credentials>, Option<IpAddr>) {
        (self.listener, self.credentials.as_ref(), self.address)
    }

    /// What separates two destinations: the host, whatever the port.
    pub fn host(target: &Target) -> String {
        match target {
            Target::Addr(address) => address.ip().to_string(),
            Target::Name(name, _) => name.to_ascii_lowercase(),
        }
    }

    /// The same for a lookup: it belongs to the connections to that host.
    pub fn looked_up(query: &Query) -> String {
        match query {
            Query::Name(name) => name.to_ascii_lowercase(),
            Query::Addr(ip) => ip.to_string(),
        }
    }
}

/// A user name and password of RFC 1929, 0–255 bytes each. They isolate streams; a password may also be required.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// `UNAME`.
    pub user: Vec<u8>,
    /// `PASSWD`.
    pub password: Vec<u8>,
}

/// Leaves out what tells who connects where.
impl fmt::Debug for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Isolation(listener {}, …)", self.listener)
    }
}

/// Says only that there are some: applications put secrets and site names there.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}
