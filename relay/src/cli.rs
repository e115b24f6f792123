//! The command line of `tunic-relay`.

use std::path::Path;

use clap::Subcommand;
use tunic_net::config::{self, ConfigError};
use tunic_net::daemon::command::{ConfigFile, Program};
use tunic_net::daemon::{self, Exit, RunOptions, unix_now};
use tunic_net::keyfile;
use tunic_net::keys::NodeKeys;
use tunic_proto::keys::OnionSecret;

use crate::check;
use crate::config::{Config, EXAMPLE};

const PROGRAM: Program = Program {
    name: "tunic-relay",
    version: env!("CARGO_PKG_VERSION"),
    about: "A relay of the Tunic network",
    examples: "\
  tunic-relay --print-config > relay.toml         Start from the commented example
  tunic-relay keygen --config relay.toml          Make the keys, and print the relay's identity
  tunic-relay check --config relay.toml           Look for what would keep the relay from working
  tunic-relay run --config relay.toml             Run until SIGINT or SIGTERM",
    config: EXAMPLE,
};

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay until SIGINT or SIGTERM
    Run(ConfigFile),
    /// Make the relay's keys if there are none, and print its identity
    Keygen(ConfigFile),
    /// Say what would keep the relay from working, and how to mend it
    Check(ConfigFile),
}

/// Does what the command line says.
pub fn main() -> Exit {
    PROGRAM.main(|command| match command {
        Command::Run(file) => run_file(&file.config, RunOptions::default()).map(|()| Exit::Success),
        Command::Keygen(file) => keygen(&file.config).map(|()| Exit::Success),
        Command::Check(file) => Ok(check(&file.config)),
    })
}

/// Runs a relay on this configuration file until a signal ends it.
///
/// # Errors
/// As [`crate::run`].
pub fn run_file(path: &Path, options: RunOptions) -> anyhow::Result<()> {
    daemon::run_file(path, options, crate::net::run_with)
}

fn load(path: &Path) -> Result<Config, ConfigError> {
    config::load(path, EXAMPLE)
}

fn keygen(path: &Path) -> anyhow::Result<()> {
    let config = load(path)?;
    keyfile::ensure_private_dir(&config.data_dir)?;
    let keys = NodeKeys::load_or_create(&config.key_dir(), unix_now())?;
    println!("identity = \"{}\"", keys.signer.id());
    if let Some(onion_key) = keys.onion.first().map(OnionSecret::public) {
        println!("onion_key = \"{onion_key}\"");
    }
    Ok(())
}

fn check(path: &Path) -> Exit {
    let findings = match load(path) {
        Ok(config) => check::findings(&config, unix_now()),
        Err(error) => vec![check::Finding { exit: Exit::Config, text: error.to_string() }],
    };
    for finding in &findings {
        println!("problem: {}", finding.text);
    }
    match findings.first() {
        Some(first) => first.exit,
        None => {
            println!("ok: the relay can run with this configuration");
            Exit::Success
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        PROGRAM.command::<Command>().debug_assert();
    }
}
