//! Where a descriptor holds what: by granule, level, and the width of output addresses (DDI 0487 D8.3.1).
//!
//! With 48-bit addresses every OA stands at its own bits. The upper four bits of a 52-bit one are put where there is
//! room: with the 4K and 16K granules (FEAT_LPA2, TCR_ELx.DS) bits 49 and 48 at their own place and bits 51 and 50 in
//! place of SH, which is the same for all of a table then (TCR_ELx.SH0, SH1; I_HRNGF, I_GJPJW); with 64K (FEAT_LPA)
//! in bits 15 to 12. The same two features bring the largest blocks, and TCR_ELx.DS level -1. The largest blocks have
//! no Contiguous bit (R_HMQXG).
//!
//! ```
//! use vmsa::{Granule, Level, descriptor::Attributes, layout::{Layout, Width}};
//!
//! let page = Layout { width: Width::Bits52, ..Layout::new(Granule::K4, Level::L3) };
//! let leaf = page.leaf(0x000c_0000_4020_1000, Attributes::NORMAL_RO);
//! assert_eq!(leaf.raw(), 0x0060_0000_4020_1783);
//! assert_eq!(page.oa(leaf), 0x000c_0000_4020_1000);
//! // With 48-bit addresses bits 9 and 8 are SH.
//! assert_eq!(Layout::new(Granule::K4, Level::L3).oa(leaf), 0x4020_1000);
//! ```

use core::fmt;

use crate::{
    descriptor::{
        ATTR_MASK, ATTR_SHIFT, Attributes, BLOCK_FIELDS, BadDescriptor, CONTIGUOUS, Descriptor, DescriptorKind,
        FIELD_ATTR_INDEX, FIELD_CONTIGUOUS, FIELD_SH, Field, NOT_BLOCK, NS_TABLE, NT, Problem, SH_MASK, Shareability,
        Side, TABLE_FIELDS, VALID, contiguous_group,
    },
    geometry::{Bytes, Granule, Level},
    memory::Memory,
};

/// Bits of an output address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Width {
    /// 48.
    Bits48,
    /// 52: TCR_ELx.DS is 1 (FEAT_LPA2) or, with the 64K granule, the CPU has FEAT_LPA.
    Bits52,
}

impl Width {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Bits48, Self::Bits52];

    /// Bits of address.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Bits48 => 48,
            Self::Bits52 => 52,
        }
    }
}

/// The format of a set of tables: what TCR_ELx and the CPU say of all descriptors in them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Format {
    /// Granule of the tables.
    pub granule: Granule,
    /// Bits of an output address.
    pub width: Width,
}

impl Format {
    /// With 48-bit output addresses.
    #[must_use]
    pub const fn new(granule: Granule) -> Self {
        Self { granule, width: Width::Bits48 }
    }

    /// What says in an id, behind the granule, that output addresses have 52 bits.
    pub(crate) const WIDE: &str = "lpa2";

    /// The format of the descriptors at `level`.
    #[must_use]
    pub const fn at(self, level: Level) -> Layout {
        Layout { granule: self.granule, level, width: self.width }
    }

    /// log2 of the unit in bytes in which a TLBI by range counts its BaseADDR: that of a page, or with TCR_ELx.DS 64 KiB,
    /// so that its 37 bits reach all of an address.
    #[must_use]
    pub const fn base_shift(self) -> u32 {
        match self.width {
            Width::Bits48 => self.granule.page_shift(),
            Width::Bits52 => Granule::K64.page_shift(),
        }
    }
}

/// As in an id: `4k`, `4k-lpa2`.
impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.width {
            Width::Bits48 => write!(f, "{}", self.granule),
            Width::Bits52 => write!(f, "{}-{}", self.granule, Self::WIDE),
        }
    }
}

/// The formats of the descriptors at one level.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Layout {
    /// Granule of the tables.
    pub granule: Granule,
    /// Level at which the descriptor stands.
    pub level: Level,
    /// Bits of an output address.
    pub width: Width,
}

/// Bits of the OA that a descriptor holds elsewhere: the lowest and how many, and where the lowest of them is.
struct Moved {
    from: u32,
    count: u32,
    to: u32,
}

impl Layout {
    /// With 48-bit output addresses.
    #[must_use]
    pub const fn new(granule: Granule, level: Level) -> Self {
        Self { granule, level, width: Width::Bits48 }
    }

