//! Arithmetic: what instructions compute, without registers and memory.
//!
//! Flags are NZCV in bits 3 to 0. Operands of [`Width::W`] may have anything above bit 31, except where a function
//! says otherwise; results have zeros there.

use super::op::{
    AtomicOp, Binary, Condition, Extend, Extension, Logical, MultiplyLong, Rmw, Shift, Size, Unary, Width,
};

/// The flag V.
pub const V: u8 = 1 << 0;
/// The flag C.
pub const C: u8 = 1 << 1;
/// The flag Z.
pub const Z: u8 = 1 << 2;
/// The flag N.
pub const N: u8 = 1 << 3;

/// Bit `n` of entry `cond` says whether the condition holds for flags `n`.
const CONDITIONS: [u16; 16] = {
    let mut table = [0; 16];
    let mut cond = 0;
    while cond < 16 {
        let mut nzcv = 0u8;
        while nzcv < 16 {
            let (n, z, c, v) = (nzcv & N != 0, nzcv & Z != 0, nzcv & C != 0, nzcv & V != 0);
            let base = match cond >> 1 {
                0 => z,
                1 => c,
                2 => n,
                3 => v,
                4 => c && !z,
                5 => n == v,
                6 => n == v && !z,
                _ => true,
            };
            // AL and NV both hold always.
            if base != (cond & 1 == 1 && cond != 15) {
                table[cond] |= 1 << nzcv;
            }
            nzcv += 1;
        }
        cond += 1;
    }
    table
};

impl Condition {
    /// Whether it holds for these flags.
    #[inline]
    #[must_use]
    pub fn holds(self, nzcv: u8) -> bool {
        CONDITIONS[usize::from(self.0 & 15)] >> (nzcv & 15) & 1 != 0
    }
}

/// N and Z of a result, which has zeros above its width: the flags of a logical result.
#[inline]
#[must_use]
pub fn nz(width: Width, result: u64) -> u8 {
    let negative = (result >> (width.bits() - 1)) as u8 & 1;
    negative << 3 | u8::from(result == 0) << 2
}

/// The sum of two operands and a carry, and its flags: `AddWithCarry()`. Subtraction inverts the second operand.
#[inline]
#[must_use]
pub fn add_with_carry(width: Width, a: u64, b: u64, carry: bool) -> (u64, u8) {
    let (result, carried, overflow) = match width {
        Width::W => {
            let (a, b) = (a as u32, b as u32);
            let wide = u64::from(a) + u64::from(b) + u64::from(carry);
            let sum = wide as u32;
            (u64::from(sum), wide >> 32 != 0, (a ^ sum) & (b ^ sum) & 1 << 31 != 0)
        }
        Width::X => {
            let (sum, first) = a.overflowing_add(b);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            (sum, first | second, (a ^ sum) & (b ^ sum) & 1 << 63 != 0)
        }
    };
    (result, nz(width, result) | u8::from(carried) << 1 | u8::from(overflow))
}

/// `value` shifted by `amount`, which is less than the width.
#[inline]
#[must_use]
pub fn shift(width: Width, value: u64, shift: Shift, amount: u8) -> u64 {
    let amount = u32::from(amount);
    let narrow = value as u32;
    match (shift, width) {
        (Shift::Lsl, _) => width.truncate(value << amount),
        (Shift::Lsr, _) => width.truncate(value) >> amount,
        (Shift::Asr, Width::W) => u64::from((narrow as i32 >> amount) as u32),
        (Shift::Asr, Width::X) => (value as i64 >> amount) as u64,
        (Shift::Ror, Width::W) => u64::from(narrow.rotate_right(amount)),
        (Shift::Ror, Width::X) => value.rotate_right(amount),
    }
}

/// `value` extended, then shifted to the left by `amount` of 0 to 4.
#[inline]
#[must_use]
pub fn extend(value: u64, extend: Extend, amount: u8) -> u64 {
    let extended = match extend {
        Extend::Uxtb => Size::B1.truncate(value),
        Extend::Uxth => Size::B2.truncate(value),
        Extend::Uxtw => Size::B4.truncate(value),
        Extend::Uxtx | Extend::Sxtx => value,
        Extend::Sxtb => value as i8 as u64,
        Extend::Sxth => value as i16 as u64,
        Extend::Sxtw => value as i32 as u64,
    };
    extended << amount
}

