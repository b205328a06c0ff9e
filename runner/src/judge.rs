//! From what was seen to what it comes to.
//!
//! The rules are [`vmsa::verdict`]'s and stand nowhere else; hypervisor and runner ask the same code. This module
//! carries records to it and its answers to the result file, for a record that has just come in ([`judge`]) and for
//! outcomes that were stored when the rules were older ([`rejudge`]).

use std::{collections::BTreeMap, path::Path};

use vmsa::{
    geometry::BbmLevel,
    instance::{Family, IdError, Instance},
    outcome::{Count, End, Kind, Phase},
    verdict::{self, Class, Control, Seen},
};
use wire::record::{self, Finished, Place, Recovery, Trouble};

use crate::{
    controls,
    results::{
        self, Bound, Breaks, CaseResult, Conflict, ConflictCounts, ControlResult, Entry, Evidence, First, Hex, Loaded,
        Outcome, ResultFile,
    },
    stats,
};

/// Judges one finished instance.
#[must_use]
pub fn judge(finished: &Finished) -> Entry {
    let report = &finished.report;
    let conflicts: Vec<&record::Conflict> = report.conflicts.iter().chain(&finished.el2_conflicts).collect();
    let at_el2 = |place| finished.el2_conflicts.iter().filter(|conflict| conflict.place == place).count() as u64;
    let mut case = CaseResult {
        id: finished.id.to_string(),
        verdict: Class::Error,
        reason: String::new(),
        end: finished.end,
        cpu: finished.cpu,
        bbm: BbmLevel::from_number(finished.bbm).unwrap_or(BbmLevel::L0),
        rounds: report.rounds,
        passes: 1,
        overlap: report.overlap,
        accesses: report.accesses,
        trouble: report.trouble.map(|trouble| trouble_name(trouble).to_owned()),
        note: finished.reason.map(|reason| reason.to_string()),
        outcomes: report.outcomes.iter().map(outcome).collect(),
        conflicts: ConflictCounts {
            el1: report.conflicts_total,
            el2_for_el1: at_el2(Place::El2ForEl1),
            el2: at_el2(Place::El2),
            uncleared: conflicts.iter().filter(|conflict| conflict.cleared_by == Recovery::None).count() as u64,
        },
        contained: finished.contained,
        breaks: finished.retried.map(|seen| Breaks {
            count: seen.breaks,
            total_ns: seen.total_ns,
            longest_ns: seen.longest_ns,
            shortest_ns: seen.shortest_ns,
            cycles: seen.cycles,
            retried: seen.faults,
        }),
        bound: None,
        registers: finished.registers.as_ref().map(registers),
        setup_ns: finished.setup_ns,
        duration_ns: finished.run_ns,
    };
    let control = apply_rules(&mut case);
    let conflicts = conflicts.into_iter().map(|seen| conflict(&case.id, seen)).collect();
    Entry { case, conflicts, control }
}

/// Conflict aborts of an instance that are kept one by one, of all passes.
const KEPT_CONFLICTS: usize = 64;

