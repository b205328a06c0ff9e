//! The one VM: built afresh for every instance, run on its CPUs, ended, and taken to pieces.
//!
//! "Fresh" means: private memory zeroed and the payload copied into it, stage 2 rebuilt under another VMID, every
//! EL1&0 TLB entry gone, EL1's registers reset on each CPU that runs a vCPU. Frames are not cleared (they may be
//! 1 GiB large); payloads fill what they look at with values that carry the instance's seed.
//!
//! A payload's code and constants, most of its image, are mapped for reading only by stage 2. Where the VM before had
//! the same payload and never ran without stage 2, they stand there as they were copied, and are left alone.
//!
//! The state is all atomics: the boot CPU writes it while no vCPU runs, and a CPU is given its vCPU by a
//! release store of its job.

use core::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
};

use aarch64_cpu::registers::{CNTHP_CTL_EL2, CNTPCT_EL0, HCR_EL2, Readable, VTCR_EL2, VTTBR_EL2, Writeable};
use arrayvec::ArrayVec;
use smccc::psci;
use spin::Mutex;
use vmsa::{
    BbmLevel, Granule,
    change::Own,
    feature::Feature,
    instance::{self, Access, MAX_ID, Needs, Regime, Stage1, Stage2 as Stage2Mode},
    outcome::End,
    sequence::{MAX_STEPS, Step},
};
use wire::{
    abi::{MAX_VCPUS, VmInfo, call},
    frame,
    record::{MAX_TEXT, Place, Recovery, Registers, Report, Text},
};

use crate::{
    bundle::Payload,
    conflict, console, exception, gic, host, lab,
    memory::Memory,
    platform::Range,
    smp::{self, CPUS},
    stage2::{Stage2, VMID_SHIFT},
    trap,
    vcpu::{self, Exit, Frame},
};

/// HCR_EL2: stage 2 on.
const HCR_VM: u64 = 1 << 0;
/// Set/way invalidation becomes clean and invalidate.
const HCR_SWIO: u64 = 1 << 1;
/// FIQ, IRQ and SError are taken to EL2.
const HCR_FMO_IMO_AMO: u64 = 7 << 3;
/// Reads of ID group 3 trap.
const HCR_TID3: u64 = 1 << 18;
/// SMC traps.
const HCR_TSC: u64 = 1 << 19;
/// EL1 is AArch64.
const HCR_RW: u64 = 1 << 31;
/// Pointer authentication keys and instructions do not trap.
const HCR_APK_API: u64 = 3 << 40;
/// Implementation defined registers trap, ACTLR_EL1 among them: what is in them would outlive the VM.
const HCR_TIDCP_TACR: u64 = 3 << 20;
/// Stage 1 is off, and memory Normal Write-Back.
const HCR_DC: u64 = 1 << 12;
const HCR: u64 = HCR_SWIO | HCR_FMO_IMO_AMO | HCR_TSC | HCR_TIDCP_TACR | HCR_RW | HCR_APK_API;

/// The VMID of the VM with this number. 0 is left to nobody.
const fn vmid_of(serial: u32) -> u8 {
    (serial % 255 + 1) as u8
}

const OFF: u8 = 0;
const ON: u8 = 1;

struct Vcpu {
    state: AtomicU8,
    /// Physical CPU it is pinned to.
    cpu: AtomicUsize,
    entry: AtomicU64,
    context: AtomicU64,
}

/// How it ended and what it left.
struct Ending {
    end: Option<End>,
    registers: Option<Registers>,
    report: Option<Report>,
    /// Said about it, for the record.
    note: Option<Text>,
}

struct Vm {
    vcpus: [Vcpu; MAX_VCPUS],
    count: AtomicUsize,
    /// vCPUs that are on: counted up before one is handed to its CPU, and down when that CPU is done with it, so that
    /// 0 means that nothing of the VM runs or will.
    running: AtomicUsize,
    stop: AtomicBool,
    hcr: AtomicU64,
    vtcr: AtomicU64,
    vttbr: AtomicU64,
    /// Value of the physical counter at which the watchdog bites.
    deadline: AtomicU64,
    private_start: AtomicU64,
    private_end: AtomicU64,
    /// Highest BBM level to present; above 3 for no limit.
    cap: AtomicU8,
    contain: AtomicBool,
    /// Whether hv makes the changes of its case.
    lab: AtomicBool,
    contained: AtomicU64,
    ending: Mutex<Ending>,
}

