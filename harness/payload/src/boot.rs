//! From the first instruction to a payload's own code, for the boot CPU and for those that join it.
//!
//! With the MMU off, memory is accessed past the caches. So nothing is kept that was written before except the
//! image, its stack and its first tables, and all of these are invalidated in the caches, which may hold what hv
//! wrote there, before the MMU goes on.

use core::{
    arch::global_asm,
    mem::offset_of,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use aarch64_cpu::registers::{SCTLR_EL1, TCR_EL1};
use arch::{barrier, cache, id, relocate::relocate_image, tlbi, write_sysreg};
use vmsa::{
    descriptor::{Attributes, Shareability},
    geometry::Granule,
    instance::{Instance, Payload},
    layout::{Format, Width},
    memory,
    rule::HardwareUpdates,
};
use wire::{
    abi::{HEADER_MAGIC, MAX_VCPUS, VmInfo},
    frame::crc32,
};

use crate::{
    cpu, exceptions, hypercall, round,
    tables::{Pool, Space, VA_BITS, publish},
};

/// Bytes of a vCPU's stack.
const STACK_SIZE: u64 = 20 << 10;
/// What must be left of it, at its bottom.
const STACK_SPARE: u64 = 256;

global_asm!(
    include_str!("entry.S"),
    MAGIC = const u64::from_le_bytes(HEADER_MAGIC),
    STACK_SIZE = const STACK_SIZE,
    STACKS_SIZE = const STACK_SIZE * MAX_VCPUS as u64,
    SECONDARY_STACK = const offset_of!(Secondary, stack),
    relocate_image = sym relocate_image,
    boot = sym boot,
    secondary = sym secondary,
);

// SAFETY: declared as entry.S and payload.ld define them; of the statics only the address is taken.
unsafe extern "C" {
    /// Turns the MMU on, having dropped the caches' lines of `[start, end)`, which was written without them.
    ///
    /// # Safety
    /// The tables map this code and everything the program uses at its physical address; all of it is in memory,
    /// and no cache holds anything older of it outside of the range, nor anything newer in it.
    fn payload_mmu_on(mmu: *const Mmu, start: u64, end: u64);
    safe static payload_secondary: u8;
    safe static payload_stacks: u8;
    safe static __memory_end: u8;
}

// SAFETY: defined once in each payload binary, with this signature, by the macro `family!`.
unsafe extern "Rust" {
    /// The family's binary.
    safe fn payload_main(vm: Vm) -> !;
}

/// EL1 registers as the boot CPU was entered with, in the order in which `entry.S` stores them.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct EntryState {
    pub(crate) sctlr: u64,
    pub(crate) tcr: u64,
    pub(crate) ttbr0: u64,
    pub(crate) ttbr1: u64,
    pub(crate) vbar: u64,
    pub(crate) tpidr_el0: u64,
    pub(crate) tpidr_el1: u64,
    pub(crate) tpidrro_el0: u64,
    pub(crate) daif: u64,
    pub(crate) current_el: u64,
}

/// Register values with which `payload_mmu_on` turns the MMU on, in the order in which it loads them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Mmu {
    mair: u64,
    tcr: u64,
    ttbr0: u64,
    ttbr1: u64,
    vbar: u64,
    sctlr: u64,
}

/// What a secondary vCPU is started with.
#[repr(C)]
struct Secondary {
    mmu: Mmu,
    /// Top of its stack.
    stack: u64,
    index: u64,
}

/// Device memory that is never executed.
pub(crate) const DEVICE: Attributes =
    Attributes { attr_index: memory::DEVICE_NGNRE, shareability: Shareability::Outer, ..Attributes::NORMAL_RW };

/// SCTLR_EL1 bits that are RES1 in Armv8.0, and later mean the same if set: EOS, TSCXT, EIS, SPAN, nTLSMD, LSMAOE.
const SCTLR_RES1: u64 = 1 << 11 | 1 << 20 | 1 << 22 | 1 << 23 | 1 << 28 | 1 << 29;

