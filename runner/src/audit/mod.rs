//! `shatter audit`: the suite tested against itself, on the model.

mod defects;
mod profiles;

use std::io;

use indicatif::{ProgressBar, ProgressStyle};

use crate::{cli::Exit, parallel, plan::NothingMatches};

/// What to test.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Audit {
    /// Sound CPUs: no instance may fail on any of the model's profiles, whatever the seed
    Profiles(profiles::Args),
    /// CPUs with one mistake each: which families find it, and how many seeds they need
    Defects(defects::Args),
}

/// Why nothing was tested, or the report is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was selected.
    #[error(transparent)]
    Nothing(#[from] NothingMatches),
    /// There is no such defect.
    #[error(transparent)]
    Defect(#[from] defects::Unknown),
    /// The report could not be written.
    #[error("failed to write the report: {0}")]
    Report(#[from] io::Error),
}

/// Runs the audit and writes its report to `out`.
///
/// # Errors
/// If nothing was selected, a name is unknown, or `out` cannot be written.
pub fn main(audit: &Audit, out: &mut dyn io::Write) -> Result<Exit, Error> {
    match audit {
        Audit::Profiles(args) => profiles::main(args, out),
        Audit::Defects(args) => defects::main(args, out),
    }
}

/// Does `job` to each of `items` on all cores, showing how far it is, and returns what came of them in their order.
fn on_all_cores<T: Sync, R: Send>(items: &[T], job: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} runs, {eta} left").expect("a constant");
    let bar = ProgressBar::new(items.len() as u64).with_style(style);
    let done = parallel::map(parallel::cores(), items, |item| {
        let result = job(item);
        bar.inc(1);
        result
    });
    bar.finish_and_clear();
    done
}
