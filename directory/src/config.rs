//! The authority's settings.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tunic_net::config::{AuthorityConfig, ConfigError, Place};
use tunic_net::daemon::{self, ServiceConfig};
use tunic_net::metrics::MetricsConfig;
use tunic_net::telemetry::LogFilter;
use tunic_proto::dir::{AuthoritySet, MAX_SIGNATURES};
use tunic_proto::ids::RelayId;
use tunic_proto::limits::Overrides;

use crate::core::Settings;

/// The commented example that `--print-config` prints. What it sets are the defaults.
pub const EXAMPLE: &str = include_str!("../directory.example.toml");

/// Everything that an operator can set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Where the authority accepts channels.
    pub listen: SocketAddr,
    /// Where others reach it; if empty, where it listens. For `keygen`.
    pub address: Vec<SocketAddr>,
    /// What people call it. For `keygen`.
    pub name: String,
    /// Where keys and state are kept, mode 0700.
    pub data_dir: PathBuf,
    /// Bytes of queued cells and stream data that the authority may hold.
    pub memory_budget: usize,
    /// Whether relays at addresses that are not public are listed.
    pub allow_private_relays: bool,
    /// What gets logged.
    pub log: LogFilter,
    /// How the process behaves.
    pub service: ServiceConfig,
    /// How much one neighbour may ask for, where that is not what the consensus says.
    pub limits: Overrides,
    /// When the authorities vote.
    pub rounds: RoundsConfig,
    /// What it shows to Prometheus.
    pub metrics: MetricsConfig,
    /// Network-wide settings to vote for.
    pub params: BTreeMap<String, i64>,
    /// All authorities of the network, this one included; if empty, it is alone.
    #[serde(rename = "authority")]
    pub authorities: Vec<AuthorityConfig>,
}

/// When the authorities vote, in seconds (docs/protocol.md §10.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoundsConfig {
    /// From one consensus to the next.
    pub interval_s: u32,
    /// How long votes are waited for.
    pub vote_delay_s: u32,
    /// How long signatures are waited for after that.
    pub signature_delay_s: u32,
    /// How long a consensus may be used.
    pub lifetime_s: u32,
    /// From one round to the next while there is no consensus.
    pub bootstrap_interval_s: u32,
    /// The fewest relays of a first consensus.
    pub bootstrap_relays: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: SocketAddr::from(([0, 0, 0, 0], 9030)),
            address: Vec::new(),
            name: "unnamed".to_owned(),
            data_dir: PathBuf::from("/var/lib/tunic-directory"),
            memory_budget: 256 << 20,
            allow_private_relays: false,
            log: LogFilter::default(),
            service: ServiceConfig::default(),
            limits: Overrides::default(),
            rounds: RoundsConfig::default(),
            metrics: MetricsConfig::default(),
            params: BTreeMap::new(),
            authorities: Vec::new(),
        }
    }
}

impl Default for RoundsConfig {
    fn default() -> Self {
        RoundsConfig {
            interval_s: 3_600,
            vote_delay_s: 300,
            signature_delay_s: 300,
            lifetime_s: 10_800,
            bootstrap_interval_s: 10,
            bootstrap_relays: 3,
        }
    }
}

impl daemon::Settings for Config {
    const EXAMPLE: &'static str = EXAMPLE;

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

    fn problems(&self) -> Vec<String> {
        self.settings().err().map(|error| error.to_string()).into_iter().collect()
    }
}

impl Config {
    /// Where the keys are.
    pub fn key_dir(&self) -> PathBuf {
        self.data_dir.join("keys")
    }

    /// Where the newest consensus is.
    pub fn consensus_file(&self) -> PathBuf {
        self.data_dir.join("consensus")
    }

    /// Where the relays' descriptors are.
    pub fn descriptor_file(&self) -> PathBuf {
        self.data_dir.join("descriptors")
    }

