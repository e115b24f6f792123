//! `UDP ASSOCIATE`: datagrams between one application and a circuit of their own (RFC 1928 §7).
//!
//! 1. A UDP socket is bound at the address at which the application reached the port, and told to it.
//! 2. The circuit is asked for when the first datagram tells where it leads; what comes meanwhile is kept, so much.
//! 3. The association ends with the application's connection. Whatever finds no room anywhere is dropped.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;
use tunic_net::channel::CircuitDatagrams;
use tunic_proto::datagram::{Datagram, DatagramsEnded};

use super::Application;
use super::pending::Pending;
use crate::core::front::socks5::{reply_with, udp};
use crate::core::isolation::Isolation;
use crate::net::client::Client;
use crate::net::connect_error::ConnectError;
use crate::net::monitor::Listed;

/// Longest datagram that UDP has.
const MAX_DATAGRAM: usize = 65_535;

type Connecting = Pin<Box<dyn Future<Output = Result<CircuitDatagrams, ConnectError>> + Send>>;

enum Link {
    None,
    Connecting(Connecting),
    Open(CircuitDatagrams),
}

/// One association.
pub(super) struct Association {
    client: Client,
    isolation: Isolation,
    listed: Arc<Listed>,
    socket: UdpSocket,
    /// Where the application sends from: only from there datagrams are taken, and only there they go.
    application: SocketAddr,
    pending: Pending,
    counts: Counts,
    link: Link,
}

/// What did not go on its way.
#[derive(Debug, Default)]
struct Counts {
    /// Fragments, what is malformed, and what is not to go where it should.
    refused: u64,
    /// What found no room, or no circuit.
    dropped: u64,
}

enum Happening {
    FromApplication(usize, SocketAddr),
    FromCircuit(Result<Datagram, DatagramsEnded>),
    Connected(Result<CircuitDatagrams, ConnectError>),
    Nothing,
}

impl Association {
    /// Binds beside the port at `local`. `application` is where its connection comes from, with the port that it said it
    /// would send from; with 0, the first datagram that can be understood tells.
    pub(super) async fn bind(
        client: Client,
        isolation: Isolation,
        listed: Listed,
        local: SocketAddr,
        application: SocketAddr,
    ) -> io::Result<Association> {
        // Where the port is for both IPv4 and IPv6, an IPv4 application is seen at an IPv4-mapped address.
        let socket = UdpSocket::bind((local.ip().to_canonical(), 0)).await?;
        // Until the runtime has seen that it is writable, `try_send_to` would say that there is no room.
        socket.writable().await?;
        let (pending, counts) = (Pending::default(), Counts::default());
        let listed = Arc::new(listed);
        Ok(Association { client, isolation, listed, socket, application, pending, counts, link: Link::None })
    }

    /// Runs until the application closes its connection. `allowed` says where datagrams may go.
    pub(super) async fn run(
        mut self,
        connection: &mut Application,
        allowed: impl Fn(&Datagram) -> bool,
    ) -> io::Result<()> {
        connection.write_all(&reply_with(self.socket.local_addr()?)).await?;
        let result = self.carry(connection, allowed).await;
        let Counts { refused, dropped } = self.counts;
        tracing::debug!(refused, dropped, "association of datagrams ended");
        result
    }

    async fn carry(
        &mut self,
        connection: &mut Application,
        allowed: impl Fn(&Datagram) -> bool,
    ) -> io::Result<()> {
        let mut buffer = vec![0; MAX_DATAGRAM];
        let mut ignored = [0; 64];
        let mut identity = self.client.identity();
        loop {
            let happening = tokio::select! {
                // The next circuit would carry on the same conversation. The application has to begin another one.
                _ = identity.changed() => return Ok(()),
                read = connection.read(&mut ignored) => match read? {
                    0 => return Ok(()),
                    _ => Happening::Nothing,
                },
                happening = next(&self.socket, &mut self.link, &mut buffer) => happening,
            };
            match happening {
                Happening::FromApplication(length, from) => self.take(&buffer[..length], from, &allowed),
                Happening::FromCircuit(Ok(datagram)) => self.give(&datagram),
                // The exit ended it, or the circuit: the next datagram asks for another.
                Happening::FromCircuit(Err(_)) => self.link = Link::None,
                Happening::Connected(Ok(circuit)) => self.connected(circuit),
                Happening::Connected(Err(error)) => {
                    tracing::debug!(%error, "datagrams dropped: no circuit");
                    self.counts.dropped += self.pending.take().len() as u64;
                    self.link = Link::None;
                }
                Happening::Nothing => {}
            }
        }
    }

    fn take(&mut self, bytes: &[u8], from: SocketAddr, allowed: impl Fn(&Datagram) -> bool) {
        let datagram = udp::decode(bytes).filter(|_| self.is_from_application(from)).filter(allowed);
        let Some(datagram) = datagram else {
            self.counts.refused += 1;
            return;
        };
        match &self.link {
            Link::Open(circuit) => match circuit.try_send(&datagram) {
                Ok(sent) => self.counts.dropped += u64::from(!sent),
                Err(_) => self.connect(datagram),
            },
            Link::None => self.connect(datagram),
            Link::Connecting(_) => self.keep(datagram),
        }
    }

    /// An application that did not say where it would send from is known by its first datagram, which has to be a whole one
    /// and to come from the address of its connection. Another program at that address can be the first
    /// (docs/threat-model.md); a stray datagram cannot.
    fn is_from_application(&mut self, from: SocketAddr) -> bool {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        if self.application.port() == 0 && from.ip() == self.application.ip() {
            self.application = from;
        }
        from == self.application
    }

    fn connect(&mut self, first: Datagram) {
        let (client, isolation, target) = (self.client.clone(), self.isolation.clone(), first.peer.clone());
        let listed = self.listed.clone();
        let associate = async move { client.associate_listed(target, isolation, Some(&listed)).await };
        self.link = Link::Connecting(Box::pin(associate));
        self.keep(first);
    }

    fn keep(&mut self, datagram: Datagram) {
        let kept = self.pending.keep(datagram);
        self.counts.dropped += u64::from(!kept);
    }

    fn connected(&mut self, circuit: CircuitDatagrams) {
        for datagram in self.pending.take() {
            // That it ended is noticed by reading.
            let sent = circuit.try_send(&datagram).unwrap_or(false);
            self.counts.dropped += u64::from(!sent);
        }
        self.link = Link::Open(circuit);
    }

    fn give(&mut self, datagram: &Datagram) {
        let sent = udp::encode(datagram).map(|bytes| self.socket.try_send_to(&bytes, self.application));
        self.counts.dropped += u64::from(!matches!(sent, Some(Ok(_))));
    }
}

async fn next(socket: &UdpSocket, link: &mut Link, buffer: &mut [u8]) -> Happening {
    let from_link = async {
        match link {
            Link::None => std::future::pending().await,
            Link::Connecting(connecting) => Happening::Connected(connecting.await),
            Link::Open(circuit) => Happening::FromCircuit(circuit.recv().await),
        }
    };
    tokio::select! {
        // Errors are those of datagrams sent before: they end nothing.
        received = socket.recv_from(buffer) => {
            received.map_or(Happening::Nothing, |(length, from)| Happening::FromApplication(length, from))
        }
        happening = from_link => happening,
    }
}
