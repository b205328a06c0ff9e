//! Executes the steps that [`vmsa::sequence`] describes.
//!
//! Every step is one instruction (for a TLBI by VA, its operand besides), in the order of the description: the
//! stores are atomic and the barriers and TLBIs are compiler barriers too, so nothing is moved or merged. A
//! compare-and-swap is a loop around a pair of exclusives, and does what goes with it: the marks that it finds in what it
//! replaces are remembered, and put into what is written from then on.
//!
//! Where tables are [filled](Step::Fill) on the way, the new descriptor is not one but one a level, and which of them is next
//! the tables themselves tell: the one for the first descriptor on the way to the named address that is no table yet.

use core::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

use vmsa::{
    change::Descriptors,
    descriptor::{Descriptor, DescriptorKind},
    instance::Regime,
    layout::Layout,
    mark::Marks,
    sequence::{Dsb, Step, Tlbi, Write},
    shatter::Tables,
    tlbi::{Form, Target},
};

use crate::{barrier, cache, tlbi};

/// What of an address is different in another one that no descriptor maps together with it: more than the largest
/// block, less than half of the smallest address space.
const ELSEWHERE: u64 = 1 << 44;

/// A table that comes into use when it is filled.
#[derive(Clone, Copy, Debug)]
pub struct NextTable<'a> {
    /// Its physical address.
    pub address: u64,
    /// All of it.
    pub entries: &'a [AtomicU64],
}

/// A descriptor that becomes tables, level by level.
#[derive(Clone, Copy, Debug)]
struct Shattering<'a> {
    tables: &'a Tables<NextTable<'a>>,
    /// Of the descriptor.
    layout: Layout,
    back: bool,
}

/// What is replaced next: a descriptor, its layout, and by which table.
struct Standing<'a> {
    pte: &'a AtomicU64,
    layout: Layout,
    table: NextTable<'a>,
}

/// Live descriptors, one or several of a group, and the change they go through.
#[derive(Clone, Debug)]
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
    /// Where marks are besides: in leaves below the table that is taken out of use, and below the one that comes into use.
    leaves: [&'a [&'a AtomicU64]; 2],
    /// In which the descriptors are.
    regime: Regime,
    /// Marks that hardware has set in what was replaced, once there was a compare-and-swap.
    found: Option<Marks>,
    /// What [`Tlbi::Form`] stands for, at what it is aimed, and the number that chooses its operands.
    form: Option<(Form, Target, u64)>,
    /// If tables are filled on the way.
    shattering: Option<Shattering<'a>>,
}

impl<'a> Live<'a> {
    /// The descriptors `ptes`, of which the first translates `base` (in bytes) and holds `descriptors.old`, and each
    /// maps `size` bytes behind those of the one before it. Several of them are leaves on both sides.
    ///
    /// # Safety
    /// Nothing that the program relies on, code, stack and statics included, is translated by `ptes`, be they of its own
    /// regime or of a stage 2 that it owns.
    pub const unsafe fn new(ptes: &'a [AtomicU64], base: u64, size: u64, descriptors: Descriptors) -> Self {
        let regime = Regime::El1;
        Self {
            ptes,
            size,
            base,
            va: base,
            descriptors,
            leaves: [&[]; 2],
            regime,
            found: None,
            form: None,
            shattering: None,
        }
    }

    /// The same with TLBIs by VA that name `va`, another address that a descriptor translates.
    #[inline]
    #[must_use]
    pub const fn naming(mut self, va: u64) -> Self {
        self.va = va;
        self
    }

    /// The same of `regime`, with marks found by a [`Step::Swap`] that came before, if there was one.
    #[inline]
    #[must_use]
    pub const fn marked_in(mut self, regime: Regime, found: Option<Marks>) -> Self {
        (self.regime, self.found) = (regime, found);
        self
    }

    /// Marks that hardware had set in what was replaced, once there was a [`Step::Swap`].
    #[must_use]
    pub const fn found(&self) -> Option<Marks> {
        self.found
    }

