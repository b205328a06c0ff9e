//! Results for readers: people, spreadsheets, CI.
//!
//! Every report is made from result files alone, so that a run, an old result and a captured log look the same.
//! What the evidence is worth is part of every report that is meant for people: an emulator's pass carries a mark
//! and the statement behind it ([`honesty`]).

use std::{collections::BTreeSet, io};

use serde::Serialize;
use vmsa::{outcome::Phase, verdict::Class};

use crate::{
    controls::statement,
    judge::conflict_possible,
    results::{CaseResult, Evidence, ResultFile, Smmu, System},
    stats::Rate,
};

pub mod human;
pub mod json;
pub mod junit;
pub mod ktap;
pub mod markdown;
pub mod own;
pub mod proposal;
pub mod remedies;

/// How a run is reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum RunFormat {
    /// A table and what is wrong.
    Human,
    /// The result files as one JSON array.
    Json,
    /// KTAP, as the kernel's tools read it.
    Ktap,
    /// JUnit XML.
    Junit,
}

/// How a table over many CPUs is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum TableFormat {
    /// For a terminal.
    Human,
    /// Markdown.
    Md,
    /// A web page.
    Html,
    /// One line a case, for spreadsheets.
    Csv,
}

/// Reports a run's result files.
///
/// # Errors
/// Those of `out`.
pub fn run(files: &[ResultFile], format: RunFormat, out: &mut dyn io::Write) -> io::Result<()> {
    match format {
        RunFormat::Human => out.write_all(human::table(files).as_bytes()),
        RunFormat::Json => json::array(files, 3, out),
        RunFormat::Ktap => ktap::write(files, out),
        RunFormat::Junit => junit::write(files, out),
    }
}

/// Shows result files of many CPUs.
///
/// # Errors
/// Those of `out`.
pub fn table(files: &[ResultFile], format: TableFormat, out: &mut dyn io::Write) -> io::Result<()> {
    match format {
        TableFormat::Human => out.write_all(human::table(files).as_bytes()),
        TableFormat::Md => out.write_all(markdown::markdown(files).as_bytes()),
        TableFormat::Html => out.write_all(markdown::html(files).as_bytes()),
        TableFormat::Csv => csv(files, out),
    }
}

/// The mark that stands beside everything that was not seen on silicon.
#[must_use]
pub const fn mark(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::Silicon => "",
        Evidence::Emulator => "†",
        Evidence::Model => "‡",
        Evidence::Defective => "§",
    }
}

/// What evidence that is not silicon's is worth; the text behind its [`mark`].
#[must_use]
pub const fn honesty(evidence: Evidence) -> Option<&'static str> {
    match evidence {
        Evidence::Silicon => None,
        Evidence::Emulator => Some(
            "emulator: QEMU's TCG cannot show TLB conflict aborts or nT faults, and hides most violations: its TLB \
             holds at most one entry a page, ignores Contiguous and nT, and forgets everything at a TLBI of a large \
             page. A pass here says that the harness and the sequence work, and nothing about silicon. What it does \
             show is a stale entry where a TLBI is missing.",
        ),
        Evidence::Model => Some(
            "model: it shows what a model of the architecture does, which no silicon is bound to do. A pass here says \
             that the sequence is right by the rules, and nothing about a CPU's errata.",
        ),
        Evidence::Defective => Some(
            "defective: a model with a mistake put in on purpose, the one behind the `+` of its name. What fails here \
             shows what the suite can find, and nothing about any CPU.",
        ),
    }
}

/// The kinds of evidence, other than silicon, among `files`.
fn weak_evidence(files: &[ResultFile]) -> Vec<Evidence> {
    [Evidence::Emulator, Evidence::Model, Evidence::Defective]
        .into_iter()
        .filter(|evidence| files.iter().any(|file| file.platform.evidence == *evidence))
        .collect()
}

/// Conflict aborts of a CPU, and how often there could have been one. Injected ones, which only the harness's own
/// tests have, do not count.
struct Conflicts {
    seen: u64,
    /// Rounds in which an access overlapped a change for which a conflict abort is allowed.
    rounds: u64,
}

impl Conflicts {
    fn of(file: &ResultFile) -> Self {
        let mut conflicts = Self { seen: 0, rounds: 0 };
        for case in file.cases.iter().filter(|case| conflict_possible(case)) {
            conflicts.seen += case.conflicts.total();
            conflicts.rounds += case.overlap;
        }
        conflicts
    }

    /// `never seen` carries its bound: 0 in N means at most 3/N at 95 %. An emulator that cannot raise one has not
    /// failed to see any.
    fn describe(&self, evidence: Evidence) -> String {
        match (self.seen, self.rounds, evidence) {
            (0, _, Evidence::Emulator) => "cannot show".to_owned(),
            (seen, trials, _) => Rate { seen, trials, of: "rounds" }.to_string(),
        }
    }
}

