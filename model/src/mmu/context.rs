//! Registers that control translation, and what they mean.

use vmsa::{
    Granule, Level,
    descriptor::{Descriptor, DescriptorKind},
};

use crate::choice::{Choices, Odds, Point};

macro_rules! context {
    ($($(#[$meta:meta])* $field:ident),+ $(,)?) => {
        /// The registers that translation reads, as they stand in one PE. Fields are named after the registers.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct Context {
            $($(#[$meta])* pub $field: u64,)+
        }

        impl Context {
            /// Between a register's write and a context synchronisation either value may be used (R_VNRFW and the
            /// rules on System register synchronisation): one choice a register.
            pub(super) fn between(synchronised: &Self, written: &Self, odds: Odds, choices: &mut Choices) -> Self {
                let mut context = *written;
                $(if synchronised.$field != written.$field && choices.chance(Point::Register, odds) {
                    context.$field = synchronised.$field;
                })+
                context
            }
        }
    };
}

context! {
    /// M, C, I, WXN are used.
    sctlr_el1,
    /// Base and ASID of the lower range.
    ttbr0_el1,
    /// Base and ASID of the upper range.
    ttbr1_el1,
    /// Sizes, granules, EPD, HPD, TBI, A1, AS, IPS, HA, HD of EL1&0.
    tcr_el1,
    /// Memory attributes of EL1&0.
    mair_el1,
    /// As [`sctlr_el1`](Self::sctlr_el1), for EL2.
    sctlr_el2,
    /// Base of EL2, or as `ttbr0_el1` of EL2&0.
    ttbr0_el2,
    /// As [`ttbr1_el1`](Self::ttbr1_el1), for EL2&0.
    ttbr1_el2,
    /// Size, granule, HPD, TBI, PS, HA, HD of EL2; of EL2&0 as in `tcr_el1`.
    tcr_el2,
    /// Memory attributes of EL2.
    mair_el2,
    /// VM, FB, DC, TGE, E2H are used.
    hcr_el2,
    /// Size, start level, granule, PS, VS, HA, HD of stage 2.
    vtcr_el2,
    /// Base of stage 2 and VMID.
    vttbr_el2,
}

/// HCR_EL2.VM: stage 2 is on for EL1&0.
const HCR_VM: u64 = 1 << 0;
/// HCR_EL2.FB: TLBI by EL1 is broadcast.
const HCR_FB: u64 = 1 << 9;
/// HCR_EL2.DC: stage 1 is off, Normal write-back, and stage 2 is on.
const HCR_DC: u64 = 1 << 12;
/// HCR_EL2.TGE: with E2H, EL0 is the host's, and TLBIs of EL1&0 at EL2 are of EL2&0.
const HCR_TGE: u64 = 1 << 27;
/// HCR_EL2.E2H: EL2 has EL2&0's translation.
const HCR_E2H: u64 = 1 << 34;
const SCTLR_M: u64 = 1 << 0;
const SCTLR_WXN: u64 = 1 << 19;

/// A translation regime that the machine has. EL3's own is not modelled.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Regime {
    /// EL1&0: one or two stages, ASID and VMID.
    El10,
    /// EL2 without E2H: one stage, neither ASID nor VMID.
    El2,
    /// EL2&0: EL2 with E2H. One stage, two ranges, an ASID and no VMID.
    El20,
}

impl Regime {
    /// Whether it has an upper range of addresses, ASIDs and permissions of EL0.
    pub(super) const fn is_of_el0(self) -> bool {
        !matches!(self, Self::El2)
    }

    /// The name that the architecture gives it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::El10 => "EL1&0",
            Self::El2 => "EL2",
            Self::El20 => "EL2&0",
        }
    }
}

/// The registers of stage 1 of one regime.
struct Stage1 {
    sctlr: u64,
    tcr: u64,
    ttbr0: u64,
    ttbr1: u64,
    mair: u64,
}

impl Context {
    /// HCR_EL2.E2H.
    pub(crate) const fn e2h(&self) -> bool {
        self.hcr_el2 & HCR_E2H != 0
    }

    /// HCR_EL2.{E2H, TGE} are {1, 1}: what runs at EL0 is the host's.
    pub(crate) const fn is_host(&self) -> bool {
        self.e2h() && self.hcr_el2 & HCR_TGE != 0
    }

