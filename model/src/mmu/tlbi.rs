//! TLB maintenance: what an instruction names, and which entries that must remove (DDI 0487 D8.17, C5.5).

use std::fmt;

use vmsa::Granule;

use super::{
    context::{Context, Regime},
    profile::{Defect, Profile},
    tlb::{Entry, Kind},
};

/// Which PEs a TLBI reaches, and which DSB completes it; ordered by reach.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// This PE; DSB NSH.
    NonShareable,
    /// The Inner Shareable domain, which is all PEs; DSB ISH.
    Inner,
    /// The Outer Shareable domain, which is the same PEs; DSB OSH.
    Outer,
    /// The full system, for a DSB only.
    System,
}

/// A DSB, as far as it completes TLBIs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Dsb {
    /// Its domain.
    pub scope: Scope,
    /// It orders loads and stores; LD and ST forms complete no TLBI (R_PSMWS).
    pub loads_and_stores: bool,
    /// DSB nXS: completes only the nXS forms.
    pub nxs: bool,
}

/// What a TLBI names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Target {
    /// By VA: `asid` `None` is all ASIDs; `last`: not Table descriptors.
    Va { regime: Regime, asid: Option<u16>, last: bool, range: Range },
    /// By IPA, stage 2 only.
    Ipa { last: bool, range: Range },
    /// One ASID's.
    Asid { regime: Regime, asid: u16 },
    /// Stage 1 of the VMID, combined entries included; or all of EL2&0.
    Vmall(Regime),
    /// Both stages of the VMID.
    VmallS12,
    /// Everything of EL1&0.
    All1,
    /// Everything of EL2, or of EL2&0.
    All2(Regime),
    /// Everything of EL3, which this machine never translates for.
    El3,
}

/// A range of addresses with its hints.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Range {
    start: u64,
    size: u64,
    /// TG of a TTL or range operand: entries of another granule need not be removed (R_XKMMX).
    granule: Option<Granule>,
    /// TTL: leaf entries of another level need not be removed (R_SQXYZ).
    level: Option<i8>,
    /// From a range form, with NUM of its operand and the bits by which its BaseADDR is shifted.
    many: Option<(u8, u32)>,
}

/// A TLBI as decoded, before it is bound to a VMID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TlbiOp {
    target: Target,
    scope: Scope,
    nxs: bool,
    /// A form of EL1&0 that is of EL2&0 by HCR_EL2.TGE.
    of_host: bool,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {:#x}+{:#x}", self.start, self.size)?;
        if let Some(level) = self.level {
            write!(f, " level {level}")?;
        }
        self.granule.map_or(Ok(()), |granule| write!(f, " of {granule}"))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = |last| if last { ", last level," } else { "" };
        match self {
            Self::Va { regime, asid, last: l, range } => {
                write!(f, "by VA{} {}{range}", last(*l), regime.name())?;
                asid.map_or(Ok(()), |asid| write!(f, " ASID {asid}"))
            }
            Self::Ipa { last: l, range } => write!(f, "by IPA{}{range}", last(*l)),
            Self::Asid { regime: Regime::El20, asid } => write!(f, "by ASID {asid} EL2&0"),
            Self::Asid { asid, .. } => write!(f, "by ASID {asid}"),
            Self::Vmall(Regime::El20) => f.write_str("VMALL EL2&0"),
            Self::Vmall(_) => f.write_str("VMALL"),
            Self::VmallS12 => f.write_str("VMALLS12"),
            Self::All1 => f.write_str("all of EL1&0"),
            Self::All2(regime) => write!(f, "all of {}", regime.name()),
            Self::El3 => f.write_str("of nothing here"),
        }
    }
}

impl fmt::Display for TlbiOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.fmt(f)?;
        f.write_str(match self.scope {
            Scope::NonShareable => ", this PE",
            Scope::Inner => ", Inner Shareable",
            Scope::Outer => ", Outer Shareable",
            Scope::System => ", system",
        })?;
        f.write_str(if self.nxs { ", nXS" } else { "" })
    }
}

