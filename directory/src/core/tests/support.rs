//! Documents, and a network of authorities on virtual time whose messages arrive in a seeded order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tunic_proto::dir::{
    AuthoritySet, Descriptor, Digest, ExitPolicy, SignatureLine, SignedConsensus, UncheckedDescriptor,
    UncheckedVote,
};
use tunic_proto::ids::RelayId;
use tunic_proto::keys::{IdentityKey, OnionKey, Signer};
use tunic_proto::time::UnixTime;

use crate::core::{Authority, Moment, Output, RoundFailure, Settings};

pub(crate) const NOW: UnixTime = UnixTime(1_800_000_000);

pub(crate) fn signer(seed: u64) -> Signer {
    let mut rng = StdRng::seed_from_u64(seed);
    IdentityKey::generate(&mut rng).certify(NOW.plus(Duration::from_secs(30 * 24 * 3_600)), &mut rng)
}

pub(crate) fn descriptor(seed: u64) -> Descriptor {
    Descriptor {
        nickname: format!("relay{seed}"),
        identity: signer(seed).id(),
        published: NOW,
        addresses: vec![([192, 0, (seed >> 8) as u8, seed as u8], 9001).into()],
        onion_key: OnionKey([seed as u8; 32]),
        exit: ExitPolicy::accept_all(),
        family: vec![],
        bandwidth: 1_000_000,
        version: "tunic 0.1.0".into(),
        protocols: vec![1],
    }
}

/// As a testnet sets them.
pub(crate) fn settings() -> Settings {
    Settings {
        bootstrap_interval: Duration::from_secs(1),
        allow_private_addresses: true,
        ..Settings::default()
    }
}

/// What one authority sends to another.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    Vote(Arc<[u8]>),
    Signature(UnixTime, Digest, Box<SignatureLine>),
    Consensus(Arc<[u8]>),
}

/// Is asked about every message before it travels: from, to, what. `None` loses it, another message replaces it.
type Meddler = Box<dyn FnMut(usize, usize, Message) -> Option<Message>>;

/// Authorities on one virtual clock.
pub(crate) struct Net {
    pub authorities: Vec<Authority>,
    /// How far each one's clock is ahead, in milliseconds.
    pub skew_ms: Vec<i64>,
    pub now: Moment,
    pub published: Vec<Vec<Arc<SignedConsensus>>>,
    pub failures: Vec<Vec<RoundFailure>>,
    pub equivocations: Vec<Vec<RelayId>>,
    pub meddle: Meddler,
    /// Relays that do not answer probes.
    pub dead: Vec<RelayId>,
    /// By time of arrival and a tie-breaker.
    in_flight: BTreeMap<(Moment, u64), (usize, Message)>,
    rng: StdRng,
}

/// The identity of the i-th authority comes from this seed.
pub(crate) fn authority_seed(i: usize) -> u64 {
    1_000 + i as u64
}

impl Net {
    pub(crate) fn new(n: usize, seed: u64, settings: &Settings) -> Self {
        let set = AuthoritySet::new((0..n).map(|i| signer(authority_seed(i)).id()));
        // In the middle of a second: rounds are aligned to the clock, starts of daemons are not.
        let now = Moment(NOW.0 * 1_000 + 400);
        let authority = |i| {
            let signer = Arc::new(signer(authority_seed(i)));
            Authority::new(settings.clone(), signer, set.clone(), now).unwrap()
        };
        Net {
            authorities: (0..n).map(authority).collect(),
            skew_ms: vec![0; n],
            now,
            published: vec![vec![]; n],
            failures: vec![vec![]; n],
            equivocations: vec![vec![]; n],
            meddle: Box::new(|_, _, message| Some(message)),
            dead: vec![],
            in_flight: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
        }
    }

    pub(crate) fn clock(&self, i: usize) -> Moment {
        Moment(self.now.0.saturating_add_signed(self.skew_ms[i]))
    }

