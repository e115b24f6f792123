//! Which relays a circuit goes through.
//!
//! 1. The **exit** is chosen first, because the fewest relays can be it: it must let the target through.
//! 2. The **guard** is the first of the guard set that can stand with this exit.
//! 3. The **middle** is any relay that can stand with both.
//!
//! A client that keeps to one guard begins with it: its exit is drawn from those that can stand with the first guard that is in reach. Only
//! where none of them will do, or all have failed lately, another guard is taken, as above. (docs/threat-model.md says what that tells, and to whom.)
//!
//! Exit and middle are drawn with a chance in proportion to their bandwidth. When an exit leaves no guard or no middle,
//! another one is tried. Relays that failed recently are avoided while there are others; if there are none, they take turns: the
//! one that failed last, or was tried last, is the least likely to work again.

use std::net::SocketAddr;
use std::time::Instant;

use rand::{Rng, RngExt as _};
use tunic_proto::dir::{ExitPolicy, RelayEntry};
use tunic_proto::ids::RelayId;
use tunic_proto::keys::OnionKey;
use tunic_proto::message::Target;

use super::network::{Network, Rules, weight};

/// Exits that are tried before a path is declared impossible.
const MAX_EXIT_TRIES: usize = 16;

/// What a circuit shall be good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// This target.
    Target(Target),
    /// Names at this port, most likely.
    Port(u16),
    /// Whatever an exit offers.
    Any,
}

impl Need {
    /// The port, where one is known.
    pub fn port(&self) -> Option<u16> {
        match self {
            Need::Target(target) => Some(target.port()),
            Need::Port(port) => Some(*port),
            Need::Any => None,
        }
    }

    /// Whether an exit with this policy may do. For a name the last word depends on an address that only the exit learns.
    pub fn met_by(&self, policy: &ExitPolicy) -> bool {
        match self {
            Need::Target(target) => may_reach(policy, target),
            Need::Port(port) => policy.may_allow_port(*port),
            Need::Any => policy.is_exit(),
        }
    }
}

/// Whether an exit with this policy may lead to the target.
pub fn may_reach(policy: &ExitPolicy, target: &Target) -> bool {
    match target {
        Target::Addr(address) => policy.allows(address),
        Target::Name(_, port) => policy.may_allow_port(*port),
    }
}

/// A relay on a path, with what is needed to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Who it is.
    pub id: RelayId,
    /// What it calls itself.
    pub nickname: String,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// Its onion key.
    pub onion_key: OnionKey,
}

impl From<&RelayEntry> for Hop {
    fn from(relay: &RelayEntry) -> Self {
        Hop {
            id: relay.identity,
            nickname: relay.nickname.clone(),
            addresses: relay.addresses.clone(),
            onion_key: relay.onion_key,
        }
    }
}

/// The relays of a circuit in order, guard first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// Guard, middle, exit.
    pub hops: Vec<Hop>,
    /// What the exit lets through.
    pub exit_policy: ExitPolicy,
}

impl Path {
    /// The identity of the first relay.
    pub fn guard(&self) -> Option<RelayId> {
        self.hops.first().map(|hop| hop.id)
    }

    /// The identity of the last relay.
    pub fn exit(&self) -> Option<RelayId> {
        self.hops.last().map(|hop| hop.id)
    }
}

/// Why there is no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// There is no usable consensus yet.
    #[error("the list of relays is not there yet")]
    NoConsensus,
    /// No relay that runs lets this port (or this address and port) through.
    #[error("no relay in the network lets port {0} through")]
    NoExitForPort(u16),
    /// No relay that runs lets anything through.
    #[error("the network has no exit")]
    NoExit,
    /// No guard is in reach that differs in family and network from the exits.
    #[error("no guard can be used with the exits that there are")]
    NoGuard,
    /// No third relay differs in family and network from guard and exit.
    #[error("no relay is left for the middle: three are needed in different networks and families")]
    NoMiddle,
}

/// What a choice depends on, beside chance.
pub struct Chooser<'a> {
    /// The relays.
    pub network: &'a Network,
    /// What conflicts.
    pub rules: Rules,
    /// Guards that may be used, the preferred first.
    pub guards: &'a [RelayId],
    /// Relays to avoid while there are others, and when each failed or was tried last.
    pub avoid: &'a dyn Fn(RelayId) -> Option<Instant>,
    /// Relays that must not be the exit.
    pub not_exits: &'a [RelayId],
    /// Whether a path goes over the first guard if any path does whose other relays have not failed lately.
    pub one_guard: bool,
}

