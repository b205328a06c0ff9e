//! `shatter bench`: what the harness costs.
//!
//! Figures are of this machine's emulators and say nothing about a CPU. They are taken from the same runs as results
//! are, with as few rounds as an instance can have, so that what is measured is the harness. The selftests are left out
//! of QEMU's rates: several of them end by design when somebody's patience does, and would measure that. The model's
//! patience is counted in its own instructions, so that there they are a part of the catalogue like others.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fs::{self, File},
    io,
    num::NonZeroU64,
    sync::atomic::AtomicBool,
    time::Instant,
};

use chrono::DateTime;
use model::machine::FREQUENCY;
use vmsa::{BbmLevel, Instance, instance::Family, outcome::End};
use wire::abi::Part;

use crate::{
    compare::{self, Comparison, waivers},
    doctor, guest, ingest, judge,
    plan::Plan,
    platform::{
        model::{ModelTarget, USUAL},
        qemu::{self, Hardware, Qemu},
    },
    report::{self, TableFormat},
    results::{self, Cpu, Evidence, Hex, Platform, ResultFile, Run, Tool},
    run::{HardwareArgs, On, settings},
    target::{Event, Failure, Target, drive},
};

/// The instances whose rounds are timed: one remote observer, and all other vCPUs.
const TIMED: [&str; 4] = [
    "el1.remap.4k-l3-rw.bbm.load-remote",
    "el1.split.4k-l2.bbm.load-remote",
    "el1.split.4k-l2.direct.load-remote",
    "el1.split.4k-l2.bbm.load-all",
];

/// Their rounds on QEMU.
const ROUNDS: NonZeroU64 = NonZeroU64::new(20_000).expect("not 0");

/// Their rounds on the model, of which half are taken away again with all that is not a round.
const MODEL_ROUNDS: [NonZeroU64; 2] = [NonZeroU64::new(500).expect("not 0"), NonZeroU64::new(1000).expect("not 0")];

/// Watchdog in milliseconds; ample for [`ROUNDS`].
const TIMEOUT_MS: NonZeroU64 = NonZeroU64::new(60_000).expect("not 0");

/// How often everything is measured; the median is shown.
const REPEATS: usize = 3;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Of {
    /// Emulators: instances and rounds.
    Machines,
    /// Logs and sets of results.
    Files,
}

/// Bytes of the log that is read, and files and cases of the sets that are compared.
const LOG: u64 = 1 << 30;
const FILES: usize = 10_000;
const CASES: usize = 20;

