//! The forms of TLB maintenance, as data: what an instruction does, whom it reaches, and what its operand names.
//!
//! A [`Form`] names an instruction and how its operand is aimed: at the window, in one of the ways in which it may be
//! named, or at a neighbour, so that the window's entries may stay. What an operand says besides, a range's scale, length
//! and place above all, follows from a number that is another one in each round.

use core::fmt;

use crate::{
    geometry::{Granule, Level},
    layout::Format,
    rule::{Asids, Invalidation, Reach},
    words,
};

/// The ASID that is in use.
pub const ASID: u64 = 1;
/// An ASID that an observer may switch to.
pub const OTHER_ASID: u64 = 2;

/// Bit 0 of the ASID in a TTBR and in the Xt of a TLBI by ASID.
pub const ASID_SHIFT: u32 = 48;

words! {
    /// What is removed, by the instruction's name without scope.
    Op {
        /// Everything of the VMID's stage 1.
        Vmalle1 = "vmalle1",
        /// Non-global entries of an ASID.
        Aside1 = "aside1",
        /// By VA and ASID, all levels.
        Vae1 = "vae1",
        /// By VA, any ASID, all levels.
        Vaae1 = "vaae1",
        /// By VA and ASID, last level.
        Vale1 = "vale1",
        /// By VA, any ASID, last level.
        Vaale1 = "vaale1",
        /// As [`Vae1`](Self::Vae1), of a range.
        Rvae1 = "rvae1",
        /// As [`Vaae1`](Self::Vaae1), of a range.
        Rvaae1 = "rvaae1",
        /// As [`Vale1`](Self::Vale1), of a range.
        Rvale1 = "rvale1",
        /// As [`Vaale1`](Self::Vaale1), of a range.
        Rvaale1 = "rvaale1",
    }
}

words! {
    /// Which PEs are reached.
    Scope {
        /// This one.
        Local = "",
        /// The Inner Shareable domain.
        Inner = "is",
        /// The Outer Shareable domain (FEAT_TLBIOS).
        Outer = "os",
    }
}

words! {
    /// What the operand names.
    Aim {
        /// The window, without a hint where there need not be one.
        Hit = "",
        /// The window, with the TTL hint of its leaves (FEAT_TTL).
        Hint = "ttl",
        /// The window, by an address within a page of it: below the page its bits are RES0 and ignored.
        Within = "within",
        /// Each leaf of the window, one instruction each.
        Each = "each",
        /// The page, or a range of pages, just before or behind the window.
        Page = "page",
        /// Another ASID.
        Asid = "asid",
        /// The window, with the TTL hint of another level (R_SQXYZ).
        Level = "level",
    }
}

impl Op {
    /// Whether it is by range (FEAT_TLBIRANGE).
    #[must_use]
    pub const fn is_range(self) -> bool {
        matches!(self, Self::Rvae1 | Self::Rvaae1 | Self::Rvale1 | Self::Rvaale1)
    }

    /// Whether it names addresses.
    #[must_use]
    pub const fn is_by_va(self) -> bool {
        !matches!(self, Self::Vmalle1 | Self::Aside1)
    }

    /// Whether it names an ASID.
    #[must_use]
    pub const fn is_by_asid(self) -> bool {
        matches!(self, Self::Aside1 | Self::Vae1 | Self::Vale1 | Self::Rvae1 | Self::Rvale1)
    }

    /// Whether it leaves Table descriptors alone.
    #[must_use]
    pub const fn is_last_level(self) -> bool {
        matches!(self, Self::Vale1 | Self::Vaale1 | Self::Rvale1 | Self::Rvaale1)
    }
}

impl Aim {
    /// Whether the window's entries must go, as far as instruction and scope reach them.
    #[must_use]
    pub const fn hits(self) -> bool {
        matches!(self, Self::Hit | Self::Hint | Self::Within | Self::Each)
    }
}

/// A TLBI of EL1&0 and what its operand names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Form {
    /// The instruction.
    pub op: Op,
    /// Its scope.
    pub scope: Scope,
    /// Whether it has the nXS qualifier (FEAT_XS).
    pub nxs: bool,
    /// What its operand names.
    pub aim: Aim,
}

