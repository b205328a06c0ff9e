//! The run: plan and bundle, then every instance on every type of CPU.

use core::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use aarch64_cpu::registers::{CNTFRQ_EL0, ID_AA64MMFR2_EL1, MIDR_EL1, MPIDR_EL1, Readable};
use arch::probe;
use arrayvec::{ArrayString, ArrayVec};
use vmsa::{
    BbmLevel, Instance,
    feature::Feature,
    outcome::{Count, End},
    stress,
    verdict::{self, Class, Seen, Verdict},
};
use wire::{
    plan::{AtEnd, Console, Entry, Overrides, Plan, Settings},
    record::{
        Cpu, Finished, Id, MAX_OUTCOMES, Place, Platform, Record, Recovery, Register, Report, Smmu, Trouble, text,
    },
};

use crate::{
    boot::Boot,
    bundle::Bundle,
    conflict, console, exception, lab,
    memory::Memory,
    platform::{MAX_CPUS, Range},
    power,
    smp::{self, CPUS},
    vm,
};

/// Whether records go by semihosting: somebody listens, and the end can carry a status.
static SEMIHOSTING: AtomicBool = AtomicBool::new(false);

/// Ends the machine after a panic, without a plan's wish.
pub(crate) fn end_after_panic() -> ! {
    power::end(AtEnd::Off, SEMIHOSTING.load(Ordering::Relaxed), false)
}

fn fail(args: fmt::Arguments<'_>) -> ! {
    console::fatal(args);
    end_after_panic()
}

/// The bundle, or why there is none.
fn bundle(initrd: Option<Range>) -> Bundle {
    let Some(range) = initrd else {
        fail(format_args!(
            "no bundle: the DTB's /chosen names no initrd (QEMU: -initrd BUNDLE, U-Boot: booti's second argument)"
        ));
    };
    // SAFETY: the DTB names this memory as the initrd; it is mapped, and nobody writes it.
    let archive = unsafe { core::slice::from_raw_parts(range.start as *const u8, range.size() as usize) };
    let bundle = Bundle::read(archive);
    if !bundle.whole {
        fail(format_args!(
            "damaged bundle: the initrd at {:#x}, {} bytes, is no cpio archive with an end mark",
            range.start,
            range.size()
        ));
    }
    bundle
}

/// Runs the whole suite. Never returns.
pub(crate) fn run(boot: &'static Boot) -> ! {
    console::line(format_args!("KTAP version 1"));
    console::line(format_args!("# shatter {}", env!("CARGO_PKG_VERSION")));

    // The console is the plan's choice, and everything after it: overrides first, the text when the bundle is read.
    let overrides = match Overrides::from_bootargs(boot.machine.bootargs) {
        Ok(overrides) => overrides,
        Err(error) => fail(format_args!("{error}")),
    };
    if overrides.console == Some(Console::Semihosting) {
        switch_to_semihosting();
    }
    let bundle = bundle(boot.machine.initrd);
    let plan_text = bundle.plan.map(|text| match core::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => fail(format_args!("damaged plan: not UTF-8 from byte {}", error.valid_up_to())),
    });
    let plan = match Plan::for_boot(plan_text, &overrides) {
        Ok(plan) => plan,
        Err(error) => fail(format_args!("{error}")),
    };
    let settings = *plan.settings();
    if settings.console == Console::Semihosting && overrides.console.is_none() {
        switch_to_semihosting();
    }
    hello(boot);
    if boot.machine.ram_left_out {
        console::log(format_args!("the DTB lists more RAM ranges than hv has room for; some are not used"));
    }
    if boot.machine.cpus_left_out > 0 {
        console::log(format_args!("{} CPUs are left out; hv drives {MAX_CPUS}", boot.machine.cpus_left_out));
    }
    let online = smp::start_secondaries(&boot.machine);
    machine(boot, online);
    for damaged in &bundle.damaged {
        console::log(format_args!("payload {}: damaged: {}", damaged.name, damaged.error));
    }
    for (index, cpu) in CPUS.iter().enumerate().take(online) {
        if !cpu.interrupts.load(Ordering::Relaxed) {
            console::log(format_args!("cpu {index}: the EL2 timer's interrupt does not arrive: it has no watchdog"));
        }
    }
    let Some(memory) = Memory::plan(&boot.machine, boot.image) else {
        fail(format_args!("too little RAM: no free 4 MiB for a VM and 4 MiB for its frames"));
    };
    console::record(&Record::Plan { count: plan.count(), seed: settings.seed, crc: plan.crc() });

    let mut types = types(online);
    if let Some(midr) = settings.midr {
        types.retain(|first| CPUS[*first].midr.load(Ordering::Relaxed) == midr);
        if types.is_empty() {
            fail(format_args!("no CPU has the MIDR {midr:#x} that the plan asks for"));
        }
    }
    console::line(format_args!("1..{}", plan.count() as usize * types.len()));
    let mut suite = Suite { settings, memory, bundle, online, number: 0, failed: 0 };
    for first in types {
        for (seq, entry) in plan.entries().enumerate() {
            suite.instance(seq as u32, &entry, first);
        }
    }
    console::record(&Record::Bye { finished: suite.number });
    console::line(format_args!("# shatter: end, {} not ok", suite.failed));
    power::end(settings.at_end, SEMIHOSTING.load(Ordering::Relaxed), suite.failed == 0)
}

