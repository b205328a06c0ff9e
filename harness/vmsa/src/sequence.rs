//! The steps of each method, as data.
//!
//! One description serves everybody: the payload executes it, `shatter explain` prints it with the
//! reason of each step, and audits leave steps out, weaken or reorder them ([`mutant`](crate::mutant)). The steps are in the order
//! of R_DDMVT and R_KFLJB; what differs between methods is which intermediate descriptor is written, if any.
//!
//! A sequence can also be written out, a letter a step, in an instance's id: `bbm~0sB1di` is break-before-make
//! with the DSB left out that completes the TLBI. `shatter explain` tells what the letters of an id say.

use core::fmt::{self, Write as _};

use crate::{
    change::{Change, Group, Sides},
    descriptor::Descriptor,
    instance::{Method, Regime},
    tlbi::{Form, Scope},
};

/// An enumeration of instructions: how each is spelled in an id, and in a listing.
macro_rules! instructions {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $letter:literal, $asm:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its letter in an id.
            #[must_use]
            pub const fn letter(self) -> char {
                match self {
                    $(Self::$variant => $letter,)+
                }
            }

            /// As an instruction, for listings.
            #[must_use]
            pub const fn asm(self) -> &'static str {
                match self {
                    $(Self::$variant => $asm,)+
                }
            }
        }
    };
}

instructions! {
    /// The descriptor that a step writes.
    Write {
        /// An invalid descriptor: the break.
        Invalid = '0', "str xzr, [pte]";
        /// The old descriptor with AF=0: the other break.
        OldNoAf = 'f', "str old & ~AF, [pte]";
        /// The block of this change (the old one of a split, the new one of a merge) with nT=1.
        BlockNt = 't', "str block | nT, [pte]";
        /// The new descriptor: the make.
        New = '1', "str new, [pte]";
    }
}

instructions! {
    /// A DSB.
    Dsb {
        /// Orders stores for the walkers of the Inner Shareable domain.
        Ishst = 's', "dsb ishst";
        /// Also waits for TLBIs of the Inner Shareable domain.
        Ish = 'd', "dsb ish";
        /// As ISH, of the Outer Shareable domain.
        Osh = 'o', "dsb osh";
        /// As ISH, of the full system; also waits for cache maintenance to the Point of Coherency wherever its observers are.
        Sy = 'y', "dsb sy";
        /// Loads only: too weak for a descriptor and for a TLBI.
        Ishld = 'r', "dsb ishld";
        /// Stores, for this PE's walker.
        Nshst = 'u', "dsb nshst";
        /// Stores and TLBIs of this PE.
        Nsh = 'n', "dsb nsh";
    }
}

