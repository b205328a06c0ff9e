//! System registers: one table of what there is, and storage for it.
//!
//! A register is a line of [`TABLE`]: its name, encoding, lowest EL that reads and writes it, writable bits, bits that
//! are always one, the trap controls of EL2 that apply to EL1, and what an access does besides. What is not in the
//! table is unknown to the model, and an access to it stops the machine; only the ID space `S3_0_C0_C<1..7>_<n>` is
//! complete by itself: the architecture makes its unallocated encodings read as zero.
//!
//! With HCR_EL2.E2H set EL2 finds its own registers by the names of EL1's, and those by names of op1 5: see [`redirected`].
//!
//! Reset values are those of a PE that firmware has handed over as the boot protocol wants it: everything off.

use crate::a64::SysReg;

/// What an access to a register does besides reading or writing its storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// A write may change translation: seen at the latest at the next context synchronisation.
    Translation,
    /// A write may change which interrupts are taken or asserted.
    Interrupt,
    /// It stands for a part of PSTATE, the stack pointers or the counter, which the PE holds elsewhere.
    Elsewhere,
}

/// The group of EL2's trap controls that EL1's accesses to a register are subject to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trap {
    /// None.
    No,
    /// HCR_EL2.TVM for writes and TRVM for reads.
    VirtualMemory,
    /// HCR_EL2.TACR.
    Auxiliary,
    /// HCR_EL2.TID1.
    Id1,
    /// HCR_EL2.TID2.
    Id2,
    /// HCR_EL2.TID3.
    Id3,
    /// CPTR_EL2.TCPAC.
    Cpacr,
    /// CNTHCTL_EL2.EL1PCTEN.
    PhysicalCounter,
    /// CNTHCTL_EL2.EL1PCEN.
    PhysicalTimer,
}

/// A register.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Definition {
    /// Its storage.
    pub(crate) id: Id,
    /// Its encoding.
    pub(crate) encoding: SysReg,
    /// Lowest EL that may read it; [`NOBODY`] if none may.
    pub(crate) read: u8,
    /// Lowest EL that may write it; [`NOBODY`] if none may.
    pub(crate) write: u8,
    /// Bits that a write changes.
    pub(crate) mask: u64,
    /// Bits that are one whatever is written, and its value at reset.
    pub(crate) ones: u64,
    /// What traps EL1's accesses to EL2.
    pub(crate) trap: Trap,
    /// What an access does besides.
    pub(crate) effect: Effect,
}

/// In the place of a lowest EL: no EL.
pub(crate) const NOBODY: u8 = 4;

/// The register with these op0, op1, CRn, CRm, op2.
const fn encode([op0, op1, crn, crm, op2]: [u16; 5]) -> SysReg {
    SysReg::new(op0, op1, crn, crm, op2)
}

/// Every bit.
const ALL: u64 = u64::MAX;
/// The low 32 bits.
const WORD: u64 = 0xffff_ffff;
/// Addresses in ELR, VBAR and FAR.
const ADDRESS: u64 = u64::MAX;
/// M, A, C, SA, SA0, UMA, I, DZE, UCT, nTWI, nTWE, WXN, SPAN, UCI.
const SCTLR_EL1_MASK: u64 = 0x048d_d21f;
/// Without ExS, TSC, LSE2 and big-endian: LSMAOE, nTLSMD, EIS, TSCXT, EOS.
const SCTLR_EL1_ONES: u64 = 0x3050_0800;
/// M, A, C, SA, I, WXN.
const SCTLR_EL2_MASK: u64 = 0x0008_100f;
/// RES1 without E2H; with it some of these are controls of EL0, which stay on.
const SCTLR_EL2_ONES: u64 = 0x30c5_0830;
/// All but RES0 bits and those of features that are not there (MTX, E0PD, NFD); DS only where there is FEAT_LPA2.
const TCR_EL1_MASK: u64 = 0x0007_ffff_ffff_ffff & !(1 << 35) & !(1 << 6) | 1 << 59;
const TCR_EL2_MASK: u64 = 0x3f_ffff & !(1 << 19) & !(0x3 << 6) | 1 << 22 | 0x1f << 24 | 1 << 32;
const TCR_EL2_ONES: u64 = 1 << 31 | 1 << 23;
/// Without E2H: no ASID.
const TTBR0_EL2_MASK: u64 = 0xffff_ffff_fffe;
/// With DS and SL2, which are there where FEAT_LPA2 is.
const VTCR_MASK: u64 = 0x7f_ffff & !(1 << 20) | 1 << 22 | 0xf << 25 | 3 << 32;
/// VM to TRVM, CD, ID and E2H, without TID0 (AArch32) and HCD (EL3 is there); the features of the others are not. RW is
/// RAO/WI.
const HCR_MASK: u64 = 0x5fff_7fff | 7 << 32;
const HCR_ONES: u64 = 1 << 31;
/// SPSR of AArch64: NZCV, UAO, PAN, SS, IL, DAIF, M.
const SPSR_MASK: u64 = 0xf0f0_03df;

