//! `shatter audit agreement`: the model and QEMU give the same results.
//!
//! Two independent implementations of the architecture seldom make the same mistake. Where the model has no choice to
//! make, it must do what QEMU does: for single instructions with random operands ([`differential`]), and for the whole
//! catalogue on the profile [`PROFILE`], whose TLB is of QEMU's kind.
//!
//! # What counts as the same
//! An instance must end the same way and get the same verdict, and each kind of outcome in each phase must be seen on
//! both or on neither. How often is left open: it is a matter of timing. Timing can also decide whether an access that
//! races the change ever meets one of its states, so where nothing but outcomes of a remote observer during the change
//! differ, the instance is run again with other seeds and more rounds, and what was seen is added up: each of the two
//! must show what the other shows. Outcomes of a local observer, and those before and after the change, are no race:
//! they must be the same at once. What is known of QEMU ([`known`]) is told apart, and told.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    num::NonZeroU64,
    path::PathBuf,
    sync::atomic::AtomicBool,
};

use model::a64::differential;
use vmsa::{
    Instance,
    outcome::{Kind, Phase},
    verdict::Class,
};

use super::Error;
use crate::{
    cli::Exit,
    judge::judge,
    known::{self, Note},
    plan::{self, Plan},
    platform::{
        model::ModelTarget,
        qemu::{self, Gic, Hardware, Qemu, Threads},
    },
    report::histogram,
    results::{CaseResult, Cpu},
    run::settings,
    target::{Event, Failure, Target, drive},
    trial::on_all_cores,
};

/// The model's profile without a choice to make.
const PROFILE: &str = "benign";

/// Cases of instructions, and disagreements of the catalogue, that are shown in full.
const SHOWN: usize = 10;

/// How often an instance is run again where only a race may have made the difference.
const AGAIN: u32 = 4;

/// What to compare.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Only instances whose id contains FILTER, or is FILTER; all, if there is none
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// QEMU's CPU; one with the profile's BBM level
    #[arg(long, value_name = "NAME", default_value = "max")]
    cpu: String,
    /// Single instructions to compare, at least
    #[arg(long, value_name = "N", default_value = "100000")]
    cases: usize,
    /// Rounds of each instance
    #[arg(long, value_name = "N", default_value = "16")]
    rounds: NonZeroU64,
    /// Seed of every random choice
    #[arg(long, value_name = "S", default_value = "1")]
    seed: u64,
    /// CPUs of the machines, 1 to 8
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u8).range(1..=8))]
    smp: u8,
    /// The emulator of user programs that executes single instructions
    #[arg(long, value_name = "PROGRAM", default_value = "qemu-aarch64")]
    qemu_user: PathBuf,
}

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Model,
    Qemu,
}

impl Side {
    const BOTH: [Self; 2] = [Self::Model, Self::Qemu];
}

/// Something that is not the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Difference {
    End,
    Level,
    Verdict,
    /// An outcome that only this side saw.
    Outcome(Side, Phase, Kind),
}

/// What the comparison of an instance comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Answer {
    Same,
    /// Everything that differs is known of QEMU.
    Known(Note),
    /// More rounds may show that it is the same.
    Race(Vec<Difference>),
    Differ(Vec<Difference>),
}

pub(super) fn main(args: &Args, out: &mut dyn io::Write) -> Result<Exit, Error> {
    let instances = plan::select(&args.filters)?;
    let qemu = Qemu::find()?;
    if !qemu.cpus().contains(&args.cpu) {
        return Err(Error::UnknownCpu { name: args.cpu.clone(), known: qemu.cpus().to_vec() });
    }
    let same_instructions = if args.cases == 0 {
        writeln!(out, "instructions: none compared, as asked")?;
        true
    } else {
        instructions(args, out)?
    };
    let same_outcomes = catalogue(args, &qemu, &instances, out)?;
    Ok(if same_instructions && same_outcomes { Exit::Clean } else { Exit::Forbidden })
}

