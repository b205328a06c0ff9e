//! What stands before a shatter: a block that is to become tables without a break, all at once and while it is in use.
//!
//! The proposal from which this suite began fills the next table from the superpage entry, writes the table over the live
//! entry, and goes on below it until the target level is reached: [`Method::Overwrite`].
//! Behind the first write there is no way back that would need no break. So all that may go wrong goes wrong before it:
//!
//! 1. Nobody shatters what somebody uses by accident. Whether a CPU takes that is its BBM level's affair, so the caller says
//!    for whom he has asked himself ([`Request::acknowledged`]), and is refused if there are others ([`Refusal::InUse`]).
//! 2. All tables, of all levels, are allocated first. Where one is not to be had, those before it are given back, and the
//!    live entry is as it was ([`Refusal::NoTable`]).
//!
//! Then come the steps, of which none can fail: see [`Sequence`](crate::sequence::Sequence).
//!
//! [`Request::rehearse`] shows that it is so, by all requests that must be refused, on the live entry itself.

use core::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    descriptor::{Descriptor, DescriptorKind},
    geometry::Level,
    instance::{Case, Method},
    layout::Layout,
};

/// Most levels below a block.
pub const MAX_TABLES: usize = 3;

/// Where tables come from, and where they go back to.
pub trait Arena {
    /// A table.
    type Table: Copy;

    /// A table in which everything is invalid; `None` if there is no other one.
    fn take(&mut self) -> Option<Self::Table>;

    /// Takes back a table that nobody has seen or written to. The last one taken comes first.
    fn give_back(&mut self, table: Self::Table);
}

/// Who uses an address range.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Users {
    /// The PE that makes the change.
    pub own: bool,
    /// Other PEs.
    pub others: bool,
}

impl Users {
    /// Those of them who are not among `known`.
    #[must_use]
    pub const fn besides(self, known: Self) -> Self {
        Self { own: self.own && !known.own, others: self.others && !known.others }
    }

    /// Whether there is anybody.
    #[must_use]
    pub const fn any(self) -> bool {
        self.own || self.others
    }
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.own, self.others) {
            (true, true) => "this PE and others",
            (true, false) => "this PE",
            (false, true) => "other PEs",
            (false, false) => "nobody",
        })
    }
}

/// A split that is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Of the entry that is live.
    pub layout: Layout,
    /// What stands there.
    pub entry: Descriptor,
    /// The level of the leaf that is wanted.
    pub target: Level,
    /// Who uses what the entry maps.
    pub users: Users,
    /// For which of them the caller answers.
    pub acknowledged: Users,
}

/// Why nothing was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The entry is no Block.
    NoBlock,
    /// It is one of a Contiguous group, which an overwrite would leave misprogrammed (R_QTRPM).
    Contiguous,
    /// Leaves cannot stand there, or that is not below the entry.
    NoLeaf {
        /// Where they were wanted.
        level: Level,
    },
    /// Somebody uses it for whom the caller does not answer.
    InUse {
        /// Who.
        by: Users,
    },
    /// There is no memory for a table.
    NoTable {
        /// The level at which its entries are.
        level: Level,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBlock => f.write_str("what stands there is no block"),
            Self::Contiguous => f.write_str("the block is one of a Contiguous group"),
            Self::NoLeaf { level } => write!(f, "there can be no leaf at {level} below it"),
            Self::InUse { by } => write!(f, "the block is in use by {by}, which nobody has acknowledged"),
            Self::NoTable { level } => {
                write!(f, "no memory for the table of {level}: tables are given back, the live entry is as it was")
            }
        }
    }
}

impl core::error::Error for Refusal {}

/// Tables for all levels of a split, from the entry down.
pub type Tables<T> = [Option<T>; MAX_TABLES];

impl Request {
    /// The one that `case` makes for `entry`, which is live, if its method is this one. Who makes the change uses the range too, if only
    /// to have it in his TLB; for all of them the case answers.
    #[must_use]
    pub fn of(case: &Case, entry: Descriptor) -> Option<Self> {
        let Case { change, granule, .. } = *case;
        let users = Users { own: true, others: case.observer.place.is_remote() };
        let (layout, target) = (change.format(granule).at(change.level()), change.leaf_level());
        (case.method == Method::Overwrite).then_some(Self { layout, entry, target, users, acknowledged: users })
    }

    /// How many tables it takes.
    ///
    /// # Errors
    /// Why it cannot be done, whoever uses it.
    pub fn levels(&self) -> Result<usize, Refusal> {
        let Self { layout, entry, target, .. } = *self;
        if layout.kind(entry) != DescriptorKind::Block {
            return Err(Refusal::NoBlock);
        }
        if layout.attributes(entry).contiguous {
            return Err(Refusal::Contiguous);
        }
        let levels = usize::try_from(target.number() - layout.level.number()).unwrap_or(0);
        let leaves = (1..=MAX_TABLES).contains(&levels) && Layout { level: target, ..layout }.allows_leaf();
        if leaves { Ok(levels) } else { Err(Refusal::NoLeaf { level: target }) }
    }

