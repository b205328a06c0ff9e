//! The harness tested by itself: payloads that misbehave in one designed way, and controls whose result is known.
//!
//! A control counts [`Kind::Same`] for everything that is as it should be and [`Kind::Neither`] for everything
//! that is not, and logs the latter.

use core::{
    arch::{asm, global_asm},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, ID_AA64MMFR2_EL1, ID_AA64PFR0_EL1, Readable};
use arch::{barrier, cache, id, probe, write_sysreg};
use smccc::psci;
use vmsa::{
    geometry::{BbmLevel, Granule, Level},
    instance::{self, Access, Instance, Selftest},
    layout::Format,
    outcome::{Kind, Phase},
    rule::HardwareUpdates,
    sequence::Step,
};
use wire::{
    abi::{Part, call},
    frame,
    record::{First, Place},
};

use crate::{
    boot::{DEVICE, EntryState, Vm},
    cpu, hypercall,
    round::{Work, finish},
    tables::{Space, publish},
    tally,
    window::Window,
};

/// Runs a selftest.
pub fn run(vm: Vm) -> ! {
    let Instance::Selftest(test) = vm.instance else { panic!("{} is not a selftest", vm.instance) };
    match test {
        Selftest::Quiet => quiet(vm, true),
        Selftest::NoSecondCpu => quiet(vm, false),
        Selftest::Clean => clean(&vm),
        Selftest::HangMasked => loop {
            // Every interrupt is masked since entry.
            barrier::spin();
        },
        Selftest::Undefined => undefined(),
        Selftest::Storm => storm(),
        Selftest::Scribble => scribble(vm),
        Selftest::Forge => forge(&vm),
        Selftest::CpuSwap => cpu_swap(&vm),
        Selftest::HalfRecord => half_record(),
        Selftest::ConflictEl1 => conflict(vm, Place::El1),
        Selftest::ConflictEl2ForEl1 => conflict(vm, Place::El2ForEl1),
        Selftest::ConflictEl2 => conflict(vm, Place::El2),
        Selftest::CapBbm0 => cap(BbmLevel::L0),
        Selftest::CapBbm1 => cap(BbmLevel::L1),
    }
}

/// Counts a check in `phase`; `far` and `value` say what was looked at and what was there.
fn check(phase: Phase, good: bool, far: u64, value: u64) {
    let kind = if good { Kind::Same } else { Kind::Neither };
    cpu::this().tally.count(phase, kind, || First { far, value, ..First::default() });
}

/// As [`check`], of a register, whose name is logged where it is not good.
fn check_register(name: &str, good: bool, value: u64) {
    check(Phase::Before, good, 0, value);
    if !good {
        hypercall::log(format_args!("{name} is {value:#x}"));
    }
}

/// Hands in what was counted, as one round.
fn done() -> ! {
    finish(&tally::report(1, None))
}

/// A window that nobody changes.
fn still_window(vm: &mut Vm) -> Window {
    let Ok(Instance::Case(case)) = "el1.split.4k-l2.bbm.load-remote".parse() else { panic!("no id of a case") };
    Window::new(vm, &case)
}

/// Loads and stores of a remote observer, while the changer changes nothing; or, with `start` unset, the same with an
/// observer that is never started.
fn quiet(mut vm: Vm, start: bool) -> ! {
    let window = still_window(&mut vm);
    let work = Work::new(&window, &[Step::Isb], &[], [Access::Load, Access::Store], vm.info.seed);
    let report = if start { work.run(&vm, instance::Place::Remote) } else { work.run_unobserved() };
    finish(&report)
}

fn clean(vm: &Vm) -> ! {
    /// SCTLR_EL1.M.
    const MMU: u64 = 1;
    /// PSTATE.DAIF, all masked.
    const MASKED: u64 = 0xf << 6;
    /// CurrentEL of EL1.
    const EL1: u64 = 1 << 2;
    let EntryState { sctlr, tcr, ttbr0, ttbr1, vbar, tpidr_el0, tpidr_el1, tpidrro_el0, daif, current_el } = *vm.entry;
    check_register("SCTLR_EL1", sctlr & MMU == 0, sctlr);
    check_register("DAIF", daif == MASKED, daif);
    check_register("CurrentEL", current_el == EL1, current_el);
    let zero = [
        ("TCR_EL1", tcr),
        ("TTBR0_EL1", ttbr0),
        ("TTBR1_EL1", ttbr1),
        ("VBAR_EL1", vbar),
        ("TPIDR_EL0", tpidr_el0),
        ("TPIDR_EL1", tpidr_el1),
        ("TPIDRRO_EL0", tpidrro_el0),
    ];
    for (name, value) in zero {
        check_register(name, value == 0, value);
    }
    for word in unused_memory(vm) {
        let value = word.load(Relaxed);
        check(Phase::Before, value == 0, core::ptr::from_ref(word) as u64, value);
    }
    done()
}

/// The words of the private memory that nothing has used so far.
fn unused_memory(vm: &Vm) -> &'static [AtomicU64] {
    let (start, end) = vm.pool.rest();
    words(start, end - start)
}

