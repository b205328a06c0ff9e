//! From words to [`Op`]s.
//!
//! The functions follow the decode tables of the Arm Architecture Reference Manual, chapter C4; each is named after
//! its table. `None` stands for what is unallocated or not implemented, and becomes [`Op::Unknown`].

use super::op::{
    Access, Barrier, Binary, Call, Condition, Domain, Extend, Extension, Hint, Index, Logical, MultiplyLong, Op,
    PstateField, Rmw, Select, Shift, Size, SysOp, SysReg, Types, Unary, Width,
};

/// A word, by its fields.
#[derive(Clone, Copy)]
struct Word(u32);

impl Word {
    /// The bits `high` to `low`.
    const fn bits(self, high: u32, low: u32) -> u32 {
        self.0 >> low & (u32::MAX >> (31 - (high - low)))
    }

    const fn bit(self, n: u32) -> bool {
        self.0 >> n & 1 != 0
    }

    /// The bits `high` to `low`, a two's complement number.
    const fn signed(self, high: u32, low: u32) -> i32 {
        (self.0 << (31 - high)) as i32 >> (31 - (high - low))
    }

    /// The register whose number starts at bit `low`.
    const fn register(self, low: u32) -> u8 {
        self.bits(low + 4, low) as u8
    }

    const fn rd(self) -> u8 {
        self.register(0)
    }

    /// The register that a load or store transfers, in the place of `rd`.
    const fn rt(self) -> u8 {
        self.register(0)
    }

    const fn rn(self) -> u8 {
        self.register(5)
    }

    const fn rm(self) -> u8 {
        self.register(16)
    }

    /// `sf`.
    const fn width(self) -> Width {
        if self.bit(31) { Width::X } else { Width::W }
    }

    /// The field `size` of a load or store.
    const fn size(self) -> Size {
        Size::ALL[self.bits(31, 30) as usize]
    }

    const fn condition(self) -> Condition {
        Condition(self.bits(15, 12) as u8)
    }

    const fn shift(self) -> Shift {
        match self.bits(23, 22) {
            0 => Shift::Lsl,
            1 => Shift::Lsr,
            2 => Shift::Asr,
            _ => Shift::Ror,
        }
    }

    const fn extend(self) -> Extend {
        match self.bits(15, 13) {
            0 => Extend::Uxtb,
            1 => Extend::Uxth,
            2 => Extend::Uxtw,
            3 => Extend::Uxtx,
            4 => Extend::Sxtb,
            5 => Extend::Sxth,
            6 => Extend::Sxtw,
            _ => Extend::Sxtx,
        }
    }

    /// The shift amount `imm6`, which must be less than the width.
    fn amount(self) -> Option<u8> {
        let amount = self.bits(15, 10);
        (amount < self.width().bits()).then_some(amount as u8)
    }

    /// The offset of a branch, whose field is in units of instructions.
    const fn branch(self, high: u32, low: u32) -> i32 {
        self.signed(high, low) * 4
    }

    /// What all accesses with this base register ask for.
    const fn base(self) -> Access {
        if self.rn() == 31 { Access::STACK } else { Access::empty() }
    }
}

/// The instruction that `word` encodes.
#[must_use]
pub fn decode(word: u32) -> Op {
    let w = Word(word);
    let op = match w.bits(28, 25) {
        0b0000 => reserved(w),
        0b1000 | 0b1001 => immediate(w),
        0b1010 | 0b1011 => branch_or_system(w),
        0b0100 | 0b1100 => load_store(w),
        0b0101 | 0b1101 => register(w),
        // SVE, SME and SIMD, floating point, and their loads and stores.
        _ => None,
    };
    op.unwrap_or(Op::Unknown(word))
}

fn reserved(w: Word) -> Option<Op> {
    (w.bits(31, 16) == 0).then_some(Op::Udf(w.bits(15, 0) as u16))
}

