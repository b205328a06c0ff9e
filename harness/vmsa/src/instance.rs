//! What a test does, and its dotted id.
//!
//! The id is the only encoding of an instance: the plan, the payload, the records and the result files
//! all carry it, and everyone reads it with [`Instance::from_str`]. Which instances exist is the
//! catalogue's business (crate `cases`); this module only knows the grammar:
//!
//! ```text
//! el1.split.4k-l2.direct.load-remote[.s2off|.s2pages][.cap0|.cap1][.by-vae1]
//! ^   ^     ^     ^      ^           ^                 ^            ^ what a conflict is answered with first
//! |   |     |     |      |           |                 BBM level presented at most
//! |   |     |     |      |           stage 2 (blocks if absent); in regime s2 stage 1: s1off, s1pages (blocks if absent)
//! |   |     |     |      observer: access and place
//! |   |     |     method, or method~steps: these steps instead of the method's, a letter each (Sequence::parse)
//! |   |     granule, with -lpa2 behind it if TCR_EL1.DS is set, and geometry of the transition
//! |   transition
//! regime
//! selftest.NAME
//! ```

use core::{fmt, str::FromStr};

use crate::{
    change::{Change, Sides},
    geometry::{BbmLevel, Granule},
    layout::{Format, Width},
    permission::{Operation, Privilege},
    remedy::Remedy,
    rule::HardwareUpdates,
    sequence::Sequence,
    stress, words,
};

/// Longest id in bytes; buffers for ids have this size.
pub const MAX_ID: usize = 88;

words! {
    /// Whose translation is changed.
    Regime {
        /// EL1&0 stage 1.
        El1 = "el1",
        /// Stage 2: hv makes the change, observers run at EL1.
        S2 = "s2",
        /// EL2 stage 1: hv makes the change and the observers' accesses, each on the CPU of who asks for it.
        El2 = "el2",
        /// EL2&0 stage 1, with HCR_EL2.E2H set: the same in the half of TTBR1_EL2.
        El2Vhe = "el2vhe",
    }
}

impl Regime {
    /// Whether hv makes its changes, in tables of its own.
    #[must_use]
    pub const fn is_lab(self) -> bool {
        !matches!(self, Self::El1)
    }

    /// Whether hv makes its observers' accesses too.
    #[must_use]
    pub const fn is_at_el2(self) -> bool {
        matches!(self, Self::El2 | Self::El2Vhe)
    }

    /// Whether its tables can have this format: what hv changes has 48-bit addresses only, and EL2's own those of hv's map.
    #[must_use]
    pub const fn has_format(self, format: Format) -> bool {
        match self {
            Self::El1 => true,
            Self::S2 | Self::El2Vhe => matches!(format.width, Width::Bits48),
            Self::El2 => matches!(format, Format { granule: Granule::K4, width: Width::Bits48 }),
        }
    }

    /// Whether it has such a change under such an access: stage 2 and EL2 know no ASIDs and no permissions of EL0's own, their
    /// tables are hv's, which does not spoil them, and the address that an AT of stage 1 gives does not change with stage 2.
    #[must_use]
    pub const fn has(self, change: Change, access: Access) -> bool {
        let family = matches!(
            change.family(),
            Family::Split
                | Family::Merge
                | Family::Remap
                | Family::RemapOut
                | Family::RemapIn
                | Family::Table
                | Family::Protect
                | Family::Fold
                | Family::Unfold
                | Family::Contig
                | Family::Misprogram
                | Family::Retype
                | Family::Cacheability
                | Family::Shareability
                | Family::Age
        );
        let everywhere = matches!(
            access,
            Access::Load
                | Access::Store
                | Access::Fetch
                | Access::Atomic
                | Access::Exclusive
                | Access::Unaligned
                | Access::Walk
                | Access::Dc
        );
        // It is hv's own that it is about, which has no code in the block but that.
        let own = change.own().is_some();
        match self {
            // Its tables are at physical addresses.
            Self::El1 => !own && !matches!(access, Access::Tables),
            // It has VMIDs instead.
            Self::S2 => {
                let more =
                    matches!(access, Access::Tables | Access::OtherLoad | Access::OtherStore | Access::Misaligned);
                let marked = matches!(change.family(), Family::HwAge | Family::Dirty);
                (family && (everywhere || more) || marked && everywhere) && change.form().is_none()
            }
            Self::El2 if own => matches!(access, Access::Load | Access::Store | Access::Atomic),
            Self::El2 | Self::El2Vhe => {
                let at = matches!(access, Access::At);
                family && !own && (everywhere || at) && change.form().is_none()
            }
        }
    }
}

