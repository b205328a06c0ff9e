//! EL2 with HCR_EL2.E2H set, where it has the translation of EL2&0, as a kernel that is a host has with FEAT_VHE.
//!
//! hv itself runs without E2H. For a case of regime el2vhe each CPU of the VM goes over to EL2&0 before it enters its vCPU,
//! and back behind it: TTBR0_EL2 then has a second map of hv's own, in descriptors as EL1&0 has them, and TTBR1_EL2 the
//! window's tables, in the granule of the case. Meanwhile `msr` and `mrs` by names of EL1 reach EL2's registers, and
//! the vCPU's go by `_EL12`. TGE, with which EL1 cannot run, is set for the steps of a change only: TLBIs of EL1&0
//! are those of EL2&0 then, as hosts use them.

use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::registers::{HCR_EL2, Readable, Writeable};
use vmsa::Granule;

use crate::{mmu, vcpu};

core::arch::global_asm!(include_str!("host.S"));

/// HCR_EL2.E2H and TGE.
const E2H: u64 = 1 << 34;
const TGE: u64 = 1 << 27;

/// What host.S loads.
#[repr(C)]
struct Translation {
    hcr: u64,
    tcr: u64,
    ttbr0: u64,
    ttbr1: u64,
    cptr: u64,
    cnthctl: u64,
}

// SAFETY: declared as host.S defines it.
unsafe extern "C" {
    fn host_switch(to: &Translation);
}

/// TTBR1_EL2 and TCR_EL2 of the case at hand; 0 if it has none of EL2&0.
static TTBR1: AtomicU64 = AtomicU64::new(0);
static TCR: AtomicU64 = AtomicU64::new(0);

/// Has CPUs that run the next VM go over to EL2&0, with the window's tables, of `granule`, at `table`. They start at the highest
/// level of 48 bits.
pub(crate) fn set_up(granule: Granule, table: u64) {
    /// For both halves: 48 bits, inner and outer write-back, Inner Shareable.
    const HALF: u64 = 16 | 1 << 8 | 1 << 10 | 3 << 12;
    let tg1 = match granule {
        Granule::K16 => 0b01,
        Granule::K4 => 0b10,
        Granule::K64 => 0b11,
    };
    TCR.store(HALF | HALF << 16 | tg1 << 30 | arch::id::pa_range() << 32, Ordering::Relaxed);
    TTBR1.store(table, Ordering::Release);
}

/// The next VM has no case of EL2&0.
pub(crate) fn clear() {
    TTBR1.store(0, Ordering::Relaxed);
}

/// Puts `hcr` into HCR_EL2, with E2H if the VM's case is of EL2&0, whose translation is EL2's from here on.
pub(crate) fn enter(hcr: u64) {
    let ttbr1 = TTBR1.load(Ordering::Acquire);
    if ttbr1 == 0 {
        HCR_EL2.set(hcr);
        return arch::barrier::isb();
    }
    let to = Translation {
        hcr: hcr | E2H,
        tcr: TCR.load(Ordering::Relaxed),
        // ASID 0, as the operands of VAE2 and its like have it without E2H.
        ttbr0: mmu::root_with_e2h(),
        ttbr1,
        cptr: vcpu::CPTR_WITH_E2H,
        cnthctl: vcpu::EL1_TIMER << 10,
    };
    // SAFETY: both maps have hv where it stands, and the window's is above them.
    unsafe { host_switch(&to) }
}

/// Goes back to EL2's own translation, if this CPU is not there, HCR_EL2 staying as it is but for E2H.
pub(crate) fn leave() {
    if !is_on() {
        return;
    }
    let (tcr, ttbr0) = mmu::own();
    let hcr = HCR_EL2.get() & !(E2H | TGE);
    let to = Translation { hcr, tcr, ttbr0, ttbr1: 0, cptr: vcpu::CPTR, cnthctl: vcpu::EL1_TIMER };
    // SAFETY: as above.
    unsafe { host_switch(&to) }
}

/// Whether this CPU is in EL2&0.
fn is_on() -> bool {
    HCR_EL2.get() & E2H != 0
}

/// Does something as a host does it: with TGE set, if E2H is.
pub(crate) fn as_host<R>(action: impl FnOnce() -> R) -> R {
    let hcr = HCR_EL2.get();
    if hcr & E2H == 0 {
        return action();
    }
    HCR_EL2.set(hcr | TGE);
    arch::barrier::isb();
    let result = action();
    HCR_EL2.set(hcr);
    arch::barrier::isb();
    result
}

/// Registers of EL1 that hv uses while a vCPU of this CPU stands still, by the Arm ARM's names.
pub(crate) mod el1 {
    macro_rules! registers {
        ($($name:ident = $plain:literal, $el12:literal;)+) => {$(
            #[doc = concat!("The vCPU's `", stringify!($name), "`, which with E2H has the name `", $el12, "`.")]
            #[expect(non_camel_case_types, reason = "the Arm ARM's names")]
            pub(crate) struct $name;

            impl $name {
                pub(crate) fn get(self) -> u64 {
                    if super::is_on() { arch::read_sysreg!($el12) } else { arch::read_sysreg!($plain) }
                }

                pub(crate) fn set(self, value: u64) {
                    // SAFETY: a register of EL1, which nothing at EL2 uses.
                    unsafe {
                        if super::is_on() {
                            arch::write_sysreg!($el12, value)
                        } else {
                            arch::write_sysreg!($plain, value)
                        }
                    }
                }
            }
        )+};
    }

    registers! {
        ELR_EL1 = "elr_el1", "S3_5_C4_C0_1";
        SPSR_EL1 = "spsr_el1", "S3_5_C4_C0_0";
        ESR_EL1 = "esr_el1", "S3_5_C5_C2_0";
        FAR_EL1 = "far_el1", "S3_5_C6_C0_0";
        VBAR_EL1 = "vbar_el1", "S3_5_C12_C0_0";
    }
}
