//! The rule base over the whole abstract space.
//!
//! The space: every last-level or Block descriptor that differs in memory type, Shareability, AP[2], AF, nG, DBM,
//! Contiguous, nT (or another bit of the OA), OA, or in what no rule asks for (two values each), invalid ones, and
//! tables; each with each; with the same contents or not, MAIR not known, with two types or with one type twice, a table
//! that maps the same or not, and hardware updates off, of AF, or of AF and dirty state, by plain store or
//! compare-and-swap. All of this for a 2 MiB block and a 4 KiB page; at the other granules and levels, and with 52-bit
//! addresses, with one context each, since no rule asks where a descriptor stands or a field is.

use std::{collections::BTreeMap, sync::Mutex, thread};

use vmsa::{
    BbmLevel, Descriptor, Granule, Level,
    descriptor::{Attributes, DescriptorKind, Shareability},
    layout::{Layout, Width},
    rule::{Asids, Comparison, Context, HardwareUpdates, Need, Needed, RULES, Reach, Transition},
};

/// Every rule that an answer may cite.
const KNOWN: [&str; 10] =
    ["R_WHZWS", "I_WZRHR", "R_KFLJB", "R_PVTFW", "R_MRRPW", "R_KHRBC", "R_GPPYH", "R_LXHLD", "R_XCLRD", "I_WZCBG"];

/// Bits that no rule asks for: XN, AP[1], software.
const OTHER: u64 = 1 << 54 | 1 << 6 | 1 << 55;
const AP_RO: u64 = 1 << 7;
const SH: u64 = 3 << 8;
const ATTR: u64 = 7 << 2;
const AF: u64 = 1 << 10;
const NG: u64 = 1 << 11;
const NT: u64 = 1 << 16;
const DBM: u64 = 1 << 51;
const CONTIGUOUS: u64 = 1 << 52;

/// Where descriptors stand, also where only tables may; the two with all contexts first and last.
fn places() -> Vec<Layout> {
    let mut all: Vec<Layout> = Layout::all().collect();
    all.sort_by_key(|layout| (*layout == Layout::new(Granule::K4, Level::L3), !every(*layout)));
    all
}

/// Whether all contexts are tried here.
fn every(layout: Layout) -> bool {
    [Level::L2, Level::L3].map(|level| Layout::new(Granule::K4, level)).contains(&layout)
}

fn descriptors(layout: Layout) -> Vec<Descriptor> {
    let Layout { granule, level, width } = layout;
    let size = level.size(granule);
    // Two addresses apart in a bit that a 52-bit address has elsewhere than a 48-bit one.
    let oas = match width {
        Width::Bits48 => [4 * size, 8 * size],
        Width::Bits52 => [1 << 50, 1 << 51],
    };
    let mut all = vec![Descriptor::INVALID, Descriptor::from_raw(0x4000_0000 | AF)];
    if level != Level::L3 {
        let table = 64 * granule.page_size();
        all.extend([
            layout.table(table),
            layout.table(oas[1] + table),
            Descriptor::from_raw(layout.table(table).raw() | 1 << 61),
        ]);
    } else {
        // A reserved encoding.
        all.push(Descriptor::from_raw(0x4000_0000 | AF | 1));
    }
    for bits in 0u32..1 << 10 {
        let bit = |n: u32| bits >> n & 1 != 0;
        let attributes = Attributes {
            attr_index: u8::from(bit(0)),
            shareability: if bit(1) { Shareability::Inner } else { Shareability::Outer },
            writable: bit(2),
            access_flag: bit(3),
            not_global: bit(4),
            dbm: bit(5),
            contiguous: bit(6),
            ..Attributes::NORMAL_RW
        };
        let leaf = layout.leaf(oas[usize::from(bit(7))], attributes).raw();
        let other = if bit(8) { OTHER } else { 0 };
        let nt = match (bit(9), level == Level::L3) {
            (false, _) => 0,
            (true, false) => NT,
            (true, true) => layout.leaf(16 * size, Attributes::NORMAL_RW).raw() & 0x0000_ffff_ffff_0000,
        };
        all.push(Descriptor::from_raw(leaf ^ other | nt));
    }
    all
}