    /// The translation of `el`, which is not 3.
    pub(super) const fn regime(&self, el: u8) -> Regime {
        match el {
            2 if self.e2h() => Regime::El20,
            2 => Regime::El2,
            0 if self.is_host() => Regime::El20,
            _ => Regime::El10,
        }
    }

    const fn of(&self, regime: Regime) -> Stage1 {
        match regime {
            Regime::El10 => Stage1 {
                sctlr: self.sctlr_el1,
                tcr: self.tcr_el1,
                ttbr0: self.ttbr0_el1,
                ttbr1: self.ttbr1_el1,
                mair: self.mair_el1,
            },
            Regime::El2 | Regime::El20 => Stage1 {
                sctlr: self.sctlr_el2,
                tcr: self.tcr_el2,
                ttbr0: self.ttbr0_el2,
                ttbr1: self.ttbr1_el2,
                mair: self.mair_el2,
            },
        }
    }

    /// Whether the registers that `regime` uses are the same in both.
    pub(super) fn agrees(&self, other: &Self, regime: Regime) -> bool {
        let e2h = |c: &Self| u64::from(c.e2h());
        let el2 = |c: &Self| [c.sctlr_el2, c.ttbr0_el2, c.ttbr1_el2, c.tcr_el2, c.mair_el2, e2h(c)];
        match regime {
            Regime::El10 => self == other,
            Regime::El2 | Regime::El20 => el2(self) == el2(other),
        }
    }

    /// Whether stage 1 of `regime` is on.
    pub(super) const fn stage1_on(&self, regime: Regime) -> bool {
        let off = matches!(regime, Regime::El10) && self.default_cacheable();
        self.of(regime).sctlr & SCTLR_M != 0 && !off
    }

    /// Whether stage 2 is on for `regime`.
    pub(super) const fn stage2_on(&self, regime: Regime) -> bool {
        matches!(regime, Regime::El10) && self.hcr_el2 & (HCR_VM | HCR_DC) != 0
    }

    /// HCR_EL2.DC.
    pub(super) const fn default_cacheable(&self) -> bool {
        self.hcr_el2 & HCR_DC != 0
    }

    /// HCR_EL2.FB.
    pub(super) const fn force_broadcast(&self) -> bool {
        self.hcr_el2 & HCR_FB != 0
    }

    /// SCTLR.WXN: writable is never executable.
    pub(super) const fn wxn(&self, regime: Regime) -> bool {
        self.of(regime).sctlr & SCTLR_WXN != 0
    }

    /// MAIR_ELx.Attr`index`.
    pub(super) const fn mair(&self, regime: Regime, index: u8) -> u8 {
        (self.of(regime).mair >> (index as u32 * 8)) as u8
    }

    /// The current ASID: of the TTBR that TCR_ELx.A1 names, 8 or 16 bits by TCR_ELx.AS.
    pub(super) const fn asid(&self, regime: Regime) -> u16 {
        if !regime.is_of_el0() {
            return 0;
        }
        let Stage1 { tcr, ttbr0, ttbr1, .. } = self.of(regime);
        let ttbr = if tcr & 1 << 22 != 0 { ttbr1 } else { ttbr0 };
        let asid = (ttbr >> 48) as u16;
        if tcr & 1 << 36 != 0 { asid } else { asid & 0xff }
    }

    /// The current VMID, which tags EL1&0 even with stage 2 off (R_TLJCY); 8 or 16 bits by VTCR_EL2.VS.
    pub(super) const fn vmid(&self) -> u16 {
        let vmid = (self.vttbr_el2 >> 48) as u16;
        if self.vtcr_el2 & 1 << 19 != 0 { vmid } else { vmid & 0xff }
    }

    /// Whether the top byte of `va` plays no part in translation (TCR.TBI, TBI0, TBI1).
    pub(super) const fn ignores_top_byte(&self, regime: Regime, va: u64) -> bool {
        match regime {
            Regime::El10 | Regime::El20 => self.of(regime).tcr >> (37 + (va >> 55 & 1)) & 1 != 0,
            Regime::El2 => self.tcr_el2 >> 20 & 1 != 0,
        }
    }

    /// TCR_ELx.DS (FEAT_LPA2): 4K and 16K have 52-bit addresses.
    pub(super) const fn ds(&self, regime: Regime) -> bool {
        match regime {
            Regime::El10 | Regime::El20 => self.of(regime).tcr >> 59 & 1 != 0,
            Regime::El2 => self.tcr_el2 >> 32 & 1 != 0,
        }
    }

