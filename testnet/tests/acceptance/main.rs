//! Whole networks of real processes, real sockets and a real curl. One binary, so that one network serves most tests.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "deadlines of real processes are counted on the real clock")]

mod curl;
mod daemons;
mod datagrams;
mod embedded;
mod hostile;
mod killed;
mod lifecycle;
mod logs;
mod network;
mod padded;
mod processes;
mod public;
mod server;
mod silent;
mod socks;
mod stall;
mod status;
mod streams;
