//! Translation table descriptors of VMSAv8-64 (DDI 0487 D8.3) with their fields as types.
//!
//! A [`Descriptor`] is the 64-bit value as it stands in memory; what it *is* depends on the level it is
//! looked up at, so every question about its kind takes a [`Level`]. All that is answered here is for 48-bit output
//! addresses; for 52-bit ones, whose bits stand elsewhere, ask their [`Layout`].

use core::fmt;

use crate::{
    geometry::{Bytes, Granule, Level},
    layout::Layout,
    memory,
};

/// Bits 1 and 0: valid and type.
pub(crate) const VALID: u64 = 1 << 0;
/// Bit 1: Table or Page; 0 with VALID is a Block.
pub(crate) const NOT_BLOCK: u64 = 1 << 1;
pub(crate) const ATTR_SHIFT: u32 = 2;
pub(crate) const ATTR_MASK: u64 = 7 << ATTR_SHIFT;
const NS: u64 = 1 << 5;
/// `AP[1]`: EL0 may access.
const AP_EL0: u64 = 1 << 6;
/// `AP[2]`: read-only.
const AP_RO: u64 = 1 << 7;
const SH_SHIFT: u32 = 8;
pub(crate) const SH_MASK: u64 = 3 << SH_SHIFT;
const AF: u64 = 1 << 10;
const NG: u64 = 1 << 11;
/// Bit 16 of a Block descriptor, with FEAT_BBML1.
pub(crate) const NT: u64 = 1 << 16;
const DBM: u64 = 1 << 51;
pub(crate) const CONTIGUOUS: u64 = 1 << 52;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
/// NSTable of a Table descriptor.
pub(crate) const NS_TABLE: u64 = 1 << 63;

/// Shareability of Normal memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Shareability {
    /// Non-shareable.
    Non = 0,
    /// Outer Shareable.
    Outer = 2,
    /// Inner Shareable.
    Inner = 3,
}

/// What a descriptor at some level is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DescriptorKind {
    /// Bit 0 clear, or a reserved encoding, which is treated the same (R_RHSKG).
    Invalid,
    /// Maps a block.
    Block,
    /// Maps a page.
    Page,
    /// Points to the next table.
    Table,
}

/// Attributes and permissions of a stage 1 Block or Page, EL1&0 regime.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Attributes {
    /// AttrIndx: the index into MAIR_EL1, 0 to 7.
    pub attr_index: u8,
    /// Shareability.
    pub shareability: Shareability,
    /// Writable at EL1 (`AP[2]` = 0).
    pub writable: bool,
    /// Accessible at EL0 (`AP[1]`).
    pub el0: bool,
    /// Executable at EL1 (PXN = 0).
    pub el1_execute: bool,
    /// Executable at EL0 (UXN = 0).
    pub el0_execute: bool,
    /// Access flag.
    pub access_flag: bool,
    /// Belongs to one ASID (nG).
    pub not_global: bool,
    /// Dirty bit modifier.
    pub dbm: bool,
    /// The Contiguous bit.
    pub contiguous: bool,
}

impl Attributes {
    /// Normal memory at MAIR index 0, Inner Shareable, global, read-write at EL1, never executable, AF=1.
    pub const NORMAL_RW: Self = Self {
        attr_index: 0,
        shareability: Shareability::Inner,
        writable: true,
        el0: false,
        el1_execute: false,
        el0_execute: false,
        access_flag: true,
        not_global: false,
        dbm: false,
        contiguous: false,
    };
    /// As [`NORMAL_RW`](Self::NORMAL_RW), read-only.
    pub const NORMAL_RO: Self = Self { writable: false, ..Self::NORMAL_RW };
    /// As [`NORMAL_RO`](Self::NORMAL_RO), executable at EL1.
    pub const NORMAL_RX: Self = Self { el1_execute: true, ..Self::NORMAL_RO };
    /// Readable, writable and executable at EL1: images that carry code and data in one block. Needs SCTLR.WXN=0.
    pub const NORMAL_RWX: Self = Self { el1_execute: true, ..Self::NORMAL_RW };

