//! Who may open channels and circuits here, by address and by subnet.
//!
//! What is remembered of a network is forgotten only when it says nothing any more: no channel is open, the whole burst is
//! there again, and no refusal is in force. So nobody is forgotten sooner by coming from many addresses. When the table is
//! full of networks that do something, further ones share places with others, chosen by a hash that they cannot predict.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Networks, Pace, Params, Rate};
use crate::counters::Incident;

/// Hosts, and likewise subnets, that have places of their own: 80 bytes each.
pub const MAX_NETWORKS: usize = 32_768;
/// Places that the others share.
const SHARED: usize = 1_024;
/// From one look for places that can be given up to the next.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Why something is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The address or its subnet has as many channels as it may.
    Channels,
    /// It opens them too fast.
    ChannelRate,
    /// The channel has as many circuits as it may.
    Circuits,
    /// It asks for circuits too fast, or did so lately.
    CircuitRate,
}

impl Refusal {
    /// How it is counted.
    pub fn incident(self) -> Incident {
        match self {
            Refusal::Channels => Incident::ChannelCount,
            Refusal::ChannelRate => Incident::ChannelRate,
            Refusal::Circuits => Incident::CircuitCount,
            Refusal::CircuitRate => Incident::CircuitRate,
        }
    }
}

/// Where a channel is counted. To be given back with [`Door::leave`], once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    host: Place,
    subnet: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Own(IpAddr),
    Shared(usize),
}

/// What is remembered of a network.
#[derive(Debug, Clone, Copy, Default)]
struct Visitor {
    channels: u32,
    opening: Pace,
    circuits: Pace,
    refused_until: Option<Instant>,
}

impl Visitor {
    fn says_nothing(&self, now: Instant) -> bool {
        let refused = self.refused_until.is_some_and(|until| until > now);
        self.channels == 0 && !refused && self.opening.is_full(now) && self.circuits.is_full(now)
    }

    fn may_enter(&self, channels: u32, rate: Rate, now: Instant) -> Result<(), Refusal> {
        if self.channels >= channels {
            Err(Refusal::Channels)
        } else if !self.opening.has_room(rate, now) {
            Err(Refusal::ChannelRate)
        } else {
            Ok(())
        }
    }
}

/// Networks of one size.
#[derive(Debug)]
struct Table {
    own: HashMap<IpAddr, Visitor>,
    shared: Vec<Visitor>,
    swept: Option<Instant>,
    capacity: usize,
    seed: u64,
}

impl Table {
    fn place(&mut self, network: IpAddr, now: Instant) -> Place {
        let is_full = self.own.len() >= self.capacity && !self.own.contains_key(&network);
        if is_full && self.swept.is_none_or(|swept| now >= swept + SWEEP_INTERVAL) {
            self.swept = Some(now);
            self.own.retain(|_, visitor| !visitor.says_nothing(now));
        }
        if self.own.len() < self.capacity || self.own.contains_key(&network) {
            return Place::Own(network);
        }
        self.shared.resize(SHARED, Visitor::default());
        let mut hasher = DefaultHasher::new();
        (self.seed, network).hash(&mut hasher);
        Place::Shared(hasher.finish() as usize % SHARED)
    }

    fn at(&mut self, place: Place) -> &mut Visitor {
        match place {
            Place::Own(network) => self.own.entry(network).or_default(),
            Place::Shared(index) => &mut self.shared[index],
        }
    }
}

/// The table, by address and by subnet.
#[derive(Debug)]
pub struct Door {
    params: Params,
    hosts: Table,
    subnets: Table,
}

impl Door {
    /// Knows nobody yet. `seed` is secret and random.
    pub fn new(params: Params, seed: u64) -> Door {
        Door::with_capacity(params, seed, MAX_NETWORKS)
    }

    fn with_capacity(params: Params, seed: u64, capacity: usize) -> Door {
        let table = || Table { own: HashMap::new(), shared: Vec::new(), swept: None, capacity, seed };
        Door { params, hosts: table(), subnets: table() }
    }

    /// Other parameters, from now on.
    pub fn set_params(&mut self, params: Params) {
        self.params = params;
    }

    /// Somebody wants to open a channel.
    ///
    /// # Errors
    /// [`Refusal`]; then nothing is counted.
    pub fn enter(&mut self, now: Instant, ip: IpAddr) -> Result<Ticket, Refusal> {
        let Params { channels_per_address: channels, subnet_factor: factor, .. } = self.params;
        let rate = self.params.channels();
        let networks = Networks::of(ip);
        let ticket = Ticket {
            host: self.hosts.place(networks.host, now),
            subnet: self.subnets.place(networks.subnet, now),
        };
        let (host, subnet) = (self.hosts.at(ticket.host), self.subnets.at(ticket.subnet));
        host.may_enter(channels, rate, now)?;
        subnet.may_enter(channels.saturating_mul(factor), rate.times(factor), now)?;
        host.opening.take(rate, now);
        subnet.opening.take(rate.times(factor), now);
        host.channels += 1;
        subnet.channels += 1;
        Ok(ticket)
    }

    /// The channel has closed, or belongs to a relay of the network and counts no more.
    pub fn leave(&mut self, ticket: Ticket) {
        for visitor in [self.hosts.at(ticket.host), self.subnets.at(ticket.subnet)] {
            visitor.channels = visitor.channels.saturating_sub(1);
        }
    }

    /// Somebody asks for a circuit on that channel.
    ///
    /// An address with several channels that asks for more than its rate is refused for a while; a subnet only as long as
    /// it goes on.
    ///
    /// # Errors
    /// [`Refusal::CircuitRate`].
    pub fn circuit(&mut self, now: Instant, ticket: Ticket) -> Result<(), Refusal> {
        let Params { circuits_min_channels: channels, subnet_factor: factor, refusal_s, .. } = self.params;
        let rate = self.params.circuits();
        let host = self.hosts.at(ticket.host);
        if host.refused_until.is_some_and(|until| until > now) {
            return Err(Refusal::CircuitRate);
        }
        if !host.circuits.take(rate, now) && host.channels >= channels {
            host.refused_until = Some(now + Duration::from_secs(refusal_s.into()));
            return Err(Refusal::CircuitRate);
        }
        let subnet = self.subnets.at(ticket.subnet);
        let held = subnet.channels >= channels.saturating_mul(factor);
        if !subnet.circuits.take(rate.times(factor), now) && held {
            return Err(Refusal::CircuitRate);
        }
        Ok(())
    }

    /// Networks that have places of their own, hosts and subnets together.
    pub fn len(&self) -> usize {
        self.hosts.own.len() + self.subnets.own.len()
    }

    /// Whether nobody is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
#[path = "door_tests.rs"]
mod tests;
