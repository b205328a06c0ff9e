//! The steps of each method, as data.
//!
//! One description serves everybody: the payload executes it, `shatter explain` prints it with the
//! reason of each step, and audits leave steps out or weaken them. The steps are in the order of R_DDMVT
//! and R_KFLJB; what differs between methods is which intermediate descriptor is written, if any.

use core::fmt;

use crate::{
    descriptor::Descriptor,
    instance::{Change, Method},
};

/// The descriptor that a step writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Write {
    /// An invalid descriptor: the break.
    Invalid,
    /// The old descriptor with AF=0: the other break.
    OldNoAf,
    /// The block of this change (the old one of a split, the new one of a merge) with nT=1.
    BlockNt,
    /// The new descriptor: the make.
    New,
}

/// Shareability domain of a DSB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dsb {
    /// DSB ISHST: orders stores for the walkers of the Inner Shareable domain.
    Ishst,
    /// DSB ISH: also waits for TLBIs of the Inner Shareable domain.
    Ish,
}

/// A TLBI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tlbi {
    /// VAAE1IS: all entries of the window's address, tables included, any ASID.
    Vaae1is,
    /// VAALE1IS: last-level entries of the window's address only.
    Vaale1is,
    /// VMALLE1IS: everything of this VMID's EL1&0 regime.
    Vmalle1is,
}

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Store a descriptor, 64 bits, single-copy atomic.
    Write(Write),
    /// Data synchronisation barrier.
    Dsb(Dsb),
    /// TLB maintenance.
    Tlbi(Tlbi),
    /// Context synchronisation on the changing PE.
    Isb,
}

impl Step {
    /// The step as an instruction, for listings.
    #[must_use]
    pub const fn asm(self) -> &'static str {
        match self {
            Self::Write(Write::Invalid) => "str xzr, [pte]",
            Self::Write(Write::OldNoAf) => "str old & ~AF, [pte]",
            Self::Write(Write::BlockNt) => "str block | nT, [pte]",
            Self::Write(Write::New) => "str new, [pte]",
            Self::Dsb(Dsb::Ishst) => "dsb ishst",
            Self::Dsb(Dsb::Ish) => "dsb ish",
            Self::Tlbi(Tlbi::Vaae1is) => "tlbi vaae1is, va",
            Self::Tlbi(Tlbi::Vaale1is) => "tlbi vaale1is, va",
            Self::Tlbi(Tlbi::Vmalle1is) => "tlbi vmalle1is",
            Self::Isb => "isb",
        }
    }

    /// Why the step is there.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Write(Write::Invalid) => "break: walks fault from here on (R_DDMVT)",
            Self::Write(Write::OldNoAf) => "break by the Access flag: what faults is never cached (R_XCLRD)",
            Self::Write(Write::BlockNt) => "the block with nT: a walk faults or does not cache it as before (R_MRRPW)",
            Self::Write(Write::New) => "make: the new descriptor, one single-copy atomic store",
            Self::Dsb(Dsb::Ishst) => "the store is visible to every walker before the TLBI (R_DDMVT)",
            Self::Dsb(Dsb::Ish) => "the store or TLBI before it is complete on every PE (R_PSMWS, R_YNJCP)",
            Self::Tlbi(Tlbi::Vaae1is | Tlbi::Vaale1is) => "nobody keeps the old translation of this address (R_LXHLD)",
            Self::Tlbi(Tlbi::Vmalle1is) => "nobody keeps any of the many old entries (R_LXHLD)",
            Self::Isb => "this PE's own next instructions use the new translation (R_BLDZX)",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.asm())
    }
}

/// Most steps that a sequence has.
pub const MAX_STEPS: usize = 10;

/// A method's steps for one change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sequence {
    steps: [Step; MAX_STEPS],
    len: usize,
}

impl Sequence {
    /// The steps, in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps[..self.len]
    }

    fn build(parts: &[&[Step]]) -> Self {
        let mut sequence = Self { steps: [Step::Isb; MAX_STEPS], len: 0 };
        for step in parts.iter().copied().flatten() {
            sequence.steps[sequence.len] = *step;
            sequence.len += 1;
        }
        sequence
    }

    /// The sequence of `method` for `change`.
    #[must_use]
    pub fn of(method: Method, change: Change) -> Self {
        use Step::{Dsb as D, Isb, Tlbi as T, Write as W};
        // A merge replaces many cached entries, which a TLBI by one address does not reach. A split leaves no
        // table behind, but its block may be cached as a table-level entry: the non-leaf form is the safe one.
        let tlbi = match change {
            Change::Merge { .. } => Tlbi::Vmalle1is,
            Change::Split { .. } => Tlbi::Vaae1is,
            Change::Remap { .. } | Change::Protect { .. } => Tlbi::Vaale1is,
        };
        let flush = [D(Dsb::Ishst), T(tlbi), D(Dsb::Ish)];
        let make = [W(Write::New), D(Dsb::Ish), Isb];
        let make_flush = [W(Write::New), D(Dsb::Ishst), T(tlbi), D(Dsb::Ish), Isb];
        match method {
            Method::Bbm => Self::build(&[&[W(Write::Invalid)], &flush, &make]),
            Method::BbmAf => Self::build(&[&[W(Write::OldNoAf)], &flush, &make]),
            Method::Nt => Self::build(&[&[W(Write::BlockNt)], &flush, &make_flush]),
            Method::Direct => Self::build(&[&make_flush]),
            Method::DirectNotlbi => Self::build(&[&make]),
        }
    }

    /// The full break-before-make by which the harness takes a change back between rounds. Its TLBI is the widest,
    /// whatever the change: what a method under test, or a faulty TLBI by address, left behind must be charged to its
    /// own round and not show in the next.
    #[must_use]
    pub fn restore() -> Self {
        use Step::{Dsb as D, Isb, Tlbi as T, Write as W};
        Self::build(&[&[
            W(Write::Invalid),
            D(Dsb::Ishst),
            T(Tlbi::Vmalle1is),
            D(Dsb::Ish),
            W(Write::New),
            D(Dsb::Ish),
            Isb,
        ]])
    }
}

impl Write {
    /// The value this write stores when `old` becomes `new` by way of `block`, the Block descriptor of the change.
    #[must_use]
    pub const fn value(self, old: Descriptor, new: Descriptor, block: Descriptor) -> Descriptor {
        match self {
            Self::Invalid => Descriptor::INVALID,
            Self::OldNoAf => old.with_af(false),
            Self::BlockNt => block.with_nt(true),
            Self::New => new,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{geometry::Granule, testing};

    #[test]
    fn every_sequence_ends_with_the_new_descriptor_complete() {
        for change in testing::changes(Granule::K4) {
            for &method in Method::ALL {
                let sequence = Sequence::of(method, change);
                let last = sequence.steps().iter().rposition(|step| matches!(step, Step::Write(_)));
                let (writes, tail) = sequence.steps().split_at(last.expect("a sequence writes") + 1);
                assert_eq!(writes.last(), Some(&Step::Write(Write::New)));
                assert!(tail.ends_with(&[Step::Dsb(Dsb::Ish), Step::Isb]), "{method} of {change}");
                // Only the control has no TLBI at all.
                let tlbis = sequence.steps().iter().filter(|step| matches!(step, Step::Tlbi(_))).count();
                assert_eq!(tlbis == 0, method == Method::DirectNotlbi);
            }
        }
    }
}
