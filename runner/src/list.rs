//! `shatter list`: every instance, without booting anything.

use std::io;

use comfy_table::Table;
use serde::Serialize;
use vmsa::instance::{Case, Instance};

use crate::report::{human::STYLE, json};

/// How a list is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum ListFormat {
    /// A table.
    Human,
    /// An array of objects.
    Json,
}

/// An instance with its parameters apart. The harness's own tests have only `id` and `family`.
#[derive(Serialize)]
struct Item {
    id: String,
    family: &'static str,
    regime: Option<&'static str>,
    /// With `-lpa2` behind it if TCR_EL1.DS is set.
    granule: Option<String>,
    transition: Option<&'static str>,
    /// Level of the changed descriptor and what else tells changes of a family apart.
    geometry: Option<String>,
    method: Option<&'static str>,
    observer: Option<String>,
    stage2: &'static str,
    /// The highest BBM level presented, where it is lowered.
    cap: Option<u8>,
    /// CPUs needed.
    cpus: usize,
}

impl Item {
    fn of(instance: &Instance) -> Self {
        let needs = instance.needs();
        let case: Option<&Case> = match instance {
            Instance::Case(case) => Some(case),
            Instance::Selftest(_) => None,
        };
        Self {
            id: instance.to_string(),
            family: instance.family().name(),
            regime: case.map(|case| case.regime.name()),
            granule: case.map(|case| case.change.format(case.granule).to_string()),
            transition: case.map(|case| case.change.family().name()),
            geometry: case.map(|case| case.change.to_string()),
            method: case.map(|case| case.method.name()),
            observer: case.map(|case| case.observer.to_string()),
            stage2: needs.stage2.name(),
            cap: needs.cap.map(|cap| cap.number()),
            cpus: needs.cpus,
        }
    }
}

/// Writes `instances` to `out`.
///
/// # Errors
/// Those of `out`.
pub fn write(instances: &[Instance], format: ListFormat, out: &mut dyn io::Write) -> io::Result<()> {
    let items: Vec<Item> = instances.iter().map(Item::of).collect();
    if format == ListFormat::Json {
        return json::array(&items, 1, out);
    }
    let mut table = Table::new();
    table.load_style(STYLE).set_header(["id", "transition", "geometry", "method", "observer", "stage 2", "CPUs"]);
    for item in &items {
        let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
        table.add_row([
            item.id.clone(),
            or_dash(item.transition),
            or_dash(item.geometry.as_deref()),
            or_dash(item.method),
            or_dash(item.observer.as_deref()),
            item.stage2.to_owned(),
            item.cpus.to_string(),
        ]);
    }
    writeln!(out, "{}\n{} instances", table.trim_fmt(), items.len())
}
