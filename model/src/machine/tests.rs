//! PEs driven access by access, without instructions: what depends on translations and on more than the MMU, such as
//! monitors, the parts of an access and its syndrome.

use vmsa::{
    Granule, Level,
    descriptor::{Attributes, Descriptor},
};

use super::*;
use crate::{
    a64::{
        Access, AtomicOp, Barrier, Env as _, SysOp,
        op::{Domain, Rmw, Types},
    },
    mmu::Defect,
    pe::Mode,
    sysreg::{Id, Registers},
};

/// The pages that tests map, and the page by which software reaches their descriptors.
const WINDOW: u64 = 0x40_0000_0000;
const DESCRIPTORS: u64 = WINDOW + 0x1f_f000;
/// Tables of levels 0 to 3, and frames.
const TABLES: u64 = RAM_BASE + 0x10_0000;
const OLD: u64 = RAM_BASE + 0x100_0000;
const NEW: u64 = RAM_BASE + 0x200_0000;
const ASID: u64 = 5;

const RW: Attributes = Attributes { not_global: true, ..Attributes::NORMAL_RW };
const PLAIN: Access = Access::empty();

/// A machine of two PEs at EL1 with stage 1 on.
struct Lab(Machine);

const fn page(oa: u64, attributes: Attributes) -> u64 {
    Descriptor::leaf(Granule::K4, Level::L3, oa, attributes).raw()
}

impl Lab {
    fn new(profile: mmu::Profile, seed: u64) -> Self {
        let mut image = vec![0; 64];
        image[IMAGE_MAGIC..][..4].copy_from_slice(b"ARM\x64");
        let config =
            Config { cpus: 2, memory: 64 << 20, profiles: &[profile], seed, image: &image, bundle: &[], bootargs: "" };
        let mut machine = Machine::new(&config).expect("a machine");
        machine.shared.runnable = 3;
        let levels = [Level::L0, Level::L1, Level::L2, Level::L3].map(|level| (level, Self::table(level)));
        for ((level, table), (_, next)) in levels.into_iter().zip(levels.into_iter().skip(1)) {
            let slot = table + 8 * level.index(Granule::K4, WINDOW) as u64;
            machine.shared.memory.write(slot, Size::B8, Descriptor::table(next).raw()).expect("RAM");
        }
        let mut lab = Self(machine);
        lab.map(DESCRIPTORS, page(Self::table(Level::L3), RW));
        lab.set(&[
            (Id::SCTLR_EL1, 1),
            (Id::TTBR0_EL1, Self::table(Level::L0) | ASID << 48),
            (Id::TCR_EL1, 16 | 1 << 23 | 5 << 32 | 1 << 36),
            // Normal Write-Back, Device-nGnRE, Normal Non-cacheable.
            (Id::MAIR_EL1, 0x44_04ff),
        ]);
        lab
    }

    const fn table(level: Level) -> u64 {
        TABLES + 0x1000 * level.number() as u64
    }

    /// Registers of both PEs, synchronised.
    fn set(&mut self, registers: &[(Id, u64)]) {
        let Machine { pes, shared, .. } = &mut self.0;
        for pe in pes {
            for (id, value) in registers {
                pe.registers.set(*id, *value);
            }
            pe.mode = Mode { el: 1, sp_elx: true, pan: false, uao: false };
            pe.update_context();
            shared.mmus[pe.number].context_sync(&pe.context, &mut shared.choices);
        }
    }

    /// Before anybody has walked.
    fn map(&mut self, va: u64, descriptor: u64) {
        let slot = Self::table(Level::L3) + 8 * Level::L3.index(Granule::K4, va) as u64;
        self.write(slot, descriptor);
    }

    fn write(&mut self, pa: u64, value: u64) {
        self.0.shared.memory.write(pa, Size::B8, value).expect("RAM");
    }

    fn read(&self, pa: u64) -> u64 {
        self.0.shared.memory.read(pa, Size::B8).expect("RAM")
    }

