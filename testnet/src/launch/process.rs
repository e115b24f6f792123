//! One node as a process of its own.
//!
//! 1. The parent binds the node's socket and hands it over as the child's stdin, so no port is ever lost between
//!    choosing and using it.
//! 2. The child asks the kernel to kill it when its parent dies (`role.rs`), and lives in its own process group, so
//!    that a Ctrl-C at the terminal reaches the parent alone.
//! 3. The child reports [`Status`] as JSON lines on its stdout; what it logs goes to a file.
//! 4. To end it: SIGTERM, and SIGKILL for who does not listen.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tunic_net::daemon::Status;
use tunic_net::telemetry;

use super::plan::{NodePlan, Role};

/// What a node did.
#[derive(Debug)]
pub enum Event {
    /// It reports.
    Status {
        /// The node's number in the plan.
        node: usize,
        /// How far it is.
        status: Status,
    },
    /// It ended.
    Exited {
        /// The node's number in the plan.
        node: usize,
        /// How; an error if the system could not tell.
        how: io::Result<ExitStatus>,
    },
}

/// What a node shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Go on.
    Run,
    /// End in order (SIGTERM).
    Terminate,
    /// End now (SIGKILL).
    Kill,
    /// Stand still (SIGSTOP).
    Pause,
    /// Go on after standing still (SIGCONT).
    Resume,
}

/// A running node. Dropped, it is killed as soon as the runtime gets to it.
pub struct NodeProcess {
    pid: u32,
    order: watch::Sender<Order>,
    task: JoinHandle<()>,
}

/// What does not differ from node to node.
pub struct Launcher {
    /// The binary that has the hidden subcommand `role`.
    pub program: PathBuf,
    /// Where the network lies.
    pub dir: PathBuf,
    /// Threads of each relay for channels and streams; `None` for what the environment says, else one for each core.
    pub relay_threads: Option<usize>,
}

/// What tokio takes for the number of a runtime's threads.
const THREADS_VAR: &str = "TOKIO_WORKER_THREADS";

/// Threads of each of so many relays on this machine: enough to use every core, and no more, because threads that share a core
/// wake one another for nothing (docs/performance.md). What the user says goes first.
pub fn relay_threads(relays: usize) -> Option<usize> {
    if std::env::var_os(THREADS_VAR).is_some() {
        return None;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Some(cores.div_ceil(relays.max(1)))
}

impl Launcher {
    /// Starts one node. To be called on the main thread: the kernel takes the end of the *thread* that started a
    /// child for the death of its parent.
    ///
    /// # Errors
    /// If the log file cannot be made or the process not be started.
    pub fn spawn(
        &self,
        number: usize,
        node: &NodePlan,
        listener: TcpListener,
        log: Option<&str>,
        events: mpsc::Sender<Event>,
    ) -> io::Result<NodeProcess> {
        let mut command = Command::new(&self.program);
        command.args(["role", node.role.word(), "--parent", &std::process::id().to_string(), "--config"]);
        command.arg(node.config_path(&self.dir));
        if let Some(namespace) = &node.namespace {
            command.args(["--netns", &namespace.to_string()]);
        }
        command.stdin(OwnedFd::from(listener)).stdout(Stdio::piped()).stderr(log_file(node, &self.dir)?);
        command.process_group(0).kill_on_drop(true);
        if node.clock_offset_s != 0 {
            command.arg(format!("--clock-offset-s={}", node.clock_offset_s));
        }
        if let Some(log) = log {
            command.env(telemetry::ENV_VAR, log);
        }
        if let (Role::Relay { .. }, Some(threads)) = (node.role, self.relay_threads) {
            command.env(THREADS_VAR, threads.to_string());
        }
        let mut child = command.spawn()?;
        let gone = || io::Error::other("it ended at once");
        let pid = child.id().ok_or_else(gone)?;
        let reports = child.stdout.take().ok_or_else(gone)?;
        let (order, orders) = watch::channel(Order::Run);
        let task = tokio::spawn(attend(number, child, reports, orders, events));
        Ok(NodeProcess { pid, order, task })
    }
}

fn log_file(node: &NodePlan, dir: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(node.log_path(dir))
}

impl NodeProcess {
    /// Its process id. It may have ended meanwhile.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Tells it to end.
    pub fn order(&self, order: Order) {
        self.order.send_replace(order);
    }

    /// Completes when it has ended and is no more in the process table.
    pub async fn ended(&mut self) {
        if !self.has_ended() {
            // A task that panicked has dropped, and so killed, its child.
            let _ = (&mut self.task).await;
        }
    }

    /// Whether it has ended and is no more in the process table.
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }
}

/// Owns the child until it has ended, so its pid cannot be someone else's when a signal is sent.
async fn attend(
    node: usize,
    mut child: Child,
    reports: ChildStdout,
    mut orders: watch::Receiver<Order>,
    events: mpsc::Sender<Event>,
) {
    let mut lines = BufReader::new(reports).lines();
    let mut reporting = true;
    let how = loop {
        tokio::select! {
            how = child.wait() => break how,
            line = lines.next_line(), if reporting => match line {
                Ok(Some(line)) => tell(node, &line, &events).await,
                _ => reporting = false,
            },
            changed = orders.changed() => {
                let order = if changed.is_ok() { *orders.borrow_and_update() } else { Order::Kill };
                obey(&child, order);
                if changed.is_err() {
                    break child.wait().await;
                }
            }
        }
    };
    let _ = events.send(Event::Exited { node, how }).await;
}

async fn tell(node: usize, line: &str, events: &mpsc::Sender<Event>) {
    if let Ok(status) = serde_json::from_str(line) {
        // Nobody listens any more once the network is being stopped.
        let _ = events.send(Event::Status { node, status }).await;
    }
}

fn obey(child: &Child, order: Order) {
    let signal = match order {
        Order::Run => return,
        Order::Terminate => Signal::TERM,
        Order::Kill => Signal::KILL,
        Order::Pause => Signal::STOP,
        Order::Resume => Signal::CONT,
    };
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        let _ = kill_process(pid, signal);
    }
}
