//! The window of a case: where it stands, what it maps to before and after, and what an access tells.
//!
//! Accesses go to a few *spots*, so that a round costs the same for a page and for 1 GiB: the first word of every
//! even sixteenth of the window and the last word of every odd one, both ends of the window among them. At each
//! spot either frame holds contents of its own (or the same, where the case says so), written through the alias.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arch::{barrier, cache, probe::Probed, sequence::Live};
use vmsa::{
    geometry::Granule,
    instance::{Access, Change},
    outcome::{Kind, Phase},
    transition::Leaf,
};

use crate::{
    boot::Vm,
    tables::{self, Space},
};

/// First address of every window: in the half of TTBR1, aligned to any block.
const BASE: u64 = 0xffff_8000_0000_0000;

/// log2 of the number of spots.
pub(crate) const SPOT_BITS: u32 = 4;

/// A word of a frame, by the alias.
#[derive(Clone, Copy)]
struct Word {
    alias: &'static AtomicU64,
    /// What it holds while nobody stores to it.
    contents: u64,
    /// What an access of the case's kind brings back: the contents, or what they return as code.
    shows: u64,
}

/// Where accesses go.
#[derive(Clone, Copy)]
pub(crate) struct Spot {
    /// Address in the window, in bytes.
    pub(crate) va: u64,
    /// The page that TLBIs by VA name in its rounds.
    named: u64,
    /// What translates it in the table that a merge takes out of use, and what stands there while it is in use.
    freed: [Option<(&'static AtomicU64, u64)>; 2],
    old: Word,
    new: Word,
}

/// The window.
pub(crate) struct Window {
    /// The change.
    live: Live<'static>,
    /// Whether the change is made so that a table which it takes out of use may be [spoilt](Self::discard).
    pub(crate) discards: bool,
    spots: [Spot; 1 << SPOT_BITS],
    old: Leaf,
    new: Leaf,
}

impl Window {
    /// Builds the tables of both sides of `change`, fills the frames, and has TTBR1 translate the window as it is
    /// before the change. With `code`, the frames hold code to be called.
    pub(crate) fn new(vm: &mut Vm, granule: Granule, change: Change, code: bool) -> Self {
        let info = vm.info;
        let level = change.level();
        let old_oa = info.frames_base;
        let new_oa = if change.moves() { old_oa + info.frame_size } else { old_oa };
        let (leaves, oa) = match change {
            Change::Merge { .. } => (change.old_leaf(), old_oa),
            _ => (change.new_leaf(), new_oa),
        };
        let table = match (change, level.next()) {
            (Change::Split { .. } | Change::Merge { .. }, Some(next)) => vm.pool.tree(granule, next, oa, leaves),
            _ => 0,
        };
        let descriptors = change.descriptors(granule, old_oa, new_oa, table);

        if change.moves() && change.contents_equal() {
            // All of it, not only what is looked at: that the contents do not differ is what excuses the change from
            // break-before-make (R_WHZWS), and hv does not clear frames.
            copy(old_oa, new_oa, level.size(granule));
        }

        let space = Space::new(&mut vm.pool, granule);
        let pte = space.slot(&mut vm.pool, BASE, level);
        pte.store(descriptors.old.raw(), Relaxed);
        vm.set_upper(&space, granule);

        let sixteenth = level.size(granule) >> SPOT_BITS;
        let new_frame = u64::from(!change.contents_equal());
        let offset_of = |i: usize| i as u64 * sixteenth + if i.is_multiple_of(2) { 0 } else { sixteenth - 8 };
        let spots = core::array::from_fn(|i| {
            let offset = offset_of(i);
            // Of a block another page than the one that is looked at: as good as any, and the one that shows a TLBI
            // which does not reach all of the block. Of what a merge replaces one address is not enough.
            let named = offset_of((i + 2) % (1 << SPOT_BITS));
            let freed = match (change, level.next()) {
                (Change::Merge { .. }, Some(next)) => tables::path(granule, next, table, BASE + offset),
                _ => [None; 2],
            };
            Spot {
                freed: freed.map(|slot| slot.map(|slot| (slot, slot.load(Relaxed)))),
                va: BASE + offset,
                named: BASE + (named & !(granule.page_size() - 1)),
                old: Word::fill(old_oa + offset, signature(info.seed, 0, offset), code),
                new: Word::fill(new_oa + offset, signature(info.seed, new_frame, offset), code),
            }
        });
        Self {
            // SAFETY: the window is all that the descriptor translates, and it is only accessed by probes.
            live: unsafe { Live::new(pte, BASE, descriptors) },
            discards: false,
            spots,
            old: change.old_leaf(),
            new: change.new_leaf(),
        }
    }

    /// The spot with this number, of which the low [`SPOT_BITS`] count.
    #[inline]
    pub(crate) fn spot(&self, number: u64) -> &Spot {
        &self.spots[number as usize % (1 << SPOT_BITS)]
    }

    /// The change as made in rounds at `spot`.
    #[inline]
    pub(crate) const fn live_at(&self, spot: &Spot) -> Live<'static> {
        self.live.naming(spot.named)
    }

    /// Does what its next owner may do to a table that the change took out of use, on the way to `spot`: nothing in
    /// it is valid any more, and whoever still walks by it takes a fault. To be called once the sequence is complete.
    pub(crate) fn discard(&self, spot: &Spot) {
        // Where no table is freed there is no barrier either, which would stand behind the sequence under test.
        if self.discards && spot.freed.iter().any(Option::is_some) {
            for (slot, _) in spot.freed.iter().flatten() {
                slot.store(0, Relaxed);
            }
            barrier::dsb_ishst();
        }
    }

    /// Undoes [`discard`](Self::discard), before the table comes into use again.
    pub(crate) fn recover(&self, spot: &Spot) {
        for (slot, descriptor) in spot.freed.iter().flatten() {
            slot.store(*descriptor, Relaxed);
        }
    }

    /// What an access that took no exception tells. `token` is what a store has stored; the frame that it
    /// reached gets its contents back.
    #[inline]
    pub(crate) fn tell(&self, access: Access, phase: Phase, spot: &Spot, probed: Probed, token: u64) -> Kind {
        match access {
            Access::Load | Access::Fetch => match (probed.value == spot.old.shows, probed.value == spot.new.shows) {
                (true, true) => self.tell_by_permission(access),
                (true, false) => Kind::Old,
                (false, true) => Kind::New,
                (false, false) if is_mixture(probed.value, spot.old.shows, spot.new.shows) => Kind::Torn,
                (false, false) => Kind::Neither,
            },
            Access::Store => {
                let (old, new) = (spot.old.take(), spot.new.take());
                // One frame behind both mappings was read twice, and the first has put its contents back.
                let one_frame = core::ptr::eq(spot.old.alias, spot.new.alias);
                match (old == token, new == token) {
                    (true, _) if one_frame => self.tell_by_permission(access),
                    (true, _) if phase == Phase::After => Kind::Late,
                    (true, _) => Kind::Old,
                    // Another store's token: it was looked up before it landed.
                    (false, true) if old != spot.old.contents => Kind::Late,
                    (false, true) => Kind::New,
                    (false, false)
                        if is_mixture(old, token, spot.old.contents) || is_mixture(new, token, spot.new.contents) =>
                    {
                        Kind::Torn
                    }
                    (false, false) => Kind::Lost,
                }
            }
        }
    }

    /// The kind of an access that went through and whose data does not tell the mappings apart.
    fn tell_by_permission(&self, access: Access) -> Kind {
        match (self.old.permits(access), self.new.permits(access)) {
            (true, true) => Kind::Same,
            (true, false) => Kind::Old,
            (false, true) => Kind::New,
            (false, false) => Kind::Neither,
        }
    }
}

/// Makes the `size` bytes of frames at physical address `to` equal to those at `from`; a multiple of 64.
fn copy(from: u64, to: u64, size: u64) {
    // SAFETY: both are in frames, which are mapped at their physical addresses for as long as the VM lives, are
    // 8-byte aligned, and are only ever reached through atomics or, by the window, through asm.
    let [from, to] = [from, to]
        .map(|base| unsafe { core::slice::from_raw_parts(base as *const [AtomicU64; 8], (size / 64) as usize) });
    for (from, to) in from.iter().zip(to) {
        for (from, to) in from.iter().zip(to) {
            to.store(from.load(Relaxed), Relaxed);
        }
    }
}

impl Word {
    /// Fills the word at physical address `pa` with `signature`, or with code that returns 16 bits of it.
    fn fill(pa: u64, signature: u64, code: bool) -> Self {
        // SAFETY: `pa` is in a frame, which is mapped at its physical address for as long as the VM lives, is
        // 8-byte aligned, and is only ever reached through atomics or, by the window, through asm.
        let alias = unsafe { &*(pa as *const AtomicU64) };
        let shows = if code { signature & 0xffff } else { signature };
        let contents = if code { MOVZ_X0 | shows << 5 | RET << 32 } else { signature };
        alias.store(contents, Relaxed);
        if code {
            cache::sync_code(pa as usize, 8);
        }
        Self { alias, contents, shows }
    }