/// Whether all single instructions do the same.
fn instructions(args: &Args, out: &mut dyn io::Write) -> Result<bool, Error> {
    let dir = tempfile::tempdir()?;
    let batches: Vec<u64> = (0..args.cases.div_ceil(differential::BATCH) as u64).collect();
    let one = |&batch: &u64| {
        let program = dir.path().join(batch.to_string());
        let report =
            differential::compare(&args.qemu_user, differential::BATCH, args.seed ^ batch << 32, &program, |_| {});
        // It is only disk space.
        let _ = std::fs::remove_file(program);
        report
    };
    let mut cases: BTreeMap<&str, usize> = BTreeMap::new();
    let mut mismatches = vec![];
    for report in on_all_cores("instructions", &batches, one) {
        let report = report?;
        for (class, count) in report.cases {
            *cases.entry(class).or_default() += count;
        }
        mismatches.extend(report.mismatches);
    }
    writeln!(
        out,
        "instructions: {} cases of {} classes on the model and on {}: {} differ",
        cases.values().sum::<usize>(),
        cases.len(),
        args.qemu_user.display(),
        mismatches.len()
    )?;
    for mismatch in mismatches.iter().take(SHOWN) {
        writeln!(out, "\n{mismatch}")?;
    }
    Ok(mismatches.is_empty())
}

/// A boot to make.
struct Boot {
    side: Side,
    instances: Vec<Instance>,
    seed: u64,
    rounds: NonZeroU64,
}

/// Whether all instances come to the same.
fn catalogue(args: &Args, qemu: &Qemu, instances: &[Instance], out: &mut dyn io::Write) -> Result<bool, Error> {
    let hardware =
        Hardware { cpus: args.smp, gic: Gic::V3, smmu: false, memory: "3G".to_owned(), threads: Threads::Single };
    let boot = |boot: &Boot| match boot.side {
        Side::Model => {
            let target = ModelTarget::new(PROFILE, args.smp, boot.seed).expect("a profile that a test looks up");
            run(&target, boot)
        }
        Side::Qemu => run(&qemu.target(&args.cpu, hardware.clone()), boot),
    };

    // On both sides, the model's first, each the sum of all runs.
    let mut results: BTreeMap<String, [Option<CaseResult>; 2]> = BTreeMap::new();
    let mut cpus = [None, None];
    let mut todo = instances.to_vec();
    let mut answers: BTreeMap<String, Answer> = BTreeMap::new();
    for attempt in 0..=AGAIN {
        let rounds = args.rounds.saturating_mul(NonZeroU64::new(4_u64.pow(attempt)).expect("not 0"));
        let boots = boots(&todo, args.seed.wrapping_add(attempt.into()), rounds);
        for (Boot { side, .. }, done) in boots.iter().zip(on_all_cores("catalogue", &boots, boot)) {
            let (cpu, cases) = done?;
            let side = *side as usize;
            cpus[side].get_or_insert(cpu);
            for case in cases {
                let sum = &mut results.entry(case.id.clone()).or_default()[side];
                match sum {
                    Some(sum) => add(sum, case),
                    None => *sum = Some(case),
                }
            }
        }
        if let [Some(model), Some(qemu)] = &cpus
            && model.bbm != qemu.bbm
        {
            let (name, level, wanted) = (args.cpu.clone(), qemu.bbm, model.bbm);
            return Err(Error::Level { name, level, wanted });
        }
        for instance in &todo {
            let answer = match &results[&instance.to_string()] {
                [Some(model), Some(qemu)] => answer(instance, model, qemu),
                // A plan that was carried through has every instance.
                _ => Answer::Differ(vec![]),
            };
            answers.insert(instance.to_string(), answer);
        }
        todo.retain(|instance| matches!(answers[&instance.to_string()], Answer::Race(_)));
        if todo.is_empty() {
            break;
        }
    }

    let of = |id: &str| match &results[id] {
        [Some(model), Some(qemu)] => Some([model, qemu]),
        _ => None,
    };
    let [Some(model), Some(cpu)] = &cpus else { return Ok(false) };
    let mut known: BTreeMap<&str, (Note, usize)> = BTreeMap::new();
    let (mut same, mut skipped, mut different) = (0, 0, vec![]);
    for (id, answer) in &answers {
        match answer {
            Answer::Same if of(id).is_some_and(|[model, _]| model.verdict == Class::Skip) => skipped += 1,
            Answer::Same => same += 1,
            Answer::Known(note) => known.entry(note.name).or_insert((*note, 0)).1 += 1,
            Answer::Race(differences) | Answer::Differ(differences) => different.push((id, differences)),
        }
    }
    writeln!(
        out,
        "catalogue: {} instances of {} rounds on the model's {PROFILE} and on QEMU {}'s {}, BBM level {} both: {same} the \
         same, {skipped} skipped by both, {} differ as known, {} differ",
        answers.len(),
        args.rounds,
        qemu.version(),
        args.cpu,
        model.bbm,
        known.values().map(|(_, count)| count).sum::<usize>(),
        different.len(),
    )?;
    if skipped == answers.len() {
        return Err(Error::OnlySkips);
    }
    let others: Vec<&str> = model
        .registers
        .iter()
        .filter(|(name, value)| cpu.registers.get(*name) != Some(value))
        .map(|(name, _)| &**name)
        .collect();
    if !others.is_empty() {
        writeln!(out, "  ID registers that are not the same: {}", others.join(", "))?;
    }
    for (Note { name, what }, count) in known.values() {
        writeln!(out, "  {count} differ by {name}: {what}")?;
    }
    for (id, differences) in different.iter().take(SHOWN) {
        writeln!(out, "\n{id}")?;
        for difference in *differences {
            writeln!(out, "  {}", describe(*difference))?;
        }
        for (side, case) in Side::BOTH.into_iter().zip(of(id).into_iter().flatten()) {
            writeln!(out, "  {side:?}: {} ({}): {}\n    {}", case.verdict, case.end, case.reason, histogram(case))?;
        }
    }
    if different.len() > SHOWN {
        writeln!(out, "\n… and {} more", different.len() - SHOWN)?;
    }
    Ok(different.is_empty())
}

