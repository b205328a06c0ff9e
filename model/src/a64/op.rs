//! Decoded instructions.

use core::fmt;

use bitflags::bitflags;

/// The size of a data-processing instruction's operands: the bit `sf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 32 bits; results are zero-extended.
    W,
    /// 64 bits.
    X,
}

impl Width {
    /// The number of bits.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::W => 32,
            Self::X => 64,
        }
    }

    /// `value`, as a register of this width holds it.
    #[inline]
    #[must_use]
    pub const fn truncate(self, value: u64) -> u64 {
        match self {
            Self::W => value & 0xffff_ffff,
            Self::X => value,
        }
    }
}

/// The size of one element of a memory access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// A byte.
    B1,
    /// A halfword.
    B2,
    /// A word.
    B4,
    /// A doubleword.
    B8,
}

impl Size {
    /// All sizes, in the order of the field `size` of loads and stores.
    pub const ALL: [Self; 4] = [Self::B1, Self::B2, Self::B4, Self::B8];

    /// The number of bytes.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self as u8
    }

    /// The number of bits.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u32 {
        8 << self as u8
    }

    /// The bits of `value` that an access of this size transfers.
    #[inline]
    #[must_use]
    pub const fn truncate(self, value: u64) -> u64 {
        value & (u64::MAX >> (64 - self.bits()))
    }
}

/// What becomes of the bits above a loaded element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// They are zero.
    Zero,
    /// They are copies of the sign, as far as the W register goes.
    SignW,
    /// They are copies of the sign.
    SignX,
}

/// How a shifted-register operand is shifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the mnemonics")]
pub enum Shift {
    Lsl,
    Lsr,
    Asr,
    Ror,
}

/// How an extended-register operand is extended; `UXTX` and `SXTX` are the 64-bit ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the mnemonics")]
pub enum Extend {
    Uxtb,
    Uxth,
    Uxtw,
    Uxtx,
    Sxtb,
    Sxth,
    Sxtw,
    Sxtx,
}

/// The operation of a logical instruction, before an inversion of its second operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the mnemonics")]
pub enum Logical {
    And,
    Orr,
    Eor,
}

/// What conditional select makes of its second operand where the condition fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the mnemonics")]
pub enum Select {
    Csel,
    Csinc,
    Csinv,
    Csneg,
}

/// A condition: the field `cond`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition(pub u8);

/// The data-processing instructions with one source register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the mnemonics")]
pub enum Unary {
    Rbit,
    Rev16,
    Rev32,
    Rev,
    Clz,
    Cls,
}

/// The data-processing instructions with two source registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the mnemonics")]
pub enum Binary {
    Udiv,
    Sdiv,
    Lslv,
    Lsrv,
    Asrv,
    Rorv,
    Crc32(Size),
    Crc32c(Size),
}

/// The multiplications of W registers to an X register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the mnemonics")]
pub enum MultiplyLong {
    Smaddl,
    Smsubl,
    Umaddl,
    Umsubl,
}

/// Whether and when a load or store updates its base register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// Never: `[base, #offset]`.
    Offset,
    /// After the access, which uses the old base: `[base], #offset`.
    Post,
    /// The access uses the new base: `[base, #offset]!`.
    Pre,
}

bitflags! {
    /// What a memory access asks for besides the bytes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u8 {
        /// Acquire, RCsc (LDAR, LDAXR, LSE with A; LDLAR too).
        const ACQUIRE = 1 << 0;
        /// Acquire, RCpc (LDAPR, LDAPUR): may pass an earlier store-release.
        const ACQUIRE_PC = 1 << 1;
        /// Release (STLR, STLXR, STLUR, LSE with L; STLLR too).
        const RELEASE = 1 << 2;
        /// A load-exclusive or store-exclusive. A pair of them is one single-copy atomic access.
        const EXCLUSIVE = 1 << 3;
        /// Checked as if from EL0 (LDTR, STTR), where the translation regime has an EL0.
        const UNPRIVILEGED = 1 << 4;
        /// The base register is SP, whose alignment SCTLR.SA may have checked.
        const STACK = 1 << 5;
    }
}

impl Access {
    /// Whether the address must be aligned even where SCTLR.A is clear (FEAT_LSE2 is not implemented). Atomics must
    /// be, too, whatever their [`Access`] says.
    #[inline]
    #[must_use]
    pub const fn needs_alignment(self) -> bool {
        self.intersects(Self::ACQUIRE.union(Self::ACQUIRE_PC).union(Self::RELEASE).union(Self::EXCLUSIVE))
    }
}

