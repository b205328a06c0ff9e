//! The changes of the catalogue, each a row of one table.
//!
//! A change is two *sides*, and each side says how the window is mapped: by which attributes, to which of two frames,
//! and whether by the descriptor that changes itself or by leaves below a table to which it points. A split is a side
//! at the descriptor and one below it; a remap is two sides that differ in the frame; a permission change two that
//! differ in their attributes. With [`Group`] it is not one descriptor that changes but those of a Contiguous group.
//! Everything else (the descriptors, what an access sees, what the rules ask for, the tables that a payload builds)
//! follows from the sides, so that a new change is a new row of [`What`] and nothing besides.

use core::fmt;

use crate::{
    descriptor::{Attributes, Descriptor, Shareability, contiguous_group},
    geometry::{BbmLevel, Granule, Level},
    group::Grouping,
    instance::{Access, Family, Regime, Watch},
    layout::{Format, Width},
    memory,
    outcome::{Fault, Kind},
    rule::{Context, HardwareUpdates, Needed, Transition},
    tlbi::{Aim, Form, Op, Target},
};

/// Leaves that map the window: where they stand, and their attributes.
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
    pub const fn descriptor(self, format: Format, oa: u64) -> Descriptor {
        format.at(self.level).leaf(oa, self.attributes)
    }

    /// The one of them that maps `oa` in tables of `regime`.
    #[must_use]
    pub const fn descriptor_in(self, regime: Regime, format: Format, oa: u64) -> Descriptor {
        match regime {
            // What EL0's permission would be plays no part: nothing of a host's runs there.
            Regime::El1 | Regime::El2Vhe => self.descriptor(format, oa),
            Regime::El2 => format.at(self.level).leaf(oa, self.attributes.at_el2()),
            Regime::S2 => Descriptor::stage2_leaf(format.granule, self.level, oa, self.attributes),
        }
    }

    /// The fault that `access`, made at EL1, takes. An Access flag fault comes before a Permission fault,
    /// and the Alignment fault of Device memory behind both.
    #[must_use]
    pub fn fault(self, access: Access, hardware: HardwareUpdates) -> Option<Kind> {
        let permits = self.attributes.permits(access.privilege(), access.operation(), hardware);
        let device = matches!(self.attributes.attr_index, memory::DEVICE_NGNRE | memory::DEVICE_NGNRNE);
        match (self.attributes.access_flag || hardware != HardwareUpdates::Off, permits) {
            (false, _) => Some(Kind::Fault(Fault::AccessFlag, self.level)),
            (true, false) => Some(Kind::Fault(Fault::Permission, self.level)),
            (true, true) => (device && access == Access::Misaligned).then_some(Kind::Alignment),
        }
    }
}

/// One side of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Side {
    /// Attributes of its leaves.
    pub attributes: Attributes,
    /// Whether they stand below a table to which the descriptor points.
    pub below: bool,
    /// Whether they map the second frame.
    pub second: bool,
}

const fn at(attributes: Attributes) -> Side {
    Side { attributes, below: false, second: false }
}

const fn below(attributes: Attributes) -> Side {
    Side { attributes, below: true, second: false }
}

impl Side {
    const fn second(self) -> Self {
        Self { second: true, ..self }
    }
}

/// Which descriptors change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// One.
    One,
    /// All of an aligned group that may be Contiguous.
    All,
    /// The first half of such a group. It leaves the group misprogrammed if one side has the Contiguous bit.
    FirstHalf,
}

/// What stands in the block that changes of what makes the change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Own {
    /// Its stack.
    pub stack: bool,
    /// Its code.
    pub code: bool,
    /// Its vectors.
    pub vectors: bool,
    /// The table that holds the block's descriptor.
    pub table: bool,
}

impl Own {
    const NOTHING: Self = Self { stack: false, code: false, vectors: false, table: false };
    const ALL: Self = Self { stack: true, code: true, vectors: true, table: true };

    /// Where everything of it stands, in bytes of the block: none of its spots, which are near the ends of sixteenths.
    pub const AREA: core::ops::Range<u64> = 64 << 10..128 << 10;
}

/// What stands behind the descriptors that change, and stays: an access across their end meets both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Behind {
    /// Nothing that is looked at; of a half that changes, the other half.
    Nothing,
    /// As many leaves, mapped as those that change were before.
    Leaves,
    /// Invalid descriptors: the rest of the group of those that change.
    Hole,
}

/// All that a kind of change is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sides {
    /// Before.
    pub old: Side,
    /// After.
    pub new: Side,
    /// Whether the second frame, where there is one, holds what the first holds.
    pub same_contents: bool,
    /// Which descriptors change.
    pub group: Group,
    /// What stands behind them.
    pub behind: Behind,
    /// What hardware writes into descriptors while the change is made.
    pub hardware: HardwareUpdates,
}

const fn sides(old: Side, new: Side) -> Sides {
    let (group, behind) = (Group::One, Behind::Nothing);
    Sides { old, new, same_contents: false, group, behind, hardware: HardwareUpdates::Off }
}

impl Sides {
    const fn same_contents(self) -> Self {
        Self { same_contents: true, ..self }
    }

    const fn group(self, group: Group) -> Self {
        Self { group, ..self }
    }

    const fn behind(self, behind: Behind) -> Self {
        Self { behind, ..self }
    }

    const fn hardware(self, hardware: HardwareUpdates) -> Self {
        Self { hardware, ..self }
    }
}