words! {
    /// Cases of one kind of transition; the second word of their ids.
    Family {
        /// Block to table.
        Split = "split",
        /// Table to block.
        Merge = "merge",
        /// Another output address.
        Remap = "remap",
        /// Block to a table that maps another frame.
        RemapOut = "remap-out",
        /// Table to a block that maps another frame.
        RemapIn = "remap-in",
        /// Table to another table.
        Table = "table",
        /// Permissions of EL1.
        Protect = "protect",
        /// Permissions of EL0.
        User = "user",
        /// The Contiguous bit is set on a group.
        Fold = "fold",
        /// The Contiguous bit is cleared on a group.
        Unfold = "unfold",
        /// Other changes of a Contiguous group.
        Contig = "contig",
        /// Part of a Contiguous group is changed, and the group left misprogrammed.
        Misprogram = "misprogram",
        /// Normal and Device memory.
        Retype = "retype",
        /// Inner and outer Cacheability.
        Cacheability = "cacheability",
        /// Shareability.
        Shareability = "shareability",
        /// The Access flag by software.
        Age = "age",
        /// The Access flag, which hardware sets.
        HwAge = "hw-age",
        /// Dirty state, which hardware manages.
        Dirty = "dirty",
        /// Access flag and dirty state, set by hardware and carried over a change of size.
        Carry = "carry",
        /// The permission to execute.
        Exec = "exec",
        /// The nG bit.
        Globalise = "globalise",
        /// Non-global mappings and their ASIDs.
        Asid = "asid",
        /// Forms of TLBI: all, by ASID, by VA.
        Tlbi = "tlbi",
        /// Forms of TLBI by range.
        TlbiRange = "tlbi-range",
        /// A table is freed behind a form of TLBI.
        Freed = "freed",
        /// Stores that land by the old mapping after the change is complete.
        Late = "late",
        /// Accesses go on between the write of another size and its TLBI.
        Progress = "progress",
        /// No store lands where neither mapping leads.
        Contain = "contain",
        /// TLB conflict aborts, and by what they are cleared.
        Recover = "recover",
        /// The split of a block on which stands what makes it: its stack, its code, its vectors, the table that it writes.
        Own = "self",
        /// The harness tested by itself.
        Selftest = "selftest",
    }
}

words! {
    /// A payload binary of the bundle.
    Payload {
        /// Rounds of a change under observers: every family of cases.
        Rounds = "rounds",
        /// The selftests.
        Selftest = "selftest",
    }
}

/// What is watched in the rounds of a family besides what observers see of their accesses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Watch {
    /// Nothing.
    Nothing,
    /// Whether stores still land behind the last DSB: the observers store without a look at where to, and the changer
    /// looks at the old frame.
    Landing,
    /// Whether all observers' accesses go on until the TLBI is executed.
    Progress,
    /// Whether a store has landed anywhere else in the VM's memory.
    Surroundings,
}

impl Family {
    /// What is watched in its rounds.
    #[must_use]
    pub const fn watch(self) -> Watch {
        match self {
            Self::Late => Watch::Landing,
            Self::Progress => Watch::Progress,
            Self::Contain => Watch::Surroundings,
            _ => Watch::Nothing,
        }
    }

    /// The binary that runs it.
    #[must_use]
    pub const fn payload(self) -> Payload {
        match self {
            Self::Selftest => Payload::Selftest,
            _ => Payload::Rounds,
        }
    }
}

words! {
    /// How a change is carried out.
    Method {
        /// Break-before-make (R_DDMVT): invalid, TLBI, then the new descriptor.
        Bbm = "bbm",
        /// Break by clearing the Access flag instead of the valid bit (R_XCLRD).
        BbmAf = "bbm-af",
        /// By way of a Block descriptor with nT set (FEAT_BBML1, R_KFLJB).
        Nt = "nt",
        /// The new descriptor over the old one, then the TLBI.
        Direct = "direct",
        /// The new descriptor over the old one and no TLBI: a control.
        DirectNotlbi = "direct-notlbi",
        /// As `bbm`, where the break is a compare-and-swap: what hardware has set in the old descriptor is carried over.
        BbmCas = "bbm-cas",
        /// As `nt`, by compare-and-swap.
        NtCas = "nt-cas",
        /// As `direct`, by compare-and-swap.
        DirectCas = "direct-cas",
        /// A block becomes tables, level by level: the next table is filled from the block that is live and written over it,
        /// and one TLBI follows.
        Overwrite = "overwrite",
        /// As `bbm`, by code that meanwhile takes no exception, and needs nothing of the block: itself it is run at another
        /// address, what it works with is in registers, and the descriptor is written at another address.
        BbmAsm = "bbm-asm",
        /// As `bbm`, by code that uses all that is in the block at another address, which another block maps.
        BbmAlias = "bbm-alias",
    }
}

impl Method {
    /// Whether it writes by compare-and-swap.
    #[must_use]
    pub const fn swaps(self) -> bool {
        matches!(self, Self::BbmCas | Self::NtCas | Self::DirectCas)
    }

