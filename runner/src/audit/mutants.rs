//! `shatter audit mutants`: wrong software on sound CPUs is caught.
//!
//! Each update sequence gets one mistake at a time ([`vmsa::mutant`]). Where the rules say that what is left does not
//! give the change what it needs, some profile must show it: an instance of the catalogue, run with the mutant's
//! steps and judged as if they were the method's own, fails. Where they say that it still does, it must pass
//! everywhere, and the report says why the mistake is none.

use std::{
    collections::{BTreeMap, BTreeSet},
    io, iter,
    num::{NonZeroU64, NonZeroUsize},
    ops::Range,
};

use model::mmu::Profile;
use vmsa::{
    BbmLevel,
    change::Change,
    instance::{Case, Instance, Method, Regime, Stage2},
    mutant::{self, Mistake},
    rule::HardwareUpdates,
    sequence::{Dsb, Sequence, Step, Tlbi, Write},
    transition::{guarantee, sufficient_for},
    verdict::Class,
};
use wire::record::{Finished, Id};

use super::Error;
use crate::{
    cli::Exit,
    judge::judge,
    plan,
    trial::{Trial, died, try_all},
};

/// What to test.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Only mutants of instances whose id contains FILTER, or is FILTER; of all, if there is none
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// Seeds to try before a mutant counts as not caught; the Nth takes N times the rounds
    #[arg(long, value_name = "N", default_value = "4")]
    seeds: NonZeroU64,
    /// Seeds with which a mutant that is none must pass
    #[arg(long, value_name = "N", default_value = "1")]
    harmless_seeds: NonZeroU64,
    /// Cases of each such mutant, spread over all that it has
    #[arg(long, value_name = "N", default_value = "8")]
    harmless_cases: NonZeroUsize,
    /// Rounds of each instance
    #[arg(long, value_name = "N", default_value = "32")]
    rounds: NonZeroU64,
}

/// A sequence with a mistake.
struct Mutant {
    regime: Regime,
    method: Method,
    /// Of one of the changes that are made by it.
    change: Change,
    original: Sequence,
    mistake: Mistake,
    sequence: Sequence,
    /// Where it is wrong: cases with the mutant's steps and the profiles they are to be run on.
    wrong: Vec<(Case, Vec<Profile>)>,
    /// Where it is not.
    harmless: Vec<(Case, Vec<Profile>)>,
}

/// How a mutant was caught.
struct Catch {
    profile: &'static str,
    seed: u64,
    id: String,
    reason: String,
}

/// What one trial showed.
#[derive(Default)]
struct Seen {
    /// Fails, each with the mutant's number.
    catches: Vec<(usize, Catch)>,
    troubles: Vec<String>,
}

/// All mutants of the sequences by which `cases` are made. Sequences of the same steps by the same method are one.
fn mutants(cases: &[Case]) -> Vec<Mutant> {
    let mut groups: BTreeMap<(Regime, Method, Sequence, bool), Vec<Case>> = BTreeMap::new();
    // What may be wrong with a form of TLBI are cases of their own, which name a neighbour.
    // A case whose steps are mistaken already is a mutant itself.
    let sound = |case: &&Case| case.script.is_none() || sufficient_for(case, BbmLevel::L3).is_ok();
    for case in cases.iter().filter(|case| case.change.form().is_none()).filter(sound) {
        // Where tables are left behind the same steps may not be enough.
        let merges = case.change.frees_table();
        groups.entry((case.regime, case.method, case.sequence(), merges)).or_default().push(*case);
    }
    let levels = |case: &Case, wanted: &dyn Fn(&Profile) -> bool| -> Vec<Profile> {
        let defined = |p: &&Profile| guarantee(case.method, case.change, case.granule, p.bbm).is_ok();
        Profile::ALL.iter().filter(defined).filter(|profile| wanted(profile)).copied().collect()
    };
    let of = |((regime, method, original, _), cases): ((Regime, Method, Sequence, bool), Vec<Case>)| {
        let of_one = |(mistake, sequence): (Mistake, Sequence)| {
            let enough = |case: &Case, p: &Profile| {
                let given = |steps: &Sequence| sufficient_for(&Case { script: Some(*steps), ..*case }, p.bbm).is_ok();
                given(&sequence) || synchronisation_cannot_show(case, &sequence).is_some_and(|mended| given(&mended))
            };
            let on = |wanted: bool| {
                let cases = cases.iter().map(|case| {
                    let profiles = levels(case, &|profile| enough(case, profile) == wanted);
                    (Case { script: Some(sequence), ..*case }, profiles)
                });
                cases.filter(|(_, profiles)| !profiles.is_empty()).collect()
            };
            let change = cases[0].change;
            Mutant { regime, method, change, original, mistake, sequence, wrong: on(false), harmless: on(true) }
        };
        mutant::of(&original).filter(|(_, steps)| steps.is_for(regime)).map(of_one).collect::<Vec<_>>()
    };
    groups.into_iter().flat_map(of).filter(|mutant| !mutant.wrong.is_empty() || !mutant.harmless.is_empty()).collect()
}

