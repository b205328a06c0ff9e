//! Payload of the selftests.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

#[cfg(target_os = "none")]
payload::payload!(Selftest, payload::selftest::run);

#[cfg(not(target_os = "none"))]
fn main() {}
