//! Counters that one vCPU writes and another reads at the end, or earlier if the first falls silent.
//!
//! All of it is plain atomic loads and stores: one writer each, so no read-modify-write is needed.

use core::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use arch::barrier;
use vmsa::{
    Granule,
    outcome::{Count, Kind, Phase},
    remedy::Remedy,
};
use wire::{
    abi::{MAX_VCPUS, mark},
    record::{Conflict, First, MAX_CONFLICTS, Outcome, Place, Recovery, Report, Trouble},
};

use crate::cpu::CPUS;

/// The first time that an outcome was seen; valid once its count is not 0.
struct Earliest {
    esr: AtomicU64,
    far: AtomicU64,
    pc: AtomicU64,
    round: AtomicU64,
    value: AtomicU64,
}

impl Earliest {
    const fn new() -> Self {
        const fn zero() -> AtomicU64 {
            AtomicU64::new(0)
        }
        Self { esr: zero(), far: zero(), pc: zero(), round: zero(), value: zero() }
    }
}

/// The histogram of one vCPU. What every access writes is close together, and comes first.
#[repr(C)]
pub(crate) struct Tally {
    counts: [[AtomicU64; Kind::CODES]; Phase::ALL.len()],
    /// For each phase the codes of the kinds that were counted, a bit each: few of them ever are, and whoever adds the
    /// tallies up need not look at the others.
    counted: [AtomicU64; Phase::ALL.len()],
    firsts: [[Earliest; Kind::CODES]; Phase::ALL.len()],
}

const _: () = assert!(Kind::CODES <= u64::BITS as usize, "a bit for each code");

impl Tally {
    pub(crate) const fn new() -> Self {
        Self {
            counts: [const { [const { AtomicU64::new(0) }; Kind::CODES] }; Phase::ALL.len()],
            counted: [const { AtomicU64::new(0) }; Phase::ALL.len()],
            firsts: [const { [const { Earliest::new() }; Kind::CODES] }; Phase::ALL.len()],
        }
    }

    /// Counts an outcome. `first` is only asked for the first of its kind.
    #[inline]
    pub(crate) fn count(&self, phase: Phase, kind: Kind, first: impl FnOnce() -> First) {
        let cell = &self.counts[phase as usize][usize::from(kind.code())];
        let count = cell.load(Relaxed);
        if count == 0 {
            self.keep_first(phase, kind, &first());
        }
        cell.store(count + 1, Release);
    }

    #[cold]
    fn keep_first(&self, phase: Phase, kind: Kind, first: &First) {
        let First { esr, far, pc, cpu: _, round, value } = *first;
        // Tells whoever traces this PE.
        barrier::mark::<{ mark::HINT }>([mark::FIRST, phase as u64, kind.code().into(), round]);
        let cell = &self.firsts[phase as usize][usize::from(kind.code())];
        cell.esr.store(esr, Relaxed);
        cell.far.store(far, Relaxed);
        cell.pc.store(pc, Relaxed);
        cell.round.store(round, Relaxed);
        cell.value.store(value, Relaxed);
        let counted = &self.counted[phase as usize];
        counted.store(counted.load(Relaxed) | 1 << kind.code(), Release);
    }

    /// The codes of the kinds that were counted in `phase`, a bit each.
    fn counted(&self, phase: Phase) -> u64 {
        self.counted[phase as usize].load(Acquire)
    }

    /// How often, and the first time with this vCPU's number in it.
    fn get(&self, phase: Phase, kind: Kind, cpu: u8) -> (u64, First) {
        let code = usize::from(kind.code());
        let count = self.counts[phase as usize][code].load(Acquire);
        let cell = &self.firsts[phase as usize][code];
        let first = First {
            esr: cell.esr.load(Relaxed),
            far: cell.far.load(Relaxed),
            pc: cell.pc.load(Relaxed),
            cpu,
            round: cell.round.load(Relaxed),
            value: cell.value.load(Relaxed),
        };
        (count, first)
    }
}