/// What a form is aimed at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// The format of the tables.
    pub format: Format,
    /// First address of the window, in bytes.
    pub base: u64,
    /// Size of the window, in bytes.
    pub size: u64,
    /// Level of its leaves before the change.
    pub leaf: Level,
    /// Whether there are several, below a table, all of which must go.
    pub tree: bool,
}

/// The operands of one or several equal instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operands {
    /// Xt of the first.
    pub first: u64,
    /// How much more the next one's is.
    pub step: u64,
    /// How many there are.
    pub count: u64,
}

/// Bits of a range's BaseADDR.
const BASE_ADDR: u64 = (1 << 37) - 1;

const fn tg(granule: Granule) -> u64 {
    match granule {
        Granule::K4 => 1,
        Granule::K16 => 2,
        Granule::K64 => 3,
    }
}

/// Xt of a form by one VA: `VA[55:12]`, with TTL if there is a hint.
#[must_use]
pub const fn by_va(va: u64, asid: u64, hint: Option<(Granule, Level)>) -> u64 {
    let ttl = match hint {
        Some((granule, level)) => tg(granule) << 2 | level.number() as u64,
        None => 0,
    };
    asid << ASID_SHIFT | ttl << 44 | (va >> 12) & ((1 << 44) - 1)
}

/// Pages of the range that SCALE and NUM say.
#[must_use]
pub const fn range_pages(scale: u64, num: u64) -> u64 {
    (num + 1) << (5 * scale + 1)
}

/// Xt of a form by range from `base`, in bytes, which is aligned to the unit in which the format counts it. Of a hint of
/// level 0 there is no encoding.
#[must_use]
pub const fn by_range(format: Format, base: u64, asid: u64, scale: u64, num: u64, hint: Option<Level>) -> u64 {
    let ttl = match hint {
        Some(level) => level.number() as u64,
        None => 0,
    };
    asid << ASID_SHIFT
        | tg(format.granule) << 46
        | scale << 44
        | num << 39
        | ttl << 37
        | (base >> format.base_shift()) & BASE_ADDR
}

