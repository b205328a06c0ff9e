//! The one ABI that hypervisor, payloads and runner share, and nothing else.
//!
//! * [`abi`]: what lies between hv and a payload: image header, start-up page, hypercalls;
//! * [`plan`]: what the runner asks for, a text that people can write too;
//! * [`record`]: what comes back, and how it rides on a console that loses and mixes bytes.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod abi;
pub mod frame;
pub mod plan;
pub mod record;

/// Version of the records. A reader reads this one and every older one.
pub const PROTOCOL: u32 = 1;