/// TCR_EL1 for 48-bit virtual addresses, 4K granule for TTBR0, the ASID in TTBR1, descriptors of `width` for both, of which
/// the wide ones have their Shareability from here. TTBR1 is not walked until there is an `upper` space.
fn tcr(width: Width, upper: Option<Granule>) -> u64 {
    /// TCR_EL1.DS.
    const DS: u64 = 1 << 59;
    const BASE: u64 = (TCR_EL1::IRGN0::WriteBack_ReadAlloc_WriteAlloc_Cacheable.value)
        | TCR_EL1::ORGN0::WriteBack_ReadAlloc_WriteAlloc_Cacheable.value
        | TCR_EL1::SH0::Inner.value
        | TCR_EL1::TG0::KiB_4.value
        | TCR_EL1::A1::TTBR1.value
        | TCR_EL1::IRGN1::WriteBack_ReadAlloc_WriteAlloc_Cacheable.value
        | TCR_EL1::ORGN1::WriteBack_ReadAlloc_WriteAlloc_Cacheable.value
        | TCR_EL1::SH1::Inner.value;
    let size = 64 - u64::from(VA_BITS);
    let upper = match upper {
        None => TCR_EL1::TG1::KiB_4.value | TCR_EL1::EPD1::DisableTTBR1Walks.value,
        Some(Granule::K4) => TCR_EL1::TG1::KiB_4.value,
        Some(Granule::K16) => TCR_EL1::TG1::KiB_16.value,
        Some(Granule::K64) => TCR_EL1::TG1::KiB_64.value,
    };
    let ips = TCR_EL1::IPS.val(id::pa_range()).value;
    let ds = if width == Width::Bits52 { DS } else { 0 };
    BASE | ds | TCR_EL1::T0SZ.val(size).value | TCR_EL1::T1SZ.val(size).value | upper | ips
}

/// The bits of TCR_EL1 that have hardware update descriptors; those of this program's own have nothing left to update.
fn updates(hardware: HardwareUpdates) -> u64 {
    /// TCR_EL1.HA and HD.
    const HA: u64 = 1 << 39;
    const HD: u64 = 1 << 40;
    match hardware {
        HardwareUpdates::Off => 0,
        HardwareUpdates::AccessFlag => HA,
        HardwareUpdates::Dirty => HA | HD,
    }
}

/// A payload's VM, seen from inside.
#[derive(Debug)]
pub struct Vm {
    pub(crate) info: &'static VmInfo,
    pub(crate) entry: &'static EntryState,
    pub(crate) instance: Instance,
    pub(crate) pool: Pool,
    mmu: Mmu,
}

impl Vm {
    /// Panics if the instance is not for `payload`.
    pub fn belongs_to(&self, payload: Payload) {
        assert!(self.instance.family().payload() == payload, "{} is not for the payload {payload}", self.instance);
    }

    /// A hash of the instance's id: what tells it from others, wherever it stands in a plan.
    pub(crate) fn id_hash(&self) -> u64 {
        crc32(&self.info.id[..self.info.id_len as usize]).into()
    }

    /// Has TTBR1 translate `space`, on this vCPU and on those started later. Once.
    pub(crate) fn set_upper(&mut self, space: &Space, hardware: HardwareUpdates) {
        let Format { granule, width } = space.format();
        publish();
        self.mmu.ttbr1 = space.root() | tlbi::ASID << tlbi::ASID_SHIFT;
        self.mmu.tcr = tcr(width, Some(granule)) | updates(hardware);
        // SAFETY: nothing is accessed through TTBR1 yet, and its walks are disabled until TCR is written.
        unsafe {
            write_sysreg!("ttbr1_el1", self.mmu.ttbr1);
            barrier::isb();
            write_sysreg!("tcr_el1", self.mmu.tcr);
        }
        // Fields of TCR may be cached in TLBs (R_VNRFW).
        barrier::isb();
        tlbi::vmalle1();
        barrier::dsb_nsh();
        barrier::isb();
    }

    /// TTBR1_EL1 with the usual ASID, and with the other one. Both have the same tables.
    pub(crate) const fn upper(&self) -> [u64; 2] {
        let root = self.mmu.ttbr1 & !(0xffff << tlbi::ASID_SHIFT);
        [root | tlbi::ASID << tlbi::ASID_SHIFT, root | tlbi::OTHER_ASID << tlbi::ASID_SHIFT]
    }

    /// Has hv start vCPU `index` at `entry` with its MMU off and `context` in x0. Says whether hv accepted.
    pub(crate) fn start_at(&self, index: usize, entry: u64, context: u64) -> bool {
        hypercall::cpu_on(self.info.mpidr[index], entry, context)
    }

