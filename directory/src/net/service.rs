//! What the authority answers to those who call it, and the one lock around its state machine.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tunic_net::channel::{IncomingStream, Responder};
use tunic_net::daemon::unix_now_ms;
use tunic_net::dirstream::{self, DirHandler};
use tunic_proto::dir::{Request, Response, UncheckedDescriptor, UncheckedVote};
use tunic_proto::ids::RelayId;
use tunic_proto::keys::OnionSecret;
use tunic_proto::message::{EndReason, Target};
use tunic_proto::time::UnixTime;

use crate::core::{Authority, Moment, Refusal};

/// The wall clock in milliseconds. A clock before 1970 reads as 0.
pub(super) fn now() -> Moment {
    Moment(unix_now_ms())
}

/// The state machine as tasks share it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Service {
    authority: Arc<Mutex<Authority>>,
    /// Told whenever the state machine may have something to do.
    pub changed: Arc<Notify>,
    onion_keys: Arc<[OnionSecret]>,
}

impl Service {
    pub(super) fn new(authority: Authority, onion_keys: Vec<OnionSecret>) -> Self {
        Service {
            authority: Arc::new(Mutex::new(authority)),
            changed: Arc::default(),
            onion_keys: onion_keys.into(),
        }
    }

    /// Calls the state machine, and then the driver.
    pub(super) fn with<T>(&self, call: impl FnOnce(&mut Authority, Moment) -> T) -> T {
        let result = self.peek(call);
        self.changed.notify_one();
        result
    }

    /// Calls the state machine where nothing follows from it, or the driver itself calls.
    pub(super) fn peek<T>(&self, call: impl FnOnce(&mut Authority, Moment) -> T) -> T {
        let mut authority = self.authority.lock().unwrap_or_else(PoisonError::into_inner);
        call(&mut authority, now())
    }

    fn consensus(&self, have: UnixTime) -> Response {
        self.peek(|authority, now| match authority.consensus(now.unix()) {
            None => Response::NotFound,
            Some(consensus) if consensus.valid_after <= have => Response::NotModified,
            Some(consensus) => Response::Ok(consensus.bytes().clone()),
        })
    }

    fn own_vote(&self, valid_after: UnixTime) -> Response {
        self.peek(|authority, _| match authority.own_vote(valid_after) {
            None => Response::NotFound,
            Some(vote) => Response::Ok(vote.clone()),
        })
    }
}

impl DirHandler for Service {
    /// Documents are parsed before the lock is taken.
    fn handle(&self, request: Request) -> Response {
        let outcome = match request {
            Request::GetConsensus { have } => return self.consensus(have),
            Request::GetVote { valid_after } => return self.own_vote(valid_after),
            Request::PostDescriptor(bytes) => UncheckedDescriptor::parse(&bytes)
                .map_err(Refusal::from)
                .and_then(|descriptor| self.with(|core, now| core.handle_descriptor(now, descriptor))),
            Request::PostVote(bytes) => UncheckedVote::parse(&bytes)
                .map_err(Refusal::from)
                .and_then(|vote| self.with(|core, now| core.handle_vote(now, vote))),
            Request::PostSignature { valid_after, digest, line } => {
                self.with(|core, now| core.handle_signature(now, valid_after, digest, *line))
            }
        };
        outcome.map_or_else(Response::from, |()| Response::done())
    }

    fn trusts(&self, peer: RelayId) -> bool {
        self.peek(|authority, _| authority.is_authority(&peer))
    }
}

impl Responder for Service {
    /// Circuits end here: an authority is no relay.
    fn lookup(&self, _id: RelayId) -> Option<Vec<SocketAddr>> {
        None
    }

    fn is_member(&self, id: RelayId) -> bool {
        self.peek(|authority, now| authority.is_member(&id, now.unix()))
    }

    fn begin(&self, _target: Target, stream: IncomingStream) {
        stream.reject(EndReason::Policy);
    }

    fn begin_dir(&self, stream: IncomingStream) {
        dirstream::serve(stream, Arc::new(self.clone()));
    }

    fn onion_keys(&self) -> Vec<OnionSecret> {
        self.onion_keys.to_vec()
    }
}
