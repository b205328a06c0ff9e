//! Profiles: each a CPU that the architecture allows. Defects: each one mistake on top of a profile. Both are data.
//!
//! A profile says what the CPU claims (MIDR_EL1, ID_AA64MMFR2_EL1.BBM), how it treats nT, what it does when several
//! entries match, and how likely it uses each freedom. The likelihoods carry no meaning: they only decide how many
//! seeds it takes to see something.

use std::fmt;

use vmsa::BbmLevel;

use crate::choice::Odds;

/// What a Block with nT=1 does (R_MRRPW).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Nt {
    /// The bit is RES0 and ignored: the CPU has no FEAT_BBML1.
    Ignored,
    /// An access takes a Translation fault.
    Fault,
    /// An access walks, and the result is never cached.
    Walk,
    /// An access walks, the result is kept, and may conflict with an entry of another size; never more than that.
    Kept,
}

/// What a lookup that several entries match may give.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Answers {
    /// A TLB conflict abort.
    pub abort: bool,
    /// What any one of them gives.
    pub either: bool,
    /// A mixture of them (R_FVQCK), contained by stage 2.
    pub amalgam: bool,
}

impl Answers {
    /// Any one of the matching entries.
    pub const EITHER: Self = Self { abort: false, either: true, amalgam: false };
    /// Any one of them, or a conflict abort.
    pub const OR_ABORT: Self = Self { abort: true, either: true, amalgam: false };
    /// Whatever R_FVQCK allows.
    pub const ANY: Self = Self { abort: true, either: true, amalgam: true };
}

/// A CPU.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Profile {
    /// The name on the command line.
    pub name: &'static str,
    /// MIDR_EL1. Implementer 0x00 is reserved for software use, so no CPU has such a value.
    pub midr: u64,
    /// ID_AA64MMFR2_EL1.BBM.
    pub bbm: BbmLevel,
    /// The granule of 16K at both stages. What software does with it on a CPU that lacks it is the software's mistake;
    /// this one translates all the same.
    pub k16: bool,
    /// Addresses of 52 bits, with FEAT_LPA2, FEAT_LPA and FEAT_LVA; else of 48.
    pub lpa2: bool,
    /// Blocks with nT=1.
    pub nt: Nt,
    /// Entries that differ in nothing but block size or the Contiguous bit.
    pub size: Answers,
    /// Entries that differ in something that needs break-before-make.
    pub other: Answers,
    /// Entries of one PE. With none every access walks, which the architecture lets a CPU do.
    pub capacity: usize,
    /// At a step: one entry is given up.
    pub evict: Odds,
    /// At a step: a walk that nobody asked for.
    pub speculate: Odds,
    /// At a step: one TLBI under way takes effect. [`Odds::ALWAYS`] means at its issue.
    pub invalidate: Odds,
    /// A TLBI takes effect on a PE no earlier than the DSB that completes it.
    pub lazy: Odds,
    /// On the PE that issued it, what a TLBI removes with its DSB serves accesses until the context synchronisation
    /// behind that.
    pub linger: Odds,
    /// With a TLBI that takes effect: one more entry goes.
    pub over_invalidate: Odds,
    /// A walk reads what stood there before a store that no DSB has completed.
    pub early_walk: Odds,
    /// An unsynchronised register's old value is used.
    pub early_register: Odds,
    /// A walk keeps a Table descriptor it meets.
    pub keep_table: Odds,
    /// A walk starts from a cached Table descriptor, if there is one.
    pub use_table: Odds,
    /// A Contiguous group is kept as one entry.
    pub coalesce: Odds,
    /// A block is kept as an entry of one page of it.
    pub fracture: Odds,
    /// The stages of a two-stage translation are kept apart, instead of combined. Both at once is a further choice.
    pub split_stages: Odds,
    /// The mistake it makes, if it makes one.
    pub defect: Option<Defect>,
}

impl Profile {
    const BENIGN: Self = Self {
        name: "benign",
        midr: 0x001f_b000,
        bbm: BbmLevel::L2,
        k16: true,
        lpa2: true,
        nt: Nt::Walk,
        size: Answers::EITHER,
        other: Answers::EITHER,
        capacity: 256,
        evict: Odds::NEVER,
        speculate: Odds::NEVER,
        invalidate: Odds::ALWAYS,
        lazy: Odds::NEVER,
        linger: Odds::NEVER,
        over_invalidate: Odds::NEVER,
        early_walk: Odds::NEVER,
        early_register: Odds::NEVER,
        keep_table: Odds::NEVER,
        use_table: Odds::NEVER,
        coalesce: Odds::NEVER,
        fracture: Odds::ALWAYS,
        split_stages: Odds::NEVER,
        defect: None,
    };

