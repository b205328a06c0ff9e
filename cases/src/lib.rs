//! The catalogue: every instance there is, as data.
//!
//! A row of its table says which changes are made by which methods under which observers, and in which variants; the
//! catalogue is the product of each row. To add cases, add to a row or add a row: the payloads, the plan, the
//! verdicts and the tables all go by the instance alone.
//!
//! What is *not* here on purpose: bbm-af of a merge (a Table descriptor has no Access flag to clear), nt of a
//! change that keeps the size (nT means nothing there), stores to read-only remaps and fetches of changes that
//! leave the permission to execute alone (both only fault).
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

use vmsa::{
    BbmLevel, Granule, Instance, Level,
    change::{Change, What},
    instance::{Access, Case, Family, Method, Observer, Place, Regime, Selftest, Stage1, Stage2},
    remedy::Remedy,
    sequence::Sequence,
    tlbi::{Aim, Form, Op, Scope},
};

use Access::{
    At, Atomic, Dc, Exclusive, Fetch, Load, Misaligned, OtherLoad, OtherStore, Store, Tables, Unaligned, UserFetch,
    UserLoad, UserStore, Walk,
};
use Method::{Bbm, BbmAf, BbmAlias, BbmAsm, BbmCas, Direct, DirectCas, DirectNotlbi, Nt, NtCas, Overwrite};
use Place::{All, Local, Remote};

/// Cases that differ in a few parameters: all combinations of them that exist.
struct Row {
    regime: Regime,
    granules: &'static [Granule],
    /// Whether descriptors are those of FEAT_LPA2.
    wide: bool,
    whats: &'static [What],
    levels: &'static [Level],
    /// Level of the leaves below a table, where it is not the next.
    leaf: Option<Level>,
    methods: &'static [Method],
    accesses: &'static [Access],
    places: &'static [Place],
    variants: &'static [Variant],
    /// Other steps than the methods' own; none means those.
    scripts: &'static [&'static str],
    /// Whether descriptors are cleaned to the Point of Coherency, for walkers that are not coherent.
    cleaned: bool,
    /// The forms of TLBI under test, if any are.
    forms: Option<Forms>,
}

/// Forms of TLBI: all combinations of these that exist.
#[derive(Clone, Copy)]
struct Forms {
    ops: &'static [Op],
    scopes: &'static [Scope],
    nxs: &'static [bool],
    aim: Aim,
}

impl Forms {
    fn all(&self) -> impl Iterator<Item = Form> {
        let Self { ops, scopes, nxs, aim } = *self;
        let forms = ops.iter().flat_map(move |&op| {
            scopes.iter().flat_map(move |&scope| nxs.iter().map(move |&nxs| Form { op, scope, nxs, aim }))
        });
        forms.filter(|form| form.exists())
    }
}

/// The circumstances of a case.
#[derive(Clone, Copy)]
struct Variant {
    stage2: Stage2,
    stage1: Stage1,
    cap: Option<BbmLevel>,
    remedy: Option<Remedy>,
}

const fn variant(stage2: Stage2, cap: Option<BbmLevel>) -> Variant {
    Variant { stage2, stage1: Stage1::Blocks, cap, remedy: None }
}

const fn stage1(stage1: Stage1) -> Variant {
    Variant { stage1, ..variant(Stage2::Blocks, None) }
}

const fn remedy(stage2: Stage2, remedy: Remedy) -> Variant {
    Variant { remedy: Some(remedy), ..variant(stage2, None) }
}

const L0: Level = Level::L0;
const L1: Level = Level::L1;
const L2: Level = Level::L2;
const L3: Level = Level::L3;

/// Stage 2 in blocks, the CPU's own BBM level.
const PLAIN: &[Variant] = &[variant(Stage2::Blocks, None)];
/// The other two ways of stage 2, for frames small enough to be mapped in pages.
const STAGE2: &[Variant] = &[variant(Stage2::Off, None), variant(Stage2::Pages, None)];
/// Lower levels than the CPU has, so that a level 2 CPU takes the paths of levels 0 and 1 too.
const CAPPED: &[Variant] = &[variant(Stage2::Blocks, Some(BbmLevel::L0)), variant(Stage2::Blocks, Some(BbmLevel::L1))];
/// Everything that a conflict may be cleared by.
const REMEDIES: &[Variant] = &[
    remedy(Stage2::Blocks, Remedy::Vae1),
    remedy(Stage2::Blocks, Remedy::Vaae1),
    remedy(Stage2::Blocks, Remedy::Vale1),
    remedy(Stage2::Blocks, Remedy::Vaale1),
    remedy(Stage2::Blocks, Remedy::Aside1),
    remedy(Stage2::Blocks, Remedy::Rvaae1),
    remedy(Stage2::Blocks, Remedy::Vmalle1),
    remedy(Stage2::Blocks, Remedy::Vmalls12e1),
    remedy(Stage2::Blocks, Remedy::Alle1),
    remedy(Stage2::Off, Remedy::Vmalle1),
    remedy(Stage2::Off, Remedy::Alle1),
];
/// What must clear it, and the form by VA that a kernel would rather use.
const FEW_REMEDIES: &[Variant] = &[remedy(Stage2::Blocks, Remedy::Vae1), remedy(Stage2::Blocks, Remedy::Vmalls12e1)];

/// The other two ways in which stage 1 maps what stage 2 changes.
const STAGE1: &[Variant] = &[stage1(Stage1::Pages), stage1(Stage1::Off)];

/// The granules other than 4K.
const LARGER: &[Granule] = &[Granule::K16, Granule::K64];

/// Those that have descriptors of FEAT_LPA2.
const LPA2: &[Granule] = &[Granule::K4, Granule::K16];

/// Cases of `whats` at `levels` of the 4K granule under observers here and on one other PE, in plain circumstances.
const fn row(
    whats: &'static [What],
    levels: &'static [Level],
    methods: &'static [Method],
    accesses: &'static [Access],
) -> Row {
    let places = &[Local, Remote];
    Row {
        regime: Regime::El1,
        granules: &[Granule::K4],
        wide: false,
        whats,
        levels,
        leaf: None,
        methods,
        accesses,
        places,
        variants: PLAIN,
        scripts: &[],
        cleaned: false,
        forms: None,
    }
}

impl Row {
    /// The same in other circumstances.
    const fn under(self, variants: &'static [Variant]) -> Self {
        Self { variants, ..self }
    }

    /// The same of stage 2.
    const fn of_stage2(self) -> Self {
        Self { regime: Regime::S2, ..self }
    }

    /// The same of EL2's own stage 1.
    const fn of_el2(self) -> Self {
        Self { regime: Regime::El2, ..self }
    }

    /// The same of EL2&0's.
    const fn of_host(self) -> Self {
        Self { regime: Regime::El2Vhe, ..self }
    }

    /// The same in other granules, as far as they have such levels.
    const fn granules(self, granules: &'static [Granule]) -> Self {
        Self { granules, ..self }
    }

    /// The same in descriptors of FEAT_LPA2, in the granules that have them and such levels.
    const fn lpa2(self) -> Self {
        Self { wide: true, ..self.granules(LPA2) }
    }

    /// The same with leaves at `leaf`.
    const fn down_to(self, leaf: Level) -> Self {
        Self { leaf: Some(leaf), ..self }
    }

