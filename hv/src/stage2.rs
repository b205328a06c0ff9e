//! Stage 2 of the one VM: its private memory and its frames onto themselves, the window of a case that changes stage 2,
//! and nothing else.
//!
//! Rebuilt from zero for every instance, in the granule that the instance asks for. Stage 2 descriptors share their layout
//! with stage 1 but not their attributes, so the few that hv needs are named here.

use core::sync::atomic::{AtomicU64, Ordering};

use arch::sequence::NextTable;
use vmsa::{
    Granule, Level, change::Leaf, descriptor::Descriptor, instance::Regime, layout::Format, rule::HardwareUpdates,
    shatter::Arena,
};

use crate::platform::Range;

/// Words of the smallest table; larger ones are several of these.
const UNIT: usize = 512;
/// Of the 4K granule a start table, two level 1 and level 2 tables each for private memory and frames, the page tables of
/// 4 MiB of both, and a few for a window; of the 64K granule 16 tables.
const UNITS: usize = 16 * 16;

#[repr(C, align(65536))]
struct Pool([[AtomicU64; UNIT]; UNITS]);

static POOL: Pool = Pool([const { [const { AtomicU64::new(0) }; UNIT] }; UNITS]);

/// Valid; with [`PAGE`] a page or table, without a block.
const VALID: u64 = 1;
const PAGE: u64 = 1 << 1;
/// MemAttr: Normal, outer and inner write-back.
const MEMATTR_WB: u64 = 0xf << 2;
/// S2AP: read, which is also execute; and write.
const S2AP_R: u64 = 1 << 6;
const S2AP_W: u64 = 1 << 7;
/// SH: Inner Shareable.
const SH_INNER: u64 = 3 << 8;
const AF: u64 = 1 << 10;
const LEAF: u64 = VALID | MEMATTR_WB | S2AP_R | SH_INNER | AF;

/// VTCR_EL2: inner and outer write-back, Inner Shareable walks; bit 31 is RES1.
const VTCR_BASE: u64 = 1 << 8 | 1 << 10 | 3 << 12 | 1 << 31;

/// VTCR_EL2.HA and HD: hardware sets the Access flag; and manages the dirty state.
const VTCR_HA: u64 = 1 << 21;
const VTCR_HD: u64 = 1 << 22;

/// Lowest bit of VTTBR_EL2.VMID.
pub(crate) const VMID_SHIFT: u32 = 48;

