//! What is known about the relays, put together into paths: the consensus, the guards, failures and build times.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use tunic_proto::ids::RelayId;
use tunic_proto::time::UnixTime;

use super::failures::RecentFailures;
use super::guards::GuardSet;
use super::network::{Network, Rules};
use super::path::{Chooser, Need, Path, PathError};
use super::pool::{Build, BuildFailure};
use super::timeouts::BuildTimes;

/// Chooses paths and learns from what becomes of them.
pub struct Planner {
    rules: Rules,
    network: Option<Arc<Network>>,
    guards: GuardSet,
    failures: RecentFailures,
    times: BuildTimes,
    one_guard: bool,
}

impl Planner {
    /// Without a consensus yet.
    pub fn new(guards: GuardSet, rules: Rules) -> Self {
        Planner {
            rules,
            network: None,
            guards,
            failures: RecentFailures::default(),
            times: BuildTimes::default(),
            one_guard: false,
        }
    }

    /// All circuits go over one guard, as far as there is a path: where each guard costs a constant rate, and is one more that learns
    /// this client's address.
    #[must_use]
    pub fn with_one_guard(mut self) -> Self {
        self.one_guard = true;
        self.guards.shun_exits();
        self
    }

    /// Uses this consensus from now on. Returns whether the guard set changed.
    pub fn set_network<R: Rng + ?Sized>(
        &mut self,
        network: Arc<Network>,
        now: UnixTime,
        rng: &mut R,
    ) -> bool {
        let changed = self.guards.update(&network, now, rng);
        self.network = Some(network);
        changed
    }

    /// The guards, for storing.
    pub fn guards(&self) -> &GuardSet {
        &self.guards
    }

    /// The relay to fetch the next consensus from: the preferred guard.
    pub fn directory_cache(&self, now: Instant) -> Option<RelayId> {
        self.guards.candidates(now).first().copied()
    }

    /// How long to wait for a circuit.
    pub fn build_timeout(&self) -> Duration {
        self.times.timeout()
    }

