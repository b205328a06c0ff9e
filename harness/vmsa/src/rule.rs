//! The rule base: what the change of one descriptor needs, for any two descriptors (DDI 0487 D8.17).
//!
//! A [`Transition`] is two descriptors, and what must be known besides them. It is first reduced to a
//! [`Comparison`]: the set of those facts that any rule asks for. [`RULES`] then says, row by row, what a
//! comparison needs at which BBM level; the strongest need counts, and of equal ones the row that stands first.
//! There is no other place in which a rule is applied: what a family of tests needs, what a sequence gives and what
//! may be seen of it follow from these rows.
//!
//! Sources: the rule named in each row. Arm's executable model agrees for permissions, OA, memory type and the Access
//! flag at the last level (tests/transitions.rs); it knows nothing of block sizes, nT, Contiguous and nG, for which
//! the rules are the only source.
//!
//! ```
//! use vmsa::{BbmLevel, Descriptor, Granule, Level, rule::{Context, Need, Transition}};
//!
//! // A writable 2 MiB block moves: break-before-make, whatever the CPU can do.
//! let context = Context::new(Granule::K4, Level::L2);
//! let (old, new) = (0x0060_0000_4020_0701, 0x0060_0000_4040_0701);
//! let moved = Transition::checked(old, new, context)?;
//! let needed = moved.needs(BbmLevel::L2);
//! assert_eq!((needed.need, needed.rule), (Need::Bbm, "R_WHZWS"));
//!
//! // It becomes a table that maps the same: with FEAT_BBML2 a direct change and a TLBI.
//! let split = Transition { new: Descriptor::table(0x4010_0000), ..moved };
//! assert_eq!(split.needs(BbmLevel::L0).need, Need::Bbm);
//! assert_eq!(split.needs(BbmLevel::L2).need, Need::DirectTlbi);
//!
//! // What is no descriptor is refused, by the name of its field.
//! let error = Transition::checked(old, 0x0060_0000_4020_1701, context).unwrap_err();
//! assert_eq!(error.to_string(), "new descriptor: OA, bits 20 to 12: not 0, so not aligned to 2 MiB");
//! # Ok::<(), vmsa::descriptor::BadDescriptor>(())
//! ```

use core::fmt;

use bitflags::bitflags;

use crate::{
    descriptor::{BadDescriptor, Descriptor, DescriptorKind, Side},
    geometry::{BbmLevel, Granule, Level},
    layout::{Layout, Width},
    memory::Memory,
};

/// The weakest way of making a change that the architecture defines; later ones include earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Need {
    /// No TLB maintenance: nothing can have cached the old descriptor.
    Nothing,
    /// The new descriptor over the old one, then a TLBI. Until it completes either of the two is used.
    Tlbi,
    /// As [`Tlbi`](Self::Tlbi), but until it completes a TLB conflict abort may be raised too.
    DirectTlbi,
    /// Break-before-make, or by way of a Block with nT set.
    NtSequence,
    /// Break-before-make.
    Bbm,
}

impl Need {
    /// Whether it asks for more than the new descriptor over the old one and a TLBI.
    #[must_use]
    pub const fn is_bbm(self) -> bool {
        matches!(self, Self::NtSequence | Self::Bbm)
    }

    /// The need in words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Tlbi => "TLBI",
            Self::DirectTlbi => "TLBI, conflict aborts handled",
            Self::NtSequence => "break-before-make or the nT sequence",
            Self::Bbm => "break-before-make",
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A need and where it comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Needed {
    /// The need.
    pub need: Need,
    /// The rule that says so, by its name in the Arm ARM.
    pub rule: &'static str,
    /// The rule applied to this change, in words.
    pub why: &'static str,
}

pub(crate) const fn needed(need: Need, rule: &'static str, why: &'static str) -> Needed {
    Needed { need, rule, why }
}

/// What hardware writes into descriptors by itself; ID_AA64MMFR1_EL1.HAFDBS says what it can, TCR_ELx.{HA, HD} what
/// it does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum HardwareUpdates {
    /// Nothing.
    Off,
    /// The Access flag.
    AccessFlag,
    /// The Access flag and the dirty state, so that DBM=1 is a permission to write.
    Dirty,
}