/// `sequence` with an ISB behind it, if that could make no difference to anybody: old and new descriptor translate
/// alike, and the one that the last write replaces faults nowhere, or is synchronised with. Where hardware marks
/// descriptors, an entry made from the old one that is used too long leaves no mark in the new one, unless software takes the
/// old one's marks over; and then it does so by another store, behind which the model cannot show the fault of a break either.
fn synchronisation_cannot_show(case: &Case, sequence: &Sequence) -> Option<Sequence> {
    let change = case.change;
    let alike =
        !change.moves() && change.what().has_tables() && change.old_leaf().attributes == change.new_leaf().attributes;
    let steps = sequence.steps();
    let made = steps.iter().rposition(|step| matches!(step.write(), Some((Write::New, _))))?;
    let shown = steps[made..].iter().position(|step| matches!(step, Step::Dsb(dsb) if dsb.shows_stores()));
    let synchronised = shown.is_some_and(|shown| steps[made + shown..].contains(&Step::Isb));
    let marks = change.what().sides().hardware != HardwareUpdates::Off;
    let harmless = alike
        && match case.method {
            Method::Direct => !marks,
            // Behind the last table, where walks that began before it was filled have ended.
            Method::Nt | Method::Overwrite => synchronised,
            // Of a split there is no such store.
            Method::BbmCas => marks && change.frees_table(),
            Method::NtCas => marks && (change.frees_table() || synchronised),
            method => method.swaps() && marks,
        };
    harmless.then(|| Sequence::of_steps(steps.iter().copied().chain([Step::Isb])))?
}

/// The step of the nT way that writes the new descriptor, from 0.
const NT_MAKE: usize = 4;

/// Why a mistake in the sequence of `method` for `change` is none, where the rules say so.
const fn why_harmless(change: Change, method: Method, mistake: &Mistake) -> Option<&'static str> {
    match mistake {
        Mistake::Replaced { by: Step::Tlbi(Tlbi::Vae1isOtherAsid), .. } => {
            Some("the window's entries are global, and a TLBI by any ASID removes those")
        }
        Mistake::LeftOut { step: Step::Isb, .. } | Mistake::Swapped { second: Step::Isb, .. } if method.swaps() => {
            Some(
                "the old descriptor's marks are taken over, by a store that hides what a missing synchronisation shows",
            )
        }
        Mistake::LeftOut { step: Step::Isb, .. } | Mistake::Swapped { second: Step::Isb, .. } => {
            Some("old and new descriptor translate alike: what was translated before the change goes to the same place")
        }
        Mistake::Replaced { step: Step::Tlbi(Tlbi::Alle2is), by: Step::Tlbi(Tlbi::Vae2is), .. } => {
            Some("one leaf changes: what was made of it are entries of its addresses")
        }
        Mistake::Replaced { step: Step::Tlbi(tlbi), by: Step::Tlbi(Tlbi::Vae2is), .. } if !tlbi.is_el2() => {
            Some("with HCR_EL2.E2H set EL2's own TLBIs are of EL2&0, and an ASID does not matter to global entries")
        }
        Mistake::Replaced { by: Step::Tlbi(Tlbi::Vaale1is | Tlbi::Vale2is), .. } => {
            Some("no table stood there: what was cached of it are entries of the last level")
        }
        // Behind the make of such a merge.
        Mistake::LeftOut { at, .. } | Mistake::Replaced { at, .. } | Mistake::Swapped { at, .. }
            if change.frees_table() && matches!(method, Method::Nt | Method::NtCas) && *at >= NT_MAKE =>
        {
            Some("what is kept of the Block with nT set translates as the Block that follows, and nothing else is left")
        }
        Mistake::Replaced { by: Step::Dsb(Dsb::Ishst), .. } => Some("there is no TLBI to be completed, only a store"),
        _ => None,
    }
}

