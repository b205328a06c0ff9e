//! Sequences with one mistake in them, made from the sequences themselves.
//!
//! A suite that says "no violation" must be able to see one. [`of`] makes from any sequence all that a person might
//! get wrong in one place: a step left out, a weaker barrier or TLBI, two neighbours swapped. Whether a mutant is in
//! fact wrong says [`sufficient`](crate::transition::sufficient), as for any steps.

use core::fmt;

use crate::sequence::{Dsb, Sequence, Step, Tlbi, Write};

/// One mistake. Steps count from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mistake {
    /// A step is left out.
    LeftOut {
        /// Which.
        at: usize,
        /// What stood there.
        step: Step,
    },
    /// A step is another one.
    Replaced {
        /// Which.
        at: usize,
        /// What stood there.
        step: Step,
        /// What stands there instead.
        by: Step,
    },
    /// Two steps come in the wrong order.
    Swapped {
        /// The first of them.
        at: usize,
        /// What came first.
        first: Step,
        /// What comes first now.
        second: Step,
    },
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeftOut { at, step } => write!(f, "step {}, {step}, left out", at + 1),
            Self::Replaced { at, step, by } => write!(f, "step {}, {step}, replaced by {by}", at + 1),
            Self::Swapped { at, first, second } => write!(f, "step {}, {first}, behind {second}", at + 1),
        }
    }
}

/// What a person might write instead of `step`, all of it less.
const fn weaker(step: Step) -> &'static [Step] {
    use Step::{Dsb as D, Tlbi as T};
    use Tlbi::{
        Alle1, Alle1is, Alle2, Alle2is, Ipas2e1, Ipas2e1is, Ipas2e1isAll, Ipas2e1isOther, Ipas2le1is, Ipas2le1isEach,
        Vaae1, Vaae1is, Vaae1isOther, Vaae1isUnshifted, Vaale1, Vaale1is, Vaale1isEach, Vae1isOtherAsid, Vae2, Vae2is,
        Vae2isOther, Vale2is, Vale2isEach, Vmalle1, Vmalle1is, Vmalls12e1is,
    };
    match step {
        D(Dsb::Ish) => &[D(Dsb::Nsh), D(Dsb::Ishst), D(Dsb::Ishld)],
        D(Dsb::Ishst) => &[D(Dsb::Nshst), D(Dsb::Ishld)],
        T(Vaae1is) => &[T(Vaae1), T(Vaale1is), T(Vaae1isOther), T(Vaae1isUnshifted), T(Vae1isOtherAsid), T(Vae2is)],
        T(Vaale1isEach) => &[T(Vaale1is), T(Vaae1isOther), T(Vae2is)],
        T(Vaale1is) => &[T(Vaale1), T(Vaae1isOther), T(Vaae1isUnshifted), T(Vae1isOtherAsid), T(Vae2is)],
        T(Vmalle1is) => &[T(Vmalle1), T(Vaae1is), T(Vaale1is), T(Vae2is)],
        T(Ipas2e1is | Ipas2le1is) => &[T(Ipas2e1), T(Ipas2e1isOther), T(Vmalle1is)],
        T(Ipas2e1isAll) => &[T(Ipas2e1is), T(Ipas2le1is)],
        T(Ipas2le1isEach) => &[T(Ipas2le1is), T(Ipas2e1isOther)],
        T(Vae2is) => &[T(Vae2), T(Vale2is), T(Vae2isOther), T(Vaae1is)],
        T(Vale2isEach) => &[T(Vale2is), T(Vae2isOther), T(Vaae1is)],
        T(Vale2is) => &[T(Vae2), T(Vae2isOther), T(Vaae1is)],
        T(Alle2is) => &[T(Alle2), T(Vae2is), T(Vale2is), T(Vmalle1is)],
        T(Alle1is) => &[T(Alle1), T(Vmalls12e1is), T(Ipas2e1is)],
        T(Vmalls12e1is) => &[T(Vmalle1is), T(Ipas2e1is)],
        _ => &[],
    }
}