    /// Whether the method can be carried out for `change` at all: only a Block has an nT bit, a Table descriptor has no
    /// Access flag to break it by. Where that is what changes there is nothing in between, and where hardware sets it, it
    /// keeps nobody out.
    #[must_use]
    pub const fn fits(self, change: Change) -> bool {
        let Sides { old, new, hardware, .. } = change.what().sides();
        let swaps = !matches!(hardware, HardwareUpdates::Off);
        if change.own().is_some() {
            return matches!(self, Self::Bbm | Self::BbmAsm | Self::BbmAlias | Self::Nt | Self::Direct);
        }
        match self {
            Self::BbmAsm | Self::BbmAlias => false,
            // What was live goes on in the table, and hardware's marks in it are not carried over.
            Self::Overwrite => {
                let alike = old.attributes.bits() == new.attributes.bits();
                !swaps && !old.below && new.below && !new.second && alike
            }
            Self::Nt => change.resizes(),
            Self::NtCas => swaps && change.resizes(),
            Self::BbmCas | Self::DirectCas => swaps,
            Self::BbmAf => !swaps && !old.below && old.attributes.access_flag && new.attributes.access_flag,
            Self::Bbm | Self::Direct | Self::DirectNotlbi => true,
        }
    }
}

words! {
    /// What an observer executes.
    Access {
        /// A 64-bit load.
        Load = "load",
        /// A 64-bit store, whose landing place is looked up through an alias.
        Store = "store",
        /// An instruction fetch: a call into the window.
        Fetch = "fetch",
        /// An atomic swap (FEAT_LSE) with acquire and release: it reads and writes at one place.
        Atomic = "atomic",
        /// A load-exclusive and a store-exclusive: if the store succeeds, both were at one place.
        Exclusive = "exclusive",
        /// A 64-bit load, half of it on either side of a seam between two leaves.
        Unaligned = "unaligned",
        /// A 64-bit load that is not aligned, within a leaf: Device memory answers it with an Alignment fault.
        Misaligned = "misaligned",
        /// Address translation for a read at EL1: AT S1E1R.
        At = "at",
        /// A clean of the data cache by address: DC CVAC. It translates, and faults, as long as there is a cache before the
        /// Point of Coherency (CLIDR_EL1.LoC).
        Dc = "dc",
        /// A 64-bit load behind a TLBI of the observer's own: always by a walk through the tables.
        Walk = "walk",
        /// An instruction fetch at EL0: a jump into the window, from where an SVC leads back.
        UserFetch = "user-fetch",
        /// A load with EL0's permissions: LDTR.
        UserLoad = "user-load",
        /// A store with EL0's permissions: STTR.
        UserStore = "user-store",
        /// A load with the other ASID in TTBR1_EL1, or in regime s2 the other VMID in VTTBR_EL2; before the change each is behind one
        /// with the usual one.
        OtherLoad = "other-load",
        /// A store of that kind.
        OtherStore = "other-store",
        /// A 64-bit load by way of a stage 1 table that is in the window, behind a TLBI of the observer's own: it is the walk of
        /// stage 1 that meets the change of stage 2.
        Tables = "tables",
    }
}

impl Access {
    /// Whether it stores, so that its landing place is looked up.
    #[must_use]
    pub const fn stores(self) -> bool {
        matches!(self, Self::Store | Self::UserStore | Self::OtherStore | Self::Atomic | Self::Exclusive)
    }

    /// Whether it is made with the other ASID, or VMID.
    #[must_use]
    pub const fn switches_asid(self) -> bool {
        matches!(self, Self::OtherLoad | Self::OtherStore)
    }

    /// Whose permissions it has.
    #[must_use]
    pub const fn privilege(self) -> Privilege {
        match self {
            Self::UserFetch | Self::UserLoad | Self::UserStore => Privilege::El0,
            _ => Privilege::El1,
        }
    }

    /// What it asks for, most of all. A cache operation to the PoC asks for no permission at EL1, where all may be read.
    #[must_use]
    pub const fn operation(self) -> Operation {
        match self {
            Self::Fetch | Self::UserFetch => Operation::Execute,
            _ if self.stores() => Operation::Write,
            _ => Operation::Read,
        }
    }

    /// What tells one mapping from another by it, where both permit it.
    #[must_use]
    pub const fn tells(self) -> Tells {
        match self {
            Self::At => Tells::Address,
            Self::Dc => Tells::Nothing,
            _ => Tells::Contents,
        }
    }

    /// Whether it goes to both sides of a seam.
    #[must_use]
    pub const fn crosses(self) -> bool {
        matches!(self, Self::Unaligned)
    }

    /// Whether it may be made through both mappings of `change`: Device memory knows no unaligned accesses, and atomic
    /// and exclusive ones only where the memory is Normal, Write-Back and Inner Shareable.
    #[must_use]
    pub const fn fits(self, change: Change) -> bool {
        let everywhere = !matches!(
            self,
            Self::Atomic | Self::Exclusive | Self::Unaligned | Self::Fetch | Self::UserFetch | Self::Tables
        );
        change.is_ordinary_memory() || everywhere
    }
}

/// What of a successful access tells mappings apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tells {
    /// The contents of the frame.
    Contents,
    /// The output address itself.
    Address,
    /// Nothing.
    Nothing,
}

