//! What is amiss, in words.

use super::{History, Sample, Share};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// The relay is of no use, or soon will be.
    Bad,
    /// The relay works, with less.
    Warning,
    /// Worth knowing.
    Note,
}

/// Something that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub weight: Weight,
    /// What it is, and what to do.
    pub text: String,
}

/// Of what there is, so much of a hundred is worth a warning.
const NEARLY_ALL: u64 = 90;
/// A consensus that ends so soon, in seconds, should have been replaced.
const CONSENSUS_LATE_S: u64 = 10 * 60;
/// As the log has it: time enough to renew a certificate by hand, in seconds.
const CERTIFICATE_LATE_S: u64 = 4 * 24 * 60 * 60;
/// After its start a relay takes so long, in seconds, until authorities have reached it and voted; networks for tests are quicker.
const LISTING_S: u64 = 2 * 60 * 60;
/// Handshakes that may wait without anybody noticing.
const MANY_HANDSHAKES: u64 = 512;

/// What is amiss now, the worst first.
pub fn findings(sample: &Sample, history: &History) -> Vec<Finding> {
    let mut found = standing(sample);
    found.extend(room(sample));
    found.extend(refusals(history));
    found.sort_by_key(|finding| finding.weight);
    found
}

fn standing(sample: &Sample) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut say = |weight, text: String| found.push(Finding { weight, text });
    let left = |until: u64| until.saturating_sub(sample.now);
    if sample.consensus_relays == 0 {
        say(
            Weight::Bad,
            "no consensus in force: can it reach the authorities? (tunic-relay check)".to_owned(),
        );
    } else {
        let minutes = left(sample.consensus_until) / 60;
        if left(sample.consensus_until) < CONSENSUS_LATE_S && sample.started + LISTING_S < sample.now {
            say(Weight::Warning, format!("the consensus ends in {minutes} min, and no newer one came"));
        }
        if !sample.is_listed {
            let is_new = sample.now < sample.started.saturating_add(LISTING_S);
            let weight = if is_new { Weight::Note } else { Weight::Bad };
            say(weight, "the consensus does not list this relay (tunic-relay check says why)".to_owned());
        }
    }
    if left(sample.certificate_until) < CERTIFICATE_LATE_S {
        let hours = left(sample.certificate_until) / 3_600;
        say(Weight::Warning, format!("the signing certificate ends in {hours} h: renew it"));
    }
    found
}

fn room(sample: &Sample) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut nearly_all = |share: Share, what: &str| {
        if share.limit > 0 && share.percent() >= NEARLY_ALL {
            let text = format!("{} % of {what} is used", share.percent());
            found.push(Finding { weight: Weight::Warning, text });
        }
    };
    nearly_all(sample.memory, "memory_budget");
    nearly_all(sample.files, "the limit of open files (LimitNOFILE=)");
    if sample.handshakes_waiting > MANY_HANDSHAKES {
        let text = format!("{} circuit handshakes wait for a core", sample.handshakes_waiting);
        found.push(Finding { weight: Weight::Warning, text });
    }
    found
}

fn refusals(history: &History) -> Option<Finding> {
    let refused = history.refused_lately();
    let mut by_count: Vec<_> = refused.into_iter().collect();
    by_count.sort_by_key(|(reason, count)| (std::cmp::Reverse(*count), reason.clone()));
    let words: Vec<_> = by_count.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let text = format!("refused in the last minute: {}", words.join(", "));
    (!words.is_empty()).then_some(Finding { weight: Weight::Note, text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    pub(crate) fn sound() -> Sample {
        let now = 1_800_000_000;
        Sample {
            now,
            started: now - 3 * 24 * 3_600,
            period_ms: 1_000,
            is_listed: true,
            consensus_relays: 7,
            consensus_until: now + 3_600,
            certificate_until: now + 20 * 24 * 3_600,
            memory: Share { used: 89, limit: 100 },
            files: Share { used: 5, limit: 0 },
            ..Sample::default()
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Sample), weight: Weight, expect: &str) {
        let mut sample = sound();
        change(&mut sample);
        let mut history = History::default();
        history.add(&sample);
        let found = findings(&sample, &history);
        assert!(found.len() == 1 && found[0].weight == weight && found[0].text.contains(expect), "{found:?}");
    }

    #[test]
    fn a_sound_relay_has_nothing_amiss() {
        assert_eq!(findings(&sound(), &History::default()), []);
    }

    #[test]
    fn what_is_amiss_is_said() {
        check(|sample| sample.consensus_relays = 0, Weight::Bad, "no consensus");
        check(|sample| sample.is_listed = false, Weight::Bad, "does not list");
        let new = |sample: &mut Sample| (sample.is_listed, sample.started) = (false, sample.now - 60);
        check(new, Weight::Note, "does not list");
        check(|sample| sample.consensus_until = sample.now + 120, Weight::Warning, "ends in 2 min");
        check(|sample| sample.certificate_until = sample.now + 7_200, Weight::Warning, "ends in 2 h");
        check(|sample| sample.memory.used = 90, Weight::Warning, "90 % of memory_budget");
        check(|sample| sample.files = Share { used: 99, limit: 100 }, Weight::Warning, "open files");
        check(|sample| sample.handshakes_waiting = 600, Weight::Warning, "600 circuit handshakes");
        let refused = BTreeMap::from([("replay".to_owned(), 2), ("tampered".to_owned(), 9)]);
        check(|sample| sample.refused = refused, Weight::Note, "9 tampered, 2 replay");
    }

    #[test]
    fn the_worst_stands_first() {
        let mut sample = Sample { consensus_relays: 0, ..sound() };
        sample.refused = BTreeMap::from([("replay".to_owned(), 1)]);
        let mut history = History::default();
        history.add(&sample);
        let weights: Vec<_> = findings(&sample, &history).iter().map(|finding| finding.weight).collect();
        assert_eq!(weights, [Weight::Bad, Weight::Note]);
    }
}
