//! The client's decisions. Nothing here opens a socket, reads a clock or makes its own randomness.

pub mod isolation;
pub mod socks;
pub mod timeouts;
