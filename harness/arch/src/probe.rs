//! Accesses that may fault, and what an exception handler does about them.
//!
//! A probe is the only place where a payload expects an exception. The handler asks [`resume`] whether the
//! exception belongs to a probe; if so it writes 0 to x0 and the syndrome to x1 of the interrupted context, a
//! [`Probed`], and goes on at the address it was given. Everything else is unexpected.

use core::arch::global_asm;

global_asm!(include_str!("probe.S"));

/// What a probe brought back.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Probed {
    /// The value loaded, or returned by what was called; 0 for a store, and where `esr` is not 0.
    pub value: u64,
    /// ESR_ELx of the exception that the access took, 0 if it took none.
    pub esr: u64,
}

// SAFETY: declared as probe.S defines them: AAPCS64 functions, and labels of which only the address is taken.
unsafe extern "C" {
    fn probe_load(va: u64) -> Probed;
    fn probe_load32(va: u64) -> Probed;
    fn probe_store(va: u64, value: u64) -> Probed;
    fn probe_user_load(va: u64) -> Probed;
    fn probe_user_store(va: u64, value: u64) -> Probed;
    fn probe_swap(va: u64, value: u64) -> Probed;
    fn probe_exclusive(va: u64, value: u64, failed: &mut u64) -> Probed;
    fn probe_clean(va: u64) -> Probed;
    fn probe_translate(va: u64) -> Probed;
    fn probe_translate_el2(va: u64) -> Probed;
    fn probe_fetch(va: u64) -> Probed;
    fn probe_user_fetch(va: u64) -> Probed;
    fn probe_load_behind_hvc(function: u64, x1: u64, x2: u64, x3: u64, va: u64) -> Probed;
    safe static probe_begin: u8;
    safe static probe_end: u8;
    safe static probe_fetch_return: u8;
    safe static probe_user_fetch_return: u8;
}

/// A 64-bit load.
///
/// # Safety
/// The vectors in use must honour [`resume`]. A load from `va` has no side effects.
#[inline]
pub unsafe fn load(va: u64) -> Probed {
    // SAFETY: the caller's.
    unsafe { probe_load(va) }
}

/// A 32-bit load.
///
/// # Safety
/// As for [`load`].
#[inline]
pub unsafe fn load32(va: u64) -> Probed {
    // SAFETY: the caller's.
    unsafe { probe_load32(va) }
}

/// A 64-bit store.
///
/// # Safety
/// The vectors in use must honour [`resume`]. Nothing that the program relies on is at `va`.
#[inline]
pub unsafe fn store(va: u64, value: u64) -> Probed {
    // SAFETY: the caller's.
    unsafe { probe_store(va, value) }
}

/// A 64-bit load with the permissions of EL0.
///
/// # Safety
/// As for [`load`].
#[inline]
pub unsafe fn user_load(va: u64) -> Probed {
    // SAFETY: the caller's.
    unsafe { probe_user_load(va) }
}

/// A 64-bit store with the permissions of EL0.
///
/// # Safety
/// As for [`store`].
#[inline]
pub unsafe fn user_store(va: u64, value: u64) -> Probed {
    // SAFETY: the caller's.
    unsafe { probe_user_store(va, value) }
}

/// A 64-bit atomic swap with acquire and release; the value is what was there.
///
/// # Safety
/// As for [`store`], and the CPU has FEAT_LSE.
#[inline]
pub unsafe fn swap(va: u64, value: u64) -> Probed {
    // SAFETY: the caller's.
    unsafe { probe_swap(va, value) }
}

/// A load-exclusive, whose value it brings back, and one attempt of a store-exclusive behind it; whether that failed.
///
/// # Safety
/// As for [`store`].
#[inline]
pub unsafe fn exclusive(va: u64, value: u64) -> (Probed, bool) {
    let mut failed = 1;
    // SAFETY: the caller's.
    let probed = unsafe { probe_exclusive(va, value, &mut failed) };
    (probed, failed != 0)
}

/// DC CVAC. The value is 0.
///
/// # Safety
/// The vectors in use must honour [`resume`].
#[inline]
pub unsafe fn clean(va: u64) -> Probed {
    // SAFETY: the caller's.
    unsafe { probe_clean(va) }
}

/// AT S1E1R; the value is PAR_EL1.
///
/// # Safety
/// None of the program's own is in PAR_EL1.
#[inline]
pub unsafe fn translate(va: u64) -> Probed {
    // SAFETY: the caller's.
    unsafe { probe_translate(va) }
}

/// AT S1E2R, from EL2; the value is PAR_EL1.
///
/// # Safety
/// As for [`translate`].
#[inline]
pub unsafe fn translate_el2(va: u64) -> Probed {
    // SAFETY: the caller's.
    unsafe { probe_translate_el2(va) }
}

/// A call to `va`, that is an instruction fetch. The value is what the code there left in x0.
///
/// # Safety
/// The vectors in use must honour [`resume`]. Whatever executable memory `va` can reach holds code that changes x0
/// and returns, or data that is an undefined instruction.
#[inline]
pub unsafe fn fetch(va: u64) -> Probed {
    // SAFETY: the caller's.
    unsafe { probe_fetch(va) }
}

/// As [`fetch`], at EL0: a jump to `va`, where code leaves a value in x0 and executes SVC.
///
/// # Safety
/// The vectors in use must honour [`resume`] for exceptions from EL0 too, with x0 left as it is if it was an SVC. Whatever
/// executable memory `va` can reach holds code that changes x0 and executes SVC, or data that is an undefined instruction. No
/// exception handler is on its way on this PE: what it has in ELR_EL1 and SPSR_EL1 is lost.
#[inline]
pub unsafe fn user_fetch(va: u64) -> Probed {
    // SAFETY: the caller's.
    unsafe { probe_user_fetch(va) }
}

/// HVC #0 with `function` and `arguments` in x0 to x3, then a 64-bit load; for a hypercall that injects an
/// exception at the instruction behind it.
///
/// # Safety
/// As for [`load`], and the hypercall keeps the program's memory and its registers from x4 up. `va` must not fault:
/// this load is not one that [`resume`] knows.
#[inline]
pub unsafe fn load_behind_hvc(function: u32, arguments: [u64; 3], va: u64) -> Probed {
    let [x1, x2, x3] = arguments;
    // SAFETY: the caller's.
    unsafe { probe_load_behind_hvc(u64::from(function), x1, x2, x3, va) }
}

/// Where to go on after an exception taken at `pc` with `lr` in x30, if it was taken by a probe.
#[inline]
pub fn resume(pc: u64, lr: u64) -> Option<u64> {
    let [begin, end] = [&raw const probe_begin, &raw const probe_end].map(|label| label as u64);
    let returns = [&raw const probe_fetch_return, &raw const probe_user_fetch_return].map(|label| label as u64);
    if (begin..end).contains(&pc) {
        Some(pc + 4)
    } else if returns.contains(&lr) && pc != lr {
        Some(lr)
    } else {
        None
    }
}
