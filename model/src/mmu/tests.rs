//! The TLB against a memory of its own, without instructions.

use std::collections::BTreeMap;

use proptest::prelude::*;
use vmsa::{
    Granule, Level,
    descriptor::{Attributes, Descriptor, DescriptorKind, contiguous_group},
    layout::{Layout, Width},
};

use super::*;
use crate::machine;

const WINDOW: u64 = 0x80_0000_0000;
const OLD: u64 = 0x40_0000_0000;
const NEW: u64 = 0x50_0000_0000;
const ASID: u64 = 5;
const VMID: u64 = 9;

/// Tables of stage 1 and stage 2, one a level, and a second one for the last two levels.
const fn table(stage: u64, level: Level) -> u64 {
    0x100_0000 * stage + 0x10_0000 * (level.number() + 1) as u64
}

/// Level of the first table for 48 bits.
fn start(granule: Granule) -> Level {
    if granule == Granule::K64 { Level::L1 } else { Level::L0 }
}

fn slot2(level: Level, ipa: u64) -> u64 {
    table(4, level) + level.index(Granule::K4, ipa) as u64 * 8
}

#[derive(Default)]
struct Memory {
    words: BTreeMap<u64, u64>,
    /// Storing PE, address, value before.
    stores: Vec<(usize, u64, u64)>,
}

impl TableMemory for Memory {
    fn read64(&self, pa: u64) -> Option<u64> {
        // Data is its own address, so that no two places hold the same; tables are zero at first.
        let data = if pa < 0x1000_0000 { 0 } else { pa };
        (pa < 1 << 47).then(|| self.words.get(&pa).copied().unwrap_or(data))
    }

    fn contents(&self, pa: u64) -> Option<u64> {
        self.read64(pa)
    }

    fn before(&self, pa: u64, nth: usize) -> Option<u64> {
        self.stores.iter().filter(|store| store.1 == pa).map(|store| store.2).nth(nth)
    }

    fn before_synchronisation(&self, _pa: u64) -> Option<u64> {
        None
    }

    fn cas64(&mut self, pa: u64, old: u64, new: u64) -> bool {
        let same = self.read64(pa) == Some(old);
        if same {
            self.words.insert(pa, new);
        }
        same
    }
}

#[derive(Clone, Copy)]
enum Step {
    Store(u64, u64),
    /// With the ISB that belongs behind it.
    Dsb(Scope),
    DsbAlone,
    DsbLoads,
    /// op1, CRm, op2, operand.
    Tlbi(u8, u8, u8, u64),
    /// Its nXS form.
    Nxs(u8, u8, u8, u64),
}

struct World<T: Lookaside = Tlb> {
    mmus: Vec<Mmu<T>>,
    memory: Memory,
    context: Context,
    choices: Choices,
    granule: Granule,
}

const RW: Attributes = Attributes { not_global: true, ..Attributes::NORMAL_RW };

impl World {
    fn new(profile: Profile, seed: u64, granule: Granule, stage2: bool) -> Self {
        Self::with(profile, seed, granule, stage2)
    }
}

impl<T: Lookaside> World<T> {
    fn with(profile: Profile, seed: u64, granule: Granule, stage2: bool) -> Self {
        let tg = match granule {
            Granule::K4 => 0,
            Granule::K16 => 2,
            Granule::K64 => 1,
        };
        let start = start(granule);
        let context = Context {
            sctlr_el1: 1,
            ttbr0_el1: table(1, start) | ASID << 48,
            tcr_el1: 16 | tg << 14 | 1 << 23 | 5 << 32,
            mair_el1: 0xff,
            hcr_el2: u64::from(stage2),
            vtcr_el2: 16 | 2 << 6 | 5 << 16,
            vttbr_el2: table(4, Level::L0) | VMID << 48,
            ..Context::default()
        };
        let mut world = Self {
            mmus: vec![Mmu::new(profile); 2],
            memory: Memory::default(),
            context,
            choices: Choices::new(seed),
            granule,
        };
        world.sync();
        if stage2 {
            // Tables, and the frames both old and new; blocks of 1 GiB of stage 2.
            for ipa in [0, OLD, NEW] {
                world.place2(Level::L1, ipa, ipa | 0x7fd);
            }
        }
        world
    }

    fn sync(&mut self) {
        for mmu in &mut self.mmus {
            mmu.context_sync(&self.context, &mut self.choices);
        }
    }

    fn start(&self) -> Level {
        start(self.granule)
    }

    fn slot(&self, level: Level, va: u64) -> u64 {
        table(1, level) + level.index(self.granule, va) as u64 * 8
    }

    /// Table descriptors down to `level`, and `leaf` there.
    fn place(&mut self, level: Level, va: u64, leaf: u64) {
        for above in (self.start().number()..level.number()).filter_map(Level::new) {
            let next = above.next().expect("above a leaf");
            self.memory.words.insert(self.slot(above, va), Descriptor::table(table(1, next)).raw());
        }
        self.memory.words.insert(self.slot(level, va), leaf);
    }

    fn place2(&mut self, level: Level, ipa: u64, leaf: u64) {
        for above in (0..level.number()).filter_map(Level::new) {
            let next = above.next().expect("above a leaf");
            self.memory.words.insert(slot2(above, ipa), Descriptor::table(table(4, next)).raw());
        }
        self.memory.words.insert(slot2(level, ipa), leaf);
    }

    fn access(&mut self, pe: usize, va: u64, kind: Kind) -> Result<Translated, Fault> {
        let request = Request { va, kind, el: 1, privileged: true, pan: false };
        self.mmus[pe].translate(request, &self.context, &mut self.memory, &mut self.choices)
    }

    fn load(&mut self, pe: usize, va: u64) -> Result<u64, u8> {
        self.access(pe, va, Kind::Load).map(|t| t.pa).map_err(|f| f.fsc)
    }

    /// Accesses by both PEs with the TLBs' own doings in between; what they saw.
    fn churn(&mut self, vas: &[u64], times: u32) -> Seen {
        let mut seen = Vec::new();
        for _ in 0..times {
            for pe in 0..self.mmus.len() {
                self.mmus[pe].step(1, &self.context, &mut self.memory, &mut self.choices);
                for va in vas {
                    seen.push((*va, self.load(pe, *va)));
                }
            }
        }
        seen
    }

    /// PE 0 takes steps, with `churn` after each.
    fn run(&mut self, steps: &[Step], vas: &[u64]) -> Seen {
        let mut seen = Vec::new();
        for step in steps {
            self.step(*step);
            seen.extend(self.churn(vas, 2));
        }
        seen
    }

    fn tlbi(&mut self, encoding: (u8, u8, u8, u8), operand: u64) {
        let lpa2 = self.mmus[0].profile().lpa2;
        let op = TlbiOp::decode(encoding, operand, &self.context, lpa2).expect("a TLBI");
        tlbi(&mut self.mmus, 0, op, encoding.0 == 0, &self.context, &mut self.choices);
    }

    fn step(&mut self, step: Step) {
        let dsb = |scope, loads_and_stores| Dsb { scope, loads_and_stores, nxs: false };
        match step {
            Step::Store(pa, value) => {
                let before = self.memory.read64(pa).expect("a table");
                self.memory.stores.push((0, pa, before));
                self.memory.words.insert(pa, value);
            }
            Step::Dsb(scope) => {
                self.memory.stores.retain(|store| store.0 != 0);
                complete(&mut self.mmus, 0, dsb(scope, true), &mut self.choices);
                self.mmus[0].context_sync(&self.context, &mut self.choices);
            }
            Step::DsbAlone => complete(&mut self.mmus, 0, dsb(Scope::Inner, true), &mut self.choices),
            Step::DsbLoads => complete(&mut self.mmus, 0, dsb(Scope::Inner, false), &mut self.choices),
            Step::Tlbi(op1, crm, op2, operand) => self.tlbi((op1, 8, crm, op2), operand),
            Step::Nxs(op1, crm, op2, operand) => self.tlbi((op1, 9, crm, op2), operand),
        }
    }
}

const ISH: Step = Step::Dsb(Scope::Inner);
/// VAE1IS, VALE1IS, VAE1, VMALLE1IS, IPAS2E1IS.
const fn vae1is(va: u64) -> Step {
    Step::Tlbi(0, 3, 1, va >> 12 | ASID << 48)
}
const fn vale1is(va: u64) -> Step {
    Step::Tlbi(0, 3, 5, va >> 12 | ASID << 48)
}
const VMALLE1IS: Step = Step::Tlbi(0, 3, 0, 0);
const fn ipas2e1is(ipa: u64) -> Step {
    Step::Tlbi(4, 0, 1, ipa >> 12)
}

/// Granule and level of every leaf that fits the tables.
fn places() -> impl Iterator<Item = (Granule, Level)> {
    use Granule::{K4, K16, K64};
    [
        (K4, Level::L3),
        (K4, Level::L2),
        (K4, Level::L1),
        (K16, Level::L3),
        (K16, Level::L2),
        (K64, Level::L3),
        (K64, Level::L2),
    ]
    .into_iter()
}

fn ideals() -> impl Iterator<Item = Profile> {
    Profile::ALL.into_iter().filter(|profile| profile.name != "benign")
}

fn profile(name: &str) -> Profile {
    Profile::named(name).expect("a profile")
}

/// A leaf that maps the window to `oa`.
fn leaf(granule: Granule, level: Level, oa: u64) -> u64 {
    Descriptor::leaf(granule, level, oa, RW).raw()
}

#[test]
fn after_a_full_sequence_no_profile_returns_the_old_translation() {
    for profile in Profile::ALL {
        for (granule, level) in places() {
            for stage2 in [false, granule == Granule::K4] {
                for seed in 0..200 {
                    let mut world = World::new(profile, seed, granule, stage2);
                    world.place(level, WINDOW, leaf(granule, level, OLD));
                    let slot = world.slot(level, WINDOW);
                    let far = WINDOW + level.size(granule) - 8;
                    let vas = [WINDOW, far];
                    assert!(world.churn(&vas, 2).iter().all(|(va, seen)| *seen == Ok(va - WINDOW + OLD)));
                    let during = world.run(&[Step::Store(slot, 0), ISH, vae1is(far)], &vas);
                    let fault = Err(TRANSLATION | level.number() as u8);
                    assert!(during.iter().all(|(va, seen)| *seen == Ok(va - WINDOW + OLD) || *seen == fault));
                    world.step(ISH);
                    let broken = world.churn(&vas, 4);
                    assert!(
                        broken.iter().all(|(_, seen)| *seen == fault),
                        "{} {granule} {level} {seed} {broken:x?}",
                        profile.name
                    );
                    let new = leaf(granule, level, NEW);
                    let making = world.run(&[Step::Store(slot, new)], &vas);
                    assert!(making.iter().all(|(va, seen)| *seen == Ok(va - WINDOW + NEW) || *seen == fault));
                    world.step(ISH);
                    let made = world.churn(&vas, 4);
                    assert!(made.iter().all(|(va, seen)| *seen == Ok(va - WINDOW + NEW)), "{} {seed}", profile.name);
                }
            }
        }
    }
}

/// Whether PE 1 or PE 0 still sees `old` after `steps`, for some profile and seed.
fn survives(setup: impl Fn(&mut World), steps: &[Step], vas: &[u64], old: u64, stage2: bool) -> bool {
    ideals().any(|profile| {
        (0..200).any(|seed| {
            let mut world = World::new(profile, seed, Granule::K4, stage2);
            setup(&mut world);
            world.churn(vas, 2);
            world.run(steps, vas);
            world.churn(vas, 2).iter().any(|(va, seen)| *seen == Ok(va - WINDOW + old))
        })
    })
}