static VM: Vm = Vm {
    vcpus: [const {
        Vcpu {
            state: AtomicU8::new(OFF),
            cpu: AtomicUsize::new(0),
            entry: AtomicU64::new(0),
            context: AtomicU64::new(0),
        }
    }; MAX_VCPUS],
    count: AtomicUsize::new(0),
    running: AtomicUsize::new(0),
    stop: AtomicBool::new(false),
    hcr: AtomicU64::new(0),
    vtcr: AtomicU64::new(0),
    vttbr: AtomicU64::new(0),
    deadline: AtomicU64::new(0),
    private_start: AtomicU64::new(0),
    private_end: AtomicU64::new(0),
    cap: AtomicU8::new(u8::MAX),
    contain: AtomicBool::new(false),
    lab: AtomicBool::new(false),
    contained: AtomicU64::new(0),
    ending: Mutex::new(Ending { end: None, registers: None, report: None, note: None }),
};

/// What a VM is built from.
pub(crate) struct Spec<'a> {
    pub(crate) id: &'a str,
    pub(crate) needs: Needs,
    pub(crate) payload: &'a Payload,
    pub(crate) rounds: u64,
    pub(crate) seed: u64,
    pub(crate) budget_ms: u64,
    pub(crate) timeout_ms: u64,
    /// Physical CPUs of the vCPUs, vCPU 0's first.
    pub(crate) cpus: &'a [usize],
    /// BBM level to present, if it is another than what each of them has.
    pub(crate) cap: Option<BbmLevel>,
    /// A number that differs from the previous instance's.
    pub(crate) serial: u32,
}

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) end: End,
    pub(crate) registers: Option<Registers>,
    pub(crate) report: Report,
    pub(crate) contained: u64,
    pub(crate) note: Option<Text>,
    /// A CPU that did not come back from its vCPU even when the watchdog should have bitten. It may still run, so
    /// that no other VM can be built.
    pub(crate) silent_cpu: Option<usize>,
    pub(crate) setup_ns: u64,
    pub(crate) run_ns: u64,
}

/// Why an instance was not run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotRun {
    Cpus {
        needed: usize,
        there: usize,
    },
    Frames {
        size: u64,
        count: u64,
    },
    /// This CPU lacks it.
    Lacks(Feature, usize),
    /// The bundle has no such payload, or a damaged one.
    NoPayload(instance::Payload),
    PayloadTooLarge(instance::Payload),
    Stage2,
}

impl NotRun {
    /// Whether the machine lacks something, as opposed to the bundle being unusable.
    pub(crate) const fn is_skip(self) -> bool {
        !matches!(self, Self::NoPayload(_) | Self::PayloadTooLarge(_))
    }
}

impl fmt::Display for NotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpus { needed, there } => write!(f, "needs {needed} CPUs, the machine has {there}"),
            Self::Frames { size, count } => write!(
                f,
                "needs {} MiB of free RAM at a {} MiB boundary, the machine has none",
                (size * count) >> 20,
                size >> 20
            ),
            Self::Lacks(feature, cpu) => {
                write!(f, "{} says that CPU {cpu} lacks {}", feature.field(), feature.name())
            }
            Self::NoPayload(name) => write!(f, "the bundle has no usable payload/{name}"),
            Self::PayloadTooLarge(name) => write!(f, "payload/{name} is too large for its VM"),
            Self::Stage2 => f.write_str("stage 2 cannot map the VM's memory this way on this machine"),
        }
    }
}

/// Time after the watchdog's within which every CPU must be back, in ms: long for an emulator on a busy host.
const GRACE: u64 = 2000;

/// Time within which a payload that is meant to hang is ended, in ms.
const HANG_TIMEOUT: u64 = 100;