/// `instances` in boots of a size that keeps all cores at work.
fn boots(instances: &[Instance], seed: u64, rounds: NonZeroU64) -> Vec<Boot> {
    const INSTANCES: usize = 32;
    let chunks = instances.chunks(INSTANCES);
    chunks.flat_map(|chunk| Side::BOTH.map(|side| Boot { side, instances: chunk.to_vec(), seed, rounds })).collect()
}

fn run(target: &dyn Target, boot: &Boot) -> Result<(Cpu, Vec<CaseResult>), Failure> {
    /// Time after which an instance counts as hung, in ms.
    const TIMEOUT_MS: NonZeroU64 = NonZeroU64::new(20_000).expect("not 0");
    let plan = Plan { settings: settings(boot.seed, boot.rounds, TIMEOUT_MS), instances: boot.instances.clone() };
    let (mut cpu, mut cases) = (None, vec![]);
    drive(target, &plan, &AtomicBool::new(false), &mut |event| {
        match event {
            Event::Booted(booted, _) => cpu = booted.first().cloned(),
            Event::Finished(finished, _) => cases.push(judge(finished).case),
            _ => {}
        }
        Ok(())
    })?;
    Ok((cpu.expect("instances run on a machine that booted"), cases))
}

/// Adds what another run of the same instance saw. End and verdict are the later one's, unless the earlier was worse.
fn add(sum: &mut CaseResult, case: CaseResult) {
    for outcome in case.outcomes {
        match sum.outcomes.iter_mut().find(|seen| (seen.phase, seen.kind) == (outcome.phase, outcome.kind)) {
            Some(seen) => seen.count += outcome.count,
            None => sum.outcomes.push(outcome),
        }
    }
    if !matches!(sum.verdict, Class::Fail | Class::Error) {
        (sum.end, sum.verdict, sum.reason) = (case.end, case.verdict, case.reason);
    }
}

