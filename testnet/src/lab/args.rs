//! What the lab is asked to measure.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use toml::{Table, Value};

use super::load::Windows;
use super::wires::Line;

/// Lines of the help.
pub const EXAMPLES: &str = "\
Examples:
  tunic-testnet lab --smoke                                  does it work? Seconds, no figures
  tunic-testnet lab --class off --out ./lab                  one class, both lines: about five minutes
  tunic-testnet lab --class off,reduced,normal,adaptive,constant --out ./lab
  tunic-testnet lab --class machine:front,machine:tamaraw --link unlimited --out ./lab
  tunic-testnet lab --class machine:tunic:22+5+60 --window 3000,5000 --out ./lab   other figures, and a longer look

Writes for each class and line CLASS-LINE.json into the folder, and over all of them table.md and plots. Needs root,
iproute2 and python3 with venv; the classifiers' packages (testnet/lab/requirements.txt) are installed into target/lab-venv.";

/// Visits of each site that figures need.
const VISITS: usize = 30;
/// Visits of each site that show that everything works.
const SMOKE_VISITS: usize = 4;

/// The command line of `lab`.
#[derive(Debug, Clone, Args)]
pub struct LabArgs {
    /// Classes of padding, one run each; `machine:front` and the like for other machines than that of `adaptive`, and
    /// `machine:front:500+900` for other figures than the usual
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_value = "off")]
    pub class: Vec<String>,
    /// Lines of the clients; all are measured at the same time, with clients of their own
    #[arg(long, value_name = "LINE,…", value_delimiter = ',', default_values = ["unlimited", "10mbit"])]
    pub link: Vec<Line>,
    /// The seed of sites and visits
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Visits of each site
    #[arg(long, value_name = "N", default_value_t = VISITS)]
    pub visits: usize,
    /// Milliseconds that are looked at of a visit, from its beginning on; results for each. Rounds last as long as the longest
    #[arg(long, value_name = "MS,…", value_delimiter = ',', default_values_t = [3_000], value_parser = clap::value_parser!(u64).range(500..=60_000))]
    pub window: Vec<u64>,
    /// Where results go; what is there of the same name is replaced
    #[arg(long, value_name = "DIR", default_value = "lab-results")]
    pub out: PathBuf,
    /// Keep the traces and what really happened beside the results
    #[arg(long)]
    pub keep_traces: bool,
    /// A Python that has the packages of testnet/lab/requirements.txt, instead of making one
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// A few seconds of load, to see that everything works
    #[arg(long)]
    pub smoke: bool,
}

impl LabArgs {
    /// Visits of each site in this run.
    pub fn visits_per_site(&self) -> usize {
        if self.smoke { SMOKE_VISITS } else { self.visits }
    }

    /// How long what is looked at lasts.
    pub fn windows(&self) -> Windows {
        let idle_ms = if self.smoke { 1_000 } else { 2_000 };
        let visit_ms = self.windows_ms().into_iter().max().unwrap_or_default();
        Windows { idle: Duration::from_millis(idle_ms), visit: Duration::from_millis(visit_ms) }
    }

    /// What the classifiers are shown of a visit.
    pub fn windows_ms(&self) -> Vec<u64> {
        if self.smoke { vec![2_500] } else { self.window.clone() }
    }
}

/// Before the name of a machine that is measured in place of the class's own.
const MACHINE: &str = "machine:";
/// The share that these machines may use, in percent; what they were published with is not limited to less.
const MACHINE_PERCENT: i64 = 400;

/// The client's settings for a class, or for `machine:`, a machine and maybe its first figures.
///
/// # Errors
/// If a figure is none.
pub fn settings(class: &str) -> anyhow::Result<Table> {
    let padding = match class.strip_prefix(MACHINE) {
        None => Value::String(class.to_owned()),
        Some(machine) => {
            let (machine, figures) = machine.split_once(':').unwrap_or((machine, ""));
            let figures = figures.split('+').filter(|figure| !figure.is_empty()).map(str::parse::<i64>);
            let figures = figures.collect::<Result<Vec<_>, _>>().context("not the figures of a machine")?;
            Value::Table(Table::from_iter([
                ("class".to_owned(), Value::from("adaptive")),
                ("machine".to_owned(), Value::from(machine)),
                ("machine_percent".to_owned(), Value::from(MACHINE_PERCENT)),
                ("machine_parameters".to_owned(), Value::from(figures)),
            ]))
        }
    };
    Ok(Table::from_iter([("padding".to_owned(), padding)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_may_have_figures_of_its_own() {
        let padding = |class: &str| settings(class).unwrap()["padding"].clone();
        assert_eq!(padding("normal"), Value::from("normal"));
        assert_eq!(padding("machine:front")["machine_parameters"], Value::Array(vec![]));
        let given = padding("machine:tunic:22+5");
        assert_eq!(given["machine"], Value::from("tunic"));
        assert_eq!(given["machine_parameters"], Value::from(vec![22, 5]));
        assert!(settings("machine:tunic:fast").is_err());
    }
}
