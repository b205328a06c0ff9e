//! The window of a case: where it stands, which its seed decides, what it maps to before and after, and what an access tells.
//!
//! Accesses go to a few *spots*, so that a round costs the same for a page and for 1 GiB (of a larger block, there is memory
//! behind a part of it, and what is said here of the window goes for that part): the first word of every
//! even sixteenth of the window and the last word of every odd one, both ends of the window among them; accesses
//! across a seam go to the last four bytes of one sixteenth and the first four of the next, or, where something stays
//! behind what changes, all to that seam. At each spot either frame
//! holds contents of its own (or the same, where the case says so), written through the alias.
//!
//! Where an observer stores without a look at where to, it does so to several words of a spot, its *lanes*, each on a cache
//! line of its own. And where it is watched that no store escapes, a frame lies on either side of those the window maps to,
//! and there are *canaries*: a translation leaves the offset in a page alone, whatever entries are mixed in it, so one word
//! of each page for each such offset of a spot is all that a store can reach.
//!
//! The alias is Normal Write-Back memory. Where the window is, or becomes, memory of another type, what is written by one
//! mapping is cleaned to the Point of Coherency, and dropped from the caches, before it is looked at by the other.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arch::{
    barrier, cache,
    probe::Probed,
    sequence::{Live, NextTable},
    write_sysreg,
};
use vmsa::{
    change::{Behind, Descriptors, Leaf},
    descriptor::{Attributes, Descriptor},
    geometry::{Granule, Level},
    instance::{Access, Case, Method, Observer, Regime, Stage1, Tells, Watch},
    layout::{Format, Layout},
    mark::Marks,
    outcome::{Kind, Phase},
    permission::Operation,
    rule::HardwareUpdates,
    sequence::{Step, Write},
    shatter::{Request, Tables},
    stress::{self, PRESSING_PAGES},
    tlbi::{Form, Target},
};

use wire::abi::call;

use crate::{
    boot::Vm,
    hypercall,
    tables::{self, Pool, PoolArena, Space},
};

/// log2 of the number of spots.
pub(crate) const SPOT_BITS: u32 = 4;
const SPOTS: usize = 1 << SPOT_BITS;

/// Lanes of a spot.
pub(crate) const LANES: usize = 4;
/// From one lane to the next, in bytes: a cache line of most CPUs, and all lanes are in a sixteenth of the smallest page.
const LANE: u64 = 64;
/// Bytes of the smallest page.
const PAGE: u64 = 4096;

/// A word of a frame, by the alias.
#[derive(Clone, Copy)]
struct Word {
    alias: &'static AtomicU64,
    /// What it holds while nobody stores to it.
    contents: u64,
    /// What an access of the case's kind brings back: the contents, what they return as code, the address.
    shows: u64,
}

