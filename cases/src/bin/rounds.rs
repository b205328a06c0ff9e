//! Payload of all families of cases: rounds of a change under observers.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

#[cfg(target_os = "none")]
payload::payload!(Rounds, payload::round::run);

#[cfg(not(target_os = "none"))]
fn main() {}
