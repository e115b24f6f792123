//! Whole networks of the protocol's pure cores in memory, on virtual time, from one seed.
//!
//! 1. A [`World`] holds nodes (clients, relays, raw peers that the test plays itself) and the connections between
//!    them. Each direction of a connection has a delay, may have a rate, and may have a [`Tamper`] that changes what
//!    passes.
//! 2. [`World::run_until`] lets everything that can act now act, until nobody can; then time jumps to the next
//!    delivery or timer.
//! 3. Whatever is random comes from the seed, and one thread does everything in turn: the same seed gives the same
//!    [`World::trace`].

mod act;
mod apps;
mod authorities;
mod dirs;
mod guard;
mod link;
mod look;
mod node;
mod raw;
mod ready;
mod world;

pub use apps::{App, Next, Report, Transfer, service, source};
pub use authorities::Authorities;
pub use dirs::{Answer, DirService, Ticket};
pub use link::{Closed, EndId, LinkSpec, Tamper};
pub use node::{NodeId, Reach};
pub use raw::{RawCircuit, RawHop};
pub use world::World;