    /// The same permissions for EL2's own translation without FEAT_VHE, which has one privilege level and no ASIDs: `AP[1]` is
    /// RES1, bit 53 RES0, bit 54 XN, and nG RES0 (DDI 0487 D8.4, D8.13).
    #[must_use]
    pub const fn at_el2(self) -> Self {
        Self { el0: true, el1_execute: true, el0_execute: self.el1_execute, not_global: false, ..self }
    }

    pub(crate) const fn bits(self) -> u64 {
        let mut bits = (self.attr_index as u64) << ATTR_SHIFT & ATTR_MASK | (self.shareability as u64) << SH_SHIFT;
        if !self.writable {
            bits |= AP_RO;
        }
        if self.el0 {
            bits |= AP_EL0;
        }
        if !self.el1_execute {
            bits |= PXN;
        }
        if !self.el0_execute {
            bits |= UXN;
        }
        if self.access_flag {
            bits |= AF;
        }
        if self.not_global {
            bits |= NG;
        }
        if self.dbm {
            bits |= DBM;
        }
        if self.contiguous {
            bits |= CONTIGUOUS;
        }
        bits
    }
}

/// S2AP, both bits: read, write.
const S2AP_READ: u64 = 1 << 6;
const S2AP_WRITE: u64 = 1 << 7;
/// `XN[1]` of stage 2, which without FEAT_XNX is all of XN.
const S2_XN: u64 = 1 << 54;

impl Attributes {
    /// The same in a descriptor of stage 2: always readable, executable where EL1 may execute, at EL0 too; without ASID.
    pub(crate) const fn stage2_bits(self) -> u64 {
        let mut bits = (memory::stage2(self.attr_index) as u64) << ATTR_SHIFT | (self.shareability as u64) << SH_SHIFT;
        bits |= S2AP_READ;
        if self.writable {
            bits |= S2AP_WRITE;
        }
        if !self.el1_execute {
            bits |= S2_XN;
        }
        if self.access_flag {
            bits |= AF;
        }
        if self.dbm {
            bits |= DBM;
        }
        if self.contiguous {
            bits |= CONTIGUOUS;
        }
        bits
    }
}

/// A descriptor as it stands in a table; fields are named, and looked at, as those of stage 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Descriptor(u64);

impl Descriptor {
    /// The invalid descriptor that a break writes.
    pub const INVALID: Self = Self(0);

    /// The descriptor with this value.
    #[must_use]
    pub const fn from_raw(value: u64) -> Self {
        Self(value)
    }

    /// The value.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// A leaf at `level`: a Page at level 3, otherwise a Block. `oa` is in bytes; its bits below the
    /// leaf's size are dropped.
    #[must_use]
    pub const fn leaf(granule: Granule, level: Level, oa: u64, attributes: Attributes) -> Self {
        Layout::new(granule, level).leaf(oa, attributes)
    }

    /// The same of stage 2.
    #[must_use]
    pub const fn stage2_leaf(granule: Granule, level: Level, oa: u64, attributes: Attributes) -> Self {
        let stage1 = Self::leaf(granule, level, oa, attributes);
        Self(stage1.0 & !attributes.bits() | attributes.stage2_bits())
    }

    /// A Table descriptor for the table at `address` (bytes, aligned to the granule), with no restrictions
    /// on what lies below.
    #[must_use]
    pub const fn table(address: u64) -> Self {
        // With 48-bit addresses every level of every granule has them in the same place.
        Layout::new(Granule::K4, Level::L2).table(address)
    }

    /// What it is at `level`. A Block is only recognised where [`Level::allows_block`] without LPA2 has one.
    #[must_use]
    pub const fn kind(self, granule: Granule, level: Level) -> DescriptorKind {
        Layout::new(granule, level).kind(self)
    }

    /// Bit 0.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }

