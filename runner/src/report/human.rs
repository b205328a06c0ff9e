//! Results on a terminal: a row a CPU, and below it everything that is wrong.

use std::{collections::HashSet, fmt::Write as _};

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, LineStyle, Table, TableStyle};
use vmsa::{stress::Pattern, verdict::Class};

use crate::{
    cpu_names, known,
    report::{CLASSES, Conflicts, controls, count, histogram, honesty, mark, remedies::Remedies, weak_evidence},
    results::{CaseResult, ControlResult, Evidence, Hex, ResultFile},
};

/// No borders, one line under the header.
pub(crate) const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// The whole report.
#[must_use]
pub fn table(files: &[ResultFile]) -> String {
    let mut table = Table::new();
    table.load_style(STYLE).set_content_arrangement(ContentArrangement::Dynamic);
    let counts = CLASSES.map(Class::name);
    let header = ["CPU", "MIDR", "BBM"].into_iter().chain(counts).chain(["conflicts", "controls"]);
    table.set_header(header.map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
    for file in files {
        table.add_row(row(file));
    }
    let mut text = format!("{table}\n");
    for evidence in weak_evidence(files) {
        if let Some(statement) = honesty(evidence) {
            text += &format!("{} {statement}\n", mark(evidence));
        }
    }
    for file in files {
        details(file, &mut text);
    }
    text
}

fn row(file: &ResultFile) -> Vec<Cell> {
    let evidence = file.platform.evidence;
    let mut row = vec![
        Cell::new(format!("{}/{} {}", file.platform.kind, file.cpu.name, mark(evidence)).trim_end()),
        Cell::new(format!("{} {}", file.cpu.midr, cpu_names::describe(file.cpu.midr.0))),
        Cell::new(file.cpu.bbm).set_alignment(CellAlignment::Right),
    ];
    for class in CLASSES {
        let cell = Cell::new(count(file, class)).set_alignment(CellAlignment::Right);
        row.push(match class {
            // An emulator's pass is not shown in green.
            Class::Pass if evidence == Evidence::Silicon => cell.fg(Color::Green),
            Class::Fail | Class::Error if file.count(class) > 0 => cell.fg(Color::Red),
            _ => cell,
        });
    }
    row.push(Cell::new(Conflicts::of(file).describe(evidence)));
    let (held, all) = controls(file);
    let cell = Cell::new(format!("{held} of {all}"));
    row.push(if held < all { cell.fg(Color::Red) } else { cell });
    row
}

/// What is wrong with a CPU or with the run on it.
fn details(file: &ResultFile, text: &mut String) {
    let mut lines = String::new();
    let is_bad = |case: &&CaseResult| matches!(case.verdict, Class::Fail | Class::Error);
    let bad: Vec<&CaseResult> = file.cases.iter().filter(is_bad).collect();
    bad.iter().for_each(|case| bad_case(file, case, &mut lines));
    // What failed stands above already; what is left are controls that the platform hid.
    let failed: HashSet<&str> = bad.iter().map(|case| case.id.as_str()).collect();
    let (excused, hidden): (Vec<&ControlResult>, Vec<&ControlResult>) = file
        .controls
        .iter()
        .filter(|control| !control.held && !failed.contains(control.id.as_str()))
        .partition(|control| cannot_show(&file.platform.kind, &control.id).is_some());
    if let Some(note) = excused.first().and_then(|control| cannot_show(&file.platform.kind, &control.id)) {
        lines += &format!("  {} controls did not show a missing TLBI: {}\n", excused.len(), note.what);
    }
    if let Some(first) = hidden.first() {
        lines +=
            &format!("  {} controls did not hold here; the first: {} {}\n", hidden.len(), first.id, first.expected);
    }
    let remedies = Remedies::of(file);
    if !remedies.is_empty() {
        lines += &format!("  conflict aborts, by what was tried first: the access then went through: {remedies}\n");
    }
    let done = file.cases.len() as u64;
    if done < file.run.planned {
        lines += &format!("  interrupted: {done} of {} instances; `--resume` goes on\n", file.run.planned);
    }
    if file.run.lost_lines > 0 {
        lines += &format!("  {} console lines were lost\n", file.run.lost_lines);
    }
    if !lines.is_empty() {
        *text += &format!("\n{}/{}\n{lines}", file.platform.kind, file.cpu.name);
    }
}

fn cannot_show(platform: &str, control: &str) -> Option<known::Note> {
    known::cannot_show(platform, &control.parse().ok()?)
}

fn bad_case(file: &ResultFile, case: &CaseResult, lines: &mut String) {
    let platform = &file.platform.kind;
    *lines += &format!("  {} {}\n    {}\n    {}\n", case.verdict, case.id, case.reason, histogram(case));
    if let Some(note) = case.id.parse().ok().and_then(|instance| known::defect(platform, &instance)) {
        *lines += &format!("    {}\n", note.what);
    }
    if let Some(note) = &case.note {
        *lines += &format!("    {note}\n");
    }
    for outcome in case.outcomes.iter().filter(|outcome| !outcome.allowed) {
        let first = &outcome.first;
        // Writing to a String does not fail.
        let _ = writeln!(
            lines,
            "    {} {}: forbidden by {}; first in round {} on CPU {}: esr {} far {} pc {}",
            outcome.phase, outcome.kind, outcome.rule, first.round, first.cpu, first.esr, first.far, first.pc
        );
        let Hex(seed) = first.seed.unwrap_or(file.run.seed);
        if file.run.patterns == Some(Pattern::VERSION) {
            *lines += &format!("    in that round: {}\n", Pattern::of(seed, first.round));
        }
        if file.run.passes > 1 {
            *lines += &format!("    {}\n", file.replay(case, outcome));
        }
    }
    if let Some(registers) = &case.registers {
        let named = ["PC", "ESR_EL2", "FAR_EL2", "ESR_EL1", "ELR_EL1", "FAR_EL1"];
        let shown = named.map(|name| format!("{name} {}", registers.get(name).copied().unwrap_or_default()));
        *lines += &format!("    {}\n", shown.join(" "));
    }
}
