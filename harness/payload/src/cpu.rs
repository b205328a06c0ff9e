//! What belongs to one vCPU.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use aarch64_cpu::registers::{Readable, TPIDR_EL0, TPIDR_EL1, Writeable};
use vmsa::outcome::Phase;
use wire::abi::{MAX_VCPUS, Part, phase_word};

use crate::tally::{Conflicts, Tally};

/// State of a vCPU that its exception handler and its observer share, and that vCPU 0 reads at the end. On cache
/// lines of its own, and what every access needs on one page, so that it takes one entry of a TLB.
#[repr(C, align(1024))]
pub(crate) struct Cpu {
    /// Rounds in which an access of this vCPU overlapped the change.
    pub(crate) overlap: AtomicU64,
    /// ELR_EL1, FAR_EL1 and ESR_EL1 of the last expected exception.
    pub(crate) fault_pc: AtomicU64,
    pub(crate) fault_address: AtomicU64,
    pub(crate) fault_syndrome: AtomicU64,
    /// Number of the [`Phase`] that this vCPU is in.
    pub(crate) phase: AtomicU64,
    /// 1 while this vCPU has asked for a conflict abort.
    pub(crate) injecting: AtomicU64,
    pub(crate) conflicts: Conflicts,
    pub(crate) tally: Tally,
}

/// All vCPUs by index.
pub(crate) static CPUS: [Cpu; MAX_VCPUS] = [const { Cpu::new() }; MAX_VCPUS];

impl Cpu {
    const fn new() -> Self {
        const fn zero() -> AtomicU64 {
            AtomicU64::new(0)
        }
        Self {
            tally: Tally::new(),
            conflicts: Conflicts::new(),
            overlap: zero(),
            fault_pc: zero(),
            fault_address: zero(),
            fault_syndrome: zero(),
            phase: zero(),
            injecting: zero(),
        }
    }

    /// What this vCPU does from now on belongs to `phase`, which hv reads in TPIDR_EL0, and is part `part` of a round.
    #[inline]
    pub(crate) fn enter(&self, phase: Phase, part: Part) {
        self.phase.store(phase as u64, Relaxed);
        TPIDR_EL0.set(phase_word(phase, part));
    }
}

/// Index of the vCPU that this runs on.
#[inline]
pub(crate) fn index() -> usize {
    TPIDR_EL1.get() as usize % MAX_VCPUS
}

/// Says which vCPU this is; before anything else on it.
pub(crate) fn set_index(index: u64) {
    TPIDR_EL1.set(index);
}

/// The vCPU that this runs on.
#[inline]
pub(crate) fn this() -> &'static Cpu {
    &CPUS[index()]
}
