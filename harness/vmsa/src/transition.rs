//! What a change of one descriptor needs (DDI 0487 D8.17), and whether a sequence gives it.
//!
//! [`needs`] is the table of rules: two descriptors, what must be known besides them ([`Context`]), and the
//! CPU's BBM level give the weakest way in which the change is defined. It looks at *descriptors*, so it also
//! judges the intermediate ones that a sequence writes: break-before-make is not a special case but two
//! changes, valid to invalid (a TLBI) and invalid to valid (nothing), and the nT sequence is two as well.
//! [`guarantee`] walks a [`Sequence`] in this way, write by write. A verdict holds a CPU to the rules exactly
//! where it returns `Ok`; everything else is undefined by the architecture.
//!
//! Source: the rules named in each answer. Arm's executable model (herd's `aarch64bbm.cat`) agrees for
//! permissions, OA, attributes and AF at the last level; it knows nothing of block sizes, nT, Contiguous and
//! nG, for which the rules are the only source.

use core::fmt;

use crate::{
    descriptor::{Attributes, Descriptor, DescriptorKind},
    geometry::{BbmLevel, Granule, Level},
    instance::{Access, Change, Method, Protection, Remapping},
    sequence::{Sequence, Step, Tlbi},
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

const fn needed(need: Need, rule: &'static str, why: &'static str) -> Needed {
    Needed { need, rule, why }
}

/// What two descriptors do not tell about the change from one to the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// Granule of the tables.
    pub granule: Granule,
    /// Level at which the descriptor stands.
    pub level: Level,
    /// Whether the memory at both output addresses holds the same, all the time.
    pub contents_equal: bool,
    /// Whether a table maps exactly what the descriptor on the other side maps (R_PVTFW).
    pub same_mapping: bool,
    /// Whether hardware manages the dirty state (TCR.HD), so that DBM=1 is a permission to write.
    pub hardware_dirty: bool,
}

/// What the change of one descriptor from `old` to `new` needs on a CPU with this BBM level.
///
/// Where several fields change, the strongest of their needs counts. The memory type is told by AttrIndx
/// alone: two indices count as two types even if MAIR holds the same for both.
#[must_use]
pub fn needs(old: Descriptor, new: Descriptor, context: &Context, bbm: BbmLevel) -> Needed {
    use DescriptorKind::{Block, Invalid, Page, Table};
    let Context { granule, level, .. } = *context;
    let kinds = (old.kind(granule, level), new.kind(granule, level));
    if old == new {
        return needed(Need::Nothing, "R_GPPYH", "the descriptor stays the same");
    }
    match kinds {
        (Invalid, _) => needed(Need::Nothing, "I_WZCBG", "an invalid descriptor is never cached"),
        (Block | Page, _) if !old.af() => {
            needed(Need::Nothing, "R_XCLRD", "a descriptor whose Access flag is clear is never cached")
        }
        (_, Invalid) => needed(Need::Tlbi, "R_LXHLD", "the old mapping is in use until a TLBI completes"),
        (Table, Table) if context.same_mapping => {
            needed(Need::Tlbi, "R_GPPYH", "the other table maps the same: no listed field changes")
        }
        (Table, Table) => needed(Need::Bbm, "R_WHZWS", "another table may change anything below it"),
        (Block, Table) | (Table, Block) => size_change(if kinds.0 == Block { old } else { new }, context, bbm),
        // No level has both blocks and pages, so this is Page to Page or Block to Block.
        _ => leaf_change(old, new, context, bbm),
    }
}

fn size_change(block: Descriptor, context: &Context, bbm: BbmLevel) -> Needed {
    if !context.same_mapping {
        return needed(Need::Bbm, "R_PVTFW", "the size changes and something else with it");
    }
    match bbm {
        BbmLevel::L0 => needed(Need::Bbm, "R_KFLJB", "the block size changes"),
        // Whether an access through nT=1 faults is the CPU's choice; where it does not, it may conflict.
        _ if block.nt() => needed(Need::DirectTlbi, "R_MRRPW", "the block size changes from or to a Block with nT set"),
        BbmLevel::L1 => needed(Need::NtSequence, "R_KFLJB", "the block size changes"),
        BbmLevel::L2 => needed(Need::DirectTlbi, "R_KFLJB", "the block size changes"),
        BbmLevel::L3 => needed(Need::Tlbi, "R_KFLJB", "the block size changes, and FEAT_BBML3 rules conflicts out"),
    }
}