impl HardwareUpdates {
    /// All of them, the least first.
    pub const ALL: [Self; 3] = [Self::Off, Self::AccessFlag, Self::Dirty];
}

/// What two descriptors do not tell about the change from one to the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// Granule of the tables.
    pub granule: Granule,
    /// Level at which the descriptor stands.
    pub level: Level,
    /// Bits of an output address, from which it follows where the descriptor holds it.
    pub width: Width,
    /// MAIR_ELx, if it is known. If not, two values of AttrIndx count as two memory types.
    pub mair: Option<u64>,
    /// Whether the memory at both output addresses holds the same, all the time.
    pub contents_equal: bool,
    /// Whether a table maps what the descriptor on the other side maps, in all for which R_WHZWS asks
    /// break-before-make (R_PVTFW).
    pub same_mapping: bool,
    /// What hardware writes into descriptors.
    pub hardware: HardwareUpdates,
    /// Whether the new descriptor is written by a compare-and-swap that expects the old one, so that no update by
    /// hardware is overwritten.
    pub compare_and_swap: bool,
}

impl Context {
    /// The usual: addresses of 48 bits, a table maps what the block maps, other addresses hold other contents, hardware
    /// writes nothing, MAIR is not known.
    #[must_use]
    pub const fn new(granule: Granule, level: Level) -> Self {
        Self {
            granule,
            level,
            width: Width::Bits48,
            mair: None,
            contents_equal: false,
            same_mapping: true,
            hardware: HardwareUpdates::Off,
            compare_and_swap: false,
        }
    }

    /// The format of the descriptors.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        Layout { granule: self.granule, level: self.level, width: self.width }
    }

    /// The memory that a leaf maps, if MAIR is known and its field has a defined encoding.
    #[must_use]
    pub const fn memory(&self, leaf: Descriptor) -> Option<Memory> {
        match self.mair {
            Some(mair) => Memory::from_mair(mair, leaf.attributes().attr_index),
            None => None,
        }
    }
}

bitflags! {
    /// All that a rule asks about a [`Transition`].
    ///
    /// One of the first eight says what kinds of descriptor there are; the others are set only where they matter.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
    pub struct Comparison: u32 {
        /// The descriptor stays the same.
        const SAME = 1 << 0;
        /// The old descriptor gives a Translation fault.
        const FROM_INVALID = 1 << 1;
        /// The old descriptor gives an Access flag fault.
        const FROM_AF0 = 1 << 2;
        /// The new descriptor gives a Translation fault, the old one none.
        const TO_INVALID = 1 << 3;
        /// The new descriptor gives an Access flag fault, the old one none.
        const TO_AF0 = 1 << 4;
        /// One table follows another.
        const TABLES = 1 << 5;
        /// A Block becomes a Table, or a Table a Block.
        const SIZE = 1 << 6;
        /// A Page follows a Page, or a Block a Block.
        const LEAVES = 1 << 7;
        /// A table maps something else than what is on the other side.
        const OTHER_MAPPING = 1 << 8;
        /// The Block of a change of size has nT set.
        const NT = 1 << 9;
        /// Memory type or Cacheability.
        const MEMORY = 1 << 10;
        /// Shareability.
        const SHAREABILITY = 1 << 11;
        /// nG changes from 1 to 0.
        const NG_CLEARED = 1 << 12;
        /// nG changes from 0 to 1.
        const NG_SET = 1 << 13;
        /// The Contiguous bit.
        const CONTIGUOUS = 1 << 14;
        /// Output address.
        const OA = 1 << 15;
        /// With it, the OA space (NS).
        const OA_SPACE = 1 << 16;
        /// With it, the old or the new mapping grants write.
        const WRITABLE = 1 << 17;
        /// With it, the contents differ.
        const CONTENTS = 1 << 18;
    }
}

impl Comparison {
    /// Where there is nothing that a TLBI could remove.
    const NEVER_CACHED: Self = Self::SAME.union(Self::FROM_INVALID).union(Self::FROM_AF0);