    /// Every layout whose level exists.
    pub fn all() -> impl Iterator<Item = Self> {
        Width::ALL.into_iter().flat_map(|width| {
            Granule::ALL.into_iter().flat_map(move |granule| {
                let levels = (-1..=3).filter_map(Level::new);
                levels.map(move |level| Self { granule, level, width }).filter(|layout| layout.exists())
            })
        })
    }

    const fn is_wide(self) -> bool {
        matches!(self.width, Width::Bits52)
    }

    const fn is_page(self) -> bool {
        self.level.number() == 3
    }

    /// Whether tables of the granule have this level: with TCR_ELx.DS those of 4K begin one level earlier.
    #[must_use]
    pub const fn exists(self) -> bool {
        let earlier = self.is_wide() && matches!(self.granule, Granule::K4) && self.level.number() == -1;
        self.level.exists(self.granule) || earlier
    }

    /// Whether a leaf, Block or Page, may stand here.
    #[must_use]
    pub const fn allows_leaf(self) -> bool {
        self.is_page() || self.level.allows_block(self.granule, self.is_wide())
    }

    /// Whether Shareability is the descriptor's, and not TCR_ELx's.
    #[must_use]
    pub const fn has_sh(self) -> bool {
        !self.is_wide() || matches!(self.granule, Granule::K64)
    }

    /// How many descriptors form a Contiguous group; where there are no groups, the bit is RES0 and counts as 0
    /// (R_HMQXG).
    #[must_use]
    pub const fn group(self) -> Option<usize> {
        contiguous_group(self.granule, self.level)
    }

    const fn moved(self) -> Option<Moved> {
        match (self.width, self.granule) {
            (Width::Bits48, _) => None,
            (Width::Bits52, Granule::K4 | Granule::K16) => Some(Moved { from: 50, count: 2, to: 8 }),
            (Width::Bits52, Granule::K64) => Some(Moved { from: 48, count: 4, to: 12 }),
        }
    }

    /// The bits of the OA, from bit `low` up, that stand in their own places.
    const fn in_place(self, low: u32) -> u64 {
        let high = match self.moved() {
            Some(moved) => moved.from,
            None => 48,
        };
        (1u64 << high).saturating_sub(1 << low)
    }

    /// log2 of the alignment of the address that a descriptor of this kind holds.
    const fn alignment(self, kind: DescriptorKind) -> u32 {
        match kind {
            DescriptorKind::Table => self.granule.page_shift(),
            _ => self.level.shift(self.granule),
        }
    }

    /// `address` as a descriptor holds it; bits that it cannot hold are dropped.
    const fn pack(self, address: u64, low: u32) -> u64 {
        let packed = address & self.in_place(low);
        match self.moved() {
            Some(Moved { from, count, to }) => packed | ((address >> from) & ((1 << count) - 1)) << to,
            None => packed,
        }
    }

    const fn unpack(self, raw: u64, low: u32) -> u64 {
        let address = raw & self.in_place(low);
        match self.moved() {
            Some(Moved { from, count, to }) => address | ((raw >> to) & ((1 << count) - 1)) << from,
            None => address,
        }
    }

    /// What `descriptor` is here.
    #[must_use]
    pub const fn kind(self, descriptor: Descriptor) -> DescriptorKind {
        let raw = descriptor.raw();
        match (raw & VALID != 0, raw & NOT_BLOCK != 0) {
            (true, true) if self.is_page() => DescriptorKind::Page,
            (true, true) => DescriptorKind::Table,
            (true, false) if !self.is_page() && self.allows_leaf() => DescriptorKind::Block,
            _ => DescriptorKind::Invalid,
        }
    }

    /// A leaf: a Page at level 3, otherwise a Block. `oa` is in bytes; its bits below the leaf's size are dropped, and
    /// those above the [width](Self::width). Of the attributes, what the descriptor has no field for is dropped too.
    #[must_use]
    pub const fn leaf(self, oa: u64, attributes: Attributes) -> Descriptor {
        let mut fields = attributes.bits();
        if !self.has_sh() {
            fields &= !SH_MASK;
        }
        if self.group().is_none() {
            fields &= !CONTIGUOUS;
        }
        let kind = if self.is_page() { VALID | NOT_BLOCK } else { VALID };
        Descriptor::from_raw(self.pack(oa, self.level.shift(self.granule)) | fields | kind)
    }

