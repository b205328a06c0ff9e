//! What came of it where hv split the block that it stands on: a row a method, a column for each of its own things.
//!
//! A cell counts the exceptions that the code which makes the change took by it (`trips`), and how often these did not end
//! until another CPU made it (`lockups`). Behind them stands how long the descriptor was invalid at least, in cycles too where
//! the CPU counts them, and how many accesses of other CPUs met that and waited.

use std::collections::BTreeMap;

use comfy_table::{ContentArrangement, Table};
use vmsa::{Instance, change::What, instance::Method, outcome::Kind, verdict::Class};

use crate::{
    report::human::STYLE,
    results::{Breaks, CaseResult, ResultFile},
};

/// Of all instances with one method and one of hv's things.
#[derive(Clone, Copy, Default)]
struct Count {
    rounds: u64,
    trips: u64,
    lockups: u64,
    skipped: bool,
}

impl Count {
    fn add(&mut self, case: &CaseResult) {
        let seen = |kind| {
            case.outcomes.iter().filter(|outcome| outcome.kind == kind).map(|outcome| outcome.count).sum::<u64>()
        };
        self.rounds += case.rounds;
        self.trips += seen(Kind::Tripped);
        self.lockups += seen(Kind::Lockup);
        self.skipped |= case.verdict == Class::Skip;
    }

    fn describe(&self) -> String {
        let Self { rounds, trips, lockups, skipped } = *self;
        match (trips, lockups) {
            _ if rounds == 0 => if skipped { "skipped" } else { "" }.to_owned(),
            (0, 0) => format!("none in {rounds}"),
            (trips, 0) => format!("{trips} trips in {rounds}"),
            (0, lockups) => format!("{lockups} lockups in {rounds}"),
            (trips, lockups) => format!("{trips} trips, {lockups} lockups in {rounds}"),
        }
    }
}

/// The table of one CPU's results, if they have such instances.
#[must_use]
pub fn table(file: &ResultFile) -> Option<String> {
    let mut counts: BTreeMap<Method, (BTreeMap<What, Count>, Breaks)> = BTreeMap::new();
    for case in &file.cases {
        if let Ok(Instance::Case(instance)) = case.id.parse()
            && instance.change.own().is_some()
        {
            let (of_whats, breaks) = counts.entry(instance.method).or_default();
            of_whats.entry(instance.change.what()).or_default().add(case);
            if let Some(more) = &case.breaks {
                breaks.add(more);
            }
        }
    }
    let whats = || What::ALL.iter().filter(|what| what.own().is_some());
    let mut table = Table::new();
    table.load_style(STYLE).set_content_arrangement(ContentArrangement::Dynamic);
    let words = whats().map(|what| format!("its {}", what.word()).replace("its all", "all of it"));
    let behind = ["invalid for at least", "others waited"].map(str::to_owned);
    table.set_header([String::new()].into_iter().chain(words).chain(behind));
    for (method, (of_whats, breaks)) in &counts {
        let cells = whats().map(|what| of_whats.get(what).copied().unwrap_or_default().describe());
        let cycles = breaks.cycles.map_or(String::new(), |cycles| format!(", {cycles} cycles"));
        let shortest = breaks.shortest_ns.map_or(String::new(), |ns| format!("{ns} ns{cycles}"));
        table.add_row([method.to_string()].into_iter().chain(cells).chain([shortest, breaks.retried.to_string()]));
    }
    (!counts.is_empty()).then(|| format!("{table}\n"))
}

#[cfg(test)]
mod tests {
    use vmsa::outcome::Phase;

    use super::*;
    use crate::results::{First, Hex, Outcome, tests::fixture};

    #[test]
    fn trips_and_lockups_stand_where_they_were_taken() {
        let mut file = fixture("base/board/altra.json");
        assert_eq!(table(&file), None);
        let case = file.cases[0].clone();
        let outcome = |kind, count| Outcome {
            phase: Phase::During,
            kind,
            count,
            allowed: true,
            rule: "R_DDMVT".to_owned(),
            first: First { cpu: 0, round: 0, seed: None, esr: Hex(0), far: Hex(0), pc: Hex(0), value: Hex(0) },
        };
        let breaks = Breaks { count: 3, shortest_ns: Some(70), cycles: Some(140), retried: 5, ..Breaks::default() };
        for (id, outcomes, rounds) in [
            ("el2.self.4k-l2-stack.bbm.load-remote", vec![outcome(Kind::Tripped, 7)], 8),
            ("el2.self.4k-l2-all.bbm.load-remote", vec![outcome(Kind::Lockup, 8)], 8),
            ("el2.self.4k-l2-code.bbm-asm.load-remote", vec![], 64),
            ("el2.self.4k-l2-code.bbm-asm.store-remote", vec![], 64),
            ("el2.self.4k-l2-table.direct.load-remote", vec![], 0),
        ] {
            let verdict = if rounds == 0 { Class::Skip } else { Class::Pass };
            let breaks = (rounds != 0).then_some(breaks);
            file.cases.push(CaseResult { id: id.to_owned(), outcomes, rounds, breaks, verdict, ..case.clone() });
        }
        insta::assert_snapshot!(table(&file).unwrap_or_default());
    }
}
