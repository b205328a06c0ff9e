//! Granules and lookup levels: how a virtual address is cut up (DDI 0487 D8.2, D8.3).
//!
//! Everything about sizes is derived from two numbers, the granule's page shift and the
//! bits a level resolves, so no table of sizes exists that could disagree with itself.

use core::fmt;

/// A translation granule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Granule {
    /// 4 KiB pages; blocks of 2 MiB and 1 GiB.
    K4,
    /// 16 KiB pages; blocks of 32 MiB.
    K16,
    /// 64 KiB pages; blocks of 512 MiB.
    K64,
}

impl Granule {
    /// All granules, smallest first.
    pub const ALL: [Self; 3] = [Self::K4, Self::K16, Self::K64];

    /// log2 of the page size in bytes.
    #[must_use]
    pub const fn page_shift(self) -> u32 {
        match self {
            Self::K4 => 12,
            Self::K16 => 14,
            Self::K64 => 16,
        }
    }

    /// Size of a page, and of a translation table, in bytes.
    #[must_use]
    pub const fn page_size(self) -> u64 {
        1 << self.page_shift()
    }

    /// Bits of address that one full table resolves.
    #[must_use]
    pub const fn index_bits(self) -> u32 {
        self.page_shift() - 3
    }

    /// Descriptors in a full table.
    #[must_use]
    pub const fn entries(self) -> usize {
        1 << self.index_bits()
    }

    /// The granule's name as used in instance ids.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::K4 => "4k",
            Self::K16 => "16k",
            Self::K64 => "64k",
        }
    }
}

impl fmt::Display for Granule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A lookup level, -1 to 3. Level 3 holds pages; -1 exists only with FEAT_LPA2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(i8);

impl Level {
    /// Level 0, the first level of a 48-bit address with 4K granule.
    pub const L0: Self = Self(0);
    /// Level 1: 1 GiB blocks with the 4K granule.
    pub const L1: Self = Self(1);
    /// Level 2: 2 MiB blocks with the 4K granule.
    pub const L2: Self = Self(2);
    /// Level 3: pages.
    pub const L3: Self = Self(3);

    /// The level with this number, if there is one.
    #[must_use]
    pub const fn new(level: i8) -> Option<Self> {
        if level >= -1 && level <= 3 { Some(Self(level)) } else { None }
    }

    /// The level that an id calls so: `l0` to `l3`.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::L0, Self::L1, Self::L2, Self::L3]
            .into_iter()
            .zip(["l0", "l1", "l2", "l3"])
            .find(|(_, w)| *w == word)
            .map(|(level, _)| level)
    }

    /// The level's number.
    #[must_use]
    pub const fn number(self) -> i8 {
        self.0
    }

    /// The next level of the walk, nearer to the page.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }

    /// The level above it.
    #[must_use]
    pub const fn previous(self) -> Option<Self> {
        Self::new(self.0 - 1)
    }

    /// log2 of the bytes that one descriptor at this level maps.
    #[must_use]
    pub const fn shift(self, granule: Granule) -> u32 {
        granule.page_shift() + (3 - self.0) as u32 * granule.index_bits()
    }

    /// Bytes that one descriptor at this level maps.
    #[must_use]
    pub const fn size(self, granule: Granule) -> u64 {
        1 << self.shift(granule)
    }

    /// Index into this level's table for `va`, in a table of full size.
    #[must_use]
    pub const fn index(self, granule: Granule, va: u64) -> usize {
        (va >> self.shift(granule)) as usize & (granule.entries() - 1)
    }

    /// Whether the granule has this level for addresses of 48 bits.
    #[must_use]
    pub const fn exists(self, granule: Granule) -> bool {
        self.0 >= matches!(granule, Granule::K64) as i8
    }

    /// Whether a Block descriptor may stand at this level (DDI 0487 D8.3.1).
    ///
    /// `lpa2` says that the CPU has FEAT_LPA2 and TCR.DS is set, or for 64K that it has 52-bit addresses.
    #[must_use]
    pub const fn allows_block(self, granule: Granule, lpa2: bool) -> bool {
        match (granule, self.0) {
            (Granule::K4, 1 | 2) | (Granule::K16 | Granule::K64, 2) => true,
            (Granule::K4, 0) | (Granule::K16 | Granule::K64, 1) => lpa2,
            _ => false,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "l{}", self.0)
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A number of bytes, displayed in the largest binary unit that it has one of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            size if size >= 1 << 30 => write!(f, "{} GiB", size >> 30),
            size if size >= 1 << 20 => write!(f, "{} MiB", size >> 20),
            size => write!(f, "{} KiB", size >> 10),
        }
    }
}

/// What ID_AA64MMFR2_EL1.BBM says: which support there is for skipping break-before-make.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum BbmLevel {
    /// Break-before-make is needed for every change of block size.
    L0,
    /// FEAT_BBML1: the nT sequence.
    L1,
    /// FEAT_BBML2: a direct change; a TLB conflict abort may be raised until the TLBI completes.
    L2,
    /// FEAT_BBML3: a direct change, and never a conflict abort for it.
    L3,
}

