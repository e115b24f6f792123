//! What the client tells a person about itself: the report, what is wrong in words, the page that shows it, and the local
//! requests that ask for it (docs/client-api.md).
//!
//! 1. The shell gathers [`diagnose::Facts`] and a [`report::Report`] without findings.
//! 2. [`diagnose::diagnose`] says what is wrong and what to do about it; [`journal::Journal`] remembers what failed lately.
//! 3. [`http`] judges a request and says what it wants; [`page`] and JSON are the two ways to answer it.

pub mod diagnose;
pub mod http;
pub mod journal;
pub mod neighbour;
pub mod page;
pub mod rates;
pub mod report;