impl Form {
    /// Every form there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let forms = Op::ALL.iter().flat_map(|&op| {
            Scope::ALL.iter().flat_map(move |&scope| {
                [false, true]
                    .into_iter()
                    .flat_map(move |nxs| Aim::ALL.iter().map(move |&aim| Self { op, scope, nxs, aim }))
            })
        });
        forms.filter(|form| form.exists())
    }

    /// Whether its operand can be aimed so.
    #[must_use]
    pub const fn exists(self) -> bool {
        match self.aim {
            Aim::Hit => true,
            Aim::Asid => self.op.is_by_asid(),
            Aim::Page | Aim::Level => self.op.is_by_va(),
            // A range's hint is no feature of its own, and there in some rounds.
            Aim::Hint | Aim::Within | Aim::Each => self.op.is_by_va() && !self.op.is_range(),
        }
    }

    /// The form of this [name](fmt::Display).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (name, aim) = match text.split_once('-') {
            Some((_, "")) => return None,
            Some((name, aim)) => (name, Aim::parse(aim)?),
            None => (text, Aim::Hit),
        };
        let (name, nxs) = name.strip_suffix("nxs").map_or((name, false), |name| (name, true));
        let scope = Scope::ALL.iter().rev().find(|scope| name.ends_with(scope.name()))?;
        let op = Op::parse(name.strip_suffix(scope.name())?)?;
        let form = Self { op, scope: *scope, nxs, aim };
        form.exists().then_some(form)
    }

    /// CRn, CRm and op2 of the SYS instruction that it is; op1 is 0.
    #[must_use]
    pub const fn encoding(self) -> (u8, u8, u8) {
        let crm = match (self.scope, self.op.is_range()) {
            (Scope::Outer, false) => 1,
            (Scope::Inner, false) => 3,
            (Scope::Local, false) => 7,
            (Scope::Inner, true) => 2,
            (Scope::Outer, true) => 5,
            (Scope::Local, true) => 6,
        };
        let op2 = match self.op {
            Op::Vmalle1 => 0,
            Op::Vae1 | Op::Rvae1 => 1,
            Op::Aside1 => 2,
            Op::Vaae1 | Op::Rvaae1 => 3,
            Op::Vale1 | Op::Rvale1 => 5,
            Op::Vaale1 | Op::Rvaale1 => 7,
        };
        (if self.nxs { 9 } else { 8 }, crm, op2)
    }

    /// The operands for `target`. `number` chooses all that is left open: the page that is named, hint, scale and
    /// length of a range, and where in it the window is (first, last, middle).
    #[must_use]
    pub const fn operands(self, target: Target, number: u64) -> Operands {
        let Target { format: Format { granule, .. }, base, size, leaf, .. } = target;
        let page = granule.page_size();
        let asid = match (self.op.is_by_asid(), self.aim) {
            (false, _) => 0,
            (true, Aim::Asid) => OTHER_ASID,
            (true, _) => ASID,
        };
        let first = if !self.op.is_by_va() {
            asid << ASID_SHIFT
        } else if self.op.is_range() {
            self.range(target, asid, number)
        } else {
            let hint = match self.aim {
                Aim::Hint => Some((granule, leaf)),
                Aim::Level => Some((granule, other_level(leaf))),
                _ => None,
            };
            let va = match self.aim {
                Aim::Each => base,
                Aim::Page if number & 1 == 0 => base - page,
                Aim::Page => base + size,
                Aim::Within => base + ((number % (size >> 12)) << 12),
                _ => base + number % (size / page) * page,
            };
            by_va(va, asid, hint)
        };
        match self.aim {
            Aim::Each => Operands { first, step: leaf.size(granule) >> 12, count: size / leaf.size(granule) },
            _ => Operands { first, step: 0, count: 1 },
        }
    }

    const fn range(self, target: Target, asid: u64, number: u64) -> u64 {
        let Target { format, base, size, leaf, tree } = target;
        let (page, unit) = (format.granule.page_size(), 1 << format.base_shift());
        let (mut scale, num) = (number & 3, number >> 2 & 31);
        let hinted = number >> 7 & 1 == 1 && leaf.number() > 0;
        // Of leaf descriptors each maps one piece, and one page of it is enough.
        let cover = if tree { size / page } else { 1 };
        let named = if tree { base } else { base + (number >> 10) % (size / page) * page };
        // A range begins where its unit does, so that at least these pages come before.
        let least = named % unit / page;
        while range_pages(scale, num) < least + cover {
            scale += 1;
        }
        let pages = range_pages(scale, num);
        let units = (pages - cover - least) / (unit / page);
        let before = match (number >> 8) % 3 {
            0 => 0,
            1 => units,
            _ => units / 2,
        } * unit
            + least * page;
        let hint = match self.aim {
            Aim::Level => Some(other_level(leaf)),
            _ if hinted && !tree => Some(leaf),
            _ => None,
        };
        let start = match (self.aim, hint) {
            (Aim::Page, _) if number >> 8 & 1 == 0 => (base - pages * page) / unit * unit,
            (Aim::Page, _) => (base + size).next_multiple_of(unit),
            // With a hint, BaseADDR is aligned to what a descriptor of that level maps, or nothing need be removed.
            (_, Some(_)) => (base - before / size * size) / unit * unit,
            (_, None) => named - before,
        };
        by_range(format, start, asid, scale, num, hint)
    }

    /// Whether it removes all that must go; `here` says that nobody but this PE need be reached. What it is not said to
    /// remove may go nevertheless.
    #[must_use]
    pub const fn reaches(self, owed: Invalidation, here: bool) -> bool {
        let global = matches!(owed.asids, Asids::Any);
        let asids = match owed.asids {
            Asids::Any => !matches!(self.op, Op::Aside1),
            Asids::InUse => !matches!(self.aim, Aim::Asid),
            Asids::Every => !self.op.is_by_asid(),
        };
        let aimed = self.aim.hits() || global && matches!(self.aim, Aim::Asid);
        let all = !self.op.is_by_va() || self.op.is_range() || matches!(self.aim, Aim::Each);
        let addresses = match owed.reach {
            Reach::Nothing | Reach::Leaf => true,
            Reach::Group => all,
            Reach::Tree => all && !self.op.is_last_level(),
        };
        let pes = here || !matches!(self.scope, Scope::Local);
        matches!(owed.reach, Reach::Nothing) || asids && aimed && addresses && pes
    }

    /// What it does, in a few words.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self.aim {
            Aim::Hit if self.op.is_range() => {
                "a range with the window first, last or in its middle, of any SCALE and NUM, with and without TTL"
            }
            Aim::Hit if !self.op.is_by_va() => "all that the window's entries belong to",
            Aim::Hit => "a page of the window, TTL 0",
            Aim::Hint => "a page of the window, TTL its leaves' level",
            Aim::Within => "an address in a page of the window, with bits below the page, which are ignored",
            Aim::Each => "every leaf of the window, one TLBI each",
            Aim::Page => "a neighbour, just before or behind the window, whose own entries may stay",
            Aim::Asid => "an ASID that is not in use: the window's non-global entries may stay",
            Aim::Level => "the window with the TTL of another level: its entries may stay (R_SQXYZ)",
        }
    }
}

