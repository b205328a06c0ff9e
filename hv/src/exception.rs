//! Exceptions that EL2 takes from itself: TLB conflict aborts are recovered, everything else is the end.

use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_cpu::registers::{ESR_EL2, FAR_EL2, HPFAR_EL2, Readable};
use wire::record::{Place, Recovery};

use crate::{conflict, smp};

/// Registers at the exception, as vectors.S stores and restores them.
#[repr(C)]
pub(crate) struct OwnFrame {
    x: [u64; 31],
    elr: u64,
    spsr: u64,
}

/// Bytes that vectors.S makes room for: the frame, rounded up to SP's alignment.
pub(crate) const OWN_FRAME_SIZE: usize = (size_of::<OwnFrame>() + 15) & !15;

/// Set while hv raises a conflict abort by itself.
static INJECTING: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    /// As if the instruction after the call had taken the exception; see vectors.S.
    fn own_inject(esr: u64, far: u64);
}

/// Raises a conflict abort at EL2 for EL2's own translation, through the real vector.
pub(crate) fn inject_own(esr: u64, far: u64) {
    INJECTING.store(true, Ordering::Relaxed);
    // SAFETY: the vector's handler recognises the conflict abort by `esr`, recovers and returns behind the call with
    // every register as it was; ELR_EL2 and SPSR_EL2 hold nothing across a call from Rust.
    unsafe { own_inject(esr, far) }
    INJECTING.store(false, Ordering::Relaxed);
}

/// Called by the vectors; returns only where the instruction is to be tried again.
pub(crate) extern "C" fn own_exception(frame: &mut OwnFrame, kind: u64) {
    const SYNCHRONOUS: u64 = 0;
    let (esr, far) = (ESR_EL2.get(), FAR_EL2.get());
    if kind == SYNCHRONOUS && conflict::is_conflict(esr) {
        let cpu = smp::own_index() as u8;
        let mut taken = conflict::conflict(Place::El2, esr, far, Some(HPFAR_EL2.get()), frame.elr, cpu);
        taken.injected = INJECTING.load(Ordering::Relaxed);
        match conflict::TAKEN.try_lock() {
            Some(mut list) => {
                if list.take(taken, Recovery::Alle2, &frame.x) {
                    return;
                }
            }
            // The abort came while the list was locked, perhaps by this very code: recover without noting it.
            None => {
                arch::tlbi::alle2is();
                arch::barrier::dsb_ish();
                arch::barrier::isb();
                return;
            }
        }
    }
    panic!(
        "exception at EL2: kind {kind} ESR {esr:#x} FAR {far:#x} ELR {:#x} SPSR {:#x} LR {:#x} (Image at {:#x})",
        frame.elr,
        frame.spsr,
        frame.x[30],
        crate::image().start
    );
}
