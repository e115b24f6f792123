//! Fetches the consensus, when [`FetchSchedule`] says so.

use std::sync::Arc;
use std::time::Duration;

use rand::seq::SliceRandom;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tunic_net::channel::{Node, Rest};
use tunic_net::daemon::{RunOptions, Status, unix_now};
use tunic_proto::dir::{Accepted, DirError, Request, Response};
use tunic_proto::padding::Limits;
use tunic_proto::time::UnixTime;

use super::authorities::Authorities;
use super::view::SharedView;
use super::{clock, system_rng};
use crate::core::fetch::{FetchSchedule, Lifetime};
use crate::padding::PaddingConfig;

/// After this long without a consensus the operator is told.
const PATIENCE: Duration = Duration::from_secs(60);

/// Keeps the relay's view of the network up to date.
pub struct Fetcher {
    /// Whom to ask.
    pub authorities: Arc<Authorities>,
    /// Whose limits follow the consensus.
    pub node: Node,
    /// What is kept up to date.
    pub view: Arc<SharedView>,
    /// Notified when a new consensus does not list this relay, so that the authorities are told of it again.
    pub unlisted: Arc<Notify>,
    /// What the operator gives in padding, and the limits that follow from it and from the consensus.
    pub padding: (PaddingConfig, Arc<Limits>),
    /// Who wants to know when there is a consensus.
    pub options: RunOptions,
}

impl Fetcher {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let mut schedule = FetchSchedule::default();
        let mut patience = Some(clock() + PATIENCE);
        loop {
            let now = unix_now();
            let delay = schedule.next_delay(self.lifetime(now), now, &mut system_rng());
            tokio::time::sleep(delay).await;
            self.fetch().await;
            // Who sleeps reaches nobody, and has said so.
            if self.lifetime(unix_now()).is_some() || self.node.admission().rest() == Rest::NoChannels {
                patience = Some(clock() + PATIENCE);
            } else if patience.is_some_and(|patience| patience < clock()) {
                patience = None;
                tracing::warn!(
                    "there is no valid consensus, so circuits cannot be extended here. Is the network up, and is this \
                     machine's clock right?"
                );
            }
        }
    }

    fn lifetime(&self, now: UnixTime) -> Option<Lifetime> {
        let view = self.view.read();
        let current = view.current(now)?;
        Some(Lifetime { valid_after: current.valid_after, fresh_until: current.fresh_until })
    }

    /// Asks the authorities in random order until one has a newer consensus.
    async fn fetch(&self) {
        let mut order: Vec<usize> = (0..self.authorities.count()).collect();
        order.shuffle(&mut system_rng());
        for index in order {
            let have = self.lifetime(unix_now()).map_or(UnixTime(0), |current| current.valid_after);
            match self.authorities.ask(index, &Request::GetConsensus { have }).await {
                Ok(Response::Ok(bytes)) => match self.accept(bytes).await {
                    Ok(Accepted::Replaced) => return self.announce(),
                    Ok(Accepted::Unchanged) => {}
                    Err(error) => tracing::debug!("an authority's consensus is not used: {error}"),
                },
                Ok(_) => {}
                Err(error) => tracing::debug!("an authority could not be asked: {error:#}"),
            }
        }
    }

    async fn accept(&self, bytes: Arc<[u8]>) -> Result<Accepted, DirError> {
        let view = Arc::clone(&self.view);
        let accept = move || {
            let accepted = view.handle_consensus(&bytes, unix_now())?;
            if accepted == Accepted::Replaced
                && let Err(error) = view.store(&bytes)
            {
                tracing::warn!("the consensus could not be stored: {error}");
            }
            Ok(accepted)
        };
        spawn_blocking(accept).await.unwrap_or(Err(DirError::Malformed("the check did not finish")))
    }

    fn announce(&self) {
        let (view, now) = (self.view.read(), unix_now());
        let Some(consensus) = view.current(now) else { return };
        let (config, limits) = &self.padding;
        limits.set(config.limits(&consensus.params));
        let relays = consensus.relays.len();
        self.node.limits().set_consensus(&consensus.params);
        tracing::info!("consensus fetched: {relays} relays");
        self.options.tell(Status::Consensus { relays });
        if !view.lists_own(now) {
            tracing::debug!("the consensus does not list this relay; the authorities are told of it again");
            self.unlisted.notify_one();
        }
    }
}
