//! TLB invalidation. Nothing here waits: a TLBI is complete only after a DSB (R_PSMWS).
//!
//! Addresses are given in bytes; the operand, `VA[55:12]` in bits 43 to 0 with TTL 0, is made here and nowhere else.

use core::arch::asm;

/// Xt of a TLBI by VA or IPA without ASID, TTL hint 0 ("any level").
#[inline(always)]
const fn operand(address: u64) -> u64 {
    (address >> 12) & ((1 << 44) - 1)
}

macro_rules! tlbi {
    ($($(#[$meta:meta])* $name:ident($($arg:ident)?) = $text:literal),+ $(,)?) => {
        $(
            $(#[$meta])*
            #[inline(always)]
            pub fn $name($($arg: u64)?) {
                tlbi!(@emit $text $($arg)?);
            }
        )+
    };
    (@emit $text:literal $arg:ident) => {
        // SAFETY: dropping cached translations changes no mapping; a later walk reads the same tables.
        unsafe { asm!(concat!("tlbi ", $text, ", {}"), in(reg) operand($arg), options(nostack, preserves_flags)) }
    };
    (@emit $text:literal) => {
        // SAFETY: dropping cached translations changes no mapping; a later walk reads the same tables.
        unsafe { asm!(concat!("tlbi ", $text), options(nostack, preserves_flags)) }
    };
}

tlbi! {
    /// By VA, all ASIDs, all levels, Inner Shareable.
    vaae1is(va) = "vaae1is",
    /// By VA, all ASIDs, last level only, Inner Shareable.
    vaale1is(va) = "vaale1is",
    /// By VA, all ASIDs, all levels, this PE only.
    vaae1(va) = "vaae1",
    /// All of the current VMID's EL1&0 stage 1 entries, Inner Shareable.
    vmalle1is() = "vmalle1is",
    /// All of the current VMID's EL1&0 stage 1 entries, this PE only.
    vmalle1() = "vmalle1",
    /// All of the current VMID's EL1&0 entries, stages 1 and 2, Inner Shareable. From EL2.
    vmalls12e1is() = "vmalls12e1is",
    /// Every EL1&0 entry of any VMID, Inner Shareable. From EL2.
    alle1is() = "alle1is",
    /// Every EL2 entry, Inner Shareable. From EL2.
    alle2is() = "alle2is",
    /// Every EL2 entry, this PE only. From EL2.
    alle2() = "alle2",
}