words! {
    /// Where an observer runs.
    Place {
        /// On the PE that makes the change, between its steps.
        Local = "local",
        /// On another PE, all the time.
        Remote = "remote",
        /// On every other PE, all the time.
        All = "all",
    }
}

impl Place {
    /// Whether the observers run on other PEs than the one that makes the change.
    #[must_use]
    pub const fn is_remote(self) -> bool {
        !matches!(self, Self::Local)
    }

    /// Whether observers of `change` may be there. Where it may leave its PE with exceptions without end, there must be
    /// another one, which ends them.
    #[must_use]
    pub const fn fits(self, change: Change) -> bool {
        self.is_remote() || change.own().is_none()
    }
}

words! {
    /// How stage 2 maps the payload's memory.
    Stage2 {
        /// Stage 2 translation is off.
        Off = "s2off",
        /// The largest blocks that fit.
        Blocks = "s2blocks",
        /// Pages only.
        Pages = "s2pages",
    }
}

words! {
    /// How stage 1 maps the window of a case whose stage 2 is changed.
    Stage1 {
        /// The largest blocks that fit.
        Blocks = "s1blocks",
        /// Pages only.
        Pages = "s1pages",
        /// Stage 1 translation is off, and memory Normal Write-Back (HCR_EL2.DC).
        Off = "s1off",
    }
}

words! {
    /// The harness tested by itself: each has one designed end.
    Selftest {
        /// Control: loads and stores on memory that nobody changes must show nothing.
        Quiet = "quiet",
        /// Control: registers and memory of a fresh VM are as the design says.
        Clean = "clean",
        /// Loops with every interrupt masked; the watchdog ends it.
        HangMasked = "hang-masked",
        /// Executes an undefined instruction.
        Undefined = "undefined",
        /// Takes exceptions without end; the watchdog ends it.
        Storm = "storm",
        /// Writes over all memory it can reach and reaches for the rest; stage 2 contains it.
        Scribble = "scribble",
        /// Makes hypercalls with wild arguments, and logs what looks like results of its own; hv refuses and defuses.
        Forge = "forge",
        /// vCPU 0 switches off, and vCPU 1 switches it on again.
        CpuSwap = "cpu-swap",
        /// Hands in half a record and dies.
        HalfRecord = "half-record",
        /// Never starts its second CPU; the runtime gives up waiting for the observer.
        NoSecondCpu = "no-second-cpu",
        /// A conflict abort injected at EL1.
        ConflictEl1 = "conflict-el1",
        /// A conflict abort of EL1's translation injected at EL2, as R_FWRMB routes it.
        ConflictEl2ForEl1 = "conflict-el2-for-el1",
        /// A conflict abort of EL2's own translation.
        ConflictEl2 = "conflict-el2",
        /// ID_AA64MMFR2_EL1 is presented with BBM 0.
        CapBbm0 = "cap-bbm0",
        /// ID_AA64MMFR2_EL1 is presented with BBM at most 1.
        CapBbm1 = "cap-bbm1",
    }
}

impl Selftest {
    /// vCPUs that it takes.
    const fn cpus(self) -> usize {
        if matches!(self, Self::NoSecondCpu | Self::Quiet | Self::CpuSwap) { 2 } else { 1 }
    }
}

/// Who looks, how.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Observer {
    /// What it executes.
    pub access: Access,
    /// Where it runs.
    pub place: Place,
}

impl fmt::Display for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.access, self.place)
    }
}

/// One live change with all parameters fixed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Case {
    /// Whose translation.
    pub regime: Regime,
    /// Its granule.
    pub granule: Granule,
    /// What changes.
    pub change: Change,
    /// How.
    pub method: Method,
    /// Other steps than the method's.
    pub script: Option<Sequence>,
    /// Who looks.
    pub observer: Observer,
    /// How stage 2 maps the payload.
    pub stage2: Stage2,
    /// How stage 1 maps the window, where it is stage 2 that changes.
    pub stage1: Stage1,
    /// The highest BBM level that ID_AA64MMFR2_EL1 may show to the payload, if it is lowered.
    pub cap: Option<BbmLevel>,
    /// What the payload answers conflict aborts with first, if not with what it usually does.
    pub remedy: Option<Remedy>,
}

