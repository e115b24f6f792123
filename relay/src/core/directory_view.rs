//! What a relay knows of the network: the consensus, and the one before it.
//!
//! 1. A consensus comes in and is checked; one that is older than the current one is refused (docs/protocol.md §9.5).
//! 2. The view answers where the relay of an EXTEND listens (§6.2): only relays that a valid consensus lists, so that
//!    nobody can make this relay connect anywhere else.
//! 3. The mirror serves the current one, byte for byte.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use tunic_proto::dir::{
    Accepted, AuthoritySet, ConsensusStore, DirError, Request, Response, SignedConsensus,
};
use tunic_proto::ids::RelayId;
use tunic_proto::special;
use tunic_proto::time::UnixTime;

/// The relay's view of the network.
#[derive(Debug, Clone)]
pub struct DirectoryView {
    own: RelayId,
    allow_private: bool,
    store: ConsensusStore,
    previous: Option<Arc<SignedConsensus>>,
    /// Where relays of both consensuses listen.
    listeners: HashSet<SocketAddr>,
}

impl DirectoryView {
    /// Knows nothing yet. `allow_private`: circuits may be extended to private addresses.
    pub fn new(own: RelayId, authorities: AuthoritySet, allow_private: bool) -> Self {
        let store = ConsensusStore::new(authorities);
        DirectoryView { own, allow_private, store, previous: None, listeners: HashSet::new() }
    }

    /// Checks a consensus, and takes it if it is newer than the current one.
    ///
    /// # Errors
    /// As [`ConsensusStore::accept`]; then nothing has changed.
    pub fn handle_consensus(&mut self, bytes: &[u8], now: UnixTime) -> Result<Accepted, DirError> {
        let before = self.store.current(now).cloned();
        let accepted = self.store.accept(bytes, now)?;
        if accepted == Accepted::Replaced {
            self.previous = before;
            let known = self.known(now).flat_map(|consensus| &consensus.relays);
            self.listeners = known.flat_map(|relay| &relay.addresses).copied().map(canonical).collect();
        }
        Ok(accepted)
    }

    /// The consensus to use now, if there is one whose time is not over.
    pub fn current(&self, now: UnixTime) -> Option<&Arc<SignedConsensus>> {
        self.store.current(now)
    }

    /// Whether the current consensus lists this relay itself.
    pub fn lists_own(&self, now: UnixTime) -> bool {
        self.current(now).is_some_and(|consensus| consensus.relay(&self.own).is_some())
    }

    /// Where to extend a circuit to: the addresses of a relay that the current or the previous consensus lists while it
    /// is valid. Never this relay itself, and without `allow_private` never a private address.
    pub fn lookup(&self, id: RelayId, now: UnixTime) -> Option<Vec<SocketAddr>> {
        if id == self.own {
            return None;
        }
        let relay = self.known(now).find_map(|consensus| consensus.relay(&id))?;
        let may_extend_to = |addr: &&SocketAddr| self.allow_private || special::is_public(addr.ip());
        let usable: Vec<_> = relay.addresses.iter().filter(may_extend_to).copied().collect();
        Some(usable).filter(|addresses| !addresses.is_empty())
    }

    /// Whether a relay listens at this address. An exit that connected there would make paths of any length.
    pub fn is_listener(&self, addr: SocketAddr) -> bool {
        self.listeners.contains(&canonical(addr))
    }

    /// What a mirror answers (docs/protocol.md §8): the consensus; everything else is for authorities.
    pub fn answer(&self, request: &Request, now: UnixTime) -> Response {
        match (request, self.current(now)) {
            (Request::GetConsensus { .. }, None) => Response::NotFound,
            (Request::GetConsensus { have }, Some(current)) if *have >= current.valid_after => {
                Response::NotModified
            }
            (Request::GetConsensus { .. }, Some(current)) => Response::Ok(Arc::clone(current.bytes())),
            _ => Response::Refused("this relay is no authority".to_owned()),
        }
    }