/// Builds the VM of `spec`, runs it to its end and says what came of it.
pub(crate) fn run(spec: &Spec<'_>, memory: &Memory) -> Result<Outcome, NotRun> {
    let start = arch::counter::physical();
    build(spec, memory)?;
    let built = arch::counter::physical();

    let timeout = if spec.needs.hangs { HANG_TIMEOUT } else { spec.timeout_ms };
    VM.deadline.store(built + arch::counter::ticks(timeout), Ordering::Relaxed);
    VM.vcpus[0].state.store(ON, Ordering::Relaxed);
    hand_over(0);
    let own = &CPUS[0].job;
    let limit = VM.deadline.load(Ordering::Relaxed) + arch::counter::ticks(GRACE);
    let silent = loop {
        let running = || VM.running.load(Ordering::Acquire);
        // Another CPU's vCPU may be stuck where no interrupt reaches it.
        if !smp::wait(0, Some(limit), || own.load(Ordering::Acquire) != 0 || running() == 0) {
            break VM.vcpus.iter().find(|v| v.state.load(Ordering::Acquire) == ON);
        }
        match own.load(Ordering::Acquire) {
            0 => break None,
            job => {
                run_vcpu(job - 1, 0);
                own.store(0, Ordering::Release);
                finished(job - 1);
            }
        }
    };
    let ended = arch::counter::physical();

    let mut ending = VM.ending.lock();
    if silent.is_some() {
        ending.end = Some(End::Watchdog);
    }
    Ok(Outcome {
        // All vCPUs switched themselves off one by one: an end without report or, had there been one, SYSTEM_OFF.
        end: ending.end.unwrap_or(End::NoReport),
        registers: ending.registers.take(),
        report: ending.report.take().unwrap_or_default(),
        contained: VM.contained.load(Ordering::Relaxed),
        note: ending.note.take(),
        silent_cpu: silent.map(|vcpu| vcpu.cpu.load(Ordering::Relaxed)),
        setup_ns: arch::counter::nanoseconds(built - start),
        run_ns: arch::counter::nanoseconds(ended - built),
    })
}

