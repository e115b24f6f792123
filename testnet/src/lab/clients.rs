//! The clients of the lab: ordinary ones, each a process in a namespace of its own, with the class of padding that is
//! measured.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::mpsc;
use toml::Table;
use tunic_net::daemon::Status;

use super::wires::Wires;
use crate::launch::plan::{NodePlan, Role};
use crate::launch::process::{Event, Launcher, NodeProcess, Order};
use crate::launch::{Network, files};

/// How long they may take to build their first circuits.
const STARTUP_LIMIT: Duration = Duration::from_secs(60);
/// Reports that wait to be read.
const EVENT_QUEUE: usize = 1_024;

/// Running clients. Dropped, they are killed.
pub struct Clients {
    processes: Vec<NodeProcess>,
    events: mpsc::Receiver<Event>,
    doors: Vec<PathBuf>,
}

impl Clients {
    /// Starts one at the end of each line. To be called on the main thread (see [`Launcher::spawn`]).
    ///
    /// # Errors
    /// If a socket or a file cannot be made, or a process not be started.
    pub fn start(network: &Network, wires: &Wires, settings: &Table) -> anyhow::Result<Clients> {
        let dir = network.dir().to_path_buf();
        let program = std::env::current_exe().context("cannot find this program itself")?;
        let launcher = Launcher { program, dir: dir.clone(), relay_threads: None };
        let (sender, events) = mpsc::channel(EVENT_QUEUE);
        let mut clients = Clients { processes: Vec::new(), events, doors: Vec::new() };
        for number in 0..wires.clients() {
            let namespace = wires.client(number)?;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let listener = namespace.inside(|| TcpListener::bind(address))?;
            let name = format!("client{number}");
            let door = dir.join(format!("{name}.sock"));
            let namespace = Some(namespace);
            let plan = NodePlan { name, role: Role::Client, address, namespace, clock_offset_s: 0 };
            let mut settings = settings.clone();
            settings.insert("unix_socket".into(), door.display().to_string().into());
            files::write_client(&dir, network.nodes(), &plan, settings)?;
            let started = launcher.spawn(number, &plan, listener, None, sender.clone());
            clients.processes.push(started.with_context(|| format!("cannot start {}", plan.name))?);
            clients.doors.push(door);
        }
        Ok(clients)
    }

    /// Waits until each has built a circuit.
    ///
    /// # Errors
    /// If one ends meanwhile, or after a minute.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let limited = tokio::time::timeout(STARTUP_LIMIT, self.all_have_circuits()).await;
        limited.context("the clients built no circuits in time")?
    }

    async fn all_have_circuits(&mut self) -> anyhow::Result<()> {
        let mut waiting: std::collections::BTreeSet<usize> = (0..self.processes.len()).collect();
        while !waiting.is_empty() {
            match self.events.recv().await {
                Some(Event::Status { node, status: Status::CircuitReady }) => _ = waiting.remove(&node),
                Some(Event::Status { .. }) => {}
                Some(Event::Exited { node, .. }) => {
                    bail!("client{node} ended; its log is in the network's folder")
                }
                None => bail!("no client is left"),
            }
        }
        Ok(())
    }

    /// Where programs connect, in the order of the clients.
    pub fn doors(&self) -> &[PathBuf] {
        &self.doors
    }

    /// Ends all of them.
    pub async fn stop(self) {
        drop(self.events);
        let mut processes = self.processes;
        processes.iter().for_each(|process| process.order(Order::Terminate));
        let ended = async {
            for process in &mut processes {
                process.ended().await;
            }
        };
        // Those that did not listen are killed as they are dropped.
        let _ = tokio::time::timeout(Duration::from_secs(4), ended).await;
    }
}
