//! Runs the lab: for each class a new network, the load, the observer, the analysis.

use std::fs;
use std::io::IsTerminal;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};

use super::analysis::Python;
use super::args::{LabArgs, settings};
use super::clients::Clients;
use super::observer::{READY, Seen};
use super::schedule::{self, CLIENTS};
use super::truth::Truth;
use super::wires::{Wires, server_of};
use super::{load, server, sites};
use crate::launch::milestones::Step;
use crate::launch::place::Place;
use crate::launch::plan::Options;
use crate::launch::progress::Progress;
use crate::launch::{Network, now};

/// How long the observer may take to write its last packets.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// After the last round, so that the end of its padding is seen too.
const AFTERGLOW: Duration = Duration::from_secs(1);

/// Measures every class that was asked for.
///
/// # Errors
/// Without root or the tools that it needs, or if a control does not hold.
pub async fn run(args: LabArgs) -> anyhow::Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the lab makes network namespaces and reads packets; that takes root"
    );
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let python = Python::find_or_make(args.python.as_deref())?;
    let mut void = Vec::new();
    for class in &args.class {
        if !measure(&args, class, &python).await.with_context(|| format!("class {class}"))? {
            void.push(class.as_str());
        }
    }
    python.report(&args.out)?;
    ensure!(void.is_empty(), "a control did not hold, so these are void: {}", void.join(", "));
    Ok(())
}

/// One class on all lines. Whether its controls held.
async fn measure(args: &LabArgs, class: &str, python: &Python) -> anyhow::Result<bool> {
    let begun = now();
    let traces = tempfile::Builder::new().prefix("tunic-lab-").tempdir()?;
    let (trace, truth) = (traces.path().join("trace"), traces.path().join("truth.json"));
    observe(args, class, &trace).await?.write(&truth)?;
    if args.keep_traces {
        fs::copy(&trace, args.out.join(format!("{class}.trace")))?;
        fs::copy(&truth, args.out.join(format!("{class}.truth.json")))?;
    }
    eprintln!("{class}: {:.0} s of load, now the classifiers", now().duration_since(begun).as_secs_f32());
    let held = python.analyse(&trace, &truth, &args.out)?;
    eprintln!("{class}: done after {:.0} s", now().duration_since(begun).as_secs_f32());
    Ok(held)
}

async fn observe(args: &LabArgs, class: &str, trace: &Path) -> anyhow::Result<Truth> {
    let wires = Wires::lay(&format!("lab{}", std::process::id()), &args.link)?;
    let sites = wires.sites()?.inside(server::bind)?;
    let serving = tokio::spawn(server::serve(TcpListener::from_std(sites)?));
    let options = Options {
        authorities: 1,
        socks: None,
        seed: Some(args.seed),
        place: Place::Namespaces(vec![wires.relays()?]),
        ..Options::default()
    };
    let program = std::env::current_exe().context("cannot find this program itself")?;
    let mut network = Network::start(&options, program).await?;
    let outcome = load_and_observe(args, class, trace, &wires, &mut network).await;
    network.stop().await;
    serving.abort();
    outcome
}

async fn load_and_observe(
    args: &LabArgs,
    class: &str,
    trace: &Path,
    wires: &Wires,
    network: &mut Network,
) -> anyhow::Result<Truth> {
    let mut progress = Progress::on_stderr(now());
    network.reach(Step::Consensus, &mut progress).await?;
    progress.clear();
    let mut clients = Clients::start(network, wires, &settings(class)?)?;
    clients.ready().await?;
    let observer = Observer::start(wires, trace).await?;
    let planned = schedule::rounds(args.seed, args.visits_per_site());
    let before = load_average();
    let windows = args.windows();
    let (rounds, visits) = load::run(&planned, clients.doors(), windows, |done| {
        show(class, done, planned.len());
    })
    .await;
    tokio::time::sleep(AFTERGLOW).await;
    let seen = observer.end().await?;
    clients.stop().await;
    Ok(Truth {
        class: class.to_owned(),
        seed: args.seed,
        smoke: args.smoke,
        sites: sites::SITES,
        clients: CLIENTS,
        windows_ms: args.windows_ms(),
        idle_ms: millis(windows.idle),
        lines: args.link.iter().map(|line| line.name().to_owned()).collect(),
        load_average: [before, load_average()],
        missed_packets: seen.missed,
        rounds,
        visits,
    })
}

/// The observer's process.
struct Observer {
    process: Child,
    says: Lines<BufReader<ChildStdout>>,
}

impl Observer {
    async fn start(wires: &Wires, trace: &Path) -> anyhow::Result<Observer> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["observe", "--netns", &wires.relays()?.to_string()]);
        command.args(["--clients", &wires.interfaces().join(",")]);
        command.args(["--first-server", &server_of(0).octets()[3].to_string()]);
        command.arg("--out").arg(trace);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().context("cannot start the observer")?;
        let says = process.stdout.take().context("the observer has no stdout")?;
        let mut observer = Observer { process, says: BufReader::new(says).lines() };
        match observer.says.next_line().await? {
            Some(line) if line == READY => Ok(observer),
            _ => bail!("the observer did not start"),
        }
    }

    /// Ends it. What it saw.
    async fn end(mut self) -> anyhow::Result<Seen> {
        drop(self.process.stdin.take());
        let last = tokio::time::timeout(LAST_WORDS, self.says.next_line()).await;
        let line = last.context("the observer did not end")??.context("the observer said nothing")?;
        let seen: Seen = serde_json::from_str(&line)?;
        ensure!(seen.packets > 0, "the observer saw no packet");
        Ok(seen)
    }
}

fn show(class: &str, done: usize, rounds: usize) {
    if std::io::stderr().is_terminal() || done.is_multiple_of(10) || done == rounds {
        eprintln!("{class}: round {done} of {rounds}");
    }
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
