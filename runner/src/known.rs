//! What is known of the platforms themselves, so that a report can say whose fault something is.
//!
//! Nothing here changes a verdict: a forbidden outcome stays a `fail`, and a control that showed nothing stays
//! unshown. A note is printed beside it, and the tests under `cargo test` expect exactly this.

use vmsa::{
    BbmLevel, Granule, Instance, Level,
    instance::{Access, Case, Method, Regime},
    outcome::{Fault, Kind, Phase},
    permission::Operation,
    tlbi::Form,
    verdict::{Effects, is_defined},
};

use crate::platform::qemu;

/// Something known of a platform, with the date of the finding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Note {
    /// A short name.
    pub name: &'static str,
    /// What it is, and how it is known.
    pub what: &'static str,
}

/// QEMU's TLB flush of one page inside a large page drops every TLB entry, as it must, but clears the jump cache of
/// translated code only for that page and the one before. Code in other pages of the block that was called before
/// goes on to run without a look at the TLB. Seen with 7.2.22 on every CPU tried, and with 10.0.2 on those without
/// FEAT_BTI, and at EL0 on every CPU.
pub const QEMU_JUMP_CACHE: Note = Note {
    name: "qemu-jump-cache",
    what: "known defect of QEMU (found 2026-11-22, in 7.2.22 and 10.0.2): after a TLBI by address inside a block, code \
           in the block's other pages that ran before still runs without a look at the TLB",
};

/// QEMU computes the length of a TLBI by range in 32 bits: where (NUM + 1) * 2^(5 * SCALE + 1) granules are 4 GiB or
/// more it flushes too little, and for multiples of 4 GiB nothing.
pub const QEMU_RANGE_LENGTH: Note = Note {
    name: "qemu-range-length",
    what: "known defect of QEMU (found 2026-11-23, in 10.0.2): a TLBI by range of 4 GiB or more removes less than it \
           says, its length computed in 32 bits (target/arm: tlbi_aa64_get_range)",
};

/// QEMU lets unaligned accesses to Device memory through, whatever stage 2 is.
pub const QEMU_ALIGNMENT: Note = Note {
    name: "qemu-alignment",
    what: "known defect of QEMU (found 2026-11-23, in 10.0.2): an unaligned access to Device memory takes no Alignment \
           fault",
};

/// QEMU does not cache a translation that lacks a permission: it walks again, and finds the new one.
pub const QEMU_REWALKS: Note =
    Note { name: "qemu-rewalks", what: "QEMU cannot show this: it walks again where a permission was lacking" };

/// Whether an AT looks into the TLB is the CPU's choice.
pub const QEMU_AT: Note = Note {
    name: "qemu-at",
    what: "whether an AT is answered by the TLB is each CPU's own choice: QEMU's always walks",
};

/// Whether what stage 2 translates for walks of stage 1 is kept by itself is each TLB's choice.
pub const QEMU_STAGE2: Note = Note {
    name: "qemu-stage2",
    what: "whether a TLB keeps stage 2's translations of stage 1's tables is its own choice: QEMU's does, the model's benign not",
};

/// QEMU executes cache maintenance by address as nothing at all: it does not even translate the address.
pub const QEMU_MAINTENANCE: Note = Note {
    name: "qemu-maintenance",
    what: "known defect of QEMU (found 2026-11-23, in 10.0.2): to it a DC by VA is no access, and meets no fault",
};

/// QEMU's TLB has no ASIDs and no VMIDs: a TLBI by any of them removes what it names of all of them, and so does another one in a
/// TTBR or in VTTBR_EL2.
pub const QEMU_NO_ASIDS: Note = Note {
    name: "qemu-no-asids",
    what: "QEMU cannot show this: its TLB has no ASIDs or VMIDs, and is emptied by a TLBI by any of them and by their change",
};

/// QEMU's TLB remembers one region that has all its large pages in it, and a TLBI by an address in there empties it, as does
/// one by ASID; it knows no TTL.
pub const QEMU_EMPTIES: Note = Note {
    name: "qemu-empties",
    what: "QEMU cannot show this: a TLBI by address that misses, in ASID, page or level, empties its TLB all the same",
};

/// A TLBI may always remove more than it names, and QEMU's often do.
pub const PRECISION: Note = Note {
    name: "precision",
    what: "what a TLBI that misses the window removes besides what it names is each TLB's own choice",
};

/// Where a TLBI is missing, or misses what it should remove, a PE that walks meets the new descriptor and one that does not
/// the old entry. Which of them an observer on another PE does is a matter of the moment: QEMU lets it run for long, and
/// the model for an instruction.
pub const MOMENT: Note = Note {
    name: "moment",
    what: "whether an observer elsewhere walks before or behind a change that lacks its TLBI is a matter of the moment",
};

