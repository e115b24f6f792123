//! What a relay shows beside its channels: an exit's notice, metrics.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tunic_net::daemon::RunOptions;
use tunic_net::{http, metrics};

use super::metrics::Sources;
use super::notice;
use crate::config::Config;

/// Listeners that are open, and not served yet.
pub(super) struct Pages {
    notice: Option<TcpListener>,
    metrics: Option<TcpListener>,
}

impl Pages {
    /// Opens the listeners that the settings name. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// The one that could not be opened, and what to do about it.
    pub(super) fn bind(config: &Config, options: &RunOptions) -> anyhow::Result<Self> {
        let open = |at: SocketAddr, setting| match options.early.tcp(at)? {
            Some(listener) => Ok(TcpListener::from_std(listener)?),
            None => http::bind(at, setting),
        };
        Ok(Pages {
            notice: config.exit.notice.map(|at| open(at, "exit.notice")).transpose()?,
            metrics: config.metrics.listen.map(|at| open(at, "metrics.listen")).transpose()?,
        })
    }

    /// Serves them in tasks of this set.
    pub(super) fn serve(self, sources: Sources, tasks: &mut JoinSet<()>) {
        if let Some(listener) = self.notice {
            tasks.spawn(notice::serve(listener, sources.settings.clone()));
        }
        if let Some(listener) = self.metrics {
            let config = sources.settings.borrow().metrics.clone();
            tasks.spawn(metrics::serve(listener, config, move || sources.collect()));
        }
    }
}
