//! The command line of `tunic-client`.

use std::path::Path;

use clap::Subcommand;
use tunic_net::daemon::command::{ConfigFile, Program};
use tunic_net::daemon::{self, Exit, RunOptions};

use crate::config::EXAMPLE;

const PROGRAM: Program = Program {
    name: "tunic-client",
    version: env!("CARGO_PKG_VERSION"),
    about: "Reaches the internet through three relays, by a port on this machine that speaks SOCKS5, SOCKS4a and HTTP (and DNS at another)",
    examples: "\
  tunic-client --print-config > client.toml       Start from the commented example
  tunic-client run --config client.toml           Run until Ctrl-C
  curl --socks5-hostname 127.0.0.1:9150 https://example.com/",
    config: EXAMPLE,
};

#[derive(Debug, Subcommand)]
enum Command {
    /// Open the port for programs and run until SIGINT or SIGTERM
    Run(ConfigFile),
}

/// Does what the command line says.
pub fn main() -> Exit {
    PROGRAM.main(act)
}

fn act(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Run(file) => run_file(&file.config, RunOptions::default())?,
    }
    Ok(Exit::Success)
}

/// Runs a client on this configuration file until a signal ends it.
///
/// # Errors
/// As [`crate::run`].
pub fn run_file(path: &Path, options: RunOptions) -> anyhow::Result<()> {
    daemon::run_file(path, options, crate::run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        PROGRAM.command::<Command>().debug_assert();
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
