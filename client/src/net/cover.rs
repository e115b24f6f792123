//! Dummy circuits: they lead where nobody wants to go and carry cover traffic only, so that neither a circuit nor cells on it tell
//! the guard that the person does something (docs/cover-traffic.md).
//!
//! 1. Each is a circuit like any other, of an isolation that no stream has.
//! 2. At random times (exponential, so that each cell says nothing about the next) a `DROP` goes to a hop behind the guard, or a
//!    `LOOP` to the last one, which sends a cell back: the loops and drops of Loopix (Piotrowska et al., USENIX Security 2017).
//! 3. After some minutes, as many as circuits of streams live, another one takes its place.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use tunic_proto::circuit::Cover;

use super::manager::{Lease, ManagerHandle};
use super::{new_rng, now};
use crate::core::isolation::Isolation;
use crate::core::path::Need;
use crate::core::pool::Want;

/// The listener of an isolation that no listener has.
const NO_LISTENER: u16 = u16::MAX;
/// How long a dummy circuit is used.
const LIFETIME_S: std::ops::Range<u64> = 180..600;
/// How long to wait when there is no circuit.
const PAUSE: Duration = Duration::from_secs(10);

/// Keeps one dummy circuit, with a cell each `mean` on average; ends with the client. `number` keeps it apart from others.
pub(super) async fn keep_dummy(manager: ManagerHandle, number: u64, mean: Duration) {
    let mut rng = new_rng();
    let isolation = Isolation { listener: NO_LISTENER, alone: number, ..Isolation::default() };
    loop {
        let want =
            Want { isolation: isolation.clone(), need: Need::Any, not_exits: Vec::new(), fresh: false };
        match manager.want(want).await {
            None => return,
            Some(Err(_)) => tokio::time::sleep(PAUSE).await,
            Some(Ok(lease)) => {
                cover(&lease, mean, &mut rng).await;
                manager.retire(lease.id).await;
            }
        }
    }
}

async fn cover(lease: &Lease, mean: Duration, rng: &mut StdRng) {
    let end = now() + Duration::from_secs(rng.random_range(LIFETIME_S));
    let last = lease.path.hops.len().saturating_sub(1);
    while now() < end && lease.circuit.is_open() {
        tokio::time::sleep(exponential(mean, rng)).await;
        if rng.random() {
            lease.circuit.cover(last, Cover::Loop);
        } else {
            lease.circuit.cover(rng.random_range(1..=last.max(1)), Cover::Drop);
        }
    }
}

/// The time to the next event of a Poisson process.
fn exponential(mean: Duration, rng: &mut StdRng) -> Duration {
    mean.mul_f64(-(1.0 - rng.random::<f64>()).ln())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn times_between_cells_are_exponential() {
        let mut rng = StdRng::seed_from_u64(1);
        let mean = Duration::from_millis(200);
        let drawn: Vec<Duration> = (0..10_000).map(|_| exponential(mean, &mut rng)).collect();
        let average = drawn.iter().sum::<Duration>() / 10_000;
        assert!((190..210).contains(&average.as_millis()), "{average:?}");
        // A share of 1 - 1/e comes sooner than the mean.
        let sooner = drawn.iter().filter(|time| **time < mean).count();
        assert!((6_150..6_500).contains(&sooner), "{sooner}");
    }
}
