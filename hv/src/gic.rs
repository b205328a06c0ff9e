//! The interrupt controller, as far as a watchdog and wake-ups need it: one timer PPI and one SGI per CPU.
//!
//! hv never takes an interrupt at EL2: it waits with WFI, which a masked interrupt ends too, or runs a vCPU,
//! out of which an interrupt brings it. Either way [`Gic::acknowledge`] then tells what it was.

use core::ptr::NonNull;

use arm_gic::{
    IntId, InterruptGroup, UniqueMmioPointer,
    gicv2::{self, GicV2},
    gicv3::{GicCpuInterface, GicDistributor, GicRedistributor, SgiTarget, SgiTargetGroup, registers::GicrSgi},
};
use spin::{Mutex, Once};

use crate::platform::{GicInfo, Machine, Range};

/// The SGI by which one CPU wakes another, or takes it out of its vCPU.
const WAKE: IntId = IntId::sgi(1);

/// What an interrupt was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Interrupt {
    /// The EL2 physical timer.
    Timer,
    /// Another CPU wants attention.
    Wake,
    /// None, or one that nobody asked for.
    Other,
}

enum Driver {
    None,
    // The CPU interface is banked: one driver serves every CPU, and the lock its distributor accesses.
    V2(Mutex<GicV2<'static>>),
    V3,
}

/// The GIC of this machine.
pub(crate) struct Gic {
    driver: Driver,
    info: GicInfo,
    timer: IntId,
}

static GIC: Once<Gic> = Once::new();

/// ICH_HCR_EL2: TC, TALL0 and TALL1, by which EL1's accesses to the CPU interface trap; the virtual one is off.
const ICH_HCR_TRAPS: u64 = 7 << 10;

/// Size of the RD_base and SGI_base frames of one redistributor.
const REDISTRIBUTOR: u64 = 0x2_0000;

/// Sets the distributor up; called once, by the boot CPU, with the registers mapped.
pub(crate) fn init(machine: &Machine) -> &'static Gic {
    GIC.call_once(|| {
        let driver = match &machine.gic {
            GicInfo::None => Driver::None,
            GicInfo::V2 { distributor, cpu_interface } => {
                // SAFETY: the DTB names these as the GIC's registers, they are mapped as Device memory, and this is
                // the only driver made for them.
                Driver::V2(Mutex::new(unsafe { GicV2::new(*distributor as *mut _, *cpu_interface as *mut _) }))
            }
            GicInfo::V3 { distributor, .. } => {
                if let Some(base) = NonNull::new(*distributor as *mut _) {
                    // SAFETY: as above.
                    let mut distributor = GicDistributor::new(unsafe { UniqueMmioPointer::new(base) });
                    // Firmware may have left interrupts enabled; what is enabled must not be configured.
                    distributor.enable_all_interrupts(false);
                    distributor.configure_default_settings();
                }
                Driver::V3
            }
        };
        Gic { driver, info: machine.gic.clone(), timer: IntId::ppi(machine.timer.saturating_sub(16)) }
    })
}

/// The GIC, once set up.
pub(crate) fn get() -> Option<&'static Gic> {
    GIC.get()
}

/// The redistributor of the CPU with these affinity fields, found by GICR_TYPER.
fn redistributor(regions: &[Range], mpidr: u64) -> Option<NonNull<GicrSgi>> {
    // TYPER[63:32] holds Aff3..Aff0 packed; MPIDR has Aff3 at bit 32.
    let wanted = (mpidr & 0xff_ffff) | (mpidr >> 8) & 0xff00_0000;
    for region in regions {
        let mut base = region.start;
        while base + REDISTRIBUTOR <= region.end {
            // SAFETY: GICR_TYPER of a redistributor in a region that the DTB names, mapped as Device memory.
            let typer = unsafe { ((base + 8) as *const u64).read_volatile() };
            if typer >> 32 == wanted {
                return NonNull::new(base as *mut GicrSgi);
            }
            if typer & (1 << 4) != 0 {
                break; // the last of this region
            }
            // VLPIS: two more frames.
            base += if typer & (1 << 1) != 0 { 2 * REDISTRIBUTOR } else { REDISTRIBUTOR };
        }
    }
    None
}

impl Gic {
    /// Whether interrupts can be had at all.
    pub(crate) fn present(&self) -> bool {
        !matches!(self.driver, Driver::None)
    }

