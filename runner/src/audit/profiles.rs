//! `shatter audit profiles`: no sound CPU fails.
//!
//! A suite that cries wolf is worth nothing. Each profile of the model is a CPU that the architecture allows, so a
//! `fail` on one of them, whatever the seed, is a mistake of ours: in a rule, in the harness or in the model.

use std::{
    collections::BTreeMap,
    env, fs, io,
    num::NonZeroU64,
    path::{Path, PathBuf},
};

use model::mmu::Profile;
use serde::{Deserialize, Serialize};
use vmsa::{Instance, verdict::Class};
use wire::record::Finished;

use super::{
    Error,
    kept::{self, Kept},
};
use crate::{
    cli::Exit,
    guest,
    judge::judge,
    plan,
    trial::{Trial, died, try_each},
};

/// What to test.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
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
    /// Keep what is seen in FILE, a line for each seed of a profile, and do not run again what it already has: an audit
    /// that was stopped goes on, one that is through can have more seeds
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
}

/// What one profile came to, with one seed or over all of them.
#[derive(Default, Serialize, Deserialize)]
struct Sum {
    counts: BTreeMap<String, u64>,
    conflicts: u64,
    /// Instances with a verdict that a sound CPU must not get.
    wrong: Vec<String>,
    /// Instances that could not be judged, and seeds that did not run through.
    errors: Vec<String>,
}

impl Sum {
    fn add(&mut self, one: Self) {
        self.conflicts += one.conflicts;
        self.wrong.extend(one.wrong);
        self.errors.extend(one.errors);
        for (class, count) in one.counts {
            *self.counts.entry(class).or_default() += count;
        }
    }
}

/// What tells an audit from all whose runs must not be added to its own: this very program, which holds the machine,
/// the guests and the rules, and what it runs.
fn fingerprint(args: &Args, instances: &[Instance]) -> Result<String, kept::Error> {
    let path = env::current_exe().unwrap_or_else(|_| Path::new("/proc/self/exe").to_owned());
    let program = fs::read(&path).map_err(|source| kept::Error::Io { action: "read", path, source })?;
    let ids: Vec<String> = instances.iter().map(Instance::to_string).collect();
    let hash = guest::hash(format!("{} {}", guest::hash(&program), ids.join(" ")).as_bytes());
    Ok(format!("profiles, {} rounds, {} PEs, {hash}", args.rounds, args.smp))
}

pub(super) fn main(args: &Args, out: &mut dyn io::Write) -> Result<Exit, Error> {
    let instances = plan::select(&args.filters)?;
    let kept = args.keep.as_deref().map(|path| Kept::open(path, &fingerprint(args, &instances)?)).transpose()?;
    let (kept, mut before) = kept.map_or((None, BTreeMap::new()), |(kept, before)| (Some(kept), before));
    before.retain(|(_, seed), _| *seed <= args.seeds.get());
    let all = args.seeds.get() * Profile::ALL.len() as u64;
    if kept.is_some() {
        eprintln!("{} of {all} runs are kept already", before.len());
    }
    let trials = (1..=args.seeds.get()).flat_map(|seed| {
        let (instances, before) = (&instances, &before);
        Profile::ALL
            .into_iter()
            .filter(move |profile| !before.contains_key(&(profile.name.to_owned(), seed)))
            .map(move |profile| Trial { profile, seed, instances: instances.clone() })
    });
    let trials: Vec<Trial> = trials.collect();
    let see = |trial: &Trial, finished: &Finished, sum: &mut Sum| {
        let case = judge(finished).case;
        *sum.counts.entry(case.verdict.name().to_owned()).or_default() += 1;
        if !case.id.starts_with("selftest.") {
            sum.conflicts += case.conflicts.el1 + case.conflicts.el2_for_el1 + case.conflicts.el2;
        }
        let line = || {
            format!(
                "seed {}: {} {}: {}",
                trial.seed,
                case.verdict,
                case.id,
                died(finished).unwrap_or(case.reason.clone())
            )
        };
        match case.verdict {
            _ if died(finished).is_some() => sum.errors.push(line()),
            Class::Fail => sum.wrong.push(line()),
            Class::Error => sum.errors.push(line()),
            Class::Pass | Class::Observed | Class::Skip => {}
        }
    };
    let keep = |trial: &Trial, sum: &Sum| {
        // What the harness could not judge is worth another try.
        if let Some(kept) = kept.as_ref().filter(|_| sum.errors.is_empty()) {
            kept.add(trial.profile.name, trial.seed, sum);
        }
    };
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    for ((profile, _), one) in before {
        sums.entry(profile).or_default().add(one);
    }
    for (Trial { profile, seed, .. }, one, failure) in try_each("sound CPUs", trials, args.rounds, args.smp, see, keep)
    {
        let sum = sums.entry(profile.name.to_owned()).or_default();
        sum.add(one);
        sum.errors.extend(failure.map(|failure| format!("seed {seed}: {failure}")));
    }
    let planned = instances.len() as u64 * args.seeds.get();
    for (profile, sum) in &mut sums {
        let judged: u64 = sum.counts.values().sum();
        if judged != planned {
            sum.errors.push(format!("{judged} of {planned} instances came to an end"));
        }
        let counts: Vec<String> = sum.counts.iter().map(|(class, count)| format!("{count} {class}")).collect();
        writeln!(out, "{profile}: {} seeds, {}, {} conflict aborts", args.seeds, counts.join(", "), sum.conflicts)?;
        for line in sum.wrong.iter().chain(&sum.errors) {
            writeln!(out, "  {line}")?;
        }
    }
    if sums.values().all(|sum| sum.counts.keys().all(|class| class == Class::Skip.name())) {
        return Err(Error::OnlySkips);
    }
    kept.map_or(Ok(()), Kept::close)?;
    Ok(if sums.values().any(|sum| !sum.wrong.is_empty()) {
        Exit::Forbidden
    } else if sums.values().any(|sum| !sum.errors.is_empty()) {
        Exit::Platform
    } else {
        Exit::Clean
    })
}
