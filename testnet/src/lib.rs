//! Private Tunic networks on one machine: launcher, simulator, acceptance tests.
#![forbid(unsafe_code)]

pub mod sim;
