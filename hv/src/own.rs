//! Changes of a mapping by code that stands on it: its stack, its code, its vectors, or the table that holds the descriptor are
//! in the block that is split.
//!
//! All of a change is one piece of asm, `own_body`, which holds what it works with in registers and runs at any address. The
//! method decides what of it is *used through the block* while that changes: of `bbm`, `nt` and `direct` all that the case
//! names; of `bbm-asm` nothing, though all of it stands there (the code steps out to where the Image has it, the stack is not
//! touched, the vectors are not needed, the descriptor is written at the frame's own address); of `bbm-alias` all of it by
//! another site of the window, which maps the same frame by another block.
//!
//! To show what comes of the first kind safely, exceptions have a stack of their own (SP_EL2, while the code runs with SP_EL0),
//! and their handler is where it always is. It makes the change (the TLBI, the new descriptor), counts, and tries again. Where
//! the vectors themselves are out of reach it is not come to: the CPU takes exceptions without end. Then another CPU, which
//! makes accesses for an observer, finds that the change takes too long and makes it; the vectors are there again, and
//! the handler sees that the exception came from them. From there is no way back, and the change is given up where it was.
//!
//! In the frame the area has a page each for the code, the vectors, the stack and the table; the VM has no access to it.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use aarch64_cpu::registers::{CNTPCT_EL0, Readable, VBAR_EL2};
use arch::{barrier, cache, tlbi};
use vmsa::{
    change::{Descriptors, Own},
    descriptor::Descriptor,
    instance::{Case, Method},
    outcome::{Fault, Kind},
    sequence::{Dsb, Step, Tlbi, Write},
};

use crate::stage2::{OutOfReach, Tables};

/// Pages of the area: the code, the vectors, the stack, the table.
const CODE: u64 = 0;
const VECTORS: u64 = 0x1000;
const STACK_END: u64 = 0x3000;
const TABLE: u64 = 0x3000;
const PAGE: u64 = 0x1000;

/// What `own_run` returns where the change was given up.
const GIVEN_UP: u64 = u64::MAX;

/// Bits of `own_body`'s hooks.
const USES_STACK: u64 = 1;
const TAKES_EXCEPTIONS: u64 = 2;

/// As own.S reads them.
#[repr(C)]
struct Arguments {
    pte: u64,
    steps: u64,
    nt: u64,
    new: u64,
    operand: u64,
    hooks: u64,
    turns: u64,
    stack: u64,
    vectors: u64,
    entry: u64,
    step_out_to: u64,
    /// Written by it: cycles for which the descriptor was invalid, if slots that count them were asked for.
    cycles: core::cell::Cell<u64>,
}

// SAFETY: declared as own.S defines them; of what is no function only the address is taken.
unsafe extern "C" {
    fn own_run(arguments: *const Arguments) -> u64;
    static own_out: u8;
    static own_code: u8;
    static own_step_out: u8;
    static own_code_end: u8;
    static own_vectors: u8;
    static own_vectors_end: u8;
    static own_landings: u8;
}

/// For how long the descriptor was invalid.
pub(crate) struct Break {
    pub(crate) ticks: u64,
    /// If the CPU counts them, and the change was not given up.
    pub(crate) cycles: Option<u64>,
}

/// What is changed.
pub(crate) struct Change<'a> {
    /// The descriptor, at an address outside of the window.
    pub(crate) pte: &'a AtomicU64,
    pub(crate) descriptors: Descriptors,
    /// What it maps, in bytes.
    pub(crate) size: u64,
    /// VA of that, and VA of what another descriptor maps to the same frame.
    pub(crate) sites: [u64; 2],
}

/// What a bench has for it.
#[derive(Clone, Copy)]
pub(crate) struct Stand {
    own: Own,
    method: Method,
    /// Address of the frame's area, where hv has it besides.
    area: u64,
}

/// The change that is under way; there is one at a time.
struct Running {
    /// CPU that makes it, plus one; 0 if none is under way.
    cpu: AtomicUsize,
    since: AtomicU64,
    /// Where hv has the descriptor, outside of the window, and what it becomes and was.
    pte: AtomicU64,
    new: AtomicU64,
    old: AtomicU64,
    /// The vectors, if they are in the window.
    vectors: AtomicU64,
    /// First address of the window and the one behind it.
    start: AtomicU64,
    end: AtomicU64,
    /// Whether another CPU has ended exceptions without end, or is about to.
    ended: AtomicBool,
}

static RUNNING: Running = Running {
    cpu: AtomicUsize::new(0),
    since: AtomicU64::new(0),
    pte: AtomicU64::new(0),
    new: AtomicU64::new(0),
    old: AtomicU64::new(0),
    vectors: AtomicU64::new(0),
    start: AtomicU64::new(0),
    end: AtomicU64::new(0),
    ended: AtomicBool::new(false),
};

