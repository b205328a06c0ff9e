//! Memory types, as a field of MAIR_ELx gives them (DDI 0487 D24.2 MAIR_EL1, B2.10).
//!
//! Two mappings whose memory type or Cacheability differs must never be live together (R_WHZWS). What counts is the
//! type and not the index: two indices of MAIR may hold the same. Allocation hints are no part of it, nor is the
//! Tagged attribute of FEAT_MTE2 (B2.11, on mismatched attributes, leaves out both); the XS attribute is.

use core::fmt;

/// Cacheability of Normal memory at one level of cache, without allocation hints.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cacheability {
    /// Non-cacheable.
    Non,
    /// Write-Through Cacheable.
    WriteThrough,
    /// Write-Back Cacheable.
    WriteBack,
}

/// Subtypes of Device memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[expect(non_camel_case_types, reason = "spelled as in the architecture")]
pub enum Device {
    /// No gathering, no reordering, no early write acknowledgement.
    nGnRnE,
    /// No gathering, no reordering.
    nGnRE,
    /// No gathering.
    nGRE,
    /// Gathering, reordering, early write acknowledgement.
    GRE,
}

/// A memory type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Type {
    /// Device memory.
    Device(Device),
    /// Normal memory.
    Normal {
        /// Inner Cacheability.
        inner: Cacheability,
        /// Outer Cacheability.
        outer: Cacheability,
    },
}

/// What one field of MAIR_ELx says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Memory {
    /// Type and Cacheability.
    pub kind: Type,
    /// The XS attribute of FEAT_XS; true where the encoding does not clear it.
    pub xs: bool,
}

/// AttrIndx of Normal memory, inner and outer Write-Back, Read- and Write-Allocate, in [`MAIR`].
pub const WRITE_BACK: u8 = 0;
/// AttrIndx of Device-nGnRE memory in [`MAIR`].
pub const DEVICE_NGNRE: u8 = 1;
/// AttrIndx of Device-nGnRnE memory in [`MAIR`].
pub const DEVICE_NGNRNE: u8 = 2;
/// AttrIndx of Normal memory, inner and outer Non-cacheable, in [`MAIR`].
pub const NON_CACHEABLE: u8 = 3;
/// AttrIndx of Normal memory, inner and outer Write-Through, in [`MAIR`].
pub const WRITE_THROUGH: u8 = 4;
/// AttrIndx of Normal memory, inner Write-Back and outer Non-cacheable, in [`MAIR`].
pub const OUTER_NON_CACHEABLE: u8 = 5;

/// MemAttr of a stage 2 descriptor for the memory that [`MAIR`] has at this index.
pub(crate) const fn stage2(attr_index: u8) -> u8 {
    match attr_index {
        DEVICE_NGNRNE => 0b0000,
        DEVICE_NGNRE => 0b0001,
        NON_CACHEABLE => 0b0101,
        OUTER_NON_CACHEABLE => 0b0111,
        WRITE_THROUGH => 0b1010,
        _ => 0b1111,
    }
}

/// MAIR_EL1 of every payload.
pub const MAIR: u64 = 0xff << (8 * WRITE_BACK)
    | 0x04 << (8 * DEVICE_NGNRE)
    | 0x00 << (8 * DEVICE_NGNRNE)
    | 0x44 << (8 * NON_CACHEABLE)
    | 0xbb << (8 * WRITE_THROUGH)
    | 0x4f << (8 * OUTER_NON_CACHEABLE);

