//! `shatter compare`: what changed between two sets of results, by kind of change.
//!
//! A pair of numbers that differ says little. What matters is typed: a verdict that changed, an outcome that was never
//! seen before, a case that is no longer covered, a control that does not hold any more, a CPU that says something else
//! about itself, evidence of another worth. Some of them are a regression: what was good is bad, or is not known any
//! more. What makes the exit code 1 is the caller's choice ([`FailOn`]); what is known and dated does not ([`waivers`]).
//!
//! # Rates
//! That an outcome came more often than last time is told only if chance does not explain it. Accesses of one round are not
//! independent of each other, so a round counts as one trial however many accesses it has. Two sets have thousands of rates,
//! of which one in twenty would stand out at 95 %: so the intervals are wider, for 95 % that *none* of all those that
//! are compared on a CPU stands out by chance (Bonferroni), and rates differ if theirs do not meet and one is at least
//! twice the other. What is timing only, on a machine that is twice as fast, stays below that or is told once.
//!
//! # Sets
//! Files are read twice, one at a time: first for their names, then pair by pair, so that sets may be of any size.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use serde::Serialize;
use vmsa::verdict::Class;

use crate::{
    judge,
    results::{self, CaseResult, Error, ResultFile},
    stats::{self, Interval},
};

mod render;
pub mod waivers;

pub use render::CompareFormat;
use waivers::{Waived, Waivers};

/// A kind of difference for which the comparison fails.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, clap::ValueEnum)]
pub enum FailOn {
    /// A new fail or error, or a forbidden outcome that was never seen before.
    NewFail,
    /// An instance or a CPU that is not run any more, or less than half as long.
    CoverageLost,
    /// A control that does not hold any more, or is gone.
    ControlFailed,
    /// Any outcome that was never seen before.
    NewOutcome,
    /// A rate that changed by more than chance.
    Rate,
    /// A CPU that says something else about itself.
    Capability,
    /// Evidence of another worth.
    Evidence,
    /// Any difference.
    Any,
    /// None.
    None,
}

/// What fails a comparison if nothing is said.
pub const FAIL_ON: [FailOn; 3] = [FailOn::NewFail, FailOn::CoverageLost, FailOn::ControlFailed];

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
    /// An outcome that came more often, or less, than chance explains.
    Rate {
        /// The case.
        id: String,
        /// The outcome and its phase, or `conflict aborts`.
        outcome: String,
        /// Of how many rounds in the base, with the interval of all rates that were compared.
        base: Interval,
        /// Now.
        new: Interval,
    },
    /// A case that was run less than half as often.
    FewerRounds {
        /// The case.
        id: String,
        /// Rounds in which an access overlapped the change, in the base.
        base: u64,
        /// Now.
        new: u64,
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
    /// Whether the comparison fails by it.
    pub fails: bool,
    /// Why it does not, if somebody has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waived: Option<Waived>,
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
            Self::CoverageLost { .. } | Self::CpuLost | Self::FewerRounds { .. } => true,
            Self::Control { base, new, .. } => *new != Some(true) && *base != Some(false),
            Self::CpuNew | Self::Rate { .. } | Self::Capability { .. } | Self::Evidence { .. } => false,
        }
    }

    /// Whether a comparison that fails on `kind` fails by it.
    fn is_of(&self, kind: FailOn) -> bool {
        match kind {
            FailOn::Any => true,
            FailOn::None => false,
            FailOn::NewFail => matches!(self, Self::Verdict { .. } | Self::NewOutcome { .. }) && self.is_regression(),
            FailOn::CoverageLost => {
                matches!(self, Self::CoverageLost { .. } | Self::CpuLost | Self::FewerRounds { .. })
            }
            FailOn::ControlFailed => matches!(self, Self::Control { .. }) && self.is_regression(),
            FailOn::NewOutcome => matches!(self, Self::NewOutcome { .. }),
            FailOn::Rate => matches!(self, Self::Rate { .. }),
            FailOn::Capability => matches!(self, Self::Capability { .. }),
            FailOn::Evidence => matches!(self, Self::Evidence { .. }),
        }
    }

    /// The kind's name, as JSON has it and waivers name it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Verdict { .. } => "verdict",
            Self::NewOutcome { .. } => "new-outcome",
            Self::Rate { .. } => "rate",
            Self::FewerRounds { .. } => "fewer-rounds",
            Self::CoverageLost { .. } => "coverage-lost",
            Self::CpuLost => "cpu-lost",
            Self::CpuNew => "cpu-new",
            Self::Capability { .. } => "capability",
            Self::Control { .. } => "control",
            Self::Evidence { .. } => "evidence",
        }
    }

    /// The case that it is about, if it is about one.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Verdict { id, .. }
            | Self::NewOutcome { id, .. }
            | Self::Rate { id, .. }
            | Self::FewerRounds { id, .. }
            | Self::CoverageLost { id, .. }
            | Self::Control { id, .. } => Some(id),
            Self::CpuLost | Self::CpuNew | Self::Capability { .. } | Self::Evidence { .. } => None,
        }
    }
}

