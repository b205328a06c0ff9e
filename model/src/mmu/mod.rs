//! Address translation with a TLB that uses every freedom the architecture gives it.
//!
//! There is one [`Mmu`] a PE. It knows nothing of instructions: the machine hands it requests, TLB maintenance, DSBs
//! and context synchronisations, and a [`TableMemory`] to walk in. Rule names are those of DDI 0487, section D8.
//!
//! # What is modelled, rule by rule
//!
//! *What is cached.* A walk that translated is kept as a combined entry (VA to PA), or as its stages apart (VA to IPA,
//! IPA to PA), or both. Table descriptors of either stage are kept as well, the next table's address as IPA or PA. A
//! block may be kept as one page of it; a Contiguous group as one entry, if all its descriptors map (I_PGVGZ).
//! Descriptors that fault, by V=0, AF=0 or a reserved encoding, are never kept (R_XCLRD, I_WZCBG); a translation whose
//! permissions refuse the access is. Entries hold what MAIR, TCR and SCTLR.WXN said when they were made (R_VNRFW).
//! They are tagged by regime, VMID (stage 2 on or off, R_TLJCY) and, unless global, ASID; a Table descriptor counts as
//! its ASID's, whatever lies below it.
//!
//! *How long.* Until a TLBI that must remove it takes effect, or until it is given up by choice. At any time a PE may
//! walk for an address nobody asked for (one it used lately, or a page beside it, in the regime it is in), and keep
//! what it finds beside what it has. That is how a changed table comes to have two matching entries; identical entries
//! are one.
//!
//! *Several matches.* Entries that disagree only in permissions, or in the OA of read-only memory of equal contents,
//! need no break-before-make (R_WHZWS, R_GPPYH): any one of them is used, never a conflict. A pure size change is what
//! FEAT_BBM is about (R_KFLJB), the Contiguous bit likewise (R_KHRBC, R_FCPSG) and members of a
//! misprogrammed group (R_NGLXZ; never an amalgamation if all have the bit, R_JQQTC), and an old Table descriptor beside a
//! Block counts as one (I_HYQMB): [`Profile::size`] decides. For anything else [`Profile::other`] does (R_FVQCK): a
//! conflict abort, any one of them, or an amalgamation. An amalgamated stage 1 goes through stage 2 afresh, which is
//! the containment that R_FVQCK asks for; two entries of stage 2 are never amalgamated. A conflict abort has FSC
//! 0b110000; it goes to EL2, as a stage 2 abort, if stage 2 is on and the cause is a size or Contiguous change on a
//! CPU with FEAT_BBM (R_FWRMB), or if the disagreement is stage 2's own.
//!
//! *nT.* By [`Profile::nt`] (R_MRRPW): a Translation fault; a walk each time that is never kept (I_DXRJK); or a walk that
//! is kept and may be one of several matches. That is a conflict abort or any one of them, on every profile: accesses
//! through nT keep coherency and ordering (R_HHCXC).
//!
//! *TLB maintenance.* A TLBI reaches the PEs of its scope (HCR_EL2.FB counts) and takes effect on each of them at a
//! moment of its own between its issue and a DSB of the issuer that completes it: of sufficient domain, ordering loads
//! and stores (R_PSMWS, R_YNJCP), not nXS unless the TLBI is. Without such a DSB it may never take effect. On the issuer
//! itself, what it removes may still serve accesses until a context synchronisation behind the DSB: what follows in
//! program order may have been translated already (R_BLDZX, no FEAT_ETS2). It matches nothing any more then, so it
//! cannot conflict. What a TLBI must remove is exactly what the architecture says and decided in one place,
//! [`mod@tlbi`]: last-level forms leave Table descriptors, by-IPA forms leave combined entries (R_TVTYQ), a wrong TTL or
//! TG removes nothing (R_SQXYZ, R_XKMMX), by-VA forms remove what was made from a descriptor that maps the VA, a group's
//! other members excepted
//! (I_JQPNP). More may go by choice. The VMID is the one in use at issue.
//!
//! *What walks see.* A store by a PE is seen by walks of any PE, its own included, for certain only after a DSB of the
//! storing PE that reaches it; before, the old value may be read ([`TableMemory::before`]). The storing PE's own next
//! instructions may take the fault of the old value until it synchronises its context (R_BLDZX). A walk reads each
//! descriptor once, at one moment.
//!
//! *Registers.* From its write to the next context synchronisation of the PE a register's old value may be used, one
//! choice a register and use; that goes for the VMID of a TLBI as well.
//!
//! *Hardware update.* AF (also by speculative walks) and dirty state (only by stores that are permitted) are
//! compare-and-swap of the descriptor that was walked, in stage 1 and stage 2 (D8.5), which clears every exclusive monitor
//! that marks it. A store through an entry that is still clean walks again. Of a Contiguous group only the descriptor
//! that was walked is updated: an entry made from a dirty member lets stores to clean ones through.
//!
//! *Addresses* have 48 bits, or on profiles with [`Profile::lpa2`] 52: in descriptors, TTBRs, TTL hints and BaseADDR of
//! range TLBIs as FEAT_LPA2 (with DS) and FEAT_LPA have them, and with level -1 and larger blocks.
//!
//! # What is not modelled
//!
//! EL0 of EL2&0 (a host's user space), EL3's own translation, Secure and Realm spaces, 56-bit addresses, small translation tables, PIE, POE, GCS, MTE, FWB, CnP, and HCR_EL2.PTW. Walks are atomic: a walk does not begin before a TLBI and
//! end after its DSB, which R_LXHLD and I_BWGVK forbid to matter. A register that was written twice without
//! synchronisation has two values, not three. TxSZ, EPD and SCTLR.M are not cached: entries made before a change of
//! them match again after. Two cached Table descriptors for one address are used one or the other, without a conflict.
//! A by-VA TLBI reaches all pieces of a block. Stores to pages that no walk has read are seen at once. Only combined
//! entries linger, only those that a TLBI removes with its DSB; and of a PE's stores to a descriptor only the last can
//! fault late. Out-of-context regimes are not walked for.
//!
//! # Fast path
//!
//! [`Translated::page`] may be kept by the machine, for requests of the same EL, privilege and PAN, as long as
//! [`Mmu::generation`] stands. It is handed out only while exactly one entry matches, no TLBI is under way and no
//! register awaits synchronisation; whatever ends that changes the generation. Because kept pages hide the TLB from
//! its own caprices, the machine calls [`Mmu::step`] now and then.

pub mod context;
pub mod profile;
pub mod tlb;
pub mod tlbi;
mod walk;

