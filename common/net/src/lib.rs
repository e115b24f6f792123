//! The I/O shell that the daemons share: TLS channels over tokio, configuration, key files, logs, signals.
#![deny(unsafe_code)]

mod bbr;
pub mod channel;
mod clock;
pub mod config;
pub mod daemon;
pub mod dirstream;
pub mod http;
pub mod keyfile;
pub mod keys;
pub mod memory;
pub mod metrics;
pub mod processor;
pub mod recent;
pub mod sandbox;
pub mod tcp;
pub mod telemetry;
