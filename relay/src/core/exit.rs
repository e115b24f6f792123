//! Where an exit connects to.
//!
//! 1. [`ExitRules::before_resolution`] refuses what no answer of the resolver could make allowed, and says what to ask.
//! 2. The shell resolves the name.
//! 3. [`ExitRules::candidates`] keeps the addresses that may be connected to; these very addresses are then used, so
//!    a name whose answer changes in between gains nothing.
//! 4. [`end_reason`] says in the protocol's words why a connection failed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rustix::io::Errno;
use tunic_proto::dir::ExitPolicy;
use tunic_proto::message::{EndReason, Target};
use tunic_proto::resolve::{MAX_RECORDS, Query};
use tunic_proto::special;

use super::name;

/// The most addresses of one name that are tried.
pub const MAX_ATTEMPTS: usize = 3;
/// The most addresses of one name that are looked at.
pub const MAX_ANSWERS: usize = 64;

/// What has to be resolved before an exit can decide.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Nothing: this is an address.
    Addr(SocketAddr),
    /// A name to ask the resolver for, and a port.
    Name(String, u16),
}

/// The operator's policy together with the rules that hold for every exit.
#[derive(Debug, Clone)]
pub struct ExitRules {
    policy: ExitPolicy,
    allow_private: bool,
    prefer_ipv6: bool,
    own: Vec<IpAddr>,
}

impl ExitRules {
    /// Rules of a relay that is itself reached at the addresses `own`. `allow_private` is for private networks only:
    /// with it the operator's policy alone decides.
    pub fn new(policy: ExitPolicy, allow_private: bool, own: &[SocketAddr]) -> Self {
        let own = own.iter().map(|addr| addr.ip().to_canonical()).collect();
        ExitRules { policy, allow_private, prefer_ipv6: false, own }
    }

    /// Tries IPv6 addresses of a name before its IPv4 addresses, if `prefer`.
    pub fn preferring_ipv6(self, prefer: bool) -> Self {
        ExitRules { prefer_ipv6: prefer, ..self }
    }

    /// Whether any address may be connected to.
    pub fn is_exit(&self) -> bool {
        self.policy.is_exit()
    }

    /// Whether private addresses may be connected to.
    pub fn allow_private(&self) -> bool {
        self.allow_private
    }

    /// Refuses without asking anyone what cannot be allowed.
    ///
    /// # Errors
    /// `Policy` if no address is allowed at this port, `NameNotFound` if this is no name that could be public.
    pub fn before_resolution(&self, target: Target) -> Result<Lookup, EndReason> {
        let port = target.port();
        if port == 0 || !self.policy.may_allow_port(port) {
            return Err(EndReason::Policy);
        }
        match target {
            Target::Addr(addr) => Ok(Lookup::Addr(addr)),
            Target::Name(name, _) => match name.parse::<IpAddr>() {
                Ok(ip) => Ok(Lookup::Addr(SocketAddr::new(ip, port))),
                Err(_) => name::query(&name, self.allow_private)
                    .map(|query| Lookup::Name(query, port))
                    .ok_or(EndReason::NameNotFound),
            },
        }
    }

    /// What to ask for a client that wants to know, without connecting.
    ///
    /// # Errors
    /// `Policy` if this is no exit or the address is private, `NameNotFound` if this is no name that could be public.
    pub fn admit_query(&self, query: Query) -> Result<Query, EndReason> {
        if !self.is_exit() {
            return Err(EndReason::Policy);
        }
        match query {
            Query::Name(name) => {
                name::query(&name, self.allow_private).map(Query::Name).ok_or(EndReason::NameNotFound)
            }
            Query::Addr(ip) if self.allow_private || special::is_public(ip) => {
                Ok(Query::Addr(ip.to_canonical()))
            }
            Query::Addr(_) => Err(EndReason::Policy),
        }
    }

    /// The addresses out of a resolver's answer that a client may be told, each once.
    pub fn tellable(&self, answer: impl IntoIterator<Item = IpAddr>) -> impl Iterator<Item = IpAddr> {
        let mut told = Vec::new();
        for ip in answer.into_iter().take(MAX_ANSWERS).map(|ip| ip.to_canonical()) {
            if told.len() < MAX_RECORDS
                && !told.contains(&ip)
                && (self.allow_private || special::is_public(ip))
            {
                told.push(ip);
            }
        }
        told.into_iter()
    }

