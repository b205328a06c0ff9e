//! The command line: what there is to ask, and what the exit code answers.

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use vmsa::descriptor::BadDescriptor;

use crate::{
    audit, bench,
    compare::{self, CompareFormat, Comparison, FailOn, waivers},
    doctor, explain, ingest, judge,
    list::{self, ListFormat},
    oracle, plan,
    report::{self, TableFormat},
    results, run,
};

const EXIT_CODES: &str = "\
Exit codes:
  0    nothing forbidden was seen
  1    a forbidden outcome, a regression, controls that failed, or something that an audit or an oracle found
  2    bad usage
  3    the platform failed, or the harness did on it (verdict `error`)
  4    nothing was selected
  5    what --until-seen waits for was not seen, and nothing forbidden
  130  interrupted; what was collected stays";

/// How the program ends. Of several, the greatest counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Exit {
    /// Nothing forbidden was seen.
    Clean,
    /// What it waited for was not seen.
    NotSeen,
    /// The platform failed, or the harness on it.
    Platform,
    /// The user interrupted it.
    Interrupted,
    /// A forbidden outcome, a regression, or controls that failed.
    Forbidden,
    /// It was asked for something that does not exist.
    Usage,
    /// Nothing was selected.
    NothingSelected,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Clean => 0,
            Exit::Forbidden => 1,
            Exit::Usage => 2,
            Exit::Platform => 3,
            Exit::NothingSelected => 4,
            Exit::NotSeen => 5,
            Exit::Interrupted => 130,
        })
    }
}

