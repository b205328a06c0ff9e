//! Physical CPUs: bringing them up, and giving them work.
//!
//! The boot CPU runs the plan; the others sleep in WFI until a vCPU is to run on them. A CPU's `job` is the
//! only thing that is handed over.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use aarch64_cpu::registers::{
    CNTHP_CTL_EL2, CNTPCT_EL0, ID_AA64MMFR2_EL1, MIDR_EL1, MPIDR_EL1, Readable, VBAR_EL2, Writeable,
};
use smccc::{Smc, psci};
use vmsa::feature::IdRegisters;

use crate::{
    gic, mmu,
    platform::{Conduit, MAX_CPUS, Machine},
    suite, vcpu, vm,
};

/// Bytes of stack of each CPU, its lowest page left unmapped so that an overflow faults; the asm that sets SP multiplies by it.
pub(crate) const STACK_SIZE: usize = 128 << 10;

#[repr(C, align(4096))]
pub(crate) struct Stacks([core::cell::UnsafeCell<[u8; STACK_SIZE]>; MAX_CPUS]);

// SAFETY: each CPU uses its own stack, through SP only.
unsafe impl Sync for Stacks {}

pub(crate) static STACKS: Stacks = Stacks([const { core::cell::UnsafeCell::new([0; STACK_SIZE]) }; MAX_CPUS]);

/// The job of describing itself in a record; every other job is a vCPU's number plus one.
const DESCRIBE: usize = usize::MAX;

/// What the CPUs tell each other.
pub(crate) struct PerCpu {
    /// MPIDR_EL1, affinity fields.
    pub(crate) mpidr: AtomicU64,
    /// MIDR_EL1.
    pub(crate) midr: AtomicU64,
    /// The fields of [`IdRegisters`], in their order.
    ids: [AtomicU64; 5],
    /// Number of its GICv2 interface.
    pub(crate) interface: AtomicU8,
    /// Whether its timer interrupt was seen to arrive; without, it must not sleep, and has no watchdog.
    pub(crate) interrupts: AtomicBool,
    /// Set by the CPU itself when it can take work.
    pub(crate) online: AtomicBool,
    /// vCPU to run, plus one, or [`DESCRIBE`]; 0 is none. Cleared by the CPU when it is done.
    pub(crate) job: AtomicUsize,
}

pub(crate) static CPUS: [PerCpu; MAX_CPUS] = [const {
    PerCpu {
        mpidr: AtomicU64::new(0),
        midr: AtomicU64::new(0),
        ids: [const { AtomicU64::new(0) }; 5],
        interface: AtomicU8::new(0),
        interrupts: AtomicBool::new(false),
        online: AtomicBool::new(false),
        job: AtomicUsize::new(0),
    }
}; MAX_CPUS];

impl PerCpu {
    /// Its ID registers, which it has stored before it came online.
    pub(crate) fn registers(&self) -> IdRegisters {
        let [isar0, isar1, mmfr0, mmfr1, mmfr2] = self.ids.each_ref().map(|id| id.load(Ordering::Relaxed));
        IdRegisters { isar0, isar1, mmfr0, mmfr1, mmfr2 }
    }
}

/// The affinity fields of MPIDR_EL1.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// MPIDR_EL1's affinity fields of the calling CPU.
pub(crate) fn own_mpidr() -> u64 {
    MPIDR_EL1.get() & AFFINITY
}

/// Number of the calling CPU.
pub(crate) fn own_index() -> usize {
    let own = own_mpidr();
    CPUS.iter().position(|c| c.online.load(Ordering::Relaxed) && c.mpidr.load(Ordering::Relaxed) == own).unwrap_or(0)
}

// SAFETY: labels in vectors.S and boot.S, of which only the address is taken.
unsafe extern "C" {
    /// The vectors of vectors.S.
    static hv_vectors: u8;
    /// The secondary entry of boot.S.
    fn boot_secondary();
}

/// Puts EL2's vectors and controls of the calling CPU into place and announces it as number `index`.
pub(crate) fn init_this_cpu(index: usize) {
    VBAR_EL2.set(&raw const hv_vectors as u64);
    vcpu::init_el2();
    let cpu = &CPUS[index];
    cpu.mpidr.store(own_mpidr(), Ordering::Relaxed);
    cpu.midr.store(MIDR_EL1.get(), Ordering::Relaxed);
    let ids = [
        arch::read_sysreg!("id_aa64isar0_el1"),
        arch::read_sysreg!("id_aa64isar1_el1"),
        arch::read_sysreg!("id_aa64mmfr0_el1"),
        arch::read_sysreg!("id_aa64mmfr1_el1"),
        ID_AA64MMFR2_EL1.get(),
    ];
    for (slot, id) in cpu.ids.iter().zip(ids) {
        slot.store(id, Ordering::Relaxed);
    }
    if let Some(gic) = gic::get() {
        gic.init_cpu(own_mpidr());
        cpu.interface.store(gic.own_interface(), Ordering::Relaxed);
        cpu.interrupts.store(gic.present() && timer_arrives(gic), Ordering::Relaxed);
    }
    cpu.online.store(true, Ordering::Release);
}