fn leaf_change(old: Descriptor, new: Descriptor, context: &Context, bbm: BbmLevel) -> Needed {
    let Context { granule, level, .. } = *context;
    let (a, b) = (old.attributes(), new.attributes());
    let write = |attributes: Attributes| attributes.writable || attributes.dbm && context.hardware_dirty;

    // What else may differ (AP, PXN, UXN, AF, DBM, nT, software bits) is not on the list of R_WHZWS.
    let mut strongest = needed(Need::Tlbi, "R_GPPYH", "no field changes for which more than a TLBI is asked");
    let mut add = |condition: bool, other: Needed| {
        if condition && other.need > strongest.need {
            strongest = other;
        }
    };
    add(a.attr_index != b.attr_index, needed(Need::Bbm, "R_WHZWS", "the memory type or cacheability changes"));
    add(a.shareability != b.shareability, needed(Need::Bbm, "R_WHZWS", "the Shareability changes"));
    add(
        a.not_global && !b.not_global,
        needed(Need::Bbm, "R_WHZWS", "the entry becomes global over non-global entries that may be cached"),
    );
    add(
        !a.not_global && b.not_global,
        needed(Need::Bbm, "R_WHZWS", "the cached global entry overlaps the new one (inferred from the reverse)"),
    );
    if old.oa(granule, level) != new.oa(granule, level) {
        add(write(a) || write(b), needed(Need::Bbm, "R_WHZWS", "the OA changes and one of the mappings is writable"));
        add(!context.contents_equal, needed(Need::Bbm, "R_WHZWS", "the OA changes and the contents differ"));
        // Same need as a permission's, but its own rule.
        if strongest.need == Need::Tlbi {
            strongest = needed(Need::Tlbi, "R_WHZWS", "the OA changes between read-only copies of the same contents");
        }
    }
    if a.contiguous != b.contiguous {
        let (need, why) = match bbm {
            BbmLevel::L0 => (Need::Bbm, "the Contiguous bit changes"),
            BbmLevel::L1 | BbmLevel::L2 => (Need::DirectTlbi, "the Contiguous bit changes"),
            BbmLevel::L3 => (Need::Tlbi, "the Contiguous bit changes, and FEAT_BBML3 rules conflicts out"),
        };
        if need >= strongest.need {
            strongest = needed(need, "R_KHRBC", why);
        }
    }
    strongest
}

/// One side of a [`Change`]: the leaves through which the window is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// Level at which they stand.
    pub level: Level,
    /// Their attributes.
    pub attributes: Attributes,
}

impl Leaf {
    /// The one of them that maps `oa`, in bytes.
    #[must_use]
    pub const fn descriptor(self, granule: Granule, oa: u64) -> Descriptor {
        Descriptor::leaf(granule, self.level, oa, self.attributes)
    }

    /// Whether its permissions allow `access` at EL1.
    #[must_use]
    pub const fn permits(self, access: Access) -> bool {
        match access {
            Access::Load => true,
            Access::Store => self.attributes.writable,
            Access::Fetch => self.attributes.el1_execute,
        }
    }
}

/// The one descriptor that a [`Change`] replaces, before and after.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptors {
    /// What stands there before.
    pub old: Descriptor,
    /// What stands there in the end.
    pub new: Descriptor,
    /// The Block of the change, from which the nT sequence makes its intermediate descriptor; for a change
    /// without a change of size, the old leaf.
    pub block: Descriptor,
}

