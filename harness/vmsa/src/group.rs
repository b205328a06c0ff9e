//! Contiguous groups as a whole: what their change needs, and what a group that is left misprogrammed may show
//! (DDI 0487 D8.7.1).
//!
//! The rules of [`rule`](crate::rule) look at one descriptor. Those of a Contiguous group belong together besides: a
//! TLB may hold one entry for all of them, made from any one. [`Grouping`] says whether a group is programmed as it
//! must be, [`MISPROGRAMMED`] what a lookup may give where it is not, and a [`GroupChange`] what the change of a group
//! from one state to another needs, goes through and leaves behind.
//!
//! Invalid descriptors have no Contiguous bit, so that a group of which some are invalid is not misprogrammed
//! (I_PGVGZ). This is why break-before-make of a group breaks all of its descriptors before it makes any: the others
//! would form a misprogrammed group with the first that is made.
//!
//! ```
//! use vmsa::{
//!     BbmLevel, Descriptor, Granule, Level,
//!     descriptor::Attributes,
//!     group::{GroupChange, Grouping, Lookup},
//!     rule::{Context, Need},
//! };
//!
//! let context = Context::new(Granule::K4, Level::L3);
//! let page = |contiguous, entry: u64| {
//!     let attributes = Attributes { contiguous, ..Attributes::NORMAL_RW };
//!     Descriptor::leaf(Granule::K4, Level::L3, 0x4020_0000 + entry * 0x1000, attributes)
//! };
//! let old: [Descriptor; 16] = core::array::from_fn(|entry| page(false, entry as u64));
//! let new: [Descriptor; 16] = core::array::from_fn(|entry| page(true, entry as u64));
//! let fold = GroupChange::new(context, &old, &new)?;
//! assert_eq!(fold.needs(BbmLevel::L0).need, Need::Bbm);
//! assert_eq!(fold.needs(BbmLevel::L1).need, Need::DirectTlbi);
//! assert_eq!((fold.passes(), fold.leaves()), (Grouping::Mixed, Grouping::Sound));
//!
//! // Only half of it.
//! let half = fold.first(8);
//! assert_eq!(half.leaves(), Grouping::Mixed);
//! assert_eq!(half.leaves().allows(Lookup::Inconsistent, BbmLevel::L0).map(|row| row.rule), Some("R_NGLXZ"));
//! assert_eq!(half.leaves().allows(Lookup::Inconsistent, BbmLevel::L1), None);
//! # Ok::<(), vmsa::group::BadGroup>(())
//! ```

use core::fmt;

use crate::{
    descriptor::{Attributes, Descriptor, DescriptorKind},
    geometry::BbmLevel,
    rule::{Asids, Context, HardwareUpdates, Invalidation, Need, Needed, Reach, Transition, needed},
};

/// How the descriptors of a group go together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Grouping {
    /// As they must: all that are valid have the Contiguous bit and map one aligned range alike, or none has it.
    Sound,
    /// All that are valid have the Contiguous bit, and their output addresses, attributes or permissions do not go
    /// together (R_JQQTC).
    Differing,
    /// Some have the Contiguous bit, and some that are valid have not (R_QTRPM).
    Mixed,
}

/// What a lookup in a group may give besides what the address's own descriptor says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lookup {
    /// What another descriptor of the group says, as if it held for all of the group.
    Another,
    /// Output address, permissions or attributes that no descriptor of the group has.
    Inconsistent,
    /// A TLB conflict abort.
    Conflict,
}

impl Lookup {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Another, Self::Inconsistent, Self::Conflict];
}

/// A row of [`MISPROGRAMMED`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Consequence {
    /// How the group is programmed.
    pub grouping: Grouping,
    /// The highest BBM level it holds for.
    pub to: BbmLevel,
    /// What a lookup may give.
    pub lookup: Lookup,
    /// The rule that says so, by its name in the Arm ARM.
    pub rule: &'static str,
    /// The rule applied, in words.
    pub why: &'static str,
}

