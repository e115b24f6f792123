//! Keeps what a connection sends at once within what routers on its path hold.
//!
//! BBR sends faster than it ever found the path to be, by a factor of 2.9, until it has seen that this brings no more. Where the credit of
//! circuits bounds what is on the way, it never does. Then, after a moment in which nothing went out, a whole window goes
//! out in one burst: with round trips that are longer than the queues of routers, more than these hold, and what is lost
//! makes the next hop wait for a moment, and so on along the circuit.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::bbr::{self, Path};

/// How often BBR is asked: half of a round trip that matters.
const EVERY: Duration = Duration::from_millis(50);
/// A burst is what came in about a round trip. Of shorter ones than this, routers hold as much.
const LONG: Duration = Duration::from_millis(100);
/// A connection may send so fast at least, in bytes per second.
const LEAST: u64 = 4 << 20;
/// Round trips without growth by a quarter after which the rate is taken for the path's, as BBR does.
const GROWN: u32 = 3;

/// The limit of one connection.
pub(super) struct Pacing {
    is_bbr: bool,
    asked: Instant,
    /// The shortest round trip.
    shortest: Duration,
    /// The highest rate that the path was found to carry, in bytes per second: a BBR that was begun anew knows nothing of it.
    highest: u64,
    /// The rate when it had grown by a quarter, the last time, and when that was.
    grown: (u64, Instant),
    /// Bytes per second; `None` while there is no limit.
    limit: Option<u64>,
}

impl Pacing {
    pub(super) fn new(is_bbr: bool, now: Instant) -> Pacing {
        Pacing { is_bbr, asked: now, shortest: Duration::MAX, highest: 0, grown: (0, now), limit: None }
    }

    /// Whether there is a limit, so that it may be the reason if the connection takes no more.
    pub(super) fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// The shortest round trip; before it is known, longer than any.
    pub(super) fn shortest(&self) -> Duration {
        self.shortest
    }

    /// Something is about to be written.
    pub(super) fn written(&mut self, now: Instant, tcp: &TcpStream) {
        if !self.is_bbr || now.saturating_duration_since(self.asked) < EVERY {
            return;
        }
        self.asked = now;
        let path = bbr::path(tcp);
        self.is_bbr = path.is_some();
        let limit = path.and_then(|path| self.told(now, path));
        if limit != self.limit {
            self.limit = limit;
            bbr::limit(tcp, limit.unwrap_or(u64::MAX));
        }
    }

    /// What the limit should be: twice what the path was found to carry while that grows, then a quarter more, as when BBR probes. Of a burst that is so much faster
    /// than the path, a fifth queues.
    fn told(&mut self, now: Instant, path: Path) -> Option<u64> {
        self.shortest = self.shortest.min(path.shortest);
        self.highest = self.highest.max(path.rate.min(u64::MAX / 2));
        if path.rate > self.grown.0 + self.grown.0 / 4 {
            self.grown = (path.rate, now);
        }
        let grows = now.saturating_duration_since(self.grown.1) < self.shortest.saturating_mul(GROWN);
        let limit = if grows { 2 * self.highest } else { self.highest + self.highest / 4 };
        (self.highest > 0 && self.shortest >= LONG).then_some(limit.max(LEAST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_connection_over_a_long_path_sends_little_faster_than_it_ever_did() {
        let start = clock::now();
        let mut pacing = Pacing::new(true, start);
        let mut told = |at, rate, ms| {
            let path = Path { rate, shortest: Duration::from_millis(ms) };
            pacing.told(start + Duration::from_millis(at), path)
        };
        assert_eq!(told(0, 0, 3_600_000), None, "nothing is known");
        assert_eq!(told(50, 1_000, 100), Some(LEAST));
        assert_eq!(told(100, 8_000_000, 100), Some(16_000_000), "it grows");
        assert_eq!(told(399, 10_000_000, 100), Some(20_000_000), "not by more than a quarter");
        assert_eq!(told(400, 10_000_000, 100), Some(12_500_000));
        assert_eq!(told(1_000, 1_000, 150), Some(12_500_000), "BBR was begun anew");
        assert_eq!(told(1_050, 10_000_001, 100), Some(20_000_002), "it grows again");
        assert_eq!(told(1_150, 10_000_001, 99), None, "the path is not so long after all");
        assert_eq!(told(1_200, 10_000_001, 200), None, "it was found once");
    }

    #[tokio::test]
    async fn a_connection_that_lost_its_bbr_has_no_limit() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        socket2::SockRef::from(&tcp).set_tcp_congestion(b"reno").unwrap();
        let start = clock::now();
        let mut pacing = Pacing::new(true, start);
        pacing.limit = Some(LEAST);
        pacing.written(start + EVERY - Duration::from_millis(1), &tcp);
        assert!(pacing.is_limited(), "it is not asked that often");
        pacing.written(start + EVERY, &tcp);
        assert!(!pacing.is_limited() && !pacing.is_bbr);
    }
}