impl Change {
    /// Whether the granule has such a change: blocks only where it has blocks. Levels that have blocks only
    /// with FEAT_LPA2 are not among them yet.
    #[must_use]
    pub const fn exists(self, granule: Granule) -> bool {
        match self {
            Self::Split { block, leaf } | Self::Merge { block, leaf } => {
                block.number() < leaf.number() && Self::has_leaf(granule, block) && Self::has_leaf(granule, leaf)
            }
            Self::Remap { level, .. } | Self::Protect { level, .. } => Self::has_leaf(granule, level),
        }
    }

    const fn has_leaf(granule: Granule, level: Level) -> bool {
        level.number() == 3 || level.allows_block(granule, false)
    }

    /// The leaves that map the window before the change.
    #[must_use]
    pub const fn old_leaf(self) -> Leaf {
        match self {
            Self::Split { block, .. } => Leaf { level: block, attributes: Attributes::NORMAL_RW },
            Self::Merge { leaf, .. } => Leaf { level: leaf, attributes: Attributes::NORMAL_RW },
            Self::Remap { level, kind } => Leaf { level, attributes: remapped(kind) },
            Self::Protect { level, kind } => Leaf { level, attributes: protected(kind).0 },
        }
    }

    /// The leaves that map the window after it.
    #[must_use]
    pub const fn new_leaf(self) -> Leaf {
        match self {
            Self::Split { block, leaf } => Self::Merge { block, leaf }.old_leaf(),
            Self::Merge { block, leaf } => Self::Split { block, leaf }.old_leaf(),
            Self::Remap { .. } => self.old_leaf(),
            Self::Protect { level, kind } => Leaf { level, attributes: protected(kind).1 },
        }
    }

    /// Whether the window's output address changes, from the first frame to the second.
    #[must_use]
    pub const fn moves(self) -> bool {
        matches!(self, Self::Remap { .. })
    }

    /// Whether old and new mapping lead to the same contents: the same frame, or a copy of it.
    #[must_use]
    pub const fn contents_equal(self) -> bool {
        matches!(self, Self::Remap { kind: Remapping::ReadOnlySame, .. }) || !self.moves()
    }

    /// The descriptors of the change. `old_oa` and `new_oa` are the output addresses in bytes, the same unless
    /// it [moves](Self::moves); `table` is the address of the first table below a split or merged block,
    /// unused otherwise. The leaves below such a table are [`new_leaf`](Self::new_leaf)s of a split and
    /// [`old_leaf`](Self::old_leaf)s of a merge.
    #[must_use]
    pub const fn descriptors(self, granule: Granule, old_oa: u64, new_oa: u64, table: u64) -> Descriptors {
        let old = self.old_leaf().descriptor(granule, old_oa);
        let new = self.new_leaf().descriptor(granule, new_oa);
        match self {
            Self::Split { .. } => Descriptors { old, new: Descriptor::table(table), block: old },
            Self::Merge { .. } => Descriptors { old: Descriptor::table(table), new, block: new },
            Self::Remap { .. } | Self::Protect { .. } => Descriptors { old, new, block: old },
        }
    }

    /// What [`needs`] has to know about it besides its descriptors. The harness runs without hardware
    /// management of the dirty state.
    #[must_use]
    pub const fn context(self, granule: Granule) -> Context {
        Context {
            granule,
            level: self.level(),
            contents_equal: self.contents_equal(),
            same_mapping: true,
            hardware_dirty: false,
        }
    }

    /// What it needs at this BBM level.
    #[must_use]
    pub fn needs(self, granule: Granule, bbm: BbmLevel) -> Needed {
        let Descriptors { old, new, .. } = self.example(granule);
        needs(old, new, &self.context(granule), bbm)
    }

    /// Its descriptors with addresses that stand for any others: no rule looks at more than their being different.
    fn example(self, granule: Granule) -> Descriptors {
        let size = self.level().size(granule);
        let new_oa = if self.moves() { 2 * size } else { size };
        self.descriptors(granule, size, new_oa, 3 * granule.page_size())
    }
}

const fn remapped(kind: Remapping) -> Attributes {
    match kind {
        Remapping::Writable => Attributes::NORMAL_RW,
        Remapping::ReadOnlySame | Remapping::ReadOnlyOther => Attributes::NORMAL_RO,
    }
}

