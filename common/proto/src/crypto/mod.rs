//! Cryptography of circuits: the handshake that agrees on keys ([`handshake`], docs/protocol.md §4), the fragments in
//! which it travels ([`fragment`], §4.3 and §6.2), and the layers that use the keys ([`layer`], §5).

mod client_layers;
pub mod fragment;
pub mod handshake;
mod kem;
pub mod layer;
mod replay;
pub(crate) mod x25519;
