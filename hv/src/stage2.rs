//! Stage 2 of the one VM: its private memory and its frames onto themselves, and nothing else.
//!
//! Rebuilt from zero for every instance. Stage 2 descriptors share their layout with stage 1 but not their
//! attributes, so the few that hv needs are named here.

use core::sync::atomic::{AtomicU64, Ordering};

use vmsa::{Granule, Level};

use crate::platform::Range;

const GRANULE: Granule = Granule::K4;
/// A start level table, two level 1 and level 2 tables each for private memory and frames, and the page tables of
/// 4 MiB of both.
const TABLES: usize = 12;

#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

static POOL: [Table; TABLES] = [const { Table([const { AtomicU64::new(0) }; 512]) }; TABLES];

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

/// VTCR_EL2: inner and outer write-back, Inner Shareable walks, 4K granule; bit 31 is RES1.
const VTCR_BASE: u64 = 1 << 8 | 1 << 10 | 3 << 12 | 1 << 31;

/// Tables of the running VM.
pub(crate) struct Stage2 {
    used: usize,
    start: Level,
    ipa_bits: u32,
    pa_range: u64,
}

/// The tables ran out, or an address lies beyond what stage 2 can map here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutOfReach;

impl Stage2 {
    /// Empty tables that reach `end`, for CPUs the least of which has this PARange. The tables may still be cached in a TLB from the instance before: the caller
    /// has no VM running and invalidates before it starts one.
    pub(crate) fn new(end: u64, pa_range: u64) -> Result<Self, OutOfReach> {
        let bits = arch::id::bits(pa_range);
        // A start at level 1 with one table reaches 512 GiB; a start at level 0 is there from 44 bits on.
        let (start, ipa_bits) = match (end <= 1 << bits.min(39), bits) {
            (true, _) => (Level::L1, bits.min(39)),
            (false, 44..) if end <= 1 << bits => (Level::L0, bits),
            _ => return Err(OutOfReach),
        };
        let mut stage2 = Self { used: 0, start, ipa_bits, pa_range };
        stage2.table()?;
        Ok(stage2)
    }

    /// The number of a new table, all invalid.
    fn table(&mut self) -> Result<usize, OutOfReach> {
        let table = POOL.get(self.used).ok_or(OutOfReach)?;
        // SAFETY: a table is Normal memory, all of it atomics, which any bytes are; no VM runs, so that nobody walks it.
        unsafe { arch::cache::zero(core::ptr::from_ref(table) as usize, size_of::<Table>()) };
        self.used += 1;
        Ok(self.used - 1)
    }

    fn address(table: usize) -> u64 {
        &raw const POOL[table] as u64
    }

    /// Maps `range` onto itself by the largest blocks that fit, or by pages only; for writing, or not.
    pub(crate) fn map(&mut self, range: Range, pages: bool, writable: bool) -> Result<(), OutOfReach> {
        let leaf = LEAF | if writable { S2AP_W } else { 0 };
        self.map_level(0, self.start, range, pages, leaf)
    }

    fn map_level(
        &mut self,
        table: usize,
        level: Level,
        range: Range,
        pages: bool,
        leaf: u64,
    ) -> Result<(), OutOfReach> {
        let size = level.size(GRANULE);
        let mut at = range.start;
        while at < range.end {
            let piece = Range { start: at, end: range.end.min((at & !(size - 1)) + size) };
            let slot = &POOL[table].0[level.index(GRANULE, at)];
            match level.next() {
                None => slot.store(at | leaf | PAGE, Ordering::Relaxed),
                Some(_) if !pages && piece.size() == size && level.allows_block(GRANULE, false) => {
                    slot.store(at | leaf, Ordering::Relaxed);
                }
                Some(next) => {
                    let old = slot.load(Ordering::Relaxed);
                    let below = if old & VALID != 0 {
                        ((old & 0xffff_ffff_f000) - Self::address(0)) as usize / size_of::<Table>()
                    } else {
                        let new = self.table()?;
                        slot.store(Self::address(new) | VALID | PAGE, Ordering::Relaxed);
                        new
                    };
                    self.map_level(below, next, piece, pages, leaf)?;
                }
            }
            at = piece.end;
        }
        Ok(())
    }

    /// VTCR_EL2 for these tables.
    pub(crate) fn vtcr(&self) -> u64 {
        let sl0 = if self.start == Level::L0 { 2 } else { 1 };
        VTCR_BASE | u64::from(64 - self.ipa_bits) | sl0 << 6 | self.pa_range << 16
    }

    /// VTTBR_EL2 for these tables and `vmid`.
    pub(crate) fn vttbr(&self, vmid: u8) -> u64 {
        u64::from(vmid) << 48 | Self::address(0)
    }
}