const RW: Attributes = Attributes::NORMAL_RW;
const RO: Attributes = Attributes::NORMAL_RO;
const RX: Attributes = Attributes::NORMAL_RX;
/// Read-write, and so at EL0.
const USER_RW: Attributes = Attributes { el0: true, ..RW };
/// Read-only, and so at EL0.
const USER_RO: Attributes = Attributes { el0: true, ..RO };
const CONTIG: Attributes = Attributes { contiguous: true, ..RW };
const CONTIG_RO: Attributes = Attributes { contiguous: true, ..RO };
const NO_AF: Attributes = Attributes { access_flag: false, ..RW };
const NO_AF_RO: Attributes = Attributes { access_flag: false, ..RO };
const NOT_GLOBAL: Attributes = Attributes { not_global: true, ..RW };
/// Writable-clean: read-only until hardware, managing the dirty state, makes it writable for a write.
const CLEAN: Attributes = Attributes { dbm: true, ..RO };
/// Writable-dirty.
const DIRTY: Attributes = Attributes { dbm: true, ..RW };
/// All that the change's own things need of their block.
const RWX: Attributes = Attributes::NORMAL_RWX;
/// Read-only and executable at EL0.
const USER_RX: Attributes = Attributes { el0_execute: true, ..USER_RO };
/// Executable at EL1 and at EL0.
const ALL_X: Attributes = Attributes { el0_execute: true, ..RX };

/// `attributes` with another memory type.
const fn typed(attr_index: u8, attributes: Attributes) -> Attributes {
    Attributes { attr_index, ..attributes }
}

/// `attributes` with another Shareability.
const fn shared(shareability: Shareability, attributes: Attributes) -> Attributes {
    Attributes { shareability, ..attributes }
}

macro_rules! whats {
    ($($(#[doc = $doc:literal])+ $name:ident: $family:ident, $word:literal = $sides:expr;)+) => {
        /// A kind of change: what it is, without its geometry.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum What {
            $($(#[doc = $doc])+ $name,)+
        }

        impl What {
            /// All of them, family by family.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Its family.
            #[must_use]
            pub const fn family(self) -> Family {
                match self {
                    $(Self::$name => Family::$family,)+
                }
            }

            /// Its word in an id, behind the levels; may be empty.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }

            /// What it is, in a sentence that begins with "the" window.
            #[must_use]
            pub fn describe(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),+).trim(),)+
                }
            }

            /// Its sides.
            #[must_use]
            pub const fn sides(self) -> Sides {
                use HardwareUpdates::{AccessFlag, Dirty};
                match self {
                    // Each put together once: this is asked for at every turn.
                    $(Self::$name => const { $sides },)+
                }
            }
        }
    };
}

