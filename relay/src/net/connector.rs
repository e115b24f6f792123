//! How an exit gets a TCP connection to a target.
//!
//! 1. A name is resolved ([`super::resolver`]).
//! 2. [`ExitRules`] pick the addresses that may be connected to, after resolution.
//! 3. They are tried one after the other within one time limit.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tunic_net::tcp;
use tunic_proto::message::{EndReason, Target};
use tunic_proto::resolve::{Answer, MIN_TTL, Query, Record};

use super::dns::Dns;
use super::resolver::Resolver;
use super::view::SharedView;
use crate::core::exit::{ExitRules, Lookup, end_reason};

/// How long connecting may take, all addresses of a name together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// After this much silence TCP asks whether the target is still there.
const KEEPALIVE: Duration = Duration::from_secs(120);

/// Resolves and connects within the rules.
pub struct Connector {
    rules: RwLock<Arc<ExitRules>>,
    view: Arc<SharedView>,
    resolver: Resolver<Dns>,
}

impl Connector {
    /// Connects where the rules allow, and not to relays of this network.
    pub fn new(rules: ExitRules, view: Arc<SharedView>, resolver: Resolver<Dns>) -> Self {
        Connector { rules: RwLock::new(Arc::new(rules)), view, resolver }
    }

    /// Other rules from now on; connections that are open go on.
    pub fn set_rules(&self, rules: ExitRules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    fn rules(&self) -> Arc<ExitRules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether anything may be connected to.
    pub fn is_exit(&self) -> bool {
        self.rules().is_exit()
    }

    /// Whether it is worth asking a resolver.
    ///
    /// # Errors
    /// As [`ExitRules::before_resolution`].
    pub fn admit(&self, target: Target) -> Result<Lookup, EndReason> {
        self.rules().before_resolution(target)
    }

    /// Resolves and connects. Gives up whatever it does when it is dropped.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn connect(&self, lookup: Lookup) -> Result<(TcpStream, SocketAddr), EndReason> {
        let candidates = self.candidates(lookup).await?;
        try_each(&candidates).await
    }

    /// Resolves, and keeps the addresses that may be connected to.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn candidates(&self, lookup: Lookup) -> Result<Vec<SocketAddr>, EndReason> {
        let answer = match lookup {
            Lookup::Addr(addr) => vec![addr],
            Lookup::Name(name, port) => {
                let records = self.resolver.look_up(Query::Name(name)).await?;
                addresses(&records).map(|ip| SocketAddr::new(ip, port)).collect()
            }
        };
        let mut candidates = self.rules().candidates(answer)?;
        candidates.retain(|addr| self.is_others(*addr));
        if candidates.is_empty() { Err(EndReason::Policy) } else { Ok(candidates) }
    }

    /// Whether this very address may be sent to. Asks the system which addresses this machine has.
    pub fn allows(&self, addr: SocketAddr) -> bool {
        self.rules().allows(addr) && self.is_others(addr)
    }

    /// Looks up what a client asked for, without connecting anywhere (docs/protocol.md §6.7). Private addresses are not
    /// told, and not asked about. Every answer has the same lifetime: what is left of one would tell when somebody asked.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn look_up(&self, query: Query) -> Result<Answer, EndReason> {
        let query = self.rules().admit_query(query)?;
        let found = self.resolver.look_up(query.clone()).await?;
        let records: Vec<Record> = match query {
            Query::Name(_) => self.rules().tellable(addresses(&found)).map(Record::Addr).collect(),
            Query::Addr(_) => found.iter().take(1).cloned().collect(),
        };
        if records.is_empty() { Err(EndReason::NameNotFound) } else { Ok(Answer { ttl: MIN_TTL, records }) }
    }

    /// Not a relay of the network, nor an address of this machine that the settings do not mention. In private networks
    /// that is no matter.
    fn is_others(&self, addr: SocketAddr) -> bool {
        self.rules().allow_private() || !(self.view.read().is_listener(addr) || is_this_machine(addr.ip()))
    }
}

fn addresses(records: &[Record]) -> impl Iterator<Item = IpAddr> {
    records.iter().filter_map(|record| match record {
        Record::Addr(ip) => Some(*ip),
        Record::Name(_) => None,
    })
}

/// Whether this is an address of this machine, also one that the settings do not mention: a socket can be bound to it.
/// Where the system lets sockets be bound to any address (`ip_nonlocal_bind`), this tells nothing.
fn is_this_machine(ip: IpAddr) -> bool {
    let can_bind = |ip: IpAddr| UdpSocket::bind((ip, 0)).is_ok();
    // Documentation addresses (RFC 5737, RFC 3849), which no machine has.
    let nobodys: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    can_bind(ip) && !can_bind(nobodys)
}

