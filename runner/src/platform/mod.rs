//! Where instances run. Each platform starts machines that are a [`Target`](crate::target::Target); nothing outside
//! this module knows how.

pub mod model;
pub mod qemu;
