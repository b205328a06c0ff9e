//! What a TLB holds, which entries match, and how far matching entries disagree.

use std::{fmt, iter};

use vmsa::{Granule, Level};

use super::context::Regime;

/// Permissions of one stage, by who accesses.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Permissions(pub(super) u8);

impl Permissions {
    pub(super) const READ: u8 = 1;
    pub(super) const WRITE: u8 = 2;
    pub(super) const EXECUTE: u8 = 4;

    /// `privileged` and `unprivileged` are sets of [`READ`](Self::READ), [`WRITE`](Self::WRITE) and
    /// [`EXECUTE`](Self::EXECUTE).
    pub(super) const fn new(privileged: u8, unprivileged: u8) -> Self {
        Self(privileged | unprivileged << 4)
    }

    pub(super) const fn of(self, privileged: bool) -> u8 {
        if privileged { self.0 & 7 } else { self.0 >> 4 }
    }

    /// Nobody may write.
    const fn read_only(self) -> bool {
        self.0 & (Self::WRITE | Self::WRITE << 4) == 0
    }

    pub(super) const fn without_write(self) -> Self {
        Self(self.0 & !(Self::WRITE | Self::WRITE << 4))
    }

    const fn executable(self) -> bool {
        self.0 & (Self::EXECUTE | Self::EXECUTE << 4) != 0
    }
}

/// One stage's translation, from one Block or Page descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leaf {
    /// First input address that the descriptor maps, and log2 of how many bytes.
    pub(super) start: u64,
    pub(super) shift: u32,
    /// Output address minus input address.
    pub(super) delta: u64,
    pub(super) level: Level,
    pub(super) granule: Granule,
    pub(super) contiguous: bool,
    pub(super) nt: bool,
    pub(super) not_global: bool,
    /// What is permitted; if `clean`, writing only after the descriptor has been made dirty.
    pub(super) permissions: Permissions,
    pub(super) clean: bool,
    /// The byte of MAIR, or MemAttr of stage 2 widened to one.
    pub(super) attr: u8,
    pub(super) shareability: u8,
}

impl Leaf {
    pub(super) const fn output(&self, input: u64) -> u64 {
        input.wrapping_add(self.delta)
    }
}

/// How far two translations of one address disagree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Disagreement {
    /// In nothing, or in what may be changed without break-before-make: permissions, and the OA of read-only memory
    /// of equal contents (R_GPPYH, R_WHZWS).
    Harmless,
    /// As members of one group do that have the Contiguous bit all, and otherwise differ: any one of them may be used
    /// for the group (R_JQQTC).
    Member,
    /// In the Contiguous bit alone, or as members of one group of which only some have it (R_NGLXZ) (R_KHRBC).
    Contiguous,
    /// In block size alone (R_KFLJB, R_PVTFW).
    Size,
    /// In something that needs break-before-make (R_WHZWS).
    Break,
}

/// Compares two translations of one address by one stage. `same_contents`: the memory at both OAs holds the same.
pub(super) fn disagreement(a: &Leaf, b: &Leaf, same_contents: impl FnOnce() -> bool) -> Disagreement {
    let found = difference(a, b, same_contents);
    let members = a.start != b.start && (a.level, a.granule) == (b.level, b.granule);
    match (members, a.contiguous, b.contiguous) {
        (true, true, true) => found.min(Disagreement::Member),
        (true, true, false) | (true, false, true) => found.min(Disagreement::Contiguous),
        _ => found,
    }
}

fn difference(a: &Leaf, b: &Leaf, same_contents: impl FnOnce() -> bool) -> Disagreement {
    if (a.attr, a.shareability, a.not_global) != (b.attr, b.shareability, b.not_global) {
        return Disagreement::Break;
    }
    let same_size = (a.level, a.contiguous) == (b.level, b.contiguous);
    if a.delta == b.delta {
        return match same_size {
            true => Disagreement::Harmless,
            false if a.permissions != b.permissions => Disagreement::Break,
            false if a.level == b.level => Disagreement::Contiguous,
            false => Disagreement::Size,
        };
    }
    if same_size && a.permissions.read_only() && b.permissions.read_only() && same_contents() {
        return Disagreement::Harmless;
    }
    Disagreement::Break
}