    /// Output address in bytes, of a leaf at `level` or, for a table, of the next table.
    #[must_use]
    pub const fn oa(self, granule: Granule, level: Level) -> u64 {
        Layout::new(granule, level).oa(self)
    }

    /// Attributes and permissions of a leaf; meaningless for a table.
    #[must_use]
    pub const fn attributes(self) -> Attributes {
        Attributes {
            attr_index: ((self.0 & ATTR_MASK) >> ATTR_SHIFT) as u8,
            shareability: match (self.0 & SH_MASK) >> SH_SHIFT {
                0 => Shareability::Non,
                // 0b01 is reserved and read as Outer, its nearest neighbour.
                1 | 2 => Shareability::Outer,
                _ => Shareability::Inner,
            },
            writable: self.0 & AP_RO == 0,
            el0: self.0 & AP_EL0 != 0,
            el1_execute: self.0 & PXN == 0,
            el0_execute: self.0 & UXN == 0,
            access_flag: self.0 & AF != 0,
            not_global: self.0 & NG != 0,
            dbm: self.0 & DBM != 0,
            contiguous: self.0 & CONTIGUOUS != 0,
        }
    }

    /// The Access flag.
    #[must_use]
    pub const fn af(self) -> bool {
        self.0 & AF != 0
    }

    /// The same descriptor with another Access flag.
    #[must_use]
    pub const fn with_af(self, af: bool) -> Self {
        if af { Self(self.0 | AF) } else { Self(self.0 & !AF) }
    }

    /// The same leaf, writable or read-only (`AP[2]`).
    #[must_use]
    pub const fn with_write(self, writable: bool) -> Self {
        if writable { Self(self.0 & !AP_RO) } else { Self(self.0 | AP_RO) }
    }

    /// The same leaf of stage 2, with the permission to write or without it (`S2AP[1]`).
    #[must_use]
    pub const fn with_stage2_write(self, writable: bool) -> Self {
        if writable { Self(self.0 | S2AP_WRITE) } else { Self(self.0 & !S2AP_WRITE) }
    }

    /// Of a leaf of stage 2: whether it permits to write.
    #[must_use]
    pub const fn has_stage2_write(self) -> bool {
        self.0 & S2AP_WRITE != 0
    }

    /// SH, both bits: 0b01 is reserved.
    #[must_use]
    pub const fn sh(self) -> u8 {
        (self.bits(FIELD_SH)) as u8
    }

    /// NS of a leaf: the other of two OA spaces. RES0 in Non-secure state.
    #[must_use]
    pub const fn ns(self) -> bool {
        self.0 & NS != 0
    }

    /// The value of one field.
    #[must_use]
    pub const fn bits(self, field: Field) -> u64 {
        (self.0 & field.mask()) >> field.low
    }

    /// The fields of a descriptor of this kind, from the lowest; none of an invalid one.
    pub fn fields(kind: DescriptorKind, granule: Granule, level: Level) -> impl Iterator<Item = Field> {
        Layout::new(granule, level).fields(kind)
    }

    /// nT of a Block. Nothing else has one (I_PJZBK): in a Page the same bit is part of the OA.
    #[must_use]
    pub const fn nt(self) -> bool {
        self.0 & NT != 0
    }

    /// The same Block with another nT.
    #[must_use]
    pub const fn with_nt(self, nt: bool) -> Self {
        if nt { Self(self.0 | NT) } else { Self(self.0 & !NT) }
    }
}

/// A field of a descriptor: its name and its highest and lowest bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    /// Its name in the Arm ARM.
    pub name: &'static str,
    /// Its highest bit.
    pub high: u8,
    /// Its lowest bit.
    pub low: u8,
}

impl Field {
    pub(crate) const fn new(name: &'static str, high: u8, low: u8) -> Self {
        Self { name, high, low }
    }

    pub(crate) const fn mask(self) -> u64 {
        (u64::MAX >> (63 - self.high)) & (u64::MAX << self.low)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self { name, high, low } if high == low => write!(f, "{name}, bit {high}"),
            Self { name, high, low } => write!(f, "{name}, bits {high} to {low}"),
        }
    }
}

