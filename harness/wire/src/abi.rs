//! Between hv and a payload.
//!
//! A payload is a flat, position-independent image. It starts with a [`HEADER_LEN`]-byte header, is loaded
//! at a 2 MiB boundary of its VM's private memory and entered at EL1 with the MMU off and the address of
//! its [`VmInfo`] in x0. IPA equals PA in every stage 2 mode, so that a payload runs the same with stage 2
//! off. It calls hv by HVC, with SMCCC numbers in the vendor hypervisor service range.

use vmsa::outcome::Phase;

/// First bytes of a payload image: magic and format version.
pub const HEADER_MAGIC: [u8; 8] = *b"SHPAYLD2";
/// Bytes of the header: magic, then five little-endian u64, the CRC-32 of all that follows the header, and one more u64.
pub const HEADER_LEN: usize = 64;

/// The header of a payload image.
///
/// Layout, little-endian: `0` magic, `8` image_size, `16` memory_size, `24` entry, `32` rela, `40` rela_end
/// (both offsets of the RELA section, applied by the payload itself), `48` CRC-32 of `image[64..image_size]`
/// as u32, `52` zero, `56` writable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Bytes of the image, header included, that are loaded.
    pub image_size: u64,
    /// Bytes of memory from the image's start to the end of its zero-initialised data.
    pub memory_size: u64,
    /// Offset of the first instruction.
    pub entry: u64,
    /// Offset of the first byte that the payload writes, a multiple of 4096. Stage 2 maps what is in front of it for
    /// reading only, so that the next VM can have it as it is.
    pub writable: u64,
    /// CRC-32 of the image behind the header.
    pub crc: u32,
}

/// Why an image is not a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderError {
    /// Shorter than its header, or than the size that the header states.
    Short,
    /// Does not start with the magic.
    Magic,
    /// Sizes contradict each other, or the entry lies outside.
    Sizes,
    /// The contents do not match the checksum.
    Crc,
}

impl core::fmt::Display for HeaderError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Short => "it is cut short",
            Self::Magic => "it does not start with SHPAYLD2",
            Self::Sizes => "its header contradicts itself",
            Self::Crc => "its checksum does not match",
        })
    }
}

impl core::error::Error for HeaderError {}

fn word(image: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(image.get(offset..offset + 8)?.try_into().ok()?))
}

impl Header {
    /// Reads and checks the header of `image`, and the whole image against its checksum.
    pub fn check(image: &[u8]) -> Result<Self, HeaderError> {
        let short = HeaderError::Short;
        if image.get(..8).ok_or(short)? != HEADER_MAGIC {
            return Err(HeaderError::Magic);
        }
        let header = Self {
            image_size: word(image, 8).ok_or(short)?,
            memory_size: word(image, 16).ok_or(short)?,
            entry: word(image, 24).ok_or(short)?,
            writable: word(image, 56).ok_or(short)?,
            crc: word(image, 48).ok_or(short)? as u32,
        };
        if header.image_size > header.memory_size
            || header.entry >= header.image_size
            || header.image_size < HEADER_LEN as u64
            || header.writable > header.image_size
            || !header.writable.is_multiple_of(4096)
        {
            return Err(HeaderError::Sizes);
        }
        let body = image.get(HEADER_LEN..header.image_size as usize).ok_or(short)?;
        if crate::frame::crc32(body) != header.crc {
            return Err(HeaderError::Crc);
        }
        Ok(header)
    }

    /// Offset of the checksum; whoever links a payload stores it there, as u32, little-endian.
    pub const CRC_OFFSET: usize = 48;
}

/// Most vCPUs of a VM.
pub const MAX_VCPUS: usize = 8;

/// Most bytes of private memory that an instance may need ([`Needs::private_size`](vmsa::instance::Needs)).
pub const MAX_PRIVATE_SIZE: u64 = 4 << 20;

/// What hv tells a payload; stands in the last page of the private memory.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct VmInfo {
    /// [`VmInfo::MAGIC`].
    pub magic: u64,
    /// Base of the private memory, in bytes.
    pub private_base: u64,
    /// Size of the private memory, in bytes.
    pub private_size: u64,
    /// Base of the frames the window maps to, in bytes.
    pub frames_base: u64,
    /// Size of one frame, in bytes.
    pub frame_size: u64,
    /// How many frames.
    pub frames: u64,
    /// How many vCPUs.
    pub vcpus: u64,
    /// MPIDR_EL1 (affinity fields only) of each vCPU, for PSCI CPU_ON; index 0 is the one that boots.
    pub mpidr: [u64; MAX_VCPUS],
    /// Rounds to run.
    pub rounds: u64,
    /// Seed of every random choice.
    pub seed: u64,
    /// Counter ticks the payload should take at most; it stops early and says how many rounds it made.
    pub budget_ticks: u64,
    /// IPA of the window, where it is stage 2 that changes; else 0.
    pub window_ipa: u64,
    /// Length of the id in bytes.
    pub id_len: u64,
    /// The instance's id.
    pub id: [u8; vmsa::instance::MAX_ID],
}

impl VmInfo {
    /// First word of a valid page.
    pub const MAGIC: u64 = u64::from_le_bytes(*b"SHVMINF2");
}

/// Part of a round, as a simulator counts what each costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// What brings VM and vCPU up, and tells the result.
    Frame,
    /// Fills the TLB, and lets the round begin.
    Prime,
    /// The steps of the sequence, with the waits in front of them.
    Sequence,
    /// Changes back.
    Restore,
    /// An observer's accesses, and what is counted of them.
    Access,
    /// Waits for another vCPU.
    Wait,
}

