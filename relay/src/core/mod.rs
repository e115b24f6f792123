//! What a relay decides, without I/O, clocks or randomness of its own.

pub mod accounting;
pub mod backoff;
pub mod descriptor;
pub mod directory_view;
pub mod dns_cache;
pub mod exit;
pub mod fetch;
pub mod files;
pub mod memory;
pub mod name;
pub mod publish;
pub mod relief;
pub mod top;