pub(crate) const FIELD_ATTR_INDEX: Field = Field::new("AttrIndx", 4, 2);
pub(crate) const FIELD_CONTIGUOUS: Field = Field::new("Contiguous", 52, 52);
pub(crate) const FIELD_SH: Field = Field::new("SH", 9, 8);

/// All but the OA of a Block; those of a Page from the second on.
pub(crate) const BLOCK_FIELDS: &[Field] = &[
    Field::new("nT", 16, 16),
    FIELD_ATTR_INDEX,
    Field::new("NS", 5, 5),
    Field::new("AP[1]", 6, 6),
    Field::new("AP[2]", 7, 7),
    FIELD_SH,
    Field::new("AF", 10, 10),
    Field::new("nG", 11, 11),
    Field::new("GP", 50, 50),
    Field::new("DBM", 51, 51),
    FIELD_CONTIGUOUS,
    Field::new("PXN", 53, 53),
    Field::new("UXN", 54, 54),
    Field::new("software", 58, 55),
    Field::new("PBHA", 62, 59),
    Field::new("software", 63, 63),
];

/// All but the address of a Table.
pub(crate) const TABLE_FIELDS: &[Field] = &[
    Field::new("AF", 10, 10),
    Field::new("PXNTable", 59, 59),
    Field::new("UXNTable", 60, 60),
    Field::new("APTable", 62, 61),
    Field::new("NSTable", 63, 63),
];

/// Which of two descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The one that stands in the table.
    Old,
    /// The one that is to stand there.
    New,
}

/// Why a value is no descriptor of its level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadDescriptor {
    /// Which descriptor.
    pub side: Side,
    /// The field that is wrong.
    pub field: Field,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// The granule has no such level.
    NoLevel {
        /// The granule.
        granule: Granule,
        /// The level.
        level: Level,
    },
    /// A type of descriptor that is not there at this level; hardware treats it as invalid.
    Reserved {
        /// The granule.
        granule: Granule,
        /// The level.
        level: Level,
    },
    /// An address that is not aligned to the size of what it names.
    Misaligned {
        /// The size.
        size: Bytes,
    },
    /// Not 0 in a field that is RES0.
    Res0 {
        /// Why it is.
        why: &'static str,
    },
    /// A reserved value.
    ReservedValue,
    /// MAIR holds an UNPREDICTABLE encoding for this index.
    Mair {
        /// The index.
        attr_index: u8,
    },
}

impl fmt::Display for BadDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Old => "old",
            Side::New => "new",
        };
        match self.problem {
            Problem::NoLevel { granule, level } => {
                write!(f, "the {granule} granule has no level {}", level.number())
            }
            Problem::Reserved { granule, level } => write!(
                f,
                "{side} descriptor: {}: 0b01 is reserved at level {} of the {granule} granule, which has no blocks \
                 there; hardware treats it as invalid (R_RHSKG)",
                self.field,
                level.number()
            ),
            Problem::Misaligned { size } => {
                write!(f, "{side} descriptor: {}: not 0, so not aligned to {size}", self.field)
            }
            Problem::Res0 { why } => write!(f, "{side} descriptor: {}: not 0; {why}", self.field),
            Problem::ReservedValue => write!(f, "{side} descriptor: {}: 0b01 is reserved (R_ZWYSH)", self.field),
            Problem::Mair { attr_index } => {
                write!(f, "{side} descriptor: {}: MAIR's Attr{attr_index} has no defined encoding", self.field)
            }
        }
    }
}

impl core::error::Error for BadDescriptor {}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Descriptor({:#018x})", self.0)
    }
}

