//! Who is at the other end of a connection over loopback: `core::status::neighbour` on this machine's list of sockets.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::task::spawn_blocking;

use crate::core::status::neighbour::{may_ask, owner};

/// The sockets of this network namespace, by address family.
const LISTS: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// Whether a user of this machine who is not to know is at the other end. Connections that do not arrive at loopback are not
/// asked about, nor are any where the system keeps no such list.
pub(super) async fn is_stranger(tcp: &TcpStream) -> io::Result<bool> {
    let (theirs, ours) = (tcp.peer_addr()?, tcp.local_addr()?);
    if !cfg!(target_os = "linux") || !ours.ip().to_canonical().is_loopback() {
        return Ok(false);
    }
    let found = spawn_blocking(move || find(theirs, ours)).await??;
    let us = rustix::process::geteuid().as_raw();
    Ok(!found.is_some_and(|owner| may_ask(owner, us)))
}

fn find(theirs: SocketAddr, ours: SocketAddr) -> io::Result<Option<u32>> {
    for list in LISTS {
        let file = match File::open(list) {
            // A kernel without this family.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        for line in BufReader::new(file).lines() {
            if let Some(owner) = owner(&line?, theirs, ours) {
                return Ok(Some(owner));
            }
        }
    }
    Ok(None)
}
