//! The client as programs embed it.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tunic_net::channel::{CircuitDatagrams, CircuitStream, Node, NodeConfig};
use tunic_net::daemon::RunOptions;
use tunic_proto::message::{Begin, Target};
use tunic_proto::padding::{PaddingRole, PaddingStats, PaddingTotals};
use tunic_proto::resolve::{Answer, MAX_ANSWER_LEN, Query};

use super::connect_error::ConnectError;
use super::cover::keep_dummy;
use super::dial::{Early, dial};
use super::directory::Directory;
use super::dns::DnsServer;
use super::front::{FrontServer, Listener};
use super::manager::{Lease, Manager, ManagerHandle};
use super::monitor::{Listed, Monitor, StreamKind};

use super::state::State;
use super::status::StatusServer;
use crate::config::{Config, Password};
use crate::core::answers::believable;
use crate::core::front::leaks::Leak;
use crate::core::isolation::Isolation;
use crate::core::path::{Need, Path};
use crate::core::planner::Planner;
use crate::core::status::report::Report;
use crate::padding::Class;

/// The listeners' numbers in [`Isolation::listener`].
const PORT: u16 = 1;
const UNIX_PORT: u16 = 2;
const DNS_PORT: u16 = 3;

/// How long the answer to a lookup may take once the exit has found it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the relays are given to learn that the circuits are over.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// A running client. Cheap to clone; it runs until [`Client::shutdown`], or until the last clone is dropped.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    node: Node,
    manager: ManagerHandle,
    monitor: Arc<Monitor>,
    config: Config,
    padding: Arc<PaddingStats>,
    /// Ends with the client.
    tasks: Mutex<JoinSet<()>>,
    /// Ends by itself when the tasks have.
    written: Mutex<Option<JoinHandle<()>>>,
}

impl Client {
    /// Starts to connect to the network, inside the tokio runtime that this is called in. Opens no port; see
    /// [`Client::serve_applications`]. `options.status` is told how far it is.
    ///
    /// # Errors
    /// If the configuration is wrong, or the state directory cannot be used.
    pub async fn start(config: Config, options: RunOptions) -> anyhow::Result<Client> {
        // An address that nobody listens at does no harm.
        config.check(Some(([127, 0, 0, 1], 1).into()))?;
        let state = State::open(&config.state_dir()?)?;
        let planner = Planner::new(state.load_guards()?, config.rules());
        let planner = if config.padding.has_one_guard() { planner.with_one_guard() } else { planner };
        let node_config = NodeConfig { signer: None, responder: None, memory_budget: config.memory_budget };
        let node = Node::new(node_config).context("cannot set up TLS")?;
        let padding = Arc::new(PaddingStats::default());
        node.set_padding(PaddingRole::Client(config.padding.asked(), padding.clone()));
        let (writer, written) = state.start_writer();
        let monitor = Monitor::new(config.memory_budget);
        let parts = (writer.clone(), options.clone(), monitor.clone());
        let (circuits, manager) = Manager::new(node.clone(), parts, planner, config.pool());
        let parts = (options, manager.clone(), monitor.clone());
        let directory = Directory::new(node.clone(), &config, (state, writer), parts);
        let mut tasks = JoinSet::new();
        tasks.spawn(circuits.run());
        tasks.spawn(directory.run());
        for number in 1..=config.padding.dummy_circuits() {
            tasks.spawn(keep_dummy(manager.clone(), number, config.padding.cover_interval()));
        }
        let (tasks, written) = (Mutex::new(tasks), Mutex::new(Some(written)));
        let inner = Inner { node, manager, monitor, config, padding, tasks, written };
        Ok(Client { inner: Arc::new(inner) })
    }

