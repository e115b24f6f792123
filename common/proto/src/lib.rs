//! The Tunic protocol: wire format, cryptography, state machines and documents.
//!
//! Nothing here opens a socket, reads a clock or makes its own randomness: those come in as arguments, so that the
//! same code runs in the daemons and, on virtual time and from one seed, in the simulator. The rules are in
//! docs/protocol.md, whose sections the code cites.
#![forbid(unsafe_code)]

pub mod buffers;
pub mod cell;
pub mod channel;
pub mod circuit;
pub mod counters;
pub mod crypto;
pub mod datagram;
pub mod dir;
pub mod flow;
pub mod ids;
pub mod keys;
pub mod message;
pub mod padding;
pub mod resolve;
pub mod special;
pub mod stream;
mod sync;
pub mod time;