/// A loaded element, which has zeros above its size, as the register gets it.
#[inline]
#[must_use]
pub fn extend_loaded(value: u64, size: Size, extension: Extension) -> u64 {
    let unused = 64 - size.bits();
    let signed = ((value << unused) as i64 >> unused) as u64;
    match extension {
        Extension::Zero => value,
        Extension::SignW => Width::W.truncate(signed),
        Extension::SignX => signed,
    }
}

/// A logical operation of two operands.
#[inline]
#[must_use]
pub fn logical(width: Width, op: Logical, a: u64, b: u64) -> u64 {
    width.truncate(match op {
        Logical::And => a & b,
        Logical::Orr => a | b,
        Logical::Eor => a ^ b,
    })
}

/// The instructions with one source.
#[inline]
#[must_use]
pub fn unary(width: Width, op: Unary, value: u64) -> u64 {
    let value = width.truncate(value);
    let unused = 64 - width.bits();
    match op {
        Unary::Rbit => value.reverse_bits() >> unused,
        Unary::Rev => value.swap_bytes() >> unused,
        Unary::Rev32 => value.swap_bytes().rotate_left(32),
        Unary::Rev16 => (value & 0x00ff_00ff_00ff_00ff) << 8 | value >> 8 & 0x00ff_00ff_00ff_00ff,
        Unary::Clz => u64::from(value.leading_zeros() - unused),
        // The sign's copies are the leading zeros of what differs from its higher neighbour; the sign itself has none.
        Unary::Cls => unary(width, Unary::Clz, value ^ shift(width, value, Shift::Asr, 1)) - 1,
    }
}

/// The instructions with two sources.
#[inline]
#[must_use]
pub fn binary(width: Width, op: Binary, a: u64, b: u64) -> u64 {
    let by = |kind| shift(width, a, kind, (b % u64::from(width.bits())) as u8);
    match (op, width) {
        (Binary::Udiv, _) => width.truncate(a).checked_div(width.truncate(b)).unwrap_or(0),
        (Binary::Sdiv, Width::W) if b as u32 == 0 => 0,
        (Binary::Sdiv, Width::W) => u64::from((a as i32).wrapping_div(b as i32) as u32),
        (Binary::Sdiv, Width::X) if b == 0 => 0,
        (Binary::Sdiv, Width::X) => (a as i64).wrapping_div(b as i64) as u64,
        (Binary::Lslv, _) => by(Shift::Lsl),
        (Binary::Lsrv, _) => by(Shift::Lsr),
        (Binary::Asrv, _) => by(Shift::Asr),
        (Binary::Rorv, _) => by(Shift::Ror),
        (Binary::Crc32(size), _) => u64::from(crc32(a as u32, b, size, 0xedb8_8320)),
        (Binary::Crc32c(size), _) => u64::from(crc32(a as u32, b, size, 0x82f6_3b78)),
    }
}

/// One step of a bit-reflected CRC: neither the accumulator nor the result is inverted.
fn crc32(accumulator: u32, value: u64, size: Size, polynomial: u32) -> u32 {
    let mut remainder = u64::from(accumulator) ^ size.truncate(value);
    for _ in 0..size.bits() {
        let odd = remainder & 1;
        remainder = (remainder >> 1) ^ (odd * u64::from(polynomial));
    }
    remainder as u32
}

/// The multiplications of W registers to an X register.
#[inline]
#[must_use]
pub fn multiply_long(op: MultiplyLong, n: u64, m: u64, accumulator: u64) -> u64 {
    let signed = (n as i32 as i64 as u64).wrapping_mul(m as i32 as i64 as u64);
    let unsigned = u64::from(n as u32) * u64::from(m as u32);
    match op {
        MultiplyLong::Smaddl => accumulator.wrapping_add(signed),
        MultiplyLong::Smsubl => accumulator.wrapping_sub(signed),
        MultiplyLong::Umaddl => accumulator.wrapping_add(unsigned),
        MultiplyLong::Umsubl => accumulator.wrapping_sub(unsigned),
    }
}

