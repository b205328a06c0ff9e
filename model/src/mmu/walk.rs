//! The walker: translation tables to leaves, and what is kept of a walk.
//!
//! One descent serves both stages; a descent of stage 1 asks stage 2 for every table it reads. What a walk reads may
//! be older than what stands in memory ([`TableMemory::before`]), and it may start from cached Table descriptors.

use arrayvec::ArrayVec;
use vmsa::{
    Granule, Level,
    descriptor::{Descriptor, DescriptorKind, contiguous_group},
};

use super::{
    Device, Stale, TableMemory,
    context::{Context, Format, Regime, Tables},
    profile::{Defect, Nt, Profile},
    tlb::{Entry, Kind, Leaf, Lookaside, Permissions, Tags},
};
use crate::choice::{Choices, Odds, Point};

/// FSC of the classes of fault, to which the level is added (DDI 0487, ISS encoding of aborts).
pub(super) const ADDRESS_SIZE: u8 = 0b00_0000;
pub(super) const TRANSLATION: u8 = 0b00_0100;
pub(super) const ACCESS_FLAG: u8 = 0b00_1000;
pub(super) const PERMISSION: u8 = 0b00_1100;
pub(super) const EXTERNAL_ON_WALK: u8 = 0b01_0100;

const AF: u64 = 1 << 10;
/// `AP[2]` of stage 1: read-only, or with DBM clean.
const AP_RO: u64 = 1 << 7;
/// `S2AP[1]` of stage 2: writable, or with DBM dirty.
const S2AP_W: u64 = 1 << 7;
const DBM: u64 = 1 << 51;
const XN: u64 = 1 << 54;
const PXN: u64 = 1 << 53;

/// What a Table descriptor forbids below it: bits 62 to 59, APTable, UXNTable (XNTable), PXNTable.
const RESTRICTIONS_SHIFT: u32 = 59;
const PXN_TABLE: u8 = 1 << 0;
const UXN_TABLE: u8 = 1 << 1;
const NO_EL0: u8 = 1 << 2;
const READ_ONLY: u8 = 1 << 3;

/// A walk that ended without a translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WalkFault {
    /// Class and level as FSC has them.
    pub(super) fsc: u8,
    pub(super) level: i8,
    pub(super) stage2: bool,
    /// Stage 2 refused a table of stage 1.
    pub(super) s1ptw: bool,
    pub(super) ipa: Option<u64>,
}

impl WalkFault {
    pub(super) const fn new(class: u8, level: i8, stage2_of: Option<u64>) -> Self {
        let fsc = match (class, level) {
            // Level -1 has statuses of its own; only these faults come there.
            (ADDRESS_SIZE, -1) => 0b10_1001,
            (TRANSLATION, -1) => 0b10_1011,
            (EXTERNAL_ON_WALK, -1) => 0b01_0011,
            _ => class | level as u8 & 3,
        };
        Self { fsc, level, stage2: stage2_of.is_some(), s1ptw: false, ipa: stage2_of }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    One,
    Two,
}

/// A leaf with where its descriptor stands (PA).
type Found = (Leaf, u64);

/// Where a descent has got.
enum Descent {
    /// At a leaf.
    Done(Found),
    /// Where the walk found a leaf that hardware was to update stands this by now: it goes on by that (D8.5).
    Again(u64),
}

/// Everything a walk needs, for one walk.
pub(super) struct Walker<'a, M, T> {
    pub(super) profile: &'a Profile,
    pub(super) context: &'a Context,
    pub(super) tags: Tags,
    pub(super) tlb: &'a mut T,
    pub(super) memory: &'a mut M,
    pub(super) choices: &'a mut Choices,
    /// [`Defect::UpdateMisplaced`]: an update to be stored later.
    pub(super) misplaced: &'a mut Option<(u64, u64)>,
    /// The walk is for a store by a privileged (true) or unprivileged access: it makes descriptors dirty.
    pub(super) store: Option<bool>,
    /// Addresses in the TLB that may give something else since something was kept.
    pub(super) stale: &'a mut Stale,
}

