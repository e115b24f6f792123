//! Reports for a terminal.

use std::fmt::Write as _;

use crate::core::pool::Standing;
use crate::core::status::diagnose::{Finding, Severity};
use crate::core::status::page::{ago, bytes};
use crate::core::status::report::{CircuitReport, FailureReport, NewIdentity, Report};

/// What is said of most things is short; more is on the page.
pub(super) fn status(report: &Report) -> String {
    let mut out = String::new();
    let bootstrap = &report.bootstrap;
    let _ = writeln!(out, "{} ({} %)", bootstrap.text, bootstrap.percent);
    findings(&mut out, &report.findings);
    let (traffic, cover) = (&report.traffic, &report.cover);
    let rows = [
        ("Relays", format!("{} in the list ({})", report.network.relays, report.network.list)),
        (
            "Circuits",
            format!(
                "{}, of which {} spare and {} being built",
                report.circuits.total, report.circuits.spare, report.circuits.building
            ),
        ),
        (
            "Streams",
            format!("{}, and {} waiting for a circuit", report.streams.total, report.streams.waiting),
        ),
        (
            "Received",
            format!("{}/s, {} in all", bytes(traffic.received_bytes_per_s), bytes(traffic.received_bytes)),
        ),
        ("Sent", format!("{}/s, {} in all", bytes(traffic.sent_bytes_per_s), bytes(traffic.sent_bytes))),
        (
            "Cover",
            format!(
                "class {}: {}/s, {} received, {} sent",
                cover.class,
                bytes(cover.sent_bytes_per_s.saturating_add(cover.received_bytes_per_s)),
                bytes(cover.received_bytes),
                bytes(cover.sent_bytes)
            ),
        ),
        ("Running", format!("for {}, version {}", ago(report.uptime_s), report.version)),
    ];
    rows.iter().for_each(|(name, value)| _ = writeln!(out, "{name:<10}{value}"));
    for port in &report.ports {
        let problem =
            port.problem.as_ref().map_or_else(String::new, |problem| format!(" (not open: {problem})"));
        let _ = writeln!(out, "{:<10}{}: {}{problem}", "Port", port.name, port.address);
    }
    plain(&out)
}

/// Circuits with their hops, and the streams on them.
pub(super) fn circuits(report: &Report) -> String {
    let mut out = String::new();
    report.circuits.shown.iter().for_each(|shown| circuit(&mut out, shown));
    more(&mut out, report.circuits.total, report.circuits.shown.len(), "circuits");
    for stream in &report.streams.shown {
        let on = stream
            .circuit
            .map_or_else(|| "waiting for a circuit".to_owned(), |id| format!("on circuit {id}"));
        let to = stream.destination.as_ref().map_or_else(String::new, |to| format!(" to {to}"));
        let (sent, received) = (bytes(stream.sent_bytes), bytes(stream.received_bytes));
        let age = ago(stream.age_s);
        let _ =
            writeln!(out, "{} {}{to}, {on}, {age}, {sent} sent, {received} received", stream.kind, stream.id);
    }
    more(&mut out, report.streams.total, report.streams.shown.len(), "streams");
    if out.is_empty() {
        out.push_str("There are no circuits. `tunic-client explain` says why.\n");
    }
    plain(&out)
}

fn circuit(out: &mut String, circuit: &CircuitReport) {
    let state = match circuit.state {
        Standing::Building => "being built",
        Standing::Spare => "spare",
        Standing::InUse => "in use",
        Standing::Leaving => "no new streams",
    };
    let _ = writeln!(
        out,
        "circuit {} ({state}, {}, streams: {})",
        circuit.id,
        ago(circuit.age_s),
        circuit.streams
    );
    for hop in &circuit.hops {
        let added = match (hop.added_ms, hop.share_percent) {
            (Some(added), Some(share)) => format!("{added:>8.1} ms {share:>4} %"),
            (Some(added), None) => format!("{added:>8.1} ms"),
            _ => String::new(),
        };
        let _ = writeln!(out, "  {:<7}{:<20}{added}", hop.position, hop.relay);
    }
}

