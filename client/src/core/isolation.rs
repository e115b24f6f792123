//! What keeps the streams of different purposes on different circuits.

use std::fmt;

/// Streams share a circuit only when their isolation is equal: an exit, or a site that watches two of them arrive from
/// one exit, shall not be able to link what the person keeps apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Isolation {
    /// Which listener the stream came through, or a number that the embedding program chose.
    pub listener: u16,
    /// What the application authenticated with, if it did.
    pub credentials: Option<Credentials>,
}

impl Isolation {
    /// An isolation of its own for each name, for programs that embed the client.
    pub fn named(name: &str) -> Self {
        let credentials = Credentials { user: name.as_bytes().to_vec(), password: Vec::new() };
        Isolation { listener: 0, credentials: Some(credentials) }
    }
}

/// A user name and password of RFC 1929, 0–255 bytes each. They isolate streams; a password may also be required.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Credentials {
    /// `UNAME`.
    pub user: Vec<u8>,
    /// `PASSWD`.
    pub password: Vec<u8>,
}

/// Says only that there are some: applications put secrets and site names there.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}
