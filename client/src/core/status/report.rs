//! The report: everything that page, API and command line show, in one value. Its fields are those of docs/client-api.md.
//!
//! Fields may be added within one version of the API; none changes its meaning or goes away.

use serde::{Deserialize, Serialize};

use super::diagnose::Finding;
use crate::core::pool::Standing;

/// The version of the API, in the path of every request.
pub const API: u32 = 1;
/// Circuits that a report lists, the oldest first; the totals count all.
pub const MAX_CIRCUITS_SHOWN: usize = 64;
/// Streams that a report lists, the oldest first.
pub const MAX_STREAMS_SHOWN: usize = 128;

/// What the client knows about itself at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`API`].
    pub api: u32,
    /// The version of the program.
    pub version: String,
    /// How long the client has been running.
    pub uptime_s: u64,
    /// How far it is.
    pub bootstrap: Bootstrap,
    /// The list of relays.
    pub network: NetworkReport,
    /// Where it listens, or would like to.
    pub ports: Vec<PortReport>,
    /// What went to and from the guards.
    pub traffic: TrafficReport,
    /// What of it was cover.
    pub cover: CoverReport,
    /// The circuits.
    pub circuits: CircuitList,
    /// The streams of applications.
    pub streams: StreamList,
    /// What is wrong, the worst first; empty: nothing.
    pub findings: Vec<Finding>,
    /// What failed lately, the latest first.
    pub failures: Vec<FailureReport>,
}

/// How far the client is on its way to its first circuit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// 0 to 100; 100 once the first circuit is built.
    pub percent: u8,
    /// `starting`, `directory`, `guard`, `circuit` or `ready`.
    pub step: String,
    /// The same for a person.
    pub text: String,
}

/// The list of relays that is in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkReport {
    /// `none`, `valid` or `expired`.
    pub list: String,
    /// Relays that can be used.
    pub relays: usize,
    /// When the list ends to be valid, in seconds since 1970.
    pub valid_until: Option<u64>,
}

/// A port of the client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortReport {
    /// `applications`, `applications-unix`, `dns`, `status` or `control`.
    pub name: String,
    /// Its address or path.
    pub address: String,
    /// Why it is not open; `null` if it is.
    pub problem: Option<String>,
}

/// Bytes of cells on the channels to guards and directories, both ways.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrafficReport {
    /// Since the start.
    pub sent_bytes: u64,
    /// Since the start.
    pub received_bytes: u64,
    /// Over the last whole second.
    pub sent_bytes_per_s: u64,
    /// Over the last whole second.
    pub received_bytes_per_s: u64,
    /// The same for the last seconds, oldest first: sent, received.
    pub history: Vec<(u64, u64)>,
}

/// Padding: bytes of cells that carried nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoverReport {
    /// The class of cover traffic that was chosen.
    pub class: String,
    /// Since the start.
    pub sent_bytes: u64,
    /// Since the start.
    pub received_bytes: u64,
    /// Over the last whole second.
    #[serde(default)]
    pub sent_bytes_per_s: u64,
    /// Over the last whole second.
    #[serde(default)]
    pub received_bytes_per_s: u64,
}

/// The circuits, or the first of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CircuitList {
    /// All of them, those being built included.
    pub total: usize,
    /// How many are being built.
    pub building: usize,
    /// How many are kept ready for whoever comes first.
    pub spare: usize,
    /// The oldest.
    pub shown: Vec<CircuitReport>,
}

/// One circuit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CircuitReport {
    /// Its number in this process.
    pub id: u64,
    /// `building`, `spare`, `in-use` or `leaving` (no new streams).
    pub state: Standing,
    /// Since it was begun.
    pub age_s: u64,
    /// Streams on it.
    pub streams: usize,
    /// How long it took to build; `null` while it is being built.
    pub build_ms: Option<f64>,
    /// Its relays, the guard first.
    pub hops: Vec<HopReport>,
}

/// One relay of a circuit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HopReport {
    /// The nickname that the relay gave itself.
    pub relay: String,
    /// `guard`, `middle` or `exit`.
    pub position: String,
    /// From asking this relay until its answer, while the circuit was built: a round trip through the relays before it,
    /// its handshake, and the opening of a channel to it where there was none. `null` while it is not known.
    pub answer_ms: Option<f64>,
    /// By how much that exceeds the hop before it: this hop's own share.
    pub added_ms: Option<f64>,
    /// The same as a part of all hops' shares, 0 to 100.
    pub share_percent: Option<u8>,
}