impl fmt::Display for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, VMID {}", self.target, self.vmid)
    }
}

const fn granule(tg: u64) -> Option<Granule> {
    match tg & 3 {
        1 => Some(Granule::K4),
        2 => Some(Granule::K16),
        3 => Some(Granule::K64),
        _ => None,
    }
}

/// What TLB entries have of a VA: bits 55 to 0.
const IN_TLB: u64 = (1 << 56) - 1;

/// The level that two bits of TTL give for the leaves of `granule`; `None` if they are reserved and no hint. Level 0 of
/// 4K and level 1 of 16K have leaves with FEAT_LPA2 only.
const fn hint(granule: Granule, level: u64, lpa2: bool) -> Option<i8> {
    match (granule, level) {
        (Granule::K4, 0) | (Granule::K16, 1) if !lpa2 => None,
        (Granule::K16 | Granule::K64, 0) => None,
        (_, level) => Some(level as i8),
    }
}

impl Range {
    /// The operand of a form by one address: ASID or NS in the top bits, TTL in bits 47 to 44, address bits from 12 up.
    const fn one(operand: u64, address_bits: u32, lpa2: bool) -> Self {
        let start = (operand & ((1 << address_bits) - 1)) << 12;
        let granule = granule(operand >> 46);
        let level = match granule {
            Some(granule) => hint(granule, operand >> 44 & 3, lpa2),
            None => None,
        };
        let granule = if level.is_some() { granule } else { None };
        Self { start, size: 1 << 12, granule, level, many: None }
    }

    /// The operand of a range form; `None` if its TG is reserved, and nothing need be removed. `ds`: the DS bit of the
    /// regime's TCR, with which BaseADDR counts 64 KiB whatever the granule.
    const fn many(operand: u64, ds: bool, lpa2: bool) -> Option<Self> {
        let Some(granule) = granule(operand >> 46) else { return None };
        let (scale, num, ttl) = (operand >> 44 & 3, operand >> 39 & 31, operand >> 37 & 3);
        let pages = (num + 1) << (5 * scale + 1);
        // BaseADDR is signed: the upper VA range has all its bits set.
        let base = ((operand << 27) as i64 >> 27) as u64;
        let unit = if ds { 16 } else { granule.page_shift() };
        Some(Self {
            start: base << unit & IN_TLB,
            size: pages << granule.page_shift(),
            granule: Some(granule),
            level: if ttl == 0 { None } else { hint(granule, ttl, lpa2) },
            many: Some((num as u8, unit)),
        })
    }
}

