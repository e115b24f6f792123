//! Starts a whole network on this machine, each node a process of its own, and ends it.
//!
//! 1. [`plan`] says which nodes there are; a socket is bound for each.
//! 2. [`files`] makes keys and writes one ordinary configuration per node.
//! 3. [`process`] starts the nodes with their sockets; they report how far they are.
//! 4. [`milestones`] adds the reports up, [`progress`] shows them.
//! 5. [`ready`] fetches a byte through a circuit: only then is the network said to work.

mod again;
pub mod files;
pub mod milestones;
pub mod observed;
pub mod place;
pub mod plan;
pub mod process;
pub mod progress;
pub mod ready;
pub mod socks;
pub mod temporary;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tunic_net::daemon::{self, Status};

use files::Folder;
use milestones::{Milestones, Step};
use place::Namespace;
use plan::{NodePlan, Options, Role};
use process::{Event, Launcher, NodeProcess, Order, relay_threads};
use progress::Progress;
use ready::Page;

/// How long a network may take to come up before that is an error.
pub const STARTUP_LIMIT: Duration = Duration::from_secs(60);
/// How long nodes may take to end in order before they are killed.
const GRACE: Duration = Duration::from_secs(4);
/// Between two tries of the first byte.
const RETRY: Duration = Duration::from_millis(50);
/// How long one try of the first byte may take.
const TRY_LIMIT: Duration = Duration::from_secs(5);
/// Reports that wait to be read; nodes wait when it is full.
const EVENT_QUEUE: usize = 256;
/// Lines of a log that an error shows.
const LOG_TAIL: usize = 5;

/// A running network. To be ended with [`Network::stop`]; dropped, its processes are killed.
pub struct Network {
    nodes: Vec<NodePlan>,
    processes: Vec<NodeProcess>,
    lost: BTreeSet<usize>,
    /// Those whose end was asked for and has not been told yet.
    killed: BTreeSet<usize>,
    launcher: Launcher,
    relay_log: Option<String>,
    events: mpsc::Receiver<Event>,
    reporting: mpsc::Sender<Event>,
    milestones: Milestones,
    folder: Folder,
    page: Page,
    status: Option<SocketAddr>,
}

/// The process ids of a network by role, as `up --json` tells them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pids {
    /// Authorities.
    pub directory: Vec<u32>,
    /// Relays.
    pub relay: Vec<u32>,
    /// One client, or none.
    pub client: Vec<u32>,
}

impl Pids {
    /// Every node.
    pub fn all(&self) -> Vec<u32> {
        [&self.directory[..], &self.relay, &self.client].concat()
    }
}

/// A node that ended though nobody asked it to.
#[derive(Debug)]
pub struct Loss {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub how: io::Result<ExitStatus>,
    /// Where its last words are.
    pub log: PathBuf,
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.how {
            Ok(how) => write!(f, "{} ended unexpectedly ({how})", self.name)?,
            Err(error) => write!(f, "{} was lost ({error})", self.name)?,
        }
        write!(f, "; its log is {}", self.log.display())
    }
}

/// The clock, for measuring how long things take.
#[expect(clippy::disallowed_methods, reason = "the launcher is a shell")]
pub fn now() -> Instant {
    Instant::now()
}

impl Network {
    /// Starts every node. To be called on the main thread (see [`Launcher::spawn`]). `program` is the binary with the
    /// hidden subcommand `role`.
    ///
    /// # Errors
    /// If a port is taken, a file cannot be written or a process not be started.
    pub async fn start(options: &Options, program: PathBuf) -> anyhow::Result<Network> {
        options.check()?;
        let folder = Folder::make(options.dir.as_deref())?;
        let mut nodes = options.nodes();
        let listeners = nodes.iter_mut().map(bind).collect::<anyhow::Result<Vec<_>>>()?;
        files::write(&nodes, folder.path(), options, daemon::unix_now())?;
        let (reporting, events) = mpsc::channel(EVENT_QUEUE);
        let relay_threads = relay_threads(options.relays);
        let launcher = Launcher { program, dir: folder.path().to_path_buf(), relay_threads };
        let page = serve_page(&nodes).context("cannot serve a page")?;
        let mut network = Network {
            milestones: Milestones::new(&nodes),
            nodes,
            processes: Vec::new(),
            lost: BTreeSet::new(),
            killed: BTreeSet::new(),
            launcher,
            relay_log: options.relay_log.clone(),
            events,
            reporting,
            folder,
            page,
            status: None,
        };
        for (number, listener) in listeners.into_iter().enumerate() {
            let process = network.spawn(number, listener)?;
            network.processes.push(process);
        }
        Ok(network)
    }