    /// PE `number` at the beginning of its turn.
    fn pe(&mut self, number: usize) -> Core<'_> {
        let mut core = Core { pe: &mut self.0.pes[number], shared: &mut self.0.shared };
        core.forget_stale();
        core
    }

    fn registers(&self, number: usize) -> &Registers {
        &self.0.pes[number].registers
    }

    /// Where software finds the descriptor of `va`.
    const fn descriptor(va: u64) -> u64 {
        DESCRIPTORS + 8 * Level::L3.index(Granule::K4, va) as u64
    }

    fn dsb(&mut self, number: usize) {
        self.pe(number).barrier(Barrier::Dsb { domain: Domain::InnerShareable, types: Types::All, nxs: false });
    }

    fn sync(&mut self, number: usize) {
        self.dsb(number);
        self.pe(number).barrier(Barrier::Isb);
    }

    fn vae1is(&mut self, number: usize, va: u64) {
        self.pe(number).system(SysOp::new(0, 8, 3, 1), va >> 12 | ASID << 48).expect("a TLBI");
    }

    /// PE 0 makes `va` what `descriptor` says, with all that needs.
    fn remap(&mut self, va: u64, descriptor: u64) {
        for value in [0, descriptor] {
            self.pe(0).store(Self::descriptor(va), Size::B8, value, PLAIN).expect("mapped");
            self.dsb(0);
            self.vae1is(0, va);
            self.sync(0);
        }
        self.pe(1).barrier(Barrier::Isb);
    }

    /// ESR_EL1 and FAR_EL1 of PE 1 after `access` of it, which must fault.
    fn fault<T>(&mut self, access: impl FnOnce(&mut Core<'_>) -> Result<T, Stop>) -> (u64, u64) {
        assert!(matches!(access(&mut self.pe(1)), Err(Stop::Exception)), "no fault");
        (self.registers(1).get(Id::ESR_EL1), self.registers(1).get(Id::FAR_EL1))
    }
}

/// A use of a PE that is right, and whether something wrong came of it. `None` for the MMU's own defects.
pub(crate) fn shows(defect: Defect, profile: mmu::Profile, seed: u64) -> Option<bool> {
    let lab = || {
        let mut lab = Lab::new(profile, seed);
        lab.map(WINDOW, page(OLD, RW));
        lab.write(OLD, 1);
        lab.write(NEW, 100);
        lab
    };
    Some(match defect {
        Defect::AtomicSplit => {
            let mut lab = lab();
            lab.pe(1).load(WINDOW, Size::B8, PLAIN).expect("mapped");
            lab.remap(WINDOW, page(NEW, RW));
            let before = lab.pe(1).atomic(WINDOW, Size::B8, PLAIN, AtomicOp::Rmw(Rmw::Add), 1).expect("mapped");
            (before, lab.read(OLD), lab.read(NEW)) != (100, 1, 101)
        }
        Defect::SeamByFirst => {
            let mut lab = lab();
            lab.map(WINDOW + 0x1000, page(NEW, RW));
            lab.write(OLD + 0xff8, 0x1111_1111_2222_2222);
            lab.write(NEW, 0x3333_3333_4444_4444);
            let loaded = lab.pe(1).load(WINDOW + 0xffc, Size::B8, PLAIN).expect("mapped");
            lab.pe(1).store(WINDOW + 0xffc, Size::B8, 0x5555_5555_6666_6666, PLAIN).expect("mapped");
            let stored = (lab.read(OLD + 0xff8), lab.read(NEW));
            loaded != 0x4444_4444_1111_1111 || stored != (0x6666_6666_2222_2222, 0x3333_3333_5555_5555)
        }
        Defect::UpdateKeepsMonitors => {
            let mut lab = lab();
            lab.map(WINDOW, page(OLD, Attributes { writable: false, dbm: true, ..RW }));
            let tcr = lab.registers(0).get(Id::TCR_EL1);
            lab.set(&[(Id::TCR_EL1, tcr | 3 << 39)]);
            let descriptor = Lab::descriptor(WINDOW);
            let read = lab.pe(0).load(descriptor, Size::B8, Access::EXCLUSIVE).expect("mapped");
            lab.pe(1).store(WINDOW, Size::B8, 2, PLAIN).expect("clean, and made dirty");
            // A software bit is set in what was read, clean as it was.
            lab.pe(0).store_exclusive(descriptor, Size::B8, read | 1 << 55, Access::EXCLUSIVE).expect("mapped")
        }
        _ => return None,
    })
}

#[test]
fn exclusives_and_updates_lose_nothing_on_sound_profiles() {
    for profile in mmu::Profile::ALL {
        for defect in [Defect::AtomicSplit, Defect::SeamByFirst, Defect::UpdateKeepsMonitors] {
            assert!(!(0..40).any(|seed| shows(defect, profile, seed) == Some(true)), "{} {defect}", profile.name);
        }
    }
}

/// A store-exclusive that succeeds has had both halves of its pair from one place, and so had a failing one.
#[test]
fn an_exclusive_pair_is_loaded_by_one_translation() {
    for seed in 0..200 {
        let mut lab = Lab::new(mmu::Profile::named("ideal-l2-quiet").expect("a profile"), seed);
        lab.map(WINDOW, page(OLD, RW));
        for (frame, value) in [(OLD, 1), (NEW, 2)] {
            lab.write(frame, value);
            lab.write(frame + 8, value);
        }
        lab.pe(1).load(WINDOW, Size::B8, PLAIN).expect("mapped");
        lab.pe(0).store(Lab::descriptor(WINDOW), Size::B8, page(NEW, RW), PLAIN).expect("mapped");
        lab.dsb(0);
        lab.vae1is(0, WINDOW);
        for _ in 0..4 {
            let (first, second) = lab.pe(1).load_pair(WINDOW, Size::B8, Access::EXCLUSIVE).expect("mapped");
            assert_eq!(first, second, "{seed}");
        }
    }
}

