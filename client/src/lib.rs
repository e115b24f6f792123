//! The Tunic client: a library that connects streams through circuits, and a daemon with a SOCKS5 port on top of it.
#![forbid(unsafe_code)]

pub mod core;