impl<M: TableMemory, T: Lookaside> Walker<'_, M, T> {
    /// Stage 1 of `va`, a flat leaf if it is off.
    pub(super) fn stage1(&mut self, va: u64) -> Result<(Leaf, Option<u64>), WalkFault> {
        let regime = self.tags.regime;
        if !self.context.stage1_on(regime) {
            return Ok((self.flat(), None));
        }
        // What was above bit 55 was found to be right, and dropped, by whoever asks.
        let canonical = if regime.is_of_el0() { ((va << 8) as i64 >> 8) as u64 } else { va };
        let Some(tables) = self.context.stage1(regime, canonical, self.profile.lpa2) else {
            return Err(WalkFault::new(TRANSLATION, 0, None));
        };
        self.descend(Stage::One, &tables, va).map(|(leaf, slot)| (leaf, Some(slot)))
    }

    /// With stage 1 off: the address itself, Normal for HCR_EL2.DC and Device otherwise (R_LYTBG); fetches are Normal,
    /// which their translation sees to.
    pub(super) fn flat(&self) -> Leaf {
        let cacheable = self.context.default_cacheable();
        Leaf {
            start: 0,
            shift: 56,
            delta: 0,
            level: Level::L0,
            granule: Granule::K4,
            contiguous: false,
            nt: false,
            not_global: false,
            permissions: Permissions::new(7, 7),
            clean: false,
            attr: if cacheable { 0xff } else { 0 },
            shareability: if cacheable { 0 } else { 2 },
        }
    }

    /// Stage 2 of `ipa`: from an entry of its own, or by a walk. `s1ptw`: for a table of stage 1, to be read, or to
    /// be written as well if `write`.
    pub(super) fn stage2(&mut self, ipa: u64, s1ptw: bool, write: bool) -> Result<Leaf, WalkFault> {
        let mark = |mut fault: WalkFault| {
            fault.s1ptw = s1ptw;
            fault
        };
        let cached: ArrayVec<Leaf, 8> =
            self.tlb.matching(&self.tags, ipa).filter(|e| e.kind == Kind::Stage2).map(|e| e.one).take(8).collect();
        // Only a store, to the final address or to a table of stage 1, makes stage 2 dirty.
        let store = if s1ptw { write.then_some(true) } else { self.store };
        let leaf = match cached.get(self.choices.pick(Point::Several, cached.len() as u32) as usize) {
            Some(leaf) if !(store.is_some() && leaf.clean) => *leaf,
            _ => {
                let Some(tables) = self.context.stage2(ipa, self.profile.lpa2) else {
                    return Err(mark(WalkFault::new(TRANSLATION, 0, Some(ipa))));
                };
                let store = std::mem::replace(&mut self.store, store);
                let found = self.descend(Stage::Two, &tables, ipa);
                self.store = store;
                let (leaf, slot) = found.map_err(mark)?;
                if s1ptw && self.choices.chance(Point::Fill, self.profile.split_stages) {
                    self.keep_stage2(ipa, leaf, Some(slot));
                }
                leaf
            }
        };
        let needed = if write { Permissions::READ | Permissions::WRITE } else { Permissions::READ };
        if s1ptw && leaf.permissions.of(true) & needed != needed {
            return Err(mark(WalkFault::new(PERMISSION, leaf.level.number(), Some(ipa))));
        }
        Ok(leaf)
    }

    fn read(&mut self, pa: u64) -> Option<u64> {
        if let Some(log) = self.choices.log() {
            log.read(pa);
        }
        if self.memory.before(pa, 0).is_some() && self.choices.chance(Point::Visibility, self.profile.early_walk) {
            let olds = (0..).take_while(|nth| self.memory.before(pa, *nth).is_some()).count();
            let old = self.memory.before(pa, self.choices.pick(Point::Visibility, olds as u32) as usize);
            self.choices.tell("lag", || {
                format!("the walk reads {:#x} at {pa:#x}, from before a store that no DSB completed", old.unwrap_or(0))
            });
            return old;
        }
        self.memory.read64(pa)
    }

    /// The fault of the descriptor that stood at `pa` until this PE's last store, if no context synchronisation came
    /// behind that. Only faults: whatever else the old descriptor gives is the business of the TLBI that it needs.
    fn late_fault(&mut self, pa: u64, tables: &Tables, level: Level) -> Option<u8> {
        let descriptor = Descriptor::from_raw(self.memory.before_synchronisation(pa)?);
        let class = match tables.kind(descriptor.raw(), level) {
            DescriptorKind::Table => return None,
            DescriptorKind::Invalid => TRANSLATION,
            DescriptorKind::Block if descriptor.nt() && self.profile.nt == Nt::Fault => TRANSLATION,
            _ if descriptor.af() || tables.hardware_af => return None,
            _ => ACCESS_FLAG,
        };
        if !self.choices.chance(Point::Visibility, self.profile.early_walk) {
            return None;
        }
        self.choices
            .tell("lag", || format!("the walk faults by {:#x} at {pa:#x}, from before the last ISB", descriptor.raw()));
        Some(class)
    }

    fn descend(&mut self, stage: Stage, tables: &Tables, input: u64) -> Result<Found, WalkFault> {
        let granule = tables.granule;
        let of = (stage == Stage::Two).then_some(input);
        let nested = stage == Stage::One && self.context.stage2_on(self.tags.regime);
        let kind = if stage == Stage::One { Kind::Table1 } else { Kind::Table2 };
        let (mut level, mut table, mut restrictions, mut two) = (tables.start, tables.base, 0, None);
        if table >> tables.output_bits != 0 {
            return Err(WalkFault::new(ADDRESS_SIZE, 0, of));
        }
        let cached: ArrayVec<Entry, 8> = self
            .tlb
            .matching(&self.tags, input)
            .filter(|e| e.kind == kind && e.one.granule == granule)
            .take(8)
            .copied()
            .collect();
        let mut shortened = false;
        if !cached.is_empty() && self.choices.chance(Point::WalkCache, self.profile.use_table) {
            let entry = cached[self.choices.pick(Point::WalkCache, cached.len() as u32) as usize];
            self.choices.tell_of((input, 1), "shorten", || format!("the walk for {input:#x} by {entry}"));
            if let Some(next) = entry.one.level.next() {
                (level, table, restrictions, two) = (next, entry.table, entry.restrictions, entry.two);
                shortened = true;
            }
        }
        let mut again = None;
        loop {
            let slot = tables.slot(table, level, input);
            let pa = match two {
                Some(leaf) => leaf.output(slot),
                None if nested => self.stage2(slot, true, false)?.output(slot),
                None => slot,
            };
            let number = level.number();
            if let Some(class) = self.late_fault(pa, tables, level) {
                return Err(WalkFault::new(class, number, of));
            }
            let Some(raw) = again.take().or_else(|| self.read(pa)) else {
                return Err(WalkFault::new(EXTERNAL_ON_WALK, number, of));
            };
            let (oa, found) = (tables.output(raw, level), tables.kind(raw, level));
            if found != DescriptorKind::Invalid && oa >> tables.output_bits != 0 {
                return Err(WalkFault::new(ADDRESS_SIZE, number, of));
            }
            match (found, level.next()) {
                (DescriptorKind::Table, Some(next)) => {
                    if tables.hierarchical {
                        restrictions |= (raw >> RESTRICTIONS_SHIFT & 0xf) as u8;
                    }
                    (table, two) = (oa, None);
                    if self.choices.chance(Point::Fill, self.profile.keep_table) {
                        // Either the next table's IPA, or its PA as well.
                        if nested && self.choices.pick(Point::Fill, 2) == 1 {
                            two = Some(self.stage2(table, true, false)?);
                        }
                        self.keep_table(kind, granule, level, input, (table, restrictions, two));
                    }
                    level = next;
                }
                (DescriptorKind::Block | DescriptorKind::Page, _) => {
                    match self.leaf(stage, tables, input, level, restrictions, (pa, slot), raw)? {
                        Descent::Done(found) => return Ok(found),
                        // Hardware was to update it, and it is a leaf no more.
                        Descent::Again(now) => again = Some(now),
                    }
                }
                _ => {
                    if self.profile.has(Defect::FaultCached) && stage == Stage::One {
                        self.keep_fault(input, level, granule, TRANSLATION);
                    }
                    let above = shortened && self.profile.has(Defect::TableFaultLevel);
                    return Err(WalkFault::new(TRANSLATION, number - i8::from(above), of));
                }
            }
        }
    }

    /// A Block or Page descriptor `raw` at `at` (PA, and the stage's own address of it).
    #[expect(clippy::too_many_arguments, reason = "the state of one descent, used once")]
    fn leaf(
        &mut self,
        stage: Stage,
        tables: &Tables,
        input: u64,
        level: Level,
        restrictions: u8,
        at: (u64, u64),
        mut raw: u64,
    ) -> Result<Descent, WalkFault> {
        let of = (stage == Stage::Two).then_some(input);
        let fault = |class| WalkFault::new(class, level.number(), of);
        // A few attempts: each fails only because somebody else changed the descriptor in between.
        for _ in 0..8 {
            if !matches!(tables.kind(raw, level), DescriptorKind::Block | DescriptorKind::Page) {
                return Ok(Descent::Again(raw));
            }
            let leaf = self.decode(stage, tables, input, level, restrictions, raw);
            if leaf.nt && self.profile.nt == Nt::Fault {
                let wrong = self.profile.has(Defect::NtWrongStatus);
                return Err(fault(if wrong { PERMISSION } else { TRANSLATION }));
            }
            let mut new = raw;
            if raw & AF == 0 {
                if !tables.hardware_af {
                    if self.profile.has(Defect::AccessFlagCached) && stage == Stage::One {
                        self.keep_fault(input, level, tables.granule, ACCESS_FLAG);
                    }
                    return Err(fault(ACCESS_FLAG));
                }
                new |= AF;
            }
            if let (true, Some(privileged)) = (leaf.clean, self.store)
                && leaf.permissions.of(privileged) & Permissions::WRITE != 0
            {
                new = if stage == Stage::One { new & !AP_RO } else { new | S2AP_W };
            }
            if new == raw {
                return Ok(Descent::Done((leaf, at.0)));
            }
            if stage == Stage::One && self.context.stage2_on(self.tags.regime) {
                self.stage2(at.1, true, true)?;
            }
            if self.profile.has(Defect::UpdateMisplaced) {
                *self.misplaced = Some((at.0, new));
                return Ok(Descent::Done((self.decode(stage, tables, input, level, restrictions, new), at.0)));
            }
            raw = if self.memory.cas64(at.0, raw, new) {
                self.choices.tell("update", || format!("descriptor at {:#x}: {raw:#x} becomes {new:#x}", at.0));
                new
            } else {
                self.memory.read64(at.0).ok_or(fault(EXTERNAL_ON_WALK))?
            };
        }
        Err(fault(ACCESS_FLAG))
    }

    fn decode(&self, stage: Stage, tables: &Tables, input: u64, level: Level, restrictions: u8, raw: u64) -> Leaf {
        let descriptor = Descriptor::from_raw(raw);
        let (granule, shift) = (tables.granule, level.shift(tables.granule));
        let start = input & !((1 << shift) - 1);
        let dbm = raw & DBM != 0 && tables.hardware_dirty;
        let (permissions, clean, attr) = match stage {
            Stage::One => {
                let clean = dbm && raw & AP_RO != 0 && restrictions & READ_ONLY == 0;
                let permissions = self.stage1_permissions(raw, restrictions, clean);
                (permissions, clean, self.context.mair(self.tags.regime, descriptor.attributes().attr_index))
            }
            Stage::Two => {
                let clean = dbm && raw & S2AP_W == 0;
                (stage2_permissions(raw, clean), clean, stage2_attr(raw))
            }
        };
        Leaf {
            start,
            shift,
            delta: tables.output(raw, level).wrapping_sub(start),
            level,
            granule,
            contiguous: descriptor.attributes().contiguous && contiguous_group(granule, level).is_some(),
            nt: level != Level::L3
                && descriptor.nt()
                && self.profile.nt != Nt::Ignored
                && !self.profile.has(Defect::NtIgnored),
            not_global: stage == Stage::One && self.tags.regime.is_of_el0() && descriptor.attributes().not_global,
            permissions,
            clean,
            attr,
            shareability: if tables.format == Format::Lpa2 { tables.shareability } else { (raw >> 8 & 3) as u8 },
        }
    }

    /// AP, UXN and PXN (XN at EL2) with the tables' restrictions and WXN (DDI 0487 D8.4).
    fn stage1_permissions(&self, raw: u64, restrictions: u8, clean: bool) -> Permissions {
        let wxn = self.context.wxn(self.tags.regime);
        let writable = (raw & AP_RO == 0 || clean) && restrictions & READ_ONLY == 0;
        let set = |read: bool, write: bool, execute: bool| {
            let when = |granted: bool, permission: u8| if granted { permission } else { 0 };
            when(read, Permissions::READ)
                | when(write, Permissions::WRITE)
                | when(execute && !(wxn && write), Permissions::EXECUTE)
        };
        let xn = raw & XN != 0 || restrictions & UXN_TABLE != 0;
        match self.tags.regime {
            Regime::El2 => Permissions::new(set(true, writable, !xn), 0),
            Regime::El10 | Regime::El20 => {
                let el0 = raw & 1 << 6 != 0 && restrictions & NO_EL0 == 0;
                let pxn = raw & PXN != 0 || restrictions & PXN_TABLE != 0;
                // What EL0 can write, EL1 never executes.
                Permissions::new(set(true, writable, !(pxn || el0 && writable)), set(el0, el0 && writable, !xn))
            }
        }
    }

    fn entry(&self, input: u64, one: Leaf, start: u64, size: u64) -> Entry {
        debug_assert!(input.wrapping_sub(start) < size, "an entry matches what it was made for");
        Entry {
            kind: Kind::Combined,
            regime: self.tags.regime,
            global: !one.not_global,
            asid: self.tags.asid,
            vmid: self.tags.vmid,
            flat: self.tags.flat,
            start,
            size,
            one,
            two: None,
            table: 0,
            restrictions: 0,
            fetch_only: false,
            lingers: false,
        }
    }

    fn insert(&mut self, entry: Entry) {
        self.choices.tell_of(entry.extent(), "fill", || entry);
        if self.tlb.insert(entry) {
            self.stale.add(entry.extent());
        }
    }

    /// For defects: a descriptor at `level` that faults, for the page of `input`.
    fn keep_fault(&mut self, input: u64, level: Level, granule: Granule, class: u8) {
        let leaf = Leaf { level, granule, ..self.flat() };
        let page = granule.page_size();
        let entry = self.entry(input, leaf, input & !(page - 1), page);
        self.insert(Entry { kind: Kind::Invalid, restrictions: class, ..entry });
    }

    fn keep_table(&mut self, kind: Kind, granule: Granule, level: Level, input: u64, next: (u64, u8, Option<Leaf>)) {
        let (shift, (table, restrictions, two)) = (level.shift(granule), next);
        let start = input & !((1 << shift) - 1);
        let leaf = Leaf { start, shift, level, granule, ..self.flat() };
        let entry = self.entry(input, leaf, start, 1 << shift);
        self.insert(Entry { kind, global: kind == Kind::Table2, two, table, restrictions, ..entry });
    }

    /// How much of a leaf an entry covers: all of it, one page of it, or a Contiguous group around it.
    fn extent(&mut self, input: u64, leaf: &Leaf, slot: Option<u64>) -> (u64, u64) {
        let size = 1 << leaf.shift;
        if let (true, Some(group), Some(slot)) = (leaf.contiguous, contiguous_group(leaf.granule, leaf.level), slot)
            && self.choices.chance(Point::Fill, self.profile.coalesce)
        {
            let group = group as u64;
            // A mix of invalid and valid descriptors is no misprogramming (I_PGVGZ), so an entry for the group is
            // made only if every one of them maps; whether they agree is software's business (R_NGLXZ, R_JQQTC).
            let first = slot & !(group * 8 - 1);
            let maps = |raw: Option<u64>| {
                raw.is_some_and(|raw| {
                    let kind = Descriptor::from_raw(raw).kind(leaf.granule, leaf.level);
                    raw & AF != 0 && matches!(kind, DescriptorKind::Block | DescriptorKind::Page)
                })
            };
            let over_invalid = self.profile.has(Defect::ContiguousOverInvalid);
            if over_invalid || (0..group).all(|index| maps(self.read(first + index * 8))) {
                let start = input & !(group * size - 1);
                let past = self.profile.has(Defect::ContiguousPastGroup);
                return (start, group * size * if past { 2 } else { 1 });
            }
        }
        let page = leaf.granule.page_size();
        if size > page && self.choices.chance(Point::Fill, self.profile.fracture) {
            return (input & !(page - 1), page);
        }
        (leaf.start, size)
    }

    /// Keeps a translation of `ipa`; of a Contiguous group only with the `slot` of its descriptor.
    pub(super) fn keep_stage2(&mut self, ipa: u64, leaf: Leaf, slot: Option<u64>) {
        if leaf.nt && self.profile.nt != Nt::Kept {
            return;
        }
        let (start, size) = self.extent(ipa, &leaf, slot);
        let entry = self.entry(ipa, leaf, start, size);
        self.insert(Entry { kind: Kind::Stage2, global: true, flat: false, ..entry });
    }

    /// Keeps a translation of `va`, combined or stage by stage. Most profiles keep nothing with nT (I_DXRJK).
    pub(super) fn keep(&mut self, va: u64, one: Leaf, slot: Option<u64>, two: Option<Leaf>) {
        if (one.nt || two.is_some_and(|two| two.nt)) && self.profile.nt != Nt::Kept {
            return;
        }
        let flat = slot.is_none();
        let Some(two) = two else {
            if !flat {
                let (start, size) = self.extent(va, &one, slot);
                self.insert(self.entry(va, one, start, size));
            }
            return;
        };
        let ipa = one.output(va);
        let apart = self.choices.chance(Point::Fill, self.profile.split_stages);
        let both = apart && self.choices.chance(Point::Fill, Odds::one_in(2));
        let first = (!flat).then(|| self.extent(va, &one, slot));
        // A stage 2 group is kept only with its own walk, in `stage2`.
        let (start2, size2) = self.extent(ipa, &two, None);
        if apart {
            if let Some((start, size)) = first {
                self.insert(Entry { kind: Kind::Stage1, ..self.entry(va, one, start, size) });
            }
            let entry = self.entry(ipa, two, start2, size2);
            self.insert(Entry { kind: Kind::Stage2, global: true, flat: false, ..entry });
        }
        if !apart || both {
            let (start, size) = first.unwrap_or((one.start, 1 << one.shift));
            // In terms of the VA, what both stages cover.
            let start2 = start2.wrapping_sub(one.delta);
            let first = start.max(start2);
            let end = (start + size).min(start2.wrapping_add(size2));
            // With stage 1 off, a TLBI by VA finds the entry by what stage 2's descriptor maps.
            let one = if flat {
                Leaf { start: two.start, shift: two.shift, level: two.level, granule: two.granule, ..one }
            } else {
                one
            };
            self.insert(Entry { two: Some(two), ..self.entry(va, one, first, end - first) });
        }
    }
}