/// A read-modify-write of memory by one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the mnemonics")]
pub enum Rmw {
    Add,
    Clr,
    Eor,
    Set,
    Smax,
    Smin,
    Umax,
    Umin,
    Swp,
}

/// What an atomic instruction makes of the value in memory and its operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicOp {
    /// LDADD and its like, SWP.
    Rmw(Rmw),
    /// CAS: stores the operand if memory holds `expected`.
    Cas {
        /// Of the size of the access.
        expected: u64,
    },
}

/// A system register, by its encoding `op0:op1:CRn:CRm:op2` (16 bits).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SysReg(pub u16);

impl SysReg {
    /// The register `S<op0>_<op1>_C<CRn>_C<CRm>_<op2>`; `op0` is 2 or 3.
    #[must_use]
    pub const fn new(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> Self {
        Self(op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2)
    }

    /// `op0`, `op1`, `CRn`, `CRm`, `op2`.
    #[must_use]
    pub const fn fields(self) -> (u16, u16, u16, u16, u16) {
        (self.0 >> 14, self.0 >> 11 & 7, self.0 >> 7 & 15, self.0 >> 3 & 15, self.0 & 7)
    }
}

impl fmt::Display for SysReg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (op0, op1, crn, crm, op2) = self.fields();
        write!(f, "S{op0}_{op1}_C{crn}_C{crm}_{op2}")
    }
}

impl fmt::Debug for SysReg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A system instruction (SYS, SYSL and their aliases AT, DC, IC, TLBI), by its encoding `01:op1:CRn:CRm:op2`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SysOp(pub u16);

impl SysOp {
    /// `SYS #op1, C<CRn>, C<CRm>, #op2`.
    #[must_use]
    pub const fn new(op1: u16, crn: u16, crm: u16, op2: u16) -> Self {
        Self(SysReg::new(1, op1, crn, crm, op2).0)
    }

    /// `op1`, `CRn`, `CRm`, `op2`.
    #[must_use]
    pub const fn fields(self) -> (u16, u16, u16, u16) {
        let (_, op1, crn, crm, op2) = SysReg(self.0).fields();
        (op1, crn, crm, op2)
    }
}

impl fmt::Display for SysOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (op1, crn, crm, op2) = self.fields();
        write!(f, "SYS #{op1}, C{crn}, C{crm}, #{op2}")
    }
}

impl fmt::Debug for SysOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The PSTATE field that an MSR (immediate) writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the fields")]
pub enum PstateField {
    Uao,
    Pan,
    SpSel,
    Ssbs,
    Dit,
    Tco,
    DaifSet,
    DaifClr,
}

/// The shareability domain of a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// OSH.
    OuterShareable,
    /// NSH.
    NonShareable,
    /// ISH.
    InnerShareable,
    /// SY.
    FullSystem,
}

/// The accesses that a barrier orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Types {
    /// Loads before, loads and stores after (LD).
    Reads,
    /// Stores before and after (ST).
    Writes,
    /// All.
    All,
}

/// A barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// DSB.
    Dsb {
        /// For whom the accesses are complete.
        domain: Domain,
        /// Which accesses are waited for.
        types: Types,
        /// Without waiting for accesses of the XS attribute.
        nxs: bool,
    },
    /// DMB.
    Dmb {
        /// For whom the accesses are ordered.
        domain: Domain,
        /// Which accesses are ordered.
        types: Types,
    },
    /// Instruction synchronisation: a context synchronisation event.
    Isb,
    /// Speculation barrier.
    Sb,
    /// Speculative store bypass barrier, by virtual address.
    Ssbb,
    /// Speculative store bypass barrier, by physical address.
    Pssbb,
}

/// The hints that a machine can make something of; all others are [`Op::Nop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the mnemonics")]
pub enum Hint {
    Yield,
    Wfe,
    Wfi,
    Sev,
    Sevl,
    Esb,
    /// A mark of our own software ([`wire::abi::mark`]).
    Mark,
}

/// An instruction whose purpose is an exception; the number is its immediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the mnemonics")]
pub enum Call {
    Svc(u16),
    Hvc(u16),
    Smc(u16),
    Hlt(u16),
    Brk(u16),
}

