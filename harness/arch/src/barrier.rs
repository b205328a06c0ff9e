//! Barriers, each also a compiler barrier, and hints.

use core::arch::asm;

macro_rules! barrier {
    ($($(#[$meta:meta])* $name:ident = $text:literal),+ $(,)?) => {
        $(
            $(#[$meta])*
            #[inline(always)]
            pub fn $name() {
                // SAFETY: a barrier only restricts reordering.
                unsafe { asm!($text, options(nostack, preserves_flags)) }
            }
        )+
    };
}

barrier! {
    /// DSB ISH: completes this PE's accesses and its TLBIs of the Inner Shareable domain.
    dsb_ish = "dsb ish",
    /// DSB OSH: as DSB ISH, of the Outer Shareable domain.
    dsb_osh = "dsb osh",
    /// DSB ISHST: completes stores, so that walkers see them; does not complete a TLBI.
    dsb_ishst = "dsb ishst",
    /// DSB ISHLD: completes loads; neither stores nor TLBIs.
    dsb_ishld = "dsb ishld",
    /// DSB NSHST: completes stores, so that this PE's walker sees them.
    dsb_nshst = "dsb nshst",
    /// DSB NSH: completes local TLBIs.
    dsb_nsh = "dsb nsh",
    /// DSB SY.
    dsb_sy = "dsb sy",
    /// DMB ISH.
    dmb_ish = "dmb ish",
    /// ISB: context synchronisation on this PE.
    isb = "isb",
}

/// Waits for an interrupt or a wake-up event; returns on a pending interrupt even where it is masked.
#[inline(always)]
pub fn wfi() {
    // SAFETY: WFI only waits. The DSB makes prior stores visible before the PE may sleep.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) }
}

/// A hint to the PE, and to an emulator, that this is a spin loop.
#[inline(always)]
pub fn spin() {
    // SAFETY: YIELD is a hint.
    unsafe { asm!("yield", options(nostack, preserves_flags, nomem)) }
}

/// Lets a moment pass: one instruction, which neither the compiler nor the PE may drop.
#[inline(always)]
pub fn pass() {
    // SAFETY: NOP does nothing.
    unsafe { asm!("nop", options(nostack, preserves_flags, nomem)) }
}

/// Marks the trace of a simulated PE, if one is kept: HINT `NUMBER`, of the unallocated hints, which every CPU executes as
/// a NOP. `values` are what x0 to x3 hold.
#[inline(always)]
pub fn mark<const NUMBER: u8>(values: [u64; 4]) {
    let [x0, x1, x2, x3] = values;
    // SAFETY: an unallocated HINT is a NOP.
    unsafe {
        asm!(
            "hint #{number}",
            number = const NUMBER,
            in("x0") x0,
            in("x1") x1,
            in("x2") x2,
            in("x3") x3,
            options(nostack, preserves_flags, nomem),
        );
    }
}
