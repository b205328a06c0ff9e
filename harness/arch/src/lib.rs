//! Registers, barriers, TLB and cache maintenance: the home of asm.
//!
//! hv and payloads reach the machine through this crate. What can be executed without breaking a Rust
//! guarantee (a barrier, a TLB invalidation) is a safe function; what can (a cache invalidation that drops
//! data) is not. On hosts the crate is empty.
#![no_std]

#[cfg(target_os = "none")]
pub mod barrier;
#[cfg(target_os = "none")]
pub mod cache;
#[cfg(target_os = "none")]
pub mod counter;
#[cfg(target_os = "none")]
pub mod id;
#[cfg(target_os = "none")]
pub mod probe;
#[cfg(target_os = "none")]
pub mod relocate;
#[cfg(target_os = "none")]
pub mod sequence;
#[cfg(target_os = "none")]
pub mod tlbi;

#[cfg(target_os = "none")]
core::arch::global_asm!(include_str!("mem.S"));

/// Reads a system register that aarch64-cpu does not name, by its assembler name or `S3_…` encoding.
///
/// The read has no side effects; the caller picks a register that is readable at its EL.
#[cfg(target_os = "none")]
#[macro_export]
macro_rules! read_sysreg {
    ($name:expr) => {{
        let value: u64;
        // SAFETY: reading an ID or status register changes no state; an UNDEFINED one traps and is reported.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }};
}

/// Writes a system register by its assembler name or `S3_…` encoding.
///
/// Must stand in an `unsafe` block: what the write does to the program is for the caller to argue. Unlike
/// aarch64-cpu's writes this one is a compiler barrier, so that stores before it are not moved behind it.
#[cfg(target_os = "none")]
#[macro_export]
macro_rules! write_sysreg {
    ($name:literal, $value:expr) => {
        core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) $value as u64, options(nostack, preserves_flags))
    };
}