fn switch_to_semihosting() {
    SEMIHOSTING.store(true, Ordering::Relaxed);
    console::use_semihosting();
}

fn hello(boot: &Boot) {
    console::record(&Record::Hello {
        protocol: wire::PROTOCOL,
        version: text(format_args!("{}", env!("CARGO_PKG_VERSION"))),
    });
    if boot.entered_at == 3 {
        console::log(format_args!("entered at EL3, went down to EL2"));
    }
}

/// The first CPU of each type, a type being a MIDR.
fn types(online: usize) -> ArrayVec<usize, MAX_CPUS> {
    let midr = |n: usize| CPUS[n].midr.load(Ordering::Relaxed);
    (0..online).filter(|n| (0..*n).all(|earlier| midr(earlier) != midr(*n))).collect()
}

macro_rules! id_registers {
    ($($name:literal),+ $(,)?) => {
        [$(Register { name: $name, value: arch::read_sysreg!($name) }),+]
    };
}

/// The ID registers of the calling CPU.
fn registers() -> ArrayVec<Register<'static>, { wire::record::MAX_REGISTERS }> {
    // Named as in the Arm ARM; those that older assemblers do not know by their encoding.
    let mut all: ArrayVec<_, _> = ArrayVec::new();
    all.extend(id_registers![
        "ID_AA64PFR0_EL1",
        "ID_AA64PFR1_EL1",
        "ID_AA64DFR0_EL1",
        "ID_AA64DFR1_EL1",
        "ID_AA64ISAR0_EL1",
        "ID_AA64ISAR1_EL1",
        "ID_AA64MMFR0_EL1",
        "ID_AA64MMFR1_EL1",
        "CTR_EL0",
        "CLIDR_EL1",
        "DCZID_EL0",
    ]);
    all.extend([
        Register { name: "ID_AA64MMFR2_EL1", value: ID_AA64MMFR2_EL1.get() },
        Register { name: "ID_AA64MMFR3_EL1", value: arch::read_sysreg!("S3_0_C0_C7_3") },
        Register { name: "ID_AA64MMFR4_EL1", value: arch::read_sysreg!("S3_0_C0_C7_4") },
        Register { name: "ID_AA64ISAR2_EL1", value: arch::read_sysreg!("S3_0_C0_C6_2") },
        Register { name: "ID_AA64PFR2_EL1", value: arch::read_sysreg!("S3_0_C0_C4_2") },
        Register { name: "ID_AA64ZFR0_EL1", value: arch::read_sysreg!("S3_0_C0_C4_4") },
        Register { name: "ID_AA64SMFR0_EL1", value: arch::read_sysreg!("S3_0_C0_C4_5") },
    ]);
    all
}

