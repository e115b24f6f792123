//! A channel for tests.

use std::sync::Arc;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::{Channel, ChannelConfig, PeerInfo, Role};
use crate::cell::Netinfo;
use crate::flow::Budget;

/// A relay's, to which a client has opened it, with room for so many circuits.
pub(super) fn channel(max_circuits: usize) -> Channel {
    Channel::new(ChannelConfig {
        role: Role::Responder,
        peer: PeerInfo { id: None, netinfo: Netinfo { time: None, observed: None } },
        accepts_circuits: true,
        max_circuits,
        budget: Budget::new(1 << 20),
        counters: Arc::default(),
        dips_from: None,
        rng: Box::new(ChaCha20Rng::seed_from_u64(1)),
    })
}
