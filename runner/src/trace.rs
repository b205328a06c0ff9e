//! `shatter run --trace`: what the model did before the first forbidden outcome of an instance that failed.
//!
//! The model sets events aside wherever a payload counts an outcome for the first time ([`model::trace`]). The judge
//! says which outcome was forbidden; the events before its first occurrence become a text file beside the results.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    sync::PoisonError,
};

use model::trace::{Mark, Marks};
use vmsa::verdict::Class;

use crate::{
    platform::model::KIND,
    results::{self, CaseResult, Outcome},
};

/// Where the traces of a CPU stand below the results directory `out`: beside its result file.
#[must_use]
pub fn directory(out: &Path, cpu: &str) -> PathBuf {
    results::path(out, KIND, cpu).with_extension("trace")
}

/// The trace of `case`, if it failed by an outcome that a payload counted. The instance's marks are taken out of `marks`.
#[must_use]
pub fn of(case: &CaseResult, cpu: &str, command: &str, marks: &Marks) -> Option<String> {
    let instance = wire::frame::crc32(case.id.as_bytes());
    let mut all = marks.lock().unwrap_or_else(PoisonError::into_inner);
    let (mine, others) = std::mem::take(&mut *all).into_iter().partition(|mark| mark.instance == instance);
    *all = others;
    drop(all);
    if case.verdict != Class::Fail {
        return None;
    }
    let mine: Vec<Mark> = mine;
    let forbidden = case.outcomes.iter().filter(|outcome| !outcome.allowed);
    let (outcome, mark) = forbidden
        .filter_map(|outcome| Some((outcome, mine.iter().find(|mark| is_first(mark, outcome))?)))
        .min_by_key(|(_, mark)| mark.time)?;
    Some(text(case, cpu, command, outcome, mark))
}

/// Whether `mark` is where `outcome` was first seen.
fn is_first(mark: &Mark, outcome: &Outcome) -> bool {
    (mark.phase, mark.kind, mark.round) == (outcome.phase as u64, u64::from(outcome.kind.code()), outcome.first.round)
}

fn text(case: &CaseResult, cpu: &str, command: &str, outcome: &Outcome, mark: &Mark) -> String {
    let CaseResult { id, reason, .. } = case;
    let Outcome { phase, kind, rule, first, .. } = outcome;
    let what = format!("{phase}: {kind}");
    let mut text = format!(
        "{id} on {cpu}: {reason}\n\
         First forbidden outcome: {what} (rule {rule}), first in round {}, on PE {}, ESR {}, FAR {}, PC {}, value {}.\n\
         Again with: {command}\n\n\
         Times are in instructions of all PEs, up to the outcome's being counted.\n\n\
         {:>10}  PE  event\n",
        first.round, mark.pe, first.esr, first.far, first.pc, first.value, "time",
    );
    for event in &mark.events {
        let before = mark.time.saturating_sub(event.time);
        writeln!(text, "{:>10}  {:>2}  {:<8} {}", -(before as i64), event.pe, event.what, event.details)
            .expect("a string takes everything");
    }
    writeln!(text, "{:>10}  {:>2}  {:<8} {what}", 0, mark.pe, "counted").expect("a string takes everything");
    text
}

/// Stores the trace of an instance, or removes an earlier run's; where it stands.
///
/// # Errors
/// If the file cannot be written.
pub fn store(directory: &Path, id: &str, text: Option<&str>) -> io::Result<Option<PathBuf>> {
    let path = directory.join(format!("{id}.txt"));
    let Some(text) = text else {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(None),
        };
    };
    fs::create_dir_all(directory)?;
    fs::write(&path, text)?;
    Ok(Some(path))
}