whats! {
    /// A block becomes tables whose leaves map the same.
    Split: Split, "" = sides(at(RW), below(RW));
    /// A block that EL0 executes becomes tables whose leaves map the same.
    SplitUserX: Split, "user-x" = sides(at(USER_RX), below(USER_RX));
    /// Tables become a block that maps the same.
    Merge: Merge, "" = sides(below(RW), at(RW));
    /// Tables whose leaves EL0 executes become a block that maps the same.
    MergeUserX: Merge, "user-x" = sides(below(USER_RX), at(USER_RX));
    /// A leaf gets another output address, writable before and after.
    RemapRw: Remap, "rw" = sides(at(RW), at(RW).second());
    /// A leaf that EL0 executes gets another output address, where other code is.
    RemapUserX: Remap, "user-x" = sides(at(USER_RX), at(USER_RX).second());
    /// A leaf gets another output address, and the next leaf keeps its own.
    RemapNext: Remap, "next" = sides(at(RW), at(RW).second()).behind(Behind::Leaves);
    /// A leaf gets another output address, read-only, where the same contents are.
    RemapRoSame: Remap, "ro-same" = sides(at(RO), at(RO).second()).same_contents();
    /// A leaf gets another output address, read-only, where other contents are.
    RemapRoDiff: Remap, "ro-diff" = sides(at(RO), at(RO).second());
    /// A block becomes tables whose leaves map another frame, writable before and after.
    RemapOutRw: RemapOut, "rw" = sides(at(RW), below(RW).second());
    /// A block becomes tables whose leaves map a copy of it, read-only.
    RemapOutRoSame: RemapOut, "ro-same" = sides(at(RO), below(RO).second()).same_contents();
    /// Tables become a block that maps another frame, writable before and after.
    RemapInRw: RemapIn, "rw" = sides(below(RW), at(RW).second());
    /// Tables become a block that maps a copy of what they mapped, read-only.
    RemapInRoSame: RemapIn, "ro-same" = sides(below(RO), at(RO).second()).same_contents();
    /// A table is replaced by another one that maps the same.
    TableSame: Table, "same" = sides(below(RW), below(RW));
    /// A table is replaced by another one that maps another frame.
    TableOther: Table, "other" = sides(below(RW), below(RW).second());
    /// A leaf becomes read-only.
    ProtectRwRo: Protect, "rw-ro" = sides(at(RW), at(RO));
    /// A leaf becomes writable.
    ProtectRoRw: Protect, "ro-rw" = sides(at(RO), at(RW));
    /// A leaf becomes not executable (PXN).
    ProtectXXn: Protect, "x-xn" = sides(at(RX), at(RO));
    /// A leaf becomes executable (PXN).
    ProtectXnX: Protect, "xn-x" = sides(at(RO), at(RX));
    /// EL0 gets access to a leaf (`AP[1]`).
    UserGrant: User, "grant" = sides(at(RW), at(USER_RW));
    /// EL0 loses its access to a leaf (`AP[1]`).
    UserRevoke: User, "revoke" = sides(at(USER_RW), at(RW));
    /// A leaf of EL0 becomes read-only.
    UserRwRo: User, "rw-ro" = sides(at(USER_RW), at(USER_RO));
    /// A leaf of EL0 becomes writable.
    UserRoRw: User, "ro-rw" = sides(at(USER_RO), at(USER_RW));
    /// A leaf of EL0 becomes not executable there (UXN).
    UserXXn: User, "x-xn" = sides(at(USER_RX), at(USER_RO));
    /// A leaf of EL0 becomes executable there (UXN).
    UserXnX: User, "xn-x" = sides(at(USER_RO), at(USER_RX));
    /// The leaves of a group get the Contiguous bit.
    Fold: Fold, "" = sides(at(RW), at(CONTIG)).group(Group::All);
    /// The leaves of a Contiguous group lose the bit.
    Unfold: Unfold, "" = sides(at(CONTIG), at(RW)).group(Group::All);
    /// A Contiguous group becomes read-only.
    ContigRwRo: Contig, "rw-ro" = sides(at(CONTIG), at(CONTIG_RO)).group(Group::All);
    /// A Contiguous group becomes writable.
    ContigRoRw: Contig, "ro-rw" = sides(at(CONTIG_RO), at(CONTIG)).group(Group::All);
    /// A Contiguous group gets another output address, writable before and after.
    ContigRemap: Contig, "rw" = sides(at(CONTIG), at(CONTIG).second()).group(Group::All);
    /// A Contiguous group gets another output address, and the next group keeps its own.
    ContigNext: Contig, "next" = sides(at(CONTIG), at(CONTIG).second()).group(Group::All).behind(Behind::Leaves);
    /// A Contiguous group gets another output address; the second half of it is invalid, and stays so (I_PGVGZ).
    ContigHole: Contig, "hole" = sides(at(CONTIG), at(CONTIG).second()).group(Group::FirstHalf).behind(Behind::Hole);
    /// The first half of a group gets the Contiguous bit: the group is misprogrammed.
    HalfFold: Misprogram, "fold" = sides(at(RW), at(CONTIG)).group(Group::FirstHalf);
    /// The first half of a Contiguous group loses the bit: the group is misprogrammed.
    HalfUnfold: Misprogram, "unfold" = sides(at(CONTIG), at(RW)).group(Group::FirstHalf);
    /// The first half of a Contiguous group becomes read-only: the group is misprogrammed.
    HalfRwRo: Misprogram, "rw-ro" = sides(at(CONTIG), at(CONTIG_RO)).group(Group::FirstHalf);
    /// Normal Write-Back memory becomes Device-nGnRE.
    RetypeWbDevice: Retype, "wb-device" = sides(at(RW), at(typed(memory::DEVICE_NGNRE, RW)));
    /// Device-nGnRE memory becomes Normal Write-Back.
    RetypeDeviceWb: Retype, "device-wb" = sides(at(typed(memory::DEVICE_NGNRE, RW)), at(RW));
    /// Device-nGnRE memory becomes Device-nGnRnE.
    RetypeDevice: Retype, "device" = sides(at(typed(memory::DEVICE_NGNRE, RW)), at(typed(memory::DEVICE_NGNRNE, RW)));
    /// Normal memory becomes Non-cacheable.
    CacheWbNc: Cacheability, "wb-nc" = sides(at(RW), at(typed(memory::NON_CACHEABLE, RW)));
    /// Normal Non-cacheable memory becomes Write-Back.
    CacheNcWb: Cacheability, "nc-wb" = sides(at(typed(memory::NON_CACHEABLE, RW)), at(RW));
    /// Normal Write-Back memory becomes Write-Through.
    CacheWbWt: Cacheability, "wb-wt" = sides(at(RW), at(typed(memory::WRITE_THROUGH, RW)));
    /// Normal Write-Back memory becomes outer Non-cacheable.
    CacheOuter: Cacheability, "outer" = sides(at(RW), at(typed(memory::OUTER_NON_CACHEABLE, RW)));
    /// Inner Shareable memory becomes Outer Shareable.
    ShareOuter: Shareability, "is-os" = sides(at(RW), at(shared(Shareability::Outer, RW)));
    /// Outer Shareable memory becomes Inner Shareable.
    ShareInner: Shareability, "os-is" = sides(at(shared(Shareability::Outer, RW)), at(RW));
    /// The Access flag is set.
    AgeSet: Age, "set" = sides(at(NO_AF), at(RW));
    /// The Access flag is cleared.
    AgeClear: Age, "clear" = sides(at(RW), at(NO_AF));
    /// The Access flag is cleared, and hardware sets it.
    HwAgeClear: HwAge, "clear" = sides(at(RW), at(NO_AF)).hardware(AccessFlag);
    /// A leaf whose Access flag hardware sets becomes read-only.
    HwAgeProtect: HwAge, "rw-ro" = sides(at(NO_AF), at(NO_AF_RO)).hardware(AccessFlag);
    /// A leaf whose Access flag hardware sets gets another output address, writable before and after.
    HwAgeRemap: HwAge, "rw" = sides(at(NO_AF), at(NO_AF).second()).hardware(AccessFlag);
    /// A leaf whose Access flag hardware sets gets another output address, read-only, where the same contents are.
    HwAgeRemapSame: HwAge, "ro-same" = sides(at(NO_AF_RO), at(NO_AF_RO).second()).same_contents().hardware(AccessFlag);
    /// A writable-dirty leaf is made clean.
    DirtyClean: Dirty, "clean" = sides(at(DIRTY), at(CLEAN)).hardware(Dirty);
    /// A writable-clean leaf becomes read-only: DBM is cleared.
    DirtyProtect: Dirty, "protect" = sides(at(CLEAN), at(RO)).hardware(Dirty);
    /// A read-only leaf becomes writable-clean: DBM is set.
    DirtyGrant: Dirty, "grant" = sides(at(RO), at(CLEAN)).hardware(Dirty);
    /// A writable-clean leaf becomes executable.
    DirtyExec: Dirty, "xn-x" = sides(at(CLEAN), at(Attributes { el1_execute: true, ..CLEAN })).hardware(Dirty);
    /// A writable-clean leaf gets another output address.
    DirtyRemap: Dirty, "remap" = sides(at(CLEAN), at(CLEAN).second()).hardware(Dirty);
    /// A block whose Access flag hardware sets becomes tables of such leaves.
    CarrySplitAge: Carry, "split-age" = sides(at(NO_AF), below(NO_AF)).hardware(AccessFlag);
    /// Tables of leaves whose Access flags hardware sets become such a block.
    CarryMergeAge: Carry, "merge-age" = sides(below(NO_AF), at(NO_AF)).hardware(AccessFlag);
    /// A writable-clean block becomes tables of writable-clean leaves.
    CarrySplit: Carry, "split" = sides(at(CLEAN), below(CLEAN)).hardware(Dirty);
    /// Tables of writable-clean leaves become a writable-clean block.
    CarryMerge: Carry, "merge" = sides(below(CLEAN), at(CLEAN)).hardware(Dirty);
    /// A leaf becomes not executable at EL0 (UXN), which EL1 does not notice.
    ExecUxnSet: Exec, "uxn-set" = sides(at(ALL_X), at(RX));
    /// A leaf becomes executable at EL0 (UXN), which EL1 does not notice.
    ExecUxnClear: Exec, "uxn-clear" = sides(at(RX), at(ALL_X));
    /// A leaf becomes not executable at all (UXN and PXN).
    ExecXnSet: Exec, "xn-set" = sides(at(ALL_X), at(RO));
    /// A leaf becomes executable everywhere (UXN and PXN).
    ExecXnClear: Exec, "xn-clear" = sides(at(RO), at(ALL_X));
    /// A global leaf becomes non-global.
    GlobalClear: Globalise, "g-ng" = sides(at(RW), at(NOT_GLOBAL));
    /// A non-global leaf becomes global.
    GlobalSet: Globalise, "ng-g" = sides(at(NOT_GLOBAL), at(RW));
    /// A global leaf becomes non-global, and gets another output address.
    RemapToNg: Globalise, "g-ng-rw" = sides(at(RW), at(NOT_GLOBAL).second());
    /// A non-global leaf becomes global, and gets another output address.
    RemapToGlobal: Globalise, "ng-g-rw" = sides(at(NOT_GLOBAL), at(RW).second());
    /// A non-global leaf gets another output address, writable before and after.
    RemapNg: Asid, "rw" = sides(at(NOT_GLOBAL), at(NOT_GLOBAL).second());
    /// A non-global leaf gets another output address; a form of TLBI, all, by ASID or by VA, is under test.
    TlbiRemap: Tlbi, "" = sides(at(NOT_GLOBAL), at(NOT_GLOBAL).second());
    /// A non-global leaf gets another output address; a form of TLBI by range is under test.
    RangeRemap: TlbiRange, "" = sides(at(NOT_GLOBAL), at(NOT_GLOBAL).second());
    /// A non-global leaf becomes read-only; a form of TLBI, all, by ASID or by VA, is under test.
    TlbiProtect: Tlbi, "ro" = sides(at(NOT_GLOBAL), at(Attributes { writable: false, ..NOT_GLOBAL }));
    /// A non-global leaf becomes read-only; a form of TLBI by range is under test.
    RangeProtect: TlbiRange, "ro" = sides(at(NOT_GLOBAL), at(Attributes { writable: false, ..NOT_GLOBAL }));
    /// Tables become a read-only block elsewhere, and are freed behind a form of TLBI that is under test.
    Freed: Freed, "" = sides(below(RO), at(RO).second());
    /// A leaf gets another output address, while stores to the old one are under way.
    LateRemap: Late, "rw" = sides(at(RW), at(RW).second());
    /// A leaf becomes read-only, while stores are under way.
    LateProtect: Late, "rw-ro" = sides(at(RW), at(RO));
    /// A block becomes tables whose leaves map the same; accesses go on until the TLBI.
    ProgressSplit: Progress, "split" = sides(at(RW), below(RW));
    /// Tables become a block that maps the same; accesses go on until the TLBI.
    ProgressMerge: Progress, "merge" = sides(below(RW), at(RW));
    /// The leaves of a group get the Contiguous bit; accesses go on until the TLBI.
    ProgressFold: Progress, "fold" = sides(at(RW), at(CONTIG)).group(Group::All);
    /// The leaves of a Contiguous group lose the bit; accesses go on until the TLBI.
    ProgressUnfold: Progress, "unfold" = sides(at(CONTIG), at(RW)).group(Group::All);
    /// The first half of a group gets the Contiguous bit; accesses go on until the TLBI.
    ProgressHalfFold: Progress, "half-fold" = sides(at(RW), at(CONTIG)).group(Group::FirstHalf);
    /// The first half of a Contiguous group loses the bit; accesses go on until the TLBI.
    ProgressHalfUnfold: Progress, "half-unfold" = sides(at(CONTIG), at(RW)).group(Group::FirstHalf);
    /// A block becomes tables whose leaves map the same; no store lands elsewhere.
    ContainSplit: Contain, "split" = sides(at(RW), below(RW));
    /// Tables become a block that maps the same; no store lands elsewhere.
    ContainMerge: Contain, "merge" = sides(below(RW), at(RW));
    /// A leaf gets another output address; no store lands elsewhere.
    ContainRemap: Contain, "rw" = sides(at(RW), at(RW).second());
    /// A block becomes tables whose leaves map another frame; no store lands elsewhere.
    ContainRemapOut: Contain, "out" = sides(at(RW), below(RW).second());
    /// The first half of a group gets the Contiguous bit; no store lands elsewhere.
    ContainHalfFold: Contain, "half-fold" = sides(at(RW), at(CONTIG)).group(Group::FirstHalf);
    /// The first half of a Contiguous group loses the bit; no store lands elsewhere.
    ContainHalfUnfold: Contain, "half-unfold" = sides(at(CONTIG), at(RW)).group(Group::FirstHalf);
    /// A block becomes tables whose leaves map the same.
    RecoverSplit: Recover, "split" = sides(at(RW), below(RW));
    /// Tables become a block that maps the same.
    RecoverMerge: Recover, "merge" = sides(below(RW), at(RW));
    /// A group of leaves gets the Contiguous bit.
    RecoverFold: Recover, "fold" = sides(at(RW), at(CONTIG)).group(Group::All);
    /// A group of leaves loses the Contiguous bit.
    RecoverUnfold: Recover, "unfold" = sides(at(CONTIG), at(RW)).group(Group::All);
    /// A block becomes tables whose leaves are non-global, as it is, and map the same.
    RecoverSplitNg: Recover, "split-ng" = sides(at(NOT_GLOBAL), below(NOT_GLOBAL));
    /// A block becomes tables whose leaves map the same; the stack of who does it is in the block.
    OwnStack: Own, "stack" = sides(at(RWX), below(RWX));
    /// A block becomes tables whose leaves map the same; the code that does it is in the block.
    OwnCode: Own, "code" = sides(at(RWX), below(RWX));
    /// A block becomes tables whose leaves map the same; the vectors of who does it are in the block.
    OwnVectors: Own, "vectors" = sides(at(RWX), below(RWX));
    /// A block becomes tables whose leaves map the same; the table that holds its descriptor is in the block.
    OwnTable: Own, "table" = sides(at(RWX), below(RWX));
    /// A block becomes tables whose leaves map the same; stack, code, vectors and table of who does it are in the block.
    OwnAll: Own, "all" = sides(at(RWX), below(RWX));
}