/// How many descriptors form a Contiguous group, if the granule has groups at this level (DDI 0487 D8.7.1).
#[must_use]
pub const fn contiguous_group(granule: Granule, level: Level) -> Option<usize> {
    match (granule, level.number()) {
        (Granule::K4, 1..=3) => Some(16),
        (Granule::K16, 2) | (Granule::K64, 2 | 3) => Some(32),
        (Granule::K16, 3) => Some(128),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attributes() -> impl Strategy<Value = Attributes> {
        let shareability = prop_oneof![Just(Shareability::Non), Just(Shareability::Outer), Just(Shareability::Inner)];
        (0u8..8, shareability, any::<[bool; 8]>()).prop_map(
            |(attr_index, shareability, [w, e0, x1, x0, af, ng, dbm, c])| Attributes {
                attr_index,
                shareability,
                writable: w,
                el0: e0,
                el1_execute: x1,
                el0_execute: x0,
                access_flag: af,
                not_global: ng,
                dbm,
                contiguous: c,
            },
        )
    }

    /// Granule and level of every leaf.
    fn places() -> impl Iterator<Item = (Granule, Level)> {
        Granule::ALL.into_iter().flat_map(|granule| {
            let levels = [Level::L1, Level::L2, Level::L3].into_iter();
            levels.filter(move |l| *l == Level::L3 || l.allows_block(granule, false)).map(move |l| (granule, l))
        })
    }

    proptest! {
        #[test]
        fn a_leaf_gives_back_what_it_was_made_of(attributes in attributes(), oa: u64) {
            for (granule, level) in places() {
                let leaf = Descriptor::leaf(granule, level, oa, attributes);
                prop_assert!(leaf.is_valid());
                let kind = if level == Level::L3 { DescriptorKind::Page } else { DescriptorKind::Block };
                prop_assert_eq!(leaf.kind(granule, level), kind);
                prop_assert_eq!(leaf.attributes(), attributes);
                prop_assert_eq!(leaf.af(), attributes.access_flag);
                prop_assert!(level == Level::L3 || !leaf.nt());
                prop_assert_eq!(leaf.oa(granule, level), oa & ((1 << 48) - 1) & !(level.size(granule) - 1));
            }
        }

        #[test]
        fn a_table_gives_back_its_address(address: u64) {
            for granule in Granule::ALL {
                let address = address & ((1 << 48) - 1) & !(granule.page_size() - 1);
                let table = Descriptor::table(address);
                for level in [Level::L0, Level::L1, Level::L2] {
                    prop_assert_eq!(table.kind(granule, level), DescriptorKind::Table);
                    prop_assert_eq!(table.oa(granule, level), address);
                }
            }
        }

        #[test]
        fn setting_one_bit_changes_no_other(raw: u64) {
            let descriptor = Descriptor::from_raw(raw);
            prop_assert_eq!(descriptor.raw(), raw);
            for value in [false, true] {
                let (af, nt) = (descriptor.with_af(value), descriptor.with_nt(value));
                prop_assert_eq!((af.af(), nt.nt()), (value, value));
                prop_assert_eq!(af.with_af(descriptor.af()), descriptor);
                prop_assert_eq!(nt.with_nt(descriptor.nt()), descriptor);
                prop_assert_eq!((af.raw() ^ raw) & !AF, 0);
                prop_assert_eq!((nt.raw() ^ raw) & !NT, 0);
            }
        }

        /// Whatever stands in memory has a kind, and only a valid descriptor has one that maps or points.
        #[test]
        fn every_value_has_a_kind(raw: u64) {
            for granule in Granule::ALL {
                for level in (-1..=3).filter_map(Level::new) {
                    let descriptor = Descriptor::from_raw(raw);
                    let valid = descriptor.kind(granule, level) != DescriptorKind::Invalid;
                    prop_assert!(!valid || descriptor.is_valid());
                }
            }
        }
    }

    /// The values of DDI 0487 figures D8-13 and D8-15, by hand.
    #[test]
    fn known_values() {
        let leaf = |level, attributes| Descriptor::leaf(Granule::K4, level, 0x4020_0000, attributes).raw();
        assert_eq!(leaf(Level::L2, Attributes::NORMAL_RW), 0x0060_0000_4020_0701);
        assert_eq!(leaf(Level::L3, Attributes::NORMAL_RW), 0x0060_0000_4020_0703);
        assert_eq!(leaf(Level::L3, Attributes::NORMAL_RO), 0x0060_0000_4020_0783);
        assert_eq!(leaf(Level::L3, Attributes::NORMAL_RX), 0x0040_0000_4020_0783);
        assert_eq!(Descriptor::from_raw(leaf(Level::L2, Attributes::NORMAL_RW)).with_nt(true).raw() & NT, 1 << 16);
        // Figure D8-16: MemAttr 0b1111, S2AP 0b11, SH 0b11, AF, XN 0b10.
        let stage2 = |attributes| Descriptor::stage2_leaf(Granule::K4, Level::L2, 0x4020_0000, attributes).raw();
        assert_eq!(stage2(Attributes::NORMAL_RW), 0x0040_0000_4020_07fd);
        assert_eq!(stage2(Attributes::NORMAL_RX), 0x0000_0000_4020_077d);
        let device = Attributes { attr_index: memory::DEVICE_NGNRE, ..Attributes::NORMAL_RW };
        assert_eq!(stage2(device), 0x0040_0000_4020_07c5);
        assert_eq!(Descriptor::INVALID.kind(Granule::K4, Level::L2), DescriptorKind::Invalid);
        // A block encoding where there are no blocks is reserved, and reserved is invalid (R_RHSKG).
        assert_eq!(Descriptor::from_raw(VALID).kind(Granule::K4, Level::L3), DescriptorKind::Invalid);
        assert_eq!(Descriptor::from_raw(VALID).kind(Granule::K16, Level::L1), DescriptorKind::Invalid);
    }

    #[test]
    fn what_is_no_descriptor_is_refused_by_its_field() {
        let rw = Descriptor::leaf(Granule::K4, Level::L2, 0x4020_0000, Attributes::NORMAL_RW).raw();
        let check = |raw, granule, level, mair| {
            let checked = Layout::new(granule, level).check(Descriptor::from_raw(raw), Side::New, mair);
            checked.map_err(|error| error.field.name)
        };
        let at_l2 = |raw| check(raw, Granule::K4, Level::L2, None).map(Descriptor::raw);
        for good in [rw, rw | NT, 0, rw & !VALID | 0x1000, 0x4010_0003] {
            assert_eq!(at_l2(good), Ok(good), "{good:#x}");
        }
        assert_eq!(at_l2(rw | 0x1000), Err("OA"));
        assert_eq!(at_l2(rw | 1 << 20), Err("OA"));
        assert_eq!(at_l2(rw | 1 << 48), Err("OA"));
        assert_eq!(at_l2(rw & !SH_MASK | 1 << SH_SHIFT), Err("SH"));
        assert_eq!(check(0x4010_1003, Granule::K16, Level::L2, None), Err("next-level table address"));
        assert_eq!(check(rw, Granule::K4, Level::L3, None), Err("descriptor type"));
        assert_eq!(check(rw, Granule::K16, Level::L1, None), Err("descriptor type"));
        assert_eq!(check(rw, Granule::K64, Level::L0, None), Err("level"));
        assert_eq!(check(rw, Granule::K4, Level::L2, Some(0x02)), Err("AttrIndx"));
        // Device memory has no Shareability of its own, so that a reserved value does not count.
        let device = rw & !SH_MASK | 1 << SH_SHIFT;
        assert!(check(device, Granule::K4, Level::L2, Some(0x00)).is_ok());
    }

    #[test]
    fn contiguous_groups_fill_their_table_evenly() {
        for (granule, level) in places() {
            let group = contiguous_group(granule, level).expect("every leaf has groups");
            assert_eq!(granule.entries() % group, 0);
        }
        assert_eq!(contiguous_group(Granule::K4, Level::L0), None);
        assert_eq!(contiguous_group(Granule::K64, Level::L1), None);
    }
}