instructions! {
    /// A TLBI. Those by ASID name the one in use.
    Tlbi {
        /// All entries of the window's address, tables included, any ASID.
        Vaae1is = 'A', "tlbi vaae1is, va";
        /// Last-level entries of the window's address only.
        Vaale1is = 'B', "tlbi vaale1is, va";
        /// Everything of this VMID's EL1&0 regime.
        Vmalle1is = 'M', "tlbi vmalle1is";
        /// As VAALE1IS, once for each descriptor of the window's group (I_JQPNP).
        Vaale1isEach = 'V', "tlbi vaale1is, va (of each entry)";
        /// As VAAE1IS, of one ASID and global entries.
        Vae1is = 'E', "tlbi vae1is, va";
        /// As VAALE1IS, of one ASID and global entries.
        Vale1is = 'L', "tlbi vale1is, va";
        /// As VAAE1IS, on this PE only.
        Vaae1 = 'a', "tlbi vaae1, va";
        /// As VAALE1IS, on this PE only.
        Vaale1 = 'b', "tlbi vaale1, va";
        /// As VMALLE1IS, on this PE only.
        Vmalle1 = 'm', "tlbi vmalle1";
        /// VAAE1IS for an address outside of the window.
        Vaae1isOther = 'O', "tlbi vaae1is, other";
        /// VAAE1IS with the address as it is, where its bits from 12 up belong.
        Vaae1isUnshifted = 'S', "tlbi vaae1is, va << 12";
        /// All entries of one ASID that are not global.
        Aside1is = 'D', "tlbi aside1is, asid";
        /// VAE1IS for an ASID that is not in use, but by observers which switch to it.
        Vae1isOtherAsid = 'X', "tlbi vae1is, va | other asid";
        /// The [form](crate::tlbi::Form) that the change is made with.
        Form = 'T', "tlbi (the id's form)";
        /// All entries of the window's address in EL2's own translation, tables included; not to be executed at EL1.
        Vae2is = 'R', "tlbi vae2is, va";
        /// Last-level entries of the window's address in EL2's own translation.
        Vale2is = 'F', "tlbi vale2is, va";
        /// As VALE2IS, once for each descriptor of the window's group (I_JQPNP).
        Vale2isEach = 'W', "tlbi vale2is, va (of each entry)";
        /// Everything of EL2's own translation.
        Alle2is = 'H', "tlbi alle2is";
        /// As VAE2IS, on this PE only.
        Vae2 = 'e', "tlbi vae2, va";
        /// As ALLE2IS, on this PE only.
        Alle2 = 'h', "tlbi alle2";
        /// VAE2IS for an address outside of the window.
        Vae2isOther = 'J', "tlbi vae2is, other";
        /// Stage 2 entries of the window's IPA, tables included; combined entries stay (R_TVTYQ).
        Ipas2e1is = 'P', "tlbi ipas2e1is, ipa";
        /// Last-level stage 2 entries of the window's IPA.
        Ipas2le1is = 'Q', "tlbi ipas2le1is, ipa";
        /// As IPAS2LE1IS, once for each descriptor of the window's group (I_JQPNP).
        Ipas2le1isEach = 'Y', "tlbi ipas2le1is, ipa (of each entry)";
        /// As IPAS2E1IS, once for each page of 4 KiB that a descriptor of the window maps.
        Ipas2e1isAll = 'U', "tlbi ipas2e1is, ipa (of each page)";
        /// As IPAS2E1IS, on this PE only.
        Ipas2e1 = 'p', "tlbi ipas2e1, ipa";
        /// IPAS2E1IS for an address outside of the window.
        Ipas2e1isOther = 'K', "tlbi ipas2e1is, other";
        /// Everything of this VMID, both stages.
        Vmalls12e1is = 'G', "tlbi vmalls12e1is";
        /// Everything of every VMID, both stages.
        Alle1is = 'x', "tlbi alle1is";
        /// As ALLE1IS, on this PE only.
        Alle1 = 'k', "tlbi alle1";
    }
}

impl Dsb {
    /// Whether a store before it is seen by every walker behind it (R_DDMVT).
    #[must_use]
    pub const fn shows_stores(self) -> bool {
        matches!(self, Self::Ishst | Self::Ish | Self::Osh | Self::Sy)
    }

    /// Whether it waits for a TLBI of the Inner Shareable domain: it must order loads and stores (R_PSMWS), and
    /// for every PE that the TLBI reaches (R_YNJCP).
    #[must_use]
    pub const fn completes_tlbis(self) -> bool {
        matches!(self, Self::Ish | Self::Osh | Self::Sy)
    }

    /// As [`completes_tlbis`](Self::completes_tlbis), for a TLBI of this scope. Without the nXS qualifier it waits for
    /// those with it too.
    #[must_use]
    pub const fn completes(self, scope: Scope) -> bool {
        matches!(self, Self::Osh | Self::Sy) || !matches!(scope, Scope::Outer) && self.completes_tlbis()
    }
}

impl Tlbi {
    /// Whether it removes, from every PE's TLB, what was made from the window's last-level descriptor, its entries
    /// being global.
    #[must_use]
    pub const fn reaches_leaves(self) -> bool {
        matches!(
            self,
            Self::Vaae1is
                | Self::Vaale1is
                | Self::Vaale1isEach
                | Self::Vmalle1is
                | Self::Vae1is
                | Self::Vale1is
                | Self::Vae1isOtherAsid
                | Self::Aside1is
        )
    }

    /// What it is to whoever uses the other ASID.
    const fn seen_by_other_asid(self) -> Self {
        match self {
            Self::Vae1is | Self::Vale1is => Self::Vae1isOtherAsid,
            Self::Vae1isOtherAsid => Self::Vae1is,
            // No entry of the other ASID goes, and no global one.
            Self::Aside1is => Self::Vaae1isOther,
            tlbi => tlbi,
        }
    }

