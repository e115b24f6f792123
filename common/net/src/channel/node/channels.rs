//! The channels of a node: those that it opens and keeps for reuse, and those that it accepts.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::debug;
use tunic_proto::channel::{ChannelConfig, PeerInfo, Role};
use tunic_proto::counters::Incident;
use tunic_proto::flow::last_dip;
use tunic_proto::ids::RelayId;

use super::{NodeInner, ended, lock, now};
use crate::channel::drain::Tally;
use crate::channel::driver::Driver;
use crate::channel::idle::run_until_idle;
use crate::channel::limits::{Guest, Place, Places, Visit};
use crate::channel::open::{OPEN_TIMEOUT, Session, configure, open};
use crate::channel::way::{Failure, Slot};
use crate::channel::{Caller, Channel, ConnectError, Peer};
use crate::daemon::{unix_now, unix_now_ms};
use crate::{clock, tcp};

/// Ways to relays that are remembered before those without a channel are forgotten.
const MAX_WAYS: usize = 8_192;
/// Circuits on one channel at a time.
const MAX_CIRCUITS: usize = 65_536;
/// Callers that may wait for the channel to one relay; more are refused. A relay that does not answer would otherwise
/// hold every place that there is for extensions.
const MAX_WAITING: usize = 128;
/// How long to wait for the last bytes of a channel.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

impl NodeInner {
    pub(super) async fn connect(self: &Arc<Self>, peer: &Peer) -> Result<Channel, ConnectError> {
        let slot = self.slot(peer.id);
        if let Some(channel) = slot.try_lock().ok().and_then(|way| way.open_channel().cloned()) {
            return Ok(channel);
        }
        // The map holds one.
        if Arc::strong_count(&slot) > MAX_WAITING + 1 {
            return Err(ConnectError::Refused);
        }
        let asked = now();
        let mut way = slot.lock().await;
        if let Some(channel) = way.open_channel() {
            return Ok(channel.clone());
        }
        if let Some(error) = way.failure_since(asked, &peer.addresses) {
            return Err(error);
        }
        let opened = self.open_to(peer).await;
        way.failure = opened.as_ref().err().map(|error| Failure {
            at: now(),
            addresses: peer.addresses.clone(),
            error: error.repeat(),
        });
        way.channel = opened.as_ref().ok().cloned();
        opened
    }

    async fn open_to(self: &Arc<Self>, peer: &Peer) -> Result<Channel, ConnectError> {
        if !self.admission.may_call() {
            return Err(ConnectError::Refused);
        }
        let place = self.place(&self.limits.outgoing)?;
        // Seldom needed, and much larger than what waits for a channel that is there.
        let opened = Box::pin(self.call(peer)).await;
        if matches!(opened, Err(ConnectError::WrongIdentity)) {
            self.counters.count(Incident::WrongIdentity);
        }
        let (tcp, session, info) = opened?;
        Ok(self.start(tcp, session, Role::Initiator, info, place, None))
    }

    /// The slot of a relay; those without a channel are dropped now and then.
    fn slot(&self, id: RelayId) -> Slot {
        let mut channels = lock(&self.channels);
        if channels.len() > MAX_WAYS {
            channels.retain(|_, slot| slot.try_lock().map_or(true, |way| way.open_channel().is_some()));
        }
        channels.entry(id).or_default().clone()
    }

    fn place(&self, places: &Arc<Places>) -> Result<Place, ConnectError> {
        if *self.ending.borrow() {
            return Err(ConnectError::Refused);
        }
        places.take().ok_or(ConnectError::Refused)
    }

    async fn call(&self, peer: &Peer) -> Result<(TcpStream, Session, PeerInfo), ConnectError> {
        let mut result = Err(ConnectError::NoAddress);
        // An address where nothing answers leaves time for the others.
        let share = OPEN_TIMEOUT / peer.addresses.len().max(1) as u32;
        for address in &peer.addresses {
            let called = timeout(share, self.call_at(*address, peer.id)).await;
            result = called.unwrap_or(Err(ConnectError::Timeout));
            if result.is_ok() {
                break;
            }
        }
        result
    }

