//! The payload bundle: a newc cpio archive with `plan` and the payloads as `payload/NAME`.

use arrayvec::ArrayVec;
use vmsa::instance;
use wire::abi::{Header, HeaderError};

/// Payloads that a bundle can have.
const PAYLOADS: usize = instance::Payload::ALL.len();

/// A checked payload.
#[derive(Clone, Copy)]
pub(crate) struct Payload {
    pub(crate) name: instance::Payload,
    pub(crate) header: Header,
    pub(crate) image: &'static [u8],
}

/// A payload that is there but cannot be used.
#[derive(Clone, Copy)]
pub(crate) struct Damaged {
    pub(crate) name: instance::Payload,
    pub(crate) error: HeaderError,
}

/// What the archive holds.
pub(crate) struct Bundle {
    pub(crate) plan: Option<&'static [u8]>,
    pub(crate) payloads: ArrayVec<Payload, PAYLOADS>,
    pub(crate) damaged: ArrayVec<Damaged, PAYLOADS>,
    /// Whether the archive's end mark was reached; without it, it is cut short or broken.
    pub(crate) whole: bool,
}

impl Bundle {
    /// Reads `archive`; a broken entry ends the reading, which `whole` tells.
    pub(crate) fn read(archive: &'static [u8]) -> Self {
        let mut bundle = Self { plan: None, payloads: ArrayVec::new(), damaged: ArrayVec::new(), whole: false };
        // The reader stops silently at the end mark and at damage alike; only the end mark itself tells them apart.
        bundle.whole = archive.windows(END_MARK.len()).rev().any(|w| w == END_MARK);
        for entry in cpio_reader::iter_files(archive) {
            let name = entry.name().trim_start_matches("./");
            if name == "plan" {
                bundle.plan = Some(entry.file());
            }
            let Some(name) = name.strip_prefix("payload/").and_then(instance::Payload::parse) else { continue };
            match Header::check(entry.file()) {
                Ok(header) => drop(bundle.payloads.try_push(Payload { name, header, image: entry.file() })),
                Err(error) => drop(bundle.damaged.try_push(Damaged { name, error })),
            }
        }
        bundle
    }

    /// The payload of this name.
    pub(crate) fn payload(&self, name: instance::Payload) -> Option<&Payload> {
        self.payloads.iter().find(|p| p.name == name)
    }
}

const END_MARK: &[u8] = b"TRAILER!!!\0";