    /// Every field of a leaf that a rule of its own asks for.
    const LISTED: Self = Self::MEMORY
        .union(Self::SHAREABILITY)
        .union(Self::NG_CLEARED)
        .union(Self::NG_SET)
        .union(Self::CONTIGUOUS)
        .union(Self::OA);

    /// The facts about `transition`.
    #[must_use]
    pub fn of(transition: &Transition) -> Self {
        use DescriptorKind::{Block, Invalid, Page, Table};
        let Transition { old, new, context } = transition;
        let layout = context.layout();
        let kinds = (layout.kind(*old), layout.kind(*new));
        // Where hardware sets the Access flag, AF=0 keeps nobody out. The old descriptor is then what it says only if
        // a compare-and-swap finds it so.
        let sets_af = context.hardware >= HardwareUpdates::AccessFlag;
        match kinds {
            _ if old == new => Self::SAME,
            (Invalid, _) => Self::FROM_INVALID,
            (Block | Page, _) if !old.af() && (!sets_af || context.compare_and_swap) => Self::FROM_AF0,
            (_, Invalid) => Self::TO_INVALID,
            (_, Block | Page) if !new.af() && !sets_af => Self::TO_AF0,
            // Other restrictions on what is below the same table are permissions.
            (Table, Table) => {
                let other = !context.same_mapping && layout.next_table(*old) != layout.next_table(*new);
                Self::TABLES | Self::OTHER_MAPPING.only_if(other)
            }
            (Block, Table) => Self::size(*old, context),
            (Table, Block) => Self::size(*new, context),
            // No level has both blocks and pages, so this is Page to Page or Block to Block.
            _ => Self::LEAVES | Self::leaves(*old, *new, context),
        }
    }

    fn size(block: Descriptor, context: &Context) -> Self {
        Self::SIZE | Self::OTHER_MAPPING.only_if(!context.same_mapping) | Self::NT.only_if(block.nt())
    }

    fn leaves(old: Descriptor, new: Descriptor, context: &Context) -> Self {
        let layout = context.layout();
        let (a, b) = (layout.attributes(old), layout.attributes(new));
        let (memory, shareability) = match (context.memory(old), context.memory(new)) {
            (Some(a), Some(b)) => (a != b, a.has_shareability() || b.has_shareability()),
            _ => (a.attr_index != b.attr_index, true),
        };
        let space = old.ns() != new.ns();
        let moves = space || layout.oa(old) != layout.oa(new);
        let differences = [
            (memory, Self::MEMORY),
            (shareability && layout.sh(old) != layout.sh(new), Self::SHAREABILITY),
            (a.not_global && !b.not_global, Self::NG_CLEARED),
            (!a.not_global && b.not_global, Self::NG_SET),
            (a.contiguous != b.contiguous, Self::CONTIGUOUS),
            (moves, Self::OA),
            (space, Self::OA_SPACE),
            (moves && (a.writes(context.hardware) || b.writes(context.hardware)), Self::WRITABLE),
            (moves && !context.contents_equal, Self::CONTENTS),
        ];
        differences.into_iter().fold(Self::empty(), |set, (differs, flag)| set | flag.only_if(differs))
    }

    const fn only_if(self, condition: bool) -> Self {
        if condition { self } else { Self::empty() }
    }

    /// What it needs at BBM level `bbm`: the strongest of its [`reasons`](Self::reasons), of equal ones the first.
    #[must_use]
    pub fn needs(self, bbm: BbmLevel) -> Needed {
        let stronger = |best: Needed, other: Needed| if other.need > best.need { other } else { best };
        self.reasons(bbm).reduce(stronger).expect("every comparison has a row")
    }

    /// Every need that a rule finds in it at BBM level `bbm`.
    pub fn reasons(self, bbm: BbmLevel) -> impl Iterator<Item = Needed> {
        RULES.iter().filter(move |rule| rule.applies(self, bbm)).map(|rule| rule.needed)
    }
}

