//! What the wire promises: everything comes back as it was sent or not at all.
//!
//! One test binary; [`arbitrary`] makes the data, the other modules are named after what they test.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(missing_docs, reason = "tests")]

mod arbitrary;
mod compatibility;
mod golden;
mod plan;
mod reader;
mod record;
