//! The command line of `tunic-testnet`.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tunic_net::daemon::{Exit, shutdown_signal};

use crate::chaos::{self, ChaosArgs};
use crate::container::{self, NodeArgs};
use crate::lab::{self, LabArgs, observer::ObserveArgs};
use crate::launch::milestones::Step;
use crate::launch::place::Place;
use crate::launch::plan::{Options, PlanError};
use crate::launch::progress::Progress;
use crate::launch::{Network, now};
use crate::role::{self, RoleArgs};
use crate::screen;

const EXAMPLES: &str = "\
Examples:
  tunic-testnet up                            3 authorities, 6 relays, SOCKS5 at 127.0.0.1:9150
  tunic-testnet up --socks 127.0.0.1:0        any free port; run as many networks as you like
  tunic-testnet up --relays 20 --exits 5      a larger one
  tunic-testnet up --dir /tmp/net --seed 1    keep the files; the same keys every time
  tunic-testnet up --place netns:a,b,c        each node in a network namespace (Linux, root)
  tunic-testnet up --json                     for scripts: one line of JSON when it works
  tunic-testnet demo                          one page, and what each relay learned about it
  tunic-testnet lab --class off --out lab     what an eavesdropper learns from packets alone (Linux, root)
  tunic-testnet chaos                         what downloads notice when nodes and cables fail (Linux, root)";

const UP_EXAMPLES: &str = "\
Examples:
  tunic-testnet up --authorities 1 --relays 3 --exits 1
  tunic-testnet up --socks 127.0.0.1:0 --json --until-stdin-closes
  tunic-testnet up --dir ./network --seed 42

With --json, stdout gets exactly one line (broken here), once a byte has come back through three relays:
  {\"socks\":\"127.0.0.1:PORT\",\"status\":\"127.0.0.1:PORT\",\"dir\":\"…\",\"startup_ms\":N,
   \"pids\":{\"directory\":[…],\"relay\":[…],\"client\":[…]}}";

/// A private Tunic network on this machine: authorities, relays and a client, each a process of its own.
#[derive(Debug, Parser)]
#[command(name = "tunic-testnet", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a network and keep it running until Ctrl-C
    #[command(after_help = UP_EXAMPLES)]
    Up(UpArgs),
    /// Start a network, fetch a page through it, and show what each relay learned
    Demo(DemoArgs),
    /// Measure what an eavesdropper learns from packets alone (Linux, root)
    #[command(after_help = lab::EXAMPLES)]
    Lab(LabArgs),
    /// Kill, pause, cut off, slow down… nodes while a client downloads, and report what it noticed (Linux, root)
    #[command(after_help = chaos::EXAMPLES)]
    Chaos(ChaosArgs),
    /// The eavesdropper (started by `lab`)
    #[command(hide = true)]
    Observe(ObserveArgs),
    /// One node of a network in containers (see testnet/compose.yaml)
    Node(NodeArgs),
    /// One node of a network (started by `up`)
    #[command(hide = true)]
    Role(RoleArgs),
}

#[derive(Debug, Args)]
struct SizeArgs {
    /// Directory authorities
    #[arg(long, value_name = "N", default_value_t = 3)]
    authorities: usize,
    /// Relays, exits included
    #[arg(long, value_name = "N", default_value_t = 6)]
    relays: usize,
    /// How many of the relays are exits
    #[arg(long, value_name = "N", default_value_t = 3)]
    exits: usize,
    /// Keep keys, configurations and logs in this folder, which must be new or empty
    #[arg(
        long,
        value_name = "DIR",
        long_help = "Keep keys, configurations and logs in this folder, which must be \
        new or empty. Without it they lie in a temporary folder that is removed at the end"
    )]
    dir: Option<PathBuf>,
    /// Make all keys from this number, for experiments that can be repeated
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

#[derive(Debug, Args)]
struct UpArgs {
    #[command(flatten)]
    size: SizeArgs,
    /// Where programs connect to, a loopback address; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9150")]
    socks: SocketAddr,
    /// Where the client shows its status page, a loopback address; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    status: SocketAddr,
    /// Put the nodes in network namespaces: netns:NAME,NAME,…
    #[arg(
        long,
        value_name = "PLACE",
        long_help = "Put the nodes in network namespaces: netns:NAME,NAME,…\n\nAuthorities, relays and client, in this \
        order, go to the namespace of the next name, and the names begin again when there are more nodes. Authorities \
        and relays listen on the address of their namespace; the client's port is on loopback there. Takes root"
    )]
    place: Option<Place>,
    /// Say nothing on stdout but one line of JSON when the network works
    #[arg(long)]
    json: bool,
    /// Stop also when stdin closes, for programs that start a network
    #[arg(long)]
    until_stdin_closes: bool,
}

#[derive(Debug, Args)]
struct DemoArgs {
    #[command(flatten)]
    size: SizeArgs,
}

impl SizeArgs {
    fn options(&self) -> Options {
        Options {
            authorities: self.authorities,
            relays: self.relays,
            exits: self.exits,
            dir: self.dir.clone(),
            seed: self.seed,
            ..Options::default()
        }
    }
}