/// One decoded instruction.
///
/// Registers are numbered as in the encoding. Number 31 is XZR, except where a field says that it is SP. Offsets and
/// immediates are in bytes, signs and scales applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields' names are those of the encodings")]
pub enum Op {
    /// NOP, a hint without effect in this machine, PRFM.
    Nop,
    /// MOVZ and MOVN.
    Movz {
        rd: u8,
        value: u64,
    },
    Movk {
        width: Width,
        rd: u8,
        shift: u8,
        imm: u16,
    },
    /// ORR of XZR and an unshifted register: the alias MOV.
    Mov {
        width: Width,
        rd: u8,
        rm: u8,
    },
    Adr {
        rd: u8,
        offset: i64,
    },
    /// The offset is a multiple of 4096, and so is what it is added to.
    Adrp {
        rd: u8,
        offset: i64,
    },

    /// ADD and SUB (immediate): SUB adds the negated immediate. `rd` and `rn` may be SP.
    AddImm {
        width: Width,
        rd: u8,
        rn: u8,
        imm: u64,
    },
    /// ADDS and SUBS (immediate): SUBS adds the inverted immediate and a carry. `rn` may be SP.
    AddsImm {
        width: Width,
        rd: u8,
        rn: u8,
        carry: bool,
        imm: u64,
    },
    AddReg {
        width: Width,
        sub: bool,
        rd: u8,
        rn: u8,
        rm: u8,
        shift: Shift,
        amount: u8,
    },
    AddsReg {
        width: Width,
        sub: bool,
        rd: u8,
        rn: u8,
        rm: u8,
        shift: Shift,
        amount: u8,
    },
    /// `rd` and `rn` may be SP.
    AddExt {
        width: Width,
        sub: bool,
        rd: u8,
        rn: u8,
        rm: u8,
        extend: Extend,
        amount: u8,
    },
    /// `rn` may be SP.
    AddsExt {
        width: Width,
        sub: bool,
        rd: u8,
        rn: u8,
        rm: u8,
        extend: Extend,
        amount: u8,
    },
    Adc {
        width: Width,
        sub: bool,
        flags: bool,
        rd: u8,
        rn: u8,
        rm: u8,
    },

    /// `rd` may be SP.
    LogicalImm {
        width: Width,
        op: Logical,
        rd: u8,
        rn: u8,
        imm: u64,
    },
    AndsImm {
        width: Width,
        rd: u8,
        rn: u8,
        imm: u64,
    },
    LogicalReg {
        width: Width,
        op: Logical,
        invert: bool,
        rd: u8,
        rn: u8,
        rm: u8,
        shift: Shift,
        amount: u8,
    },
    /// ANDS and BICS.
    AndsReg {
        width: Width,
        invert: bool,
        rd: u8,
        rn: u8,
        rm: u8,
        shift: Shift,
        amount: u8,
    },

    /// UBFM, as a 64-bit shift to the left and one back.
    Ubfm {
        rd: u8,
        rn: u8,
        left: u8,
        right: u8,
    },
    /// SBFM, as a 64-bit shift to the left and an arithmetic one back.
    Sbfm {
        width: Width,
        rd: u8,
        rn: u8,
        left: u8,
        right: u8,
    },
    /// BFM, likewise; the bits that 64 ones so shifted leave zero keep their values.
    Bfm {
        width: Width,
        rd: u8,
        rn: u8,
        left: u8,
        right: u8,
    },
    Extr {
        width: Width,
        rd: u8,
        rn: u8,
        rm: u8,
        lsb: u8,
    },

    Csel {
        width: Width,
        op: Select,
        cond: Condition,
        rd: u8,
        rn: u8,
        rm: u8,
    },
    CcmpReg {
        width: Width,
        sub: bool,
        cond: Condition,
        rn: u8,
        rm: u8,
        nzcv: u8,
    },
    CcmpImm {
        width: Width,
        sub: bool,
        cond: Condition,
        rn: u8,
        imm: u8,
        nzcv: u8,
    },
    Unary {
        width: Width,
        op: Unary,
        rd: u8,
        rn: u8,
    },
    Binary {
        width: Width,
        op: Binary,
        rd: u8,
        rn: u8,
        rm: u8,
    },
    Madd {
        width: Width,
        sub: bool,
        rd: u8,
        rn: u8,
        rm: u8,
        ra: u8,
    },
    MaddLong {
        op: MultiplyLong,
        rd: u8,
        rn: u8,
        rm: u8,
        ra: u8,
    },
    Mulh {
        signed: bool,
        rd: u8,
        rn: u8,
        rm: u8,
    },
    Cfinv,
    Rmif {
        rn: u8,
        rotate: u8,
        mask: u8,
    },
    /// SETF8 and SETF16.
    Setf {
        size: Size,
        rn: u8,
    },

