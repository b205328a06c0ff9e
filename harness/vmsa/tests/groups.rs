//! Contiguous groups as a whole, at every level that has them: any mixture of descriptors, against the definitions
//! spelled out, and what families of tests do to groups.

use proptest::prelude::*;
use vmsa::{
    BbmLevel, Descriptor, Granule, Level,
    descriptor::{Attributes, DescriptorKind},
    group::{BadGroup, GroupChange, Grouping, Lookup, MISPROGRAMMED},
    layout::{Layout, Width},
    rule::{Context, HardwareUpdates, Need, Reach},
};

/// What may stand in an entry of a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Entry {
    Invalid,
    Table,
    Plain,
    PlainElsewhere,
    Contiguous,
    ContiguousElsewhere,
    ContiguousReadOnly,
    ContiguousOld,
    ContiguousMarked,
}

const ENTRIES: [Entry; 9] = [
    Entry::Invalid,
    Entry::Table,
    Entry::Plain,
    Entry::PlainElsewhere,
    Entry::Contiguous,
    Entry::ContiguousElsewhere,
    Entry::ContiguousReadOnly,
    Entry::ContiguousOld,
    Entry::ContiguousMarked,
];

fn places() -> Vec<Layout> {
    Layout::all().filter(|layout| layout.allows_leaf() && layout.group().is_some()).collect()
}

fn context(layout: Layout, hardware: HardwareUpdates) -> Context {
    Context { width: layout.width, hardware, ..Context::new(layout.granule, layout.level) }
}

fn descriptor(layout: Layout, entry: Entry, index: usize) -> Descriptor {
    let size = layout.level.size(layout.granule);
    let range = size * layout.group().expect("a group") as u64;
    let rw = Attributes::NORMAL_RW;
    let contiguous = Attributes { contiguous: true, dbm: true, ..rw };
    let leaf = |base: u64, attributes| layout.leaf(base + index as u64 * size, attributes);
    match entry {
        Entry::Invalid => Descriptor::INVALID,
        // A Page has no room for a table; what stands there instead has no bit either.
        Entry::Table if layout.level == Level::L3 => leaf(range, rw),
        Entry::Table => layout.table(range),
        Entry::Plain => leaf(range, rw),
        Entry::PlainElsewhere => leaf(2 * range, rw),
        Entry::Contiguous => leaf(range, contiguous),
        Entry::ContiguousElsewhere => leaf(2 * range, contiguous),
        Entry::ContiguousReadOnly => leaf(range, Attributes { writable: false, ..contiguous }),
        Entry::ContiguousOld => leaf(range, contiguous).with_af(false),
        Entry::ContiguousMarked => Descriptor::from_raw(leaf(range, contiguous).raw() | 1 << 55),
    }
}

fn group(layout: Layout, entry: impl Fn(usize) -> Entry) -> Vec<Descriptor> {
    (0..layout.group().expect("a group")).map(|index| descriptor(layout, entry(index), index)).collect()
}

/// The definitions, in terms of the entries.
fn expected(entries: &[Entry], hardware: HardwareUpdates) -> Grouping {
    use Entry::{
        Contiguous, ContiguousMarked, ContiguousOld, ContiguousReadOnly, Invalid, Plain, PlainElsewhere, Table,
    };
    let without = entries.iter().any(|entry| matches!(entry, Table | Plain | PlainElsewhere));
    let mut with: Vec<Entry> = entries.iter().copied().filter(|e| *e != Invalid && *e > PlainElsewhere).collect();
    let any = !with.is_empty();
    for entry in &mut with {
        *entry = match *entry {
            // Software's own bits are no attribute.
            ContiguousMarked => Contiguous,
            ContiguousOld if hardware >= HardwareUpdates::AccessFlag => Contiguous,
            ContiguousReadOnly if hardware == HardwareUpdates::Dirty => Contiguous,
            entry => entry,
        };
    }
    with.sort_unstable();
    with.dedup();
    match (any, without) {
        (true, true) => Grouping::Mixed,
        (true, false) if with.len() > 1 => Grouping::Differing,
        _ => Grouping::Sound,
    }
}

proptest! {
    #[test]
    fn any_mixture_is_what_the_definitions_say(seed: [u8; 128], kinds in 1usize..4, first in 0usize..9) {
        for layout in places() {
            for hardware in HardwareUpdates::ALL {
                // Few kinds at a time, or every group would be mixed.
                let entry = |index: usize| ENTRIES[(first + usize::from(seed[index]) % kinds * 2) % ENTRIES.len()];
                let entries: Vec<Entry> = (0..layout.group().expect("a group")).map(entry).collect();
                let all = group(layout, entry);
                let seen = Grouping::of(&context(layout, hardware), all.iter().copied());
                prop_assert_eq!(seen, expected(&entries, hardware), "{:?} {:?}", layout, entries);
            }
        }
    }
}

/// Every pair of states, changed up to every entry.
#[test]
fn every_partial_change() {
    let mut groups = 0u32;
    for layout in places() {
        let count = layout.group().expect("a group");
        for hardware in [HardwareUpdates::Off, HardwareUpdates::Dirty] {
            for from in ENTRIES {
                for to in ENTRIES {
                    let (old, new) = (group(layout, |_| from), group(layout, |_| to));
                    let all = GroupChange::new(context(layout, hardware), &old, &new).expect("a group");
                    for changed in [0, 1, count / 2, count - 1, count] {
                        check(layout, all.first(changed), [from, to], changed, hardware);
                        groups += 1;
                    }
                }
            }
        }
    }
    println!("{groups} changes of groups");
    assert_eq!(groups, 7 * 2 * 2 * 9 * 9 * 5);
}