/// What is wrong and what failed.
pub(super) fn explanation(report: &Report) -> String {
    let mut out = String::new();
    findings(&mut out, &report.findings);
    if report.findings.is_empty() {
        let _ = writeln!(out, "Nothing is wrong as far as this client can tell. {}", report.bootstrap.text);
    }
    if !report.failures.is_empty() {
        out.push_str("\nWhat failed in the last hour:\n");
    }
    report.failures.iter().for_each(|shown| failure(&mut out, shown));
    plain(&out)
}

fn findings(out: &mut String, findings: &[Finding]) {
    for finding in findings {
        let word = if finding.severity == Severity::Error { "Problem" } else { "Note" };
        let _ = writeln!(out, "{word}: {}\n  {}", finding.what, finding.advice);
    }
}

fn failure(out: &mut String, failure: &FailureReport) {
    let times = if failure.times > 1 { format!(", {} times", failure.times) } else { String::new() };
    let _ = write!(out, "- {} ago{times}: {}", ago(failure.ago_s), failure.what);
    if let (Some(hop), Some(relay)) = (failure.hop, &failure.relay) {
        let _ = write!(out, " (relay {hop} of the circuit: {relay})");
    }
    let _ = writeln!(out, "\n  {}", failure.advice);
}

pub(super) fn new_identity(done: &NewIdentity) -> String {
    format!("{} circuits were ended; what comes next goes over new ones.\n", done.ended_circuits)
}

fn more(out: &mut String, total: usize, shown: usize, what: &str) {
    if total > shown {
        let _ = writeln!(out, "and {} more {what}", total - shown);
    }
}

/// Without control characters: what relays call themselves must not steer a terminal.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n').collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::status::report::{CircuitList, HopReport, StreamList, StreamReport};

    fn report() -> Report {
        let relays = ["one", "\u{1b}[31mtwo", "three"].map(str::to_owned);
        let hops = HopReport::list(&relays, &[10.0, 30.0, 60.0]);
        let shown =
            CircuitReport { id: 7, state: Standing::InUse, age_s: 5, streams: 1, build_ms: Some(60.0), hops };
        Report {
            circuits: CircuitList { total: 3, shown: vec![shown], ..CircuitList::default() },
            streams: StreamList {
                total: 1,
                shown: vec![StreamReport {
                    id: 2,
                    kind: "stream".into(),
                    circuit: Some(7),
                    destination: Some("example.com:443".into()),
                    ..StreamReport::default()
                }],
                ..StreamList::default()
            },
            findings: vec![Finding {
                severity: Severity::Error,
                code: "clock".into(),
                what: "The clock is wrong.".into(),
                advice: "Set it.".into(),
            }],
            failures: vec![FailureReport {
                times: 2,
                hop: Some(2),
                relay: Some("two".into()),
                what: "A circuit was not built.".into(),
                advice: "Wait.".into(),
                ..FailureReport::default()
            }],
            ..Report::default()
        }
    }

    #[track_caller]
    fn check(shown: &str, parts: &[&str]) {
        assert!(parts.iter().all(|part| shown.contains(part)), "{shown}");
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
    }

    #[test]
    fn every_answer_says_what_matters() {
        check(
            &status(&report()),
            &["Problem: The clock is wrong.\n  Set it.", "Circuits  3, of which 0 spare"],
        );
        check(
            &circuits(&report()),
            &[
                "circuit 7 (in use, 5 s, streams: 1)",
                "middle [31mtwo",
                "10.0 ms   33 %",
                "and 2 more circuits",
                "to example.com:443, on circuit 7",
            ],
        );
        check(
            &explanation(&report()),
            &["Set it.", "0 s ago, 2 times: A circuit was not built. (relay 2 of the circuit: two)\n  Wait."],
        );
        check(&explanation(&Report::default()), &["Nothing is wrong"]);
        check(&circuits(&Report::default()), &["There are no circuits"]);
        check(&new_identity(&NewIdentity { api: 1, ended_circuits: 4 }), &["4 circuits were ended"]);
    }
}
