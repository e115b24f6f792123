//! The relay's settings.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tunic_net::config::{AuthorityConfig, ConfigError, authority_problems};
use tunic_net::daemon::{Port, ServiceConfig, Settings};
use tunic_net::metrics::MetricsConfig;
use tunic_net::telemetry::LogFilter;
use tunic_proto::ids::RelayId;
use tunic_proto::limits::{Overrides, Throughput};
use tunic_proto::special;

use crate::bytes;
use crate::core::accounting::{Allowance, Rule, Start};
use crate::core::files::Shares;
pub use crate::exit_config::{ExitConfig, Ipv6};
use crate::padding::PaddingConfig;

/// The commented example that `--print-config` prints. What it sets are the defaults, but for the authorities.
pub const EXAMPLE: &str = include_str!("../relay.example.toml");

const MIB: usize = 1 << 20;
/// Below this a relay cannot hold the credit of a few busy circuits.
const MIN_MEMORY_BUDGET: usize = 16 * MIB;
/// Below this there is little left for circuits.
const MIN_MEMORY_MAX: u64 = 64 << 20;
/// The most addresses that a descriptor may list, and the most that make sense: a few of each family.
const MAX_ADDRESSES: usize = 8;
/// Bytes per second below which a relay serves nobody well.
const MIN_BANDWIDTH_RATE: u64 = 64 << 10;

/// Everything that an operator can set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Where the relay accepts channels.
    pub listen: SocketAddr,
    /// Where others reach it; if empty, where it listens.
    pub address: Vec<SocketAddr>,
    /// A name for people. Not unique, proves nothing.
    pub nickname: String,
    /// How to reach the operator. Not published yet.
    pub contact: Option<String>,
    /// Where keys and state are kept, mode 0700.
    pub data_dir: PathBuf,
    /// Bytes per second that the relay states it can carry; never more than [`Config::bandwidth_rate`].
    #[serde(with = "bytes")]
    pub bandwidth: u64,
    /// Bytes per second that its sockets may move in each direction, in the long run; without limit if not set.
    #[serde(with = "bytes::optional")]
    pub bandwidth_rate: Option<u64>,
    /// Bytes that they may move at once after a pause; as much as in a second if not set.
    #[serde(with = "bytes::optional")]
    pub bandwidth_burst: Option<u64>,
    /// Bytes of queued cells and stream data that the relay may hold.
    #[serde(with = "bytes::length")]
    pub memory_budget: usize,
    /// Bytes that the process may hold, as its resident set; if not set, a share of the machine's memory.
    #[serde(with = "bytes::optional")]
    pub memory_max: Option<u64>,
    /// Bytes that may be moved in an interval; without limit if not set.
    #[serde(with = "bytes::optional")]
    pub accounting_max: Option<u64>,
    /// When intervals begin.
    pub accounting_start: Start,
    /// Which bytes count.
    pub accounting_rule: Rule,
    /// Channels at a time that others open. Each takes an open file.
    pub max_incoming_channels: usize,
    /// Channels at a time that the relay opens to others. Each takes an open file.
    pub max_outgoing_channels: usize,
    /// Relays of the same operator.
    pub family: Vec<RelayId>,
    /// Circuits may be extended to relays with private addresses: for private networks.
    pub allow_private_relays: bool,
    /// How long circuits that are in use may go on after the first SIGTERM or SIGINT, in seconds.
    pub drain_s: u32,
    /// What gets logged.
    pub log: LogFilter,
    /// How the process behaves.
    pub service: ServiceConfig,
    /// How much one neighbour may ask for, where that is not what the consensus says.
    pub limits: Overrides,
    /// Where the relay connects to for clients.
    pub exit: ExitConfig,
    /// What it shows to Prometheus.
    pub metrics: MetricsConfig,
    /// What it gives clients in padding.
    pub padding: PaddingConfig,
    /// The authorities that are trusted.
    #[serde(rename = "authority")]
    pub authorities: Vec<AuthorityConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: SocketAddr::from(([0, 0, 0, 0], 9001)),
            address: Vec::new(),
            nickname: "unnamed".to_owned(),
            contact: None,
            data_dir: PathBuf::from("/var/lib/tunic-relay"),
            bandwidth: 12_500_000,
            bandwidth_rate: None,
            bandwidth_burst: None,
            memory_budget: 512 * MIB,
            memory_max: None,
            accounting_max: None,
            accounting_start: Start::default(),
            accounting_rule: Rule::default(),
            max_incoming_channels: 8_192,
            max_outgoing_channels: 4_096,
            family: Vec::new(),
            allow_private_relays: false,
            drain_s: 30,
            log: LogFilter::default(),
            service: ServiceConfig::default(),
            limits: Overrides::default(),
            exit: ExitConfig::default(),
            metrics: MetricsConfig::default(),
            padding: PaddingConfig::default(),
            authorities: Vec::new(),
        }
    }
}

