//! Another model's opinion on single changes, as rows of text, held against the [rule base](crate::rule).
//!
//! A row overwrites one live last-level descriptor by another, without a break, and tells whether break-before-make
//! was needed. `state` is v1 (valid, AF=1), v0 (invalid) or af0 (valid, AF=0); `mem` a memory type with Shareability;
//! `write` rw or ro. Such rows come from Arm's executable memory model, which knows one address at the last level:
//! no block sizes, no Contiguous, no nG, and no hardware updates of the Access flag.

use core::fmt;

use crate::{
    descriptor::{Attributes, Descriptor, Shareability},
    geometry::{BbmLevel, Granule, Level},
    rule::{Context, Needed, Transition},
};

/// The columns of a row, in order.
pub const COLUMNS: [&str; 9] =
    ["old_state", "old_mem", "old_write", "new_state", "new_mem", "new_write", "oa", "contents", "bbm_expected"];

/// A change and what the other model says of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opinion {
    /// The change.
    pub transition: Transition,
    /// Whether it says that break-before-make was needed.
    pub bbm_expected: bool,
}

/// Why a row is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadRow<'a> {
    /// It has not the number of [`COLUMNS`].
    Columns(usize),
    /// A value that its column does not have.
    Value {
        /// The column.
        column: &'static str,
        /// The value.
        value: &'a str,
    },
    /// The same output address has the same contents.
    SameDiffers,
}

impl fmt::Display for BadRow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Columns(count) => write!(f, "{count} columns instead of {}", COLUMNS.len()),
            Self::Value { column, value } => write!(f, "`{value}` is no value of column `{column}`"),
            Self::SameDiffers => f.write_str("column `contents`: the same OA cannot differ in contents"),
        }
    }
}

/// Memory types by name: the field of MAIR and SH. What Device memory has in SH does not count (R_PYFVQ).
const MEMORY: [(&str, u8, Shareability); 13] = [
    ("wb-ish", 0xff, Shareability::Inner),
    ("wb-osh", 0xff, Shareability::Outer),
    ("wb-nsh", 0xff, Shareability::Non),
    ("wt-ish", 0xbb, Shareability::Inner),
    ("nc-ish", 0x44, Shareability::Inner),
    ("iwb-onc-ish", 0x4f, Shareability::Inner),
    ("inc-owb-ish", 0xf4, Shareability::Inner),
    ("iwb-owt-ish", 0xbf, Shareability::Inner),
    ("iwt-owb-ish", 0xfb, Shareability::Inner),
    ("ngnrne", 0x00, Shareability::Outer),
    ("ngnre", 0x04, Shareability::Outer),
    ("ngre", 0x08, Shareability::Outer),
    ("gre", 0x0c, Shareability::Outer),
];

/// Where the row's page and the other page are.
const PAGES: [u64; 2] = [0x4000_0000, 0x4000_1000];

impl Opinion {
    /// The opinion of a row whose values are in the order of [`COLUMNS`].
    ///
    /// # Errors
    /// The first value that is none of its column's.
    pub fn parse<'a>(row: &[&'a str]) -> Result<Self, BadRow<'a>> {
        let &[old_state, old_mem, old_write, new_state, new_mem, new_write, oa, contents, bbm] = row else {
            return Err(BadRow::Columns(row.len()));
        };
        let flag = |column, value: &'a str, yes: &str, no: &str| match value {
            _ if value == yes => Ok(true),
            _ if value == no => Ok(false),
            _ => Err(BadRow::Value { column: COLUMNS[column], value }),
        };
        let moves = flag(6, oa, "other", "same")?;
        let (old, old_attr) = descriptor(0, [old_state, old_mem, old_write], 0, PAGES[0])?;
        let (new, new_attr) = descriptor(3, [new_state, new_mem, new_write], 1, PAGES[usize::from(moves)])?;
        let context = Context {
            mair: Some(u64::from(old_attr) | u64::from(new_attr) << 8),
            contents_equal: flag(7, contents, "same", "differ")?,
            ..Context::new(Granule::K4, Level::L3)
        };
        if !moves && !context.contents_equal {
            return Err(BadRow::SameDiffers);
        }
        Ok(Self { transition: Transition { old, new, context }, bbm_expected: flag(8, bbm, "1", "0")? })
    }

    /// What the rule base says instead, if it does not agree at every BBM level: none of them matters at the last
    /// level without Contiguous.
    #[must_use]
    pub fn contradiction(&self) -> Option<(BbmLevel, Needed)> {
        let all = BbmLevel::ALL.into_iter().map(|bbm| (bbm, self.transition.needs(bbm)));
        all.into_iter().find(|(_, needed)| needed.need.is_bbm() != self.bbm_expected)
    }
}

/// One side of a row, whose columns begin with `first`, and its field of MAIR, which is at `attr_index`.
fn descriptor<'a>(
    first: usize,
    [state, mem, write]: [&'a str; 3],
    attr_index: u8,
    oa: u64,
) -> Result<(Descriptor, u8), BadRow<'a>> {
    let bad = |column: usize, value| BadRow::Value { column: COLUMNS[first + column], value };
    let (valid, access_flag) = match state {
        "v1" => (true, true),
        "v0" => (false, true),
        "af0" => (true, false),
        _ => return Err(bad(0, state)),
    };
    let (_, attr, shareability) = MEMORY.into_iter().find(|(name, ..)| *name == mem).ok_or(bad(1, mem))?;
    let writable = match write {
        "rw" => true,
        "ro" => false,
        _ => return Err(bad(2, write)),
    };
    let attributes = Attributes { attr_index, shareability, writable, access_flag, ..Attributes::NORMAL_RW };
    let leaf = Descriptor::leaf(Granule::K4, Level::L3, oa, attributes);
    Ok((if valid { leaf } else { Descriptor::from_raw(leaf.raw() & !1) }, attr))
}
