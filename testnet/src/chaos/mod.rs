//! Chaos: a network of real processes, each in a network namespace of its own, a client that downloads all the while, and
//! faults, one after another.
//!
//! 1. `wires` joins the nodes and a web server, each in its namespace, to one bridge.
//! 2. The `load` downloads from the `server` through the client and checks every byte; the `record` keeps what came when.
//! 3. For each of the `faults`, `victims` says which nodes the client uses just now, and `strike` breaks them and mends them.
//! 4. The `report` says what the client noticed, and whether it recovered by itself.
//!
//! Namespaces and mounts belong to this process alone (`crate::netns`), so nothing of them is left however it ends.

mod args;
mod disk;
mod faults;
mod load;
mod record;
mod report;
mod run;
mod server;
mod strike;
mod victims;
mod wires;

pub use args::{ChaosArgs, EXAMPLES};
pub use run::run;
