//! `shatter audit`: the suite tested against itself, on the model.
//!
//! A suite that cries wolf is worth nothing. Each profile of the model is a CPU that the architecture allows, so a
//! `fail` on one of them, whatever the seed, is a mistake of ours: in a rule, in the harness or in the model.

use std::{
    collections::BTreeMap,
    io,
    num::NonZeroU64,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use indicatif::{ProgressBar, ProgressStyle};
use vmsa::verdict::Class;

use crate::{
    cli::Exit,
    judge::judge,
    plan::{self, NothingMatches, Plan},
    platform::model::{ModelTarget, profiles},
    run::settings,
    target::{Event, drive},
};

/// What to test.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Audit {
    /// Sound CPUs: no instance may fail on any of the model's profiles, whatever the seed
    Profiles {
        /// Only instances whose id contains FILTER, or is FILTER; all, if there is none
        #[arg(value_name = "FILTER")]
        filters: Vec<String>,
        /// Seeds to try on each profile, from 1 up
        #[arg(long, value_name = "N", default_value = "4")]
        seeds: NonZeroU64,
        /// Rounds of each instance
        #[arg(long, value_name = "N", default_value = "16")]
        rounds: NonZeroU64,
        /// PEs of the machine, 1 to 8
        #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u8).range(1..=8))]
        smp: u8,
    },
}

/// Why nothing was tested, or the report is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was selected.
    #[error(transparent)]
    Nothing(#[from] NothingMatches),
    /// The report could not be written.
    #[error("failed to write the report: {0}")]
    Report(#[from] io::Error),
}

/// What one profile came to, over all seeds.
#[derive(Default)]
struct Sum {
    seeds: u64,
    counts: BTreeMap<&'static str, u64>,
    conflicts: u64,
    /// Instances with a verdict that a sound CPU must not get, and seeds that did not run through.
    wrong: Vec<String>,
}

/// Runs the audit and writes its report to `out`.
///
/// # Errors
/// If nothing was selected, or `out` cannot be written.
pub fn main(audit: &Audit, out: &mut dyn io::Write) -> Result<Exit, Error> {
    /// Simulated time after which an instance counts as hung, in ms.
    const TIMEOUT_MS: NonZeroU64 = NonZeroU64::new(60_000).expect("not 0");
    let Audit::Profiles { filters, seeds, rounds, smp } = audit;
    let instances = plan::select(filters)?;
    let names = profiles();
    let runs: Vec<(&str, u64)> = (1..=seeds.get()).flat_map(|s| names.iter().map(move |n| (n.as_str(), s))).collect();
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} runs, {eta} left").expect("a constant");
    let bar = ProgressBar::new(runs.len() as u64).with_style(style);
    let sums: Mutex<BTreeMap<&str, Sum>> = Mutex::default();
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let one = |profile: &str, seed: u64| {
        let mut sum = Sum { seeds: 1, ..Sum::default() };
        let plan = Plan { settings: settings(seed, *rounds, TIMEOUT_MS), instances: instances.clone() };
        let target = ModelTarget::new(profile, *smp, seed).expect("a profile's own name");
        let run = drive(&target, &plan, &stop, &mut |event| {
            if let Event::Finished(finished) = event {
                let case = judge(finished).case;
                *sum.counts.entry(case.verdict.name()).or_default() += 1;
                if finished.id.starts_with("el1.") {
                    sum.conflicts += case.conflicts.el1 + case.conflicts.el2_for_el1;
                }
                if matches!(case.verdict, Class::Fail | Class::Error) {
                    sum.wrong.push(format!("seed {seed}: {} {}: {}", case.verdict, case.id, case.reason));
                }
            }
            Ok(())
        });
        if let Err(failure) = run {
            sum.wrong.push(format!("seed {seed}: {failure}"));
        }
        sum
    };
    let worker = || {
        while let Some(&(profile, seed)) = runs.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            let sum = one(profile, seed);
            let mut sums = sums.lock().expect("nobody panics with it");
            let all = sums.entry(profile).or_default();
            all.seeds += sum.seeds;
            all.conflicts += sum.conflicts;
            all.wrong.extend(sum.wrong);
            for (class, count) in sum.counts {
                *all.counts.entry(class).or_default() += count;
            }
            bar.inc(1);
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(worker);
        }
    });
    bar.finish_and_clear();

    let sums = sums.into_inner().expect("nobody panicked with it");
    for (profile, sum) in &sums {
        let counts: Vec<String> = sum.counts.iter().map(|(class, count)| format!("{count} {class}")).collect();
        writeln!(out, "{profile}: {} seeds, {}, {} conflict aborts", sum.seeds, counts.join(", "), sum.conflicts)?;
        for line in &sum.wrong {
            writeln!(out, "  {line}")?;
        }
    }
    Ok(if sums.values().all(|sum| sum.wrong.is_empty()) { Exit::Clean } else { Exit::Forbidden })
}