/// Every mistake in `sequence`, and the sequence with it. The new descriptor itself is never left out: that is no
/// change at all.
pub fn of(sequence: &Sequence) -> impl Iterator<Item = (Mistake, Sequence)> {
    let steps = sequence.steps();
    let makes = |step: &Step| step.write().is_some_and(|(write, _)| write == Write::New);
    let left_out = steps.iter().enumerate().filter(move |(_, step)| !makes(step)).map(|(at, &step)| {
        let rest = steps[..at].iter().chain(&steps[at + 1..]);
        (Mistake::LeftOut { at, step }, rest.copied().collect())
    });
    let replaced = steps.iter().enumerate().flat_map(move |(at, &step)| {
        weaker(step).iter().map(move |&by| {
            let others = steps.iter().enumerate().map(|(i, &step)| if i == at { by } else { step });
            (Mistake::Replaced { at, step, by }, others.collect())
        })
    });
    let swapped = steps.windows(2).enumerate().filter(|(_, pair)| pair[0] != pair[1]).map(move |(at, pair)| {
        let others = (0..steps.len()).map(|i| match i {
            _ if i == at => pair[1],
            _ if i == at + 1 => pair[0],
            _ => steps[i],
        });
        (Mistake::Swapped { at, first: pair[0], second: pair[1] }, others.collect())
    });
    left_out.chain(replaced).chain(swapped)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, format, string::ToString, vec::Vec};

    use super::*;
    use crate::{
        change::{Change, What},
        geometry::{Granule, Level},
        instance::Method,
        testing,
    };

    #[test]
    fn mutants_differ_from_their_sequence_and_from_each_other() {
        for change in testing::changes(Granule::K4) {
            for &method in Method::ALL {
                let sequence = Sequence::of(method, change);
                let mutants: Vec<_> = of(&sequence).collect();
                let different: BTreeSet<_> = mutants.iter().map(|(_, mutant)| mutant.to_string()).collect();
                assert_eq!(different.len(), mutants.len(), "{method} of {change}");
                assert!(!different.contains(&sequence.to_string()));
            }
        }
    }

    #[test]
    fn every_barrier_and_tlbi_is_left_out_weakened_and_moved() {
        let split = Change::new(What::Split, Level::L2);
        let mutants: Vec<_> = of(&Sequence::of(Method::Direct, split)).map(|(m, s)| format!("{s}: {m}")).collect();
        assert_eq!(
            mutants,
            [
                "1Adi: step 2, dsb ishst, left out",
                "1sdi: step 3, tlbi vaae1is, va, left out",
                "1sAi: step 4, dsb ish, left out",
                "1sAd: step 5, isb, left out",
                "1uAdi: step 2, dsb ishst, replaced by dsb nshst",
                "1rAdi: step 2, dsb ishst, replaced by dsb ishld",
                "1sadi: step 3, tlbi vaae1is, va, replaced by tlbi vaae1, va",
                "1sBdi: step 3, tlbi vaae1is, va, replaced by tlbi vaale1is, va",
                "1sOdi: step 3, tlbi vaae1is, va, replaced by tlbi vaae1is, other",
                "1sSdi: step 3, tlbi vaae1is, va, replaced by tlbi vaae1is, va << 12",
                "1sXdi: step 3, tlbi vaae1is, va, replaced by tlbi vae1is, va | other asid",
                "1sRdi: step 3, tlbi vaae1is, va, replaced by tlbi vae2is, va",
                "1sAni: step 4, dsb ish, replaced by dsb nsh",
                "1sAsi: step 4, dsb ish, replaced by dsb ishst",
                "1sAri: step 4, dsb ish, replaced by dsb ishld",
                "s1Adi: step 1, str new, [pte], behind dsb ishst",
                "1Asdi: step 2, dsb ishst, behind tlbi vaae1is, va",
                "1sdAi: step 3, tlbi vaae1is, va, behind dsb ish",
                "1sAid: step 4, dsb ish, behind isb",
            ]
        );
    }
}
