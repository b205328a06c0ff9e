//! Stage 1 tables for any granule: where their memory comes from, and how they are filled.
//!
//! Nothing here changes a valid descriptor: mapping only makes invalid ones valid, which needs no TLB maintenance
//! (I_WZCBG), just the ordering by [`publish`].

use core::sync::atomic::{AtomicU64, Ordering};

use arch::{barrier, sequence::NextTable};
use vmsa::{
    change::Leaf,
    descriptor::{Attributes, Descriptor, DescriptorKind},
    geometry::{Granule, Level},
    layout::Format,
    shatter::Arena,
};

/// Bits of a virtual address in either half (T0SZ = T1SZ = 16).
pub(crate) const VA_BITS: u32 = 48;

/// Memory for tables: the private memory behind the image, which hv has zeroed. What has been written to is never given back.
#[derive(Debug)]
pub(crate) struct Pool {
    next: u64,
    end: u64,
}

impl Pool {
    /// The memory from `start` to `end`, in bytes.
    ///
    /// # Safety
    /// It is zero, and nothing else uses it, now or later.
    pub(crate) const unsafe fn new(start: u64, end: u64) -> Self {
        Self { next: start, end }
    }

    /// Where the memory begins that is not given out, and where it ends, in bytes.
    pub(crate) const fn rest(&self) -> (u64, u64) {
        (self.next, self.end)
    }

    /// Address of a new table, all invalid.
    fn table(&mut self, granule: Granule) -> u64 {
        self.try_table(granule).expect("no private memory left for tables")
    }

    fn try_table(&mut self, granule: Granule) -> Option<u64> {
        let table = self.next.next_multiple_of(granule.page_size());
        let end = table + granule.page_size();
        (end <= self.end).then(|| {
            self.next = end;
            table
        })
    }

    /// Address of a page of zeros.
    pub(crate) fn page(&mut self, granule: Granule) -> u64 {
        // It is as large as a table.
        self.table(granule)
    }

    /// A table at `level` whose leaves map `oa` and what follows it, directly or by way of more tables.
    pub(crate) fn tree(&mut self, format: Format, level: Level, oa: u64, leaf: Leaf) -> u64 {
        let granule = format.granule;
        let table = self.table(granule);
        match level.next().filter(|_| level != leaf.level) {
            Some(next) => {
                for index in 0..granule.entries() {
                    let below = self.tree(format, next, oa + index as u64 * level.size(granule), leaf);
                    entry(table, index).store(format.at(level).table(below).raw(), Ordering::Relaxed);
                }
            }
            None => {
                // A quarter of a million of these can be most of what an instance costs: one descriptor is put
                // together, and the others are it and a sum, since below 48 bits the OA is one field in its own place.
                let (mut descriptor, size) = (leaf.descriptor(format, oa).raw(), level.size(granule));
                for eight in entries(table, granule).as_chunks::<8>().0 {
                    for (slot, n) in eight.iter().zip(0..) {
                        slot.store(descriptor + n * size, Ordering::Relaxed);
                    }
                    descriptor += 8 * size;
                }
            }
        }
        table
    }
}

/// Tables of one granule from a pool, for a block that is to be shattered.
pub(crate) struct PoolArena<'a> {
    pub(crate) pool: &'a mut Pool,
    pub(crate) granule: Granule,
}

impl Arena for PoolArena<'_> {
    type Table = NextTable<'static>;

    fn take(&mut self) -> Option<NextTable<'static>> {
        let address = self.pool.try_table(self.granule)?;
        Some(NextTable { address, entries: entries(address, self.granule) })
    }

    fn give_back(&mut self, table: NextTable<'static>) {
        // The last one comes first: what is behind it is not given out.
        self.pool.next = table.address;
    }
}

/// The descriptor at `index` of a table that came from a [`Pool`]. Private: addresses of tables stay in here.
fn entry(table: u64, index: usize) -> &'static AtomicU64 {
    // SAFETY: tables are aligned memory from the pool, mapped at their physical address for as long as the VM
    // lives, never given back, and only ever reached through atomics; callers take the index from
    // `Level::index` or from a range up to `Granule::entries`, so it is inside.
    unsafe { &*(table as *const AtomicU64).add(index) }
}

/// All descriptors of a table that came from a [`Pool`].
fn entries(table: u64, granule: Granule) -> &'static [AtomicU64] {
    // SAFETY: as in `entry`.
    unsafe { core::slice::from_raw_parts(table as *const AtomicU64, granule.entries()) }
}

