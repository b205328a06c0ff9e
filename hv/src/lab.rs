//! The lab: stage 2 of the running VM, or a window in EL2's own stage 1, changed at the VM's own request.
//!
//! A case of regime s2 has a window of IPAs, to which its stage 1 maps a window of VAs. The payload's round engine is the same
//! as for stage 1; but the steps of a change are executed here, at EL2, as many at a time as the payload asks for.
//!
//! An access that meets a break is taken to EL2. As a hypervisor does, which would wait for the lock of its tables there, hv
//! holds the vCPU until the change is made, and has it try again; how often, and how long the window was broken, is
//! recorded, and counted as an outcome of the phase that the observer was in. Whatever else stage 2 refuses in the window
//! goes to the payload, as an abort of its own with the same fault status. So does a break that the vCPU made itself:
//! nobody else would mend it.
//!
//! A case of regime el2 has its window in hv's own map, below an entry of the first table that holds nothing else: hv's code,
//! stacks, vectors and data are outside. The accesses of observers are made here as well, each on the CPU of the vCPU that
//! asks for it, and what they take is told to the payload as if it had taken it. Nobody waits for anything.
//!
//! So it is for a case of regime el2vhe, but that its window is in tables of its own, in the half of TTBR1_EL2 ([`host`]).
//!
//! Where hv itself stands on the block that changes ([`own`]) all steps are executed at once, and who meets the
//! break waits for the make, as for the lock of hv's tables.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use aarch64_cpu::registers::{CNTPCT_EL0, Readable, TPIDR_EL0};
use arch::{
    probe::{self, Probed},
    sequence::{Live, NextTable},
    tlbi,
};
use arrayvec::ArrayVec;
use spin::Mutex;
use vmsa::{
    Granule, Level,
    change::{Descriptors, Leaf},
    descriptor::{Attributes, Descriptor},
    instance::{Access, Case, Method, Regime},
    layout::{Format, Layout},
    mark::Marks,
    outcome::{Count, Fault, Kind, Phase},
    sequence::{Step, Write},
    shatter::{self, Request},
    stress::{self, PRESSING_PAGES},
};
use wire::record::{First, MAX_OUTCOMES, Outcome, Retried};

use crate::{
    console, exception, host, mmu,
    own::{self, Break, Change, Stand},
    platform::Range,
    stage2::{OutOfReach, Stage2, Tables},
    vcpu::Frame,
};

