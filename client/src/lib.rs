//! The Tunic client: a library that connects streams through circuits, and a daemon with a port for SOCKS and HTTP on
//! top of it.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod core;
pub mod net;
pub mod padding;

use std::fs::Permissions;
use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::Context as _;
use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tunic_net::daemon::{RunOptions, Status, listen};

pub use crate::config::Config;
pub use crate::core::isolation::Isolation;
pub use crate::core::path::{Hop, Path as CircuitPath};
pub use crate::net::{Client, ConnectError};
pub use crate::padding::{Class, PaddingConfig};

/// Opens the port for applications and serves it until `shutdown` completes.
///
/// # Errors
/// If the configuration is wrong, the port is taken or the state directory cannot be used.
pub async fn run(
    config: Config,
    options: RunOptions,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let given = options.listener.as_ref().map(|bound| bound.local_addr());
    config.check(given.transpose().context("the SOCKS listener has no address")?)?;
    let listener = listen(&options, config.socks, "socks")?;
    let address = listener.local_addr().context("the SOCKS listener has no address")?;
    let unix = config.unix_socket.as_deref().map(open_unix).transpose()?;
    let dns = match config.dns {
        Some(address) => Some(open_dns(address).await?),
        None => None,
    };
    let client = Client::start(config, options.clone()).await?;
    tracing::info!(
        port = address.port(),
        "the port for applications is open; connecting to the Tunic network"
    );
    options.tell(Status::Listening(address));
    tokio::select! {
        () = client.serve_applications(listener) => {}
        () = serve_if_there(unix.map(|listener| client.serve_unix(listener))) => {}
        () = serve_if_there(dns.map(|(udp, tcp)| client.serve_dns(udp, tcp))) => {}
        () = shutdown => tracing::info!("shutting down"),
    }
    client.shutdown().await;
    Ok(())
}

async fn serve_if_there(serving: Option<impl Future<Output = ()>>) {
    match serving {
        Some(serving) => serving.await,
        None => std::future::pending().await,
    }
}

async fn open_dns(address: SocketAddr) -> anyhow::Result<(UdpSocket, TcpListener)> {
    let context = || format!("cannot open the DNS port {address} (setting `dns`)");
    let tcp = TcpListener::bind(address).await.with_context(context)?;
    // Where the port was left open, both get the same one.
    let udp = UdpSocket::bind(tcp.local_addr()?).await.with_context(context)?;
    Ok((udp, tcp))
}

/// Opens a Unix socket that only this user can connect to. One that a client left behind is replaced.
fn open_unix(path: &Path) -> anyhow::Result<UnixListener> {
    let context = || format!("cannot open the socket {} (setting `unix_socket`)", path.display());
    let is_socket = path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path).with_context(context)?;
    }
    let listener = UnixListener::bind(path).with_context(context)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(context)?;
    Ok(listener)
}