impl Case {
    /// The steps by which the change is made.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.script.unwrap_or_else(|| self.adapted(Sequence::of(self.method, self.change)))
    }

    /// The steps by which it is taken back.
    #[must_use]
    pub fn restore(&self) -> Sequence {
        self.adapted(Sequence::restore())
    }

    /// `sequence` as it must be where the case's descriptors are, and for its observers.
    fn adapted(&self, sequence: Sequence) -> Sequence {
        match self.regime {
            Regime::S2 if self.observer.access.switches_asid() => sequence.of_every_vmid(),
            regime => sequence.in_regime(regime),
        }
    }

    /// At how many sites it has its [window](Change::sites).
    #[must_use]
    pub const fn sites(&self) -> usize {
        // Pages below a block take a table each, and so does what is in a window. Tables that a round fills are empty before it.
        if matches!(self.stage1, Stage1::Pages)
            || matches!(self.observer.access, Access::Tables)
            || matches!(self.method, Method::Overwrite)
        {
            1
        } else {
            self.change.sites(self.granule)
        }
    }

    /// Where its window stands, in VAs; `None` where that is the IPA, stage 1 being off. `instance` is a hash of the id.
    #[must_use]
    pub const fn window_va(&self, seed: u64, instance: u64) -> Option<u64> {
        let size = self.change.window_size(self.granule) * self.sites() as u64;
        match self.stage1 {
            Stage1::Off => None,
            Stage1::Blocks | Stage1::Pages if matches!(self.regime, Regime::El2) => {
                Some(stress::el2_base(seed, instance, size))
            }
            Stage1::Blocks | Stage1::Pages => Some(stress::window_base(seed, instance, size)),
        }
    }

    /// The format of the stage 1 tables that map its window.
    #[must_use]
    pub const fn stage1_format(&self) -> Format {
        match self.regime {
            Regime::El1 => self.change.format(self.granule),
            // EL2's own tables are hv's, and what the payload's map is everything but the window.
            Regime::S2 | Regime::El2 | Regime::El2Vhe => Format::new(Granule::K4),
        }
    }

    /// The case with the method's own steps.
    #[must_use]
    pub const fn by_the_book(self) -> Self {
        Self { script: None, ..self }
    }
}

/// One test.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Instance {
    /// A live change.
    Case(Case),
    /// A test of the harness.
    Selftest(Selftest),
}

/// What an instance needs of the machine; hv builds the VM from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Needs {
    /// The fewest vCPUs.
    pub cpus: usize,
    /// The most vCPUs; it gets as many as there are.
    pub most_cpus: usize,
    /// How stage 2 maps it.
    pub stage2: Stage2,
    /// Bytes of private memory: image, stacks, tables. hv clears all of it for every instance, so it is no larger
    /// than the tables of the change require.
    pub private_size: u64,
    /// Size of the frames the window maps to, in bytes; a power of two, also their alignment.
    pub frame_size: u64,
    /// How many such frames, one behind the other.
    pub frames: u64,
    /// The highest BBM level presented.
    pub cap: Option<BbmLevel>,
    /// The case, if hv makes its change.
    pub lab: Option<Case>,
    /// Whether an access that stage 2 refuses is answered with an External abort instead of ending the VM.
    pub contain: bool,
    /// Whether the watchdog is the designed end, so that it may bite early.
    pub hangs: bool,
}

impl Instance {
    /// The family whose payload runs it.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self {
            Self::Case(case) => case.change.family(),
            Self::Selftest(_) => Family::Selftest,
        }
    }

    /// What it needs of the machine.
    #[must_use]
    pub fn needs(&self) -> Needs {
        /// Smallest unit in which hv hands out frames: stage 2 can map it as one block.
        const MIN_FRAME: u64 = 2 << 20;
        /// Image, stacks and a few dozen tables of the smallest granule.
        const SMALL: u64 = 512 << 10;
        /// The same with two dozen tables of the 16K granule.
        const MEDIUM: u64 = 1 << 20;
        /// The same with a dozen tables of the 64K granule.
        const LARGER: u64 = 2 << 20;
        /// Those of the smallest and a whole tree of level 3 tables below one level 1 descriptor of the 4K granule: 2 MiB.
        const LARGEST: u64 = 4 << 20;
        match self {
            Self::Case(case) => Needs {
                cpus: if case.observer.place.is_remote() { 2 } else { 1 },
                most_cpus: match case.observer.place {
                    Place::Local => 1,
                    Place::Remote => 2,
                    Place::All => 8,
                },
                stage2: case.stage2,
                private_size: match (
                    case.stage1_format().granule,
                    case.change.leaf_level().number() - case.change.level().number(),
                ) {
                    (_, 2..) => LARGEST,
                    (Granule::K64, _) => LARGER,
                    (Granule::K16, _) => MEDIUM,
                    _ => SMALL,
                },
                frame_size: case.change.frame_size(case.granule).max(MIN_FRAME),
                frames: if case.change.moves() { 2 } else { 1 } + 2 * case.change.margin(),
                cap: case.cap,
                lab: Some(*case).filter(|case| case.regime.is_lab()),
                contain: false,
                hangs: false,
            },
            Self::Selftest(test) => Needs {
                cpus: test.cpus(),
                most_cpus: test.cpus(),
                stage2: Stage2::Pages,
                private_size: SMALL,
                frame_size: MIN_FRAME,
                frames: 1,
                cap: match test {
                    Selftest::CapBbm0 => Some(BbmLevel::L0),
                    Selftest::CapBbm1 => Some(BbmLevel::L1),
                    _ => None,
                },
                lab: None,
                contain: matches!(test, Selftest::Scribble),
                hangs: matches!(test, Selftest::HangMasked | Selftest::Storm),
            },
        }
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Case(c) => {
                let family = c.change.family();
                write!(f, "{}.{family}.{}-{}.{}", c.regime, c.change.format(c.granule), c.change, c.method)?;
                if let Some(script) = c.script {
                    write!(f, "~{script}")?;
                }
                write!(f, ".{}", c.observer)?;
                if c.stage2 != Stage2::Blocks {
                    write!(f, ".{}", c.stage2)?;
                }
                if c.stage1 != Stage1::Blocks {
                    write!(f, ".{}", c.stage1)?;
                }
                if let Some(cap) = c.cap {
                    write!(f, ".cap{cap}")?;
                }
                if let Some(remedy) = c.remedy {
                    write!(f, ".by-{remedy}")?;
                }
                Ok(())
            }
            Self::Selftest(test) => write!(f, "selftest.{test}"),
        }
    }
}

