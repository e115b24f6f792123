//! Spares a connection the pauses in which BBR probes, where they would show nothing.
//!
//! A BBR that has seen no shorter round trip for ten seconds sends four segments a round trip for 200 ms, so that a queue that it built runs
//! out and it sees the path's own delay again (draft-cardwell-iccrg-bbr-congestion-control-00). Everything on the connection
//! waits meanwhile, and everything on a circuit for each of its connections.
//!
//! Where a connection has taken all that it was given at once, it was the credit of its circuits that bounded what was on the
//! way, and that keeps queues short and lets them run out itself (docs/protocol.md §7.3). There BBR is begun
//! anew instead, by choosing another algorithm and it again. Where TCP does bound what is on the way, BBR goes on as it is: begun anew
//! it would for some round trips send more than there is room for. Where it has a limit (`pacing`) it would not, and that is as likely the reason why the
//! connection took no more.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::bbr;

/// Every kernel has it.
const OTHER: &[u8] = b"reno";
/// Less than the ten seconds after which BBR probes, with time for a busy moment to end.
const EVERY: Duration = Duration::from_secs(8);
/// How long the connection must have taken everything at once.
const UNREFUSED: Duration = Duration::from_secs(1);
/// One that has sent less in that time loses little by a pause. It is also so much that what the kernel holds unsent, which refuses nothing, is sent
/// within 64 ms.
const LEAST_BYTES: usize = 16 << 20;

/// The system does not let us choose BBR again, because something else than its default chose it. The connection that found out
/// stays with the other.
static FORBIDDEN: AtomicBool = AtomicBool::new(false);

pub(super) struct Renewal {
    is_bbr: bool,
    /// When BBR, or at least the count, was begun.
    begun: Instant,
    /// When the connection took no more, the last time.
    refused: Instant,
    is_refused: bool,
    bytes: usize,
}

impl Renewal {
    pub(super) fn new(is_bbr: bool, now: Instant) -> Renewal {
        Renewal { is_bbr, begun: now, refused: now, is_refused: false, bytes: 0 }
    }

    /// The connection took no more.
    pub(super) fn refused(&mut self) {
        self.is_refused = true;
    }

    /// All was taken, and so many bytes are about to be written.
    pub(super) fn written(&mut self, now: Instant, bytes: usize, tcp: &TcpStream) {
        if !self.is_bbr {
            return;
        }
        if std::mem::take(&mut self.is_refused) {
            self.refused = now;
        }
        let since = now.saturating_duration_since(self.begun);
        if since >= EVERY && self.bytes < LEAST_BYTES || since >= 2 * EVERY {
            (self.begun, self.bytes) = (now, 0);
        }
        self.bytes = self.bytes.saturating_add(bytes);
        if self.is_due(now) {
            (self.begun, self.bytes) = (now, 0);
            if let Err(error) = renew(tcp) {
                tracing::warn!(%error, "BBR cannot be begun anew; its pauses stay");
                FORBIDDEN.store(true, Ordering::Relaxed);
                self.is_bbr = false;
            }
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.bytes >= LEAST_BYTES
            && now.saturating_duration_since(self.begun) >= EVERY
            && now.saturating_duration_since(self.refused) >= UNREFUSED
            && !FORBIDDEN.load(Ordering::Relaxed)
    }
}

fn renew(tcp: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(tcp);
    socket.set_tcp_congestion(OTHER)?;
    socket.set_tcp_congestion(bbr::NAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use tokio::net::TcpListener;

    async fn connect() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn bbr_is_begun_anew_only_where_much_was_sent_and_nothing_refused() {
        let tcp = connect().await;
        let start = clock::now();
        let at = |ms| start + Duration::from_millis(ms);
        let renewal = |refused, bytes| Renewal {
            is_bbr: true,
            begun: start,
            refused: at(refused),
            is_refused: false,
            bytes,
        };
        assert!(renewal(7_000, LEAST_BYTES).is_due(at(8_000)));
        assert!(!renewal(7_001, LEAST_BYTES).is_due(at(8_000)), "refused a moment ago");
        assert!(!renewal(0, LEAST_BYTES - 1).is_due(at(8_000)), "little was sent");
        assert!(!renewal(0, LEAST_BYTES).is_due(at(7_999)), "too early");

        let mut was_refused = renewal(0, LEAST_BYTES);
        was_refused.refused();
        was_refused.written(at(8_000), 1, &tcp);
        assert_eq!((was_refused.begun, was_refused.refused), (start, at(8_000)));

        let mut slow = renewal(0, LEAST_BYTES - 1);
        slow.written(at(8_000), 1, &tcp);
        assert_eq!((slow.begun, slow.bytes), (at(8_000), 1), "it counts again");
        let mut late = renewal(15_500, LEAST_BYTES);
        late.written(at(16_000), 1, &tcp);
        assert_eq!(late.bytes, 1, "it was much too long ago");

        let mut due = renewal(0, LEAST_BYTES);
        due.written(at(8_000), 1, &tcp);
        // Some kernels have no BBR, or let nobody choose it.
        assert_eq!(due.is_bbr, bbr::is_chosen(&tcp));
        assert_eq!((due.begun, due.bytes), (at(8_000), 0));
    }

    #[tokio::test]
    async fn another_algorithm_is_left_as_it_is() {
        let tcp = connect().await;
        SockRef::from(&tcp).set_tcp_congestion(OTHER).unwrap();
        let now = clock::now();
        let mut renewal = Renewal::new(bbr::is_chosen(&tcp), now);
        assert!(!renewal.is_bbr);
        renewal.written(now + 2 * EVERY, 2 * LEAST_BYTES, &tcp);
        assert_eq!(renewal.begun, now);
    }
}
