//! What hv answers in the place of hardware: ID registers, and accesses that stage 2 refused.

use vmsa::BbmLevel;

use crate::vcpu::Frame;

/// Reads ID register `S3_0_C0_C<crm>_<op2>`, the group that HCR_EL2.TID3 traps.
fn read_group3(crm: u64, op2: u64) -> u64 {
    macro_rules! read {
        ($($crm:literal: $($op2:literal)+);+ $(;)?) => {
            match (crm, op2) {
                $($(($crm, $op2) => arch::read_sysreg!(concat!("S3_0_C0_C", $crm, "_", $op2)),)+)+
                _ => 0,
            }
        };
    }
    read! {
        1: 0 1 2 3 4 5 6 7;
        2: 0 1 2 3 4 5 6 7;
        3: 0 1 2 3 4 5 6 7;
        4: 0 1 2 3 4 5 6 7;
        5: 0 1 2 3 4 5 6 7;
        6: 0 1 2 3 4 5 6 7;
        7: 0 1 2 3 4 5 6 7;
    }
}

/// Serves a trapped read of ID group 3, ID_AA64MMFR2_EL1 with its BBM field lowered to `cap`. Returns whether it
/// was one.
pub(crate) fn id_register(frame: &mut Frame, cap: u8) -> bool {
    let iss = frame.esr;
    let field = |shift: u32, bits: u32| iss >> shift & ((1 << bits) - 1);
    let (op0, op2, op1, crn) = (field(20, 2), field(17, 3), field(14, 3), field(10, 4));
    let (rt, crm, is_read) = (field(5, 5) as usize, field(1, 4), field(0, 1) == 1);
    if (op0, op1, crn) != (3, 0, 0) || !(1..=7).contains(&crm) || !is_read {
        return false;
    }
    let mut value = read_group3(crm, op2);
    if (crm, op2) == (7, 2)
        && let Some(cap) = BbmLevel::from_number(cap)
    {
        value = cap.cap(value);
    }
    if let Some(x) = frame.x.get_mut(rt) {
        *x = value; // x31 is XZR
    }
    frame.skip();
    true
}

/// Answers an access that stage 2 refused with a synchronous External abort at EL1, as a bus would.
pub(crate) fn external_abort(frame: &mut Frame, ec_lower: u64) {
    const IL: u64 = 1 << 25;
    const WNR: u64 = 1 << 6;
    const S1PTW: u64 = 1 << 7;
    // On a table walk the code has the level in its low bits; that of the stage 2 fault stands in for it.
    let fsc = if frame.esr & S1PTW != 0 { 0b01_0100 | frame.esr & 3 } else { 0b01_0000 };
    let from_el0 = frame.pstate & 0xf == 0;
    // The EC for an abort from the same EL is one above that from a lower one.
    let ec = if from_el0 { ec_lower } else { ec_lower + 1 };
    frame.inject(ec << 26 | IL | frame.esr & WNR | fsc, frame.far);
}
