//! Executes the steps that [`vmsa::sequence`] describes.
//!
//! Every step is one instruction (for a TLBI by VA, its operand besides), in the order of the description: the
//! stores are atomic and the barriers and TLBIs are compiler barriers too, so nothing is moved or merged.

use core::sync::atomic::{AtomicU64, Ordering};

use vmsa::{
    descriptor::Descriptor,
    sequence::{Dsb, Step, Tlbi},
    transition::Descriptors,
    update,
};

use crate::{barrier, tlbi};

/// What of an address is different in another one that no descriptor maps together with it: more than the largest
/// block, less than half of the smallest address space.
const ELSEWHERE: u64 = 1 << 37;

/// A live descriptor and the change it goes through.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    pte: &'a AtomicU64,
    va: u64,
    descriptors: Descriptors,
}

impl<'a> Live<'a> {
    /// The descriptor `pte`, which translates `va` (in bytes) and holds `descriptors.old`.
    ///
    /// # Safety
    /// Nothing that the program relies on, code, stack and statics included, is translated by `pte`.
    pub const unsafe fn new(pte: &'a AtomicU64, va: u64, descriptors: Descriptors) -> Self {
        Self { pte, va, descriptors }
    }

    /// The same with TLBIs by VA that name `va`, another address that the descriptor translates.
    #[inline]
    #[must_use]
    pub const fn naming(self, va: u64) -> Self {
        Self { va, ..self }
    }

    /// The same descriptor on its way back.
    #[must_use]
    pub const fn reversed(self) -> Self {
        let Descriptors { old, new, block } = self.descriptors;
        Self { descriptors: Descriptors { old: new, new: old, block }, ..self }
    }

    /// Executes one step.
    #[inline]
    pub fn step(&self, step: Step) {
        match step {
            Step::Write(write) => {
                let Descriptors { old, new, block } = self.descriptors;
                self.pte.store(write.value(old, new, block).raw(), Ordering::Relaxed);
            }
            Step::Swap(write) => {
                let Descriptors { old, new, block } = self.descriptors;
                let new = write.value(old, new, block);
                // Nobody but this PE and hardware writes it: what has changed since the load is hardware's.
                let swap = |found| Some(update::carried(old, Descriptor::from_raw(found), new).raw());
                let _ = self.pte.fetch_update(Ordering::Relaxed, Ordering::Relaxed, swap);
            }
            Step::Dsb(Dsb::Ishst) => barrier::dsb_ishst(),
            Step::Dsb(Dsb::Ish) => barrier::dsb_ish(),
            Step::Dsb(Dsb::Ishld) => barrier::dsb_ishld(),
            Step::Dsb(Dsb::Nshst) => barrier::dsb_nshst(),
            Step::Dsb(Dsb::Nsh) => barrier::dsb_nsh(),
            Step::Tlbi(Tlbi::Vaae1is) => tlbi::vaae1is(self.va),
            Step::Tlbi(Tlbi::Vaale1is) => tlbi::vaale1is(self.va),
            Step::Tlbi(Tlbi::Vmalle1is) => tlbi::vmalle1is(),
            Step::Tlbi(Tlbi::Vae1is) => tlbi::vae1is(self.va),
            Step::Tlbi(Tlbi::Vale1is) => tlbi::vale1is(self.va),
            Step::Tlbi(Tlbi::Vaae1) => tlbi::vaae1(self.va),
            Step::Tlbi(Tlbi::Vaale1) => tlbi::vaale1(self.va),
            Step::Tlbi(Tlbi::Vmalle1) => tlbi::vmalle1(),
            Step::Tlbi(Tlbi::Vaae1isOther) => tlbi::vaae1is(self.va ^ ELSEWHERE),
            Step::Tlbi(Tlbi::Vaae1isUnshifted) => tlbi::vaae1is_unshifted(self.va),
            Step::Tlbi(Tlbi::Vae1isOtherAsid) => tlbi::vae1is_asid1(self.va),
            Step::Tlbi(Tlbi::Vae2is) => tlbi::vae2is(self.va),
            Step::Isb => barrier::isb(),
        }
    }
}
