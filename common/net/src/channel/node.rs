//! A node: its channels, and what it does for the circuits that reach it.

mod channels;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};
use tunic_proto::channel::{ExtendJob, Totals};
use tunic_proto::counters::{Counters, Incident};
use tunic_proto::crypto::handshake::ReplayCache;
use tunic_proto::flow::Budget;
use tunic_proto::ids::RelayId;
use tunic_proto::keys::Signer;
use tunic_proto::limits::Latency;
use tunic_proto::message::DestroyReason;
use tunic_proto::padding::PaddingRole;

use super::admission::Admission;
use super::begins::{self, Begins};
use super::drain::Drain;
use super::handshakes::Handshakes;
use super::ledger::{ChannelFigures, Ledger};
use super::limits::Limits;
use super::tls::Tls;
use super::traffic::Traffic;
use super::way::Slot;
use super::{Caller, Channel, ConnectError, NodeConfig, Peer, Responder};
use crate::clock;

/// Channels at a time that others opened, unless set otherwise.
const MAX_INCOMING: usize = 8_192;
/// Channels at a time that this node opened, unless set otherwise: strangers must not be able to use these up.
const MAX_OUTGOING: usize = 4_096;
/// Circuits that may wait for a channel to the next relay; more are refused.
const MAX_PENDING_EXTENDS: usize = 1_024;
/// Handshakes remembered against replay.
const REPLAY_CAPACITY: usize = 1 << 18;
/// Pause after the system refused to accept a connection (too many files, most often).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// While that goes on, it is told so often.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// A running node: it opens channels, keeps them for reuse, and accepts them. Cheap to clone.
#[derive(Clone)]
pub struct Node(pub(super) Arc<NodeInner>);

pub(super) struct NodeInner {
    pub(super) responder: Option<Arc<dyn Responder>>,
    signer: Mutex<Option<Arc<Signer>>>,
    tls: Tls,
    budget: Budget,
    pub(super) counters: Arc<Counters>,
    pub(super) ledger: Arc<Ledger>,
    channels: Mutex<HashMap<RelayId, Slot>>,
    pub(super) replays: Mutex<ReplayCache>,
    pub(super) limits: Arc<Limits>,
    pub(super) handshakes: Handshakes,
    pub(super) begins: Begins,
    pub(super) traffic: Arc<Traffic>,
    pub(super) admission: Admission,
    free_extends: Arc<Semaphore>,
    /// What later channels do about padding.
    padding: Mutex<PaddingRole>,
    pub(super) drain: Arc<Drain>,
    /// True once the node shuts down; every channel's task holds a receiver until it has ended.
    ending: watch::Sender<bool>,
    /// Changes when the channels that there are have to end, and the node goes on.
    closing: watch::Sender<()>,
}

