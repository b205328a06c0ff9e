//! Exceptions taken at EL1.
//!
//! Two are expected: a probe's, which is told by its address (or, if it called what is in the window, at EL1 or at EL0, by its
//! link register; what ran at EL0 says by SVC that it is done), and a TLB conflict abort, which any access may meet
//! while tables change below level 3 of FEAT_BBM. A conflict is recovered by the architecture's TLBI and the
//! access tried again, first with what EL1 can do itself, then with what only EL2 can: with stage 2 on, just the
//! latter is guaranteed (R_BLRKC). Everything else goes to hv untouched.

use core::{arch::global_asm, sync::atomic::Ordering::Relaxed};

use arch::{barrier, probe, tlbi};
use vmsa::{outcome::Kind, remedy::Remedy};
use wire::abi::call;

use crate::{cpu, hypercall};

global_asm!(
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../arch/src/gprs.S")),
    include_str!("vectors.S"),
    UNEXPECTED = const call::HVC_UNEXPECTED,
    FRAME_SIZE = const size_of::<Frame>(),
    synchronous = sym synchronous,
);

// SAFETY: a label in vectors.S, of which only the address is taken.
unsafe extern "C" {
    safe static payload_vectors: u8;
}

/// VBAR_EL1.
pub(crate) fn vectors() -> u64 {
    &raw const payload_vectors as u64
}

/// SPSR.M, and two of its values: EL0 and EL1, each with its own stack pointer.
const MODE: u64 = 0x1f;
const EL0T: u64 = 0;
const EL1H: u64 = 5;
/// Lowest bit of ESR_EL1.EC.
const EC: u32 = 26;
/// EC of an SVC in AArch64.
const SVC: u64 = 0x15;

/// An interrupted context, as `vectors.S` stores and restores it.
#[repr(C, align(16))]
struct Frame {
    x: [u64; 31],
    elr: u64,
    spsr: u64,
}

/// Whether the exception is dealt with; the context goes on where `frame` says.
extern "C" fn synchronous(frame: &mut Frame, esr: u64, far: u64) -> bool {
    let cpu = cpu::this();
    let note = || {
        cpu.fault_pc.store(frame.elr, Relaxed);
        cpu.fault_address.store(far, Relaxed);
        cpu.fault_syndrome.store(esr, Relaxed);
    };
    if Kind::from_esr(esr) == Kind::Conflict {
        note();
        let injected = cpu.injecting.load(Relaxed) != 0;
        if let Some(remedy) = cpu.conflicts.taken(esr, far, frame.elr, cpu.phase.load(Relaxed), injected) {
            if !tlbi::remedy(remedy, cpu.conflicts.granule(), far) {
                hypercall::recover_conflict(remedy == Remedy::Alle1);
            }
            barrier::dsb_nsh();
            barrier::isb();
            return true;
        }
    }
    let Some(pc) = probe::resume(frame.elr, frame.x[30]) else { return false };
    note();
    let from_el0 = frame.spsr & MODE == EL0T;
    if from_el0 && esr >> EC == SVC {
        frame.x[1] = 0;
    } else {
        [frame.x[0], frame.x[1]] = [0, esr];
    }
    if from_el0 {
        // The probe goes on where it is at home, its exceptions masked as before.
        frame.spsr |= EL1H;
    }
    frame.elr = pc;
    true
}