#[cfg(test)]
mod tests;

use std::{fmt, mem};

use arrayvec::ArrayVec;
use vmsa::BbmLevel;

pub use self::{
    context::{Context, Regime},
    profile::{Answers, Defect, Nt, Profile},
    tlbi::{Dsb, Scope, TlbiOp},
};
use self::{
    tlb::{Disagreement, Entry, Kind as EntryKind, Leaf, Lookaside, Permissions, Tags, Tlb, disagreement},
    tlbi::Issued,
    walk::{PERMISSION, TRANSLATION, WalkFault, Walker},
};
use crate::choice::{Choices, Odds, Point};

/// The memory that walks read, and that hardware updates write. Addresses are PAs of aligned 64-bit descriptors.
pub trait TableMemory {
    /// What stands there, all stores included; `None` where there is no memory.
    fn read64(&self, pa: u64) -> Option<u64>;

    /// The same, not as a descriptor: for the contents of frames.
    fn contents(&self, pa: u64) -> Option<u64>;

    /// What stood there before the `nth` of the stores, oldest first, that no DSB of their PE has followed; `None` if
    /// there are not as many. A walk may read any of these instead of what stands there now.
    fn before(&self, pa: u64, nth: usize) -> Option<u64>;

    /// What stood there before the walking PE's last store, if a DSB but no context synchronisation of it followed.
    /// An access may fault by this as it would have before, its translation having been asked for early.
    fn before_synchronisation(&self, pa: u64) -> Option<u64>;

    /// Stores `new` if `old` stands there, in one step; whether it did.
    fn cas64(&mut self, pa: u64, old: u64, new: u64) -> bool;
}

/// What an address is wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A read.
    Load,
    /// A write; DC ZVA is one.
    Store,
    /// A read and a write in one.
    Atomic,
    /// An instruction fetch.
    Fetch,
    /// AT: as a load or store would, without stage 2 of the result unless `both_stages`.
    At {
        /// As a store.
        write: bool,
        /// AT S12E…
        both_stages: bool,
    },
    /// DC and IC by VA.
    CacheMaintenance {
        /// DC IVAC, which asks for permission to write; the others for none, or at EL0 to read.
        writable: bool,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.fsc {
            _ if self.stall => return f.write_str("no end: it is tried again"),
            CONFLICT => "TLB conflict abort",
            0b01_0011 => "External abort",
            0b10_1001 => "Address size fault",
            0b10_1011 => "Translation fault",
            fsc => match fsc & !3 {
                walk::ADDRESS_SIZE => "Address size fault",
                TRANSLATION => "Translation fault",
                walk::ACCESS_FLAG => "Access flag fault",
                PERMISSION => "Permission fault",
                _ => "External abort",
            },
        };
        let stage = if self.stage2 { 2 } else { 1 };
        write!(f, "{name} (FSC {:#04x}, stage {stage}, level {}) to EL{}", self.fsc, self.level, self.taken_to)
    }
}

impl Kind {
    /// Makes clean descriptors dirty; an AT does not.
    const fn stores(self) -> bool {
        matches!(self, Self::Store | Self::Atomic)
    }
}

/// One address to translate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// The address, with its top byte.
    pub va: u64,
    /// What for.
    pub kind: Kind,
    /// Whose regime: 0 and 1 EL1&0, 2 EL2, 3 no translation. For an AT, the EL it names.
    pub el: u8,
    /// False at EL0 and for LDTR, STTR and their like.
    pub privileged: bool,
    /// PSTATE.PAN.
    pub pan: bool,
}

impl Request {
    const fn needs(&self) -> u8 {
        match self.kind {
            Kind::Load | Kind::At { write: false, .. } => Permissions::READ,
            Kind::Store | Kind::At { write: true, .. } => Permissions::WRITE,
            Kind::Atomic => Permissions::READ | Permissions::WRITE,
            Kind::Fetch => Permissions::EXECUTE,
            Kind::CacheMaintenance { writable: true } => Permissions::WRITE,
            Kind::CacheMaintenance { writable: false } if self.el == 0 => Permissions::READ,
            Kind::CacheMaintenance { writable: false } => 0,
        }
    }
}

/// The subtype of Device memory, strictest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Device {
    /// Device-nGnRnE.
    NGnRnE = 0,
    /// Device-nGnRE.
    NGnRE = 1,
    /// Device-nGRE.
    NGRE = 2,
    /// Device-GRE.
    GRE = 3,
}

impl Device {
    const fn of(attr: u8) -> Option<Self> {
        match attr {
            0x00..=0x03 => Some(Self::NGnRnE),
            0x04..=0x07 => Some(Self::NGnRE),
            0x08..=0x0b => Some(Self::NGRE),
            0x0c..=0x0f => Some(Self::GRE),
            _ => None,
        }
    }
}

/// A translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translated {
    /// The PA; the IPA for an AT of stage 1 alone.
    pub pa: u64,
    /// Device memory: unaligned accesses fault.
    pub device: bool,
    /// It is stage 2 that makes it Device memory: it is stage 2's fault, for EL2.
    pub device_by_stage2: bool,
    /// Normal, Inner and Outer Write-Back.
    pub cacheable: bool,
    /// Attributes as MAIR has them, of both stages.
    pub attr: u8,
    /// SH as descriptors have it.
    pub shareability: u8,
    /// [`Defect::Torn`]: where the upper half of the access goes instead. [`Defect::AtomicSplit`]: where an atomic reads.
    pub torn: Option<u64>,
    /// What the machine may keep.
    pub page: Option<MicroEntry>,
}

/// A page's translation that stays true while [`Mmu::generation`] does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MicroEntry {
    /// First address of the 4 KiB page, as in the request.
    pub va: u64,
    /// The page's PA.
    pub pa: u64,
    /// Loads go ahead.
    pub load: bool,
    /// Stores go ahead, and update no descriptor.
    pub store: bool,
    /// Fetches go ahead.
    pub fetch: bool,
    /// As [`Translated::device`].
    pub device: bool,
    /// As [`Translated::cacheable`].
    pub cacheable: bool,
}

/// A translation that failed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Fault {
    /// The fault status code, `ESR_ELx.ISS[5:0]`.
    pub fsc: u8,
    /// A stage 2 fault.
    pub stage2: bool,
    /// ISS.S1PTW: stage 2 refused a table of stage 1.
    pub s1ptw: bool,
    /// The level in the status; meaningless for a conflict.
    pub level: i8,
    /// For HPFAR_EL2, where stage 2 faulted.
    pub ipa: Option<u64>,
    /// For FAR_ELx.
    pub va: u64,
    /// ISS.WnR: the access writes, and for an atomic, a read would not have had this fault.
    pub write: bool,
    /// The EL that takes it.
    pub taken_to: u8,
    /// [`Defect::NoProgress`]: nothing is taken, the instruction does not end; it is tried again.
    pub stall: bool,
}

