//! Plays the faults.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::args::ChaosArgs;
use super::faults::Fault;
use super::load::{Load, Way};
use super::report::{Finding, Report};
use super::server::{self, LastVisitor, Text};
use super::strike::Stage;
use super::victims::{self, Traffic};
use super::wires::Wires;
use crate::launch::milestones::Step;
use crate::launch::plan::Options;
use crate::launch::progress::Progress;
use crate::launch::{Network, now};
use crate::netns;

/// Between two looks at the downloads.
const LOOK: Duration = Duration::from_millis(20);

/// Starts a network, plays every fault that was asked for, unless `stop` completes before, and reports on stdout. To be
/// called on the main thread, before there are others.
///
/// # Errors
/// Without root, if the network does not come up, if the client did not recover from some fault, or if it was stopped.
pub async fn run(args: ChaosArgs, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "chaos makes network namespaces and pulls their cables; that takes root"
    );
    netns::keep_to_this_process()?;
    let options = Options {
        socks: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        dir: args.dir.clone(),
        seed: Some(args.seed),
        ..Options::default()
    };
    let wires = Wires::lay(&format!("chaos{}", std::process::id()), options.nodes().len())?;
    let options = Options { place: wires.place()?, ..options };
    let program = std::env::current_exe().context("cannot find this program itself")?;
    let mut network = Network::start(&options, program).await?;
    let mut report = Report::new(&args);
    let mut stage = Stage { network: &mut network, wires: &wires, disks: Vec::new() };
    let outcome = tokio::select! {
        outcome = play(&args, &mut stage, &mut report) => outcome,
        () = stop => Err(anyhow!("interrupted")),
    };
    let disks = stage.disks;
    network.stop().await;
    drop(disks);
    if !report.faults.is_empty() {
        let text = if args.json { serde_json::to_string(&report)? } else { report.to_string() };
        writeln!(io::stdout(), "{text}").context("cannot write to stdout")?;
    }
    outcome?;
    report.verdict()
}

async fn play(args: &ChaosArgs, stage: &mut Stage<'_>, report: &mut Report) -> anyhow::Result<()> {
    let mut progress = Progress::on_stderr(now());
    let came_up = stage.network.reach(Step::FirstByte, &mut progress).await;
    progress.clear();
    came_up?;
    let (text, exit) = (Text::new(args.seed), LastVisitor::default());
    let socket = stage.wires.web()?.inside(server::bind)?;
    let web = socket.local_addr()?;
    tokio::spawn(server::serve(TcpListener::from_std(socket)?, text.clone(), Arc::clone(&exit)));
    let client = stage.network.client().context("the network has no client")?;
    let namespace = client.namespace.clone().context("the client has no namespace")?;
    let way = Way { namespace, socks: client.address, web, text };
    let mut play = Play { args, stage, load: Load::start(way), exit };
    for fault in args.faults() {
        let finding = play.fault(fault).await?;
        report.faults.push(finding);
        report.wrong = play.load.record().wrong();
    }
    Ok(())
}

struct Play<'a, 'b> {
    args: &'a ChaosArgs,
    stage: &'a mut Stage<'b>,
    load: Load,
    exit: LastVisitor,
}

impl Play<'_, '_> {
    async fn fault(&mut self, fault: Fault) -> anyhow::Result<Finding> {
        let (lasts, limit) = (self.args.lasts(), self.args.patience());
        let mut notes = Vec::new();
        let begun = self.load.time();
        let works = self.again(begun, begun + limit, &mut notes).await;
        ensure!(works.is_some(), "nothing can be downloaded, so nothing would be noticed of a fault");
        let (calm, traffic) = (self.load.time(), Traffic::now(self.stage.network));
        self.until(calm + lasts, &mut notes).await;

        let exit = *self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        let nodes = victims::find(fault.part, self.stage.network, &traffic, exit)?;
        let names: Vec<String> =
            nodes.iter().map(|node| self.stage.network.nodes()[*node].name.clone()).collect();
        eprintln!("{} {}", fault.kind.name(), names.join(" "));
        let struck = self.load.time();
        for node in &nodes {
            self.stage.strike(fault.kind, *node).await?;
        }
        let again = self.again(struck, struck + limit, &mut notes).await;
        self.until(struck + lasts, &mut notes).await;

        let ended = self.load.time();
        for node in &nodes {
            notes.extend(self.stage.mend(fault.kind, *node).await?);
        }
        let after_end = self.again(ended, ended + limit, &mut notes).await;
        let (record, over) = (self.load.record(), self.load.time());
        Ok(Finding {
            fault: fault.kind,
            part: fault.part,
            nodes: names,
            came: record.came(struck, over),
            failed: record.failed(struck, over),
            longest_gap_ms: millis(record.longest_gap(struck, over)),
            again_ms: again.map(|at| millis(at.saturating_sub(struck))),
            again_after_end_ms: after_end.map(|at| millis(at.saturating_sub(ended))),
            rate_before: record.rate(calm, struck) as u64,
            rate_during: record.rate(struck, ended) as u64,
            long_breaks: record.breaks(struck, over),
            recovered: again.is_some() && after_end.is_some(),
            notes,
        })
    }

    /// When the first piece that was asked for after `since` was there; not later than `limit`.
    async fn again(&mut self, since: Duration, limit: Duration, notes: &mut Vec<String>) -> Option<Duration> {
        loop {
            let again = self.load.record().again_after(since);
            if again.is_some() || self.load.time() >= limit {
                return again;
            }
            self.look(notes).await;
        }
    }

    async fn until(&mut self, time: Duration, notes: &mut Vec<String>) {
        while self.load.time() < time {
            self.look(notes).await;
        }
    }

    /// Lets a moment pass, and notes who ends in it by itself.
    async fn look(&mut self, notes: &mut Vec<String>) {
        if let Ok(loss) = timeout(LOOK, self.stage.network.next_loss()).await {
            notes.push(loss.to_string());
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
