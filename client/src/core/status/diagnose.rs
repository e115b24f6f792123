//! What is wrong, in words, and what to do about it.

use serde::{Deserialize, Serialize};

use super::report::{Bootstrap, PortReport};
use crate::core::front::leaks::Leak;
use crate::core::path::PathError;
use crate::core::pool::BuildFailure;

/// A clock that is further off than this is told: authorities tolerate a minute (docs/protocol.md §9).
const MAX_CLOCK_OFF_S: u64 = 60;
/// Failures in a row before they are worth a word: one in five builds may be too slow without anything being wrong.
const FAILURES: u32 = 3;
/// Percent of the memory budget from which on it is short.
const MEMORY_SHORT: usize = 90;

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// `error`: it does not work; `warning`: it works, and something should be done.
    pub severity: Severity,
    /// A word for programs: it does not change.
    pub code: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub advice: String,
}

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Nothing works, or soon will not.
    Error,
    /// It works, but not as it should.
    Warning,
}

/// What is known of the list of relays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ListState {
    /// There has been none.
    #[default]
    None,
    /// It is in force.
    Valid,
    /// It is past its lifetime.
    Expired,
}

impl ListState {
    /// As [`NetworkReport`](super::report::NetworkReport) has it.
    pub fn label(self) -> &'static str {
        match self {
            ListState::None => "none",
            ListState::Valid => "valid",
            ListState::Expired => "expired",
        }
    }
}

/// Why the list of relays could not be fetched, since it last could.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchTrouble {
    /// How often in a row.
    pub failures: u32,
    /// The last failure.
    pub what: String,
    /// What to do about it.
    pub advice: &'static str,
    /// Whether this machine's clock may be to blame.
    pub clock: bool,
}

/// What the diagnosis is made from.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The list of relays.
    pub list: ListState,
    /// Trouble with fetching it.
    pub fetch: Option<FetchTrouble>,
    /// By how much the clock of the guard that was called last was ahead.
    pub clock_ahead_s: Option<i64>,
    /// Whether a guard was reached since the start.
    pub guard_reached: bool,
    /// Whether a circuit was built since the start.
    pub was_ready: bool,
    /// Circuits that are open.
    pub open_circuits: usize,
    /// Builds that failed since one succeeded, and how the last one did.
    pub failing: Option<(u32, BuildFailure)>,
    /// The hop at which all of those failed.
    pub failing_hop: Option<usize>,
    /// Whether streams wait because circuits are begun at a rate only.
    pub holding_back: bool,
    /// The ports.
    pub ports: Vec<PortReport>,
    /// What applications do that gives a person away.
    pub leaks: Vec<Leak>,
    /// Bytes of the memory budget that are taken, and all of it.
    pub memory: (usize, usize),
    /// How often a guard refused the class of padding that is set.
    pub cover_refused: u64,
}

/// Everything that is wrong, the worst first.
pub fn diagnose(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        [clock(facts), list(facts), circuits(facts), pace(facts), memory(facts), cover(facts)]
            .into_iter()
            .flatten()
            .collect();
    findings.extend(facts.ports.iter().filter_map(port));
    findings.extend(facts.leaks.iter().map(leak));
    findings.sort_by_key(|finding| finding.severity);
    findings
}

fn finding(severity: Severity, code: &str, what: String, advice: &str) -> Finding {
    Finding { severity, code: code.to_owned(), what, advice: advice.to_owned() }
}

fn clock(facts: &Facts) -> Option<Finding> {
    let ahead = facts.clock_ahead_s.unwrap_or(0);
    let advice =
        "Set this machine's clock (with NTP, for example). With a wrong clock no list of relays is believed.";
    let severity = if facts.list == ListState::Valid { Severity::Warning } else { Severity::Error };
    if ahead.unsigned_abs() > MAX_CLOCK_OFF_S {
        let (by, way) = (duration(ahead.unsigned_abs()), if ahead > 0 { "behind" } else { "ahead of" });
        let what = format!("This machine's clock is {by} {way} that of the relay that was called last.");
        return Some(finding(severity, "clock", what, advice));
    }
    let trouble = facts.fetch.as_ref().filter(|trouble| trouble.clock && facts.list != ListState::Valid)?;
    let what = format!("This machine's clock seems to be wrong: {}.", trouble.what);
    Some(finding(severity, "clock", what, advice))
}

