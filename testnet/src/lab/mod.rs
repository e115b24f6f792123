//! The linkability lab: what somebody who sees only packets can tell about who visits what, and what each class of padding
//! does about it.
//!
//! 1. `wires` lays lines between clients, relays and sites, some of them slow.
//! 2. A network of real processes starts on them, with twelve clients for each kind of line (`clients`).
//! 3. The `observer`, a process of its own, writes a `trace` of packets on the lines of clients and sites.
//! 4. The `load` follows a seeded `schedule` of visits to synthetic `sites`, and keeps the `truth`.
//! 5. Classifiers in Python (`testnet/lab`) get both files and say what the trace gives away (`analysis`).

mod analysis;
mod args;
mod clients;
mod load;
pub mod observer;
mod run;
mod schedule;
mod server;
mod sites;
pub mod trace;
mod truth;
mod wires;

pub use args::{EXAMPLES, LabArgs};
pub use run::run;
