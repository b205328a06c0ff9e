//! What is done around the change in a round, so that TLBs are met in many states: drawn from the seed and the number
//! of the round alone, so that any round can be had again, and the host can say what a bad one did.
//!
//! Nearly half of the rounds stay as they are, the TLBs filled by the accesses before the change. A TLBI in front of a change
//! is always allowed and never needed; what it leaves out is what counts. One of the last level leaves the entries that
//! walk caches hold, one of all levels leaves neither, and other spots of the window bring entries of neighbours. Many other
//! pages press on the TLB: tens of them on its first level, hundreds on the next, so that the window's entries are left in
//! the second only, or in none.

use core::fmt;

/// Which entries of the window the observer's TLB is left with when the change begins. Where hardware marks descriptors as
/// used, accesses to it besides those that count are left out, and with them [`Neighbours`](Self::Neighbours) and
/// [`At`](Self::At).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prime {
    /// What its accesses before the change brought.
    Spot,
    /// The same, and what one load from each of a few other spots brought.
    Neighbours,
    /// Those of walk caches: a TLBI of the last level, by the spot's VA, on this PE only.
    Walk,
    /// None on the way to the spot: a TLBI of all levels by its VA, on this PE only.
    Nothing,
    /// What an AT brought, behind a TLBI as for [`Nothing`](Self::Nothing).
    At,
    /// What is left of what its accesses brought, behind accesses to so many other pages, at most [`PRESSING_PAGES`].
    Pressed(u16),
}

/// Other pages to which accesses may be made so that they press on the TLB.
pub const PRESSING_PAGES: u16 = 512;

impl Prime {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Spot,
        Self::Neighbours,
        Self::Walk,
        Self::Nothing,
        Self::At,
        Self::Pressed(PRESSING_PAGES / 8),
        Self::Pressed(PRESSING_PAGES),
    ];
}

impl fmt::Display for Prime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spot => f.write_str("TLB as the accesses left it"),
            Self::Neighbours => f.write_str("entries of other spots in the TLB"),
            Self::Walk => f.write_str("no last-level entry, walk caches kept"),
            Self::Nothing => f.write_str("no entry on the way to the spot"),
            Self::At => f.write_str("entries by AT only"),
            Self::Pressed(pages) => write!(f, "TLB pressed by {pages} other pages"),
        }
    }
}

/// What is done in a round besides the change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pattern {
    /// What the observer's TLB is left with.
    pub prime: Prime,
    /// How long the changer waits in front of the sequence, in turns of an empty loop.
    pub before: u32,
    /// How long it waits in front of each further step, likewise.
    pub between: u32,
    /// In front of which steps it pauses, where it does.
    draw: u64,
}

impl Pattern {
    /// Which patterns seed and round stand for: another number means others.
    pub const VERSION: u8 = 3;
    /// Turns of the longest wait in front of the sequence; a power of two.
    const BEFORE: u64 = 256;
    /// Turns of the longest wait between steps; a power of two.
    const BETWEEN: u64 = 32;

    /// The pattern of round `round`, counted from 0.
    #[must_use]
    pub const fn of(seed: u64, round: u64) -> Self {
        let bits = mix(seed, round);
        let prime = match bits >> 61 {
            0 => Prime::Neighbours,
            1 => Prime::Walk,
            2 => Prime::Nothing,
            3 => Prime::At,
            // One in 32, and one in 512 by all of them, which costs as much as many rounds.
            4 if bits >> 57 & 3 == 0 => {
                Prime::Pressed(if bits >> 53 & 15 == 0 { PRESSING_PAGES } else { PRESSING_PAGES / 8 })
            }
            _ => Prime::Spot,
        };
        // In three rounds of four the steps follow one another at once, as in a kernel.
        let between = if bits >> 59 & 3 == 0 { bits >> 32 & (Self::BETWEEN - 1) } else { 0 };
        // Of every length as many: waits are what a round costs most, and short ones tell no less.
        let before = (bits & (Self::BEFORE - 1)) >> (bits >> 16 & 7);
        Self { prime, before: before as u32, between: between as u32, draw: mix(bits, 0) }
    }

    /// In front of which of `steps` steps a changer that pauses does so, a bit each: one for certain, and one in four of
    /// the others.
    #[must_use]
    pub const fn pauses(self, steps: u32) -> u64 {
        let Self { draw, .. } = self;
        draw & draw.rotate_right(17) | 1 << (((draw >> 32) * steps as u64) >> 32)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prime, before, between, .. } = self;
        write!(f, "{prime}, {before} turns before the sequence and {between} between steps")
    }
}

/// Where the window of an instance stands, `size` bytes, a power of two, to which it is aligned: drawn from the seed and a hash of
/// the instance's id, so that TLBs meet the same change in other sets, and walks at other places in their tables. It is
/// in the half of TTBR1, far from its ends, so that ranges around it do not leave it.
#[must_use]
pub const fn window_base(seed: u64, instance: u64, size: u64) -> u64 {
    const FIRST: u64 = 0xffff_4000_0000_0000;
    const BITS: u32 = 46;
    FIRST + (mix(seed, !instance) & ((1 << BITS) - 1) & !(size - 1))
}

