//! `shatter audit defects`: every mistake a CPU can make is found.
//!
//! A suite in which nothing ever fails may be blind. Each [`Defect`] is one mistake on top of a profile that makes
//! none, so the first `fail` of a family on that CPU is the mistake's; how many seeds it takes says how sharp the
//! family is for it. An `error` says that the harness fell over, and finds nothing.
//!
//! The same runs on the sound profiles are the controls, and must find nothing.
//!
//! What only families can find that are still to come is [owed](owed), by name: it must not be found, or else the
//! list is out of date.

use std::{
    collections::BTreeSet,
    fmt, io,
    num::NonZeroU64,
    sync::atomic::{AtomicBool, Ordering},
};

use model::mmu::{Defect, Profile};
use vmsa::{Instance, instance::Family, verdict::Class};

use super::Error;
use crate::{
    cli::Exit,
    judge::judge,
    plan::Plan,
    platform::model::{ModelTarget, Unknown},
    run::settings,
    target::{Event, drive},
    trial::{died, on_all_cores},
};

/// What to test.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Only these defects; all, if there is none
    #[arg(value_name = "DEFECT")]
    defects: Vec<String>,
    /// Seeds to try for each defect and family, from 1 up, until one finds it
    #[arg(long, value_name = "N", default_value = "4")]
    seeds: NonZeroU64,
    /// Rounds of each instance
    #[arg(long, value_name = "N", default_value = "16")]
    rounds: NonZeroU64,
    /// For each defect, stop at the first family that finds it; those that were not run show as `.`
    #[arg(long)]
    quick: bool,
    /// PEs of the machine, 2 to 8
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u8).range(2..=8))]
    smp: u8,
}

/// Who will find a defect that no family of today can.
#[derive(Clone, Copy, Debug)]
struct Owed {
    /// The issue that brings the family.
    issue: u8,
    /// The family.
    family: &'static str,
    /// Why it takes that family.
    why: &'static str,
}

/// What is owed for `defect`, if anything.
const fn owed(defect: Defect) -> Option<Owed> {
    let (issue, family, why) = match defect {
        Defect::IpaKeepsTables | Defect::IpaKeepsBlocks => (5, "s2", "nobody changes stage 2 under a running payload"),
        Defect::Stage2Escape => (5, "s2", "stage 2 maps onto itself what the payload can reach by any entry"),
        _ => return None,
    };
    Some(Owed { issue, family, why })
}

/// What a family came to on one defect.
#[derive(Default)]
struct Cell {
    /// Seeds needed, and what the last of them showed.
    found: Option<(u64, Finding)>,
    /// Instances that are errors, and runs that did not go through.
    errors: Vec<String>,
}

/// The first fail.
struct Finding {
    id: String,
    reason: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.reason)
    }
}

/// The families whose verdicts are a CPU's.
fn families() -> Vec<Family> {
    Family::ALL.iter().copied().filter(|family| *family != Family::Selftest).collect()
}

fn select(names: &[String]) -> Result<Vec<Defect>, Unknown> {
    if names.is_empty() {
        return Ok(Defect::ALL.to_vec());
    }
    names.iter().map(|name| Defect::named(name).ok_or_else(|| Unknown::Defect { name: name.clone() })).collect()
}

/// Runs `instances` on `profile` until one fails.
fn search(profile: Profile, instances: &[Instance], args: &Args) -> Cell {
    /// Simulated time after which an instance counts as hung, in ms.
    const TIMEOUT_MS: NonZeroU64 = NonZeroU64::new(4_000).expect("not 0");
    let mut cell = Cell::default();
    for seed in 1..=args.seeds.get() {
        let plan = Plan { settings: settings(seed, args.rounds, TIMEOUT_MS), instances: instances.to_vec() };
        let stop = AtomicBool::new(false);
        let mut found = None;
        let run = drive(&ModelTarget::of(profile, args.smp, seed), &plan, &stop, &mut |event| {
            if let (Event::Finished(finished, _), None) = (event, &found) {
                let case = judge(finished).case;
                if let Some(how) = died(finished) {
                    cell.errors.push(format!("seed {seed}: {}: {how}", case.id));
                    return Ok(());
                }
                match case.verdict {
                    Class::Fail => {
                        found = Some(Finding { id: case.id, reason: case.reason });
                        stop.store(true, Ordering::Relaxed);
                    }
                    Class::Error => cell.errors.push(format!("seed {seed}: {}: {}", case.id, case.reason)),
                    _ => {}
                }
            }
            Ok(())
        });
        if let Some(finding) = found {
            cell.found = Some((seed, finding));
            break;
        }
        if let Err(failure) = run {
            cell.errors.push(format!("seed {seed}: {failure}"));
        }
    }
    cell
}

/// Runs families on `row`'s CPU, those with the fewest instances first, until one finds the defect; all, if it has none.
fn search_quickly(row: &Row, families: &[Vec<Instance>], args: &Args) -> Vec<Option<Cell>> {
    let mut order: Vec<usize> = (0..families.len()).collect();
    order.sort_by_key(|family| families[*family].len());
    let mut cells: Vec<Option<Cell>> = families.iter().map(|_| None).collect();
    for family in order {
        let cell = search(row.profile, &families[family], args);
        let found = cell.found.is_some();
        cells[family] = Some(cell);
        if found && row.defect.is_some() {
            break;
        }
    }
    cells
}