/// The defect of the platform `kind` that makes this instance fail there, if one is known.
#[must_use]
pub fn defect(kind: &str, instance: &Instance) -> Option<Note> {
    let Instance::Case(case) = instance else { return None };
    let Effects { old, new } = Effects::of_case(case);
    if kind == qemu::KIND && case.observer.access == Access::Dc && old != new {
        return Some(QEMU_MAINTENANCE);
    }
    if kind == qemu::KIND && is_about_alignment(case) {
        return Some(QEMU_ALIGNMENT);
    }
    let leaves_tables = |form: Form| form.op.is_last_level() && case.change.frees_table();
    let by_range = |form: Form| form.op.is_range() && form.aim.hits() && !leaves_tables(form);
    if kind == qemu::KIND && case.change.form().is_some_and(by_range) {
        return Some(QEMU_RANGE_LENGTH);
    }
    // Than QEMU's own page, which is 4 KiB.
    let large = case.change.level() != Level::L3 || case.granule != Granule::K4;
    let fetches = case.observer.access.operation() == Operation::Execute;
    // What ran by the old mapping does not by the new one.
    let applies = kind == qemu::KIND && fetches && large && old == Kind::Old;
    applies.then_some(QEMU_JUMP_CACHE)
}

/// Why the platform `kind` cannot show what this control must show, if that is known.
#[must_use]
pub fn cannot_show(kind: &str, control: &Instance) -> Option<Note> {
    let Instance::Case(case) = control else { return None };
    if kind != qemu::KIND {
        None
    } else if asids_decide(case) {
        Some(QEMU_NO_ASIDS)
    } else if case.change.form().is_some_and(|form| !(form.aim.hits() || form.op.is_range() && small_pages(case))) {
        Some(QEMU_EMPTIES)
    } else {
        (is_denied_before(case) && case.method == Method::DirectNotlbi).then_some(QEMU_REWALKS)
    }
}

/// Whether a range is of pages of 4K or 16K, of which QEMU drops one by one.
const fn small_pages(case: &Case) -> bool {
    matches!(case.granule, Granule::K4 | Granule::K16)
}

/// Whether what is stale depends on ASIDs: the observer has another one, or the steps name one.
fn asids_decide(case: &Case) -> bool {
    let switches = case.observer.access.switches_asid();
    // In stage 2 it is the VMID.
    case.regime == Regime::S2 && switches || case.change.uses_asids() && (switches || case.script.is_some())
}

/// Whether an Alignment fault is what tells the mappings apart.
fn is_about_alignment(case: &Case) -> bool {
    let Effects { old, new } = Effects::of_case(case);
    [old, new].contains(&Kind::Alignment)
}

/// Whether the old mapping denies the access, so that QEMU, which caches no such thing, finds the new one at once.
fn is_denied_before(case: &Case) -> bool {
    matches!(Effects::of_case(case).old, Kind::Fault(Fault::Permission, _))
}