    /// A Table descriptor for the table at `address` (bytes, aligned to the granule), with no restrictions on what
    /// lies below.
    #[must_use]
    pub const fn table(self, address: u64) -> Descriptor {
        Descriptor::from_raw(self.pack(address, self.granule.page_shift()) | VALID | NOT_BLOCK)
    }

    /// The leaf one level below that maps part `n` of what `block` maps here, from 0, and is like it in all else: of either
    /// stage, since no field is looked at but the address. It is in no Contiguous group, whatever `block` is in, and has nT
    /// clear. `None` if `block` is no Block, has no such part, or the level below has no leaves.
    #[must_use]
    pub fn part(self, block: Descriptor, n: usize) -> Option<Descriptor> {
        let level = self.level.next()?;
        let below = Self { level, ..self };
        if self.kind(block) != DescriptorKind::Block || n >= self.granule.entries() || !below.allows_leaf() {
            return None;
        }
        let low = self.level.shift(self.granule);
        let oa = self.unpack(block.raw(), low) + n as u64 * level.size(self.granule);
        let fields = block.raw() & !(self.pack(u64::MAX, low) | NT | CONTIGUOUS);
        let kind = if below.is_page() { NOT_BLOCK } else { 0 };
        Some(Descriptor::from_raw(fields | below.pack(oa, level.shift(self.granule)) | kind))
    }

    /// Output address in bytes, of a leaf or, for a table, of the next table.
    #[must_use]
    pub const fn oa(self, descriptor: Descriptor) -> u64 {
        self.unpack(descriptor.raw(), self.alignment(self.kind(descriptor)))
    }

    /// Where the next table is: its address and its address space.
    #[must_use]
    pub const fn next_table(self, descriptor: Descriptor) -> (u64, bool) {
        (self.unpack(descriptor.raw(), self.granule.page_shift()), descriptor.raw() & NS_TABLE != 0)
    }

    /// Attributes and permissions of a leaf; meaningless for a table. Where the Shareability is TCR_ELx's they say
    /// Inner Shareable.
    #[must_use]
    pub const fn attributes(self, descriptor: Descriptor) -> Attributes {
        let mut attributes = descriptor.attributes();
        if !self.has_sh() {
            attributes.shareability = Shareability::Inner;
        }
        attributes.contiguous = attributes.contiguous && self.group().is_some();
        attributes
    }

    /// SH of a leaf, both bits, if it has the field.
    #[must_use]
    pub const fn sh(self, descriptor: Descriptor) -> Option<u8> {
        if self.has_sh() { Some(descriptor.sh()) } else { None }
    }

    /// The fields of a descriptor of this kind, first those of the address; none of an invalid one.
    pub fn fields(self, kind: DescriptorKind) -> impl Iterator<Item = Field> {
        let low = self.alignment(kind);
        let table = kind == DescriptorKind::Table;
        let name = if table { "next-level table address" } else { "OA" };
        let upper = match (self.moved(), table) {
            (None, _) => None,
            (Some(Moved { from: 50, .. }), false) => Some(Field::new("OA[51:50]", 9, 8)),
            (Some(Moved { from: 50, .. }), true) => Some(Field::new("next-level table address[51:50]", 9, 8)),
            (Some(_), false) => Some(Field::new("OA[51:48]", 15, 12)),
            (Some(_), true) => Some(Field::new("next-level table address[51:48]", 15, 12)),
        };
        let place = self.in_place(low).checked_ilog2().map(|high| Field::new(name, high as u8, low as u8));
        let address = [place, upper];
        let (address, rest) = match kind {
            DescriptorKind::Invalid => ([None, None], [].as_slice()),
            DescriptorKind::Table => (address, TABLE_FIELDS),
            DescriptorKind::Block => (address, BLOCK_FIELDS),
            // In a Page there is no nT.
            DescriptorKind::Page => (address, &BLOCK_FIELDS[1..]),
        };
        let there = move |field: &Field| match *field {
            FIELD_SH => self.has_sh(),
            FIELD_CONTIGUOUS => self.group().is_some(),
            _ => true,
        };
        address.into_iter().flatten().chain(rest.iter().copied().filter(there))
    }

