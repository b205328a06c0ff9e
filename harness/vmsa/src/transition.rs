//! Whether a sequence gives a change what it needs.
//!
//! What that is says [`rule`](crate::rule), for any two descriptors; a [`Change`] only supplies its pair. Since
//! the rules look at *descriptors*, they also judge the intermediate ones that a sequence writes: break-before-make is
//! not a special case but two changes, valid to invalid (a TLBI) and invalid to valid (nothing), and the nT sequence
//! is two as well. [`sufficient`] walks a [`Sequence`] in this way, write by write. A verdict holds a CPU to the rules
//! exactly where it returns `Ok`; everything else is undefined by the architecture.

use crate::{
    change::Change,
    descriptor::{Descriptor, DescriptorKind},
    geometry::{BbmLevel, Granule},
    instance::{Case, Method, Regime},
    rule::{Asids, HardwareUpdates, Invalidation, Reach, needed},
    sequence::{Sequence, Step, Tlbi, Write},
    tlbi::{Form, Scope},
};

pub use crate::rule::{Context, Need, Needed, Transition, needs};

impl Transition {
    fn kinds(&self) -> (DescriptorKind, DescriptorKind) {
        let layout = self.context.layout();
        (layout.kind(self.old), layout.kind(self.new))
    }

    /// The Block from which the nT sequence makes its descriptor; without one, the old descriptor.
    #[must_use]
    pub fn block(&self) -> Descriptor {
        if self.kinds().0 == DescriptorKind::Table { self.new } else { self.old }
    }

    /// Whether an access finds the same through either descriptor, if it finds anything.
    #[must_use]
    pub fn same_contents(&self) -> bool {
        use DescriptorKind::{Invalid, Table};
        let Self { old, new, context } = *self;
        let layout = context.layout();
        match self.kinds() {
            (Invalid, _) | (_, Invalid) => context.contents_equal,
            (Table, Table) => context.same_mapping || layout.next_table(old) == layout.next_table(new),
            (Table, _) | (_, Table) => context.same_mapping || context.contents_equal,
            _ => context.contents_equal || (layout.oa(old), old.ns()) == (layout.oa(new), new.ns()),
        }
    }

    /// Whether both descriptors lead to the same address, as far as they lead anywhere.
    #[must_use]
    pub fn same_address(&self) -> bool {
        let elsewhere = Context { contents_equal: false, ..self.context };
        Self { context: elsewhere, ..*self }.same_contents()
    }

