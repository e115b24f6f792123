//! What a relay does: sockets, tasks, files.
//!
//! 1. [`run`] loads keys and the stored consensus, and listens.
//! 2. [`responder`] answers circuits; [`connector`] makes the connections of an exit.
//! 3. [`ask_network`] is what `tunic-relay check` asks.
//! 4. [`control`] tells `tunic-relay top` how the relay is.
//! 5. [`publisher`] hands the descriptor to the authorities, [`fetcher`] fetches the consensus.

mod accountant;
mod ask;
pub mod authorities;
pub mod connector;
pub mod control;
pub mod counters;
mod datagrams;
pub mod dns;
pub mod fetcher;
pub mod keyring;
pub(crate) mod memory;
mod metrics;
mod notice;
mod pages;
pub mod publisher;
pub mod resolver;
pub mod responder;
mod run;
pub mod view;

use std::time::Instant;

pub use ask::ask_network;
pub use run::{run, run_with};

#[expect(clippy::disallowed_methods, reason = "the shell reads the clock for the pure schedules")]
fn clock() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the shell draws the jitter for the pure schedules")]
fn system_rng() -> impl rand::Rng {
    rand::rng()
}
