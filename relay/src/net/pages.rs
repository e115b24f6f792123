//! What a relay shows beside its channels: an exit's notice.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tunic_net::daemon;

use super::notice;
use crate::config::Config;

/// Listeners that are open, and not served yet.
pub(super) struct Pages {
    notice: Option<TcpListener>,
}

impl Pages {
    /// Opens the listeners that the settings name. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// The one that could not be opened, and what to do about it.
    pub(super) fn bind(config: &Config) -> anyhow::Result<Self> {
        let is_exit = config.exit.effective_policy().is_exit();
        Ok(Pages { notice: listen(config.exit.notice.filter(|_| is_exit), "exit.notice")? })
    }

    /// Serves them in tasks of this set.
    pub(super) fn serve(self, config: &Config, tasks: &mut JoinSet<()>) {
        if let Some(listener) = self.notice {
            let contact = config.contact.clone();
            tasks.spawn(async move { notice::serve(listener, contact.as_deref()).await });
        }
    }
}

fn listen(at: Option<SocketAddr>, setting: &'static str) -> anyhow::Result<Option<TcpListener>> {
    let Some(at) = at else { return Ok(None) };
    let listener = daemon::bind(at, setting)?;
    listener.set_nonblocking(true).context("a listening socket cannot be used")?;
    TcpListener::from_std(listener).map(Some).context("a listening socket cannot be used")
}
