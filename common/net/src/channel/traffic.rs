//! How many bytes a node moves, and how fast it may.
//!
//! What counts is what goes over sockets: those of open channels, TLS's records included, and those of an exit's streams and
//! datagrams. A byte that a relay passes on counts once in each direction.
//!
//! 1. Before it reads or writes, whoever has a socket takes as much as it has room for from the direction's [`Gate`], and gives
//!    back what it did not use. Without a limit there is nothing to take.
//! 2. Where the limit is reached, they wait in one line and take turns, each with a few milliseconds' worth.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio::time::sleep_until;
use tunic_proto::limits::{Bucket, Throughput};

use super::node::lock;

/// What a node's sockets move in both directions.
#[derive(Debug, Default)]
pub struct Traffic {
    pub(super) reads: Arc<Gate>,
    pub(super) writes: Arc<Gate>,
}

/// Bytes, in and out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// From other machines.
    pub read: u64,
    /// To other machines.
    pub written: u64,
}

impl Traffic {
    /// What may be moved in each direction from now on; `None` is no limit.
    pub fn set_limit(&self, limit: Option<Throughput>) {
        self.reads.set_limit(limit);
        self.writes.set_limit(limit);
    }

    /// What was moved so far.
    pub fn moved(&self) -> Moved {
        Moved { read: self.reads.used.load(Relaxed), written: self.writes.used.load(Relaxed) }
    }

    /// How often somebody had to wait, for reading and for writing.
    pub fn waits(&self) -> (u64, u64) {
        (self.reads.waits.load(Relaxed), self.writes.waits.load(Relaxed))
    }

    /// Counts a datagram that came in. False: the limit has no room for it, and it has to be dropped.
    pub(super) fn admit_read(&self, bytes: usize) -> bool {
        self.reads.admit(bytes as u64)
    }

    /// Counts a datagram that is to go out. False: the limit has no room for it, and it has to be dropped.
    pub(super) fn admit_write(&self, bytes: usize) -> bool {
        self.writes.admit(bytes as u64)
    }
}

/// One direction.
#[derive(Debug)]
pub(super) struct Gate {
    used: AtomicU64,
    waits: AtomicU64,
    limited: AtomicBool,
    bucket: Mutex<Bucket>,
    /// Whoever is first in line. Fair: those who wait get it in the order in which they came.
    turn: Semaphore,
}

impl Default for Gate {
    fn default() -> Self {
        Gate {
            used: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            limited: AtomicBool::new(false),
            bucket: Mutex::new(Bucket::new(Throughput::new(u64::MAX, u64::MAX))),
            turn: Semaphore::new(1),
        }
    }
}

impl Gate {
    fn set_limit(&self, limit: Option<Throughput>) {
        if let Some(limit) = limit {
            lock(&self.bucket).set_limit(limit, now());
        }
        self.limited.store(limit.is_some(), Relaxed);
    }

    fn is_limited(&self) -> bool {
        self.limited.load(Relaxed)
    }

    /// What there is, if nobody waits for it.
    fn take_now(&self, wanted: u64) -> Option<u64> {
        let _turn = self.turn.try_acquire().ok()?;
        lock(&self.bucket).take(now(), wanted).ok()
    }

    async fn take(self: Arc<Self>, wanted: u64) -> u64 {
        // The line is never closed.
        let _turn = self.turn.acquire().await;
        while self.is_limited() {
            let taken = lock(&self.bucket).take(now(), wanted);
            match taken {
                Ok(taken) => return taken,
                Err(at) => sleep_until(at.into()).await,
            }
        }
        wanted
    }

    /// A datagram cannot wait in line, and is not cut: it passes where anything at all is left.
    fn admit(&self, bytes: u64) -> bool {
        let has_room = !self.is_limited() || lock(&self.bucket).take_over(now(), bytes);
        if has_room {
            self.used.fetch_add(bytes, Relaxed);
        }
        has_room
    }

    fn settle(&self, taken: u64, used: u64) {
        if used > 0 {
            self.used.fetch_add(used, Relaxed);
        }
        if taken > used && self.is_limited() {
            lock(&self.bucket).give_back(taken - used);
        }
    }
}

type Waiting = Pin<Box<dyn Future<Output = u64> + Send>>;

/// One socket's place before a gate. Whoever stops polling it has to [forget](Turn::forget) it: everybody behind it waits
/// for whoever is first in line to take what there is.
#[derive(Default)]
pub(super) struct Turn {
    gate: Option<Arc<Gate>>,
    waiting: Option<Waiting>,
}

impl Turn {
    /// Without a gate nothing is limited or counted.
    pub(super) fn new(gate: Option<&Arc<Gate>>) -> Turn {
        Turn { gate: gate.cloned(), waiting: None }
    }