/// The slot of own.S that executes `step`; `counting` says that cycles are counted.
const fn slot(step: Step, counting: bool) -> Option<u64> {
    Some(match step {
        Step::Write(Write::Invalid) if counting => 10,
        Step::Write(Write::New) if counting => 11,
        Step::Write(Write::Invalid) => 1,
        Step::Write(Write::BlockNt) => 2,
        Step::Write(Write::New) => 3,
        Step::Dsb(Dsb::Ishst) => 4,
        Step::Dsb(Dsb::Ish) => 5,
        Step::Isb => 6,
        Step::Tlbi(Tlbi::Vae2is) => 7,
        Step::Tlbi(Tlbi::Vale2is) => 8,
        Step::Tlbi(Tlbi::Alle2is) => 9,
        _ => return None,
    })
}

impl Stand {
    /// Puts into the frame at `frame` what `case` wants to stand there, and has `parent` point to the table's copy there if that
    /// is part of it. `ptes` are the descriptors of all sites as they are now; those that count from now on.
    pub(crate) fn build(
        case: &Case,
        frame: u64,
        ptes: &'static [AtomicU64],
        tables: &mut Tables,
        base: u64,
    ) -> Result<Option<(Self, &'static [AtomicU64])>, OutOfReach> {
        let Some(own) = case.change.own() else { return Ok(None) };
        let area = frame + Own::AREA.start;
        let (code, code_end) = (&raw const own_code as u64, &raw const own_code_end as u64);
        let (vectors, vectors_end) = (&raw const own_vectors as u64, &raw const own_vectors_end as u64);
        let landings = &raw const own_landings as u64;
        // SAFETY: the area is a part of the frame which the VM that is being built will not have, mapped here as Normal memory in
        // which nothing of Rust lives, of which either page is larger than what is copied; and that is constant.
        unsafe {
            copy(code, area + CODE, code_end - code);
            copy(vectors, area + VECTORS, vectors_end - vectors);
            for entry in 0..8 {
                ((area + VECTORS + entry * 128 + 16) as *mut u64).write_volatile(landings + entry * 8);
            }
        }
        cache::sync_code((area + CODE) as usize, (VECTORS + PAGE) as usize);
        let stand = Self { own, method: case.method, area };
        if !own.table {
            return Ok(Some((stand, ptes)));
        }
        let table = area + TABLE;
        let (first, all) = tables.around(base, case.change.level())?;
        // SAFETY: as above; a page of descriptors, all of it atomics from here on.
        let copied = unsafe { core::slice::from_raw_parts(table as *const AtomicU64, all.len()) };
        for (to, from) in copied.iter().zip(all) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let parent = case.change.level().previous().ok_or(OutOfReach)?;
        let slot = tables.slots(base, parent, 1)?.first().ok_or(OutOfReach)?;
        slot.store(Descriptor::table(table).raw(), Ordering::Relaxed);
        Ok(Some((stand, &copied[first..first + ptes.len()])))
    }

    /// Makes `change` by `steps`, the calling CPU's number being `cpu`: TLBIs by address name `named`, and in front of each step
    /// `turns` turns of a loop pass. `None` for steps that it cannot execute.
    pub(crate) fn run(
        &self,
        cpu: usize,
        change: &Change<'_>,
        named: u64,
        turns: u32,
        steps: impl DoubleEndedIterator<Item = Step>,
    ) -> Option<Break> {
        let Self { own, method, area } = *self;
        let Change { pte, descriptors: Descriptors { old, new, block }, size, sites: [here, elsewhere] } = *change;
        let counting = arch::counter::count_cycles();
        let add = |all: u64, step| (all >> 59 == 0).then_some(all << 5 | slot(step, counting)?);
        let steps = steps.rev().try_fold(0, add)?;
        let pte = &raw const *pte as u64;
        let outside = method == Method::BbmAsm;
        let through = if method == Method::BbmAlias { elsewhere } else { here } + Own::AREA.start;
        let image = &raw const own_code as u64;
        let step_out = &raw const own_step_out as u64 - image;
        let (entry, step_out_to) = match (own.code, outside) {
            (true, true) => (through + CODE + step_out, image),
            (true, false) => (through + CODE, image),
            (false, _) => (image, image),
        };
        let hook = |stands: bool, hook: u64| if stands && !outside { hook } else { 0 };
        let vectors = if own.vectors { through + VECTORS } else { VBAR_EL2.get() };
        let arguments = Arguments {
            pte: if own.table && !outside { through + TABLE + pte % PAGE } else { pte },
            steps,
            nt: Write::BlockNt.value(old, new, block).raw(),
            new: new.raw(),
            operand: tlbi::operand(named),
            hooks: hook(own.stack, USES_STACK) | hook(own.vectors, TAKES_EXCEPTIONS),
            turns: turns.into(),
            // Where it is not in the window it is not used either.
            stack: if own.stack { through + STACK_END } else { area + STACK_END },
            vectors,
            entry,
            step_out_to,
            cycles: core::cell::Cell::new(0),
        };
        let start = CNTPCT_EL0.get();
        for (word, value) in [
            (&RUNNING.since, start),
            (&RUNNING.pte, pte),
            (&RUNNING.new, new.raw()),
            (&RUNNING.old, old.raw()),
            (&RUNNING.vectors, if own.vectors { vectors } else { 0 }),
            (&RUNNING.start, here),
            (&RUNNING.end, here + size),
        ] {
            word.store(value, Ordering::Relaxed);
        }
        RUNNING.ended.store(false, Ordering::Relaxed);
        RUNNING.cpu.store(cpu + 1, Ordering::Release);
        // SAFETY: `own_code` and its copies execute the steps, and touch nothing but the descriptor, which nobody else writes, and
        // 16 bytes below `stack`, in a page that is for that. What they do not get by the window `exception` gives them or ends the
        // run, which then returns all the same; SP_EL0 and VBAR_EL2 are put back.
        let ticks = unsafe { own_run(&raw const arguments) };
        RUNNING.cpu.store(0, Ordering::Release);
        Some(match ticks {
            GIVEN_UP => Break { ticks: CNTPCT_EL0.get() - start, cycles: None },
            _ => Break { ticks, cycles: counting.then(|| arguments.cycles.get()) },
        })
    }
}

