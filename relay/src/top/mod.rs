//! `tunic-relay top`: a running relay in a terminal.
//!
//! 1. `feed` reads samples from the relay's control socket, and connects again when the relay was started again.
//! 2. `state` is what is shown and what keys change of it; `screen` draws it.
//! 3. `terminal` has the terminal: it draws, takes keys, and leaves everything as it was, however it ends.

mod feed;
mod screen;
mod state;
mod terminal;
mod words;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use tunic_net::{config, daemon};

use crate::config::{Config, EXAMPLE};
use crate::net::control::control_path;

/// Samples that `--once` waits for: the first tells of no period.
const ONCE_SAMPLES: usize = 2;

/// What `tunic-relay top` may be told on the command line.
#[derive(Debug, Clone, Args)]
pub struct TopArgs {
    /// The configuration file of the relay, which says where its data directory is
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The control socket of the relay
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// Print one screen as text, and end
    #[arg(long)]
    once: bool,
}

/// Shows a running relay until q is pressed, or once.
///
/// # Errors
/// If no relay answers, or there is no terminal to draw in.
pub fn watch(arguments: &TopArgs) -> anyhow::Result<()> {
    let path = socket(arguments)?;
    let watching = async { if arguments.once { once(&path).await } else { terminal::run(&path).await } };
    daemon::run_to_end(watching).context("the runtime cannot be started")?
}

fn socket(arguments: &TopArgs) -> anyhow::Result<PathBuf> {
    if let Some(path) = &arguments.socket {
        return Ok(path.clone());
    }
    let settings = match &arguments.config {
        Some(file) => config::load(file, EXAMPLE)?,
        None => Config::default(),
    };
    Ok(control_path(&settings.data_dir))
}

async fn once(path: &Path) -> anyhow::Result<()> {
    let mut feed = feed::Feed::open(path).await?;
    let mut state = state::State::default();
    for _ in 0..ONCE_SAMPLES {
        state.take(feed.next().await?);
    }
    print!("{}", screen::as_text(&state, words::size_of_environment()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_in_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("relay.toml");
        std::fs::write(&file, "data_dir = \"/there\"").unwrap();
        let at = |config: Option<&Path>, given: Option<&str>| {
            let (config, given) = (config.map(Path::to_path_buf), given.map(PathBuf::from));
            socket(&TopArgs { config, socket: given, once: true }).unwrap()
        };
        assert_eq!(at(Some(&file), None), Path::new("/there/control.sock"));
        assert_eq!(at(None, Some("/x")), Path::new("/x"));
        assert_eq!(at(None, None), Path::new("/var/lib/tunic-relay/control.sock"));
    }
}