/// Adds what a later pass, with `seed`, saw of an instance to what the passes before it saw, and judges the sum.
///
/// On a machine with several types of CPU another pass may have had other CPUs, and so another BBM level. What the lower
/// level allows, the higher may not: if either fails by its own level, that stands alone, and otherwise the sum counts
/// by the lower.
#[must_use]
pub fn add(earlier: Entry, later: Entry, seed: Hex) -> Entry {
    let passes = earlier.case.passes + later.case.passes;
    if earlier.case.bbm != later.case.bbm {
        let alone = |entry: Entry| Entry { case: CaseResult { passes, ..entry.case }, ..entry };
        match (earlier.case.verdict, later.case.verdict) {
            (Class::Fail, _) => return alone(earlier),
            (_, Class::Fail) => {
                let mut later = alone(later);
                later.case.outcomes.iter_mut().for_each(|outcome| outcome.first.seed = Some(seed));
                return later;
            }
            _ => {}
        }
    }
    let Entry { mut case, mut conflicts, .. } = earlier;
    let new = later.case;
    case.passes = passes;
    case.bbm = case.bbm.min(new.bbm);
    for (sum, more) in [
        (&mut case.rounds, new.rounds),
        (&mut case.overlap, new.overlap),
        (&mut case.accesses, new.accesses),
        (&mut case.contained, new.contained),
        (&mut case.setup_ns, new.setup_ns),
        (&mut case.duration_ns, new.duration_ns),
        (&mut case.conflicts.el1, new.conflicts.el1),
        (&mut case.conflicts.el2_for_el1, new.conflicts.el2_for_el1),
        (&mut case.conflicts.el2, new.conflicts.el2),
        (&mut case.conflicts.uncleared, new.conflicts.uncleared),
    ] {
        *sum = sum.saturating_add(more);
    }
    if let Some(more) = new.breaks {
        case.breaks.get_or_insert_default().add(&more);
    }
    for outcome in new.outcomes {
        match case.outcomes.iter_mut().find(|known| (known.phase, known.kind) == (outcome.phase, outcome.kind)) {
            Some(known) => known.count = known.count.saturating_add(outcome.count),
            None => case.outcomes.push(Outcome { first: First { seed: Some(seed), ..outcome.first }, ..outcome }),
        }
    }
    case.outcomes.sort_by_key(|outcome| outcome.phase);
    // The first end by force stays, and so does the first trouble that counts.
    if case.end == End::Done && new.end != End::Done {
        (case.end, case.registers, case.note) = (new.end, new.registers, new.note);
    }
    if case.trouble.as_deref().is_none_or(|trouble| trouble == trouble_name(Trouble::OutOfTime)) {
        case.trouble = new.trouble.or(case.trouble);
    }
    conflicts.extend(later.conflicts);
    conflicts.truncate(KEPT_CONFLICTS);
    let control = apply_rules(&mut case);
    Entry { case, conflicts, control }
}

/// Says what it means that `case` met no conflict abort, where the platform raises them and the rules let it.
pub fn bound(case: &mut CaseResult, evidence: Evidence) {
    let possible = evidence != Evidence::Emulator && conflict_possible(case);
    case.bound = (possible && case.conflicts.total() == 0 && case.overlap > 0)
        .then(|| Bound { rounds: case.overlap, at_most: format!("{:.1e}", stats::never(case.overlap)) });
}

/// Whether the rules let `case` meet conflict aborts that were not injected.
#[must_use]
pub fn conflict_possible(case: &CaseResult) -> bool {
    let instance = case.id.parse::<Instance>().ok().filter(|i| i.family() != Family::Selftest);
    instance.is_some_and(|i| verdict::allowance(&i, case.bbm, Phase::During, Kind::Conflict).allowed)
}

/// [Loads](results::load_all) the results at `path`, and judges them again if `again`.
///
/// # Errors
/// Those of loading.
pub fn load_all(path: &Path, again: bool) -> Result<Vec<Loaded>, results::Error> {
    let mut loaded = results::load_all(path)?;
    if again {
        loaded.iter_mut().for_each(|loaded| rejudge(&mut loaded.file));
    }
    Ok(loaded)
}

/// [Loads](ResultFile::load) a result file, and judges it again if `again`.
///
/// # Errors
/// Those of loading.
pub fn load(path: &Path, again: bool) -> Result<ResultFile, results::Error> {
    let mut file = ResultFile::load(path)?;
    if again {
        rejudge(&mut file);
    }
    Ok(file)
}

/// Judges all stored outcomes of `file` again by the rules of this version.
pub fn rejudge(file: &mut ResultFile) {
    file.controls.clear();
    for case in &mut file.cases {
        file.controls.extend(apply_rules(case));
    }
    file.worthless = controls::worthless(file);
}