impl What {
    /// The kind of change of this family and word.
    #[must_use]
    pub fn named(family: Family, word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|what| what.family() == family && what.word() == word)
    }

    /// Whether a form of TLBI is under test, and this is one that fits.
    const fn takes(self, form: Option<Form>) -> bool {
        match (self, form) {
            (Self::TlbiRemap | Self::TlbiProtect, Some(form)) => !form.op.is_range() && !matches!(form.aim, Aim::Each),
            (Self::RangeRemap | Self::RangeProtect, Some(form)) => form.op.is_range(),
            (Self::Freed, Some(form)) => matches!(form.aim, Aim::Hit | Aim::Each) && !matches!(form.op, Op::Aside1),
            (_, form) => form.is_some() == self.takes_forms(),
        }
    }

    const fn takes_forms(self) -> bool {
        matches!(self, Self::TlbiRemap | Self::TlbiProtect | Self::RangeRemap | Self::RangeProtect | Self::Freed)
    }

    /// What of the change's own stands in the block, if that is what it is about.
    #[must_use]
    pub const fn own(self) -> Option<Own> {
        match self {
            Self::OwnStack => Some(Own { stack: true, ..Own::NOTHING }),
            Self::OwnCode => Some(Own { code: true, ..Own::NOTHING }),
            Self::OwnVectors => Some(Own { vectors: true, ..Own::NOTHING }),
            Self::OwnTable => Some(Own { table: true, ..Own::NOTHING }),
            Self::OwnAll => Some(Own::ALL),
            _ => None,
        }
    }

    /// Whether a side of it has tables.
    #[must_use]
    pub const fn has_tables(self) -> bool {
        let Sides { old, new, .. } = self.sides();
        old.below || new.below
    }
}

