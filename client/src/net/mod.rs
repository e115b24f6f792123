//! The client's I/O: circuits over channels, the consensus from the network, the state on disk, the port for applications.

mod build;
mod client;
mod connect_error;
mod cover;
mod dial;
mod directory;
mod dns;
mod front;
mod manager;
mod monitor;
mod neighbour;
mod probe;
mod state;
mod status;
mod view;

use std::time::Instant;

use rand::rngs::StdRng;

pub use client::Client;
pub use connect_error::ConnectError;

#[expect(clippy::disallowed_methods, reason = "the shell's clock")]
fn now() -> Instant {
    Instant::now()
}

/// A generator seeded by the operating system.
fn new_rng() -> StdRng {
    rand::make_rng()
}
