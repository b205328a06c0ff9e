//! RAM, the instructions decoded from it, and what a table walker may not see yet.
//!
//! Decoded instructions are kept by physical page and decoded again, word by word, when they are stored to: the
//! model has no instruction caches, so IC is only a hint to it. That is stronger than the architecture; missing
//! cache maintenance of code is not what this machine is there to find.
//!
//! A store is visible to every PE's loads at once, but a table walker may see the value before it until the storing PE
//! has executed a DSB (R_LRKTH): those stores are kept in [`Unwalked`]. That another PE's DSB also does, where it has
//! read the value first, is not modelled: nothing but walkers reads descriptors that somebody else writes.

use std::{cell::Cell, collections::VecDeque};

use crate::a64::{Op, Size, decode};

/// Physical address of the first byte of RAM. Not where QEMU's `virt` has it, on purpose.
pub const RAM_BASE: u64 = 0x8000_0000;
/// Bytes of the pages by which instructions are decoded.
pub(crate) const PAGE: u64 = 4096;
const PAGE_SHIFT: u32 = PAGE.trailing_zeros();
/// Instructions in a page.
const OPS: usize = PAGE as usize / 4;

/// RAM with its decoded instructions.
pub(crate) struct Memory {
    ram: Vec<u8>,
    /// For each page: 0, or one more than the number of its decoded instructions' block in `ops`.
    decoded: Vec<u32>,
    ops: Vec<Op>,
    /// For each page whether a table walker has read it since it was last zeroed.
    tables: Vec<Cell<bool>>,
}

impl Memory {
    /// `bytes` of zeros, rounded up to whole pages; host memory is used only for what is touched.
    #[must_use]
    pub(crate) fn new(bytes: u64) -> Self {
        let bytes = bytes.next_multiple_of(PAGE) as usize;
        let pages = bytes >> PAGE_SHIFT;
        Self { ram: vec![0; bytes], decoded: vec![0; pages], ops: Vec::new(), tables: vec![Cell::new(false); pages] }
    }

    /// Bytes of RAM.
    #[must_use]
    pub(crate) fn size(&self) -> u64 {
        self.ram.len() as u64
    }

    /// Reads an element that does not leave RAM; `None` where there is none.
    #[inline(always)]
    #[must_use]
    pub(crate) fn read(&self, pa: u64, size: Size) -> Option<u64> {
        let bytes = self.ram.get(pa.wrapping_sub(RAM_BASE) as usize..)?;
        Some(match size {
            Size::B1 => u64::from(*bytes.first()?),
            Size::B2 => u64::from(u16::from_le_bytes(*bytes.first_chunk()?)),
            Size::B4 => u64::from(u32::from_le_bytes(*bytes.first_chunk()?)),
            Size::B8 => u64::from_le_bytes(*bytes.first_chunk()?),
        })
    }

    /// Reads a descriptor, as a table walker.
    #[must_use]
    pub(crate) fn walk(&self, pa: u64) -> Option<u64> {
        let value = self.read(pa, Size::B8)?;
        self.tables[(pa.wrapping_sub(RAM_BASE) >> PAGE_SHIFT) as usize].set(true);
        Some(value)
    }

    /// The page at `pa` is made for something new: what walkers read there before is no table any more.
    pub(crate) fn forget_tables(&self, pa: u64) {
        if let Some(page) = self.tables.get((pa.wrapping_sub(RAM_BASE) >> PAGE_SHIFT) as usize) {
            page.set(false);
        }
    }

    /// Whether a table walker has read anything of the page at `pa` since it was last zeroed.
    #[inline]
    #[must_use]
    pub(crate) fn has_tables(&self, pa: u64) -> bool {
        self.tables.get((pa.wrapping_sub(RAM_BASE) >> PAGE_SHIFT) as usize).is_some_and(Cell::get)
    }