/// Why a text is not an instance's id: the part that was not understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdError {
    /// The id ended where this part was expected.
    Missing(&'static str),
    /// This part is not one of the known words.
    Unknown(&'static str),
    /// There is more text than an id has.
    Trailing,
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(part) => write!(f, "the id has no {part}"),
            Self::Unknown(part) => write!(f, "the id's {part} is not known"),
            Self::Trailing => f.write_str("the id goes on where it should end"),
        }
    }
}

impl core::error::Error for IdError {}

impl FromStr for Instance {
    type Err = IdError;

    fn from_str(id: &str) -> Result<Self, IdError> {
        if id.len() > MAX_ID {
            return Err(IdError::Trailing);
        }
        let mut parts = id.split('.');
        let mut part = |name: &'static str| parts.next().ok_or(IdError::Missing(name));

        let first = part("regime")?;
        if first == "selftest" {
            let test = Selftest::parse(part("selftest's name")?).ok_or(IdError::Unknown("selftest's name"))?;
            return if parts.next().is_none() { Ok(Self::Selftest(test)) } else { Err(IdError::Trailing) };
        }
        let regime = Regime::parse(first).ok_or(IdError::Unknown("regime"))?;
        let family = Family::parse(part("transition")?).ok_or(IdError::Unknown("transition"))?;
        let geometry = part("geometry")?;
        let (granule, geometry) = geometry.split_once('-').ok_or(IdError::Unknown("geometry"))?;
        let granule = Granule::ALL.into_iter().find(|g| g.name() == granule).ok_or(IdError::Unknown("granule"))?;
        let (wide, geometry) = match geometry.split_once('-') {
            Some((Format::WIDE, geometry)) => (true, geometry),
            _ => (false, geometry),
        };
        let change = Change::parse(family, geometry)
            .map(|change| if wide { change.wide() } else { change })
            .filter(|change| change.exists(granule))
            .ok_or(IdError::Unknown("geometry, for this granule,"))?;
        if !regime.has_format(change.format(granule)) {
            return Err(IdError::Unknown("granule, for this regime,"));
        }
        let method = part("method")?;
        let (method, script) = match method.split_once('~') {
            Some((method, letters)) => (method, Some(Sequence::parse(letters).ok_or(IdError::Unknown("steps"))?)),
            None => (method, None),
        };
        let method = Method::parse(method).ok_or(IdError::Unknown("method"))?;
        if !method.fits(change) {
            return Err(IdError::Unknown("method, for this transition,"));
        }
        let is_other = |script: Sequence| !script.fits(change) || !script.is_for(regime) || !script.is_of(method);
        if script.is_some_and(|script| is_other(script) || change.own().is_some()) {
            return Err(IdError::Unknown("steps, for this transition,"));
        }
        let (access, place) = part("observer")?.rsplit_once('-').ok_or(IdError::Unknown("observer"))?;
        let observer = Observer {
            access: Access::parse(access).ok_or(IdError::Unknown("observer's access"))?,
            place: Place::parse(place).ok_or(IdError::Unknown("observer's place"))?,
        };
        if !observer.access.fits(change) || !regime.has(change, observer.access) {
            return Err(IdError::Unknown("observer's access, for this transition,"));
        }
        if !observer.place.fits(change) {
            return Err(IdError::Unknown("observer's place, for this transition,"));
        }

        let (mut stage1, mut stage2) = (Stage1::Blocks, Stage2::Blocks);
        let mut cap = None;
        let mut modifier = parts.next();
        const DEFAULT: IdError = IdError::Unknown("modifier (blocks are the default and not spelled)");
        match (regime, modifier.and_then(Stage1::parse), modifier.and_then(Stage2::parse)) {
            (Regime::S2, Some(Stage1::Blocks), _) | (Regime::El1, _, Some(Stage2::Blocks)) => return Err(DEFAULT),
            (Regime::S2, Some(s1), _) => (stage1, modifier) = (s1, parts.next()),
            (Regime::El1, _, Some(Stage2::Off)) if change.is_partial(granule) => {
                return Err(IdError::Unknown(
                    "modifier, for this transition: what is behind the window is not all memory",
                ));
            }
            (Regime::El1, _, Some(s2)) => (stage2, modifier) = (s2, parts.next()),
            _ => {}
        }
        if stage1 == Stage1::Off && observer.access == Access::Tables {
            return Err(IdError::Unknown("modifier, for this observer: without stage 1 there are no tables of it"));
        }
        if let Some(word) = modifier.and_then(|word| word.strip_prefix("cap")) {
            let level = Some(word).filter(|n| n.len() == 1).and_then(|n| n.parse().ok());
            cap = Some(level.and_then(BbmLevel::from_number).ok_or(IdError::Unknown("modifier"))?);
            modifier = parts.next();
        }
        let remedy = |word: &str| word.strip_prefix("by-").and_then(Remedy::parse).ok_or(IdError::Unknown("modifier"));
        let remedy = modifier.map(remedy).transpose()?;
        if parts.next().is_some() {
            return Err(IdError::Trailing);
        }
        let case = Case { regime, granule, change, method, script, observer, stage2, stage1, cap, remedy };
        if script == Some(case.by_the_book().sequence()) {
            return Err(IdError::Unknown("steps (the method's own are not spelled)"));
        }
        Ok(Self::Case(case))
    }
}