/// A table of the pool.
#[derive(Clone, Copy)]
struct Table(&'static [AtomicU64]);

impl Table {
    fn address(self) -> u64 {
        self.0.as_ptr() as u64
    }
}

/// Tables of one translation.
pub(crate) struct Tables {
    regime: Regime,
    granule: Granule,
    /// Units of the pool that are given out.
    used: usize,
    root: Table,
    start: Level,
}

/// Tables of the running VM.
pub(crate) struct Stage2 {
    pub(crate) tables: Tables,
    ipa_bits: u32,
    pa_range: u64,
    hardware: HardwareUpdates,
}

/// The tables ran out, or an address lies beyond what stage 2 can map here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutOfReach;

impl Stage2 {
    /// Empty tables that reach `end`, for CPUs the least of which has this PARange. The tables may still be cached in a TLB
    /// from the instance before: the caller has no VM running and invalidates before it starts one.
    pub(crate) fn new(granule: Granule, end: u64, pa_range: u64) -> Result<Self, OutOfReach> {
        let bits = arch::id::bits(pa_range).min(48);
        // One table at the lowest level that reaches; a start higher up is only there for larger PAs.
        let candidates: &[(Level, bool)] = match granule {
            Granule::K4 => &[(Level::L1, true), (Level::L0, bits > 42)],
            Granule::K16 => &[(Level::L2, true), (Level::L1, bits > 40)],
            Granule::K64 => &[(Level::L2, true), (Level::L1, bits > 42)],
        };
        let reach = |level: Level| bits.min(level.shift(granule) + granule.entries().trailing_zeros());
        let fits = |(level, there): &&(Level, bool)| *there && end <= 1 << reach(*level);
        let (start, _) = *candidates.iter().find(fits).ok_or(OutOfReach)?;
        let tables = Tables::new(Regime::S2, granule, start, 0)?;
        Ok(Self { tables, ipa_bits: reach(start), pa_range, hardware: HardwareUpdates::Off })
    }

    /// Has hardware write this into its descriptors.
    pub(crate) fn update_by(&mut self, hardware: HardwareUpdates) {
        self.hardware = hardware;
    }

    /// Tables of EL2's own stage 1 from the same pool, of which this one gets no more. The first is of level 1; of EL2&0 it is of the
    /// highest level that 48 bits have.
    pub(crate) fn besides(&mut self, regime: Regime, granule: Granule) -> Result<Tables, OutOfReach> {
        let start = match (regime, granule) {
            (Regime::El2Vhe, Granule::K4 | Granule::K16) => Level::L0,
            _ => Level::L1,
        };
        let used = core::mem::replace(&mut self.tables.used, UNITS);
        Tables::new(regime, granule, start, used)
    }

    /// Maps `range` onto itself by the largest blocks that fit, or by pages only; for writing, or not.
    pub(crate) fn map(&mut self, range: Range, pages: bool, writable: bool) -> Result<(), OutOfReach> {
        let leaf = LEAF | if writable { S2AP_W } else { 0 };
        self.tables.map_level(self.tables.root, self.tables.start, range, pages, leaf)
    }

    /// Bits of an IPA.
    pub(crate) const fn ipa_bits(&self) -> u32 {
        self.ipa_bits
    }

    /// VTCR_EL2 for these tables.
    pub(crate) fn vtcr(&self) -> u64 {
        let Tables { granule, start, .. } = self.tables;
        let (tg0, lowest) = match granule {
            Granule::K4 => (0b00, 2),
            Granule::K16 => (0b10, 3),
            Granule::K64 => (0b01, 3),
        };
        // SL0 counts from the level that is 0 in it upwards.
        let sl0 = (lowest - start.number()) as u64;
        let updates = match self.hardware {
            HardwareUpdates::Off => 0,
            HardwareUpdates::AccessFlag => VTCR_HA,
            HardwareUpdates::Dirty => VTCR_HA | VTCR_HD,
        };
        VTCR_BASE | updates | u64::from(64 - self.ipa_bits) | sl0 << 6 | tg0 << 14 | self.pa_range << 16
    }

    /// VTTBR_EL2 for these tables and `vmid`.
    pub(crate) fn vttbr(&self, vmid: u8) -> u64 {
        u64::from(vmid) << VMID_SHIFT | self.tables.root.address()
    }
}

/// For a block that is to be shattered.
impl Arena for Tables {
    type Table = NextTable<'static>;

    fn take(&mut self) -> Option<NextTable<'static>> {
        let table = Self::allot(self.granule, &mut self.used).ok()?;
        Some(NextTable { address: table.address(), entries: table.0 })
    }

    fn give_back(&mut self, table: NextTable<'static>) {
        // The last one comes first: what is behind it is not given out.
        self.used = (table.address - &raw const POOL as u64) as usize / size_of::<[AtomicU64; UNIT]>();
    }
}

impl Tables {
    /// One table at `start`, when `used` units of the pool are given out.
    fn new(regime: Regime, granule: Granule, start: Level, mut used: usize) -> Result<Self, OutOfReach> {
        let root = Self::allot(granule, &mut used)?;
        Ok(Self { regime, granule, used, root, start })
    }

    /// Address of the first one.
    pub(crate) fn address(&self) -> u64 {
        self.root.address()
    }

    /// A new table, all invalid.
    fn allot(granule: Granule, used: &mut usize) -> Result<Table, OutOfReach> {
        let units = granule.entries() / UNIT;
        let first = used.next_multiple_of(units);
        let table = POOL.0.get(first..first + units).ok_or(OutOfReach)?.as_flattened();
        // SAFETY: a table is Normal memory, all of it atomics, which any bytes are; no VM runs, so that nobody walks it.
        unsafe { arch::cache::zero(table.as_ptr() as usize, size_of_val(table)) };
        *used = first + units;
        Ok(Table(table))
    }