    /// The relay uploads its descriptor to these authorities.
    pub(crate) fn upload(&mut self, descriptor: Descriptor, to: &[usize]) {
        let signer = (0..2_000).map(signer).find(|signer| signer.id() == descriptor.identity).unwrap();
        let signed = descriptor.sign(&signer).unwrap();
        for i in to {
            let unchecked = UncheckedDescriptor::parse(signed.bytes()).unwrap();
            let now = self.clock(*i);
            self.authorities[*i].handle_descriptor(now, unchecked).unwrap();
            self.settle(*i);
        }
    }

    /// Lets time pass, in the order of timers and arrivals.
    pub(crate) fn run_for(&mut self, duration: Duration) {
        let end = self.now.plus(duration);
        loop {
            let timer = |i: usize| {
                let at = self.authorities[i].poll_timeout().0.saturating_add_signed(-self.skew_ms[i]);
                (Moment(at).max(self.now), i)
            };
            let timer = (0..self.authorities.len()).map(timer).min();
            let arrival = self.in_flight.keys().next().copied();
            match (timer, arrival) {
                (_, Some((at, tie))) if at <= end && timer.is_none_or(|(timer, _)| at <= timer) => {
                    self.now = at;
                    if let Some((to, message)) = self.in_flight.remove(&(at, tie)) {
                        self.deliver(to, message);
                    }
                }
                (Some((at, i)), _) if at <= end => {
                    self.now = at;
                    let now = self.clock(i);
                    self.authorities[i].handle_timeout(now);
                    self.settle(i);
                    assert!(
                        self.authorities[i].poll_timeout() > now,
                        "a timer must not be due again at once"
                    );
                }
                _ => break,
            }
        }
        self.now = end;
    }

    fn deliver(&mut self, to: usize, message: Message) {
        let now = self.clock(to);
        let authority = &mut self.authorities[to];
        // Refusals are what the tests look at through counters.
        let _ = match message {
            Message::Vote(bytes) => authority.handle_vote(now, UncheckedVote::parse(&bytes).unwrap()),
            Message::Signature(valid_after, digest, line) => {
                authority.handle_signature(now, valid_after, digest, *line)
            }
            Message::Consensus(bytes) => authority.handle_consensus(now, &bytes),
        };
        self.settle(to);
    }

    pub(crate) fn send(&mut self, from: usize, to: usize, message: Message) {
        if let Some(message) = (self.meddle)(from, to, message) {
            let arrival = self.now.plus(Duration::from_millis(self.rng.random_range(1..40)));
            self.in_flight.insert((arrival, self.rng.random()), (to, message));
        }
    }

    fn broadcast(&mut self, from: usize, message: &Message) {
        for to in (0..self.authorities.len()).filter(|to| *to != from) {
            self.send(from, to, message.clone());
        }
    }

    /// Does what an authority asks for until it asks for nothing more.
    fn settle(&mut self, i: usize) {
        while let Some(output) = self.authorities[i].poll_output() {
            let now = self.clock(i);
            match output {
                Output::Probe { relay, .. } => {
                    let ok = !self.dead.contains(&relay);
                    self.authorities[i].handle_probe_result(now, relay, ok);
                }
                Output::SendVote { bytes, .. } => self.broadcast(i, &Message::Vote(bytes)),
                Output::SendSignature { valid_after, digest, line, .. } => {
                    self.broadcast(i, &Message::Signature(valid_after, digest, line));
                }
                Output::FetchVote { from, valid_after } => {
                    let from = (0..self.authorities.len()).find(|j| signer(authority_seed(*j)).id() == from);
                    let from = from.unwrap();
                    if let Some(vote) = self.authorities[from].own_vote(valid_after).cloned() {
                        self.send(from, i, Message::Vote(vote));
                    }
                }
                Output::FetchConsensus { .. } => {
                    for from in (0..self.authorities.len()).filter(|from| *from != i) {
                        let now = self.clock(from).unix();
                        let consensus = self.authorities[from].consensus(now).map(|c| c.bytes().clone());
                        if let Some(bytes) = consensus {
                            self.send(from, i, Message::Consensus(bytes));
                        }
                    }
                }
                Output::Publish(consensus) => self.published[i].push(consensus),
                Output::RoundFailed { failure, .. } => self.failures[i].push(failure),
                Output::Equivocation(id) => self.equivocations[i].push(id),
            }
        }
    }
}