    /// The steps of `method`, with the narrowest TLBI that the transition allows; `None` if it has not what the method
    /// writes.
    #[must_use]
    pub fn sequence(&self, method: Method) -> Option<Sequence> {
        use DescriptorKind::{Block, Page, Table};
        let kinds = self.kinds();
        let swaps = self.context.hardware != HardwareUpdates::Off;
        let fits = match method {
            Method::Nt => matches!(kinds, (Block, Table) | (Table, Block)),
            Method::NtCas => swaps && matches!(kinds, (Block, Table) | (Table, Block)),
            Method::BbmCas | Method::DirectCas => swaps,
            Method::BbmAf => {
                !swaps && matches!(kinds.0, Block | Page) && self.old.af() && (kinds.1 == Table || self.new.af())
            }
            // It is by who makes it that these differ from the first, and by how deep the tables are that the last one fills,
            // which no descriptor tells.
            Method::BbmAsm | Method::BbmAlias | Method::Overwrite => false,
            Method::Bbm | Method::Direct | Method::DirectNotlbi => true,
        };
        let tlbi = match self.invalidation().reach {
            Reach::Tree => Tlbi::Vmalle1is,
            Reach::Group => Tlbi::Vaale1isEach,
            // The block may be cached as a table-level entry.
            Reach::Leaf if kinds.1 == Table => Tlbi::Vaae1is,
            Reach::Leaf | Reach::Nothing => Tlbi::Vaale1is,
        };
        let sequence = Sequence::with(method, tlbi);
        fits.then(|| if self.context.compare_and_swap { sequence.swapping() } else { sequence })
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
    sufficient_by(method, Regime::El1, &Sequence::of(method, change), change, granule, bbm)
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
    /// The same of the first of two, the one by IPA.
    IssuedByIpa,
    /// That one is complete: what holds stage 2 alone is gone, what combines both stages is not.
    Stage2Gone,
}

/// As [`guarantee`], for any steps, whoever looks: what is not complete on every PE is not given.
pub fn sufficient(sequence: &Sequence, change: Change, granule: Granule, bbm: BbmLevel) -> Result<Needed, Needed> {
    sufficient_in(Regime::El1, sequence, change, granule, bbm)
}

/// As [`sufficient`], for descriptors of `regime`.
pub fn sufficient_in(
    regime: Regime,
    sequence: &Sequence,
    change: Change,
    granule: Granule,
    bbm: BbmLevel,
) -> Result<Needed, Needed> {
    sufficient_by(Method::Direct, regime, sequence, change, granule, bbm)
}

/// As [`sufficient_in`], for steps that are executed as those of `method`: of one of them, tables are empty before it fills them.
pub fn sufficient_by(
    method: Method,
    regime: Regime,
    sequence: &Sequence,
    change: Change,
    granule: Granule,
    bbm: BbmLevel,
) -> Result<Needed, Needed> {
    let descriptors = change.example(granule);
    let circumstances =
        Circumstances { regime, tables: tables_of(method, change), ..Circumstances::plain(change.form()) };
    walk(sequence, &change.transition(granule, descriptors), descriptors.block, bbm, circumstances)
}

/// As [`sufficient`], for the steps of `case`: where nobody but the PE that makes the change looks, a [form](Form) of
/// local scope is enough, and where somebody looks under another ASID or VMID, what names the one in use is not. The case's cap is
/// not taken into account.
pub fn sufficient_for(case: &Case, bbm: BbmLevel) -> Result<Needed, Needed> {
    let Case { change, granule, .. } = *case;
    let descriptors = change.example(granule);
    let here = change.form().is_some() && !case.observer.place.is_remote();
    let sequence = case.sequence();
    let sequence = if case.observer.access.switches_asid() { sequence.seen_by_other(case.regime) } else { sequence };
    let tables = tables_of(case.method, change);
    let circumstances = Circumstances { form: change.form(), here, regime: case.regime, tables };
    walk(&sequence, &change.transition(granule, descriptors), descriptors.block, bbm, circumstances)
}

/// As [`sufficient`], for any transition. `block` is the Block from which the sequence makes its descriptor with nT,
/// if it does.
pub fn gives(sequence: &Sequence, transition: &Transition, block: Descriptor, bbm: BbmLevel) -> Result<Needed, Needed> {
    walk(sequence, transition, block, bbm, Circumstances::plain(None))
}

/// What of a case counts besides its transition.
#[derive(Clone, Copy)]
struct Circumstances {
    /// What [`Tlbi::Form`] stands for.
    form: Option<Form>,
    /// Whether only this PE looks.
    here: bool,
    /// Whose descriptors they are. What a change needs is the same of either stage; what gives it is not.
    regime: Regime,
    /// How many levels of tables are filled by the steps, and put in place one below the other. Others are ready before.
    tables: usize,
}

/// How many levels of tables the steps of `method` fill.
const fn tables_of(method: Method, change: Change) -> usize {
    if matches!(method, Method::Overwrite) { change.levels_below() } else { 0 }
}

/// How many tables of those that the steps fill are filled, seen by every walker, and in place.
#[derive(Clone, Copy, Default)]
struct Tables {
    filled: usize,
    shown: usize,
    linked: usize,
}

impl Circumstances {
    const fn plain(form: Option<Form>) -> Self {
        Self { form, here: false, regime: Regime::El1, tables: 0 }
    }
}

fn walk(
    sequence: &Sequence,
    transition: &Transition,
    block: Descriptor,
    bbm: BbmLevel,
    circumstances: Circumstances,
) -> Result<Needed, Needed> {
    let Transition { old, new, context } = *transition;
    let Circumstances { form, here, regime, tables: levels } = circumstances;
    let mut tables = Tables::default();
    let mut current = old;
    // The last write: what its TLBI must do, whether it did no more than clear nT, and what it needs.
    let (mut owed, mut only_clears_nt) = (Invalidation::NONE, false);
    let mut last = needed(Need::Nothing, "R_GPPYH", "nothing is changed");
    let mut strongest: Option<Needed> = None;
    let mut state = Maintenance::Settled;
    // Of the TLBI that is issued.
    let mut scope = Scope::Inner;
    // Whether the last write is seen by every walker, and everything by this PE's next instruction.
    let (mut seen, mut synchronised) = (true, true);
    for step in sequence.steps() {
        match *step {
            // A compare-and-swap carries over what it finds: the old descriptor may be an updated one, and cached.
            Step::Write(Write::New) if levels > 0 && (1..levels).contains(&tables.linked) => {
                // Below the table that is in place another block is replaced as the first was, and the entries of both are owed
                // the same TLBI.
                if tables.shown == tables.linked {
                    return Err(EMPTY_TABLE);
                }
                tables.linked += 1;
                (state, seen, synchronised) = (Maintenance::Written, false, false);
            }
            Step::Write(write) | Step::Swap(write) => {
                if levels > 0 && write == Write::New {
                    if tables.shown == 0 {
                        return Err(EMPTY_TABLE);
                    }
                    tables.linked = 1;
                }
                if state != Maintenance::Settled {
                    return Err(last);
                }
                let next = write.value(old, new, block);
                let context = Context { compare_and_swap: false, ..context };
                let written = Transition { old: current, new: next, context };
                last = written.needs(bbm);
                if last.need.is_bbm() {
                    return Err(last);
                }
                if strongest.is_none_or(|strongest| last.need > strongest.need) {
                    strongest = Some(last);
                }
                owed = transition.invalidation_of(&written);
                only_clears_nt = context.layout().kind(next) == DescriptorKind::Block && current == next.with_nt(true);
                state = if last.need == Need::Nothing { Maintenance::Settled } else { Maintenance::Written };
                seen = next == current;
                synchronised = false;
                current = next;
            }
            Step::Fill => tables.filled = (tables.linked + 1).min(levels),
            Step::Dsb(dsb) => {
                seen |= dsb.shows_stores();
                if dsb.shows_stores() {
                    tables.shown = tables.filled;
                }
                match state {
                    Maintenance::Written if dsb.shows_stores() => state = Maintenance::Visible,
                    Maintenance::Issued if dsb.completes(scope) => {
                        (state, synchronised) = (Maintenance::Settled, false)
                    }
                    Maintenance::IssuedByIpa if dsb.completes(scope) => state = Maintenance::Stage2Gone,
                    _ => {}
                }
            }
            Step::Tlbi(tlbi) if tlbi.is_el2() && !regime.is_at_el2() => {
                return Err(needed(Need::Bbm, "R_LXHLD", "a TLBI of EL2's regime is undefined at EL1"));
            }
            Step::Tlbi(Tlbi::Form) => {
                if let Some(form) = form
                    && state == Maintenance::Visible
                    && form.reaches(owed, here)
                {
                    (state, scope) = (Maintenance::Issued, form.scope);
                }
            }
            Step::Tlbi(tlbi) if regime == Regime::S2 => {
                state = match (state, tlbi) {
                    (Maintenance::Visible | Maintenance::Stage2Gone, Tlbi::Vmalls12e1is | Tlbi::Alle1is)
                    | (Maintenance::Stage2Gone, Tlbi::Vmalle1is) => Maintenance::Issued,
                    (Maintenance::Visible, tlbi) if reaches_by_ipa(tlbi, owed.reach) => Maintenance::IssuedByIpa,
                    (state, _) => state,
                };
                scope = Scope::Inner;
            }
            Step::Tlbi(tlbi) if regime == Regime::El2 || tlbi.is_el2() => {
                if state == Maintenance::Visible && reaches_el2(tlbi, owed.reach) {
                    (state, scope) = (Maintenance::Issued, Scope::Inner);
                }
            }
            Step::Tlbi(tlbi) => {
                if state == Maintenance::Visible && reaches(tlbi, owed) {
                    (state, scope) = (Maintenance::Issued, Scope::Inner);
                }
            }
            // The PEs' own walkers are coherent.
            Step::Clean => {}
            Step::Isb => synchronised |= seen && (state == Maintenance::Settled || only_clears_nt),
        }
    }
    if current != new || tables.linked < levels {
        return Err(needed(Need::Bbm, "R_DDMVT", "the new descriptor is not the last that is written"));
    }
    // What is kept of a Block with nT set translates as the Block does without it: nothing stale can show.
    if state != Maintenance::Settled && !only_clears_nt {
        return Err(last);
    }
    if !seen {
        return Err(needed(Need::Tlbi, "R_LRKTH", "no DSB makes the new descriptor visible to every walker"));
    }
    // Whoever changes stage 2 does not use it, and a vCPU is entered by an exception return, which synchronises; hv uses
    // nothing of a window in its own tables but when a vCPU asks for it, by an exception.
    if !synchronised && !regime.is_lab() {
        return Err(needed(
            Need::Tlbi,
            "R_BLDZX",
            "no context synchronisation follows on the PE that makes the change",
        ));
    }
    Ok(strongest.unwrap_or(last))
}

/// What comes of a table that walkers may find before what is in it.
const EMPTY_TABLE: Needed =
    needed(Need::Bbm, "R_LRKTH", "no DSB shows every walker what is in a table before it is put in place");

/// Whether a TLBI removes all that it must. Below a table, and in a Contiguous group, there are entries for many
/// addresses.
const fn reaches(tlbi: Tlbi, owed: Invalidation) -> bool {
    let addresses = match owed.reach {
        Reach::Nothing => true,
        Reach::Leaf => tlbi.reaches_leaves(),
        Reach::Group => tlbi.reaches_groups(),
        Reach::Tree => tlbi.reaches_tables(),
    };
    let asids = match owed.asids {
        Asids::Any => !matches!(tlbi, Tlbi::Aside1is),
        Asids::InUse => !matches!(tlbi, Tlbi::Vae1isOtherAsid),
        Asids::Every => matches!(tlbi, Tlbi::Vaae1is | Tlbi::Vaale1is | Tlbi::Vaale1isEach | Tlbi::Vmalle1is),
    };
    addresses && asids
}

/// Whether a TLBI removes what holds stage 2 alone and must go.
const fn reaches_by_ipa(tlbi: Tlbi, reach: Reach) -> bool {
    match reach {
        Reach::Nothing => tlbi.is_stage2(),
        Reach::Leaf => tlbi.reaches_stage2_leaves(),
        Reach::Group => matches!(tlbi, Tlbi::Ipas2le1isEach | Tlbi::Ipas2e1isAll),
        Reach::Tree => matches!(tlbi, Tlbi::Ipas2e1isAll),
    }
}

/// Whether a TLBI removes all that it must of EL2's own translation.
const fn reaches_el2(tlbi: Tlbi, reach: Reach) -> bool {
    match reach {
        Reach::Nothing => tlbi.is_el2(),
        Reach::Leaf => matches!(tlbi, Tlbi::Vae2is | Tlbi::Vale2is | Tlbi::Vale2isEach | Tlbi::Alle2is),
        Reach::Group => matches!(tlbi, Tlbi::Vale2isEach | Tlbi::Alle2is),
        Reach::Tree => matches!(tlbi, Tlbi::Alle2is),
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::{change::What, geometry::Level, instance::Access, sequence::Write, testing};

    /// The general choice of steps is the catalogue's.
    #[test]
    fn a_change_s_sequence_is_that_of_its_transition() {
        for granule in Granule::ALL {
            for change in testing::changes(granule) {
                let descriptors = change.example(granule);
                let transition = change.transition(granule, descriptors);
                assert!(!change.resizes() || transition.block() == descriptors.block, "{change}");
                assert_eq!(transition.same_contents(), change.contents_equal(), "{change}");
                // What stands in a block no descriptor tells, nor how deep its tables are.
                let told = |method: &&Method| change.own().is_none() && **method != Method::Overwrite;
                for &method in Method::ALL.iter().filter(told) {
                    let expected = method.fits(change).then(|| Sequence::of(method, change));
                    let got = transition.sequence(method);
                    assert_eq!(got, expected, "{method} of {change}");
                }
            }
        }
    }

    #[test]
    fn break_before_make_gives_every_change_what_it_needs() {
        for granule in Granule::ALL {
            for change in testing::changes(granule) {
                let bbm = guarantee(Method::Bbm, change, granule, BbmLevel::L0);
                // Of what faults nothing is cached.
                let need =
                    if change.needs(granule, BbmLevel::L0).need == Need::Nothing { Need::Nothing } else { Need::Tlbi };
                assert_eq!(bbm.map(|met| met.need), Ok(need), "{change}");
                assert!(sufficient(&Sequence::restore(), change, granule, BbmLevel::L0).is_ok(), "{change}");
                // A table has no Access flag, so nothing is broken.
                let by_af = guarantee(Method::BbmAf, change, granule, BbmLevel::L0);
                assert_eq!(by_af.is_ok(), Method::BbmAf.fits(change), "{change}");
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
                let expected = if need.need == Need::Nothing { Ok(need) } else { Err(need) };
                assert_eq!(guarantee(Method::DirectNotlbi, change, Granule::K4, bbm), expected, "{change}");
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
                    let nothing = change.needs(Granule::K4, bbm).need == Need::Nothing;
                    if nothing || guarantee(method, change, Granule::K4, bbm).is_err() {
                        continue;
                    }
                    let makes = |step: &Step| step.write().is_some_and(|(write, _)| write == Write::New);
                    let made = sequence.steps().iter().position(makes);
                    for (left_out, step) in sequence.steps().iter().enumerate() {
                        // What is kept of the Block with nT set is right without it too.
                        let merges = change.frees_table();
                        let too_late = merges && Some(left_out) > made && *step != Step::Isb;
                        let mut rest: Vec<Step> = sequence.steps().to_vec();
                        rest.remove(left_out);
                        let rest = Sequence::of_steps(rest).expect("shorter");
                        assert_eq!(
                            sufficient_by(method, Regime::El1, &rest, change, Granule::K4, bbm).is_ok(),
                            matches!(method, Method::Nt | Method::NtCas)
                                && (too_late || direct_remains(*step, change, bbm)),
                            "{method} of {change} at level {bbm} without step {left_out}, {step}"
                        );
                    }
                }
            }
        }
    }

    /// Without its first write, the nT sequence is a TLBI too many and then the direct change.
    fn direct_remains(step: Step, change: Change, bbm: BbmLevel) -> bool {
        step.write().is_some_and(|(write, _)| write == Write::BlockNt) && !change.needs(Granule::K4, bbm).need.is_bbm()
    }

    /// A TLBI by IPA, complete, and then what combines both stages; or all at once.
    #[test]
    fn stage_2_needs_both_its_tlbis() {
        let remap = Change::new(What::RemapRw, Level::L3);
        let merge = Change::new(What::Merge, Level::L2);
        let fold = Change::new(What::Fold, Level::L3);
        let ok = |change, steps: &str| {
            let sequence = Sequence::parse(steps).expect("letters");
            assert!(sequence.is_for(Regime::S2), "{steps}");
            sufficient_in(Regime::S2, &sequence, change, Granule::K4, BbmLevel::L2).is_ok()
        };
        assert!(ok(remap, "0sQdMd1di") && ok(remap, "0sPdMd1di") && ok(remap, "0sGd1di"));
        assert!(ok(remap, "0sxd1di") && ok(merge, "1sxdi") && !ok(remap, "0skd1di"));
        let sequence = |steps| Sequence::parse(steps).expect("letters").seen_by_other(Regime::S2);
        let by_other = |steps| sufficient_in(Regime::S2, &sequence(steps), remap, Granule::K4, BbmLevel::L2).is_ok();
        assert!(by_other("0sxd1di"), "all VMIDs");
        assert!(!by_other("0sQdMd1di") && !by_other("0sGd1di") && !by_other("0skd1di"), "one VMID, one PE");
        assert!(ok(remap, "0sQdMd1d"), "the vCPU is entered by an exception return");
        assert!(ok(merge, "1sGdi") && ok(merge, "1sUdMdi") && ok(fold, "1sYdMdi"));
        for (change, steps, why) in [
            (remap, "0sMd1di", "stage 2 is not touched"),
            (remap, "0sQd1di", "what combines both stages stays (R_TVTYQ)"),
            (remap, "0sQMd1di", "may be made again from what the first has yet to remove"),
            (remap, "0sMdQd1di", "likewise"),
            (remap, "0sQsMd1di", "the first is not complete"),
            (remap, "0spdMd1di", "the others keep theirs"),
            (remap, "0sKdMd1di", "another address"),
            (remap, "0sQdmd1di", "the others keep what combines both"),
            (remap, "0QdMd1di", "the store may come behind it"),
            (remap, "0sRd1di", "another regime"),
            (remap, "0sQdMd1i", "no walker need see the new descriptor"),
            (merge, "1sPdMdi", "one address of many"),
            (fold, "1sQdMdi", "one member of many"),
        ] {
            assert!(!ok(change, steps), "{steps}: {why}");
        }
        for change in testing::changes(Granule::K4) {
            for &method in Method::ALL.iter().filter(|method| method.fits(change)) {
                if !matches!(change.what().sides().hardware, HardwareUpdates::Off) || change.form().is_some() {
                    continue;
                }
                let steps = Sequence::of(method, change).in_regime(Regime::S2);
                for bbm in BbmLevel::ALL {
                    let given = sufficient_by(method, Regime::S2, &steps, change, Granule::K4, bbm);
                    assert_eq!(given, guarantee(method, change, Granule::K4, bbm), "{method} of {change}: {steps}");
                }
            }
        }
    }

    #[test]
    fn el2_has_tlbis_of_its_own() {
        let remap = Change::new(What::RemapRw, Level::L3);
        let split = Change::new(What::Split, Level::L2);
        let merge = Change::new(What::Merge, Level::L2);
        let fold = Change::new(What::Fold, Level::L3);
        let ok = |change, steps: &str| {
            let sequence = Sequence::parse(steps).expect("letters");
            assert!(sequence.is_for(Regime::El2), "{steps}");
            sufficient_in(Regime::El2, &sequence, change, Granule::K4, BbmLevel::L2).is_ok()
        };
        assert!(ok(remap, "0sFd1di") && ok(remap, "0sRd1di") && ok(remap, "0sHd1d"));
        assert!(ok(split, "1sRdi") && ok(merge, "1sHdi") && ok(fold, "1sWdi"));
        for (change, steps, why) in [
            (remap, "0sAd1di", "another regime"),
            (remap, "0sMd1di", "another regime"),
            (remap, "0sed1di", "the others keep theirs"),
            (remap, "0shd1di", "likewise"),
            (remap, "0sJd1di", "another address"),
            (remap, "0sF1di", "not complete"),
            (remap, "0Fd1di", "the store may come behind it"),
            (merge, "1sRdi", "one address of many"),
            (fold, "1sFdi", "one member of many"),
        ] {
            assert!(!ok(change, steps), "{steps}: {why}");
        }
        for change in testing::changes(Granule::K4) {
            for &method in Method::ALL.iter().filter(|method| method.fits(change)) {
                if !Regime::El2.has(change, Access::Load)
                    || matches!(method, Method::BbmCas | Method::NtCas | Method::DirectCas)
                {
                    continue;
                }
                let steps = Sequence::of(method, change).in_regime(Regime::El2);
                assert!(steps.is_for(Regime::El2), "{steps}");
                for bbm in BbmLevel::ALL {
                    let given = sufficient_by(method, Regime::El2, &steps, change, Granule::K4, bbm);
                    assert_eq!(given, guarantee(method, change, Granule::K4, bbm), "{method} of {change}: {steps}");
                }
            }
        }
    }

    /// Nobody may walk by a table before it is filled, at whatever level; one TLBI does for all.
    #[test]
    fn tables_are_filled_before_they_are_in_place() {
        let one = Change::new(What::Split, Level::L2);
        let two = Change::new(What::Split, Level::L1).down_to(Level::L3);
        let given = |regime, change, steps: &str, bbm| {
            let sequence = Sequence::parse(steps).expect("letters");
            sufficient_by(Method::Overwrite, regime, &sequence, change, Granule::K4, bbm)
        };
        for (regime, tlbi) in [(Regime::El1, "A"), (Regime::S2, "PdM"), (Regime::El2, "R")] {
            for bbm in BbmLevel::ALL {
                for (change, steps) in [(one, "ls1s"), (two, "ls1ls1s"), (two, "ls1sls1s")] {
                    let given = given(regime, change, &std::format!("{steps}{tlbi}di"), bbm);
                    let need = change.needs(Granule::K4, bbm);
                    assert_eq!(given, if need.need.is_bbm() { Err(need) } else { Ok(need) }, "{steps} at level {bbm}");
                }
            }
        }
        for (change, steps) in [
            (one, "l1sAdi"),
            (one, "1sAdi"),
            (one, "1lsAdi"),
            (one, "sl1sAdi"),
            (one, "lu1sAdi"),
            (two, "ls1sAdi"),
            (two, "ls1l1sAdi"),
            (two, "l1ls1sAdi"),
            (two, "ls1s1sAdi"),
            (two, "l1sls1sAdi"),
            (two, "ls1sAls1di"),
        ] {
            assert!(given(Regime::El1, change, steps, BbmLevel::L3).is_err(), "{steps}");
        }
        assert_eq!(given(Regime::El1, two, "l1ls1sAdi", BbmLevel::L3), Err(EMPTY_TABLE));
        assert!(given(Regime::El1, one, "ls1sA", BbmLevel::L3).is_err());
    }

    #[test]
    fn weak_maintenance_is_not_enough() {
        let split = Change::new(What::Split, Level::L2);
        let merge = Change::new(What::Merge, Level::L2);
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
