//! From the first instruction to Rust with the MMU on. The way itself is in boot.S.

use core::cell::UnsafeCell;

use aarch64_cpu::registers::{HCR_EL2, ID_AA64MMFR1_EL1, Readable};
use vmsa::feature::{Feature, IdRegisters};

use crate::{
    console,
    mmu::{Builder, MmuRegisters, Use},
    platform::{self, Error, GicInfo, Machine, Range},
    smp,
};

/// SCR_EL3 for the way down from EL3: NS, RES1, HVC enabled, EL2 is AArch64, pointer authentication untrapped.
const SCR_EL3: u64 = 1 << 0 | 3 << 4 | 1 << 8 | 1 << 10 | 3 << 16;

core::arch::global_asm!(
    include_str!("boot.S"),
    STACKS = sym smp::STACKS,
    STACK_SIZE = const smp::STACK_SIZE,
    MMU_REGISTERS = sym crate::mmu::MMU_REGISTERS,
    SCR_EL3 = const SCR_EL3,
    RELOCATE = sym arch::relocate::relocate_image,
    discover = sym discover,
    boot_main = sym crate::boot_main,
    secondary_main = sym smp::secondary_main,
);

core::arch::global_asm!(
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../harness/arch/src/gprs.S")),
    include_str!("vectors.S"),
    include_str!("own.S"),
    OWN_FRAME_SIZE = const crate::exception::OWN_FRAME_SIZE,
    own_exception = sym crate::exception::own_exception,
);

// SAFETY: symbols of hv.ld, of which only the address is taken.
unsafe extern "C" {
    static __text_end: u8;
    static __rodata_end: u8;
}

/// A value that the boot CPU writes once, before any other CPU runs and before anyone reads it.
struct Once<T>(UnsafeCell<Option<T>>);

// SAFETY: written by `discover` only, with one CPU running; everybody else reads.
unsafe impl<T: Sync> Sync for Once<T> {}

/// What discovery found.
pub(crate) struct Boot {
    pub(crate) machine: Machine,
    pub(crate) image: Range,
    /// EL at which the Image was entered.
    pub(crate) entered_at: u8,
}

static BOOT: Once<Boot> = Once(UnsafeCell::new(None));

/// What discovery found.
pub(crate) fn boot() -> &'static Boot {
    // SAFETY: nobody writes after `discover`, which ran before anything that calls this.
    match unsafe { &*BOOT.0.get() } {
        Some(boot) => boot,
        None => halt(),
    }
}

/// Stops this CPU for good.
pub(crate) fn halt() -> ! {
    loop {
        arch::barrier::wfi();
    }
}

/// Called by boot.S with the MMU off: reads the DTB and builds EL2's tables. At EL1, says so and stops.
extern "C" fn discover(dtb: u64, entered_at: u64, start: u64, end: u64) -> &'static MmuRegisters {
    let image = Range { start, end };
    let machine = match platform::discover(dtb, image) {
        Ok(machine) => machine,
        // Without a DTB there is no console to say so on.
        Err(Error::NoDtb | Error::BadDtb) => halt(),
    };
    if entered_at < 2 {
        console::print_early(
            machine.uart,
            "Bail out! shatter: entered at EL1, but it is a hypervisor and needs EL2. On QEMU: -M virt,virtualization=on; \
             elsewhere let firmware start it at EL2.\r\n",
        );
        crate::power::off_early(&machine);
    }
    // With E2H stuck at 1 the EL2 registers used from here on mean something else.
    const E2H: u64 = 1 << 34;
    if HCR_EL2.get() & E2H != 0 {
        console::print_early(
            machine.uart,
            "Bail out! shatter: this CPU has EL2 with VHE only (no FEAT_E2H0), which hv does not drive yet\r\n",
        );
        crate::power::off_early(&machine);
    }
    if machine.reserved_left_out {
        console::print_early(
            machine.uart,
            "Bail out! shatter: the DTB reserves more memory ranges than hv has room for; it cannot know what to avoid\r\n",
        );
        crate::power::off_early(&machine);
    }
    let mut map = Builder::new(false);
    let ids = IdRegisters { mmfr1: ID_AA64MMFR1_EL1.get(), ..IdRegisters::default() };
    let mut second = Some(Builder::new(true)).filter(|_| Feature::Vhe.is_in(&ids));
    let maps = [Some(&mut map), second.as_mut()];
    if maps.into_iter().flatten().any(|map| build(map, &machine, image).is_err()) {
        console::print_early(machine.uart, "Bail out! shatter: no room for EL2's tables: RAM is too scattered.\r\n");
        halt();
    }
    // SAFETY: one CPU runs, with the MMU off, and nobody holds a reference yet.
    unsafe { *BOOT.0.get() = Some(Boot { machine, image, entered_at: entered_at as u8 }) };
    map.finish()
}

fn build(map: &mut Builder, machine: &Machine, image: Range) -> Result<(), crate::mmu::OutOfTables> {
    for range in &machine.ram {
        map.map(*range, Use::Data)?;
    }
    for range in &machine.no_map {
        map.map(*range, Use::Nothing)?;
    }
    // Firmware may place these outside of the memory it lists.
    for range in [Some(machine.dtb), machine.initrd].into_iter().flatten() {
        map.map(range, Use::Data)?;
    }
    let (text_end, rodata_end) = (&raw const __text_end as u64, &raw const __rodata_end as u64);
    map.map(Range { start: image.start, end: text_end }, Use::Code)?;
    map.map(Range { start: text_end, end: rodata_end }, Use::Constants)?;
    map.map(Range { start: rodata_end, end: image.end }, Use::Data)?;
    // The lowest page of each stack stays unmapped: an overflow faults instead of reaching the next CPU's stack.
    for stack in 0..platform::MAX_CPUS {
        let guard = &raw const smp::STACKS as u64 + (stack * smp::STACK_SIZE) as u64;
        map.map(Range::of(guard, 0x1000), Use::Nothing)?;
    }
    if let Some(uart) = machine.uart {
        map.map(Range::of(uart.base, 0x1000), Use::Device)?;
    }
    for smmu in &machine.smmus {
        map.map(Range::of(*smmu, 0x1000), Use::Device)?;
    }
    match &machine.gic {
        GicInfo::None => {}
        GicInfo::V2 { distributor, cpu_interface } => {
            map.map(Range::of(*distributor, 0x1000), Use::Device)?;
            map.map(Range::of(*cpu_interface, 0x2000), Use::Device)?;
        }
        GicInfo::V3 { distributor, redistributors } => {
            map.map(Range::of(*distributor, 0x1_0000), Use::Device)?;
            for region in redistributors {
                map.map(*region, Use::Device)?;
            }
        }
    }
    Ok(())
}
