//! EL2's own stage 1: an identity map of RAM and of the devices that hv uses, and nothing else.
//!
//! Built once, with the MMU off, by the boot CPU; and where there is FEAT_VHE once more, in the descriptors of EL2&0. Pages are
//! as strict as they can be: code is read-only, the rest not executable. The tables' memory is written past the caches and invalidated by the entry code.

use core::sync::atomic::{AtomicU64, Ordering};

use vmsa::{
    Descriptor, Granule, Level,
    descriptor::{Attributes, DescriptorKind},
    memory, stress,
};

use crate::platform::Range;

const GRANULE: Granule = Granule::K4;
/// Of one map; there may be two.
const TABLES: usize = 64;

#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

static POOL: [Table; 2 * TABLES] = [const { Table([const { AtomicU64::new(0) }; 512]) }; 2 * TABLES];

/// What the entry code loads; the layout is known to boot.S.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct MmuRegisters {
    mair: AtomicU64,
    tcr: AtomicU64,
    ttbr0: AtomicU64,
    sctlr: AtomicU64,
}

pub(crate) static MMU_REGISTERS: MmuRegisters = MmuRegisters {
    mair: AtomicU64::new(0),
    tcr: AtomicU64::new(0),
    ttbr0: AtomicU64::new(0),
    sctlr: AtomicU64::new(0),
};

/// How a range is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    /// Normal memory, read-write.
    Data,
    /// Normal memory, read-only.
    Constants,
    /// Normal memory, read-only and executable.
    Code,
    /// Device-nGnRE.
    Device,
    /// Not at all.
    Nothing,
}

impl Use {
    const fn attributes(self, e2h: bool) -> Attributes {
        let attributes = match self {
            Self::Data | Self::Nothing => Attributes::NORMAL_RW,
            Self::Constants => Attributes::NORMAL_RO,
            Self::Code => Attributes::NORMAL_RX,
            Self::Device => Attributes { attr_index: memory::DEVICE_NGNRE, ..Attributes::NORMAL_RW },
        };
        if e2h { attributes } else { attributes.at_el2() }
    }
}

/// The tables ran out: the machine's memory is more scattered than hv is prepared for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutOfTables;

/// The map while it is built.
pub(crate) struct Builder {
    /// Its first table and the next free one.
    root: usize,
    used: usize,
    /// In descriptors of EL2&0.
    e2h: bool,
}

// With the MMU off memory is Device-nGnRnE: plain loads and stores of a relaxed AtomicU64 are the only atomics
// that work there, and all that is needed with one CPU running.
const ORDER: Ordering = Ordering::Relaxed;

/// Has `table`, of level 1, translate all that a level 0 entry does around the window at `va`. Nothing is there yet, and the
/// caller sees to it that every walker sees this.
pub(crate) fn attach(va: u64, table: u64) {
    POOL[0].0[Level::L0.index(GRANULE, va)].store(Descriptor::table(table).raw(), ORDER);
}

/// Takes out what was attached, on all CPUs.
pub(crate) fn detach() {
    let windows = &POOL[0].0[Level::L0.index(GRANULE, stress::EL2_WINDOWS)..];
    if windows.iter().any(|entry| entry.load(ORDER) != 0) {
        windows.iter().for_each(|entry| entry.store(0, ORDER));
        arch::barrier::dsb_ishst();
        arch::tlbi::alle2is();
        arch::barrier::dsb_ish();
        arch::barrier::isb();
    }
}

/// TCR_EL2 and TTBR0_EL2 of hv's own map.
pub(crate) fn own() -> (u64, u64) {
    (MMU_REGISTERS.tcr.load(ORDER), MMU_REGISTERS.ttbr0.load(ORDER))
}

/// Address of the first table of the map in descriptors of EL2&0.
pub(crate) fn root_with_e2h() -> u64 {
    Builder::address(TABLES)
}

