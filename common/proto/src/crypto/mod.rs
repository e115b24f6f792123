//! Cryptography of circuits: the handshake that agrees on keys and the layers that use them.