    /// Connects to the target through three relays, and tells which. Waits for circuits if there are none yet, for a
    /// minute at most. Streams share a circuit only if their isolation is equal.
    ///
    /// # Errors
    /// [`ConnectError`], after other circuits were tried where that could help.
    pub async fn connect(
        &self,
        target: Target,
        isolation: Isolation,
    ) -> Result<(CircuitStream, Arc<Path>), ConnectError> {
        let (stream, lease) = self.connect_early(target, isolation, &mut Early::none()).await?;
        Ok((stream, lease.path))
    }

    /// As [`Client::connect`], sending what the application sends meanwhile; what the stream does not take yet is left.
    pub(super) async fn connect_early(
        &self,
        target: Target,
        isolation: Isolation,
        early: &mut Early<'_>,
    ) -> Result<(CircuitStream, Lease), ConnectError> {
        let need = Need::Target(target.clone());
        self.dial(target.into(), need, isolation, early).await
    }

    /// Has an exit look up a name or an address.
    ///
    /// # Errors
    /// [`ConnectError`], after other exits were tried where that could help.
    pub async fn resolve(&self, query: Query, isolation: Isolation) -> Result<Answer, ConnectError> {
        self.resolve_early(query, isolation, &mut Early::none(), None).await
    }

    /// As [`Client::resolve`], for an application that may leave meanwhile, and that is in the list of streams.
    pub(super) async fn resolve_early(
        &self,
        query: Query,
        isolation: Isolation,
        early: &mut Early<'_>,
        listed: Option<&Listed>,
    ) -> Result<Answer, ConnectError> {
        let begin = Begin::Resolve(query.clone());
        let (stream, lease) = self.dial(begin, Need::Any, isolation, early).await?;
        if let Some(listed) = listed {
            listed.opened(lease.id, &stream);
        }
        let mut bytes = Vec::new();
        let mut stream = stream.take(MAX_ANSWER_LEN as u64 + 1);
        let complete =
            timeout(ANSWER_TIMEOUT, stream.read_to_end(&mut bytes)).await.is_ok_and(|read| read.is_ok());
        let answer = Answer::decode(&bytes).filter(|_| complete);
        let allow_private = self.inner.config.allow_private_answers;
        answer.and_then(|answer| believable(&query, answer, allow_private)).ok_or(ConnectError::BadAnswer)
    }

    /// Begins an association of datagrams, at an exit that lets this target through. What other targets it lets through,
    /// datagrams find out by arriving or not.
    ///
    /// # Errors
    /// [`ConnectError`], after other circuits were tried where that could help.
    pub async fn associate(
        &self,
        first: Target,
        isolation: Isolation,
    ) -> Result<CircuitDatagrams, ConnectError> {
        self.associate_listed(first, isolation, None).await
    }

    /// As [`Client::associate`], for one that is in the list of streams.
    pub(super) async fn associate_listed(
        &self,
        first: Target,
        isolation: Isolation,
        listed: Option<&Listed>,
    ) -> Result<CircuitDatagrams, ConnectError> {
        let need = Need::Target(first);
        let (stream, lease) = self.dial(Begin::Datagrams, need, isolation, &mut Early::none()).await?;
        if let Some(listed) = listed {
            listed.opened(lease.id, &stream);
        }
        Ok(stream.into_datagrams())
    }

    async fn dial(
        &self,
        begin: Begin,
        need: Need,
        isolation: Isolation,
        early: &mut Early<'_>,
    ) -> Result<(CircuitStream, Lease), ConnectError> {
        dial(&self.inner.manager, &self.inner.monitor, (begin, need), isolation, early).await
    }

    /// Serves applications at this listener (SOCKS5, SOCKS4a, HTTP), with the configured password if there is one; never
    /// ends by itself. Dropping the future ends its connections. Whether the listener's address may be public is the
    /// caller's business.
    pub fn serve_applications(&self, listener: TcpListener) -> impl Future<Output = ()> + Send + use<> {
        self.front(PORT).serve(Listener::Tcp(listener))
    }