/// The files among `files` whose controls failed, by name, with the statement on that.
fn worthless(files: &[ResultFile]) -> Vec<(String, String)> {
    files.iter().filter_map(|file| Some((file.name(), statement(file)?))).collect()
}

/// What software may rely on that runs on all CPUs of a machine, or shares tables with its SMMUs, in a line for each of those
/// among `files` that have several types of CPU, and for each SMMU.
fn systems(files: &[ResultFile]) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    for file in files {
        let (name, level) = match &file.machine {
            Some(machine) => (&machine.name, machine.bbm),
            None => (&file.cpu.name, file.cpu.bbm),
        };
        for Smmu { base, bbm, coherent_walks, .. } in &file.smmus {
            let line = format!(
                "{}/{name}: SMMU at {base}: BBM level {bbm}, walks are {}coherent; safe for tables that it shares with the \
                 CPUs: level {}{}",
                file.platform.kind,
                if *coherent_walks { "" } else { "not " },
                level.min(*bbm),
                if *coherent_walks { "" } else { ", each write cleaned to the point of coherency" }
            );
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let Some(System { name, bbm, granules, cpus }) = &file.machine else { continue };
        let levels: Vec<String> = cpus.iter().map(|cpu| format!("{} {}", cpu.name, cpu.bbm)).collect();
        let mut line = format!(
            "{}/{name}: system: safe BBM level {bbm}, the lowest of {}; granules common to all: {}",
            file.platform.kind,
            levels.join(", "),
            if granules.is_empty() { "none".to_owned() } else { granules.join(", ") }
        );
        for cpu in cpus {
            let others = cpus.iter().flat_map(|other| &other.granules);
            let lacks: BTreeSet<&str> =
                others.filter(|granule| !cpu.granules.contains(granule)).map(String::as_str).collect();
            if !lacks.is_empty() {
                line += &format!("; {} lacks {}", cpu.name, lacks.into_iter().collect::<Vec<_>>().join(", "));
            }
        }
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

/// A number of cases with this verdict; a pass carries the mark of its evidence.
fn count(file: &ResultFile, class: Class) -> String {
    let count = file.count(class);
    match class {
        Class::Pass if count > 0 => format!("{count} {}", mark(file.platform.evidence)).trim_end().to_owned(),
        _ => count.to_string(),
    }
}

/// Controls that came out as they must, and all of them.
fn controls(file: &ResultFile) -> (usize, usize) {
    (file.controls.iter().filter(|control| control.held).count(), file.controls.len())
}

/// What the accesses of a case saw, phase by phase, in one line.
#[must_use]
pub fn histogram(case: &CaseResult) -> String {
    let mut parts: Vec<String> = Vec::new();
    for phase in Phase::ALL {
        let seen: Vec<String> = case
            .outcomes
            .iter()
            .filter(|outcome| outcome.phase == phase)
            .map(|outcome| format!("{} {}", outcome.count, outcome.kind))
            .collect();
        if !seen.is_empty() {
            parts.push(format!("{phase}: {}", seen.join(", ")));
        }
    }
    if parts.is_empty() { "no access was counted".to_owned() } else { parts.join("; ") }
}

/// One line a case.
fn csv(files: &[ResultFile], out: &mut dyn io::Write) -> io::Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        platform: &'a str,
        evidence: Evidence,
        cpu: String,
        midr: String,
        bbm: u8,
        id: &'a str,
        verdict: &'static str,
        reason: &'a str,
        rounds: u64,
        overlap: u64,
        accesses: u64,
        conflicts: u64,
        outcomes: String,
        worthless: &'a str,
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    for file in files {
        for case in &file.cases {
            writer.serialize(Line {
                platform: &file.platform.kind,
                evidence: file.platform.evidence,
                cpu: file.cpu_name(),
                midr: file.cpu.midr.to_string(),
                bbm: case.bbm.number(),
                id: &case.id,
                verdict: case.verdict.name(),
                reason: &case.reason,
                rounds: case.rounds,
                overlap: case.overlap,
                accesses: case.accesses,
                conflicts: case.conflicts.total(),
                outcomes: histogram(case),
                worthless: file.worthless.as_deref().unwrap_or_default(),
            })?;
        }
    }
    let lines = writer.into_inner().map_err(csv::IntoInnerError::into_error)?;
    out.write_all(&lines)
}

/// The verdicts in the order in which tables have them.
const CLASSES: [Class; 5] = [Class::Pass, Class::Fail, Class::Observed, Class::Skip, Class::Error];

#[cfg(test)]
mod tests {
    use vmsa::BbmLevel;

    use super::*;
    use crate::results::{
        Cpu,
        tests::{fixture, two_types},
    };

    fn report(write: impl Fn(&[ResultFile], &mut dyn io::Write) -> io::Result<()>) -> String {
        let files = [fixture("new/board/altra.json"), fixture("new/qemu/neoverse-n2.json")];
        let mut out = Vec::new();
        write(&files, &mut out).expect("a vector takes everything");
        String::from_utf8(out).expect("reports are UTF-8")
    }

    #[test]
    fn a_run_in_each_format() {
        insta::assert_snapshot!("ktap", report(ktap::write));
        insta::assert_snapshot!("junit", report(junit::write));
        let json = report(|files, out| run(files, RunFormat::Json, out));
        let files: Vec<ResultFile> = serde_json::from_str(&json).expect("what was written can be read");
        assert_eq!(files, [fixture("new/board/altra.json"), fixture("new/qemu/neoverse-n2.json")]);
    }

    #[test]
    fn a_machine_of_several_types_has_a_row_for_each_and_a_line_for_all() {
        let types = two_types();
        let of = |cpu: &Cpu| ResultFile {
            cpu: cpu.clone(),
            machine: System::of("big+little", &types),
            ..fixture("new/board/altra.json")
        };
        let files: Vec<ResultFile> = types.iter().map(of).collect();
        let line = "board/big+little: system: safe BBM level 1, the lowest of big 2, little 1; granules common to all: \
                    4k, 64k; little lacks 16k";
        for format in [TableFormat::Human, TableFormat::Md, TableFormat::Html] {
            let mut out = vec![];
            table(&files, format, &mut out).expect("a vector takes everything");
            let text = String::from_utf8(out).expect("reports are UTF-8");
            assert_eq!(text.matches(line).count(), 1, "{text}");
            assert!(text.contains("board/big@big+little") && text.contains("board/little@big+little"), "{text}");
        }
        assert_eq!(systems(&[fixture("new/board/altra.json")]), Vec::<String>::new());
    }

    #[test]
    fn an_smmu_has_a_line_with_what_is_safe_for_shared_tables() {
        let smmu = |idr0, idr3| Smmu::of(&wire::record::Smmu { base: 0x905_0000, idr0, idr3 });
        let mut file = fixture("new/board/altra.json");
        file.cpu.bbm = BbmLevel::L1;
        file.smmus = vec![smmu(1 << 4, 2 << 11), smmu(0, 0)];
        let name = &file.cpu.name;
        assert_eq!(
            systems(&[file.clone(), file.clone()]),
            [
                format!(
                    "board/{name}: SMMU at 0x9050000: BBM level 2, walks are coherent; safe for tables that it shares with \
                     the CPUs: level 1"
                ),
                format!(
                    "board/{name}: SMMU at 0x9050000: BBM level 0, walks are not coherent; safe for tables that it shares \
                     with the CPUs: level 0, each write cleaned to the point of coherency"
                ),
            ]
        );
    }

    #[test]
    fn an_emulator_never_passes_without_its_mark() {
        for format in [TableFormat::Md, TableFormat::Html, TableFormat::Human] {
            let text = report(|files, out| table(files, format, out));
            assert!(text.contains("TCG cannot show"), "{text}");
            for row in text.lines().filter(|line| line.contains("qemu/") && line.contains('†')) {
                let cells = row.split("<td>").flat_map(|part| part.split('|'));
                for cell in cells.filter(|cell| cell.contains(" pass")) {
                    assert!(cell.trim_end().ends_with(mark(Evidence::Emulator)), "{row}");
                }
            }
        }
    }

    #[test]
    fn the_documents_say_the_same_in_the_same_words() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let statement = honesty(Evidence::Emulator).expect("an emulator is not silicon");
        let limits =
            statement.split_once("QEMU's ").and_then(|(_, rest)| rest.split_once(" A pass")).expect("both are there");
        for document in ["README.md", "results/README.md", "docs/reading-a-table.md"] {
            let text = std::fs::read_to_string(root.join(document)).expect("it is in the tree");
            let words: Vec<&str> = text.split_whitespace().collect();
            assert!(words.join(" ").contains(limits.0), "{document} does not say: {}", limits.0);
        }
    }

    #[test]
    fn never_seen_carries_its_bound() {
        let conflicts = Conflicts { seen: 0, rounds: 30_000 };
        assert_eq!(conflicts.describe(Evidence::Silicon), "0 in 30000 rounds: at most 3/30000 = 1.0e-4 (95 %)");
        assert_eq!(conflicts.describe(Evidence::Emulator), "cannot show");
        assert_eq!(
            Conflicts { seen: 2, rounds: 9 }.describe(Evidence::Emulator),
            "2 in 9 rounds: 2.2e-1, 6.3e-2 to 5.5e-1 (95 %)"
        );
    }
}