    fn spawn(&self, number: usize, listener: TcpListener) -> anyhow::Result<NodeProcess> {
        let node = &self.nodes[number];
        let log = self.relay_log.as_deref().filter(|_| matches!(node.role, Role::Relay { .. }));
        let started = self.launcher.spawn(number, node, listener, log, self.reporting.clone());
        started.with_context(|| format!("cannot start {}", node.name))
    }

    /// Waits until this step is done and shows how far it is. [`Step::FirstByte`] is the client's: it fetches a byte.
    ///
    /// # Errors
    /// If a node ends meanwhile, or after [`STARTUP_LIMIT`].
    pub async fn reach(&mut self, step: Step, progress: &mut Progress) -> anyhow::Result<()> {
        match tokio::time::timeout(STARTUP_LIMIT, self.reach_without_limit(step, progress)).await {
            Ok(outcome) => outcome,
            Err(_) => bail!("{}", self.stuck()),
        }
    }

    async fn reach_without_limit(&mut self, step: Step, progress: &mut Progress) -> anyhow::Result<()> {
        while !self.milestones.done(step.min(Step::Circuit)) {
            let event = self.events.recv().await;
            self.take(event, progress)?;
        }
        if step == Step::FirstByte {
            let client = self.client().context("the network has no client")?.clone();
            let mut fetch = std::pin::pin!(fetch_until_it_works(client, self.page.address()));
            loop {
                tokio::select! {
                    () = &mut fetch => break,
                    event = self.events.recv() => self.take(event, progress)?,
                }
            }
            self.milestones.first_byte();
            progress.update(&self.milestones, now());
        }
        Ok(())
    }

    fn take(&mut self, event: Option<Event>, progress: &mut Progress) -> anyhow::Result<()> {
        match event {
            Some(Event::Status { status: Status::Page(address), .. }) => self.status = Some(address),
            Some(Event::Status { node, status }) => self.milestones.report(node, status),
            Some(Event::Exited { node, how }) => bail!("{}", self.early_end(node, how)),
            None => bail!("no node is left"),
        }
        progress.update(&self.milestones, now());
        Ok(())
    }

    /// Waits until a node ends though nobody asked it to.
    pub async fn next_loss(&mut self) -> Loss {
        loop {
            match self.events.recv().await {
                Some(Event::Exited { node, .. }) if self.killed.remove(&node) => {}
                Some(Event::Exited { node, how }) => {
                    self.lost.insert(node);
                    return self.loss(node, how);
                }
                Some(Event::Status { .. }) => {}
                None => return std::future::pending().await,
            }
        }
    }

    /// Why nothing can go through the network any more, if so many nodes are lost.
    pub fn ruin(&self) -> Option<&'static str> {
        let roles = self.nodes.iter().enumerate().filter(|(number, _)| !self.lost.contains(number));
        ruin_of(&roles.map(|(_, node)| node.role).collect::<Vec<_>>())
    }

    /// Where the client's SOCKS5 port is, if there is a client.
    pub fn socks(&self) -> Option<SocketAddr> {
        self.client().map(|client| client.address)
    }

    /// Where the client shows its status page, once it does.
    pub fn status(&self) -> Option<SocketAddr> {
        self.status
    }

    /// The client, if there is one.
    pub fn client(&self) -> Option<&NodePlan> {
        client(&self.nodes)
    }

    /// Where the network lies.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// The nodes in the order in which they were started, with the addresses where they listen.
    pub fn nodes(&self) -> &[NodePlan] {
        &self.nodes
    }

    /// The page that the launcher serves.
    pub fn page(&self) -> SocketAddr {
        self.page.address()
    }

    /// Process ids by role, in the order of the names.
    pub fn pids(&self) -> Pids {
        let of = |word: &str| {
            let nodes = self.nodes.iter().zip(&self.processes);
            nodes.filter(|(node, _)| node.role.word() == word).map(|(_, process)| process.pid()).collect()
        };
        Pids { directory: of("directory"), relay: of("relay"), client: of("client") }
    }

    /// Ends every node: in order if they listen, by force if not. A temporary folder is gone afterwards.
    pub async fn stop(self) {
        // Whoever still reports finds the queue closed and does not wait for a reader.
        drop(self.events);
        let mut processes = self.processes;
        processes.iter().for_each(|process| process.order(Order::Terminate));
        if tokio::time::timeout(GRACE, all_ended(&mut processes)).await.is_err() {
            processes.iter().for_each(|process| process.order(Order::Kill));
            all_ended(&mut processes).await;
        }
    }

    fn loss(&self, node: usize, how: io::Result<ExitStatus>) -> Loss {
        let node = &self.nodes[node];
        Loss { name: node.name.clone(), how, log: node.log_path(self.dir()) }
    }

    fn early_end(&self, node: usize, how: io::Result<ExitStatus>) -> String {
        let loss = self.loss(node, how);
        let log = fs::read_to_string(&loss.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n  ");
        format!("{} ended while the network came up. Its last words:\n  {tail}", loss.name)
    }

    fn stuck(&self) -> String {
        let waiting = Step::ALL.into_iter().find(|step| !self.milestones.done(*step));
        let step = waiting.unwrap_or(Step::FirstByte);
        let (done, total) = self.milestones.progress(step);
        format!(
            "the network did not come up within {} s: {}: {done} of {total}. The logs are in {}",
            STARTUP_LIMIT.as_secs(),
            step.label(),
            plan::logs_dir(self.dir()).display()
        )
    }
}