fn build(spec: &Spec<'_>, memory: &Memory) -> Result<(), NotRun> {
    let needs = &spec.needs;
    if spec.cpus.len() < needs.cpus {
        return Err(NotRun::Cpus { needed: needs.cpus, there: spec.cpus.len() });
    }
    let cpus = spec.cpus.len().min(needs.most_cpus);
    let private = Range::of(memory.private.start, needs.private_size);
    let frames = memory
        .frames(needs.frame_size, needs.frames)
        .ok_or(NotRun::Frames { size: needs.frame_size, count: needs.frames })?;
    let header = &spec.payload.header;
    let info_page = private.end - 4096;
    if header.memory_size > info_page - private.start {
        return Err(NotRun::PayloadTooLarge(spec.payload.name));
    }
    lab::clear();
    let mut window_ipa = 0;
    let granule = needs.lab.filter(|case| case.regime == Regime::S2).map_or(Granule::K4, |case| case.granule);
    // A page that is constant in part is not protected, and then nothing stands in the next VM.
    let protected = header.writable & !(granule.page_size() - 1);
    let stage2 = if needs.stage2 == Stage2Mode::Off {
        None
    } else {
        let pages = needs.stage2 == Stage2Mode::Pages;
        // The CPUs share VTCR_EL2, so it says what the least of them can do.
        let ranges = spec.cpus.iter().map(|cpu| arch::id::pa_range_of(CPUS[*cpu].registers().mmfr0));
        let pa_range = ranges.min().unwrap_or_default();
        let built = Stage2::new(granule, private.end.max(frames.end), pa_range).and_then(|mut stage2| {
            let [constant, variable] = private.split(protected);
            stage2.map(constant, pages, false)?;
            stage2.map(variable, pages, true)?;
            // What of hv's own stands in a frame is not the VM's.
            let own = needs.lab.is_some_and(|case| case.change.own().is_some());
            let [front, behind] = frames.split(if own { Own::AREA.start } else { frames.size() });
            stage2.map(front, pages, true)?;
            stage2.map(behind.split(if own { Own::AREA.end - Own::AREA.start } else { 0 })[1], pages, true)?;
            if let Some(case) = &needs.lab {
                let hash = frame::crc32(spec.id.as_bytes()).into();
                window_ipa = lab::set_up(case, &mut stage2, frames, &[private, frames], spec.seed, hash)?;
            }
            Ok(stage2)
        });
        Some(built.map_err(|_| NotRun::Stage2)?)
    };

    let mut mpidr = [0; MAX_VCPUS];
    for (i, slot) in mpidr.iter_mut().enumerate().take(cpus) {
        *slot = CPUS[spec.cpus[i]].mpidr.load(Ordering::Relaxed);
    }
    let mut id = [0; MAX_ID];
    id[..spec.id.len()].copy_from_slice(spec.id.as_bytes());
    let info = VmInfo {
        magic: VmInfo::MAGIC,
        private_base: private.start,
        private_size: private.size(),
        frames_base: frames.start,
        frame_size: needs.frame_size,
        frames: needs.frames,
        vcpus: cpus as u64,
        mpidr,
        rounds: spec.rounds,
        seed: spec.seed,
        budget_ticks: arch::counter::ticks(spec.budget_ms),
        window_ipa,
        id_len: spec.id.len() as u64,
        id,
    };
    // SAFETY: the private memory was allocated for VMs only, is mapped as Normal memory, and no vCPU runs. VmInfo fits
    // its page, is plain data and aligned.
    unsafe {
        lay_out(private, spec.payload, stage2.is_some() && protected == header.writable);
        (info_page as *mut VmInfo).write(info);
    }
    arch::cache::clean_invalidate_poc(info_page as usize, size_of::<VmInfo>());
    arch::cache::invalidate_instructions();

    let flat = needs.lab.is_some_and(|case| case.stage1 == Stage1::Off);
    VM.hcr.store(
        HCR | if flat { HCR_DC } else { 0 }
            | if stage2.is_some() { HCR_VM } else { 0 }
            | if spec.cap.is_some() { HCR_TID3 } else { 0 },
        Ordering::Relaxed,
    );
    // It is set even with stage 2 off, since it tags the entries all the same (R_TLJCY).
    let vmid = vmid_of(spec.serial);
    let (vtcr, vttbr) = stage2.map_or((0, u64::from(vmid) << VMID_SHIFT), |s2| (s2.vtcr(), s2.vttbr(vmid)));
    VM.vtcr.store(vtcr, Ordering::Relaxed);
    VM.vttbr.store(vttbr, Ordering::Relaxed);
    VM.private_start.store(private.start, Ordering::Relaxed);
    VM.private_end.store(private.end, Ordering::Relaxed);
    VM.cap.store(spec.cap.map_or(u8::MAX, BbmLevel::number), Ordering::Relaxed);
    VM.contain.store(needs.contain, Ordering::Relaxed);
    VM.lab.store(needs.lab.is_some(), Ordering::Relaxed);
    VM.contained.store(0, Ordering::Relaxed);
    VM.count.store(cpus, Ordering::Relaxed);
    VM.stop.store(false, Ordering::Relaxed);
    for (vcpu, cpu) in VM.vcpus.iter().zip(spec.cpus) {
        vcpu.cpu.store(*cpu, Ordering::Relaxed);
    }
    VM.vcpus[0].entry.store(private.start + header.entry, Ordering::Relaxed);
    VM.vcpus[0].context.store(info_page, Ordering::Relaxed);
    *VM.ending.lock() = Ending { end: None, registers: None, report: None, note: None };

    // Tables and translations of the instance before: the stores above reach the walkers, then every EL1&0 entry of
    // every VMID goes, on every CPU.
    arch::barrier::dsb_ishst();
    arch::tlbi::alle1is();
    arch::barrier::dsb_ish();
    arch::barrier::isb();
    Ok(())
}

/// Makes `memory` hold the image of `payload` and zeros behind it, for readers past the caches too; `protected` is
/// whether the VM that it is for runs with stage 2 on.
///
/// # Safety
/// `memory` is Normal memory, mapped here, which nobody else uses and in which nothing of Rust lives. It is larger than
/// the image, and starts where it did in every call.
unsafe fn lay_out(memory: Range, payload: &Payload, protected: bool) {
    /// The payload whose constant part stands there, and could not be written; by the number of its name.
    static STANDING: AtomicU8 = AtomicU8::new(NOBODY);
    const NOBODY: u8 = u8::MAX;
    let number = payload.name as u8;
    let image = &payload.image[..payload.header.image_size as usize];
    let (constant, data) = image.split_at(payload.header.writable as usize);
    let [front, rest] = memory.split(constant.len() as u64);
    let clean = |range: Range| arch::cache::clean_invalidate_poc(range.start as usize, range.size() as usize);
    if STANDING.load(Ordering::Relaxed) != number {
        // A payload that died with its MMU off has written past the caches, where lines of older contents may be.
        clean(front);
        // SAFETY: the caller's promise.
        unsafe { fill(front, constant) };
        // The payload starts with its MMU off: it fetches and reads past the caches.
        clean(front);
    }
    STANDING.store(if protected { number } else { NOBODY }, Ordering::Relaxed);
    // What the caches hold of the rest, whatever was written past them, does not matter: all of it is written.
    // SAFETY: the caller's promise; the image is shorter than the memory, as `build` has checked.
    unsafe {
        arch::cache::zero(rest.start as usize, rest.size() as usize);
        core::slice::from_raw_parts_mut(rest.start as *mut u8, data.len()).copy_from_slice(data);
    }
    clean(rest);
}