/// What a write changes of `id`, and which bits are one whatever is written, where E2H makes it another register: TCR_EL2,
/// CPTR_EL2 and CNTHCTL_EL2 have the fields of their counterparts of EL1, and TTBR0_EL2 has an ASID.
pub(crate) const fn with_e2h(id: Id) -> Option<(u64, u64)> {
    match id {
        Id::TCR_EL2 => Some((TCR_EL1_MASK, 0)),
        Id::TTBR0_EL2 => Some((ALL & !1, 0)),
        // TCPAC, FPEN.
        Id::CPTR_EL2 => Some((1 << 31 | 3 << 20, 0)),
        Id::CNTHCTL_EL2 => Some((0xfff, 0)),
        _ => None,
    }
}

/// Where an access at EL2 with E2H set by the name `register` goes, if it goes elsewhere: names of EL1 and EL0 to EL2's own
/// register, those of op1 5 (`_EL12`, `_EL02`) to EL1's or EL0's.
pub(crate) const fn redirected(register: SysReg) -> Option<SysReg> {
    let (op0, op1, crn, crm, op2) = register.fields();
    let of_el1 = matches!(
        (crn, crm, op2),
        (1 | 4, 0, 0)
            | (2, 0, 0..=2)
            | (4, 0, 1)
            | (5, 1, 0 | 1)
            | (5, 2, 0)
            | (6, 0, 0)
            | (10, 2 | 3, 0)
            | (12, 0, 0)
            | (13, 0, 1)
            | (14, 1, 0)
    );
    let timer = matches!((crn, crm, op2), (14, 2 | 3, 0..=2));
    let op1 = match (op0, op1, crn, crm, op2) {
        // CPACR_EL1: its counterpart is not in its place.
        (3, 0, 1, 0, 2) => return Some(encode([3, 4, 1, 1, 2])),
        (3, 5, 1, 0, 2) => 0,
        (3, 0, ..) if of_el1 => 4,
        (3, 3, ..) if timer => 4,
        (3, 5, ..) if of_el1 => 0,
        (3, 5, ..) if timer => 3,
        _ => return None,
    };
    Some(SysReg::new(op0, op1, crn, crm, op2))
}

/// Bits of `id` that are RES0 without FEAT_LPA2: DS of the TCRs, SL2.
pub(crate) const fn of_lpa2(id: Id, e2h: bool) -> u64 {
    match id {
        Id::TCR_EL1 => 1 << 59,
        Id::TCR_EL2 if e2h => 1 << 59,
        Id::TCR_EL2 => 1 << 32,
        Id::VTCR_EL2 => 3 << 32,
        _ => 0,
    }
}