impl TlbiOp {
    /// Decodes SYS `op1`, C`crn`, C`crm`, `op2` with `operand` in Xt. `None` if it is no TLBI. CRn 9 is the nXS form.
    /// What it and its operand mean depends on the CPU's FEAT_LPA2, on the DS bits in `context`, and on HCR_EL2.{E2H, TGE}: with
    /// both, EL2's TLBIs of EL1&0 by VA, ASID and all of stage 1 are of EL2&0 (EL1 does not run then).
    #[must_use]
    pub fn decode((op1, crn, crm, op2): (u8, u8, u8, u8), operand: u64, context: &Context, lpa2: bool) -> Option<Self> {
        let nxs = match crn {
            8 => false,
            9 => true,
            _ => return None,
        };
        // Stage 2 by IPA has a table of its own; everywhere else CRm tells scope and whether it is a range.
        let (scope, ranged) = match (op1, crm, op2) {
            (4, 0, 1 | 5) => (Scope::Inner, false),
            (4, 0, 2 | 6) => (Scope::Inner, true),
            (4, 4, 0 | 4) => (Scope::Outer, false),
            (4, 4, 1 | 5) => (Scope::NonShareable, false),
            (4, 4, 2 | 6) => (Scope::NonShareable, true),
            (4, 4, 3 | 7) => (Scope::Outer, true),
            (4, 0 | 4, _) => return None,
            (_, 1, _) => (Scope::Outer, false),
            (_, 2, _) => (Scope::Inner, true),
            (_, 3, _) => (Scope::Inner, false),
            (_, 5, _) => (Scope::Outer, true),
            (_, 6, _) => (Scope::NonShareable, true),
            (_, 7, _) => (Scope::NonShareable, false),
            _ => return None,
        };
        let of_host = op1 == 0 && context.is_host();
        let done = |target| Some(Self { target, scope, nxs, of_host });
        // A reserved TG names nothing.
        let nothing = done(Target::El3);
        if op1 == 4 && matches!(crm, 0 | 4) {
            let range = match ranged {
                true => Range::many(operand, context.stage2_ds(), lpa2),
                false => Some(Range::one(operand, 40, lpa2)),
            };
            return range.map_or(nothing, |range| done(Target::Ipa { last: op2 >= 4, range }));
        }
        let asid = (operand >> 48) as u16;
        let by_va = |regime, asid| {
            let range = match ranged {
                true => Range::many(operand, context.ds(regime), lpa2),
                false => Some(Range::one(operand, 44, lpa2)),
            };
            range.map_or(nothing, |range| done(Target::Va { regime, asid, last: op2 >= 5, range }))
        };
        let of_el1 = if of_host { Regime::El20 } else { Regime::El10 };
        let of_el2 = context.regime(2);
        match (op1, op2, ranged) {
            (0, 1 | 5, _) => by_va(of_el1, Some(asid)),
            (0, 3 | 7, _) => by_va(of_el1, None),
            (0, 0, false) => done(Target::Vmall(of_el1)),
            (0, 2, false) => done(Target::Asid { regime: of_el1, asid }),
            (4, 1 | 5, _) => by_va(of_el2, (of_el2 == Regime::El20).then_some(asid)),
            (4, 0, false) => done(Target::All2(of_el2)),
            (4, 4, false) => done(Target::All1),
            (4, 6, false) => done(Target::VmallS12),
            (6, 1 | 5, _) | (6, 0, false) => nothing,
            _ => None,
        }
    }

    /// Its nXS form, if `force`.
    #[must_use]
    pub const fn forced_nxs(self, force: bool) -> Self {
        Self { nxs: self.nxs || force, ..self }
    }

    /// Binds it to the VMID of `context`; `el1`: it was executed at EL1, where HCR_EL2.FB broadcasts it.
    pub(super) fn issue(self, context: &Context, el1: bool) -> Issued {
        let broadcast = el1 && context.force_broadcast();
        let scope = if broadcast { self.scope.max(Scope::Inner) } else { self.scope };
        let Self { target, nxs, of_host, .. } = self;
        Issued { target, vmid: context.vmid(), scope, nxs, of_host }
    }
}

/// A TLBI under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Issued {
    target: Target,
    vmid: u16,
    pub(super) scope: Scope,
    nxs: bool,
    of_host: bool,
}

impl Issued {
    /// Whether `dsb` completes it (R_PSMWS).
    pub(super) fn completed_by(&self, dsb: Dsb) -> bool {
        dsb.loads_and_stores && dsb.scope >= self.scope && (self.nxs || !dsb.nxs)
    }

