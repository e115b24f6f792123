//! What the network says to a relay that checks itself.
//!
//! 1. Every authority is asked for the consensus.
//! 2. Its times are held against this machine's clock, its signatures against the configuration.
//! 3. If it lists this relay, other relays are asked to carry a circuit on to it: what anybody's circuit would ask of them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rand::seq::SliceRandom;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tunic_net::channel::{HopSpec, Node, NodeConfig, Peer};
use tunic_net::daemon::{Exit, unix_now};
use tunic_proto::dir::{AuthoritySet, DirError, RelayEntry, Request, Response, SignedConsensus};
use tunic_proto::ids::RelayId;
use tunic_proto::time::UnixTime;

use super::authorities::Authorities;
use super::system_rng;
use crate::check::Finding;
use crate::config::Config;
use crate::core::directory_view::DirectoryView;

/// How long one authority or one circuit may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// So many relays are asked to reach this one before it is called out of reach.
const MAX_WITNESSES: usize = 3;

/// What the network says about this relay; `own` is its identity, if it has one yet.
pub async fn ask_network(config: &Config, own: Option<RelayId>) -> Vec<Finding> {
    let node = NodeConfig { signer: None, responder: None, memory_budget: config.memory_budget };
    let node = match Node::new(node) {
        Ok(node) => node,
        Err(error) => {
            return vec![Finding::problem(Exit::Failure, format!("TLS cannot be set up: {error}"))];
        }
    };
    let (documents, failures) = consensuses(&node, config).await;
    let mut found = vec![authorities(documents.len(), failures)];
    if let Some((consensus, finding)) = agreed(config, &documents) {
        found.push(finding);
        if let (Some(consensus), Some(own)) = (consensus, own) {
            found.push(reach(&node, &consensus, own).await);
        }
    }
    node.shutdown(Duration::ZERO).await;
    found
}

/// The documents of the authorities that have one, and what was wrong with each that does not answer.
async fn consensuses(node: &Node, config: &Config) -> (Vec<Option<Arc<[u8]>>>, Vec<String>) {
    let authorities = Arc::new(Authorities::new(node.clone(), config.authorities.clone()));
    let mut asked = JoinSet::new();
    for index in 0..authorities.count() {
        let authorities = Arc::clone(&authorities);
        asked.spawn(async move {
            let request = Request::GetConsensus { have: UnixTime(0) };
            let answered = timeout(PATIENCE, authorities.ask(index, &request)).await;
            (index, answered.context("no answer in 20 s").flatten())
        });
    }
    let (mut documents, mut failures) = (Vec::new(), Vec::new());
    for (index, answered) in asked.join_all().await {
        match answered {
            Ok(Response::Ok(bytes)) => documents.push(Some(bytes)),
            Ok(_) => documents.push(None),
            Err(error) => failures.push(format!("\"{}\": {error:#}", config.authorities[index].name)),
        }
    }
    (documents, failures)
}

fn authorities(answered: usize, failures: Vec<String>) -> Finding {
    let all = answered + failures.len();
    let failures = failures.join("; ");
    match (answered, all - answered) {
        (_, 0) => Finding::fine(format!("all {all} authorities answer")),
        (0, _) => Finding::problem(
            Exit::Unavailable,
            format!(
                "no authority can be asked: may this machine connect to other machines, and do the [[authority]] tables \
                 fit this network? ({failures})"
            ),
        ),
        _ => Finding::warning(format!(
            "{answered} of {all} authorities answer, which is enough if it is more than half; the others: {failures}"
        )),
    }
}

/// The consensus in force, and what it says of the clock; nothing if no authority has one.
fn agreed(
    config: &Config,
    documents: &[Option<Arc<[u8]>>],
) -> Option<(Option<Arc<SignedConsensus>>, Finding)> {
    let now = unix_now();
    let mut last = None;
    for bytes in documents.iter().flatten() {
        let trusted = AuthoritySet::new(config.authorities.iter().map(|authority| authority.identity));
        let mut view = DirectoryView::new(RelayId([0; 32]), trusted, config.allow_private_relays);
        match view.handle_consensus(bytes, now) {
            Ok(_) => {
                let text = "this machine's clock fits the network's consensus";
                return Some((view.current(now).cloned(), Finding::fine(text)));
            }
            Err(error) => last = Some(error),
        }
    }
    let finding = match last {
        Some(DirError::NotYetValid) => Finding::problem(
            Exit::Unavailable,
            "the network's consensus is of the future: this machine's clock is slow. Set it, and keep it set \
             (systemd-timesyncd, chrony)",
        ),
        Some(DirError::Expired) => Finding::problem(
            Exit::Unavailable,
            "the network's consensus has ended: this machine's clock is fast (set it, and keep it set with \
             systemd-timesyncd or chrony), or the authorities do not agree any more",
        ),
        Some(error) => Finding::problem(
            Exit::Unavailable,
            format!(
                "the network's consensus is not to be believed: {error}. Do the [[authority]] tables fit?"
            ),
        ),
        None => return None,
    };
    Some((None, finding))
}

/// Whether others reach this relay.
async fn reach(node: &Node, consensus: &SignedConsensus, own: RelayId) -> Finding {
    let Some(entry) = consensus.relay(&own) else {
        let text = "the consensus does not list this relay, so nobody extends circuits to it. The authorities list a relay a \
                    round or two after it has started, if they reach it at every `address`: start it, open those ports \
                    in firewall and router, and check again";
        return Finding::warning(text);
    };
    let mut others: Vec<&RelayEntry> =
        consensus.relays.iter().filter(|other| other.identity != own).collect();
    if others.is_empty() {
        return Finding::fine(
            "the authorities reach this relay; there is no other relay to try a circuit with",
        );
    }
    others.shuffle(&mut system_rng());
    let mut failures = Vec::new();
    for other in others.into_iter().take(MAX_WITNESSES) {
        match timeout(PATIENCE, through(node, other, entry)).await.context("no answer in 20 s").flatten() {
            Ok(()) => {
                let text = "the authorities list this relay, and a circuit through another relay reaches it";
                return Finding::fine(text);
            }
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    Finding::problem(
        Exit::Unavailable,
        format!(
            "the consensus lists this relay, and no circuit through {} other relays reached it: does it run, and are the \
             ports of `address` open from outside? ({})",
            failures.len(),
            failures.join("; ")
        ),
    )
}

async fn through(node: &Node, other: &RelayEntry, own: &RelayEntry) -> anyhow::Result<()> {
    let peer = Peer { id: other.identity, addresses: other.addresses.clone() };
    let hop = |entry: &RelayEntry| HopSpec { id: entry.identity, onion_key: entry.onion_key };
    let channel = node.connect(&peer).await.context("another relay cannot be reached from here")?;
    channel.create_circuit(vec![hop(other), hop(own)]).await.context("the circuit failed")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Weight;

    #[test]
    fn authorities_that_do_not_answer_are_named() {
        let check = |answered, failures: &[&str], weight| {
            let failures = failures.iter().map(|text| (*text).to_owned()).collect();
            let finding = authorities(answered, failures);
            assert_eq!(finding.weight, weight, "{finding}");
            finding.text
        };
        check(3, &[], Weight::Fine);
        assert!(check(2, &["\"one\": refused"], Weight::Warning).contains("2 of 3"));
        let text = check(0, &["\"one\": refused"], Weight::Problem(Exit::Unavailable));
        assert!(text.contains("\"one\": refused"), "{text}");
    }
}
