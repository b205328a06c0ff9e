//! The generic timer: one counter for all PEs, and each PE's EL1 physical, EL1 virtual and EL2 physical timer.
//!
//! The counter counts executed instructions: a run replays exactly, and time as software sees it does not depend on
//! the host. Where all PEs sleep it jumps to the next timer's value.

use crate::sysreg::{Id, Registers};

/// CNTFRQ_EL0: ticks, which are executed instructions, in a second. As low as real counters have it, so that what waits for a time-out waits for fewer
/// instructions.
pub const FREQUENCY: u64 = 10_000_000;

/// CNT*_CTL: the timer is on.
const ENABLE: u64 = 1 << 0;
/// CNT*_CTL: its interrupt is masked.
const IMASK: u64 = 1 << 1;
/// CNT*_CTL: its condition is met. Read-only.
const ISTATUS: u64 = 1 << 2;

/// A timer: its registers, its INTID, and whether it counts virtually.
struct Timer {
    control: Id,
    value: Id,
    intid: u32,
    is_virtual: bool,
}

/// The timers of a PE.
const TIMERS: [Timer; 3] = [
    Timer { control: Id::CNTHP_CTL_EL2, value: Id::CNTHP_CVAL_EL2, intid: 26, is_virtual: false },
    Timer { control: Id::CNTV_CTL_EL0, value: Id::CNTV_CVAL_EL0, intid: 27, is_virtual: true },
    Timer { control: Id::CNTP_CTL_EL0, value: Id::CNTP_CVAL_EL0, intid: 30, is_virtual: false },
];

/// The lines of a PE's timers at time `now`: bit n is INTID n.
#[must_use]
pub(crate) fn levels(registers: &Registers, now: u64) -> u32 {
    TIMERS
        .iter()
        .filter(|timer| registers.get(timer.control) & (ENABLE | IMASK) == ENABLE && timer.due(registers) <= now)
        .fold(0, |lines, timer| lines | 1 << timer.intid)
}

/// The next time, after `now`, at which a line of a PE's timers rises.
#[must_use]
pub(crate) fn next(registers: &Registers, now: u64) -> Option<u64> {
    let counting = TIMERS.iter().filter(|timer| registers.get(timer.control) & (ENABLE | IMASK) == ENABLE);
    counting.map(|timer| timer.due(registers)).filter(|due| *due > now).min()
}

/// What CNT*_CTL `control` reads at time `now`.
#[must_use]
pub(crate) fn read_control(registers: &Registers, control: Id, now: u64) -> u64 {
    let value = registers.get(control);
    let met = TIMERS.iter().any(|timer| timer.control == control && value & ENABLE != 0 && timer.due(registers) <= now);
    if met { value | ISTATUS } else { value }
}

/// What CNT*_TVAL of the timer with the compare value `value` reads at time `now` of its own counter.
#[must_use]
pub(crate) fn read_timer_value(value: u64, now: u64) -> u64 {
    value.wrapping_sub(now) & 0xffff_ffff
}

/// The compare value that writing `timer_value` to CNT*_TVAL sets at time `now` of the timer's own counter.
#[must_use]
pub(crate) fn compare_value(timer_value: u64, now: u64) -> u64 {
    now.wrapping_add_signed(i64::from(timer_value as i32))
}

impl Timer {
    /// When its condition is met, in ticks of the physical counter.
    fn due(&self, registers: &Registers) -> u64 {
        let offset = if self.is_virtual { registers.get(Id::CNTVOFF_EL2) } else { 0 };
        registers.get(self.value).saturating_add(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_follow_time_and_controls() {
        let mut registers = Registers::default();
        registers.set(Id::CNTHP_CVAL_EL2, 100);
        registers.set(Id::CNTV_CVAL_EL0, 50);
        registers.set(Id::CNTVOFF_EL2, 20);
        assert_eq!((levels(&registers, 1000), next(&registers, 0)), (0, None));
        registers.set(Id::CNTHP_CTL_EL2, ENABLE);
        registers.set(Id::CNTV_CTL_EL0, ENABLE);
        assert_eq!(next(&registers, 0), Some(70));
        assert_eq!((levels(&registers, 69), levels(&registers, 70)), (0, 1 << 27));
        assert_eq!(next(&registers, 70), Some(100));
        assert_eq!(levels(&registers, 100), 1 << 27 | 1 << 26);
        registers.set(Id::CNTV_CTL_EL0, ENABLE | IMASK);
        assert_eq!(levels(&registers, 100), 1 << 26);
        assert_eq!(read_control(&registers, Id::CNTV_CTL_EL0, 100), ENABLE | IMASK | ISTATUS);
    }

    #[test]
    fn timer_values_are_signed_distances() {
        assert_eq!(compare_value(0xffff_ffff, 100), 99);
        assert_eq!(compare_value(1, 100), 101);
        assert_eq!(read_timer_value(99, 100), 0xffff_ffff);
    }
}
