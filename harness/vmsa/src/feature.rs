//! What an instance asks of a CPU, and the ID register field that says whether it is there.

use crate::{
    change::Change,
    geometry::{BbmLevel, Granule},
    instance::{Access, Case, Instance, Method, Regime},
    remedy::Remedy,
    rule::HardwareUpdates,
    tlbi::{Aim, Form, Scope},
};

/// The ID registers by which [`Feature::is_in`] goes, as a CPU shows them to EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IdRegisters {
    /// ID_AA64ISAR0_EL1.
    pub isar0: u64,
    /// ID_AA64ISAR1_EL1.
    pub isar1: u64,
    /// ID_AA64MMFR0_EL1.
    pub mmfr0: u64,
    /// ID_AA64MMFR1_EL1.
    pub mmfr1: u64,
    /// ID_AA64MMFR2_EL1.
    pub mmfr2: u64,
}

/// Something that a CPU may lack.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Feature {
    /// Stage 1 has the granule.
    Granule(Granule),
    /// Stage 2 has the granule.
    Stage2Granule(Granule),
    /// FEAT_LPA2 for stage 1 of the granule, 4K or 16K: TCR_EL1.DS.
    Lpa2(Granule),
    /// FEAT_LSE: atomic instructions.
    Atomics,
    /// FEAT_HAFDBS: hardware sets the Access flag.
    AccessFlag,
    /// FEAT_HAFDBS: hardware manages the dirty state too.
    Dirty,
    /// FEAT_TLBIOS: TLBIs of the Outer Shareable domain.
    TlbiOs,
    /// FEAT_TLBIRANGE: TLBIs by range.
    TlbiRange,
    /// FEAT_TTL: the level hint of TLBIs.
    Ttl,
    /// FEAT_XS: TLBIs and DSBs with the nXS qualifier.
    Xs,
    /// FEAT_VHE: EL2 can have EL2&0's translation.
    Vhe,
    /// FEAT_BBM of at least this level: for what hv does to its own mappings only where that is defined.
    Bbm(BbmLevel),
}

/// The 4-bit field whose lowest bit is `low`.
const fn field(register: u64, low: u32) -> u64 {
    register >> low & 0xf
}