    async fn call_at(
        &self,
        at: SocketAddr,
        id: RelayId,
    ) -> Result<(TcpStream, Session, PeerInfo), ConnectError> {
        let tcp = tcp::connect(at).await?;
        configure(&tcp)?;
        let signer = self.signer();
        let tls = self.tls.initiate()?;
        let (session, info) = open(&tcp, tls, Role::Initiator, signer.as_deref(), Some(id)).await?;
        Ok((tcp, session, info))
    }

    pub(super) fn accept(self: &Arc<Self>, tcp: TcpStream, from: SocketAddr) {
        if let Err(refusal) = self.admission.ask() {
            return self.counters.count(refusal);
        }
        let Ok(place) = self.place(&self.limits.incoming) else {
            return self.counters.count(Incident::Resources);
        };
        let visit = match self.limits.enter(from.ip()) {
            Ok(visit) => visit,
            Err(refusal) => return self.counters.count(refusal.incident()),
        };
        let node = self.clone();
        tokio::spawn(async move {
            let Ok(tls) = node.tls.respond() else { return };
            let signer = node.signer();
            let opening = async {
                configure(&tcp)?;
                open(&tcp, tls, Role::Responder, signer.as_deref(), None).await
            };
            let opened = timeout(OPEN_TIMEOUT, opening).await;
            match opened.unwrap_or(Err(ConnectError::Timeout)) {
                Ok((session, info)) => {
                    let visit = Some(visit).filter(|_| !info.id.is_some_and(|id| node.is_member(id)));
                    let channel = node.start(tcp, session, Role::Responder, info, place, visit);
                    node.keep(info.id, channel);
                }
                Err(error) => {
                    node.counters.count(match error {
                        ConnectError::Handshake(_) | ConnectError::WrongIdentity => {
                            Incident::ChannelHandshake
                        }
                        _ => Incident::BadConnection,
                    });
                    debug!(%from, "connection refused: {error}");
                }
            }
        });
    }

    /// Lets circuits to a relay that called us go over its channel.
    fn keep(&self, id: Option<RelayId>, channel: Channel) {
        if let Some(id) = id
            && let Ok(mut way) = self.slot(id).try_lock()
            && way.open_channel().is_none()
        {
            way.channel = Some(channel);
        }
    }

    /// Starts the task of an open channel.
    fn start(
        self: &Arc<Self>,
        tcp: TcpStream,
        session: Session,
        role: Role,
        info: PeerInfo,
        place: Place,
        visit: Option<Visit>,
    ) -> Channel {
        let mut core = tunic_proto::channel::Channel::new(ChannelConfig {
            role,
            peer: info,
            accepts_circuits: self.responder.is_some(),
            max_circuits: MAX_CIRCUITS,
            budget: self.budget.clone(),
            counters: self.counters.clone(),
            dips_from: self.responder.is_some().then(|| last_dip(clock::now(), unix_now_ms())),
            rng: Box::new(StdRng::from_rng(&mut clock::rng())),
        });
        core.set_padding(lock(&self.padding).clone());
        let entry = self.ledger.enter(core.stats(), core.inbox(), info.id.is_some());
        let (alive, closed) = watch::channel(());
        let clock_ahead_s = info.netinfo.time.map(|time| {
            // What a peer says may be absurd.
            time.0.cast_signed().saturating_sub(unix_now().0.cast_signed())
        });
        let channel = Channel::new(core.inbox().clone(), closed, clock_ahead_s);
        let guest = Guest::new(Caller { id: info.id, address: tcp.peer_addr().ok() }, visit);
        let mut driver = Driver::new(tcp, session, core, self.clone(), guest);
        let (mut ending, mut closing) = (self.ending.subscribe(), self.closing.subscribe());
        if !self.admission.may_call() {
            // It fell asleep while this channel was being opened: too late for `close_channels`.
            closing.mark_changed();
        }
        let mut tally = Tally::new(self.drain.clone());
        tokio::spawn(async move {
            let _held = (place, alive, entry);
            let broken = tokio::select! {
                broken = run_until_idle(&mut driver, &mut tally) => broken,
                () = ended(&mut ending) => None,
                _ = closing.changed() => None,
            };
            if let Some(error) = broken {
                debug!("channel ended: {error}");
            } else {
                driver.end_all();
                let _ = timeout(GOODBYE_TIMEOUT, poll_fn(|cx| driver.poll_flushed(cx))).await;
            }
            // Before `alive`: whoever learns that the channel has ended finds its inbox closed.
            drop(driver);
        });
        channel
    }
}
