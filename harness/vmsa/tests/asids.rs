//! Every TLBI that a sequence can have against what it must remove: what the mnemonic and its operand say, over the
//! entries that a TLB may hold, global or of an ASID, leaf or table.

use vmsa::{
    BbmLevel, Descriptor, Granule, Level,
    descriptor::{Attributes, DescriptorKind},
    rule::{Asids, Comparison, Context, Transition},
    sequence::{Dsb, Sequence, Step, Tlbi, Write},
    transition::gives,
};

/// An entry that a TLB may hold of the window's descriptor, or of what is below it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// `None` if it is global.
    asid: Option<Asid>,
    table: bool,
    /// Whether it translates the address that a TLBI of the window names.
    named: bool,
    /// Whether it was made from another descriptor of the window's group.
    member: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asid {
    InUse,
    Other,
}

/// Whether `tlbi` removes `entry` from the TLB of every PE, by its spelling.
fn removes(tlbi: Tlbi, entry: Entry) -> bool {
    let text = tlbi.asm().strip_prefix("tlbi ").expect("a TLBI");
    let (operation, operand) = text.split_once(", ").unwrap_or((text, ""));
    let Some(operation) = operation.strip_suffix("e1is") else {
        assert!(operation.ends_with("e1") || operation.ends_with("e2is") || operation.ends_with("e2"), "{text}");
        return false;
    };
    let named = match operand {
        "" | "asid" => true,
        "va" | "va | other asid" => entry.named,
        "va (of each entry)" => entry.named || entry.member,
        "other" | "va << 12" => false,
        "va, other" => unreachable!("{text}"),
        _ => panic!("an operand that is new here: {text}"),
    };
    let asid = if operand.ends_with("other asid") { Asid::Other } else { Asid::InUse };
    let of_asid = entry.asid.is_none_or(|of| of == asid);
    named
        && match operation {
            "vmall" => true,
            "vaa" => true,
            // No global entry is of an ASID.
            "asid" => entry.asid == Some(asid),
            "vaal" => !entry.table,
            "va" => of_asid,
            "val" => of_asid && !entry.table,
            _ => panic!("an operation that is new here: {text}"),
        }
}

/// All that a TLB may hold of `old` that must not stay when `new` is there.
fn stale(old: Descriptor, new: Descriptor, context: &Context) -> Vec<Entry> {
    let layout = context.layout();
    let kind = layout.kind(old);
    if kind == DescriptorKind::Invalid || old == new {
        return vec![];
    }
    let attributes = layout.attributes(old);
    let leaf = |d: Descriptor| matches!(layout.kind(d), DescriptorKind::Block | DescriptorKind::Page);
    if kind == DescriptorKind::Table {
        let of = |asid, table, named| Entry { asid, table, named, member: false };
        let kept = Some(Asid::InUse);
        return vec![of(kept, true, true), of(kept, true, false), of(kept, false, false), of(None, false, false)];
    }
    let mut asids = vec![attributes.not_global.then_some(Asid::InUse)];
    // A global entry meets those of any ASID.
    if attributes.not_global && leaf(new) && !layout.attributes(new).not_global {
        asids.push(Some(Asid::Other));
    }
    let of = |asid| Entry { asid, table: false, named: true, member: false };
    let mut all: Vec<Entry> = asids.iter().map(|asid| of(*asid)).collect();
    if attributes.contiguous || leaf(new) && layout.attributes(new).contiguous {
        all.extend(asids.iter().map(|asid| Entry { named: false, member: true, ..of(*asid) }));
    }
    all
}

#[test]
fn every_tlbi_removes_what_it_says_and_no_more_is_taken_for_it() {
    let page = |bits: u32| {
        let bit = |n: u32| bits >> n & 1 != 0;
        let attributes =
            Attributes { not_global: bit(0), writable: bit(1), contiguous: bit(2), ..Attributes::NORMAL_RW };
        Descriptor::leaf(Granule::K4, Level::L2, 0x4020_0000, attributes)
    };
    let others = [Descriptor::INVALID, Descriptor::table(0x1000), Descriptor::table(0x2000)];
    let all: Vec<Descriptor> = (0..8).map(page).chain(others).collect();
    let context = Context::new(Granule::K4, Level::L2);
    let bbm = |tlbi| {
        let steps = [Step::Write(Write::Invalid), Step::Dsb(Dsb::Ishst), Step::Tlbi(tlbi), Step::Dsb(Dsb::Ish)];
        let make = [Step::Write(Write::New), Step::Dsb(Dsb::Ish), Step::Isb];
        steps.into_iter().chain(make).collect::<Sequence>()
    };
    let direct = |tlbi| {
        let steps = [Step::Write(Write::New), Step::Dsb(Dsb::Ishst), Step::Tlbi(tlbi), Step::Dsb(Dsb::Ish), Step::Isb];
        steps.into_iter().collect::<Sequence>()
    };
    let (mut enough, mut short) = (0, 0);
    for &old in &all {
        for &new in &all {
            let transition = Transition { old, new, context };
            // A form is no one TLBI; `tlbi::Form::reaches` has tests of its own.
            for &tlbi in Tlbi::ALL.iter().filter(|tlbi| **tlbi != Tlbi::Form && !tlbi.is_stage2()) {
                let removed = stale(old, new, &context).into_iter().all(|entry| removes(tlbi, entry));
                for (sequence, broken) in [(bbm(tlbi), true), (direct(tlbi), false)] {
                    if old == new || !broken && transition.needs(BbmLevel::L3).need.is_bbm() {
                        continue;
                    }
                    let undefined_here = tlbi.is_el2();
                    let given = gives(&sequence, &transition, transition.block(), BbmLevel::L3);
                    let what = || format!("{} for {old:?} to {new:?}, {sequence}", tlbi.asm());
                    assert_eq!(given.is_ok(), removed && !undefined_here, "{}: {given:?}", what());
                    if given.is_ok() { enough += 1 } else { short += 1 }
                }
            }
        }
    }
    println!("{enough} are enough, {short} are not");
    assert!(enough > 500 && short > 500, "{enough} {short}");
}

/// Who must go follows from nG of both sides.
#[test]
fn asids_follow_from_ng() {
    let page = |not_global| {
        let attributes = Attributes { not_global, ..Attributes::NORMAL_RW };
        Descriptor::leaf(Granule::K16, Level::L3, 0x4000_0000, attributes)
    };
    let ro = |d: Descriptor| d.with_write(false);
    let context = Context::new(Granule::K16, Level::L3);
    for (old, new, asids, through_break) in [
        (page(false), ro(page(false)), Asids::Any, Asids::Any),
        (page(true), ro(page(true)), Asids::InUse, Asids::InUse),
        (page(false), page(true), Asids::Any, Asids::Any),
        (page(true), page(false), Asids::Every, Asids::Every),
        (page(true), Descriptor::INVALID, Asids::InUse, Asids::InUse),
    ] {
        let transition = Transition { old, new, context };
        let breaks = Transition { new: Descriptor::INVALID, ..transition };
        let makes = Transition { old: Descriptor::INVALID, ..transition };
        assert_eq!(transition.invalidation().asids, asids, "{transition:?}");
        assert_eq!(transition.invalidation_of(&breaks).asids, through_break, "{transition:?}");
        assert_eq!(transition.invalidation_of(&makes), makes.invalidation(), "nothing is cached");
        let listed = Comparison::of(&transition).intersects(Comparison::NG_SET | Comparison::NG_CLEARED);
        assert_eq!(listed, new.is_valid() && old.attributes().not_global != new.attributes().not_global);
    }
}