/// Copies `len` bytes, whole words.
///
/// # Safety
/// All of it is mapped, `from` for reading and `to` for writing, and nobody else uses what is at `to`.
unsafe fn copy(from: u64, to: u64, len: u64) {
    for at in (0..len).step_by(size_of::<u32>()) {
        // SAFETY: the caller's promise.
        unsafe { ((to + at) as *mut u32).write_volatile(((from + at) as *const u32).read_volatile()) };
    }
}

/// Makes the change that is under way: whoever waits for it goes on. Whatever the TLBs hold of what was there goes.
fn make() {
    // SAFETY: the descriptor's address outside of the window, while the change is under way; it is never but atomics.
    let pte = unsafe { &*(RUNNING.pte.load(Ordering::Relaxed) as *const AtomicU64) };
    tlbi::alle2is();
    barrier::dsb_ish();
    // Before its first write there is nothing that it could lack, and after its last one this is what is there.
    if pte.load(Ordering::Relaxed) != RUNNING.old.load(Ordering::Relaxed) {
        pte.store(RUNNING.new.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    barrier::dsb_ish();
    tlbi::alle2is();
    barrier::dsb_ish();
    barrier::isb();
}

/// On any CPU but the one that makes the change: makes it if that takes too long, the CPU being lost to exceptions.
pub(crate) fn end_if_overdue() {
    /// In ms. A change takes microseconds, and on emulators a time slice: to have ended one that would have come through is no
    /// harm.
    const PATIENCE: u64 = 1;
    let since = RUNNING.since.load(Ordering::Relaxed);
    if RUNNING.cpu.load(Ordering::Acquire) == 0
        || CNTPCT_EL0.get().saturating_sub(since) < arch::counter::ticks(PATIENCE)
        || RUNNING.vectors.load(Ordering::Relaxed) == 0
    {
        return;
    }
    if !RUNNING.ended.swap(true, Ordering::AcqRel) {
        make();
        // It may have been before the first write.
        RUNNING.since.store(CNTPCT_EL0.get(), Ordering::Relaxed);
        RUNNING.ended.store(false, Ordering::Release);
    }
}

/// What becomes of an exception at EL2.
pub(crate) enum After {
    /// It is none of a change under way, or a conflict abort like any other.
    AsUsual,
    /// The instruction is tried again.
    Again,
    /// It goes on at this address: behind the instruction.
    Behind,
    /// It goes on at this address, with SP_EL2: the change is given up.
    GiveUp(u64),
}

/// Answers an exception that CPU `cpu` has taken at `elr`, perhaps from the code that makes a change; tells `note` of what counts.
pub(crate) fn exception(cpu: usize, esr: u64, far: u64, elr: u64, note: impl Fn(Kind)) -> After {
    const BRK: u64 = 0x3c;
    if !is_running(cpu) {
        return After::AsUsual;
    }
    let vectors = RUNNING.vectors.load(Ordering::Relaxed);
    let out = &raw const own_out as u64;
    if vectors != 0 && (vectors..vectors + 0x800).contains(&elr) {
        note(Kind::Lockup);
        make();
        return After::GiveUp(out);
    }
    if esr >> 26 == BRK {
        return After::Behind;
    }
    let window = RUNNING.start.load(Ordering::Relaxed)..RUNNING.end.load(Ordering::Relaxed);
    match Kind::from_esr(esr) {
        Kind::Conflict => {
            note(Kind::Tripped);
            After::AsUsual
        }
        Kind::Fault(Fault::Translation, _) if window.contains(&far) => {
            note(Kind::Tripped);
            make();
            After::Again
        }
        kind => {
            note(kind);
            make();
            After::GiveUp(out)
        }
    }
}

/// Whether CPU `cpu` runs the code of a change.
pub(crate) fn is_running(cpu: usize) -> bool {
    RUNNING.cpu.load(Ordering::Relaxed) == cpu + 1
}

/// The value in x0 with which a change that is given up returns.
pub(crate) const fn given_up() -> u64 {
    GIVEN_UP
}
