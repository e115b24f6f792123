//! The command line of `tunic-directory`.

use std::path::Path;

use anyhow::Context;
use clap::Subcommand;
use tunic_net::daemon::command::{ConfigFile, Program};
use tunic_net::daemon::{self, Exit, RunOptions, unix_now};
use tunic_net::keys::NodeKeys;
use tunic_net::{config, keyfile};

use crate::config::{Config, EXAMPLE};

type Settings = daemon::watch::Receiver<Config>;

const PROGRAM: Program = Program {
    name: "tunic-directory",
    version: env!("CARGO_PKG_VERSION"),
    about: "A directory authority of the Tunic network",
    examples: "\
  tunic-directory --print-config > directory.toml   Start from the commented example
  tunic-directory keygen --config directory.toml    Make the keys, and print the lines for the other configurations
  tunic-directory run --config directory.toml       Run until SIGINT or SIGTERM",
    config: EXAMPLE,
};

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the authority until SIGINT or SIGTERM
    Run(ConfigFile),
    /// Make the authority's keys if there are none, and print the [[authority]] lines for the other configurations
    Keygen(ConfigFile),
}

/// Does what the command line says.
pub fn main() -> Exit {
    PROGRAM.main(|command| {
        match command {
            Command::Run(file) => run_file(&file.config, RunOptions::default())?,
            Command::Keygen(file) => keygen(&file.config)?,
        }
        Ok(Exit::Success)
    })
}

/// Runs an authority on this configuration file until a signal ends it.
///
/// # Errors
/// As [`crate::run`].
pub fn run_file(path: &Path, options: RunOptions) -> anyhow::Result<()> {
    daemon::run_file(path, options, |settings: Settings, options, end| {
        crate::run(settings.borrow().clone(), options, end)
    })
}

fn keygen(path: &Path) -> anyhow::Result<()> {
    let config: Config = config::load(path, EXAMPLE)?;
    keyfile::ensure_private_dir(&config.data_dir)?;
    let keys = NodeKeys::load_or_create(&config.key_dir(), unix_now())?;
    let onion_key = keys.onion.first().context("the key directory holds no onion key")?.public();
    print!("{}", config.authority_lines(keys.signer.id(), &onion_key.to_string()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        PROGRAM.command::<Command>().debug_assert();
    }
}