/// FSC of a TLB conflict abort.
pub const CONFLICT: u8 = 0b11_0000;

/// One way to translate the requested address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Hit {
    one: Leaf,
    two: Option<Leaf>,
}

impl Hit {
    const fn ipa(&self, va: u64) -> u64 {
        self.one.output(va)
    }

    const fn pa(&self, va: u64) -> u64 {
        match self.two {
            Some(two) => two.output(self.ipa(va)),
            None => self.ipa(va),
        }
    }

    fn nt(&self) -> bool {
        self.one.nt || self.two.is_some_and(|two| two.nt)
    }

    fn clean(&self) -> bool {
        self.one.clean || self.two.is_some_and(|two| two.clean)
    }
}

type Hits = ArrayVec<Hit, 8>;

/// The levels and granules of the Table descriptors of stage 1 that match an address. Where one stands at the level of
/// a Block that matches too, they contradict each other.
#[derive(Clone, Copy, Default)]
struct TableLevels(u16);

impl TableLevels {
    const fn bit(leaf: &Leaf) -> u16 {
        1 << ((leaf.level.number() + 1) * 3 + leaf.granule as i8)
    }

    const fn add(&mut self, table: &Leaf) {
        self.0 |= Self::bit(table);
    }

    const fn contradict(self, leaf: &Leaf) -> bool {
        self.0 & Self::bit(leaf) != 0
    }
}

/// What a TLB has for an address.
struct Found {
    hits: Hits,
    tables: TableLevels,
}

/// How matching entries were decided.
enum Decision {
    Use(Hit),
    /// The stage 1 of this is an amalgamation: stage 2 is to be asked again.
    Afresh(Hit),
    Abort {
        stage2: bool,
    },
    Stall,
}

/// A TLBI that has not taken effect here yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    issuer: usize,
    issued: Issued,
    /// It waits for the DSB.
    lazy: bool,
}

/// Issuer of a TLBI that [`Defect::EarlyDsb`] let go: no DSB waits for it any more.
const NOBODY: usize = usize::MAX;
/// TLBIs under way that one PE keeps apart; the oldest takes effect when there are more.
const PENDING: usize = 64;
/// Addresses a PE remembers to walk for unasked.
const RECENT: usize = 8;

/// Which kept [`MicroEntry`]s may have become untrue.
#[derive(Clone, Debug)]
struct Stale {
    /// Counts the times when all of them may have.
    generation: u64,
    /// Where the others are that may have since, start and size.
    ranges: ArrayVec<(u64, u64), 8>,
}

impl Stale {
    fn add_all(&mut self) {
        self.generation += 1;
        self.ranges.clear();
    }

    /// Those for addresses in `extent`, start and size.
    fn add(&mut self, extent: (u64, u64)) {
        if extent.1 == u64::MAX || self.ranges.try_push(extent).is_err() {
            self.add_all();
        }
    }
}

/// Translation of one PE.
#[derive(Clone, Debug)]
pub struct Mmu<T: Lookaside = Tlb> {
    profile: Profile,
    tlb: T,
    /// Registers as of the last context synchronisation.
    synchronised: Context,
    pending: Vec<Pending>,
    stale: Stale,
    recent: [u64; RECENT],
    recent_at: usize,
    /// [`Defect::UpdateMisplaced`]: a descriptor and what will be stored over whatever stands there.
    misplaced: Option<(u64, u64)>,
    /// [`Defect::NoProgress`]: an address at which nothing goes on until the next TLBI.
    stuck: Option<u64>,
    /// Whether the TLB may hold entries that [linger](Entry::lingers).
    lingering: bool,
    /// For defects that [use](Defect::uses_removed) it: an entry that a TLBI removed.
    ghost: Option<Entry>,
}

