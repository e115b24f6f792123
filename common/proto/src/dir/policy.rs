//! Exit policies: which connections an exit makes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::special;

/// Rules that a policy may have.
pub const MAX_POLICY_RULES: usize = 64;
const ALL_PORTS: (u16, u16) = (0, u16::MAX);

/// First and last ports of services that people use and that bring an exit's operator few complaints: no mail relay (25),
/// no file sharing, no remote procedure calls, nothing that is a worm's favourite. In the spirit of Tor's reduced exit
/// policy, without what has died since.
const REDUCED_PORTS: &[(u16, u16)] = &[
    (20, 22),       // FTP, SSH
    (43, 43),       // whois
    (53, 53),       // DNS
    (79, 81),       // finger, HTTP
    (88, 88),       // Kerberos
    (110, 110),     // POP3
    (123, 123),     // NTP
    (143, 143),     // IMAP
    (389, 389),     // LDAP
    (443, 443),     // HTTPS, QUIC
    (465, 465),     // mail submission over TLS
    (554, 554),     // RTSP
    (563, 563),     // NNTP over TLS
    (587, 587),     // mail submission
    (636, 636),     // LDAP over TLS
    (853, 853),     // DNS over TLS
    (873, 873),     // rsync
    (989, 995),     // FTP, telnet, IMAP, IRC and POP3 over TLS
    (1194, 1194),   // OpenVPN
    (1965, 1965),   // Gemini
    (3128, 3128),   // proxies
    (3389, 3389),   // remote desktops
    (3478, 3478),   // STUN
    (3690, 3690),   // Subversion
    (5222, 5223),   // XMPP
    (5228, 5228),   // notifications of mobile systems
    (5349, 5349),   // STUN over TLS
    (5900, 5900),   // VNC
    (6660, 6669),   // IRC
    (6679, 6679),   // IRC over TLS
    (6697, 6697),   // IRC over TLS
    (8000, 8000),   // HTTP
    (8008, 8008),   // HTTP
    (8080, 8080),   // HTTP
    (8332, 8333),   // Bitcoin
    (8443, 8443),   // HTTPS
    (8448, 8448),   // Matrix
    (8888, 8888),   // HTTP
    (9418, 9418),   // git
    (11371, 11371), // OpenPGP key servers
    (50002, 50002), // Electrum
    (51820, 51820), // WireGuard
    (64738, 64738), // Mumble
];

/// A list of rules, the first that matches deciding; what none matches is rejected.
///
/// Shape in text: a list of `accept|reject ADDRESS:PORTS`. ADDRESS is `*`, an IPv4 address or an IPv6 address in
/// brackets, with or without `/prefix`, or `private`: every address that is not a public host's
/// ([`special::is_public`]). PORTS is `*`, one port or `first-last`. The default is to reject all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExitPolicy {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    accept: bool,
    network: Network,
    /// First and last.
    ports: (u16, u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    Any,
    Private,
    V4(Ipv4Addr, u8),
    V6(Ipv6Addr, u8),
}

/// A rule that cannot be read, or too many of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPolicy {
    /// Holds the rule, shortened.
    #[error("{0:?} is no exit rule: expected e.g. \"accept *:80-443\" or \"reject 10.0.0.0/8:*\"")]
    Rule(String),
    /// More than [`MAX_POLICY_RULES`].
    #[error("more than {MAX_POLICY_RULES} exit rules")]
    TooMany,
}

impl ExitPolicy {
    /// Reads rules in order.
    ///
    /// # Errors
    /// [`BadPolicy`] with the first rule that cannot be read.
    pub fn parse<S: AsRef<str>>(rules: &[S]) -> Result<Self, BadPolicy> {
        if rules.len() > MAX_POLICY_RULES {
            return Err(BadPolicy::TooMany);
        }
        let rules = rules.iter().map(|rule| rule.as_ref().parse()).collect::<Result<_, _>>()?;
        Ok(ExitPolicy { rules })
    }

    /// The policy of a relay that is no exit.
    pub fn reject_all() -> Self {
        ExitPolicy::default()
    }

    /// Everything goes.
    pub fn accept_all() -> Self {
        ExitPolicy { rules: vec![Rule { accept: true, network: Network::Any, ports: ALL_PORTS }] }
    }

    /// What an exit allows whose operator said nothing else: the ports that people use, at every address.
    pub fn reduced() -> Self {
        let rule = |ports: &(u16, u16)| Rule { accept: true, network: Network::Any, ports: *ports };
        ExitPolicy { rules: REDUCED_PORTS.iter().map(rule).collect() }
    }