#[test]
fn each_step_left_out_or_weakened_lets_the_old_translation_survive() {
    let setup = |world: &mut World| world.place(Level::L3, WINDOW, leaf(Granule::K4, Level::L3, OLD));
    let slot = World::new(profile("benign"), 0, Granule::K4, false).slot(Level::L3, WINDOW);
    let (store, tlbi) = (Step::Store(slot, 0), vae1is(WINDOW));
    let vae1 = |asid: u64, ttl: u64, va: u64| Step::Tlbi(0, 3, 1, va >> 12 | ttl << 44 | asid << 48);
    let lives = |steps: &[Step]| survives(setup, steps, &[WINDOW], OLD, false);
    assert!(!lives(&[store, ISH, tlbi, ISH]));
    assert!(!lives(&[store, ISH, vae1(ASID, 0b0111, WINDOW), ISH]), "the right TTL");
    let wrong: [(&str, &[Step]); 11] = [
        ("no DSB after the store", &[store, tlbi, ISH]),
        ("no TLBI", &[store, ISH, ISH]),
        ("no DSB after the TLBI", &[store, ISH, tlbi]),
        ("no ISB after the DSB", &[store, ISH, tlbi, Step::DsbAlone]),
        ("a DSB for loads only", &[store, ISH, tlbi, Step::DsbLoads]),
        ("a DSB that does not reach", &[store, ISH, tlbi, Step::Dsb(Scope::NonShareable)]),
        ("a local TLBI", &[store, ISH, Step::Tlbi(0, 7, 1, WINDOW >> 12 | ASID << 48), ISH]),
        ("another ASID", &[store, ISH, vae1(ASID + 1, 0, WINDOW), ISH]),
        ("another VA", &[store, ISH, vae1(ASID, 0, WINDOW + 0x1000), ISH]),
        ("a wrong TTL", &[store, ISH, vae1(ASID, 0b0110, WINDOW), ISH]),
        ("the wrong regime", &[store, ISH, Step::Tlbi(4, 3, 0, 0), ISH]),
    ];
    for (what, steps) in wrong {
        assert!(lives(steps), "{what}");
    }
}

#[test]
fn a_last_level_form_leaves_table_descriptors() {
    // A table, of which only the window's first page maps something, becomes a block.
    let setup = |world: &mut World| world.place(Level::L3, WINDOW, leaf(Granule::K4, Level::L3, OLD));
    let slot = World::new(profile("benign"), 0, Granule::K4, false).slot(Level::L2, WINDOW);
    let lives = |tlbi| survives(setup, &[Step::Store(slot, 0), ISH, tlbi, ISH], &[WINDOW], OLD, false);
    assert!(lives(vale1is(WINDOW)));
    assert!(!lives(vae1is(WINDOW)));
}

#[test]
fn stage_2_needs_both_invalidations() {
    let setup = |world: &mut World| {
        world.place(Level::L3, WINDOW, leaf(Granule::K4, Level::L3, OLD));
        world.place2(Level::L3, OLD, OLD | 0x7ff);
    };
    let store = Step::Store(slot2(Level::L3, OLD), 0);
    let lives = |steps: &[Step]| survives(setup, steps, &[WINDOW], OLD, true);
    assert!(!lives(&[store, ISH, ipas2e1is(OLD), ISH, VMALLE1IS, ISH]));
    assert!(!lives(&[store, ISH, Step::Tlbi(4, 3, 6, 0), ISH]), "VMALLS12E1IS");
    assert!(lives(&[store, ISH, ipas2e1is(OLD), ISH]), "combined entries stay (R_TVTYQ)");
    assert!(lives(&[store, ISH, VMALLE1IS, ISH]), "stage 2 entries stay");
    assert!(lives(&[store, ISH, vae1is(WINDOW), ISH]));
}

/// Stage 1 off is no excuse (I_CKZGP).
#[test]
fn stage_2_needs_both_invalidations_with_stage_1_off() {
    let run = |steps: &[Step]| {
        ideals().any(|profile| {
            (0..200).any(|seed| {
                let mut world = World::new(profile, seed, Granule::K4, true);
                world.context.sctlr_el1 = 0;
                world.sync();
                world.place2(Level::L3, OLD, OLD | 0x7ff);
                world.churn(&[OLD], 2);
                world.run(steps, &[OLD]);
                world.churn(&[OLD], 2).iter().any(|(_, seen)| *seen == Ok(OLD))
            })
        })
    };
    let store = Step::Store(slot2(Level::L3, OLD), 0);
    assert!(!run(&[store, ISH, ipas2e1is(OLD), ISH, VMALLE1IS, ISH]));
    assert!(run(&[store, ISH, ipas2e1is(OLD), ISH]));
    assert!(run(&[store, ISH, VMALLE1IS, ISH]));
}

/// A split of the window's 2 MiB block: the table at level 3 maps the same, then the block gives way.
fn split(world: &mut World) -> (u64, u64) {
    world.place(Level::L2, WINDOW, leaf(Granule::K4, Level::L2, OLD));
    for page in 0..512 {
        let slot = world.slot(Level::L3, WINDOW + page * 0x1000);
        world.memory.words.insert(slot, leaf(Granule::K4, Level::L3, OLD + page * 0x1000));
    }
    (world.slot(Level::L2, WINDOW), Descriptor::table(table(1, Level::L3)).raw())
}

const SPLIT_VAS: [u64; 3] = [WINDOW, WINDOW + 0x1008, WINDOW + 0x1f_f000];

/// What a direct split shows before its last DSB, and after.
fn direct_split(profile: Profile, seed: u64, stage2: bool) -> [Vec<(u64, Result<Translated, Fault>)>; 2] {
    let mut world = World::new(profile, seed, Granule::K4, stage2);
    let (slot, new) = split(&mut world);
    world.churn(&SPLIT_VAS, 2);
    let look = |world: &mut World| {
        let mut seen = Vec::new();
        for (pe, va) in [(0, 0), (1, 1), (1, 0), (0, 2), (1, 2), (0, 1)] {
            world.mmus[pe].step(1, &world.context, &mut world.memory, &mut world.choices);
            let result = world.access(pe, SPLIT_VAS[va], Kind::Store);
            if result.is_err_and(|fault| fault.fsc == CONFLICT) {
                let (asid, vmid) = (ASID as u16, VMID as u16);
                let tags = Tags { regime: Regime::El10, asid, vmid, flat: false, any_asid: false };
                let matching: Vec<_> = world.mmus[pe].tlb.matching(&tags, SPLIT_VAS[va]).collect();
                assert!(
                    matching.iter().any(|a| matching.iter().any(|b| (a.kind, a.one.level) != (b.kind, b.one.level))),
                    "{matching:?}"
                );
            }
            seen.push((SPLIT_VAS[va], result));
        }
        seen
    };
    let mut during = Vec::new();
    for step in [Step::Store(slot, new), ISH, vae1is(WINDOW)] {
        world.step(step);
        during.extend(look(&mut world));
    }
    world.step(ISH);
    let mut after = look(&mut world);
    after.extend(look(&mut world));
    [during, after]
}

#[test]
fn a_direct_split_shows_what_the_profile_allows_and_nothing_after() {
    for profile in Profile::ALL {
        let (mut conflicts, mut others) = (0, 0);
        for seed in 0..200 {
            for stage2 in [false, true] {
                let [during, after] = direct_split(profile, seed, stage2);
                for (va, seen) in during {
                    match seen {
                        Ok(t) if t.pa == va - WINDOW + OLD => {}
                        Err(fault) if fault.fsc == CONFLICT => {
                            conflicts += 1;
                            let el2 = stage2 && profile.bbm != BbmLevel::L0;
                            assert_eq!((fault.taken_to, fault.stage2), if el2 { (2, true) } else { (1, false) });
                            assert_eq!(fault.va, va);
                        }
                        _ => others += 1,
                    }
                }
                assert!(
                    after.iter().all(|(va, seen)| seen.is_ok_and(|t| t.pa == va - WINDOW + OLD)),
                    "{}",
                    profile.name
                );
            }
        }
        assert_eq!(conflicts != 0, profile.size.abort, "{}: {conflicts} conflicts", profile.name);
        assert_eq!(others != 0, profile.size.amalgam, "{}: {others} amalgamations", profile.name);
    }
}

#[test]
fn permissions_may_change_without_a_break_and_never_conflict() {
    for profile in Profile::ALL {
        let mut stale = 0;
        for seed in 0..200 {
            let mut world = World::new(profile, seed, Granule::K4, seed % 2 == 0);
            world.place(Level::L3, WINDOW, leaf(Granule::K4, Level::L3, OLD));
            let slot = world.slot(Level::L3, WINDOW);
            world.churn(&[WINDOW], 2);
            let ro = Descriptor::leaf(Granule::K4, Level::L3, OLD, Attributes { writable: false, ..RW }).raw();
            for step in [Step::Store(slot, ro), ISH, vae1is(WINDOW)] {
                world.step(step);
                world.churn(&[WINDOW], 2);
                match world.access(1, WINDOW, Kind::Store) {
                    Ok(_) => stale += 1,
                    Err(fault) => assert_eq!((fault.fsc, fault.taken_to), (PERMISSION | 3, 1)),
                }
            }
            world.step(ISH);
            world.churn(&[WINDOW], 2);
            assert_eq!(world.access(1, WINDOW, Kind::Store).map_err(|fault| fault.fsc), Err(PERMISSION | 3));
            assert_eq!(world.load(1, WINDOW), Ok(OLD));
        }
        assert!(stale > 0, "{}", profile.name);
    }
}

/// Read-only, same contents: TLBI only, no conflict; other contents: what `other` says.
#[test]
fn contents_decide_whether_a_read_only_remap_needs_a_break() {
    let ro = |oa| Descriptor::leaf(Granule::K4, Level::L3, oa, Attributes { writable: false, ..RW }).raw();
    for same in [true, false] {
        let strange = (0..400).any(|seed| {
            let mut world = World::new(profile("ideal-l1-walk"), seed, Granule::K4, false);
            world.place(Level::L3, WINDOW, ro(OLD));
            if same {
                for offset in (0..0x1000).step_by(8) {
                    world.memory.words.insert(NEW + offset, OLD + offset);
                }
            }
            let slot = world.slot(Level::L3, WINDOW);
            world.churn(&[WINDOW], 2);
            let seen = world.run(&[Step::Store(slot, ro(NEW)), ISH], &[WINDOW]);
            seen.iter().any(|(_, seen)| ![Ok(OLD), Ok(NEW)].contains(seen))
        });
        assert_eq!(strange, !same);
    }
}

#[test]
fn nt_blocks_do_what_the_profile_says_and_the_sequence_is_sound() {
    for profile in Profile::ALL.into_iter().filter(|profile| profile.nt != Nt::Ignored) {
        let (mut faults, mut conflicts) = (0, 0);
        for seed in 0..200 {
            let mut world = World::new(profile, seed, Granule::K4, seed % 2 == 0);
            let (slot, new) = split(&mut world);
            let nt = Descriptor::from_raw(leaf(Granule::K4, Level::L2, OLD)).with_nt(true).raw();
            world.churn(&SPLIT_VAS, 2);
            let tlbi = vae1is(WINDOW);
            let during = world.run(&[Step::Store(slot, nt), ISH, tlbi, ISH], &SPLIT_VAS);
            let during = [during, world.run(&[Step::Store(slot, new), ISH, tlbi], &SPLIT_VAS)].concat();
            for (va, seen) in during {
                match seen {
                    Ok(pa) => assert_eq!(pa, va - WINDOW + OLD),
                    Err(CONFLICT) => conflicts += 1,
                    Err(fsc) => {
                        assert_eq!(fsc, TRANSLATION | 2);
                        faults += 1;
                    }
                }
            }
            world.step(ISH);
            assert!(world.churn(&SPLIT_VAS, 3).iter().all(|(va, seen)| *seen == Ok(va - WINDOW + OLD)));
        }
        assert_eq!(
            (faults != 0, conflicts != 0),
            (profile.nt == Nt::Fault, profile.nt == Nt::Kept),
            "{}",
            profile.name
        );
    }
    // At level 0 the bit is RES0 and nothing faults.
    let mut world = World::new(profile("ideal-l0"), 0, Granule::K4, false);
    world.place(Level::L2, WINDOW, Descriptor::from_raw(leaf(Granule::K4, Level::L2, OLD)).with_nt(true).raw());
    assert_eq!(world.load(0, WINDOW), Ok(OLD));
}