/// What lookups in a misprogrammed group may give, for as long as it is one; a TLBI changes nothing about it.
///
/// FEAT_BBML3 rules conflicts out for the *change* of the Contiguous bit. Nothing is known to say so of a group that
/// stays misprogrammed, so that R_NGLXZ is taken to hold at level 3 as it stands.
pub const MISPROGRAMMED: &[Consequence] = &[
    Consequence {
        grouping: Grouping::Differing,
        to: BbmLevel::L3,
        lookup: Lookup::Another,
        rule: "R_JQQTC",
        why: "all have the Contiguous bit and do not map one range alike: any one of them may be used",
    },
    Consequence {
        grouping: Grouping::Mixed,
        to: BbmLevel::L3,
        lookup: Lookup::Another,
        rule: "R_NGLXZ",
        why: "only some have the Contiguous bit: any one of them may be used",
    },
    Consequence {
        grouping: Grouping::Mixed,
        to: BbmLevel::L0,
        lookup: Lookup::Inconsistent,
        rule: "R_NGLXZ",
        why: "only some have the Contiguous bit: without FEAT_BBM what is used need not be programmed in any",
    },
    Consequence {
        grouping: Grouping::Mixed,
        to: BbmLevel::L3,
        lookup: Lookup::Conflict,
        rule: "R_NGLXZ",
        why: "only some have the Contiguous bit: their entries may conflict",
    },
];

impl Grouping {
    /// All of them, the harmless one first.
    pub const ALL: [Self; 3] = [Self::Sound, Self::Differing, Self::Mixed];

    /// How these descriptors, all of one group in order, go together.
    pub fn of(context: &Context, entries: impl Iterator<Item = Descriptor>) -> Self {
        let layout = context.layout();
        let (mut with, mut without, mut differ) = (None, false, false);
        for (entry, descriptor) in entries.enumerate() {
            let attributes = match layout.kind(descriptor) {
                DescriptorKind::Invalid => continue,
                DescriptorKind::Block | DescriptorKind::Page => layout.attributes(descriptor),
                // What has no such bit has not got it set.
                DescriptorKind::Table => Attributes { contiguous: false, ..Attributes::NORMAL_RW },
            };
            if !attributes.contiguous {
                without = true;
                continue;
            }
            let this = whole(context, entry, descriptor);
            differ |= *with.get_or_insert(this) != this || this.is_none();
        }
        match (with, without) {
            (Some(_), true) => Self::Mixed,
            (Some(_), false) if differ => Self::Differing,
            _ => Self::Sound,
        }
    }

    /// Why a lookup may give this at BBM level `bbm`, if it may.
    #[must_use]
    pub fn allows(self, lookup: Lookup, bbm: BbmLevel) -> Option<&'static Consequence> {
        MISPROGRAMMED.iter().find(|row| row.grouping == self && row.lookup == lookup && bbm <= row.to)
    }
}

/// What a Contiguous descriptor, the group's `entry`th, says of all of the group: where the group's range begins, and
/// the rest of it. `None` if its address does not fit into an aligned range.
fn whole(context: &Context, entry: usize, descriptor: Descriptor) -> Option<(u64, u64)> {
    let layout = context.layout();
    let size = layout.level.size(layout.granule);
    let range = size * layout.group()? as u64;
    let base = layout.oa(descriptor).checked_sub(entry as u64 * size).filter(|base| base % range == 0)?;
    let address = layout.leaf(u64::MAX, Attributes::NORMAL_RO).raw() ^ layout.leaf(0, Attributes::NORMAL_RO).raw();
    // Bits for software count for nothing; hardware may set AF and AP[2] of some only (R_LCGVS).
    let mut rest = descriptor.raw() & !(address | 1 << 63 | 0xf << 55);
    if context.hardware >= HardwareUpdates::AccessFlag {
        rest |= Descriptor::INVALID.with_af(true).raw();
    }
    if context.hardware == HardwareUpdates::Dirty && descriptor.attributes().dbm {
        rest = Descriptor::from_raw(rest).with_write(true).raw();
    }
    Some((base, rest))
}

/// Why two lists of descriptors are no change of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadGroup {
    /// There are no groups at this level.
    NoGroups,
    /// They are not as many as a group has.
    Length {
        /// Of old and new descriptors.
        given: [usize; 2],
        /// In a group.
        group: usize,
    },
}

impl fmt::Display for BadGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoGroups => f.write_str("there are no Contiguous groups at this level"),
            Self::Length { given: [old, new], group } => {
                write!(f, "{old} old and {new} new descriptors; a Contiguous group has {group}")
            }
        }
    }
}

impl core::error::Error for BadGroup {}

/// The change of the descriptors of one group, from the first on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupChange<'a> {
    context: Context,
    old: &'a [Descriptor],
    new: &'a [Descriptor],
    changed: usize,
}

impl<'a> GroupChange<'a> {
    /// The change of all descriptors of a group, `old` to `new`.
    ///
    /// # Errors
    /// If they are not the descriptors of a group.
    pub fn new(context: Context, old: &'a [Descriptor], new: &'a [Descriptor]) -> Result<Self, BadGroup> {
        let group = context.layout().group().ok_or(BadGroup::NoGroups)?;
        let given = [old.len(), new.len()];
        if given != [group; 2] {
            return Err(BadGroup::Length { given, group });
        }
        Ok(Self { context, old, new, changed: group })
    }

