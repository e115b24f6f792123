//! What a node lets go when memory runs out: circuits with the oldest queued data, whichever channels they are on.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tunic_proto::limits::{Holding, oldest_first};

use super::Node;

/// How long the channels may take to say what they hold; who is later keeps it until the next time.
const SURVEY_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// than this, and none at all if the others hold too little of that for it to help. The memory is free once their channels have
    /// got round to it.
    pub async fn shed(&self, bytes: usize, min_age: Duration) -> Shed {
        let (answers, mut answered) = mpsc::unbounded_channel();
        for inbox in self.0.ledger.inboxes() {
            let answers = answers.clone();
            let answer = Box::new(move |survey| {
                let _ = answers.send(survey);
            });
            inbox.survey(min_age, answer);
        }
        drop(answers);
        let (mut oldest, mut held) = (Vec::new(), 0);
        let gather = async {
            while let Some(survey) = answered.recv().await {
                oldest.extend(survey.oldest);
                held += survey.bytes;
            }
        };
        let _ = timeout(SURVEY_TIMEOUT, gather).await;
        let mut shed = Shed::default();
        for held in oldest_first(oldest, held, bytes) {
            held.shed();
            shed.circuits += 1;
            shed.bytes += held.bytes();
        }
        shed
    }
}