/// `size` bytes of the VM's memory at `start`, which is 8-byte aligned, as words.
fn words(start: u64, size: u64) -> &'static [AtomicU64] {
    // SAFETY: the callers give unused private memory or a frame, mapped at its physical address for as long as
    // the VM lives, of which no reference exists but such ones.
    unsafe { core::slice::from_raw_parts(start as *const AtomicU64, (size / 8) as usize) }
}

fn undefined() -> ! {
    // SAFETY: the instruction is taken as an exception, which the vectors hand to hv, and the VM ends.
    unsafe { asm!("udf #0", options(noreturn)) }
}

fn storm() -> ! {
    /// In the half of TTBR1, whose walks are disabled: every fetch faults.
    const NOWHERE: u64 = 0xffff << 48;
    // SAFETY: from here on every exception, the first included, is taken at an address that faults, for ever.
    unsafe {
        write_sysreg!("vbar_el1", NOWHERE);
        asm!("isb", "udf #0", options(noreturn))
    }
}

fn half_record() -> ! {
    check(Phase::Before, true, 0, 0);
    hypercall::report(&tally::report(1, None), |len| len / 2);
    hypercall::system_off()
}

/// Whatever it asks for, hv must say no, stay alive and print nothing that passes for its own words.
fn forge(vm: &Vm) -> ! {
    /// SMCCC and PSCI errors are negative.
    const fn is_error(x0: u64) -> bool {
        (x0 as i64) < 0
    }
    // Ends inside a character, and has a line of KTAP and the start of a record.
    let lines = "harmless\r\nok 99 forged\r\n#@ gwABZTAuMS4w1Wskrg==\r\n\u{fe}\u{fe}";
    let log = hypercall::call(call::LOG, lines.as_ptr() as u64, lines.len() as u64 - 1, 0);
    check(Phase::During, log == 0, call::LOG.into(), log);

    let info = vm.info;
    let outside = [0, info.private_base - 64, info.private_base + info.private_size - 8, u64::MAX - 8];
    for address in outside {
        for len in [64, u64::MAX] {
            let x0 = hypercall::call(call::REPORT, address, len, 0);
            check(Phase::During, is_error(x0), address, x0);
        }
        let entry = hypercall::call(psci::PSCI_CPU_ON_64, info.mpidr[0], address & !3, 0);
        check(Phase::During, is_error(entry), address, entry);
    }
    let (inside, nobody) = (info.private_base, 0xff_00ff_ff00);
    let refused = [
        (psci::PSCI_CPU_ON_64, nobody, inside, 0),
        (psci::PSCI_CPU_ON_64, info.mpidr[0], inside, 0),
        (psci::PSCI_CPU_ON_64, info.mpidr[0], inside + 2, 0),
        (psci::PSCI_CPU_SUSPEND_64, 0, inside, 0),
        (call::INJECT_CONFLICT, u64::MAX, 0, 0),
        (0xc600_ffff, inside, 64, 0),
        (0x8400_ffff, inside, 64, 0),
    ];
    for (function, x1, x2, x3) in refused {
        let x0 = hypercall::call(function, x1, x2, x3);
        check(Phase::During, is_error(x0), function.into(), x0);
    }
    done()
}

/// What [`cpu_swap`]'s two vCPUs find at the address they are started with.
#[repr(C, align(64))]
struct Swap {
    /// For vCPU 1: which vCPU to switch on, and where.
    mpidr: u64,
    entry: u64,
    /// For vCPU 0: the report to hand in.
    report: u64,
    len: u64,
}

global_asm!(
    // Both run with the MMU off and no stack. x0 = Swap.
    "payload_swap_second:",
    "   mov     x19, x0",
    "1: ldr     x0, ={CPU_ON}",
    "   ldp     x1, x2, [x19]",
    "   mov     x3, x19",
    "   hvc     #0",
    "   cmn     x0, #4", // ALREADY_ON, until vCPU 0 is off
    "   b.eq    1b",
    "   ldr     x0, ={CPU_OFF}",
    "   hvc     #0",
    "   b       .",
    "payload_swap_first:",
    "   ldp     x1, x2, [x0, #16]",
    "   ldr     x0, ={REPORT}",
    "   hvc     #0",
    "   ldr     x0, ={SYSTEM_OFF}",
    "   hvc     #0",
    "   b       .",
    CPU_ON = const psci::PSCI_CPU_ON_64,
    CPU_OFF = const psci::PSCI_CPU_OFF,
    SYSTEM_OFF = const psci::PSCI_SYSTEM_OFF,
    REPORT = const call::REPORT,
);

// SAFETY: labels in the assembly above, of which only the address is taken.
unsafe extern "C" {
    safe static payload_swap_second: u8;
    safe static payload_swap_first: u8;
}

