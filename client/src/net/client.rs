//! The client as programs embed it.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tunic_net::channel::{CircuitDatagrams, CircuitStream, Node, NodeConfig};
use tunic_net::daemon::RunOptions;
use tunic_proto::message::{Begin, Target};
use tunic_proto::padding::{PaddingRole, PaddingStats, PaddingTotals};
use tunic_proto::resolve::{Answer, MAX_ANSWER_LEN, Query};

use super::dial::{ConnectError, Early, dial};
use super::directory::Directory;
use super::dns::DnsServer;
use super::front::{FrontServer, Listener};
use super::manager::{Manager, ManagerHandle};

use super::state::State;
use crate::config::Config;
use crate::core::answers::believable;
use crate::core::isolation::Isolation;
use crate::core::path::{Need, Path};
use crate::core::planner::Planner;
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
        let node_config = NodeConfig { signer: None, responder: None, memory_budget: config.memory_budget };
        let node = Node::new(node_config).context("cannot set up TLS")?;
        let padding = Arc::new(PaddingStats::default());
        node.set_padding(PaddingRole::Client(config.padding.link_mode(), padding.clone()));
        let (writer, written) = state.start_writer();
        let (circuits, manager) =
            Manager::new(node.clone(), writer.clone(), options.clone(), planner, config.spare_circuits);
        let directory = Directory::new(node.clone(), &config, (state, writer), options, manager.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(circuits.run());
        tasks.spawn(directory.run());
        let (tasks, written) = (Mutex::new(tasks), Mutex::new(Some(written)));
        Ok(Client { inner: Arc::new(Inner { node, manager, config, padding, tasks, written }) })
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
        self.connect_early(target, isolation, Early::none()).await
    }

    /// As [`Client::connect`], sending what the application sends meanwhile.
    pub(super) async fn connect_early(
        &self,
        target: Target,
        isolation: Isolation,
        early: Early<'_>,
    ) -> Result<(CircuitStream, Arc<Path>), ConnectError> {
        let need = Need::Target(target.clone());
        dial(&self.inner.manager, target.into(), need, isolation, early).await
    }

    /// Has an exit look up a name or an address.
    ///
    /// # Errors
    /// [`ConnectError`], after other exits were tried where that could help.
    pub async fn resolve(&self, query: Query, isolation: Isolation) -> Result<Answer, ConnectError> {
        let begin = Begin::Resolve(query.clone());
        let (stream, _) = dial(&self.inner.manager, begin, Need::Any, isolation, Early::none()).await?;
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
        let need = Need::Target(first);
        let (stream, _) = dial(&self.inner.manager, Begin::Datagrams, need, isolation, Early::none()).await?;
        Ok(stream.into_datagrams())
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
        DnsServer::new(self.clone(), DNS_PORT).serve(udp, tcp)
    }

    fn front(&self, listener: u16) -> FrontServer {
        let config = &self.inner.config;
        let password = config.socks_password.as_ref().map(|password| password.0.as_bytes().to_vec());
        FrontServer::new(self.clone(), password, config.leak_rules(), config.isolate_by(), listener)
    }

    /// The class of padding, and what it has cost so far.
    pub fn padding(&self) -> (Class, PaddingTotals) {
        (self.inner.config.padding.class, self.inner.padding.totals())
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
