//! What ID registers say, where hv and payloads both need it.

use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, Readable};

/// Encoding of 48 bits, the most that descriptors hold without FEAT_LPA2 and 52-bit addresses of the 64K granule.
const PA_RANGE_48: u64 = 0b101;

/// ID_AA64MMFR0_EL1.PARange as TCR_ELx.{IPS, PS} and VTCR_EL2.PS take it, at most 48 bits.
#[must_use]
pub fn pa_range() -> u64 {
    pa_range_of(ID_AA64MMFR0_EL1.get())
}

/// [`pa_range`] of a CPU with this ID_AA64MMFR0_EL1.
#[must_use]
pub const fn pa_range_of(mmfr0: u64) -> u64 {
    let range = mmfr0 & 0xf;
    if range < PA_RANGE_48 { range } else { PA_RANGE_48 }
}

/// Bits of a physical address that tables can give out, at most 48.
#[must_use]
pub fn pa_bits() -> u32 {
    bits(pa_range())
}

/// Bits of a physical address for an encoding of [`pa_range`].
#[must_use]
pub const fn bits(pa_range: u64) -> u32 {
    match pa_range {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => 48,
    }
}