fn ruin_of(left: &[Role]) -> Option<&'static str> {
    let count = |wanted: fn(&Role) -> bool| left.iter().filter(|role| wanted(role)).count();
    if count(|role| *role == Role::Client) == 0 {
        Some("the client is gone, so nobody can use the network")
    } else if count(|role| *role == Role::Directory) == 0 {
        Some("no authority is left, so the list of relays will expire")
    } else if count(|role| matches!(role, Role::Relay { .. })) < plan::MIN_RELAYS {
        Some("too few relays are left for a circuit")
    } else if count(|role| *role == Role::Relay { exit: true }) == 0 {
        Some("no exit is left")
    } else {
        None
    }
}

fn client(nodes: &[NodePlan]) -> Option<&NodePlan> {
    nodes.iter().find(|node| node.role == Role::Client)
}

/// Binds a node's socket where the node is going to be. The client's SOCKS port stays on loopback there.
fn bind(node: &mut NodePlan) -> anyhow::Result<TcpListener> {
    if let Some(namespace) = node.namespace.as_ref().filter(|_| node.role != Role::Client) {
        node.address.set_ip(namespace.address()?);
    }
    let address = node.address;
    let bound = made_in(node.namespace.as_ref(), || TcpListener::bind(address));
    let listener =
        bound.with_context(|| format!("cannot listen on {address}")).map_err(|error| {
            match error.root_cause().downcast_ref().map(io::Error::kind) {
                Some(io::ErrorKind::AddrInUse) => error.context(format!(
                    "{address} is taken, perhaps by another network; --socks 127.0.0.1:0 picks a free port"
                )),
                _ => error,
            }
        })?;
    node.address = listener.local_addr()?;
    Ok(listener)
}

/// What `make` makes in the namespace, or here without one.
fn made_in<T: Send>(
    namespace: Option<&Namespace>,
    make: impl FnOnce() -> io::Result<T> + Send,
) -> anyhow::Result<T> {
    match namespace {
        Some(namespace) => namespace.inside(make),
        None => Ok(make()?),
    }
}

/// The page lies beside the client, where exits can reach it.
fn serve_page(nodes: &[NodePlan]) -> anyhow::Result<Page> {
    let namespace = client(nodes).and_then(|client| client.namespace.as_ref());
    let ip = namespace.map_or(Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)), Namespace::address)?;
    Ok(Page::serve(made_in(namespace, || TcpListener::bind((ip, 0)))?)?)
}

/// The client may have reported a circuit that ended right away, so one failure proves nothing.
async fn fetch_until_it_works(client: NodePlan, page: SocketAddr) {
    loop {
        match tokio::time::timeout(TRY_LIMIT, fetch(&client, page)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::debug!(%error, "no first byte yet"),
            Err(_) => tracing::debug!("no first byte in time"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn fetch(client: &NodePlan, page: SocketAddr) -> anyhow::Result<()> {
    let new_socket = if client.address.is_ipv4() { TcpSocket::new_v4 } else { TcpSocket::new_v6 };
    let socket = made_in(client.namespace.as_ref(), new_socket)?;
    Ok(ready::fetch_first_byte(socket, client.address, page).await?)
}

async fn all_ended(processes: &mut [NodeProcess]) {
    for process in processes {
        process.ended().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_of_use_while_a_circuit_can_be_built_and_somebody_can_use_it() {
        let check = |lost: &[&str], expect: &str| {
            let nodes = Options { authorities: 2, relays: 5, exits: 2, ..Options::default() }.nodes();
            let left = nodes.iter().filter(|node| !lost.contains(&node.name.as_str()));
            let ruin = ruin_of(&left.map(|node| node.role).collect::<Vec<_>>()).unwrap_or_default();
            assert!(ruin.contains(expect) && ruin.is_empty() == expect.is_empty(), "{lost:?}: {ruin}");
        };
        check(&["authority1", "relay1", "relay5"], "");
        check(&["client"], "the client is gone");
        check(&["authority1", "authority2"], "no authority");
        check(&["relay1", "relay2", "relay4"], "too few relays");
        check(&["relay4", "relay5"], "no exit");
    }
}
