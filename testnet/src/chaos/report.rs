//! What the client noticed, for people and for programs.

use std::fmt::{self, Write};
use std::time::Duration;

use anyhow::bail;
use serde::Serialize;

use super::args::ChaosArgs;
use super::faults::{Kind, Part};
use super::load::{PATIENCE, PIECE_LEN};

/// One fault and what the client noticed of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What went wrong.
    pub fault: Kind,
    /// For whom.
    pub part: Part,
    /// Their names.
    pub nodes: Vec<String>,
    /// Pieces that came, from the fault until the client had recovered after its end.
    pub came: usize,
    /// Pieces that did not come meanwhile.
    pub failed: usize,
    /// The longest time without a piece meanwhile.
    pub longest_gap_ms: u64,
    /// From the fault until the first piece that was asked for later had come.
    pub again_ms: Option<u64>,
    /// From the end of the fault until the first piece that was asked for later had come.
    pub again_after_end_ms: Option<u64>,
    /// Bytes per second before the fault.
    pub rate_before: u64,
    /// Bytes per second while it lasted.
    pub rate_during: u64,
    /// How often the long download broke off.
    pub long_breaks: usize,
    /// Whether downloads came again within the limit, twice: after the fault began, and after it ended.
    pub recovered: bool,
    /// What else was noticed.
    pub notes: Vec<String>,
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    seed: u64,
    seconds: u64,
    limit: u64,
    /// Faults in the order in which they were played.
    pub faults: Vec<Finding>,
    /// Downloads that brought another byte than the server sent.
    pub wrong: usize,
}

impl Report {
    /// Nothing was played yet.
    pub fn new(args: &ChaosArgs) -> Report {
        Report { seed: args.seed, seconds: args.seconds, limit: args.limit, faults: Vec::new(), wrong: 0 }
    }

    /// Whether the client got over everything.
    ///
    /// # Errors
    /// Over what it did not.
    pub fn verdict(&self) -> anyhow::Result<()> {
        let stuck = self.faults.iter().filter(|finding| !finding.recovered);
        let stuck: Vec<String> =
            stuck.map(|finding| format!("{} {}", finding.fault.name(), finding.at())).collect();
        if !stuck.is_empty() {
            bail!("the client did not recover within {} s from: {}", self.limit, stuck.join(", "));
        }
        if self.wrong > 0 {
            bail!("{} downloads brought wrong bytes", self.wrong);
        }
        Ok(())
    }
}

impl Finding {
    fn at(&self) -> String {
        let names = self.nodes.join("+");
        match self.part {
            Part::Guard => format!("{names} (guard)"),
            Part::Exit => format!("{names} (exit)"),
            Part::Authority | Part::Minority => names,
        }
    }

    fn row(&self) -> String {
        row([
            self.fault.name().to_owned(),
            self.at(),
            self.came.to_string(),
            self.failed.to_string(),
            seconds(Some(self.longest_gap_ms)),
            seconds(self.again_ms),
            (self.rate_before / 1_000).to_string(),
            (self.rate_during / 1_000).to_string(),
            self.long_breaks.to_string(),
        ])
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["fault", "at", "came", "failed", "gap", "again", "before", "during", "broke"];
        writeln!(f, "{}", row(head.map(str::to_owned)))?;
        for finding in &self.faults {
            writeln!(f, "{}", finding.row())?;
        }
        write!(
            f,
            "\ncame, failed   pieces of {} KiB, each over a stream of its own\n\
             gap            the longest time without one\n\
             again          from the fault to the first that was asked for later\n\
             before, during kB/s (pieces and the long download)\n\
             broke          how often the long download broke off\n\
             What brings nothing for {} s is given up and asked for anew.",
            PIECE_LEN >> 10,
            PATIENCE.as_secs()
        )?;
        for finding in &self.faults {
            for note in &finding.notes {
                f.write_str(&wrapped(&format!("{} {}: {note}", finding.fault.name(), finding.at())))?;
            }
        }
        Ok(())
    }
}

/// Columns of a terminal that are used.
const WIDTH: usize = 78;

fn row([fault, at, came, failed, gap, again, before, during, broke]: [String; 9]) -> String {
    format!(
        "{fault:<9} {at:<17} {came:>5} {failed:>6} {gap:>7} {again:>7} {before:>7} {during:>7} {broke:>5}"
    )
}

fn seconds(ms: Option<u64>) -> String {
    ms.map_or_else(|| "never".to_owned(), |ms| format!("{:.1} s", Duration::from_millis(ms).as_secs_f64()))
}

/// A paragraph after what is there, its words in lines.
fn wrapped(text: &str) -> String {
    let (mut lines, mut column) = ("\n\n".to_owned(), 0);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        let separator = match column {
            0 => "",
            _ if column + 1 + length > WIDTH => "\n  ",
            _ => " ",
        };
        column = if separator == "\n  " { 2 + length } else { column + separator.len() + length };
        let _ = write!(lines, "{separator}{word}");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        chaos: ChaosArgs,
    }

    fn finding(recovered: bool) -> Finding {
        Finding {
            fault: Kind::Partition,
            part: Part::Guard,
            nodes: vec!["relay1".to_owned()],
            came: 1_234,
            failed: 12,
            longest_gap_ms: 123_456,
            again_ms: recovered.then_some(800),
            again_after_end_ms: recovered.then_some(400),
            rate_before: 999_999_999,
            rate_during: 0,
            long_breaks: 3,
            recovered,
            notes: vec![
                "something was noticed, and it takes quite some words to say what exactly it was. ".repeat(2),
            ],
        }
    }

    fn report(recovered: bool) -> Report {
        let mut report = Report::new(&Cli::parse_from(["chaos", "--limit", "7"]).chaos);
        report.faults.push(finding(recovered));
        report
    }

    #[test]
    fn the_report_fits_a_terminal() {
        let text = report(true).to_string();
        let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(longest <= WIDTH, "{longest}: {text}");
        assert!(
            text.contains("relay1 (guard)") && text.contains("123.5 s") && text.contains("0.8 s"),
            "{text}"
        );
    }

    #[test]
    fn what_the_client_did_not_get_over_is_an_error() {
        report(true).verdict().unwrap();
        let error = report(false).verdict().unwrap_err().to_string();
        assert_eq!(error, "the client did not recover within 7 s from: partition relay1 (guard)");
        assert!(report(false).to_string().contains("never"));
        let wrong = Report { wrong: 1, ..report(true) };
        assert!(wrong.verdict().is_err());
    }
}
