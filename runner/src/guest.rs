//! What boots: the Image of the hypervisor, the payloads, and the bundle that carries them with a plan.
//!
//! Image and payloads are built with the runner (`build.rs`) and are part of the binary. The bundle is a newc
//! archive, the form in which every boot loader can hand over an initrd.

use std::{
    collections::BTreeSet,
    io::{self, Cursor},
};

use cpio::newc::{self, ModeFileType};
use sha2::{Digest as _, Sha256};
use vmsa::{Instance, instance::Payload};

/// The commit this tool was built from, abbreviated, or `unknown`.
pub const REVISION: &str = env!("SHATTER_REVISION");

/// The hypervisor: a flat, position-independent arm64 Image, entered at EL2 with the DTB's address in x0.
pub static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/Image"));

/// The payloads by name, each with a checked [`wire::abi::Header`].
pub static PAYLOADS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/payloads.rs"));

/// SHA-256 of `image` and all payloads, in hexadecimal: results with the same hash come from the same guests.
#[must_use]
pub fn hash(image: &[u8]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(image);
    for (name, payload) in PAYLOADS {
        hasher.update(name);
        hasher.update(payload);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether `image` has the header of an arm64 Image, by which boot loaders know one.
#[must_use]
pub fn is_image(image: &[u8]) -> bool {
    const MAGIC: usize = 0x38;
    image.get(MAGIC..MAGIC + 4) == Some(b"ARM\x64")
}

/// The bundle for `plan`, with the payloads that `instances` need.
///
/// # Errors
/// None that can happen with the embedded payloads; the archive's writer reports through [`io::Error`].
pub fn bundle(plan: &str, instances: &[Instance]) -> io::Result<Vec<u8>> {
    let wanted: BTreeSet<Payload> = instances.iter().map(|instance| instance.family().payload()).collect();
    let mut entries = vec![(entry("plan"), Cursor::new(plan.as_bytes()))];
    for (name, payload) in PAYLOADS {
        if wanted.iter().any(|payload| payload.name() == *name) {
            entries.push((entry(&format!("payload/{name}")), Cursor::new(payload)));
        }
    }
    cpio::write_cpio(entries.into_iter(), Vec::new())
}

fn entry(name: &str) -> newc::Builder {
    newc::Builder::new(name).mode(0o644).set_mode_file_type(ModeFileType::Regular)
}

#[cfg(test)]
mod tests {
    use vmsa::instance::Family;

    use super::*;

    #[test]
    fn every_family_has_a_payload_that_hv_will_take() {
        assert_eq!(PAYLOADS.len(), Payload::ALL.len());
        for family in Family::ALL {
            let wanted = family.payload().name();
            let (_, payload) = PAYLOADS.iter().find(|(name, _)| *name == wanted).expect("one of this name");
            wire::abi::Header::check(payload).expect("build.rs sealed it");
        }
    }

    #[test]
    fn our_image_has_the_header_and_a_hash_of_its_own() {
        assert!(is_image(IMAGE) && !is_image(&IMAGE[..0x3b]) && !is_image(b"\x7fELF"));
        assert_eq!(hash(IMAGE).len(), 64);
        assert_ne!(hash(IMAGE), hash(&IMAGE[1..]));
    }

    #[test]
    fn a_bundle_has_the_plan_and_only_the_payloads_it_needs() {
        let instances = ["selftest.quiet".parse().expect("a valid id")];
        let bundle = bundle("the plan", &instances).expect("no I/O here");
        let mut reader = Cursor::new(bundle);
        let mut names = Vec::new();
        loop {
            let file = newc::Reader::new(reader).expect("a valid archive");
            if file.entry().is_trailer() {
                break;
            }
            names.push(file.entry().name().to_owned());
            reader = file.finish().expect("a valid archive");
        }
        assert_eq!(names, ["plan", "payload/selftest"]);
    }
}