/// A row of [`RULES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Facts that must all be there.
    pub all: Comparison,
    /// Facts none of which may be there.
    pub none: Comparison,
    /// The lowest BBM level it holds for.
    pub from: BbmLevel,
    /// The highest.
    pub to: BbmLevel,
    /// What it asks for.
    pub needed: Needed,
}

impl Rule {
    /// Whether it says anything about this comparison at this BBM level.
    #[must_use]
    pub fn applies(&self, comparison: Comparison, bbm: BbmLevel) -> bool {
        comparison.contains(self.all) && !comparison.intersects(self.none) && (self.from..=self.to).contains(&bbm)
    }

    const fn unless(mut self, none: Comparison) -> Self {
        self.none = none;
        self
    }

    const fn at(mut self, from: BbmLevel, to: BbmLevel) -> Self {
        (self.from, self.to) = (from, to);
        self
    }
}

const fn row(all: Comparison, need: Need, rule: &'static str, why: &'static str) -> Rule {
    let (from, to) = (BbmLevel::L0, BbmLevel::L3);
    Rule { all, none: Comparison::empty(), from, to, needed: needed(need, rule, why) }
}

/// All rules. What stands first is cited where several ask for the same: the field that changes before the general.
pub const RULES: &[Rule] = {
    use BbmLevel::{L0, L1, L2, L3};
    use Comparison as C;
    use Need::{Bbm, DirectTlbi, Nothing, NtSequence, Tlbi};
    const fn both(a: C, b: C) -> C {
        a.union(b)
    }
    &[
        row(C::SAME, Nothing, "R_GPPYH", "the descriptor stays the same"),
        row(C::FROM_INVALID, Nothing, "I_WZCBG", "an invalid descriptor is never cached"),
        row(C::FROM_AF0, Nothing, "R_XCLRD", "a descriptor whose Access flag is clear is never cached"),
        row(C::TO_INVALID, Tlbi, "R_LXHLD", "the old mapping is in use until a TLBI completes"),
        row(C::TO_AF0, Tlbi, "R_XCLRD", "the new descriptor is never cached; the old one is until a TLBI completes"),
        // One table and another.
        row(both(C::TABLES, C::OTHER_MAPPING), Bbm, "R_WHZWS", "another table may change anything below it"),
        row(C::TABLES, Tlbi, "R_GPPYH", "the other table maps the same: no listed field changes")
            .unless(C::OTHER_MAPPING),
        // Block size.
        row(both(C::SIZE, C::OTHER_MAPPING), Bbm, "R_PVTFW", "the size changes and something else with it"),
        row(C::SIZE, Bbm, "R_KFLJB", "the block size changes").at(L0, L0).unless(C::OTHER_MAPPING),
        // Whether an access through nT=1 faults is the CPU's choice; where it does not, it may conflict.
        row(both(C::SIZE, C::NT), DirectTlbi, "R_MRRPW", "the block size changes from or to a Block with nT set")
            .at(L1, L3)
            .unless(C::OTHER_MAPPING),
        row(C::SIZE, NtSequence, "R_KFLJB", "the block size changes").at(L1, L1).unless(both(C::OTHER_MAPPING, C::NT)),
        row(C::SIZE, DirectTlbi, "R_KFLJB", "the block size changes").at(L2, L2).unless(both(C::OTHER_MAPPING, C::NT)),
        row(C::SIZE, Tlbi, "R_KFLJB", "the block size changes, and FEAT_BBML3 rules conflicts out")
            .at(L3, L3)
            .unless(both(C::OTHER_MAPPING, C::NT)),
        // One leaf and another.
        row(C::CONTIGUOUS, Bbm, "R_KHRBC", "the Contiguous bit changes").at(L0, L0),
        // R_FCPSG is the conflict.
        row(C::CONTIGUOUS, DirectTlbi, "R_KHRBC", "the Contiguous bit changes").at(L1, L2),
        row(C::CONTIGUOUS, Tlbi, "R_KHRBC", "the Contiguous bit changes, and FEAT_BBML3 rules conflicts out")
            .at(L3, L3),
        row(C::MEMORY, Bbm, "R_WHZWS", "the memory type or cacheability changes"),
        row(C::SHAREABILITY, Bbm, "R_WHZWS", "the Shareability changes"),
        row(C::NG_CLEARED, Bbm, "R_WHZWS", "the entry becomes global over non-global entries that may be cached"),
        row(C::NG_SET, Bbm, "R_WHZWS", "the cached global entry overlaps the new one (inferred from the reverse)"),
        row(both(C::OA_SPACE, C::WRITABLE), Bbm, "I_WZRHR", "the OA space changes and one of the mappings is writable"),
        row(both(C::OA_SPACE, C::CONTENTS), Bbm, "I_WZRHR", "the OA space changes and the contents differ"),
        row(both(C::OA, C::WRITABLE), Bbm, "R_WHZWS", "the OA changes and one of the mappings is writable"),
        row(both(C::OA, C::CONTENTS), Bbm, "R_WHZWS", "the OA changes and the contents differ"),
        row(C::OA, Tlbi, "R_WHZWS", "the OA changes between read-only copies of the same contents")
            .unless(both(C::WRITABLE, C::CONTENTS)),
        // What else may differ (AP, PXN, UXN, AF, DBM, nT, software bits) is not on the list of R_WHZWS.
        row(C::LEAVES, Tlbi, "R_GPPYH", "no field changes for which more than a TLBI is asked").unless(C::LISTED),
    ]
};