impl Node {
    /// Sets up TLS; opens nothing.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(config: NodeConfig) -> io::Result<Node> {
        Ok(Node(Arc::new(NodeInner {
            tls: Tls::new()?,
            budget: Budget::new(config.memory_budget),
            responder: config.responder,
            signer: Mutex::new(config.signer),
            counters: Arc::default(),
            ledger: Arc::default(),
            channels: Mutex::default(),
            replays: Mutex::new(ReplayCache::new(REPLAY_CAPACITY)),
            limits: Arc::new(Limits::new(MAX_INCOMING, MAX_OUTGOING)),
            handshakes: Handshakes::new(),
            begins: Begins::new(begins::WORKERS),
            traffic: Arc::default(),
            admission: Admission::default(),
            free_extends: Arc::new(Semaphore::new(MAX_PENDING_EXTENDS)),
            padding: Mutex::default(),
            drain: Arc::default(),
            ending: watch::Sender::new(false),
            closing: watch::Sender::new(()),
        })))
    }

    /// Proves its identity with this key from now on: the certificate of the one before is about to expire.
    pub fn set_signer(&self, signer: Arc<Signer>) {
        *lock(&self.0.signer) = Some(signer);
    }

    /// What channels that are opened or accepted from now on do about padding. At first they neither ask nor grant.
    pub fn set_padding(&self, role: PaddingRole) {
        *lock(&self.0.padding) = role;
    }

    /// What was refused so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.0.counters
    }

    /// What the queues hold and may hold.
    pub fn budget(&self) -> &Budget {
        &self.0.budget
    }

    /// What all channels so far have done together.
    pub fn totals(&self) -> Totals {
        self.0.ledger.totals()
    }

    /// The open channels one by one, in no order.
    pub fn channels(&self) -> Vec<ChannelFigures> {
        self.0.ledger.channels()
    }

    /// Channels that are open or being opened.
    pub fn channel_count(&self) -> usize {
        self.0.limits.incoming.used() + self.0.limits.outgoing.used()
    }

    /// What neighbours may ask for.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// What goes over its sockets, and how much may.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.0.traffic
    }

    /// Whether it takes channels and circuits at all.
    pub fn admission(&self) -> &Admission {
        &self.0.admission
    }

    /// How long circuit handshakes have waited for a core.
    pub fn handshake_latency(&self) -> &Latency {
        &self.0.handshakes.latency
    }

    /// Circuit handshakes that wait for a core now.
    pub fn handshakes_waiting(&self) -> usize {
        self.0.handshakes.waiting()
    }

    /// The open channel to this peer, or a new one.
    ///
    /// # Errors
    /// [`ConnectError`] of the last address tried.
    pub async fn connect(&self, peer: &Peer) -> Result<Channel, ConnectError> {
        self.0.connect(peer).await
    }

    /// Accepts channels until the node is shut down. An error of one connection ends only that one.
    pub async fn serve(&self, listener: TcpListener) {
        let mut ending = self.0.ending.subscribe();
        let mut told: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = ended(&mut ending) => return,
            };
            match accepted {
                Ok((tcp, from)) => self.0.accept(tcp, from),
                Err(error) => {
                    if told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL) {
                        warn!("cannot accept connections: {error}; is the limit of open files reached?");
                        told = Some(now());
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Circuits on all channels; one that passes counts on both of its channels.
    pub fn circuit_count(&self) -> usize {
        self.0.drain.circuits()
    }

    /// Refuses new circuits from this call on; what it returns completes when those that there are have ended, or after
    /// `limit`. Channels are still accepted: whoever calls is told at once that it has to look elsewhere.
    pub fn drain(&self, limit: Duration) -> impl Future<Output = ()> + use<> {
        self.0.drain.start(limit)
    }

    /// Sends DESTROY for every circuit and closes every channel that there is now; the node goes on.
    pub fn close_channels(&self) {
        self.0.closing.send_replace(());
    }

    /// Sends DESTROY for every circuit, closes every channel, and returns when that is done or after `grace`.
    pub async fn shutdown(&self, grace: Duration) {
        self.begin_shutdown();
        let _ = timeout(grace, self.0.ending.closed()).await;
    }

    /// The same without waiting: the tasks of the channels end by themselves soon after.
    pub fn begin_shutdown(&self) {
        self.0.ending.send_replace(true);
        self.lock_channels().clear();
    }

    fn lock_channels(&self) -> std::sync::MutexGuard<'_, HashMap<RelayId, Slot>> {
        lock(&self.0.channels)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl NodeInner {
    pub(super) fn signer(&self) -> Option<Arc<Signer>> {
        lock(&self.signer).clone()
    }

    pub(super) fn is_member(&self, id: RelayId) -> bool {
        self.responder.as_ref().is_some_and(|responder| responder.is_member(id))
    }

    pub(super) fn extend(self: Arc<Self>, job: ExtendJob, before: &Caller) {
        let addresses = self.responder.as_ref().and_then(|responder| responder.lookup(job.id));
        let Some(addresses) = addresses.filter(|addresses| !addresses.is_empty()) else {
            return job.answer(Err(DestroyReason::UnknownRelay));
        };
        let Ok(permit) = self.free_extends.clone().try_acquire_owned() else {
            self.counters.count(Incident::Resources);
            return job.answer(Err(DestroyReason::Resources));
        };
        debug!(target: "tunic::path", %before, after = %format_args!("relay {}", job.id), "circuit passes");
        tokio::spawn(async move {
            let _held = permit;
            let peer = Peer { id: job.id, addresses };
            let channel = self.connect(&peer).await;
            job.answer(match channel {
                Ok(channel) => Ok(channel.inbox().clone()),
                Err(ConnectError::Refused) => Err(DestroyReason::Resources),
                Err(_) => Err(DestroyReason::ConnectFailed),
            });
        });
    }
}

fn now() -> Instant {
    Instant::from_std(clock::now())
}

/// Completes when the node shuts down.
async fn ended(ending: &mut watch::Receiver<bool>) {
    let _ = ending.wait_for(|ending| *ending).await;
}