/// Where the window of an instance that changes EL2's own stage 1 stands: in the upper half of its 48 bits, which no physical
/// address that hv maps onto itself is in.
#[must_use]
pub const fn el2_base(seed: u64, instance: u64, size: u64) -> u64 {
    EL2_WINDOWS + (window_base(seed, instance, size) & (EL2_WINDOWS - 1))
}

/// The first address of EL2's that windows may have.
pub const EL2_WINDOWS: u64 = 1 << 47;

/// Where pages stand that press on the TLB, for windows of `size` bytes in all from `base`: not next to them, where neighbours
/// are looked at, and mostly below a table that is there already. `table` is what a table of pages maps, in bytes.
#[must_use]
pub const fn pressing_base(base: u64, size: u64, table: u64) -> u64 {
    (base ^ if size > table { size } else { table } << 1) & !(table - 1)
}

/// Where the addresses stand that stage 1 translates by a table in the window at `base`: 2 MiB far from it.
#[must_use]
pub const fn tables_base(base: u64) -> u64 {
    (base ^ 1 << 40) & !((2 << 20) - 1)
}

/// Where the window of an instance that changes stage 2 stands in IPAs of `bits` bits: in the upper half of them.
#[must_use]
pub const fn ipa_base(seed: u64, instance: u64, size: u64, bits: u32) -> u64 {
    let half = 1 << (bits - 1);
    half + (mix(!seed, !instance) & (half - 1) & !(size - 1))
}

/// Puts what vCPUs may be placed on into the order in which instance `instance` of a run takes it: with another order in
/// each, every pair of CPUs changes and observes in turn, near ones and far ones, whatever their numbers.
pub fn shuffle<T>(seed: u64, instance: u64, places: &mut [T]) {
    // Another stream than the one of the rounds.
    let mut bits = mix(!seed, instance);
    for left in (2..=places.len()).rev() {
        places.swap(left - 1, (bits % left as u64) as usize);
        bits = mix(bits, left as u64);
    }
}

/// The finaliser of MurmurHash3: all bits of the round and of the seed tell in all bits.
const fn mix(seed: u64, round: u64) -> u64 {
    let mut x = seed ^ round.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prime_is_drawn_and_nearly_half_of_the_rounds_stay_plain() {
        for seed in [0, 1, 42, u64::MAX] {
            let count = |prime| (0..1 << 16).filter(|round| Pattern::of(seed, *round).prime == prime).count();
            for prime in Prime::ALL {
                let expected = match prime {
                    Prime::Spot => 30720,
                    Prime::Pressed(PRESSING_PAGES) => 128,
                    Prime::Pressed(_) => 1920,
                    _ => 8192,
                };
                assert!(count(prime).abs_diff(expected) < expected / 3, "{prime:?}: {} with seed {seed}", count(prime));
            }
        }
    }

    #[test]
    fn every_step_is_paused_at_in_some_rounds() {
        for steps in 1..=12 {
            let paused = (0..256).fold(0, |all, round| all | Pattern::of(3, round).pauses(steps));
            assert_eq!(paused & ((1 << steps) - 1), (1 << steps) - 1);
            assert!((0..256).all(|round| Pattern::of(3, round).pauses(steps) & ((1 << steps) - 1) != 0));
        }
    }

    #[test]
    fn windows_stand_anywhere_but_at_the_ends_and_aligned() {
        for size in [4096, 64 << 10, 2 << 20, 512 << 20, 64 << 30] {
            let bases = || (0..256).map(|instance| window_base(9, instance, size));
            assert!(bases().all(|base| base % size == 0 && base >> 46 == 0x3fffd));
            let (ones, zeros) = bases().fold((0, 0), |(ones, zeros), base| (ones | base, zeros | !base));
            assert_eq!(ones & zeros & 0x3fff_ffff_ffff, 0x3fff_ffff_ffff & !(size - 1), "{size:#x}");
        }
    }

    #[test]
    fn every_pair_of_places_comes_first_about_equally_often() {
        for seed in [0, 42] {
            let mut pairs = std::collections::BTreeMap::new();
            for instance in 0..2000 {
                let mut places = [0, 1, 2, 3, 4];
                shuffle(seed, instance, &mut places);
                *pairs.entry((places[0], places[1])).or_insert(0) += 1;
                places.sort_unstable();
                assert_eq!(places, [0, 1, 2, 3, 4]);
            }
            assert!(pairs.len() == 20 && pairs.values().all(|times| (50..150).contains(times)), "{pairs:?}");
        }
    }

    #[test]
    fn waits_are_drawn_up_to_their_bounds() {
        let patterns = || (0..4096).map(|round| Pattern::of(7, round));
        assert_eq!(patterns().map(|pattern| pattern.before).max(), Some(255));
        assert_eq!(patterns().map(|pattern| pattern.between).max(), Some(31));
        let quick = patterns().filter(|pattern| pattern.between == 0).count();
        assert!((2900..3400).contains(&quick), "{quick}");
    }
}
