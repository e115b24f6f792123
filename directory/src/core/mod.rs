//! An authority without I/O: time comes in as an argument, what is to be done goes out through
//! [`Authority::poll_output`].
//!
//! 1. A relay uploads a descriptor; it is probed, and counts as running once it has answered as itself.
//! 2. At the start of a round each authority writes down what it believes, and sends this vote to its peers.
//! 3. With all votes, or at the vote deadline with enough of them, each computes the consensus, signs it, and sends the
//!    signature to its peers. Votes that are missing half-way to the deadline are asked for once.
//! 4. With enough signatures for the same bytes the consensus is published. Otherwise the round has failed; the peers
//!    are asked for theirs, and the next round comes.

mod authority;
mod flags;
mod limits;
mod output;
mod relays;
mod round;
mod schedule;

pub use authority::Authority;
pub use flags::{
    FAST_MIN_BANDWIDTH, GUARD_MAX_BANDWIDTH, GUARD_MAX_UPTIME, MAX_CREDIBLE_BANDWIDTH, SMALL_NETWORK_RELAYS,
    STABLE_MAX_UPTIME,
};
pub use output::{Counters, Output, Refusal, RoundFailure};
pub use relays::{
    MAX_DESCRIPTOR_BYTES, MAX_PROBES, MAX_RELAYS_PER_NETWORK, PROBE_INTERVAL, PROBE_RETRY, PROBE_TIMEOUT,
};
pub use schedule::{BadSettings, Moment, Settings};

#[cfg(test)]
mod tests;
