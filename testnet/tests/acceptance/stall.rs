//! A reader who does not read (docs/protocol.md §7).

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::network::TestNetwork;
use crate::processes::{resident_kib, wait_until};
use crate::server::{Pattern, serve, serve_echo};
use crate::socks;

const GIB: u64 = 1 << 30;
/// What a stalled stream may occupy from end to end: windows, credit, and the kernel's socket buffers on the way.
const MAX_IN_FLIGHT: u64 = 32 << 20;
/// What one node may grow by, in KiB.
const MAX_GROWTH_KIB: u64 = 16 << 10;
/// Without progress for so long, the server counts as stopped.
const STOPPED_FOR: Duration = Duration::from_secs(2);

#[test]
fn a_gibibyte_that_nobody_reads_fills_no_relay() {
    let network = TestNetwork::start(&["--authorities", "1", "--relays", "3", "--exits", "1"]);
    let echo = serve_echo();
    let mut neighbour = socks::connect(network.up.socks, echo);
    socks::ping(&mut neighbour).unwrap();
    let pids = network.up.pids.all();
    let before: Vec<u64> = pids.iter().map(|pid| resident_kib(*pid)).collect();

    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    let target = serve(move |mut connection| {
        let mut block = vec![0; 64 << 10];
        Pattern::default().read_exact(&mut block).unwrap();
        while counter.load(Ordering::Relaxed) < GIB && connection.write_all(&block).is_ok() {
            counter.fetch_add(block.len() as u64, Ordering::Relaxed);
        }
    });
    let unread = socks::connect(network.up.socks, target);
    let (mut last, mut since) = (0, Instant::now());
    wait_until(Duration::from_secs(120), "the sender is stopped", || {
        let now = sent.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        now > 0 && since.elapsed() >= STOPPED_FOR
    });

    assert!(last < MAX_IN_FLIGHT, "{last} bytes are on the way and nobody reads");
    for (pid, before) in pids.iter().zip(before) {
        let growth = resident_kib(*pid).saturating_sub(before);
        assert!(growth < MAX_GROWTH_KIB, "process {pid} of {:?} grew by {growth} KiB", network.up.pids);
    }
    socks::ping(&mut neighbour).expect("a stream beside it on the same circuit goes on");
    drop(unread);
}