    /// Whether it must remove `entry`; the rest is over-invalidation. `profile` only matters for its defect.
    pub(super) fn must_remove(&self, entry: &Entry, profile: &Profile) -> bool {
        if self.nxs && profile.has(Defect::NxsIgnored) || self.of_host && profile.has(Defect::TgeIgnored) {
            return false;
        }
        let stage2 = matches!(entry.kind, Kind::Stage2 | Kind::Table2);
        let el1 = entry.regime == Regime::El10;
        let mine = el1 && entry.vmid == self.vmid && !(profile.has(Defect::VmidKept) && self.vmid & 1 != 0);
        // Of a regime that has no VMID all is its own.
        let of = |regime| entry.regime == regime && (regime != Regime::El10 || mine);
        let odd = profile.has(Defect::AsidKept);
        let of_asid = |asid: u16| entry.asid == asid && !(odd && asid & 1 != 0);
        match self.target {
            Target::El3 => false,
            Target::All1 => el1,
            Target::All2(regime) => of(regime) && !(profile.has(Defect::Alle2KeepsTables) && entry.is_table()),
            Target::VmallS12 => mine && !self.vmall_keeps(entry, profile),
            Target::Vmall(regime) => of(regime) && !stage2 && !self.vmall_keeps(entry, profile),
            Target::Asid { .. } if profile.has(Defect::AsideIgnored) => false,
            Target::Asid { regime, asid } => of(regime) && !stage2 && !entry.global && of_asid(asid),
            Target::Va { regime, asid, last, range } => {
                of(regime)
                    && !stage2
                    // A Table descriptor counts as its ASID's, whatever is below it.
                    && asid.is_none_or(|asid| entry.global || of_asid(asid))
                    && !(last && entry.is_table())
                    && range.names(entry, profile)
                    && !(profile.has(Defect::VaKeepsTables) && entry.is_table())
                    && !(profile.has(Defect::ReadOnlyKept) && !entry.is_table() && entry.read_only())
                    && !(profile.has(Defect::DeviceKept) && !entry.is_table() && entry.is_device())
                    && !(profile.has(Defect::VaKeepsGlobal) && asid.is_some() && entry.global)
            }
            // Stage 2 only: entries that combine both stages need not go (R_TVTYQ).
            Target::Ipa { last, range } => {
                mine && stage2
                    && !(last && entry.is_table())
                    && range.names(entry, profile)
                    && !(profile.has(Defect::IpaKeepsTables) && entry.is_table())
                    && !(profile.has(Defect::IpaKeepsBlocks) && !entry.is_table() && entry.one.level.number() < 3)
            }
        }
    }

    fn vmall_keeps(&self, entry: &Entry, profile: &Profile) -> bool {
        profile.has(Defect::VmallKeepsTables) && entry.is_table()
            || profile.has(Defect::CombinedKept) && entry.kind == Kind::Combined && entry.two.is_some()
    }

    /// Whether it is for EL2's own translation.
    pub(super) fn is_el2(&self) -> bool {
        match self.target {
            Target::All2(_) => true,
            Target::Va { regime, .. } | Target::Asid { regime, .. } | Target::Vmall(regime) => regime != Regime::El10,
            _ => false,
        }
    }

    /// Whether it goes by address.
    pub(super) const fn by_va(&self) -> bool {
        matches!(self.target, Target::Va { .. })
    }
}

impl Range {
    /// Its first address and its bytes, as the CPU takes them.
    fn extent(&self, profile: &Profile) -> (u64, u64) {
        let (Some(granule), Some((num, unit))) = (self.granule, self.many) else { return (self.start, self.size) };
        let (shift, page) = (granule.page_shift(), granule.page_size());
        let base = ((self.start << 8) as i64 >> (8 + unit)) as u64;
        if profile.has(Defect::RangeLastPage) {
            (self.start, self.size - page)
        } else if profile.has(Defect::RangeScaleIgnored) {
            (self.start, 2 * (u64::from(num) + 1) * page)
        } else if profile.has(Defect::RangeIn4K) {
            (base << 12 & IN_TLB, self.size >> (shift - 12))
        } else if profile.has(Defect::RangeBaseByPage) {
            (base << shift & IN_TLB, self.size)
        } else if profile.has(Defect::RangeUnsigned) {
            (self.start & ((1 << (37 + unit)) - 1), self.size)
        } else {
            (self.start, self.size)
        }
    }

