//! The Tunic directory authority: a pure core that knows relays, votes and signs, and the daemon around it.
#![forbid(unsafe_code)]

pub mod core;