/// Data processing -- immediate.
fn immediate(w: Word) -> Option<Op> {
    let (width, rd, rn) = (w.width(), w.rd(), w.rn());
    let op = match w.bits(25, 23) {
        0b000 | 0b001 => {
            let offset = i64::from(w.signed(23, 5) << 2 | w.bits(30, 29) as i32);
            if w.bit(31) { Op::Adrp { rd, offset: offset << 12 } } else { Op::Adr { rd, offset } }
        }
        0b010 => {
            let imm = u64::from(w.bits(21, 10)) << if w.bit(22) { 12 } else { 0 };
            match (w.bit(29), w.bit(30)) {
                (false, false) => Op::AddImm { width, rd, rn, imm },
                (false, true) => Op::AddImm { width, rd, rn, imm: imm.wrapping_neg() },
                (true, false) => Op::AddsImm { width, rd, rn, carry: false, imm },
                (true, true) => Op::AddsImm { width, rd, rn, carry: true, imm: !imm },
            }
        }
        0b100 => {
            let imm = bit_mask(width, w.bit(22), w.bits(15, 10), w.bits(21, 16))?;
            let op = match w.bits(30, 29) {
                0 => Logical::And,
                1 => Logical::Orr,
                2 => Logical::Eor,
                _ => return Some(Op::AndsImm { width, rd, rn, imm }),
            };
            Op::LogicalImm { width, op, rd, rn, imm }
        }
        0b101 => {
            let (imm, shift) = (w.bits(20, 5) as u16, 16 * w.bits(22, 21));
            if shift >= width.bits() {
                return None;
            }
            let value = u64::from(imm) << shift;
            match w.bits(30, 29) {
                0 => Op::Movz { rd, value: width.truncate(!value) },
                2 => Op::Movz { rd, value },
                3 => Op::Movk { width, rd, shift: shift as u8, imm },
                _ => return None,
            }
        }
        0b110 => {
            let (immr, imms) = (w.bits(21, 16), w.bits(15, 10));
            if w.bit(22) != w.bit(31) || immr.max(imms) >= width.bits() {
                return None;
            }
            // The field's highest bit goes to bit 63, and from there to its place.
            let left = 63 - imms;
            let lowest = if imms >= immr { left + immr } else { left + immr - width.bits() };
            let (left, right) = (left as u8, lowest as u8);
            match w.bits(30, 29) {
                0 => Op::Sbfm { width, rd, rn, left, right },
                1 => Op::Bfm { width, rd, rn, left, right },
                2 => Op::Ubfm { rd, rn, left, right },
                _ => return None,
            }
        }
        0b111 if w.bits(30, 29) == 0 && !w.bit(21) && w.bit(22) == w.bit(31) => {
            Op::Extr { width, rd, rn, rm: w.rm(), lsb: w.amount()? }
        }
        _ => return None,
    };
    Some(op)
}

/// The immediate of a logical instruction: `DecodeBitMasks()`. Elements of a power of two bits, each a rotated run of
/// ones, fill the register.
fn bit_mask(width: Width, n: bool, imms: u32, immr: u32) -> Option<u64> {
    // The highest one of N:NOT(imms) gives the size of the element, which has at least two bits.
    let element = 1u32 << (u32::from(n) << 6 | !imms & 0x3f).checked_ilog2()?;
    let ones = (imms & (element - 1)) + 1;
    if element == 1 || element > width.bits() || ones == element {
        return None;
    }
    let run = u64::MAX >> (64 - ones);
    let rotate = immr & (element - 1);
    let rotated = run >> rotate | run << ((element - rotate) % 64);
    // The run occupies less than the element, so that what was shifted beyond it is to be cut off.
    let one = rotated & (u64::MAX >> (64 - element));
    // A one at the bottom of each element, times the element.
    let copies = u64::MAX / (u64::MAX >> (64 - element));
    Some(width.truncate(one * copies))
}

/// Branches, exception generating and system instructions.
fn branch_or_system(w: Word) -> Option<Op> {
    match w.bits(31, 24) {
        0x14..=0x17 => Some(Op::B { offset: w.branch(25, 0) }),
        0x94..=0x97 => Some(Op::Bl { offset: w.branch(25, 0) }),
        0x34 | 0x35 | 0xb4 | 0xb5 => {
            Some(Op::Cbz { width: w.width(), nonzero: w.bit(24), rt: w.rt(), offset: w.branch(23, 5) })
        }
        0x36 | 0x37 | 0xb6 | 0xb7 => {
            let bit = (w.bits(31, 31) << 5 | w.bits(23, 19)) as u8;
            Some(Op::Tbz { nonzero: w.bit(24), rt: w.rt(), bit, offset: w.branch(18, 5) })
        }
        0x54 if !w.bit(4) => Some(Op::BCond { cond: Condition(w.bits(3, 0) as u8), offset: w.branch(23, 5) }),
        0xd4 => exception_generating(w),
        0xd5 if w.bits(23, 22) == 0 => system(w),
        0xd6 => branch_register(w),
        _ => None,
    }
}

fn exception_generating(w: Word) -> Option<Op> {
    let imm = w.bits(20, 5) as u16;
    let call = match (w.bits(23, 21), w.bits(4, 0)) {
        (0, 1) => Call::Svc(imm),
        (0, 2) => Call::Hvc(imm),
        (0, 3) => Call::Smc(imm),
        (1, 0) => Call::Brk(imm),
        (2, 0) => Call::Hlt(imm),
        _ => return None,
    };
    Some(Op::Call(call))
}

fn branch_register(w: Word) -> Option<Op> {
    // The forms with pointer authentication have a one in op3.
    if w.bits(20, 10) != 0b11111_000000 || w.bits(4, 0) != 0 {
        return None;
    }
    match w.bits(24, 21) {
        0 | 2 => Some(Op::Br { rn: w.rn() }),
        1 => Some(Op::Blr { rn: w.rn() }),
        4 if w.rn() == 31 => Some(Op::Eret),
        _ => None,
    }
}