/// What is changed.
struct Bench {
    /// The descriptors of all sites.
    ptes: &'static [AtomicU64],
    /// How many of them a site has, and how many of those change.
    entries: usize,
    changed: usize,
    /// IPA of the first site, or VA, and what one descriptor maps, in bytes.
    base: u64,
    size: u64,
    descriptors: Descriptors,
    /// The layout of a descriptor, and the tables that steps fill and put in place, if they do.
    shattered: Option<(Layout, shatter::Tables<NextTable<'static>>)>,
    /// If hv stands on it itself.
    stand: Option<Stand>,
    /// In which it is, and marks of hardware's that the steps of this change have found so far.
    regime: Regime,
    found: Option<Marks>,
}

/// Accesses that were tried again.
struct Seen {
    outcomes: ArrayVec<Outcome, 12>,
    breaks: u64,
    /// Ticks.
    total: u64,
    longest: u64,
    shortest: u64,
    /// Fewest cycles of one, where they are counted.
    cycles: Option<u64>,
}

struct Lab {
    bench: Mutex<Option<Bench>>,
    /// VAs of the window.
    start: AtomicU64,
    end: AtomicU64,
    /// Its first IPA, if it is one of those.
    ipa: AtomicU64,
    /// If it is in EL2's own translation, pages there that press on the TLB, or else 0.
    pressing: AtomicU64,
    /// Their size, in bytes.
    page: AtomicU64,
    /// Whether who meets a break at EL2 waits for the make.
    waits: AtomicBool,
    /// Odd while the window is broken, or about to be.
    generation: AtomicU64,
    /// vCPU that makes the change.
    changer: AtomicUsize,
    /// vCPUs that wait for it, a bit each.
    waiting: AtomicU64,
    /// When the window was broken.
    since: AtomicU64,
    seen: Mutex<Seen>,
}

impl Seen {
    const NOTHING: Self =
        Self { outcomes: ArrayVec::new_const(), breaks: 0, total: 0, longest: 0, shortest: u64::MAX, cycles: None };
}

static LAB: Lab = Lab {
    bench: Mutex::new(None),
    start: AtomicU64::new(0),
    end: AtomicU64::new(0),
    ipa: AtomicU64::new(u64::MAX),
    pressing: AtomicU64::new(0),
    page: AtomicU64::new(0),
    waits: AtomicBool::new(false),
    generation: AtomicU64::new(0),
    changer: AtomicUsize::new(0),
    waiting: AtomicU64::new(0),
    since: AtomicU64::new(0),
    seen: Mutex::new(Seen::NOTHING),
};

/// Clears the bench: the next VM has no lab.
pub(crate) fn clear() {
    *LAB.bench.lock() = None;
    *LAB.seen.lock() = Seen::NOTHING;
    mmu::detach();
    host::clear();
    LAB.waits.store(false, Ordering::Relaxed);
    for word in [&LAB.start, &LAB.end, &LAB.pressing, &LAB.generation, &LAB.waiting] {
        word.store(0, Ordering::Relaxed);
    }
}

/// Builds the window of `case` into `stage2`, or into EL2's own map, onto `frames`; returns its address there. `mapped` is what
/// stage 2 maps besides, and `instance` a hash of the id. While no VM runs.
pub(crate) fn set_up(
    case: &Case,
    stage2: &mut Stage2,
    frames: Range,
    mapped: &[Range],
    seed: u64,
    instance: u64,
) -> Result<u64, OutOfReach> {
    let Case { change, granule, .. } = *case;
    let sites = case.sites();
    let size = change.window_size(granule);
    let all = size * sites as u64;
    let overlaps = |base: &u64| mapped.iter().any(|range| range.overlaps(Range::of(*base, all)));
    if case.regime == Regime::S2 {
        stage2.update_by(change.what().sides().hardware);
    }
    let mut own;
    let (base, tables) = if case.regime.is_at_el2() {
        own = stage2.besides(case.regime, granule)?;
        (case.window_va(seed, instance).ok_or(OutOfReach)?, &mut own)
    } else {
        let mut bases = (0..64).map(|n| stress::ipa_base(seed, instance ^ n << 32, all, stage2.ipa_bits()));
        (bases.find(|base| !overlaps(base)).ok_or(OutOfReach)?, &mut stage2.tables)
    };

    let old_oa = frames.start;
    let new_oa = if change.moves() { old_oa + frames.size() / 2 } else { old_oa };
    let (level, sides) = (change.level(), change.what().sides());
    // What the steps fill is empty before them.
    let filled = case.method != Method::Overwrite;
    let mut tree = |below: bool, oa, leaf| match level.next().filter(|_| filled && below) {
        Some(next) => tables.tree(next, oa, leaf),
        None => Ok(0),
    };
    let trees = [tree(sides.old.below, old_oa, change.old_leaf())?, tree(sides.new.below, new_oa, change.new_leaf())?];
    let mut descriptors = change.descriptors_in(case.regime, granule, [old_oa, new_oa], trees);
    let entries = change.entries(granule);
    let ptes = tables.slots(base, level, sites * entries)?;
    for ptes in ptes.chunks_exact(entries) {
        // SAFETY: the window is all that the descriptors translate, of a VM that does not run yet.
        let whole = unsafe { Live::new(&ptes[..change.valid(granule)], base, level.size(granule), descriptors) };
        whole.reversed().step(Step::Write(Write::New));
    }
    let shattered = match Request::of(case, descriptors.old) {
        Some(request) => Some((request.layout, shatter(&request, &ptes[0], tables)?)),
        None => None,
    };
    if let Some((layout, [Some(first), ..])) = shattered {
        descriptors.new = layout.table(first.address);
    }
    let changed = change.changed(granule);
    let va = case.window_va(seed, instance).unwrap_or(base);
    LAB.start.store(va, Ordering::Relaxed);
    LAB.end.store(va + all, Ordering::Relaxed);
    LAB.ipa.store(if case.regime == Regime::S2 { base } else { u64::MAX }, Ordering::Relaxed);
    if case.regime.is_at_el2() {
        let pressing = stress::pressing_base(base, all, Level::L2.size(granule));
        press_from(tables, case.regime, granule, pressing)?;
        LAB.pressing.store(pressing, Ordering::Relaxed);
        LAB.page.store(granule.page_size(), Ordering::Relaxed);
    }
    match case.regime {
        Regime::El2 => mmu::attach(base, tables.address()),
        Regime::El2Vhe => host::set_up(granule, tables.address()),
        Regime::El1 | Regime::S2 => {}
    }
    // The table may then be elsewhere, so this comes last.
    let (stand, ptes) = match Stand::build(case, frames.start, ptes, tables, base)? {
        Some((stand, ptes)) => (Some(stand), ptes),
        None => (None, ptes),
    };
    LAB.waits.store(stand.is_some(), Ordering::Relaxed);
    let size = level.size(granule);
    *LAB.bench.lock() = Some(Bench {
        ptes,
        entries,
        changed,
        base,
        size,
        descriptors,
        shattered,
        stand,
        regime: case.regime,
        found: None,
    });
    Ok(base)
}

/// The tables for `request`, whose entry is `live`; before that, all that must be refused is, and is told.
fn shatter(
    request: &Request,
    live: &AtomicU64,
    tables: &mut Tables,
) -> Result<shatter::Tables<NextTable<'static>>, OutOfReach> {
    let refused = |refusal| console::log(format_args!("refused: {refusal}"));
    assert!(request.rehearse(live, tables, refused), "what must be refused was not, or left something behind");
    request.prepare(tables).map_err(|_| OutOfReach)
}