/// The high half of the product: SMULH and UMULH.
#[inline]
#[must_use]
pub fn multiply_high(signed: bool, a: u64, b: u64) -> u64 {
    if signed {
        ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
    } else {
        ((u128::from(a) * u128::from(b)) >> 64) as u64
    }
}

impl AtomicOp {
    /// What an access of `size` stores where memory holds `old`; nothing where a CAS fails.
    #[inline]
    #[must_use]
    pub fn apply(self, size: Size, old: u64, operand: u64) -> Option<u64> {
        let signed = |value| extend_loaded(size.truncate(value), size, Extension::SignX) as i64;
        let (old, operand) = (size.truncate(old), size.truncate(operand));
        let new = match self {
            Self::Cas { expected } if size.truncate(expected) != old => return None,
            Self::Cas { .. } | Self::Rmw(Rmw::Swp) => operand,
            Self::Rmw(Rmw::Add) => size.truncate(old.wrapping_add(operand)),
            Self::Rmw(Rmw::Clr) => old & !operand,
            Self::Rmw(Rmw::Eor) => old ^ operand,
            Self::Rmw(Rmw::Set) => old | operand,
            Self::Rmw(Rmw::Smax) => size.truncate(signed(old).max(signed(operand)) as u64),
            Self::Rmw(Rmw::Smin) => size.truncate(signed(old).min(signed(operand)) as u64),
            Self::Rmw(Rmw::Umax) => old.max(operand),
            Self::Rmw(Rmw::Umin) => old.min(operand),
        };
        Some(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_sums() {
        assert_eq!(add_with_carry(Width::X, u64::MAX, 1, false), (0, Z | C));
        assert_eq!(add_with_carry(Width::X, i64::MAX as u64, 1, false), (1 << 63, N | V));
        assert_eq!(add_with_carry(Width::W, 0x7fff_ffff, 0, true), (1 << 31, N | V));
        assert_eq!(add_with_carry(Width::W, 0xffff_ffff, 0xffff_ffff, true), (0xffff_ffff, N | C));
        // 5 - 5, 0 - 1 and INT_MIN - 1.
        assert_eq!(add_with_carry(Width::X, 5, !5, true), (0, Z | C));
        assert_eq!(add_with_carry(Width::X, 0, !1, true), (u64::MAX, N));
        assert_eq!(add_with_carry(Width::W, 1 << 31, !1, true), (0x7fff_ffff, C | V));
        // Neither half alone carries: only the carry in does.
        assert_eq!(add_with_carry(Width::X, u64::MAX, 0, true), (0, Z | C));
    }

    #[test]
    fn conditions() {
        let holding = |nzcv| (0..16).filter(|&c| Condition(c).holds(nzcv)).collect::<Vec<_>>();
        // EQ NE CS CC MI PL VS VC HI LS GE LT GT LE AL NV
        assert_eq!(holding(0), [1, 3, 5, 7, 9, 10, 12, 14, 15]);
        assert_eq!(holding(Z | C), [0, 2, 5, 7, 9, 10, 13, 14, 15]);
        assert_eq!(holding(N), [1, 3, 4, 7, 9, 11, 13, 14, 15]);
        assert_eq!(holding(C | V), [1, 2, 5, 6, 8, 11, 13, 14, 15]);
    }

    #[test]
    fn counts_and_reversals() {
        for (width, value, clz, cls) in [
            (Width::X, 0, 64, 63),
            (Width::X, u64::MAX, 0, 63),
            (Width::X, 1, 63, 62),
            (Width::X, 1 << 63, 0, 0),
            (Width::X, 1 << 62, 1, 0),
            (Width::X, 0b110 << 61, 0, 1),
            (Width::W, 0, 32, 31),
            (Width::W, 0xffff_ffff, 0, 31),
            (Width::W, 0xffff_fffe, 0, 30),
            (Width::W, 0xdead_0000_0000_0001, 31, 30),
            (Width::W, 0x8000_0000, 0, 0),
        ] {
            assert_eq!(unary(width, Unary::Clz, value), clz, "CLZ {width:?} {value:#x}");
            assert_eq!(unary(width, Unary::Cls, value), cls, "CLS {width:?} {value:#x}");
        }
        let value = 0x0123_4567_89ab_cdef;
        assert_eq!(unary(Width::X, Unary::Rev, value), 0xefcd_ab89_6745_2301);
        assert_eq!(unary(Width::W, Unary::Rev, value), 0xefcd_ab89);
        assert_eq!(unary(Width::X, Unary::Rev32, value), 0x6745_2301_efcd_ab89);
        assert_eq!(unary(Width::X, Unary::Rev16, value), 0x2301_6745_ab89_efcd);
        assert_eq!(unary(Width::W, Unary::Rev16, value), 0xab89_efcd);
        assert_eq!(unary(Width::W, Unary::Rbit, 0x8000_0001_0000_0003), 0xc000_0000);
    }

    #[test]
    fn divisions() {
        assert_eq!(binary(Width::X, Binary::Udiv, 7, 0), 0);
        assert_eq!(binary(Width::W, Binary::Sdiv, 7, 1 << 32), 0);
        assert_eq!(binary(Width::X, Binary::Sdiv, i64::MIN as u64, u64::MAX), i64::MIN as u64);
        assert_eq!(binary(Width::W, Binary::Sdiv, 0x8000_0000, 0xffff_ffff), 0x8000_0000);
        assert_eq!(binary(Width::W, Binary::Sdiv, -7i64 as u64, 2), 0xffff_fffd);
        assert_eq!(binary(Width::W, Binary::Udiv, 0xffff_ffff_0000_0009, 2), 4);
    }

    /// The check values of both polynomials: the CRC of "123456789".
    #[test]
    fn crcs() {
        for (op, check) in [(Binary::Crc32 as fn(Size) -> Binary, 0xcbf4_3926), (Binary::Crc32c, 0xe306_9283)] {
            let first = binary(Width::X, op(Size::B8), 0xffff_ffff, u64::from_le_bytes(*b"12345678"));
            let bytes = binary(Width::W, op(Size::B1), first, 0xabcd_ef00 | u64::from(b'9'));
            assert_eq!(bytes ^ 0xffff_ffff, check);
            let halves = b"12345678".chunks(2).fold(0xffff_ffff, |crc, c| {
                binary(Width::W, op(Size::B2), crc, u64::from(c[1]) << 8 | u64::from(c[0]))
            });
            assert_eq!(halves, first);
        }
    }

    #[test]
    fn atomics() {
        let apply = |op, size, old, operand| AtomicOp::Rmw(op).apply(size, old, operand);
        assert_eq!(apply(Rmw::Add, Size::B1, 0xff, 0x102), Some(1));
        assert_eq!(apply(Rmw::Clr, Size::B4, 0xff, 0x0f), Some(0xf0));
        assert_eq!(apply(Rmw::Smax, Size::B2, 0x8000, 1), Some(1));
        assert_eq!(apply(Rmw::Smin, Size::B2, 0x8000, 1), Some(0x8000));
        assert_eq!(apply(Rmw::Umax, Size::B2, 0x8000, 1), Some(0x8000));
        assert_eq!(AtomicOp::Cas { expected: 0x1_0000_0005 }.apply(Size::B4, 5, 9), Some(9));
        assert_eq!(AtomicOp::Cas { expected: 6 }.apply(Size::B4, 5, 9), None);
    }

    #[test]
    fn products() {
        assert_eq!(multiply_high(true, u64::MAX, u64::MAX), 0);
        assert_eq!(multiply_high(false, u64::MAX, u64::MAX), u64::MAX - 1);
        assert_eq!(multiply_long(MultiplyLong::Smaddl, u64::MAX, 3, 10), 7);
        assert_eq!(multiply_long(MultiplyLong::Umsubl, 0xffff_ffff, 1, 0), 0xffff_ffff_0000_0001);
    }
}