#[test]
fn an_unaligned_store_clears_the_monitors_of_both_blocks() {
    for block in [OLD, OLD + 64] {
        let mut lab = Lab::new(mmu::Profile::ALL[0], 1);
        lab.map(WINDOW, page(OLD, RW));
        let va = WINDOW + (block - OLD);
        lab.pe(1).load(va, Size::B8, Access::EXCLUSIVE).expect("mapped");
        lab.pe(0).store(WINDOW + 60, Size::B8, 0, PLAIN).expect("mapped");
        assert!(!lab.pe(1).store_exclusive(va, Size::B8, 2, Access::EXCLUSIVE).expect("mapped"));
    }
}

const WNR: u64 = 1 << 6;
const CM: u64 = 1 << 8;
/// Data abort from the same EL.
const ABORT: u64 = 0x25 << 26 | 1 << 25;
const TRANSLATION_L3: u64 = 0b00_0111;
const PERMISSION_L3: u64 = 0b00_1111;

#[test]
fn each_page_of_an_access_across_a_seam_has_its_own_fault() {
    for profile in mmu::Profile::ALL {
        for (missing, far) in [(WINDOW, WINDOW + 0xffd), (WINDOW + 0x1000, WINDOW + 0x1000)] {
            let mut lab = Lab::new(profile, 3);
            for (va, oa) in [(WINDOW, OLD), (WINDOW + 0x1000, NEW)] {
                lab.map(va, if va == missing { 0 } else { page(oa, RW) });
            }
            let seen = lab.fault(|pe| pe.load(WINDOW + 0xffd, Size::B8, PLAIN));
            assert_eq!(seen, (ABORT | TRANSLATION_L3, far), "{}", profile.name);
            let seen = lab.fault(|pe| pe.store(WINDOW + 0xffd, Size::B8, 0, PLAIN));
            assert_eq!(seen, (ABORT | WNR | TRANSLATION_L3, far), "{}", profile.name);
        }
    }
}

/// Bytes are aligned each, but the access is not.
#[test]
fn an_access_across_a_seam_does_not_reach_device_memory() {
    const ALIGNMENT: u64 = 0b10_0001;
    for (device, far) in [(WINDOW, WINDOW + 0xffd), (WINDOW + 0x1000, WINDOW + 0x1000)] {
        let mut lab = Lab::new(mmu::Profile::ALL[0], 3);
        for (va, oa) in [(WINDOW, OLD), (WINDOW + 0x1000, NEW)] {
            lab.map(va, page(oa, Attributes { attr_index: u8::from(va == device), ..RW }));
        }
        let seen = lab.fault(|pe| pe.load(WINDOW + 0xffd, Size::B8, PLAIN));
        assert_eq!(seen, (ABORT | ALIGNMENT, far));
        let seen = lab.fault(|pe| pe.store(WINDOW + 0xffd, Size::B8, 0, PLAIN));
        assert_eq!(seen, (ABORT | WNR | ALIGNMENT, far));
    }
}

#[test]
fn syndromes_of_atomics_and_maintenance_are_those_of_the_manual() {
    const CIVAC: SysOp = SysOp::new(3, 7, 14, 1);
    const IVAC: SysOp = SysOp::new(0, 7, 6, 1);
    let read_only = Attributes { writable: false, ..RW };
    let mut lab = Lab::new(mmu::Profile::ALL[0], 1);
    lab.map(WINDOW, page(OLD, read_only));
    let (mapped, missing) = (WINDOW, WINDOW + 0x1000);
    let add = |va| move |pe: &mut Core<'_>| pe.atomic(va, Size::B8, PLAIN, AtomicOp::Rmw(Rmw::Add), 1);
    // A read would have had the first fault as well, the second not.
    assert_eq!(lab.fault(add(missing)), (ABORT | TRANSLATION_L3, missing));
    assert_eq!(lab.fault(add(mapped)), (ABORT | WNR | PERMISSION_L3, mapped));
    let dc = |op, va| move |pe: &mut Core<'_>| pe.system(op, va);
    for op in [CIVAC, IVAC] {
        assert_eq!(lab.fault(dc(op, missing)), (ABORT | WNR | CM | TRANSLATION_L3, missing));
    }
    assert!(lab.pe(1).system(CIVAC, mapped).is_ok());
    assert_eq!(lab.fault(dc(IVAC, mapped)), (ABORT | WNR | CM | PERMISSION_L3, mapped), "IVAC throws stores away");
    lab.remap(WINDOW, page(OLD, RW));
    assert!(lab.pe(1).system(IVAC, mapped).is_ok());
}