/// The streams of applications, or the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamList {
    /// All of them.
    pub total: usize,
    /// How many wait for a circuit.
    pub waiting: usize,
    /// How many have waited since the start because circuits are begun at a rate only.
    #[serde(default)]
    pub held_back: u64,
    /// The oldest.
    pub shown: Vec<StreamReport>,
}

/// One stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamReport {
    /// Its number in this process.
    pub id: u64,
    /// `stream`, `lookup` or `datagrams`.
    pub kind: String,
    /// The circuit that it is on; `null` while there is none.
    pub circuit: Option<u64>,
    /// Since it was asked for.
    pub age_s: u64,
    /// Bytes that the application sent.
    pub sent_bytes: u64,
    /// Bytes that came back.
    pub received_bytes: u64,
    /// Where it leads; `null` unless that was asked for, and allowed.
    pub destination: Option<String>,
}

/// Something that failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureReport {
    /// `directory`, `circuit` or `stream`.
    pub kind: String,
    /// When it happened last.
    pub ago_s: u64,
    /// How often in a row.
    pub times: u64,
    /// At which relay of the circuit, from 1; `null` where that is not known or none is to blame.
    pub hop: Option<usize>,
    /// Which relay that is.
    pub relay: Option<String>,
    /// What happened, in words.
    pub what: String,
    /// What to do about it, in words.
    pub advice: String,
}

/// The answer to `new-identity`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewIdentity {
    /// [`API`].
    pub api: u32,
    /// Circuits that were ended.
    pub ended_circuits: usize,
}

impl HopReport {
    /// The relays of a circuit with their shares. `answered` says for each, as far as it has, after how many milliseconds it
    /// had answered.
    pub fn list(relays: &[String], answered: &[f64]) -> Vec<HopReport> {
        let last = relays.len().saturating_sub(1);
        let answers: Vec<f64> = answered
            .iter()
            .enumerate()
            .map(|(hop, at)| at - if hop == 0 { 0.0 } else { answered[hop - 1] })
            .collect();
        let added = |hop: usize| {
            let before = if hop == 0 { 0.0 } else { answers[hop - 1] };
            // A later hop may answer sooner, when the first one had more to do.
            (answers[hop] - before).max(0.0)
        };
        let all: f64 = (0..answers.len()).map(added).sum();
        let hop_of = |(hop, relay): (usize, &String)| HopReport {
            relay: relay.clone(),
            position: if hop == 0 {
                "guard"
            } else if hop == last {
                "exit"
            } else {
                "middle"
            }
            .to_owned(),
            answer_ms: answers.get(hop).map(|ms| tenths(*ms)),
            added_ms: answers.get(hop).map(|_| tenths(added(hop))),
            share_percent: answers
                .get(hop)
                .filter(|_| all > 0.0)
                .map(|_| (100.0 * added(hop) / all).round() as u8),
        };
        relays.iter().enumerate().map(hop_of).collect()
    }
}

/// To a tenth of a millisecond: more digits would promise what was not measured.
pub fn tenths(ms: f64) -> f64 {
    (ms * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (1..=count).map(|number| format!("relay{number}")).collect()
    }

    #[test]
    fn each_hop_has_its_own_share_of_the_time() {
        let hops = HopReport::list(&names(3), &[10.0, 40.0, 100.0]);
        let of = |hop: usize| {
            (hops[hop].answer_ms.unwrap(), hops[hop].added_ms.unwrap(), hops[hop].share_percent.unwrap())
        };
        assert_eq!([of(0), of(1), of(2)], [(10.0, 10.0, 17), (30.0, 20.0, 33), (60.0, 30.0, 50)]);
        let positions: Vec<&str> = hops.iter().map(|hop| hop.position.as_str()).collect();
        assert_eq!(positions, ["guard", "middle", "exit"]);
    }

    #[test]
    fn a_hop_that_was_faster_than_the_one_before_has_no_share() {
        let hops = HopReport::list(&names(2), &[30.0, 50.0]);
        assert_eq!((hops[1].added_ms, hops[1].share_percent), (Some(0.0), Some(0)));
        assert_eq!(hops[0].share_percent, Some(100));
    }

    #[test]
    fn what_has_not_answered_has_no_time() {
        let hops = HopReport::list(&names(3), &[]);
        assert!(hops.iter().all(|hop| hop.answer_ms.is_none() && hop.share_percent.is_none()));
        assert_eq!(HopReport::list(&[], &[]), []);
        let instant = HopReport::list(&names(1), &[0.0]);
        assert_eq!((instant[0].added_ms, instant[0].share_percent), (Some(0.0), None));
    }
}