    /// Has hv start vCPU `index`; it goes to [`round::join`]. Says whether hv accepted.
    pub(crate) fn start(&self, index: usize) -> bool {
        let top = &raw const payload_stacks as u64 + (index as u64 + 1) * STACK_SIZE;
        let secondary = (top - size_of::<Secondary>() as u64) as *mut Secondary;
        let state = Secondary { mmu: self.mmu, stack: secondary as u64, index: index as u64 };
        // SAFETY: the stack of a vCPU that has not been started is nobody's, 16-byte aligned, and the struct, whose
        // size is a multiple of 16, is put on top of it.
        unsafe { secondary.write(state) };
        // The vCPU reads it with its MMU off.
        cache::clean_invalidate_poc(secondary as usize, size_of::<Secondary>());
        self.start_at(index, &raw const payload_secondary as u64, secondary as u64)
    }
}

/// Whether no vCPU has come near the bottom of its stack. hv has zeroed it; what lies below would be overwritten unnoticed.
pub(crate) fn stacks_held() -> bool {
    let base = &raw const payload_stacks as u64;
    (0..MAX_VCPUS as u64).all(|vcpu| {
        let bottom = (base + vcpu * STACK_SIZE) as *const AtomicU64;
        // SAFETY: the spare part of a stack, which nobody refers to, in whole aligned words.
        let spare = unsafe { core::slice::from_raw_parts(bottom, (STACK_SPARE / 8) as usize) };
        spare.iter().all(|word| word.load(Relaxed) == 0)
    })
}

const _: () = assert!(size_of::<Secondary>().is_multiple_of(16), "stacks are 16-byte aligned");

/// Called by `entry.S` on the boot CPU with the MMU off, once the image is relocated.
extern "C" fn boot(info: &'static VmInfo, entry: &'static EntryState, image: u64) -> ! {
    assert!(info.magic == VmInfo::MAGIC, "no VmInfo at the address given in x0");
    let info_page = core::ptr::from_ref(info) as u64;
    // SAFETY: hv has zeroed the private memory, and behind the image's memory only the last page is in use.
    let mut pool = unsafe { Pool::new(&raw const __memory_end as u64, info_page) };
    let id = info.id.get(..info.id_len as usize).and_then(|id| str::from_utf8(id).ok()).unwrap_or_default();
    let instance = id.parse();
    // TCR_EL1.DS says of both halves how wide their descriptors are, and is what it is from the first walk on.
    let width = match &instance {
        Ok(Instance::Case(case)) => case.change.format(case.granule).width,
        _ => Width::Bits48,
    };
    // What TTBR0 translates: private memory and frames, each at its physical address.
    let own = Space::new(&mut pool, Format { granule: Granule::K4, width });
    own.map(&mut pool, info.private_base, info.private_base, info.private_size, Attributes::NORMAL_RWX);
    let mmu = Mmu {
        mair: memory::MAIR,
        tcr: tcr(width, None),
        ttbr0: own.root(),
        ttbr1: 0,
        vbar: exceptions::vectors(),
        sctlr: SCTLR_RES1
            | SCTLR_EL1::M::Enable.value
            | SCTLR_EL1::C::Cacheable.value
            | SCTLR_EL1::I::Cacheable.value
            | SCTLR_EL1::SA::Enable.value,
    };
    // SAFETY: the private memory, which is all that is used, is mapped at its physical address. All that was written
    // is from the image to the pool's first free table; nothing dirty can be in its lines, since hv cleaned them.
    unsafe { payload_mmu_on(&raw const mmu, image, pool.rest().0) };
    cpu::set_index(0);

    let frames = info.frames * info.frame_size;
    own.map(&mut pool, info.frames_base, info.frames_base, frames, Attributes::NORMAL_RW);
    publish();

    match instance {
        Ok(instance) => payload_main(Vm { info, entry, instance, pool, mmu }),
        Err(error) => panic!("{id}: {error}"),
    }
}

/// Called by `entry.S` on any other vCPU, with the MMU on.
extern "C" fn secondary(index: u64) -> ! {
    cpu::set_index(index);
    round::join();
    hypercall::cpu_off()
}