async fn try_each(candidates: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), EndReason> {
    let mut reason = EndReason::Policy;
    let share = CONNECT_TIMEOUT / candidates.len().max(1) as u32;
    for &addr in candidates {
        reason = match timeout(share, tcp::connect(addr)).await {
            Ok(Ok(tcp)) => {
                keep_alive(&tcp);
                return Ok((tcp, addr));
            }
            Ok(Err(error)) => end_reason(&error),
            Err(_) => EndReason::Timeout,
        };
    }
    Err(reason)
}

/// Has the system find out whether the target is still there. That it fails does not hurt.
fn keep_alive(tcp: &TcpStream) {
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4);
    let _ = socket2::SockRef::from(tcp).set_tcp_keepalive(&keepalive);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ExitConfig;
    use crate::core::directory_view::DirectoryView;
    use tokio::net::TcpListener;
    use tunic_proto::dir::{AuthoritySet, ExitPolicy};
    use tunic_proto::ids::RelayId;

    fn connector(allow_private: bool) -> Connector {
        let view = DirectoryView::new(RelayId([1; 32]), AuthoritySet::default(), allow_private);
        let view = SharedView::new(view, "/nonexistent".into());
        let rules = ExitRules::new(ExitPolicy::accept_all(), allow_private, &[]);
        Connector::new(rules, Arc::new(view), resolver(allow_private))
    }

    fn resolver(allow_private: bool) -> Resolver<Dns> {
        let config = ExitConfig { allow_private, ..ExitConfig::default() };
        Resolver::new(Dns::new(&config).unwrap(), Arc::default())
    }

    async fn connect(connector: &Connector, target: Target) -> Result<SocketAddr, EndReason> {
        let lookup = connector.admit(target)?;
        connector.connect(lookup).await.map(|(_, addr)| addr)
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        (listener, addr)
    }

    #[tokio::test]
    async fn an_exit_connects_to_addresses_and_names() {
        let (_listener, addr) = listener().await;
        let connector = connector(true);
        assert_eq!(connect(&connector, Target::Addr(addr)).await, Ok(addr));
        assert_eq!(connect(&connector, Target::Name("127.0.0.1".into(), addr.port())).await, Ok(addr));
        // localhost may resolve to ::1 first, where nobody listens: the next address is tried.
        assert_eq!(connect(&connector, Target::Name("localhost".into(), addr.port())).await, Ok(addr));
    }

    #[tokio::test]
    async fn a_public_exit_reaches_nothing_on_its_own_machine() {
        let (listener, addr) = listener().await;
        let connector = connector(false);
        let mapped = format!("[::ffff:127.0.0.1]:{}", addr.port()).parse().unwrap();
        for target in
            [Target::Addr(addr), Target::Addr(mapped), Target::Name("127.0.0.1".into(), addr.port())]
        {
            assert_eq!(connect(&connector, target).await, Err(EndReason::Policy));
        }
        let untouched = timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(untouched.is_err());
    }

    #[tokio::test]
    async fn a_closed_port_is_a_refused_connection() {
        let (listener, addr) = listener().await;
        drop(listener);
        assert_eq!(connect(&connector(true), Target::Addr(addr)).await, Err(EndReason::ConnectionRefused));
    }

    #[tokio::test]
    async fn what_is_no_name_is_not_found() {
        let result = connect(&connector(true), Target::Name("no spaces".into(), 80)).await;
        assert_eq!(result, Err(EndReason::NameNotFound));
    }

    #[tokio::test]
    async fn lookups_tell_public_addresses_only() {
        let ask = async |allow_private, query| {
            connector(allow_private).look_up(query).await.map(|answer| answer.records)
        };
        let local = Query::Name("localhost".into());
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert!(ask(true, local.clone()).await.unwrap().contains(&Record::Addr(loopback)));
        assert_eq!(ask(false, local).await, Err(EndReason::NameNotFound));
        assert_eq!(ask(true, Query::Addr(loopback)).await, Ok(vec![Record::Name("localhost".into())]));
        assert_eq!(ask(false, Query::Addr(loopback)).await, Err(EndReason::Policy));
        assert_eq!(ask(true, Query::Name("no spaces".into())).await, Err(EndReason::NameNotFound));
        let view = DirectoryView::new(RelayId([1; 32]), AuthoritySet::default(), true);
        let no_exit = SharedView::new(view, "/nonexistent".into());
        let no_exit = Connector::new(
            ExitRules::new(ExitPolicy::reject_all(), true, &[]),
            Arc::new(no_exit),
            resolver(true),
        );
        assert_eq!(no_exit.look_up(Query::Name("localhost".into())).await, Err(EndReason::Policy));
    }

    #[test]
    fn the_machines_own_addresses_are_recognised() {
        assert!(is_this_machine([127, 0, 0, 1].into()));
        assert!(is_this_machine([127, 8, 9, 10].into()));
        assert!(!is_this_machine([198, 51, 100, 7].into()));
        assert!(!is_this_machine("2606:4700::1111".parse().unwrap()));
    }
}