    /// Writes an element that does not leave its page; `None`, without effect, where there is no RAM.
    #[inline(always)]
    pub(crate) fn write(&mut self, pa: u64, size: Size, value: u64) -> Option<()> {
        let offset = pa.wrapping_sub(RAM_BASE) as usize;
        let bytes = self.ram.get_mut(offset..)?;
        match size {
            Size::B1 => *bytes.first_mut()? = value as u8,
            Size::B2 => *bytes.first_chunk_mut()? = (value as u16).to_le_bytes(),
            Size::B4 => *bytes.first_chunk_mut()? = (value as u32).to_le_bytes(),
            Size::B8 => *bytes.first_chunk_mut()? = value.to_le_bytes(),
        }
        if self.decoded[offset >> PAGE_SHIFT] != 0 {
            self.decode_again(offset, size);
        }
        Some(())
    }

    /// Whether there is RAM at `pa`.
    #[inline]
    #[must_use]
    pub(crate) fn holds(&self, pa: u64) -> bool {
        pa.wrapping_sub(RAM_BASE) < self.size()
    }

    /// The bytes `[pa, pa + len)`; `None` if not all of them are RAM.
    #[must_use]
    pub(crate) fn bytes(&self, pa: u64, len: u64) -> Option<&[u8]> {
        self.ram.get(pa.wrapping_sub(RAM_BASE) as usize..)?.get(..len as usize)
    }

    /// Copies `bytes` to `pa`; `None`, without effect, if they do not fit.
    pub(crate) fn load(&mut self, pa: u64, bytes: &[u8]) -> Option<()> {
        let start = pa.wrapping_sub(RAM_BASE) as usize;
        self.ram.get_mut(start..start.checked_add(bytes.len())?)?.copy_from_slice(bytes);
        for page in start >> PAGE_SHIFT..(start + bytes.len()).div_ceil(PAGE as usize) {
            if self.decoded[page] != 0 {
                self.decode_page(page);
            }
        }
        Some(())
    }

    /// The number to give [`op`](Self::op) for the instructions of the page at `pa`, which are decoded if need be;
    /// `None` where there is no RAM.
    pub(crate) fn code(&mut self, pa: u64) -> Option<usize> {
        let page = (pa.wrapping_sub(RAM_BASE) >> PAGE_SHIFT) as usize;
        if *self.decoded.get(page)? == 0 {
            self.ops.resize(self.ops.len() + OPS, decode(0));
            self.decoded[page] = (self.ops.len() / OPS) as u32;
            self.decode_page(page);
        }
        Some((self.decoded[page] as usize - 1) * OPS)
    }

    /// The instruction at address `pc` in the page that [`code`](Self::code) gave `page` for.
    #[inline(always)]
    #[must_use]
    pub(crate) fn op(&self, page: usize, pc: u64) -> Op {
        self.ops[page + (pc as usize >> 2) % OPS]
    }

    fn decode_page(&mut self, page: usize) {
        let block = (self.decoded[page] as usize - 1) * OPS;
        let words = self.ram[page << PAGE_SHIFT..][..PAGE as usize].as_chunks().0;
        for (op, word) in self.ops[block..][..OPS].iter_mut().zip(words) {
            *op = decode(u32::from_le_bytes(*word));
        }
    }

    #[cold]
    fn decode_again(&mut self, offset: usize, size: Size) {
        let page = offset >> PAGE_SHIFT;
        let block = (self.decoded[page] as usize - 1) * OPS;
        let first = offset & !3;
        let last = (offset + size.bytes() as usize - 1) & !3;
        for at in (first..=last).step_by(4) {
            if let Some(word) = self.ram[at..].first_chunk() {
                self.ops[block + (at >> 2) % OPS] = decode(u32::from_le_bytes(*word));
            }
        }
    }
}

/// Stores to doublewords, of all PEs, that a table walker need not see yet, oldest first. Only those to pages that a
/// walker has been in: a table that is filled before anybody knows of it is complete here at once.
///
/// Bounded: the oldest becomes visible when there are too many, which is one of the times it may.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unwalked(VecDeque<Store>);