fn cpu_swap(vm: &Vm) -> ! {
    check(Phase::Before, true, 0, 0);
    let mut body = [0; frame::MAX_BODY];
    let len = hypercall::encode(&tally::report(1, None), &mut body) as u64;
    let swap = Swap {
        mpidr: vm.info.mpidr[0],
        entry: &raw const payload_swap_first as u64,
        report: body.as_ptr() as u64,
        len,
    };
    // They read it with their MMU off. This function never returns, so that both stay where they are.
    cache::clean_invalidate_poc(&raw const swap as usize, size_of::<Swap>());
    if !vm.start_at(1, &raw const payload_swap_second as u64, &raw const swap as u64) {
        hypercall::log(format_args!("vCPU 1 cannot be switched on"));
    }
    hypercall::cpu_off()
}

fn conflict(mut vm: Vm, place: Place) -> ! {
    /// More than hv tries an access again before it gives up: injected ones are no retries of each other.
    const TIMES: usize = 20;
    let window = still_window(&mut vm);
    let va = window.spot(0).va;
    let cpu = cpu::this();
    cpu.enter(Phase::During, Part::Frame);
    // SAFETY: a load from a frame by way of the window.
    let expected = unsafe { probe::load(va) };
    for _ in 0..TIMES {
        cpu.injecting.store(1, Relaxed);
        // SAFETY: the same load; the hypercall injects a conflict abort, which this EL or hv recovers.
        let probed = unsafe { probe::load_behind_hvc(call::INJECT_CONFLICT, [place as u64, va, 0], va) };
        cpu.injecting.store(0, Relaxed);
        cpu.conflicts.settle();
        check(Phase::During, probed.esr == 0 && probed.value == expected.value, va, probed.value);
    }
    done()
}

fn cap(level: BbmLevel) -> ! {
    let mmfr2 = ID_AA64MMFR2_EL1.get();
    check_register("ID_AA64MMFR2_EL1", BbmLevel::from_mmfr2(mmfr2) <= level, mmfr2);
    // Others of the group that is trapped with it. No CPU has these all zero: PFR0 says that there is an EL1, and
    // MMFR0 that there are more than 32 bits of physical address.
    let others = [("ID_AA64PFR0_EL1", ID_AA64PFR0_EL1.get()), ("ID_AA64MMFR0_EL1", ID_AA64MMFR0_EL1.get())];
    for (name, value) in others {
        check_register(name, value != 0, value);
    }
    done()
}

fn scribble(mut vm: Vm) -> ! {
    /// TTBR1 shows all physical memory from here on.
    const ALL: u64 = 0xffff << 48;
    /// How far around its own memory it reaches, and in which steps.
    const REACH: u64 = 64 << 20;
    const STEP: u64 = 512 << 10;
    /// Addresses where machines have memory or devices: the very first, QEMU's and FVP's flash, GIC and UARTs.
    const KNOWN: [u64; 8] =
        [0, 0x0400_0000, 0x0800_0000, 0x0801_0000, 0x0900_0000, 0x1c09_0000, 0x2f00_0000, 0x3f20_1000];

    let info = vm.info;
    let own = [(info.private_base, info.private_size), (info.frames_base, info.frames * info.frame_size)];
    let all = Space::new(&mut vm.pool, Format::new(Granule::K4));
    vm.set_upper(&all, HardwareUpdates::Off);

    let gibibyte = Level::L1.size(Granule::K4);
    let mut mapped = u64::MAX;
    let mut reach = |vm: &mut Vm, pa: u64| {
        if own.iter().any(|&(base, size)| (base..base + size).contains(&pa)) {
            return;
        }
        let base = pa & !(gibibyte - 1);
        if base != mapped {
            // As a device, so that the CPU itself does not reach for what nobody asked for.
            all.map(&mut vm.pool, ALL | base, base, gibibyte, DEVICE);
            publish();
            mapped = base;
        }
        let va = ALL | pa;
        // SAFETY: nothing of this program is at `pa`. What else is there is for stage 2 to protect, which is the
        // point; accesses that stage 2 refuses come back as External aborts.
        for probed in unsafe { [probe::load(va), probe::store(va, 0x5ca1_ab1e)] } {
            let kind = if probed.esr == 0 { Kind::Neither } else { Kind::from_esr(probed.esr) };
            cpu::this().tally.count(Phase::During, kind, || First {
                esr: probed.esr,
                far: va,
                value: probed.value,
                ..First::default()
            });
        }
    };
    cpu::this().enter(Phase::During, Part::Frame);
    for (base, size) in own {
        for pa in (base.saturating_sub(REACH)..base + size + REACH).step_by(STEP as usize) {
            reach(&mut vm, pa);
        }
    }
    for pa in KNOWN {
        reach(&mut vm, pa);
    }
    reach(&mut vm, (1 << id::pa_bits()) - 8);

    // All that is its own and not in use; read back only when everything is written.
    let frames = words(info.frames_base, info.frames * info.frame_size);
    let reachable = || unused_memory(&vm).iter().chain(frames);
    reachable().for_each(|word| word.store(!0, Relaxed));
    for word in reachable() {
        let value = word.load(Relaxed);
        check(Phase::After, value == !0, core::ptr::from_ref(word) as u64, value);
    }
    done()
}