/// Maps the pages that press on the TLB, all to one page of zeros.
fn press_from(tables: &mut Tables, regime: Regime, granule: Granule, first: u64) -> Result<(), OutOfReach> {
    let leaf = Leaf { level: Level::L3, attributes: Attributes::NORMAL_RO };
    let page = leaf.descriptor_in(regime, Format::new(granule), tables.page()?).raw();
    let slots = tables.slots(first, Level::L3, PRESSING_PAGES.into())?;
    slots.iter().for_each(|slot| slot.store(page, Ordering::Relaxed));
    Ok(())
}

/// What an access at EL2 came to: what it brought back, FAR and PC of the exception that it took, if it took one, and whether
/// it was an exclusive one that did not store.
pub(crate) struct Came {
    pub(crate) probed: Probed,
    pub(crate) registers: [u64; 2],
    pub(crate) failed: bool,
}

/// Whether all of the word at `va` is in a window of EL2's own translation.
fn is_el2(va: u64) -> bool {
    let window = LAB.start.load(Ordering::Relaxed)..LAB.end.load(Ordering::Relaxed);
    LAB.pressing.load(Ordering::Relaxed) != 0 && window.contains(&va) && window.contains(&va.saturating_add(7))
}

/// Makes an access to the window at `va`, on this CPU, whose number is `cpu`, for vCPU `vcpu`; `None` if no window is there, or it
/// is none that EL2 makes. Where it waits for a change it does so while `go_on` says that the VM still runs.
pub(crate) fn access(
    [cpu, vcpu]: [usize; 2],
    access: Access,
    va: u64,
    token: u64,
    go_on: impl Fn() -> bool,
) -> Option<Came> {
    if !is_el2(va) {
        return None;
    }
    if !LAB.waits.load(Ordering::Relaxed) {
        return probe_by(cpu, access, va, token);
    }
    for _ in 0..TRIES {
        own::end_if_overdue();
        let generation = LAB.generation.load(Ordering::Acquire);
        let came = probe_by(cpu, access, va, token)?;
        let kind = Kind::from_esr(came.probed.esr);
        let met = came.probed.esr != 0 && matches!(kind, Kind::Fault(Fault::Translation, _));
        let broken = !generation.is_multiple_of(2);
        if !met || LAB.changer.load(Ordering::Relaxed) == vcpu || !(broken || is_mapped(va)) || !go_on() {
            return Some(came);
        }
        let [far, pc] = came.registers;
        note(vcpu, phase(), kind, [came.probed.esr, far, pc]);
        while broken && LAB.generation.load(Ordering::Acquire) == generation && go_on() {
            own::end_if_overdue();
            arch::barrier::spin();
        }
    }
    probe_by(cpu, access, va, token)
}

/// The phase that the vCPU of this CPU is in.
fn phase() -> Phase {
    wire::abi::phase_of(TPIDR_EL0.get()).unwrap_or(Phase::During)
}

