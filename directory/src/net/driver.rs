//! Does what the state machine wants done, and calls it when its time comes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};
use tunic_net::channel::Node;
use tunic_net::daemon::{RunOptions, Status, unix_now};
use tunic_net::keys::NodeKeys;
use tunic_proto::dir::{Request, Response, SignedConsensus, UncheckedVote};
use tunic_proto::ids::RelayId;
use tunic_proto::time::UnixTime;

use super::peers::{PeerAuthority, Peers};
use super::service::{Service, now};
use super::{probe, state};
use crate::config::Config;
use crate::core::{Moment, Output, RoundFailure};

/// The driver looks at the clock at least so often, because the system's may be set.
const MAX_SLEEP: Duration = Duration::from_secs(5);
/// From one attempt to post something to the next, at first; doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// From one attempt to the next at most.
const MAX_RETRY: Duration = Duration::from_secs(10);
/// How often the descriptors are stored, if there are new ones.
const STORE_INTERVAL: Duration = Duration::from_secs(60);
/// How often the keys are looked at, for a signing certificate that was renewed.
const KEY_INTERVAL: Duration = Duration::from_secs(24 * 3_600);

/// Does what the state machine wants done. Its tasks are bounded by what the state machine asks for: a few for each peer
/// and round, each of which ends with the round, and so many probes.
pub(super) struct Driver {
    node: Node,
    service: Arc<Service>,
    peers: Arc<Peers>,
    options: Arc<RunOptions>,
    consensus_file: PathBuf,
    descriptor_file: PathBuf,
    key_dir: PathBuf,
    /// Held while peers are asked for their consensus.
    fetching: Arc<Mutex<()>>,
    /// What was last told.
    reachable: usize,
    last_failure: Option<RoundFailure>,
}

impl Driver {
    pub(super) fn new(
        node: Node,
        service: Arc<Service>,
        peers: Arc<Peers>,
        config: &Config,
        options: RunOptions,
    ) -> Self {
        Driver {
            node,
            service,
            peers,
            options: Arc::new(options),
            consensus_file: config.consensus_file(),
            descriptor_file: config.descriptor_file(),
            key_dir: config.key_dir(),
            fetching: Arc::default(),
            reachable: 0,
            last_failure: None,
        }
    }

    /// Goes on until it is dropped.
    pub(super) async fn run(mut self) {
        let mut keys_read = now();
        let mut stored = (now(), 0);
        loop {
            let deadline = self.service.peek(|authority, now| {
                if now >= authority.poll_timeout() {
                    authority.handle_timeout(now);
                }
                authority.poll_timeout()
            });
            while let Some(output) = self.service.peek(|authority, _| authority.poll_output()) {
                self.perform(output).await;
            }
            self.tell_reachable();
            if now() >= keys_read.plus(KEY_INTERVAL) {
                keys_read = now();
                self.renew_signer();
            }
            let taken = self.service.peek(|authority, _| authority.counters().descriptors);
            if taken != stored.1 && now() >= stored.0.plus(STORE_INTERVAL) {
                stored = (now(), taken);
                let descriptors = self.service.peek(|authority, _| authority.descriptors());
                self.store(self.descriptor_file.clone(), descriptors).await;
            }
            let _ = timeout(deadline.since(now()).min(MAX_SLEEP), self.service.changed.notified()).await;
        }
    }

    async fn perform(&mut self, output: Output) {
        match output {
            Output::Probe { relay, addresses } => {
                let service = self.service.clone();
                tokio::spawn(async move {
                    let result = probe::probe(relay, addresses).await;
                    if let Err(error) = &result {
                        debug!(%relay, "a relay does not answer: {error}");
                    }
                    service.with(|authority, now| authority.handle_probe_result(now, relay, result.is_ok()));
                });
            }
            Output::SendVote { bytes, until } => self.post(Request::PostVote(bytes.to_vec()), until),
            Output::SendSignature { valid_after, digest, line, until } => {
                self.post(Request::PostSignature { valid_after, digest, line }, until);
            }
            Output::FetchVote { from, valid_after } => self.fetch_vote(from, valid_after),
            Output::FetchConsensus { have } => self.fetch_consensus(have),
            Output::Publish(consensus) => self.publish(consensus).await,
            Output::RoundFailed { failure, bootstrap } => self.report_failure(failure, bootstrap),
            Output::Equivocation(id) => {
                let number = self.peers.get(id).map_or(0, |peer| peer.number);
                warn!(
                    "[[authority]] number {number} signed two different votes for one round: neither counts"
                );
            }
        }
    }