macro_rules! registers {
    ($($name:ident = $encoding:expr, $read:literal $write:expr, $mask:expr, $ones:expr, $trap:ident, $effect:ident;)+) => {
        /// A register by its name.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[expect(non_camel_case_types, clippy::upper_case_acronyms, reason = "the Arm ARM's names")]
        pub(crate) enum Id { $($name),+ }

        /// Every register, in the order of [`Id`].
        pub(crate) static TABLE: &[Definition] = DEFINITIONS;

        const DEFINITIONS: &[Definition] = &[
            $(Definition {
                id: Id::$name,
                encoding: encode($encoding),
                read: $read,
                write: $write,
                mask: $mask,
                ones: $ones,
                trap: Trap::$trap,
                effect: Effect::$effect,
            }),+
        ];
    };
}

registers! {
    // Identification. Values are the profile's, but for those that are the same for all.
    MIDR_EL1 = [3, 0, 0, 0, 0], 1 NOBODY, 0, 0, No, None;
    MPIDR_EL1 = [3, 0, 0, 0, 5], 1 NOBODY, 0, 0, No, None;
    REVIDR_EL1 = [3, 0, 0, 0, 6], 1 NOBODY, 0, 0, Id1, None;
    AIDR_EL1 = [3, 1, 0, 0, 7], 1 NOBODY, 0, 0, Id1, None;
    CCSIDR_EL1 = [3, 1, 0, 0, 0], 1 NOBODY, 0, 0x7000_601f, Id2, None;
    CLIDR_EL1 = [3, 1, 0, 0, 1], 1 NOBODY, 0, 0x0920_0003, Id2, None;
    CSSELR_EL1 = [3, 2, 0, 0, 0], 1 1, 0xf, 0, Id2, None;
    // Lines of 2 KiB everywhere, the longest there can be, so that maintenance of a range takes few instructions;
    // exclusives by 64 bytes, PIPT instruction caches, nothing elided.
    CTR_EL0 = [3, 3, 0, 0, 1], 0 NOBODY, 0, 0x8949_c009, Id2, None;
    // DC ZVA of 2 KiB, likewise.
    DCZID_EL0 = [3, 3, 0, 0, 7], 0 NOBODY, 0, 9, No, None;
    // AArch64 at all ELs; neither FP nor SIMD; no GIC system registers.
    ID_AA64PFR0_EL1 = [3, 0, 0, 4, 0], 1 NOBODY, 0, 0x00ff_1111, Id3, None;
    ID_AA64DFR0_EL1 = [3, 0, 0, 5, 0], 1 NOBODY, 0, 0x0010_1006, Id3, None;
    // CRC32, Atomic, FlagM, TLB range and Outer Shareable.
    ID_AA64ISAR0_EL1 = [3, 0, 0, 6, 0], 1 NOBODY, 0, 1 << 16 | 2 << 20 | 1 << 52 | 2 << 56, Id3, None;
    // DPB, LRCPC, SB, XS.
    ID_AA64ISAR1_EL1 = [3, 0, 0, 6, 1], 1 NOBODY, 0, 1 | 2 << 20 | 1 << 36 | 1 << 56, Id3, None;
    // 48 bits of address, 16 of ASID, SNSMem, all three granules at both stages. Some profiles have 52 bits.
    ID_AA64MMFR0_EL1 = [3, 0, 0, 7, 0], 1 NOBODY, 0, 0x0000_0222_0010_1025, Id3, None;
    // HAFDBS, 16 bits of VMID, VH, HPDS, PAN, XNX, HCX.
    ID_AA64MMFR1_EL1 = [3, 0, 0, 7, 1], 1 NOBODY, 0, 2 | 2 << 4 | 1 << 8 | 1 << 12 | 1 << 20 | 1 << 28 | 1 << 40, Id3, None;
    // UAO, TTL; BBM and VARange are the profile's.
    ID_AA64MMFR2_EL1 = [3, 0, 0, 7, 2], 1 NOBODY, 0, 1 << 4 | 1 << 48, Id3, None;
    // The ID group's other registers, which all read as zero.
    ID_GROUP3 = [3, 0, 0, 1, 0], 1 NOBODY, 0, 0, Id3, None;
    VPIDR_EL2 = [3, 4, 0, 0, 0], 2 2, WORD, 0, No, None;
    VMPIDR_EL2 = [3, 4, 0, 0, 5], 2 2, 0xff_41ff_ffff, 1 << 31, No, None;

    // Parts of PSTATE, and stack pointers.
    CurrentEL = [3, 0, 4, 2, 2], 1 NOBODY, 0, 0, No, Elsewhere;
    SPSel = [3, 0, 4, 2, 0], 1 1, 0, 0, No, Elsewhere;
    PAN = [3, 0, 4, 2, 3], 1 1, 0, 0, No, Elsewhere;
    UAO = [3, 0, 4, 2, 4], 1 1, 0, 0, No, Elsewhere;
    NZCV = [3, 3, 4, 2, 0], 0 0, 0, 0, No, Elsewhere;
    DAIF = [3, 3, 4, 2, 1], 1 1, 0, 0, No, Elsewhere;
    SP_EL0 = [3, 0, 4, 1, 0], 1 1, 0, 0, No, Elsewhere;
    SP_EL1 = [3, 4, 4, 1, 0], 2 2, 0, 0, No, Elsewhere;

    // Translation.
    SCTLR_EL1 = [3, 0, 1, 0, 0], 1 1, SCTLR_EL1_MASK, SCTLR_EL1_ONES, VirtualMemory, Translation;
    TTBR0_EL1 = [3, 0, 2, 0, 0], 1 1, ALL & !1, 0, VirtualMemory, Translation;
    TTBR1_EL1 = [3, 0, 2, 0, 1], 1 1, ALL & !1, 0, VirtualMemory, Translation;
    TCR_EL1 = [3, 0, 2, 0, 2], 1 1, TCR_EL1_MASK, 0, VirtualMemory, Translation;
    MAIR_EL1 = [3, 0, 10, 2, 0], 1 1, ALL, 0, VirtualMemory, Translation;
    AMAIR_EL1 = [3, 0, 10, 3, 0], 1 1, ALL, 0, VirtualMemory, None;
    CONTEXTIDR_EL1 = [3, 0, 13, 0, 1], 1 1, WORD, 0, VirtualMemory, None;
    CONTEXTIDR_EL2 = [3, 4, 13, 0, 1], 2 2, WORD, 0, No, None;
    SCTLR_EL2 = [3, 4, 1, 0, 0], 2 2, SCTLR_EL2_MASK, SCTLR_EL2_ONES, No, Translation;
    TTBR0_EL2 = [3, 4, 2, 0, 0], 2 2, TTBR0_EL2_MASK, 0, No, Translation;
    TTBR1_EL2 = [3, 4, 2, 0, 1], 2 2, ALL & !1, 0, No, Translation;
    TCR_EL2 = [3, 4, 2, 0, 2], 2 2, TCR_EL2_MASK, TCR_EL2_ONES, No, Translation;
    MAIR_EL2 = [3, 4, 10, 2, 0], 2 2, ALL, 0, No, Translation;
    AMAIR_EL2 = [3, 4, 10, 3, 0], 2 2, ALL, 0, No, None;
    VTTBR_EL2 = [3, 4, 2, 1, 0], 2 2, ALL & !1, 0, No, Translation;
    VTCR_EL2 = [3, 4, 2, 1, 2], 2 2, VTCR_MASK, 1 << 31, No, Translation;
    PAR_EL1 = [3, 0, 7, 4, 0], 1 1, ALL, 0, No, None;

    // Exceptions.
    ELR_EL1 = [3, 0, 4, 0, 1], 1 1, ADDRESS, 0, No, None;
    SPSR_EL1 = [3, 0, 4, 0, 0], 1 1, SPSR_MASK, 0, No, None;
    ESR_EL1 = [3, 0, 5, 2, 0], 1 1, WORD, 0, VirtualMemory, None;
    AFSR0_EL1 = [3, 0, 5, 1, 0], 1 1, 0, 0, VirtualMemory, None;
    AFSR1_EL1 = [3, 0, 5, 1, 1], 1 1, 0, 0, VirtualMemory, None;
    FAR_EL1 = [3, 0, 6, 0, 0], 1 1, ADDRESS, 0, VirtualMemory, None;
    VBAR_EL1 = [3, 0, 12, 0, 0], 1 1, ADDRESS & !0x7ff, 0, No, None;
    ISR_EL1 = [3, 0, 12, 1, 0], 1 NOBODY, 0, 0, No, Elsewhere;
    ELR_EL2 = [3, 4, 4, 0, 1], 2 2, ADDRESS, 0, No, None;
    SPSR_EL2 = [3, 4, 4, 0, 0], 2 2, SPSR_MASK, 0, No, None;
    ESR_EL2 = [3, 4, 5, 2, 0], 2 2, WORD, 0, No, None;
    AFSR0_EL2 = [3, 4, 5, 1, 0], 2 2, 0, 0, No, None;
    AFSR1_EL2 = [3, 4, 5, 1, 1], 2 2, 0, 0, No, None;
    FAR_EL2 = [3, 4, 6, 0, 0], 2 2, ADDRESS, 0, No, None;
    HPFAR_EL2 = [3, 4, 6, 0, 4], 2 2, 0xfff_ffff_fff0, 0, No, None;
    VBAR_EL2 = [3, 4, 12, 0, 0], 2 2, ADDRESS & !0x7ff, 0, No, None;

    // Controls. There is nothing behind those of FP, debug, performance monitors and AArch32: they only store.
    ACTLR_EL1 = [3, 0, 1, 0, 1], 1 1, 0, 0, Auxiliary, None;
    CPACR_EL1 = [3, 0, 1, 0, 2], 1 1, 0x30_0000, 0, Cpacr, None;
    MDSCR_EL1 = [2, 0, 0, 2, 2], 1 1, 0xf800_f04f, 0, No, None;
    OSLAR_EL1 = [2, 0, 1, 0, 4], 4 1, 0, 0, No, None;
    OSDLR_EL1 = [2, 0, 1, 3, 4], 1 1, 1, 0, No, None;
    HCR_EL2 = [3, 4, 1, 1, 0], 2 2, HCR_MASK, HCR_ONES, No, Translation;
    // FnXS, and FGTnXS, behind which there is nothing.
    HCRX_EL2 = [3, 4, 1, 2, 2], 2 2, 3 << 3, 0, No, None;
    ACTLR_EL2 = [3, 4, 1, 0, 1], 2 2, 0, 0, No, None;
    MDCR_EL2 = [3, 4, 1, 1, 1], 2 2, 0, 0, No, None;
    CPTR_EL2 = [3, 4, 1, 1, 2], 2 2, 1 << 31 | 1 << 10, 0x33ff, No, None;
    HSTR_EL2 = [3, 4, 1, 1, 3], 2 2, 0xffff, 0, No, None;
    HACR_EL2 = [3, 4, 1, 1, 7], 2 2, 0, 0, No, None;

    // For software's use.
    TPIDR_EL0 = [3, 3, 13, 0, 2], 0 0, ALL, 0, No, None;
    TPIDRRO_EL0 = [3, 3, 13, 0, 3], 0 1, ALL, 0, No, None;
    TPIDR_EL1 = [3, 0, 13, 0, 4], 1 1, ALL, 0, No, None;
    TPIDR_EL2 = [3, 4, 13, 0, 2], 2 2, ALL, 0, No, None;

    // Timers.
    CNTFRQ_EL0 = [3, 3, 14, 0, 0], 0 NOBODY, 0, crate::timer::FREQUENCY, No, None;
    CNTPCT_EL0 = [3, 3, 14, 0, 1], 0 NOBODY, 0, 0, PhysicalCounter, Elsewhere;
    CNTVCT_EL0 = [3, 3, 14, 0, 2], 0 NOBODY, 0, 0, No, Elsewhere;
    CNTKCTL_EL1 = [3, 0, 14, 1, 0], 1 1, 0x3ff, 0, No, None;
    CNTHCTL_EL2 = [3, 4, 14, 1, 0], 2 2, 0xff, 0, No, None;
    CNTVOFF_EL2 = [3, 4, 14, 0, 3], 2 2, ALL, 0, No, Interrupt;
    CNTP_TVAL_EL0 = [3, 3, 14, 2, 0], 0 0, 0, 0, PhysicalTimer, Elsewhere;
    CNTP_CTL_EL0 = [3, 3, 14, 2, 1], 0 0, 3, 0, PhysicalTimer, Interrupt;
    CNTP_CVAL_EL0 = [3, 3, 14, 2, 2], 0 0, ALL, 0, PhysicalTimer, Interrupt;
    CNTV_TVAL_EL0 = [3, 3, 14, 3, 0], 0 0, 0, 0, No, Elsewhere;
    CNTV_CTL_EL0 = [3, 3, 14, 3, 1], 0 0, 3, 0, No, Interrupt;
    CNTV_CVAL_EL0 = [3, 3, 14, 3, 2], 0 0, ALL, 0, No, Interrupt;
    CNTHP_TVAL_EL2 = [3, 4, 14, 2, 0], 2 2, 0, 0, No, Elsewhere;
    CNTHP_CTL_EL2 = [3, 4, 14, 2, 1], 2 2, 3, 0, No, Interrupt;
    CNTHP_CVAL_EL2 = [3, 4, 14, 2, 2], 2 2, ALL, 0, No, Interrupt;
}