    /// What the state machine is told.
    ///
    /// # Errors
    /// [`ConfigError`] for values with which rounds cannot work.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let settings = Settings {
            interval: seconds(self.rounds.interval_s),
            vote_delay: seconds(self.rounds.vote_delay_s),
            signature_delay: seconds(self.rounds.signature_delay_s),
            lifetime: seconds(self.rounds.lifetime_s),
            bootstrap_interval: seconds(self.rounds.bootstrap_interval_s),
            bootstrap_relays: self.rounds.bootstrap_relays,
            allow_private_addresses: self.allow_private_relays,
            params: self.params.clone(),
        };
        if let Some((_, problem)) = self.metrics.checks().into_iter().find(|(wrong, _)| *wrong) {
            return Err(invalid(problem.to_owned()));
        }
        settings.check().map_err(|error| invalid(format!("[rounds]: {error}")))?;
        self.limits.problem().map_or(Ok(()), |problem| Err(invalid(problem)))?;
        Ok(settings)
    }

    /// All authorities, of which this one is `own`.
    ///
    /// # Errors
    /// [`ConfigError`] if some are listed, but not this one, or if there are more than can sign.
    pub fn authority_set(&self, own: RelayId) -> Result<AuthoritySet, ConfigError> {
        let listed = AuthoritySet::new(self.authorities.iter().map(|authority| authority.identity));
        let problem = if self.authorities.is_empty() {
            return Ok(AuthoritySet::new([own]));
        } else if !listed.contains(&own) {
            "no [[authority]] table has this authority's own identity: add the lines that `keygen` prints"
        } else if listed.ids.len() < self.authorities.len() {
            "two [[authority]] tables have the same identity"
        } else if listed.ids.len() > MAX_SIGNATURES {
            "there are more than 64 [[authority]] tables"
        } else {
            return Ok(listed);
        };
        Err(invalid(problem.to_owned()))
    }

    /// The `[[authority]]` table that other configurations need.
    pub fn authority_lines(&self, identity: RelayId, onion_key: &str) -> String {
        let addresses = match self.address.as_slice() {
            [] => vec![self.listen],
            stated => stated.to_vec(),
        };
        let unreachable = addresses.iter().any(|address| address.ip().is_unspecified());
        let hint = if unreachable { "# Put the public address here:\n" } else { "" };
        let quoted: Vec<_> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
        format!(
            "[[authority]]\nname = {:?}\nidentity = \"{identity}\"\nonion_key = \"{onion_key}\"\n{hint}addresses = [{}]\n",
            self.name,
            quoted.join(", ")
        )
    }
}

fn invalid(message: String) -> ConfigError {
    ConfigError::Invalid { place: Place::default(), message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tunic_proto::keys::OnionKey;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        tunic_net::config::parse(text, EXAMPLE)
    }

    fn authority(id: u8) -> AuthorityConfig {
        AuthorityConfig {
            name: "x".into(),
            identity: RelayId([id; 32]),
            onion_key: OnionKey([id; 32]),
            addresses: vec![],
        }
    }

    #[test]
    fn the_example_states_the_defaults_and_they_work() {
        assert_eq!(parse(EXAMPLE).unwrap(), Config::default());
        assert_eq!(Config::default().settings().unwrap(), Settings::default());
    }

    #[test]
    fn what_the_example_has_commented_out_is_valid_too() {
        let uncommented: Vec<_> = EXAMPLE
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .collect();
        let config = parse(&uncommented.join("\n")).unwrap();
        assert_eq!((config.authorities.len(), config.params.len(), config.address.len()), (1, 1, 1));
        assert_eq!(config.limits, Overrides::all(tunic_proto::limits::Params::default()));
    }

    #[test]
    fn a_misspelt_key_is_an_error_that_names_the_right_one() {
        let error = parse("[rounds]\ninterval = 3600").unwrap_err().to_string();
        assert!(error.contains("`interval_s`"), "{error}");
    }

    #[test]
    fn rounds_that_cannot_work_are_named() {
        let error = parse("[rounds]\ninterval_s = 600").unwrap().settings().unwrap_err().to_string();
        assert!(error.contains("[rounds]: vote delay and signature delay"), "{error}");
    }

    #[test]
    fn an_authority_must_be_among_those_listed() {
        let set = |listed: &[u8]| {
            let authorities = listed.iter().map(|id| authority(*id)).collect();
            Config { authorities, ..Config::default() }.authority_set(RelayId([1; 32]))
        };
        assert_eq!(set(&[]).unwrap().ids, [RelayId([1; 32])]);
        assert_eq!(set(&[2, 1]).unwrap().ids.len(), 2);
        assert!(set(&[2, 3]).unwrap_err().to_string().contains("own identity"));
        assert!(set(&[1, 1]).unwrap_err().to_string().contains("same identity"));
        assert!(set(&(1..=65).collect::<Vec<_>>()).unwrap_err().to_string().contains("more than 64"));
    }

    #[test]
    fn the_lines_for_other_configurations_can_be_pasted() {
        let listen = "203.0.113.1:9030".parse().unwrap();
        let config = Config { name: "o\"ne".into(), listen, ..Config::default() };
        let lines = config.authority_lines(RelayId([1; 32]), &OnionKey([2; 32]).to_string());
        let pasted = parse(&lines).unwrap().authorities.remove(0);
        assert_eq!((pasted.name.as_str(), pasted.identity), ("o\"ne", RelayId([1; 32])));
        assert_eq!((pasted.onion_key, pasted.addresses), (OnionKey([2; 32]), vec![listen]));
        let anywhere = Config::default().authority_lines(RelayId([1; 32]), "");
        assert!(anywhere.contains("# Put the public address here"));
    }
}
