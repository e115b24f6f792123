//! The client's settings.

use std::ffi::OsStr;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tunic_net::config::{AuthorityConfig, ConfigError, Place, authority_problems};
use tunic_net::daemon::{Port, ServiceConfig, Settings};
use tunic_net::telemetry::LogFilter;
use tunic_proto::dir::AuthoritySet;
use tunic_proto::limits::Rate;

use crate::core::front::leaks::{LEAKY_PORTS, LeakRules, Reaction};
use crate::core::isolation::IsolateBy;
use crate::core::network::Rules;
use crate::core::pool::{BUILD_RATE, MAX_SPARES, Pool};
use crate::padding::PaddingConfig;

/// The commented example that `--print-config` prints. What it sets are the defaults.
pub const EXAMPLE: &str = include_str!("../client.example.toml");

const MIB: usize = 1 << 20;
/// Below this the client cannot hold the windows of a few busy streams.
const MIN_MEMORY_BUDGET: usize = 4 * MIB;

/// Everything that a person can set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Where applications connect.
    pub socks: SocketAddr,
    /// A Unix socket where applications connect too.
    pub unix_socket: Option<PathBuf>,
    /// Where DNS queries are answered.
    pub dns: Option<SocketAddr>,
    /// Where the status page and the local API are.
    pub status: Listen,
    /// Whether `status` may be an address that other machines reach.
    pub allow_public_status: bool,
    /// What the page asks for, if anything.
    pub status_password: Option<Password>,
    /// Whether the page tells where streams lead.
    pub status_destinations: bool,
    /// Whether `socks` may be an address that other machines reach.
    pub allow_public_socks: bool,
    /// What applications must authenticate with, if anything.
    pub socks_password: Option<Password>,
    /// What to do when an application asks for an address instead of a name.
    pub safe_socks: Reaction,
    /// Ports whose protocols give a person away.
    pub leaky_ports: Vec<u16>,
    /// What to do about those.
    pub on_leaky_port: Reaction,
    /// Whether exits may answer lookups with addresses that are not public.
    pub allow_private_answers: bool,
    /// Whether streams to different hosts never share a circuit.
    pub isolate_destinations: bool,
    /// Where guards and consensus are kept, mode 0700.
    pub state_dir: Option<PathBuf>,
    /// Circuits kept ready.
    pub spare_circuits: usize,
    /// Bytes of queued cells and stream data that the client may hold.
    pub memory_budget: usize,
    /// What gets logged.
    pub log: LogFilter,
    /// How much cover the traffic gets.
    #[serde(deserialize_with = "crate::padding::name_or_table")]
    pub padding: PaddingConfig,
    /// How the process behaves.
    pub service: ServiceConfig,
    /// For networks on one machine.
    pub testing: Testing,
    /// The authorities that are trusted.
    #[serde(rename = "authority")]
    pub authorities: Vec<AuthorityConfig>,
}

/// Settings that weaken the client, for networks on one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Testing {
    /// Loopback and private addresses count as different networks.
    pub private_is_distinct: bool,
    /// Circuits are begun as fast as applications ask for them.
    pub unpaced_circuits: bool,
}

/// Where a port is opened, if it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Listen {
    /// Nowhere: `off`.
    Off,
    /// At this address.
    At(SocketAddr),
}

impl Listen {
    /// The address, if there is one.
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Listen::Off => None,
            Listen::At(address) => Some(address),
        }
    }
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "off" => Ok(Listen::Off),
            address => address.parse().map(Listen::At).map_err(|_| {
                format!(
                    "{address:?} is neither an address with a port, such as \"127.0.0.1:9152\", nor \"off\""
                )
            }),
        }
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> String {
        listen.address().map_or_else(|| "off".to_owned(), |address| address.to_string())
    }
}

/// A password. Its debug form does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Password(pub String);