fn list(facts: &Facts) -> Option<Finding> {
    let trouble = facts.fetch.as_ref();
    let reason = trouble.map_or_else(String::new, |trouble| {
        format!(
            " It could not be fetched ({} in a row): {}.",
            counted(trouble.failures, "try", "tries"),
            trouble.what
        )
    });
    let advice = trouble.map_or("It is being fetched.", |trouble| trouble.advice);
    match facts.list {
        ListState::Valid => None,
        ListState::Expired => Some(finding(
            Severity::Error,
            "list-expired",
            format!("The list of relays is out of date, so no new circuits are built.{reason}"),
            advice,
        )),
        ListState::None if trouble.is_some_and(|trouble| trouble.failures >= FAILURES) => Some(finding(
            Severity::Error,
            "no-list",
            format!("There is no list of relays yet, so no circuits can be built.{reason}"),
            advice,
        )),
        ListState::None => None,
    }
}

fn circuits(facts: &Facts) -> Option<Finding> {
    let (failures, failure) = facts.failing.filter(|(failures, _)| *failures >= FAILURES)?;
    if facts.list != ListState::Valid {
        return None;
    }
    let severity = if facts.open_circuits == 0 { Severity::Error } else { Severity::Warning };
    let in_a_row = format!("The last {} to build a circuit failed", counted(failures, "attempt", "attempts"));
    let (code, what) = match (facts.failing_hop, failure) {
        (_, BuildFailure::Guard) | (Some(0), _) => {
            ("guard-unreachable", format!("{in_a_row}: the guard, the first relay, cannot be reached."))
        }
        (Some(hop), _) => {
            ("hop-failing", format!("{in_a_row}, all of them at relay {} ({failure}).", hop + 1))
        }
        (None, _) => ("circuits-failing", format!("{in_a_row}: {failure}.")),
    };
    Some(finding(severity, code, what, advice(failure)))
}

fn pace(facts: &Facts) -> Option<Finding> {
    let what = "Programs ask for more circuits of their own than are built in a time: some connections wait."
        .to_owned();
    let advice = "Use the same credentials for what may share a circuit, or set `isolate_destinations = false`. If you know of no \
                  program that needs so many, look for the one that asks.";
    facts.holding_back.then(|| finding(Severity::Warning, "circuit-rate", what, advice))
}

fn memory(facts: &Facts) -> Option<Finding> {
    let (held, all) = facts.memory;
    let short = all > 0 && held >= all / 100 * MEMORY_SHORT;
    short.then(|| {
        let what = format!("{} of {} MiB of memory for cells and streams are taken.", held >> 20, all >> 20);
        finding(
            Severity::Warning,
            "memory",
            what,
            "Set a larger `memory_budget`, or use fewer connections at a time.",
        )
    })
}

fn cover(facts: &Facts) -> Option<Finding> {
    let what = "A guard refused the class of cover traffic that is set, and pads less.".to_owned();
    let advice = "Choose a cheaper class with the setting `padding` (docs/cover-traffic.md).";
    (facts.cover_refused > 0).then(|| finding(Severity::Warning, "cover-refused", what, advice))
}

fn port(port: &PortReport) -> Option<Finding> {
    let problem = port.problem.as_ref()?;
    let what = format!("The port for {} ({}) is not open: {problem}.", purpose(&port.name), port.address);
    let advice = match port.name.as_str() {
        "status" => {
            "Another program has it, perhaps another client: set `status` to a free port, or to \"off\"."
        }
        "control" => {
            "`tunic-client status` and its kin do not reach this client. Is there another one with the same state_dir?"
        }
        _ => "Set it to a free port.",
    };
    Some(finding(Severity::Warning, "port", what, advice))
}

fn purpose(name: &str) -> &str {
    match name {
        "status" => "this page",
        "control" => "the command line",
        other => other,
    }
}

fn leak(leak: &Leak) -> Finding {
    match leak {
        Leak::BareAddress => finding(
            Severity::Warning,
            "bare-address",
            "An application asks for addresses instead of names: it may look names up itself, in the clear."
                .to_owned(),
            "Have it resolve names through the proxy (socks5h, SOCKS4a, \"proxy DNS\"). See `safe_socks`.",
        ),
        Leak::Port(port) => finding(
            Severity::Warning,
            "leaky-port",
            format!(
                "An application uses port {port}, where the exit can usually read who you are, or all that you say."
            ),
            "Use the encrypted variant of the protocol. See `leaky_ports` and `on_leaky_port`.",
        ),
    }
}