    /// The table to which `slot` points; a new one if it points to none.
    fn below(&mut self, slot: &AtomicU64) -> Result<Table, OutOfReach> {
        let old = slot.load(Ordering::Relaxed);
        if old & VALID == 0 {
            let new = Self::allot(self.granule, &mut self.used)?;
            slot.store(Descriptor::table(new.address()).raw(), Ordering::Relaxed);
            return Ok(new);
        }
        let units = self.granule.entries() / UNIT;
        let address = Descriptor::from_raw(old).oa(self.granule, Level::L2);
        let first = (address - &raw const POOL as u64) as usize / size_of::<[AtomicU64; UNIT]>();
        Ok(Table(POOL.0[first..first + units].as_flattened()))
    }

    fn map_level(
        &mut self,
        table: Table,
        level: Level,
        range: Range,
        pages: bool,
        leaf: u64,
    ) -> Result<(), OutOfReach> {
        let granule = self.granule;
        let size = level.size(granule);
        let mut at = range.start;
        while at < range.end {
            let piece = Range { start: at, end: range.end.min((at & !(size - 1)) + size) };
            let slot = &table.0[level.index(granule, at)];
            match level.next() {
                None => slot.store(at | leaf | PAGE, Ordering::Relaxed),
                Some(_) if !pages && piece.size() == size && level.allows_block(granule, false) => {
                    slot.store(at | leaf, Ordering::Relaxed);
                }
                Some(next) => {
                    let below = self.below(slot)?;
                    self.map_level(below, next, piece, pages, leaf)?;
                }
            }
            at = piece.end;
        }
        Ok(())
    }

    /// The descriptors for `address` and what follows it at `level`, `count` of them, all in one table; tables on the way to
    /// them are made.
    pub(crate) fn slots(
        &mut self,
        address: u64,
        level: Level,
        count: usize,
    ) -> Result<&'static [AtomicU64], OutOfReach> {
        /// Bits by which tables are looked up: an address of the upper half has ones above them.
        const INPUT: u64 = (1 << 48) - 1;
        let address = address & INPUT;
        let (mut table, mut at) = (self.root, self.start);
        while at < level {
            table = self.below(&table.0[at.index(self.granule, address)])?;
            at = at.next().ok_or(OutOfReach)?;
        }
        let first = level.index(self.granule, address);
        table.0.get(first..first + count).filter(|_| at == level).ok_or(OutOfReach)
    }

    /// All of the table that holds the descriptor for `address` at `level`, and its number there.
    pub(crate) fn around(&mut self, address: u64, level: Level) -> Result<(usize, &'static [AtomicU64]), OutOfReach> {
        let first = level.index(self.granule, address);
        Ok((first, self.slots(address - first as u64 * level.size(self.granule), level, self.granule.entries())?))
    }

    /// Address of a page of zeros.
    pub(crate) fn page(&mut self) -> Result<u64, OutOfReach> {
        Ok(Self::allot(self.granule, &mut self.used)?.address())
    }

    /// Address of a table at `level` whose `leaf`s map `oa` and what follows it, directly or by way of more tables.
    pub(crate) fn tree(&mut self, level: Level, oa: u64, leaf: Leaf) -> Result<u64, OutOfReach> {
        let table = Self::allot(self.granule, &mut self.used)?;
        for (slot, n) in table.0.iter().zip(0..) {
            let oa = oa + n * level.size(self.granule);
            let descriptor = match level.next().filter(|_| level != leaf.level) {
                Some(next) => Descriptor::table(self.tree(next, oa, leaf)?),
                None => leaf.descriptor_in(self.regime, Format::new(self.granule), oa),
            };
            slot.store(descriptor.raw(), Ordering::Relaxed);
        }
        Ok(table.address())
    }
}