fn system(w: Word) -> Option<Op> {
    let (read, op0, rt) = (w.bit(21), w.bits(20, 19), w.rt());
    let encoding = w.bits(20, 5) as u16;
    match (op0, read) {
        (0, true) => None,
        (0, false) if rt != 31 => None,
        (0, false) => match (w.bits(15, 12), w.bits(18, 16)) {
            (2, 3) => Some(hint(w)),
            (3, 3) => barrier(w),
            (4, _) => pstate(w),
            _ => None,
        },
        (1, false) => Some(Op::Sys { rt, op: SysOp(encoding) }),
        (1, true) => Some(Op::Sysl { rt, op: SysOp(encoding) }),
        (_, false) => Some(Op::Msr { rt, reg: SysReg(encoding) }),
        (_, true) => Some(Op::Mrs { rt, reg: SysReg(encoding) }),
    }
}

/// Unallocated hints are NOPs, and so are those of extensions that this CPU does not have.
fn hint(w: Word) -> Op {
    const MARK: u32 = wire::abi::mark::HINT as u32;
    match w.bits(11, 5) {
        1 => Op::Hint(Hint::Yield),
        2 => Op::Hint(Hint::Wfe),
        3 => Op::Hint(Hint::Wfi),
        4 => Op::Hint(Hint::Sev),
        5 => Op::Hint(Hint::Sevl),
        16 => Op::Hint(Hint::Esb),
        MARK => Op::Hint(Hint::Mark),
        _ => Op::Nop,
    }
}

fn barrier(w: Word) -> Option<Op> {
    let (crm, op2) = (w.bits(11, 8), w.bits(7, 5));
    let domain = match crm >> 2 {
        0 => Domain::OuterShareable,
        1 => Domain::NonShareable,
        2 => Domain::InnerShareable,
        _ => Domain::FullSystem,
    };
    let (domain, types) = match crm & 3 {
        1 => (domain, Types::Reads),
        2 => (domain, Types::Writes),
        3 => (domain, Types::All),
        // Reserved; they behave as SY.
        _ => (Domain::FullSystem, Types::All),
    };
    let barrier = match (op2, crm) {
        (1, _) if crm & 3 == 2 => Barrier::Dsb { domain, types: Types::All, nxs: true },
        (2, _) => return Some(Op::Clrex),
        (4, 0) => Barrier::Ssbb,
        (4, 4) => Barrier::Pssbb,
        (4, _) => Barrier::Dsb { domain, types, nxs: false },
        (5, _) => Barrier::Dmb { domain, types },
        (6, _) => Barrier::Isb,
        (7, 0) => Barrier::Sb,
        _ => return None,
    };
    Some(Op::Barrier(barrier))
}

/// MSR (immediate) and CFINV.
fn pstate(w: Word) -> Option<Op> {
    let imm = w.bits(11, 8) as u8;
    let field = match (w.bits(18, 16), w.bits(7, 5)) {
        (0, 0) if imm == 0 => return Some(Op::Cfinv),
        (0, 3) => PstateField::Uao,
        (0, 4) => PstateField::Pan,
        (0, 5) => PstateField::SpSel,
        (3, 1) => PstateField::Ssbs,
        (3, 2) => PstateField::Dit,
        (3, 4) => PstateField::Tco,
        (3, 6) => PstateField::DaifSet,
        (3, 7) => PstateField::DaifClr,
        _ => return None,
    };
    Some(Op::MsrImm { field, imm })
}

/// Loads and stores of general-purpose registers.
fn load_store(w: Word) -> Option<Op> {
    match (w.bits(29, 27), w.bits(25, 24)) {
        (0b001, 0b00) => exclusive_or_ordered(w),
        (0b011, 0b00) => load_literal(w),
        (0b011, 0b01) if !w.bit(21) && w.bits(11, 10) == 0 => ordered_unscaled(w),
        (0b101, 0b00 | 0b01) => load_store_pair(w),
        (0b111, 0b00) => match (w.bit(21), w.bits(11, 10)) {
            (false, index) => unscaled_or_indexed(w, index),
            (true, 0b00) => atomic(w),
            (true, 0b10) => register_offset(w),
            _ => None,
        },
        (0b111, 0b01) => {
            // At most 4095 doublewords: this fits.
            let offset = (w.bits(21, 10) << w.bits(31, 30)) as i16;
            simple(w, w.base(), offset)
        }
        _ => None,
    }
}

/// What `size` and `opc` of a load or store mean.
enum Transfer {
    Load(Extension),
    Store,
    Prefetch,
}

fn transfer(w: Word) -> Option<Transfer> {
    match (w.bits(23, 22), w.size()) {
        (0, _) => Some(Transfer::Store),
        (1, _) => Some(Transfer::Load(Extension::Zero)),
        (2, Size::B8) => Some(Transfer::Prefetch),
        (2, _) => Some(Transfer::Load(Extension::SignX)),
        (_, Size::B1 | Size::B2) => Some(Transfer::Load(Extension::SignW)),
        _ => None,
    }
}

/// A load, store or prefetch by base and offset.
fn simple(w: Word, access: Access, offset: i16) -> Option<Op> {
    let (size, rt, rn) = (w.size(), w.rt(), w.rn());
    Some(match transfer(w)? {
        Transfer::Load(extension) => Op::Load { size, extension, access, rt, rn, offset },
        Transfer::Store => Op::Store { size, access, rt, rn, offset },
        Transfer::Prefetch => Op::Nop,
    })
}

