//! `demo`: one page through a network that was started for it, and what each relay learned, from the relays' own logs.
//!
//! 1. A network starts, without a client process.
//! 2. A client inside this process connects to the launcher's page; it knows the path, for it chose it.
//! 3. Each relay on the path has logged who was before and after it.
//! 4. The two are put side by side: what a relay logged must be its neighbours on the path.

mod story;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tunic_client::{Client, Hop, Isolation};
use tunic_net::config;
use tunic_net::daemon::RunOptions;
use tunic_proto::message::Target;

use crate::launch::milestones::Step;
use crate::launch::observed::{self, Neighbour, Sighting};
use crate::launch::plan::{Options, logs_dir};
use crate::launch::progress::Progress;
use crate::launch::{Network, files, ready};
use story::Seen;

/// How long page and logs may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at the logs.
const RETRY: Duration = Duration::from_millis(20);
/// More than the page and its head have.
const MAX_RESPONSE_LEN: u64 = 64 << 10;

/// Runs the demonstration and prints it on stdout, unless `stop` completes before.
///
/// # Errors
/// If the network does not come up, the page does not come back, a relay's log does not tell of its neighbours, or if it
/// was stopped.
pub(crate) async fn run(
    options: Options,
    started: Instant,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let options = Options { socks: None, relay_log: Some(observed::LOG.to_owned()), ..options };
    let program = std::env::current_exe().context("cannot find this program itself")?;
    let mut network = Network::start(&options, program).await?;
    let outcome = tokio::select! {
        outcome = show(&mut network, started) => outcome,
        () = stop => Err(anyhow!("interrupted")),
    };
    network.stop().await;
    println!("{}", outcome?);
    Ok(())
}

async fn show(network: &mut Network, started: Instant) -> anyhow::Result<String> {
    let mut progress = Progress::on_stderr(started);
    let came_up = network.reach(Step::Consensus, &mut progress).await;
    progress.clear();
    came_up?;
    let explained = tokio::time::timeout(LIMIT, fetch_and_explain(network)).await;
    explained.context("the page did not come back in time")?
}

async fn fetch_and_explain(network: &Network) -> anyhow::Result<String> {
    let client = start_client(network).await?;
    let page = network.page();
    let connected = client.connect(Target::Addr(page), Isolation::named("demo")).await;
    let (mut stream, path) = connected.context("cannot connect to the page")?;
    stream.write_all(ready::request(page).as_bytes()).await?;
    let mut response = String::new();
    (&mut stream).take(MAX_RESPONSE_LEN).read_to_string(&mut response).await?;
    ensure!(response.ends_with(ready::PAGE), "another page came back: {response:?}");
    let mut seen = Vec::new();
    for number in 0..path.hops.len() {
        seen.push(sighting(network.dir(), &path.hops, number, page).await?);
    }
    client.shutdown().await;
    Ok(story::tell(page, &seen))
}

async fn start_client(network: &Network) -> anyhow::Result<Client> {
    let path = files::write_embedded_client(network.dir(), network.nodes())?;
    let config: tunic_client::Config = config::load(&path, tunic_client::config::EXAMPLE)?;
    Client::start(config, RunOptions::default()).await
}

/// What the hop's own log says about a circuit with the neighbours that it has on this path. Waits for it: the hop may
/// still be writing.
async fn sighting(dir: &Path, hops: &[Hop], number: usize, page: SocketAddr) -> anyhow::Result<Seen> {
    let hop = &hops[number];
    let log = logs_dir(dir).join(format!("{}.log", hop.nickname));
    loop {
        let text = fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
        if let Some(seen) = find(&observed::sightings(&text), hops, number, page) {
            return Ok(seen);
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The latest sighting with the neighbours that the path says.
fn find(sightings: &[Sighting], hops: &[Hop], number: usize, page: SocketAddr) -> Option<Seen> {
    let before = number.checked_sub(1).map(|number| &hops[number]);
    let after = hops.get(number + 1);
    let fits = |sighting: &&Sighting| {
        let before_fits = match (&sighting.before, before) {
            (Neighbour::Relay(id), Some(hop)) => *id == hop.id,
            (Neighbour::Client(_), None) => true,
            _ => false,
        };
        let after_fits = match (&sighting.after, after) {
            (Neighbour::Relay(id), Some(hop)) => *id == hop.id,
            (Neighbour::Outside(target), None) => *target == page.to_string(),
            _ => false,
        };
        before_fits && after_fits
    };
    let told = |neighbour: &Neighbour, hop: Option<&Hop>| match neighbour {
        Neighbour::Relay(_) => hop.map(|hop| hop.nickname.clone()).unwrap_or_default(),
        Neighbour::Client(address) => format!("you, at {address}"),
        Neighbour::Outside(target) => format!("the page, at {target}"),
    };
    let sighting = sightings.iter().rev().find(fits)?;
    Some(Seen {
        relay: hops[number].nickname.clone(),
        before: told(&sighting.before, before),
        after: told(&sighting.after, after),
    })
}
