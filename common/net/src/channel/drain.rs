//! The end of a node in order: no new circuits, and time for those that there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// What a node knows of its circuits as a whole.
#[derive(Debug, Default)]
pub(super) struct Drain {
    on: AtomicBool,
    /// Circuits on all channels. One that passes counts on both of its channels.
    circuits: watch::Sender<usize>,
}

impl Drain {
    /// Whether circuits are still taken.
    pub(super) fn takes_circuits(&self) -> bool {
        !self.on.load(Relaxed)
    }

    /// Takes no circuits from this call on; what it returns completes when there are none or after this long.
    pub(super) fn start(&self, limit: Duration) -> impl Future<Output = ()> + use<> {
        self.on.store(true, Relaxed);
        let mut circuits = self.circuits.subscribe();
        async move {
            let _ = timeout(limit, circuits.wait_for(|circuits| *circuits == 0)).await;
        }
    }

    /// How many circuits there are.
    pub(super) fn circuits(&self) -> usize {
        *self.circuits.borrow()
    }
}

/// What one channel adds to the count; nothing any more once it is dropped.
pub(super) struct Tally {
    drain: Arc<Drain>,
    counted: usize,
}

impl Tally {
    pub(super) fn new(drain: Arc<Drain>) -> Tally {
        Tally { drain, counted: 0 }
    }

    /// The channel has so many circuits now.
    pub(super) fn set(&mut self, circuits: usize) {
        if circuits != self.counted {
            self.drain.circuits.send_modify(|all| *all = *all + circuits - self.counted);
            self.counted = circuits;
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_lasts_until_the_last_circuit_has_ended() {
        let drain = Arc::new(Drain::default());
        let (mut a, mut b) = (Tally::new(drain.clone()), Tally::new(drain.clone()));
        a.set(2);
        b.set(1);
        assert!(drain.takes_circuits());
        let draining = tokio::spawn(drain.start(Duration::from_secs(3_600)));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!drain.takes_circuits() && !draining.is_finished());
        a.set(0);
        drop(b);
        tokio::time::timeout(Duration::from_secs(60), draining).await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn it_lasts_no_longer_than_its_limit() {
        let drain = Arc::new(Drain::default());
        let mut tally = Tally::new(drain.clone());
        tally.set(1);
        drain.start(Duration::from_secs(30)).await;
        assert_eq!(drain.circuits(), 1);
    }
}
