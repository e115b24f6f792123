//! The command line of `tunic-relay`.

use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::Context;
use clap::{Args, Subcommand};
use tunic_net::config::{self, ConfigError};
use tunic_net::daemon::command::{ConfigFile, Program};
use tunic_net::daemon::{self, Exit, RunOptions, unix_now};
use tunic_net::keyfile;
use tunic_net::keys::NodeKeys;
use tunic_proto::keys::OnionSecret;

use crate::check::{self, Finding, Weight};
use crate::config::{Config, EXAMPLE};
use crate::init::{self, Flags};
use crate::net::ask_network;
use crate::top::{self, TopArgs};

const PROGRAM: Program = Program {
    name: "tunic-relay",
    version: env!("CARGO_PKG_VERSION"),
    about: "A relay of the Tunic network",
    examples: "\
  tunic-relay init --config relay.toml            Answer a few questions; get a configuration and keys
  tunic-relay --print-config > relay.toml         Or start from the commented example
  tunic-relay check --config relay.toml           Look for what would keep the relay from working
  tunic-relay run --config relay.toml             Run until SIGINT or SIGTERM
  tunic-relay top --config relay.toml             Watch it run",
    config: EXAMPLE,
};

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay until SIGINT or SIGTERM
    Run(ConfigFile),
    /// Make the relay's keys if there are none, and print its identity
    Keygen(ConfigFile),
    /// Make a commented configuration and keys, asking for what is not given; overwrites nothing
    Init(Flags),
    /// Say what would keep the relay from working, and how to mend it
    Check(CheckArgs),
    /// Watch the running relay in this terminal: traffic, circuits, what costs most, what is amiss, the log
    Top(TopArgs),
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// Look at this machine only: ask neither authorities nor relays
    #[arg(long)]
    offline: bool,
}

/// Does what the command line says.
pub fn main() -> Exit {
    PROGRAM.main(|command| match command {
        Command::Run(file) => run_file(&file.config, RunOptions::default()).map(|()| Exit::Success),
        Command::Keygen(file) => keygen(&file.config).map(|()| Exit::Success),
        Command::Init(flags) => init(flags),
        Command::Check(arguments) => check(&arguments),
        Command::Top(arguments) => top::watch(&arguments).map(|()| Exit::Success),
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

fn init(flags: Flags) -> anyhow::Result<Exit> {
    let (mut stdin, mut stdout) = (std::io::stdin().lock(), std::io::stdout().lock());
    let asks = stdin.is_terminal() && !flags.no_questions;
    let flags = if asks { init::ask(flags, &mut stdin, &mut stdout)? } else { flags };
    let made = init::init(&flags)?;
    let file = flags.config.display();
    writeln!(stdout, "identity = \"{}\"\nmade: {file}, and the keys", made.identity)?;
    for problem in made.left {
        writeln!(stdout, "to do in {file}: {problem}")?;
    }
    writeln!(stdout, "next: tunic-relay check --config {file}")?;
    Ok(Exit::Success)
}

fn check(arguments: &CheckArgs) -> anyhow::Result<Exit> {
    let findings = match load(&arguments.file.config) {
        Ok(config) => findings(&config, arguments)?,
        Err(error) => vec![Finding::problem(Exit::Config, error.to_string())],
    };
    for finding in &findings {
        println!("{finding}");
    }
    match findings.first().map(|finding| finding.weight) {
        Some(Weight::Problem(exit)) => Ok(exit),
        _ => {
            println!("ok: the relay can run with this configuration");
            Ok(Exit::Success)
        }
    }
}

fn findings(config: &Config, arguments: &CheckArgs) -> anyhow::Result<Vec<Finding>> {
    let ports = check::ports(config);
    let low_ports = check::low_ports(config);
    if let Err(error) = check::become_relays_user(config) {
        let text = error.to_string();
        return Ok(vec![Finding::problem(Exit::of(&error.into()), text)]);
    }
    let mut found = check::findings(config, unix_now());
    found.extend(check::unless_it_runs(config, ports));
    found.extend(low_ports);
    found.extend(check::file(config, &arguments.file.config));
    let is_wrong =
        found.iter().any(|finding| matches!(finding.weight, Weight::Problem(Exit::Config | Exit::KeyFile)));
    if !(arguments.offline || is_wrong) {
        let own = NodeKeys::load(&config.key_dir(), unix_now()).ok().map(|keys| keys.signer.id());
        let asked = daemon::run_to_end(ask_network(config, own));
        found.extend(asked.context("the runtime cannot be started")?);
    }
    Ok(check::in_order(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        PROGRAM.command::<Command>().debug_assert();
    }
}
