//! `shatter audit`: the suite tested against itself, on the model.

mod mutants;
mod profiles;

use std::{io, num::NonZeroU64};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{cli::Exit, parallel, plan::NothingMatches};

/// What to test.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Audit {
    /// Sound CPUs: no instance may fail on any of the model's profiles, whatever the seed
    Profiles(profiles::Args),
    /// Wrong software: every mistake in an update sequence must be caught on one of the model's profiles
    Mutants(mutants::Args),
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

/// Runs the audit and writes its report to `out`.
///
/// # Errors
/// If nothing was selected, or `out` cannot be written.
pub fn main(audit: &Audit, out: &mut dyn io::Write) -> Result<Exit, Error> {
    match audit {
        Audit::Profiles(args) => profiles::main(args, out),
        Audit::Mutants(args) => mutants::main(args, out),
    }
}

/// Simulated time after which an instance counts as hung, in ms.
const TIMEOUT_MS: NonZeroU64 = NonZeroU64::new(60_000).expect("not 0");

/// Does `job` to each of `items` on all cores, showing `what` this is and how far it has come, and returns what came of them in their order.
fn on_all_cores<T: Sync, R: Send>(what: &str, items: &[T], job: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} runs, {eta} left").expect("a constant");
    let bar = ProgressBar::new(items.len() as u64).with_style(style).with_prefix(what.to_owned());
    let done = parallel::map(parallel::cores(), items, |item| {
        let result = job(item);
        bar.inc(1);
        result
    });
    bar.finish_and_clear();
    done
}
