//! Cache maintenance by VA. Lengths are in bytes; ranges are widened to whole lines.

use core::arch::asm;

use crate::barrier;

/// Smallest data cache line of the system in bytes, CTR_EL0.DminLine.
#[inline]
fn data_line() -> usize {
    4 << ((crate::read_sysreg!("ctr_el0") >> 16) & 0xf)
}

/// Smallest instruction cache line of the system in bytes, CTR_EL0.IminLine.
#[inline]
fn instruction_line() -> usize {
    4 << (crate::read_sysreg!("ctr_el0") & 0xf)
}

macro_rules! by_line {
    ($text:literal, $line:expr, $start:expr, $len:expr) => {{
        let line = $line;
        let mut at = $start & !(line - 1);
        while at < $start + $len {
            // SAFETY: cleaning, or cleaning and invalidating, loses no data; invalidating instructions only
            // makes them be fetched again. The address is the caller's memory, so it is mapped.
            unsafe { asm!(concat!($text, ", {}"), in(reg) at, options(nostack, preserves_flags)) }
            at += line;
        }
    }};
}

/// Cleans and invalidates `[start, start + len)` to the Point of Coherency, and waits.
pub fn clean_invalidate_poc(start: usize, len: usize) {
    // Maintenance is ordered against accesses to Device memory, which all are with the MMU off, by a barrier only.
    barrier::dsb_sy();
    by_line!("dc civac", data_line(), start, len);
    barrier::dsb_sy();
}

/// Cleans `[start, start + len)` to the Point of Coherency; a DSB has to wait for it.
pub fn clean_poc(start: usize, len: usize) {
    by_line!("dc cvac", data_line(), start, len);
}

/// Cleans the line of `address` to the Point of Coherency; a DSB has to wait for it.
#[inline]
pub fn clean_line_poc(address: usize) {
    // SAFETY: cleaning loses no data; the address is the caller's memory, so it is mapped.
    unsafe { asm!("dc cvac, {}", in(reg) address, options(nostack, preserves_flags)) }
}

/// Zeroes `[start, start + len)`, multiples of 8: by DC ZVA, where the CPU lets this EL.
///
/// # Safety
/// It is Normal memory, mapped for writing, which nobody else uses and in which nothing of Rust lives.
pub unsafe fn zero(start: usize, len: usize) {
    /// DCZID_EL0.DZP: DC ZVA is prohibited.
    const DZP: u64 = 1 << 4;
    let dczid = crate::read_sysreg!("dczid_el0");
    let end = start + len;
    let mut at = start;
    if dczid & DZP == 0 {
        let block = 4 << (dczid & 0xf);
        let first = start.next_multiple_of(block).min(end);
        let last = first.max(end & !(block - 1));
        // SAFETY: the caller's promise, of the part in front of the first block.
        unsafe { zero_words(start, first) };
        at = first;
        while at < last {
            // SAFETY: the caller's promise; the block is inside, since both its ends are.
            unsafe { asm!("dc zva, {}", in(reg) at, options(nostack, preserves_flags)) }
            at += block;
        }
    }
    // SAFETY: the caller's promise.
    unsafe { zero_words(at, end) };
}

/// # Safety
/// As of [`zero`].
unsafe fn zero_words(start: usize, end: usize) {
    for at in (start..end).step_by(size_of::<u64>()) {
        // SAFETY: the caller's promise.
        unsafe { (at as *mut u64).write(0) };
    }
}

/// Makes code written to `[start, start + len)` executable on every PE of the Inner Shareable domain: cleans to the
/// Point of Unification, invalidates instruction caches, synchronises this PE. Other PEs need an ISB of their own.
pub fn sync_code(start: usize, len: usize) {
    by_line!("dc cvau", data_line(), start, len);
    barrier::dsb_ish();
    by_line!("ic ivau", instruction_line(), start, len);
    barrier::dsb_ish();
    barrier::isb();
}

/// Invalidates all instruction caches of the Inner Shareable domain and synchronises this PE.
pub fn invalidate_instructions() {
    // SAFETY: instructions are only fetched again.
    unsafe { asm!("ic ialluis", options(nostack, preserves_flags)) }
    barrier::dsb_ish();
    barrier::isb();
}