/// Why the platform `kind` sees (`sees`), or does not see, an outcome that a CPU without this defect or habit does not
/// see, or sees, if that is known.
#[must_use]
pub fn difference(kind: &str, instance: &Instance, sees: bool, phase: Phase, outcome: Kind) -> Option<Note> {
    let Instance::Case(case) = instance else { return None };
    let Effects { old, new } = Effects::of_case(case);
    let on_qemu = kind == qemu::KIND;
    // What is stale, or is not, the break among it: nothing else depends on when somebody walks.
    let broken = phase == Phase::During && matches!(outcome, Kind::Fault(Fault::Translation | Fault::AccessFlag, _));
    let either = outcome == old || outcome == new || broken || outcome == Kind::Late && old == Kind::Old;
    let lacks_tlbi = either && !is_defined(case, BbmLevel::L3);
    if on_qemu && is_about_alignment(case) && (outcome == Kind::Alignment || [old, new].contains(&outcome)) {
        Some(QEMU_ALIGNMENT)
    } else if phase == Phase::Before {
        None
    } else if on_qemu
        && case.observer.access == Access::Dc
        && matches!(outcome, Kind::Old | Kind::Same | Kind::Fault(..))
    {
        Some(QEMU_MAINTENANCE)
    } else if on_qemu && is_denied_before(case) && outcome == if sees { new } else { old } {
        Some(QEMU_REWALKS)
    } else if on_qemu && case.observer.access == Access::At && outcome == if sees { new } else { old } {
        Some(QEMU_AT)
    } else if on_qemu && case.observer.access == Access::Tables && either && (outcome == old) == sees {
        Some(QEMU_STAGE2)
    } else if on_qemu && asids_decide(case) && (outcome == if sees { new } else { old } || sees && broken) {
        Some(QEMU_NO_ASIDS)
    } else if case.change.form().is_some() && lacks_tlbi {
        Some(PRECISION)
    } else if case.observer.place.is_remote() && lacks_tlbi {
        Some(MOMENT)
    } else {
        defect(kind, instance).filter(|_| outcome == if sees { old } else { new })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_for_their_platform_only() {
        let id = "el1.protect.4k-l2-x-xn.bbm.fetch-local".parse().expect("an id");
        assert_eq!(defect("qemu", &id), Some(QEMU_JUMP_CACHE));
        assert_eq!(defect("board", &id), None);
        let range = "el1.tlbi-range.4k-l3-rvaae1is.bbm.load-remote".parse().expect("an id");
        assert_eq!([defect("qemu", &range), defect("board", &range)], [Some(QEMU_RANGE_LENGTH), None]);
        let neighbour = "el1.tlbi-range.4k-l3-rvaae1is-page.bbm.load-remote".parse().expect("an id");
        assert_eq!(defect("qemu", &neighbour), None);
        let clean = "el1.age.4k-l3-clear.bbm.dc-local".parse().expect("an id");
        assert_eq!([defect("qemu", &clean), defect("board", &clean)], [Some(QEMU_MAINTENANCE), None]);
        let user = "el1.remap.4k-l2-user-x.bbm.user-fetch-local".parse().expect("an id");
        assert_eq!([defect("qemu", &user), defect("board", &user)], [Some(QEMU_JUMP_CACHE), None]);
        let page = "el1.protect.4k-l3-x-xn.bbm.fetch-local".parse().expect("an id");
        assert_eq!(defect("qemu", &page), None);
        let control = "el1.protect.4k-l3-ro-rw.direct-notlbi.store-local".parse().expect("an id");
        assert_eq!(cannot_show("qemu", &control), Some(QEMU_REWALKS));
        let denied = Kind::Fault(Fault::Permission, Level::L3);
        let note = |id, sees, phase, outcome| difference("qemu", id, sees, phase, outcome);
        assert_eq!(note(&control, false, Phase::After, denied), Some(QEMU_REWALKS));
        assert_eq!(note(&control, true, Phase::During, Kind::New), Some(QEMU_REWALKS));
        assert_eq!(note(&id, true, Phase::After, Kind::Old), Some(QEMU_JUMP_CACHE));
        for (id, sees, phase, outcome) in [
            (&control, true, Phase::After, denied),
            (&control, false, Phase::Before, denied),
            (&id, false, Phase::After, Kind::Old),
            (&page, true, Phase::After, Kind::Old),
        ] {
            assert_eq!(note(id, sees, phase, outcome), None);
        }
        let by_asid = "el1.asid.4k-l3-rw.bbm~0sXd1di.load-local".parse().expect("an id");
        assert_eq!(cannot_show("qemu", &by_asid), Some(QEMU_NO_ASIDS));
        assert_eq!(cannot_show("model", &by_asid), None);
        assert_eq!(note(&by_asid, false, Phase::After, Kind::Old), Some(QEMU_NO_ASIDS));
        assert_eq!(note(&by_asid, true, Phase::After, Kind::Neither), None);
        let by_vmid = "s2.remap.4k-l3-rw.bbm~0sGd1di.other-load-local".parse().expect("an id");
        assert_eq!(cannot_show("qemu", &by_vmid), Some(QEMU_NO_ASIDS));
        let met = Kind::Fault(Fault::Translation, Level::L3);
        assert_eq!(note(&by_vmid, true, Phase::During, met), Some(QEMU_NO_ASIDS));
        assert_eq!([note(&by_vmid, false, Phase::During, met), note(&by_vmid, true, Phase::After, met)], [None; 2]);
        let by_all = "el1.asid.4k-l3-rw.direct-notlbi.load-local".parse().expect("an id");
        assert_eq!(cannot_show("qemu", &by_all), None);
        let missed = |id: &str| cannot_show("qemu", &id.parse().expect("an id"));
        assert_eq!(missed("el1.tlbi.4k-l3-vae1is-page.bbm.load-remote"), Some(QEMU_EMPTIES));
        assert_eq!(missed("el1.tlbi-range.64k-l3-rvae1is-page.bbm.load-remote"), Some(QEMU_EMPTIES));
        assert_eq!(missed("el1.tlbi-range.4k-l3-rvae1is-page.bbm.load-remote"), None);
        // The other PE's TLB keeps what a local TLBI is not for.
        assert_eq!(missed("el1.tlbi.4k-l3-vae1.bbm.load-remote"), None);
        let at = "el2.remap.4k-l3-rw.bbm.at-local".parse().expect("an id");
        assert_eq!(note(&at, false, Phase::During, Kind::Old), Some(QEMU_AT));
        assert_eq!([note(&at, true, Phase::During, Kind::Old), note(&at, false, Phase::After, Kind::New)], [None; 2]);
        let tables = "s2.remap.4k-l3-rw.bbm.tables-local".parse().expect("an id");
        assert_eq!(note(&tables, true, Phase::During, Kind::Old), Some(QEMU_STAGE2));
        assert_eq!(note(&tables, false, Phase::During, Kind::Old), None);
        let shown = "el1.protect.4k-l3-rw-ro.direct-notlbi.store-local".parse().expect("an id");
        assert_eq!(cannot_show("qemu", &shown), None);
    }
}