#[derive(Clone, Copy, Debug)]
struct Store {
    pe: usize,
    pa: u64,
    before: u64,
    /// The PE's own walker need not see it: no DSB came.
    own: bool,
    /// Other PEs' walkers need not see it: no DSB came that reaches them.
    others: bool,
    /// No context synchronisation came behind the PE's DSB.
    unsynchronised: bool,
}

impl Store {
    const fn hidden_from(&self, walker: usize) -> bool {
        if self.pe == walker { self.own } else { self.others }
    }
}

impl Unwalked {
    /// How many there are at most.
    const MOST: usize = 32;

    /// Notes a store by PE `pe` to the doubleword at `pa`, which held `before`.
    #[inline]
    pub(crate) fn note(&mut self, pe: usize, pa: u64, before: u64) {
        if self.0.len() == Self::MOST {
            self.0.pop_front();
        }
        self.0.push_back(Store { pe, pa, before, own: true, others: true, unsynchronised: true });
    }

    /// A DSB by PE `pe`, for itself or for everyone: its stores are visible, and with them those to the same
    /// doublewords that they came after.
    #[inline]
    pub(crate) fn complete(&mut self, pe: usize, everyone: bool) {
        for index in 0..self.0.len() {
            let store = self.0[index];
            let overtaken = everyone && self.0.range(index..).any(|later| later.pe == pe && later.pa == store.pa);
            let store = &mut self.0[index];
            store.own &= !(overtaken || store.pe == pe);
            store.others &= !overtaken;
        }
    }

    /// A context synchronisation of PE `pe`: what its walker may see, its next instruction does.
    #[inline]
    pub(crate) fn synchronise(&mut self, pe: usize) {
        self.0.retain_mut(|store| {
            store.unsynchronised &= store.pe != pe || store.own;
            store.own || store.others || store.unsynchronised
        });
    }

    /// What the doubleword at `pa` held before the `nth` of its stores that PE `walker`'s walks may not see.
    pub(crate) fn before(&self, walker: usize, pa: u64, nth: usize) -> Option<u64> {
        // It sees its own store, and so no older one of anybody's.
        let seen = self.0.iter().rposition(|store| store.pa == pa && store.pe == walker && !store.own);
        let later = self.0.iter().skip(seen.map_or(0, |seen| seen + 1));
        let hidden = later.filter(|store| store.pa == pa && store.hidden_from(walker));
        hidden.map(|store| store.before).nth(nth)
    }