impl Password {
    /// Its bytes, to compare with.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        self.0.as_bytes().to_vec()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            socks: SocketAddr::from(([127, 0, 0, 1], 9150)),
            unix_socket: None,
            dns: None,
            status: Listen::At(SocketAddr::from(([127, 0, 0, 1], 9152))),
            allow_public_status: false,
            status_password: None,
            status_destinations: false,
            allow_public_socks: false,
            socks_password: None,
            safe_socks: Reaction::Warn,
            leaky_ports: LEAKY_PORTS.to_vec(),
            on_leaky_port: Reaction::Warn,
            allow_private_answers: false,
            isolate_destinations: false,
            state_dir: None,
            spare_circuits: 2,
            memory_budget: 128 * MIB,
            log: LogFilter::default(),
            padding: PaddingConfig::default(),
            service: ServiceConfig::default(),
            testing: Testing::default(),
            authorities: Vec::new(),
        }
    }
}

impl Settings for Config {
    const EXAMPLE: &'static str = EXAMPLE;

    fn log(&self) -> &LogFilter {
        &self.log
    }

    fn listen(&self) -> (SocketAddr, &'static str) {
        (self.socks, "socks")
    }

    fn check_before_listening(&self) -> Result<(), ConfigError> {
        self.check(None)
    }

    fn service(&self) -> &ServiceConfig {
        &self.service
    }

    /// Where the service manager says, if the configuration does not (systemd.exec(5), `StateDirectory=`).
    fn state_dir(&self) -> Result<PathBuf, ConfigError> {
        let given = std::env::var_os("STATE_DIRECTORY").and_then(|dirs| first_dir(&dirs));
        self.state_dir.clone().or(given).map_or_else(|| Config::state_dir(self), Ok)
    }

    fn sockets(&self) -> Vec<PathBuf> {
        self.unix_socket.iter().cloned().collect()
    }

    fn other_ports(&self) -> Vec<Port> {
        let dns = self.dns.map(|address| Port { address, setting: "dns", datagrams: true });
        dns.into_iter().collect()
    }

    fn problems(&self) -> Vec<String> {
        Config::problems(self, self.socks).into_iter().map(str::to_owned).collect()
    }
}

impl Config {
    /// Refuses settings that cannot work or that would harm whoever set them. `socks` is the address that the listener
    /// has, if there is one.
    ///
    /// # Errors
    /// [`ConfigError`] with all that is wrong, and what to do about it.
    pub fn check(&self, socks: Option<SocketAddr>) -> Result<(), ConfigError> {
        let problems = self.problems(socks.unwrap_or(self.socks));
        if problems.is_empty() {
            return Ok(());
        }
        Err(ConfigError::Invalid { place: Place::default(), message: problems.join("; ") })
    }

