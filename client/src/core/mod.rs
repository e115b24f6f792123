//! The client's decisions. Nothing here opens a socket, reads a clock or makes its own randomness.

pub mod answers;
pub mod dns;
pub mod failures;
pub mod front;
pub mod guards;
pub mod isolation;
pub mod network;
pub mod path;
pub mod planner;
pub mod pool;
pub mod schedule;
pub mod status;
#[cfg(test)]
pub(crate) mod testing;
pub mod timeouts;
