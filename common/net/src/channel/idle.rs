//! Channels that nobody uses: they give back what they do not need, and end.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::drain::Tally;
use super::driver::{Driver, DriverError};
use crate::clock;

/// A channel that had no circuit when it was looked at twice in a row, so long apart, is closed: whoever opens channels
/// and does nothing with them must not use up those that there are.
const IDLE_CHECK: Duration = Duration::from_secs(180);
/// How often circuits and channels that were not used give back what they do not need.
const REST_INTERVAL: Duration = Duration::from_secs(60);

/// Runs a channel until it breaks, or until it had no circuit for a while (`None`).
pub(super) async fn run_until_idle(driver: &mut Driver, tally: &mut Tally) -> Option<DriverError> {
    let (mut checks, mut rests) = (every(IDLE_CHECK), every(REST_INTERVAL));
    let mut was_idle = false;
    poll_fn(|cx| {
        if let Poll::Ready(error) = driver.poll(cx) {
            return Poll::Ready(Some(error));
        }
        tally.set(driver.circuit_count());
        while rests.poll_tick(cx).is_ready() {
            driver.rest();
        }
        while checks.poll_tick(cx).is_ready() {
            let is_idle = driver.circuit_count() == 0;
            if is_idle && was_idle {
                return Poll::Ready(None);
            }
            was_idle = is_idle;
        }
        Poll::Pending
    })
    .await
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::from_std(clock::now()) + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
