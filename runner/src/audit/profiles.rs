//! `shatter audit profiles`: no sound CPU fails.
//!
//! A suite that cries wolf is worth nothing. Each profile of the model is a CPU that the architecture allows, so a
//! `fail` on one of them, whatever the seed, is a mistake of ours: in a rule, in the harness or in the model.

use std::{collections::BTreeMap, io, num::NonZeroU64};

use model::mmu::Profile;
use vmsa::verdict::Class;
use wire::record::Finished;

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
}

/// What one profile came to, over all seeds.
#[derive(Default)]
struct Sum {
    seeds: u64,
    counts: BTreeMap<&'static str, u64>,
    conflicts: u64,
    /// Instances with a verdict that a sound CPU must not get.
    wrong: Vec<String>,
    /// Instances that could not be judged, and seeds that did not run through.
    errors: Vec<String>,
}

impl Sum {
    fn add(&mut self, one: Self) {
        self.seeds += 1;
        self.conflicts += one.conflicts;
        self.wrong.extend(one.wrong);
        self.errors.extend(one.errors);
        for (class, count) in one.counts {
            *self.counts.entry(class).or_default() += count;
        }
    }
}

pub(super) fn main(args: &Args, out: &mut dyn io::Write) -> Result<Exit, Error> {
    let instances = plan::select(&args.filters)?;
    let trials = (1..=args.seeds.get()).flat_map(|seed| {
        let instances = &instances;
        Profile::ALL.into_iter().map(move |profile| Trial { profile, seed, instances: instances.clone() })
    });
    let see = |trial: &Trial, finished: &Finished, sum: &mut Sum| {
        let case = judge(finished).case;
        *sum.counts.entry(case.verdict.name()).or_default() += 1;
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
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    for (Trial { profile, seed, .. }, one, failure) in
        try_all("sound CPUs", trials.collect(), args.rounds, args.smp, see)
    {
        let sum = sums.entry(profile.name).or_default();
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
        writeln!(out, "{profile}: {} seeds, {}, {} conflict aborts", sum.seeds, counts.join(", "), sum.conflicts)?;
        for line in sum.wrong.iter().chain(&sum.errors) {
            writeln!(out, "  {line}")?;
        }
    }
    if sums.values().all(|sum| sum.counts.keys().all(|class| *class == Class::Skip.name())) {
        return Err(Error::OnlySkips);
    }
    Ok(if sums.values().any(|sum| !sum.wrong.is_empty()) {
        Exit::Forbidden
    } else if sums.values().any(|sum| !sum.errors.is_empty()) {
        Exit::Platform
    } else {
        Exit::Clean
    })
}