#[test]
fn a_contiguous_group_needs_a_tlbi_for_every_entry() {
    for (granule, level) in places() {
        let group = contiguous_group(granule, level).expect("a group") as u64;
        let size = level.size(granule);
        if (WINDOW + group * size) & (size * granule.entries() as u64 - 1)
            < WINDOW & (size * granule.entries() as u64 - 1)
        {
            continue;
        }
        let contiguous = Attributes { contiguous: true, ..RW };
        let vas = [WINDOW, WINDOW + (group - 1) * size];
        let run = |seed, all: bool| {
            let mut world = World::new(profile("ideal-l2-quiet"), seed, granule, false);
            for member in 0..group {
                let raw = Descriptor::leaf(granule, level, OLD + member * size, contiguous).raw();
                world.place(level, WINDOW + member * size, raw);
            }
            let before = world.churn(&vas, 2);
            assert!(before.iter().all(|(va, seen)| *seen == Ok(va - WINDOW + OLD)), "{granule} {level}");
            for member in 0..group {
                world.step(Step::Store(world.slot(level, WINDOW + member * size), 0));
            }
            world.step(ISH);
            for member in 0..if all { group } else { 1 } {
                world.step(vae1is(WINDOW + member * size));
            }
            world.step(ISH);
            world.churn(&vas, 2).iter().any(|(_, seen)| seen.is_ok())
        };
        assert!(!(0..60).any(|seed| run(seed, true)), "{granule} {level}");
        assert!((0..60).any(|seed| run(seed, false)), "{granule} {level}");
    }
}

/// A mix of invalid and valid Contiguous entries is no misprogramming (I_PGVGZ).
#[test]
fn an_invalid_member_of_a_contiguous_group_faults() {
    for profile in ideals() {
        for seed in 0..100 {
            let mut world = World::new(profile, seed, Granule::K4, false);
            for member in (0..16).filter(|member| *member != 3) {
                let raw = Descriptor::leaf(
                    Granule::K4,
                    Level::L3,
                    OLD + member * 0x1000,
                    Attributes { contiguous: true, ..RW },
                );
                world.place(Level::L3, WINDOW + member * 0x1000, raw.raw());
            }
            let seen = world.churn(&[WINDOW, WINDOW + 0x3000], 4);
            assert!(seen.iter().all(|(va, seen)| *seen == if *va == WINDOW { Ok(OLD) } else { Err(TRANSLATION | 3) }));
        }
    }
}

#[test]
fn hardware_updates_of_af_and_dirty_state() {
    for profile in Profile::ALL {
        for seed in 0..50 {
            for stage2 in [false, true] {
                let mut world = World::new(profile, seed, Granule::K4, stage2);
                let new = Attributes { access_flag: false, writable: false, dbm: true, ..RW };
                let raw = Descriptor::leaf(Granule::K4, Level::L3, OLD, new).raw();
                world.place(Level::L3, WINDOW, raw);
                let slot = world.slot(Level::L3, WINDOW);
                assert_eq!(world.load(0, WINDOW), Err(ACCESS_FLAG_L3));
                world.context.tcr_el1 |= 1 << 39;
                world.sync();
                assert_eq!(world.load(0, WINDOW), Ok(OLD));
                assert_eq!(world.memory.words[&slot], raw | 1 << 10);
                assert_eq!(world.access(0, WINDOW, Kind::Store).map_err(|f| f.fsc), Err(PERMISSION | 3), "HD is off");
                world.context.tcr_el1 |= 1 << 40;
                world.sync();
                world.step(vae1is(WINDOW));
                world.step(ISH);
                world.churn(&[WINDOW], 2);
                assert_eq!(world.memory.words[&slot], raw | 1 << 10, "nothing but a store makes it dirty");
                let kept = world.access(0, WINDOW, Kind::Load).expect("readable").page;
                assert!(kept.is_none_or(|page| page.load && !page.store), "a store has a descriptor to update");
                assert!(world.access(0, WINDOW, Kind::Store).is_ok());
                assert_eq!(world.memory.words[&slot], (raw | 1 << 10) & !(1 << 7));
            }
        }
    }
}

const ACCESS_FLAG_L3: u8 = walk::ACCESS_FLAG | 3;

#[test]
fn a_register_is_certain_only_after_synchronisation() {
    let run = |profile: Profile, sync: bool| {
        (0..100).any(|seed| {
            let mut world = World::new(profile, seed, Granule::K4, false);
            world.place(Level::L3, WINDOW, leaf(Granule::K4, Level::L3, OLD));
            // The other table maps the window by a block elsewhere, under another ASID.
            let other = 0x60_0000u64;
            let index =
                |level: Level| other + (level.number() as u64) * 0x1000 + level.index(Granule::K4, WINDOW) as u64 * 8;
            world.memory.words.insert(index(Level::L0), Descriptor::table(other + 0x1000).raw());
            world.memory.words.insert(index(Level::L1), leaf(Granule::K4, Level::L1, NEW));
            world.churn(&[WINDOW], 1);
            world.context.ttbr0_el1 = other | (ASID + 1) << 48;
            let generation = world.mmus[0].generation();
            world.mmus[0].register_written();
            assert_ne!(world.mmus[0].generation(), generation);
            assert!(world.access(0, WINDOW, Kind::Load).expect("mapped by both").page.is_none());
            if sync {
                world.sync();
            }
            (0..8).any(|_| world.load(0, WINDOW) == Ok(OLD))
        })
    };
    for profile in ideals() {
        assert!(run(profile, false), "{}", profile.name);
        assert!(!run(profile, true), "{}", profile.name);
        assert!(run(profile.with(Defect::IsbIneffective), true));
    }
    assert!(!run(profile("benign"), false));
}

/// What was handed out stays true while the generation stands and its page is not named as stale.
#[test]
fn a_kept_page_is_what_the_tlb_gives() {
    for profile in Profile::ALL {
        let (mut handed, mut checked) = (0, 0);
        for seed in 0..100 {
            let mut world = World::new(profile, seed, Granule::K4, seed % 2 == 0);
            let (slot, new) = split(&mut world);
            for step in [ISH, Step::Store(slot, new), ISH, vae1is(WINDOW), ISH] {
                world.step(step);
                for va in SPLIT_VAS.into_iter().cycle().take(30) {
                    let Ok(Translated { page: Some(page), pa, .. }) = world.access(1, va, Kind::Load) else { continue };
                    handed += 1;
                    assert_eq!((page.pa | va & 0xfff, page.load, page.store), (pa, true, true));
                    let generation = world.mmus[1].generation();
                    world.mmus[1].take_stale();
                    for _ in 0..4 {
                        let again = world.load(1, va);
                        let in_page = |(start, size): (u64, u64)| page.va.wrapping_sub(start & !0xfff) < size;
                        let named = world.mmus[1].take_stale().is_some_and(|mut ranges| ranges.any(in_page));
                        if world.mmus[1].generation() != generation || named {
                            break;
                        }
                        assert_eq!(again, Ok(pa), "{} {seed}", profile.name);
                        checked += 1;
                    }
                }
            }
        }
        assert!(handed > 1000 && checked > 1000, "{}: {handed} {checked}", profile.name);
    }
}

/// The walk of DDI 0487 once more, for stage 1 and 48 bits, as plainly as can be.
fn plain(world: &World, va: u64, write: bool) -> Result<u64, u8> {
    let mut level = world.start();
    loop {
        let descriptor = Descriptor::from_raw(world.memory.read64(world.slot(level, va)).expect("memory"));
        let number = level.number() as u8;
        match (descriptor.kind(world.granule, level), level.next()) {
            (DescriptorKind::Table, Some(next)) => level = next,
            (DescriptorKind::Block | DescriptorKind::Page, _) if !descriptor.af() => return Err(0b1000 | number),
            (DescriptorKind::Block | DescriptorKind::Page, _) if write && !descriptor.attributes().writable => {
                return Err(0b1100 | number);
            }
            (DescriptorKind::Block | DescriptorKind::Page, _) => {
                return Ok(descriptor.oa(world.granule, level) + (va & (level.size(world.granule) - 1)));
            }
            _ => return Err(0b0100 | number),
        }
    }
}

proptest! {
    /// Changes of any kind, each with a full TLBI: every profile is a plain walk of the tables then, benign or not.
    #[test]
    fn with_every_change_invalidated_the_tlb_is_a_plain_walk(
        seed: u64,
        which in 0usize..7,
        place in 0usize..7,
        changes in prop::collection::vec((any::<[bool; 4]>(), 0u64..4, 0u64..16), 1..12),
    ) {
        let profile = Profile::ALL[which];
        let (granule, level) = places().nth(place).expect("a place");
        let mut world = World::new(profile, seed, granule, false);
        for ([access_flag, writable, valid, not_global], index, oa) in changes {
            let va = WINDOW + index * level.size(granule);
            let attributes = Attributes { access_flag, writable, not_global, ..RW };
            let raw = Descriptor::leaf(granule, level, OLD + oa * level.size(granule), attributes).raw();
            world.place(level, va, if valid { raw } else { raw & !1 });
            world.step(VMALLE1IS);
            world.step(ISH);
            for index in 0..4 {
                for (pe, kind) in [(0, Kind::Load), (1, Kind::Store), (1, Kind::Load)] {
                    let va = WINDOW + index * level.size(granule) + 0x128;
                    let seen = world.access(pe, va, kind).map(|t| t.pa).map_err(|f| f.fsc);
                    prop_assert_eq!(seen, plain(&world, va, kind == Kind::Store));
                }
            }
        }
    }
}

/// Whether somebody still sees the window at `OLD` after these steps, full sequences all.
fn stale(world: &mut World, steps: &[Step], vas: &[u64]) -> bool {
    world.churn(vas, 2);
    world.run(steps, vas);
    world.churn(vas, 3).iter().any(|(va, seen)| *seen == Ok(va - WINDOW + OLD))
}

fn page(world: &mut World) -> u64 {
    world.place(Level::L3, WINDOW, leaf(Granule::K4, Level::L3, OLD));
    world.slot(Level::L3, WINDOW)
}

fn with_attributes(attributes: Attributes) -> u64 {
    Descriptor::leaf(Granule::K4, Level::L3, OLD, attributes).raw()
}

/// A stage 2 descriptor at `level` is broken with all that needs.
fn stage2_break(world: &mut World, level: Level) -> bool {
    page(world);
    if level != Level::L1 {
        world.place2(Level::L3, OLD, OLD | 0x7ff);
    }
    let store = Step::Store(slot2(level, OLD), 0);
    stale(world, &[store, ISH, ipas2e1is(OLD), ISH, VMALLE1IS, ISH], &[WINDOW])
}