impl Memory {
    /// The memory of an 8-bit field of MAIR_ELx; `None` if the encoding is UNPREDICTABLE.
    #[must_use]
    pub const fn from_attr(attr: u8) -> Option<Self> {
        const fn cacheability(bits: u8) -> Cacheability {
            match bits {
                0b0100 => Cacheability::Non,
                0b0000..=0b0011 | 0b1000..=0b1011 => Cacheability::WriteThrough,
                _ => Cacheability::WriteBack,
            }
        }
        const fn both(cacheability: Cacheability) -> Type {
            Type::Normal { inner: cacheability, outer: cacheability }
        }
        let (kind, xs) = match (attr >> 4, attr & 0xf) {
            (0, low @ (0b0000 | 0b0100 | 0b1000 | 0b1100 | 0b0001 | 0b0101 | 0b1001 | 0b1101)) => {
                let device = [Device::nGnRnE, Device::nGnRE, Device::nGRE, Device::GRE][(low >> 2) as usize];
                (Type::Device(device), low & 1 == 0)
            }
            (0b0100, 0) => (both(Cacheability::Non), false),
            (0b1010, 0) => (both(Cacheability::WriteThrough), false),
            // Tagged Normal memory, which is Write-Back, non-transient, and has XS clear as all such memory.
            (0b1111, 0) => (both(Cacheability::WriteBack), false),
            (0, _) | (_, 0) => return None,
            (outer, inner) => {
                let (inner, outer) = (cacheability(inner), cacheability(outer));
                let write_back = matches!((inner, outer), (Cacheability::WriteBack, Cacheability::WriteBack));
                (Type::Normal { inner, outer }, !write_back)
            }
        };
        Some(Self { kind, xs })
    }

    /// The memory that `mair` gives to index `index`, 0 to 7.
    #[must_use]
    pub const fn from_mair(mair: u64, index: u8) -> Option<Self> {
        Self::from_attr((mair >> (8 * (index & 7))) as u8)
    }

    /// Whether its Shareability is the descriptor's: Device and Normal Non-cacheable memory is Outer Shareable
    /// whatever SH says (R_PYFVQ).
    #[must_use]
    pub const fn has_shareability(self) -> bool {
        use Cacheability::Non;
        !matches!(self.kind, Type::Device(_) | Type::Normal { inner: Non, outer: Non })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const fn name(cacheability: Cacheability) -> &'static str {
            match cacheability {
                Cacheability::Non => "Non-cacheable",
                Cacheability::WriteThrough => "Write-Through",
                Cacheability::WriteBack => "Write-Back",
            }
        }
        match self.kind {
            Type::Device(device) => write!(f, "Device-{device:?}"),
            Type::Normal { inner, outer } if inner == outer => write!(f, "Normal {}", name(inner)),
            Type::Normal { inner, outer } => write!(f, "Normal inner {}, outer {}", name(inner), name(outer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, string::ToString};

    use super::*;

    #[test]
    fn usual_encodings() {
        for (attr, name) in [
            (0x00, "Device-nGnRnE"),
            (0x04, "Device-nGnRE"),
            (0x08, "Device-nGRE"),
            (0x0c, "Device-GRE"),
            (0x44, "Normal Non-cacheable"),
            (0xbb, "Normal Write-Through"),
            (0xff, "Normal Write-Back"),
            (0xf0, "Normal Write-Back"),
            (0x4f, "Normal inner Write-Back, outer Non-cacheable"),
        ] {
            assert_eq!(Memory::from_attr(attr).map(|memory| memory.to_string()).as_deref(), Some(name), "{attr:#x}");
        }
        for attr in [0x02, 0x03, 0x0f, 0x10, 0x80, 0xe0] {
            assert_eq!(Memory::from_attr(attr), None, "{attr:#x}");
        }
        assert_eq!(Memory::from_mair(0xff_00_44, 1), Memory::from_attr(0));
    }

    /// Hints and tags make no difference; XS does, where there is one.
    #[test]
    fn what_counts_is_the_type() {
        assert_eq!(Memory::from_attr(0xff), Memory::from_attr(0xf0));
        assert_eq!(Memory::from_attr(0xff), Memory::from_attr(0xee));
        assert_eq!(Memory::from_attr(0xbb), Memory::from_attr(0x22));
        assert_ne!(Memory::from_attr(0x44), Memory::from_attr(0x40));
        let all: BTreeSet<Memory> = (0..=u8::MAX).filter_map(Memory::from_attr).collect();
        // Four of Device and nine of Normal; of them Device, NC and WT in a form with XS clear too.
        assert_eq!(all.len(), 13 + 4 + 2);
    }
}