/// Sets verdict, reason and the outcomes' allowances of `case` from what else it holds, and tells what it says as a
/// control.
fn apply_rules(case: &mut CaseResult) -> Option<ControlResult> {
    let instance: Instance = match case.id.parse() {
        Ok(instance) => instance,
        Err(error) => {
            // Of another version: kept and shown, but nobody here can say what it means.
            let error: IdError = error;
            (case.verdict, case.reason) = (Class::Error, error.to_string());
            return None;
        }
    };
    for outcome in &mut case.outcomes {
        let allowance = verdict::allowance(&instance, case.bbm, outcome.phase, outcome.kind);
        (outcome.allowed, outcome.rule) = (allowance.allowed, allowance.rule.to_owned());
    }
    let counts: Vec<Count> =
        case.outcomes.iter().map(|o| Count { phase: o.phase, kind: o.kind, count: o.count }).collect();
    let seen = Seen {
        end: case.end,
        rounds: case.rounds,
        overlap: case.overlap,
        // Fewer rounds than asked for are still rounds.
        trouble: case.trouble.as_deref().is_some_and(|trouble| trouble != trouble_name(Trouble::OutOfTime)),
        outcomes: &counts,
        contained: case.contained,
        el1_conflicts: case.conflicts.el1,
        el2_for_el1_conflicts: case.conflicts.el2_for_el1,
        el2_conflicts: case.conflicts.el2,
        uncleared: case.conflicts.uncleared,
        bbm_presented: case.bbm,
    };
    let verdict = verdict::judge(&instance, case.bbm, &seen);
    (case.verdict, case.reason) = (verdict.class, verdict.reason.to_string());
    // What the machine lacks, the hypervisor knows better than the rules.
    if let (Class::Skip, Some(note)) = (case.verdict, &case.note) {
        case.reason.clone_from(note);
    }

    // What the machine cannot run says nothing, neither that it holds nor that it does not.
    if case.end == End::Skipped {
        return None;
    }
    let expected = match verdict::control(&instance)? {
        Control::MustShow(phase, kind) => format!("must show {kind} {phase} the change"),
        Control::MustNotShow => "must show nothing".to_owned(),
    };
    let held = verdict::control_held(&instance, &seen)?;
    Some(ControlResult { id: case.id.clone(), expected, held })
}

fn outcome(seen: &record::Outcome) -> Outcome {
    let record::Outcome { count, first } = *seen;
    Outcome {
        phase: count.phase,
        kind: count.kind,
        count: count.count,
        allowed: false,
        rule: String::new(),
        first: First {
            esr: Hex(first.esr),
            far: Hex(first.far),
            pc: Hex(first.pc),
            cpu: first.cpu,
            round: first.round,
            value: Hex(first.value),
            seed: None,
        },
    }
}

fn conflict(id: &str, seen: &record::Conflict) -> Conflict {
    Conflict {
        id: id.to_owned(),
        place: seen.place.name().to_owned(),
        stage: seen.stage,
        esr: Hex(seen.esr),
        far: Hex(seen.far),
        hpfar: seen.hpfar.map(Hex),
        pc: Hex(seen.pc),
        cpu: seen.cpu,
        cleared_by: seen.cleared_by.name().to_owned(),
        retries: seen.retries,
        injected: seen.injected,
        phase: seen.phase.and_then(Phase::from_number).map(|phase| phase.to_string()),
    }
}

const fn trouble_name(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::NoSecondCpu => "no-second-cpu",
        Trouble::ObserverSilent => "observer-silent",
        Trouble::Unsupported => "unsupported",
        Trouble::OutOfTime => "out-of-time",
        Trouble::SelfCheck => "self-check",
    }
}

/// The registers by their names.
fn registers(seen: &record::Registers) -> BTreeMap<String, Hex> {
    let general = seen.x.iter().enumerate().map(|(i, value)| (format!("x{i}"), *value));
    let special = [
        ("PC", seen.pc),
        ("PSTATE", seen.pstate),
        ("ESR_EL2", seen.esr_el2),
        ("FAR_EL2", seen.far_el2),
        ("HPFAR_EL2", seen.hpfar_el2),
        ("ESR_EL1", seen.esr_el1),
        ("ELR_EL1", seen.elr_el1),
        ("FAR_EL1", seen.far_el1),
        ("SPSR_EL1", seen.spsr_el1),
        ("SP_EL1", seen.sp_el1),
        ("CPU", seen.cpu.into()),
    ];
    general.chain(special.map(|(name, value)| (name.to_owned(), value))).map(|(n, v)| (n, Hex(v))).collect()
}

#[cfg(test)]
mod tests {
    use wire::record::{Id, Report, Text};

    use super::*;
    use crate::results::tests::fixture;

    fn seen(phase: Phase, kind: Kind) -> record::Outcome {
        record::Outcome { count: Count { phase, kind, count: 100 }, first: record::First::default() }
    }

