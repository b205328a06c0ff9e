//! What the tests of several modules use: every instance that an id can say.

use std::vec::Vec;

use crate::{
    geometry::{BbmLevel, Granule, Level},
    instance::{
        Access, Case, Change, Instance, Method, Observer, Place, Protection, Regime, Remapping, Selftest, Stage2,
    },
};

const LEVELS: [Level; 4] = [Level::L0, Level::L1, Level::L2, Level::L3];

/// Every change that `granule` has.
pub(crate) fn changes(granule: Granule) -> Vec<Change> {
    let mut changes = Vec::new();
    for level in LEVELS {
        for leaf in LEVELS {
            changes.push(Change::Split { block: level, leaf });
            changes.push(Change::Merge { block: level, leaf });
        }
        changes.extend(Remapping::ALL.iter().map(|kind| Change::Remap { level, kind: *kind }));
        changes.extend(Protection::ALL.iter().map(|kind| Change::Protect { level, kind: *kind }));
    }
    changes.retain(|change| change.exists(granule));
    changes
}

/// Every case of `granule` that differs in change, method, access or place.
pub(crate) fn cases(granule: Granule) -> Vec<Case> {
    let mut cases = Vec::new();
    for change in changes(granule) {
        for &method in Method::ALL.iter().filter(|method| method.fits(change)) {
            for &access in Access::ALL {
                for &place in Place::ALL {
                    let observer = Observer { access, place };
                    let (regime, stage2) = (Regime::El1, Stage2::Blocks);
                    let script = None;
                    cases.push(Case { regime, granule, change, method, script, observer, stage2, cap: None });
                }
            }
        }
    }
    cases
}

/// Every instance that an id can say.
pub(crate) fn instances() -> Vec<Instance> {
    let mut instances: Vec<Instance> = Selftest::ALL.iter().copied().map(Instance::Selftest).collect();
    for case in Granule::ALL.into_iter().flat_map(cases) {
        for &stage2 in Stage2::ALL {
            for cap in [None].into_iter().chain(BbmLevel::ALL.map(Some)) {
                instances.push(Instance::Case(Case { stage2, cap, ..case }));
            }
        }
    }
    instances
}
