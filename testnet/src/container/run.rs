//! The nodes: what each does before its role runs, and the configuration that it then runs on.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Serialize;
use tokio::net::{TcpListener, UdpSocket, lookup_host};
use tokio::runtime::{Builder, Runtime};
use tunic_client::config as client_config;
use tunic_directory::config as directory_config;
use tunic_net::config::AuthorityConfig;
use tunic_net::daemon::{RunOptions, shutdown_signal, unix_now};
use tunic_net::keyfile;
use tunic_net::keys::NodeKeys;
use tunic_net::metrics::MetricsConfig;
use tunic_net::telemetry::{self, LogFilter};
use tunic_proto::dir::ExitPolicy;
use tunic_relay::config as relay_config;

use super::forward::{forward, loopback_port};
use super::introduce::{self, Known};
use super::{
    AUTHORITY_PORT, AuthorityArgs, ClientArgs, INTRODUCTION_PORT, NetworkArgs, RELAY_PORT, RelayArgs, SOCKS,
    at_loopback,
};

/// Of a round, for votes and for signatures each, in seconds.
const ROUND_DELAY_S: u32 = 3;
/// Between rounds while there is no consensus, in seconds.
const BOOTSTRAP_INTERVAL_S: u32 = 1;
/// Where figures are served, and how often they change, in seconds.
const METRICS_PORT: u16 = 9_101;
const METRICS_INTERVAL_S: u64 = 10;
/// Where an exit does not connect to.
const EXIT_POLICY: [&str; 2] = ["reject *:25", "accept *:*"];
/// What a relay or an authority is, for [`super::health`].
const OWN_FILE: &str = "own.toml";
const CONFIG_FILE: &str = "node.toml";
/// The letters that a nickname may have at most.
const MAX_NICKNAME_LEN: usize = 19;

/// Runs an authority until a signal ends it.
///
/// # Errors
/// If keys or state cannot be used, or the role fails.
pub(super) fn authority(args: AuthorityArgs) -> anyhow::Result<()> {
    let beside = runtime()?;
    let Some(config) = beside.block_on(unless_ended(prepare_authority(&args)))? else { return Ok(()) };
    tunic_directory::cli::run_file(&config, RunOptions::default())
}

/// Runs a relay until a signal ends it.
///
/// # Errors
/// As [`authority`].
pub(super) fn relay(args: RelayArgs) -> anyhow::Result<()> {
    let beside = runtime()?;
    let Some(config) = beside.block_on(unless_ended(prepare_relay(&args)))? else { return Ok(()) };
    tunic_relay::cli::run_file(&config, RunOptions::default())
}

/// Runs a client until a signal ends it.
///
/// # Errors
/// As [`authority`]; or if its ports cannot be published.
pub(super) fn client(args: ClientArgs) -> anyhow::Result<()> {
    let beside = runtime()?;
    let Some(config) = beside.block_on(unless_ended(prepare_client(&args)))? else { return Ok(()) };
    tunic_client::cli::run_file(&config, RunOptions::default())
}

/// The forwarders run beside the role, which has a runtime of its own.
fn runtime() -> anyhow::Result<Runtime> {
    telemetry::init(&LogFilter::default());
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("the runtime cannot be started")
}

/// A process with the number 1, which a container's is, ends by no signal that it does not catch.
async fn unless_ended(
    work: impl Future<Output = anyhow::Result<PathBuf>>,
) -> anyhow::Result<Option<PathBuf>> {
    let ended = shutdown_signal();
    tokio::select! {
        config = work => config.map(Some),
        () = ended => Ok(None),
    }
}