    /// `descriptor`, if it is one that may stand here; `side` is for the message. `mair` is MAIR_EL1, if known.
    ///
    /// # Errors
    /// The first field that is reserved, misaligned or not 0 where it must be. What is invalid has no fields.
    pub fn check(self, descriptor: Descriptor, side: Side, mair: Option<u64>) -> Result<Descriptor, BadDescriptor> {
        let Self { granule, level, .. } = self;
        let raw = descriptor.raw();
        let bad = |field, problem| Err(BadDescriptor { side, field, problem });
        if !self.exists() {
            return bad(Field::new("level", 1, 0), Problem::NoLevel { granule, level });
        }
        let kind = self.kind(descriptor);
        if kind == DescriptorKind::Invalid {
            return if descriptor.is_valid() {
                bad(Field::new("descriptor type", 1, 0), Problem::Reserved { granule, level })
            } else {
                Ok(descriptor)
            };
        }
        // Between the lowest bit of a page's address and the lowest of this one there is nothing but nT and what has
        // been moved there.
        let low = self.alignment(kind);
        let nt = if kind == DescriptorKind::Block { NT } else { 0 };
        let moved = self.pack(u64::MAX, low) & !self.in_place(low);
        if raw & ((1 << low) - (1 << 12)) & !nt & !moved != 0 {
            let name = if kind == DescriptorKind::Table { "next-level table address" } else { "OA" };
            let lowest = if moved & 1 << 12 != 0 { 16 } else { 12 };
            let field = Field::new(name, (low - 1) as u8, lowest);
            return bad(field, Problem::Misaligned { size: Bytes(1 << low) });
        }
        let upper = Field::new("OA", 49, 48);
        if raw & upper.mask() & !self.in_place(low) != 0 {
            return bad(
                upper,
                Problem::Res0 {
                    why: if self.is_wide() {
                        "bits 51 to 48 of an address are in bits 15 to 12 here"
                    } else {
                        "addresses have 48 bits here"
                    },
                },
            );
        }
        if kind == DescriptorKind::Table {
            return Ok(descriptor);
        }
        if raw & CONTIGUOUS != 0 && self.group().is_none() {
            return bad(FIELD_CONTIGUOUS, Problem::Res0 { why: "the largest blocks form no groups (R_HMQXG)" });
        }
        let attr_index = ((raw & ATTR_MASK) >> ATTR_SHIFT) as u8;
        let memory = match mair.map(|mair| Memory::from_mair(mair, attr_index)) {
            Some(None) => return bad(FIELD_ATTR_INDEX, Problem::Mair { attr_index }),
            Some(memory) => memory,
            None => None,
        };
        if self.sh(descriptor) == Some(0b01) && memory.is_none_or(Memory::has_shareability) {
            return bad(FIELD_SH, Problem::ReservedValue);
        }
        Ok(descriptor)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::descriptor::NT;

    fn leaves() -> impl Iterator<Item = Layout> {
        Layout::all().filter(|layout| layout.allows_leaf())
    }

    fn kinds(layout: Layout) -> &'static [DescriptorKind] {
        match (layout.is_page(), layout.allows_leaf()) {
            (true, _) => &[DescriptorKind::Page],
            (false, true) => &[DescriptorKind::Block, DescriptorKind::Table],
            (false, false) => &[DescriptorKind::Table],
        }
    }

    proptest! {
        /// Every address of the width comes back, from leaves and from tables, whatever else stands in them.
        #[test]
        fn addresses_round_trip(address: u64, other: u64) {
            for layout in Layout::all() {
                let (granule, level) = (layout.granule, layout.level);
                let fits = |align: u64| address & ((1 << layout.width.bits()) - 1) & !(align - 1);
                let table = layout.table(address);
                prop_assert_eq!(layout.kind(table) == DescriptorKind::Table, level != Level::L3);
                if level != Level::L3 {
                    prop_assert_eq!(layout.oa(table), fits(granule.page_size()), "{:?}", layout);
                    prop_assert_eq!(layout.next_table(table), (fits(granule.page_size()), false));
                    prop_assert!(layout.check(table, Side::New, None).is_ok(), "{:?} {:?}", layout, table);
                }
                if layout.allows_leaf() {
                    let attributes = Descriptor::from_raw(other).attributes();
                    let leaf = layout.leaf(address, attributes);
                    let seen = layout.attributes(leaf);
                    prop_assert_eq!(layout.oa(leaf), fits(level.size(granule)), "{:?}", layout);
                    prop_assert_eq!(layout.leaf(layout.oa(leaf), seen), leaf, "{:?}", layout);
                    prop_assert!(layout.check(leaf, Side::New, None).is_ok(), "{:?} {:?}", layout, leaf);
                    // All attributes that it has a field for.
                    let mut expected = attributes;
                    if !layout.has_sh() {
                        expected.shareability = Shareability::Inner;
                    }
                    expected.contiguous &= layout.group().is_some();
                    prop_assert_eq!(seen, expected, "{:?}", layout);
                }
            }
        }

        /// What is refused is refused by the name of a field in which a bit is set, but for level and type.
        #[test]
        fn a_checked_descriptor_is_made_of_its_fields(raw: u64) {
            for layout in Layout::all() {
                let descriptor = Descriptor::from_raw(raw | 1);
                let kind = layout.kind(descriptor);
                match layout.check(descriptor, Side::New, None) {
                    Ok(_) => {
                        let all = layout.fields(kind).fold(0, |all, field| all | field.mask());
                        let res0 = !all & ((1 << 50) - (1 << 12));
                        prop_assert_eq!(raw & res0, 0, "{:?} {:?}", layout, descriptor);
                        prop_assert!(layout.sh(descriptor) != Some(1) || kind == DescriptorKind::Table);
                    }
                    Err(error) if kind == DescriptorKind::Invalid => {
                        prop_assert_eq!(error.field.name, "descriptor type");
                    }
                    Err(error) => prop_assert_ne!(raw & error.field.mask(), 0, "{:?} {}", layout, error),
                }
            }
        }
    }

