//! A comparison for people, for a merge request, for programs and for CI systems.

use std::{fmt::Write as _, io};

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::{Comparison, Difference, waivers::Waived};
use crate::report::json;

/// How a comparison is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum CompareFormat {
    /// A line a difference.
    Human,
    /// Markdown, fit for a comment on a merge request.
    Md,
    /// An object with an array of differences.
    Json,
    /// JUnit XML: a test a difference, one that fails the comparison being a failure.
    Junit,
}

/// Differences of one CPU that Markdown shows before it folds them up, and those that it shows at all: comments have a limit.
const UNFOLDED: usize = 20;
const SHOWN: usize = 200;

impl Comparison {
    /// Writes it to `out`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, format: CompareFormat, out: &mut dyn io::Write) -> io::Result<()> {
        match format {
            CompareFormat::Human => self.human(out),
            CompareFormat::Md => out.write_all(self.markdown().as_bytes()),
            CompareFormat::Json => json::value(self, 2, out),
            CompareFormat::Junit => out.write_all(self.junit().to_string().map_err(io::Error::other)?.as_bytes()),
        }
    }

    /// How many there are, and of what weight.
    fn summary(&self) -> String {
        let waived = self.differences.iter().filter(|difference| difference.waived.is_some()).count();
        let mut summary = format!("{} differences, {} regressions (!)", self.differences.len(), self.regressions);
        if waived > 0 {
            let _ = write!(summary, ", {waived} waived (w)");
        }
        let verdict = match self.failures {
            0 => String::new(),
            failures => format!(": fails by {failures} (!!)"),
        };
        summary + &verdict
    }

    fn human(&self, out: &mut dyn io::Write) -> io::Result<()> {
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        let mut cpu = "";
        for difference in &self.differences {
            if cpu != difference.cpu {
                cpu = &difference.cpu;
                writeln!(out, "{cpu}")?;
            }
            writeln!(out, "{:<2} {}", mark(difference), line(difference))?;
        }
        writeln!(out, "{}", self.summary())
    }

    fn markdown(&self) -> String {
        let mut text = format!(
            "### shatter compare: {}\n\n{}\n",
            if self.failures == 0 { "passed" } else { "failed" },
            self.summary()
        );
        for note in &self.notes {
            let _ = writeln!(text, "\n> {note}");
        }
        for of_cpu in self.differences.chunk_by(|a, b| a.cpu == b.cpu) {
            let cpu = &of_cpu[0].cpu;
            let fold = of_cpu.len() > UNFOLDED;
            let head = format!("{cpu}: {} differences", of_cpu.len());
            let _ = match fold {
                true => write!(text, "\n<details><summary>{head}</summary>\n\n"),
                false => write!(text, "\n**{head}**\n\n"),
            };
            text += "| | kind | difference |\n|---|---|---|\n";
            // What it fails by is never cut.
            let (fails, rest): (Vec<_>, Vec<_>) = of_cpu.iter().partition(|difference| difference.fails);
            for difference in fails.iter().chain(&rest).take(SHOWN) {
                let detail = (difference.change.detail() + &excuse(difference)).replace('|', "\\|");
                let _ = writeln!(text, "| {} | {} | {detail} |", mark(difference), difference.change.label());
            }
            if of_cpu.len() > SHOWN {
                let _ = writeln!(text, "\n{} more are left out here; `--format json` has all.", of_cpu.len() - SHOWN);
            }
            if fold {
                text += "\n</details>\n";
            }
        }
        text
    }

    fn junit(&self) -> Report {
        let mut report = Report::new("shatter compare");
        for of_cpu in self.differences.chunk_by(|a, b| a.cpu == b.cpu) {
            let mut suite = TestSuite::new(of_cpu[0].cpu.replace('/', "."));
            for difference in of_cpu {
                let text = line(difference);
                let mut status = match (difference.fails, &difference.waived) {
                    (true, _) => TestCaseStatus::non_success(NonSuccessKind::Failure),
                    (false, Some(_)) => TestCaseStatus::skipped(),
                    (false, None) => TestCaseStatus::success(),
                };
                if difference.fails || difference.waived.is_some() {
                    status.set_message(text.clone());
                }
                let about = difference.change.id().unwrap_or("cpu");
                let mut test = TestCase::new(format!("{}: {about}", difference.change.kind()), status);
                test.set_classname(suite.name.as_str());
                test.set_system_out(text);
                suite.add_test_case(test);
            }
            report.add_test_suite(suite);
        }
        // One that has no difference has passed, and must not look as if nothing had run.
        let mut whole = TestSuite::new("comparison");
        for note in &self.notes {
            whole.add_property(("note", note.as_str()));
        }
        let mut status = TestCaseStatus::success();
        if self.failures > 0 {
            status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(self.summary());
        }
        let mut test = TestCase::new("comparison", status);
        test.set_system_out(self.summary());
        whole.add_test_case(test);
        report.add_test_suite(whole);
        report
    }
}

/// What stands in front of a difference.
const fn mark(difference: &Difference) -> &'static str {
    match difference {
        Difference { fails: true, .. } => "!!",
        Difference { waived: Some(_), .. } => "w",
        Difference { regression: true, .. } => "!",
        _ => "",
    }
}

/// A difference in a line.
fn line(difference: &Difference) -> String {
    difference.change.to_string() + &excuse(difference)
}

/// Why it does not count, if it does not.
fn excuse(difference: &Difference) -> String {
    let excuse = |waived: &Waived| format!(" [waived until {}: {}]", waived.until, waived.reason);
    difference.waived.as_ref().map_or_else(String::new, excuse)
}