    /// This policy with the rules of `other` behind its own.
    ///
    /// # Errors
    /// [`BadPolicy::TooMany`].
    pub fn followed_by(mut self, other: &ExitPolicy) -> Result<Self, BadPolicy> {
        self.rules.extend_from_slice(&other.rules);
        if self.rules.len() > MAX_POLICY_RULES { Err(BadPolicy::TooMany) } else { Ok(self) }
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a connection to this address and port is allowed.
    ///
    /// IPv4-mapped IPv6 addresses are judged as the IPv4 addresses that they are.
    pub fn allows(&self, target: &SocketAddr) -> bool {
        let (ip, port) = (target.ip().to_canonical(), target.port());
        let rule = self.rules.iter().find(|rule| rule.covers_port(port) && rule.network.contains(ip));
        rule.is_some_and(|rule| rule.accept)
    }

    /// Whether some address is allowed at this port: what can be said before a name is resolved.
    pub fn may_allow_port(&self, port: u16) -> bool {
        let mut rules = self.rules.iter().filter(|rule| rule.covers_port(port));
        rules.find(|rule| rule.accept || rule.network == Network::Any).is_some_and(|rule| rule.accept)
    }

    /// Whether anything is allowed at all.
    pub fn is_exit(&self) -> bool {
        // What is allowed changes only where the ports of a rule begin or have ended.
        let edges = self.rules.iter().flat_map(|rule| [rule.ports.0, rule.ports.1.saturating_add(1)]);
        edges.into_iter().any(|port| self.may_allow_port(port))
    }
}

impl Rule {
    fn covers_port(&self, port: u16) -> bool {
        (self.ports.0..=self.ports.1).contains(&port)
    }
}

impl Network {
    fn contains(self, ip: IpAddr) -> bool {
        match (self, ip) {
            (Network::Any, _) => true,
            (Network::Private, ip) => !special::is_public(ip),
            (Network::V4(network, prefix), IpAddr::V4(ip)) => {
                (ip.to_bits() ^ network.to_bits()) & mask_v4(prefix) == 0
            }
            (Network::V6(network, prefix), IpAddr::V6(ip)) => {
                (ip.to_bits() ^ network.to_bits()) & mask_v6(prefix) == 0
            }
            _ => false,
        }
    }

    /// `None` where bits behind the prefix are set: the writer meant something else.
    fn parse(text: &str) -> Option<Self> {
        match text {
            "*" => return Some(Network::Any),
            "private" => return Some(Network::Private),
            _ => {}
        }
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(parse_number(prefix)?)),
            None => (text, None),
        };
        if let Some(inner) = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let (ip, prefix) = (inner.parse::<Ipv6Addr>().ok()?, prefix.unwrap_or(128));
            let fits = prefix <= 128 && ip.to_ipv4_mapped().is_none() && ip.to_bits() & !mask_v6(prefix) == 0;
            return fits.then_some(Network::V6(ip, prefix));
        }
        let (ip, prefix) = (address.parse::<Ipv4Addr>().ok()?, prefix.unwrap_or(32));
        (prefix <= 32 && ip.to_bits() & !mask_v4(prefix) == 0).then_some(Network::V4(ip, prefix))
    }
}

fn mask_v4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn mask_v6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

/// A decimal number in its only spelling: digits, no leading zeros.
fn parse_number<T: FromStr + ToString>(text: &str) -> Option<T> {
    text.parse().ok().filter(|number: &T| number.to_string() == text)
}

fn parse_ports(text: &str) -> Option<(u16, u16)> {
    if text == "*" {
        return Some(ALL_PORTS);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let ports = (parse_number(first)?, parse_number(last)?);
    (ports.0 <= ports.1).then_some(ports)
}

impl FromStr for Rule {
    type Err = BadPolicy;
    fn from_str(text: &str) -> Result<Self, BadPolicy> {
        let parse = || {
            let (verb, rest) = text.split_once(' ')?;
            let accept = match verb {
                "accept" => true,
                "reject" => false,
                _ => return None,
            };
            let (network, ports) = rest.rsplit_once(':')?;
            Some(Rule { accept, network: Network::parse(network)?, ports: parse_ports(ports)? })
        };
        parse().ok_or_else(|| BadPolicy::Rule(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.accept { "accept " } else { "reject " })?;
        match self.network {
            Network::Any => f.write_str("*")?,
            Network::Private => f.write_str("private")?,
            Network::V4(ip, 32) => write!(f, "{ip}")?,
            Network::V4(ip, prefix) => write!(f, "{ip}/{prefix}")?,
            Network::V6(ip, 128) => write!(f, "[{ip}]")?,
            Network::V6(ip, prefix) => write!(f, "[{ip}]/{prefix}")?,
        }
        match self.ports {
            ALL_PORTS => f.write_str(":*"),
            (first, last) if first == last => write!(f, ":{first}"),
            (first, last) => write!(f, ":{first}-{last}"),
        }
    }
}

impl Serialize for ExitPolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.rules.iter().map(Rule::to_string))
    }
}