    /// A run of `id` in which every access saw what both mappings give.
    fn finished(id: &str) -> Finished {
        Finished {
            seq: 0,
            id: Id::from(id).expect("an id fits"),
            cpu: 0,
            end: End::Done,
            bbm: 2,
            report: Report {
                rounds: 100,
                accesses: 300,
                overlap: 100,
                outcomes: Phase::ALL.into_iter().map(|phase| seen(phase, Kind::Same)).collect(),
                ..Report::default()
            },
            el2_conflicts: Default::default(),
            registers: None,
            contained: 0,
            retried: None,
            setup_ns: 1,
            run_ns: 2,
            reason: None,
        }
    }

    fn conflict(place: Place, cleared_by: Recovery) -> record::Conflict {
        record::Conflict {
            place,
            stage: 1,
            esr: 0x9600_0030,
            far: 0x1000,
            hpfar: None,
            pc: 0x2000,
            cpu: 1,
            cleared_by,
            retries: 1,
            injected: false,
            phase: Some(1),
        }
    }

    const DIRECT: &str = "el1.split.4k-l2.direct.load-remote";

    #[test]
    fn each_outcome_gets_its_rule() {
        let entry = judge(&finished(DIRECT));
        assert_eq!(entry.case.verdict, Class::Pass, "{}", entry.case.reason);
        assert!(entry.case.outcomes.iter().all(|outcome| outcome.allowed && outcome.rule.contains('_')));

        let mut wrong = finished(DIRECT);
        wrong.report.outcomes.push(seen(Phase::After, Kind::Neither));
        let case = judge(&wrong).case;
        assert_eq!(case.verdict, Class::Fail);
        assert_eq!(case.outcomes.iter().filter(|outcome| !outcome.allowed).count(), 1);
    }

    #[test]
    fn conflicts_are_counted_by_place_and_kept_one_by_one() {
        let mut run = finished(DIRECT);
        run.report.conflicts.push(conflict(Place::El1, Recovery::Vmalle1));
        run.report.conflicts_total = 9;
        run.el2_conflicts.push(conflict(Place::El2ForEl1, Recovery::Vmalls12e1));
        let Entry { case, conflicts, .. } = judge(&run);
        assert_eq!(case.conflicts, ConflictCounts { el1: 9, el2_for_el1: 1, el2: 0, uncleared: 0 });
        assert_eq!(case.verdict, Class::Pass, "{}: level 2 allows them", case.reason);
        let places: Vec<_> = conflicts.iter().map(|c| (c.place.as_str(), c.cleared_by.as_str())).collect();
        assert_eq!(places, [("el1", "vmalle1"), ("el2-for-el1", "vmalls12e1")]);

        // The same at level 3, where there are none, and one that came back for ever.
        run.bbm = 3;
        assert_eq!(judge(&run).case.verdict, Class::Fail);
        run.bbm = 2;
        run.report.conflicts.push(conflict(Place::El1, Recovery::None));
        assert_eq!(judge(&run).case.verdict, Class::Fail);
    }

    #[test]
    fn a_skip_keeps_the_machines_reason() {
        let mut run = finished(DIRECT);
        (run.end, run.report) = (End::Skipped, Report::default());
        run.reason = Some(Text::from("one CPU only").expect("it fits"));
        let case = judge(&run).case;
        assert_eq!((case.verdict, case.reason.as_str()), (Class::Skip, "one CPU only"));
    }

    #[test]
    fn fewer_rounds_than_asked_for_are_no_trouble() {
        let mut run = finished(DIRECT);
        run.report.trouble = Some(Trouble::OutOfTime);
        assert_eq!(judge(&run).case.verdict, Class::Pass);
        run.report.trouble = Some(Trouble::ObserverSilent);
        assert_eq!(judge(&run).case.verdict, Class::Error);
    }

