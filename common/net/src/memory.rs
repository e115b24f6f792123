//! Memory that the process has freed and the allocator still holds.

/// Gives it back to the system, as far as the allocator can: glibc's keeps it for later unless it is asked. Takes a few
/// milliseconds for each 100 MiB. Elsewhere it does nothing.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "no crate that is kept up offers malloc_trim")]
pub fn give_back() {
    // SAFETY: malloc_trim(3) takes a number of bytes, returns an int, and touches nothing that is allocated. It locks what
    // it works on (MT-Safe), so other threads may allocate meanwhile.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives it back to the system, as far as the allocator can.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::resident_bytes;

    /// Pages that lie between others: what a queue looks like once most of it was sent.
    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
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
}