async fn prepare_authority(args: &AuthorityArgs) -> anyhow::Result<PathBuf> {
    let dir = args.network.state_dir();
    let name = match &args.name {
        Some(name) => name.clone(),
        None => host_name()?,
    };
    if !args.network.authorities.contains(&name) {
        bail!("--name {name}: it is none of the --authorities");
    }
    let own = own(&dir, name.clone())?;
    let introduction = introduce::introduction(&own);
    let address = SocketAddr::from(([0, 0, 0, 0], INTRODUCTION_PORT));
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen at {address}"))?;
    tokio::spawn(introduce::tell_all(listener, introduction.subscribe()));
    let all = introduce::among_authorities(&args.network.authorities, &own, &dir, &introduction).await?;
    let rounds = directory_config::RoundsConfig {
        interval_s: args.interval,
        vote_delay_s: ROUND_DELAY_S,
        signature_delay_s: ROUND_DELAY_S,
        bootstrap_interval_s: BOOTSTRAP_INTERVAL_S,
        bootstrap_relays: args.relays,
        ..directory_config::RoundsConfig::default()
    };
    let config = directory_config::Config {
        listen: SocketAddr::from(([0, 0, 0, 0], AUTHORITY_PORT)),
        name,
        data_dir: dir.clone(),
        allow_private_relays: true,
        rounds,
        authorities: reachable(&all).await?,
        ..directory_config::Config::default()
    };
    write_config(&dir, &config)
}

async fn prepare_relay(args: &RelayArgs) -> anyhow::Result<PathBuf> {
    let dir = args.network.state_dir();
    let nickname = nickname(&host_name()?);
    own(&dir, nickname.clone())?;
    let all = introduce::from_authorities(&args.network.authorities, &dir).await?;
    let mut exit = relay_config::ExitConfig::default();
    if args.exit {
        exit.policy = ExitPolicy::parse(&EXIT_POLICY)?;
        exit.allow_private = true;
    }
    let address = own_address(&args.network).await?;
    let config = relay_config::Config {
        listen: SocketAddr::from(([0, 0, 0, 0], RELAY_PORT)),
        address: vec![SocketAddr::from((address, RELAY_PORT))],
        metrics: metrics(args.metrics.then_some(address)),
        nickname,
        data_dir: dir.clone(),
        allow_private_relays: true,
        exit,
        authorities: reachable(&all).await?,
        ..relay_config::Config::default()
    };
    write_config(&dir, &config)
}

/// Figures at this address, which is on the network of the authorities only, if they are wanted.
fn metrics(address: Option<IpAddr>) -> MetricsConfig {
    MetricsConfig {
        listen: address.map(|address| SocketAddr::from((address, METRICS_PORT))),
        interval_s: METRICS_INTERVAL_S,
        other_machines: address.is_some(),
    }
}

async fn prepare_client(args: &ClientArgs) -> anyhow::Result<PathBuf> {
    let dir = args.network.state_dir();
    keyfile::ensure_private_dir(&dir)?;
    if let Some(host) = &args.publish_at {
        for port in [SOCKS.port(), args.status_port] {
            publish(host, port).await.with_context(|| format!("--publish-at {host}"))?;
        }
    }
    let all = introduce::from_authorities(&args.network.authorities, &dir).await?;
    let config = client_config::Config {
        socks: SOCKS,
        status: client_config::Listen::At(at_loopback(args.status_port)),
        state_dir: Some(dir.clone()),
        testing: client_config::Testing { private_is_distinct: true, unpaced_circuits: true },
        authorities: reachable(&all).await?,
        ..client_config::Config::default()
    };
    write_config(&dir, &config)
}

/// The node's keys, made if there are none, and a file with their public halves.
fn own(dir: &Path, name: String) -> anyhow::Result<Known> {
    keyfile::ensure_private_dir(dir)?;
    let keys = NodeKeys::load_or_create(&dir.join("keys"), unix_now())?;
    let onion_key = keys.onion.first().context("there is no onion key")?.public();
    let own = Known { name, identity: keys.signer.id(), onion_key };
    keyfile::write_private(&dir.join(OWN_FILE), toml::to_string(&own)?.as_bytes())?;
    Ok(own)
}

