//! Whether a run could see: the controls that it is given, and what they say of it.
//!
//! There are three kinds: nothing changes, and nothing may be seen; a TLBI is left out; and a form of TLBI under test
//! misses, by its operand or by its scope.
//!
//! A run of a few instances may have no controls among them; then [`missing`] adds some. [`worthless`] says afterwards
//! whether the results count. No architecture makes a TLB keep anything, so one control that shows nothing proves
//! nothing; a run in which none of them showed anything cannot have seen a missing TLBI either.

use std::cmp::Reverse;

use vmsa::{
    Granule, Instance,
    instance::{Access, Case, Family, Method, Place, Selftest, Stage2},
    outcome::End,
    verdict::{self, Control},
};

use crate::{
    known,
    results::{CaseResult, ResultFile},
    stats,
};

/// Controls that leave out a TLBI, or have one that misses, and are added to a run, at most.
const MOST: usize = 6;

/// A control that shows in fewer rounds than this share is none. So at 95 % none of them could have shown if it was not
/// seen in `3 / SHOWN` rounds ([`stats::never`]), and in fewer rounds it may only have been bad luck.
const SHOWN: f64 = 0.05;

/// What an added control should have in common with the instances it controls.
type Sort = (Granule, Family, Access);

fn must_show(instance: &Instance) -> Option<&Case> {
    match instance {
        Instance::Case(case) if matches!(verdict::control(instance), Some(Control::MustShow(..))) => Some(case),
        _ => None,
    }
}

/// The controls that `selected` lacks on the platform `kind`: the selftests in which nothing may be seen, and for each
/// granule and family, as far as `MOST` goes, the nearest instance of the catalogue that must show a missing TLBI and
/// can do so there; and for each granule in which forms of TLBI are tested one that misses. None, if there is nothing but selftests.
#[must_use]
pub fn missing(kind: &str, selected: &[Instance]) -> Vec<Instance> {
    let mut sorts: Vec<Sort> = vec![];
    for instance in selected {
        let Instance::Case(case) = instance else { continue };
        let same = |(granule, family, _): &Sort| (*granule, *family) == (case.granule, case.change.family());
        if !sorts.iter().any(same) {
            sorts.push((case.granule, case.change.family(), case.observer.access));
        }
    }
    if sorts.is_empty() {
        return vec![];
    }
    // One of each granule comes before a second one of any.
    let again: Vec<bool> = (0..sorts.len()).map(|i| sorts[..i].iter().any(|sort| sort.0 == sorts[i].0)).collect();
    let mut order: Vec<usize> = (0..sorts.len()).collect();
    order.sort_by_key(|&i| again[i]);

    let quiet = [Selftest::Quiet, Selftest::Clean].map(Instance::Selftest);
    let mut added: Vec<Instance> = quiet.into_iter().filter(|test| !selected.contains(test)).collect();
    let most = added.len() + MOST;
    let shows = |instance: &Instance| {
        let plain = |case: &Case| case.method == Method::DirectNotlbi && case.change.form().is_none();
        must_show(instance).is_some_and(plain)
            && known::cannot_show(kind, instance).is_none()
            && known::defect(kind, instance).is_none()
    };
    let candidates: Vec<Instance> = cases::all().filter(shows).collect();
    for (granule, family, access) in order.into_iter().map(|i| sorts[i]) {
        let here = |instance: &&Instance| {
            must_show(instance).is_some_and(|case| (case.granule, case.change.family()) == (granule, family))
        };
        if added.len() == most || selected.iter().any(|instance| here(&instance) && shows(instance)) {
            continue;
        }
        let distance = |instance: &&Instance| {
            must_show(instance).map(|case| {
                let change = case.change;
                let plain = case.stage2 == Stage2::Blocks && case.cap.is_none();
                (
                    (change.family() != family, change.family() != Family::Remap),
                    (case.observer.access != access, case.observer.access != Access::Load),
                    (case.observer.place != Place::Local, !plain, Reverse(change.level())),
                )
            })
        };
        let of_granule = |instance: &&Instance| must_show(instance).is_some_and(|case| case.granule == granule);
        let nearest = candidates.iter().filter(of_granule).min_by_key(distance);
        added.extend(nearest.filter(|nearest| !selected.contains(nearest) && !added.contains(nearest)).copied());
    }
    for granule in Granule::ALL.into_iter().take(most - added.len()) {
        let case = |instance: &Instance| match instance {
            Instance::Case(case) if case.granule == granule && case.change.form().is_some() => Some(*case),
            _ => None,
        };
        let misses = |instance: &Instance| {
            case(instance).filter(|case| verdict::misses(case) && known::cannot_show(kind, instance).is_none())
        };
        let tested: Vec<Case> = selected.iter().filter_map(case).collect();
        if tested.is_empty() || selected.iter().any(|instance| misses(instance).is_some()) {
            continue;
        }
        // The operand is what can be wrong most easily; of those the same kind of form, else any.
        let distance = |control: &Case| {
            let aim = |case: &Case| case.change.form().map(|form| form.aim.hits());
            let same = tested.iter().any(|case| case.change.family() == control.change.family());
            (!same, aim(control))
        };
        let all = cases::all().filter(|instance| known::defect(kind, instance).is_none());
        let nearest = all.filter_map(|instance| misses(&instance)).min_by_key(distance);
        added.extend(nearest.map(Instance::Case));
    }
    added
}