    fn known(&self, now: UnixTime) -> impl Iterator<Item = &SignedConsensus> {
        let previous = self.previous.as_ref().filter(move |consensus| now <= consensus.valid_until);
        self.current(now).into_iter().chain(previous).map(Arc::as_ref)
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;
    use tunic_proto::dir::{Consensus, ConsensusBody, ExitPolicy, RelayEntry};
    use tunic_proto::keys::{IdentityKey, OnionKey, Signer};

    const OWN: RelayId = RelayId([9; 32]);
    const NOW: UnixTime = UnixTime(1_000);

    fn authority() -> Signer {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        IdentityKey::generate(&mut rng).certify(UnixTime(1_000_000), &mut rng)
    }

    fn relay(id: u8, addr: &str) -> RelayEntry {
        RelayEntry {
            nickname: "relay".into(),
            identity: RelayId([id; 32]),
            addresses: vec![addr.parse().unwrap()],
            onion_key: OnionKey([id; 32]),
            exit: ExitPolicy::reject_all(),
            family: vec![],
            bandwidth: 1,
            flags: vec![],
            version: "tunic".into(),
            protocols: vec![1],
        }
    }

    fn consensus(valid_after: u64, relays: &[(u8, &str)]) -> Vec<u8> {
        let consensus = Consensus {
            valid_after: UnixTime(valid_after),
            fresh_until: UnixTime(valid_after + 100),
            valid_until: UnixTime(valid_after + 300),
            params: Default::default(),
            relays: relays.iter().map(|&(id, addr)| relay(id, addr)).collect(),
        };
        let body = ConsensusBody::new(consensus).unwrap();
        body.assemble(&[body.sign(&authority())]).unwrap()
    }

    fn empty(allow_private: bool) -> DirectoryView {
        DirectoryView::new(OWN, AuthoritySet::new([authority().id()]), allow_private)
    }

    fn view(allow_private: bool, relays: &[(u8, &str)]) -> DirectoryView {
        let mut view = empty(allow_private);
        assert_eq!(view.handle_consensus(&consensus(900, relays), NOW), Ok(Accepted::Replaced));
        view
    }

    #[track_caller]
    fn check(view: &DirectoryView, id: u8, now: UnixTime, expect: Option<&str>) {
        let expect = expect.map(|addr| vec![addr.parse().unwrap()]);
        assert_eq!(view.lookup(RelayId([id; 32]), now), expect);
    }

    #[test]
    fn only_listed_relays_are_found() {
        let view = view(false, &[(1, "8.8.8.8:9001"), (9, "9.9.9.9:9001")]);
        check(&view, 1, NOW, Some("8.8.8.8:9001"));
        check(&view, 2, NOW, None);
        check(&empty(false), 1, NOW, None);
        assert!(view.lists_own(NOW) && !empty(false).lists_own(NOW));
    }

    #[test]
    fn a_circuit_is_not_extended_back_to_the_relay_itself() {
        check(&view(true, &[(9, "9.9.9.9:9001")]), 9, NOW, None);
    }

    #[test]
    fn private_addresses_are_for_private_networks() {
        for addr in ["127.0.0.1:9001", "[64:ff9b::a00:1]:9001", "169.254.169.254:80"] {
            check(&view(false, &[(1, addr)]), 1, NOW, None);
            check(&view(true, &[(1, addr)]), 1, NOW, Some(addr));
        }
    }

    #[test]
    fn the_previous_consensus_counts_while_it_is_valid() {
        let mut view = view(false, &[(1, "8.8.8.8:1"), (2, "8.8.8.8:2")]);
        view.handle_consensus(&consensus(1_000, &[(2, "8.8.4.4:2")]), NOW).unwrap();
        check(&view, 1, UnixTime(1_200), Some("8.8.8.8:1"));
        check(&view, 2, UnixTime(1_200), Some("8.8.4.4:2"));
        check(&view, 1, UnixTime(1_201), None);
        check(&view, 2, UnixTime(1_300), Some("8.8.4.4:2"));
        check(&view, 2, UnixTime(1_301), None);
        view.handle_consensus(&consensus(1_010, &[]), NOW).unwrap();
        check(&view, 1, NOW, None);
    }

    #[test]
    fn the_view_never_goes_back_in_time() {
        let mut view = view(false, &[(1, "8.8.8.8:1")]);
        let older = view.handle_consensus(&consensus(899, &[(2, "8.8.8.8:2")]), NOW);
        assert_eq!(older, Err(DirError::RolledBack));
        let other = view.handle_consensus(&consensus(900, &[(2, "8.8.8.8:2")]), NOW);
        assert_eq!(other, Err(DirError::Conflict));
        check(&view, 1, NOW, Some("8.8.8.8:1"));
        check(&view, 2, NOW, None);
    }

    #[test]
    fn an_exit_knows_where_relays_listen() {
        let mut view = view(false, &[(1, "8.8.8.8:9001")]);
        view.handle_consensus(&consensus(950, &[(1, "8.8.4.4:9001")]), NOW).unwrap();
        assert!(view.is_listener("8.8.8.8:9001".parse().unwrap()));
        assert!(view.is_listener("[::ffff:8.8.4.4]:9001".parse().unwrap()));
        assert!(!view.is_listener("8.8.8.8:443".parse().unwrap()));
    }

    #[test]
    fn a_mirror_serves_the_exact_bytes_of_what_is_newer_and_valid() {
        let view = view(false, &[(1, "8.8.8.8:9001")]);
        let get = |have, now| view.answer(&Request::GetConsensus { have: UnixTime(have) }, now);
        let bytes = consensus(900, &[(1, "8.8.8.8:9001")]);
        assert_eq!(get(0, NOW), Response::Ok(bytes.clone().into()));
        assert_eq!(get(899, NOW), Response::Ok(bytes.into()));
        assert_eq!(get(900, NOW), Response::NotModified);
        assert_eq!(get(901, NOW), Response::NotModified);
        assert_eq!(get(0, UnixTime(1_201)), Response::NotFound);
        assert_eq!(
            empty(false).answer(&Request::GetConsensus { have: UnixTime(0) }, NOW),
            Response::NotFound
        );
    }

    #[test]
    fn what_is_for_authorities_is_refused() {
        let view = view(false, &[]);
        for request in [
            Request::PostDescriptor(vec![]),
            Request::PostVote(vec![]),
            Request::GetVote { valid_after: UnixTime(900) },
        ] {
            assert!(matches!(view.answer(&request, NOW), Response::Refused(_)));
        }
    }
}