#[cfg(test)]
mod tests {
    use std::{format, string::ToString};

    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    #[test]
    fn every_instance_reads_back_from_its_id() {
        for instance in testing::instances() {
            let id = instance.to_string();
            assert!(id.len() <= MAX_ID, "{id}");
            assert_eq!(id.parse(), Ok(instance), "{id}");
            let needs = instance.needs();
            assert!((1..=2).contains(&needs.cpus), "{id}");
            assert!(needs.frame_size.is_power_of_two() && needs.private_size.is_power_of_two(), "{id}");
        }
    }

    #[test]
    fn ids_are_spelled_as_documented() {
        for id in [
            "el1.split.4k-l2.direct.load-remote",
            "el1.split.4k-l1-l3.bbm-af.store-local",
            "el1.merge.64k-l2.nt.load-remote.s2off.cap0",
            "el1.remap.16k-l3-ro-diff.direct-notlbi.load-local.s2pages",
            "el1.protect.4k-l2-xn-x.bbm.fetch-remote.cap1",
            "el1.remap.4k-l3-rw.bbm~0sB1di.load-remote",
            "el1.merge.4k-l1-l3.direct-notlbi~0nnMX1dddi.store-remote.s2off.cap0",
            "el1.split.16k-lpa2-l2.nt.load-remote",
            "el1.recover.4k-l2-split.direct.load-remote.s2off.cap1.by-vmalls12e1",
            "s2.split.4k-l2.bbm.load-remote.s1off",
            "s2.remap.4k-l3-rw.bbm~0sQdMd1di.other-load-remote",
            "el1.split.4k-l1-l3.overwrite.walk-remote",
            "s2.split.4k-l2.overwrite~ls1di.load-remote.s1off",
            "el2.split.4k-l2.bbm.load-remote",
            "selftest.conflict-el2-for-el1",
        ] {
            let instance: Instance = id.parse().expect(id);
            assert_eq!(instance.to_string(), id);
        }
    }

