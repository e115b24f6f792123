//! Opening a channel over a TCP connection: TLS, then the handshake in cells.

use std::io::{self, Read, Write};
use std::time::Duration;

use rustls::Connection;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tunic_proto::cell::CELL_LEN;
use tunic_proto::channel::handshake::{EXPORTER_LABEL, EXPORTER_LEN, Handshake, HandshakeError, Local, Step};
use tunic_proto::channel::{PeerInfo, Role};
use tunic_proto::ids::RelayId;
use tunic_proto::keys::Signer;
use zeroize::Zeroizing;

use crate::daemon::unix_now;

/// How long TCP, TLS and the handshake may take together.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes that the kernel holds unsent before it takes no more: what waits, waits where the scheduler sees it.
const NOTSENT_LOWAT: u32 = 128 * 1024;

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

/// Runs both handshakes.
///
/// # Errors
/// [`ConnectError`]; the caller limits the time.
pub(super) async fn open(
    tcp: &TcpStream,
    tls: &mut Connection,
    role: Role,
    signer: Option<&Signer>,
    expected: Option<RelayId>,
) -> Result<PeerInfo, ConnectError> {
    while tls.is_handshaking() {
        exchange(tcp, tls).await?;
    }
    let exporter = Zeroizing::new([0; EXPORTER_LEN]);
    let exporter = tls.export_keying_material(exporter, EXPORTER_LABEL, None)?;
    let local = Local { role, signer, exporter, now: unix_now(), peer_address: tcp.peer_addr().ok() };
    let (mut handshake, cells) = Handshake::start(&local, expected);
    tls.writer().write_all(cells.as_flattened())?;
    loop {
        let mut cell = [0; CELL_LEN];
        read_cell(tcp, tls, &mut cell).await?;
        match handshake.handle(&cell)? {
            Step::Wait(next) => handshake = next,
            Step::Open(peer) => return Ok(peer),
        }
    }
}

async fn read_cell(
    tcp: &TcpStream,
    tls: &mut Connection,
    cell: &mut [u8; CELL_LEN],
) -> Result<(), ConnectError> {
    let mut have = 0;
    while have < cell.len() {
        match tls.reader().read(&mut cell[have..]) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => exchange(tcp, tls).await?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes what TLS has to say, or else reads what the peer says.
async fn exchange(tcp: &TcpStream, tls: &mut Connection) -> Result<(), ConnectError> {
    while tls.wants_write() {
        tcp.writable().await?;
        ok_or_blocked(tls.write_tls(&mut NonBlocking(tcp)))?;
    }
    tcp.readable().await?;
    if ok_or_blocked(tls.read_tls(&mut NonBlocking(tcp)))? == Some(0) {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let result = tls.process_new_packets();
    if result.is_err() {
        // The alert says what was wrong; whether it arrives is not ours to know.
        let _ = tls.write_tls(&mut NonBlocking(tcp));
    }
    result?;
    Ok(())
}

fn ok_or_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// A socket as `rustls` reads and writes it.
pub(super) struct NonBlocking<'a>(pub(super) &'a TcpStream);

impl Read for NonBlocking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for NonBlocking<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.try_write(data)
    }

    fn write_vectored(&mut self, data: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