/// One conflict abort; the fields of [`Conflict`] that vary at EL1.
struct Slot {
    esr: AtomicU64,
    far: AtomicU64,
    pc: AtomicU64,
    /// [`Recovery`], retries, phase and injected, a byte each from bit 0.
    rest: AtomicU64,
}

/// Conflict aborts of one vCPU. The same access trying again belongs to the same conflict, until [`settle`](Self::settle).
pub(crate) struct Conflicts {
    total: AtomicU64,
    /// Times that the access of the current conflict was answered; 0 if none is open.
    tries: AtomicU64,
    /// The number among [`Remedy::ALL`] of what is tried first, plus one, and [`CERTAIN`] if that must do; or 0. Above
    /// these, the number of the granule.
    first: AtomicU64,
    slots: [Slot; MAX_CONFLICTS],
}

/// What is tried first is guaranteed to clear conflicts, so nothing else is tried.
const CERTAIN: u64 = 1 << 8;
/// Lowest bit of the granule's number.
const GRANULE: u32 = 16;
/// Times that it is tried: another conflict at the same place, which the access met behind the TLBI, looks the same.
const CERTAIN_TRIES: u64 = 5;

/// Times that VMALLE1 is tried before hv is asked.
const VMALLE1_TRIES: u64 = 3;
/// Forms by VA that are tried before VMALLE1 in every other conflict. The architecture does not have them clear a
/// conflict, but a CPU may (R_GRVDR), and which do is worth knowing; in the conflicts between, VMALLE1 has to.
const BY_VA: [Remedy; 2] = [Remedy::Vae1, Remedy::Vaae1];

impl Conflicts {
    pub(crate) const fn new() -> Self {
        const fn slot() -> Slot {
            let [esr, far, pc, rest] = [const { AtomicU64::new(0) }; 4];
            Slot { esr, far, pc, rest }
        }
        Self {
            slots: [const { slot() }; MAX_CONFLICTS],
            total: AtomicU64::new(0),
            tries: AtomicU64::new(0),
            first: AtomicU64::new(0),
        }
    }

    /// Has `remedy` tried first; nothing else, if it is `certain` to clear a conflict. Before any is met.
    pub(crate) fn try_first(&self, remedy: Remedy, certain: bool, granule: Granule) {
        let certain = if certain { CERTAIN } else { 0 };
        self.first.store((granule as u64) << GRANULE | certain | (remedy as u64 + 1), Relaxed);
    }

    /// The granule of the tables in which conflicts are met; 4K until [`try_first`](Self::try_first) says it.
    pub(crate) fn granule(&self) -> Granule {
        Granule::ALL[(self.first.load(Relaxed) >> GRANULE) as usize]
    }

    /// The `n`th thing to try, from 0, about conflict number `number`; `None` if nothing is left.
    fn remedy(&self, n: u64, number: u64, injected: bool) -> Option<Remedy> {
        let first = self.first.load(Relaxed);
        let named = (first as u8).checked_sub(1).map(|number| Remedy::ALL[usize::from(number)]);
        if first & CERTAIN != 0 {
            return named.filter(|_| n < CERTAIN_TRIES);
        }
        let by_va: &[Remedy] = match &named {
            Some(named) => core::slice::from_ref(named),
            // An injected one is in no TLB, and would tell nothing about a form.
            None if number.is_multiple_of(2) && !injected => &BY_VA,
            None => &[],
        };
        match (by_va.get(n as usize), n - n.min(by_va.len() as u64)) {
            (Some(remedy), _) => Some(*remedy),
            (None, n) if n < VMALLE1_TRIES => Some(Remedy::Vmalle1),
            (None, VMALLE1_TRIES) => Some(Remedy::Vmalls12e1),
            _ => None,
        }
    }

