//! Rows of `sequences`: two PEs, a break-before-make or what is left of it, and two loads.
//!
//! A row changes a page's output address by a break (or none), a DSB, a TLBI and another DSB, any of which may be
//! missing or too weak, and tells what another model says of it. Here the same steps run as a script of the cases
//! `el1.remap.4k-l3-rw` and `-ro-diff`, by the payload and on the model's profiles. Behind the last write come ISBs, which
//! complete nothing, so that observers have time to look.
//!
//! * `bbm_expected`: whether old and new descriptor may meet in a TLB of the PE that makes the change. The local
//!   observer must see a conflict abort or an amalgamation, or else must never.
//! * `new_then_old`: whether another PE may see the old page after the new one. A remote observer must see it, or
//!   else must never.

use std::{collections::BTreeMap, io, num::NonZeroU64};

use model::mmu::Profile;
use vmsa::{
    change::{Change, What},
    geometry::{Granule, Level},
    instance::{Access, Case, Instance, Method, Observer, Place, Regime, Stage1, Stage2},
    outcome::{Kind, Phase},
    sequence::{Dsb, Sequence, Step, Tlbi, Write},
    verdict::Class,
};
use wire::record::Finished;

use crate::{
    cli::Exit,
    judge::judge,
    results::CaseResult,
    trial::{Trial, try_all},
};

/// The columns.
pub(super) const COLUMNS: [&str; 7] =
    ["change", "break", "dsb_after_break", "tlbi", "dsb_after_tlbi", "bbm_expected", "new_then_old"];

/// A question that a row answers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Question {
    /// Whether the other model says that it may be seen.
    expected: bool,
    /// The instance that looks.
    instance: Instance,
}

/// A row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps {
    sequence: Sequence,
    /// Whether old and new may meet, and whether the old page may come after the new.
    questions: [Question; 2],
}

/// The value of `text` in a list of names.
fn named<T: Copy>(column: &str, text: &str, names: &[(&str, T)]) -> Result<T, String> {
    names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        format!("{column} is `{text}`, which is none of {}", names.join(", "))
    })
}

impl Steps {
    /// Reads a row's values.
    pub(super) fn parse(values: &[&str]) -> Result<Self, String> {
        /// Steps of each: ISBs stand behind those of the row.
        const LENGTH: usize = 10;
        let [change, broken, shown, tlbi, completed, bbm_expected, new_then_old] = values else {
            return Err(format!("it has {} values instead of {}", values.len(), COLUMNS.len()));
        };
        let what = named("change", change, &[("oa-rw", What::RemapRw), ("oa-ro-diff", What::RemapRoDiff)])?;
        let (method, broken) = named(
            "break",
            broken,
            &[
                ("v0", (Method::Bbm, Some(Write::Invalid))),
                ("af0", (Method::BbmAf, Some(Write::OldNoAf))),
                ("none", (Method::Direct, None)),
            ],
        )?;
        let dsbs = [("none", None), ("ish", Some(Dsb::Ish)), ("ishst", Some(Dsb::Ishst)), ("ishld", Some(Dsb::Ishld))];
        let tlbis = [
            ("none", None),
            ("vaae1", Some(Tlbi::Vaae1)),
            ("vaae1is", Some(Tlbi::Vaae1is)),
            ("vaae1is-other", Some(Tlbi::Vaae1isOther)),
            ("vae1is", Some(Tlbi::Vae1is)),
            ("vale1is", Some(Tlbi::Vale1is)),
            ("vmalle1", Some(Tlbi::Vmalle1)),
            ("vmalle1is", Some(Tlbi::Vmalle1is)),
        ];
        let steps = [
            broken.map(Step::Write),
            named("dsb_after_break", shown, &dsbs)?.map(Step::Dsb),
            named("tlbi", tlbi, &tlbis)?.map(Step::Tlbi),
            named("dsb_after_tlbi", completed, &dsbs)?.map(Step::Dsb),
            Some(Step::Write(Write::New)),
        ];
        let sequence: Sequence = steps.into_iter().flatten().chain([Step::Isb; LENGTH]).take(LENGTH).collect();
        let question = |expected, place| {
            let case = Case {
                regime: Regime::El1,
                granule: Granule::K4,
                change: Change::new(what, Level::L3),
                method,
                script: Some(sequence),
                observer: Observer { access: Access::Load, place },
                stage2: Stage2::Blocks,
                stage1: Stage1::Blocks,
                cap: None,
                remedy: None,
            };
            Question { expected, instance: Instance::Case(case) }
        };
        let meet = named("bbm_expected", bbm_expected, &[("1", true), ("0", false)])?;
        let back = named("new_then_old", new_then_old, &[("allowed", true), ("forbidden", false)])?;
        Ok(Self { sequence, questions: [question(meet, Place::Local), question(back, Place::Remote)] })
    }
}