    /// The same by other steps, a letter each.
    const fn scripts(self, scripts: &'static [&'static str]) -> Self {
        Self { scripts, ..self }
    }

    /// The same for tables that a walker shares which is not coherent.
    const fn cleaned(self) -> Self {
        Self { cleaned: true, ..self }
    }

    /// The same under observers at `places`.
    const fn places(self, places: &'static [Place]) -> Self {
        Self { places, ..self }
    }

    /// The same under an observer on another PE only.
    const fn remote(self) -> Self {
        self.places(&[Remote])
    }

    /// The same with these forms of TLBI, aimed so.
    const fn by(self, ops: &'static [Op], scopes: &'static [Scope], nxs: &'static [bool], aim: Aim) -> Self {
        Self { forms: Some(Forms { ops, scopes, nxs, aim }), ..self }
    }

    /// The changes.
    fn changes(&self) -> impl Iterator<Item = (Granule, Change)> {
        self.granules.iter().flat_map(move |&granule| {
            self.whats.iter().flat_map(move |&what| {
                let change = move |level| {
                    let change = Change::new(what, level);
                    let change = if self.wide { change.wide() } else { change };
                    self.leaf.map_or(change, |leaf| change.down_to(leaf))
                };
                let changes = self.levels.iter().map(move |&level| (granule, change(level)));
                changes.flat_map(move |(granule, change)| {
                    let forms = self.forms.iter().flat_map(Forms::all).map(Some);
                    let plain = self.forms.is_none().then_some(None);
                    forms
                        .chain(plain)
                        .map(move |form: Option<Form>| (granule, form.map_or(change, |form| change.with_form(form))))
                })
            })
        })
    }

    /// The product, as far as the granules have such changes.
    fn cases(&'static self) -> impl Iterator<Item = Case> {
        let Self { regime, methods, accesses, places, variants, scripts, .. } = self;
        let own = [None].into_iter().filter(|_| scripts.is_empty());
        let script = |letters: &&str| Sequence::parse(letters).expect("letters of steps");
        let scripts = own.chain(scripts.iter().map(script).map(Some));
        let cases = self.changes().filter(|(granule, change)| change.exists(*granule));
        let cases = cases.flat_map(move |(granule, change)| {
            methods.iter().flat_map(move |&method| {
                accesses.iter().flat_map(move |&access| {
                    places.iter().flat_map(move |&place| {
                        variants.iter().map(move |&Variant { stage2, stage1, cap, remedy }| Case {
                            regime: *regime,
                            granule,
                            change,
                            method,
                            script: None,
                            observer: Observer { access, place },
                            stage2,
                            stage1,
                            cap,
                            remedy,
                        })
                    })
                })
            })
        });
        let cases = cases.flat_map(move |case| scripts.clone().map(move |script| Case { script, ..case }));
        let clean =
            |case: Case| if self.cleaned { Case { script: Some(case.sequence().cleaned()), ..case } } else { case };
        cases.map(clean)
    }
}

/// Observers on other PEs.
const OTHERS: &[Place] = &[Remote, All];

/// What a change of size can be made by, whichever way it goes.
const RESIZE: &[Method] = &[Bbm, Nt, Direct, DirectNotlbi];
/// What a change from leaf to leaf can be made by.
const REPLACE: &[Method] = &[Bbm, BbmAf, Direct, DirectNotlbi];
/// The ways of a change of size that lose no mark of hardware's.
const CARRY: &[Method] = &[BbmCas, NtCas, DirectCas];
/// Break-before-make with a TLBI that names the ASID in use: VAE1IS, VALE1IS, ASIDE1IS.
const BY_ASID: &[&str] = &["0sEd1di", "0sLd1di", "0sDd1di"];
/// And with one that names the other ASID.
const BY_OTHER_ASID: &[&str] = &["0sXd1di"];
/// Break-before-make of stage 2 by VMALLS12E1IS, and then with a part left out: the TLBI by IPA, the DSB behind it, the
/// TLBI of what combines both stages.
const STAGE2_PARTS: &[&str] = &["0sGd1di", "0sMd1di", "0sQMd1di", "0sQd1di"];
const BBM: &[Method] = &[Bbm];
/// What the patch does that was refused.
const PROPOSAL: &[Method] = &[Overwrite];
/// The same with no TLBI behind it, of one level and of two.
const NO_TLBI: &[&str] = &["ls1di"];
const NO_TLBI_OF_TWO: &[&str] = &["ls1ls1di"];
/// The defined ways of a change for which a TLBI is enough, and the control.
const UPDATE: &[Method] = &[Bbm, Direct, DirectNotlbi];

/// All granules.
const EVERY: &[Granule] = &[Granule::K4, Granule::K16, Granule::K64];
/// The forms by VA.
const BY_VA: &[Op] = &[Op::Vae1, Op::Vaae1, Op::Vale1, Op::Vaale1];
/// All that are not by range.
const PLAIN_OPS: &[Op] = &[Op::Vmalle1, Op::Aside1, Op::Vae1, Op::Vaae1, Op::Vale1, Op::Vaale1];
/// The forms by range.
const BY_RANGE: &[Op] = &[Op::Rvae1, Op::Rvaae1, Op::Rvale1, Op::Rvaale1];
/// Of all levels and any ASID; of the last level and one ASID.
const TWO_BY_VA: &[Op] = &[Op::Vaae1, Op::Vale1];
const TWO_BY_RANGE: &[Op] = &[Op::Rvaae1, Op::Rvale1];
/// Those that other PEs obey.
const BROADCAST: &[Scope] = &[Scope::Inner, Scope::Outer];
const INNER: &[Scope] = &[Scope::Inner];
const HERE: &[Scope] = &[Scope::Local];
const BOTH: &[bool] = &[false, true];
const XS: &[bool] = &[false];

/// Break-before-make of stage 2 by TLBIs of the VMID in use, all at once or one after the other, and by one of this PE only.
const BY_VMID: &[&str] = &["0sPdMd1di", "0sGd1di", "0skd1di"];
/// Break-before-make of what stage 2 has a table for, by a TLBI for each of its pages, of all levels: the table goes too.
const STAGE2_PAGES: &[&str] = &["0sUdMd1di"];
/// Break-before-make of EL2's own stage 1 by all there is, and then with a mistake: a TLBI of this PE only, one of EL1.
const EL2_PARTS: &[&str] = &["0sRd1di", "0sHd1di", "0sed1di", "0sAd1di"];
/// Break-before-make of EL2&0 by EL2's own TLBIs; and by one of another regime's reach: on this PE only, by another address.
const HOST_PARTS: &[&str] = &["0sRd1di", "0sHd1di", "0sad1di", "0sOd1di"];

/// What hv may have in the block that it splits.
const OWN: &[What] = &[What::OwnStack, What::OwnCode, What::OwnVectors, What::OwnTable, What::OwnAll];

