//! The command line of `tunic-client`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use tunic_net::daemon::{Exit, RunOptions, run_to_end, shutdown_signal};
use tunic_net::{config, telemetry};

use crate::config::{Config, EXAMPLE};

#[derive(Parser)]
#[command(
    name = "tunic-client",
    version,
    about = "Reaches the internet through three relays, by a SOCKS5 port on this machine",
    after_help = "Examples:\n  \
        tunic-client --print-config > client.toml    every setting, explained\n  \
        tunic-client run --config client.toml        until Ctrl-C\n  \
        curl --socks5-hostname 127.0.0.1:9150 https://example.com/\n\n\
        Exit codes: 0 ended as asked, 1 failed, 2 wrong usage, 69 the port is taken,\n\
        77 the state directory must not be used, 78 the configuration is wrong.",
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    /// Print the commented example configuration and exit
    #[arg(long)]
    print_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Open the SOCKS5 port and run until SIGINT or SIGTERM
    #[command(after_help = "Example:\n  tunic-client run --config client.toml")]
    Run(RunArgs),
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct RunArgs {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the commented example configuration and exit
    #[arg(long)]
    print_config: bool,
}

/// Runs the program with the arguments of the process.
pub fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Success };
        }
    };
    match cli.command {
        Some(Command::Run(RunArgs { config: Some(file), .. })) => finish(run_file(&file)),
        _ => finish(std::io::stdout().write_all(EXAMPLE.as_bytes()).context("cannot write to stdout")),
    }
}

fn finish(result: anyhow::Result<()>) -> Exit {
    match result {
        Ok(()) => Exit::Success,
        Err(error) => {
            eprintln!("tunic-client: {error:#}");
            Exit::of(&error)
        }
    }
}

fn run_file(file: &Path) -> anyhow::Result<()> {
    let config: Config = config::load(file, EXAMPLE)?;
    telemetry::init(&config.log);
    run_to_end(async { crate::run(config, RunOptions::default(), shutdown_signal()).await })
        .context("the runtime cannot be started")?
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn both_ways_to_ask_for_the_example_work() {
        for line in [&["tunic-client", "--print-config"][..], &["tunic-client", "run", "--print-config"]] {
            Cli::try_parse_from(line).unwrap();
        }
        for line in [
            &["tunic-client"][..],
            &["tunic-client", "run"],
            &["tunic-client", "run", "--config", "a", "--print-config"],
        ] {
            assert!(Cli::try_parse_from(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_wrong_configuration_has_its_exit_code() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("client.toml");
        assert_eq!(finish(run_file(&file)), Exit::Config, "missing");
        std::fs::write(&file, "sock = 1").unwrap();
        assert_eq!(finish(run_file(&file)), Exit::Config, "unknown key");
        std::fs::write(&file, "socks = \"127.0.0.1:0\"").unwrap();
        assert_eq!(finish(run_file(&file)), Exit::Config, "no authority");
    }
}