impl Change {
    /// What a line on a terminal begins with.
    const fn label(&self) -> &'static str {
        match self {
            Self::CoverageLost { .. } | Self::CpuLost => "not covered",
            Self::NewOutcome { .. } => "new outcome",
            Self::FewerRounds { .. } => "fewer rounds",
            Self::CpuNew => "new CPU",
            _ => self.kind(),
        }
    }

    /// What differs, without a word on what kind of difference it is.
    fn detail(&self) -> String {
        let held = |held: &Option<bool>| match held {
            Some(true) => "held",
            Some(false) => "failed",
            None => "absent",
        };
        let or_absent = |text: &Option<String>| text.clone().unwrap_or_else(|| "absent".to_owned());
        match self {
            Self::Verdict { id, base, new, reason } => {
                format!("{id}: {} -> {new} ({reason})", base.unwrap_or("absent"))
            }
            Self::NewOutcome { id, phase, outcome, count, allowed } => {
                let allowed = if *allowed { "allowed" } else { "forbidden" };
                format!("{id}: {outcome} {phase}, {count} times ({allowed})")
            }
            Self::Rate { id, outcome, base, new } => format!("{id}: {outcome}: {base} -> {new}"),
            Self::FewerRounds { id, base, new } => format!("{id}: {base} -> {new}"),
            Self::CoverageLost { id, base } => format!("{id}: was {base}"),
            Self::CpuLost => "the whole CPU".to_owned(),
            Self::CpuNew => "the base has no results for it".to_owned(),
            Self::Capability { what, base, new } => format!("{what}: {} -> {}", or_absent(base), or_absent(new)),
            Self::Control { id, base, new } => format!("{id}: {} -> {}", held(base), held(new)),
            Self::Evidence { base, new } => format!("{base} -> {new}"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<12} {}", self.label(), self.detail())
    }
}

/// All differences between two sets of results.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Comparison {
    /// How many of the differences are for the worse.
    pub regressions: usize,
    /// By how many of them it fails.
    pub failures: usize,
    /// What there is to say about either set before anything is compared, and about waivers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The differences, CPU by CPU.
    pub differences: Vec<Difference>,
}

/// What is compared, and how.
#[derive(Debug)]
pub struct Options<'a> {
    /// Judge the stored outcomes of both again.
    pub rejudge: bool,
    /// By what it fails.
    pub fail_on: &'a [FailOn],
    /// What is known.
    pub waivers: Waivers,
}

/// The files of a set, by platform and CPU.
struct Set {
    files: BTreeMap<String, PathBuf>,
    /// If it is one file, and not a directory.
    single: bool,
    /// What there is to say about it.
    note: Option<String>,
}