    #[test]
    fn passes_are_added_up_and_judged_as_one() {
        let mut wrong = finished(DIRECT);
        wrong.report.outcomes.push(seen(Phase::During, Kind::Torn));
        let sum = add(judge(&finished(DIRECT)), judge(&wrong), Hex(0x2b));
        let case = &sum.case;
        assert_eq!((case.passes, case.rounds, case.accesses), (2, 200, 600));
        let of = |kind| case.outcomes.iter().find(|o| (o.phase, o.kind) == (Phase::During, kind)).expect("seen");
        assert_eq!((of(Kind::Same).count, of(Kind::Same).first.seed), (200, None));
        // What only the second pass saw replays with its seed, and makes the whole fail.
        assert_eq!((of(Kind::Torn).count, of(Kind::Torn).first.seed), (100, Some(Hex(0x2b))));
        assert_eq!(case.verdict, Class::Fail, "{}", case.reason);

        // Other CPUs, other levels: the sum is the lower's, but for what fails by the higher.
        let level = |bbm, kind| {
            let mut run = Finished { bbm, ..finished(DIRECT) };
            run.report.outcomes.push(seen(Phase::During, kind));
            judge(&run)
        };
        let sum = add(level(2, Kind::Same), level(1, Kind::Neither), Hex(7)).case;
        assert_eq!((sum.bbm, sum.passes, sum.verdict == Class::Fail), (BbmLevel::L1, 2, false), "{}", sum.reason);
        for (first, second, seed) in [(2, 1, None), (1, 2, Some(Hex(7)))] {
            let sum = add(level(first, Kind::Neither), level(second, Kind::Neither), Hex(7)).case;
            assert_eq!((sum.bbm, sum.passes, sum.verdict), (BbmLevel::L2, 2, Class::Fail), "{}", sum.reason);
            assert!(sum.outcomes.iter().all(|outcome| outcome.first.seed == seed));
        }

        // A pass that hung is not made good by one that did not.
        let mut hung = finished(DIRECT);
        hung.end = End::Watchdog;
        for (first, second) in [(&hung, &finished(DIRECT)), (&finished(DIRECT), &hung)] {
            let sum = add(judge(first), judge(second), Hex(1)).case;
            assert_eq!((sum.end, sum.verdict), (End::Watchdog, judge(&hung).case.verdict));
        }
    }

    #[test]
    fn no_conflict_is_a_bound_where_there_could_be_one() {
        let mut case = judge(&finished(DIRECT)).case;
        bound(&mut case, Evidence::Silicon);
        assert_eq!(case.bound, Some(Bound { rounds: 100, at_most: "3.0e-2".to_owned() }));
        bound(&mut case, Evidence::Emulator);
        assert_eq!(case.bound, None);
        let mut safe = judge(&finished("el1.split.4k-l2.bbm.load-remote")).case;
        bound(&mut safe, Evidence::Silicon);
        assert_eq!(safe.bound, None, "break-before-make has no conflicts");
    }

    #[test]
    fn a_control_tells_whether_it_held() {
        let held = |run: &Finished| judge(run).control.map(|control| control.held);
        assert_eq!(held(&finished(DIRECT)), None);
        let mut quiet = finished("selftest.quiet");
        assert_eq!(held(&quiet), Some(true));
        quiet.report.outcomes.push(seen(Phase::After, Kind::Exception));
        assert_eq!(held(&quiet), Some(false));
        let ended = |end| held(&Finished { end, ..finished("el1.remap.4k-l3-rw.direct-notlbi.load-local") });
        assert_eq!((ended(End::Skipped), ended(End::Done)), (None, Some(false)));
    }

    #[test]
    fn an_instance_that_nobody_knows_is_kept_and_not_judged() {
        let case = judge(&finished("el9.split.4k-l2.direct.load-remote")).case;
        assert_eq!((case.verdict, case.reason.as_str()), (Class::Error, "the id's regime is not known"));
        assert_eq!(case.outcomes.len(), 3);
    }

    #[test]
    fn judging_again_by_the_same_rules_changes_nothing() {
        for name in ["base/board/altra.json", "new/board/altra.json", "new/qemu/neoverse-n2.json"] {
            let file = fixture(name);
            let mut again = file.clone();
            rejudge(&mut again);
            assert_eq!(again, file);
            // Whatever was wrongly written is put right.
            for case in &mut again.cases {
                case.verdict = Class::Pass;
                case.outcomes.iter_mut().for_each(|outcome| outcome.allowed = !outcome.allowed);
            }
            rejudge(&mut again);
            assert_eq!(again, file);
        }
    }
}