    /// The tables for it. The live entry is not touched.
    ///
    /// # Errors
    /// The request is refused, and `arena` has all that it had.
    pub fn prepare<A: Arena>(&self, arena: &mut A) -> Result<Tables<A::Table>, Refusal> {
        let levels = self.levels()?;
        let by = self.users.besides(self.acknowledged);
        if by.any() {
            return Err(Refusal::InUse { by });
        }
        let mut tables = [None; MAX_TABLES];
        let mut level = self.layout.level;
        for n in 0..levels {
            // Not past the target, which is a level.
            level = level.next().unwrap_or(level);
            tables[n] = arena.take();
            if tables[n].is_none() {
                tables.into_iter().rev().flatten().for_each(|table| arena.give_back(table));
                return Err(Refusal::NoTable { level });
            }
        }
        Ok(tables)
    }

    /// Makes the request as it must be refused: without an acknowledgement, where one is owed, and with no memory for each of its
    /// tables in turn. `told` gets each refusal. Says whether all were refused, `live` holds the entry still, and `arena` got
    /// everything back.
    pub fn rehearse<A: Arena>(&self, live: &AtomicU64, arena: &mut A, mut told: impl FnMut(Refusal)) -> bool {
        let Ok(levels) = self.levels() else { return false };
        let mut refused = |request: &Self, left: usize, expected: &dyn Fn(Refusal) -> bool| {
            let mut limited = Limited { arena: &mut *arena, left, out: 0 };
            match request.prepare(&mut limited) {
                Err(refusal) => {
                    told(refusal);
                    expected(refusal) && limited.out == 0 && live.load(Relaxed) == self.entry.raw()
                }
                Ok(tables) => {
                    tables.into_iter().rev().flatten().for_each(|table| limited.give_back(table));
                    false
                }
            }
        };
        let unasked = Self { acknowledged: Users::default(), ..*self };
        let in_use = |refusal| refusal == Refusal::InUse { by: self.users };
        let acknowledged = !self.users.any() || refused(&unasked, levels, &in_use);
        let bounded = (0..levels).all(|left| {
            let level = Level::new(self.layout.level.number() + 1 + left as i8);
            refused(self, left, &|refusal| Some(refusal) == level.map(|level| Refusal::NoTable { level }))
        });
        acknowledged && bounded
    }
}

/// An arena with only so many tables left.
struct Limited<'a, A> {
    arena: &'a mut A,
    left: usize,
    /// Tables that are out.
    out: usize,
}

impl<A: Arena> Arena for Limited<'_, A> {
    type Table = A::Table;

    fn take(&mut self) -> Option<A::Table> {
        self.left = self.left.checked_sub(1)?;
        let table = self.arena.take()?;
        self.out += 1;
        Some(table)
    }

    fn give_back(&mut self, table: A::Table) {
        self.out -= 1;
        self.arena.give_back(table);
    }
}