    /// The addresses to try, in order, out of a resolver's answer: allowed ones only, each once, the preferred family
    /// first, then alternating between IPv4 and IPv6 (RFC 8305 §4) so that one broken family does not use up every
    /// attempt.
    ///
    /// # Errors
    /// `NameNotFound` if there is no address at all, `Policy` if none is allowed.
    pub fn candidates(
        &self,
        answer: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Vec<SocketAddr>, EndReason> {
        let mut answer = answer.into_iter().take(MAX_ANSWERS).map(canonical).peekable();
        if answer.peek().is_none() {
            return Err(EndReason::NameNotFound);
        }
        let (mut preferred, mut other) = (Vec::new(), Vec::new());
        for addr in answer.filter(|&addr| self.allows(addr)) {
            let family = if addr.is_ipv6() == self.prefer_ipv6 { &mut preferred } else { &mut other };
            if !family.contains(&addr) {
                family.push(addr);
            }
        }
        let candidates = alternate(preferred, other);
        if candidates.is_empty() { Err(EndReason::Policy) } else { Ok(candidates) }
    }

    /// Whether the exit may connect to this address: the policy allows it and every IPv4 address embedded in it, and
    /// it is public and not the relay's own, unless private addresses are allowed.
    pub fn allows(&self, addr: SocketAddr) -> bool {
        let addr = canonical(addr);
        let embedded = embedded(addr.ip());
        let forms = || embedded.iter().map(|&v4| IpAddr::V4(v4)).chain([addr.ip()]);
        addr.port() != 0
            && forms().all(|ip| self.policy.allows(&SocketAddr::new(ip, addr.port())))
            && (self.allow_private
                || (special::is_public(addr.ip()) && forms().all(|ip| !self.own.contains(&ip))))
    }
}

fn embedded(ip: IpAddr) -> Vec<Ipv4Addr> {
    match ip {
        IpAddr::V4(_) => Vec::new(),
        IpAddr::V6(v6) => special::embedded(v6),
    }
}

/// An IPv4-mapped address is the IPv4 address that it maps; scope and flow label are not the client's to choose.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn alternate(preferred: Vec<SocketAddr>, other: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    let mut out = Vec::new();
    loop {
        let pair = [preferred.next(), other.next()];
        if pair == [None, None] || out.len() >= MAX_ATTEMPTS {
            out.truncate(MAX_ATTEMPTS);
            return out;
        }
        out.extend(pair.into_iter().flatten());
    }
}

