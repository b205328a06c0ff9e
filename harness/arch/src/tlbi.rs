//! TLB invalidation. Nothing here waits: a TLBI is complete only after a DSB (R_PSMWS).
//!
//! Addresses are given in bytes; the operand, `VA[55:12]` in bits 43 to 0 with TTL 0, is made here and nowhere else.

use core::arch::asm;

use aarch64_cpu::registers::{Readable, TCR_EL1};
pub use vmsa::tlbi::{ASID, ASID_SHIFT, OTHER_ASID};
use vmsa::{
    Granule,
    layout::{Format, Width},
    remedy::Remedy,
    tlbi::{Form, Operands, Target},
};

/// Xt of a TLBI by VA or IPA without ASID, TTL hint 0 ("any level").
#[inline(always)]
pub const fn operand(address: u64) -> u64 {
    (address >> 12) & ((1 << 44) - 1)
}

macro_rules! tlbi {
    ($($(#[$meta:meta])* $name:ident($($arg:ident $(, $xt:expr)?)?) = $text:literal),+ $(,)?) => {
        $(
            $(#[$meta])*
            #[inline(always)]
            pub fn $name($($arg: u64)?) {
                tlbi!(@emit $text $($arg $(, $xt)?)?);
            }
        )+
    };
    (@emit $text:literal $arg:ident) => {
        tlbi!(@emit $text $arg, operand)
    };
    (@emit $text:literal $arg:ident, $xt:expr) => {
        // SAFETY: dropping cached translations changes no mapping; a later walk reads the same tables.
        unsafe { asm!(concat!("tlbi ", $text, ", {}"), in(reg) $xt($arg), options(nostack, preserves_flags)) }
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
    /// By VA, the payload's ASID, all levels, Inner Shareable.
    vae1is(va, |va| operand(va) | ASID << ASID_SHIFT) = "vae1is",
    /// By VA, the payload's ASID, last level only, Inner Shareable.
    vale1is(va, |va| operand(va) | ASID << ASID_SHIFT) = "vale1is",
    /// The payload's ASID, what is not global, Inner Shareable.
    aside1is(asid, |asid| asid << ASID_SHIFT) = "aside1is",
    /// By VA, the other ASID, all levels, Inner Shareable.
    vae1is_other(va, |va| operand(va) | OTHER_ASID << ASID_SHIFT) = "vae1is",
    /// A mistake to be tested: as `vaae1is` with the address where its bits from 12 up belong.
    vaae1is_unshifted(va, |va: u64| va & ((1 << 44) - 1)) = "vaae1is",
    /// By VA, the payload's ASID, all levels, this PE only.
    vae1(va, |va| operand(va) | ASID << ASID_SHIFT) = "vae1",
    /// By VA, all ASIDs, all levels, this PE only.
    vaae1(va) = "vaae1",
    /// By VA, all ASIDs, last level only, this PE only.
    vaale1(va) = "vaale1",
    /// By VA in EL2's regime, Inner Shareable. From EL2; undefined at EL1.
    vae2is(va) = "vae2is",
    /// By VA in EL2's regime, last level only, Inner Shareable. From EL2.
    vale2is(va) = "vale2is",
    /// By VA in EL2's regime, this PE only. From EL2.
    vae2(va) = "vae2",
    /// By VA in EL2's regime, last level only, this PE only. From EL2.
    vale2(va) = "vale2",
    /// By VA, the payload's ASID, last level only, this PE only.
    vale1(va, |va| operand(va) | ASID << ASID_SHIFT) = "vale1",
    /// The payload's ASID, what is not global, this PE only.
    aside1(asid, |asid| asid << ASID_SHIFT) = "aside1",
    /// All of the current VMID's EL1&0 stage 1 entries, Inner Shareable.
    vmalle1is() = "vmalle1is",
    /// All of the current VMID's EL1&0 stage 1 entries, this PE only.
    vmalle1() = "vmalle1",
    /// Stage 2 entries by IPA, all levels, Inner Shareable. From EL2.
    ipas2e1is(ipa) = "ipas2e1is",
    /// Stage 2 entries by IPA, last level only, Inner Shareable. From EL2.
    ipas2le1is(ipa) = "ipas2le1is",
    /// Stage 2 entries by IPA, all levels, this PE only. From EL2.
    ipas2e1(ipa) = "ipas2e1",
    /// All of the current VMID's EL1&0 entries, stages 1 and 2, Inner Shareable. From EL2.
    vmalls12e1is() = "vmalls12e1is",
    /// Every EL1&0 entry of any VMID, Inner Shareable. From EL2.
    alle1is() = "alle1is",
    /// Every EL1&0 entry of any VMID, this PE only. From EL2.
    alle1() = "alle1",
    /// Every EL2 entry, Inner Shareable. From EL2.
    alle2is() = "alle2is",
    /// Every EL2 entry, this PE only. From EL2.
    alle2() = "alle2",
}

/// SYS #0, C`CRN`, C`CRM`, #`OP2`: what the TLBIs of EL1&0 are, whichever of their names the assembler knows.
#[inline(always)]
fn sys<const CRN: u8, const CRM: u8, const OP2: u8>(operand: u64) {
    if matches!(OP2, 0) {
        // Without an operand, Xt must be XZR.
        // SAFETY: dropping cached translations changes no mapping; a later walk reads the same tables.
        unsafe {
            asm!(
                "sys #0, c{crn}, c{crm}, #{op2}",
                crn = const CRN, crm = const CRM, op2 = const OP2,
                options(nostack, preserves_flags),
            );
        }
    } else {
        // SAFETY: the same.
        unsafe {
            asm!(
                "sys #0, c{crn}, c{crm}, #{op2}, {xt}",
                crn = const CRN, crm = const CRM, op2 = const OP2, xt = in(reg) operand,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// By a range that begins with the page of `va`, or with TCR_EL1.DS with the 64 KiB around it, all ASIDs, all levels, this PE
/// only. Needs FEAT_TLBIRANGE.
pub fn rvaae1(granule: Granule, va: u64) {
    /// TCR_EL1.DS.
    const DS: u64 = 1 << 59;
    let width = if TCR_EL1.get() & DS == 0 { Width::Bits48 } else { Width::Bits52 };
    let format = Format { granule, width };
    let unit = 1 << format.base_shift();
    // SCALE 0, no TTL, and as many pairs of pages as reach to the next unit.
    let num = (unit / granule.page_size()).div_ceil(2) - 1;
    sys::<8, 6, 3>(vmsa::tlbi::by_range(format, va & !(unit - 1), 0, 0, num, None));
}

/// The TLBI by which a conflict at `va` may be cleared, if EL1 has it too; says whether it has.
pub fn remedy(remedy: Remedy, granule: Granule, va: u64) -> bool {
    match remedy {
        Remedy::Vae1 => vae1(va),
        Remedy::Vaae1 => vaae1(va),
        Remedy::Vale1 => vale1(va),
        Remedy::Vaale1 => vaale1(va),
        Remedy::Aside1 => aside1(ASID),
        Remedy::Rvaae1 => rvaae1(granule, va),
        Remedy::Vmalle1 => vmalle1(),
        Remedy::Vmalls12e1 | Remedy::Alle1 => return false,
    }
    true
}

/// One TLBI of this encoding; says whether there is one.
fn execute(encoding: (u8, u8, u8), operand: u64) -> bool {
    macro_rules! among {
        ($($crn:literal: $($crm:literal = [$($op2:literal)+])+;)+) => {
            match encoding {
                $($($(($crn, $crm, $op2) => sys::<$crn, $crm, $op2>(operand),)+)+)+
                _ => return false,
            }
        };
    }
    among! {
        8: 1 = [0 1 2 3 5 7] 3 = [0 1 2 3 5 7] 7 = [0 1 2 3 5 7] 2 = [1 3 5 7] 5 = [1 3 5 7] 6 = [1 3 5 7];
        9: 1 = [0 1 2 3 5 7] 3 = [0 1 2 3 5 7] 7 = [0 1 2 3 5 7] 2 = [1 3 5 7] 5 = [1 3 5 7] 6 = [1 3 5 7];
    }
    true
}

/// `form`, aimed at `target`, with the operands that `number` chooses; one TLBI, or one for each leaf.
pub fn form(form: Form, target: Target, number: u64) {
    let Operands { first, step, count } = form.operands(target, number);
    for n in 0..count {
        assert!(execute(form.encoding(), first + n * step), "a form without an encoding");
    }
}