impl<T: Lookaside> Mmu<T> {
    /// Translation of a PE with an empty TLB and all registers 0.
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        Self {
            profile,
            tlb: T::new(profile.capacity),
            synchronised: Context::default(),
            pending: Vec::with_capacity(PENDING),
            stale: Stale { generation: 1, ranges: ArrayVec::new_const() },
            recent: [0; RECENT],
            recent_at: 0,
            misplaced: None,
            stuck: None,
            lingering: false,
            ghost: None,
        }
    }

    /// The CPU this is.
    #[must_use]
    pub const fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Changes whenever any kept [`MicroEntry`] may have become untrue; starts at 1.
    #[inline]
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.stale.generation
    }

    /// What else may have become untrue since it was asked last: start and size of addresses, of which bits 55 to 0 count.
    #[inline]
    pub fn take_stale(&mut self) -> Option<impl Iterator<Item = (u64, u64)> + use<T>> {
        let ranges = &mut self.stale.ranges;
        (!ranges.is_empty()).then(|| mem::take(ranges).into_iter())
    }

    /// A register of [`Context`] was written: nothing kept is certain until the next synchronisation.
    pub fn register_written(&mut self) {
        self.stale.add_all();
    }

    /// A context synchronisation event (ISB, exception entry, exception return) with the registers as written.
    pub fn context_sync(&mut self, context: &Context, choices: &mut Choices) {
        if self.synchronised == *context && !self.lingering {
            return;
        }
        // Of what EL1 has written: a hypervisor that could not turn its own MMU on would be all that this shows.
        let of_el1 = self.profile.has(Defect::IsbIneffective) && self.synchronised.agrees(context, Regime::El2);
        if of_el1 && choices.chance(Point::Defect, Odds::one_in(2)) {
            return;
        }
        if self.lingering {
            self.lingering = false;
            self.tlb.retain(|entry| !entry.lingers);
        }
        self.synchronised = *context;
        self.stale.add_all();
    }

    /// The registers as one use sees them.
    fn effective(&self, context: &Context, choices: &mut Choices) -> Context {
        if self.synchronised == *context {
            return *context;
        }
        // An ineffective ISB leaves a difference on any profile that has it.
        let odds = if self.profile.has(Defect::IsbIneffective) { Odds::one_in(2) } else { self.profile.early_register };
        Context::between(&self.synchronised, context, odds, choices)
    }

    /// Translates one request, with the registers as written.
    ///
    /// # Errors
    /// The [`Fault`] to be taken.
    pub fn translate<M: TableMemory>(
        &mut self,
        request: Request,
        context: &Context,
        memory: &mut M,
        choices: &mut Choices,
    ) -> Result<Translated, Fault> {
        if request.el > 2 {
            return Ok(Self::untranslated(&request, true));
        }
        if self.profile.speculate != Odds::NEVER && choices.chance(Point::Speculate, Odds::one_in(8)) {
            self.step(request.el, context, memory, choices);
        }
        if !self.pending.is_empty() && choices.chance(Point::Invalidate, self.profile.invalidate) {
            self.apply_one(|pending| !pending.lazy, false, choices);
        }
        if self.profile.has(Defect::EarlyDsb) && choices.chance(Point::Defect, Odds::one_in(64)) {
            self.apply_one(|pending| pending.issuer == NOBODY, false, choices);
        }
        let settled = self.synchronised.agrees(context, context.regime(request.el));
        let context = &self.effective(context, choices);
        let regime = context.regime(request.el);
        let (stage1, stage2) = (context.stage1_on(regime), context.stage2_on(regime));
        if !stage1 {
            // With stage 1 off, an address beyond the PA size is an Address size fault at level 0.
            if request.va >> self.profile.physical_bits() != 0 {
                return Err(self.fault(&request, regime, WalkFault::new(walk::ADDRESS_SIZE, 0, None)));
            }
            if !stage2 {
                return Ok(Self::untranslated(&request, settled));
            }
        } else if context.stage1(regime, request.va, self.profile.lpa2).is_none() {
            return Err(self.fault(&request, regime, WalkFault::new(TRANSLATION, 0, None)));
        }
        // TBI: what is above bit 55 does not take part.
        let va = request.va & ((1 << 56) - 1);
        self.remember(va);
        if self.stuck == Some(va) {
            let fault = self.fault(&request, regime, WalkFault::new(TRANSLATION, 0, None));
            return Err(Fault { stall: true, ..fault });
        }
        let tags = self.tags(regime, context);
        let unprivileged = match request.kind {
            Kind::Load | Kind::Store => {
                self.profile.has(Defect::UnprivilegedIgnored) && request.el == 1 && !request.privileged
            }
            Kind::Fetch => self.profile.has(Defect::PxnForUxn) && request.el == 0,
            _ => false,
        };
        let ignored = unprivileged && self.tlb.matching(&tags, va).any(|e| !e.is_table());
        let (hit, torn, kept) = self.resolve(&request, va, tags, context, memory, choices)?;
        let one_stage = matches!(request.kind, Kind::At { both_stages: false, .. });
        let second = if one_stage { None } else { hit.two };
        let pan = request.pan && stage1;
        let request = Request { pan, privileged: request.privileged || ignored, ..request };
        let permitted = Self::permitted(&hit.one, second.as_ref(), &request);
        if permitted & request.needs() != request.needs() {
            let mut fault = self.permission_fault(&request, regime, va, &hit);
            if self.profile.has(Defect::ExecuteFar)
                && request.kind == Kind::Fetch
                && self.ghost.is_some_and(|ghost| ghost.executable() && ghost.matches(&tags, va))
            {
                self.ghost = None;
                fault.va = fault.va.wrapping_sub(0x1000);
            }
            return Err(fault);
        }
        let attr = Self::attr(&hit, second.as_ref(), request.kind == Kind::Fetch && !stage1);
        let pa = if one_stage { hit.ipa(va) } else { hit.pa(va) };
        let (device, cacheable) = (Device::of(attr).is_some(), attr == 0xff);
        let device_by_stage2 = device && Device::of(hit.one.attr).is_none();
        let stable =
            kept && settled && !one_stage && self.pending.is_empty() && !self.lingering && self.ghost.is_none();
        let page = (stable && torn.is_none() && self.unique(&tags, va, &hit)).then(|| MicroEntry {
            va: request.va & !0xfff,
            pa: pa & !0xfff,
            load: permitted & Permissions::READ != 0,
            store: permitted & Permissions::WRITE != 0 && !hit.clean(),
            // With stage 1 off, fetches and data accesses differ in their memory type.
            fetch: permitted & Permissions::EXECUTE != 0,
            device: Device::of(Self::attr(&hit, second.as_ref(), false)).is_some(),
            cacheable,
        });
        let shareability = hit.one.shareability;
        Ok(Translated { pa, device, device_by_stage2, cacheable, attr, shareability, torn, page })
    }

    /// Whose entries a lookup wants.
    fn tags(&self, regime: Regime, context: &Context) -> Tags {
        Tags {
            regime,
            asid: context.asid(regime),
            vmid: context.vmid(),
            flat: !context.stage1_on(regime),
            any_asid: self.profile.has(Defect::AsidIgnored),
        }
    }

    /// No translation at all: Device-nGnRnE for data and Normal for fetches. `keep`: it is certain.
    fn untranslated(request: &Request, keep: bool) -> Translated {
        let attr = if request.kind == Kind::Fetch { 0xaa } else { 0 };
        let (pa, device) = (request.va & ((1 << 56) - 1), request.kind != Kind::Fetch);
        let page = keep.then_some(MicroEntry {
            va: request.va & !0xfff,
            pa: pa & !0xfff,
            load: true,
            store: true,
            fetch: true,
            device: true,
            cacheable: false,
        });
        Translated { pa, device, device_by_stage2: false, cacheable: false, attr, shareability: 2, torn: None, page }
    }

    fn attr(hit: &Hit, two: Option<&Leaf>, flat_fetch: bool) -> u8 {
        let one = if flat_fetch && hit.one.attr == 0 { 0xaa } else { hit.one.attr };
        two.map_or(one, |two| walk::combine(one, two.attr))
    }

    /// What both stages permit to the request's privilege.
    fn permitted(one: &Leaf, two: Option<&Leaf>, request: &Request) -> u8 {
        let mut permitted = one.permissions.of(request.privileged);
        // PAN: data that EL0 may touch is out of bounds for EL1.
        if request.pan && request.privileged && one.permissions.of(false) & Permissions::READ != 0 {
            permitted &= Permissions::EXECUTE;
        }
        two.map_or(permitted, |two| permitted & two.permissions.of(request.el != 0))
    }

    fn permission_fault(&self, request: &Request, regime: Regime, va: u64, hit: &Hit) -> Fault {
        let first = Self::permitted(&hit.one, None, request) & request.needs() != request.needs();
        let (level, ipa) = match (first, hit.two) {
            (false, Some(two)) => (two.level, Some(hit.ipa(va))),
            _ => (hit.one.level, None),
        };
        let readable = Self::permitted(&hit.one, hit.two.as_ref(), request) & Permissions::READ != 0;
        let fault = self.fault(request, regime, WalkFault::new(PERMISSION, level.number(), ipa));
        Fault { write: fault.write || request.kind == Kind::Atomic && readable, ..fault }
    }

    fn fault(&self, request: &Request, regime: Regime, fault: WalkFault) -> Fault {
        Fault {
            fsc: fault.fsc,
            stage2: fault.stage2,
            s1ptw: fault.s1ptw,
            level: fault.level,
            ipa: fault.ipa,
            va: request.va,
            write: request.kind == Kind::Store,
            taken_to: if fault.stage2 || regime != Regime::El10 { 2 } else { 1 },
            stall: false,
        }
    }

    fn remember(&mut self, va: u64) {
        if self.recent.iter().all(|recent| (recent ^ va) >> 12 != 0) {
            self.recent[self.recent_at] = va;
            self.recent_at = (self.recent_at + 1) % RECENT;
        }
    }

    /// Everything in the TLB that translates `va`, stage 2 walked for where only stage 1 is cached; and the tables there.
    fn hits<M: TableMemory>(&mut self, va: u64, fetch: bool, walker: Walk<'_, M>) -> (Found, Option<WalkFault>) {
        let Walk { tags, context, memory, choices, .. } = walker;
        let nested = context.stage2_on(tags.regime);
        let mut hits = Hits::new();
        let mut refused = None;
        let mut tables = TableLevels::default();
        let add = |hit: Hit, hits: &mut Hits| {
            if !hits.contains(&hit) {
                // More than eight ways are as ambiguous as eight.
                let _ = hits.try_push(hit);
            }
        };
        let mut stage1: ArrayVec<Leaf, 8> = ArrayVec::new();
        for entry in self.tlb.matching(&tags, va).filter(|entry| fetch || !entry.fetch_only) {
            match entry.kind {
                EntryKind::Combined => add(Hit { one: entry.one, two: entry.two }, &mut hits),
                EntryKind::Stage1 => _ = stage1.try_push(entry.one),
                EntryKind::Table1 => tables.add(&entry.one),
                _ => {}
            }
        }
        if tags.flat && hits.is_empty() {
            let store = None;
            stage1.push(self.walker(Walk { tags, context, memory, choices, store }).flat());
        }
        for one in stage1 {
            if !nested {
                add(Hit { one, two: None }, &mut hits);
                continue;
            }
            let ipa = one.output(va);
            let twos: ArrayVec<Leaf, 8> =
                self.tlb.matching(&tags, ipa).filter(|e| e.kind == EntryKind::Stage2).map(|e| e.one).take(8).collect();
            for two in &twos {
                add(Hit { one, two: Some(*two) }, &mut hits);
            }
            if twos.is_empty() && !tags.flat {
                let mut walker = self.walker(Walk { tags, context, memory, choices, store: None });
                match walker.stage2(ipa, false, false) {
                    Ok(two) => {
                        walker.keep_stage2(ipa, two, None);
                        add(Hit { one, two: Some(two) }, &mut hits);
                    }
                    Err(fault) => refused = Some(fault),
                }
            }
        }
        (Found { hits, tables }, refused)
    }

    /// Translates by TLB or walk: the translation, where the other half of a torn access goes, and whether an entry
    /// holds it now.
    fn resolve<M: TableMemory>(
        &mut self,
        request: &Request,
        va: u64,
        tags: Tags,
        context: &Context,
        memory: &mut M,
        choices: &mut Choices,
    ) -> Result<(Hit, Option<u64>, bool), Fault> {
        let regime = tags.regime;
        let fetch = request.kind == Kind::Fetch;
        let maintains = self.profile.has(Defect::MaintenanceStale)
            && matches!(request.kind, Kind::CacheMaintenance { .. })
            || self.profile.has(Defect::AtStale) && matches!(request.kind, Kind::At { .. });
        if let Some(ghost) = self.ghost.filter(|ghost| maintains && ghost.matches(&tags, va)) {
            self.ghost = None;
            choices.tell_of((va, 1), "use", || format!("{ghost}, which a TLBI removed"));
            return Ok((Hit { one: ghost.one, two: ghost.two }, None, false));
        }
        if let Some(ghost) = self.ghost
            && self.profile.has(Defect::Reordered)
            && request.kind == Kind::Load
            && ghost.matches(&tags, va)
            && self.tlb.matching(&tags, va).any(|entry| entry.kind == EntryKind::Combined)
            && choices.chance(Point::Defect, Odds::one_in(2))
        {
            self.ghost = None;
            choices.tell_of((va, 1), "use", || format!("{ghost}, which a TLBI removed"));
            return Ok((Hit { one: ghost.one, two: ghost.two }, None, false));
        }
        if self.lingering
            && let Some(entry) = self.tlb.lingering(&tags, va)
            && !(request.kind.stores() && (Hit { one: entry.one, two: entry.two }).clean())
            && choices.chance(Point::Invalidate, self.profile.linger)
        {
            choices.tell_of((va, 1), "linger", || format!("{va:#x}: {entry} still serves"));
            return Ok((Hit { one: entry.one, two: entry.two }, None, false));
        }
        // AT of stage 1 alone with stage 2 on walks: what the TLB has of stage 2 is not asked for.
        if matches!(request.kind, Kind::At { both_stages: false, .. }) && context.stage2_on(regime) {
            return self.demand(request, va, tags, context, memory, choices);
        }
        // Of the entries that a defect keeps, whose fetches may use them.
        let keeps = fetch && (request.el == 0 || !self.profile.has(Defect::UserExecuteKept));
        let (found, refused) = self.hits(va, keeps, Walk { tags, context, memory, choices, store: None });
        let matching = &found.hits;
        if matching.is_empty() {
            if let Some(fault) = refused {
                return Err(self.fault(request, regime, fault));
            }
            if let Some(entry) = self.tlb.matching(&tags, va).find(|entry| entry.kind == EntryKind::Invalid) {
                let fault = WalkFault::new(entry.restrictions, entry.one.level.number(), None);
                return Err(self.fault(request, regime, fault));
            }
            return self.demand(request, va, tags, context, memory, choices);
        }
        let hit = match self.decide(va, &found, &tags, context, memory, choices) {
            Decision::Use(hit) => {
                if matching.len() > 1 {
                    choices
                        .tell_of((va, 1), "several", || several(matching, va, &format!("{:#x} is used", hit.pa(va))));
                }
                hit
            }
            Decision::Afresh(mut hit) => {
                choices.tell_of((va, 1), "several", || several(matching, va, "an amalgamation is used"));
                if context.stage2_on(regime) {
                    let store = None;
                    let two =
                        self.walker(Walk { tags, context, memory, choices, store }).stage2(hit.ipa(va), false, false);
                    match two {
                        Ok(two) => hit.two = Some(two),
                        Err(fault) => return Err(self.fault(request, regime, fault)),
                    }
                }
                return Ok((hit, None, false));
            }
            Decision::Abort { stage2 } => {
                choices.tell_of((va, 1), "several", || several(matching, va, "a conflict abort is raised"));
                return Err(self.conflict(request, regime, va, matching, stage2));
            }
            Decision::Stall => {
                self.stuck = Some(va);
                let fault = WalkFault::new(TRANSLATION, 0, None);
                return Err(Fault { stall: true, ..self.fault(request, regime, fault) });
            }
        };
        if hit.clean() && request.kind.stores() && self.profile.has(Defect::CleanFaults) {
            return Err(self.permission_fault(request, regime, va, &hit));
        }
        if hit.clean() && request.kind.stores() && !self.profile.has(Defect::DirtyLost) {
            // The update is the walk's to make: without the entries that could serve the access as it is.
            self.tlb.retain(|entry| entry.is_table() || !entry.matches(&tags, va));
            self.stale.add_all();
            return self.demand(request, va, tags, context, memory, choices);
        }
        let torn = self
            .ghost
            .filter(|ghost| {
                let tears = match request.kind {
                    Kind::Load | Kind::Store => self.profile.has(Defect::Torn),
                    Kind::Atomic => self.profile.has(Defect::AtomicSplit),
                    _ => false,
                };
                tears && ghost.matches(&tags, va) && choices.chance(Point::Defect, Odds::one_in(2))
            })
            .map(|ghost| {
                Hit { one: ghost.one, two: ghost.two }.pa(va) + if request.kind == Kind::Atomic { 0 } else { 4 }
            });
        if torn.is_some() {
            self.ghost = None;
        }
        Ok((hit, torn, matching.len() == 1))
    }

    /// A walk for a request.
    fn demand<M: TableMemory>(
        &mut self,
        request: &Request,
        va: u64,
        tags: Tags,
        context: &Context,
        memory: &mut M,
        choices: &mut Choices,
    ) -> Result<(Hit, Option<u64>, bool), Fault> {
        let regime = tags.regime;
        let stores = request.kind.stores() || request.kind == Kind::Load && self.profile.has(Defect::DirtyByLoad);
        let store = stores.then_some(request.privileged);
        let stage1_only = matches!(request.kind, Kind::At { both_stages: false, .. });
        let mut walker = self.walker(Walk { tags, context, memory, choices, store });
        let walked = walker.stage1(va).and_then(|(one, slot)| {
            if !context.stage2_on(regime) || stage1_only {
                return Ok((Hit { one, two: None }, slot));
            }
            walker.stage2(one.output(va), false, false).map(|two| (Hit { one, two: Some(two) }, slot))
        });
        let walked = walked.inspect(|(hit, slot)| {
            if !(stage1_only && context.stage2_on(regime)) {
                walker.keep(va, hit.one, *slot, hit.two);
            }
        });
        match walked {
            Ok((hit, _)) => Ok((hit, None, !hit.nt())),
            Err(fault) => Err(self.fault(request, regime, fault)),
        }
    }

    /// Whether `hit` is the one way through the TLB from `va`, and no Table descriptor in it contradicts that.
    fn unique(&self, tags: &Tags, va: u64, hit: &Hit) -> bool {
        let (mut combined, mut apart) = (false, false);
        let mut tables = TableLevels::default();
        for entry in self.tlb.matching(tags, va) {
            match entry.kind {
                _ if entry.fetch_only => return false,
                EntryKind::Combined if (entry.one, entry.two) == (hit.one, hit.two) => combined = true,
                EntryKind::Stage1 if entry.one == hit.one => apart = true,
                EntryKind::Combined | EntryKind::Stage1 => return false,
                EntryKind::Table1 => tables.add(&entry.one),
                _ => {}
            }
        }
        if apart && hit.two.is_some() || tags.flat && !combined {
            let mut found = false;
            for entry in self.tlb.matching(tags, hit.ipa(va)).filter(|entry| entry.kind == EntryKind::Stage2) {
                if Some(entry.one) != hit.two {
                    return false;
                }
                found = true;
            }
            apart = found;
            // Where stage 2 would have to be walked for, the entry of both stages serves as well.
            if !found && !tags.flat && !combined {
                return false;
            }
        }
        (combined || apart) && !hit.nt() && !tables.contradict(&hit.one)
    }

    /// What matching entries give, of which there is at least one.
    fn decide<M: TableMemory>(
        &self,
        va: u64,
        Found { hits, tables }: &Found,
        tags: &Tags,
        context: &Context,
        memory: &M,
        choices: &mut Choices,
    ) -> Decision {
        let mut worst = (Disagreement::Harmless, false, 0, 0);
        for (i, a) in hits.iter().enumerate() {
            for (j, b) in hits.iter().enumerate().skip(i + 1) {
                let equal = || same_contents(memory, a.pa(va), b.pa(va));
                let first = disagreement(&a.one, &b.one, equal);
                // Stage 2 can be compared for one IPA only.
                let second = match (a.two, b.two) {
                    (Some(x), Some(y)) if a.ipa(va) == b.ipa(va) => disagreement(&x, &y, equal),
                    _ => Disagreement::Harmless,
                };
                let found = (first.max(second), second > first, i, j);
                if found.0 > worst.0 {
                    worst = found;
                }
            }
        }
        let (mut cause, stage2, i, j) = worst;
        let (a, b) = (hits[i], hits[j]);
        if cause == Disagreement::Harmless && hits.iter().any(|hit| tables.contradict(&hit.one)) {
            cause = Disagreement::Size;
        }
        let chosen = hits[choices.pick(Point::Several, hits.len() as u32) as usize];
        if cause == Disagreement::Harmless {
            return Decision::Use(chosen);
        }
        let sizes = i != j && a.one.level != b.one.level;
        let answers = match cause {
            Disagreement::Size if hits.iter().any(Hit::nt) => Answers::OR_ABORT,
            _ => self.answers(cause),
        };
        let mixed = i != j && a.one.contiguous != b.one.contiguous;
        if self.profile.has(Defect::NoProgress) && sizes || self.profile.has(Defect::ContiguousNoProgress) && mixed {
            return Decision::Stall;
        }
        if self.profile.has(Defect::Stage2Escape) && chosen.two.is_some() {
            let two = Leaf { delta: 0, permissions: Permissions::new(7, 7), ..chosen.one };
            return Decision::Use(Hit { two: Some(two), ..chosen });
        }
        if self.profile.has(Defect::AmalgamatedOa) && sizes {
            return Decision::Use(Hit { one: sized(&a.one, &b.one, va), ..chosen });
        }
        if self.profile.has(Defect::AmalgamatedPermission) && sizes {
            return Decision::Use(Hit {
                one: Leaf { permissions: chosen.one.permissions.without_write(), ..chosen.one },
                ..chosen
            });
        }
        let mut ways: ArrayVec<u8, 3> = ArrayVec::new();
        for (way, allowed) in [(0, answers.either), (1, answers.abort), (2, answers.amalgam && !stage2 && i != j)] {
            if allowed {
                ways.push(way);
            }
        }
        match ways.get(choices.pick(Point::Several, ways.len() as u32) as usize) {
            Some(1) => Decision::Abort { stage2: self.conflict_at_el2(cause, stage2, context, tags) },
            Some(2) => Decision::Afresh(amalgam(&a, &b, va, sizes, choices)),
            _ => Decision::Use(chosen),
        }
    }

    /// What the profile allows for a disagreement.
    fn answers(&self, cause: Disagreement) -> Answers {
        let answers = match cause {
            // From level 1 on a direct change of the Contiguous bit is defined (R_KHRBC, R_FCPSG).
            Disagreement::Contiguous if self.profile.bbm != BbmLevel::L0 => {
                Answers { amalgam: false, ..self.profile.size }
            }
            Disagreement::Member => Answers { amalgam: false, ..self.profile.size },
            Disagreement::Contiguous | Disagreement::Size => self.profile.size,
            Disagreement::Break | Disagreement::Harmless => self.profile.other,
        };
        let defect = self.profile.has(Defect::ConflictAtLevel3) && cause != Disagreement::Break;
        Answers { abort: answers.abort || defect, ..answers }
    }

    /// R_FWRMB, and conflicts in stage 2 itself; never with stage 2 off.
    fn conflict_at_el2(&self, cause: Disagreement, stage2: bool, context: &Context, tags: &Tags) -> bool {
        let size = cause != Disagreement::Break && self.profile.bbm != BbmLevel::L0;
        let on = context.stage2_on(tags.regime);
        on && (size || stage2) || !on && tags.regime == Regime::El10 && self.profile.has(Defect::ConflictWrongEl)
    }

    fn conflict(&self, request: &Request, regime: Regime, va: u64, hits: &Hits, stage2: bool) -> Fault {
        let ipa = stage2.then(|| hits[0].ipa(va));
        let mut fault = Fault { fsc: CONFLICT, ..self.fault(request, regime, WalkFault::new(0, 0, ipa)) };
        if self.profile.has(Defect::ConflictWrongFsc) {
            fault.fsc = TRANSLATION | 3;
        }
        if self.profile.has(Defect::ConflictWrongFar) {
            fault.va = request.va.wrapping_sub(0x1000);
        }
        fault
    }

    fn walker<'a, M: TableMemory>(&'a mut self, walk: Walk<'a, M>) -> Walker<'a, M, T> {
        let Walk { tags, context, memory, choices, store } = walk;
        Walker {
            profile: &self.profile,
            context,
            tags,
            tlb: &mut self.tlb,
            memory,
            choices,
            misplaced: &mut self.misplaced,
            store,
            stale: &mut self.stale,
        }
    }

    /// A moment at which the TLB may do something unasked: let a TLBI take effect, give up an entry, walk. `el` is the
    /// PE's; only its regime is walked for. A benign profile does nothing.
    pub fn step<M: TableMemory>(&mut self, el: u8, context: &Context, memory: &mut M, choices: &mut Choices) {
        if !self.pending.is_empty() && choices.chance(Point::Invalidate, self.profile.invalidate) {
            self.apply_one(|pending| !pending.lazy, false, choices);
        }
        if let Some((pa, new)) = self.misplaced
            && choices.chance(Point::Defect, Odds::one_in(3))
        {
            self.misplaced = None;
            if let Some(now) = memory.read64(pa) {
                memory.cas64(pa, now, new);
            }
        }
        if choices.chance(Point::Evict, self.profile.evict) {
            self.evict_one(choices);
        }
        if !choices.chance(Point::Speculate, self.profile.speculate) {
            return;
        }
        if el > 2 {
            return;
        }
        let context = &self.effective(context, choices);
        let regime = context.regime(el);
        let stage1 = context.stage1_on(regime);
        if !stage1 && !context.stage2_on(regime) {
            return;
        }
        let recent = self.recent[choices.pick(Point::Speculate, RECENT as u32) as usize];
        let va = match choices.pick(Point::Speculate, 4) {
            0 => recent.wrapping_add(0x1000),
            1 => recent.wrapping_sub(0x1000),
            _ => recent,
        } & ((1 << 56) - 1);
        let tags = self.tags(regime, context);
        choices.tell_of((va, 1), "unasked", || format!("a walk for {va:#x}"));
        let mut walker = self.walker(Walk { tags, context, memory, choices, store: None });
        let walked = walker.stage1(va).and_then(|(one, slot)| match context.stage2_on(regime) {
            true => walker.stage2(one.output(va), false, false).map(|two| (one, slot, Some(two))),
            false => Ok((one, slot, None)),
        });
        if let Ok((one, slot, two)) = walked {
            walker.keep(va, one, slot, two);
        }
    }

    fn evict_one(&mut self, choices: &mut Choices) {
        if self.tlb.len() != 0 {
            let entry = self.tlb.evict(choices.pick(Point::Evict, self.tlb.len() as u32) as usize);
            choices.tell_of(entry.extent(), "evict", || entry);
            self.stale.add(entry.extent());
        }
    }

    /// Lets one of the TLBIs under way that `may` take effect, in any order; whether there was one.
    fn apply_one(&mut self, may: impl Fn(&Pending) -> bool, linger: bool, choices: &mut Choices) -> bool {
        let count = self.pending.iter().filter(|pending| may(pending)).count();
        let nth = choices.pick(Point::Invalidate, count as u32) as usize;
        let Some((index, _)) = self.pending.iter().enumerate().filter(|(_, pending)| may(pending)).nth(nth) else {
            return false;
        };
        let issued = self.pending.swap_remove(index).issued;
        self.apply(&issued, linger, choices);
        true
    }

    fn apply(&mut self, issued: &Issued, linger: bool, choices: &mut Choices) {
        let (profile, ghost, lingering) = (&self.profile, &mut self.ghost, &mut self.lingering);
        choices.tell("effect", || format!("of tlbi {issued}"));
        self.stuck = None;
        self.tlb.retain(|entry| {
            if !issued.must_remove(entry, profile) {
                return true;
            }
            if profile.defect.is_some_and(Defect::uses_removed) && entry.kind == EntryKind::Combined {
                *ghost = Some(*entry);
            }
            let kept = profile.has(Defect::ExecuteKept) && entry.executable()
                || profile.has(Defect::UserExecuteKept) && entry.user_executable();
            if kept && issued.by_va() && !entry.is_table() {
                entry.fetch_only = true;
                choices.tell_of(entry.extent(), "keep", || format!("{entry} for fetches"));
                return true;
            }
            let page = 1 << entry.one.shift;
            if profile.has(Defect::ContiguousPartKept) && entry.one.contiguous && entry.size > page {
                (entry.start, entry.size) = (entry.start + entry.size - page, page);
                choices.tell_of(entry.extent(), "keep", || format!("{entry} of its group"));
                return true;
            }
            entry.lingers = linger && entry.kind == EntryKind::Combined;
            choices.tell_of(entry.extent(), if entry.lingers { "linger" } else { "remove" }, || *entry);
            *lingering |= entry.lingers;
            entry.lingers
        });
        self.stale.add_all();
        if choices.chance(Point::Evict, self.profile.over_invalidate) {
            self.evict_one(choices);
        }
    }
}

