//! A vCPU: its registers while it does not run, and the reset state it starts from.

use aarch64_cpu::registers::{
    CNTHCTL_EL2, CNTP_CTL_EL0, CNTV_CTL_EL0, CNTVOFF_EL2, CONTEXTIDR_EL1, CPACR_EL1, ID_AA64MMFR1_EL1, MAIR_EL1,
    MDSCR_EL1, MIDR_EL1, PAR_EL1, Readable, SCTLR_EL1, TCR_EL1, TPIDR_EL0, TPIDR_EL1, TPIDRRO_EL0, TTBR0_EL1,
    TTBR1_EL1, VMPIDR_EL2, Writeable,
};
use wire::record::Registers;

use crate::host::el1::{ELR_EL1, ESR_EL1, FAR_EL1, SPSR_EL1, VBAR_EL1};

/// State of a vCPU as vectors.S stores and loads it.
#[derive(Clone, Debug)]
#[repr(C)]
pub(crate) struct Frame {
    pub(crate) x: [u64; 31],
    pub(crate) pc: u64,
    pub(crate) pstate: u64,
    pub(crate) esr: u64,
    pub(crate) far: u64,
    pub(crate) hpfar: u64,
    pub(crate) sp_el1: u64,
}

// vectors.S counts on these.
const _: () = assert!(core::mem::offset_of!(Frame, pc) == 248 && core::mem::offset_of!(Frame, sp_el1) == 288);

/// EL1h with D, A, I and F masked.
pub(crate) const PSTATE_RESET: u64 = 0b0101 | 0xf << 6;

/// SCTLR_EL1 as the architecture wants it for a start: the RES1 bits of Armv8.0, everything else off.
const SCTLR_RESET: u64 = 0x30d0_0800;

// SAFETY: declared as vectors.S defines it.
unsafe extern "C" {
    /// Runs the vCPU of `frame` until its next exception to EL2; returns the kind, see vectors.S.
    fn vcpu_enter(frame: *mut Frame) -> u64;
}

/// Why a vCPU stopped running.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    Synchronous,
    Interrupt,
    SError,
    /// An exception from AArch32 state, which hv never starts.
    AArch32,
}

impl Frame {
    /// A vCPU that starts at `entry` with `context` in x0 and everything else zero.
    pub(crate) const fn start(entry: u64, context: u64) -> Self {
        let mut x = [0; 31];
        x[0] = context;
        Self { x, pc: entry, pstate: PSTATE_RESET, esr: 0, far: 0, hpfar: 0, sp_el1: 0 }
    }

    /// Runs until the next exception.
    ///
    /// # Safety
    /// EL2's controls and stage 2 on this CPU must be those of the VM that the frame belongs to, since what runs
    /// now is contained by nothing else.
    pub(crate) unsafe fn run(&mut self) -> Exit {
        // SAFETY: vectors.S saves and restores what the calling convention asks for, and touches only the frame.
        match unsafe { vcpu_enter(self) } {
            0 => Exit::Synchronous,
            1 | 2 => Exit::Interrupt,
            3 => Exit::SError,
            _ => Exit::AArch32,
        }
    }

    /// For the record: these registers and, read now on the vCPU's own CPU, what it last did at EL1.
    pub(crate) fn registers(&self, cpu: usize) -> Registers {
        Registers {
            x: self.x,
            pc: self.pc,
            pstate: self.pstate,
            esr_el2: self.esr,
            far_el2: self.far,
            hpfar_el2: self.hpfar,
            esr_el1: ESR_EL1.get(),
            elr_el1: ELR_EL1.get(),
            far_el1: FAR_EL1.get(),
            spsr_el1: SPSR_EL1.get(),
            sp_el1: self.sp_el1,
            cpu: cpu as u8,
        }
    }

    /// Goes on behind the instruction that trapped and was served.
    pub(crate) fn skip(&mut self) {
        /// SPSR: software step and BTYPE, which an instruction that completes leaves behind cleared.
        const SS_BTYPE: u64 = 1 << 21 | 3 << 10;
        self.pc += 4;
        self.pstate &= !SS_BTYPE;
    }

    /// Makes the vCPU take a synchronous exception at EL1 when it runs next: with `esr`, which has the EC for its
    /// current EL, `far`, the return address `pc`, and the vector for SP_ELx or a lower EL. PSTATE is as for a CPU
    /// without PAN, SSBS and DIT, none of which payloads use.
    pub(crate) fn inject(&mut self, esr: u64, far: u64) {
        let from_el0 = self.pstate & 0xf == 0;
        ESR_EL1.set(esr);
        FAR_EL1.set(far);
        ELR_EL1.set(self.pc);
        SPSR_EL1.set(self.pstate);
        let offset = if from_el0 {
            0x400
        } else if self.pstate & 1 == 0 {
            0
        } else {
            0x200
        };
        self.pc = VBAR_EL1.get() + offset;
        self.pstate = self.pstate & 0xf000_0000 | PSTATE_RESET;
        arch::barrier::isb();
    }
}

