//! What hardware writes into descriptors, and what becomes of it when software replaces them (DDI 0487 D8.5, D8.17.1).
//!
//! With TCR_ELx.HA hardware sets the Access flag of a leaf through which something is accessed; with HD too, it makes a
//! writable-clean leaf (DBM=1, `AP[2]`=1) writable-dirty (`AP[2]`=0) for a write. These are the [`Marks`] by which software
//! knows what was used. An update is a compare-and-swap of the very descriptor that was walked: it never revives one that
//! software has replaced. In stage 2, where VTCR_EL2 has HA and HD, `S2AP[1]`=0 is clean and 1 is dirty. The reverse is software's affair. A plain store over a live descriptor undoes whatever mark
//! was set since software looked (I_GXGZY, R_RTBRL); a compare-and-swap finds it, and carries it over.
//!
//! Marks that software takes away on purpose (AF=1 to 0, dirty to clean) are another thing: until the TLBI
//! completes, accesses by way of the old descriptor need no new mark, since the old one had it.

use bitflags::bitflags;

use crate::{
    descriptor::{Attributes, Descriptor},
    instance::{Access, Regime},
    rule::HardwareUpdates,
    update::{Fate, Flag, UPDATES, Update},
};

bitflags! {
    /// What hardware has written, or is to write, into a leaf.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
    pub struct Marks: u8 {
        /// AF=1: something was accessed through it.
        const ACCESSED = 1 << 0;
        /// `AP[2]`=0 where DBM=1: something was written through it.
        const DIRTY = 1 << 1;
    }
}

impl Marks {
    const fn only_if(self, condition: bool) -> Self {
        if condition { self } else { Self::empty() }
    }

    /// The marks that are still to come in a leaf with these attributes.
    #[must_use]
    pub const fn missing(attributes: Attributes, hardware: HardwareUpdates) -> Self {
        let Attributes { access_flag, dbm, writable, .. } = attributes;
        let sets_af = !matches!(hardware, HardwareUpdates::Off);
        let dirties = matches!(hardware, HardwareUpdates::Dirty);
        let accessed = Self::ACCESSED.only_if(sets_af && !access_flag);
        accessed.union(Self::DIRTY.only_if(dirties && dbm && !writable))
    }

    /// The marks that `access` leaves for sure, if it succeeds: an AT and a cache operation write nothing, and may leave
    /// the flag alone.
    #[must_use]
    pub const fn of(access: Access) -> Self {
        let accessed = Self::ACCESSED.only_if(!matches!(access, Access::At | Access::Dc));
        accessed.union(Self::DIRTY.only_if(access.stores()))
    }

    /// Those of them that stand in `leaf`, which is one of `regime`.
    #[must_use]
    pub const fn found_in(self, regime: Regime, leaf: Descriptor) -> Self {
        let Attributes { access_flag, mut writable, .. } = leaf.attributes();
        if matches!(regime, Regime::S2) {
            writable = leaf.has_stage2_write();
        }
        let set = Self::ACCESSED.only_if(access_flag).union(Self::DIRTY.only_if(writable));
        self.intersection(set).only_if_valid(leaf)
    }

    const fn only_if_valid(self, leaf: Descriptor) -> Self {
        self.only_if(leaf.is_valid())
    }

    /// `leaf`, which is one of `regime`, with those of them for which it has a place.
    #[must_use]
    pub const fn put_in(self, regime: Regime, leaf: Descriptor) -> Descriptor {
        if !leaf.is_valid() {
            return leaf;
        }
        let leaf = if self.contains(Self::ACCESSED) { leaf.with_af(true) } else { leaf };
        match regime {
            _ if !self.contains(Self::DIRTY) || !leaf.attributes().dbm => leaf,
            Regime::S2 => leaf.with_stage2_write(true),
            _ => leaf.with_write(true),
        }
    }
}

/// What becomes of the first of `marks`, the heaviest loss, where a plain store replaces the descriptor that has them.
pub fn overwritten(marks: Marks) -> Option<&'static Update> {
    UPDATES.iter().find(|update| {
        let mark = match update.flag {
            Flag::AccessFlag => Marks::ACCESSED,
            Flag::Dirty => Marks::DIRTY,
        };
        update.fate == Fate::Overwritten && marks.contains(mark)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Granule, Level};

    const CLEAN: Attributes = Attributes { dbm: true, ..Attributes::NORMAL_RO };

    fn stage2(attributes: Attributes) -> Descriptor {
        Descriptor::stage2_leaf(Granule::K4, Level::L3, 0x1000, attributes)
    }

    fn page(attributes: Attributes) -> Descriptor {
        Descriptor::leaf(Granule::K4, Level::L3, 0x1000, attributes)
    }

    #[test]
    fn marks_are_missing_where_hardware_writes_them() {
        use HardwareUpdates::{AccessFlag, Dirty, Off};
        let no_af = Attributes { access_flag: false, ..CLEAN };
        for (attributes, hardware, missing) in [
            (no_af, Off, Marks::empty()),
            (no_af, AccessFlag, Marks::ACCESSED),
            (no_af, Dirty, Marks::all()),
            (CLEAN, AccessFlag, Marks::empty()),
            (CLEAN, Dirty, Marks::DIRTY),
            (Attributes { writable: true, ..CLEAN }, Dirty, Marks::empty()),
            (Attributes::NORMAL_RO, Dirty, Marks::empty()),
        ] {
            assert_eq!(Marks::missing(attributes, hardware), missing, "{attributes:?} {hardware:?}");
        }
    }

    #[test]
    fn what_is_put_is_found() {
        let no_af = page(Attributes { access_flag: false, ..CLEAN });
        for marks in [Marks::empty(), Marks::ACCESSED, Marks::DIRTY, Marks::all()] {
            for (regime, leaf) in
                [(Regime::El1, no_af), (Regime::S2, stage2(Attributes { access_flag: false, ..CLEAN }))]
            {
                let marked = marks.put_in(regime, leaf);
                assert_eq!(Marks::all().found_in(regime, marked), marks, "{regime}");
                assert_eq!(Marks::empty().found_in(regime, marked), Marks::empty());
                assert_eq!(marks.put_in(regime, Descriptor::INVALID), Descriptor::INVALID);
            }
        }
        // A read-only page does not become writable.
        let read_only = page(Attributes::NORMAL_RO);
        assert_eq!(Marks::DIRTY.put_in(Regime::El1, read_only), read_only);
        assert_eq!(Marks::DIRTY.put_in(Regime::S2, stage2(Attributes::NORMAL_RO)), stage2(Attributes::NORMAL_RO));
        assert_eq!(Marks::all().found_in(Regime::El1, Descriptor::INVALID), Marks::empty());
    }
}