impl Set {
    fn of(what: &str, path: &Path) -> Result<Self, Error> {
        let mut files = BTreeMap::new();
        let mut images: BTreeMap<String, String> = BTreeMap::new();
        for path in results::paths(path)? {
            let file = ResultFile::load(&path)?;
            let name = file.name();
            images.entry(file.tool.image).or_insert_with(|| name.clone());
            if let Some(first) = files.insert(name.clone(), path.clone()) {
                return Err(Error::SameCpu { name, first, second: path });
            }
        }
        let note = (images.len() > 1).then(|| {
            let images = images.iter().map(|(image, name)| format!("{image} ({name})")).collect::<Vec<_>>();
            format!("{what} holds results of {} different images: {}", images.len(), images.join(", "))
        });
        Ok(Self { files, single: !path.is_dir(), note })
    }
}

impl Comparison {
    /// Compares the results at two paths. CPUs are matched by platform and name; where each side is a single file, these two are
    /// compared whatever their names.
    ///
    /// # Errors
    /// Those of loading, and [`Error::SameCpu`] if a set has a CPU twice.
    pub fn of(base: &Path, new: &Path, options: Options<'_>) -> Result<Self, Error> {
        let sets = (Set::of("base", base)?, Set::of("new", new)?);
        let mut notes: Vec<String> = [&sets.0.note, &sets.1.note].into_iter().flatten().cloned().collect();
        let load = |path: &Path| judge::load(path, options.rejudge);
        let mut changes = Vec::new();
        let (base, new) = (&sets.0.files, &sets.1.files);
        if let (true, true, Some((was, base)), Some((is, new))) =
            (sets.0.single, sets.1.single, base.first_key_value(), new.first_key_value())
        {
            if was != is {
                notes.push(format!("{is} is compared with {was}"));
            }
            compare(&load(base)?, &load(new)?, &mut |change| changes.push((is.clone(), change)));
        } else {
            for name in base.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
                let mut push = |change| changes.push((name.clone(), change));
                match (base.get(name), new.get(name)) {
                    (Some(base), Some(new)) => compare(&load(base)?, &load(new)?, &mut push),
                    (Some(_), None) => push(Change::CpuLost),
                    _ => push(Change::CpuNew),
                }
            }
        }
        Ok(Self::made(changes, notes, options))
    }

    fn made(changes: Vec<(String, Change)>, mut notes: Vec<String>, options: Options<'_>) -> Self {
        let Options { fail_on, mut waivers, .. } = options;
        let judged = |(cpu, change): (String, Change)| {
            let would_fail = fail_on.iter().any(|kind| change.is_of(*kind));
            let waived = waivers.of(&cpu, &change);
            Difference {
                cpu,
                regression: change.is_regression(),
                fails: would_fail && waived.is_none(),
                waived,
                change,
            }
        };
        let differences: Vec<Difference> = changes.into_iter().map(judged).collect();
        notes.extend(waivers.notes());
        Self {
            regressions: differences.iter().filter(|difference| difference.regression).count(),
            failures: differences.iter().filter(|difference| difference.fails).count(),
            notes,
            differences,
        }
    }
}