/// Makes `memory` hold `image`, which is as large.
///
/// Blocks of the image that are right already are left alone. The result is the same, and an emulator keeps its
/// translation of code that did not change, which for a short test is most of the work.
///
/// # Safety
/// `memory` is Normal memory, mapped here, which nobody else uses and in which nothing of Rust lives.
unsafe fn fill(memory: Range, image: &[u8]) {
    /// Words that are compared at once; an archive aligns its files to 4 bytes.
    type Block = [u32; 16];
    // SAFETY: the caller's promise.
    let there = unsafe { core::slice::from_raw_parts_mut(memory.start as *mut u8, image.len()) };
    // SAFETY: any bytes are words.
    match unsafe { (there.align_to_mut::<Block>(), image.align_to::<Block>()) } {
        (([], there, []), ([], image, [])) => {
            for (there, block) in there.iter_mut().zip(image) {
                // A sum, since the compiler would make many branches of anything that can be known earlier.
                let different: u64 = there.iter().zip(block).map(|(a, b)| u64::from(a ^ b)).sum();
                if different != 0 {
                    *there = *block;
                }
            }
        }
        _ => there.copy_from_slice(image),
    }
}

/// Ends the VM; the first end is the one that counts.
fn end(end: End, frame: Option<(&Frame, usize)>, note: Option<Text>) {
    let mut ending = VM.ending.lock();
    if ending.end.is_none() {
        ending.end = Some(end);
        ending.registers = frame.map(|(frame, vcpu)| frame.registers(vcpu));
        ending.note = note;
    }
    drop(ending);
    // Sequentially consistent with a vCPU that is being switched on: either it sees `stop`, or it is seen here.
    VM.stop.store(true, Ordering::SeqCst);
    for (number, vcpu) in VM.vcpus.iter().enumerate() {
        let cpu = vcpu.cpu.load(Ordering::Relaxed);
        if frame.is_none_or(|(_, own)| own != number) && vcpu.state.load(Ordering::SeqCst) == ON {
            smp::wake(cpu);
        }
    }
}

/// Gives vCPU `number` to the CPU that it is pinned to.
fn hand_over(number: usize) {
    VM.running.fetch_add(1, Ordering::AcqRel);
    let cpu = VM.vcpus[number].cpu.load(Ordering::Relaxed);
    CPUS[cpu].job.store(number + 1, Ordering::Release);
    smp::wake(cpu);
}

/// Marks a vCPU as off, once its CPU can take another job.
pub(crate) fn finished(number: usize) {
    VM.vcpus[number].state.store(OFF, Ordering::Release);
    VM.running.fetch_sub(1, Ordering::AcqRel);
}

/// Loads the VM's controls on this CPU.
fn load_controls() {
    vcpu::reset_el1();
    VTCR_EL2.set(VM.vtcr.load(Ordering::Relaxed));
    VTTBR_EL2.set(VM.vttbr.load(Ordering::Relaxed));
    host::enter(VM.hcr.load(Ordering::Relaxed));
    arch::barrier::isb();
}