/// Where accesses go.
#[derive(Clone, Copy)]
pub(crate) struct Spot {
    /// Address in the window, in bytes.
    pub(crate) va: u64,
    /// The page that TLBIs by VA name in its rounds.
    named: u64,
    /// What translates it in the table that the change takes out of use, and what stands there while it is in use.
    freed: [Option<(&'static AtomicU64, u64)>; 2],
    old: Word,
    new: Word,
    /// Number among the spots.
    number: usize,
}

/// The mapping before a change, and after it.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    Old,
    New,
}

/// A leaf that translates a spot, and what software has put there: hardware may set marks in it at any time.
#[derive(Clone, Copy)]
struct Marked {
    slot: &'static AtomicU64,
    pristine: u64,
}

/// What hardware is to write into the leaves of either side.
pub(crate) struct Marking {
    /// Which marks.
    missing: [Marks; 2],
    /// Which of them the observers' accesses leave.
    of_access: Marks,
    /// The leaves of each spot, old and new; `None` if they are hv's.
    leaves: Option<[[Marked; SPOTS]; 2]>,
    /// Of a side with tables, the leaves below them.
    below: [Option<[&'static AtomicU64; SPOTS]>; 2],
}

/// The window, or rather several of them side by side, each at another [site](Site): all are the same but for their
/// addresses and for the descriptors that change, and a round has one of them.
pub(crate) struct Window {
    /// Address of the first site, and bytes of one.
    base: u64,
    size: u64,
    /// How many there are.
    sites: usize,
    /// What changes; `None` if that is stage 2 or EL2's own translation, and hv has it.
    own: Option<Own>,
    /// Whether only EL2 can access it.
    pub(crate) at_el2: bool,
    /// Whether hv executes all steps at once.
    pub(crate) at_once: bool,
    /// The form of TLBI under test, and at what it is aimed.
    form: Option<(Form, Target)>,
    /// Whether the change is made so that a table which it takes out of use may be [spoilt](Self::discard).
    pub(crate) discards: bool,
    /// Whether the alias has to be kept coherent by cache maintenance.
    uncached: bool,
    spots: [Spot; SPOTS],
    old: Leaf,
    new: Leaf,
    hardware: HardwareUpdates,
    /// Where hardware writes into descriptors.
    marking: Option<Marking>,
    /// TTBR1_EL1 with either ASID.
    ttbr1: [u64; 2],
    /// The first of [`PRESSING_PAGES`] pages, of [`page_size`](vmsa::Granule::page_size) bytes each, and that size; `None` where
    /// stage 1 is off.
    pressing: Option<(u64, u64)>,
    /// What is watched besides the observers' accesses.
    pub(crate) watch: Watch,
    /// Memory that has canaries, as ranges of physical addresses: the frames, and private memory that nobody uses.
    watched: [(u64, u64); 2],
}

/// Live descriptors.
struct Own {
    /// Those of all sites.
    ptes: &'static [AtomicU64],
    /// How many of them a site has, and how many of those change, the first ones.
    entries: usize,
    changed: usize,
    /// What one maps, in bytes.
    size: u64,
    /// The change.
    descriptors: Descriptors,
    /// The layout of a descriptor, and the tables that its steps fill and put in place, if they do.
    shattered: Option<(Layout, Tables<NextTable<'static>>)>,
}

/// Who executes the steps of a change.
pub(crate) enum Maker<'a> {
    /// This vCPU.
    Own(Live<'a>),
    /// hv, for this vCPU.
    Hv(Asked),
}

/// Steps that hv is to execute.
pub(crate) struct Asked {
    site: u64,
    /// Bytes into the site of the page that TLBIs by address name.
    named: u64,
    /// The last argument of the call.
    how: u64,
    letters: [u8; 16],
    count: usize,
}

impl Maker<'_> {
    /// Executes a step, now or with those that follow, but not later than [`flush`](Self::flush).
    #[inline]
    pub(crate) fn step(&mut self, step: Step) {
        match self {
            Self::Own(live) => live.step(step),
            Self::Hv(asked) => {
                // A letter is ASCII.
                asked.letters[asked.count] = step.letter() as u8;
                asked.count += 1;
            }
        }
    }

    /// Has all steps executed that were asked for.
    #[inline]
    pub(crate) fn flush(&mut self) {
        if let Self::Hv(asked) = self
            && asked.count != 0
        {
            hypercall::lab_steps(asked.site, asked.letters, asked.named, asked.how);
            (asked.letters, asked.count) = ([0; 16], 0);
        }
    }

    /// What is left to do when the steps are done.
    #[inline]
    pub(crate) fn finish(&self) {
        if let Self::Own(live) = self {
            live.finish();
        }
    }

    /// The same descriptors on their way back.
    pub(crate) fn reversed(self) -> Self {
        match self {
            Self::Own(live) => Self::Own(live.reversed()),
            Self::Hv(asked) => Self::Hv(Asked { how: asked.how | call::LAB_BACK, ..asked }),
        }
    }
}

/// Which of the windows.
#[derive(Clone, Copy)]
pub(crate) struct Site {
    number: usize,
    /// Bytes from the first one.
    offset: u64,
}

impl Site {
    /// The first one.
    pub(crate) const FIRST: Self = Self { number: 0, offset: 0 };

    /// The address here that is `va` in the first one.
    #[inline]
    pub(crate) const fn of(self, va: u64) -> u64 {
        va + self.offset
    }
}

/// An access that was made.
pub(crate) struct Made {
    pub(crate) probed: Probed,
    /// What it has stored, if it stores.
    pub(crate) token: u64,
    /// Whether it was an exclusive one that did not store.
    pub(crate) failed: bool,
}

/// A lane of a spot.
pub(crate) struct Lane {
    /// Address in the window, in bytes.
    pub(crate) va: u64,
    /// The word of the old frame, by the alias.
    pub(crate) old: &'static AtomicU64,
    /// The word of the new frame, by the alias.
    new: &'static AtomicU64,
}

impl Window {
    /// Builds the tables of both sides of the change of `case`, fills the frames for its observers, and has TTBR1 translate
    /// the window as it is before the change. Where it is stage 2 that changes, its tables are hv's, and TTBR1 translates
    /// the window to the IPAs that hv has for it. Where it is EL2's own translation, nothing here translates it.
    pub(crate) fn new(vm: &mut Vm, case: &Case) -> Self {
        let Case { granule, change, observer: Observer { access, .. }, .. } = *case;
        let info = vm.info;
        let sites = case.sites();
        let window = change.window_size(granule);
        let all = window * sites as u64;
        let base = case.window_va(info.seed, vm.id_hash()).unwrap_or(info.window_ipa);
        let (level, format) = (change.level(), change.format(granule));
        let old_oa = info.frames_base + change.margin() * info.frame_size;
        let new_oa = if change.moves() { old_oa + info.frame_size } else { old_oa };
        // Where the memory is in a window that is larger than it.
        let inside = old_oa & (change.window_size(granule) - 1);
        let sides = change.what().sides();
        let own_tables = case.regime == Regime::El1;
        // What the steps fill is empty before them.
        let filled = own_tables && case.method != Method::Overwrite;
        let mut tree = |below: bool, oa, leaves| match level.next().filter(|_| filled && below) {
            Some(next) => vm.pool.tree(format, next, oa, leaves),
            None => 0,
        };
        let trees = [(sides.old, old_oa, change.old_leaf()), (sides.new, new_oa, change.new_leaf())]
            .map(|(side, oa, leaf)| tree(side.below, oa - inside, leaf));
        let uncached = !change.is_ordinary_memory();

        if change.moves() && change.contents_equal() {
            // All of it, not only what is looked at: that the contents do not differ is what excuses the change from
            // break-before-make (R_WHZWS), and hv does not clear frames.
            copy(old_oa, new_oa, window);
        }

        let (size, changed, entries) = (level.size(granule), change.changed(granule), change.entries(granule));
        let space = Space::new(&mut vm.pool, case.stage1_format());
        let own = own_tables.then(|| {
            let ptes = space.slots(&mut vm.pool, base, level, sites * entries);
            let mut descriptors = change.descriptors(granule, old_oa, new_oa, trees);
            for ptes in ptes.chunks_exact(entries) {
                // SAFETY: the window is all that the descriptors translate, and it is only accessed by probes.
                let whole = unsafe { Live::new(&ptes[..change.valid(granule)], base, size, descriptors) };
                whole.reversed().step(Step::Write(Write::New));
            }
            let shattered = Request::of(case, descriptors.old).map(|request| {
                let tables = shatter(&request, &ptes[0], &mut PoolArena { pool: &mut vm.pool, granule });
                (request.layout, tables)
            });
            if let Some((layout, [Some(first), ..])) = shattered {
                descriptors.new = layout.table(first.address);
            }
            Own { ptes, entries, changed, size, descriptors, shattered }
        });
        let highest = match case.stage1 {
            Stage1::Blocks => Some(Level::L0),
            Stage1::Pages => Some(Level::L3),
            Stage1::Off => None,
        };
        if let (Some(highest), Regime::S2) = (highest, case.regime) {
            // All that stage 2 may permit.
            let attributes = Attributes::NORMAL_RWX;
            space.map_from(highest, &mut vm.pool, [base, info.window_ipa], all, attributes);
        }
        let space_granule = case.stage1_format().granule;
        let pressing = highest.filter(|_| !case.regime.is_at_el2()).map(|_| {
            let pressing = stress::pressing_base(base, all, Level::L2.size(space_granule));
            press(&mut vm.pool, &space, case.stage1_format(), pressing);
            (pressing, space_granule.page_size())
        });
        let through = (access == Access::Tables).then(|| {
            let first = stress::tables_base(base);
            let table = Format::new(Granule::K4).at(Level::L2).table(info.window_ipa);
            space.slots(&mut vm.pool, first, Level::L2, 1)[0].store(table.raw(), Relaxed);
            first
        });
        if highest.is_some() {
            vm.set_upper(&space, if own_tables { sides.hardware } else { HardwareUpdates::Off });
        }

        // Nobody asks for another table from here on.
        let watch = change.family().watch();
        let watched = [(info.frames_base, info.frames_base + info.frames * info.frame_size), vm.pool.rest()];
        let seam = changed as u64 * size;
        // Of a half the other half is looked at too. What is looked at is memory; TLBIs may name the rest of a leaf as well.
        let [looked_at, mapped] = match sides.behind {
            Behind::Nothing => [change.frame_size(granule), window],
            Behind::Leaves | Behind::Hole => [seam; 2],
        };
        let sixteenth = looked_at >> SPOT_BITS;
        let new_frame = u64::from(!change.contents_equal());
        let offset_in =
            |sixteenth: u64, i: usize| i as u64 * sixteenth + if i.is_multiple_of(2) { 0 } else { sixteenth - 8 };
        let offset_of = |i| offset_in(sixteenth, i);
        if watch == Watch::Surroundings {
            for page in pages(watched) {
                for offset in (0..SPOTS).map(|i| offset_of(i) % PAGE) {
                    word_at(page + offset).store(SIGNED, Relaxed);
                }
            }
        }
        let spots = core::array::from_fn(|i| {
            // Of the last sixteenth there is no seam to a next one.
            let offset = match access {
                Access::Unaligned if sides.behind != Behind::Nothing => seam - 4,
                Access::Misaligned if i.is_multiple_of(2) => i as u64 * sixteenth + 4,
                Access::Misaligned => (i as u64 + 1) * sixteenth - 12,
                Access::Unaligned => (i.min(SPOTS - 2) as u64 + 1) * sixteenth - 4,
                _ => offset_of(i),
            };
            // Of a block another page than the one that is looked at: as good as any, and the one that shows a TLBI
            // which does not reach all of the block. Of what is below a table one address is not enough.
            let number = i;
            let named = match case.method {
                // Tables are put in place on the way to the page that is looked at.
                Method::Overwrite => offset,
                _ => offset_in(mapped >> SPOT_BITS, (i + 2) % SPOTS),
            };
            let freed = match level.next().filter(|_| own_tables && change.frees_table()) {
                Some(next) => tables::path(format, next, trees[0], base + inside + offset),
                None => [None; 2],
            };
            let fill =
                |halves| Word::fill(halves, offset, access, uncached, |frame, at| signature(info.seed, frame, at));
            let word = |frame, oa| {
                let moved = fill([(frame, oa); 2]);
                // What is behind the leaves that change stays in the first frame.
                if sides.behind == Behind::Leaves { fill([(frame, oa), (0, old_oa)]) } else { moved }
            };
            let va = match through {
                Some(first) => {
                    for oa in [old_oa, new_oa] {
                        translate(i, oa, offset & !(PAGE - 1));
                    }
                    first + entry_of(i) * PAGE + offset % PAGE
                }
                None => base + inside + offset,
            };
            Spot {
                freed: freed.map(|slot| slot.map(|slot| (slot, slot.load(Relaxed)))),
                va,
                named: base + (named & !(granule.page_size() - 1)),
                old: word(0, old_oa),
                new: word(new_frame, new_oa),
                number,
            }
        });
        if through.is_some() {
            // What was filled behind the tables' coming into force is walked by.
            tables::publish();
        }
        let marking = (sides.hardware != HardwareUpdates::Off).then(|| {
            let side = |below: bool, tree, oa, leaf: Leaf| {
                spots.each_ref().map(|spot| {
                    let offset = spot.va - base;
                    let slot = match level.next().filter(|_| below) {
                        Some(next) => tables::path(format, next, tree, spot.va).into_iter().flatten().last(),
                        None => own.as_ref().and_then(|own| own.ptes.get((offset / size) as usize)),
                    };
                    let slot = slot.expect("a leaf translates it");
                    Marked { slot, pristine: leaf.descriptor(format, oa + offset).raw() }
                })
            };
            let leaves = [change.old_leaf(), change.new_leaf()];
            let places = own_tables.then(|| {
                let old = side(sides.old.below, trees[0], old_oa, leaves[0]);
                let new = side(sides.new.below, trees[1], new_oa, leaves[1]);
                [old, new]
            });
            let slots = |which: usize| {
                let [old, new] = places?;
                Some([old, new][which].map(|leaf| leaf.slot))
            };
            let below = [sides.old.below, sides.new.below];
            Marking {
                missing: leaves.map(|leaf| Marks::missing(leaf.attributes, sides.hardware)),
                of_access: Marks::of(access),
                leaves: places,
                below: [0, 1].map(|which| slots(which).filter(|_| below[which])),
            }
        });
        Self {
            base,
            size: window,
            sites,
            own,
            at_el2: case.regime.is_at_el2(),
            at_once: change.own().is_some(),
            form: change.form().map(|form| (form, change.target(granule, base))),
            discards: false,
            uncached,
            spots,
            old: change.old_leaf(),
            new: change.new_leaf(),
            hardware: sides.hardware,
            marking,
            ttbr1: vm.upper(),
            pressing,
            watch,
            watched,
        }
    }

    /// Addresses in `pages` pages besides the window, to load from.
    pub(crate) fn pressing(&self, pages: u16) -> impl Iterator<Item = u64> {
        let pages = 0..pages.min(PRESSING_PAGES).into();
        // Each in a cache line of its own.
        self.pressing
            .into_iter()
            .flat_map(move |(first, size)| pages.clone().map(move |n| first + n * size + n * 64 % size))
    }

    /// A lane of `spot`, the first of which is its own word. The others have no contents of their own: whatever was stored
    /// there last stays.
    pub(crate) fn lane(&self, spot: &Spot, lane: usize) -> Lane {
        // Into the sixteenth, which begins or ends at the spot.
        let at = |base: u64| match spot.number.is_multiple_of(2) {
            true => base + lane as u64 * LANE,
            false => base - lane as u64 * LANE,
        };
        let alias = |word: &Word| word_at(at(core::ptr::from_ref(word.alias) as u64));
        Lane { va: at(spot.va), old: alias(&spot.old), new: alias(&spot.new) }
    }

    /// What it tells of a store by way of `lane` that `token` is, or is not, in one of its words.
    pub(crate) fn tell_landed(&self, access: Access, lane: &Lane, token: u64) -> Kind {
        match (lane.old.load(Relaxed) == token, lane.new.load(Relaxed) == token) {
            (true, _) if core::ptr::eq(lane.old, lane.new) => self.tell_by_permission(access),
            (true, _) => Kind::Old,
            (false, true) => Kind::New,
            (false, false) => Kind::Lost,
        }
    }

    /// The physical address of a canary that is none any more, if a store by way of `spot` has hit one; it is one again.
    /// While nobody stores.
    pub(crate) fn escaped(&self, spot: &Spot) -> Option<u64> {
        if self.watch != Watch::Surroundings {
            return None;
        }
        let own = [spot.old.alias, spot.new.alias].map(|alias| core::ptr::from_ref(alias) as u64);
        let mut words = pages(self.watched).map(|page| page + spot.va % PAGE).filter(|address| !own.contains(address));
        // Tokens have neither of these bits; contents of other spots and canaries have both.
        let found = words.find(|address| word_at(*address).load(Relaxed) & SIGNED != SIGNED)?;
        word_at(found).store(SIGNED, Relaxed);
        Some(found)
    }

    /// The spot with this number, of which the low [`SPOT_BITS`] count.
    #[inline]
    pub(crate) fn spot(&self, number: u64) -> &Spot {
        &self.spots[number as usize % SPOTS]
    }

    /// Address of the first site, and bytes of all of them.
    pub(crate) const fn range(&self) -> (u64, u64) {
        (self.base, self.sites as u64 * self.size)
    }

    /// All sites, in the order in which rounds have them.
    pub(crate) fn sites(&self) -> impl Iterator<Item = Site> {
        (0..self.sites).map(|number| self.site(number))
    }

    /// The site of round `round`, counted from 1, and whether it is the last one whose descriptors are as they were
    /// at first.
    #[inline]
    pub(crate) fn site_of(&self, round: u64) -> (Site, bool) {
        // A power of two.
        let number = (round - 1) as usize & (self.sites - 1);
        (self.site(number), number + 1 == self.sites)
    }

    #[inline]
    const fn site(&self, number: usize) -> Site {
        Site { number, offset: number as u64 * self.size }
    }

    /// Whether it is stage 2 that changes: an access that meets a break waits at EL2.
    pub(crate) const fn waits_at_el2(&self) -> bool {
        self.own.is_none() && !self.at_el2
    }

    /// The change as made in rounds at `spot` of `site`. `number` is different in each round; in front of each step that hv
    /// executes, but the first, pass `between` turns of a loop.
    #[inline]
    pub(crate) fn live_at(&self, spot: &Spot, site: Site, number: u64, between: u32) -> Maker<'_> {
        let Some(Own { ptes, entries, changed, size, descriptors, shattered }) = &self.own else {
            let (site, named) = (site.number as u64, spot.named - self.base);
            return Maker::Hv(Asked { site, named, how: between.into(), letters: [0; 16], count: 0 });
        };
        let ptes = &ptes[site.number * entries..][..*changed];
        // SAFETY: the window is all that the descriptors translate, and it is only accessed by probes.
        let live = unsafe { Live::new(ptes, site.of(self.base), *size, *descriptors) };
        let live = live.naming(site.of(spot.named));
        let live = match self.form {
            Some((form, target)) => live.with_form(form, Target { base: site.of(target.base), ..target }, number),
            None => live,
        };
        let live = match shattered {
            Some((layout, tables)) => live.shattering(*layout, tables),
            None => live,
        };
        Maker::Own(match &self.marking {
            Some(Marking { below: [old, new], .. }) => {
                live.carrying([old, new].map(|leaves| leaves.as_ref().map_or(&[][..], |leaves| leaves)))
            }
            None => live,
        })
    }

    /// What `access` brings back when it is made with the other ASID in TTBR1_EL1 or, where it is stage 2 that changes, under the
    /// other VMID.
    #[inline]
    pub(crate) fn with_other_asid<T>(&self, access: impl FnOnce() -> T) -> T {
        if self.waits_at_el2() {
            hypercall::lab_vmid(true);
            let result = access();
            hypercall::lab_vmid(false);
            return result;
        }
        let [usual, other] = self.ttbr1;
        let switch = |ttbr1| {
            // SAFETY: both have the same tables, which translate nothing but the window; it is only accessed by probes.
            unsafe { write_sysreg!("ttbr1_el1", ttbr1) };
            barrier::isb();
        };
        switch(other);
        let result = access();
        switch(usual);
        result
    }

    /// What hardware writes into its descriptors, if it does.
    #[inline]
    pub(crate) const fn marking(&self) -> Option<&Marking> {
        self.marking.as_ref()
    }

    /// Gives the frames their contents back at `spot`; says whether they had them.
    pub(crate) fn refresh(&self, spot: &Spot) -> bool {
        let held = |word: &Word| word.take(self.uncached) == word.contents;
        held(&spot.old) & held(&spot.new)
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

    /// Takes the marks out of the leaves below the table of one side, which is not in use. The descriptors that change
    /// live are written by the sequences.
    pub(crate) fn forget(&self, side: Side) {
        let Some(Marking { leaves: Some(leaves), below, .. }) = &self.marking else { return };
        if below[side as usize].is_some() {
            for Marked { slot, pristine } in &leaves[side as usize] {
                slot.store(*pristine, Relaxed);
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

    /// What an access that took no exception tells, which is `alike` if both mappings show the same. The frame that a store
    /// has reached gets its contents back.
    #[inline]
    pub(crate) fn tell(&self, access: Access, phase: Phase, spot: &Spot, made: &Made, alike: Kind) -> Kind {
        let value = made.probed.value;
        match access.tells() {
            Tells::Contents if access.stores() => self.tell_store(access, phase, spot, made),
            Tells::Contents => tell_load(access, spot, value, alike),
            Tells::Nothing => alike,
            Tells::Address => tell_load(access, spot, value & PAR_PA, alike),
        }
    }

    /// The same of an access that stores, and of what it has read, if it has.
    #[inline(never)]
    fn tell_store(&self, access: Access, phase: Phase, spot: &Spot, made: &Made) -> Kind {
        let Made { probed: Probed { value, .. }, token, failed } = *made;
        let (old, new) = (spot.old.take(self.uncached), spot.new.take(self.uncached));
        // One frame behind both mappings was read twice, and the first has put its contents back.
        let one_frame = core::ptr::eq(spot.old.alias, spot.new.alias);
        let reads = matches!(access, Access::Atomic | Access::Exclusive);
        let (from_old, from_new) = (value == spot.old.shows, value == spot.new.shows);
        // The halves of an exclusive pair are two accesses, and whether the store succeeds where another PA is marked is
        // IMPLEMENTATION DEFINED: while the change is made it may come between them.
        let between = access == Access::Exclusive && phase == Phase::During && from_old;
        match (old == token, new == token) {
            // What failed must not have stored.
            (true, _) | (_, true) if failed => Kind::Neither,
            (true, _) if reads && !from_old => Kind::Torn,
            (false, true) if reads && !from_new && !between => Kind::Torn,
            (true, _) if one_frame => self.tell_by_permission(access),
            (true, _) if phase == Phase::After => Kind::Late,
            (true, _) => Kind::Old,
            // Another store's token: it was looked up before it landed.
            (false, true) if old != spot.old.contents => Kind::Late,
            (false, true) => Kind::New,
            (false, false) if failed => tell_load(access, spot, value, self.tell_by_permission(access)),
            (false, false)
                if is_mixture(old, token, spot.old.contents) || is_mixture(new, token, spot.new.contents) =>
            {
                Kind::Torn
            }
            (false, false) => Kind::Lost,
        }
    }

    /// The kind of an access that went through and whose data does not tell the mappings apart.
    pub(crate) fn tell_by_permission(&self, access: Access) -> Kind {
        let opens = |leaf: Leaf| leaf.fault(access, self.hardware).is_none();
        match (opens(self.old), opens(self.new)) {
            (true, true) => Kind::Same,
            (true, false) => Kind::Old,
            (false, true) => Kind::New,
            (false, false) => Kind::Neither,
        }
    }
}

impl Marking {
    /// What is wrong with the marks in the leaf that is to have those of `phase`, and the leaf, where something is.
    /// `left` are the marks of the accesses that went through in this phase and, of `During`, before it: hardware set
    /// them in the old mapping or in the new one, and those which it set in the old one are carried over. What software
    /// has taken away with the old mapping needs not be there.
    pub(crate) fn look(
        &self,
        window: &Window,
        site: Site,
        spot: &Spot,
        phase: Phase,
        left: Marks,
    ) -> Option<(Kind, u64)> {
        let [old, new] = self.missing;
        let (expected, missing, side) = match phase {
            Phase::Before => (old, old, Side::Old),
            Phase::During => (old & new, new, Side::New),
            Phase::After => (new, new, Side::New),
        };
        let (found, raw) = match &self.leaves {
            Some(leaves) => {
                let raw = leaves[side as usize][spot.number].slot.load(Relaxed);
                (Marks::all().found_in(Regime::El1, Descriptor::from_raw(raw)), raw)
            }
            None => hypercall::lab_marks(site.number as u64, spot.va - window.base),
        };
        let dirty = missing & found & Marks::DIRTY;
        if !found.contains(left & expected) {
            Some((Kind::Unmarked, raw))
        } else if !(dirty - self.of_access).is_empty() {
            Some((Kind::Spurious, raw))
        } else {
            None
        }
    }
}

/// What a value tells that was read; `alike` if both mappings show it.
#[inline]
fn tell_load(access: Access, spot: &Spot, value: u64, alike: Kind) -> Kind {
    match (value == spot.old.shows, value == spot.new.shows) {
        (true, true) => alike,
        (true, false) => Kind::Old,
        (false, true) => Kind::New,
        (false, false) => tell_mixture(access, spot, value),
    }
}

/// The same where neither mapping shows it.
#[cold]
fn tell_mixture(access: Access, spot: &Spot, value: u64) -> Kind {
    if !is_mixture(value, spot.old.shows, spot.new.shows) {
        return Kind::Neither;
    }
    match access {
        // Only an aligned access is single-copy atomic: across a seam either half may be of either mapping.
        Access::Unaligned | Access::Misaligned => Kind::Old,
        _ => Kind::Torn,
    }
}

/// The tables for `request`, whose entry is `live`; before that, all that must be refused is, and is told.
fn shatter(request: &Request, live: &AtomicU64, arena: &mut PoolArena<'_>) -> Tables<NextTable<'static>> {
    let refused = |refusal| hypercall::log(format_args!("refused: {refusal}"));
    assert!(request.rehearse(live, arena, refused), "what must be refused was not, or left something behind");
    request.prepare(arena).unwrap_or_else(|refusal| panic!("{refusal}"))
}

/// Maps [`PRESSING_PAGES`] pages from `first`, all to one page of zeros.
fn press(pool: &mut Pool, space: &Space, format: Format, first: u64) {
    let slots = space.slots(pool, first, Level::L3, PRESSING_PAGES.into());
    let leaf = Leaf { level: Level::L3, attributes: Attributes::NORMAL_RO };
    let page = leaf.descriptor(format, pool.page(format.granule)).raw();
    slots.iter().for_each(|slot| slot.store(page, Relaxed));
}

/// The entry by which a table in the window leads to spot `spot`: between what two spots hold in a page that has both.
const fn entry_of(spot: usize) -> u64 {
    spot as u64 * 32 + 16
}

/// Has the table in the first page of the frame at `oa` lead to spot `spot`, by the page at `page` bytes into that frame.
fn translate(spot: usize, oa: u64, page: u64) {
    let leaf = Leaf { level: Level::L3, attributes: Attributes::NORMAL_RO };
    let descriptor = leaf.descriptor(Format::new(Granule::K4), oa + page);
    word_at(oa + entry_of(spot) * 8).store(descriptor.raw(), Relaxed);
}

/// The first addresses of all pages in `ranges`.
fn pages(ranges: [(u64, u64); 2]) -> impl Iterator<Item = u64> {
    ranges.into_iter().flat_map(|(start, end)| (start.next_multiple_of(PAGE)..end & !(PAGE - 1)).step_by(PAGE as usize))
}

/// The word at physical address `address`, which is in a frame or in private memory that nobody uses.
fn word_at(address: u64) -> &'static AtomicU64 {
    // SAFETY: such memory is mapped at its physical address for as long as the VM lives, the address is 8-byte aligned,
    // and it is only ever reached through atomics or, by the window, through asm.
    unsafe { &*(address as *const AtomicU64) }
}

/// PA of a PAR_EL1 whose F is 0.
const PAR_PA: u64 = 0x000f_ffff_ffff_f000;

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
    /// Fills the word at `offset` of a frame for `access`: with its signature, or with code that returns 16 bits of it.
    /// An unaligned access has two words, of which it sees a half each; either gets its own signature. `halves` are the
    /// number of the frame and its physical address for each of them.
    fn fill(
        halves: [(u64, u64); 2],
        offset: u64,
        access: Access,
        uncached: bool,
        signature: impl Fn(u64, u64) -> u64,
    ) -> Self {
        let put = |(frame, base): (u64, u64), offset: u64| {
            let alias = word_at(base + offset);
            let signature = signature(frame, offset);
            let (contents, shows) = match access {
                Access::Fetch => (returning(signature, RET), signature & 0xffff),
                Access::UserFetch => (returning(signature, SVC), signature & 0xffff),
                Access::At => (signature, (base + offset) & PAR_PA),
                _ => (signature, signature),
            };
            alias.store(contents, Relaxed);
            if access.operation() == Operation::Execute {
                cache::sync_code((base + offset) as usize, 8);
            }
            let word = Self { alias, contents, shows };
            word.settle(uncached);
            word
        };
        match offset % 8 {
            0 => put(halves[0], offset),
            middle => {
                let (low, high) = (put(halves[0], offset - middle), put(halves[1], offset + 8 - middle));
                Self { shows: low.shows >> 32 | high.shows << 32, ..low }
            }
        }
    }

    /// What the word holds; if a store has reached it, it gets its contents back.
    #[inline]
    fn take(&self, uncached: bool) -> u64 {
        // What another mapping has stored is in memory behind it, and may not be in the caches.
        self.settle(uncached);
        let value = self.alias.load(Relaxed);
        if value != self.contents {
            self.alias.store(self.contents, Relaxed);
            self.settle(uncached);
        }
        value
    }

    /// Brings what was stored, by whichever mapping, to the Point of Coherency, and drops what the caches hold.
    fn settle(&self, uncached: bool) {
        if uncached {
            barrier::dsb_sy();
            cache::clean_invalidate_poc(core::ptr::from_ref(self.alias) as usize, 8);
        }
    }
}

/// MOVZ X0, #0.
const MOVZ_X0: u64 = 0xd280_0000;
/// RET.
const RET: u64 = 0xd65f_03c0;
/// SVC #0.
const SVC: u64 = 0xd400_0001;

/// Code that returns the low 16 bits of `signature` by this instruction.
const fn returning(signature: u64, by: u64) -> u64 {
    MOVZ_X0 | (signature & 0xffff) << 5 | by << 32
}

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