impl Settings for Config {
    const EXAMPLE: &'static str = EXAMPLE;
    const RELOADABLE: &'static [&'static str] = &[
        "nickname",
        "contact",
        "bandwidth",
        "bandwidth_rate",
        "bandwidth_burst",
        "accounting_max",
        "accounting_start",
        "accounting_rule",
        "family",
        "max_incoming_channels",
        "max_outgoing_channels",
        "limits",
        "exit.enabled",
        "exit.policy",
        "exit.ipv6",
        "exit.allow_private",
        "exit.max_exit_streams",
    ];

    fn log(&self) -> &LogFilter {
        &self.log
    }

    fn listen(&self) -> (SocketAddr, &'static str) {
        (self.listen, "listen")
    }

    fn service(&self) -> &ServiceConfig {
        &self.service
    }

    fn state_dir(&self) -> Result<PathBuf, ConfigError> {
        Ok(self.data_dir.clone())
    }

    fn other_ports(&self) -> Vec<Port> {
        [(self.exit.notice, "exit.notice"), (self.metrics.listen, "metrics.listen")]
            .into_iter()
            .filter_map(|(at, setting)| at.map(|address| Port { address, setting, datagrams: false }))
            .collect()
    }

    fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_s.into())
    }

    fn problems(&self) -> Vec<String> {
        Config::problems(self, None)
    }
}

impl Config {
    /// Where the keys are.
    pub fn key_dir(&self) -> PathBuf {
        self.data_dir.join("keys")
    }

    /// Whether it connects to anything for clients.
    pub fn is_exit(&self) -> bool {
        self.exit.effective_policy().is_exit()
    }

    /// The open files that channels and streams take if all that is allowed is used.
    pub fn wanted_files(&self) -> Shares {
        Shares {
            incoming: self.max_incoming_channels,
            outgoing: self.max_outgoing_channels,
            streams: if self.is_exit() { self.exit.max_exit_streams } else { 0 },
        }
    }

    /// What the relay's sockets may move in each direction.
    pub fn throughput(&self) -> Option<Throughput> {
        self.bandwidth_rate.map(|rate| Throughput::new(rate, self.bandwidth_burst.unwrap_or(rate)))
    }

    /// What the relay may move in an interval.
    pub fn allowance(&self) -> Option<Allowance> {
        let (rule, start) = (self.accounting_rule, self.accounting_start);
        self.accounting_max.map(|max| Allowance { max, rule, start })
    }

    /// What the descriptor states.
    pub fn stated_bandwidth(&self) -> u64 {
        self.bandwidth.min(self.bandwidth_rate.unwrap_or(u64::MAX))
    }

