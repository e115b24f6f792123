//! Channels, circuits and streams as the daemons use them.
//!
//! A [`Node`] opens and accepts [`Channel`]s; a client builds [`Circuit`]s over one, and [`CircuitStream`]s over those;
//! a relay answers what reaches it through its [`Responder`]. The rules are in `tunic_proto`; here are sockets and TLS.

mod admission;
mod begins;
mod circuit;
mod datagrams;
mod drain;
mod driver;
mod handshakes;
mod idle;
mod ledger;
mod limits;
mod node;
mod open;
mod pacing;
mod renewal;
mod shed;
mod stream;
mod tls;
mod traffic;
mod waiting;
mod way;

use std::net::SocketAddr;
use std::sync::Arc;

use tunic_proto::ids::RelayId;
use tunic_proto::keys::{OnionSecret, Signer};
use tunic_proto::message::{EndReason, Target};
use tunic_proto::resolve::Query;

pub use admission::{Admission, Rest};
pub use circuit::{Channel, Circuit};
pub use datagrams::CircuitDatagrams;
pub use ledger::ChannelFigures;
pub use limits::{Limits, Place, Places};
pub use node::Node;
pub use open::ConnectError;
pub use shed::Shed;
pub use stream::{CircuitStream, IncomingStream, reset_when_closed, splice, splice_counted};
pub use tls::{Buffer, RecordError, Records, Tls, TlsHandshake};
pub use traffic::{Moved, Traffic};
pub use tunic_proto::circuit::{BuildError, CircuitStatus, HopSpec};

/// What a node answers to the circuits that reach it. Calls must not block: spawn what takes time.
pub trait Responder: Send + Sync + 'static {
    /// Where the relay to extend to listens; `None` if it is unknown or circuits may not be extended here.
    fn lookup(&self, id: RelayId) -> Option<Vec<SocketAddr>>;
    /// Whether this is a relay or an authority of the network. Others are held to what one address may ask for, whatever
    /// identity they have made for themselves.
    fn is_member(&self, _id: RelayId) -> bool {
        false
    }
    /// Somebody wants a connection.
    fn begin(&self, target: Target, stream: IncomingStream);
    /// Somebody wants the directory (see [`crate::dirstream::serve`]).
    fn begin_dir(&self, stream: IncomingStream);
    /// Somebody wants a name or an address looked up; [`IncomingStream::answer`] tells what was found.
    fn resolve(&self, _query: Query, stream: IncomingStream) {
        stream.reject(EndReason::Policy);
    }
    /// Somebody wants to send datagrams; see [`IncomingStream::accept_datagrams`].
    fn begin_udp(&self, stream: IncomingStream) {
        stream.reject(EndReason::Policy);
    }
    /// The keys with which circuit handshakes are answered: current, then previous (empty: no circuits are accepted).
    fn onion_keys(&self) -> Vec<OnionSecret>;
}

/// How a node takes part in the network.
pub struct NodeConfig {
    /// With what it proves who it is; `None` for a client.
    pub signer: Option<Arc<Signer>>,
    /// Who answers circuits; `None` for a client.
    pub responder: Option<Arc<dyn Responder>>,
    /// Bytes of queued cells and stream data that the process may hold.
    pub memory_budget: usize,
}

/// Whom to connect to.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Who it has to be.
    pub id: RelayId,
    /// Where it listens; tried in this order.
    pub addresses: Vec<SocketAddr>,
}

/// Who is at the other end of a channel, as far as this end knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The identity that it proved; `None` for a client.
    pub id: Option<RelayId>,
    /// Where it is seen.
    pub address: Option<SocketAddr>,
}

/// For the path log at debug level only: it holds an address.
impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.id, self.address) {
            (Some(id), _) => write!(f, "relay {id}"),
            (None, Some(address)) => write!(f, "client {address}"),
            (None, None) => f.write_str("client"),
        }
    }
}
