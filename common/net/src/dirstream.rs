//! The directory exchange over a stream (docs/protocol.md §8).