    B {
        offset: i32,
    },
    Bl {
        offset: i32,
    },
    BCond {
        cond: Condition,
        offset: i32,
    },
    /// CBZ, and with `nonzero` CBNZ.
    Cbz {
        width: Width,
        nonzero: bool,
        rt: u8,
        offset: i32,
    },
    /// TBZ, and with `nonzero` TBNZ.
    Tbz {
        nonzero: bool,
        rt: u8,
        bit: u8,
        offset: i32,
    },
    /// BR and RET, which differ only in what they tell a branch predictor.
    Br {
        rn: u8,
    },
    Blr {
        rn: u8,
    },
    Eret,

    /// LDR, LDUR, LDTR, LDAR, LDAPR, LDAPUR and those of smaller sizes, by base and immediate. The base may be SP.
    Load {
        size: Size,
        extension: Extension,
        access: Access,
        rt: u8,
        rn: u8,
        offset: i16,
    },
    Store {
        size: Size,
        access: Access,
        rt: u8,
        rn: u8,
        offset: i16,
    },
    /// The same with writeback: Pre or Post.
    LoadIndexed {
        size: Size,
        extension: Extension,
        access: Access,
        pre: bool,
        rt: u8,
        rn: u8,
        offset: i16,
    },
    StoreIndexed {
        size: Size,
        access: Access,
        pre: bool,
        rt: u8,
        rn: u8,
        offset: i16,
    },
    LoadReg {
        size: Size,
        extension: Extension,
        access: Access,
        rt: u8,
        rn: u8,
        rm: u8,
        extend: Extend,
        amount: u8,
    },
    StoreReg {
        size: Size,
        access: Access,
        rt: u8,
        rn: u8,
        rm: u8,
        extend: Extend,
        amount: u8,
    },
    LoadLiteral {
        size: Size,
        extension: Extension,
        rt: u8,
        offset: i32,
    },
    LoadPair {
        size: Size,
        extension: Extension,
        access: Access,
        index: Index,
        rt: u8,
        rt2: u8,
        rn: u8,
        offset: i16,
    },
    StorePair {
        size: Size,
        access: Access,
        index: Index,
        rt: u8,
        rt2: u8,
        rn: u8,
        offset: i16,
    },

    /// LDXR and LDAXR are [`Op::Load`]s, LDXP and LDAXP [`Op::LoadPair`]s.
    StoreExclusive {
        size: Size,
        access: Access,
        rs: u8,
        rt: u8,
        rn: u8,
    },
    StoreExclusivePair {
        size: Size,
        access: Access,
        rs: u8,
        rt: u8,
        rt2: u8,
        rn: u8,
    },
    Clrex,
    /// LDADD and its like, and SWP.
    Atomic {
        size: Size,
        access: Access,
        op: Rmw,
        rs: u8,
        rt: u8,
        rn: u8,
    },
    Cas {
        size: Size,
        access: Access,
        rs: u8,
        rt: u8,
        rn: u8,
    },
    /// The registers are `rs` and `rs + 1`, `rt` and `rt + 1`; `rs` and `rt` are even.
    Casp {
        size: Size,
        access: Access,
        rs: u8,
        rt: u8,
        rn: u8,
    },

    Mrs {
        rt: u8,
        reg: SysReg,
    },
    Msr {
        rt: u8,
        reg: SysReg,
    },
    MsrImm {
        field: PstateField,
        imm: u8,
    },
    Sys {
        rt: u8,
        op: SysOp,
    },
    Sysl {
        rt: u8,
        op: SysOp,
    },
    Barrier(Barrier),
    Hint(Hint),
    Call(Call),
    /// UDF, which is for ever UNDEFINED.
    Udf(u16),
    /// A word that is unallocated, CONSTRAINED UNPREDICTABLE, or not implemented here.
    Unknown(u32),
}

// A machine keeps one for every instruction of every page it has executed.
const _: () = assert!(size_of::<Op>() <= 16);
