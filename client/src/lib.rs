//! The Tunic client: a library that connects streams through circuits, and a daemon with a SOCKS5 port on top of it.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod core;
pub mod net;

use std::future::Future;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tunic_net::daemon::{RunOptions, Status};

pub use crate::config::Config;
pub use crate::core::isolation::Isolation;
pub use crate::core::path::{Hop, Path};
pub use crate::net::{Client, ConnectError};

/// Opens the SOCKS5 port and serves it until `shutdown` completes.
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
    let listener = listen(&config, &options).await?;
    let address = listener.local_addr().context("the SOCKS listener has no address")?;
    let client = Client::start(config, options.clone()).await?;
    tracing::info!(port = address.port(), "SOCKS5 port is open; connecting to the Tunic network");
    options.tell(Status::Listening(address));
    tokio::select! {
        () = client.serve_socks(listener) => {}
        () = shutdown => tracing::info!("shutting down"),
    }
    client.shutdown().await;
    Ok(())
}

async fn listen(config: &Config, options: &RunOptions) -> anyhow::Result<TcpListener> {
    match &options.listener {
        None => TcpListener::bind(config.socks)
            .await
            .with_context(|| format!("cannot open the SOCKS port {} (setting `socks`)", config.socks)),
        Some(bound) => {
            let listener = bound.try_clone().context("cannot use the SOCKS listener")?;
            listener.set_nonblocking(true).context("cannot use the SOCKS listener")?;
            TcpListener::from_std(listener).context("cannot use the SOCKS listener")
        }
    }
}
