//! What conflict aborts were cleared by, where instances named what was to be tried first.

use std::{collections::BTreeMap, fmt};

use vmsa::{Instance, instance::Stage2, remedy::Remedy};

use crate::results::ResultFile;

/// Of the recorded conflicts that a TLBI was tried on first: how many accesses went through behind it, and of how many.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Count {
    cleared: usize,
    all: usize,
}

/// The TLBIs tried first, each with stage 2 on and off.
#[derive(PartialEq, Eq, Default, Debug)]
pub struct Remedies(BTreeMap<(bool, Remedy), Count>);

impl Remedies {
    /// Those of one CPU's results.
    #[must_use]
    pub fn of(file: &ResultFile) -> Self {
        let mut counts: BTreeMap<_, Count> = BTreeMap::new();
        for conflict in file.conflicts.iter().filter(|conflict| !conflict.injected) {
            if let Ok(Instance::Case(case)) = conflict.id.parse()
                && let Some(remedy) = case.remedy
            {
                let count = counts.entry((case.stage2 == Stage2::Off, remedy)).or_default();
                count.all += 1;
                count.cleared += usize::from(conflict.cleared_by == remedy.name());
            }
        }
        Self(counts)
    }

    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Remedies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, ((off, remedy), Count { cleared, all })) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            let stage2 = if *off { " without stage 2" } else { "" };
            write!(f, "{comma}{remedy}{stage2} {cleared} of {all}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Conflict, Hex, tests::fixture};

    fn conflict(id: &str, cleared_by: &str) -> Conflict {
        Conflict {
            id: id.to_owned(),
            place: "el1".to_owned(),
            stage: 1,
            esr: Hex(0),
            far: Hex(0),
            hpfar: None,
            pc: Hex(0),
            cpu: 1,
            cleared_by: cleared_by.to_owned(),
            retries: 1,
            injected: false,
            phase: None,
        }
    }

    #[test]
    fn each_first_try_is_counted_with_what_came_of_it() {
        let mut file = fixture("new/board/altra.json");
        file.conflicts.clear();
        assert!(Remedies::of(&file).is_empty());
        file.conflicts = vec![
            conflict("el1.recover.4k-l2-split.direct.load-remote.by-vae1", "vae1"),
            conflict("el1.recover.4k-l2-split.direct.load-remote.by-vae1", "vmalle1"),
            conflict("el1.recover.4k-l2-split.direct.load-remote.s2off.by-vmalle1", "vmalle1"),
            conflict("el1.split.4k-l2.direct.load-remote", "vmalle1"),
        ];
        assert_eq!(Remedies::of(&file).to_string(), "vae1 1 of 2, vmalle1 without stage 2 1 of 1");
    }
}
