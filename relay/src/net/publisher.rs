//! Hands the relay's descriptor to the authorities, when [`PublishSchedule`] says so.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tunic_net::channel::{Node, Rest};
use tunic_net::daemon::{RunOptions, Status, unix_now};
use tunic_proto::dir::{DirError, Request, Response};

use super::authorities::Authorities;
use super::keyring::KeyRing;
use super::{clock, system_rng};
use crate::config::Config;
use crate::core::descriptor::DescriptorWriter;
use crate::core::publish::PublishSchedule;

/// After this long without any authority the operator is told.
const PATIENCE: Duration = Duration::from_secs(60);

/// Keeps the authorities' picture of this relay up to date.
pub struct Publisher {
    /// What to state.
    pub settings: watch::Receiver<Config>,
    /// Where the relay is reached.
    pub addresses: Vec<SocketAddr>,
    /// Signs, and tells the onion key.
    pub keys: Arc<KeyRing>,
    /// Whom to tell.
    pub authorities: Arc<Authorities>,
    /// Tells whether the relay rests.
    pub node: Node,
    /// Notified when the authorities must get the descriptor anew.
    pub changed: Arc<Notify>,
    /// Who wants to know when it was accepted.
    pub options: RunOptions,
}

type Outcome = (usize, anyhow::Result<Response>);

impl Publisher {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let started = clock();
        let mut state = State {
            schedule: PublishSchedule::new(self.authorities.count(), started),
            writer: DescriptorWriter::default(),
            refusals: HashMap::new(),
            told: 0,
        };
        let mut uploads: JoinSet<Outcome> = JoinSet::new();
        let mut patience = Some(started + PATIENCE);
        loop {
            self.start_due(&mut state, &mut uploads);
            let wake = state.schedule.poll_timeout();
            tokio::select! {
                Some(Ok(outcome)) = uploads.join_next() => self.finish(outcome, &mut state, uploads.is_empty()),
                () = sleep_until(wake) => {}
                () = sleep_until(patience) => {
                    // Who sleeps reaches nobody, and has said so.
                    let sleeps = self.node.admission().rest() == Rest::NoChannels;
                    patience = sleeps.then(|| clock() + PATIENCE);
                    if !sleeps && state.schedule.accepted() == 0 {
                        tracing::warn!(
                            "no authority has accepted the descriptor yet; the relay is not in use until one has. Is \
                             the network up, and do the [[authority]] tables fit this network?"
                        );
                    }
                }
                () = self.changed.notified() => {
                    state.schedule.handle_change(clock());
                    state.told = 0;
                }
            }
        }
    }

    fn start_due(&self, state: &mut State, uploads: &mut JoinSet<Outcome>) {
        for index in state.schedule.take_due(clock()) {
            match self.descriptor(&mut state.writer) {
                Ok(descriptor) => {
                    let authorities = Arc::clone(&self.authorities);
                    uploads.spawn(async move {
                        (index, authorities.ask(index, &Request::PostDescriptor(descriptor)).await)
                    });
                }
                Err(error) => {
                    tracing::error!("the descriptor cannot be written: {error}");
                    state.schedule.handle_failure(index, clock(), &mut system_rng());
                }
            }
        }
    }

    fn descriptor(&self, writer: &mut DescriptorWriter) -> Result<Vec<u8>, DirError> {
        let onion_key = self.keys.listed_onion().ok_or(DirError::Malformed("no onion key"))?;
        let signer = self.keys.signer();
        let rests = self.node.admission().rest() != Rest::Awake;
        writer
            .current(&self.settings.borrow(), &self.addresses, &signer, onion_key, rests, unix_now())
            .map(<[u8]>::to_vec)
    }

    fn finish(&self, (index, answer): Outcome, state: &mut State, was_last: bool) {
        match answer {
            Ok(Response::Ok(_)) => {
                state.schedule.handle_accepted(index, clock());
                state.refusals.remove(&index);
                self.options.tell(Status::Published);
            }
            Ok(other) => state.refused(index, &other),
            Err(error) => {
                tracing::debug!("an authority could not be told: {error:#}");
                state.schedule.handle_failure(index, clock(), &mut system_rng());
            }
        }
        let (accepted, all) = (state.schedule.accepted(), self.authorities.count());
        if (was_last || accepted == all) && accepted > 0 && accepted != state.told {
            state.told = accepted;
            tracing::info!("descriptor accepted by {accepted} of {all} authorities");
        }
    }
}

struct State {
    schedule: PublishSchedule,
    writer: DescriptorWriter,
    /// What each authority said last, so that it is told once and not at every attempt.
    refusals: HashMap<usize, Response>,
    /// How many authorities had it when the operator was last told.
    told: usize,
}

impl State {
    fn refused(&mut self, index: usize, answer: &Response) {
        self.schedule.handle_failure(index, clock(), &mut system_rng());
        self.writer.handle_refused();
        if self.refusals.insert(index, answer.clone()).as_ref() == Some(answer) {
            return;
        }
        match answer {
            Response::Refused(why) => tracing::warn!("an authority refuses the descriptor: {why}"),
            Response::Malformed => {
                tracing::warn!("an authority cannot read the descriptor; does it run another version?");
            }
            _ => tracing::debug!("an authority does not take the descriptor now"),
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