/// Runs vCPU `number` on this CPU, which has the number `cpu`, until it switches off or the VM ends.
pub(crate) fn run_vcpu(number: usize, cpu: usize) {
    let vcpu = &VM.vcpus[number];
    let mut frame = Frame::start(vcpu.entry.load(Ordering::Relaxed), vcpu.context.load(Ordering::Relaxed));
    load_controls();
    smp::arm_timer(VM.deadline.load(Ordering::Relaxed));
    while !VM.stop.load(Ordering::SeqCst) {
        // At every exit: interrupts that are not the timer's must not keep the watchdog from biting.
        if CNTPCT_EL0.get() >= VM.deadline.load(Ordering::Relaxed) {
            end(End::Watchdog, Some((&frame, number)), None);
            break;
        }
        // SAFETY: `load_controls` put the VM's controls into force on this CPU, and only this VM exists.
        let exit = unsafe { frame.run() };
        let go_on = match exit {
            Exit::Synchronous => synchronous(&mut frame, number, cpu),
            Exit::Interrupt => {
                // The timer's is answered at the head of the loop, a wake-up by a look at `stop`.
                gic::get().map(gic::Gic::acknowledge);
                true
            }
            Exit::SError => {
                end(End::SError, Some((&frame, number)), None);
                false
            }
            Exit::AArch32 => {
                end(End::Trap, Some((&frame, number)), None);
                false
            }
        };
        if !go_on {
            break;
        }
    }
    CNTHP_CTL_EL2.set(0);
    // An SError that this vCPU caused is its own, not the next one's.
    arch::barrier::dsb_sy();
    arch::barrier::isb();
    if exception::drain_serror(cpu) {
        end(End::SError, Some((&frame, number)), None);
    }
    // Nothing of this VM may be in force, or be speculated with, when its memory is rebuilt: EL1's MMU goes off while
    // stage 2 still holds.
    host::leave();
    vcpu::reset_el1();
    HCR_EL2.set(HCR_RW | HCR_FMO_IMO_AMO);
    arch::barrier::isb();
}

fn synchronous(frame: &mut Frame, number: usize, cpu: usize) -> bool {
    const HVC64: u64 = 0x16;
    const SMC64: u64 = 0x17;
    const SYSTEM_REGISTER: u64 = 0x18;
    const INSTRUCTION_ABORT: u64 = 0x20;
    const DATA_ABORT: u64 = 0x24;
    match frame.esr >> 26 {
        HVC64 if frame.esr & 0xffff == u64::from(call::HVC_UNEXPECTED) => {
            end(End::Exception, Some((frame, number)), None);
            false
        }
        HVC64 => hypercall(frame, number, cpu),
        SMC64 => {
            // A trapped SMC returns to itself.
            frame.skip();
            hypercall(frame, number, cpu)
        }
        SYSTEM_REGISTER if trap::id_register(frame, VM.cap.load(Ordering::Relaxed)) => true,
        INSTRUCTION_ABORT | DATA_ABORT if conflict::is_conflict(frame.esr) => {
            let taken =
                conflict::conflict(Place::El2ForEl1, frame.esr, frame.far, Some(frame.hpfar), frame.pc, cpu as u8);
            let again = conflict::TAKEN.lock().take(taken, Recovery::Vmalls12e1, &frame.x);
            if !again {
                end(End::Unrecovered, Some((frame, number)), None);
            }
            again
        }
        ec @ (INSTRUCTION_ABORT | DATA_ABORT) if VM.lab.load(Ordering::Relaxed) => {
            match lab::refused(frame, number, ec, go_on) {
                lab::Answer::Again | lab::Answer::Told => true,
                lab::Answer::NotHere => {
                    end(End::Trap, Some((frame, number)), None);
                    false
                }
            }
        }
        ec @ (INSTRUCTION_ABORT | DATA_ABORT) if VM.contain.load(Ordering::Relaxed) => {
            VM.contained.fetch_add(1, Ordering::Relaxed);
            trap::external_abort(frame, ec);
            true
        }
        _ => {
            end(End::Trap, Some((frame, number)), None);
            false
        }
    }
}

/// Whether the VM still runs, and may.
fn go_on() -> bool {
    !VM.stop.load(Ordering::SeqCst) && CNTPCT_EL0.get() < VM.deadline.load(Ordering::Relaxed)
}

const SUCCESS: u64 = 0;
const NOT_SUPPORTED: u64 = -1_i64 as u64;
const INVALID_PARAMETERS: u64 = -2_i64 as u64;
const ALREADY_ON: u64 = -4_i64 as u64;
const INVALID_ADDRESS: u64 = -9_i64 as u64;

/// Whether `[address, address + len)` is the VM's private memory.
fn is_private(address: u64, len: u64) -> bool {
    let private =
        Range { start: VM.private_start.load(Ordering::Relaxed), end: VM.private_end.load(Ordering::Relaxed) };
    address.checked_add(len).is_some_and(|end| private.contains(Range { start: address, end }))
}

