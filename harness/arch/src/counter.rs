//! The generic timer's counter as a clock.

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, CNTVCT_EL0, Readable};

use crate::barrier;

/// The physical counter, in ticks; not read before the instructions in front of it are done.
#[inline]
pub fn physical() -> u64 {
    barrier::isb();
    CNTPCT_EL0.get()
}

/// The virtual counter, in ticks, read without ordering: for time-outs.
#[inline]
pub fn now() -> u64 {
    CNTVCT_EL0.get()
}

/// Ticks in a second.
#[inline]
pub fn frequency() -> u64 {
    CNTFRQ_EL0.get().max(1)
}

/// Ticks in `ms` milliseconds.
#[inline]
pub fn ticks(ms: u64) -> u64 {
    frequency() / 1000 * ms
}

/// Nanoseconds in `ticks`.
#[inline]
pub fn nanoseconds(ticks: u64) -> u64 {
    (u128::from(ticks) * 1_000_000_000 / u128::from(frequency())) as u64
}

/// Has the cycle counter, PMCCNTR_EL0, count at EL2 on this CPU; says whether it has one. EL1 is to be kept out of the PMU by who
/// calls this at EL2.
pub fn count_cycles() -> bool {
    /// PMCCFILTR_EL0.NSH: count at EL2.
    const AT_EL2: u64 = 1 << 27;
    /// PMCNTENSET_EL0.C.
    const CYCLES: u64 = 1 << 31;
    /// PMCR_EL0: E, and LC for all 64 bits.
    const ENABLE: u64 = 1 | 1 << 6;
    // ID_AA64DFR0_EL1.PMUVer: 0 is none, 15 one that is not of this architecture.
    let there = !matches!(crate::read_sysreg!("id_aa64dfr0_el1") >> 8 & 0xf, 0 | 0xf);
    if there {
        let control = crate::read_sysreg!("pmcr_el0") | ENABLE;
        // SAFETY: the PMU counts and does nothing else, its interrupts being off at reset and left so.
        unsafe {
            crate::write_sysreg!("pmccfiltr_el0", AT_EL2);
            crate::write_sysreg!("pmcntenset_el0", CYCLES);
            crate::write_sysreg!("pmcr_el0", control);
        }
        barrier::isb();
    }
    there
}