/// Why a lookup or a connection failed, as the client is told (docs/protocol.md §6.5).
pub fn end_reason(error: &io::Error) -> EndReason {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN) => {
            return EndReason::Resources;
        }
        // What a host without any IPv6 (or IPv4) says.
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => return EndReason::NetworkUnreachable,
        _ => {}
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => EndReason::ConnectionRefused,
        io::ErrorKind::HostUnreachable => EndReason::HostUnreachable,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => EndReason::NetworkUnreachable,
        io::ErrorKind::TimedOut => EndReason::Timeout,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            EndReason::Reset
        }
        // A firewall of the operator's says no.
        io::ErrorKind::PermissionDenied => EndReason::Policy,
        io::ErrorKind::OutOfMemory => EndReason::Resources,
        _ => EndReason::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: &str = "93.184.215.14:9001";

    fn rules(policy: &[&str], allow_private: bool) -> ExitRules {
        let policy = ExitPolicy::parse(policy).unwrap();
        ExitRules::new(policy, allow_private, &[OWN.parse().unwrap()])
    }

    fn web() -> ExitRules {
        rules(&["reject 1.2.3.0/24:*", "accept *:80", "accept *:443"], false)
    }

    fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn check(rules: &ExitRules, addr: &str, expect: bool) {
        assert_eq!(rules.allows(addr.parse().unwrap()), expect, "{addr}");
    }

    #[test]
    fn the_policy_decides_about_public_addresses() {
        check(&web(), "8.8.8.8:80", true);
        check(&web(), "[2606:4700::1111]:443", true);
        check(&web(), "8.8.8.8:25", false);
        check(&web(), "8.8.8.8:0", false);
        check(&web(), "1.2.3.4:80", false);
        check(&rules(&[], false), "8.8.8.8:80", false);
    }

    #[test]
    fn an_embedded_address_is_judged_by_the_same_policy() {
        for form in ["[::ffff:1.2.3.4]:80", "[64:ff9b::1.2.3.4]:80", "[2002:102:304::1]:80"] {
            check(&web(), form, false);
        }
        for form in ["[::ffff:8.8.8.8]:80", "[64:ff9b::8.8.8.8]:80", "[2002:808:808::1]:80"] {
            check(&web(), form, true);
        }
    }

    #[test]
    fn private_addresses_are_refused_whatever_the_policy_says() {
        let open = rules(&["accept *:*"], false);
        for addr in ["127.0.0.1:80", "10.0.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80", "169.254.169.254:80"]
        {
            check(&open, addr, false);
            check(&rules(&["accept *:*"], true), addr, true);
        }
        check(&rules(&["reject 127.0.0.0/8:*", "accept *:*"], true), "[::ffff:127.0.0.1]:80", false);
    }

    #[test]
    fn the_relays_own_addresses_are_refused() {
        for own in ["93.184.215.14:80", "[::ffff:93.184.215.14]:80", "[64:ff9b::5db8:d70e]:80"] {
            check(&web(), own, false);
            check(&rules(&["accept *:*"], true), own, true);
        }
        check(&web(), "93.184.215.15:80", true);
    }

    #[test]
    fn a_port_that_is_never_allowed_costs_no_lookup() {
        let name = |port| Target::Name("example.com".into(), port);
        assert_eq!(web().before_resolution(name(25)), Err(EndReason::Policy));
        assert_eq!(web().before_resolution(name(0)), Err(EndReason::Policy));
        assert_eq!(web().before_resolution(name(80)), Ok(Lookup::Name("example.com.".into(), 80)));
        let local = Target::Name("localhost".into(), 80);
        assert_eq!(web().before_resolution(local), Err(EndReason::NameNotFound));
    }

    #[test]
    fn a_name_that_is_an_address_is_an_address() {
        for (text, expect) in [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80")] {
            let lookup = web().before_resolution(Target::Name(text.into(), 80));
            assert_eq!(lookup, Ok(Lookup::Addr(expect.parse().unwrap())));
        }
    }

    #[test]
    fn an_answer_that_mixes_public_and_private_keeps_the_public_ones() {
        let answer = addrs(&[
            "127.0.0.1:80",
            "8.8.8.8:80",
            "[fd00:ec2::254]:80",
            "[::ffff:10.0.0.1]:80",
            "8.8.8.8:80",
        ]);
        assert_eq!(web().candidates(answer), Ok(addrs(&["8.8.8.8:80"])));
        assert_eq!(web().candidates(addrs(&["10.0.0.1:80", "[::1]:80"])), Err(EndReason::Policy));
        assert_eq!(web().candidates([]), Err(EndReason::NameNotFound));
    }

    #[test]
    fn attempts_are_few_and_alternate_between_families() {
        let v6 = ["[2606::1]:80", "[2606::2]:80", "[2606::3]:80", "[2606::4]:80"];
        let answer = addrs(&[v6[0], v6[1], v6[2], v6[3], "8.8.8.8:80"]);
        assert_eq!(web().candidates(answer.clone()), Ok(addrs(&["8.8.8.8:80", v6[0], v6[1]])));
        let prefers_ipv6 = web().preferring_ipv6(true);
        assert_eq!(prefers_ipv6.candidates(answer), Ok(addrs(&[v6[0], "8.8.8.8:80", v6[1]])));
        assert_eq!(web().candidates(addrs(&v6)), Ok(addrs(&v6[..3])));
    }

    #[test]
    fn errors_have_the_protocols_words() {
        let os = |errno: Errno| end_reason(&io::Error::from_raw_os_error(errno.raw_os_error()));
        assert_eq!(os(Errno::CONNREFUSED), EndReason::ConnectionRefused);
        assert_eq!(os(Errno::HOSTUNREACH), EndReason::HostUnreachable);
        assert_eq!(os(Errno::NETUNREACH), EndReason::NetworkUnreachable);
        assert_eq!(os(Errno::AFNOSUPPORT), EndReason::NetworkUnreachable);
        assert_eq!(os(Errno::TIMEDOUT), EndReason::Timeout);
        assert_eq!(os(Errno::CONNRESET), EndReason::Reset);
        assert_eq!(os(Errno::PIPE), EndReason::Reset);
        assert_eq!(os(Errno::ACCESS), EndReason::Policy);
        assert_eq!(os(Errno::MFILE), EndReason::Resources);
        assert_eq!(os(Errno::INVAL), EndReason::Internal);
    }

    proptest! {
        #[test]
        fn a_mapped_form_gets_the_answer_of_its_ipv4(bits in any::<u32>(), port in any::<u16>(), private: bool) {
            let v4 = Ipv4Addr::from_bits(bits);
            let rules = rules(&["reject 0.0.0.0/2:*", "accept 64.0.0.0/2:1-40000", "accept *:*"], private);
            let plain = rules.allows(SocketAddr::new(v4.into(), port));
            let mapped = rules.allows(SocketAddr::new(v4.to_ipv6_mapped().into(), port));
            prop_assert_eq!(plain, mapped);
        }
    }
}