/// What a walk works with besides the [`Mmu`] itself.
struct Walk<'a, M> {
    tags: Tags,
    context: &'a Context,
    memory: &'a mut M,
    choices: &'a mut Choices,
    store: Option<bool>,
}

/// Issues a TLBI of PE `issuer`, at EL1 if `el1`, with its registers as written, to the PEs it reaches.
pub fn tlbi<T: Lookaside>(
    mmus: &mut [Mmu<T>],
    issuer: usize,
    op: TlbiOp,
    el1: bool,
    context: &Context,
    choices: &mut Choices,
) {
    let issued = op.issue(&mmus[issuer].effective(context, choices), el1);
    let last = mmus.len() - 1;
    for (pe, mmu) in mmus.iter_mut().enumerate() {
        choices.on(pe);
        let deaf = pe == last && mmu.profile.has(Defect::BroadcastMissesPe)
            || issued.scope == Scope::Outer && mmu.profile.has(Defect::OuterIsLocal)
            || issued.is_el2() && mmu.profile.has(Defect::El2IsLocal);
        if pe != issuer && (issued.scope == Scope::NonShareable || deaf) {
            continue;
        }
        mmu.stale.add_all();
        if mmu.profile.invalidate == Odds::ALWAYS {
            mmu.apply(&issued, false, choices);
            continue;
        }
        if mmu.pending.len() == PENDING {
            let oldest = mmu.pending.remove(0).issued;
            mmu.apply(&oldest, false, choices);
        }
        let lazy = choices.chance(Point::Invalidate, mmu.profile.lazy);
        mmu.pending.push(Pending { issuer, issued, lazy });
    }
    choices.on(issuer);
}

