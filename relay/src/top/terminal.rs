//! The terminal, from taking it over to giving it back.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tunic_net::daemon::shutdown_signal;

use super::feed::Feed;
use super::screen::draw;
use super::state::State;
use crate::core::top::Sample;

/// Keys and samples that may wait to be shown.
const MAX_WAITING: usize = 16;
/// Pause before a relay that has gone is called again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the thread that waits for keys waits before it looks whether it is still wanted.
const KEY_WAIT: Duration = Duration::from_millis(200);

/// Shows the relay with this control socket until q is pressed or a signal comes.
pub(super) async fn run(path: &Path) -> anyhow::Result<()> {
    if !std::io::stdout().is_terminal() {
        bail!("this is no terminal; --once prints one screen as text");
    }
    // Who names the wrong relay is told so before the screen changes.
    let feed = Feed::open(path).await?;
    let ordered = shutdown_signal();
    // It also has panics give the terminal back.
    let mut terminal = ratatui::try_init().context("the terminal cannot be drawn in")?;
    let shown = tokio::select! {
        shown = show(&mut terminal, feed, path) => shown,
        () = ordered => Ok(()),
    };
    ratatui::restore();
    shown
}

async fn show(terminal: &mut DefaultTerminal, feed: Feed, path: &Path) -> anyhow::Result<()> {
    let (mut samples, mut events) = (follow(feed, path.to_path_buf()), events());
    let mut state = State::default();
    loop {
        terminal.draw(|frame| draw(frame, &state)).context("the terminal cannot be drawn in")?;
        tokio::select! {
            event = events.recv() => match event {
                Some(Event::Key(key)) if !state.press(key) => return Ok(()),
                // Also when the size has changed: drawing asks for it.
                Some(_) => {}
                None => bail!("the terminal is gone"),
            },
            sample = samples.recv() => match sample {
                Some(Ok(sample)) => state.take(sample),
                Some(Err(problem)) => state.problem = Some(problem),
                None => bail!("nobody follows the relay any more"),
            },
        }
    }
}

/// Samples, or why there are none; a relay that has gone is called again.
fn follow(mut feed: Feed, path: PathBuf) -> mpsc::Receiver<Result<Sample, String>> {
    let (tell, told) = mpsc::channel(MAX_WAITING);
    tokio::spawn(async move {
        loop {
            let next = feed.next().await.map_err(|error| format!("{error:#}"));
            let is_gone = next.is_err();
            if tell.send(next).await.is_err() {
                return;
            }
            if is_gone {
                sleep(AGAIN).await;
                match Feed::open(&path).await {
                    Ok(again) => feed = again,
                    Err(_) => continue,
                }
            }
        }
    });
    told
}

/// What happens at the terminal. A thread of its own waits for it, as the system offers no other way.
fn events() -> mpsc::Receiver<Event> {
    let (tell, told) = mpsc::channel(MAX_WAITING);
    std::thread::spawn(move || {
        while !tell.is_closed() {
            match event::poll(KEY_WAIT) {
                Ok(false) => {}
                Ok(true) => {
                    let Ok(event) = event::read() else { return };
                    if tell.blocking_send(event).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    });
    told
}