impl Feature {
    /// The field that says whether it is there, by its full name.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Granule(Granule::K4) | Self::Lpa2(Granule::K4) => "ID_AA64MMFR0_EL1.TGran4",
            Self::Granule(Granule::K16) | Self::Lpa2(Granule::K16) => "ID_AA64MMFR0_EL1.TGran16",
            Self::Granule(Granule::K64) | Self::Lpa2(Granule::K64) => "ID_AA64MMFR0_EL1.TGran64",
            Self::Stage2Granule(Granule::K4) => "ID_AA64MMFR0_EL1.TGran4_2",
            Self::Stage2Granule(Granule::K16) => "ID_AA64MMFR0_EL1.TGran16_2",
            Self::Stage2Granule(Granule::K64) => "ID_AA64MMFR0_EL1.TGran64_2",
            Self::Atomics => "ID_AA64ISAR0_EL1.Atomic",
            Self::AccessFlag | Self::Dirty => "ID_AA64MMFR1_EL1.HAFDBS",
            Self::TlbiOs | Self::TlbiRange => "ID_AA64ISAR0_EL1.TLB",
            Self::Ttl => "ID_AA64MMFR2_EL1.TTL",
            Self::Xs => "ID_AA64ISAR1_EL1.XS",
            Self::Vhe => "ID_AA64MMFR1_EL1.VH",
            Self::Bbm(_) => "ID_AA64MMFR2_EL1.BBM",
        }
    }

    /// What it is, in a few words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Granule(Granule::K4) => "the 4K granule",
            Self::Granule(Granule::K16) => "the 16K granule",
            Self::Granule(Granule::K64) => "the 64K granule",
            Self::Stage2Granule(Granule::K4) => "the 4K granule at stage 2",
            Self::Stage2Granule(Granule::K16) => "the 16K granule at stage 2",
            Self::Stage2Granule(Granule::K64) => "the 64K granule at stage 2",
            Self::Lpa2(Granule::K4) => "52-bit addresses with the 4K granule",
            Self::Lpa2(Granule::K16) => "52-bit addresses with the 16K granule",
            Self::Lpa2(Granule::K64) => "descriptors of FEAT_LPA2 with the 64K granule",
            Self::Atomics => "atomic instructions",
            Self::AccessFlag => "hardware update of the Access flag",
            Self::Dirty => "hardware update of the dirty state",
            Self::TlbiOs => "Outer Shareable TLBIs",
            Self::TlbiRange => "range TLBIs",
            Self::Ttl => "the TTL hint",
            Self::Xs => "nXS TLBIs",
            Self::Vhe => "EL2&0's translation",
            Self::Bbm(BbmLevel::L0) => "break-before-make",
            Self::Bbm(BbmLevel::L1) => "FEAT_BBM level 1",
            Self::Bbm(BbmLevel::L2) => "FEAT_BBM level 2",
            Self::Bbm(BbmLevel::L3) => "FEAT_BBM level 3",
        }
    }

    /// Whether a CPU with these registers has it.
    #[must_use]
    pub const fn is_in(self, registers: &IdRegisters) -> bool {
        /// TGran4 and TGran64 of a CPU without it; TGran16 is 0 then.
        const NONE: u64 = 0xf;
        let IdRegisters { isar0, isar1, mmfr0, mmfr1, mmfr2 } = *registers;
        match self {
            Self::Granule(Granule::K4) => field(mmfr0, 28) != NONE,
            Self::Granule(Granule::K16) => field(mmfr0, 20) != 0,
            Self::Granule(Granule::K64) => field(mmfr0, 24) != NONE,
            Self::Stage2Granule(granule) => {
                let low = match granule {
                    Granule::K4 => 40,
                    Granule::K16 => 32,
                    Granule::K64 => 36,
                };
                match field(mmfr0, low) {
                    // As at stage 1.
                    0 => Self::Granule(granule).is_in(registers),
                    there => there != 1,
                }
            }
            // 1 and 2 are what there is; TGran4 is signed.
            Self::Lpa2(Granule::K4) => matches!(field(mmfr0, 28), 1..8),
            Self::Lpa2(Granule::K16) => field(mmfr0, 20) >= 2,
            Self::Lpa2(Granule::K64) => false,
            Self::Atomics => field(isar0, 20) >= 2,
            Self::AccessFlag => field(mmfr1, 0) >= 1,
            Self::Dirty => field(mmfr1, 0) >= 2,
            Self::TlbiOs => field(isar0, 56) >= 1,
            Self::TlbiRange => field(isar0, 56) >= 2,
            Self::Ttl => field(mmfr2, 48) >= 1,
            Self::Xs => field(isar1, 56) >= 1,
            Self::Vhe => field(mmfr1, 8) >= 1,
            Self::Bbm(level) => BbmLevel::from_mmfr2(mmfr2).number() >= level.number(),
        }
    }
}

impl Instance {
    /// What it asks of each CPU that it runs on.
    pub fn features(&self) -> impl Iterator<Item = Feature> {
        let case = match self {
            Self::Case(case) => Some(case),
            Self::Selftest(_) => None,
        };
        let wide = case.is_some_and(|case| case.change.is_wide());
        let granule = case.map(|case| match case.regime {
            Regime::El1 if wide => Feature::Lpa2(case.granule),
            Regime::El1 => Feature::Granule(case.granule),
            Regime::El2 | Regime::El2Vhe => Feature::Granule(case.granule),
            Regime::S2 => Feature::Stage2Granule(case.granule),
        });
        // TCR_EL1.DS is for both halves, and the payload's own is of 4K.
        let own = case.filter(|case| wide && case.granule != Granule::K4).map(|_| Feature::Lpa2(Granule::K4));
        let access = case.and_then(|case| of_access(case.observer.access));
        let hardware = case.and_then(|case| of_change(case.change));
        let form = case.and_then(|case| case.change.form()).into_iter().flat_map(of_form);
        let remedy = case.and_then(|case| case.remedy).and_then(of_remedy);
        let level = case.and_then(of_own);
        let host = case.filter(|case| case.regime == Regime::El2Vhe).map(|_| Feature::Vhe);
        [granule, host, own, access, hardware, remedy, level].into_iter().flatten().chain(form)
    }
}

