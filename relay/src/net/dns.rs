//! Name servers: what an exit asks, and what it believes (RFC 4035 §4.3).

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::TrustAnchors;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{TokioResolver, system_conf};
use tunic_proto::message::EndReason;
use tunic_proto::resolve::{MIN_TTL, Query, Record};

use crate::config::{ExitConfig, Ipv6};
use crate::core::exit::MAX_ANSWERS;
use crate::core::name;

/// How long one name server may take for one question, and how often it is asked.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 2;

/// What was found, or why nothing was.
pub type Outcome = Result<Arc<[Record]>, EndReason>;

/// What a name server said.
#[derive(Debug, Clone)]
pub struct Reply {
    /// What was found.
    pub outcome: Outcome,
    /// How long that holds, by the name server.
    pub ttl: Duration,
    /// Whether the answer should have proved itself and did not.
    pub bogus: bool,
}

impl Reply {
    fn failed(reason: EndReason) -> Self {
        Reply { outcome: Err(reason), ttl: MIN_TTL, bogus: false }
    }
}

/// Whom a [`super::resolver::Resolver`] asks.
pub trait Upstream: Send + Sync + 'static {
    /// Asks for the addresses of a name or the name of an address.
    fn ask(&self, query: Query) -> impl Future<Output = Reply> + Send;
}

/// Name servers over UDP and TCP, and in private networks the hosts file.
pub struct Dns {
    resolver: TokioResolver,
    validates: bool,
}

impl Dns {
    /// Name servers as configured, or those of the system. Asks nothing yet.
    ///
    /// # Errors
    /// If the resolver cannot be set up.
    pub fn new(config: &ExitConfig) -> Result<Self, NetError> {
        Self::build(config, TrustAnchors::default())
    }

    fn build(config: &ExitConfig, anchors: TrustAnchors) -> Result<Self, NetError> {
        let (system, options) = system(config);
        let servers = match config.nameservers.as_slice() {
            [] => system.name_servers,
            servers => servers.iter().copied().map(server).collect(),
        };
        // The search domains of the operator's network are for names of private networks only.
        let local = if config.allow_private { (system.domain, system.search) } else { (None, Vec::new()) };
        let servers = ResolverConfig::from_parts(local.0, local.1, servers);
        let mut builder = TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        if config.validates() {
            builder = builder.with_trust_anchor(Arc::new(anchors));
        }
        Ok(Dns { resolver: builder.build()?, validates: config.validates() })
    }

    /// What keeps the name servers from being of use, if anything: told to the operator at the start.
    pub async fn complaint(&self) -> Option<&'static str> {
        let error = self.resolver.lookup(Name::root(), RecordType::NS).await.err()?;
        if !self.validates {
            // A private network's name server need not know the root.
            return matches!(error, NetError::NoConnections | NetError::Timeout | NetError::Io(_))
                .then_some("no name server answers: see `nameservers` under [exit] and /etc/resolv.conf");
        }
        Some(match reply(Err(error)).bogus {
            true => {
                "the name servers pass no signatures on, so no name will be found: ask others (`nameservers` under [exit]; \
                 best a resolver of your own), or do without (`dnssec = false`)"
            }
            false => "no name server answers: see `nameservers` under [exit] and /etc/resolv.conf",
        })
    }
}

/// The system's name servers, if it names any, and how to ask.
fn system(config: &ExitConfig) -> (ResolverConfig, ResolverOpts) {
    let (system, mut options) = system_conf::read_system_conf().unwrap_or_default();
    if !config.allow_private {
        options = ResolverOpts::default();
        options.case_randomization = true;
    }
    options.timeout = ASK_TIMEOUT;
    options.attempts = ATTEMPTS;
    options.edns0 = true;
    options.try_tcp_on_error = true;
    // The cache is ours (core/dns_cache.rs).
    options.cache_size = 0;
    options.use_hosts_file = if config.allow_private { ResolveHosts::Always } else { ResolveHosts::Never };
    options.ip_strategy = match config.ipv6 {
        Ipv6::No => LookupIpStrategy::Ipv4Only,
        Ipv6::Yes | Ipv6::Prefer => LookupIpStrategy::Ipv4AndIpv6,
    };
    (system, options)
}

fn server(at: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = at.port();
        connection
    });
    NameServerConfig::new(at.ip(), true, connections.into())
}

impl Upstream for Dns {
    async fn ask(&self, query: Query) -> Reply {
        match query {
            Query::Name(name) => match Name::from_ascii(&name) {
                Ok(name) => reply(self.resolver.lookup_ip(name).await.map(Lookup::from)),
                Err(_) => Reply::failed(EndReason::NameNotFound),
            },
            // In private networks only; hosts files often have other names for it too (RFC 6761 §6.3).
            Query::Addr(ip) if ip.is_loopback() => Reply {
                outcome: Ok(Arc::new([Record::Name("localhost".to_owned())])),
                ttl: MIN_TTL,
                bogus: false,
            },
            Query::Addr(ip) => reply(self.resolver.reverse_lookup(ip).await),
        }
    }
}

fn reply(found: Result<Lookup, NetError>) -> Reply {
    match found {
        Ok(lookup) => {
            let records: Vec<Record> =
                lookup.answers().iter().filter_map(|answer| record(&answer.data)).take(MAX_ANSWERS).collect();
            let ttl = lookup.answers().iter().map(|answer| answer.ttl).min().unwrap_or(0);
            let outcome = if records.is_empty() { Err(EndReason::NameNotFound) } else { Ok(records.into()) };
            Reply { outcome, ttl: Duration::from_secs(ttl.into()), bogus: false }
        }
        Err(error) => {
            let bogus = match &error {
                NetError::Dns(DnsError::DnssecBogus) => true,
                NetError::Dns(DnsError::Nsec { proof, .. }) => proof.is_bogus(),
                _ => false,
            };
            Reply { bogus, ..Reply::failed(reason(&error, bogus)) }
        }
    }
}

fn record(data: &RData) -> Option<Record> {
    match data {
        RData::A(ip) => Some(Record::Addr(IpAddr::V4(ip.0))),
        RData::AAAA(ip) => Some(Record::Addr(IpAddr::V6(ip.0))),
        RData::PTR(name) => name::query(&name.to_ascii(), true).map(Record::Name),
        _ => None,
    }
}

fn reason(error: &NetError, bogus: bool) -> EndReason {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(_) | DnsError::Nsec { .. }) if !bogus => {
            EndReason::NameNotFound
        }
        NetError::Busy => EndReason::Resources,
        NetError::Timeout | NetError::NoConnections | NetError::Io(_) => EndReason::Timeout,
        // The name's own servers fail, or somebody forged an answer: for the client there is no address.
        _ => EndReason::NameNotFound,
    }
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
