//! Self-relocation: what a position-independent flat image does before any other Rust code runs.
//!
//! The images are linked at 0 with `-pie`; the only relocations left are R_AARCH64_RELATIVE, which the build
//! checks. They are applied with the MMU off, so the stores go to memory past any cache; lines that a cache
//! holds of the range since before are the caller's to invalidate.

use core::arch::naked_asm;

/// Applies the RELA section between `rela` and `rela_end` (absolute addresses) for an image that stands at `base`.
///
/// Uses no stack and clobbers x0 and x3 to x5 only, so that entry code can call it before there is anything.
///
/// # Safety
/// The range holds the image's own R_AARCH64_RELATIVE relocations, each for a word inside the image, and they have
/// not been applied yet.
#[unsafe(naked)]
pub unsafe extern "C" fn relocate_image(rela: u64, rela_end: u64, base: u64) {
    naked_asm!(include_str!("relocate.S"))
}
