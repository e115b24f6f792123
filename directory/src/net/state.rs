//! What a restart must not lose: the newest consensus, and the descriptors, which relays upload only now and then.

use std::path::Path;

use tracing::{info, warn};
use tunic_net::keyfile::{self, KeyFileError};
use tunic_proto::dir::{Kind, UncheckedDescriptor};

use super::service;
use crate::config::Config;
use crate::core::{Authority, MAX_DESCRIPTOR_BYTES};

/// What every stored descriptor begins with. No line within one does: a line feed inside a JSON string is an error.
const HEADER: &[u8] = b"tunic-descriptor ";

/// Brings back what was stored. It is checked like what was fetched or posted, so what is in the files is not trusted.
///
/// # Errors
/// If others can access a file, or the system refuses.
pub(super) fn restore(authority: &mut Authority, config: &Config) -> Result<(), KeyFileError> {
    if let Some(bytes) = keyfile::read_state(&config.consensus_file(), Kind::Consensus.max_len())?
        && let Err(error) = authority.handle_consensus(service::now(), &bytes)
    {
        info!("the stored consensus is of no more use: {error}");
    }
    let stored = keyfile::read_state(&config.descriptor_file(), MAX_DESCRIPTOR_BYTES)?.unwrap_or_default();
    let refused = split(&stored).into_iter().filter(|bytes| {
        let descriptor = UncheckedDescriptor::parse(bytes).map_err(Into::into);
        descriptor.and_then(|descriptor| authority.restore_descriptor(service::now(), descriptor)).is_err()
    });
    match refused.count() {
        0 => {}
        count => info!("{count} stored descriptors are of no more use"),
    }
    Ok(())
}

/// Takes stored descriptors apart.
fn split(stored: &[u8]) -> Vec<&[u8]> {
    let is_start = |at: &usize| stored[*at..].starts_with(HEADER) && (*at == 0 || stored[*at - 1] == b'\n');
    let starts: Vec<_> = (0..stored.len()).filter(is_start).collect();
    let ends = starts.iter().skip(1).copied().chain([stored.len()]);
    starts.iter().zip(ends).map(|(start, end)| &stored[*start..end]).collect()
}

/// Stores bytes in place of those before.
pub(super) fn store(path: &Path, bytes: &[u8]) {
    if let Err(error) = keyfile::write_private(path, bytes) {
        warn!("state cannot be stored: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_descriptors_are_taken_apart_at_their_headers() {
        assert!(split(b"").is_empty());
        assert!(split(b"rubbish").is_empty());
        let stored = b"rubbish\ntunic-descriptor 1 2\n{}\nx tunic-descriptor \ntunic-descriptor 1";
        let parts: [&[u8]; 2] = [b"tunic-descriptor 1 2\n{}\nx tunic-descriptor \n", b"tunic-descriptor 1"];
        assert_eq!(split(stored), parts);
    }
}