/// What an entry translates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// VA to PA: stage 1, and stage 2 if it is on.
    Combined,
    /// VA to IPA.
    Stage1,
    /// IPA to PA.
    Stage2,
    /// A Table descriptor of stage 1.
    Table1,
    /// A Table descriptor of stage 2.
    Table2,
    /// A descriptor of stage 1 that faults; only [`Defect::FaultCached`](super::Defect::FaultCached) and
    /// [`Defect::AccessFlagCached`](super::Defect::AccessFlagCached) make such entries.
    Invalid,
}

/// One entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub(super) kind: Kind,
    pub(super) regime: Regime,
    /// Any ASID matches. A Table descriptor is never global: what lies below it is not known.
    pub(super) global: bool,
    pub(super) asid: u16,
    pub(super) vmid: u16,
    /// Made with stage 1 off, and matching only then.
    pub(super) flat: bool,
    /// First input address the entry matches, and how many bytes; within, or for a Contiguous group around, what its
    /// descriptor maps.
    pub(super) start: u64,
    pub(super) size: u64,
    pub(super) one: Leaf,
    /// Stage 2 of a combined entry, or of a Table descriptor's next table.
    pub(super) two: Option<Leaf>,
    /// Next table, and what its Table descriptor forbids below; 0 in other entries, but for the class of fault of one
    /// that faults, in the latter.
    pub(super) table: u64,
    pub(super) restrictions: u8,
    /// Only instruction fetches match; only [`Defect::ExecuteKept`](super::Defect::ExecuteKept) and
    /// [`Defect::UserExecuteKept`](super::Defect::UserExecuteKept), for EL0's, make such entries.
    pub(super) fetch_only: bool,
    /// A TLBI has removed it, and the PE has not synchronised its context since: it matches nothing any more, and may
    /// serve an access that had been translated by it.
    pub(super) lingers: bool,
}

/// Who looks something up.
#[derive(Clone, Copy, Debug)]
pub struct Tags {
    pub(super) regime: Regime,
    pub(super) asid: u16,
    pub(super) vmid: u16,
    pub(super) flat: bool,
    /// [`Defect::AsidIgnored`](super::Defect::AsidIgnored): leaves of every ASID match.
    pub(super) any_asid: bool,
}

impl Entry {
    /// Whether it belongs to `tags`; the VMID tags EL1&0 only, the ASID stage 1 only.
    fn belongs(&self, tags: &Tags) -> bool {
        self.regime == tags.regime
            && (tags.regime != Regime::El10 || self.vmid == tags.vmid)
            && (matches!(self.kind, Kind::Stage2 | Kind::Table2)
                || self.flat == tags.flat
                    && (self.global || self.asid == tags.asid || tags.any_asid && !self.is_table()))
    }

    fn covers(&self, input: u64) -> bool {
        input.wrapping_sub(self.start) < self.size
    }

    /// The VAs it is about, for a trace: everything, if it is about IPAs.
    pub(super) const fn extent(&self) -> (u64, u64) {
        match self.kind {
            Kind::Stage2 | Kind::Table2 => (0, u64::MAX),
            _ => (self.start, self.size),
        }
    }

    /// Whether a lookup of `input` by `tags` finds it.
    pub(super) fn matches(&self, tags: &Tags, input: u64) -> bool {
        self.covers(input) && self.belongs(tags)
    }

    /// Whether it, or the descriptor it was made from, translates anything in `[start, start + size)`: what a TLBI
    /// of that range must reach, also where a block is kept in pieces.
    pub(super) fn touches(&self, start: u64, size: u64) -> bool {
        let meets = |s: u64, n: u64| s < start.saturating_add(size) && start < s.saturating_add(n);
        meets(self.start, self.size) || meets(self.one.start, 1 << self.one.shift)
    }

    /// Whether both may answer one lookup, and differently; their ranges [`meet`].
    pub(super) fn rivals(&self, other: &Self) -> bool {
        let second = |entry: &Self| matches!(entry.kind, Kind::Stage2 | Kind::Table2);
        let tables = match (self.is_table(), other.is_table()) {
            (false, false) => true,
            (true, true) => false,
            _ => self.one.level == other.one.level,
        };
        tables && second(self) == second(other) && self.regime == other.regime
    }

    /// Whether a by-VA TLBI that leaves executable entries to fetches would leave this one.
    pub(super) fn executable(&self) -> bool {
        self.one.permissions.executable()
    }