    /// Whether the range with its hints names `entry`.
    fn names(&self, entry: &Entry, profile: &Profile) -> bool {
        let leaf = &entry.one;
        let level = leaf.level.number();
        if profile.has(Defect::ContiguousPartKept) && leaf.contiguous && entry.size <= 1 << leaf.shift {
            return false;
        }
        let level_named = match self.level {
            None => true,
            Some(hint) => {
                let hint = if profile.has(Defect::TtlMisread) { hint + 1 } else { hint };
                // The hint is the leaf's level; the Table descriptors on the way to it are above.
                if entry.is_table() { level < hint } else { level == hint }
            }
        };
        if profile.has(Defect::TtlKeepsBlocks) && self.level.is_some() && !entry.is_table() && level < 3
            || profile.has(Defect::RangeKeepsTables) && self.many.is_some() && entry.is_table()
        {
            return false;
        }
        // Leaves of these levels are there with FEAT_LPA2 only.
        let of_lpa2 = |level| matches!((leaf.granule, level), (Granule::K4, 0) | (Granule::K16, 1));
        if profile.has(Defect::LargestBlocksKept) && !entry.is_table() && of_lpa2(level)
            || profile.has(Defect::LargestTtlIgnored) && self.level.is_some_and(of_lpa2)
        {
            return false;
        }
        let (start, size) = self.extent(profile);
        let named =
            level_named && self.granule.is_none_or(|granule| granule == leaf.granule) && entry.touches(start, size);
        if profile.has(Defect::PageByFirst4K) && !entry.is_table() && level == 3 && self.many.is_none() {
            return named && self.start.wrapping_sub(leaf.start) < 1 << 12;
        }
        if profile.has(Defect::BlockAfterVa) && !entry.is_table() && level < 3 {
            return named && self.start.wrapping_sub(leaf.start) < leaf.granule.page_size();
        }
        named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodings of DDI 0487 C5.5, by hand: op1, CRm, op2, and what they stand for.
    #[test]
    fn known_encodings() {
        let decode = |op1, crm, op2| TlbiOp::decode((op1, 8, crm, op2), 1 << 46, &Context::default(), false);
        let scope = |op1, crm, op2| decode(op1, crm, op2).map(|op| op.scope);
        assert_eq!(decode(0, 3, 0).map(|op| op.target), Some(Target::Vmall(Regime::El10)));
        assert_eq!(decode(4, 3, 6).map(|op| op.target), Some(Target::VmallS12));
        assert_eq!(decode(4, 7, 4).map(|op| op.target), Some(Target::All1));
        assert_eq!(decode(4, 1, 0).map(|op| op.target), Some(Target::All2(Regime::El2)));
        assert_eq!(decode(6, 3, 0).map(|op| op.target), Some(Target::El3));
        for (crm, expected) in [(1, Scope::Outer), (3, Scope::Inner), (7, Scope::NonShareable)] {
            assert_eq!(scope(0, crm, 1), Some(expected));
        }
        for (crm, expected) in [(5, Scope::Outer), (2, Scope::Inner), (6, Scope::NonShareable)] {
            assert_eq!(scope(0, crm, 3), Some(expected));
        }
        let stage2 = [(0, 1, Scope::Inner), (4, 0, Scope::Outer), (4, 1, Scope::NonShareable), (4, 7, Scope::Outer)];
        for (crm, op2, expected) in stage2 {
            let op = decode(4, crm, op2).expect("a stage 2 form");
            assert_eq!(op.scope, expected);
            assert!(matches!(op.target, Target::Ipa { .. }));
        }
        for (op1, crm, op2) in [(0, 3, 4), (0, 2, 0), (4, 0, 0), (4, 0, 3), (4, 3, 2), (3, 3, 0), (0, 4, 1), (0, 8, 0)]
        {
            assert_eq!(decode(op1, crm, op2), None, "{op1} {crm} {op2}");
        }
        let decode = |crn| TlbiOp::decode((0, crn, 3, 0), 0, &Context::default(), false);
        assert_eq!([7, 8, 9].map(|crn| decode(crn).map(|op| op.nxs)), [None, Some(false), Some(true)]);
    }

    #[test]
    fn operands() {
        let one = |operand, lpa2| {
            let one = Range::one(operand, 44, lpa2);
            assert_eq!(one.granule.is_some(), one.level.is_some(), "both or neither");
            one
        };
        let level = |ttl: u64| [false, true].map(|lpa2| one(ttl << 44, lpa2).level);
        let one = one(0x0042_0000_0000_0000 | 0b0111 << 44 | 0xfff_f000_1234, false);
        assert_eq!((one.start, one.size), (0xff_ff00_0123_4000, 4096));
        assert_eq!((one.granule, one.level), (Some(Granule::K4), Some(3)));
        for ttl in 0..4 {
            assert_eq!(level(ttl), [None; 2], "no granule, no hint");
        }
        for (tg, leaves) in [(1, [Some(0), Some(1)]), (2, [None, Some(1)]), (3, [None, Some(1)])] {
            assert_eq!([level(tg << 2 | 2), level(tg << 2 | 3)], [[Some(2); 2], [Some(3); 2]]);
            assert_eq!([level(tg << 2)[1], level(tg << 2 | 1)[1]], leaves, "TG {tg}, with LPA2");
        }
        // Without LPA2 no leaf is there, and the encodings are reserved; 64K has level 1 always.
        assert_eq!([0b0100, 0b0101, 0b1001, 0b1101].map(|ttl| level(ttl)[0]), [None, Some(1), None, Some(1)]);

        let many = |operand, ds| Range::many(operand, ds, false).expect("a granule");
        // 4K, scale 1, num 3, level 2, base -1: 4 << 6 pages.
        let upper = many(1 << 46 | 1 << 44 | 3 << 39 | 2 << 37 | ((1 << 37) - 1), false);
        assert_eq!((upper.start, upper.size, upper.level), (0xff_ffff_ffff_f000, 256 * 4096, Some(2)));
        assert_eq!(Range::many(1 << 44, false, true), None);
        for (tg, granule) in [(1, Granule::K4), (2, Granule::K16), (3, Granule::K64)] {
            for scale in 0..4 {
                for num in 0..32 {
                    let range = many(tg << 46 | scale << 44 | num << 39 | 5, false);
                    // DDI 0487: (NUM + 1) * 2^(5*SCALE + 1) * the granule's size.
                    let size = (num + 1) * 2u64.pow(5 * scale as u32 + 1) * granule.page_size();
                    assert_eq!((range.start, range.size), (5 * granule.page_size(), size));
                    assert_eq!((range.granule, range.level), (Some(granule), None));
                }
            }
            assert_eq!(many(tg << 46 | 5, true).start, 5 << 16, "with DS, BaseADDR is bits 52 to 16");
        }
        let level = |tg: u64, lpa2| Range::many(tg << 46 | 1 << 37, false, lpa2).expect("a granule").level;
        assert_eq!([1, 2, 3].map(|tg| level(tg, false)), [Some(1), None, Some(1)]);
        assert_eq!([1, 2, 3].map(|tg| level(tg, true)), [Some(1); 3]);
    }

    #[test]
    fn a_dsb_completes_what_it_reaches() {
        let issued = |scope, nxs| Issued { target: Target::All1, vmid: 0, scope, nxs, of_host: false };
        let dsb = |scope| Dsb { scope, loads_and_stores: true, nxs: false };
        let scopes = [Scope::NonShareable, Scope::Inner, Scope::Outer, Scope::System];
        for wide in scopes {
            for scope in &scopes[..3] {
                assert_eq!(issued(*scope, false).completed_by(dsb(wide)), *scope <= wide);
                assert!(!issued(*scope, false).completed_by(Dsb { loads_and_stores: false, ..dsb(wide) }));
                assert!(!issued(*scope, false).completed_by(Dsb { nxs: true, ..dsb(wide) }));
                assert_eq!(issued(*scope, true).completed_by(Dsb { nxs: true, ..dsb(wide) }), *scope <= wide);
            }
        }
    }
}
