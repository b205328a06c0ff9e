//! Which PE goes on, and for how many instructions.
//!
//! One machine is one thread; its PEs take turns. Turns are short and of widely varying length, from a single instruction
//! on, so that any two PEs' instructions come in any order before long. A PE gives its turn up early where it waits
//! (YIELD, WFE, WFI) and, by choice, where the order of PEs matters most: at exclusives, barriers and TLB maintenance.

use crate::choice::{Choices, Odds, Point};

/// Instructions in a turn, each of these as likely as the others.
const TURNS: [u32; 16] = [1, 2, 3, 5, 8, 12, 20, 32, 50, 80, 128, 200, 320, 500, 500, 500];
/// Instructions in a turn where only one PE can run. Also bounds how late a timer is noticed.
const ALONE: u32 = 2000;
/// How often a turn ends at an instruction that orders PEs.
pub(crate) const AT_BARRIER: Odds = Odds::one_in(2);

/// Picks one of the PEs whose bits are set in `runnable`, of which there must be one, and the length of its turn.
#[inline]
pub(crate) fn turn(runnable: u8, choices: &mut Choices) -> (usize, u32) {
    if runnable.is_power_of_two() {
        return (runnable.trailing_zeros() as usize, ALONE);
    }
    let mut rest = runnable;
    for _ in 0..choices.pick(Point::Schedule, runnable.count_ones()) {
        rest &= rest - 1;
    }
    let length = TURNS[choices.pick(Point::Schedule, TURNS.len() as u32) as usize];
    (rest.trailing_zeros() as usize, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pe_that_can_run_does_and_no_other() {
        let mut choices = Choices::new(3);
        let mut turns = [0; 8];
        for _ in 0..4000 {
            turns[turn(0b1010_0110, &mut choices).0] += 1;
        }
        for (pe, turns) in turns.into_iter().enumerate() {
            assert_eq!(turns > 800, 0b1010_0110 >> pe & 1 == 1, "PE {pe}: {turns}");
        }
    }

    #[test]
    fn a_pe_alone_needs_no_choice() {
        let mut choices = Choices::new(3);
        assert_eq!(turn(0b100, &mut choices), (2, ALONE));
        assert_eq!(choices.drawn(), 0);
    }
}