    /// What it is to whoever runs under the other VMID: of those at EL1 and of stage 2 all name the one in use, but two.
    const fn seen_by_other_vmid(self) -> Self {
        match self {
            Self::Alle1is | Self::Alle1 => self,
            _ => Self::Ipas2e1isOther,
        }
    }

    /// Whether it is for entries of stage 2.
    #[must_use]
    pub const fn is_stage2(self) -> bool {
        matches!(
            self,
            Self::Ipas2e1is
                | Self::Ipas2le1is
                | Self::Ipas2le1isEach
                | Self::Ipas2e1isAll
                | Self::Ipas2e1
                | Self::Ipas2e1isOther
                | Self::Vmalls12e1is
                | Self::Alle1is
                | Self::Alle1
        )
    }

    /// Whether it is for entries of EL2's own translation.
    #[must_use]
    pub const fn is_el2(self) -> bool {
        matches!(
            self,
            Self::Vae2is
                | Self::Vale2is
                | Self::Vale2isEach
                | Self::Alle2is
                | Self::Vae2
                | Self::Alle2
                | Self::Vae2isOther
        )
    }

    /// Whether it removes, from every PE's TLB, what holds the window's last-level stage 2 descriptor alone; entries that
    /// combine both stages excepted.
    #[must_use]
    pub const fn reaches_stage2_leaves(self) -> bool {
        matches!(self, Self::Ipas2e1is | Self::Ipas2le1is | Self::Ipas2le1isEach | Self::Ipas2e1isAll)
    }

    /// Whether it removes what was made from any descriptor of a Contiguous group.
    #[must_use]
    pub const fn reaches_groups(self) -> bool {
        matches!(self, Self::Vmalle1is | Self::Vaale1isEach | Self::Aside1is)
    }

    /// Whether it removes all that was made by way of a table: the table's descriptor and the entries of all its
    /// addresses.
    #[must_use]
    pub const fn reaches_tables(self) -> bool {
        matches!(self, Self::Vmalle1is)
    }
}

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Step {
    /// Store a descriptor, 64 bits, single-copy atomic.
    Write(Write),
    /// Replace the descriptor by a compare-and-swap that expects what the steps before have left there. What hardware
    /// has set in it since (AF, dirty state) is carried over and not lost.
    Swap(Write),
    /// Data synchronisation barrier.
    Dsb(Dsb),
    /// TLB maintenance.
    Tlbi(Tlbi),
    /// Fill the table that the next write of the new descriptor puts in place, from the block that is live.
    Fill,
    /// Clean the descriptor to the Point of Coherency: for a walker that does not look into the caches.
    Clean,
    /// Context synchronisation on the changing PE.
    Isb,
}

