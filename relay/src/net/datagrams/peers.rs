//! The addresses that an association has sent to: they were judged once, and only they may answer.

use std::collections::VecDeque;
use std::net::SocketAddr;

/// Addresses of an association that may answer; with one more, the oldest may not.
const MAX_PEERS: usize = 256;

/// The addresses, the latest last.
#[derive(Debug, Default)]
pub(super) struct Peers(VecDeque<SocketAddr>);

impl Peers {
    /// Whether something was sent there, and so it was allowed.
    pub(super) fn contains(&self, address: SocketAddr) -> bool {
        // Most datagrams go where the one before went.
        self.0.iter().rev().any(|known| *known == address)
    }

    /// Something was sent there.
    pub(super) fn sent_to(&mut self, address: SocketAddr) {
        if self.0.back() == Some(&address) {
            return;
        }
        self.0.retain(|known| *known != address);
        if self.0.len() == MAX_PEERS {
            self.0.pop_front();
        }
        self.0.push_back(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_too_many_is_forgotten() {
        let address = |port: usize| SocketAddr::from(([192, 0, 2, 1], port as u16));
        let mut peers = Peers::default();
        for port in 0..MAX_PEERS {
            peers.sent_to(address(port));
        }
        peers.sent_to(address(0));
        peers.sent_to(address(MAX_PEERS));
        assert!(peers.contains(address(0)) && peers.contains(address(MAX_PEERS)));
        assert!(!peers.contains(address(1)));
        assert_eq!(peers.0.len(), MAX_PEERS);
    }
}
