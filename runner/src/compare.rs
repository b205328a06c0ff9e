//! `shatter compare`: what changed between two sets of results, by kind of change.
//!
//! A pair of numbers that differ says little. What matters is typed: a verdict that changed, an outcome that was never
//! seen before, a case that is no longer covered, a control that does not hold any more, a CPU that says something else
//! about itself, evidence of another worth. Some of them are a regression: what was good is bad, or is not known any
//! more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
};

use serde::Serialize;
use vmsa::verdict::Class;

use crate::{
    report::json,
    results::{CaseResult, Loaded, ResultFile},
};

/// How a comparison is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum CompareFormat {
    /// A line a difference.
    Human,
    /// An object with an array of differences.
    Json,
}

/// What differs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Change {
    /// Another verdict. A case that the base does not have has none there.
    Verdict {
        /// The case.
        id: String,
        /// Its verdict in the base.
        base: Option<&'static str>,
        /// Its verdict now.
        new: &'static str,
        /// Why.
        reason: String,
    },
    /// An outcome that the base never saw in a case that it ran.
    NewOutcome {
        /// The case.
        id: String,
        /// When it was seen.
        phase: String,
        /// What was seen.
        outcome: String,
        /// How often.
        count: u64,
        /// Whether the architecture allows it.
        allowed: bool,
    },
    /// A case that the base ran and that was not run now, or only skipped.
    CoverageLost {
        /// The case.
        id: String,
        /// Its verdict in the base.
        base: &'static str,
    },
    /// A whole CPU that the base has.
    CpuLost,
    /// A CPU that the base does not have.
    CpuNew,
    /// The CPU says something else about itself.
    Capability {
        /// The register or level.
        what: String,
        /// In the base; none where it was not recorded.
        base: Option<String>,
        /// Now; likewise.
        new: Option<String>,
    },
    /// A control came out otherwise, or is gone.
    Control {
        /// The case.
        id: String,
        /// Whether it held in the base.
        base: Option<bool>,
        /// Whether it holds now.
        new: Option<bool>,
    },
    /// The results are not worth the same, or were made by different platforms.
    Evidence {
        /// In the base.
        base: String,
        /// Now.
        new: String,
    },
}

/// A change on one CPU.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Difference {
    /// `<platform>/<cpu>`.
    pub cpu: String,
    /// Whether it is for the worse.
    pub regression: bool,
    /// What differs.
    #[serde(flatten)]
    pub change: Change,
}

const fn bad(verdict: &str) -> bool {
    matches!(verdict.as_bytes(), b"fail" | b"error")
}

impl Change {
    /// Whether the change is for the worse: a new fail or error, lost coverage, a control that fails.
    #[must_use]
    pub fn is_regression(&self) -> bool {
        match self {
            Self::Verdict { base, new, .. } => bad(new) && !base.is_some_and(bad),
            Self::NewOutcome { allowed, .. } => !allowed,
            Self::CoverageLost { .. } | Self::CpuLost => true,
            Self::Control { base, new, .. } => *new != Some(true) && *base != Some(false),
            Self::CpuNew | Self::Capability { .. } | Self::Evidence { .. } => false,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = |held: &Option<bool>| match held {
            Some(true) => "held",
            Some(false) => "failed",
            None => "absent",
        };
        let or_absent = |text: &Option<String>| text.clone().unwrap_or_else(|| "absent".to_owned());
        match self {
            Self::Verdict { id, base, new, reason } => {
                write!(f, "verdict      {id}: {} -> {new} ({reason})", base.unwrap_or("absent"))
            }
            Self::NewOutcome { id, phase, outcome, count, allowed } => {
                let allowed = if *allowed { "allowed" } else { "forbidden" };
                write!(f, "new outcome  {id}: {outcome} {phase}, {count} times ({allowed})")
            }
            Self::CoverageLost { id, base } => write!(f, "not covered  {id}: was {base}"),
            Self::CpuLost => f.write_str("not covered  the whole CPU"),
            Self::CpuNew => f.write_str("new CPU      the base has no results for it"),
            Self::Capability { what, base, new } => {
                write!(f, "capability   {what}: {} -> {}", or_absent(base), or_absent(new))
            }
            Self::Control { id, base, new } => write!(f, "control      {id}: {} -> {}", held(base), held(new)),
            Self::Evidence { base, new } => write!(f, "evidence     {base} -> {new}"),
        }
    }
}

/// All differences between two sets of results.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Comparison {
    /// How many of the differences are for the worse.
    pub regressions: usize,
    /// The differences, CPU by CPU.
    pub differences: Vec<Difference>,
}

