//! What a node lets go when memory runs out: circuits with the oldest queued data, whichever channels they are on.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tunic_proto::channel::Held;
use tunic_proto::limits::{Holding, oldest_first, would_help};

use super::Node;

/// How long the channels may take to say what they hold; who is later keeps it until the next time.
const SURVEY_TIMEOUT: Duration = Duration::from_millis(200);

/// What was let go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shed {
    /// So many circuits.
    pub circuits: usize,
    /// So many bytes of queued data.
    pub bytes: usize,
}

impl Node {
    /// Ends as many circuits as hold so many bytes together, those with the oldest data first; none whose data is younger
    /// than this, and none at all if the others hold too little for it to help, as far as their channels answer in time. Returns once
    /// these have ended them, or after a while.
    pub async fn shed(&self, bytes: usize, min_age: Duration) -> Shed {
        let (all, is_whole) = self.survey(min_age).await;
        let mut shed = Shed::default();
        if is_whole && !would_help(&all, bytes) {
            return shed;
        }
        for held in oldest_first(all, bytes) {
            held.shed();
            shed.circuits += 1;
            shed.bytes += held.bytes();
        }
        if shed.circuits > 0 {
            // Whoever answers has done what was asked before.
            self.survey(Duration::MAX).await;
        }
        shed
    }

    /// The circuits that hold data that is as old, and whether all channels have answered.
    async fn survey(&self, min_age: Duration) -> (Vec<Held>, bool) {
        let (answers, mut answered) = mpsc::unbounded_channel();
        for inbox in self.0.ledger.inboxes() {
            let answers = answers.clone();
            let answer = Box::new(move |held| {
                let _ = answers.send(held);
            });
            inbox.survey(min_age, answer);
        }
        drop(answers);
        let mut all = Vec::new();
        let gather = async {
            while let Some(held) = answered.recv().await {
                all.extend(held);
            }
        };
        let is_whole = timeout(SURVEY_TIMEOUT, gather).await.is_ok();
        (all, is_whole)
    }
}