/// The descriptors for `va` in a [tree](Pool::tree) whose first `table` is at `level`: of two levels at most.
pub(crate) fn path(format: Format, level: Level, table: u64, va: u64) -> [Option<&'static AtomicU64>; 2] {
    let (granule, layout) = (format.granule, format.at(level));
    let first = entry(table, level.index(granule, va));
    let descriptor = Descriptor::from_raw(first.load(Ordering::Relaxed));
    let second = match (layout.kind(descriptor), level.next()) {
        (DescriptorKind::Table, Some(next)) => Some(entry(layout.oa(descriptor), next.index(granule, va))),
        _ => None,
    };
    [Some(first), second]
}

/// What one TTBR translates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    format: Format,
    root: u64,
}

impl Space {
    /// An empty one.
    pub(crate) fn new(pool: &mut Pool, format: Format) -> Self {
        Self { format, root: pool.table(format.granule) }
    }

    /// The format of its tables.
    pub(crate) const fn format(&self) -> Format {
        self.format
    }

    /// Address of the first table, for TTBRn_EL1.
    pub(crate) const fn root(&self) -> u64 {
        self.root
    }

    /// The level at which a walk of [`VA_BITS`] starts.
    fn start(&self) -> Level {
        if Level::L0.shift(self.format.granule) < VA_BITS { Level::L0 } else { Level::L1 }
    }

    /// The descriptors that translate `va` and what follows it at `level`, `count` of them, all in one table; tables on
    /// the way to it are made.
    pub(crate) fn slots(&self, pool: &mut Pool, va: u64, level: Level, count: usize) -> &'static [AtomicU64] {
        let granule = self.format.granule;
        let mut table = self.root;
        let mut at = self.start();
        loop {
            let index = at.index(granule, va & ((1 << VA_BITS) - 1));
            let slots = &entries(table, granule)[index..];
            let Some(next) = at.next().filter(|_| at < level) else { return &slots[..count] };
            let (layout, descriptor) = (self.format.at(at), Descriptor::from_raw(slots[0].load(Ordering::Relaxed)));
            table = match layout.kind(descriptor) {
                DescriptorKind::Table => layout.oa(descriptor),
                DescriptorKind::Invalid => {
                    let table = pool.table(granule);
                    slots[0].store(layout.table(table).raw(), Ordering::Relaxed);
                    table
                }
                DescriptorKind::Block | DescriptorKind::Page => panic!("{va:#x} is mapped already"),
            };
            at = next;
        }
    }

    /// Maps `[va, va + size)` to `oa` and what follows, by the largest leaves that fit. All in bytes, multiples of
    /// the page size.
    pub(crate) fn map(&self, pool: &mut Pool, va: u64, oa: u64, size: u64, attributes: Attributes) {
        self.map_from(Level::L0, pool, [va, oa], size, attributes);
    }

    /// As [`map`](Self::map), by leaves at `highest` or below it, from the first address to the second.
    pub(crate) fn map_from(
        &self,
        highest: Level,
        pool: &mut Pool,
        [va, oa]: [u64; 2],
        size: u64,
        attributes: Attributes,
    ) {
        let mut done = 0;
        while done < size {
            let level = self.largest_leaf((va + done) | (oa + done), size - done).max(highest);
            // No leaf behind it in its table can be larger: that one would have been the first of a table.
            let granule = self.format.granule;
            let leaf = level.size(granule);
            let left = granule.entries() - level.index(granule, va + done);
            let count = left.min(((size - done) / leaf) as usize);
            let first = Leaf { level, attributes }.descriptor(self.format, oa + done).raw();
            for (slot, n) in self.slots(pool, va + done, level, count).iter().zip(0..) {
                slot.store(first + n * leaf, Ordering::Relaxed);
            }
            done += count as u64 * leaf;
        }
    }

    /// The level of the largest leaf with the alignment of `address` and at most `size` bytes.
    fn largest_leaf(&self, address: u64, size: u64) -> Level {
        [Level::L0, Level::L1, Level::L2]
            .into_iter()
            .find(|level| {
                let leaf = level.size(self.format.granule);
                self.format.at(*level).allows_leaf() && address & (leaf - 1) == 0 && size >= leaf
            })
            .unwrap_or(Level::L3)
    }
}

/// Makes descriptors that were written before visible to this PE's walker, for its next accesses.
pub(crate) fn publish() {
    barrier::dsb_ishst();
    barrier::isb();
}
