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