    /// What is wrong with the settings, each with what to do about it. `listening` is the address that a socket was
    /// bound to, if one was.
    pub fn problems(&self, listening: Option<SocketAddr>) -> Vec<String> {
        let advertised = self.advertised(listening.unwrap_or(self.listen));
        let is_private = |addr: &SocketAddr| !special::is_public(addr.ip());
        let checks = [
            (
                advertised.iter().any(|addr| addr.ip().is_unspecified()),
                "`address` must say where others reach this relay, for example address = [\"198.51.100.7:9001\"]; \
                 `listen` alone does not tell",
            ),
            (self.address.iter().any(|addr| addr.port() == 0), "`address` needs a port other than 0"),
            (self.address.len() > MAX_ADDRESSES, "`address` lists more than 8 addresses; keep one or two"),
            (
                !self.allow_private_relays && self.address.iter().any(is_private),
                "`address` holds a private address: others could not reach it. State the public one, or set \
                 allow_private_relays = true in a private network",
            ),
            (!is_nickname(&self.nickname), "`nickname` must be 1 to 19 letters and digits"),
            (self.bandwidth == 0, "`bandwidth` is 0: nobody would use this relay"),
            (
                self.bandwidth_rate.is_some_and(|rate| rate < MIN_BANDWIDTH_RATE),
                "`bandwidth_rate` is below 64 KiB per second: a relay so slow serves nobody",
            ),
            (
                self.bandwidth_burst.is_some_and(|burst| burst < self.bandwidth_rate.unwrap_or(u64::MAX)),
                "`bandwidth_burst` must be `bandwidth_rate` or more, and needs one",
            ),
            (self.memory_budget < MIN_MEMORY_BUDGET, "`memory_budget` is below 16777216 bytes (16 MiB)"),
            (self.memory_max.is_some_and(|max| max < MIN_MEMORY_MAX), "`memory_max` is below 64 MiB"),
            (
                self.accounting_max == Some(0),
                "`accounting_max` is 0: the relay would never be awake; leave it out for no limit",
            ),
            (
                self.max_incoming_channels == 0 || self.max_outgoing_channels == 0,
                "`max_incoming_channels` and `max_outgoing_channels` must be 1 or more: a relay that may open no \
                 channel serves nobody",
            ),
        ];
        let wrong = checks
            .into_iter()
            .chain(self.exit.checks())
            .chain(self.metrics.checks())
            .filter(|(wrong, _)| *wrong)
            .map(|(_, text)| text);
        wrong
            .chain(authority_problems(&self.authorities))
            .map(str::to_owned)
            .chain(self.limits.problem())
            .collect()
    }

    /// The addresses that the descriptor states, given the one that a socket is bound to.
    pub fn advertised(&self, listening: SocketAddr) -> Vec<SocketAddr> {
        if self.address.is_empty() { vec![listening] } else { self.address.clone() }
    }
}