/// Makes an access as [`access`] does, once.
fn probe_by(cpu: usize, access: Access, va: u64, token: u64) -> Option<Came> {
    let mut failed = false;
    // SAFETY: the vectors resume probes while one is expected. Behind the window are frames of the VM, with nothing of hv's;
    // where they are called, they hold code of the payload that changes x0 and returns. hv runs no instance that swaps on a
    // CPU without FEAT_LSE, and PAR_EL1 is the vCPU's, which asked for it.
    let make = || unsafe {
        Some(match access {
            Access::Load | Access::Unaligned | Access::Walk => probe::load(va),
            Access::Store => probe::store(va, token),
            Access::Fetch => probe::fetch(va),
            Access::Atomic => probe::swap(va, token),
            Access::Exclusive => {
                let (probed, did) = probe::exclusive(va, token);
                failed = did;
                probed
            }
            Access::Dc => probe::clean(va),
            Access::At => probe::translate_el2(va),
            _ => return None,
        })
    };
    let (probed, registers) = exception::probing(cpu, make);
    Some(Came { probed: probed?, registers, failed })
}

/// Drops what this CPU's TLB holds of the window's address `va`: its last level, or all. Says whether there is such a window.
pub(crate) fn drop_entries(va: u64, all: bool) -> bool {
    let window = is_el2(va);
    if window {
        if all {
            tlbi::vae2(va)
        } else {
            tlbi::vale2(va)
        }
        arch::barrier::dsb_nsh();
        arch::barrier::isb();
    }
    window
}

/// Loads from `pages` of the pages that press on the TLB of this CPU, whose number is `cpu`. Says whether there are any.
pub(crate) fn press(cpu: usize, pages: u64) -> bool {
    let first = LAB.pressing.load(Ordering::Relaxed);
    let page = LAB.page.load(Ordering::Relaxed);
    let addresses = (0..pages.min(PRESSING_PAGES.into())).map(|n| first + n * page + n * 64 % page);
    for va in addresses.filter(|_| first != 0) {
        // SAFETY: as in `access`; there are zeros. Whatever a load takes, it presses no less.
        let _ = exception::probing(cpu, || unsafe { probe::load(va) });
    }
    first != 0
}

/// Executes `steps` at `site`, or takes them back, on CPU `cpu` for vCPU `vcpu`: TLBIs by address name the page at `named` bytes
/// into the site. In front of each but the first `between` turns of a loop pass. Says whether there is such a site, and they
/// can be.
pub(crate) fn execute(
    cpus: [usize; 2],
    site: usize,
    back: bool,
    named: u64,
    between: u32,
    steps: impl DoubleEndedIterator<Item = Step>,
) -> bool {
    host::as_host(|| execute_here(cpus, site, back, named, between, steps))
}

fn execute_here(
    [cpu, vcpu]: [usize; 2],
    site: usize,
    back: bool,
    named: u64,
    between: u32,
    steps: impl DoubleEndedIterator<Item = Step>,
) -> bool {
    let mut bench = LAB.bench.lock();
    let Some(bench) = bench.as_mut() else { return false };
    let Bench { ptes, entries, changed, base: first, size, descriptors, regime, .. } = *bench;
    let Bench { shattered, stand, found, .. } = bench;
    let window = entries as u64 * size;
    let sites = ptes.len() / entries;
    let Some(ptes) = ptes.chunks_exact(entries).nth(site).filter(|_| named < window) else { return false };
    let base = first + site as u64 * window;
    if let (Some(stand), false) = (&stand, back) {
        let elsewhere = first + ((site + 1) % sites) as u64 * window;
        broken(vcpu);
        let change = Change { pte: &ptes[0], descriptors, size, sites: [base, elsewhere] };
        let of_break = stand.run(cpu, &change, base + named, between, steps);
        let made = of_break.is_some();
        // Not every method breaks.
        mended(of_break.filter(|of_break| of_break.ticks != 0));
        return made;
    }
    // SAFETY: the window is all that the descriptors translate, and hv uses nothing of it but by probes.
    let live = unsafe { Live::new(&ptes[..changed], base, size, descriptors) }.naming(base + named);
    let live = match shattered {
        Some((layout, tables)) => live.shattering(*layout, tables),
        None => live,
    };
    // What was found in this change is carried over; what the last one was is done.
    let live = live.marked_in(regime, found.filter(|_| !back));
    let mut live = if back { live.reversed() } else { live };
    for (number, step) in steps.enumerate() {
        for _ in 0..if number == 0 { 0 } else { between } {
            arch::barrier::pass();
        }
        match step {
            Step::Write(Write::New) | Step::Swap(Write::New) => {
                live.step(step);
                // What is measured is the break of the change; by whatever break that is taken back.
                mended(if back { None } else { Some(since()) });
            }
            Step::Write(_) | Step::Swap(_) => {
                broken(vcpu);
                live.step(step);
            }
            _ => live.step(step),
        }
    }
    *found = live.found().filter(|_| !back);
    true
}