    /// The same with leaves below the old table whose marks a compare-and-swap carries over, and those below the new table
    /// which get them.
    #[inline]
    #[must_use]
    pub const fn carrying(mut self, leaves: [&'a [&'a AtomicU64]; 2]) -> Self {
        self.leaves = leaves;
        self
    }

    /// The same with this form under test, with the operands that `number` chooses.
    #[inline]
    #[must_use]
    pub const fn with_form(mut self, form: Form, target: Target, number: u64) -> Self {
        self.form = Some((form, target, number));
        self
    }

    /// The same where the first descriptor, whose layout this is, becomes `tables`, which nobody uses and which are empty, one below
    /// the other on the way to the [named](Self::naming) address. On the way back they are emptied.
    #[inline]
    #[must_use]
    pub const fn shattering(mut self, layout: Layout, tables: &'a Tables<NextTable<'a>>) -> Self {
        self.shattering = Some(Shattering { tables, layout, back: false });
        self
    }

    /// The same descriptors on their way back.
    #[must_use]
    pub const fn reversed(mut self) -> Self {
        let Descriptors { old, new, block } = self.descriptors;
        self.descriptors = Descriptors { old: new, new: old, block };
        if let Some(shattering) = &mut self.shattering {
            shattering.back = !shattering.back;
        }
        self
    }

    /// The first descriptor on the way to the named address that is no table yet, if it is to become one.
    fn standing(&self) -> Option<Standing<'a>> {
        let Shattering { tables, mut layout, .. } = self.shattering?;
        let mut pte = self.ptes.first()?;
        for table in tables.iter().flatten() {
            if layout.kind(Descriptor::from_raw(pte.load(Relaxed))) != DescriptorKind::Table {
                return Some(Standing { pte, layout, table: *table });
            }
            layout.level = layout.level.next()?;
            pte = table.entries.get(layout.level.index(layout.granule, self.va))?;
        }
        None
    }

    /// Has the next table map what the descriptor maps that it will replace.
    #[inline(never)]
    fn fill(&self) {
        let Some(Standing { pte, layout, table }) = self.standing() else { return };
        let block = Descriptor::from_raw(pte.load(Relaxed));
        let first = layout.part(block, 0).unwrap_or(Descriptor::INVALID);
        // Between the size of a part and that of the block the OA stands in its own place: the others are the first and a sum.
        let size = match (first.is_valid(), layout.level.next()) {
            (true, Some(level)) => level.size(layout.granule),
            _ => 0,
        };
        for (slot, n) in table.entries.iter().zip(0..) {
            slot.store(first.raw() + n * size, Relaxed);
        }
    }

    /// Writes the next table over the descriptor that it replaces, or, on the way back, the block over all of them.
    #[inline(never)]
    fn link(&self) {
        let Some(Shattering { tables, back, .. }) = self.shattering else { return };
        if back {
            tables.iter().flatten().flat_map(|table| table.entries).for_each(|slot| slot.store(0, Relaxed));
            self.write(self.descriptors.new);
        } else if let Some(Standing { pte, layout, table }) = self.standing() {
            pte.store(layout.table(table.address).raw(), Relaxed);
        }
    }

    /// Stores `value` into the first descriptor, and what follows from it into the others.
    #[inline]
    fn write(&self, value: Descriptor) {
        for (pte, n) in self.ptes.iter().zip(0..) {
            pte.store(self.nth(value, n).raw(), Relaxed);
        }
    }

    /// Replaces each descriptor by what follows from `value`, whatever hardware has made of it.
    fn swap(&mut self, value: Descriptor) {
        let mut found = self.found.unwrap_or(Marks::empty());
        for (pte, n) in self.ptes.iter().zip(0..) {
            let mut now = pte.load(Acquire);
            loop {
                found |= self.set_by_hardware(Descriptor::from_raw(now));
                self.mark_leaves(found);
                let marked = self.nth(self.marked(value, found), n);
                // Nobody but this PE and hardware writes it: what has changed since the load is hardware's.
                match pte.compare_exchange(now, marked.raw(), AcqRel, Acquire) {
                    Ok(_) => break,
                    Err(other) => now = other,
                }
            }
        }
        self.found = Some(found);
    }

    /// The marks in `now`, or below it, that are not the old mapping's own.
    fn set_by_hardware(&self, now: Descriptor) -> Marks {
        let Descriptors { old, block, .. } = self.descriptors;
        let [below, _] = self.leaves;
        // A table has no marks of its own.
        let above = if !below.is_empty() && now == old { Descriptor::INVALID } else { now };
        let leaves = below.iter().map(|leaf| Descriptor::from_raw(leaf.load(Acquire)));
        let found =
            leaves.chain([above]).fold(Marks::empty(), |marks, leaf| marks | Marks::all().found_in(self.regime, leaf));
        found - Marks::all().found_in(self.regime, block)
    }

    /// `value` with `marks`, if it is a leaf.
    fn marked(&self, value: Descriptor, marks: Marks) -> Descriptor {
        let [_, below] = self.leaves;
        let is_table = !below.is_empty() && value == self.descriptors.new;
        if is_table { value } else { marks.put_in(self.regime, value) }
    }

    /// Puts `marks` into the leaves below the new table. Hardware may be setting marks there too.
    fn mark_leaves(&self, marks: Marks) {
        let [_, below] = self.leaves;
        for leaf in below.iter().filter(|_| !marks.is_empty()) {
            let mark = |leaf| Some(marks.put_in(self.regime, Descriptor::from_raw(leaf)).raw());
            // It never returns None.
            let _ = leaf.fetch_update(AcqRel, Acquire, mark);
        }
    }

    /// What is left to do when the steps are done: marks that hardware has set, until the TLBI was complete, in leaves
    /// below the table that is out of use go into the block.
    pub fn finish(&self) {
        let [below, _] = self.leaves;
        if let (Some(found), [pte], false) = (self.found, self.ptes, below.is_empty()) {
            let marks = found | self.set_by_hardware(Descriptor::INVALID);
            let mark = |pte| Some(marks.put_in(self.regime, Descriptor::from_raw(pte)).raw());
            let _ = pte.fetch_update(AcqRel, Acquire, mark);
        }
    }

    /// What stands in the descriptor with this number, from 0, where `first` stands in the first.
    #[inline]
    const fn nth(&self, first: Descriptor, n: u64) -> Descriptor {
        if first.is_valid() { Descriptor::from_raw(first.raw() + n * self.size) } else { first }
    }

    /// Executes one step.
    #[inline]
    pub fn step(&mut self, step: Step) {
        match step {
            Step::Write(Write::New) if self.shattering.is_some() => self.link(),
            Step::Fill => self.fill(),
            Step::Write(write) => {
                let Descriptors { old, new, block } = self.descriptors;
                let value = write.value(old, new, block);
                match self.found {
                    None => self.write(value),
                    Some(found) => {
                        let found = found | self.set_by_hardware(Descriptor::INVALID);
                        self.mark_leaves(found);
                        self.write(self.marked(value, found));
                    }
                }
            }
            Step::Swap(write) => {
                let Descriptors { old, new, block } = self.descriptors;
                self.swap(write.value(old, new, block));
            }
            Step::Dsb(Dsb::Ishst) => barrier::dsb_ishst(),
            Step::Dsb(Dsb::Ish) => barrier::dsb_ish(),
            Step::Dsb(Dsb::Osh) => barrier::dsb_osh(),
            Step::Dsb(Dsb::Sy) => barrier::dsb_sy(),
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
            Step::Tlbi(Tlbi::Aside1is) => tlbi::aside1is(tlbi::ASID),
            Step::Tlbi(Tlbi::Form) => {
                if let Some((form, target, number)) = self.form {
                    tlbi::form(form, target, number);
                }
            }
            Step::Tlbi(Tlbi::Vae2is) => tlbi::vae2is(self.va),
            Step::Tlbi(Tlbi::Vale2is) => tlbi::vale2is(self.va),
            Step::Tlbi(Tlbi::Vale2isEach) => {
                for entry in 0..self.ptes.len() as u64 {
                    tlbi::vale2is(self.base + entry * self.size);
                }
            }
            Step::Tlbi(Tlbi::Alle2is) => tlbi::alle2is(),
            Step::Tlbi(Tlbi::Vae2) => tlbi::vae2(self.va),
            Step::Tlbi(Tlbi::Alle2) => tlbi::alle2(),
            Step::Tlbi(Tlbi::Vae2isOther) => tlbi::vae2is(self.va ^ ELSEWHERE),
            Step::Tlbi(Tlbi::Ipas2e1is) => tlbi::ipas2e1is(self.va),
            Step::Tlbi(Tlbi::Ipas2le1is) => tlbi::ipas2le1is(self.va),
            Step::Tlbi(Tlbi::Ipas2le1isEach) => {
                for entry in 0..self.ptes.len() as u64 {
                    tlbi::ipas2le1is(self.base + entry * self.size);
                }
            }
            Step::Tlbi(Tlbi::Ipas2e1isAll) => {
                for page in 0..(self.ptes.len() as u64 * self.size) >> 12 {
                    tlbi::ipas2e1is(self.base + (page << 12));
                }
            }
            Step::Tlbi(Tlbi::Ipas2e1) => tlbi::ipas2e1(self.va),
            Step::Tlbi(Tlbi::Ipas2e1isOther) => tlbi::ipas2e1is(self.va ^ ELSEWHERE),
            Step::Tlbi(Tlbi::Vmalls12e1is) => tlbi::vmalls12e1is(),
            Step::Tlbi(Tlbi::Alle1is) => tlbi::alle1is(),
            Step::Tlbi(Tlbi::Alle1) => tlbi::alle1(),
            Step::Clean => {
                // Several have their own lines, or one for all of them.
                self.ptes.iter().for_each(|pte| cache::clean_line_poc(&raw const *pte as usize));
                for table in self.shattering.iter().flat_map(|shattering| shattering.tables.iter().flatten()) {
                    cache::clean_poc(table.entries.as_ptr() as usize, size_of_val(table.entries));
                }
            }
            Step::Isb => barrier::isb(),
        }
    }
}