impl Builder {
    /// An empty map, for EL2 without E2H or with it.
    pub(crate) const fn new(e2h: bool) -> Self {
        let root = if e2h { TABLES } else { 0 };
        Self { root, used: root + 1, e2h }
    }

    fn address(table: usize) -> u64 {
        &raw const POOL[table] as u64
    }

    fn index_of(address: u64) -> usize {
        ((address - Self::address(0)) / size_of::<Table>() as u64) as usize
    }

    fn allocate(&mut self) -> Result<usize, OutOfTables> {
        let table = self.used;
        if table == self.root + TABLES {
            return Err(OutOfTables);
        }
        self.used += 1;
        Ok(table)
    }

    /// The table below `entry` of `table`, made if need be, a block becoming a table of the same mappings.
    fn descend(&mut self, table: usize, index: usize, level: Level) -> Result<usize, OutOfTables> {
        let entry = &POOL[table].0[index];
        let old = Descriptor::from_raw(entry.load(ORDER));
        if old.kind(GRANULE, level) == DescriptorKind::Table {
            return Ok(Self::index_of(old.oa(GRANULE, level)));
        }
        let new = self.allocate()?;
        if let (DescriptorKind::Block, Some(next)) = (old.kind(GRANULE, level), level.next()) {
            for (i, slot) in POOL[new].0.iter().enumerate() {
                let oa = old.oa(GRANULE, level) + i as u64 * next.size(GRANULE);
                slot.store(Descriptor::leaf(GRANULE, next, oa, old.attributes()).raw(), ORDER);
            }
        }
        entry.store(Descriptor::table(Self::address(new)).raw(), ORDER);
        Ok(new)
    }

    /// Maps `range`, widened to pages, onto itself; what was mapped there before is replaced.
    pub(crate) fn map(&mut self, range: Range, usage: Use) -> Result<(), OutOfTables> {
        let range = range.pages();
        self.map_level(self.root, Level::L0, range, usage)
    }

    fn map_level(&mut self, table: usize, level: Level, range: Range, usage: Use) -> Result<(), OutOfTables> {
        let size = level.size(GRANULE);
        let mut at = range.start;
        while at < range.end {
            let entry_start = at & !(size - 1);
            let piece = Range { start: at, end: range.end.min(entry_start + size) };
            let index = level.index(GRANULE, at);
            let whole = piece.size() == size;
            if whole && (level == Level::L3 || level.allows_block(GRANULE, false)) {
                let leaf = match usage {
                    Use::Nothing => Descriptor::INVALID,
                    _ => Descriptor::leaf(GRANULE, level, at, usage.attributes(self.e2h)),
                };
                POOL[table].0[index].store(leaf.raw(), ORDER);
            } else if let Some(next_level) = level.next() {
                let next = self.descend(table, index, level)?;
                self.map_level(next, next_level, piece, usage)?;
            }
            at = piece.end;
        }
        Ok(())
    }

    /// Computes the register values that put the map, which is not one of EL2&0, into force; see boot.S.
    pub(crate) fn finish(self) -> &'static MmuRegisters {
        /// T0SZ = 16, inner and outer write-back, Inner Shareable, 4K; bits 23 and 31 are RES1.
        const TCR: u64 = 16 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 1 << 31;
        /// RES1 bits of SCTLR_EL2, M, C, I and SA. Not WXN: nothing of hv's own is both writable and executable, and windows
        /// may be.
        const SCTLR: u64 = 0x30c5_0830 | 1 | 1 << 2 | 1 << 12 | 1 << 3;
        MMU_REGISTERS.mair.store(memory::MAIR, ORDER);
        MMU_REGISTERS.tcr.store(TCR | arch::id::pa_range() << 16, ORDER);
        MMU_REGISTERS.ttbr0.store(Self::address(0), ORDER);
        MMU_REGISTERS.sctlr.store(SCTLR, ORDER);
        &MMU_REGISTERS
    }
}