    const IDEAL: Self = Self {
        capacity: 96,
        evict: Odds::one_in(6),
        speculate: Odds::one_in(2),
        invalidate: Odds::one_in(3),
        lazy: Odds::one_in(2),
        linger: Odds::one_in(2),
        over_invalidate: Odds::one_in(8),
        early_walk: Odds::one_in(2),
        early_register: Odds::one_in(2),
        keep_table: Odds::one_in(2),
        use_table: Odds::one_in(2),
        coalesce: Odds::one_in(2),
        fracture: Odds::one_in(3),
        split_stages: Odds::one_in(3),
        ..Self::BENIGN
    };

    /// Every profile. The benign one is QEMU's kind: one entry a page, nothing speculative, everything at once.
    pub const ALL: [Self; 7] = [
        Self::BENIGN,
        Self {
            name: "ideal-l0",
            midr: 0x001f_b010,
            bbm: BbmLevel::L0,
            nt: Nt::Ignored,
            size: Answers::ANY,
            other: Answers::ANY,
            ..Self::IDEAL
        },
        Self {
            name: "ideal-l1-fault",
            midr: 0x001f_b020,
            bbm: BbmLevel::L1,
            lpa2: false,
            nt: Nt::Fault,
            size: Answers::ANY,
            other: Answers::ANY,
            ..Self::IDEAL
        },
        Self {
            name: "ideal-l1-walk",
            midr: 0x001f_b030,
            bbm: BbmLevel::L1,
            nt: Nt::Walk,
            size: Answers::ANY,
            other: Answers::ANY,
            ..Self::IDEAL
        },
        Self {
            name: "ideal-l2-abort",
            midr: 0x001f_b040,
            nt: Nt::Kept,
            size: Answers::OR_ABORT,
            other: Answers::ANY,
            ..Self::IDEAL
        },
        Self {
            name: "ideal-l2-quiet",
            midr: 0x001f_b050,
            nt: Nt::Fault,
            size: Answers::EITHER,
            other: Answers::EITHER,
            ..Self::IDEAL
        },
        Self {
            name: "ideal-l3",
            midr: 0x001f_b060,
            bbm: BbmLevel::L3,
            size: Answers::EITHER,
            other: Answers::OR_ABORT,
            ..Self::IDEAL
        },
    ];

    /// Profiles for one purpose each, which are no part of [`ALL`](Self::ALL): a CPU whose TLB keeps nothing, on which no
    /// control can show a TLBI that is missing; and one that lacks a granule, for machines of several types of CPU.
    pub const SPECIAL: [Self; 2] = [
        Self { name: "forgetful", midr: 0x001f_b070, capacity: 0, ..Self::BENIGN },
        Self { name: "ideal-l0-no-16k", midr: 0x001f_b080, k16: false, ..Self::ALL[1] },
    ];

    /// The profile of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().chain(Self::SPECIAL).find(|profile| profile.name == name)
    }

    /// The same CPU with one mistake.
    #[must_use]
    pub const fn with(self, defect: Defect) -> Self {
        Self { defect: Some(defect), ..self }
    }

    /// ID_AA64MMFR0_EL1.PARange as a number of bits.
    #[must_use]
    pub const fn physical_bits(&self) -> u32 {
        if self.lpa2 { 52 } else { 48 }
    }

    /// ID_AA64MMFR0_EL1: granules and PARange as `base` has them, or with 52 bits, or without 16K.
    pub(crate) const fn mmfr0(&self, base: u64) -> u64 {
        // TGran4_2, TGran16_2, TGran4, TGran16 with LPA2; TGran64 and TGran64_2 have no such value.
        const FIELDS: u64 = 0xf << 40 | 0xf << 32 | 0xf << 28 | 0xf << 20 | 0xf;
        const LPA2: u64 = 3 << 40 | 3 << 32 | 1 << 28 | 2 << 20 | 6;
        /// TGran16_2 of a CPU without the granule at stage 2; TGran16 is 0 then.
        const NO_K16_2: u64 = 1 << 32;
        let base = if self.lpa2 { base & !FIELDS | LPA2 } else { base };
        if self.k16 { base } else { base & !(0xf << 32 | 0xf << 20) | NO_K16_2 }
    }

    /// Whether it makes this mistake.
    #[inline]
    #[must_use]
    pub fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }
}

