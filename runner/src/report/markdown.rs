//! Conformance tables over many CPUs, in Markdown and as a web page.
//!
//! The templates hold what is said, this module what is filled in. A cell is one family carried out by one method on
//! one CPU; what was not seen on silicon carries the mark of its evidence in every cell.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use tinytemplate::TinyTemplate;
use vmsa::{
    instance::{Family, Instance, Method},
    verdict::Class,
};

use crate::{
    cpu_names,
    report::{CLASSES, Conflicts, controls, count, honesty, mark, systems, weak_evidence, worthless},
    results::ResultFile,
};

/// What the templates are filled with.
#[derive(Serialize)]
struct Page {
    verdicts: [&'static str; 5],
    cpus: Vec<Cpu>,
    families: Vec<FamilyTable>,
    bad: Vec<Bad>,
    notes: Vec<Note>,
    systems: Vec<String>,
    worthless: Vec<Worthless>,
}

#[derive(Serialize)]
struct Cpu {
    name: String,
    midr: String,
    described: String,
    bbm: u8,
    evidence: String,
    conflicts: String,
    controls: String,
    counts: [String; 5],
}

#[derive(Serialize)]
struct FamilyTable {
    name: &'static str,
    columns: Vec<&'static str>,
    cpus: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    cells: Vec<String>,
}

/// A case that failed or could not be judged.
#[derive(Serialize)]
struct Bad {
    cpu: String,
    id: String,
    verdict: &'static str,
    reason: String,
}

/// A CPU whose controls failed.
#[derive(Serialize)]
struct Worthless {
    cpu: String,
    text: String,
}

#[derive(Serialize)]
struct Note {
    mark: &'static str,
    text: &'static str,
}

/// The tables in Markdown.
#[must_use]
pub fn markdown(files: &[ResultFile]) -> String {
    render(include_str!("table.md.tt"), files, &(format_markdown as Formatter))
}

/// The tables as a web page that needs nothing else.
#[must_use]
pub fn html(files: &[ResultFile]) -> String {
    render(include_str!("table.html.tt"), files, &(tinytemplate::format as Formatter))
}

type Formatter = fn(&Value, &mut String) -> tinytemplate::error::Result<()>;

fn render(template: &'static str, files: &[ResultFile], formatter: &'static Formatter) -> String {
    let mut templates = TinyTemplate::new();
    templates.set_default_formatter(formatter);
    templates
        .add_template("table", template)
        .and_then(|()| templates.render("table", &page(files)))
        .expect("the templates are part of the program, and tests render them")
}

/// Nothing in a value may end a cell or begin markup.
fn format_markdown(value: &Value, out: &mut String) -> tinytemplate::error::Result<()> {
    let Value::String(text) = value else { return tinytemplate::format_unescaped(value, out) };
    for c in text.chars() {
        match c {
            '|' | '\\' | '<' | '*' | '`' => out.extend(['\\', c]),
            '\n' => out.push(' '),
            c => out.push(c),
        }
    }
    Ok(())
}

fn page(files: &[ResultFile]) -> Page {
    Page {
        verdicts: CLASSES.map(Class::name),
        cpus: files.iter().map(cpu).collect(),
        families: Family::ALL.iter().filter_map(|family| table(*family, files)).collect(),
        bad: files.iter().flat_map(bad).collect(),
        systems: systems(files),
        worthless: worthless(files).into_iter().map(|(cpu, text)| Worthless { cpu, text }).collect(),
        notes: weak_evidence(files)
            .into_iter()
            .filter_map(|evidence| Some(Note { mark: mark(evidence), text: honesty(evidence)? }))
            .collect(),
    }
}

fn cpu(file: &ResultFile) -> Cpu {
    let evidence = file.platform.evidence;
    let (held, all) = controls(file);
    Cpu {
        name: file.name(),
        midr: file.cpu.midr.to_string(),
        described: cpu_names::describe(file.cpu.midr.0),
        bbm: file.cpu.bbm.number(),
        evidence: format!("{evidence} {}", mark(evidence)).trim_end().to_owned(),
        conflicts: Conflicts::of(file).describe(evidence),
        controls: format!("{held} of {all}"),
        counts: CLASSES.map(|class| count(file, class)),
    }
}

/// The family's table: the methods that any CPU has of it are the columns. The harness's own tests have no method and
/// share one column.
fn table(family: Family, files: &[ResultFile]) -> Option<FamilyTable> {
    type Cells = BTreeMap<Option<Method>, BTreeMap<Class, usize>>;
    let cells: Vec<Cells> = files
        .iter()
        .map(|file| {
            let mut cells = Cells::new();
            for case in &file.cases {
                let Ok(instance) = case.id.parse::<Instance>() else { continue };
                let method = match instance {
                    Instance::Case(case) => Some(case.method),
                    Instance::Selftest(_) => None,
                };
                if instance.family() == family {
                    *cells.entry(method).or_default().entry(case.verdict).or_default() += 1;
                }
            }
            cells
        })
        .collect();
    let columns: BTreeSet<Option<Method>> = cells.iter().flat_map(|cells| cells.keys().copied()).collect();
    if columns.is_empty() {
        return None;
    }
    let row = |(file, cells): (&ResultFile, &Cells)| Row {
        name: file.name(),
        cells: columns.iter().map(|method| cell(cells.get(method), mark(file.platform.evidence))).collect(),
    };
    Some(FamilyTable {
        name: family.name(),
        cpus: files.iter().zip(&cells).map(row).collect(),
        columns: columns.iter().map(|method| method.map_or("as designed", Method::name)).collect(),
    })
}

fn cell(counts: Option<&BTreeMap<Class, usize>>, mark: &str) -> String {
    let Some(counts) = counts else { return String::new() };
    let parts: Vec<String> = counts.iter().map(|(class, count)| format!("{count} {class}")).collect();
    format!("{} {mark}", parts.join(", ")).trim_end().to_owned()
}

fn bad(file: &ResultFile) -> impl Iterator<Item = Bad> {
    file.cases.iter().filter(|case| matches!(case.verdict, Class::Fail | Class::Error)).map(|case| Bad {
        cpu: file.name(),
        id: case.id.clone(),
        verdict: case.verdict.name(),
        reason: case.reason.clone(),
    })
}