    /// Whether EL0 may execute what it maps.
    pub(super) fn user_executable(&self) -> bool {
        self.one.permissions.of(false) & Permissions::EXECUTE != 0
    }

    /// Whether it says that the memory is Device.
    pub(super) fn is_device(&self) -> bool {
        self.one.attr >> 4 == 0
    }

    /// Whether nobody may write through it, and no update of dirty state would change that.
    pub(super) fn read_only(&self) -> bool {
        self.one.permissions.read_only()
    }

    pub(super) const fn is_table(&self) -> bool {
        matches!(self.kind, Kind::Table1 | Kind::Table2)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Combined => "VA",
            Kind::Stage1 => "VA (stage 1)",
            Kind::Stage2 => "IPA",
            Kind::Table1 => "table for VA",
            Kind::Table2 => "table for IPA",
            Kind::Invalid => "invalid VA",
        };
        write!(f, "{kind} {:#x}+{:#x} ", self.start, self.size)?;
        match self.kind {
            Kind::Table1 | Kind::Table2 => write!(f, "to table {:#x}", self.table)?,
            Kind::Invalid => {}
            _ => {
                let ipa = self.one.output(self.start);
                let pa = self.two.map_or(ipa, |two| two.output(ipa));
                let letters = |permitted: u8| {
                    let letter = |bit, letter| if permitted & bit == 0 { '-' } else { letter };
                    let all = [(Permissions::READ, 'r'), (Permissions::WRITE, 'w'), (Permissions::EXECUTE, 'x')];
                    all.map(|(bit, name)| letter(bit, name)).iter().collect::<String>()
                };
                let Leaf { permissions, attr, clean, .. } = self.one;
                write!(
                    f,
                    "to {pa:#x} {}/{} attr {attr:#04x}",
                    letters(permissions.of(true)),
                    letters(permissions.of(false))
                )?;
                if clean {
                    f.write_str(" clean")?;
                }
            }
        }
        write!(f, " level {}", self.one.level.number())?;
        if self.one.contiguous {
            f.write_str(" Contiguous")?;
        }
        match self.global {
            _ if self.regime == Regime::El2 => f.write_str(" EL2"),
            true if self.regime == Regime::El20 => f.write_str(" EL2&0 global"),
            false if self.regime == Regime::El20 => write!(f, " EL2&0 ASID {}", self.asid),
            true => write!(f, " VMID {} global", self.vmid),
            false => write!(f, " VMID {} ASID {}", self.vmid, self.asid),
        }
    }
}

/// What a PE's translation keeps its entries in. It decides nothing: which entries are made, used and given up is
/// [`Mmu`](super::Mmu)'s business.
pub trait Lookaside: Clone + fmt::Debug {
    /// An empty one for at most `capacity` entries.
    fn new(capacity: usize) -> Self;

    /// How many entries there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entries that translate `input`, in the order in which they stand.
    fn matching<'a>(&'a self, tags: &'a Tags, input: u64) -> impl Iterator<Item = &'a Entry> + 'a;

    /// An entry for `input` that is gone but for accesses that were translated before.
    fn lingering(&self, tags: &Tags, input: u64) -> Option<Entry>;

    /// Keeps `entry`, in the place of another one if it must, unless there is no room for any. True if what a lookup gives may have changed for an
    /// address that some entry matched already.
    fn insert(&mut self, entry: Entry) -> bool;

    /// Gives up the entry at `index`, below [`len`](Self::len); the last takes its place.
    fn evict(&mut self, index: usize) -> Entry;

    /// Keeps what `keep` says, which may change an entry it keeps.
    fn retain(&mut self, keep: impl FnMut(&mut Entry) -> bool);
}

/// Entries that a lookup compares at once.
const LANES: usize = 16;

/// What a lookup compares first: pages of 4 KiB by 32 bits of their numbers. Whatever meets does so in those too; what seems
/// to may be 16 TiB away.
#[derive(Clone, Debug)]
struct Lanes {
    /// The first page of each entry.
    first: [u32; LANES],
    /// How many pages follow it, or as many as there can be.
    more: [u32; LANES],
}

impl Lanes {
    const EMPTY: Self = Self { first: [0; LANES], more: [0; LANES] };

