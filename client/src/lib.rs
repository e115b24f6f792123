//! The Tunic client: a library that connects streams through circuits, and a daemon with a port for SOCKS and HTTP on
//! top of it. `examples/embed.rs` has it inside another program, in ten lines.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod core;
pub mod ctl;
pub mod net;
pub mod padding;
pub mod ports;

use std::future::Future;

use anyhow::Context as _;

use self::ports::Ports;

pub use crate::config::Config;
pub use crate::core::isolation::Isolation;
pub use crate::core::path::{Hop, Path as CircuitPath};
pub use crate::core::status::report::Report;
pub use crate::net::{Client, ConnectError};
pub use crate::padding::{Class, PaddingConfig};
pub use tunic_net::channel::CircuitStream;
pub use tunic_net::daemon::RunOptions;
pub use tunic_proto::message::Target;

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
    let mut ports = Ports::open(&config, &options).await?;
    let client = Client::start(config.clone(), options.clone()).await?;
    ports.open_status(&config, &client).await?;
    ports.tell(&options);
    tokio::select! {
        () = ports.serve(&client) => {}
        () = shutdown => tracing::info!("shutting down"),
    }
    client.shutdown().await;
    Ok(())
}
