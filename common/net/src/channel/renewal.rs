//! Spares a connection the pauses in which BBR probes, where they would show nothing, and the rates that it holds itself back to.
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
//!
//! On short paths a BBR that takes the path for slower than it is goes on to: it sends faster for one shortest round trip of eight, which is
//! shorter than acknowledgements are delayed. Credit lets little queue there, so begun anew it cannot send much more than there is room for: there it
//! is begun anew often.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::bbr;

/// Every kernel has it.
const OTHER: &[u8] = b"reno";
/// How long the connection must have taken everything at once.
const UNREFUSED: Duration = Duration::from_secs(1);

/// When BBR is begun anew.
#[derive(Debug, Clone, Copy)]
struct Rhythm {
    every: Duration,
    /// One that has sent less in that time loses little by a pause, or by being slow.
    least_bytes: usize,
}

/// Less than the ten seconds after which BBR probes, with time for a busy moment to end. The bytes are so many that what the kernel holds
/// unsent, which refuses nothing, is sent within 64 ms.
const USUAL: Rhythm = Rhythm { every: Duration::from_secs(8), least_bytes: 16 << 20 };
/// On paths whose round trip is shorter than [`SHORT`]. A link of less than 4 Mbit/s is left alone; one that has little more can be what bounds the
/// connection without refusing anything, and then has for some round trips what circuits have credit for in its queue instead of here.
const OFTEN: Rhythm = Rhythm { every: Duration::from_secs(2), least_bytes: 1 << 20 };
const SHORT: Duration = Duration::from_millis(30);

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

    /// All was taken, and so many bytes are about to be written, over a path whose shortest round trip is `shortest`.
    pub(super) fn written(&mut self, now: Instant, bytes: usize, shortest: Duration, tcp: &TcpStream) {
        if !self.is_bbr {
            return;
        }
        if std::mem::take(&mut self.is_refused) {
            self.refused = now;
        }
        let rhythm = rhythm(shortest);
        let since = now.saturating_duration_since(self.begun);
        if since >= rhythm.every && self.bytes < rhythm.least_bytes || since >= 2 * rhythm.every {
            (self.begun, self.bytes) = (now, 0);
        }
        self.bytes = self.bytes.saturating_add(bytes);
        if self.is_due(now, rhythm) {
            (self.begun, self.bytes) = (now, 0);
            if let Err(error) = renew(tcp) {
                tracing::warn!(%error, "BBR cannot be begun anew; its pauses stay");
                FORBIDDEN.store(true, Ordering::Relaxed);
                self.is_bbr = false;
            }
        }
    }

    fn is_due(&self, now: Instant, rhythm: Rhythm) -> bool {
        self.bytes >= rhythm.least_bytes
            && now.saturating_duration_since(self.begun) >= rhythm.every
            && now.saturating_duration_since(self.refused) >= UNREFUSED
            && !FORBIDDEN.load(Ordering::Relaxed)
    }
}

fn rhythm(shortest: Duration) -> Rhythm {
    if shortest < SHORT { OFTEN } else { USUAL }
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

    const LEAST_BYTES: usize = USUAL.least_bytes;

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
        assert!(renewal(7_000, LEAST_BYTES).is_due(at(8_000), USUAL));
        assert!(!renewal(7_001, LEAST_BYTES).is_due(at(8_000), USUAL), "refused a moment ago");
        assert!(!renewal(0, LEAST_BYTES - 1).is_due(at(8_000), USUAL), "little was sent");
        assert!(!renewal(0, LEAST_BYTES).is_due(at(7_999), USUAL), "too early");
        let on_a_path_of =
            |ms| renewal(0, OFTEN.least_bytes).is_due(at(2_000), rhythm(Duration::from_millis(ms)));
        assert!(on_a_path_of(29) && !on_a_path_of(30));

        let mut was_refused = renewal(0, LEAST_BYTES);
        was_refused.refused();
        was_refused.written(at(8_000), 1, SHORT, &tcp);
        assert_eq!((was_refused.begun, was_refused.refused), (start, at(8_000)));

        let mut slow = renewal(0, LEAST_BYTES - 1);
        slow.written(at(8_000), 1, SHORT, &tcp);
        assert_eq!((slow.begun, slow.bytes), (at(8_000), 1), "it counts again");
        let mut late = renewal(15_500, LEAST_BYTES);
        late.written(at(16_000), 1, SHORT, &tcp);
        assert_eq!(late.bytes, 1, "it was much too long ago");

        let mut due = renewal(0, LEAST_BYTES);
        due.written(at(8_000), 1, SHORT, &tcp);
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
        renewal.written(now + 2 * USUAL.every, 2 * LEAST_BYTES, SHORT, &tcp);
        assert_eq!(renewal.begun, now);
    }
}
