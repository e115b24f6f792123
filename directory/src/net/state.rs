//! The newest consensus on disk, so that a restart does not begin with none.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use tracing::warn;
use tunic_net::keyfile;
use tunic_proto::dir::Kind;

/// Reads the stored consensus. It is checked like one that was fetched, so what is in the file is not trusted.
pub(super) fn load(path: &Path) -> Option<Vec<u8>> {
    match read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            warn!("the stored consensus cannot be read: {error}");
            None
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let limit = Kind::Consensus.max_len() as u64;
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Stores a consensus in place of the one before.
pub(super) fn store(path: &Path, bytes: &[u8]) {
    if let Err(error) = keyfile::write_private(path, bytes) {
        warn!("the consensus cannot be stored: {error}");
    }
}
