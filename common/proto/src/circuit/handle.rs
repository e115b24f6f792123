//! A circuit as its user holds it.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::channel::{CircKey, Inbox, Mail};
use crate::circuit::{Cover, MAX_STREAMS};
use crate::ids::{HopNum, RelayId};
use crate::keys::OnionKey;
use crate::message::{Begin, DestroyReason, EndReason};
use crate::padding::MachineSpec;
use crate::stream::{StreamIo, StreamShared};
use crate::sync::lock;

/// One hop of a circuit to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HopSpec {
    /// The relay.
    pub id: RelayId,
    /// The onion key that the consensus lists for it.
    pub onion_key: OnionKey,
}

/// A circuit could not be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("hop {hop}: {reason}")]
pub struct BuildError {
    /// The index in the path of the hop that failed.
    pub hop: usize,
    /// Why, as far as it was told.
    pub reason: DestroyReason,
}

/// The state of a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CircuitStatus {
    /// Its hops are being asked, one after the other.
    Building,
    /// It carries streams.
    Open,
    /// It could not be built.
    Failed(BuildError),
    /// It was open and has ended.
    Closed(DestroyReason),
    /// It was open, and a cell came back whose layer of this hop (an index in the path) did not open: that hop, one
    /// behind it or a channel between them changed, lost or repeated a cell.
    Tampered(usize),
}

pub(crate) struct CircuitShared {
    inbox: Arc<Inbox>,
    state: Mutex<State>,
    streams: AtomicUsize,
}

struct State {
    status: CircuitStatus,
    /// When each hop answered, as far as they have.
    answered: Vec<Instant>,
    place: Option<CircKey>,
    released: bool,
    wakers: Vec<Waker>,
}

impl CircuitShared {
    /// The table entry that the channel made for the circuit; `None` once it has ended.
    pub(crate) fn place(&self) -> Option<CircKey> {
        lock(&self.state).place
    }

    /// Notes the table entry; false if nobody wants the circuit any more.
    pub(crate) fn set_place(&self, key: CircKey) -> bool {
        let mut state = lock(&self.state);
        state.place = Some(key);
        !state.released
    }

    pub(crate) fn status(&self) -> CircuitStatus {
        lock(&self.state).status
    }

    pub(crate) fn set_status(&self, status: CircuitStatus) {
        let mut state = lock(&self.state);
        if !matches!(state.status, CircuitStatus::Building | CircuitStatus::Open) {
            return;
        }
        state.status = status;
        if status != CircuitStatus::Open {
            state.place = None;
        }
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// One more hop has answered.
    pub(crate) fn hop_answered(&self, now: Instant) {
        lock(&self.state).answered.push(now);
    }

    pub(crate) fn stream_gone(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl State {
    fn park(&mut self, cx: &Context<'_>) {
        if !self.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.wakers.push(cx.waker().clone());
        }
    }
}

/// A circuit; dropping the handle ends it.
pub struct CircuitHandle(Arc<CircuitShared>);

impl CircuitHandle {
    /// Asks a channel for a circuit over these hops, the first of which is the relay at its end.
    pub fn create(inbox: &Arc<Inbox>, hops: Vec<HopSpec>) -> CircuitHandle {
        let shared = Arc::new(CircuitShared {
            inbox: inbox.clone(),
            state: Mutex::new(State {
                status: CircuitStatus::Building,
                answered: Vec::new(),
                place: None,
                released: false,
                wakers: Vec::new(),
            }),
            streams: AtomicUsize::new(0),
        });
        if inbox.post(Mail::Create(shared.clone(), hops)).is_err() {
            let lost = BuildError { hop: 0, reason: DestroyReason::ChannelLost };
            shared.set_status(CircuitStatus::Failed(lost));
        }
        CircuitHandle(shared)
    }

    /// The state of the circuit.
    pub fn status(&self) -> CircuitStatus {
        self.0.status()
    }

    /// Ready with the next state that differs from `seen`.
    pub fn poll_status(&self, seen: CircuitStatus, cx: &mut Context<'_>) -> Poll<CircuitStatus> {
        let mut state = lock(&self.0.state);
        if state.status != seen {
            return Poll::Ready(state.status);
        }
        state.park(cx);
        Poll::Pending
    }

    /// When each hop answered, as far as they have.
    pub fn answered(&self) -> Vec<Instant> {
        lock(&self.0.state).answered.clone()
    }

    /// Ends the circuit and every stream on it, whoever holds them.
    pub fn end(&self) {
        let place = lock(&self.0.state).place;
        if let Some(key) = place {
            // A closed channel has ended the circuit already or is about to.
            let _ = self.0.inbox.post(Mail::Release(key));
        }
    }

    /// Begins a stream. Bytes may be written at once.
    ///
    /// # Errors
    /// [`EndReason::Resources`] with [`MAX_STREAMS`] streams, [`EndReason::Reset`] unless the circuit is open.
    pub fn begin(&self, begin: Begin) -> Result<StreamIo, EndReason> {
        if self.status() != CircuitStatus::Open {
            return Err(EndReason::Reset);
        }
        if self.0.streams.fetch_add(1, Ordering::Relaxed) >= MAX_STREAMS {
            self.0.stream_gone();
            return Err(EndReason::Resources);
        }
        let stream = StreamShared::new(self.0.inbox.clone());
        let mail = Mail::Begin(self.0.clone(), stream.clone(), begin);
        if self.0.inbox.post(mail).is_err() {
            self.0.stream_gone();
            self.0.set_status(CircuitStatus::Closed(DestroyReason::ChannelLost));
            return Err(EndReason::Reset);
        }
        Ok(StreamIo(stream))
    }

    /// Asks this hop (an index in the path, not the last) for machines; once for each circuit. Whether they are agreed on
    /// shows in the channel's padding statistics.
    pub fn pad(&self, hop: usize, spec: MachineSpec) {
        self.aside(hop, |hop| Mail::Pad(self.0.clone(), hop, spec));
    }

    /// Sends cover traffic to this hop, an index in the path. It is given up if too much of it waits.
    pub fn cover(&self, hop: usize, cover: Cover) {
        self.aside(hop, |hop| Mail::Cover(self.0.clone(), hop, cover));
    }

    fn aside(&self, hop: usize, mail: impl FnOnce(HopNum) -> Mail) {
        if let Some(hop) = hop.try_into().ok().and_then(HopNum::new)
            && self.status() == CircuitStatus::Open
        {
            // A closed channel has ended the circuit.
            let _ = self.0.inbox.post(mail(hop));
        }
    }

    /// Streams that are not gone yet.
    pub fn stream_count(&self) -> usize {
        self.0.streams.load(Ordering::Relaxed)
    }
}

impl Drop for CircuitHandle {
    fn drop(&mut self) {
        let place = {
            let mut state = lock(&self.0.state);
            state.released = true;
            state.place
        };
        if let Some(key) = place {
            let _ = self.0.inbox.post(Mail::Release(key));
        }
    }
}

impl fmt::Debug for CircuitHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CircuitHandle({:?})", self.status())
    }
}