    /// No two fields of a descriptor share a bit, and no bit that may be set is in none.
    #[test]
    fn fields_are_apart_and_complete() {
        for layout in Layout::all() {
            for &kind in kinds(layout) {
                let mut all = 0;
                for field in layout.fields(kind) {
                    let mask = field.mask();
                    // nT is below the OA of a Block at any level that has one.
                    assert_eq!(all & mask, 0, "{field} of {kind:?}, {layout:?}");
                    all |= mask;
                    assert_eq!(Descriptor::from_raw(mask).bits(field) << field.low, mask);
                }
                // The address has all bits from its alignment up to the width.
                let address: u32 = layout.fields(kind).take(1 + usize::from(layout.is_wide())).map(bits).sum();
                assert_eq!(address, layout.width.bits() - layout.alignment(kind), "{kind:?}, {layout:?}");
                if kind == DescriptorKind::Page {
                    let free = match (layout.width, layout.granule) {
                        (Width::Bits48, granule) => 3 << 48 | (granule.page_size() - (1 << 12)),
                        (Width::Bits52, Granule::K4) => 0,
                        (Width::Bits52, Granule::K16) => 3 << 12,
                        (Width::Bits52, Granule::K64) => 3 << 48,
                    };
                    assert_eq!(!all & !free, VALID | NOT_BLOCK, "{layout:?}");
                }
            }
            assert_eq!(layout.fields(DescriptorKind::Invalid).count(), 0);
        }
    }

    fn bits(field: Field) -> u32 {
        field.mask().count_ones()
    }

    /// Tables D8-50 and D8-52, by hand: 0xf in the upper four bits of the address.
    #[test]
    fn upper_bits_are_where_the_manual_has_them() {
        let top = |granule, level, low: u64| {
            let layout = Layout { granule, level, width: Width::Bits52 };
            let address = 0x000f_8000_0000_0000 | low;
            let table = (layout.level != Level::L3).then(|| layout.table(address).raw());
            (layout.leaf(address, Attributes::NORMAL_RW).raw(), table)
        };
        let attributes = 0x0060_0000_0000_0401;
        assert_eq!(top(Granule::K4, Level::L3, 0x1000), (attributes | 0x0003_8000_0000_1302, None));
        assert_eq!(
            top(Granule::K4, Level::L0, 0x1000),
            (attributes | 0x0003_8000_0000_0300, Some(0x0003_8000_0000_1303))
        );
        assert_eq!(
            top(Granule::K16, Level::L1, 0x4000),
            (attributes | 0x0003_8000_0000_0300, Some(0x0003_8000_0000_4303))
        );
        // The 64K granule keeps SH.
        assert_eq!(top(Granule::K64, Level::L3, 0x1_0000), (attributes | 0x0000_8000_0001_f302, None));
        assert_eq!(
            top(Granule::K64, Level::L1, 0x1_0000),
            (attributes | 0x0000_8000_0000_f300, Some(0x0000_8000_0001_f003))
        );
    }