#[test]
fn device_memory_faults_what_is_unaligned_or_exclusive_and_at_says_outer_shareable() {
    const S1E1R: SysOp = SysOp::new(0, 7, 8, 0);
    for (index, attr) in [(0, 0xff), (1, 0x04), (2, 0x44)] {
        let mut lab = Lab::new(mmu::Profile::ALL[0], 1);
        lab.map(WINDOW, page(OLD, Attributes { attr_index: index, ..RW }));
        assert!(lab.pe(1).load(WINDOW, Size::B4, PLAIN).is_ok());
        lab.pe(1).system(S1E1R, WINDOW).expect("an AT");
        let par = lab.registers(1).get(Id::PAR_EL1);
        let shareability = if index == 0 { 0b11 } else { 0b10 };
        assert_eq!((par >> 56, par >> 7 & 3, par & 0xf_ffff_ffff_f001), (attr, shareability, OLD));
        let unaligned = lab.pe(1).load(WINDOW + 1, Size::B4, PLAIN);
        assert_eq!(unaligned.is_ok(), index != 1);
        let exclusive = lab.pe(1).load(WINDOW, Size::B4, Access::EXCLUSIVE);
        assert_eq!(exclusive.is_ok(), index == 0);
        assert_eq!(lab.pe(1).atomic(WINDOW, Size::B4, PLAIN, AtomicOp::Rmw(Rmw::Add), 1).is_ok(), index == 0);
    }
}

#[test]
fn unprivileged_accesses_have_el0s_permissions() {
    let (el1, el0) = (WINDOW, WINDOW + 0x1000);
    for profile in mmu::Profile::ALL {
        let mut lab = Lab::new(profile, 1);
        lab.map(el1, page(OLD, RW));
        lab.map(el0, page(NEW, Attributes { el0: true, ..RW }));
        for _ in 0..4 {
            assert!(lab.pe(1).load(el1, Size::B8, PLAIN).is_ok() && lab.pe(1).load(el0, Size::B8, PLAIN).is_ok());
            let fault = lab.fault(|pe| pe.load(el1, Size::B8, Access::UNPRIVILEGED));
            assert_eq!(fault, (ABORT | PERMISSION_L3, el1), "{}", profile.name);
            let fault = lab.fault(|pe| pe.store(el1, Size::B8, 0, Access::UNPRIVILEGED));
            assert_eq!(fault, (ABORT | WNR | PERMISSION_L3, el1), "{}", profile.name);
            // PAN is not for them.
            lab.0.pes[1].mode.pan = true;
            assert!(lab.pe(1).store(el0, Size::B8, 7, Access::UNPRIVILEGED).is_ok());
            lab.0.pes[1].mode.pan = false;
        }
    }
}

#[test]
fn fnxs_lets_el1_complete_only_what_counts_as_nxs() {
    // Without FnXS, a DSB nXS leaves the plain TLBI under way.
    let late = |fnxs: u64| {
        (0..200).any(|seed| {
            let mut lab = Lab::new(mmu::Profile::named("ideal-l2-quiet").expect("a profile"), seed);
            lab.map(WINDOW, page(OLD, RW));
            lab.set(&[(Id::HCRX_EL2, fnxs << 3)]);
            lab.pe(1).load(WINDOW, Size::B8, PLAIN).expect("mapped");
            lab.pe(0).store(Lab::descriptor(WINDOW), Size::B8, 0, PLAIN).expect("mapped");
            lab.dsb(0);
            lab.vae1is(0, WINDOW);
            lab.pe(0).barrier(Barrier::Dsb { domain: Domain::InnerShareable, types: Types::All, nxs: true });
            lab.pe(1).load(WINDOW, Size::B8, PLAIN).is_ok()
        })
    };
    assert!(late(0) && !late(1));
}

#[test]
fn bits_of_lpa2_are_writable_where_it_is() {
    const TCR_EL1: SysReg = SysReg::new(3, 0, 2, 0, 2);
    const ID_AA64MMFR0_EL1: SysReg = SysReg::new(3, 0, 0, 7, 0);
    for profile in mmu::Profile::ALL {
        let mut lab = Lab::new(profile, 1);
        let tcr = lab.pe(0).read_sysreg(TCR_EL1).expect("a register");
        lab.pe(0).write_sysreg(TCR_EL1, tcr | 1 << 59).expect("a register");
        let ds = lab.pe(0).read_sysreg(TCR_EL1).expect("a register") >> 59 & 1;
        let parange = lab.pe(0).read_sysreg(ID_AA64MMFR0_EL1).expect("a register") & 0xf;
        assert_eq!((ds, parange), if profile.lpa2 { (1, 6) } else { (0, 5) });
    }
}