/// S2AP and `XN[1:0]` as FEAT_XNX has them.
const fn stage2_permissions(raw: u64, clean: bool) -> Permissions {
    let mut data = 0;
    if raw & 1 << 6 != 0 {
        data |= Permissions::READ;
    }
    if raw & S2AP_W != 0 || clean {
        data |= Permissions::WRITE;
    }
    let (el1, el0) = match raw >> 53 & 3 {
        0 => (Permissions::EXECUTE, Permissions::EXECUTE),
        1 => (0, Permissions::EXECUTE),
        2 => (0, 0),
        _ => (Permissions::EXECUTE, 0),
    };
    Permissions::new(data | el1, data | el0)
}

/// `MemAttr[3:0]` as the byte of MAIR that means the same.
const fn stage2_attr(raw: u64) -> u8 {
    const fn normal(field: u8) -> u8 {
        match field {
            1 => 0x4,
            2 => 0xb,
            _ => 0xf,
        }
    }
    let field = (raw >> 2 & 0xf) as u8;
    if field >> 2 == 0 { field << 2 } else { normal(field >> 2) << 4 | normal(field & 3) }
}

/// Both stages' attributes: Device wins over Normal, and of two of a kind the stronger or less cacheable (DDI 0487
/// D8.6).
pub(super) fn combine(one: u8, two: u8) -> u8 {
    let half = |a: u8, b: u8| match (a.max(4), b.max(4)) {
        (4, _) | (_, 4) => 4,
        (a, b) if a >= 0xc && b >= 0xc => a & b | 0xc,
        (a, _) => 0x8 | a & 3,
    };
    match (Device::of(one), Device::of(two)) {
        (Some(a), Some(b)) => (a.min(b) as u8) << 2,
        (Some(a), None) => (a as u8) << 2,
        (None, Some(b)) => (b as u8) << 2,
        (None, None) => half(one >> 4, two >> 4) << 4 | half(one & 0xf, two & 0xf),
    }
}
