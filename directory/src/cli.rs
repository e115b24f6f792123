//! The command line of `tunic-directory`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tunic_net::config::{self, ConfigError};
use tunic_net::daemon::{Exit, RunOptions, run_to_end, shutdown_signal, unix_now};
use tunic_net::keys::NodeKeys;
use tunic_net::{keyfile, telemetry};

use crate::config::{Config, EXAMPLE};

const AFTER_HELP: &str = "\
Examples:
  tunic-directory --print-config > directory.toml      Start from the commented example
  tunic-directory keygen --config directory.toml       Make the keys, and print the lines for the other configurations
  tunic-directory run --config directory.toml          Run until SIGINT or SIGTERM

Exit codes: 0 done, 1 failed, 2 wrong command line, 69 address not available, 77 key files not usable, 78 wrong
configuration. The environment variable TUNIC_LOG overrides the configured log level.";

#[derive(Debug, Parser)]
#[command(
    name = "tunic-directory",
    version,
    about = "A directory authority of the Tunic network",
    after_help = AFTER_HELP,
    arg_required_else_help = true
)]
struct CommandLine {
    /// Print the commented example configuration, which states the defaults
    #[arg(long)]
    print_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the authority until SIGINT or SIGTERM
    Run(ConfigFile),
    /// Make the authority's keys if there are none, and print the [[authority]] lines for the other configurations
    Keygen(ConfigFile),
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Does what the command line says.
pub fn main() -> Exit {
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Success };
        }
    };
    if command_line.print_config {
        print!("{EXAMPLE}");
        return Exit::Success;
    }
    let outcome = match command_line.command {
        Some(Command::Run(file)) => run(&file.config),
        Some(Command::Keygen(file)) => keygen(&file.config),
        None => return Exit::Usage,
    };
    match outcome {
        Ok(()) => Exit::Success,
        Err(error) => {
            eprintln!("tunic-directory: {error:#}");
            Exit::of(&error)
        }
    }
}

fn load(path: &Path) -> Result<Config, ConfigError> {
    config::load(path, EXAMPLE)
}

fn run(path: &Path) -> anyhow::Result<()> {
    let config = load(path)?;
    telemetry::init(&config.log);
    run_to_end(async { crate::run(config, RunOptions::default(), shutdown_signal()).await })
        .context("the runtime cannot be started")?
}

fn keygen(path: &Path) -> anyhow::Result<()> {
    let config = load(path)?;
    keyfile::ensure_private_dir(&config.data_dir)?;
    let keys = NodeKeys::load_or_create(&config.key_dir(), unix_now())?;
    let onion_key = keys.onion.first().context("the key directory holds no onion key")?.public();
    print!("{}", config.authority_lines(keys.signer.id(), &onion_key.to_string()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn commands_need_a_configuration() {
        let parse = |args: &[&str]| CommandLine::try_parse_from([&["tunic-directory"], args].concat());
        assert!(parse(&["run", "--config", "directory.toml"]).is_ok());
        assert!(parse(&["--print-config"]).unwrap().print_config);
        for bad in [&["run"][..], &["keygen", "directory.toml"], &["vote"], &[]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
