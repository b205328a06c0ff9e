//! What becomes of hardware's updates of a descriptor that software replaces (DDI 0487 D8.5, D8.17.1).
//!
//! Where hardware sets the Access flag or manages the dirty state, it writes into descriptors whenever it likes. A
//! plain store over a live one may undo such an update; a compare-and-swap that expects the old descriptor cannot.
//! Either way a PE that still has the old descriptor in its TLB may fail to update the new one, or update it for an
//! access that was made before, until the TLBI completes (I_GXGZY, R_RTBRL). None of this makes break-before-make
//! necessary, nor does it change what an access sees: it is about what stands in the table afterwards, so it is no
//! [`Need`](crate::rule::Need). [`UPDATES`] says, row by row, what may happen.

use bitflags::bitflags;

use crate::{
    descriptor::{Attributes, Descriptor, DescriptorKind},
    rule::{Context, HardwareUpdates, Transition},
    sequence::Sequence,
};

bitflags! {
    /// All that a row of [`UPDATES`] asks about a [`Transition`].
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
    pub struct Facts: u8 {
        /// Hardware may set the Access flag of the old descriptor.
        const SETS_AF = 1 << 0;
        /// Hardware may make the old descriptor writable-dirty.
        const DIRTIES = 1 << 1;
        /// The new descriptor is written by a plain store.
        const STORE = 1 << 2;
        /// The old descriptor may be in a TLB, and an access by way of it go on: there is no break.
        const CACHED = 1 << 3;
        /// Hardware is to set the Access flag of the new descriptor.
        const TO_SET_AF = 1 << 4;
        /// Hardware is to make the new descriptor writable-dirty, and the old one can be written through.
        const TO_DIRTY = 1 << 5;
    }
}

/// What hardware writes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Flag {
    /// AF, from 0 to 1.
    AccessFlag,
    /// AP\[2\], from 1 to 0 (writable-clean to writable-dirty).
    Dirty,
}

/// What may become of an update.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fate {
    /// It was made and is undone.
    Overwritten,
    /// It is not made, or made without its access, in the new descriptor until the TLBI completes.
    Misplaced,
}

/// A row of [`UPDATES`]: one thing that may happen, and where it comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Update {
    /// Facts that must all be there.
    pub all: Facts,
    /// What hardware writes.
    pub flag: Flag,
    /// What may become of it.
    pub fate: Fate,
    /// The rule that says so, by its name in the Arm ARM.
    pub rule: &'static str,
    /// The rule applied, in words.
    pub why: &'static str,
}

const fn row(all: Facts, flag: Flag, fate: Fate, rule: &'static str, why: &'static str) -> Update {
    Update { all, flag, fate, rule, why }
}

/// All that may become of updates. What stands first is cited first.
pub const UPDATES: &[Update] = {
    use Fate::{Misplaced, Overwritten};
    use Flag::{AccessFlag, Dirty};
    &[
        row(
            Facts::DIRTIES.union(Facts::STORE),
            Dirty,
            Overwritten,
            "R_RTBRL",
            "hardware may mark the old mapping dirty until the new one is written",
        ),
        row(
            Facts::SETS_AF.union(Facts::STORE),
            AccessFlag,
            Overwritten,
            "I_GXGZY",
            "hardware may set the old Access flag until the new one is written",
        ),
        row(
            Facts::CACHED.union(Facts::TO_DIRTY),
            Dirty,
            Misplaced,
            "R_RTBRL",
            "until the TLBI completes a write by way of the old mapping need not mark the new one dirty",
        ),
        row(
            Facts::CACHED.union(Facts::TO_SET_AF),
            AccessFlag,
            Misplaced,
            "I_GXGZY",
            "until the TLBI completes an access by way of the old mapping need not set the new Access flag",
        ),
    ]
};

impl Facts {
    /// The facts about `transition`.
    #[must_use]
    pub fn of(transition: &Transition) -> Self {
        let Transition { old, new, context } = *transition;
        let leaf = |descriptor| leaf(descriptor, &context);
        let Some(a) = leaf(old).filter(|_| old != new) else { return Self::empty() };
        let sets_af = context.hardware >= HardwareUpdates::AccessFlag;
        let cached = a.access_flag || sets_af && !context.compare_and_swap;
        let b = leaf(new);
        let facts = [
            (sets_af && !a.access_flag, Self::SETS_AF),
            (is_clean(a, &context), Self::DIRTIES),
            (!context.compare_and_swap, Self::STORE),
            (cached && b.is_some(), Self::CACHED),
            (sets_af && b.is_some_and(|b| !b.access_flag), Self::TO_SET_AF),
            (a.writes(context.hardware) && b.is_some_and(|b| is_clean(b, &context)), Self::TO_DIRTY),
        ];
        facts.into_iter().filter(|(there, _)| *there).fold(Self::empty(), |set, (_, fact)| set | fact)
    }
}

fn leaf(descriptor: Descriptor, context: &Context) -> Option<Attributes> {
    let layout = context.layout();
    matches!(layout.kind(descriptor), DescriptorKind::Block | DescriptorKind::Page)
        .then(|| layout.attributes(descriptor))
}

/// Whether it is writable-clean (R_XZFQH).
fn is_clean(attributes: Attributes, context: &Context) -> bool {
    context.hardware == HardwareUpdates::Dirty && attributes.dbm && !attributes.writable
}

impl Transition {
    /// What may become of hardware's updates when it is made by one write.
    pub fn updates(&self) -> impl Iterator<Item = &'static Update> + use<> {
        let facts = Facts::of(self);
        UPDATES.iter().filter(move |row| facts.contains(row.all))
    }

    /// Why the new descriptor must be written by a compare-and-swap, if it must.
    #[must_use]
    pub fn must_swap(&self) -> Option<&'static Update> {
        let stored = Self { context: Context { compare_and_swap: false, ..self.context }, ..*self };
        stored.updates().find(|update| update.fate == Fate::Overwritten)
    }
}

/// What may become of hardware's updates when `sequence` makes `transition`, from each of its writes; `block` is as in
/// [`gives`](crate::transition::gives).
pub fn updates(
    sequence: &Sequence,
    transition: &Transition,
    block: Descriptor,
) -> impl Iterator<Item = &'static Update> {
    let Transition { old, new, context } = *transition;
    let mut current = old;
    sequence.steps().iter().filter_map(|step| step.write()).flat_map(move |(write, compare_and_swap)| {
        let next = write.value(old, new, block);
        let context = Context { compare_and_swap, ..context };
        let written = Transition { old: current, new: next, context };
        current = next;
        written.updates()
    })
}
