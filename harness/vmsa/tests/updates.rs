//! Hardware's updates of descriptors, against software that replaces them: the rows of `UPDATES` over all leaves that
//! differ in what they ask for, and what a compare-and-swap gives.

use vmsa::{
    BbmLevel, Descriptor, Granule, Level,
    descriptor::Attributes,
    instance::Method,
    rule::{Context, HardwareUpdates, Need, Transition},
    sequence::{Sequence, Step, Tlbi},
    transition::gives,
    update::{self, Fate, Flag, UPDATES, Update},
};

const PAGE: Context = Context::new(Granule::K4, Level::L3);

/// Every page that differs in AF, DBM and `AP[2]`, at either of two addresses, and an invalid one.
fn descriptors() -> Vec<Descriptor> {
    let pages = (0u32..1 << 4).map(|bits| {
        let bit = |n: u32| bits >> n & 1 != 0;
        let attributes = Attributes { access_flag: bit(0), dbm: bit(1), writable: bit(2), ..Attributes::NORMAL_RW };
        Descriptor::leaf(Granule::K4, Level::L3, if bit(3) { 0x4000_0000 } else { 0x5000_0000 }, attributes)
    });
    pages.chain([Descriptor::INVALID]).collect()
}

fn transitions() -> impl Iterator<Item = Transition> {
    HardwareUpdates::ALL.into_iter().flat_map(|hardware| {
        let context = Context { hardware, contents_equal: true, ..PAGE };
        descriptors()
            .into_iter()
            .flat_map(move |old| descriptors().into_iter().map(move |new| Transition { old, new, context }))
    })
}

/// All that hardware may make of a descriptor, itself included.
fn futures(descriptor: Descriptor, hardware: HardwareUpdates) -> Vec<Descriptor> {
    let mut all = vec![descriptor];
    if descriptor.is_valid() && hardware >= HardwareUpdates::AccessFlag {
        all.push(descriptor.with_af(true));
        let Attributes { dbm, writable, .. } = descriptor.attributes();
        if hardware == HardwareUpdates::Dirty && dbm && !writable {
            all.push(descriptor.with_af(true).with_write(true));
        }
    }
    all.dedup();
    all
}

fn updates(sequence: &Sequence, transition: &Transition) -> Vec<&'static Update> {
    update::updates(sequence, transition, transition.block()).collect()
}

/// A plain store undoes an update exactly if hardware can make one; a compare-and-swap never does, and carries over
/// what hardware has set as far as the new descriptor has a place for it.
#[test]
fn an_update_is_overwritten_by_plain_stores_alone() {
    let mut seen = Vec::new();
    for transition in transitions() {
        let Transition { old, new, context } = transition;
        let futures = futures(old, context.hardware);
        let changes = old != new && futures.len() > 1;
        assert_eq!(transition.must_swap().is_some(), changes, "{transition:?}");
        for &method in Method::ALL.iter().filter(|method| !method.swaps()) {
            let Some(plain) = transition.sequence(method) else { continue };
            let overwritten = |sequence: &Sequence| {
                updates(sequence, &transition).iter().any(|update| update.fate == Fate::Overwritten)
            };
            if method != Method::BbmAf {
                let first = plain.steps().iter().find_map(|step| step.write()).expect("a sequence writes").0;
                let writes = first.value(old, new, transition.block()) != old;
                assert_eq!(overwritten(&plain), futures.len() > 1 && writes, "{method} of {transition:?}");
            }
            assert!(!overwritten(&plain.swapping()), "{method} of {transition:?}");
            // Nothing is misplaced where there is a break.
            if method == Method::Bbm {
                assert!(updates(&plain.swapping(), &transition).is_empty(), "{transition:?}");
            }
            seen.extend(updates(&plain, &transition));
        }
    }
    for row in UPDATES {
        assert!(seen.contains(&row), "{row:?} decides nothing");
    }
}

#[test]
fn without_hardware_updates_there_is_nothing_to_lose() {
    for transition in transitions().filter(|transition| transition.context.hardware == HardwareUpdates::Off) {
        for &method in Method::ALL {
            let Some(sequence) = transition.sequence(method) else { continue };
            assert!(updates(&sequence, &transition).is_empty(), "{method} of {transition:?}");
        }
    }
}

/// What is at stake is what hardware manages, and nothing makes break-before-make necessary.
#[test]
fn updates_are_no_need() {
    for transition in transitions() {
        for update in transition.updates() {
            let dirty = transition.context.hardware == HardwareUpdates::Dirty;
            assert!(dirty || update.flag == Flag::AccessFlag, "{transition:?}: {update:?}");
        }
        for bbm in BbmLevel::ALL {
            let swapped = Context { compare_and_swap: true, ..transition.context };
            let needs = [transition, Transition { context: swapped, ..transition }].map(|t| t.needs(bbm).need);
            assert!(needs[1] <= needs[0], "{transition:?}");
        }
    }
}

/// With hardware updates on, AF=0 is no break: and a compare-and-swap that goes on with whatever hardware has made of the
/// old descriptor may have found one that was cached.
#[test]
fn af0_is_cached_where_hardware_sets_it() {
    let old = Descriptor::leaf(Granule::K4, Level::L3, 0x4000_0000, Attributes::NORMAL_RW).with_af(false);
    let new = Descriptor::leaf(Granule::K4, Level::L3, 0x5000_0000, Attributes::NORMAL_RW);
    for hardware in HardwareUpdates::ALL {
        let transition = Transition { old, new, context: Context { hardware, ..PAGE } };
        let given = |letters| {
            let sequence = Sequence::parse(letters).expect("letters");
            gives(&sequence, &transition, old, BbmLevel::L3).map_err(|missed| missed.need)
        };
        let off = hardware == HardwareUpdates::Off;
        assert_eq!(given("cdi").is_ok(), off);
        assert_eq!(given("1di").is_ok(), off);
        // As a break it is as good.
        assert_eq!(given("1sBdi").is_err_and(|need: Need| need.is_bbm()), !off);
        assert!(given("zsBd1di").is_ok());
    }
}

#[test]
fn swaps_are_spelled_and_gone_through_as_stores() {
    for &method in Method::ALL {
        let plain = Sequence::with(method, Tlbi::Vaale1is);
        let swapping = plain.swapping();
        assert_eq!(Sequence::parse(&swapping.to_string()), Some(swapping));
        let writes = |sequence: &Sequence| {
            sequence
                .steps()
                .iter()
                .map(|step| step.write().map_or(Err(*step), |(write, _)| Ok(write)))
                .collect::<Vec<_>>()
        };
        assert_eq!(writes(&plain), writes(&swapping));
        let stores = swapping.steps().iter().filter(|step| matches!(step, Step::Write(_))).count();
        let breaks = matches!(method, Method::Bbm | Method::BbmAsm | Method::BbmAlias);
        assert_eq!(stores, usize::from(breaks), "{method}: only after a break");
    }
}