/// Regime el1 first, then s2, el2 and el2vhe.
const ROWS: &[Row] = &{
    use What::*;
    [
        row(&[Split], &[L1, L2], RESIZE, &[Load, Store]),
        row(&[Split], &[L1], RESIZE, &[Load, Store]).down_to(L3),
        row(&[Split], &[L1, L2], &[BbmAf], &[Load, Store]),
        row(&[Split], &[L1], &[BbmAf], &[Load, Store]).down_to(L3),
        row(&[Split], &[L2], &[Bbm, Nt, Direct], &[Load]).remote().under(STAGE2),
        row(&[Split], &[L2], &[Nt, Direct], &[Load, Store]).under(CAPPED),
        row(&[Split], &[L2], RESIZE, &[Load, Store]).granules(LARGER),
        row(&[Split], &[L2], &[Bbm, Nt, Direct], &[Atomic, Exclusive, Unaligned, Walk, Dc]),
        row(&[Split], &[L2], &[Bbm, Nt, Direct], &[At]).places(&[Local]),
        row(&[Split], &[L2], &[Bbm, Nt, Direct], &[Load, Store]).places(&[All]),
        row(&[SplitUserX], &[L2], &[Bbm, Nt, Direct], &[UserFetch]),
        // The proposal: tables filled from the live block, over that block, level by level; then with no TLBI behind them.
        row(&[Split], &[L1, L2], PROPOSAL, &[Load, Store, Walk]),
        row(&[Split], &[L1], PROPOSAL, &[Load, Store, Walk]).down_to(L3),
        row(&[Split], &[L2], PROPOSAL, &[Atomic, Unaligned]),
        row(&[Split], &[L2], PROPOSAL, &[Load, Store]).places(&[All]),
        row(&[Split], &[L1], PROPOSAL, &[Store, Walk]).down_to(L3).places(&[All]),
        row(&[Split], &[L2], PROPOSAL, &[Load, Store]).granules(LARGER),
        row(&[Split], &[L2], PROPOSAL, &[Load]).remote().under(STAGE2),
        row(&[Split], &[L2], PROPOSAL, &[Load]).under(CAPPED),
        row(&[Split], &[L2], PROPOSAL, &[Load]).remote().lpa2(),
        row(&[Split], &[L2], PROPOSAL, &[Load]).remote().cleaned(),
        row(&[Split], &[L2], PROPOSAL, &[Load, Store]).scripts(NO_TLBI),
        row(&[Split], &[L1], PROPOSAL, &[Load]).down_to(L3).scripts(NO_TLBI_OF_TWO),
        //
        row(&[Merge], &[L1, L2], RESIZE, &[Load, Store]),
        row(&[Merge], &[L1], RESIZE, &[Load, Store]).down_to(L3),
        row(&[Merge], &[L2], &[Bbm, Nt, Direct], &[Load]).remote().under(STAGE2),
        row(&[Merge], &[L2], &[Nt, Direct], &[Load, Store]).under(CAPPED),
        row(&[Merge], &[L2], RESIZE, &[Load, Store]).granules(LARGER),
        row(&[Merge], &[L2], &[Bbm, Nt, Direct], &[Atomic, Exclusive, Unaligned, Walk, Dc]),
        row(&[Merge], &[L2], &[Bbm, Nt, Direct], &[Load, Store]).places(&[All]),
        row(&[MergeUserX], &[L2], &[Bbm, Nt, Direct], &[UserFetch]),
        //
        row(&[RemapRw], &[L3, L2], REPLACE, &[Load, Store]),
        row(&[RemapRoSame], &[L3, L2], REPLACE, &[Load, Store]),
        row(&[RemapRoDiff], &[L3, L2], REPLACE, &[Load, Store]),
        row(&[RemapRw], &[L3], &[Bbm, Direct], &[Store]).remote().under(STAGE2),
        row(&[RemapRw], &[L3, L2], UPDATE, &[Load, Store]).granules(LARGER),
        row(&[RemapRw], &[L3, L2], &[Bbm, Direct], &[Atomic, Exclusive, At, Walk]),
        row(&[RemapRw], &[L3], &[Bbm, DirectNotlbi], &[Load, Store]).places(&[All]),
        row(&[RemapUserX], &[L3, L2], &[Bbm, DirectNotlbi], &[UserFetch]),
        row(&[RemapNext], &[L3, L2], BBM, &[Unaligned]),
        row(&[RemapNext], &[L3], BBM, &[Unaligned]).granules(LARGER),
        row(&[RemapOutRw, RemapOutRoSame], &[L2], &[Bbm, Direct], &[Load, Store]),
        row(&[RemapOutRw], &[L2], &[Bbm], &[Load, Store]).granules(LARGER),
        row(&[RemapInRw, RemapInRoSame], &[L2], &[Bbm, Direct], &[Load, Store]),
        row(&[RemapInRw], &[L2], &[Bbm], &[Load, Store]).granules(LARGER),
        //
        row(&[TableSame, TableOther], &[L2], UPDATE, &[Load, Store, Walk]),
        row(&[TableSame, TableOther], &[L2], &[Bbm], &[Load]).granules(LARGER),
        //
        row(&[ProtectRwRo], &[L3, L2], REPLACE, &[Load, Store]),
        row(&[ProtectRoRw], &[L3, L2], REPLACE, &[Load, Store]),
        row(&[ProtectXXn, ProtectXnX], &[L3, L2], REPLACE, &[Fetch, Load, Store]),
        row(&[ProtectRwRo], &[L3], &[Direct], &[Store]).remote().under(STAGE2),
        row(&[ProtectRwRo, ProtectRoRw], &[L3, L2], UPDATE, &[Store]).granules(LARGER),
        row(&[ProtectXXn, ProtectXnX], &[L3], UPDATE, &[Fetch]).granules(LARGER),
        row(&[ProtectRwRo, ProtectRoRw], &[L3], UPDATE, &[Atomic, Exclusive]),
        row(&[ProtectRwRo], &[L3], UPDATE, &[Store]).places(&[All]),
        row(&[UserGrant, UserRevoke], &[L3, L2], UPDATE, &[UserLoad, UserStore]),
        row(&[UserGrant, UserRevoke], &[L3], &[Direct], &[Load, Store]),
        row(&[UserRwRo, UserRoRw], &[L3, L2], UPDATE, &[UserStore]),
        row(&[UserRwRo], &[L3], &[Direct], &[UserLoad, Store]),
        row(&[UserXXn, UserXnX], &[L3, L2], UPDATE, &[UserFetch]),
        row(&[UserXXn, UserXnX], &[L3], &[Direct], &[UserFetch]).granules(LARGER).remote(),
        row(&[UserXXn], &[L3], &[Direct], &[UserFetch]).places(&[All]),
        row(&[UserXXn], &[L3], &[Direct], &[UserLoad, Load]).remote(),
        //
        row(&[Fold, Unfold], &[L3, L2], UPDATE, &[Load, Store]),
        row(&[Fold, Unfold], &[L3, L2], &[Bbm, Direct], &[Load]).granules(LARGER),
        row(&[Fold, Unfold], &[L3], &[Direct], &[Load, Store]).under(CAPPED),
        row(&[Fold, Unfold], &[L3], &[Bbm, Direct], &[Unaligned, Atomic]),
        row(&[ContigRwRo, ContigRoRw], &[L3], UPDATE, &[Store]),
        row(&[ContigRemap], &[L3], UPDATE, &[Load, Store]),
        row(&[ContigRwRo, ContigRemap], &[L3], &[Bbm, DirectNotlbi], &[Store]).granules(LARGER),
        row(&[ContigNext, ContigHole], &[L3], BBM, &[Unaligned]).granules(EVERY),
        row(&[HalfFold, HalfUnfold], &[L3], &[Bbm, Direct], &[Load, Store]),
        row(&[HalfRwRo], &[L3], &[Bbm, Direct], &[Load, Store]),
        row(&[HalfFold, HalfUnfold], &[L3], &[Direct], &[Load]).granules(LARGER),
        //
        row(&[RetypeWbDevice, RetypeDeviceWb, RetypeDevice], &[L3, L2], &[Bbm, Direct], &[Load, Store]),
        row(&[RetypeWbDevice, RetypeDeviceWb], &[L3, L2], BBM, &[Misaligned]),
        row(&[RetypeWbDevice, RetypeDeviceWb], &[L3], BBM, &[Misaligned]).remote().under(STAGE2),
        row(&[CacheWbNc, CacheNcWb, CacheWbWt, CacheOuter], &[L3, L2], &[Bbm, Direct], &[Load, Store]),
        row(&[ShareOuter, ShareInner], &[L3, L2], &[Bbm, Direct], &[Load, Store]),
        //
        row(&[AgeSet, AgeClear], &[L3, L2], UPDATE, &[Load, Store]),
        row(&[AgeSet, AgeClear], &[L3], UPDATE, &[Load]).granules(LARGER),
        row(&[AgeClear], &[L3, L2], UPDATE, &[Dc]),
        //
        row(&[HwAgeClear], &[L3, L2], &[Bbm, Direct, DirectCas], &[Load]),
        row(&[HwAgeClear], &[L3], &[DirectCas], &[Store, Atomic, Exclusive, Walk, Unaligned]),
        row(&[HwAgeProtect], &[L3, L2], &[BbmCas, Direct, DirectCas], &[Load]),
        row(&[HwAgeRemap], &[L3, L2], &[Bbm, BbmCas], &[Load]),
        row(&[HwAgeRemapSame], &[L3], &[Direct, DirectCas], &[Load]),
        row(&[HwAgeProtect], &[L3], &[DirectCas], &[Load]).places(&[All]),
        row(&[HwAgeClear, HwAgeProtect], &[L3], &[DirectCas], &[Load]).granules(LARGER).remote(),
        // E5: Cortex-A55 1024718 (AP and DBM changed without break-before-make), Cortex-A510 2051678 (the order of
        // hardware's updates), AmpereOne AC03_CPU_38 (TCR_EL1.{HA, HD} where ID_AA64MMFR1_EL1.HAFDBS says there are none).
        row(&[DirtyClean], &[L3, L2], &[Bbm, Direct, DirectCas], &[Load, Store]),
        row(&[DirtyClean], &[L3], &[DirectCas], &[Atomic, Exclusive]),
        row(&[DirtyProtect], &[L3, L2], &[Direct, DirectCas, DirectNotlbi], &[Store]),
        row(&[DirtyGrant], &[L3, L2], &[Direct], &[Store]),
        row(&[DirtyExec], &[L3, L2], &[BbmCas, Direct, DirectCas], &[Store]),
        row(&[DirtyRemap], &[L3], &[Bbm, BbmCas], &[Store]),
        row(&[DirtyClean, DirtyExec], &[L3], &[DirectCas], &[Store]).places(&[All]),
        row(&[DirtyClean, DirtyExec], &[L3], &[DirectCas], &[Store]).granules(LARGER).remote(),
        row(&[CarrySplit, CarryMerge], &[L2], CARRY, &[Load, Store]),
        row(&[CarrySplit, CarryMerge], &[L2], &[Bbm, Direct], &[Store]),
        row(&[CarrySplitAge, CarryMergeAge], &[L2], CARRY, &[Load]),
        row(&[CarrySplit, CarryMerge], &[L2], &[DirectCas], &[Store]).places(&[All]),
        row(&[CarrySplit, CarryMerge], &[L2], &[BbmCas, DirectCas], &[Store]).granules(LARGER).remote(),
        // E6: Cortex-A715 2645198, a wrong ESR or FAR of the Permission fault behind a change to not executable.
        row(&[ExecUxnSet, ExecUxnClear], &[L3, L2], &[Direct], &[Fetch]),
        row(&[ExecXnSet, ExecXnClear], &[L3, L2], &[Bbm, Direct], &[Fetch]),
        row(&[ExecUxnSet, ExecUxnClear, ExecXnSet, ExecXnClear], &[L3, L2], &[Direct], &[UserFetch]),
        row(&[ExecXnSet], &[L3, L2], &[Direct], &[Fetch]).granules(LARGER).remote(),
        //
        row(&[GlobalClear, GlobalSet], &[L3, L2], &[Bbm, Direct], &[Load, Store]),
        row(&[RemapToNg, RemapToGlobal], &[L3, L2], &[Bbm], &[Load, OtherLoad]),
        row(&[RemapToNg, RemapToGlobal], &[L3], &[DirectNotlbi], &[OtherLoad]),
        row(&[RemapNg], &[L3, L2], UPDATE, &[OtherLoad]).remote(),
        row(&[RemapNg], &[L3], &[Bbm, DirectNotlbi], &[OtherStore]).remote(),
        row(&[RemapNg], &[L3], &[Bbm], &[Load, OtherLoad]).scripts(BY_ASID),
        row(&[RemapNg], &[L3], &[Bbm], &[Load, OtherLoad]).scripts(BY_OTHER_ASID),
        row(&[RemapToNg], &[L3], &[Bbm], &[Load, OtherLoad]).scripts(&["0sEd1di", "0sXd1di"]).remote(),
        row(&[RemapNg], &[L3, L2], UPDATE, &[Load, Store]),
        row(&[RemapNg], &[L3], UPDATE, &[Load]).granules(LARGER),
        //
        row(&[TlbiRemap], &[L3], BBM, &[Load]).remote().granules(EVERY).by(PLAIN_OPS, BROADCAST, BOTH, Aim::Hit),
        row(&[TlbiRemap], &[L3], BBM, &[Load]).places(&[Local]).granules(EVERY).by(PLAIN_OPS, HERE, BOTH, Aim::Hit),
        row(&[TlbiRemap], &[L3], BBM, &[Load]).remote().by(PLAIN_OPS, HERE, XS, Aim::Hit),
        row(&[TlbiRemap], &[L2], BBM, &[Load]).remote().granules(EVERY).by(PLAIN_OPS, INNER, XS, Aim::Hit),
        row(&[TlbiRemap], &[L3, L2], BBM, &[Load]).remote().granules(EVERY).by(BY_VA, INNER, XS, Aim::Hint),
        row(&[TlbiRemap], &[L3], BBM, &[Load]).places(&[Local]).granules(EVERY).by(BY_VA, HERE, XS, Aim::Hint),
        row(&[TlbiRemap], &[L3], BBM, &[Load]).remote().by(BY_VA, &[Scope::Outer], BOTH, Aim::Hint),
        row(&[TlbiRemap], &[L3], BBM, &[Load]).remote().granules(LARGER).by(BY_VA, INNER, XS, Aim::Within),
        row(&[TlbiRemap], &[L3], BBM, &[Load]).places(&[Local]).granules(LARGER).by(BY_VA, HERE, XS, Aim::Within),
        row(&[TlbiRemap], &[L3], BBM, &[Load]).remote().granules(EVERY).by(BY_VA, INNER, XS, Aim::Page),
        row(&[TlbiRemap], &[L3], BBM, &[Load]).places(&[Local]).granules(EVERY).by(BY_VA, HERE, XS, Aim::Page),
        row(&[TlbiRemap], &[L3], BBM, &[Load]).remote().granules(EVERY).by(PLAIN_OPS, INNER, XS, Aim::Asid),
        row(&[TlbiRemap], &[L3], BBM, &[Load]).remote().granules(EVERY).by(BY_VA, INNER, XS, Aim::Level),
        //
        row(&[RangeRemap], &[L3], BBM, &[Load]).remote().granules(EVERY).by(BY_RANGE, BROADCAST, BOTH, Aim::Hit),
        row(&[RangeRemap], &[L3], BBM, &[Load]).places(&[Local]).granules(EVERY).by(BY_RANGE, HERE, BOTH, Aim::Hit),
        row(&[RangeRemap], &[L3], BBM, &[Load]).remote().by(BY_RANGE, HERE, XS, Aim::Hit),
        row(&[RangeRemap], &[L2], BBM, &[Load]).remote().granules(EVERY).by(BY_RANGE, INNER, XS, Aim::Hit),
        row(&[RangeRemap], &[L3], BBM, &[Load]).remote().granules(EVERY).by(BY_RANGE, INNER, XS, Aim::Page),
        row(&[RangeRemap], &[L3], BBM, &[Load]).places(&[Local]).granules(EVERY).by(BY_RANGE, HERE, XS, Aim::Page),
        row(&[RangeRemap], &[L3], BBM, &[Load]).remote().granules(EVERY).by(BY_RANGE, INNER, XS, Aim::Asid),
        row(&[RangeRemap], &[L3], BBM, &[Load]).remote().granules(EVERY).by(BY_RANGE, INNER, XS, Aim::Level),
        //
        row(&[Freed], &[L2], BBM, &[Load]).granules(EVERY).by(&[Op::Vmalle1, Op::Rvaae1], BROADCAST, XS, Aim::Hit),
        row(&[Freed], &[L2], BBM, &[Load]).by(BY_VA, INNER, XS, Aim::Each),
        row(&[Freed], &[L2], BBM, &[Load]).granules(EVERY).by(&[Op::Rvae1, Op::Rvaale1], INNER, XS, Aim::Hit),
        row(&[Freed], &[L2], BBM, &[Load]).by(&[Op::Vaae1], INNER, XS, Aim::Hit),
        // E1: a DSB that ends before another PE has done the TLBI. Cortex-A76 1286807 and Neoverse N1 4193800 with their
        // families, Cortex-A55 2441007, A510 2441009.
        row(&[LateRemap], &[L3, L2], &[Bbm, DirectNotlbi], &[Store]).places(OTHERS),
        row(&[LateProtect], &[L3, L2], UPDATE, &[Store]).places(OTHERS),
        row(&[LateRemap], &[L3], &[Bbm, DirectNotlbi], &[Store]).granules(LARGER).places(OTHERS),
        row(&[LateProtect], &[L3], &[Direct, DirectNotlbi], &[Store]).granules(LARGER).places(OTHERS),
        // E2: no forward progress until the TLBI. Neoverse N2 3696250, V1 3696285, V2 3696242, Cortex-X4 3043263 with their
        // families.
        row(&[ProgressSplit, ProgressMerge], &[L2], &[Nt, Direct], &[Load, Store]).places(OTHERS),
        row(&[ProgressSplit, ProgressMerge], &[L1], &[Direct], &[Load]).remote(),
        row(&[ProgressSplit, ProgressMerge], &[L2], &[Direct], &[Atomic, Walk]).remote(),
        row(&[ProgressSplit, ProgressMerge], &[L2], &[Nt, Direct], &[Store]).granules(LARGER).remote(),
        row(&[ProgressFold, ProgressUnfold], &[L3], &[Direct], &[Load, Store]).places(OTHERS),
        row(&[ProgressFold, ProgressUnfold], &[L2], &[Direct], &[Store]).remote(),
        row(&[ProgressHalfFold, ProgressHalfUnfold], &[L3], &[Direct], &[Load, Store]).places(OTHERS),
        row(&[ProgressFold, ProgressHalfFold], &[L3], &[Direct], &[Store]).granules(LARGER).remote(),
        //
        row(&[ContainSplit, ContainMerge], &[L2], &[Bbm, Nt, Direct], &[Store]),
        row(&[ContainRemap], &[L3, L2], &[Bbm, Direct], &[Store]),
        row(&[ContainRemapOut], &[L2], &[Bbm, Direct], &[Store]),
        row(&[ContainHalfFold, ContainHalfUnfold], &[L3], &[Bbm, Direct], &[Store]),
        row(&[ContainSplit, ContainRemap], &[L2], &[Bbm, Direct], &[Store]).under(STAGE2),
        row(&[ContainRemap], &[L3], &[Bbm, Direct], &[Store]).granules(LARGER),
        //
        row(&[RecoverSplit, RecoverMerge], &[L2], &[Direct], &[Load]).remote().under(REMEDIES),
        row(&[RecoverFold, RecoverUnfold], &[L3], &[Direct], &[Load]).remote().under(REMEDIES),
        row(&[RecoverSplitNg], &[L2], &[Direct], &[Load]).remote().under(REMEDIES),
        row(&[RecoverSplit, RecoverMerge], &[L2], &[Direct], &[Load]).places(&[Local]).under(FEW_REMEDIES),
        row(&[RecoverSplit, RecoverMerge], &[L2], &[Direct], &[Store]).remote().under(FEW_REMEDIES),
        row(&[RecoverSplit, RecoverMerge], &[L2], &[Nt], &[Load]).remote().under(FEW_REMEDIES),
        row(&[RecoverSplit, RecoverFold], &[L2], &[Direct], &[Load]).granules(LARGER).remote().under(FEW_REMEDIES),
        // FEAT_LPA2: what a walk and a TLBI do otherwise with TCR_EL1.DS, at least once each.
        row(&[Split, Merge], &[L2], &[Bbm, Nt, Direct], &[Load]).lpa2(),
        row(&[RemapRw], &[L3, L2], &[Bbm, DirectNotlbi], &[Load]).lpa2(),
        row(&[RemapRw], &[L3], BBM, &[At]).lpa2().places(&[Local]),
        row(&[ProtectRwRo], &[L3], UPDATE, &[Store]).lpa2().remote(),
        row(&[ProtectXXn], &[L3], &[Direct], &[Fetch]).lpa2().remote(),
        row(&[Fold, Unfold], &[L3, L2], &[Direct], &[Load]).lpa2().remote(),
        row(&[ContigRemap], &[L3], BBM, &[Load]).lpa2(),
        row(&[RetypeWbDevice, CacheWbNc], &[L3], BBM, &[Load]).lpa2().remote(),
        row(&[AgeClear], &[L3], &[Direct], &[Load]).lpa2().remote(),
        row(&[HwAgeClear], &[L3], &[DirectCas], &[Load]).lpa2().remote(),
        row(&[DirtyClean], &[L3], &[DirectCas], &[Store]).lpa2().remote(),
        // The blocks that come with it, of 512 and of 64 GiB. Of 1 GiB, those of 4K are there without it.
        row(&[Split, Merge], &[L0], &[Bbm, Nt, Direct], &[Load]).lpa2(),
        row(&[Split, Merge], &[L1], &[Bbm, Nt, Direct], &[Load]).lpa2().granules(&[Granule::K16]),
        row(&[ProtectRwRo], &[L0], UPDATE, &[Store]).lpa2().remote(),
        row(&[ProtectRwRo], &[L1], UPDATE, &[Store]).lpa2().granules(&[Granule::K16]).remote(),
        // And the TTL hints of their levels.
        row(&[TlbiProtect], &[L0, L1], BBM, &[Store]).lpa2().remote().by(BY_VA, INNER, XS, Aim::Hint),
        row(&[TlbiProtect], &[L0, L1], BBM, &[Store]).lpa2().remote().by(TWO_BY_VA, INNER, XS, Aim::Hit),
        row(&[TlbiProtect], &[L0, L1], BBM, &[Store]).lpa2().remote().by(TWO_BY_VA, INNER, XS, Aim::Level),
        // A range begins at a multiple of 64 KiB.
        row(&[RangeRemap], &[L3], BBM, &[Load]).lpa2().remote().by(BY_RANGE, INNER, XS, Aim::Hit),
        row(&[RangeRemap], &[L3], BBM, &[Load]).lpa2().places(&[Local]).by(TWO_BY_RANGE, HERE, XS, Aim::Hit),
        row(&[RangeRemap], &[L2], BBM, &[Load]).lpa2().remote().by(TWO_BY_RANGE, INNER, XS, Aim::Hit),
        row(&[RangeRemap], &[L3], BBM, &[Load]).lpa2().remote().by(TWO_BY_RANGE, INNER, XS, Aim::Page),
        row(&[RangeRemap], &[L3], BBM, &[Load]).lpa2().remote().by(TWO_BY_RANGE, INNER, XS, Aim::Level),
        row(&[RangeProtect], &[L0, L1], BBM, &[Store]).lpa2().remote().by(TWO_BY_RANGE, INNER, XS, Aim::Hit),
        row(&[Freed], &[L2], BBM, &[Load]).lpa2().by(&[Op::Rvaae1], INNER, XS, Aim::Hit),
        //
        row(&[Split, Merge], &[L1, L2], RESIZE, &[Load, Store]).of_stage2(),
        row(&[Split], &[L1, L2], &[BbmAf], &[Load, Store]).of_stage2(),
        row(&[Split, Merge], &[L2], &[Bbm, Nt, Direct], &[Load, Store]).of_stage2().under(STAGE1),
        row(&[Split, Merge], &[L2], &[Nt, Direct], &[Load, Store]).of_stage2().under(CAPPED),
        row(&[Split, Merge], &[L2], RESIZE, &[Load]).granules(LARGER).of_stage2(),
        row(&[Split, Merge], &[L2], &[Bbm, Nt, Direct], &[Atomic, Exclusive, Unaligned, Walk, Dc]).of_stage2(),
        row(&[Split, Merge], &[L2], &[Bbm, Nt, Direct], &[Load, Store]).places(&[All]).of_stage2(),
        row(&[RemapRw], &[L3, L2], REPLACE, &[Load, Store]).of_stage2(),
        row(&[RemapRoSame, RemapRoDiff], &[L3, L2], UPDATE, &[Load]).of_stage2(),
        row(&[RemapRw], &[L3], UPDATE, &[Load, Store]).of_stage2().under(STAGE1),
        row(&[RemapRw], &[L3, L2], UPDATE, &[Load, Store]).granules(LARGER).of_stage2(),
        row(&[RemapRw], &[L3], BBM, &[Atomic, Exclusive, Walk]).of_stage2(),
        row(&[RemapRw], &[L3], BBM, &[Load, Store]).places(&[All]).of_stage2(),
        row(&[RemapRw], &[L3], BBM, &[Load, Store]).of_stage2().scripts(STAGE2_PARTS),
        row(&[RemapOutRw, RemapInRw], &[L2], &[Bbm, Direct], &[Load, Store]).of_stage2(),
        row(&[TableSame, TableOther], &[L2], UPDATE, &[Load, Walk]).of_stage2(),
        row(&[TableOther, RemapInRw], &[L2], BBM, &[Load, Store, Walk, Tables]).of_stage2().scripts(STAGE2_PAGES),
        row(&[ProtectRwRo, ProtectRoRw], &[L3, L2], REPLACE, &[Load, Store]).of_stage2(),
        row(&[ProtectXXn, ProtectXnX], &[L3, L2], UPDATE, &[Fetch, Load]).of_stage2(),
        row(&[ProtectRwRo], &[L3], UPDATE, &[Store]).of_stage2().under(STAGE1),
        row(&[ProtectRwRo, ProtectRoRw], &[L3], UPDATE, &[Store]).granules(LARGER).of_stage2(),
        row(&[Fold, Unfold], &[L3, L2], UPDATE, &[Load, Store]).of_stage2(),
        row(&[Fold, Unfold], &[L3], UPDATE, &[Load]).granules(LARGER).of_stage2(),
        row(&[ContigRwRo, ContigRoRw, ContigRemap], &[L3], UPDATE, &[Store]).of_stage2(),
        row(&[HalfFold, HalfUnfold, HalfRwRo], &[L3], &[Bbm, Direct], &[Load]).of_stage2(),
        row(&[RetypeWbDevice, RetypeDeviceWb, RetypeDevice], &[L3, L2], &[Bbm, Direct], &[Load, Store]).of_stage2(),
        row(&[CacheWbNc, CacheNcWb, CacheWbWt], &[L3], &[Bbm, Direct], &[Load, Store]).of_stage2(),
        row(&[AgeSet, AgeClear], &[L3, L2], UPDATE, &[Load, Store]).of_stage2(),
        row(&[RetypeWbDevice, RetypeDeviceWb], &[L3, L2], BBM, &[Misaligned]).of_stage2(),
        row(&[RetypeWbDevice, RetypeDeviceWb], &[L3], BBM, &[Misaligned]).remote().of_stage2().under(STAGE1),
        // What hardware writes into stage 2.
        row(&[HwAgeClear], &[L3, L2], &[Bbm, Direct, DirectCas], &[Load]).of_stage2(),
        row(&[HwAgeClear], &[L3], &[DirectCas], &[Store, Walk, Unaligned]).of_stage2(),
        row(&[HwAgeProtect], &[L3, L2], &[BbmCas, Direct, DirectCas], &[Load]).of_stage2(),
        row(&[HwAgeRemap], &[L3], &[Bbm, BbmCas], &[Load]).of_stage2(),
        row(&[DirtyClean], &[L3, L2], &[Bbm, Direct, DirectCas], &[Load, Store]).of_stage2(),
        row(&[DirtyClean], &[L3], &[DirectCas], &[Atomic, Exclusive]).of_stage2(),
        row(&[DirtyProtect], &[L3, L2], &[Direct, DirectCas, DirectNotlbi], &[Store]).of_stage2(),
        row(&[DirtyGrant], &[L3], &[Direct], &[Store]).of_stage2(),
        row(&[DirtyExec], &[L3], &[BbmCas, Direct, DirectCas], &[Store]).of_stage2(),
        row(&[DirtyRemap], &[L3], &[Bbm, BbmCas], &[Store]).of_stage2(),
        row(&[HwAgeProtect], &[L3], &[DirectCas], &[Load]).places(&[All]).of_stage2(),
        row(&[DirtyClean, DirtyExec], &[L3], &[DirectCas], &[Store]).places(&[All]).of_stage2(),
        row(&[HwAgeClear, DirtyClean], &[L3], &[DirectCas], &[Store]).granules(LARGER).remote().of_stage2(),
        row(&[DirtyClean, DirtyProtect], &[L3], &[DirectCas], &[Store]).remote().of_stage2().under(STAGE1),
        // Stage 1 tables of the VM are among what stage 2 maps.
        row(&[RemapRw], &[L3, L2], UPDATE, &[Tables]).of_stage2(),
        row(&[Split, Merge], &[L2], &[Bbm, Nt, Direct], &[Tables]).of_stage2(),
        row(&[TableOther], &[L2], BBM, &[Tables]).of_stage2(),
        row(&[AgeClear, Fold], &[L3], UPDATE, &[Tables]).of_stage2(),
        row(&[RemapRw], &[L3], BBM, &[Tables]).places(&[All]).of_stage2(),
        row(&[RemapRw], &[L3], BBM, &[Tables]).granules(LARGER).of_stage2(),
        row(&[RemapRw], &[L3], BBM, &[Tables]).of_stage2().scripts(STAGE2_PARTS),
        // Two VMIDs have the same tables, and one changes them: its TLBIs must be of all.
        row(&[RemapRw], &[L3, L2], BBM, &[OtherLoad]).of_stage2(),
        row(&[RemapRw], &[L3], BBM, &[OtherStore]).remote().of_stage2(),
        row(&[RemapRw], &[L3], BBM, &[OtherLoad]).remote().of_stage2().under(STAGE1),
        row(&[Split, Merge], &[L2], &[Bbm, Direct], &[OtherLoad]).remote().of_stage2(),
        row(&[ProtectRwRo], &[L3], &[Direct], &[OtherStore]).of_stage2(),
        row(&[RemapRw], &[L3], BBM, &[OtherLoad]).of_stage2().scripts(BY_VMID),
        // As where an SMMU that is not coherent has the same tables.
        row(&[Split, Merge], &[L2], &[Bbm, Nt, Direct], &[Load, Store]).of_stage2().cleaned(),
        row(&[RemapRw], &[L3], BBM, &[Load, Store]).of_stage2().cleaned(),
        row(&[ProtectRwRo], &[L3], &[Direct], &[Store]).of_stage2().cleaned(),
        row(&[Fold], &[L3], &[Direct], &[Load]).of_stage2().cleaned(),
        row(&[Split], &[L1, L2], PROPOSAL, &[Load, Store, Walk]).of_stage2(),
        row(&[Split], &[L1], PROPOSAL, &[Load, Store, Walk]).down_to(L3).of_stage2(),
        row(&[Split], &[L2], PROPOSAL, &[Load, Store]).of_stage2().under(STAGE1),
        row(&[Split], &[L2], PROPOSAL, &[Store, Walk]).places(&[All]).of_stage2(),
        row(&[Split], &[L2], PROPOSAL, &[Load]).granules(LARGER).of_stage2(),
        row(&[Split], &[L2], PROPOSAL, &[Load, Store]).of_stage2().scripts(NO_TLBI),
        //
        row(&[Split, Merge], &[L1, L2], RESIZE, &[Load, Store]).of_el2(),
        row(&[Split], &[L1, L2], &[BbmAf], &[Load, Store]).of_el2(),
        row(&[Split, Merge], &[L2], &[Nt, Direct], &[Load, Store]).of_el2().under(CAPPED),
        row(&[Split, Merge], &[L2], &[Bbm, Nt, Direct], &[Atomic, Exclusive, Unaligned, Walk, Dc]).of_el2(),
        row(&[Split, Merge], &[L2], &[Bbm, Nt, Direct], &[At]).places(&[Local]).of_el2(),
        row(&[Split, Merge], &[L2], &[Bbm, Nt, Direct], &[Load, Store]).places(&[All]).of_el2(),
        row(&[RemapRw], &[L3, L2], REPLACE, &[Load, Store]).of_el2(),
        row(&[RemapRoSame, RemapRoDiff], &[L3, L2], UPDATE, &[Load]).of_el2(),
        row(&[RemapRw], &[L3], &[Bbm, Direct], &[Atomic, Exclusive, At, Walk]).of_el2(),
        row(&[RemapRw], &[L3], &[Bbm, DirectNotlbi], &[Load, Store]).places(&[All]).of_el2(),
        row(&[RemapRw], &[L3], BBM, &[Load, Store]).of_el2().scripts(EL2_PARTS),
        row(&[RemapOutRw, RemapInRw], &[L2], &[Bbm, Direct], &[Load, Store]).of_el2(),
        row(&[TableSame, TableOther], &[L2], UPDATE, &[Load, Walk]).of_el2(),
        row(&[ProtectRwRo, ProtectRoRw], &[L3, L2], REPLACE, &[Load, Store]).of_el2(),
        row(&[ProtectXXn, ProtectXnX], &[L3, L2], UPDATE, &[Fetch, Load]).of_el2(),
        row(&[ProtectRwRo], &[L3], UPDATE, &[Store]).places(&[All]).of_el2(),
        row(&[Fold, Unfold], &[L3, L2], UPDATE, &[Load, Store]).of_el2(),
        row(&[ContigRwRo, ContigRoRw, ContigRemap], &[L3], UPDATE, &[Store]).of_el2(),
        row(&[HalfFold, HalfUnfold, HalfRwRo], &[L3], &[Bbm, Direct], &[Load]).of_el2(),
        row(&[RetypeWbDevice, RetypeDeviceWb, RetypeDevice], &[L3, L2], &[Bbm, Direct], &[Load, Store]).of_el2(),
        row(&[CacheWbNc, CacheNcWb, CacheWbWt], &[L3], &[Bbm, Direct], &[Load, Store]).of_el2(),
        row(&[AgeSet, AgeClear], &[L3, L2], UPDATE, &[Load, Store]).of_el2(),
        row(&[Split], &[L1, L2], PROPOSAL, &[Load, Store, Walk]).of_el2(),
        row(&[Split], &[L1], PROPOSAL, &[Load, Store, Walk]).down_to(L3).of_el2(),
        row(&[Split], &[L2], PROPOSAL, &[Store, Walk]).places(&[All]).of_el2(),
        row(&[Split], &[L2], PROPOSAL, &[Load, Store]).of_el2().scripts(NO_TLBI),
        // The question that all began with: hv splits what it stands on.
        row(OWN, &[L2], &[BbmAsm, BbmAlias, Nt, Direct], &[Load, Store]).places(OTHERS).of_el2(),
        row(&[OwnStack, OwnCode, OwnTable], &[L2], BBM, &[Load, Store]).places(OTHERS).of_el2(),
        // Each round of these takes an emulator a time slice.
        row(&[OwnVectors, OwnAll], &[L2], BBM, &[Load]).remote().of_el2(),
        //
        row(&[Split, Merge], &[L1, L2], RESIZE, &[Load, Store]).of_host(),
        row(&[Split], &[L2], &[BbmAf], &[Load, Store]).of_host(),
        row(&[Split, Merge], &[L2], RESIZE, &[Load]).granules(LARGER).of_host(),
        row(&[Split, Merge], &[L2], &[Nt, Direct], &[Load, Store]).of_host().under(CAPPED),
        row(&[Split, Merge], &[L2], &[Bbm, Nt, Direct], &[Atomic, Exclusive, Unaligned, Walk, Dc]).of_host(),
        row(&[Split, Merge], &[L2], &[Bbm, Nt, Direct], &[At]).places(&[Local]).of_host(),
        row(&[Split, Merge], &[L2], &[Bbm, Nt, Direct], &[Load, Store]).places(&[All]).of_host(),
        row(&[RemapRw], &[L3, L2], REPLACE, &[Load, Store]).of_host(),
        row(&[RemapRw], &[L3, L2], UPDATE, &[Load, Store]).granules(LARGER).of_host(),
        row(&[RemapRoSame, RemapRoDiff], &[L3], UPDATE, &[Load]).of_host(),
        row(&[RemapRw], &[L3], &[Bbm, Direct], &[Atomic, Exclusive, At, Walk]).of_host(),
        row(&[RemapRw], &[L3], &[Bbm, DirectNotlbi], &[Load, Store]).places(&[All]).of_host(),
        row(&[RemapRw], &[L3], BBM, &[Load, Store]).of_host().scripts(HOST_PARTS),
        row(&[RemapOutRw, RemapInRw], &[L2], &[Bbm, Direct], &[Load, Store]).of_host(),
        row(&[TableSame, TableOther], &[L2], UPDATE, &[Load, Walk]).of_host(),
        row(&[ProtectRwRo, ProtectRoRw], &[L3, L2], REPLACE, &[Load, Store]).of_host(),
        row(&[ProtectRwRo], &[L3], UPDATE, &[Store]).granules(LARGER).of_host(),
        row(&[ProtectXXn, ProtectXnX], &[L3, L2], UPDATE, &[Fetch, Load]).of_host(),
        row(&[ProtectRwRo], &[L3], UPDATE, &[Store]).places(&[All]).of_host(),
        row(&[Fold, Unfold], &[L3, L2], UPDATE, &[Load, Store]).of_host(),
        row(&[Fold, Unfold], &[L3], UPDATE, &[Load]).granules(LARGER).of_host(),
        row(&[ContigRwRo, ContigRoRw, ContigRemap], &[L3], UPDATE, &[Store]).of_host(),
        row(&[HalfFold, HalfUnfold, HalfRwRo], &[L3], &[Bbm, Direct], &[Load]).of_host(),
        row(&[RetypeWbDevice, RetypeDeviceWb, RetypeDevice], &[L3], &[Bbm, Direct], &[Load, Store]).of_host(),
        row(&[CacheWbNc, CacheNcWb, CacheWbWt], &[L3], &[Bbm, Direct], &[Load, Store]).of_host(),
        row(&[AgeSet, AgeClear], &[L3, L2], UPDATE, &[Load, Store]).of_host(),
        row(&[Split], &[L1, L2], PROPOSAL, &[Load, Store, Walk]).of_host(),
        row(&[Split], &[L1], PROPOSAL, &[Load, Store, Walk]).down_to(L3).of_host(),
    ]
};

