//! Links the payloads as flat, position-independent images; nothing on hosts, where they are empty.

fn main() {
    let script = "../harness/payload/payload.ld";
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none") {
        let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        for arg in [&format!("-T{dir}/{script}"), "-pie", "--no-dynamic-linker", "-znotext", "-znorelro"] {
            println!("cargo:rustc-link-arg-bins={arg}");
        }
    }
    println!("cargo:rerun-if-changed={script}");
}