impl Step {
    /// The step as an instruction, for listings.
    #[must_use]
    pub const fn asm(self) -> &'static str {
        match self {
            Self::Write(write) => write.asm(),
            Self::Swap(Write::Invalid) => "cas old, xzr, [pte]",
            Self::Swap(Write::OldNoAf) => "cas old, old & ~AF, [pte]",
            Self::Swap(Write::BlockNt) => "cas old, block | nT, [pte]",
            Self::Swap(Write::New) => "cas old, new, [pte]",
            Self::Dsb(dsb) => dsb.asm(),
            Self::Tlbi(tlbi) => tlbi.asm(),
            Self::Fill => "str part of block, [each entry of the next table]",
            Self::Clean => "dc cvac, pte",
            Self::Isb => "isb",
        }
    }

    /// Its letter in an id.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Write(write) => write.letter(),
            Self::Swap(Write::Invalid) => 'z',
            Self::Swap(Write::OldNoAf) => 'g',
            Self::Swap(Write::BlockNt) => 'w',
            Self::Swap(Write::New) => 'c',
            Self::Dsb(dsb) => dsb.letter(),
            Self::Tlbi(tlbi) => tlbi.letter(),
            Self::Fill => 'l',
            Self::Clean => 'C',
            Self::Isb => 'i',
        }
    }

    /// Every step.
    pub fn all() -> impl Iterator<Item = Self> {
        let writes = Write::ALL.iter().copied().map(Self::Write);
        let dsbs = Dsb::ALL.iter().copied().map(Self::Dsb);
        let tlbis = Tlbi::ALL.iter().copied().map(Self::Tlbi);
        let swaps = Write::ALL.iter().copied().map(Self::Swap);
        writes.chain(dsbs).chain(tlbis).chain([Self::Fill, Self::Clean, Self::Isb]).chain(swaps)
    }

    /// What it writes, and whether by a compare-and-swap.
    #[must_use]
    pub const fn write(self) -> Option<(Write, bool)> {
        match self {
            Self::Write(write) => Some((write, false)),
            Self::Swap(write) => Some((write, true)),
            Self::Dsb(_) | Self::Tlbi(_) | Self::Fill | Self::Clean | Self::Isb => None,
        }
    }

    /// Why the step is there.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Write(Write::Invalid) => "break: walks fault from here on (R_DDMVT)",
            Self::Write(Write::OldNoAf) => "break by the Access flag: what faults is never cached (R_XCLRD)",
            Self::Write(Write::BlockNt) => "the block with nT: a walk faults or does not cache it as before (R_MRRPW)",
            Self::Write(Write::New) => "make: the new descriptor, one single-copy atomic store",
            Self::Swap(_) => "as a store, but no update by hardware is overwritten (I_GXGZY, R_RTBRL)",
            Self::Dsb(Dsb::Ishst) => "the store is visible to every walker before the TLBI (R_DDMVT)",
            Self::Dsb(Dsb::Ish) => "the store or TLBI before it is complete on every PE (R_PSMWS, R_YNJCP)",
            Self::Dsb(Dsb::Osh) => "as DSB ISH, for a TLBI of the Outer Shareable domain (R_YNJCP)",
            Self::Dsb(Dsb::Sy) => "the clean is complete too, wherever the walker is",
            Self::Fill => {
                "the next table maps what the live block does, so that a walk by way of it finds the same (I_GYJBJ)"
            }
            Self::Clean => "the descriptor is in memory, for a walker that is not coherent (SMMU_IDR0.COHACC)",
            Self::Dsb(Dsb::Ishld) => "orders loads only: completes neither a store nor a TLBI (R_PSMWS)",
            Self::Dsb(Dsb::Nshst | Dsb::Nsh) => "for this PE alone: nothing is complete on another (R_YNJCP)",
            Self::Tlbi(Tlbi::Form) => "the form under test",
            Self::Tlbi(Tlbi::Vaale1isEach) => "each entry of the group needs one of its own (I_JQPNP)",
            Self::Tlbi(Tlbi::Vaae1is | Tlbi::Vaale1is | Tlbi::Vae1is | Tlbi::Vale1is | Tlbi::Vae1isOtherAsid) => {
                "nobody keeps the old translation of this address (R_LXHLD)"
            }
            Self::Tlbi(Tlbi::Aside1is) => "nobody keeps an entry of this ASID; global ones are not removed (R_LXHLD)",
            Self::Tlbi(Tlbi::Vmalle1is) => "nobody keeps any of the many old entries (R_LXHLD)",
            Self::Tlbi(Tlbi::Vaae1 | Tlbi::Vaale1 | Tlbi::Vmalle1) => "this PE does not keep the old translation",
            Self::Tlbi(Tlbi::Vaae1isOther | Tlbi::Vaae1isUnshifted) => "does not name the window",
            Self::Tlbi(Tlbi::Vae2is | Tlbi::Vale2is) => {
                "nobody keeps EL2's old translation of this address (R_LXHLD); at EL1 it is undefined"
            }
            Self::Tlbi(Tlbi::Vale2isEach) => "each entry of the group needs one of its own (I_JQPNP)",
            Self::Tlbi(Tlbi::Alle2is) => "nobody keeps any of EL2's many old entries (R_LXHLD)",
            Self::Tlbi(Tlbi::Vae2 | Tlbi::Alle2) => "this PE does not keep EL2's old translation",
            Self::Tlbi(Tlbi::Vae2isOther) => "does not name the window",
            Self::Tlbi(Tlbi::Ipas2e1is | Tlbi::Ipas2le1is | Tlbi::Ipas2le1isEach | Tlbi::Ipas2e1isAll) => {
                "nobody keeps the old stage 2 translation of this IPA; what combines both stages stays (R_TVTYQ)"
            }
            Self::Tlbi(Tlbi::Ipas2e1) => "this PE does not keep the old stage 2 translation",
            Self::Tlbi(Tlbi::Ipas2e1isOther) => "does not name the window",
            Self::Tlbi(Tlbi::Alle1is) => "nobody keeps any old entry, whatever the VMID (R_LXHLD)",
            Self::Tlbi(Tlbi::Alle1) => "this PE does not keep any old entry",
            Self::Tlbi(Tlbi::Vmalls12e1is) => "nobody keeps any old entry of this VMID (R_LXHLD)",
            Self::Isb => "this PE's own next instructions use the new translation (R_BLDZX)",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.asm())
    }
}