/// What a person can do about a failed build.
pub fn advice(failure: BuildFailure) -> &'static str {
    match failure {
        BuildFailure::Guard => "Is this machine online, and does its firewall let it out?",
        BuildFailure::Path(PathError::NoExitForPort(_)) => "No exit of this network lets that port through.",
        BuildFailure::Path(_) => "The network may be too small or partly down; it is tried again.",
        BuildFailure::Busy => "Use fewer connections at a time.",
        BuildFailure::Hop { .. } => "The relay is avoided for a while, and others are tried.",
        BuildFailure::TooSlow => {
            "Other relays are tried. Is this machine's connection slow, or in heavy use?"
        }
    }
}

/// How far the client is.
pub fn bootstrap(facts: &Facts) -> Bootstrap {
    let (percent, step, text) = if facts.was_ready && facts.open_circuits > 0 {
        (100, "ready", "Ready: what applications send goes through three relays.")
    } else if facts.was_ready {
        (100, "ready", "There is no circuit at the moment; the next one is being built.")
    } else if facts.list == ListState::Valid && facts.guard_reached {
        (80, "circuit", "Building the first circuit.")
    } else if facts.list == ListState::Valid {
        (50, "guard", "The list of relays is there; calling the first relay.")
    } else if facts.fetch.is_some() {
        (10, "directory", "Fetching the list of relays; it has failed so far, and is tried again.")
    } else {
        (10, "directory", "Fetching the list of relays.")
    };
    Bootstrap { percent, step: step.to_owned(), text: text.to_owned() }
}

/// The hop at which builds keep failing.
#[derive(Debug, Clone, Copy, Default)]
pub struct HopStreak {
    hop: Option<usize>,
    failures: u32,
}

impl HopStreak {
    /// A build failed.
    pub fn failed(&mut self, failure: BuildFailure) {
        let hop = match failure {
            BuildFailure::Guard => Some(0),
            BuildFailure::Hop { hop, .. } => Some(hop),
            BuildFailure::Path(_) | BuildFailure::TooSlow | BuildFailure::Busy => None,
        };
        self.failures = if hop == self.hop { self.failures.saturating_add(1) } else { 1 };
        self.hop = hop;
    }

    /// A build succeeded.
    pub fn succeeded(&mut self) {
        *self = HopStreak::default();
    }

    /// The hop, once enough failures in a row were there.
    pub fn hop(&self) -> Option<usize> {
        self.hop.filter(|_| self.failures >= FAILURES)
    }
}