    /// A conflict abort was taken: records it, and says what to try, if anything is left. `phase` is a [`Phase`]'s number.
    pub(crate) fn taken(&self, esr: u64, far: u64, pc: u64, phase: u64, injected: bool) -> Option<Remedy> {
        let mut tries = self.tries.load(Relaxed);
        let mut total = self.total.load(Relaxed);
        if tries != 0 {
            let same = self.slot(total).is_none_or(|s| s.far.load(Relaxed) == far && s.pc.load(Relaxed) == pc);
            if !same {
                tries = 0;
            }
        }
        if tries == 0 {
            total += 1;
            if let Some(slot) = self.slot(total) {
                slot.esr.store(esr, Relaxed);
                slot.far.store(far, Relaxed);
                slot.pc.store(pc, Relaxed);
            }
            self.total.store(total, Release);
        }
        tries += 1;
        let remedy = self.remedy(tries - 1, total, injected);
        let recovery = remedy.map_or(Recovery::None, Recovery::from);
        self.tries.store(tries, Relaxed);
        if let Some(slot) = self.slot(total) {
            let rest = recovery as u64 | tries << 8 | phase << 16 | u64::from(injected) << 24;
            slot.rest.store(rest, Release);
        }
        remedy
    }

    /// The access went through, or was given up: the next conflict is another one. Says whether it met one.
    #[inline]
    pub(crate) fn settle(&self) -> bool {
        let met = self.tries.load(Relaxed) != 0;
        if met {
            self.tries.store(0, Relaxed);
        }
        met
    }

    /// The slot of the conflict with this number, counted from 1.
    fn slot(&self, number: u64) -> Option<&Slot> {
        self.slots.get((number as usize).checked_sub(1)?)
    }

    fn recorded(&self, cpu: u8) -> impl Iterator<Item = Conflict> {
        let total = self.total.load(Acquire) as usize;
        self.slots.iter().take(total).map(move |slot| {
            let [recovery, retries, phase, injected, ..] = slot.rest.load(Acquire).to_le_bytes();
            Conflict {
                place: Place::El1,
                stage: 1,
                esr: slot.esr.load(Relaxed),
                far: slot.far.load(Relaxed),
                hpfar: None,
                pc: slot.pc.load(Relaxed),
                cpu,
                cleared_by: Recovery::ALL[usize::from(recovery)],
                retries,
                injected: injected != 0,
                phase: Some(phase),
            }
        })
    }
}

/// What all vCPUs together have seen.
pub(crate) fn report(rounds: u64, trouble: Option<Trouble>) -> Report {
    let mut report = Report { rounds, trouble, ..Report::default() };
    for phase in Phase::ALL {
        let counted = CPUS.iter().fold(0, |all, state| all | state.tally.counted(phase));
        for kind in Kind::all().filter(|kind| counted >> kind.code() & 1 != 0) {
            let mut sum = 0;
            let mut earliest: Option<First> = None;
            for (cpu, state) in (0..MAX_VCPUS as u8).zip(&CPUS) {
                let (count, first) = state.tally.get(phase, kind, cpu);
                sum += count;
                if count != 0 && earliest.is_none_or(|earliest| first.round < earliest.round) {
                    earliest = Some(first);
                }
            }
            report.accesses += sum;
            if let Some(first) = earliest {
                let outcome = Outcome { count: Count { phase, kind, count: sum }, first };
                if report.outcomes.try_push(outcome).is_err() {
                    // A histogram with something left out must not pass for a whole one.
                    report.trouble = Some(Trouble::SelfCheck);
                }
            }
        }
    }
    for (cpu, state) in (0..MAX_VCPUS as u8).zip(&CPUS) {
        report.overlap += state.overlap.load(Acquire);
        report.conflicts_total += state.conflicts.total.load(Acquire);
        for conflict in state.conflicts.recorded(cpu) {
            // Full is full: `conflicts_total` counts the rest.
            let _ = report.conflicts.try_push(conflict);
        }
    }
    report
}
