//! Links hv as a flat, position-independent image; nothing on hosts, where the crate is empty.

fn main() {
    let os = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if os == "none" {
        let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        for arg in [&format!("-T{dir}/hv.ld"), "-pie", "--no-dynamic-linker", "-znotext", "-znorelro"] {
            println!("cargo:rustc-link-arg-bins={arg}");
        }
    }
    println!("cargo:rerun-if-changed=hv.ld");
}
