//! Nodes: who they are, and what they answer to what their channels ask.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use tunic_proto::channel::{Channel, ChannelConfig, ExtendJob, HandshakeJob, PeerInfo, Role};
use tunic_proto::circuit::HopSpec;
use tunic_proto::counters::{Counters, Incident};
use tunic_proto::crypto::handshake::{HopKeys, REPLY_LEN, REQUEST_LEN, ReplayCache, respond};
use tunic_proto::crypto::layer::LayerCipher;
use tunic_proto::flow::Budget;
use tunic_proto::ids::RelayId;
use tunic_proto::keys::{IdentityKey, OnionSecret, Signer};
use tunic_proto::message::DestroyReason;
use tunic_proto::padding::{Limits, LimitsConfig, PaddingRole, PaddingStats};
use tunic_proto::time::UnixTime;

use super::dirs::DirService;
use super::guard::Guard;

/// Requests that a simulated relay remembers.
const REPLAY_CAPACITY: usize = 10_000;
/// Wall-clock time at the beginning of every simulation.
pub(super) const EPOCH: UnixTime = UnixTime(1_700_000_000);

/// A node of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(super) usize);

/// What a node that is to be extended to looks like from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// Listed, and it answers.
    #[default]
    Normal,
    /// Nobody knows it.
    Unlisted,
    /// Nobody can connect to it.
    Unreachable,
    /// It refuses every circuit handshake.
    Refuses,
    /// It never answers a circuit handshake.
    Silent,
}

pub(super) struct Node {
    /// `None` for those without an identity.
    pub(super) signer: Option<Arc<Signer>>,
    pub(super) onion: Vec<OnionSecret>,
    /// Whether the test plays this node itself, cell by cell.
    pub(super) raw: bool,
    pub(super) reach: Reach,
    pub(super) max_circuits: usize,
    pub(super) budget: Budget,
    pub(super) counters: Arc<Counters>,
    pub(super) rng: ChaCha20Rng,
    pub(super) padding: PaddingRole,
    pub(super) padding_stats: Arc<PaddingStats>,
    /// What it answers on directory streams; without, they echo.
    pub(super) directory: Option<DirService>,
    /// Where others see it.
    pub(super) address: IpAddr,
    /// What it holds its neighbours to; without, nothing.
    pub(super) guard: Option<Guard>,
    replay: ReplayCache,
    /// Circuits that wait for a channel.
    pub(super) waiting: HashMap<NodeId, Vec<ExtendJob>>,
}

impl Node {
    pub(super) fn new(is_relay: bool, raw: bool, budget: usize, mut rng: ChaCha20Rng) -> Node {
        let signer = is_relay
            .then(|| IdentityKey::generate(&mut rng).certify(UnixTime(EPOCH.0 + 1_000_000), &mut rng))
            .map(Arc::new);
        let padding_stats = Arc::new(PaddingStats::default());
        let limits = || Limits::new(LimitsConfig::default());
        let padding = match is_relay {
            true => PaddingRole::Relay(limits(), padding_stats.clone()),
            false => PaddingRole::None,
        };
        Node {
            signer,
            onion: vec![OnionSecret::generate(&mut rng)],
            raw,
            reach: Reach::Normal,
            max_circuits: 1_000,
            budget: Budget::new(budget),
            counters: Arc::default(),
            rng,
            padding,
            padding_stats,
            directory: None,
            address: IpAddr::from([0; 4]),
            guard: None,
            replay: ReplayCache::new(REPLAY_CAPACITY),
            waiting: HashMap::new(),
        }
    }

    /// How circuits name this node; clients have no identity, and no circuit leads to them.
    pub(super) fn hop(&self) -> HopSpec {
        HopSpec {
            id: self.signer.as_ref().map_or(RelayId([0; 32]), |signer| signer.id()),
            onion_key: self.onion[0].public(),
        }
    }

    pub(super) fn channel(&mut self, role: Role, peer: PeerInfo, origin: Instant) -> Channel {
        let mut channel = Channel::new(self.channel_config(role, peer, origin));
        channel.set_padding(self.padding.clone());
        channel
    }

    fn channel_config(&mut self, role: Role, peer: PeerInfo, origin: Instant) -> ChannelConfig {
        ChannelConfig {
            role,
            peer,
            accepts_circuits: self.signer.is_some(),
            max_circuits: self.max_circuits,
            budget: self.budget.clone(),
            counters: self.counters.clone(),
            dips_from: self.signer.is_some().then_some(origin),
            rng: Box::new(ChaCha20Rng::from_rng(&mut self.rng)),
        }
    }

    /// Answers a circuit handshake as a relay's shell does.
    pub(super) fn answer(&mut self, job: HandshakeJob) {
        if self.reach == Reach::Silent {
            return;
        }
        if self.replay.check_and_insert(&job.request).is_err() {
            self.counters.count(Incident::Replay);
            return job.answer(Err(DestroyReason::Handshake));
        }
        let answer = match self.reach {
            Reach::Refuses => None,
            _ => self.respond(&job.request),
        };
        if answer.is_none() {
            self.counters.count(Incident::CircuitHandshake);
        }
        job.answer(answer.ok_or(DestroyReason::Handshake));
    }

    pub(super) fn respond(&mut self, request: &[u8; REQUEST_LEN]) -> Option<(Box<[u8; REPLY_LEN]>, HopKeys)> {
        let id = self.hop().id;
        // Circuits through relays with AES instructions, without, and both.
        let cipher = if id.0[0] & 1 == 0 { LayerCipher::Aes256Gcm } else { LayerCipher::ChaCha20Poly1305 };
        respond(request, id, &self.onion, cipher, &mut self.rng).ok()
    }
}
