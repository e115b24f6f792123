//! Opening a channel over a TCP connection: TLS, then the handshake in cells.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tunic_proto::cell::CELL_LEN;
use tunic_proto::channel::handshake::{EXPORTER_LABEL, EXPORTER_LEN, Handshake, HandshakeError, Local, Step};
use tunic_proto::channel::{PeerInfo, Role};
use tunic_proto::ids::RelayId;
use tunic_proto::keys::Signer;
use zeroize::Zeroizing;

use super::tls::{Buffer, RecordError, Records, TlsHandshake};
use crate::daemon::unix_now;

/// How long TCP, TLS and the handshake may take together.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes that the kernel holds unsent before it takes no more: what waits, waits where the scheduler sees it.
const NOTSENT_LOWAT: u32 = 128 * 1024;

/// Room for what a peer says at once while a channel is being opened.
const READ_LEN: usize = 4 * 1024;

/// After this much silence TCP asks whether the peer's machine is still there, and so often from then on.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(10));
/// How long the peer's machine may acknowledge nothing before the connection counts as lost. The system's own limit is a
/// quarter of an hour for what was sent, and none for a silent connection: a client whose network has changed would
/// wait that long for its guard, and a relay would keep the channels of clients that have vanished for ever.
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(30);

/// A channel could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The peer has no address.
    #[error("no address to connect to")]
    NoAddress,
    /// The TCP connection failed or broke.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    /// What is on the other end speaks no TLS that we do.
    #[error("TLS failed: {0}")]
    Tls(#[from] rustls::Error),
    /// The peer broke the TLS session.
    #[error("TLS failed: {0}")]
    Record(#[from] RecordError),
    /// The peer proved another identity than the one called, or none.
    #[error("the relay is not who it should be")]
    WrongIdentity,
    /// The peer broke the channel handshake.
    #[error("channel handshake: {0}")]
    Handshake(HandshakeError),
    /// It took too long.
    #[error("timed out")]
    Timeout,
    /// The node is shutting down or full.
    #[error("this node takes no more channels")]
    Refused,
}

impl From<HandshakeError> for ConnectError {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::WrongIdentity => ConnectError::WrongIdentity,
            other => ConnectError::Handshake(other),
        }
    }
}

impl ConnectError {
    /// The same once more, for the next one who asked.
    pub(super) fn repeat(&self) -> ConnectError {
        match self {
            ConnectError::NoAddress => ConnectError::NoAddress,
            ConnectError::Io(error) => io::Error::new(error.kind(), error.to_string()).into(),
            ConnectError::Tls(error) => error.clone().into(),
            ConnectError::Record(error) => ConnectError::Record(*error),
            ConnectError::WrongIdentity => ConnectError::WrongIdentity,
            ConnectError::Handshake(error) => ConnectError::Handshake(*error),
            ConnectError::Timeout => ConnectError::Timeout,
            ConnectError::Refused => ConnectError::Refused,
        }
    }
}

/// Sets a channel's socket up.
pub(super) fn configure(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
    let (time, interval) = KEEPALIVE;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(time).with_interval(interval))?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIMEOUT))
}

/// An open TLS session, and what was on its way when it was handed over.
pub(super) struct Session {
    pub(super) records: Records,
    /// What has come and has not been opened.
    pub(super) arrived: Vec<u8>,
    /// What has been opened and not been looked at.
    pub(super) plain: Vec<u8>,
    /// What has been sealed and not been sent.
    pub(super) unsent: Vec<u8>,
}

/// Runs both handshakes.
///
/// # Errors
/// [`ConnectError`]; the caller limits the time.
pub(super) async fn open(
    tcp: &TcpStream,
    tls: TlsHandshake,
    role: Role,
    signer: Option<&Signer>,
    expected: Option<RelayId>,
) -> Result<(Session, PeerInfo), ConnectError> {
    let (mut arrived, mut unsent) = (Vec::new(), Vec::new());
    let (mut records, exporter) = shake_hands(tcp, tls, &mut arrived, &mut unsent).await?;
    let local = Local { role, signer, exporter, now: unix_now(), peer_address: tcp.peer_addr().ok() };
    let (mut handshake, cells) = Handshake::start(&local, expected);
    let mut sealed = Buffer::new();
    records.seal(cells.as_flattened(), &mut sealed)?;
    unsent.extend_from_slice(&sealed);
    let mut session = Session { records, arrived, plain: Vec::new(), unsent };
    loop {
        let cell = session.read_cell(tcp).await?;
        match handshake.handle(&cell)? {
            Step::Wait(next) => handshake = next,
            Step::Open(peer) => return Ok((session, peer)),
        }
    }
}

type Exporter = Zeroizing<[u8; EXPORTER_LEN]>;

/// TLS's own handshake. What is left to be said is left in `unsent`, and what came behind it in `arrived`.
async fn shake_hands(
    tcp: &TcpStream,
    mut tls: TlsHandshake,
    arrived: &mut Vec<u8>,
    unsent: &mut Vec<u8>,
) -> Result<(Records, Exporter), ConnectError> {
    loop {
        let received = tls.receive(arrived);
        tls.send(unsent);
        match received {
            Ok(count) => drop(arrived.drain(..count)),
            Err(error) => {
                // The alert says what was wrong; whether it arrives is not ours to know.
                let _ = tcp.try_write(unsent);
                return Err(error.into());
            }
        }
        if tls.is_done() {
            let exporter = tls.export(Zeroizing::new([0; EXPORTER_LEN]), EXPORTER_LABEL)?;
            return Ok((tls.finish()?, exporter));
        }
        exchange(tcp, arrived, unsent).await?;
    }
}

impl Session {
    async fn read_cell(&mut self, tcp: &TcpStream) -> Result<[u8; CELL_LEN], ConnectError> {
        loop {
            let mut opened = Buffer::new();
            let taken = self.records.open(&self.arrived, &mut opened)?;
            self.arrived.drain(..taken);
            self.plain.extend_from_slice(&opened);
            if let Some(&cell) = self.plain.first_chunk() {
                self.plain.drain(..CELL_LEN);
                return Ok(cell);
            }
            if self.records.is_closed() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            exchange(tcp, &mut self.arrived, &mut self.unsent).await?;
        }
    }
}

/// Sends what there is to say, and takes what the peer says.
async fn exchange(tcp: &TcpStream, arrived: &mut Vec<u8>, unsent: &mut Vec<u8>) -> io::Result<()> {
    while !unsent.is_empty() {
        tcp.writable().await?;
        if let Some(count) = unless_blocked(tcp.try_write(unsent))? {
            unsent.drain(..count);
        }
    }
    loop {
        tcp.readable().await?;
        arrived.reserve(READ_LEN);
        match unless_blocked(tcp.try_read_buf(arrived))? {
            Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(_) => return Ok(()),
            None => {}
        }
    }
}

fn unless_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_peer_whose_machine_has_vanished_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        configure(&tcp).unwrap();
        let socket = SockRef::from(&tcp);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE.0);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED_TIMEOUT));
    }
}