    /// First page of `size` bytes, not 0, from `start`, and how many follow it.
    fn pages(start: u64, size: u64) -> (u32, u32) {
        let more = ((start & 0xfff) + (size - 1)) >> 12;
        ((start >> 12) as u32, u32::try_from(more).unwrap_or(u32::MAX))
    }

    /// A bit for each entry, of which there are `used`, that seems to meet this range.
    fn meeting(&self, (first, more): (u32, u32), used: usize) -> u32 {
        // Without branches, so that lanes are compared side by side.
        let mut met = [false; LANES];
        for (lane, met) in met.iter_mut().enumerate() {
            let (other, others) = (self.first[lane], self.more[lane]);
            *met = (first.wrapping_sub(other) <= others) | (other.wrapping_sub(first) <= more);
        }
        if met == [false; LANES] {
            return 0;
        }
        let bits = (0..).zip(met).fold(0, |bits, (lane, met)| bits | u32::from(met) << lane);
        bits & u32::MAX >> (u32::BITS - used.min(LANES) as u32)
    }
}

/// The entries of one PE, made for many lookups that pass over most of them.
#[derive(Clone, Debug)]
pub struct Tlb {
    entries: Vec<Entry>,
    /// Where they are, in the same order.
    lanes: Vec<Lanes>,
    capacity: usize,
    /// Which entry a new one replaces when the TLB is full.
    victim: usize,
}

impl Tlb {
    /// Numbers of the entries that seem to meet `size` bytes from `start`, in order.
    fn candidates(&self, start: u64, size: u64) -> impl Iterator<Item = usize> {
        let pages = Lanes::pages(start, size);
        let groups = self.lanes.iter().zip((0..self.entries.len()).step_by(LANES));
        groups.flat_map(move |(lanes, number)| {
            let mut left = lanes.meeting(pages, self.entries.len() - number);
            iter::from_fn(move || {
                let lane = left.trailing_zeros();
                left &= left.wrapping_sub(1);
                (lane < u32::BITS).then_some(number + lane as usize)
            })
        })
    }

    /// Notes where entry `number` is.
    fn place(&mut self, number: usize) {
        let Entry { start, size, .. } = self.entries[number];
        let (group, lane) = (number / LANES, number % LANES);
        if group == self.lanes.len() {
            self.lanes.push(Lanes::EMPTY);
        }
        (self.lanes[group].first[lane], self.lanes[group].more[lane]) = Lanes::pages(start, size);
    }
}

impl Lookaside for Tlb {
    fn new(capacity: usize) -> Self {
        let lanes = Vec::with_capacity(capacity.div_ceil(LANES));
        Self { entries: Vec::with_capacity(capacity), lanes, capacity, victim: 0 }
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn matching<'a>(&'a self, tags: &'a Tags, input: u64) -> impl Iterator<Item = &'a Entry> + 'a {
        let covering = self.candidates(input, 1).map(|number| &self.entries[number]);
        covering.filter(move |entry| !entry.lingers && entry.matches(tags, input))
    }

    fn lingering(&self, tags: &Tags, input: u64) -> Option<Entry> {
        self.entries.iter().find(|entry| entry.lingers && entry.matches(tags, input)).copied()
    }

    fn insert(&mut self, entry: Entry) -> bool {
        let mut disturbs = false;
        for number in self.candidates(entry.start, entry.size) {
            let other = &self.entries[number];
            if !meet((other.start, other.size), (entry.start, entry.size)) {
                continue;
            }
            if *other == entry {
                return false;
            }
            disturbs |= other.rivals(&entry);
        }
        if self.capacity == 0 {
            return false;
        }
        if self.entries.len() < self.capacity {
            self.entries.push(entry);
            self.place(self.entries.len() - 1);
        } else {
            let number = self.victim;
            self.entries[number] = entry;
            self.place(number);
            self.victim = (number + 1) % self.capacity;
        }
        disturbs
    }

    fn evict(&mut self, index: usize) -> Entry {
        let entry = self.entries.swap_remove(index);
        if index < self.entries.len() {
            self.place(index);
        }
        entry
    }

    fn retain(&mut self, keep: impl FnMut(&mut Entry) -> bool) {
        self.entries.retain_mut(keep);
        (0..self.entries.len()).for_each(|number| self.place(number));
        self.victim = 0;
    }
}

/// Whether two ranges, of start and size, have an address in common.
const fn meet(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 < b.0.wrapping_add(b.1) && b.0 < a.0.wrapping_add(a.1)
}