    #[test]
    fn a_second_spelling_is_an_error() {
        for (id, error) in [
            ("", IdError::Unknown("regime")),
            ("el3", IdError::Unknown("regime")),
            ("el2", IdError::Missing("transition")),
            ("el2.split.16k-l2.bbm.load-local", IdError::Unknown("granule, for this regime,")),
            ("s2.split.4k-lpa2-l2.bbm.load-local", IdError::Unknown("granule, for this regime,")),
            ("el2.user.4k-l3-grant.bbm.user-load-local", IdError::Unknown("observer's access, for this transition,")),
            ("el2.split.4k-l2.bbm.load-local.s2pages", IdError::Unknown("modifier")),
            ("el2.split.4k-l2.bbm.load-local.s1pages", IdError::Unknown("modifier")),
            ("el1", IdError::Missing("transition")),
            ("el1.selftest.quiet", IdError::Unknown("geometry")),
            ("el1.split.4k-l2-l3.bbm.load-local", IdError::Unknown("geometry, for this granule,")),
            ("el1.split.4k-l3.bbm.load-local", IdError::Unknown("geometry, for this granule,")),
            ("el1.split.4k-l0.bbm.load-local", IdError::Unknown("geometry, for this granule,")),
            ("el1.split.64k-l1.bbm.load-local", IdError::Unknown("geometry, for this granule,")),
            ("el1.split.64k-lpa2-l2.bbm.load-local", IdError::Unknown("geometry, for this granule,")),
            ("el1.split.4k-lpa2.bbm.load-local", IdError::Unknown("geometry, for this granule,")),
            ("el1.split.4k-lpa2-lpa2-l2.bbm.load-local", IdError::Unknown("geometry, for this granule,")),
            ("el1.shareability.4k-lpa2-l3-is-os.bbm.load-local", IdError::Unknown("geometry, for this granule,")),
            ("el1.merge.4k-l2.bbm-af.load-local", IdError::Unknown("method, for this transition,")),
            ("el1.protect.4k-l3-rw-ro.nt.load-local", IdError::Unknown("method, for this transition,")),
            ("el1.split.4k-l2.bbm~.load-local", IdError::Unknown("steps")),
            ("el1.split.4k-l2.bbm~0?.load-local", IdError::Unknown("steps")),
            ("el1.split.4k-l2.bbm~iiiiiiiiiiiiiiiii.load-local", IdError::Unknown("steps")),
            ("el1.split.4k-l2.bbm~0sAd1di.load-local", IdError::Unknown("steps (the method's own are not spelled)")),
            (
                "s2.remap.4k-l3-rw.bbm~0sQdMd1di.load-local",
                IdError::Unknown("steps (the method's own are not spelled)"),
            ),
            (
                "s2.remap.4k-l3-rw.bbm~0sxd1di.other-load-local",
                IdError::Unknown("steps (the method's own are not spelled)"),
            ),
            ("el1.merge.4k-l2.bbm~fsMd1di.load-local", IdError::Unknown("steps, for this transition,")),
            ("el1.remap.4k-l3-rw.bbm~tsMd1di.load-local", IdError::Unknown("steps, for this transition,")),
            ("el1.split.4k-l2.bbm~lsAd1di.load-local", IdError::Unknown("steps, for this transition,")),
            ("el1.split.4k-l2.overwrite~0sAd1di.load-local", IdError::Unknown("steps, for this transition,")),
            ("el1.merge.4k-l2.overwrite.load-local", IdError::Unknown("method, for this transition,")),
            ("el1.remap-out.4k-l2-rw.overwrite.load-local", IdError::Unknown("method, for this transition,")),
            ("el1.split.4k-l2.bbm", IdError::Missing("observer")),
            ("el1.split.4k-l2.bbm.load-local.", IdError::Unknown("modifier")),
            ("el1.split.4k-l2.bbm.load-local.cap4", IdError::Unknown("modifier")),
            ("el1.split.4k-l2.bbm.load-local.cap00", IdError::Unknown("modifier")),
            ("el1.split.4k-l2.bbm.load-local.cap+", IdError::Unknown("modifier")),
            ("el1.split.4k-l2.bbm.load-local.cap0.s2off", IdError::Unknown("modifier")),
            ("el1.split.4k-l2.bbm.load-local.by-vae2", IdError::Unknown("modifier")),
            ("el1.split.4k-l2.bbm.load-local.by-vae1.cap0", IdError::Trailing),
            ("selftest.quiet.cap0", IdError::Trailing),
            (
                "el1.protect.16k-l3-rw-ro.direct-notlbi~0000000000.store-remote.s2pages.cap0.and.more.than.an.id.has",
                IdError::Trailing,
            ),
        ] {
            assert_eq!(id.parse::<Instance>(), Err(error), "{id}");
        }
        assert!("el1.split.4k-l2.bbm.load-local.s2blocks".parse::<Instance>().is_err());
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_reads_back(id in ".{0,80}") {
            if let Ok(instance) = id.parse::<Instance>() {
                prop_assert_eq!(instance.to_string(), id);
            }
        }

        /// As above, with texts that are nearly ids: words of the grammar in any order, and one byte changed.
        #[test]
        fn near_misses_are_refused_or_read_back(
            words in prop::collection::vec(prop::sample::select(&[
                "el1", "selftest", "split", "merge", "remap", "protect", "4k", "16k", "l0", "l1", "l2", "l3", "l1-l3",
                "rw", "ro-same", "rw-ro", "x-xn", "bbm", "bbm-af", "nt", "direct", "direct-notlbi", "bbm~0s", "nt~td1", "load-remote",
                "fetch-local", "s2off", "s2pages", "cap0", "cap3", "quiet", "",
            ][..]), 0..9),
            dashes in any::<u16>(),
        ) {
            let mut id = words.first().map(ToString::to_string).unwrap_or_default();
            for (n, word) in words.iter().enumerate().skip(1) {
                id = format!("{id}{}{word}", if dashes >> n & 1 == 1 { '-' } else { '.' });
            }
            if let Ok(instance) = id.parse::<Instance>() {
                prop_assert_eq!(instance.to_string(), id);
            }
        }

        #[test]
        fn one_changed_byte_never_means_the_same_instance(
            instance in prop::sample::select(testing::instances()),
            at: prop::sample::Index,
            byte in 0u8..128,
        ) {
            let mut id = instance.to_string().into_bytes();
            let at = at.index(id.len());
            prop_assume!(id[at] != byte);
            id[at] = byte;
            let id = std::string::String::from_utf8(id).expect("ASCII");
            if let Ok(other) = id.parse::<Instance>() {
                prop_assert_ne!(other, instance);
                prop_assert_eq!(other.to_string(), id);
            }
        }
    }
}