/// What the controls of `file` that were carried through came to.
#[derive(Default)]
struct Tally {
    /// Those that saw what is not there.
    lies: Vec<String>,
    /// Those that must show a missing TLBI, and can here.
    tried: u64,
    /// Their rounds.
    rounds: u64,
    /// Those that did.
    shown: u64,
    /// Those whose TLBI misses: how many there are, their rounds, and how many showed it. One that removes more than it
    /// names shows nothing, so that these say something of the forms of TLBI alone.
    misses: [u64; 3],
}

impl Tally {
    fn of(file: &ResultFile) -> Self {
        let mut tally = Self::default();
        let done = |case: &&CaseResult| case.end == End::Done && case.rounds > 0;
        for control in &file.controls {
            let Some(case) = file.cases.iter().filter(done).find(|case| case.id == control.id) else { continue };
            let Ok(instance) = case.id.parse::<Instance>() else { continue };
            let can = known::cannot_show(&file.platform.kind, &instance).is_none();
            match verdict::control(&instance) {
                Some(Control::MustNotShow) if !control.held => tally.lies.push(case.id.clone()),
                Some(Control::MustShow(..)) if can && is_miss(&instance) => {
                    let [tried, rounds, shown] = &mut tally.misses;
                    (*tried, *rounds, *shown) = (*tried + 1, *rounds + case.rounds, *shown + u64::from(control.held));
                }
                Some(Control::MustShow(..)) if can => {
                    tally.tried += 1;
                    tally.rounds += case.rounds;
                    tally.shown += u64::from(control.held);
                }
                _ => {}
            }
        }
        tally
    }

    /// Whether the controls showed nothing in so many rounds that this was no bad luck.
    fn is_blind(&self) -> bool {
        self.tried > 0 && self.shown == 0 && stats::never(self.rounds) <= SHOWN
    }
}

/// Why the results in `file` are worth nothing, if its controls say so.
#[must_use]
pub fn worthless(file: &ResultFile) -> Option<String> {
    let tally = Tally::of(file);
    if let Some(first) = tally.lies.first() {
        let count = tally.lies.len();
        Some(format!("{count} controls saw something although nobody changed anything; the first: {first}"))
    } else if tally.is_blind() {
        Some(format!(
            "none of the {} controls that leave out a TLBI showed it, in {} rounds: this run could not have seen one \
             that was missing",
            tally.tried, tally.rounds
        ))
    } else {
        None
    }
}

/// The words with which every report says that a run is worth nothing, with the reason.
#[must_use]
pub fn statement(file: &ResultFile) -> Option<String> {
    file.worthless.as_ref().map(|why| format!("THE RESULTS OF THIS RUN ARE WORTHLESS: {why}"))
}

fn is_miss(instance: &Instance) -> bool {
    matches!(instance, Instance::Case(case) if verdict::misses(case))
}

/// What there is to say of the forms of TLBI, if none that misses showed it in rounds enough.
#[must_use]
pub fn imprecise(file: &ResultFile) -> Option<String> {
    let [tried, rounds, shown] = Tally::of(file).misses;
    (tried > 0 && shown == 0 && stats::never(rounds) <= SHOWN).then(|| {
        format!(
            "none of the {tried} controls whose TLBI misses showed it, in {rounds} rounds: TLBIs remove more than they name \
             here, and a form that misses would not be seen"
        )
    })
}

