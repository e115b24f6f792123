//! The `[exit]` table of the relay's settings.

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize};
use tunic_proto::dir::ExitPolicy;

/// The word in `policy` that stands for [`ExitPolicy::reduced`].
const REDUCED: &str = "reduced";
/// What is put before the operator's rules where IPv6 is not to be used.
const NO_IPV6: &str = "reject [::]/0:*";

/// Where the relay connects to for clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExitConfig {
    /// Whether the relay is an exit at all. Unset, it is one if `policy` has rules.
    pub enabled: Option<bool>,
    /// The first rule that fits decides; nothing is allowed that no rule accepts. In the file, `"reduced"` among them
    /// stands for the rules of [`ExitPolicy::reduced`]; an exit without rules has just those.
    #[serde(deserialize_with = "policy")]
    pub policy: ExitPolicy,
    /// Whether IPv6 targets are connected to.
    pub ipv6: Ipv6,
    /// Private, loopback and link-local addresses may be connected to where the policy accepts them.
    pub allow_private: bool,
    /// How many streams may be open or opening at once.
    pub max_exit_streams: usize,
    /// Name servers to ask; if empty, those of the system.
    pub nameservers: Vec<SocketAddr>,
    /// Whether answers must prove themselves (DNSSEC). Unset, they must unless `allow_private` is set.
    pub dnssec: Option<bool>,
    /// Where a page tells who looks that this is an exit.
    pub notice: Option<SocketAddr>,
}

/// What an exit does with IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ipv6 {
    /// It connects to IPv4 targets only, and its descriptor says so.
    No,
    /// It tries a name's IPv4 addresses first.
    #[default]
    Yes,
    /// It tries a name's IPv6 addresses first.
    Prefer,
}

impl Default for ExitConfig {
    fn default() -> Self {
        ExitConfig {
            enabled: None,
            policy: ExitPolicy::default(),
            ipv6: Ipv6::default(),
            allow_private: false,
            max_exit_streams: 16_384,
            nameservers: Vec::new(),
            dnssec: None,
            notice: None,
        }
    }
}

impl ExitConfig {
    /// The policy that is published and kept.
    pub fn effective_policy(&self) -> ExitPolicy {
        let rules = match (self.enabled, self.policy.is_empty()) {
            (Some(false), _) => ExitPolicy::reject_all(),
            (Some(true), true) => ExitPolicy::reduced(),
            _ => self.policy.clone(),
        };
        match self.ipv6 {
            Ipv6::No if rules.is_exit() => no_ipv6().followed_by(&rules).unwrap_or_default(),
            _ => rules,
        }
    }

    /// Whether names need proof of their addresses.
    pub fn validates(&self) -> bool {
        self.dnssec.unwrap_or(!self.allow_private)
    }

    /// Whether names are looked up as with these other settings. What differs, only a restart changes.
    pub fn looks_up_like(&self, other: &ExitConfig) -> bool {
        let lookups =
            |config: &ExitConfig| (config.allow_private, config.ipv6 == Ipv6::No, config.validates());
        lookups(self) == lookups(other)
    }

    /// What is wrong with the settings: whether it is, and what to do about it.
    pub(crate) fn checks(&self) -> [(bool, &'static str); 4] {
        let policy = self.effective_policy();
        [
            (
                policy.is_exit() && self.max_exit_streams == 0,
                "`max_exit_streams` is 0: set `enabled = false` under [exit] instead, so that nobody tries",
            ),
            (
                self.enabled == Some(true) && !self.policy.is_empty() && !self.policy.is_exit(),
                "[exit] is `enabled`, but its `policy` accepts nothing; without `policy` the reduced one holds",
            ),
            (
                self.ipv6 == Ipv6::No && no_ipv6().followed_by(&self.policy).is_err(),
                "`policy` has 64 rules and `ipv6 = \"no\"` needs one more: join some",
            ),
            (
                self.nameservers.iter().any(|server| server.port() == 0),
                "`nameservers` need a port, for example [\"127.0.0.1:53\"]",
            ),
        ]
    }
}

fn no_ipv6() -> ExitPolicy {
    ExitPolicy::parse(&[NO_IPV6]).unwrap_or_default()
}

/// Rules as a list, or one word alone.
fn policy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ExitPolicy, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a list of rules, or \"reduced\"")]
    enum Written {
        Word(String),
        Rules(Vec<String>),
    }
    let rules = match Written::deserialize(deserializer)? {
        Written::Word(word) => vec![word],
        Written::Rules(rules) => rules,
    };
    read(&rules).map_err(serde::de::Error::custom)
}

