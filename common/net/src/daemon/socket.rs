//! The socket that a daemon listens at.

use std::io;
use std::net::{SocketAddr, TcpListener};

use anyhow::Context;
use socket2::{Domain, Protocol, Socket, Type};

use super::RunOptions;
use crate::tcp::spare_pacing;

/// Connections that may wait to be accepted. The kernel may allow fewer (`net.core.somaxconn`).
const BACKLOG: i32 = 4_096;

/// An address that cannot be listened at: which, why, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {address} (setting `{setting}`): {}", advice(.cause))]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// The setting that holds the address.
    pub setting: &'static str,
    /// What the system said.
    pub cause: io::Error,
}

fn advice(cause: &io::Error) -> String {
    let hint = match cause.kind() {
        io::ErrorKind::AddrInUse => "another program listens there; does this daemon run already?",
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address (`ip address` shows those it has)"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need a privilege (under systemd AmbientCapabilities= and \
             CapabilityBoundingSet=CAP_NET_BIND_SERVICE, and PrivateUsers=no; or start as root and set `user`)"
        }
        _ => return cause.to_string(),
    };
    format!("{cause}; {hint}")
}

/// Listens at this address.
///
/// # Errors
/// [`ListenError`], with the advice that fits.
pub fn bind(address: SocketAddr, setting: &'static str) -> Result<TcpListener, ListenError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Connections of an earlier run that linger do not keep a new one from listening.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|cause| ListenError { address, setting, cause })
}

/// The socket that the service manager hands over (`LISTEN_FDS`, sd_listen_fds(3)), if it does: it listens on while
/// this daemon restarts, so nobody is refused. To be called once, before there are other threads.
///
/// # Errors
/// If what is handed over is no listening TCP socket, or more than one.
pub(super) fn handed_over() -> anyhow::Result<Option<TcpListener>> {
    let mut sockets = listenfd::ListenFd::from_env();
    if sockets.len() > 1 {
        anyhow::bail!("{} sockets were handed over; this daemon listens at one", sockets.len());
    }
    sockets.take_tcp_listener(0).context("the socket that was handed over is of no use")
}

/// The given socket, or else a new one at this address, for use inside a tokio runtime.
///
/// # Errors
/// [`ListenError`], or if the given socket cannot be used.
pub fn listen(
    options: &RunOptions,
    address: SocketAddr,
    setting: &'static str,
) -> anyhow::Result<tokio::net::TcpListener> {
    let listener = match &options.listener {
        Some(given) => given.try_clone().context("the given socket cannot be used")?,
        None => bind(address, setting)?,
    };
    spare_pacing(&listener, listener.local_addr().unwrap_or(address));
    listener.set_nonblocking(true).context("the listening socket cannot be used")?;
    tokio::net::TcpListener::from_std(listener).context("the listening socket cannot be used")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::Exit;

    #[track_caller]
    fn check(address: SocketAddr, hint: &str) {
        let error = bind(address, "listen").unwrap_err();
        let said = error.to_string();
        assert!(said.contains("(setting `listen`)") && said.contains(hint), "{said}");
        assert_eq!(Exit::of(&error.into()), Exit::Unavailable);
    }

    #[test]
    fn what_cannot_be_listened_at_is_named_with_what_helps() {
        let taken = bind("127.0.0.1:0".parse().unwrap(), "listen").unwrap();
        check(taken.local_addr().unwrap(), "run already?");
        check("192.0.2.1:9001".parse().unwrap(), "no such address");
    }
}