    /// What it held before the last of PE `walker`'s stores, if that is visible and not synchronised with.
    pub(crate) fn before_synchronisation(&self, walker: usize, pa: u64) -> Option<u64> {
        let last = self.0.iter().rfind(|store| store.pa == pa && store.pe == walker)?;
        (!last.own && last.unsynchronised).then_some(last.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_elements_of_every_size() {
        let mut memory = Memory::new(PAGE);
        memory.write(RAM_BASE + 8, Size::B8, 0x1122_3344_5566_7788).expect("RAM");
        memory.write(RAM_BASE + 9, Size::B1, 0xaa).expect("RAM");
        memory.write(RAM_BASE + 10, Size::B2, 0xbbcc).expect("RAM");
        memory.write(RAM_BASE + 12, Size::B4, 0xdead_beef).expect("RAM");
        assert_eq!(memory.read(RAM_BASE + 8, Size::B8), Some(0xdead_beef_bbcc_aa88));
    }

    #[test]
    fn ends_where_it_ends() {
        let mut memory = Memory::new(PAGE);
        assert_eq!(memory.read(RAM_BASE - 1, Size::B1), None);
        assert_eq!(memory.read(RAM_BASE + PAGE - 4, Size::B8), None);
        assert_eq!(memory.write(RAM_BASE + PAGE, Size::B1, 0), None);
        assert_eq!(memory.load(RAM_BASE + 1, &[0; PAGE as usize]), None);
        assert_eq!(memory.code(RAM_BASE + PAGE), None);
    }

    #[test]
    fn a_store_to_code_is_executed() {
        const NOP: u32 = 0xd503_201f;
        const RET: u32 = 0xd65f_03c0;
        let mut memory = Memory::new(2 * PAGE);
        memory.load(RAM_BASE + PAGE, &NOP.to_le_bytes()).expect("RAM");
        let page = memory.code(RAM_BASE + PAGE + 4).expect("RAM");
        assert_eq!(memory.op(page, PAGE), decode(NOP));
        memory.write(RAM_BASE + PAGE, Size::B4, u64::from(RET)).expect("RAM");
        assert_eq!(memory.op(page, PAGE), decode(RET));
        memory.write(RAM_BASE + PAGE + 1, Size::B1, 0).expect("RAM");
        assert_eq!(memory.op(page, PAGE), decode(RET & !0xff00));
    }

    #[test]
    fn a_walker_may_see_what_was_before_until_the_barrier() {
        let mut stores = Unwalked::default();
        stores.note(0, 8, 1);
        stores.note(0, 8, 2);
        stores.note(1, 16, 3);
        assert_eq!([0, 1, 2].map(|nth| stores.before(2, 8, nth)), [Some(1), Some(2), None]);
        stores.complete(1, true);
        assert_eq!((stores.before(2, 8, 0), stores.before(2, 16, 0)), (Some(1), None));
        // The other PE's store came later: once it is visible, so are those before it.
        stores.note(1, 8, 4);
        stores.note(0, 8, 5);
        stores.complete(1, true);
        assert_eq!([0, 1].map(|nth| stores.before(2, 8, nth)), [Some(5), None]);
    }

    #[test]
    fn a_barrier_for_itself_shows_a_store_to_its_own_walker_only() {
        let mut stores = Unwalked::default();
        stores.note(0, 8, 1);
        stores.complete(0, false);
        assert_eq!([0, 1].map(|walker| stores.before(walker, 8, 0)), [None, Some(1)]);
        stores.note(0, 8, 2);
        assert_eq!([0, 1].map(|walker| stores.before(walker, 8, 0)), [Some(2), Some(1)]);
        stores.complete(0, true);
        assert_eq!([0, 1].map(|walker| stores.before(walker, 8, 0)), [None, None]);
    }

    #[test]
    fn what_a_walker_sees_of_its_own_hides_what_came_before() {
        let mut stores = Unwalked::default();
        stores.note(1, 8, 1);
        stores.note(0, 8, 2);
        stores.complete(0, false);
        assert_eq!([0, 1].map(|walker| stores.before(walker, 8, 0)), [None, Some(1)]);
    }

    #[test]
    fn the_next_instruction_knows_of_a_store_after_a_context_synchronisation() {
        let mut stores = Unwalked::default();
        stores.note(0, 8, 1);
        assert_eq!(stores.before_synchronisation(0, 8), None, "not even visible");
        stores.synchronise(0);
        stores.complete(0, true);
        assert_eq!([0, 1].map(|walker| stores.before_synchronisation(walker, 8)), [Some(1), None]);
        assert_eq!([0, 1].map(|walker| stores.before(walker, 8, 0)), [None, None]);
        stores.synchronise(1);
        assert_eq!(stores.before_synchronisation(0, 8), Some(1));
        stores.synchronise(0);
        assert_eq!(stores.before_synchronisation(0, 8), None);
    }

    #[test]
    fn the_oldest_stores_give_way() {
        let mut stores = Unwalked::default();
        stores.note(0, 8, 1);
        for pa in 0..32 {
            stores.note(0, 1000 + 8 * pa, 0);
        }
        assert_eq!((stores.before(2, 8, 0), stores.before(2, 1000, 0)), (None, Some(0)));
    }
}