/// Encodings have op0 2 or 3.
const ENCODINGS: usize = 1 << 15;
/// In [`INDEX`]: no register.
const NONE: u8 = u8::MAX;

/// The place in [`TABLE`] of each encoding without its top bit.
static INDEX: [u8; ENCODINGS] = index();

const fn index() -> [u8; ENCODINGS] {
    let mut index = [NONE; ENCODINGS];
    // CRm 1 to 7 of the ID space.
    let mut encoding = encode([3, 0, 0, 1, 0]).0 as usize % ENCODINGS;
    while encoding < encode([3, 0, 0, 8, 0]).0 as usize % ENCODINGS {
        index[encoding] = Id::ID_GROUP3 as u8;
        encoding += 1;
    }
    let mut at = 0;
    while at < DEFINITIONS.len() {
        index[DEFINITIONS[at].encoding.0 as usize % ENCODINGS] = at as u8;
        at += 1;
    }
    index
}

/// The definition of the register with this encoding.
#[inline]
#[must_use]
pub(crate) fn find(register: SysReg) -> Option<&'static Definition> {
    // op0 is 2 or 3: the top bit is set.
    if register.0 as usize >= ENCODINGS { TABLE.get(usize::from(INDEX[register.0 as usize % ENCODINGS])) } else { None }
}