    fn problems(&self, socks: SocketAddr) -> Vec<&'static str> {
        let is_public = |at: SocketAddr| !at.ip().to_canonical().is_loopback();
        let public_socks = is_public(socks);
        let public_status = self.status.address().is_some_and(is_public);
        let is_odd = |password: &Option<Password>| {
            password.as_ref().is_some_and(|password| !(1..=255).contains(&password.0.len()))
        };
        let checks = [
            (
                public_socks && !self.allow_public_socks,
                "`socks` is an address that other machines can reach: use 127.0.0.1, or set allow_public_socks = true \
                 and a socks_password if you mean it",
            ),
            (
                public_socks && self.allow_public_socks && self.socks_password.is_none(),
                "`allow_public_socks` needs a `socks_password`, or everybody could use Tunic in your name",
            ),
            (self.dns.is_some_and(is_public), "`dns` must be a loopback address: DNS has no password"),
            (
                public_status && !self.allow_public_status,
                "`status` is an address that other machines can reach: use 127.0.0.1, or set allow_public_status = true \
                 and a status_password if you mean it",
            ),
            (
                public_status && self.allow_public_status && self.status_password.is_none(),
                "`allow_public_status` needs a `status_password`, or everybody could see your circuits and end them",
            ),
            (is_odd(&self.socks_password), "`socks_password` must have 1 to 255 bytes"),
            (is_odd(&self.status_password), "`status_password` must have 1 to 255 bytes"),
            (self.spare_circuits > MAX_SPARES, "`spare_circuits` is more than 16"),
            (self.memory_budget < MIN_MEMORY_BUDGET, "`memory_budget` is below 4194304 bytes (4 MiB)"),
        ];
        let wrong = checks.into_iter().filter(|(wrong, _)| *wrong).map(|(_, text)| text);
        wrong.chain(authority_problems(&self.authorities)).chain(self.padding.problem()).collect()
    }

    /// Reads a file like the one that `tunic-client --print-config` prints.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file and the place in it.
    pub fn load(file: &Path) -> Result<Config, ConfigError> {
        tunic_net::config::load(file, EXAMPLE)
    }

    /// Where state is kept: as configured, else where the XDG Base Directory Specification says. The daemon asks its service
    /// manager first.
    ///
    /// # Errors
    /// [`ConfigError`] if neither the configuration nor the environment tells.
    pub fn state_dir(&self) -> Result<PathBuf, ConfigError> {
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let xdg = || absolute("XDG_STATE_HOME").map(|base| base.join("tunic"));
        let home = || absolute("HOME").map(|home| home.join(".local/state/tunic"));
        self.state_dir.clone().or_else(xdg).or_else(home).ok_or_else(|| ConfigError::Invalid {
            place: Place { key: Some("state_dir".to_owned()), ..Place::default() },
            message: "neither `state_dir` nor the environment's HOME says where to keep state".to_owned(),
        })
    }

    /// What counts as two different networks.
    pub fn rules(&self) -> Rules {
        Rules { private_is_distinct: self.testing.private_is_distinct }
    }

    /// The pool of circuits, still empty.
    pub fn pool(&self) -> Pool {
        let unpaced = Rate { per_second: 0, burst: 0 };
        let rate = if self.testing.unpaced_circuits { unpaced } else { BUILD_RATE };
        Pool::new(self.spare_circuits, rate).with_patience(self.padding.spare_patience())
    }

    /// What counts as a leak, and what to do about it.
    pub fn leak_rules(&self) -> LeakRules {
        LeakRules {
            bare_addresses: self.safe_socks,
            ports: self.leaky_ports.clone(),
            on_port: self.on_leaky_port,
        }
    }

    /// What separates streams.
    pub fn isolate_by(&self) -> IsolateBy {
        IsolateBy { destination: self.isolate_destinations }
    }

    /// The identities of the authorities.
    pub fn authority_set(&self) -> AuthoritySet {
        AuthoritySet::new(self.authorities.iter().map(|authority| authority.identity))
    }
}

