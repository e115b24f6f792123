//! Signals: the first SIGINT or SIGTERM orders the end, a second one leaves no time for it.

use std::pin::Pin;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Completes when the daemon is told to end.
pub type Shutdown = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How often the end was ordered.
type Orders = watch::Receiver<usize>;

/// The signals of this process, caught by one task.
pub(super) struct Signals {
    orders: Orders,
    hangups: Hangups,
}

impl Signals {
    /// Catches signals from now on. Where they cannot be caught, the system's own way of ending a process is in force.
    /// To be called inside a tokio runtime.
    pub(super) fn catch() -> Signals {
        let (orders, received) = watch::channel(0);
        if let (Ok(interrupt), Ok(terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        {
            tokio::spawn(count(interrupt, terminate, orders));
        }
        Signals { orders: received, hangups: Hangups(signal(SignalKind::hangup()).ok()) }
    }

    /// Completes at the first order, and tells nobody else.
    pub(super) fn shutdown(&self) -> Shutdown {
        Box::pin(ordered(self.orders.clone(), 1))
    }

    /// The orders to read the configuration again (SIGHUP).
    pub(super) fn hangups(&mut self) -> &mut Hangups {
        &mut self.hangups
    }

    /// Tells of the second order.
    pub(super) fn hurry(&self) -> Hurry {
        Hurry(Some(self.orders.clone()))
    }
}

/// Orders to read the configuration again.
pub(super) struct Hangups(Option<Signal>);

impl Hangups {
    /// Completes at the next one; where they cannot be caught, never.
    pub(super) async fn next(&mut self) {
        let caught = match &mut self.0 {
            Some(signal) => signal.recv().await,
            None => None,
        };
        if caught.is_none() {
            std::future::pending().await
        }
    }
}

async fn count(mut interrupt: Signal, mut terminate: Signal, orders: watch::Sender<usize>) {
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        orders.send_modify(|count| *count += 1);
    }
}

/// Completes when the end was ordered so often.
async fn ordered(mut orders: Orders, count: usize) {
    if orders.wait_for(|so_far| *so_far >= count).await.is_err() {
        std::future::pending().await
    }
}

/// Tells when there is no time for an orderly end. The default never tells.
#[derive(Debug, Clone, Default)]
pub struct Hurry(Option<Orders>);

impl Hurry {
    /// Completes when the end was ordered a second time.
    pub async fn ordered(&self) {
        match &self.0 {
            Some(orders) => ordered(orders.clone(), 2).await,
            None => std::future::pending().await,
        }
    }
}

/// Completes at the first SIGINT or SIGTERM after the call (not after the first poll). Where signals cannot be caught,
/// never. To be called inside a tokio runtime.
pub fn shutdown_signal() -> Shutdown {
    Signals::catch().shutdown()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal, getpid, kill_process};

    #[tokio::test]
    async fn the_first_signal_orders_the_end_and_the_second_one_haste() {
        let signals = Signals::catch();
        let (shutdown, hurry) = (signals.shutdown(), signals.hurry());
        kill_process(getpid(), Signal::TERM).unwrap();
        shutdown.await;
        let mut hurry = Box::pin(hurry.ordered());
        let now = std::future::poll_fn(|cx| std::task::Poll::Ready(hurry.as_mut().poll(cx).is_ready()));
        assert!(!now.await, "one signal leaves time");
        kill_process(getpid(), Signal::INT).unwrap();
        hurry.await;
    }
}
