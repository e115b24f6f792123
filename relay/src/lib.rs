//! The Tunic relay: passes circuits on, connects to the internet as an exit where its operator allows it, and mirrors
//! the consensus.
//!
//! `core` decides and is pure; `net` does what was decided.
#![forbid(unsafe_code)]

pub mod config;
pub mod core;
