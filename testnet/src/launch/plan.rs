//! What a network consists of, before anything is started: names, roles, counts, and who lies in which folder.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::place::{Namespace, Place};

/// The most authorities that a plan may have.
pub const MAX_AUTHORITIES: usize = 15;
/// The most relays that a plan may have: each is a process, and a laptop should survive them.
pub const MAX_RELAYS: usize = 200;
/// A circuit has three different relays.
pub const MIN_RELAYS: usize = 3;

/// How large the network shall be and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Directory authorities.
    pub authorities: usize,
    /// Relays, exits included.
    pub relays: usize,
    /// How many of the relays are exits.
    pub exits: usize,
    /// Where the client listens for SOCKS5; port 0 picks a free one. `None`: no client is started.
    pub socks: Option<SocketAddr>,
    /// Where the client shows its status page; port 0 picks a free one. `None`: nowhere.
    pub status: Option<SocketAddr>,
    /// The folder to keep; `None` for a temporary one that is removed at the end.
    pub dir: Option<PathBuf>,
    /// Makes every key from this number.
    pub seed: Option<u64>,
    /// Where the nodes are put, in the order of [`Options::nodes`].
    pub place: Place,
    /// What relays log, as `TUNIC_LOG` says it; `None` for what their configuration says.
    pub relay_log: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            authorities: 3,
            relays: 6,
            exits: 3,
            socks: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9150))),
            status: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            dir: None,
            seed: None,
            place: Place::Loopback,
            relay_log: None,
        }
    }
}

/// A network that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Too few or too many authorities.
    #[error("--authorities {0}: a network has 1 to {MAX_AUTHORITIES}")]
    Authorities(usize),
    /// Too few or too many relays.
    #[error(
        "--relays {0}: a network has {MIN_RELAYS} to {MAX_RELAYS}, because a circuit has three different ones"
    )]
    Relays(usize),
    /// No exit, or more exits than relays.
    #[error("--exits {exits}: of {relays} relays, 1 to {relays} can be exits")]
    Exits {
        /// As asked.
        exits: usize,
        /// As asked.
        relays: usize,
    },
    /// The SOCKS port would be open to others.
    #[error("--socks {0}: the port of a private network stays on loopback; try --socks 127.0.0.1:0")]
    PublicSocks(SocketAddr),
    /// The status page would be open to others.
    #[error("--status {0}: the page of a private network stays on loopback; try --status 127.0.0.1:0")]
    PublicStatus(SocketAddr),
}

impl Options {
    /// Checks the counts.
    ///
    /// # Errors
    /// The first option that makes no sense.
    pub fn check(&self) -> Result<(), PlanError> {
        if !(1..=MAX_AUTHORITIES).contains(&self.authorities) {
            return Err(PlanError::Authorities(self.authorities));
        }
        if !(MIN_RELAYS..=MAX_RELAYS).contains(&self.relays) {
            return Err(PlanError::Relays(self.relays));
        }
        if !(1..=self.relays).contains(&self.exits) {
            return Err(PlanError::Exits { exits: self.exits, relays: self.relays });
        }
        let public = |address: Option<SocketAddr>| address.filter(|address| !address.ip().is_loopback());
        match (public(self.socks), public(self.status)) {
            (Some(address), _) => Err(PlanError::PublicSocks(address)),
            (None, Some(address)) => Err(PlanError::PublicStatus(address)),
            (None, None) => Ok(()),
        }
    }

    /// Every node of the network, in the order in which they are started. Relays that are exits come last, so that
    /// the first ones are guards and middles.
    pub fn nodes(&self) -> Vec<NodePlan> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let first_exit = self.relays - self.exits + 1;
        let authorities =
            (1..=self.authorities).map(|n| (format!("authority{n}"), Role::Directory, loopback));
        let relays =
            (1..=self.relays).map(|n| (format!("relay{n}"), Role::Relay { exit: n >= first_exit }, loopback));
        let client = self.socks.map(|address| ("client".to_owned(), Role::Client, address));
        let all = authorities.chain(relays).chain(client).enumerate();
        all.map(|(number, (name, role, address))| NodePlan {
            name,
            role,
            address,
            namespace: self.place.of(number),
            clock_offset_s: 0,
        })
        .collect()
    }
}

/// What a process of the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A directory authority.
    Directory,
    /// A relay.
    Relay {
        /// Whether it connects to targets.
        exit: bool,
    },
    /// The client with its SOCKS5 port.
    Client,
}

impl Role {
    /// The word that the hidden subcommand `role` and the JSON output use.
    pub fn word(self) -> &'static str {
        match self {
            Role::Directory => "directory",
            Role::Relay { .. } => "relay",
            Role::Client => "client",
        }
    }
}

/// One process of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan {
    /// Its name, also that of its files; letters and digits.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Where it listens; port 0 until a socket is bound.
    pub address: SocketAddr,
    /// Where it runs, if not beside the launcher.
    pub namespace: Option<Namespace>,
    /// How wrong its clock is.
    pub clock_offset_s: i64,
}

impl NodePlan {
    /// Its configuration file, in the network's folder.
    pub fn config_path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.toml", self.name))
    }

    /// Its keys and what it stores.
    pub fn state_dir(&self, dir: &Path) -> PathBuf {
        dir.join("state").join(&self.name)
    }

    /// What it says on stderr.
    pub fn log_path(&self, dir: &Path) -> PathBuf {
        logs_dir(dir).join(format!("{}.log", self.name))
    }
}

/// Where the logs of a network lie.
pub fn logs_dir(dir: &Path) -> PathBuf {
    dir.join("logs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl Fn(&mut Options), expect: &str) {
        let mut options = Options::default();
        change(&mut options);
        let said = options.check().err().map(|error| error.to_string()).unwrap_or_default();
        assert!(said.starts_with(expect) && said.is_empty() == expect.is_empty(), "{said}");
    }

    #[test]
    fn only_networks_that_can_work_are_planned() {
        check(|_| {}, "");
        check(|o| o.authorities = 1, "");
        check(|o| (o.relays, o.exits) = (3, 3), "");
        check(|o| o.authorities = 0, "--authorities 0");
        check(|o| o.authorities = MAX_AUTHORITIES + 1, "--authorities 16");
        check(|o| o.relays = 2, "--relays 2");
        check(|o| o.relays = MAX_RELAYS + 1, "--relays 201");
        check(|o| o.exits = 0, "--exits 0");
        check(|o| o.exits = 7, "--exits 7: of 6 relays");
        check(|o| o.socks = Some(SocketAddr::from(([0, 0, 0, 0], 9150))), "--socks 0.0.0.0:9150");
        check(|o| o.status = Some(SocketAddr::from(([0, 0, 0, 0], 0))), "--status 0.0.0.0:0");
        check(|o| o.status = None, "");
    }

    #[test]
    fn the_default_network_is_three_authorities_six_relays_and_a_client() {
        let nodes = Options::default().nodes();
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        let expect = "authority1 authority2 authority3 relay1 relay2 relay3 relay4 relay5 relay6 client";
        assert_eq!(names.join(" "), expect);
        let exits = nodes.iter().filter(|node| node.role == Role::Relay { exit: true });
        assert_eq!(exits.map(|node| node.name.as_str()).collect::<Vec<_>>(), ["relay4", "relay5", "relay6"]);
    }
}
