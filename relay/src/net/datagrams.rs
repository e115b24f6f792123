//! The exit's end of an association: datagrams between a circuit and UDP (docs/protocol.md §6.8).
//!
//! 1. A datagram from the circuit goes to its target, if the rules allow that very address; otherwise it is dropped and
//!    counted. While a name is looked up ([`names`]), the datagrams for it wait, so many bytes; all others go on.
//! 2. What comes back is passed on only from where something was sent to ([`peers`]), and dropped when the circuit has no
//!    room.
//! 3. After [`IDLE_TIMEOUT`] without either, the association ends. What strangers send does not keep it.

mod names;
mod peers;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};
use tunic_net::channel::CircuitDatagrams;
use tunic_proto::datagram::{Datagram, peer};
use tunic_proto::message::{EndReason, Target};

use self::names::{Found, Names};
use self::peers::Peers;
use super::connector::Connector;
use super::counters::{Counters, count};
use crate::core::exit::Lookup;

/// An association without traffic for so long ends (RFC 4787 §4.3 recommends it for what UDP leaves behind in the way).
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest datagram that UDP has.
const MAX_DATAGRAM: usize = 65_535;

/// One association.
pub(super) struct Association {
    connector: Arc<Connector>,
    counters: Arc<Counters>,
    circuit: CircuitDatagrams,
    idle_timeout: Duration,
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    peers: Peers,
    names: Names,
}

/// What happened next.
enum Happening {
    FromCircuit(Datagram),
    FromUdp(usize, SocketAddr),
    Found(Found),
    Nothing,
}

/// The association is over.
enum End {
    /// The client ended it, or sent what is no datagram: dropping the circuit's end says so.
    Client,
    Idle,
}

/// What is known about where a datagram is to go.
enum Way {
    /// One of these addresses, all of which may be sent to.
    To(Vec<SocketAddr>),
    /// That has to be looked up.
    Ask(Lookup),
    /// Nowhere: it is not allowed, or there is no such name.
    Nowhere,
}

impl Association {
    pub(super) fn new(connector: Arc<Connector>, counters: Arc<Counters>, circuit: CircuitDatagrams) -> Self {
        Association {
            names: Names::new(Arc::clone(&connector)),
            connector,
            counters,
            circuit,
            idle_timeout: IDLE_TIMEOUT,
            v4: None,
            v6: None,
            peers: Peers::default(),
        }
    }

    /// Runs until the client ends it, or nothing happens for long.
    pub(super) async fn run(mut self) {
        let mut buffer = vec![0; MAX_DATAGRAM];
        let mut idle_at = now() + self.idle_timeout;
        loop {
            match self.next(&mut buffer, idle_at).await {
                Err(End::Client) => return,
                Err(End::Idle) => return self.circuit.end(EndReason::Timeout),
                Ok(Happening::FromCircuit(datagram)) => {
                    idle_at = now() + self.idle_timeout;
                    self.forward(datagram).await;
                }
                Ok(Happening::FromUdp(length, from)) if self.peers.contains(from) => {
                    idle_at = now() + self.idle_timeout;
                    if self.backward(&buffer[..length], from).is_err() {
                        return;
                    }
                }
                Ok(Happening::Found(found)) => {
                    for datagram in self.names.settle(found, now()) {
                        self.forward(datagram).await;
                    }
                }
                Ok(Happening::FromUdp(..) | Happening::Nothing) => {}
            }
        }
    }

    async fn next(&mut self, buffer: &mut [u8], idle_at: Instant) -> Result<Happening, End> {
        let ready = tokio::select! {
            datagram = self.circuit.recv() => {
                return datagram.map(Happening::FromCircuit).map_err(|_| End::Client);
            }
            found = self.names.next() => return Ok(Happening::Found(found)),
            ready = readable(self.v4.as_ref()) => ready,
            ready = readable(self.v6.as_ref()) => ready,
            () = sleep_until(idle_at) => return Err(End::Idle),
        };
        // Errors are those of datagrams sent before (a port that nobody listens at): they end nothing.
        let received = ready.and_then(|socket| socket.try_recv_from(buffer));
        Ok(received.map_or(Happening::Nothing, |(length, from)| Happening::FromUdp(length, canonical(from))))
    }

    async fn forward(&mut self, datagram: Datagram) {
        match self.way(&datagram.peer) {
            Way::To(addresses) => self.send(&addresses, &datagram.payload).await,
            Way::Ask(lookup) => {
                if !self.names.look_up(lookup, datagram) {
                    count(&self.counters.datagrams_dropped);
                }
            }
            Way::Nowhere => count(&self.counters.datagrams_refused),
        }
    }

    fn way(&mut self, target: &Target) -> Way {
        if let Some(known) = self.names.known(target, now()) {
            return if known.is_empty() { Way::Nowhere } else { Way::To(known) };
        }
        match self.connector.admit(target.clone()) {
            Ok(Lookup::Addr(address)) => {
                let address = canonical(address);
                // What was sent to before was allowed before: judging asks the system.
                let allowed = self.peers.contains(address) || self.connector.allows(address);
                if allowed { Way::To(vec![address]) } else { Way::Nowhere }
            }
            Ok(lookup) => Way::Ask(lookup),
            Err(_) => Way::Nowhere,
        }
    }

    /// To the first of these addresses that this machine has a way to.
    async fn send(&mut self, candidates: &[SocketAddr], payload: &[u8]) {
        for &to in candidates {
            let slot = if to.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
            if slot.is_none() {
                *slot = bind(to).await.ok();
            }
            let Some(socket) = slot else { continue };
            if !self.circuit.admit_write(payload.len()) {
                break;
            }
            match socket.try_send_to(payload, to) {
                Ok(_) => return self.peers.sent_to(to),
                // What the system has no room for is dropped, as everywhere on the way of a datagram.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {}
            }
        }
        count(&self.counters.datagrams_dropped);
    }

    /// Passes on what came from a peer.
    fn backward(&mut self, payload: &[u8], from: SocketAddr) -> Result<(), ()> {
        self.names.answered(from);
        if !self.circuit.admit_read(payload.len()) {
            count(&self.counters.datagrams_dropped);
            return Ok(());
        }
        let datagram = Datagram { peer: peer(from.ip(), from.port()), payload: payload.to_vec() };
        match self.circuit.try_send(&datagram) {
            Ok(true) => {}
            Ok(false) => count(&self.counters.datagrams_dropped),
            Err(_) => return Err(()),
        }
        Ok(())
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[expect(clippy::disallowed_methods, reason = "the shell's clock")]
fn now() -> Instant {
    Instant::now()
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

#[cfg(test)]
mod tests;
