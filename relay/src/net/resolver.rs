//! Finds names and addresses for clients, and tells nobody by its haste who asked before.
//!
//! 1. What is remembered is given as late as it was found then (core/dns_cache.rs).
//! 2. Otherwise a name server is asked; who asks for the same meanwhile waits for the same answer, as long as if they had
//!    asked alone.
//! 3. What was found, or proved not to be, is remembered. Failures are not: they take their time again.

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tunic_proto::message::EndReason;
use tunic_proto::resolve::Query;

use super::dns::{Outcome, Reply, Upstream};
use super::system_rng;
use crate::core::dns_cache::{Cache, Found, delay, lifetime};

/// Questions to name servers at once; more wait.
const MAX_LOOKUPS: usize = 256;
/// Questions that may wait or run; more are refused.
const MAX_RUNNING: usize = 4_096;
/// How long a lookup may take, waiting for its turn included.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Totals since the start.
#[derive(Debug, Default)]
pub struct DnsCounters {
    /// Questions that were answered from memory.
    pub remembered: AtomicU64,
    /// Questions to name servers that found something.
    pub found: AtomicU64,
    /// Questions to name servers whose answer was that there is nothing.
    pub absent: AtomicU64,
    /// Questions to name servers whose answer did not prove itself.
    pub bogus: AtomicU64,
    /// Questions that no name server answered, or for which there was no room.
    pub failed: AtomicU64,
}

/// Finds names and addresses. Cheap to clone.
pub struct Resolver<U>(Arc<Inner<U>>);

struct Inner<U> {
    upstream: U,
    counters: Arc<DnsCounters>,
    state: Mutex<State>,
    lookups: Semaphore,
}

struct State {
    cache: Cache<Outcome, RandomState>,
    /// Questions on their way, by key.
    running: HashMap<u128, watch::Receiver<Option<Told>>>,
}

/// An answer, and how long it took.
#[derive(Clone)]
struct Told {
    outcome: Outcome,
    took: Duration,
}

impl<U> Clone for Resolver<U> {
    fn clone(&self) -> Self {
        Resolver(Arc::clone(&self.0))
    }
}

impl<U: Upstream> Resolver<U> {
    /// Asks `upstream` what is not remembered.
    pub fn new(upstream: U, counters: Arc<DnsCounters>) -> Self {
        let cache = Cache::new([RandomState::new(), RandomState::new()]);
        let state = Mutex::new(State { cache, running: HashMap::new() });
        Resolver(Arc::new(Inner { upstream, counters, state, lookups: Semaphore::new(MAX_LOOKUPS) }))
    }

    /// Whom it asks.
    pub fn upstream(&self) -> &U {
        &self.0.upstream
    }

    /// The addresses of a name, or the name of an address.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn look_up(&self, query: Query) -> Outcome {
        let asked = now();
        let (key, found) = {
            let mut state = self.0.state();
            let key = state.cache.key(&query);
            (key, state.cache.find(key, asked.into_std()))
        };
        let (outcome, delay) = match found {
            Found::Answer(outcome, delay) => {
                self.0.counters.remembered.fetch_add(1, Relaxed);
                (outcome, delay)
            }
            Found::Ask(at_least) => {
                let told = self.ask(key, query).await?;
                (told.outcome, delay(told.took).max(at_least))
            }
        };
        sleep_until(asked + delay).await;
        outcome
    }

    /// Asks a name server, or waits with those who asked already.
    async fn ask(&self, key: u128, query: Query) -> Result<Told, EndReason> {
        let mut answer = {
            let mut state = self.0.state();
            let full = state.running.len() >= MAX_RUNNING;
            match state.running.get(&key) {
                Some(running) => running.clone(),
                None if full => {
                    self.0.counters.failed.fetch_add(1, Relaxed);
                    return Err(EndReason::Resources);
                }
                None => {
                    let (tell, answer) = watch::channel(None);
                    state.running.insert(key, answer.clone());
                    // A task of its own: its answer is remembered even if nobody waits for it any more.
                    tokio::spawn(Arc::clone(&self.0).run(key, query, tell));
                    answer
                }
            }
        };
        match answer.wait_for(Option::is_some).await {
            Ok(told) => told.clone().ok_or(EndReason::Internal),
            Err(_) => Err(EndReason::Internal),
        }
    }
}

impl<U: Upstream> Inner<U> {
    async fn run(self: Arc<Self>, key: u128, query: Query, tell: watch::Sender<Option<Told>>) {
        let mut begun = now();
        let reply = timeout(LOOKUP_TIMEOUT, async {
            let _permit = self.lookups.acquire().await.ok()?;
            begun = now();
            Some(self.upstream.ask(query).await)
        });
        let reply = reply.await.ok().flatten();
        let (ended, took) = (now(), begun.elapsed());
        self.count(reply.as_ref());
        let outcome = reply.as_ref().map_or(Err(EndReason::Timeout), |reply| reply.outcome.clone());
        let mut state = self.state();
        state.running.remove(&key);
        if let Some(reply) = reply.filter(is_lasting) {
            let life = lifetime(reply.ttl, system_rng().next_u64());
            state.cache.remember(key, reply.outcome, took, life, ended.into_std());
        }
        tell.send_replace(Some(Told { outcome, took }));
    }

    fn count(&self, reply: Option<&Reply>) {
        let counter = match reply {
            Some(reply) if reply.bogus => &self.counters.bogus,
            Some(Reply { outcome: Ok(_), .. }) => &self.counters.found,
            Some(Reply { outcome: Err(EndReason::NameNotFound), .. }) => &self.counters.absent,
            _ => &self.counters.failed,
        };
        counter.fetch_add(1, Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_lasting(reply: &Reply) -> bool {
    !reply.bogus && matches!(reply.outcome, Ok(_) | Err(EndReason::NameNotFound))
}

#[expect(clippy::disallowed_methods, reason = "the shell reads the clock for the pure cache")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
#[path = "resolver_tests.rs"]
mod tests;
