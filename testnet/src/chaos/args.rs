//! What is asked of `chaos`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, value_parser};

use super::faults::{Fault, Kind};

/// Lines of the help.
pub const EXAMPLES: &str = "\
Examples:
  tunic-testnet chaos                                   every fault, about seven minutes
  tunic-testnet chaos --only kill,pause --seconds 5     does it work?
  tunic-testnet chaos --json --seed 7                   for scripts

Needs root and iproute2. Ends with exit code 1 if after some fault the client did not recover by itself.";

/// The command line of `chaos`.
#[derive(Debug, Clone, Args)]
pub struct ChaosArgs {
    /// Kinds of faults to play
    #[arg(long, value_name = "FAULT,…", value_delimiter = ',')]
    pub only: Vec<Kind>,
    /// How long to measure before each fault, and how long it lasts
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
    /// How long the client may take to download again
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = value_parser!(u64).range(1..=3_600))]
    pub limit: u64,
    /// Makes all keys and all that is downloaded from this number
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Keep keys, configurations and logs in this folder, which must be new or empty
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The report as one line of JSON
    #[arg(long)]
    pub json: bool,
}

impl ChaosArgs {
    /// What is played, in order.
    pub fn faults(&self) -> Vec<Fault> {
        let wanted = |fault: &Fault| self.only.is_empty() || self.only.contains(&fault.kind);
        Fault::ALL.into_iter().filter(wanted).collect()
    }

    /// How long a fault lasts at least.
    pub fn lasts(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// How long the client may take to recover.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.limit)
    }
}