/// What a TLBI must remove before a change is complete; later ones include earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reach {
    /// Nothing.
    Nothing,
    /// What was made from the one descriptor: a last-level form by any address in it.
    Leaf,
    /// What was made from any descriptor of its Contiguous group: a form for each of them (I_JQPNP).
    Group,
    /// What was made by way of a table: the cached table entry and the leaves of all its addresses, so no
    /// last-level form, and no form for one address.
    Tree,
}

impl Reach {
    /// The reach in words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Leaf => {
                "what was made from this descriptor: a last-level form by any address in it, or wider (R_GPPYH)"
            }
            Self::Group => {
                "what was made from each descriptor of the Contiguous group: a form for each of them, or wider (I_JQPNP)"
            }
            Self::Tree => {
                "the cached table entry and all that was made by way of it: no last-level form, and no form for one address (R_GPPYH)"
            }
        }
    }
}

/// Whose entries a TLBI must remove; later ones include earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Asids {
    /// Global entries, or none: the forms by ASID remove them whatever ASID they name.
    Any,
    /// Those of the ASIDs with which the tables are in use.
    InUse,
    /// Those of every ASID, since they overlap a global one.
    Every,
}

/// What the TLBI of a change must do. It is complete when a DSB that orders loads and stores follows, ISH for the
/// broadcast forms (R_PSMWS); before it, a DSB makes the new descriptor visible to walkers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invalidation {
    /// What it must remove.
    pub reach: Reach,
    /// Whose.
    pub asids: Asids,
}

impl Invalidation {
    /// No TLBI is owed.
    pub const NONE: Self = Self { reach: Reach::Nothing, asids: Asids::Any };

    /// What does both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { reach: self.reach.max(other.reach), asids: self.asids.max(other.asids) }
    }
}

/// Two descriptors, one of which replaces the other in a live table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transition {
    /// What stands in the table.
    pub old: Descriptor,
    /// What is to stand there.
    pub new: Descriptor,
    /// What must be known besides.
    pub context: Context,
}

impl Transition {
    /// A dry run's transition, from raw descriptors as they stand in memory.
    ///
    /// # Errors
    /// If one of them is no descriptor of this level: the first field of it that is wrong.
    pub fn checked(old: u64, new: u64, context: Context) -> Result<Self, BadDescriptor> {
        let check = |side, raw| context.layout().check(Descriptor::from_raw(raw), side, context.mair);
        Ok(Self { old: check(Side::Old, old)?, new: check(Side::New, new)?, context })
    }

    /// What it needs on a CPU with this BBM level.
    #[must_use]
    pub fn needs(&self, bbm: BbmLevel) -> Needed {
        Comparison::of(self).needs(bbm)
    }

