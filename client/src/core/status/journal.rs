//! What failed lately, for whoever asks why something did not work. It names no destination.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tunic_proto::message::EndReason;

use super::diagnose::advice;
use super::report::FailureReport;
use crate::core::path::Path;
use crate::core::pool::BuildFailure;

/// Entries that are kept; the oldest goes first.
pub const MAX_ENTRIES: usize = 32;
/// Older ones are not shown.
const SHOWN_FOR: Duration = Duration::from_secs(3_600);

/// Something that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mishap {
    /// Fetching the list of relays, building a circuit, or opening a stream.
    pub kind: Kind,
    /// The position of the relay that it failed at, 0 for the guard, where that is known.
    pub hop: Option<usize>,
    /// That relay's nickname.
    pub relay: Option<String>,
    /// What happened, in words.
    pub what: String,
    /// What to do about it, in words.
    pub advice: &'static str,
}

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Fetching the list of relays.
    Directory,
    /// Building a circuit.
    Circuit,
    /// A stream, or a lookup.
    Stream,
}

impl Mishap {
    /// A circuit over this path was not built.
    pub fn not_built(failure: BuildFailure, path: Option<&Path>) -> Mishap {
        let hop = match failure {
            BuildFailure::Guard => Some(0),
            BuildFailure::Hop { hop, .. } => Some(hop),
            BuildFailure::Path(_) | BuildFailure::TooSlow | BuildFailure::Busy => None,
        };
        let what = format!("A circuit was not built: {failure}.");
        Mishap { kind: Kind::Circuit, hop, relay: nickname(path, hop), what, advice: advice(failure) }
    }

    /// The guard of this path keeps its connections open and answers nothing.
    pub fn silent_guard(path: &Path) -> Mishap {
        let what = "The guard does not answer any more; its circuits were given up.".to_owned();
        let advice = "It is left alone for a while, and another one is used.";
        Mishap { kind: Kind::Circuit, hop: Some(0), relay: nickname(Some(path), Some(0)), what, advice }
    }

    /// A stream got no circuit.
    pub fn no_circuit(failure: BuildFailure) -> Mishap {
        let what = format!("A stream got no circuit: {failure}.");
        Mishap { kind: Kind::Stream, hop: None, relay: None, what, advice: advice(failure) }
    }

    /// The exit of this path did not open a stream.
    pub fn refused(reason: EndReason, path: &Path) -> Mishap {
        let hop = path.hops.len().checked_sub(1);
        let what = format!("The exit could not connect: {reason}.");
        Mishap {
            kind: Kind::Stream,
            hop,
            relay: nickname(Some(path), hop),
            what,
            advice: at_the_exit(reason),
        }
    }

    /// The circuit over this path broke under a stream that was being opened, at this hop if that is known. Another one is
    /// tried, unless what the application had `sent` might then arrive twice.
    pub fn broke(hop: Option<usize>, sent: bool, path: &Path) -> Mishap {
        let what = "A circuit broke before the exit had answered.".to_owned();
        let advice = match sent {
            true => "Try again. It was not done here, lest what the application had sent arrives twice.",
            false => "Another circuit was tried.",
        };
        Mishap { kind: Kind::Stream, hop, relay: nickname(Some(path), hop), what, advice }
    }

    /// The list of relays could not be fetched.
    pub fn no_list(why: &str, advice: &'static str) -> Mishap {
        let what = format!("The list of relays could not be fetched: {why}.");
        Mishap { kind: Kind::Directory, hop: None, relay: None, what, advice }
    }
}

fn nickname(path: Option<&Path>, hop: Option<usize>) -> Option<String> {
    Some(path?.hops.get(hop?)?.nickname.clone())
}

fn at_the_exit(reason: EndReason) -> &'static str {
    match reason {
        EndReason::NameNotFound => "Is the name right?",
        EndReason::ConnectionRefused => {
            "Nothing listens at that port of the target, or it refuses this exit."
        }
        EndReason::HostUnreachable | EndReason::NetworkUnreachable | EndReason::Timeout => {
            "The target may be down, or not reachable from this exit. A new identity takes another one."
        }
        EndReason::Policy => "The exits that were tried do not connect there.",
        EndReason::Resources | EndReason::Internal | EndReason::Reset => {
            "Other exits were tried too. Try again later."
        }
        EndReason::Done | EndReason::NotDirectory => "Try again.",
    }
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Kind::Directory => "directory",
            Kind::Circuit => "circuit",
            Kind::Stream => "stream",
        }
    }
}

