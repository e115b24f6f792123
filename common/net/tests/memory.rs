//! What is freed goes back to the system. Alone in its process: others that allocate meanwhile would change what is measured.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use tunic_net::memory::give_back;
use tunic_net::metrics::resident_bytes;

/// Pages that lie between others: what a queue looks like once most of it was sent.
#[test]
fn what_was_freed_between_what_stays_is_given_back() {
    const PAGES: usize = 4_096;
    let mut pages: Vec<Option<Vec<u8>>> = (0..PAGES).map(|n| Some(vec![n as u8; 32 << 10])).collect();
    let full = resident_bytes().unwrap();
    pages.iter_mut().enumerate().filter(|(n, _)| n % 8 != 0).for_each(|(_, page)| *page = None);
    give_back();
    let left = resident_bytes().unwrap();
    let kept = pages.iter().flatten().map(Vec::len).sum::<usize>();
    assert_eq!(kept, PAGES / 8 * (32 << 10));
    assert!(full.saturating_sub(left) > 64 << 20, "{full} bytes, then {left}");
}