/// What to measure on.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// What to measure; all, if nothing is named
    #[arg(long, value_enum)]
    pub of: Option<Of>,
    /// The platform to measure; both, if none is named and QEMU is there
    #[arg(long, value_enum)]
    pub on: Option<On>,
    /// The CPU that QEMU emulates
    #[arg(long, value_name = "NAME", default_value = "max")]
    pub cpu: String,
    /// The machine's hardware, where it is not what is measured.
    #[command(flatten)]
    pub hardware: HardwareArgs,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no usable QEMU.
    #[error("{source}\n\n{}", doctor::advice(source))]
    Qemu {
        /// What is the matter.
        #[from]
        source: qemu::Error,
    },
    /// A run failed.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// The sets of results cannot be made.
    #[error(transparent)]
    Results(#[from] results::Error),
    /// Nothing could be executed.
    #[error("{cpu}: no instance came to its end; `shatter run` tells more")]
    Nothing {
        /// On which CPU.
        cpu: String,
    },
    /// Nothing can be written.
    #[error("failed to write the figures: {0}")]
    Output(#[from] io::Error),
}

/// Measures, and writes the figures to `out` as they come.
///
/// # Errors
/// If QEMU is asked for and cannot be used, a run fails, or nothing can be written.
pub fn main(args: &Args, out: &mut dyn io::Write) -> Result<(), Error> {
    if args.of != Some(Of::Files) {
        machines(args, out)?;
    }
    if args.of != Some(Of::Machines) {
        files(out)?;
    }
    Ok(())
}

fn machines(args: &Args, out: &mut dyn io::Write) -> Result<(), Error> {
    let payloads: usize = guest::PAYLOADS.iter().map(|(_, payload)| payload.len()).sum();
    writeln!(out, "Image: {} bytes, {} payloads: {payloads} bytes", guest::IMAGE.len(), guest::PAYLOADS.len())?;
    if args.on != Some(On::Model) {
        match Qemu::find() {
            Ok(qemu) => of_qemu(&qemu, args, out)?,
            Err(error) if args.on.is_some() => return Err(error.into()),
            Err(error) => writeln!(out, "\nNo figures of QEMU: {error}")?,
        }
    }
    if args.on != Some(On::Qemu) {
        of_rounds(out)?;
        of_model(out)?;
    }
    Ok(())
}

/// Figures of logs and sets of results.
fn files(out: &mut dyn io::Write) -> Result<(), Error> {
    let speed = ingest::megabytes_per_second(LOG)?;
    writeln!(out, "\nA log of {LOG} bytes: {speed:.0} MB/s, {}", peak())?;
    let dir = tempfile::tempdir()?;
    let sets = ["base", "new"].map(|set| dir.path().join(set));
    let cases: Vec<String> = cases::all().take(CASES).map(|instance| instance.to_string()).collect();
    for set in &sets {
        fs::create_dir_all(set.join("board"))?;
        for number in 0..FILES {
            let name = format!("cpu{number}");
            // Not as a run saves its results, which waits for the disk each time.
            sample(&name, &cases).write_json(&mut File::create(results::path(set, "board", &name))?)?;
        }
    }
    let start = Instant::now();
    let options = compare::Options { rejudge: false, fail_on: &compare::FAIL_ON, waivers: waivers::Waivers::default() };
    let comparison = Comparison::of(&sets[0], &sets[1], options)?;
    assert!(comparison.differences.is_empty(), "the sets are the same");
    let took = start.elapsed().as_secs_f64();
    writeln!(out, "Two sets of {FILES} files of {CASES} cases each compared in {took:.1} s, {}", peak())?;
    let start = Instant::now();
    let files: Vec<ResultFile> = judge::load_all(&sets[0], false)?.into_iter().map(|loaded| loaded.file).collect();
    report::table(&files, TableFormat::Md, &mut io::sink())?;
    let took = start.elapsed().as_secs_f64();
    writeln!(out, "One of them as a table in {took:.1} s, {}", peak())?;
    Ok(())
}

/// A result file like others, of `name`.
fn sample(name: &str, ids: &[String]) -> ResultFile {
    let text = |text: &str| text.to_owned();
    let tool = Tool { version: text("bench"), git: text("unknown"), image: text("sha256:0") };
    let platform = Platform {
        kind: text("board"),
        version: String::new(),
        command_line: String::new(),
        evidence: Evidence::Model,
    };
    let (registers, mpidrs, name) = (BTreeMap::new(), vec![Hex(0)], name.to_owned());
    let cpu = Cpu { name, midr: Hex(0x410f_d493), revidr: Hex(0), mpidrs, bbm: BbmLevel::L2, registers };
    let run = Run {
        seed: Hex(1),
        rounds: 64,
        passes: 1,
        patterns: None,
        planned: ids.len() as u64,
        added_controls: vec![],
        start: DateTime::UNIX_EPOCH,
        duration_ms: 0,
        lost_lines: 0,
    };
    let mut file = ResultFile::new(tool, platform, cpu, run);
    ids.iter().map(|id| judge::judge(&ingest::sample::finished(id, 64))).for_each(|entry| file.push(entry));
    file
}

/// The most memory that this process had so far, where the system tells.
fn peak() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(String::new, |most| format!("at most {} of memory so far", most.trim()))
}