/// Every selftest that does damage, or ends otherwise than by itself, has one behind it that would notice if the
/// damage outlived its VM; scribble's is the one that looks for traces.
const SELFTESTS: &[Selftest] = &[
    Selftest::Quiet,
    Selftest::HangMasked,
    Selftest::ConflictEl1,
    Selftest::Undefined,
    Selftest::ConflictEl2ForEl1,
    Selftest::Storm,
    Selftest::ConflictEl2,
    Selftest::Scribble,
    Selftest::Clean,
    Selftest::Forge,
    Selftest::CpuSwap,
    Selftest::HalfRecord,
    Selftest::CapBbm0,
    Selftest::NoSecondCpu,
    Selftest::CapBbm1,
];

/// Every instance, in the order in which it is listed and run: the selftests first, so that all the others show
/// that nothing of them is left behind; then family by family.
pub fn all() -> impl Iterator<Item = Instance> {
    let selftests = SELFTESTS.iter().copied().map(Instance::Selftest);
    let rows = |family| ROWS.iter().filter(move |row| row.whats.iter().any(|what| what.family() == family));
    let cases = move |family| rows(family).flat_map(Row::cases).filter(move |case| case.change.family() == family);
    selftests.chain(Family::ALL.iter().copied().flat_map(cases).map(Instance::Case))
}