/// A DSB of PE `issuer`: the TLBIs that it completes have taken effect everywhere when it ends.
pub fn complete<T: Lookaside>(mmus: &mut [Mmu<T>], issuer: usize, dsb: Dsb, choices: &mut Choices) {
    for (pe, mmu) in mmus.iter_mut().enumerate() {
        if mmu.pending.is_empty() {
            continue;
        }
        let early = pe != issuer && mmu.profile.has(Defect::EarlyDsb);
        let completed = |pending: &Pending| pending.issuer == issuer && pending.issued.completed_by(dsb);
        if early {
            for pending in mmu.pending.iter_mut().filter(|pending| completed(pending)) {
                choices.tell("early", || {
                    format!("the DSB does not wait for PE {pe} to have done tlbi {}", pending.issued)
                });
                (pending.issuer, pending.lazy) = (NOBODY, true);
            }
        }
        choices.on(pe);
        // What the issuer's next instructions were translated by outlives the DSB.
        let linger = pe == issuer && choices.chance(Point::Invalidate, mmu.profile.linger);
        while mmu.apply_one(completed, linger, choices) {}
    }
    choices.on(issuer);
}

/// The PAs among which a lookup chose, for a trace.
fn several(hits: &Hits, va: u64, what: &str) -> String {
    let way = |hit: &Hit| format!("{:#x} (level {})", hit.pa(va), hit.one.level.number());
    format!("{va:#x}: {}: {what}", hits.iter().map(way).collect::<Vec<_>>().join(", "))
}

