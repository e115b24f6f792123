//! The Tunic directory authority: a pure core that knows relays, votes and signs, and the daemon around it.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod core;
mod net;

pub use cli::main;
pub use net::run;
