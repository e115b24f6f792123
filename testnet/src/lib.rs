//! Private Tunic networks on one machine: launcher, simulator, acceptance tests.
//!
//! [`launch`] starts a whole network of real processes on loopback, [`sim`] runs one of the pure cores in memory, on
//! virtual time, [`lab`] plays the eavesdropper, [`chaos`] breaks things. Nothing else in the workspace knows about either.
#![forbid(unsafe_code)]

pub mod chaos;
pub mod cli;
mod container;
mod demo;
pub mod lab;
pub mod launch;
pub mod netns;
mod role;
pub mod screen;
pub mod sim;
