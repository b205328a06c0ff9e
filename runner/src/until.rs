//! What `shatter run --until-seen` waits for, and what can be said of it at the end.

use std::{fmt, str::FromStr};

use vmsa::{
    outcome::{Kind, Phase},
    verdict::Class,
};

use crate::{
    results::{CaseResult, ResultFile},
    stats::Rate,
};

/// An outcome that a run waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// What.
    pub kind: Kind,
    /// When; at any time, if there is none.
    pub phase: Option<Phase>,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        self.phase.map_or(Ok(()), |phase| write!(f, "@{phase}"))
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = |names: &mut dyn Iterator<Item = String>| names.collect::<Vec<_>>().join(", ");
        let (kind, phase) = text.split_once('@').map_or((text, None), |(kind, phase)| (kind, Some(phase)));
        let kind = Kind::all()
            .find(|known| known.to_string() == kind)
            .ok_or_else(|| format!("there are {}", names(&mut Kind::all().map(|kind| kind.to_string()))))?;
        let find = |phase: &str| {
            let known = Phase::ALL.into_iter().find(|known| known.to_string() == phase);
            known.ok_or_else(|| format!("the phases are {}", names(&mut Phase::ALL.iter().map(ToString::to_string))))
        };
        Ok(Self { kind, phase: phase.map(find).transpose()? })
    }
}

impl Wanted {
    /// How often `case` saw it. Conflict aborts that were taken at EL2 have no phase.
    #[must_use]
    pub fn seen(self, case: &CaseResult) -> u64 {
        let counted = self.count(case, |kind| kind == self.kind);
        if self.kind == Kind::Conflict && self.phase.is_none() { counted.max(case.conflicts.total()) } else { counted }
    }

    fn count(self, case: &CaseResult, is: impl Fn(Kind) -> bool) -> u64 {
        let phase = |phase| self.phase.is_none_or(|wanted| wanted == phase);
        case.outcomes.iter().filter(|o| phase(o.phase) && is(o.kind)).map(|o| o.count).sum()
    }

    /// What `case` says of its rate. Where it was seen a trial is an access in that phase; where it was not, a round,
    /// as the accesses of a round are not independent of each other.
    #[must_use]
    pub fn rate(self, case: &CaseResult) -> Rate {
        match self.seen(case) {
            0 => Rate { seen: 0, trials: case.rounds, of: "rounds" },
            seen => Rate { seen, trials: self.count(case, |_| true), of: "accesses" },
        }
    }

    /// A line for each instance that ran, and whether any of them saw it.
    #[must_use]
    pub fn report(self, files: &[ResultFile]) -> (String, bool) {
        let (mut text, mut any) = (String::new(), false);
        for file in files {
            for case in file.asked().filter(|case| case.verdict != Class::Skip) {
                let seen = self.seen(case) > 0;
                any |= seen;
                text += &format!("{self} {} {}: {}\n", file.name(), case.id, self.rate(case));
                let is_it = |o: &&_| self.matches(o);
                if let Some(outcome) = case.outcomes.iter().find(is_it) {
                    text += &format!("  {}\n", file.replay(case, outcome));
                }
            }
        }
        (text, any)
    }

    fn matches(self, outcome: &crate::results::Outcome) -> bool {
        outcome.kind == self.kind && self.phase.is_none_or(|phase| phase == outcome.phase)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::fixture;

    #[test]
    fn every_kind_and_phase_is_read_back() {
        for kind in Kind::all() {
            for phase in Phase::ALL.into_iter().map(Some).chain([None]) {
                let wanted = Wanted { kind, phase };
                assert_eq!(wanted.to_string().parse(), Ok(wanted));
            }
        }
        assert!("torm".parse::<Wanted>().expect_err("none").contains("torn"));
        assert!("torn@later".parse::<Wanted>().expect_err("none").contains("after"));
    }

    #[test]
    fn what_was_seen_has_a_rate_and_what_was_not_a_bound() {
        let file = fixture("new/board/altra.json");
        let torn: Wanted = "torn@during".parse().expect("a kind");
        let (text, any) = torn.report(std::slice::from_ref(&file));
        assert!(any && text.contains("3 in 1003 accesses: 3.0e-3, "), "{text}");
        assert!(
            text.contains("  shatter run el1.split.4k-l2.bbm.load-remote --on board --cpu altra --seed 0x"),
            "{text}"
        );
        let other: Wanted = "torn@after".parse().expect("a kind");
        let (text, any) = other.report(&[file]);
        assert!(!any && text.contains("0 in 100 rounds: at most 3/100 = 3.0e-2 (95 %)"), "{text}");
    }
}
