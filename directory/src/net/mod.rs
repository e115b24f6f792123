//! The daemon: sockets, timers and files around [`Authority`].
//!
//! 1. What comes in is handed to the state machine wherever it arrives, under one short lock ([`service`]).
//! 2. One driver does what the state machine then wants done, and wakes it when its time comes ([`driver`]).
//! 3. What takes time, such as probes and posts to peers, runs in tasks that report back the same way.

mod driver;
mod metrics;
mod peers;
mod probe;
mod service;
mod state;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tracing::{info, warn};
use tunic_net::channel::{Node, NodeConfig};
use tunic_net::daemon::{RunOptions, Status, listen, unix_now};
use tunic_net::keys::NodeKeys;
use tunic_net::{http, keyfile};

use crate::config::Config;
use crate::core::Authority;
use driver::Driver;
use metrics::Sources;
use peers::Peers;
use service::Service;

/// How long open channels may take to end.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Runs an authority until `shutdown` completes.
///
/// # Errors
/// If it cannot start: wrong settings, keys that must not be used, an address that is taken.
pub async fn run(
    config: Config,
    options: RunOptions,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    keyfile::ensure_private_dir(&config.data_dir)?;
    let settings = config.settings()?;
    let keys = NodeKeys::load_or_create(&config.key_dir(), unix_now())?;
    let own_id = keys.signer.id();
    let authorities = config.authority_set(own_id)?;
    let listener = listen(&options, config.listen, "listen")?;

    let mut authority = Authority::new(settings, keys.signer.clone(), authorities, service::now())
        .map_err(anyhow::Error::new)?;
    state::restore(&mut authority, &config)?;
    let service = Arc::new(Service::new(authority, keys.onion));
    let node = Node::new(NodeConfig {
        signer: Some(keys.signer),
        responder: Some(service.clone()),
        memory_budget: config.memory_budget,
    })
    .context("TLS cannot be set up")?;
    node.limits().set_overrides(config.limits.clone());
    if config.authorities.is_empty() {
        warn!("there is no [[authority]] in the configuration: this authority is alone in its network");
    }
    options.tell(Status::Listening(listener.local_addr().context("listening")?));
    info!("directory authority started");

    let shown = config.metrics.listen.map(|at| http::bind(at, "metrics.listen")).transpose()?;
    let sources = Sources {
        node: node.clone(),
        service: service.clone(),
        memory_budget: config.memory_budget,
        started: unix_now().0,
    };
    let peers = Arc::new(Peers::new(node.clone(), &config.authorities, own_id));
    let driver = Driver::new(node.clone(), service.clone(), peers, &config, options);
    tokio::select! {
        () = node.serve(listener) => {}
        () = driver.run() => {}
        () = metrics::show(shown, &config.metrics, sources) => {}
        () = shutdown => info!("directory authority ends"),
    }
    state::store(&config.descriptor_file(), &service.peek(|authority, _| authority.descriptors()));
    node.shutdown(SHUTDOWN_GRACE).await;
    Ok(())
}
