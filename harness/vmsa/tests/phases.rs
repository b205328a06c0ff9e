//! What may be seen of any change by any method: the sets of outcomes over the abstract space.

use std::collections::BTreeSet;

use vmsa::{
    BbmLevel, Descriptor, Granule, Level,
    change::Leaf,
    descriptor::Attributes,
    instance::{Access, Method, Stage2},
    outcome::{Fault, Kind, Phase},
    rule::{Context, HardwareUpdates, Need, Transition},
    verdict::{Allowance, Situation},
};

const KNOWN: [&str; 19] = [
    "R_WHZWS", "I_WZRHR", "R_KFLJB", "R_PVTFW", "R_MRRPW", "R_KHRBC", "R_GPPYH", "R_LXHLD", "R_XCLRD", "I_WZCBG",
    "R_DDMVT", "R_YNJCP", "R_FVQCK", "I_HYQMB", "I_GYJBJ", "I_THWDH", "R_LRKTH", "I_GXGZY", "R_RTBRL",
];

const BELOW: Leaf = Leaf { level: Level::L3, attributes: Attributes::NORMAL_RW };

/// Leaves that differ in each of the fields that decide what an access does or a change needs, tables, and nothing.
fn descriptors() -> Vec<Descriptor> {
    let mut all = vec![Descriptor::INVALID, Descriptor::table(0x1000), Descriptor::table(0x2000)];
    for bits in 0u32..1 << 8 {
        let bit = |n: u32| bits >> n & 1 != 0;
        let attributes = Attributes {
            attr_index: u8::from(bit(0)),
            writable: bit(1),
            access_flag: bit(2),
            not_global: bit(3),
            dbm: bit(4),
            contiguous: bit(5),
            el1_execute: bit(1),
            ..Attributes::NORMAL_RW
        };
        let leaf = Descriptor::leaf(Granule::K4, Level::L2, if bit(6) { 0x4020_0000 } else { 0x4040_0000 }, attributes);
        all.push(leaf.with_nt(bit(7)));
    }
    all
}

type Set = BTreeSet<Kind>;

fn allowed(situation: &Situation, phase: Phase) -> Set {
    let kinds = Kind::all().filter(|kind| {
        let Allowance { allowed, rule, why } = situation.allowance(phase, *kind);
        assert!(KNOWN.contains(&rule) && !why.is_empty(), "{kind} {phase}: {rule}, {why}");
        allowed
    });
    kinds.collect()
}

#[test]
fn sets_of_outcomes() {
    let all = descriptors();
    let mut situations = 0u64;
    for hardware in HardwareUpdates::ALL {
        let context = Context { hardware, ..Context::new(Granule::K4, Level::L2) };
        for &old in &all {
            // Every fifth, so that it takes a second; 5 and the space have no common divisor.
            for &new in all.iter().skip(old.raw() as usize % 5).step_by(5).filter(|new| **new != old) {
                for &access in Access::ALL {
                    situations += check(&Transition { old, new, context }, access);
                }
            }
        }
    }
    println!("{situations} situations");
    assert!(situations > 500_000, "{situations}");
}

fn check(transition: &Transition, access: Access) -> u64 {
    let mut situations = 0;
    let mut missed_tlbi: [Option<Set>; 4] = [const { None }; 4];
    for &method in Method::ALL.iter().rev() {
        let mut lower: Option<Set> = None;
        for (i, bbm) in BbmLevel::ALL.into_iter().enumerate() {
            let of = |stage2| Situation::of(transition, BELOW, method, access, stage2, bbm);
            let Some(situation) = of(Stage2::Blocks) else { continue };
            situations += 1;
            let what = || format!("{transition:?} by {method}, {access}, at level {bbm}");
            let [before, during, after] = Phase::ALL.map(|phase| allowed(&situation, phase));
            // Before, the old mapping alone.
            assert_eq!(before.len(), 1, "{}", what());
            assert!(during.is_superset(&before), "{}", what());
            assert!(during.is_superset(&after) && !after.is_empty(), "{}", what());
            // Nothing gets through stage 2; without it, only what is not defined may.
            assert!(!during.contains(&Kind::External), "{}", what());
            let off = allowed(&of(Stage2::Off).expect("the same"), Phase::During);
            let needs_more = situation.given().is_err_and(|missed| missed.need.is_bbm());
            assert_eq!(off.contains(&Kind::External), needs_more, "{}", what());
            // A better CPU shows no more.
            assert!(lower.as_ref().is_none_or(|lower| lower.is_superset(&during)), "{}", what());
            lower = Some(during.clone());

            match situation.given() {
                Ok(met) => {
                    assert!(!met.need.is_bbm(), "{}", what());
                    // After, the new mapping alone.
                    assert_eq!(after.len(), 1, "{}", what());
                    assert_eq!(during.contains(&Kind::Conflict), met.need == Need::DirectTlbi, "{}", what());
                    // Neither mapping, and what the method adds: one fault at the level of the change.
                    let own = during.iter().filter(|kind| !before.contains(kind) && !after.contains(kind));
                    // Marks are lost to plain stores only, and for those see mark.rs.
                    let own = own.filter(|kind| **kind != Kind::Unmarked);
                    let swaps = matches!(method, Method::BbmCas | Method::NtCas | Method::DirectCas);
                    assert!(!swaps || !during.contains(&Kind::Unmarked), "{}", what());
                    for kind in own {
                        let expected = match method {
                            Method::Bbm | Method::BbmCas => Kind::Fault(Fault::Translation, Level::L2),
                            Method::BbmAf => Kind::Fault(Fault::AccessFlag, Level::L2),
                            Method::Nt | Method::NtCas if *kind != Kind::Conflict => {
                                Kind::Fault(Fault::Translation, Level::L2)
                            }
                            _ => Kind::Conflict,
                        };
                        assert_eq!(*kind, expected, "{}", what());
                    }
                    // Without its TLBI the same change shows at least as much.
                    if method == Method::Direct {
                        let without = missed_tlbi[i].as_ref().expect("every change can be made without a TLBI");
                        assert!(without.is_superset(&during), "{}", what());
                    }
                }
                Err(missed) => {
                    assert_eq!(during, after, "{}", what());
                    // What asks for break-before-make may show anything contained.
                    if missed.need.is_bbm() {
                        assert_eq!(during.len(), Kind::all().count() - 1, "{}", what());
                    }
                    // Where there is nothing to invalidate, nothing can be missed; and break-before-make never is.
                    assert_ne!(missed.need, Need::Nothing, "{}", what());
                    assert!(!matches!(method, Method::Bbm | Method::BbmCas), "{}", what());
                }
            }
            if method == Method::DirectNotlbi {
                missed_tlbi[i] = Some(during);
            }
        }
    }
    situations
}