/// Unscaled, unprivileged, post- and pre-indexed.
fn unscaled_or_indexed(w: Word, index: u32) -> Option<Op> {
    let (size, access, rt, rn, offset) = (w.size(), w.base(), w.rt(), w.rn(), w.signed(20, 12) as i16);
    let unprivileged = index == 0b10;
    if index == 0b00 {
        return simple(w, access, offset);
    }
    match transfer(w)? {
        Transfer::Prefetch => None,
        _ if unprivileged => simple(w, access | Access::UNPRIVILEGED, offset),
        // Writeback of the transferred register is CONSTRAINED UNPREDICTABLE.
        _ if rn == rt && rn != 31 => None,
        Transfer::Load(extension) => {
            Some(Op::LoadIndexed { size, extension, access, pre: index == 0b11, rt, rn, offset })
        }
        Transfer::Store => Some(Op::StoreIndexed { size, access, pre: index == 0b11, rt, rn, offset }),
    }
}

fn register_offset(w: Word) -> Option<Op> {
    // Only words and doublewords can be extended.
    if !w.bit(14) {
        return None;
    }
    let (size, access, rt, rn, rm, extend) = (w.size(), w.base(), w.rt(), w.rn(), w.rm(), w.extend());
    let amount = if w.bit(12) { size as u8 } else { 0 };
    Some(match transfer(w)? {
        Transfer::Load(extension) => Op::LoadReg { size, extension, access, rt, rn, rm, extend, amount },
        Transfer::Store => Op::StoreReg { size, access, rt, rn, rm, extend, amount },
        Transfer::Prefetch => Op::Nop,
    })
}

fn load_literal(w: Word) -> Option<Op> {
    let (rt, offset) = (w.rt(), w.branch(23, 5));
    let (size, extension) = match w.bits(31, 30) {
        0 => (Size::B4, Extension::Zero),
        1 => (Size::B8, Extension::Zero),
        2 => (Size::B4, Extension::SignX),
        _ => return Some(Op::Nop),
    };
    Some(Op::LoadLiteral { size, extension, rt, offset })
}

/// LDAPUR and STLUR.
fn ordered_unscaled(w: Word) -> Option<Op> {
    let order = match transfer(w)? {
        Transfer::Load(_) => Access::ACQUIRE_PC,
        Transfer::Store => Access::RELEASE,
        Transfer::Prefetch => return None,
    };
    simple(w, w.base() | order, w.signed(20, 12) as i16)
}

fn load_store_pair(w: Word) -> Option<Op> {
    let (access, rt, rt2, rn, load) = (w.base(), w.rt(), w.register(10), w.rn(), w.bit(22));
    let index = match w.bits(24, 23) {
        // Without an allocation hint: LDNP and STNP.
        0 | 2 => Index::Offset,
        1 => Index::Post,
        _ => Index::Pre,
    };
    let (size, extension) = match w.bits(31, 30) {
        0 => (Size::B4, Extension::Zero),
        1 if load && w.bits(24, 23) != 0 => (Size::B4, Extension::SignX),
        2 => (Size::B8, Extension::Zero),
        _ => return None,
    };
    // CONSTRAINED UNPREDICTABLE: two results for one register.
    let writeback = index != Index::Offset && rn != 31 && (rn == rt || rn == rt2);
    if writeback || load && rt == rt2 {
        return None;
    }
    let offset = (w.signed(21, 15) << size as u8) as i16;
    Some(if load {
        Op::LoadPair { size, extension, access, index, rt, rt2, rn, offset }
    } else {
        Op::StorePair { size, access, index, rt, rt2, rn, offset }
    })
}

/// Exclusives, load-acquire and store-release, CAS and CASP.
fn exclusive_or_ordered(w: Word) -> Option<Op> {
    let (size, rs, rt, rt2, rn, load) = (w.size(), w.rm(), w.rt(), w.register(10), w.rn(), w.bit(22));
    let extension = Extension::Zero;
    let ordered = w.bit(15);
    let ordering = |on: bool, flag| if on { flag } else { Access::empty() };
    // For exclusives and ordered accesses, bit 15 asks for acquire or release; in CAS and CASP it is for release.
    let access = w.base() | ordering(ordered, if load { Access::ACQUIRE } else { Access::RELEASE });
    let swap = w.base() | ordering(load, Access::ACQUIRE) | ordering(ordered, Access::RELEASE);
    let exclusive = access | Access::EXCLUSIVE;
    // CONSTRAINED UNPREDICTABLE: the status would overwrite the address or the data.
    let status = rs != rt && (rs != rn || rn == 31);
    match (w.bit(23), w.bit(21)) {
        (false, false) if rt2 != 31 => None,
        (false, false) if load && rs == 31 => Some(Op::Load { size, extension, access: exclusive, rt, rn, offset: 0 }),
        (false, false) if !load && status => Some(Op::StoreExclusive { size, access: exclusive, rs, rt, rn }),
        (false, true) if !w.bit(31) => {
            let size = if w.bit(30) { Size::B8 } else { Size::B4 };
            (rt2 == 31 && rs % 2 == 0 && rt % 2 == 0).then_some(Op::Casp { size, access: swap, rs, rt, rn })
        }
        (false, true) if load && rs == 31 && rt != rt2 => {
            let index = Index::Offset;
            Some(Op::LoadPair { size, extension, access: exclusive, index, rt, rt2, rn, offset: 0 })
        }
        (false, true) if !load && status && rs != rt2 => {
            Some(Op::StoreExclusivePair { size, access: exclusive, rs, rt, rt2, rn })
        }
        (true, false) if rs == 31 && rt2 == 31 => {
            // Without bit 15, LDLAR and STLLR: ordered within a limited region, of which there is one.
            let offset = 0;
            Some(if load {
                Op::Load { size, extension, access: w.base() | Access::ACQUIRE, rt, rn, offset }
            } else {
                Op::Store { size, access: w.base() | Access::RELEASE, rt, rn, offset }
            })
        }
        (true, true) if rt2 == 31 => Some(Op::Cas { size, access: swap, rs, rt, rn }),
        _ => None,
    }
}