impl Part {
    /// All of them, by their numbers.
    pub const ALL: [Self; 6] = [Self::Frame, Self::Prime, Self::Sequence, Self::Restore, Self::Access, Self::Wait];
}

/// Lowest bit of the [`Part`]'s number in a [`phase_word`].
const PART_SHIFT: u32 = 8;

/// What a vCPU keeps in TPIDR_EL0, so that hv knows the phase of a conflict abort that is taken at EL2: in bits 7 to 0
/// nothing before any phase, then the phase's number plus one; above them the number of the part of the round, for
/// whoever simulates the PE.
#[must_use]
pub const fn phase_word(phase: Phase, part: Part) -> u64 {
    (phase as u64 + 1) | ((part as u64) << PART_SHIFT)
}

/// The phase of a [`phase_word`].
#[must_use]
pub fn phase_of(word: u64) -> Option<Phase> {
    Phase::from_number((word as u8).checked_sub(1)?)
}

/// The part of a [`phase_word`]; whatever it does not know is the [frame](Part::Frame).
#[must_use]
pub fn part_of(word: u64) -> Part {
    usize::try_from(word >> PART_SHIFT).ok().and_then(|part| Part::ALL.get(part)).copied().unwrap_or(Part::Frame)
}

/// Marks: what a payload tells whoever simulates the PE, by a HINT that is unallocated and so a NOP on every CPU.
///
/// x0 is one of these numbers, and tells what x1 to x3 are. Nothing answers, and no register changes.
pub mod mark {
    /// The HINT's immediate, CRm:op2.
    pub const HINT: u8 = 127;
    /// An instance begins: x1 = CRC-32 of its id, x2 = first address of its window, x3 = the window's size in bytes.
    pub const WINDOW: u64 = 1;
    /// This vCPU counts an outcome for the first time: x1 = number of the [`Phase`](vmsa::outcome::Phase), x2 = code of
    /// the [`Kind`](vmsa::outcome::Kind), x3 = the round, counted from 0.
    pub const FIRST: u64 = 2;
}

/// Hypercalls: SMCCC fast calls, 64-bit, vendor hypervisor service range. Arguments in x1.., result in x0:
/// 0 or a negative SMCCC error.
pub mod call {
    /// Hand in the report: x1 = address, x2 = length of a frame body (CBOR of [`Report`](crate::record::Report)
    /// followed by its CRC-32).
    pub const REPORT: u32 = 0xc600_0001;
    /// A line for the log: x1 = address, x2 = length of UTF-8 text without line end.
    pub const LOG: u32 = 0xc600_0002;
    /// The payload panicked: x1, x2 as for [`LOG`]. Does not return.
    pub const PANIC: u32 = 0xc600_0003;
    /// Inject a TLB conflict abort: x1 = place (a number of [`Place`](crate::record::Place)), x2 = FAR,
    /// x3 = ESR's ISS bits besides the FSC. Where the place is EL1, the abort is taken at the instruction after the HVC.
    pub const INJECT_CONFLICT: u32 = 0xc600_0004;
    /// EL1 could not clear a conflict with its own TLBIs: hv executes VMALLS12E1IS, or ALLE1IS if x1 is not 0.
    pub const RECOVER_CONFLICT: u32 = 0xc600_0005;

    /// Execute steps of a change that is hv's to make: x1 = number of the site, x2 and x3 = [letters](vmsa::sequence::Step::letter) of
    /// the steps, a byte each from the lowest, 0 behind the last, x4 = bytes into the site of the page that TLBIs by
    /// address name, x5 = turns of a loop in front of each step but the first, and [`LAB_BACK`] to take the change back.
    pub const LAB_STEPS: u32 = 0xc600_0006;
    /// Which vCPUs wait at EL2 for a change of stage 2, a bit each.
    pub const LAB_WAITING: u32 = 0xc600_0007;
    /// Make an access at EL2 to a window in EL2's own translation: x1 = number of the [`Access`](vmsa::instance::Access), x2 =
    /// VA, x3 = what a store stores. Returns besides x0: x1 = value, x2 = ESR_EL2 or 0, x3 = FAR_EL2, x4 = ELR_EL2, x5 = 1 if an
    /// exclusive did not store.
    pub const LAB_ACCESS: u32 = 0xc600_0008;
    /// Drop, on this PE, what EL2's TLB holds of the window's address x1: last-level entries only, or all if x2 is not 0.
    pub const LAB_DROP: u32 = 0xc600_0009;
    /// Make loads at EL2 from x1 pages besides the window.
    pub const LAB_PRESS: u32 = 0xc600_000a;
    /// Run this vCPU under the other VMID from here on, with the same stage 2 tables, or if x1 is 0 under its own again.
    pub const LAB_VMID: u32 = 0xc600_000b;
    /// The descriptor that maps x2 bytes into the site number x1 of a change that is hv's to make. Returns besides x0: x1 = the
    /// [marks](vmsa::mark::Marks) in it, x2 = itself.
    pub const LAB_MARKS: u32 = 0xc600_000c;
    /// A bit in x5 of [`LAB_STEPS`].
    pub const LAB_BACK: u64 = 1 << 32;

    /// Immediate of the HVC by which the payload's vectors report an exception they do not handle, with every
    /// register as it was. Does not return.
    pub const HVC_UNEXPECTED: u16 = 0xdead;
}
