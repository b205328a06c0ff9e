//! Exceptions that EL2 takes from itself: TLB conflict aborts are recovered, what an access to a window in EL2's own
//! translation takes is told to who made it, everything else is the end.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use aarch64_cpu::registers::{ESR_EL2, FAR_EL2, HPFAR_EL2, Readable};
use arch::probe;
use wire::record::{Place, Recovery};

use crate::{conflict, lab, own, platform::MAX_CPUS, smp};

/// Registers at the exception, as vectors.S stores and restores them.
#[repr(C)]
pub(crate) struct OwnFrame {
    x: [u64; 31],
    elr: u64,
    spsr: u64,
}

/// Bytes that vectors.S makes room for: the frame, rounded up to SP's alignment.
pub(crate) const OWN_FRAME_SIZE: usize = (size_of::<OwnFrame>() + 15) & !15;

/// What a CPU does by itself that ends in an exception.
struct Expected {
    /// It raises a conflict abort.
    conflict: AtomicBool,
    /// It lets a pending SError in.
    serror: AtomicBool,
    /// Conflict aborts in a row that could not be noted.
    unnoted: AtomicU8,
    /// The number of the access that it tries, by a probe; even while it tries none.
    access: AtomicU64,
    /// FAR_EL2 and ELR_EL2 of the exception that the last one took.
    far: AtomicU64,
    pc: AtomicU64,
}

static EXPECTED: [Expected; MAX_CPUS] = [const {
    Expected {
        conflict: AtomicBool::new(false),
        serror: AtomicBool::new(false),
        unnoted: AtomicU8::new(0),
        access: AtomicU64::new(0),
        far: AtomicU64::new(0),
        pc: AtomicU64::new(0),
    }
}; MAX_CPUS];

/// Does `access`, which makes one by a probe, on the calling CPU, whose number is `cpu`. What it brings back, and FAR and PC of
/// the exception that it took, if it took one.
pub(crate) fn probing<T>(cpu: usize, access: impl FnOnce() -> T) -> (T, [u64; 2]) {
    let expected = &EXPECTED[cpu];
    let number = expected.access.load(Ordering::Relaxed) + 1;
    expected.access.store(number, Ordering::Relaxed);
    let came = access();
    expected.access.store(number + 1, Ordering::Relaxed);
    (came, [&expected.far, &expected.pc].map(|register| register.load(Ordering::Relaxed)))
}

/// Takes the SError that is pending on the calling CPU, whose number is `cpu`, if there is one, and says so.
pub(crate) fn drain_serror(cpu: usize) -> bool {
    const ISR_A: u64 = 1 << 8;
    if arch::read_sysreg!("isr_el1") & ISR_A == 0 {
        return false;
    }
    EXPECTED[cpu].serror.store(true, Ordering::Relaxed);
    // SAFETY: with SError unmasked for these instructions only, it goes to `own_exception`, which expects it.
    unsafe { core::arch::asm!("msr daifclr, #4", "isb", "msr daifset, #4", options(nostack)) }
    EXPECTED[cpu].serror.store(false, Ordering::Relaxed);
    true
}

unsafe extern "C" {
    static vcpu_enter_window: u8;
    static vcpu_enter_window_end: u8;
    static vec_guest_window: u8;
    static vec_guest_window_end: u8;
    /// As if the instruction after the call had taken the exception; see vectors.S.
    fn own_inject(esr: u64, far: u64);
}

/// Raises a conflict abort at EL2 for EL2's own translation, through the real vector.
pub(crate) fn inject_own(esr: u64, far: u64) {
    let injecting = &EXPECTED[smp::own_index()].conflict;
    injecting.store(true, Ordering::Relaxed);
    // SAFETY: the vector's handler recognises the conflict abort by `esr`, recovers and returns behind the call with
    // every register as it was; ELR_EL2 and SPSR_EL2 hold nothing across a call from Rust.
    unsafe { own_inject(esr, far) }
    injecting.store(false, Ordering::Relaxed);
}

/// Addresses of the instructions in vectors.S between which EL2's exception registers are a vCPU's.
fn switch_windows() -> [core::ops::Range<u64>; 2] {
    [
        &raw const vcpu_enter_window as u64..&raw const vcpu_enter_window_end as u64,
        &raw const vec_guest_window as u64..&raw const vec_guest_window_end as u64,
    ]
}

/// Called by the vectors; returns only where the instruction is to be tried again.
pub(crate) extern "C" fn own_exception(frame: &mut OwnFrame, kind: u64) {
    const SYNCHRONOUS: u64 = 0;
    const SERROR: u64 = 3;
    /// PSTATE.SP in SPSR_EL2: the stack pointer is SP_EL2.
    const SP_ELX: u64 = 1;
    let (esr, far) = (ESR_EL2.get(), FAR_EL2.get());
    let cpu = smp::own_index();
    let expected = &EXPECTED[cpu];
    // From EL2 with SP_EL0 the kinds are the same, and 4 more.
    if kind & 3 == SYNCHRONOUS {
        match own::exception(cpu, esr, far, frame.elr, |kind| lab::note_own(kind, [esr, far, frame.elr])) {
            own::After::AsUsual => {}
            own::After::Again => return,
            own::After::Behind => {
                frame.elr += 4;
                return;
            }
            own::After::GiveUp(to) => {
                frame.elr = to;
                frame.spsr |= SP_ELX;
                frame.x[0] = own::given_up();
                return;
            }
        }
    }
    let kind = if own::is_running(cpu) { kind & 3 } else { kind };
    if kind == SERROR && expected.serror.load(Ordering::Relaxed) {
        return;
    }
    let access = expected.access.load(Ordering::Relaxed);
    let probing = !access.is_multiple_of(2);
    // In the middle of the switch to or from a vCPU, ELR_EL2 and its like hold what is lost now: nothing to go back to.
    let in_switch = switch_windows().iter().any(|window| window.contains(&frame.elr));
    if kind == SYNCHRONOUS && conflict::is_conflict(esr) && !in_switch {
        let mut taken = conflict::conflict(Place::El2, esr, far, Some(HPFAR_EL2.get()), frame.elr, cpu as u8);
        taken.injected = expected.conflict.load(Ordering::Relaxed);
        if probing {
            taken.phase = conflict::phase();
        }
        // Accesses of many rounds are alike in all registers.
        let mut x = frame.x;
        x[30] ^= access;
        match conflict::TAKEN.try_lock() {
            Some(mut list) => {
                expected.unnoted.store(0, Ordering::Relaxed);
                if list.take(taken, Recovery::Alle2, &x) {
                    return;
                }
            }
            // The abort came while the list was locked, perhaps by this very code: recover without noting it.
            None => {
                arch::tlbi::alle2is();
                arch::barrier::dsb_ish();
                arch::barrier::isb();
                if expected.unnoted.fetch_add(1, Ordering::Relaxed) < conflict::MAX_RETRIES {
                    return;
                }
            }
        }
    }
    if kind == SYNCHRONOUS
        && probing
        && let Some(pc) = probe::resume(frame.elr, frame.x[30])
    {
        expected.far.store(far, Ordering::Relaxed);
        expected.pc.store(frame.elr, Ordering::Relaxed);
        [frame.x[0], frame.x[1], frame.elr] = [0, esr, pc];
        return;
    }
    panic!(
        "exception at EL2: kind {kind} ESR {esr:#x} FAR {far:#x} ELR {:#x} SPSR {:#x} LR {:#x} (Image at {:#x})",
        frame.elr,
        frame.spsr,
        frame.x[30],
        crate::image().start
    );
}