fn contexts(layout: Layout) -> impl Iterator<Item = Context> {
    let Layout { granule, level, width } = layout;
    let updates = HardwareUpdates::ALL.into_iter().flat_map(|hardware| {
        let swaps: &[bool] = if hardware == HardwareUpdates::Off { &[false] } else { &[false, true] };
        swaps.iter().map(move |&compare_and_swap| (hardware, compare_and_swap))
    });
    let all = updates.flat_map(move |(hardware, compare_and_swap)| {
        [None, Some(0x00ff), Some(0xeeff), Some(0x0400)].into_iter().flat_map(move |mair| {
            [false, true].map(move |contents_equal| Context {
                width,
                mair,
                contents_equal,
                hardware,
                compare_and_swap,
                ..Context::new(granule, level)
            })
        })
    });
    all.take(if every(layout) { usize::MAX } else { 1 })
}

/// Whether a walk that finds this may put it into a TLB, now or after hardware has set the Access flag.
fn lives(descriptor: Descriptor, context: &Context) -> bool {
    match context.layout().kind(descriptor) {
        DescriptorKind::Invalid => false,
        DescriptorKind::Table => true,
        DescriptorKind::Block | DescriptorKind::Page => descriptor.af() || context.hardware != HardwareUpdates::Off,
    }
}

/// The answers to all comparisons met so far.
#[derive(Default)]
struct Answers(BTreeMap<u32, [Needed; 4]>, Vec<Option<[Need; 4]>>);

impl Answers {
    fn of(&mut self, transition: &Transition) -> [Need; 4] {
        let comparison = Comparison::of(transition);
        let bits = comparison.bits() as usize;
        if self.1.len() <= bits {
            self.1.resize(bits + 1, None);
        }
        if let Some(needs) = self.1[bits] {
            return needs;
        }
        let needed = BbmLevel::ALL.map(|bbm| comparison.needs(bbm));
        let needs = needed.map(|needed| needed.need);
        for (bbm, needed) in BbmLevel::ALL.into_iter().zip(needed) {
            assert!(KNOWN.contains(&needed.rule) && !needed.why.is_empty(), "{comparison:?}: {needed:?}");
            assert!(comparison.reasons(bbm).any(|reason| reason == needed), "{comparison:?}");
            assert!(comparison.reasons(bbm).all(|reason| reason.need <= needed.need), "{comparison:?}");
        }
        assert!(needs.is_sorted_by(|low, high| low >= high), "grows with the level: {comparison:?}, {needs:?}");
        self.0.insert(comparison.bits(), needed);
        self.1[bits] = Some(needs);
        needs
    }
}

