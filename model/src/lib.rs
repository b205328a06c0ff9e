//! An A64 machine, in this process, whose TLB is as nasty as the architecture allows.
//!
//! It runs the same Image and bundle as QEMU and boards, one instruction of one PE after the other. Whatever the
//! architecture leaves open (which PE goes on, what a TLB keeps, what a walker sees, when a TLBI takes effect) is
//! decided by one seeded source of choices, so that every run can be had again from its seed.
#![forbid(unsafe_code)]

pub mod a64;
pub mod choice;
mod control;
mod exception;
mod fdt;
mod gic;
pub mod machine;
mod memory;
pub mod mmu;
mod pe;
mod psci;
mod schedule;
mod semihosting;
mod sysreg;
mod timer;
pub mod trace;
mod uart;