impl<'de> Deserialize<'de> for ExitPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ExitPolicy::parse(&Vec::<String>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rules: &[&str], target: &str, expect: bool) {
        let policy = ExitPolicy::parse(rules).unwrap();
        assert_eq!(policy.allows(&target.parse().unwrap()), expect, "{rules:?} {target}");
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let rules = ["reject 10.0.0.0/8:*", "reject [fc00::]/7:*", "accept *:80-443", "accept 192.0.2.1:22"];
        check(&rules, "10.1.2.3:80", false);
        check(&rules, "[::ffff:10.1.2.3]:80", false);
        check(&rules, "[fd00::1]:80", false);
        check(&rules, "198.51.100.1:443", true);
        check(&rules, "[2001:db8::1]:443", true);
        check(&rules, "198.51.100.1:444", false);
        check(&rules, "192.0.2.1:22", true);
        check(&rules, "192.0.2.2:22", false);
        check(&[], "192.0.2.2:22", false);
        check(&["reject private:*", "accept *:80"], "169.254.169.254:80", false);
        check(&["reject private:*", "accept *:80"], "[fd00::1]:80", false);
        check(&["reject private:*", "accept *:80"], "[2606:4700::1111]:80", true);
        check(&["accept private:22"], "192.168.1.1:22", true);
        check(&["accept 0.0.0.0/0:*"], "[2001:db8::1]:1", false);
        check(&["accept [::]/0:*"], "[2001:db8::1]:1", true);
    }

    #[test]
    fn a_port_may_be_allowed_before_the_address_is_known() {
        let policy = ExitPolicy::parse(&["reject 10.0.0.0/8:*", "reject *:25", "accept *:20-30"]).unwrap();
        let ports: Vec<_> = [19, 20, 25, 30, 31].map(|port| policy.may_allow_port(port)).into();
        assert_eq!(ports, [false, true, false, true, false]);
    }

    #[test]
    fn an_exit_allows_something() {
        let check = |rules: &[&str], expect| assert_eq!(ExitPolicy::parse(rules).unwrap().is_exit(), expect);
        check(&[], false);
        check(&["reject *:*", "accept *:*"], false);
        check(&["accept 192.0.2.1:22"], true);
        check(&["reject *:22", "accept *:22-23"], true);
        check(&["reject *:22-65535", "accept *:22-23"], false);
        assert!(ExitPolicy::accept_all().is_exit());
        assert!(!ExitPolicy::reject_all().is_exit());
    }

    #[test]
    fn the_reduced_policy_has_the_web_and_no_mail_relay() {
        let policy = ExitPolicy::reduced();
        let allows = |port: u16| policy.allows(&SocketAddr::from(([93, 184, 215, 14], port)));
        for port in [22, 53, 80, 443, 587, 993, 5222, 6697, 8080, 8333, 9418] {
            assert!(allows(port), "{port}");
        }
        for port in [0, 19, 23, 25, 119, 135, 139, 445, 514, 1433, 1900, 3306, 5432, 6881, 11211, 27017] {
            assert!(!allows(port), "{port}");
        }
        assert_eq!(
            serde_json::from_str::<ExitPolicy>(&serde_json::to_string(&policy).unwrap()).unwrap(),
            policy
        );
    }

    #[test]
    fn rules_behind_others_count_where_those_say_nothing() {
        let own = ExitPolicy::parse(&["reject *:22"]).unwrap();
        let policy = own.followed_by(&ExitPolicy::reduced()).unwrap();
        assert!(!policy.may_allow_port(22) && policy.may_allow_port(443));
        let full = ExitPolicy::parse(&["accept *:1"; MAX_POLICY_RULES]).unwrap();
        assert_eq!(full.followed_by(&ExitPolicy::accept_all()), Err(BadPolicy::TooMany));
    }

    #[test]
    fn rules_keep_their_text() {
        let rules = [
            "accept *:*",
            "reject *:25",
            "accept 192.0.2.1:1-2",
            "reject 10.0.0.0/8:*",
            "accept [2001:db8::]/32:443",
            "accept [2001:db8::1]:443",
            "reject private:1-1023",
        ];
        let json = serde_json::to_string(&ExitPolicy::parse(&rules).unwrap()).unwrap();
        assert_eq!(json, serde_json::to_string(&rules).unwrap());
        assert_eq!(serde_json::from_str::<ExitPolicy>(&json).unwrap(), ExitPolicy::parse(&rules).unwrap());
    }

    #[test]
    fn what_is_no_rule_is_named() {
        for rule in [
            "",
            "accept",
            "allow *:80",
            "accept *",
            "accept *:",
            "accept *:80-",
            "accept *:443-80",
            "accept *:65536",
            "accept  *:80",
            "accept 10.0.0.1/8:*",
            "accept 10.0.0.0/33:*",
            "accept 2001:db8::1:80",
            "accept *:+80",
            "accept *:080",
            "accept [::1]/129:*",
            "accept example.org:80",
            "accept [::ffff:10.0.0.0]/104:*",
        ] {
            assert_eq!(ExitPolicy::parse(&[rule]), Err(BadPolicy::Rule(rule.to_owned())));
        }
        assert_eq!(ExitPolicy::parse(&["accept *:1"; MAX_POLICY_RULES + 1]), Err(BadPolicy::TooMany));
    }
}