/// Whether mutants are made of the case's sequence. A form of TLBI under test has its own neighbours that it must miss, and what
/// hv stands on itself it splits by the steps of any other split.
const fn is_plain(case: &Case) -> bool {
    case.cap.is_none()
        && case.script.is_none()
        && matches!(case.stage2, Stage2::Blocks)
        && case.change.form().is_none()
        && case.change.own().is_none()
}

pub(super) fn main(args: &Args, out: &mut dyn io::Write) -> Result<Exit, Error> {
    let plain = |instance: &Instance| match instance {
        Instance::Case(case) if is_plain(case) => Some(*case),
        _ => None,
    };
    let cases: Vec<Case> = plan::select(&args.filters)?.iter().filter_map(plain).collect();
    let mutants = mutants(&cases);
    if mutants.is_empty() {
        return Err(Error::NoMutants);
    }
    let mut caught: BTreeMap<usize, Catch> = BTreeMap::new();
    let mut troubles = BTreeSet::new();

    // Each pass takes other cases of every mutant that is not caught yet. Most are caught by the first few; of the rest each pass
    // takes twice as many, which costs less than as many passes.
    let most = mutants.iter().map(|mutant| mutant.wrong.len()).max().unwrap_or(0);
    let passes: Vec<_> = iter::successors(Some(0..1), |last: &Range<usize>| Some(last.end..2 * last.end))
        .take_while(|cases| cases.start < most)
        .collect();
    // So do the rounds grow from seed to seed: what shows once in a thousand is not found by few of them, however often
    // one begins anew.
    for (seed, (pass, cases)) in
        (1..=args.seeds.get()).flat_map(|seed| iter::repeat(seed).zip(passes.iter().enumerate()))
    {
        let rounds = NonZeroU64::new(seed).map_or(args.rounds, |seed| args.rounds.saturating_mul(seed));
        let left: Vec<_> = (0..mutants.len()).filter(|i| !caught.contains_key(i)).collect();
        if left.is_empty() {
            break;
        }
        let of_pass = |i: usize| mutants[i].wrong.iter().skip(cases.start).take(cases.len()).map(move |case| (i, case));
        let chosen = left.iter().copied().flat_map(of_pass);
        let what = format!("seed {seed}, pass {} of {}, {} mutants left", pass + 1, passes.len(), left.len());
        for (i, catch) in run(&what, rounds, seed, chosen, &mut troubles) {
            caught.entry(i).or_insert(catch);
        }
    }
    // Those that are still right must be, with whichever case.
    let mut fails = vec![];
    for seed in 1..=args.harmless_seeds.get() {
        let spread = |cases: usize| cases.div_ceil(args.harmless_cases.get()).max(1);
        let chosen = mutants.iter().enumerate().flat_map(|(i, Mutant { harmless, .. })| {
            // Other seeds take other cases.
            let step = spread(harmless.len());
            harmless.iter().skip(seed as usize % step).step_by(step).map(move |case| (i, case))
        });
        fails.extend(run(&format!("seed {seed}, harmless ones"), args.rounds, seed, chosen, &mut troubles));
    }
    report(args, &mutants, &caught, fails, &troubles, out)
}

/// Runs cases of mutants, each with the mutant's number, on their profiles, and returns how those failed that did.
fn run<'a>(
    what: &str,
    rounds: NonZeroU64,
    seed: u64,
    chosen: impl Iterator<Item = (usize, &'a (Case, Vec<Profile>))>,
    troubles: &mut BTreeSet<String>,
) -> Vec<(usize, Catch)> {
    let mut trials: BTreeMap<&str, Trial> = BTreeMap::new();
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    for (mutant, (case, profiles)) in chosen {
        let instance = Instance::Case(*case);
        numbers.insert(instance.to_string(), mutant);
        for &profile in profiles {
            let new = || Trial { profile, seed, instances: vec![] };
            trials.entry(profile.name).or_insert_with(new).instances.push(instance);
        }
    }
    let see = |trial: &Trial, finished: &Finished, seen: &mut Seen| {
        if let Some(how) = died(finished) {
            seen.troubles.push(format!("{} on {}, seed {seed}: {how}", finished.id, trial.profile.name));
            return;
        }
        let (case, profile) = (judge(&by_the_book(finished)).case, trial.profile.name);
        let id = finished.id.to_string();
        match case.verdict {
            Class::Fail => seen.catches.push((numbers[&id], Catch { profile, seed, id, reason: case.reason })),
            Class::Error => seen.troubles.push(format!("{id} on {profile}, seed {seed}: {}", case.reason)),
            Class::Pass | Class::Observed | Class::Skip => {}
        }
    };
    let mut catches = vec![];
    for (Trial { profile, .. }, seen, failure) in try_all(what, trials.into_values().collect(), rounds, 2, see) {
        catches.extend(seen.catches);
        troubles.extend(seen.troubles);
        troubles.extend(failure.map(|failure| format!("{}, seed {seed}: {failure}", profile.name)));
    }
    catches
}

