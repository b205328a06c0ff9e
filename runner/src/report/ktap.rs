//! KTAP: one test a CPU, one subtest a case.
//!
//! What is `observed` passes, as it cannot fail: the diagnostics carry what was seen. `error` is `not ok` too, since a
//! harness that does not work has shown nothing.

use std::io;

use vmsa::verdict::Class;

use crate::{
    controls::statement,
    report::{histogram, honesty},
    results::{CaseResult, ResultFile},
};

const fn ok(class: Class) -> &'static str {
    match class {
        Class::Pass | Class::Observed | Class::Skip => "ok",
        Class::Fail | Class::Error => "not ok",
    }
}

/// Writes `files` as one KTAP document.
///
/// # Errors
/// Those of `out`.
pub fn write(files: &[ResultFile], out: &mut dyn io::Write) -> io::Result<()> {
    writeln!(out, "KTAP version 1\n1..{}", files.len())?;
    for (i, file) in files.iter().enumerate() {
        writeln!(out, "  KTAP version 1\n  1..{}", file.cases.len())?;
        if let Some(statement) = honesty(file.platform.evidence) {
            writeln!(out, "  # {statement}")?;
        }
        if let Some(statement) = statement(file) {
            writeln!(out, "  # {statement}")?;
        }
        for (j, case) in file.cases.iter().enumerate() {
            self::case(j + 1, case, out)?;
        }
        let worst = if file.worthless.is_some() || file.cases.iter().any(|case| ok(case.verdict) == "not ok") {
            "not ok"
        } else {
            "ok"
        };
        writeln!(out, "{worst} {} {}.{}", i + 1, file.platform.kind, file.cpu_name())?;
    }
    Ok(())
}

fn case(number: usize, case: &CaseResult, out: &mut dyn io::Write) -> io::Result<()> {
    // A `#` would begin a directive.
    let reason = case.reason.replace(['#', '\n'], " ");
    if !matches!(case.verdict, Class::Pass | Class::Skip) {
        writeln!(out, "  # {}: {reason}\n  # {}", case.verdict, histogram(case))?;
    }
    match case.verdict {
        Class::Skip => writeln!(out, "  ok {number} {} # SKIP {reason}", case.id),
        class => writeln!(out, "  {} {number} {}", ok(class), case.id),
    }
}