    /// How many of these bytes may be moved now, at least one. [`Turn::settle`] has to follow.
    pub(super) fn poll_take(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<usize> {
        let Some(gate) = self.gate.as_ref().filter(|gate| gate.is_limited()) else {
            self.waiting = None;
            return Poll::Ready(wanted);
        };
        let waiting = match &mut self.waiting {
            Some(waiting) => waiting,
            none => {
                if let Some(taken) = gate.take_now(wanted as u64) {
                    return Poll::Ready(taken as usize);
                }
                gate.waits.fetch_add(1, Relaxed);
                none.insert(Box::pin(Arc::clone(gate).take(wanted as u64)))
            }
        };
        let taken = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(taken as usize)
    }

    /// What became of what [`Turn::poll_take`] gave.
    pub(super) fn settle(&mut self, taken: usize, used: usize) {
        if let Some(gate) = &self.gate {
            gate.settle(taken as u64, used as u64);
        }
    }

    /// There is nothing to move any more: leaves the line.
    pub(super) fn forget(&mut self) {
        self.waiting = None;
    }
}

/// The runtime's clock, which a test can hold.
#[expect(clippy::disallowed_methods, reason = "the one place where the limit reads the clock")]
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    async fn moves(gate: Arc<Gate>, at_a_time: usize, of_these: usize, until: tokio::time::Instant) -> usize {
        let (mut turn, mut sum) = (Turn::new(Some(&gate)), 0);
        while until.elapsed().is_zero() {
            let taken = poll_fn(|cx| turn.poll_take(cx, at_a_time)).await;
            let used = taken.min(of_these);
            turn.settle(taken, used);
            sum += used;
            tokio::task::yield_now().await;
        }
        sum
    }

    fn limited(rate: u64, burst: u64) -> Arc<Gate> {
        let gate = Arc::new(Gate::default());
        gate.set_limit(Some(Throughput::new(rate, burst)));
        gate
    }

    #[tokio::test(start_paused = true)]
    async fn many_sockets_together_keep_to_the_rate_and_share_it() {
        let gate = limited(1 << 20, 256 << 10);
        let until = tokio::time::Instant::from_std(now()) + Duration::from_secs(60);
        let all: Vec<_> =
            (0..20).map(|_| tokio::spawn(moves(gate.clone(), 65_536, usize::MAX, until))).collect();
        let mut sums = Vec::new();
        for task in all {
            sums.push(task.await.unwrap());
        }
        let sum: usize = sums.iter().sum();
        let most = (60 << 20) + (256 << 10) + 20 * 65_536;
        assert!((60 << 20..most).contains(&sum), "{sum}");
        let (least, most) = (sums.iter().min().unwrap(), sums.iter().max().unwrap());
        assert!(most - least <= 5 * 65_536, "{sums:?}");
        assert_eq!(gate.used.load(Relaxed), sum as u64);
        assert!(gate.waits.load(Relaxed) > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_moves_little_takes_nothing_from_those_who_move_much() {
        let gate = limited(1 << 20, 64 << 10);
        let until = tokio::time::Instant::from_std(now()) + Duration::from_secs(30);
        let little: Vec<_> = (0..50).map(|_| tokio::spawn(moves(gate.clone(), 65_536, 100, until))).collect();
        let much = moves(gate.clone(), 65_536, usize::MAX, until).await;
        let mut rest = 0;
        for task in little {
            rest += task.await.unwrap();
        }
        assert!(much + rest >= 29 << 20, "{much} and {rest}: the rate is not used");
        assert!(much + rest <= 31 << 20, "{much} and {rest}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_lifted_holds_nobody_up() {
        let gate = limited(64 << 10, 1_024);
        let mut turn = Turn::new(Some(&gate));
        assert_eq!(poll_fn(|cx| turn.poll_take(cx, 65_536)).await, 1_024);
        let lifts = async {
            tokio::task::yield_now().await;
            gate.set_limit(None);
        };
        let (taken, ()) = tokio::join!(poll_fn(|cx| turn.poll_take(cx, 65_536)), lifts);
        assert_eq!(taken, 65_536);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_the_line_lets_the_next_one_through() {
        let gate = limited(64 << 10, 1_024);
        let (mut first, mut second) = (Turn::new(Some(&gate)), Turn::new(Some(&gate)));
        assert_eq!(poll_fn(|cx| first.poll_take(cx, 1_024)).await, 1_024);
        assert!(poll_fn(|cx| Poll::Ready(first.poll_take(cx, 65_536))).await.is_pending());
        assert!(poll_fn(|cx| Poll::Ready(second.poll_take(cx, 65_536))).await.is_pending());
        first.forget();
        assert_eq!(poll_fn(|cx| second.poll_take(cx, 65_536)).await, 1_024);
    }

    #[tokio::test(start_paused = true)]
    async fn datagrams_pass_beside_those_who_take_all_there_is() {
        let gate = limited(200_000, 100_000);
        let until = tokio::time::Instant::from_std(now()) + Duration::from_secs(30);
        let all: Vec<_> =
            (0..4).map(|_| tokio::spawn(moves(gate.clone(), 65_536, usize::MAX, until))).collect();
        let (mut passed, mut asked) = (0_u64, 0_u64);
        while until.elapsed().is_zero() {
            asked += 1;
            passed += u64::from(gate.admit(1_400));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut sum = 0;
        for task in all {
            sum += task.await.unwrap() as u64;
        }
        assert!(passed * 5 > asked, "{passed} of {asked} datagrams");
        let most = 30 * 200_000 + 100_000 + 4 * 65_536 + 1_400;
        assert!(sum + passed * 1_400 <= most, "{sum} and {passed} datagrams");
    }

    #[tokio::test(start_paused = true)]
    async fn datagrams_beyond_the_limit_are_dropped_and_not_counted() {
        let traffic = Traffic::default();
        assert!(traffic.admit_read(1 << 30));
        traffic.set_limit(Some(Throughput::new(1_000, 1_000)));
        // The second is owed for 800 ms.
        assert!(traffic.admit_write(900) && traffic.admit_write(900) && !traffic.admit_write(1));
        tokio::time::advance(Duration::from_millis(790)).await;
        assert!(!traffic.admit_write(1));
        tokio::time::advance(Duration::from_millis(20)).await;
        assert!(traffic.admit_write(1));
        assert_eq!(traffic.moved(), Moved { read: 1 << 30, written: 1_801 });
    }
}