/// The records of machine and CPUs.
fn machine(boot: &Boot, online: usize) {
    let machine = &boot.machine;
    let short = |name: &str| ArrayString::from(name).unwrap_or_default();
    console::record(&Record::Platform(Platform {
        model: text(format_args!("{}", machine.model)),
        cpus: online as u8,
        gic: short(machine.gic.name()),
        psci: short(machine.psci.name()),
        image_base: boot.image.start,
        image_size: boot.image.size(),
        ram: machine.ram.iter().map(|r| r.size()).sum(),
        counter_hz: CNTFRQ_EL0.get(),
        entered_at: boot.entered_at,
    }));
    for smmu in machine.smmus.iter().filter_map(|base| read_smmu(*base)) {
        console::record(&Record::Smmu(smmu));
    }
    // Each CPU reads its own; see [`smp::describe`].
    for index in 0..online {
        smp::describe(index);
    }
}

/// The ID registers of the SMMU at `base`, if they can be read: some firmware keeps an SMMU to itself.
fn read_smmu(base: u64) -> Option<Smmu> {
    const IDR0: u64 = 0x0;
    const IDR3: u64 = 0xc;
    let read = |offset| {
        // SAFETY: the registers of an SMMU that the DTB names, mapped as Device memory; to read an ID register does nothing.
        let (probed, _) = exception::probing(smp::own_index(), || unsafe { probe::load32(base + offset) });
        (probed.esr == 0).then_some(probed.value as u32)
    };
    let smmu = read(IDR0).zip(read(IDR3)).map(|(idr0, idr3)| Smmu { base, idr0, idr3 });
    if smmu.is_none() {
        console::log(format_args!("the SMMU at {base:#x} does not let its ID registers be read"));
    }
    smmu
}

/// The record of the CPU that runs this.
pub(crate) fn record_cpu(index: usize) {
    console::record(&Record::Cpu(Cpu {
        index: index as u8,
        mpidr: MPIDR_EL1.get(),
        midr: MIDR_EL1.get(),
        revidr: arch::read_sysreg!("revidr_el1"),
        registers: registers(),
    }));
}

struct Suite {
    settings: Settings,
    memory: Memory,
    bundle: Bundle,
    online: usize,
    number: u32,
    failed: u32,
}

impl Suite {
    /// The CPUs of vCPU 0 and of the others, for instance `seq` on CPUs of the type of CPU `like`: vCPU 0 on any of them,
    /// the others on any of all.
    fn placement(&self, seq: u32, like: usize) -> ArrayVec<usize, MAX_CPUS> {
        let midr = |n: usize| CPUS[n].midr.load(Ordering::Relaxed);
        let mut cpus: ArrayVec<usize, MAX_CPUS> = (0..self.online).collect();
        stress::shuffle(self.settings.seed, seq.into(), &mut cpus);
        if let Some(first) = cpus.iter().position(|n| midr(*n) == midr(like)) {
            cpus.swap(0, first);
        }
        cpus
    }