impl Chooser<'_> {
    /// Chooses guard, middle and exit.
    ///
    /// # Errors
    /// [`PathError`]; for guard and middle, that of the last exit tried.
    pub fn choose<R: Rng + ?Sized>(&self, need: &Need, rng: &mut R) -> Result<Path, PathError> {
        let Some(guard) = self.listed_guards().next().filter(|_| self.one_guard) else {
            return self.choose_over(None, need, rng);
        };
        let kept = self.choose_over(Some(guard), need, rng).ok();
        if let Some(path) = kept.as_ref().filter(|path| !self.has_failed(path)) {
            return Ok(path.clone());
        }
        match (kept, self.choose_over(None, need, rng)) {
            (Some(kept), Ok(other)) if self.has_failed(&other) => Ok(kept),
            (Some(kept), Err(_)) => Ok(kept),
            (_, other) => other,
        }
    }

    /// Whether a relay behind the guard is one to avoid.
    fn has_failed(&self, path: &Path) -> bool {
        path.hops.iter().skip(1).any(|hop| (self.avoid)(hop.id).is_some())
    }

    /// Over this guard, or any.
    fn choose_over<R: Rng + ?Sized>(
        &self,
        guard: Option<&RelayEntry>,
        need: &Need,
        rng: &mut R,
    ) -> Result<Path, PathError> {
        let mut excluded = self.not_exits.to_vec();
        let mut error = match need {
            Need::Target(target) => PathError::NoExitForPort(target.port()),
            Need::Port(port) => PathError::NoExitForPort(*port),
            Need::Any => PathError::NoExit,
        };
        for _ in 0..MAX_EXIT_TRIES {
            let fits = |relay: &RelayEntry| {
                need.met_by(&relay.exit)
                    && !excluded.contains(&relay.identity)
                    && guard.is_none_or(|guard| !self.rules.conflict(guard, relay))
            };
            let Some(exit) = self.pick(fits, rng) else { break };
            match self.complete(exit, rng) {
                Ok(path) => return Ok(path),
                Err(problem) => error = problem,
            }
            excluded.push(exit.identity);
        }
        Err(error)
    }

    fn complete<R: Rng + ?Sized>(&self, exit: &RelayEntry, rng: &mut R) -> Result<Path, PathError> {
        let guard = self.guard(exit).ok_or(PathError::NoGuard)?;
        let fits =
            |relay: &RelayEntry| !self.rules.conflict(relay, exit) && !self.rules.conflict(relay, guard);
        let middle = self.pick(fits, rng).ok_or(PathError::NoMiddle)?;
        let hops = [guard, middle, exit].map(Hop::from).to_vec();
        Ok(Path { hops, exit_policy: exit.exit.clone() })
    }

    fn guard(&self, exit: &RelayEntry) -> Option<&RelayEntry> {
        self.listed_guards().find(|guard| !self.rules.conflict(guard, exit))
    }

    fn listed_guards(&self) -> impl Iterator<Item = &RelayEntry> {
        self.guards.iter().filter_map(|id| self.network.relay(*id))
    }

    /// Draws one of the relays that fit; where all of them failed recently, it is the one whose turn it is.
    fn pick<R: Rng + ?Sized>(&self, fits: impl Fn(&RelayEntry) -> bool, rng: &mut R) -> Option<&RelayEntry> {
        let fitting: Vec<&RelayEntry> = self.network.relays().filter(|relay| fits(relay)).collect();
        let mut preferred = fitting.clone();
        preferred.retain(|relay| (self.avoid)(relay.identity).is_none());
        draw(&preferred, rng)
            .or_else(|| fitting.iter().copied().min_by_key(|relay| (self.avoid)(relay.identity)))
    }
}

/// Draws one with a chance in proportion to its bandwidth.
pub fn draw<'a, R: Rng + ?Sized>(relays: &[&'a RelayEntry], rng: &mut R) -> Option<&'a RelayEntry> {
    let total: u64 = relays.iter().map(|relay| weight(relay)).sum();
    if total == 0 {
        return None;
    }
    let mut point = rng.random_range(0..total);
    relays.iter().copied().find(|relay| {
        let hit = point < weight(relay);
        point = point.saturating_sub(weight(relay));
        hit
    })
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
