//! The names that the datagrams of an association lead to.
//!
//! 1. The first datagram for a name has it looked up, and waits with those behind it, so many and so many bytes.
//! 2. What was found is remembered for a while, and so is that nothing was.
//! 3. All datagrams for a name go to one of its addresses, since many protocols are conversations. The next address gets its
//!    turn when the first has said nothing for [`SILENCE`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tunic_proto::datagram::Datagram;
use tunic_proto::message::Target;
use tunic_proto::resolve::MIN_TTL;

use crate::core::exit::Lookup;
use crate::net::connector::Connector;

/// Names whose addresses are remembered; with one more, the oldest is forgotten.
const MAX_KNOWN: usize = 16;
/// How long it is remembered that a name has no address that may be sent to.
const FAILURE_LIFETIME: Duration = Duration::from_secs(10);
/// How long an address may say nothing until the next one of the name is tried. Programs ask again after about a second.
const SILENCE: Duration = Duration::from_secs(2);
/// Names that are looked up at once; datagrams to more are dropped.
const MAX_LOOKUPS: usize = 4;
/// Datagrams that wait for lookups; more are dropped.
const MAX_WAITING: usize = 32;
/// Bytes of them.
const MAX_WAITING_BYTES: usize = 128 * 1024;

/// What a lookup found: addresses that may be sent to, or none.
pub(super) type Found = (Target, Vec<SocketAddr>);

/// What is known, and what is being found out.
pub(super) struct Names {
    connector: Arc<Connector>,
    known: VecDeque<Known>,
    lookups: JoinSet<Found>,
    asked: Vec<Target>,
    waiting: Vec<Datagram>,
}

struct Known {
    name: Target,
    /// The first is the one in use.
    addresses: Vec<SocketAddr>,
    until: Instant,
    /// When the first address was sent to, until it has answered.
    silent_since: Option<Instant>,
    answered: bool,
}

impl Known {
    /// The addresses, the one to send to first.
    fn turn(&mut self, now: Instant) -> Vec<SocketAddr> {
        let since = *self.silent_since.get_or_insert(now);
        if !self.answered && now >= since + SILENCE && !self.addresses.is_empty() {
            self.addresses.rotate_left(1);
            self.silent_since = Some(now);
        }
        self.addresses.clone()
    }

    /// This address has answered: datagrams go on going there.
    fn stay_with(&mut self, address: SocketAddr) {
        if let Some(at) = self.addresses.iter().position(|known| *known == address) {
            self.addresses.rotate_left(at);
            self.answered = true;
        }
    }
}