/// What is wrong with a direct split of a writable block.
fn split_shows(world: &mut World, wrong: impl Fn(u64, Result<Translated, Fault>) -> bool) -> bool {
    let (slot, new) = split(world);
    world.churn(&SPLIT_VAS, 2);
    [Step::Store(slot, new), ISH, vae1is(WINDOW), ISH].into_iter().any(|step| {
        world.step(step);
        SPLIT_VAS.into_iter().cycle().take(12).any(|va| {
            world.mmus[1].step(1, &world.context, &mut world.memory, &mut world.choices);
            let seen = world.access(1, va, Kind::Store);
            wrong(va, seen)
        })
    })
}

fn group(world: &mut World) {
    for member in 0..16 {
        let raw =
            Descriptor::leaf(Granule::K4, Level::L3, OLD + member * 0x1000, Attributes { contiguous: true, ..RW });
        world.place(Level::L3, WINDOW + member * 0x1000, raw.raw());
    }
}

/// A use of the machine that is right, and whether something wrong was seen.
fn shows(defect: Defect, world: &mut World) -> bool {
    let fsc = |seen: Result<Translated, Fault>| seen.err().map(|fault| fault.fsc);
    match defect {
        Defect::ConflictAtLevel3 => split_shows(world, |_, seen| fsc(seen) == Some(CONFLICT)),
        Defect::AmalgamatedOa => split_shows(world, |va, seen| seen.is_ok_and(|t| t.pa != va - WINDOW + OLD)),
        Defect::AmalgamatedPermission => {
            split_shows(world, |_, seen| fsc(seen).is_some_and(|fsc| fsc & 0x3c == PERMISSION))
        }
        Defect::NoProgress => split_shows(world, |_, seen| seen.is_err_and(|fault| fault.stall)),
        Defect::ConflictWrongEl => {
            split_shows(world, |_, seen| seen.is_err_and(|fault| fault.fsc == CONFLICT && fault.taken_to == 2))
        }
        Defect::ConflictWrongFsc => split_shows(world, |_, seen| fsc(seen).is_some_and(|fsc| fsc != CONFLICT)),
        Defect::ConflictWrongFar => split_shows(world, |va, seen| seen.is_err_and(|fault| fault.va != va)),
        Defect::Stage2Escape => {
            // Stage 2 maps the one onto the other here, so that a way round it is seen.
            world.place2(Level::L1, OLD, NEW | 0x7fd);
            split_shows(world, |va, seen| seen.is_ok_and(|t| t.pa != va - WINDOW + NEW))
        }
        Defect::BlockAfterVa => {
            world.place(Level::L2, WINDOW, leaf(Granule::K4, Level::L2, OLD));
            let slot = world.slot(Level::L2, WINDOW);
            stale(world, &[Step::Store(slot, 0), ISH, vae1is(WINDOW + 0x1f_f000), ISH], &[WINDOW, WINDOW + 0x1f_f000])
        }
        Defect::RangeLastPage => {
            page(world);
            let last = WINDOW + 0x1000;
            world.place(Level::L3, last, leaf(Granule::K4, Level::L3, OLD + 0x1000));
            let slot = world.slot(Level::L3, last);
            // RVAE1IS, 4K, two pages.
            let range = Step::Tlbi(0, 2, 1, WINDOW >> 12 | 1 << 46 | ASID << 48);
            stale(world, &[Step::Store(slot, 0), ISH, range, ISH], &[last])
        }
        Defect::TtlMisread => {
            let slot = page(world);
            stale(
                world,
                &[Step::Store(slot, 0), ISH, Step::Tlbi(0, 3, 1, WINDOW >> 12 | 0b0111 << 44 | ASID << 48), ISH],
                &[WINDOW],
            )
        }
        Defect::BroadcastMissesPe | Defect::AsidKept | Defect::EarlyDsb => {
            let slot = page(world);
            stale(world, &[Step::Store(slot, 0), ISH, vae1is(WINDOW), ISH], &[WINDOW])
        }
        Defect::VmidKept => {
            let slot = page(world);
            stale(world, &[Step::Store(slot, 0), ISH, VMALLE1IS, ISH], &[WINDOW])
        }
        Defect::VmallKeepsTables | Defect::VaKeepsTables => {
            page(world);
            let slot = world.slot(Level::L2, WINDOW);
            let tlbi = if defect == Defect::VaKeepsTables { vae1is(WINDOW) } else { VMALLE1IS };
            stale(world, &[Step::Store(slot, 0), ISH, tlbi, ISH], &[WINDOW])
        }
        Defect::Alle2KeepsTables | Defect::El2IsLocal | Defect::TgeIgnored => {
            page(world);
            let Context { ttbr0_el1, mair_el1, tcr_el1, .. } = world.context;
            let of_el2 = Context { ttbr0_el2: ttbr0_el1 & !(0xffff << 48), mair_el2: mair_el1, ..world.context };
            world.context = if defect == Defect::TgeIgnored {
                Context { sctlr_el2: 1, tcr_el2: tcr_el1, ttbr0_el2: ttbr0_el1, hcr_el2: HOST, ..of_el2 }
            } else {
                Context { sctlr_el2: 1, tcr_el2: 16 | 5 << 16 | 1 << 23 | 1 << 31, ..of_el2 }
            };
            world.sync();
            let slot = world.slot(Level::L2, WINDOW);
            let load = |world: &mut World| {
                let request = Request { va: WINDOW, kind: Kind::Load, el: 2, privileged: true, pan: false };
                world.mmus[1].translate(request, &world.context, &mut world.memory, &mut world.choices).is_ok()
            };
            assert!((0..4).all(|_| load(world)), "mapped");
            // ALLE2IS, or VMALLE1IS.
            let op1 = if defect == Defect::TgeIgnored { 0 } else { 4 };
            world.run(&[Step::Store(slot, 0), ISH, Step::Tlbi(op1, 3, 0, 0), ISH], &[]);
            (0..4).any(|_| load(world))
        }
        Defect::IpaKeepsTables => stage2_break(world, Level::L2),
        Defect::CombinedKept => stage2_break(world, Level::L3),
        Defect::IpaKeepsBlocks => stage2_break(world, Level::L1),
        Defect::NtIgnored | Defect::NtWrongStatus => {
            let (slot, new) = split(world);
            let nt = Descriptor::from_raw(leaf(Granule::K4, Level::L2, OLD)).with_nt(true).raw();
            world.churn(&SPLIT_VAS, 2);
            let steps =
                [Step::Store(slot, nt), ISH, vae1is(WINDOW), ISH, Step::Store(slot, new), ISH, vae1is(WINDOW), ISH];
            let seen = world.run(&steps, &SPLIT_VAS);
            seen.iter().any(|(va, seen)| {
                *seen != Ok(va - WINDOW + OLD) && ![Err(TRANSLATION | 2), Err(CONFLICT)].contains(seen)
            })
        }
        Defect::ContiguousPastGroup => {
            group(world);
            let beyond = WINDOW + 0x1_0000;
            world.place(Level::L3, beyond, leaf(Granule::K4, Level::L3, NEW));
            world.churn(&[WINDOW, beyond], 6).contains(&(beyond, Ok(OLD + 0x1_0000)))
        }
        Defect::ContiguousPartKept => {
            group(world);
            let mut steps: Vec<_> =
                (0..16).map(|member| Step::Store(world.slot(Level::L3, WINDOW + member * 0x1000), 0)).collect();
            steps.push(ISH);
            steps.extend((0..16).map(|member| vae1is(WINDOW + member * 0x1000)));
            world.churn(&[WINDOW, WINDOW + 0xf000], 2);
            for step in steps {
                world.step(step);
            }
            world.step(ISH);
            world.load(1, WINDOW + 0xf000).is_ok()
        }
        Defect::ReadOnlyKept => {
            let slot = page(world);
            world.memory.words.insert(slot, with_attributes(Attributes { writable: false, ..RW }));
            stale(world, &[Step::Store(slot, with_attributes(RW)), ISH, vae1is(WINDOW), ISH], &[WINDOW]);
            world.access(1, WINDOW, Kind::Store).is_err()
        }
        Defect::ExecuteKept => {
            let slot = page(world);
            world.memory.words.insert(slot, with_attributes(Attributes { el1_execute: true, ..RW }));
            stale(world, &[Step::Store(slot, with_attributes(RW)), ISH, vae1is(WINDOW), ISH], &[WINDOW]);
            world.access(1, WINDOW, Kind::Fetch).is_ok()
        }
        Defect::UserExecuteKept | Defect::PxnForUxn => {
            let slot = page(world);
            let fetch = |world: &mut World| {
                let request = Request { va: WINDOW, kind: Kind::Fetch, el: 0, privileged: false, pan: false };
                world.mmus[1].translate(request, &world.context, &mut world.memory, &mut world.choices).is_ok()
            };
            if defect == Defect::PxnForUxn {
                world.memory.words.insert(slot, with_attributes(Attributes { el1_execute: true, ..RW }));
                world.churn(&[WINDOW], 1);
                return fetch(world);
            }
            world.memory.words.insert(slot, with_attributes(Attributes { el0_execute: true, ..RW }));
            assert!(fetch(world));
            stale(world, &[Step::Store(slot, with_attributes(RW)), ISH, vae1is(WINDOW), ISH], &[WINDOW]);
            fetch(world)
        }
        Defect::UpdateMisplaced => {
            let slot = page(world);
            world.context.tcr_el1 |= 1 << 39;
            world.sync();
            world.memory.words.insert(slot, with_attributes(Attributes { access_flag: false, ..RW }));
            stale(world, &[Step::Store(slot, 0), ISH, vae1is(WINDOW), ISH], &[WINDOW]);
            world.memory.words[&slot] != 0
        }
        Defect::Torn => {
            let slot = page(world);
            let make = Step::Store(slot, leaf(Granule::K4, Level::L3, NEW));
            world.churn(&[WINDOW], 2);
            [Step::Store(slot, 0), ISH, vae1is(WINDOW), ISH, make, ISH].into_iter().any(|step| {
                world.step(step);
                world.mmus[1].step(1, &world.context, &mut world.memory, &mut world.choices);
                let seen = [Kind::Load, Kind::Store].map(|kind| world.access(1, WINDOW, kind));
                seen.iter().any(|seen| seen.is_ok_and(|t| t.torn.is_some_and(|torn| torn != t.pa + 4)))
            })
        }
        Defect::Reordered | Defect::IsbIneffective => {
            let slot = page(world);
            let new = leaf(Granule::K4, Level::L3, NEW);
            if defect == Defect::IsbIneffective {
                world.churn(&[WINDOW], 1);
                world.context.sctlr_el1 = 0;
                world.sync();
                return world.load(1, OLD) != Ok(OLD);
            }
            stale(world, &[Step::Store(slot, 0), ISH, vae1is(WINDOW), ISH, Step::Store(slot, new), ISH], &[WINDOW])
        }
        Defect::FaultCached | Defect::AccessFlagCached => {
            let slot = page(world);
            let raw = leaf(Granule::K4, Level::L3, NEW);
            let af = if defect == Defect::AccessFlagCached { raw & !(1 << 10) } else { 0 };
            world.memory.words.insert(slot, af);
            world.churn(&[WINDOW], 1);
            world.run(&[Step::Store(slot, raw), ISH], &[]);
            world.load(1, WINDOW).is_err()
        }
        Defect::NxsIgnored | Defect::OuterIsLocal | Defect::AsideIgnored => {
            let slot = page(world);
            let (tlbi, dsb) = match defect {
                Defect::NxsIgnored => (Step::Nxs(0, 3, 1, WINDOW >> 12 | ASID << 48), ISH),
                Defect::OuterIsLocal => (Step::Tlbi(0, 1, 1, WINDOW >> 12 | ASID << 48), Step::Dsb(Scope::Outer)),
                _ => (Step::Tlbi(0, 3, 2, ASID << 48), ISH),
            };
            stale(world, &[Step::Store(slot, 0), ISH, tlbi, dsb], &[WINDOW])
        }
        Defect::RangeScaleIgnored => {
            page(world);
            let far = WINDOW + 63 * 0x1000;
            world.place(Level::L3, far, leaf(Granule::K4, Level::L3, OLD + 63 * 0x1000));
            let slot = world.slot(Level::L3, far);
            // RVAE1IS, 4K, scale 1: 64 pages.
            let range = Step::Tlbi(0, 2, 1, WINDOW >> 12 | 1 << 46 | 1 << 44 | ASID << 48);
            stale(world, &[Step::Store(slot, 0), ISH, range, ISH], &[far])
        }
        Defect::RangeIn4K | Defect::PageByFirst4K => {
            world.place(Level::L3, WINDOW, leaf(Granule::K16, Level::L3, OLD));
            let slot = world.slot(Level::L3, WINDOW);
            let range = Step::Tlbi(0, 2, 1, WINDOW >> 14 | 2 << 46 | ASID << 48);
            let tlbi = if defect == Defect::RangeIn4K { range } else { vae1is(WINDOW + 0x3000) };
            stale(world, &[Step::Store(slot, 0), ISH, tlbi, ISH], &[WINDOW])
        }
        Defect::RangeBaseByPage | Defect::LargestBlocksKept | Defect::LargestTtlIgnored => {
            // With TCR_EL1.DS, a page, or a block of 512 GiB.
            let level = if defect == Defect::RangeBaseByPage { Level::L3 } else { Level::L0 };
            let layout = Layout { width: Width::Bits52, ..Layout::new(Granule::K4, level) };
            world.context.tcr_el1 |= 1 << 59;
            world.sync();
            world.place(level, WINDOW, layout.leaf(OLD, RW).raw());
            let slot = world.slot(level, WINDOW);
            world.churn(&[WINDOW], 2);
            let tlbi = match defect {
                Defect::RangeBaseByPage => Step::Tlbi(0, 2, 1, WINDOW >> 16 | 1 << 46 | ASID << 48),
                Defect::LargestBlocksKept => vae1is(WINDOW),
                _ => Step::Tlbi(0, 3, 1, WINDOW >> 12 | 0b0100 << 44 | ASID << 48),
            };
            world.run(&[Step::Store(slot, 0), ISH, tlbi, ISH], &[WINDOW]);
            world.churn(&[WINDOW], 2).iter().any(|(_, seen)| seen.is_ok())
        }
        Defect::RangeUnsigned => {
            let slot = page(world);
            let upper = 0xffff << 48 | WINDOW;
            world.context.tcr_el1 = world.context.tcr_el1 & !(1 << 23) | 2 << 30 | 16 << 16;
            world.context.ttbr1_el1 = table(1, Level::L0);
            world.sync();
            world.churn(&[upper], 2);
            let range = Step::Tlbi(0, 2, 1, upper >> 12 & ((1 << 37) - 1) | 1 << 46 | ASID << 48);
            world.run(&[Step::Store(slot, 0), ISH, range, ISH], &[upper]);
            world.churn(&[upper], 2).contains(&(upper, Ok(OLD)))
        }
        Defect::RangeKeepsTables => {
            page(world);
            let slot = world.slot(Level::L2, WINDOW);
            let range = Step::Tlbi(0, 2, 1, WINDOW >> 12 | 1 << 46 | ASID << 48);
            stale(world, &[Step::Store(slot, 0), ISH, range, ISH], &[WINDOW])
        }
        Defect::TtlKeepsBlocks => {
            world.place(Level::L2, WINDOW, leaf(Granule::K4, Level::L2, OLD));
            let slot = world.slot(Level::L2, WINDOW);
            let tlbi = Step::Tlbi(0, 3, 1, WINDOW >> 12 | 0b0110 << 44 | ASID << 48);
            stale(world, &[Step::Store(slot, 0), ISH, tlbi, ISH], &[WINDOW])
        }
        Defect::VaKeepsGlobal => {
            let slot = page(world);
            world.memory.words.insert(slot, with_attributes(Attributes::NORMAL_RW));
            stale(world, &[Step::Store(slot, 0), ISH, vae1is(WINDOW), ISH], &[WINDOW])
        }
        Defect::DeviceKept => {
            let slot = page(world);
            world.memory.words.insert(slot, with_attributes(Attributes { attr_index: 1, ..RW }));
            let make = Step::Store(slot, with_attributes(RW));
            stale(world, &[Step::Store(slot, 0), ISH, vae1is(WINDOW), ISH, make, ISH], &[WINDOW]);
            world.access(1, WINDOW, Kind::Load).is_ok_and(|t| t.device)
        }
        Defect::AsidIgnored => {
            page(world);
            world.churn(&[WINDOW], 2);
            // Another address space, with nothing there.
            world.context.ttbr0_el1 = table(3, Level::L0) | (ASID + 1) << 48;
            world.sync();
            world.load(1, WINDOW).is_ok()
        }
        Defect::AtStale | Defect::MaintenanceStale => {
            let slot = page(world);
            stale(world, &[Step::Store(slot, 0), ISH, vae1is(WINDOW), ISH], &[WINDOW]);
            let at = Kind::At { write: false, both_stages: false };
            let kind = if defect == Defect::AtStale { at } else { Kind::CacheMaintenance { writable: false } };
            world.access(1, WINDOW, kind).is_ok()
        }
        Defect::UnprivilegedIgnored => {
            page(world);
            world.churn(&[WINDOW], 1);
            let request = Request { va: WINDOW, kind: Kind::Store, el: 1, privileged: false, pan: false };
            world.mmus[1].translate(request, &world.context, &mut world.memory, &mut world.choices).is_ok()
        }
        Defect::DirtyByLoad | Defect::DirtyLost | Defect::CleanFaults => {
            let slot = page(world);
            world.context.tcr_el1 |= 3 << 39;
            world.sync();
            let clean = with_attributes(Attributes { writable: false, dbm: true, ..RW });
            world.memory.words.insert(slot, clean);
            world.churn(&[WINDOW], 2);
            if defect == Defect::DirtyByLoad {
                return world.memory.words[&slot] != clean;
            }
            let stored = world.access(1, WINDOW, Kind::Store);
            stored.is_err() || world.memory.words[&slot] == clean
        }
        Defect::ExecuteFar => {
            let slot = page(world);
            world.memory.words.insert(slot, with_attributes(Attributes { el1_execute: true, ..RW }));
            assert!(world.access(1, WINDOW, Kind::Fetch).is_ok());
            stale(world, &[Step::Store(slot, with_attributes(RW)), ISH, vae1is(WINDOW), ISH], &[WINDOW]);
            world.access(1, WINDOW, Kind::Fetch).expect_err("not executable").va != WINDOW
        }
        Defect::ContiguousNoProgress => {
            group(world);
            world.churn(&[WINDOW], 2);
            let slot = world.slot(Level::L3, WINDOW);
            [Step::Store(slot, with_attributes(RW)), ISH].into_iter().any(|step| {
                world.step(step);
                (0..8).any(|_| {
                    world.mmus[1].step(1, &world.context, &mut world.memory, &mut world.choices);
                    world.access(1, WINDOW, Kind::Store).is_err_and(|fault| fault.stall)
                })
            })
        }
        Defect::ContiguousOverInvalid => {
            group(world);
            let slot = world.slot(Level::L3, WINDOW + 0x3000);
            world.memory.words.insert(slot, 0);
            world.churn(&[WINDOW, WINDOW + 0x3000], 3).iter().any(|(va, seen)| *va != WINDOW && seen.is_ok())
        }
        Defect::TableFaultLevel => {
            page(world);
            world.churn(&[WINDOW, WINDOW + 0x1000], 3).iter().any(|(_, seen)| seen.is_err_and(|fsc| fsc & 3 != 3))
        }
        Defect::AtomicSplit | Defect::SeamByFirst | Defect::UpdateKeepsMonitors => {
            unreachable!("the machine's, which the MMU alone cannot show")
        }
    }
}