/// One PE's registers.
#[derive(Clone, Debug)]
pub(crate) struct Registers([u64; TABLE.len()]);

impl Default for Registers {
    /// As at reset.
    fn default() -> Self {
        Self(std::array::from_fn(|at| TABLE[at].ones))
    }
}

impl Registers {
    /// The stored value.
    #[inline(always)]
    #[must_use]
    pub(crate) const fn get(&self, id: Id) -> u64 {
        self.0[id as usize]
    }

    /// ESR, FAR and ELR of EL2, or of EL1 for the others.
    pub(crate) fn syndrome(&self, el: u8) -> [u64; 3] {
        let ids = match el {
            2 => [Id::ESR_EL2, Id::FAR_EL2, Id::ELR_EL2],
            _ => [Id::ESR_EL1, Id::FAR_EL1, Id::ELR_EL1],
        };
        ids.map(|id| self.get(id))
    }

    /// Stores `value` as it is: for hardware's own updates and for identification.
    #[inline(always)]
    pub(crate) const fn set(&mut self, id: Id, value: u64) {
        self.0[id as usize] = value;
    }

    /// Stores `value` as a write by software: only where there are bits to write.
    #[inline]
    pub(crate) const fn write(&mut self, definition: &Definition, value: u64, e2h: bool) {
        let (mask, ones) = match with_e2h(definition.id) {
            Some(other) if e2h => other,
            _ => (definition.mask, definition.ones),
        };
        self.0[definition.id as usize] = value & mask | ones;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_each_encoding_once_and_finds_it() {
        for (at, definition) in TABLE.iter().enumerate() {
            assert_eq!(definition.id as usize, at);
            assert_eq!(find(definition.encoding).map(|found| found.id), Some(definition.id), "{:?}", definition.id);
            assert_eq!(definition.mask & definition.ones, 0, "{:?}", definition.id);
        }
        assert!(TABLE.len() < usize::from(NONE));
    }

    #[test]
    fn the_id_space_is_complete_and_nothing_else() {
        let group = encode([3, 0, 0, 7, 7]);
        assert_eq!(find(group).map(|found| found.id), Some(Id::ID_GROUP3));
        // ICC_SRE_EL1: the machine has no GIC system registers.
        assert!(find(encode([3, 0, 12, 12, 5])).is_none());
        // The same with another op0: SYS instructions are no registers.
        assert!(find(SysReg(encode([3, 0, 0, 7, 7]).0 & !(1 << 15))).is_none());
    }

    #[test]
    fn with_e2h_names_of_el1_lead_to_el2_and_back() {
        let leads = |[from, to]: [[u16; 5]; 2]| assert_eq!(redirected(encode(from)), Some(encode(to)), "{from:?}");
        for name in [
            "SCTLR",
            "TTBR0",
            "TTBR1",
            "TCR",
            "MAIR",
            "AMAIR",
            "CONTEXTIDR",
            "ELR",
            "SPSR",
            "ESR",
            "AFSR0",
            "AFSR1",
            "FAR",
            "VBAR",
        ] {
            let of = |el: u8| {
                TABLE.iter().find(|d| format!("{:?}", d.id) == format!("{name}_EL{el}")).expect("both ELs have it")
            };
            assert_eq!(redirected(of(1).encoding), Some(of(2).encoding), "{name}");
            let (_, _, crn, crm, op2) = of(1).encoding.fields();
            assert_eq!(redirected(SysReg::new(3, 5, crn, crm, op2)), Some(of(1).encoding), "{name}_EL12");
            assert_eq!(redirected(of(2).encoding), None, "{name}");
        }
        // CPACR_EL1, CNTKCTL_EL1, CNTP_CTL_EL0 and CNTV_CVAL_EL0.
        leads([[3, 0, 1, 0, 2], [3, 4, 1, 1, 2]]);
        leads([[3, 5, 1, 0, 2], [3, 0, 1, 0, 2]]);
        leads([[3, 0, 14, 1, 0], [3, 4, 14, 1, 0]]);
        leads([[3, 3, 14, 2, 1], [3, 4, 14, 2, 1]]);
        leads([[3, 5, 14, 3, 2], [3, 3, 14, 3, 2]]);
        // PAR_EL1, TPIDR_EL1, MDSCR_EL1, SP_EL1.
        for stays in [[3, 0, 7, 4, 0], [3, 0, 13, 0, 4], [2, 0, 0, 2, 2], [3, 4, 4, 1, 0]] {
            assert_eq!(redirected(encode(stays)), None, "{stays:?}");
        }
    }

    #[test]
    fn writes_change_what_can_be_changed() {
        let mut registers = Registers::default();
        let sctlr = find(encode([3, 0, 1, 0, 0])).expect("SCTLR_EL1");
        registers.write(sctlr, 0, false);
        assert_eq!(registers.get(Id::SCTLR_EL1), SCTLR_EL1_ONES);
        registers.write(sctlr, ALL, false);
        assert_eq!(registers.get(Id::SCTLR_EL1), SCTLR_EL1_ONES | SCTLR_EL1_MASK);
    }
}