/// LDADD and its like, SWP, LDAPR.
fn atomic(w: Word) -> Option<Op> {
    let (size, rs, rt, rn) = (w.size(), w.rm(), w.rt(), w.rn());
    let (acquire, release) = (w.bit(23), w.bit(22));
    let op = match w.bits(15, 12) {
        0 => Rmw::Add,
        1 => Rmw::Clr,
        2 => Rmw::Eor,
        3 => Rmw::Set,
        4 => Rmw::Smax,
        5 => Rmw::Smin,
        6 => Rmw::Umax,
        7 => Rmw::Umin,
        8 => Rmw::Swp,
        12 if acquire && !release && rs == 31 => {
            let access = w.base() | Access::ACQUIRE_PC;
            return Some(Op::Load { size, extension: Extension::Zero, access, rt, rn, offset: 0 });
        }
        _ => return None,
    };
    let mut access = w.base();
    // An atomic without a result (STADD) does not acquire.
    access.set(Access::ACQUIRE, acquire && rt != 31);
    access.set(Access::RELEASE, release);
    Some(Op::Atomic { size, access, op, rs, rt, rn })
}

/// Data processing -- register.
fn register(w: Word) -> Option<Op> {
    match (w.bit(28), w.bits(24, 21)) {
        (false, 0..=7) => logical_shifted(w),
        (false, 8 | 10 | 12 | 14) => add_shifted(w),
        (false, 9) => add_extended(w),
        (true, 0) => carry_or_flags(w),
        (true, 2) if !w.bit(10) && !w.bit(4) && w.bit(29) => Some(conditional_compare(w)),
        (true, 4) => conditional_select(w),
        (true, 6) if w.bit(30) => one_source(w),
        (true, 6) => two_sources(w),
        (true, 8..) => three_sources(w),
        _ => None,
    }
}

fn logical_shifted(w: Word) -> Option<Op> {
    let (width, rd, rn, rm) = (w.width(), w.rd(), w.rn(), w.rm());
    let (invert, shift, amount) = (w.bit(21), w.shift(), w.amount()?);
    let op = match w.bits(30, 29) {
        0 => Logical::And,
        1 if rn == 31 && !invert && amount == 0 => return Some(Op::Mov { width, rd, rm }),
        1 => Logical::Orr,
        2 => Logical::Eor,
        _ => return Some(Op::AndsReg { width, invert, rd, rn, rm, shift, amount }),
    };
    Some(Op::LogicalReg { width, op, invert, rd, rn, rm, shift, amount })
}

fn add_shifted(w: Word) -> Option<Op> {
    let (width, sub, rd, rn, rm) = (w.width(), w.bit(30), w.rd(), w.rn(), w.rm());
    let (shift, amount) = (w.shift(), w.amount()?);
    if shift == Shift::Ror {
        return None;
    }
    Some(if w.bit(29) {
        Op::AddsReg { width, sub, rd, rn, rm, shift, amount }
    } else {
        Op::AddReg { width, sub, rd, rn, rm, shift, amount }
    })
}

fn add_extended(w: Word) -> Option<Op> {
    let (width, sub, rd, rn, rm) = (w.width(), w.bit(30), w.rd(), w.rn(), w.rm());
    let (extend, amount) = (w.extend(), w.bits(12, 10) as u8);
    if amount > 4 {
        return None;
    }
    Some(if w.bit(29) {
        Op::AddsExt { width, sub, rd, rn, rm, extend, amount }
    } else {
        Op::AddExt { width, sub, rd, rn, rm, extend, amount }
    })
}

/// ADC, SBC, RMIF, SETF8, SETF16.
fn carry_or_flags(w: Word) -> Option<Op> {
    let (width, sub, flags, rd, rn, rm) = (w.width(), w.bit(30), w.bit(29), w.rd(), w.rn(), w.rm());
    match (w.bits(31, 29), w.bits(15, 10)) {
        (_, 0) => Some(Op::Adc { width, sub, flags, rd, rn, rm }),
        (0b101, low) if low & 0x1f == 1 && !w.bit(4) => {
            Some(Op::Rmif { rn, rotate: w.bits(20, 15) as u8, mask: w.bits(3, 0) as u8 })
        }
        (0b001, 0b000010 | 0b010010) if rm == 0 && rd == 0b01101 => {
            Some(Op::Setf { size: if w.bit(14) { Size::B2 } else { Size::B1 }, rn })
        }
        _ => None,
    }
}