#[test]
fn each_defect_shows_and_a_sound_profile_does_not_show_it() {
    for defect in Defect::ALL.iter().copied() {
        let sound = profile(defect.profile());
        let stage2 = matches!(
            defect,
            Defect::Stage2Escape | Defect::IpaKeepsTables | Defect::IpaKeepsBlocks | Defect::CombinedKept
        );
        let granule = match defect {
            Defect::RangeIn4K | Defect::PageByFirst4K => Granule::K16,
            _ => Granule::K4,
        };
        let seen = |profile, seed| {
            machine::tests::shows(defect, profile, seed)
                .unwrap_or_else(|| shows(defect, &mut World::new(profile, seed, granule, stage2)))
        };
        assert!((0..300).any(|seed| seen(sound.with(defect), seed)), "{defect} does not show");
        assert!(!(0..300).any(|seed| seen(sound, seed)), "{defect} shows on a sound profile");
    }
}

/// What is kept of a whole leaf at `start`, of the ASID and the VMID in use.
fn entry(granule: Granule, level: Level, start: u64) -> Entry {
    let one = Leaf {
        start,
        shift: level.shift(granule),
        delta: 0,
        level,
        granule,
        contiguous: false,
        nt: false,
        not_global: true,
        permissions: Permissions::new(3, 0),
        clean: false,
        attr: 0xff,
        shareability: 3,
    };
    Entry {
        kind: EntryKind::Combined,
        regime: Regime::El10,
        global: false,
        asid: ASID as u16,
        vmid: VMID as u16,
        flat: false,
        start,
        size: level.size(granule),
        one,
        two: None,
        table: 0,
        restrictions: 0,
        fetch_only: false,
        lingers: false,
    }
}

/// HCR_EL2.{E2H, TGE}.
const HOST: u64 = 1 << 34 | 1 << 27;