/// QEMU's figures.
fn of_qemu(qemu: &Qemu, args: &Args, out: &mut dyn io::Write) -> Result<(), Error> {
    let hardware = args.hardware.hardware();
    writeln!(out, "\nQEMU {}, -cpu {}; medians of {REPEATS} boots", qemu.version(), args.cpu)?;
    let instances: Vec<Instance> = cases::all().filter(|instance| instance.family() != Family::Selftest).collect();
    for cpus in [1, 2, 4, 8] {
        let target = qemu.target(&args.cpu, Hardware { cpus, ..hardware.clone() });
        let figures = Figures::of_boots(&target, &instances, NonZeroU64::MIN)?;
        writeln!(out, "\n{cpus} CPU(s) in the machine, {} instances, each in a fresh VM:", figures.executed)?;
        writeln!(out, "  {:8.1} instances a second over the whole boot, QEMU's start included", figures.per_boot)?;
        writeln!(out, "  {:8.1} instances a second from the first to the last", figures.per_suite)?;
        writeln!(out, "  {:8.3} ms to set a VM up (mean over the instances)", figures.setup_ms)?;
        writeln!(out, "  {:8.3} ms to run it for one round (mean likewise)", figures.run_ms)?;
        writeln!(out, "  {:8.1} ms from starting QEMU to the first payload", figures.first_ms)?;
    }

    writeln!(out, "\nRounds a second, by CPUs in the machine:\n  {:36} {:>8} {:>8} {:>8}", "", 2, 4, 8)?;
    for id in TIMED {
        write!(out, "  {id:36}")?;
        for cpus in [2, 4, 8] {
            let target = qemu.target(&args.cpu, Hardware { cpus, ..hardware.clone() });
            write!(out, " {:8.0}", Figures::of_boots(&target, &[timed(id)], ROUNDS)?.rounds_per_second)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// The instance of `id`, one of [`TIMED`].
fn timed(id: &str) -> Instance {
    cases::find(id).expect("the catalogue has it, which a test checks")
}

/// What a round costs on the model, by its parts.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn of_rounds(out: &mut dyn io::Write) -> Result<(), Error> {
    /// PEs of the machine: one changes and one observes.
    const CPUS: u8 = 2;
    write!(
        out,
        "\nInstructions a round on the model {USUAL}, {CPUS} PEs; the changer's, then the observer's:\n  {:36}",
        ""
    )?;
    // What is not in a round is the same in both boots, and goes with the difference.
    let parts = || Part::ALL.into_iter().filter(|part| *part != Part::Frame);
    parts().try_for_each(|part| write!(out, " {:>8}", format!("{part:?}").to_lowercase()))?;
    writeln!(out, " {:>8}", "all")?;
    for id in TIMED {
        let mut boots = [[[0; Part::ALL.len()]; 2]; 2];
        for (boot, rounds) in boots.iter_mut().zip(MODEL_ROUNDS) {
            let target = ModelTarget::new(USUAL, CPUS, 0).expect("the profile's own name");
            Figures::of_boot(&target, &Plan { settings: settings(0, rounds, TIMEOUT_MS), instances: vec![timed(id)] })?;
            *boot = target.parts();
            // Which PE changes is drawn.
            boot.sort_by_key(|parts| Reverse(parts[Part::Sequence as usize]));
        }
        let rounds = (MODEL_ROUNDS[1].get() - MODEL_ROUNDS[0].get()) as f64;
        for (pe, label) in [id, ""].into_iter().enumerate() {
            let cost = |part: Part| (boots[1][pe][part as usize] as f64 - boots[0][pe][part as usize] as f64) / rounds;
            write!(out, "  {label:36}")?;
            parts().try_for_each(|part| write!(out, " {:8.0}", cost(part)))?;
            writeln!(out, " {:8.0}", parts().map(cost).sum::<f64>())?;
        }
    }
    Ok(())
}

/// The model's figures, of the whole catalogue and of one simulating thread.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn of_model(out: &mut dyn io::Write) -> Result<(), Error> {
    /// Rounds of each instance, as many as the audits make.
    const ROUNDS: NonZeroU64 = NonZeroU64::new(16).expect("not 0");
    /// PEs of the machine.
    const CPUS: u8 = 2;
    let instances: Vec<Instance> = cases::all().collect();
    for (profile, rounds) in [("benign", ROUNDS), (USUAL, NonZeroU64::MIN), (USUAL, ROUNDS)] {
        let target = ModelTarget::new(profile, CPUS, 0).expect("the profile's own name");
        let figures = Figures::of_boots(&target, &instances, rounds)?;
        // Each boot of a seed executes the same.
        let instructions = target.instructions() as f64 / REPEATS as f64;
        // One instruction is one tick of its clock.
        let thousands = |ms: f64| ms * FREQUENCY as f64 / 1e6;
        let (setup, run) = (thousands(figures.setup_ms), thousands(figures.run_ms));
        let rest = instructions / 1e3 / figures.executed - setup - run;
        writeln!(out, "\nmodel {profile}, {} instances of {rounds} round(s), on one core:", figures.executed)?;
        writeln!(out, "  {:8.2} s for the catalogue", figures.boot_s)?;
        writeln!(out, "  {:8.1} instances a second", figures.per_boot)?;
        writeln!(out, "  {:8.1} million simulated instructions a second", instructions / figures.boot_s / 1e6)?;
        writeln!(
            out,
            "  {:8.1} thousand of them an instance: {setup:.1} to set its VM up, {run:.1} to run it, {rest:.1} to tell",
            setup + run + rest
        )?;
    }
    Ok(())
}

/// What one boot showed, or the medians of several.
struct Figures {
    /// Instances that were executed, not skipped.
    executed: f64,
    /// Seconds of the whole boot.
    boot_s: f64,
    per_boot: f64,
    per_suite: f64,
    setup_ms: f64,
    run_ms: f64,
    first_ms: f64,
    rounds_per_second: f64,
}

impl Figures {
    fn of_boots(target: &dyn Target, instances: &[Instance], rounds: NonZeroU64) -> Result<Self, Error> {
        let settings = settings(0, rounds, TIMEOUT_MS);
        let plan = Plan { settings, instances: instances.to_vec() };
        let boots = (0..REPEATS).map(|_| Self::of_boot(target, &plan)).collect::<Result<Vec<_>, _>>()?;
        let median = |figure: fn(&Self) -> f64| {
            let mut figures: Vec<f64> = boots.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures[REPEATS / 2]
        };
        Ok(Self {
            executed: median(|boot| boot.executed),
            boot_s: median(|boot| boot.boot_s),
            per_boot: median(|boot| boot.per_boot),
            per_suite: median(|boot| boot.per_suite),
            setup_ms: median(|boot| boot.setup_ms),
            run_ms: median(|boot| boot.run_ms),
            first_ms: median(|boot| boot.first_ms),
            rounds_per_second: median(|boot| boot.rounds_per_second),
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "figures for people; 2^52 ns are 52 days")]
    fn of_boot(target: &dyn Target, plan: &Plan) -> Result<Self, Error> {
        let (mut executed, mut setup_ns, mut run_ns, mut rounds) = (0_u64, 0, 0, 0);
        // Of the first instance: when its start was announced, and how long its VM took from then on.
        let (mut first_start, mut first_setup) = (None, None);
        let begin = Instant::now();
        drive(target, plan, &AtomicBool::new(false), &mut |event| {
            match event {
                Event::Started(_) => drop(first_start.get_or_insert_with(|| begin.elapsed())),
                Event::Finished(finished, _) if finished.end != End::Skipped => {
                    first_setup.get_or_insert(finished.setup_ns);
                    executed += 1;
                    setup_ns += finished.setup_ns;
                    run_ns += finished.run_ns;
                    rounds += finished.report.rounds;
                }
                _ => {}
            }
            Ok(())
        })?;
        let whole = begin.elapsed().as_secs_f64();
        let (Some(start), Some(setup)) = (first_start, first_setup) else {
            return Err(Error::Nothing { cpu: target.cpu().to_owned() });
        };
        let start = start.as_secs_f64();
        Ok(Self {
            executed: executed as f64,
            boot_s: whole,
            per_boot: executed as f64 / whole,
            per_suite: executed as f64 / (whole - start),
            setup_ms: setup_ns as f64 / 1e6 / executed as f64,
            run_ms: run_ns as f64 / 1e6 / executed as f64,
            first_ms: start * 1e3 + setup as f64 / 1e6,
            rounds_per_second: rounds as f64 * 1e9 / run_ns as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_has_the_instances_that_are_timed() {
        for id in TIMED {
            assert!(cases::find(id).is_some(), "{id}");
        }
    }
}