fn read(rules: &[String]) -> Result<ExitPolicy, String> {
    let mut policy = ExitPolicy::default();
    for rule in rules.iter().map(String::as_str) {
        let more = if rule == REDUCED { Ok(ExitPolicy::reduced()) } else { ExitPolicy::parse(&[rule]) };
        policy = more.and_then(|more| policy.followed_by(&more)).map_err(|error| error.to_string())?;
    }
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tunic_proto::dir::MAX_POLICY_RULES;

    fn parse(text: &str) -> Result<ExitConfig, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn check(text: &str, allowed: &[&str], refused: &[&str]) {
        let policy = parse(text).unwrap().effective_policy();
        for addr in allowed {
            assert!(policy.allows(&addr.parse().unwrap()), "{text}: {addr}");
        }
        for addr in refused {
            assert!(!policy.allows(&addr.parse().unwrap()), "{text}: {addr}");
        }
    }

    #[test]
    fn a_relay_is_no_exit_unless_it_is_told_to_be() {
        check("", &[], &["8.8.8.8:443"]);
        check("enabled = false\npolicy = [\"accept *:*\"]", &[], &["8.8.8.8:443"]);
        check("policy = [\"accept *:25\"]", &["8.8.8.8:25"], &["8.8.8.8:443"]);
    }

    #[test]
    fn an_exit_without_rules_has_the_reduced_policy() {
        let (allowed, refused) = (["8.8.8.8:443", "[2606::1]:22"], ["8.8.8.8:25", "8.8.8.8:445"]);
        for text in ["enabled = true", "policy = \"reduced\"", "policy = [\"reduced\"]"] {
            check(text, &allowed, &refused);
        }
        let own_first = "policy = [\"reject 8.8.8.0/24:*\", \"reduced\", \"accept *:25\"]";
        check(own_first, &["9.9.9.9:443", "9.9.9.9:25"], &["8.8.8.8:443"]);
    }

    #[test]
    fn an_exit_without_ipv6_says_so_in_its_policy() {
        check("enabled = true\nipv6 = \"no\"", &["8.8.8.8:443"], &["[2606::1]:443"]);
        check("enabled = true\nipv6 = \"prefer\"", &["8.8.8.8:443", "[2606::1]:443"], &[]);
        assert!(!parse("ipv6 = \"no\"").unwrap().effective_policy().is_exit());
    }

    #[test]
    fn private_networks_need_no_proof_of_addresses_unless_told_to() {
        let validates = |text: &str| parse(text).unwrap().validates();
        assert!(validates("enabled = true"));
        assert!(!validates("allow_private = true"));
        assert!(validates("allow_private = true\ndnssec = true"));
        assert!(!validates("dnssec = false"));
    }

    #[test]
    fn how_names_are_looked_up_depends_on_a_few_settings() {
        let same = |a: &str, b: &str| parse(a).unwrap().looks_up_like(&parse(b).unwrap());
        assert!(same("", "enabled = true\npolicy = \"reduced\"\nipv6 = \"prefer\""));
        assert!(!same("", "allow_private = true") && !same("", "ipv6 = \"no\""));
        assert!(!same("", "dnssec = false"));
    }

    #[test]
    fn what_is_no_policy_is_named() {
        assert!(parse("policy = [\"accept example.org:80\"]").unwrap_err().contains("accept example.org:80"));
        assert!(parse("policy = \"everything\"").unwrap_err().contains("everything"));
        assert!(parse("policy = [\"reduced\", \"reduced\"]").unwrap_err().contains("more than 64"));
    }

    #[test]
    fn contradictions_are_named() {
        let count = |text: &str| parse(text).unwrap().checks().iter().filter(|(wrong, _)| *wrong).count();
        assert_eq!(count("enabled = true"), 0);
        assert_eq!(count("enabled = true\nmax_exit_streams = 0"), 1);
        assert_eq!(count("enabled = true\npolicy = [\"reject *:*\"]"), 1);
        assert_eq!(count("nameservers = [\"127.0.0.1:0\"]"), 1);
        let rules = vec!["\"accept *:1\""; MAX_POLICY_RULES].join(",");
        assert_eq!(count(&format!("ipv6 = \"no\"\npolicy = [{rules}]")), 1);
    }
}