/// Each form: an entry that must go, and its nearest neighbours, which must stay for no profile to be too kind.
#[test]
fn every_form_of_tlbi_removes_what_it_must_and_no_more() {
    let context = Context { vttbr_el2: VMID << 48, ..Context::default() };
    let page = entry(Granule::K4, Level::L3, WINDOW);
    let base = page.one;
    let at = |level: Level, entry: Entry| {
        let (shift, size) = (level.shift(Granule::K4), level.size(Granule::K4));
        let start = WINDOW & !(size - 1);
        Entry { start, size, one: Leaf { start, shift, level, ..base }, ..entry }
    };
    let next = Entry { start: WINDOW + 0x1000, one: Leaf { start: WINDOW + 0x1000, ..base }, ..page };
    let nested = Entry { two: Some(base), ..page };
    let stage1 = Entry { kind: EntryKind::Stage1, ..page };
    let table1 = at(Level::L2, Entry { kind: EntryKind::Table1, ..page });
    let stage2 = Entry { kind: EntryKind::Stage2, global: true, ..page };
    let stage2_next = Entry { kind: EntryKind::Stage2, ..next };
    let table2 = at(Level::L2, Entry { kind: EntryKind::Table2, global: true, ..page });
    let global = Entry { global: true, asid: 77, ..page };
    let other_asid = Entry { asid: 77, ..page };
    let other_table = Entry { asid: 77, ..table1 };
    let other_vmid = Entry { vmid: 77, ..page };
    let other_stage2 = Entry { vmid: 77, ..stage2 };
    let el2 = Entry { regime: Regime::El2, global: true, asid: 0, vmid: 0, ..page };
    let el2_table = Entry { regime: Regime::El2, asid: 0, vmid: 0, ..table1 };
    let el2_next = Entry { regime: Regime::El2, global: true, asid: 0, vmid: 0, ..next };
    let piece = Entry { start: WINDOW + 0x5000, size: 0x1000, ..at(Level::L2, page) };
    let granule = Entry { one: Leaf { granule: Granule::K16, ..base }, ..page };

    let va = WINDOW >> 12;
    let (with_asid, k4) = (va | ASID << 48, 1 << 46);
    // CRm of the local, IS and OS forms.
    let (one, range) = ([7, 3, 1], [6, 2, 5]);
    let check = |op1: u8, crms: [u8; 3], op2s: [u8; 3], operand: u64, go: &[Entry], stay: &[Entry]| {
        for (crm, op2) in crms.into_iter().zip(op2s) {
            for crn in [8, 9] {
                let op = TlbiOp::decode((op1, crn, crm, op2), operand, &context, false).expect("a TLBI");
                let issued = op.issue(&context, false);
                let removes = |entry: &Entry| issued.must_remove(entry, &Profile::ALL[1]);
                for entry in go {
                    assert!(removes(entry), "{op:x?} must remove {entry:x?}");
                }
                for entry in stay {
                    assert!(!removes(entry), "{op:x?} need not remove {entry:x?}");
                }
            }
        }
    };
    let same = |op2| [op2; 3];
    let foreign = [other_vmid, el2, stage2, table2];
    // VAE1, VALE1, VAAE1, VAALE1 and their range forms.
    let stay = [&[next, other_asid, other_table][..], &foreign].concat();
    check(0, one, same(1), with_asid, &[page, nested, stage1, table1, global, piece, granule], &stay);
    check(
        0,
        range,
        same(1),
        with_asid | k4,
        &[page, next, nested, stage1, table1, global, piece],
        &[&stay[1..], &[granule]].concat(),
    );
    let stay = [&stay[..], &[table1]].concat();
    check(0, one, same(5), with_asid, &[page, nested, stage1, global, piece], &stay);
    check(0, range, same(5), with_asid | k4, &[page, next, global, piece], &stay[1..]);
    let stay = [&[next][..], &foreign].concat();
    check(0, one, same(3), va, &[page, other_asid, other_table, table1, global], &stay);
    check(0, range, same(3), va | k4, &[page, next, other_asid, other_table, table1], &foreign);
    let stay = [&stay[..], &[table1, other_table]].concat();
    check(0, one, same(7), va, &[page, other_asid, global], &stay);
    check(0, range, same(7), va | k4, &[page, next, other_asid, global], &stay[1..]);
    // TTL: level 3 and 2 of 4K.
    check(0, one, same(1), with_asid | 0b0111 << 44, &[page, table1], &[piece, granule]);
    check(0, one, same(1), with_asid | 0b0110 << 44, &[piece], &[page, table1]);
    check(0, range, same(1), with_asid | k4 | 2 << 37, &[piece], &[page, table1]);
    // ASIDE1, VMALLE1, VMALLS12E1, ALLE1.
    check(
        0,
        one,
        same(2),
        ASID << 48,
        &[page, next, nested, stage1, table1],
        &[&[other_asid, other_table, global][..], &foreign].concat(),
    );
    check(0, one, same(0), 0, &[page, next, nested, stage1, table1, other_asid, global], &foreign);
    check(4, one, same(6), 0, &[page, nested, table1, stage2, table2, global], &[other_vmid, other_stage2, el2]);
    check(4, one, same(4), 0, &[page, nested, table1, stage2, table2, other_vmid, other_stage2], &[el2, el2_table]);
    // IPAS2E1, IPAS2LE1 and their range forms: combined entries stay (R_TVTYQ).
    let stay = [page, nested, table1, other_stage2, el2, stage2_next];
    let s2 = [4, 0, 4];
    check(4, s2, [1, 1, 0], va, &[stage2, table2], &stay);
    check(4, s2, [5, 5, 4], va, &[stage2], &[&stay[..], &[table2]].concat());
    check(4, s2, [2, 2, 3], va | k4, &[stage2, stage2_next, table2], &stay[..5]);
    check(4, s2, [6, 6, 7], va | k4, &[stage2, stage2_next], &[&stay[..5], &[table2]].concat());
    // EL2.
    check(4, one, same(0), 0, &[el2, el2_next, el2_table], &[page, global, stage2]);
    check(4, one, same(1), va, &[el2, el2_table], &[el2_next, page, global]);
    check(4, one, same(5), va, &[el2], &[el2_next, el2_table, page, global]);
    check(4, range, same(1), va | k4, &[el2, el2_next, el2_table], &[page, global]);
    check(4, range, same(5), va | k4, &[el2, el2_next], &[el2_table, page, global]);
    // EL3 has nothing here.
    check(6, one, same(0), 0, &[], &[page, el2, stage2]);
}

/// With E2H what EL2's forms remove is EL2&0's, and with TGE too so is what those of EL1&0 do.
#[test]
fn tlbis_of_a_host_remove_what_is_of_el2_and_0() {
    let page = entry(Granule::K4, Level::L3, WINDOW);
    let mine = Entry { regime: Regime::El20, vmid: 0, ..page };
    let (other, global) = (Entry { asid: 77, ..mine }, Entry { global: true, asid: 77, ..mine });
    let table = Entry { kind: EntryKind::Table1, ..mine };
    let foreign = [page, Entry { regime: Regime::El2, asid: 0, vmid: 0, global: true, ..page }];
    let with_asid = WINDOW >> 12 | ASID << 48;
    let check = |hcr_el2, (op1, op2), operand, go: &[Entry], stay: &[Entry]| {
        let context = Context { vttbr_el2: VMID << 48, hcr_el2, ..Context::default() };
        for crm in [7, 3, 1] {
            let op = TlbiOp::decode((op1, 8, crm, op2), operand, &context, false).expect("a TLBI");
            let issued = op.issue(&context, false);
            let removes = |entry: &Entry| issued.must_remove(entry, &Profile::ALL[1]);
            assert!(go.iter().all(removes), "{op:x?}");
            assert!(!stay.iter().chain(&foreign).any(removes), "{op:x?}");
        }
    };
    // VAE1, VALE1, VAAE1, ASIDE1, VMALLE1.
    check(HOST, (0, 1), with_asid, &[mine, global, table], &[other]);
    check(HOST, (0, 5), with_asid, &[mine, global], &[other, table]);
    check(HOST, (0, 3), with_asid, &[mine, other, global, table], &[]);
    check(HOST, (0, 2), with_asid, &[mine, table], &[other, global]);
    check(HOST, (0, 0), 0, &[mine, other, global, table], &[]);
    // VAE2, VALE2, ALLE2, with and without TGE.
    for hcr in [HOST, HOST & !(1 << 27)] {
        check(hcr, (4, 1), with_asid, &[mine, global, table], &[other]);
        check(hcr, (4, 5), with_asid, &[mine, global], &[other, table]);
        check(hcr, (4, 0), 0, &[mine, other, global, table], &[]);
    }
    // VMALLE1 and VAAE1 without TGE are EL1&0's.
    let of_el1 = TlbiOp::decode((0, 8, 3, 3), with_asid, &Context { hcr_el2: 1 << 34, ..Context::default() }, false);
    let issued = of_el1.expect("VAAE1IS").issue(&Context { vttbr_el2: VMID << 48, ..Context::default() }, false);
    assert!(issued.must_remove(&page, &Profile::ALL[1]) && !issued.must_remove(&mine, &Profile::ALL[1]));
}

/// A size change that also changes a permission is not a pure one (R_PVTFW): even FEAT_BBML3 may conflict.
#[test]
fn a_split_that_protects_as_well_may_conflict_at_any_level() {
    let conflicts = |protect: bool| {
        (0..200).any(|seed| {
            let mut world = World::new(profile("ideal-l3"), seed, Granule::K4, false);
            let (slot, new) = split(&mut world);
            if protect {
                let page = world.slot(Level::L3, WINDOW);
                world.memory.words.insert(page, with_attributes(Attributes { writable: false, ..RW }));
            }
            world.churn(&[WINDOW], 2);
            world.run(&[Step::Store(slot, new), ISH], &[WINDOW]).iter().any(|(_, seen)| *seen == Err(CONFLICT))
        })
    };
    assert!(conflicts(true) && !conflicts(false));
}

/// The same for stage 2: its block of 2 MiB gives way to pages that map the same.
#[test]
fn a_direct_split_of_stage_2_conflicts_at_el2_only() {
    for profile in Profile::ALL {
        let mut conflicts = 0;
        for seed in 0..200 {
            let mut world = World::new(profile, seed, Granule::K4, true);
            world.place(Level::L2, WINDOW, leaf(Granule::K4, Level::L2, OLD));
            world.place2(Level::L2, OLD, OLD | 0x7fd);
            for page in 0..512 {
                let oa = OLD + page * 0x1000;
                world.memory.words.insert(slot2(Level::L3, oa), oa | 0x7ff);
            }
            world.churn(&SPLIT_VAS, 2);
            let table = Descriptor::table(table(4, Level::L3)).raw();
            let steps = [Step::Store(slot2(Level::L2, OLD), table), ISH, ipas2e1is(OLD), ISH, VMALLE1IS, ISH];
            for (at, step) in steps.into_iter().enumerate() {
                world.step(step);
                for va in SPLIT_VAS.into_iter().cycle().take(9) {
                    world.mmus[1].step(1, &world.context, &mut world.memory, &mut world.choices);
                    match world.access(1, va, Kind::Store) {
                        Ok(t) => assert_eq!(t.pa, va - WINDOW + OLD, "stage 2 is never amalgamated"),
                        Err(fault) => {
                            assert!(at < 5 && profile.size.abort);
                            assert_eq!((fault.fsc, fault.taken_to, fault.stage2), (CONFLICT, 2, true));
                            conflicts += 1;
                        }
                    }
                }
            }
        }
        assert_eq!(conflicts != 0, profile.size.abort, "{}", profile.name);
    }
}

