//! What relays learned, from their own logs: with `TUNIC_LOG=info,tunic::path=debug` a relay writes who is before and who
//! after it, once for each circuit that it extends and each stream that leaves the network here. That is all that it
//! knows, so that is all that it can write.

use std::net::SocketAddr;

use tunic_proto::ids::RelayId;

/// The directives under which relays write what is read here.
pub const LOG: &str = "info,tunic::path=debug";

const TARGET: &str = "tunic::path: ";

/// A neighbour, as a relay knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Neighbour {
    /// A relay that proved this identity.
    Relay(RelayId),
    /// Somebody who proved nothing, at this address: a client.
    Client(SocketAddr),
    /// Where a stream leads to, `host:port`.
    Outside(String),
}

/// One circuit or stream as one relay saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// On the side of the client.
    pub before: Neighbour,
    /// On the other side.
    pub after: Neighbour,
}

/// Everything that this log tells of circuits and streams, oldest first. Other lines are skipped.
pub fn sightings(log: &str) -> Vec<Sighting> {
    log.lines().filter_map(sighting).collect()
}

fn sighting(line: &str) -> Option<Sighting> {
    let (_, said) = line.split_once(TARGET)?;
    let (before, after) = said.split_once("before=")?.1.split_once(" after=")?;
    Some(Sighting { before: neighbour(before)?, after: neighbour(after)? })
}

fn neighbour(text: &str) -> Option<Neighbour> {
    let text = text.trim_matches('"');
    match text.split_once(' ') {
        Some(("relay", id)) => Some(Neighbour::Relay(id.parse().ok()?)),
        Some(("client", address)) => Some(Neighbour::Client(address.parse().ok()?)),
        Some(_) => None,
        None => Some(Neighbour::Outside(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sightings_are_read_and_other_lines_are_not() {
        let id = RelayId([0xab; 32]);
        let log = format!(
            "2026-11-21T09:00:00Z  INFO tunic_relay: the relay is up\n\
             2026-11-21T09:00:01Z DEBUG tunic::path: circuit passes before=\"client 127.0.0.1:4000\" after=relay {id}\n\
             2026-11-21T09:00:02Z DEBUG tunic::path: stream leaves before=\"relay {id}\" after=\"127.0.0.1:80\"\n\
             2026-11-21T09:00:03Z DEBUG tunic::other: stream leaves before=\"relay {id}\" after=\"127.0.0.1:80\"\n\
             2026-11-21T09:00:04Z DEBUG tunic::path: stream leaves before=\"relay x\" after=\"127.0.0.1:80\"\n"
        );
        let client = Neighbour::Client("127.0.0.1:4000".parse().unwrap());
        let expect = [
            Sighting { before: client, after: Neighbour::Relay(id) },
            Sighting { before: Neighbour::Relay(id), after: Neighbour::Outside("127.0.0.1:80".to_owned()) },
        ];
        assert_eq!(sightings(&log), expect);
    }
}
