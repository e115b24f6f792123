//! What one neighbour may ask of a relay or an authority, so that none of them keeps the others out
//! (docs/protocol.md §12).
//!
//! 1. [`Door`] decides whether a connection from an address may become a channel, and whether a circuit that is asked for
//!    there may be answered. It counts by address and by subnet, in a table whose size is fixed.
//! 2. [`TurnQueue`] orders what waits for a core, circuit handshakes and streams: neighbours take turns, and where there are
//!    too many, the oldest of whoever has the most waiting is given up.
//! 3. [`StreamRates`] holds each circuit to a rate of new streams.
//! 4. [`Bucket`] holds all of them together to a rate of bytes.
//! 5. [`oldest_first`] says what goes when memory runs out, and [`would_help`] whether that helps.
//! 6. [`Params`] says how much of each, from the consensus or from the operator.
//!
//! Time comes in as an argument, and nothing here knows what it protects.

mod bucket;
mod door;
mod latency;
mod network;
mod params;
mod rate;
mod shed;
mod streams;
mod turns;

pub use bucket::{Bucket, Throughput};
pub use door::{Door, MAX_NETWORKS, Refusal, Ticket};
pub use latency::Latency;
pub use network::Networks;
pub use params::{Overrides, Params};
pub use rate::{Pace, Rate};
pub use shed::{Holding, oldest_first, would_help};
pub use streams::StreamRates;
pub use turns::{Source, TurnQueue};