fn answer(instance: &Instance, model: &CaseResult, qemu: &CaseResult) -> Answer {
    let differences = differences(model, qemu);
    let note = |difference: &Difference| match *difference {
        Difference::Outcome(side, phase, kind) => {
            known::difference(qemu::KIND, instance, side == Side::Qemu, phase, kind)
        }
        Difference::Verdict if model.verdict == Class::Pass && qemu.verdict == Class::Observed => {
            known::cannot_show(qemu::KIND, instance)
        }
        Difference::Verdict if model.verdict != Class::Fail && qemu.verdict == Class::Fail => {
            known::defect(qemu::KIND, instance)
        }
        Difference::End | Difference::Level | Difference::Verdict => None,
    };
    let remote = matches!(instance, Instance::Case(case) if case.observer.place.is_remote());
    let races = |difference: &Difference| remote && matches!(difference, Difference::Outcome(_, Phase::During, _));
    let unknown: Vec<Difference> =
        differences.iter().filter(|difference| note(difference).is_none()).copied().collect();
    match (differences.first().and_then(note), unknown.is_empty()) {
        (Some(note), true) => Answer::Known(note),
        (None, true) => Answer::Same,
        (_, false) if unknown.iter().all(races) => Answer::Race(unknown),
        (_, false) => Answer::Differ(unknown),
    }
}

fn differences(model: &CaseResult, qemu: &CaseResult) -> Vec<Difference> {
    let seen = |case: &CaseResult| -> BTreeSet<(Phase, Kind)> {
        case.outcomes.iter().map(|outcome| (outcome.phase, outcome.kind)).collect()
    };
    let (on_model, on_qemu) = (seen(model), seen(qemu));
    let only = |side, these: &BTreeSet<_>, those: &BTreeSet<_>| -> Vec<_> {
        these.difference(those).map(|&(phase, kind)| Difference::Outcome(side, phase, kind)).collect()
    };
    // What could not be judged agrees with nothing.
    let judged = model.verdict == qemu.verdict && model.verdict != Class::Error;
    let whole = [
        (model.end == qemu.end, Difference::End),
        (model.bbm == qemu.bbm, Difference::Level),
        (judged, Difference::Verdict),
    ];
    let whole = whole.into_iter().filter(|(same, _)| !same).map(|(_, difference)| difference);
    whole.chain(only(Side::Model, &on_model, &on_qemu)).chain(only(Side::Qemu, &on_qemu, &on_model)).collect()
}

fn describe(difference: Difference) -> String {
    match difference {
        Difference::End => "they end in different ways".to_owned(),
        Difference::Level => "they were presented with different BBM levels".to_owned(),
        Difference::Verdict => "their verdicts differ, or say nothing".to_owned(),
        Difference::Outcome(side, phase, kind) => format!("{kind} {phase} the change: only {side:?}"),
    }
}

#[cfg(test)]
mod tests {
    use vmsa::{
        BbmLevel, Level,
        outcome::{End, Fault},
    };

    use super::*;
    use crate::results::{ConflictCounts, First, Hex, Outcome};

    const LATE: (Phase, Kind) = (Phase::After, Kind::New);
    const PERMISSION: Kind = Kind::Fault(Fault::Permission, Level::L3);

    fn case(id: &str, verdict: Class, seen: &[(Phase, Kind)]) -> (Instance, CaseResult) {
        let first = First { esr: Hex(0), far: Hex(0), pc: Hex(0), cpu: 0, round: 0, value: Hex(0), seed: None };
        let outcome = |&(phase, kind)| Outcome { phase, kind, count: 1, allowed: true, rule: String::new(), first };
        let case = CaseResult {
            id: id.to_owned(),
            verdict,
            reason: String::new(),
            end: End::Done,
            cpu: 0,
            bbm: BbmLevel::L2,
            rounds: 1,
            passes: 1,
            bound: None,
            overlap: 1,
            accesses: 1,
            trouble: None,
            note: None,
            outcomes: seen.iter().map(outcome).collect(),
            conflicts: ConflictCounts::default(),
            contained: 0,
            breaks: None,
            registers: None,
            setup_ns: 0,
            duration_ns: 0,
        };
        (id.parse().expect("an id"), case)
    }

    /// What two passes with these outcomes come to.
    fn compare(id: &str, model: &[(Phase, Kind)], qemu: &[(Phase, Kind)]) -> Answer {
        let ((instance, model), (_, qemu)) = (case(id, Class::Pass, model), case(id, Class::Pass, qemu));
        answer(&instance, &model, &qemu)
    }

