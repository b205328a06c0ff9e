//! What a handler of TLB conflict aborts tries first.
//!
//! Which TLBI clears a conflict for certain depends on the regime alone (R_BLRKC, I_JCCRT): with stage 2 on, only one of
//! everything that both stages have left in the TLB. Whether less will do is a CPU's own affair (R_GRVDR), and worth
//! knowing of each: kernels would rather not empty a TLB over one address.

use crate::{instance::Stage2, words};

words! {
    /// A TLBI by which a conflict may be cleared, on the PE that met it. Forms by VA are of the address in FAR.
    Remedy {
        /// By VA and ASID, all levels.
        Vae1 = "vae1",
        /// By VA, all ASIDs, all levels.
        Vaae1 = "vaae1",
        /// By VA and ASID, the last level.
        Vale1 = "vale1",
        /// By VA, all ASIDs, the last level.
        Vaale1 = "vaale1",
        /// By ASID, which leaves what is global.
        Aside1 = "aside1",
        /// By a range of two pages, all ASIDs, all levels (FEAT_TLBIRANGE).
        Rvaae1 = "rvaae1",
        /// All of stage 1.
        Vmalle1 = "vmalle1",
        /// All of both stages, of this VMID, by EL2.
        Vmalls12e1 = "vmalls12e1",
        /// All of both stages, of every VMID, by EL2.
        Alle1 = "alle1",
    }
}

impl Remedy {
    /// Whether it must clear a conflict of EL1&0 where stage 2 is so.
    #[must_use]
    pub const fn is_guaranteed(self, stage2: Stage2) -> bool {
        match self {
            Self::Alle1 => true,
            Self::Vmalls12e1 => !matches!(stage2, Stage2::Off),
            Self::Vmalle1 => matches!(stage2, Stage2::Off),
            Self::Vae1 | Self::Vaae1 | Self::Vale1 | Self::Vaale1 | Self::Aside1 | Self::Rvaae1 => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// I_JCCRT: with stage 2, VMALLS12E1 or ALLE1; without, VMALLE1 or ALLE1.
    #[test]
    fn what_is_guaranteed_depends_on_stage_2() {
        let guaranteed = |stage2| -> std::vec::Vec<_> {
            Remedy::ALL.iter().copied().filter(|remedy| remedy.is_guaranteed(stage2)).collect()
        };
        assert_eq!(guaranteed(Stage2::Off), [Remedy::Vmalle1, Remedy::Alle1]);
        assert_eq!(guaranteed(Stage2::Blocks), [Remedy::Vmalls12e1, Remedy::Alle1]);
        assert_eq!(guaranteed(Stage2::Pages), guaranteed(Stage2::Blocks));
    }
}
