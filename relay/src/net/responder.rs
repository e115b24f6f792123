//! What a relay answers to the circuits that reach it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tunic_net::channel::{IncomingStream, Place, Places, Responder, splice};
use tunic_net::daemon::unix_now;
use tunic_net::dirstream::{self, DirHandler};
use tunic_proto::dir::{Request, Response};
use tunic_proto::ids::RelayId;
use tunic_proto::keys::OnionSecret;
use tunic_proto::message::{EndReason, Target};
use tunic_proto::resolve::Query;

use super::connector::Connector;
use super::counters::{Counters, count};
use super::datagrams::Association;
use super::keyring::KeyRing;
use super::view::SharedView;
use crate::core::exit::Lookup;

/// How long the answer to a lookup may take to be fetched.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Extends circuits, connects streams, mirrors the consensus.
pub struct RelayResponder {
    connector: Arc<Connector>,
    view: Arc<SharedView>,
    keys: Arc<KeyRing>,
    counters: Arc<Counters>,
    places: Arc<Places>,
    mirror: Arc<Mirror>,
}

impl RelayResponder {
    /// Answers with these means; streams take one of the places each.
    pub fn new(
        connector: Arc<Connector>,
        view: Arc<SharedView>,
        keys: Arc<KeyRing>,
        counters: Arc<Counters>,
        places: Arc<Places>,
    ) -> Self {
        RelayResponder {
            connector,
            mirror: Arc::new(Mirror(Arc::clone(&view))),
            view,
            keys,
            counters,
            places,
        }
    }

    fn admit(&self, target: Target) -> Result<(Lookup, Place), EndReason> {
        let lookup = self.connector.admit(target)?;
        let permit = self.places.take().ok_or(EndReason::Resources)?;
        Ok((lookup, permit))
    }

    fn reject(counters: &Counters, stream: IncomingStream, reason: EndReason) {
        count(match reason {
            EndReason::Policy => &counters.streams_refused,
            EndReason::Resources => &counters.streams_without_room,
            _ => &counters.streams_failed,
        });
        stream.reject(reason);
    }
}

impl Responder for RelayResponder {
    fn lookup(&self, id: RelayId) -> Option<Vec<SocketAddr>> {
        self.view.read().lookup(id, unix_now())
    }

    fn is_member(&self, id: RelayId) -> bool {
        self.view.read().is_member(&id, unix_now())
    }

    fn begin(&self, target: Target, stream: IncomingStream) {
        let (lookup, permit) = match self.admit(target) {
            Ok(admitted) => admitted,
            Err(reason) => return Self::reject(&self.counters, stream, reason),
        };
        let (connector, counters) = (Arc::clone(&self.connector), Arc::clone(&self.counters));
        tokio::spawn(async move {
            let connected = tokio::select! {
                biased;
                () = stream.closed() => return,
                connected = connector.connect(lookup) => connected,
            };
            match connected {
                Ok((tcp, addr)) => {
                    count(&counters.streams_connected);
                    // How it ended, both ends have been told.
                    let _ = splice(stream.accept(Some(addr.ip())), tcp).await;
                }
                Err(reason) => Self::reject(&counters, stream, reason),
            }
            drop(permit);
        });
    }

    fn begin_dir(&self, stream: IncomingStream) {
        count(&self.counters.directory_requests);
        dirstream::serve(stream, Arc::clone(&self.mirror) as Arc<dyn DirHandler>);
    }

    fn resolve(&self, query: Query, stream: IncomingStream) {
        let Some(permit) = self.places.take() else {
            return Self::reject(&self.counters, stream, EndReason::Resources);
        };
        let (connector, counters) = (Arc::clone(&self.connector), Arc::clone(&self.counters));
        tokio::spawn(async move {
            let found = tokio::select! {
                biased;
                () = stream.closed() => return,
                found = connector.look_up(query) => found,
            };
            match found {
                Ok(answer) => {
                    count(&counters.lookups);
                    let _ = timeout(ANSWER_TIMEOUT, stream.answer(&answer)).await;
                }
                Err(reason) => Self::reject(&counters, stream, reason),
            }
            drop(permit);
        });
    }

    fn begin_udp(&self, stream: IncomingStream) {
        if !self.connector.is_exit() {
            return Self::reject(&self.counters, stream, EndReason::Policy);
        }
        let Some(permit) = self.places.take() else {
            return Self::reject(&self.counters, stream, EndReason::Resources);
        };
        count(&self.counters.associations);
        let (connector, counters) = (Arc::clone(&self.connector), Arc::clone(&self.counters));
        let association = Association::new(connector, counters, stream.accept_datagrams());
        tokio::spawn(async move {
            association.run().await;
            drop(permit);
        });
    }

    fn onion_keys(&self) -> Vec<OnionSecret> {
        self.keys.onion()
    }
}

/// Serves the consensus that the relay has.
struct Mirror(Arc<SharedView>);

impl DirHandler for Mirror {
    fn handle(&self, request: Request) -> Response {
        self.0.read().answer(&request, unix_now())
    }
}
