//! Builds what boots, and puts it into the runner.
//!
//! `shatter` is one file that runs on a lab machine without Rust: the Image of the hypervisor and the payloads ride
//! in it. They are built here, by a cargo of their own: for the bare-metal target, always with a profile of their own,
//! and free of whatever flags and wrappers (clippy, coverage, sanitizers) this build happens to use. The linker's
//! ELF files are then flattened. Both kinds of guest run wherever they are loaded and relocate themselves, so the
//! only relocations they may carry are R_AARCH64_RELATIVE; anything else is refused here rather than met at EL2.

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, exit},
};

use object::{
    Endianness, elf,
    read::elf::{ElfFile64, ProgramHeader as _, SectionHeader as _},
};
use wire::abi::{HEADER_LEN, Header};

const TARGET: &str = "aarch64-unknown-none-softfloat";

/// Position independent code; how it is linked, the guests' own build scripts say.
const RUSTFLAGS: &str = "-Crelocation-model=pic";

/// The profile of the workspace that is for guests.
const PROFILE: &str = "guest";

/// The payloads, each a binary of the package `shatter-cases`.
const PAYLOADS: &[&str] = &["rounds", "selftest"];

type Result<T> = std::result::Result<T, String>;

fn main() {
    if let Err(message) = build() {
        eprintln!("failed to build the guests: {message}");
        exit(1);
    }
}

fn build() -> Result<()> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..");
    // Besides sources these hold the linker scripts.
    for watched in ["harness", "hv", "cases", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", root.join(watched).display());
    }
    println!("cargo:rustc-env=SHATTER_REVISION={}", revision(&root));

    ensure_target()?;
    let elves = compile(&root, &out)?;

    let image = flatten(&elves.join("hv"))?.bytes;
    check_image(&image)?;
    store(&out.join("Image"), &image)?;

    let mut payloads = String::from("&[\n");
    for name in PAYLOADS {
        let payload = seal(flatten(&elves.join(name))?).map_err(|e| format!("payload {name}: {e}"))?;
        let path = out.join(name);
        store(&path, &payload)?;
        writeln!(payloads, "    ({name:?}, include_bytes!({path:?}).as_slice()),").map_err(|e| e.to_string())?;
    }
    payloads.push(']');
    store(&out.join("payloads.rs"), payloads.as_bytes())
}

fn variable(name: &str) -> Result<OsString> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set: this program is run by cargo"))
}

fn store(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|e| format!("{}: {e}", path.display()))
}