macro_rules! defects {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal on $profile:literal),+ $(,)?) => {
        /// One mistake of a CPU.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Defect {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Defect {
            /// Every defect.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The name on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// What the mistake is, in a sentence.
            #[must_use]
            pub fn mistake(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),+).trim(),)+
                }
            }

            /// The name of a profile on which the mistake makes a difference.
            #[must_use]
            pub const fn profile(self) -> &'static str {
                match self {
                    $(Self::$name => $profile,)+
                }
            }
        }
    };
}

defects! {
    /// A conflict abort for a pure size change, in spite of FEAT_BBML3.
    ConflictAtLevel3 = "conflict-at-level-3" on "ideal-l3",
    /// Of a block and a page that match, the block's base is used with the page's offset.
    AmalgamatedOa = "amalgamated-oa" on "ideal-l2-quiet",
    /// If entries of several sizes match, neither's write permission counts.
    AmalgamatedPermission = "amalgamated-permission" on "ideal-l2-quiet",
    /// A TLBI by VA removes a block only if it names the block's first page.
    BlockAfterVa = "block-after-va" on "ideal-l2-quiet",
    /// A range TLBI stops one page short.
    RangeLastPage = "range-last-page" on "ideal-l2-quiet",
    /// A TTL hint is taken for the next level.
    TtlMisread = "ttl-misread" on "ideal-l2-quiet",
    /// A broadcast does not reach the PE with the highest number.
    BroadcastMissesPe = "broadcast-misses-pe" on "ideal-l2-quiet",
    /// A TLBI by ASID leaves that ASID's entries if the ASID is odd.
    AsidKept = "asid-kept" on "ideal-l2-quiet",
    /// A TLBI by VMID leaves that VMID's entries if the VMID is odd.
    VmidKept = "vmid-kept" on "ideal-l2-quiet",
    /// VMALLE1 and its kin leave cached Table descriptors.
    VmallKeepsTables = "vmall-keeps-tables" on "ideal-l2-quiet",
    /// A TLBI by VA leaves cached Table descriptors although it is not a last-level form.
    VaKeepsTables = "va-keeps-tables" on "ideal-l2-quiet",
    /// ALLE2 leaves cached Table descriptors.
    Alle2KeepsTables = "alle2-keeps-tables" on "ideal-l2-quiet",
    /// TLBIs of EL2's own translation reach no PE but their issuer.
    El2IsLocal = "el2-is-local" on "ideal-l2-quiet",
    /// With HCR_EL2.{E2H, TGE} set, TLBIs of EL1&0 at EL2 are not taken for EL2&0's.
    TgeIgnored = "tge-ignored" on "ideal-l2-quiet",
    /// IPAS2E1 leaves stage 2 Table descriptors.
    IpaKeepsTables = "ipa-keeps-tables" on "ideal-l2-quiet",
    /// VMALLE1 leaves combined entries.
    CombinedKept = "combined-kept" on "ideal-l2-quiet",
    /// IPAS2E1 removes nothing but pages.
    IpaKeepsBlocks = "ipa-keeps-blocks" on "ideal-l2-quiet",
    /// A DSB does not wait for other PEs (E1).
    EarlyDsb = "early-dsb" on "ideal-l2-quiet",
    /// An access that entries of several sizes match does not end before the next TLBI (E2).
    NoProgress = "no-progress" on "ideal-l2-quiet",
    /// Blocks with nT=1 are cached as any other, in spite of FEAT_BBML1.
    NtIgnored = "nt-ignored" on "ideal-l1-walk",
    /// The fault for nT=1 is reported as a Permission fault.
    NtWrongStatus = "nt-wrong-status" on "ideal-l1-fault",
    /// The entry of a Contiguous group also covers the group after it.
    ContiguousPastGroup = "contiguous-past-group" on "ideal-l2-quiet",
    /// A TLBI of a Contiguous group's entry leaves its last page, which no TLBI by address finds.
    ContiguousPartKept = "contiguous-part-kept" on "ideal-l2-quiet",
    /// A TLBI by VA leaves entries that forbid writing.
    ReadOnlyKept = "read-only-kept" on "ideal-l2-quiet",
    /// A TLBI by VA leaves executable entries to instruction fetches.
    ExecuteKept = "execute-kept" on "ideal-l2-quiet",
    /// A TLBI by VA leaves entries that EL0 executes to EL0's instruction fetches.
    UserExecuteKept = "user-execute-kept" on "ideal-l2-quiet",
    /// Hardware updates of AF and dirty state are stores of the descriptor as it was walked, some time later (E5).
    UpdateMisplaced = "update-misplaced" on "ideal-l2-quiet",
    /// The halves of an access may be served from before and from after a TLBI, once.
    Torn = "torn" on "ideal-l2-quiet",
    /// A load may be served from before a TLBI, once, after a later one was served from after it.
    Reordered = "reordered" on "ideal-l2-quiet",
    /// A conflict abort goes to EL2, as one of stage 2, although stage 2 is off.
    ConflictWrongEl = "conflict-wrong-el" on "ideal-l2-abort",
    /// A conflict abort is reported as a Translation fault at level 3.
    ConflictWrongFsc = "conflict-wrong-fsc" on "ideal-l2-abort",
    /// FAR of a conflict abort holds the address of the page before.
    ConflictWrongFar = "conflict-wrong-far" on "ideal-l2-abort",
    /// If several entries match, stage 2 is left out.
    Stage2Escape = "stage2-escape" on "ideal-l2-quiet",
    /// A context synchronisation may leave old values of the registers that EL1 writes in use.
    IsbIneffective = "isb-ineffective" on "ideal-l2-quiet",
    /// Entries that fault are cached: an invalid descriptor faults until a TLBI.
    FaultCached = "fault-cached" on "ideal-l2-quiet",
    /// Entries without Access flag are cached: they fault until a TLBI.
    AccessFlagCached = "access-flag-cached" on "ideal-l2-quiet",
    /// The nXS form of a TLBI removes nothing.
    NxsIgnored = "nxs-ignored" on "ideal-l2-quiet",
    /// The Outer Shareable form of a TLBI reaches no PE but its issuer.
    OuterIsLocal = "outer-is-local" on "ideal-l2-quiet",
    /// A range TLBI is taken for one of scale 0.
    RangeScaleIgnored = "range-scale-ignored" on "ideal-l2-quiet",
    /// A range TLBI for 16K or 64K counts BaseADDR and the length of its range in 4 KiB.
    RangeIn4K = "range-in-4k" on "ideal-l2-quiet",
    /// A range TLBI takes BaseADDR for unsigned: it removes nothing of the upper VA range.
    RangeUnsigned = "range-unsigned" on "ideal-l2-quiet",
    /// A range TLBI leaves cached Table descriptors although it is not a last-level form.
    RangeKeepsTables = "range-keeps-tables" on "ideal-l2-quiet",
    /// A range TLBI counts BaseADDR in pages, also with TCR_EL1.DS.
    RangeBaseByPage = "range-base-by-page" on "ideal-l2-quiet",
    /// A TLBI by VA leaves the blocks that only FEAT_LPA2 has.
    LargestBlocksKept = "largest-blocks-kept" on "ideal-l2-quiet",
    /// A TLBI with the TTL hint of a level that has leaves only with FEAT_LPA2 removes nothing.
    LargestTtlIgnored = "largest-ttl-ignored" on "ideal-l2-quiet",
    /// A TLBI by VA removes a page of 16K or 64K only if it names the page's first 4 KiB.
    PageByFirst4K = "page-by-first-4k" on "ideal-l2-quiet",
    /// A TLBI with a TTL hint leaves blocks, also where the hint is right.
    TtlKeepsBlocks = "ttl-keeps-blocks" on "ideal-l2-quiet",
    /// ASIDE1 removes nothing.
    AsideIgnored = "aside-ignored" on "ideal-l2-quiet",
    /// A TLBI by VA and ASID leaves global entries.
    VaKeepsGlobal = "va-keeps-global" on "ideal-l2-quiet",
    /// A TLBI by VA leaves entries of Device memory.
    DeviceKept = "device-kept" on "ideal-l2-quiet",
    /// A lookup does not compare ASIDs: entries that are not global serve all of them.
    AsidIgnored = "asid-ignored" on "ideal-l2-quiet",
    /// An AT may answer by an entry that a TLBI has removed, once.
    AtStale = "at-stale" on "ideal-l2-quiet",
    /// DC by VA may go by an entry that a TLBI has removed, once.
    MaintenanceStale = "maintenance-stale" on "ideal-l2-quiet",
    /// An LSE atomic may read by an entry that a TLBI has removed and write by another, once.
    AtomicSplit = "atomic-split" on "ideal-l2-quiet",
    /// An access across a page's end goes on behind the page's PA, whatever the next page maps.
    SeamByFirst = "seam-by-first" on "ideal-l2-quiet",
    /// LDTR and STTR have EL1's permissions if the TLB has an entry for them.
    UnprivilegedIgnored = "unprivileged-ignored" on "ideal-l2-quiet",
    /// EL0 executes by EL1's permission, PXN for UXN, if the TLB has an entry.
    PxnForUxn = "pxn-for-uxn" on "ideal-l2-quiet",
    /// A hardware update leaves exclusive monitors set: a store-exclusive to the descriptor loses it (E5).
    UpdateKeepsMonitors = "update-keeps-monitors" on "ideal-l2-quiet",
    /// A load makes a clean descriptor dirty.
    DirtyByLoad = "dirty-by-load" on "ideal-l2-quiet",
    /// A store through a cached clean entry goes ahead, and its descriptor stays clean.
    DirtyLost = "dirty-lost" on "ideal-l2-quiet",
    /// A store through a cached clean entry takes a Permission fault.
    CleanFaults = "clean-faults" on "ideal-l2-quiet",
    /// After a TLBI removed an executable entry, FAR of a fetch's Permission fault there holds the address of the page before (E6).
    ExecuteFar = "execute-far" on "ideal-l2-quiet",
    /// An access that entries with and without Contiguous match does not end before the next TLBI (E2).
    ContiguousNoProgress = "contiguous-no-progress" on "ideal-l2-quiet",
    /// A Contiguous group is kept as one entry although members of it are invalid.
    ContiguousOverInvalid = "contiguous-over-invalid" on "ideal-l2-quiet",
    /// A walk that begins at a cached Table descriptor reports its Translation fault one level too high.
    TableFaultLevel = "table-fault-level" on "ideal-l2-quiet",
}