    #[test]
    fn the_profile_exists() {
        assert!(ModelTarget::new(PROFILE, 1, 0).is_ok());
    }

    #[test]
    fn only_a_remote_observer_races_and_only_during_the_change() {
        let [local, remote] = ["el1.split.4k-l2.bbm.load-local", "el1.split.4k-l2.bbm.load-remote"];
        let during = (Phase::During, Kind::Old);
        for id in [local, remote] {
            assert_eq!(compare(id, &[LATE, during], &[during, LATE]), Answer::Same);
            let missing = Difference::Outcome(Side::Model, Phase::After, Kind::New);
            assert_eq!(compare(id, &[LATE], &[]), Answer::Differ(vec![missing]));
        }
        let missing = vec![Difference::Outcome(Side::Qemu, Phase::During, Kind::Old)];
        assert_eq!(compare(local, &[LATE], &[LATE, during]), Answer::Differ(missing.clone()));
        assert_eq!(compare(remote, &[LATE], &[LATE, during]), Answer::Race(missing));
    }

    #[test]
    fn ends_levels_and_verdicts_must_be_the_same_and_say_something() {
        let id = "el1.split.4k-l2.bbm.load-remote";
        let (instance, model) = case(id, Class::Pass, &[LATE]);
        let differ = |qemu: &CaseResult| answer(&instance, &model, qemu);
        let qemu = || case(id, Class::Pass, &[LATE]).1;
        assert_eq!(differ(&CaseResult { end: End::Watchdog, ..qemu() }), Answer::Differ(vec![Difference::End]));
        assert_eq!(differ(&CaseResult { bbm: BbmLevel::L1, ..qemu() }), Answer::Differ(vec![Difference::Level]));
        assert_eq!(differ(&CaseResult { verdict: Class::Fail, ..qemu() }), Answer::Differ(vec![Difference::Verdict]));
        let error = case(id, Class::Error, &[LATE]).1;
        assert_eq!(answer(&instance, &error, &error), Answer::Differ(vec![Difference::Verdict]));
    }

    #[test]
    fn what_is_known_of_qemu_is_told_apart_and_nothing_more() {
        let id = "el1.protect.4k-l3-ro-rw.direct-notlbi.store-local";
        let stale = (Phase::After, PERMISSION);
        let (instance, model) = case(id, Class::Pass, &[stale]);
        let (_, qemu) = case(id, Class::Observed, &[LATE]);
        assert_eq!(answer(&instance, &model, &qemu), Answer::Known(known::QEMU_REWALKS));
        // The other way round it would be the model that cannot show it.
        assert!(matches!(answer(&instance, &qemu, &model), Answer::Differ(_)));
        let (_, odd) = case(id, Class::Observed, &[LATE, (Phase::After, Kind::Neither)]);
        let odd = answer(&instance, &model, &odd);
        assert_eq!(odd, Answer::Differ(vec![Difference::Outcome(Side::Qemu, Phase::After, Kind::Neither)]));

        let id = "el1.protect.4k-l2-x-xn.bbm.fetch-local";
        let (instance, model) = case(id, Class::Pass, &[stale]);
        let (_, qemu) = case(id, Class::Fail, &[stale, (Phase::After, Kind::Old)]);
        assert_eq!(answer(&instance, &model, &qemu), Answer::Known(known::QEMU_JUMP_CACHE));
        assert!(matches!(answer(&instance, &qemu, &model), Answer::Differ(_)));
    }

    #[test]
    fn runs_add_up_and_a_failure_stays() {
        let id = "el1.split.4k-l2.bbm.load-remote";
        let (_, mut sum) = case(id, Class::Fail, &[LATE]);
        add(&mut sum, case(id, Class::Pass, &[LATE, (Phase::During, Kind::Old)]).1);
        assert_eq!(sum.verdict, Class::Fail);
        let counts: Vec<_> = sum.outcomes.iter().map(|outcome| (outcome.kind, outcome.count)).collect();
        assert_eq!(counts, [(Kind::New, 2), (Kind::Old, 1)]);
    }
}