/// The marks in the descriptor that maps `offset` bytes into `site`, and the descriptor, if there is one.
pub(crate) fn marks(site: usize, offset: u64) -> Option<(Marks, Descriptor)> {
    let bench = LAB.bench.lock();
    let Bench { ptes, entries, size, regime, .. } = bench.as_ref()?;
    let number = usize::try_from(offset / size).ok()?;
    let pte = ptes.chunks_exact(*entries).nth(site)?.get(number)?;
    let descriptor = Descriptor::from_raw(pte.load(Ordering::Acquire));
    Some((Marks::all().found_in(*regime, descriptor), descriptor))
}

/// The window is about to be broken.
fn broken(vcpu: usize) {
    let generation = LAB.generation.load(Ordering::Relaxed);
    if generation.is_multiple_of(2) {
        LAB.changer.store(vcpu, Ordering::Relaxed);
        LAB.since.store(CNTPCT_EL0.get(), Ordering::Relaxed);
        LAB.generation.store(generation + 1, Ordering::Release);
        // Who takes a fault of the break must see this.
        arch::barrier::dsb_ishst();
    }
}

/// From [`broken`] to here.
fn since() -> Break {
    Break { ticks: CNTPCT_EL0.get() - LAB.since.load(Ordering::Relaxed), cycles: None }
}

/// The new descriptor is written; `counted` is for how long none was there, if that counts.
fn mended(counted: Option<Break>) {
    let generation = LAB.generation.load(Ordering::Relaxed);
    if !generation.is_multiple_of(2) {
        LAB.generation.store(generation + 1, Ordering::Release);
        let Some(Break { ticks, cycles }) = counted else { return };
        let mut seen = LAB.seen.lock();
        seen.breaks += 1;
        seen.total += ticks;
        seen.longest = seen.longest.max(ticks);
        seen.shortest = seen.shortest.min(ticks);
        seen.cycles = [seen.cycles, cycles].into_iter().flatten().min();
    }
}

/// vCPUs that wait for the change to be made, a bit each.
pub(crate) fn waiting() -> u64 {
    LAB.waiting.load(Ordering::Acquire)
}

/// ISS of an abort: it was taken by the walk of stage 1.
const S1PTW: u64 = 1 << 7;

/// Times that an access is tried again between two changes of a descriptor.
const TRIES: u64 = 1000;

/// What becomes of an access that stage 2 refused.
pub(crate) enum Answer {
    /// It was nowhere in the window.
    NotHere,
    /// It is tried again.
    Again,
    /// The payload is told.
    Told,
}

/// Answers the abort in `frame`, which vCPU `vcpu` took and whose EC is `ec`. `go_on` says whether the VM still runs.
pub(crate) fn refused(frame: &mut Frame, vcpu: usize, ec: u64, go_on: impl Fn() -> bool) -> Answer {
    /// Tries of each vCPU, above the generation in which they were made.
    static TRIED: [AtomicU64; wire::abi::MAX_VCPUS] = [const { AtomicU64::new(0) }; wire::abi::MAX_VCPUS];
    let window = LAB.start.load(Ordering::Relaxed)..LAB.end.load(Ordering::Relaxed);
    // A misaligned access to the first page may start in front of it.
    let by_address = || window.contains(&frame.far) || window.contains(&(frame.far + 7));
    let by_table = || (frame.hpfar << 8).wrapping_sub(LAB.ipa.load(Ordering::Relaxed)) < window.end - window.start;
    if !if frame.esr & S1PTW != 0 { by_table() } else { by_address() } {
        return Answer::NotHere;
    }
    let kind = Kind::from_esr(frame.esr);
    let generation = LAB.generation.load(Ordering::Acquire);
    let broken = !generation.is_multiple_of(2);
    let by_other = broken && LAB.changer.load(Ordering::Relaxed) != vcpu;
    let again = match kind {
        Kind::Fault(Fault::Translation | Fault::AccessFlag, _) if by_other => true,
        // It was mended since, as a look at the tables tells.
        Kind::Fault(Fault::Translation, _) if !broken => is_mapped(frame.hpfar << 8),
        _ => false,
    };
    let tried = &TRIED[vcpu % wire::abi::MAX_VCPUS];
    let tries = match tried.load(Ordering::Relaxed) {
        word if word >> 16 == generation => word & 0xffff,
        _ => 0,
    };
    if !again || tries >= TRIES {
        tell(frame, ec);
        return Answer::Told;
    }
    tried.store(generation << 16 | (tries + 1), Ordering::Relaxed);
    note(vcpu, phase(), kind, [frame.esr, frame.far, frame.pc]);
    LAB.waiting.fetch_or(1 << vcpu, Ordering::AcqRel);
    while broken && LAB.generation.load(Ordering::Acquire) == generation && go_on() {
        arch::barrier::spin();
    }
    LAB.waiting.fetch_and(!(1 << vcpu), Ordering::AcqRel);
    Answer::Again
}