    /// As [`Client::serve_applications`], at a Unix socket.
    pub fn serve_unix(&self, listener: UnixListener) -> impl Future<Output = ()> + Send + use<> {
        self.front(UNIX_PORT).serve(Listener::Unix(listener))
    }

    /// Answers DNS queries (A, AAAA, PTR) through exits; never ends by itself. Both sockets have one address, as a rule.
    pub fn serve_dns(&self, udp: UdpSocket, tcp: TcpListener) -> impl Future<Output = ()> + Send + use<> {
        DnsServer::new(self.clone(), DNS_PORT, self.inner.config.isolate_by()).serve(udp, tcp)
    }

    /// Serves the status page and the local API (docs/client-api.md) at this listener, with the configured password if there
    /// is one; never ends by itself. Whether its address may be public is the caller's business.
    pub fn serve_status(&self, listener: TcpListener) -> impl Future<Output = ()> + Send + use<> {
        self.status_server().serve(Listener::Tcp(listener))
    }

    /// As [`Client::serve_status`], at a Unix socket that only its owner can reach: no token is asked for there.
    pub fn serve_control(&self, listener: UnixListener) -> impl Future<Output = ()> + Send + use<> {
        self.status_server().serve(Listener::Unix(listener))
    }

    fn status_server(&self) -> Arc<StatusServer> {
        let config = &self.inner.config;
        let password = config.status_password.as_ref().map(Password::to_vec);
        StatusServer::new(self.clone(), password, config.status_destinations)
    }

    /// What is going on, with the destinations of streams if they are wanted. Rates are known while a status page or a
    /// control socket is served.
    pub async fn report(&self, destinations: bool) -> Report {
        let view = self.inner.manager.look().await.unwrap_or_default();
        self.inner.monitor.report(view, &self.inner.node, self.padding(), destinations)
    }

    /// Keeps the rates known, for ever.
    pub(super) async fn sample(&self) {
        self.inner.monitor.sample(&self.inner.node, &self.inner.padding).await;
    }

    pub(super) fn list_stream(&self, kind: StreamKind, destination: Option<Target>) -> Listed {
        self.inner.monitor.stream(kind, destination)
    }

    pub(super) fn note_leak(&self, leak: Leak) {
        self.inner.monitor.leak(leak);
    }

    /// For the report: this port is open at this address, or is not.
    pub(crate) fn note_port(&self, name: &str, address: String, problem: Option<String>) {
        self.inner.monitor.port(name, address, problem);
    }

    fn front(&self, listener: u16) -> FrontServer {
        let config = &self.inner.config;
        let password = config.socks_password.as_ref().map(Password::to_vec);
        FrontServer::new(self.clone(), password, config.leak_rules(), config.isolate_by(), listener)
    }

    /// The class of padding, and what it has cost so far.
    pub fn padding(&self) -> (Class, PaddingTotals) {
        (self.inner.config.padding.class, self.inner.padding.totals())
    }

    /// Begins a new identity: ends every circuit, with the streams, associations and lookups on them, and the spare ones;
    /// what comes next goes over circuits that did not exist before. The guards stay, because whoever changes them more
    /// often meets a bad one sooner. Returns how many circuits were ended.
    pub async fn new_identity(&self) -> usize {
        self.inner.manager.start_over().await
    }

    /// Changes when a new identity begins.
    pub(super) fn identity(&self) -> watch::Receiver<u64> {
        self.inner.manager.identity()
    }

    /// Ends all circuits and tells the relays so. Streams that are open break. What has to be stored is stored.
    pub async fn shutdown(&self) {
        let mut tasks = std::mem::take(&mut *lock(&self.inner.tasks));
        tasks.shutdown().await;
        let written = lock(&self.inner.written).take();
        if let Some(written) = written {
            let _ = written.await;
        }
        self.inner.node.shutdown(SHUTDOWN_GRACE).await;
    }
}

/// The tasks end with their set; the channels are told here.
impl Drop for Inner {
    fn drop(&mut self) {
        self.node.begin_shutdown();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