/// Most steps that a sequence has.
pub const MAX_STEPS: usize = 16;

/// A method's steps for one change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Sequence {
    steps: [Step; MAX_STEPS],
    len: u8,
}

impl Sequence {
    /// The steps, in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps[..usize::from(self.len)]
    }

    const EMPTY: Self = Self { steps: [Step::Isb; MAX_STEPS], len: 0 };

    fn build(parts: &[&[Step]]) -> Self {
        parts.iter().copied().flatten().copied().collect()
    }

    /// These steps; `None` if there are more than [`MAX_STEPS`].
    pub fn of_steps(steps: impl IntoIterator<Item = Step>) -> Option<Self> {
        let mut sequence = Self::EMPTY;
        for step in steps {
            *sequence.steps.get_mut(usize::from(sequence.len))? = step;
            sequence.len += 1;
        }
        Some(sequence)
    }

    /// The sequence that these [letters](Step::letter) spell; there must be one to [`MAX_STEPS`] of them.
    #[must_use]
    pub fn parse(letters: &str) -> Option<Self> {
        let mut sequence = Self::EMPTY;
        for letter in letters.chars() {
            let step = Step::all().find(|step| step.letter() == letter)?;
            *sequence.steps.get_mut(usize::from(sequence.len))? = step;
            sequence.len += 1;
        }
        (sequence.len > 0).then_some(sequence)
    }

    /// Whether `change` has all that the steps write: only a Block has an nT bit, and only a leaf an Access flag.
    #[must_use]
    pub fn fits(&self, change: Change) -> bool {
        (Method::Nt.fits(change) || !self.writes(Write::BlockNt))
            && (Method::BbmAf.fits(change) || !self.writes(Write::OldNoAf))
    }

    /// Whether these may be the steps of `method`. Tables are filled by one method only, which writes nothing but tables.
    #[must_use]
    pub fn is_of(&self, method: Method) -> bool {
        let fills = self.steps().contains(&Step::Fill);
        let only_new = self.steps().iter().all(|step| matches!(step.write(), None | Some((Write::New, false))));
        if method == Method::Overwrite { only_new } else { !fills }
    }

    /// Whether one of the steps writes this.
    #[must_use]
    pub fn writes(&self, write: Write) -> bool {
        self.steps().iter().any(|step| step.write().is_some_and(|(written, _)| written == write))
    }

    /// The sequence of `method` for `change`.
    #[must_use]
    pub fn of(method: Method, change: Change) -> Self {
        // What is below a table are many cached entries, which a TLBI by one address does not reach. A split leaves no
        // table behind, but its block may be cached as a table-level entry: the non-leaf form is the safe one.
        let Sides { old, new, group, .. } = change.what().sides();
        let tlbi = match (old.below, new.below, group) {
            (true, ..) => Tlbi::Vmalle1is,
            (false, true, _) => Tlbi::Vaae1is,
            (false, false, Group::One) => Tlbi::Vaale1is,
            (false, false, Group::All | Group::FirstHalf) => Tlbi::Vaale1isEach,
        };
        match change.form() {
            Some(form) => Self::with_form(method, form),
            // Where nothing is below there is no such way, and any number will do.
            None if method == Method::Overwrite => Self::overwriting(change.levels_below().max(1), tlbi),
            None => Self::with(method, tlbi),
        }
    }

    /// The same steps as they are where the change is one of `regime`. A TLBI of stage 2 by IPA leaves what combines both
    /// stages, so that, once it is complete, all of stage 1 and of these goes too. EL2 has TLBIs of its own; with E2H and TGE
    /// set those of EL1&0 are EL2&0's.
    #[must_use]
    pub fn in_regime(self, regime: Regime) -> Self {
        use Step::{Dsb as D, Tlbi as T};
        let two = |by_ipa| [Some(T(by_ipa)), Some(D(Dsb::Ish)), Some(T(Tlbi::Vmalle1is))];
        let of_el2 = |step: Step| match step {
            T(Tlbi::Vaae1is) => T(Tlbi::Vae2is),
            T(Tlbi::Vaale1is) => T(Tlbi::Vale2is),
            T(Tlbi::Vaale1isEach) => T(Tlbi::Vale2isEach),
            T(Tlbi::Vmalle1is) => T(Tlbi::Alle2is),
            step => step,
        };
        let of_s2 = |step: Step| match step {
            T(Tlbi::Vaae1is) => two(Tlbi::Ipas2e1is),
            T(Tlbi::Vaale1is) => two(Tlbi::Ipas2le1is),
            T(Tlbi::Vaale1isEach) => two(Tlbi::Ipas2le1isEach),
            T(Tlbi::Vmalle1is) => [Some(T(Tlbi::Vmalls12e1is)), None, None],
            step => [Some(step), None, None],
        };
        match regime {
            Regime::El1 | Regime::El2Vhe => self,
            Regime::S2 => self.steps().iter().flat_map(|step| of_s2(*step)).flatten().collect(),
            Regime::El2 => self.steps().iter().map(|step| of_el2(*step)).collect(),
        }
    }

    /// Whether all of its steps can be executed for a change of `regime`.
    #[must_use]
    pub fn is_for(&self, regime: Regime) -> bool {
        let of_tlbis = |wanted: fn(Tlbi) -> bool| {
            self.steps().iter().all(|step| if let Step::Tlbi(tlbi) = step { wanted(*tlbi) } else { true })
        };
        match regime {
            // The one of EL2 that is a mistake here.
            Regime::El1 => of_tlbis(|tlbi| !tlbi.is_stage2() && (!tlbi.is_el2() || tlbi == Tlbi::Vae2is)),
            Regime::S2 => {
                of_tlbis(|tlbi| tlbi.is_stage2() || matches!(tlbi, Tlbi::Vmalle1is | Tlbi::Vmalle1 | Tlbi::Vae2is))
            }
            // EL2's own are as good. The ASID is not the one that a payload has.
            Regime::El2Vhe => {
                of_tlbis(|tlbi| {
                    use Tlbi as T;
                    let by_asid = matches!(tlbi, T::Vae1is | T::Vale1is | T::Aside1is | T::Vae1isOtherAsid | T::Form);
                    !tlbi.is_stage2() && !by_asid
                }) && self.swap_free()
            }
            Regime::El2 => {
                of_tlbis(|tlbi| tlbi.is_el2() || matches!(tlbi, Tlbi::Vaae1is | Tlbi::Vmalle1is)) && self.swap_free()
            }
        }
    }

    fn swap_free(&self) -> bool {
        self.steps().iter().all(|step| !matches!(step, Step::Swap(_)))
    }

    /// The sequence of `method` with the change's form of TLBI, and the DSB that completes it.
    fn with_form(method: Method, form: Form) -> Self {
        let sequence = Self::with(method, Tlbi::Form);
        let mut behind_tlbi = false;
        let widened = sequence.steps().iter().map(|&step| match step {
            Step::Dsb(Dsb::Ish) if behind_tlbi && form.scope == Scope::Outer => {
                behind_tlbi = false;
                Step::Dsb(Dsb::Osh)
            }
            step => {
                behind_tlbi = step == Step::Tlbi(Tlbi::Form);
                step
            }
        });
        widened.collect()
    }

    /// The sequence of `method` with this TLBI.
    #[must_use]
    pub fn with(method: Method, tlbi: Tlbi) -> Self {
        use Step::{Dsb as D, Isb, Tlbi as T, Write as W};
        let flush = [D(Dsb::Ishst), T(tlbi), D(Dsb::Ish)];
        let make = [W(Write::New), D(Dsb::Ish), Isb];
        let make_flush = [W(Write::New), D(Dsb::Ishst), T(tlbi), D(Dsb::Ish), Isb];
        match method {
            Method::Bbm | Method::BbmAsm | Method::BbmAlias => Self::build(&[&[W(Write::Invalid)], &flush, &make]),
            Method::BbmAf => Self::build(&[&[W(Write::OldNoAf)], &flush, &make]),
            Method::Nt => Self::build(&[&[W(Write::BlockNt)], &flush, &make_flush]),
            Method::Direct => Self::build(&[&make_flush]),
            Method::DirectNotlbi => Self::build(&[&make]),
            Method::Overwrite => Self::overwriting(1, tlbi),
            Method::BbmCas => Self::with(Method::Bbm, tlbi).swapping(),
            Method::NtCas => Self::with(Method::Nt, tlbi).swapping(),
            Method::DirectCas => Self::with(Method::Direct, tlbi).swapping(),
        }
    }

    /// A block becomes tables level by level: each is filled from the block that is live, shown to the walkers, and written over
    /// that block. One TLBI comes behind them all.
    fn overwriting(levels: usize, tlbi: Tlbi) -> Self {
        use Step::{Dsb as D, Fill, Isb, Tlbi as T, Write as W};
        let level = [Fill, D(Dsb::Ishst), W(Write::New)];
        let flush = [D(Dsb::Ishst), T(tlbi), D(Dsb::Ish), Isb];
        core::iter::repeat_n(level, levels).flatten().chain(flush).collect()
    }

    /// The same steps with a compare-and-swap wherever the descriptor may be live: for every write that does not follow
    /// a break.
    #[must_use]
    pub fn swapping(&self) -> Self {
        let mut broken = false;
        let swap = |step: &Step| {
            let after_break = broken;
            broken = matches!(step, Step::Write(Write::Invalid)) || broken && step.write().is_none();
            match *step {
                Step::Write(write) if !after_break => Step::Swap(write),
                step => step,
            }
        };
        self.steps().iter().map(swap).collect()
    }

    /// The same steps of a change in `regime` as they are to whoever uses the other ASID, or in stage 2 the other VMID: a TLBI that
    /// names one names his, or not.
    #[must_use]
    pub fn seen_by_other(&self, regime: Regime) -> Self {
        self.with_tlbis(|tlbi| match regime {
            Regime::S2 => tlbi.seen_by_other_vmid(),
            Regime::El1 | Regime::El2 | Regime::El2Vhe => tlbi.seen_by_other_asid(),
        })
    }

    /// The same steps where stage 2 tables are those of several VMIDs: whatever the TLBI, it becomes one of all of them.
    #[must_use]
    pub fn of_every_vmid(&self) -> Self {
        self.with_tlbis(|_| Tlbi::Alle1is)
    }

    fn with_tlbis(&self, turn: impl Fn(Tlbi) -> Tlbi) -> Self {
        let turn = |step: &Step| if let Step::Tlbi(tlbi) = *step { Step::Tlbi(turn(tlbi)) } else { *step };
        self.steps().iter().map(turn).collect()
    }

    /// The same where a walker shares the tables that is not coherent, such as an SMMU's: what is written is cleaned to the Point of
    /// Coherency, and the DSB behind it waits for that as well.
    #[must_use]
    pub fn cleaned(&self) -> Self {
        let mut behind_clean = false;
        let clean = |step: &Step| match *step {
            step if step == Step::Fill || step.write().is_some() => {
                behind_clean = true;
                [Some(step), Some(Step::Clean)]
            }
            Step::Dsb(_) if core::mem::take(&mut behind_clean) => [Some(Step::Dsb(Dsb::Sy)), None],
            step => [Some(step), None],
        };
        self.steps().iter().flat_map(clean).flatten().collect()
    }

    /// Whether a plain store replaces a descriptor that was live: what hardware has set there is then overwritten.
    #[must_use]
    pub fn overwrites(&self) -> bool {
        let mut broken = false;
        self.steps().iter().filter_map(|step| step.write()).any(|(write, swap)| {
            let after_break = core::mem::replace(&mut broken, write == Write::Invalid);
            !swap && !after_break
        })
    }

    /// The full break-before-make by which the harness takes a change back behind rounds. Its TLBI is the widest,
    /// whatever the change: what a method under test, or a faulty TLBI by address, left behind must be charged to its
    /// own round and not show in the next.
    #[must_use]
    pub fn restore() -> Self {
        use Step::{Dsb as D, Isb, Tlbi as T, Write as W};
        Self::build(&[&[
            W(Write::Invalid),
            D(Dsb::Ishst),
            T(Tlbi::Vmalle1is),
            D(Dsb::Ish),
            W(Write::New),
            D(Dsb::Ish),
            Isb,
        ]])
    }
}