/// Whether the 4 KiB around two PAs hold the same.
fn same_contents(memory: &impl TableMemory, a: u64, b: u64) -> bool {
    let (a, b) = (a & !0xfff, b & !0xfff);
    (0..0x1000).step_by(8).all(|offset| memory.contents(a + offset) == memory.contents(b + offset))
}

/// The larger's base with the smaller's offset.
fn sized(a: &Leaf, b: &Leaf, va: u64) -> Leaf {
    let (large, small) = if a.shift > b.shift { (a, b) } else { (b, a) };
    let oa = large.output(large.start) | va & ((1 << small.shift) - 1);
    Leaf { delta: oa.wrapping_sub(va), ..*large }
}

/// A mixture of two stage 1 translations: of sizes, or field by field and bit by bit of the page's address.
fn amalgam(a: &Hit, b: &Hit, va: u64, sizes: bool, choices: &mut Choices) -> Hit {
    if sizes && choices.pick(Point::Several, 2) == 0 {
        return Hit { one: sized(&a.one, &b.one, va), two: None };
    }
    let mut coin = || choices.pick(Point::Several, 2) == 0;
    let attr = if coin() { a.one.attr } else { b.one.attr };
    let permissions = if coin() { a.one.permissions } else { b.one.permissions };
    let (x, y) = (a.ipa(va) & !0xfff, b.ipa(va) & !0xfff);
    let page = (12..52)
        .fold(0, |page, bit| page | if (x ^ y) >> bit & 1 == 0 || coin() { x & 1 << bit } else { y & 1 << bit });
    let one = Leaf { attr, permissions, delta: (page | va & 0xfff).wrapping_sub(va), ..a.one };
    Hit { one, two: None }
}
