//! The command line that all daemons have in common.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use super::Exit;

/// The exit codes, as `--help` and docs/operator.md tell them.
pub const EXIT_CODES: &str = "\
Exit codes:
   0  ended in order, or did what was asked
   1  failed; the last line says of what
   2  the command line makes no sense
  69  the address cannot be listened at
  77  a key file or state directory must not be used as it is
  78  the configuration is wrong

The environment variable TUNIC_LOG overrides the configured log level.";

/// What distinguishes one daemon's command line from another's.
pub struct Program {
    /// What it is called.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What it is, in one sentence.
    pub about: &'static str,
    /// Lines that begin with two spaces: command, then what it does.
    pub examples: &'static str,
    /// What `--print-config` prints.
    pub config: &'static str,
}

#[derive(Debug, Parser)]
#[command(arg_required_else_help = true, args_conflicts_with_subcommands = true)]
struct CommandLine<C: Subcommand> {
    /// Print the commented example configuration, which states the defaults
    #[arg(long)]
    print_config: bool,
    /// Print completions for this shell; for packages
    #[arg(long, hide = true, value_name = "SHELL", exclusive = true)]
    completions: Option<Shell>,
    /// Write the manual pages into this directory; for packages
    #[arg(long, hide = true, value_name = "DIR", exclusive = true)]
    man: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<C>,
}

/// The argument that names the configuration.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

impl Program {
    /// The command line as clap knows it.
    pub fn command<C: Subcommand>(&self) -> clap::Command {
        CommandLine::<C>::command()
            .name(self.name)
            .version(self.version)
            .about(self.about)
            .after_help(format!("Examples:\n{}\n\n{EXIT_CODES}", self.examples.trim_end()))
    }

    /// Does what the process's command line says; `act` does what is the daemon's own.
    pub fn main<C: Subcommand>(&self, act: impl FnOnce(C) -> anyhow::Result<Exit>) -> Exit {
        self.main_from(std::env::args_os(), act)
    }

    /// As [`Program::main`], with other arguments; the first is the program's name.
    pub fn main_from<C: Subcommand>(
        &self,
        arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
        act: impl FnOnce(C) -> anyhow::Result<Exit>,
    ) -> Exit {
        let matches = self.command::<C>().try_get_matches_from(arguments);
        let line = match matches.and_then(|matches| CommandLine::from_arg_matches(&matches)) {
            Ok(line) => line,
            Err(error) => {
                let _ = error.print();
                return if error.use_stderr() { Exit::Usage } else { Exit::Success };
            }
        };
        let outcome = match line {
            CommandLine { command: Some(command), .. } => act(command),
            CommandLine { completions: Some(shell), .. } => print(&self.completions::<C>(shell)),
            CommandLine { man: Some(dir), .. } => self.man::<C>(&dir).map(|()| Exit::Success),
            CommandLine { .. } => print(self.config.as_bytes()),
        };
        outcome.unwrap_or_else(|error| {
            eprintln!("{}: {error:#}", self.name);
            Exit::of(&error)
        })
    }

    fn completions<C: Subcommand>(&self, shell: Shell) -> Vec<u8> {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut self.command::<C>(), self.name, &mut script);
        script
    }

    /// One page for the daemon and one for each of its commands.
    fn man<C: Subcommand>(&self, dir: &Path) -> anyhow::Result<()> {
        let command = self.command::<C>().disable_help_subcommand(true);
        clap_mangen::generate_to(command, dir)
            .with_context(|| format!("the manual pages cannot be written to {}", dir.display()))
    }
}

fn print(text: &[u8]) -> anyhow::Result<Exit> {
    std::io::stdout().write_all(text).context("cannot write to stdout")?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Subcommand)]
    enum Command {
        /// Run
        Run(ConfigFile),
    }

    const PROGRAM: Program = Program {
        name: "tunic-test",
        version: "1",
        about: "A test",
        examples: "  tunic-test run --config FILE",
        config: "",
    };

    #[track_caller]
    fn check(arguments: &[&str], expect: Exit) {
        let arguments = [&["tunic-test"], arguments].concat();
        let exit = PROGRAM.main_from(arguments, |Command::Run(file)| {
            assert_eq!(file.config, PathBuf::from("x.toml"));
            anyhow::bail!("it fails")
        });
        assert_eq!(exit, expect);
    }

    #[test]
    fn the_command_line_decides() {
        PROGRAM.command::<Command>().debug_assert();
        check(&["run", "--config", "x.toml"], Exit::Failure);
        check(&["--print-config"], Exit::Success);
        check(&["--help"], Exit::Success);
        check(&["--completions", "bash"], Exit::Success);
        for bad in [&["run"][..], &["run", "x.toml"], &["fly"], &[], &["--print-config", "run"]] {
            check(bad, Exit::Usage);
        }
    }

    #[test]
    fn packages_get_manual_pages_and_completions() {
        let dir = tempfile::tempdir().unwrap();
        PROGRAM.man::<Command>(dir.path()).unwrap();
        let page = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(
            page("tunic-test.1").contains("Exit codes") && page("tunic-test-run.1").contains("\\-\\-config")
        );
        assert!(!page("tunic-test.1").contains("completions"), "what is for packages only is not shown");
        for (shell, word) in
            [(Shell::Bash, "complete"), (Shell::Zsh, "#compdef"), (Shell::Fish, "complete -c")]
        {
            let script = String::from_utf8(PROGRAM.completions::<Command>(shell)).unwrap();
            assert!(script.contains(word) && script.contains("tunic-test"), "{shell}: {script}");
        }
    }
}