    /// Runs one instance with vCPU 0 on a CPU of the type of CPU `like`, and reports it.
    fn instance(&mut self, seq: u32, entry: &Entry, like: usize) {
        let cpus = self.placement(seq, like);
        let first = cpus[0];
        let mut id = Id::new();
        // An id is never longer than its buffer.
        let _ = fmt::Write::write_fmt(&mut id, format_args!("{}", entry.instance));
        console::record(&Record::Start { seq, id, cpu: first as u8 });
        let needs = entry.instance.needs();
        let payload = entry.instance.family().payload();
        let cpus = &cpus[..needs.most_cpus.min(cpus.len())];
        let lacks = |feature: &Feature| cpus.iter().find(|n| !feature.is_in(&CPUS[**n].registers())).copied();
        let lacking = entry.instance.features().find_map(|feature| Some(vm::NotRun::Lacks(feature, lacks(&feature)?)));
        // What holds for a translation that several CPUs share is what the least of them allows, and the payload is told no
        // more, whichever of them its vCPUs are on.
        let level = |n: &usize| BbmLevel::from_mmfr2(CPUS[*n].registers().mmfr2);
        let least = cpus.iter().map(level).min().unwrap_or(BbmLevel::L0);
        let differ = cpus.iter().any(|n| level(n) != least);
        let cap = needs.cap.map(|cap| cap.min(least)).or(differ.then_some(least));
        conflict::TAKEN.lock().answer_for(&entry.instance);
        let outcome = match self.bundle.payload(payload) {
            _ if let Some(lacking) = lacking => Err(lacking),
            None => Err(vm::NotRun::NoPayload(payload)),
            Some(payload) => vm::run(
                &vm::Spec {
                    id: &id,
                    needs,
                    payload,
                    rounds: entry.rounds.get(),
                    seed: self.settings.seed,
                    budget_ms: self.settings.budget_ms.get(),
                    timeout_ms: self.settings.timeout_ms.get(),
                    cpus,
                    cap,
                    serial: self.number,
                },
                &self.memory,
            ),
        };
        let conflicts = conflict::TAKEN.lock().drain();
        let mut finished = Finished {
            seq,
            id,
            cpu: first as u8,
            end: End::Skipped,
            bbm: cap.unwrap_or(least).number(),
            report: Report::default(),
            el2_conflicts: conflicts.entries().clone(),
            registers: None,
            contained: 0,
            setup_ns: 0,
            run_ns: 0,
            reason: None,
            retried: None,
        };
        let mut silent_cpu = None;
        match outcome {
            Ok(outcome) => {
                finished.end = outcome.end;
                finished.report = outcome.report;
                finished.registers = outcome.registers;
                finished.contained = outcome.contained;
                finished.setup_ns = outcome.setup_ns;
                finished.run_ns = outcome.run_ns;
                finished.reason = outcome.note;
                silent_cpu = outcome.silent_cpu;
                if let Some(cpu) = silent_cpu {
                    finished.reason = Some(text(format_args!("CPU {cpu} did not come back from its vCPU")));
                }
                conflicts.add_to(&mut finished.report.outcomes);
                finished.retried = lab::add_to(&mut finished.report.outcomes);
                if finished.reason.is_none() && conflicts.total() > finished.el2_conflicts.len() as u64 {
                    finished.reason = Some(text(format_args!("{} conflict aborts at EL2 in all", conflicts.total())));
                }
            }
            Err(not_run) => {
                // What the machine lacks is skipped; a bundle that cannot be used is an error of ours.
                if !not_run.is_skip() {
                    finished.end = End::NoReport;
                }
                finished.reason = Some(text(format_args!("{not_run}")));
            }
        }
        self.report(&entry.instance, finished);
        if let Some(cpu) = silent_cpu {
            fail(format_args!("CPU {cpu} is lost: it may still run its vCPU, so no other VM can be built"));
        }
    }

    fn report(&mut self, instance: &Instance, finished: Finished) {
        self.number += 1;
        let verdict = judge(instance, &finished);
        let Self { number, .. } = *self;
        let id = &finished.id;
        match verdict.class {
            Class::Pass | Class::Observed => console::line(format_args!("ok {number} {id}")),
            Class::Skip => console::line(format_args!(
                "ok {number} {id} # SKIP {}",
                finished.reason.as_deref().unwrap_or("the machine lacks what it needs")
            )),
            class @ (Class::Fail | Class::Error) => {
                self.failed += 1;
                console::line(format_args!("not ok {number} {id}"));
                console::line(format_args!("# {}: {}", class.name(), text(format_args!("{}", verdict.reason))));
            }
        }
        console::record(&Record::Finished(finished));
    }
}

/// The verdict for the console; the runner judges again from the record.
fn judge(instance: &Instance, finished: &Finished) -> Verdict {
    let report = &finished.report;
    let outcomes: ArrayVec<Count, MAX_OUTCOMES> = report.outcomes.iter().map(|o| o.count).collect();
    let el2 = |place: Place| finished.el2_conflicts.iter().filter(|c| c.place == place).count() as u64;
    let all = report.conflicts.iter().chain(&finished.el2_conflicts);
    let level = BbmLevel::from_number(finished.bbm).unwrap_or(BbmLevel::L0);
    let seen = Seen {
        end: finished.end,
        rounds: report.rounds,
        overlap: report.overlap,
        trouble: report.trouble.is_some_and(|t| t != Trouble::OutOfTime),
        outcomes: &outcomes,
        contained: finished.contained,
        el1_conflicts: report.conflicts_total,
        el2_for_el1_conflicts: el2(Place::El2ForEl1),
        el2_conflicts: el2(Place::El2),
        uncleared: all.filter(|c| c.cleared_by == Recovery::None).count() as u64,
        bbm_presented: level,
    };
    verdict::judge(instance, level, &seen)
}