fn compare(base: &ResultFile, new: &ResultFile, push: &mut impl FnMut(Change)) {
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
    let pairs = || before.values().filter_map(|old| Some((old, now.get(&old.id)?)));
    // As many as stand beside each other.
    let rates = pairs().map(|(old, case)| shared_rates(old, case).count()).sum::<usize>();
    let z = stats::z_of_none(rates);
    for (id, old) in &before {
        match now.get(id).filter(|case| case.verdict != Class::Skip || old.verdict == Class::Skip) {
            Some(case) => compare_case(old, case, z, push),
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

/// The outcomes that both have seen, and conflict aborts: a name, and how often of how many accesses or rounds.
fn shared_rates(old: &CaseResult, case: &CaseResult) -> impl Iterator<Item = (String, [(u64, u64); 2])> {
    let in_phase = |case: &CaseResult, phase| {
        case.outcomes.iter().filter(|outcome| outcome.phase == phase).map(|outcome| outcome.count).sum::<u64>()
    };
    let shared = case.outcomes.iter().filter_map(move |seen| {
        let was = old.outcomes.iter().find(|outcome| (outcome.phase, outcome.kind) == (seen.phase, seen.kind))?;
        let trials = [in_phase(old, seen.phase), in_phase(case, seen.phase)];
        Some((format!("{} {}", seen.kind, seen.phase), [(was.count, trials[0]), (seen.count, trials[1])]))
    });
    let aborts = [old, case].map(|case| (case.conflicts.total().min(case.overlap), case.overlap));
    let aborts = Some(("conflict aborts".to_owned(), aborts)).filter(|(_, [a, b])| a.0 + b.0 > 0);
    shared.chain(aborts)
}

fn compare_case(old: &CaseResult, case: &CaseResult, z: f64, push: &mut impl FnMut(Change)) {
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
    // What fails says why itself.
    if case.overlap < old.overlap / 2 && !bad(case.verdict.name()) {
        push(Change::FewerRounds { id: id.clone(), base: old.overlap, new: case.overlap });
    }
    for (outcome, [base, new]) in shared_rates(old, case) {
        // A round is one trial.
        let [base, new] = [(base, old.rounds), (new, case.rounds)]
            .map(|((seen, trials), rounds)| Interval::of(seen, trials, rounds, z));
        if base.differs(&new) {
            push(Change::Rate { id: id.clone(), outcome, base, new });
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use vmsa::outcome::Kind;

    use super::*;
    use crate::results::tests::fixture;

    /// Differences in rates between two runs of `cases` cases of `rounds` rounds each, of which a share `p` and `q` saw what
    /// they may.
    fn differ(seed: u64, cases: usize, rounds: u64, [p, q]: [f64; 2]) -> usize {
        let mut state = seed;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let mut file = |rate: f64| {
            let mut file = fixture("base/board/altra.json");
            let case = file.cases.iter().find(|case| case.outcomes.len() > 1).expect("one saw something").clone();
            file.cases = (0..cases)
                .map(|n| {
                    let mut case = CaseResult { id: format!("case{n}"), rounds, overlap: rounds, ..case.clone() };
                    let seen = (0..rounds).filter(|_| draw() < rate).count() as u64;
                    case.outcomes.truncate(2);
                    let [first, second] = [seen, rounds - seen];
                    (case.outcomes[0].count, case.outcomes[1].count) = (first, second);
                    (case.outcomes[0].kind, case.outcomes[1].kind) = (Kind::Torn, Kind::New);
                    case.outcomes[1].phase = case.outcomes[0].phase;
                    case
                })
                .collect();
            file
        };
        let mut found = 0;
        compare(&file(p), &file(q), &mut |change| found += usize::from(matches!(change, Change::Rate { .. })));
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn rates_differ_where_they_do_and_not_by_chance(seed: u64) {
            prop_assert_eq!(differ(seed, 200, 400, [0.05, 0.05]), 0);
            prop_assert_eq!(differ(seed, 20, 400, [0.03, 0.3]), 20);
            // More often, but not twice as often.
            prop_assert_eq!(differ(seed, 4, 40_000, [0.5, 0.6]), 0);
        }
    }

    #[test]
    fn a_run_of_half_the_rounds_has_lost_coverage() {
        let base = fixture("base/board/altra.json");
        let mut new = base.clone();
        new.cases.iter_mut().for_each(|case| case.overlap /= 3);
        let mut fewer = 0;
        compare(&base, &new, &mut |change| fewer += usize::from(change.is_of(FailOn::CoverageLost)));
        assert_eq!(fewer, base.cases.iter().filter(|case| case.overlap > 1 && case.verdict != Class::Skip).count());
        assert!(fewer > 0);
    }
}