/// Resets the EL1 registers of this CPU that a payload could have changed, so that nothing of one instance
/// reaches the next. Without E2H.
pub(crate) fn reset_el1() {
    SCTLR_EL1.set(SCTLR_RESET);
    for zero in [
        || TTBR0_EL1.set(0),
        || TTBR1_EL1.set(0),
        || TCR_EL1.set(0),
        || MAIR_EL1.set(0),
        || VBAR_EL1.set(0),
        || CPACR_EL1.set(0),
        || CONTEXTIDR_EL1.set(0),
        || TPIDR_EL0.set(0),
        || TPIDRRO_EL0.set(0),
        || TPIDR_EL1.set(0),
        || ESR_EL1.set(0),
        || FAR_EL1.set(0),
        || ELR_EL1.set(0),
        || SPSR_EL1.set(0),
        || PAR_EL1.set(0),
        || MDSCR_EL1.set(0),
        || CNTP_CTL_EL0.set(0),
        || CNTV_CTL_EL0.set(0),
    ] {
        zero();
    }
    // SAFETY: registers of EL0 and EL1, which nothing at EL2 uses.
    unsafe {
        arch::write_sysreg!("sp_el0", 0);
        arch::write_sysreg!("amair_el1", 0);
        arch::write_sysreg!("afsr0_el1", 0);
        arch::write_sysreg!("afsr1_el1", 0);
        arch::write_sysreg!("cntkctl_el1", 0);
    }
    arch::barrier::isb();
}

/// CNTHCTL_EL2: EL1 may use the physical counter and timer. With E2H this is 10 bits further up.
pub(crate) const EL1_TIMER: u64 = 3;
/// CPTR_EL2's RES1 bits, two of which trap SVE and SME where they exist; FP and Advanced SIMD do not trap.
pub(crate) const CPTR: u64 = 0x33ff;
/// The same with E2H: FPEN.
pub(crate) const CPTR_WITH_E2H: u64 = 3 << 20;

/// Sets the EL2 registers of this CPU that are the same for every VM; called once on each CPU.
pub(crate) fn init_el2() {
    /// MDCR_EL2: TPM, TDA, TDOSA and TDRA.
    const MDCR_TRAPS: u64 = 1 << 6 | 7 << 9;
    CNTHCTL_EL2.set(EL1_TIMER);
    CNTVOFF_EL2.set(0);
    VMPIDR_EL2.set(aarch64_cpu::registers::MPIDR_EL1.get());
    // SAFETY: trap controls of EL1 and EL0; hv runs at EL2 and uses no FP, SVE or debug registers.
    unsafe {
        arch::write_sysreg!("vpidr_el2", MIDR_EL1.get());
        arch::write_sysreg!("cptr_el2", CPTR);
        arch::write_sysreg!("hstr_el2", 0);
        // EL1 is kept out of PMU and debug registers, which would outlive a VM. HPMN stays: 0 is not a value that
        // every CPU allows.
        arch::write_sysreg!("mdcr_el2", arch::read_sysreg!("mdcr_el2") & 0x1f | MDCR_TRAPS);
        arch::write_sysreg!("tpidr_el2", 0);
        let mmfr1 = ID_AA64MMFR1_EL1.get();
        if (mmfr1 >> 40) & 0xf != 0 {
            arch::write_sysreg!("S3_4_C1_C2_2", 0); // HCRX_EL2
        }
        let mmfr0 = aarch64_cpu::registers::ID_AA64MMFR0_EL1.get();
        if (mmfr0 >> 56) & 0xf != 0 {
            // FEAT_FGT: reset values are unknown. 0 lets through what Armv8.6 has, and traps what came later (its
            // fields have negative polarity), which no payload uses.
            arch::write_sysreg!("S3_4_C1_C1_4", 0); // HFGRTR_EL2
            arch::write_sysreg!("S3_4_C1_C1_5", 0); // HFGWTR_EL2
            arch::write_sysreg!("S3_4_C1_C1_6", 0); // HFGITR_EL2
            arch::write_sysreg!("S3_4_C3_C1_4", 0); // HDFGRTR_EL2
            arch::write_sysreg!("S3_4_C3_C1_5", 0); // HDFGWTR_EL2
        }
    }
    arch::barrier::isb();
}