    /// VTCR_EL2.DS.
    pub(super) const fn stage2_ds(&self) -> bool {
        self.vtcr_el2 >> 32 & 1 != 0
    }

    /// The tables in which stage 1 of `regime` looks up `va`, if its range has any: TTBR by VA bit 55, EPD, and the
    /// bits above the range, which must all equal bit 55 (TBI apart). `lpa2`: the CPU has 52-bit addresses.
    pub(super) const fn stage1(&self, regime: Regime, va: u64, lpa2: bool) -> Option<Tables> {
        let Stage1 { tcr, ttbr0, ttbr1, .. } = self.of(regime);
        let two = regime.is_of_el0();
        let upper = two && va >> 55 & 1 != 0;
        let field = if upper { tcr >> 16 } else { tcr };
        let granule = match (upper, field >> 14 & 3) {
            (false, 0) | (true, 2) => Granule::K4,
            (false, 2) | (true, 1) => Granule::K16,
            // 0b11 of TG0 and 0b00 of TG1 are reserved; an implemented size is used.
            _ => Granule::K64,
        };
        if two && field >> 7 & 1 != 0 {
            return None;
        }
        let ds = self.ds(regime) && !matches!(granule, Granule::K64);
        let format = Format::new(granule, ds, lpa2);
        let bits = format.input_bits(field & 0x3f);
        let top = if self.ignores_top_byte(regime, va) { 56 } else { 64 };
        // Bits [top-1:bits] of the address, all ones in the upper range and all zeros in the lower.
        let above = va << (64 - top) >> (64 - top) >> bits;
        let expected = if upper { u64::MAX >> (64 - top) >> bits } else { 0 };
        if above != expected {
            return None;
        }
        let (ttbr, hpd) = match (two, upper) {
            (true, false) => (ttbr0, tcr >> 41 & 1),
            (true, true) => (ttbr1, tcr >> 42 & 1),
            (false, _) => (ttbr0, tcr >> 24 & 1),
        };
        let (ha, hd, output_size) = match two {
            true => (tcr >> 39 & 1, tcr >> 40 & 1, tcr >> 32 & 7),
            false => (tcr >> 21 & 1, tcr >> 22 & 1, tcr >> 16 & 7),
        };
        let index = granule.index_bits();
        let levels = (bits - granule.page_shift()).div_ceil(index);
        let Some(start) = Level::new(4 - levels as i8) else { return None };
        Some(Tables {
            granule,
            start,
            base: format.table_base(ttbr, granule, start, bits, output_size),
            input_bits: bits,
            output_bits: format.output_bits(output_size),
            format,
            shareability: (field >> 12 & 3) as u8,
            hardware_af: ha != 0,
            hardware_dirty: ha != 0 && hd != 0,
            hierarchical: hpd == 0,
        })
    }

    /// The tables of stage 2 for `ipa`, if it is within VTCR_EL2.T0SZ. `lpa2`: the CPU has 52-bit addresses.
    pub(super) const fn stage2(&self, ipa: u64, lpa2: bool) -> Option<Tables> {
        let vtcr = self.vtcr_el2;
        let granule = match vtcr >> 14 & 3 {
            0 => Granule::K4,
            2 => Granule::K16,
            _ => Granule::K64,
        };
        let ds = self.stage2_ds() && !matches!(granule, Granule::K64);
        let format = Format::new(granule, ds, lpa2);
        let bits = format.input_bits(vtcr & 0x3f);
        let start = match (granule, vtcr >> 6 & 3) {
            // SL2.
            (Granule::K4, 0) if ds && vtcr >> 33 & 1 != 0 => -1,
            (Granule::K4, 3) => 3,
            (Granule::K4, sl0) => 2 - sl0 as i8,
            (_, sl0) => 3 - sl0 as i8,
        };
        if ipa >> bits != 0 {
            return None;
        }
        let Some(start) = Level::new(start) else { return None };
        // Up to 16 tables may stand in a row at the start level; more or fewer bits are a misprogramming, and fault.
        let span = start.shift(granule) + granule.index_bits();
        if bits > span + 4 || bits <= start.shift(granule) {
            return None;
        }
        Some(Tables {
            granule,
            start,
            base: format.table_base(self.vttbr_el2, granule, start, bits, vtcr >> 16 & 7),
            input_bits: bits,
            output_bits: format.output_bits(vtcr >> 16 & 7),
            format,
            shareability: (vtcr >> 12 & 3) as u8,
            hardware_af: vtcr >> 21 & 1 != 0,
            hardware_dirty: vtcr >> 21 & 3 == 3,
            hierarchical: false,
        })
    }
}

