//! The monotonic clock and the generator of the shell, in one place each.

use std::time::Instant;

use rand::rngs::ThreadRng;

/// The time now.
#[expect(clippy::disallowed_methods, reason = "the one place where the shell reads the monotonic clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The generator of this thread, seeded by the operating system.
#[expect(clippy::disallowed_methods, reason = "the one place where the channel shell takes randomness")]
pub(crate) fn rng() -> ThreadRng {
    rand::rng()
}