    /// A path for this build. A spare for a port that no exit lets through becomes one for whatever exits offer.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn plan<R: Rng + ?Sized>(&self, build: &Build, now: Instant, rng: &mut R) -> Result<Path, PathError> {
        match self.choose(&build.need, &build.not_exits, now, rng) {
            Err(PathError::NoExitForPort(_)) if build.for_want.is_none() => {
                self.choose(&Need::Any, &build.not_exits, now, rng)
            }
            result => result,
        }
    }

    /// A circuit over this path is being built. Where its relays are avoided and there were no others, it is the turn of
    /// others next: one that stands still takes the whole build timeout to be found out. Guards are judged apart.
    pub fn begun(&mut self, path: &Path, now: Instant) {
        path.hops.iter().skip(1).for_each(|hop| self.failures.tried(hop.id, now));
    }

    /// The circuit over this path was built. Returns whether the guard set changed.
    pub fn built<R: Rng + ?Sized>(
        &mut self,
        path: &Path,
        took: Duration,
        now: UnixTime,
        rng: &mut R,
    ) -> bool {
        self.times.built(took);
        path.hops.iter().for_each(|hop| self.failures.succeeded(hop.id));
        path.guard().is_some_and(|guard| self.guards.succeeded(guard, now, rng))
    }

    /// A circuit was not built within this time. That blames nobody, because the timeout is made so that one in five is.
    pub fn gave_up(&mut self, limit: Duration) {
        self.times.gave_up(limit);
    }

    /// The circuit over this path failed. The relay that is to blame, if one is, is avoided for a while.
    pub fn failed(&mut self, path: &Path, failure: BuildFailure, now: Instant) {
        let hop = match failure {
            BuildFailure::Guard => 0,
            BuildFailure::Hop { hop, .. } => hop,
            BuildFailure::Path(_) | BuildFailure::TooSlow | BuildFailure::Busy => return,
        };
        match path.hops.get(hop) {
            Some(guard) if hop == 0 => self.guards.failed(guard.id, now),
            Some(relay) => self.failures.failed(relay.id, now),
            None => {}
        }
    }

    /// The guard of this path stands still.
    pub fn guard_fell_silent(&mut self, path: &Path, now: Instant) {
        path.guard().into_iter().for_each(|guard| self.guards.fell_silent(guard, now));
    }

    fn choose<R: Rng + ?Sized>(
        &self,
        need: &Need,
        not_exits: &[RelayId],
        now: Instant,
        rng: &mut R,
    ) -> Result<Path, PathError> {
        let network = self.network.as_deref().ok_or(PathError::NoConsensus)?;
        let guards = self.guards.candidates(now);
        let avoid = |relay: RelayId| self.failures.avoids(relay, now);
        let (rules, one_guard) = (self.rules, self.one_guard);
        Chooser { network, rules, guards: &guards, avoid: &avoid, not_exits, one_guard }.choose(need, rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::pool::CircuitId;
    use crate::core::testing::{network, rng, start};
    use tunic_proto::message::DestroyReason;

    fn planner(relays: u32) -> Planner {
        let mut planner = Planner::new(GuardSet::default(), Rules::default());
        assert!(planner.set_network(Arc::new(network(relays)), UnixTime(1_000_000), &mut rng(1)));
        planner
    }

    fn build(need: Need, for_want: bool) -> Build {
        let for_want = for_want.then_some(crate::core::pool::WantId(1));
        Build { circuit: CircuitId(2), need, not_exits: Vec::new(), for_want, started: start() }
    }

    fn plan(planner: &Planner, seed: u64, now: Instant) -> Path {
        planner.plan(&build(Need::Any, false), now, &mut rng(seed)).unwrap()
    }

    #[test]
    fn without_a_consensus_there_is_no_path() {
        let planner = Planner::new(GuardSet::default(), Rules::default());
        let outcome = planner.plan(&build(Need::Any, false), start(), &mut rng(1));
        assert_eq!(outcome, Err(PathError::NoConsensus));
    }

    #[test]
    fn a_relay_at_which_a_circuit_failed_is_avoided_for_a_minute() {
        let (mut planner, now) = (planner(8), start());
        let path = plan(&planner, 1, now);
        planner.failed(&path, BuildFailure::Hop { hop: 1, reason: DestroyReason::ConnectFailed }, now);
        let bad = path.hops[1].id;
        let uses = |planner: &Planner, now| {
            (0..200).any(|seed| plan(planner, seed, now).hops[1..].iter().any(|hop| hop.id == bad))
        };
        assert!(!uses(&planner, now + Duration::from_secs(59)));
        assert!(uses(&planner, now + Duration::from_secs(60)));
    }

    #[test]
    fn exits_that_all_failed_take_turns_the_one_that_failed_last_at_last() {
        let mut relays: Vec<_> = (0..8).map(crate::core::testing::relay).collect();
        relays[3..].iter_mut().for_each(|relay| relay.exit = Default::default());
        let (mut planner, mut now) = (planner(1), start());
        planner.set_network(
            Arc::new(crate::core::testing::network_of(relays)),
            UnixTime(1_000_000),
            &mut rng(1),
        );
        let mut exits = Vec::new();
        let mut next = |planner: &mut Planner| {
            now += Duration::from_secs(1);
            let path = plan(planner, 1, now);
            planner.begun(&path, now);
            (path, now)
        };
        for _ in 0..3 {
            let (path, now) = next(&mut planner);
            planner.failed(&path, BuildFailure::Hop { hop: 2, reason: DestroyReason::Timeout }, now);
            exits.push(path.exit());
        }
        assert!(exits[0] != exits[1] && exits[1] != exits[2] && exits[2] != exits[0], "{exits:?}");
        let again: Vec<_> = (0..6).map(|_| next(&mut planner).0.exit()).collect();
        assert_eq!(again, [exits.clone(), exits].concat());
    }

    #[test]
    fn a_guard_out_of_reach_is_replaced_by_the_next_at_once() {
        let (mut planner, now) = (planner(8), start());
        let path = plan(&planner, 1, now);
        planner.failed(&path, BuildFailure::Guard, now);
        assert!((0..50).all(|seed| plan(&planner, seed, now).hops[0].id != path.hops[0].id));
        assert_ne!(planner.directory_cache(now), Some(path.hops[0].id));
        planner.built(&path, Duration::from_secs(1), UnixTime(1_000_000), &mut rng(1));
        assert_eq!(planner.directory_cache(now), Some(path.hops[0].id));
    }

    #[test]
    fn slow_builds_blame_nobody_and_are_learned_from() {
        let (mut planner, now) = (planner(8), start());
        let path = plan(&planner, 1, now);
        for _ in 0..40 {
            planner.gave_up(planner.build_timeout());
            planner.failed(&path, BuildFailure::TooSlow, now);
        }
        assert_eq!(plan(&planner, 1, now), path);
        assert!(planner.build_timeout() > Duration::from_secs(60));
    }

    #[test]
    fn a_spare_for_an_impossible_port_falls_back_on_any_exit() {
        let mut relays: Vec<_> = (0..6).map(crate::core::testing::relay).collect();
        relays.iter_mut().for_each(|relay| relay.exit = crate::core::testing::policy(&["accept *:80"]));
        let mut planner = planner(1);
        let network = crate::core::testing::network_of(relays);
        planner.set_network(Arc::new(network), UnixTime(1_000_000), &mut rng(1));
        assert!(planner.plan(&build(Need::Port(443), false), start(), &mut rng(1)).is_ok());
        let wanted = planner.plan(&build(Need::Port(443), true), start(), &mut rng(1));
        assert_eq!(wanted, Err(PathError::NoExitForPort(443)));
    }
}