    /// Sets up the calling CPU's part: timer and wake-up enabled, nothing masked by priority.
    pub(crate) fn init_cpu(&self, mpidr: u64) {
        match (&self.driver, &self.info) {
            (Driver::V2(gic), _) => {
                let mut gic = gic.lock();
                gic.setup();
                // With Security Extensions the driver sets bit 1, but in the Non-secure view, the only one that EL2
                // has, bit 0 enables Group 1. Without them bit 0 is Group 0, where everything is.
                gic.enable_group0(true);
                // Firmware may have left interrupts enabled that nobody here would ever serve.
                gic.enable_all_interrupts(false);
                for id in [WAKE, self.timer] {
                    // An interrupt that cannot be enabled leaves the CPU without watchdog, which the runner's
                    // deadline makes up for.
                    let _ = gic.enable_interrupt(id, true);
                }
            }
            (Driver::V3, GicInfo::V3 { redistributors, .. }) => {
                GicCpuInterface::enable_system_register_el2(false);
                arch::barrier::isb();
                GicCpuInterface::enable_system_register_el1();
                // SAFETY: the CPU interface of this CPU, which only hv uses: ending an interrupt also deactivates it,
                // and EL1 is kept out of the virtual interface, where nothing is ever delivered.
                unsafe {
                    arch::write_sysreg!("S3_0_C12_C12_4", 0); // ICC_CTLR_EL1
                    arch::write_sysreg!("S3_4_C12_C11_0", ICH_HCR_TRAPS); // ICH_HCR_EL2
                }
                if let Some(base) = redistributor(redistributors, mpidr) {
                    // SAFETY: this CPU's own redistributor, which only this CPU drives.
                    let mut redistributor = GicRedistributor::new(unsafe { UniqueMmioPointer::new(base) });
                    // An error says that it is awake already.
                    let _ = redistributor.mark_core_awake();
                    redistributor.configure_default_settings();
                    for id in [WAKE, self.timer] {
                        let _ = redistributor.enable_interrupt(id, true);
                    }
                }
                GicCpuInterface::set_priority_mask(0xff);
                GicCpuInterface::enable_group1(true);
            }
            _ => {}
        }
    }

    /// Number of the calling CPU's GICv2 interface, as GICD_ITARGETSR0 shows it to each CPU; 0 for others.
    pub(crate) fn own_interface(&self) -> u8 {
        const ITARGETSR: u64 = 0x800;
        match &self.info {
            GicInfo::V2 { distributor, .. } => {
                // Each byte is an SGI's or PPI's target as this CPU sees it: itself, or 0 where it is not there.
                let targets = (0..8).fold(0, |all, word| {
                    // SAFETY: read-only registers of the distributor, mapped as Device memory; reading has no effect.
                    all | unsafe { ((distributor + ITARGETSR + word * 4) as *const u32).read_volatile() }
                });
                let mask = targets.to_le_bytes().into_iter().fold(0, |all, byte| all | byte);
                mask.trailing_zeros().min(7) as u8
            }
            _ => 0,
        }
    }

    /// Wakes the CPU with this MPIDR and, for GICv2, this number of its interface.
    pub(crate) fn wake(&self, mpidr: u64, interface: usize) {
        // What the other CPU is to see must be visible before the interrupt.
        arch::barrier::dsb_ish();
        match &self.driver {
            Driver::V2(gic) => gic.lock().send_sgi(
                WAKE,
                gicv2::SgiTarget::List {
                    target_list_filter: gicv2::SgiTargetListFilter::CPUTargetList,
                    target_list: 1 << interface,
                },
            ),
            Driver::V3 => {
                let target = SgiTarget::List {
                    affinity3: (mpidr >> 32) as u8,
                    affinity2: (mpidr >> 16) as u8,
                    affinity1: (mpidr >> 8) as u8,
                    target_list: 1 << (mpidr & 0xf),
                };
                // Fails only for what is no SGI.
                let _ = GicCpuInterface::send_sgi(WAKE, target, SgiTargetGroup::CurrentGroup1);
            }
            Driver::None => {}
        }
        arch::barrier::isb();
    }

    /// Takes the pending interrupt, if any, and ends it.
    pub(crate) fn acknowledge(&self) -> Interrupt {
        let taken = match &self.driver {
            Driver::V2(gic) => {
                // Non-secure accesses see Group 1 through the ordinary registers.
                let mut gic = gic.lock();
                let id = gic.get_and_acknowledge_interrupt(InterruptGroup::Group0);
                if let Some(id) = id {
                    gic.end_interrupt(id, InterruptGroup::Group0);
                }
                // GICC_IAR of an SGI also holds the source CPU above bit 10.
                id.map(|id| u32::from(id) & 0x3ff)
            }
            Driver::V3 => GicCpuInterface::get_and_acknowledge_interrupt(InterruptGroup::Group1).map(|id| {
                GicCpuInterface::end_interrupt(id, InterruptGroup::Group1);
                u32::from(id)
            }),
            Driver::None => None,
        };
        // What the other CPU stored before it sent the interrupt must not be read before the interrupt was taken, or a
        // wake-up would be used up and its reason missed.
        arch::barrier::dsb_sy();
        match taken {
            Some(id) if id == u32::from(self.timer) => Interrupt::Timer,
            Some(id) if id == u32::from(WAKE) => Interrupt::Wake,
            _ => Interrupt::Other,
        }
    }
}