const fn protected(kind: Protection) -> (Attributes, Attributes) {
    match kind {
        Protection::RwRo => (Attributes::NORMAL_RW, Attributes::NORMAL_RO),
        Protection::RoRw => (Attributes::NORMAL_RO, Attributes::NORMAL_RW),
        Protection::XXn => (Attributes::NORMAL_RX, Attributes::NORMAL_RO),
        Protection::XnX => (Attributes::NORMAL_RO, Attributes::NORMAL_RX),
    }
}

/// Whether `method` gives `change` what it needs at this BBM level.
///
/// `Ok` is the strongest need that it met on the way: the change is defined, and with
/// [`Need::DirectTlbi`] a conflict abort may come until the TLBI completes. `Err` is the first need that
/// it did not meet: the outcome is not defined.
pub fn guarantee(method: Method, change: Change, granule: Granule, bbm: BbmLevel) -> Result<Needed, Needed> {
    if !method.fits(change) {
        return Err(change.needs(granule, bbm));
    }
    sufficient(&Sequence::of(method, change), change, granule, bbm)
}

/// How far the TLB maintenance for the last write has got.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Maintenance {
    /// None is owed.
    Settled,
    /// The descriptor is written.
    Written,
    /// A DSB has made the write visible to every walker.
    Visible,
    /// The TLBI is issued, and not complete.
    Issued,
}