/// All that must hold of one transition.
fn check(transition: &Transition, answers: &mut Answers) {
    use Need::{Bbm, DirectTlbi, Nothing, NtSequence, Tlbi};
    let Transition { old, new, context } = *transition;
    let Context { hardware, compare_and_swap, .. } = context;
    let layout = context.layout();
    let needs = answers.of(transition);
    let at = |needs: [Need; 4]| move |expected: [Need; 4]| assert_eq!(needs, expected, "{transition:?}");
    let this = at(needs);
    let invalidation = transition.invalidation();

    if old == new {
        return this([Nothing; 4]);
    }
    let (old_kind, new_kind) = (layout.kind(old), layout.kind(new));
    let is_leaf = |kind| matches!(kind, DescriptorKind::Block | DescriptorKind::Page);
    assert_eq!(needs[0] == Nothing, invalidation.reach == Reach::Nothing, "{transition:?}");
    assert!(needs.iter().all(|need| (*need == Nothing) == (needs[0] == Nothing)), "{transition:?}");

    // Nothing of the old one is cached: nothing is needed. A compare-and-swap finds AF=0 as it was.
    let never_cached = !lives(old, &context) || is_leaf(old_kind) && !old.af() && compare_and_swap;
    assert_eq!(never_cached, needs[0] == Nothing, "{transition:?}");
    if never_cached {
        return;
    }
    // A break needs its TLBI and no more, at any level; so that break-before-make is always there.
    if !lives(new, &context) {
        return this([Tlbi; 4]);
    }
    // Both can be cached: the direction does not matter.
    let back = Transition { old: new, new: old, ..*transition };
    if lives(new, &context) && !(is_leaf(new_kind) && !new.af() && compare_and_swap) {
        assert_eq!(answers.of(&back), needs, "{transition:?}");
    }
    // What is known to be the same never makes more necessary.
    let weaker = |context: Context, answers: &mut Answers| {
        let needs = needs.iter();
        needs.zip(answers.of(&Transition { context, ..*transition })).all(|(with, without)| *with <= without)
    };
    assert!(weaker(Context { contents_equal: false, ..context }, answers), "{transition:?}");
    assert!(weaker(Context { same_mapping: false, ..context }, answers), "{transition:?}");
    assert!(weaker(Context { compare_and_swap: false, ..context }, answers), "{transition:?}");
    assert!(weaker(Context { mair: None, ..context }, answers), "{transition:?}");
    if hardware == HardwareUpdates::Off {
        assert!(weaker(Context { hardware: HardwareUpdates::Dirty, ..context }, answers), "{transition:?}");
    }

    match (old_kind, new_kind) {
        (DescriptorKind::Table, DescriptorKind::Table) => {
            let same = context.same_mapping || layout.oa(old) == layout.oa(new);
            assert_eq!(invalidation.reach, Reach::Tree, "{transition:?}");
            this([if same { Tlbi } else { Bbm }; 4])
        }
        (DescriptorKind::Table, _) | (_, DescriptorKind::Table) => {
            let block = if old_kind == DescriptorKind::Table { new } else { old };
            assert_eq!(invalidation.reach == Reach::Tree, old_kind == DescriptorKind::Table, "{transition:?}");
            this(match (context.same_mapping, block.nt()) {
                (false, _) => [Bbm; 4],
                (true, true) => [Bbm, DirectTlbi, DirectTlbi, DirectTlbi],
                (true, false) => [Bbm, NtSequence, DirectTlbi, Tlbi],
            });
        }
        _ => leaves(transition, needs),
    }
}

fn leaves(transition: &Transition, needs: [Need; 4]) {
    use Need::{Bbm, DirectTlbi, Tlbi};
    let Transition { old, new, context } = *transition;
    let Context { level, hardware, .. } = context;
    let layout = context.layout();
    let (a, b) = (layout.attributes(old), layout.attributes(new));
    let invalidation = transition.invalidation();
    let moves = layout.oa(old) != layout.oa(new);
    let group = a.contiguous || b.contiguous;
    assert_eq!(invalidation.reach, if group { Reach::Group } else { Reach::Leaf }, "{transition:?}");
    assert_eq!(invalidation.asids == Asids::Every, a.not_global && !b.not_global, "{transition:?}");

    let oa_mask = layout.leaf(u64::MAX, Attributes::NORMAL_RO).raw() & !layout.leaf(0, Attributes::NORMAL_RO).raw();
    let differ = (old.raw() ^ new.raw()) & !oa_mask;
    assert_eq!(moves, (old.raw() ^ new.raw()) & oa_mask != 0, "{transition:?}");
    let permissions = OTHER | AP_RO | AF | DBM | if level == Level::L3 { 0 } else { NT };
    let dirty = hardware == HardwareUpdates::Dirty;
    let writes = [a, b].iter().any(|one| one.writable || one.dbm && dirty);
    // Device memory has no Shareability of its own, and the third MAIR has one type twice.
    let device = context.mair == Some(0x0400);
    let retyped = match context.mair {
        Some(0xeeff) => false,
        _ => differ & ATTR != 0,
    };
    let shared =
        differ & SH != 0 && !(device || context.mair == Some(0x00ff) && a.attr_index == 1 && b.attr_index == 1);
    let listed = retyped || shared || differ & NG != 0 || moves && (writes || !context.contents_equal);
    let expected = if listed {
        [Bbm; 4]
    } else if differ & CONTIGUOUS != 0 {
        [Bbm, DirectTlbi, DirectTlbi, Tlbi]
    } else {
        assert_eq!(differ & !(permissions | ATTR | SH), 0, "{transition:?}");
        [Tlbi; 4]
    };
    assert_eq!(needs, expected, "{transition:?}");
}