fn is_nickname(text: &str) -> bool {
    (1..=19).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tunic_proto::dir::ExitPolicy;
    use tunic_proto::limits::Params;

    fn parse(text: &str) -> Result<Config, tunic_net::config::ConfigError> {
        tunic_net::config::parse(text, EXAMPLE)
    }

    pub(crate) fn sound() -> Config {
        let authority = AuthorityConfig {
            name: "one".into(),
            identity: RelayId([1; 32]),
            onion_key: tunic_proto::keys::OnionKey([2; 32]),
            addresses: vec!["192.0.2.1:9001".parse().unwrap()],
        };
        Config {
            address: vec!["8.8.8.8:9001".parse().unwrap()],
            authorities: vec![authority],
            ..Config::default()
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Config), expect: &str) {
        let mut config = sound();
        change(&mut config);
        let problems = config.problems(None);
        assert!(problems.len() == 1 && problems[0].contains(expect), "{problems:?}");
    }

    #[test]
    fn the_example_states_the_defaults() {
        assert_eq!(parse(EXAMPLE).unwrap(), Config::default());
    }

    #[test]
    fn what_the_example_has_commented_out_is_valid_too() {
        let uncommented: Vec<_> = EXAMPLE
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .collect();
        let text = uncommented.join("\n");
        let config = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(config.authorities.len(), 1);
        assert!(!config.family.is_empty() && !config.address.is_empty() && config.contact.is_some());
        assert!(config.exit.policy.is_exit());
        assert_eq!(config.limits, Overrides::all(Params::default()));
    }

    #[test]
    fn a_configuration_survives_being_written() {
        let mut config = sound();
        config.contact = Some("op@example.org".into());
        config.exit.policy = ExitPolicy::parse(&["accept *:443"]).unwrap();
        let text = toml::to_string(&config).unwrap();
        assert_eq!(parse(&text).unwrap(), config);
    }

    #[test]
    fn a_misspelt_key_is_an_error_that_names_the_right_one() {
        let error = parse("nicknam = \"x\"").unwrap_err().to_string();
        assert!(error.contains("`nickname`"), "{error}");
        let error = parse("[exit]\nallow_privat = true").unwrap_err().to_string();
        assert!(error.contains("`allow_private`"), "{error}");
    }

    #[test]
    fn a_sound_configuration_has_no_problems() {
        assert_eq!(sound().problems(None), Vec::<String>::new());
        // A socket that is bound already tells the address.
        let private = Config { address: vec![], allow_private_relays: true, ..sound() };
        assert_eq!(private.problems(Some("127.0.0.1:1234".parse().unwrap())), Vec::<String>::new());
    }

    #[test]
    fn whoever_is_an_exit_has_files_for_streams() {
        let streams = |config: Config| config.wanted_files().streams;
        assert_eq!(streams(sound()), 0);
        let mut reduced = sound();
        reduced.exit.enabled = Some(true);
        assert_eq!(streams(reduced.clone()), reduced.exit.max_exit_streams);
        reduced.exit.enabled = Some(false);
        assert_eq!(streams(reduced), 0);
    }

    #[test]
    fn sizes_are_written_as_people_write_them() {
        let config =
            parse("bandwidth = \"12.5 MB\"\nbandwidth_rate = \"10 MiB\"\nmemory_budget = \"1GiB\"").unwrap();
        assert_eq!((config.bandwidth, config.memory_budget), (12_500_000, 1 << 30));
        assert_eq!(config.stated_bandwidth(), 10 << 20);
        assert_eq!(config.throughput(), Some(Throughput::new(10 << 20, 10 << 20)));
        assert_eq!(Config::default().throughput(), None);
        let error = parse("bandwidth_rate = \"10 apples\"").unwrap_err().to_string();
        assert!(error.contains("apples"), "{error}");
        assert!(parse("bandwidth_rate = -1").is_err());
        let config = parse(
            "accounting_max = \"2 TB\"\naccounting_start = \"week mon 06:00\"\naccounting_rule = \"sum\"",
        )
        .unwrap();
        let allowance = config.allowance().unwrap();
        assert_eq!((allowance.max, allowance.rule), (2_000_000_000_000, Rule::Sum));
        let error = parse("accounting_start = \"year 1\"").unwrap_err().to_string();
        assert!(error.contains("week mon 00:00"), "{error}");
    }

    #[test]
    fn problems_are_named() {
        check(|config| config.address.clear(), "`address`");
        check(|config| config.address[0].set_port(0), "`address`");
        check(|config| config.address[0] = "10.0.0.1:9001".parse().unwrap(), "private");
        check(|config| config.address = vec![config.address[0]; 9], "more than 8");
        check(|config| config.nickname = "a b".into(), "`nickname`");
        check(|config| config.bandwidth = 0, "`bandwidth`");
        check(|config| config.bandwidth_rate = Some(65_535), "`bandwidth_rate`");
        check(|config| config.bandwidth_burst = Some(1 << 30), "`bandwidth_burst`");
        check(|config| config.memory_budget = 1, "`memory_budget`");
        check(|config| config.memory_max = Some(1 << 20), "`memory_max`");
        check(|config| config.accounting_max = Some(0), "`accounting_max`");
        check(|config| config.max_outgoing_channels = 0, "`max_outgoing_channels`");
        check(|config| config.limits.subnet_factor = Some(0), "`subnet_factor`");
        check(|config| config.authorities.clear(), "[[authority]]");
        check(|config| config.authorities[0].addresses.clear(), "no address");
        check(|config| config.authorities.push(config.authorities[0].clone()), "same identity");
    }
}