/// What there is to say of controls that showed nothing in so few rounds that it may have been bad luck.
#[must_use]
pub fn unproven(file: &ResultFile) -> Option<String> {
    let tally = Tally::of(file);
    (tally.tried > 0 && tally.shown == 0 && !tally.is_blind()).then(|| {
        format!(
            "no control showed a missing TLBI, in {} rounds; with {:.0} or more this would make the results worthless",
            tally.rounds,
            3.0 / SHOWN
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{ControlResult, tests::fixture};

    fn added(kind: &str, selected: &[&str]) -> Vec<String> {
        let selected: Vec<Instance> = selected.iter().map(|id| id.parse().expect("an id")).collect();
        missing(kind, &selected).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn controls_fit_what_is_selected() {
        let page = "el1.remap.4k-l3-rw.bbm.load-local";
        let control = "el1.remap.4k-l3-rw.direct-notlbi.load-local";
        assert_eq!(added("model", &[page]), ["selftest.quiet", "selftest.clean", control]);
        assert_eq!(added("model", &[page, "selftest.clean", control]), ["selftest.quiet"]);
        assert!(added("model", &["selftest.storm"]).is_empty());
        // Its family has none: the nearest of the granule.
        let form = added("model", &["el1.tlbi-range.4k-l3-rvaae1is.bbm.load-remote"]);
        let miss = "el1.tlbi-range.4k-l3-rvae1is-page.bbm.load-remote";
        assert_eq!(form[2..], [control, miss]);
        // On QEMU a form by page, ASID or level misses nothing, but a local one does.
        let form = "el1.tlbi.4k-l3-vae1is.bbm.load-remote";
        assert_eq!(added("qemu", &[form])[2..], [control, "el1.tlbi.4k-l3-vmalle1.bbm.load-remote"]);
        assert_eq!(added("model", &[form])[2..], [control, "el1.tlbi.4k-l3-vae1is-page.bbm.load-remote"]);
        assert_eq!(added("model", &[form, miss])[2..], [control]);
        // On QEMU one that shows there.
        let denied = "el1.protect.4k-l3-ro-rw.bbm.store-local";
        for kind in ["qemu", "model"] {
            let added = added(kind, &[denied]);
            assert_eq!(added.len(), 3);
            assert!(added[2].starts_with("el1.protect.4k-") && added[2].contains("store-local"), "{added:?}");
            assert!(kind == "model" || known::cannot_show(kind, &added[2].parse().expect("an id")).is_none());
        }
    }

    #[test]
    fn controls_are_few_and_of_every_granule_and_the_catalogue_has_its_own() {
        let all: Vec<Instance> = cases::all().collect();
        assert!(missing("model", &all).is_empty());
        let without: Vec<Instance> = all.into_iter().filter(|instance| verdict::control(instance).is_none()).collect();
        let added = missing("qemu", &without);
        assert_eq!(added.len(), 2 + MOST);
        for granule in [Granule::K4, Granule::K16, Granule::K64] {
            assert!(added.iter().filter_map(must_show).any(|case| case.granule == granule), "{granule}");
        }
    }

    /// A run on `platform` of these controls, with so many rounds each.
    fn run(platform: &str, rounds: u64, controls: &[(&str, bool)]) -> ResultFile {
        let mut file = fixture("base/board/altra.json");
        file.platform.kind = platform.to_owned();
        let case = file.cases[0].clone();
        (file.cases, file.controls) = controls
            .iter()
            .map(|&(id, held)| {
                let case = CaseResult { id: id.to_owned(), end: End::Done, rounds, ..case.clone() };
                (case, ControlResult { id: id.to_owned(), expected: "something".to_owned(), held })
            })
            .unzip();
        file
    }

    #[test]
    fn a_run_whose_controls_fail_is_worthless() {
        let [local, remote] = ["local", "remote"].map(|place| format!("el1.remap.4k-l3-rw.direct-notlbi.load-{place}"));
        let (local, remote) = (local.as_str(), remote.as_str());
        let quiet = "selftest.quiet";
        assert_eq!(worthless(&run("board", 64, &[(quiet, true), (local, true)])), None);
        let lies = worthless(&run("board", 1, &[(quiet, false), (local, true)])).expect("it saw what is not there");
        assert!(lies.contains(quiet), "{lies}");
        // A TLB need not keep all; but one that keeps nothing shows nothing.
        assert_eq!(worthless(&run("board", 64, &[(local, true), (remote, false)])), None);
        let blind = run("board", 32, &[(quiet, true), (local, false), (remote, false)]);
        assert!(worthless(&blind).is_some_and(|why| why.contains("in 64 rounds")));
        assert_eq!(unproven(&blind), None);
        // In a few rounds it may be bad luck, and so it is said.
        let few = run("board", 29, &[(local, false), (remote, false)]);
        assert_eq!(worthless(&few), None);
        assert!(unproven(&few).is_some_and(|text| text.contains("in 58 rounds; with 60 or more")));
        // What QEMU cannot show it need not, and what was not carried through says nothing.
        let denied = "el1.protect.4k-l3-ro-rw.direct-notlbi.store-local";
        assert_eq!(worthless(&run("qemu", 64, &[(denied, false)])), None);
        assert!(worthless(&run("board", 64, &[(denied, false)])).is_some());
        // One that misses says something of the forms alone.
        let miss = "el1.tlbi.4k-l3-vae1is-page.bbm.load-remote";
        let run_of = |held| run("board", 64, &[(local, true), (miss, held)]);
        assert_eq!((imprecise(&run_of(true)), worthless(&run_of(true))), (None, None));
        assert!(
            imprecise(&run_of(false)).is_some_and(|text| text.contains("none of the 1 controls whose TLBI misses"))
        );
        assert_eq!(worthless(&run_of(false)), None);
        assert_eq!(worthless(&run("board", 64, &[(miss, false)])), None);
        assert_eq!(imprecise(&run("board", 16, &[(miss, false)])), None, "it may be bad luck");
        let mut skipped = run("board", 64, &[(local, false)]);
        skipped.cases[0].end = End::Skipped;
        assert_eq!(worthless(&skipped), None);
    }
}
