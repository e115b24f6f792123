//! Whether a node works, asked from another process in its container: by using it, and nobody else.
//!
//! - An **authority** must answer its directory over a circuit, and once it has a consensus, have a valid one. Until it knows
//!   the other authorities, it must introduce itself.
//! - A **relay** must be listed in a consensus that it stored and that is valid, and its directory must answer over a circuit
//!   that is made with the key that is listed.
//! - A **client** must bring a byte back from the network's own web server, through three relays.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use tokio::time::timeout;
use tunic_net::channel::{HopSpec, Node, NodeConfig, Peer};
use tunic_net::daemon::unix_now;
use tunic_net::dirstream;
use tunic_proto::dir::{AuthoritySet, Request, Response, SignedConsensus, UncheckedConsensus};
use tunic_proto::ids::RelayId;
use tunic_proto::keys::OnionKey;
use tunic_proto::time::UnixTime;

use super::fetch::{Url, fetch};
use super::run::read_own;
use super::{AUTHORITY_PORT, RELAY_PORT, SOCKS, introduce};

/// How long all of it may take; below the timeout in compose.yaml and in the probes.
const LIMIT: Duration = Duration::from_secs(8);
/// One circuit holds next to nothing.
const MEMORY_BUDGET: usize = 4 << 20;
const GRACE: Duration = Duration::from_millis(200);
/// Where relays and authorities store the newest consensus, in their state.
const CONSENSUS_FILE: &str = "consensus";
/// What a client fetches.
const PAGE: &str = "http://web:8080/";
/// A web server asks itself.
const OWN_PAGE: &str = "http://127.0.0.1:8080/";

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Checked {
    Authority,
    Relay,
    Client,
    Web,
}

/// Checks the node whose state is in this folder.
///
/// # Errors
/// What does not work.
pub(super) async fn check(role: Checked, dir: PathBuf) -> anyhow::Result<()> {
    let checked = async {
        match role {
            Checked::Authority => authority(&dir).await,
            Checked::Relay => relay(&dir).await,
            Checked::Client => page(Some(SOCKS), PAGE).await,
            Checked::Web => page(None, OWN_PAGE).await,
        }
    };
    timeout(LIMIT, checked).await.context("it took too long")?
}

async fn authority(dir: &Path) -> anyhow::Result<()> {
    let own = read_own(dir)?;
    if introduce::kept(dir)?.is_none() {
        // A swarm gives it a name, by which the others find it, only once it is healthy.
        return introduce::introduces_itself(&own).await;
    }
    let set = authorities(dir)?;
    match ask(own.identity, own.onion_key, AUTHORITY_PORT).await? {
        Response::Ok(bytes) => consensus(&bytes, &set).map(|_| ()),
        Response::NotFound if !dir.join(CONSENSUS_FILE).exists() => Ok(()),
        Response::NotFound => bail!("there was a consensus, and there is none any more"),
        other => bail!("the directory said {other:?}"),
    }
}

async fn relay(dir: &Path) -> anyhow::Result<()> {
    let own = read_own(dir)?;
    let set = authorities(dir)?;
    let stored = fs::read(dir.join(CONSENSUS_FILE)).context("there is no consensus yet")?;
    let stored = consensus(&stored, &set)?;
    let entry = stored.relay(&own.identity).context("the consensus does not list this relay yet")?;
    match ask(own.identity, entry.onion_key, RELAY_PORT).await? {
        Response::Ok(bytes) => consensus(&bytes, &set).map(|_| ()),
        other => bail!("the directory said {other:?}"),
    }
}

async fn page(socks: Option<SocketAddr>, url: &str) -> anyhow::Result<()> {
    let url: Url = url.parse()?;
    let mut body = Vec::new();
    fetch(socks, &url, &mut body).await?;
    ensure!(!body.is_empty(), "the page is empty");
    Ok(())
}

/// Asks the directory of the node here for its consensus, over a circuit of one hop.
async fn ask(id: RelayId, onion_key: OnionKey, port: u16) -> anyhow::Result<Response> {
    let node = Node::new(NodeConfig { signer: None, responder: None, memory_budget: MEMORY_BUDGET })?;
    let peer = Peer { id, addresses: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))] };
    let channel = node.connect(&peer).await.context("no channel")?;
    let circuit = channel.create_circuit(vec![HopSpec { id, onion_key }]).await.context("no circuit")?;
    let response = dirstream::request(&circuit, &Request::GetConsensus { have: UnixTime(0) }).await?;
    drop(circuit);
    node.shutdown(GRACE).await;
    Ok(response)
}

fn authorities(dir: &Path) -> anyhow::Result<AuthoritySet> {
    let known = introduce::kept(dir)?.context("the authorities are not known yet")?;
    Ok(AuthoritySet::new(known.iter().map(|known| known.identity)))
}

fn consensus(bytes: &[u8], authorities: &AuthoritySet) -> anyhow::Result<SignedConsensus> {
    let now = unix_now();
    let timely = UncheckedConsensus::parse(bytes)?.check_time(now)?;
    Ok(timely.check_signatures(authorities, now)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_that_is_not_there_is_not_healthy() {
        let dir = tempfile::tempdir().unwrap();
        for role in [Checked::Authority, Checked::Relay] {
            let error = check(role, dir.path().to_path_buf()).await.unwrap_err().to_string();
            assert!(error.contains("no keys yet"), "{error}");
        }
    }
}
