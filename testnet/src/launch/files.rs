//! The files of a network: keys, and for each node an ordinary configuration file, as an operator would write it.
//! Nothing in them is special to the launcher: the daemons run on them as they are.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use toml::{Table, Value};
use tunic_net::config::AuthorityConfig;
use tunic_net::daemon;
use tunic_net::keyfile;
use tunic_net::keys::NodeKeys;
use tunic_proto::time::UnixTime;

use super::plan::{NodePlan, Options, Role, logs_dir};
use super::temporary::TemporaryFolder;

/// For a client that opens no port.
const UNUSED: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// Where a network lies.
pub enum Folder {
    /// Removed with everything in it when dropped.
    Temporary(TemporaryFolder),
    /// Somebody asked for it, and keeps it.
    Kept(PathBuf),
}

impl Folder {
    /// The folder that was asked for, which must be empty or new, or else a temporary one.
    ///
    /// # Errors
    /// If it cannot be made or holds something.
    pub fn make(wanted: Option<&Path>) -> anyhow::Result<Folder> {
        let Some(path) = wanted else {
            let made = TemporaryFolder::make();
            return Ok(Folder::Temporary(made.context("cannot make a temporary folder")?));
        };
        fs::create_dir_all(path).with_context(|| format!("cannot make the folder {}", path.display()))?;
        let path = fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()))?;
        if fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))?.next().is_some() {
            bail!("--dir {}: the folder is not empty. Name a new one, or remove it first", path.display());
        }
        Ok(Folder::Kept(path))
    }

    /// Its path, absolute.
    pub fn path(&self) -> &Path {
        match self {
            Folder::Temporary(dir) => dir.path(),
            Folder::Kept(path) => path,
        }
    }
}

/// Makes the keys of all nodes and writes their configurations.
///
/// # Errors
/// If a file cannot be written.
pub fn write(nodes: &[NodePlan], dir: &Path, options: &Options, now: UnixTime) -> anyhow::Result<()> {
    let mut rng = generator(options.seed);
    fs::create_dir(logs_dir(dir)).context("cannot make the folder of the logs")?;
    keyfile::ensure_private_dir(&dir.join("state"))?;
    let mut authorities = Vec::new();
    for node in nodes.iter().filter(|node| node.role != Role::Client) {
        keyfile::ensure_private_dir(&node.state_dir(dir))?;
        let keys = NodeKeys::create_with(&keys_dir(node, dir), now, &mut rng)?;
        if node.role == Role::Directory {
            authorities.push(describe(node, &keys)?);
        }
    }
    let relays = nodes.iter().filter(|node| matches!(node.role, Role::Relay { .. })).count();
    for node in nodes {
        let mut config = config(node, dir, relays, &authorities)?;
        if let (Role::Client, Some(status)) = (node.role, options.status) {
            config.insert("status".into(), status.to_string().into());
        }
        write_table(&node.config_path(dir), &config)?;
    }
    Ok(())
}

/// Writes the configuration of one more client, one that runs inside the launcher, and returns its path.
///
/// # Errors
/// If the authorities' keys cannot be read or the file not be written.
pub fn write_embedded_client(dir: &Path, nodes: &[NodePlan]) -> anyhow::Result<PathBuf> {
    let client = NodePlan {
        name: "embedded".to_owned(),
        role: Role::Client,
        address: UNUSED,
        namespace: None,
        clock_offset_s: 0,
    };
    write_client(dir, nodes, &client, Table::new())
}

/// Writes the configuration of one more client of this network, with these settings beside the usual ones, and returns
/// its path.
///
/// # Errors
/// If the authorities' keys cannot be read or the file not be written.
pub fn write_client(
    dir: &Path,
    nodes: &[NodePlan],
    client: &NodePlan,
    settings: Table,
) -> anyhow::Result<PathBuf> {
    let is_authority = |node: &&NodePlan| node.role == Role::Directory;
    let describe = |node| describe(node, &NodeKeys::load(&keys_dir(node, dir), daemon::unix_now())?);
    let authorities = nodes.iter().filter(is_authority).map(describe).collect::<anyhow::Result<Vec<_>>>()?;
    let mut config = config(client, dir, 0, &authorities)?;
    config.extend(settings);
    write_table(&client.config_path(dir), &config)
}

fn keys_dir(node: &NodePlan, dir: &Path) -> PathBuf {
    node.state_dir(dir).join("keys")
}

#[expect(clippy::disallowed_methods, reason = "without a seed, keys come from the system's randomness")]
fn generator(seed: Option<u64>) -> ChaCha20Rng {
    seed.map_or_else(|| ChaCha20Rng::from_rng(&mut rand::rng()), ChaCha20Rng::seed_from_u64)
}

fn describe(node: &NodePlan, keys: &NodeKeys) -> anyhow::Result<AuthorityConfig> {
    Ok(AuthorityConfig {
        name: node.name.clone(),
        identity: keys.signer.id(),
        onion_key: keys.onion.first().context("an authority has an onion key")?.public(),
        addresses: vec![node.address],
    })
}

fn write_table(path: &Path, table: &Table) -> anyhow::Result<PathBuf> {
    fs::write(path, toml::to_string_pretty(table)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.to_owned())
}