    /// What its TLBI must do.
    #[must_use]
    pub fn invalidation(&self) -> Invalidation {
        let layout = self.context.layout();
        let leaf = |d: Descriptor| match layout.kind(d) {
            DescriptorKind::Block | DescriptorKind::Page => Some(layout.attributes(d)),
            DescriptorKind::Table | DescriptorKind::Invalid => None,
        };
        let comparison = Comparison::of(self);
        match leaf(self.old) {
            _ if comparison.intersects(Comparison::NEVER_CACHED) => Invalidation::NONE,
            // What is kept of a table belongs to an ASID, whatever is below (R_CHVGJ).
            None => Invalidation { reach: Reach::Tree, asids: Asids::InUse },
            Some(old) => {
                let contiguous = old.contiguous || leaf(self.new).is_some_and(|new| new.contiguous);
                let asids = match old.not_global {
                    _ if comparison.contains(Comparison::NG_CLEARED) => Asids::Every,
                    true => Asids::InUse,
                    false => Asids::Any,
                };
                Invalidation { reach: if contiguous { Reach::Group } else { Reach::Leaf }, asids }
            }
        }
    }
    /// What the TLBI of `written` must do, one of several writes by which this transition is made. The write alone does not
    /// tell that where a global entry comes in the end, it must not meet a non-global one of any ASID, nor that the other
    /// descriptors of a group that is Contiguous before or after change with this one (I_JQPNP).
    #[must_use]
    pub fn invalidation_of(&self, written: &Self) -> Invalidation {
        let layout = self.context.layout();
        let is_leaf = |d| matches!(layout.kind(d), DescriptorKind::Block | DescriptorKind::Page);
        let not_global = |d| is_leaf(d) && layout.attributes(d).not_global;
        let owed = written.invalidation();
        if owed == Invalidation::NONE {
            return owed;
        }
        let global = not_global(self.old) && is_leaf(self.new) && !not_global(self.new);
        let asids = if global { Asids::Every } else { Asids::Any };
        let reach = if self.invalidation().reach == Reach::Group { Reach::Group } else { Reach::Nothing };
        owed.and(Invalidation { reach, asids })
    }
}

