//! Network documents and the directory exchange (docs/protocol.md §8 and §9).
