//! The task that keeps the consensus current.
//!
//! 1. The one of the last run is loaded; if it is still valid, circuits can be built at once.
//! 2. Else it is fetched from a random authority, again and again with growing pauses.
//! 3. In the second half of its life it is replaced, from the first guard, and from an authority when that fails: so
//!    authorities see a client when it is new, and not each hour.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::{sleep, timeout};
use tunic_net::channel::Node;
use tunic_net::config::AuthorityConfig;
use tunic_net::daemon::{RunOptions, Status, unix_now};
use tunic_net::dirstream;
use tunic_proto::dir::{Accepted, ConsensusStore, DirError, Request, Response};
use tunic_proto::time::UnixTime;

use super::build::build_one_hop;
use super::manager::ManagerHandle;
use super::monitor::Monitor;
use super::new_rng;
use super::state::{State, Writer};
use crate::config::Config;
use crate::core::network::Network;
use crate::core::path::Hop;
use crate::core::schedule::{Backoff, refetch_at, unhurried_pause};
use crate::core::status::diagnose::FetchTrouble;

/// How long a circuit of one hop may take, with its channel.
const CIRCUIT_TIMEOUT: Duration = Duration::from_secs(30);
/// A clock that was set, or a machine that slept, is noticed after this at the latest.
const MAX_SLEEP: Duration = Duration::from_secs(60);
/// Failures in a row after which a person is told, and again each time that they have doubled.
const TELL_AFTER: u32 = 8;

/// Why a fetch brought nothing.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("no directory could be reached")]
    Unreachable,
    #[error("the directory has no list of relays yet")]
    NotThere,
    #[error("the directory has no newer list of relays")]
    NotNewer,
    #[error("the directory refused the request")]
    RefusedUs,
    #[error(transparent)]
    Exchange(#[from] dirstream::RequestError),
    #[error("the list of relays was refused: {0}")]
    Refused(#[from] DirError),
}

pub(super) struct Directory {
    node: Node,
    authorities: Vec<AuthorityConfig>,
    state: State,
    writer: Writer,
    options: RunOptions,
    manager: ManagerHandle,
    monitor: Arc<Monitor>,
    store: ConsensusStore,
    backoff: Backoff,
    rng: StdRng,
    /// When to fetch the next one, while there is one.
    due: UnixTime,
    published: Published,
}

/// What the manager was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Published {
    Nothing,
    Current,
    Expired,
}

impl Directory {
    pub(super) fn new(
        node: Node,
        config: &Config,
        (state, writer): (State, Writer),
        (options, manager, monitor): (RunOptions, ManagerHandle, Arc<Monitor>),
    ) -> Self {
        Directory {
            node,
            authorities: config.authorities.clone(),
            state,
            writer,
            options,
            manager,
            monitor,
            store: ConsensusStore::new(config.authority_set()),
            backoff: Backoff::default(),
            rng: new_rng(),
            due: UnixTime(0),
            published: Published::Nothing,
        }
    }

    pub(super) async fn run(mut self) {
        self.load().await;
        loop {
            self.wait_until_due().await;
            self.notice_expiry().await;
            match self.fetch().await {
                Ok(()) => {
                    self.backoff.succeeded();
                    self.monitor.fetched();
                }
                Err(error) => {
                    let pause = self.backoff.failed(&mut self.rng);
                    self.tell(&error);
                    let least = self.store.current(unix_now()).map(|consensus| unhurried_pause(consensus));
                    sleep(pause.max(least.unwrap_or_default())).await;
                }
            }
        }
    }

    async fn load(&mut self) {
        let state = self.state.clone();
        let bytes = match tokio::task::spawn_blocking(move || state.load_consensus()).await {
            Ok(Ok(Some(bytes))) => bytes,
            Ok(Err(error)) => return tracing::warn!("the stored list of relays is not used: {error}"),
            Ok(Ok(None)) | Err(_) => return,
        };
        match self.store.accept(&bytes, unix_now()) {
            Ok(_) => self.publish().await,
            Err(error) => tracing::debug!(%error, "the stored list of relays is not used"),
        }
    }

    /// Sleeps while the consensus is good, a minute at a time because the wall clock may be set meanwhile.
    async fn wait_until_due(&self) {
        loop {
            let now = unix_now();
            if now >= self.due || self.store.current(now).is_none() {
                return;
            }
            sleep(self.due.since(now).min(MAX_SLEEP)).await;
        }
    }