#[test]
fn ranges_and_faults_are_those_of_the_manual() {
    let world = |stage2| World::new(profile("ideal-l2-abort"), 1, Granule::K4, stage2);
    // Beyond the lower range; the upper range while EPD1 is set; an address whose walk meets an invalid descriptor.
    let mut w = world(false);
    page(&mut w);
    for (va, level) in [(1 << 48, 0), (u64::MAX - 7, 0), (WINDOW + 0x1000, 3), (WINDOW + 0x20_0000, 2), (0, 0)] {
        let fault = w.access(0, va, Kind::Load).expect_err("not mapped");
        assert_eq!((fault.fsc, fault.level, fault.stage2), (TRANSLATION | level as u8, level, false), "{va:x}");
        assert_eq!((fault.taken_to, fault.ipa, fault.va), (1, None, va));
    }
    // TBI0 drops the top byte.
    assert!(w.load(0, WINDOW | 0xab << 56).is_err());
    w.context.tcr_el1 |= 1 << 37;
    w.sync();
    assert_eq!(w.load(0, WINDOW | 0xab << 56 | 8), Ok(OLD + 8));
    // The upper range by TTBR1, 4K, 48 bits: the same tables, addresses from the top.
    w.context.tcr_el1 = w.context.tcr_el1 & !(1 << 23) | 2 << 30 | 16 << 16;
    w.context.ttbr1_el1 = table(1, Level::L0);
    w.sync();
    assert_eq!(w.load(0, 0xffff << 48 | WINDOW), Ok(OLD));
    assert!(w.load(0, 0xfffe << 48 | WINDOW).is_err());
    // A table where there is no memory, and an output beyond IPS.
    let slot = w.slot(Level::L3, WINDOW + 0x2000);
    w.memory.words.insert(slot, leaf(Granule::K4, Level::L3, OLD));
    w.context.tcr_el1 &= !(7 << 32);
    w.sync();
    assert_eq!(w.load(0, WINDOW + 0x2000), Err(walk::ADDRESS_SIZE | 3));
    w.context.ttbr0_el1 = 0x8000_0000_0000;
    w.context.tcr_el1 |= 5 << 32;
    w.sync();
    assert_eq!(w.load(0, WINDOW + 0x2000), Err(walk::EXTERNAL_ON_WALK));

    // Stage 2: the final address, and a table of stage 1, where it maps nothing.
    let mut w = world(true);
    w.place(Level::L3, WINDOW, leaf(Granule::K4, Level::L3, OLD + 0x4000_0000));
    let fault = w.access(0, WINDOW, Kind::Load).expect_err("no stage 2");
    let expected = (TRANSLATION | 1, true, false, Some(OLD + 0x4000_0000), 2);
    assert_eq!((fault.fsc, fault.stage2, fault.s1ptw, fault.ipa, fault.taken_to), expected);
    let (mut w, far) = (world(true), OLD + 0x4000_0000);
    page(&mut w);
    let slot = w.slot(Level::L2, WINDOW);
    w.memory.words.insert(slot, Descriptor::table(far).raw());
    let fault = w.access(0, WINDOW, Kind::Load).expect_err("no stage 2");
    let expected = (TRANSLATION | 1, true, true, Some(far), 2);
    assert_eq!((fault.fsc, fault.stage2, fault.s1ptw, fault.ipa, fault.taken_to), expected);
    // An AT of stage 1 alone gives the IPA; of both stages, stage 2's fault.
    let mut w = world(true);
    w.place(Level::L3, WINDOW, leaf(Granule::K4, Level::L3, far));
    let at = |both_stages| Kind::At { write: false, both_stages };
    assert_eq!(w.access(0, WINDOW, at(false)).map(|t| t.pa), Ok(far));
    assert!(w.access(0, WINDOW, at(true)).is_err_and(|fault| fault.stage2));

    // EL2 has its own tables and no ASID.
    let mut w = world(true);
    page(&mut w);
    w.context =
        Context { sctlr_el2: 1, ttbr0_el2: table(1, Level::L0), tcr_el2: 16 | 5 << 16, mair_el2: 0xff, ..w.context };
    w.sync();
    let request = Request { va: WINDOW, kind: Kind::Store, el: 2, privileged: true, pan: false };
    let seen = w.mmus[0].translate(request, &w.context, &mut w.memory, &mut w.choices).expect("mapped at EL2");
    assert_eq!((seen.pa, seen.device, seen.cacheable), (OLD, false, true));
}

#[test]
fn permissions_are_those_of_the_manual() {
    // Attributes, then what may load, store, fetch at EL1, at EL1 with PAN, and at EL0.
    let base = Attributes { el1_execute: true, el0_execute: true, ..RW };
    let all = [true, true, true];
    let none = [false; 3];
    let rows = [
        (base, all, all, [false, false, true]),
        (Attributes { writable: false, ..base }, [true, false, true], [true, false, true], [false, false, true]),
        // What EL0 may write, EL1 does not execute; and PAN keeps EL1's data accesses out.
        (Attributes { el0: true, ..base }, [true, true, false], none, all),
        (
            Attributes { el0: true, writable: false, ..base },
            [true, false, true],
            [false, false, true],
            [true, false, true],
        ),
        (RW, [true, true, false], [true, true, false], none),
    ];
    for (attributes, el1, pan, el0) in rows {
        for stage2 in [false, true] {
            for ((el, pan), expected) in [(1, false), (1, true), (0, false)].into_iter().zip([el1, pan, el0]) {
                let mut world = World::new(profile("ideal-l3"), 3, Granule::K4, stage2);
                let slot = page(&mut world);
                world.memory.words.insert(slot, with_attributes(attributes));
                let seen = [Kind::Load, Kind::Store, Kind::Fetch].map(|kind| {
                    let request = Request { va: WINDOW, kind, el, privileged: el != 0, pan };
                    world.mmus[0].translate(request, &world.context, &mut world.memory, &mut world.choices)
                });
                assert_eq!(seen.map(|seen| seen.is_ok()), expected, "{attributes:?} at EL{el}");
                assert!(seen.iter().all(|seen| seen.map_or_else(|fault| fault.fsc == PERMISSION | 3, |t| t.pa == OLD)));
            }
        }
    }
    // WXN, and what a Table descriptor takes away (PXNTable, APTable).
    for (change, kind) in [(0, Kind::Fetch), (59, Kind::Fetch), (62, Kind::Store)] {
        let mut world = World::new(profile("ideal-l3"), 3, Granule::K4, false);
        let slot = page(&mut world);
        world.memory.words.insert(slot, with_attributes(base));
        assert!(world.access(0, WINDOW, kind).is_ok());
        if change == 0 {
            world.context.sctlr_el1 |= 1 << 19;
            world.sync();
        } else {
            let slot = world.slot(Level::L1, WINDOW);
            *world.memory.words.get_mut(&slot).expect("a table") |= 1 << change;
        }
        world.step(VMALLE1IS);
        world.step(ISH);
        assert_eq!(world.access(0, WINDOW, kind).map_err(|fault| fault.fsc), Err(PERMISSION | 3));
    }
    // Stage 2 takes write permission away.
    let mut world = World::new(profile("ideal-l3"), 3, Granule::K4, true);
    page(&mut world);
    world.place2(Level::L1, OLD, OLD | 0x77d);
    let fault = world.access(0, WINDOW, Kind::Store).expect_err("read-only at stage 2");
    assert_eq!((fault.fsc, fault.stage2, fault.ipa, fault.taken_to), (PERMISSION | 1, true, Some(OLD), 2));
    assert_eq!(world.load(0, WINDOW), Ok(OLD));
}

/// [`Lookaside`] as it is said, with nothing done for speed.
#[derive(Clone, Debug)]
struct Plain {
    entries: Vec<Entry>,
    capacity: usize,
    victim: usize,
}

impl Lookaside for Plain {
    fn new(capacity: usize) -> Self {
        Self { entries: vec![], capacity, victim: 0 }
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn matching<'a>(&'a self, tags: &'a Tags, input: u64) -> impl Iterator<Item = &'a Entry> + 'a {
        self.entries.iter().filter(move |entry| !entry.lingers && entry.matches(tags, input))
    }

    fn lingering(&self, tags: &Tags, input: u64) -> Option<Entry> {
        self.entries.iter().find(|entry| entry.lingers && entry.matches(tags, input)).copied()
    }

    fn insert(&mut self, entry: Entry) -> bool {
        if self.entries.contains(&entry) {
            return false;
        }
        let overlaps = |other: &&Entry| {
            other.start < entry.start.wrapping_add(entry.size) && entry.start < other.start.wrapping_add(other.size)
        };
        let disturbs = self.entries.iter().filter(overlaps).any(|other| other.rivals(&entry));
        if self.capacity == 0 {
            return false;
        }
        if self.entries.len() < self.capacity {
            self.entries.push(entry);
        } else {
            self.entries[self.victim] = entry;
            self.victim = (self.victim + 1) % self.capacity;
        }
        disturbs
    }

    fn evict(&mut self, index: usize) -> Entry {
        self.entries.swap_remove(index)
    }

    fn retain(&mut self, keep: impl FnMut(&mut Entry) -> bool) {
        self.entries.retain_mut(keep);
        self.victim = 0;
    }
}

/// Addresses, and what a load of them gave.
type Seen = Vec<(u64, Result<u64, u8>)>;

/// A split, a TLBI too few, a remap and a merge, with everything the TLBs do unasked: what was seen, and the choices.
fn episode<T: Lookaside>(profile: Profile, seed: u64) -> (Seen, u64) {
    let mut world = World::<T>::with(profile, seed, Granule::K4, seed.is_multiple_of(2));
    world.place(Level::L2, WINDOW, leaf(Granule::K4, Level::L2, OLD));
    let slot = world.slot(Level::L2, WINDOW);
    let mut seen = world.churn(&SPLIT_VAS, 2);
    let tlbi = vae1is(WINDOW);
    for descriptor in [leaf(Granule::K4, Level::L2, NEW), 0, leaf(Granule::K4, Level::L2, OLD)] {
        seen.extend(world.run(&[Step::Store(slot, descriptor), tlbi, ISH], &SPLIT_VAS));
    }
    seen.extend(world.run(&[Step::Store(slot, 0), ISH, VMALLE1IS, ISH], &SPLIT_VAS));
    (seen, world.choices.drawn())
}

#[test]
fn how_entries_are_kept_makes_no_difference() {
    for profile in Profile::ALL {
        // Little room, so that entries replace each other, or none.
        for (seed, capacity) in (0..40).map(|seed| (seed, if seed % 4 == 0 { 0 } else { 12 })) {
            let profile = Profile { capacity, ..profile };
            assert_eq!(episode::<Tlb>(profile, seed), episode::<Plain>(profile, seed), "{} {seed}", profile.name);
        }
    }
}

/// The forms by address, for leaves of every granule and level: which operands name a leaf, with TTL, TG and SCALE.
#[test]
fn operands_name_leaves_of_every_granule_and_level() {
    let context = Context { vttbr_el2: VMID << 48, ..Context::default() };
    let tg = |granule| match granule {
        Granule::K4 => 1,
        Granule::K16 => 2,
        Granule::K64 => 3,
    };
    let leaves = |granule: Granule| {
        (0..4).filter_map(Level::new).filter(move |level| level.number() == 3 || level.allows_block(granule, true))
    };
    for (granule, level) in Granule::ALL.into_iter().flat_map(|granule| leaves(granule).map(move |l| (granule, l))) {
        let (size, page, shift) = (level.size(granule), granule.page_size(), granule.page_shift());
        // High enough for the longest range below it.
        let base = size * (1u64 << 40).div_ceil(size);
        let removes = |crm, op2, operand: u64, start| {
            let [plain, nxs] = [8, 9].map(|crn| {
                let op = TlbiOp::decode((0, crn, crm, op2), operand | ASID << 48, &context, true).expect("a TLBI");
                op.issue(&context, true).must_remove(&entry(granule, level, start), &Profile::ALL[1])
            });
            assert_eq!(plain, nxs);
            plain
        };
        // VAE1, VAAE1, VALE1 and VAALE1: local, IS, OS.
        let forms = |crms: [u8; 3]| crms.into_iter().flat_map(|crm| [1, 3, 5, 7].map(|op2| (crm, op2)));
        for ((crm, op2), va) in forms([7, 3, 1]).flat_map(|form| [base, base + size - 0x1000].map(|va| (form, va))) {
            for ttl in 0..16 {
                let hint = (ttl >> 2, ttl & 3);
                let none = hint.0 == 0 || hint.0 != 1 && hint.1 == 0;
                let right = none || hint == (tg(granule), level.number() as u64);
                let operand = va >> 12 | ttl << 44;
                assert_eq!(removes(crm, op2, operand, base), right, "{granule} {level} TTL {ttl:#06b}");
                assert!(!removes(crm, op2, operand, base + size) && !removes(crm, op2, operand, base - size));
            }
        }
        for ((crm, op2), scale) in forms([6, 2, 5]).flat_map(|form| [0, 1, 2, 3].map(|scale| (form, scale))) {
            for (num, ttl) in [(0, 0), (31, 1), (7, 2), (1, 3)] {
                let bytes = (num + 1) << (5 * scale + 1) << shift;
                let right = ttl == 0 || ttl == level.number() as u64;
                let of = |granule: Granule, start: u64| {
                    start >> granule.page_shift() | ttl << 37 | num << 39 | scale << 44 | tg(granule) << 46
                };
                let ends = [(base + page - bytes, true), (base - bytes, false)];
                for (start, within) in [(base + size - page, true), (base + size, false)].into_iter().chain(ends) {
                    let removed = removes(crm, op2, of(granule, start), base);
                    assert_eq!(removed, within && right, "{granule} {level} {start:#x}+{bytes:#x} TTL {ttl}");
                }
                for other in Granule::ALL.into_iter().filter(|other| *other != granule) {
                    assert!(!removes(crm, op2, of(other, base), base), "R_XKMMX");
                }
            }
        }
    }
}