/// What [`own`] wrote.
///
/// # Errors
/// If the node has not come so far.
pub(super) fn read_own(dir: &Path) -> anyhow::Result<Known> {
    let text = fs::read_to_string(dir.join(OWN_FILE)).context("the node has no keys yet")?;
    toml::from_str(&text).context("the node's file about itself is damaged")
}

/// The authorities as a configuration lists them, each behind a port of this loopback.
async fn reachable(all: &[Known]) -> anyhow::Result<Vec<AuthorityConfig>> {
    let mut listed = Vec::new();
    for known in all {
        let (listener, address) = loopback_port().await?;
        tokio::spawn(forward(listener, known.name.clone(), AUTHORITY_PORT));
        listed.push(AuthorityConfig {
            name: known.name.clone(),
            identity: known.identity,
            onion_key: known.onion_key,
            addresses: vec![address],
        });
    }
    Ok(listed)
}

/// Opens the loopback port to those who reach the host's address.
async fn publish(host: &str, port: u16) -> anyhow::Result<()> {
    let address = lookup_host((host, port)).await?.next().context("the name has no address")?;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen at {address}"))?;
    tokio::spawn(forward(listener, SOCKS.ip().to_string(), port));
    Ok(())
}

/// The address from which this container reaches the authorities, and at which they therefore reach it: a container on
/// several networks has several. Nothing is sent.
async fn own_address(network: &NetworkArgs) -> anyhow::Result<IpAddr> {
    for name in &network.authorities {
        let Ok(mut found) = lookup_host((name.as_str(), AUTHORITY_PORT)).await else { continue };
        let Some(authority) = found.next() else { continue };
        let any: SocketAddr =
            if authority.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(authority).await?;
        return Ok(socket.local_addr()?.ip());
    }
    bail!("none of the --authorities has an address")
}

fn host_name() -> anyhow::Result<String> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { bail!("this host has no name") } else { Ok(name) }
}

/// What a nickname may hold of a host's name. Container engines make them unique in their first letters.
fn nickname(host: &str) -> String {
    let kept: String = host.chars().filter(char::is_ascii_alphanumeric).take(MAX_NICKNAME_LEN).collect();
    if kept.is_empty() { "unnamed".to_owned() } else { kept }
}

fn write_config(dir: &Path, config: &impl Serialize) -> anyhow::Result<PathBuf> {
    let path = dir.join(CONFIG_FILE);
    keyfile::write_private(&path, toml::to_string_pretty(config)?.as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_name_makes_a_nickname() {
        let check = |host: &str, expect: &str| assert_eq!(nickname(host), expect);
        check("0a1b2c3d4e5f", "0a1b2c3d4e5f");
        check("relay-0", "relay0");
        check("a-host-name-that-is-too-long", "ahostnamethatistool");
        check("-", "unnamed");
    }

    #[tokio::test]
    async fn a_node_finds_the_address_from_which_it_reaches_the_authorities() {
        let network = |names: &[&str]| NetworkArgs {
            authorities: names.iter().map(|name| name.to_string()).collect(),
            dir: PathBuf::new(),
        };
        let address = own_address(&network(&["nowhere.invalid", "127.0.0.1"])).await.unwrap();
        assert!(address.is_loopback());
        assert!(own_address(&network(&["nowhere.invalid"])).await.is_err());
    }

    #[test]
    fn figures_are_served_where_it_is_said_and_nowhere_else() {
        assert_eq!(metrics(None).listen, None);
        let shown = metrics(Some(IpAddr::from([10, 9, 0, 7])));
        assert_eq!(shown.listen, Some("10.9.0.7:9101".parse().unwrap()));
        assert!(shown.checks().iter().all(|(wrong, _)| !wrong), "{shown:?}");
    }

    #[test]
    fn keys_are_made_once() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("state");
        assert!(read_own(&dir).is_err());
        let first = own(&dir, "authority1".into()).unwrap();
        assert_eq!(own(&dir, "authority1".into()).unwrap(), first);
        assert_eq!(read_own(&dir).unwrap(), first);
    }
}