#[cfg(test)]
mod tests {
    use std::{string::ToString, vec::Vec};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        descriptor::{Attributes, contiguous_group},
        geometry::Granule,
        layout::Width,
    };

    /// Tables with these numbers are there, from the highest down.
    struct Numbered {
        free: Vec<u64>,
        most_out: usize,
        all: usize,
    }

    impl Numbered {
        fn new(tables: usize) -> Self {
            Self { free: (0..tables as u64).collect(), most_out: 0, all: tables }
        }
    }

    impl Arena for Numbered {
        type Table = u64;

        fn take(&mut self) -> Option<u64> {
            let table = self.free.pop();
            self.most_out = self.most_out.max(self.all - self.free.len());
            table
        }

        fn give_back(&mut self, table: u64) {
            self.free.push(table);
        }
    }

    fn request(layout: Layout, target: Level, attributes: Attributes, users: Users) -> Request {
        let entry = layout.leaf(1 << 40, attributes);
        Request { layout, entry, target, users, acknowledged: users }
    }

    fn users() -> impl Strategy<Value = Users> {
        (any::<bool>(), any::<bool>()).prop_map(|(own, others)| Users { own, others })
    }

    proptest! {
        /// Whatever is asked for and however much memory there is: either all tables are there, or all are back.
        #[test]
        fn all_tables_or_none(
            layout in prop::sample::select(Layout::all().collect::<Vec<_>>()),
            target in -1i8..4,
            raw: u64,
            (there, known, tables) in (users(), users(), 0usize..5),
        ) {
            let target = Level::new(target).expect("a level");
            let entry = Descriptor::from_raw(raw);
            let request = Request { layout, entry, target, users: there, acknowledged: known };
            let mut arena = Numbered::new(tables);
            let before = arena.free.clone();
            match request.prepare(&mut arena) {
                Ok(taken) => {
                    let levels = request.levels().expect("it was done");
                    prop_assert_eq!(taken.iter().flatten().count(), levels);
                    prop_assert!(taken[..levels].iter().all(Option::is_some));
                    prop_assert_eq!(arena.free.len() + levels, tables);
                    prop_assert!(!there.besides(known).any());
                    prop_assert!(target.number() > layout.level.number());
                }
                Err(refusal) => {
                    prop_assert_eq!(&arena.free, &before);
                    match refusal {
                        Refusal::NoTable { .. } => prop_assert_eq!(arena.most_out, tables),
                        // Nothing was taken to find that out.
                        _ => prop_assert_eq!(arena.most_out, 0),
                    }
                    prop_assert!(!refusal.to_string().is_empty());
                }
            }
        }
    }

    #[test]
    fn a_rehearsal_refuses_each_in_turn_and_touches_nothing() {
        let layout = Layout::new(Granule::K4, Level::L1);
        let both = Users { own: true, others: true };
        let request = request(layout, Level::L3, Attributes::NORMAL_RW, both);
        let (live, mut arena, mut told) = (AtomicU64::new(request.entry.raw()), Numbered::new(5), Vec::new());
        assert!(request.rehearse(&live, &mut arena, |refusal| told.push(refusal)));
        let no_table = |level| Refusal::NoTable { level };
        assert_eq!(told, [Refusal::InUse { by: both }, no_table(Level::L2), no_table(Level::L3)]);
        assert_eq!(arena.free, [0, 1, 2, 3, 4]);
        assert!(arena.most_out == 1, "the first of two tables was out, and came back");
        // What nobody uses nobody need acknowledge.
        told.clear();
        let unused = Request { users: Users::default(), ..request };
        assert!(unused.rehearse(&live, &mut arena, |refusal| told.push(refusal)));
        assert_eq!(told.len(), 2);
        // Another entry than the one that is asked about was touched.
        live.store(0, Relaxed);
        assert!(!request.rehearse(&live, &mut arena, |_| ()));
    }

    #[test]
    fn what_is_no_single_block_is_refused() {
        let layout = Layout::new(Granule::K4, Level::L2);
        let sound = request(layout, Level::L3, Attributes::NORMAL_RW, Users::default());
        let contiguous = Attributes { contiguous: true, ..Attributes::NORMAL_RW };
        for (request, expected) in [
            (sound, Ok(1)),
            (Request { entry: Descriptor::INVALID, ..sound }, Err(Refusal::NoBlock)),
            (Request { entry: layout.table(1 << 12), ..sound }, Err(Refusal::NoBlock)),
            (Request { entry: layout.leaf(1 << 21, contiguous), ..sound }, Err(Refusal::Contiguous)),
            (Request { target: Level::L2, ..sound }, Err(Refusal::NoLeaf { level: Level::L2 })),
            (Request { target: Level::L1, ..sound }, Err(Refusal::NoLeaf { level: Level::L1 })),
        ] {
            assert_eq!(request.levels(), expected);
        }
    }

    /// Table entries made from a block map, one after the other, what it mapped, as it did.
    #[test]
    fn parts_are_the_block() {
        for layout in Layout::all().filter(|layout| layout.allows_leaf() && layout.level != Level::L3) {
            let (granule, level) = (layout.granule, layout.level.next().expect("not the last"));
            let below = Layout { level, ..layout };
            let oa = 1 << layout.level.shift(granule) | if layout.width == Width::Bits52 { 1 << 51 } else { 0 };
            for raw in [0u64, u64::MAX, 0x5555_5555_5555_5555, 0xaaaa_aaaa_aaaa_aaaa] {
                let attributes = Descriptor::from_raw(raw).attributes();
                let block = layout.leaf(oa, attributes).with_nt(true);
                let parts = (0..granule.entries()).map(|n| layout.part(block, n));
                if !below.allows_leaf() {
                    assert!(parts.into_iter().all(|part| part.is_none()));
                    continue;
                }
                let like = Attributes { contiguous: false, ..layout.attributes(block) };
                for (part, n) in parts.zip(0..) {
                    let expected = below.leaf(layout.oa(block) + n * level.size(granule), like);
                    assert_eq!(part, Some(expected), "{layout:?}");
                }
                assert_eq!(layout.part(block, granule.entries()), None);
                assert!(contiguous_group(granule, layout.level).is_some() || !layout.attributes(block).contiguous);
            }
            assert_eq!(layout.part(layout.table(0), 0), None);
            assert_eq!(layout.part(Descriptor::INVALID, 0), None);
        }
    }
}