/// The last mishaps. The same thing again counts up.
#[derive(Debug, Clone, Default)]
pub struct Journal(VecDeque<Entry>);

#[derive(Debug, Clone)]
struct Entry {
    mishap: Mishap,
    last: Instant,
    times: u64,
}

impl Journal {
    /// This has just happened.
    pub fn note(&mut self, mishap: Mishap, now: Instant) {
        let known = self.0.iter().position(|entry| entry.mishap == mishap);
        let times = known.and_then(|at| self.0.remove(at)).map_or(0, |entry| entry.times);
        if self.0.len() == MAX_ENTRIES {
            self.0.pop_front();
        }
        self.0.push_back(Entry { mishap, last: now, times: times.saturating_add(1) });
    }

    /// Those of the last hour, the latest first.
    pub fn report(&self, now: Instant) -> Vec<FailureReport> {
        let recent =
            self.0.iter().rev().filter(|entry| now.saturating_duration_since(entry.last) < SHOWN_FOR);
        recent.map(|entry| entry.report(now)).collect()
    }
}

impl Entry {
    fn report(&self, now: Instant) -> FailureReport {
        FailureReport {
            kind: self.mishap.kind.label().to_owned(),
            ago_s: now.saturating_duration_since(self.last).as_secs(),
            times: self.times,
            hop: self.mishap.hop.map(|hop| hop + 1),
            relay: self.mishap.relay.clone(),
            what: self.mishap.what.clone(),
            advice: self.mishap.advice.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::start;

    fn mishap(what: &str) -> Mishap {
        Mishap {
            kind: Kind::Circuit,
            hop: Some(1),
            relay: Some("b".into()),
            what: what.into(),
            advice: "wait",
        }
    }

    #[test]
    fn the_same_again_counts_up_and_moves_to_the_front() {
        let (mut journal, now) = (Journal::default(), start());
        journal.note(mishap("first"), now);
        journal.note(mishap("other"), now + Duration::from_secs(1));
        journal.note(mishap("first"), now + Duration::from_secs(2));
        let report = journal.report(now + Duration::from_secs(5));
        assert_eq!(report.len(), 2);
        assert_eq!((report[0].what.as_str(), report[0].times, report[0].ago_s), ("first", 2, 3));
        assert_eq!((report[0].hop, report[0].relay.as_deref()), (Some(2), Some("b")), "hops count from 1");
    }

    #[test]
    fn a_failure_names_its_hop_where_it_is_known() {
        let hops = [1, 2, 3].map(|number| crate::core::path::Hop::from(&crate::core::testing::relay(number)));
        let path = Path { hops: hops.to_vec(), exit_policy: crate::core::testing::open_policy() };
        let named = |mishap: &Mishap| (mishap.hop, mishap.relay.clone());
        let name = |hop: usize| (Some(hop), Some(path.hops[hop].nickname.clone()));
        assert_eq!(named(&Mishap::not_built(BuildFailure::Guard, Some(&path))), name(0));
        assert_eq!(named(&Mishap::not_built(BuildFailure::TooSlow, Some(&path))), (None, None));
        assert_eq!(named(&Mishap::silent_guard(&path)), name(0));
        assert_eq!(named(&Mishap::refused(EndReason::Timeout, &path)), name(2));
        assert_eq!(named(&Mishap::broke(Some(1), true, &path)), name(1));
        assert_eq!(named(&Mishap::broke(Some(9), false, &path)), (Some(9), None));
    }

    #[test]
    fn it_is_bounded_and_forgets() {
        let (mut journal, now) = (Journal::default(), start());
        (0..100).for_each(|number| journal.note(mishap(&number.to_string()), now));
        let report = journal.report(now);
        assert_eq!((report.len(), report[0].what.as_str()), (MAX_ENTRIES, "99"));
        assert_eq!(journal.report(now + SHOWN_FOR), []);
    }
}