fn config(
    node: &NodePlan,
    dir: &Path,
    relays: usize,
    authorities: &[AuthorityConfig],
) -> anyhow::Result<Table> {
    let state = node.state_dir(dir).display().to_string();
    let key = if node.role == Role::Client { "state_dir" } else { "data_dir" };
    let mut config = Table::new();
    config.insert(key.into(), state.into());
    config.insert("authority".into(), Value::try_from(authorities)?);
    match node.role {
        Role::Directory => directory(&mut config, node, relays),
        Role::Relay { exit } => relay(&mut config, node, exit),
        Role::Client => client(&mut config, node),
    }
    if node.role != Role::Client {
        config.insert("limits".into(), limits());
    }
    Ok(config)
}

/// Everybody is at one address here, and tests and benchmarks ask for much at once: the network has limits like any
/// other, but an address may ask for what a whole network may elsewhere.
fn limits() -> Value {
    let limits = [
        ("channels_per_address", 10_000),
        ("channels_per_second", 1_000),
        ("channels_burst", 10_000),
        ("circuits_per_second", 10_000),
        ("circuits_burst", 100_000),
        ("circuits_per_client", 65_536),
        ("streams_per_neighbour", 65_536),
        ("streams_per_second", 10_000),
        ("streams_burst", 10_000),
    ];
    Value::Table(limits.into_iter().map(|(key, value)| (key.to_owned(), Value::Integer(value))).collect())
}

fn directory(config: &mut Table, node: &NodePlan, relays: usize) {
    config.insert("name".into(), node.name.clone().into());
    config.insert("listen".into(), node.address.to_string().into());
    config.insert("allow_private_relays".into(), true.into());
    let relays = i64::try_from(relays).unwrap_or(i64::MAX);
    // A network that has just been born signs its first consensus as soon as it knows every relay, and later notices
    // within a minute what has changed.
    let rounds = [
        ("interval_s", 60),
        ("vote_delay_s", 5),
        ("signature_delay_s", 5),
        ("bootstrap_interval_s", 1),
        ("bootstrap_relays", relays),
    ];
    let rounds = rounds.into_iter().map(|(key, value)| (key.to_owned(), Value::Integer(value)));
    config.insert("rounds".into(), Value::Table(rounds.collect()));
}

fn relay(config: &mut Table, node: &NodePlan, exit: bool) {
    config.insert("nickname".into(), node.name.clone().into());
    config.insert("listen".into(), node.address.to_string().into());
    config.insert("allow_private_relays".into(), true.into());
    // Nobody waits for the circuits of a network that ends as a whole.
    config.insert("drain_s".into(), 0.into());
    if exit {
        let policy = Value::Array(vec!["accept *:*".into()]);
        let exit = [("policy".to_owned(), policy), ("allow_private".to_owned(), true.into())];
        config.insert("exit".into(), Value::Table(exit.into_iter().collect()));
    }
}

fn client(config: &mut Table, node: &NodePlan) {
    config.insert("socks".into(), node.address.to_string().into());
    config.insert("allow_private_answers".into(), true.into());
    config.insert("status".into(), "off".into());
    // A network on one machine has no guard that others could flood.
    let testing = ["private_is_distinct", "unpaced_circuits"];
    let testing = testing.into_iter().map(|name| (name.to_owned(), Value::Boolean(true))).collect();
    config.insert("testing".into(), Value::Table(testing));
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn written(seed: Option<u64>) -> (Folder, Vec<NodePlan>) {
        let folder = Folder::make(None).unwrap();
        let options = Options { authorities: 2, relays: 3, exits: 1, seed, ..Options::default() };
        let nodes = options.nodes();
        write(&nodes, folder.path(), &options, NOW).unwrap();
        (folder, nodes)
    }

    fn identities(folder: &Folder, nodes: &[NodePlan]) -> Vec<String> {
        let path = nodes.last().unwrap().config_path(folder.path());
        let config: Table = fs::read_to_string(path).unwrap().parse().unwrap();
        let authorities = config["authority"].as_array().unwrap();
        authorities.iter().map(|authority| authority["identity"].to_string()).collect()
    }

    #[test]
    fn the_same_seed_makes_the_same_keys_and_no_seed_makes_new_ones() {
        let of = |seed| {
            let (folder, nodes) = written(seed);
            identities(&folder, &nodes)
        };
        assert_eq!(of(Some(7)), of(Some(7)));
        assert_ne!(of(Some(7)), of(Some(8)));
        assert_ne!(of(None), of(None));
    }

    #[test]
    fn a_folder_with_something_in_it_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Folder::make(Some(&dir.path().join("new"))).is_ok());
        fs::write(dir.path().join("thesis.txt"), "x").unwrap();
        let error = Folder::make(Some(dir.path())).err().unwrap().to_string();
        assert!(error.contains("not empty"), "{error}");
    }

    #[test]
    fn a_temporary_folder_goes_away() {
        let (folder, _) = written(None);
        let path = folder.path().to_path_buf();
        assert!(path.join("client.toml").exists());
        drop(folder);
        assert!(!path.exists());
    }
}