/// Copies the VM's memory from `address` to `to`, as far as that is its own. The VM may write it meanwhile: what
/// was copied is looked at, never the original.
fn copy_in(address: u64, to: &mut [u8]) -> bool {
    if !is_private(address, to.len() as u64) {
        return false;
    }
    for (byte, at) in to.iter_mut().zip(address..) {
        // SAFETY: inside the VM's private memory, mapped here as Normal memory in which nothing of Rust lives. Volatile,
        // since vCPUs on other CPUs may write it.
        *byte = unsafe { (at as *const u8).read_volatile() };
    }
    true
}

/// Text of the VM, fit for one line: control characters, and what would start a record, are replaced.
fn guest_text(address: u64, len: u64) -> Text {
    let mut buffer = [0; MAX_TEXT];
    let bytes = &mut buffer[..(len as usize).min(MAX_TEXT)];
    if !copy_in(address, bytes) {
        return wire::record::text(format_args!("(text at {address:#x}, which is not the VM's)"));
    }
    // The length may have cut a character in two.
    let valid = match core::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    };
    let mut text = Text::new();
    for c in valid.chars() {
        let c = if c.is_control() || c == '@' { '.' } else { c };
        if text.try_push(c).is_err() {
            break;
        }
    }
    text
}

/// Takes the report at `[address, address + len)` in.
fn take_report(number: usize, address: u64, len: u64) -> u64 {
    static BODY: Mutex<[u8; frame::MAX_BODY]> = Mutex::new([0; frame::MAX_BODY]);
    let mut body = BODY.lock();
    let body = &mut body[..(len as usize).min(frame::MAX_BODY)];
    if !copy_in(address, body) {
        return INVALID_ADDRESS;
    }
    match frame::decode_report(body) {
        Ok(report) => {
            VM.ending.lock().report = Some(report);
            SUCCESS
        }
        Err(error) => {
            // The payload may go on; what it handed in is not counted.
            console::log(format_args!("vCPU {number}: damaged report: {error}"));
            INVALID_PARAMETERS
        }
    }
}

fn hypercall(frame: &mut Frame, number: usize, cpu: usize) -> bool {
    let [function, x1, x2, x3, ..] = frame.x;
    let result = match function as u32 {
        psci::PSCI_VERSION => 0x1_0001,
        psci::PSCI_FEATURES => match x1 as u32 {
            psci::PSCI_VERSION | psci::PSCI_CPU_ON_64 | psci::PSCI_CPU_OFF | psci::PSCI_SYSTEM_OFF => SUCCESS,
            _ => NOT_SUPPORTED,
        },
        psci::PSCI_CPU_ON_64 | psci::PSCI_CPU_ON_32 => cpu_on(x1, x2, x3),
        psci::PSCI_AFFINITY_INFO_64 | psci::PSCI_AFFINITY_INFO_32 => match find(x1) {
            Some(n) => u64::from(VM.vcpus[n].state.load(Ordering::Acquire) == OFF),
            None => INVALID_PARAMETERS,
        },
        psci::PSCI_CPU_OFF => return false,
        psci::PSCI_SYSTEM_OFF | psci::PSCI_SYSTEM_RESET => {
            let how = if VM.ending.lock().report.is_some() { End::Done } else { End::NoReport };
            let registers = (how != End::Done).then_some((&*frame, number));
            end(how, registers, None);
            return false;
        }
        call::REPORT => take_report(number, x1, x2),
        call::LOG => {
            console::log(format_args!("vCPU {number}: {}", guest_text(x1, x2)));
            SUCCESS
        }
        call::PANIC => {
            end(End::Panic, Some((frame, number)), Some(guest_text(x1, x2)));
            return false;
        }
        call::INJECT_CONFLICT => return inject_conflict(frame, cpu),
        call::RECOVER_CONFLICT => {
            match x1 {
                0 => arch::tlbi::vmalls12e1is(),
                _ => arch::tlbi::alle1is(),
            }
            arch::barrier::dsb_ish();
            SUCCESS
        }
        call::LAB_STEPS => {
            let letters = [x2, x3].map(u64::to_le_bytes);
            let letters = letters.as_flattened().iter().take_while(|letter| **letter != 0);
            let step = |letter: &u8| Step::all().find(|step| step.letter() == char::from(*letter));
            let steps: ArrayVec<Step, MAX_STEPS> = letters.filter_map(step).take(MAX_STEPS).collect();
            let [x4, x5] = [frame.x[4], frame.x[5]];
            let back = x5 & call::LAB_BACK != 0;
            match lab::execute([cpu, number], x1 as usize, back, x4, x5 as u32, steps.into_iter()) {
                true => SUCCESS,
                false => INVALID_PARAMETERS,
            }
        }
        call::LAB_VMID if VM.lab.load(Ordering::Relaxed) => {
            let usual = VM.vttbr.load(Ordering::Relaxed);
            let vmid = match (x1, (usual >> VMID_SHIFT) as u8) {
                (0, vmid) => vmid,
                // The next VM's, which begins by a TLBI of all.
                (_, vmid) => vmid_of(vmid.into()),
            };
            // The return to the vCPU synchronises it.
            VTTBR_EL2.set(usual & !(0xff << VMID_SHIFT) | u64::from(vmid) << VMID_SHIFT);
            SUCCESS
        }
        call::LAB_WAITING => lab::waiting(),
        call::LAB_ACCESS => {
            let access = usize::try_from(x1).ok().and_then(|number| Access::ALL.get(number));
            match access.and_then(|access| lab::access([cpu, number], *access, x2, x3, go_on)) {
                Some(lab::Came { probed, registers: [far, pc], failed }) => {
                    frame.x[1..6].copy_from_slice(&[probed.value, probed.esr, far, pc, failed.into()]);
                    SUCCESS
                }
                None => INVALID_PARAMETERS,
            }
        }
        call::LAB_MARKS => match lab::marks(x1 as usize, x2) {
            Some((marks, descriptor)) => {
                frame.x[1..3].copy_from_slice(&[marks.bits().into(), descriptor.raw()]);
                SUCCESS
            }
            None => INVALID_PARAMETERS,
        },
        call::LAB_DROP if lab::drop_entries(x1, x2 != 0) => SUCCESS,
        call::LAB_PRESS if lab::press(cpu, x1) => SUCCESS,
        call::LAB_DROP | call::LAB_PRESS | call::LAB_VMID => INVALID_PARAMETERS,
        _ => NOT_SUPPORTED,
    };
    frame.x[0] = result;
    true
}