/// No more than [`MAX_STEPS`]; for what is made from a sequence by changing it.
impl FromIterator<Step> for Sequence {
    fn from_iter<T: IntoIterator<Item = Step>>(steps: T) -> Self {
        Self::of_steps(steps).expect("no more steps than a sequence has")
    }
}

/// Spells the steps, a letter each.
impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps().iter().try_for_each(|step| f.write_char(step.letter()))
    }
}

impl Write {
    /// The value this write stores when `old` becomes `new` by way of `block`, the Block descriptor of the change.
    #[must_use]
    pub const fn value(self, old: Descriptor, new: Descriptor, block: Descriptor) -> Descriptor {
        match self {
            Self::Invalid => Descriptor::INVALID,
            Self::OldNoAf => old.with_af(false),
            Self::BlockNt => block.with_nt(true),
            Self::New => new,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{string::ToString, vec::Vec};

    use super::*;
    use crate::{
        change::What,
        geometry::{Granule, Level},
        testing,
    };

    #[test]
    fn letters_tell_steps_apart_and_spell_them() {
        let mut letters: Vec<char> = Step::all().map(Step::letter).collect();
        letters.sort_unstable();
        letters.dedup();
        assert_eq!(letters.len(), Step::all().count());
        assert!(letters.iter().all(char::is_ascii_alphanumeric), "as an id's words are");
        for change in testing::changes(Granule::K4) {
            for &method in Method::ALL {
                let sequence = Sequence::of(method, change);
                assert_eq!(Sequence::parse(&sequence.to_string()), Some(sequence));
            }
        }
        let split = Change::new(What::Split, Level::L2);
        assert_eq!(Sequence::of(Method::Bbm, split).to_string(), "0sAd1di");
        assert_eq!([Sequence::parse(""), Sequence::parse("0?"), Sequence::parse("00000000000000000")], [None; 3]);
        let nt = Sequence::of(Method::Nt, split).in_regime(Regime::S2);
        assert_eq!(nt.cleaned().to_string(), "tCyPdMd1CyPdMdi");
        assert_eq!(Sequence::of(Method::Bbm, split).cleaned().to_string(), "0CyAd1Cyi");
        assert_eq!(Sequence::of(Method::Overwrite, split).to_string(), "ls1sAdi");
        assert_eq!(Sequence::of(Method::Overwrite, split).cleaned().to_string(), "lCy1CyAdi");
        let two = Sequence::of(Method::Overwrite, Change::new(What::Split, Level::L1).down_to(Level::L3));
        assert_eq!(two.in_regime(Regime::El2).to_string(), "ls1ls1sRdi");
        assert_eq!(two.in_regime(Regime::S2).to_string(), "ls1ls1sPdMdi");
        for (steps, overwrites, others) in [("ls1sAdi", true, false), ("1sAdi", true, true), ("0sAd1di", false, true)] {
            let steps = Sequence::parse(steps).expect("letters");
            assert_eq!((steps.is_of(Method::Overwrite), steps.is_of(Method::Bbm)), (overwrites, others), "{steps}");
        }
    }

    #[test]
    fn every_sequence_ends_with_the_new_descriptor_complete() {
        for change in testing::changes(Granule::K4) {
            for &method in Method::ALL {
                let sequence = Sequence::of(method, change);
                let last = sequence.steps().iter().rposition(|step| step.write().is_some());
                let (writes, tail) = sequence.steps().split_at(last.expect("a sequence writes") + 1);
                assert_eq!(writes.last().and_then(|step| step.write()).map(|(write, _)| write), Some(Write::New));
                assert!(tail.ends_with(&[Step::Dsb(Dsb::Ish), Step::Isb]), "{method} of {change}");
                // Only the control has no TLBI at all.
                let tlbis = sequence.steps().iter().filter(|step| matches!(step, Step::Tlbi(_))).count();
                assert_eq!(tlbis == 0, method == Method::DirectNotlbi);
            }
        }
    }
}