/// What the change of one descriptor from `old` to `new` needs on a CPU with this BBM level.
#[must_use]
pub fn needs(old: Descriptor, new: Descriptor, context: &Context, bbm: BbmLevel) -> Needed {
    Transition { old, new, context: *context }.needs(bbm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::{Attributes, Shareability};

    const CONTEXT: Context = Context::new(Granule::K4, Level::L2);
    const RW: Attributes = Attributes::NORMAL_RW;
    const RO: Attributes = Attributes::NORMAL_RO;

    fn block(oa: u64, attributes: Attributes) -> Descriptor {
        Descriptor::leaf(Granule::K4, Level::L2, oa << 21, attributes)
    }

    fn at_all_levels(old: Descriptor, new: Descriptor, context: &Context) -> [Need; 4] {
        BbmLevel::ALL.map(|bbm| needs(old, new, context, bbm).need)
    }

    /// The table of rules, row by row, for BBM levels 0 to 3.
    #[test]
    fn rules_row_by_row() {
        use Need::{Bbm, DirectTlbi, Nothing, NtSequence, Tlbi};
        let table = Descriptor::table(0x1000);
        let same = Context { contents_equal: true, ..CONTEXT };
        let dirty = Context { contents_equal: true, hardware: HardwareUpdates::Dirty, ..CONTEXT };
        let other_tree = Context { same_mapping: false, ..CONTEXT };
        let dbm = Attributes { dbm: true, ..RO };
        let nt = block(1, RW).with_nt(true);
        for (old, new, context, need) in [
            // Memory type, Shareability.
            (block(1, RW), block(1, Attributes { attr_index: 1, ..RW }), &CONTEXT, [Bbm; 4]),
            (block(1, RW), block(1, Attributes { shareability: Shareability::Outer, ..RW }), &CONTEXT, [Bbm; 4]),
            // OA.
            (block(1, RW), block(2, RW), &same, [Bbm; 4]),
            (block(1, RW), block(2, RO), &same, [Bbm; 4]),
            (block(1, RO), block(2, RW), &same, [Bbm; 4]),
            (block(1, RO), block(2, RO), &CONTEXT, [Bbm; 4]),
            (block(1, RO), block(2, RO), &same, [Tlbi; 4]),
            (block(1, dbm), block(2, dbm), &same, [Tlbi; 4]),
            (block(1, dbm), block(2, dbm), &dirty, [Bbm; 4]),
            // Block size.
            (block(1, RW), table, &CONTEXT, [Bbm, NtSequence, DirectTlbi, Tlbi]),
            (table, block(1, RW), &CONTEXT, [Bbm, NtSequence, DirectTlbi, Tlbi]),
            (block(1, RW), table, &other_tree, [Bbm; 4]),
            (table, Descriptor::table(0x2000), &other_tree, [Bbm; 4]),
            (block(1, RW), nt, &CONTEXT, [Tlbi; 4]),
            (nt, block(1, RW), &CONTEXT, [Tlbi; 4]),
            (nt, table, &CONTEXT, [Bbm, DirectTlbi, DirectTlbi, DirectTlbi]),
            (table, nt, &CONTEXT, [Bbm, DirectTlbi, DirectTlbi, DirectTlbi]),
            // Contiguous.
            (
                block(1, RW),
                block(1, Attributes { contiguous: true, ..RW }),
                &CONTEXT,
                [Bbm, DirectTlbi, DirectTlbi, Tlbi],
            ),
            // nG, either way.
            (block(1, Attributes { not_global: true, ..RW }), block(1, RW), &CONTEXT, [Bbm; 4]),
            (block(1, RW), block(1, Attributes { not_global: true, ..RW }), &CONTEXT, [Bbm; 4]),
            // Permissions, AF, DBM, software bits.
            (block(1, RW), block(1, RO), &CONTEXT, [Tlbi; 4]),
            (block(1, RO), block(1, RW), &CONTEXT, [Tlbi; 4]),
            (block(1, RO), block(1, Attributes::NORMAL_RX), &CONTEXT, [Tlbi; 4]),
            (block(1, RO), block(1, dbm), &dirty, [Tlbi; 4]),
            (block(1, RW), block(1, RW).with_af(false), &CONTEXT, [Tlbi; 4]),
            (block(1, RW), Descriptor::from_raw(block(1, RW).raw() | 1 << 55), &CONTEXT, [Tlbi; 4]),
            // Valid and invalid.
            (block(1, RW), Descriptor::INVALID, &CONTEXT, [Tlbi; 4]),
            (table, Descriptor::INVALID, &CONTEXT, [Tlbi; 4]),
            (Descriptor::INVALID, block(1, RW), &CONTEXT, [Nothing; 4]),
            (Descriptor::INVALID, table, &CONTEXT, [Nothing; 4]),
            (block(1, RW).with_af(false), block(2, RO), &CONTEXT, [Nothing; 4]),
            (block(1, RW).with_af(false), table, &CONTEXT, [Nothing; 4]),
        ] {
            assert_eq!(at_all_levels(old, new, context), need, "{old:?} to {new:?} in {context:?}");
        }
    }

    /// Where several rules ask for the same, the answer cites the one of the field that changes.
    #[test]
    fn the_rule_cited_is_the_field_s_own() {
        let same = Context { contents_equal: true, ..CONTEXT };
        let contiguous = Attributes { contiguous: true, ..RW };
        for (old, new, rule) in [
            (block(1, RW), block(1, contiguous), "R_KHRBC"),
            (block(1, RO), block(2, RO), "R_WHZWS"),
            (block(1, RW), block(1, RO), "R_GPPYH"),
            (block(1, RW), Descriptor::table(0x1000), "R_KFLJB"),
        ] {
            for bbm in BbmLevel::ALL {
                assert_eq!(needs(old, new, &same, bbm).rule, rule, "level {bbm}");
            }
        }
    }
}