    async fn notice_expiry(&mut self) {
        if self.published == Published::Current && self.store.current(unix_now()).is_none() {
            tracing::warn!(
                "the list of relays is out of date: no new circuits are built until there is a newer one"
            );
            self.published = Published::Expired;
            self.monitor.list_expired();
            self.manager.network_expired().await;
        }
    }

    async fn fetch(&mut self) -> Result<(), FetchError> {
        let source = self.source().await.ok_or(FetchError::Unreachable)?;
        let have = self.store.have(unix_now());
        let bytes = request(&self.node, &source, have, &self.monitor).await?;
        match self.store.accept(&bytes, unix_now())? {
            Accepted::Unchanged => Err(FetchError::NotNewer),
            Accepted::Replaced => {
                self.writer.consensus(bytes);
                self.publish().await;
                Ok(())
            }
        }
    }

    /// Every other attempt goes to an authority; all of them while there is no consensus.
    async fn source(&mut self) -> Option<Hop> {
        if self.store.current(unix_now()).is_some()
            && self.backoff.failures().is_multiple_of(2)
            && let Some(cache) = self.manager.directory_cache().await
        {
            return Some(cache);
        }
        let authority = self.authorities.get(self.rng.random_range(0..self.authorities.len().max(1)))?;
        Some(Hop {
            id: authority.identity,
            nickname: authority.name.clone(),
            addresses: authority.addresses.clone(),
            onion_key: authority.onion_key,
        })
    }

    async fn publish(&mut self) {
        let Some(consensus) = self.store.current(unix_now()) else { return };
        self.due = refetch_at(consensus, &mut self.rng);
        let network = Arc::new(Network::new(consensus.as_ref().clone().into_consensus()));
        let relays = network.relays().count();
        self.monitor.list_is_there(relays, consensus.valid_until);
        self.manager.set_network(network).await;
        self.options.tell(Status::Consensus { relays });
        if self.published == Published::Current {
            tracing::debug!(relays, "a newer list of relays is there");
        } else {
            tracing::info!(relays, "the signed list of relays is there; building circuits");
        }
        self.published = Published::Current;
    }

    /// A warning when it matters: nothing works without a consensus, while one that is still valid can be replaced later.
    fn tell(&self, error: &FetchError) {
        tracing::debug!(%error, "no consensus fetched");
        let failures = self.backoff.failures();
        self.monitor.fetch_failed(FetchTrouble {
            failures,
            what: error.to_string(),
            advice: advice(error),
            clock: matches!(error, FetchError::Refused(DirError::NotYetValid | DirError::Expired)),
        });
        let due = failures >= TELL_AFTER && failures.is_power_of_two();
        if due && self.store.current(unix_now()).is_none() {
            tracing::warn!(failures, "cannot get the list of relays: {error}. {}", advice(error));
        }
    }
}

/// Asks one directory, over a circuit of one hop.
async fn request(
    node: &Node,
    source: &Hop,
    have: UnixTime,
    monitor: &Monitor,
) -> Result<Arc<[u8]>, FetchError> {
    let built = timeout(CIRCUIT_TIMEOUT, build_one_hop(node, source, monitor)).await;
    let Ok(Ok(circuit)) = built else { return Err(FetchError::Unreachable) };
    match dirstream::request(&circuit, &Request::GetConsensus { have }).await? {
        Response::Ok(bytes) => Ok(bytes),
        Response::NotModified => Err(FetchError::NotNewer),
        Response::NotFound | Response::Busy => Err(FetchError::NotThere),
        Response::Malformed | Response::Refused(_) => Err(FetchError::RefusedUs),
    }
}

/// What a person can do about it.
fn advice(error: &FetchError) -> &'static str {
    match error {
        FetchError::Unreachable => {
            "Is this machine online, does its firewall let it out, and are the [[authority]] tables of your network right?"
        }
        FetchError::NotThere | FetchError::NotNewer => "The network may just be starting; it is tried again.",
        FetchError::RefusedUs | FetchError::Exchange(_) => {
            "It is tried again, with another authority if there is one."
        }
        FetchError::Refused(DirError::NotYetValid | DirError::Expired) => "Set this machine's clock.",
        FetchError::Refused(_) => "Are the [[authority]] tables those of your network?",
    }
}