    /// The change of only the first `changed` of them.
    #[must_use]
    pub fn first(self, changed: usize) -> Self {
        Self { changed: changed.min(self.old.len()), ..self }
    }

    /// The descriptors when the first `done` of those that change are written.
    fn after(&self, done: usize) -> impl Iterator<Item = Descriptor> + use<'a> {
        self.new[..done].iter().chain(&self.old[done..]).copied()
    }

    /// The change of each descriptor.
    pub fn transitions(&self) -> impl Iterator<Item = Transition> + use<'a> {
        let Self { context, old, new, changed } = *self;
        old.iter().zip(new).take(changed).map(move |(&old, &new)| Transition { old, new, context })
    }

    /// What it needs at BBM level `bbm`: the strongest need of its descriptors, of equal ones the first. Where that is
    /// break-before-make, all that change are broken before any is made.
    #[must_use]
    pub fn needs(&self, bbm: BbmLevel) -> Needed {
        let none = needed(Need::Nothing, "R_GPPYH", "no descriptor changes");
        let stronger = |best: Needed, other: Needed| if other.need > best.need { other } else { best };
        self.transitions().map(|transition| transition.needs(bbm)).reduce(stronger).unwrap_or(none)
    }

    /// What its TLBI must do, for all of its descriptors together.
    #[must_use]
    pub fn invalidation(&self) -> Invalidation {
        let all = self.transitions().map(|transition| transition.invalidation());
        let owed = all.fold(Invalidation::NONE, Invalidation::and);
        // Several descriptors need as many forms by address.
        let several =
            self.transitions().filter(|transition| transition.invalidation() != Invalidation::NONE).count() > 1;
        if several { owed.and(Invalidation { reach: Reach::Group, asids: Asids::Any }) } else { owed }
    }

    /// The worst grouping that it goes through if each descriptor is written over its old one, in order, before the
    /// TLBI.
    #[must_use]
    pub fn passes(&self) -> Grouping {
        let states = (0..=self.changed).map(|done| Grouping::of(&self.context, self.after(done)));
        states.max().unwrap_or(Grouping::Sound)
    }

    /// The worst grouping that it goes through if all that change are broken first, from the first to the last, and
    /// made after.
    #[must_use]
    pub fn passes_broken(&self) -> Grouping {
        let Self { old, new, changed, .. } = *self;
        let broken = |entry: usize, made: usize, breaks: usize| match entry {
            _ if entry < made => new[entry],
            _ if entry < breaks => Descriptor::INVALID,
            _ => old[entry],
        };
        let state = |made, breaks| Grouping::of(&self.context, (0..old.len()).map(|entry| broken(entry, made, breaks)));
        let breaking = (0..=changed).map(|breaks| state(0, breaks));
        breaking.chain((0..=changed).map(|made| state(made, changed))).max().unwrap_or(Grouping::Sound)
    }

    /// How the group is left.
    #[must_use]
    pub fn leaves(&self) -> Grouping {
        Grouping::of(&self.context, self.after(self.changed))
    }

    /// What else an access to `entry`'s addresses may find in the group as it is left, besides what its own descriptor
    /// says: every Contiguous descriptor of a misprogrammed group, moved to where `entry` is. Empty for a sound group.
    pub fn others(&self, entry: usize) -> impl Iterator<Item = Descriptor> + use<'a> {
        let layout = self.context.layout();
        let size = layout.level.size(layout.granule);
        let misprogrammed = self.leaves() != Grouping::Sound;
        let all = self.after(self.changed).enumerate();
        all.filter(move |(other, descriptor)| {
            let leaf = matches!(layout.kind(*descriptor), DescriptorKind::Block | DescriptorKind::Page);
            misprogrammed && *other != entry && leaf && layout.attributes(*descriptor).contiguous
        })
        .map(move |(other, descriptor)| {
            let base = layout.oa(descriptor).wrapping_sub(other as u64 * size);
            let oa = base.wrapping_add(entry as u64 * size);
            // The same descriptor at another address: nothing of it but the OA changes.
            let place = |oa| layout.leaf(oa, Attributes::NORMAL_RO).raw();
            Descriptor::from_raw(descriptor.raw() & !(place(u64::MAX) ^ place(0)) | place(oa) ^ place(0))
        })
    }
}
