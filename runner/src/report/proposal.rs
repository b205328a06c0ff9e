//! The proposal beside the usual ways: what came of splits by each method, a row a method, a column for each regime.
//!
//! A cell adds up all of the suite's own splits by that method: TLB conflict aborts (`aborts`), accesses that took another exception
//! (`faults`, which the break of break-before-make gives, and nT where it may), and accesses that neither mapping gives
//! (`wrong`: other data, stores that landed nowhere or elsewhere). Steps other than the method's own, and a lowered BBM level, are
//! not in it.

use std::collections::BTreeMap;

use comfy_table::{ContentArrangement, Table};
use vmsa::{
    Instance,
    instance::{Case, Family, Method, Regime},
    outcome::Kind,
    verdict::Class,
};

use crate::{
    report::human::STYLE,
    results::{CaseResult, ResultFile},
};

/// Of all splits by one method in one regime.
#[derive(Clone, Copy, Default)]
struct Count {
    rounds: u64,
    aborts: u64,
    faults: u64,
    wrong: u64,
}

impl Count {
    fn add(&mut self, case: &CaseResult) {
        self.rounds += case.rounds;
        for outcome in &case.outcomes {
            let what = match outcome.kind {
                // Both mappings show the same, and before it is known whose access it is, either may be named.
                Kind::Same | Kind::Old | Kind::New => continue,
                Kind::Conflict => &mut self.aborts,
                Kind::Fault(..) | Kind::Alignment | Kind::Exception => &mut self.faults,
                _ => &mut self.wrong,
            };
            *what += outcome.count;
        }
    }

    fn describe(&self) -> String {
        let Self { rounds, aborts, faults, wrong } = *self;
        let seen = [(aborts, "aborts"), (faults, "faults"), (wrong, "wrong")];
        let seen: Vec<String> =
            seen.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        match (rounds, seen.is_empty()) {
            (0, _) => String::new(),
            (_, true) => format!("none in {rounds}"),
            (_, false) => format!("{} in {rounds}", seen.join(", ")),
        }
    }
}

const METHODS: [Method; 4] = [Method::Bbm, Method::Nt, Method::Direct, Method::Overwrite];

/// The table of one CPU's results, if the proposal is in them.
#[must_use]
pub fn table(file: &ResultFile) -> Option<String> {
    let mut counts: BTreeMap<(Method, Regime), Count> = BTreeMap::new();
    let split = |case: &Case| case.change.family() == Family::Split && case.script.is_none() && case.cap.is_none();
    for result in file.cases.iter().filter(|case| case.verdict != Class::Skip) {
        if let Ok(Instance::Case(case)) = result.id.parse()
            && split(&case)
        {
            counts.entry((case.method, case.regime)).or_default().add(result);
        }
    }
    let of = |method| Regime::ALL.iter().map(move |regime| (method, *regime));
    if !of(Method::Overwrite).any(|key| counts.contains_key(&key)) {
        return None;
    }
    let mut table = Table::new();
    table.load_style(STYLE).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header([String::new()].into_iter().chain(Regime::ALL.iter().map(ToString::to_string)));
    for method in METHODS.into_iter().filter(|method| of(*method).any(|key| counts.contains_key(&key))) {
        let cells = of(method).map(|key| counts.get(&key).copied().unwrap_or_default().describe());
        table.add_row([method.to_string()].into_iter().chain(cells));
    }
    Some(format!("{table}\n"))
}

#[cfg(test)]
mod tests {
    use vmsa::{Level, outcome::Fault, outcome::Phase};

    use super::*;
    use crate::results::{First, Hex, Outcome, tests::fixture};

    #[test]
    fn splits_are_added_up_by_method_and_regime() {
        let mut file = fixture("base/board/altra.json");
        assert_eq!(table(&file), None);
        let case = file.cases[0].clone();
        let outcome = |kind, count| Outcome {
            phase: Phase::During,
            kind,
            count,
            allowed: true,
            rule: "R_FVQCK".to_owned(),
            first: First { cpu: 0, round: 0, seed: None, esr: Hex(0), far: Hex(0), pc: Hex(0), value: Hex(0) },
        };
        let fault = Kind::Fault(Fault::Translation, Level::L2);
        for (id, outcomes, verdict) in [
            ("el1.split.4k-l2.bbm.load-remote", vec![outcome(fault, 9), outcome(Kind::Same, 4)], Class::Pass),
            ("s2.split.4k-l2.overwrite.load-remote", vec![outcome(Kind::Conflict, 3)], Class::Observed),
            (
                "s2.split.4k-l1.overwrite.store-all",
                vec![outcome(Kind::Lost, 2), outcome(Kind::Neither, 1)],
                Class::Observed,
            ),
            ("el2.split.4k-l2.overwrite.walk-remote", vec![outcome(Kind::Same, 7)], Class::Pass),
            // None of these counts.
            ("el2.split.4k-l2.overwrite~ls1di.load-remote", vec![outcome(Kind::Conflict, 5)], Class::Observed),
            ("el2.split.4k-l2.nt.load-remote", vec![], Class::Skip),
            ("el2.split.4k-l2.direct.load-remote.cap0", vec![outcome(Kind::Conflict, 5)], Class::Observed),
            ("el1.merge.4k-l2.direct.load-remote", vec![outcome(Kind::Conflict, 5)], Class::Observed),
        ] {
            file.cases.push(CaseResult { id: id.to_owned(), outcomes, rounds: 64, verdict, ..case.clone() });
        }
        insta::assert_snapshot!(table(&file).unwrap_or_default());
    }
}