    /// What the word holds; if a store has reached it, it gets its contents back.
    #[inline]
    fn take(&self) -> u64 {
        let value = self.alias.load(Relaxed);
        if value != self.contents {
            self.alias.store(self.contents, Relaxed);
        }
        value
    }
}

/// MOVZ X0, #0.
const MOVZ_X0: u64 = 0xd280_0000;
/// RET.
const RET: u64 = 0xd65f_03c0;

/// Top bits of both halves of a signature, and of no token: a half tells which it is from.
const SIGNED: u64 = 1 << 63 | 1 << 31;

/// What frame `frame` holds at `offset`: differs in both halves from every other frame's, and from every token.
fn signature(seed: u64, frame: u64, offset: u64) -> u64 {
    // The finaliser of SplitMix64. The frame is put in by itself, so that frames differ for sure.
    let mut x = seed ^ offset.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ x >> 31) & !(1 | 1 << 32) | frame | frame << 32 | SIGNED
}

/// The `n`th value that a vCPU stores: `n` in both halves, with the top bit of neither.
#[inline]
pub(crate) fn token(n: u64) -> u64 {
    let n = n & 0x7fff_ffff;
    n << 32 | n
}

/// Whether `value` has one half of `a` and the other of `b`, and is neither.
fn is_mixture(value: u64, a: u64, b: u64) -> bool {
    const LOW: u64 = 0xffff_ffff;
    a != b && (value == (a & LOW | b & !LOW) || value == (b & LOW | a & !LOW))
}