/// The transition of a case, with its geometry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Change {
    what: What,
    level: Level,
    leaf: Level,
    width: Width,
    form: Option<Form>,
}

/// The one descriptor that a [`Change`] replaces, or the first of several, before and after.
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
    /// `what` at the descriptor of this level, the leaves below a table one level deeper.
    ///
    /// # Panics
    /// It needs tables and there is no deeper level.
    #[must_use]
    pub const fn new(what: What, level: Level) -> Self {
        let leaf = match (what.has_tables(), level.next()) {
            (false, _) => level,
            (true, Some(next)) => next,
            (true, None) => panic!("no level below"),
        };
        Self { what, level, leaf, width: Width::Bits48, form: None }
    }

    /// The same with leaves below a table at `leaf`.
    #[must_use]
    pub const fn down_to(self, leaf: Level) -> Self {
        Self { leaf, ..self }
    }

    /// The same in descriptors with 52-bit output addresses: TCR_EL1.DS is set (FEAT_LPA2).
    #[must_use]
    pub const fn wide(self) -> Self {
        Self { width: Width::Bits52, ..self }
    }

    /// Whether its descriptors have 52-bit output addresses.
    #[must_use]
    pub const fn is_wide(self) -> bool {
        matches!(self.width, Width::Bits52)
    }

    /// The format of its tables.
    #[must_use]
    pub const fn format(self, granule: Granule) -> Format {
        Format { granule, width: self.width }
    }

    /// The same with this form of TLBI under test.
    #[must_use]
    pub const fn with_form(self, form: Form) -> Self {
        Self { form: Some(form), ..self }
    }

    /// The form of TLBI under test, if there is one.
    #[must_use]
    pub const fn form(self) -> Option<Form> {
        self.form
    }

    /// What it is.
    #[must_use]
    pub const fn what(self) -> What {
        self.what
    }

    /// The family that it belongs to.
    #[must_use]
    pub const fn family(self) -> Family {
        self.what.family()
    }

    /// What of its own stands in the block, if that is what it is about.
    #[must_use]
    pub const fn own(self) -> Option<Own> {
        self.what.own()
    }

    /// The level of the descriptors that are changed live.
    #[must_use]
    pub const fn level(self) -> Level {
        self.level
    }

    /// The level of the leaves below a table, if a side has one; otherwise [`level`](Self::level).
    #[must_use]
    pub const fn leaf_level(self) -> Level {
        self.leaf
    }

    /// How many levels of tables are below the descriptor on a side that has some.
    #[must_use]
    pub const fn levels_below(self) -> usize {
        (self.leaf.number() - self.level.number()) as usize
    }

    /// What its levels and word say in an id, if they say a change. The [format](Self::format) is said before them.
    #[must_use]
    pub fn parse(family: Family, text: &str) -> Option<Self> {
        let (first, rest) = text.split_once('-').unwrap_or((text, ""));
        let level = Level::parse(first)?;
        let (second, behind) = rest.split_once('-').unwrap_or((rest, ""));
        let (leaf, word) = match Level::parse(second) {
            // "l1-l2" would be a second spelling of "l1".
            Some(leaf) if leaf > level && Some(leaf) != level.next() => (Some(leaf), behind),
            Some(_) => return None,
            None => (None, rest),
        };
        let (what, form) = match What::named(family, "") {
            Some(what) if what.takes_forms() => {
                let named = word.split_once('-').and_then(|(word, form)| Some((What::named(family, word)?, form)));
                let (what, form) = named.unwrap_or((what, word));
                (what, Some(Form::parse(form)?))
            }
            _ => (What::named(family, word)?, None),
        };
        // A '-' with nothing behind it.
        if text.ends_with('-') || what.has_tables() && level.next().is_none() {
            return None;
        }
        let change = Self { form, ..Self::new(what, level) };
        match leaf {
            Some(leaf) if what.has_tables() => Some(change.down_to(leaf)),
            Some(_) => None,
            None => Some(change),
        }
    }

    /// Whether the granule has such a change: blocks only where it has blocks, and groups of a size that can be had.
    #[must_use]
    pub const fn exists(self, granule: Granule) -> bool {
        let Sides { old, new, group, .. } = self.what.sides();
        let format = self.format(granule);
        let geometry = if old.below && new.below {
            self.leaf.number() > self.level.number() && format.at(self.level).exists()
        } else {
            format.at(self.level).allows_leaf() && (!self.what.has_tables() || self.leaf.number() > self.level.number())
        };
        // Descriptors of FEAT_LPA2 are those of the smaller granules, and have no Shareability that could differ.
        let width =
            !self.is_wide() || !matches!(granule, Granule::K64) && Self::ordinary_sh(old) && Self::ordinary_sh(new);
        // A page of 4K has no address bits that the operand of a TLBI would name and the TLBI ignore.
        let within = matches!(self.form, Some(Form { aim: Aim::Within, .. }));
        // hv's own map is of 4K, and so large a block has room for all.
        let own = matches!((granule, self.level), (Granule::K4, Level::L2)) && !self.is_wide();
        geometry
            && width
            && (own || self.own().is_none())
            && self.what.takes(self.form)
            && !(within && matches!(granule, Granule::K4))
            && format.at(self.leaf).allows_leaf()
            && (matches!(group, Group::One) || contiguous_group(granule, self.level).is_some())
            && (!self.is_partial(granule) || self.may_be_partial())
    }

    /// Whether there is memory behind no more than a part of the window: a block of 64 or 512 GiB. What is looked at is that
    /// part, and stage 2 keeps everybody from what is behind the rest.
    #[must_use]
    pub const fn is_partial(self, granule: Granule) -> bool {
        /// The largest window for which a machine is expected to have memory, in bytes.
        const LARGEST: u64 = 1 << 30;
        self.window_size(granule) > LARGEST
    }

    /// Only a block that FEAT_LPA2 brings need be larger than memory, and no memory is as far off as a second one of them.
    const fn may_be_partial(self) -> bool {
        let Sides { group, behind, hardware, .. } = self.what.sides();
        let near = !self.what.has_tables() || self.leaf.number() == self.level.number() + 1;
        let plain = matches!((group, behind, hardware), (Group::One, Behind::Nothing, HardwareUpdates::Off));
        self.is_wide() && near && plain && !self.moves() && self.margin() == 0
    }

    /// Bytes of memory behind the window, a power of two: all of it, or the [part](Self::is_partial) that there is.
    #[must_use]
    pub const fn frame_size(self, granule: Granule) -> u64 {
        /// The part of a window that is looked at.
        const PART: u64 = 2 << 20;
        if self.is_partial(granule) { PART } else { self.window_size(granule) }
    }

    const fn ordinary_sh(side: Side) -> bool {
        matches!(side.attributes.shareability, Shareability::Inner)
    }

    /// How many descriptors the window has, at the level of the change.
    #[must_use]
    pub const fn entries(self, granule: Granule) -> usize {
        match self.what.sides().behind {
            Behind::Leaves => 2 * self.group_size(granule),
            Behind::Nothing | Behind::Hole => self.group_size(granule),
        }
    }

    const fn group_size(self, granule: Granule) -> usize {
        match self.what.sides().group {
            Group::One => 1,
            Group::All | Group::FirstHalf => match contiguous_group(granule, self.level) {
                Some(entries) => entries,
                None => 1,
            },
        }
    }

    /// How many of them change, the first ones.
    #[must_use]
    pub const fn changed(self, granule: Granule) -> usize {
        match self.what.sides().group {
            Group::FirstHalf => self.group_size(granule) / 2,
            Group::One | Group::All => self.group_size(granule),
        }
    }

    /// How many of them are valid, the first ones.
    #[must_use]
    pub const fn valid(self, granule: Granule) -> usize {
        match self.what.sides().behind {
            Behind::Hole => self.changed(granule),
            Behind::Nothing | Behind::Leaves => self.entries(granule),
        }
    }

    /// Bytes of address that its descriptors map.
    #[must_use]
    pub const fn window_size(self, granule: Granule) -> u64 {
        self.entries(granule) as u64 * self.level.size(granule)
    }

    /// At how many sites an instance has its window, side by side and all to the same frames. A round has one of them, and
    /// then all are changed back at once: so rounds cost less, and what a TLB holds of one is still there in the next ones.
    /// One, where a table is taken out of use, which is spoilt, or hardware writes into descriptors: these are not shared.
    #[must_use]
    pub const fn sites(self, granule: Granule) -> usize {
        /// Descriptors of all of them: what it takes to write these is small beside a round.
        const DESCRIPTORS: usize = 64;
        const MOST: usize = 16;
        if self.frees_table() || !matches!(self.what.sides().hardware, HardwareUpdates::Off) {
            return 1;
        }
        match DESCRIPTORS / self.entries(granule) {
            0 => 1,
            // Both are powers of two, and a table has more descriptors than that.
            sites if sites < MOST => sites,
            _ => MOST,
        }
    }

    const fn leaf_of(self, side: Side) -> Leaf {
        Leaf { level: if side.below { self.leaf } else { self.level }, attributes: side.attributes }
    }

    /// How many frames nothing maps to lie on either side of those the window maps to.
    #[must_use]
    pub const fn margin(self) -> u64 {
        matches!(self.family().watch(), Watch::Surroundings) as u64
    }

    /// The leaves that map the window before the change.
    #[must_use]
    pub const fn old_leaf(self) -> Leaf {
        self.leaf_of(self.what.sides().old)
    }

    /// The leaves that map the window after it.
    #[must_use]
    pub const fn new_leaf(self) -> Leaf {
        self.leaf_of(self.what.sides().new)
    }

    /// Whether a block becomes a table, or a table a block.
    #[must_use]
    pub const fn resizes(self) -> bool {
        let Sides { old, new, .. } = self.what.sides();
        old.below != new.below
    }

    /// What a form of TLBI is aimed at, if the window begins at `base`, in bytes.
    #[must_use]
    pub const fn target(self, granule: Granule, base: u64) -> Target {
        let (size, leaf) = (self.window_size(granule), self.old_leaf().level);
        Target { format: self.format(granule), base, size, leaf, tree: self.frees_table() }
    }

    /// Whether a table is taken out of use.
    #[must_use]
    pub const fn frees_table(self) -> bool {
        self.what.sides().old.below
    }

    /// Whether the window's output address changes, from the first frame to the second.
    #[must_use]
    pub const fn moves(self) -> bool {
        self.what.sides().new.second
    }

    /// Whether old and new mapping lead to the same contents: the same frame, or a copy of it.
    #[must_use]
    pub const fn contents_equal(self) -> bool {
        !self.moves() || self.what.sides().same_contents
    }

    /// How the change leaves its group, if it has one.
    #[must_use]
    pub const fn leaves(self) -> Grouping {
        let Sides { old, new, group, behind, .. } = self.what.sides();
        match (group, old.attributes.contiguous, new.attributes.contiguous) {
            // What is invalid has no Contiguous bit (I_PGVGZ).
            _ if matches!(behind, Behind::Hole) => Grouping::Sound,
            (Group::FirstHalf, true, true) => Grouping::Differing,
            (Group::FirstHalf, true, false) | (Group::FirstHalf, false, true) => Grouping::Mixed,
            _ => Grouping::Sound,
        }
    }

    /// Whether one of its leaves belongs to an ASID.
    #[must_use]
    pub const fn uses_asids(self) -> bool {
        let Sides { old, new, .. } = self.what.sides();
        old.attributes.not_global || new.attributes.not_global
    }

    /// Whether both mappings are the memory that observers of the ordinary kind expect: Normal, Write-Back, Inner
    /// Shareable. Otherwise what is written by one mapping is seen by another only behind cache maintenance.
    #[must_use]
    pub const fn is_ordinary_memory(self) -> bool {
        let Sides { old, new, .. } = self.what.sides();
        Self::ordinary(old.attributes) && Self::ordinary(new.attributes)
    }

    const fn ordinary(attributes: Attributes) -> bool {
        attributes.attr_index == RW.attr_index && matches!(attributes.shareability, Shareability::Inner)
    }

    /// The first of its descriptors. `old_oa` and `new_oa` are the output addresses in bytes, the same unless
    /// it [moves](Self::moves); `tables` are the addresses of the first tables below either side, unused where there
    /// is none. The leaves below them are [`old_leaf`](Self::old_leaf)s and [`new_leaf`](Self::new_leaf)s.
    #[must_use]
    pub const fn descriptors(self, granule: Granule, old_oa: u64, new_oa: u64, tables: [u64; 2]) -> Descriptors {
        self.descriptors_in(Regime::El1, granule, [old_oa, new_oa], tables)
    }

    /// The same in tables of `regime`.
    #[must_use]
    pub const fn descriptors_in(
        self,
        regime: Regime,
        granule: Granule,
        oas: [u64; 2],
        tables: [u64; 2],
    ) -> Descriptors {
        let Sides { old: old_side, new: new_side, .. } = self.what.sides();
        let format = self.format(granule);
        let layout = format.at(self.level);
        let old = match old_side.below {
            true => layout.table(tables[0]),
            false => self.old_leaf().descriptor_in(regime, format, oas[0]),
        };
        let new = match new_side.below {
            true => layout.table(tables[1]),
            false => self.new_leaf().descriptor_in(regime, format, oas[1]),
        };
        let block = if old_side.below && !new_side.below { new } else { old };
        Descriptors { old, new, block }
    }

    /// The pair of descriptors that the rules judge. `descriptors` are those of the change. The harness runs without
    /// hardware updates of descriptors, and the two memory types it uses have an AttrIndx each.
    #[must_use]
    pub const fn transition(self, granule: Granule, descriptors: Descriptors) -> Transition {
        Transition { old: descriptors.old, new: descriptors.new, context: self.context(granule) }
    }

    /// What must be known about it besides its descriptors.
    #[must_use]
    pub const fn context(self, granule: Granule) -> Context {
        Context {
            mair: Some(memory::MAIR),
            contents_equal: self.contents_equal(),
            same_mapping: !self.moves(),
            hardware: self.what.sides().hardware,
            width: self.width,
            ..Context::new(granule, self.level())
        }
    }

    /// What it needs at this BBM level.
    #[must_use]
    pub fn needs(self, granule: Granule, bbm: BbmLevel) -> Needed {
        self.transition(granule, self.example(granule)).needs(bbm)
    }

    /// Its descriptors with addresses that stand for any others: no rule looks at more than their being different.
    pub(crate) fn example(self, granule: Granule) -> Descriptors {
        let size = self.window_size(granule);
        let new_oa = if self.moves() { 2 * size } else { size };
        self.descriptors(granule, size, new_oa, [3, 5].map(|page| page * granule.page_size()))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.level)?;
        // The step to the next level is the usual one and not spelled out.
        if self.what.has_tables() && self.level.next() != Some(self.leaf) {
            write!(f, "-{}", self.leaf)?;
        }
        match (self.form, self.what.word()) {
            (Some(form), "") => write!(f, "-{form}"),
            (Some(form), word) => write!(f, "-{word}-{form}"),
            (None, "") => Ok(()),
            (None, word) => write!(f, "-{word}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, format, string::ToString, vec::Vec};

    use super::*;
    use crate::{descriptor::DescriptorKind, group::GroupChange, testing};

    #[test]
    fn sides_are_what_descriptors_say() {
        for granule in Granule::ALL {
            for change in testing::changes(granule) {
                let id = format!("{} {change}", change.family());
                let new_oa = if change.moves() { 1 << 41 } else { 1 << 40 };
                let Descriptors { old, new, block } = change.descriptors(granule, 1 << 40, new_oa, [1 << 16, 1 << 17]);
                let (level, sides) = (change.level(), change.what().sides());
                let layout = change.format(granule).at(level);
                let kinds = [old, new, block].map(|descriptor| layout.kind(descriptor));
                assert_eq!(kinds[0] == DescriptorKind::Table, sides.old.below, "{id}");
                assert_eq!(kinds[1] == DescriptorKind::Table, sides.new.below, "{id}");
                assert_eq!(kinds[2] == DescriptorKind::Table, sides.old.below && sides.new.below, "{id}");
                for (side, leaf, descriptor) in
                    [(sides.old, change.old_leaf(), old), (sides.new, change.new_leaf(), new)]
                {
                    assert_eq!(leaf.level, if side.below { change.leaf_level() } else { level }, "{id}");
                    if !side.below {
                        assert_eq!(layout.attributes(descriptor), leaf.attributes, "{id}");
                        assert_eq!(layout.oa(descriptor), if side.second { 1 << 41 } else { 1 << 40 }, "{id}");
                    }
                }
                // The first frame is where a change starts; else nothing could be seen to move.
                assert!(!sides.old.second, "{id}");
                assert!(old != new || sides.old.below, "{id}");
            }
        }
    }

    #[test]
    fn groups_are_left_as_their_descriptors_say() {
        for granule in Granule::ALL {
            for change in testing::changes(granule).into_iter().filter(|change| change.group_size(granule) > 1) {
                let Descriptors { old, new, .. } = change.example(granule);
                let size = change.level().size(granule);
                let all = |first: Descriptor| -> Vec<Descriptor> {
                    let nth = |n| Descriptor::from_raw(first.raw() + n * size);
                    let valid = |n| if n < change.valid(granule) as u64 { nth(n) } else { Descriptor::INVALID };
                    (0..change.group_size(granule) as u64).map(valid).collect()
                };
                let (old, new) = (all(old), all(new));
                let group = GroupChange::new(change.context(granule), &old, &new).expect("a group");
                assert_eq!(group.first(change.changed(granule)).leaves(), change.leaves(), "{change:?}");
            }
        }
    }

    #[test]
    fn names_tell_changes_apart() {
        let names: BTreeSet<_> = What::ALL.iter().map(|what| (what.family(), what.word())).collect();
        assert_eq!(names.len(), What::ALL.len());
        for &what in What::ALL {
            assert_eq!(What::named(what.family(), what.word()), Some(what));
            assert!(what.describe().ends_with('.') && Level::parse(what.word()).is_none(), "{what:?}");
        }
    }

    #[test]
    fn a_change_reads_back() {
        for granule in Granule::ALL {
            for change in testing::changes(granule) {
                let read = Change::parse(change.family(), &change.to_string());
                let wide = |read: Change| if change.is_wide() { read.wide() } else { read };
                assert_eq!(read.map(wide), Some(change), "{change:?}");
            }
        }
        for (family, text) in [
            (Family::Split, ""),
            (Family::Split, "l2-"),
            (Family::Split, "l1-l2"),
            (Family::Split, "l3"),
            (Family::Split, "l2-rw"),
            (Family::Remap, "l3"),
            (Family::Remap, "l2-l3-rw"),
            (Family::Remap, "l3-rw-"),
            (Family::Table, "l2-l3-same"),
        ] {
            assert_eq!(Change::parse(family, text), None, "{family} {text}");
        }
    }

    #[test]
    fn groups_are_whole_or_half() {
        let at = |what, level, granule| {
            let change = Change::new(what, level);
            (change.entries(granule), change.changed(granule), change.window_size(granule))
        };
        assert_eq!(at(What::Fold, Level::L3, Granule::K4), (16, 16, 64 << 10));
        assert_eq!(at(What::HalfFold, Level::L3, Granule::K16), (128, 64, 2 << 20));
        assert_eq!(at(What::Fold, Level::L2, Granule::K16), (32, 32, 1 << 30));
        assert_eq!(at(What::RemapNext, Level::L3, Granule::K16), (2, 1, 32 << 10));
        assert_eq!(at(What::ContigNext, Level::L3, Granule::K4), (32, 16, 128 << 10));
        assert_eq!(at(What::ContigHole, Level::L3, Granule::K64), (32, 16, 2 << 20));
        assert_eq!(Change::new(What::ContigHole, Level::L3).valid(Granule::K64), 16);
        let sites = |what, level, granule| Change::new(what, level).sites(granule);
        assert_eq!(sites(What::RemapNext, Level::L3, Granule::K16), 16);
        assert_eq!(sites(What::ContigNext, Level::L3, Granule::K4), 2);
        assert_eq!(sites(What::Fold, Level::L3, Granule::K16), 1);
        assert_eq!(sites(What::Merge, Level::L2, Granule::K4), 1);
        assert_eq!(at(What::RemapRw, Level::L2, Granule::K64), (1, 1, 512 << 20));
        assert!(!Change::new(What::Fold, Level::L2).exists(Granule::K64), "16 GiB");
    }
}