impl Defect {
    /// Whether the mistake needs to know what a TLBI has removed.
    pub(super) const fn uses_removed(self) -> bool {
        matches!(
            self,
            Self::Reordered
                | Self::Torn
                | Self::AtStale
                | Self::MaintenanceStale
                | Self::AtomicSplit
                | Self::ExecuteFar
        )
    }

    /// The defect of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|defect| defect.name() == name)
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_midrs_tell_profiles_and_defects_apart() {
        let all: Vec<_> = Profile::ALL.into_iter().chain(Profile::SPECIAL).collect();
        let names: BTreeSet<_> = all.iter().map(|profile| profile.name).collect();
        let midrs: BTreeSet<_> = all.iter().map(|profile| profile.midr).collect();
        assert_eq!((names.len(), midrs.len()), (all.len(), all.len()));
        for profile in all {
            assert_eq!(Profile::named(profile.name), Some(profile));
            assert_eq!(profile.midr >> 24, 0, "an implementer of our own");
            assert_eq!(profile.nt == Nt::Ignored, profile.bbm == BbmLevel::L0);
            let mmfr0 = profile.mmfr0(0x0222_0010_1025);
            let lpa2 = (profile.physical_bits(), mmfr0 & 0xf, mmfr0 >> 28 & 0xf, mmfr0 >> 20 & 0xf, mmfr0 >> 32);
            assert_eq!(
                lpa2,
                match (profile.lpa2, profile.k16) {
                    (true, true) => (52, 6, 1, 2, 0x323),
                    (true, false) => (52, 6, 1, 0, 0x321),
                    (false, true) => (48, 5, 0, 1, 0x222),
                    (false, false) => (48, 5, 0, 0, 0x221),
                }
            );
        }
        for defect in Defect::ALL {
            assert_eq!(Defect::named(defect.name()), Some(*defect));
            assert!(Profile::named(defect.profile()).is_some());
            assert!(!names.contains(defect.name()), "a word of a machine's name is the one or the other");
        }
        assert!(Defect::ALL.len() >= 50);
    }
}