/// A level with leaves that is not `level`.
const fn other_level(level: Level) -> Level {
    if level.number() == 3 { Level::L2 } else { Level::L3 }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { op, scope, nxs, aim } = self;
        write!(f, "{op}{scope}{}", if *nxs { "nxs" } else { "" })?;
        if *aim == Aim::Hit { Ok(()) } else { write!(f, "-{aim}") }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, string::ToString, vec::Vec};

    use proptest::prelude::*;

    use super::*;
    use crate::layout::Width;

    const BASE: u64 = 0xffff_8000_0000_0000;

    fn forms() -> Vec<Form> {
        Form::all().collect()
    }

    #[test]
    fn names_and_encodings_are_unique_and_read_back() {
        let names: BTreeSet<_> = Form::all().map(|form| form.to_string()).collect();
        assert_eq!(names.len(), forms().len());
        for form in Form::all() {
            assert_eq!(Form::parse(&form.to_string()), Some(form), "{form}");
        }
        let hits: Vec<_> = Form::all().filter(|form| form.aim == Aim::Hit).collect();
        let encodings: BTreeSet<_> = hits.iter().map(|form| form.encoding()).collect();
        assert_eq!((encodings.len(), hits.len()), (60, 60));
        for no in
            ["", "vae1-", "vae1is-hit", "vae1isis", "rvae1is-ttl", "vmalle1-page", "nxs", "vae2is", "vae1-ttl-ttl"]
        {
            assert_eq!(Form::parse(no), None, "{no}");
        }
    }

    /// By hand from DDI 0487, C5.5.
    #[test]
    fn encodings_and_operands_are_arm_s() {
        let encoding = |name: &str| Form::parse(name).expect(name).encoding();
        assert_eq!(encoding("vmalle1is"), (8, 3, 0));
        assert_eq!(encoding("vae1os"), (8, 1, 1));
        assert_eq!(encoding("aside1"), (8, 7, 2));
        assert_eq!(encoding("vaale1isnxs"), (9, 3, 7));
        assert_eq!(encoding("rvaae1is"), (8, 2, 3));
        assert_eq!(encoding("rvale1os"), (8, 5, 5));
        assert_eq!(encoding("rvae1nxs"), (9, 6, 1));
        assert_eq!(by_va(0xffff_8000_1234_5000, 1, None), 0x0001_0ff8_0001_2345);
        assert_eq!(by_va(0xffff_8000_1234_5000, 0, Some((Granule::K4, Level::L3))), 0x0000_7ff8_0001_2345);
        assert_eq!(by_va(BASE, 2, Some((Granule::K64, Level::L2))), 0x0002_eff8_0000_0000);
        let [k4, k16] = [Granule::K4, Granule::K16].map(Format::new);
        assert_eq!(by_range(k4, BASE, 0, 0, 0, None), 0x0000_4018_0000_0000);
        assert_eq!(by_range(k16, 5 << 14, 1, 2, 31, Some(Level::L3)), 0x0001_afe0_0000_0005);
        // With TCR_EL1.DS, BaseADDR is VA[52:16] with every granule.
        let [k4, k16] = [k4, k16].map(|format| Format { width: Width::Bits52, ..format });
        assert_eq!(by_range(k4, BASE, 0, 0, 0, None), 0x0000_401f_8000_0000);
        assert_eq!(by_range(k16, 5 << 16, 1, 2, 31, Some(Level::L1)), 0x0001_afa0_0000_0005);
        assert_eq!(
            [range_pages(0, 0), range_pages(0, 31), range_pages(1, 0), range_pages(3, 31)],
            [2, 64, 64, 1 << 21]
        );
    }

    proptest! {
        /// What a hit names has the window in it, and what names a neighbour has not, but touches it.
        #[test]
        fn hits_hit_and_misses_miss(
            form in prop::sample::select(forms()),
            granule in prop::sample::select(&Granule::ALL[..]),
            width in prop::sample::select(&Width::ALL[..]),
            (level, tree) in prop::sample::select(&[
                (Level::L3, false),
                (Level::L2, false),
                (Level::L1, false),
                (Level::L0, false),
                (Level::L3, true),
            ][..]),
            at in 0u64..16,
            number: u64,
        ) {
            let format = Format { granule, width };
            prop_assume!(format.at(level).allows_leaf());
            let leaf_size = level.size(granule);
            let size = if tree { Level::L2.size(granule) } else { leaf_size };
            let base = BASE + at * size;
            let target = Target { format, base, size, leaf: level, tree };
            let Operands { first, step, count } = form.operands(target, number);
            prop_assert_eq!(count, if form.aim == Aim::Each { size / leaf_size } else { 1 });
            let asid = first >> 48;
            prop_assert_eq!(asid, match (form.op.is_by_asid(), form.aim) {
                (false, _) => 0,
                (true, Aim::Asid) => 2,
                (true, _) => 1,
            });
            if !form.op.is_by_va() {
                prop_assert_eq!(first << 16, 0);
                return Ok(());
            }
            let upper = |address: u64, bits: u32| ((address << (64 - bits)) as i64 >> (64 - bits)) as u64;
            let page = granule.page_size();
            if form.op.is_range() {
                let (scale, num, ttl) = (first >> 44 & 3, first >> 39 & 31, first >> 37 & 3);
                let unit = if width == Width::Bits52 { 64 << 10 } else { page };
                let start = upper(first & BASE_ADDR, 37).wrapping_mul(unit);
                let end = start + (num + 1) * 2 * 32u64.pow(scale as u32) * page;
                prop_assert_eq!(first >> 46 & 3, tg(granule));
                match form.aim {
                    // As near as the unit lets it.
                    Aim::Page => prop_assert!(
                        end <= base && end + unit > base || start >= base + size && start < base + size + unit
                    ),
                    _ if tree => prop_assert!(start <= base && end >= base + size),
                    _ => prop_assert!(start < base + size && end > base),
                }
                if form.aim.hits() && ttl != 0 {
                    prop_assert_eq!((ttl, start % leaf_size), (u64::from(level.number() as u8), 0));
                }
                prop_assert!(form.aim != Aim::Level || ttl != 0 && ttl != u64::from(level.number() as u8));
            } else {
                let ttl = first >> 44 & 15;
                let va = upper(first & ((1 << 44) - 1), 44) << 12;
                let last = upper((first + step * (count - 1)) & ((1 << 44) - 1), 44) << 12;
                let inside = |va: u64| va >= base && va < base + size;
                prop_assert_eq!(va % if form.aim == Aim::Within { 1 << 12 } else { page }, 0);
                match form.aim {
                    Aim::Page => prop_assert!(va + page == base || va == base + size),
                    Aim::Each => prop_assert_eq!((va, last), (base, base + size - leaf_size)),
                    _ => prop_assert!(inside(va)),
                }
                let right = tg(granule) << 2 | u64::from(level.number() as u8);
                match form.aim {
                    Aim::Hint => prop_assert_eq!(ttl, right),
                    Aim::Level => prop_assert!(ttl != 0 && ttl != right && ttl >> 2 == tg(granule)),
                    _ => prop_assert_eq!(ttl, 0),
                }
            }
        }
    }
}