fn conditional_compare(w: Word) -> Op {
    let (width, sub, cond, rn) = (w.width(), w.bit(30), w.condition(), w.rn());
    let nzcv = w.bits(3, 0) as u8;
    if w.bit(11) {
        Op::CcmpImm { width, sub, cond, rn, imm: w.rm(), nzcv }
    } else {
        Op::CcmpReg { width, sub, cond, rn, rm: w.rm(), nzcv }
    }
}

fn conditional_select(w: Word) -> Option<Op> {
    if w.bit(29) || w.bit(11) {
        return None;
    }
    let op = match (w.bit(30), w.bit(10)) {
        (false, false) => Select::Csel,
        (false, true) => Select::Csinc,
        (true, false) => Select::Csinv,
        (true, true) => Select::Csneg,
    };
    Some(Op::Csel { width: w.width(), op, cond: w.condition(), rd: w.rd(), rn: w.rn(), rm: w.rm() })
}

fn one_source(w: Word) -> Option<Op> {
    let width = w.width();
    if w.bit(29) || w.bits(20, 16) != 0 {
        return None;
    }
    let op = match (w.bits(15, 10), width) {
        (0, _) => Unary::Rbit,
        (1, _) => Unary::Rev16,
        (2, Width::W) | (3, Width::X) => Unary::Rev,
        (2, Width::X) => Unary::Rev32,
        (4, _) => Unary::Clz,
        (5, _) => Unary::Cls,
        _ => return None,
    };
    Some(Op::Unary { width, op, rd: w.rd(), rn: w.rn() })
}

fn two_sources(w: Word) -> Option<Op> {
    let (width, opcode) = (w.width(), w.bits(15, 10));
    if w.bit(29) {
        return None;
    }
    let op = match opcode {
        2 => Binary::Udiv,
        3 => Binary::Sdiv,
        8 => Binary::Lslv,
        9 => Binary::Lsrv,
        10 => Binary::Asrv,
        11 => Binary::Rorv,
        16..=23 => {
            let size = Size::ALL[(opcode & 3) as usize];
            // Exactly the form of a doubleword has the bit sf.
            if (size == Size::B8) != (width == Width::X) {
                return None;
            }
            if opcode < 20 { Binary::Crc32(size) } else { Binary::Crc32c(size) }
        }
        _ => return None,
    };
    Some(Op::Binary { width, op, rd: w.rd(), rn: w.rn(), rm: w.rm() })
}

