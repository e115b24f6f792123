//! The exit's end of an association: datagrams between a circuit and UDP (docs/protocol.md §6.8).
//!
//! 1. A datagram from the circuit goes to its target, if the rules allow that very address; otherwise it is dropped.
//! 2. What comes back is passed on only from where something was sent to, and dropped when the circuit has no room.
//! 3. After [`IDLE_TIMEOUT`] without either, the association ends.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;
use tunic_net::channel::CircuitDatagrams;
use tunic_proto::datagram::{Datagram, peer};
use tunic_proto::message::{EndReason, Target};

use super::connector::Connector;

/// An association without traffic for so long ends (RFC 4787 §4.3 recommends it for what UDP leaves behind in the way).
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Addresses of an association that may answer; with one more, the oldest may not.
const MAX_PEERS: usize = 256;
/// Names of an association whose addresses are remembered.
const MAX_NAMES: usize = 16;
/// Longest datagram that UDP has.
const MAX_DATAGRAM: usize = 65_535;

/// One association.
pub(super) struct Association {
    connector: Arc<Connector>,
    circuit: CircuitDatagrams,
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    peers: VecDeque<SocketAddr>,
    names: VecDeque<(Target, SocketAddr)>,
}

/// What happened next.
enum Happening {
    FromCircuit(Datagram),
    FromUdp(usize, SocketAddr),
    Nothing,
}

impl Association {
    pub(super) fn new(connector: Arc<Connector>, circuit: CircuitDatagrams) -> Self {
        Association { connector, circuit, v4: None, v6: None, peers: VecDeque::new(), names: VecDeque::new() }
    }

    /// Runs until the client ends it, or nothing happens for long.
    pub(super) async fn run(mut self) {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let Ok(happening) = timeout(IDLE_TIMEOUT, self.next(&mut buffer)).await else {
                return self.circuit.end(EndReason::Timeout);
            };
            match happening {
                // The client ended it, or sent what is no datagram: dropping the circuit's end says so.
                Err(()) => return,
                Ok(Happening::FromCircuit(datagram)) => self.send(datagram).await,
                Ok(Happening::FromUdp(length, from)) => {
                    let known = self.peers.contains(&from);
                    let datagram = || Datagram {
                        peer: peer(from.ip(), from.port()),
                        payload: buffer[..length].to_vec(),
                    };
                    if known && self.circuit.try_send(&datagram()).is_err() {
                        return;
                    }
                }
                Ok(Happening::Nothing) => {}
            }
        }
    }

    async fn next(&mut self, buffer: &mut [u8]) -> Result<Happening, ()> {
        let ready = tokio::select! {
            datagram = self.circuit.recv() => return datagram.map(Happening::FromCircuit).map_err(drop),
            ready = readable(self.v4.as_ref()) => ready,
            ready = readable(self.v6.as_ref()) => ready,
        };
        // Errors are those of datagrams sent before (a port that nobody listens at): they end nothing.
        let received = ready.and_then(|socket| socket.try_recv_from(buffer));
        Ok(received.map_or(Happening::Nothing, |(length, from)| {
            Happening::FromUdp(length, SocketAddr::new(from.ip().to_canonical(), from.port()))
        }))
    }

    /// Sends where the rules allow; drops otherwise.
    async fn send(&mut self, datagram: Datagram) {
        let Some(to) = self.address(datagram.peer).await else { return };
        let slot = if to.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        if slot.is_none() {
            *slot = bind(to).await.ok();
        }
        let Some(socket) = slot else { return };
        self.peers.retain(|known| *known != to);
        if self.peers.len() == MAX_PEERS {
            self.peers.pop_front();
        }
        self.peers.push_back(to);
        // What the system has no room for is dropped, as everywhere on the way of a datagram.
        let _ = socket.try_send_to(&datagram.payload, to);
    }

    async fn address(&mut self, target: Target) -> Option<SocketAddr> {
        if let Some((_, known)) = self.names.iter().find(|(name, _)| *name == target) {
            return Some(*known);
        }
        let is_name = matches!(target, Target::Name(..));
        let lookup = self.connector.admit(target.clone()).ok()?;
        let found = self.connector.candidates(lookup).await.ok()?.into_iter().next()?;
        if is_name {
            if self.names.len() == MAX_NAMES {
                self.names.pop_front();
            }
            self.names.push_back((target, found));
        }
        Some(found)
    }
}

async fn readable(socket: Option<&UdpSocket>) -> io::Result<&UdpSocket> {
    match socket {
        Some(socket) => socket.readable().await.map(|()| socket),
        None => std::future::pending().await,
    }
}

async fn bind(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = match to {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await?,
    };
    // Until the runtime has seen that it is writable, `try_send_to` would say that there is no room.
    socket.writable().await?;
    Ok(socket)
}