impl Comparison {
    /// Compares two sets. CPUs are matched by platform and name; where each side is a single file, these two are
    /// compared whatever their names.
    #[must_use]
    pub fn of(base: &[Loaded], new: &[Loaded]) -> Self {
        let mut differences = Vec::new();
        if let ([base], [new]) = (base, new) {
            compare(&base.file, &new.file, &mut differences);
        } else {
            let (base, new) = (by_name(base), by_name(new));
            for name in base.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
                match (base.get(name), new.get(name)) {
                    (Some(base), Some(new)) => compare(base, new, &mut differences),
                    (Some(_), None) => push(&mut differences, name, Change::CpuLost),
                    _ => push(&mut differences, name, Change::CpuNew),
                }
            }
        }
        Self { regressions: differences.iter().filter(|d| d.regression).count(), differences }
    }

    /// Writes it to `out`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, format: CompareFormat, out: &mut dyn io::Write) -> io::Result<()> {
        if format == CompareFormat::Json {
            return json::value(self, 2, out);
        }
        let mut cpu = "";
        for difference in &self.differences {
            if cpu != difference.cpu {
                cpu = &difference.cpu;
                writeln!(out, "{cpu}")?;
            }
            let mark = if difference.regression { '!' } else { ' ' };
            writeln!(out, "{mark} {}", difference.change)?;
        }
        writeln!(out, "{} differences, {} regressions (!)", self.differences.len(), self.regressions)
    }
}

fn by_name(files: &[Loaded]) -> BTreeMap<String, &ResultFile> {
    files.iter().map(|loaded| (loaded.file.name(), &loaded.file)).collect()
}

fn push(differences: &mut Vec<Difference>, cpu: &str, change: Change) {
    differences.push(Difference { cpu: cpu.to_owned(), regression: change.is_regression(), change });
}

fn compare(base: &ResultFile, new: &ResultFile, differences: &mut Vec<Difference>) {
    let cpu = new.name();
    let mut push = |change| push(differences, &cpu, change);

    let evidence = |file: &ResultFile| format!("{} ({})", file.platform.evidence, file.name());
    if base.platform.evidence != new.platform.evidence || base.platform.kind != new.platform.kind {
        push(Change::Evidence { base: evidence(base), new: evidence(new) });
    }
    let (said, says) = (capabilities(base), capabilities(new));
    for what in said.keys().chain(says.keys()).collect::<BTreeSet<_>>() {
        let (base, new) = (said.get(what).cloned(), says.get(what).cloned());
        if base != new {
            push(Change::Capability { what: what.clone(), base, new });
        }
    }

    let cases = |file: &ResultFile| -> BTreeMap<String, CaseResult> {
        file.cases.iter().map(|case| (case.id.clone(), case.clone())).collect()
    };
    let (before, now) = (cases(base), cases(new));
    for (id, old) in &before {
        match now.get(id).filter(|case| case.verdict != Class::Skip || old.verdict == Class::Skip) {
            Some(case) => compare_case(old, case, &mut push),
            None if old.verdict != Class::Skip => {
                push(Change::CoverageLost { id: id.clone(), base: old.verdict.name() });
            }
            None => {}
        }
    }
    for case in now.values().filter(|case| !before.contains_key(&case.id)) {
        let new = case.verdict.name();
        push(Change::Verdict { id: case.id.clone(), base: None, new, reason: case.reason.clone() });
    }

    let controls = |file: &ResultFile| -> BTreeMap<String, bool> {
        file.controls.iter().map(|control| (control.id.clone(), control.held)).collect()
    };
    let (held, holds) = (controls(base), controls(new));
    for id in held.keys().chain(holds.keys()).collect::<BTreeSet<_>>() {
        let (base, new) = (held.get(id).copied(), holds.get(id).copied());
        if base != new {
            push(Change::Control { id: id.clone(), base, new });
        }
    }
}

fn compare_case(old: &CaseResult, case: &CaseResult, push: &mut impl FnMut(Change)) {
    let id = &case.id;
    if old.verdict != case.verdict {
        push(Change::Verdict {
            id: id.clone(),
            base: Some(old.verdict.name()),
            new: case.verdict.name(),
            reason: case.reason.clone(),
        });
    }
    // A case that was skipped has no outcomes to compare with.
    if old.verdict == Class::Skip {
        return;
    }
    for seen in &case.outcomes {
        if !old.outcomes.iter().any(|outcome| (outcome.phase, outcome.kind) == (seen.phase, seen.kind)) {
            push(Change::NewOutcome {
                id: id.clone(),
                phase: seen.phase.to_string(),
                outcome: seen.kind.to_string(),
                count: seen.count,
                allowed: seen.allowed,
            });
        }
    }
}

/// What a CPU says about itself. MPIDRs are of the place, not of the CPU.
fn capabilities(file: &ResultFile) -> BTreeMap<String, String> {
    let named = [
        ("BBM level", file.cpu.bbm.to_string()),
        ("MIDR_EL1", file.cpu.midr.to_string()),
        ("REVIDR_EL1", file.cpu.revidr.to_string()),
    ];
    let registers = file.cpu.registers.iter().filter(|(name, _)| name.as_str() != "MPIDR_EL1");
    let registers = registers.map(|(name, value)| (name.clone(), value.to_string()));
    named.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(registers).collect()
}