/// Whether the run showed what its question is about.
fn shows(case: &CaseResult, place: Place) -> bool {
    let mixed = |kind| matches!(kind, Kind::Conflict | Kind::Neither | Kind::Torn | Kind::External | Kind::Exception);
    match place {
        Place::Local => {
            case.conflicts.el1 + case.conflicts.el2_for_el1 > 0 || case.outcomes.iter().any(|o| mixed(o.kind))
        }
        Place::Remote | Place::All => {
            case.outcomes.iter().any(|o| (o.phase, o.kind) == (Phase::During, Kind::Reordered))
        }
    }
}

/// Runs `rows`, each with its line and text, on the model's profiles and reports where it disagrees.
pub(super) fn check(
    rows: &[(usize, String, Steps)],
    seeds: NonZeroU64,
    rounds: NonZeroU64,
    out: &mut dyn io::Write,
) -> io::Result<Exit> {
    // What was seen first of each question: seed and profile.
    let mut seen: BTreeMap<Instance, (u64, &str)> = BTreeMap::new();
    let questions: Vec<Question> = rows.iter().flat_map(|(.., row)| row.questions).collect();
    let mut failures = vec![];
    for seed in 1..=seeds.get() {
        // What may be seen needs to be once; what may not be, never.
        let left: Vec<Instance> = questions
            .iter()
            .map(|question| question.instance)
            .filter(|instance| !seen.contains_key(instance))
            .collect();
        let waiting = questions.iter().filter(|q| q.expected && !seen.contains_key(&q.instance)).count();
        let trials = Profile::ALL.into_iter().filter(|profile| profile.name != "benign");
        let trials = trials.map(|profile| Trial { profile, seed, instances: left.clone() }).collect();
        let see = |trial: &Trial, finished: &Finished, (shown, unjudged): &mut (Vec<Instance>, Vec<String>)| {
            let result = judge(finished).case;
            if matches!(result.verdict, Class::Error | Class::Skip) {
                unjudged.push(format!("{} on {}, seed {seed}: {}", result.id, trial.profile.name, result.reason));
            } else if let Ok(Instance::Case(case)) = result.id.parse()
                && shows(&result, case.observer.place)
            {
                shown.push(Instance::Case(case));
            }
        };
        let what = format!("seed {seed} of {seeds}, {waiting} to be seen");
        for (trial, (shown, unjudged), failure) in try_all(&what, trials, rounds, 2, see) {
            for instance in shown {
                seen.entry(instance).or_insert((seed, trial.profile.name));
            }
            failures.extend(unjudged);
            failures.extend(failure.map(|failure| format!("{}, seed {seed}: {failure}", trial.profile.name)));
        }
    }
    let mut differ = 0;
    for (line, text, row) in rows {
        let wrong: Vec<String> = std::iter::zip(row.questions, ["bbm_expected", "new_then_old"])
            .filter_map(|(Question { expected, instance }, column)| match (expected, seen.get(&instance)) {
                (false, Some((seed, profile))) => {
                    Some(format!("{column}: {instance} shows it on {profile}, seed {seed}"))
                }
                (true, None) => Some(format!("{column}: {instance} never showed it")),
                _ => None,
            })
            .collect();
        if !wrong.is_empty() {
            differ += 1;
            writeln!(out, "line {line}: {text} ({}): {}", row.sequence, wrong.join("; "))?;
        }
    }
    for failure in &failures {
        writeln!(out, "error: {failure}")?;
    }
    let agree = rows.len() - differ;
    write!(out, "{agree} of {} sequences agree with the model in {seeds} seeds of {rounds} rounds", rows.len())?;
    match seen.values().map(|(seed, _)| *seed).max() {
        Some(seed) => writeln!(out, "; all that was seen was by seed {seed}")?,
        None => writeln!(out)?,
    }
    Ok(if differ > 0 {
        Exit::Forbidden
    } else if failures.is_empty() {
        Exit::Clean
    } else {
        Exit::Platform
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_which_steps_run() {
        let row = Steps::parse(&["oa-rw", "v0", "ishst", "vaae1is-other", "none", "1", "allowed"]).expect("a row");
        let ids = row.questions.map(|question| question.instance.to_string());
        assert_eq!(
            ids,
            ["el1.remap.4k-l3-rw.bbm~0sO1iiiiii.load-local", "el1.remap.4k-l3-rw.bbm~0sO1iiiiii.load-remote"]
        );
        let row = Steps::parse(&["oa-ro-diff", "none", "none", "none", "ish", "0", "forbidden"]).expect("a row");
        let ids = row.questions.map(|question| (question.expected, question.instance.to_string()));
        assert_eq!(ids[1], (false, "el1.remap.4k-l3-ro-diff.direct~d1iiiiiiii.load-remote".to_owned()));
    }

    #[test]
    fn a_damaged_row_says_what_is_wrong() {
        let parse = |text: &str| Steps::parse(&text.split(',').collect::<Vec<_>>()).expect_err("damaged");
        assert!(parse("oa-rw,v0,ish,vaae1is,ish,0").contains("6 values instead of 7"));
        assert!(parse("oa-rw,v0,ish,vaae1si,ish,0,forbidden").contains("tlbi is `vaae1si`"));
        assert!(parse("oa-rw,v0,ish,vaae1is,ish,2,forbidden").contains("bbm_expected is `2`"));
    }
}
