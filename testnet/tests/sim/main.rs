//! The protocol's promises, kept by whole networks in the simulator.

mod circuits;
mod extension;
mod flow;
mod hostile;
mod support;
mod tamper;