/// As [`guarantee`], for any steps, whoever looks: what is not complete on every PE is not given.
pub fn sufficient(sequence: &Sequence, change: Change, granule: Granule, bbm: BbmLevel) -> Result<Needed, Needed> {
    let Descriptors { old, new, block } = change.example(granule);
    let context = change.context(granule);
    let mut current = old;
    // The last write: whether it replaced a table, whether it did no more than clear nT, and what it needs.
    let (mut table_replaced, mut only_clears_nt) = (false, false);
    let mut last = needed(Need::Nothing, "R_GPPYH", "nothing is changed");
    let mut strongest = last;
    let mut state = Maintenance::Settled;
    // Whether the last write is seen by every walker, and everything by this PE's next instruction.
    let (mut seen, mut synchronised) = (true, true);
    for step in sequence.steps() {
        match *step {
            Step::Write(write) => {
                if state != Maintenance::Settled {
                    return Err(last);
                }
                let next = write.value(old, new, block);
                last = needs(current, next, &context, bbm);
                if last.need.is_bbm() {
                    return Err(last);
                }
                if last.need > strongest.need {
                    strongest = last;
                }
                table_replaced = current.kind(granule, context.level) == DescriptorKind::Table;
                only_clears_nt =
                    next.kind(granule, context.level) == DescriptorKind::Block && current == next.with_nt(true);
                state = if last.need == Need::Nothing { Maintenance::Settled } else { Maintenance::Written };
                seen = next == current;
                synchronised = false;
                current = next;
            }
            Step::Dsb(dsb) => {
                seen |= dsb.shows_stores();
                match state {
                    Maintenance::Written if dsb.shows_stores() => state = Maintenance::Visible,
                    Maintenance::Issued if dsb.completes_tlbis() => {
                        (state, synchronised) = (Maintenance::Settled, false)
                    }
                    _ => {}
                }
            }
            Step::Tlbi(Tlbi::Vae2is) => {
                return Err(needed(Need::Bbm, "R_LXHLD", "a TLBI of EL2's regime is undefined at EL1"));
            }
            Step::Tlbi(tlbi) => {
                // Below a table there are entries for many addresses, and the table itself may be cached.
                let enough = if table_replaced { tlbi.reaches_tables() } else { tlbi.reaches_leaves() };
                if state == Maintenance::Visible && enough {
                    state = Maintenance::Issued;
                }
            }
            Step::Isb => synchronised |= seen && (state == Maintenance::Settled || only_clears_nt),
        }
    }
    if current != new {
        return Err(needed(Need::Bbm, "R_DDMVT", "the new descriptor is not the last that is written"));
    }
    // What is kept of a Block with nT set translates as the Block does without it: nothing stale can show.
    if state != Maintenance::Settled && !only_clears_nt {
        return Err(last);
    }
    if !seen {
        return Err(needed(Need::Tlbi, "R_LRKTH", "no DSB makes the new descriptor visible to every walker"));
    }
    if !synchronised {
        return Err(needed(
            Need::Tlbi,
            "R_BLDZX",
            "no context synchronisation follows on the PE that makes the change",
        ));
    }
    Ok(strongest)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::{descriptor::Shareability, sequence::Write, testing};

    const CONTEXT: Context = Context {
        granule: Granule::K4,
        level: Level::L2,
        contents_equal: false,
        same_mapping: true,
        hardware_dirty: false,
    };
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
        let dirty = Context { contents_equal: true, hardware_dirty: true, ..CONTEXT };
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

    proptest! {
        /// Between two descriptors that may both be cached the direction does not matter; a higher BBM level never
        /// needs more; every answer cites a rule; and only what cannot be cached, or does not change, needs nothing.
        #[test]
        fn needs_are_symmetric_and_fall_with_the_level(old: u64, new: u64, bits: [bool; 3], flip in 0u32..64, near: bool) {
            // Two random values nearly always differ in everything; two near ones isolate a field.
            let new = if near { old ^ 1 << flip } else { new };
            let (old, new) = (Descriptor::from_raw(old), Descriptor::from_raw(new));
            let [contents_equal, same_mapping, hardware_dirty] = bits;
            for granule in Granule::ALL {
                for level in [Level::L1, Level::L2, Level::L3] {
                    let context = Context { granule, level, contents_equal, same_mapping, hardware_dirty };
                    let cached = |d: Descriptor| match d.kind(granule, level) {
                        DescriptorKind::Invalid => false,
                        DescriptorKind::Table => true,
                        DescriptorKind::Block | DescriptorKind::Page => d.af(),
                    };
                    let there = at_all_levels(old, new, &context);
                    prop_assert!(there.is_sorted_by(|low, high| low >= high), "{:?}", there);
                    prop_assert_eq!(there[0] == Need::Nothing, old == new || !cached(old));
                    if cached(old) && cached(new) {
                        prop_assert_eq!(there, at_all_levels(new, old, &context));
                    }
                    for bbm in BbmLevel::ALL {
                        let needed = needs(old, new, &context, bbm);
                        prop_assert!(!needed.rule.is_empty() && !needed.why.is_empty());
                    }
                }
            }
        }
    }

    #[test]
    fn changes_are_what_their_names_say() {
        for granule in Granule::ALL {
            for change in testing::changes(granule) {
                let Descriptors { old, new, block } = change.descriptors(granule, 1 << 40, 1 << 41, 1 << 16);
                let (from, to) = (change.old_leaf(), change.new_leaf());
                let sizes = old.kind(granule, change.level()) != new.kind(granule, change.level());
                assert_eq!(sizes, from.level != to.level, "{change}");
                assert!(!change.moves() || from == to, "{change}");
                assert!(block.kind(granule, change.level()) != DescriptorKind::Table, "{change}");
                match change {
                    Change::Split { .. } => assert_eq!(block, old),
                    Change::Merge { .. } => assert_eq!(block, new),
                    Change::Remap { .. } => {
                        assert_eq!((old.oa(granule, from.level), new.oa(granule, to.level)), (1 << 40, 1 << 41));
                    }
                    Change::Protect { .. } => assert_ne!(old.attributes(), new.attributes()),
                }
            }
        }
    }

    #[test]
    fn break_before_make_gives_every_change_what_it_needs() {
        for granule in Granule::ALL {
            for change in testing::changes(granule) {
                let bbm = guarantee(Method::Bbm, change, granule, BbmLevel::L0);
                assert_eq!(bbm.map(|met| met.need), Ok(Need::Tlbi), "{change}");
                assert!(sufficient(&Sequence::restore(), change, granule, BbmLevel::L0).is_ok(), "{change}");
                // A table has no Access flag, so nothing is broken.
                let by_af = guarantee(Method::BbmAf, change, granule, BbmLevel::L0);
                assert_eq!(by_af.is_ok(), !matches!(change, Change::Merge { .. }), "{change}");
            }
        }
    }

    #[test]
    fn a_direct_change_is_defined_exactly_if_no_more_is_needed() {
        for change in testing::changes(Granule::K4) {
            for bbm in BbmLevel::ALL {
                let need = change.needs(Granule::K4, bbm);
                let direct = guarantee(Method::Direct, change, Granule::K4, bbm);
                assert_eq!(direct, if need.need.is_bbm() { Err(need) } else { Ok(need) }, "{change} at level {bbm}");
                assert_eq!(guarantee(Method::DirectNotlbi, change, Granule::K4, bbm), Err(need), "{change}");
            }
        }
    }

    /// No step of a defined sequence can be left out, but the first write of the nT way where the direct way is
    /// defined too, and the TLBI that ends a merge by it.
    #[test]
    fn every_step_counts() {
        for change in testing::changes(Granule::K4) {
            for &method in Method::ALL {
                let sequence = Sequence::of(method, change);
                for bbm in BbmLevel::ALL {
                    if guarantee(method, change, Granule::K4, bbm).is_err() {
                        continue;
                    }
                    let made = sequence.steps().iter().position(|step| *step == Step::Write(Write::New));
                    for (left_out, step) in sequence.steps().iter().enumerate() {
                        // What is kept of the Block with nT set is right without it too.
                        let merges = matches!(change, Change::Merge { .. });
                        let too_late = merges && Some(left_out) > made && *step != Step::Isb;
                        let mut rest: Vec<Step> = sequence.steps().to_vec();
                        rest.remove(left_out);
                        let rest = Sequence::of_steps(rest).expect("shorter");
                        assert_eq!(
                            sufficient(&rest, change, Granule::K4, bbm).is_ok(),
                            method == Method::Nt && (too_late || direct_remains(*step, change, bbm)),
                            "{method} of {change} at level {bbm} without step {left_out}, {step}"
                        );
                    }
                }
            }
        }
    }

    /// Without its first write, the nT sequence is a TLBI too many and then the direct change.
    fn direct_remains(step: Step, change: Change, bbm: BbmLevel) -> bool {
        step == Step::Write(Write::BlockNt) && !change.needs(Granule::K4, bbm).need.is_bbm()
    }

    #[test]
    fn weak_maintenance_is_not_enough() {
        let split = Change::Split { block: Level::L2, leaf: Level::L3 };
        let merge = Change::Merge { block: Level::L2, leaf: Level::L3 };
        let ok = |change, steps: &str| {
            let sequence = Sequence::parse(steps).expect("letters");
            sufficient(&sequence, change, Granule::K4, BbmLevel::L2).is_ok()
        };
        assert!(ok(split, "1sAdi"));
        assert!(ok(split, "1sXdi"), "what is global is removed whatever the ASID");
        assert!(ok(merge, "1sMdi"));
        assert!(!ok(merge, "1sAdi"), "one address of many");
        assert!(!ok(merge, "1sBdi"), "a cached table survives");
        for (steps, why) in [
            ("1sMsi", "DSB ISHST does not complete a TLBI (R_PSMWS)"),
            ("1sMri", "nor does DSB ISHLD"),
            ("1sMni", "nor DSB NSH, on the others"),
            ("1uMdi", "the others' walkers may not see the store"),
            ("1rMdi", "no walker need see the store"),
            ("1smdi", "the others keep theirs"),
            ("1sOdi", "another address"),
            ("1sSdi", "an address shifted wrongly"),
            ("1sRdi", "another regime"),
            ("1Msdi", "the TLBI comes too early"),
            ("s1Mdi", "the store comes too late"),
            ("1sMid", "the synchronisation comes too early"),
            ("1sMd", "none comes"),
            ("1sMdi0", "the new descriptor does not stay"),
        ] {
            assert!(!ok(split, steps), "{steps}: {why}");
        }
    }
}