/// A row of the matrix.
struct Row {
    /// None is a control: the sound CPU, on which the same runs must find nothing.
    defect: Option<Defect>,
    profile: Profile,
}

impl Row {
    fn name(&self) -> String {
        self.defect.map_or_else(|| format!("none ({})", self.profile.name), |defect| defect.to_string())
    }
}

/// The controls for `defects`, and they themselves.
fn rows(defects: &[Defect]) -> Vec<Row> {
    let sound = |defect: &Defect| Profile::named(defect.profile()).expect("a profile's own name");
    let names: BTreeSet<&str> = defects.iter().map(|defect| defect.profile()).collect();
    let controls = names.into_iter().filter_map(Profile::named).map(|profile| Row { defect: None, profile });
    let defective = defects.iter().map(|defect| Row { defect: Some(*defect), profile: sound(defect).with(*defect) });
    controls.chain(defective).collect()
}

pub(super) fn main(args: &Args, out: &mut dyn io::Write) -> Result<Exit, Error> {
    let rows = rows(&select(&args.defects)?);
    let families = families();
    let instances: Vec<Vec<Instance>> =
        families.iter().map(|family| cases::all().filter(|instance| instance.family() == *family).collect()).collect();
    let cells: Vec<Option<Cell>> = if args.quick {
        on_all_cores("defects", &rows, |row| search_quickly(row, &instances, args)).into_iter().flatten().collect()
    } else {
        let jobs: Vec<(Profile, &[Instance])> =
            rows.iter().flat_map(|row| instances.iter().map(|instances| (row.profile, instances.as_slice()))).collect();
        on_all_cores("defects", &jobs, |(profile, instances)| Some(search(*profile, instances, args)))
    };
    let rows = || rows.iter().zip(cells.chunks(families.len()));

    let width = rows().map(|(row, _)| row.name().len()).max().unwrap_or(0);
    write!(out, "{:width$}", "")?;
    for family in &families {
        write!(out, " {:>7}", family.name())?;
    }
    writeln!(out)?;
    for (row, cells) in rows() {
        write!(out, "{:width$}", row.name())?;
        for cell in cells {
            let seeds = match cell {
                None => ".".to_owned(),
                Some(cell) => cell.found.as_ref().map_or("-".to_owned(), |(seeds, _)| seeds.to_string()),
            };
            write!(out, " {seeds:>7}")?;
        }
        writeln!(out)?;
    }
    writeln!(out)?;

    let (mut as_listed, mut looked, mut found) = (true, true, 0);
    for (row, cells) in rows() {
        let first = cells.iter().flatten().filter_map(|cell| cell.found.as_ref()).min_by_key(|(seeds, _)| *seeds);
        match row.defect {
            Some(defect) => write!(out, "{defect} on {}: ", row.profile.name)?,
            None => write!(out, "{}: ", row.name())?,
        }
        match (first, row.defect.map(owed)) {
            (Some((seed, finding)), None) => {
                as_listed = false;
                writeln!(out, "A SOUND CPU FAILS: seed {seed}: {finding}")?;
            }
            (None, None) => writeln!(out, "nothing found, as it must be")?,
            (Some((seed, finding)), Some(None)) => {
                found += 1;
                writeln!(out, "seed {seed}: {finding}")?;
            }
            (None, Some(Some(Owed { issue, family, why }))) => {
                writeln!(out, "owed to family {family} (issue {issue}): {why}")?;
            }
            (Some((seed, finding)), Some(Some(_))) => {
                as_listed = false;
                writeln!(out, "listed as owed, but found: seed {seed}: {finding}")?;
            }
            (None, Some(None)) => {
                as_listed = false;
                writeln!(out, "NOT FOUND")?;
            }
        }
        let errors: Vec<&String> = cells.iter().flatten().flat_map(|cell| &cell.errors).collect();
        if let Some(error) = errors.first() {
            // Who fell over before anything was found has not looked.
            looked &= first.is_some();
            writeln!(out, "  {} errors of the harness; the first: {error}", errors.len())?;
        }
    }
    let defects = rows().filter(|(row, _)| row.defect.is_some()).count();
    writeln!(out, "{found} of {defects} defects found")?;
    Ok(match (as_listed, looked) {
        (false, _) => Exit::Forbidden,
        (true, false) => Exit::Platform,
        (true, true) => Exit::Clean,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever is not owed has to be found, so what is owed must be little, and name a family that is not there.
    #[test]
    fn what_is_owed_is_little_and_named() {
        let owed: Vec<Owed> = Defect::ALL.iter().filter_map(|defect| owed(*defect)).collect();
        assert!(owed.len() * 3 <= Defect::ALL.len(), "{} owed", owed.len());
        for Owed { issue, family, why } in owed {
            assert!(issue > 3 && Family::parse(family).is_none() && !why.is_empty(), "{family}");
        }
    }

    #[test]
    fn names_select_and_unknown_ones_are_answered_with_all() {
        assert_eq!(select(&[]).expect("all"), Defect::ALL);
        assert_eq!(select(&["torn".to_owned()]).expect("one"), [Defect::Torn]);
        let message = select(&["torm".to_owned()]).expect_err("unknown").to_string();
        assert!(Defect::ALL.iter().all(|defect| message.contains(defect.name())), "{message}");
    }
}
