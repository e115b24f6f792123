//! Sockets at ports below 1024: they are opened while the process still has the right to, and taken from here once it has
//! given that up.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use super::socket::{ListenError, bind};

/// The first port that everybody may listen at, unless the system's administrator says otherwise.
const FIRST_FREE_PORT: u16 = 1_024;

/// Where a daemon listens besides [`super::Settings::listen`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// The address.
    pub address: SocketAddr,
    /// The setting that holds it.
    pub setting: &'static str,
    /// Whether it takes datagrams too.
    pub datagrams: bool,
}

/// Sockets that were opened early, none by default.
#[derive(Debug, Default)]
pub struct Early {
    tcp: Vec<(SocketAddr, TcpListener)>,
    udp: Vec<(SocketAddr, UdpSocket)>,
}

impl Early {
    /// Opens those of these ports that not everybody may open.
    ///
    /// # Errors
    /// [`ListenError`] of the first that cannot be opened.
    pub(super) fn open(ports: &[Port]) -> Result<Early, ListenError> {
        let mut early = Early::default();
        for Port { address, setting, datagrams } in ports.iter().copied() {
            if !(1..FIRST_FREE_PORT).contains(&address.port()) {
                continue;
            }
            early.tcp.push((address, bind(address, setting)?));
            if datagrams {
                let udp = UdpSocket::bind(address);
                early.udp.push((address, udp.map_err(|cause| ListenError { address, setting, cause })?));
            }
        }
        Ok(early)
    }

    /// The listener at this address, if it was opened early; not blocking.
    ///
    /// # Errors
    /// If the system gives no handle to it.
    pub fn tcp(&self, address: SocketAddr) -> io::Result<Option<TcpListener>> {
        let found = self.tcp.iter().find(|(at, _)| *at == address);
        let listener = found.map(|(_, listener)| listener.try_clone()).transpose()?;
        listener.as_ref().map_or(Ok(()), |listener| listener.set_nonblocking(true))?;
        Ok(listener)
    }

    /// The socket for datagrams at this address, if it was opened early; not blocking.
    ///
    /// # Errors
    /// If the system gives no handle to it.
    pub fn udp(&self, address: SocketAddr) -> io::Result<Option<UdpSocket>> {
        let found = self.udp.iter().find(|(at, _)| *at == address);
        let socket = found.map(|(_, socket)| socket.try_clone()).transpose()?;
        socket.as_ref().map_or(Ok(()), |socket| socket.set_nonblocking(true))?;
        Ok(socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(address: &str) -> Port {
        Port { address: address.parse().unwrap(), setting: "dns", datagrams: true }
    }

    #[test]
    fn ports_that_everybody_may_open_are_left_for_later() {
        let early =
            Early::open(&[port("127.0.0.1:0"), port("127.0.0.1:1024"), port("127.0.0.1:65535")]).unwrap();
        assert!(early.tcp.is_empty() && early.udp.is_empty(), "{early:?}");
    }

    /// An address of loopback that nobody else uses, so that the port is free whoever else runs on this machine.
    const OWN: &str = "127.83.19.7:53";

    #[test]
    fn a_low_port_is_opened_once_and_can_be_taken() {
        let early = match Early::open(&[port(OWN)]) {
            Ok(early) => early,
            Err(error) => {
                assert_eq!(error.cause.kind(), io::ErrorKind::PermissionDenied, "{error}");
                assert!(error.to_string().contains("CAP_NET_BIND_SERVICE"), "{error}");
                return println!("skipped: needs root");
            }
        };
        let at: SocketAddr = OWN.parse().unwrap();
        assert_eq!(early.tcp(at).unwrap().unwrap().local_addr().unwrap(), at);
        assert_eq!(early.udp(at).unwrap().unwrap().local_addr().unwrap(), at);
        assert!(early.tcp("127.0.0.1:53".parse().unwrap()).unwrap().is_none());
        assert!(Early::open(&[port(OWN)]).is_err(), "it listens");
    }
}