fn three_sources(w: Word) -> Option<Op> {
    let (width, sub, rd, rn, rm, ra) = (w.width(), w.bit(15), w.rd(), w.rn(), w.rm(), w.register(10));
    if w.bits(30, 29) != 0 {
        return None;
    }
    let op = match (w.bits(23, 21), width, sub) {
        (0, _, _) => return Some(Op::Madd { width, sub, rd, rn, rm, ra }),
        (1, Width::X, false) => MultiplyLong::Smaddl,
        (1, Width::X, true) => MultiplyLong::Smsubl,
        (5, Width::X, false) => MultiplyLong::Umaddl,
        (5, Width::X, true) => MultiplyLong::Umsubl,
        (2 | 6, Width::X, false) if ra == 31 => return Some(Op::Mulh { signed: !w.bit(23), rd, rn, rm }),
        _ => return None,
    };
    Some(Op::MaddLong { op, rd, rn, rm, ra })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a comparison of results cannot see, and what it sees rarely. The words are GNU as's.
    #[test]
    fn instructions() {
        let none = Access::empty();
        let (w, x, zero) = (Width::W, Width::X, Extension::Zero);
        for (word, text, op) in [
            (0xd2d7_dde1, "mov x1, #0xbeef00000000", Op::Movz { rd: 1, value: 0xbeef_0000_0000 }),
            (0x1280_0022, "mov w2, #-2", Op::Movz { rd: 2, value: 0xffff_fffe }),
            (0x2a1f_03e4, "mov w4, wzr", Op::Mov { width: w, rd: 4, rm: 31 }),
            (0xd100_43ff, "sub sp, sp, #16", Op::AddImm { width: x, rd: 31, rn: 31, imm: (-16i64) as u64 }),
            (0xf100_143f, "cmp x1, #5", Op::AddsImm { width: x, rd: 31, rn: 1, carry: true, imm: !5 }),
            (
                0x920c_9c41,
                "and x1, x2, #0xff00ff00ff00ff0",
                Op::LogicalImm { width: x, op: Logical::And, rd: 1, rn: 2, imm: 0x0ff0_0ff0_0ff0_0ff0 },
            ),
            (
                0x5201_0441,
                "eor w1, w2, #0x80000001",
                Op::LogicalImm { width: w, op: Logical::Eor, rd: 1, rn: 2, imm: 0x8000_0001 },
            ),
            (0xd37c_ec41, "lsl x1, x2, #4", Op::Ubfm { rd: 1, rn: 2, left: 4, right: 0 }),
            (0x1304_7c41, "asr w1, w2, #4", Op::Sbfm { width: w, rd: 1, rn: 2, left: 32, right: 36 }),
            (0x3318_0c41, "bfi w1, w2, #8, #4", Op::Bfm { width: w, rd: 1, rn: 2, left: 60, right: 52 }),
            (0x17ff_ffff, "b .-4", Op::B { offset: -4 }),
            (0xb708_0041, "tbnz x1, #33, .+8", Op::Tbz { nonzero: true, rt: 1, bit: 33, offset: 8 }),
            (
                0xf97f_ffe1,
                "ldr x1, [sp, #32760]",
                Op::Load { size: Size::B8, extension: zero, access: Access::STACK, rt: 1, rn: 31, offset: 32760 },
            ),
            (
                0x3840_7841,
                "ldtrb w1, [x2, #7]",
                Op::Load { size: Size::B1, extension: zero, access: Access::UNPRIVILEGED, rt: 1, rn: 2, offset: 7 },
            ),
            (
                0xa820_0be1,
                "stnp x1, x2, [sp, #-512]",
                Op::StorePair {
                    size: Size::B8,
                    access: Access::STACK,
                    index: Index::Offset,
                    rt: 1,
                    rt2: 2,
                    rn: 31,
                    offset: -512,
                },
            ),
            (
                0xc87f_8861,
                "ldaxp x1, x2, [x3]",
                Op::LoadPair {
                    size: Size::B8,
                    extension: zero,
                    access: Access::ACQUIRE | Access::EXCLUSIVE,
                    index: Index::Offset,
                    rt: 1,
                    rt2: 2,
                    rn: 3,
                    offset: 0,
                },
            ),
            (
                0xc801_fc62,
                "stlxr w1, x2, [x3]",
                Op::StoreExclusive { size: Size::B8, access: Access::RELEASE | Access::EXCLUSIVE, rs: 1, rt: 2, rn: 3 },
            ),
            (
                0x885f_7c62,
                "ldxr w2, [x3]",
                Op::Load { size: Size::B4, extension: zero, access: Access::EXCLUSIVE, rt: 2, rn: 3, offset: 0 },
            ),
            (
                0x889f_fc62,
                "stlr w2, [x3]",
                Op::Store { size: Size::B4, access: Access::RELEASE, rt: 2, rn: 3, offset: 0 },
            ),
            (
                0x88df_7c62,
                "ldlar w2, [x3]",
                Op::Load { size: Size::B4, extension: zero, access: Access::ACQUIRE, rt: 2, rn: 3, offset: 0 },
            ),
            (
                0x88e1_fc62,
                "casal w1, w2, [x3]",
                Op::Cas { size: Size::B4, access: Access::ACQUIRE | Access::RELEASE, rs: 1, rt: 2, rn: 3 },
            ),
            (
                0x88a1_fc62,
                "casl w1, w2, [x3]",
                Op::Cas { size: Size::B4, access: Access::RELEASE, rs: 1, rt: 2, rn: 3 },
            ),
            (
                0x4862_7fe4,
                "caspa x2, x3, x4, x5, [sp]",
                Op::Casp { size: Size::B8, access: Access::ACQUIRE | Access::STACK, rs: 2, rt: 4, rn: 31 },
            ),
            (
                0xb8e1_005f,
                "ldaddal w1, wzr, [x2]: does not acquire",
                Op::Atomic { size: Size::B4, access: Access::RELEASE, op: Rmw::Add, rs: 1, rt: 31, rn: 2 },
            ),
            (
                0x38a1_8062,
                "swpab w1, w2, [x3]",
                Op::Atomic { size: Size::B1, access: Access::ACQUIRE, op: Rmw::Swp, rs: 1, rt: 2, rn: 3 },
            ),
            (
                0x78bf_c041,
                "ldaprh w1, [x2]",
                Op::Load { size: Size::B2, extension: zero, access: Access::ACQUIRE_PC, rt: 1, rn: 2, offset: 0 },
            ),
            (
                0xd91f_8041,
                "stlur x1, [x2, #-8]",
                Op::Store { size: Size::B8, access: Access::RELEASE, rt: 1, rn: 2, offset: -8 },
            ),
            (
                0x7823_d841,
                "strh w1, [x2, w3, sxtw #1]",
                Op::StoreReg { size: Size::B2, access: none, rt: 1, rn: 2, rm: 3, extend: Extend::Sxtw, amount: 1 },
            ),
            (0xf980_0420, "prfm pldl1keep, [x1, #8]", Op::Nop),
            (0xd538_4241, "mrs x1, currentel", Op::Mrs { rt: 1, reg: SysReg::new(3, 0, 4, 2, 2) }),
            (0xd518_201f, "msr ttbr0_el1, xzr", Op::Msr { rt: 31, reg: SysReg::new(3, 0, 2, 0, 0) }),
            (0xd500_41bf, "msr spsel, #1", Op::MsrImm { field: PstateField::SpSel, imm: 1 }),
            (0xd503_4fdf, "msr daifset, #15", Op::MsrImm { field: PstateField::DaifSet, imm: 15 }),
            (0xd508_8321, "tlbi vae1is, x1", Op::Sys { rt: 1, op: SysOp::new(0, 8, 3, 1) }),
            (0xd50b_7421, "dc zva, x1", Op::Sys { rt: 1, op: SysOp::new(3, 7, 4, 1) }),
            (0xd528_7802, "sysl x2, #0, C7, C8, #0", Op::Sysl { rt: 2, op: SysOp::new(0, 7, 8, 0) }),
            (0xd503_3a9f, "dsb ishst", dsb(Domain::InnerShareable, Types::Writes, false)),
            (0xd503_379f, "dsb nsh", dsb(Domain::NonShareable, Types::All, false)),
            (0xd503_3f9f, "dsb sy", dsb(Domain::FullSystem, Types::All, false)),
            (0xd503_3a3f, "dsb ishnxs", dsb(Domain::InnerShareable, Types::All, true)),
            (0xd503_389f, "dsb #8: reserved", dsb(Domain::FullSystem, Types::All, false)),
            (
                0xd503_31bf,
                "dmb oshld",
                Op::Barrier(Barrier::Dmb { domain: Domain::OuterShareable, types: Types::Reads }),
            ),
            (0xd503_3fdf, "isb", Op::Barrier(Barrier::Isb)),
            (0xd503_30ff, "sb", Op::Barrier(Barrier::Sb)),
            (0xd503_245f, "bti c", Op::Nop),
            (0xd503_233f, "paciasp", Op::Nop),
            (0xd503_207f, "wfi", Op::Hint(Hint::Wfi)),
            (0xd503_2fff, "hint #127", Op::Hint(Hint::Mark)),
            (0xd400_0022, "hvc #1", Op::Call(Call::Hvc(1))),
            (0xd45e_0000, "hlt #0xf000", Op::Call(Call::Hlt(0xf000))),
            (0xd69f_03e0, "eret", Op::Eret),
            (0x0000_0007, "udf #7", Op::Udf(7)),
        ] {
            assert_eq!(decode(word), op, "{word:#010x} {text}");
        }
    }

    fn dsb(domain: Domain, types: Types, nxs: bool) -> Op {
        Op::Barrier(Barrier::Dsb { domain, types, nxs })
    }

    #[test]
    fn unknown() {
        for (word, text) in [
            (0x0001_0000, "not UDF"),
            (0xffff_ffff, "unallocated"),
            (0xa940_0421, "ldp x1, x1, [x1]: one register twice"),
            (0xa8c1_0821, "ldp x1, x2, [x1], #16: loads what it writes back"),
            (0xf840_8421, "ldr x1, [x1], #8: loads what it writes back"),
            (0xc801_7c61, "stxr w1, x1, [x3]: the status is the data"),
            (0xc803_7c61, "stxr w3, x1, [x3]: the status is the address"),
            (0x4861_7c62, "casp with an odd register"),
            (0x3dc0_1be1, "ldr q1, [sp, #96]"),
            (0x1e60_2820, "fadd d0, d1, d0"),
            (0x0460_3000, "orr z0.d, z0.d, z0.d"),
            (0xd65f_0bff, "retaa"),
            (0xf820_0421, "ldraa x1, [x1]"),
            (0xd920_0820, "stg x0, [x1]"),
            (0x1240_0000, "and w0, w0 with a 64-bit element"),
            (0x9200_fc00, "and x0, x0 with an element of only ones"),
            (0xd300_0000, "ubfm with sf and not N"),
            (0x0bc0_0000, "add w0, w0, w0, ror #0"),
            (0x0b00_8000, "add w0, w0, w0, lsl #32"),
            (0xd4a0_0001, "dcps1: UNDEFINED outside Debug state"),
        ] {
            assert_eq!(decode(word), Op::Unknown(word), "{word:#010x} {text}");
        }
    }

    /// All logical immediates there are, by construction: 5334 different ones of 64 bits, 1302 of them of 32.
    #[test]
    fn logical_immediates() {
        let decoded = |width, ns: &[bool]| {
            let mut values = std::collections::BTreeSet::new();
            for (n, imms, immr) in ns.iter().flat_map(|n| (0..4096).map(move |i| (*n, i >> 6, i & 63))) {
                values.extend(bit_mask(width, n, imms, immr));
            }
            values
        };
        let constructed = |bits: u32| {
            let mut values = std::collections::BTreeSet::new();
            for log in 1..=bits.ilog2() {
                let element = 1 << log;
                for (ones, rotate) in (1..element).flat_map(|ones| (0..element).map(move |rotate| (ones, rotate))) {
                    let bit = |n: u32| u64::from((n + rotate) % element < ones) << n;
                    values.insert((0..bits).fold(0, |value, n| value | bit(n)));
                }
            }
            values
        };
        let (wide, narrow) = (constructed(64), constructed(32));
        assert_eq!((wide.len(), narrow.len()), (5334, 1302));
        assert_eq!(decoded(Width::X, &[false, true]), wide);
        assert_eq!(decoded(Width::W, &[false, true]), narrow);
    }
}
