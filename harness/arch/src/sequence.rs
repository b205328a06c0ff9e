//! Executes the steps that [`vmsa::sequence`] describes.
//!
//! Every step is one instruction (for a TLBI by VA, its operand besides), in the order of the description: the
//! stores are atomic and the barriers and TLBIs are compiler barriers too, so nothing is moved or merged.

use core::sync::atomic::{AtomicU64, Ordering};

use vmsa::{
    change::Descriptors,
    descriptor::Descriptor,
    sequence::{Dsb, Step, Tlbi},
    tlbi::{Form, Target},
    update,
};

use crate::{barrier, tlbi};

/// What of an address is different in another one that no descriptor maps together with it: more than the largest
/// block, less than half of the smallest address space.
const ELSEWHERE: u64 = 1 << 37;

/// Live descriptors, one or several of a group, and the change they go through.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    ptes: &'a [AtomicU64],
    /// What one of them maps, in bytes.
    size: u64,
    /// Of the first.
    base: u64,
    /// What TLBIs by VA name.
    va: u64,
    /// The first one's; the others differ in the output address.
    descriptors: Descriptors,
    /// What [`Tlbi::Form`] stands for, at what it is aimed, and the number that chooses its operands.
    form: Option<(Form, Target, u64)>,
}

impl<'a> Live<'a> {
    /// The descriptors `ptes`, of which the first translates `base` (in bytes) and holds `descriptors.old`, and each
    /// maps `size` bytes behind those of the one before it. Several of them are leaves on both sides.
    ///
    /// # Safety
    /// Nothing that the program relies on, code, stack and statics included, is translated by `ptes`.
    pub const unsafe fn new(ptes: &'a [AtomicU64], base: u64, size: u64, descriptors: Descriptors) -> Self {
        Self { ptes, size, base, va: base, descriptors, form: None }
    }

    /// The same with TLBIs by VA that name `va`, another address that a descriptor translates.
    #[inline]
    #[must_use]
    pub const fn naming(self, va: u64) -> Self {
        Self { va, ..self }
    }

    /// The same with this form under test, with the operands that `number` chooses.
    #[inline]
    #[must_use]
    pub const fn with_form(self, form: Form, target: Target, number: u64) -> Self {
        Self { form: Some((form, target, number)), ..self }
    }

    /// The same descriptors on their way back.
    #[must_use]
    pub const fn reversed(self) -> Self {
        let Descriptors { old, new, block } = self.descriptors;
        Self { descriptors: Descriptors { old: new, new: old, block }, ..self }
    }

    /// Stores `value` into the first descriptor, and what follows from it into the others.
    #[inline]
    fn write(&self, value: Descriptor) {
        for (pte, n) in self.ptes.iter().zip(0..) {
            pte.store(self.nth(value, n).raw(), Ordering::Relaxed);
        }
    }

    /// What stands in the descriptor with this number, from 0, where `first` stands in the first.
    #[inline]
    const fn nth(&self, first: Descriptor, n: u64) -> Descriptor {
        if first.is_valid() { Descriptor::from_raw(first.raw() + n * self.size) } else { first }
    }

    /// Executes one step.
    #[inline]
    pub fn step(&self, step: Step) {
        match step {
            Step::Write(write) => {
                let Descriptors { old, new, block } = self.descriptors;
                self.write(write.value(old, new, block));
            }
            Step::Swap(write) => {
                let Descriptors { old, new, block } = self.descriptors;
                let new = write.value(old, new, block);
                for (pte, n) in self.ptes.iter().zip(0..) {
                    let [old, new] = [old, new].map(|descriptor| self.nth(descriptor, n));
                    // Nobody but this PE and hardware writes it: what has changed since the load is hardware's.
                    let swap = |found| Some(update::carried(old, Descriptor::from_raw(found), new).raw());
                    let _ = pte.fetch_update(Ordering::Relaxed, Ordering::Relaxed, swap);
                }
            }
            Step::Dsb(Dsb::Ishst) => barrier::dsb_ishst(),
            Step::Dsb(Dsb::Ish) => barrier::dsb_ish(),
            Step::Dsb(Dsb::Osh) => barrier::dsb_osh(),
            Step::Dsb(Dsb::Ishld) => barrier::dsb_ishld(),
            Step::Dsb(Dsb::Nshst) => barrier::dsb_nshst(),
            Step::Dsb(Dsb::Nsh) => barrier::dsb_nsh(),
            Step::Tlbi(Tlbi::Vaae1is) => tlbi::vaae1is(self.va),
            Step::Tlbi(Tlbi::Vaale1is) => tlbi::vaale1is(self.va),
            Step::Tlbi(Tlbi::Vaale1isEach) => {
                for entry in 0..self.ptes.len() as u64 {
                    tlbi::vaale1is(self.base + entry * self.size);
                }
            }
            Step::Tlbi(Tlbi::Vmalle1is) => tlbi::vmalle1is(),
            Step::Tlbi(Tlbi::Vae1is) => tlbi::vae1is(self.va),
            Step::Tlbi(Tlbi::Vale1is) => tlbi::vale1is(self.va),
            Step::Tlbi(Tlbi::Vaae1) => tlbi::vaae1(self.va),
            Step::Tlbi(Tlbi::Vaale1) => tlbi::vaale1(self.va),
            Step::Tlbi(Tlbi::Vmalle1) => tlbi::vmalle1(),
            Step::Tlbi(Tlbi::Vaae1isOther) => tlbi::vaae1is(self.va ^ ELSEWHERE),
            Step::Tlbi(Tlbi::Vaae1isUnshifted) => tlbi::vaae1is_unshifted(self.va),
            Step::Tlbi(Tlbi::Vae1isOtherAsid) => tlbi::vae1is_other(self.va),
            Step::Tlbi(Tlbi::Form) => {
                if let Some((form, target, number)) = self.form {
                    tlbi::form(form, target, number);
                }
            }
            Step::Tlbi(Tlbi::Vae2is) => tlbi::vae2is(self.va),
            Step::Isb => barrier::isb(),
        }
    }
}