/// The instance of this id, if the catalogue has it.
#[must_use]
pub fn find(id: &str) -> Option<Instance> {
    let wanted = id.parse().ok()?;
    all().find(|instance| *instance == wanted)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        string::{String, ToString},
        vec::Vec,
    };

    use vmsa::{
        change::Leaf,
        instance::MAX_ID,
        transition::{Need, guarantee},
        verdict::{Control, control, is_defined},
    };

    use super::*;

    fn cases() -> impl Iterator<Item = Case> {
        all().filter_map(|instance| match instance {
            Instance::Case(case) => Some(case),
            Instance::Selftest(_) => None,
        })
    }

    #[test]
    fn ids_are_unique_short_and_read_back() {
        let ids: Vec<String> = all().map(|instance| instance.to_string()).collect();
        assert!(ids.len() >= 60, "{} instances", ids.len());
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
        for (id, instance) in ids.iter().zip(all()) {
            assert!(id.len() <= MAX_ID, "{id}");
            assert_eq!(find(id), Some(instance), "{id}");
        }
    }

    /// LAVA folds test names; two ids that fold to one would be one result there.
    #[test]
    fn ids_stay_unique_when_folded() {
        let fold = |id: String| -> String {
            id.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect()
        };
        let folded: BTreeSet<String> = all().map(|instance| fold(instance.to_string())).collect();
        assert_eq!(folded.len(), all().count());
    }

    #[test]
    fn find_knows_only_the_catalogue() {
        for id in [
            "",
            "selftest",
            "selftest.nonsense",
            "el1.merge.4k-l2.bbm-af.load-remote",
            "el1.split.64k-l2.bbm-af.load-local",
        ] {
            assert_eq!(find(id), None, "{id}");
        }
    }

    #[test]
    fn families_stand_together_and_are_complete() {
        let mut families: Vec<Family> = all().map(|instance| instance.family()).collect();
        families.dedup();
        assert_eq!(families.first(), Some(&Family::Selftest));
        assert_eq!(families.iter().collect::<BTreeSet<_>>().len(), families.len(), "each in one piece");
        assert_eq!(families.len(), Family::ALL.len());
        let selftests: BTreeSet<&Selftest> = SELFTESTS.iter().collect();
        assert_eq!(selftests, Selftest::ALL.iter().collect());
        assert_eq!(SELFTESTS.len(), Selftest::ALL.len());
    }

    #[test]
    fn damage_is_followed_by_a_test_that_ends_by_itself() {
        let damages = |test: Selftest| {
            matches!(
                test,
                Selftest::HangMasked
                    | Selftest::Undefined
                    | Selftest::Storm
                    | Selftest::Scribble
                    | Selftest::HalfRecord
                    | Selftest::NoSecondCpu
            )
        };
        for pair in SELFTESTS.windows(2) {
            assert!(!(damages(pair[0]) && damages(pair[1])), "{pair:?}");
            assert_eq!(pair[0] == Selftest::Scribble, pair[1] == Selftest::Clean);
        }
    }

    /// Every method is a defined way of making its change on some CPU, except where leaving that out is the point:
    /// the controls, and the remaps that need break-before-make everywhere.
    #[test]
    fn methods_make_sense() {
        for case in cases().filter(|case| case.change.form().is_none()) {
            let id = Instance::Case(case);
            assert!(case.change.exists(case.granule), "{id}");
            assert!(case.method.fits(case.change), "{id}");
            let granule = case.granule;
            let needs_bbm = BbmLevel::ALL.iter().all(|bbm| case.change.needs(granule, *bbm).need == Need::Bbm);
            let undefined = match case.method {
                DirectNotlbi => case.change.what() != What::AgeSet,
                Direct | DirectCas | Overwrite => needs_bbm,
                Bbm | BbmAf | Nt | BbmCas | NtCas | BbmAsm | BbmAlias => false,
            };
            assert_eq!(guarantee(case.method, case.change, granule, BbmLevel::L3).is_err(), undefined, "{id}");
        }
    }

    /// A sequence is a defined one from the BBM level on that the change asks for, and at all levels if it is BBM.
    #[test]
    fn methods_are_defined_from_their_level_on() {
        for case in cases().filter(|case| case.change.form().is_none()) {
            let (family, what) = (case.change.family(), case.change.what());
            let from = match case.method {
                Bbm | BbmAf | BbmCas | BbmAsm | BbmAlias => Some(BbmLevel::L0),
                Nt | NtCas => Some(BbmLevel::L1),
                Direct | DirectCas | Overwrite => match family {
                    Family::Split | Family::Merge | Family::Carry | Family::Own => Some(BbmLevel::L2),
                    Family::Fold | Family::Unfold => Some(BbmLevel::L1),
                    Family::Protect | Family::User | Family::Age | Family::HwAge | Family::Dirty | Family::Exec => {
                        Some(BbmLevel::L0)
                    }
                    _ => match what {
                        What::HalfFold | What::HalfUnfold => Some(BbmLevel::L1),
                        What::ProgressSplit | What::ProgressMerge => Some(BbmLevel::L2),
                        What::ContainSplit | What::ContainMerge => Some(BbmLevel::L2),
                        What::ProgressFold | What::ProgressUnfold => Some(BbmLevel::L1),
                        What::ProgressHalfFold | What::ProgressHalfUnfold => Some(BbmLevel::L1),
                        What::ContainHalfFold | What::ContainHalfUnfold => Some(BbmLevel::L1),
                        What::RecoverSplit | What::RecoverMerge | What::RecoverSplitNg => Some(BbmLevel::L2),
                        What::RecoverFold | What::RecoverUnfold => Some(BbmLevel::L1),
                        What::LateProtect => Some(BbmLevel::L0),
                        What::RemapRoSame | What::TableSame | What::HalfRwRo => Some(BbmLevel::L0),
                        What::ContigRwRo | What::ContigRoRw => Some(BbmLevel::L0),
                        _ => None,
                    },
                },
                // What faults is never cached.
                DirectNotlbi => (what == What::AgeSet).then_some(BbmLevel::L0),
            };
            for bbm in BbmLevel::ALL {
                let defined = guarantee(case.method, case.change, case.granule, bbm).is_ok();
                assert_eq!(defined, from.is_some_and(|from| bbm >= from), "{} at level {bbm}", Instance::Case(case));
            }
        }
    }

    /// A form that reaches the window's entries wherever they are looked at makes its change a defined one, and no other
    /// does: what names a neighbour, what stays on this PE under an observer on another, what leaves tables alone.
    #[test]
    fn forms_are_defined_if_they_reach() {
        let (mut hits, mut misses) = (0, 0);
        for (case, form) in cases().filter_map(|case| Some((case, case.change.form()?))) {
            let everywhere = form.scope != Scope::Local || case.observer.place == Local;
            let whole = !case.change.frees_table()
                || !form.op.is_last_level() && (!form.op.is_by_va() || form.op.is_range() || form.aim == Aim::Each);
            let reaches = form.aim.hits() && everywhere && whole;
            assert_eq!(is_defined(&case, BbmLevel::L0), reaches, "{}", Instance::Case(case));
            *(if reaches { &mut hits } else { &mut misses }) += 1;
        }
        assert!(hits > 200 && misses > 100, "{hits} and {misses}");
        // Every instruction there is, and every way to aim it.
        let forms: BTreeSet<_> = cases().filter_map(|case| case.change.form()).collect();
        let encodings: BTreeSet<_> = forms.iter().map(|form| form.encoding()).collect();
        assert_eq!(encodings.len(), 60);
        assert!(Aim::ALL.iter().all(|aim| forms.iter().any(|form| form.aim == *aim)));
    }

    /// A store that neither mapping permits is worth a test too, since it must fault whatever entries are mixed; a
    /// fetch of that kind would only say the same again.
    #[test]
    fn observers_are_there_for_what_they_can_tell() {
        for case in cases() {
            let access = case.observer.access;
            let open = |leaf: Leaf| leaf.fault(access, case.change.what().sides().hardware).is_none();
            let permitted = open(case.change.old_leaf()) || open(case.change.new_leaf());
            assert!(permitted || access == Store, "{}", Instance::Case(case));
        }
    }

    #[test]
    fn the_document_tells_every_family_and_access() {
        let text = include_str!("../../docs/catalogue.md");
        for family in Family::ALL {
            assert!(text.contains(&std::format!("\n| `{family}` | ")), "{family}");
        }
        for access in Access::ALL {
            assert!(text.contains(&std::format!("`{access}`")), "{access}");
        }
    }

    /// A row that no granule has is a mistake, and so is a case that two rows make.
    #[test]
    fn every_row_counts() {
        for row in ROWS {
            assert!(row.cases().next().is_some(), "{:?} at {:?}", row.whats, row.levels);
        }
    }

    #[test]
    fn there_are_controls_of_both_kinds() {
        let controls = all().filter(|instance| matches!(control(instance), Some(Control::MustShow(..)))).count();
        assert!(controls > 0);
        assert!(all().any(|instance| control(&instance) == Some(Control::MustNotShow)));
    }

    /// A frame of 1 GiB in pages needs 2 MiB of stage 2 tables for each VM, and shows nothing that 2 MiB do not.
    #[test]
    fn stage_2_maps_only_small_frames_in_pages() {
        for instance in all().filter(|instance| instance.needs().stage2 == Stage2::Pages) {
            assert_eq!(instance.needs().frame_size, 2 << 20, "{instance}");
        }
    }
}