/// The commit that is built, for result files; `unknown` outside a git checkout.
fn revision(root: &Path) -> String {
    // A path that does not exist would make cargo run this program every time.
    for file in [".git/HEAD", ".git/logs/HEAD"].map(|f| root.join(f)) {
        if file.exists() {
            println!("cargo:rerun-if-changed={}", file.display());
        }
    }
    let output = Command::new("git").arg("-C").arg(root).args(["rev-parse", "--short=12", "HEAD"]).output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// Adds the bare-metal target to this toolchain if it is not there.
fn ensure_target() -> Result<()> {
    let rustc = variable("RUSTC")?;
    let output = Command::new(&rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .map_err(|e| format!("{}: {e}", rustc.display()))?;
    if !output.status.success() {
        return Err(format!("this rustc does not know {TARGET}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    if Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir() {
        return Ok(());
    }
    let by_hand = format!("add it by hand with `rustup target add {TARGET}`, then build again");
    println!("cargo:warning=adding the Rust target {TARGET} with rustup");
    match Command::new("rustup").args(["target", "add", TARGET]).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "rustup could not add the target {TARGET}; is the network up? {by_hand}\n{}",
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(_) => Err(format!(
            "the Rust target {TARGET} is missing and rustup is not on the PATH. Install rustup from \
             https://rustup.rs and {by_hand}; with a distribution's Rust, install its package for this target"
        )),
    }
}

/// Builds hv and the payloads, and returns the directory of their ELF files.
fn compile(root: &Path, out: &Path) -> Result<PathBuf> {
    let target_dir = out.join("guest");
    let mut cargo = Command::new(variable("CARGO")?);
    for (name, _) in env::vars_os() {
        if leaks(&name.to_string_lossy()) {
            cargo.env_remove(name);
        }
    }
    cargo
        .current_dir(root)
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS)
        .env("CARGO_TARGET_DIR", &target_dir)
        .args(["build", "--profile", PROFILE, "--target", TARGET, "--bins", "--color", "never"])
        .args(["-p", "shatter-hv", "-p", "shatter-cases", "--features", "shatter-cases/payload"]);
    if root.join("Cargo.lock").exists() {
        cargo.arg("--locked");
    }
    let output = cargo.output().map_err(|e| format!("cargo: {e}"))?;
    if !output.status.success() {
        return Err(format!("their cargo says:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(target_dir.join(TARGET).join(PROFILE))
}

/// Whether a variable of this build would change the guests' build. What says which rustc and cargo these are and how
/// they reach the network, and the jobserver that keeps both builds within one number of jobs, stay.
fn leaks(name: &str) -> bool {
    const PREFIXES: [&str; 9] = [
        "CARGO_PKG_",
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_MANIFEST_",
        "CARGO_BUILD_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "CARGO_INCREMENTAL",
        "RUSTC_",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || matches!(name, "RUSTFLAGS" | "CARGO_ENCODED_RUSTFLAGS" | "RUSTDOC" | "RUSTDOCFLAGS" | "__CARGO_FIX_PLZ")
}

/// What an ELF file asks to be loaded.
struct Flat {
    /// As it lies in memory from address 0.
    bytes: Vec<u8>,
    /// The lowest address that a relocation writes.
    relocated: u64,
}

fn flatten(path: &Path) -> Result<Flat> {
    let at = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let data = fs::read(path).map_err(|e| at(&e))?;
    let file = ElfFile64::<Endianness>::parse(&*data).map_err(|e| at(&e))?;
    let endian = file.endian();
    let mut relocated = u64::MAX;

    for section in file.elf_section_table().iter() {
        let Some((relocations, _)) = section.rela(endian, &*data).map_err(|e| at(&e))? else { continue };
        for relocation in relocations {
            relocated = relocated.min(relocation.r_offset.get(endian));
            let kind = relocation.r_type(endian, false);
            if kind != elf::R_AARCH64_RELATIVE {
                let offset = relocation.r_offset.get(endian);
                return Err(at(&format!(
                    "relocation of type {kind} at {offset:#x}; only R_AARCH64_RELATIVE is applied"
                )));
            }
        }
    }

    let mut flat = Vec::new();
    for segment in file.elf_program_headers() {
        if segment.p_type(endian) != elf::PT_LOAD || segment.p_filesz(endian) == 0 {
            continue;
        }
        let bytes = segment.data(endian, &*data).map_err(|()| at(&"a segment lies outside the file"))?;
        let start = usize::try_from(segment.p_vaddr(endian)).map_err(|e| at(&e))?;
        // Guests are linked at 0 and are small; an address out of this range is a linker script gone wrong.
        const LIMIT: usize = 16 << 20;
        let end = start.checked_add(bytes.len()).filter(|end| *end <= LIMIT);
        let end = end.ok_or_else(|| at(&format!("a segment at {start:#x}, which is not near 0")))?;
        if flat.len() < end {
            flat.resize(end, 0);
        }
        flat[start..end].copy_from_slice(bytes);
    }
    Ok(Flat { bytes: flat, relocated })
}

/// Checks the arm64 boot protocol's header, without which QEMU and boot loaders do not take the Image for one.
fn check_image(image: &[u8]) -> Result<()> {
    const MAGIC: (usize, [u8; 4]) = (56, *b"ARM\x64");
    const SIZE: usize = 16;
    let header = image.get(..64).ok_or("hv's Image is shorter than its header")?;
    if header[MAGIC.0..][..4] != MAGIC.1 {
        return Err("hv's Image does not start with an arm64 Image header".into());
    }
    let size = u64::from_le_bytes(header[SIZE..][..8].try_into().map_err(|_| "unreachable: eight bytes")?);
    if size < image.len() as u64 {
        return Err(format!("hv's header says {size} bytes of memory, but the Image alone has {}", image.len()));
    }
    Ok(())
}

/// Stores the checksum into a payload's header and checks the result as hv will.
fn seal(Flat { bytes: mut payload, relocated }: Flat) -> Result<Vec<u8>> {
    const IMAGE_SIZE: usize = 8;
    let size = payload.get(IMAGE_SIZE..IMAGE_SIZE + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    let size = size.filter(|size| *size >= payload.len() as u64).ok_or("its header's image_size is too small")?;
    // The linker script may round the image's end up; an ELF segment ends at its last byte.
    payload.resize(usize::try_from(size).map_err(|e| e.to_string())?, 0);
    let body = payload.get(HEADER_LEN..).ok_or("it is shorter than its header")?;
    let crc = wire::frame::crc32(body);
    payload[Header::CRC_OFFSET..][..4].copy_from_slice(&crc.to_le_bytes());
    let header = Header::check(&payload).map_err(|e| e.to_string())?;
    // It would relocate itself into a fault.
    if relocated < header.writable {
        return Err(format!(
            "a relocation at {relocated:#x}, but only what is behind {:#x} is writable",
            header.writable
        ));
    }
    Ok(payload)
}