    /// Posts to every peer, again while one is busy or out of reach.
    fn post(&self, request: Request, until: Moment) {
        let request = Arc::new(request);
        for peer in self.peers.iter() {
            let (peers, peer, request) = (self.peers.clone(), peer.clone(), request.clone());
            tokio::spawn(async move {
                let left = until.since(now());
                if timeout(left, post_to(&peers, &peer, &request)).await.is_err() {
                    debug!("[[authority]] number {} took nothing until the end of the round", peer.number);
                }
            });
        }
    }

    fn fetch_vote(&self, from: RelayId, valid_after: UnixTime) {
        let Some(peer) = self.peers.get(from).cloned() else { return };
        let (peers, service) = (self.peers.clone(), self.service.clone());
        tokio::spawn(async move {
            let fetch = async {
                let Response::Ok(bytes) = peers.ask(&peer, &Request::GetVote { valid_after }).await? else {
                    bail!("it has none");
                };
                let taken = tokio::task::spawn_blocking(move || {
                    let vote = UncheckedVote::parse(&bytes)?;
                    service.with(|authority, now| authority.handle_vote(now, vote))
                });
                taken.await?.map_err(anyhow::Error::new)
            };
            if let Err(error) = fetch.await {
                debug!("no vote of [[authority]] number {}: {error:#}", peer.number);
            }
        });
    }

    /// Asks one peer after the other until one has a newer consensus.
    fn fetch_consensus(&self, have: UnixTime) {
        let Ok(fetching) = self.fetching.clone().try_lock_owned() else { return };
        let (peers, service) = (self.peers.clone(), self.service.clone());
        tokio::spawn(async move {
            let _held = fetching;
            for peer in peers.iter() {
                let fetch = async {
                    let Response::Ok(bytes) = peers.ask(peer, &Request::GetConsensus { have }).await? else {
                        bail!("it has no newer one");
                    };
                    let service = service.clone();
                    let taken = tokio::task::spawn_blocking(move || {
                        service.with(|authority, now| authority.handle_consensus(now, &bytes))
                    });
                    taken.await?.map_err(anyhow::Error::new)
                };
                match fetch.await {
                    Ok(()) => return,
                    Err(error) => debug!("no consensus of [[authority]] number {}: {error:#}", peer.number),
                }
            }
        });
    }

    async fn publish(&mut self, consensus: Arc<SignedConsensus>) {
        let relays = consensus.relays.len();
        self.node.limits().set_consensus(&consensus.params);
        // Before it is told: whoever is told may count on its being stored.
        self.store(self.consensus_file.clone(), consensus.bytes().to_vec()).await;
        self.last_failure = None;
        info!("consensus in force: {relays} relays");
        self.options.tell(Status::Consensus { relays });
    }

    async fn store(&self, path: PathBuf, bytes: Vec<u8>) {
        if let Err(error) = tokio::task::spawn_blocking(move || state::store(&path, &bytes)).await {
            warn!("state cannot be stored: {error}");
        }
    }

    /// While a network comes up, the same failure each second is told once.
    fn report_failure(&mut self, failure: RoundFailure, bootstrap: bool) {
        if !bootstrap {
            warn!("this round gave no consensus: {failure}");
        } else if self.last_failure.as_ref() != Some(&failure) {
            info!("no consensus yet: {failure}");
        }
        self.last_failure = Some(failure);
    }

    fn tell_reachable(&mut self) {
        let reachable = self.service.peek(|authority, _| authority.running_relays());
        if reachable != self.reachable {
            self.reachable = reachable;
            debug!("{reachable} relays answer");
            self.options.tell(Status::RelaysReachable(reachable));
        }
    }

    fn renew_signer(&self) {
        match NodeKeys::load(&self.key_dir, unix_now()) {
            Ok(keys) => {
                self.node.set_signer(keys.signer.clone());
                self.service.peek(|authority, _| authority.set_signer(keys.signer));
            }
            Err(error) => warn!("the signing key cannot be renewed: {error}"),
        }
    }
}

/// Posts to one peer until it has taken or refused it.
async fn post_to(peers: &Peers, peer: &PeerAuthority, request: &Request) {
    let mut pause = FIRST_RETRY;
    loop {
        match peers.ask(peer, request).await {
            Ok(Response::Ok(_)) => return,
            Ok(Response::Busy) => {}
            Ok(refusal) => return debug!("[[authority]] number {} refused: {refusal:?}", peer.number),
            Err(error) => debug!("[[authority]] number {} is out of reach: {error:#}", peer.number),
        }
        sleep(pause).await;
        pause = (pause * 2).min(MAX_RETRY);
    }
}