/// May live Arm page tables be changed here without break-before-make, and what happens if they are?
///
/// shatter boots every test case as its own payload under a small EL2 hypervisor, counts what observers see while
/// page tables change under them, and judges it by the Arm architecture's rules. Without a command it runs the whole
/// catalogue on QEMU, or on a model of its own where there is no QEMU.
#[derive(Debug, Parser)]
#[command(name = "shatter", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run instances and keep their results
    #[command(after_help = EXIT_CODES)]
    Run(run::Args),
    /// Show every instance, without booting anything
    List {
        /// Show only instances whose id contains FILTER, or is FILTER
        filters: Vec<String>,
        /// How to show them
        #[arg(long, value_enum, default_value = "human")]
        format: ListFormat,
    },
    /// Explain an instance: its transition, method, rules and allowed outcomes; or any change of a descriptor
    Explain {
        /// The instance's id
        #[arg(required_unless_present = "from")]
        id: Option<String>,
        #[command(flatten)]
        pair: explain::Pair,
    },
    /// Hold another model's verdicts against ours; exit code 1 if a row differs
    Oracle(oracle::Args),
    /// Show conformance tables over many CPUs
    Table {
        /// Result files, or directories with some [default: results]
        #[arg(value_name = "RESULT")]
        results: Vec<PathBuf>,
        /// How to show them
        #[arg(long, value_enum, default_value = "human")]
        format: TableFormat,
        /// Judge the stored outcomes again, by the rules of this version
        #[arg(long)]
        rejudge: bool,
    },
    /// Tell what differs between two sets of results; exit code 1 on what --fail-on says
    Compare {
        /// Result file or directory to compare with
        base: PathBuf,
        /// Result file or directory that is compared
        new: PathBuf,
        /// How to show the differences
        #[arg(long, value_enum, default_value = "human")]
        format: CompareFormat,
        /// By which differences the comparison fails [default: new-fail,coverage-lost,control-failed]
        #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND")]
        fail_on: Vec<FailOn>,
        /// TOML file of differences that are known, each with a reason and a date until which it counts; see docs/ci.md
        #[arg(long, value_name = "FILE")]
        waivers: Option<PathBuf>,
        /// The day for which waivers are looked at, as 2026-12-31
        #[arg(long, value_name = "DATE", hide = true)]
        today: Option<chrono::NaiveDate>,
        /// Judge the stored outcomes of both again, by the rules of this version
        #[arg(long)]
        rejudge: bool,
    },
    /// Make result files of a captured console, and tell what was lost
    #[command(after_help = EXIT_CODES)]
    Ingest(ingest::Args),
    /// Tell what is missing on this machine, and the command that mends it
    Doctor,
    /// Test the suite against itself, on the model; exit code 1 if anything is not as it must be
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Measure the harness: instances a second, VM set-up, boot, rounds a second
    Bench(bench::Args),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Run(#[from] run::Error),
    #[error(transparent)]
    Ingest(#[from] ingest::Error),
    #[error(transparent)]
    Audit(#[from] audit::Error),
    #[error(transparent)]
    Bench(#[from] bench::Error),
    #[error(transparent)]
    Descriptor(#[from] BadDescriptor),
    #[error(transparent)]
    Oracle(#[from] oracle::Error),
    #[error(transparent)]
    Nothing(#[from] plan::NothingMatches),
    #[error(transparent)]
    Results(#[from] results::Error),
    #[error("failed to write to standard output: {0}")]
    Output(#[from] io::Error),
}

impl Error {
    fn exit(&self) -> Exit {
        match self {
            // Whoever reads the output has seen enough: `shatter list | head`.
            Self::Output(error)
            | Self::Run(run::Error::Report(error))
            | Self::Ingest(ingest::Error::Report(error))
            | Self::Audit(audit::Error::Report(error))
            | Self::Bench(bench::Error::Output(error))
            | Self::Oracle(oracle::Error::Report(error))
                if error.kind() == io::ErrorKind::BrokenPipe =>
            {
                Exit::Clean
            }
            Self::Output(_) => Exit::Platform,
            Self::Run(error) => error.exit(),
            Self::Ingest(error) => error.exit(),
            Self::Audit(error) => error.exit(),
            Self::Bench(_) => Exit::Platform,
            Self::Nothing(_) => Exit::NothingSelected,
            Self::Oracle(oracle::Error::Report(_)) => Exit::Platform,
            Self::Results(_) | Self::Descriptor(_) | Self::Oracle(_) => Exit::Usage,
        }
    }
}

/// Runs the program with the arguments it was called with.
#[must_use]
pub fn main() -> ExitCode {
    let command = Cli::parse().command.or_else(|| Cli::parse_from(["shatter", "run"]).command);
    let command = command.expect("`run` is a command");
    match execute(command, &mut io::stdout()) {
        Ok(exit) => exit.into(),
        Err(error) => {
            let exit = error.exit();
            if exit != Exit::Clean {
                eprintln!("shatter: {error}");
            }
            exit.into()
        }
    }
}

fn execute(command: Command, out: &mut dyn io::Write) -> Result<Exit, Error> {
    match command {
        Command::Run(args) => return Ok(run::main(&args, out)?),
        Command::Audit(audit) => return Ok(audit::main(&audit, out)?),
        Command::Ingest(args) => return Ok(ingest::main(&args, out)?),
        Command::Bench(args) => bench::main(&args, out)?,
        Command::List { filters, format } => list::write(&plan::select(&filters)?, format, out)?,
        Command::Oracle(args) => return Ok(oracle::main(&args, out)?),
        Command::Explain { id, pair } => {
            if let Some(transition) = pair.transition()? {
                pair.write(&transition, out)?;
                return Ok(Exit::Clean);
            }
            let id = id.expect("one of the two is required");
            let instance = cases::find(&id).or_else(|| plan::scripted(&id));
            let instance = instance.ok_or_else(|| plan::NothingMatches::new(&id))?;
            explain::write(&instance, out)?;
        }
        Command::Table { results, format, rejudge } => {
            let paths = if results.is_empty() { vec![PathBuf::from("results")] } else { results };
            let mut files = vec![];
            for path in paths {
                files.extend(judge::load_all(&path, rejudge)?.into_iter().map(|loaded| loaded.file));
            }
            report::table(&files, format, out)?;
        }
        Command::Compare { base, new, format, fail_on, waivers, today, rejudge } => {
            let today = today.unwrap_or_else(|| chrono::Local::now().date_naive());
            let waivers = waivers.map(|path| waivers::Waivers::load(&path, today)).transpose()?.unwrap_or_default();
            let fail_on = if fail_on.is_empty() { &compare::FAIL_ON[..] } else { &fail_on };
            let comparison = Comparison::of(&base, &new, compare::Options { rejudge, fail_on, waivers })?;
            comparison.write(format, out)?;
            if comparison.failures > 0 {
                return Ok(Exit::Forbidden);
            }
        }
        Command::Doctor => {
            let (text, exit) = match doctor::examine() {
                Ok(text) => (text, Exit::Clean),
                Err(text) => (text, Exit::Platform),
            };
            out.write_all(text.as_bytes())?;
            return Ok(exit);
        }
    }
    Ok(Exit::Clean)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_command_that_repeats_a_run_asks_for_the_same() {
        let args = |words: &[&str]| match Cli::try_parse_from(words).expect("a valid command line").command {
            Some(Command::Run(args)) => args,
            other => panic!("{other:?} is not a run"),
        };
        for words in [
            &["shatter", "run"][..],
            &[
                "shatter",
                "run",
                "split",
                "remap",
                "--cpu",
                "all",
                "--rounds",
                "7",
                "--seed",
                "9",
                "--timeout-ms",
                "1000",
            ],
            &[
                "shatter",
                "run",
                "--cpu",
                "max,a64fx",
                "--gic",
                "2",
                "--smmu",
                "--mem",
                "512M",
                "--smp",
                "1",
                "--out",
                "elsewhere",
            ],
            &["shatter", "run", "--no-controls", "--time", "90s", "--until-seen", "torn@during"],
        ] {
            let command = args(words).command();
            let again = args(&command.replace('\'', "").split(' ').collect::<Vec<_>>());
            assert_eq!(again.command(), command);
            assert_eq!((again.filters, again.seed, again.rounds), {
                let first = args(words);
                (first.filters, first.seed, first.rounds)
            });
        }
    }

    #[test]
    fn a_forbidden_outcome_is_not_hidden_by_a_failed_platform() {
        assert!(Exit::Forbidden > Exit::Interrupted && Exit::Interrupted > Exit::Platform);
        assert!(Exit::Platform > Exit::Clean);
    }
}