/// As if the method's own steps had been executed.
fn by_the_book(finished: &Finished) -> Finished {
    let mut finished = finished.clone();
    if let Ok(Instance::Case(case)) = finished.id.parse() {
        let id = Instance::Case(case.by_the_book()).to_string();
        finished.id = Id::from(&id).expect("shorter than the one with steps");
    }
    finished
}

fn report(
    args: &Args,
    mutants: &[Mutant],
    caught: &BTreeMap<usize, Catch>,
    fails: Vec<(usize, Catch)>,
    troubles: &BTreeSet<String>,
    out: &mut dyn io::Write,
) -> Result<Exit, Error> {
    let mut header = None;
    let (mut wrong, mut missed, mut harmless, mut unexplained) = (0, 0, 0, 0);
    for (i, Mutant { regime, method, change, original, mistake, sequence, wrong: cases, .. }) in
        mutants.iter().enumerate()
    {
        if header.replace((regime, method, change)) != Some((regime, method, change)) {
            let family = change.family();
            let whose = match regime {
                Regime::El1 => "",
                Regime::S2 => " of stage 2",
                Regime::El2 => " at EL2",
                Regime::El2Vhe => " at EL2 with E2H",
            };
            writeln!(out, "\n{method} of a {family}{whose}: {original}")?;
        }
        write!(out, "  {:<10} {mistake}: ", sequence.to_string())?;
        match (cases.is_empty(), caught.get(&i), why_harmless(*change, *method, mistake)) {
            (false, Some(Catch { profile, seed, id, reason }), _) => {
                writeln!(out, "caught on {profile}, seed {seed}\n{:13}{id}: {reason}", "")?;
            }
            (false, None, _) => {
                missed += 1;
                writeln!(out, "NOT CAUGHT by any of {} cases", cases.len())?;
            }
            (true, _, Some(why)) => writeln!(out, "harmless: {why}")?,
            (true, _, None) => {
                unexplained += 1;
                writeln!(out, "harmless by the rules, and nobody says why")?;
            }
        }
        *if cases.is_empty() { &mut harmless } else { &mut wrong } += 1;
    }
    writeln!(out)?;
    for (_, Catch { profile, seed, id, reason }) in &fails {
        writeln!(out, "fail of a harmless mutant: {id} on {profile}, seed {seed}: {reason}")?;
    }
    for trouble in troubles {
        writeln!(out, "error: {trouble}")?;
    }
    writeln!(
        out,
        "{} mutants: {wrong} wrong, {} of them caught; {harmless} harmless, {} fails of such with {} seeds",
        mutants.len(),
        wrong - missed,
        fails.len(),
        args.harmless_seeds,
    )?;
    Ok(if missed + unexplained + fails.len() > 0 {
        Exit::Forbidden
    } else if troubles.is_empty() {
        Exit::Clean
    } else {
        Exit::Platform
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain_cases() -> Vec<Case> {
        cases::all()
            .filter_map(|instance| match instance {
                Instance::Case(case) if is_plain(&case) => Some(case),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn every_harmless_mutant_has_its_reason() {
        let mutants = mutants(&plain_cases());
        assert!(mutants.len() > 200);
        for Mutant { change, method, mistake, wrong, sequence, .. } in &mutants {
            assert!(
                !wrong.is_empty() || why_harmless(*change, *method, mistake).is_some(),
                "{method} {sequence}: {mistake}"
            );
        }
    }

    /// A mutant of every sequence that is a defined way of making some change.
    #[test]
    fn every_defined_sequence_has_wrong_mutants() {
        let cases = plain_cases();
        let mutants = mutants(&cases);
        for case in &cases {
            let defined = Profile::ALL.iter().any(|p| guarantee(case.method, case.change, case.granule, p.bbm).is_ok());
            let wrong = |mutant: &Mutant| mutant.original == case.sequence() && !mutant.wrong.is_empty();
            assert_eq!(defined, defined && mutants.iter().any(wrong), "{}", Instance::Case(*case));
        }
    }

    #[test]
    fn the_document_has_the_letter_of_every_step() {
        let text = include_str!("../../../docs/audits.md");
        for step in Step::all() {
            assert!(text.contains(&format!("| `{}` | ", step.letter())), "{step}");
        }
    }
}
