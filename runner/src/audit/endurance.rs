//! `shatter audit endurance`: the hypervisor is the same after thousands of VMs as after none.
//!
//! hv changes stage 2 under its guests and windows in its own translation, and takes what these changes bring. Whatever of
//! that outlived its instance (a table entry, a TLB entry, a lock, a word on a stack) would show in a later one. So one
//! boot runs many of them, again and again, and every selftest behind each lot.

use std::{collections::BTreeMap, io, num::NonZeroU64, sync::atomic::AtomicBool};

use indicatif::{ProgressBar, ProgressStyle};
use vmsa::{
    Instance,
    instance::{Case, Regime},
    verdict::Class,
};

use super::Error;
use crate::{
    cli::Exit,
    judge::judge,
    known,
    plan::{self, Plan},
    platform::{
        model::{self, ModelTarget},
        qemu::{self, Gic, Hardware, Qemu, Threads},
    },
    run::settings,
    target::{Event, Target, drive},
    trial::TIMEOUT_MS,
};

/// Where.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum On {
    /// The model.
    Model,
    /// QEMU's TCG.
    Qemu,
}

/// What to do how often.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Only instances whose id contains FILTER, or is FILTER, besides the selftests; all, if there is none
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// Machine
    #[arg(long, value_enum, default_value = "model")]
    on: On,
    /// Its CPU [default: ideal-l2-abort on the model, max on QEMU]
    #[arg(long, value_name = "NAME")]
    cpu: Option<String>,
    /// Instances of each lot: stage 2, EL2's own map, and what hv stands on itself there
    #[arg(long, value_name = "N", default_value = "1000")]
    instances: NonZeroU64,
    /// Rounds of each
    #[arg(long, value_name = "N", default_value = "4")]
    rounds: NonZeroU64,
    /// Seed of every random choice
    #[arg(long, value_name = "S", default_value = "1")]
    seed: u64,
    /// CPUs of the machine, 1 to 8
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u8).range(1..=8))]
    smp: u8,
}

pub(super) fn main(args: &Args, out: &mut dyn io::Write) -> Result<Exit, Error> {
    let selected = plan::select(&args.filters)?;
    let qemu;
    let (target, kind): (Box<dyn Target + '_>, &str) = match args.on {
        On::Model => {
            let cpu = args.cpu.as_deref().unwrap_or(model::USUAL);
            (Box::new(ModelTarget::new(cpu, args.smp, args.seed)?), model::KIND)
        }
        On::Qemu => {
            qemu = Qemu::find()?;
            let cpu = args.cpu.as_deref().unwrap_or("max");
            if !qemu.cpus().iter().any(|known| known == cpu) {
                return Err(Error::UnknownCpu { name: cpu.to_owned(), known: qemu.cpus().to_vec() });
            }
            let (memory, threads) = ("3G".to_owned(), Threads::Single);
            let hardware = Hardware { cpus: args.smp, gic: Gic::V3, smmu: false, memory, threads };
            (Box::new(qemu.target(cpu, hardware)), qemu::KIND)
        }
    };
    let instances = lots(&selected, args.instances.get() as usize);
    if instances.is_empty() {
        return Err(Error::NothingOfHv);
    }

    let style =
        ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} instances, {eta} left").expect("a constant");
    let bar = ProgressBar::new(instances.len() as u64).with_style(style).with_prefix("one boot");
    let plan = Plan { settings: settings(args.seed, args.rounds, TIMEOUT_MS), instances };
    let (mut boots, mut wrong, mut unjudged) = (0, vec![], vec![]);
    let mut counts: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    drive(&*target, &plan, &AtomicBool::new(false), &mut |event| {
        match event {
            Event::Booted(..) => boots += 1,
            Event::Finished(finished, _) => {
                bar.inc(1);
                let case = judge(finished).case;
                let instance: Option<Instance> = case.id.parse().ok();
                let known = instance.and_then(|instance| known::defect(kind, &instance)).is_some();
                let lot = LOTS.iter().find(|(_, has)| instance.is_some_and(|instance| has(&instance)));
                let sort = lot.map_or("selftest", |(name, _)| name);
                let verdict = if case.verdict == Class::Fail && known { "known defect" } else { case.verdict.name() };
                *counts.entry(sort).or_default().entry(verdict).or_default() += 1;
                match case.verdict {
                    Class::Fail if !known => wrong.push(format!("fail {}: {}", case.id, case.reason)),
                    Class::Error => unjudged.push(format!("error {}: {}", case.id, case.reason)),
                    _ => {}
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    bar.finish_and_clear();

    for (sort, verdicts) in &counts {
        let verdicts: Vec<String> = verdicts.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
        writeln!(out, "{sort}: {}", verdicts.join(", "))?;
    }
    for line in wrong.iter().chain(&unjudged).take(SHOWN) {
        writeln!(out, "  {line}")?;
    }
    if boots != 1 {
        writeln!(out, "  the machine had to be booted {boots} times")?;
    }
    let done: u64 = counts.values().flat_map(BTreeMap::values).sum();
    writeln!(out, "{done} of {} instances in one boot of {}", plan.instances.len(), target.cpu())?;
    Ok(if !wrong.is_empty() {
        Exit::Forbidden
    } else if !unjudged.is_empty() || boots != 1 || done != plan.instances.len() as u64 {
        Exit::Platform
    } else {
        Exit::Clean
    })
}

/// Whether an instance is of the lot.
type Has = fn(&Instance) -> bool;

/// The lots: what hv does, and the instances that have it do so.
const LOTS: [(&str, Has); 4] = [
    ("s2", |instance| is_of(instance, Regime::S2, false)),
    ("el2", |instance| is_of(instance, Regime::El2, false)),
    ("el2vhe", |instance| is_of(instance, Regime::El2Vhe, false)),
    ("el2.self", |instance| is_of(instance, Regime::El2, true)),
];

fn is_of(instance: &Instance, wanted: Regime, own: bool) -> bool {
    match instance {
        Instance::Case(Case { regime, change, .. }) => *regime == wanted && change.own().is_some() == own,
        Instance::Selftest(_) => false,
    }
}

/// Lines that are shown.
const SHOWN: usize = 20;

/// Of each of [`LOTS`] `count` of `selected`, from the first again behind the last, and behind each that has any every selftest.
fn lots(selected: &[Instance], count: usize) -> Vec<Instance> {
    let selftests: Vec<Instance> = cases::all().filter(|instance| matches!(instance, Instance::Selftest(_))).collect();
    let lots = LOTS.iter().map(|(_, has)| selected.iter().copied().filter(has).collect::<Vec<_>>());
    lots.filter(|lot| !lot.is_empty())
        .flat_map(|lot| lot.iter().copied().cycle().take(count).chain(selftests.iter().copied()).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lot_is_as_long_as_was_asked_for_and_ends_with_the_selftests() {
        let all: Vec<Instance> = cases::all().collect();
        let selftests = all.iter().filter(|instance| matches!(instance, Instance::Selftest(_))).count();
        let lots = lots(&all, 1000);
        assert_eq!(lots.len(), LOTS.len() * (1000 + selftests));
        for (lot, (name, has)) in lots.chunks(1000 + selftests).zip(LOTS) {
            assert!(lot[..1000].iter().all(has) && !lot[1000..].iter().any(has), "{name}");
        }
        assert!(super::lots(&plan::select(&["el1.split".to_owned()]).expect("there are some"), 9).is_empty());
    }
}
