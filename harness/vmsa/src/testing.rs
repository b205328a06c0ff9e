//! What the tests of several modules use: every instance that an id can say.

use std::vec::Vec;

use crate::{
    change::{Change, What},
    geometry::{BbmLevel, Granule, Level},
    instance::{Access, Case, Instance, Method, Observer, Place, Regime, Selftest, Stage1, Stage2},
    remedy::Remedy,
};

/// Every change that `granule` has.
pub(crate) fn changes(granule: Granule) -> Vec<Change> {
    let levels = [Level::L0, Level::L1, Level::L2];
    let at = |what: &What| {
        let what = *what;
        levels.into_iter().flat_map(move |level| {
            let change = Change::new(what, level);
            let deeper = [Level::L2, Level::L3].into_iter().filter(move |leaf| *leaf > change.leaf_level());
            let deeper = deeper.filter(move |_| change.leaf_level() != level).map(move |leaf| change.down_to(leaf));
            [change].into_iter().chain(deeper)
        })
    };
    let pages = What::ALL.iter().filter(|what| !what.has_tables()).map(|what| Change::new(*what, Level::L3));
    let narrow = What::ALL.iter().flat_map(at).chain(pages);
    narrow.flat_map(|change| [change, change.wide()]).filter(|change| change.exists(granule)).collect()
}

/// Every case of `granule` that differs in change, method, access or place.
pub(crate) fn cases(granule: Granule) -> Vec<Case> {
    let mut cases = Vec::new();
    for change in changes(granule) {
        for &method in Method::ALL.iter().filter(|method| method.fits(change)) {
            for &access in Access::ALL.iter().filter(|access| access.fits(change)) {
                let regime = if change.own().is_some() { Regime::El2 } else { Regime::El1 };
                if !regime.has(change, access) {
                    continue;
                }
                for &place in Place::ALL.iter().filter(|place| place.fits(change)) {
                    let observer = Observer { access, place };
                    let stage2 = Stage2::Blocks;
                    let script = None;
                    cases.push(Case {
                        regime,
                        granule,
                        change,
                        method,
                        script,
                        observer,
                        stage2,
                        stage1: Stage1::Blocks,
                        cap: None,
                        remedy: None,
                    });
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
        // The circumstances in all combinations of one observer; of the others, one of each.
        if case.observer != (Observer { access: Access::Load, place: Place::Remote }) {
            let rare = case.observer.place == Place::All;
            let rare = rare && case.regime == Regime::El1;
            let (stage2, cap) = if rare { (Stage2::Pages, Some(BbmLevel::L0)) } else { (case.stage2, None) };
            instances.push(Instance::Case(Case { stage2, cap, ..case }));
            continue;
        }
        for &remedy in Remedy::ALL {
            instances.push(Instance::Case(Case { remedy: Some(remedy), ..case }));
        }
        let partial = case.change.is_partial(case.granule);
        let fits = |stage2: Stage2| match (stage2, case.regime) {
            (Stage2::Blocks, _) => true,
            (Stage2::Off, _) if partial => false,
            (_, regime) => regime == Regime::El1,
        };
        for &stage2 in Stage2::ALL.iter().filter(|stage2| fits(**stage2)) {
            for cap in [None].into_iter().chain(BbmLevel::ALL.map(Some)) {
                instances.push(Instance::Case(Case { stage2, cap, ..case }));
            }
        }
    }
    instances
}