impl UpArgs {
    fn options(&self) -> Options {
        Options {
            socks: Some(self.socks),
            status: Some(self.status),
            place: self.place.clone().unwrap_or_default(),
            ..self.size.options()
        }
    }
}

/// Runs the command line.
pub fn main() -> Exit {
    let started = now();
    let outcome = match Cli::parse().command {
        Command::Up(args) => on_this_thread(up(args, started)),
        Command::Demo(args) => on_this_thread(demo(args, started)),
        Command::Lab(args) => on_this_thread(lab::run(args)),
        Command::Chaos(args) => on_this_thread(chaos(args)),
        Command::Observe(args) => lab::observer::run(&args).map(|()| Exit::Success),
        Command::Node(args) => return container::run(args),
        // It says on its own what is wrong, in its log.
        Command::Role(args) => return role::run(args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        if error.is::<PlanError>() { Exit::Usage } else { Exit::of(&error) }
    })
}

/// Children die with the *thread* that started them, so everything stays on the main one.
fn on_this_thread(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work).map(|()| Exit::Success)
}

async fn up(args: UpArgs, started: Instant) -> anyhow::Result<()> {
    let options = args.options();
    let mut stop = std::pin::pin!(asked_to_stop(args.until_stdin_closes));
    let program = std::env::current_exe().context("cannot find this program itself")?;
    let mut network = Network::start(&options, program).await?;
    let mut progress = Progress::on_stderr(started);
    let came_up = tokio::select! {
        came_up = network.reach(Step::FirstByte, &mut progress) => came_up.map(|()| true),
        () = &mut stop => Ok(false),
    };
    progress.clear();
    let outcome = match came_up {
        Ok(true) => keep_up(&mut network, &options, args.json, started, stop).await,
        never_up => never_up.map(|_| ()),
    };
    network.stop().await;
    outcome
}

/// Says that the network works, and waits until it shall end or is of no use any more.
async fn keep_up(
    network: &mut Network,
    options: &Options,
    json: bool,
    started: Instant,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    announce(network, options, json, started)?;
    tokio::select! {
        ruin = report_losses(network) => bail!("{ruin}"),
        () = stop => Ok(()),
    }
}

async fn demo(args: DemoArgs, started: Instant) -> anyhow::Result<()> {
    let stop = asked_to_stop(false);
    crate::demo::run(args.size.options(), started, stop).await
}

async fn chaos(args: ChaosArgs) -> anyhow::Result<()> {
    chaos::run(args, asked_to_stop(false)).await
}

fn announce(network: &Network, options: &Options, json: bool, started: Instant) -> anyhow::Result<()> {
    let startup = now().duration_since(started);
    let socks = network.socks().context("the network has no client")?;
    let text = match json {
        true => screen::json_line(network, socks, startup)?,
        false => screen::screen(network, options, socks, startup),
    };
    // Whoever started this may have closed the pipe already, and then the network is of no use to them.
    writeln!(io::stdout(), "{text}").context("cannot write to stdout")
}

/// Tells of every node that ends, until those that are left are of no use; then why.
async fn report_losses(network: &mut Network) -> &'static str {
    loop {
        let loss = network.next_loss().await;
        eprintln!("{loss}");
        if let Some(ruin) = network.ruin() {
            return ruin;
        }
    }
}

/// Completes at SIGINT, SIGTERM or SIGHUP (the terminal was closed), and, if asked to, when stdin closes. Signals count
/// from the call on.
fn asked_to_stop(until_stdin_closes: bool) -> impl Future<Output = ()> {
    let signalled = shutdown_signal();
    let hangup = signal(SignalKind::hangup());
    let stdin_closes = until_stdin_closes.then(watch_stdin);
    async move {
        tokio::select! {
            () = signalled => {}
            Some(()) = async { hangup.ok()?.recv().await } => {}
            Some(_) = async { Some(stdin_closes?.await) } => {}
            else => std::future::pending().await,
        }
    }
}

/// Resolves, with an error, when stdin has ended. A thread reads it and not the runtime, whose pending read would keep the
/// process from ending.
fn watch_stdin() -> oneshot::Receiver<()> {
    let (open, closed) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        drop(open);
    });
    closed
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_examples_in_the_help_are_accepted() {
        for line in EXAMPLES
            .lines()
            .chain(UP_EXAMPLES.lines())
            .chain(lab::EXAMPLES.lines())
            .chain(chaos::EXAMPLES.lines())
        {
            let Some(command) = line.strip_prefix("  tunic-testnet") else { continue };
            let words = command.split("   ").next().unwrap_or_default().split_whitespace();
            let parsed = Cli::try_parse_from(std::iter::once("tunic-testnet").chain(words));
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_plan() {
        let Command::Up(args) = Cli::parse_from(["tunic-testnet", "up"]).command else {
            panic!("`up` is `up`");
        };
        assert_eq!(args.options(), Options::default());
    }
}
