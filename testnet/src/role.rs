//! The hidden subcommand `role`: this process is one node of a network that another process of this program started.
//!
//! It reads an ordinary configuration and runs the ordinary role. Special are only its ends: a socket that comes bound
//! as stdin, reports as JSON lines on stdout, and death together with the parent.

use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tunic_net::daemon::{Exit, RunOptions, Status, dangerously_shift_clock_for_testing_only};

use crate::launch::place::Namespace;

#[derive(Debug, Args)]
pub(crate) struct RoleArgs {
    /// What to be
    role: RoleName,
    /// Its configuration
    #[arg(long)]
    config: PathBuf,
    /// The process that started this one
    #[arg(long)]
    parent: i32,
    /// The network namespace to be in
    #[arg(long)]
    netns: Option<Namespace>,
    /// How wrong its clock shall be
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    clock_offset_s: i64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    Directory,
    Relay,
    Client,
}

pub(crate) fn run(args: RoleArgs) -> Exit {
    dangerously_shift_clock_for_testing_only(args.clock_offset_s);
    // Before there is any other thread, which would stay behind.
    let moved = args.netns.as_ref().map_or(Ok(()), Namespace::enter);
    match moved.and_then(|()| die_with_parent(args.parent)).and_then(|()| run_role(args)) {
        Ok(()) => Exit::Success,
        Err(error) => {
            eprintln!("error: {error:#}");
            Exit::of(&error)
        }
    }
}

fn die_with_parent(parent: i32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot follow the parent")?;
    // It may have died before the kernel was asked.
    if getppid() != Pid::from_raw(parent) {
        bail!("the process that started this one has gone");
    }
    Ok(())
}

fn run_role(args: RoleArgs) -> anyhow::Result<()> {
    let options = RunOptions {
        listener: Some(Arc::new(inherited_listener()?)),
        status: Some(Arc::new(report)),
        ..RunOptions::default()
    };
    let run = match args.role {
        RoleName::Directory => tunic_directory::cli::run_file,
        RoleName::Relay => tunic_relay::cli::run_file,
        RoleName::Client => tunic_client::cli::run_file,
    };
    run(&args.config, options)
}

/// The parent bound the socket and passed it as stdin.
fn inherited_listener() -> anyhow::Result<TcpListener> {
    let socket = io::stdin().as_fd().try_clone_to_owned().context("no socket was passed")?;
    let listener = TcpListener::from(socket);
    listener.local_addr().context("stdin is no socket; `role` is started by `up`, not by hand")?;
    Ok(listener)
}

fn report(status: Status) {
    let Ok(line) = serde_json::to_string(&status) else { return };
    // The parent may be about to end this process and read no more.
    let _ = writeln!(io::stdout(), "{line}");
}