    #[test]
    fn levels_and_blocks_come_with_the_width() {
        let levels = |granule, width, wanted: fn(&Layout) -> bool| -> Vec<i8> {
            let all = Layout::all().filter(|l| l.granule == granule && l.width == width).filter(wanted);
            all.map(|layout| layout.level.number()).collect()
        };
        for (granule, narrow, wide, narrow_leaves, wide_leaves) in [
            (Granule::K4, &[0, 1, 2, 3][..], &[-1, 0, 1, 2, 3][..], &[1, 2, 3][..], &[0, 1, 2, 3][..]),
            (Granule::K16, &[0, 1, 2, 3], &[0, 1, 2, 3], &[2, 3], &[1, 2, 3]),
            (Granule::K64, &[1, 2, 3], &[1, 2, 3], &[2, 3], &[1, 2, 3]),
        ] {
            assert_eq!(levels(granule, Width::Bits48, |_| true), narrow);
            assert_eq!(levels(granule, Width::Bits52, |_| true), wide);
            assert_eq!(levels(granule, Width::Bits48, |l| l.allows_leaf()), narrow_leaves);
            assert_eq!(levels(granule, Width::Bits52, |l| l.allows_leaf()), wide_leaves);
        }
        for layout in leaves() {
            // Every block has nT, and room for it below its address.
            assert!(layout.is_page() || layout.level.shift(layout.granule) > 16);
            // Only the blocks that came with the width form no groups.
            let new = !Layout { width: Width::Bits48, ..layout }.allows_leaf();
            assert_eq!(layout.group().is_none(), new, "{layout:?}");
        }
    }

    #[test]
    fn what_is_no_descriptor_is_refused_by_its_field() {
        let check = |granule, level, width, raw| {
            let layout = Layout { granule, level, width };
            layout.check(Descriptor::from_raw(raw), Side::New, None).map_err(|error| error.field.name).map(|_| ())
        };
        let rw = 0x0060_0000_0000_0401;
        use Width::{Bits48, Bits52};
        for (granule, level, width, raw, expected) in [
            (Granule::K4, Level::L0, Bits48, rw | 3 << 8, Err("descriptor type")),
            (Granule::K4, Level::L0, Bits52, rw | 1 << 8, Ok(())),
            (Granule::K4, Level::L0, Bits52, rw | 1 << 38, Err("OA")),
            (Granule::K4, Level::L0, Bits52, rw | NT, Ok(())),
            (Granule::K4, Level::L0, Bits52, rw | CONTIGUOUS, Err("Contiguous")),
            (Granule::K4, Level::L1, Bits52, rw | CONTIGUOUS, Ok(())),
            (Granule::K16, Level::L1, Bits52, rw | CONTIGUOUS, Err("Contiguous")),
            (Granule::K64, Level::L1, Bits52, rw | CONTIGUOUS, Err("Contiguous")),
            (Granule::K4, Level::L3, Bits48, rw | 1 << 49 | 2, Err("OA")),
            (Granule::K4, Level::L3, Bits52, rw | 1 << 49 | 2, Ok(())),
            (Granule::K16, Level::L3, Bits52, rw | 1 << 13 | 2, Err("OA")),
            (Granule::K64, Level::L3, Bits48, rw | 1 << 13 | 2, Err("OA")),
            (Granule::K64, Level::L3, Bits52, rw | 1 << 13 | 2, Ok(())),
            (Granule::K64, Level::L3, Bits52, rw | 1 << 48 | 2, Err("OA")),
            (Granule::K64, Level::L2, Bits52, rw | 1 << 17, Err("OA")),
            (Granule::K64, Level::L2, Bits52, rw | 1 << 15, Ok(())),
            (Granule::K64, Level::L3, Bits52, rw | 1 << 8 | 2, Err("SH")),
            (Granule::K16, Level::L2, Bits52, 0x4010_1003, Err("next-level table address")),
            (Granule::K64, Level::L2, Bits52, 0x4010_1003, Ok(())),
        ] {
            assert_eq!(check(granule, level, width, raw), expected, "{granule} {level} {width:?} {raw:#x}");
        }
        let before = Level::new(-1).expect("a level");
        assert_eq!(check(Granule::K4, before, Bits48, 0x1003), Err("level"));
        assert_eq!(check(Granule::K4, before, Bits52, 0x1003), Ok(()));
        assert_eq!(check(Granule::K4, before, Bits52, 0x1001), Err("descriptor type"));
        assert_eq!(check(Granule::K16, before, Bits52, 0x4003), Err("level"));
    }
}
