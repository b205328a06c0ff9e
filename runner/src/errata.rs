//! The classes of errata for which families of the catalogue are made.
//!
//! A class is a way in which published errata of several CPUs go wrong; what stands here says which family looks for it.
//! It changes no verdict: whether a CPU has an erratum is for its instances to show.

use vmsa::instance::Family;

/// A class of errata.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Class {
    /// Its short name in documents and defects.
    pub name: &'static str,
    /// What goes wrong.
    pub what: &'static str,
    /// CPUs with the numbers of their errata, of which there may be more.
    pub known: &'static str,
}

/// The class that `family` is for, if there is one.
#[must_use]
pub const fn class(family: Family) -> Option<Class> {
    Some(match family {
        Family::Late => Class {
            name: "E1",
            what: "TLBI and DSB are complete before a store by the old mapping has landed",
            known: "Cortex-A76 1286807, Neoverse N1 4193800 and their families",
        },
        Family::Progress => Class {
            name: "E2",
            what: "accesses do not go on while entries differ in size or in Contiguous",
            known: "Neoverse N2 3696250, V2 3696242, Cortex-X4 3043263 and their families",
        },
        Family::HwAge | Family::Dirty => Class {
            name: "E5",
            what: "the Access flag or dirty state that hardware writes is lost or misplaced",
            known: "Cortex-A55 1024718, A510 2051678, AmpereOne AC03_CPU_38",
        },
        Family::Exec => Class {
            name: "E6",
            what: "a fetch from what is executable no longer reports a wrong ESR or FAR",
            known: "Cortex-A715 2645198",
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// docs/catalogue.md names the class in the rows of its families, and in no others.
    #[test]
    fn the_document_names_the_same_classes() {
        let text = include_str!("../../docs/catalogue.md");
        let mut told = BTreeSet::new();
        for family in Family::ALL {
            let row = text.lines().find(|line| line.starts_with(&format!("| `{family}` |"))).expect("a row");
            let class = class(*family);
            for name in ["E1", "E2", "E5", "E6"] {
                assert_eq!(row.contains(name), class.is_some_and(|class| class.name == name), "{row}");
            }
            if let Some(Class { name, known, .. }) = class
                && told.insert(name)
            {
                assert!(row.contains(known), "{row} does not name {known}");
            }
        }
        assert_eq!(told.len(), 4);
    }
}
