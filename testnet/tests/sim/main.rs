//! The protocol's promises, kept by whole networks in the simulator.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod answers;
mod circuits;
mod directory;
mod extension;
mod flow;
mod garbage;
mod hostile;
mod hostile_relay;
mod limits;
mod machines;
mod padding;
mod support;
mod tamper;
mod teardown;
