//! The Tunic relay: passes circuits on, connects to the internet as an exit where its operator allows it, and mirrors
//! the consensus.
//!
//! [`core`] decides and is pure; [`net`] does what was decided. A program that embeds a relay fills a
//! [`config::Config`] and calls [`run`].
#![forbid(unsafe_code)]

pub mod bytes;
pub mod check;
pub mod cli;
pub mod config;
pub mod core;
mod exit_config;
pub mod init;
pub mod net;
pub mod padding;
pub mod top;

pub use net::run;