/// FEAT_LPA2 for 4K and 16K, 52-bit addresses of 64K: leaves of every level at output addresses beyond 48 bits.
#[test]
fn output_and_input_addresses_have_52_bits() {
    const HIGH: u64 = 0b1011 << 48;
    const M1: Level = Level::new(-1).expect("a level");
    let (wide, narrow) = (profile("ideal-l3"), profile("ideal-l1-fault"));
    let world = |profile, granule: Granule| {
        let mut world = World::new(profile, 1, granule, false);
        let tcr = world.context.tcr_el1 & !(0x3f | 7 << 32);
        // T0SZ 12, IPS 6, DS, SH0 Outer.
        world.context.tcr_el1 = tcr | 12 | 6 << 32 | 1 << 59 | 2 << 12;
        let start = if granule == Granule::K4 { M1 } else { world.start() };
        world.context.ttbr0_el1 = table(1, start) | ASID << 48;
        world.sync();
        if granule == Granule::K4 {
            let slot = world.slot(M1, WINDOW | 1 << 51);
            world.memory.words.insert(slot, Descriptor::table(table(1, Level::L0)).raw());
        }
        world
    };
    let leaves = [(Granule::K4, 0), (Granule::K16, 1), (Granule::K64, 1)]
        .into_iter()
        .flat_map(|(granule, first)| (first..=3).filter_map(Level::new).map(move |level| (granule, level)));
    for (granule, level) in leaves {
        let mut w = world(wide, granule);
        let va = WINDOW | 1 << 51;
        let size = level.size(granule);
        let (start, oa) = (va & !(size - 1), HIGH | OLD & !(size - 1));
        let raw = leaf(granule, level, oa) & ((1 << 48) - 1) | if level.number() == 3 { 3 } else { 1 };
        let raw = match granule {
            Granule::K64 => raw | oa >> 48 << 12,
            _ => raw & !(3 << 8) | oa & 3 << 48 | (oa >> 50) << 8,
        };
        // The first table of 16K and 64K has more entries than with 48 bits.
        let index = |level: Level| (start & ((1 << 52) - 1)) >> level.shift(granule) & (granule.entries() as u64 - 1);
        for above in (w.start().number()..level.number()).filter_map(Level::new) {
            let next = table(1, above.next().expect("above a leaf"));
            w.memory.words.insert(table(1, above) + 8 * index(above), Descriptor::table(next).raw());
        }
        w.memory.words.insert(table(1, level) + 8 * index(level), raw);
        for offset in [0, size - 8] {
            let seen = w.access(0, start + offset, Kind::Load).expect("mapped");
            assert_eq!((seen.pa, seen.shareability), (oa + offset, if granule == Granule::K64 { 3 } else { 2 }));
        }
        // IPS of 48 bits, and the address is too large.
        w.context.tcr_el1 = w.context.tcr_el1 & !(7 << 32) | 5 << 32;
        w.sync();
        w.step(VMALLE1IS);
        w.step(ISH);
        assert_eq!(w.load(0, start), Err(walk::ADDRESS_SIZE | level.number() as u8));
    }
    // Faults at level -1 have a status of their own.
    let mut w = world(wide, Granule::K4);
    assert_eq!(w.load(0, WINDOW), Err(0b10_1011));
    let slot = w.slot(M1, WINDOW);
    w.memory.words.insert(slot, Descriptor::table(table(1, Level::L0)).raw() | 1 << 9);
    w.context.tcr_el1 = w.context.tcr_el1 & !(7 << 32) | 5 << 32;
    w.sync();
    assert_eq!(w.load(0, WINDOW), Err(0b10_1001));
    // A table of the TTBR beyond 48 bits, where there is no memory here.
    w.context.tcr_el1 = w.context.tcr_el1 & !(7 << 32) | 6 << 32;
    w.context.ttbr0_el1 |= 0xf << 2;
    w.sync();
    assert_eq!(w.load(0, WINDOW), Err(0b01_0011));
    // Stage 2 from level -1 (SL2), of 52 bits; SH is VTCR's.
    let mut w = World::new(wide, 1, Granule::K4, true);
    w.memory.words.insert(table(4, M1), Descriptor::table(table(4, Level::L0)).raw());
    for (ipa, high) in [(0, 0), (NEW, 1 << 9)] {
        w.place2(Level::L1, ipa, (ipa | 0x7fd) & !(3 << 8) | high);
    }
    w.place(Level::L3, WINDOW, leaf(Granule::K4, Level::L3, NEW));
    w.context.vtcr_el2 = 12 | 1 << 33 | 1 << 32 | 6 << 16;
    w.context.vttbr_el2 = table(4, M1) | VMID << 48;
    w.sync();
    assert_eq!(w.load(0, WINDOW), Ok(NEW | 1 << 51));
    // A CPU without them has 48 bits of VA, and no block at level 0.
    let mut w = World::new(narrow, 1, Granule::K4, false);
    w.place(Level::L0, WINDOW, leaf(Granule::K4, Level::L0, 0) & !2 | 1);
    assert_eq!(w.load(0, WINDOW), Err(TRANSLATION));
    assert_eq!(w.load(0, WINDOW | 1 << 51), Err(TRANSLATION));
}

/// What a walk marks accessed is what stands there, not what it read from before a store.
#[test]
fn a_hardware_update_never_brings_an_old_descriptor_back() {
    for profile in Profile::ALL {
        for seed in 0..100 {
            let mut world = World::new(profile, seed, Granule::K4, false);
            let slot = page(&mut world);
            let clean = |oa| {
                let attributes = Attributes { access_flag: false, writable: false, dbm: true, ..RW };
                Descriptor::leaf(Granule::K4, Level::L3, oa, attributes).raw()
            };
            world.memory.words.insert(slot, clean(OLD));
            world.context.tcr_el1 |= 3 << 39;
            world.sync();
            world.step(Step::Store(slot, clean(NEW)));
            assert!(world.access(1, WINDOW, if seed % 2 == 0 { Kind::Store } else { Kind::Load }).is_ok());
            let stands = world.memory.words[&slot];
            assert_eq!(stands & !(1 << 10 | 1 << 7), clean(NEW) & !(1 << 7), "{} {seed}", profile.name);
            assert_eq!((stands >> 10 & 1, stands >> 7 & 1), (1, seed % 2), "{} {seed}", profile.name);
        }
    }
}

/// A walk that read a block from before the store of a table, and was to mark it, goes on by the table.
#[test]
fn a_hardware_update_of_a_block_that_is_a_table_by_now_walks_on() {
    for profile in Profile::ALL {
        for seed in 0..100 {
            let mut world = World::new(profile, seed, Granule::K4, false);
            let attributes = Attributes { access_flag: false, ..RW };
            let block = Descriptor::leaf(Granule::K4, Level::L2, 0, attributes).raw();
            world.place(Level::L3, WINDOW, leaf(Granule::K4, Level::L3, OLD));
            let slot = world.slot(Level::L2, WINDOW);
            let table = world.memory.words.insert(slot, block).expect("a table leads to the page");
            world.context.tcr_el1 |= 1 << 39;
            world.sync();
            world.step(Step::Store(slot, table));
            assert_eq!(world.load(1, WINDOW), Ok(OLD), "{} {seed}", profile.name);
            assert_eq!(world.memory.words[&slot], table, "{} {seed}", profile.name);
        }
    }
}

/// TCR_EL1.A1 says whose ASID tags what is walked for, in both ranges, and AS how many bits of it there are.
#[test]
fn the_asid_is_that_of_the_ttbr_that_a1_names() {
    let context = |tcr_el1| Context { ttbr0_el1: 0x1234 << 48, ttbr1_el1: 0x5678 << 48, tcr_el1, ..Context::default() };
    let asid = |a1: u64, wide: u64| context(a1 << 22 | wide << 36).asid(Regime::El10);
    assert_eq!([asid(0, 0), asid(0, 1), asid(1, 0), asid(1, 1)], [0x34, 0x1234, 0x78, 0x5678]);
}

/// DC by VA wants permission to read at EL0, DC IVAC to write, and the others at EL1 nothing.
#[test]
fn cache_maintenance_wants_the_permissions_of_the_manual() {
    let rows = [(RW, [false, true, true]), (Attributes { el0: true, writable: false, ..RW }, [true, true, false])];
    for (attributes, expected) in rows {
        let mut world = World::new(profile("ideal-l3"), 3, Granule::K4, false);
        let slot = page(&mut world);
        world.memory.words.insert(slot, with_attributes(attributes));
        let seen = [(0, false), (1, false), (1, true)].map(|(el, writable)| {
            let kind = Kind::CacheMaintenance { writable };
            let request = Request { va: WINDOW, kind, el, privileged: el != 0, pan: true };
            world.mmus[0].translate(request, &world.context, &mut world.memory, &mut world.choices).is_ok()
        });
        assert_eq!(seen, expected, "{attributes:?}");
    }
}

/// Members of a group that disagree give what one of them says, or a conflict: in their OA (R_JQQTC) on every profile, in
/// the Contiguous bit as well (R_NGLXZ) from BBM level 1.
#[test]
fn a_misprogrammed_contiguous_group_gives_what_one_of_its_members_says() {
    for profile in ideals() {
        for ((granule, level), mixed) in places().flat_map(|place| [(place, false), (place, true)]) {
            let (size, group) = (level.size(granule), contiguous_group(granule, level).expect("a group") as u64);
            let va = WINDOW & !(size * group - 1);
            let (mut conflicts, mut others) = (0, 0);
            for seed in 0..40 {
                let mut world = World::new(profile, seed, granule, false);
                // The first member maps elsewhere, and the last may lack the bit.
                for member in 0..group {
                    let oa = if member == 0 { NEW } else { OLD + member * size };
                    let attributes = Attributes { contiguous: !mixed || member != group - 1, ..RW };
                    let raw = Descriptor::leaf(granule, level, oa, attributes).raw();
                    world.place(level, va + member * size, raw);
                }
                for (va_seen, seen) in world.churn(&[va, va + size, va + (group - 1) * size], 6) {
                    // By the first member the whole group lies at NEW, by the others at OLD.
                    let offset = va_seen - va;
                    match seen {
                        Err(fsc) => {
                            assert_eq!(fsc, CONFLICT, "{} {granule} {level}", profile.name);
                            conflicts += 1;
                        }
                        Ok(pa) => others += u32::from(![OLD + offset, NEW + offset].contains(&pa)),
                    }
                }
            }
            let name = profile.name;
            assert!(others == 0 || mixed && profile.bbm == BbmLevel::L0, "{name} {granule} {level} {mixed}");
            assert_eq!(conflicts != 0, profile.size.abort, "{name} {granule} {level} {mixed}");
        }
    }
}