/// The vCPU with these affinity fields.
fn find(mpidr: u64) -> Option<usize> {
    (0..VM.count.load(Ordering::Relaxed))
        .find(|n| CPUS[VM.vcpus[*n].cpu.load(Ordering::Relaxed)].mpidr.load(Ordering::Relaxed) == mpidr)
}

fn cpu_on(mpidr: u64, entry: u64, context: u64) -> u64 {
    let Some(number) = find(mpidr) else { return INVALID_PARAMETERS };
    if !is_private(entry, 4) || !entry.is_multiple_of(4) {
        return INVALID_ADDRESS;
    }
    let vcpu = &VM.vcpus[number];
    if vcpu.state.compare_exchange(OFF, ON, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        return ALREADY_ON;
    }
    vcpu.entry.store(entry, Ordering::Relaxed);
    vcpu.context.store(context, Ordering::Relaxed);
    hand_over(number);
    SUCCESS
}

/// Raises a TLB conflict abort at the place that the payload names, as if its next access had met it.
fn inject_conflict(frame: &mut Frame, cpu: usize) -> bool {
    /// FSC of a TLB conflict abort.
    const FSC: u64 = 0b11_0000;
    const IL: u64 = 1 << 25;
    let [_, place, far, iss, ..] = frame.x;
    frame.x[0] = SUCCESS;
    let esr = |ec: u64| ec << 26 | IL | (iss & 0x1ff_ffc0) | FSC;
    match Place::ALL.get(place as usize) {
        Some(Place::El1) => frame.inject(esr(0x25), far),
        Some(Place::El2ForEl1) => {
            let hpfar = (far >> 12) << 4;
            let mut taken = conflict::conflict(Place::El2ForEl1, esr(0x24), far, Some(hpfar), frame.pc, cpu as u8);
            taken.injected = true;
            conflict::TAKEN.lock().take(taken, Recovery::Vmalls12e1, &frame.x);
        }
        Some(Place::El2) => exception::inject_own(esr(0x25), far),
        None => frame.x[0] = INVALID_PARAMETERS,
    }
    true
}
