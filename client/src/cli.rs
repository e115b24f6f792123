//! The command line of `tunic-client`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use tunic_net::daemon::command::{ConfigFile, Program};
use tunic_net::daemon::{self, Exit, RunOptions};

use crate::config::{Config, EXAMPLE};
use crate::ctl::{self, Question};

type Settings = daemon::watch::Receiver<Config>;

const PROGRAM: Program = Program {
    name: "tunic-client",
    version: env!("CARGO_PKG_VERSION"),
    about: "Reaches the internet through three relays, by a port on this machine that speaks SOCKS5, SOCKS4a and HTTP (and DNS at another)",
    examples: "\
  tunic-client --print-config > client.toml       Start from the commented example
  tunic-client run --config client.toml           Run until Ctrl-C
  tunic-client status --config client.toml        How it is; also: circuits, explain, new-identity
  curl --socks5-hostname 127.0.0.1:9150 https://example.com/",
    config: EXAMPLE,
};

#[derive(Debug, Subcommand)]
enum Command {
    /// Open the port for programs and run until SIGINT or SIGTERM
    Run(ConfigFile),
    /// Say how the running client is
    Status(AskArgs),
    /// Show the circuits of the running client hop by hop, and their streams
    Circuits(CircuitsArgs),
    /// Say in words what is wrong, what failed lately and at which relay, and what to do
    Explain(AskArgs),
    /// End every circuit: open streams break, and what comes next goes over new circuits
    NewIdentity(AskArgs),
}

#[derive(Debug, Args)]
struct AskArgs {
    /// The configuration file of the client to ask, which says where its state directory is
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The control socket of the client to ask
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// Print what the client answers, as JSON (docs/client-api.md)
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct CircuitsArgs {
    #[command(flatten)]
    ask: AskArgs,
    /// Say also where the streams lead
    #[arg(long)]
    destinations: bool,
}

/// Does what the command line says.
pub fn main() -> Exit {
    PROGRAM.main(act)
}

fn act(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Run(file) => run_file(&file.config, RunOptions::default())?,
        Command::Status(args) => ask(args, Question::Status)?,
        Command::Circuits(CircuitsArgs { ask: args, destinations }) => {
            ask(args, Question::Circuits { destinations })?;
        }
        Command::Explain(args) => ask(args, Question::Explain)?,
        Command::NewIdentity(args) => ask(args, Question::NewIdentity)?,
    }
    Ok(Exit::Success)
}

fn ask(args: AskArgs, question: Question) -> anyhow::Result<()> {
    let socket = ctl::socket(args.socket, args.config.as_deref())?;
    let said = ctl::ask(&socket, question, args.json)?;
    std::io::stdout().write_all(said.as_bytes()).context("cannot write to stdout")
}

/// Runs a client on this configuration file until a signal ends it.
///
/// # Errors
/// As [`crate::run`].
pub fn run_file(path: &Path, options: RunOptions) -> anyhow::Result<()> {
    daemon::run_file(path, options, |settings: Settings, options, end| {
        let mut config = settings.borrow().clone();
        // What embeds the client does not take its own service's directory for the client's.
        config.state_dir = daemon::Settings::state_dir(&config).ok();
        crate::run(config, options, end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        PROGRAM.command::<Command>().debug_assert();
    }

    #[test]
    fn whom_to_ask_is_said_once() {
        let parse = |line: &[&str]| {
            PROGRAM.command::<Command>().try_get_matches_from([&["tunic-client"], line].concat())
        };
        for line in
            [&["circuits", "--destinations", "--json"][..], &["new-identity"], &["explain", "--socket", "a"]]
        {
            assert!(parse(line).is_ok(), "{line:?}");
        }
        for line in [&["status", "--config", "a", "--socket", "b"][..], &["status", "--destinations"]] {
            assert!(parse(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_wrong_configuration_has_its_exit_code() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("client.toml");
        let run = || {
            let arguments = ["tunic-client", "run", "--config"].map(std::ffi::OsString::from);
            PROGRAM.main_from(arguments.into_iter().chain([file.clone().into()]), act)
        };
        assert_eq!(run(), Exit::Config, "missing");
        std::fs::write(&file, "sock = 1").unwrap();
        assert_eq!(run(), Exit::Config, "unknown key");
        std::fs::write(&file, "socks = \"127.0.0.1:0\"").unwrap();
        assert_eq!(run(), Exit::Config, "no authority");
    }
}