impl BbmLevel {
    /// All levels, lowest first.
    pub const ALL: [Self; 4] = [Self::L0, Self::L1, Self::L2, Self::L3];

    /// Position of the field in ID_AA64MMFR2_EL1.
    pub const MMFR2_SHIFT: u32 = 52;

    /// The level of a value of ID_AA64MMFR2_EL1. Values above 3 are not defined yet and, as ID fields
    /// grow upwards, are read as 3.
    #[must_use]
    pub const fn from_mmfr2(value: u64) -> Self {
        match (value >> Self::MMFR2_SHIFT) & 0xf {
            0 => Self::L0,
            1 => Self::L1,
            2 => Self::L2,
            _ => Self::L3,
        }
    }

    /// The level with this number.
    #[must_use]
    pub const fn from_number(n: u8) -> Option<Self> {
        match n {
            0 => Some(Self::L0),
            1 => Some(Self::L1),
            2 => Some(Self::L2),
            3 => Some(Self::L3),
            _ => None,
        }
    }

    /// The level's number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// `mmfr2` with its BBM field lowered to this level; never raised.
    #[must_use]
    pub const fn cap(self, mmfr2: u64) -> u64 {
        let field = (mmfr2 >> Self::MMFR2_SHIFT) & 0xf;
        if field <= self.number() as u64 {
            return mmfr2;
        }
        mmfr2 & !(0xf << Self::MMFR2_SHIFT) | (self.number() as u64) << Self::MMFR2_SHIFT
    }
}

impl fmt::Display for BbmLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_those_of_the_manual() {
        const K: u64 = 1 << 10;
        const M: u64 = 1 << 20;
        const G: u64 = 1 << 30;
        let sizes = |granule| [Level::L3, Level::L2, Level::L1].map(|level| level.size(granule));
        assert_eq!(sizes(Granule::K4), [4 * K, 2 * M, G]);
        assert_eq!(sizes(Granule::K16), [16 * K, 32 * M, 64 * G]);
        assert_eq!(sizes(Granule::K64), [64 * K, 512 * M, 4096 * G]);
        for granule in Granule::ALL {
            assert_eq!(granule.entries() as u64 * 8, granule.page_size());
        }
    }

    #[test]
    fn blocks_stand_where_the_manual_has_them() {
        let blocks = |granule, lpa2| (-1..=3).filter_map(Level::new).filter(move |l| l.allows_block(granule, lpa2));
        assert!(blocks(Granule::K4, false).eq([Level::L1, Level::L2]));
        assert!(blocks(Granule::K4, true).eq([Level::L0, Level::L1, Level::L2]));
        for granule in [Granule::K16, Granule::K64] {
            assert!(blocks(granule, false).eq([Level::L2]));
            assert!(blocks(granule, true).eq([Level::L1, Level::L2]));
        }
    }

    #[test]
    fn levels_are_those_of_48_bit_addresses() {
        for granule in Granule::ALL {
            for level in (-1..=3).filter_map(Level::new) {
                // The level resolves at least one bit of the address.
                assert_eq!(level.exists(granule), level.shift(granule) < 48, "{level} of {granule}");
            }
        }
        assert_eq!(Bytes(Level::L2.size(Granule::K16)).to_string(), "32 MiB");
    }

    proptest! {
        /// The indices of all levels and the offset in the page put the address together again.
        #[test]
        fn indices_resolve_an_address(va in 0u64..1 << 48) {
            for granule in Granule::ALL {
                let levels = [Level::L0, Level::L1, Level::L2, Level::L3];
                let page = va & (granule.page_size() - 1);
                let again = levels.iter().filter(|level| level.shift(granule) < 48).fold(page, |sum, level| {
                    sum | (level.index(granule, va) as u64) << level.shift(granule)
                });
                prop_assert_eq!(again, va);
            }
        }

        #[test]
        fn a_cap_lowers_one_field_and_never_raises_it(mmfr2: u64) {
            for cap in BbmLevel::ALL {
                let capped = cap.cap(mmfr2);
                let (was, is) = (BbmLevel::from_mmfr2(mmfr2), BbmLevel::from_mmfr2(capped));
                prop_assert_eq!(is, was.min(cap));
                prop_assert_eq!((capped ^ mmfr2) & !(0xf << BbmLevel::MMFR2_SHIFT), 0);
                prop_assert_eq!(cap.cap(capped), capped);
            }
        }
    }

    #[test]
    fn numbers_round_trip() {
        for bbm in BbmLevel::ALL {
            assert_eq!(BbmLevel::from_number(bbm.number()), Some(bbm));
            assert_eq!(BbmLevel::from_mmfr2(u64::from(bbm.number()) << BbmLevel::MMFR2_SHIFT), bbm);
        }
        assert_eq!(BbmLevel::from_number(4), None);
        assert_eq!(Level::new(-2), None);
        assert_eq!(Level::new(4), None);
        assert_eq!(Level::L3.next(), None);
    }
}