fn check(layout: Layout, change: GroupChange<'_>, [from, to]: [Entry; 2], changed: usize, hardware: HardwareUpdates) {
    let count = layout.group().expect("a group");
    let what = || format!("{layout:?} {from:?} to {to:?}, first {changed}, {hardware:?}");
    let entries: Vec<Entry> = (0..count).map(|index| if index < changed { to } else { from }).collect();
    let left = change.leaves();
    assert_eq!(left, expected(&entries, hardware), "{}", what());
    // One way or another it goes through where it ends, and a break of all first goes through nothing worse than
    // what is there before and after.
    assert!(change.passes() >= left && change.passes_broken() >= left, "{}", what());
    let before = expected(&vec![from; count], hardware);
    assert_eq!(change.passes_broken(), before.max(left), "{}", what());
    // Overwritten one by one, a whole group goes through what a part of it ends with.
    if changed == count {
        let between = expected(&[from, to], hardware);
        assert_eq!(change.passes(), between.max(before).max(left), "{}", what());
    }
    for bbm in BbmLevel::ALL {
        let need = change.needs(bbm).need;
        assert!(change.transitions().all(|transition| transition.needs(bbm).need <= need), "{}", what());
        if changed == 0 || from == to {
            assert_eq!(need, Need::Nothing, "{}", what());
        }
        let allows = Lookup::ALL.map(|lookup| left.allows(lookup, bbm).is_some());
        let lost = [left != Grouping::Sound, left == Grouping::Mixed && bbm == BbmLevel::L0, left == Grouping::Mixed];
        assert_eq!(allows, lost, "{}", what());
    }
    let reach = change.invalidation().reach;
    let nothing = change.needs(BbmLevel::L0).need == Need::Nothing;
    assert_eq!(reach == Reach::Nothing, nothing, "{}", what());
    assert!(nothing || changed < 2 || reach >= Reach::Group, "{}", what());
    let (size, sound) = (layout.level.size(layout.granule), left == Grouping::Sound);
    for entry in [0, changed.min(count - 1), count - 1] {
        let others: Vec<Descriptor> = change.others(entry).collect();
        assert_eq!(
            others.is_empty(),
            sound || !entries.iter().enumerate().any(|(i, e)| i != entry && *e >= Entry::Contiguous)
        );
        for other in others {
            assert_ne!(layout.kind(other), DescriptorKind::Invalid);
            let attributes = layout.attributes(other);
            assert!(attributes.contiguous, "{}", what());
            // It maps this entry's place in the range of the other.
            let place = layout.oa(other) % (size * count as u64);
            assert_eq!(place, entry as u64 * size, "{}", what());
        }
    }
}

/// What a family of tests does: fold, unfold, and both in part, at each BBM level.
#[test]
fn fold_and_unfold() {
    use Need::{Bbm, DirectTlbi, Tlbi};
    for layout in places() {
        let plain = group(layout, |_| Entry::Plain);
        let rw = Attributes { contiguous: true, ..Attributes::NORMAL_RW };
        let folded: Vec<Descriptor> = plain.iter().map(|leaf| layout.leaf(layout.oa(*leaf), rw)).collect();
        for (old, new) in [(&plain, &folded), (&folded, &plain)] {
            let change = GroupChange::new(context(layout, HardwareUpdates::Off), old, new).expect("a group");
            for part in [1, old.len() / 2, old.len()] {
                let change = change.first(part);
                assert_eq!(BbmLevel::ALL.map(|bbm| change.needs(bbm).need), [Bbm, DirectTlbi, DirectTlbi, Tlbi]);
                assert_eq!(change.needs(BbmLevel::L1).rule, "R_KHRBC");
                assert_eq!(change.invalidation().reach, Reach::Group);
                let whole = part == old.len();
                assert_eq!(change.leaves(), if whole { Grouping::Sound } else { Grouping::Mixed });
                assert_eq!(change.passes_broken(), change.leaves());
                assert_eq!(change.passes(), Grouping::Mixed);
            }
        }
    }
}

#[test]
fn what_is_no_group_is_refused() {
    let entries = [Descriptor::INVALID; 16];
    let group = |granule, level, width, old, new| {
        let context = Context { width, ..Context::new(granule, level) };
        GroupChange::new(context, &entries[..old], &entries[..new]).map(|_| ())
    };
    assert_eq!(group(Granule::K4, Level::L2, Width::Bits48, 16, 16), Ok(()));
    let length = BadGroup::Length { given: [16, 15], group: 16 };
    assert_eq!(group(Granule::K4, Level::L2, Width::Bits48, 16, 15), Err(length));
    assert_eq!(length.to_string(), "16 old and 15 new descriptors; a Contiguous group has 16");
    assert_eq!(group(Granule::K4, Level::L0, Width::Bits52, 16, 16), Err(BadGroup::NoGroups));
}

/// No row says what another says, and a sound group has none.
#[test]
fn rows_are_apart() {
    for (at, row) in MISPROGRAMMED.iter().enumerate() {
        assert_ne!(row.grouping, Grouping::Sound);
        let twice =
            MISPROGRAMMED[..at].iter().any(|other| (other.grouping, other.lookup) == (row.grouping, row.lookup));
        assert!(!twice && !row.why.is_empty(), "{row:?}");
    }
}
