//! TCP between loopback addresses: between programs and the client's port, and a private network on loopback.
//!
//! There is no network on the way whose rate could be learned and whose queues could be spared. BBR, which many systems have for all
//! connections, paces there all the same: it holds segments back, each with a timer that interrupts a processor. Reno does not
//! pace; every Linux has it, and lets every process choose it unless it was told otherwise.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

const WITHOUT_PACING: &[u8] = b"reno";

/// Connects, without pacing if that is to a loopback address.
///
/// # Errors
/// As [`TcpStream::connect`].
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    spare_pacing(&socket, address);
    socket.connect(address).await
}

/// To be called before there is a connection, since what BBR has begun with goes on: with the address that will be
/// connected to, or on a listening socket, whose connections inherit it, with its own. Where it fails, all is as it was.
pub fn spare_pacing(socket: &impl AsFd, address: SocketAddr) {
    if address.ip().to_canonical().is_loopback() {
        let _ = SockRef::from(socket).set_tcp_congestion(WITHOUT_PACING);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn has_reno(socket: &impl AsFd) -> bool {
        SockRef::from(socket).tcp_congestion().unwrap().starts_with(WITHOUT_PACING)
    }

    #[tokio::test]
    async fn what_stays_on_loopback_is_not_paced() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let address = listener.local_addr().unwrap();
            spare_pacing(&listener, address);
            let ours = connect(address).await.unwrap();
            let (theirs, _) = listener.accept().unwrap();
            assert!(has_reno(&ours) && has_reno(&theirs), "{address}");
        }
    }

    #[test]
    fn what_may_leave_it_has_what_the_system_chose() {
        let socket = TcpSocket::new_v4().unwrap();
        let chosen = SockRef::from(&socket).tcp_congestion().unwrap();
        spare_pacing(&socket, "0.0.0.0:1".parse().unwrap());
        spare_pacing(&socket, "192.0.2.1:1".parse().unwrap());
        assert_eq!(SockRef::from(&socket).tcp_congestion().unwrap(), chosen);
    }
}