/// The first of the directories of a service, which are separated by colons.
fn first_dir(dirs: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(dirs).next().filter(|dir| dir.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tunic_net::config::parse;

    fn usable() -> Config {
        let commented = EXAMPLE.split_once("# [[authority]]").unwrap().1;
        let table = format!("[[authority]]{}", commented.replace("\n# ", "\n"));
        parse(&table, EXAMPLE).unwrap()
    }

    #[track_caller]
    fn check_refused(config: &Config, mention: &str) {
        let error = config.check(None).unwrap_err().to_string();
        assert!(error.contains(mention), "{error}");
    }

    #[test]
    fn the_example_is_the_default() {
        assert_eq!(parse::<Config>(EXAMPLE, EXAMPLE).unwrap(), Config::default());
        assert_eq!(parse::<Config>("", EXAMPLE).unwrap(), Config::default());
    }

    #[test]
    fn the_examples_comments_are_settings_too() {
        let config = usable();
        assert_eq!(config.authorities[0].addresses, ["192.0.2.1:9001".parse().unwrap()]);
        config.check(None).unwrap();
        let settings = ["socks_password", "status_password", "state_dir"];
        let text = settings.iter().fold(EXAMPLE.to_owned(), |text, name| {
            text.replace(&format!("# {name} ="), &format!("{name} ="))
        });
        let config: Config = parse(&text, EXAMPLE).unwrap();
        assert!(
            config.socks_password.is_some() && config.status_password.is_some() && config.state_dir.is_some()
        );
    }

    #[test]
    fn a_misspelt_setting_names_the_nearest_one() {
        let error = parse::<Config>("spare_circuit = 3", EXAMPLE).unwrap_err().to_string();
        assert!(error.contains("spare_circuits"), "{error}");
    }

    #[test]
    fn a_public_socks_port_needs_a_flag_and_a_password() {
        let mut config = usable();
        for public in ["0.0.0.0:9150", "192.0.2.1:9150", "[::]:9150", "[::ffff:192.0.2.1]:9150"] {
            config.socks = public.parse().unwrap();
            config.allow_public_socks = false;
            check_refused(&config, "allow_public_socks = true");
            config.allow_public_socks = true;
            check_refused(&config, "needs a `socks_password`");
        }
        config.socks_password = Some(Password("secret".into()));
        config.check(None).unwrap();
        for loopback in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            let config = Config { socks: loopback.parse().unwrap(), ..usable() };
            config.check(None).unwrap();
        }
        assert!(
            usable().check(Some("0.0.0.0:9150".parse().unwrap())).is_err(),
            "the listener's address counts"
        );
    }

    #[test]
    fn the_status_page_is_on_loopback_or_off_unless_it_is_meant_otherwise() {
        let status = |text: &str| parse::<Config>(&format!("status = {text:?}"), EXAMPLE);
        assert_eq!(status("off").unwrap().status, Listen::Off);
        assert_eq!(status("[::1]:1").unwrap().status, Listen::At("[::1]:1".parse().unwrap()));
        let error = status("9152").unwrap_err().to_string();
        assert!(error.contains("nor \"off\""), "{error}");
        for public in ["0.0.0.0:9152", "192.0.2.1:9152", "[::]:9152", "[::ffff:192.0.2.1]:9152"] {
            let public = Config { status: Listen::At(public.parse().unwrap()), ..usable() };
            check_refused(&public, "allow_public_status = true");
            let meant = Config { allow_public_status: true, ..public };
            check_refused(&meant, "needs a `status_password`");
            Config { status_password: Some(Password("secret".into())), ..meant }.check(None).unwrap();
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        check_refused(&Config::default(), "[[authority]]");
        check_refused(&Config { spare_circuits: 17, ..usable() }, "spare_circuits");
        check_refused(&Config { memory_budget: 1, ..usable() }, "memory_budget");
        for odd in [String::new(), "x".repeat(256)] {
            check_refused(
                &Config { socks_password: Some(Password(odd.clone())), ..usable() },
                "`socks_password` must",
            );
            check_refused(
                &Config { status_password: Some(Password(odd)), ..usable() },
                "`status_password` must",
            );
        }
        let mut config = usable();
        config.authorities.push(config.authorities[0].clone());
        check_refused(&config, "same identity");
        config.authorities.truncate(1);
        config.authorities[0].addresses.clear();
        check_refused(&config, "no address");
    }

    #[test]
    fn of_a_services_directories_the_first_is_for_state() {
        let first = |dirs: &str| first_dir(OsStr::new(dirs));
        assert_eq!(first("/var/lib/a"), Some("/var/lib/a".into()));
        assert_eq!(first("/var/lib/a:/var/lib/b"), Some("/var/lib/a".into()));
        assert_eq!((first(""), first("relative:/var/lib/b")), (None, None));
        let config = Config { state_dir: Some("/configured".into()), ..Config::default() };
        assert_eq!(Settings::state_dir(&config).unwrap(), Path::new("/configured"));
    }

    #[test]
    fn a_written_configuration_reads_back() {
        let config = Config { socks_password: Some(Password("secret".into())), ..usable() };
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
        assert!(!format!("{config:?}").contains("secret"));
    }
}