/// Whether the descriptor for `ipa` is valid.
fn is_mapped(ipa: u64) -> bool {
    // The changer holds the lock while it executes steps.
    let Some(bench) = LAB.bench.try_lock() else { return true };
    bench.as_ref().is_some_and(|bench| {
        let index = ipa.checked_sub(bench.base).map(|offset| (offset / bench.size) as usize);
        index.and_then(|index| bench.ptes.get(index)).is_some_and(|pte| pte.load(Ordering::Relaxed) & 1 != 0)
    })
}

/// Counts what the code that makes a change has taken itself.
pub(crate) fn note_own(kind: Kind, registers: [u64; 3]) {
    note(LAB.changer.load(Ordering::Relaxed), Phase::During, kind, registers);
}

/// Counts what the payload will not see: ESR, FAR and PC are in `registers`.
fn note(vcpu: usize, phase: Phase, kind: Kind, [esr, far, pc]: [u64; 3]) {
    let mut seen = LAB.seen.lock();
    let known = seen.outcomes.iter_mut().find(|outcome| (outcome.count.phase, outcome.count.kind) == (phase, kind));
    match known {
        Some(outcome) => outcome.count.count += 1,
        None => {
            let first = First { esr, far, pc, cpu: vcpu as u8, ..First::default() };
            // There are fewer combinations than room.
            let _ = seen.outcomes.try_push(Outcome { count: Count { phase, kind, count: 1 }, first });
        }
    }
}

/// Has the payload take the abort itself.
fn tell(frame: &mut Frame, ec: u64) {
    const INSTRUCTION_ABORT: u64 = 0x20;
    const IL: u64 = 1 << 25;
    const WNR: u64 = 1 << 6;
    const FSC: u64 = 0x3f;
    // An Instruction Abort has no WnR.
    let iss = frame.esr & if ec == INSTRUCTION_ABORT { FSC } else { FSC | WNR };
    // Payloads run at EL1: the EC for an abort from the same Exception level is one above that from a lower one.
    frame.inject((ec + 1) << 26 | IL | iss, frame.far);
}

/// What was tried again, if the VM had a lab: adds it to what the payload has counted.
pub(crate) fn add_to(outcomes: &mut ArrayVec<Outcome, MAX_OUTCOMES>) -> Option<Retried> {
    LAB.bench.lock().as_ref()?;
    let seen = LAB.seen.lock();
    let mut faults = 0;
    for retried in &seen.outcomes {
        faults += if matches!(retried.count.kind, Kind::Fault(..)) { retried.count.count } else { 0 };
        let same = |outcome: &&mut Outcome| {
            (outcome.count.phase, outcome.count.kind) == (retried.count.phase, retried.count.kind)
        };
        match outcomes.iter_mut().find(same) {
            Some(outcome) => outcome.count.count += retried.count.count,
            // There is one slot for each phase and kind that a payload can report.
            None => drop(outcomes.try_push(*retried)),
        }
    }
    let [total_ns, longest_ns] = [seen.total, seen.longest].map(arch::counter::nanoseconds);
    let shortest_ns = (seen.breaks != 0).then(|| arch::counter::nanoseconds(seen.shortest));
    Some(Retried { faults, breaks: seen.breaks, total_ns, longest_ns, shortest_ns, cycles: seen.cycles })
}