const fn of_access(access: Access) -> Option<Feature> {
    match access {
        Access::Atomic => Some(Feature::Atomics),
        _ => None,
    }
}

/// Of code that a change may take away nothing is known but what is guaranteed.
const fn of_own(case: &Case) -> Option<Feature> {
    match (case.change.own(), case.method) {
        (Some(_), Method::Nt) => Some(Feature::Bbm(BbmLevel::L1)),
        (Some(_), Method::Direct) => Some(Feature::Bbm(BbmLevel::L2)),
        _ => None,
    }
}

fn of_remedy(remedy: Remedy) -> Option<Feature> {
    (remedy == Remedy::Rvaae1).then_some(Feature::TlbiRange)
}

fn of_form(form: Form) -> impl Iterator<Item = Feature> {
    let hint = matches!(form.aim, Aim::Hint | Aim::Level) && !form.op.is_range();
    let asks = [
        (Feature::TlbiOs, form.scope == Scope::Outer),
        (Feature::TlbiRange, form.op.is_range()),
        (Feature::Ttl, hint),
        (Feature::Xs, form.nxs),
    ];
    asks.into_iter().filter(|(_, asks)| *asks).map(|(feature, _)| feature)
}

const fn of_change(change: Change) -> Option<Feature> {
    match change.what().sides().hardware {
        HardwareUpdates::Off => None,
        HardwareUpdates::AccessFlag => Some(Feature::AccessFlag),
        HardwareUpdates::Dirty => Some(Feature::Dirty),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_where_they_are() {
        let none = IdRegisters { mmfr0: 0xf << 28 | 0xf << 24, ..IdRegisters::default() };
        let all = IdRegisters {
            isar0: 2 << 56 | 2 << 20,
            isar1: 1 << 56,
            mmfr0: 1 << 28 | 2 << 20,
            mmfr1: 2,
            mmfr2: 1 << 52 | 1 << 48,
        };
        for feature in [
            Feature::Granule(Granule::K4),
            Feature::Granule(Granule::K16),
            Feature::Granule(Granule::K64),
            Feature::Stage2Granule(Granule::K4),
            Feature::Stage2Granule(Granule::K16),
            Feature::Stage2Granule(Granule::K64),
            Feature::Lpa2(Granule::K4),
            Feature::Lpa2(Granule::K16),
            Feature::Atomics,
            Feature::AccessFlag,
            Feature::Dirty,
            Feature::TlbiOs,
            Feature::TlbiRange,
            Feature::Ttl,
            Feature::Xs,
            Feature::Bbm(BbmLevel::L1),
        ] {
            assert!(feature.is_in(&all) && !feature.is_in(&none), "{feature:?}");
            assert!(feature.field().starts_with("ID_AA64"));
        }
        assert!(!Feature::Dirty.is_in(&IdRegisters { mmfr1: 1, ..none }));
        // The granules without it.
        let narrow = IdRegisters { mmfr0: 1 << 20, ..IdRegisters::default() };
        for granule in [Granule::K4, Granule::K16] {
            assert!(Feature::Granule(granule).is_in(&narrow) && !Feature::Lpa2(granule).is_in(&narrow), "{granule}");
        }
        assert!(!Feature::TlbiRange.is_in(&IdRegisters { isar0: 1 << 56, ..none }));
        assert!(!Feature::Bbm(BbmLevel::L2).is_in(&all) && Feature::Bbm(BbmLevel::L0).is_in(&none));
    }
}