/// Whether the timer's interrupt gets through to the calling CPU. What firmware or the DTB left wrong shows here and
/// not as a CPU that sleeps for ever.
fn timer_arrives(gic: &gic::Gic) -> bool {
    /// Time for it to arrive, in ms: long for an emulator on a busy host.
    const PATIENCE: u64 = 500;
    let deadline = arch::counter::now() + arch::counter::ticks(PATIENCE);
    arm_timer(CNTPCT_EL0.get());
    let arrived = loop {
        // ISR_EL1 shows pending interrupts though they are masked; I is bit 7, F bit 6.
        if arch::read_sysreg!("isr_el1") & (3 << 6) != 0 && gic.acknowledge() == gic::Interrupt::Timer {
            break true;
        }
        if arch::counter::now() > deadline {
            break false;
        }
        arch::barrier::spin();
    };
    CNTHP_CTL_EL2.set(0);
    arch::barrier::isb();
    arrived
}

/// Has the EL2 timer of this CPU raise its interrupt when the physical counter reaches `at`.
pub(crate) fn arm_timer(at: u64) {
    // SAFETY: the EL2 timer's compare value; its interrupt is only looked for where hv waits for it.
    unsafe { arch::write_sysreg!("cnthp_cval_el2", at) }
    CNTHP_CTL_EL2.set(1);
    arch::barrier::isb();
}

/// Starts every CPU of the machine besides the calling one. Returns how many are online then, the caller included.
///
/// A CPU that does not come up in time is left out and said so; the numbers of the others stay dense.
pub(crate) fn start_secondaries(machine: &Machine) -> usize {
    /// Time for a CPU to come up, in ms.
    const PATIENCE: u64 = 1000;
    let own = own_mpidr();
    let mut next = 1;
    for mpidr in machine.cpus.iter().copied().filter(|m| *m != own) {
        let entry = boot_secondary as *const () as u64;
        let started = match machine.psci {
            Conduit::Smc => psci::cpu_on::<Smc>(mpidr, entry, next as u64),
            // HVC at EL2 is a call to hv itself: no way to firmware.
            Conduit::Hvc | Conduit::None => {
                crate::console::log(format_args!("cpu {mpidr:#x}: no PSCI, not started"));
                continue;
            }
        };
        if let Err(error) = started {
            crate::console::log(format_args!("cpu {mpidr:#x}: CPU_ON failed: {error}"));
            continue;
        }
        let deadline = arch::counter::now() + arch::counter::ticks(PATIENCE);
        while !CPUS[next].online.load(Ordering::Acquire) && arch::counter::now() < deadline {
            arch::barrier::spin();
        }
        if !CPUS[next].online.load(Ordering::Acquire) {
            crate::console::log(format_args!("cpu {mpidr:#x}: did not come up in {PATIENCE} ms"));
            // It may still come up late with this number: it must not be given to another one.
            break;
        }
        next += 1;
    }
    next
}

/// Wakes a CPU from WFI or out of its vCPU.
pub(crate) fn wake(index: usize) {
    if let Some(gic) = gic::get() {
        let cpu = &CPUS[index];
        gic.wake(cpu.mpidr.load(Ordering::Relaxed), usize::from(cpu.interface.load(Ordering::Relaxed)));
    }
}

/// Waits on CPU `index`, the calling one, until `ready`, asleep where an interrupt can wake it; or until the physical
/// counter reaches `limit`. Returns whether `ready` holds.
pub(crate) fn wait(index: usize, limit: Option<u64>, ready: impl Fn() -> bool) -> bool {
    let gic = gic::get().filter(|_| CPUS[index].interrupts.load(Ordering::Relaxed));
    if let Some(limit) = limit {
        arm_timer(limit);
    }
    let late = || limit.is_some_and(|limit| CNTPCT_EL0.get() >= limit);
    let mut is_ready = ready();
    while !is_ready && !late() {
        match gic {
            // A wake-up that came between the test and WFI is pending, so that WFI falls through.
            Some(gic) => {
                arch::barrier::wfi();
                gic.acknowledge();
            }
            None => arch::barrier::spin(),
        }
        is_ready = ready();
    }
    if limit.is_some() {
        CNTHP_CTL_EL2.set(0);
    }
    is_ready
}

/// Has CPU `index` write its own record, and waits until it did.
pub(crate) fn describe(index: usize) {
    if index == 0 {
        return suite::record_cpu(0);
    }
    let job = &CPUS[index].job;
    job.store(DESCRIBE, Ordering::Release);
    wake(index);
    wait(0, None, || job.load(Ordering::Acquire) == 0);
}

/// Where secondary CPUs end up, with the MMU on: runs the vCPUs that it is given, forever.
pub(crate) extern "C" fn secondary_main(index: usize) -> ! {
    init_this_cpu(index);
    let job = &CPUS[index].job;
    loop {
        wait(index, None, || job.load(Ordering::Acquire) != 0);
        let work = job.load(Ordering::Acquire);
        if work == DESCRIBE {
            suite::record_cpu(index);
            job.store(0, Ordering::Release);
        } else {
            vm::run_vcpu(work - 1, index);
            // In this order: once the vCPU is off it may be started again.
            job.store(0, Ordering::Release);
            vm::finished(work - 1);
        }
        // The boot CPU may be waiting for this.
        wake(0);
    }
}

/// Makes what secondaries read before their MMU is on visible to them.
pub(crate) fn publish_boot_data() {
    let registers = &raw const mmu::MMU_REGISTERS;
    arch::cache::clean_invalidate_poc(registers as usize, size_of::<mmu::MmuRegisters>());
}
