//! The I/O shell that the daemons share: TLS channels over tokio, configuration, key files, logs, signals.
#![forbid(unsafe_code)]

pub mod channel;
pub mod dirstream;
