//! JUnit XML: one test suite a CPU, one test case an instance.

use std::{io, time::Duration};

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use vmsa::verdict::Class;

use crate::{
    controls::statement,
    report::{histogram, honesty},
    results::{CaseResult, ResultFile},
};

/// Writes `files` as one report.
///
/// # Errors
/// Those of `out`.
pub fn write(files: &[ResultFile], out: &mut dyn io::Write) -> io::Result<()> {
    let mut report = Report::new("shatter");
    report.add_test_suites(files.iter().map(suite));
    let text = report.to_string().map_err(io::Error::other)?;
    out.write_all(text.as_bytes())
}

fn suite(file: &ResultFile) -> TestSuite {
    let name = format!("{}.{}", file.platform.kind, file.cpu_name());
    let mut suite = TestSuite::new(name.as_str());
    suite.set_timestamp(file.run.start);
    suite.set_time(Duration::from_millis(file.run.duration_ms));
    for (name, value) in [
        ("evidence", file.platform.evidence.to_string()),
        ("midr", file.cpu.midr.to_string()),
        ("bbm", file.cpu.bbm.to_string()),
        ("seed", file.run.seed.to_string()),
        ("version", file.tool.version.clone()),
    ] {
        suite.add_property((name, value.as_str()));
    }
    if let Some(statement) = honesty(file.platform.evidence) {
        suite.add_property(("caveat", statement));
    }
    // A test of its own, since there may be none that failed.
    if let Some(statement) = statement(file) {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
        status.set_message(statement);
        suite.add_test_case(TestCase::new("controls", status));
    }
    suite.add_test_cases(file.cases.iter().map(|case| self::case(&name, case)));
    suite
}

fn case(suite: &str, case: &CaseResult) -> TestCase {
    let mut status = match case.verdict {
        Class::Pass | Class::Observed => TestCaseStatus::success(),
        Class::Skip => TestCaseStatus::skipped(),
        Class::Fail => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Class::Error => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    if !matches!(case.verdict, Class::Pass | Class::Observed) {
        status.set_message(case.reason.clone());
    }
    let mut test = TestCase::new(case.id.clone(), status);
    test.set_classname(suite);
    test.set_time(Duration::from_nanos(case.duration_ns));
    test.set_system_out(format!("{}: {}\n{}", case.verdict, case.reason, histogram(case)));
    test
}