fn counted(count: u32, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A length of time in its largest unit.
pub fn duration(secs: u64) -> String {
    let (count, unit) = match secs {
        0..120 => (secs, "second"),
        120..7_200 => (secs / 60, "minute"),
        7_200..172_800 => (secs / 3_600, "hour"),
        _ => (secs / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tunic_proto::message::DestroyReason;

    fn valid() -> Facts {
        Facts { list: ListState::Valid, was_ready: true, open_circuits: 2, ..Facts::default() }
    }

    /// The findings are these, and the first one says so.
    #[track_caller]
    fn check(facts: &Facts, codes: &[&str], says: &str) {
        let findings = diagnose(facts);
        let found: Vec<&str> = findings.iter().map(|finding| finding.code.as_str()).collect();
        assert_eq!(found, codes, "{findings:?}");
        if let Some(first) = findings.first() {
            assert!(first.what.contains(says), "{}", first.what);
            assert!(!first.advice.is_empty());
        }
    }

    fn hop(hop: usize) -> BuildFailure {
        BuildFailure::Hop { hop, reason: DestroyReason::Timeout }
    }

    #[test]
    fn when_all_is_well_there_is_nothing_to_say() {
        check(&valid(), &[], "");
        check(&Facts { failing: Some((2, hop(1))), clock_ahead_s: Some(-60), ..valid() }, &[], "");
        check(&Facts { memory: (89 << 20, 100 << 20), ..valid() }, &[], "");
        check(&Facts::default(), &[], "");
    }

    #[test]
    fn a_wrong_clock_is_told_with_its_direction() {
        check(&Facts { clock_ahead_s: Some(7_200), ..valid() }, &["clock"], "2 hours behind");
        check(&Facts { clock_ahead_s: Some(-100), ..valid() }, &["clock"], "100 seconds ahead of");
        check(&Facts { clock_ahead_s: Some(i64::MIN), ..valid() }, &["clock"], "days ahead of");
        let fetch =
            FetchTrouble { failures: 1, what: "not yet valid".into(), advice: "Set it.", clock: true };
        let facts = Facts { fetch: Some(fetch), ..Facts::default() };
        check(&facts, &["clock"], "not yet valid");
        assert_eq!(diagnose(&facts)[0].severity, Severity::Error);
    }

    #[test]
    fn a_missing_and_an_old_list_are_told_with_the_reason() {
        let fetch = |failures| FetchTrouble {
            failures,
            what: "nobody there".into(),
            advice: "Online?",
            clock: false,
        };
        check(&Facts { fetch: Some(fetch(2)), ..Facts::default() }, &[], "");
        check(
            &Facts { fetch: Some(fetch(3)), ..Facts::default() },
            &["no-list"],
            "(3 tries in a row): nobody there.",
        );
        check(
            &Facts { list: ListState::Expired, fetch: Some(fetch(1)), ..Facts::default() },
            &["list-expired"],
            "1 try",
        );
        check(&Facts { fetch: Some(fetch(9)), ..valid() }, &[], "");
    }

    #[test]
    fn failing_circuits_are_told_with_the_hop() {
        let facts = |failure, failing_hop| Facts {
            failing: Some((3, failure)),
            failing_hop,
            open_circuits: 0,
            ..valid()
        };
        check(&facts(BuildFailure::Guard, Some(0)), &["guard-unreachable"], "cannot be reached");
        check(&facts(hop(1), Some(1)), &["hop-failing"], "all of them at relay 2");
        check(&facts(BuildFailure::TooSlow, None), &["circuits-failing"], "not built in time");
        assert_eq!(diagnose(&facts(hop(1), None))[0].severity, Severity::Error);
        let working = Facts { open_circuits: 1, ..facts(hop(1), None) };
        assert_eq!(diagnose(&working)[0].severity, Severity::Warning);
    }

    #[test]
    fn ports_leaks_and_memory_are_warnings_behind_errors() {
        let taken = PortReport {
            name: "status".into(),
            address: "127.0.0.1:9152".into(),
            problem: Some("taken".into()),
        };
        let facts = Facts {
            list: ListState::Expired,
            ports: vec![taken, PortReport::default()],
            leaks: vec![Leak::BareAddress, Leak::Port(25)],
            memory: (95 << 20, 100 << 20),
            ..valid()
        };
        check(&facts, &["list-expired", "memory", "port", "bare-address", "leaky-port"], "out of date");
    }

    #[test]
    fn a_streak_is_of_one_hop_only() {
        let mut streak = HopStreak::default();
        [hop(1), hop(2), hop(2)].into_iter().for_each(|failure| streak.failed(failure));
        assert_eq!(streak.hop(), None);
        streak.failed(hop(2));
        assert_eq!(streak.hop(), Some(2));
        streak.failed(BuildFailure::TooSlow);
        assert_eq!(streak.hop(), None);
        (0..3).for_each(|_| streak.failed(BuildFailure::Guard));
        assert_eq!(streak.hop(), Some(0));
        streak.succeeded();
        assert_eq!(streak.hop(), None);
    }

    #[test]
    fn the_bootstrap_only_goes_forward() {
        let mut facts = Facts::default();
        let mut seen = vec![bootstrap(&facts).percent];
        facts.list = ListState::Valid;
        seen.push(bootstrap(&facts).percent);
        facts.guard_reached = true;
        seen.push(bootstrap(&facts).percent);
        facts.was_ready = true;
        seen.push(bootstrap(&facts).percent);
        facts.open_circuits = 1;
        assert_eq!(seen, [10, 50, 80, 100]);
        assert!(bootstrap(&facts).text.starts_with("Ready"));
    }

    #[test]
    fn lengths_of_time_read_well() {
        let said = [0, 1, 119, 120, 7_199, 7_200, 172_800].map(duration);
        assert_eq!(
            said,
            ["0 seconds", "1 second", "119 seconds", "2 minutes", "119 minutes", "2 hours", "2 days"]
        );
    }
}
