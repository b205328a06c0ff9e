//! Results on a terminal: a row a CPU, a line for each machine of several types, and below it everything that is wrong.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write as _,
};

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, LineStyle, Table, TableStyle};
use vmsa::{stress::Pattern, verdict::Class};

use crate::{
    controls::{imprecise, unproven},
    cpu_names,
    known::{self, Note},
    report::{
        CLASSES, Conflicts, controls, count, histogram, honesty, mark, own, proposal, remedies::Remedies, systems,
        weak_evidence, worthless,
    },
    results::{Breaks, CaseResult, ControlResult, Evidence, Hex, ResultFile},
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
    for line in systems(files) {
        text += &format!("{line}\n");
    }
    for (name, statement) in worthless(files) {
        text += &format!("{name}: {statement}\n");
    }
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
        Cell::new(format!("{} {}", file.name(), mark(evidence)).trim_end()),
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
    // What the platform is known to do wrong would hide the rest.
    let mut known: BTreeMap<&str, (Note, Vec<&CaseResult>)> = BTreeMap::new();
    for case in &bad {
        match defect(file, case) {
            Some(note) => known.entry(note.name).or_insert((note, vec![])).1.push(case),
            None => bad_case(file, case, &mut lines),
        }
    }
    for (note, cases) in known.values() {
        lines += &format!("  {} fail, the first {}: {}\n", cases.len(), cases[0].id, note.what);
    }
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
    let mut breaks = Breaks::default();
    file.cases.iter().filter_map(|case| case.breaks.as_ref()).for_each(|more| breaks.add(more));
    if let Some(mean_ns) = breaks.total_ns.checked_div(breaks.count) {
        let Breaks { count, longest_ns, shortest_ns, retried, .. } = breaks;
        let least = shortest_ns.map_or(String::new(), |ns| format!("{ns} ns at least, "));
        lines += &format!(
            "  hv broke windows {count} times, for {least}{mean_ns} ns in the mean and {longest_ns} ns at most; {retried} accesses \
             met a break, waited for its end and were tried again\n"
        );
    }
    if let Some(table) = own::table(file) {
        lines += "  hv split the block that holds its own things; exceptions of the code that did it:\n";
        lines.extend(table.lines().map(|line| format!("    {}\n", line.trim_end())));
    }
    if let Some(table) = proposal::table(file) {
        lines += "  splits by the proposal, which writes tables over live blocks, beside the usual ways; what accesses met:\n";
        lines.extend(table.lines().map(|line| format!("    {}\n", line.trim_end())));
    }
    let remedies = Remedies::of(file);
    if !remedies.is_empty() {
        lines += &format!("  conflict aborts, by what was tried first: the access then went through: {remedies}\n");
    }
    for statement in [unproven(file), imprecise(file)].into_iter().flatten() {
        lines += &format!("  {statement}\n");
    }
    let done = file.cases.len() as u64;
    if done < file.run.planned {
        lines += &format!("  interrupted: {done} of {} instances; `--resume` goes on\n", file.run.planned);
    }
    if file.run.lost_lines > 0 {
        lines += &format!("  {} console lines were lost\n", file.run.lost_lines);
    }
    if !lines.is_empty() {
        *text += &format!("\n{}\n{lines}", file.name());
    }
}

fn cannot_show(platform: &str, control: &str) -> Option<Note> {
    known::cannot_show(platform, &control.parse().ok()?)
}

/// The defect of the platform that made `case` fail, if one is known.
fn defect(file: &ResultFile, case: &CaseResult) -> Option<Note> {
    let instance = case.id.parse().ok().filter(|_| case.verdict == Class::Fail)?;
    known::defect(&file.platform.kind, &instance)
}

fn bad_case(file: &ResultFile, case: &CaseResult, lines: &mut String) {
    *lines += &format!("  {} {}\n    {}\n    {}\n", case.verdict, case.id, case.reason, histogram(case));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::fixture;

    #[test]
    fn what_a_platform_is_known_to_do_wrong_takes_one_line() {
        let mut file = fixture("new/board/altra.json");
        let fail = file.cases.iter().find(|case| case.verdict == Class::Fail).expect("one that failed").clone();
        let ids = ["el1.tlbi-range.4k-l3-rvaae1is.bbm.load-remote", "el1.tlbi-range.4k-l3-rvaae1is.bbm.load-local"];
        file.cases.extend(ids.map(|id| CaseResult { id: id.to_owned(), ..fail.clone() }));
        let text = table(&[file.clone()]);
        assert!(ids.iter().all(|id| text.contains(&format!("  fail {id}\n"))), "{text}");
        file.platform.kind = "qemu".to_owned();
        let text = table(&[file]);
        let line = format!("  2 fail, the first {}: {}\n", ids[0], known::QEMU_RANGE_LENGTH.what);
        assert!(text.contains(&line) && !text.contains(ids[1]), "{text}");
        assert!(text.contains(&format!("  fail {}\n", fail.id)), "{text}");
    }
}