/// Where descriptors and TTBRs have the address bits above 47.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    /// Nowhere.
    Narrow,
    /// 64K on a CPU with 52-bit addresses (FEAT_LPA, FEAT_LVA): OA bits 51 to 48 are bits 15 to 12.
    Wide64K,
    /// 4K and 16K with DS (FEAT_LPA2): bits 49 and 48 are where they belong, 51 and 50 are bits 9 and 8; SH is TCR's.
    Lpa2,
}

impl Format {
    const fn new(granule: Granule, ds: bool, lpa2: bool) -> Self {
        match (granule, ds, lpa2) {
            (Granule::K64, _, true) => Self::Wide64K,
            (Granule::K4 | Granule::K16, true, true) => Self::Lpa2,
            _ => Self::Narrow,
        }
    }

    /// 64 - TxSZ. Sizes below the format's least or beyond 39 are not implemented here and taken as the nearest.
    const fn input_bits(self, size: u64) -> u32 {
        let least = if matches!(self, Self::Narrow) { 16 } else { 12 };
        64 - (if size < least {
            least as u32
        } else if size > 39 {
            39
        } else {
            size as u32
        })
    }

    /// Address bits of an encoding of IPS or PS, as far as the format has them.
    const fn output_bits(self, encoding: u64) -> u32 {
        match encoding {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            6 if !matches!(self, Self::Narrow) => 52,
            _ => 48,
        }
    }

    /// BADDR of a TTBR, aligned to the table (at least 64 bytes) as the start level needs it; `output_size` is IPS or PS.
    const fn table_base(self, ttbr: u64, granule: Granule, start: Level, input_bits: u32, output_size: u64) -> u64 {
        let log2 = input_bits - start.shift(granule) + 3;
        let log2 = if log2 < 6 { 6 } else { log2 };
        let high = match self {
            Self::Lpa2 => ttbr >> 2 & 0xf,
            Self::Wide64K if output_size == 6 => ttbr >> 2 & 0xf,
            _ => 0,
        };
        ttbr & ((1 << 48) - 1) & !((1 << log2) - 1) | high << 48
    }
}

/// One set of translation tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tables {
    pub(super) granule: Granule,
    pub(super) start: Level,
    /// Address of the table at the start level: an IPA where stage 2 is on, else a PA.
    pub(super) base: u64,
    pub(super) input_bits: u32,
    pub(super) output_bits: u32,
    pub(super) format: Format,
    /// SH of the range in its TCR: leaves' own with [`Format::Lpa2`].
    pub(super) shareability: u8,
    pub(super) hardware_af: bool,
    pub(super) hardware_dirty: bool,
    /// Table descriptors restrict what is below them (HPD=0).
    pub(super) hierarchical: bool,
}

impl Tables {
    /// What a descriptor at `level` is.
    pub(super) const fn kind(&self, raw: u64, level: Level) -> DescriptorKind {
        let wide = !matches!(self.format, Format::Narrow);
        match Descriptor::from_raw(raw).kind(self.granule, level) {
            // Blocks that only 52-bit addresses have.
            DescriptorKind::Invalid if raw & 3 == 1 && level.allows_block(self.granule, wide) => DescriptorKind::Block,
            kind => kind,
        }
    }

    /// The output address of a Block or Page at `level`, or the next table's.
    pub(super) const fn output(&self, raw: u64, level: Level) -> u64 {
        let size = match self.kind(raw, level) {
            DescriptorKind::Table => self.granule.page_size(),
            _ => level.size(self.granule),
        };
        let (bits, high) = match self.format {
            Format::Narrow => (48, 0),
            Format::Wide64K => (48, (raw >> 12 & 0xf) << 48),
            Format::Lpa2 => (50, (raw >> 8 & 3) << 50),
        };
        raw & ((1 << bits) - 1) & !(size - 1) | high
    }

    /// Address of the descriptor for `address` in the table `table` at `level`.
    pub(super) const fn slot(&self, table: u64, level: Level, address: u64) -> u64 {
        let shift = level.shift(self.granule);
        let address = address & ((1 << self.input_bits) - 1);
        // Only the start level of stage 2 may index more than one table's worth.
        let index = if level.number() == self.start.number() {
            address >> shift
        } else {
            level.index(self.granule, address) as u64
        };
        table + index * 8
    }
}