impl Names {
    pub(super) fn new(connector: Arc<Connector>) -> Names {
        Names {
            connector,
            known: VecDeque::new(),
            lookups: JoinSet::new(),
            asked: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// The addresses to send to, none if there are none; `None` if this is no name, or must be looked up.
    pub(super) fn known(&mut self, name: &Target, now: Instant) -> Option<Vec<SocketAddr>> {
        let fresh = self.known.iter_mut().find(|known| known.name == *name && now < known.until);
        fresh.map(|known| known.turn(now))
    }

    /// Begins to look the name up, unless that has begun, and keeps the datagram as long. False: it was dropped.
    pub(super) fn look_up(&mut self, lookup: Lookup, datagram: Datagram) -> bool {
        if !self.asked.contains(&datagram.peer) {
            if self.asked.len() == MAX_LOOKUPS {
                return false;
            }
            let (connector, name) = (Arc::clone(&self.connector), datagram.peer.clone());
            self.asked.push(name.clone());
            self.lookups.spawn(async move { (name, connector.candidates(lookup).await.unwrap_or_default()) });
        }
        let bytes: usize = self.waiting.iter().map(|waiting| waiting.payload.len()).sum();
        let has_room =
            self.waiting.len() < MAX_WAITING && bytes + datagram.payload.len() <= MAX_WAITING_BYTES;
        if has_room {
            self.waiting.push(datagram);
        }
        has_room
    }

    /// The next lookup that has come to an end. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Found {
        loop {
            match self.lookups.join_next().await {
                Some(Ok(found)) => return found,
                // None of them panics or is aborted.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Remembers what was found, and gives back the datagrams that waited for it.
    pub(super) fn settle(&mut self, (name, addresses): Found, now: Instant) -> Vec<Datagram> {
        self.asked.retain(|asked| *asked != name);
        let lifetime = if addresses.is_empty() { FAILURE_LIFETIME } else { MIN_TTL };
        let before =
            self.known.iter().position(|known| known.name == name).and_then(|at| self.known.remove(at));
        if self.known.len() == MAX_KNOWN {
            self.known.pop_front();
        }
        let (ready, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|datagram| datagram.peer == name);
        self.waiting = waiting;
        let until = now + lifetime;
        let mut known = Known { name, addresses, until, silent_since: None, answered: false };
        // A conversation outlives what is remembered of a name.
        if let Some(address) =
            before.filter(|before| before.answered).and_then(|before| before.addresses.first().copied())
        {
            known.stay_with(address);
        }
        self.known.push_back(known);
        ready
    }

    /// This address has answered: datagrams for its name go on going there.
    pub(super) fn answered(&mut self, from: SocketAddr) {
        for known in self.known.iter_mut().filter(|known| !known.answered) {
            known.stay_with(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::datagrams::tests::{connector, now};

    fn names() -> Names {
        Names::new(connector(true, Vec::new()))
    }

    fn name(name: &str) -> Target {
        Target::Name(name.into(), 53)
    }

    fn ask(names: &mut Names, text: &str, length: usize) -> bool {
        let datagram = Datagram { peer: name(text), payload: vec![0; length] };
        names.look_up(Lookup::Name(text.into(), 53), datagram)
    }

    #[tokio::test]
    async fn datagrams_wait_for_their_name_in_bounded_numbers() {
        let mut names = names();
        let kept = (0..10).filter(|number| ask(&mut names, &format!("no name {number}"), 1)).count();
        assert_eq!((kept, names.lookups.len(), names.waiting.len()), (MAX_LOOKUPS, MAX_LOOKUPS, MAX_LOOKUPS));
        for _ in 0..100 {
            ask(&mut names, "no name 0", 1);
        }
        assert_eq!((names.lookups.len(), names.waiting.len()), (MAX_LOOKUPS, MAX_WAITING));
        assert_eq!(names.settle((name("no name 0"), Vec::new()), now()).len(), MAX_WAITING - 3);
        assert_eq!((names.asked.len(), names.waiting.len()), (MAX_LOOKUPS - 1, 3));
        let kept = (0..10).filter(|_| ask(&mut names, "no name 1", 60_000)).count();
        assert_eq!(kept, 2, "they are bounded in bytes too");
    }

    #[tokio::test]
    async fn what_was_found_is_remembered_for_its_time() {
        let (mut names, begun) = (names(), now());
        ask(&mut names, "localhost", 1);
        let found = names.next().await;
        assert!(found.1.iter().all(|address| address.ip().is_loopback()) && !found.1.is_empty());
        assert_eq!(names.settle(found, begun).len(), 1);
        assert!(names.known(&name("localhost"), begun).is_some());
        assert!(names.known(&name("localhost"), begun + MIN_TTL).is_none());
        names.settle((name("nobody"), Vec::new()), begun);
        assert_eq!(names.known(&name("nobody"), begun), Some(Vec::new()));
        assert_eq!(names.known(&name("nobody"), begun + FAILURE_LIFETIME), None, "and is asked for again");
        for number in 0..100 {
            names.settle((name(&number.to_string()), Vec::new()), begun);
        }
        assert_eq!(names.known.len(), MAX_KNOWN);
    }

    #[tokio::test]
    async fn an_address_that_says_nothing_gives_way_to_the_next() {
        let (mut names, begun) = (names(), now());
        let [one, two] = [1, 2].map(|host| SocketAddr::from(([192, 0, 2, host], 53)));
        names.settle((name("two"), vec![one, two]), begun);
        let first = |names: &mut Names, after| names.known(&name("two"), begun + after).unwrap()[0];
        assert_eq!(first(&mut names, Duration::ZERO), one);
        assert_eq!(first(&mut names, SILENCE / 2), one, "a conversation is not torn apart");
        assert_eq!(first(&mut names, SILENCE), two);
        assert_eq!(first(&mut names, 2 * SILENCE), one);
        names.answered(two);
        for rounds in 2..10 {
            assert_eq!(first(&mut names, rounds * SILENCE), two, "whoever has answered stays");
        }
        names.settle((name("two"), vec![one, two]), begun + MIN_TTL);
        assert_eq!(first(&mut names, MIN_TTL), two, "also when the name was looked up again");
        names.settle((name("two"), vec![one]), begun + MIN_TTL);
        assert_eq!(first(&mut names, MIN_TTL), one, "unless it is not the name's any more");
    }
}