#[test]
fn the_whole_space() {
    let sum = Mutex::new((0u64, BTreeMap::new()));
    let places = places();
    // Half of the work each.
    let (first, second) = places.split_at(places.len() / 2);
    thread::scope(|scope| {
        for places in [first, second] {
            let sum = &sum;
            scope.spawn(move || {
                let mut answers = Answers::default();
                let mut transitions = 0;
                for &layout in places {
                    let all = descriptors(layout);
                    let tables = |d: Descriptor| layout.kind(d) == DescriptorKind::Table;
                    for context in contexts(layout) {
                        for &old in &all {
                            for &new in &all {
                                check(&Transition { old, new, context }, &mut answers);
                                transitions += 1;
                                if tables(old) || tables(new) {
                                    let context = Context { same_mapping: false, ..context };
                                    check(&Transition { old, new, context }, &mut answers);
                                    transitions += 1;
                                }
                            }
                        }
                    }
                }
                let mut sum = sum.lock().expect("no thread panicked");
                sum.0 += transitions;
                sum.1.append(&mut answers.0);
            });
        }
    });
    let (transitions, answers) = sum.into_inner().expect("no thread panicked");
    println!("{transitions} transitions, {} comparisons, {} rows", answers.len(), RULES.len());
    assert_eq!(transitions, SPACE);
    // Every row decides something; those on the OA space need a bit that Non-secure state has not.
    for rule in RULES {
        let cited = answers.values().flatten().any(|needed| *needed == rule.needed);
        assert!(cited || rule.all.contains(Comparison::OA_SPACE), "{rule:?}");
    }
}

/// Transitions in the space; they come to 131 comparisons.
const SPACE: u64 = 107_103_141;

/// The OA space is a part of the output address (I_WZRHR).
#[test]
fn another_oa_space_is_another_address() {
    let context = Context { contents_equal: true, ..Context::new(Granule::K4, Level::L3) };
    let space = |attributes| {
        let old = Descriptor::leaf(Granule::K4, Level::L3, 0x4000_0000, attributes);
        Transition { old, new: Descriptor::from_raw(old.raw() | 1 << 5), context }
    };
    for bbm in BbmLevel::ALL {
        let writable = space(Attributes::NORMAL_RW).needs(bbm);
        assert_eq!((writable.need, writable.rule), (Need::Bbm, "I_WZRHR"));
        assert_eq!(space(Attributes::NORMAL_RO).needs(bbm).need, Need::Tlbi);
        let differs = Context { contents_equal: false, ..context };
        let other = Transition { context: differs, ..space(Attributes::NORMAL_RO) }.needs(bbm);
        assert_eq!((other.need, other.rule), (Need::Bbm, "I_WZRHR"));
    }
}

/// Hardware updates of the old descriptor are what a plain store loses; nothing else asks for a compare-and-swap.
#[test]
fn a_compare_and_swap_is_needed_where_hardware_writes() {
    let (ro, rw) = (Attributes::NORMAL_RO, Attributes::NORMAL_RW);
    let page = |attributes| Descriptor::leaf(Granule::K4, Level::L3, 0x4000_0000, attributes);
    let clean = Attributes { dbm: true, ..ro };
    use HardwareUpdates::{AccessFlag, Dirty, Off};
    for (old, hardware, rule) in [
        (page(ro), Dirty, None),
        (page(clean), AccessFlag, None),
        (page(clean), Dirty, Some("R_RTBRL")),
        (page(Attributes { dbm: true, ..rw }), Dirty, None),
        (page(rw).with_af(false), Off, None),
        (page(rw).with_af(false), AccessFlag, Some("I_GXGZY")),
        (Descriptor::INVALID, Dirty, None),
    ] {
        let context = Context { hardware, ..Context::new(Granule::K4, Level::L3) };
        let transition = Transition { old, new: page(Attributes { contiguous: true, ..ro }), context };
        assert_eq!(transition.must_swap().map(|needed| needed.rule), rule, "{transition:?}");
        assert_eq!(Transition { new: old, ..transition }.must_swap(), None);
    }
}
