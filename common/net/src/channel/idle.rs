//! Channels that nobody uses: they give back what they do not need, and end.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::drain::Tally;
use super::driver::{Driver, DriverError};
use crate::clock;

/// How often circuits and channels that were not used give back what they do not need.
const REST_INTERVAL: Duration = Duration::from_secs(60);
/// A channel that had no circuit when it was looked at so many times in a row is closed: whoever opens channels and does
/// nothing with them must not use up those that there are.
const IDLE_LOOKS: u32 = 4;

/// Runs a channel until it breaks, or until it had no circuit for a while (`None`).
pub(super) async fn run_until_idle(driver: &mut Driver, tally: &mut Tally) -> Option<DriverError> {
    let (mut rests, mut idle_looks) = (every(REST_INTERVAL), 0);
    poll_fn(|cx| {
        if let Poll::Ready(error) = driver.poll(cx) {
            return Poll::Ready(Some(error));
        }
        tally.set(driver.circuit_count());
        while rests.poll_tick(cx).is_ready() {
            if let Err(error) = driver.rest() {
                return Poll::Ready(Some(error));
            }
            idle_looks = if driver.circuit_count() == 0 { idle_looks + 1 } else { 0 };
            if idle_looks == IDLE_LOOKS {
                return Poll::Ready(None);
            }
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
