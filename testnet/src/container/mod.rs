//! `node`: one node of a network whose hosts have names but no fixed addresses, as containers have.
//!
//! A daemon's configuration says who the authorities are and where, in keys and addresses. Containers know names alone, so
//! this is what happens before the ordinary role runs:
//!
//! 1. Authorities make their keys, each in its own volume, and tell the public halves to whoever asks ([`introduce`]).
//! 2. The others believe what more than half of them say, the first time that they start, and keep it.
//! 3. Each node has a loopback port for each authority, behind which the name is looked up anew for every connection
//!    ([`forward`]): an authority that comes back with another address is found.
//! 4. The role runs ([`run`]). [`health`] asks it, from another process, whether it works: by building a circuit to it.

mod fetch;
mod forward;
mod health;
mod introduce;
mod run;
mod web;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use tunic_net::daemon::Exit;

use health::Checked;

/// Where authorities accept channels.
const AUTHORITY_PORT: u16 = 9030;
/// Where authorities introduce themselves.
const INTRODUCTION_PORT: u16 = 9031;
/// Where relays accept channels.
const RELAY_PORT: u16 = 9001;
/// Where clients listen for applications, each in its own container.
const SOCKS: SocketAddr = at_loopback(9150);

const fn at_loopback(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

/// One node of a network in containers
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// Be a directory authority
    Authority(AuthorityArgs),
    /// Be a relay
    Relay(RelayArgs),
    /// Be a client, with the SOCKS5 port on the container's loopback
    Client(ClientArgs),
    /// Be a web server, for something to visit
    Web(WebArgs),
    /// Ask the node of this container whether it works; exit code 0 if it does
    Health(HealthArgs),
    /// Fetch a page and print it
    Fetch(FetchArgs),
}

#[derive(Debug, Args)]
struct NetworkArgs {
    /// The host names of all authorities, the same everywhere
    #[arg(long, value_name = "HOST,HOST,…", value_delimiter = ',', required = true)]
    authorities: Vec<String>,
    /// Where keys and state are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/tunic")]
    dir: PathBuf,
}

impl NetworkArgs {
    /// Private, in whatever volume is mounted.
    fn state_dir(&self) -> PathBuf {
        state_dir(&self.dir)
    }
}

fn state_dir(dir: &Path) -> PathBuf {
    dir.join("state")
}

#[derive(Debug, Args)]
struct AuthorityArgs {
    #[command(flatten)]
    network: NetworkArgs,
    /// Which of the authorities this is; without it, the host's name tells
    #[arg(long, value_name = "HOST")]
    name: Option<String>,
    /// The first consensus waits for so many relays
    #[arg(long, value_name = "N", default_value_t = 3)]
    relays: usize,
    /// From one consensus to the next, in seconds
    #[arg(long, value_name = "S", default_value_t = 30)]
    interval: u32,
}

#[derive(Debug, Args)]
struct RelayArgs {
    #[command(flatten)]
    network: NetworkArgs,
    /// Connect to targets too, private addresses included
    #[arg(long)]
    exit: bool,
    /// Serve figures for Prometheus at port 9101, to whoever is on the network of the authorities
    #[arg(long)]
    metrics: bool,
}

#[derive(Debug, Args)]
struct ClientArgs {
    #[command(flatten)]
    network: NetworkArgs,
    /// Offer the client's loopback ports at this address too: a name that only this container has
    #[arg(
        long,
        value_name = "HOST",
        long_help = "Offer the client's loopback ports at this address too: a name that only this \
        container has, on a network where nobody else is"
    )]
    publish_at: Option<String>,
    /// Where the status page is; it answers at no other number, so this is the one to reach it by from outside too
    #[arg(long, value_name = "PORT", default_value_t = 9152)]
    status_port: u16,
}

#[derive(Debug, Args)]
struct WebArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
}

#[derive(Debug, Args)]
struct HealthArgs {
    /// What the node is
    role: Checked,
    /// Where its keys and state are
    #[arg(long, value_name = "DIR", default_value = "/var/lib/tunic")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
struct FetchArgs {
    /// Through this SOCKS5 port; without it, straight from here
    #[arg(long, value_name = "ADDR")]
    socks: Option<SocketAddr>,
    /// http://HOST:PORT/PATH
    url: fetch::Url,
}

/// Does what the command line says.
pub(crate) fn run(args: NodeArgs) -> Exit {
    let outcome = match args.command {
        NodeCommand::Authority(args) => run::authority(args),
        NodeCommand::Relay(args) => run::relay(args),
        NodeCommand::Client(args) => run::client(args),
        NodeCommand::Web(args) => finish(web::run(args.listen)),
        NodeCommand::Health(args) => finish(health::check(args.role, state_dir(&args.dir))),
        NodeCommand::Fetch(args) => finish(fetch::print(args.socks, args.url)),
    };
    match outcome {
        Ok(()) => Exit::Success,
        Err(error) => {
            eprintln!("error: {error:#}");
            Exit::of(&error)
        }
    }
}

fn finish(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
