//! TLB conflict aborts: recognising, recovering, recording.
//!
//! The recovery is the one that R_BLRKC and I_JCCRT guarantee. Smaller invalidations may do on a given CPU, and an
//! instance may ask for one of them to be tried first, but nothing here relies on them: the access is tried again after
//! the guaranteed one, a bounded number of times.

use aarch64_cpu::registers::{Readable, TPIDR_EL0};
use arrayvec::ArrayVec;
use spin::Mutex;
use vmsa::{
    Granule, Instance,
    instance::Case,
    outcome::{Count, Kind, Phase},
    remedy::Remedy,
};
use wire::record::{Conflict, First, MAX_CONFLICTS, MAX_OUTCOMES, Outcome, Place, Recovery};

use crate::platform::MAX_CPUS;

/// How often an access is tried again before it is given up.
pub(crate) const MAX_RETRIES: u8 = 8;

/// Whether `esr` is a TLB conflict abort: an instruction or data abort with FSC 0b110000.
pub(crate) fn is_conflict(esr: u64) -> bool {
    Kind::from_esr(esr) == Kind::Conflict
}

/// The access that a CPU's last conflict abort stopped, by which the same one is known again.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Attempt {
    pc: u64,
    far: u64,
    /// The general registers, mixed: with the same instruction, address and registers it is the same access tried
    /// again, not the next round of a loop.
    fingerprint: u64,
}

/// Conflict aborts that EL2 took while an instance ran.
pub(crate) struct List {
    entries: ArrayVec<Conflict, MAX_CONFLICTS>,
    total: u64,
    /// Those at accesses of vCPUs, or made for them, by the phase the vCPU was in.
    of_accesses: [u64; Phase::ALL.len()],
    attempts: [Option<(Attempt, u8)>; MAX_CPUS],
    /// What is tried first for EL1&0, in tables of which granule, and whether it must do.
    first: Option<(Remedy, Granule, bool)>,
}

/// The list of the running instance.
pub(crate) static TAKEN: Mutex<List> = Mutex::new(List::new());

impl List {
    const fn new() -> Self {
        let (of_accesses, attempts) = ([0; Phase::ALL.len()], [None; MAX_CPUS]);
        Self { entries: ArrayVec::new_const(), total: 0, of_accesses, attempts, first: None }
    }

    /// Has the running instance's conflicts answered as `instance` asks for.
    pub(crate) fn answer_for(&mut self, instance: &Instance) {
        if let Instance::Case(Case { remedy: Some(remedy), granule, stage2, .. }) = *instance {
            self.first = Some((remedy, granule, remedy.is_guaranteed(stage2)));
        }
    }

    /// The TLBI for a conflict at `far` that `recovery` would clear, for the time `retries`, from 0; it is executed.
    fn clear(&self, recovery: Recovery, retries: u8, injected: bool, far: u64) -> Recovery {
        let recovery = match (recovery, self.first) {
            (Recovery::Vmalls12e1, Some((remedy, granule, certain))) if (certain || retries == 0) && !injected => {
                if arch::tlbi::remedy(remedy, granule, far) {
                    return remedy.into();
                }
                remedy.into()
            }
            _ => recovery,
        };
        match recovery {
            Recovery::Alle2 => arch::tlbi::alle2is(),
            Recovery::Alle1 => arch::tlbi::alle1is(),
            _ => arch::tlbi::vmalls12e1is(),
        }
        recovery
    }

    /// Notes a conflict abort and recovers from it by `recovery`. Returns whether the access is worth another try.
    pub(crate) fn take(&mut self, mut conflict: Conflict, recovery: Recovery, x: &[u64; 31]) -> bool {
        let fingerprint = x.iter().fold(0u64, |sum, v| sum.rotate_left(5) ^ v);
        let attempt = Attempt { pc: conflict.pc, far: conflict.far, fingerprint };
        let slot = &mut self.attempts[usize::from(conflict.cpu) % MAX_CPUS];
        let retries = match slot {
            // Injected ones are all alike: same instruction, same registers.
            Some((known, retries)) if *known == attempt && !conflict.injected => retries.saturating_add(1),
            _ => 0,
        };
        *slot = Some((attempt, retries));
        conflict.cleared_by = self.clear(recovery, retries, conflict.injected, conflict.far);
        arch::barrier::dsb_ish();
        arch::barrier::isb();
        if retries > 0 {
            if let Some(known) = self.entries.iter_mut().rev().find(|c| (c.pc, c.far) == (attempt.pc, attempt.far)) {
                known.retries = retries;
                known.cleared_by = if retries < MAX_RETRIES { conflict.cleared_by } else { Recovery::None };
            }
        } else {
            self.total += 1;
            if let (Some(phase), false) = (conflict.phase, conflict.injected) {
                self.of_accesses[usize::from(phase) % Phase::ALL.len()] += 1;
            }
            // A full list keeps the first ones, which explain most; `total` counts them all.
            let _ = self.entries.try_push(conflict);
        }
        retries < MAX_RETRIES
    }

    /// Hands the list over and starts a new one.
    pub(crate) fn drain(&mut self) -> Self {
        core::mem::replace(self, Self::new())
    }

    /// The first of them.
    pub(crate) fn entries(&self) -> &ArrayVec<Conflict, MAX_CONFLICTS> {
        &self.entries
    }

    /// How many there were, those not listed included.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Adds those at accesses to the histogram of the payload, which cannot see them: an observer's access met them.
    pub(crate) fn add_to(&self, outcomes: &mut ArrayVec<Outcome, MAX_OUTCOMES>) {
        for (phase, count) in Phase::ALL.into_iter().zip(self.of_accesses).filter(|(_, count)| *count > 0) {
            let of_phase = |c: &&Conflict| c.phase == Some(phase as u8) && !c.injected;
            let first = self.entries.iter().find(of_phase).map_or(First::default(), |c| First {
                esr: c.esr,
                far: c.far,
                pc: c.pc,
                cpu: c.cpu,
                ..First::default()
            });
            let known = outcomes.iter_mut().find(|o| (o.count.phase, o.count.kind) == (phase, Kind::Conflict));
            match known {
                Some(outcome) => outcome.count.count += count,
                // There is one slot for each phase and kind that a payload can report.
                None => drop(outcomes.try_push(Outcome { count: Count { phase, kind: Kind::Conflict, count }, first })),
            }
        }
    }
}

/// A conflict at `place` with the given registers, not yet cleared. TPIDR_EL0 still holds what the vCPU keeps there.
pub(crate) fn conflict(place: Place, esr: u64, far: u64, hpfar: Option<u64>, pc: u64, cpu: u8) -> Conflict {
    Conflict {
        place,
        // S1PTW or HPFAR would tell more where they are valid; for a conflict abort neither is architected, and the
        // syndrome has no stage. With an abort routed to EL2 for EL1 stage 2 is at least involved.
        stage: if place == Place::El2ForEl1 { 2 } else { 1 },
        esr,
        far,
        hpfar,
        pc,
        cpu,
        cleared_by: Recovery::None,
        retries: 0,
        injected: false,
        phase: phase().filter(|_| place == Place::El2ForEl1),
    }
}

/// The number of the phase that the vCPU of the calling CPU is in.
pub(crate) fn phase() -> Option<u8> {
    wire::abi::phase_of(TPIDR_EL0.get()).map(|phase| phase as u8)
}
