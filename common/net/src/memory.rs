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
